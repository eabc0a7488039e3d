"""Two trainings of one model: one goes on, the other is refused."""

from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import defs
from assets.lib.model_slot import only_training
from assets.lib.settings import Settings
from assets.train import contrastive, dalle, dvae

STARTED = dg.DagsterRunStatus.STARTED


def refusal(result: dg.ExecuteInProcessResult, step: str) -> str:
    failure = result.failure_data_for_node(step)
    assert failure is not None
    assert failure.user_failure_data is not None
    return failure.user_failure_data.description or ""


@pytest.mark.parametrize("asset", [dvae, dalle, contrastive], ids=lambda asset: asset.key.path[0])
def test_a_run_of_a_job_keeps_the_asset_s_own_page_out(
    asset: dg.AssetsDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE_DATA_ROOT", str(tmp_path))
    model = asset.key.path[0]
    job = defs.resolve_job_def(f"train_{model}")
    with dg.instance_for_test() as instance:
        first = instance.create_run_for_job(job, status=STARTED)
        settings = {"settings": Settings.from_environment()}
        with only_training(instance, first.run_id, model):
            second = dg.materialize(
                [asset], instance=instance, resources=settings, raise_on_error=False
            )
        told = refusal(second, model)
        assert f"run {first.run_id} (train_{model}) trains {model} already" in told


def test_one_of_two_real_runs_goes_on() -> None:
    refused: list[str] = []

    @dg.asset
    def model(context: dg.AssetExecutionContext) -> None:
        with only_training(context.instance, context.run_id, "model"):
            if not refused:
                refused.append("")
                second = dg.materialize([model], instance=instance, raise_on_error=False)
                refused.append(refusal(second, "model"))

    with dg.instance_for_test() as instance:
        assert dg.materialize([model], instance=instance).success
        assert "launch this one again" in refused[1]
        assert dg.materialize([model], instance=instance).success, "the slot came free"


def test_other_models_and_lost_runs_are_no_obstacle() -> None:
    @dg.job
    def nothing() -> None:
        pass

    with dg.instance_for_test() as instance:
        lost = instance.create_run_for_job(nothing, status=STARTED)
        with only_training(instance, lost.run_id, "model"):
            with only_training(instance, "another", "other model"):
                pass
            with (
                pytest.raises(dg.Failure, match="already"),
                only_training(instance, "next", "model"),
            ):
                pass
            # A killed process gives nothing back.
            instance.report_run_failed(lost)
            with only_training(instance, "next", "model"):
                holders = instance.event_log_storage.get_concurrency_info("training of model")
                assert holders.active_run_ids == {"next"}

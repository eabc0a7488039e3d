"""Schedule, sensor, queue and freshness, without a daemon; what a training begins with."""

import datetime
import json
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster._utils.tags import TagConcurrencyLimitsCounter
from encoded_batches import CONFIG, build
from safetensors.numpy import save

from assets.automation import JOBS, retrain, train_dalle
from assets.definitions import defs
from assets.lib.home import UserError
from assets.lib.promotion import promoted, retraining_start
from assets.lib.retrain_settings import RetrainSettings
from assets.lib.settings import REPOSITORY, Settings
from assets.retraining import grown_dataset, weekly_retrain
from assets.train import dvae
from pipelines.layout import Layout
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import Manifest
from training.promotion import log
from training.promotion.log import Action, Model

SUNDAY = datetime.datetime(2026, 10, 4, 3, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoded")
    build(root)
    return root


@pytest.fixture
def layout(encoded: Path, tmp_path: Path) -> Layout:
    shutil.copytree(encoded, tmp_path / "data")
    return Layout(str(tmp_path / "data"))


def settings_of(layout: Layout, **retraining: object) -> Settings:
    return Settings(
        data_root=layout.root,
        recipe="demo",
        reference_images="/x",
        processes=1,
        retrain=RetrainSettings(**retraining),
    )


def promote(layout: Layout, manifest: Manifest) -> None:
    """Let the log name a model of this version."""
    model = Model(
        version="0" * 32,
        dalle_sha256="1" * 64,
        dvae_sha256=manifest.dvae_sha256,
        tokenizer_sha256=manifest.tokenizer_sha256,
        dataset=manifest.version,
        rows=manifest.rows,
        recipe="demo",
        code_version="3",
        warm_start="",
    )
    log.append(layout, log.current(layout), Action.PROMOTED, model, who="test", why="passed")


def tick(instance: dg.DagsterInstance, settings: Settings) -> dg.RunRequest | str:
    with dg.build_schedule_context(
        instance=instance,
        resources={"settings": settings},
        scheduled_execution_time=SUNDAY,
        repository_def=defs.get_repository_def(),
    ) as context:
        found = weekly_retrain.evaluate_tick(context)
    return found.run_requests[0] if found.run_requests else str(found.skip_message)


def look(instance: dg.DagsterInstance, settings: Settings) -> dg.RunRequest | str:
    with dg.build_sensor_context(
        instance=instance,
        resources={"settings": settings},
        repository_def=defs.get_repository_def(),
    ) as context:
        found = grown_dataset.evaluate_tick(context)
    return found.run_requests[0] if found.run_requests else str(found.skip_message)


def test_a_tick_retrains_once_for_a_version(layout: Layout) -> None:
    with dg.instance_for_test() as instance:
        settings = settings_of(layout)
        assert "nothing is published" in tick(instance, settings)
        old = publish(["a"], layout, CONFIG)
        assert isinstance(tick(instance, settings), dg.RunRequest)
        promote(layout, old)
        assert "trained on v=" in tick(instance, settings)
        publish(["a", "b"], layout, CONFIG)
        assert isinstance(tick(instance, settings), dg.RunRequest)
        instance.create_run_for_job(
            defs.resolve_job_def("retrain"), status=dg.DagsterRunStatus.STARTED
        )
        assert "has not ended yet" in tick(instance, settings)


def test_the_sensor_retrains_when_the_dataset_has_grown(layout: Layout) -> None:
    with dg.instance_for_test() as instance:
        settings = settings_of(layout)
        assert "nothing is published" in look(instance, settings)
        old = publish(["a"], layout, CONFIG)
        assert "nothing is promoted yet" in look(instance, settings)
        promote(layout, old)
        assert f"{old.rows} rows" in look(instance, settings)
        new = publish(["a", "b"], layout, CONFIG)
        found = look(instance, settings)
        assert isinstance(found, dg.RunRequest)
        assert found.run_key == new.version
        percent = 100 * (new.rows - old.rows) // old.rows
        assert isinstance(
            look(instance, settings_of(layout, growth_percent=percent)), dg.RunRequest
        )
        assert "% more" in look(instance, settings_of(layout, growth_percent=percent + 1))


def test_both_are_off_and_the_calendar_is_weekly() -> None:
    assert weekly_retrain.default_status is dg.DefaultScheduleStatus.STOPPED
    assert weekly_retrain.cron_schedule == "0 3 * * 0"
    assert weekly_retrain.execution_timezone == "UTC"
    assert grown_dataset.default_status is dg.DefaultSensorStatus.STOPPED
    assert weekly_retrain.job_name == grown_dataset.job_name == retrain.name


def test_the_job_starts_at_the_manifest() -> None:
    job = defs.resolve_job_def("retrain")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        "dalle", "samples", "evaluation", "model_comparison", "promoted_model",
    }  # fmt: skip
    assert job.partitions_def is None


def test_no_two_trainings_of_one_model_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retrain.tags == train_dalle.tags
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        queue = instance.get_concurrency_config().run_queue_config
        pools = instance.get_concurrency_config().pool_config
    assert queue is not None
    runs = {job.name: dg.DagsterRun(job.name, tags=dict(job.tags or {})) for job in JOBS}
    busy = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, [runs["retrain"]])
    blocked = {name for name, run in runs.items() if busy.is_blocked(run)}
    assert blocked == {"retrain", "train_dalle"}
    assert pools.default_pool_limit == 1


def test_devices_and_crawlers_have_pools() -> None:
    pools = {key.to_user_string(): d.op.pool for d in defs.assets or () for key in d.keys}
    gpu = {"dvae", "dalle", "contrastive", "samples", "evaluation", "model_comparison"}
    assert {name for name, pool in pools.items() if pool == "gpu"} >= gpu
    assert pools["fetched_pairs"] == "crawl"


def test_freshness_is_asked_of_what_retraining_renews() -> None:
    graph = defs.resolve_asset_graph()
    for name in ("token_dataset", "dalle", "promoted_model"):
        policy = graph.get(dg.AssetKey(name)).freshness_policy
        assert policy is not None, name
        assert policy.warn_window.to_timedelta() > datetime.timedelta(days=7)


def test_samples_and_evaluation_follow_a_training() -> None:
    names = ("token_dataset", "dvae", "contrastive", "dalle", "samples", "evaluation")
    with dg.instance_for_test() as instance:
        for name in names:
            instance.report_runless_asset_event(dg.AssetMaterialization(name))
        before = dg.evaluate_automation_conditions(defs=defs, instance=instance)
        assert before.total_requested == 0
        instance.report_runless_asset_event(dg.AssetMaterialization("dalle"))
        after = dg.evaluate_automation_conditions(
            defs=defs, instance=instance, cursor=before.cursor
        )
        assert after.total_requested == 2
        for name in ("samples", "evaluation"):
            assert after.get_num_requested(dg.AssetKey(name)) == 1


def test_evaluation_needs_neither_every_batch_nor_the_contrastive_model() -> None:
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("crawl_batch", ["finished", "being crawled"])
        for name in ("token_dataset", "dvae", "dalle", "samples", "evaluation"):
            instance.report_runless_asset_event(dg.AssetMaterialization(name))
        before = dg.evaluate_automation_conditions(defs=defs, instance=instance)
        instance.report_runless_asset_event(
            dg.AssetMaterialization("deduped_pairs", partition="finished")
        )
        crawled = dg.evaluate_automation_conditions(
            defs=defs, instance=instance, cursor=before.cursor
        )
        assert crawled.total_requested == 0
        instance.report_runless_asset_event(dg.AssetMaterialization("dalle"))
        trained = dg.evaluate_automation_conditions(
            defs=defs, instance=instance, cursor=crawled.cursor
        )
        assert trained.get_num_requested(dg.AssetKey("evaluation")) == 1


def test_a_training_begins_as_the_settings_say(layout: Layout) -> None:
    old = publish(["a"], layout, CONFIG)
    warm = settings_of(layout, start="promoted")
    assert retraining_start(warm, old.directory) == ()
    promote(layout, old)
    kept = Path(layout.promoted, "v=" + "0" * 32)
    kept.mkdir()
    (kept / "_SUCCESS").write_text("{}")
    new = publish(["a", "b"], layout, CONFIG)
    assert retraining_start(settings_of(layout), new.directory) == ()
    assert retraining_start(warm, new.directory) == ("--start-from", f"{kept}/dalle")
    assert retraining_start(warm, old.directory) == ()
    entry = promoted(warm)
    assert entry is not None
    assert entry.model.rows == old.rows


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DALLE_RETRAIN_START", "warm", "set it to random or promoted"),
        ("DALLE_RETRAIN_CRON", "weekly", "five fields"),
        ("DALLE_RETRAIN_GROWTH", "0", "at least 1"),
        ("DALLE_PROMOTION_MARGIN", "-1", "a number of nats, at least 0"),
    ],
)
def test_settings_of_the_retraining(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=variable) as error:
        Settings.from_environment()
    assert said in str(error.value)


def test_an_imported_dvae_is_left_alone(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    final = Path(layout.model("dvae"), "final")
    final.mkdir(parents=True)
    weights = save({"released": np.zeros(3, np.float32)}, {"format": "pt"})
    (final / "model.safetensors").write_bytes(weights)
    summary = {"recipe": "openai", "imported": "OpenAI's released dVAE"}
    (final / "summary.json").write_text(json.dumps(summary))
    (final / "_SUCCESS").write_text("{}")
    check = next(c for c in defs.asset_checks or () if "dvae_codebook_alive" in str(c.check_keys))
    with dg.instance_for_test() as instance:
        result = dg.materialize(
            [dvae, check], instance=instance, resources={"settings": settings_of(layout)}
        )
        told = [str(event.user_message) for event in instance.all_logs(result.run_id)]
    assert result.success
    assert any("is OpenAI's released dVAE: nothing is trained" in line for line in told)
    (materialized,) = result.asset_materializations_for_node("dvae")
    assert materialized.metadata["imported"].value == "OpenAI's released dVAE"
    assert materialized.metadata["dagster/row_count"].value == 1
    assert sorted(p.name for p in Path(layout.model("dvae")).iterdir()) == ["final"]

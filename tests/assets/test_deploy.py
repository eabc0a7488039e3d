"""deploy/: what Dagster itself makes of the chart's values, and of the files in the image."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config
from dagster_aws.s3 import S3ComputeLogManager
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import (
    DagsterK8sJobConfig,
    UserDefinedDagsterK8sConfig,
    construct_dagster_k8s_job,
    get_user_defined_k8s_config,
)
from kubernetes.client import V1PodSpec

from assets.lib import runs
from assets.lib.gpu_pod import gpu_pod
from assets.lib.home import UserError
from assets.lib.settings import REPOSITORY, Settings
from assets.lib.supervisor import CHECKPOINT_SECONDS
from pipelines.layout import Layout
from training import remote

DEPLOY = REPOSITORY / "deploy"
VALUES = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())
ENVIRONMENT = {
    variable["name"]: variable["value"]
    for variable in VALUES["dagster-user-deployments"]["deployments"][0]["env"]
}
# Jobs of which a step computes on the GPU.
ON_GPU = {
    "train_dvae",
    "train_contrastive",
    "train_dalle",
    "retrain",
    "encode_pairs",
    "build_dataset",
}


def _snake(value: Any) -> Any:
    """Keys as the chart writes them into the instance's configuration."""
    if isinstance(value, list):
        return [_snake(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = "applyLimitPerUniqueValue"
    names = {k: k if k == kept else re.sub(r"([A-Z])", r"_\1", k).lower() for k in value}
    return {names[k]: _snake(v) for k, v in value.items()}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("DAGSTER_", "DALLE_"))]:
        monkeypatch.delenv(name)


def test_the_instance_is_one_that_dagster_reads(tmp_path: Path) -> None:
    daemon = VALUES["dagsterDaemon"]
    blocks = {
        "concurrency": {k: v for k, v in VALUES["concurrency"].items() if k != "enabled"},
        "run_monitoring": daemon["runMonitoring"],
        "run_retries": daemon["runRetries"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.dump(_snake(blocks)))
    chart, _ = dagster_instance_config(str(tmp_path))
    ours, _ = dagster_instance_config(str(REPOSITORY / "dagster_home"))
    assert chart["concurrency"] == ours["concurrency"], "the same limits and pools"
    assert chart["run_retries"] == ours["run_retries"]
    for name in ("cancel_timeout_seconds", "free_slots_after_run_end_seconds"):
        assert chart["run_monitoring"][name] == ours["run_monitoring"][name]
    # Or the daemon would call a training cancelled that still writes.
    assert ours["run_monitoring"]["cancel_timeout_seconds"] > runs.CANCEL_SECONDS


def test_launcher_logs_and_database_have_only_known_settings() -> None:
    from dagster_postgres import DagsterPostgresStorage

    logs = _snake(VALUES["computeLogManager"]["config"]["s3ComputeLogManager"])
    given = VALUES["postgresql"]
    database = {
        "username": given["postgresqlUsername"],
        "hostname": given["postgresqlHost"],
        "db_name": given["postgresqlDatabase"],
        "scheme": given["postgresqlScheme"],
    }
    for cls, config in (
        (K8sRunLauncher, _launcher() | {"instance_config_map": "m", "dagster_home": "/h"}),
        (S3ComputeLogManager, logs),
        (DagsterPostgresStorage, {"postgres_db": database}),
    ):
        result = process_config(resolve_to_config_type(cls.config_type()), config)
        assert result.success, result.errors


def _launcher() -> dict[str, Any]:
    chart_s = dict(VALUES["runLauncher"]["config"]["k8sRunLauncher"])
    run = chart_s.pop("runK8sConfig")
    return _snake(chart_s) | {"run_k8s_config": {_key(k): v for k, v in run.items()}}


def _key(name: str) -> str:
    return next(iter(_snake({name: None})))


def test_every_variable_changes_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    whole = Settings.from_environment(), gpu_pod()
    for name in ENVIRONMENT:
        with monkeypatch.context() as without:
            without.delenv(name)
            assert (Settings.from_environment(), gpu_pod()) != whole, name
    assert whole[0].training_recipe()


def _pod(tags: Mapping[str, str]) -> V1PodSpec:
    """Of a run with these tags, as Dagster makes it."""
    common = UserDefinedDagsterK8sConfig.from_dict(_launcher()["run_k8s_config"])
    context = K8sContainerContext(run_k8s_config=common).merge(
        K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(tags))
    )
    config = DagsterK8sJobConfig(job_image="image", dagster_home="/h", instance_config_map="m")
    job = construct_dagster_k8s_job(config, ["dagster"], "run", context.run_k8s_config)
    return job.spec.template.spec


def test_a_run_with_a_gpu_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_GPU_POD", ENVIRONMENT["DALLE_GPU_POD"])
    pod = _pod(gpu_pod())
    assert pod.containers[0].resources.limits == {
        "memory": "512Gi",
        "nvidia.com/gpu": ENVIRONMENT["DALLE_PROCESSES"],
    }
    assert "/dev/shm" in {mount.mount_path for mount in pod.containers[0].volume_mounts}
    assert pod.tolerations[0].key == "nvidia.com/gpu"
    assert pod.termination_grace_period_seconds > CHECKPOINT_SECONDS


@pytest.mark.parametrize("on_gpu", [False, True])
def test_every_run_has_room_for_what_is_not_yet_in_the_bucket(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool
) -> None:
    monkeypatch.setenv("DALLE_GPU_POD", ENVIRONMENT["DALLE_GPU_POD"] if on_gpu else "")
    pod = _pod(gpu_pod())
    (container,) = pod.containers
    (volume,) = [v for v in pod.volumes if v.name == "scratch"]
    (mount,) = [m for m in container.volume_mounts if m.name == "scratch"]
    assert container.resources.requests["ephemeral-storage"] == volume.empty_dir.size_limit
    assert volume.empty_dir.medium is None, "on the disk, not in the memory"
    places = {variable.name: variable.value for variable in container.env}
    assert {"TMPDIR", "DALLE_MODEL_CACHE"} <= places.keys()
    for name in ("TMPDIR", "DALLE_MODEL_CACHE"):
        assert Path(places[name]).is_relative_to(mount.mount_path)
    # What the programs make of it.
    monkeypatch.setenv("DALLE_MODEL_CACHE", places["DALLE_MODEL_CACHE"])
    model = Layout(ENVIRONMENT["DALLE_DATA_ROOT"]).model("dalle")
    assert remote.local(model).is_relative_to(mount.mount_path)


def test_the_image_reads_every_store_that_deploy_names() -> None:
    extras = re.search(r"-e '\.\[(.+)\]'", (DEPLOY / "Dockerfile").read_text())
    assert extras is not None
    texts = [p.read_text() for p in DEPLOY.rglob("*") if p.suffix in (".env", ".yaml")]
    schemes = set(re.findall(r"\b(s3|gs)://", " ".join(texts)))
    assert schemes == {"s3", "gs"}
    assert {"s3", "gcs"} <= set(extras[1].split(","))


def test_the_jobs_of_the_gpu_carry_its_tag() -> None:
    code = (
        "import json; from assets.definitions import defs; print(json.dumps([j.name for j in "
        "defs.resolve_all_job_defs() if 'dagster-k8s/config' in j.tags]))"
    )
    for value, expected in ((ENVIRONMENT["DALLE_GPU_POD"], ON_GPU), ("", set())):
        environment = os.environ | {"DALLE_GPU_POD": value}
        printed = subprocess.check_output(
            [sys.executable, "-c", code], cwd=REPOSITORY, env=environment
        )
        assert set(json.loads(printed)) == expected


@pytest.mark.parametrize("wrong", ["{", "[]", "8"])
def test_a_wrong_pod(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("DALLE_GPU_POD", wrong)
    with pytest.raises(UserError, match="DALLE_GPU_POD is no JSON object"):
        gpu_pod()


def test_the_copied_files_are_enough(tmp_path: Path) -> None:
    """The code location loads from the files that the image gets, and from no others."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert f"!{name}".rstrip("/") in ignored
        source = REPOSITORY / name
        target = tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "DAGSTER_HOME": str(tmp_path / "dagster_home"),
    }
    command = [sys.executable, "-m", "dagster", "job", "list", "-w", "workspace.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {f"Job: {name}" for name in ON_GPU} <= set(done.stdout.splitlines())


def test_the_entry_point(tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.write_text('#!/bin/sh\necho "boot $*"\n')
    boot.chmod(0o755)
    script = tmp_path / "entrypoint"
    text = (DEPLOY / "entrypoint.sh").read_text()
    assert "/opt/apache/beam/boot" in text
    script.write_text(text.replace("/opt/apache/beam/boot", str(boot)))
    for words, printed in (
        (("--id=1", "--logging_endpoint=x y"), "boot --id=1 --logging_endpoint=x y\n"),
        (("echo", "dagster", "api"), "dagster api\n"),
    ):
        assert subprocess.check_output(["sh", script, *words], text=True) == printed

"""The examples of training on several hosts say what torchrun, the programs and bash take."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from training.recipes import RECIPES

DEPLOY = Path(__file__).parents[2] / "deploy"
SBATCH = DEPLOY / "slurm" / "train.sbatch"
HOSTS = {"PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}


def _documents() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes-training" / "train.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def _parse(words: list[str], monkeypatch: pytest.MonkeyPatch, **hosts: str) -> Any:
    """Words behind `python -m training.launch`, by torchrun's parser and the program's own."""
    from torch.distributed.run import get_args_parser

    from training import train_dalle

    for name, value in hosts.items():
        monkeypatch.setenv(name, value)
    launched = get_args_parser().parse_args(words)
    assert launched.module
    assert launched.training_script == "training.train_dalle"
    app = typer.Typer()
    app.command()(train_dalle.train)
    context = typer.main.get_command(app).make_context("train", launched.training_script_args)
    assert context.params["recipe"] in RECIPES
    return launched, context.params


def test_the_job_of_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = _documents()
    job, service = documents["Job"]["spec"], documents["Service"]
    pod, labels = job["template"]["spec"], job["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value", "1") for each in container["env"]}
    assert set(environment) == HOSTS
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= labels.items()
    name = documents["Job"]["metadata"]["name"]
    assert pod["subdomain"] == service["metadata"]["name"]
    # Kubernetes names the pods of an indexed job so.
    assert environment["PET_MASTER_ADDR"] == f"{name}-0.{pod['subdomain']}"
    assert container["command"][:3] == ["python", "-m", "training.launch"]
    launched, program = _parse(container["command"][3:], monkeypatch, **environment)
    assert int(launched.nnodes) == job["completions"] == job["parallelism"]
    assert launched.node_rank == 1
    assert int(launched.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(program["output"]).startswith("/data/")
    assert mounts == {"/data", "/dev/shm"}
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }


def _slurm(folder: Path) -> dict[str, str]:
    """Commands in the place of Slurm's and Python's, which note what they are given."""
    noted = {
        "scontrol": '[ "$1" = show ] && printf "host1\\nhost2\\n" || echo "$@" >>requeued',
        "srun": 'while [ "$1" != bash ]; do shift; done; SLURM_NODEID=1 "$@"',
        "python": 'printf "%s\\n" "$@" >words; env >environment; sleep 0.02; $STEP; exit 75',
    }
    for name, script in noted.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "dalle" / "checkpoints").mkdir(parents=True)
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "DALLE_DATASET": "/data/token_dataset/v=1",
        "DALLE_OUTPUT": str(folder / "dalle"),
        "SLURM_JOB_NODELIST": "host[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "8",
        "STEP": "true",
    }


def test_bash_reads_the_script_of_slurm() -> None:
    subprocess.run(["bash", "-n", SBATCH], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SBATCH], check=True)


def test_slurm_starts_a_group_on_each_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _slurm(tmp_path)
    done = subprocess.run(["bash", SBATCH], cwd=tmp_path, env=given, check=False)
    assert done.returncode == 75
    lines = (tmp_path / "environment").read_text().splitlines()
    seen = dict(line.partition("=")[::2] for line in lines)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:2] == ["-m", "training.launch"]
    launched, program = _parse(words[2:], monkeypatch, **{name: seen[name] for name in HOSTS})
    assert (launched.nnodes, launched.node_rank, launched.nproc_per_node) == ("2", 1, "8")
    assert launched.master_addr == "host1"
    assert (program["dataset"], program["shard"]) == ("/data/token_dataset/v=1", "machine")


def test_slurm_tries_again_after_progress_only(tmp_path: Path) -> None:
    given = _slurm(tmp_path)
    subprocess.run(["bash", SBATCH], cwd=tmp_path, env=given, check=False)
    assert not (tmp_path / "requeued").exists()
    given["STEP"] = f"touch {tmp_path}/dalle/checkpoints/1"
    subprocess.run(["bash", SBATCH], cwd=tmp_path, env=given, check=False)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    del given["DALLE_DATASET"]
    done = subprocess.run(["bash", SBATCH], env=given, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DALLE_DATASET: set it to" in done.stderr

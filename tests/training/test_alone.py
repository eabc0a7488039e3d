"""A second training of one model ends at once, and harms nothing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_training

from pipelines.layout import Layout
from training import remote
from training.alone import only_program
from training.errors import InputError
from training.reporting import read_metrics


def start(pairs: Path, output: Path, *launcher: str) -> "subprocess.Popen[str]":
    """A training that would go on for hours."""
    program = [tiny_training.__file__, "training.train_dvae", "--recipe", tiny_training.NAME]
    options = ["--pairs", str(pairs), "--output", str(output), "--updates", "1000000"]
    return subprocess.Popen(
        [sys.executable, *launcher, *program, *options],
        cwd=tiny_training.ROOT,
        env=tiny_training.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def end(program: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = program.communicate(timeout=60)
    return program.returncode, errors


def test_a_second_training_ends_with_one_sentence(tmp_path: Path) -> None:
    pairs, output = tiny_training.write_pairs(Layout(str(tmp_path / "data"))), tmp_path / "dvae"
    first = start(pairs, output)
    tiny_training.wait_for_update(first, output, 1)
    said = f"error: another program writes {output}; wait until it ends, or stop it\n"
    assert end(start(pairs, output)) == (2, said)
    launcher = ("-m", "training.launch", "--standalone", "--nproc-per-node=2")
    status, errors = end(start(pairs, output, *launcher))
    assert (status, errors.count(said)) == (2, 1)
    assert "Traceback" not in errors

    tiny_training.wait_for_update(first, output, len(read_metrics(output)) + 2)
    steps = [line["step"] for line in read_metrics(output)]
    assert steps == list(range(1, len(steps) + 1)), "the first one went on undisturbed"
    first.kill()
    first.wait()
    again = start(pairs, output)
    until = time.monotonic() + 60
    while len(read_metrics(output)) <= len(steps):
        assert again.poll() is None, again.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    again.send_signal(signal.SIGTERM)
    assert end(again) == (143, "")
    assert not (output / ".writer.lock").exists()


def test_models_in_a_store_are_locked_beside_their_local_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE_MODEL_CACHE", str(tmp_path))
    output = remote.local("s3://bucket/data/models/dalle")
    with only_program(output):
        assert [path.name for path in output.iterdir()] == [".writer.lock"]
        assert output.is_relative_to(tmp_path)
        with (
            pytest.raises(InputError, match="program writes s3://bucket/data/models/dalle; wait"),
            only_program(output),
        ):
            pass
        with only_program(output.with_name("contrastive")):
            pass
        # A peer of the first process, which has the lock for all of them.
        monkeypatch.setenv("RANK", "1")
        with only_program(output):
            pass
    assert list(output.iterdir()) == []

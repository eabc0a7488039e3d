import os
import runpy
import signal
import sys
from collections.abc import Iterator

import pytest
import tiny_training
import torch
from tiny_training import Finished

from pipelines.layout import Layout
from training import recipes, train_dalle, train_dvae

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Programs that run inside the test's process leave their signal handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a recipe that trains in seconds."""
    monkeypatch.setitem(recipes.RECIPES, tiny_training.NAME, tiny_training.tiny)
    return tiny_training.NAME


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tiny_training.Runner:
    """Runs a program that fails in this process."""

    def start(module: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(SystemExit) as end:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert isinstance(end.value.code, int)
        return end.value.code, capsys.readouterr().err

    return start


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Both stages of the tiny recipe, never interrupted."""
    root = tmp_path_factory.mktemp("finished")
    layout = Layout(str(root / "data"))
    pairs = tiny_training.write_pairs(layout)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, tiny_training.NAME, tiny_training.tiny)
        train_dvae.train(tiny_training.NAME, [str(pairs)], root / "dvae")
        dataset = tiny_training.publish_tokens(layout, root / "dvae")
        train_dalle.train(tiny_training.NAME, dataset, root / "dalle")
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return Finished(layout, pairs, root / "dvae", dataset, root / "dalle")

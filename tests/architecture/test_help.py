"""Every program answers --help with its usage, and does nothing else."""

import runpy
import subprocess
import sys
from pathlib import Path

import dagster  # noqa: F401  (it starts `file` when it is imported, as its part for cron does)
import pytest

ROOT = Path(__file__).parents[2]
# Children that other programs of ours start, with words that no person types.
_CHILDREN = {"pipelines.crawl.sources.parser_process", "pipelines.curate.decoder_child"}


def programs() -> list[str]:
    found = set()
    for room in ("assets", "benchmarks", "pipelines", "training"):
        for path in (ROOT / room).rglob("*.py"):
            if '\nif __name__ == "__main__":' in path.read_text():
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.add(".".join(parts).removesuffix(".__main__"))
    return sorted(found - _CHILDREN)


def _start_nothing(*_arguments: object, **_options: object) -> None:
    raise AssertionError("a help starts no program")


@pytest.mark.filterwarnings("ignore:.* found in sys.modules")
@pytest.mark.parametrize("program", programs())
def test_a_help_is_printed_and_nothing_done(
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    # In this process, so that what many of them import is imported once.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.setattr(subprocess.Popen, "__init__", _start_nothing)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    assert ended.value.code in (0, None)
    said = capsys.readouterr()
    assert said.out.lower().startswith("usage: ")
    assert "--help" in said.out
    assert said.err == ""
    assert list(tmp_path.iterdir()) == []

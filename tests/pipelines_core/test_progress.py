import io
import sys

import pytest

from pipelines import progress
from pipelines.progress import Seen


def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, quiet, shown in (
        (Terminal(), False, True),
        (Terminal(), True, False),
        (io.StringIO(), False, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.on_terminal(lambda: Seen(3, "fine"), "rows", 5, quiet=quiet):
            pass
        assert ("3/5" in stream.getvalue() and "fine" in stream.getvalue()) is shown


def test_lines_are_told_and_a_look_that_fails_ends_nothing() -> None:
    looks = iter([Seen(1), None, Seen(5000, "well")])
    said: list[str] = []

    def look() -> Seen:
        seen = next(looks, Seen(5000, "well"))
        if seen is None:
            raise OSError("gone for a moment")
        return seen

    with progress.watch(look, "rows", 9000, said.append, every_s=0.01):
        while len(said) < 2:
            pass
    assert said[:2] == ["1 of 9,000 rows", "5,000 of 9,000 rows, well"]

"""How far long work is, by what it leaves on the disk while other processes do it."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from pipelines import shards

log = logging.getLogger(__name__)

_BAR_S = 1.0
_LINE_S = 30.0


class Seen(NamedTuple):
    """What a look saw: units done, and a few words on them."""

    done: int
    note: str = ""


@contextlib.contextmanager
def watch(
    look: Callable[[], Seen],
    unit: str,
    total: int | None = None,
    report: Callable[[str], None] | None = None,
    every_s: float | None = None,
) -> Iterator[None]:
    """Show how work goes on while the `with` block runs.

    Args:
        look: reads it from the disk.
        unit: what is counted, in the plural.
        total: how many there will be, if that is known.
        report: gets a line of text now and then; a bar on stderr is drawn if None.
        every_s: seconds between two looks; 1 for a bar and 30 for lines if None.
    """
    show, close = _bar(unit, total) if report is None else (_lines(unit, total, report), None)
    period = every_s or (_BAR_S if report is None else _LINE_S)
    ended = threading.Event()

    def once() -> None:
        # A look that fails must not end those after it, let alone the work.
        try:
            show(look())
        except Exception:
            log.warning("the progress cannot be read", exc_info=True)

    def keep_looking() -> None:
        while not ended.wait(period):
            once()

    thread = threading.Thread(target=keep_looking, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        once()
        if close is not None:
            close()


def rows_done(output: str) -> Seen:
    """Rows that the finished shards of a stage took in."""
    receipts = shards.read_receipts(output).values()
    return Seen(sum(receipt["funnel"]["rows_in"] for receipt in receipts))


def on_terminal(
    look: Callable[[], Seen], unit: str, total: int | None = None, *, quiet: bool = False
) -> contextlib.AbstractContextManager[None]:
    """`watch` with a bar, where somebody sees it."""
    if quiet or not sys.stderr.isatty():
        return contextlib.nullcontext()
    return watch(look, unit, total)


def _bar(unit: str, total: int | None) -> tuple[Callable[[Seen], None], Callable[[], None]]:
    bar = tqdm(total=total, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True)

    def show(seen: Seen) -> None:
        bar.set_postfix_str(seen.note, refresh=False)
        bar.n = seen.done if total is None else min(seen.done, total)
        bar.refresh()

    return show, bar.close


def _lines(unit: str, total: int | None, report: Callable[[str], None]) -> Callable[[Seen], None]:
    def show(seen: Seen) -> None:
        of = "" if total is None else f" of {total:,}"
        report(f"{seen.done:,}{of} {unit}{', ' if seen.note else ''}{seen.note}")

    return show

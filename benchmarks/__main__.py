"""Print every mark beside its peer, and what fell since it was last recorded: `make bench`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import step_memory, training_marks
from benchmarks.archive_marks import archive_extraction
from benchmarks.curate_marks import decode_to_crop
from benchmarks.dedupe_marks import hash_step, search_copies
from benchmarks.encode_marks import encoder_speed, precompute
from benchmarks.fetch_marks import one_process, two_processes
from benchmarks.fetch_to_crop import fetch_to_crop
from benchmarks.generation_marks import generate_16, generate_64
from benchmarks.location_marks import code_location
from benchmarks.marks import Mark
from benchmarks.token_marks import loader, loader_for_demo

RECORDED = Path(__file__).with_name("recorded.json")
_FALLEN = 0.85
MARKS: tuple[Callable[[], Mark], ...] = (
    archive_extraction,
    one_process,
    two_processes,
    fetch_to_crop,
    decode_to_crop,
    hash_step,
    search_copies,
    encoder_speed,
    precompute,
    loader,
    loader_for_demo,
    *training_marks.MARKS,
    *step_memory.MARKS,
    generate_16,
    generate_64,
    code_location,
)


def main() -> int:
    """Measure, compare, print; with `--record`, keep the ratios. 1 if a mark fell by over 15 %."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--record", action="store_true", help="keep the ratios, to compare with")
    names = [mark.__name__ for mark in MARKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these marks alone")
    options = parser.parse_args()
    before: dict[str, float] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    now: dict[str, float] = {}
    fallen = []
    print(f"{'mark':46} {'ours':>9} {'peer':>9} {'ratio':>7} {'asked':>6} {'before':>7}")
    for mark_of in MARKS:
        if mark_of.__name__ not in options.only:
            continue
        mark = mark_of()
        now[mark.name] = round(mark.ratio, 3)
        earlier = before.get(mark.name)
        asked = f"{mark.least:.2f}" if mark.least else "-"
        known = f"{earlier:.2f}" if earlier else "-"
        costs = f"{mark.ours:8.3f}{mark.unit} {mark.peer:8.3f}{mark.unit}"
        print(
            f"{mark.name:46} {costs} {mark.ratio:7.2f} {asked:>6} {known:>7}   "
            f"against {mark.against}",
            flush=True,
        )
        if earlier and mark.ratio < _FALLEN * earlier:
            fallen.append(mark.name)
    for name in fallen:
        print(f"fell by more than 15 %: {name} ({before[name]:.2f} to {now[name]:.2f})")
    if options.record:
        RECORDED.write_text(json.dumps(before | now, indent=1) + "\n")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())

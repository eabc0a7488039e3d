"""What each caption rule drops of good English captions, and how fast it is.

`python -m benchmarks.caption_rules STAMPS` judges the English captions of three words and more of
Debian's `tuxpaint-stamps-default` (see `benchmarks.languages`), which people wrote with care: what
a rule drops of them is its loss, but for the repeated, titled and wordless ones among them.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.languages import read_stamps
from pipelines.curate import captions, sharma
from pipelines.curate.config import CurateConfig

CONFIG = CurateConfig()
_ENGLISH = "en"
_TIMES = 8
_EXAMPLES = 3
Rule = Callable[[pa.StringArray], pa.StringArray]


def rules() -> dict[str, Rule]:
    """Every caption rule by name, the default ones first."""
    always = (captions.boilerplate, captions.too_long, captions.repetitive)
    found: dict[str, Rule] = {rule.__name__: _default(rule) for rule in always}
    return found | {name: _optional(rule) for name, rule in sharma.RULES.items()}


def _default(rule: Callable[[pa.StringArray, CurateConfig], pa.StringArray]) -> Rule:
    return lambda texts: rule(texts, CONFIG)


def _optional(rule: sharma.Rule) -> Rule:
    return lambda texts: rule.judge(sharma.Captions(texts), CONFIG)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.caption_rules", description=__doc__)
    parser.add_argument("stamps", type=Path, metavar="STAMPS", help="the unpacked package")
    stamps = read_stamps(parser.parse_args(arguments).stamps)
    rows = np.flatnonzero((stamps.languages == _ENGLISH) & (stamps.words >= CONFIG.min_words))
    texts = pa.array([stamps.captions[row] for row in rows])
    print(f"{len(texts)} captions\n{'rule':16} {'dropped':>8} {'captions/s':>11}")
    for name, rule in rules().items():
        dropped = pc.is_valid(rule(texts))
        start = time.process_time()
        for _ in range(_TIMES):
            rule(texts)
        rate = _TIMES * len(texts) / (time.process_time() - start)
        share = pc.mean(dropped).as_py()
        examples = "  ".join(t[:40] for t in texts.filter(dropped).to_pylist()[:_EXAMPLES])
        print(f"{name:16} {share:8.1%} {rate:11,.0f}  {examples}")


if __name__ == "__main__":
    main()

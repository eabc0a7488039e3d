"""Commands as the pages of `docs/` show them, for tests that run them."""

import itertools
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(page: str, first: str) -> str:
    """The block of code on a page whose first line begins with `first`, as a script."""
    lines = (DOCS / page).read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip().startswith(first)]
    assert len(starts) == 1, f"{page} shows `{first}` {len(starts)} times"
    block = itertools.takewhile(lambda line: line.startswith("    "), lines[starts[0] :])
    return textwrap.dedent("\n".join(block))

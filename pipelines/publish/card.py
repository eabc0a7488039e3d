"""The dataset card: the page that people read before they use a version.

It holds no time and no version, so that equal rows give an equal card.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.publish.manifest import Manifest, StageRecord

_READER = """\
```python
import pyarrow.parquet as pq

tokens = pq.read_table("tokens")
metadata = pq.read_table("metadata")  # row i describes row i of `tokens`
```"""


def render(manifest: Manifest, tokens: pa.Schema) -> str:
    """Text of `README.md`, in Markdown.

    Args:
        manifest: of the version, which has no name yet.
        tokens: schema of its token files, whose metadata says what made them.
    """
    lines = [
        f"# {manifest.title}",
        "",
        manifest.description,
        "",
        f"{manifest.rows:,} rows, {manifest.crops} for each pair, from "
        f"{_count(manifest.batches, 'crawl batch')}.",
        "",
        "## Read it",
        "",
        _READER,
        "",
        "`manifest.json` lists every file with its rows, bytes and SHA-256; `croissant.json` "
        "describes the tables to tools that read Croissant. Rows are shuffled by a hash of "
        "(uid, crop_id), so a prefix is a random sample.",
        "",
        "## Where the rows went",
        "",
        "Every row that a stage read was kept, or dropped for one of the reasons below; these "
        "reasons are the filters. Crawl to encode count pairs, publish counts token rows.",
        "",
        "| stage | dataset | in | kept | dropped, by reason |",
        "|---|---|---:|---:|---|",
        *(_line(record) for record in manifest.funnel()),
        "",
        *_filters(manifest),
        "## Provenance",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _provenance(tokens)),
        "",
        "Random crops and BPE dropout cannot be drawn from one stored row: crops are fixed by uid "
        "and crop_id, and captions lie beside their canonical ids so that dropout is drawn at "
        "load.",
        "",
        "## Opting out",
        "",
        "Images of sites that opt out (robots.txt, X-Robots-Tag and the like) were not used; the "
        "fetch counts them above. What was asked to be taken down is not in this version, and is "
        "counted there as `taken_down`.",
        "",
        "## Licences and credits",
        "",
        manifest.licences,
        "",
        "## Samples",
        "",
        *_samples(manifest),
        "",
    ]
    return "\n".join(lines)


def _filters(manifest: Manifest) -> list[str]:
    """A table for each stage's thresholds, and for each set of them where batches differ."""
    if not manifest.filters:
        return []
    lines = ["## Filters", "", "The thresholds and tools behind these reasons.", ""]
    datasets = [found.dataset for found in manifest.filters]
    for found in manifest.filters:
        alike = datasets.count(found.dataset) == 1
        where = "" if alike else f" of {_count(found.batches, 'batch')}: {', '.join(found.batches)}"
        lines += [f"`{found.dataset}`{where}", "", "| setting | value |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in sorted(found.settings.items())]
        lines.append("")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if isinstance(value, str) else json.dumps(value)


def _provenance(tokens: pa.Schema) -> list[tuple[str, str]]:
    plain = {key.decode(): value.decode() for key, value in tokens.metadata.items()}
    return sorted((key, value) for key, value in plain.items() if key not in ("dataset", "row"))


def _samples(manifest: Manifest) -> list[str]:
    """Pictures with their captions, which stay text whatever they hold."""
    lines = []
    for path, caption in manifest.samples.items():
        lines += [f"![{path.rsplit('/', 1)[1]}]({path})", "", f"    {caption}", ""]
    return lines


def _line(record: StageRecord) -> str:
    # Largest first; names break ties, so that the card does not depend on the order of sums.
    reasons = sorted(record.dropped.items(), key=lambda item: (-item[1], item[0]))
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
    return (
        f"| {record.stage} | {record.dataset} | {record.rows_in:,} | {record.kept:,} | {dropped} |"
    )


def _count(names: Sequence[str], word: str) -> str:
    return f"{len(names):,} {word}" + ("" if len(names) == 1 else "es")

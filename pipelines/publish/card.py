"""The dataset card: the page that people read before they use a version.

It holds no time and no version, so that equal rows give an equal card.
"""

from collections.abc import Mapping, Sequence

from pipelines.ledger import Funnel
from pipelines.publish.config import PublishConfig
from pipelines.publish.funnel import Step
from pipelines.schemas import Stage

_READER = """\
```python
import pyarrow.parquet as pq

tokens = pq.read_table("tokens")
metadata = pq.read_table("metadata")  # row i describes row i of `tokens`
```"""


def render(
    config: PublishConfig,
    provenance: Mapping[str, str],
    batches: Sequence[str],
    steps: Sequence[Step],
    publication: Funnel,
    samples: Sequence[str],
) -> str:
    """Text of `README.md`, in Markdown.

    Args:
        config: title, description and licences.
        provenance: schema metadata of the token table.
        batches: crawl batches in the version.
        steps: funnel over all batches.
        publication: rows that publishing read, kept and dropped.
        samples: captions to show.
    """
    crops = provenance["crops"]
    lines = [
        f"# {config.title}",
        "",
        config.description,
        "",
        f"{publication.kept:,} rows, {crops} for each pair, from {_count(batches, 'crawl batch')}.",
        "",
        "## Read it",
        "",
        _READER,
        "",
        "`manifest.json` lists every file with its rows, bytes and SHA-256. Rows are shuffled by a "
        "hash of (uid, crop_id), so a prefix is a random sample.",
        "",
        "## Where the rows went",
        "",
        "Every row that a stage read was kept, or dropped for one of the reasons below; these "
        "reasons are the filters. Crawl to encode count pairs, publish counts token rows.",
        "",
        "| stage | dataset | in | kept | dropped, by reason |",
        "|---|---|---:|---:|---|",
        *(_line(step) for step in steps),
        _line(Step(Stage.PUBLISH, "token_dataset", publication)),
        "",
        "## Provenance",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in sorted(provenance.items())),
        "",
        "Random crops and BPE dropout cannot be drawn from one stored row: crops are fixed by uid "
        "and crop_id, and captions lie beside their canonical ids so that dropout is drawn at "
        "load.",
        "",
        "Images of sites that opt out (robots.txt, X-Robots-Tag and the like) were not used; the "
        "fetch counts them above.",
        "",
        "## Licences and credits",
        "",
        config.licences,
        "",
        "## Sample captions",
        "",
        *(f"    {caption}" for caption in samples),
        "",
    ]
    return "\n".join(lines)


def _line(step: Step) -> str:
    funnel = step.funnel
    # Largest first; names break ties, so that the card does not depend on the order of sums.
    reasons = sorted(funnel.dropped.items(), key=lambda item: (-item[1], item[0]))
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
    return f"| {step.stage} | {step.dataset} | {funnel.rows_in:,} | {funnel.kept:,} | {dropped} |"


def _count(names: Sequence[str], word: str) -> str:
    return f"{len(names):,} {word}" + ("" if len(names) == 1 else "es")

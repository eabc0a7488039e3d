"""One page about a model: its pictures, curves, figures, data and versions, in one HTML file."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines import storage
from pipelines.publish.manifest import Manifest

REPORT, SHORT = "report.html", "report.md"
FIGURES, TABLE = "evaluation.json", "evaluation.parquet"

# By the ending of a figure's name; the first that fits counts.
_UNITS = {
    "pictures": "pictures",
    "pictures_compared": "pictures a side",
    "distinct_references": "pictures",
    "pairs": "pairs",
    "nats_text": "nats per text token",
    "nats_image": "nats per image token",
    "nats_image_shuffled": "nats per image token, captions shuffled",
    "caption_gain": "nats per image token",
    "psnr_db": "dB",
    "rows": "rows",
    "codebook_perplexity": "codes",
    "codebook_used": "codes",
    "_at_1": "share",
    "_at_5": "share",
}
Value = float | int | str

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), False, {"doc": "the figure's, as in evaluation.json"}),
        pa.field("value", pa.float64(), True, {"doc": "null where the figure is a word"}),
        pa.field("text", pa.string(), True, {"doc": "the word, a hash for instance, or null"}),
        pa.field("unit", pa.string(), False, {"doc": "of the value; empty for ratios and words"}),
        pa.field("network", pa.string(), True, {"doc": "whose features the figure compares"}),
    ]
)
"""Columns of `evaluation.parquet`."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        notes: what to know, a paragraph each.
        figures: by names that no other section has.
        pictures: PNG files to show, in order; one that is not there is left out.
        network: whose features its figures compare; empty if they compare none.
    """

    title: str
    notes: Sequence[str]
    figures: Mapping[str, Value]
    pictures: Sequence[Path]
    network: str = ""

    @property
    def rows(self) -> list["Figure"]:
        """Figures by name."""
        return [Figure(name, value, self.network) for name, value in sorted(self.figures.items())]

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Names and contents of the pictures that are there."""
        return [(_words(path), _inline(path)) for path in self.pictures if path.exists()]


@dataclass(frozen=True)
class Figure:
    """A named figure; a word, a hash for instance, is one without a unit."""

    name: str
    value: Value
    network: str = ""

    @property
    def unit(self) -> str:
        """What it is counted in; empty for ratios and words."""
        return next((unit for end, unit in _UNITS.items() if self.name.endswith(end)), "")

    @property
    def shown(self) -> str:
        """The value for a reader."""
        if isinstance(self.value, float):
            return f"{self.value:.4g}"
        return f"{self.value:,}" if isinstance(self.value, int) else self.value

    @property
    def plain(self) -> Value | None:
        """The value for JSON and Parquet, which know no NaN: None if it is no finite number."""
        if isinstance(self.value, float) and not math.isfinite(self.value):
            return None
        return self.value


def own(weights: str) -> str:
    """Name of the directory, beside the newest report, that keeps a model's.

    Args:
        weights: SHA-256 of the transformer's.
    """
    return f"model={weights[:12]}"


def write(
    output: Path,
    weights: str,
    manifest: Manifest,
    sections: Sequence[Section],
    versions: Sequence[tuple[str, str]],
) -> None:
    """Write `report.html`, and the figures as Markdown, JSON and Parquet, into `output`.

    They are in `own(weights)` below it as well, where only the same model's next report replaces
    them.

    Args:
        output: directory, also of the plots.
        weights: SHA-256 of the transformer's, the report's subject.
        manifest: of the dataset.
        sections: in the order of the page.
        versions: names and values, in the order of the page.
    """
    environment = Environment(
        loader=PackageLoader("training", "."), autoescape=True, undefined=StrictUndefined
    )
    title = f"dalle {weights[:12]}, trained on {manifest.title}"
    summary = (
        f"{manifest.rows:,} rows from {len(manifest.batches):,} crawl batches; "
        f"images of {manifest.image_size} px as {manifest.grid} x {manifest.grid} codes."
    )
    text = environment.get_template("report.html.jinja").render(
        title=title,
        summary=summary,
        sections=sections,
        funnel=manifest.funnel(),
        versions=versions,
    )
    short = _markdown(title, summary, sections)
    rows = sorted((row for section in sections for row in section.rows), key=lambda row: row.name)
    for place in (output / own(weights), output):
        place.mkdir(parents=True, exist_ok=True)
        storage.write_bytes(str(place / REPORT), text.encode())
        storage.write_bytes(str(place / SHORT), short.encode())
        _write_table(place / TABLE, rows)
        # Last: whoever waits for the figures finds the rest.
        storage.write_json(str(place / FIGURES), {row.name: row.plain for row in rows})


def _markdown(title: str, summary: str, sections: Sequence[Section]) -> str:
    """The page without its pictures, for whoever shows those beside it."""
    lines = [f"# {title}", "", summary, ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for note in section.notes:
            lines += [note, ""]
        if section.figures:
            lines += ["| figure | value | unit |", "|---|---:|---|"]
            lines += [f"| {row.name} | {row.shown} | {row.unit} |" for row in section.rows]
            lines.append("")
    return "\n".join(lines)


def _write_table(path: Path, rows: Sequence[Figure]) -> None:
    import pyarrow.parquet as pq

    records = [
        {
            "name": row.name,
            "value": None if isinstance(row.plain, str | None) else float(row.plain),
            "text": row.value if isinstance(row.value, str) else None,
            "unit": row.unit,
            "network": row.network or None,
        }
        for row in rows
    ]
    with storage.atomic_output(str(path)) as stream:
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), stream)


def _words(path: Path) -> str:
    return path.stem.replace("_", " ")


def _inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"

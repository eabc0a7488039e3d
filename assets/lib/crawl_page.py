"""What the two crawl assets show on their pages: tables of rows and outcomes, pictures."""

import contextlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lib import exhibits, report
from assets.lib.exhibits import Captioned
from pipelines import parquet, storage
from pipelines.ledger import Finished

if TYPE_CHECKING:
    from PIL import Image

_SAMPLE_ROWS = 20
_MOST_SOURCES = 50
_PICTURES = 32
_PARTS_SHOWN = 8
_SHEET_BYTES = 90_000
# Few, since a page waits for all of its pictures.
_DECODER_SECONDS = 5
# Rows read at once where pictures are among them: their originals may be large.
_IMAGE_ROWS = 16


def success_share(finished: Finished) -> float | None:
    """Pictures fetched, of all pairs that nobody opted out of; None if there is no such pair."""
    asked = finished.funnel.rows_in - finished.funnel.dropped.get("opted_out", 0)
    return finished.funnel.kept / asked if asked > 0 else None


def materialized_candidates(
    finished: Finished, directory: str, rejects: str
) -> dg.MaterializeResult:
    """Rows by source, columns that nothing is taken from, examples of rejects, sample rows."""
    details = finished.details
    first = {"pairs by source": _sources(finished), "ignored columns": _ignored(finished)}
    last = exhibits.reject_examples(finished, rejects) | {"sample rows": _sample(directory)}
    compared = {"earlier batches compared with": len(details.get("compared_with", ()))}
    return report.materialized(
        finished,
        directory,
        {name: table for name, table in first.items() if table.records} | compared,
        {name: table for name, table in last.items() if table.records},
        leave_out=("rows_by_source", "ignored_columns", "compared_with"),
    )


def materialized_fetch(finished: Finished, directory: str) -> dg.MaterializeResult:
    """Success share, a sheet of pictures, outcomes with an example each, opt-outs by signal."""
    share = success_share(finished)
    shown = safe_pictures(list(itertools.islice(_spread(directory), _PICTURES)))
    page: dict[str, Any] = {} if share is None else {"success share": share}
    if shown:
        sheet = exhibits.contact_sheet(shown)
        page["pictures"] = exhibits.inline("pictures", sheet, _SHEET_BYTES)
    page |= {"outcomes": _outcomes(finished, directory)} | _opt_outs(directory)
    return report.materialized(finished, directory, page)


def _outcomes(finished: Finished, directory: str) -> dg.TableMetadataValue:
    from pipelines.crawl.fetch import outcome_table

    pairs = max(finished.funnel.rows_in, 1)
    columns = ("outcome", "pairs", "share", "worth another try", "example")
    return report.table(
        dict(zip(columns, ("string", "int", "string", "int", "string"), strict=True)),
        [
            (
                o["outcome"],
                o["rows"],
                f"{o['rows'] / pairs:.1%}",
                o["retryable"],
                o["example"] or "",
            )
            for o in outcome_table(directory)
        ],
    )


def _sources(finished: Finished) -> dg.TableMetadataValue:
    rows = Counter(finished.details.get("rows_by_source", {}))
    return report.table({"source": "string", "pairs": "int"}, rows.most_common(_MOST_SOURCES))


def _ignored(finished: Finished) -> dg.TableMetadataValue:
    files = dict(finished.details.get("ignored_columns", {})).items()
    rows = [(file, ", ".join(columns)) for file, columns in files]
    return report.table({"file": "string", "columns": "string"}, rows[:_MOST_SOURCES])


def _sample(directory: str) -> dg.TableMetadataValue:
    columns = ["caption_raw", "url", "source"]
    first = itertools.islice(exhibits.rows(directory, columns), _SAMPLE_ROWS)
    return report.table(
        dict.fromkeys(columns, "string"), [[row[name] or "" for name in columns] for row in first]
    )


def _opt_outs(directory: str) -> dict[str, dg.TableMetadataValue]:
    """Pairs by the signal that forbade them, with the signal's most frequent text."""
    columns = ["opt_out_signal", "opt_out_text"]
    counts: Counter[tuple[str, str | None]] = Counter()
    for url in storage.list_files(directory, ".parquet"):
        for batch in parquet.read_batches(url, columns=columns, rows=16_000):
            forbidden = batch.filter(batch.column("opt_out_signal").is_valid())
            counts.update(zip(*(forbidden.column(c).to_pylist() for c in columns), strict=True))
    pairs: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for (signal, text), count in counts.most_common():
        pairs[signal] += count
        texts.setdefault(signal, text or "")
    table = report.table(
        {"signal": "string", "pairs": "int", "most frequent text": "string"},
        [(signal, count, texts[signal]) for signal, count in pairs.most_common()],
    )
    return {"opt-outs": table} if table.records else {}


def safe_pictures(originals: Sequence[Captioned]) -> list[Captioned]:
    """Small copies of pictures from the open web, empty where one cannot be decoded.

    They are decoded in the limited process of the curate stage: a picture that crashes a decoder
    must not take the run of a finished fetch with it.
    """
    from pipelines.curate.config import CurateConfig
    from pipelines.curate.decoder import Decoder

    with contextlib.closing(Decoder(CurateConfig(decoder_seconds=_DECODER_SECONDS))) as decoder:
        return [Captioned(_png(decoder.show(p.image)), p.caption) for p in originals]


def _png(picture: "Image.Image | None") -> bytes:
    stream = io.BytesIO()
    if picture is not None:
        picture.save(stream, "PNG")
    return stream.getvalue()


def _spread(directory: str) -> Iterator[Captioned]:
    """Pictures with captions, a few of each of some parts: a part holds URLs by their hash."""
    parts = storage.list_files(directory, ".parquet")
    step = max(1, len(parts) // _PARTS_SHOWN)
    chosen = parts[::step][:_PARTS_SHOWN]
    each = -(-_PICTURES // max(1, len(chosen)))
    for url in chosen:
        yield from itertools.islice(_fetched(url), each)


def _fetched(url: str) -> Iterator[Captioned]:
    for batch in parquet.read_batches(url, columns=["image", "caption_raw"], rows=_IMAGE_ROWS):
        kept = batch.filter(batch.column("image").is_valid())
        images, captions = kept.column("image"), kept.column("caption_raw")
        for image, caption in zip(images, captions, strict=True):
            yield Captioned(image.as_py(), caption.as_py())

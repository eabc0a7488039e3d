"""Where reference images come from: MS-COCO, CUB-200, folders, Parquet files, lists of URLs."""

import hashlib
import logging
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.crawl.config import HttpConfig
from pipelines.layout import join

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_WEB = ("http://", "https://")
# captions_val2014.json, instances_train2017.json, image_info_test2015.json ...
_COCO_ANNOTATIONS = re.compile(r"_([a-z]+\d{4})\.json$")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceSource:
    """Images that must not be trained on, and how to read them.

    Attributes:
        images: a folder (MS-COCO's own layout with `annotations/`, CUB-200's with `images.txt`, or
            any other, nested or not), a Parquet file or glob of them, or a text file with one URL
            a line; any fsspec path.
        image_column: of Parquet files: bytes, or a struct of bytes and path.
        name_column: of Parquet files: the images' names; else the path in the struct, else the
            number of the row.
        http: how URLs are asked for.
    """

    images: str
    image_column: str = "image"
    name_column: str | None = None
    http: HttpConfig | None = None


class Reference(NamedTuple):
    """One reference image.

    Attributes:
        name: unique in the index, and the same wherever the images lie.
        location: URL of the file that holds it.
        row: its row, if the file is Parquet.
        stamp: changes when the image may have changed; None where that takes its bytes to tell.
    """

    name: str
    location: str
    row: int | None = None
    stamp: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        references: by name.
        missing: names that the source's own list has, but no file.
        splits: per list of the source: how many images it names (`expected`), how many of them are
            there (`found`), `missing`, and files that it does not name (`extra`, kept).
    """

    references: tuple[Reference, ...]
    missing: tuple[str, ...] = ()
    splits: dict[str, dict[str, int]] = field(default_factory=dict)


def list_references(source: ReferenceSource) -> Listing:
    """All images of a source, without reading them.

    Raises:
        FileNotFoundError: if there is none, with what was looked for.
        ValueError: if a list or a column is not what it should be, naming it.
    """
    path = source.images
    if path.lower().endswith((".parquet", ".pq")):
        listing = _parquet(source)
    elif path.lower().endswith((".txt", ".lst")):
        listing = _url_list(source)
    else:
        listing = _folder(path)
        if not listing.references:
            listing = _parquet(replace(source, images=join(path, "*.parquet")))
    if not listing.references:
        raise FileNotFoundError(
            f"no image ({', '.join(_SUFFIXES)}) in {path}; give the folder of the reference "
            "images (for MS-COCO the one that holds val2014/ and annotations/, for CUB-200 the "
            "one that holds images.txt), Parquet files, or a text file of URLs"
        )
    names = [reference.name for reference in listing.references]
    if len(set(names)) != len(names):
        twice = next(a for a, b in zip(sorted(names), sorted(names)[1:], strict=False) if a == b)
        raise ValueError(f"{path} has two images named {twice!r}; name them by another column")
    return listing


def read_references(
    references: Sequence[Reference], source: ReferenceSource
) -> Iterator[tuple[Reference, bytes | None, str | None]]:
    """(reference, its bytes or None, why there are none), in the order of `references`."""
    client: Any = None
    rows: dict[str, dict[int, bytes | None]] = {}
    for reference in references:
        data: bytes | None
        if reference.row is not None:
            if reference.location not in rows:
                wanted = [r.row for r in references if r.location == reference.location]
                rows = {reference.location: _read_rows(reference.location, source, wanted)}
            data = rows[reference.location].pop(reference.row)
            yield reference, data, None if data is not None else "no_image"
        elif reference.location.startswith(_WEB):
            client = client or _client(source)
            yield reference, *_fetch(client, reference.location)
        else:
            yield reference, storage.read_bytes(reference.location), None


def _folder(images: str) -> Listing:
    fs, root = storage.filesystem(images)
    if not fs.isdir(root):
        return Listing(())
    found = {
        path[len(root) :].lstrip("/"): info
        for path, info in fs.find(root, detail=True).items()
        if path.lower().endswith(_SUFFIXES)
    }
    references = tuple(
        Reference(name, fs.unstrip_protocol(info["name"]), stamp=_stamp(info))
        for name, info in sorted(found.items())
    )
    if not references:
        return Listing(())
    missing: list[str] = []
    splits = {}
    for split, (folder, expected) in sorted(_all_lists(images).items()):
        there = {name for name in found if name.startswith(f"{folder}/")}
        if not there:
            log.warning("%s: none of the %d images of %s is here", images, len(expected), split)
        lost = sorted(expected - there) if there else []
        missing += lost
        splits[split] = {
            "expected": len(expected),
            "found": len(expected & there),
            "missing": len(lost),
            "extra": len(there - expected),
        }
    return Listing(references, tuple(missing), splits)


def _all_lists(images: str) -> dict[str, tuple[str, set[str]]]:
    """`_own_lists` of a folder, and of each folder in it: several data sets may lie together."""
    lists = _own_lists(images)
    fs, root = storage.filesystem(images)
    for path in sorted(p for p in fs.ls(root, detail=False) if fs.isdir(p)):
        inside = posixpath.basename(path.rstrip("/"))
        for split, (folder, names) in _own_lists(join(images, inside)).items():
            here = {f"{inside}/{name}" for name in names}
            lists[f"{inside}/{split}"] = (f"{inside}/{folder}", here)
    return lists


def _own_lists(images: str) -> dict[str, tuple[str, set[str]]]:
    """Split to its folder and the names of its images, where the layout has lists of them."""
    names = join(images, "images.txt")
    if storage.exists(names):
        lines = storage.read_bytes(names).decode().splitlines()
        # CUB-200-2011, README: "<image_id> <image_name>"
        return {"images.txt": ("images", {f"images/{line.split(' ', 1)[1]}" for line in lines})}
    smallest: dict[str, tuple[int, str]] = {}
    for url in storage.list_files(join(images, "annotations"), ".json"):
        match = _COCO_ANNOTATIONS.search(url)
        if match:
            # Captions, instances and key points of a split all list its images.
            size = (storage.stamp(url)[0] or 0, url)
            smallest[match[1]] = min(size, smallest.get(match[1], size))
    lists = {}
    for split, (_, url) in smallest.items():
        nested = storage.exists(join(images, "images", split))
        folder = f"images/{split}" if nested else split
        lists[split] = (folder, {f"{folder}/{name}" for name in _coco_file_names(url)})
    return lists


def _coco_file_names(url: str) -> list[str]:
    """https://cocodataset.org/#format-data: `images` is a list of objects with `file_name`."""
    try:
        return [image["file_name"] for image in orjson.loads(storage.read_bytes(url))["images"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{url} is not an annotation file of MS-COCO: it has no images with a file_name "
            f"({error}); download it again, or move it out of annotations/"
        ) from error


def _parquet(source: ReferenceSource) -> Listing:
    references = []
    for url in storage.matching(source.images):
        fs, path = storage.filesystem(url)
        stamp = _stamp(fs.info(path))
        with fs.open(path, "rb") as stream, pq.ParquetFile(stream) as file:
            schema = file.schema_arrow
            for column in (source.image_column, source.name_column):
                if column is not None and column not in schema.names:
                    raise ValueError(
                        f"{url} has no column {column!r}, only {', '.join(schema.names)}; name "
                        "those of the images and of their names (--image-column, --name-column)"
                    )
            names = _names(file, source)
        short = posixpath.basename(url)
        for row, name in enumerate(names):
            references.append(Reference(name or f"{short}#{row}", url, row, f"{stamp} {row}"))
    return Listing(tuple(sorted(references)))


def _names(file: pq.ParquetFile, source: ReferenceSource) -> list[str | None]:
    """The name of each row, where the file has one."""
    if source.name_column is not None:
        values = file.read([source.name_column]).column(0).to_pylist()
        return [None if value is None else str(value) for value in values]
    kind = file.schema_arrow.field(source.image_column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        column = file.read([f"{source.image_column}.path"]).column(0)
        return [value and value["path"] for value in column.to_pylist()]
    return [None] * file.metadata.num_rows


def _read_rows(
    url: str, source: ReferenceSource, wanted: Sequence[int | None]
) -> dict[int, bytes | None]:
    """Image bytes of some rows of a Parquet file; whole row groups are read, one at a time."""
    rows = sorted(row for row in wanted if row is not None)
    fs, path = storage.filesystem(url)
    found: dict[int, bytes | None] = {}
    with fs.open(path, "rb") as stream, pq.ParquetFile(stream) as file:
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            own = [row for row in rows if first <= row < end]
            if own:
                column = file.read_row_group(group, [source.image_column]).column(0)
                for row in own:
                    value = column[row - first].as_py()
                    found[row] = value.get("bytes") if isinstance(value, dict) else value
            first = end
    return found


def _url_list(source: ReferenceSource) -> Listing:
    if not storage.exists(source.images):
        return Listing(())
    lines = storage.read_bytes(source.images).decode("utf-8-sig").splitlines()
    urls = sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")})
    wrong = next((url for url in urls if not url.startswith(_WEB)), None)
    if wrong is not None:
        raise ValueError(f"{source.images}: {wrong[:80]!r} is not an http(s) URL; list one a line")
    # An image that was fetched once is not asked for again: its URL is its stamp.
    return Listing(tuple(Reference(url, url, stamp=url) for url in urls))


def _client(source: ReferenceSource) -> Any:
    from pipelines.crawl.http.client import HttpClient

    if source.http is None:
        raise ValueError(
            f"{source.images} is a list of URLs: say how they may be asked for (--contact of the "
            "command, DALLE_CRAWL_CONTACT of Dagster)"
        )
    return HttpClient(source.http)


def _fetch(client: Any, url: str) -> tuple[bytes | None, str | None]:
    from pipelines.crawl.http.client import sniff_image
    from pipelines.crawl.http.outcomes import Outcome

    response = client.get(url, sniff_image, Outcome.NOT_AN_IMAGE)
    if response.body is None:
        log.warning("reference %s: %s, %s", url, response.outcome, response.detail)
    return response.body, None if response.body is not None else str(response.outcome)


def _stamp(info: dict[str, Any]) -> str:
    version = next((info[key] for key in ("ETag", "md5Hash", "mtime") if key in info), "")
    return f"{info.get('size')} {version}"


def sample_order(name: str) -> bytes:
    """Sorting names by this gives the same random sample wherever the images lie."""
    return hashlib.sha256(name.encode()).digest()

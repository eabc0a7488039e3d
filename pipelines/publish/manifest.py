"""The manifest of a published version: the one file that a reader needs to open first."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipelines import storage
from pipelines.layout import join
from pipelines.ledger import SUCCESS

MANIFEST = "manifest.json"
CURRENT = "CURRENT"
TOKENS = "tokens"
METADATA = "metadata"

_CHUNK = 1 << 22


class DatasetError(ValueError):
    """A published version is not what its manifest says."""


@dataclass(frozen=True)
class PublishedFile:
    """One file of a version; `path` is relative to the version, `rows` is 0 unless Parquet."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StageRecord:
    """What one stage did to one batch; `fingerprint` covers its configuration and its inputs."""

    batch: str
    stage: str
    dataset: str
    fingerprint: str
    content: str
    rows_in: int
    kept: int
    dropped: Mapping[str, int]

    def plus(self, other: "StageRecord") -> "StageRecord":
        """The counts of both, of all batches together."""
        reasons = sorted({*self.dropped, *other.dropped})
        dropped = {r: self.dropped.get(r, 0) + other.dropped.get(r, 0) for r in reasons}
        counts = (self.rows_in + other.rows_in, self.kept + other.kept, dropped)
        return StageRecord("", self.stage, self.dataset, "", "", *counts)


@dataclass(frozen=True)
class StageFilters:
    """The thresholds and tools by which a stage kept rows of some batches, by their names."""

    dataset: str
    batches: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A published version.

    Attributes:
        version: hash over all files but this one.
        created_at: when it was published, ISO 8601 in UTC.
        title: first line of the card.
        description: what the data is.
        licences: terms of the captions and images, and credits.
        contract_version: of the schemas.
        rows: rows of the token table, and of the metadata table.
        grid: codes along one side of an image.
        image_size: side of the encoded crops, in pixels.
        crops: rows for each pair.
        crop_recipe: how the crops were made, in words.
        text_vocabulary: number of BPE ids.
        text_max_length: most ids of a caption.
        image_vocabulary: number of image codes.
        tokenizer_sha256: of `tokenizer.json`.
        dvae_sha256: of the image tokenizer's weights.
        configuration: hash of the publication's configuration and of every stage's fingerprint.
        batches: the crawl batches in it.
        dropped: rows that publishing itself dropped, by reason.
        files: every file but the manifest and the success marker.
        stages: every stage and batch, in flow order.
        samples: captions of the pictures that the card shows, by the picture's path.
        filters: thresholds and tools of the stages that choose rows, in flow order; empty if their
            files do not say.
        parent: the version whose rows these are but for those taken down; empty if it was built
            from the batches.
        directory: where it was read from; not part of the file.
    """

    version: str
    created_at: str
    title: str
    description: str
    licences: str
    contract_version: str
    rows: int
    grid: int
    image_size: int
    crops: int
    crop_recipe: str
    text_vocabulary: int
    text_max_length: int
    image_vocabulary: int
    tokenizer_sha256: str
    dvae_sha256: str
    configuration: str
    batches: tuple[str, ...]
    dropped: Mapping[str, int]
    files: tuple[PublishedFile, ...]
    stages: tuple[StageRecord, ...]
    samples: Mapping[str, str]
    filters: tuple[StageFilters, ...] = ()
    parent: str = ""
    directory: str = field(default="", compare=False)

    @property
    def token_files(self) -> tuple[PublishedFile, ...]:
        """Part files of the token table, in row order."""
        return tuple(f for f in self.files if f.path.startswith(f"{TOKENS}/"))

    @property
    def metadata_files(self) -> tuple[PublishedFile, ...]:
        """Part files of the metadata table; row i describes row i of the token table."""
        return tuple(f for f in self.files if f.path.startswith(f"{METADATA}/"))

    def funnel(self) -> list[StageRecord]:
        """What became of the rows in each dataset over all batches; publishing is the last one."""
        found: dict[tuple[str, str], StageRecord] = {}
        for one in self.stages:
            key = (one.stage, one.dataset)
            found[key] = found[key].plus(one) if key in found else one
        read = self.rows + sum(self.dropped.values())
        last = StageRecord("", "publish", "token_dataset", "", "", read, self.rows, self.dropped)
        return [*found.values(), last]

    def url(self, file: PublishedFile) -> str:
        """URL of one of its files."""
        return join(self.directory, file.path)

    def to_json(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        value = dataclasses.asdict(self)
        del value["directory"]
        return value


class Level(StrEnum):
    """How closely to look: SIZES asks the storage, HASHES reads every byte."""

    SIZES = "sizes"
    HASHES = "hashes"


def read_manifest(directory: str) -> Manifest:
    """Manifest of a version, or of the one that `CURRENT` names.

    Args:
        directory: a version (`token_dataset/v=...`), or the directory of all versions.

    Raises:
        FileNotFoundError: if nothing is published there, or the version is not complete.
        DatasetError: if `manifest.json` is not a manifest.
    """
    if storage.exists(join(directory, CURRENT)):
        directory = join(directory, storage.read_bytes(join(directory, CURRENT)).decode().strip())
    url = join(directory, MANIFEST)
    if not storage.exists(url):
        raise FileNotFoundError(
            f"{directory} holds no published version (no {MANIFEST}, no {CURRENT}); "
            "materialise token_dataset, or name a directory v=..."
        )
    if not storage.exists(join(directory, SUCCESS)):
        raise FileNotFoundError(f"{directory} is not complete (no {SUCCESS}); publish it again")
    try:
        value = storage.read_json(url)
        return Manifest(
            **value
            | {
                "batches": tuple(value["batches"]),
                "files": tuple(_file(file, url) for file in value["files"]),
                "stages": tuple(StageRecord(**record) for record in value["stages"]),
                # Versions of the time before have none.
                "filters": tuple(_filters(found) for found in value.get("filters", ())),
                "directory": directory,
            }
        )
    except (TypeError, KeyError, ValueError) as error:
        raise DatasetError(f"{url} is not a manifest of this version: {error}") from error


def _file(value: Mapping[str, Any], url: str) -> PublishedFile:
    storage.require_inside(value["path"], url)
    return PublishedFile(**value)


def _filters(value: Mapping[str, Any]) -> StageFilters:
    return StageFilters(value["dataset"], tuple(value["batches"]), value["settings"])


def verify(manifest: Manifest, level: Level = Level.HASHES) -> None:
    """Check every file of a manifest that was read by `read_manifest`.

    Raises:
        DatasetError: naming the first file that is missing, or of another size or hash.
    """
    for file in manifest.files:
        url = manifest.url(file)
        fs, path = storage.filesystem(url)
        if not fs.exists(path):
            raise DatasetError(f"{url} is missing; publish the dataset again")
        size = fs.size(path)
        if size != file.bytes:
            raise DatasetError(f"{url} has {size} bytes, its manifest says {file.bytes}")
        if level is Level.HASHES and (found := sha256(url)) != file.sha256:
            raise DatasetError(f"{url} has sha256 {found}, its manifest says {file.sha256}")


def sha256(url: str) -> str:
    """SHA-256 of a file in hex, read in chunks."""
    fs, path = storage.filesystem(url)
    digest = hashlib.sha256()
    with fs.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

"""One terminal outcome per row, counts that must add up, and the marker that says "finished".

A finished directory holds `_SUCCESS`, a JSON file that is written last and carries the funnel
(rows in, kept, dropped by reason), the hash of the data and the fingerprint of everything that
the data depends on. A stage whose marker carries the fingerprint that it would write again has
nothing to do.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines import storage
from pipelines.layout import join

SUCCESS = "_SUCCESS"


class LedgerError(RuntimeError):
    """Rows were lost or doubled."""


@dataclass(frozen=True)
class Funnel:
    """Rows that came in, rows kept, and rows dropped by reason; errors are reasons too."""

    rows_in: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def check(self, where: str) -> None:
        """Raise `LedgerError` unless in = kept + dropped."""
        dropped = sum(self.dropped.values())
        if self.rows_in != self.kept + dropped:
            raise LedgerError(
                f"{where}: {self.rows_in} rows in, but {self.kept} kept + {dropped} dropped"
            )

    def __add__(self, other: "Funnel") -> "Funnel":
        reasons = sorted({*self.dropped, *other.dropped})
        both = {r: self.dropped.get(r, 0) + other.dropped.get(r, 0) for r in reasons}
        return Funnel(self.rows_in + other.rows_in, self.kept + other.kept, both)


@dataclass(frozen=True)
class Finished:
    """What a `_SUCCESS` marker says.

    Attributes:
        dataset: name of the dataset.
        fingerprint: hash of configuration, code version and inputs (`fingerprint`).
        content: hash of the files' bytes; the data version that downstream stages depend on.
        rows: rows in the dataset's files.
        bytes: size of the dataset's files.
        funnel: outcome of every row that came in.
        details: figures of the stage's own.
    """

    dataset: str
    fingerprint: str
    content: str
    rows: int
    bytes: int
    funnel: Funnel
    details: Mapping[str, Any] = field(default_factory=dict)


def fingerprint(code_version: str, config: Any, inputs: Iterable[str]) -> str:
    """Hash of everything that a stage's output depends on, in 32 hex digits.

    Args:
        code_version: raised by hand when the stage's code changes its output.
        config: a dataclass or plain JSON value.
        inputs: content hashes of the inputs, order kept.
    """
    plain = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config  # type: ignore[arg-type]
    text = json.dumps([code_version, plain, list(inputs)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def content_hash(files: Mapping[str, str]) -> str:
    """Hash over file names and their SHA-256, in 32 hex digits."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_success(directory: str, finished: Finished) -> None:
    """Write the marker; call it last."""
    finished.funnel.check(directory)
    storage.write_json(join(directory, SUCCESS), dataclasses.asdict(finished))


def read_success(directory: str) -> Finished | None:
    """The marker of a finished directory, or None where there is none.

    Raises:
        ValueError: if the marker is not what this module writes.
    """
    url = join(directory, SUCCESS)
    try:
        value = storage.read_json(url)
        return Finished(**(value | {"funnel": Funnel(**value["funnel"])}))
    except FileNotFoundError:
        return None
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{url} is not a marker of this version ({error}): remove it, and run the stage that "
            "writes it again, which keeps what is finished"
        ) from error


def require_success(directory: str) -> Finished:
    """The marker of a directory that must be finished.

    Raises:
        FileNotFoundError: if it is not, with what to do.
    """
    finished = read_success(directory)
    if finished is None:
        raise FileNotFoundError(
            f"{directory} is not finished (no {SUCCESS}); finish the stage that writes it first"
        )
    return finished


def require_parts(directory: str) -> Finished:
    """As `require_success`, for a reader of the Parquet parts.

    Raises:
        FileNotFoundError: if the directory is not finished, or lacks a part, with what to do.
    """
    finished = require_success(directory)
    if not is_whole(directory, finished):
        raise FileNotFoundError(
            f"{directory} lacks parts that its {SUCCESS} speaks of; run the stage that writes it "
            "again first, which makes those alone"
        )
    return finished


def is_whole(directory: str, finished: Finished) -> bool:
    """Whether the Parquet files in `directory` have the size that the marker says."""
    return sum(storage.sizes(directory, ".parquet").values()) == finished.bytes

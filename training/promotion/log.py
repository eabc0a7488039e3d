"""The log of promotions, whose newest entry is the pointer to the promoted model.

    <data root>/models/promoted/
      000001.json      an entry, never changed: which model, its figures, who, when and why
      000002.json      the newest one counts
      v=<hash>/        a promoted version, never changed (`training.promotion.versions`)

An entry appears whole or not at all, and its number can be taken only once, on a local disk as on
object stores. So the pointer moves at one instant, whoever is killed, and no move is lost.
"""

import dataclasses
import datetime
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines import storage
from pipelines.layout import Layout, join
from training.errors import InputError

_ENTRY = re.compile(r"\d{6}\.json")


class PromotionError(InputError):
    """A model cannot be promoted, rolled back to or removed; the message says why."""


class Action(StrEnum):
    """Why an entry is in the log."""

    PROMOTED = "promoted"
    OVERRULED = "overruled"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Model:
    """A transformer with the dVAE that its codes are of.

    Attributes:
        version: hash over every file of both.
        dalle_sha256: of the transformer's weights.
        dvae_sha256: of the dVAE's.
        tokenizer_sha256: of the `tokenizer.json` that made its text.
        dataset: version it was trained on.
        rows: of that version.
        recipe: its name.
        code_version: of the training program.
        warm_start: SHA-256 of the weights that its training began with; empty if random.
    """

    version: str
    dalle_sha256: str
    dvae_sha256: str
    tokenizer_sha256: str
    dataset: str
    rows: int
    recipe: str
    code_version: str
    warm_start: str


@dataclass(frozen=True)
class Entry:
    """One move of the pointer.

    Attributes:
        number: from 1.
        action: what kind of move.
        model: the promoted one from here on.
        who: did it.
        when: ISO 8601 in UTC.
        why: in words.
        figures: of the comparison that led to it.
        overruled: what the comparison found wrong.
    """

    number: int
    action: Action
    model: Model
    who: str
    when: str
    why: str
    figures: Mapping[str, float] = field(default_factory=dict)
    overruled: Sequence[str] = ()


def history(layout: Layout) -> list[Entry]:
    """Every entry, oldest first.

    Raises:
        PromotionError: if one cannot be read.
    """
    urls = storage.list_files(layout.promoted, ".json")
    return [_read(url) for url in urls if _ENTRY.fullmatch(url.rsplit("/", 1)[1])]


def current(layout: Layout) -> Entry | None:
    """The newest entry; None before the first promotion."""
    entries = history(layout)
    return entries[-1] if entries else None


def rolled_back(entries: Sequence[Entry]) -> dict[str, Entry]:
    """By version, the move that took it back, unless it was promoted again."""
    found: dict[str, Entry] = {}
    for before, entry in zip([None, *entries], entries, strict=False):
        if entry.action is Action.ROLLED_BACK and before is not None:
            found[before.model.version] = entry
        found.pop(entry.model.version, None)
    return found


def before(entries: Sequence[Entry]) -> Model:
    """The model to go back to: the newest other one that was not taken back itself.

    Raises:
        PromotionError: if there is none.
    """
    taken_back = rolled_back(entries)
    for entry in reversed(entries):
        version = entry.model.version
        if version != entries[-1].model.version and version not in taken_back:
            return entry.model
    raise PromotionError("no other version was promoted before; there is nothing to go back to")


def append(
    layout: Layout,
    after: Entry | None,
    action: Action,
    model: Model,
    *,
    who: str,
    why: str,
    figures: Mapping[str, float] | None = None,
    overruled: Sequence[str] = (),
) -> Entry:
    """Move the pointer.

    Args:
        layout: of the data root.
        after: the entry that was the newest when this move was decided.
        action: what kind of move it is.
        model: the one to promote.
        who: does it.
        why: in words.
        figures: of the comparison.
        overruled: what was found wrong.

    Raises:
        PromotionError: if somebody else moved it since.
    """
    number = after.number + 1 if after else 1
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    figures = figures or {}
    entry = Entry(number, action, model, who, when, why, figures, tuple(overruled))
    try:
        _create(join(layout.promoted, f"{number:06d}.json"), dataclasses.asdict(entry))
    except FileExistsError as error:
        raise PromotionError(
            "another model was promoted at the same time; look at it (`show`), and try again"
        ) from error
    return entry


def _create(url: str, value: Any) -> None:
    """Write a JSON file that must not be there yet; it appears whole."""
    fs, path = storage.filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, json.dumps(value, indent=1, sort_keys=True).encode(), mode="create")
        return
    directory, _, name = path.rpartition("/")
    os.makedirs(directory, exist_ok=True)
    # Unlike a rename, a link does not replace what another process has put there meanwhile.
    whole = f"{directory}/.{name}.{uuid.uuid4().hex}"
    storage.write_json(whole, value)
    try:
        os.link(whole, path)
    finally:
        os.unlink(whole)


def _read(url: str) -> Entry:
    try:
        value = storage.read_json(url)
        model, action = Model(**value["model"]), Action(value["action"])
        known = {"model": model, "action": action, "overruled": tuple(value["overruled"])}
        return Entry(**value | known)
    except (TypeError, KeyError, ValueError) as error:
        raise PromotionError(f"{url} is no entry of the log of promotions: {error}") from error

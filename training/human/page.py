"""A page without a server that asks people to compare the pictures of two models."""

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from training.errors import InputError

LISTING = "pictures.jsonl"
_SMALL = 128  # shown enlarged by whole pixels


@dataclass(frozen=True)
class Pair:
    """A caption and what each of the two models drew for it: files of pictures."""

    caption: str
    first: Path
    second: Path


def read_pictures(listing: Path) -> dict[str, Path]:
    """The first picture of each caption.

    Args:
        listing: JSON lines with `caption` and `file`, which is relative to the listing.

    Raises:
        InputError: if the listing or one of its pictures is not there or not readable.
    """
    try:
        rows = [json.loads(line) for line in listing.read_text().splitlines()]
        named = [(str(row["caption"]), listing.parent / row["file"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{listing} cannot be read ({error!r}); expected JSON lines with caption and file"
        ) from error
    found: dict[str, Path] = {}
    for number, (caption, path) in enumerate(named, 1):
        if not path.is_file():
            raise InputError(f"{listing}, line {number}: {path} is not there")
        found.setdefault(caption, path)
    return found


def pairs(first: Path, second: Path, count: int) -> list[Pair]:
    """The captions that both models drew, `count` at most, in an order that mixes them.

    Raises:
        InputError: if there is none.
    """
    ours, theirs = read_pictures(first), read_pictures(second)
    both = sorted(ours.keys() & theirs, key=lambda c: hashlib.sha256(c.encode()).digest())
    if not both:
        raise InputError(f"{first} and {second} have no caption in common; draw the same captions")
    return [Pair(caption, ours[caption], theirs[caption]) for caption in both[:count]]


def render(chosen: list[Pair], title: str) -> str:
    """The page, with its pictures inside.

    It does not say which model a picture is from; each visitor gets an order and sides of their
    own.
    """
    shown: list[dict[str, str]] = []
    largest = 0
    for pair in chosen:
        pictures = {"first": _Picture(pair.first), "second": _Picture(pair.second)}
        largest = max(largest, *(picture.side for picture in pictures.values()))
        key = hashlib.sha256(pair.caption.encode())
        for picture in pictures.values():
            key.update(picture.data)
        urls = {name: picture.url for name, picture in pictures.items()}
        shown.append({"id": key.hexdigest()[:16], "caption": pair.caption} | urls)
    environment = Environment(
        loader=PackageLoader("training.human", "."), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, pairs=shown, page=page_id(shown), small=largest <= _SMALL)


def page_id(shown: list[dict[str, str]]) -> str:
    """Hash of the pairs that a page shows; votes name it."""
    return hashlib.sha256(" ".join(pair["id"] for pair in shown).encode()).hexdigest()[:16]


class _Picture:
    """Bytes of a picture, its longer side in pixels, and its data URL."""

    def __init__(self, path: Path):
        self.data = path.read_bytes()
        try:
            with Image.open(io.BytesIO(self.data)) as picture:
                self.side = max(picture.size)
                kind = Image.MIME[str(picture.format)]
        except OSError as error:
            raise InputError(f"{path} is not a picture: {error}") from error
        self.url = f"data:{kind};base64,{base64.b64encode(self.data).decode()}"

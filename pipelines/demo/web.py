"""A small real web: about 4,000 pictures on pages, with all that makes crawling hard.

What is on it, beside every picture once with an English caption: names in other languages,
boilerplate and too short captions, repeats, broken links, a page behind a picture's address, an
oversized picture, a folder that robots.txt forbids, one that X-Robots-Tag forbids, and changed
copies of the pictures of a reference set whose originals are on no page.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines import ledger, storage
from pipelines.demo.corpus import Picture, encoded, load_pictures, open_png
from pipelines.demo.pages import Shown, Style, render_page, render_sitemap
from pipelines.demo.reference import COPIED, REFERENCES, choose_references, make_copies

MAX_BYTES = 1_000_000
"""Limit of a body that the demonstration's crawler is to set; one picture is larger."""

MARKER = "_BUILT.json"
_CODE_VERSION = "1"
_ALL = 3900  # pictures from which on every case has its full number
_LANGUAGES = ("de", "es", "fr", "it", "ja", "pt", "ru", "zh")
_BOILERPLATE = (
    "photographed on 12 March 2019",
    "IMG_2041.jpg",
    "DSC_0412.JPG",
    "click to enlarge",
    "image may be subject to copyright",
    "stock photo 118203",
)
_TOO_SHORT = ("ok", "x", "12", "no.", "--")


@dataclass(frozen=True)
class Web:
    """A web that was built.

    Attributes:
        directory: holds `www/` (what is served), `server.json`, `truth.json` and the references.
        base_url: address that it must be served at.
        counts: pages, and pictures by the case that they stand for.
    """

    directory: str
    base_url: str
    counts: dict[str, int]

    @property
    def reference(self) -> str:
        """Directory of the reference pictures, laid out as MS-COCO is."""
        return f"{self.directory}/reference/val2014"

    @property
    def truth(self) -> str:
        """JSON: for each special case its URLs; for `reference_copies` what they copy, and how."""
        return f"{self.directory}/truth.json"

    @property
    def sitemap(self) -> str:
        """Address of the sitemap."""
        return f"{self.base_url}/sitemap.xml"


def build_web(directory: str, base_url: str, limit: int | None = None) -> Web:
    """Build the web, unless `directory` holds it already; it appears there whole or not at all.

    Args:
        directory: local; replaced if it holds another web.
        base_url: `http://host:port` that it will be served at.
        limit: about so many pictures, each special case a few times; all of them if None.

    Raises:
        ValueError: if `directory` holds something else, or `limit` is too small.
    """
    directory, base_url = os.path.abspath(directory), base_url.rstrip("/")
    if limit is not None and limit < 40:
        raise ValueError(f"limit must be at least 40 for every special case, got {limit}")
    fingerprint = ledger.fingerprint(_CODE_VERSION, [base_url, limit], [])
    marker = os.path.join(directory, MARKER)
    if os.path.exists(marker):
        built = storage.read_json(marker)
        if built["fingerprint"] == fingerprint:
            return Web(directory, base_url, built["counts"])
    elif os.path.exists(directory) and os.listdir(directory):
        raise ValueError(f"{directory} holds other files: name an empty directory for the web")
    parent, name = os.path.split(directory)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    try:
        counts = _Builder(Path(temporary), base_url, load_pictures(limit)).build()
        storage.write_json(
            os.path.join(temporary, MARKER), {"fingerprint": fingerprint, "counts": counts}
        )
        os.chmod(temporary, 0o755)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Web(directory, base_url, counts)


class _Builder:
    """Writes one web; `_seed` makes every choice, so equal arguments give equal files."""

    def __init__(self, root: Path, base_url: str, pictures: Sequence[Picture]):
        self._root = root
        self._base_url = base_url
        self._pictures = pictures
        self._share = min(1.0, len(pictures) / _ALL)
        self._seed = random.Random(20210224)
        self._pages: list[str] = []
        self._truth: dict[str, Any] = {"reference_copies": {}}
        self._counts: Counter[str] = Counter()

    def build(self) -> dict[str, int]:
        references = choose_references(self._pictures, self._some(REFERENCES))
        self._write_references(references)
        hidden = {picture.stem for picture in references}
        ordinary = [picture for picture in self._pictures if picture.stem not in hidden]
        paths = {picture.stem: self._place(picture.png(), picture.stem) for picture in ordinary}
        shown = [Shown(paths[picture.stem], picture.caption) for picture in ordinary]
        self._counts["ordinary"] = len(shown)
        shown += self._copies(references) + self._faults(ordinary) + self._repeats(ordinary, paths)
        self._seed.shuffle(shown)
        self._write_galleries("gallery", shown)
        self._write_other_captions(ordinary, paths)
        self._write_closed("private", ordinary)
        self._write_closed("reserved", ordinary)
        self._write_site_files()
        self._counts["pages"] = len(self._pages)
        return dict(sorted(self._counts.items()))

    def _some(self, full: int) -> int:
        """A case's number of pictures: `full` on the whole web, at least two."""
        return max(2, round(full * self._share))

    def _sample(self, pictures: Sequence[Picture], full: int) -> list[Picture]:
        return self._seed.sample(list(pictures), self._some(full))

    def _write(self, path: str, data: bytes) -> None:
        file = self._root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def _place(self, data: bytes, key: str, suffix: str = "png", folder: str = "media") -> str:
        """Serve `data` at a path whose name tells nothing; returns the path."""
        path = _path(key, suffix, folder)
        self._write(f"www{path}", data)
        return path

    def _note(self, case: str, path: str, caption: str) -> Shown:
        """Remember a special case in the truth file and the counts."""
        self._truth.setdefault(case, []).append(self._base_url + path)
        self._counts[case] += 1
        return Shown(path, caption)

    def _write_references(self, references: Sequence[Picture]) -> None:
        for number, picture in enumerate(references, start=1):
            self._write(f"reference/val2014/{_reference_name(number)}", picture.png())
        self._counts["references"] = len(references)

    def _copies(self, references: Sequence[Picture]) -> list[Shown]:
        shown = []
        names = {p.stem: _reference_name(i) for i, p in enumerate(references, start=1)}
        count = min(len(references), self._some(COPIED))
        for picture in self._seed.sample(list(references), count):
            for copy in make_copies(picture, self._seed):
                path = self._place(copy.data, f"{picture.stem} {copy.attack}", copy.suffix)
                self._truth["reference_copies"][self._base_url + path] = {
                    "reference": names[picture.stem],
                    "attack": str(copy.attack),
                }
                shown.append(Shown(path, picture.caption))
        self._counts["reference_copies"] = len(shown)
        return shown

    def _faults(self, ordinary: Sequence[Picture]) -> list[Shown]:
        """Broken links, a text behind a picture's address, a picture of more than `MAX_BYTES`."""
        shown = [
            self._note("broken", _path(f"{picture.stem} gone"), picture.caption)
            for picture in self._sample(ordinary, 40)
        ]
        for picture in self._sample(ordinary, 8):
            body = b"<!doctype html><title>Moved</title><p>This picture has moved.</p>"
            path = self._place(body, f"{picture.stem} moved")
            shown.append(self._note("not_an_image", path, picture.caption))
        side = 900
        noise = Image.frombytes("RGB", (side, side), self._seed.randbytes(3 * side * side))
        path = self._place(encoded(noise, "PNG", compress_level=1), "poster")
        shown.append(self._note("oversized", path, "a very large poster of noise as an emoji"))
        return shown

    def _repeats(self, ordinary: Sequence[Picture], paths: dict[str, str]) -> list[Shown]:
        """The same file at another address, and the same address and caption again."""
        shown = []
        for picture in self._sample(ordinary, 60):
            path = self._place(picture.png(), f"{picture.stem} again")
            shown.append(self._note("same_file", path, picture.caption))
        same = self._sample(ordinary, 60)
        return shown + [self._note("same_pair", paths[p.stem], p.caption) for p in same]

    def _write_other_captions(self, ordinary: Sequence[Picture], paths: dict[str, str]) -> None:
        """Pictures of the galleries once more, with captions that a rule must drop."""
        for language in _LANGUAGES:
            named = [picture for picture in ordinary if language in picture.names]
            sample = [(p, p.names[language]) for p in self._sample(named, 40)]
            shown = [self._note("other_language", paths[p.stem], name) for p, name in sample]
            self._write_galleries(language, shown)
        for case, captions, full in (("boilerplate", _BOILERPLATE, 80), ("short", _TOO_SHORT, 40)):
            shown = [
                self._note(case, paths[picture.stem], captions[i % len(captions)])
                for i, picture in enumerate(self._sample(ordinary, full))
            ]
            self._write_galleries("archive" if case == "boilerplate" else "notes", shown)

    def _write_closed(self, folder: str, ordinary: Sequence[Picture]) -> None:
        """A page and pictures in a closed folder; half of them are shown on an open page too."""
        shown = []
        for picture in self._sample(ordinary, 20):
            path = self._place(picture.png(), f"{picture.stem} {folder}", folder=f"{folder}/media")
            shown.append(self._note(folder, path, picture.caption))
        self._write_page(f"/{folder}/index.html", folder, shown, Style.RELATIVE)
        self._write_galleries("guests", shown[: len(shown) // 2])

    def _write_galleries(self, folder: str, shown: Sequence[Shown]) -> None:
        start = 0
        while start < len(shown):
            size = self._seed.randint(20, 50)
            number = len(self._pages) + 1
            style = list(Style)[number % len(Style)]
            pictures = list(shown[start : start + size])
            if style is Style.SRCSET:
                pictures = [self._with_thumbnail(picture) for picture in pictures]
            path = f"/{folder}/{number:03d}.html"
            self._write_page(path, f"Pictures, part {number}", pictures, style)
            start += size

    def _write_page(self, path: str, title: str, shown: Sequence[Shown], style: Style) -> None:
        page = render_page(title, shown, style, path, self._base_url)
        self._write(f"www{path}", page.encode())
        self._pages.append(path)

    def _with_thumbnail(self, shown: Shown) -> Shown:
        file = self._root / f"www{shown.path}"
        if not file.exists() or file.stat().st_size > MAX_BYTES or shown.path.endswith("jpg"):
            return shown
        data = file.read_bytes()
        if not data.startswith(b"\x89PNG"):
            return shown
        small = encoded(open_png(data).resize((36, 36)), "PNG")
        return shown._replace(thumbnail=self._place(small, f"{shown.path} small"))

    def _write_site_files(self) -> None:
        self._write("www/sitemap.xml", render_sitemap(self._pages, self._base_url).encode())
        robots = f"User-agent: *\nDisallow: /private/\n\nSitemap: {self._base_url}/sitemap.xml\n"
        self._write("www/robots.txt", robots.encode())
        pixel = Image.new("RGBA", (1, 1))
        self._write("www/logo.png", encoded(pixel.resize((48, 48)), "PNG"))
        self._write("www/pixel.gif", encoded(pixel.convert("P"), "GIF"))
        headers = [
            ["/reserved/index.html", "X-Robots-Tag", "noai"],
            ["/reserved/media/", "X-Robots-Tag", "noindex, noimageai"],
        ]
        self._write("server.json", _json({"headers": headers}))
        self._write("truth.json", _json(self._truth))


def _path(key: str, suffix: str = "png", folder: str = "media") -> str:
    digest = hashlib.sha256(f"demo web {key}".encode()).hexdigest()
    return f"/{folder}/{digest[:2]}/{digest[2:14]}.{suffix}"


def _reference_name(number: int) -> str:
    return f"COCO_val2014_{number:012d}.png"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

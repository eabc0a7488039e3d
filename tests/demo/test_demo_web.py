import io
import json
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.crawl.sources.html import parse_page
from pipelines.demo.corpus import english_name, load_pictures, on_white, open_png
from pipelines.demo.reference import choose_references
from pipelines.demo.web import MARKER, MAX_BYTES, build_web

BASE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return build_web(str(tmp_path_factory.mktemp("demo") / "web"), BASE, 80)


@pytest.fixture(scope="module")
def shown(web):
    """(URL, caption) of all pages, as our own parser finds them."""
    found = []
    for page in sorted(Path(web.directory, "www").rglob("*.html")):
        address = f"{BASE}/{page.relative_to(Path(web.directory, 'www'))}"
        found += parse_page(page.read_bytes(), address).images
    return found


@pytest.fixture(scope="module")
def truth(web):
    return json.loads(Path(web.truth).read_text())


def served_file(web, url: str) -> Path:
    return Path(web.directory, "www", url.removeprefix(f"{BASE}/"))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (":grinning_face:", "grinning face"),
        (":woman_firefighter_medium-dark_skin_tone:", "woman firefighter: medium-dark skin tone"),
        (
            ":men_holding_hands_light_skin_tone_dark_skin_tone:",
            "men holding hands: light skin tone, dark skin tone",
        ),
        (
            ":person_medium-light_skin_tone_blond_hair:",
            "person: medium-light skin tone, blond hair",
        ),
    ],
)
def test_names_are_words(code, name):
    assert english_name(code) == name


def test_every_named_picture_has_a_caption_of_its_own():
    pictures = load_pictures()
    assert len(pictures) == 3953
    captions = {picture.caption for picture in pictures}
    assert len(captions) == 3953
    assert "the flag of Fiji as an emoji" in captions or "the flag of Fiji, drawn as an emoji" in (
        captions
    )
    second = sum(caption.endswith(", drawn as an emoji") for caption in captions)
    assert 0.2 < second / 3953 < 0.3
    assert len([p for p in pictures if p.is_flag]) > 250


def test_references_are_like_nothing_else_and_on_no_page(web, shown):
    references = sorted(Path(web.reference).iterdir())
    assert len(references) == web.counts["references"] > 1
    originals = {file.read_bytes() for file in references}
    urls = {image.url for image in shown}
    served = {f.read_bytes() for f in Path(web.directory, "www").rglob("*.png")}
    assert not originals & served
    assert len(urls) > 80
    pictures = load_pictures(80)
    chosen = choose_references(pictures, 60)
    assert originals <= {picture.png() for picture in chosen}
    # By the library's own hashes: none is near another picture, as it is or mirrored.
    plain = {p.stem: on_white(open_png(p.png())) for p in pictures}
    bits = {stem: imagehash.phash(image, 16) for stem, image in plain.items()}
    mirrored = {stem: imagehash.phash(ImageOps.mirror(i), 16) for stem, i in plain.items()}
    nearest = {
        c.stem: min(
            bits[c.stem] - other
            for variants in (bits, mirrored)
            for stem, other in variants.items()
            if stem != c.stem
        )
        for c in chosen
    }
    assert 1 < len(nearest) < len(pictures)
    assert min(nearest.values()) > 90


def test_copies_are_what_the_truth_says(web, shown, truth):
    references = {f.name: f for f in Path(web.reference).iterdir()}
    attacks = []
    captions = dict(shown)
    for url, copy in truth["reference_copies"].items():
        original = np.asarray(on_white(open_png(references[copy["reference"]].read_bytes())))
        file = served_file(web, url)
        got = on_white(Image.open(io.BytesIO(file.read_bytes())).convert("RGBA"))
        if copy["attack"] == "mirrored":
            got = got.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if copy["attack"] == "resized":
            assert got.size != (72, 72)
        got = got.resize((72, 72), Image.Resampling.LANCZOS)
        error = np.abs(np.asarray(got, np.float32) - original).mean()
        assert error < 12, (url, copy, error)
        attacks.append(copy["attack"])
        assert "emoji" in captions[url]
        assert copy["reference"][-10:-4] not in url
    assert {*attacks} == {"reencoded", "resized", "mirrored"}
    assert len(attacks) == web.counts["reference_copies"] >= 6


def test_the_special_cases_are_there(web, shown, truth):
    urls = [image.url for image in shown]
    assert all(not served_file(web, url).exists() for url in truth["broken"])
    assert all(served_file(web, url).read_bytes()[:2] == b"<!" for url in truth["not_an_image"])
    (poster,) = truth["oversized"]
    assert served_file(web, poster).stat().st_size > 2 * MAX_BYTES
    assert Image.open(served_file(web, poster)).size == (900, 900)
    for case in ("broken", "same_file", "private", "reserved", "other_language", "short"):
        assert set(truth[case]) <= set(urls), case
    pairs = [tuple(image) for image in shown]
    assert len(pairs) - len(set(pairs)) >= len(truth["same_pair"])
    # Thumbnails, logos and counting pixels are no candidates.
    assert not any(url.endswith((".gif", "logo.png")) for url in urls)
    sizes = {Image.open(served_file(web, u)).size for u in urls if u not in truth["not_an_image"]
             and u not in truth["broken"] and u not in truth["oversized"]
             and u not in truth["reference_copies"]}  # fmt: skip
    assert sizes == {(72, 72)}


def test_the_same_arguments_give_the_same_files(web, tmp_path):
    again = build_web(str(tmp_path / "web"), BASE, 80)
    one, two = (
        {str(f.relative_to(d)): f.read_bytes() for f in Path(d).rglob("*") if f.is_file()}
        for d in (web.directory, again.directory)
    )
    assert one == two


def test_a_web_is_built_once_and_replaced_when_it_is_another(tmp_path):
    directory = tmp_path / "web"
    first = build_web(str(directory), BASE, 40)
    stamp = (directory / MARKER).stat().st_mtime_ns
    assert build_web(str(directory), f"{BASE}/", 40) == first
    assert (directory / MARKER).stat().st_mtime_ns == stamp
    other = build_web(str(directory), "http://127.0.0.1:10", 40)
    assert other.base_url == "http://127.0.0.1:10"
    assert b"127.0.0.1:10/" in (directory / "www" / "sitemap.xml").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["web"]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        build_web(str(tmp_path), BASE, 40)
    with pytest.raises(ValueError, match="at least 40"):
        build_web(str(tmp_path / "web"), BASE, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]

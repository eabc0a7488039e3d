"""MS-COCO and CUB-200-2011 as reference sets, and what is said of broken ones."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_layouts import write_coco, write_cub

from pipelines.dedupe.references import ReferenceSource, list_references
from training.dvae.images import centre_crop
from training.errors import InputError
from training.metrics.coco import coco
from training.metrics.cub import cub
from training.metrics.overlap import overlapping
from training.metrics.reference_set import ReferenceSet

SIZE = 16


def pictures(found: ReferenceSet) -> torch.Tensor:
    return torch.cat(list(found.open()))


def expected(root: Path, name: str) -> np.ndarray:
    with Image.open(root / name) as opened:
        return centre_crop(opened.convert("RGB"), SIZE)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("references")
    return write_coco(root / "coco", 70), write_cub(root / "cub", 24)


def test_coco_gives_a_caption_for_each_picture(both: tuple[Path, Path]) -> None:
    found = coco(both[0], 70, SIZE, seed=3)
    assert len(set(found.captions)) == len(set(found.names)) == 70
    content = json.loads((both[0] / "annotations/captions_val2014.json").read_text())
    own: dict[str, set[str]] = {}
    files = {image["id"]: f"val2014/{image['file_name']}" for image in content["images"]}
    for row in content["annotations"]:
        own.setdefault(files[row["image_id"]], set()).add(row["caption"].strip())
    for caption, name in zip(found.captions, found.names, strict=True):
        assert caption in own[name]
    # Seventy pictures share one caption, which only one of them can have.
    assert found.captions.count("An emoji on white.") <= 1
    read = pictures(found)
    assert read.shape == (70, 3, SIZE, SIZE)
    for i in (0, 33, 69):
        there = expected(both[0], found.names[i])
        assert np.array_equal(read[i].permute(1, 2, 0).numpy(), there)


def test_a_smaller_sample_is_part_of_a_larger_one(both: tuple[Path, Path]) -> None:
    large, small = coco(both[0], 50, SIZE, seed=1), coco(both[0], 20, SIZE, seed=1)
    assert small.captions == large.captions[:20]
    assert coco(both[0], 20, SIZE, seed=2).names != small.names


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_set_tells_which_files_it_was_read_from(both: tuple[Path, Path]) -> None:
    annotations = "annotations/captions_val2014.json"
    assert coco(both[0], 5, SIZE).sources == {
        annotations: sha256((both[0] / annotations).read_bytes())
    }
    found = cub(both[1], None, SIZE)
    files = [f"text_c10/{name[7:-4]}.txt" for name in dict.fromkeys(found.names)]
    # Their order is that of images.txt.
    order = (both[1] / "images.txt").read_text()
    files.sort(key=lambda file: order.index(file[9:-4]))
    listing = subprocess.run(
        ["sha256sum", *files], cwd=both[1], capture_output=True, check=True
    ).stdout
    assert found.sources == {
        "images.txt": sha256((both[1] / "images.txt").read_bytes()),
        "train_test_split.txt": sha256((both[1] / "train_test_split.txt").read_bytes()),
        "text_c10/ as sha256sum lists it": sha256(listing),
    }


def test_cub_gives_every_distinct_caption_of_the_test_split(both: tuple[Path, Path]) -> None:
    found = cub(both[1], None, SIZE)
    # 8 of 24 pictures, 2 captions of their own each, and one that all share.
    assert len(found.captions) == len(set(found.captions)) == 17
    assert len(set(found.names)) == 8
    split = dict(x.split() for x in (both[1] / "train_test_split.txt").read_text().splitlines())
    numbers = (x.split() for x in (both[1] / "images.txt").read_text().splitlines())
    test = {f"images/{name}" for number, name in numbers if split[number] == "0"}
    assert set(found.names) == test
    read = pictures(found)
    assert len(read) == 8
    for i in (0, 16):
        there = expected(both[1], found.names[i])
        assert np.array_equal(read[found.places[i]].permute(1, 2, 0).numpy(), there)
    assert cub(both[1], 5, SIZE).captions == found.captions[:5]


def test_names_are_those_of_the_reference_index(both: tuple[Path, Path]) -> None:
    """So a copy that deduplication found is found again here, wherever the index began."""
    for found, root in ((coco(both[0], 70, SIZE), both[0]), (cub(both[1], None, SIZE), both[1])):
        for source in (root, root.parent):
            listing = list_references(ReferenceSource(str(source)))
            assert overlapping(found.names, {r.name for r in listing.references}).all()
        one = overlapping(found.names, {f"somewhere/{found.names[0]}", "other.jpg"})
        assert [n for n, hit in zip(found.names, one, strict=True) if hit] == [
            n for n in found.names if n == found.names[0]
        ]
        assert not overlapping(found.names, {f"x{Path(found.names[0]).name}"}).any()


def damage(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def _without_captions(root: Path) -> None:
    (root / "annotations/captions_val2014.json").unlink()


def _strange_caption(root: Path) -> None:
    damage(
        root / "annotations/captions_val2014.json",
        lambda text: text.replace('"image_id": 1,', '"image_id": 999,'),
    )


def _unlike_ids(root: Path) -> None:
    _strange_caption(root)
    damage(
        root / "annotations/captions_val2014.json",
        lambda text: text.replace('"image_id": 2,', '"image_id": "two",'),
    )


COCO = {
    "has captions of 2 pictures that it does not list": _unlike_ids,
    "captions_val2014.json is missing; unpack annotations_trainval2014.zip": _without_captions,
    "has captions of 1 pictures that it does not list, the first has the id 999": _strange_caption,
    "is not MS-COCO's file of captions (JSONDecodeError": lambda root: damage(
        root / "annotations/captions_val2014.json", lambda text: text[:-20]
    ),
    "is not MS-COCO's file of captions (KeyError: 'annotations')": lambda root: damage(
        root / "annotations/captions_val2014.json", lambda text: text.replace("annotations", "a")
    ),
    "1 pictures that": lambda root: next((root / "val2014").iterdir()).unlink(),
    "has 6 pictures with a caption of their own, 7 are asked for; give --coco-captions 6": (
        lambda root: None
    ),
}


@pytest.mark.parametrize("message", COCO)
def test_a_broken_coco_is_one_error(message: str, tmp_path: Path) -> None:
    COCO[message](write_coco(tmp_path, 6))
    with pytest.raises(InputError) as error:
        coco(tmp_path, 7, SIZE)
    assert message in str(error.value)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    found = coco(write_coco(tmp_path, 3), 3, SIZE)
    path = tmp_path / found.names[1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{path.name} cannot be read as a picture"):
        pictures(found)


CUB: dict[str, Callable[[Path], object]] = {
    "images.txt is missing; --cub takes": lambda root: (root / "images.txt").unlink(),
    "train_test_split.txt is missing": lambda root: (root / "train_test_split.txt").unlink(),
    "does not say 0 or 1 of picture 6": lambda root: damage(
        root / "train_test_split.txt", lambda text: text.replace("6 0\n", "")
    ),
    "has no picture for the test": lambda root: damage(
        root / "train_test_split.txt", lambda text: text.replace(" 0\n", " 1\n")
    ),
    "has the line '1'": lambda root: damage(root / "images.txt", lambda text: f"1\n{text}"),
    "1 pictures that": lambda root: (root / "images.txt").write_bytes(
        (root / "images.txt").read_bytes().replace(b"Bird_0003", b"Bird_\xff")
    ),
    "has no folder text_c10/ of captions": lambda root: (root / "text_c10").rename(root / "t"),
    "with the captions of a picture, is missing": lambda root: next(
        root.glob("text_c10/*/Bird_0003*")
    ).unlink(),
    "1 pictures that ": lambda root: next(root.glob("images/*/Bird_0003*")).unlink(),
    "has 5 captions in its test split, 7 are asked for; give --cub-captions 5": lambda root: None,
}


@pytest.mark.parametrize("message", CUB)
def test_a_broken_cub_is_one_error(message: str, tmp_path: Path) -> None:
    CUB[message](write_cub(tmp_path, 8))
    with pytest.raises(InputError) as error:
        cub(tmp_path, 7, SIZE)
    assert message in str(error.value)

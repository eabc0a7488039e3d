"""The test split of CUB-200-2011 as a reference set (arXiv 2102.12092, section 3.1).

The layout is CUB's own, with the captions of Reed et al. (arXiv 1605.05395), a file of ten lines
for each picture, in a folder beside it:

    images.txt              1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
    train_test_split.txt    1 0                  (0: of the test split)
    images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
    text_c10/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.txt      (or text/...)
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from training.errors import InputError
from training.metrics.reference_set import ReferenceSet, chosen, read_pictures, require_pictures

_LISTS = ("images.txt", "train_test_split.txt")
_CAPTIONS = ("text_c10", "text")


def cub(directory: Path, count: int | None, size: int, seed: int = 0) -> ReferenceSet:
    """Each distinct caption of the test split with its own picture.

    A picture counts as often as it has captions, so both sides have the same number. A caption
    of several pictures stands for the first of them.

    Args:
        directory: of the layout above.
        count: captions to draw from the seed; None for all.
        size: side of the pictures in pixels.
        seed: of that choice.

    Raises:
        InputError: if files are missing or broken, or there are fewer captions.
    """
    names = _test_split(directory)
    require_pictures((directory / "images" / name for name in names), f"{directory}/images.txt")
    folder = next((directory / n for n in _CAPTIONS if (directory / n).is_dir()), None)
    if folder is None:
        raise InputError(
            f"{directory} has no folder {_CAPTIONS[0]}/ of captions; put those of Reed et al. "
            "(cvpr2016_cub.tar.gz) there"
        )
    owners: dict[str, str] = {}
    files = [folder / Path(name).with_suffix(".txt") for name in names]
    for name, file in zip(names, files, strict=True):
        for caption in _captions(file):
            owners.setdefault(caption, name)
    if count is not None and count > len(owners):
        raise InputError(
            f"{directory} has {len(owners):,} captions in its test split, {count:,} are asked "
            f"for; give --cub-captions {len(owners)}, or leave it out for all"
        )
    captions = chosen(owners, seed, str)[:count]
    own = [f"images/{owners[caption]}" for caption in captions]
    paths = [directory / name for name in dict.fromkeys(own)]
    title = "CUB-200-2011, test split"
    return ReferenceSet(
        "cub",
        title,
        captions,
        own,
        lambda: read_pictures(paths, size),
        sources={
            **{name: _sha256((directory / name).read_bytes()) for name in _LISTS},
            f"{folder.name}/ as sha256sum lists it": _sha256(_listing(directory, files).encode()),
        },
    )


def _listing(directory: Path, files: Sequence[Path]) -> str:
    lines = (f"{_sha256(file.read_bytes())}  {file.relative_to(directory)}\n" for file in files)
    return "".join(lines)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _test_split(directory: Path) -> list[str]:
    """Names of the test pictures below `images/`, in the order of their numbers."""
    names = dict(_numbered(directory / _LISTS[0]))
    split = dict(_numbered(directory / _LISTS[1]))
    unknown = [number for number in names if split.get(number) not in ("0", "1")]
    if unknown:
        raise InputError(
            f"{directory}/train_test_split.txt does not say 0 or 1 of picture {unknown[0]} in "
            "images.txt; unpack both again"
        )
    found = [name for number, name in names.items() if split[number] == "0"]
    if not found:
        raise InputError(f"{directory}/train_test_split.txt has no picture for the test")
    return found


def _numbered(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        raise InputError(f"{file} is missing; --cub takes the folder CUB_200_2011, unpacked")
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    wrong = next((line for line in lines if len(line) != 2), None)
    if wrong is not None:
        raise InputError(f"{file} has the line {' '.join(wrong)!r}; expected a number and a value")
    return [(number, value) for number, value in lines]


def _captions(file: Path) -> Sequence[str]:
    if not file.is_file():
        raise InputError(f"{file}, with the captions of a picture, is missing; unpack them all")
    text = file.read_text(encoding="utf-8", errors="replace")
    return [words for line in text.splitlines() if (words := " ".join(line.split()))]

"""MS-COCO's and CUB-200-2011's layouts, small but real, made of the demonstration's pictures."""

import json
from pathlib import Path

from pipelines.demo.corpus import Picture, encoded, load_pictures, on_white, open_png

_CUB_TEST = 3  # every third picture


def drawings(count: int) -> list[Picture]:
    """Pictures spread over the demonstration's corpus."""
    return load_pictures(count)[:count]


def write_coco(root: Path, count: int) -> Path:
    """`count` pictures of the validation split with five captions each, and one without any."""
    folder = root / "val2014"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number, picture in enumerate(drawings(count + 1), 1):
        name = f"COCO_val2014_{number:012d}.jpg"
        image = on_white(open_png(picture.png()))
        # Not square, so that cropping shows.
        image = image.resize((96, 64 + number % 3 * 16))
        (folder / name).write_bytes(encoded(image, "JPEG", quality=90))
        images.append({"id": number, "file_name": name, "width": 96, "height": image.height})
        for n in range(5) if number <= count else ():
            text = f"{picture.name}, caption {n}\n" if n else "An emoji on white."
            annotations.append({"id": 10 * number + n, "image_id": number, "caption": text})
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (root / "annotations").mkdir()
    (root / "annotations/captions_val2014.json").write_text(json.dumps(content))
    return root


def write_cub(root: Path, count: int) -> Path:
    """`count` pictures, a third of them for the test, with three captions each."""
    names, split = [], []
    for number, picture in enumerate(drawings(count), 1):
        kind = f"{number % 4 + 1:03d}.Kind_{number % 4}"
        name = f"{kind}/Bird_{number:04d}_{picture.stem}.jpg"
        path, text = root / "images" / name, root / "text_c10" / f"{name[:-4]}.txt"
        for folder in (path.parent, text.parent):
            folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(on_white(open_png(picture.png())), "JPEG", quality=90))
        text.write_text(f"{picture.name}.\nthis bird is {picture.name}\nthis bird is small.\n")
        names.append(f"{number} {name}")
        split.append(f"{number} {int(number % _CUB_TEST > 0)}")
    (root / "images.txt").write_text("\n".join(names) + "\n")
    (root / "train_test_split.txt").write_text("\n".join(split) + "\n")
    return root

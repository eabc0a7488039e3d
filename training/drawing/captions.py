"""Pictures for captions of one's own: the best of many candidates, as files."""

import re
import sys
import unicodedata
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipelines import storage
from training.contrastive.rerank import Ranker
from training.drawing.choosing import SamplingOptions
from training.drawing.pictures import contact_sheet, to_images
from training.drawing.sampling import Prompt, draw_codes, pictures_of
from training.errors import InputError
from training.models.dvae import DVAE
from training.models.transformer import Transformer
from training.text import TextEncoder

_LABEL_WIDTH = 200
_SHOWN = 8
# Categories of Unicode: format characters, marks on a letter before them, spaces.
_SHAPELESS = ("Cf", "Mn", "Zs")
# What else shows nothing: fillers of Hangul and code points without a character yet, which Unicode
# says to ignore (Default_Ignorable_Code_Point), the empty Braille pattern and the null note head.
_BLANK = re.compile(
    "[\u115f\u1160\u2065\u2800\u3164\uffa0\ufff0-\ufff8\U0001d159\U000e0000-\U000e0fff]"
)
FACTS = "samples.json"
# What `write_pictures` and `best_pictures` leave in the folders of the captions.
FILES = re.compile(rf"caption-\d{{2,}}/({re.escape(FACTS)}|\.?(best-\d{{2,}}|sheet|partial)\.png)")


def clean_caption(caption: str) -> str:
    """The caption with control characters and other gaps as single spaces.

    Characters without a shape stay in a text: they join emoji, and letters of some scripts.

    Raises:
        InputError: if nothing that shows is left.
    """
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in caption)
    words = " ".join(visible.split())
    if all(unicodedata.category(c) in _SHAPELESS or _BLANK.match(c) for c in words):
        raise InputError(f"the caption {caption!r} has no text; say what the picture shows")
    return words


def warn_if_cut(encoder: TextEncoder, caption: str) -> None:
    """Say so if the model reads only the beginning of the caption."""
    tokens = len(encoder.tokenizer.encode(caption).ids)
    if tokens > encoder.length:
        print(
            f"warning: the caption has {tokens} tokens, the model reads the first {encoder.length}",
            file=sys.stderr,
        )


def best_pictures(
    model: Transformer,
    dvae: DVAE,
    encoder: TextEncoder,
    caption: str,
    *,
    candidates: int,
    best: int,
    seed: int = 0,
    options: SamplingOptions | None = None,
    prompt: Prompt | None = None,
    rank: Ranker | None = None,
    partial: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [best, 3, S, S] and their scores [best], the greatest first.

    Args:
        model: the transformer.
        dvae: decodes its codes.
        encoder: of the dataset it was trained on.
        caption: what to draw.
        candidates: pictures to draw.
        best: how many of them to keep, at most all.
        seed: of everything random.
        options: how a code is chosen.
        prompt: what is given of the picture.
        rank: scores pictures; None takes the model's own log-likelihood of the codes.
        partial: PNG file that shows the first candidates as far as they are drawn, written anew
            at every row of codes.

    Raises:
        InputError: if there is nothing to draw.
    """
    pictures, scores = [], []

    def look(codes: Tensor) -> None:
        if partial is not None:
            write_partial(partial, caption, dvae, codes[:_SHOWN])

    total = candidates * model.grid**2
    with tqdm(total=total, unit="code", unit_scale=True, desc=caption[:30]) as bar:
        for codes, nats in draw_codes(
            model, encoder, [caption], candidates,
            seed=seed, options=options, prompt=prompt, progress=bar.update, look=look,
        ):  # fmt: skip
            drawn = pictures_of(dvae, codes)
            pictures.append(drawn)
            scores.append(rank(drawn, caption).cpu() if rank else -nats.cpu())
    found = torch.cat(scores)
    order = found.argsort(descending=True, stable=True)[:best]
    return torch.cat(pictures)[order], found[order]


def write_partial(path: Path, caption: str, dvae: DVAE, codes: Tensor) -> None:
    """Write a sheet of pictures of which only the first codes, [n, rows * G], are drawn."""
    grid, drawn = dvae.config.grid, codes.shape[1]
    # Below what is drawn, where the pictures stay white, the codes do not matter.
    whole = torch.nn.functional.pad(codes, (0, grid**2 - drawn))
    pictures = pictures_of(dvae, whole).clone()
    pictures[:, :, drawn // grid * dvae.config.image_size // grid :] = 255
    contact_sheet([(caption, to_images(pictures))], path, label_width=_LABEL_WIDTH)


def write_pictures(
    directory: Path, caption: str, pictures: Tensor, scores: Tensor, facts: dict[str, object]
) -> None:
    """Write best-00.png ..., a sheet and samples.json (last) where no older ones lie."""
    directory.mkdir(parents=True, exist_ok=True)
    images = to_images(pictures)
    for i, image in enumerate(images):
        temporary = directory / f".best-{i:02d}.png"
        Image.fromarray(image).save(temporary, format="PNG")
        temporary.replace(directory / f"best-{i:02d}.png")
    contact_sheet([(caption, images)], directory / "sheet.png", label_width=_LABEL_WIDTH)
    facts = {"caption": caption, "scores": [round(float(s), 4) for s in scores], **facts}
    storage.write_json(str(directory / FACTS), facts)

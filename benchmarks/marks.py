"""What is measured. Every mark times ours and its peer in turn, in this process, on this data."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import imagehash
import numpy as np
from PIL import Image

from pipelines.curate.images import image_columns, measure
from pipelines.dedupe import hashes
from pipelines.demo.corpus import load_pictures, on_white, open_png

_ROUNDS = 5


@dataclass(frozen=True)
class Mark:
    """One ratio.

    Attributes:
        name: what is measured.
        ours: median CPU seconds of our code.
        peer: median CPU seconds of the peer, or of the limit.
        against: who the peer is.
        least: the ratio peer / ours that docs/performance.md asks for; None where it asks none.
    """

    name: str
    ours: float
    peer: float
    against: str
    least: float | None

    @property
    def ratio(self) -> float:
        """How many times the peer's speed ours is."""
        return self.peer / self.ours


def _compare(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds of both, run in turn, so that a slow machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for work, kept in zip((ours, peer), seconds, strict=True):
            start = time.process_time()
            work()
            kept.append(time.process_time() - start)
    return median(seconds[0]), median(seconds[1])


def hash_step() -> Mark:
    """DCT and median of 2,000 grey pictures beside imagehash's loop over the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 32, 32), dtype=np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    ours, peer = _compare(
        lambda: hashes.hash_pixels(pixels, 8),
        lambda: [imagehash.phash(picture) for picture in pictures],
    )
    return Mark("perceptual hash from grey pixels", ours, peer, "imagehash.phash", 8.0)


def decode_to_crop() -> Mark:
    """Photo-sized JPEG to rules, four hashes and the stored picture, decoded once.

    The peer is the same done by hand with Pillow and imagehash, which opens the file for each.
    """
    photos = []
    for picture in load_pictures(24):
        large = on_white(open_png(picture.png())).resize((1024, 768), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        large.save(stream, "JPEG", quality=90)
        photos.append(stream.getvalue())

    def ours() -> None:
        image_columns([measure(Image.open(io.BytesIO(p)).convert("RGB"), 256) for p in photos])

    def peer() -> None:
        for photo in photos:
            imagehash.phash(Image.open(io.BytesIO(photo)))
            imagehash.phash(Image.open(io.BytesIO(photo)), hash_size=16)
            picture = Image.open(io.BytesIO(photo)).convert("RGB")
            picture.resize((341, 256), Image.Resampling.LANCZOS)

    seconds = _compare(ours, peer)
    return Mark("decode, rules, hashes and 256 px copy", *seconds, "Pillow and imagehash", 2.0)


def training_step() -> Mark:
    """Forward and backward of the table's transformer beside a matrix product of as many FLOP."""
    import torch

    from training.config import TransformerConfig
    from training.losses import cross_entropy, stream_loss
    from training.models.transformer import Transformer, block_parameters

    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch, text_length, grid, vocabulary = 8, 80, 16, 8192
    config = TransformerConfig(depth=8, heads=8, head_width=32)
    model = Transformer(config, vocabulary - text_length, text_length, vocabulary, grid)
    text = torch.randint(vocabulary - text_length, (batch, text_length))
    codes = torch.randint(vocabulary, (batch, grid**2))

    def ours() -> None:
        logits = model(text, codes)
        losses = cross_entropy(logits.text, text), cross_entropy(logits.image, codes)
        stream_loss(*losses, 1 / 8).backward()

    heads = (text_length + grid**2) * config.width * vocabulary
    flop = 6 * batch * (block_parameters(model) * model.length + heads)
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    products = round(flop / (2 * side**3))

    def peer() -> None:
        for _ in range(products):
            a @ b

    seconds = _compare(ours, peer)
    return Mark("transformer step, share of a matrix product", *seconds, "torch.matmul", 0.65)


MARKS: tuple[Callable[[], Mark], ...] = (hash_step, decode_to_crop, training_step)

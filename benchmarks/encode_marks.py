"""The dVAE's encoder beside OpenAI's, and precompute beside the encoder alone.

`python -m benchmarks.encode_marks` also prints the paper's size, and what an image costs beside
the forward pass. Torch computes in one thread, and seconds are CPU seconds, but for precompute:
what is hidden behind the forward pass runs in other threads, so there time is what the wall clock
says, and needs a second core that is idle.
"""

import argparse
import hashlib
import io
import tempfile
import time
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.curate_marks import photos
from benchmarks.marks import Mark, compare
from benchmarks.token_marks import captions
from pipelines import identity, parquet, schemas
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import decode
from pipelines.encode import bpe
from pipelines.encode.config import TOKEN_FILE_OPTIONS, BpeConfig, EncodeConfig
from pipelines.encode.encoder import ImageFacts, PairEncoder, TextFacts
from pipelines.encode.image_tokens import crop
from pipelines.encode.image_tokens import decode as open_stored
from pipelines.shards import ShardStage

if TYPE_CHECKING:
    from training.image_tokenizer import DVAEImageTokenizer

_SIDE, _STORED, _WIDTH, _PAPER_WIDTH = 256, 288, 64, 256
_IMAGES = 16


def encoder_speed(width: int = _WIDTH, images: int = 4) -> Mark:
    """What the encode stage runs beside OpenAI's package, the same weights and pictures."""
    import torch
    from dall_e import Decoder, Encoder, map_pixels

    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = Encoder(n_hid=width)
    ours = image_tokenizer(theirs.state_dict(), Decoder(n_hid=width).state_dict())
    pictures = np.random.default_rng(0).integers(0, 256, (images, _SIDE, _SIDE, 3), np.uint8)

    @torch.inference_mode()
    def peer() -> npt.NDArray[np.int64]:
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        return theirs(map_pixels(x)).argmax(1).numpy()

    same = float((ours(pictures) == peer()).mean())
    if same < 0.999:
        raise ValueError(f"only {same:.2%} of the codes are those of OpenAI's package")
    seconds = compare(lambda: ours(pictures), peer)
    name = f"{images} images of 256 px, dVAE of width {width}"
    return Mark(name, *seconds, "OpenAI's dall-e 0.1", 1.3)


def image_tokenizer(encoder: Any, decoder: Any) -> "DVAEImageTokenizer":
    """OpenAI's weights as production loads a dVAE."""
    import torch

    from training.image_tokenizer import DVAEImageTokenizer, ImageTokenizerInfo
    from training.models.dvae import DVAE

    model = DVAE.from_openai(encoder, decoder).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = model.config
    info = ImageTokenizerInfo(config.image_size, config.grid, config.vocabulary, "0" * 64)
    return DVAEImageTokenizer(model, info)


def precompute() -> Mark:
    """The encode stage's worker, Parquet to Parquet, beside the forward passes alone."""
    import torch
    from dall_e import Decoder, Encoder

    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = Encoder(n_hid=_WIDTH).state_dict(), Decoder(n_hid=_WIDTH).state_dict()
    tokenizer = image_tokenizer(*weights)
    crops = np.stack([crop(_stored(i), bytes(16), 0, _SIDE) for i in range(_IMAGES)])
    tokenizer(crops)
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        stage, shards = _stage(Path(folder), tokenizer)
        encoder = stage.processor()
        for _ in range(3):
            start = time.perf_counter()
            stage.process_shards(shards, encoder)
            middle = time.perf_counter()
            tokenizer(crops)
            seconds[0].append(middle - start)
            seconds[1].append(time.perf_counter() - middle)
    ours, bare = (median(kept) for kept in seconds)
    return Mark(f"{_IMAGES} pairs to token rows, wall clock", ours, bare, "the encoder alone", 0.95)


def _stored(index: int) -> Any:
    """A photograph as curation stores it, decoded."""
    config, files = CurateConfig(), _photographs()
    data = files[index % len(files)]
    picture = decode(data, formats=config.formats, max_pixels=config.max_pixels)
    return picture.resize((_STORED * 4 // 3, _STORED))


@cache
def _photographs() -> list[bytes]:
    return photos()


def _stage(folder: Path, tokenizer: "DVAEImageTokenizer") -> tuple[ShardStage, list[Any]]:
    """The stage as the asset builds it, and two shards of pairs."""
    learnt = folder / "tokenizer.json"
    text = bpe.learn(iter(captions()), BpeConfig())
    learnt.write_text(text.to_str())
    digest = hashlib.sha256(learnt.read_bytes()).hexdigest()
    facts = TextFacts(str(learnt), digest, text.get_vocab_size(), 256)
    image = ImageFacts(
        tokenizer.sha256, tokenizer.image_size, tokenizer.grid, tokenizer.vocabulary, "fp32"
    )
    rows = []
    for i, caption in zip(range(_IMAGES), captions(), strict=False):
        stream = io.BytesIO()
        _stored(i).save(stream, "WEBP", quality=90)
        url = f"http://example.org/{i}"
        rows.append((identity.uid(url, caption), url, caption, caption, stream.getvalue()))
    names = ["uid", "url", "caption", "caption_raw", "image"]
    types = [pa.binary(16), pa.string(), pa.string(), pa.string(), pa.binary()]
    shards = []
    for i in range(2):
        half = zip(*rows[i::2], strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(half, types, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, names)
        url = str(folder / f"pairs-{i}.parquet")
        parquet.write(url, [batch], batch.schema)
        shards.append((i, url))
    config = EncodeConfig(batch=4)
    stage = ShardStage(
        dataset="token_grids",
        schema=schemas.token_grids(tokenizer.grid),
        processor=lambda: PairEncoder(
            facts, image, lambda: tokenizer, config.crops, config.batch, config.decode_threads
        ),
        output=str(folder / "out"),
        rejects=str(folder / "rejects"),
        fingerprint="benchmark",
        batch_rows=config.batch_rows,
        writer_options=tuple(TOKEN_FILE_OPTIONS.items()),
    )
    return stage, shards


def beside_the_forward_pass() -> dict[str, float]:
    """CPU milliseconds of an image: what the threads of a worker do for it."""
    spent = dict.fromkeys(("decode", "crop", "BPE ids"), 0.0)
    tokenizer = bpe.learn(iter(captions()), BpeConfig())
    for i, caption in zip(range(_IMAGES), captions(), strict=False):
        stream = io.BytesIO()
        _stored(i).save(stream, "WEBP", quality=90)
        times = [time.process_time()]
        picture = open_stored(stream.getvalue())
        times.append(time.process_time())
        crop(picture, bytes(16), 0, _SIDE)
        times.append(time.process_time())
        tokenizer.encode(caption)
        times.append(time.process_time())
        for name, start, end in zip(spent, times[:-1], times[1:], strict=True):
            spent[name] += 1000 * (end - start) / _IMAGES
    return spent


def main() -> None:
    """Print everything."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.encode_marks", description=__doc__
    ).parse_args()
    for mark in (encoder_speed(), encoder_speed(_PAPER_WIDTH), precompute()):
        print(
            f"{mark.name:44} {mark.ours:7.2f} s {mark.peer:7.2f} s {mark.ratio:6.2f} x "
            f"{mark.against} (asked {mark.least})",
            flush=True,
        )
    beside = beside_the_forward_pass()
    for name, spent in beside.items():
        print(f"{name:12} {spent:6.2f} ms an image")
    print(f"a core keeps up with an encoder of {1000 / sum(beside.values()):.0f} images/s")


if __name__ == "__main__":
    main()

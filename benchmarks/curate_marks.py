"""Decode, rules, hashes and the stored picture, beside the same with Pillow and imagehash.

`python -m benchmarks.curate_marks [FOLDER]` also prints how near the results are to those of the
full size, what the decoder's own process costs, and where the time goes; on the pictures of a
folder, or on the mark's own; and the same figures for real photographs, enlarged to web sizes.
"""

import argparse
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import imagehash
import numpy as np
from PIL import Image

from benchmarks.marks import Mark
from benchmarks.photographs import photographs
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import decode_pixels, encode, stored_size
from pipelines.curate.decoder import Decoder
from pipelines.curate.greys import luma, small_greys
from pipelines.curate.images import image_columns, image_reasons
from pipelines.curate.measure import GREY_SIDES, Limits, Measured, measure, working_side
from pipelines.curate.resize import lanczos
from pipelines.dedupe import hashes
from pipelines.dedupe.variants import inside_border
from pipelines.demo.corpus import load_pictures, on_white, open_png

_COUNT = 24
_ROUNDS = 5
_SIZE = (1024, 768)
# Amplitude over frequency: 1.0 to 1.4 in photographs; this gives files of 200 kB, as they have.
_FALL = 1.4
# Shorter sides of photographs on the web; of the first and the last a half and a quarter are just
# the working size, which is the worst case.
_SIDES = (768, 1024, 1200, 1536)
_LEAST_PSNR = 45.0
_MOST_BITS = 4
CONFIG = CurateConfig()
LIMITS = Limits(
    CONFIG.formats,
    CONFIG.max_pixels,
    CONFIG.max_frames,
    CONFIG.min_aspect,
    CONFIG.max_aspect,
    CONFIG.short_side,
)


def photos() -> list[bytes]:
    """JPEG files with a photograph's spectrum, and drawings for edges."""
    rng = np.random.default_rng(0)
    width, height = _SIZE
    across, down = np.fft.fftfreq(width)[None], np.fft.fftfreq(height)[:, None]
    falling = np.maximum(np.hypot(across, down), 1 / width) ** -_FALL
    found = []
    for drawing in load_pictures(_COUNT):
        phases = rng.normal(size=(3, height, width)) + 1j * rng.normal(size=(3, height, width))
        levels = np.fft.ifft2(phases * falling).real
        # Channels of photographs go together.
        levels += 2 * levels[:1]
        levels = 128 + 50 * levels / levels.std(axis=(1, 2), keepdims=True)
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())
        at = (int(rng.integers(0, width - 300)), int(rng.integers(0, height - 300)))
        image.paste(on_white(open_png(drawing.png())).resize((300, 300)), at)
        found.append(_jpeg(image))
    return found


def decode_to_crop() -> Mark:
    """Ours in its own process, both processes counted, beside a peer that decodes once too.

    Raises:
        ValueError: if crops or hashes of real photographs are further from those of the full size
            than the mark allows.
    """
    _require_quality(quality([data for side in _SIDES for data in enlarged(side)]))
    files = photos()
    with _Ours(files[0]) as ours:
        works = {"ours": lambda: ours(files), "peer": lambda: by_careful_hand(files)}
        seconds = _compare(works, ours)
    name = "decode, rules, hashes and 256 px copy"
    return Mark(name, seconds["ours"], seconds["peer"], "Pillow and imagehash, decoded once", 2.0)


def enlarged(side: int) -> list[bytes]:
    """Real photographs at this shorter side, as JPEG of quality 90."""
    found = []
    for image in photographs().values():
        size = [round(length * side / min(image.size)) for length in image.size]
        found.append(_jpeg(image.resize((size[0], size[1]), Image.Resampling.LANCZOS)))
    return found


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _require_quality(found: dict[str, float]) -> None:
    psnr, bits = found["PSNR, median dB"], found["64-bit hash, greatest distance"]
    if psnr < _LEAST_PSNR or bits > _MOST_BITS:
        raise ValueError(
            f"crops must have a median PSNR of {_LEAST_PSNR} dB and hashes be within {_MOST_BITS} "
            f"bits of the full size's; photographs gave {psnr:.1f} dB and {bits:.0f} bits"
        )


def by_hand(files: Sequence[bytes]) -> None:
    """What a person writes: every tool opens the file."""
    for data in files:
        imagehash.phash(Image.open(io.BytesIO(data)))
        imagehash.phash(Image.open(io.BytesIO(data)), hash_size=16)
        _lanczos(Image.open(io.BytesIO(data)).convert("RGB"))


def by_careful_hand(files: Sequence[bytes]) -> None:
    """What a careful person writes: one decoding for all three."""
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        imagehash.phash(image)
        imagehash.phash(image, hash_size=16)
        _lanczos(image)


def _lanczos(image: Image.Image) -> Image.Image:
    shorter = min(image.size)
    width, height = (round(side * CONFIG.short_side / shorter) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


class _Ours:
    """Curation's work on images, in this process and the decoder's."""

    def __init__(self, first: bytes) -> None:
        self._decoder = Decoder(CONFIG)
        # It starts with the first question.
        self._decoder.measure(first)

    def __enter__(self) -> "_Ours":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def __call__(self, files: Sequence[bytes]) -> None:
        _judged([self._decoder.measure(data) for data in files])

    def cpu_seconds(self) -> float:
        """Of both processes."""
        other = Path(f"/proc/{self._decoder.pid}/schedstat").read_text().split()[0]
        return time.process_time() + int(other) * 1e-9


def _judged(measured: Sequence[object]) -> None:
    columns = image_columns([m for m in measured if isinstance(m, Measured)])
    assert columns.num_rows == len(measured)
    image_reasons(columns, CONFIG)


def _compare(works: Mapping[str, Callable[[], object]], ours: _Ours) -> dict[str, float]:
    """Median CPU seconds of each, run in turn, so that a slow machine slows all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(_ROUNDS):
        for name, work in works.items():
            start = ours.cpu_seconds()
            work()
            seconds[name].append(ours.cpu_seconds() - start)
    return {name: median(kept) for name, kept in seconds.items()}


def quality(files: Sequence[bytes]) -> dict[str, float]:
    """PSNR of the stored pictures and distances of the hashes to those of the full size."""
    ratios: list[float] = []
    near: list[int] = []
    far: list[int] = []
    for data in files:
        found, full = measure(data, LIMITS), Image.open(io.BytesIO(data)).convert("RGB")
        error = np.asarray(found.small).astype(float) - np.asarray(_lanczos(full))
        ratios.append(10 * np.log10(255**2 / max(float((error**2).mean()), 1e-9)))
        for grey, size, kept in ((found.grey32, 8, near), (found.grey64, 16, far)):
            ours = np.unpackbits(hashes.hash_pixels(grey[None], size)[0])
            kept.append(int((ours != imagehash.phash(full, size).hash.reshape(-1)).sum()))
    return {
        "PSNR, median dB": median(ratios),
        "PSNR, least dB": min(ratios),
        "64-bit hash, mean distance": float(np.mean(near)),
        "64-bit hash, greatest distance": max(near),
        "256-bit hash, mean distance": float(np.mean(far)),
        "256-bit hash, greatest distance": max(far),
    }


def profile(files: Sequence[bytes]) -> dict[str, float]:
    """CPU milliseconds an image of each step, in this process."""
    steps: dict[str, float] = {}
    side = working_side(CONFIG.short_side)
    for data in files:
        clock = _Clock(steps)
        pixels, size = decode_pixels(
            data, formats=CONFIG.formats, max_pixels=CONFIG.max_pixels, at_least=side
        )
        clock.passed("decode")
        small = lanczos(pixels, *stored_size(*size, CONFIG.short_side))
        clock.passed("256 px copy")
        grey = luma(small)
        clock.passed("grey")
        small_greys(grey, GREY_SIDES)
        clock.passed("grey to 32 and 64")
        inside_border(grey)
        clock.passed("border")
        encode(small, CONFIG.encoding, CONFIG.quality)
        clock.passed("encode the copy")
    measured = [measure(data, LIMITS) for data in files]
    clock = _Clock(steps)
    _judged(measured)
    clock.passed("hashes and rules")
    return {f"{name}, ms": 1000 * spent / len(files) for name, spent in steps.items()}


class _Clock:
    """CPU time since the last call, added up by name."""

    def __init__(self, steps: dict[str, float]):
        self._steps = steps
        self._last = time.process_time()

    def passed(self, name: str) -> None:
        now = time.process_time()
        self._steps[name] = self._steps.get(name, 0.0) + now - self._last
        self._last = now


def _from_folder(folder: Path) -> list[bytes]:
    """Its pictures that are not under the stored side, as JPEG of quality 90."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png")):
        image = Image.open(path).convert("RGB")
        if min(image.size) >= CONFIG.short_side:
            found.append(_jpeg(image))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(prog="benchmarks.curate_marks", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="of pictures")
    folder = parser.parse_args(arguments).folder
    files = photos() if folder is None else _from_folder(folder)
    if not files:
        raise SystemExit(f"{folder} holds no picture of {CONFIG.short_side} pixels a side or more")
    with _Ours(files[0]) as ours:
        seconds = _compare(
            {
                "ours": lambda: ours(files),
                "ours without the process": lambda: _judged([measure(f, LIMITS) for f in files]),
                "by hand": lambda: by_hand(files),
                "by hand, decoded once": lambda: by_careful_hand(files),
            },
            ours,
        )
    print(f"{len(files)} JPEG {sum(map(len, files)) / len(files) / 1000:.0f} kB each")
    for name, spent in seconds.items():
        rate, ratio = len(files) / spent, spent / seconds["ours"]
        print(f"{name:32} {1000 / rate:7.2f} ms {rate:7.0f}/s {ratio:6.2f} x ours")
    for name, value in (quality(files) | profile(files)).items():
        print(f"{name:32} {value:7.2f}")
    if folder is None:
        _print_photographs()


def _print_photographs() -> None:
    """The quality for real photographs, at each size and together."""
    groups = {f"photographs of {side}": enlarged(side) for side in _SIDES}
    groups["photographs of all these"] = [data for files in groups.values() for data in files]
    for name, files in groups.items():
        found = quality(files)
        print(f"{name:32} " + "  ".join(f"{k} {v:.1f}" for k, v in found.items()))


if __name__ == "__main__":
    main()

import io

import numpy as np
import pytest
from fetched_corpus import encoded, fetched_pairs, read_all, row
from PIL import Image
from torture_images import Torture, picture, torture_set

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, decode
from pipelines.curate.reasons import Reason
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

CONFIG = CurateConfig(min_side=32, min_bytes=1, encoding="png")
FILES = torture_set()
Fate = tuple[str | None, Image.Image | None]


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fate]:
    """Reason or stored picture of every file, after one run of the stage."""
    layout = Layout(str(tmp_path_factory.mktemp("torture")))
    rows = [
        # Names end as somebody else's type.
        row(n, f"a photograph of the dog on the beach, number {n}", file.data)
        | {"url": f"http://example.org/{n}.jpg"}
        for n, file in enumerate(FILES.values())
    ]
    fetched_pairs(layout, "a", rows)
    curate_pairs("a", layout, CONFIG, Engine())
    found: dict[str, Fate] = {}
    for pair in read_all(layout.dataset("curated_pairs", "a")).to_pylist():
        found[pair["url"]] = (None, Image.open(io.BytesIO(pair["image"])))
    for reject in read_all(layout.rejects("curate", "a")).to_pylist():
        found[reject["url"]] = (f"{reject['reason']}", None)
    return {name: found[f"http://example.org/{n}.jpg"] for n, name in enumerate(FILES)}


@pytest.mark.parametrize(("name", "file"), FILES.items(), ids=list(FILES))
def test_every_file_ends_in_its_reason_or_in_the_right_pixels(
    name: str, file: Torture, fates: dict[str, Fate]
) -> None:
    reason, found = fates[name]
    assert reason == file.reason
    if file.pixels is None:
        return
    assert found is not None
    assert found.size == file.pixels.size
    error = np.abs(np.asarray(found).astype(int) - np.asarray(file.pixels).astype(int))
    assert error.mean() <= file.tolerance


OTHERS = [picture().transpose(Image.Transpose.ROTATE_180)]
CUT = {
    "jpeg": encoded(picture(), "JPEG"),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "restarts": encoded(picture(), "JPEG", restart_marker_rows=1),
    "grey jpeg": encoded(picture().convert("L"), "JPEG"),
    "cmyk": encoded(picture().convert("CMYK"), "JPEG"),
    "png": encoded(picture()),
    "palette": encoded(picture().quantize(64)),
    "apng": encoded(picture(), save_all=True, append_images=OTHERS),
    "webp": encoded(picture(), "WEBP"),
    "lossless webp": encoded(picture(), "WEBP", lossless=True),
    "animated webp": encoded(picture(), "WEBP", save_all=True, append_images=OTHERS),
    "gif": encoded(picture().quantize(64), "GIF"),
    "animated gif": encoded(picture(), "GIF", save_all=True, append_images=OTHERS),
    "bmp": encoded(picture(), "BMP"),
    "avif": encoded(picture(), "AVIF"),
}


@pytest.mark.parametrize("name", list(CUT))
@pytest.mark.parametrize("at_least", [None, 32])
def test_what_is_cut_anywhere_is_refused_or_whole(name: str, at_least: int | None) -> None:
    data = CUT[name]
    whole = decoded(data, at_least)
    assert isinstance(whole, bytes)
    cuts = {len(data) * percent // 100 for percent in range(100)}
    for cut in sorted(cuts | set(range(len(data) - 16, len(data)))):
        found = decoded(data[:cut], at_least)
        # Where there are pixels, only what follows the first frame's was cut off.
        assert found in REFUSALS or found == whole, cut


JPEGS = ("jpeg", "progressive", "restarts", "grey jpeg", "cmyk")


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("at_least", [None, 32])
def test_a_jpeg_that_is_cut_and_closed_again_is_refused(name: str, at_least: int | None) -> None:
    data = CUT[name]
    whole = decoded(data, at_least)
    start = data.index(b"\xff\xda")
    cuts = {start + (len(data) - start) * percent // 100 for percent in range(2, 100)}
    cuts |= {at for at in range(start, len(data)) if data[at : at + 2] == b"\xff\xd0"}
    # A progressive picture that ends between two scans is a whole one, only coarser.
    headers = (b"\xff\xc4", b"\xff\xda")
    ends = {at for at in range(start, len(data)) if data[at : at + 2] in headers}
    for cut in sorted(cuts - ends - {at + 1 for at in ends}):
        found = decoded(data[:cut] + b"\xff\xd9", at_least)
        # The last bits of the last block may be padding.
        assert found == Reason.DAMAGED_IMAGE or (found == whole and cut > len(data) - 8), cut


def test_other_warnings_of_the_decoder_cost_nothing() -> None:
    data = CUT["jpeg"]
    assert decoded(data + b"behind the end") == decoded(data)
    # An unknown marker inside the data: browsers show the picture, and so do we.
    damaged = bytearray(encoded(picture(), "JPEG", restart_marker_rows=1))
    at = damaged.index(b"\xff\xd1")
    damaged[at : at + 2] = b"\xff\xd4"
    assert isinstance(decoded(bytes(damaged)), bytes)


def test_pixels_are_those_of_pillow_at_every_scale() -> None:
    large = picture().resize((1027, 771), Image.Resampling.BICUBIC)
    kinds = [{"subsampling": s, "progressive": p} for s in (0, 1, 2) for p in (False, True)]
    for options in [*kinds, {"keep_rgb": True}]:
        for image in (large, large.convert("L")):
            data = encoded(image, "JPEG", quality=85, **options)
            for at_least in (None, 384, 200, 64):
                theirs = Image.open(io.BytesIO(data))
                if at_least is not None:
                    theirs.draft(None, (at_least, at_least))
                assert decoded(data, at_least) == theirs.convert("RGB").tobytes(), options


def test_noise_in_the_middle_of_a_file_never_gets_past_the_reasons() -> None:
    rng = np.random.default_rng(1)
    for name, data in CUT.items():
        for _ in range(30):
            broken = bytearray(data)
            at = int(rng.integers(0, len(data) - 8))
            broken[at : at + 8] = rng.bytes(8)
            found = decoded(bytes(broken))
            assert isinstance(found, bytes) or found in set(Reason), name


REFUSALS = (Reason.DAMAGED_IMAGE, Reason.NOT_AN_IMAGE)


def decoded(data: bytes, at_least: int | None = None) -> bytes | Reason:
    """Pixels or the reason why there are none."""
    try:
        image = decode(
            data, formats=CONFIG.formats, max_pixels=CONFIG.max_pixels, at_least=at_least
        )
    except DecodeError as error:
        return error.reason
    return image.tobytes()

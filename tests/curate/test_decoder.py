import dataclasses
import os
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, row
from PIL import Image
from torture_images import flat_png, many_scans, picture

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import decode
from pipelines.curate.decoder import Decoder
from pipelines.curate.measure import Limits, Measured, measure
from pipelines.curate.reasons import Reason
from pipelines.curate.transform import curate_pairs
from pipelines.curate.wire import PICTURE_SIDE, Pictured, Refused
from pipelines.layout import Layout
from pipelines.runners import Engine

CONFIG = CurateConfig(
    min_side=32,
    min_bytes=100,
    encoding="png",
    max_pixels=16_000_000,
    decoder_memory=48 << 20,
    decoder_seconds=1,
)
NAMES = {field.name for field in dataclasses.fields(Limits)}
LIMITS = Limits(**{n: v for n, v in vars(CONFIG).items() if n in NAMES})
GOOD = encoded(picture(), "JPEG", quality=95)
# Both announce fewer pixels than the cap: 64 MB of them, and thousands of passes over them.
MEMORY_BOMB, TIME_BOMB = flat_png(4000, 4000), many_scans(2000, 2500)


def reason(answer: Measured | Pictured | Refused) -> str | None:
    return answer.reason if isinstance(answer, Refused) else None


def test_the_other_process_measures_what_this_one_would() -> None:
    decoder = Decoder(CONFIG)
    bordered = Image.new("RGB", (300, 200), "white")
    bordered.paste(picture(), (40, 50))
    for data in (GOOD, encoded(bordered), artwork()["rocket"], encoded(bordered, "BMP")):
        there, here = decoder.measure(data), measure(data, LIMITS)
        assert isinstance(there, Measured)
        for name, value in vars(here).items():
            found = getattr(there, name)
            if isinstance(value, Image.Image):
                assert (found.size, found.tobytes()) == (value.size, value.tobytes())
            else:
                assert np.array_equal(found, value), name


@pytest.mark.parametrize("size", [(300, 200), (PICTURE_SIDE, 70), (3000, 2000), (9, 2900)])
def test_a_picture_comes_whole_or_reduced_with_the_size_of_its_original(
    size: tuple[int, int],
) -> None:
    data = encoded(picture().resize(size), "JPEG", quality=95)
    found = Decoder(dataclasses.replace(CONFIG, decoder_seconds=20)).picture(data)
    assert isinstance(found, Pictured)
    assert (found.width, found.height) == size
    here = decode(data, formats=CONFIG.formats, max_pixels=CONFIG.max_pixels)
    if max(size) <= PICTURE_SIDE:
        assert found.image.tobytes() == here.tobytes()
        return
    assert max(found.image.size) == PICTURE_SIDE
    here.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    assert found.image.size == here.size
    apart = np.asarray(found.image, np.float64) - np.asarray(here)
    assert np.abs(apart).mean() < 2


def test_a_picture_that_is_refused_says_why() -> None:
    decoder = Decoder(CONFIG)
    assert reason(decoder.picture(GOOD[:-900])) == Reason.DAMAGED_IMAGE
    assert reason(decoder.picture(MEMORY_BOMB)) == Reason.DECODER_LIMITS
    assert isinstance(decoder.picture(GOOD), Pictured)


def test_a_file_larger_than_the_shared_memory_gets_through() -> None:
    decoder = Decoder(CONFIG)
    pixels = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    large = encoded(Image.fromarray(pixels), "BMP")
    assert len(large) > 1 << 22
    assert reason(decoder.measure(large)) is None
    assert reason(decoder.measure(GOOD)) is None


def test_bombs_under_the_pixel_cap_cost_their_own_row() -> None:
    decoder = Decoder(CONFIG)
    assert reason(decoder.measure(GOOD)) is None
    for bomb in (MEMORY_BOMB, TIME_BOMB):
        answer = decoder.measure(bomb)
        assert reason(answer) == Reason.DECODER_LIMITS
        assert isinstance(decoder.measure(GOOD), Measured)
    enough = Decoder(dataclasses.replace(CONFIG, decoder_memory=2 << 30))
    assert reason(enough.measure(MEMORY_BOMB)) is None


def test_a_decoder_that_is_killed_while_it_decodes_is_asked_again() -> None:
    decoder = Decoder(dataclasses.replace(CONFIG, decoder_seconds=20))
    decoder.measure(GOOD)
    first = decoder.pid
    assert first is not None
    slow = many_scans(2000, 400)
    threading.Timer(0.05, os.kill, (first, signal.SIGSEGV)).start()
    assert reason(decoder.measure(slow)) is None
    assert decoder.pid not in (None, first)


def test_an_image_that_kills_the_decoder_twice_is_dropped_and_the_next_one_is_not() -> None:
    decoder = Decoder(dataclasses.replace(CONFIG, decoder_seconds=20))
    decoder.measure(GOOD)
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.02):
            for child in decoders():
                child.send_signal(signal.SIGABRT)

    threading.Thread(target=kill, daemon=True).start()
    try:
        answer = decoder.measure(TIME_BOMB)
    finally:
        stop.set()
    assert answer == Refused(Reason.DECODER_CRASHED, "signal SIGABRT")
    assert reason(decoder.measure(GOOD)) is None


def decoders() -> list[psutil.Process]:
    """Processes of this one that decode, once they do nothing else."""
    found = []
    for child in psutil.Process().children():
        try:
            if "pipelines.curate.decoder_child" in child.cmdline() and child.cpu_times().user > 0.5:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_decoders_end_with_their_owner() -> None:
    decoder = Decoder(CONFIG)
    decoder.measure(GOOD)
    assert decoder.pid is not None
    process = psutil.Process(decoder.pid)
    del decoder
    process.wait(10)
    assert not process.is_running()


def test_a_decoder_that_does_not_start_fails_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not start"):
        Decoder(CONFIG).measure(GOOD)


def test_a_stage_whose_decoders_are_killed_writes_the_same_bytes(tmp_path: Path) -> None:
    names = sorted(artwork())[::10]
    rows = [row(n, f"{name} as an emoji", artwork()[name]) for n, name in enumerate(names)]
    rows += [row(9000, "a memory bomb in a photograph", MEMORY_BOMB)]
    contents = []
    for killed in (False, True):
        layout = Layout(str(tmp_path / str(killed)))
        fetched_pairs(layout, "a", rows)
        stop, kills = threading.Event(), []

        def kill(stop: threading.Event = stop, kills: list[int] = kills) -> None:
            # Once: who dies with an image twice is the image's fault.
            while not stop.wait(0.005) and not kills:
                for child in psutil.Process().children():
                    if "pipelines.curate.decoder_child" in child.cmdline():
                        child.kill()
                        kills.append(child.pid)

        if killed:
            threading.Thread(target=kill, daemon=True).start()
        try:
            done = curate_pairs("a", layout, CONFIG, Engine())
        finally:
            stop.set()
        assert bool(kills) == killed
        assert done.funnel.dropped[Reason.DECODER_LIMITS] == 1
        contents.append(done.content)
    assert contents[0] == contents[1]

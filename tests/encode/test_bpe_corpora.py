"""Every caption of real corpora comes back: 77 languages, alt texts, the demonstration's."""

import re
from html import unescape
from pathlib import Path

import pytest
from debian_packages import unpacked

from benchmarks.languages import read_stamps
from benchmarks.token_marks import captions as demo_captions
from pipelines.encode import bpe
from pipelines.encode.config import BYTES, BpeConfig

_ALT = re.compile(r'<img\b[^>]*\balt="([^"]*)"', re.DOTALL)


def stamps() -> list[str]:
    return read_stamps(unpacked("tuxpaint-stamps-default")).captions


def alt_texts() -> list[str]:
    pages = Path(unpacked("gimp-help-en", "2.10.34-2"), "usr/share/gimp/2.0/help/en")
    return [
        unescape(alt) for page in pages.rglob("*.html") for alt in _ALT.findall(page.read_text())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("corpus", [demo_captions, stamps, alt_texts])
def test_every_caption_comes_back(corpus: "type[list[str]]") -> None:
    captions = corpus()
    assert len(captions) > 1000
    tokenizer = bpe.learn(iter(captions), BpeConfig())
    decoded = tokenizer.decode_batch([e.ids for e in tokenizer.encode_batch_fast(captions)])
    normalise = tokenizer.normalizer.normalize_str
    assert decoded == [normalise(caption) for caption in captions]
    merged = [token for token, number in tokenizer.get_vocab().items() if number >= BYTES]
    assert all(re.fullmatch("[a-z]+", token) for token in merged)

import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_corpus import caption, write_batch
from tokenizers import Tokenizer

from pipelines.encode import bpe
from pipelines.encode.config import BYTES, BpeConfig
from pipelines.layout import Layout, join

CONFIG = BpeConfig(vocabulary=400)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe.learn((caption(i) for i in range(400)), CONFIG)


def normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


@given(st.text())
def test_round_trip_of_any_text(tokenizer: Tokenizer, text: str) -> None:
    wanted = tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "The Cat's 2024 -- emoji!",
        "\tTwo  spaces\r\n",
        "猫の絵文字 ÇA e\u0301",
        "🏳️‍🌈 family: 👩‍👩‍👧",
        "",
        "\x00\x7f",
    ],
)
def test_normalisation_is_nfc_and_lower_case(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == normalised(text)


def test_only_runs_of_a_to_z_merge(tokenizer: Tokenizer) -> None:
    merged = [token for token, number in tokenizer.get_vocab().items() if number >= BYTES]
    assert len(merged) > 50
    assert all(set(token) <= set("abcdefghijklmnopqrstuvwxyz") for token in merged)
    tokens = tokenizer.encode("number2024 number, NUMBER").tokens
    assert tokens == ["number", "2", "0", "2", "4", "Ġ", "number", ",", "Ġ", "number"]


def test_digits_and_spaces_do_not_merge_however_frequent() -> None:
    learned = bpe.learn(iter(["1999 é 猫 1999 é 猫"] * 50 + ["a cat"] * 3), CONFIG)
    assert set(learned.get_vocab()) - set(bpe.pre_tokenizers.ByteLevel.alphabet()) == {"at", "cat"}


def test_every_byte_has_an_id(tokenizer: Tokenizer) -> None:
    assert sorted(tokenizer.get_vocab().values())[:BYTES] == list(range(BYTES))
    found: set[int] = set()
    for code in (*range(0x80), *range(0x80, 0x800), 0x1000, 0xFFFD, 0x10000, 0x3FFFF, 0x10FFFD):
        found.update(tokenizer.encode(chr(code)).ids)
    # Upper-case letters become lower case; 0xC0, 0xC1 and 0xF5-0xFF are in no UTF-8 text.
    assert len({i for i in found if i < BYTES}) > BYTES - 26 - 13 - 70


def test_the_vocabulary_is_capped_and_honest(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    write_batch(layout, "a", range(30))
    small = bpe.train_tokenizer(["a"], layout, BpeConfig(vocabulary=270))
    assert small.details["vocabulary"] == small.rows == 270
    full = bpe.train_tokenizer(["a"], layout, BpeConfig(vocabulary=16384, max_length=64))
    assert BYTES < full.details["vocabulary"] < 1000
    assert full.details["merges"] == full.details["vocabulary"] - BYTES
    assert full.details["config"]["max_length"] == 64


def test_training_is_deterministic_and_idempotent(tmp_path: Path) -> None:
    one, two = Layout(str(tmp_path / "one")), Layout(str(tmp_path / "two"))
    for layout, shards in ((one, 1), (two, 3)):
        write_batch(layout, "a", range(60), shards)
        write_batch(layout, "b", range(60, 90), shards)
    first = bpe.train_tokenizer(["a", "b"], one, CONFIG)
    # Other shards, another order of batches, another number of threads, another process.
    script = (
        "from pipelines.encode import bpe; from pipelines.encode.config import BpeConfig;"
        "from pipelines.layout import Layout;"
        f"bpe.train_tokenizer(['b', 'a', 'b'], Layout({two.root!r}), BpeConfig(vocabulary=400))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"RAYON_NUM_THREADS": "1"})
    files = [join(layout.tokenizer, bpe.FILE_NAME) for layout in (one, two)]
    data = [Path(file).read_bytes() for file in files]
    assert data[0] == data[1]
    assert first.details["sha256"] == hashlib.sha256(data[0]).hexdigest()

    before = (tmp_path / "one/bpe_tokenizer/tokenizer.json").stat().st_mtime_ns
    assert bpe.train_tokenizer(["a", "b"], one, CONFIG) == first
    assert (tmp_path / "one/bpe_tokenizer/tokenizer.json").stat().st_mtime_ns == before
    assert bpe.train_tokenizer(["a"], one, CONFIG).fingerprint != first.fingerprint


def test_load_refuses_another_file(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    write_batch(layout, "a", range(30))
    done = bpe.train_tokenizer(["a"], layout, CONFIG)
    url = join(layout.tokenizer, bpe.FILE_NAME)
    assert bpe.load_tokenizer(url, done.details["sha256"]).get_vocab_size() == done.rows
    value = json.loads(Path(url).read_text())
    value["model"]["merges"] = value["model"]["merges"][:-1]
    Path(url).write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"sha256 .* expected .*; use the tokenizer"):
        bpe.load_tokenizer(url, done.details["sha256"])


def test_clear_refusals(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    with pytest.raises(ValueError, match="name at least one"):
        bpe.train_tokenizer([], layout, CONFIG)
    with pytest.raises(FileNotFoundError, match="not finished"):
        bpe.train_tokenizer(["missing"], layout, CONFIG)
    write_batch(layout, "empty", range(0))
    with pytest.raises(ValueError, match="no row"):
        bpe.train_tokenizer(["empty"], layout, CONFIG)
    with pytest.raises(ValueError, match="vocabulary must be 256"):
        BpeConfig(vocabulary=100)

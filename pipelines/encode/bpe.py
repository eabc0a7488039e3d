"""The byte-pair tokenizer: byte-level, lower-cased, and only runs of a-z ever merge.

Alphabet rule (arXiv 2102.12092, section 2.2; the author in openai/DALL-E, discussion 22): text
is split at everything but a-z before merging, so digits, punctuation, spaces and other scripts
are never part of a merged token. Every byte is in the vocabulary, so any text can be encoded,
and decoding gives back exactly the normalised (NFC, lower-case) text.

Ids 0-255 are the bytes, in the order of the byte-level alphabet; the merges follow in the order
in which they were learned.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipelines import code_versions, ledger, parquet, storage
from pipelines.encode.config import BpeConfig
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel

DATASET = "bpe_tokenizer"
FILE_NAME = "tokenizer.json"

_READ_ROWS = 16_000
log = logging.getLogger(__name__)


def train_tokenizer(batches: Sequence[str], layout: Layout, config: BpeConfig) -> Finished:
    """Learn the merges from the captions of `deduped_pairs` and write `tokenizer.json`.

    Merges depend on the counts of words alone, so neither the order of the batches nor the
    number of threads changes a byte of the result.

    Args:
        batches: names of crawl batches, at least one.
        layout: where `deduped_pairs` is read and the tokenizer is written.
        config: wanted vocabulary, and the limits recorded with it.

    Returns:
        The marker; `details` has sha256 (of the file), vocabulary (its true size), merges,
        captions and config.

    Raises:
        ValueError: without batches, or when they hold no caption at all.
        FileNotFoundError: if a batch of `deduped_pairs` is not finished.
    """
    if not batches:
        raise ValueError("no crawl batch to train the tokenizer on; name at least one")
    names = sorted(set(batches))
    upstream = [ledger.require_parts(layout.dataset("deduped_pairs", name)) for name in names]
    mark = ledger.fingerprint(code_versions.TOKENIZER, config, [done.content for done in upstream])
    done = ledger.read_success(layout.tokenizer)
    if done is not None and done.fingerprint == mark:
        log.info("%s is up to date", layout.tokenizer)
        return done
    rows = sum(finished.rows for finished in upstream)
    if not rows:
        raise ValueError(f"deduped_pairs has no row in {names}; crawl more before training on it")

    tokenizer = learn((caption for name in names for caption in _captions(layout, name)), config)
    data = tokenizer.to_str(pretty=False).encode()
    digest = hashlib.sha256(data).hexdigest()
    vocabulary = tokenizer.get_vocab_size()
    if vocabulary < config.vocabulary:
        log.info("the captions give %d entries, %d were wanted", vocabulary, config.vocabulary)
    storage.remove(join(layout.tokenizer, ledger.SUCCESS))
    storage.write_bytes(join(layout.tokenizer, FILE_NAME), data)
    finished = Finished(
        dataset=DATASET,
        fingerprint=mark,
        content=ledger.content_hash({FILE_NAME: digest}),
        rows=vocabulary,
        bytes=len(data),
        funnel=Funnel(rows, rows),
        details={
            "sha256": digest,
            "vocabulary": vocabulary,
            "merges": vocabulary - len(pre_tokenizers.ByteLevel.alphabet()),
            "captions": rows,
            "batches": names,
            "config": dataclasses.asdict(config),
        },
    )
    ledger.write_success(layout.tokenizer, finished)
    return finished


def learn(captions: Iterator[str], config: BpeConfig) -> Tokenizer:
    """Train a tokenizer on `captions`; memory holds distinct words, not captions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.decoder = decoders.ByteLevel()
    # Only a-z is shown to the trainer: else the bytes inside one character of another script
    # would merge too.
    tokenizer.pre_tokenizer = _split("[^a-z]+", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        min_frequency=config.min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.pre_tokenizer = _split("[a-z]+|[^a-z]", "isolated")
    return tokenizer


def _split(pattern: str, behaviour: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behaviour),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def load_tokenizer(url: str, expected_sha256: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` file, if the file is the expected one.

    Args:
        url: the file; any fsspec URL.
        expected_sha256: of the file's bytes, in hex.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its hash is another: ids of another tokenizer mean other words.
    """
    data = storage.read_bytes(url)
    found = hashlib.sha256(data).hexdigest()
    if found != expected_sha256:
        raise ValueError(
            f"{url} has sha256 {found}, expected {expected_sha256}; "
            "use the tokenizer that the tokens were made with, or encode again"
        )
    return Tokenizer.from_buffer(data)


def _captions(layout: Layout, batch: str) -> Iterator[str]:
    for shard in storage.list_files(layout.dataset("deduped_pairs", batch), ".parquet"):
        for rows in parquet.read_batches(shard, columns=["caption"], rows=_READ_ROWS):
            yield from rows.column("caption").to_pylist()

"""The loader: rows of a published token dataset as batches for the transformer.

The order of rows depends on neither the number of worker processes nor on interruptions: each
worker reads the whole order and prepares every n-th batch, since BPE dropout costs far more than
reading. A batch travels with the position behind it, so what is saved is what was trained on.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipelines import storage
from pipelines.layout import join
from pipelines.publish.manifest import (
    MANIFEST,
    DatasetError,
    Level,
    Manifest,
    read_manifest,
    sha256,
    verify,
)
from training.config import Recipe
from training.errors import InputError
from training.row_stream import Position, RowStream
from training.splits import Split
from training.text import TextEncoder

TOKENIZER = "tokenizer.json"
_TOKENS = ("text_tokens", "image_tokens")


class DatasetMismatchError(InputError):
    """The dataset does not fit the recipe or the model."""


@dataclass(frozen=True)
class TokenBatch:
    """Text ids [B, T] (int64, zero behind the text), lengths [B] and codes [B, N]."""

    text: Tensor
    lengths: Tensor
    codes: Tensor

    def to(self, device: torch.device) -> "TokenBatch":
        """The same on another device."""
        return TokenBatch(self.text.to(device), self.lengths.to(device), self.codes.to(device))


@dataclass(frozen=True)
class BatchMaker:
    """Tables of a stream as batches.

    Attributes:
        encoder: of the captions.
        dropout: probability that a BPE merge is left out in training.
    """

    encoder: TextEncoder
    dropout: float

    def plain(self, table: pa.Table) -> TokenBatch:
        """With the canonical ids."""
        return self._batch(table["text_tokens"].to_pylist(), table)

    def dropped(self, table: pa.Table, seed: int) -> TokenBatch:
        """With merges left out at random, drawn from (seed, epoch, uid)."""
        texts = []
        columns = (table[name].to_pylist() for name in ("epoch", "uid", "caption"))
        for epoch, uid, caption in zip(*columns, strict=True):
            draw = random.Random(f"{seed} {epoch} {uid.hex()}")
            texts.append(self.encoder.encode_with_dropout(caption, self.dropout, draw))
        return self._batch(texts, table)

    def _batch(self, texts: list[list[int]], table: pa.Table) -> TokenBatch:
        ids, lengths = self.encoder.pad(texts)
        flat = table["image_tokens"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        codes = torch.from_numpy(flat.astype("int64")).view(len(texts), -1)
        return TokenBatch(torch.from_numpy(ids), torch.from_numpy(lengths), codes)


class TokenData:
    """A published version, read for one recipe.

    Args:
        directory: a version, its `manifest.json`, or the directory of all versions (the current
            one is taken).
        recipe: whose grid, text length and vocabularies must fit.

    Raises:
        DatasetMismatchError: if they do not.
        DatasetError: if a file is missing or has another size than the manifest says, or the
            tokenizer another hash; hashes of the token files are `verify_tokens`'.
    """

    def __init__(self, directory: str, recipe: Recipe):
        self.manifest: Manifest = read_manifest(_version(directory))
        verify(self.manifest, Level.SIZES)
        _check(self.manifest, recipe)
        self.recipe = recipe
        self.encoder = TextEncoder(_tokenizer(self.manifest), recipe.text.length)
        self.maker = BatchMaker(self.encoder, recipe.text.dropout)
        if self.encoder.vocabulary > recipe.text.vocabulary:
            raise DatasetMismatchError(
                f"the tokenizer of {self.manifest.directory} has {self.encoder.vocabulary} ids, "
                f"recipe {recipe.name} takes at most {recipe.text.vocabulary}; encode with a "
                "smaller vocabulary, or choose the recipe it was made for"
            )
        self.urls = [self.manifest.url(file) for file in self.manifest.token_files]

    def verify_tokens(self, rank: int = 0, world: int = 1) -> None:
        """Compare this process's share of the token files, byte by byte, with the manifest.

        Raises:
            DatasetError: naming the first one whose SHA-256 is another, or that cannot be read.
        """
        for file in self.manifest.token_files[rank::world]:
            url = self.manifest.url(file)
            try:
                found = sha256(url)
            except OSError as error:
                raise DatasetError(f"{url} cannot be read: {error}") from error
            if found != file.sha256:
                raise DatasetError(
                    f"{url} has sha256 {found}, its manifest says {file.sha256}; copy the file "
                    "again, or publish the dataset again"
                )

    def require_dvae(self, sha256: str) -> None:
        """Check that codes of this dataset mean pictures to the dVAE of this hash.

        Raises:
            DatasetMismatchError: if another dVAE made them.
        """
        if sha256 != self.manifest.dvae_sha256:
            raise DatasetMismatchError(
                f"the codes of {self.manifest.directory} were made by the dVAE "
                f"{self.manifest.dvae_sha256[:12]}, not by {sha256[:12]}; name that dVAE, or "
                "encode again with this one"
            )

    def require_text(self, vocabulary: int, length: int, tokenizer_sha256: str) -> None:
        """Check that a transformer reads the ids of this dataset's tokenizer.

        Args:
            vocabulary: ids that the transformer knows.
            length: most ids of a text.
            tokenizer_sha256: of the tokenizer that made the text it was trained on.

        Raises:
            DatasetMismatchError: if it was trained with another.
        """
        found = (self.encoder.vocabulary, self.encoder.length)
        if found != (vocabulary, length):
            raise DatasetMismatchError(
                f"the transformer reads {length} of {vocabulary} text ids, the dataset "
                f"{self.manifest.directory} has {found[1]} of {found[0]}; name the dataset it was "
                "trained on"
            )
        if tokenizer_sha256 != self.manifest.tokenizer_sha256:
            raise DatasetMismatchError(
                f"the transformer reads ids of the tokenizer {tokenizer_sha256[:12]}, the dataset "
                f"{self.manifest.directory} has those of {self.manifest.tokenizer_sha256[:12]}; "
                "name the dataset it was trained on"
            )

    def stream(self, split: Split, rank: int = 0, world: int = 1, seed: int = 0) -> RowStream:
        """Rows of one split in shuffled order.

        Raises:
            InputError: if a file's tokens are of another tokenizer or dVAE than the manifest's.
        """
        made_with = {
            "tokenizer_sha256": self.manifest.tokenizer_sha256,
            "dvae_sha256": self.manifest.dvae_sha256,
        }
        return RowStream(
            self.urls,
            _TOKENS,
            split,
            self.recipe.split,
            seed=seed,
            rank=rank,
            world=world,
            made_with=made_with,
        )

    def captions(self, split: Split, limit: int) -> list[str]:
        """Captions of the first `limit` rows of a split; their tokens are not read."""
        rows = RowStream(self.urls, [], split, self.recipe.split).all_rows(limit)
        captions: list[str] = rows["caption"].to_pylist()
        return captions

    def training_batches(
        self, stream: RowStream, rows: int, workers: int = 0
    ) -> Iterator[TokenBatch]:
        """Endless batches whose text has BPE dropout, drawn from (seed, epoch, uid).

        `stream.position` is always behind the last batch that was given, whatever the workers
        have prepared beyond it.

        Args:
            stream: of the training split, at the position to go on from.
            rows: of a batch.
            workers: processes that prepare batches ahead; 0 prepares them when asked. The
                batches are the same for any number.
        """
        batches = Batches(self.maker, stream, rows)
        if not workers:
            for batch, _ in batches:
                yield batch
            return
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            # A forked child of a process with threads of torch and Arrow may hang.
            multiprocessing_context="forkserver",
        )
        for batch, position in loader:
            stream.position = position
            yield batch

    def plain_batch(self, table: pa.Table) -> TokenBatch:
        """A table of a stream with its canonical ids."""
        return self.maker.plain(table)


class Batches(IterableDataset[tuple[TokenBatch, Position]]):
    """Batches with the position behind each; of a worker process, its share of them."""

    def __init__(self, maker: BatchMaker, stream: RowStream, rows: int):
        self._maker, self._stream, self._rows = maker, stream, rows

    def __iter__(self) -> Iterator[tuple[TokenBatch, Position]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        tables = self._stream.batches(self._rows)
        for table in itertools.islice(tables, first, None, step):
            yield self._maker.dropped(table, self._stream.seed), copy(self._stream.position)


def _as_it_is(item: Any) -> Any:
    return item


def _version(dataset: str) -> str:
    """A version may be named by its manifest."""
    directory, _, name = dataset.rpartition("/")
    return directory or "." if name == MANIFEST else dataset


def _tokenizer(manifest: Manifest) -> str:
    url = join(manifest.directory, TOKENIZER)
    data = storage.read_bytes(url)
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.tokenizer_sha256:
        raise DatasetError(
            f"{url} has sha256 {found}, its manifest says {manifest.tokenizer_sha256}; "
            "publish the dataset again"
        )
    return data.decode()


def _check(manifest: Manifest, recipe: Recipe) -> None:
    wanted = (
        ("grid", recipe.dvae.grid, manifest.grid),
        ("image vocabulary", recipe.dvae.vocabulary, manifest.image_vocabulary),
        ("text length", recipe.text.length, manifest.text_max_length),
    )
    for name, expected, found in wanted:
        if expected != found:
            raise DatasetMismatchError(
                f"{manifest.directory} has {name} {found}, recipe {recipe.name} needs {expected}; "
                "publish a dataset for this recipe, or choose the recipe it was made for"
            )

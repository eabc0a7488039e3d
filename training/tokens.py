"""Rows of a published token dataset as batches for the transformer."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from pipelines import storage
from pipelines.layout import join
from pipelines.publish.manifest import Level, Manifest, read_manifest, verify
from training.config import Recipe
from training.errors import InputError
from training.row_stream import RowStream
from training.splits import Split
from training.text import TextEncoder

TOKENIZER = "tokenizer.json"


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


class TokenData:
    """A published version, read for one recipe.

    Args:
        directory: a version, or the directory of all (its current one is taken).
        recipe: whose grid and text length must fit.

    Raises:
        DatasetMismatchError: if they do not.
        DatasetError: if a file is not what the manifest says.
    """

    def __init__(self, directory: str, recipe: Recipe):
        self.manifest: Manifest = read_manifest(directory)
        verify(self.manifest, Level.SIZES)
        _check(self.manifest, recipe)
        self.recipe = recipe
        tokenizer = storage.read_bytes(join(self.manifest.directory, TOKENIZER)).decode()
        self.encoder = TextEncoder(tokenizer, recipe.text.length)
        self.urls = [self.manifest.url(file) for file in self.manifest.token_files]

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

    def stream(self, split: Split, rank: int = 0, world: int = 1, seed: int = 0) -> RowStream:
        """Rows of one split in shuffled order."""
        columns = ["text_tokens", "image_tokens"]
        splits = self.recipe.split
        return RowStream(self.urls, columns, split, splits, seed=seed, rank=rank, world=world)

    def training_batches(self, stream: RowStream, rows: int) -> Iterator[TokenBatch]:
        """Endless batches whose text has BPE dropout, drawn from (seed, epoch, uid)."""
        dropout = self.recipe.text.dropout
        for table in stream.batches(rows):
            texts = []
            for uid, caption in zip(
                table["uid"].to_pylist(), table["caption"].to_pylist(), strict=True
            ):
                draw = random.Random(f"{stream.seed} {stream.position.epoch} {uid.hex()}")
                texts.append(self.encoder.encode_with_dropout(caption, dropout, draw))
            yield self._batch(texts, table)

    def plain_batch(self, table: pa.Table) -> TokenBatch:
        """A table of a stream with its canonical ids."""
        return self._batch(table["text_tokens"].to_pylist(), table)

    def _batch(self, texts: list[list[int]], table: pa.Table) -> TokenBatch:
        ids, lengths = self.encoder.pad(texts)
        flat = table["image_tokens"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        codes = torch.from_numpy(flat.astype("int64")).view(len(texts), -1)
        return TokenBatch(torch.from_numpy(ids), torch.from_numpy(lengths), codes)


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

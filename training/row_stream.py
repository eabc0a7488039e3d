"""Rows of Parquet files in shuffled order, split among processes, resumable to the exact row.

The order is a function of (files, seed, epoch): row groups are shuffled and joined into windows
of about `window_rows` rows, and the rows of a window are shuffled. Memory holds one window.
Process r of w takes rows r, r + w, ... of each window, after rows of other splits were left out;
each window gives every process the same number of rows, so that no process waits for another at
the end of an epoch (fewer than w rows a window are left out for it).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.config import SplitConfig
from training.errors import InputError
from training.splits import Split, rows_of


@dataclass
class Position:
    """Where a stream stands: rows taken from a window of an epoch."""

    epoch: int = 0
    window: int = 0
    row: int = 0


@dataclass(frozen=True)
class _RowGroup:
    url: str
    index: int
    rows: int


class RowStream:
    """An endless stream of record batches.

    Args:
        urls: Parquet files with columns uid and caption, in a fixed order.
        columns: columns to read.
        split: which rows to give, by `splits`.
        seed: of the order.
        rank: this process, of `world`.
        window_rows: rows that are shuffled together.

    Raises:
        InputError: if the files hold no row at all.
    """

    def __init__(
        self,
        urls: Sequence[str],
        columns: Sequence[str],
        split: Split,
        splits: SplitConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        window_rows: int = 16_384,
    ):
        self.columns = list(dict.fromkeys(("uid", "caption", *columns)))
        self.split, self.splits = split, splits
        self.seed, self.rank, self.world, self.window_rows = seed, rank, world, window_rows
        self.position = Position()
        self._groups = [group for url in urls for group in _row_groups(url)]
        if not self._groups:
            raise self._too_few(0, 1)

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """Tables of exactly `rows` rows, for ever; `position` is behind the last one given.

        Raises:
            InputError: if no row belongs to this split.
        """
        waiting: list[pa.Table] = []
        missing = rows
        empty_epochs = 0
        while True:
            windows = self._windows(self.position.epoch)
            while self.position.window < len(windows):
                table = self._read(windows[self.position.window])
                while self.position.row < table.num_rows:
                    empty_epochs = 0
                    piece = table.slice(self.position.row, missing)
                    self.position.row += piece.num_rows
                    waiting.append(piece)
                    missing -= piece.num_rows
                    if missing == 0:
                        whole, waiting, missing = pa.concat_tables(waiting), [], rows
                        yield whole
                self.position = Position(self.position.epoch, self.position.window + 1)
            empty_epochs += 1
            if empty_epochs > 1:
                raise self._too_few(0, 1)
            self.position = Position(self.position.epoch + 1)

    def all_rows(self, limit: int, least: int = 0) -> pa.Table:
        """The first `limit` rows of this split in file order, the same in every process.

        Raises:
            InputError: if there are fewer than `least`.
        """
        found: list[pa.Table] = []
        for group in self._groups:
            found.append(self._load(group))
            if sum(t.num_rows for t in found) >= limit:
                break
        table = pa.concat_tables(found).slice(0, limit)
        if table.num_rows < least:
            raise self._too_few(table.num_rows, least)
        return table

    def _too_few(self, found: int, needed: int) -> InputError:
        return InputError(
            f"the data holds {found} rows of the {self.split} split, at least {needed} are "
            "needed; crawl more pairs"
        )

    def _windows(self, epoch: int) -> list[tuple[int, list[_RowGroup]]]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self._groups))
        windows: list[list[_RowGroup]] = [[]]
        for i in order:
            if windows[-1] and sum(g.rows for g in windows[-1]) >= self.window_rows:
                windows.append([])
            windows[-1].append(self._groups[i])
        return [(epoch * 1_000_003 + i, groups) for i, groups in enumerate(windows)]

    def _read(self, window: tuple[int, list[_RowGroup]]) -> pa.Table:
        number, groups = window
        table = pa.concat_tables([self._load(group) for group in groups])
        order = np.random.default_rng((self.seed, 1, number)).permutation(table.num_rows)
        even = table.num_rows // self.world * self.world
        return table.take(order[self.rank : even : self.world])

    def _load(self, group: _RowGroup) -> pa.Table:
        with fsspec.open(group.url, "rb") as stream, pq.ParquetFile(stream) as file:
            table = file.read_row_group(group.index, columns=self.columns)
        keep = rows_of(self.split, self.splits, table["uid"], table["caption"])
        return table.filter(pa.array(keep)).select(self.columns)


def _row_groups(url: str) -> list[_RowGroup]:
    with fsspec.open(url, "rb") as stream, pq.ParquetFile(stream) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return [_RowGroup(url, i, rows) for i, rows in enumerate(sizes)]

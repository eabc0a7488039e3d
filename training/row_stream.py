"""Rows of Parquet files in shuffled order, split among processes, resumable to the exact row.

The order is a function of (files, seed, epoch): row groups are shuffled and joined into windows
of about `window_rows` rows, and the rows of a window are shuffled. Memory holds one window.
Process r of w takes rows r, r + w, ... of this endless order, after rows of other splits were left
out. The count goes on over the ends of windows and epochs, so no row is left out, and no process
has a batch more or less than another.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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
    """Where a stream stands: rows taken from a window of an epoch.

    `before` counts the rows of all processes before this window, modulo their number. `row` may
    be more than the window has for this process: those rows are of the windows behind it.
    """

    epoch: int = 0
    window: int = 0
    row: int = 0
    before: int = 0


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
        made_with: what the files' schema metadata must say.

    Raises:
        InputError: if the files hold no row at all, or one cannot be read, or was made with
            something else.
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
        made_with: Mapping[str, str] | None = None,
    ):
        self.columns = list(dict.fromkeys(("uid", "caption", *columns)))
        self.split, self.splits = split, splits
        self.seed, self.rank, self.world, self.window_rows = seed, rank, world, window_rows
        self.position = Position()
        self._groups = [group for url in urls for group in _row_groups(url, made_with or {})]
        if not self._groups:
            raise self._too_few(0, 1)

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """Tables of exactly `rows` rows, for ever; `position` is behind the last one given.

        A column `epoch` says of each row which epoch it is of: a table may hold two.

        Raises:
            InputError: if no row belongs to this split.
        """
        waiting: list[pa.Table] = []
        missing = rows
        for window in self._endless_windows():
            while self.position.row < window.num_rows:
                piece = window.slice(self.position.row, missing)
                self.position.row += piece.num_rows
                waiting.append(piece)
                missing -= piece.num_rows
                if missing == 0:
                    whole, waiting, missing = pa.concat_tables(waiting), [], rows
                    yield whole

    def _endless_windows(self) -> Iterator[pa.Table]:
        """This process's rows of every window from `position` on, which moves behind each."""
        found = -1
        while found:
            found = 0
            windows = self._windows(self.position.epoch)
            # An epoch that is resumed may have had its rows before.
            known = self.position.window > 0
            while self.position.window < len(windows):
                at = self.position
                mine, rows = self._read(windows[at.window], (self.rank - at.before) % self.world)
                found += rows
                yield mine.append_column("epoch", pa.array(np.full(len(mine), at.epoch, np.int32)))
                before = (at.before + rows) % self.world
                # More than there are, where the processes that read it before were of another
                # number: those are the next window's first.
                beyond = at.row - len(mine)
                self.position = Position(at.epoch, at.window + 1, beyond, before)
            found += known
            at = self.position
            self.position = Position(at.epoch + 1, 0, at.row, at.before)
        raise self._too_few(0, 1)

    def all_rows(self, limit: int, least: int = 0) -> pa.Table:
        """The first `limit` rows of this split in file order, the same in every process.

        Raises:
            InputError: if there are fewer than `least`.
        """
        found: list[pa.Table] = []
        rows = 0
        # Where no caption is held out, nothing needs to be read to know it.
        hopeless = self.split is Split.HELD_OUT and not self.splits.held_out
        for group in self._groups[:1] if hopeless else self._groups:
            found.append(self._load(group))
            rows += found[-1].num_rows
            if rows >= limit:
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

    def _read(self, window: tuple[int, list[_RowGroup]], first: int) -> tuple[pa.Table, int]:
        """Rows `first`, `first` + world, ... of a shuffled window, and how many it has in all."""
        number, groups = window
        table = pa.concat_tables([self._load(group) for group in groups])
        order = np.random.default_rng((self.seed, 1, number)).permutation(table.num_rows)
        return table.take(order[first :: self.world]), table.num_rows

    def _load(self, group: _RowGroup) -> pa.Table:
        """This split's rows of a row group; of one without any, only what tells so is read."""
        with _opened(group.url) as file:
            known = file.read_row_group(group.index, columns=["uid", "caption"])
            keep = pa.array(rows_of(self.split, self.splits, known["uid"], known["caption"]))
            if not keep.true_count:
                return file.schema_arrow.empty_table().select(self.columns)
            others = [name for name in self.columns if name not in known.column_names]
            table = known
            if others:
                rest = file.read_row_group(group.index, columns=others)
                for name in others:
                    table = table.append_column(rest.field(name), rest[name])
        return table.filter(keep).select(self.columns)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what is wrong with it, while it is open too, is one sentence."""
    try:
        with fsspec.open(url, "rb") as stream, pq.ParquetFile(stream) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())
        raise InputError(
            f"{url} cannot be read: {problem}; if it is damaged, copy it or publish it again"
        ) from error


def _row_groups(url: str, made_with: Mapping[str, str]) -> list[_RowGroup]:
    with _opened(url) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        metadata = file.schema_arrow.metadata or {}
    for name, wanted in made_with.items():
        found = metadata.get(name.encode(), b"nothing").decode()
        if found != wanted:
            raise InputError(
                f"{url} was made with {name} {found}, the dataset with {wanted}; files of two "
                "datasets are mixed here: publish again"
            )
    return [_RowGroup(url, i, rows) for i, rows in enumerate(sizes)]

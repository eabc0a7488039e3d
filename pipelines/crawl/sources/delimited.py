"""Records of CSV and TSV, in blocks; one that is broken costs itself, not what follows it."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator

from pipelines.crawl.sources.text_lines import Damage

Record = list[str]
LineBlocks = Iterable[list[str | Damage]]
# A quote that does not close is not looked for further than this, in characters.
_RECORD_CHARS = 100_000
_BLOCK = 4096
_BLOCK_CHARS = 8_000_000


def tsv_records(blocks: LineBlocks, width: int | None) -> Iterator[list[Record | Damage]]:
    """Lines cut at tabs. Quotes are characters: TSV of this field is written without quoting.

    Args:
        blocks: lines as `read_lines` gives them.
        width: fields that a record has; as many as the first one if None.
    """
    for lines in blocks:
        records: list[Record | Damage] = []
        for line in lines:
            if isinstance(line, Damage):
                records.append(line)
            elif line:
                record = line.split("\t")
                width = width or len(record)
                records.append(record if len(record) == width else _miscounted(record, width))
        yield records


def csv_records(
    blocks: LineBlocks, delimiter: str, width: int | None
) -> Iterator[list[Record | Damage]]:
    """Records of RFC 4180, line ends inside quotes included.

    Where a quote does not close, closes inside a field or swallows lines until the fields are not
    as many as they should be, only the line that it opens in is broken, and reading goes on at the
    next one.

    Args as of `tsv_records`, and the character between fields.
    """
    lines = _Lines(iter(blocks))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    records: list[Record | Damage] = []
    chars = 0
    while True:
        chars += lines.begin()
        try:
            record = next(reader)
        except StopIteration:
            damage = lines.damage()
            if damage is None:
                break
            records.append(damage)
        except csv.Error as error:
            records.append(Damage(f"{error}: {lines.first[:200]}"))
            lines.give_back()
        else:
            if record:
                width = width or len(record)
                fits = len(record) == width
                records.append(record if fits else _miscounted(record, width))
                if not fits:
                    lines.give_back()
        if len(records) >= _BLOCK or chars > _BLOCK_CHARS:
            yield records
            records, chars = [], 0
    yield records


def _miscounted(record: Record, width: int) -> Damage:
    return Damage(f"{len(record)} fields instead of {width}: {'|'.join(record)[:200]}")


class _Lines:
    """Lines for `csv.reader`, which can be given back except the first of the record."""

    def __init__(self, blocks: Iterator[list[str | Damage]]):
        self._blocks = blocks
        self._waiting: deque[str | Damage] = deque()
        self._taken: list[str] = []
        self._chars = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        """The next line of the record; the reader takes an end for the end of the file."""
        if self._chars > _RECORD_CHARS:
            raise StopIteration
        while not self._waiting:
            self._waiting.extend(next(self._blocks))
        line = self._waiting[0]
        if isinstance(line, Damage):
            raise StopIteration
        self._waiting.popleft()
        self._taken.append(line)
        self._chars += len(line)
        return line + "\n"

    @property
    def first(self) -> str:
        """First line of the record."""
        return self._taken[0]

    def begin(self) -> int:
        """A new record begins; gives the characters of the last one."""
        chars, self._chars = self._chars, 0
        self._taken.clear()
        return chars

    def damage(self) -> Damage | None:
        """Take the damage that stands where the next line should be."""
        if self._waiting and isinstance(self._waiting[0], Damage):
            return self._waiting.popleft()  # type: ignore[return-value]
        return None

    def give_back(self) -> None:
        """All lines of the record but the first are read again."""
        self._waiting.extendleft(reversed(self._taken[1:]))

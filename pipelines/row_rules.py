"""What every row of a dataset keeps beyond its columns' types, as functions of record batches.

`pipelines.schemas` says what the columns are; these rules say what their values are. A row that
breaks one is a defect of the stage that wrote it: rows of bad input are dropped long before.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import parquet, storage

_ROWS_READ = 4096


class Offence(NamedTuple):
    """A row that breaks a rule: file, row within it, uid in hex, and the rule's own words."""

    file: str
    row: int
    uid: str
    problem: str


# Gives, for each row of a batch, whether it breaks the rule; takes the file's metadata too.
_Rule = Callable[[pa.RecordBatch, Mapping[str, str]], pa.Array]


def offending_rows(directory: str, dataset: str) -> Iterator[Offence]:
    """Rows of a dataset's directory that break a rule of `dataset`, in the order of its files.

    Reads only the columns that the rules look at, and keeps 17 bytes of each row.

    Args:
        directory: any fsspec URL; files that do not end in `.parquet` are left out.
        dataset: a name of `pipelines.schemas.DATASETS`.
    """
    rules = _RULES.get(dataset, {})
    key = ["uid", "crop_id"] if dataset in _BY_CROP else ["uid"]
    columns = sorted({*key, *(name for names, _ in rules.values() for name in names)})
    seen: set[bytes] = set()
    for url in storage.list_files(directory, ".parquet"):
        facts = _facts(url)
        start = 0
        for batch in parquet.read_batches(url, columns=columns, rows=_ROWS_READ):
            found = {words: rule(batch, facts) for words, (_, rule) in rules.items()}
            found[f"{' and '.join(key)} seen before"] = _repeated(batch, key, seen)
            for words, broken in found.items():
                for row in np.flatnonzero(pc.fill_null(broken, True).to_numpy(False)):
                    uid = batch.column("uid")[int(row)].as_py()
                    yield Offence(url.rsplit("/", 1)[1], start + int(row), uid.hex(), words)
            start += batch.num_rows


def _facts(url: str) -> dict[str, str]:
    metadata = parquet.read_schema(url).metadata or {}
    return {name.decode(): value.decode(errors="replace") for name, value in metadata.items()}


def _repeated(batch: pa.RecordBatch, key: list[str], seen: set[bytes]) -> pa.Array:
    columns = [batch.column(name).to_pylist() for name in key]
    repeated = []
    for uid, *crop in zip(*columns, strict=True):
        name = uid + bytes(crop)
        repeated.append(name in seen)
        seen.add(name)
    return pa.array(repeated, pa.bool_())


def _no_web_address(batch: pa.RecordBatch, _facts: Mapping[str, str]) -> pa.Array:
    return pc.invert(pc.match_substring_regex(batch.column("url"), r"^https?://[^/\s]+"))


def _picture_against_outcome(batch: pa.RecordBatch, _facts: Mapping[str, str]) -> pa.Array:
    fetched = pc.equal(batch.column("outcome"), "ok")
    return pc.not_equal(fetched, pc.is_valid(batch.column("image_sha256")))


def _empty_caption(batch: pa.RecordBatch, _facts: Mapping[str, str]) -> pa.Array:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(batch.column("caption"))), 0)


def _impossible_size(batch: pa.RecordBatch, _facts: Mapping[str, str]) -> pa.Array:
    width, height = (pc.cast(batch.column(name), pa.float64()) for name in ("width", "height"))
    off = pc.abs(pc.subtract(batch.column("aspect"), pc.divide(width, height)))
    positive = pc.and_(pc.greater(width, 0), pc.greater(height, 0))
    return pc.invert(pc.and_(positive, pc.less(off, 1e-3)))


def _no_probability(batch: pa.RecordBatch, _facts: Mapping[str, str]) -> pa.Array:
    score = batch.column("lang_score")
    return pc.invert(pc.and_(pc.greater_equal(score, 0), pc.less_equal(score, 1)))


def _wrong_length(batch: pa.RecordBatch, _facts: Mapping[str, str]) -> pa.Array:
    return pc.not_equal(pc.list_value_length(batch.column("text_tokens")), _int32(batch))


def _int32(batch: pa.RecordBatch) -> pa.Array:
    return pc.cast(batch.column("text_length"), pa.int32())


def _beyond(column: str, fact: str) -> _Rule:
    """Rows with an id that is not below the vocabulary that the file says it has."""

    def rule(batch: pa.RecordBatch, facts: Mapping[str, str]) -> pa.Array:
        limit = int(facts.get(fact, 0))
        ids = batch.column(column)
        parents = pc.list_parent_indices(ids).to_numpy(False)
        values = ids.flatten().to_numpy(False)
        broken = np.zeros(batch.num_rows, bool)
        broken[parents[values >= limit]] = True
        return pa.array(broken)

    return rule


_CURATED: dict[str, tuple[tuple[str, ...], _Rule]] = {
    "the URL is no web address": (("url",), _no_web_address),
    "the caption is empty": (("caption",), _empty_caption),
    "width, height and aspect contradict": (("width", "height", "aspect"), _impossible_size),
    "lang_score is no probability": (("lang_score",), _no_probability),
}
_RULES: dict[str, dict[str, tuple[tuple[str, ...], _Rule]]] = {
    "image_text_candidates": {"the URL is no web address": (("url",), _no_web_address)},
    "fetched_pairs": {
        "the outcome and the picture contradict": (
            ("outcome", "image_sha256"),
            _picture_against_outcome,
        )
    },
    "curated_pairs": _CURATED,
    "deduped_pairs": _CURATED,
    "token_grids": {
        "text_length is not the number of ids": (("text_tokens", "text_length"), _wrong_length),
        "a text id beyond the vocabulary": (
            ("text_tokens",),
            _beyond("text_tokens", "text_vocabulary"),
        ),
        "an image code beyond the codebook": (
            ("image_tokens",),
            _beyond("image_tokens", "image_vocabulary"),
        ),
    },
}
_BY_CROP = ("token_grids",)

"""The curation of one batch of rows: caption rules, one safe decoding, image rules, hashes."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipelines import schemas
from pipelines.curate.captions import caption_reasons, caption_texts
from pipelines.curate.columns import one_chunk
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import encode, exhibit
from pipelines.curate.decoder import Decoder
from pipelines.curate.images import image_columns, image_reasons, too_few_bytes
from pipelines.curate.language import Detected, load_detector, wrong_language
from pipelines.curate.measure import Measured
from pipelines.curate.memory import keep_large_blocks
from pipelines.curate.reasons import Reason
from pipelines.curate.repeated import Repeated, caption_of_many, placeholder
from pipelines.curate.wire import Refused
from pipelines.shards import Processed, rejected

# Decoded images that are in memory together.
_DECODED_ROWS = 64


class Curator:
    """Processor of fetched pairs; holds the language model and the decoder process."""

    def __init__(self, config: CurateConfig, repeated: Repeated):
        self._config = config
        self._repeated = repeated
        self._detect = load_detector(config.detector)
        self._decoder = Decoder(config)
        keep_large_blocks()

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Keep a pair, or drop it with the first rule that it breaks."""
        captions = caption_texts(batch.column("caption_raw").to_pylist(), self._config)
        detected = self._detect(captions.to_pylist())
        drops = self._cheap_drops(batch, captions, detected)
        kept, pictures = self._judge_images(batch, drops)
        texts = {"caption": captions, "lang": detected.lang, "lang_score": detected.score}
        return Processed(_curated(batch, texts, kept), self._rejects(batch, drops, pictures))

    def _cheap_drops(
        self, batch: pa.RecordBatch, captions: pa.StringArray, detected: Detected
    ) -> dict[int, "_Drop"]:
        """The rows that some rule drops before anything is decoded."""
        config, repeated = self._config, self._repeated
        reasons = pc.coalesce(
            caption_reasons(captions, config),
            wrong_language(detected, config),
            caption_of_many(captions, repeated),
            too_few_bytes(batch.column("bytes"), config),
            placeholder(batch.column("image_sha256"), repeated),
        )
        return {
            row: _Drop(reason, _found(reason, detected, row))
            for row, reason in enumerate(reasons.to_pylist())
            if reason is not None
        }

    def _judge_images(
        self, batch: pa.RecordBatch, drops: dict[int, "_Drop"]
    ) -> tuple[pa.Table, dict[int, bytes]]:
        """Decode the rows that are still in; those that an image rule drops join `drops`.

        Returns:
            The columns of the kept rows' images, `row` and `image` among them, and a small
            picture of each row that an image rule dropped.
        """
        config = self._config
        left = [row for row in range(batch.num_rows) if row not in drops]
        tables, pictures = [], {}
        for start in range(0, len(left), _DECODED_ROWS) or [0]:
            measured = self._measure(batch, left[start : start + _DECODED_ROWS], drops)
            columns = image_columns(list(measured.values()))
            encoded: list[bytes | None] = []
            for row, reason in zip(measured, image_reasons(columns, config), strict=True):
                found = measured[row]
                if reason.is_valid:
                    size = f"{found.width}x{found.height} pixels"
                    drops[row] = _Drop(reason.as_py(), size)
                    pictures[row] = exhibit(Image.fromarray(found.small))
                    encoded.append(None)
                else:
                    encoded.append(encode(found.small, config.encoding, config.quality))
            rows = pa.array(list(measured), pa.int64())
            columns = columns.append_column("row", rows)
            columns = columns.append_column("image", pa.array(encoded, pa.binary()))
            tables.append(columns.filter(pc.is_valid(columns.column("image"))))
        return pa.concat_tables(tables), pictures

    def _measure(
        self, batch: pa.RecordBatch, rows: list[int], drops: dict[int, "_Drop"]
    ) -> dict[int, Measured]:
        """Decode each distinct file once; failures join `drops`."""
        images, hashes = batch.column("image"), batch.column("image_sha256")
        seen: dict[bytes, Measured | Refused] = {}
        measured: dict[int, Measured] = {}
        for row in rows:
            key = hashes[row].as_py()
            if key not in seen:
                seen[key] = self._decoder.measure(memoryview(images[row].as_buffer()))
            outcome = seen[key]
            if isinstance(outcome, Refused):
                drops[row] = _Drop(outcome.reason, outcome.detail, decoded=True)
            else:
                measured[row] = outcome
        return measured

    def _rejects(
        self, batch: pa.RecordBatch, drops: dict[int, "_Drop"], pictures: dict[int, bytes]
    ) -> pa.RecordBatch:
        """The dropped rows in their order, each with a small picture where there is one."""
        rows = sorted(drops)
        undecoded = [row for row in rows if row not in pictures and not drops[row].decoded]
        pictures = pictures | self._shown(batch, undecoded)
        return rejected(
            batch.take(pa.array(rows, pa.int64())),
            schemas.Stage.CURATE,
            [drops[row].reason for row in rows],
            [drops[row].detail for row in rows],
            [pictures.get(row) for row in rows],
        )

    def _shown(self, batch: pa.RecordBatch, rows: list[int]) -> dict[int, bytes]:
        """Pictures of rows that were dropped undecoded; at a low scale, for it is cheap."""
        images, hashes = batch.column("image"), batch.column("image_sha256")
        seen: dict[bytes, bytes | None] = {}
        for row in rows:
            key = hashes[row].as_py()
            if key not in seen:
                picture = self._decoder.show(images[row].as_py())
                seen[key] = None if picture is None else exhibit(picture)
        shown = ((row, seen[hashes[row].as_py()]) for row in rows)
        return {row: picture for row, picture in shown if picture is not None}


def _curated(batch: pa.RecordBatch, texts: dict[str, pa.Array], kept: pa.Table) -> pa.RecordBatch:
    """The rows of `kept` in the columns of `curated_pairs`."""
    rows = one_chunk(kept.column("row"))
    found = {
        **{name: one_chunk(kept.column(name)) for name in kept.column_names},
        **{name: text.take(rows) for name, text in texts.items()},
    }
    # The original files are large, and none of them is kept.
    plain = [name for name in batch.schema.names if name not in found]
    found |= {name: batch.column(name).take(rows) for name in plain}
    arrays = [found[field.name].cast(field.type) for field in schemas.CURATED_PAIRS]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.CURATED_PAIRS)


class _Drop(NamedTuple):
    reason: str
    detail: str | None
    decoded: bool = False


def _found(reason: str, detected: Detected, row: int) -> str | None:
    if reason != Reason.LANGUAGE:
        return None
    return f"{detected.lang[row].as_py()} {detected.score[row].as_py():.2f}"

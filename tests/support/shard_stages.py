"""Processors for tests of `ShardStage`; importable by name, so that other processes find them."""

import contextlib
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import identity, ledger, parquet, schemas, storage
from pipelines.layout import Layout, join
from pipelines.schemas import Stage
from pipelines.shards import Processed, ShardStage, rejected

SCHEMA = schemas.token_grids(2)
SHARDS, ROWS = 6, 40


def write_input(directory: str) -> list[str]:
    """Shards of `image_text_candidates`, every seventh caption too short."""
    urls = []
    for shard in range(SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        rows = [
            {
                "uid": identity.uid(f"http://example.org/{n}", f"caption {n}"),
                "url": f"http://example.org/{n}",
                "page_url": None,
                "caption_raw": "x" if n % 7 == 0 else f"caption {n}",
                "source": "list",
                "snapshot": None,
                "found_at": 0,
            }
            for n in numbers
        ]
        batch = pa.RecordBatch.from_pylist(rows, schema=schemas.IMAGE_TEXT_CANDIDATES)
        urls.append(join(directory, f"in-{shard}.parquet"))
        parquet.write(urls[-1], [batch], schemas.IMAGE_TEXT_CANDIDATES)
    return urls


class Encode:
    """Keeps captions of more than one character; codes are the caption's first bytes."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        short = pc.equal(pc.utf8_length(batch.column("caption_raw")), 1)
        kept, dropped = batch.filter(pc.invert(short)), batch.filter(short)
        captions = kept.column("caption_raw").to_pylist()
        ids = [list(caption.encode()) for caption in captions]
        arrays = {
            "uid": kept.column("uid"),
            "crop_id": pa.array([0] * len(ids), pa.uint8()),
            "caption": kept.column("caption_raw"),
            "text_tokens": pa.array(ids, SCHEMA.field("text_tokens").type),
            "text_length": pa.array([len(i) for i in ids], pa.int16()),
            "text_truncated": pa.array([False] * len(ids)),
            "image_tokens": pa.array([i[:4] for i in ids], SCHEMA.field("image_tokens").type),
        }
        out = pa.RecordBatch.from_arrays([arrays[n] for n in SCHEMA.names], schema=SCHEMA)
        reasons = ["too_short"] * dropped.num_rows
        return Processed(out, rejected(dropped, Stage.ENCODE, reasons))


class KillAfterTwoShards(Encode):
    """Kills its own process in the middle of the third shard."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        found = super().__call__(batch)
        if len(storage.list_files(os.environ["RECEIPTS"], ".json")) == 2 and self.seen:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen = True
        return found

    seen = False


class KillFirst(Encode):
    """Kills the first process that it works in, in the middle of a shard; spares the others."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        found = super().__call__(batch)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.environ["KILLED"], os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        return found


class KillAll(Encode):
    """Kills every process that it works in."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


class Counting(Encode):
    """Leaves a file for each batch that it was given."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        Path(os.environ["SEEN"], batch.column("uid")[0].as_py().hex()).touch()
        return super().__call__(batch)


class LoseARow(Encode):
    """Forgets its last row."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        found = super().__call__(batch)
        return found._replace(kept=found.kept.slice(1))


def stage(layout: Layout, processor: type[Encode] = Encode, config: str = "x") -> ShardStage:
    return ShardStage(
        dataset="token_grids",
        schema=SCHEMA,
        processor=processor,
        output=layout.dataset("token_grids", "b"),
        rejects=layout.rejects(Stage.ENCODE, "b"),
        fingerprint=ledger.fingerprint("1", config, []),
        batch_rows=16,
    )

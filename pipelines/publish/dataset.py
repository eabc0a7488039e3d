"""`token_dataset`: immutable versions of the token rows of many batches.

A version is built where no reader looks, and appears whole, by one rename (on object stores:
its success marker is written last). Its name is the hash of its files, so equal inputs give the
same version, and publishing it again changes nothing.
"""

import contextlib
import datetime
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines import ledger, parquet, schemas, storage
from pipelines.encode.bpe import FILE_NAME as TOKENIZER_FILE
from pipelines.encode.config import TOKEN_FILE_OPTIONS
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.publish import card
from pipelines.publish.config import PublishConfig
from pipelines.publish.funnel import total
from pipelines.publish.inputs import BatchInput, agreed_provenance, read_input, token_rows
from pipelines.publish.manifest import (
    CURRENT,
    MANIFEST,
    METADATA,
    TOKENS,
    Manifest,
    PublishedFile,
    read_manifest,
    sha256,
)
from pipelines.publish.shuffle import REPEATED, Shuffle, split
from pipelines.shards import rejected

CODE_VERSION = "1"
CARD = "README.md"

_READ_ROWS = 16_384
_BUILDING = ".publishing"
_REJECTS = "rejects.parquet"


def publish(batches: Sequence[str], layout: Layout, config: PublishConfig) -> Manifest:
    """Publish the token rows of `batches` as one version, and make it the current one.

    A pair that several batches found is published once, from the first of them by name; the
    others are in `rejects`, under the version's name.

    Raises:
        FileNotFoundError: if a stage of a batch, or the tokenizer, is not finished.
        ValueError: if batches were encoded with different tokenizers, if their tokens are out
            of date, or if there is no row.
        LedgerError: if rows were lost between two stages.
    """
    if not batches:
        raise ValueError("no crawl batch to publish; name at least one")
    inputs = [read_input(layout, name) for name in sorted(set(batches))]
    provenance = agreed_provenance(inputs)
    tokenizer = ledger.require_success(layout.tokenizer).details["sha256"]
    if tokenizer != provenance["tokenizer_sha256"]:
        raise ValueError(
            f"{layout.tokenizer} was trained again since the batches were encoded; "
            "materialise token_grids again"
        )
    if not any(batch.rows for batch in inputs):
        raise ValueError("the batches hold no token row to publish; crawl more before publishing")
    stages = [(r.fingerprint, r.content) for batch in inputs for r in batch.records]
    mark = ledger.fingerprint(CODE_VERSION, config, [part for pair in stages for part in pair])
    with _workspace(layout.token_dataset) as work:
        manifest = _published(layout, mark)
        if manifest is None:
            manifest = _Builder(layout, config, inputs, provenance, mark, work).build()
        _make_current(layout, manifest.version)
    return manifest


def _published(layout: Layout, mark: str) -> Manifest | None:
    for directory in storage.list_files(layout.token_dataset):
        if directory.rsplit("/", 1)[1].startswith("v="):
            done = ledger.read_success(directory)
            if done is not None and done.fingerprint == mark:
                return read_manifest(directory)
    return None


def _make_current(layout: Layout, version: str) -> None:
    pointer = join(layout.token_dataset, CURRENT)
    line = f"v={version}\n".encode()
    if not storage.exists(pointer) or storage.read_bytes(pointer) != line:
        storage.write_bytes(pointer, line)


@contextlib.contextmanager
def _workspace(directory: str) -> Iterator[str]:
    """An empty local directory; on a local disk below `directory`, one publication at a time."""
    fs, path = storage.filesystem(directory)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as temporary:
            yield temporary
        return
    os.makedirs(path, exist_ok=True)
    with open(f"{path}/.lock", "w") as lock:
        # Released by the system when the process ends, so what lies there then is a dead one's.
        fcntl.flock(lock, fcntl.LOCK_EX)
        work = f"{path}/{_BUILDING}"
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


class _Builder:
    """Builds one version in the local directory `work` and puts it in its place."""

    def __init__(
        self,
        layout: Layout,
        config: PublishConfig,
        inputs: Sequence[BatchInput],
        provenance: Mapping[str, str],
        mark: str,
        work: str,
    ):
        self._layout = layout
        self._config = config
        self._inputs = inputs
        self._provenance = provenance
        self._mark = mark
        self._work = work
        self._version = f"{work}/version"

    def build(self) -> Manifest:
        funnel, files = self._write_tables()
        files += [self._copy_tokenizer(), self._write_card(funnel)]
        version = ledger.content_hash({file.path: file.sha256 for file in files})
        manifest = self._manifest(version, files, funnel)
        storage.write_json(f"{self._version}/{MANIFEST}", manifest.to_json())
        finished = Finished(
            dataset="token_dataset",
            fingerprint=self._mark,
            content=version,
            rows=funnel.kept,
            bytes=sum(file.bytes for file in files),
            funnel=funnel,
        )
        ledger.write_success(self._version, finished)
        rejects = self._layout.rejects(schemas.Stage.PUBLISH, version)
        dropped = parquet.read_batches(f"{self._work}/{_REJECTS}")
        parquet.write(join(rejects, "part-00000.parquet"), dropped, schemas.REJECTS)
        target = join(self._layout.token_dataset, f"v={version}")
        _put_in_place(self._version, target, manifest)
        return read_manifest(target)

    def _write_tables(self) -> tuple[Funnel, list[PublishedFile]]:
        config = self._config
        rows = sum(batch.rows for batch in self._inputs)
        shuffle = Shuffle(f"{self._work}/buckets", rows, config.bucket_rows, config.seed)
        for batch in self._inputs:
            for joined in token_rows(self._layout, batch.name, _READ_ROWS):
                shuffle.add(joined)
        repeated = parquet.write(
            f"{self._work}/{_REJECTS}",
            (_reject_repeated(table) for table in shuffle.sort() if table.num_rows),
            schemas.REJECTS,
        ).rows
        plain = schemas.token_grids(int(self._provenance["grid"]))
        schema = plain.with_metadata({**plain.metadata, **self._provenance})
        files = self._write_parts(TOKENS, shuffle.rows(), schema, TOKEN_FILE_OPTIONS)
        files += self._write_parts(METADATA, shuffle.rows(), schemas.TOKEN_METADATA, {})
        dropped = {REPEATED: repeated} if repeated else {}
        kept = sum(file.rows for file in files if file.path.startswith(f"{TOKENS}/"))
        funnel = Funnel(rows, kept, dropped)
        funnel.check("token_dataset")
        return funnel, files

    def _write_parts(
        self,
        table: str,
        rows: Iterable[pa.RecordBatch],
        schema: pa.Schema,
        options: Mapping[str, object],
    ) -> list[PublishedFile]:
        files = []
        for index, part in enumerate(split(rows, self._config.rows_per_file)):
            path = f"{table}/part-{index:05d}.parquet"
            written = parquet.write(
                f"{self._version}/{path}",
                part,
                schema,
                row_group_rows=self._config.row_group_rows,
                **options,
            )
            files.append(PublishedFile(path, written.rows, written.bytes, written.sha256))
        return files

    def _copy_tokenizer(self) -> PublishedFile:
        data = storage.read_bytes(join(self._layout.tokenizer, TOKENIZER_FILE))
        file = self._write_file(TOKENIZER_FILE, data)
        if file.sha256 != self._provenance["tokenizer_sha256"]:
            raise ValueError(
                f"{self._layout.tokenizer}/{TOKENIZER_FILE} is not the file that its marker "
                "describes; materialise bpe_tokenizer again"
            )
        return file

    def _write_card(self, funnel: Funnel) -> PublishedFile:
        shown = self._config.sample_captions
        first = next(parquet.read_batches(f"{self._version}/{TOKENS}/part-00000.parquet"))
        text = card.render(
            self._config,
            self._provenance,
            [batch.name for batch in self._inputs],
            total([batch.steps for batch in self._inputs]),
            funnel,
            first.column("caption").slice(0, shown).to_pylist(),
        )
        return self._write_file(CARD, text.encode())

    def _write_file(self, path: str, data: bytes) -> PublishedFile:
        url = f"{self._version}/{path}"
        storage.write_bytes(url, data)
        return PublishedFile(path, 0, len(data), sha256(url))

    def _manifest(self, version: str, files: list[PublishedFile], funnel: Funnel) -> Manifest:
        facts = self._provenance
        return Manifest(
            version=version,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            contract_version=schemas.CONTRACT_VERSION,
            rows=funnel.kept,
            grid=int(facts["grid"]),
            image_size=int(facts["image_size"]),
            crops=int(facts["crops"]),
            crop_recipe=facts["crop_recipe"],
            text_vocabulary=int(facts["text_vocabulary"]),
            text_max_length=int(facts["text_max_length"]),
            image_vocabulary=int(facts["image_vocabulary"]),
            tokenizer_sha256=facts["tokenizer_sha256"],
            dvae_sha256=facts["dvae_sha256"],
            configuration=self._mark,
            batches=tuple(batch.name for batch in self._inputs),
            dropped=dict(funnel.dropped),
            files=tuple(files),
            stages=tuple(record for batch in self._inputs for record in batch.records),
        )


def _reject_repeated(rows: pa.Table) -> pa.RecordBatch:
    details = [f"also in an earlier batch than {b}" for b in rows.column("crawl_batch").to_pylist()]
    return rejected(rows, schemas.Stage.PUBLISH, [REPEATED] * rows.num_rows, details)


def _put_in_place(source: str, target: str, manifest: Manifest) -> None:
    fs, path = storage.filesystem(target)
    if ledger.read_success(target) is not None:
        return
    if isinstance(fs, LocalFileSystem):
        Path(source).rename(path)
        return
    for name in (*(file.path for file in manifest.files), MANIFEST, ledger.SUCCESS):
        fs.put_file(f"{source}/{name}", join(path, name))

"""`token_dataset`: immutable versions of the token rows of many batches.

A version is built where no reader looks, and appears whole, by one rename (on object stores:
its success marker is written last). Its name is the hash of its files, so equal inputs give the
same version, and publishing it again changes nothing.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.crawl.consent.takedown import Takedown
from pipelines.encode.bpe import FILE_NAME as TOKENIZER_FILE
from pipelines.encode.config import TOKEN_FILE_OPTIONS
from pipelines.layout import Layout, join
from pipelines.ledger import Funnel
from pipelines.publish import versions
from pipelines.publish.config import PublishConfig
from pipelines.publish.filters import curate_config_hash, stage_filters
from pipelines.publish.inputs import BatchInput, agreed_provenance, read_input, token_rows
from pipelines.publish.manifest import METADATA, TOKENS, Manifest, PublishedFile, read_manifest
from pipelines.publish.samples import sample_pictures
from pipelines.publish.shuffle import REPEATED, Shuffle, split
from pipelines.publish.taken_down import TAKEN_DOWN, is_taken_down, with_applied
from pipelines.shards import rejected

_READ_ROWS = 16_384
_REJECTS = "rejects.parquet"


def publish(
    batches: Sequence[str],
    layout: Layout,
    config: PublishConfig,
    takedown: Takedown | None = None,
) -> Manifest:
    """Publish the token rows of `batches` as one version, and make it the current one.

    A pair that several batches found is published once, from the first of them by name; the
    others, and the rows that `takedown` or a list applied before names, are in `rejects`, under
    the version's name.

    Raises:
        FileNotFoundError: if a stage of a batch, or the tokenizer, is not finished.
        ValueError: if batches were encoded with different tokenizers, if their tokens are out
            of date, or if there is no row.
        LedgerError: if rows were lost between two stages.
        DatasetError: if a file of the version is damaged; the current version stays.
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
    with versions.workspace(layout.token_dataset) as work:
        # Read when nobody else of this machine can take down any more.
        takedown = with_applied(layout, takedown)
        depends = [*(part for pair in stages for part in pair), takedown.sha256]
        mark = ledger.fingerprint(code_versions.PUBLISH, config, depends)
        manifest = _published(layout, mark)
        if manifest is None:
            manifest = _Builder(layout, config, inputs, provenance, takedown, mark, work).build()
        versions.make_current(layout, manifest)
    return manifest


def _published(layout: Layout, mark: str) -> Manifest | None:
    for directory in versions.versions(layout):
        if ledger.require_success(directory).fingerprint == mark:
            return read_manifest(directory)
    return None


class _Builder:
    """Builds one version in the local directory `work` and puts it in its place."""

    def __init__(
        self,
        layout: Layout,
        config: PublishConfig,
        inputs: Sequence[BatchInput],
        provenance: Mapping[str, str],
        takedown: Takedown,
        mark: str,
        work: str,
    ):
        self._layout = layout
        self._config = config
        self._inputs = inputs
        self._provenance = provenance
        self._takedown = takedown
        self._mark = mark
        self._work = work
        self._version = f"{work}/version"

    def build(self) -> Manifest:
        dropped, files = self._write_tables()
        files.append(self._copy_tokenizer())
        found = sample_pictures(self._layout, self._version, self._config.samples)
        for path, (_, picture) in found.items():
            files.append(versions.write_file(self._version, path, picture))
        samples = {path: caption for path, (caption, _) in found.items()}
        rejects = parquet.read_batches(f"{self._work}/{_REJECTS}")
        manifest = self._manifest(files, dropped, samples)
        return versions.seal(self._version, manifest, rejects, self._layout)

    def _write_tables(self) -> tuple[dict[str, int], list[PublishedFile]]:
        config = self._config
        rows = sum(batch.rows for batch in self._inputs)
        shuffle = Shuffle(f"{self._work}/buckets", rows, config.bucket_rows, config.seed)
        dropped: dict[str, int] = {}
        counted = self._counted(self._rejects(shuffle), dropped)
        parquet.write(f"{self._work}/{_REJECTS}", counted, schemas.REJECTS)
        plain = schemas.token_grids(int(self._provenance["grid"]))
        schema = plain.with_metadata({**plain.metadata, **self._provenance, **self._made_by()})
        files = self._write_parts(TOKENS, shuffle.rows(), schema, TOKEN_FILE_OPTIONS)
        if not files:
            raise ValueError(
                "everything in the batches was taken down; nothing to publish: crawl more, or "
                f"correct the lists in {self._layout.takedowns} and at DALLE_CRAWL_TAKEDOWN"
            )
        files += self._write_parts(METADATA, shuffle.rows(), schemas.TOKEN_METADATA, {})
        kept = sum(file.rows for file in files if file.path.startswith(f"{TOKENS}/"))
        Funnel(rows, kept, dropped).check("token_dataset")
        return dropped, files

    def _made_by(self) -> dict[str, str]:
        """What chose the rows and wrote the files; without the former if batches differ in it."""
        facts = {"publish_code_version": code_versions.PUBLISH}
        curated = curate_config_hash(self._layout, [batch.name for batch in self._inputs])
        return facts | ({"curate_config_hash": curated} if curated else {})

    def _rejects(self, shuffle: Shuffle) -> Iterator[pa.RecordBatch]:
        """Fill and sort the shuffle; yields what is not published."""
        for batch in self._inputs:
            for joined in token_rows(self._layout, batch.name, _READ_ROWS):
                taken = is_taken_down(joined, self._takedown)
                shuffle.add(joined.filter(pc.invert(taken)))
                if rows := joined.filter(taken):
                    # Not even the URL is kept of what had to go.
                    uids = rows.select(["uid"])
                    yield rejected(uids, schemas.Stage.PUBLISH, [TAKEN_DOWN] * rows.num_rows)
        for table in shuffle.sort():
            if table.num_rows:
                yield _reject_repeated(table)

    @staticmethod
    def _counted(
        batches: Iterable[pa.RecordBatch], counts: dict[str, int]
    ) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            reason = batch.column("reason")[0].as_py()
            counts[reason] = counts.get(reason, 0) + batch.num_rows
            yield batch

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
        file = versions.write_file(self._version, TOKENIZER_FILE, data)
        if file.sha256 != self._provenance["tokenizer_sha256"]:
            raise ValueError(
                f"{self._layout.tokenizer}/{TOKENIZER_FILE} is not the file that its marker "
                "describes; materialise bpe_tokenizer again"
            )
        return file

    def _manifest(
        self, files: list[PublishedFile], dropped: dict[str, int], samples: dict[str, str]
    ) -> Manifest:
        facts, config = self._provenance, self._config
        return Manifest(
            version="",
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            title=config.title,
            description=config.description,
            licences=config.licences,
            contract_version=schemas.CONTRACT_VERSION,
            rows=sum(f.rows for f in files if f.path.startswith(f"{TOKENS}/")),
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
            dropped=dropped,
            files=tuple(files),
            stages=tuple(record for batch in self._inputs for record in batch.records),
            samples=samples,
            filters=stage_filters(self._layout, [batch.name for batch in self._inputs]),
        )


def _reject_repeated(rows: pa.Table) -> pa.RecordBatch:
    details = [f"also in an earlier batch than {b}" for b in rows.column("crawl_batch").to_pylist()]
    return rejected(rows, schemas.Stage.PUBLISH, [REPEATED] * rows.num_rows, details)

"""`python -m pipelines.publish.takedown`: a version without what was asked to be removed."""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from pipelines import code_versions, commands, ledger, parquet, schemas, storage
from pipelines.crawl.consent.takedown import Takedown, read_takedown
from pipelines.encode.config import TOKEN_FILE_OPTIONS
from pipelines.layout import Layout, join
from pipelines.publish import versions
from pipelines.publish.manifest import Manifest, PublishedFile, read_manifest
from pipelines.publish.taken_down import COLUMNS, TAKEN_DOWN, is_taken_down, remember
from pipelines.publish.use import Use, uses
from pipelines.publish.versions import CARD, CROISSANT
from pipelines.shards import rejected


class Removal(NamedTuple):
    """What a takedown did.

    Attributes:
        manifest: of the current version afterwards.
        rows: token rows that were removed; 0 if none was listed, and nothing was written.
        files: Parquet files that were written again, of `files_in_all`.
        files_in_all: Parquet files of the version.
        saw: models and checkpoints that were trained on listed rows, with the number of rows.
    """

    manifest: Manifest
    rows: int
    files: int
    files_in_all: int
    saw: list[tuple[Use, int]]


def take_down(layout: Layout, takedown: Takedown) -> Removal:
    """Publish the current version again without the listed rows, and make that the current one.

    Only the part files that hold such rows are written; the others are linked, or copied by the
    object store. The list counts for every later publication. Older versions stay until they are
    removed.

    Raises:
        FileNotFoundError: if nothing is published.
        ValueError: if no row would be left, or somebody published meanwhile.
    """
    read_manifest(layout.token_dataset)
    with versions.workspace(layout.token_dataset) as work:
        # Read when nobody else of this machine can publish any more.
        manifest = read_manifest(layout.token_dataset)
        listed, saw = _listed(manifest, takedown), _saw(layout, takedown)
        parts = len(manifest.metadata_files)
        if not listed:
            # Another batch, or a later one, may hold such rows.
            remember(layout, takedown)
            return Removal(manifest, 0, 0, 2 * parts, saw)
        rebuilt = _Rebuilt(layout, manifest, listed, f"{work}/version", takedown)
        taken = rebuilt.seal()
        # Behind the refusal of a list that names every row, which would stop every publication.
        remember(layout, takedown)
        if versions.current(layout) != manifest.version:
            raise ValueError("another version was published meanwhile; take down again")
        versions.make_current(layout, taken, rebuilt.shared)
    return Removal(taken, manifest.rows - taken.rows, 2 * len(listed), 2 * parts, saw)


def _listed(manifest: Manifest, takedown: Takedown) -> dict[int, pa.Array]:
    """Rows to remove as a bool array by the number of the part, for parts that have some."""
    found = {}
    for index, file in enumerate(manifest.metadata_files):
        batches = parquet.read_batches(manifest.url(file), columns=list(COLUMNS))
        masks = [is_taken_down(batch, takedown) for batch in batches]
        mask = pa.concat_arrays(masks)
        if pc.any(mask).as_py():
            found[index] = mask
    return found


def _saw(layout: Layout, takedown: Takedown) -> list[tuple[Use, int]]:
    """Whoever was trained on listed rows, as far as a version that is still there has them."""
    by_batch: dict[str, Counter[str]] = {}
    seen = []
    for use in uses(layout):
        # Who was trained on pairs saw those of its batches, which the current version knows.
        version = use.version or versions.current(layout) or ""
        directory = versions.version_directory(layout, version)
        if version not in by_batch and ledger.read_success(directory) is not None:
            by_batch[version] = _listed_by_batch(read_manifest(directory), takedown)
        found = by_batch.get(version, Counter())
        if count := sum(found[batch] for batch in use.batches or tuple(found)):
            seen.append((use, count))
    return seen


def _listed_by_batch(manifest: Manifest, takedown: Takedown) -> Counter[str]:
    """Listed rows of a version by the crawl batch that found them."""
    found: Counter[str] = Counter()
    for index, mask in _listed(manifest, takedown).items():
        url = manifest.url(manifest.metadata_files[index])
        rows = pa.Table.from_batches(parquet.read_batches(url, columns=["crawl_batch"]))
        found.update(rows.filter(mask).column("crawl_batch").to_pylist())
    return found


class _Rebuilt:
    """A version made from another one, in the local directory `built`.

    Attributes:
        shared: URLs of the other version's files that this one has too, by their path.
    """

    def __init__(
        self,
        layout: Layout,
        manifest: Manifest,
        listed: dict[int, pa.Array],
        built: str,
        takedown: Takedown,
    ):
        self._layout, self._manifest, self._listed = layout, manifest, listed
        self._built, self._takedown = built, takedown
        self.shared: dict[str, str] = {}

    def seal(self) -> Manifest:
        manifest = self._manifest
        gone = pa.concat_tables(self._removed()).combine_chunks()
        uids = {uid.hex() for uid in gone.column("uid").to_pylist()}
        samples = {path: text for path, text in manifest.samples.items() if _uid(path) not in uids}
        tokens = self._parts(manifest.token_files, TOKEN_FILE_OPTIONS)
        if not tokens:
            raise ValueError("the list takes down every row of the version; correct the list")
        written_again = {CARD, CROISSANT, *manifest.samples} - samples.keys()
        tables = {*manifest.token_files, *manifest.metadata_files}
        others = [f for f in manifest.files if f not in tables and f.path not in written_again]
        rows = sum(file.rows for file in tokens)
        taken = manifest.dropped.get(TAKEN_DOWN, 0) + manifest.rows - rows
        return versions.seal(
            self._built,
            dataclasses.replace(
                manifest,
                version="",
                created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                rows=rows,
                configuration=ledger.fingerprint(
                    code_versions.TAKEDOWN, manifest.version, [self._takedown.sha256]
                ),
                dropped={**manifest.dropped, TAKEN_DOWN: taken},
                files=(
                    *tokens,
                    *self._parts(manifest.metadata_files, {}),
                    *(self._kept(file) for file in others),
                ),
                samples=samples,
                parent=manifest.version,
            ),
            self._rejects(gone),
            self._layout,
            self.shared,
        )

    def _removed(self) -> Iterator[pa.Table]:
        for index, mask in self._listed.items():
            file = self._manifest.metadata_files[index]
            uids = parquet.read_batches(self._manifest.url(file), columns=["uid"])
            yield pa.Table.from_batches(uids).filter(mask)

    def _parts(
        self, files: tuple[PublishedFile, ...], options: Mapping[str, object]
    ) -> list[PublishedFile]:
        """Part files of one table without the listed rows; empty ones are left out."""
        parts = [
            self._without(file, self._listed[i], options) if i in self._listed else self._kept(file)
            for i, file in enumerate(files)
        ]
        return [part for part in parts if part.rows]

    def _without(
        self, file: PublishedFile, mask: pa.Array, options: Mapping[str, object]
    ) -> PublishedFile:
        url, keep = self._manifest.url(file), pc.invert(mask)
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream, pq.ParquetFile(stream) as source:
            schema, group = source.schema_arrow, source.metadata.row_group(0).num_rows
        rows = _filtered(parquet.read_batches(url, rows=group), keep)
        target = f"{self._built}/{file.path}"
        written = parquet.write(target, rows, schema, row_group_rows=group, **options)
        return PublishedFile(file.path, written.rows, written.bytes, written.sha256)

    def _kept(self, file: PublishedFile) -> PublishedFile:
        """An untouched file, which is not written."""
        self.shared[file.path] = self._manifest.url(file)
        return file

    def _rejects(self, gone: pa.Table) -> Iterator[pa.RecordBatch]:
        """Those of the version before, and the rows that go now."""
        before = self._layout.rejects(schemas.Stage.PUBLISH, self._manifest.version)
        for batch in parquet.read_batches(join(before, versions.REJECTS)):
            yield _without_names(batch, gone.column("uid"))
        yield rejected(gone, schemas.Stage.PUBLISH, [TAKEN_DOWN] * gone.num_rows)


def _filtered(batches: Iterable[pa.RecordBatch], keep: pa.Array) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        yield batch.filter(keep.slice(start, batch.num_rows))
        start += batch.num_rows


def _without_names(rejects: pa.RecordBatch, uids: pa.ChunkedArray) -> pa.RecordBatch:
    """Rejects that keep neither URL nor caption of the pairs `uids`."""
    listed = pc.is_in(rejects.column("uid"), value_set=uids.combine_chunks())
    for name in ("url", "caption_raw"):
        index = rejects.schema.get_field_index(name)
        kept = pc.if_else(listed, pa.scalar(None, pa.string()), rejects.column(name))
        rejects = rejects.set_column(index, rejects.schema.field(index), kept)
    return rejects


def _uid(path: str) -> str:
    """The uid, in hex, of a sample picture's path."""
    return path.rsplit("/", 1)[1].partition(".")[0]


def main(
    takedown: Annotated[
        str,
        typer.Argument(
            metavar="LIST",
            help="File with a URL, domain, SHA-256 of an image or uid a line.",
            show_default=False,
        ),
    ],
    data_root: Annotated[
        str, typer.Option(metavar="DIR", help="Data root: a directory or fsspec URL.")
    ],
) -> None:
    """Publish the current version again without the rows on LIST.

    Writes only the part files that hold listed rows (the others are linked, or copied inside the
    object store), makes the new version the current one, and names the models and checkpoints
    that saw the rows. Every later publication leaves the rows out too: LIST is kept in takedowns/
    below the data root. Older versions still hold them: remove those with
    pipelines.publish.remove. Let DALLE_CRAWL_TAKEDOWN name the same list, so that they are not
    crawled again.

    \b
    python -m pipelines.publish.takedown takedown.txt --data-root demo/data
    """
    if not storage.exists(takedown):
        raise FileNotFoundError(f"{takedown}, the takedown list, is not there")
    done = take_down(Layout(data_root.rstrip("/")), read_takedown(takedown))
    if not done.rows:
        typer.echo(
            f"no row of version {done.manifest.version} is on the list; nothing to remove now, and "
            "later publications leave its rows out"
        )
    else:
        typer.echo(
            f"{done.rows:,} rows removed; {done.files} of {done.files_in_all} Parquet files "
            f"written again\nversion {done.manifest.version} is current: {done.manifest.directory}"
        )
    for use, rows in done.saw:
        where = f"version {use.version}" if use.version else f"batches {', '.join(use.batches)}"
        typer.echo(f"{use.path} saw {rows:,} of the listed rows, in {where}")


if __name__ == "__main__":
    commands.run(main)

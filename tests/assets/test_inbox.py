"""The inbox's sensor, tick by tick, on real files and a real instance."""

import gzip
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import pytest

from assets import inbox as module
from assets.definitions import defs
from assets.inbox import Memory, crawl_inbox
from assets.lib.settings import CrawlSettings, Settings
from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, read_batch, write_batch
from pipelines.layout import Layout

LIST = "url,caption\n" + "".join(f"https://example.org/{n}.jpg,number {n}\n" for n in range(30))


@dataclass
class Inbox:
    """A folder, a data root, an instance and the sensor's cursor."""

    folder: Path | str
    layout: Layout
    instance: dg.DagsterInstance
    cursor: str | None = None
    log: list[str] = field(default_factory=list)

    def put(self, path: str, data: bytes = LIST.encode()) -> Path:
        file = Path(self.folder) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        # As a file that was copied an hour ago; a fresh one is still settling.
        os.utime(file, (time.time() - 3600,) * 2)
        return file

    def tick(self, *, killed: bool = False) -> Any:
        """One tick; a killed one ends after its partitions are added, before its cursor is kept."""
        settings = Settings(
            data_root=self.layout.root,
            recipe="demo",
            reference_images="/x",
            processes=1,
            crawl=CrawlSettings(inbox=str(self.folder)),
        )
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"settings": settings}
        ) as context:
            result = crawl_inbox(context)
        if isinstance(result, dg.SkipReason):
            return result
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions("crawl_batch", list(request.partition_keys))
        if not killed:
            self.cursor = result.cursor
        return result

    def names(self, result: dg.SensorResult) -> list[str]:
        return [request.partition_key for request in result.run_requests or ()]

    @property
    def refused(self) -> list[str]:
        return [Path(path).name for path in Memory.of(self.cursor).refused]


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    folder = tmp_path / "inbox"
    folder.mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        yield Inbox(folder, Layout(str(tmp_path / "data")), instance)


def test_a_new_list_becomes_a_batch_and_a_run(inbox: Inbox) -> None:
    inbox.put("our-list/first.csv")
    assert inbox.names(inbox.tick()) == []
    result = inbox.tick()
    (name,) = inbox.names(result)
    assert [request.run_key for request in result.run_requests or ()] == [name]
    batch = read_batch(name, inbox.layout)
    assert [(s.name, s.kind) for s in batch.sources] == [("our-list", SourceKind.URL_LIST)]
    assert inbox.instance.get_dynamic_partitions("crawl_batch") == [name]
    again = inbox.tick()
    assert inbox.names(again) == []
    assert "no new file" in str(again.skip_reason)


def test_a_file_that_is_still_copied_is_left_alone(inbox: Inbox) -> None:
    file = inbox.put("l/first.csv", LIST.encode()[:200])
    os.utime(file)
    for _ in range(3):
        assert inbox.names(inbox.tick()) == []
    inbox.put("l/first.csv", LIST.encode()[:400])
    inbox.tick()
    inbox.put("l/first.csv")
    assert inbox.names(inbox.tick()) == []
    assert len(inbox.names(inbox.tick())) == 1


def test_a_file_that_nobody_can_read_is_told_once_and_stops_no_other(
    inbox: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    inbox.put("l/a-broken.parquet", b"PAR1 and then nothing of a Parquet file")
    inbox.put("l/b.csv")
    inbox.tick()
    capfd.readouterr()
    assert len(inbox.names(inbox.tick())) == 1
    assert inbox.refused == ["a-broken.parquet"]
    assert "a-broken.parquet is left alone" in "".join(capfd.readouterr())
    quiet = inbox.tick()
    assert "1 refused" in str(quiet.skip_reason)
    assert "left alone" not in "".join(capfd.readouterr())
    # Repaired, it is a new file.
    inbox.put("l/a-broken.parquet", gzip.compress(LIST.replace("number", "no").encode()))
    inbox.tick()
    assert len(inbox.names(inbox.tick())) == 1
    inbox.tick()
    assert inbox.refused == []


def test_a_tick_that_was_killed_is_done_again(inbox: Inbox) -> None:
    inbox.put("l/first.csv")
    inbox.tick()
    names = inbox.names(inbox.tick(killed=True))
    assert inbox.instance.get_dynamic_partitions("crawl_batch") == names
    before = storage.read_bytes(inbox.layout.crawl_batch(names[0]))
    assert inbox.names(inbox.tick()) == names
    assert storage.read_bytes(inbox.layout.crawl_batch(names[0])) == before
    assert inbox.names(inbox.tick()) == []


def test_many_files_at_once_take_several_ticks(inbox: Inbox) -> None:
    for number in range(12):
        inbox.put(f"l/{number:02}.csv", LIST.replace("number", f"{number}").encode())
    inbox.tick()
    assert [len(inbox.names(inbox.tick())) for _ in range(4)] == [5, 5, 2, 0]
    assert len(set(inbox.instance.get_dynamic_partitions("crawl_batch"))) == 12


def test_a_long_list_is_several_batches(inbox: Inbox) -> None:
    rows = "".join(f"a caption\thttps://example.org/{n}.jpg\n" for n in range(350_000))
    inbox.put("cc3m-00000.tsv.gz", gzip.compress(rows.encode(), 1))
    inbox.tick()
    names = inbox.names(inbox.tick())
    batches = [read_batch(name, inbox.layout) for name in names]
    assert {batch.sources[0].name for batch in batches} == {"cc3m"}
    cuts = [batch.sources[0].rows for batch in batches]
    assert cuts == [(0, 87_500), (87_500, 175_000), (175_000, 262_500), (262_500, 350_000)]
    assert inbox.names(inbox.tick()) == []


def test_a_list_too_long_for_a_tick_is_left_to_the_command(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inbox.put("l/long.csv")
    monkeypatch.setattr(module, "_MOST_TEXT_BYTES", 100)
    inbox.tick()
    assert inbox.names(inbox.tick()) == []
    assert "python -m assets.batches add NAME" in "".join(capfd.readouterr())


def test_a_slow_file_ends_the_tick(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.csv", "b.csv"):
        inbox.put(f"l/{name}")
    inbox.tick()
    monkeypatch.setattr(module, "_TICK_SECONDS", -1.0)
    assert len(inbox.names(inbox.tick())) == 1
    assert len(inbox.names(inbox.tick())) == 1


def test_a_batch_made_by_hand_is_not_overwritten(inbox: Inbox) -> None:
    inbox.put("l/first.csv")
    inbox.tick()
    (name,) = inbox.names(inbox.tick(killed=True))
    inbox.instance.delete_dynamic_partition("crawl_batch", name)
    by_hand = Source("s", SourceKind.WEB_PAGES, ("https://example.org/",))
    write_batch(CrawlBatch(name, (by_hand,)), inbox.layout)
    assert inbox.names(inbox.tick()) == []
    assert read_batch(name, inbox.layout).sources == (by_hand,)
    assert inbox.refused == ["first.csv"]


def test_an_inbox_that_is_not_there_is_told(inbox: Inbox) -> None:
    Path(inbox.folder).rmdir()
    reason = inbox.tick()
    assert isinstance(reason, dg.SkipReason)
    assert "correct DALLE_CRAWL_INBOX" in str(reason.skip_message)
    inbox.put("l/first.csv")
    inbox.tick()
    assert len(inbox.names(inbox.tick())) == 1


def test_archives_are_taken_and_hidden_files_are_not(inbox: Inbox) -> None:
    record = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    inbox.put("CC-MAIN-20260101-00007.warc.gz", gzip.compress(record))
    inbox.put("l/.hidden.csv")
    inbox.put("l/uploading.csv.part")
    inbox.tick()
    (name,) = inbox.names(inbox.tick())
    (source,) = read_batch(name, inbox.layout).sources
    assert (source.name, source.kind) == ("CC-MAIN", SourceKind.WEB_ARCHIVE)


def test_a_bucket_is_an_inbox_too(inbox: Inbox) -> None:
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/inbox-test/inbox/ours/a.csv", LIST.encode())
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    bucket.store["/inbox-test/inbox/ours/a.csv"].modified = an_hour_ago
    try:
        inbox.folder = "memory://inbox-test/inbox"
        inbox.layout = Layout("memory://inbox-test/data")
        inbox.tick()
        (name,) = inbox.names(inbox.tick())
        (source,) = read_batch(name, inbox.layout).sources
        assert (source.name, source.paths) == ("ours", ("memory:///inbox-test/inbox/ours/a.csv",))
        assert inbox.names(inbox.tick()) == []
    finally:
        bucket.rm("/inbox-test", recursive=True)


def test_without_an_inbox_the_sensor_is_off_and_says_what_to_set() -> None:
    sensor = defs.resolve_sensor_def("crawl_inbox")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    settings = Settings(data_root="/x", recipe="demo", reference_images="/x", processes=1)
    with dg.build_sensor_context(resources={"settings": settings}) as context:
        reason = crawl_inbox(context)
    assert isinstance(reason, dg.SkipReason)
    assert "DALLE_CRAWL_INBOX" in (reason.skip_message or "")


def test_looking_into_a_large_inbox_is_quick(inbox: Inbox) -> None:
    for number in range(3000):
        inbox.put(f"l{number % 3}/{number:04}.csv", b"x")
    started = time.monotonic()
    inbox.tick()
    # The daemon gives a sensor a minute.
    assert time.monotonic() - started < 20
    assert len(inbox.cursor or "") < 200_000

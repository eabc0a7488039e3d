import gzip
import io
import random
import time

import pytest
from warc_records import AGENT, PAGE, damaged, failures, found, pairs, read, response
from web_server import serving

from pipelines.crawl.sources.archive_records import MAX_BLOCK_BYTES, ArchiveError, iterate
from pipelines.crawl.sources.archives import read_archive


def cut_short(record: bytes) -> bytes:
    return record[:-30]


# Two neighbours without their first byte are one gap; what is cut short damages its neighbour.
@pytest.mark.parametrize(
    ("break_it", "gaps"), [(damaged, {3}), (lambda r: b"\0" + r[1:], {2}), (cut_short, {2, 3})]
)
def test_a_broken_gzip_member_costs_that_member(break_it, gaps, tmp_path):
    records = [response(n, PAGE % n + random.Random(n).randbytes(3000).hex().encode())
               for n in range(8)]  # fmt: skip
    for n in (2, 3, 6):
        records[n] = break_it(records[n])
    rows = read(tmp_path, *records)
    whole = ["0", "1", "4", "5", "7"]
    assert [text for text in pairs(rows) if text in whole] == whole
    assert len(failures(rows)) in gaps


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_truncated_file_keeps_what_is_before_and_says_where_it_ends(packed, cut, tmp_path):
    records = [response(n, packed=packed) for n in range(3)]
    rows = read(tmp_path, records[0], records[1], records[2][:-cut])
    assert pairs(rows)[:2] == ["0", "1"]
    if packed or cut > 4:  # the last four bytes of a plain record are line ends
        (detail,) = failures(rows)
        assert f"at byte {len(records[0]) + len(records[1])}" in detail


def test_wrong_lengths_cost_their_record(tmp_path):
    records = [response(n, packed=False) for n in range(5)]
    head = records[1].index(b"Content-Length: ")
    long = records[1][:head] + b"Content-Length: 9" + records[1][head + 16 :]
    assert pairs(read(tmp_path, records[0], long, *records[2:])) == ["0", "2", "3", "4"]
    short = records[1][:head] + b"Content-Length: 1" + records[1][head + 17 :]
    rows = read(tmp_path, records[0], short, *records[2:])
    assert [row.caption for row in rows if row.problem is None][-3:] == ["2", "3", "4"]
    assert failures(rows)


def test_of_records_too_large_only_pages_are_told(tmp_path):
    large = bytes(MAX_BLOCK_BYTES)
    video = response(1, large, [("Content-Type", "video/mp4")])
    rows = read(tmp_path, response(0), video, response(2, large), response(3))
    assert pairs(rows) == ["0", "3"]
    assert [row.page_url for row in rows if row.problem] == ["http://h.example/2/page.html"]


@pytest.mark.parametrize("good_reads", [0, 1, 2, 5])
def test_a_file_that_cannot_be_read_is_no_broken_record(good_reads):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            self.reads = getattr(self, "reads", 0) + 1
            if self.reads > good_reads:
                raise OSError("connection lost")
            return super().read(size)

    records = b"".join(
        response(n, random.Random(n).randbytes(100_000).hex().encode()) for n in range(9)
    )
    with pytest.raises(ArchiveError, match="x cannot be read: connection lost; try again"):
        list(iterate(Failing(records), "x"))


def test_a_file_that_is_no_archive_is_one_broken_row(tmp_path):
    for content in (b"<html>" * 1000, gzip.compress(b"hello" * 1000), bytes(range(256)) * 99):
        rows = read(tmp_path, content)
        assert len(failures(rows)) == len(rows) == 1
    assert read(tmp_path, b"") == []
    with pytest.raises(ArchiveError, match=r"cannot be opened.*check the path"):
        list(read_archive(str(tmp_path / "none"), AGENT))


def test_archives_are_read_from_a_web_server(tmp_path):
    (tmp_path / "root").mkdir()
    parts = [response(n) for n in range(300)]
    parts[7] = damaged(parts[7])
    (tmp_path / "root" / "a.warc.gz").write_bytes(b"".join(parts))
    for nginx in (True, False):  # with range requests and without
        with serving(tmp_path / "root", tmp_path / f"work{nginx}", nginx=nginx) as server:
            rows = list(read_archive(f"{server.url}/a.warc.gz", AGENT))
        assert len(failures(rows)) == 1
        assert pairs(rows) == [str(n) for n in range(300) if n != 7]


def test_a_server_that_cannot_seek_gives_what_is_before_the_first_gap(site):
    parts = [response(n) for n in range(300)]

    def reply(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"".join(parts))

    site.replies["/a"] = reply
    assert list(read_archive(f"{site.url}/a", AGENT)) == [found(n) for n in range(300)]
    parts[250] = damaged(parts[250])
    rows = list(read_archive(f"{site.url}/a", AGENT))
    assert pairs(rows) == [str(n) for n in range(len(rows) - 1)]
    assert len(failures(rows)) == 1
    assert 100 < len(rows) <= 251


def lying(kind: str, body: bytes, packed: bool) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: application/http\r\n"
    record = f"{head}Content-Length: 90000000\r\n\r\n".encode() + body + b"\r\n\r\n"
    return gzip.compress(record) if packed else record


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["response", "request", "warcinfo"])
def test_records_that_all_claim_the_rest_of_the_file_are_read_in_linear_time(
    tmp_path, kind, packed
):
    # Small ones, and some that are longer than what is read at once.
    bodies = [b"x"] * 2000 + [random.Random(1).randbytes(100_000)] * 200
    start = time.process_time()
    records = [lying(kind, body, packed) for body in bodies]
    honest = response(1, packed=packed)
    rows = read(tmp_path, honest, *records[:5], honest, *records[5:], honest)
    # Each read to the end of the file once would be a minute.
    assert time.process_time() - start < 8
    assert pairs(rows) == ["1", "1", "1"]
    assert len(failures(rows)) == len(records)


@pytest.mark.parametrize("packed", [True, False])
def test_a_record_without_pages_costs_no_other_by_its_wrong_length(tmp_path, packed):
    wrong = lying("request", b"x", packed)
    records = [response(n, packed=packed) for n in range(4)]
    rows = read(tmp_path, records[0], wrong, records[1], records[2], wrong, records[3])
    assert pairs(rows) == ["0", "1", "2", "3"]
    places = [len(records[0]), sum(map(len, (records[0], wrong, records[1], records[2])))]
    for detail, place in zip(failures(rows), places, strict=True):
        assert f"at byte {place}: its length of 90000000 bytes runs over" in detail


@pytest.mark.parametrize("packed", [True, False])
def test_a_record_without_pages_that_is_cut_short_is_told(tmp_path, packed):
    cut = lying("request", b"x", packed)[:-10]
    before = response(0, packed=packed)
    rows = read(tmp_path, before, cut)
    assert pairs(rows) == ["0"]
    (detail,) = failures(rows)
    assert f"at byte {len(before)}" in detail

import gzip
import subprocess
import sys
import zlib

import brotli
import pytest
from fastwarc.stream_io import Lz4Writer, ZstdWriter
from warc_records import AGENT, HTML, PAGE, failures, found, metadata, pairs, read, response

from pipelines.crawl.found import FoundRow, Problem
from pipelines.crawl.sources.archives import RecordError, decoded_body, parse_answer, read_archive


@pytest.mark.parametrize("compression", ["plain", "gzip", "one gzip", "zstd", "lz4"])
def test_every_compression_is_read_whatever_the_file_is_called(compression, tmp_path):
    plain = [response(n, packed=False) for n in range(40)]
    path = tmp_path / "archive"
    if compression in ("zstd", "lz4"):
        kind = ZstdWriter if compression == "zstd" else Lz4Writer
        with open(path, "wb") as file:
            writer = kind(file)
            for record in plain:
                writer.write(record)
            writer.close()
    elif compression == "gzip":
        path.write_bytes(b"".join(map(gzip.compress, plain)))
    else:
        together = b"".join(plain)
        path.write_bytes(gzip.compress(together) if compression == "one gzip" else together)
    assert list(read_archive(str(path), AGENT)) == [found(n) for n in range(40)]


def test_only_pages_with_status_200_give_rows(tmp_path):
    rows = read(
        tmp_path,
        response(0, status="404 Not Found"),
        response(1, headers=[("Content-Type", "application/json")]),
        response(2, headers=[("Content-Type", "application/xhtml+xml")]),
        response(3, headers=[("Server", "x")]),
        response(4, b"\x89PNG....", headers=[("Server", "x")]),
        response(5, kind="resource", headers=[("Content-Type", "text/html")]),
        response(6, kind="resource", headers=[("Content-Type", "text/css")]),
        response(7, kind="conversion", headers=[("Content-Type", "text/html")]),
        response(8, status="301 Moved"),
    )
    assert rows == [found(2), found(3), found(5)]


@pytest.mark.parametrize(
    ("headers", "body", "signal"),
    [
        ([HTML, ("X-Robots-Tag", "noai")], None, "x_robots_tag: noai"),
        ([HTML, ("tdm-reservation", "1")], None, "tdm_reservation: 1"),
        ([HTML, ("Content-Usage", "train-ai=n")], None, "content_usage: train-ai=n"),
        ([HTML], b'<meta name=robots content="noimageai"><img src=a alt=b>', "meta_robots: noima"),
        ([HTML], b'<meta name=tdm-reservation content=1><img src=a alt=b>', "meta_tdm_reservation"),
    ],
)  # fmt: skip
def test_a_page_that_forbids_use_is_one_row(headers, body, signal, tmp_path):
    rows = read(tmp_path, response(0), response(1, body, headers), response(2))
    assert [row.problem for row in rows] == [None, Problem.PAGE_OPTED_OUT, None]
    assert rows[1].detail.startswith(signal)
    assert rows[1].page_url == "http://h.example/1/page.html"


@pytest.mark.parametrize(
    ("body", "headers", "problem"),
    [
        (b"5\r\n<p>hi\r\nZZ\r\nfoo", [("Transfer-Encoding", "chunked")], "chunked encoding"),
        (gzip.compress(PAGE * 99)[:-20], [("Content-Encoding", "gzip")], "ends early"),
        (b"\x1f\x8b junk", [("Content-Encoding", "gzip")], "gzip encoding"),
        (b"\x1f\x8b junk", [("Content-Encoding", "br")], "br encoding"),
        (gzip.compress(b"<p>" * 7_000_000), [("Content-Encoding", "gzip")], "more than 20000000"),
        (brotli.compress(b"<p>" * 7_000_000), [("Content-Encoding", "br")], "more than 20000000"),
        ((b"<p>" + b"".join(b"<font a%d>" % i for i in range(4000)) + b"<p>x" * 4000), [],
         "takes more than the memory"),
    ],
)  # fmt: skip
def test_a_broken_page_costs_its_record(body, headers, problem, tmp_path):
    rows = read(tmp_path, response(0), response(1, body, [HTML, *headers]), response(2))
    assert pairs(rows) == ["0", "2"]
    (detail,) = failures(rows)
    assert problem in detail
    assert "<urn:uuid:" in detail
    assert rows[1].page_url == "http://h.example/1/page.html"


def test_a_record_without_an_http_head_costs_that_record(tmp_path):
    record = response(1, packed=False).replace(b"HTTP/1.1 200 OK", b"GARBAGE\0 GARBAG")
    rows = read(tmp_path, response(0, packed=False), record, response(2, packed=False))
    assert pairs(rows) == ["0", "2"]
    assert "no HTTP response head" in failures(rows)[0]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"3\r\n<p>\r\n6;ext=1\r\nhello!\r\n0\r\n\r\n", [("Transfer-Encoding", "chunked")]),
        (b"<p>hello!", [("Transfer-Encoding", "chunked")]),
        (gzip.compress(b"<p>hello!"), [("Content-Encoding", "gzip")]),
        (b"<p>hello!", [("Content-Encoding", "gzip")]),
        (zlib.compress(b"<p>hello!"), [("Content-Encoding", "deflate")]),
        (zlib.compress(b"<p>hello!")[2:-4], [("Content-Encoding", "deflate")]),
        (brotli.compress(b"<p>hello!"), [("Content-Encoding", "br")]),
        (b"<p>hello!", [("Content-Encoding", "br")]),
        (b"<p>hello!", [("Content-Encoding", "zstd")]),
    ],
)
def test_encodings_are_undone_where_they_are_there(body, headers):
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    answer = parse_answer(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body)
    assert decoded_body(answer) == b"<p>hello!"


def test_heads_that_do_not_end_are_refused():
    with pytest.raises(RecordError, match="no HTTP response head"):
        parse_answer(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000)


def wat(n: int, **changes: object) -> dict:
    html = {
        "Head": {"Base": "/b/", "Metas": [{"name": "author", "content": "x"}, {"property": "y"}]},
        "Links": [
            {"path": "A@/href", "url": "/x", "text": "no"},
            {"path": "IMG@/src", "url": "p.png?a=1&amp;copy=2", "alt": f"a &amp; {n}"},
            {"path": "IMG@/src", "url": "none.png"},
            {"path": "IMG@/srcset", "url": "s.png 1x, l.png 2x", "alt": "set"},
            {"path": "IMG@/src", "url": "data:image/gif;base64,AA", "alt": "data"},
        ],
    }  # fmt: skip
    http = {
        "Response-Message": {"Status": "200"},
        "Headers": {"Content-Type": "text/html"},
        "HTML-Metadata": html,
    }
    about = {"WARC-Type": "response", "WARC-Target-URI": f"http://h.example/{n}/"}
    payload = {"HTTP-Response-Metadata": http | changes}
    return {"Envelope": {"WARC-Header-Metadata": about, "Payload-Metadata": payload}}


def test_wat_records_give_the_images_of_their_links(tmp_path):
    page = "http://h.example/0/"
    assert read(tmp_path, metadata(wat(0)), response(7)) == [
        FoundRow("http://h.example/b/p.png?a=1&copy=2", "a & 0", page),
        FoundRow("http://h.example/b/l.png", "set", page),
        found(7),
    ]


def test_wat_opt_outs_and_broken_records(tmp_path):
    missing = {"Response-Message": {"Status": "404"}}
    closed = {"HTML-Metadata": {"Head": {"Metas": [{"name": "robots", "content": "none"}]}}}
    rows = read(
        tmp_path,
        metadata(wat(0, Headers={"X-Robots-Tag": ["all", "noimageai"]})),
        metadata(wat(1, **closed)),
        metadata(b'{"Envelope": '),
        metadata({"Envelope": [1]}),
        metadata([]),
        metadata(wat(2, **missing)),
        metadata(wat(3)),
    )
    opted, failed = Problem.PAGE_OPTED_OUT, Problem.PAGE_FAILED
    assert [row.problem for row in rows] == [opted, opted, failed, None, None]
    assert rows[0].detail == "x_robots_tag: noimageai"
    assert rows[1].detail == "meta_robots: none"


_MEMORY = """
import resource, sys
from pipelines.crawl.sources.archives import read_archive
rows = sum(1 for _ in read_archive(sys.argv[1], "dalle-graph"))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_archive(tmp_path):
    peaks = []
    for pages in (50, 1000):
        path = tmp_path / f"{pages}.warc"
        with open(path, "wb") as file:
            for n in range(pages):
                file.write(response(n, PAGE % n + b"x" * 50_000, packed=False))
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True, check=True
        )
        rows, peak = map(int, done.stdout.split())
        assert rows == pages
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 20


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"[" + b"{}," * 1_000_000 + b"1]", "about 2000001 values"),
        (b" " * (8 * 1024 * 1024 + 1), "bytes are more than 8388608"),
    ],
    ids=["values", "bytes"],
)
def test_metadata_made_to_fill_the_memory_fails(block, why, tmp_path):
    head = "WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\n"
    record = f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
    rows = read(tmp_path, gzip.compress(record), response(1))
    assert pairs(rows) == ["1"]
    (detail,) = failures(rows)
    assert why in detail


def test_archives_may_have_a_star_in_their_name(tmp_path):
    (tmp_path / "a*.warc.gz").write_bytes(response(1))
    (tmp_path / "ab.warc.gz").write_bytes(response(2))
    assert pairs(read_archive(str(tmp_path / "a*.warc.gz"), AGENT)) == ["1"]

"""WARC and WAT records as bytes, and what is found in them."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.crawl.found import FoundRow, Problem
from pipelines.crawl.sources.archives import read_archive

AGENT = "dalle-graph"
HTML = ("Content-Type", "text/html; charset=utf-8")
PAGE = b'<p>text</p><img src="p.png" alt="%d">'


def response(
    n: int,
    body: bytes | None = None,
    headers: Sequence[tuple[str, str]] = (HTML,),
    status: str = "200 OK",
    *,
    packed: bool = True,
    kind: str = "response",
) -> bytes:
    """One record as bytes."""
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=packed)
    http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")
    writer.write_record(
        writer.create_warc_record(
            f"http://h.example/{n}/page.html",
            kind,
            payload=io.BytesIO(PAGE % n if body is None else body),
            warc_content_type=headers[0][1] if kind == "resource" else "",
            http_headers=http if kind == "response" else None,
        )
    )
    return file.getvalue()


def found(n: int) -> FoundRow:
    page = f"http://h.example/{n}/page.html"
    return FoundRow(f"http://h.example/{n}/p.png", str(n), page)


def read(folder: Path, *parts: bytes) -> list[FoundRow]:
    (folder / "archive").write_bytes(b"".join(parts))
    return list(read_archive(str(folder / "archive"), AGENT))


def pairs(rows: Iterable[FoundRow]) -> list[str | None]:
    return [row.caption for row in rows if row.problem is None]


def failures(rows: Iterable[FoundRow]) -> list[str]:
    assert {row.problem for row in rows} <= {None, Problem.PAGE_FAILED}
    return [row.detail or "" for row in rows if row.problem is not None]


def damaged(record: bytes) -> bytes:
    middle = len(record) // 2
    return record[:middle] + b"\xff\x00\xff" + record[middle + 3 :]


def metadata(record: object) -> bytes:
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    body = record if isinstance(record, bytes) else json.dumps(record).encode()
    writer.write_record(
        writer.create_warc_record(
            "http://h.example/",
            "metadata",
            payload=io.BytesIO(body),
            warc_content_type="application/json",
        )
    )
    return file.getvalue()

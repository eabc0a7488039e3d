"""The pages and warnings of the crawl's assets, from real materialisations of a small real web."""

import base64
import io
import json
import re
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from assets import crawl
from assets.lib import crawl_checks, crawl_page, exhibits
from assets.lib.crawl_page import success_share
from assets.lib.exhibits import Captioned
from assets.lib.settings import Settings
from pipelines import ledger
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.demo.server import DemoServer
from pipelines.demo.web import Web, build_web
from pipelines.layout import Layout
from pipelines.ledger import Finished, Funnel

LIMIT_BYTES = 200_000


@dataclass
class Crawled:
    """A small web, crawled, and the run that did it."""

    web: Web
    layout: Layout
    log: Path
    instance: dg.DagsterInstance
    settings: Settings
    result: dg.ExecuteInProcessResult

    def materialise(self) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [*crawl.ASSETS, *crawl.CHECKS],
            instance=self.instance,
            partition_key="b",
            resources={"settings": self.settings},
        )

    def page(self, asset: str) -> dict[str, Any]:
        (event,) = self.result.asset_materializations_for_node(asset)
        return dict(event.metadata)

    def asked(self) -> list[str]:
        return [json.loads(line)["path"] for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawled]:
    root = tmp_path_factory.mktemp("crawled")
    log = root / "access.log"
    server = DemoServer(str(root / "web"), 0, str(log))
    web = build_web(str(root / "web"), server.url, 64)
    with server, dg.DagsterInstance.ephemeral() as at:
        layout = Layout(str(root / "data"))
        source = Source("small-web", SourceKind.SITEMAP, (web.sitemap,))
        write_batch(CrawlBatch("b", (source,)), layout)
        at.add_dynamic_partitions("crawl_batch", ["b"])
        settings = Settings(
            data_root=layout.root, recipe="demo", reference_images="/x", processes=1
        )
        done = Crawled(web, layout, log, at, settings, None)  # type: ignore[arg-type]
        done.result = done.materialise()
        yield done


def _records(page: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in page[name].records]


def test_the_run_succeeds_and_no_check_warns(crawled: Crawled) -> None:
    assert crawled.result.success
    checks = {e.check_name: e for e in crawled.result.get_asset_check_evaluations()}
    assert all(check.passed for check in checks.values())
    said = [entry.user_message for entry in crawled.instance.all_logs(crawled.result.run_id)]
    assert any(re.search(r"[\d,]+ of [\d,]+ URLs, ", line) for line in said), "progress is told"
    warnings = {n for n, e in checks.items() if e.severity is dg.AssetCheckSeverity.WARN}
    assert warnings == {"fetched_pairs_success_rate", "image_text_candidates_broken_rows"}


def test_the_page_of_the_candidates(crawled: Crawled) -> None:
    page = crawled.page("image_text_candidates")
    finished = ledger.require_success(crawled.layout.dataset("image_text_candidates", "b"))
    assert page["dagster/row_count"].value == finished.rows
    assert _records(page, "pairs by source") == [{"source": "small-web", "pairs": finished.rows}]
    sample = _records(page, "sample rows")
    assert len(sample) == 20
    assert all(row["url"].startswith(crawled.web.base_url) and row["caption_raw"] for row in sample)
    assert page["earlier batches compared with"].value == 0
    examples = Counter(row["reason"] for row in _records(page, "examples of rows dropped"))
    wanted = {reason: min(3, n) for reason, n in finished.funnel.dropped.items()}
    assert dict(examples) == wanted
    funnel = {row["outcome"]: row["rows"] for row in _records(page, "funnel")}
    assert funnel["in"] == funnel["kept"] + sum(finished.funnel.dropped.values())


def test_the_page_of_the_fetched_pairs(crawled: Crawled) -> None:
    page = crawled.page("fetched_pairs")
    finished = ledger.require_success(crawled.layout.dataset("fetched_pairs", "b"))
    dropped = finished.funnel.dropped
    share = finished.funnel.kept / (finished.funnel.rows_in - dropped["opted_out"])
    assert page["success share"].value == pytest.approx(share)
    outcomes = {row["outcome"]: row for row in _records(page, "outcomes")}
    assert {name: row["pairs"] for name, row in outcomes.items()} == dropped | {
        "ok": finished.funnel.kept
    }
    assert outcomes["not_found"]["example"].startswith("http://127.0.0.1")
    assert not any(row["worth another try"] for row in outcomes.values())
    opt_outs = {row["signal"]: row for row in _records(page, "opt-outs")}
    assert set(opt_outs) == {"robots_txt", "x_robots_tag"}
    assert sum(row["pairs"] for row in opt_outs.values()) == dropped["opted_out"]
    assert page["images_per_second"].value > 0
    assert page["image_bytes"].value > 1000
    kind, data = page["pictures"].value.removeprefix("![pictures](data:image/").split(";base64,")
    sheet = Image.open(io.BytesIO(base64.b64decode(data.removesuffix(")"))))
    assert kind in ("png", "jpeg")
    assert len(set(sheet.convert("L").resize((64, 64)).tobytes())) > 20, "pictures, not grey"


def test_pages_stay_small(crawled: Crawled) -> None:
    for asset in ("image_text_candidates", "fetched_pairs"):
        (event,) = crawled.result.asset_materializations_for_node(asset)
        assert 1000 < len(dg.serialize_value(event)) < LIMIT_BYTES


def test_a_second_materialisation_asks_for_nothing_and_shows_the_same(crawled: Crawled) -> None:
    before = len(crawled.asked())
    again = crawled.materialise()
    assert again.success
    assert len(crawled.asked()) == before
    (event,) = again.asset_materializations_for_node("fetched_pairs")
    assert event.metadata["success share"] == crawled.page("fetched_pairs")["success share"]


def _marker(layout: Layout, batch: str, kept: int, **dropped: int) -> None:
    funnel = Funnel(kept + sum(dropped.values()), kept, dropped)
    finished = Finished("fetched_pairs", "f", "c", funnel.rows_in, 1, funnel)
    ledger.write_success(layout.dataset("fetched_pairs", batch), finished)


def test_a_batch_is_compared_with_the_usual_one(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))

    def problem(batch: str) -> str | None:
        return crawl_checks.success(layout, "fetched_pairs", batch)["problem"]

    _marker(layout, "first", kept=49, not_found=51)
    assert "no other batch" in (problem("first") or "")
    _marker(layout, "first", kept=51, not_found=49)
    assert problem("first") is None
    for number, kept in enumerate((88, 90, 10, 92, 90)):
        _marker(layout, f"b{number}", kept=kept, timeout=100 - kept)
    _marker(layout, "now", kept=71, dns=20, timeout=9)
    figures = crawl_checks.success(layout, "fetched_pairs", "now")
    assert figures["usual success share"] == pytest.approx(0.89)
    assert figures["worst outcome"] == "dns: 20 of 100"
    assert "71.0% of the pictures were fetched (usual are 89.0%); most often dns" in (
        figures["problem"] or ""
    )
    _marker(layout, "now", kept=72, dns=28)
    assert problem("now") is None
    # What nobody may have is not missing.
    _marker(layout, "now", kept=72, dns=8, opted_out=900)
    assert problem("now") is None
    _marker(layout, "now", kept=0, opted_out=10)
    assert problem("now") is None
    assert success_share(ledger.require_success(layout.dataset("fetched_pairs", "now"))) is None


def test_a_warning_does_not_fail_the_run(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    settings = Settings(data_root=layout.root, recipe="demo", reference_images="/x", processes=1)

    def evaluation() -> dg.AssetCheckEvaluation:
        result = dg.materialize(
            [*crawl.ASSETS, *crawl.CHECKS],
            selection=dg.AssetSelection.checks(crawl.CHECKS[-1]),
            resources={"settings": settings},
        )
        assert result.success
        (found,) = result.get_asset_check_evaluations()
        assert found.severity is dg.AssetCheckSeverity.WARN
        return found

    _marker(layout, "only", kept=1, dns=3)
    alone = evaluation()
    assert not alone.passed
    assert alone.metadata["success share"].value == 0.25
    assert alone.metadata["worst outcome"].value == "dns: 3 of 4"
    _marker(layout, "only", kept=3, dns=1)
    assert evaluation().passed


def test_many_broken_rows_are_told(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    for batch, broken in (("fine", 5), ("bad", 6)):
        funnel = Funnel(100, 90 - broken, {"broken_row": broken, "no_caption": 10})
        finished = Finished("image_text_candidates", "f", "c", 1, 1, funnel)
        ledger.write_success(layout.dataset("image_text_candidates", batch), finished)
    told = [
        crawl_checks.broken_rows(layout, "image_text_candidates", batch)["problem"]
        for batch in ("fine", "bad")
    ]
    assert told[0] is None
    assert "6.0% of 100 rows could not be read (6 broken_row)" in (told[1] or "")


def _png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(side * 200))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_hostile_pictures_are_grey_and_cost_no_memory() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (50, 50), "red").save(stream, "JPEG")
    whole = stream.getvalue()
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    hostile = [_png_bomb(30_000), whole[:100], b"", b"GIF89a" + b"\xff" * 50, b"<svg/>", eps]
    hostile.append(b"RIFF\x10\x00\x00\x00WEBPVP8 \xff\xff\xff\xff")
    tracemalloc.start()
    safe = crawl_page.safe_pictures([Captioned(data, "\ud83d broken \0") for data in hostile])
    sheet = exhibits.contact_sheet(safe)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30_000_000
    assert len(Image.open(io.BytesIO(sheet)).convert("RGB").getcolors(100_000) or ()) < 300
    assert [picture.image for picture in safe] == [b""] * len(hostile)
    shown = exhibits.contact_sheet(crawl_page.safe_pictures([Captioned(whole, "red")]))
    assert (254, 0, 0) in [c for _, c in Image.open(io.BytesIO(shown)).convert("RGB").getcolors()]


def test_originals_are_decoded_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (200, 100), "red").save(stream, "PNG")

    def crash(*_arguments: object, **_options: object) -> None:
        raise AssertionError("decoded in this process")

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", crash)
        (shown,) = crawl_page.safe_pictures([Captioned(stream.getvalue(), "red")])
    assert shown.caption == "red"
    assert Image.open(io.BytesIO(shown.image)).size == (64, 32)

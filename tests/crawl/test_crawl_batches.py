import dataclasses
import json

import pytest

from pipelines import storage
from pipelines.crawl.batches import (
    CrawlBatch,
    ListFormat,
    Source,
    SourceKind,
    batches_before,
    read_batch,
    write_batch,
)
from pipelines.crawl.config import HttpConfig
from pipelines.layout import Layout


def test_a_batch_comes_back_as_it_was_written(tmp_path):
    layout = Layout(str(tmp_path))
    batch = CrawlBatch(
        "2024-07",
        (
            Source("web", SourceKind.SITEMAP, ("http://a.example/sitemap.xml",)),
            Source(
                "cc3m", SourceKind.URL_LIST, ("a.tsv",), ListFormat.TSV, ("caption", "url"),
                snapshot="1.0",
            ),
            Source(
                "coyo", SourceKind.URL_LIST, ("a.csv",), delimiter=";", rows=(100_000, 200_000)
            ),
            Source("cc", SourceKind.WEB_ARCHIVE, ("s3://crawl/*.warc.gz",)),
        ),
        "2024-07-01T12:00:00.000001Z",
    )  # fmt: skip
    write_batch(batch, layout)
    assert read_batch("2024-07", layout) == batch


def pages(name: str, registered_at: str = "") -> CrawlBatch:
    source = Source("s", SourceKind.WEB_PAGES, (f"http://h/{name}",))
    return CrawlBatch(name, (source,), registered_at)


def test_batches_are_ordered_by_when_they_were_first_written(tmp_path):
    layout = Layout(str(tmp_path))
    for name in ("z", "b", "a"):
        write_batch(pages(name), layout)
    first = read_batch("z", layout)
    assert first.registered_at
    changed = Source("other", SourceKind.URL_LIST, ("l.csv",))
    write_batch(CrawlBatch("z", (changed,), "2099-01-01T00:00:00.000000Z"), layout)
    again = read_batch("z", layout)
    assert again == dataclasses.replace(first, sources=(changed,))
    last = read_batch("a", layout)
    assert [batch.name for batch in batches_before(last, layout)] == ["z", "b"]
    assert batches_before(first, layout) == []


def test_equal_times_are_ordered_by_name(tmp_path):
    layout, time = Layout(str(tmp_path)), "2024-07-01T12:00:00.000000Z"
    for name in ("b", "a", "c"):
        write_batch(pages(name, time), layout)
    assert [b.name for b in batches_before(pages("b", time), layout)] == ["a"]


def test_a_file_of_an_earlier_version_is_read_and_comes_first(tmp_path):
    layout = Layout(str(tmp_path))
    source = {
        "name": "s", "kind": "url_list", "paths": ["a.csv"], "format": None, "columns": [],
        "url_column": None, "caption_column": None, "base_url": None, "snapshot": None,
    }  # fmt: skip
    text = json.dumps({"name": "old", "sources": [source]})
    storage.write_bytes(layout.crawl_batch("old"), text.encode())
    write_batch(pages("a"), layout)
    old = read_batch("old", layout)
    assert old.sources == (Source("s", SourceKind.URL_LIST, ("a.csv",)),)
    assert batches_before(read_batch("a", layout), layout) == [old]
    write_batch(old, layout)
    assert read_batch("old", layout) == old


def test_a_broken_batch_is_named_by_the_next_and_can_be_written_again(tmp_path):
    layout = Layout(str(tmp_path))
    write_batch(pages("a"), layout)
    storage.write_bytes(layout.crawl_batch("broken"), b"{}")
    with pytest.raises(ValueError, match=r"broken\.json is not a crawl batch"):
        batches_before(read_batch("a", layout), layout)
    write_batch(pages("broken"), layout)
    assert read_batch("broken", layout).registered_at > read_batch("a", layout).registered_at


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": (5, 2)}, "must be"),
        ({"rows": (-1, 2)}, "must be"),
        ({"rows": (0, 2), "paths": ("a", "b")}, "one path"),
        ({"rows": (0, 2), "kind": SourceKind.WEB_ARCHIVE}, "one path"),
        ({"delimiter": "::"}, "delimiter"),
    ],
)
def test_options_that_make_no_sense_are_named(options, words):
    arguments = {"name": "s", "kind": SourceKind.URL_LIST, "paths": ("a",)} | options
    with pytest.raises(ValueError, match=words):
        Source(**arguments)


def test_a_batch_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no crawl batch 'x': write its sources to .*x\.json"
    ):
        read_batch("x", Layout(str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "is not a crawl batch"),
        ('{"name": "b", "sources": []}', "needs sources"),
        ('{"name": "c", "sources": [{"name": "s", "kind": "url_list", "paths": ["p"]}]}', "'c'"),
        ('{"name": "b", "sources": [{"name": "s", "kind": "warp", "paths": ["p"]}]}', "warp"),
        ('{"name": "b", "sources": [{"name": "s", "kind": "url_list", "paths": "p"}]}', "a list"),
        ('{"name": "b", "sources": [{"name": "s", "kind": "sitemap", "paths": ["p"]}]}', "URL"),
        ('{"name": "b", "sources": [{"name": "s", "kind": "url_list", "paths": [], "z": 1}]}', "z"),
        ('{"name": "b", "sources": [{"name": "s", "kind": "url_list", "paths": ["p"]}],'
         '"registered_at": "yesterday"}', "yesterday"),
    ],
)  # fmt: skip
def test_a_wrong_batch_is_named(tmp_path, text, words):
    layout = Layout(str(tmp_path))
    storage.write_bytes(layout.crawl_batch("b"), text.encode())
    with pytest.raises(ValueError, match=words) as caught:
        read_batch("b", layout)
    assert "b.json" in str(caught.value)


def test_the_crawler_must_say_who_it_is():
    with pytest.raises(ValueError, match="contact"):
        HttpConfig(contact=" ")
    with pytest.raises(ValueError, match="agent"):
        HttpConfig(contact="a@b.example", agent="two words")
    config = HttpConfig(contact="https://lab.example/bot")
    assert config.user_agent == "dalle-graph/0.1 (+https://lab.example/bot)"

import pytest

from pipelines import storage
from pipelines.crawl.batches import (
    CrawlBatch,
    ListFormat,
    Source,
    SourceKind,
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
        ),
    )  # fmt: skip
    write_batch(batch, layout)
    assert read_batch("2024-07", layout) == batch


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

"""What a crawl batch is read as: its files, its shards, and what they depend on."""

import dataclasses
import json
from typing import Any, NamedTuple

from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, SourceKind
from pipelines.crawl.config import CandidatesConfig
from pipelines.crawl.consent.takedown import read_takedown
from pipelines.crawl.http.client import HttpClient
from pipelines.crawl.sources import pages, url_lists
from pipelines.layout import join

_FILE_KINDS = (SourceKind.URL_LIST, SourceKind.WEB_ARCHIVE)


class Lists(NamedTuple):
    """What the beginnings of the lists say, by file."""

    ignored_columns: dict[str, list[str]]
    unreadable: dict[str, str]


def look_at_lists(crawl: CrawlBatch) -> Lists:
    """Which columns nothing is taken from, and which files are no lists at all.

    Raises:
        url_lists.ListError: if there is nothing that can be read, or a storage fails.
    """
    ignored: dict[str, list[str]] = {}
    failed: dict[str, url_lists.ListError] = {}
    lists = (s for s in crawl.sources if s.kind is SourceKind.URL_LIST)
    files = [(file, s) for s in lists for path in s.paths for file in storage.matching(path)]
    for file, source in files:
        try:
            columns = list(url_lists.ignored_columns(file, source))
        except url_lists.ListError as error:
            if isinstance(error.__cause__, OSError):
                raise
            failed[file] = error
            continue
        if columns:
            ignored[file] = columns
    others = any(s.kind is not SourceKind.URL_LIST for s in crawl.sources)
    if failed and not others and len(failed) == len(dict(files)):
        raise next(iter(failed.values()))
    return Lists(ignored, {file: str(error) for file, error in failed.items()})


def policy(config: CandidatesConfig) -> dict[str, Any]:
    """The part of the configuration that decides what comes out."""
    http = config.http
    return {
        "rows_per_part": config.rows_per_part,
        "agent": http.agent,
        "max_bytes": http.max_bytes,
        "ports": http.ports,
        "allow_networks": http.allow_networks,
        "takedown": read_takedown(config.takedown).sha256,
    }


def describe(crawl: CrawlBatch) -> str:
    """The batch, and size and time of its files: web sources are read once."""
    files = []
    for source in crawl.sources:
        if source.kind not in _FILE_KINDS:
            continue
        for path in source.paths:
            found = storage.matching(path)
            if not found:
                raise FileNotFoundError(
                    f"source {source.name!r} of batch {crawl.name!r}: {path} is not there"
                )
            files += [[file, *storage.stamp(file)] for file in found]
    # When the batch was registered says nothing about its data.
    plain = dataclasses.asdict(dataclasses.replace(crawl, registered_at=""))
    return json.dumps([plain, files], sort_keys=True)


def plan_reading(
    crawl: CrawlBatch, config: CandidatesConfig, url: str, fingerprint: str, lists: Lists
) -> list[str]:
    """Input shards as JSON texts; kept, so that a resumed run has the same ones."""
    try:
        plan = storage.read_json(url)
        if plan["fingerprint"] == fingerprint:
            return list(plan["shards"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # there is none, or a damaged one
    # A fresh reading: parts gathered from an earlier one would not fit to it.
    directory = url.rsplit("/", 1)[0]
    storage.remove(directory, recursive=True)
    storage.remove(join(directory.rsplit("/", 1)[0], "_receipts"), recursive=True)
    client = http_client(config)
    shards = []
    for source in crawl.sources:
        items: list[Any] = list(source.paths)
        size = config.pages_per_shard
        if source.kind in _FILE_KINDS:
            items, size = [file for path in items for file in storage.matching(path)], 1
        elif source.kind is SourceKind.SITEMAP:
            items = [page for at in items for page in pages.sitemap_pages(at, client)]
        elif source.kind is SourceKind.HTML_FILES:
            items = list(pages.html_files(source))
        for start in range(0, len(items), size):
            shard = {"source": dataclasses.asdict(source), "items": items[start : start + size]}
            if items[start] in lists.unreadable:
                shard["unreadable"] = lists.unreadable[items[start]]
            shards.append(json.dumps(shard, sort_keys=True))
    storage.write_json(url, {"fingerprint": fingerprint, "shards": shards})
    return shards


def http_client(config: CandidatesConfig) -> HttpClient:
    """The client that pages and sitemaps are read with."""
    return HttpClient(config.http, read_takedown(config.takedown))

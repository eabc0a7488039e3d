"""The thresholds and tools by which stages kept rows, from the metadata of the stages' files."""

import json
from collections.abc import Sequence
from typing import Any

from pipelines import parquet, storage
from pipelines.layout import Layout
from pipelines.publish.manifest import StageFilters

_DATASETS = ("curated_pairs", "deduped_pairs")
# What says nothing of filters, or the same once more.
_OTHERS = ("dataset", "row", "contract_version", "config", "config_hash")


def stage_filters(layout: Layout, batches: Sequence[str]) -> tuple[StageFilters, ...]:
    """Of the batches, in flow order; one for each set of thresholds that some of them share.

    Files that carry no configuration, of other programs for instance, are left out.
    """
    shared: dict[tuple[str, str], list[str]] = {}
    for dataset in _DATASETS:
        for batch in batches:
            if settings := _settings(layout.dataset(dataset, batch)):
                key = dataset, json.dumps(settings, sort_keys=True)
                shared.setdefault(key, []).append(batch)
    return tuple(
        StageFilters(dataset, tuple(names), json.loads(settings))
        for (dataset, settings), names in shared.items()
    )


def curate_config_hash(layout: Layout, batches: Sequence[str]) -> str:
    """Hash of the curation's configuration; empty if batches differ, or one does not say."""
    found = {
        _facts(layout.dataset("curated_pairs", batch)).get("config_hash", "") for batch in batches
    }
    return found.pop() if len(found) == 1 else ""


def _settings(directory: str) -> dict[str, Any]:
    facts = _facts(directory)
    if "config" not in facts:
        return {}
    others = {name: value for name, value in facts.items() if name not in _OTHERS}
    return json.loads(facts["config"]) | others


def _facts(directory: str) -> dict[str, str]:
    """Schema metadata, the same in every part of a directory, so the first one tells."""
    for url in storage.list_files(directory, ".parquet")[:1]:
        metadata = parquet.read_schema(url).metadata or {}
        return {name.decode(): value.decode() for name, value in metadata.items()}
    return {}

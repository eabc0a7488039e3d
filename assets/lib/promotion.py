"""The promoted model, as assets, schedules and sensors see it."""

from collections.abc import Sequence

import dagster as dg

from assets.lib.report import table
from assets.lib.settings import Settings
from pipelines.publish.manifest import Manifest, read_manifest
from training.promotion import log, versions
from training.promotion.log import Entry

_SHOWN = 20


def promoted(settings: Settings) -> Entry | None:
    """The newest entry of the log; None before the first promotion."""
    return log.current(settings.layout)


def published(settings: Settings) -> Manifest | None:
    """The current version of the token dataset, if there is one."""
    try:
        return read_manifest(settings.layout.token_dataset)
    except FileNotFoundError:
        return None


def retraining_start(settings: Settings, directory: str) -> tuple[str, ...]:
    """Options that say what a training on a version begins with; none for random weights."""
    if settings.retrain.start == "random":
        return ()
    start = versions.warm_start(settings.layout, directory.rsplit("/v=", 1)[-1])
    return ("--start-from", start) if start else ()


def history_table(entries: Sequence[Entry]) -> dg.TableMetadataValue:
    """The newest moves of the pointer, the last one first."""
    rows = [
        (e.number, str(e.action), e.model.version, e.model.dataset, e.when, e.who, e.why)
        for e in reversed(entries[-_SHOWN:])
    ]
    words = ("action", "model", "dataset", "when", "who", "why")
    return table({"number": "int"} | dict.fromkeys(words, "string"), rows)

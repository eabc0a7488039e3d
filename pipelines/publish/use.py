"""Which models were trained on which version, as their own files say; promoted ones are kept."""

from collections.abc import Iterator
from typing import NamedTuple

from pipelines import storage
from pipelines.layout import Layout, join


class Use(NamedTuple):
    """A model, or a checkpoint of a training, and what it was trained on.

    Attributes:
        path: its directory.
        version: published version; empty if it was trained on pairs.
        batches: crawl batches whose pairs it was trained on.
    """

    path: str
    version: str
    batches: tuple[str, ...]


def uses(layout: Layout) -> Iterator[Use]:
    """Finished models and checkpoints below the data root that say what they were trained on.

    Raises:
        ValueError: if one of their files is no JSON, with its name.
    """
    models = storage.list_files(layout.models)
    for promoted in storage.list_files(layout.promoted):
        models += storage.list_files(promoted) if "/v=" in promoted else []
    for model in models:
        places = [(f"{model}/final", "summary.json")]
        places += [(url, "state.json") for url in storage.list_files(f"{model}/checkpoints")]
        for directory, name in places:
            url = join(directory, name)
            said = storage.read_json(url) if storage.exists(url) else {}
            use = Use(directory, str(said.get("dataset", "")), tuple(said.get("batches", ())))
            if use.version or use.batches:
                yield use

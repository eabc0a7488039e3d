"""Which models were trained on which version, as their own files say."""

from collections.abc import Iterator
from typing import NamedTuple

from pipelines import storage
from pipelines.layout import Layout, join


class Use(NamedTuple):
    """A model, or a checkpoint of a training, and the version it was trained on."""

    path: str
    version: str


def uses(layout: Layout) -> Iterator[Use]:
    """Finished models and checkpoints below the data root that name a version.

    Raises:
        ValueError: if one of their files is no JSON, with its name.
    """
    for model in storage.list_files(layout.models):
        places = [(f"{model}/final", "summary.json", "dataset")]
        checkpoints = storage.list_files(f"{model}/checkpoints")
        places += [(url, "state.json", "dataset") for url in checkpoints]
        for directory, name, key in places:
            found = join(directory, name)
            if storage.exists(found) and (version := storage.read_json(found).get(key)):
                yield Use(directory, str(version))

"""What a comparison with the promoted model found, as a file that a promotion rests on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines import storage
from pipelines.layout import Layout, join
from training.promotion.log import Model, PromotionError


class Check(StrEnum):
    """What a model must pass to be promoted; only the first cannot be overruled."""

    WEIGHTS_FINITE = "weights_finite"
    CODEBOOK_ALIVE = "codebook_alive"
    NO_REGRESSION = "no_regression"
    NOT_ROLLED_BACK = "not_rolled_back"


DESCRIPTIONS = {
    Check.WEIGHTS_FINITE: "every weight of both models is a finite number",
    Check.CODEBOOK_ALIVE: "the dataset's codes are spread over the codebook",
    Check.NO_REGRESSION: "not worse than the promoted model on the same rows, but for a margin",
    Check.NOT_ROLLED_BACK: "nobody has taken this very model back",
}


@dataclass(frozen=True)
class Comparison:
    """A finished model beside the promoted one.

    Attributes:
        candidate: the finished model.
        number: of the log's entry it was compared with; 0 before the first promotion.
        promoted: version of that entry; empty before the first promotion.
        figures: of both, on the same rows.
        problems: what is wrong, by check; a check that passed has none.
    """

    candidate: Model
    number: int
    promoted: str
    figures: Mapping[str, float]
    problems: Mapping[str, Sequence[str]]

    @property
    def found(self) -> list[str]:
        """Every problem."""
        return [problem for problems in self.problems.values() for problem in problems]

    def write(self, layout: Layout) -> None:
        """Write the file."""
        storage.write_json(url(layout), dataclasses.asdict(self))


def url(layout: Layout) -> str:
    """Where the newest comparison is."""
    return join(layout.dataset("model_comparison"), "comparison.json")


def read(layout: Layout) -> Comparison:
    """The newest comparison.

    Raises:
        PromotionError: if there is none that can be read.
    """
    if not storage.exists(url(layout)):
        raise PromotionError(f"there is no {url(layout)}; compare the model first")
    value: dict[str, Any] = storage.read_json(url(layout))
    try:
        return Comparison(**value | {"candidate": Model(**value["candidate"])})
    except (TypeError, KeyError) as error:
        raise PromotionError(
            f"{url(layout)} is no comparison: {error}; compare the model again"
        ) from error

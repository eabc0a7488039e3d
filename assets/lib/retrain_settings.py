"""When the transformer is trained again, how it begins, and what is asked of it."""

import os
import re

import dagster as dg

from assets.lib.home import UserError, decimal, whole_number

_STARTS = ("random", "promoted")


class RetrainSettings(dg.Config):
    """How this deployment trains again.

    Attributes:
        start: weights that a training begins with, `random` or `promoted` (DALLE_RETRAIN_START).
        cron: when the schedule retrains, in UTC (DALLE_RETRAIN_CRON).
        growth_percent: by how much the published version must have grown since the promoted
            model's for the sensor to retrain (DALLE_RETRAIN_GROWTH).
        margin: nats per image token, and of caption gain, that a promoted model may lose
            (DALLE_PROMOTION_MARGIN).
    """

    start: str = "random"
    cron: str = "0 3 * * 0"
    growth_percent: int = 10
    margin: float = 0.02

    @classmethod
    def from_environment(cls) -> "RetrainSettings":
        """The defaults, each overridden by its environment variable.

        Raises:
            UserError: if one makes no sense.
        """
        default = cls()
        start = os.environ.get("DALLE_RETRAIN_START") or default.start
        if start not in _STARTS:
            raise UserError(f"DALLE_RETRAIN_START is {start!r}; set it to {' or '.join(_STARTS)}")
        cron = os.environ.get("DALLE_RETRAIN_CRON") or default.cron
        if not re.fullmatch(r"\S+( \S+){4}", cron):
            raise UserError(
                f"DALLE_RETRAIN_CRON is {cron!r}; set it to five fields, for example {default.cron}"
            )
        return cls(
            start=start,
            cron=cron,
            growth_percent=whole_number("DALLE_RETRAIN_GROWTH", default.growth_percent, least=1),
            margin=decimal("DALLE_PROMOTION_MARGIN", default.margin, "number of nats"),
        )

"""The code location: everything that Dagster sees, on one screen."""

import dagster as dg

from assets import (
    alerts,
    automation,
    crawl,
    curate,
    dedupe,
    encode,
    inbox,
    publish,
    retraining,
    scores,
    second_opinion,
    train,
    validate,
)
from assets.lib.settings import Settings

defs = dg.Definitions(
    assets=[
        *crawl.ASSETS,
        *curate.ASSETS,
        *scores.ASSETS,
        *dedupe.ASSETS,
        *second_opinion.ASSETS,
        *encode.ASSETS,
        *publish.ASSETS,
        *train.ASSETS,
        *validate.ASSETS,
    ],
    asset_checks=[
        *crawl.CHECKS,
        *curate.CHECKS,
        *scores.CHECKS,
        *dedupe.CHECKS,
        *second_opinion.CHECKS,
        *encode.CHECKS,
        *publish.CHECKS,
        *train.CHECKS,
        *validate.CHECKS,
    ],
    jobs=automation.JOBS,
    schedules=retraining.SCHEDULES,
    sensors=[inbox.crawl_inbox, *retraining.SENSORS, alerts.failure_alert],
    resources={"settings": Settings.from_environment()},
    # Steps of one run follow each other and share the run's process, so that a crash of it is a
    # crash of the run, which the queue retries from the failed step. A step process of its own
    # would turn the same crash into an ordinary step failure, which is never retried.
    executor=dg.in_process_executor,
)

"""When the transformer is trained again: by the calendar, and when the dataset has grown.

Both are off until somebody turns them on: training costs money.
"""

import dagster as dg

from assets.automation import retrain
from assets.lib.promotion import promoted, published
from assets.lib.retrain_settings import RetrainSettings
from assets.lib.settings import Settings

_INTERVAL_SECONDS = 300
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.schedule(
    name="weekly_retrain",
    job=retrain,
    cron_schedule=RetrainSettings.from_environment().cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Retrains, by default on Sunday at 03:00 UTC, if there is a new version.",
)
def weekly_retrain(
    context: dg.ScheduleEvaluationContext, settings: Settings
) -> dg.RunRequest | dg.SkipReason:
    """One tick of the calendar."""
    version, model = published(settings), promoted(settings)
    if version is None:
        return dg.SkipReason("nothing is published yet: launch publish_dataset")
    if model is not None and model.model.dataset == version.version:
        return dg.SkipReason(f"the promoted model was trained on v={version.version} already")
    open_runs = dg.RunsFilter(job_name=retrain.name, statuses=_UNFINISHED)
    if context.instance.get_runs(filters=open_runs, limit=1):
        return dg.SkipReason("the last retraining has not ended yet")
    return dg.RunRequest()


@dg.sensor(
    name="grown_dataset",
    job=retrain,
    minimum_interval_seconds=_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Retrains when the published version has DALLE_RETRAIN_GROWTH percent more rows than the "
        "one that the promoted model was trained on."
    ),
)
def grown_dataset(settings: Settings) -> dg.RunRequest | dg.SkipReason:
    """One look at the published version."""
    version, model = published(settings), promoted(settings)
    if version is None:
        return dg.SkipReason("nothing is published yet: launch publish_dataset")
    if model is None:
        return dg.SkipReason("nothing is promoted yet: launch retrain")
    before, percent = model.model.rows, settings.retrain.growth_percent
    if version.rows * 100 < before * (100 + percent):
        return dg.SkipReason(
            f"{version.rows} rows, the promoted model was trained on {before}: that is not "
            f"{percent} % more"
        )
    # A version is asked for once, however its training ends.
    return dg.RunRequest(run_key=version.version)


SCHEDULES = [weekly_retrain]
SENSORS = [grown_dataset]

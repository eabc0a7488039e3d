"""How old an asset may become before its page says so; nothing is launched for it."""

import datetime

import dagster as dg

# A day more than the weekly retraining, then a week missed.
WEEKLY = dg.FreshnessPolicy.time_window(
    warn_window=datetime.timedelta(days=8), fail_window=datetime.timedelta(days=15)
)

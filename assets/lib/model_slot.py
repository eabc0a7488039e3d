"""One training of a model at a time in an instance, whichever job, asset page or machine it is of.

The queue keeps apart the runs of jobs, which carry a tag; a run that the page of an asset launches
has none, and the lock of `training.alone` ends at its machine. Dagster's own slots are rows of the
database that every run shares, and are freed when a run is lost.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.storage.event_log.base import EventLogStorage

_SETTLE_SECONDS = 1.0


@contextlib.contextmanager
def only_training(instance: dg.DagsterInstance, run_id: str, model: str) -> Iterator[None]:
    """Be the only run that trains `model` while the block runs.

    Of two at once the first that takes the slot goes on. A run that waits holds none, and one
    that has ended without giving it back is no obstacle.

    Raises:
        dg.Failure: if another run trains it, at once.
    """
    from sqlalchemy.exc import IntegrityError

    slots = instance.event_log_storage
    if not slots.supports_global_concurrency_limits:
        # An instance in memory has the runs of this process only.
        yield
        return
    # Also its step: the run's real step holds a slot of the GPU's pool, which is freed by step.
    name = f"training of {model}"
    # The first two of all may make the slot at once; one of them is told that it is there.
    with contextlib.suppress(IntegrityError):
        slots.set_concurrency_slots(name, 1)
    try:
        while not _claimed(slots, name, run_id):
            info = slots.get_concurrency_info(name)
            for other_id in (info.active_run_ids | info.assigned_run_ids) - {run_id}:
                other = instance.get_run_by_id(other_id)
                if other is not None and not other.is_finished:
                    raise dg.Failure(
                        description=f"run {other_id} ({other.job_name}) trains {model} already, "
                        "and two trainings would mix their checkpoints; wait until it ends, or "
                        "terminate it, and launch this one again",
                        allow_retries=False,
                    )
                slots.free_concurrency_slots_for_run(other_id)
            # To be asked for anew: nobody assigns a slot that came free before this one waited.
            slots.free_concurrency_slot_for_step(run_id, name)
            time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        slots.free_concurrency_slot_for_step(run_id, name)


def _claimed(slots: "EventLogStorage", name: str, run_id: str) -> bool:
    """Whether the run has the slot.

    Of two that ask within milliseconds Dagster can tell both that they have it, and the row names
    the last: so each asks again when that is over.
    """
    first = slots.claim_concurrency_slot(name, run_id, name).is_claimed
    time.sleep(_SETTLE_SECONDS if first else 0)
    return first and slots.claim_concurrency_slot(name, run_id, name).is_claimed

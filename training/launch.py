"""torchrun that ends with one sentence and a telling status: `python -m training.launch`.

torchrun passes SIGINT and SIGTERM on to its workers, which write a checkpoint and end so; itself it
ends with status 1 and a traceback, as after a defect, and also when a worker is lost. Here the
status is 128 + the signal's number, or that of the worker that ended first. After a signal workers
have ten minutes for their checkpoint, unless --shutdown-timeout says otherwise. The arguments are
torchrun's; over several hosts, it is started on each of them.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.run import get_args_parser, run

from training.runtime import PEER_LOST

# torchrun's own are 30 seconds, in which large models are not written. Whoever sent the signal
# decides: schedulers kill when their time is up.
_CHECKPOINT_SECONDS = "600"
_ADVICE = (
    "the others were stopped. Start the run again, with any number of processes: it goes on from "
    "its newest checkpoint"
)

_HOST_LOST = (
    "another host ended or cannot be reached. Start the same command on every host again: the run "
    "goes on from its newest checkpoint"
)


def _parser() -> argparse.ArgumentParser:
    """torchrun's, which says first what this is; its own usage is forty lines."""
    parser: argparse.ArgumentParser = get_args_parser()
    parser.prog = "python -m training.launch"
    parser.usage = "%(prog)s [OPTION OF TORCHRUN]... (-m MODULE | FILE) [WORD]..."
    parser.description = __doc__
    return parser


def _what_happened(failed: ChildFailedError) -> tuple[int, str]:
    """Exit status and sentence about the worker that ended first."""
    # Those that ended because another one had are no cause, whoever was noticed first.
    causes = {r: f for r, f in failed.failures.items() if f.exitcode != PEER_LOST}
    if not causes:
        return PEER_LOST, _HOST_LOST
    rank, first = min(causes.items(), key=lambda item: item[1].timestamp)
    if first.exitcode > 0:
        return (
            first.exitcode,
            f"process {rank} ended with status {first.exitcode}, as it says above",
        )
    if first.exitcode == -signal.SIGTERM and len(causes) < len(failed.failures):
        # torchrun's own signal: it was ending already, and those that noticed were faster.
        return 1, f"process {rank} ended, as it says above"
    number = signal.Signals(-first.exitcode)
    cause = " (by the system, if memory ran out)" if number is signal.SIGKILL else ""
    return 128 + number, f"process {rank} was ended by {number.name}{cause}; {_ADVICE}"


if __name__ == "__main__":
    # What it says of workers that ended is said below, once.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _CHECKPOINT_SECONDS)
    try:
        record(run)(_parser().parse_args())
    except SignalException as stopped:
        # At the third signal torchrun waits no longer, and would leave those that hang.
        for left in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        status, sentence = _what_happened(failed)
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(status)

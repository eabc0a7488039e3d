"""torchrun, ending with 128 + the signal's number when it is stopped: `python -m training.launch`.

torchrun passes SIGINT and SIGTERM on to its workers, which write a checkpoint and end so; itself it
ends with status 1 and a traceback, as after a defect. Its arguments are torchrun's.
"""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main

if __name__ == "__main__":
    try:
        main()
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)

"""Speed as ratios in one run, beside a peer or a limit: `make bench`."""

import os

# Idle threads of numpy's matrix products spin, and their CPU time would count.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

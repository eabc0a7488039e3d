"""Speed as ratios in one run, beside a peer or a limit: `make bench`."""

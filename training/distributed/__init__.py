"""Several processes: shards of parameters, sums of gradients, and their compression."""

"""What the assets share: resources, partitions, checks, exhibits, the training launcher."""

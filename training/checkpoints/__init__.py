"""What a run leaves so that it can go on."""

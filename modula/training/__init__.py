"""Training runs: configuration, data, loop, checkpoints, reports."""

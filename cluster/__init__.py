"""Floor 5, the whole: run configuration, placement, the training loop, checkpoints, metrics and the command line."""

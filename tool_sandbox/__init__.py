"""Floor 1, the world: tools, tasks with ground truth, isolation, sessions and the pool that hands them out."""

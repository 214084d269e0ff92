"""Floor 3, the rollouts: trajectories, prompts, parsing, the vLLM engine, episodes and the pool that runs them."""

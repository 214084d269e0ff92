"""The reward service as the reward function of other trainers. Each module imports without the trainer it is for."""

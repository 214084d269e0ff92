"""The LLM judge: asks a model what every step of a trajectory was worth, and does not believe what tools say."""

"""Floor 2, the scores: signals, shaping and the HTTP service that gives every step its own reward."""

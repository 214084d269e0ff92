"""What an update maximises, as pure functions of log-probabilities; no models, no ranks."""

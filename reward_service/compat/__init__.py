"""The reward service in the protocols of others: routes that a trainer's own client can be pointed at."""

"""What can go wrong in rollouts. Each carries one message, so that it pickles.

RolloutError
├── EngineFailure       an engine did not answer: dead, stuck, or past its deadline
├── RolloutsLost        no rollout actor is left, or an episode failed on several of them
├── WeightsCorrupted    the bytes that arrived are not the bytes that were sent
├── PrefixDiverged      a session could not be brought back to a recorded state
├── PromptTooLong       (bad input) a prompt leaves no room for one action
├── PromptUnusable      (bad input) a chat template cannot serve tool use
└── UnknownToolParser   (bad input) vLLM has no parser of that name for the model

The model's own mistakes are not here: they are steps of a trajectory.
"""

from __future__ import annotations


class RolloutError(RuntimeError):
    """Root of this floor's errors."""


class BadInput(ValueError):
    """Marks what its user can mend."""


class EngineFailure(RolloutError):
    """Infrastructure, never the model's fault."""


class RolloutsLost(RolloutError):
    """Nobody is left to play."""


class WeightsCorrupted(RolloutError):
    """A digest does not match."""


class PrefixDiverged(RolloutError):
    """Infrastructure: the world, not the model, came out otherwise than it was recorded."""


class PromptTooLong(RolloutError, BadInput):
    """Not a failed rollout: the task could never be played."""


class PromptUnusable(RolloutError, BadInput):
    """The model's template does not know tools."""


class UnknownToolParser(RolloutError, BadInput):
    """The configured parser does not exist, or not for this model."""

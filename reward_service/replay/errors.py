"""How a replay may end without a measurement. None leaves this package: `signal` turns each into what a caller is told.

ReplayEnded
├── Abandoned           whoever asked has gone, or the deadline has passed
├── Diverged            the calls do not give what the trajectory records: it abstains
└── NothingToMeasure    the toolset cannot tell what the method needs: the trajectory cannot be scored so
"""

from __future__ import annotations


class ReplayEnded(Exception):
    """A replay ended without a measurement."""


class Abandoned(ReplayEnded):
    """Nobody waits for the replay any more."""


class Diverged(ReplayEnded):
    """The calls do not give what the trajectory records."""


class NothingToMeasure(ReplayEnded):
    """The toolset cannot tell what the method needs, for this task or for what was done in it."""

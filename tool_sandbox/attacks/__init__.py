"""Hostile programs as data: what model-written code may try against a sandbox, and how to tell whether it succeeded.

`all_attacks` gives the corpus, `Fixtures` plants what the attacks are after, `judge` decides from the result of a call
and from what the fixtures saw. `run_outside` is the positive control: an attack that fails without a sandbox proves
nothing.
"""

from tool_sandbox.attacks.attack import Attack, NoControl, Outside, Theme
from tool_sandbox.attacks.corpus import all_attacks
from tool_sandbox.attacks.fixtures import Fixtures
from tool_sandbox.attacks.outside import can_control, run_outside
from tool_sandbox.attacks.verdicts import Outcome, Sightings, Verdict, judge

__all__ = [
    "Attack",
    "Fixtures",
    "NoControl",
    "Outcome",
    "Outside",
    "Sightings",
    "Theme",
    "Verdict",
    "all_attacks",
    "can_control",
    "judge",
    "run_outside",
]

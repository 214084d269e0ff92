"""The methods whose learning curves are compared: each is a name and what it changes in the preset `tiny`.

Owns the table and nothing that runs. A new method is one line of it. What is not named in a line is equal for all:
tasks, prompts, budgets of steps and tokens, learning rate, episodes an iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.config import RunConfig
from cluster.errors import BadConfiguration
from cluster.presets import load_config

PRESET = "tiny"
DEFAULT = "step_gae"
"""The method that all others are compared with."""
OUTCOME_ONLY = "rewards.shaping.kind=outcome_only"
VALUE_HEAD = "credit.critic.kind=value_head"

METHODS: Mapping[str, tuple[str, ...]] = {
    # Credit by step.
    "step_gae": (),
    "step_gae_value_head": (VALUE_HEAD,),
    "turn_ppo": (VALUE_HEAD, "credit.gamma=0.99", "credit.lam=0.9"),
    "token_gae_masked": ("credit.kind=token_gae_masked",),
    "bilevel_gae": ("credit.kind=bilevel_gae",),
    "step_returns": ("credit.kind=step_returns",),
    "step_rloo": ("credit.kind=step_rloo",),
    "step_reinforce_pp": ("credit.kind=step_reinforce_pp",),
    "gigpo": ("credit.kind=gigpo",),
    "mt_grpo": ("credit.kind=mt_grpo",),
    "tree": ("credit.kind=tree",),
    "archer": ("credit.kind=archer",),
    "monte_carlo": ("credit.kind=monte_carlo", "credit.continuations=2"),
    "leave_one_out": ("credit.kind=leave_one_out", "rewards.signals.contribution.kind=leave_one_out"),
    # The outcome alone.
    "ppo_outcome": ("credit.kind=ppo_outcome",),
    "grpo": ("credit.kind=grpo",),
    "rloo": ("credit.kind=rloo",),
    "reinforce_pp": ("credit.kind=reinforce_pp",),
    "rft": ("credit.kind=rft",),
    "eto": ("credit.kind=eto",),
    # Ablations, with the critic that knows the distance to the solution, and with the one that is learned.
    "without_step_reward": (OUTCOME_ONLY,),
    "without_step_reward_value_head": (VALUE_HEAD, OUTCOME_ONLY),
    "without_step_optimisation": ("credit.gamma=0",),
    "without_step_optimisation_value_head": (VALUE_HEAD, "credit.gamma=0"),
    "without_step_optimisation_bilevel_gae": (
        "credit.kind=bilevel_gae",
        *("credit.gamma=0", "credit.token_gamma=0.99", "credit.token_lam=0.95"),
    ),
    "summed_step_rewards": ("credit.kind=gigpo", "credit.step_weight=0"),
}
"""`without_step_optimisation`: every step is a trajectory of its own, as in the paper; nothing that comes later counts.
With `bilevel_gae` PPO optimises the tokens of each step by its reward, as there.
`summed_step_rewards`: a trajectory has one number, the sum of its step rewards, compared within its group."""

BUDGET = (
    "task.per_iteration=4",
    "evaluation.tasks=64",
    # A run of a minute is done again rather than resumed.
    "checkpoint.every=1000000",
    "checkpoint.keep.count=1",
)
"""What is equal for all methods and other than in the preset."""


def method_config(method: str, seed: int, iterations: int) -> RunConfig:
    """The run of one method and seed. Seed k of all methods has the same tasks.

    Raises:
        BadConfiguration: no such method.
    """
    if method not in METHODS:
        raise BadConfiguration(f"method {method!r}: not known; expected one of {', '.join(METHODS)}")
    run = (f"seed={seed}", f"loop.iterations={iterations}")
    return load_config(PRESET, [*BUDGET, *run, *METHODS[method]], deterministic=True)


def chosen_methods(names: Sequence[str]) -> tuple[str, ...]:
    """These methods in the order of the table; all of them where none is named.

    Raises:
        BadConfiguration: one is not known.
    """
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        raise BadConfiguration(f"methods {unknown}: not known; expected some of {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in names or not names)

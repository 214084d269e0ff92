"""Everything of a run that lives on Ray, brought up together and taken down in reverse.

Owns `Parts` and the order of starting: placement, learner ranks in a thread of their own, sandboxes, engines, reward
service while the engines load. Each start has a deadline; what was started is stopped even when a later one fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from actors.pool import RolloutPool
from actors.recipes import RewardRecipe, SandboxRecipe
from cluster.config import RunConfig
from cluster.placement import Placement, place, plan
from learner.group import LearnerGroup
from reward_service.config import KEYS_FILE_VARIABLE, KEYS_VARIABLE
from reward_service.serve_app import RewardEndpoint, choose_address, start_rewards, stop_rewards
from tool_sandbox.http.keys import ApiKeys
from tool_sandbox.pool import Health, await_sandboxes, create_sandboxes, stop_sandboxes
from tool_sandbox.tools import IsolationLevel

REWARD_TIMEOUT_SECONDS = 60.0

Announce = Callable[[str], None]
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Acting:
    """What playing and scoring episodes needs."""

    rewards: RewardEndpoint
    reward_key: str
    rollouts: RolloutPool


@dataclass(frozen=True, slots=True)
class Parts:
    """Running pieces of one training run."""

    acting: Acting
    learner: LearnerGroup

    @property
    def rollouts(self) -> RolloutPool:
        return self.acting.rollouts


@contextmanager
def start_parts(config: RunConfig, announce: Announce) -> Iterator[Parts]:
    """All parts of a training run on the Ray that is initialised."""
    with ExitStack() as stack:
        placement = place(plan(config), config.name, config.placement.deadline_seconds, config.placement.strategy)
        stack.callback(placement.release)
        announce("starting the learner, and meanwhile the rest")
        learner = _start_meanwhile(stack, LearnerGroup, config.learner, config.credit, placement.options("learner"))
        stack.callback(_shut_down, learner)
        acting = _start_acting(config, placement, stack, announce)
        yield Parts(acting, learner.result())


@contextmanager
def start_acting(config: RunConfig, announce: Announce) -> Iterator[Acting]:
    """Only what playing episodes needs, without a learner: for evaluation."""
    with ExitStack() as stack:
        placed = tuple(actor for actor in plan(config) if not actor.name.startswith("learner-"))
        placement = place(placed, config.name, config.placement.deadline_seconds, config.placement.strategy)
        stack.callback(placement.release)
        yield _start_acting(config, placement, stack, announce)


def _start_acting(config: RunConfig, placement: Placement, stack: ExitStack, announce: Announce) -> Acting:
    announce("starting sandboxes")
    options = placement.options("sandbox")
    sandboxes = create_sandboxes(len(options), config.sandbox, options)
    stack.callback(stop_sandboxes, sandboxes)
    announce("starting the engines")
    application = f"rewards-{config.name}"
    address, (keys, secret) = choose_address(application), _keys()
    recipe = RewardRecipe(address.url, secret, REWARD_TIMEOUT_SECONDS)
    sandbox = SandboxRecipe(len(sandboxes), config.sandbox, options[0].get("namespace"), config.name)
    rollouts = RolloutPool.create(config.rollout, sandbox, recipe, placement.options("rollout"))
    stack.callback(rollouts.stop)
    announce("starting the reward service")
    rewards = start_rewards(config.rewards, keys, port=address.port, application=application)
    stack.callback(stop_rewards, rewards)
    announce(_isolation(await_sandboxes(sandboxes)))
    rollouts.wait()
    return Acting(rewards, secret, rollouts)


def _isolation(sandboxes: Sequence[Health]) -> str:
    """What the weakest sandbox actor gives."""
    weakest = max(sandboxes, key=lambda health: tuple(IsolationLevel).index(health.level))
    return f"isolation of tools: {weakest.level.value}, {weakest.canaries} canaries held"


def _start_meanwhile(stack: ExitStack, start: Callable[..., Part], *arguments: Any) -> Future[Part]:
    """Start a part in a thread of its own: starting is mostly importing, which keeps one core busy and no more."""
    thread = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="start"))
    return thread.submit(start, *arguments)


def _shut_down(learner: Future[LearnerGroup]) -> None:
    if learner.exception() is None:
        learner.result().shutdown()


def _keys() -> tuple[ApiKeys, str]:
    """A fresh key for the trainer, beside those that the environment names for other callers.

    Raises:
        InvalidKeys: theirs cannot be used, or one of them is named as the trainer's is.
    """
    issued, secret = ApiKeys.issue("trainer")
    named = {KEYS_VARIABLE, KEYS_FILE_VARIABLE} & os.environ.keys()
    others = ApiKeys.load(os.environ, KEYS_VARIABLE) if named else ApiKeys.nobody_asked()
    keys = issued.joined(others)
    # What is wrong with their file is said now, and not by a replica that does not start.
    keys.resolved()
    return keys, secret

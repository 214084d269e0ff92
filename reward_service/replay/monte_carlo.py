"""Monte-Carlo: how much oftener a named policy solves the task from after a call than from before it.

    V_t = solved continuations / continuations, from a session forked after t;  contribution of t = V_t − V_{t−1}

The value of a state is an estimate: with k continuations its standard deviation is at most 1 / (2√k). The dice of a
continuation are seeded by the task and what was done before it, so that the same beginning has the same value in every
trajectory, process and run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from reward_service.answers import AnswerMatch
from reward_service.config import MonteCarloContribution, NoisyOraclePlay
from reward_service.replay.errors import NothingToMeasure
from reward_service.replay.recorded import Recorded
from reward_service.replay.world import Pace, World, reproduce
from reward_service.replay.worth import Contributions, Worth
from reward_service.store.keys import digest_of
from tool_sandbox.demonstrations import Policy
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import PlaysAtRandom
from tool_sandbox.tools import ToolCall


@dataclass(frozen=True, slots=True)
class MonteCarlo:
    """Costs k continuations for each state of the trajectory, and two replays."""

    config: MonteCarloContribution
    match: AnswerMatch

    def measure(self, recorded: Recorded, pace: Pace) -> Contributions:
        """The contribution of every call that was made.

        Raises:
            Diverged: the calls do not give what was recorded.
            NothingToMeasure: nobody knows whether the task is solved, or the toolset has no such policy.
        """
        with World.open(recorded.task, pace) as world:
            reproduce(world, recorded)
        found: Contributions = {}
        done: list[JsonValue] = [recorded.task.toolset, recorded.task.id]
        with World.open(recorded.task, pace) as world:
            before = self._solved(world, recorded, done)
            for act in recorded.acts:
                world.do(act.action)
                done.append(_plain(act.action))
                after = self._solved(world, recorded, done)
                if isinstance(act.action, ToolCall):
                    found[act.step] = self._worth(before, after)
                before = after
        return found

    def _solved(self, world: World, recorded: Recorded, done: Sequence[JsonValue]) -> int:
        """How many continuations from here solve the task."""
        digest = digest_of(list(done))
        return sum(self._solves(world, recorded, _seed(digest, number)) for number in range(self.config.continuations))

    def _solves(self, world: World, recorded: Recorded, seed: int) -> bool:
        policy = self._policy(recorded.task.toolset, seed)
        with world.fork() as other:
            answer = other.play_on(policy, self.config.max_steps)
            verdict = other.end(answer, self.match).solved
        if verdict is None:
            raise NothingToMeasure("nobody tells whether its task is solved")
        return verdict

    def _policy(self, name: str, seed: int) -> Policy:
        toolset, play = load_toolset(name), self.config.policy
        if isinstance(play, NoisyOraclePlay):
            policy = toolset.demonstrator(play.noise, seed)
        else:
            policy = toolset.random_policy(seed) if isinstance(toolset, PlaysAtRandom) else None
        if policy is None:
            raise NothingToMeasure(f"toolset {name!r} has no policy of the kind {play.kind!r} for continuations")
        return policy

    def _worth(self, before: int, after: int) -> Worth:
        k = self.config.continuations
        return Worth((after - before) / k, f"continuations that solve the task: {before} of {k} before, {after} after")


def _plain(action: ToolCall | str) -> JsonValue:
    return action if isinstance(action, str) else [action.name, dict(action.arguments)]


def _seed(digest: str, number: int) -> int:
    """63 bits that depend on what was done before the continuation and on its number."""
    return int.from_bytes(hashlib.sha256(f"{digest}/{number}".encode()).digest()[:8], "big") >> 1

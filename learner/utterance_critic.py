"""A critic of utterances, learned off policy by temporal differences: ArCHer's high level.

Owns `UtteranceCritic`. Consumes scored trajectories and, for each of their steps, hidden states of the policy; produces
V before each step and Q of its action, whose difference the estimator `archer` takes. It lives with the driver, like
the progress table: the networks are small, and ranks only read features.

Steps of earlier batches stay in a bounded buffer and are learned from again; their features are those of the policy
that was read then. Every random number comes from the seed and the number of batches, so a resumed run learns the same.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from actors.scoring import ScoredTrajectory
from learner.credit.config import UtteranceCriticConfig
from learner.credit.kept import Readings
from learner.utterance_features import UtteranceFeatures
from learner.utterance_heads import Transitions, UtteranceHeads, follow, td_loss
from tool_sandbox.tasks import StopReason


class UtteranceCritic:
    """Twin Q and V with target networks and a replay buffer. Mutable; `learn` is the only way in."""

    def __init__(self, config: UtteranceCriticConfig, gamma: float) -> None:
        self._config = config
        self._gamma = gamma
        self._batches = 0
        self._losses: list[float] = []
        self._memory: _Memory | None = None
        """None before the first step was seen: nobody knows how wide features are."""

    def learn(self, scored: Sequence[ScoredTrajectory], features: Sequence[UtteranceFeatures]) -> None:
        """Put a batch into the buffer and learn from the buffer; call it once per batch, before `values`.

        Raises:
            ValueError: there are not features of every step.
        """
        _expect_features(scored, features)
        new = [part for one, own in zip(scored, features, strict=True) for part in _transitions(one, own)]
        self._batches, self._losses = self._batches + 1, []
        if new:
            self._memory = self._memory or _Memory(new[0].states.shape[1], self._config)
            self._memory.keep(new)
        if self._memory is not None:
            self._losses = self._memory.fit(self._gamma, self._batches)

    def values(self, features: Sequence[UtteranceFeatures]) -> Readings:
        """V(s_t) and Q(s_t, a_t) of every step of each trajectory in turn, in units of reward; the smaller twin's."""
        return [self._values_of(one) for one in features]

    def metrics(self) -> dict[str, float]:
        """What learning from the newest batch was like, by the names that metrics use."""
        if self._memory is None or not self._losses:
            return {}
        mean = sum(self._losses) / len(self._losses)
        return {"critic_td_loss": mean, "critic_buffer_steps": float(len(self._memory.buffer))}

    def state(self) -> dict[str, Any]:
        """JSON-able state for a checkpoint: networks, moments and buffer as one safetensors file in base64."""
        if self._memory is None:
            return {"batches": self._batches}
        return {"batches": self._batches, "tensors": base64.b64encode(save(self._memory.tensors())).decode()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._batches, self._losses, self._memory = state["batches"], [], None
        if "tensors" in state:
            tensors = load(base64.b64decode(state["tensors"]))
            self._memory = _Memory(tensors["buffer.states"].shape[1], self._config)
            self._memory.load(tensors)

    @torch.no_grad()
    def _values_of(self, features: UtteranceFeatures) -> tuple[float, ...]:
        if self._memory is None or not len(features.states):
            return (0.0,) * (2 * len(features.states))
        said = self._memory.heads(features.states.float(), features.actions.float())
        return tuple(torch.stack([said.v.amin(0), said.q.amin(0)], dim=1).flatten().tolist())


class _Memory:
    """All that changes as the critic learns, for features of one width."""

    def __init__(self, width: int, config: UtteranceCriticConfig) -> None:
        self._config = config
        self.heads = UtteranceHeads(width, config.hidden, config.seed)
        self.targets = UtteranceHeads(width, config.hidden, config.seed).requires_grad_(False)
        self.adam = torch.optim.Adam(self.heads.parameters(), lr=config.lr)
        self.buffer = Transitions.none(width)

    def keep(self, new: Sequence[Transitions]) -> None:
        """Add these; the oldest leave."""
        self.buffer = Transitions.joined([self.buffer, *new]).take(slice(-self._config.capacity, None))

    def fit(self, gamma: float, batch: int) -> list[float]:
        """Make the configured number of steps; gives their losses."""
        dice = torch.Generator().manual_seed(self._config.seed + batch)
        drawn = torch.randint(len(self.buffer), (self._config.steps, self._config.batch_steps), generator=dice)
        return [self._step(self.buffer.take(rows), gamma) for rows in drawn]

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        moments = self.adam.state_dict()["state"].items()
        parts: dict[str, Mapping[str, Tensor]] = {
            "buffer": self.buffer.columns(),
            "heads": self.heads.state_dict(),
            "targets": self.targets.state_dict(),
            "adam": {f"{number}.{kind}": tensor for number, own in moments for kind, tensor in own.items()},
        }
        return {f"{part}.{name}": x.contiguous() for part, named in parts.items() for name, x in named.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `tensors`."""
        self.buffer = Transitions(**_part(tensors, "buffer"))
        self.heads.load_state_dict(_part(tensors, "heads"))
        self.targets.load_state_dict(_part(tensors, "targets"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "adam").items():
            number, _, kind = name.partition(".")
            moments.setdefault(int(number), {})[kind] = tensor
        self.adam.load_state_dict({**self.adam.state_dict(), "state": moments})

    def _step(self, drawn: Transitions, gamma: float) -> float:
        loss = td_loss(self.heads, self.targets, drawn.in_float(), gamma)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        follow(self.targets, self.heads, self._config.tau)
        return float(loss.detach())


def _transitions(scored: ScoredTrajectory, features: UtteranceFeatures) -> Iterator[Transitions]:
    """Of the steps that did not abstain, each with the next one of them.

    What came after the last one is nothing where the episode ended by itself; the state at which infrastructure cut it,
    where that was read; and unknown otherwise, which teaches nothing.
    """
    rewards = [one.value for one in scored.reward.steps]
    kept = [t for t, reward in enumerate(rewards) if reward is not None]
    was_cut = scored.trajectory.stop is StopReason.INFRASTRUCTURE
    for t, following in zip(kept, [*kept, None][1:], strict=True):
        ends = following is None and not was_cut
        after = t if ends else t + 1 if following is None else following
        if after < len(rewards):
            yield Transitions(
                states=features.states[t : t + 1],
                actions=features.actions[t : t + 1],
                next_states=features.states[after : after + 1],
                rewards=torch.tensor([rewards[t]], dtype=torch.float32),
                ends=torch.tensor([ends]),
            )


def _expect_features(scored: Sequence[ScoredTrajectory], features: Sequence[UtteranceFeatures]) -> None:
    expected = [len(one.trajectory.steps) for one in scored]
    found = [len(one.states) for one in features]
    if found != expected:
        raise ValueError(
            f"archer: features of {found} steps for trajectories of {expected}; read the policy at each of them"
        )


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}

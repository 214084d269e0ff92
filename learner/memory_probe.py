"""What an update really takes: a rank in a process of its own, at work on rows as long as the settings allow.

Owns `measure_update`, for benchmarks, and the program that it starts. The process first updates a model of some
kilobytes, so that libraries, process group and thread buffers are there; what it holds then counts as empty.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from learner.config import LearnerConfig
from learner.credit import CreditedTrajectory
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task

_TOY_VOCABULARY = 64
_RESET_PEAK = "5"
"""Written to `clear_refs`, it makes the peak start again from what is held now (proc(5))."""


@dataclass(frozen=True, slots=True)
class EpisodeShape:
    """Tokens of the episodes that fill the rows."""

    prompt: int
    action: int
    observation: int
    steps: int
    group: int
    """Trajectories that share a prompt."""

    @property
    def distinct_tokens(self) -> int:
        """Of one group."""
        return self.prompt + self.group * (self.steps * self.action + (self.steps - 1) * self.observation)


@dataclass(frozen=True, slots=True)
class MeasuredUpdate:
    """Resident bytes of one rank."""

    empty: int
    """Of the process before it has the model."""
    peak: int
    """Largest during an update, optimiser step included."""
    row_tokens: int
    """Tokens of the longest row."""
    row_predictions: int
    """Positions of that row that predict an action token."""

    @property
    def update(self) -> int:
        """What the model and its update take."""
        return self.peak - self.empty


def measure_update(config: LearnerConfig, episodes: EpisodeShape, seconds: float) -> MeasuredUpdate:
    """Run one rank of `config` in a process of its own for two updates, and measure the second.

    Raises `subprocess.CalledProcessError` where the process fails and `TimeoutExpired` after `seconds`.
    """
    asked = json.dumps({"config": config.model_dump(mode="json"), "episodes": asdict(episodes)})
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads), "LOCAL_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "learner.memory_probe"],
        input=asked,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=seconds,
        env=environment,
    )
    return MeasuredUpdate(**json.loads(done.stdout.splitlines()[-1]))


def filling_batch(episodes: EpisodeShape, vocabulary: int, tokens: int) -> list[CreditedTrajectory]:
    """Whole groups of random tokens, as many as fit into `tokens` distinct ones, and one at the least."""
    dice = random.Random(0)
    groups = max(1, tokens // episodes.distinct_tokens)
    return [one for group in range(groups) for one in _group(episodes, vocabulary, str(group), dice)]


def _group(episodes: EpisodeShape, vocabulary: int, name: str, dice: random.Random) -> list[CreditedTrajectory]:
    def tokens(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(vocabulary) for _ in range(count))

    prompt = tokens(episodes.prompt)
    credited: list[CreditedTrajectory] = []
    for k in range(episodes.group):
        prompts = [prompt, *(tokens(episodes.observation) for _ in range(episodes.steps - 1))]
        steps = [_step(prompt_ids, tokens(episodes.action)) for prompt_ids in prompts]
        advantages = tuple(1.0 if k % 2 else -1.0 for _ in steps)
        credited.append(CreditedTrajectory(_scored(f"{name}/{k}", name, steps), advantages, advantages))
    return credited


def _step(prompt_ids: tuple[int, ...], action_ids: tuple[int, ...]) -> Step:
    count = len(action_ids)
    return Step(prompt_ids, action_ids, (-1.0,) * count, (VersionSpan(1, 0, count),), Answer(""), None, None)


def _scored(name: str, group: str, steps: Sequence[Step]) -> ScoredTrajectory:
    task = Task(group, "probe", "", (), GroundTruth("", minimum_calls=1), "", Split.TRAIN, {})
    trajectory = Trajectory(name, group, task, tuple(steps), StopReason.ANSWERED)
    rewards = tuple(StepReward(0.0, {}) for _ in steps)
    return ScoredTrajectory(trajectory, TrajectoryReward(name, rewards, 0.0, "probe"))


def _measured(config: LearnerConfig, episodes: EpisodeShape) -> MeasuredUpdate:
    from learner.packing import Keep, items_to_train, pack
    from learner.rank import LearnerRank

    with tempfile.TemporaryDirectory() as directory:
        _save_toy(directory)
        toy = config.model_copy(update={"model_path": directory, "ranks": 1})
        LearnerRank(toy, None, 0, 1).update(filling_batch(EpisodeShape(8, 8, 8, 2, 2), _TOY_VOCABULARY, 64))
    empty = _resident("VmRSS")
    rank = LearnerRank(config.model_copy(update={"ranks": 1}), None, 0, 1)
    vocabulary = json.loads(Path(config.model_path, "config.json").read_text())["vocab_size"]
    batch = filling_batch(episodes, vocabulary, 2 * config.pack_tokens)
    [rows] = pack(items_to_train(batch, Keep.CREDITED), config.pack_tokens, 1)
    longest = max(rows, key=lambda row: row.token_count)
    # The optimiser's moments come with the first step.
    rank.update(batch[: episodes.group])
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    rank.update(batch)
    return MeasuredUpdate(empty, _resident("VmHWM"), longest.token_count, len(longest.predict_at))


def _save_toy(directory: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=_TOY_VOCABULARY, **sizes)).save_pretrained(directory)


def _resident(field: str) -> int:
    """A size of `/proc/self/status`, in bytes: VmRSS is held now, VmHWM was the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _main() -> None:
    asked = json.load(sys.stdin)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    found = _measured(LearnerConfig.model_validate(asked["config"]), EpisodeShape(**asked["episodes"]))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    _main()

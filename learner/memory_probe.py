"""What an update really takes: a rank in a process of its own, at work on rows as long as the settings allow.

Owns `measure_update`, for benchmarks, and the program that it starts. The process first updates a model of some
kilobytes, so that libraries, process group and thread buffers are there; what it holds then counts as empty.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learner.config import LearnerConfig
from learner.random_batches import EpisodeShape, filling_batch

_TOY_VOCABULARY = 64
_RESET_PEAK = "5"
"""Written to `clear_refs`, it makes the peak start again from what is held now (proc(5))."""


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
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
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


def _measured(config: LearnerConfig, episodes: EpisodeShape) -> MeasuredUpdate:
    from learner.packing import Keep, items_to_train, pack
    from learner.rank import LearnerRank

    with tempfile.TemporaryDirectory() as directory:
        _save_toy(directory)
        toy = config.model_copy(update={"model_path": directory, "ranks": 1})
        warm = LearnerRank(toy, None, 0, 1)
        warm.begin_reinforcement()
        warm.update(filling_batch(EpisodeShape(8, 8, 8, 2, 2), _TOY_VOCABULARY, 64))
    empty = _resident("VmRSS")
    rank = LearnerRank(config.model_copy(update={"ranks": 1}), None, 0, 1)
    rank.begin_reinforcement()
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


def meet_alone() -> None:
    """Let the only rank of a gang find itself: an address and a free port, in this process's environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))


def _main() -> None:
    asked = json.load(sys.stdin)
    meet_alone()
    found = _measured(LearnerConfig.model_validate(asked["config"]), EpisodeShape(**asked["episodes"]))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    _main()

"""What a run leaves on disk, and where. Owns the layout of a run directory and the choice of one.

```
runs/quickstart-1f0c9a2b/      one run: preset name and hash of its configuration without its layout
  config.yaml                  the resolved configuration
  metrics.jsonl                one object an iteration
  evaluations.jsonl            one object a pass over the held-out tasks
  trajectories/00001.parquet   every step of every trajectory
  continuations/00001.json     what continuations earned from each of their states, where credit asks for any
  nonfinite/00007.parquet      the batch whose loss or gradient was no number; the run stopped there
  checkpoints/00005/           complete or absent; see `checkpoint`
  tensorboard/
  rewards.json                 address and key of the reward service, while it runs
  votes.sqlite                 every vote of a judge that has no store of its own
  summary.json                 written when the run is finished
runs/latest                    link to the newest run
```
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.config import RunConfig
from cluster.environment import home
from cluster.errors import BadConfiguration
from cluster.evaluation import Evaluation
from cluster.layout import without_layout
from cluster.presets import dump_config, load_config


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories"

    def trajectories_of(self, iteration: int) -> Path:
        """File of one iteration's trajectories."""
        return self.trajectories / f"{iteration:05d}.parquet"

    def continuations_of(self, iteration: int) -> Path:
        """File of the returns of one iteration's continuations; absent where credit asks for none."""
        return self.path / "continuations" / f"{iteration:05d}.json"

    @property
    def nonfinite(self) -> Path:
        return self.path / "nonfinite"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def votes(self) -> Path:
        return self.path / "votes.sqlite"

    def keeping_votes(self, config: RunConfig) -> RunConfig:
        """The same run, whose judge, if it has no store of its own, keeps its votes here: a resumed run asks for none
        of them again."""
        return config.model_copy(update={"rewards": config.rewards.votes_kept_in(self.votes)})

    def create(self, config: RunConfig) -> None:
        """Make the directory and record the configuration. A run may go on in another layout, see `layout`.

        Raises:
            BadConfiguration: the directory holds a run of another configuration.
        """
        text = dump_config(config)
        if self.config.exists() and _deciding(self.config.read_text()) != _deciding(text):
            raise BadConfiguration(
                f"run directory {self.path}: it holds a run with other settings (compare {self.config}); "
                "choose another --run-dir, or repeat the settings of that run"
            )
        for directory in (self.path, self.checkpoints, self.trajectories):
            directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        _link_latest(self.path)

    def read_config(self) -> RunConfig:
        """The recorded configuration.

        Raises:
            BadConfiguration: this is no run directory.
        """
        if not self.config.is_file():
            raise BadConfiguration(f"run {self.path}: no config.yaml there; expected a run directory, as runs/latest")
        return load_config(str(self.config), ())

    def write_reward_access(self, url: str, key: str) -> None:
        """How to reach the reward service while the run goes on; readable by its owner alone."""
        path = self.path / "rewards.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"url": url, "key": key}) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one iteration; on disk before it returns."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Every whole record; a line that a crash or a full disk cut short is not one."""
        if self.metrics.exists():
            with self.metrics.open() as file:
                yield from (json.loads(line) for line in file if line.endswith("\n"))

    def drop_metrics_after(self, iteration: int) -> None:
        """Forget iterations that a resumed run will do again."""
        kept = [record for record in self.read_metrics() if record["iteration"] <= iteration]
        write_atomically(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def append_evaluation(self, label: str, greedy: Evaluation, sampled: Evaluation | None, seconds: float) -> None:
        """Record the held-out rates and how long they took; a repeated label replaces the earlier one when read."""
        record = {
            "label": label,
            "greedy": greedy.as_dict(),
            "sampled": sampled.as_dict() if sampled else None,
            "seconds": seconds,
        }
        with self.evaluations.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def evaluation(self, label: str, mode: str = "greedy") -> Evaluation | None:
        """The newest evaluation under a label, or None."""
        found = [record[mode] for record in self._read_evaluations(label) if record[mode]]
        return Evaluation.from_dict(found[-1]) if found else None

    def evaluation_seconds(self, label: str) -> float:
        """How long the newest evaluation under a label took; 0 where there is none."""
        return next((record["seconds"] for record in reversed(self._read_evaluations(label))), 0.0)

    def _read_evaluations(self, label: str) -> list[dict[str, Any]]:
        if not self.evaluations.exists():
            return []
        records = map(json.loads, self.evaluations.read_text().splitlines())
        return [record for record in records if record["label"] == label]

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def choose_run_directory(config: RunConfig, *, resume: bool) -> RunDirectory:
    """`runs/NAME-HASH`: an unfinished run of the same configuration, in whatever layout, when resuming, else the first
    free name."""
    deciding = yaml.safe_dump(_deciding(dump_config(config)), sort_keys=False)
    digest = hashlib.sha256(deciding.encode()).hexdigest()[:8]
    base = home() / "runs" / f"{config.name}-{digest}"
    candidates = (RunDirectory(base if n == 1 else Path(f"{base}-{n}")) for n in range(1, 10_000))
    for directory in candidates:
        unfinished = directory.path.exists() and not directory.summary.exists()
        if not directory.path.exists() or (resume and unfinished):
            return directory
    raise BadConfiguration(f"run directory {base}: no free name left; give one with --run-dir")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _deciding(text: str) -> dict[str, Any]:
    """What makes a run this one and no other, of a resolved configuration."""
    return without_layout(yaml.safe_load(text))


def _link_latest(path: Path) -> None:
    link = path.parent / "latest"
    temporary = path.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.name)
    temporary.replace(link)

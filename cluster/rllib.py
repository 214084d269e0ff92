"""The loop in RLlib's clothes, for people who drive everything by `Algorithm.train()` or by Tune.

Owns `StepToolConfig` and `StepToolAlgorithm`. RLlib's env runners, RL modules and learner group are not used: a
trajectory of text and a model of billions of parameters do not fit them. What is used is its train loop, results,
callbacks and checkpoints, as a shell over `cluster.trainer.Trainer`.

```python
StepToolConfig().preset("tiny").settings({"loop.iterations": 5}).build_algo().train()
```
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import ray
from ray import serve
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.utils import force_list
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from rich.console import Console

from cluster.checkpoint import RunState
from cluster.config import KeepNewest, RunConfig
from cluster.display import LineDisplay
from cluster.environment import apply_process_defaults
from cluster.errors import CheckpointError
from cluster.interrupt import StopFlag
from cluster.launch import check_inputs, ray_session
from cluster.metrics import IterationReport, MetricSink
from cluster.parts import start_parts
from cluster.placement import plan
from cluster.presets import dump_config, load_config
from cluster.run_directory import RunDirectory
from cluster.trainer import Trainer

# Ray's workers inherit the environment of the process that starts Ray, and Tune starts it unasked.
apply_process_defaults()

CONFIG_FILE = "config.yaml"
_TRIAL_CPUS = 0.1
"""Of the trial's own process: it waits for its parts nearly all the time."""
_SERVE_SECONDS = 120.0


class StepToolConfig(AlgorithmConfig):
    """A preset and changes to it, as an RLlib configuration. RLlib's own training settings have no effect."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or StepToolAlgorithm)
        self.steptool_preset = "quickstart"
        self.steptool_settings: dict[str, Any] = {}

    def preset(self, name: str) -> Self:
        """Start from a preset by name, or from a YAML file by path."""
        self.steptool_preset = name
        return self

    def settings(self, values: Mapping[str, Any]) -> Self:
        """Change settings by dotted name, `{"learner.optimiser.lr": 2e-5}`; values may be search spaces of Tune."""
        self.steptool_settings = {**self.steptool_settings, **values}
        return self

    def resolve(self) -> RunConfig:
        """The configuration of the run.

        Raises:
            BadConfiguration: no such preset, unknown setting, or a value that does not fit.
        """
        overrides = [f"{name}={json.dumps(value)}" for name, value in self.steptool_settings.items()]
        return load_config(self.steptool_preset, overrides)

    def validate(self) -> None:
        super().validate()
        self.resolve()

    def build(self, *args: Any, **kwargs: Any) -> Algorithm:
        """The same as `build_algo`."""
        return self.build_algo(*args, **kwargs)


class StepToolAlgorithm(Algorithm):
    """One run, one iteration of the loop for each `train()`. The run directory is `logdir/run`."""

    @classmethod
    def get_default_config(cls) -> StepToolConfig:
        return StepToolConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """What Tune reserves for a trial: its own process, then every actor of the run's plan."""
        resolved = cls.get_default_config().update_from_dict(config).resolve()
        return PlacementGroupFactory([{"CPU": _TRIAL_CPUS}, *(actor.bundle() for actor in plan(resolved))])

    def setup(self, config: AlgorithmConfig) -> None:
        """Start the parts. The warm start waits for the first iteration: a restored run does not need it."""
        if not isinstance(config, StepToolConfig):
            raise TypeError(f"StepToolAlgorithm: found {type(config).__name__}, expected a StepToolConfig")
        self.env_runner_group = None
        self.callbacks = [callback() for callback in force_list(config.callbacks_class)]
        self._set_up_metrics()
        self._stack = ExitStack()
        self._state: RunState | None = None
        self._run = check_inputs(config.resolve())
        try:
            self._trainer, self._sink = self._start()
        except BaseException:
            self._stack.close()
            raise
        functions: Any = force_list(config.callbacks_on_algorithm_init)
        known = {"algorithm": self, "metrics_logger": self.metrics}
        make_callback("on_algorithm_init", self.callbacks, functions, kwargs=known)

    def training_step(self) -> None:
        self._state, report = self._trainer.iterate(self._begun())
        self._sink.write(report)
        for name, value in _results(report):
            self.metrics.log_value(name, value, window=1)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        root = Path(checkpoint_dir)
        self._trainer.save(self._begun(), root, KeepNewest(count=1))
        self._trainer.finish_saving()
        (root / CONFIG_FILE).write_text(dump_config(self._run))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        restored = self._trainer.restore(Path(checkpoint_dir))
        if restored is None:
            raise CheckpointError(f"checkpoint {checkpoint_dir}: found no complete one; expected one that we saved")
        self._state = restored

    def save_to_path(self, path: Any = None, **_: Any) -> str:
        """RLlib's newer spelling of `save_checkpoint`."""
        directory = str(path or tempfile.mkdtemp(prefix="steptool-"))
        self.save_checkpoint(directory)
        return directory

    def restore_from_path(self, path: Any, *_: Any, **__: Any) -> None:
        """RLlib's newer spelling of `load_checkpoint`."""
        self.load_checkpoint(str(path))

    @classmethod
    def from_checkpoint(cls, path: Any, *_: Any, **__: Any) -> Algorithm:
        """An algorithm with the configuration and the state of a checkpoint."""
        algorithm = StepToolConfig(cls).preset(str(Path(path) / CONFIG_FILE)).build_algo()
        algorithm.load_checkpoint(str(path))
        return algorithm

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        return []

    def cleanup(self) -> None:
        self._stack.close()
        super().cleanup()

    def _start(self) -> tuple[Trainer, MetricSink]:
        if not ray.is_initialized():
            self._stack.enter_context(ray_session())
        if get_current_placement_group() is not None:
            _start_serve_outside_the_group()
            # Trials share one Serve, where the run's name is that of its reward service.
            self._run = self._run.model_copy(update={"name": f"{self._run.name}-{self.trial_id}"})
        directory = RunDirectory(Path(str(self.logdir)).resolve() / "run")
        directory.create(self._run)
        display = LineDisplay(Console(stderr=True))
        parts = self._stack.enter_context(start_parts(directory.keeping_votes(self._run), display.note))
        sink = MetricSink(directory, self._run)
        self._stack.callback(sink.close)
        return Trainer(self._run, directory, parts, display, StopFlag()), sink

    def _begun(self) -> RunState:
        if self._state is None:
            self._state = self._trainer.begin()
        return self._state


def _results(report: IterationReport) -> Iterator[tuple[str | tuple[str, ...], float]]:
    """What RLlib users see: the numbers of metrics.jsonl, nested ones by group."""
    for name, value in report.as_record().items():
        if isinstance(value, Mapping):
            yield from (((name, inner), float(number)) for inner, number in value.items())
        elif name != "iteration":
            yield name, float(value)


def _start_serve_outside_the_group() -> None:
    """Serve's controller needs the head node's own resource, which no trial's placement group holds."""
    # Documented by Ray as the way out of the parent's group, and not in its annotation.
    nowhere: Any = None
    outside = PlacementGroupSchedulingStrategy(placement_group=nowhere)
    ray.get(_start_serve.options(scheduling_strategy=outside).remote(), timeout=_SERVE_SECONDS)


@ray.remote(num_cpus=0)
def _start_serve() -> None:
    """Does nothing where Serve runs already. Serve stays for the next trial, and goes with the cluster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(host="127.0.0.1", port=port))

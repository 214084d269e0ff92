"""What a person sees while a run goes on. Owns the `Display` protocol and its two forms: a live table, plain lines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.evaluation import Evaluation
from cluster.metrics import IterationReport
from learner.publish import PublishReport
from learner.reports import SftReport

_ROWS = 12
_COLUMNS = ("iteration", "solved", "reward", "signals", "steps", "tok/s roll", "tok/s upd", "seconds", "stale", "gap")


class Display(Protocol):
    """Told of everything worth seeing; keeps nothing that matters."""

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def warm_start(self, report: SftReport) -> None: ...
    def published(self, report: PublishReport) -> None: ...
    def episode(self, label: str, done: int, total: int) -> None: ...
    def iteration(self, report: IterationReport, total: int) -> None: ...
    def evaluation(self, label: str, temperature: float, evaluation: Evaluation) -> None: ...


class LineDisplay:
    """One line an event: for logs, and for terminals that are not terminals."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}")

    def warm_start(self, report: SftReport) -> None:
        if report.step % 10 == 0 or report.step + 1 == report.steps:
            self._print(f"warm start {report.step + 1}/{report.steps}: loss {report.loss:.3f} nats a token")

    def published(self, report: PublishReport) -> None:
        if report.version == 1:
            self._print(f"weights version 1 delivered: canary gap {report.mean_gap:.4f} nats mean")

    def episode(self, label: str, done: int, total: int) -> None:
        """Too fine for a log."""

    def iteration(self, report: IterationReport, total: int) -> None:
        cells = zip(_COLUMNS, _cells(report, total), strict=True)
        self._print("  ".join(f"{name} {cell}" for name, cell in cells))

    def evaluation(self, label: str, temperature: float, evaluation: Evaluation) -> None:
        self._print(_evaluation_line(label, temperature, evaluation))

    def _print(self, text: str) -> None:
        self._console.print(f"[{time.monotonic() - self._began:7.1f}s] {text}", markup=False, highlight=False)


class LiveDisplay:
    """A table of the newest iterations over a status line. A context manager."""

    def __init__(self, console: Console) -> None:
        self._lines = LineDisplay(console)
        self._rows: deque[tuple[str, ...]] = deque(maxlen=_ROWS)
        self._status = ""
        self._live = Live(self._render(), console=console, refresh_per_second=4)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        self._show(text)

    def warn(self, text: str) -> None:
        """Stays above the table."""
        self._lines.warn(text)

    def warm_start(self, report: SftReport) -> None:
        bar = _bar(report.step + 1, report.steps)
        self._show(f"warm start {bar} {report.step + 1}/{report.steps}  loss {report.loss:.3f} nats a token")

    def published(self, report: PublishReport) -> None:
        self._show(f"weights version {report.version} delivered in {report.load_seconds:.1f} s and verified")

    def episode(self, label: str, done: int, total: int) -> None:
        self._show(f"{label}: episodes {_bar(done, total)} {done}/{total}")

    def iteration(self, report: IterationReport, total: int) -> None:
        self._rows.append(_cells(report, total))
        self._show(f"iteration {report.iteration} done")

    def evaluation(self, label: str, temperature: float, evaluation: Evaluation) -> None:
        self._lines.note(_evaluation_line(label, temperature, evaluation))

    def _show(self, status: str) -> None:
        self._status = status
        self._live.update(self._render())

    def _render(self) -> RenderableType:
        table = Table(*_COLUMNS, expand=False)
        for row in self._rows:
            table.add_row(*row)
        status = Text(self._status, style="bold")
        return Group(table, status) if self._rows else status


def _cells(report: IterationReport, total: int) -> tuple[str, ...]:
    rates = report.tokens_per_second()
    return (
        f"{report.iteration}/{total}",
        f"{report.solved_rate:.0%}",
        f"{report.step_reward:+.3f}",
        " ".join(f"{name[:3]} {value:.2f}" for name, value in report.signals.items()),
        f"{report.steps:.1f}",
        f"{rates['rollout']:.0f}",
        f"{rates['update']:.0f}",
        _phases(report.seconds),
        f"{report.staleness:.1f}",
        f"{report.canary_gap:.3f}",
    )


def _phases(seconds: Mapping[str, float]) -> str:
    return " ".join(f"{name[:3]} {value:.1f}" for name, value in seconds.items() if value >= 0.05)


def _evaluation_line(label: str, temperature: float, evaluation: Evaluation) -> str:
    low, high = evaluation.interval
    how = "greedy" if temperature == 0 else f"sampled at T={temperature:g}"
    levels = ", ".join(
        f"{level} {rate:.0%} ({evaluation.calls_by_level[level]:.1f} calls)"
        for level, rate in evaluation.by_level.items()
    )
    return (
        f"held-out {label}, {how}: solved {evaluation.solved:.1%} [{low:.1%}, {high:.1%}] of {evaluation.tasks}; "
        f"{levels}; useless calls {evaluation.useless_calls:.2f} an episode"
    )


def _bar(done: int, total: int, width: int = 24) -> str:
    filled = width * done // max(total, 1)
    return "━" * filled + "·" * (width - filled)

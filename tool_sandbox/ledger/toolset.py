"""The ledger as a toolset: what the registry hands out under the name `ledger`."""

from __future__ import annotations

from tool_sandbox.demonstrations import Policy
from tool_sandbox.errors import CorruptTask
from tool_sandbox.isolation.python_tool import PYTHON_SPEC
from tool_sandbox.ledger.policies import NoisyOraclePolicy, RandomPolicy
from tool_sandbox.ledger.sampling import LEVELS, TOOLSET, find_task, sample_task
from tool_sandbox.ledger.session import LedgerSession, Runner
from tool_sandbox.ledger.splits import has_tasks
from tool_sandbox.ledger.tools import TOOLS
from tool_sandbox.ledger.variants import VARIANTS
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tiers import run_python
from tool_sandbox.tools import ToolSpec


class LedgerToolset:
    """Tasks over small seeded databases, with exact ground truth for every call."""

    name = TOOLSET

    def __init__(self, python: Runner = run_python) -> None:
        """`python` runs calls of the `python` tool, which any task may be given."""
        self._python = python

    def specs(self) -> tuple[ToolSpec, ...]:
        """The ledger's own tools, `python`, which no sampled task names but any task may be given, and the variants."""
        variants = (variant.spec for name, variant in VARIANTS.items() if name not in TOOLS)
        return (*(tool.spec for tool in TOOLS.values()), PYTHON_SPEC, *variants)

    def levels(self) -> tuple[str, ...]:
        return LEVELS

    def has_tasks(self, split: Split, level: str) -> bool:
        """Whether the split exists at the level."""
        return has_tasks(split, level)

    def sample_task(self, split: Split, level: str, index: int) -> Task:
        """The `index`-th task of a split and level; raises `NoSuchTask` where `has_tasks` says no."""
        return sample_task(split, level, index)

    def find_task(self, task_id: str) -> Task:
        """The task of an id such as `ledger/L1/train/7`; raises `NoSuchTask` where there is none."""
        return find_task(task_id)

    def demonstrator(self, noise: float, seed: int) -> Policy:
        """An oracle, each of whose steps is preceded by an error with probability `noise`."""
        return NoisyOraclePolicy(noise, seed)

    def random_policy(self, seed: int) -> Policy:
        """Calls and answers at random."""
        return RandomPolicy(seed)

    def open(self, task: Task) -> LedgerSession:
        """A fresh session in the task's initial state.

        Raises:
            CorruptTask: the payload is not this generator's, or a tool does not exist.
        """
        unknown = [name for name in task.tools if name not in VARIANTS and name != PYTHON_SPEC.name]
        if unknown:
            raise CorruptTask(
                f"task {task.id!r}: names the tools {unknown}, which the ledger does not have; sample it again"
            )
        extra = {PYTHON_SPEC.name: self._python} if PYTHON_SPEC.name in task.tools else {}
        return LedgerSession(task, extra)

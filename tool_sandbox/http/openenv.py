"""OpenEnv's wire: reset, step and state, with the reward and the end of the episode beside the observation.

Owns what goes over it. OpenEnv leaves actions, observations and state to the environment; ours are a tool call or an
answer, what came back, and where the episode stands. Its own HTTP opens a fresh environment for every request, so the
id of an episode travels in ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus

EpisodeId = Annotated[str, Field(min_length=1, max_length=255)]
Metadata = Annotated[dict[str, Any], Field(default_factory=dict)]
"""For the caller's own notes; read by nobody here."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ResetRequest(_Wire):
    """Which task to begin. What is left out is the service's own choice."""

    seed: Annotated[int, Field(ge=0)] | None = None
    """Index of the task in its split and level; None is 0. The same seed gives the same task."""
    episode_id: EpisodeId | None = None
    """A name of the caller's; an episode of that name is closed first. None gives a fresh one."""
    toolset: str | None = None
    split: Split | None = None
    level: str | None = None


class CallTool(_Wire):
    """Call one tool."""

    type: Literal["call_tool"] = "call_tool"
    tool_name: str
    arguments: dict[str, Any] = {}
    metadata: Metadata


class Answer(_Wire):
    """End the episode with an answer."""

    type: Literal["answer"]
    answer: str
    metadata: Metadata


Action = Annotated[CallTool | Answer, Field(discriminator="type")]


class StepRequest(_Wire):
    """One action in one episode."""

    action: Action
    episode_id: EpisodeId
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds that the caller waits at most; an episode whose action takes longer is lost."""
    request_id: Annotated[str, Field(max_length=255)] | None = None


class Distance(_Wire):
    """The exact minimum number of calls still needed, before and after one call."""

    before: int
    after: int


class Observation(_Wire):
    """What the policy sees, and the facts beside it."""

    episode_id: str
    text: str
    """The prompt after a reset, the tool's output after a call, empty after an answer."""
    tools: tuple[dict[str, Any], ...] = ()
    """After a reset: the tools that the task offers, as OpenAI functions."""
    status: CallStatus | None = None
    """After a call: how it ended. `infra_error` is never the policy's doing."""
    progress: Distance | None = None
    """After a call, where the task has an exact distance."""


class StepResponse(_Wire):
    """An observation with its reward; the answer to reset and step."""

    observation: Observation
    reward: float | None = None
    """A call: by how much the distance to the solution fell. An answer: 1 if solved, else 0. None: nobody knows."""
    done: bool = False


class State(_Wire):
    """Where an episode stands; nothing of the ground truth."""

    episode_id: str
    step_count: int
    done: bool
    task_id: str
    toolset: str
    split: Split
    level: str
    state_hash: str | None
    """Of the session; None where its toolset has no state, and after the end."""


class Health(_Wire):
    """Whether the service is alive."""

    status: Literal["healthy"] = "healthy"


class Schema(_Wire):
    """JSON Schema of what this environment takes and gives."""

    action: dict[str, Any]
    observation: dict[str, Any]
    state: dict[str, Any]

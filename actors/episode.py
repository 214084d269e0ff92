"""One episode: prompt, action, observation, action … until the last answer or the end of a budget.

Consumes a task, an engine, a sandbox, a chat format and a parser; produces a `Trajectory`. Knows nothing of Ray, vLLM
or rewards. In a dialogue an answer is followed by what the user says next, within the same budget of steps. The model's
mistakes become observations; a lost sandbox ends the episode and keeps the good prefix. An episode may also begin from
the first steps of a recorded one (`prefix`), which are part of its trajectory and of its budget.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from actors.config import EpisodeConfig
from actors.engine import Generation, GenerationEngine, Sampling
from actors.errors import PrefixDiverged, PromptTooLong
from actors.prefix import Prefix, reopen
from actors.prompt import ChatFormat
from actors.trajectory import Action, Answer, ParseFailure, Step, Trajectory, final_answer
from tool_sandbox.client import SandboxClient
from tool_sandbox.errors import LeaseLost, SandboxFull, SandboxUnavailable
from tool_sandbox.tasks import StopReason, Task
from tool_sandbox.tools import CallOutcome, CallStatus, Progress, Specs, ToolCall, ToolResult

logger = logging.getLogger(__name__)


class Parser(Protocol):
    """Reads one model turn."""

    def parse(self, text: str, call_id: str) -> Action: ...


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    """What to play."""

    id: str
    """Trajectory id; also the prefix of the engine's request ids."""
    group: str
    task: Task
    temperature: float
    max_turn_tokens: int
    seed: int | None = None
    """Seed of the first turn; turn k uses seed + k. None leaves sampling to the engine."""
    prefix: Prefix | None = None
    """Steps of a recorded episode of the same task, after which this one goes on; None: from the prompt."""

    def sampling(self, step: int) -> Sampling:
        return Sampling(self.temperature, self.max_turn_tokens, None if self.seed is None else self.seed + step)


@dataclass(frozen=True, slots=True)
class Episodes:
    """Plays episodes; holds what they share."""

    engine: GenerationEngine
    sandbox: SandboxClient
    chat: ChatFormat
    parser: Parser
    config: EpisodeConfig
    specs: Specs
    max_context: int
    """Context of the engine, in tokens."""

    async def play(self, request: EpisodeRequest) -> Trajectory:
        """Run one episode to its end.

        Raises:
            PromptTooLong: the prompt alone does not fit the context.
            EngineFailure: the engine did not answer.
        """
        prefix = request.prefix or Prefix((), self._prompt(request))
        try:
            lease = await self.sandbox.open(request.task)
        except (SandboxFull, SandboxUnavailable):
            return _lost_at_once(request, prefix)
        try:
            await reopen(self.sandbox, lease, prefix, self.chat)
            steps, stop = await self._turns(request, prefix, lease)
            return await self._finished(request, steps, stop, lease)
        except PrefixDiverged as error:
            logger.warning("episode %s cannot begin where it should: %s", request.id, error)
            return _lost_at_once(request, prefix)
        finally:
            await self.sandbox.close(lease)

    async def _finished(
        self, request: EpisodeRequest, steps: tuple[Step, ...], stop: StopReason, lease: str
    ) -> Trajectory:
        state, checked = None, None
        if stop is not StopReason.INFRASTRUCTURE:
            try:
                state = await self.sandbox.state_hash(lease)
                checked = await self.sandbox.verdict(lease, final_answer(steps, stop))
            except LeaseLost:
                state, stop = None, StopReason.INFRASTRUCTURE
        return Trajectory(request.id, request.group, request.task, steps, stop, state, checked)

    async def _turns(self, request: EpisodeRequest, prefix: Prefix, lease: str) -> tuple[tuple[Step, ...], StopReason]:
        steps = list(prefix.steps)
        context, fed = list(prefix.token_ids), prefix.fed
        for index in range(len(steps), self.config.max_steps):
            if len(context) + request.max_turn_tokens > self.max_context:
                return tuple(steps), StopReason.CONTEXT_OVERFLOW
            turn = await self.engine.generate(context, request.sampling(index), f"{request.id}/{index}")
            remaining = _remaining(request.task, steps)
            step = await self._step(fed, turn, lease, f"{request.id}/{index}", remaining)
            steps.append(step)
            reply = await self._reply(step, turn, lease)
            if isinstance(reply, StopReason):
                return tuple(steps), reply
            fed = reply
            context += [*turn.token_ids, *fed]
        return tuple(steps), StopReason.STEP_BUDGET

    async def _step(
        self, fed: tuple[int, ...], turn: Generation, lease: str, call_id: str, remaining: int | None
    ) -> Step:
        text = self.chat.action_text(turn.token_ids)
        action = self.parser.parse(text, call_id) if turn.ended else ParseFailure(text, "turn ran out of tokens")
        outcome = await self._outcome(action, lease, call_id, remaining)
        return Step(
            prompt_ids=fed,
            action_ids=turn.token_ids,
            logprobs=turn.logprobs,
            versions=turn.versions,
            action=action,
            result=outcome.result if outcome else None,
            progress=outcome.progress if outcome else None,
        )

    async def _outcome(self, action: Action, lease: str, call_id: str, remaining: int | None) -> CallOutcome | None:
        if isinstance(action, ToolCall):
            return await self.sandbox.call(lease, action)
        if isinstance(action, ParseFailure):
            result = ToolResult(call_id, CallStatus.INVALID_ARGUMENTS, f"error: {action.reason}")
            return CallOutcome(result, None if remaining is None else Progress(remaining, remaining))
        return None

    def _prompt(self, request: EpisodeRequest) -> tuple[int, ...]:
        specs = self.specs(request.task.toolset)
        ids = self.chat.prompt_ids(request.task.prompt, [specs[name] for name in request.task.tools])
        if len(ids) + request.max_turn_tokens > self.max_context:
            raise PromptTooLong(
                f"task {request.task.id!r}: its prompt has {len(ids)} tokens, and with a turn of "
                f"{request.max_turn_tokens} it does not fit the context of {self.max_context}; raise "
                "rollout.engine.max_model_len, or offer the task fewer tools"
            )
        return ids

    async def _reply(self, step: Step, turn: Generation, lease: str) -> tuple[int, ...] | StopReason:
        """The ids that follow a step, an observation or what the user says next; or why none do."""
        if not turn.ended:
            return StopReason.TURN_TOO_LONG
        if isinstance(step.action, Answer):
            return await self._user_turn(lease)
        assert step.result is not None, "every action but an answer has a result"
        if step.result.status.is_infrastructure:
            return StopReason.INFRASTRUCTURE
        return self.chat.observation_ids(step.result.content, self.config.observation_tokens)

    async def _user_turn(self, lease: str) -> tuple[int, ...] | StopReason:
        try:
            text = await self.sandbox.user_turn(lease)
        except LeaseLost:
            return StopReason.INFRASTRUCTURE
        return StopReason.ANSWERED if text is None else self.chat.user_ids(text)


def _lost_at_once(request: EpisodeRequest, prefix: Prefix) -> Trajectory:
    return Trajectory(request.id, request.group, request.task, prefix.steps, StopReason.INFRASTRUCTURE)


def _remaining(task: Task, steps: list[Step]) -> int | None:
    """Calls still needed: after the last step that tells, else at the start."""
    known = (step.progress.after for step in reversed(steps) if step.progress is not None)
    return next(known, task.ground_truth.minimum_calls)

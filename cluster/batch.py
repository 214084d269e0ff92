"""Which episodes an iteration plays, and which demonstrations warm a policy up. Pure functions of the configuration.

Owns the data cursor: task k of a run is the same task whether the run was interrupted or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer

from actors.config import RolloutConfig
from actors.demonstrations import encode
from actors.episode import EpisodeRequest
from actors.prompt import ChatFormat, build_chat_format
from actors.recipes import tool_specs
from cluster.config import CurriculumMix, RunConfig, TaskConfig
from cluster.curriculum import Curriculum
from cluster.errors import BadConfiguration
from learner.packing import Demonstration
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.errors import NoDemonstration
from tool_sandbox.registry import load_toolset, toolset_names
from tool_sandbox.session import FindsTasks
from tool_sandbox.tasks import Task

_SEED_STRIDE = 1_000_000
"""Training tasks of two seeds do not overlap until a run has seen this many of one level."""
_CHECKED_PER_LEVEL = 32
"""Tasks of each level that are looked at before a run; a file of tasks may know the distance of only some."""
_DEMONSTRATIONS_FROM = 500_000
"""Demonstrations come from task indices that training does not reach."""


def training_tasks(
    config: RunConfig, cursor: int, curriculum: Mapping[str, Any] | None = None, draws: Sequence[int] = ()
) -> list[Task]:
    """The next tasks: from `cursor` on, the levels in turn, or as the curriculum draws them.

    `curriculum` is what `next_curriculum` gave; None and an empty one stand for its start. `draws` says how many tasks
    an iteration has asked for so far, one number each time, and these are the last of them; () asks for
    `task.per_iteration` at once.
    """
    start, tasks = config.seed * _SEED_STRIDE, config.task
    *before, count = draws or (tasks.per_iteration,)
    if isinstance(tasks.mix, CurriculumMix):
        drawn, _ = _after(tasks, curriculum or {}, before).draw(count)
        toolset = load_toolset(tasks.suite)
        return [toolset.sample_task(tasks.split, level, start + index) for level, index in drawn]
    return [_task(tasks, start, cursor + sum(before) + k) for k in range(count)]


def next_curriculum(
    config: TaskConfig,
    curriculum: Mapping[str, Any],
    outcomes: Mapping[str, tuple[float, int]],
    draws: Sequence[int] = (),
) -> dict[str, Any]:
    """The curriculum after an iteration whose tasks it drew; `outcomes`: level → (solved, judged) episodes.

    `draws` as in `training_tasks`. Empty where the levels take turns.
    """
    if not isinstance(config.mix, CurriculumMix):
        return {}
    return _after(config, curriculum, draws or (config.per_iteration,)).learn(config.mix, outcomes).state()


def _after(config: TaskConfig, curriculum: Mapping[str, Any], draws: Sequence[int]) -> Curriculum:
    state = Curriculum.restore(curriculum, config.levels)
    for count in draws:
        _, state = state.draw(count)
    return state


def training_requests(config: RunConfig, tasks: Sequence[Task], iteration: int, first: int = 0) -> list[EpisodeRequest]:
    """`task.group_size` episodes of each task; only deterministic runs fix the seed of each request.

    `first`: how many groups the iteration has already.
    """
    return [
        _request(config, task, f"{iteration:05d}/{t:03d}", sample)
        for t, task in enumerate(tasks, start=first)
        for sample in range(config.task.group_size)
    ]


def check_distances(config: RunConfig) -> None:
    """Find out before anything starts whether the tasks can give the signals that the rewards are made of.

    Raises:
        BadConfiguration: the shaping weighs Contribution, and nobody knows how far these tasks are from solved.
    """
    if not config.rewards.needs_distance:
        return
    for position in range(len(config.task.levels) * _CHECKED_PER_LEVEL):
        task = _task(config.task, 0, position)
        if task.ground_truth.minimum_calls is None:
            raise BadConfiguration(
                f"task.suite={config.task.suite!r}: task {task.id!r} of level {task.level!r} has no exact distance to "
                f"its solution, and rewards.shaping ({config.rewards.shaping.kind!r}) needs one for Contribution; set "
                "rewards.shaping.kind=linear rewards.shaping.contribution=0, or rewards.shaping.kind=outcome_only"
            )


def check_replays(config: RunConfig) -> None:
    """Find out before anything starts whether the reward service can open the tasks again, where it has to.

    Raises:
        BadConfiguration: contribution is measured by replays, and these tasks are found by no id.
    """
    suite, contribution = config.task.suite, config.rewards.signals.contribution
    if not config.rewards.signals.replays:
        return
    if suite not in toolset_names() or not isinstance(load_toolset(suite), FindsTasks):
        raise BadConfiguration(
            f"task.suite={suite!r}: rewards.signals.contribution.kind={contribution.kind!r} opens tasks again by their "
            "ids, and this is no installed toolset with `find_task`; give it an entry point (docs/toolsets.md), or set "
            "rewards.signals.contribution.kind=distance"
        )


def check_reopening(config: RunConfig) -> None:
    """Find out before anything starts whether sessions come to the same state again, where episodes begin in one.

    One task of each level is demonstrated twice. Nothing is known of tasks that nobody can demonstrate.

    Raises:
        BadConfiguration: the second time came out otherwise.
    """
    if not config.reopens_sessions:
        return
    for position in range(len(config.task.levels)):
        task = _task(config.task, config.seed * _SEED_STRIDE, position)
        if _what_came(config, task) != _what_came(config, task):
            raise BadConfiguration(
                f"task.suite={config.task.suite!r}: the same calls on task {task.id!r} gave something else the second "
                "time, so that no session can be brought back to a recorded state; choose a toolset with deterministic "
                "tools, or a credit.kind other than monte_carlo and task.group.kind=independent"
            )


def _what_came(config: RunConfig, task: Task) -> list[object]:
    """Of the calls of a demonstration; nothing where nobody can give one."""
    toolset = load_toolset(config.task.suite)
    policy = toolset.demonstrator(0.0, config.seed)
    if policy is None:
        return []
    try:
        shown = demonstrate(toolset, task, policy, config.rollout.episode.max_steps)
    except NoDemonstration:
        return []
    return [*((one.result.status, one.result.content, one.progress) for one in shown.outcomes), *shown.turns]


def warm_start_demonstrations(config: RunConfig, at_most: int | None = None) -> list[Demonstration]:
    """Token sequences of a noisy oracle on training tasks, for the supervised warm start.

    Raises:
        BadConfiguration: nobody can demonstrate these tasks.
    """
    sft = config.learner.sft
    start = config.seed * _SEED_STRIDE + _DEMONSTRATIONS_FROM
    count = sft.demonstrations if at_most is None else min(at_most, sft.demonstrations)
    tasks = [_task(config.task, start, k) for k in range(count)]
    try:
        return _demonstrated(config, tasks, sft.noise, config.seed)
    except NoDemonstration as error:
        raise BadConfiguration(
            f"learner.sft.demonstrations={sft.demonstrations}: {error}; set it to 0 and start from a model that knows "
            "the format"
        ) from error


def canary_sequences(config: RunConfig) -> list[tuple[int, ...]]:
    """Token sequences whose probabilities prove a delivery: held-out conversations, else bare prompts."""
    toolset, level = load_toolset(config.task.suite), config.task.levels[-1]
    tasks = [toolset.sample_task(config.evaluation.split, level, i) for i in range(config.canary.sequences)]
    try:
        sequences = [one.token_ids for one in _demonstrated(config, tasks, 0.0, 0)]
    except NoDemonstration:
        chat, specs = _chat(config), tool_specs(config.task.suite)
        sequences = [chat.prompt_ids(task.prompt, [specs[name] for name in task.tools]) for task in tasks]
    return [ids[-config.canary.tokens :] for ids in sequences]


def _demonstrated(config: RunConfig, tasks: Sequence[Task], noise: float, seed: int) -> list[Demonstration]:
    """Raises `NoDemonstration` where nobody knows a way."""
    policy = load_toolset(config.task.suite).demonstrator(noise, seed)
    if policy is None:
        raise NoDemonstration(f"toolset {config.task.suite!r}: it has no demonstrator")
    toolset, chat, specs = load_toolset(config.task.suite), _chat(config), tool_specs(config.task.suite)
    episode = config.rollout.episode
    played = (demonstrate(toolset, task, policy, episode.max_steps) for task in tasks)
    encoded = (encode(one, chat, specs, episode) for one in played)
    return [Demonstration(one.token_ids, one.action_mask) for one in encoded]


def _chat(config: RunConfig) -> ChatFormat:
    return build_chat_format(AutoTokenizer.from_pretrained(config.rollout.model), config.rollout.prompt)


def request_seed(*parts: object) -> int:
    """A 31-bit seed that depends on nothing but its parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _task(tasks: TaskConfig, start: int, position: int) -> Task:
    level = tasks.levels[position % len(tasks.levels)]
    return load_toolset(tasks.suite).sample_task(tasks.split, level, start + position // len(tasks.levels))


def _request(config: RunConfig, task: Task, group: str, sample: int) -> EpisodeRequest:
    rollout: RolloutConfig = config.rollout
    return EpisodeRequest(
        id=f"{group}/{sample:02d}",
        group=group,
        task=task,
        temperature=rollout.sampling.temperature,
        max_turn_tokens=rollout.sampling.max_turn_tokens,
        seed=request_seed(config.seed, group, sample) if config.deterministic else None,
    )

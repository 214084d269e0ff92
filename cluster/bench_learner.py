"""`steptool bench learner`: the update beside bare PyTorch, shared prefixes beside none, memory beside its plan.

Owns the measurement; nothing here is used by training. Machines are noisy, so what matters is a ratio of two things
timed in turn in one process, repeated, with its spread.

The bare reference is the plain Transformers model on the rows that our packing made, with the tree as a dense mask for
`sdpa`, logits at the predicted positions alone, cross-entropy and a fused AdamW. Its rows and masks are made before the
clock runs, and it neither clips nor counts; our time is that of a whole `LearnerRank.update`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from cluster.config import RunConfig
from cluster.dry_run import model_shape
from cluster.launch import check_inputs
from cluster.models import find_model
from cluster.presets import load_config
from learner.config import LearnerConfig
from learner.credit import CreditedTrajectory
from learner.forest import Layout
from learner.memory import update_bytes
from learner.memory_probe import measure_update, meet_alone
from learner.packing import PackedRow, items_to_train, pack
from learner.policy import TORCH_DTYPES, load_model
from learner.random_batches import EpisodeShape, filling_batch, forked_batch
from learner.rank import LearnerRank
from learner.reports import UpdateReport
from learner.training_rows import tokens_to_keep

_PROBE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Group:
    """A batch in which prefixes are shared."""

    episodes: EpisodeShape
    forks: bool = False
    """Whether trajectories part at every step, and not after the prompt alone."""
    repeats: int = 1

    def batch(self, vocabulary: int) -> list[CreditedTrajectory]:
        """One group of it."""
        if self.forks:
            return forked_batch(self.episodes, vocabulary)
        return filling_batch(self.episodes, vocabulary, self.episodes.distinct_tokens)


def _answers(prompt: int, repeats: int) -> Group:
    return Group(EpisodeShape(prompt=prompt, action=60, observation=0, steps=1, group=8), repeats=repeats)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured, and how often."""

    preset: str = "quickstart"
    """Whose model and settings the update has."""
    repeats: int = 3
    """Pairs of updates, ours and the bare one."""
    minibatch: EpisodeShape = field(default_factory=lambda: EpisodeShape(60, 26, 10, steps=3, group=4))
    """Of the groups of the update that is timed."""
    groups: int = 4
    main: str = "prompt 250"
    """Whose gain is `prefix_speedup`."""
    prefixes: Mapping[str, Group] = field(
        default_factory=lambda: {
            "prompt 250": _answers(250, repeats=3),
            "prompt 40": _answers(40, repeats=3),
            "prompt 1000": _answers(1000, repeats=1),
            "forked tree": Group(EpisodeShape(prompt=250, action=30, observation=20, steps=4, group=8), forks=True),
        }
    )
    row_tokens: int = 2048
    """Of the rows in which prefixes are compared: the longest group must fit."""
    memory_presets: tuple[str, ...] = ("tiny", "quickstart")


def bench_learner(sizes: Sizes) -> Mapping[str, Any]:
    """All four measurements; a table goes to standard error.

    Memory comes first: each probe is a process of its own, and this one holds nothing yet.
    """
    console = Console(stderr=True)
    memory = {
        preset: measure_memory(check_inputs(load_config(preset, ())))
        for preset in track(sizes.memory_presets, "memory", console=console, transient=True)
    }
    config = check_inputs(load_config(sizes.preset, ())).learner
    meet_alone()
    update, shares = measure_speed(config, sizes, console)
    prefix = measure_prefixes(config, sizes, console)
    console.print(_table(update, prefix, memory, shares))
    return {
        "update_ratio": update["median"],
        "prefix_speedup": prefix[sizes.main]["median"],
        "memory_error": max(one["error"] for one in memory.values()),
        "phase_shares": shares,
        "update": update,
        "prefix": prefix,
        "memory": memory,
    }


def measure_speed(
    config: LearnerConfig, sizes: Sizes, console: Console
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Our update as a ratio to the bare one on the same packed tokens, and the share of each phase in ours."""
    # One minibatch of the preset is one optimiser step here.
    config = config.model_copy(update={"minibatches": 1, "ranks": 1})
    rank, bare = LearnerRank(config, None, 0, 1), BareUpdate(config)
    shape = sizes.minibatch
    batch = filling_batch(shape, bare.vocabulary, sizes.groups * shape.distinct_tokens)
    [rows] = pack(items_to_train(batch, tokens_to_keep(config, None)), config.pack_tokens, 1)
    prepared = [BareRow.of(row) for row in rows]
    reports: list[UpdateReport] = []

    def ours() -> float:
        reports.append(rank.update(batch))
        return reports[-1].seconds

    # Once without the clock: the first step makes the moments.
    rank.update(batch)
    bare.update(prepared)
    pairs = in_pairs(ours, lambda: bare.update(prepared), sizes.repeats, console, "update")
    phases = {phase.value: sum(one.phase_seconds[phase] for one in reports) for phase in reports[0].phase_seconds}
    total = sum(one.seconds for one in reports)
    phases["other"] = total - sum(phases.values())
    found = spread([theirs / mine for mine, theirs in pairs])
    found["tokens_per_second"] = reports[0].computed_tokens / statistics.median(mine for mine, _ in pairs)
    return found, {name: round(seconds / total, 4) for name, seconds in phases.items()}


def measure_prefixes(config: LearnerConfig, sizes: Sizes, console: Console) -> dict[str, dict[str, float]]:
    """How much faster an update of each group is with prefixes shared, beside the bound by the number of tokens."""
    config = config.model_copy(update={"minibatches": 1, "ranks": 1, "pack_tokens": sizes.row_tokens})
    rank, vocabulary = LearnerRank(config, None, 0, 1), _vocabulary(config)
    # The first update of a rank makes the optimiser's moments.
    rank.update(sizes.prefixes[sizes.main].batch(vocabulary))
    return {
        name: _compare_layouts(rank, group.batch(vocabulary), group.repeats, console, name)
        for name, group in sizes.prefixes.items()
    }


def _compare_layouts(
    rank: LearnerRank, batch: Sequence[CreditedTrajectory], repeats: int, console: Console, what: str
) -> dict[str, float]:
    computed: dict[Layout, int] = {}

    def seconds(layout: Layout) -> float:
        rank.lay_out(layout)
        report = rank.update(batch)
        computed[layout] = report.computed_tokens
        return report.seconds

    pairs = in_pairs(lambda: seconds(Layout.SHARED), lambda: seconds(Layout.APART), repeats, console, what)
    bound = computed[Layout.APART] / computed[Layout.SHARED]
    return {**spread([apart / shared for shared, apart in pairs]), "bound": round(bound, 3)}


def measure_memory(config: RunConfig) -> dict[str, float]:
    """Planned and measured bytes of an update of a preset, and their relative difference."""
    longest = config.rollout.sampling.max_turn_tokens, config.rollout.episode.observation_tokens
    episodes = EpisodeShape(60, *longest, steps=3, group=config.task.group_size)
    measured = measure_update(config.learner, episodes, _PROBE_SECONDS)
    directory = find_model(config.learner.model_path)
    assert directory is not None, "the caller checked the inputs"
    items = update_bytes(model_shape(directory), config.learner, None, measured.row_tokens, measured.row_predictions)
    planned = sum(items.values())
    return {
        "planned": planned,
        "measured": measured.update,
        "error": round(abs(planned - measured.update) / measured.update, 4),
        "row_tokens": measured.row_tokens,
    }


def in_pairs(
    first: Callable[[], float], second: Callable[[], float], repeats: int, console: Console, what: str
) -> list[tuple[float, float]]:
    """Seconds of each, measured in turn; every other pair in the other order."""
    pairs: list[tuple[float, float]] = []
    for i in track(range(repeats), what, console=console, transient=True):
        if i % 2:
            later = second()
            pairs.append((first(), later))
        else:
            pairs.append((first(), second()))
    return pairs


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """The median of the ratios, and their extremes."""
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "pairs": len(ratios),
    }


@dataclass(frozen=True, slots=True)
class BareRow:
    """A packed row as a plain model takes it. L tokens, M predictions."""

    token_ids: Tensor
    """[1, L]"""
    position_ids: Tensor
    """[1, L]"""
    mask: Tensor
    """[1, 1, L, L], true where a token sees another."""
    predict_at: Tensor
    """[M]"""
    target: Tensor
    """[M]"""
    weight: Tensor
    """[M] sum of the advantages of the action tokens that a prediction stands for."""

    @classmethod
    def of(cls, row: PackedRow) -> BareRow:
        """From the rows of the learner."""
        weight = torch.zeros(len(row.prediction_row)).index_add_(0, row.action_prediction, row.advantages)
        at = row.predict_at[row.prediction_row]
        return cls(row.token_ids, row.position_ids, tree_mask(row)[None, None], at, row.prediction_target, weight)


def tree_mask(row: PackedRow) -> Tensor:
    """[L, L] bool: a token sees its segment's ancestors and, causally, its own segment."""
    mask = torch.zeros(row.token_count, row.token_count, dtype=torch.bool)
    for segment in row.segments:
        here = slice(segment.start, segment.end)
        mask[here, here] = torch.ones(segment.end - segment.start, segment.end - segment.start).tril().bool()
        for ancestor in segment.ancestors:
            mask[here, row.segments[ancestor].start : row.segments[ancestor].end] = True
    return mask


class BareUpdate:
    """Forward, backward and AdamW in plain PyTorch."""

    def __init__(self, config: LearnerConfig) -> None:
        model: PreTrainedModel = load_model(config.model_path, TORCH_DTYPES[config.dtype]).train()
        self._model: Any = model
        chosen = config.optimiser
        self._optimiser = torch.optim.AdamW(
            model.parameters(), chosen.lr, chosen.betas, chosen.eps, chosen.weight_decay, fused=True
        )
        self.vocabulary: int = model.config.vocab_size

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Under the names of the model's directory."""
        return self._model.named_parameters()

    def update(self, rows: Sequence[BareRow]) -> float:
        """One step on all rows; gives its seconds."""
        began = monotonic()
        for row in rows:
            logits = self._model(
                input_ids=row.token_ids,
                position_ids=row.position_ids,
                attention_mask=row.mask,
                logits_to_keep=row.predict_at,
                use_cache=False,
            ).logits[0]
            (row.weight * F.cross_entropy(logits.float(), row.target, reduction="none")).sum().backward()
        self._optimiser.step()
        self._optimiser.zero_grad()
        return monotonic() - began


def _vocabulary(config: LearnerConfig) -> int:
    directory = find_model(config.model_path)
    assert directory is not None, "the caller checked the inputs"
    return model_shape(directory).vocabulary


def _table(
    update: Mapping[str, float],
    prefix: Mapping[str, Mapping[str, float]],
    memory: Mapping[str, Mapping[str, float]],
    shares: Mapping[str, float],
) -> Table:
    table = Table("what", "measured", "spread", "beside", title="The learner")
    told = f"[{update['low']:.2f}, {update['high']:.2f}]"
    table.add_row("update, ours / bare", f"{update['median']:.2f}", told, f"{update['tokens_per_second']:.0f} tokens/s")
    for name, one in prefix.items():
        told = f"[{one['low']:.2f}, {one['high']:.2f}]"
        table.add_row(f"shared / apart, {name}", f"{one['median']:.2f}", told, f"bound {one['bound']:.2f}")
    for name, one in memory.items():
        table.add_row(f"memory, {name}", f"{one['measured'] / 2**20:.0f} MiB", "", f"plan {one['planned'] / 2**20:.0f}")
    for name, share in shares.items():
        table.add_row(f"time in {name}", f"{share:.1%}", "", "")
    return table

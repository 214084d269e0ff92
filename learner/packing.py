"""Lay trajectories out as rows without padding, each token computed once.

Owns `PackItem`, `PackedRow` and the way from credited trajectories, plain trajectories and demonstrations to rows.
Knows nothing of models.

A row is a forest of token sequences: sequences that begin alike share the segment they have in common, be it the chat
header, the prompt of their group or the same first call and observation. In a causal model the hidden state of a token
depends on nothing but the tokens before it, so the sharing is exact. Each segment attends to its ancestors and,
causally, to itself; position ids count along the path.

```
[system + task ───────┬─ call a + observation ─┬─ call b …    flat order: parents before children, depth first
                      └─ call c …              └─ answer …
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from actors.trajectory import Trajectory
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.credited import TokenCredits
from learner.forest import Forest, Ints, Layout, Segment, common_prefix

IDLE = -1
"""Index of an item that asks for nothing."""


class Keep(Enum):
    """Which tokens of a credited trajectory are computed."""

    CREDITED = "credited"
    """Up to the last token with a non-zero advantage: all that the policy loss alone can see."""
    ALL = "all"
    """Every token with credit: a KL term or a value loss has a gradient where the advantage is zero."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One token sequence to imitate."""

    token_ids: tuple[int, ...]
    action_mask: tuple[bool, ...]
    """True on the tokens to learn, the end-of-turn token included."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.action_mask) or not any(self.action_mask[1:]):
            raise ValueError(
                f"demonstration: {len(self.token_ids)} tokens, {len(self.action_mask)} mask entries of which "
                f"{sum(self.action_mask)} true; expected one per token and at least one true after the first"
            )


@dataclass(frozen=True, slots=True)
class PackItem:
    """One sequence to lay out, and what is asked of its tokens. All indices count from the start of the sequence."""

    index: int
    """Position in the batch; results are returned under it."""
    token_ids: tuple[int, ...]
    action_at: tuple[int, ...]
    """Indices of the tokens whose log-probability is wanted; never 0."""
    behaviour: tuple[float, ...]
    """Log-probability of each, in nats, when it was sampled."""
    advantages: tuple[float, ...]
    """Of each; an item without credit holds zeros."""
    action_step: tuple[int, ...]
    """Index of the step that each is of."""
    step_tokens: tuple[int, ...]
    """How many action tokens that step has."""
    trajectory_tokens: int
    """Action tokens with credit of the whole trajectory, those left out here included."""
    value_at: tuple[int, ...]
    """Indices of the last token of each state: s_t, or all that comes before an action token."""
    value_targets: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One micro-batch. L tokens, P predicting positions, M distinct predictions, N action tokens, S states."""

    token_ids: Tensor
    """[1, L] int64."""
    position_ids: Tensor
    """[1, L] int64."""
    segments: tuple[Segment, ...]
    predict_at: Tensor
    """[P] int64, ascending: positions whose hidden state predicts an action token."""
    prediction_row: Tensor
    """[M] int64, ascending: index into `predict_at`."""
    prediction_target: Tensor
    """[M] int64: the predicted token id."""
    action_prediction: Tensor
    """[N] int64: index into the predictions; trajectories that share a token share its prediction."""
    action_item: Tensor
    """[N] int64: `PackItem.index` of each action token."""
    action_step: Tensor
    """[N] int64: the same number for the action tokens of one step, another for every other step of the row."""
    step_tokens: Tensor
    """[N] float32: `PackItem.step_tokens`."""
    trajectory_tokens: Tensor
    """[N] float32: `PackItem.trajectory_tokens`."""
    behaviour: Tensor
    """[N] float32, nats."""
    advantages: Tensor
    """[N] float32."""
    value_at: Tensor
    """[S] int64."""
    value_item: Tensor
    """[S] int64: `PackItem.index` of each state."""
    value_targets: Tensor
    """[S] float32."""

    @property
    def token_count(self) -> int:
        return self.token_ids.shape[1]

    def to(self, device: torch.device) -> PackedRow:
        """The row with all its tensors there."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: one.to(device) for name, one in named.items() if isinstance(one, Tensor)})


def items_to_train(credited: Sequence[CreditedTrajectory], keep: Keep) -> list[PackItem]:
    """The action tokens and states that carry credit; a trajectory of which nothing is kept has no item."""
    items = [_credited_item(index, one) for index, one in enumerate(credited)]
    if keep is Keep.ALL:
        return [item for item in items if item.action_at or item.value_at]
    return [cut for item in items if (cut := _cut_to_credit(item)).action_at]


def items_to_read(trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> list[PackItem]:
    """Every action token and every state, without credit: for values and for reference log-probabilities.

    A trajectory without a step has neither, and no item.
    """
    items = [_trajectory_item(index, one) for index, one in enumerate(trajectories) if one.steps]
    return items if at is StateAt.STEPS else [_valued_at_tokens(item) for item in items]


def items_to_imitate(demonstrations: Sequence[Demonstration]) -> list[PackItem]:
    """The masked tokens of each demonstration, each with an advantage of one."""
    items: list[PackItem] = []
    for index, one in enumerate(demonstrations):
        at = tuple(i for i, is_action in enumerate(one.action_mask) if is_action and i > 0)
        end = at[-1] + 1
        n = len(at)
        whole = (0,) * n, (n,) * n, n
        items.append(PackItem(index, one.token_ids[:end], at, (0.0,) * n, (1.0,) * n, *whole, (), ()))
    return items


def pack(
    items: Sequence[PackItem], pack_tokens: int, ranks: int, layout: Layout = Layout.SHARED
) -> list[list[PackedRow]]:
    """Rows for each rank: as many for every rank, of about equal size, at most `pack_tokens` tokens each.

    A single longer sequence has a row to itself. Where the sequences are too few to give every rank the same number of
    rows within the limit, rows exceed it. A rank for which there is no sequence at all gets one idle token, since ranks
    must step together.
    """
    chunks = _balanced(items, pack_tokens, ranks, layout)
    return [[_lay_out(chunk, layout) for chunk in chunks[rank::ranks]] for rank in range(ranks)]


def pack_share(
    items: Sequence[PackItem], pack_tokens: int, rank: int, ranks: int, layout: Layout = Layout.SHARED
) -> list[PackedRow]:
    """What `pack` gives to one rank; the rows of the others are not laid out."""
    return [_lay_out(chunk, layout) for chunk in _balanced(items, pack_tokens, ranks, layout)[rank::ranks]]


def _balanced(items: Sequence[PackItem], pack_tokens: int, ranks: int, layout: Layout) -> list[list[PackItem]]:
    if not items:
        raise ValueError("pack: 0 sequences; expected at least one; a batch without credit is not packed")
    empty = sorted(item.index for item in items if not item.token_ids)
    if empty:
        raise ValueError(f"pack: sequences {empty} have 0 tokens; expected at least one each; leave them out")
    idle = PackItem(IDLE, items[0].token_ids[:1], (), (), (), (), (), 0, (), ())
    ordered = sorted([*items, *[idle] * (ranks - len(items))], key=lambda item: item.token_ids)
    return _chunk(ordered, pack_tokens, ranks, layout)


def _trajectory_item(index: int, trajectory: Trajectory) -> PackItem:
    action_at: list[int] = []
    value_at: list[int] = []
    position = 0
    for step in trajectory.steps:
        position += len(step.prompt_ids)
        value_at.append(position - 1)
        action_at.extend(range(position, position + len(step.action_ids)))
        position += len(step.action_ids)
    if value_at and value_at[0] < 0:
        raise ValueError(f"trajectory {trajectory.id!r}: 0 prompt tokens at the first step; expected at least one")
    behaviour = tuple(number for step in trajectory.steps for number in step.logprobs)
    lengths = [len(step.action_ids) for step in trajectory.steps]
    return PackItem(
        index=index,
        token_ids=tuple(trajectory.token_ids()),
        action_at=tuple(action_at),
        behaviour=behaviour,
        advantages=(0.0,) * len(action_at),
        action_step=tuple(t for t, n in enumerate(lengths) for _ in range(n)),
        step_tokens=tuple(n for n in lengths for _ in range(n)),
        trajectory_tokens=len(action_at),
        value_at=tuple(value_at),
        value_targets=(0.0,) * len(value_at),
    )


def _valued_at_tokens(item: PackItem) -> PackItem:
    return replace(item, value_at=tuple(i - 1 for i in item.action_at), value_targets=(0.0,) * len(item.action_at))


def _credited_item(index: int, credited: CreditedTrajectory) -> PackItem:
    trajectory = credited.scored.trajectory
    whole, targets = _trajectory_item(index, trajectory), credited.returns
    lengths = [len(step.action_ids) for step in trajectory.steps]
    if credited.tokens is None:
        spread = [a for a, n in zip(credited.advantages, lengths, strict=True) for _ in range(n)]
    else:
        whole = _valued_at_tokens(whole)
        spread = _flat(credited.tokens.advantages, lengths)
        targets = _flat(credited.tokens.returns, lengths)
    kept = [j for j, advantage in enumerate(spread) if advantage is not None]
    states = [(i, g) for i, g in zip(whole.value_at, targets, strict=True) if g is not None]
    credit = replace(
        whole,
        advantages=tuple(0.0 if advantage is None else advantage for advantage in spread),
        trajectory_tokens=len(kept),
        value_at=tuple(i for i, _ in states),
        value_targets=tuple(g for _, g in states),
    )
    return _only(credit, kept)


def _flat(credits: TokenCredits, lengths: Sequence[int]) -> list[float | None]:
    """One number for each action token."""
    flat: list[float | None] = []
    for numbers, length in zip(credits, lengths, strict=True):
        flat.extend([None] * length if numbers is None else numbers)
    return flat


def _cut_to_credit(item: PackItem) -> PackItem:
    kept = [j for j, advantage in enumerate(item.advantages) if advantage != 0.0]
    return _only(replace(item, value_at=(), value_targets=()), kept)


def _only(item: PackItem, kept: Sequence[int]) -> PackItem:
    """The item with these of its action tokens, up to the last of them and of its states."""
    end = max([item.action_at[j] + 1 for j in kept[-1:]] + [at + 1 for at in item.value_at[-1:]], default=0)
    return replace(
        item,
        token_ids=item.token_ids[:end],
        action_at=tuple(item.action_at[j] for j in kept),
        behaviour=tuple(item.behaviour[j] for j in kept),
        advantages=tuple(item.advantages[j] for j in kept),
        action_step=tuple(item.action_step[j] for j in kept),
        step_tokens=tuple(item.step_tokens[j] for j in kept),
    )


def _chunk(ordered: Sequence[PackItem], pack_tokens: int, ranks: int, layout: Layout) -> list[list[PackItem]]:
    """Cut sorted items into a multiple of `ranks` runs whose largest is as small as can be."""
    arrays = [np.asarray(item.token_ids, dtype=np.int64) for item in ordered]
    shared = [0, *(common_prefix(a, b) if layout is Layout.SHARED else 0 for a, b in pairwise(arrays))]
    sizes = [len(array) for array in arrays]
    needed = len(_cut(sizes, shared, pack_tokens))
    count = -(-needed // ranks) * ranks
    if count > len(ordered):
        count = len(ordered) // ranks * ranks
    low, high = 1, sum(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut(sizes, shared, middle)) <= count else (middle + 1, high)
    bounds = _split_to(count, _cut(sizes, shared, low))
    return [list(ordered[start:end]) for start, end in bounds]


def _cut(sizes: Sequence[int], shared: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Greedy runs of at most `limit` distinct tokens; a sequence adds what it does not share with the one before."""
    bounds: list[tuple[int, int]] = []
    start, total = 0, 0
    for i, (size, common) in enumerate(zip(sizes, shared, strict=True)):
        added = size if i == start else size - common
        if i > start and total + added > limit:
            bounds.append((start, i))
            start, total, added = i, 0, size
        total += added
    return [*bounds, (start, len(sizes))]


def _split_to(count: int, bounds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Halve the run with most sequences until there are `count`."""
    while len(bounds) < count:
        largest = max(range(len(bounds)), key=lambda i: bounds[i][1] - bounds[i][0])
        start, end = bounds[largest]
        bounds[largest : largest + 1] = [(start, (start + end) // 2), ((start + end) // 2, end)]
    return bounds


def _lay_out(items: Sequence[PackItem], layout: Layout) -> PackedRow:
    forest = Forest([np.asarray(item.token_ids, dtype=np.int64) for item in items], layout)
    paths = list(zip(items, forest.flat, strict=True))
    at = _concatenate([flat[np.asarray(item.action_at, dtype=np.int64) - 1] for item, flat in paths])
    targets = _concatenate([np.asarray(item.token_ids, dtype=np.int64)[list(item.action_at)] for item, _ in paths])
    predictions, action_prediction = np.unique(np.stack([at, targets]), axis=1, return_inverse=True)
    predict_at, prediction_row = np.unique(predictions[0], return_inverse=True)
    return PackedRow(
        token_ids=_tensor(_concatenate(forest.tokens)).unsqueeze(0),
        position_ids=_tensor(_concatenate(forest.positions)).unsqueeze(0),
        segments=tuple(forest.segments),
        predict_at=_tensor(predict_at),
        prediction_row=_tensor(prediction_row.reshape(-1)),
        prediction_target=_tensor(predictions[1].copy()),
        action_prediction=_tensor(action_prediction.reshape(-1)),
        action_item=_repeat([item.index for item in items], [len(item.action_at) for item in items]),
        action_step=_number_steps(items),
        step_tokens=_floats(number for item in items for number in item.step_tokens),
        trajectory_tokens=_floats(item.trajectory_tokens for item in items for _ in item.action_at),
        behaviour=_floats(number for item in items for number in item.behaviour),
        advantages=_floats(number for item in items for number in item.advantages),
        value_at=_tensor(_concatenate([flat[list(item.value_at)] for item, flat in paths])),
        value_item=_repeat([item.index for item in items], [len(item.value_at) for item in items]),
        value_targets=_floats(number for item in items for number in item.value_targets),
    )


def _number_steps(items: Sequence[PackItem]) -> Tensor:
    steps = [(position, step) for position, item in enumerate(items) for step in item.action_step]
    numbers = {step: number for number, step in enumerate(dict.fromkeys(steps))}
    return torch.tensor([numbers[step] for step in steps], dtype=torch.int64)


def _floats(numbers: Iterable[float]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float32)


def _tensor(array: Ints) -> Tensor:
    return torch.as_tensor(array, dtype=torch.int64)


def _concatenate(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([array.astype(np.int64) for array in arrays])


def _repeat(indices: Sequence[int], counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.tensor(indices, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64))

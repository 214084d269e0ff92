"""Attention over a packed row: every token sees the tokens before it on its own path through the forest, and no other.

Owns `attend_tree`, which Transformers calls in every layer under the name `ATTENTION`, and the two plans that it
follows: a call of `scaled_dot_product_attention` for each segment, and one call of FlexAttention for the whole row.
Consumes the row's segments; both plans give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from learner.config import AttentionConfig, SegmentAttention
from learner.errors import UnsupportedDevice
from learner.forest import Segment

ATTENTION = "steptool_tree"
"""Name under which the attention is registered with Transformers."""


class TreePlan(Protocol):
    """What every layer of one row needs to know of its forest; made once per row."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """`query` [1, heads, L, d]; `key` and `value` [1, kv_heads, L, d]. Gives [1, heads, L, d]."""
        ...


MakePlan = Callable[[Sequence[Segment], Tensor], TreePlan]
"""(segments of a row, a tensor of the model for device and type) → plan."""


def choose_plan(config: AttentionConfig, device: torch.device) -> MakePlan:
    """How the rows of this run are attended to on `device`.

    Raises:
        UnsupportedDevice: PyTorch has no backward pass for it there.
    """
    if isinstance(config, SegmentAttention):
        return SegmentPlan.of
    if device.type == "cpu":
        raise UnsupportedDevice(
            "learner.attention.kind is flex and this rank computes on a CPU, expected a GPU: there PyTorch has no "
            "backward pass of FlexAttention; set learner.attention.kind to segments"
        )
    return BlockPlan.of


def attend_tree(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: TreePlan | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As Transformers wants it: [1, L, heads, d]. Without a plan it is plain causal attention; there is no dropout."""
    plan = plan or SegmentPlan.causal(query.shape[2])
    return plan.attend(query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend_tree)


def attention_dtype(x: Tensor) -> torch.dtype:
    """Float32 on a CPU, whose bfloat16 flash kernel is slower: 63 ms against 23 ms, both passes, at 900 tokens."""
    return torch.float32 if x.device.type == "cpu" else x.dtype


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """A call for each segment, with the keys of its ancestors and its own. Cost is per path, not per row."""

    lengths: list[int]
    ancestors: tuple[tuple[int, ...], ...]
    masks: tuple[Tensor | None, ...]
    """[n, past + n] additive, or None where there is no past and a causal flag will do."""

    @classmethod
    def causal(cls, length: int) -> SegmentPlan:
        return cls([length], ((),), (None,))

    @classmethod
    def of(cls, segments: Sequence[Segment], like: Tensor) -> SegmentPlan:
        """`like`: a tensor of the model, for the masks' device and type."""
        lengths = [segment.end - segment.start for segment in segments]
        masks = [_mask(sum(lengths[j] for j in s.ancestors), n, like) for s, n in zip(segments, lengths, strict=True)]
        return cls(lengths, tuple(segment.ancestors for segment in segments), tuple(masks))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        grouped = query.shape[1] != key.shape[1]
        dtype = query.dtype
        query, key, value = (x.to(attention_dtype(x)) for x in (query, key, value))
        # `split` and not slices: the backward of one split is one concatenation, that of a slice is a zeroed full row.
        queries, keys, values = (x.split(self.lengths, dim=2) for x in (query, key, value))
        outputs: list[Tensor] = []
        for i, (ancestors, mask) in enumerate(zip(self.ancestors, self.masks, strict=True)):
            k = torch.cat([keys[j] for j in (*ancestors, i)], dim=2) if ancestors else keys[i]
            v = torch.cat([values[j] for j in (*ancestors, i)], dim=2) if ancestors else values[i]
            outputs.append(
                F.scaled_dot_product_attention(
                    queries[i], k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
                )
            )
        return torch.cat(outputs, dim=2).to(dtype)


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One call of FlexAttention (Dong et al. 2024, 2412.05496) for the whole row; blocks of which no token sees any of
    another are not computed."""

    mask: BlockMask

    @classmethod
    def of(cls, segments: Sequence[Segment], like: Tensor) -> BlockPlan:
        """`like`: a tensor of the model, for the mask's device."""
        seen_until = torch.tensor(_seen_until(segments), device=like.device)

        def sees(_batch: Tensor, _head: Tensor, at: Tensor, past: Tensor) -> Tensor:
            return (past <= at) & (at < seen_until[past])

        length = len(seen_until)
        return cls(create_block_mask(sees, None, None, length, length, device=like.device))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        grouped = query.shape[1] != key.shape[1]
        return _flex()(query, key, value, block_mask=self.mask, scale=scaling, enable_gqa=grouped)


@cache
def _flex() -> Callable[..., Tensor]:
    """Compiled at the first call, once for all rows; uncompiled it would hold every score of the row."""
    return torch.compile(flex_attention, dynamic=True)


def _seen_until(segments: Sequence[Segment]) -> list[int]:
    """For each token, the end of the part of the row that may see it.

    A forest lies in the row in the order in which one walks it, so that whatever descends from a segment follows it
    without a gap, up to its last descendant.
    """
    last = [segment.end for segment in segments]
    for segment in segments:
        for ancestor in segment.ancestors:
            last[ancestor] = max(last[ancestor], segment.end)
    return [end for segment, end in zip(segments, last, strict=True) for _ in range(segment.start, segment.end)]


def _mask(past: int, length: int, like: Tensor) -> Tensor | None:
    if past == 0:
        return None
    shape = (length, past + length)
    return torch.full(shape, float("-inf"), dtype=attention_dtype(like), device=like.device).triu(past + 1)

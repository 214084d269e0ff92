"""Whether a way to attend to rows gives on this device, with this model's heads, what a call for each segment gives.

Owns `checked_plan`. A kernel is compiled for the device that it runs on, and a wrong one shows in no error: the policy
would learn from numbers that nobody sampled. (Inductor's FlexAttention for CPUs in PyTorch 2.13 is off by more than one
at a row of 40 tokens, and right at 44.) Consumes the learner's settings and a model, produces a plan that was compared.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.config import LearnerConfig, SegmentAttention
from learner.errors import UnsupportedDevice
from learner.forest import Segment
from learner.tree_attention import MakePlan, SegmentPlan, choose_plan

_UNITS = (3, 41)
"""Rows of 39 and of 533 tokens: within one block of a kernel, and over several."""
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Of the difference to the segments, as a share of their length. A token that sees one too many is far above."""


def checked_plan(config: LearnerConfig, model: PreTrainedModel, device: torch.device) -> MakePlan:
    """The plan of the settings.

    Raises:
        UnsupportedDevice: outputs or gradients differ from those of the segments, or there are none.
    """
    make_plan = choose_plan(config.attention, device)
    if not isinstance(config.attention, SegmentAttention):
        expect_the_same(make_plan, model, device)
    return make_plan


def expect_the_same(make_plan: MakePlan, model: PreTrainedModel, device: torch.device) -> None:
    """Compare a plan with the segments, forward and backward, on rows with prompts, forks and a stranger."""
    for unit in _UNITS:
        segments = _probe_forest(unit)
        inputs = _random_inputs(model, segments[-1].end, device)
        found, wanted = (_attended(plan, segments, inputs) for plan in (make_plan, SegmentPlan.of))
        for what, mine, theirs in zip(("output", "query", "key", "value"), found, wanted, strict=True):
            error = float((mine.float() - theirs.float()).norm() / theirs.float().norm())
            if not error <= _TOLERANCES[model.dtype]:
                raise UnsupportedDevice(
                    f"learner.attention on {device}: at a row of {segments[-1].end} tokens the "
                    f"{'output' if what == 'output' else f'gradient of the {what}'} is {error:.1e} of its length away "
                    f"from that of attention by segments, expected at most {_TOLERANCES[model.dtype]:g}: the kernel is "
                    "wrong here; set learner.attention.kind to segments"
                )


def _probe_forest(unit: int) -> list[Segment]:
    """A prompt, a call with an answer of its own, another call, and a sequence that shares nothing."""
    ends = [unit * end for end in (5, 8, 9, 12, 13)]
    ancestors: list[tuple[int, ...]] = [(), (0,), (0, 1), (0,), ()]
    return [Segment(start, end, past) for start, end, past in zip([0, *ends], ends, ancestors, strict=False)]


def _random_inputs(model: PreTrainedModel, length: int, device: torch.device) -> list[Tensor]:
    """Query, key, value and a slope of the output."""
    shape = model.config
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    heads = (shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads, shape.num_attention_heads)
    rng = torch.Generator().manual_seed(length)
    return [torch.randn(1, n, length, width, generator=rng).to(device, model.dtype) for n in heads]


def _attended(make_plan: MakePlan, segments: list[Segment], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The output, and the gradients of query, key and value."""
    *read, slope = inputs
    leaves = [one.detach().requires_grad_() for one in read]
    output = make_plan(segments, slope).attend(leaves[0], leaves[1], leaves[2], None)
    return output.detach(), *torch.autograd.grad(output, leaves, slope)

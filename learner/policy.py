"""The policy with its critic, run over packed rows.

Owns `PolicyWithCritic` and the head that turns hidden states into log-probabilities of action tokens only. Consumes
`PackedRow`, produces `RowOutputs`. Any Transformers causal LM whose logits are a plain
linear map of the last hidden state and that reads its attention function from `AttentionInterface` works: the Llama and
Qwen families do.
"""

from __future__ import annotations

import copy
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from learner.errors import UnsupportedModel
from learner.packing import PackedRow
from learner.tree_attention import ATTENTION, MakePlan, SegmentPlan, TreePlan

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

_HEAD_ROWS = 32
"""Predicting positions whose logits are held in float32 at one time: 6 MB at a vocabulary of 49152 stay in the cache.
At 256 the whole head, three matrix products included, takes a fifth longer."""


Backbone = Literal["detached", "shared", "separate"]
"""What the value head reads: the policy's hidden states with or without a way back, or those of a body of its own."""


class Wanted(Enum):
    """What is asked of a row."""

    ALL = "all"
    PREDICTIONS = "predictions"
    """Log-probabilities and entropies."""
    VALUES = "values"


class RowOutputs(NamedTuple):
    """What the policy says of one row; float32 but for states. A tuple, since DeepSpeed hooks the tensors in one."""

    logprobs: Tensor
    """[N] nats, of each action token."""
    entropies: Tensor
    """[N] nats, of the distribution that each action token was predicted from."""
    values: Tensor
    """[S] V(s_t) in units of reward."""
    states: Tensor
    """[S, d] the hidden states that V was read from, without gradient; in the model's dtype."""


class _ActionLogProbs(torch.autograd.Function):
    """log softmax(h·Wᵀ) at chosen (position, token) pairs and the entropy at each position, without ever holding all
    logits in float32.

    Forward keeps the logits in the model's dtype, one log-sum-exp and one entropy per position; backward needs nothing
    else, for ∂ log p_y / ∂ z = 1[y] − p and ∂ H / ∂ z = −p·(log p + H).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, row: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(hidden, weight)
        normaliser, entropies = _normalise(logits)
        ctx.save_for_backward(hidden, weight, row, target, logits, normaliser, entropies)
        # A loss without an entropy term pays for no entropy gradient: None comes back instead of zeros.
        ctx.set_materialize_grads(False)
        return logits[row, target].float() - normaliser[row], entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, row, target, logits, normaliser, entropies = ctx.saved_tensors
        by_token = normaliser.new_zeros(len(row)) if grads[0] is None else grads[0]
        fall = torch.zeros_like(normaliser).index_add_(0, row, by_token).neg_()
        entropy_fall = None if grads[1] is None else grads[1].neg()
        grad_logits = torch.empty_like(logits)
        for start in range(0, len(logits), _HEAD_ROWS):
            here = slice(start, start + _HEAD_ROWS)
            log_p = logits[here].float() - normaliser[here, None]
            by_entropy = None if entropy_fall is None else entropy_fall[here, None]
            grad_logits[here] = _spread(log_p, fall[here, None], by_entropy, entropies[here, None])
        # The target's entry is written in one piece: g_y − p_y·Σg in bfloat16 twice would lose the small difference.
        log_p = logits[row, target].float() - normaliser[row]
        by_entropy = None if entropy_fall is None else entropy_fall[row]
        grad_logits[row, target] = (by_token + _spread(log_p, fall[row], by_entropy, entropies[row])).to(logits.dtype)
        grad_weight = grad_logits.T @ hidden if ctx.needs_input_grad[1] else None
        return grad_logits @ weight, grad_weight, None, None


def _spread(log_p: Tensor, fall: Tensor, by_entropy: Tensor | None, entropies: Tensor) -> Tensor:
    """p·(−Σg − g_H·(log p + H)), which every logit of a position gets; in place of `log_p`.

    `fall` is −Σg over the position's targets, `by_entropy` −g_H.
    """
    slope = fall if by_entropy is None else fall + by_entropy * (log_p + entropies)
    return log_p.exp_().mul_(slope)


def _normalise(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and entropy of each row of logits, in float32."""
    normaliser = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    entropies = torch.empty_like(normaliser)
    for start in range(0, len(logits), _HEAD_ROWS):
        here = slice(start, start + _HEAD_ROWS)
        chunk = logits[here].float()
        normaliser[here] = torch.logsumexp(chunk, dim=-1)
        log_p = chunk - normaliser[here, None]
        entropies[here] = -(log_p.exp() * log_p).sum(dim=-1)
    return normaliser, entropies


class ActionHead(nn.Module):
    """The model's output projection, applied only where an action token is predicted.

    It holds the projection's own weight, so that a partitioned parameter (ZeRO 3) is gathered around this module's
    forward and backward.
    """

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.weight = projection.weight

    def forward(self, hidden: Tensor, row: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return _ActionLogProbs.apply(hidden, self.weight, row, target)


class PolicyWithCritic(nn.Module):
    """A causal LM, its action head, a linear value head, and where the critic is separate the layers that it reads."""

    def __init__(
        self, model: PreTrainedModel, backbone: Backbone = "detached", make_plan: MakePlan = SegmentPlan.of
    ) -> None:
        super().__init__()
        head = _plain_head(model)
        _expect_full_attention(model)
        model.set_attn_implementation(ATTENTION)
        self.model = model
        self.action_head = ActionHead(head)
        self.critic_body = copy.deepcopy(model.base_model) if backbone == "separate" else None
        self.value_head = nn.Linear(model.config.hidden_size, 1, dtype=model.dtype)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._backbone: Backbone = backbone
        self._make_plan = make_plan

    def forward(self, row: PackedRow, wanted: Wanted = Wanted.ALL) -> RowOutputs:
        """Run one row. Log-probabilities are those of the plain softmax, at temperature 1.

        What is not wanted is left empty where that saves the pass through a body.
        """
        plan = self._make_plan(row.segments, self.action_head.weight)
        if self.critic_body is None:
            hidden = _run(self.model.base_model, row, plan)
            read = hidden.detach() if self._backbone == "detached" else hidden
            return RowOutputs(*self._predictions(hidden, row), *self._values(read, row))
        nothing = row.advantages.new_empty(0)
        logprobs, entropies, values, states = (nothing for _ in RowOutputs._fields)
        if wanted is not Wanted.VALUES:
            logprobs, entropies = self._predictions(_run(self.model.base_model, row, plan), row)
        if wanted is not Wanted.PREDICTIONS:
            values, states = self._values(_run(self.critic_body, row, plan), row)
        return RowOutputs(logprobs, entropies, values, states)

    def learn_from_values(self, backbone: Literal["detached", "shared"]) -> None:
        """Whether, from now on, the value loss reaches the model's layers or the read-out alone.

        Raises:
            ValueError: the critic has layers of its own, which the value loss always reaches.
        """
        if self.critic_body is not None:
            raise ValueError(f"critic: backbone {backbone!r} for one with layers of its own; expected none")
        self._backbone = backbone

    def _predictions(self, hidden: Tensor, row: PackedRow) -> tuple[Tensor, Tensor]:
        logprobs, entropies = self.action_head(hidden[row.predict_at], row.prediction_row, row.prediction_target)
        at = row.action_prediction
        return logprobs[at], entropies[row.prediction_row[at]]

    def _values(self, hidden: Tensor, row: PackedRow) -> tuple[Tensor, Tensor]:
        states = hidden[row.value_at]
        return self.value_head(states).squeeze(-1).float(), states.detach()


def _run(body: nn.Module, row: PackedRow, plan: TreePlan) -> Tensor:
    """[L, hidden] last hidden states."""
    outputs = body(input_ids=row.token_ids, position_ids=row.position_ids, use_cache=False, plan=plan)
    return outputs.last_hidden_state[0]


def load_model(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal LM from a directory in Hugging Face format, without dropout: ratios start at exactly one."""
    if not Path(path, "config.json").is_file():
        raise FileNotFoundError(f"model {path!r}: no config.json there; expected a directory in Hugging Face format")
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attention_dropout=0.0, local_files_only=True)


def recompute_activations(model: PreTrainedModel) -> None:
    """From now on each layer keeps its input alone for the backward pass, and runs again there (Chen et al. 2016,
    1604.06174).

    Raises:
        UnsupportedModel: its layers cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise UnsupportedModel(
            f"model {type(model).__name__}: its layers cannot be computed again in the backward pass; set "
            "learner.activations.kind to keep"
        )
    # The reentrant form would lose the gradient of a layer whose inputs need none, and ZeRO's hooks around it.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _plain_head(model: PreTrainedModel) -> nn.Linear:
    head, config = model.get_output_embeddings(), model.config
    odd = [name for name in ("final_logit_softcapping", "logits_scaling", "logit_scale") if getattr(config, name, None)]
    if not isinstance(head, nn.Linear) or head.bias is not None or odd:
        raise UnsupportedModel(
            f"model {type(model).__name__}: head {head} with {odd or 'no scaling'}; expected a linear map without bias "
            "or scaling, so that log-probabilities can be computed at action tokens alone; use a Llama or Qwen model"
        )
    return head


def _expect_full_attention(model: PreTrainedModel) -> None:
    windows = getattr(model.config, "layer_types", None) or []
    if any(kind != "full_attention" for kind in windows):
        raise UnsupportedModel(
            f"model {type(model).__name__}: layer types {sorted(set(windows))}; expected full attention in every layer"
        )

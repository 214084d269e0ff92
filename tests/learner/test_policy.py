"""Packed rows give what each trajectory gives alone in the plain model: outputs and gradients."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.attention_check import expect_the_same
from learner.config import FlexAttention, SegmentAttention
from learner.errors import UnsupportedDevice, UnsupportedModel
from learner.forest import Layout, Segment
from learner.packing import Demonstration, items_to_imitate, items_to_read, pack
from learner.policy import PolicyWithCritic, Wanted, load_model, recompute_activations
from learner.tree_attention import BlockPlan, MakePlan, SegmentPlan, TreePlan, choose_plan
from tests.learner.builders import scored, step

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
FAMILIES = [
    pytest.param(LlamaConfig(**SIZES, tie_word_embeddings=True), LlamaForCausalLM, id="llama-tied"),
    pytest.param(LlamaConfig(**SIZES, tie_word_embeddings=False), LlamaForCausalLM, id="llama-untied"),
    pytest.param(Qwen2Config(**SIZES, tie_word_embeddings=True), Qwen2ForCausalLM, id="qwen2"),
    pytest.param(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True), Qwen3ForCausalLM, id="qwen3"),
]


@pytest.fixture
def flex_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention uncompiled, where PyTorch can differentiate it on a CPU too, though it says that it cannot."""
    inside = importlib.import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(inside, "_validate_device", lambda *_: None)
    monkeypatch.setattr(inside, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr("learner.tree_attention._flex", lambda: inside.flex_attention)


def forest_of_demonstrations() -> list[Demonstration]:
    """Shared prompts, a shared first call, a prefix of another sequence, an exact duplicate and a stranger."""
    rng = random.Random(0)
    prompt = [rng.randrange(64) for _ in range(20)]
    sequences = [tuple(prompt + [rng.randrange(3) for _ in range(3)] + [9] * 12 + [k] * 9) for k in range(6)]
    sequences += [sequences[0][:30], sequences[1], tuple(rng.randrange(64) for _ in range(40))]
    return [Demonstration(ids, tuple(i >= 20 and i % 4 != 0 for i in range(len(ids)))) for ids in sequences]


@pytest.mark.parametrize("make_plan", [SegmentPlan.of, BlockPlan.of], ids=["segments", "flex"])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("pack_tokens", [60, 1000])
@pytest.mark.parametrize(("config", "family"), FAMILIES)
@pytest.mark.usefixtures("flex_with_gradients")
def test_packed_rows_equal_each_trajectory_alone(
    config: Any, family: Any, pack_tokens: int, layout: Layout, make_plan: MakePlan
) -> None:
    torch.manual_seed(0)
    packed, plain = family(config), family(config)
    plain.load_state_dict(packed.state_dict())
    items = items_to_imitate(forest_of_demonstrations())
    weights = {item.index: torch.randn(len(item.action_at)) for item in items}
    (rows,) = pack(items, pack_tokens, 1, layout)
    policy = PolicyWithCritic(packed, make_plan=make_plan)
    found: dict[int, torch.Tensor] = {}
    for row in rows:
        outputs = policy(row)
        order = list(dict.fromkeys(row.action_item.tolist()))
        (outputs.logprobs * torch.cat([weights[i] for i in order])).sum().backward()
        found.update({i: outputs.logprobs[row.action_item == i].detach() for i in order})
    for item in items:
        ids, at = torch.tensor([item.token_ids]), torch.tensor(item.action_at)
        expected = torch.log_softmax(plain(ids).logits[0], -1)[at - 1, ids[0, at]]
        (expected * weights[item.index]).sum().backward()
        torch.testing.assert_close(found[item.index], expected.detach(), atol=1e-5, rtol=0.0)
    for (name, mine), theirs in zip(packed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("flex_with_gradients")
def test_a_plan_that_gives_what_the_segments_give_passes_the_check_before_a_run() -> None:
    expect_the_same(BlockPlan.of, tiny(), torch.device("cpu"))


def test_a_kernel_that_lets_one_answer_see_another_is_found_before_a_run() -> None:
    def leaking(segments: Sequence[Segment], like: torch.Tensor) -> TreePlan:
        """The last sequence of the row, a stranger, sees the prompt."""
        return SegmentPlan.of([*segments[:-1], replace(segments[-1], ancestors=(0,))], like)

    with pytest.raises(UnsupportedDevice, match=r"at a row of 39 tokens the output is .* set learner\.attention\.kind"):
        expect_the_same(leaking, tiny(), torch.device("cpu"))


def test_a_kernel_that_is_wrong_backwards_alone_is_found_before_a_run() -> None:
    @dataclass
    class Deaf:
        plan: TreePlan

        def attend(self, query: Any, key: Any, value: Any, scaling: Any) -> Any:
            return self.plan.attend(query, key, value.detach() + 0.0 * value, scaling)

    with pytest.raises(UnsupportedDevice, match="gradient of the value"):
        expect_the_same(lambda *row: Deaf(SegmentPlan.of(*row)), tiny(), torch.device("cpu"))


def test_one_kernel_for_a_row_is_refused_on_a_cpu() -> None:
    with pytest.raises(UnsupportedDevice, match=r"set learner\.attention\.kind to segments"):
        choose_plan(FlexAttention(), torch.device("cpu"))
    assert choose_plan(FlexAttention(), torch.device("meta")) == BlockPlan.of
    assert choose_plan(SegmentAttention(), torch.device("cpu")) == SegmentPlan.of


def tiny(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes}))


@pytest.mark.parametrize("backbone", ["shared", "separate"])
def test_a_model_on_another_device_never_meets_a_tensor_on_the_cpu(backbone: Any) -> None:
    """Every machine has the device `meta`: it computes nothing, but refuses to mix devices as a GPU does."""
    elsewhere = torch.device("meta")
    one = scored([0.0, 0.0], steps=[step((1, 2, 3), (4, 5)), step((6, 7), (8,))]).trajectory
    rows = pack([*items_to_imitate(forest_of_demonstrations()), *items_to_read([one])], 1000, 1)[0]
    policy = PolicyWithCritic(tiny(), backbone).to(elsewhere)
    for row in rows:
        outputs = policy(row.to(elsewhere))
        assert {part.device for part in outputs} == {elsewhere}
        (outputs.logprobs.sum() + outputs.entropies.sum() + outputs.values.sum()).backward()
    assert any(len(row.segments) > 1 for row in rows)
    assert {p.grad.device for p in policy.parameters() if p.grad is not None} == {elsewhere}


def test_entropy_is_that_of_the_whole_distribution() -> None:
    model = tiny()
    (rows,) = pack(items_to_imitate([Demonstration((1, 2, 3), (False, True, True))]), 100, 1)
    log_p = torch.log_softmax(model(rows[0].token_ids).logits[0, :2], -1)
    entropies = PolicyWithCritic(model)(rows[0]).entropies
    torch.testing.assert_close(entropies, -(log_p.exp() * log_p).sum(-1))


@pytest.mark.parametrize("asks_logprobs", [True, False])
def test_the_entropy_has_the_gradient_that_plain_torch_gives(asks_logprobs: bool) -> None:
    """Sequences that share positions: one position has several targets, and its entropy counts for each of them."""
    packed, plain = tiny(), tiny()
    items = items_to_imitate(forest_of_demonstrations())
    (rows,) = pack(items, 60, 1)
    policy, rng = PolicyWithCritic(packed), torch.Generator().manual_seed(1)
    by_item = {item.index: torch.randn(2, len(item.action_at), generator=rng) for item in items}
    for row in rows:
        outputs = policy(row)
        order = list(dict.fromkeys(row.action_item.tolist()))
        weights = torch.cat([by_item[i] for i in order], dim=1)
        total = (outputs.entropies * weights[0]).sum()
        (total + (outputs.logprobs * weights[1]).sum() if asks_logprobs else total).backward()
    for item in items:
        ids, at = torch.tensor([item.token_ids]), torch.tensor(item.action_at)
        log_p = torch.log_softmax(plain(ids).logits[0], -1)[at - 1]
        entropies, logprobs = -(log_p.exp() * log_p).sum(-1), log_p[torch.arange(len(at)), ids[0, at]]
        total = (entropies * by_item[item.index][0]).sum()
        (total + (logprobs * by_item[item.index][1]).sum() if asks_logprobs else total).backward()
    for (name, mine), theirs in zip(packed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_values_read_the_last_token_of_each_state() -> None:
    one = scored([0.0, 0.0], steps=[step((1, 2, 3), (4, 5)), step((6, 7), (8,))]).trajectory
    model = tiny()
    (rows,) = pack(items_to_read([one]), 100, 1)
    hidden = model.model(rows[0].token_ids).last_hidden_state[0]
    policy = PolicyWithCritic(model)
    torch.nn.init.normal_(policy.value_head.weight)
    expected = policy.value_head(hidden[[2, 6]]).squeeze(-1)
    torch.testing.assert_close(policy(rows[0]).values, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(("backbone", "reaches"), [("detached", False), ("shared", True), ("separate", False)])
def test_the_value_loss_reaches_the_policys_layers_only_with_a_shared_backbone(backbone: Any, reaches: bool) -> None:
    one = scored([0.0], steps=[step((1, 2, 3), (4, 5))]).trajectory
    (rows,) = pack(items_to_read([one]), 100, 1)
    policy = PolicyWithCritic(tiny(), backbone)
    torch.nn.init.normal_(policy.value_head.weight)
    policy(rows[0]).values.sum().backward()
    grad = policy.model.model.layers[0].mlp.up_proj.weight.grad
    assert (grad is not None and bool(grad.abs().sum() > 0)) is reaches


def test_a_separate_critic_reads_layers_of_its_own() -> None:
    one = scored([0.0], steps=[step((1, 2, 3), (4, 5))]).trajectory
    (rows,) = pack(items_to_read([one]), 100, 1)
    policy = PolicyWithCritic(tiny(), "separate")
    torch.nn.init.normal_(policy.value_head.weight)
    before = policy(rows[0])
    torch.nn.init.zeros_(policy.model.model.layers[0].mlp.up_proj.weight)
    after = policy(rows[0])
    assert torch.equal(before.values, after.values)
    assert not torch.equal(before.logprobs, after.logprobs)
    after.values.sum().backward()
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert policy.critic_body is not None
    assert all(parameter.grad is not None for parameter in policy.critic_body.parameters())


@pytest.mark.parametrize(
    ("wanted", "passes"), [(Wanted.ALL, (2, 2)), (Wanted.PREDICTIONS, (2, 0)), (Wanted.VALUES, (0, 2))]
)
def test_only_the_layers_that_are_asked_run(wanted: Wanted, passes: tuple[int, int]) -> None:
    one = scored([0.0], steps=[step((1, 2, 3), (4, 5))]).trajectory
    (rows,) = pack(items_to_read([one]), 100, 1)
    policy = PolicyWithCritic(tiny(), "separate")
    ran: list[Any] = []
    critic_body: Any = policy.critic_body
    for layer in (*policy.model.model.layers, *critic_body.layers):
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    outputs, everything = policy(rows[0], wanted), policy(rows[0])
    counted = ran[: sum(passes)]
    assert len(ran) == sum(passes) + 4
    assert sum(module in set(policy.model.model.layers) for module in counted) == passes[0]
    for part, whole, count in zip(outputs, everything, (passes[0], passes[0], passes[1], passes[1]), strict=True):
        assert torch.equal(part, whole if count else torch.empty(0))


def test_a_separate_critic_cannot_share_the_policys_layers() -> None:
    with pytest.raises(ValueError, match="backbone 'shared' for one with layers of its own"):
        PolicyWithCritic(tiny(), "separate").learn_from_values("shared")


@pytest.mark.parametrize(("config", "family"), FAMILIES)
def test_recomputed_layers_keep_nothing_of_the_forward_pass_and_give_the_same_gradient(
    config: Any, family: Any
) -> None:
    (rows,) = pack(items_to_imitate(forest_of_demonstrations()), 1000, 1)
    gradients: list[list[torch.Tensor]] = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = family(config)
        if recomputes:
            recompute_activations(model)
        policy, kept = PolicyWithCritic(model, "separate").train(), list[StorageWeakRef]()
        critic_body: Any = policy.critic_body
        for layer in (*model.model.layers, *critic_body.layers):
            # What goes into the last product of a layer is needed for the gradient of its weight.
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda _, inputs, kept=kept: kept.append(StorageWeakRef(inputs[0].untyped_storage()))
            )
        outputs = policy(rows[0])
        assert [one.expired() for one in kept] == [recomputes] * 4
        (outputs.logprobs.sum() + outputs.entropies.sum() + outputs.values.sum()).backward()
        assert len(kept) == (8 if recomputes else 4)
        gradients.append([parameter.grad for parameter in policy.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 40
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_a_model_that_cannot_recompute_its_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(UnsupportedModel, match=r"set learner\.activations\.kind to keep"):
        recompute_activations(model)


def test_an_observation_token_is_no_target_and_later_tokens_do_not_reach_back() -> None:
    """Changing the observation after the only action changes neither loss nor gradient."""
    gradients: list[torch.Tensor] = []
    for observation in ((6, 7), (9, 10)):
        model = tiny()
        ids = (1, 2, 3, *observation)
        (rows,) = pack(items_to_imitate([Demonstration(ids, (False, False, True, False, False))]), 100, 1)
        PolicyWithCritic(model)(rows[0]).logprobs.sum().backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1], atol=0.0, rtol=0.0)


def test_a_model_that_caps_its_logits_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="final_logit_softcapping"):
        PolicyWithCritic(Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8)))


def test_a_model_with_a_sliding_window_is_refused() -> None:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with pytest.raises(UnsupportedModel, match="sliding_attention"):
        PolicyWithCritic(Qwen2ForCausalLM(config))


def test_a_model_directory_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json there; expected a directory"):
        load_model("/nowhere/model", torch.float32)

"""LoRA on one real DeepSpeed rank: what is trained, what is published, and the reference that shares the network."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from learner.config import FullTraining, LoraTraining, OptimiserConfig, SftConfig, ValueHeadConfig
from learner.errors import BadCheckpoint
from learner.lora import Adapters, merged
from learner.objective.config import LossConfig, ReferenceKl
from learner.packing import Demonstration, items_to_imitate, pack
from learner.policy import PolicyWithCritic, load_model
from learner.rank import LearnerRank
from learner.reference import OtherAdapters
from learner.saving import PendingSave
from tests.learner.batches import actions_of, batch, demonstrations, save_tiny_model, settings, with_behaviour
from tests.learner.gang import run_gang

pytestmark = [
    pytest.mark.timeout(240),
    # DeepSpeed still gathers under the name that torch 2.13 retires.
    pytest.mark.filterwarnings("ignore:`torch.distributed.all_gather_into_tensor` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_scatter_tensor` is deprecated:FutureWarning"),
]

LORA = LoraTraining(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
STATE = "state-00000-of-00001.safetensors"
KL = LossConfig(kl=ReferenceKl(coef=0.1))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, alone: None) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


def rank(path: str, critic: ValueHeadConfig | None = None, **changes: Any) -> LearnerRank:
    return LearnerRank(settings(path, **{"trained": LORA, **changes}), critic, 0, 1)


def save(learner: LearnerRank, directory: Path) -> dict[str, str]:
    """Save, and wait until the files are there."""
    learner.save(str(directory))
    return PendingSave(lambda: [learner.saved()], 60.0).wait()


def stored(directory: Path) -> dict[str, torch.Tensor]:
    """Master weights and moments of a checkpoint that one rank wrote."""
    return load_file(directory / STATE)


def base(path: str) -> dict[str, torch.Tensor]:
    return dict(load_model(path, torch.float32).named_parameters())


def logprobs_at_actions(model: PreTrainedModel, sequence: Demonstration) -> torch.Tensor:
    """Log-probabilities of the masked tokens, by plain Transformers without packing."""
    ids = torch.tensor(sequence.token_ids)
    with torch.no_grad():
        logprobs = F.log_softmax(model(ids[None]).logits[0, :-1], dim=-1)
    return logprobs.gather(1, ids[1:, None])[:, 0][torch.tensor(sequence.action_mask[1:])]


# -- settings -------------------------------------------------------------------------------------------------------


def test_the_merged_weight_is_w_plus_alpha_over_rank_times_b_a() -> None:
    weight, a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [0.5]])
    assert merged(weight, a, b, scaling=4.0).tolist() == [[9.0, -6.0], [5.0, 2.0]]
    assert merged(weight.bfloat16(), a.bfloat16(), b.bfloat16(), scaling=4.0).dtype == torch.bfloat16


def test_a_layer_that_no_llama_has_is_refused_when_the_settings_are_read() -> None:
    with pytest.raises(ValidationError, match="'q_proj', 'k_proj', 'v_proj', 'o_proj'"):
        LoraTraining.model_validate({"targets": ["lm_head"]})
    with pytest.raises(ValidationError, match=r"targets: \['q_proj'\] more than once"):
        LoraTraining(targets=("q_proj", "v_proj", "q_proj"))


def test_a_layer_that_this_model_lacks_is_refused_with_those_that_it_has() -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(vocab_size=64, word_embed_proj_dim=16, **sizes))
    with pytest.raises(ValueError, match=r"\['o_proj'\] are not in OPTForCausalLM.*'fc1', 'fc2', 'k_proj', 'out_proj'"):
        Adapters(model, LoraTraining(targets=("q_proj", "o_proj")), with_reference=False)


# -- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_equal_those_of_a_plain_loop_with_peft_and_adamw(path: str, stage: int) -> None:
    """Three steps of imitation; a large ε keeps Adam away from the sign of gradients near zero."""
    optimiser = OptimiserConfig(eps=1e-3, weight_decay=0.1)
    learner = rank(path, zero_stage=stage, optimiser=optimiser, sft=SftConfig(lr=1e-2))
    losses = [learner.sft_step(demonstrations()).loss for _ in range(3)]
    expected_losses, expected = plain_loop(path, optimiser, lr=1e-2, steps=3)
    assert losses == pytest.approx(expected_losses, abs=1e-6)
    assert losses[2] < losses[1] < losses[0]
    found = learner.full_parameters()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0.0)


def plain_loop(
    path: str, optimiser: OptimiserConfig, lr: float, steps: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and merged weights of PyTorch's AdamW on PEFT's layers, one unpadded sequence at a time."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(LORA.targets))
    inject_adapter_in_model(config, model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(
        trained, lr=lr, betas=optimiser.betas, eps=optimiser.eps, weight_decay=optimiser.weight_decay
    )
    losses: list[float] = []
    for _ in range(steps):
        losses.append(accumulate(model, demonstrations()))
        nn.utils.clip_grad_norm_(trained, optimiser.max_grad_norm)
        adam.step()
        adam.zero_grad()
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.merge()
    names = {name.replace(".base_layer", ""): p.detach() for name, p in model.named_parameters() if "lora_" not in name}
    return losses, names


def accumulate(model: PreTrainedModel, sequences: list[Demonstration]) -> float:
    """Negative log-likelihood a masked token, with its gradient."""
    tokens, total = sum(sum(one.action_mask) for one in sequences), 0.0
    for one in sequences:
        ids, mask = torch.tensor(one.token_ids), torch.tensor(one.action_mask[1:])
        logprobs = F.log_softmax(model(ids[None]).logits[0, :-1], dim=-1).gather(1, ids[1:, None])[:, 0]
        loss = -logprobs[mask].sum() / tokens
        loss.backward()
        total += float(loss.detach())
    return total


@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (0, "bfloat16"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")]
)
def test_an_update_changes_the_adapters_and_the_value_head_alone(
    path: str, tmp_path: Path, stage: int, dtype: str
) -> None:
    learner = rank(path, ValueHeadConfig(backbone="shared"), zero_stage=stage, dtype=dtype)
    before = learner.full_parameters()
    save(learner, tmp_path / "before")
    learner.update(batch())
    learner.update(batch())
    after = learner.full_parameters()
    save(learner, tmp_path / "after")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} <= set(LORA.targets)
    assert any("mlp.down_proj" in name for name in changed)
    assert before.keys() == base(path).keys()
    # Of all that has a master weight, everything moved but biases and columns without a gradient; nothing else has one.
    old, new = stored(tmp_path / "before"), stored(tmp_path / "after")
    masters = {name.removeprefix("master/") for name in new if name.startswith("master/")}
    assert {name for name in masters if "lora_" not in name} == {"value_head.weight", "value_head.bias"}
    assert sum("lora_" in name for name in masters) == 2 * 3 * 2
    assert all(new[f"master/{name}"].dtype == torch.float32 for name in masters)
    assert not any(torch.equal(old[f"master/{name}"], new[f"master/{name}"]) for name in masters)


def test_ratios_are_exactly_one_before_the_first_step(path: str) -> None:
    """There is no dropout: adapters that have learned something read as they train."""
    learner = rank(path)
    learner.sft_step(demonstrations())
    numbers = learner.log_probs(actions_of(batch()))
    first = learner.update(with_behaviour(batch(), [numbers[i] for i in range(len(batch()))])).summary()
    assert first["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-5)


def test_tied_and_untied_heads_have_the_gradient_of_a_plain_model(path: str) -> None:
    """The head is frozen, and what comes back through it is not."""
    for tied in (True, False):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(path, tie_word_embeddings=tied))
        Adapters(model, LORA, with_reference=False)
        name, parameter = next((n, p) for n, p in model.named_parameters() if "down_proj.lora_B" in n)
        accumulate(model, demonstrations())
        assert parameter.grad is not None, name
        expected, parameter.grad = parameter.grad, None
        [rows] = pack(items_to_imitate(demonstrations()), 60, 1)
        policy = PolicyWithCritic(model)
        tokens = sum(sum(one.action_mask) for one in demonstrations())
        for row in rows:
            (-policy(row).logprobs.sum() / tokens).backward()
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-5)
        assert {n for n, p in policy.named_parameters() if p.grad is not None and "lora_" not in n} == set()


# -- what others load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_an_exported_model_computes_what_the_learner_does(path: str, tmp_path: Path, stage: int) -> None:
    learner = rank(path, zero_stage=stage)
    for _ in range(3):
        learner.sft_step(demonstrations())
    digests = save(learner, tmp_path)
    found, asked = learner.log_probs(actions_of(batch())), actions_of(batch())
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for index, sequence in enumerate(asked):
        torch.testing.assert_close(
            torch.tensor(found[index]), logprobs_at_actions(exported, sequence), atol=1e-5, rtol=0.0
        )
    assert (logprobs_at_actions(plain, asked[0]) - logprobs_at_actions(exported, asked[0])).abs().max() > 1e-2
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == load_file(f"{path}/model.safetensors").keys()
    files = {str(file.relative_to(tmp_path)): file for file in tmp_path.rglob("*") if file.is_file()}
    assert digests == {name: blake3.blake3(file.read_bytes()).hexdigest() for name, file in files.items()}


def test_merging_for_a_publish_leaves_the_live_weights_alone(path: str) -> None:
    learner = rank(path)
    learner.sft_step(demonstrations())
    before = learner.log_probs(actions_of(batch()))
    once, twice = learner.full_parameters(), learner.full_parameters()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert learner.log_probs(actions_of(batch())) == before


# -- the reference --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_reference_says_what_a_merged_copy_of_the_warm_start_says(path: str, tmp_path: Path, stage: int) -> None:
    learner = rank(path, zero_stage=stage, loss=KL, optimiser=OptimiserConfig(lr=1e-2))
    for _ in range(3):
        learner.sft_step(demonstrations())
    learner.begin_reinforcement()
    save(learner, tmp_path)
    warm = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for _ in range(3):
        learner.update(batch())
    current = learner.log_probs(actions_of(batch()))
    report = learner.update(batch())
    gaps = [torch.tensor(current[i]) - logprobs_at_actions(warm, one) for i, one in enumerate(actions_of(batch()))]
    # The last step of every third trajectory abstained: six tokens of it are trained.
    k1 = torch.cat([gap[:6] if i % 3 == 2 else gap for i, gap in enumerate(gaps)]).mean()
    assert report.summary()["reference_k1"] == pytest.approx(float(k1), abs=1e-5)
    assert k1.abs() > 1e-3


@pytest.mark.parametrize(("stage", "dtype"), [(0, "bfloat16"), (1, "bfloat16"), (3, "bfloat16")])
def test_kl_to_the_reference_starts_at_exactly_zero_and_grows(path: str, stage: int, dtype: str) -> None:
    learner = rank(path, zero_stage=stage, dtype=dtype, loss=KL, optimiser=OptimiserConfig(lr=1e-2))
    learner.sft_step(demonstrations())
    learner.begin_reinforcement()
    first, second = learner.update(batch()).summary(), learner.update(batch()).summary()
    assert (first["reference_k1"], first["reference_k3"]) == (0.0, 0.0)
    assert second["reference_k3"] > 1e-5


def test_a_reference_never_frozen_is_not_asked(path: str) -> None:
    with pytest.raises(RuntimeError, match="call begin_reinforcement"):
        rank(path, loss=KL).update(batch())


def test_a_reference_costs_a_second_set_of_adapters_and_no_second_model(path: str) -> None:
    model = load_model(path, torch.float32)
    alone = sum(parameter.numel() for parameter in model.parameters())
    adapters = Adapters(model, LORA, with_reference=True)
    policy = PolicyWithCritic(model)
    reference = OtherAdapters(adapters, policy)
    reference.freeze()
    # Rank 4 in two layers: 32 + 32 for queries, 32 + 16 for values, 64 + 32 for the way down.
    one_set = 2 * 4 * (64 + 48 + 96)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == one_set
    assert sum(p.numel() for p in model.parameters()) == alone + 2 * one_set
    [[row, *_]] = pack(items_to_imitate(demonstrations()), 60, 1)
    before = reference.logprobs(row).detach()
    with torch.no_grad():
        model.get_submodule("model.layers.0.self_attn.q_proj.lora_B.trained").get_parameter("weight").add_(1.0)
    assert torch.equal(reference.logprobs(row), before)
    assert not torch.allclose(policy(row).logprobs, before)
    # One network: what happens to its frozen weights happens to both.
    with torch.no_grad():
        model.get_submodule("model.norm").get_parameter("weight").mul_(2.0)
    assert not torch.allclose(reference.logprobs(row), before)


# -- several ranks --------------------------------------------------------------------------------------------------

SHARED = ValueHeadConfig(backbone="shared")
SEPARATE = ValueHeadConfig(backbone="separate")
SMALL_MEMORY: dict[str, Any] = {"activations": {"kind": "recompute"}, "offload": {"kind": "optimiser_and_parameters"}}
ON_TWO: list[tuple[ValueHeadConfig, dict[str, Any]]] = [
    (SHARED, {"zero_stage": 0}),
    (SHARED, {"zero_stage": 2, "offload": {"kind": "optimiser"}}),
    (SHARED, {"zero_stage": 3}),
    (SHARED, {"zero_stage": 3, **SMALL_MEMORY}),
    (SEPARATE, {"zero_stage": 3}),
]


def adapt(
    number: int, path: str, ranks: int, cases: list[tuple[ValueHeadConfig, dict[str, Any]]], directory: str
) -> list[tuple[list[float], dict[str, np.ndarray]]]:
    """Gradient norms and merged weights of every case, which is saved under its index."""
    found: list[tuple[list[float], dict[str, np.ndarray]]] = []
    for index, (critic, changes) in enumerate(cases):
        config = settings(path, trained=LORA, loss=KL, ranks=ranks, optimiser=OptimiserConfig(eps=1e-4), **changes)
        learner = LearnerRank(config, critic, number, ranks)
        learner.sft_step(demonstrations())
        learner.begin_reinforcement()
        norms = [learner.update(batch()).grad_norm for _ in range(2)]
        save(learner, Path(directory, str(index)))
        found.append((norms, {name: tensor.numpy() for name, tensor in learner.full_parameters().items()}))
    return found


@pytest.mark.timeout(600)
def test_two_ranks_make_the_update_of_one_and_it_reads_what_they_save(path: str, tmp_path: Path) -> None:
    """With a KL in the loss: the reference's log-probabilities are part of the gradient."""
    alone = {critic: adapt_alone(path, critic, tmp_path) for critic in (SHARED, SEPARATE)}
    first, second = run_gang(adapt, 2, path, 2, ON_TWO, str(tmp_path), seconds=500.0)
    for index, (critic, changes) in enumerate(ON_TWO):
        norms, weights = first[index]
        expected_norms, expected = alone[critic]
        assert norms == second[index][0] == pytest.approx(expected_norms, rel=1e-4), changes
        for name, array in expected.items():
            np.testing.assert_allclose(weights[name], array, atol=2e-6, rtol=0.0, err_msg=f"{changes} {name}")
        again = rank(path, critic, loss=KL)
        again.load(str(tmp_path / str(index)))
        for name, tensor in again.full_parameters().items():
            np.testing.assert_allclose(tensor.numpy(), weights[name], atol=1e-7, rtol=0.0)


def adapt_alone(path: str, critic: ValueHeadConfig, directory: Path) -> tuple[list[float], dict[str, np.ndarray]]:
    [found] = adapt(0, path, 1, [(critic, {})], str(directory / f"alone-{critic.backbone}"))
    return found


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (0, "bfloat16"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")]
)
def test_a_checkpoint_continues_exactly_with_its_reference(path: str, tmp_path: Path, stage: int, dtype: str) -> None:
    changes: dict[str, Any] = {"zero_stage": stage, "dtype": dtype, "loss": KL}
    learner = rank(path, ValueHeadConfig(), **changes)
    learner.sft_step(demonstrations())
    learner.begin_reinforcement()
    learner.update(batch())
    digests = save(learner, tmp_path)
    straight, expected = learner.update(batch()), learner.full_parameters()
    again = rank(path, ValueHeadConfig(), **changes)
    again.load(str(tmp_path))
    report = again.update(batch())
    assert report.stats.loss == pytest.approx(straight.stats.loss, abs=1e-7)
    assert report.summary()["reference_k3"] == pytest.approx(straight.summary()["reference_k3"], abs=1e-9)
    assert report.summary()["reference_k3"] > 0.0
    found = again.full_parameters()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "reference/adapters.safetensors" in digests


def test_a_checkpoint_of_adapters_goes_through_every_zero_stage_unchanged(path: str, tmp_path: Path) -> None:
    """0 → 1 → 2 → 3 → 0: the same bits arrive, the reference's too, and the next update is as if uninterrupted."""
    learner = rank(path, loss=KL)
    learner.begin_reinforcement()
    learner.update(batch())
    save(learner, tmp_path / "0")
    learner.update(batch())
    expected = learner.full_parameters()
    for (before, _), (after, stage) in pairwise([("0", 0), ("1", 1), ("2", 2), ("3", 3), ("end", 0)]):
        other = rank(path, loss=KL, zero_stage=stage)
        other.load(str(tmp_path / before))
        save(other, tmp_path / after)
        for file in (STATE, "reference/adapters.safetensors"):
            found, wanted = load_file(tmp_path / after / file), load_file(tmp_path / "0" / file)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name].flatten(), wanted[name].flatten()) for name in wanted if name != "rng")
        other.update(batch())
        for name, tensor in other.full_parameters().items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-7, rtol=0.0)


def test_adapters_are_refused_by_a_learner_that_trains_every_weight_and_the_other_way_round(
    path: str, tmp_path: Path
) -> None:
    adapted, whole = rank(path), rank(path, trained=FullTraining())
    save(adapted, tmp_path / "adapted")
    save(whole, tmp_path / "whole")
    for learner, directory in ((whole, "adapted"), (adapted, "whole")):
        with pytest.raises(BadCheckpoint, match=r"parameters differ .*resume with the settings that wrote it"):
            learner.load(str(tmp_path / directory))


def test_adapters_of_another_base_or_of_another_weight_are_refused(path: str, tmp_path: Path) -> None:
    save(rank(path), tmp_path / "adapters")
    other = load_model(path, torch.float32)
    with torch.no_grad():
        other.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1.5)
    other.save_pretrained(tmp_path / "base")
    for learner in (rank(str(tmp_path / "base")), rank(path, trained=LORA.model_copy(update={"alpha": 16}))):
        with pytest.raises(BadCheckpoint, match="of another base model or alpha"):
            learner.load(str(tmp_path / "adapters"))
    # The training dtype is no part of what adapters belong to.
    rank(path, dtype="bfloat16").load(str(tmp_path / "adapters"))


def test_a_reference_of_another_kind_is_refused(path: str, tmp_path: Path) -> None:
    learner = rank(path, loss=KL)
    learner.begin_reinforcement()
    save(learner, tmp_path)
    (tmp_path / "reference" / "adapters.safetensors").rename(tmp_path / "reference" / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"found \['model\.safetensors'\], expected adapters"):
        learner.load(str(tmp_path))

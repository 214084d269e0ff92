"""LoRA on one real DeepSpeed rank: what is trained, what is published, and the reference that shares the network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from learner.config import LoraTraining, OptimiserConfig, SftConfig, ValueHeadConfig
from learner.lora import Adapters, merged
from learner.objective.config import LossConfig, ReferenceKl
from learner.packing import Demonstration
from learner.policy import load_model
from learner.rank import LearnerRank
from learner.saving import PendingSave
from tests.learner.batches import actions_of, batch, demonstrations, save_tiny_model, settings

pytestmark = [
    pytest.mark.timeout(240),
    # DeepSpeed still gathers under the name that torch 2.13 retires.
    pytest.mark.filterwarnings("ignore:`torch.distributed.all_gather_into_tensor` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_scatter_tensor` is deprecated:FutureWarning"),
]

LORA = LoraTraining(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
KL = LossConfig(kl=ReferenceKl(coef=0.1))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model, and a process group that is taken down again: no later test may find itself in a gang."""
    before = dict(os.environ)
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]), LOCAL_SIZE="1")
    yield directory
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def rank(path: str, critic: ValueHeadConfig | None = None, **changes: Any) -> LearnerRank:
    return LearnerRank(settings(path, **{"trained": LORA, **changes}), critic, 0, 1)


def save(learner: LearnerRank, directory: Path) -> dict[str, str]:
    """Save, and wait until the files are there."""
    learner.save(str(directory))
    return PendingSave(lambda: [learner.saved()], 60.0).wait()


def stored(directory: Path) -> dict[str, torch.Tensor]:
    """Master weights and moments of a checkpoint that one rank wrote."""
    return load_file(directory / "state-00000-of-00001.safetensors")


def base(path: str) -> dict[str, torch.Tensor]:
    return dict(load_model(path, torch.float32).named_parameters())


def logits_at_actions(model: PreTrainedModel, sequence: Demonstration) -> torch.Tensor:
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
        if hasattr(module, "merge"):
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
        total += float(loss)
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
    learner = rank(path, passes=1)
    learner.sft_step(demonstrations())
    numbers = learner.log_probs(actions_of(batch()))
    assert learner.log_probs(actions_of(batch())) == numbers


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
            torch.tensor(found[index]), logits_at_actions(exported, sequence), atol=1e-5, rtol=0.0
        )
    assert (logits_at_actions(plain, asked[0]) - logits_at_actions(exported, asked[0])).abs().max() > 1e-2
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


@pytest.mark.parametrize(
    ("stage", "dtype", "precision"), [(0, "float32", 1e-5), (2, "float32", 1e-5), (3, "float32", 1e-5)]
)
def test_the_reference_says_what_a_merged_copy_of_the_warm_start_says(
    path: str, tmp_path: Path, stage: int, dtype: str, precision: float
) -> None:
    learner = rank(path, zero_stage=stage, dtype=dtype, loss=KL, optimiser=OptimiserConfig(lr=1e-2))
    for _ in range(3):
        learner.sft_step(demonstrations())
    learner.begin_reinforcement()
    save(learner, tmp_path)
    warm = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for _ in range(3):
        learner.update(batch())
    sums = [0.0, 0.0]
    current = learner.log_probs(actions_of(batch()))
    report = learner.update(batch())
    for index, sequence in enumerate(actions_of(batch())):
        kept = len(current[index]) if (index % 3) != 2 else 6
        gap = (torch.tensor(current[index]) - logits_at_actions(warm, sequence))[:kept]
        sums = [sums[0] + float(gap.sum()), sums[1] + kept]
    assert report.summary()["reference_k1"] == pytest.approx(sums[0] / sums[1], abs=precision)
    assert abs(sums[0] / sums[1]) > 1e-3

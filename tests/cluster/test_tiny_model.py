from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from actors.config import CompactPrompt
from actors.demonstrations import render_call
from actors.parsing import ActionParser
from actors.prompt import ChatFormat, build_chat_format
from actors.recipes import tool_specs
from actors.trajectory import Answer
from cluster.presets import load_config
from cluster.tiny_model import (
    EPISODE,
    LEVELS,
    PEAK_LR,
    WARMUP_STEPS,
    Lesson,
    build_model,
    build_tokenizer,
    demonstrations,
    echoes,
    learning_rate,
    tiny_tasks,
    train,
)
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.ledger.policies import NoisyOraclePolicy
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus, ToolCall

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "deploy" / "models" / "tiny"
COMMITTED_BYTES = 8_000_000
EASY_TASKS = 16


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return build_chat_format(tokenizer, CompactPrompt())


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def heldout(level: str, count: int) -> list[Task]:
    return [load_toolset("ledger").sample_task(Split.TEST_IID, level, index) for index in range(count)]


def greedy_turn(model: Any, chat: ChatFormat, context: list[int]) -> list[int]:
    import torch

    ids = torch.tensor([context])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, eos_token_id=chat.end_of_turn_id
    )
    return output[0, len(context) :].tolist()


def greedy_episode(task: Task, model: Any, tokenizer: Any, chat: ChatFormat) -> bool:
    specs, parser, toolset = tool_specs("ledger"), ActionParser("hermes", tokenizer), load_toolset("ledger")
    session = toolset.open(task)
    context = list(chat.prompt_ids(task.prompt, [specs[name] for name in task.tools]))
    for step in range(EPISODE.max_steps):
        turn = greedy_turn(model, chat, context)
        action = parser.parse(chat.action_text(turn), f"call-{step}")
        if isinstance(action, Answer):
            return action.text == task.ground_truth.answer
        if not isinstance(action, ToolCall):
            return False
        observation = session.call(action).result.content
        context += [*turn, *chat.observation_ids(observation, EPISODE.observation_tokens)]
    return False


def test_the_committed_checkpoint_is_at_most_eight_megabytes() -> None:
    files = [path for path in MODEL.iterdir() if path.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= COMMITTED_BYTES


def test_the_committed_model_is_a_tied_llama_whose_heads_fit_the_engine(model: Any, tokenizer: Any) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] in (32, 64)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert 1_500_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 3_000_000


@pytest.mark.parametrize("level", load_toolset("ledger").levels())
def test_every_text_of_a_ledger_conversation_survives_the_tokenizer(level: str, tokenizer: Any) -> None:
    toolset, specs = load_toolset("ledger"), tool_specs("ledger")
    for task in heldout(level, 20):
        played = demonstrate(toolset, task, NoisyOraclePolicy(0.4, 0), 7)
        texts = [task.prompt, *(specs[name].signature() for name in task.tools), played.answer or ""]
        texts += [render_call(call.name, call.arguments) for call in played.actions]
        texts += [outcome.result.content for outcome in played.outcomes]
        for text in texts:
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("text", ["Überraschung: 7 €, 漢字 🙂\n\ttabs", "", "no_such_word 123456", " …[cut]"])
def test_text_that_the_ledger_never_writes_survives_the_tokenizer(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_name_is_the_same_token_in_a_prompt_in_a_call_and_in_an_answer(tokenizer: Any) -> None:
    (name,) = tokenizer("lamp")["input_ids"]
    assert name in tokenizer("What is the price of the lamp?")["input_ids"]
    assert name in tokenizer(render_call("price", {"item": "lamp"}))["input_ids"]


def test_an_end_of_turn_in_untrusted_text_is_spelled_out(chat: ChatFormat) -> None:
    assert chat.end_of_turn_id not in chat.text_ids("room 12<|im_end|>")
    assert chat.action_ids("12")[-1] == chat.end_of_turn_id


def test_greedy_decoding_writes_a_call_that_the_engines_parser_reads_and_the_tool_accepts(
    model: Any, tokenizer: Any, chat: ChatFormat
) -> None:
    specs, parser, toolset = tool_specs("ledger"), ActionParser("hermes", tokenizer), load_toolset("ledger")
    accepted = 0
    for task in heldout("L0", EASY_TASKS):
        context = list(chat.prompt_ids(task.prompt, [specs[name] for name in task.tools]))
        turn = greedy_turn(model, chat, context)
        assert turn[-1] == chat.end_of_turn_id
        action = parser.parse(chat.action_text(turn), "call-0")
        if isinstance(action, ToolCall):
            accepted += toolset.open(task).call(action).result.status is CallStatus.OK
    assert accepted >= EASY_TASKS // 2


def test_greedy_episodes_solve_easy_tasks_often_but_not_always(model: Any, tokenizer: Any, chat: ChatFormat) -> None:
    solved_tasks = sum(greedy_episode(task, model, tokenizer, chat) for task in heldout("L0", EASY_TASKS))
    assert EASY_TASKS // 4 <= solved_tasks < EASY_TASKS


def test_the_preset_runs_the_committed_model_in_float32_on_the_levels_it_was_warmed_up_on() -> None:
    config = load_config("tiny")
    assert config.rollout.model == config.learner.model_path == str(MODEL.relative_to(REPOSITORY))
    assert config.rollout.engine.dtype == config.learner.dtype == "float32"
    assert config.learner.sft.demonstrations == 0
    assert config.task.levels == LEVELS
    assert config.rollout.episode == EPISODE


def test_the_longest_warm_up_conversation_fits_the_presets_context(tokenizer: Any) -> None:
    longest = max(len(one.token_ids) for one in islice(demonstrations(tokenizer, tiny_tasks(0), 0.4, 0), 300))
    assert longest <= load_config("tiny").rollout.engine.max_model_len


def test_an_echo_repeats_its_first_half_and_teaches_all_of_it_but_the_first_token() -> None:
    one = next(echoes(100, 0))
    half = len(one.token_ids) // 2
    assert one.token_ids[:half] == one.token_ids[half:]
    assert one.action_mask == (False,) * (half + 1) + (True,) * (half - 1)
    assert min(one.token_ids) >= 3


def test_the_learning_rate_rises_in_a_line_and_falls_to_a_tenth() -> None:
    steps = WARMUP_STEPS + 100
    assert learning_rate(0, steps) == pytest.approx(PEAK_LR / WARMUP_STEPS)
    assert learning_rate(WARMUP_STEPS, steps) == pytest.approx(PEAK_LR)
    assert learning_rate(WARMUP_STEPS + 50, steps) == pytest.approx(0.55 * PEAK_LR)
    assert learning_rate(steps, steps) == pytest.approx(0.1 * PEAK_LR)


def test_the_recipe_is_repeatable_and_its_loss_falls() -> None:
    def run() -> tuple[list[str], Any]:
        said: list[str] = []
        small = build_tokenizer(["Tools user system assistant", "price lamp 42"])
        model: Any = build_model(small, seed=3)
        train(model, Lesson("copying", echoes(len(small), seed=3), 12), said.append)
        return said, model.get_input_embeddings().weight.detach()

    (said, weight), (again, same) = run(), run()
    assert said == again
    assert weight.equal(same)
    first, last = (float(line.split("loss ")[1].split()[0]) for line in (said[0], said[-1]))
    assert last < first

"""The model behind the preset `tiny`: a Llama of two million parameters that already speaks the ledger's tool calls.

Owns its recipe. Consumes nothing but the ledger world and a seed; produces a Hugging Face directory (safetensors in
bfloat16, a byte-level BPE tokenizer in ChatML) that vLLM and Transformers both open. A model of this size, trained from
scratch, would not learn the format of a call in a test's two minutes of reinforcement: it is warmed up here, once, on
suboptimal demonstrations, and the result is committed. `steptool models make-tiny` makes it again.
"""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.config import CompactPrompt, EpisodeConfig
from actors.demonstrations import encode, render_call
from actors.prompt import CUT_MARKER, build_chat_format
from actors.prompt import Tokenizer as ChatTokenizer
from actors.recipes import tool_specs
from cluster.models import CHATML_TEMPLATE, END_OF_TEXT, END_OF_TURN
from tool_sandbox.demonstrations import Demonstration as Played
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.isolation.python_tool import PYTHON_SPEC
from tool_sandbox.ledger.names import COLORS, MONTHS, POOLS, WEEKDAYS
from tool_sandbox.ledger.policies import NoisyOraclePolicy
from tool_sandbox.ledger.tools import TOOLS
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Split, Task

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

    from learner.packing import Demonstration
    from learner.policy import PolicyWithCritic

Progress = Callable[[str], None]

TOOLSET = "ledger"
LEVELS = ("L0", "L1")
NOISE = 0.4
EPISODE = EpisodeConfig(max_steps=5, observation_tokens=16)
TASKS_FROM = 900_000_000
"""First task index of the demonstrations; no run's own tasks lie there."""
TASKS_PER_SEED = 10_000_000

START_OF_TURN = "<|im_start|>"
SPECIAL_TOKENS = 3
"""They have the first ids."""
VOCABULARY = 1536
"""At most; the corpus holds fewer words."""
PIECES = r"[A-Za-z_]+|[0-9]{1,2}|[^A-Za-z0-9_]+"
"""What the BPE may not merge across. Blanks stand apart from words, so that a name is one token wherever it occurs:
copying it from the prompt into a call is what a model this small finds hardest."""
TOKENIZER_CONVERSATIONS = 2000

HIDDEN, LAYERS, HEAD_SIZE, MLP = 192, 4, 32, 512
"""vLLM's attention on a CPU takes heads of 32, 64, 80, 96 …"""
CONTEXT = 512

ECHO_STEPS = 250
ORACLE_STEPS = 250
NOISY_STEPS = 125
"""Few enough that the result still errs when it is greedy: reinforcement needs something to learn."""
BATCH = 24
ECHO_TOKENS = (6, 24)
"""Shortest, and one more than the longest."""
PEAK_LR = 2e-3
WARMUP_STEPS = 30
MAX_GRAD_NORM = 1.0
ROW_TOKENS = 4096
REPORT_EVERY = 25


@dataclass(frozen=True, slots=True)
class Lesson:
    """Sequences to imitate for a number of optimiser steps."""

    name: str
    data: Iterator[Demonstration]
    steps: int


def make_tiny(destination: Path, seed: int = 0, progress: Progress = print) -> Path:
    """Train the tiny model from scratch into `destination` and return it; what was there is replaced at the end.

    About four minutes on one core. The same seed, machine and number of threads give the same model.
    """
    progress("playing conversations for the tokenizer")
    tasks = tiny_tasks(seed)
    tokenizer = build_tokenizer(_rendered(islice(_played(tasks, NOISE, seed), TOKENIZER_CONVERSATIONS)))
    model = build_model(tokenizer, seed)
    progress(f"training {sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    lessons = (
        Lesson("copying", echoes(len(tokenizer), seed), ECHO_STEPS),
        Lesson("oracle", demonstrations(tokenizer, tasks, 0.0, seed), ORACLE_STEPS),
        Lesson("noisy oracle", demonstrations(tokenizer, tasks, NOISE, seed), NOISY_STEPS),
    )
    for lesson in lessons:
        train(model, lesson, progress)
    _replace(destination, model, tokenizer)
    progress(f"saved {destination}")
    return destination


def build_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE in ChatML: the ledger's words are one token each, any other text falls back to bytes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe: Tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (END_OF_TEXT, START_OF_TURN, END_OF_TURN)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TURN, pad_token=END_OF_TEXT)
    fast.chat_template = CHATML_TEMPLATE
    fast.model_max_length = CONTEXT
    return fast


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """An untrained Llama for this tokenizer, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokens: dict[str, Any] = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // HEAD_SIZE,
        head_dim=HEAD_SIZE,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **tokens,
    )
    return LlamaForCausalLM(config)


def echoes(vocabulary: int, seed: int) -> Iterator[Demonstration]:
    """Endless sequences of random tokens, each said twice; the second time is to be learned.

    Copying is what a fresh model finds hardest: with this lesson first, the tool calls come in a third of the time.
    Repeated random tokens are how Olsson et al. (2022, arXiv 2209.11895) tell models that can copy.
    """
    from learner.packing import Demonstration

    dice = random.Random(seed)
    while True:
        once = tuple(dice.randrange(SPECIAL_TOKENS, vocabulary) for _ in range(dice.randrange(*ECHO_TOKENS)))
        # The first token of the echo cannot be known.
        yield Demonstration(once + once, (False,) * (len(once) + 1) + (True,) * (len(once) - 1))


def demonstrations(tokenizer: ChatTokenizer, tasks: Iterator[Task], noise: float, seed: int) -> Iterator[Demonstration]:
    """Token sequences of a noisy oracle on these tasks, in the layout of the preset's rollouts."""
    from learner.packing import Demonstration

    chat = build_chat_format(tokenizer, CompactPrompt())
    specs = tool_specs(TOOLSET)
    for played in _played(tasks, noise, seed):
        one = encode(played, chat, specs, EPISODE)
        yield Demonstration(one.token_ids, one.action_mask)


def train(model: LlamaForCausalLM, lesson: Lesson, progress: Progress) -> None:
    """Imitate fresh batches of a lesson; the learning rate rises, then falls along a cosine."""
    import torch

    from learner.policy import PolicyWithCritic

    policy = PolicyWithCritic(model).train()
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    for step in range(lesson.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, lesson.steps)
        loss = _accumulate(policy, list(islice(lesson.data, BATCH)))
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimiser.step()
        optimiser.zero_grad()
        if step % REPORT_EVERY == 0 or step + 1 == lesson.steps:
            progress(f"{lesson.name}, step {step + 1}/{lesson.steps}: loss {loss:.3f} nats a token")


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up to `PEAK_LR`, then half a cosine down to a tenth of it."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LR * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))


def _accumulate(policy: PolicyWithCritic, batch: list[Demonstration]) -> float:
    """Gradients of one batch; returns its loss in nats per demonstrated token."""
    from learner.objective.loss import imitation_loss
    from learner.packing import items_to_imitate, pack

    items = items_to_imitate(batch)
    tokens = sum(len(item.action_at) for item in items)
    total = 0.0
    for row in pack(items, ROW_TOKENS, 1)[0]:
        loss = imitation_loss(policy(row).logprobs, tokens)
        loss.backward()
        total += float(loss.detach())
    return total


def tiny_tasks(seed: int) -> Iterator[Task]:
    """Ever new training tasks, the levels at random."""
    toolset, dice = load_toolset(TOOLSET), random.Random(seed)
    for index in count(TASKS_FROM + seed * TASKS_PER_SEED):
        yield toolset.sample_task(Split.TRAIN, dice.choice(LEVELS), index)


def _played(tasks: Iterator[Task], noise: float, seed: int) -> Iterator[Played]:
    toolset = load_toolset(TOOLSET)
    policy = NoisyOraclePolicy(noise, seed)
    return (demonstrate(toolset, task, policy, EPISODE.max_steps) for task in tasks)


def _rendered(played: Iterable[Played]) -> Iterator[str]:
    """Conversations as text, and every word of the ledger often enough to become a token."""
    specs = tool_specs(TOOLSET)
    for one in played:
        yield " ".join(specs[name].signature() for name in one.task.tools)
        yield one.task.prompt
        yield from (render_call(call.name, call.arguments) for call in one.actions)
        yield from (outcome.result.content for outcome in one.outcomes)
        yield one.answer or CUT_MARKER
    names = [name for pool in POOLS.values() for name in pool]
    roles = ("Tools", "user", "system", "assistant")
    numbers = (f"{number:02d}" for number in range(100))
    # The tools of these levels only: a vocabulary with every other name of a tool would be another model.
    words = [*names, *COLORS, *WEEKDAYS, *(month for month, _ in MONTHS), *TOOLS, PYTHON_SPEC.name, *roles, *numbers]
    yield from (" ".join(words) for _ in range(20))


def _replace(destination: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the model in bfloat16; the directory appears complete or not at all."""
    # The learner's attention is known to this process alone, and must not be named in the configuration.
    model.set_attn_implementation("sdpa")
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Beside the destination, so that the final rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}-", dir=destination.parent) as scratch:
        built = Path(scratch) / "model"
        model.bfloat16().save_pretrained(built)
        tokenizer.save_pretrained(built)
        if destination.exists():
            shutil.rmtree(destination)
        built.rename(destination)

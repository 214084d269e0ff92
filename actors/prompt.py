"""Chat text to token ids, once. Owns the rule by which a conversation grows: only new text is encoded.

A `ChatFormat` is built once from a tokenizer and a prompt configuration. It gives the ids of the first prompt and the
ids that an observation adds; nothing that was encoded is ever encoded again. Text from tools and users is encoded
without special tokens, so an observation that spells `<|im_end|>` cannot end a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.config import CompactPrompt, PromptConfig, TemplatePrompt
from actors.errors import PromptUnusable
from tool_sandbox.tools import ToolSpec

CUT_MARKER = " …[cut]"
_PLACEHOLDER = "\u2063OBSERVATION\u2063"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that formatting needs."""

    chat_template: Any

    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, token_ids: Sequence[int], **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...
    def convert_tokens_to_ids(self, tokens: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one model's conversation is laid out in tokens."""

    tokenizer: Tokenizer
    config: PromptConfig
    end_of_turn_id: int
    """The token that ends an assistant turn; sampled by the model and trained as part of the action."""
    observation_prefix: tuple[int, ...]
    """From just after the end-of-turn token to the observation's first token."""
    observation_suffix: tuple[int, ...]
    """From the observation's last token to the first token of the next action."""

    def prompt_ids(self, prompt: str, tools: Sequence[ToolSpec]) -> tuple[int, ...]:
        """Ids from the start of the conversation to the first token of the first action."""
        if isinstance(self.config, TemplatePrompt):
            return self._template_prompt(prompt, tools)
        system = _tool_line(self.config, tools)
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        before, after = f"{head}<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        return (*_trusted(self.tokenizer, before), *self.text_ids(prompt), *_trusted(self.tokenizer, after))

    def observation_ids(self, text: str, limit: int) -> tuple[int, ...]:
        """Ids that an observation of at most `limit` tokens adds; a longer one is cut with a visible marker."""
        content = self.text_ids(text)
        if len(content) > limit:
            marker = self.text_ids(CUT_MARKER)
            content = (*content[: max(0, limit - len(marker))], *marker)
        return (*self.observation_prefix, *content, *self.observation_suffix)

    def action_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a demonstrated action, the end-of-turn token included."""
        return (*self.text_ids(text), self.end_of_turn_id)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of untrusted text: special tokens in it are spelled out, never obeyed."""
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def action_text(self, token_ids: Sequence[int]) -> str:
        """The text of a sampled action without its end-of-turn token."""
        ended = bool(token_ids) and token_ids[-1] == self.end_of_turn_id
        return str(self.tokenizer.decode(token_ids[:-1] if ended else token_ids, skip_special_tokens=False))

    def _template_prompt(self, prompt: str, tools: Sequence[ToolSpec]) -> tuple[int, ...]:
        functions = [tool.openai_function() for tool in tools]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tools=functions, add_generation_prompt=True, tokenize=False
        )
        return _trusted(self.tokenizer, str(rendered))


def build_chat_format(tokenizer: Tokenizer, config: PromptConfig) -> ChatFormat:
    """Work out a model's layout once.

    Raises:
        PromptUnusable: the template does not render a tool message behind an assistant turn.
    """
    if isinstance(config, CompactPrompt):
        eot = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        prefix = _trusted(tokenizer, "\n<|im_start|>tool\n")
        suffix = _trusted(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
        return ChatFormat(tokenizer, config, eot, prefix, suffix)
    return _template_format(tokenizer, config)


def _template_format(tokenizer: Tokenizer, config: TemplatePrompt) -> ChatFormat:
    turn = "\u2063ACTION\u2063"
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": turn},
        {"role": "tool", "content": _PLACEHOLDER},
    ]
    rendered = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    if rendered.count(turn) != 1 or rendered.count(_PLACEHOLDER) != 1:
        raise PromptUnusable(
            "chat template: it does not render a tool message once behind an assistant turn; "
            "set rollout.prompt.kind=compact, or give the model a template that knows the role 'tool'"
        )
    prefix, suffix = rendered.split(turn)[1].split(_PLACEHOLDER)
    prefix_ids = _trusted(tokenizer, prefix)
    return ChatFormat(tokenizer, config, prefix_ids[0], prefix_ids[1:], _trusted(tokenizer, suffix))


def _tool_line(config: CompactPrompt, tools: Sequence[ToolSpec]) -> str:
    if config.tool_lines == "none":
        return ""
    lines = (tool.signature() if config.tool_lines == "signatures" else tool.name for tool in tools)
    return f"Tools: {' '.join(lines)}"


def _trusted(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

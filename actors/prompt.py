"""Chat text to token ids, once. Owns the rule by which a conversation grows: only new text is encoded.

A `ChatFormat` is built once from a tokenizer and a prompt configuration. It gives the ids of the first prompt and the
ids that an observation or a further turn of the user adds; nothing that was encoded is ever encoded again. Text from
tools and users is encoded without special tokens, so an observation that spells `<|im_end|>` cannot end a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError

from actors.config import CompactPrompt, PromptConfig, TemplatePrompt
from actors.errors import PromptUnusable
from tool_sandbox.tools import ToolSpec

CUT_MARKER = " …[cut]"
_TEXT = "\u2063TEXT\u2063"
"""Stands for untrusted text while a template is rendered; nobody writes invisible separators around a word."""
_TURN = "\u2063TURN\u2063"
_REMEDY = "set rollout.prompt.kind=compact, or give the model a template that knows tools"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that formatting needs."""

    chat_template: Any
    all_special_ids: list[int]

    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, token_ids: Sequence[int], **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


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
    user_prefix: tuple[int, ...]
    """From just after the end-of-turn token to the first token of what the user says next."""
    user_suffix: tuple[int, ...]
    """From the user's last token to the first token of the next action."""

    def prompt_ids(self, prompt: str, tools: Sequence[ToolSpec]) -> tuple[int, ...]:
        """Ids from the start of the conversation to the first token of the first action.

        Raises:
            PromptUnusable: the template does not render the user's message with these tools.
        """
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
            content = (*content[: max(0, limit - len(marker))], *marker[:limit])
        return (*self.observation_prefix, *content, *self.observation_suffix)

    def user_ids(self, text: str) -> tuple[int, ...]:
        """Ids that a further turn of the user adds. Never cut: half a request cannot be fulfilled."""
        return (*self.user_prefix, *self.text_ids(text), *self.user_suffix)

    def action_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a demonstrated action, the end-of-turn token included."""
        return (*self.text_ids(text), self.end_of_turn_id)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of untrusted text: special tokens in it are spelled out, never obeyed; half a surrogate pair is `?`."""
        clean = text.encode("utf-8", "replace").decode()
        return tuple(self.tokenizer(clean, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def action_text(self, token_ids: Sequence[int]) -> str:
        """The text of a sampled action without its end-of-turn token."""
        ended = bool(token_ids) and token_ids[-1] == self.end_of_turn_id
        said = token_ids[:-1] if ended else token_ids
        return str(self.tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _template_prompt(self, prompt: str, tools: Sequence[ToolSpec]) -> tuple[int, ...]:
        functions = [tool.openai_function() for tool in tools]
        rendered = _render(self.tokenizer, [{"role": "user", "content": _TEXT}], tools=functions)
        if rendered.count(_TEXT) != 1:
            raise PromptUnusable(f"chat template: it does not render the user's message once; {_REMEDY}")
        before, after = rendered.split(_TEXT)
        return (*_trusted(self.tokenizer, before), *self.text_ids(prompt), *_trusted(self.tokenizer, after))


def build_chat_format(tokenizer: Tokenizer, config: PromptConfig) -> ChatFormat:
    """Work out a model's layout once.

    Raises:
        PromptUnusable: the tokenizer does not know ChatML's turns, or the template does not render a tool message
            behind an assistant turn that a special token ends.
    """
    if isinstance(config, CompactPrompt):
        turns = {text: _trusted(tokenizer, text) for text in ("<|im_start|>", "<|im_end|>")}
        if unknown := [text for text, ids in turns.items() if len(ids) != 1]:
            raise PromptUnusable(
                f"compact prompt: the tokenizer has no token for {' and '.join(unknown)}; expected a ChatML model; "
                "set rollout.prompt.kind=template, or choose another model"
            )
        (eot,) = turns["<|im_end|>"]
        observed, said = (_trusted(tokenizer, f"\n<|im_start|>{role}\n") for role in ("tool", "user"))
        suffix = _trusted(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
        return ChatFormat(tokenizer, config, eot, observed, suffix, said, suffix)
    return _template_format(tokenizer, config)


def _template_format(tokenizer: Tokenizer, config: TemplatePrompt) -> ChatFormat:
    end_of_turn, *observation = _template_frame(tokenizer, "tool")
    before_user, *user = _template_frame(tokenizer, "user")
    if before_user != end_of_turn:
        raise PromptUnusable(
            f"chat template: token {end_of_turn} ends a turn before a tool message and token {before_user} before a "
            f"user's; expected one end-of-turn token; {_REMEDY}"
        )
    return ChatFormat(tokenizer, config, end_of_turn, *observation, *user)


def _template_frame(tokenizer: Tokenizer, role: str) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The end-of-turn token, and what stands before and behind a message of this role that follows it."""
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": _TURN},
        {"role": role, "content": _TEXT},
    ]
    rendered = _render(tokenizer, messages)
    if rendered.count(_TURN) != 1 or rendered.count(_TEXT) != 1 or rendered.index(_TURN) > rendered.index(_TEXT):
        raise PromptUnusable(
            f"chat template: it does not render a {role} message once behind an assistant turn; {_REMEDY}"
        )
    prefix, suffix = rendered.partition(_TURN)[2].split(_TEXT)
    prefix_ids = _trusted(tokenizer, prefix)
    if not prefix_ids or prefix_ids[0] not in tokenizer.all_special_ids:
        raise PromptUnusable(
            f"chat template: {prefix[:20]!r} follows an assistant turn, expected a special token; {_REMEDY}"
        )
    return prefix_ids[0], prefix_ids[1:], _trusted(tokenizer, suffix)


def _render(tokenizer: Tokenizer, messages: list[dict[str, Any]], **options: Any) -> str:
    if tokenizer.chat_template is None:
        raise PromptUnusable(f"chat template: the model has none; {_REMEDY}")
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options))
    except TemplateError as error:
        raise PromptUnusable(f"chat template: it refuses a conversation with tools ({error}); {_REMEDY}") from error


def _tool_line(config: CompactPrompt, tools: Sequence[ToolSpec]) -> str:
    if config.tool_lines == "none":
        return ""
    lines = (tool.signature() if config.tool_lines == "signatures" else tool.name for tool in tools)
    return f"Tools: {' '.join(lines)}"


def _trusted(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

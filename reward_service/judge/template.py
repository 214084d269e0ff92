"""The packaged texts of the judge's prompt: `template.txt`, cut into its named sections."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.resources import files

_HEADING = re.compile(r"^=== (\w+) ===\n", re.MULTILINE)


@functools.cache
def template_text() -> str:
    """The whole file."""
    return files("reward_service.judge").joinpath("template.txt").read_text(encoding="utf-8")


@functools.cache
def sections() -> Mapping[str, str]:
    """Texts by section, without the last newline; `$name` is a place to fill (`string.Template`)."""
    parts = _HEADING.split(template_text())[1:]
    return {name: text.removesuffix("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}

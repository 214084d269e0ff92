"""The words by which frameworks say how a tool call ended, and what they mean to us.

Owns `named_status` and `means_failure`. Pure. A word that nobody here knows is an error: read as a success, or
as nothing, it would reward a call that failed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tool_sandbox.tools import CallStatus

_OTHER_WORDS: Mapping[CallStatus, tuple[str, ...]] = {
    CallStatus.OK: ("success", "succeeded", "successful", "completed", "complete", "done"),
    CallStatus.TOOL_ERROR: ("error", "errored", "failed", "failure", "fail", "exception"),
    CallStatus.INVALID_ARGUMENTS: ("invalid",),
    CallStatus.TIMEOUT: ("timed_out",),
    CallStatus.DENIED: ("forbidden",),
}
_WORDS = {status.value: status for status in CallStatus} | {
    word: status for status, words in _OTHER_WORDS.items() for word in words
}
_JOINTS = re.compile(r"[\s-]+")
_SHOWN_CHARACTERS = 64


def named_status(word: str) -> CallStatus:
    """The status that `word` names, in capitals or not.

    Raises:
        ValueError: nobody knows the word.
    """
    found = _WORDS.get(_plain(word))
    if found is None:
        raise ValueError(
            f"found the status {word[:_SHOWN_CHARACTERS]!r}; expected one of {', '.join(_WORDS)}, "
            "or none, and then the result's text decides"
        )
    return found


def means_failure(word: str) -> bool:
    """Whether `word` names a status other than ok; a word that nobody knows does not."""
    return _WORDS.get(_plain(word), CallStatus.OK) is not CallStatus.OK


def _plain(word: str) -> str:
    return _JOINTS.sub("_", word.strip().casefold())

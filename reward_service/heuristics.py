"""How a tool call ended, read from its result alone: for trajectories of others, whose results carry no typed status.

Owns `inferred_status`. Pure. The published rules look for "error" and "wrong" anywhere in the text (StepTool,
`annotation_by_rules`), which fails a call whose honest result contains such a word; these look at the place where tools
put their failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from reward_service.python_objects import written_by_python
from reward_service.statuses import means_failure
from tool_sandbox.tools import CallStatus

_READ_CHARACTERS = 4096
"""A failure says so at its beginning."""
_ERROR_FIELDS = ("error", "errors", "exception", "error_message", "error_code")
_FLAGS_OF_SUCCESS = ("success", "ok", "succeeded")
_FLAGS_OF_FAILURE = ("isError", "is_error", "failed")
_STATUS_FIELDS = ("status", "status_code", "statusCode", "code")
_FIRST_REFUSAL = 400
_TEXT_FIELDS = ("response", "result", "message", "content")
"""Where a wrapper such as ToolBench's `{"error": "", "response": …}` keeps what the tool itself said."""
_REASONS = (
    "bad request|unauthorized|forbidden|not found|method not allowed|request timeout|conflict|gone|payload too large|"
    "unprocessable (?:entity|content)|too many requests|internal server error|not implemented|bad gateway|"
    "service unavailable|gateway timeout"
)
_NOUNS = "argument|parameter|input|tool|function|request|key|value|format"
_FAILED_TEXT = re.compile(
    rf"""\s*(?:
        (?:(?:fatal|unexpected|internal|server)\s+)*error(?:\s+code)?(?:\s*[:!(.]|\s*$|\s+[45]\d\d\b)
      | (?-i:[A-Za-z_.]*\w(?:Error|Exception))\s*(?::|$|\()
      | traceback\s\(most\srecent\scall\slast\)
      | http(?:/\d(?:\.\d)?)?\s+[45]\d\d\b
      | [45]\d\d\s+(?:client\s+error|server\s+error|{_REASONS.replace(" ", chr(92) + "s")})\b
      | (?:invalid|unknown|unsupported|missing)\s+(?:\w+\s+){{0,2}}(?:{_NOUNS})s?\b
      | (?:request|call|tool|operation|command)\s+(?:has\s+)?(?:failed|timed\sout)\b
      | (?:access|permission)\s+denied\b
      | please\s+(?:provide|specify|enter|check|try|use|supply|give)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def inferred_status(text: str) -> CallStatus:
    """OK, or TOOL_ERROR where the result says that the call failed.

    An object, of JSON or as Python writes one, fails by a filled error field, by a flag, by a word of failure, or by an
    HTTP status of 400 and above; a list fails where each of its entries does. A text fails by how it begins: an error's
    name, a traceback, an HTTP error line, a refused argument, or `Please provide …`. An empty result, and a result that
    mentions an error further on, is a result.
    """
    return CallStatus.TOOL_ERROR if _failed(text) else CallStatus.OK


def _failed(text: str) -> bool:
    value = _parsed(text)
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        return bool(entries) and all(map(_entry_failed, entries))
    return _entry_failed(value)


def _parsed(text: str) -> Any:
    """What a text of JSON or of Python holds, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        objects = written_by_python(text[:_READ_CHARACTERS])
        return list(map(_raised, objects)) or text


def _raised(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object of nothing but an empty error, as Python writes it, is what becomes of an error without a message."""
    return {"failed": True} if fields == {"error": ""} else fields


def _entry_failed(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _object_failed(cast("Mapping[str, Any]", value))
    return isinstance(value, str) and _FAILED_TEXT.match(value[:_READ_CHARACTERS]) is not None


def _object_failed(value: Mapping[str, Any]) -> bool:
    if any(_filled(value.get(name)) for name in _ERROR_FIELDS):
        return True
    if any(value.get(name) is False for name in _FLAGS_OF_SUCCESS):
        return True
    if any(value.get(name) is True for name in _FLAGS_OF_FAILURE):
        return True
    if any(_refuses(value.get(name)) for name in _STATUS_FIELDS):
        return True
    told = [value[name] for name in _TEXT_FIELDS if isinstance(value.get(name), str)]
    return bool(told) and _FAILED_TEXT.match(told[0][:_READ_CHARACTERS]) is not None


def _filled(value: Any) -> bool:
    """Whether an error field holds an error: `""`, `null`, `0`, `false`, `{}` and "none" do not."""
    return bool(value) and not (isinstance(value, str) and value.strip().casefold() in ("", "none", "null", "0"))


def _refuses(status: Any) -> bool:
    if isinstance(status, str):
        word = status.strip()
        return means_failure(word) or (word.isdecimal() and len(word) == 3 and int(word) >= _FIRST_REFUSAL)
    return isinstance(status, int) and not isinstance(status, bool) and _FIRST_REFUSAL <= status < 600

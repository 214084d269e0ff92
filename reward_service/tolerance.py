"""What stands between a body and its model: a malformed trajectory is put aside, and its neighbours are read.

Owns `one_by_one`, which the routes that take trajectories wrap around their requests. A request that fits costs nothing
more than its own validation. What does not fit elsewhere, as in the options, or in the number of trajectories, still
refuses the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from reward_service.wire import Identifier, MalformedItem
from tool_sandbox.http.problems import json_pointer

_FIELD = "trajectories"
_IDENTIFIER = TypeAdapter(Identifier)
_BOOL = TypeAdapter(bool)
_TOLD_CHARACTERS = 1000


def one_by_one(body: Any, read: Callable[[Any], Any]) -> Any:
    """`body` as `read` reads it, with a `MalformedItem` in the place of each trajectory that does not fit.

    Raises:
        ValidationError: it does not fit elsewhere, or `options.strict` is set.
    """
    try:
        return read(body)
    except ValidationError as error:
        spoilt = _spoilt(error)
        if not spoilt or _is_strict(body):
            raise
    items = [
        _malformed(place, item, spoilt[place]) if place in spoilt else item for place, item in enumerate(body[_FIELD])
    ]
    return read({**body, _FIELD: items})


def _spoilt(error: ValidationError) -> dict[int, list[Any]]:
    """The errors by the trajectory that they are in; none where one is outside of all trajectories."""
    found: dict[int, list[Any]] = {}
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        match one["loc"]:
            case ("trajectories", int(place), *_):
                found.setdefault(place, []).append(one)
            case ("trajectories",) if one["type"] == "too_short":
                # Pydantic says so, too, where all entries are wrong.
                continue
            case _:
                return {}
    return found


def _is_strict(body: Mapping[str, Any]) -> bool:
    """Whether the options, which fit, say so."""
    options = body.get("options")
    strict = cast("Mapping[str, Any]", options).get("strict", False) if isinstance(options, Mapping) else False
    return _BOOL.validate_python(strict)


def _malformed(place: int, item: object, errors: Sequence[Mapping[str, Any]]) -> MalformedItem:
    pointer = json_pointer(errors[0]["loc"])
    more = f" (and {len(errors) - 1} more errors in this trajectory)" if len(errors) > 1 else ""
    reason = f"{pointer}: {errors[0]['msg']}{more}"[:_TOLD_CHARACTERS]
    return MalformedItem(id=_name(place, item), malformed=reason, pointer=pointer)


def _name(place: int, item: object) -> str:
    name = cast("Mapping[str, Any]", item).get("id") if isinstance(item, Mapping) else None
    try:
        return _IDENTIFIER.validate_python(name, strict=True)
    except ValidationError:
        return json_pointer((_FIELD, place))

"""Python functions as tools: `@tool` reads the type hints and the docstring and makes a `FunctionTool`.

The hints become the JSON Schema of the arguments, and check and convert them before each call; the docstring (Google or
NumPy style) becomes the descriptions. A function that works on the state of its session says so by its first parameter,
annotated with a subclass of `SessionState`; the model does not see that parameter. Knows nothing of sessions and tiers:
see `in_process`.
"""

from __future__ import annotations

import inspect
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

import docstring_parser
from docstring_parser import Docstring, DocstringStyle
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from tool_sandbox.arguments import COMPLAINT_CHARACTERS, check_arguments, invalid_arguments
from tool_sandbox.errors import InvalidTool
from tool_sandbox.rendering import canonical_json, capped
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec, Trust

_KEYWORD_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class SessionState:
    """Base of the state that the tools of one session share: a dataclass or a pydantic model of plain data.

    It is copied by pickle, compared by its canonical JSON, and made anew (by calling the class) for every session.
    """


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A Python function that a model can call. Calling the object calls the function, as if it were not a tool."""

    spec: ToolSpec
    function: Callable[..., Any]
    state_type: type[SessionState] | None
    """What the function wants as its first argument; None where it wants no state."""
    arguments: type[BaseModel]
    """Validates the arguments of a call; its fields stand in the order of `names`."""
    names: tuple[str, ...]
    """The parameters that the model sees."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def run(self, call: ToolCall, state: SessionState | None, output_characters: int) -> ToolResult:
        """Run one call on the state of its session, which it may change. What the function raises is a `TOOL_ERROR`.

        Raises:
            InvalidTool: the function gave back something that is neither text nor JSON.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        result = self._checked(call, state, output_characters)
        return replace(result, wall_seconds=time.perf_counter() - wall, cpu_seconds=time.thread_time() - cpu)

    def _checked(self, call: ToolCall, state: SessionState | None, output_characters: int) -> ToolResult:
        try:
            complaint = check_arguments(self.spec, call)
            if complaint is not None:
                return invalid_arguments(call, complaint)
            values = self.arguments.model_validate(dict(call.arguments))
        except ValidationError as error:
            return invalid_arguments(call, _complaint(self.spec, error))
        except RecursionError:
            return invalid_arguments(call, f"{self.spec.name}: arguments are nested too deep")
        status, content = self._apply(_keywords(self.names, values), state)
        return ToolResult(call.id, status, capped(content, output_characters))

    def _apply(self, keywords: Mapping[str, Any], state: SessionState | None) -> tuple[CallStatus, str]:
        leading = () if self.state_type is None else (state,)
        try:
            value = self.function(*leading, **keywords)
        except Exception as error:  # noqa: BLE001 - whatever a tool raises is the model's observation
            return CallStatus.TOOL_ERROR, f"error: {type(error).__name__}: {error}"
        return self._rendered(value)

    def _rendered(self, value: Any) -> tuple[CallStatus, str]:
        try:
            return CallStatus.OK, value if isinstance(value, str) else canonical_json(value)
        except ValueError as error:
            # A function that gives back what it was given can be made to do this by the model.
            return CallStatus.TOOL_ERROR, f"error: the result is {error}"
        except TypeError as error:
            raise InvalidTool(
                f"tool {self.spec.name!r}: gave back {error}; return text, or data that JSON can hold"
            ) from error


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...


@overload
def tool(
    *, trust: Trust = ..., read_only: bool = ..., family: str = ...
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    trust: Trust = Trust.IN_PROCESS,
    read_only: bool = True,
    family: str = "",
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool of a function: `@tool`, or `@tool(read_only=False, family="orders")`.

    The name is the function's, the description the text of its docstring before the sections. `trust` says where it may
    run, `read_only` that it changes no state, `family` which tools it belongs to.

    Raises:
        InvalidTool: no docstring, a parameter without a hint or one that JSON cannot express, a coroutine.
    """

    def decorate(plain: Callable[..., Any]) -> FunctionTool:
        return _function_tool(plain, trust, read_only, family)

    return decorate if function is None else decorate(function)


class _UntitledSchema(GenerateJsonSchema):
    """JSON Schema without the titles that pydantic derives from names: they cost context and say nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _function_tool(function: Callable[..., Any], trust: Trust, read_only: bool, family: str) -> FunctionTool:
    name = getattr(function, "__name__", repr(function))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTool(
            f"tool {name!r}: is asynchronous; a tool is an ordinary function, which may block its session"
        )
    documented = _documented(name, function)
    hints = _hints(name, function)
    parameters = dict(inspect.signature(function).parameters)
    state_type = _take_state(name, parameters, hints)
    arguments = _arguments_model(name, parameters, hints, documented)
    spec = ToolSpec(name, _description(documented), _schema(name, arguments), family, trust, read_only)
    return FunctionTool(spec, function, state_type, arguments, tuple(parameters))


def _documented(name: str, function: Callable[..., Any]) -> Docstring:
    text = inspect.getdoc(function)
    if not text:
        raise InvalidTool(f"tool {name!r}: has no docstring; write what it does, the model reads that")
    numpy = docstring_parser.parse(text, DocstringStyle.NUMPYDOC)
    google = docstring_parser.parse(text, DocstringStyle.GOOGLE)
    return numpy if len(numpy.meta) > len(google.meta) else google


def _description(documented: Docstring) -> str:
    parts = (documented.short_description, documented.long_description)
    return "\n".join(part for part in parts if part)


def _hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidTool(
            f"tool {name!r}: a type hint cannot be resolved ({error}); define its types at the top of the module"
        ) from error


def _take_state(
    name: str, parameters: dict[str, inspect.Parameter], hints: Mapping[str, Any]
) -> type[SessionState] | None:
    """Remove the state from the parameters and give its type; None where the function has none."""
    states = [each for each in parameters if _is_state(hints.get(each))]
    if not states:
        return None
    if states != [next(iter(parameters))]:
        raise InvalidTool(f"tool {name!r}: takes session state in {states}; expected it as the first parameter alone")
    del parameters[states[0]]
    return hints[states[0]]


def _is_state(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, SessionState)


def _arguments_model(
    name: str, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], documented: Docstring
) -> type[BaseModel]:
    described = {each.arg_name: each.description for each in documented.params}
    unknown = set(described) - set(parameters)
    if unknown:
        raise InvalidTool(
            f"tool {name!r}: its docstring describes {sorted(unknown)}, found the parameters {list(parameters)}; "
            "correct the docstring"
        )
    fields: dict[str, Any] = {}
    for position, parameter in enumerate(parameters.values()):
        hint = _hint(name, parameter, hints)
        default = ... if parameter.default is parameter.empty else parameter.default
        # Fields are numbered, so that a parameter may be called `copy` or `schema` like a method of the model.
        fields[_field(position)] = (
            hint,
            Field(default, alias=parameter.name, description=described.get(parameter.name)),
        )
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except PydanticUserError as error:
        raise InvalidTool(
            f"tool {name!r}: a parameter has a type that JSON cannot express ({_first_line(error)}); use plain types, "
            "dataclasses or pydantic models"
        ) from error


def _hint(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    if parameter.kind not in _KEYWORD_KINDS:
        raise InvalidTool(f"tool {name!r}: has the parameter {str(parameter)!r}; expected each to be passed by name")
    if parameter.name not in hints:
        raise InvalidTool(f"tool {name!r}: parameter {parameter.name!r} has no type hint; give it one")
    return hints[parameter.name]


def _schema(name: str, arguments: type[BaseModel]) -> dict[str, Any]:
    try:
        schema = arguments.model_json_schema(schema_generator=_UntitledSchema)
    except PydanticUserError as error:
        raise InvalidTool(
            f"tool {name!r}: a parameter has no JSON Schema ({_first_line(error)}); use plain types, dataclasses or "
            "pydantic models"
        ) from error
    return {key: value for key, value in schema.items() if key != "title"} | {
        "properties": schema.get("properties", {})
    }


def _keywords(names: tuple[str, ...], values: BaseModel) -> dict[str, Any]:
    return {name: getattr(values, _field(position)) for position, name in enumerate(names)}


def _field(position: int) -> str:
    return f"argument_{position}"


def _complaint(spec: ToolSpec, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or spec.name
    return f"{where}: {first['msg']}"[:COMPLAINT_CHARACTERS]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

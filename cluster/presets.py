"""From a preset and its overrides to a `RunConfig`. Owns reading, merging and the messages for what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cluster.config import RunConfig
from cluster.errors import BadConfiguration

PRESETS = Path(__file__).resolve().parent.parent / "deploy" / "presets"


def preset_names() -> tuple[str, ...]:
    """Presets that ship with the project."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load_config(preset: str, overrides: Sequence[str] = (), *, deterministic: bool = False) -> RunConfig:
    """Resolve a preset's name or path and `a.b=c` overrides.

    Raises:
        BadConfiguration: no such preset, unknown setting, or a value that does not fit.
    """
    path = _preset_path(preset)
    settings = _read(path)
    for override in overrides:
        _apply(settings, override)
    if deterministic:
        _make_deterministic(settings)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise BadConfiguration(_explain(path, error)) from error


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML; loading it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def setting_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted setting, through all variants of a discriminated union."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for nested in _models(field.annotation):
            yield from setting_names(nested, f"{prefix}{name}.")


def _preset_path(preset: str) -> Path:
    named = PRESETS / f"{preset}.yaml"
    if named.is_file():
        return named
    path = Path(preset)
    if path.is_file():
        return path
    close = difflib.get_close_matches(preset, preset_names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise BadConfiguration(
        f"preset {preset!r}: neither a preset nor a file; {hint}presets are {', '.join(preset_names())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BadConfiguration(f"preset {path}: not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise BadConfiguration(f"preset {path}: found {type(settings).__name__}, expected a mapping of settings")
    return settings


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise BadConfiguration(f"override {override!r}: expected setting=value, as in loop.iterations=50")
    known = set(setting_names())
    if key not in known:
        raise BadConfiguration(f"override {override!r}: no setting {key!r}; {_nearest(key, known)}")
    *parents, leaf = key.split(".")
    node = settings
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise BadConfiguration(f"override {override!r}: {name} is set to {node!r}, expected a mapping of settings")
    value = _value(override, text)
    if leaf == "kind":
        # Another variant has other settings: those of the old one do not carry over.
        node.clear()
    node[leaf] = value


def _value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfiguration(f"override {override!r}: the value is not valid YAML; quote it") from error


def _make_deterministic(settings: dict[str, Any]) -> None:
    settings["deterministic"] = True
    settings.setdefault("learner", {})["dtype"] = "float32"
    settings.setdefault("rollout", {}).setdefault("engine", {})["dtype"] = "float32"


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"preset {path}: {error.error_count()} setting(s) cannot be used"]
    known = set(setting_names())
    for item in error.errors():
        name = _setting_name(item["loc"])
        hint = f" {_nearest(name, known)}" if item["type"] == "extra_forbidden" else f" found {item['input']!r}"
        lines.append(f"  {name}: {item['msg']};{hint}")
    return "\n".join(lines)


def _setting_name(location: Sequence[str | int]) -> str:
    """The dotted name that a person writes: pydantic also lists the kind by which it chose a variant."""
    names: list[str] = []
    model: Any = RunConfig
    for part in map(str, location):
        fields = {name: field.annotation for one in _models(model) for name, field in one.model_fields.items()}
        kinds = {str(one.model_fields["kind"].default): one for one in _models(model) if "kind" in one.model_fields}
        if part in kinds and part not in fields:
            # Variants may have fields of one name and different types.
            model = kinds[part]
            continue
        names.append(part)
        model = fields.get(part)
    return ".".join(names)


def _nearest(name: str, known: set[str]) -> str:
    """The closest setting, by its last part where its parent is right."""
    siblings = {k for k in known if k.rpartition(".")[0] == name.rpartition(".")[0]}
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.5) or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "`steptool train --dry-run` lists all settings"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)

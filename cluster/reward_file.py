"""Reads a reward configuration from a YAML file, for the commands that take one by `--reward`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.errors import BadConfiguration
from reward_service.config import RewardConfig


def read_rewards(path: Path) -> RewardConfig:
    """The configuration of a file.

    Raises:
        BadConfiguration: it cannot be read, is no YAML, or has settings that do not fit.
    """
    try:
        found: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return RewardConfig.model_validate(found)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise BadConfiguration(f"--reward {path}: {error}") from error

"""Settings of the store: where results are kept. Loads no database library.

No credential stands here: a PostgreSQL URL comes from the environment, and only the variable's name is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class StoreSettings(BaseModel):
    """Frozen settings that refuse unknown keys, and whose errors never show what was typed: it may be a credential."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NoStore(StoreSettings):
    """Keep nothing: every result is computed whenever it is asked for."""

    kind: Literal["none"] = "none"


class SqliteStore(StoreSettings):
    """One file, for all processes of one machine."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path
    """Created, with its directory, if it is not there. Not on a network file system: SQLite's locks fail on some."""


class PostgresStore(StoreSettings):
    """A PostgreSQL database, for replicas on any number of machines."""

    kind: Literal["postgresql"] = "postgresql"
    url_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the environment variable that holds `postgresql://user:password@host:port/database`."""


StoreConfig = Annotated[NoStore | SqliteStore | PostgresStore, Field(discriminator="kind")]

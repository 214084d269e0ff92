"""`steptool serve-tools`: the sandbox pool over HTTP, for other trainers.

Owns the command, its settings file and where its keys come from; the service itself is `tool_sandbox.http`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import BadConfiguration, NotEnoughResources
from cluster.exit_codes import exit_codes
from tool_sandbox.attacks.canaries import verify
from tool_sandbox.client import LocalSandbox, SandboxClient
from tool_sandbox.config import MIB, HttpConfig, PoolConfig, SandboxConfig
from tool_sandbox.errors import InvalidKeys, SandboxUnavailable
from tool_sandbox.http.keys import ApiKeys, refuse_open_door
from tool_sandbox.http.run_code import RUN_CODE_TOOL
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.sandbox import Sandbox

KEYS_VARIABLE = "STEPTOOL_SANDBOX_KEYS"
_SERVICE = "sandbox service"


class ServeToolsConfig(BaseModel):
    """Everything that the service is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    http: HttpConfig = HttpConfig()
    """What is offered, and how much at once."""
    pool: PoolConfig = PoolConfig()
    """Sessions of episodes."""
    programs: SandboxConfig = SandboxConfig(output_bytes=MIB)
    """Budgets of the programs of /run_code: upper bounds, which a request may only narrow."""


def serve_tools(
    host: Annotated[str, typer.Option(help="Address to listen at; beyond loopback only with keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8090,
    config: Annotated[Path | None, typer.Option(help="YAML file with the sections http, pool and programs.")] = None,
    actors: Annotated[
        int, typer.Option(help="Sandbox actors to use on the Ray that runs here; 0 keeps sessions here.", min=0)
    ] = 0,
    namespace: Annotated[str | None, typer.Option(help="Ray namespace of the sandbox actors.")] = None,
) -> None:
    """Serve tools to other trainers: SandboxFusion's /run_code and OpenEnv's reset, step and state.

    Keys come from [bold]STEPTOOL_SANDBOX_KEYS[/] or from the file that [bold]STEPTOOL_SANDBOX_KEYS_FILE[/] names:
    one name:sha256-of-the-key a line. The file may change meanwhile. Without keys, only this machine is let in.
    """
    with exit_codes():
        _serve(_settings(config), host, port, actors, namespace)


def _serve(config: ServeToolsConfig, host: str, port: int, actors: int, namespace: str | None) -> None:
    keys = _keys(host)
    from tool_sandbox.http.app import build_app
    from tool_sandbox.http.server import ServerLimits, listen, serve

    try:
        listener = listen(host, port)
    except OSError as error:
        raise BadConfiguration(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from error
    with listener, _client(config.pool, actors, namespace) as client, _programs(config.programs) as programs:
        address = f"http://{host}:{listener.getsockname()[1]}"
        behind = f"programs behind {programs.level.value}"
        typer.echo(f"serving tools at {address} with {len(keys.resolved().entries)} keys, {behind}; stop with Ctrl-C")
        serve(build_app(config.http, client, keys, programs), ServerLimits.of(config.http), listener)


def _settings(path: Path | None) -> ServeToolsConfig:
    if path is None:
        return ServeToolsConfig()
    try:
        return ServeToolsConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise BadConfiguration(f"--config {path}: {error}") from error


def _keys(host: str) -> ApiKeys:
    named = {KEYS_VARIABLE, f"{KEYS_VARIABLE}_FILE"} & os.environ.keys()
    try:
        keys = ApiKeys.load(os.environ, KEYS_VARIABLE) if named else ApiKeys.nobody_asked()
        refuse_open_door(_SERVICE, host, keys)
    except InvalidKeys as error:
        raise BadConfiguration(f"{error} (variable {KEYS_VARIABLE} or {KEYS_VARIABLE}_FILE)") from error
    except ValueError as error:
        raise BadConfiguration(f"--host {host}: expected an IP address or localhost ({error})") from error
    return keys


@contextmanager
def _programs(config: SandboxConfig) -> Iterator[Sandbox]:
    """Where the programs of /run_code run, on this machine; attacked first, and refused where it does not hold."""
    sandbox = IsolatedSandbox([RUN_CODE_TOOL], config, verify(config).level)
    try:
        yield sandbox
    finally:
        sandbox.close()


@contextmanager
def _client(config: PoolConfig, actors: int, namespace: str | None) -> Iterator[SandboxClient]:
    """Where the episodes' sessions are: in this process, or in the sandbox actors of a running Ray."""
    if actors == 0:
        yield LocalSandbox(config)
        return
    import ray

    from tool_sandbox.pool import RaySandboxPool

    try:
        ray.init(address="auto", namespace=namespace, log_to_driver=False)
        pool = RaySandboxPool.connect(actors, config, namespace)
    except (ConnectionError, SandboxUnavailable) as error:
        raise NotEnoughResources(f"--actors {actors}: {error}") from error
    try:
        yield pool
    finally:
        ray.shutdown()

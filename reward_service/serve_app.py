"""The reward service on Ray Serve: one HTTP application, any number of replicas without a GPU, and behind them judge
and step model, where a recipe asks for them, each in a deployment of its own.

Consumes a `RewardConfig` and the keys; produces a Serve application. `build` is what a Serve YAML imports,
`start_rewards` is what a training job calls on the Ray that it already has. Loads Ray, as `learned.deployment` does.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, LoggingConfig
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_service.assembly import assembled
from reward_service.config import KEYS_VARIABLE, RewardConfig
from reward_service.errors import ServiceNotStarted, UnchangeableSetting
from reward_service.judge_deployment import RemoteJudge, judge_application
from reward_service.learned.deployment import RemoteStepModel, step_model_application
from reward_service.scaling import shutdown_options
from reward_service.scoring import Recipe
from reward_service.stats import Stats
from tool_sandbox.http.envelope import REQUEST_ID
from tool_sandbox.http.keys import ApiKeys, is_loopback, refuse_open_door

_ONGOING_REQUESTS = 32
"""Per replica. Serve's default of 5 would queue a training job behind itself."""
_QUEUED_REQUESTS = 32
"""Serve's proxy asks replicas again and again for each that waits: with 256 it spent itself on that, and under overload
gave half the answers and a third of the refusals (docs/measurements.md)."""
_RETRY_AFTER_SECONDS = 1
_POLL_SECONDS = 0.1
_REQUEST_SECONDS = 60.0
_SCORING_SHARE = 5 / 6
"""Of what Serve gives a request: the rest is for its way, its wait for a replica, and its answer."""
_SHUTDOWN_SECONDS = _REQUEST_SECONDS + 5.0
"""For requests in flight. No request is older: Serve's proxy gives it up."""
_GONE_SECONDS = _SHUTDOWN_SECONDS + 30.0
_PROBE_SECONDS = 5.0


@serve.deployment(
    name="rewards",
    max_ongoing_requests=_ONGOING_REQUESTS,
    max_queued_requests=_QUEUED_REQUESTS,
    **shutdown_options(_SHUTDOWN_SECONDS),
    backpressure_config={"status_code": 429, "retry_after_s": _RETRY_AFTER_SECONDS},
)
@serve.ingress()
class RewardReplica:
    """One replica: a shell around `build_app`. Its `user_config` replaces fields of the configuration while it runs."""

    async def __init__(
        self,
        config: Mapping[str, Any],
        keys: ApiKeys,
        step_model: DeploymentHandle | None = None,
        judge: DeploymentHandle | None = None,
    ) -> None:
        self._config = config
        self._keys = keys
        self._stack = AsyncExitStack()
        rewards = RewardConfig.model_validate(config)
        seconds = rewards.start_seconds
        model = None if step_model is None else await RemoteStepModel.connected(step_model, seconds)
        asked, stats = None, Stats()
        if judge is not None and rewards.judge is not None:
            asked = await RemoteJudge.connected(judge, rewards.judge, seconds, stats.judged)
        self._assembly = await self._stack.enter_async_context(assembled(rewards, model, asked, stats))
        await self._stack.enter_async_context(self._assembly.working())
        asking = asyncio.to_thread(_request_timeout)
        self._longest_seconds = longest_scoring(await asyncio.wait_for(asking, seconds))

    async def __del__(self) -> None:
        """Called by Serve when the replica has answered what it accepted."""
        await self._stack.aclose()

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Serve with every `user_config`: another recipe, from the next request on, without a restart.

        Raises:
            UnchangeableSetting: it would need another store, another judge or another step model.
        """
        self._assembly.use(_changed(self._config, user_config))

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that fails several times in a row."""
        await self._assembly.check_health()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _NamedByProxy(self._assembly.app(self._keys, longest_seconds=self._longest_seconds))


class _NamedByProxy:
    """An application without the request id on its answers: Serve's proxy adds that header to whatever comes back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def unnamed(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID]
            await send(message)

        await self._app(scope, receive, unnamed)


class _Address(NamedTuple):
    host: str
    port: int


class RewardAddress(NamedTuple):
    """Where a reward service is going to be."""

    port: int
    url: str


@dataclass(frozen=True, slots=True)
class RewardEndpoint:
    """A running reward service."""

    url: str
    """Without `/v1`; what `RewardClient` takes."""
    application: str
    reward_version: str
    started_serve: bool
    """Whether Serve itself was started for this service, so that stopping it may stop Serve."""


def build(args: dict[str, Any]) -> serve.Application:
    """The application for a Serve YAML; `args` are the fields of `RewardConfig`, keys come from the environment.

    A file of keys is read, and watched, by each replica where it runs.

    Raises:
        InvalidKeys: there are none; a YAML may bind to any address, so this way never runs without.
    """
    return _application(RewardConfig.model_validate(args), ApiKeys.load(os.environ, KEYS_VARIABLE))


def choose_address(application: str, host: str = "127.0.0.1") -> RewardAddress:
    """Where `start_rewards` will put a service: on the Serve that runs on this Ray, else on a free port of `host`.

    Lets a caller that starts much at once hand the address out before the service answers there.
    """
    address = _running_serve() or _Address(host, _free_port(host))
    return RewardAddress(address.port, _url(address, application))


def start_rewards(
    config: RewardConfig,
    keys: ApiKeys,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    application: str = "rewards",
) -> RewardEndpoint:
    """Run the service on the Ray that is already initialised, at `http://host:port/application`.

    Port 0 takes a free one, or that of a Serve which already runs. Returns once the service answers over HTTP.

    Raises:
        InvalidKeys: the address can be reached from elsewhere and there are no keys.
        StepModelUnusable: the step model is not here.
        ServiceNotStarted: no answer within `config.start_seconds`, or a running Serve listens elsewhere.
    """
    version = Recipe(config).version
    running = _running_serve()
    asked = _Address(host, port)
    for address in (asked, running or asked):
        refuse_open_door("reward service", address.host, keys)
    if running is not None and not _serves(running, asked):
        raise ServiceNotStarted(
            f"reward service: asked for {host}:{port}, but Serve already listens on {running.host}:{running.port} of "
            "this Ray cluster and has one address only; ask for 127.0.0.1 and port 0, or shut that Serve down"
        )
    address = running or _start_serve(_Address(host, port or _free_port(host)))
    url = _url(address, application)
    endpoint = RewardEndpoint(url, application, version, started_serve=running is None)
    target = serve.RunTarget(_application(config, keys), application, f"/{application}", _quiet())
    try:
        # `serve.run` would wait without a deadline when the cluster has no room for a replica.
        serve.run_many([target], wait_for_applications_running=False)
        _await_ready(endpoint, config)
    except Exception:
        _give_up(endpoint)
        raise
    return endpoint


def stop_rewards(endpoint: RewardEndpoint) -> None:
    """Take the service down, and Serve with it if it was started for this service and nothing else runs there.

    Requests that were accepted are answered first.

    Raises:
        TimeoutError: Serve did not do it.
    """
    # A blocking delete has a deadline of its own, which is shorter than a request may take.
    serve.delete(endpoint.application, _blocking=False)
    deadline = time.monotonic() + _GONE_SECONDS
    while endpoint.application in serve.status().applications:
        if time.monotonic() > deadline:
            raise TimeoutError(f"reward service {endpoint.url}: not gone after {_GONE_SECONDS:g} s; see `serve status`")
        time.sleep(_POLL_SECONDS)
    if endpoint.started_serve and not serve.status().applications:
        serve.shutdown()


def longest_scoring(request_timeout: float | None) -> float:
    """The longest deadline of a request that Serve gives up after `request_timeout` seconds; None: it never does.

    What is late gets its error inside the answer, which Serve would otherwise replace by one 408 for all.
    """
    return _SCORING_SHARE * request_timeout if request_timeout else math.inf


def _request_timeout() -> float | None:
    """After how many seconds the Serve that runs here gives a request up."""
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    return None if client is None else client.http_config.request_timeout_s


def _give_up(endpoint: RewardEndpoint) -> None:
    """Take a service down that did not come up: nobody waits for it, and Serve itself waits long for such replicas."""
    serve.delete(endpoint.application, _blocking=False)
    if endpoint.started_serve and not serve.status().applications.keys() - {endpoint.application}:
        serve.shutdown()


def _changed(config: Mapping[str, Any], user_config: Mapping[str, Any]) -> RewardConfig:
    fixed = sorted(set(user_config) - {"shaping", "signals"})
    if fixed:
        raise UnchangeableSetting(f"user_config: {fixed} cannot change while the service runs; put them into args")
    return RewardConfig.model_validate({**config, **user_config})


def _application(config: RewardConfig, keys: ApiKeys) -> serve.Application:
    deployment = RewardReplica.options(
        **config.replica_options, ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": 0}
    )
    step_model = None if config.step_model is None else step_model_application(config.step_model)
    judge = None if config.judge is None else judge_application(config.judge, config.store, _SHUTDOWN_SECONDS)
    return deployment.bind(config.model_dump(mode="json"), keys, step_model, judge)


def _url(address: _Address, application: str) -> str:
    return f"http://{_reachable(address.host)}:{address.port}/{application}"


def _running_serve() -> _Address | None:
    """Where the Serve that runs on this Ray listens; None where none runs. Ray has no public way to ask."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    if client.http_config.host is None:
        raise ServiceNotStarted("reward service: the Serve of this Ray cluster has no HTTP; shut that Serve down")
    return _Address(client.http_config.host, client.http_config.port)


def _serves(running: _Address, asked: _Address) -> bool:
    """Whether a Serve at `running` can be used by who asked for `asked`: loopback and port 0 take what there is."""
    return asked.port in (0, running.port) and (is_loopback(asked.host) or asked.host == running.host)


def _start_serve(address: _Address) -> _Address:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = HTTPOptions(host=address.host, port=address.port, request_timeout_s=_REQUEST_SECONDS)
    start = functools.partial(
        serve.start, proxy_location=ProxyLocation.HeadOnly, http_options=options, logging_config=_quiet()
    )
    try:
        start()
    except RayActorError:
        # Serve ends a proxy that is slow to start, as on a busy machine, and starts another. Connect to what it is
        # doing, and leave the waiting to the deadline of the service.
        start()
    return address


def _quiet() -> LoggingConfig:
    return LoggingConfig(log_level="WARNING", enable_access_log=False)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return listener.getsockname()[1]


def _reachable(host: str) -> str:
    """The host to call: a proxy that listens everywhere is called at the head node, where it runs."""
    if host in ("0.0.0.0", "::"):
        return ray.get_runtime_context().gcs_address.rpartition(":")[0]
    return host


def _await_ready(endpoint: RewardEndpoint, config: RewardConfig) -> None:
    """Wait until the service answers over HTTP with the version that it was started for."""
    deadline = time.monotonic() + config.start_seconds
    found = "nothing yet"
    while time.monotonic() < deadline:
        state = serve.status().applications[endpoint.application]
        found = f"{state.status.value} {state.message}".strip()
        if state.status is ApplicationStatus.DEPLOY_FAILED:
            break
        if state.status is ApplicationStatus.RUNNING:
            found = _served_version(endpoint.url)
            if found == endpoint.reward_version:
                return
        time.sleep(_POLL_SECONDS)
    raise ServiceNotStarted(
        f"reward service {endpoint.url}: not ready within {config.start_seconds:g} s, last: {found}; it needs "
        f"{_needed(config)}, see `ray status` and Serve's logs"
    )


def _needed(config: RewardConfig) -> str:
    needed = [f"{config.replicas} x {config.cpus_per_replica:g} CPUs of Ray"]
    if (judge := config.judge) is not None:
        needed.append(f"{judge.replicas} x {judge.cpus_per_replica:g} CPUs for the judge")
    if (model := config.step_model) is not None:
        each = f"{model.cpus_per_replica:g} CPUs and {model.gpus_per_replica:g} GPUs"
        needed.append(f"{model.replicas} x {each} for the step model")
    return ", and ".join(needed)


def _served_version(url: str) -> str:
    try:
        response = httpx.get(f"{url}/readyz", timeout=_PROBE_SECONDS, trust_env=False)
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    return response.json()["reward_version"] if response.is_success else f"status {response.status_code}"

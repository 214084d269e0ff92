"""The HTTP face of the sandbox, as a FastAPI application that any ASGI server can run.

Consumes a `SandboxClient`, for OpenEnv's episodes, and a `Sandbox` that runs CPython, for SandboxFusion's `/run_code`;
produces `POST /run_code`, `POST /reset`, `POST /step`, `GET /state`, `/ws`, `GET /schema`, `GET /health`. What does
something wants a key, if there are any.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from tool_sandbox.client import SandboxClient
from tool_sandbox.config import HttpConfig
from tool_sandbox.errors import (
    CorruptTask,
    InvalidTool,
    LeaseLost,
    NoSuchTask,
    SandboxFull,
    SandboxUnavailable,
    UnknownToolset,
)
from tool_sandbox.http import problems, run_code
from tool_sandbox.http.conversation import converse
from tool_sandbox.http.door import Door
from tool_sandbox.http.episodes import EpisodeBusy, EpisodeOver, Episodes, NoSuchEpisode
from tool_sandbox.http.guard import RETRY_AFTER_SECONDS, Gate, caller, guarded_by
from tool_sandbox.http.keys import ApiKeys, Scope
from tool_sandbox.http.openenv import (
    Action,
    Health,
    Observation,
    ResetRequest,
    Schema,
    State,
    StepRequest,
    StepResponse,
)
from tool_sandbox.run_code import PATH, RunCodeRequest, RunCodeResponse
from tool_sandbox.sandbox import Sandbox
from tool_sandbox.tools import ToolResult

_STATUS_OF = {
    UnknownToolset: 422,
    NoSuchTask: 422,
    CorruptTask: 422,
    NoSuchEpisode: 404,
    LeaseLost: 404,
    EpisodeBusy: 409,
    EpisodeOver: 409,
    SandboxFull: 429,
    SandboxUnavailable: 503,
    TimeoutError: 503,
}
"""What an error of this floor is in HTTP."""
_TRY_AGAIN = frozenset({429, 503})
_SWEEP_SECONDS = 10.0


def build_app(config: HttpConfig, client: SandboxClient, keys: ApiKeys, sandbox: Sandbox | None = None) -> FastAPI:
    """The application; `keys` without an entry lets every caller in. Closes the episodes it opened, not its arguments.

    Without `sandbox`, `/run_code` answers with the protocol's own error.

    Raises:
        InvalidTool: `sandbox` does not hold `run_code.RUN_CODE_TOOL`.
        InvalidKeys: the file of `keys` cannot be used.
    """
    door, gate, episodes = Door(keys), Gate(config.max_requests), Episodes(client, config)
    programs = Programs(sandbox, config, gate)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(episodes))
        yield
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper
        await episodes.close()
        programs.close()

    # The interactive pages load scripts from the public internet; the schema itself stays at /openapi.json. A redirect
    # would lead to wherever the Host header says.
    app = FastAPI(
        title="StepTool sandbox", version="1", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    problems.install(app, "the sandbox service")
    _install_refusals(app)
    route = guarded_by(door, Scope.TOOLS, config.max_body_bytes, "send less code or smaller files")
    app.include_router(_program_router(programs, APIRouter(route_class=route)))
    app.include_router(_episode_router(episodes, gate, APIRouter(route_class=route)))
    app.include_router(_open_router())

    @app.websocket("/ws")
    async def conversation(socket: WebSocket) -> None:
        await converse(socket, episodes, door, gate)

    return app


class Programs:
    """Runs the programs of `/run_code`, each in a session of its own, on threads of its own."""

    def __init__(self, sandbox: Sandbox | None, config: HttpConfig, gate: Gate) -> None:
        """Raises `InvalidTool` where the sandbox cannot run them."""
        wanted = run_code.RUN_CODE_TOOL.spec
        if sandbox is not None and wanted not in sandbox.specs():
            names = [spec.name for spec in sandbox.specs()]
            raise InvalidTool(f"run_code: the sandbox has the tools {names}; give it http.run_code.RUN_CODE_TOOL too")
        self._sandbox = sandbox
        self._seconds = config.call_seconds
        self._gate = gate
        self._threads = ThreadPoolExecutor(config.max_requests, thread_name_prefix="run-code")

    async def run(self, request: RunCodeRequest) -> RunCodeResponse:
        """The answer to a request. Raises HTTP 429 and 503 where there is no room."""
        refusal = run_code.refusal(request)
        if refusal is not None or self._sandbox is None:
            return run_code.failure(refusal or "this service was started without a sandbox for programs")
        leave = self._gate.enter()
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._call, self._sandbox, request)
        # Whoever stops waiting does not stop the work: its place is taken until it ends.
        work.add_done_callback(lambda done: (leave(), done.exception()))
        try:
            async with asyncio.timeout(self._seconds):
                return run_code.answer(await asyncio.shield(work))
        except TimeoutError:
            return run_code.failure(f"no result in {self._seconds:g} s")

    def close(self) -> None:
        """Let programs at work end, and take no more."""
        self._threads.shutdown(wait=False)

    def _call(self, sandbox: Sandbox, request: RunCodeRequest) -> ToolResult:
        session = sandbox.open()
        try:
            return session.call(run_code.call_of(request))
        finally:
            session.close()


def _program_router(programs: Programs, router: APIRouter) -> APIRouter:
    @router.post(PATH)
    async def run(request: RunCodeRequest) -> RunCodeResponse:
        return await programs.run(request)

    return router


def _episode_router(episodes: Episodes, gate: Gate, router: APIRouter) -> APIRouter:
    @router.post("/reset")
    async def reset(http: Request, request: ResetRequest | None = None) -> StepResponse:
        with gate.place():
            return await episodes.reset(caller(http), request or ResetRequest())

    @router.post("/step")
    async def step(http: Request, request: StepRequest) -> StepResponse:
        with gate.place():
            return await episodes.step(caller(http), request)

    @router.get("/state")
    async def state(http: Request, episode_id: str) -> State:
        with gate.place():
            return await episodes.state(caller(http), episode_id)

    return router


def _open_router() -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> Health:
        return Health()

    @router.get("/schema")
    async def schema() -> Schema:
        return Schema(
            action=TypeAdapter(Action).json_schema(),
            observation=Observation.model_json_schema(),
            state=State.model_json_schema(),
        )

    return router


def _install_refusals(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> JSONResponse:
        status = next(status for kind, status in _STATUS_OF.items() if isinstance(error, kind))
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in _TRY_AGAIN else None
        return problems.problem(status, str(error) or "the sandbox did not answer in time", headers=headers)

    for kind in _STATUS_OF:
        app.add_exception_handler(kind, refused)


async def _sweep(episodes: Episodes) -> None:
    """Close forgotten episodes also while nobody asks for anything."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        await episodes.expire()

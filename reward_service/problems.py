"""The errors of the reward service as problem documents; those of any service are in `tool_sandbox.http.problems`."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from reward_service.errors import RequestRefused, RewardVersionMismatch, ScorerUnavailable
from reward_service.store.errors import BatchNotFound, StoreUnavailable, TooManyBatches
from reward_service.wire import ITEMS_REFUSED, VERSION_MISMATCH
from tool_sandbox.http import problems
from tool_sandbox.http.problems import problem

RETRY_AFTER_SECONDS = 1
BATCH_RETRY_SECONDS = 5
"""Until one of many batches may be finished."""


def install(app: FastAPI) -> None:
    """Let every error of `app` leave as a problem document."""
    problems.install(app, "the reward service")

    @app.exception_handler(RewardVersionMismatch)
    async def mismatch(request: Request, error: RewardVersionMismatch) -> JSONResponse:
        return problem(409, str(error), kind=VERSION_MISMATCH, expected=error.expected, found=error.found)

    @app.exception_handler(RequestRefused)
    async def strict(request: Request, error: RequestRefused) -> JSONResponse:
        return problem(422, str(error), kind=ITEMS_REFUSED, reasons=dict(error.reasons))

    @app.exception_handler(BatchNotFound)
    async def unknown(request: Request, error: BatchNotFound) -> JSONResponse:
        return problem(404, str(error))

    @app.exception_handler(TooManyBatches)
    async def full(request: Request, error: TooManyBatches) -> JSONResponse:
        return problem(429, str(error), headers={"Retry-After": str(BATCH_RETRY_SECONDS)})

    @app.exception_handler(StoreUnavailable)
    @app.exception_handler(ScorerUnavailable)
    async def unavailable(request: Request, error: ScorerUnavailable | StoreUnavailable) -> JSONResponse:
        return problem(503, str(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)})

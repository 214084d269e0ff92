"""A judge that needs no model: an OpenAI-compatible server that grades everything alike, and counts what it is asked.

Owns `StubJudge`, for measurements of what stands around a judge. It answers in the form that the request's schema asks
for; the judge that asks it has no defences, since there is nothing to deceive.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from reward_service.judge.config import JudgeConfig

ANSWER_SECONDS = 0.05
"""How long it thinks."""
_STOP_SECONDS = 5


class StubJudge:
    """One server on loopback."""

    def __init__(self, listener: socket.socket) -> None:
        self.calls: Counter[str] = Counter()
        """By a hash of what was asked."""
        self.cut_off = 0
        """Calls whose asker was gone before the answer was ready."""
        self._listener = listener
        self._app = FastAPI()
        self._app.post("/v1/chat/completions", response_model=None)(self._complete)

    def config(self, votes: int) -> JudgeConfig:
        """How to ask it."""
        host, port = self._listener.getsockname()[:2]
        return JudgeConfig(url=f"http://{host}:{port}", model="stub", votes=votes, defences=frozenset())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer while the body runs."""
        server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                log_level="warning",
                access_log=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        task = asyncio.create_task(server.serve([self._listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task

    async def _complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.calls[hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()] += 1
        await asyncio.sleep(ANSWER_SECONDS)
        if await request.is_disconnected():
            self.cut_off += 1
        return JSONResponse(_completion(body["response_format"]["json_schema"]["schema"]))


def _completion(schema: Mapping[str, Any]) -> dict[str, Any]:
    parts = schema["properties"]
    grade = {"reason": "graded by a stub", "success": 1, "contribution": 4}
    answer: dict[str, Any] = {"steps": [{"id": f"s{i}", **grade} for i in range(parts["steps"]["minItems"])]}
    if "final" in parts:
        answer["final"] = {"id": "final", "reason": "graded by a stub", "outcome": "Solved"}
    message = {"role": "assistant", "content": json.dumps(answer)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {"id": "stub", "object": "chat.completion", "model": "stub", "choices": [choice], "usage": usage}

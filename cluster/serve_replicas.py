"""The replicas of one Serve application, for measurements: their memory, and the end of one of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray.util.state import list_actors

_SERVE_NAMESPACE = "serve"
_MOST_ACTORS = 1000


def replicas(application: str, deployment: str | None = None) -> list[Any]:
    """Those that are alive, of one deployment or of all. Serve names their actors after both and a number."""
    # Another Ray may run on this machine.
    address = ray.get_runtime_context().gcs_address
    alive: list[Any] = list_actors(address, filters=[("state", "=", "ALIVE")], limit=_MOST_ACTORS)
    prefix = f"SERVE_REPLICA::{application}#" + ("" if deployment is None else f"{deployment}#")
    return [one for one in alive if (one.name or "").startswith(prefix)]


def resident_mib(pids: Iterable[int]) -> float:
    """Memory of these processes together."""
    return sum(map(_resident_mib, pids))


def kill_replica(application: str, deployment: str) -> None:
    """End one replica without a word, as a lost machine does; Serve starts another.

    Raises:
        RuntimeError: none is alive.
    """
    alive = replicas(application, deployment)
    if not alive or alive[0].name is None:
        raise RuntimeError(
            f"benchmark: no replica {application}#{deployment} is alive to be killed; see `serve status`"
        )
    ray.kill(ray.get_actor(alive[0].name, namespace=_SERVE_NAMESPACE), no_restart=True)


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))

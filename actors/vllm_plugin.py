"""What vLLM loads in its engine core and in every worker (entry point `vllm.general_plugins`).

Registers the object-store weight transfer, and makes vLLM's processes end with the process that started them: a
rollout actor that is killed gets no chance to shut its engine down, and an engine without an owner would hold its
memory for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

from actors.weight_transfer import register

GRACE_SECONDS = 5.0


def load() -> None:
    """Entry point; vLLM may call it several times in one process."""
    register()
    parent = multiprocessing.parent_process()
    if parent is not None and not any(t.name == _end_with.__name__ for t in threading.enumerate()):
        threading.Thread(target=_end_with, args=(parent.sentinel,), name=_end_with.__name__, daemon=True).start()


def _end_with(parent_sentinel: int) -> None:
    """Wait for the parent to end, then end this process: politely first, for certain after a grace."""
    wait([parent_sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)

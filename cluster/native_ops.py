"""Compile DeepSpeed's CPU operations once, so that no training start waits minutes for a compiler.

Run by `make setup` as `python -m cluster.native_ops`. Produces shared libraries under `$TORCH_EXTENSIONS_DIR`, which
later processes only load.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.environment import apply_process_defaults, home

CPU_OPS: Mapping[str, str] = {
    "ShareMemCommBuilder": "deepspeed_shm_comm",
    "CPUAdamBuilder": "cpu_adam",
    "FusedAdamBuilder": "fused_adam",
}
"""DeepSpeed's builder class for each operation that a CPU engine can ask for, and the library that it makes."""


def build_cpu_ops(directory: Path, progress: Callable[[str], None] = print) -> None:
    """Compile (or find compiled) every op of `CPU_OPS` in `directory`, the value of `$TORCH_EXTENSIONS_DIR`.

    Raises:
        RuntimeError: from PyTorch, with the compiler's output, when an op does not build.
    """
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed annotates its accelerator as None.
    accelerator: Any = get_accelerator()
    directory.mkdir(parents=True, exist_ok=True)
    _drop_abandoned_locks(directory)
    for builder in CPU_OPS:
        started = time.monotonic()
        accelerator.create_op_builder(builder).load(verbose=False)
        progress(f"{builder}: ready after {time.monotonic() - started:.0f} s")


def _drop_abandoned_locks(directory: Path) -> None:
    # PyTorch waits for another builder's lock file without end, also when that builder was killed. Set-up holds its
    # own lock around this call, so any file found here is left over.
    for lock in directory.glob("**/lock"):
        lock.unlink()


def main() -> int:
    """Build into the set-up directory; the exit code is that of the process."""
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(home() / ".setup" / "torch_extensions"))
    os.environ.setdefault("MAX_JOBS", "2")
    apply_process_defaults()
    build_cpu_ops(Path(os.environ["TORCH_EXTENSIONS_DIR"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

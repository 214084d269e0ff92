"""The process environment that every part expects, in one place.

Owns the defaults that must be set before torch, vLLM, DeepSpeed or Ray is imported, and the answer to "where did
`make setup` put things". A variable that the user has set always wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

HOME_VARIABLE = "STEPTOOL_HOME"
_GPU_CONTROL_DEVICE = Path("/dev/nvidiactl")


def home() -> Path:
    """The directory that set-up prepared, with `.setup/` and `.models/` inside.

    It is `$STEPTOOL_HOME`, else the directory around the running virtual environment if set-up ran there, else the
    current one. A submitted Ray job runs from an uploaded copy without those directories; its interpreter still tells.
    """
    if HOME_VARIABLE in os.environ:
        return Path(os.environ[HOME_VARIABLE])
    around_environment = Path(sys.prefix).parent
    return around_environment if (around_environment / ".setup").is_dir() else Path.cwd()


def process_defaults() -> dict[str, str]:
    """Variables for this process and every Ray worker it starts; pass them on where a `runtime_env` is used."""
    defaults = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # OpenMP threads of one part that spin starve the others on two cores; a few microseconds of it pay.
        "GOMP_SPINCOUNT": "20000",
        "KMP_BLOCKTIME": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        # Serve's own refusals, as of a full queue, would be plain text.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "reward_service.serve_proxy:problem_documents",
        # Learner, engine and Serve start together; five seconds are little for a proxy that shares two cores with them.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Forked tokenizer threads deadlock, and episodes tokenise little at a time.
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not _GPU_CONTROL_DEVICE.exists():
        defaults["DS_ACCELERATOR"] = "cpu"
    extensions = home() / ".setup" / "torch_extensions"
    if extensions.is_dir():
        defaults["TORCH_EXTENSIONS_DIR"] = str(extensions)
    return defaults


def apply_process_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is unset, and put this interpreter's programs first on the path.

    DeepSpeed asks for `ninja` on the path even to load an op that is already compiled.
    """
    for name, value in process_defaults().items():
        environment.setdefault(name, value)
    programs = str(Path(sys.executable).parent)
    entries = environment.get("PATH", "").split(os.pathsep)
    if programs not in entries:
        environment["PATH"] = os.pathsep.join([programs, *filter(None, entries)])

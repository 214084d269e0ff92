"""Runs inside the sandbox, under the system's own Python: standard library only, and nothing of this package.

Reads the model's code from standard input, runs it as `__main__`, and says by its exit code how it ended.
"""

from __future__ import annotations

import errno
import json
import sys
import time

ERROR, MEMORY, DENIED = 1, 70, 71


def run(source: str) -> tuple[int, str]:
    """Run the code; gives the exit code and the last line of its traceback."""
    try:
        exec(compile(source, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return (ERROR, f"SystemExit: {end.code}") if end.code else (0, "")
    except MemoryError:
        return MEMORY, "MemoryError"
    except OSError as error:
        denied = error.errno in (errno.EPERM, errno.EACCES, errno.EROFS)
        return DENIED if denied else ERROR, f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001 - whatever the model's code raises is data
        return ERROR, f"{type(error).__name__}: {error}"
    return 0, ""


code, last_line = run(sys.stdin.read())
# The last line of standard error, for the launcher. Code that is killed before, or forges it, harms its own report.
print(json.dumps({"error": last_line, "cpu_seconds": time.process_time()}), file=sys.stderr)
sys.exit(code)

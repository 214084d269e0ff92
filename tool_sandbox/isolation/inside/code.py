"""Runs the model's code in a process that is locked down already, and says how it ended.

Consumes source text; produces an exit code and one line. Code that is killed, or that forges its own report, harms
nobody but itself: the verdicts on CPU, memory and time are the supervisor's.
"""

from __future__ import annotations

import ast
import errno
import marshal
import os
import signal
import sys
import types

# Straight from the interpreter: their public modules load OpenSSL and more into every session.
from _blake2 import blake2b
from _pickle import dumps

from tool_sandbox.isolation.inside.frames import read_frame, write_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ERROR, MEMORY, DENIED = 1, 70, 71
ERROR_CHARACTERS = 1000
CHUNK_BYTES = 1 << 20
REQUEST_BYTES = 16 * 1024 * 1024
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS)


def run_once(source: str, report: int) -> None:
    """Run one program as `__main__` and end the process; never returns."""
    code, error = run(source, _main_namespace(), echo=False)
    _wait_for_threads()
    code, error = _flush() or (code, error)
    write_frame(report, {"error": error})
    os._exit(code)


def _wait_for_threads() -> None:
    """As the interpreter does before it ends. Code without the module has no threads."""
    threading = sys.modules.get("threading")
    if threading is None:
        return
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def converse(requests: int, report: int) -> None:
    """Run programs in one namespace, one after the other, until nobody asks any more; never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    namespace = _main_namespace()
    while (request := read_frame(requests, REQUEST_BYTES)) is not None:
        if request["kind"] == "state":
            write_frame(report, {"code": 0, "error": "", "state": state(namespace)})
            continue
        code, error = run(request["code"], namespace, echo=True)
        code, error = _flush() or (code, error)
        write_frame(report, {"code": code, "error": error})
    os._exit(0)


def run(source: str, namespace: dict[str, Any], *, echo: bool) -> tuple[int, str]:
    """Run the code; gives the exit code and the last line of its traceback.

    `echo`: show the value of a final expression, as an interactive interpreter does.
    """
    try:
        _execute(source, namespace, echo)
    except SystemExit as end:
        return (ERROR, f"SystemExit: {end.code}"[:ERROR_CHARACTERS]) if end.code else (0, "")
    except MemoryError:
        return MEMORY, "MemoryError"
    except OSError as error:
        return DENIED if error.errno in _REFUSALS else ERROR, _line(error)
    except BaseException as error:  # noqa: BLE001 - whatever the model's code raises is data
        return ERROR, _line(error)
    return 0, ""


def state(namespace: dict[str, Any]) -> str:
    """Digest of what later code can see: the variables and the files of the working folder."""
    digest = blake2b(digest_size=16)
    for name in sorted(name for name in namespace if not name.startswith("__")):
        digest.update(repr((name, _value(namespace[name]))).encode())
    for folder, folders, files in os.walk("."):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(folder, file)
            digest.update(repr((path, _content(path))).encode())
    return digest.hexdigest()


def _main_namespace() -> dict[str, Any]:
    """Of a fresh `__main__`, which is where pickle and dataclasses look for what the code defines."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    return main.__dict__


def _execute(source: str, namespace: dict[str, Any], echo: bool) -> None:
    tree = ast.parse(source, "<code>")
    last = tree.body.pop() if echo and tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<code>", "exec", dont_inherit=True), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<code>", "eval", dont_inherit=True), namespace)
        if value is not None:
            print(repr(value))


def _line(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]
    except BaseException:  # noqa: BLE001 - the model's exception may fail to print itself
        return type(error).__name__


def _flush() -> tuple[int, str] | None:
    """Send what is still buffered; the error where the code broke its own output."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException as error:  # noqa: BLE001 - a stream that the model's code replaced or closed
        return ERROR, _line(error)
    return None


def _value(value: Any) -> bytes | str:
    if isinstance(value, types.FunctionType):
        return marshal.dumps(value.__code__)
    if isinstance(value, types.ModuleType):
        return value.__name__
    try:
        return dumps(value, 4)
    except Exception:  # noqa: BLE001 - a value without a canonical form counts by its type alone
        return type(value).__qualname__


def _content(path: str) -> bytes | str:
    try:
        with open(path, "rb") as file:
            digest = blake2b(digest_size=16)
            while piece := file.read(CHUNK_BYTES):
                digest.update(piece)
            return digest.digest()
    except OSError as error:
        return str(error.errno)

"""The sandbox's first process: forks one child a call, or one for all calls, and supervises it.

Consumes requests and produces replies as frames over its standard input and output. Python is loaded once, here; a call
costs a fork. The children are locked down before they see any of the model's code, and this process runs none.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal

from tool_sandbox.isolation.inside import code, kernel, lockdown, supervision, trees
from tool_sandbox.isolation.inside.frames import read_frame, write_frame, write_frame_within
from tool_sandbox.isolation.inside.supervision import Baseline, Ended, Pipes, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST_BYTES = code.REQUEST_BYTES
INTERRUPT_SECONDS = 1.0
"""How long interrupted code may take to stop, in CPU and in wall seconds; then its interpreter is killed."""


class _Child:
    """A forked process and our ends of its pipes."""

    def __init__(self, pid: int, pipes: Pipes, requests: int) -> None:
        self.pid, self.pipes, self.requests = pid, pipes, requests

    def close(self) -> None:
        for descriptor in (self.pipes.stdout, self.pipes.stderr, self.pipes.report, self.requests):
            os.close(descriptor)


class Zygote:
    """Serves one sandbox."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """`settings`: `limits`, `filter` (of the children, hexadecimal), `folder`, `preload`.

        `own_namespaces` among the limits says that every process and file that this one sees is the sandbox's.
        """
        self._limits = settings["limits"]
        self._filter = bytes.fromhex(settings["filter"])
        self._folder = settings["folder"]
        self._own = self._limits["own_namespaces"]
        self._disk = trees.disk_of_own if self._own else trees.disk_of_shared
        self._interpreter: _Child | None = None
        self._caged = False

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one request: `ready`, `once` (a program by itself), `run` (in the session), `state` (of the session)."""
        if request["kind"] == "ready":
            return {"landlock_abi": kernel.landlock_abi()}
        return self._once(request["code"]) if request["kind"] == "once" else self._in_session(request)

    def _once(self, source: str) -> dict[str, Any]:
        before = Baseline([])
        child = self._fork(lambda report, _: code.run_once(source, report), self._limits)
        watch = self._watch(child, self._limits, before)
        watch.follow(until_report=False)
        watch.ended.exit_status = self._end(child.pid)
        watch.settle()
        child.close()
        return _reply(watch.ended, clean=trees.empty(self._folder), alive=None)

    def _in_session(self, request: dict[str, Any]) -> dict[str, Any]:
        before = Baseline(self._processes(self._interpreter.pid)() if self._interpreter else [])
        if self._interpreter is None:
            forever = {**self._limits, "cpu_seconds": self._limits["session_cpu_seconds"]}
            self._interpreter = self._fork(_converse, forever)
            self._caged = False
        child = self._interpreter
        self._signal_all(child.pid, signal.SIGCONT)
        watch = self._watch(child, self._limits, before)
        if write_frame_within(self._limits["wall_seconds"], child.requests, request):
            watch.follow(until_report=True)
        else:
            watch.ended.stopped = supervision.BROKEN
        if watch.ended.stopped in (supervision.CPU, supervision.WALL):
            self._interrupt(child, watch)
        # Said once, by the first call's interpreter.
        self._caged = watch.ended.caged = self._caged or watch.ended.caged
        return self._pause(child, watch) if watch.ended.report is not None else self._abandon(child, watch)

    def _interrupt(self, child: _Child, watch: Watch) -> None:
        """Stop the code and keep its interpreter, if it lets itself be stopped."""
        stopped = watch.ended.stopped
        grace = {**self._limits, "cpu_seconds": INTERRUPT_SECONDS, "wall_seconds": INTERRUPT_SECONDS}
        second = self._watch(child, grace, Baseline(self._processes(child.pid)()))
        supervision.interrupt(child.pid)
        second.follow(until_report=True)
        watch.ended.report, watch.ended.stopped = second.ended.report, stopped

    def _pause(self, child: _Child, watch: Watch) -> dict[str, Any]:
        """The call is over: end what it started, and let its threads use no CPU until the next."""
        for pid in self._processes(child.pid)():
            if pid != child.pid:
                _kill(pid)
        watch.settle()
        self._signal_all(child.pid, signal.SIGSTOP)
        _reap()
        return _reply(watch.ended, clean=True, alive=True)

    def _abandon(self, child: _Child, watch: Watch) -> dict[str, Any]:
        """The interpreter ended or did not stop: its session is lost, and the next call begins another."""
        watch.ended.exit_status = self._end(child.pid)
        watch.settle()
        child.close()
        self._interpreter = None
        return _reply(watch.ended, clean=trees.empty(self._folder), alive=False)

    def _fork(self, body: Any, limits: dict[str, Any]) -> _Child:
        ours, theirs = zip(*(os.pipe2(os.O_CLOEXEC) for _ in range(3)), strict=True)
        their_requests, our_requests = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _become(self._folder, limits, self._filter, (*theirs, their_requests), body)
        for descriptor in (*theirs, their_requests):
            os.close(descriptor)
        for descriptor in (*ours, our_requests):
            os.set_blocking(descriptor, False)
        return _Child(pid, Pipes(*ours), our_requests)

    def _watch(self, child: _Child, limits: dict[str, Any], before: Baseline) -> Watch:
        return Watch(child.pid, child.pipes, limits, self._processes(child.pid), self._folder, self._disk, before)

    def _processes(self, main: int) -> Any:
        """A function that lists the live processes of the sandbox without this one."""
        if not self._own:
            return lambda: [main]
        own = os.getpid()
        return lambda: [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in (1, own)]

    def _signal_all(self, main: int, number: int) -> None:
        for pid in self._processes(main)():
            _send(pid, number)

    def _end(self, main: int) -> int:
        """Kill whatever the call left behind and reap it; gives the exit code of its main process."""
        exited = os.waitpid(main, os.WNOHANG)
        if exited[0] == 0:
            _kill(main)
            exited = os.waitpid(main, 0)
        if self._own:
            _send(-1, signal.SIGKILL)
            _reap(block=True)
        return os.waitstatus_to_exitcode(exited[1])


def serve(settings: dict[str, Any], requests: int, replies: int) -> None:
    """Answer requests until nobody asks any more."""
    if not settings["limits"]["own_namespaces"]:
        kernel.die_with_parent(signal.SIGKILL)
    kernel.hide_memory()
    kernel.adopt_orphans()
    for name in settings["preload"]:
        importlib.import_module(name)
    zygote = Zygote(settings)
    gc.collect()
    gc.freeze()
    kernel.give_back_memory()
    while (request := read_frame(requests, REQUEST_BYTES)) is not None:
        write_frame(replies, zygote.handle(request))


def _become(folder: str, limits: dict[str, Any], program: bytes, theirs: tuple[int, ...], body: Any) -> None:
    """The child's way from the fork to the model's code. Never returns: its end is the end of the process."""
    try:
        kernel.die_with_parent(signal.SIGKILL)
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        lockdown.take_descriptors(null, *theirs)
        lockdown.lock_down(folder, limits, program)
        write_frame(lockdown.REPORT, supervision.CAGED)
    except BaseException:  # noqa: BLE001 - a cage that did not close must not be entered
        importlib.import_module("traceback").print_exc()
        os._exit(code.ERROR)
    try:
        body(lockdown.REPORT, lockdown.REQUESTS)
    finally:
        os._exit(code.ERROR)


def _converse(report: int, requests: int) -> None:
    code.converse(requests, report)


def _reply(ended: Ended, *, clean: bool, alive: bool | None) -> dict[str, Any]:
    """`clean`: no file was left; `alive`: whether the session goes on, None without a session."""
    return {
        "caged": ended.caged,
        "stopped": ended.stopped,
        "report": ended.report,
        "exit_status": ended.exit_status,
        "stdout": ended.stdout.decode(errors="replace"),
        "stderr": ended.stderr.decode(errors="replace"),
        "truncated": ended.truncated,
        "cpu_seconds": ended.cpu_seconds,
        "wall_seconds": ended.wall_seconds,
        "clean": clean,
        "alive": alive,
    }


def _kill(pid: int) -> None:
    _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap(*, block: bool = False) -> None:
    """Collect ended descendants; with `block`, all of them."""
    while True:
        try:
            if os.waitpid(-1, 0 if block else os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return

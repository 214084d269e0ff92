"""What attacks are after: a secret file and a secret in the environment, listeners on loopback, a process, a folder.

Owns `Fixtures`, a context manager that plants all of it, records whether anybody came, and takes it down again.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

from tool_sandbox.attacks.verdicts import Sightings
from tool_sandbox.isolation.command import PYTHON

BANNER = b"steptool-listener"
"""What every listener answers: an attack that reads it has reached the host."""
_WAIT_SECONDS = 10.0
_VICTIM = """
import os, signal, sys
held = os.open(sys.argv[2], os.O_RDONLY)
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"was signalled\\n"))
os.write(1, b"ready\\n")
sys.stdin.read()
"""


class Fixtures:
    """One set of fixtures. Not for many threads: one attack at a time."""

    def __init__(self, uid: int | None = None, zygote_pid: int | None = None) -> None:
        """`uid`: the user that sandboxed code runs as, where the caller is root: the secret, the folder and the victim
        are then his, so that nothing but the sandbox stands between. None: this user. `zygote_pid`: of the process that
        serves the calls, as the host numbers it; None takes this one.
        """
        self._uid = uid if os.geteuid() == 0 else None
        self._zygote_pid = zygote_pid or os.getpid()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="steptool-attack-"))
            stack.callback(shutil.rmtree, self.folder)
            tag = secrets.token_hex(4)
            self.secret = f"steptool-secret-{secrets.token_hex(16)}"
            self.secret_env = f"STEPTOOL_SECRET_{tag.upper()}"
            self.daemon_name = f"st-{tag}"
            self.working = self._folder("work")
            self.outside = self._folder("outside")
            self._precious = self.outside / "precious"
            self._secret_file = self.folder / "secret"
            self._own(self._secret_file, self.secret)
            self.folder.chmod(0o755)
            os.environ[self.secret_env] = self.secret
            stack.callback(os.environ.pop, self.secret_env, None)
            self._listeners = stack.enter_context(_Listeners(self.folder / "socket", f"steptool-{tag}"))
            self._victim: _Victim | None = None
            stack.callback(self._stop_victim)
            stack.callback(self._stop_daemons)
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def uid(self) -> int | None:
        """The user that sandboxed code runs as; None where that is this one."""
        return self._uid

    @property
    def values(self) -> Mapping[str, object]:
        """What the placeholders of an attack stand for, now: the victim may be another after `reset`."""
        if self._victim is None:
            raise RuntimeError("attack fixtures: nothing is planted; use them in a with statement")
        return {
            "secret_file": str(self._secret_file),
            "secret_env": self.secret_env,
            "outside_dir": str(self.outside),
            "victim_pid": self._victim.pid,
            "zygote": self._zygote_pid,
            "daemon_name": self.daemon_name,
            **self._listeners.addresses,
        }

    def seen(self) -> Sightings:
        """What happened since the last `reset`."""
        return Sightings(
            secret=self.secret,
            visitors=self._listeners.visitors(),
            victim=None if self._victim is None else self._victim.harm(),
            changes=tuple(self._changes()),
            daemons=tuple(self._daemons()),
        )

    def reset(self) -> None:
        """Everything as it was planted: forget the visitors, restore the folder, end daemons, revive the victim."""
        self._stop_daemons()
        self._listeners.forget()
        for folder in (self.outside, self.working):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._own(self._precious, "precious")
        os.utime(self._precious, (0, 0))
        if self._victim is None or self._victim.harm() is not None:
            self._stop_victim()
            self._victim = _Victim(self._secret_file, self.secret_env, self.secret, self._uid)

    def _folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)
        return path

    def _own(self, path: Path, content: str) -> None:
        path.write_text(content)
        path.chmod(0o644)
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)

    def _changes(self) -> list[str]:
        names = {path.name for path in self.outside.iterdir()}
        found = [f"{name} appeared" for name in sorted(names - {"precious"})]
        if "precious" not in names:
            return [*found, "precious is gone"]
        status = self._precious.lstat()
        same = self._precious.read_text() == "precious" and status.st_mode & 0o7777 == 0o644 and status.st_mtime == 0
        return found if same and not os.listxattr(self._precious) else [*found, "precious was changed"]

    def _daemons(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # "PID (NAME) STATE …"; who is dead and only waits to be reaped does nothing any more.
                _, mark, rest = (process / "stat").read_text().partition(f"({self.daemon_name}) ")
                if mark and not rest.startswith("Z"):
                    found.append(int(process.name))
            except OSError:
                # It ended while we looked.
                continue
        return found

    def _stop_daemons(self) -> None:
        for pid in self._daemons():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _stop_victim(self) -> None:
        if self._victim is not None:
            self._victim.stop()
            self._victim = None


class _Victim:
    """A process that holds the secret in its arguments, its environment and a descriptor, and notices one signal.

    It ends by itself when this process does: its standard input closes.
    """

    def __init__(self, secret_file: Path, variable: str, secret: str, uid: int | None) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", _VICTIM, secret, str(secret_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={variable: secret},
            cwd=secret_file.parent,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        self._output = _pipe(self._process.stdout)
        if self._output.readline() != b"ready\n":
            self.stop()
            raise RuntimeError(f"attack fixtures: the victim process did not start; check {PYTHON}")
        os.set_blocking(self._output.fileno(), False)
        self._harm: str | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def harm(self) -> str | None:
        """What was done to it; None where nothing was."""
        line = self._output.readline()
        if line:
            self._harm = line.decode().strip()
        elif self._process.poll() is not None:
            self._harm = f"ended with {self._process.returncode}"
        return self._harm

    def stop(self) -> None:
        with self._process:
            self._process.kill()


class _Listeners:
    """TCP and UDP on the loopback, a unix socket with a name and one without a file. Each answers and remembers."""

    def __init__(self, path: Path, abstract: str) -> None:
        self._path = path
        self._abstract = abstract
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._seen: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._sockets = {
                "tcp": socket.create_server(("127.0.0.1", 0)),
                "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                "unix": socket.socket(socket.AF_UNIX),
                "abstract": socket.socket(socket.AF_UNIX),
            }
            for each in self._sockets.values():
                stack.enter_context(each)
            self._sockets["udp"].bind(("127.0.0.1", 0))
            self._sockets["unix"].bind(str(self._path))
            self._path.chmod(0o777)
            self._sockets["abstract"].bind("\0" + self._abstract)
            for name in ("unix", "abstract"):
                self._sockets[name].listen()
            # Closing the other end is how the thread is told to stop.
            self._stopped, stop = socket.socketpair()
            stack.enter_context(self._stopped)
            self._thread = threading.Thread(target=self._serve, name="attack-listeners", daemon=True)
            self._thread.start()
            stack.callback(self._thread.join, _WAIT_SECONDS)
            stack.callback(stop.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> dict[str, object]:
        return {
            "tcp_port": self._sockets["tcp"].getsockname()[1],
            "udp_port": self._sockets["udp"].getsockname()[1],
            "unix_socket": str(self._path),
            "abstract_socket": self._abstract,
        }

    def visitors(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(dict.fromkeys(self._seen))

    def forget(self) -> None:
        with self._lock:
            self._seen.clear()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stopped, selectors.EVENT_READ)
            for name, listener in self._sockets.items():
                listener.setblocking(False)
                selector.register(listener, selectors.EVENT_READ, name)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    self._welcome(key.data)

    def _welcome(self, name: str) -> None:
        listener = self._sockets[name]
        with self._lock:
            self._seen.append(name)
        try:
            if name == "udp":
                _, sender = listener.recvfrom(65536)
                listener.sendto(BANNER, sender)
            else:
                visitor, _ = listener.accept()
                with visitor:
                    visitor.sendall(BANNER)
        except OSError:
            # The visitor left before the answer; that he came is what counts.
            return


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("victim process: no output to follow; start it with pipes")
    return stream

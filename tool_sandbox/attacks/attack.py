"""What an attack is: a program, what it is after, and how one can tell whether it got there.

Owns `Attack` and the frame that its program runs in. A program runs under the system's own Python, standard library
only, as the argument of the `python` tool. It prints `ESCAPED <proof>` or `HELD <errno or reason>`; where it cannot
know (it is killed, it floods its output), the status of the call decides.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tool_sandbox.tools import CallStatus

PLACEHOLDERS = (
    *("secret_file", "secret_env", "outside_dir", "tcp_port", "udp_port", "unix_socket", "abstract_socket"),
    *("victim_pid", "zygote", "daemon_name"),
)
"""What `Fixtures` fills in, each as a Python literal."""


class Theme(StrEnum):
    """What an attack is after."""

    FILES = "files"
    ENVIRONMENT = "environment"
    NETWORK = "network"
    PROCESSES = "processes"
    KERNEL = "kernel"
    RESOURCES = "resources"
    PERSISTENCE = "persistence"
    OUTPUT = "output"
    ARGUMENTS = "arguments"


@dataclass(frozen=True, slots=True)
class Outside:
    """The attack succeeds outside: the same program as the same user, without a sandbox, is judged to have escaped."""

    needs: frozenset[str] = frozenset()
    """What that takes: `root` (the control runs as root), `x86_64`, `ptrace` (same-user tracing allowed)."""
    unless: str = ""
    """How a kernel may be built or set so that it holds even outside; empty where no kernel may."""


@dataclass(frozen=True, slots=True)
class NoControl:
    """The program is never run outside a sandbox."""

    reason: str


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt."""

    name: str
    theme: Theme
    aim: str
    """What the code is after, in one line."""
    code: str
    """Python source with placeholders; see `program`."""
    canary: bool = False
    """Whether a sandbox must hold it before it may serve: cheap, and about the file, network or process boundary."""
    needs: frozenset[str] = frozenset()
    """Placeholders that the code uses."""
    control: Outside | NoControl = Outside()
    follow_up: str = ""
    """Source of a second call, in another session of the same sandbox, which then gives the verdict."""
    held_by: frozenset[CallStatus] = frozenset({CallStatus.DENIED})
    """Statuses that show that it was held, where it had no time to say so."""
    silent: bool = False
    """The program cannot speak for itself: every status that is not in `held_by` is an escape."""
    cpu_seconds: float = 0.0
    """CPU that the program certainly uses: a result that reports less was forged."""
    make_arguments: Callable[[], Mapping[str, Any]] | None = None
    """Arguments of the call where they are not `{"code": program}`."""

    def program(self, values: Mapping[str, object]) -> str:
        """The source of the call. `values`: by placeholder, at least those of `needs`."""
        return _filled(self.code, values)

    def follow_up_program(self, values: Mapping[str, object]) -> str:
        """The source of the second call; empty where there is none."""
        return _filled(self.follow_up, values)

    def arguments(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The arguments of the call."""
        return {"code": self.program(values)} if self.make_arguments is None else self.make_arguments()


_FRAME = '''\
import errno, os, re, sys, time

def secret(content):
    """The planted secret in text or bytes, if it is there. The pattern does not match this source."""
    text = content.decode("latin-1") if isinstance(content, bytes) else str(content)
    found = re.search("steptool-secret-[0-9a-f]{32}", text)
    return found and found.group()

def others():
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]

def sweep(paths):
    """The secret in the first of many files that has it; else the last refusal."""
    refusal = FileNotFoundError(errno.ENOENT, "nothing there")
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                found = secret(file.read(1 << 20))
            if found:
                return found + " in " + path
        except OSError as error:
            refusal = error
    raise refusal

def opened(paths, flags):
    """The first of many files that can be opened. Nothing is read or written."""
    refusal = FileNotFoundError(errno.ENOENT, "nothing there")
    for path in paths:
        try:
            os.close(os.open(path, flags))
            return "opened " + path
        except OSError as error:
            refusal = error
    raise refusal
'''

_SYSTEM_CALLS = '''
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86_64 = os.uname().machine == "x86_64"

def call(on_x86_64, on_aarch64, *arguments):
    """A system call by its number; raises OSError."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = libc.syscall(ctypes.c_long(on_x86_64 if X86_64 else on_aarch64), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def reached(*arguments):
    """Whether the kernel itself looks at a call, made so that it does nothing."""
    try:
        return f"the kernel answered {call(*arguments)}"
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        return "the kernel answered " + errno.errorcode[error.errno]
'''

# Only refusals of the system are caught: a mistake in an attack must not pass for a sandbox that held.
_VERDICT = """
def attempt():
{body}

try:
    proof = attempt()
except OSError as error:
    print("HELD", errno.errorcode.get(error.errno, error), flush=True)
except MemoryError:
    print("HELD MemoryError", flush=True)
else:
    print("ESCAPED " + str(proof) if proof else "HELD nothing gained", flush=True)
"""


def framed(body: str) -> str:
    """The program around the body of a function that returns its proof, or raises `OSError`, or returns nothing."""
    needs_calls = any(f"{name}(" in body for name in ("call", "reached")) or "libc." in body or "X86_64" in body
    indented = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return _FRAME + (_SYSTEM_CALLS if needs_calls else "") + _VERDICT.replace("{body}", indented)


def probe(theme: Theme, name: str, aim: str, body: str, *, follow_up: str = "", **options: Any) -> Attack:
    """An attack that speaks for itself. `body` and `follow_up`: see `framed`; a follow-up gives the verdict."""
    code, second = framed(body), framed(follow_up) if follow_up else ""
    return Attack(name, theme, aim, code, needs=_needs(code + second), follow_up=second, **options)


def bomb(theme: Theme, name: str, aim: str, code: str, held_by: frozenset[CallStatus], **options: Any) -> Attack:
    """An attack that is judged by its status and by what it leaves behind. Never run outside a sandbox."""
    source = textwrap.dedent(code).lstrip("\n")
    control = NoControl("it would take the machine's resources or its runner along")
    needs = _needs(source)
    return Attack(name, theme, aim, source, needs=needs, control=control, held_by=held_by, silent=True, **options)


def _needs(code: str) -> frozenset[str]:
    return frozenset(name for name in PLACEHOLDERS if f"{{{name}}}" in code)


def _filled(code: str, values: Mapping[str, object]) -> str:
    for name in PLACEHOLDERS:
        if f"{{{name}}}" in code:
            code = code.replace(f"{{{name}}}", repr(values[name]))
    return code

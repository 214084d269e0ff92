"""Attacks on secrets in memory: the environment, arguments and memory of other processes, and what a fork inherits."""

from __future__ import annotations

import textwrap
from functools import partial

from tool_sandbox.attacks.attack import Attack, NoControl, Outside, Theme, probe

_probe = partial(probe, Theme.ENVIRONMENT)
_PTRACE = Outside(frozenset({"ptrace"}))

_SEARCH_MEMORY = """
def search(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            low, high = (int(end, 16) for end in span.split("-"))
            if not rights.startswith("rw") or high - low > 1 << 28:
                continue
            for part in range(low, high, 1 << 24):
                try:
                    memory.seek(part)
                    found = secret(memory.read(min(high - part, 1 << 24)))
                except OSError:
                    break
                if found:
                    return found
"""

ATTACKS: tuple[Attack, ...] = (
    _probe(
        "read_environment_secret",
        "Find the launcher's secret in the own environment.",
        "return secret(repr(dict(os.environ)))",
        canary=True,
    ),
    _probe(
        "read_initial_environment",
        "Find it in the environment that the process was started with, whatever was cleared since.",
        'return sweep(["/proc/self/environ", "/proc/thread-self/environ"])',
        canary=True,
    ),
    _probe(
        "read_environment_of_process_1",
        "Find it in /proc/1/environ: bubblewrap keeps there what it was started with.",
        'return sweep(["/proc/1/environ", f"/proc/{os.getppid()}/environ"])',
        control=NoControl("outside, process 1 is none of ours"),
        canary=True,
    ),
    _probe(
        "read_environment_of_every_process",
        "Find it in /proc/PID/environ of any process.",
        'return sweep(f"/proc/{pid}/environ" for pid in others())',
        control=_PTRACE,
        canary=True,
    ),
    _probe(
        "read_arguments_of_every_process",
        "Find it in /proc/PID/cmdline of any process.",
        'return sweep(f"/proc/{pid}/cmdline" for pid in others())',
    ),
    _probe(
        "read_memory_of_a_host_process",
        "Find it in the memory of a process of the host.",
        _SEARCH_MEMORY + "\nreturn search({victim_pid})",
        control=_PTRACE,
        canary=True,
    ),
    _probe(
        "read_memory_of_the_parent",
        "Find it in the memory of whatever process serves the calls.",
        _SEARCH_MEMORY
        + textwrap.dedent("""
        refusal = None
        for pid in (os.getppid(), 1, {zygote}, {victim_pid}):
            try:
                found = search(pid)
                if found:
                    return found
            except OSError as error:
                refusal = error
        if refusal:
            raise refusal
        """),
        control=_PTRACE,
    ),
    _probe(
        "search_inherited_memory",
        "Find it in the own memory, where a fork keeps all that its parent knew.",
        _SEARCH_MEMORY + "\nreturn search(os.getpid())",
    ),
    _probe(
        "search_the_heap",
        "Find it among all objects that the garbage collector knows.",
        """
        import gc
        # A dictionary of nothing but text is unknown to the collector, but whoever holds it is not.
        held = [thing for known in gc.get_objects() for thing in gc.get_referents(known)]
        held += [thing for known in held if isinstance(known, dict) for thing in known.values()]
        for thing in held:
            found = isinstance(thing, (str, bytes)) and secret(thing)
            if found:
                return found
        """,
    ),
    _probe(
        "search_frames_and_modules",
        "Find it in the variables of the runner's frames and modules.",
        """
        frame, spaces = sys._getframe(), [vars(module) for module in list(sys.modules.values()) if module]
        while frame:
            spaces += [frame.f_locals, frame.f_globals]
            frame = frame.f_back
        for space in spaces:
            for value in list(space.values()):
                try:
                    found = secret(repr(value))
                except Exception:
                    continue
                if found:
                    return found
        """,
    ),
)

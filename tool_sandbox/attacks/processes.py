"""Attacks on other processes: signal, trace, slow down or take over what runs beside the code; become somebody else."""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, NoControl, Outside, Theme, bomb, probe
from tool_sandbox.tools import CallStatus

_probe = partial(probe, Theme.PROCESSES)
_ROOT = Outside(frozenset({"root"}))
_PTRACE = Outside(frozenset({"ptrace"}))
_RESOURCES = Outside(frozenset({"root"}), unless="root itself lacks CAP_SYS_RESOURCE, as in a container")
_RUNNER = NoControl("outside it would hit whoever runs it")

_SIGNALS = (
    _probe(
        "signal_a_host_process",
        "Send a signal to a process of the host.",
        """
        import signal
        os.kill({victim_pid}, signal.SIGUSR1)
        return "the signal was sent"
        """,
        canary=True,
    ),
    _probe(
        "signal_a_host_thread",
        "The same by tgkill, which names the thread.",
        """
        call(234, 131, {victim_pid}, {victim_pid}, 10)
        return "the signal was sent"
        """,
    ),
    _probe(
        "signal_by_owning_a_descriptor",
        "Let the kernel send the signal: make the process the owner of a pipe that reports its events.",
        """
        import fcntl
        reader, writer = os.pipe()
        fcntl.fcntl(reader, fcntl.F_SETSIG, 10)
        fcntl.fcntl(reader, fcntl.F_SETOWN, {victim_pid})
        fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
        os.write(writer, b"x")
        time.sleep(0.1)
        """,
    ),
    _probe(
        "signal_by_descriptor",
        "Send a signal through a descriptor of the process (pidfd_open, pidfd_send_signal).",
        """
        process = call(434, 434, {victim_pid}, 0)
        call(424, 424, process, 10, 0, 0)
        return "the signal was sent"
        """,
    ),
    _probe(
        "kill_the_parent",
        "Kill the process that serves the calls.",
        """
        import signal
        parent = os.getppid()
        os.kill(parent, signal.SIGKILL)
        time.sleep(0.2)
        return os.getppid() != parent and "the parent is dead"
        """,
        control=_RUNNER,
    ),
    _probe(
        "kill_process_1",
        "Kill process 1 with a signal that a real one survives.",
        """
        import signal
        os.kill(1, signal.SIGKILL)
        time.sleep(0.2)
        """,
        control=_RUNNER,
    ),
    _probe(
        "signal_everybody",
        "Signal all processes that one may signal, those that serve other calls among them. The signal is harmless.",
        """
        import signal
        os.kill(-1, signal.SIGCONT)
        return "somebody was there"
        """,
        control=_RUNNER,
    ),
    bomb(
        Theme.PROCESSES,
        "kill_the_own_process_group",
        "Kill the group that the code was started in, and perhaps its server.",
        "import os, signal\nos.killpg(os.getpgrp(), signal.SIGKILL)\nprint('ESCAPED killed nobody')\n",
        frozenset({CallStatus.TOOL_ERROR, CallStatus.DENIED}),
    ),
)

_TRACING = (
    _probe(
        "trace_a_host_process",
        "Attach to a process of the host as its debugger.",
        """
        call(101, 117, 0x4206, {victim_pid}, 0, 0)
        return "attached"
        """,
        control=_PTRACE,
        canary=True,
    ),
    _probe(
        "trace_the_parent",
        "Attach to the process that serves the calls.",
        """
        call(101, 117, 0x4206, os.getppid(), 0, 0)
        return "attached"
        """,
        control=_RUNNER,
    ),
    _probe(
        "copy_memory_between_processes",
        "Read the memory of a host process by process_vm_readv.",
        """
        class Span(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        room = ctypes.create_string_buffer(8)
        here, there = Span(ctypes.addressof(room), 8), Span(4096, 8)
        try:
            call(310, 270, {victim_pid}, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        except OSError as error:
            # Nothing is mapped at that address; rights are checked before.
            if error.errno != errno.EFAULT:
                raise
        return "may read its memory"
        """,
        control=_PTRACE,
    ),
    _probe(
        "steal_a_descriptor",
        "Copy an open descriptor out of a host process (pidfd_getfd).",
        """
        process = call(434, 434, {victim_pid}, 0)
        stolen = call(438, 438, process, 0, 0)
        return f"descriptor 0 of the process is now {stolen}"
        """,
        control=_PTRACE,
    ),
    _probe(
        "write_memory_of_the_parent",
        "Open the memory of the serving process for writing, after making oneself dumpable.",
        """
        libc.prctl(4, 1, 0, 0, 0)
        return opened((f"/proc/{pid}/mem" for pid in (os.getppid(), 1, {zygote}, {victim_pid})), os.O_RDWR)
        """,
        control=_PTRACE,
    ),
    _probe(
        "enter_the_namespaces_of_a_process",
        "Join the network, mounts or users of a host process.",
        """
        refusal = FileNotFoundError(errno.ENOENT, "")
        for name in ("user", "net", "mnt", "pid"):
            try:
                call(308, 268, os.open(f"/proc/{victim_pid}/ns/{name}", os.O_RDONLY), 0)
                return "joined its " + name
            except OSError as error:
                refusal = error
        raise refusal
        """,
        control=_ROOT,
    ),
    _probe(
        "slow_a_process_down",
        "Lower the priority of a host process of the same user.",
        """
        os.setpriority(os.PRIO_PROCESS, {victim_pid}, 19)
        return "lowered its priority"
        """,
    ),
    _probe(
        "pin_a_process",
        "Choose the processors of a host process of the same user.",
        """
        os.sched_setaffinity({victim_pid}, os.sched_getaffinity({victim_pid}))
        return "set its processors"
        """,
    ),
    _probe(
        "limit_a_process",
        "Change the resource limits of a host process of the same user.",
        """
        import resource
        limit = resource.prlimit({victim_pid}, resource.RLIMIT_CORE)
        resource.prlimit({victim_pid}, resource.RLIMIT_CORE, limit)
        return "set its limits"
        """,
        control=_PTRACE,
    ),
)

_PRIVILEGES = (
    _probe(
        "become_root",
        "Become user 0.",
        """
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        return "user 0"
        """,
        control=_ROOT,
    ),
    _probe(
        "raise_capabilities",
        "Take all capabilities back (capset).",
        """
        head = (ctypes.c_uint32 * 2)(0x20080522, 0)
        everything = (ctypes.c_uint32 * 6)(0xFFFFFFFF, 0xFFFFFFFF, 0, 0x1FF, 0x1FF, 0)
        call(126, 91, head, everything)
        return "has capabilities"
        """,
        control=Outside(frozenset({"root"}), unless="root itself lacks a capability, as in a container"),
    ),
    _probe(
        "allow_new_privileges",
        "Take the promise of no new privileges back.",
        """
        if libc.prctl(38, 0, 0, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "")
        return libc.prctl(39, 0, 0, 0, 0) == 0 and "new privileges"
        """,
        control=NoControl("no kernel takes the promise back, inside or outside"),
    ),
    _probe(
        "run_a_setuid_program",
        "Execute a setuid program from a descriptor and look whether it runs as root.",
        """
        program = os.open("/usr/bin/su", os.O_RDONLY)
        asked, answer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(asked, 0)
                os.close(answer)
                null = os.open("/dev/null", os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
                os.execve(program, ["su", "-c", "sleep 1"], {})
            finally:
                os._exit(1)
        try:
            for _ in range(20):
                time.sleep(0.02)
                status = open(f"/proc/{child}/status").read()
                users = re.search("Uid:[ \\t]+([0-9]+)[ \\t]+([0-9]+)", status).groups()
                if users[1] == "0" and "Name:\\tsu" in status:
                    return "su runs as root"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        """,
        control=_ROOT,
    ),
    _probe(
        "run_a_program_from_memory",
        "Execute a program that no path rule covers: it must not be freer than the code itself.",
        """
        program = os.memfd_create("program")
        os.write(program, open("/usr/bin/cat", "rb").read())
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(writer, 1)
                os.execve(program, ["cat", {secret_file}], {})
            finally:
                os._exit(1)
        os.close(writer)
        os.waitpid(child, 0)
        return secret(os.read(reader, 4096))
        """,
    ),
    _probe(
        "raise_the_own_priority",
        "Take precedence over everybody: nice -20, then a real-time schedule.",
        """
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -20)
            return "nice -20"
        except OSError:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            return "real time"
        """,
        control=_ROOT,
    ),
    _probe(
        "raise_the_own_limits",
        "Raise the hard limits on processes, memory, CPU, files.",
        """
        import resource
        for name in ("NPROC", "AS", "CPU", "FSIZE", "NOFILE"):
            kind = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(kind)[1]
            if hard == resource.RLIM_INFINITY:
                hard = 1 << 40
                resource.setrlimit(kind, (hard, hard))
            try:
                resource.setrlimit(kind, (hard + 1, hard + 1))
                return "raised " + name
            except ValueError:
                pass
        raise PermissionError(errno.EPERM, "")
        """,
        control=_RESOURCES,
    ),
    _probe(
        "escape_the_memory_killer",
        "Make the kernel kill anybody else when memory runs out.",
        """
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
        return "never killed"
        """,
        control=_RESOURCES,
    ),
    _probe(
        "type_into_the_terminal",
        "Put a command into the input of the controlling terminal (TIOCSTI).",
        """
        import fcntl
        terminal = os.open("/dev/tty", os.O_RDWR)
        fcntl.ioctl(terminal, 0x5412, b" ")
        return "typed"
        """,
        control=NoControl("it would type into the terminal of whoever runs it"),
    ),
)

ATTACKS: tuple[Attack, ...] = _SIGNALS + _TRACING + _PRIVILEGES

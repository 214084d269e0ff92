"""Attacks on what comes next: leave something behind that a later call, of somebody else, finds or suffers from."""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, NoControl, Theme, probe

_probe = partial(probe, Theme.PERSISTENCE)

_DAEMON = """
def live(seconds):
    \"\"\"A grandchild in a session of its own, with another name, deaf and mute.\"\"\"
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        with open("/proc/self/comm", "w") as name:
            name.write({daemon_name})
    except OSError:
        pass
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    return True
"""
_FOLDERS = '(".", "/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", os.path.expanduser("~"))'

ATTACKS: tuple[Attack, ...] = (
    _probe(
        "leave_files",
        "Leave a file where a later call can find it.",
        f"""
        for folder in {_FOLDERS}:
            try:
                with open(os.path.join(folder, {{daemon_name}}), "x") as file:
                    file.write("left behind")
            except OSError:
                continue
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up=f"""
        found = [folder for folder in {_FOLDERS} if os.path.lexists(os.path.join(folder, {{daemon_name}}))]
        for folder in found:
            os.unlink(os.path.join(folder, {{daemon_name}}))
        return found and "found in " + " ".join(found)
        """,
        canary=True,
    ),
    _probe(
        "leave_a_daemon",
        "Leave a process behind by double fork and setsid, out of reach of a kill of the group.",
        _DAEMON
        + """
if live(0):
    time.sleep(4)
    os._exit(0)
raise OSError(errno.EAGAIN, "the next call tells")
""",
        follow_up="""
        for pid in others():
            try:
                if open(f"/proc/{pid}/comm").read().strip() == {daemon_name}:
                    return "the daemon lives as process " + pid
            except OSError:
                continue
        """,
        canary=True,
    ),
    _probe(
        "leave_a_deaf_daemon",
        "The same, deaf to every signal but KILL.",
        _DAEMON
        + """
if live(0):
    import signal
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            continue
    time.sleep(4)
    os._exit(0)
raise OSError(errno.EAGAIN, "the next call tells")
""",
        follow_up="""
        for pid in others():
            try:
                if open(f"/proc/{pid}/comm").read().strip() == {daemon_name}:
                    return "the daemon lives as process " + pid
            except OSError:
                continue
        """,
    ),
    _probe(
        "write_into_the_next_output",
        "Leave a process that keeps the output open and writes to it while the next call runs.",
        """
        if os.fork() == 0:
            try:
                for _ in range(20):
                    time.sleep(0.05)
                    os.write(1, b"\\nESCAPED from an earlier call\\n")
            finally:
                os._exit(0)
        os._exit(0)
        """,
        follow_up="""
        time.sleep(0.5)
        """,
        control=NoControl("outside, each call has an output of its own"),
    ),
    _probe(
        "leave_a_thread",
        "Leave a thread that writes to the output while the next call runs.",
        """
        import threading
        def nag():
            for _ in range(20):
                time.sleep(0.05)
                try:
                    os.write(1, b"\\nESCAPED from a thread of an earlier call\\n")
                except OSError:
                    return
        threading.Thread(target=nag, daemon=True).start()
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        time.sleep(0.5)
        """,
        control=NoControl("outside, each call has a process of its own"),
    ),
    _probe(
        "patch_the_interpreter",
        "Change modules and builtins for the next call in the same interpreter.",
        """
        import builtins, json
        builtins.steptool_was_here = True
        os.steptool_was_here = json.steptool_was_here = True
        frame = sys._getframe()
        while frame:
            frame.f_globals["steptool_was_here"] = True
            frame = frame.f_back
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        import builtins, json
        spaces = [vars(builtins), vars(os), vars(json)]
        frame = sys._getframe()
        while frame:
            spaces.append(frame.f_globals)
            frame = frame.f_back
        return any("steptool_was_here" in space for space in spaces) and "an earlier call was here"
        """,
        control=NoControl("outside, each call has a process of its own"),
    ),
    _probe(
        "change_the_process",
        "Change the folder, the mask, the environment and the limits that the next call starts with.",
        """
        import resource, signal
        os.environ["STEPTOOL_WAS_HERE"] = "1"
        os.umask(0o777)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        import signal
        changed = signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN or "STEPTOOL_WAS_HERE" in os.environ
        return (changed or os.umask(0o022) == 0o777) and "the process was changed by an earlier call"
        """,
        control=NoControl("outside, each call has a process of its own"),
    ),
    _probe(
        "leave_system_v_memory",
        "Leave a segment of shared memory with a known key.",
        """
        segment = call(29, 194, 0x57E9, 4096, 0o1666)
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        segment = call(29, 194, 0x57E9, 4096, 0)
        call(31, 195, segment, 0, 0)
        return f"found segment {segment}"
        """,
    ),
    _probe(
        "leave_a_message_queue",
        "Leave a message in a System V queue with a known key.",
        """
        queue = call(68, 186, 0x57E9, 0o1666)
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        queue = call(68, 186, 0x57E9, 0)
        call(71, 187, queue, 0, 0)
        return f"found queue {queue}"
        """,
    ),
    _probe(
        "leave_a_posix_queue",
        "Leave a POSIX message queue with a known name.",
        """
        call(240, 180, ctypes.c_char_p({daemon_name}.encode()), os.O_CREAT | os.O_RDWR, 0o666, 0)
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        call(240, 180, ctypes.c_char_p({daemon_name}.encode()), os.O_RDONLY, 0, 0)
        call(241, 181, ctypes.c_char_p({daemon_name}.encode()))
        return "found the queue"
        """,
    ),
    _probe(
        "leave_a_key",
        "Leave a key in the keyring of the user.",
        """
        call(248, 217, ctypes.c_char_p(b"user"), ctypes.c_char_p({daemon_name}.encode()), ctypes.c_char_p(b"x"), 1, -4)
        raise OSError(errno.EAGAIN, "the next call tells")
        """,
        follow_up="""
        key = call(250, 219, 10, -4, ctypes.c_char_p(b"user"), ctypes.c_char_p({daemon_name}.encode()), 0)
        call(250, 219, 9, key, -4, 0, 0)
        return f"found key {key}"
        """,
    ),
)

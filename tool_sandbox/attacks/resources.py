"""Attacks on resources: take more CPU, memory, processes, files or time than one call may have.

Never run outside a sandbox. A bomb is judged by its status, and by the next call and the processes that are left. A
probe asks for a bounded amount, far above every budget of `SandboxConfig`'s defaults, and says how much it got.
"""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, NoControl, Theme, bomb, probe
from tool_sandbox.tools import CallStatus

_bomb = partial(bomb, Theme.RESOURCES)
_probe = partial(
    probe,
    Theme.RESOURCES,
    control=NoControl("outside it would get what it asks for, at the cost of others"),
    held_by=frozenset({CallStatus.DENIED, CallStatus.TIMEOUT, CallStatus.OUT_OF_MEMORY}),
)

_TIMEOUT = frozenset({CallStatus.TIMEOUT})
_MEMORY = frozenset({CallStatus.OUT_OF_MEMORY})
_ENDED = frozenset({CallStatus.TIMEOUT, CallStatus.OUT_OF_MEMORY, CallStatus.TOOL_ERROR, CallStatus.DENIED})
_ENDED_OR_DONE = _ENDED | {CallStatus.OK}

_TIME = (
    _bomb("loop_forever", "Use a processor for ever.", "while True: pass\n", _TIMEOUT, cpu_seconds=0.5, canary=True),
    _bomb(
        "loop_deaf_to_signals",
        "Use a processor for ever and ignore the signal of the limit: it must still be a timeout.",
        """
        import signal
        for number in (signal.SIGXCPU, signal.SIGTERM, signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            try:
                while True: pass
            except BaseException:
                pass
        """,
        _TIMEOUT,
        cpu_seconds=0.5,
    ),
    _bomb(
        "loop_in_children",
        "Spread a loop over four processes, each below the limit, and end well.",
        """
        import os, time
        for _ in range(4):
            try:
                if os.fork() == 0:
                    end = time.process_time() + 1.5
                    while time.process_time() < end: pass
                    os._exit(0)
            except OSError:
                while True: pass
        try:
            while True: os.wait()
        except ChildProcessError:
            pass
        """,
        _ENDED,
        cpu_seconds=0.5,
    ),
    _bomb(
        "sleep_forever", "Hold the sandbox without using it.", "import time\ntime.sleep(10**6)\n", _TIMEOUT, canary=True
    ),
    _bomb(
        "sleep_with_closed_output",
        "The same, after closing all output, so that its end looks reached.",
        "import os, time\nos.closerange(0, 64)\ntime.sleep(10**6)\n",
        _TIMEOUT | {CallStatus.TOOL_ERROR},
    ),
    _bomb(
        "stop_itself",
        "Stop the own process, and wait for a signal that nobody sends.",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n",
        _TIMEOUT,
    ),
    _bomb(
        "backtrack",
        "Match a regular expression whose cost doubles with each letter.",
        "import re\nre.match('(a+)+$', 'a' * 64 + 'b')\n",
        _TIMEOUT,
        cpu_seconds=0.5,
    ),
    _bomb(
        "raise_to_a_huge_power",
        "Compute a number without end, in one step of the interpreter.",
        "7 ** (7 ** 9) % 11\n",
        _ENDED,
    ),
    _bomb(
        "write_a_huge_number",
        "Turn a huge number into decimal digits.",
        "import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(1 << (1 << 24))))\n",
        _ENDED,
    ),
    _bomb(
        "stay_in_c_code",
        "Keep the interpreter inside C code, where no signal handler runs.",
        "max(range(10**12))\n",
        _TIMEOUT,
    ),
)

_MEMORY_BOMBS = (
    _bomb("allocate", "Take memory in one piece.", "x = bytearray(1 << 33)\n", _MEMORY, canary=True),
    _bomb(
        "append_forever",
        "Take memory in small pieces.",
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))\n",
        _MEMORY,
    ),
    _bomb("multiply_a_string", "Take memory by a short expression.", "len('x' * (1 << 40))\n", _MEMORY),
    _bomb(
        "recurse",
        "Use up the stack of the interpreter.",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)\n",
        _ENDED,
    ),
    _bomb(
        "expand_a_zip_bomb",
        "Expand a compressed file of compressed zeros, level by level.",
        """
        import zlib
        packed = zlib.compress(zlib.compress(bytes(1 << 26), 9), 9)
        for _ in range(2):
            packed = zlib.decompress(packed)
        big = b"".join(packed for _ in range(100))
        print("ESCAPED", len(big))
        """,
        _MEMORY,
    ),
    _bomb(
        "parse_a_json_bomb",
        "Parse JSON that is nested as deep as it is long.",
        "import json, sys\nsys.setrecursionlimit(10**9)\njson.loads('[' * 10**7 + ']' * 10**7)\n",
        _ENDED,
    ),
    _probe(
        "share_memory_among_processes",
        "Take memory in many processes, each below its limit: 1.25 GiB in five.",
        """
        children, reader, writer = [], *os.pipe()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                try:
                    kept = bytearray(b"x") * (1 << 28)
                    os.write(writer, b"x")
                    time.sleep(1)
                finally:
                    os._exit(0)
            children.append(child)
        os.close(writer)
        for child in children:
            os.waitpid(child, 0)
        got = len(os.read(reader, 64)) * 256
        if got > 1024:
            return f"{got} MiB at once"
        raise MemoryError
        """,
    ),
    _probe(
        "hoard_memory_in_descriptors",
        "Keep memory in anonymous files, which belong to no address space: 768 MiB.",
        """
        got, kept = 0, []
        for _ in range(48):
            kept.append(os.memfd_create("hoard"))
            for _ in range(16):
                got += os.write(kept[-1], bytes(1 << 20))
        return f"{got >> 20} MiB in descriptors"
        """,
    ),
    _probe(
        "hoard_memory_in_pipes",
        "Keep memory in the buffers of pipes: 64 MiB.",
        """
        import fcntl
        got, kept = 0, []
        while got < 64 << 20:
            reader, writer = os.pipe()
            kept += [reader, writer]
            fcntl.fcntl(writer, 1031, 1 << 20)
            os.set_blocking(writer, False)
            got += os.write(writer, bytes(1 << 20))
        return f"{got >> 20} MiB in pipes"
        """,
    ),
    _probe(
        "fill_shared_memory",
        "Fill /dev/shm, which counts against no address space: 256 MiB.",
        """
        got = 0
        for number in range(64):
            with open(f"/dev/shm/steptool-{number}", "wb", buffering=0) as file:
                for _ in range(4):
                    got += file.write(bytes(1 << 20))
        return f"{got >> 20} MiB"
        """,
        canary=True,
    ),
    _probe(
        "take_system_v_shared_memory",
        "Take shared memory and let go of its addresses: it lives on, in no address space: 768 MiB.",
        """
        libc.shmat.restype = ctypes.c_void_p
        segments = []
        try:
            for _ in range(24):
                segments.append(call(29, 194, 0, 32 << 20, 0o1600))
                place = libc.shmat(segments[-1], None, 0)
                if place == (1 << 64) - 1:
                    raise OSError(ctypes.get_errno(), "")
                ctypes.memset(place, 1, 32 << 20)
                libc.shmdt(ctypes.c_void_p(place))
        finally:
            for segment in segments:
                call(31, 195, segment, 0, 0)
        return f"{32 * len(segments)} MiB"
        """,
    ),
)

_PROCESSES = (
    _bomb(
        "fork_bomb",
        "Fork until nothing is left.",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
        _TIMEOUT,
        cpu_seconds=0.5,
        canary=True,
    ),
    _probe(
        "count_processes",
        "Have 256 processes at once.",
        """
        children = []
        try:
            for _ in range(256):
                child = os.fork()
                if child == 0:
                    time.sleep(5)
                    os._exit(0)
                children.append(child)
        finally:
            for child in children:
                os.kill(child, 9)
                os.waitpid(child, 0)
        return "256 processes"
        """,
    ),
    _probe(
        "count_threads",
        "Have 256 threads at once.",
        """
        import threading
        stop = threading.Event()
        try:
            for _ in range(256):
                threading.Thread(target=stop.wait, daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            raise OSError(errno.EAGAIN, str(error))
        finally:
            stop.set()
        return "256 threads"
        """,
    ),
)

_DISK = (
    _probe(
        "fill_the_disk",
        "Write 256 MiB in files of 8 MiB.",
        """
        got = 0
        for number in range(32):
            with open(f"big-{number}", "wb", buffering=0) as file:
                for _ in range(8):
                    got += file.write(bytes(1 << 20))
        return f"{got >> 20} MiB"
        """,
        canary=True,
    ),
    _probe(
        "write_one_huge_file",
        "Make one file of 256 MiB.",
        """
        with open("huge", "wb", buffering=0) as file:
            for _ in range(256):
                file.write(bytes(1 << 20))
        return "256 MiB in one file"
        """,
    ),
    _probe(
        "make_a_sparse_file",
        "Make a file of one TiB that takes no room, for whoever copies it.",
        """
        with open("sparse", "wb") as file:
            os.ftruncate(file.fileno(), 1 << 40)
        return "one TiB"
        """,
    ),
    _probe(
        "make_many_files",
        "Make 100,000 empty files.",
        """
        for number in range(100000):
            os.close(os.open(f"file-{number}", os.O_WRONLY | os.O_CREAT))
        return "100,000 files"
        """,
    ),
    _probe(
        "dig_deep_folders",
        "Make 50,000 folders, each in the one before: whoever clears up by recursion breaks.",
        """
        for depth in range(50000):
            os.mkdir("d")
            os.chdir("d")
        return "50,000 levels"
        """,
    ),
    _probe(
        "use_up_descriptors",
        "Open 4,096 descriptors.",
        """
        kept = [os.open("/", os.O_RDONLY) for _ in range(4096)]
        return f"{len(kept)} descriptors"
        """,
    ),
)

_FLOODS = (
    _bomb(
        "flood_standard_output", "Print without end.", "while True: print('x' * 100000)\n", _ENDED_OR_DONE, canary=True
    ),
    _bomb(
        "flood_standard_error",
        "Complain without end.",
        "import sys\nwhile True: sys.stderr.write('x' * 100000)\n",
        _ENDED_OR_DONE,
    ),
)

ATTACKS: tuple[Attack, ...] = _TIME + _MEMORY_BOMBS + _PROCESSES + _DISK + _FLOODS

"""Attacks on the report: forge a result, a status or a cost, or pass a failure of the code off as one of the runner."""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, Theme, bomb
from tool_sandbox.tools import CallStatus

_bomb = partial(bomb, Theme.OUTPUT)

_CODE = frozenset({CallStatus.OK, CallStatus.TOOL_ERROR})
"""The code's own doing. `INFRA_ERROR` would take the call out of every reward."""
_FAILED = frozenset({CallStatus.TOOL_ERROR, CallStatus.DENIED})

# The word is spelled so that it only appears where somebody parses the frame.
_FRAMES = """
import json, os, struct
text = json.dumps({"ok": True, "status": "ok", "exit_code": 0, "error": "", "cpu_seconds": 0.0, "rc": 0}) [:-1]
for name in ("content", "output", "stdout", "result", "text"):
    text += ', "' + name + '": "\\\\u0045SCAPED by a forged frame"'
body = (text + "}").encode()
forgeries = [body + b"\\n", struct.pack("!I", len(body)) + body, struct.pack("<I", len(body)) + body,
             struct.pack("!Q", len(body)) + body]
"""

ATTACKS: tuple[Attack, ...] = (
    _bomb(
        "forge_frames_on_standard_output",
        "Print what the runner's own report may look like, in several framings.",
        _FRAMES + "for forgery in forgeries:\n    os.write(1, forgery)\n    os.write(2, forgery)\nos._exit(3)\n",
        _FAILED,
    ),
    _bomb(
        "forge_frames_on_inherited_descriptors",
        "Write such reports to every other descriptor that is open.",
        _FRAMES
        + """
for number in range(3, 64):
    for forgery in forgeries:
        try:
            os.set_blocking(number, False)
            os.write(number, forgery)
        except OSError:
            break
os._exit(3)
""",
        _FAILED,
        canary=True,
    ),
    _bomb(
        "forge_the_cost",
        "Use half a second of CPU and report none, as the last line and by leaving at once.",
        """
        import json, os, sys, time
        while time.process_time() < 0.5: pass
        for cost in (0.0, -1e9):
            report = json.dumps({"error": "", "cpu_seconds": cost})
            os.write(1, (report + "\\n").encode())
            os.write(2, (report + "\\n").encode())
        os._exit(0)
        """,
        _CODE,
        cpu_seconds=0.4,
    ),
    _bomb(
        "forge_a_cost_that_is_no_number",
        "Report a cost of NaN: whoever sums costs is poisoned.",
        'import os\nos.write(2, b\'{"error": "", "cpu_seconds": NaN}\\n\')\nos._exit(0)\n',
        _CODE,
    ),
    _bomb(
        "hide_the_cost_in_children",
        "Use half a second of CPU in a child that nobody waits for, then leave.",
        """
        import os, time
        reader, writer = os.pipe()
        try:
            child = os.fork()
        except OSError:
            while time.process_time() < 0.5: pass
            os._exit(0)
        if child == 0:
            while time.process_time() < 0.5: pass
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
        """,
        _CODE,
        cpu_seconds=0.4,
    ),
    _bomb("leave_at_once", "End without a report.", "import os\nos._exit(0)\n", _CODE, canary=True),
    _bomb(
        "leave_with_the_status_of_a_failed_launcher",
        "End with the code by which launchers say that they could not start the program.",
        "import os\nos._exit(127)\n",
        frozenset(CallStatus) - {CallStatus.OK, CallStatus.INFRA_ERROR},
    ),
    _bomb(
        "kill_itself",
        "End by SIGKILL, as if the machine had run out of memory.",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
        _FAILED | {CallStatus.OUT_OF_MEMORY},
    ),
    _bomb("crash", "End by a crash of the interpreter.", "import os\nos.abort()\n", _FAILED),
    _bomb(
        "close_the_output",
        "Close every descriptor, then go on and end well.",
        "import os\nos.closerange(0, 64)\nx = sum(range(1000))\n",
        _CODE,
    ),
    _bomb(
        "write_what_is_no_text",
        "Write bytes that are no UTF-8, control codes and half a surrogate.",
        "import os\nos.write(1, bytes(range(256)) * 4 + b'\\xed\\xa0\\x80\\x1b[2J\\x00')\n",
        _CODE,
    ),
    _bomb(
        "patch_the_runner",
        "Replace what the runner will call after the code: its reporting functions, found through the frames.",
        """
        import builtins, json, os, sys, time
        def forged(*arguments, **options):
            return '{"error": "", "cpu_seconds": 0.0, "status": "infra_error"}'
        json.dumps = json.dump = forged
        time.process_time = time.monotonic = lambda: 0.0
        frame = sys._getframe()
        while frame:
            for name, value in list(frame.f_globals.items()):
                if callable(value) and not name.startswith("__") and frame.f_globals is not globals():
                    frame.f_globals[name] = forged
            frame = frame.f_back
        """,
        frozenset(CallStatus) - {CallStatus.INFRA_ERROR},
    ),
    _bomb(
        "leave_through_the_runner",
        "Raise what the runner does not expect: an exception whose text raises, and one that is no Exception.",
        """
        class Sly(BaseException):
            def __str__(self):
                raise SystemExit(0)
            __repr__ = __str__
        raise Sly
        """,
        _CODE,
    ),
)

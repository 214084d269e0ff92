"""The first program in the sandbox: loads the other modules from its standard input, then serves.

Given to Python as text (`-c`), since the sandbox sees no file of this package. The first message on standard input
holds the sources of the modules, in the order in which they need each other, and the settings.
"""

from __future__ import annotations

import json
import os
import sys
import types


def read(count: int) -> bytes:
    """Exactly `count` bytes of standard input."""
    pieces = b""
    while len(pieces) < count:
        piece = os.read(0, count - len(pieces))
        if not piece:
            sys.exit("sandbox: the input ended before the first message")
        pieces += piece
    return pieces


start = json.loads(read(int.from_bytes(read(4), "big")))
for name, source in start["modules"]:
    sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), sys.modules[name].__dict__)
sys.modules[start["modules"][-1][0]].serve(start["settings"], 0, 1)

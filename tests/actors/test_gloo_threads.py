"""In a process of its own, since the process group would stay."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, tempfile, time
from pathlib import Path
import torch.distributed as dist
from actors.gloo_threads import THREAD_NAME, yield_to_arithmetic

rendezvous = tempfile.NamedTemporaryFile()
dist.init_process_group("gloo", init_method=f"file://{rendezvous.name}", rank=0, world_size=1)
dist.new_group([0])
def gloo_threads():
    return [t for t in Path("/proc/self/task").iterdir() if (t / "comm").read_text().strip() == THREAD_NAME]

# A thread gives itself its name a moment after the group is there.
deadline = time.monotonic() + 30
while not gloo_threads() and time.monotonic() < deadline:
    time.sleep(0.05)
found, tasks = yield_to_arithmetic(), gloo_threads()
policies = {os.sched_getscheduler(int(t.name)) for t in tasks}
print(found == len(tasks) > 0, policies == {os.SCHED_IDLE}, os.sched_getscheduler(0) == os.SCHED_OTHER)
"""


def test_the_threads_of_gloo_yield_and_the_arithmetic_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True", "True", "True"]

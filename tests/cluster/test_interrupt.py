from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cluster.errors import Stopped
from cluster.interrupt import SIGNALS, StopFlag, stop_on_signals


def test_nothing_stops_before_it_is_asked_to() -> None:
    StopFlag().check()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_sets_the_flag(number: signal.Signals) -> None:
    with stop_on_signals() as flag:
        assert not flag.is_set
        os.kill(os.getpid(), number)
        assert flag.is_set
        with pytest.raises(Stopped, match="run the same command again"):
            flag.check()


def test_the_handlers_of_before_come_back_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def fail() -> None:
        with stop_on_signals():
            assert [signal.getsignal(number) for number in SIGNALS] != before
            raise RuntimeError("anything")

    with pytest.raises(RuntimeError, match="anything"):
        fail()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_second_signal_ends_the_process_at_once() -> None:
    program = (
        "import os, signal\n"
        "from cluster.interrupt import stop_on_signals\n"
        "with stop_on_signals() as flag:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(flag.is_set, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "True\n")


def test_a_command_that_is_ended_ends_what_it_started() -> None:
    program = (
        "import asyncio, os, signal\n"
        "from cluster.interrupt import leave_on_sigterm\n"
        "leave_on_sigterm()\n"
        "async def measure():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.sleep(60)\n"
        "try:\n"
        "    asyncio.run(measure())\n"
        "finally:\n"
        "    print('server stopped', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "server stopped\n", "")

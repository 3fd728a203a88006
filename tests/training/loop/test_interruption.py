"""Signals end a run wherever they arrive."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = """
import os, signal, sys, time
from training.loop.interruption import Interrupted, interruptible

def ask_to_stop():
    os.kill(os.getpid(), {number})

class Loud:
    def __del__(self):
        ask_to_stop()

def fail():
    try:
        ask_to_stop()
        time.sleep(5)
    except Interrupted:
        raise RuntimeError("a loader that complains")

def complain(number, frame):
    raise RuntimeError("a process that loads images has ended")

handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
try:
    with interruptible():
        raise KeyError("mine")
except KeyError:
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
try:
    with interruptible():
        child = os.fork()
        if child == 0:
            try:
                ask_to_stop()
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 128 + {number}, "a child ends without a word"
        signal.signal(signal.SIGCHLD, complain)
        {place}
        for _ in range(100):
            time.sleep(0.1)
    sys.exit(0)
except Interrupted as interruption:
    os.kill(os.getpid(), signal.SIGCHLD)
    sys.exit(interruption.exit_status)
"""
PLACES = {
    "plain code": ("ask_to_stop()", signal.SIGINT),
    "two finalizers": ("Loud(); Loud()", signal.SIGTERM),
    "code that raises something else": ("fail()", signal.SIGTERM),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_is_never_lost_and_other_errors_pass(root: Path, place: str) -> None:
    statement, number = PLACES[place]
    script = SCRIPT.format(number=int(number), place=statement)
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + number, done.stderr

"""Signals end a run wherever they arrive."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = """
import os, signal, sys, time
from training.loop.interruption import Interrupted, interruptible

class Loud:
    def __del__(self):
        os.kill(os.getpid(), {number})

def fail():
    os.kill(os.getpid(), {number})

def chain():
    try:
        os.kill(os.getpid(), {number})
        time.sleep(5)
    except Interrupted:
        raise RuntimeError("a loader that complains")

try:
    with interruptible():
        {place}
        for _ in range(100):
            time.sleep(0.1)
    sys.exit(0)
except Interrupted as signal:
    sys.exit(signal.exit_status)
"""
PLACES = {
    "in plain code": "fail()",
    "in a finalizer": "Loud()",
    "in two finalizers": "Loud(); Loud()",
    "in code that raises something else": "chain()",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_never_lost(root: Path, place: str, number: signal.Signals) -> None:
    script = SCRIPT.format(number=int(number), place=PLACES[place])
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=30)
    assert done.returncode == 128 + number, done.stderr


def test_without_a_signal_errors_and_handlers_stay_as_they_are(root: Path) -> None:
    script = """
import signal
from training.loop.interruption import interruptible
before = signal.getsignal(signal.SIGTERM)
try:
    with interruptible():
        raise KeyError("mine")
except KeyError:
    assert signal.getsignal(signal.SIGTERM) == before
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr

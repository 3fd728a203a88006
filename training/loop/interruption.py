"""Stopping on request: pre-emption by a cluster (SIGTERM) or Ctrl-C (SIGINT)."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


# Seconds after which an interruption is raised again.
REPEAT_SECONDS = 1.0


class Interrupted(BaseException):
    """
    The process was asked to stop. What matters is on disk already, so it stops where it is.

    Args:
        number (`int`): of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """
    Lets SIGTERM and SIGINT raise [`Interrupted`] in the main thread. It is raised again every second until the block
    exits, since Python swallows an exception raised in a finalizer. Later signals are ignored: a launcher may pass on
    one that the process has received already.

    Raises:
        Interrupted: also in place of an error that followed from the signal, e.g. that of a loader whose worker
            processes were stopped by it as well.
    """
    received: list[int] = []
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            # A child inherits the handler, e.g. one that loads images: it has nothing to report.
            os._exit(128 + number)
        if not received:
            received.append(number)
            # Torch's handler would raise when a process that loads images ends, also after the block exits.
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS, REPEAT_SECONDS)
            raise Interrupted(number)
        if number == signal.SIGALRM:
            raise Interrupted(received[0])

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Exception as error:
        if received:
            raise Interrupted(received[0]) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

"""Being stopped from outside: pre-emption by a cluster (SIGTERM) or Ctrl-C (SIGINT)."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


# Seconds after which an interruption that came to nothing is raised again.
PATIENCE = 1.0


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
    Within the context SIGTERM and SIGINT raise [`Interrupted`] in the main thread, again and again until the context
    ends: where Python cannot let an exception out, as in a finalizer, it is lost.

    Raises:
        Interrupted: also in place of an error that came of the signal, as where the processes that load images got it
            as well and the loader complains of their end.
    """
    received: list[int] = []
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            # A child inherits this, e.g. one that loads images: it has nothing to say.
            os._exit(128 + number)
        received.append(number)
        # Neither a second signal, e.g. of a launcher that passes on the first, nor the end of the processes that load
        # images must break the clean end.
        if len(received) == 1:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, raise_again)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
            raise Interrupted(number)

    def raise_again(number: int, frame: FrameType | None) -> None:
        raise Interrupted(received[0])

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Exception as error:
        if received:
            raise Interrupted(received[0]) from error
        raise
    finally:
        if received:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

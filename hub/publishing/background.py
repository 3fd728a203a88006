"""Publishes the steps of a run while the next ones are learned: one at a time, in order, and never in their way."""

import queue
import threading
from collections.abc import Callable

from hub.run.errors import PublishError, UserError


#: Seconds to wait before each further try, when the Hub fails for the time being. The client itself has tried for
#: half a minute by then.
RETRY_DELAYS = (5.0, 60.0)
#: Seconds that a delay has at most while `close` waits.
HURRIED_DELAY = 5.0
#: Seconds that `close` waits for the Hub at most.
PATIENCE = 3600.0

_THREAD_NAME = "hub publisher"


def is_publishing() -> bool:
    """
    Whether something is on its way to the Hub. Python would wait for it at its end, as the client uploads in threads
    that are no daemons.
    """
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())


class BackgroundPublisher:
    """
    A thread that publishes one step after the other. A step that fails is kept: the next step tries it again first,
    and `close` does once more. Nothing it does stops who submits.

    Args:
        publish: Publishes a step, by its number; raises [`UserError`] when that fails. What is published already must
            be left alone.
        report: Takes lines for the user: a failure once, until something else happens.
        retry_delays: Seconds before each further try of a step whose failure is transient.
        patience: Seconds that `close` waits at most.
    """

    def __init__(
        self,
        publish: Callable[[int], object],
        report: Callable[[str], None],
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        patience: float = PATIENCE,
    ) -> None:
        self._publish = publish
        self._report = report
        self._retry_delays = retry_delays
        self._patience = patience
        self._submitted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._pending: list[int] = []
        self._reported = ""
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name=_THREAD_NAME, daemon=True)
        self._thread.start()

    def submit(self, step: int) -> None:
        """Lets a step be published as soon as those before it are; returns at once."""
        self._submitted.put(step)

    def close(self) -> list[int]:
        """
        Waits until all is published, or until the Hub has failed once more.

        Returns:
            The steps that are not published.
        """
        self._closing.set()
        self._submitted.put(None)
        self._thread.join(self._patience)
        self._given_up.set()
        return list(self._pending)

    def abandon(self) -> None:
        """Lets go of what is not published yet, without waiting."""
        self._given_up.set()
        self._closing.set()
        self._submitted.put(None)

    def _work(self) -> None:
        while (step := self._submitted.get()) is not None:
            self._pending.append(step)
            # More may have come meanwhile: they are tried together, in order.
            if self._submitted.empty():
                self._publish_pending()
        self._publish_pending()

    def _publish_pending(self) -> None:
        while self._pending and not self._given_up.is_set():
            if not self._try(self._pending[0]):
                return
            del self._pending[0]

    def _try(self, step: int) -> bool:
        """Whether the step is published now; tries again as long as that may help."""
        for delay in (*self._retry_delays, None):
            error = self._failure_of(step)
            if error is None:
                return True
            if delay is None or not (isinstance(error, PublishError) and error.transient):
                self._tell(step, error)
                break
            self._wait(delay)
            if self._given_up.is_set():
                break
        if self._closing.is_set():
            # That was the last time.
            self._given_up.set()
        return False

    def _wait(self, delay: float) -> None:
        self._closing.wait(delay)
        if self._closing.is_set():
            self._given_up.wait(min(delay, HURRIED_DELAY))

    def _failure_of(self, step: int) -> Exception | None:
        try:
            self._publish(step)
        except Exception as error:
            # Whatever it is, training goes on: an unforeseen error is told like any other.
            return error
        self._reported = ""
        return None

    def _tell(self, step: int, error: Exception) -> None:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if reason != self._reported:
            self._reported = reason
            goes_on = "" if self._closing.is_set() else " Training goes on."
            self._report(f"Step {step} is not published: {reason}.{goes_on}")

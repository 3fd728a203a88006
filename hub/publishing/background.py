"""Publishes the steps of a run in a background thread, in order, without blocking training."""

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hub.publishing.destination import Destination
from hub.publishing.preflight import preflight
from hub.publishing.revision import publish_step
from hub.publishing.secrets import without_tokens
from hub.run.errors import PublishError, UserError
from hub.run.layout import step_folder


#: Seconds to wait before each further attempt when a failure is transient. The client itself has tried for half a
#: minute by then.
RETRY_DELAYS = (5.0, 60.0)
#: Upper bound in seconds of a delay while `finish` waits.
HURRIED_DELAY = 5.0
#: Seconds that `finish` waits for the Hub at most.
PATIENCE = 3600.0

_THREAD_NAME = "hub publisher"


def is_publishing() -> bool:
    """
    Whether a publisher is at work. Python would wait for it before it exits, as the client uploads in threads that are
    not daemons.
    """
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())


class BackgroundPublisher:
    """
    A thread that publishes one step after the other. A step that fails is kept: the next step tries it again first,
    and `finish` once more. No failure stops training.

    As a context manager it finishes when the block ends, and abandons when an exception leaves it.

    Args:
        destination (`Destination`, *optional*): where to publish, and how; with `None` no method does anything.
        output_dir (`Path`): folder of the run.
        say (`Callable`): takes lines for the user.
        warn (`Callable`): takes warnings; a failure is reported once, until something else happens.
        retry_delays (`tuple[float, ...]`, *optional*, defaults to 5 and 60): seconds before each further attempt.
        patience (`float`, *optional*, defaults to an hour): seconds that `finish` waits at most.
    """

    def __init__(
        self,
        destination: Destination | None,
        output_dir: Path,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        patience: float = PATIENCE,
    ) -> None:
        self._destination = destination
        self._output_dir = output_dir
        self._say = say
        self._warn = warn
        self._retry_delays = retry_delays
        self._patience = patience
        self._pending: list[int] = []
        # True for a step submitted, False for the end.
        self._signals: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._reported = ""
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(destination,), name=_THREAD_NAME, daemon=True)

    def __enter__(self) -> "BackgroundPublisher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish() if error is None else self.abandon()

    def start(
        self,
        *,
        is_new: bool,
        has_begun: bool = False,
        first_own_step: int = 1,
        earlier_steps: Sequence[Any] | None = None,
    ) -> None:
        """
        Asks the Hub whether it will accept the run, then stands ready.

        Args:
            is_new (`bool`): ignore what `output_dir` holds, as the run will replace it.
            has_begun (`bool`, *optional*, defaults to `False`): whether the run is resumed. The Hub may then be out of
                reach for now.
            first_own_step, earlier_steps (*optional*): see [`preflight`].

        Raises:
            `UserError`: it will not.
        """
        if self._destination is None:
            return
        output_dir = None if is_new else self._output_dir
        try:
            preflight(self._destination, output_dir, first_own_step=first_own_step, earlier_steps=earlier_steps)
        except PublishError as error:
            if not (error.transient and has_begun):
                raise
            self._warn(f"Cannot reach the Hub ({error}). Training continues; publishing will be retried.")
        self._thread.start()

    def submit(self, step: int) -> None:
        """Has a saved step published after those before it; returns at once."""
        if self._destination is not None:
            self._pending.append(step)
            self._signals.put(True)

    def finish(self) -> None:
        """Waits until all is published, or the Hub has failed once more; warns about what is left."""
        self._closing.set()
        self._signals.put(False)
        try:
            if self._thread.is_alive():
                self._thread.join(self._patience)
        finally:
            self._given_up.set()
        if self._destination is not None and (left := list(self._pending)):
            steps = ", ".join(map(str, left))
            command = self._destination.command(self._output_dir)
            self._warn(f"Not published: step {steps}. To publish what is missing later: {command}")

    def abandon(self) -> None:
        """Stops after the current attempt, without waiting for it."""
        self._given_up.set()
        self._closing.set()
        self._signals.put(False)

    def _work(self, destination: Destination) -> None:
        has_more = True
        while has_more:
            has_more = self._signals.get()
            # Steps submitted meanwhile are tried together, in order.
            if self._signals.empty():
                while self._pending and not self._given_up.is_set() and self._publish(self._pending[0], destination):
                    del self._pending[0]

    def _publish(self, step: int, destination: Destination) -> bool:
        """Whether the step is published now; retries while that may help."""
        for delay in (*self._retry_delays, None):
            is_last = self._closing.is_set()
            try:
                model, *_ = publish_step(step_folder(self._output_dir, step), destination)
            except Exception as error:
                # Any error: training continues after a bug of ours as well.
                if delay is None or not (isinstance(error, PublishError) and error.transient):
                    self._report(step, error)
                    break
            else:
                self._reported = ""
                self._say(f"Step {step} is at {model.url}")
                return True
            self._wait(delay)
            if self._given_up.is_set():
                break
        if is_last:
            self._given_up.set()
        return False

    def _wait(self, delay: float) -> None:
        self._closing.wait(delay)
        if self._closing.is_set():
            self._given_up.wait(min(delay, HURRIED_DELAY))

    def _report(self, step: int, error: Exception) -> None:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        reason = without_tokens(told, self._destination.secret if self._destination else None)
        if reason != self._reported:
            self._reported = reason
            outlook = "" if self._closing.is_set() else " Training continues."
            self._warn(f"Step {step} is not published: {reason}.{outlook}")

"""Publishing beside the training: in order, one at a time, retried, reported once, and never in the way."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hub.publishing.background import BackgroundPublisher
from hub.run.errors import PublishError


TRANSIENT = PublishError("the Hub answered 503", transient=True)
LASTING = PublishError("the token may not write")


class Hub:
    """Stands for the Hub: takes steps, or fails as it is told; remembers everything."""

    def __init__(self) -> None:
        self.failures: dict[int, list[Exception]] = {}
        self.tried: list[int] = []
        self.published: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()

    def publish(self, step: int) -> None:
        """Takes a step once the gate is open, unless there is a failure left for it."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.tried.append(step)
        self.gate.wait(10)
        try:
            if self.failures.get(step):
                raise self.failures[step].pop(0)
            self.published.append(step)
        finally:
            self.at_once -= 1


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def start(hub: Hub, reports: list[str]) -> Iterator[Callable[..., BackgroundPublisher]]:
    """Starts a publisher to `hub` that retries without delay."""
    started: list[BackgroundPublisher] = []

    def start(delays: tuple[float, ...] = (0.0, 0.0), patience: float = 10.0) -> BackgroundPublisher:
        started.append(BackgroundPublisher(hub.publish, reports.append, delays, patience))
        return started[-1]

    yield start
    for publisher in started:
        publisher.abandon()


def test_steps_go_up_in_order_while_the_next_ones_are_learned(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.gate.clear()
    publisher = start()
    for step in (1, 2, 3):
        publisher.submit(step)  # Would never return if it waited for the Hub.
    assert hub.published == []
    hub.gate.set()
    assert publisher.close() == []
    assert hub.published == [1, 2, 3] and hub.most_at_once == 1 and reports == []


def test_a_failure_for_the_time_being_is_retried_without_a_word(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.failures = {1: [TRANSIENT, TRANSIENT]}
    publisher = start()
    publisher.submit(1)
    assert publisher.close() == [] and reports == [] and hub.tried == [1, 1, 1]


def test_a_lasting_failure_is_told_once_and_tried_again_with_the_next_step_and_at_the_end(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.failures = {1: [LASTING] * 3}
    publisher = start()
    for step in (1, 2):
        publisher.submit(step)
        wait_until(lambda step=step: hub.tried == [1] * step)  # type: ignore[misc]
    assert publisher.close() == [1, 2]
    assert hub.tried == [1, 1, 1], "no step goes up before the one before it"
    assert reports == ["Step 1 is not published: the token may not write. Training goes on."]


def test_after_a_recovery_everything_goes_up_in_order_and_a_new_failure_is_told(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.failures = {1: [LASTING], 3: [LASTING, LASTING]}
    publisher = start()
    publisher.submit(1)
    wait_until(lambda: reports)
    publisher.submit(2)
    wait_until(lambda: hub.published == [1, 2])
    publisher.submit(3)
    wait_until(lambda: len(reports) == 2)
    assert publisher.close() == [3] and hub.published == [1, 2]


def test_an_unforeseen_error_stops_nothing(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.failures = {1: [KeyError("bug")]}
    publisher = start()
    publisher.submit(1)
    wait_until(lambda: reports)
    publisher.submit(2)
    assert publisher.close() == [] and hub.published == [1, 2]
    assert reports == ["Step 1 is not published: KeyError: 'bug'. Training goes on."]


def test_at_the_end_no_failure_promises_that_training_goes_on(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.failures = {1: [LASTING, KeyError("bug")]}
    publisher = start()
    publisher.submit(1)
    wait_until(lambda: reports)
    assert publisher.close() == [1]
    assert reports[1:] == ["Step 1 is not published: KeyError: 'bug'."]


def test_a_hub_that_hangs_is_waited_for_no_longer_than_patience(
    hub: Hub, start: Callable[..., BackgroundPublisher]
) -> None:
    hub.gate.clear()
    publisher = start(patience=0.05)
    publisher.submit(1)
    assert publisher.close() == [1]
    hub.gate.set()


def test_a_run_that_stops_does_not_wait_for_the_delays(
    hub: Hub, reports: list[str], start: Callable[..., BackgroundPublisher]
) -> None:
    hub.failures = {1: [TRANSIENT] * 9}
    publisher = start(delays=(3600.0,))
    publisher.submit(1)
    wait_until(lambda: hub.tried)
    publisher.abandon()
    assert publisher.close() == [1] and hub.tried == [1] and reports == []


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for the other thread, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)

"""Publishing beside the training: in order, retried, reported once, and without blocking it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hub.publishing.background import BackgroundPublisher, is_publishing
from hub.publishing.destination import Destination, RepoType
from hub.run.errors import PublishError
from tests.hub.publication import PublicationHere


REFUSED = {"method": "POST", "path": "/commit/", "kind": "status", "status": 403, "count": 99}
CONFLICT = {**REFUSED, "status": 412}


@dataclass(frozen=True)
class Flawed(Destination):
    """A destination that fails as no one has foreseen, once for each of its bugs."""

    bugs: list[Exception] = field(default_factory=list)

    def repo_id(self, repo_type: RepoType) -> str:
        if self.bugs:
            raise self.bugs.pop(0)
        return super().repo_id(repo_type)


NewPublisher = Callable[..., BackgroundPublisher]


@pytest.fixture
def said() -> list[str]:
    """The lines for the user."""
    return []


@pytest.fixture
def warned() -> list[str]:
    """The warnings."""
    return []


@pytest.fixture
def new_publisher(publication: PublicationHere, said: list[str], warned: list[str]) -> Iterator[NewPublisher]:
    """A function that makes a publisher of `publication` that retries without delay; it ends with the test."""
    made: list[BackgroundPublisher] = []

    def new(destination: Destination | None = None, **options: Any) -> BackgroundPublisher:
        options = {"retry_delays": (0.0, 0.0)} | options
        destination = destination or Destination(publication.repo)
        made.append(BackgroundPublisher(destination, publication.run, said.append, warned.append, **options))
        return made[-1]

    yield new
    for publisher in made:
        publisher.abandon()
    wait_until(lambda: not is_publishing())


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for the other thread, at most twenty seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_steps_go_up_in_order_while_the_next_ones_are_learned(
    publication: PublicationHere, new_publisher: NewPublisher, said: list[str], warned: list[str]
) -> None:
    publication.hub.inject({"method": "POST", "path": "/preupload/", "kind": "slow", "seconds": 0.5})
    with new_publisher() as publisher:
        publisher.start(is_new=False)
        for step in (1, 2, 3):
            publisher.submit(step)
        assert publication.state()["tags"] == {} and is_publishing(), "nothing waits for the Hub"
    assert said == [
        f"Step {step} is at {publication.hub.endpoint}/{publication.repo}/tree/step{step}" for step in (1, 2, 3)
    ]
    assert warned == [] and not is_publishing()
    publication.assert_published_once()


def test_a_transient_failure_is_retried_without_a_word(
    publication: PublicationHere, new_publisher: NewPublisher, warned: list[str]
) -> None:
    with new_publisher() as publisher:
        publisher.start(is_new=True)
        publication.hub.inject({**CONFLICT, "count": 2})
        publisher.submit(1)
    assert warned == [] and publication.hub.num_hits == 2
    assert list(publication.state()["tags"]) == ["step1"]


def test_a_lasting_failure_is_reported_once_and_tried_again_with_the_next_step_and_at_the_end(
    publication: PublicationHere, new_publisher: NewPublisher, warned: list[str]
) -> None:
    with new_publisher() as publisher:
        publisher.start(is_new=True)
        publication.hub.inject(REFUSED)
        for step in (1, 2):
            publisher.submit(step)
            wait_until(lambda step=step: publication.hub.num_hits == step)
    assert publication.hub.num_hits == 3 and publication.state()["tags"] == {}, "no step goes up before the one before"
    refusal, left = warned
    assert refusal.startswith("Step 1 is not published: cannot publish step1 to org/")
    assert refusal.endswith("with write access to this namespace. Training continues.")
    command = f"python -m hub.publish {publication.run} --hub_model_id {publication.repo}"
    assert left == f"Not published: step 1, 2. To publish what is missing later: {command}"


def test_an_unforeseen_error_stops_nothing_and_is_reported_again_after_a_recovery(
    publication: PublicationHere, new_publisher: NewPublisher, warned: list[str]
) -> None:
    destination = Flawed(publication.repo)
    with new_publisher(destination) as publisher:
        publisher.start(is_new=True)
        destination.bugs.append(KeyError("bug"))
        publisher.submit(1)
        wait_until(lambda: warned)
        publisher.submit(2)
        wait_until(lambda: list(publication.state()["tags"]) == ["step1", "step2"])
        destination.bugs.extend([KeyError("bug"), KeyError("other")])
        publisher.submit(3)
        wait_until(lambda: len(warned) == 2)
    assert warned[:3] == [
        "Step 1 is not published: KeyError: 'bug'. Training continues.",
        "Step 3 is not published: KeyError: 'bug'. Training continues.",
        "Step 3 is not published: KeyError: 'other'.",
    ]
    assert warned[3].startswith("Not published: step 3.")


def test_a_hub_that_hangs_is_waited_for_no_longer_than_patience(
    publication: PublicationHere, new_publisher: NewPublisher, warned: list[str]
) -> None:
    with new_publisher(patience=0.05) as publisher:
        publisher.start(is_new=True)
        publication.hub.inject({"method": "POST", "path": "/preupload/", "kind": "slow", "seconds": 2})
        publisher.submit(1)
        wait_until(lambda: publication.hub.num_hits)
    assert is_publishing() and warned[0].startswith("Not published: step 1.")


def test_a_training_that_fails_does_not_wait(
    publication: PublicationHere, new_publisher: NewPublisher, warned: list[str]
) -> None:
    with pytest.raises(ZeroDivisionError), new_publisher(retry_delays=(3600.0,)) as publisher:
        publisher.start(is_new=True)
        publication.hub.inject(CONFLICT)
        publisher.submit(1)
        wait_until(lambda: publication.hub.num_hits)
        raise ZeroDivisionError
    wait_until(lambda: not is_publishing())
    assert publication.hub.num_hits == 1 and warned == []


def test_a_hub_out_of_reach_stops_a_new_run_but_none_that_is_resumed(
    publication: PublicationHere, new_publisher: NewPublisher, warned: list[str]
) -> None:
    publisher = new_publisher()
    outage = {"method": "GET", "path": "/whoami", "kind": "status"}
    publication.hub.inject(outage)
    with pytest.raises(PublishError, match="the Hub answered 503"):
        publisher.start(is_new=True)
    publication.hub.inject({**outage, "status": 403})
    with pytest.raises(PublishError, match="may not write"):
        publisher.start(is_new=False, has_begun=True)
    publication.hub.inject(outage)
    with publisher:
        publisher.start(is_new=False, has_begun=True)
        publisher.submit(1)
    (warning,) = warned
    assert warning.startswith("Cannot reach the Hub (cannot publish to org/")
    assert warning.endswith("Training continues; publishing will be retried.")
    assert list(publication.state()["tags"]) == ["step1"]


def test_without_a_destination_nothing_happens(tmp_path: Path) -> None:
    lines: list[str] = []
    with BackgroundPublisher(None, tmp_path, say=lines.append, warn=lines.append) as publisher:
        publisher.start(is_new=True)
        publisher.submit(1)
        assert not is_publishing()
    publisher.abandon()
    assert lines == []

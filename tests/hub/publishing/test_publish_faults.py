"""Publishing over a network that fails: run again until it succeeds, it ends with every step published once."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hub.publication import XET, Publication, PublicationHere, succeeds


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

REFS = ("GET", "/refs$")
TREE = ("GET", "/tree/")
CREATE = ("POST", "/repos/create$")
CARD = ("POST", "/validate-yaml$")
PREUPLOAD = ("POST", "/preupload/")
BATCH = ("POST", "/objects/batch$")
PUT = ("PUT", "/objects/")
VERIFY = ("POST", "/verify$")
XET_TOKEN = ("GET", "/xet-write-token/")
COMMIT = ("POST", "/commit/")
TAG = ("POST", "/tag/")

NewPublication = Callable[[str], Publication]


@pytest.fixture
def new_publication(hub: "LocalHub", finished_run: Path, tmp_path: Path) -> NewPublication:
    """
    A function that gives a run and a repository of its own to publish it to: by LFS within this process or in fresh
    ones, or by xet, whose client keeps a cache, in fresh ones.
    """
    numbers = count()

    def new(transfer: str) -> Publication:
        number = next(numbers)
        run = Path(shutil.copytree(finished_run, tmp_path / f"run{number}"))
        # The test's folder is named after the test, in a way that is unique.
        repo = f"org/{tmp_path.name}.{number}"
        if transfer == "here":
            return PublicationHere(hub, run, repo)
        return Publication(hub, run, repo, XET if transfer == "xet" else {})

    return new


def fault(request: tuple[str, str], kind: str, **more: Any) -> dict[str, Any]:
    """A fault of a kind of request."""
    return {"method": request[0], "path": request[1], "kind": kind, **more}


def name_of(value: Any) -> str | None:
    """The name of a kind of request in the name of a test."""
    return value[1].strip("/$").replace("/", "-") if isinstance(value, tuple) else None


# What every step does is hit in the second step, so that the publication breaks off in its middle.
ONE_FAULT = [
    *(("here", request, "status", 0) for request in (REFS, TREE, CREATE)),
    *(("here", request, "status", 1) for request in (PREUPLOAD, BATCH, PUT, VERIFY, CARD, COMMIT, TAG)),
    *(("here", request, kind, 0) for request in (CREATE, PUT) for kind in ("drop_before", "drop_after")),
    *(("here", request, kind, 1) for request in (COMMIT, TAG) for kind in ("drop_before", "drop_after")),
    ("xet", XET_TOKEN, "status", 1),
    ("xet", COMMIT, "drop_after", 1),
]


@pytest.mark.parametrize(("transfer", "request_kind", "kind", "skip"), ONE_FAULT, ids=name_of)
def test_one_fault_costs_one_repetition_at_most(
    new_publication: NewPublication, transfer: str, request_kind: tuple[str, str], kind: str, skip: int
) -> None:
    publication = new_publication(transfer)
    publication.hub.inject(fault(request_kind, kind, skip=skip))
    attempts = publication.repeat_until_done()
    assert publication.hub.num_hits == 1
    # Where the work was done and only its answer is lost, nothing is to be repeated.
    assert attempts <= (1 if kind == "drop_after" else 2)
    publication.assert_published_once()


def test_slow_answers_are_waited_for(new_publication: NewPublication) -> None:
    publication = new_publication("here")
    publication.hub.inject(*(fault(kind, "slow", seconds=0.3) for kind in (REFS, CREATE, PREUPLOAD, COMMIT, TAG)))
    assert publication.repeat_until_done() == 1
    assert publication.hub.num_hits == 5
    publication.assert_published_once()


@pytest.mark.parametrize("transfer", ["here", "xet"])
def test_everything_fails_once(new_publication: NewPublication, transfer: str) -> None:
    publication = new_publication(transfer)
    upload = (XET_TOKEN,) if transfer == "xet" else (BATCH, PUT)
    kinds = (REFS, CREATE, CARD, PREUPLOAD, *upload, TAG)
    statuses = (503, 502, 500, 429, 504, 503, 429)
    faults = [fault(kind, "status", status=status) for kind, status in zip(kinds, statuses, strict=False)]
    # And a conflict that is none.
    publication.hub.inject(*faults, fault(COMMIT, "status", status=412))
    publication.repeat_until_done()
    assert publication.hub.num_hits == len(kinds) + 1
    publication.assert_published_once()


def test_an_outage_of_every_request(new_publication: NewPublication) -> None:
    publication = new_publication("here")
    # Two of them, so that a retry that happens soon meets the second.
    publication.hub.inject(*(fault((method, ""), "status", count=2) for method in ("GET", "POST")))
    publication.repeat_until_done()
    assert publication.hub.num_hits == 4
    publication.assert_published_once()


def test_a_failure_after_a_recovery_is_one_line(new_publication: NewPublication) -> None:
    """The client would warn of what it repeats."""
    publication = new_publication("lfs")
    publication.hub.inject(fault(PUT, "status"), fault(COMMIT, "status", status=403))
    message = publication.refused()
    assert publication.hub.num_hits == 2
    assert "signature=" not in message, "a link that permits to upload"


@pytest.mark.parametrize(
    ("transfer", "slow"), [("lfs", None), ("lfs", PREUPLOAD), ("lfs", COMMIT), ("xet", COMMIT)], ids=name_of
)
def test_two_publishers_at_the_same_moment(
    new_publication: NewPublication, transfer: str, slow: tuple[str, str] | None
) -> None:
    publication = new_publication(transfer)
    if slow:
        # Both have seen the same state before either changes it, or after one has changed half of it.
        publication.hub.inject(fault(slow, "slow", seconds=0.3, count=4))
    both = [publication.start(), publication.start()]
    ends = [succeeds(publication.hub.finish(process)) for process in both]
    assert any(ends), "one of them wins"
    if not all(ends):
        publication.repeat_until_done()
    publication.assert_published_once()


@pytest.mark.slow
@pytest.mark.parametrize("transfer", ["lfs", "xet"])
def test_a_publisher_killed_at_any_moment(new_publication: NewPublication, transfer: str) -> None:
    moments = kill_moments(new_publication, transfer, "publisher")
    killed = broken_off = 0
    while killed < 10 or broken_off < 3:
        publication = new_publication(transfer)
        while is_killed(publication, next(moments)):
            killed += 1
            broken_off += publication.exists() and len(publication.state()["tags"]) < 3
        publication.assert_published_once()


def is_killed(publication: Publication, seconds: float) -> bool:
    """Publishes, to be killed after `seconds`; False if it was done before."""
    process = publication.start()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    done = publication.hub.finish(process)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("transfer", ["lfs", "xet"])
def test_a_server_killed_at_any_moment(new_publication: NewPublication, transfer: str) -> None:
    moments = kill_moments(new_publication, transfer, "server")
    for _ in range(4):
        publication = new_publication(transfer)
        hub, port = publication.hub, publication.hub.port
        process = publication.start()
        time.sleep(next(moments))
        hub.stop(signal.SIGKILL)
        hub.start(port)
        if not succeeds(hub.finish(process)):
            publication.repeat_until_done()
        publication.assert_published_once()


def kill_moments(new_publication: NewPublication, transfer: str, seed: str) -> Iterator[float]:
    """Seconds after the start of a publication, drawn from the time that one takes."""
    # The first one is slow, as it reads files that are not in the machine's memory yet.
    seconds = min(seconds_of(new_publication(transfer)) for _ in range(2))
    generator = random.Random(seed + transfer)
    # Before that, Python is still starting.
    return (generator.uniform(0.4, 0.95) * seconds for _ in count())


def seconds_of(publication: Publication) -> float:
    """How long it takes to publish when nothing fails."""
    begin = time.monotonic()
    assert publication.repeat_until_done() == 1
    return time.monotonic() - begin

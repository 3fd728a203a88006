"""Publishing over a network that fails: run again until it succeeds, it ends with every step published once."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
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
    ("here", COMMIT, "slow", 1),
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
    # Where the work was done and its answer is late or lost, nothing is to be repeated.
    assert attempts <= (1 if kind in ("slow", "drop_after") else 2)
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


def test_a_failure_after_a_recovery_is_one_line(new_publication: NewPublication) -> None:
    """The client would warn of what it repeats."""
    publication = new_publication("lfs")
    publication.hub.inject(fault(PUT, "status"), fault(COMMIT, "status", status=403))
    message = publication.refused()
    assert publication.hub.num_hits == 2
    assert "signature=" not in message, "a link that permits to upload"


def start_and_wait_in(publication: Publication, request_kind: tuple[str, str]) -> "subprocess.Popen[str]":
    """A publisher that waits for the answer to a request, whose work is done or will be."""
    publication.hub.inject(fault(request_kind, "slow"))
    process = publication.start()
    while not publication.hub.num_hits:
        assert process.poll() is None, request_kind
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("request_kind", [CREATE, PREUPLOAD, COMMIT, TAG], ids=name_of)
def test_what_another_publisher_does_meanwhile_counts(
    new_publication: NewPublication, request_kind: tuple[str, str]
) -> None:
    publication = new_publication("lfs")
    process = start_and_wait_in(publication, request_kind)
    process.send_signal(signal.SIGSTOP)
    try:
        PublicationHere(publication.hub, publication.run, publication.repo).published()
    finally:
        process.send_signal(signal.SIGCONT)
    assert succeeds(publication.hub.finish(process))
    publication.assert_published_once()


@pytest.mark.parametrize(
    ("transfer", "kinds"),
    [("lfs", (CREATE, PREUPLOAD, BATCH, PUT, VERIFY, COMMIT, TAG)), ("xet", (XET_TOKEN, COMMIT))],
)
def test_a_publisher_killed_after_any_request(
    new_publication: NewPublication, transfer: str, kinds: tuple[tuple[str, str], ...]
) -> None:
    publication = new_publication(transfer)
    for kind in kinds:
        process = start_and_wait_in(publication, kind)
        process.kill()
        publication.hub.finish(process)
    # The large file of a step may have arrived before its publisher was killed: VERIFY is then met in the next step.
    assert "step3" not in publication.state()["tags"], "none came to its end"
    assert publication.repeat_until_done() == 1
    publication.assert_published_once()

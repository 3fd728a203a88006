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

from tests.hub.fake_run import write_run
from tests.hub.publication import LFS, XET, Publication


if TYPE_CHECKING:
    from tests.hub.conftest import LocalHub

TRANSFERS = {"lfs": LFS, "xet": XET}
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


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of three steps; publications work on copies of it."""
    return write_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def new_publication(shared_hub: "LocalHub", finished_run: Path, tmp_path: Path) -> NewPublication:
    """A function that gives a run and a repository of its own to publish it to, by the transfer named."""
    numbers = count()
    shared_hub.inject()

    def new(transfer: str) -> Publication:
        number = next(numbers)
        run = Path(shutil.copytree(finished_run, tmp_path / f"run{number}"))
        # The test's folder is named after the test, in a way that is unique.
        return Publication(shared_hub, run, f"org/{tmp_path.name}.{number}", TRANSFERS[transfer])

    return new


def fault(request: tuple[str, str], kind: str, **more: Any) -> dict[str, Any]:
    """A fault of a kind of request."""
    return {"method": request[0], "path": request[1], "kind": kind, **more}


def name_of(value: Any) -> str | None:
    """The name of a kind of request in the name of a test."""
    return value[1].strip("/$").replace("/", "-") if isinstance(value, tuple) else None


# Faults of what every step does hit the second step, so that they break off a publication in its middle.
BY_REQUEST = [
    *(("lfs", request, 1) for request in (PREUPLOAD, BATCH, PUT, VERIFY, CARD, COMMIT, TAG)),
    *(("xet", request, 1) for request in (PREUPLOAD, XET_TOKEN, COMMIT, TAG)),
    *(("lfs", request, 0) for request in (REFS, TREE, CREATE)),
]


def assert_survives(publication: Publication, once: dict[str, Any]) -> None:
    """One fault, which must hit: at most one repetition, and everything is there once."""
    publication.hub.inject(once)
    assert publication.repeat_until_done() <= 2
    assert publication.hub.num_hits == 1
    publication.assert_published_once()


@pytest.mark.parametrize(("transfer", "request_kind", "skip"), BY_REQUEST, ids=name_of)
def test_a_request_that_is_answered_503(
    new_publication: NewPublication, transfer: str, request_kind: tuple[str, str], skip: int
) -> None:
    publication = new_publication(transfer)
    assert_survives(publication, fault(request_kind, "status", status=503, skip=skip))


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("request_kind", [COMMIT, TAG], ids=name_of)
@pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
def test_a_connection_that_breaks_around_a_change(
    new_publication: NewPublication, transfer: str, request_kind: tuple[str, str], kind: str
) -> None:
    publication = new_publication(transfer)
    assert_survives(publication, fault(request_kind, kind, skip=1))


@pytest.mark.parametrize("request_kind", [CREATE, PUT], ids=name_of)
@pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
def test_a_connection_that_breaks_around_a_preparation(
    new_publication: NewPublication, request_kind: tuple[str, str], kind: str
) -> None:
    publication = new_publication("lfs")
    assert_survives(publication, fault(request_kind, kind))


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_slow_answers_are_waited_for(new_publication: NewPublication, transfer: str) -> None:
    publication = new_publication(transfer)
    publication.hub.inject(*(fault(kind, "slow", seconds=0.3) for kind in (REFS, CREATE, PREUPLOAD, COMMIT, TAG)))
    assert publication.repeat_until_done() == 1
    assert publication.hub.num_hits == 5
    publication.assert_published_once()


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_a_conflict_that_is_none(new_publication: NewPublication, transfer: str) -> None:
    publication = new_publication(transfer)
    assert_survives(publication, fault(COMMIT, "status", status=412, skip=1))


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_everything_fails_once(new_publication: NewPublication, transfer: str) -> None:
    publication = new_publication(transfer)
    upload = (BATCH, PUT) if transfer == "lfs" else (XET_TOKEN,)
    kinds = (REFS, CREATE, CARD, PREUPLOAD, *upload, COMMIT, TAG)
    statuses = (503, 502, 500, 429, 504, 503, 429, 503)
    publication.hub.inject(
        *(fault(kind, "status", status=status) for kind, status in zip(kinds, statuses, strict=False))
    )
    publication.repeat_until_done()
    assert publication.hub.num_hits == len(kinds)
    publication.assert_published_once()


def test_a_failure_after_a_recovery_is_one_line(new_publication: NewPublication) -> None:
    publication = new_publication("lfs")
    publication.hub.inject(fault(PUT, "status"), fault(COMMIT, "status", status=403))
    done = publication.hub.finish(publication.start())
    assert publication.hub.num_hits == 2 and done.returncode == 1
    assert "signature=" not in done.stderr, "a link that permits to upload"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    publication.repeat_until_done()
    publication.assert_published_once()


def test_an_outage_of_every_request(new_publication: NewPublication) -> None:
    publication = new_publication("lfs")
    # Two of them, so that a retry that happens soon meets the second.
    publication.hub.inject(
        *({"method": method, "path": "", "kind": "status", "count": 2} for method in ("GET", "POST"))
    )
    publication.repeat_until_done()
    assert publication.hub.num_hits == 4
    publication.assert_published_once()


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("slow", [None, PREUPLOAD, COMMIT], ids=name_of)
def test_two_publishers_at_the_same_moment(
    new_publication: NewPublication, transfer: str, slow: tuple[str, str] | None
) -> None:
    publication = new_publication(transfer)
    if slow:
        # Both have seen the same state before either changes it, or after one has changed half of it.
        publication.hub.inject(fault(slow, "slow", seconds=0.3, count=4))
    both = [publication.start(), publication.start()]
    ends = [publication.succeeds(process) for process in both]
    assert any(ends), "one of them wins"
    if not all(ends):
        publication.repeat_until_done()
    publication.assert_published_once()


@pytest.mark.slow
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_a_publisher_killed_at_any_moment(new_publication: NewPublication, transfer: str) -> None:
    moments = kill_moments(new_publication, transfer, "publisher")
    killed = broken_off = 0
    while killed < 10 or broken_off < 3:
        publication = new_publication(transfer)
        while is_killed(publication, next(moments)):
            killed += 1
            broken_off += is_half_done(publication)
        publication.assert_published_once()


def is_killed(publication: Publication, seconds: float) -> bool:
    """Publishes, to be killed after `seconds`; False if it was done before."""
    process = publication.start()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    done = publication.hub.finish(process)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def is_half_done(publication: Publication) -> bool:
    """Whether the repository is there, but not yet all steps."""
    if publication.hub.call("GET", f"/api/models/{publication.repo}")[0] == 404:
        return False
    return 0 <= len(publication.state()["tags"]) < 3


@pytest.mark.slow
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_a_server_killed_at_any_moment(new_publication: NewPublication, transfer: str) -> None:
    moments = kill_moments(new_publication, transfer, "server")
    for _ in range(4):
        publication = new_publication(transfer)
        hub, port = publication.hub, publication.hub.port
        process = publication.start()
        time.sleep(next(moments))
        hub.stop(signal.SIGKILL)
        hub.start(port)
        if not publication.succeeds(process):
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

"""Faults that the local Hub commits on request, so that its clients can be tested against a network that fails."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hub.local.http import HubError, Response


logger = logging.getLogger(__name__)

_KINDS = ("status", "drop_before", "drop_after", "slow")


@dataclass(frozen=True)
class Fault:
    """What happens to some requests instead of a proper answer.

    Attributes:
        method: the HTTP method of the requests.
        path: a regular expression found anywhere in their raw path.
        kind: `"status"` answers with an error without doing the work, `"drop_before"` closes the connection without
            doing it, `"drop_after"` closes the connection after it, `"slow"` answers late.
        count: how many requests it hits.
        skip: how many requests it lets pass before those.
        status: HTTP status of the kind `"status"`, 400..599.
        seconds: delay of the kind `"slow"`.
    """

    method: str
    path: str
    kind: str
    count: int = 1
    skip: int = 0
    status: int = 503
    seconds: float = 1.0

    def apply(self, answer: Callable[[], Response]) -> Response:
        """The answer of a request that is hit and whose work `answer` does; raises `ConnectionError` to drop it."""
        if self.kind == "status":
            raise HubError(self.status, "this fault was asked for")
        if self.kind == "drop_before":
            raise ConnectionAbortedError("this fault was asked for")
        if self.kind == "drop_after":
            with suppress(HubError):
                answer()
            raise ConnectionAbortedError("this fault was asked for")
        response = answer()
        time.sleep(self.seconds)
        return response


class Faults:
    """The faults of a JSON file, none without one. The file is read again, and counted anew, whenever it is replaced.

    Raises `ValueError` if the file is malformed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None
        self._faults: list[Fault] = []
        self._seen: list[int] = []
        self._refresh()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, the first of several; raises `HubError` 500 if the file became unusable.

        `path` is the raw path, without the query.
        """
        with self._lock:
            try:
                self._refresh()
            except (OSError, ValueError) as error:
                raise HubError(500, str(error)) from None
            for number, fault in enumerate(self._faults):
                if method == fault.method and re.search(fault.path, path):
                    self._seen[number] += 1
                    if fault.skip < self._seen[number] <= fault.skip + fault.count:
                        logger.info("fault %d hits: %s of %s %s", number + 1, fault.kind, method, path)
                        return fault
        return None

    def _refresh(self) -> None:
        if self._path is None:
            return
        status = self._path.stat()
        version = (status.st_mtime_ns, status.st_ino)
        if version != self._version:
            self._faults = _read(self._path)
            self._seen = [0] * len(self._faults)
            self._version = version


def _read(path: Path) -> list[Fault]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"fault file {path}: not JSON ({error})") from None
    if not isinstance(entries, list):
        raise ValueError(f"fault file {path}: expected a JSON list of faults")
    return [_fault(entry, f"fault {number} of {path}") for number, entry in enumerate(entries, 1)]


def _fault(entry: Any, place: str) -> Fault:
    known = [field.name for field in fields(Fault)]
    if not isinstance(entry, dict) or not {"method", "path", "kind"} <= entry.keys() <= set(known):
        raise ValueError(f"{place}: expected an object with method, path, kind and optionally {', '.join(known[3:])}")
    _check_texts(entry, place)
    _check_number(entry, "count", 1, None, place)
    _check_number(entry, "skip", 0, None, place)
    _check_number(entry, "status", 400, 599, place)
    seconds = entry.get("seconds", 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 3600:
        raise ValueError(f"{place}: seconds is {seconds!r}, expected a number from 0 to 3600")
    return Fault(**entry)


def _check_texts(entry: dict[str, Any], place: str) -> None:
    for key in ("method", "path", "kind"):
        if not isinstance(entry[key], str):
            raise ValueError(f"{place}: {key} is {entry[key]!r}, expected a string")
    if entry["kind"] not in _KINDS:
        raise ValueError(f"{place}: kind is {entry['kind']!r}, expected one of {', '.join(_KINDS)}")
    try:
        re.compile(entry["path"])
    except re.error as error:
        raise ValueError(f"{place}: path is {entry['path']!r}, expected a regular expression ({error})") from None


def _check_number(entry: dict[str, Any], key: str, low: int, high: int | None, place: str) -> None:
    value = entry.get(key, low)
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        expected = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
        raise ValueError(f"{place}: {key} is {value!r}, expected {expected}")

"""
A local Hub that fails on purpose, so that clients can be tested against a network that fails.

    python -m tests.hub.faulty_server FOLDER        # with the options of hub.local_server
"""

import json
import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from typing import Any

from hub.local.errors import HubError
from hub.local.http import Body, Response
from hub.local.server import LocalHubServer
from hub.local_server import make_parser, serve


# Posting a list of faults here replaces those before; the answer, and that of GET, is how many requests they have hit.
CONTROL_PATH = "/faults"


@dataclass
class Fault:
    """
    What happens to some requests instead of a proper answer.

    Args:
        method (`str`): the HTTP method of the requests.
        path (`str`): a regular expression found anywhere in their raw path.
        kind (`str`): `"status"` answers with an error without doing the work, `"drop_before"` closes the connection
            without doing it, `"drop_after"` closes the connection after it, `"slow"` answers late.
        count (`int`, *optional*, defaults to 1): how many requests it hits.
        skip (`int`, *optional*, defaults to 0): how many requests it lets pass before those.
        status (`int`, *optional*, defaults to 503): HTTP status of the kind `"status"`, 400..599.
        seconds (`float`, *optional*, defaults to 1): delay of the kind `"slow"`.
    """

    method: str
    path: str
    kind: str
    count: int = 1
    skip: int = 0
    status: int = 503
    seconds: float = 1.0

    def __post_init__(self) -> None:
        assert self.kind in ("status", "drop_before", "drop_after", "slow"), self.kind
        self._seen = 0

    def hits(self, method: str, path: str) -> bool:
        """Whether it hits this request, which counts as seen."""
        if method != self.method or not re.search(self.path, path):
            return False
        self._seen += 1
        return self.skip < self._seen <= self.skip + self.count


class FaultyServer(LocalHubServer):
    """A Hub with faults, see `CONTROL_PATH`; when it starts it has none."""

    def __init__(self, *arguments: Any) -> None:
        self._faults: list[Fault] = []
        self._num_hits = 0
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def answer(self, method: str, target: str, headers: Message, body: Body) -> Response:
        """The answer to a request, unless a fault hits it; of several, the first does."""
        path = target.partition("?")[0]
        with self._lock:
            if path == CONTROL_PATH and method == "POST":
                self._faults = [Fault(**fault) for fault in json.loads(body.read())]
                self._num_hits = 0
            if path == CONTROL_PATH:
                return Response.of_json(self._num_hits)
            fault = next((fault for fault in self._faults if fault.hits(method, path)), None)
            self._num_hits += fault is not None
        if fault is None:
            return super().answer(method, target, headers, body)
        if fault.kind == "status":
            raise HubError(fault.status, "this fault was asked for")
        if fault.kind == "drop_before":
            raise ConnectionAbortedError
        if fault.kind == "drop_after":
            with suppress(HubError):
                super().answer(method, target, headers, body)
            raise ConnectionAbortedError
        response = super().answer(method, target, headers, body)
        time.sleep(fault.seconds)
        return response


if __name__ == "__main__":
    sys.exit(serve(make_parser().parse_args(), FaultyServer))

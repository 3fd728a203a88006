"""What the routes of the local Hub see of HTTP: a request, a response and a table of routes."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode

from hub.local.accounts import Account
from hub.local.errors import HubError
from hub.local.store import Store


API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
CHUNK_BYTES = 1 << 20
MAX_JSON_BYTES = 32 << 20

T = TypeVar("T")


class Body:
    """The body of a request: `length` bytes of `stream`, read at most once and never as a whole unless asked."""

    def __init__(self, stream: BufferedIOBase, length: int) -> None:
        self._stream = stream
        self.length = length
        self._remaining = length

    def chunks(self) -> Iterator[bytes]:
        """Yields what is left in pieces of at most `CHUNK_BYTES`."""
        while self._remaining:
            chunk = self._stream.read(min(CHUNK_BYTES, self._remaining))
            if not chunk:
                raise ConnectionError(f"the client hung up {self._remaining} bytes before the end of its request")
            self._remaining -= len(chunk)
            yield chunk

    def read(self) -> bytes:
        """Returns what is left; raises `HubError` 413 if it is over `MAX_JSON_BYTES`."""
        if self._remaining > MAX_JSON_BYTES:
            raise HubError(413, f"the request has {self.length} bytes, at most {MAX_JSON_BYTES} are accepted here")
        return b"".join(self.chunks())


@dataclass(frozen=True)
class Request:
    """One request; `account` is `None` if it is anonymous, `endpoint` is the Hub's address as the sender knows it."""

    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: Body
    account: Account | None
    endpoint: str

    def flag(self, name: str) -> bool:
        """Whether the query asks for `name`, as `true` or `1`."""
        return self.query.get(name, [""])[-1].lower() in ("true", "1")

    def number(self, name: str) -> int:
        """A whole number of the query, 0 if it is absent; raises `HubError` 400 for anything else."""
        text = self.query.get(name, ["0"])[-1]
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise HubError(400, f"query parameter {name}={text!r}: expected a whole number >= 0")
        return int(text)

    @property
    def author(self) -> str:
        """The name to put on a change, which nobody anonymous may make."""
        assert self.account is not None
        return self.account.name

    def link_to(self, **query: int) -> dict[str, str]:
        """The header that sends the client on to this request with another `query`."""
        following = urlencode({**self.query, **query}, doseq=True)
        return {"Link": f'<{self.endpoint}{self.path}?{following}>; rel="next"'}

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; raises `HubError` 400 if it is not one."""
        return parse_object(self.body.read())


def parse_object(text: bytes) -> dict[str, Any]:
    """Parses a JSON object; raises `HubError` 400 if `text` is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise HubError(400, f"expected a JSON object, got {text[:40]!r}") from None
    if not isinstance(value, dict):
        raise HubError(400, f"expected a JSON object, got a JSON {type(value).__name__}")
    return value


def member(payload: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """`payload[key]`, which must be a `kind`; raises `HubError` 400 if it is absent or another type."""
    value = payload.get(key)
    # JSON distinguishes booleans from numbers, Python does not.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise HubError(400, f"{key!r} is {value!r:.80}: expected a {kind.__name__}")
    return value


@dataclass(frozen=True)
class FileRange:
    """The bytes from `start` to `stop` of the file at `path`; has the length and the slices of those bytes."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "FileRange":
        start, stop, _ = part.indices(len(self))
        return FileRange(self.path, self.start + start, self.start + stop)


@dataclass(frozen=True)
class Response:
    """An answer; a `FileRange` body is streamed from disk."""

    status: int = 200
    body: bytes | FileRange = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """An answer that carries `value` as JSON; dates and the like become strings."""
        body = json.dumps(value, default=str).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})

    @classmethod
    def of_error(cls, error: HubError) -> "Response":
        """An error in the shape the Hub's clients parse."""
        # A header value is latin-1 without line breaks; the JSON carries the message unchanged.
        headers = {"X-Error-Message": re.sub(r"[^\x20-\x7e]", "?", error.message), **error.headers}
        if error.code is not None:
            headers["X-Error-Code"] = error.code
        return cls.of_json({"error": error.message, **error.payload}, error.status, headers)


Route = Callable[..., Response]


class Router:
    """
    A table of routes: a method, a pattern of the raw path, a function of the hub, the request and the groups.

    Patterns match the path as sent, so that `%2F` within a branch name is no separator; groups are unquoted after.
    """

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Route]] = []

    def route(self, method: str, pattern: str) -> Callable[[Route], Route]:
        """Registers a function `(store, request, **groups)` for paths that match the whole of `pattern`."""

        def register(function: Route) -> Route:
            self._routes.append((method, re.compile(pattern), function))
            return function

        return register

    def repository_route(self, method: str, pattern: str, write: bool = False) -> Callable[[Route], Route]:
        """
        Registers a function `(repository, request, **groups)`, which is called only if the sender may read the
        repository that `pattern` names by its groups `kind` and `repo_id`, or may write to it.
        """

        def register(function: Route) -> Route:
            @self.route(method, pattern)
            def opened(store: Store, request: Request, repo_id: str, kind: str = "models", **groups: str) -> Response:
                return function(store.open(kind, repo_id, request.account, write), request, **groups)

            return function

        return register

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The function for a request and its arguments, or `None`; `HEAD` finds the route of `GET`."""
        method = "GET" if method == "HEAD" else method
        for known, pattern, function in self._routes:
            match = pattern.fullmatch(path) if known == method else None
            if match:
                groups = match.groupdict()
                # Undecodable bytes become U+FFFD, which names no existing repository, revision or file.
                return function, {key: unquote(value) for key, value in groups.items() if value is not None}
        return None

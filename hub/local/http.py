"""What the routes of the local Hub see of HTTP: a request, a response, an error, and a table of routes."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlencode


API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
CHUNK_BYTES = 1 << 20
MAX_JSON_BYTES = 32 << 20

T = TypeVar("T")


class HubError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status, 400..599.
        message: one line for the user, sent as `X-Error-Message` and as JSON `error`.
        code: the Hub's machine-readable name of the error, sent as `X-Error-Code`, e.g. `"RepoNotFound"`.
        headers: further headers of the answer.
        payload: further keys of the JSON answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.payload = dict(payload or {})

    def response(self) -> "Response":
        """The error as an answer in the shape the Hub's clients parse."""
        # A header value is latin-1 without line breaks; the JSON carries the message unchanged.
        headers = {"X-Error-Message": re.sub(r"[^\x20-\x7e]", "?", self.message), **self.headers}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return Response.of_json({"error": self.message, **self.payload}, self.status, headers)


class Body:
    """The body of a request: `length` bytes of `stream`, read at most once and never as a whole unless asked."""

    def __init__(self, stream: BufferedIOBase | BinaryIO, length: int) -> None:
        self._stream = stream
        self.length = length
        self.remaining = length

    def _take(self, data: bytes) -> bytes:
        if not data:
            raise ConnectionError(f"the client hung up {self.remaining} bytes before the end of its request")
        self.remaining -= len(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield what is left in pieces of at most `CHUNK_BYTES`."""
        while self.remaining:
            yield self._take(self._stream.read(min(CHUNK_BYTES, self.remaining)))

    def lines(self) -> Iterator[bytes]:
        """Yield what is left line by line; raises `HubError` 413 for a line over `MAX_JSON_BYTES`."""
        while self.remaining:
            line = self._take(self._stream.readline(min(MAX_JSON_BYTES, self.remaining)))
            if self.remaining and not line.endswith(b"\n"):
                raise HubError(413, f"a line of the request is longer than {MAX_JSON_BYTES} bytes: send it as LFS")
            yield line

    def read(self) -> bytes:
        """Return what is left; raises `HubError` 413 if it is over `MAX_JSON_BYTES`."""
        if self.remaining > MAX_JSON_BYTES:
            raise HubError(413, f"the request has {self.length} bytes, at most {MAX_JSON_BYTES} are accepted here")
        return b"".join(self.chunks())

    def drain(self) -> None:
        """Read and forget what is left, so that the connection can carry the answer and the next request."""
        for _ in self.chunks():
            pass


@dataclass(frozen=True)
class Account:
    """Who is asking.

    Attributes:
        name: the user's name, also a namespace.
        orgs: organizations of the user, further namespaces.
        role: `"read"` or `"write"`.
        everywhere: whether all namespaces count as the user's own.
    """

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"
    everywhere: bool = False

    def belongs_to(self, namespace: str) -> bool:
        """Whether `namespace` is the user's or one of their organizations'."""
        return self.everywhere or namespace == self.name or namespace in self.orgs


@dataclass(frozen=True)
class Request:
    """One request, stripped of transport: `account` is `None` for an anonymous caller."""

    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: Body
    account: Account | None
    endpoint: str

    def flag(self, name: str) -> bool:
        """Whether the query asks for `name`, as `true` or `1`."""
        return self.query.get(name, [""])[-1].lower() in ("true", "1")

    def number(self, name: str, default: int = 0) -> int:
        """A whole number >= 0 of the query; raises `HubError` 400 for anything else."""
        text = self.query.get(name, [str(default)])[-1]
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise HubError(400, f"query parameter {name}={text!r}: expected a whole number >= 0")
        return int(text)

    @property
    def author(self) -> str:
        """The name to put on a change; raises `HubError` 401 for an anonymous caller."""
        if self.account is None:
            raise HubError(401, "Log in to change anything: the request has no token")
        return self.account.name

    def link_to(self, **query: int) -> dict[str, str]:
        """The header that sends the client on to this request with another `query`."""
        following = urlencode({**self.query, **query}, doseq=True)
        return {"Link": f'<{self.endpoint}{self.path}?{following}>; rel="next"'}

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; raises `HubError` 400 if it is not one."""
        return parse_object(self.body.read())


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `HubError` 400 if `text` is none."""
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
    # JSON knows booleans apart from numbers, Python does not.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise HubError(400, f"{key!r} is {value!r:.80}: expected a {kind.__name__}")
    return value


@dataclass(frozen=True)
class FileRange:
    """`length` bytes of the file at `path`, from byte `start`."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Response:
    """An answer; a `FileRange` body is streamed from disk."""

    status: int = 200
    body: bytes | FileRange = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """An answer that carries `value` as JSON; dates and the like become strings."""
        body = json.dumps(value, default=str).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})

    @property
    def length(self) -> int:
        """Bytes in the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.length


Route = Callable[..., Response]


class Router:
    """A table of routes: a method, a pattern of the raw path, a function of the hub, the request and the groups.

    Patterns match the path as sent, so that `%2F` within a branch name is no separator; groups are unquoted after.
    """

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Route]] = []

    def route(self, method: str, pattern: str) -> Callable[[Route], Route]:
        """Register the decorated function for `method` on paths that match the whole of `pattern`."""

        def register(function: Route) -> Route:
            self._routes.append((method, re.compile(pattern), function))
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

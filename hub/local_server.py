"""Serve a Hugging Face Hub from a folder, for demos, tests and machines without internet.

    python -m hub.local_server FOLDER
    HF_ENDPOINT=http://127.0.0.1:PORT python my_script.py

The first line it prints is its endpoint. Clients are unmodified: `huggingface_hub`, `transformers`, `datasets`.
"""

import argparse
import logging
import signal
import socketserver
import sys
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hub.local import content, revisions, routes, transfers, xet
from hub.local.accounts import Accounts
from hub.local.faults import Faults
from hub.local.http import CHUNK_BYTES, Body, FileRange, HubError, Request, Response
from hub.local.store import Store
from hub.local.xet import is_loopback


logger = logging.getLogger(__name__)

_ROUTERS = (
    routes.router,
    revisions.router,
    content.router,
    transfers.router,
    xet.router,
)


class LocalHubServer(ThreadingHTTPServer):
    """A Hub of the repositories in `store`, listening on `host:port` (port 0: any that is free).

    `faults` are committed on purpose; by default there are none.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.store = store
        self.accounts = accounts
        self.faults = faults or Faults()
        super().__init__((host, port), _Handler)
        self.endpoint = f"http://{host}:{self.server_port}"

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which can take seconds without a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection broke: the client's business, unless it is a bug."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            logger.exception("connection failed")


class _Handler(BaseHTTPRequestHandler):
    """Turns bytes of a connection into a `Request`, and a `Response` into bytes."""

    server: LocalHubServer
    server_version = "LocalHub"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300

    def _handle(self) -> None:
        body = Body(self.rfile, 0)
        try:
            try:
                body = Body(self.rfile, self._content_length())
                fault = self.server.faults.take(self.command, urlsplit(self.path).path)
                answer = partial(self._answer, body)
                response = fault.apply(answer) if fault else answer()
            except HubError as error:
                response = error.response()
            body.drain()
            self._send(response)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _content_length(self) -> int:
        text = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not text.isdecimal():
            # Where the body ends is unknown, hence also where the next request begins.
            self.close_connection = True
            raise HubError(411, "send the request with its Content-Length")
        return int(text)

    def _answer(self, body: Body) -> Response:
        target = urlsplit(self.path)
        self._refuse_web_pages()
        found = next(filter(None, (router.find(self.command, target.path) for router in _ROUTERS)), None)
        if found is None:
            raise HubError(404, f"the local Hub has no {self.command} {target.path}")
        route, arguments = found
        request = Request(
            path=target.path,
            query=parse_qs(target.query, keep_blank_values=True),
            headers=self.headers,
            body=body,
            account=self.server.accounts.of(self.headers),
            endpoint=f"http://{self.headers['Host']}" if self.headers["Host"] else self.server.endpoint,
        )
        try:
            return route(self.server.store, request, **arguments)
        except (HubError, ConnectionError, TimeoutError):
            raise
        except Exception:
            logger.exception("%s %s failed", self.command, target.path)
            raise HubError(500, "internal error of the local Hub: its log has the details") from None

    def _refuse_web_pages(self) -> None:
        """Raise `HubError` 403 for what a browser sends for some web page: callers may be trusted, pages may not."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        rebound = is_loopback(self.server.server_name) and host and not is_loopback(host)
        if rebound or "Origin" in self.headers:
            raise HubError(403, "the local Hub does not answer to web pages")

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(response.length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(response.body, FileRange):
            self._send_file(response.body)
        else:
            self.wfile.write(response.body)

    def _send_file(self, part: FileRange) -> None:
        with open(part.path, "rb") as file:
            file.seek(part.start)
            remaining = part.length
            while remaining:
                chunk = file.read(min(CHUNK_BYTES, remaining))
                if not chunk:
                    raise ConnectionError(f"{part.path.name} is {remaining} bytes short")
                self.wfile.write(chunk)
                remaining -= len(chunk)

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request without its query, which may hold a signature."""
        logger.debug("%s %s", self.command, self.path.partition("?")[0])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message if it is invalid."""
    parser = argparse.ArgumentParser(prog="python -m hub.local_server", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the repositories are kept; made if it does not exist")
    parser.add_argument(
        "--port", type=int, default=0, help="TCP port; 0 takes any that is free (default: %(default)s)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="IPv4 address to listen on; 0.0.0.0 lets other machines in, unencrypted (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="F.json",
        help='accounts by token, e.g. {"hf_abc": {"name": "alice", "orgs": ["org"], "role": "write"}}; role is "read" '
        'or "write"; without this file every caller may write everywhere (default: none)',
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="F.json",
        help='for tests of clients: requests to fail, e.g. [{"method": "POST", "path": "/commit/", "kind": "status", '
        '"status": 503, "count": 2, "skip": 1}]; kind is "status", "drop_before", "drop_after" or "slow" (with '
        '"seconds"); the file is read again whenever it is replaced (default: none)',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        accounts = Accounts.load(options.tokens) if options.tokens else Accounts()
        faults = Faults(options.faults)
        store = Store(options.folder)
        server = LocalHubServer(store, accounts, options.host, options.port, faults)
    except (OSError, OverflowError, ValueError) as error:
        sys.stderr.write(f"local_server: {error}\n")
        return 1
    try:
        # Both signals end the loop below, also where a shell has made a background job ignore SIGINT.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        print(server.endpoint, flush=True)  # noqa: T201
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

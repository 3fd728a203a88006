"""The local Hub as an HTTP server."""

import logging
import socketserver
import sys
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hub.local import content, repositories, revisions, transfers, xet
from hub.local.accounts import Accounts
from hub.local.errors import HubError
from hub.local.http import Body, FileRange, Request, Response
from hub.local.store import Store
from hub.local.xet import is_loopback


logger = logging.getLogger(__name__)

_ROUTERS = (repositories.router, revisions.router, content.router, transfers.router, xet.router)


class LocalHubServer(ThreadingHTTPServer):
    """
    A Hub of the repositories in a folder.

    Args:
        store (`Store`): the repositories.
        accounts (`Accounts`): who may read and write them.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): IPv4 address to listen on.
        port (`int`, *optional*, defaults to 0): TCP port to listen on; 0 takes any that is free.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: Store, accounts: Accounts, host: str = "127.0.0.1", port: int = 0) -> None:
        self._store = store
        self._accounts = accounts
        super().__init__((host, port), _Handler)
        self.endpoint = f"http://{host}:{self.server_port}"

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which can take seconds without a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs an exception that ended a connection, unless it was the network or the client."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            logger.exception("connection failed")

    def answer(self, method: str, target: str, headers: Message, body: Body) -> Response:
        """
        The answer to a request for `target`, a raw path and query; `body` may be left unread.

        Raises:
            `HubError`: an answer other than success.
            `ConnectionError`: there can be no answer, the connection is to be closed.
        """
        url = urlsplit(target)
        self._refuse_web_pages(headers)
        found = next(filter(None, (router.find(method, url.path) for router in _ROUTERS)), None)
        if found is None:
            raise HubError(404, f"the local Hub has no {method} {url.path}")
        route, arguments = found
        request = Request(
            path=url.path,
            query=parse_qs(url.query, keep_blank_values=True),
            headers=headers,
            body=body,
            account=self._accounts.of(headers),
            endpoint=f"http://{headers['Host']}" if headers["Host"] else self.endpoint,
        )
        try:
            return route(self._store, request, **arguments)
        except (HubError, ConnectionError, TimeoutError):
            raise
        except Exception:
            logger.exception("%s %s failed", method, url.path)
            raise HubError(500, "internal error of the local Hub: its log has the details") from None

    def _refuse_web_pages(self, headers: Message) -> None:
        """Raises `HubError` 403 for what a browser sends for some web page: callers may be trusted, pages may not."""
        host = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
        rebound = is_loopback(self.server_name) and host and not is_loopback(host)
        if rebound or "Origin" in headers:
            raise HubError(403, "the local Hub does not answer to web pages")


class _Handler(BaseHTTPRequestHandler):
    """Reads requests from a connection and writes the answers to it."""

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
                response = self.server.answer(self.command, self.path, self.headers, body)
            except HubError as error:
                response = Response.of_error(error)
            for _ in body.chunks():
                # Left unread, it would be taken for the next request.
                pass
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

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        # HEAD asks for the headers alone; `sendfile` refuses to send nothing.
        if self.command == "HEAD" or not response.body:
            return
        if isinstance(response.body, FileRange):
            self._send_file(response.body)
        else:
            self.wfile.write(response.body)

    def _send_file(self, part: FileRange) -> None:
        with open(part.path, "rb") as file:
            sent = self.connection.sendfile(file, part.start, len(part))
        if sent != len(part):
            raise ConnectionError(f"{part.path.name} is {len(part) - sent} bytes short")

    def log_message(self, format: str, *args: Any) -> None:
        """Logs a request without its query, which may hold a signature."""
        logger.debug("%s %s", self.command, self.path.partition("?")[0])

"""A loopback HTTP server that plays scripted replies and socket faults, and records every request.

Also a proxy on loopback, for both CONNECT and plain forwarding.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from uuid import uuid4

TOKEN_PATH = "/token"
CHILDREN_PATH = "/children_social_care_data/999/children"

# What the connection does: reply, reset, close without a word, close half-way through the body.
Delivery = Literal["whole", "reset", "close", "cut"]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: tuple[str, int]


@dataclass(frozen=True)
class Reply:
    """One scripted reply; a ``body`` that is a function gets the request."""

    status: int = 200
    body: bytes | Callable[[Seen], bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delivery: Delivery = "whole"
    delay: float = 0.0
    then: Callable[[], object] | None = None


def receipts_for(seen: Seen) -> bytes:
    """Return a receipt for each record of a request."""
    return json.dumps(receipts(len(json.loads(seen.body)))).encode()


def receipts(count: int) -> list[str]:
    """Return so many receipts."""
    return [f"2025-06-30_02:11:09.53_{uuid4()}.json" for _ in range(count)]


def accepted(**extra: Any) -> Reply:
    """Return the reply to a batch that was taken."""
    return Reply(200, receipts_for, **extra)


def token(number: int = 1, expires_in: object = 3600) -> Reply:
    """Return the reply of a token endpoint."""
    fields = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": expires_in}
    return Reply(200, json.dumps(fields).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the script."""


class ScriptedServer:
    """Plays the replies given to :meth:`play`, by path and in order; after that it issues and accepts."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self._scripts: dict[str, deque[Reply]] = {}
        self._tokens = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._scheme = "http"
        if tls is not None:
            # The handshake belongs to the connection's own thread, so that a failed one stops nobody.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of a path."""
        return f"{self._scheme}://{host}:{self.port}{path}"

    def play(self, *replies: Reply, path: str = CHILDREN_PATH) -> None:
        """Append to the script of a path."""
        self._scripts.setdefault(path, deque()).extend(replies)

    def seen(self, path: str = CHILDREN_PATH) -> list[Seen]:
        """Return the requests to a path, in their order."""
        with self._lock:
            return [request for request in self.requests if request.path == path]

    def answer(self, seen: Seen) -> Reply:
        """Record a request and choose the reply."""
        with self._lock:
            self.requests.append(seen)
            script = self._scripts.get(seen.path)
            if script:
                return script.popleft()
            if seen.path == TOKEN_PATH:
                self._tokens += 1
                return token(self._tokens)
            return accepted()


def _handler(owner: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen = Seen(self.path, dict(self.headers.items()), body, self.client_address)
            self._deliver(owner.answer(seen), seen)

        def do_GET(self) -> None:
            self.do_POST()

        def _deliver(self, reply: Reply, seen: Seen) -> None:
            if reply.then is not None:
                reply.then()
            time.sleep(reply.delay)
            if reply.delivery in ("reset", "close"):
                _hang_up(self.connection, hard=reply.delivery == "reset")
                self.close_connection = True
                return
            body = reply.body(seen) if callable(reply.body) else reply.body
            self.send_response(reply.status)
            headers = {"Content-Type": reply.content_type, **reply.headers}
            if reply.status != 204:
                headers["Content-Length"] = str(len(body))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if reply.delivery == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif reply.status != 204:
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Keep quiet."""

    return Handler


def _hang_up(connection: socket.socket, *, hard: bool) -> None:
    if hard:  # a close with a linger of zero sends a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(connection.detach())
    else:
        connection.shutdown(socket.SHUT_RDWR)


class TinyProxy:
    """A proxy that connects everything to ``target``'s port on loopback, whatever host is asked for."""

    def __init__(self, target: int, *, status: int = 200) -> None:
        self.lines: list[str] = []
        self.logins: list[str | None] = []
        self._server = _Server(("127.0.0.1", 0), _proxy_handler(self, target, status))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> TinyProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Host and port of the proxy."""
        return f"127.0.0.1:{self._server.server_address[1]}"


def _proxy_handler(owner: TinyProxy, target: int, status: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            if self._refused():
                return
            with socket.create_connection(("127.0.0.1", target)) as upstream:
                self.send_response(200, "Connection established")
                self.end_headers()
                _pipe(self.connection, upstream)
            self.close_connection = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self._refused():
                return
            path = "/" + self.path.split("/", 3)[3]
            upstream = http.client.HTTPConnection("127.0.0.1", target)
            try:
                upstream.request("POST", path, body, dict(self.headers.items()))
                reply = upstream.getresponse()
                data = reply.read()
            finally:
                upstream.close()
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refused(self) -> bool:
            owner.lines.append(self.requestline)
            owner.logins.append(self.headers.get("Proxy-Authorization"))
            if status == 200:
                return False
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = True
            return True

        def log_message(self, *_args: object) -> None:
            """Keep quiet."""

    return Handler


def _pipe(left: socket.socket, right: socket.socket) -> None:
    """Copy both ways until either side closes."""
    other = {left: right, right: left}
    while True:
        ready, _, _ = select.select([left, right], [], [], 5)
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)
        if not ready:
            return


def closed_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FakeTime:
    """A clock that moves only when somebody waits; ``waits`` holds every wait in seconds."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def clock(self) -> float:
        """Return the present moment."""
        return self.now

    def wall(self) -> float:
        """Return the present moment as seconds since the epoch (2025-06-30 02:00 UTC at the start)."""
        return 1751248800.0 + self.now - 1000.0

    def wait(self, seconds: float) -> None:
        """Let the time pass."""
        with self._lock:
            self.waits.append(seconds)
            self.now += seconds

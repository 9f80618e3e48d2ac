"""How the receiver listens: one thread for each kept-alive connection, on loopback, silent.

Knows HTTP and nothing of children: every request is read whole, handed to one function, and its reply is
delivered, cut off, withheld or reset as the reply says.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, cast
from urllib.parse import urlsplit

from api_pipeline.receiver_replies import Reply, gateway

HOST = "127.0.0.1"

# A longer body is not read to its end; the connection closes instead.
_DRAIN_LIMIT = 256 * 2**20
_LENGTH = re.compile(r"\d{1,15}", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One request as it came.

    Attributes:
        time: when the header had arrived, by the receiver's clock.
        path: without the query.
        body: None where it is over the limit.
        size: of the body, in bytes.
        connection: a serial number that the requests of one connection share.
    """

    time: float
    method: str
    path: str
    headers: Message
    body: bytes | None
    size: int
    connection: int

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters, in lower case."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class Server(ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1 and hands every request to ``answer``."""

    daemon_threads = True
    request_queue_size = 128
    # On Windows the option would let two receivers share one port.
    allow_reuse_address = os.name != "nt"

    def __init__(
        self,
        port: int,
        answer: Callable[[Request], Reply],
        *,
        clock: Callable[[], float],
        max_body_bytes: int,
    ) -> None:
        self.answer = answer
        self.clock = clock
        self.max_body_bytes = max_body_bytes
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._connections = 0
        self._lock = threading.Lock()
        super().__init__((HOST, port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's own step, which asks the name service for this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def opened(self, connection: socket.socket) -> int:
        """Remember a connection so that :meth:`stop` can close it; return its serial number."""
        with self._lock:
            self._open.add(connection)
            self._connections += 1
            return self._connections

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection that is about to close."""
        with self._lock:
            self._open.discard(connection)

    def stop(self) -> None:
        """Stop listening, end every delay and close every connection."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's
        """Keep standard error clean: a client that went away is no news, a defect goes to the log."""
        kind = sys.exc_info()[0]
        if kind is not None and not issubclass(kind, OSError):
            _log.error("The receiver failed on a request: %s", kind.__name__)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "csc-api-receiver"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 65536

    def setup(self) -> None:
        super().setup()
        self._owner = cast(Server, self.server)
        self._serial = self._owner.opened(self.connection)

    def finish(self) -> None:
        self._owner.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: standard error belongs to the command."""

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it before it sends the body
        return proceed

    def _exchange(self) -> None:
        arrived = self._owner.clock()
        length = self.headers.get("Content-Length", "" if self.command == "POST" else "0")
        if "Transfer-Encoding" in self.headers or not _LENGTH.fullmatch(length):
            self.close_connection = True
            self._send(gateway(411, "A Content-Length is needed."))
            return
        size = int(length)
        body = self._read_body(size)
        path = urlsplit(self.path).path
        request = Request(arrived, self.command, path, self.headers, body, size, self._serial)
        if not self._owner.stopping.is_set():
            self._send(self._owner.answer(request))

    # The base class looks handlers up by these names.
    do_GET = _exchange  # noqa: N815
    do_HEAD = _exchange  # noqa: N815
    do_POST = _exchange  # noqa: N815
    do_PUT = _exchange  # noqa: N815
    do_PATCH = _exchange  # noqa: N815
    do_DELETE = _exchange  # noqa: N815

    def _read_body(self, size: int) -> bytes | None:
        """Return the body; None if it is over the limit, then read past so that the reply arrives.

        Raises:
            ConnectionError: if the client went away half way.
        """
        if size > _DRAIN_LIMIT:
            self.close_connection = True
            return None
        kept = size <= self._owner.max_body_bytes
        body = self.rfile.read(size) if kept else b""
        left = 0 if kept else size
        while left > 0 and (piece := self.rfile.read(min(left, 65536))):
            left -= len(piece)
        if left or (kept and len(body) < size):
            self.close_connection = True
            raise ConnectionAbortedError
        return body if kept else None

    def _send(self, reply: Reply) -> None:
        if reply.delivery in ("none", "reset"):
            self.close_connection = True
            if reply.delivery == "reset":
                self._reset()
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        body = reply.body
        if reply.status != 204:
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(body)))
        if reply.delivery == "half":
            self.close_connection = True
            body = body[: len(body) // 2]
        elif self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        """Close so that the peer gets a reset: no linger, and before the base class closes in order."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.rfile.close()
        self.connection.close()

"""An API that answers at once: any token request, and one receipt for each record of any body.

It checks nothing and keeps nothing, so that the benchmark times the sender. With ``--parse`` it reads each
body as JSON, the least that a real one does. Prints its base address and then serves until it is ended.
"""

from __future__ import annotations

import json
import socketserver
import sys

_RECEIPTS = [f"2026-01-05_02:11:09.53_6f1c2a44-0d5b-4e0a-9c3e-{number:012x}.json" for number in range(101)]
_REPLIES = [json.dumps(_RECEIPTS[:count]).encode() for count in range(101)]
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_TOKEN = json.dumps({"access_token": "benchmark", "token_type": "Bearer", "expires_in": 3600}).encode()


class _Handler(socketserver.StreamRequestHandler):
    """Serves the requests of one kept-alive connection."""

    disable_nagle_algorithm = True
    rbufsize = 1 << 20

    def handle(self) -> None:
        """Answer until the client closes the connection."""
        while request_line := self.rfile.readline():
            body = self.rfile.read(self._content_length())
            reply = _TOKEN if b"/token" in request_line else _REPLIES[_count(body)]
            self.wfile.write(_HEAD % len(reply) + reply)

    def _content_length(self) -> int:
        length = 0
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return length


def _count(body: bytes) -> int:
    if "--parse" in sys.argv:
        return len(json.loads(body))
    # Counting a key is cheap, and no value of the fake children holds it.
    return body.count(b'"la_child_id"')


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with _Server(("127.0.0.1", 0), _Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()

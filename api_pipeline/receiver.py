"""The receiver: a loopback stand-in for DfE's API, with its checks, its receipts and faults on request.

It serves the token and children endpoints over real HTTP (domain, section 2) for ``demo``, for the tests
and for trying ``run`` by hand. It listens on 127.0.0.1 only, forgets everything when its process ends, and
writes nothing about what it was sent to the console or a log.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from types import TracebackType
from typing import Any, Literal

from api_pipeline import delta
from api_pipeline.errors import ConfigError
from api_pipeline.faults import Fault, FaultQueue
from api_pipeline.receiver_checks import (
    Rules,
    bearer_token,
    check_batch,
    check_grant,
    check_supplier,
    read_batch,
)
from api_pipeline.receiver_http import HOST, Request, Server
from api_pipeline.receiver_replies import Refused, Reply, as_json, gateway, page, receipts, spoiled

TEST_BASE_PATH = "/children-in-social-care-data-receiver-test/1"
LIVE_BASE_PATH = "/children-in-social-care-data-receiver/1"

_OAUTH_PATH = "/fake-tenant/oauth2/v2.0/token"
_PORTAL_PATH = "/portal"
_LEAST_READ = 65_536  # a small limit for batches must not refuse the token request


@dataclass(frozen=True)
class RequestRecord:
    """What came in and what was answered; nothing of its content unless bodies are kept.

    Attributes:
        time: when the header had arrived, by the receiver's clock.
        endpoint: ``children`` or ``token`` for a POST to one of them; empty for anything else.
        status: the status answered; 0 where no reply left.
        records: how many records the body held; 0 where it could not be read.
        size: of the body, in bytes.
        taken: whether the receiver took the batch.
        fault: the kind of fault that spoiled the reply, or empty.
        connection: a serial number that the requests of one kept-alive connection share.
        body: the bytes that came, only with ``keep_bodies``.
    """

    time: float
    method: str
    endpoint: str
    status: int
    records: int
    size: int
    taken: bool
    fault: str
    connection: int
    user_agent: str
    body: bytes | None = None


@dataclass(frozen=True)
class _Exchange:
    """A reply and what led to it."""

    reply: Reply
    records: int = 0
    taken: bool = False
    fault: Fault | None = None


class Receiver:
    """The embedded receiver; a context manager, or ``start()`` and ``stop()``.

    Args:
        port: the port on 127.0.0.1; 0 picks a free one.
        client_id, client_secret, scope: what the token endpoint accepts.
        supplier_key: what the SupplierKey header must hold.
        la_code: the only authority that it knows.
        token_lifetime: seconds after which a token is refused.
        faults: what to do wrong, in this order; more with ``faults.add(...)`` at any time.
        max_body_bytes: a longer body is answered with 413; the default is that of common web servers.
        validate: check each record against the schema (domain, section 4); code lists never refuse.
        fraction_digits: of the seconds in a receipt, 2 to 7.
        base_path: the path of the API; by default that of DfE's test receiver.
        supplier_key_status: what answers a wrong supplier key; gateways differ.
        keep_bodies: keep the bytes of every request in ``requests``.
        keep_children: keep what was taken in ``children``; switch it off for large loads.
        apply_partials: apply every payload to what is held by the rules of domain, section 5, as partial
            mode takes for granted; otherwise a payload replaces the child, as in full mode.
        clock: seconds since the epoch; tokens expire and receipts are dated by it.

    ``children`` maps each ``la_child_id`` to the payload taken last (with ``apply_partials`` to the state
    that all of them led to), ``receipts`` to its receipt, and ``purged`` lists the deletions taken, in order.
    ``requests`` holds every request in order of answer; an entry is there before its reply arrives.
    """

    def __init__(  # noqa: PLR0913 - every knob of the stand-in, all by name and with a default
        self,
        port: int = 0,
        *,
        client_id: str = "fake-client-id",
        client_secret: str = "fake-client-secret",  # noqa: S107 - a stand-in's, meant to be known
        supplier_key: str = "fake-supplier-key",
        la_code: str = "999",
        scope: str = "api://fake-receiver/.default",
        token_lifetime: float = 3600,
        faults: Sequence[Fault] = (),
        max_body_bytes: int = 30_000_000,
        validate: bool = True,
        fraction_digits: int = 2,
        base_path: str = TEST_BASE_PATH,
        supplier_key_status: Literal[401, 403] = 401,
        keep_bodies: bool = False,
        keep_children: bool = True,
        apply_partials: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 2 <= fraction_digits <= 7:
            raise ValueError("fraction_digits is 2 to 7")
        self._rules = Rules(
            client_id=client_id,
            client_secret=client_secret,
            scope=scope,
            supplier_key=supplier_key,
            supplier_key_status=supplier_key_status,
            la_code=la_code,
            max_body_bytes=max_body_bytes,
            validate=validate,
        )
        self._port = port
        self._token_lifetime = token_lifetime
        self._fraction_digits = fraction_digits
        self._base_path = base_path
        self._keep_bodies = keep_bodies
        self._keep_children = keep_children
        self._apply_partials = apply_partials
        self._clock = clock
        self._lock = threading.Lock()
        self._answered = threading.Condition()
        self._tokens: dict[str, float] = {}
        self._children_path = re.compile(
            re.escape(base_path) + r"/children_social_care_data/(?P<la_code>[^/]+)/children"
        )
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self.faults = FaultQueue(faults)
        self.children: dict[str, dict[str, Any]] = {}
        self.receipts: dict[str, str] = {}
        self.purged: list[str] = []
        self.requests: list[RequestRecord] = []
        self.records_taken = 0
        self.tokens_issued = 0

    def start(self) -> Receiver:
        """Listen and answer in background threads; after ``stop()``, on the same port again.

        Raises:
            ConfigError: if the port cannot be used.
        """
        if self._server is not None:
            return self
        try:
            limit = max(self._rules.max_body_bytes, _LEAST_READ)
            server = Server(self._port, self._answer, clock=self._clock, max_body_bytes=limit)
        except (OSError, OverflowError) as err:
            raise ConfigError(
                f"The receiver cannot listen on port {self._port}.",
                hop="port",
                remedy="Choose another port, or 0 for any that is free.",
            ) from err
        self._server = server
        self._port = server.server_port
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and close every connection; what was taken stays readable."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.stop()
            thread.join()

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def root_url(self) -> str:
        """The address without a path; known once started."""
        if not self._port:
            raise RuntimeError("the receiver has no address before start()")
        return f"http://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """The value for API_ENDPOINT."""
        return self.root_url + self._base_path

    @property
    def token_url(self) -> str:
        """The value for TOKEN_ENDPOINT."""
        return self.root_url + _OAUTH_PATH

    @property
    def children_url(self) -> str:
        """The full address that batches are posted to."""
        return f"{self.base_url}/children_social_care_data/{self._rules.la_code}/children"

    @property
    def submissions(self) -> list[RequestRecord]:
        """The POSTs to the children endpoint, in order of answer."""
        return [record for record in self.requests if record.endpoint == "children"]

    def requests_after(self, seen: int, timeout: float) -> list[RequestRecord]:
        """Return ``requests[seen:]``, waiting up to ``timeout`` seconds for the first of them."""
        with self._answered:
            self._answered.wait_for(lambda: len(self.requests) > seen, timeout)
            return self.requests[seen:]

    def settings(self) -> dict[str, str]:
        """Return the settings, by their names in a ``.env``, that make ``run`` talk to this receiver."""
        return {
            "API_ENDPOINT": self.base_url,
            "LA_CODE": self._rules.la_code,
            "TOKEN_ENDPOINT": self.token_url,
            "CLIENT_ID": self._rules.client_id,
            "CLIENT_SECRET": self._rules.client_secret,
            "SCOPE": self._rules.scope,
            "SUPPLIER_KEY": self._rules.supplier_key,
        }

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far."""
        with self._lock:
            self._tokens.clear()

    def _answer(self, request: Request) -> Reply:
        """Answer one request and remember it."""
        endpoint, exchange = self._route(request)
        self._remember(request, endpoint, exchange)
        server = self._server
        if exchange.fault is not None and exchange.fault.seconds and server is not None:
            server.stopping.wait(exchange.fault.seconds)
        return exchange.reply

    def _route(self, request: Request) -> tuple[str, _Exchange]:
        match = self._children_path.fullmatch(request.path)
        if request.method == "POST" and match:
            return "children", self._answer_children(request, match["la_code"])
        if request.method == "POST" and request.path == _OAUTH_PATH:
            return "token", self._answer_token(request)
        if match or request.path == _OAUTH_PATH:
            return "", _Exchange(gateway(405, "Method not allowed.", Allow="POST"))
        if request.method == "GET" and request.path == _PORTAL_PATH:
            return "", _Exchange(page(200, "Sign in", "Sign in to continue."))
        return "", _Exchange(gateway(404, "Resource not found."))

    def _remember(self, request: Request, endpoint: str, exchange: _Exchange) -> None:
        unheard = exchange.reply.delivery in ("none", "reset")
        record = RequestRecord(
            time=request.time,
            method=request.method,
            endpoint=endpoint,
            status=0 if unheard else exchange.reply.status,
            records=exchange.records,
            size=request.size,
            taken=exchange.taken,
            fault=exchange.fault.kind if exchange.fault else "",
            connection=request.connection,
            user_agent=request.headers.get("User-Agent", ""),
            body=request.body if self._keep_bodies else None,
        )
        with self._answered:
            self.requests.append(record)
            self._answered.notify_all()

    def _answer_token(self, request: Request) -> _Exchange:
        refusal: Reply | None = None
        try:
            check_grant(request, self._rules)
        except Refused as refused:
            refusal = refused.reply
        fault = self.faults.take("token", (), accepted=refusal is None)
        if fault is not None and not fault.takes:
            return _Exchange(self._spoiled(fault, refusal or Reply(200)), fault=fault)
        return _Exchange(self._spoiled(fault, refusal or self._issued_token()), fault=fault)

    def _issued_token(self) -> Reply:
        token = "fake-" + secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[token] = self._clock() + self._token_lifetime
            self.tokens_issued += 1
        value = {"token_type": "Bearer", "expires_in": int(self._token_lifetime), "access_token": token}
        return as_json(200, value, Cache_Control="no-store")

    def _answer_children(self, request: Request, la_code: str) -> _Exchange:
        batch: list[Any] = []
        refusal: Reply | None = None
        try:
            self._check_token(request.headers)
            check_supplier(request.headers, la_code, self._rules)
            batch = read_batch(request, self._rules)
            check_batch(batch, self._rules)
        except Refused as refused:
            refusal = refused.reply
        fault = self.faults.take("children", batch, accepted=refusal is None)
        taken = refusal is None and (fault is None or fault.takes)
        reply = refusal or self._taken(batch, keep=taken)
        return _Exchange(self._spoiled(fault, reply, batch), len(batch), taken, fault)

    def _check_token(self, headers: Message) -> None:
        with self._lock:
            expiry = self._tokens.get(bearer_token(headers))
        if expiry is None or expiry <= self._clock():
            what = "missing or invalid" if expiry is None else "expired"
            challenge = 'Bearer error="invalid_token"'
            raise Refused(gateway(401, f"Unauthorized. Access token is {what}.", WWW_Authenticate=challenge))

    def _taken(self, batch: Sequence[dict[str, Any]], *, keep: bool) -> Reply:
        """Return the receipts and, with ``keep``, upsert in the order sent (domain, section 2).

        A purge removes the child; any other payload replaces it or, if so asked, is applied to it.
        """
        moment = datetime.fromtimestamp(self._clock(), timezone.utc)
        values = receipts(len(batch), moment, self._fraction_digits)
        if keep:
            with self._lock:
                self.records_taken += len(batch)
                if self._keep_children:
                    for record, receipt in zip(batch, values, strict=True):
                        self._upsert(record, receipt)
        return as_json(200, values)

    def _upsert(self, record: dict[str, Any], receipt: str) -> None:
        child = record["la_child_id"]
        self.receipts[child] = receipt
        if record.get("purge") is True:
            self.children.pop(child, None)
            self.purged.append(child)
            return
        if self._apply_partials:
            held = self.children.get(child)
            record = delta.apply(delta.State(held) if held is not None else None, record) or record
        self.children[child] = record

    def _spoiled(self, fault: Fault | None, right: Reply, batch: Sequence[Any] = ()) -> Reply:
        if fault is None:
            return right
        if fault.kind == "401":
            self.revoke_tokens()
        return spoiled(fault, right, batch, now=self._clock(), portal=self.root_url + _PORTAL_PATH)


def describe(record: RequestRecord) -> str:
    """Return one line about a request: counts only, nothing of its content."""
    parts = [f"{record.method} {record.endpoint or 'other path'}: {record.status or 'no reply'}"]
    if record.endpoint == "children":
        taken = "taken" if record.taken else "not taken"
        parts.append(f"{record.records} records, {record.size} bytes, {taken}")
    if record.fault:
        parts.append(f"fault {record.fault}")
    return "; ".join(parts)


def serve_forever(
    receiver: Receiver, on_event: Callable[[str], None], *, stop: threading.Event | None = None
) -> None:
    """Run ``receiver`` until ``stop`` is set or Ctrl+C, calling ``on_event`` with one line per request.

    A receiver that was started before is served on, its earlier requests reported first. ``on_event`` is
    called in the caller's thread; what it raises ends the serving.

    Raises:
        ConfigError: if the port cannot be used.
        KeyboardInterrupt: as it comes; the receiver is stopped first.
    """
    ended = stop or threading.Event()
    seen, last = 0, False
    with receiver:
        while not last:
            last = ended.is_set()  # once more after the end, so that no request goes unreported
            # Short waits: on Windows, Ctrl+C does not wake an endless one.
            for record in receiver.requests_after(seen, timeout=0.1):
                seen += 1
                on_event(describe(record))

"""The access token: fetched when first needed, renewed before it expires, shared by all workers.

Carries out the token part of domain, section 2 (OAuth 2.0 client credentials, RFC 6749 section 4.4). The
token lives in memory only and is never part of a repr, a message or a log line.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import requests
from requests.auth import AuthBase

from api_pipeline.errors import ApiError
from api_pipeline.outcomes import PORTAL_REMEDY
from api_pipeline.replies import reply_kind, retry_after
from api_pipeline.transport import ConnectionFault, Transport, proxy_login

_log = logging.getLogger(__name__)

# A token is renewed this long before it ends, or after 80 % of its life if that is shorter.
_LEEWAY = 60.0
_LEEWAY_SHARE = 0.2
# For a reply without a usable expires_in; renewing too early only costs one small request.
_ASSUMED_LIFE = 300.0
# However short its life, the token that was just fetched serves the request that it was fetched for.
_LEAST_USE = 1.0

_OAUTH_CODE = re.compile(r"[a-z][a-z_]{1,48}")
_ENTRA_NUMBER = re.compile(r"AADSTS([0-9]{4,8})")
# Microsoft asks not to branch on these numbers, so they only choose the wording.
_ENTRA_REMEDIES = {
    "7000215": "CLIENT_SECRET is wrong: copy the secret's value, not its id.",
    "7000222": "CLIENT_SECRET has expired: ask for a new one.",
    "700016": "CLIENT_ID is not known there: check CLIENT_ID and the tenant in TOKEN_ENDPOINT.",
    "90002": "The tenant is not known: check TOKEN_ENDPOINT.",
    "70011": "SCOPE is not valid: check SCOPE.",
    "500011": "SCOPE names an application that is not known in this tenant: check SCOPE and TOKEN_ENDPOINT.",
}
_OAUTH_REMEDIES = {
    "invalid_client": "Check CLIENT_ID and CLIENT_SECRET; a secret may have expired.",
    "unauthorized_client": "Check CLIENT_ID, and ask whether the client may use client credentials.",
    "invalid_scope": "Check SCOPE.",
    "invalid_request": "Check TOKEN_ENDPOINT, CLIENT_ID and SCOPE.",
}
_REMEDY = "Check TOKEN_ENDPOINT, CLIENT_ID, CLIENT_SECRET and SCOPE."


class TokenRefused(ApiError):
    """The token endpoint says no, or can never be reached this way: the run has to end."""

    def __init__(self, message: str, *, hop: str, remedy: str, status: int | None = None) -> None:
        super().__init__(message, hop=hop, remedy=remedy)
        self.status = status


class TokenUnavailable(ApiError):
    """No token this time, for a passing reason; ``retry_after`` is the wait in seconds asked for, if any."""

    def __init__(
        self, message: str, *, hop: str, remedy: str, status: int | None = None, wait: float | None = None
    ) -> None:
        super().__init__(message, hop=hop, remedy=remedy)
        self.status = status
        self.retry_after = wait


@dataclass(frozen=True, slots=True)
class Client:
    """The client credentials; the secret is not part of the repr."""

    token_endpoint: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float


class TokenAuth(AuthBase):
    """Puts a valid bearer token on a request; safe to share between threads.

    Args:
        clock: monotonic seconds.
        wall: seconds since the epoch, for a Retry-After that is a date.
    """

    def __init__(
        self,
        transport: Transport,
        client: Client,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._client = client
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._token: _Token | None = None

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set the Authorization header; raises what :meth:`token` raises."""
        r.headers["Authorization"] = f"Bearer {self.token()}"
        return r

    def token(self) -> str:
        """Return a token that is not about to expire; one thread fetches while the others wait for it.

        Raises:
            TokenRefused: asking again cannot help.
            TokenUnavailable: it may work later.
        """
        with self._lock:
            if self._token is None or self._clock() >= self._token.renew_at:
                self._token = None
                self._token = self._fetch()
            return self._token.text

    def invalidate(self, token: str) -> None:
        """Forget ``token`` because the API refused it; a newer one, fetched by another worker, is kept."""
        with self._lock:
            if self._token is not None and self._token.text == token:
                self._token = None

    def _fetch(self) -> _Token:
        url = self._client.token_endpoint
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client.client_id,
            "client_secret": self._client.client_secret,
            "scope": self._client.scope,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        asked = self._clock()
        try:
            reply = self._transport.post(url, urlencode(form).encode("ascii"), headers=headers)
        except ConnectionFault as error:
            fault = error.fault
            kind = TokenRefused if fault.lasting else TokenUnavailable
            raise kind(f"No token: {fault.message}", hop=fault.hop, remedy=fault.remedy) from None
        self._refuse(reply)
        token = self._read(reply, asked)
        _log.debug("A token was fetched; it is renewed after %.0f s.", token.renew_at - asked)
        return token

    def _refuse(self, reply: requests.Response) -> None:
        """Raise if the status is not a success (domain, section 2; issue table: 400, 401, 403 are final)."""
        status = reply.status_code
        if 200 <= status < 300:
            return
        if status in (400, 401, 403):
            code, remedy = _oauth_error(reply)
            raise TokenRefused(
                f"The token endpoint refused the credentials with {status}{code}.",
                hop="token",
                remedy=remedy,
                status=status,
            )
        if status == 407:
            url = self._client.token_endpoint
            fault = proxy_login(url, self._transport.route(url), sent=True)
            raise TokenRefused(
                f"No token: {fault.message}", hop=fault.hop, remedy=fault.remedy, status=status
            )
        raise TokenUnavailable(
            f"The token endpoint answered {status}.",
            hop="token",
            remedy=PORTAL_REMEDY if 300 <= status < 400 else "Check TOKEN_ENDPOINT if this lasts.",
            status=status,
            wait=retry_after(reply.headers.get("Retry-After"), self._wall()),
        )

    def _read(self, reply: requests.Response, asked: float) -> _Token:
        try:
            fields: Any = json.loads(reply.content)
        except (ValueError, RecursionError):
            fields = None
        text = fields.get("access_token") if isinstance(fields, dict) else None
        if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text):
            what = "an HTML page" if _kind(reply) == "html" else "no usable access_token"
            raise TokenUnavailable(
                f"The token endpoint answered {reply.status_code} with {what}.",
                hop="token",
                remedy="Check TOKEN_ENDPOINT; a proxy or sign-in portal may be answering in its place.",
                status=reply.status_code,
            )
        life = _seconds(fields.get("expires_in"))
        return _Token(text, asked + max(life - min(_LEEWAY, _LEEWAY_SHARE * life), _LEAST_USE))


def _kind(reply: requests.Response) -> str:
    return reply_kind(reply.headers.get("Content-Type"), reply.content)


def _seconds(value: object) -> float:
    """Read ``expires_in``, which some servers send as text; anything else counts as missing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _ASSUMED_LIFE
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return _ASSUMED_LIFE
    return max(seconds, 0.0) if math.isfinite(seconds) else _ASSUMED_LIFE


def _oauth_error(reply: requests.Response) -> tuple[str, str]:
    """Return the error's code, for the message, and what to check; nothing else of the reply is used."""
    number = _ENTRA_NUMBER.search(reply.content.decode("utf-8", "replace"))
    try:
        fields: Any = json.loads(reply.content)
    except (ValueError, RecursionError):
        fields = None
    found = fields.get("error") if isinstance(fields, dict) else None
    code = found if isinstance(found, str) and _OAUTH_CODE.fullmatch(found) else ""
    remedy = _OAUTH_REMEDIES.get(code, _REMEDY)
    if number is not None:
        remedy = _ENTRA_REMEDIES.get(number.group(1), remedy)
    if _kind(reply) == "html":
        remedy = f"The answer is an HTML page, so a firewall or portal may have sent it. {remedy}"
    names = [name for name in (code, f"AADSTS{number.group(1)}" if number else "") if name]
    return (f" ({', '.join(names)})" if names else ""), remedy

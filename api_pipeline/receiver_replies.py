"""What the receiver answers: right replies, refusals, and the spoiled replies of each kind of fault.

Pure: everything that depends on the moment (clock, address, random ids) is handed in.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, Literal
from uuid import uuid4

from api_pipeline.faults import Fault, child_id

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
ProblemMap = Mapping[str, Sequence[str]]

# What the connection does with the reply: send it, send half of it, send none, or reset.
Delivery = Literal["whole", "half", "none", "reset"]


@dataclass(frozen=True)
class Reply:
    """One HTTP reply; ``delivery`` says how much of it ever leaves."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"


class Refused(Exception):
    """A check of the receiver failed; ``reply`` is the answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def as_json(status: int, value: Any, **headers: str) -> Reply:
    """Return ``value`` as a JSON reply; underscores in the names of ``headers`` become hyphens."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Reply(status, body, headers={name.replace("_", "-"): text for name, text in headers.items()})


def gateway(status: int, message: str, **headers: str) -> Reply:
    """Return a refusal in the words of an API gateway."""
    return as_json(status, {"statusCode": status, "message": message}, **headers)


def oauth_error(status: int, code: str, description: str) -> Reply:
    """Return a refusal of the token endpoint (RFC 6749, section 5.2)."""
    challenge = {"WWW_Authenticate": "Basic"} if status == 401 else {}
    return as_json(
        status, {"error": code, "error_description": description}, Cache_Control="no-store", **challenge
    )


def problems(status: int, errors: ProblemMap) -> Reply:
    """Return a refusal of a batch; the keys of ``errors`` name the records (domain, section 2)."""
    title = "One or more validation errors occurred."
    return as_json(status, {"title": title, "status": status, "errors": errors})


def page(status: int, title: str, text: str) -> Reply:
    """Return an HTML page, as firewalls and portals answer."""
    head, body = html.escape(title), html.escape(text)
    source = (
        f"<!DOCTYPE html><html><head><title>{head}</title></head>"
        f"<body><h1>{head}</h1><p>{body}</p></body></html>"
    )
    return Reply(status, source.encode(), HTML)


def receipts(count: int, when: datetime, fraction_digits: int) -> list[str]:
    """Return ``count`` receipts of the moment ``when``: date, time, UUID, ``.json`` (domain, section 2)."""
    fraction = f"{when.microsecond:06d}0"[:fraction_digits]
    stamp = f"{when:%Y-%m-%d_%H:%M:%S}.{fraction}"
    return [f"{stamp}_{uuid4()}.json" for _ in range(count)]


def spoiled(fault: Fault, right: Reply, batch: Sequence[Any], *, now: float, portal: str) -> Reply:
    """Return what ``fault`` makes of the ``right`` reply to ``batch``.

    Args:
        now: the receiver's clock, in seconds since the epoch.
        portal: the address that a redirect points to.
    """
    reply = _spoiled(fault, right, batch, portal)
    retry_after: str | None = None
    if fault.retry_at is not None:
        moment = datetime.fromtimestamp(now, timezone.utc).replace(microsecond=0)
        retry_after = format_datetime(moment + timedelta(seconds=fault.retry_at), usegmt=True)
    elif fault.retry_after is not None:
        retry_after = str(fault.retry_after)
    if retry_after is None:
        return reply
    return replace(reply, headers={**reply.headers, "Retry-After": retry_after})


def _spoiled(fault: Fault, right: Reply, batch: Sequence[Any], portal: str) -> Reply:
    kind = fault.kind
    if kind == "delay":
        return right
    if kind in _DELIVERIES:
        return replace(right, delivery=_DELIVERIES[kind])
    if kind in _RECEIPTS:
        return replace(right, body=_RECEIPTS[kind](json.loads(right.body)))
    if kind == "302":
        text = "Sign in to continue."
        return replace(page(302, "Moved", text), headers={"Location": portal})
    if kind == "204":
        return Reply(204)
    if kind == "html":
        return page(200, "Welcome", "Sign in to use this network.")
    if kind == "403-html":
        return page(403, "403 Forbidden", "The request was blocked by the web application firewall.")
    if kind == "object":
        return as_json(200, {"message": "accepted"})
    if kind == "empty":
        return Reply(200)
    return _refusal(fault, batch)


def _refusal(fault: Fault, batch: Sequence[Any]) -> Reply:
    text, _, names_record = fault.kind.partition("-")
    status = int(text)
    if fault.at == "token":
        return oauth_error(status, _OAUTH_CODES.get(status, "temporarily_unavailable"), "A fault on request.")
    if names_record:
        named = [i for i, record in enumerate(batch) if fault.child in (None, child_id(record))]
        chosen = named if fault.child is not None else named[:1]
        return problems(status, {f"[{i}].child_details": ["The record is not valid."] for i in chosen})
    if status in (400, 422):
        return problems(status, {"": ["The payload is malformed."]})
    return gateway(status, _MESSAGES.get(status) or _phrase(status))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "A fault on request."


def _listed(values: list[str]) -> bytes:
    return json.dumps(values).encode()


_DELIVERIES: Mapping[str, Delivery] = {"cut-off": "half", "lost-reply": "none", "reset": "reset"}
_RECEIPTS = {
    "missing-receipt": lambda values: _listed(values[:-1]),
    "extra-receipt": lambda values: _listed([*values, *values[-1:]]),
    "spaced": lambda values: "\n".join(values).encode(),
    "no-suffix": lambda values: _listed([value.removesuffix(".json") for value in values]),
}
_OAUTH_CODES = {400: "invalid_request", 401: "invalid_client", 403: "unauthorized_client"}
_MESSAGES = {
    401: "Unauthorized. Access token is missing or invalid.",
    403: "Forbidden.",
    429: "Rate limit is exceeded.",
}

"""What the receiver insists on: the token request, the headers, the array and each record in it.

Each function returns what it was asked for or raises :class:`~api_pipeline.receiver_replies.Refused` with
the answer (domain, sections 2 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import parse_qs

from api_pipeline import payload, validation
from api_pipeline.receiver_http import Request
from api_pipeline.receiver_replies import Refused, gateway, oauth_error, problems

MAX_RECORDS = 100


@dataclass(frozen=True)
class Rules:
    """What is accepted; the meaning of each value is in :class:`api_pipeline.receiver.Receiver`."""

    client_id: str
    client_secret: str
    scope: str
    supplier_key: str
    supplier_key_status: int
    la_code: str
    max_body_bytes: int
    validate: bool


def check_grant(request: Request, rules: Rules) -> None:
    """Check a token request as RFC 6749, sections 4.4.2 and 5.2, ask.

    Raises:
        Refused: with the OAuth error.
    """
    if request.body is None or request.media_type != "application/x-www-form-urlencoded":
        raise Refused(oauth_error(400, "invalid_request", "The body is not a form."))
    try:
        form = parse_qs(request.body.decode(), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise Refused(oauth_error(400, "invalid_request", "The form cannot be read.")) from None
    for name in ("grant_type", "client_id", "client_secret", "scope"):
        if len(form.get(name, ())) != 1:
            raise Refused(oauth_error(400, "invalid_request", f"{name} must be given once."))
    if form["grant_type"] != ["client_credentials"]:
        raise Refused(oauth_error(400, "unsupported_grant_type", "Only client_credentials is known."))
    if form["client_id"] != [rules.client_id]:
        raise Refused(oauth_error(401, "invalid_client", "The client_id is not known."))
    if form["client_secret"] != [rules.client_secret]:
        raise Refused(oauth_error(401, "invalid_client", "The client_secret is not right."))
    if form["scope"] != [rules.scope]:
        raise Refused(oauth_error(400, "invalid_scope", "The scope is not known."))


def bearer_token(headers: Message) -> str:
    """Return the bearer token of the request, empty if there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def check_supplier(headers: Message, la_code: str, rules: Rules) -> None:
    """Check the supplier key and the authority in the path.

    Raises:
        Refused: in the words of an API gateway.
    """
    key = headers.get("SupplierKey")
    if key != rules.supplier_key:
        what = "missing" if key is None else "invalid"
        text = f"Access denied due to {what} subscription key (SupplierKey)."
        raise Refused(gateway(rules.supplier_key_status, text))
    if la_code != rules.la_code:
        raise Refused(gateway(404, "The local authority (LA code) is not known."))


def read_batch(request: Request, rules: Rules) -> list[Any]:
    """Return the records of the body, which is parsed here and nowhere else.

    Raises:
        Refused: 413, 415, or 400 for a body that is not a JSON array.
    """
    charset = str(request.headers.get_param("charset", "utf-8")).lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if request.media_type != "application/json" or charset != "utf-8" or encoding != "identity":
        raise Refused(gateway(415, "The body must be plain application/json in UTF-8."))
    if request.body is None or request.size > rules.max_body_bytes:
        raise Refused(gateway(413, f"The body is larger than {rules.max_body_bytes} bytes."))
    try:
        # Not parse(): looking for 1e999 doubles the time, and in a known field the schema refuses it.
        batch = payload.decode(request.body.decode())
    except payload.UnreadablePayload as err:
        # Where the fault has a path, the path begins with the record's index.
        where = err.where.removeprefix("$") if err.where.startswith("$") else ""
        raise Refused(problems(400, {where: [f"The body is not JSON: {err.rule}."]})) from None
    except UnicodeDecodeError:
        raise Refused(problems(400, {"": ["The body is not UTF-8."]})) from None
    if not isinstance(batch, list):
        raise Refused(problems(400, {"": ["The body is not an array of children."]}))
    return batch


def check_batch(batch: Sequence[Any], rules: Rules) -> None:
    """Check the length of the array and every record in it; one bad record refuses all.

    Raises:
        Refused: 400 whose keys are the records' indexes and paths.
    """
    if not 1 <= len(batch) <= MAX_RECORDS:
        text = f"The array holds {len(batch)} records; it must hold 1 to {MAX_RECORDS}."
        raise Refused(problems(400, {"": [text]}))
    errors: dict[str, list[str]] = {}
    for index, record in enumerate(batch):
        for path, message in _faults(record, rules):
            errors.setdefault(f"[{index}]{path}", []).append(message)
    if errors:
        raise Refused(problems(400, errors))


def _faults(record: Any, rules: Rules) -> list[tuple[str, str]]:
    """Return path below the record and message of each structural fault; code lists never refuse."""
    if rules.validate:
        return [
            (finding.path.removeprefix("$"), finding.message)
            for finding in validation.check_value(record)
            if finding.severity is validation.Severity.ERROR
        ]
    if isinstance(record, dict) and isinstance(record.get("la_child_id"), str):
        return []
    return [("", "must be an object with a la_child_id")]

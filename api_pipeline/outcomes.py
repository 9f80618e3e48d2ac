"""What became of a submission, and what each status of the API means for it (domain, section 2).

Pure. The words made here are safe for logs and for the summary: they never quote a reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus

from api_pipeline.replies import Receipt, ReplyKind

PORTAL_REMEDY = (
    "A proxy or a sign-in portal is in the way, or the address is not the API's: check the URL, and ask IT "
    "to let this machine reach the host directly."
)
_LATER = "If it lasts, ask DfE whether the service is up."


class Verdict(Enum):
    """What became of a body; the rows follow from it (domain, section 2)."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    EMPTY = "no content"
    TOO_LARGE = "too large"
    GIVEN_UP = "given up"
    RUN_ENDED = "run ended"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one submission.

    Attributes:
        status: the HTTP status of the last reply; ``None`` where the last attempt got none.
        attempts: how many times this body was posted.
        unsure: some attempt may have been taken, and no receipt list ended the doubt.
        receipts: one for each record, in order, if accepted.
        refusals: index of a record -> its own reason, for those that a 400 or 422 names.
        reply_text: the whole text of a refusal, for ``api_response`` only; never to be logged.
        reason: what happened, safe for logs and the summary, as are ``hop`` and ``remedy``.
    """

    verdict: Verdict
    status: int | None
    attempts: int
    unsure: bool
    receipts: tuple[Receipt, ...] = ()
    refusals: Mapping[int, str] = field(default_factory=dict, repr=False)
    reply_text: str = field(default="", repr=False)
    reason: str = ""
    hop: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What ``test-endpoint`` found: the hop that failed, or a pass; times in milliseconds."""

    passed: bool
    hop: str
    message: str
    remedy: str
    status: int | None
    token_ms: float
    ms: float


def verdict_of(status: int) -> Verdict | None:
    """Return what a reply other than a 200 settles; ``None`` if the attempt may be repeated."""
    if status == 204:
        return Verdict.EMPTY
    if status in (400, 422):
        return Verdict.REFUSED
    if status == 413:
        return Verdict.TOO_LARGE
    if status in (403, 408, 429) or 200 <= status < 300 or status >= 500:
        return None
    return Verdict.RUN_ENDED


def is_unsure(status: int) -> bool:
    """Whether a batch may have been taken although the reply is no receipt list (domain, section 2)."""
    return status == 408 or 200 <= status < 300 or status >= 500


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands in the way, in words that are safe for logs: the hop, what is wrong, what to try."""

    hop: str
    message: str
    remedy: str


_PROBLEMS = {
    204: ("api", "nothing was taken", _LATER),
    400: ("api", "the batch was refused", "The rows' api_response says why."),
    401: (
        "token",
        "the token is not accepted",
        "Check SCOPE and SUPPLIER_KEY, and that TOKEN_ENDPOINT and API_ENDPOINT belong together.",
    ),
    404: ("la code", "there is no such address", "Check API_ENDPOINT and LA_CODE."),
    413: ("api", "the batch is too large", "Lower BATCH_SIZE."),
    422: ("api", "the batch was refused", "The rows' api_response says why."),
    429: ("api", "too many requests", "If it goes on, raise MIN_REQUEST_GAP_MS or lower WORKERS."),
}
_FORBIDDEN = {
    "html": Problem(
        "firewall",
        "The web firewall in front of the API refused the request (403 with an HTML page).",
        "Raise MIN_REQUEST_GAP_MS; if it goes on, ask DfE about this machine's address and USER_AGENT.",
    ),
    "json": Problem(
        "supplier key",
        "The API refused access (403 with a JSON message).",
        "Check SUPPLIER_KEY and SCOPE, and ask DfE whether this authority and address are allowed.",
    ),
}
_FORBIDDEN_OTHERWISE = Problem(
    "access",
    "Access was refused with 403, and the reply does not tell whether by a firewall or by the API.",
    "Check SUPPLIER_KEY and SCOPE; raise MIN_REQUEST_GAP_MS; then ask DfE about this machine's address.",
)


def status_problem(status: int, kind: ReplyKind, detail: str = "") -> Problem:
    """Say what a status of the children endpoint other than an acceptance means, and what to check.

    Args:
        kind: of the reply's body, which tells a firewall's page from the API's own answer.
        detail: for a success that is none, what is wrong with the reply.
    """
    name = f"{status} {_phrase(status)}".strip()
    if status == 403:
        return _FORBIDDEN.get(kind, _FORBIDDEN_OTHERWISE)
    if status in _PROBLEMS:
        hop, message, remedy = _PROBLEMS[status]
        return Problem(hop, f"The API answered {name}: {message}.", remedy)
    if 200 <= status < 300:
        message = f"The API answered {name}, but {detail or 'that is not an acceptance'}."
        return Problem("reply", message, PORTAL_REMEDY if kind == "html" else _LATER)
    if 300 <= status < 400:
        message = f"The children endpoint answered {name}, a redirect, which is never followed."
        return Problem("redirect", message, PORTAL_REMEDY)
    return Problem("api", f"The API answered {name}.", _LATER if status >= 500 else "Check API_ENDPOINT.")


def _phrase(status: int) -> str:
    try:
        return f"({HTTPStatus(status).phrase})"
    except ValueError:
        return ""

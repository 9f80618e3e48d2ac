"""What the API's replies say: receipts, refusals by record, and how long to wait (domain, section 2).

Pure: bytes and texts in, plain data out. The reasons that are raised from here never quote a reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal

ReplyKind = Literal["json", "html", "text", "empty"]

_RECEIPT = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})_(?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]{0,7}))?"
    r"_(?P<uuid>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32})(?:\.json)?",
    re.IGNORECASE | re.ASCII,
)

# A path: an optional name or $, then steps such as [3], .name, ['name'].
_STEP = r"""\.?\[\s*[0-9]+\s*\]|\.?\[(?:'[^'\]]*'|"[^"\]]*")\]|\.[^\W\d][\w-]*"""
_PATH = re.compile(rf"(?<![\w\].$])(?:\$|[^\W\d][\w-]*)?(?:{_STEP})+")
_PART = re.compile(r"\[\s*([0-9]+)\s*\]|([\w-]+)")
# The names that stand for the array itself; behind any other name an index belongs to some list in a record.
_ROOTS = frozenset("children child body records record payload root data".split())
# Where lists of errors put the path of each.
_PATH_KEYS = frozenset("path field loc location instancepath property propertyname pointer key".split())
_CLAUSE = re.compile(r"[^\n;]+")
_TRIM = " \t\r\n,"


class UnreadableReply(ValueError):
    """A 200 that is not one receipt per record; the text is safe to log."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The acknowledgement of one record.

    Attributes:
        raw: the text as received.
        uuid: the UUID as received, without ``.json``: what goes to ``api_response``.
        timestamp: the receipt's date and time, not converted, cut to microseconds.
    """

    raw: str
    uuid: str
    timestamp: datetime


def parse_receipts(body: bytes, count: int) -> tuple[Receipt, ...]:
    """Read one receipt per record from the body of a 200, in the order sent (domain, section 2).

    The body is a JSON array of strings, or the same strings separated by white space.

    Raises:
        UnreadableReply: it is anything else, or there are not exactly ``count``.
    """
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UnreadableReply("the reply is not UTF-8 text") from None
    kind = reply_kind(None, body)
    if kind == "empty" or not text:
        raise UnreadableReply("the reply is empty")
    if kind == "html":
        raise UnreadableReply("the reply is an HTML page")
    words = _array(text) if text[0] in '[{"' else text.split()
    receipts = [_receipt(word, place) for place, word in enumerate(words, 1)]
    if len(receipts) != count:
        raise UnreadableReply(f"the reply holds {len(receipts)} receipts for {count} records")
    return tuple(receipts)


def _array(text: str) -> list[str]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableReply("the reply is not valid JSON; it may be cut off") from None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UnreadableReply("the reply is JSON, but not an array of texts")
    return value


def _receipt(word: str, place: int) -> Receipt:
    match = _RECEIPT.fullmatch(word.strip())
    if match is None:
        raise UnreadableReply(f"receipt {place} is not a date, a time and a UUID")
    date, time, fraction = match["date"], match["time"], match["fraction"] or ""
    try:
        moment = datetime.fromisoformat(f"{date}T{time}.{fraction[:6].ljust(6, '0')}")
    except ValueError:
        raise UnreadableReply(f"receipt {place} has an impossible date or time") from None
    return Receipt(match.group(), match["uuid"], moment)


def reply_kind(content_type: str | None, body: bytes) -> ReplyKind:
    """Say what a reply is, by its first characters rather than by a header that gateways get wrong."""
    start = body[:512].decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    declared = (content_type or "").lower()
    if not start:
        return "empty"
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "html"
    if start[0] in "[{":
        return "json"
    if "html" in declared:
        return "html"
    return "json" if "json" in declared else "text"


def retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, never negative; ``None`` if it says nothing.

    Args:
        header: seconds, or an HTTP date.
        now: the wall clock, in seconds since the epoch.
    """
    text = (header or "").strip()
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, moment.timestamp() - now)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def parse_refusal(body: bytes | str, count: int) -> dict[int, str]:
    """Return the records that a 400 or 422 names, each with its own reason (domain, section 2).

    Paths are looked for in the keys and texts of JSON, or in plain text. Only the first index of a path is
    the record's, and only where nothing but a name for the whole array stands before it. A reason holds what
    is said about its own record and nothing about the others of the batch; if nothing is said, the path.

    Args:
        body: the reply; an HTML page names nobody.
        count: how many records were sent; indexes outside are no record's.
    """
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "replace")
    if reply_kind(None, raw) == "html":
        return {}
    text = raw.decode("utf-8-sig", "replace")
    reasons: dict[int, dict[str, None]] = {}  # a dict for its order and against repetitions
    try:
        for record, reason in _reasons(_json_or_text(text), None, ""):
            if 0 <= record < count:
                reasons.setdefault(record, {})[reason] = None
    except RecursionError:  # nested beyond all reason: names nobody, and the batch is halved
        return {}
    return {record: "; ".join(filter(None, parts)) for record, parts in sorted(reasons.items())}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _reasons(value: Any, owner: int | None, label: str) -> Iterator[tuple[int, str]]:
    """Walk through a refusal; ``owner`` is the record named further out, ``label`` its path so far."""
    if isinstance(value, str):
        for record, words in _fragments(value, owner):
            yield record, f"{label}: {words}" if label and words else label or words
    elif isinstance(value, list) and value:
        for each in value:
            yield from _reasons(each, owner, label)
    elif isinstance(value, dict) and value:
        yield from _object_reasons(value, owner, label)
    elif owner is not None:
        yield owner, label


def _object_reasons(value: dict[str, Any], owner: int | None, label: str) -> Iterator[tuple[int, str]]:
    if owner is None:
        paths = {key: path for key, each in value.items() if (path := _path_field(key, each))}
        named = {record for path in paths.values() if (record := _only_record(path)) is not None}
        if len(named) == 1:
            # One error of a list: its own field says whose it is, the other fields say what is wrong.
            words = [
                each
                for key, each in value.items()
                if key not in paths and isinstance(each, str | list | dict)
            ]
            yield from _reasons(words, named.pop(), "; ".join(paths.values()))
            return
    for key, each in value.items():
        if owner is not None:
            yield from _reasons(each, owner, f"{label}.{key}")
        else:
            record = _only_record(key)
            yield from _reasons(each, record, "" if record is None else key)


def _path_field(key: str, value: Any) -> str:
    """Return the text of a field that holds the path of an error; empty if it is another field."""
    if isinstance(value, list) and value and all(isinstance(step, str | int) for step in value):
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in value)
        value = "".join(steps).removeprefix(".") if key.lower() in _PATH_KEYS else ""
    if not isinstance(value, str) or _only_record(value) is None:
        return ""
    return value.strip() if key.lower() in _PATH_KEYS or _PATH.fullmatch(value.strip()) else ""


def _only_record(text: str) -> int | None:
    """Return the record that the paths in a text name, if there is exactly one."""
    records = {record for record, _ in _marks(text)}
    return records.pop() if len(records) == 1 else None


def _marks(text: str) -> list[tuple[int, re.Match[str]]]:
    """Return the paths in a text that name a record, inside the array or not, with that record."""
    found = ((_record_of(match.group()), match) for match in _PATH.finditer(text))
    return [(record, match) for record, match in found if record is not None]


def _record_of(path: str) -> int | None:
    """Return the record that a path names: its first index, if only the array's own name stands before it."""
    for index, name in _PART.findall(path):
        if index:
            return int(index[:9])
        if name.lower() not in _ROOTS:
            return None
    return None


def _fragments(text: str, owner: int | None) -> Iterator[tuple[int, str]]:
    """Give each record that a text names the pieces of the text about it.

    A clause (a line, or a part of one up to a semicolon) that names one record is about that record; one that
    names several is split; one that names none goes on about the record before it. A path without a record of
    its own (``social_care_episodes[0]``) names none. Within what was said about ``owner``, pieces about other
    records are left out, and those records are not named: they come up by themselves if they are bad.
    """
    current = owner
    if owner is not None and not text.strip(_TRIM):
        yield owner, ""
    for clause in _CLAUSE.findall(text):
        marks = _marks(clause)
        pieces = _split(clause, marks) if len({record for record, _ in marks}) > 1 else []
        for record, piece in pieces or [(marks[0][0] if marks else current, clause)]:
            current = record
            if record is not None and (owner is None or record == owner) and piece.strip(_TRIM):
                yield record, piece.strip(_TRIM)
    if owner is not None and current != owner:
        yield owner, ""


def _split(clause: str, marks: list[tuple[int, re.Match[str]]]) -> list[tuple[int | None, str]]:
    """Split a clause about several records at its paths; what stands outside belongs to nobody.

    Where the clause ends with a path and begins with words, the words come before their path; else after it.
    """
    bounds = [match.span() for _, match in marks]
    starts, ends = [start for start, _ in bounds], [end for _, end in bounds]
    if clause[ends[-1] :].strip(" .)]'\"") or not clause[: starts[0]].strip(" ([-'\""):
        edges = [*starts, len(clause)]
    else:
        edges = [0, *ends]
    return [(record, clause[edges[i] : edges[i + 1]]) for i, (record, _) in enumerate(marks)]

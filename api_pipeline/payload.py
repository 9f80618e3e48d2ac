"""The payload as text, as a value and as a hash: everything here is pure.

Carries out domain, section 3 (purge marker, hash of a row without one), section 4 (what makes a text
readable at all) and section 5 (canonical JSON, hash, deletion object).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import jiter
import orjson

# What `current_hash` holds once the deletion of a person has been acknowledged (domain, section 3).
PURGE_MARKER = bytes(32)

_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_POSITION = re.compile(r"line (\d+) column (\d+)\Z")
_LEADING_ID = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"la_child_id"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z0-9_-]+)"')
# JSON by the letter, but beyond what the strict reader takes: about 200 levels, 4,300 digits.
_DEEPEST = 200
_LIMITS = (("recursion limit", "depth"), ("number out of range", "nan"))
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class UnreadablePayload(ValueError):
    """A text that a strict reader of JSON refuses.

    ``rule`` is one of ``not_json``, ``duplicate_key``, ``nan``, ``surrogate`` and ``depth``; ``where`` is
    the JSON path of the fault, or ``line 1 column 5`` where there is no path. Nothing of the text itself
    is kept.
    """

    def __init__(self, rule: str, where: str) -> None:
        super().__init__(f"{rule} at {where}")
        self.rule = rule
        self.where = where


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a patient reading of a refused text found.

    ``faults`` holds (rule, path or position), in the order of the text, never empty. ``value`` is the
    text as a lenient reader would understand it (the last of duplicate keys, U+FFFD for half a
    character, null for what is no number or lies too deep), None where even that fails. ``sendable`` is
    false where the text breaks the grammar of JSON (NaN does) or cannot be written as UTF-8.
    """

    faults: tuple[tuple[str, str], ...]
    value: Any
    sendable: bool


def parse(text: str) -> Any:
    """Read a JSON text strictly.

    Refused are: anything that RFC 8259 does not know (NaN, comments, a byte order mark), duplicate keys,
    half surrogates (as characters or as escapes), numbers that no float can hold, and nesting deeper
    than 200 levels.

    Raises:
        UnreadablePayload: naming the first fault that was found.
    """
    value = decode(text)
    if not all_finite(value):
        raise UnreadablePayload(*diagnose(text).faults[0])
    return value


def decode(text: str | bytes, *, unique_keys: bool = True) -> Any:
    """Do what :func:`parse` does, except that a number such as 1e999 comes back as infinity.

    For callers whose next step refuses infinity anyway: looking for it costs as much as reading. Bytes are
    a text that was encoded as UTF-8. Without ``unique_keys`` the last of equal keys counts.

    Raises:
        UnreadablePayload: naming the first fault that was found.
    """
    try:
        # Keys are few and repeat, values do not: caching the keys alone is the quickest, and bounded.
        encoded = text if isinstance(text, bytes) else text.encode()
        return jiter.from_json(
            encoded, allow_inf_nan=False, catch_duplicate_keys=unique_keys, cache_mode="keys"
        )
    except ValueError as err:  # UnicodeEncodeError included: a half surrogate in the text itself
        reason = str(err)
    # Raised outside the handler: the parser's own message quotes keys and must not hang on as a cause.
    text = text.decode() if isinstance(text, bytes) else text
    raise UnreadablePayload(*_diagnose(text, reason).faults[0])


def decode_leniently(text: str) -> Any:
    """Return what :func:`parse` does, or what a lenient reader makes of a text that it refuses.

    For what was sent already with VALIDATION=warn: DfE read it somehow. None where nothing can be made of it.
    """
    try:
        return parse(text)
    except UnreadablePayload:
        return diagnose(text).value


def all_finite(value: Any) -> bool:
    """Whether no number in ``value`` is infinite or NaN."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, float) and not math.isfinite(item):
            return False
    return True


def diagnose(text: str) -> Diagnosis:
    """Say everything that keeps :func:`parse` from reading ``text``: slow, for refused texts only."""
    try:
        jiter.from_json(text.encode(), allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="none")
    except ValueError as err:
        return _diagnose(text, str(err))
    return _diagnose(text, "")


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value (domain, section 5): sorted keys, no white space, UTF-8.

    Keys are sorted by code point.

    Raises:
        ValueError: for infinity, NaN and half surrogates, which :func:`parse` never returns.
    """
    return _ENCODER.encode(value).encode()


def compact(value: Any) -> str:
    """Return a value as JSON without white space, members in the order in which they are.

    For what :func:`parse` returns, and for what is built from texts, whole numbers and flags: infinity and
    NaN, which are neither, would become null. Half a surrogate comes out as it is, for the reader to refuse.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return _COMPACT.encode(value)


def content_hash(text: str) -> bytes:
    """Return the 32 bytes that stand for a payload whose row has no hash (domain, section 3).

    SHA-256 of the canonical JSON, or of the text's own bytes where it cannot be read strictly.
    """
    try:
        content = canonical(decode(text))
    except ValueError:
        content = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).digest()


def child_ids(value: Any) -> tuple[str | None, str | None]:
    """Return ``la_child_id`` and ``mis_child_id`` of a payload; None for what is not there or no text."""
    if not isinstance(value, dict):
        return None, None
    la_child_id, mis_child_id = value.get("la_child_id"), value.get("mis_child_id")
    return (
        la_child_id if isinstance(la_child_id, str) else None,
        mis_child_id if isinstance(mis_child_id, str) else None,
    )


def leading_child_id(prefix: str) -> str | None:
    """Return the ``la_child_id`` if it can be told from the beginning of a payload alone.

    That is so where it is the very first key, stands complete inside ``prefix`` (200 characters are
    plenty) and is a well-formed id. None means: read the whole payload. For a text that :func:`parse`
    accepts the answer is never another id than the one inside.
    """
    match = _LEADING_ID.match(prefix)
    return match.group(1) if match else None


def deletion(la_child_id: str, mis_child_id: str | None) -> bytes:
    """Return the object that purges a child (domain, section 5, "Deletions"), as compact JSON in UTF-8.

    Raises:
        ValueError: if an id holds half a surrogate.
    """
    record: dict[str, Any] = {"la_child_id": la_child_id}
    if mis_child_id is not None:
        record["mis_child_id"] = mis_child_id
    record["purge"] = True
    return _COMPACT.encode(record).encode()


def member_path(path: str, name: str) -> str:
    """Return the JSON path of the member ``name``; a name that could be data is shown as ``?``."""
    return f"{path}.{name if _SAFE_NAME.fullmatch(name) else '?'}"


class _Members(list[tuple[str, Any]]):
    """The members of an object as they stand in the text, duplicates included."""


class _LenientReading:
    """Reads a text as forgivingly as the standard library does and notes what a strict reader refuses."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.is_json = True

    def read(self, text: str) -> Any:
        """Return the cleaned value; raises what ``json.loads`` raises."""
        tree = json.loads(text, object_pairs_hook=_Members, parse_constant=self._constant)
        return self._clean(tree, "$", 0)

    def _constant(self, _name: str) -> float:
        self.is_json = False
        return math.nan

    def _note(self, rule: str, path: str) -> None:
        if (rule, path) not in self.faults:
            self.faults.append((rule, path))

    def _clean(self, item: Any, path: str, depth: int) -> Any:
        if depth > _DEEPEST:
            self._note("depth", "$")
            return None
        if isinstance(item, _Members):
            return self._clean_members(item, path, depth + 1)
        if isinstance(item, list):
            return [self._clean(entry, f"{path}[{index}]", depth + 1) for index, entry in enumerate(item)]
        if isinstance(item, float) and not math.isfinite(item):
            self._note("nan", path)
            return None
        return self._clean_text(item, path) if isinstance(item, str) else item

    def _clean_members(self, members: _Members, path: str, depth: int) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        seen: set[str] = set()
        for name, item in members:
            inner = member_path(path, name)
            if name in seen:
                self._note("duplicate_key", inner)
            seen.add(name)
            value = self._clean(item, inner, depth)
            cleaned[self._clean_text(name, inner)] = value
        return cleaned

    def _clean_text(self, text: str, path: str) -> str:
        cleaned = _SURROGATE.sub("\ufffd", text)
        if cleaned != text:
            self._note("surrogate", path)
        return cleaned


def _diagnose(text: str, reason: str) -> Diagnosis:
    """Explain a refusal; ``reason`` is the strict reader's message, of which only numbers are used."""
    match = _POSITION.search(reason)
    where = f"line {match[1]} column {match[2]}" if match else "$"
    rule = next((rule for start, rule in _LIMITS if reason.startswith(start)), "not_json")
    reading = _LenientReading()
    try:
        value = reading.read(text)
    except json.JSONDecodeError as err:
        return Diagnosis((("not_json", f"line {err.lineno} column {err.colno}"),), None, sendable=False)
    except (RecursionError, ValueError):  # ValueError: an integer of more than 4,300 digits
        return Diagnosis(((rule, where),), None, sendable=False)
    faults = tuple(reading.faults) or ((rule, where),)
    return Diagnosis(faults, value, sendable=reading.is_json and not _SURROGATE.search(text))

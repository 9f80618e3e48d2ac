"""The types and the readers of single settings (interface, "Settings").

A reader turns the text of one setting into its value, or raises :class:`InvalidValue`, whose text says what
is allowed and never what was found: the value may be a password that landed behind the wrong key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from api_pipeline.errors import ConfigError
from api_pipeline.names import NamePart, TableName

# No wait or count of a nightly job comes near this; larger numbers overflow timers and dates.
UNLIMITED = 1_000_000
SQLITE_PREFIX = "sqlite:///"

_TRUE = frozenset({"true", "yes", "1", "on"})
_FALSE = frozenset({"false", "no", "0", "off"})
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_LA_CODE = re.compile(r"[0-9]{3}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+")
_BRACED = re.compile(r"\{((?:[^}]|\}\})*)\}(?!\})")
_KEYWORD = re.compile(r"\s*([^=;]*)(=?)\s*")


class InvalidValue(ValueError):
    """A setting's value is not allowed; the text completes "KEY ..."."""


class Secret:
    """A text that prints as ``***``; only :meth:`reveal` gives it away.

    Secrets are equal by their text, hashable, and false when empty.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))


def flag(text: str) -> bool:
    """Read true/false, yes/no, 1/0 or on/off, in any letter case."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise InvalidValue("must be true or false")
    return word in _TRUE


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        word = text.strip()
        if _WHOLE.fullmatch(word) and low <= int(word) <= high:
            return int(word)
        limits = f"of at least {low}" if high == UNLIMITED else f"from {low} to {high}"
        raise InvalidValue(f"must be a whole number {limits}")

    return read


def number(high: float, *, zero: bool) -> Callable[[str], float]:
    """Return a reader of decimal numbers up to ``high``, from 0 or (``zero`` false) above it."""

    def read(text: str) -> float:
        word = text.strip()
        if _NUMBER.fullmatch(word) and (zero or float(word) > 0) and float(word) <= high:
            return float(word)
        if high == UNLIMITED:
            raise InvalidValue("must be a number of at least 0" if zero else "must be a number above 0")
        raise InvalidValue(f"must be a number from 0 to {high:g}" + ("" if zero else ", above 0"))

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of ``words``, in any letter case."""
    by_lower = {word.lower(): word for word in words}

    def read(text: str) -> str:
        try:
            return by_lower[text.strip().lower()]
        except KeyError:
            raise InvalidValue(f"must be one of {', '.join(words)}") from None

    return read


def plain_text(text: str) -> str:
    """Read a text without control characters; outer blanks are dropped."""
    word = text.strip()
    if _CONTROL.search(word):
        raise InvalidValue("holds a line break or another control character")
    return word


def header_text(text: str) -> str:
    """Read a text that becomes an HTTP header: printable ASCII, the only thing every server takes alike."""
    word = plain_text(text)
    if not word.isascii():
        raise InvalidValue("may only hold ASCII characters, because it is sent as an HTTP header")
    return word


def secret_text(text: str) -> Secret:
    """Read a secret exactly as it is written, outer blanks included."""
    if _CONTROL.search(text):
        raise InvalidValue("holds a line break or another control character")
    return Secret(text)


def header_secret(text: str) -> Secret:
    """Read a secret that becomes an HTTP header."""
    return Secret(header_text(text))


def la_code(text: str) -> str:
    """Read a local authority's code."""
    word = text.strip()
    if not _LA_CODE.fullmatch(word):
        raise InvalidValue("must be the local authority's 3 digits")
    return word


def pattern(text: str) -> str:
    """Read a regular expression."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise InvalidValue("is not a regular expression") from None
    return text


def table_name(text: str) -> TableName:
    """Read ``table`` or ``schema.table``."""
    try:
        return TableName.parse(text)
    except ConfigError as err:
        raise InvalidValue(f"is not a table name. {err.remedy}".rstrip(".")) from None


def bare_name(text: str) -> NamePart:
    """Read one name, plain or in [brackets]: of a schema or a column."""
    name = table_name(text)
    if name.schema is not None:
        raise InvalidValue("must be one name, without a dot")
    return name.table


def file_path(text: str) -> Path:
    """Read a path; whether it exists is asked where it is used."""
    return Path(plain_text(text))


def web_address(text: str) -> str:
    """Read an http or https address with a host and without a user, password or fragment."""
    word = text.strip()
    parts = _split(word)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or re.search(r"\s", word)
        or _CONTROL.search(word)
    ):
        raise InvalidValue("must be an address such as https://host/path")
    if "@" in parts.netloc:
        raise InvalidValue("must not hold a user name or password")
    if "#" in word:
        raise InvalidValue("must not hold a #")
    return word


def proxy_address(text: str) -> Secret:
    """Read a proxy's address; ``host:port`` means ``http://host:port``."""
    word = text.strip()
    if "://" not in word:
        word = f"http://{word}"
    parts = _split(word)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or re.search(r"\s", word)
        or _CONTROL.search(word)
    ):
        raise InvalidValue(
            "must be an address such as http://proxy:8080 (in a user name or password write @ : / # ? % as "
            "%40 %3A %2F %23 %3F %25)"
        )
    return Secret(word)


def connection_string(text: str) -> Secret:
    """Read an ODBC connection string or ``sqlite:///path``."""
    word = text.strip()
    if _CONTROL.search(word):
        raise InvalidValue("holds a line break or another control character")
    if word.lower().startswith("sqlite:"):
        if not word.startswith(SQLITE_PREFIX) or word == SQLITE_PREFIX:
            raise InvalidValue("must be sqlite:///path for an SQLite file")
        return Secret(word)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", word) or not odbc_fields(word):
        raise InvalidValue(
            "must be an ODBC connection string such as Server=...;Database=..., or sqlite:///path"
        )
    return Secret(word)


def odbc_fields(text: str) -> list[tuple[str, str]]:
    """Split an ODBC connection string into (keyword, value) in its order; braces are taken off.

    Pieces without ``=`` are left out, as the driver manager does.

    Raises:
        InvalidValue: an opening brace is not closed.
    """
    fields: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _KEYWORD.match(text, position)
        if match is None:  # pragma: no cover - every part of the expression may be empty
            break
        keyword, equals = match.group(1).strip(), match.group(2)
        position = match.end()
        inner = ""
        if equals and text.startswith("{", position):
            braced = _BRACED.match(text, position)
            if braced is None:
                raise InvalidValue("has an opening { without its closing }")
            inner, position = braced.group(1).replace("}}", "}"), braced.end()
        end = text.find(";", position)
        end = len(text) if end < 0 else end
        if equals and keyword:
            fields.append((keyword, inner + text[position:end].strip()))
        position = end + 1
    return fields


def odbc_value(text: str) -> str:
    """Write a value for an ODBC connection string, in braces where it would end the field otherwise."""
    if re.search(r"[;{}]", text) or text != text.strip():
        return "{" + text.replace("}", "}}") + "}"
    return text


def is_loopback(address: str) -> bool:
    """Whether an http address names this machine: localhost, 127.0.0.0/8 or ::1."""
    parts = _split(address)
    host = (parts.hostname or "") if parts is not None else ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(address: str) -> SplitResult | None:
    """Split an address; ``None`` if its host or port is missing or impossible."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises if it is not a number up to 65535
        return parts if _HOST.fullmatch(parts.hostname or "") else None
    except ValueError:
        return None

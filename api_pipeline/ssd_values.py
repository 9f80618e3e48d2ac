"""The values of source columns, whatever type a deployment gave them (ssd, section 1).

Most columns have the type that is expected and need nothing; :func:`converter` says so once for a column, so
that nothing is asked of its values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from api_pipeline.dialects import SQLITE, Dialect
from api_pipeline.ssd_tables import Kind

Converter = Callable[[Any], Any]

UNREADABLE: Final = object()
"""What stands for a date that cannot be read."""

_TEXTS = frozenset(
    {"nvarchar", "varchar", "nchar", "char", "ntext", "text", "character varying", "character"}
)
_MOMENTS = frozenset({"datetime", "datetime2", "smalldatetime", "timestamp", "timestamp without time zone"})
_EXACT = frozenset({"decimal", "numeric", "money", "smallmoney"})

_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?", re.ASCII)


def converter(dialect: Dialect, kind: Kind, type_: str) -> Converter | None:
    """Return what makes a value of a column of this type one of this kind; None where it is one already.

    In SQLite a type promises nothing of the values.
    """
    typed = dialect is not SQLITE
    if kind is Kind.VALUE:
        return None if typed and type_ not in _EXACT else as_value
    if kind is Kind.MOMENT:
        return None if typed and type_ in _MOMENTS else as_moment
    return None if typed and type_ in _TEXTS else as_text


def as_text(value: Any) -> str | None:
    """Return a value as text; a whole number without a decimal point."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Decimal):
        value = as_value(value)
    return str(value)


def as_value(value: Any) -> Any:
    """Return a number as int or float, and anything else as it is."""
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    return value


def as_moment(value: Any) -> Any:
    """Return a value as a datetime without a zone, a blank text as None, or :data:`UNREADABLE`.

    Texts are dates, or dates with times, as ISO 8601 writes them, without a zone; a fraction of a second is
    cut to microseconds.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _read(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 -- no zone anywhere here
    return UNREADABLE


@lru_cache(maxsize=4096)  # dates repeat
def _read(text: str) -> Any:
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        return UNREADABLE if text.strip() else None
    *numbers, fraction = match.groups(default="0")
    year, month, day, hour, minute, second = map(int, numbers)
    micros = int(fraction.ljust(6, "0")[:6])
    try:
        return datetime(year, month, day, hour, minute, second, micros)  # noqa: DTZ001 -- as above
    except ValueError:
        return UNREADABLE

"""Whatever type a deployment gave a column, its values come out as promised (ssd, section 1)."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE
from api_pipeline.ssd_tables import Kind
from api_pipeline.ssd_values import UNREADABLE, as_moment, as_text, as_value, converter

DAY = datetime(2024, 2, 29)  # noqa: DTZ001 - the source names no zone
SUMMER_TIME = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (" as it stands ", " as it stands "),
        ("", ""),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (Decimal("7.00"), "7"),
        (Decimal("7.50"), "7.5"),
        (Decimal(10) ** 20, "1" + "0" * 20),
        (float("inf"), "inf"),
    ],
)
def test_text(value: object, text: str | None) -> None:
    """A whole number has no decimal point; a text stays as it stands."""
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (Decimal("12.0"), 12),
        (Decimal("12.5"), 12.5),
        (Decimal("Infinity"), float("inf")),
        (True, True),
        ("12", "12"),
    ],
)
def test_value(value: object, expected: object) -> None:
    """A decimal becomes the number that it is; everything else is left to the rules of the payload."""
    found = as_value(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("2024-02-29", DAY),
        (" 2024-02-29 00:00 ", DAY),
        ("2024-02-29T07:08:09", DAY.replace(hour=7, minute=8, second=9)),
        ("2024-02-29 07:08:09.5", DAY.replace(hour=7, minute=8, second=9, microsecond=500_000)),
        ("2024-02-29 07:08:09.1234567", DAY.replace(hour=7, minute=8, second=9, microsecond=123_456)),
        (date(2024, 2, 29), DAY),
        (DAY.replace(tzinfo=SUMMER_TIME), DAY),
    ],
)
def test_moment(value: object, expected: datetime | None) -> None:
    """A date is midnight, a blank text is none, and a zone is not looked at."""
    assert as_moment(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "29/02/2024",
        "2023-02-29",
        "2024-02-29 24:00:00",
        "2024-02-29 07",
        "20240229",
        "2024-W09-4",
        "2024-02-29T07:08:09Z",
        "0000-01-01",
        "\u0662\u0660\u0662\u0664-02-29",
        20240229,
        b"2024-02-29",
    ],
)
def test_what_is_no_date(value: object) -> None:
    """Nothing is guessed: the person is left as they are."""
    assert as_moment(value) is UNREADABLE


@given(st.datetimes())
def test_moments_survive_as_text(moment: datetime) -> None:
    """Every moment that is written as SQLite keeps it is read as it was."""
    assert as_moment(moment.isoformat(sep=" ")) == as_moment(moment.isoformat()) == moment


def test_nothing_is_asked_of_usual_columns() -> None:
    """A column of the expected type needs no work, but in SQLite, where a type says little."""
    usual = [
        (Kind.ID, "nvarchar"),
        (Kind.TEXT, "character varying"),
        (Kind.VALUE, "int"),
        (Kind.VALUE, "bit"),
    ]
    usual += [(Kind.MOMENT, "datetime"), (Kind.MOMENT, "timestamp without time zone")]
    for kind, type_ in usual:
        assert converter(SQL_SERVER, kind, type_) is converter(POSTGRESQL, kind, type_) is None
        assert converter(SQLITE, kind, type_) is not None
    odd = [(Kind.ID, "int"), (Kind.MOMENT, "date"), (Kind.MOMENT, "varchar"), (Kind.VALUE, "numeric")]
    assert all(converter(SQL_SERVER, kind, type_) is not None for kind, type_ in odd)

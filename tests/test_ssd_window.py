"""Promises of ssd_window.py: what lies in the window, on which 31 March it looks, and when people turn 26."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.ssd_window import Window, birthday


def at(text: str) -> datetime:
    """Return a moment of the database, which has no zone."""
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("run_date", "months", "start"),
    [
        ("2025-11-20", 24, "2023-04-01"),
        ("2025-03-31", 24, "2022-04-01"),
        ("2025-04-01", 24, "2023-04-01"),
        ("2024-02-29", 24, "2021-04-01"),
        ("2024-02-29", 12, "2022-04-01"),
        ("2025-12-31", 24, "2023-04-01"),
        ("2026-01-01", 24, "2023-04-01"),
        ("2025-04-30", 1, "2024-04-01"),
        ("2025-05-31", 1, "2025-04-01"),
        ("2025-05-31", 0, "2025-04-01"),
        ("2025-01-15", 13, "2023-04-01"),
        ("2025-01-15", 120, "2014-04-01"),
    ],
)
def test_window_starts_with_the_financial_year_of_the_anchor(run_date: str, months: int, start: str) -> None:
    """So many months back from the run, then back to the 1 April before."""
    window = Window.of(date.fromisoformat(run_date), months)
    assert window.start == at(start)
    assert window.end == at(run_date) + timedelta(days=1)
    assert window.run_date == date.fromisoformat(run_date)


@given(st.dates(date(1950, 1, 1), date(2200, 1, 1)), st.integers(0, 240))
def test_anchor_lies_in_the_first_financial_year_of_the_window(run_date: date, months: int) -> None:
    """Whatever the run date and WINDOW_MONTHS, the month of the anchor is in the year from the start."""
    window = Window.of(run_date, months)
    anchor = run_date.year * 12 + run_date.month - months
    first = window.start.year * 12 + window.start.month
    assert (window.start.month, window.start.day) == (4, 1)
    assert first <= anchor < first + 12


WINDOW = Window.of(date(2025, 11, 20), 24)


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ("2023-03-31 23:59:59.997", False),
        ("2023-04-01", True),
        ("2025-11-20 12:00", True),
        ("2025-11-21", True),
        ("2025-11-21 00:00:00.003", False),
    ],
)
def test_window_holds_both_its_edges_unrounded(moment: str, inside: bool) -> None:
    """Midnight of the first day and of the day after the run belong to it, a moment beyond does not."""
    assert WINDOW.holds(at(moment)) is inside


def test_window_never_holds_what_is_unknown() -> None:
    """No date is in no window."""
    assert not WINDOW.holds(None)


@pytest.mark.parametrize(
    ("start", "end", "touches"),
    [
        ("2023-01-01", "2023-03-31 23:59", False),
        ("2023-01-01", "2023-04-01", True),
        ("2020-01-01", None, True),
        ("2025-11-21", None, True),
        ("2025-11-21 00:00:01", None, False),
        ("2020-01-01", "2030-01-01", True),
        (None, None, False),
        (None, "2024-01-01", False),
        ("2025-01-01", "2024-01-01", True),  # the wrong way round, but both known
    ],
)
def test_overlap_needs_a_start_and_counts_both_edges(
    start: str | None, end: str | None, touches: bool
) -> None:
    """A span overlaps if it has a known start by the window's end and no end before the window's start."""
    assert WINDOW.overlaps(start and at(start), end and at(end)) is touches  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run_date", "months", "years"),
    [
        ("2025-11-20", 24, [2024, 2025]),
        ("2025-03-29", 24, [2023, 2024]),
        ("2025-03-30", 24, [2023, 2024, 2025]),  # the window ends on 31 March
        ("2025-03-31", 24, [2023, 2024, 2025]),
        ("2025-04-01", 24, [2024, 2025]),
        ("2026-01-02", 24, [2024, 2025]),  # the deployed SQL finds none in these months
        ("2025-05-01", 0, []),
    ],
)
def test_census_dates_are_every_31_march_in_the_window(run_date: str, months: int, years: list[int]) -> None:
    """All years count, also those between the first and the last."""
    window = Window.of(date.fromisoformat(run_date), months)
    assert list(window.census_dates) == [date(year, 3, 31) for year in years]


@pytest.mark.parametrize(
    ("born", "age", "turned"),
    [
        ("2000-06-15", 26, "2026-06-15"),
        ("2000-02-29", 26, "2026-02-28"),
        ("2000-02-29", 16, "2016-02-29"),
        ("1900-02-28", 26, "1926-02-28"),
        ("2000-02-29 13:30", 26, "2026-02-28 13:30"),
    ],
)
def test_birthday_on_29_february_falls_on_the_28th_in_other_years(born: str, age: int, turned: str) -> None:
    """In a leap year it stays where it is."""
    assert birthday(at(born), age) == at(turned)

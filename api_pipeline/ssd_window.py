"""The window of time that a run looks at, and the arithmetic of dates that goes with it.

Carries out ssd, section 2. Pure. Moments are datetimes without a zone, in the database's own time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

_APRIL = 4


@dataclass(frozen=True)
class Window:
    """From 1 April of the financial year that holds the anchor to the day after the run, both at midnight."""

    run_date: date
    start: datetime
    end: datetime

    @classmethod
    def of(cls, run_date: date, months: int) -> Window:
        """Return the window of a run on ``run_date`` that looks ``months`` months back."""
        year, month = _anchor(run_date, months)
        year -= month < _APRIL
        start = datetime(year, _APRIL, 1)  # noqa: DTZ001 -- the database's own time has no zone
        return cls(run_date, start, datetime.combine(run_date, time()) + timedelta(days=1))

    def holds(self, moment: datetime | None) -> bool:
        """Whether a moment is known and lies in the window, both edges included."""
        return moment is not None and self.start <= moment <= self.end

    def overlaps(self, start: datetime | None, end: datetime | None) -> bool:
        """Whether a span with a known start touches the window; one without an end is still open."""
        return start is not None and start <= self.end and (end is None or end >= self.start)

    @property
    def census_dates(self) -> tuple[date, ...]:
        """Every 31 March in the window, both edges included."""
        years = range(self.start.year, self.end.year + 1)
        days = [date(year, 3, 31) for year in years]
        return tuple(day for day in days if self.start.date() <= day <= self.end.date())


def has_just_moved(run_date: date, months: int) -> bool:
    """Whether the window of a run began a year earlier not more than a month ago."""
    return _anchor(run_date, months)[1] == _APRIL


def _anchor(run_date: date, months: int) -> tuple[int, int]:
    """Return year and month of the day that lies ``months`` months before a run."""
    month = run_date.year * 12 + run_date.month - 1 - months
    return month // 12, month % 12 + 1


def birthday(born: datetime, age: int) -> datetime:
    """Return when somebody turns ``age``; a birthday on 29 February falls on the 28th in other years."""
    try:
        return born.replace(year=born.year + age)
    except ValueError:
        return born.replace(year=born.year + age, day=28)

"""What a fake SSD is drawn from: the kinds of people; days, codes and postcodes as case systems write them.

:mod:`fake_ssd` puts people together from these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import lru_cache
from random import Random
from typing import Any

from api_pipeline.ssd_window import Window

WINDOW_MONTHS = 24  # the window that the fake dates are laid around
_AHEAD = 400  # days after the run date that the calendar knows
_BEHIND = 12_000  # days before it
_LETTERS = "ABDEFGHJLNPQRSTUWXYZ"

Rows = Mapping[type[Any], Sequence[Any]]


class FakeKind(Enum):
    """Why a fake person is in the data; the value is in words for people."""

    IN_NEED = "in need"
    PROTECTED = "under a child protection plan"
    LOOKED_AFTER = "looked after"
    CARE_LEAVER = "care leaver"
    UNBORN = "unborn"
    PAST = "known only from before the window"
    TOO_OLD = "26 before the window began"
    UNDATED = "without any birth date"


@dataclass(frozen=True, slots=True)
class FakePerson:
    """One person's rows in all tables but that of the professionals.

    ``rows`` has row class -> rows. ``fault`` is the column and the rule of the one fault that was asked for,
    empty for a sound person. Who has departed has ``left`` set: then ``rows`` are not all in the database.
    """

    number: int
    kind: FakeKind
    rows: Rows
    fault: str = ""
    left: str = ""

    @property
    def person_id(self) -> str:
        """The id as the tables hold it."""
        return fake_person_id(self.number)


def fake_person_id(number: int) -> str:
    """Return the id of the person with this number, counted from 1."""
    return f"FAKE{number:06d}"


@lru_cache(maxsize=4)
def _calendar(as_of: date) -> tuple[datetime, ...]:
    """Return the days from ``_AHEAD`` days after ``as_of`` backwards; counting in a table is far quicker."""
    newest = datetime.combine(as_of, time()) + timedelta(days=_AHEAD)
    return tuple(newest - timedelta(days=ago) for ago in range(_AHEAD + _BEHIND))


class Draw:
    """Draws the values of one person after the other; all days are counted backwards from the run date."""

    def __init__(self, seed: int, as_of: date) -> None:
        self._random = Random()  # noqa: S311 - test data, nothing secret
        self._r = self._random.random
        self._seed = seed
        self._days = _calendar(as_of)
        self._window = Window.of(as_of, WINDOW_MONTHS)
        self._before = (as_of - self._window.start.date()).days + 1  # the newest day before the window
        minute, day = timedelta(minutes=1), timedelta(days=1)
        around = (-day, -minute, timedelta(), minute, day / 2)
        edges = (self._window.start, self._window.end)
        self._edges = [edge + shift for edge in edges for shift in around]

    def _begin(self, number: int, edgy_share: float) -> None:
        """Begin with the person of this number, who does not depend on those before."""
        self._random.seed(self._seed * 2**32 + number)
        self._number = f"{number:06d}"
        self._id = fake_person_id(number)
        self._records = 0
        self._rows: dict[type[Any], list[Any]] = {}
        self._edgy = self._r() < edgy_share  # some of this person's dates lie on the edges of the window

    def _add(self, row: Any) -> None:
        rows = self._rows.get(type(row))
        if rows is None:
            self._rows[type(row)] = [row]
        else:
            rows.append(row)

    def _new_id(self, kind: str) -> str:
        self._records += 1
        return f"FAKE-{kind}-{self._number}-{self._records:02d}"

    def _between(self, newest: int, oldest: int) -> int:
        return newest + int(self._r() * (oldest - newest + 1)) if oldest > newest else newest

    def _one_of(self, values: Sequence[Any]) -> Any:
        return values[int(self._r() * len(values))]

    def _moment(self, ago: int) -> datetime:
        if self._edgy and self._r() < 0.3:
            edge: datetime = self._one_of(self._edges)
            return edge
        day = self._day(ago)
        return day if self._r() < 0.9 else day + timedelta(minutes=int(self._r() * 1440))

    def _end(self, start: int, newest: int, open_share: float) -> tuple[int, datetime | None]:
        """Return an end after ``start`` as days ago and as the column holds it; now and None while open."""
        r = self._r()
        if r < open_share:
            return newest, None
        if r > 0.985:
            return newest, self._moment(start + 20)  # before the start
        ago = self._between(newest, start)
        return ago, self._moment(ago)

    def _code(self, code: str, words: str) -> str:
        r = self._r()
        if r < 0.8:
            return code
        if r < 0.86:
            return code.lower()
        if r < 0.91:
            return f"  {code} "
        return f"{code} - {words}" if r < 0.98 else f"{code.lower()}\t"

    def _postcode(self, number: int) -> str:
        return f"ZZ99 {number % 10}{_LETTERS[number // 10 % 20]}{_LETTERS[number // 200 % 20]}"

    def _written(self, postcode: str) -> str | None:
        r = self._r()
        if r < 0.93:
            return postcode
        if r < 0.95:
            return postcode.lower()
        return (
            f" {postcode} " if r < 0.97 else f"{postcode} (new)" if r < 0.985 else None if r < 0.993 else " "
        )

    def _pupil_number(self) -> str:
        return f"X999{int(self._r() * 10**9):09d}"

    def _day(self, ago: int) -> datetime:
        return self._days[min(max(ago, -_AHEAD), _BEHIND - 1) + _AHEAD]

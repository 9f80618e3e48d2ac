"""Small, spiteful populations of the SSD: few values for everything, so that they collide.

:func:`population` gives every row of every source table for a seed. Ids are shared, blank, padded, in the
other case and over-long; dates lie on and beside every edge of the window; codes come with blanks and
descriptions. ``tick`` is the step beside an edge: a millisecond, or what a database's DATETIME can hold.
:func:`smallest` takes rows away as long as a difference stays, for a failure that one can read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from api_pipeline import ssd_tables as t

Rows = dict[type[Any], list[Any]]

RUN_DATES = tuple(
    date.fromisoformat(text)
    for text in """2024-02-28 2024-02-29 2024-03-01 2025-02-28 2025-03-29 2025-03-30 2025-03-31 2025-04-01
    2025-04-02 2025-07-14 2025-12-30 2025-12-31 2026-01-01 2026-03-31 2026-04-01""".split()
)
MONTHS = (24, 24, 24, 24, 1, 11, 12, 13, 36)
UASC_PATTERNS = (None, None, None, r"^U$|\bASYLUM\b", "UASC$")

_LONG = "A2345678901234567890123456789012345-7890"  # 40 characters, four beyond what an id may have
_MISSING = (None, "", "  ")


def _pool(texts: str) -> tuple[Any, ...]:
    return (*texts.split("|"), *_MISSING)


_PERSONS = ("p1", "p2", "P1", "p3", "p1 ", " p2", _LONG, "n\xb0 7")
_REFERRALS = ("r1", "r2", "r3", "r4", "R1", "r1 ", " r2", _LONG, *_MISSING)
_CLA_IDS = ("c1", "c2", "c3", "C1", "c1 ", *_MISSING)
_RECORDS = ("a1", "a2", "a3", "A1", "a1 ", " a2", "b" + _LONG, *_MISSING)
_PROFESSIONALS = ("w1", "w2", "w3", "W1", "w1 ", *_MISSING)
_NUMBERS = ("SW1", "SW2", " SW1 ", "123456789012", "1234567890123", *_MISSING)
_ROLES = ("CW", "CW ", " cw", "Cw", "CWX", "C W", "IRO", *_MISSING)
_NAMES = _pool(" Zo\xeb |O'Brien|d\"Arcy \\ x|\u674e\u5c0f\u9f8d|\xa0\u2003|\U0001f31f|A\tB")
_UPNS = _pool("A123456789012| A123456789012|a12345678901b|A12345|UN3|un10 |UN11|UN0")
_REASONS = _pool("UN1|un2| UN9 |UN10|UN11|UN0|UN|UN1A|xx")
_SEXES = _pool("M|f| m |Male|U|9|X")
_ETHNICITIES = _pool("WBRI| wbri|woth - other|MWB C|A|AB  CD")
_DISABILITIES = _pool("MOB|mob |HAND|none|BEHAVIOUR|BEHA|VI S| con|\u0131\xdf|Z")
_MORE_DISABILITIES = tuple(f"D{n:02}" for n in range(14))
_FORMER_TYPES = _pool("Former Unique Pupil Number| former unique pupil number |Former UPN")
_FORMER = _pool("B123456789012|A123456789012| A123456789012 |B1|A12345678901234")
_POSTCODES = _pool("AB1 2CD| ab1 2cd |AB12 3CDE|ZZ9 9ZZ|AB12 3CD|X")
_UASC = _pool(
    "U| u |UASC|uasc leave|Former UASC|NOT UASC|non-uasc|Not a UASC|Not, UASC|Not UASC; UASC now|EX UASC"
    "|cannot UASC|XUASC|Asylum seeker|UK|former  (UASC)|NON_UASC|Leave to remain|UASC - former"
)
_SCORES: tuple[Any, ...] = (
    *(0, 40, 41, -1, 17, 17, 16.0, 17.5),
    *_pool("12| 12 |+7|-0|-3|007|41|0040|12.0|1e1|1_0|x|1 2|+|--1"),
)
_SOURCES = _pool(
    "1A|1a: family| 3F|3G|5D|5E|5|4|4 - x|6B|70|8|9|10|10: nobody|1|100|0|2|A1|1 A",
)
_FLAGS: tuple[Any, ...] = (True, False, 0, 1, 2, 9, "0", "1", "Y", "n", "T", "f", "2", "?", " ", "", None)
_CLOSE_REASONS = _pool("RC1|rc8 |RC1 - adopted| RC9|R C2|RC")
_START_REASONS = _pool("S|l| P placement|S - first|B|u")
_END_REASONS = _pool("E1|e4b|X1 - next| E 3|E 34|E11|X|\xa0E15")
_TYPES = _pool("U1|k2 |A3 - own|H5|p 1")
_CHANGES = _pool("CARPL|carpl |CUSTOD|CUSTODY ARR|CLOSE planned|other")
_ACTIVITIES = _pool("F1|f2 |P5 - x|G|G45")
_HOMES = _pool("B|c| - y|D - y|E")
_FACTORS = _pool(
    '["1A", "2B"]|["2B", "1A", "2B"]|[" 1A ", "", "  ", null, 3, true, {"a": 1}, ["x"]]'
    '|["\u674e", "\\u00e9", "q\\"t"]|[]|null| null |"1A"|{"a": "1A"}|["1A"|[\'1A\']|["1A",]| ["21"]\n|3'
    "|rubbish|[NaN]"
)
_OUTCOMES = (
    *(f'{{"CP_CONFERENCE_FLAG": {value}, "X": 1}}' for value in "true false 1 0 2 null 1.0 [1] {}".split()),
    *(f'{{"CP_CONFERENCE_FLAG": "{value}"}}' for value in "Y| n |t|F|1|0|TRUE|yes|".split("|")),
    *_pool('{"cp_conference_flag": "Y"}|{"X": {"CP_CONFERENCE_FLAG": "Y"}}|[{"CP_CONFERENCE_FLAG": "Y"}]'),
    *('"CP_CONFERENCE_FLAG"', '{"CP_CONFERENCE_FLAG": "Y"', "null"),
)

_NEVER = datetime(9999, 12, 31)  # noqa: DTZ001 - what case systems write for an open end


class _Maker:
    """Draws rows; ``calm`` makes most values ordinary, so that records get as far as the payload."""

    def __init__(self, seed: int, run_date: date, months: int, tick: timedelta) -> None:
        self.chance = random.Random(seed)
        self.calm = self.chance.choice((0.0, 0.5, 0.8, 0.95))
        self.ids: list[str] = []
        first = run_date.replace(day=1)
        for _ in range(months):
            first = (first - timedelta(days=1)).replace(day=1)
        start = _midnight(date(first.year - (first.month < 4), 4, 1))
        end = _midnight(run_date) + timedelta(days=1)
        day = timedelta(days=1)
        springs = [_midnight(date(year, 3, 31)) for year in range(start.year, end.year + 1)]
        beside = [edge + step for edge in (start, end, *springs) for step in (-tick, timedelta(0), tick)]
        self.start, self.end = start, end
        self.edges = [*beside, *(spring + day - tick for spring in springs), end - day, end + 30 * day]
        self.edges += [_NEVER, datetime(1900, 1, 1), start - 400 * day]  # noqa: DTZ001
        self.inside = [start + (end - start) / 8 * part for part in range(1, 8)]
        self.inside = [moment.replace(microsecond=0) for moment in self.inside]

    def one(self, values: Sequence[Any]) -> Any:
        if self.chance.random() < self.calm:
            return values[0]
        return self.chance.choice(values)

    def name(self, values: Sequence[Any]) -> Any:
        """An id: from the front of the pool if calm, and seldom missing."""
        return self.chance.choice(values[:3] if self.chance.random() < max(self.calm, 0.3) else values)

    def begin(self) -> datetime | None:
        draw = self.chance.random()
        if draw < 0.1 * (1 - self.calm):
            return None
        return self.chance.choice(self.inside if draw < self.calm else self.edges)

    def finish(self) -> datetime | None:
        return None if self.chance.random() < 0.4 else self.begin()

    def born(self) -> datetime | None:
        chance = self.chance
        if chance.random() < self.calm:
            return self.end - timedelta(days=chance.randrange(300, 25 * 365))
        years = chance.choice((0, 16, 20, 25, 26, 27))
        moment = chance.choice([*self.edges[:6], *self.inside[:2]])
        leap = datetime(chance.choice((1996, 2000, 2008)), 2, 29)  # noqa: DTZ001
        if moment.month == 2 and moment.day == 29:
            moment -= timedelta(days=1)
        return chance.choice((None, None, leap, moment.replace(year=moment.year - years)))

    def persons(self) -> list[t.Person]:
        number = self.chance.choice((1, 1, 2, 3))
        ids: list[Any] = self.chance.sample(_PERSONS, number)
        if self.chance.random() < self.calm:
            ids = ["p1", "p2", "P1", "p3"][:number]
        self.ids = ids
        people = []
        for person in ids:
            due = self.chance.choice([None, *self.edges])
            born = self.born()
            people.append(
                t.Person(
                    person,
                    self.one(["m1", " m 2 ", _LONG, *_MISSING]),
                    self.one(_UPNS),
                    self.one([None, *_REASONS]),
                    self.one(_NAMES),
                    self.one(_NAMES),
                    self.one(_SEXES),
                    self.one(_ETHNICITIES),
                    born,
                    due if born is None or self.chance.random() < 0.2 else None,
                )
            )
        return people

    def many(self, make: Callable[[], Any], most: int) -> list[Any]:
        """Some rows, and copies of them that differ in a single value or in the blanks around an id."""
        rows = [make() for _ in range(self.chance.randint(0, most))]
        for _ in range(self.chance.choice((0, 0, 1, 1, 2, 4)) if rows else 0):
            row = self.chance.choice(rows)
            column = self.chance.randrange(len(row))
            value = make()[column] if self.chance.random() < 0.7 else row[column]
            if row._fields[column].endswith("_id") and value and self.chance.random() < 0.5:
                value = f"{value} "
            rows.append(row._replace(**{row._fields[column]: value}))
        return rows

    def referral(self) -> Any:
        return self.name(_REFERRALS)

    def person(self) -> Any:
        return self.chance.choice(self.ids if self.chance.random() < max(self.calm, 0.7) else _PERSONS)

    def rows(self) -> Rows:  # one line for each column: length is not complexity here
        name, one, many, begin, finish = self.name, self.one, self.many, self.begin, self.finish
        disabilities = _DISABILITIES if self.chance.random() < 0.8 else _MORE_DISABILITIES
        return {
            t.Person: self.persons(),
            t.LinkedIdentifier: many(
                lambda: t.LinkedIdentifier(self.person(), one(_FORMER_TYPES), one(_FORMER), begin()), 4
            ),
            t.Address: many(lambda: t.Address(self.person(), one(_POSTCODES), begin()), 4),
            t.Disability: many(
                lambda: t.Disability(self.person(), self.chance.choice(disabilities)),
                6 if disabilities is _DISABILITIES else 40,
            ),
            t.ImmigrationStatus: many(
                lambda: t.ImmigrationStatus(self.person(), one(_UASC), begin(), finish()), 4
            ),
            t.SdqScore: many(lambda: t.SdqScore(self.person(), begin(), self.chance.choice(_SCORES)), 6),
            t.CinEpisode: many(self.episode, 8),
            t.CinAssessment: many(
                lambda: t.CinAssessment(name(_RECORDS), self.person(), self.referral(), begin(), finish()), 9
            ),
            t.AssessmentFactors: many(lambda: t.AssessmentFactors(name(_RECORDS), one(_FACTORS)), 8),
            t.CinPlan: many(
                lambda: t.CinPlan(name(_RECORDS), self.referral(), self.person(), begin(), finish()), 5
            ),
            t.S47Enquiry: many(
                lambda: t.S47Enquiry(
                    name(_RECORDS), self.referral(), self.person(), begin(), finish(), one(_OUTCOMES)
                ),
                5,
            ),
            t.InitialCpConference: many(lambda: t.InitialCpConference(name(_RECORDS), begin()), 4),
            t.CpPlan: many(
                lambda: t.CpPlan(name(_RECORDS), self.referral(), self.person(), begin(), finish()), 4
            ),
            t.ClaEpisode: many(
                lambda: t.ClaEpisode(
                    name(_RECORDS),
                    self.person(),
                    name(_CLA_IDS),
                    self.referral(),
                    one(_START_REASONS),
                    one(_END_REASONS),
                ),
                6,
            ),
            t.ClaPlacement: many(self.placement, 9),
            t.Permanence: many(self.permanence, 4),
            t.CareLeaver: many(
                lambda: t.CareLeaver(self.person(), begin(), one(_ACTIVITIES), one(_HOMES)), 3
            ),
            t.Involvement: many(self.involvement, 12),
            t.Professional: many(lambda: t.Professional(name(_PROFESSIONALS), one(_NUMBERS)), 6),
        }

    def episode(self) -> t.CinEpisode:
        return t.CinEpisode(
            self.referral(),
            self.person(),
            self.begin(),
            self.one(_SOURCES),
            self.chance.choice(_FLAGS),
            self.finish(),
            self.one(_CLOSE_REASONS),
        )

    def permanence(self) -> t.Permanence:
        dates = [self.finish() for _ in range(3)]
        return t.Permanence(self.chance.choice([None, *_PERSONS]), self.name([None, *_CLA_IDS]), *dates)

    def involvement(self) -> t.Involvement:
        return t.Involvement(
            self.name(_PROFESSIONALS), self.referral(), self.one(_ROLES), self.begin(), self.finish()
        )

    def placement(self) -> t.ClaPlacement:
        return t.ClaPlacement(
            self.name(_RECORDS),
            self.name(_CLA_IDS),
            self.begin(),
            self.finish(),
            self.one(_TYPES),
            self.one(_POSTCODES),
            self.one(_CHANGES),
        )


def population(
    seed: int, run_date: date, months: int = 24, tick: timedelta = timedelta(milliseconds=1)
) -> Rows:
    """Return all rows of a small population; the same for the same arguments."""
    return _Maker(seed, run_date, months, tick).rows()


def smallest(rows: Rows, is_different: Callable[[Rows], bool]) -> Rows:
    """Take rows away, and then values, as long as ``is_different`` holds."""
    again = True
    while again:
        again = False
        for kind in list(rows):
            for index in range(len(rows[kind]) - 1, -1, -1):
                fewer = {**rows, kind: [*rows[kind][:index], *rows[kind][index + 1 :]]}
                if is_different(fewer):
                    rows, again = fewer, True
    for kind in list(rows):
        for index in range(len(rows[kind])):
            for column in kind._fields[1:]:
                plain = rows[kind][index]._replace(**{column: None})
                simpler = {**rows, kind: [*rows[kind][:index], plain, *rows[kind][index + 1 :]]}
                if plain != rows[kind][index] and is_different(simpler):
                    rows = simpler
    return {kind: found for kind, found in rows.items() if found}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())

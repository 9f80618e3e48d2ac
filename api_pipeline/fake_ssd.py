"""A made-up Standard Safeguarding Dataset (SSD) for ``fake-data --ssd``, ``demo``, tests and benchmarks.

The population is shaped as an authority's is: six in ten in need, some under a protection plan, one in seven
looked after with several placements, care leavers, unborn children, siblings, and a few who are in no cohort.
Its rows hold what case systems really hold: codes in any case with stray blanks and descriptions, UN codes
in the UPN column, broken JSON, scores as text, over-long postcodes, ends before starts, dates on the very
edge of the window. From all of that come sound payloads; records that break a payload rule are there only
where ``fault_share`` asks for them.

Everything is recognisably invented, as :mod:`fake` says: every id begins with FAKE. A person depends on the
seed, the number and the day alone, on every Python version and machine, because only
:meth:`random.Random.random` and ``seed`` are used. No first column of a row is ever NULL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

from api_pipeline import fake
from api_pipeline.fake_ssd_faults import with_fault
from api_pipeline.fake_ssd_values import WINDOW_MONTHS, Draw, FakeKind, FakePerson, Rows, fake_person_id
from api_pipeline.ssd_tables import (
    Address,
    AssessmentFactors,
    CareLeaver,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    CpPlan,
    Disability,
    ImmigrationStatus,
    InitialCpConference,
    Involvement,
    LinkedIdentifier,
    Permanence,
    Person,
    Professional,
    S47Enquiry,
    SdqScore,
)

__all__ = [
    "WINDOW_MONTHS",
    "FakeKind",
    "FakePerson",
    "Rows",
    "by_table",
    "fake_person_id",
    "fake_population",
    "fake_professionals",
]

_PROFESSIONALS = 150
_OF_AGE_26 = 9_497  # days in 26 years, seven of them leap years

# How many of each hundred people are of which kind.
_SHARES = (
    (FakeKind.IN_NEED, 58),
    (FakeKind.PROTECTED, 10),
    (FakeKind.LOOKED_AFTER, 15),
    (FakeKind.CARE_LEAVER, 6),
    (FakeKind.UNBORN, 2),
    (FakeKind.PAST, 6),
    (FakeKind.TOO_OLD, 2),
    (FakeKind.UNDATED, 1),
)
_KINDS = [kind for kind, share in _SHARES for _ in range(share)]
_OPEN_SHARE = {FakeKind.IN_NEED: 0.55, FakeKind.CARE_LEAVER: 0.9, FakeKind.PAST: 0.0}  # others: 0.8

_SOURCE_WORDS = ("Individual", "School", "Police", "Health services", "Housing", "LA services", "Anonymous")
_OTHER_SOURCES = ("", "   ", "Unknown", "5E", "11", "Z")
_NO_FURTHER_ACTION = ("N", "N", "N", "0", "0", "F", "n", "", " ", None, None, "Y", "1", "T", "y", "2")
_BROKEN_FACTORS = (
    None,
    None,
    "",
    "  ",
    "null",
    "[]",
    '["1A", "2B"',
    '{"factors": "1A"}',
    '["4A", 7, null, " ", "5A"]',
)
_OUTCOMES = ('{"CP_CONFERENCE_FLAG": "%s"}', '{"S47_OUTCOME": "4", "CP_CONFERENCE_FLAG": "%s"}')
_OTHER_OUTCOMES = (
    None,
    "",
    "null",
    '{"CP_CONFERENCE_FLAG": true}',
    '{"CP_CONFERENCE_FLAG": 0}',
    '{"OUTCOME": "NFA"}',
    '{"CP_CONFERENCE_FLAG": "Y"',
    '{"CP_CONFERENCE_FLAG": " n "}',
)
_ROLES = ("CW",) * 12 + ("cw ", " CW", "Cw", "FSW", "IRO", "EDT", "CW - Case worker", None)
_SCORES: tuple[int | str | None, ...] = ("12", " 14 ", "+7", "n/a", "12.5", "", None, 41, -1, "40")
_STATUSES = (
    "UASC", "U", "u", "UASC - Unaccompanied", "Granted (UASC)", "Not UASC", "Non-UASC", "Former UASC", "EEA"
)  # fmt: skip
_IDENTIFIERS = (
    "Former Unique Pupil Number",
    " former unique pupil number ",
    "NHS Number",
    "Court Case Number",
)


def fake_population(
    people: int, seed: int, as_of: date, *, first: int = 1, fault_share: float = 0.0
) -> Iterator[FakePerson]:
    """Yield ``people`` fake people numbered from ``first``, one at a time, always the same ones.

    Dates are laid around a run on ``as_of``. A ``fault_share`` (0.0 to 1.0) of those who are in the cohort
    get exactly one record that a payload or the staging table cannot take; the others stay as they are.

    Raises:
        ValueError: if ``people`` is negative, ``first`` not positive or ``fault_share`` not from 0 to 1.
    """
    if people < 0 or first < 1:
        raise ValueError("people must not be negative, and first must be 1 or more")
    if not 0.0 <= fault_share <= 1.0:
        raise ValueError("fault_share must be between 0 and 1")
    return _population(range(first, first + people), seed, as_of, fault_share)


def _population(numbers: range, seed: int, as_of: date, fault_share: float) -> Iterator[FakePerson]:
    maker = _Maker(seed, as_of)
    for number in numbers:
        person = maker.person(number)
        # A generator of its own, so that asking for faults changes nothing about the sound people.
        yield with_fault(person, seed, fault_share) if fault_share else person


def fake_professionals() -> list[Professional]:
    """Return the professionals whom the involvements of every fake population name.

    Some have no registration number, a blank one or one that is too long for a payload, and one is there
    twice.
    """
    rows = []
    for number in range(1, _PROFESSIONALS + 1):
        registration: str | None = f"FAKESW{number:04d}"
        if number % 17 == 0:
            registration = None
        elif number % 17 == 1:
            registration = "   "
        elif number % 29 == 2:
            registration = f"FAKE-REGISTRATION-{number:04d}"
        elif number % 13 == 3:
            registration = f" {registration} "
        rows.append(Professional(_professional_id(number), registration))
    return [*rows, Professional(_professional_id(5), "FAKESW9005")]


def _professional_id(number: int) -> str:
    return f"FAKE-PROF-{number:04d}"


def by_table(people: Iterable[FakePerson]) -> dict[type[Any], list[Any]]:
    """Return row class -> the rows of all these people."""
    tables: dict[type[Any], list[Any]] = {}
    for person in people:
        for row_class, rows in person.rows.items():
            tables.setdefault(row_class, []).extend(rows)
    return tables


class _Maker(Draw):
    """Makes one person after the other."""

    def person(self, number: int) -> FakePerson:
        kind = _KINDS[(number * 37 + self._seed) % 100]
        self._begin(number, 0.3 if kind is FakeKind.PAST else 0.04)
        # Siblings have neighbouring numbers: two and three of every ten people.
        last = number % 10
        self._head = number - 1 if last == 4 else number - last + 7 if last > 7 else number
        age = self._age(kind)
        self._details(kind, number, age)
        self._addresses()
        self._referrals(kind, age)
        if kind is FakeKind.LOOKED_AFTER or self._r() < 0.1:
            self._strengths()
        if self._r() < (0.25 if kind is FakeKind.LOOKED_AFTER else 0.03):
            self._immigration()
        if kind is FakeKind.CARE_LEAVER or (kind is FakeKind.LOOKED_AFTER and age > 5_850):
            self._care_leaver()
        return FakePerson(number, kind, self._rows)

    # --- The person -----------------------------------------------------------------------------------

    def _age(self, kind: FakeKind) -> int:
        """Return how many days ago somebody of this kind was born."""
        if kind is FakeKind.CARE_LEAVER:
            turning_26 = self._r() < 0.2
            oldest = _OF_AGE_26 + self._before
            return self._between(_OF_AGE_26, oldest) if turning_26 else self._between(5_900, _OF_AGE_26)
        if kind is FakeKind.TOO_OLD:
            return self._between(_OF_AGE_26 + self._before + 2, 11_500)
        return self._between(1_200, 8_000) if kind is FakeKind.PAST else self._between(10, 6_500)

    def _birth(self, kind: FakeKind, age: int) -> tuple[datetime | None, datetime | None]:
        """Return the dates of birth and of expected birth."""
        r = self._r
        born: datetime | None = self._day(age)
        expected: datetime | None = None
        if kind is FakeKind.UNBORN:
            born, expected = None, self._moment(self._between(-60, 90))
        elif kind is FakeKind.UNDATED:
            born = None
        elif kind in (FakeKind.CARE_LEAVER, FakeKind.TOO_OLD) and r() < 0.06:
            start = self._window.start
            born = start.replace(year=start.year - 26) + timedelta(days=self._between(-1, 1))
        elif r() < 0.004 and born is not None:
            born = born.replace(year=born.year - born.year % 4, month=2, day=29)
        elif r() < 0.02:
            expected = born
        return born, expected

    def _details(self, kind: FakeKind, number: int, age: int) -> None:
        r = self._r
        born, expected = self._birth(kind, age)
        pupil, reason = self._upn(kind)
        first: str | None = fake.FIRST_NAMES[(number - 1) % len(fake.FIRST_NAMES)]
        if kind is FakeKind.UNBORN and r() < 0.5:
            first = None
        elif r() < 0.04:
            first = f" {first} "
        surname = fake.SURNAMES[(self._head - 1) % len(fake.SURNAMES)] + " (fake)"
        sex = (
            ("U" if born is None else self._one_of(fake.SEXES))
            if r() < 0.9
            else self._one_of(("m", " F ", "f ", "Unknown", None, "", "I"))
        )
        family = self._head * 31 + self._seed
        ethnicity: str | None = fake.ETHNICITIES[family % len(fake.ETHNICITIES)]
        if r() < 0.15:
            ethnicity = self._one_of(("wbri", " WBRI ", "MWAS - White and Asian", None, "", "AOTH\t"))
        legacy = None if r() < 0.2 else f"FAKEMIS{self._number}" if r() < 0.95 else " "
        self._add(Person(self._id, legacy, pupil, reason, first, surname, sex, ethnicity, born, expected))
        if r() < 0.18:
            for _ in range(1 + int(r() * 3)):
                code = self._one_of(fake.DISABILITIES)
                self._add(Disability(self._id, self._code(code, "description") if len(code) > 2 else code))
        elif r() < 0.05:
            self._add(Disability(self._id, self._one_of(("NONE", " none ", "", None))))
        for _ in range(int(r() * 1.6)):
            number_text = self._pupil_number() if r() < 0.9 else "X99912345678"
            self._add(
                LinkedIdentifier(
                    self._id, self._one_of(_IDENTIFIERS), number_text, self._moment(self._between(0, 3_000))
                )
            )

    def _upn(self, kind: FakeKind) -> tuple[str | None, str | None]:
        """Return what stands in the columns of the pupil number and of the reason why there is none."""
        r = self._r()
        code = self._one_of(fake.UPN_REASONS)
        if kind is FakeKind.UNBORN or r < 0.06:
            return None, code
        if r < 0.9:
            return self._pupil_number(), None
        if r < 0.93:
            return code, None
        if r < 0.95:
            return f" {code.lower()} ", ""
        if r < 0.97:
            return self._pupil_number(), f"{code.lower()} "
        return ("X99912345678", None) if r < 0.985 else (None, "N/A")

    def _addresses(self) -> None:
        family = self._head * 7 + self._seed
        ago = self._between(0, 1_500)
        self._add(Address(self._id, self._written(self._postcode(family)), self._moment(ago)))
        for _ in range(int(self._r() * 3.4)):
            ago += self._between(0, 900)
            start = None if self._r() < 0.03 else self._moment(ago)
            self._add(Address(self._id, self._written(self._postcode(int(self._r() * 4_000))), start))

    def _strengths(self) -> None:
        for _ in range(1 + int(self._r() * 3)):
            score = int(self._r() * 41) if self._r() < 0.85 else self._one_of(_SCORES)
            self._add(SdqScore(self._id, self._moment(self._between(0, 1_300)), score))

    def _immigration(self) -> None:
        start = self._between(100, 2_000)
        for _ in range(1 + int(self._r() * 1.5)):
            ago, end = self._end(start, 0, 0.5)
            self._add(ImmigrationStatus(self._id, self._one_of(_STATUSES), self._moment(start), end))
            start = ago

    def _care_leaver(self) -> None:
        for _ in range(1 + int(self._r() * 1.15)):
            contact = self._moment(self._between(0, 500 if self._r() < 0.9 else 2_000))
            known = self._r() < 0.95
            self._add(
                CareLeaver(
                    self._id,
                    contact if self._r() < 0.97 else None,
                    self._code(self._one_of(fake.ACTIVITIES), "activity") if known else "",
                    self._code(self._one_of(fake.ACCOMMODATION), "lodging") if known else None,
                )
            )

    # --- Referrals ------------------------------------------------------------------------------------

    def _referrals(self, kind: FakeKind, age: int) -> None:
        r = self._r
        if kind is FakeKind.PAST:
            closed: int | None = self._before + self._between(0, 900)
            opened = (closed or 0) + self._between(30, 400)
        else:
            opened = self._between(5, 150 if kind is FakeKind.UNBORN else 900)
            opened = min(opened, age)
            is_open = r() < _OPEN_SHARE.get(kind, 0.8)
            closed = None if is_open else self._between(max(0, opened - 400), max(0, opened - 5))
        spans = [(opened, closed)]
        # Closed and referred again: mostly soon afterwards, sometimes more than once.
        while len(spans) < 4 and r() < 0.45 and kind is not FakeKind.UNBORN:
            closed = spans[-1][0] + self._between(1, 200)
            opened = closed + self._between(20, 400)
            if opened > age:
                break
            spans.append((opened, closed))
        for number, (start, end) in enumerate(reversed(spans), start=1):
            self._referral(kind, number, start, end, newest=number == len(spans))

    def _referral(
        self, kind: FakeKind, number: int, opened: int, closed: int | None, *, newest: bool
    ) -> None:
        r = self._r
        referral = f"FAKE-REF-{self._number}-{number}"
        code = self._one_of(fake.REFERRAL_SOURCES)
        source = self._code(code, self._one_of(_SOURCE_WORDS)) if r() < 0.97 else self._one_of(_OTHER_SOURCES)
        reason = None
        if closed is not None and r() < 0.97:
            reason = self._code(self._one_of(fake.CLOSURES), "closed")
        referred = None if r() < 0.004 else self._moment(opened)
        closing = None if closed is None else self._moment(closed)
        nfa = self._one_of(_NO_FURTHER_ACTION)
        self._add(CinEpisode(referral, self._id, referred, source, nfa, closing, reason))
        until = closed or 0
        if r() < 0.93:
            self._assessments(referral, opened, until)
        protected = kind is FakeKind.PROTECTED and newest
        if protected or r() < 0.2:
            self._enquiries(referral, opened, until, protected=protected)
        if kind is not FakeKind.UNBORN and r() < 0.75:
            start = self._between(until, opened)
            for _ in range(1 + int(r() * 1.7)):
                ago, end = self._end(start, until, 0.5 if closed is None else 0.03)
                plan = self._new_id("CIN")
                self._add(CinPlan(plan, referral, self._id, self._moment(start), end))
                start = ago
        if kind is FakeKind.LOOKED_AFTER and newest:
            self._care(referral, max(opened - 20, until), until, is_open=closed is None)
        self._involvements(referral, opened, until)

    def _assessments(self, referral: str, opened: int, until: int) -> None:
        r = self._r
        start = max(until, opened - int(r() * 10))
        for _ in range(1 + int(r() * 2.2)):
            assessment = self._new_id("CFA")
            began = None if r() < 0.015 else self._moment(start)
            authorised = None if r() < 0.12 else self._moment(max(0, start - 45))
            self._add(CinAssessment(assessment, self._id, referral, began, authorised))
            if r() < 0.96:
                self._factors(assessment)
            if r() < 0.01:
                self._factors(assessment)  # a second row for the same one
            start = self._between(until, start)

    def _factors(self, assessment: str) -> None:
        if self._r() < 0.1:
            text = self._one_of(_BROKEN_FACTORS)
        else:
            count = 1 + int(self._r() * 4)
            first = int(self._r() * (len(fake.FACTORS) - count + 1))
            text = '["' + '", "'.join(fake.FACTORS[first : first + count]) + '"]'
        self._add(AssessmentFactors(assessment, text))

    def _enquiries(self, referral: str, opened: int, until: int, *, protected: bool) -> None:
        r = self._r
        for _ in range(1 + int(r() * 1.6)):
            start = self._between(until, opened)
            enquiry = self._new_id("S47")
            conference = protected or r() < 0.4
            outcome = self._one_of(_OUTCOMES) % ("Y" if conference else "N")
            if r() < 0.15:
                outcome = self._one_of(_OTHER_OUTCOMES)
            ago, end = self._end(start, max(until, start - 15), 0.08)
            self._add(S47Enquiry(enquiry, referral, self._id, self._moment(start), end, outcome))
            if conference:
                for _ in range(1 + int(r() * 1.1)):
                    self._add(InitialCpConference(enquiry, self._moment(ago)))
            if conference and r() < 0.7:
                _, end = self._end(ago, until, 0.6)
                self._add(CpPlan(self._new_id("CPP"), referral, self._id, self._moment(ago), end))

    def _involvements(self, referral: str, opened: int, until: int) -> None:
        start = opened
        for _ in range(2 + int(self._r() * 3)):
            professional = _professional_id(1 + int(self._r() * _PROFESSIONALS))
            ago, end = self._end(start, until, 0.25)
            self._add(Involvement(professional, referral, self._one_of(_ROLES), self._moment(start), end))
            start = ago

    # --- Care -----------------------------------------------------------------------------------------

    def _care(self, referral: str, opened: int, until: int, *, is_open: bool) -> None:
        r = self._r
        named = referral
        if self._number[-1] in "489" and r() < 0.15:
            named = f"FAKE-REF-{self._head:06d}-1"  # siblings taken into care under one referral
        start = opened
        periods = 1 + int(r() * 1.2)
        for period in range(periods):
            care = self._new_id("CLA")
            last = period == periods - 1
            finish = until if last else self._between(until, start)
            self._placements(care, start, finish, is_open=is_open and last)
            for number in range(1 + int(r() * 3)):
                begun = self._code("S" if number == 0 else self._one_of("LPTBU"), "reason")
                ceased = None if is_open and last else self._code(self._one_of(fake.END_REASONS), "reason")
                episode = self._new_id("EPI")
                self._add(ClaEpisode(episode, self._id, care, named, begun, ceased))
            if r() < 0.12:
                self._adoption(care, start)
            start = max(until, finish - 30)

    def _placements(self, care: str, start: int, finish: int, *, is_open: bool) -> None:
        r = self._r
        count = 1 + int(r() * 5)
        for number in range(count):
            last = number == count - 1
            ago, end = self._end(start, finish, (1.0 if is_open else 0.02) if last else 0.01)
            type_ = self._code(self._one_of(fake.PLACEMENTS), "placement")
            why = None if end is None else self._code(self._one_of(fake.CHANGE_REASONS), "change")
            postcode = self._written(self._postcode(int(r() * 4_000)))
            placement = self._new_id("PLA")
            row = ClaPlacement(placement, care, self._moment(start), end, type_, postcode, why)
            self._add(row)
            if r() < 0.01:
                # The same one twice, as a case system does where it splits a placement.
                self._add(row._replace(clap_cla_placement_start_date=self._moment(ago)))
            start = ago

    def _adoption(self, care: str, start: int) -> None:
        r = self._r
        dates = [self._moment(max(0, start - after)) if r() < 0.8 else None for after in (90, 200, 260)]
        # Some are recorded for the person, some for the period of care alone.
        named = r() < 0.7
        about = care if not named or r() < 0.6 else None
        self._add(Permanence(self._id if named else "", about, *dates))

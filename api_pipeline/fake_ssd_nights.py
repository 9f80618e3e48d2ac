"""What happens to a fake SSD between two nights, as data: seeded changes, departures, returns, newcomers.

:func:`next_night` draws the changes from the people as they are and returns both: the changes, which can be
applied to any database (:func:`ssd_provision.apply_night`), and the people afterwards, from which the night
after that is drawn. Pure; the same arguments always give the same night.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import Enum
from random import Random
from typing import Any

from api_pipeline.fake_ssd import fake_population
from api_pipeline.fake_ssd_values import FakePerson, Rows
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
    S47Enquiry,
    SdqScore,
)

_LONG_AGO = 1_600  # days; before every window


class ChangeKind(Enum):
    """What happens to one person in one night; the value is in words for people."""

    MOVED = "moved house"
    ASSESSED = "was assessed again"
    CLOSED = "had a case closed"
    NEW_IDS = "got new ids for old assessments"
    PLACEMENT_REMOVED = "lost a placement entered by mistake"
    ENDED = "left: everything ended long ago"
    VANISHED = "left: all rows deleted"
    PERSON_DELETED = "left: only the row of ssd_person deleted"
    RETURNED = "came back"
    NEWCOMER = "is new"


DEPARTURES = (ChangeKind.ENDED, ChangeKind.VANISHED, ChangeKind.PERSON_DELETED)
_CHANGES = (
    ChangeKind.MOVED,
    ChangeKind.ASSESSED,
    ChangeKind.CLOSED,
    ChangeKind.NEW_IDS,
    ChangeKind.PLACEMENT_REMOVED,
    ChangeKind.VANISHED,
    ChangeKind.ASSESSED,
    ChangeKind.NEW_IDS,
    ChangeKind.ENDED,
    ChangeKind.MOVED,
    ChangeKind.PERSON_DELETED,
)


@dataclass(frozen=True)
class Insert:
    """A new row; its class says of which table."""

    row: Any


@dataclass(frozen=True)
class Update:
    """New values for the rows of ``table`` (a row class) whose column ``key`` is ``value``."""

    table: type[Any]
    key: str
    value: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Delete:
    """The rows of ``table`` (a row class) whose column ``key`` is ``value`` are deleted."""

    table: type[Any]
    key: str
    value: str


Change = Insert | Update | Delete


@dataclass(frozen=True)
class Night:
    """One night: what to do to the tables, who it was about, and everybody afterwards.

    ``people`` are those given, in their order, then the newcomers; who has departed stays among them with
    ``left`` set, to come back some night.
    """

    people: list[FakePerson]
    changes: list[Change]
    told: list[tuple[str, ChangeKind]]

    def whom(self, *kinds: ChangeKind) -> list[str]:
        """Return the ids of the people to whom one of these happened."""
        return [person_id for person_id, kind in self.told if kind in kinds]


def next_night(
    people: Sequence[FakePerson],
    seed: int,
    night: int,
    as_of: date,
    *,
    share: float = 0.03,
    kinds: Iterable[ChangeKind] = ChangeKind,
) -> Night:
    """Return a night in which about ``share`` of ``people`` change, leave, come back or are new.

    ``night`` counts from 1 and sets the random numbers and the new ids apart from those of other nights;
    ``as_of`` is the day of the run that follows. Only the given ``kinds`` occur. Whoever wants changes in a
    large population without holding it gives a slice of it; newcomers are numbered after the last one
    given, so the slice then has to be the last, or ``kinds`` without ``NEWCOMER``.
    """
    return _Night(people, seed, night, as_of).draw(share, frozenset(kinds))


def applied(rows: Rows, changes: Iterable[Change]) -> dict[type[Any], list[Any]]:
    """Return row class -> rows after these changes: what a database does with them, in memory."""
    tables = {row_class: list(found) for row_class, found in rows.items()}
    for change in changes:
        if isinstance(change, Insert):
            tables.setdefault(type(change.row), []).append(change.row)
            continue
        index = change.table._fields.index(change.key)
        found = tables.get(change.table, [])
        if isinstance(change, Delete):
            kept = [row for row in found if row[index] != change.value]
        else:
            values = dict(change.values)
            kept = [row._replace(**values) if row[index] == change.value else row for row in found]
        tables[change.table] = kept
    return {row_class: found for row_class, found in tables.items() if found}


# By which column the rows of one person are deleted; never one that other people's rows may share.
_OWNER: Mapping[type[Any], str] = {
    Person: "pers_person_id",
    LinkedIdentifier: "link_person_id",
    Address: "addr_person_id",
    Disability: "disa_person_id",
    ImmigrationStatus: "immi_person_id",
    SdqScore: "csdq_person_id",
    CinEpisode: "cine_referral_id",
    CinAssessment: "cina_referral_id",
    AssessmentFactors: "cinf_assessment_id",
    CinPlan: "cinp_referral_id",
    S47Enquiry: "s47e_referral_id",
    InitialCpConference: "icpc_s47_enquiry_id",
    CpPlan: "cppl_referral_id",
    ClaEpisode: "clae_person_id",
    ClaPlacement: "clap_cla_id",
    Permanence: "perm_person_id",
    CareLeaver: "clea_person_id",
    Involvement: "invo_referral_id",
}


def deletions(rows: Rows) -> list[Change]:
    """Return what deletes all these rows of one person."""
    changes: list[Change] = []
    for row_class, found in rows.items():
        keys = [_owner(row) for row in found]
        changes += [Delete(row_class, *key) for key in dict.fromkeys(keys)]
    return changes


def _owner(row: Any) -> tuple[str, str]:
    if isinstance(row, Permanence) and not row.perm_person_id:
        return "perm_cla_id", row.perm_cla_id or ""
    column = _OWNER[type(row)]
    return column, getattr(row, column)


class _Night:
    """Draws one night."""

    def __init__(self, people: Sequence[FakePerson], seed: int, night: int, as_of: date) -> None:
        self._people = people
        self._seed = seed
        self._night = night
        self._as_of = as_of
        self._today = datetime.combine(as_of, time())
        self._random = Random(f"{seed}/{night}").random  # noqa: S311 - test data, nothing secret
        self._changes: list[Change] = []
        self._told: list[tuple[str, ChangeKind]] = []

    def draw(self, share: float, kinds: frozenset[ChangeKind]) -> Night:
        after = list(self._people)
        wanted = max(1, round(len(after) * share))
        order = sorted(range(len(after)), key=[self._random() for _ in after].__getitem__)
        happen = [kind for kind in _CHANGES if kind in kinds]
        turn = int(self._random() * len(_CHANGES))
        for place in order:
            if wanted <= 0:
                break
            person = after[place]
            if person.left:
                # Nobody returns every night, and not everybody ever does.
                changed = (
                    self._returned(person) if ChangeKind.RETURNED in kinds and self._random() < 0.4 else None
                )
            else:
                changed, turn = self._changed(person, happen, turn)
            if changed is not None:
                after[place] = changed
                wanted -= 1
        if ChangeKind.NEWCOMER in kinds:
            after += self._newcomers(max(1, round(len(self._people) * share / 6)))
        return Night(after, self._changes, self._told)

    def _changed(
        self, person: FakePerson, happen: Sequence[ChangeKind], turn: int
    ) -> tuple[FakePerson | None, int]:
        """Let the next thing in turn happen that can happen to this person."""
        for step in range(len(happen)):
            kind = happen[(turn + step) % len(happen)]
            changes = _HAPPENINGS[kind](self, person)
            if changes:
                left = kind.name if kind in DEPARTURES else ""
                # Who returns from a deletion gets the same rows back, so these are kept.
                rows = person.rows if kind in _DELETED else applied(person.rows, changes)
                return self._tell(person, kind, changes, rows, left), turn + step + 1
        return None, turn

    def _tell(
        self, person: FakePerson, kind: ChangeKind, changes: Sequence[Change], rows: Rows, left: str = ""
    ) -> FakePerson:
        self._changes += changes
        self._told.append((person.person_id, kind))
        return replace(person, rows=rows, left=left)

    def _newcomers(self, count: int) -> list[FakePerson]:
        first = max((person.number for person in self._people), default=0) + 1
        people = list(fake_population(count, self._seed, self._as_of, first=first))
        for person in people:
            self._tell(person, ChangeKind.NEWCOMER, _insertions(person.rows), person.rows)
        return people

    def _returned(self, person: FakePerson) -> FakePerson:
        changes: list[Change] = []
        if person.left == ChangeKind.VANISHED.name:
            changes = _insertions(person.rows)
        elif person.left == ChangeKind.PERSON_DELETED.name:
            changes = _insertions({Person: person.rows[Person]})
        if person.left == ChangeKind.ENDED.name or self._random() < 0.5:
            news = self._referral(person)
            rows = applied(person.rows, news)
            return self._tell(person, ChangeKind.RETURNED, [*changes, *news], rows)
        return self._tell(person, ChangeKind.RETURNED, changes, person.rows)

    def _ago(self, days: int) -> datetime:
        return self._today - timedelta(days=days)

    def _id(self, kind: str, person: FakePerson) -> str:
        return f"FAKE-{kind}-{person.number:06d}-N{self._night}"

    # --- What can happen; an empty list where it cannot happen to this person --------------------------

    def _referral(self, person: FakePerson) -> list[Change]:
        referral = self._id("REF", person)
        opened = CinEpisode(referral, person.person_id, self._ago(2), "1A - Individual", "N", None, None)
        return [Insert(opened), *self._assessment(person, referral)]

    def _assessment(self, person: FakePerson, referral: str | None) -> list[Change]:
        assessment = self._id("CFA", person)
        return [
            Insert(CinAssessment(assessment, person.person_id, referral, self._ago(1), None)),
            Insert(AssessmentFactors(assessment, '["4A", "8B"]')),
        ]

    def _moved(self, person: FakePerson) -> list[Change]:
        postcode = f"ZZ99 {self._night % 10}{'ABDEFGHJLN'[int(self._random() * 10)]}Z"
        return [Insert(Address(person.person_id, postcode, self._today))]

    def _assessed(self, person: FakePerson) -> list[Change]:
        referral = _open_referral(person)
        return self._assessment(person, referral.cine_referral_id) if referral else []

    def _closed(self, person: FakePerson) -> list[Change]:
        referral = _open_referral(person)
        if referral is None:
            return []
        values = {"cine_close_date": self._ago(1), "cine_close_reason": "RC1 - closed"}
        return [Update(CinEpisode, "cine_referral_id", referral.cine_referral_id or "", values)]

    def _new_ids(self, person: FakePerson) -> list[Change]:
        changes: list[Change] = []
        old_ids = dict.fromkeys(row.cina_assessment_id for row in person.rows.get(CinAssessment, ()))
        for old in old_ids:
            new = re.sub(r"-R\d+$", "", old) + f"-R{self._night}"
            changes += [
                Update(CinAssessment, "cina_assessment_id", old, {"cina_assessment_id": new}),
                Update(AssessmentFactors, "cinf_assessment_id", old, {"cinf_assessment_id": new}),
            ]
        return changes

    def _placement_removed(self, person: FakePerson) -> list[Change]:
        placements = person.rows.get(ClaPlacement, ())
        if len(placements) < 2:
            return []
        gone = placements[int(self._random() * len(placements))]
        return [Delete(ClaPlacement, "clap_cla_placement_id", gone.clap_cla_placement_id)]

    def _ended(self, person: FakePerson) -> list[Change]:
        """End every ground so long ago that no window sees it."""
        referrals = [row.cine_referral_id for row in person.rows.get(CinEpisode, ())]
        if any(row.clae_referral_id not in referrals for row in person.rows.get(ClaEpisode, ())):
            return []  # a sibling's referral would keep this person in the cohort
        start, end = self._ago(_LONG_AGO + 90), self._ago(_LONG_AGO)
        closed = {"cine_referral_date": start, "cine_close_date": end, "cine_close_reason": "RC1"}
        plan = {"cinp_cin_plan_start_date": start, "cinp_cin_plan_end_date": end}
        placed = {"clap_cla_placement_start_date": start, "clap_cla_placement_end_date": end}
        spans: tuple[tuple[type[Any], dict[str, Any]], ...] = (
            (CinEpisode, closed),
            (CinPlan, plan),
            (ClaPlacement, placed),
        )
        return [
            Update(row_class, column, value, values)
            for row_class, values in spans
            for column, value in dict.fromkeys(_owner(row) for row in person.rows.get(row_class, ()))
        ]

    def _vanished(self, person: FakePerson) -> list[Change]:
        return deletions(person.rows)

    def _person_deleted(self, person: FakePerson) -> list[Change]:
        return deletions({Person: person.rows[Person]})


_DELETED = (ChangeKind.VANISHED, ChangeKind.PERSON_DELETED)
_HAPPENINGS: Mapping[ChangeKind, Callable[[_Night, FakePerson], list[Change]]] = {
    ChangeKind.MOVED: _Night._moved,
    ChangeKind.ASSESSED: _Night._assessed,
    ChangeKind.CLOSED: _Night._closed,
    ChangeKind.NEW_IDS: _Night._new_ids,
    ChangeKind.PLACEMENT_REMOVED: _Night._placement_removed,
    ChangeKind.ENDED: _Night._ended,
    ChangeKind.VANISHED: _Night._vanished,
    ChangeKind.PERSON_DELETED: _Night._person_deleted,
}


def _insertions(rows: Rows) -> list[Change]:
    return [Insert(row) for found in rows.values() for row in found]


def _open_referral(person: FakePerson) -> CinEpisode | None:
    referrals: Sequence[CinEpisode] = person.rows.get(CinEpisode, ())
    return next((row for row in reversed(referrals) if row.cine_close_date is None), None)

"""The faults that a fake SSD has only where they are asked for: records that cannot be sent as they are.

Each person who is given one has exactly one, and says in ``FakePerson.fault`` which column breaks which rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from api_pipeline.fake_ssd_values import FakeKind, FakePerson
from api_pipeline.ssd_tables import (
    AssessmentFactors,
    CinAssessment,
    CinEpisode,
    CinPlan,
    Person,
)

_Rows = dict[type[Any], list[Any]]
TWO_ROWS = "ssd_person.pers_person_id: two rows for one id"
_NOT_SENT = (FakeKind.PAST, FakeKind.TOO_OLD, FakeKind.UNDATED, FakeKind.UNBORN)


def with_fault(person: FakePerson, seed: int, share: float) -> FakePerson:
    """Return the person with one fault in ``share`` of the cases, always the same ones; else as it is."""
    draw = Random(-(seed * 2**32 + person.number) - 2**64)  # noqa: S311 - test data, nothing secret
    unlucky = draw.random() < share
    choice = _FAULTS[int(draw.random() * len(_FAULTS))]
    if not unlucky or person.kind in _NOT_SENT:
        return person
    rows = {row_class: list(found) for row_class, found in person.rows.items()}
    return replace(person, rows=rows, fault=choice(rows))


def _change(rows: _Rows, row_class: type[Any], column: str, old: str, new: str) -> None:
    index = row_class._fields.index(column)
    rows[row_class] = [
        row._replace(**{column: new}) if row[index] == old else row for row in rows.get(row_class, [])
    ]


def _legacy_id(rows: _Rows) -> str:
    (person,) = rows[Person]
    rows[Person] = [person._replace(pers_legacy_id=f"FAKE/MIS {person.pers_person_id}")]
    return "ssd_person.pers_legacy_id: a character that is not allowed"


def _two_rows(rows: _Rows) -> str:
    (person,) = rows[Person]
    rows[Person].append(person._replace(pers_person_id=f"{person.pers_person_id} "))
    return TWO_ROWS


def _newest_referral(rows: _Rows) -> str:
    referral: str = rows[CinEpisode][-1].cine_referral_id
    return referral


def _long_assessment_id(rows: _Rows) -> str:
    assessments = [
        row for row in rows.get(CinAssessment, []) if row.cina_referral_id == _newest_referral(rows)
    ]
    if not assessments:
        return _legacy_id(rows)
    old = assessments[-1].cina_assessment_id
    new = f"{old}-{'X' * 30}"
    _change(rows, CinAssessment, "cina_assessment_id", old, new)
    _change(rows, AssessmentFactors, "cinf_assessment_id", old, new)
    return "ssd_cin_assessments.cina_assessment_id: longer than 36 characters"


def _plan_without_id(rows: _Rows) -> str:
    plans = [row for row in rows.get(CinPlan, []) if row.cinp_referral_id == _newest_referral(rows)]
    if not plans:
        return _legacy_id(rows)
    _change(rows, CinPlan, "cinp_cin_plan_id", plans[0].cinp_cin_plan_id, " ")
    return "ssd_cin_plans.cinp_cin_plan_id: blank"


def _odd_referral_id(rows: _Rows) -> str:
    old = _newest_referral(rows)
    new = old.replace("-", ":")
    for row_class, found in rows.items():
        for column in row_class._fields:
            if column.endswith("_referral_id") and found:
                _change(rows, row_class, column, old, new)
    return "ssd_cin_episodes.cine_referral_id: a character that is not allowed"


_FAULTS: tuple[Callable[[_Rows], str], ...] = (
    _legacy_id,
    _two_rows,
    _long_assessment_id,
    _plan_without_id,
    _odd_referral_id,
)

"""Made-up children for ``fake-data``, ``demo``, the receiver's trials and the benchmarks.

Every child is recognisably invented: ids begin with FAKE, surnames end in ``(fake)``, postcodes lie in
ZZ99, which no street uses, and pupil numbers name an authority that does not exist. Apart from that the
records are shaped as an authority's would be (domain, section 4): all record types, names in many
scripts, typically 2 to 8 KB of JSON each.

The same seed gives the same children on every Python version and machine: only ``random``, ``randrange``
and ``choice`` of :class:`random.Random` are used, whose results are stable, and all dates are counted
from a fixed day. A child depends on the seed and its number alone, so the first rows of a long run are
the rows of a short one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

DEFAULT_SEED = 20250630
# The day on which every fake child is looked at; nothing in a record is later than a few months after it.
REFERENCE_DAY = date(2025, 6, 30)

# Escaped because the code base is ASCII: Welsh, Urdu, Polish, Bengali, an apostrophe, an emoji ...
FIRST_NAMES = (
    "Si\xe2n",
    "D'Arcy",
    "\u0639\u0627\u0626\u0634\u06c1",
    "\u0141ukasz",
    "\u0986\u09af\u09bc\u09c7\u09b6\u09be",
    "Ray \U0001f31f",
    "Grace",
    "Am\xe9lie-Rose",
    "Ng\u1ecdc \xc1nh",
    "\u041e\u043b\u0435\u043a\u0441\u0430\u043d\u0434\u0440\u0430",
    "\u96e8\u6850",
    "Muhammad",
    "\u0a39\u0a30\u0a2a\u0a4d\u0a30\u0a40\u0a24",
    "\u1eccl\xe1ol\xfawa",
    "Owain",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bbf\u0ba9\u0bbf",
    "\u0395\u03bb\u03ad\u03bd\u03b7",
    "Oliver",
    "\u05d0\u05d1\u05d9\u05d2\u05d9\u05dc",
    "Siobh\xe1n",
    "\u0645\u062d\u0645\u062f",
    "Amina",
    "\u0939\u0930\u0940\u0936",
    "\u10e5\u10d4\u10d7\u10d4\u10d5\u10d0\u10dc",
    "Ji-woo \uc9c0\uc6b0",
    "\u0218tefan",
    "Poppy",
)
SURNAMES = (
    "O'Brien",
    "Llywelyn",
    "Kowalska-Wi\u015bniewska",
    "\u062e\u0627\u0646",
    "Begum",
    "Smith",
    "N\xed Dhomhnaill",
    "\u09b0\u09b9\u09ae\u09be\u09a8",
    "Okonkwo",
    "Te\u00f3filo da Silva",
    "Jones",
    "St. John-Smythe",
    "van 't Hof",
)
_POSTCODES = ("ZZ99 1AA", "ZZ99 2BB", "ZZ99 3VZ", "ZZ99 4QQ", "ZZ99 9ZZ")
SEXES = "MFMFMFMFMFU"
ETHNICITIES = (
    "WBRI WBRI WBRI WBRI WIRI WIRT WOTH WROM MWBC MWBA MWAS MOTH AIND APKN ABAN AOTH CHNE BCRB BAFR BOTH "
    "OOTH REFU NOBT"
).split()
DISABILITIES = "MOB HAND PC INC COMM LD HEAR VIS BEH CON AUT DDA".split()
UPN_REASONS = "UN1 UN2 UN3 UN4 UN5 UN6 UN7 UN8 UN9 UN10".split()
REFERRAL_SOURCES = "1A 1B 1C 1D 2A 2B 3A 3B 3C 3D 3E 3F 4 5A 5B 5C 5D 6 7 8 9 10".split()
CLOSURES = "RC1 RC2 RC3 RC4 RC5 RC6 RC7 RC8 RC9".split()
FACTORS = "1A 1B 1C 2A 2B 3A 3B 4A 4B 5A 6A 7A 8B 9A 10A 12A 13A 16A 18A 19C 22A 24A".split()
PLACEMENTS = "U1 U2 U3 U4 U5 U6 K1 K2 R1 P1 P2 H5".split()
START_REASONS = "SLPTBU"
END_REASONS = "E3 E4A E4B E5 E8 E11 E13 X1".split()
CHANGE_REASONS = "CARPL CLOSE ALLEG STAND APPRR CREQB CREQO CHILD LAREQ PLACE CUSTOD OTHER".split()
ACTIVITIES = "F1 P1 F2 P2 F4 P4 F5 P5 G4 G5 G6".split()
ACCOMMODATION = "BCDEGHKRSTUV"

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FakeRow:
    """One row for a staging table of fake children.

    ``payload`` has its keys in the order of domain, section 4, ``la_child_id`` first. ``fault`` is the
    JSON path of the one structural fault that was asked for, empty for a sound child.
    """

    person_id: str
    legacy_id: str | None
    payload: _Json
    fault: str = ""

    @property
    def text(self) -> str:
        """The payload as the compact JSON text that the staging table holds."""
        return json.dumps(self.payload, ensure_ascii=False, separators=(",", ":"))


def fake_children(rows: int, seed: int = DEFAULT_SEED, *, fault_share: float = 0.0) -> Iterator[FakeRow]:
    """Yield ``rows`` fake children, one at a time, always the same ones for the same ``seed``.

    All of them are structurally sound and use known codes only, but for ``fault_share`` (0.0 to 1.0) of
    them, which get exactly one structural fault each.

    Raises:
        ValueError: if ``rows`` is negative or ``fault_share`` is not between 0 and 1.
    """
    if rows < 0:
        raise ValueError("rows must not be negative")
    if not 0.0 <= fault_share <= 1.0:
        raise ValueError("fault_share must be between 0 and 1")
    return (_row(seed, number, fault_share) for number in range(1, rows + 1))


def _row(seed: int, number: int, fault_share: float) -> FakeRow:
    # Two generators, so that asking for faults changes nothing about the sound children.
    child = _Child(Random(seed * 2**32 + number), number)  # noqa: S311 - test data, nothing secret
    row = child.row()
    faults = Random(-(seed * 2**32 + number) - 2**64)  # noqa: S311 - test data, nothing secret
    if faults.random() >= fault_share:
        return row
    return FakeRow(row.person_id, row.legacy_id, row.payload, faults.choice(_FAULTS)(row.payload))


class _Child:
    """Builds one child; holds its random numbers and counts its record ids."""

    def __init__(self, random: Random, number: int) -> None:
        self._random = random
        self._number = number
        self._records = 0

    def row(self) -> FakeRow:
        person_id = f"FAKE{self._number:06d}"
        legacy_id = None if self._chance(0.2) else f"FAKEMIS{self._number:06d}"
        payload: _Json = {"la_child_id": person_id}
        if legacy_id is not None:
            payload["mis_child_id"] = legacy_id
        payload["purge"] = False
        payload["child_details"] = self._details()
        payload["health_and_wellbeing"] = self._health()
        count = 1 + self._chance(0.6) + self._chance(0.3)
        payload["social_care_episodes"] = [self._episode(newest=index == 0) for index in range(count)]
        return FakeRow(person_id, legacy_id, payload)

    def _details(self) -> _Json:
        unborn = self._chance(0.03)
        born = self._day(6500, 30)
        details: _Json = {}
        if unborn or self._chance(0.1):
            details["unique_pupil_number_unknown_reason"] = self._one_of(UPN_REASONS)
        else:
            details["unique_pupil_number"] = self._pupil_number()
        if self._chance(0.08):
            details["former_unique_pupil_number"] = self._pupil_number()
        # Taken in turn, so that the first few children already show many scripts.
        details["first_name"] = FIRST_NAMES[(self._number - 1) % len(FIRST_NAMES)]
        details["surname"] = SURNAMES[(self._number - 1) % len(SURNAMES)] + " (fake)"
        if unborn:
            details["expected_date_of_birth"] = self._day(-1, -90)
        else:
            details["date_of_birth"] = born
        details["sex"] = "U" if unborn else self._one_of(SEXES)
        details["ethnicity"] = "NOBT" if unborn else self._one_of(ETHNICITIES)
        details["disabilities"] = self._some_of(DISABILITIES, 3) if self._chance(0.25) else ["NONE"]
        details["postcode"] = self._one_of(_POSTCODES)
        uasc = self._chance(0.04)
        details["uasc_flag"] = uasc
        if uasc and self._chance(0.5):
            details["uasc_end_date"] = self._day(900, 0)
        details["purge"] = False
        return details

    def _health(self) -> _Json:
        assessments = [
            {"date": self._day(1000, 0), "score": self._random.randrange(41)}
            for _ in range(self._random.randrange(4))
        ]
        return {"sdq_assessments": assessments, "purge": False}

    def _episode(self, *, newest: bool) -> _Json:
        episode: _Json = {
            "social_care_episode_id": self._id("EPI"),
            "referral_date": self._day(700, 300),
            "referral_source": self._one_of(REFERRAL_SOURCES),
            "referral_no_further_action_flag": self._chance(0.1),
        }
        if not newest or self._chance(0.2):
            episode["closure_date"] = self._day(90, 0)
            episode["closure_reason"] = self._one_of(CLOSURES)
        episode["care_worker_details"] = self._list(self._worker, 1, 3)
        episode["child_and_family_assessments"] = self._list(self._assessment, 1, 4)
        episode["child_in_need_plans"] = self._list(self._need_plan, 1, 3)
        episode["section_47_assessments"] = self._list(self._section_47, 0, 3)
        episode["child_protection_plans"] = self._list(self._protection_plan, 0, 2)
        episode["child_looked_after_placements"] = self._list(self._placement, 0, 8)
        if self._chance(0.15):
            episode["adoption"] = self._adoption()
        if self._chance(0.2):
            episode["care_leavers"] = self._care_leaver()
        episode["purge"] = False
        return episode

    def _worker(self) -> _Json:
        return self._ended(
            {"worker_id": f"SW{self._random.randrange(10**6):06d}", "start_date": self._day(700, 90)}
        )

    def _assessment(self) -> _Json:
        return {
            "child_and_family_assessment_id": self._id("CFA"),
            "start_date": self._day(700, 100),
            "authorisation_date": self._day(99, 0),
            "factors": self._some_of(FACTORS, 5),
            "purge": False,
        }

    def _need_plan(self) -> _Json:
        plan = {"child_in_need_plan_id": self._id("CIN"), "start_date": self._day(700, 90)}
        return self._ended(plan) | {"purge": False}

    def _section_47(self) -> _Json:
        conference = self._chance(0.5)
        assessment: _Json = {
            "section_47_assessment_id": self._id("S47"),
            "start_date": self._day(700, 90),
            "icpc_required_flag": conference,
        }
        if conference:
            assessment["icpc_date"] = self._day(89, 0)
        return self._ended(assessment) | {"purge": False}

    def _protection_plan(self) -> _Json:
        plan = {"child_protection_plan_id": self._id("CPP"), "start_date": self._day(700, 90)}
        return self._ended(plan) | {"purge": False}

    def _placement(self) -> _Json:
        placement: _Json = {
            "child_looked_after_placement_id": self._id("CLA"),
            "start_date": self._day(700, 90),
            "start_reason": self._one_of(START_REASONS),
            "placement_type": self._one_of(PLACEMENTS),
            "postcode": self._one_of(_POSTCODES),
        }
        if self._chance(0.7):
            placement["end_date"] = self._day(89, 0)
            placement["end_reason"] = self._one_of(END_REASONS)
            placement["change_reason"] = self._one_of(CHANGE_REASONS)
        placement["purge"] = False
        return placement

    def _adoption(self) -> _Json:
        record: _Json = {"initial_decision_date": self._day(600, 300), "matched_date": self._day(299, 100)}
        if self._chance(0.5):
            record["placed_date"] = self._day(99, 0)
        return record | {"purge": False}

    def _care_leaver(self) -> _Json:
        return {
            "contact_date": self._day(200, 0),
            "activity": self._one_of(ACTIVITIES),
            "accommodation": self._one_of(ACCOMMODATION),
            "purge": False,
        }

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _one_of(self, values: str | list[str] | tuple[str, ...]) -> str:
        return self._random.choice(values)

    def _some_of(self, values: list[str], most: int) -> list[str]:
        """Return 1 to ``most`` neighbouring values: different ones, in the order of the list."""
        count = 1 + self._random.randrange(most)
        start = self._random.randrange(len(values) - count + 1)
        return values[start : start + count]

    def _day(self, oldest: int, newest: int) -> str:
        """Return a day between ``oldest`` and ``newest`` days before the reference day."""
        ago = newest + self._random.randrange(oldest - newest + 1)
        return (REFERENCE_DAY - timedelta(days=ago)).isoformat()

    def _ended(self, record: _Json) -> _Json:
        """Add an ``end_date`` to most records; the others are still open."""
        if self._chance(0.6):
            record["end_date"] = self._day(89, 0)
        return record

    def _pupil_number(self) -> str:
        return f"X999{self._random.randrange(10**9):09d}"

    def _id(self, kind: str) -> str:
        self._records += 1
        return f"FAKE-{kind}-{self._number:06d}-{self._records:03d}"

    def _list(self, make: Callable[[], _Json], least: int, most: int) -> list[_Json]:
        return [make() for _ in range(least + self._random.randrange(most - least + 1))]


def _impossible_birthday(payload: _Json) -> str:
    payload["child_details"]["date_of_birth"] = "2015-02-30"
    return "$.child_details.date_of_birth"


def _unknown_sex(payload: _Json) -> str:
    payload["child_details"]["sex"] = "X"
    return "$.child_details.sex"


def _short_pupil_number(payload: _Json) -> str:
    payload["child_details"]["unique_pupil_number"] = "X999"
    return "$.child_details.unique_pupil_number"


def _long_postcode(payload: _Json) -> str:
    payload["child_details"]["postcode"] = "ZZ99  1AA"
    return "$.child_details.postcode"


def _missing_episode_id(payload: _Json) -> str:
    del payload["social_care_episodes"][0]["social_care_episode_id"]
    return "$.social_care_episodes[0].social_care_episode_id"


def _text_for_flag(payload: _Json) -> str:
    payload["social_care_episodes"][0]["referral_no_further_action_flag"] = "Y"
    return "$.social_care_episodes[0].referral_no_further_action_flag"


def _high_score(payload: _Json) -> str:
    payload["health_and_wellbeing"]["sdq_assessments"] = [{"date": "2025-01-31", "score": 41}]
    return "$.health_and_wellbeing.sdq_assessments[0].score"


_FAULTS = (
    _impossible_birthday,
    _unknown_sex,
    _short_pupil_number,
    _long_postcode,
    _missing_episode_id,
    _text_for_flag,
    _high_score,
)

"""Promises of ssd_payload.py and ssd_mapping.py: which rows give which payload, in which order."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.semantic import semantic_hash
from api_pipeline.ssd_mapping import RECORD_MAPS, mapping_table
from api_pipeline.ssd_payload import PayloadBuilder, text_of
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
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
    Kind,
    LinkedIdentifier,
    Permanence,
    Person,
    Professional,
    S47Enquiry,
    SdqScore,
    SourcePage,
)
from api_pipeline.ssd_window import Window
from api_pipeline.validation import check_text
from tests.strategies import FIELDS

D = datetime
WINDOW = Window.of(date(2025, 11, 20), 24)  # from 1 April 2023 to 21 November 2025
BEFORE, EARLY, LATE, AFTER = D(2023, 3, 31, 23), D(2024, 1, 1), D(2025, 1, 1), D(2025, 11, 21, 1)
P1 = Person("P1", None, None, None, None, None, None, None, None, None)
R1 = CinEpisode("R1", "P1", EARLY, None, None, None, None)
Json = dict[str, Any]


def page_of(rows: Sequence[Any]) -> SourcePage:
    """Return a page that holds ``rows``."""
    tables: dict[type[Any], list[Any]] = defaultdict(list)
    for row in rows:
        tables[type(row)].append(row)
    return SourcePage(tables)


def built(*rows: Any, rules: Sequence[str] = (), workers: dict[str, list[str]] | None = None) -> Json:
    """Return the payload of P1, and assert that just these rules were counted, in any order of the rows."""
    found = []
    for order in (rows, rows[::-1]):
        builder = PayloadBuilder(WINDOW, workers or {}, None)
        person = next((row for row in rows if isinstance(row, Person)), P1)
        found.append(builder.build(person, page_of(order)))
        assert builder.tally == Counter(rules)
    assert text_of(found[0]) == text_of(found[1])
    return found[0]


def episode(*rows: Any, rules: Sequence[str] = (), workers: dict[str, list[str]] | None = None) -> Json:
    """Return the episode R1 of P1, which is open and overlaps the window."""
    (only,) = built(R1, *rows, rules=rules, workers=workers)["social_care_episodes"]
    assert only["social_care_episode_id"] == "R1"
    return only  # type: ignore[no-any-return]


# --- The whole -------------------------------------------------------------------------------------------

FULL_ROWS = [
    Person("P1", "M1", "A123456789012", "UN1", "Ann", "Oak", "F", "WBRI", D(2012, 2, 29), D(2012, 3, 1)),
    LinkedIdentifier("P1", "Former Unique Pupil Number", "B123456789012", None),
    Address("P1", "AB1 2CD", None),
    Disability("P1", "MOB"),
    ImmigrationStatus("P1", "UASC", None, LATE),
    SdqScore("P1", LATE, 12),
    CinEpisode("R1", "P1", EARLY, "1A", "N", LATE, "RC1"),
    CinAssessment("A1", "P1", "R1", EARLY, LATE),
    AssessmentFactors("A1", '["2A"]'),
    CinPlan("C1", "R1", "P1", EARLY, LATE),
    S47Enquiry("S1", "R1", "P1", EARLY, LATE, '{"CP_CONFERENCE_FLAG": "Y"}'),
    InitialCpConference("S1", LATE),
    CpPlan("K1", "R1", "P1", EARLY, LATE),
    ClaEpisode("E1", "P1", "L1", "R1", "S", "E1"),
    ClaPlacement("X1", "L1", EARLY, LATE, "U4", "AB1 2CE", "CARPL"),
    Permanence("P1", None, EARLY, EARLY, LATE),
    CareLeaver("P1", LATE, "F1", "B"),
    Involvement("W1", "R1", "CW", EARLY, LATE),
]

FULL_TEXT = (
    '{"la_child_id":"P1","mis_child_id":"M1","purge":false,"child_details":{'
    '"unique_pupil_number":"A123456789012","former_unique_pupil_number":"B123456789012",'
    '"unique_pupil_number_unknown_reason":"UN1","first_name":"Ann","surname":"Oak",'
    '"date_of_birth":"2012-02-29","expected_date_of_birth":"2012-03-01","sex":"F","ethnicity":"WBRI",'
    '"disabilities":["MOB"],"postcode":"AB1 2CD","uasc_flag":true,"uasc_end_date":"2025-01-01",'
    '"purge":false},"health_and_wellbeing":{"sdq_assessments":[{"date":"2025-01-01","score":12}],'
    '"purge":false},"social_care_episodes":[{"social_care_episode_id":"R1","referral_date":"2024-01-01",'
    '"referral_source":"1A","closure_date":"2025-01-01","closure_reason":"RC1",'
    '"referral_no_further_action_flag":false,"child_and_family_assessments":[{'
    '"child_and_family_assessment_id":"A1","start_date":"2024-01-01","authorisation_date":"2025-01-01",'
    '"factors":["2A"],"purge":false}],"child_in_need_plans":[{"child_in_need_plan_id":"C1",'
    '"start_date":"2024-01-01","end_date":"2025-01-01","purge":false}],"section_47_assessments":[{'
    '"section_47_assessment_id":"S1","start_date":"2024-01-01","icpc_required_flag":true,'
    '"icpc_date":"2025-01-01","end_date":"2025-01-01","purge":false}],"child_protection_plans":[{'
    '"child_protection_plan_id":"K1","start_date":"2024-01-01","end_date":"2025-01-01","purge":false}],'
    '"child_looked_after_placements":[{"child_looked_after_placement_id":"X1","start_date":"2024-01-01",'
    '"start_reason":"S","postcode":"AB1 2CE","placement_type":"U4","end_date":"2025-01-01",'
    '"end_reason":"E1","change_reason":"CARPL","purge":false}],"adoption":{'
    '"initial_decision_date":"2024-01-01","matched_date":"2024-01-01","placed_date":"2025-01-01",'
    '"purge":false},"care_leavers":{"contact_date":"2025-01-01","activity":"F1","accommodation":"B",'
    '"purge":false},"care_worker_details":[{"worker_id":"SW1","start_date":"2024-01-01",'
    '"end_date":"2025-01-01"}],"purge":false}]}'
)


def test_every_field_stands_where_the_specification_has_it() -> None:
    """The text is compact, its keys in the stated order, and passes the validation without a warning."""
    text = text_of(built(*FULL_ROWS, workers={"W1": [" SW1 "]}))
    assert text == FULL_TEXT
    assert check_text(text).findings == ()


def test_every_field_of_the_payload_is_mapped() -> None:
    """The mapping names each field of the record schema but the purge flags, and no other."""
    schema = {field.path.removesuffix("[]") for field in FIELDS if not field.path.endswith("purge")}
    mapped = {path for path, _, _ in mapping_table() if not path.endswith("[]")}
    records = {record.path or "(the child)" for record in RECORD_MAPS}
    assert mapped - records == schema


def test_documentation_names_a_column_and_a_rule_for_each_field() -> None:
    """What the table of the documentation is made from is complete, and plain text."""
    known = {f"{table.name}.{column}" for table in SOURCE_TABLES for column in table.columns}
    fields = [line for line in mapping_table() if "." in line[1]]
    assert len(fields) == sum(len(record.fields) for record in RECORD_MAPS)
    for path, sources, rule in fields:
        assert set(sources.split(", ")) <= known, path
        assert rule.isascii()
        assert len(rule) > 5


def test_what_is_unknown_is_left_out() -> None:
    """A person of whom nothing is known has the fields that always are there, and no empty list."""
    assert built() == {
        "la_child_id": "P1",
        "purge": False,
        "child_details": {"sex": "U", "disabilities": ["NONE"], "uasc_flag": False, "purge": False},
    }


def test_text_keeps_every_script_as_it_is() -> None:
    """Nothing is escaped that JSON does not ask for."""
    payload = built(P1._replace(pers_forename=" Zo\u00eb \u0639 ", pers_surname='O"Brien'))
    assert '"first_name":"Zo\u00eb \u0639","surname":"O\\"Brien"' in text_of(payload)


def test_ids_are_trimmed_for_the_payload_and_joined_as_they_stand() -> None:
    """A blank at the end of an id in one table only makes two ids of it."""
    rows = [
        P1._replace(pers_person_id="P1 "),
        R1._replace(cine_person_id="P1 ", cine_referral_id="R1 "),
        CpPlan(" K1", "R1 ", None, EARLY, None),
        CpPlan("K2", "R1", None, EARLY, None),
        Disability("P1", "MOB"),
    ]
    payload = built(*rows)
    assert payload["la_child_id"] == "P1"
    assert payload["child_details"]["disabilities"] == ["NONE"]
    (only,) = payload["social_care_episodes"]
    assert only["social_care_episode_id"] == "R1"
    assert [plan["child_protection_plan_id"] for plan in only["child_protection_plans"]] == ["K1"]


def test_over_long_ids_are_left_to_the_validation() -> None:
    """A cut id could be another record's; a whole one is reported."""
    long = "R" * 40
    text = text_of(built(R1._replace(cine_referral_id=long)))
    assert long in text
    assert [finding.rule for finding in check_text(text).errors] == ["max_length"]


def test_records_without_an_id_stay_and_are_never_equal() -> None:
    """The validation then names them; those that are alike are sorted by their content."""
    plans = [CpPlan(key, "R1", None, EARLY, end) for key, end in [(None, LATE), (" ", EARLY), ("K1", LATE)]]
    listed = episode(*plans)["child_protection_plans"]
    assert [(plan.get("child_protection_plan_id"), plan["end_date"]) for plan in listed] == [
        ("K1", "2025-01-01"),
        (None, "2024-01-01"),
        (None, "2025-01-01"),
    ]


def test_episode_without_a_referral_id_has_no_records() -> None:
    """NULL joins nothing, not even NULL."""
    rows = [R1._replace(cine_referral_id=None), CpPlan("K1", None, "P1", EARLY, None)]
    assert built(*rows)["social_care_episodes"] == [{"referral_date": "2024-01-01", "purge": False}]


def test_records_of_a_referral_count_whoever_they_name() -> None:
    """The referral id alone decides."""
    assert episode(CpPlan("K1", "R1", "P2", EARLY, None))["child_protection_plans"]


# --- Health ----------------------------------------------------------------------------------------------


def test_scores_are_those_in_the_window_newest_first() -> None:
    """Of one day the smaller score comes first; a time of day makes one newer."""
    scores: list[tuple[datetime | None, Any]]
    scores = [(EARLY, 3), (LATE, 9), (LATE, "4"), (D(2025, 1, 1, 9), 11), (BEFORE, 1), (AFTER, 2), (None, 5)]
    payload = built(*(SdqScore("P1", moment, score) for moment, score in scores))
    found = payload["health_and_wellbeing"]["sdq_assessments"]
    assert [entry["score"] for entry in found] == [11, 4, 9, 3]


def test_score_that_is_none_takes_its_entry_with_it() -> None:
    """Without an entry left there is no health record either; a score outside the window is not counted."""
    rule = "SDQ score that is no whole number of 0 to 40 left out with its entry"
    assert "health_and_wellbeing" not in built(SdqScore("P1", LATE, "high"), rules=[rule])
    assert "health_and_wellbeing" not in built(SdqScore("P1", LATE, None), SdqScore("P1", BEFORE, "high"))
    found = built(SdqScore("P1", LATE, 41), SdqScore("P1", EARLY, 1), rules=[rule])["health_and_wellbeing"]
    assert found == {"sdq_assessments": [{"date": "2024-01-01", "score": 1}], "purge": False}


# --- Episodes --------------------------------------------------------------------------------------------


def _ids(records: list[Json]) -> list[str]:
    return [next(iter(record.values())) for record in records]


def test_episodes_overlap_the_window_and_come_oldest_first() -> None:
    """By the unrounded moment of the referral, then by id."""
    rows = [
        CinEpisode("R1", "P1", LATE, None, None, None, None),
        CinEpisode("R4", "P1", EARLY, None, None, LATE, None),
        CinEpisode("R3", "P1", EARLY, None, None, None, None),
        CinEpisode("R2", "P1", D(2024, 1, 1, 0, 1), None, None, None, None),
        CinEpisode("R5", "P1", BEFORE, None, None, BEFORE, None),
        CinEpisode("R6", "P1", AFTER, None, None, None, None),
        CinEpisode("R7", "P1", None, None, None, None, None),
        CinEpisode("R8", "P2", EARLY, None, None, None, None),
    ]
    assert _ids(built(*rows)["social_care_episodes"]) == ["R3", "R4", "R2", "R1"]


def test_of_equal_episodes_the_latest_referral_stays() -> None:
    """Ids that are equal after trimming are one; of one start, the first by content."""
    rule = ["equal ids united: episodes"]
    later = CinEpisode("R1 ", "P1", LATE, None, None, None, None)
    (kept,) = built(R1, later, rules=rule)["social_care_episodes"]
    assert kept["referral_date"] == "2025-01-01"
    sourced = R1._replace(cine_referral_source_code="1A")
    (kept,) = built(R1, sourced, rules=rule)["social_care_episodes"]
    assert kept["referral_source"] == "1A"  # what is absent comes last


def test_equal_episodes_that_differ_in_their_records_alone_have_an_order_too() -> None:
    """Two raw ids, one start, the same fields: the records below decide."""
    plans = [CpPlan("K1", "R1", None, EARLY, None), CpPlan("K2", "R1 ", None, EARLY, None)]
    other = R1._replace(cine_referral_id="R1 ")
    (kept,) = built(R1, other, *plans, rules=["equal ids united: episodes"])["social_care_episodes"]
    assert _ids(kept["child_protection_plans"]) == ["K1"]


def test_equal_ids_outside_the_window_do_not_compete() -> None:
    """Only records that belong into the list are united."""
    plans = [CpPlan("K1", "R1", None, EARLY, LATE), CpPlan("K1", "R1", None, AFTER, None)]
    assert episode(*plans)["child_protection_plans"][0]["start_date"] == "2024-01-01"


# --- Assessments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "authorised", "there"),
    [
        (EARLY, None, True),
        (BEFORE, EARLY, True),
        (None, LATE, True),
        (BEFORE, None, False),
        (BEFORE, AFTER, False),
        (None, None, False),
    ],
)
def test_assessment_is_there_if_it_started_or_was_authorised_in_the_window(
    start: datetime | None, authorised: datetime | None, there: bool
) -> None:
    """That it went on for the whole of it does not count."""
    found = episode(CinAssessment("A1", "P1", "R1", start, authorised))
    assert ("child_and_family_assessments" in found) is there


def test_assessment_always_has_factors() -> None:
    """An empty list where there are none: the one empty list that is sent."""
    (found,) = episode(CinAssessment("A1", "P1", "R1", EARLY, None))["child_and_family_assessments"]
    assert found["factors"] == []


def test_assessments_come_oldest_first_without_a_start_before_all() -> None:
    """Then by id."""
    starts = {"D": LATE, "C": EARLY, "B": EARLY, "A": None}
    rows = [CinAssessment(key, "P1", "R1", start, LATE) for key, start in starts.items()]
    assert _ids(episode(*rows)["child_and_family_assessments"]) == ["A", "B", "C", "D"]


def test_factors_of_equal_assessments_are_united() -> None:
    """The latest start gives the rest."""
    rows = [
        CinAssessment("A1", "P1", "R1", EARLY, LATE),
        CinAssessment("A1 ", "P1", "R1", LATE, None),
        AssessmentFactors("A1", '["3B", "2A", "3B"]'),
        AssessmentFactors("A1 ", '["4C", "2A"]'),
    ]
    (found,) = episode(*rows, rules=["equal ids united: assessments"])["child_and_family_assessments"]
    assert found["factors"] == ["2A", "3B", "4C"]
    assert found["start_date"] == "2025-01-01"
    assert "authorisation_date" not in found


# --- Section 47 ------------------------------------------------------------------------------------------


def test_enquiry_counts_by_its_dates_or_by_its_latest_conference() -> None:
    """An earlier conference in the window does not count where a later one lies beyond."""
    rows = [
        S47Enquiry("S1", "R1", "P1", EARLY, None, None),
        S47Enquiry("S2", "R1", "P1", BEFORE, BEFORE, None),
        InitialCpConference("S2", LATE),
        InitialCpConference("S2", EARLY),
        S47Enquiry("S3", "R1", "P1", BEFORE, BEFORE, None),
        InitialCpConference("S3", EARLY),
        InitialCpConference("S3", AFTER),
        S47Enquiry("S4", "R1", "P1", None, None, None),
        InitialCpConference("S4", EARLY),
        S47Enquiry("S5", "R1", "P1", None, None, None),
    ]
    found = episode(*rows)["section_47_assessments"]
    assert _ids(found) == ["S4", "S2", "S1"]
    assert [item.get("icpc_date") for item in found] == ["2024-01-01", "2025-01-01", None]


# --- Placements ------------------------------------------------------------------------------------------

CLA = ClaEpisode("E1", "P1", "L1", "R1", "S", None)
PLACED = ClaPlacement("X1", "L1", EARLY, None, None, None, None)


def test_placements_belong_to_the_referral_by_the_cla_id_and_come_newest_first() -> None:
    """Two CLA episodes with one CLA id do not double a placement; equal starts go by id."""
    rows = [
        CLA,
        CLA._replace(clae_cla_episode_id="E2", clae_person_id="P2"),
        CLA._replace(clae_cla_episode_id="E3", clae_cla_id="L2"),
        CLA._replace(clae_cla_episode_id="E4", clae_cla_id="L3", clae_referral_id="R2"),
        CLA._replace(clae_cla_episode_id="E5", clae_cla_id=None),
        PLACED,
        PLACED._replace(clap_cla_placement_id="X0"),
        PLACED._replace(clap_cla_placement_id="X2", clap_cla_id="L2", clap_cla_placement_start_date=LATE),
        PLACED._replace(clap_cla_placement_id="X3", clap_cla_id="L3"),
        PLACED._replace(clap_cla_placement_id="X4", clap_cla_id=None),
        PLACED._replace(clap_cla_placement_id="X5", clap_cla_placement_end_date=BEFORE),
    ]
    assert _ids(episode(*rows)["child_looked_after_placements"]) == ["X2", "X0", "X1"]


def test_reasons_are_those_of_the_cla_id_within_the_referral() -> None:
    """Other referrals and other CLA ids do not count."""
    rows = [
        CLA._replace(clae_cla_episode_start_reason="T", clae_cla_episode_ceased_reason="X1"),
        CLA._replace(clae_cla_episode_start_reason="S", clae_cla_episode_ceased_reason="E4"),
        CLA._replace(clae_cla_episode_start_reason="B", clae_referral_id="R2"),
        CLA._replace(clae_cla_episode_start_reason="B", clae_cla_id="L2"),
        PLACED,
    ]
    (found,) = episode(*rows)["child_looked_after_placements"]
    assert (found["start_reason"], found["end_reason"]) == ("S", "E4")


def test_placement_id_comes_once() -> None:
    """The latest start stays, under whichever CLA id it stands."""
    rows = [CLA, CLA._replace(clae_cla_id="L2", clae_cla_episode_start_reason="P"), PLACED]
    later = PLACED._replace(clap_cla_id="L2", clap_cla_placement_start_date=LATE)
    (found,) = episode(*rows, later, rules=["equal ids united: placements"])["child_looked_after_placements"]
    assert (found["start_date"], found["start_reason"]) == ("2025-01-01", "P")


# --- Adoption and care leavers ---------------------------------------------------------------------------


def test_adoption_is_the_latest_by_placed_matched_decision() -> None:
    """Of the rows with a date in the window; the first known date decides, even beyond the window."""
    rows = [
        Permanence("P1", None, EARLY, LATE, None),
        Permanence("P1", None, LATE, None, EARLY),
        Permanence("P1", None, AFTER, None, None),
        Permanence("P2", "L1", LATE, None, AFTER),
        Permanence("P2", "L2", LATE, LATE, LATE),
        Permanence("P2", None, LATE, LATE, LATE),
    ]
    mine = [CLA, CLA._replace(clae_cla_id=None), CLA._replace(clae_cla_id="L2", clae_person_id="P2")]
    assert episode(*rows[:3])["adoption"] == {
        "initial_decision_date": "2024-01-01",
        "matched_date": "2025-01-01",
        "purge": False,
    }
    assert episode(*rows, *mine)["adoption"]["placed_date"] == "2025-11-21"
    assert "adoption" not in episode(rows[2])


def test_adoption_goes_by_placement_before_match_before_decision() -> None:
    """Of each row only the first known counts, though another of its dates may be later."""
    placed, matched = (
        Permanence("P1", None, None, LATE, EARLY),
        Permanence("P1", None, LATE, D(2024, 2, 1), None),
    )
    decided = Permanence("P1", None, D(2024, 3, 1), None, None)
    assert episode(placed, matched)["adoption"]["matched_date"] == "2024-02-01"
    assert episode(placed, matched, decided)["adoption"]["initial_decision_date"] == "2024-03-01"


def test_of_equally_late_adoptions_the_first_by_content_goes() -> None:
    """What is absent comes last."""
    rows = [Permanence("P1", None, None, None, LATE), Permanence("P1", None, EARLY, None, LATE)]
    assert episode(*rows)["adoption"]["initial_decision_date"] == "2024-01-01"


def test_adoption_and_care_leaver_are_the_same_in_every_episode() -> None:
    """They are the person's."""
    rows = [R1, R1._replace(cine_referral_id="R2"), Permanence("P1", None, LATE, None, None)]
    one, two = built(*rows, CareLeaver("P1", BEFORE, None, None))["social_care_episodes"]
    assert one["adoption"] == two["adoption"] == {"initial_decision_date": "2025-01-01", "purge": False}
    assert one["care_leavers"] == two["care_leavers"] == {"contact_date": "2023-03-31", "purge": False}


def test_care_leaver_is_the_latest_contact_whatever_its_date() -> None:
    """No date is the oldest; if nothing is known there is none."""
    rows = [
        CareLeaver("P1", moment, code, None) for moment, code in [(None, "P1"), (EARLY, "F2"), (LATE, None)]
    ]
    assert episode(*rows)["care_leavers"] == {"contact_date": "2025-01-01", "purge": False}
    assert episode(rows[0])["care_leavers"] == {"activity": "P1", "purge": False}
    assert "care_leavers" not in episode(CareLeaver("P1", None, " ", None))
    same = CareLeaver("P1", LATE, "F4 full", "B")
    cut = "care leaver activity cut to 2 characters"
    assert episode(*rows, same, rules=[cut])["care_leavers"]["activity"] == "F4"


# --- Care workers ----------------------------------------------------------------------------------------

PLAN = CinPlan("C1", "R1", "P1", EARLY, None)
WORKERS = {"W1": ["SW1"], "W2": ["SW2", "SW0"], "W3": ["SW3" * 5], "W4": [" "], "": ["SW9"]}


def workers(*rows: Any, rules: Sequence[str] = ()) -> list[Json]:
    """Return the workers of R1, which has a plan."""
    found = episode(PLAN, *rows, workers=WORKERS, rules=rules)
    return found.get("care_worker_details", [])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("start", "end", "there"),
    [
        (EARLY, None, True),
        (D(2024, 3, 31, 18), D(2024, 3, 31, 9), True),  # by the date alone
        (D(2024, 4, 1), D(2025, 3, 30, 23), False),
        (D(2024, 4, 1), D(2025, 3, 31), True),
        (D(2010, 1, 1), D(2024, 3, 30), False),
        (D(2010, 1, 1), D(2024, 3, 31), True),
        (D(2025, 4, 1), None, False),
        (None, None, False),
    ],
)
def test_worker_counts_on_a_31_march_in_the_window(
    start: datetime | None, end: datetime | None, there: bool
) -> None:
    """31 March 2024 and 2025 lie in it; an involvement without a start counts for nothing."""
    assert bool(workers(Involvement("W1", "R1", "CW", start, end))) is there


@pytest.mark.parametrize(
    ("role", "professional", "there"),
    [
        (" cw ", "W1", True),
        ("CWX", "W1", False),
        (None, "W1", False),
        ("CW", "W9", False),
        ("CW", None, False),
        ("CW", "W1 ", False),
        ("CW", "W4", False),
    ],
)
def test_worker_has_the_role_cw_and_a_known_id(
    role: str | None, professional: str | None, there: bool
) -> None:
    """Other roles, other professionals and blank ids give no worker."""
    assert bool(workers(Involvement(professional, "R1", role, EARLY, None))) is there


def test_workers_need_a_plan_that_overlaps() -> None:
    """Whoever the plan names."""
    involvement = Involvement("W1", "R1", "CW", EARLY, None)
    assert "care_worker_details" not in episode(involvement, workers=WORKERS)
    gone = PLAN._replace(cinp_cin_plan_end_date=BEFORE)
    assert "care_worker_details" not in episode(involvement, gone, workers=WORKERS)
    assert episode(involvement, PLAN._replace(cinp_person_id="P2"), workers=WORKERS)["care_worker_details"]


def test_workers_come_newest_first_and_may_come_twice() -> None:
    """Two rows of a professional give an entry each; what ties goes by id, then by end, none last."""
    rows = [
        Involvement("W1", "R1", "CW", EARLY, None),
        Involvement("W1", "R1", "CW", EARLY, LATE),
        Involvement("W2", "R1", "CW", D(2024, 2, 1), None),
    ]
    found = [(entry["worker_id"], entry.get("end_date")) for entry in workers(*rows)]
    assert found == [("SW0", None), ("SW2", None), ("SW1", "2025-01-01"), ("SW1", None)]


def test_worker_id_that_is_too_long_takes_its_entry_with_it() -> None:
    """The validation would refuse the child otherwise."""
    rows = [Involvement("W3", "R1", "CW", EARLY, None), Involvement("W1", "R1", "CW", EARLY, None)]
    rule = "worker id over 12 characters left out with its entry"
    assert [entry["worker_id"] for entry in workers(*rows, rules=[rule])] == ["SW1"]


# --- Laws ------------------------------------------------------------------------------------------------

_MOMENTS = [None, BEFORE, D(2023, 4, 1), EARLY, D(2024, 1, 1, 9), LATE, D(2025, 11, 21), AFTER, D(1997, 4, 2)]
_TEXTS = [None, " ", "M", "u", "Not UASC", "UASC ", "1A - self", "CW", "RC1", "AB1 2CD", "AB1  2CD  9", "un3"]
_TEXTS += ["A123456789012", "Former Unique Pupil Number", "B12345678901\u00e9", "2A", "x  y", "\u0639" * 8]
_JSONS = ['["2A", " 3B "]', '["2A"', '[1, "2A"]', "null", '{"CP_CONFERENCE_FLAG": "Y"}', '{"A": 1}', '["3B"]']
_VALUES = [None, "Y", "0", 1, 7, 41, "12", "x", True, 3.0, ""]
_SANE_IDS = {
    "person": ["P1", "P1", "P1", "P2"],
    "referral": ["R1", "R1", "R2"],
    "cla_id": ["L1", "L2"],
}
_ODD_IDS = [None, " ", "P1 ", "R1 ", " A1"]


def _values_of(column: str, kind: Kind, odd: bool) -> list[Any]:
    if kind is Kind.MOMENT:
        return _MOMENTS
    if kind is Kind.VALUE:
        return _VALUES
    if kind is Kind.TEXT:
        return _JSONS if column.endswith("json") else _TEXTS
    ids = next((ids for part, ids in _SANE_IDS.items() if part in column), ["A1", "A2", "A3"])
    return ids + _ODD_IDS if odd else ids


_CHILD_TABLES = [table for table in SOURCE_TABLES if table.row not in {Person, Professional}]


def _rows_of(seed: int, size: int, *, odd: bool) -> list[Any]:
    source = random.Random(seed)
    rows = []
    for table in source.choices(_CHILD_TABLES, k=size):
        pools = (_POOLS[odd, table.row][name] for name in table.columns)
        rows.append(table.row._make(source.choice(pool) for pool in pools))
    return rows


_POOLS = {
    (odd, table.row): {name: _values_of(name, spec.kind, odd) for name, spec in table.columns.items()}
    for table in SOURCE_TABLES
    for odd in (False, True)
}


def _rows(*, odd: bool) -> st.SearchStrategy[list[Any]]:
    """Rows of any tables that have much in common, so that they join, tie and come twice."""
    return st.builds(_rows_of, st.integers(), st.integers(0, 60), odd=st.just(odd))


def _person_of(seed: int) -> Person:
    source = random.Random(seed)
    texts = [source.choice(_TEXTS) for _ in range(6)]
    moments = [source.choice(_MOMENTS) for _ in range(2)]
    return Person._make(["P1", source.choice([None, "M1"]), *texts, *moments])


_PEOPLE = st.builds(_person_of, st.integers())
_LAW_WORKERS = {"A1": ["SW1", "SW0"], "A2": ["SW2"], " ": ["SW3"]}


def _text_and_tally(person: Person, rows: Sequence[Any]) -> tuple[str, Counter[str]]:
    builder = PayloadBuilder(WINDOW, _LAW_WORKERS, None)
    return text_of(builder.build(person, page_of(rows))), builder.tally


@given(_PEOPLE, _rows(odd=True), st.integers())
def test_order_of_the_rows_never_matters(person: Person, rows: list[Any], seed: int) -> None:
    """The same data always gives the same text and the same counts, whatever the data."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert _text_and_tally(person, shuffled) == _text_and_tally(person, rows)


@given(_PEOPLE, _rows(odd=False))
def test_payload_of_well_formed_ids_passes_the_validation(person: Person, rows: list[Any]) -> None:
    """Whatever else the source holds, no structural rule is broken."""
    sane = person._replace(pers_upn=None) if "\u00e9" in str(person.pers_upn) else person
    text, _ = _text_and_tally(sane, rows)
    assert check_text(text).errors == ()
    assert list(json.loads(text))[:1] == ["la_child_id"]


_COLUMNS = {table.row: list(table.columns.values()) for table in SOURCE_TABLES}


def _with_other_ids(row: Any) -> Any:
    pairs = zip(row, _COLUMNS[type(row)], strict=True)
    return row._make(f"{value}x" if value and spec.kind is Kind.ID else value for value, spec in pairs)


@given(_PEOPLE, _rows(odd=True), _rows(odd=True))
def test_rows_of_others_never_matter(person: Person, rows: list[Any], others: list[Any]) -> None:
    """A page holds many people; one builder builds them all, and page after page."""
    foreign = [_with_other_ids(row) for row in others]
    builder = PayloadBuilder(WINDOW, _LAW_WORKERS, None)
    builder.build(person, page_of(others))
    payload = builder.build(person, page_of([*foreign, *rows]))
    assert text_of(payload) == _text_and_tally(person, rows)[0]


@given(_PEOPLE, _rows(odd=False))
def test_ids_that_churn_overnight_are_no_change(person: Person, rows: list[Any]) -> None:
    """Assessments under new ids that sort the other way round give the same semantic hash."""
    churn = {"A1": "Z3", "A2": "Z2", "A3": "Z1"}

    def renamed(row: Any) -> Any:
        if type(row) not in {CinAssessment, AssessmentFactors}:
            return row
        return row._make([churn.get(row[0], row[0]), *row[1:]])

    builder = PayloadBuilder(WINDOW, _LAW_WORKERS, None)
    before = semantic_hash(builder.build(person, page_of(rows)))
    assert semantic_hash(builder.build(person, page_of([renamed(row) for row in rows]))) == before

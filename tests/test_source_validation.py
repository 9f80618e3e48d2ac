"""``validate --source`` names, by rule, what in the SSD would break a payload, and shows nothing but ids."""

from __future__ import annotations

import json
import threading
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import inspection, ssd_provision
from api_pipeline.errors import ConfigError, DatabaseError, ExitCode, InterruptedRun
from api_pipeline.progress import Progress
from api_pipeline.source_dates import DATE_PAIRS, reversed_dates
from api_pipeline.source_validation import SourceReport, validate_source
from api_pipeline.ssd_source import SsdSource
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    AssessmentFactors,
    CinAssessment,
    CinEpisode,
    CinPlan,
    InitialCpConference,
    Involvement,
    Permanence,
    Professional,
    S47Enquiry,
    SourcePage,
)
from api_pipeline.ssd_window import Window
from tests import ssd_kit
from tests.databases import Database
from tests.ssd_kit import make, person
from tests.stage_kit import AS_OF, Source
from tests.staging_kit import Staging
from tests.staging_kit import settings_of as staging_settings
from tests.test_checks import settings_of

TODAY = date(2025, 11, 22)
WINDOW = Window.of(TODAY, 24)
at = datetime.fromisoformat
BORN = at("2015-01-01")
LATER, EARLIER = at("2025-06-02 09:00"), at("2025-06-01 23:00")
LONG = "R" * 37


def check(database: Database, **changes: str) -> SourceReport:
    """Run ``validate --source`` on the test's own schema."""
    values = {"DB_CONNECTION_STRING": database.connection_string}
    schema = ssd_kit.schema_of(database)
    if schema is not None:
        values["SSD_SCHEMA"] = schema.text
    return validate_source(settings_of(**{**values, **changes}), TODAY)


def in_cohort(person_id: str, referral: str | None = None, **more: Any) -> list[Any]:
    """Return a person with an open episode."""
    values = {"pers_dob": BORN, "pers_sex": "F", "pers_ethnicity": "WBRI", **more}
    episode = make(
        CinEpisode,
        cine_referral_id=f"{person_id}-R" if referral is None else referral,
        cine_person_id=person_id,
        cine_referral_date=at("2025-05-01"),
        cine_referral_source_code="1A",
    )
    return [person(person_id, **values), episode]


def people(report: SourceReport) -> dict[tuple[str, str], tuple[int, tuple[str, ...]]]:
    """Return count and examples of the people for each rule and place."""
    return {(group.rule, group.path): (group.rows, group.examples) for group in report.groups}


def records(report: SourceReport) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return count and examples of the records for each place with reversed dates."""
    return {group.path: (group.rows, group.examples) for group in report.records}


@pytest.fixture
def source(sqlite_database: Database) -> Database:
    """The empty source tables in SQLite."""
    ssd_kit.create(sqlite_database)
    return sqlite_database


def test_sound_source_has_nothing_to_report(database: Database) -> None:
    """In each database, with a person who is outside the cohort and one of each ground in it."""
    ssd_kit.create(database)
    ssd_kit.insert(database, [*in_cohort("P1"), person("P2", pers_dob=at("1980-01-01"))])
    report = check(database)
    assert (report.groups, report.records, report.exit_code) == ((), (), ExitCode.OK)
    assert (report.people, report.cohort) == (2, 1)
    assert report.as_text() == (
        "source on 2025-11-22, window from 2023-04-01: 2 people, 1 in the cohort, 0 with errors, "
        "0 with warnings"
    )


def test_what_breaks_a_payload_is_grouped_by_rule_and_place(database: Database) -> None:
    """Over-long ids and ids of other characters are errors; codes outside their lists are warnings."""
    ssd_kit.create(database)
    rows = [
        *in_cohort("P1", LONG),
        *in_cohort("P2", LONG + "X"),
        *in_cohort("P 3/4"),
        *in_cohort("P5", pers_ethnicity="ZZZZ"),
        *in_cohort("P6", " "),
        person("Q" * 40, pers_dob=at("1980-01-01")),
    ]
    ssd_kit.insert(database, rows)
    report = check(database)
    episode_id = "$.social_care_episodes[*].social_care_episode_id"
    assert people(report) == {
        ("max_length", episode_id): (2, ("P1", "P2")),
        ("pattern", "$.la_child_id"): (1, ("P 3/4",)),
        ("pattern", episode_id): (1, ("P 3/4",)),
        ("required", episode_id): (1, ("P6",)),
        ("code_list", "$.child_details.ethnicity"): (1, ("P5",)),
    }
    assert (report.exit_code, report.people_with_errors, report.people_with_warnings) == (
        ExitCode.FAILED,
        4,
        1,
    )


def test_it_finds_before_stage_what_validate_finds_after_it(sqlite_database: Database) -> None:
    """The same rules at the same places for as many people, in a made-up population with faults."""
    source = Source(Staging(sqlite_database).create(), sqlite_database).create()
    settings = staging_settings(source.staging, None)
    ssd_provision.fill_ssd(settings, 60, 3)
    for statement in (
        "UPDATE ssd_person SET pers_ethnicity = 'QQQQ' WHERE rowid % 3 = 0",
        "UPDATE ssd_person SET pers_legacy_id = 'a b' WHERE rowid % 4 = 0",
        "UPDATE ssd_cin_plans SET cinp_cin_plan_id = ' ' WHERE rowid % 5 = 0",
        "UPDATE ssd_cla_placement SET clap_cla_placement_id = PRINTF('%040d', rowid)",
    ):
        sqlite_database.execute(statement)
    before = validate_source(settings, AS_OF)
    source.stage()
    after = inspection.validate(settings)
    found = {(group.rule, group.path): group.rows for group in before.groups if group.path.startswith("$")}
    assert found == {(group.rule, group.path): group.rows for group in after.groups}
    assert {rule for rule, _ in found} == {"code_list", "pattern", "required", "max_length"}
    assert before.people_with_errors == after.rows_with_errors


def test_warnings_alone_are_no_failure(source: Database) -> None:
    """Whoever is sent all the same is no reason for another code."""
    ssd_kit.insert(source, in_cohort("P1", pers_ethnicity="ZZZZ"))
    report = check(source)
    assert (report.people_with_warnings, report.exit_code) == (1, ExitCode.OK)


def test_people_who_cannot_be_told_apart_are_errors(database: Database) -> None:
    """A shared id, outer blanks aside, and blank or missing ids, as ``stage`` leaves them."""
    ssd_kit.create(database)
    rows = [*in_cohort("P1"), person("P2"), person("P2"), person(" P3"), person("P3"), person("  ")]
    ssd_kit.insert(database, [*rows, person(None)])
    report = check(database)
    column = "ssd_person.pers_person_id"
    found = people(report)
    assert found[("required", column)] == (2, ())
    count, examples = found[("shared_id", column)]
    assert (count, sorted(example.strip() for example in examples)) == (4, ["P2", "P2", "P3", "P3"])
    assert (report.people, report.people_with_errors, report.exit_code) == (7, 6, ExitCode.FAILED)


def test_date_that_cannot_be_read_is_an_error_of_its_person(source: Database) -> None:
    """With the column, wherever in the person's rows it stands."""
    ssd_kit.insert(source, [*in_cohort("P1"), *in_cohort("P2"), *in_cohort("P3", pers_dob="1.2.15")])
    plan = make(CinPlan, cinp_cin_plan_id="N1", cinp_referral_id="P2-R", cinp_cin_plan_start_date="soon")
    ssd_kit.insert(source, [plan])
    report = check(source)
    assert people(report) == {
        ("unreadable_date", "ssd_cin_plans.cinp_cin_plan_start_date"): (1, ("P2",)),
        ("unreadable_date", "ssd_person.pers_dob"): (1, ("P3",)),
    }
    assert (report.cohort, report.exit_code) == (1, ExitCode.FAILED)


def test_what_the_builder_changes_is_a_warning_for_each_rule(source: Database) -> None:
    """Broken factors, two rows for one id and values left out, with the people whom they concern."""
    assessment = make(
        CinAssessment,
        cina_assessment_id="A1",
        cina_referral_id="P1-R",
        cina_assessment_start_date=LATER,
    )
    rows = [
        *in_cohort("P1", pers_sex="Siobhan", pers_upn="12"),
        *in_cohort("P2", pers_sex="Siobhan"),
        assessment,
        assessment,
        make(AssessmentFactors, cinf_assessment_id="A1", cinf_assessment_factors_json='["1A", "Siob'),
    ]
    ssd_kit.insert(source, rows)
    report = check(source)
    found = people(report)
    assert found["sex other than M, F and U sent as U", ""] == (2, ("P1", "P2"))
    assert found["assessment factors that are no list left out", ""] == (1, ("P1",))
    assert found["unique pupil number not of 13 characters left out", ""] == (1, ("P1",))
    assert any("equal ids united" in rule for rule, _ in found)
    assert {group.severity.value for group in report.groups} == {"warning"}
    assert (report.people_with_warnings, report.exit_code) == (2, ExitCode.OK)


def test_reversed_dates_are_warnings_with_the_ids_of_the_records(database: Database) -> None:
    """Whoever's they are; a person outside the cohort may be there because of them."""
    ssd_kit.create(database)
    plans = [
        make(
            CinPlan,
            cinp_cin_plan_id=f"N{number}",
            cinp_referral_id="P1-R",
            cinp_person_id="P1",
            cinp_cin_plan_start_date=start,
            cinp_cin_plan_end_date=end,
        )
        for number, start, end in [
            (1, LATER, at("2015-06-01")),
            (2, LATER, EARLIER),
            (3, LATER, LATER.replace(hour=1)),
            (4, at("2011-01-01"), at("2010-01-01")),
        ]
    ]
    outside = make(
        CinEpisode,
        cine_referral_id="R9",
        cine_person_id="P9",
        cine_referral_date=LATER,
        cine_close_date=at("2005-01-01"),
    )
    ssd_kit.insert(database, [*in_cohort("P1"), *plans, person("P9", pers_dob=BORN), outside])
    report = check(database)
    assert records(report) == {
        "ssd_cin_plans.cinp_cin_plan_end_date < cinp_cin_plan_start_date": (2, ("N1", "N2")),
        "ssd_cin_episodes.cine_close_date < cine_referral_date": (1, ("R9",)),
    }
    assert (report.cohort, report.exit_code) == (1, ExitCode.OK)


@pytest.mark.parametrize("pair", DATE_PAIRS, ids=lambda pair: f"{pair.first}-{pair.second}")
def test_every_pair_of_dates_is_looked_at(pair: Any) -> None:
    """One day early is reversed, the same day is not, and what touches no window does not matter."""
    table = next(table.name for table in SOURCE_TABLES if table.row is pair.row)

    def found(first: datetime, second: datetime) -> list[tuple[str, str, str | None]]:
        row = make(pair.row, **{pair.id: "X1", pair.first: first, pair.second: second})
        page = SourcePage({pair.row: [row]})
        return [(each.column, each.after, each.record_id) for each in reversed_dates(page, WINDOW)]

    assert found(LATER, EARLIER) == [(f"{table}.{pair.second}", pair.first, "X1")]
    assert found(EARLIER, LATER) == found(LATER, LATER.replace(hour=0)) == []
    assert found(at("2010-01-02"), at("2010-01-01")) == []


def test_conference_before_its_enquiry() -> None:
    """The two dates stand in two tables."""
    enquiry = make(S47Enquiry, s47e_s47_enquiry_id="S1", s47e_s47_start_date=LATER)
    conferences = [
        InitialCpConference("S1", EARLIER),
        InitialCpConference("S1", LATER),
        InitialCpConference("S2", EARLIER),
        InitialCpConference(None, EARLIER),
    ]
    page = SourcePage({S47Enquiry: [enquiry], InitialCpConference: conferences})
    [found] = reversed_dates(page, WINDOW)
    assert (found.column, found.record_id) == ("ssd_initial_cp_conference.icpc_icpc_date", "S1")


def test_record_that_two_pages_hold_counts_once(source: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adoption belongs to a person by their id and to another by a CLA id."""
    adoption = make(Permanence, perm_person_id="P1", perm_adm_decision_date=LATER, perm_matched_date=EARLIER)
    ssd_kit.insert(source, [*in_cohort("P1"), *in_cohort("P2"), adoption])
    pages = SsdSource.pages
    monkeypatch.setattr(SsdSource, "pages", lambda self: [page for page in pages(self) for _ in range(2)])
    assert records(check(source)) == {
        "ssd_permanence.perm_matched_date < perm_adm_decision_date": (1, ("P1",))
    }


def test_settings_of_the_source_hold(source: Database) -> None:
    """Cohort table, worker id and window are those of ``stage``."""
    ssd_kit.insert(source, [*in_cohort("P1"), *in_cohort("P2")])
    source.execute("CREATE TABLE stat_return (person_id TEXT)")
    source.execute("INSERT INTO stat_return VALUES (' P2 ')")
    assert check(source, COHORT_TABLE="stat_return").cohort == 1
    source.execute("UPDATE ssd_person SET pers_person_id = 'P2 ' WHERE pers_person_id = 'P2'")
    source.execute("UPDATE ssd_cin_episodes SET cine_person_id = 'P2 ' WHERE cine_person_id = 'P2'")
    assert check(source, COHORT_TABLE="stat_return").cohort == 1
    plan = make(
        CinPlan, cinp_cin_plan_id="N1", cinp_referral_id="P1-R", cinp_cin_plan_start_date=at("2024-02-01")
    )
    worker = Involvement("W1", "P1-R", "CW", at("2024-02-01"), None)
    ssd_kit.insert(source, [plan, worker, Professional("W1", "1234567890123")])
    rule = "worker id over 12 characters left out with its entry", ""
    assert people(check(source))[rule] == (1, ("P1",))
    source.execute("ALTER TABLE ssd_professionals ADD COLUMN staff_id TEXT DEFAULT '77'")
    assert people(check(source, WORKER_ID_COLUMN="staff_id")) == {}


def test_nothing_of_a_child_is_shown(source: Database) -> None:
    """Paths, rules and ids, in text as in JSON; the values that are wrong stay in the database."""
    values = {"pers_sex": "Siobhan", "pers_upn_unknown": "SECRET", "pers_ethnicity": "OSEC"}
    ssd_kit.insert(source, in_cohort("P1", LONG, **values))
    report = check(source)
    for shown in (report.as_text(), json.dumps(report.as_json())):
        assert "P1" in shown
        assert "at most 36 characters" in shown
        assert shown.isascii()
        for private in ("Siobhan", "SECRET", "OSEC", "2015", LONG):
            assert private not in shown


def test_text_and_json_have_every_rule(source: Database) -> None:
    """People and records are told apart, and the code is the one that the command ends with."""
    plan = make(
        CinPlan,
        cinp_cin_plan_id="N1",
        cinp_referral_id="P1-R",
        cinp_cin_plan_start_date=LATER,
        cinp_cin_plan_end_date=EARLIER,
    )
    ssd_kit.insert(source, [*in_cohort("P1", pers_sex="X"), plan])
    report = check(source)
    assert report.as_json()["groups"] == [
        {
            "severity": "warning",
            "rule": "sex other than M, F and U sent as U",
            "path": "",
            "message": "the payload is sent, but not with the value as it stands in the SSD",
            "people": 1,
            "person_ids": ["P1"],
        },
        {
            "severity": "warning",
            "rule": "reversed_dates",
            "path": "ssd_cin_plans.cinp_cin_plan_end_date < cinp_cin_plan_start_date",
            "message": "the first date must not be earlier than the second",
            "records": 1,
            "record_ids": ["N1"],
        },
    ]
    assert report.as_json()["exit_code"] == 0
    lines = report.as_text().splitlines()
    assert any(line.split()[:3] == ["warning", "1", "records"] for line in lines)
    assert lines[-1].endswith("1 people, 1 in the cohort, 0 with errors, 1 with warnings")


def test_source_that_lacks_something_cannot_be_validated(source: Database, tmp_path: Path) -> None:
    """As in ``stage``: the missing table is named, with the database's code; so is a database that is not."""
    source.execute("DROP TABLE ssd_permanence")
    with pytest.raises(DatabaseError, match="ssd_permanence"):
        check(source)
    with pytest.raises(DatabaseError, match=r"The source: There is no SQLite file .*none\.db") as caught:
        check(source, SSD_CONNECTION_STRING=f"sqlite:///{tmp_path / 'none.db'}")
    assert "SSD_CONNECTION_STRING" in caught.value.remedy
    with pytest.raises(ConfigError):
        check(source, SSD_SCHEMA="ssd_development")


def test_progress_is_told_and_a_stop_is_heard(source: Database) -> None:
    """A long check can be watched and ended."""
    ssd_kit.insert(source, [*in_cohort("P1"), *in_cohort("P2")])
    told: list[Any] = []

    class Watcher(Progress):
        def begin(self, total: int) -> None:
            told.append(("begin", total))

        def advance(self, rows: int) -> None:
            told.append(("advance", rows))

        def end(self) -> None:
            told.append("end")

    settings = settings_of(DB_CONNECTION_STRING=source.connection_string)
    validate_source(settings, TODAY, progress=Watcher())
    assert told == [("begin", 2), ("advance", 2), "end"]
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedRun):
        validate_source(settings, TODAY, stop=stop)


def test_run_date_is_today_unless_given(source: Database) -> None:
    """As in ``stage``."""
    report = validate_source(settings_of(DB_CONNECTION_STRING=source.connection_string))
    assert report.run_date == datetime.now().astimezone().date()

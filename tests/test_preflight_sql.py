"""The pre-flight checks in T-SQL: each rule speaks up where it should, and nowhere else.

The script is the one that an analyst runs in Management Studio; only the three names at its top are
changed to the test's own schema. It goes through Microsoft's ODBC driver as one batch.
"""

# ruff: noqa: DTZ001 -- the dates of the SSD have no zone

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest

from api_pipeline.dialects import SQL_SERVER
from api_pipeline.names import TableName
from api_pipeline.schema import STAGING_COLUMNS, create_statements
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
    Involvement,
    LinkedIdentifier,
    Permanence,
    Person,
    Professional,
    S47Enquiry,
    SdqScore,
)
from tests import ssd_kit
from tests.conftest import ROOT
from tests.databases import Database, connect_odbc

SCRIPT = (ROOT / "pre_flight_checks" / "ssd_csc_api_schema_checks.sql").read_text(encoding="utf-8")
TABLE = "ssd_api_data_staging"
LONG = "L" * 37
EARLY, LATE = datetime(2026, 1, 10), datetime(2026, 2, 20)
DEFAULT_NAMES = ("dbo", TABLE, "dbo")

pytestmark = pytest.mark.sqlserver


class Answer(NamedTuple):
    """A line of the script's result set."""

    result: str
    severity: str
    table: str
    rule: str
    found: int | None
    examples: str | None
    advice: str


def schema_name(database: Database) -> str:
    """The schema that the test has for itself."""
    return database.table_name.partition(".")[0]


def run(database: Database, *, table: str = TABLE, staging: str | None = None) -> dict[str, Answer]:
    """Run the script on the test's schema and return its lines by rule."""
    own = schema_name(database)
    text = SCRIPT
    for variable, value in (
        ("staging_schema", staging or own),
        ("staging_table", table),
        ("ssd_schema", own),
    ):
        text, times = re.subn(rf"(?m)^(DECLARE @{variable} \S+ = N')[^']*'", rf"\g<1>{value}'", text)
        assert times == 1
    connection = connect_odbc(database.connection_string)
    try:
        cursor = connection.cursor()
        cursor.execute(text)
        answers = [Answer(*row) for row in cursor.fetchall()]
        assert not cursor.nextset(), "one result set is what an analyst can save as a table"
    finally:
        connection.close()
    assert len({answer.rule for answer in answers}) == len(answers)
    return {answer.rule: answer for answer in answers}


def problems(answers: dict[str, Answer]) -> dict[str, tuple[int | None, str | None]]:
    """The rules that are broken: how many rows, and the examples."""
    return {
        rule: (answer.found, answer.examples)
        for rule, answer in answers.items()
        if answer.result == "problem"
    }


def create_staging(database: Database) -> str:
    """Make the staging table as init-db does, with the two tables beside it, and return its name."""
    name = f"{schema_name(database)}.{TABLE}"
    database.execute(create_statements(SQL_SERVER, TableName.parse(name))[0])
    for other in ("ssd_api_submission_log", "ssd_api_baseline"):
        database.execute(f"CREATE TABLE {schema_name(database)}.{other} (person_id NVARCHAR(48))")
    return name


def stage(database: Database, person_id: str | None, **values: Any) -> None:
    """Insert a staging row that is well unless ``values`` say otherwise."""
    row = {
        "json_payload": f'{{"la_child_id": "{person_id}", "purge": false}}',
        "current_hash": b"\1" * 32,
        "previous_hash": b"\1" * 32,
        "submission_status": "Sent",
        "row_state": "Unchanged",
        "last_updated": datetime.now() - timedelta(hours=1),  # noqa: DTZ005 -- as the server's GETDATE
        **values,
    }
    given = {key: value for key, value in row.items() if value is not None}
    columns = ", ".join(["person_id", *given])
    marks = ", ".join(["?"] * len(given))
    # NULL is spelt out: the driver cannot ask for its type here.
    first, bound = ("NULL", []) if person_id is None else ("?", [person_id])
    name = f"{schema_name(database)}.{TABLE}"
    database.execute(f"INSERT INTO {name} ({columns}) VALUES ({first}, {marks})", [*bound, *given.values()])


GOOD: dict[type[Any], dict[str, Any]] = {
    Person: {
        "pers_legacy_id": "M-1",
        "pers_upn": "A123456789012",
        "pers_upn_unknown": "un3",
        "pers_sex": "f",
        "pers_ethnicity": "WBRI - White British",
        "pers_dob": datetime(2015, 5, 5),
    },
    LinkedIdentifier: {
        "link_identifier_type": "Former Unique Pupil Number",
        "link_identifier_value": "A" * 13,
    },
    Address: {"addr_address_postcode": " AB12 3CD "},
    Disability: {"disa_disability_code": "mob"},
    ImmigrationStatus: {
        "immi_immigration_status_start_date": EARLY,
        "immi_immigration_status_end_date": LATE,
    },
    SdqScore: {"csdq_sdq_score": 40},
    CinEpisode: {
        "cine_referral_date": EARLY,
        "cine_close_date": LATE,
        "cine_referral_source_code": "1a: Individual",
        "cine_referral_nfa": "n",
        "cine_close_reason": "RC8",
    },
    CinAssessment: {"cina_assessment_start_date": EARLY, "cina_assessment_auth_date": LATE},
    AssessmentFactors: {"cinf_assessment_factors_json": '["1A", "2B"]'},
    CinPlan: {"cinp_cin_plan_start_date": EARLY, "cinp_cin_plan_end_date": LATE},
    S47Enquiry: {
        "s47e_s47_start_date": EARLY,
        "s47e_s47_end_date": LATE,
        "s47e_s47_outcome_json": '{"CP_CONFERENCE_FLAG": "Y"}',
    },
    CpPlan: {"cppl_cp_plan_start_date": EARLY, "cppl_cp_plan_end_date": LATE},
    ClaEpisode: {"clae_cla_episode_start_reason": "S"},
    ClaPlacement: {
        "clap_cla_placement_start_date": EARLY,
        "clap_cla_placement_end_date": LATE,
        "clap_cla_placement_postcode": "AB12 3CD",
        "clap_cla_placement_change_reason": "CARPL - Change to care plan",
    },
    Permanence: {
        "perm_adm_decision_date": EARLY,
        "perm_matched_date": EARLY,
        "perm_placed_for_adoption_date": LATE,
    },
    CareLeaver: {"clea_care_leaver_activity": "F1", "clea_care_leaver_accommodation": "B"},
    Involvement: {"invo_involvement_start_date": EARLY, "invo_involvement_end_date": LATE},
    Professional: {"prof_social_worker_registration_no": "SW12345"},
}

# (row class, its column, a value that breaks the rule, the rule)
BAD: list[tuple[type[Any], dict[str, Any], str]] = [
    (Person, {"pers_legacy_id": LONG}, "pers_legacy_id has at most 36 characters"),
    (Person, {"pers_legacy_id": "a b"}, "pers_legacy_id is made of A-Z, a-z, 0-9, _ and - only"),
    (Person, {"pers_dob": None}, "a person has a date of birth or an expected one"),
    (Person, {"pers_dob": datetime(2999, 1, 1)}, "pers_dob is not in the future"),
    (Person, {"pers_sex": "Male"}, "pers_sex is M, F or U"),
    (Person, {"pers_upn": "A12"}, "pers_upn has 13 characters"),
    (Person, {"pers_upn": "A12345678901?"}, "pers_upn is made of letters and digits only"),
    (Person, {"pers_upn_unknown": "UN11"}, "pers_upn_unknown is UN1 to UN10"),
    (Person, {"pers_ethnicity": "WHITE"}, "pers_ethnicity is a code that DfE knows"),
    (
        LinkedIdentifier,
        {"link_identifier_value": "short"},
        "a former unique pupil number has 13 characters",
    ),
    (Address, {"addr_address_postcode": "AB12  3CDE"}, "addr_address_postcode has at most 8 characters"),
    (Disability, {"disa_disability_code": "AUTISM"}, "disa_disability_code is a code that DfE knows"),
    (
        ImmigrationStatus,
        {"immi_immigration_status_start_date": LATE, "immi_immigration_status_end_date": EARLY},
        "immi_immigration_status_end_date is not before immi_immigration_status_start_date",
    ),
    (SdqScore, {"csdq_sdq_score": 41}, "csdq_sdq_score is a whole number of 0 to 40"),
    (
        CinEpisode,
        {"cine_close_date": EARLY - timedelta(days=1)},
        "cine_close_date is not before cine_referral_date",
    ),
    (CinEpisode, {"cine_referral_date": None}, "cine_referral_date is filled"),
    (
        CinEpisode,
        {"cine_referral_source_code": "Police"},
        "cine_referral_source_code begins with a code of DfE",
    ),
    (CinEpisode, {"cine_referral_nfa": "X"}, "cine_referral_nfa is yes or no"),
    (CinEpisode, {"cine_close_reason": "Moved"}, "cine_close_reason is a code that DfE knows"),
    (
        CinAssessment,
        {"cina_assessment_auth_date": EARLY - timedelta(days=1)},
        "cina_assessment_auth_date is not before cina_assessment_start_date",
    ),
    (
        AssessmentFactors,
        {"cinf_assessment_factors_json": '{"a": 1}'},
        "cinf_assessment_factors_json is a JSON list",
    ),
    (CinPlan, {"cinp_cin_plan_start_date": None}, "cinp_cin_plan_start_date is filled"),
    (
        CinPlan,
        {"cinp_cin_plan_end_date": EARLY - timedelta(days=1)},
        "cinp_cin_plan_end_date is not before cinp_cin_plan_start_date",
    ),
    (S47Enquiry, {"s47e_s47_start_date": None}, "s47e_s47_start_date is filled"),
    (
        S47Enquiry,
        {"s47e_s47_end_date": EARLY - timedelta(days=1)},
        "s47e_s47_end_date is not before s47e_s47_start_date",
    ),
    (
        S47Enquiry,
        {"s47e_s47_outcome_json": '{"CPXCONFERENCE_FLAG": "Y"}'},
        "s47e_s47_outcome_json has the key CP_CONFERENCE_FLAG",
    ),
    (CpPlan, {"cppl_cp_plan_start_date": None}, "cppl_cp_plan_start_date is filled"),
    (
        CpPlan,
        {"cppl_cp_plan_end_date": EARLY - timedelta(days=1)},
        "cppl_cp_plan_end_date is not before cppl_cp_plan_start_date",
    ),
    (
        ClaEpisode,
        {"clae_cla_episode_start_reason": "X"},
        "clae_cla_episode_start_reason is a code that DfE knows",
    ),
    (ClaPlacement, {"clap_cla_placement_start_date": None}, "clap_cla_placement_start_date is filled"),
    (
        ClaPlacement,
        {"clap_cla_placement_end_date": EARLY - timedelta(days=1)},
        "clap_cla_placement_end_date is not before clap_cla_placement_start_date",
    ),
    (
        ClaPlacement,
        {"clap_cla_placement_postcode": "AB123CDXYZ"},
        "clap_cla_placement_postcode has at most 8 characters",
    ),
    (
        ClaPlacement,
        {"clap_cla_placement_change_reason": "NOBODY"},
        "clap_cla_placement_change_reason is a code that DfE knows",
    ),
    (
        Permanence,
        {"perm_matched_date": EARLY - timedelta(days=1)},
        "perm_matched_date is not before perm_adm_decision_date",
    ),
    (
        Permanence,
        {"perm_adm_decision_date": None, "perm_placed_for_adoption_date": EARLY - timedelta(days=1)},
        "perm_placed_for_adoption_date is not before perm_matched_date",
    ),
    (
        Permanence,
        {"perm_matched_date": None, "perm_placed_for_adoption_date": EARLY - timedelta(days=1)},
        "perm_placed_for_adoption_date is not before perm_adm_decision_date",
    ),
    (CareLeaver, {"clea_care_leaver_activity": "Z9"}, "clea_care_leaver_activity is a code that DfE knows"),
    (
        CareLeaver,
        {"clea_care_leaver_accommodation": "A"},
        "clea_care_leaver_accommodation is a code that DfE knows",
    ),
    (
        Involvement,
        {"invo_involvement_end_date": EARLY - timedelta(days=1)},
        "invo_involvement_end_date is not before invo_involvement_start_date",
    ),
    (
        Professional,
        {"prof_social_worker_registration_no": "SW12345678901"},
        "prof_social_worker_registration_no has at most 12 characters",
    ),
    (
        Professional,
        {"prof_social_worker_registration_no": "SW/1"},
        "prof_social_worker_registration_no is made of A-Z, a-z, 0-9, _ and - only",
    ),
]

# The ids that a record needs, each with the start that "on one row only" speaks of.
IDS: dict[type[Any], str] = {
    Person: "pers_person_id",
    CinEpisode: "cine_referral_id",
    CinAssessment: "cina_assessment_id",
    CinPlan: "cinp_cin_plan_id",
    S47Enquiry: "s47e_s47_enquiry_id",
    CpPlan: "cppl_cp_plan_id",
    ClaPlacement: "clap_cla_placement_id",
}


def key_of(row: type[Any]) -> str:
    """The column whose values the script shows as examples: the first, but for involvements the referral."""
    fields: tuple[str, ...] = row._fields
    return "invo_referral_id" if row is Involvement else fields[0]


def source_row(row: type[Any], key: str | None, **values: Any) -> Any:
    """A row that is well unless ``values`` say otherwise."""
    return ssd_kit.make(row, **{**GOOD[row], key_of(row): key, **values})


def test_well_filled_tables_give_no_problem(sqlserver_database: Database) -> None:
    """Where everything is as it should be, every rule says so, in any letter case and with stray blanks."""
    create_staging(sqlserver_database)
    stage(sqlserver_database, "p-1")
    stage(sqlserver_database, " p_2 ", submission_status=" PENDING ", row_state="new ", previous_hash=None)
    stage(sqlserver_database, "p3", current_hash=bytes(32), row_state="Deleted")  # an acknowledged deletion
    stage(sqlserver_database, "p4", json_payload='\r\n{"purge": false, "la_child_id" : "p4"}\r\n')
    ssd_kit.create(sqlserver_database, indexes=False)
    ssd_kit.insert(sqlserver_database, [source_row(row, f"ok-{row.__name__}") for row in GOOD])
    answers = run(sqlserver_database)
    assert {rule: answer for rule, answer in answers.items() if answer.result != "ok"} == {}
    assert {answer.found for answer in answers.values()} == {0}


def test_each_source_rule_fires_where_it_should(sqlserver_database: Database) -> None:
    """Each fault of the SSD breaks the one rule that is about it, and is found under its own id."""
    ssd_kit.create(sqlserver_database, indexes=False)
    rows = [source_row(row, f"ok-{row.__name__}") for row in GOOD]
    expected: dict[str, tuple[int | None, str | None]] = {}
    for number, (row, values, rule) in enumerate(BAD):
        rows.append(source_row(row, f"bad-{number}", **values))
        expected[rule] = (1, f"bad-{number}")
    for row, column in IDS.items():
        rows += [source_row(row, None), source_row(row, "  ")]
        rows += [
            source_row(row, LONG),
            source_row(row, "a/b"),
            source_row(row, "twice"),
            source_row(row, "twice"),
        ]
        expected[f"{column} is not empty"] = (2, "(no id)")
        expected[f"{column} has at most 36 characters"] = (1, LONG)
        expected[f"{column} is made of A-Z, a-z, 0-9, _ and - only"] = (1, "a/b")
        expected[f"{column} is on one row only"] = (2, "twice")
    ssd_kit.insert(sqlserver_database, rows)
    found = problems(run(sqlserver_database))
    # There is no staging table here, and neither log nor baseline.
    assert found.pop("the staging table exists") == (1, f"{schema_name(sqlserver_database)}.{TABLE}")
    assert found.pop("the submission log and the baseline exist") == (
        2,
        "ssd_api_baseline, ssd_api_submission_log",
    )
    assert found == expected


def test_each_staging_rule_fires_where_it_should(sqlserver_database: Database) -> None:
    """Each fault of a staging row breaks the rules that are about it, and no other."""
    create_staging(sqlserver_database)
    two = b"\2" * 32
    stage(sqlserver_database, "ok-1")
    stage(sqlserver_database, None, json_payload='{"la_child_id": "nobody"}')  # row 2
    stage(sqlserver_database, "twice", json_payload='{"la_child_id": "twice-1"}')
    stage(sqlserver_database, "twice", json_payload='{"la_child_id": "twice-2"}')
    stage(sqlserver_database, LONG)
    stage(sqlserver_database, "a b")
    stage(sqlserver_database, "empty", json_payload=" ")
    stage(sqlserver_database, "list", json_payload='[{"la_child_id": "list"}]')
    stage(sqlserver_database, "cut", json_payload='{"la_child_id": "cut", "child_details": {"first_na')
    stage(sqlserver_database, "no-child", json_payload='{"mis_child_id": "x"}')
    stage(sqlserver_database, "number", json_payload='{"la_child_id": 12, "mis_child_id": "x"}')
    stage(sqlserver_database, "same-1", json_payload='{"la_child_id":"same"}')
    stage(sqlserver_database, "same-2", json_payload='{"purge":false,"la_child_id": "same"}')
    stage(sqlserver_database, "no-hash", current_hash=None)
    stage(sqlserver_database, "held", submission_status="On hold")
    stage(sqlserver_database, "odd-state", row_state="Gone")
    stage(sqlserver_database, "error", submission_status="Error")
    old = datetime.now() - timedelta(days=8)  # noqa: DTZ005 -- as the server's GETDATE
    stage(sqlserver_database, "stuck", submission_status=" error", last_updated=old)
    stage(sqlserver_database, "missed", current_hash=two)
    stage(sqlserver_database, "left", row_state="Deleted")
    assert {
        rule: found
        for rule, found in problems(run(sqlserver_database)).items()
        if rule != "every SSD table exists"
    } == {
        "person_id is not empty": (1, "row 2"),
        "person_id is on one row only": (2, "twice"),
        "person_id has at most 36 characters": (1, LONG),
        "person_id is made of A-Z, a-z, 0-9, _ and - only": (1, "a b"),
        "json_payload is not empty": (1, "empty"),
        "json_payload is one JSON object": (2, "cut, list"),
        "json_payload has a la_child_id, as text": (2, "no-child, number"),
        "la_child_id in json_payload has at most 36 characters": (1, LONG),
        "la_child_id in json_payload is made of A-Z, a-z, 0-9, _ and - only": (1, "a b"),
        "la_child_id in json_payload is on one row only": (2, "same-1, same-2"),
        "current_hash is filled": (1, "no-hash"),
        "submission_status is pending, sent, error or testing": (1, "held"),
        "row_state is new, updated, deleted or unchanged": (1, "odd-state"),
        "no row is in error": (2, "error, stuck"),
        "no row is stuck in error for more than 7 days": (1, "stuck"),
        "rows marked sent have the hash that was sent": (1, "missed"),
        "no deletion waits on a row marked sent": (1, "left"),
    }


def test_structure_is_looked_at(sqlserver_database: Database) -> None:
    """Missing columns, wrong types and narrow columns are named; what cannot be checked says why, and shows
    nothing of what stopped it, here a text that is no date.
    """
    own = schema_name(sqlserver_database)
    sqlserver_database.execute(
        f"CREATE TABLE {own}.{TABLE} (person_id NVARCHAR(10), json_payload NVARCHAR(MAX), "
        "previous_json_payload NVARCHAR(4000), current_hash NVARCHAR(64), previous_hash BINARY(32), "
        "submission_timestamp NVARCHAR(30), api_response NVARCHAR(MAX), row_state NVARCHAR(10), "
        "last_updated DATETIME)"
    )
    ssd_kit.create(sqlserver_database, indexes=False, types={"cine_close_date": "NVARCHAR(30)"})
    ssd_kit.insert(sqlserver_database, [source_row(CinEpisode, "r1", cine_close_date="HIDDEN")])
    sqlserver_database.execute(f"DROP TABLE {own}.ssd_address")
    sqlserver_database.execute(f"ALTER TABLE {own}.ssd_person DROP COLUMN pers_upn")
    answers = run(sqlserver_database)
    assert problems(answers) == {
        "the staging table has every column": (2, "partial_json_payload, submission_status"),
        "the staging table has the columns id and legacy_id": (2, "id, legacy_id"),
        "the columns of the staging table have types that the tool can use": (
            2,
            "current_hash (nvarchar), submission_timestamp (nvarchar)",
        ),
        "the columns of the staging table are wide enough": (
            2,
            "person_id (10), previous_json_payload (4000)",
        ),
        "the submission log and the baseline exist": (2, "ssd_api_baseline, ssd_api_submission_log"),
        "every SSD table exists": (1, "ssd_address"),
        "every SSD table has its columns": (1, "ssd_person.pers_upn"),
        "dates of the SSD are kept as dates": (1, "ssd_cin_episodes.cine_close_date"),
    }
    unchecked = {rule: answer.advice for rule, answer in answers.items() if answer.result == "not checked"}
    unreadable = unchecked.pop("cine_close_date is not before cine_referral_date")
    assert re.fullmatch(r"SQL Server could not check this: error \d+\.", unreadable)
    assert "HIDDEN" not in str(answers)
    assert unchecked == {
        **dict.fromkeys(
            (
                "submission_status is pending, sent, error or testing",
                "no row is in error",
                "no row is stuck in error for more than 7 days",
                "rows marked sent have the hash that was sent",
                "no deletion waits on a row marked sent",
            ),
            f"The table {own}.{TABLE} has no column submission_status.",
        ),
        "addr_address_postcode has at most 8 characters": (
            f"The table {own}.ssd_address does not exist here, or this login cannot see it."
        ),
        "pers_upn has 13 characters": f"The table {own}.ssd_person has no column pers_upn.",
        "pers_upn is made of letters and digits only": f"The table {own}.ssd_person has no column pers_upn.",
    }


def test_nothing_at_all_gives_an_answer(sqlserver_database: Database) -> None:
    """In an empty schema the script still answers: the tables are missing, and that is all it can say."""
    answers = run(sqlserver_database)
    assert set(problems(answers)) == {
        "the staging table exists",
        "the submission log and the baseline exist",
        "every SSD table exists",
    }
    assert {answer.advice for answer in answers.values() if answer.result != "ok"} != {""}


def test_payloads_and_names_never_show(sqlserver_database: Database) -> None:
    """Nothing of a payload but the ids of people and records is in the result."""
    create_staging(sqlserver_database)
    stage(sqlserver_database, "p1", json_payload='[{"first_name": "Sesame"}]', submission_status="Error")
    columns = [f"{name} {'DATETIME' if name.endswith('dob') else 'NVARCHAR(255)'}" for name in Person._fields]
    own = schema_name(sqlserver_database)
    sqlserver_database.execute(f"CREATE TABLE {own}.ssd_person ({', '.join(columns)})")
    ssd_kit.insert(
        sqlserver_database,
        [source_row(Person, "p1", pers_forename="Sesame", pers_surname="Sesame", pers_upn="Sesame")],
    )
    answers = run(sqlserver_database)
    assert problems(answers)["pers_upn has 13 characters"] == (1, "p1")
    assert "Sesame" not in str(answers)


def test_script_only_reads(sqlserver_database: Database) -> None:
    """The tables are as they were, and no statement but on table variables could have changed them."""
    name = create_staging(sqlserver_database)
    stage(sqlserver_database, "p1")
    before = sqlserver_database.query(f"SELECT * FROM {name}")
    run(sqlserver_database)
    assert sqlserver_database.query(f"SELECT * FROM {name}") == before
    code = re.sub(r"--[^\n]*|/\*.*?\*/", "", SCRIPT, flags=re.DOTALL)
    code = re.sub(r"N?'(?:[^']|'')*'", "''", code)
    written = re.findall(
        r"(?i)\b(?:INSERT\s+INTO|UPDATE|DELETE|MERGE|TRUNCATE|DROP|ALTER|CREATE|INTO)\s+(\S+)", code
    )
    assert written
    assert [target for target in written if not target.startswith("@")] == []


def test_expected_tables_are_those_of_the_tool() -> None:
    """The columns that the script looks for are those that ``run`` and ``stage`` use."""
    pairs = set(re.findall(r"\(N'(ssd_\w+)', N'(\w+)'\)", SCRIPT.split("/* --- The rules")[0]))
    assert pairs == {(table.name, column) for table in SOURCE_TABLES for column in table.columns}
    staging = re.findall(r"\(N'\{staging\}', N'(\w+)', ([01]), N',([^']*),', (\w+)\)", SCRIPT)
    assert [(name, required == "1", least) for name, required, _, least in staging] == [
        (column.name, column.required, str(column.min_length) if column.min_length else "NULL")
        for column in STAGING_COLUMNS
    ]
    families = {column.name: column.families for column in STAGING_COLUMNS}
    assert [name for name, _, types, _ in staging if not set(types.split(",")) <= families[name]] == []


def test_names_at_the_top_are_the_usual_ones() -> None:
    """An analyst with the usual names has nothing to fill in, and the script is one batch without GO."""
    assert tuple(re.findall(r"(?m)^DECLARE @\w+ NVARCHAR\(128\) = N'(\w+)';", SCRIPT)) == DEFAULT_NAMES
    assert not re.search(r"(?mi)^\s*GO\s*$", SCRIPT)
    assert SCRIPT.isascii()

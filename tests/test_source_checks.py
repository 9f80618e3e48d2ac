"""``test-schema`` finds what keeps ``stage`` from reading the source, and the SQL that it gives mends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import source_catalogue, ssd_schema
from api_pipeline.check_result import CheckResult, Step
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE
from api_pipeline.errors import ConfigError, DatabaseError, ExitCode
from api_pipeline.schema import Column
from api_pipeline.source_catalogue import Fit
from api_pipeline.source_checks import _Inspection
from api_pipeline.ssd_tables import SOURCE_TABLES, Address, Kind
from api_pipeline.table_checks import test_schema as check_schema
from tests import ssd_kit
from tests.databases import Database
from tests.db_kit import changed
from tests.staging_kit import DIALECTS, Staging
from tests.test_checks import settings_of

JOINS = sum(len({route.column for route in table.routes}) for table in SOURCE_TABLES)


def check(database: Database, **changes: str) -> CheckResult:
    """Run ``test-schema`` with the test's own schema for the source."""
    values = {"DB_CONNECTION_STRING": database.connection_string, "TABLE_NAME": database.table_name}
    schema = ssd_kit.schema_of(database)
    if schema is not None:
        values["SSD_SCHEMA"] = schema.text
    return check_schema(settings_of(**{**values, **changes}))


def create(database: Database, **options: Any) -> None:
    """Make the source tables of fake people, since the staging table of the tests is for such."""
    schema = ssd_kit.create(database, **options)
    database.execute(ssd_schema.create_marker(DIALECTS[database.kind], schema))


def of_source(result: CheckResult) -> list[Step]:
    """Return the steps about the source; what only the SQL Server double does not tell is left out."""
    about = [step for step in result.steps if step.hop.startswith(("source", "cohort"))]
    return [step for step in about if step.hop != "source snapshot"]


def ended(result: CheckResult, ok: bool | None) -> list[Step]:
    """Return the steps about the source that ended so."""
    return [step for step in of_source(result) if step.ok is ok]


def mend(database: Database, steps: list[Step]) -> None:
    """Run the SQL of these steps, as an administrator would."""
    for step in steps:
        assert step.sql
        for statement in step.sql:
            database.execute(statement)


def name(database: Database, table: str) -> str:
    """Return a source table as a statement takes it."""
    schema = ssd_kit.schema_of(database)
    return table if schema is None else f"{schema.text}.{table}"


# --- Whether it is looked at ------------------------------------------------------------------------------


def test_without_any_sign_of_stage_one_line_says_so(sqlite_database: Database) -> None:
    """Who has T-SQL fill the staging table is not told of nineteen missing tables."""
    Staging(sqlite_database).create()
    result = check(sqlite_database, WINDOW_MONTHS="12", UASC_PATTERN="^U$")
    [step] = of_source(result)
    assert (step.ok, step.message.startswith("Not looked at")) == (True, True)
    assert result.passed


@pytest.mark.parametrize(
    "setting", [{"COHORT_TABLE": "cohort"}, {"WORKER_ID_COLUMN": "staff_id"}, {"SSD_CONNECTION_STRING": ""}]
)
def test_any_setting_of_the_source_makes_missing_tables_a_failure(
    sqlite_database: Database, tmp_path: Path, setting: dict[str, str]
) -> None:
    """One line for all of them, since it is the place that will be wrong."""
    Staging(sqlite_database).create()
    (tmp_path / "other.db").touch()
    result = check(
        sqlite_database,
        **{key: value or f"sqlite:///{tmp_path / 'other.db'}" for key, value in setting.items()},
    )
    step = ended(result, False)[0]
    assert (step.hop, result.exit_code) == ("source table", ExitCode.FAILED)
    assert "None of the 19 tables of the SSD is there" in step.message
    assert "SSD_SCHEMA" in step.remedy


def test_schema_is_named_where_nothing_is_there(postgresql_database: Database) -> None:
    """A schema that does not exist is the likeliest mistake."""
    Staging(postgresql_database).create()
    [step] = ended(check(postgresql_database, SSD_SCHEMA="ssd_development"), False)
    assert "is there in the schema ssd_development in this PostgreSQL database" in step.message


def test_schema_in_sqlite_is_a_setting_that_cannot_work(sqlite_database: Database) -> None:
    """It is refused as ``stage`` refuses it."""
    Staging(sqlite_database).create()
    with pytest.raises(ConfigError, match="SSD_SCHEMA"):
        check(sqlite_database, SSD_SCHEMA="ssd_development")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_complete_source_passes(request: pytest.FixtureRequest, kind: str) -> None:
    """Tables as ``init-db --ssd`` makes them lack nothing, not even advice."""
    database: Database = request.getfixturevalue(f"{kind}_database")
    Staging(database).create()
    create(database)
    result = check(database)
    assert result.passed
    assert [(step.ok, step.message) for step in of_source(result)] == [
        (True, "All 19 tables of the SSD are there and can be read."),
        (True, "Every join column has an index."),
    ]


# --- Tables and columns -----------------------------------------------------------------------------------


def test_what_is_missing_is_named_and_its_sql_mends_it(database: Database) -> None:
    """Tables and columns are failures, each of its own; indexes are advice in one line."""
    Staging(database).create()
    create(database, indexes=False)
    for table in ("ssd_permanence", "ssd_sdq_scores"):
        database.execute(f"DROP TABLE {name(database, table)}")
    for column in ("pers_upn_unknown", "pers_dob"):
        database.execute(f"ALTER TABLE {name(database, 'ssd_person')} DROP COLUMN {column}")
    result = check(database)
    faults = ended(result, False)
    assert [step.hop for step in faults] == ["source column"] * 2 + ["source table"] * 2
    for step, named in zip(
        faults, ("pers_upn_unknown", "pers_dob", "ssd_sdq_scores", "ssd_permanence"), strict=True
    ):
        assert named in step.message
    assert result.exit_code == ExitCode.FAILED
    mend(database, faults)
    again = check(database)
    [advice] = ended(again, None)
    assert (again.passed, advice.hop, len(advice.sql)) == (True, "source index", JOINS)
    assert advice.message.startswith(f"{JOINS} join columns without an index: ssd_person.pers_person_id, ")
    mend(database, [advice])
    assert all(step.ok for step in of_source(check(database)))


@pytest.mark.postgresql
def test_column_of_the_worker_id_is_looked_for_in_its_place(postgresql_database: Database) -> None:
    """The setting's column has to be there, in any letter case, and then the usual one may be missing."""
    database = postgresql_database
    Staging(database).create()
    create(database)
    professionals = "ssd_professionals"
    [step] = ended(check(database, WORKER_ID_COLUMN="Staff_Id"), False)
    assert ("Staff_Id" in step.message, "WORKER_ID_COLUMN" in step.remedy, step.sql) == (True, True, ())
    database.execute(f"ALTER TABLE {professionals} ADD COLUMN staff_id VARCHAR(12)")
    database.execute(f"ALTER TABLE {professionals} DROP COLUMN prof_social_worker_registration_no")
    assert check(database, WORKER_ID_COLUMN="Staff_Id").passed


@pytest.mark.parametrize(("fake", "table"), [(False, "staging_anon"), (True, "staging")])
def test_source_that_does_not_go_with_the_table_is_a_warning(
    sqlite_database: Database, fake: bool, table: str
) -> None:
    """Real people never go into a table of fake ones, nor the other way round."""
    for each in ("staging_anon", "staging"):
        Staging(sqlite_database, each).create()
    (create if fake else ssd_kit.create)(sqlite_database)
    [step] = ended(check(sqlite_database, TABLE_NAME=table), None)
    assert (step.hop, "stage refuses" in step.message) == ("source people", True)
    other = "staging_anon" if table == "staging" else "staging"
    assert not ended(check(sqlite_database, TABLE_NAME=other), None)


# --- Types ------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_types_that_are_converted_are_warnings(postgresql_database: Database) -> None:
    """Dates as text, ids as numbers, moments with a zone: each column named, and nothing fails."""
    Staging(postgresql_database).create()
    types = {
        "pers_dob": "VARCHAR(30)",
        "clap_cla_placement_end_date": "TIMESTAMP WITH TIME ZONE",
        "cinp_cin_plan_id": "INTEGER",
        "pers_legacy_id": "BIGINT",
        "csdq_sdq_score": "VARCHAR(3)",
        "cine_referral_nfa": "BOOLEAN",
    }
    create(postgresql_database, types=types)
    result = check(postgresql_database)
    dates, texts = ended(result, None)
    assert dates.message == (
        "2 date columns of another type than DATETIME: ssd_person.pers_dob (character varying), "
        "ssd_cla_placement.clap_cla_placement_end_date (timestamp with time zone)."
    )
    assert texts.message == (
        "2 text columns of another type: ssd_person.pers_legacy_id (bigint), "
        "ssd_cin_plans.cinp_cin_plan_id (integer)."
    )
    assert result.passed


@pytest.mark.postgresql
def test_types_that_cannot_be_read_are_failures(postgresql_database: Database) -> None:
    """The message says what the column has to be."""
    Staging(postgresql_database).create()
    create(postgresql_database, types={"pers_dob": "INTEGER", "s47e_s47_enquiry_id": "BYTEA"})
    result = check(postgresql_database)
    assert [step.message for step in ended(result, False)] == [
        "The column pers_dob of public.ssd_person is integer; it has to be a date or a time (DATETIME).",
        "The column s47e_s47_enquiry_id of public.ssd_s47_enquiry is bytea; it has to be text (NVARCHAR).",
    ]


@pytest.mark.parametrize(
    ("dialect", "kind", "type_", "fit"),
    [
        (SQL_SERVER, Kind.ID, "nvarchar", Fit.FITS),
        (SQL_SERVER, Kind.ID, "uniqueidentifier", Fit.CONVERTED),
        (SQL_SERVER, Kind.ID, "int", Fit.CONVERTED),
        (SQL_SERVER, Kind.ID, "ntext", Fit.UNREADABLE),
        (SQL_SERVER, Kind.TEXT, "ntext", Fit.FITS),
        (SQL_SERVER, Kind.TEXT, "varbinary", Fit.UNREADABLE),
        (SQL_SERVER, Kind.MOMENT, "date", Fit.FITS),
        (SQL_SERVER, Kind.MOMENT, "datetimeoffset", Fit.CONVERTED),
        (SQL_SERVER, Kind.MOMENT, "timestamp", Fit.UNREADABLE),
        (SQL_SERVER, Kind.VALUE, "bit", Fit.FITS),
        (SQL_SERVER, Kind.VALUE, "datetime", Fit.UNREADABLE),
        (POSTGRESQL, Kind.MOMENT, "timestamp without time zone", Fit.FITS),
        (POSTGRESQL, Kind.ID, "text", Fit.FITS),
        (SQLITE, Kind.MOMENT, "text", Fit.FITS),
        (SQLITE, Kind.ID, "", Fit.FITS),
        (SQLITE, Kind.ID, "blob", Fit.UNREADABLE),
    ],
)
def test_each_type_is_judged_by_what_it_gives(dialect: Any, kind: Kind, type_: str, fit: Fit) -> None:
    """SQL Server's TIMESTAMP is no time, and its NTEXT cannot be joined; SQLite's types are hints."""
    assert source_catalogue.fit(dialect, kind, type_) is fit


# --- Permissions ------------------------------------------------------------------------------------------


@pytest.fixture
def reader(postgresql_database: Database) -> Iterator[str]:
    """A login that may read the staging table and all of the source but two tables."""
    role = "csc_src_" + os.urandom(4).hex()
    Staging(postgresql_database).create()
    create(postgresql_database)
    postgresql_database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'svc'")
    postgresql_database.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    postgresql_database.execute(f"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
    for table in ("ssd_person", "ssd_address"):
        postgresql_database.execute(f"REVOKE ALL ON {table} FROM {role}")
    yield role
    postgresql_database.execute(f"DROP OWNED BY {role}")
    postgresql_database.execute(f"DROP ROLE {role}")


@pytest.mark.postgresql
def test_missing_right_to_read_and_the_grant_that_gives_it(
    postgresql_database: Database, reader: str
) -> None:
    """Each table is named, and its GRANT is enough."""
    text = changed(postgresql_database.connection_string, UID=reader, PWD="svc")
    result = check(postgresql_database, DB_CONNECTION_STRING=text)
    faults = [step for step in ended(result, False) if step.hop == "source permission"]
    assert [step.message for step in faults] == [
        "This login may not SELECT in public.ssd_person.",
        "This login may not SELECT in public.ssd_address.",
    ]
    mend(postgresql_database, faults)
    assert check(postgresql_database, DB_CONNECTION_STRING=text).passed


@pytest.mark.postgresql
def test_login_of_run_alone_needs_no_right_on_the_source(postgresql_database: Database, reader: str) -> None:
    """Where a T-SQL job alone may read the SSD, smoke passes, unless a setting asks for stage."""
    for table in SOURCE_TABLES:
        postgresql_database.execute(f"REVOKE ALL ON {table.name} FROM {reader}")
    text = changed(postgresql_database.connection_string, UID=reader, PWD="svc")
    result = check(postgresql_database, DB_CONNECTION_STRING=text)
    assert result.passed
    assert [step.message for step in result.steps if step.hop == "source"] == [
        "Not looked at: no setting of stage is given, and this login may read none of the SSD's tables."
    ]
    asked = check(postgresql_database, DB_CONNECTION_STRING=text, SSD_SCHEMA="public")
    assert len(ended(asked, False)) == len(SOURCE_TABLES)


@pytest.mark.postgresql
def test_right_to_read_some_columns(postgresql_database: Database, reader: str) -> None:
    """A column that may not be read is one that cannot be seen; those that are read are enough."""
    columns = ", ".join(Address._fields[:2])
    postgresql_database.execute(f"GRANT SELECT ON ssd_person TO {reader}")
    postgresql_database.execute(f"GRANT SELECT ({columns}) ON ssd_address TO {reader}")
    text = changed(postgresql_database.connection_string, UID=reader, PWD="svc")
    [step] = ended(check(postgresql_database, DB_CONNECTION_STRING=text), False)
    assert "no column addr_address_start_date that this login can see" in step.message
    postgresql_database.execute("ALTER TABLE ssd_address ADD COLUMN addr_more TEXT")
    postgresql_database.execute(f"GRANT SELECT (addr_address_start_date) ON ssd_address TO {reader}")
    assert check(postgresql_database, DB_CONNECTION_STRING=text).passed


# --- The cohort's table -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "ok", "words"),
    [
        ("", False, "There is no table stat_return"),
        ("person INT", False, "has no column person_id"),
        ("person_id BLOB", False, "which is no id"),
        ("PERSON_ID NVARCHAR(48)", True, "narrows the cohort"),
    ],
)
def test_cohort_table_has_to_be_there_with_its_column(
    sqlite_database: Database, columns: str, ok: bool, words: str
) -> None:
    """Missing, without the column, with an unusable one, and right."""
    Staging(sqlite_database).create()
    create(sqlite_database)
    if columns:
        sqlite_database.execute(f"CREATE TABLE stat_return ({columns})")
    step = of_source(check(sqlite_database, COHORT_TABLE="stat_return"))[-1]
    assert (step.hop, step.ok, words in step.message) == ("cohort table", ok, True)


# --- Advice -----------------------------------------------------------------------------------------------


def test_index_counts_only_where_it_begins_with_the_column_and_holds_all_rows(
    sqlite_database: Database,
) -> None:
    """A second column of an index, and one over some rows, do not help a join."""
    Staging(sqlite_database).create()
    create(sqlite_database)
    sqlite_database.execute("DROP INDEX ix_addr_person_id")
    sqlite_database.execute("CREATE INDEX a ON ssd_address (addr_address_postcode, addr_person_id)")
    sqlite_database.execute("CREATE INDEX b ON ssd_address (addr_person_id) WHERE addr_person_id > 'm'")
    [step] = ended(check(sqlite_database), None)
    assert step.message == "1 join column without an index: ssd_address.addr_person_id."
    sqlite_database.execute("CREATE INDEX c ON ssd_address (addr_person_id, addr_address_postcode)")
    assert ended(check(sqlite_database), None) == []


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_view_needs_no_index(request: pytest.FixtureRequest, kind: str) -> None:
    """It is read by the indexes of what lies beneath, so nothing is advised."""
    database: Database = request.getfixturevalue(f"{kind}_database")
    Staging(database).create()
    create(database)
    database.execute("ALTER TABLE ssd_address RENAME TO addresses")
    database.execute("DROP INDEX ix_addr_person_id")
    database.execute("CREATE VIEW ssd_address AS SELECT * FROM addresses")
    assert all(step.ok for step in of_source(check(database)))


def test_old_text_types_cannot_be_indexed() -> None:
    """Elsewhere TEXT is the usual type and can."""
    column = Column("x", "ntext", 1073741823, nullable=True)
    assert not source_catalogue.can_be_indexed(SQL_SERVER, column)
    assert source_catalogue.can_be_indexed(POSTGRESQL, Column("x", "text", None, nullable=True))


class Answering:
    """A SQL Server that answers one question, since the double does not know it."""

    dialect = SQL_SERVER

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def query(self, sql: str) -> Any:
        """Answer, or refuse."""
        assert "snapshot_isolation_state" in sql
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        ([(1,)], True, "as of one moment"),
        ([(0,)], None, "is off"),
        ([(3,)], None, "is off"),
        ([], None, "is off"),
        (DatabaseError("Refused."), None, "cannot be seen: Refused."),
    ],
)
def test_snapshot_isolation_is_advice(answer: Any, ok: bool | None, words: str) -> None:
    """Off, and on the way to on, come with the statement; where it cannot be asked, that is said."""
    database: Any = Answering(answer)
    step = _Inspection(database, settings_of())._snapshot()
    assert (step.ok, words in step.message) == (ok, True)
    off = ("ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON;",)
    assert step.sql == (off if words == "is off" else ())


# --- Another database -------------------------------------------------------------------------------------


def test_source_in_another_database(sqlite_database: Database, tmp_path: Path) -> None:
    """It is looked at where SSD_CONNECTION_STRING says, and only there."""
    Staging(sqlite_database).create()
    other = Database("sqlite", f"sqlite:///{tmp_path / 'ssd.db'}", "unused")
    create(other)
    other.close()
    assert not ended(check(sqlite_database, SSD_CONNECTION_STRING=other.connection_string), False)
    create(sqlite_database)
    missing = check(sqlite_database, SSD_CONNECTION_STRING=f"sqlite:///{tmp_path / 'none.db'}")
    [step] = ended(missing, False)
    assert (step.hop, missing.exit_code) == ("source database", ExitCode.DATABASE)


def test_source_is_looked_at_although_the_staging_database_is_closed(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """Both faults are told at once; without a database of its own there is only the one."""
    create(sqlite_database)
    sqlite_database.execute("DROP TABLE ssd_address")
    closed = f"sqlite:///{tmp_path / 'none.db'}"
    both = check(
        sqlite_database,
        DB_CONNECTION_STRING=closed,
        SSD_CONNECTION_STRING=sqlite_database.connection_string,
    )
    assert [step.hop for step in both.steps if step.ok is False] == ["database", "source table"]
    assert both.exit_code == ExitCode.DATABASE
    assert [step.hop for step in check(sqlite_database, DB_CONNECTION_STRING=closed).steps] == ["database"]


def test_looking_at_the_source_changes_nothing(sqlite_database: Database) -> None:
    """The file is the same, byte for byte."""
    Staging(sqlite_database).create()
    create(sqlite_database, indexes=False)
    sqlite_database.close()
    path = Path(sqlite_database.connection_string.removeprefix("sqlite:///"))
    before = path.read_bytes()
    assert check(sqlite_database).passed
    assert path.read_bytes() == before

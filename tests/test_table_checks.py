"""``test-schema`` finds what is wrong with a staging table, and the SQL that it gives mends it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import provision
from api_pipeline.check_result import CheckResult
from api_pipeline.dialects import SQL_SERVER
from api_pipeline.errors import ExitCode
from api_pipeline.ledger_schema import REMEMBERED
from api_pipeline.names import TableName
from api_pipeline.schema import STAGING_COLUMNS, Column
from api_pipeline.schema_repair import type_fits
from api_pipeline.table_checks import test_schema as check_schema
from tests import ssd_kit
from tests.databases import Database
from tests.db_kit import changed, folder_for_all, opened, ordinary_account
from tests.staging_kit import Staging, child
from tests.test_checks import settings_of


def check(database: Database, **changes: str) -> CheckResult:
    """Run ``test-schema`` on the test's table."""
    values = {"DB_CONNECTION_STRING": database.connection_string, "TABLE_NAME": database.table_name}
    return check_schema(settings_of(**{**values, **changes}))


def found(result: CheckResult, ok: bool | None) -> list[tuple[str, str]]:
    """Return hop and message of the steps that ended so, without those about the tables beside it."""
    return [
        (step.hop, step.message)
        for step in result.steps
        if step.ok is ok and step.hop not in ("submission log", "baseline table")
    ]


def mend(database: Database, result: CheckResult, *, warnings: bool = True) -> None:
    """Run the SQL of every step that has some, or of the failures alone, as an administrator would."""
    for step in result.steps:
        if step.ok is None and not warnings:
            continue
        for statement in step.sql:
            database.execute(statement)


def test_table_of_init_db_passes(database: Database) -> None:
    """Of what init-db makes, nothing is missing and nothing is worth a warning."""
    opened(database).close()
    settings = settings_of(DB_CONNECTION_STRING=database.connection_string, TABLE_NAME=database.table_name)
    provision.init_db(settings)
    result = check_schema(settings)
    assert (result.passed, result.exit_code) == (True, ExitCode.OK)
    assert all(step.ok for step in result.steps)
    for hop in ("submission log", "baseline table"):
        assert any(step.hop == hop and "_anon is there" in step.message for step in result.steps)


def test_missing_table_and_the_sql_that_makes_it(database: Database) -> None:
    """A missing table is a failed check and no database that cannot be reached; its SQL makes it."""
    opened(database).close()
    result = check(database)
    assert [hop for hop, _ in found(result, False)] == ["table"]
    assert result.exit_code == ExitCode.FAILED
    mend(database, result)
    assert check(database).passed


# For each kind of database a table with every fault that SQL can mend there, and the hops to be named.
BROKEN: dict[str, tuple[dict[str, str | None], list[str]]] = {
    "sqlite": (
        {
            "partial_json_payload": None,
            "current_hash": None,
            "submission_status": None,
            "last_updated": None,
            "previous_hash": "NVARCHAR(64)",
        },
        ["column", "column", "column", "column", "type"],
    ),
    "postgresql": (
        {
            "id": None,
            "legacy_id": None,
            "row_state": None,
            "person_id": "INTEGER",
            "current_hash": "VARCHAR(64)",
            "submission_status": "VARCHAR(5)",
            "submission_timestamp": "DATE",
            "api_response": "BYTEA",
        },
        ["column", "type", "type", "type", "type", "width"],
    ),
    "sqlserver": (
        {
            "id": None,
            "legacy_id": None,
            "partial_json_payload": None,
            "current_hash": None,
            "submission_status": None,
            "last_updated": None,
            "row_state": "NVARCHAR(5) NOT NULL DEFAULT 'New'",
            "json_payload": "NVARCHAR(4000) NOT NULL",
            "previous_hash": "NVARCHAR(64)",
            "submission_timestamp": "NVARCHAR(30)",
        },
        ["column", "column", "column", "column", "type", "type", "width", "width"],
    ),
}


def test_each_fault_is_named_and_its_sql_mends_it(database: Database) -> None:
    """A table with every kind of fault, and a row in it, passes once the SQL has been run."""
    changes, hops = BROKEN[database.kind]
    staging = Staging(database).create(**changes)
    database.execute(f"INSERT INTO {staging.table} (person_id, json_payload) VALUES ('1', '{{}}')")
    result = check(database)
    faults = found(result, False)
    assert (sorted(hop for hop, _ in faults), result.exit_code) == (hops, ExitCode.FAILED)
    for name in changes:
        assert f"column {name}" in result.as_text()
    if database.kind == "sqlserver":
        assert ("width", "The column row_state has a width of 5; 9 are needed.") in faults
    mend(database, result)
    again = check(database)
    assert (found(again, False), again.passed) == ([], True)
    if database.kind != "sqlite":
        assert "The column id tells all rows apart." in again.as_text()


def test_width_that_sqlite_does_not_enforce_is_a_warning(sqlite_database: Database) -> None:
    """Both widths are named all the same."""
    Staging(sqlite_database).create(row_state="NVARCHAR(5)", json_payload="nvarchar NOT NULL")
    result = check(sqlite_database)
    assert result.passed
    assert [(hop, "of 5; 9 are needed" in message) for hop, message in found(result, None)] == [
        ("width", True)
    ]


def test_type_that_sqlite_cannot_alter_says_what_to_do(sqlite_database: Database) -> None:
    """There is no SQL for it, so the remedy is a new table."""
    Staging(sqlite_database).create(api_response="INTEGER")
    [step] = [step for step in check(sqlite_database).steps if step.ok is False]
    assert (step.hop, step.sql, "init-db" in step.remedy) == ("type", (), True)


def test_payload_column_of_a_code_page_is_a_warning(sqlserver_database: Database) -> None:
    """VARCHAR would turn other scripts into question marks; its SQL makes it NVARCHAR."""
    Staging(sqlserver_database).create(json_payload="VARCHAR(MAX) NOT NULL")
    result = check(sqlserver_database)
    assert (result.passed, "other scripts" in result.as_text()) == (True, True)
    mend(sqlserver_database, result)
    assert found(check(sqlserver_database), None) == []


@pytest.mark.parametrize("old", ["text", "ntext"])
def test_old_text_types_of_sql_server_do_not_fit(old: str) -> None:
    """No function for text takes them there; elsewhere TEXT is the usual type."""
    spec = next(spec for spec in STAGING_COLUMNS if spec.name == "json_payload")
    assert not type_fits(SQL_SERVER, spec, Column("json_payload", old, None, nullable=True))


@pytest.mark.parametrize("change", [None, "TEXT", "INTEGER"])
def test_table_without_a_usable_id_is_keyed_by_person_id(
    sqlite_database: Database, change: str | None
) -> None:
    """No id, an id of another type, and an id that repeats are warnings that say what is used instead."""
    staging = Staging(sqlite_database).create(id=change)
    ids: dict[str, Any] = {"id": 7} if change else {}
    for person in ("P1", "P2"):
        staging.add(person, child(person), **ids)
    result = check(sqlite_database)
    assert result.passed
    assert any("by person_id" in message for _, message in found(result, None))


def test_rows_that_no_run_sends_are_counted(database: Database) -> None:
    """Unknown statuses and people with several rows are warnings with counts."""
    staging = Staging(database).create()
    for person, status in (("P1", "Hold "), ("P2", "HOLD"), ("P3", "Review"), ("P4", None), ("P4", "SENT")):
        staging.add(person, child("c"), status)
    result = check(database)
    assert result.passed
    assert [message.split(",")[0] for _, message in found(result, None)] == [
        "2 rows have the status 'hold'",
        "1 rows have the status 'review'",
        "2 rows share a person_id: none of those rows is sent.",
    ]


# --- The submission log and the baseline table ------------------------------------------------------------


def beside(database: Database) -> tuple[str, str]:
    """Return the names of log and baseline as a statement takes them."""
    staging = TableName.parse(database.table_name)
    with opened(database) as ours:
        log, baseline = (ours.dialect.table(table.name(staging)) for table in REMEMBERED)
    return log, baseline


def test_missing_log_and_baseline_are_warnings_with_their_sql(database: Database) -> None:
    """Full mode works without them; the SQL of the two warnings makes what init-db would."""
    Staging(database).create()
    result = check(database)
    warnings = [step for step in result.steps if step.ok is None]
    assert [step.hop for step in warnings] == ["submission log", "baseline table"]
    assert (result.passed, result.exit_code) == (True, ExitCode.OK)
    assert all("full mode works without it" in step.message for step in warnings)
    mend(database, result)
    assert all(step.ok for step in check(database).steps)


@pytest.mark.parametrize("which", [0, 1])
def test_missing_column_beside_is_a_failure_that_its_sql_mends(database: Database, which: int) -> None:
    """One column less of either table fails, and the SQL adds it again."""
    Staging(database).create()
    mend(database, check(database))
    hop, column = (("submission log", "detail"), ("baseline table", "full_next"))[which]
    database.execute(f"ALTER TABLE {beside(database)[which]} DROP COLUMN {column}")
    result = check(database)
    [step] = [step for step in result.steps if step.ok is False]
    assert (step.hop, f"column {column} " in step.message) == (hop, True)
    assert result.exit_code == ExitCode.FAILED
    mend(database, result)
    assert check(database).passed


@pytest.mark.postgresql
def test_wrong_types_and_widths_beside_are_failures_that_their_sql_mends(
    postgresql_database: Database,
) -> None:
    """A narrow id, a number as text and a hash as text, each named with its table."""
    Staging(postgresql_database).create()
    mend(postgresql_database, check(postgresql_database))
    log, baseline = beside(postgresql_database)
    for statement in (
        f"ALTER TABLE {log} ALTER COLUMN person_id TYPE VARCHAR(20)",
        f"ALTER TABLE {log} ALTER COLUMN http_status TYPE VARCHAR(3)",
        f"ALTER TABLE {baseline} DROP COLUMN payload_hash",
        f"ALTER TABLE {baseline} ADD COLUMN payload_hash VARCHAR(64)",
    ):
        postgresql_database.execute(statement)
    result = check(postgresql_database)
    faults = [step.message for step in result.steps if step.ok is False]
    assert [message.split(": ")[0] for message in faults] == [
        "public.ssd_api_submission_log_anon",
        "public.ssd_api_submission_log_anon",
        "public.ssd_api_baseline_anon",
    ]
    for part in ("person_id has a width of 20; 48", "http_status is character varying", "payload_hash is"):
        assert any(part in message for message in faults)
    mend(postgresql_database, result)
    assert check(postgresql_database).passed


def test_another_table_of_the_same_name_is_a_failure(database: Database) -> None:
    """What lacks the key is not the tool's table: no SQL is given that would change it."""
    Staging(database).create()
    for name in beside(database):
        database.execute(f"CREATE TABLE {name} (id INT)")
    result = check(database)
    faults = [step for step in result.steps if step.ok is False]
    assert [step.hop for step in faults] == ["submission log", "baseline table"]
    assert all("is not the tool's table" in step.message and not step.sql for step in faults)


def test_lines_that_cannot_be_told_apart_are_a_failure(local: Staging) -> None:
    """A copy of the baseline table that lost its primary key, and has a person twice."""
    mend(local.database, check(local.database))
    _, baseline = beside(local.database)
    local.database.execute(f"ALTER TABLE {baseline} RENAME TO old")
    local.database.execute(f"CREATE TABLE {baseline} AS SELECT * FROM old")
    assert check(local.database).passed
    for _ in range(2):
        local.database.execute(f"INSERT INTO {baseline} (person_id, state) VALUES ('P1', 'unknown')")
    [step] = [step for step in check(local.database).steps if step.ok is False]
    assert (step.hop, "person_id repeat" in step.message) == ("baseline table", True)


# --- Permissions -----------------------------------------------------------------------------------------


class TestPermissions:
    """What the login may do."""

    @pytest.fixture
    def role(self, postgresql_database: Database) -> Any:
        """A login with no privilege at all, and the test's table."""
        role = "csc_svc_" + os.urandom(4).hex()
        Staging(postgresql_database).create()
        postgresql_database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'svc'")
        postgresql_database.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        yield role
        postgresql_database.execute(f"DROP OWNED BY {role}")
        postgresql_database.execute(f"DROP ROLE {role}")

    def check_as(self, database: Database, role: str) -> CheckResult:
        """Run ``test-schema`` as that login."""
        return check(database, DB_CONNECTION_STRING=changed(database.connection_string, UID=role, PWD="svc"))

    def test_missing_privileges_and_the_grant_that_gives_them(
        self, postgresql_database: Database, role: str
    ) -> None:
        """From nothing to all in the steps that the GRANT statements give."""
        table = postgresql_database.table_name
        nothing = self.check_as(postgresql_database, role)
        assert (found(nothing, False)[0][0], nothing.exit_code) == ("permission", ExitCode.FAILED)
        postgresql_database.execute(f"GRANT SELECT ON {table} TO {role}")
        reader = self.check_as(postgresql_database, role)
        [(hop, message)] = found(reader, False)
        assert (hop, "may not UPDATE" in message) == ("permission", True)
        mend(postgresql_database, reader, warnings=False)
        assert self.check_as(postgresql_database, role).passed
        postgresql_database.execute(f"REVOKE ALL ON {table} FROM {role}")
        mend(postgresql_database, nothing, warnings=False)
        assert self.check_as(postgresql_database, role).passed

    def test_privileges_on_columns_are_enough(self, postgresql_database: Database, role: str) -> None:
        """A login that may update just what the tool writes is in order; one column less is not."""
        table = postgresql_database.table_name
        written = (
            "submission_status, submission_timestamp, api_response, row_state, current_hash, previous_hash, "
            "previous_json_payload, partial_json_payload"
        )
        postgresql_database.execute(f"GRANT SELECT, UPDATE ({written}) ON {table} TO {role}")
        assert self.check_as(postgresql_database, role).passed
        postgresql_database.execute(f"REVOKE UPDATE (row_state) ON {table} FROM {role}")
        assert not self.check_as(postgresql_database, role).passed

    def test_stage_needs_more_than_run(self, postgresql_database: Database, role: str) -> None:
        """An SSD beside the table makes it a warning, a setting of stage a failure; its GRANT mends both."""
        table = postgresql_database.table_name
        ssd_kit.create(postgresql_database)
        postgresql_database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        postgresql_database.execute(f"GRANT UPDATE ON {table} TO {role}")
        result = self.check_as(postgresql_database, role)
        [message] = [message for hop, message in found(result, None) if hop == "permission"]
        assert result.passed
        assert "may not INSERT all of" in message
        meant = check(
            postgresql_database,
            DB_CONNECTION_STRING=changed(postgresql_database.connection_string, UID=role, PWD="svc"),
            SSD_SCHEMA="public",
        )
        assert [hop for hop, _ in found(meant, False)] == ["permission"]
        mend(postgresql_database, meant, warnings=False)
        assert not [
            hop for hop, _ in found(self.check_as(postgresql_database, role), None) if hop == "permission"
        ]

    @pytest.mark.parametrize("privilege", ["SELECT", "INSERT", "UPDATE", "DELETE"])
    def test_log_and_baseline_need_all_four_privileges(
        self, postgresql_database: Database, role: str, privilege: str
    ) -> None:
        """Any of them less on either table is a failed check, and its GRANT gives it."""
        mend(postgresql_database, check(postgresql_database))
        names = beside(postgresql_database)
        postgresql_database.execute(f"GRANT ALL ON {postgresql_database.table_name} TO {role}")
        for name in names:
            postgresql_database.execute(f"GRANT ALL ON {name} TO {role}")
        assert self.check_as(postgresql_database, role).passed
        for name in names:
            postgresql_database.execute(f"REVOKE {privilege} ON {name} FROM {role}")
        result = self.check_as(postgresql_database, role)
        faults = [message for _, message in found(result, False)]
        assert len(faults) == 2
        assert all(f"may not {privilege} in public.ssd_api_" in message for message in faults)
        mend(postgresql_database, result)
        assert self.check_as(postgresql_database, role).passed

    def test_schema_that_may_not_be_used(self, postgresql_database: Database, role: str) -> None:
        """The server's refusal is a failed check at the hop permission."""
        postgresql_database.execute(f"REVOKE USAGE ON SCHEMA public FROM {role}")
        name = f"public.{postgresql_database.table_name}"
        result = check(
            postgresql_database,
            DB_CONNECTION_STRING=changed(postgresql_database.connection_string, UID=role, PWD="svc"),
            TABLE_NAME=name,
        )
        assert (found(result, False)[0][0], result.exit_code) == ("permission", ExitCode.FAILED)

    @pytest.mark.parametrize("locked", ["file", "folder"])
    def test_sqlite_file_and_folder_must_be_writable(self, locked: str) -> None:
        """Either without write permission is a failed check; nothing was written to find out."""
        with folder_for_all() as folder:
            database = Database("sqlite", f"sqlite:///{folder / 's.db'}", "staging_anon")
            Staging(database).create()
            database.close()
            (folder / "s.db").chmod(0o444 if locked == "file" else 0o666)
            folder.chmod(0o777 if locked == "file" else 0o555)
            check(database)  # loads what the other account could not
            with ordinary_account():
                result = check(database)
        assert [hop for hop, _ in found(result, False)] == ["permission"]
        assert result.exit_code == ExitCode.FAILED

    def test_looking_changes_nothing(self, sqlite_database: Database) -> None:
        """The file is the same, byte for byte, and no other file is left."""
        staging = Staging(sqlite_database).create()
        staging.add("P1", child("c"))
        sqlite_database.close()
        path = Path(sqlite_database.connection_string.removeprefix("sqlite:///"))
        before = path.read_bytes()
        assert check(sqlite_database).passed
        assert path.read_bytes() == before
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_database_that_goes_away_has_its_own_code(sqlserver_database: Database) -> None:
    """A connection lost for good is the database's code, also in the middle."""
    Staging(sqlserver_database).create()
    sqlserver_database.set_faults({"match": "HAS_PERMS", "times": 0, "do": "drop"})
    result = check(sqlserver_database)
    assert (found(result, False)[-1][0], result.exit_code) == ("connection", ExitCode.DATABASE)

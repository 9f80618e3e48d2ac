"""Locks and faults of the database lose and double nothing."""

from __future__ import annotations

from typing import Any

import pytest

from api_pipeline import db, pipeline
from api_pipeline.config import Settings
from api_pipeline.errors import DatabaseError, ExitCode, LockedError
from api_pipeline.locking import RunLock
from api_pipeline.pipeline import RunOptions
from tests.databases import Database
from tests.staging_kit import (
    MARKER,
    HookedReceiver,
    Staging,
    add_five,
    child,
    run,
    sent_records,
    settings_of,
)

# --- The database ------------------------------------------------------------------------------------------


def test_second_run_finds_the_lock(staging: Staging, hooked: HookedReceiver) -> None:
    """While one run is at work another one is refused, does nothing, and the first goes on."""
    add_five(staging)
    refused: list[LockedError] = []

    def meddle(_: Any) -> None:
        try:
            run(staging, hooked)
        except LockedError as error:
            refused.append(error)

    hooked.hook = meddle
    assert run(staging, hooked).sent == 5
    assert len(refused) == 1
    assert refused[0].exit_code == ExitCode.LOCKED
    assert len(hooked.submissions) == 1
    hooked.hook = None
    assert run(staging, hooked).exit_code == ExitCode.OK


def test_dry_run_needs_no_lock(local: Staging, hooked: HookedReceiver) -> None:
    """A look at the table is possible while a run is at work."""
    add_five(local)
    seen: list[int] = []
    hooked.hook = lambda _: seen.append(run(local, None, dry_run=True).due)
    run(local, hooked)
    assert seen == [5]


def test_missing_table_is_a_database_error(database: Database, hooked: HookedReceiver) -> None:
    """The table is named; nothing was done."""
    database.query("SELECT 1")  # SQLite makes the file
    with pytest.raises(DatabaseError, match=database.table_name.rsplit(".", 1)[-1]):
        run(Staging(database), hooked)
    assert not hooked.requests


@pytest.mark.sqlserver
@pytest.mark.parametrize(
    "fault",
    [
        {"match": "UPDATE t SET", "do": "1205"},
        {"match": "UPDATE t SET", "do": "drop"},
        {"match": "COMMIT TRANSACTION", "do": "drop"},
        {"match": "COMMIT TRANSACTION", "do": "drop_after"},
        {"match": "SELECT TOP", "do": "drop", "k": 3},
    ],
    ids=["deadlock", "lost", "lost before commit", "lost after commit", "lost while reading"],
)
def test_passing_database_faults_lose_nothing(
    sqlserver_database: Database,
    hooked: HookedReceiver,
    fault: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deadlock and lost connection, before and after the commit: repeated, and each row counted once."""
    monkeypatch.setattr("api_pipeline.db.Database._wait", lambda *_: None)
    staging = Staging(sqlserver_database).create()
    add_five(staging)
    staging.add_sent("gone", child("c9"), "Deleted")
    staging.add("bad", "not json")
    sqlserver_database.set_faults(fault)
    summary = run(staging, hooked)
    assert (summary.sent, summary.deleted, summary.failed, summary.changed_meanwhile) == (5, 1, 1, 0)
    assert summary.exit_code == ExitCode.FAILED
    assert staging.row("gone")["current_hash"] == MARKER
    assert len(hooked.children) == 5


@pytest.mark.sqlserver
def test_database_that_stays_lost_is_told(
    sqlserver_database: Database, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted but not recorded is counted, and the code is 3; the next run records it."""
    monkeypatch.setattr("api_pipeline.db.Database._wait", lambda *_: None)
    staging = Staging(sqlserver_database).create()
    add_five(staging)
    sqlserver_database.set_faults(
        {"match": "submission_status = 'sent'.*OUTPUT", "do": "error", "number": 9002, "times": 0}
    )
    summary = run(staging, hooked)
    assert (summary.sent, summary.unrecorded, summary.exit_code) == (0, 5, ExitCode.DATABASE)
    sqlserver_database.set_faults()
    summary = run(staging, hooked)
    assert (summary.replayed, summary.due, len(hooked.submissions)) == (5, 0, 1)
    assert set(staging.statuses().values()) == {"sent"}


@pytest.mark.sqlserver
def test_no_transaction_is_open_while_a_request_is_under_way(
    sqlserver_database: Database, hooked: HookedReceiver
) -> None:
    """During a POST every connection of the run is out of any transaction."""
    staging = Staging(sqlserver_database).create()
    add_five(staging)
    open_ones: list[int] = []

    def meddle(_: Any) -> None:
        open_ones.extend(record["trancount"] for record in sqlserver_database.log_records()[-1:])

    hooked.hook = meddle
    run(staging, hooked, BATCH_SIZE=1)
    assert open_ones == [0] * 5


def test_lock_is_per_table(database: Database) -> None:
    """Two tables of one database can be sent at the same time; one table cannot."""
    Staging(database).create()
    with db.connect(database.connection_string) as one, db.connect(database.connection_string) as two:
        with RunLock(one, "dbo.a"):
            with RunLock(two, "dbo.b"):
                pass
            with pytest.raises(LockedError), RunLock(two, "DBO.A"):
                pass
        with RunLock(two, "dbo.a"):
            pass


def test_settings_are_not_changed_by_a_run(local: Staging, hooked: HookedReceiver) -> None:
    """Settings are frozen: the same object serves many runs."""
    add_five(local)
    settings: Settings = settings_of(local, hooked)
    assert pipeline.run(settings, RunOptions()).sent == 5
    assert pipeline.run(settings, RunOptions()).due == 0
    assert sent_records(hooked)[0][0]["la_child_id"] == "c0"

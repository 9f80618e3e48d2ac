"""Whole nights from the source tables to the staging table, and on to the receiver (ssd, section 5)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db
from api_pipeline import stage as stage_module
from api_pipeline.errors import (
    ConfigError,
    ConnectionLostError,
    DatabaseError,
    ExitCode,
    LockedError,
)
from api_pipeline.locking import RunLock
from api_pipeline.names import TableName
from api_pipeline.progress import Progress
from api_pipeline.refresh import Refresher
from api_pipeline.schema import require
from api_pipeline.ssd_source import SsdSource
from api_pipeline.stage import StageOptions
from tests.databases import Database
from tests.db_kit import Waits
from tests.stage_kit import AS_OF, Source, family
from tests.staging_kit import HookedReceiver, Staging, digest, run, sent_ids, settings_of

NAME = "Zaphod"


@pytest.fixture
def source(staging: Staging) -> Source:
    """Empty source tables beside the staging table, in each kind of database in turn."""
    return Source(staging, staging.database).create()


@pytest.fixture
def local_source(local: Staging) -> Source:
    """The same in SQLite, for what no dialect changes."""
    return Source(local, local.database).create()


def states(staging: Staging) -> dict[str, str]:
    """Return each person's state."""
    return {row["person_id"]: row["row_state"] for row in staging.rows()}


# --- Through to the receiver ------------------------------------------------------------------------------


def test_three_nights_to_the_receiver(source: Source, hooked: HookedReceiver) -> None:
    """The receiver holds the cohort after every night: newcomers, changes, departures and returns."""
    three_nights(source, hooked, partial=False)


def test_three_nights_of_partial_payloads(local_source: Source) -> None:
    """The same in partial mode, with submission log and baseline."""
    with HookedReceiver(keep_bodies=True, apply_partials=True) as receiver:
        three_nights(local_source, receiver, partial=True)


def three_nights(source: Source, hooked: HookedReceiver, *, partial: bool) -> None:
    """Go through arrivals, changes, departures and returns."""
    staging = source.staging.remember() if partial else source.staging
    source.add(*(family(f"p{number}") for number in range(4)))
    first = source.stage()
    assert (first.exit_code, first.cohort, first.changes.new, first.written) == (ExitCode.OK, 4, 4, 4)
    assert first.grounds == {"an episode overlaps the window": 4}
    assert run(staging, hooked, USE_PARTIAL_PAYLOAD=partial).sent == 4
    assert set(hooked.children) == {"p0", "p1", "p2", "p3"}

    assert source.stage().changes.unchanged == 4
    assert run(staging, hooked, USE_PARTIAL_PAYLOAD=partial).due == 0

    source.remove("p2")
    source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")
    source.add(family("p4"))
    second = source.stage()
    assert (second.changes.new, second.changes.updated, second.changes.deleted) == (1, 1, 1)
    run(staging, hooked, USE_PARTIAL_PAYLOAD=partial)
    assert set(hooked.children) == {"p0", "p1", "p3", "p4"}
    assert hooked.children["p1"]["child_details"]["surname"] == "Dent"
    assert source.stage().written == 0

    source.add([family("p2")[0]])
    assert source.stage().changes.returned == 1
    run(staging, hooked, USE_PARTIAL_PAYLOAD=partial)
    assert set(hooked.children) == {"p0", "p1", "p2", "p3", "p4"}
    assert source.stage().written == 0


def test_taking_over_sends_nothing(source: Source, hooked: HookedReceiver) -> None:
    """In full mode, without the tables that remember."""
    taking_over(source, hooked, partial=False)


def test_taking_over_sends_nothing_in_partial_mode(local_source: Source, hooked: HookedReceiver) -> None:
    """With submission log and baseline."""
    taking_over(local_source, hooked, partial=True)


def taking_over(source: Source, hooked: HookedReceiver, *, partial: bool) -> None:
    """Rows with equal payloads under another refresh's hashes get ours, and stay as sent as they were."""
    staging = source.staging.remember() if partial else source.staging
    source.add(*(family(f"p{number}") for number in range(3)))
    source.stage()
    run(staging, hooked, USE_PARTIAL_PAYLOAD=partial)
    posts = len(hooked.submissions)
    for number in range(3):
        other = digest(f"job {number}")
        staging.update(f"p{number}", current_hash=other, previous_hash=other)
    summary = source.stage()
    assert (summary.changes.hash_only, summary.written, summary.exit_code) == (3, 3, ExitCode.OK)
    assert run(staging, hooked, USE_PARTIAL_PAYLOAD=partial).due == 0
    assert len(hooked.submissions) == posts
    source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")
    source.stage()
    run(staging, hooked, USE_PARTIAL_PAYLOAD=partial)
    assert sent_ids(hooked)[posts:] == [["p1"]]


# --- Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fake", "table"), [(False, "staging_anon"), (True, "staging")])
def test_real_and_fake_people_never_meet(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, fake: bool, table: str
) -> None:
    """A real source with an _anon table, or a fake one with any other, is code 2 before anything is read."""
    staging = Staging(sqlite_database, table).create()
    source = Source(staging, sqlite_database).create(fake=fake).add(family("p1"))
    with monkeypatch.context() as patch:
        patch.setattr(SsdSource, "pages", None)
        patch.setattr(SsdSource, "require", None)
        for dry_run in (False, True):
            with pytest.raises(ConfigError, match="people"):
                source.stage(dry_run=dry_run)
    assert staging.rows() == []
    other = Staging(sqlite_database, "staging" if table == "staging_anon" else "staging_anon").create()
    assert Source(other, sqlite_database).stage().changes.new == 1


def test_missing_source_table_or_column_is_named(local_source: Source) -> None:
    """Half a source is a fault of the database, code 3, and never an empty list."""
    local_source.add(family("p1")).stage()
    before = local_source.staging.rows()
    for statement, name in (
        (
            f"ALTER TABLE {local_source.table('ssd_cin_plans')} DROP COLUMN cinp_cin_plan_end_date",
            "cinp_cin_plan_end_date",
        ),
        (f"DROP TABLE {local_source.table('ssd_cp_plans')}", "ssd_cp_plans"),
    ):
        local_source.database.execute(statement)
        with pytest.raises(DatabaseError, match=name) as caught:
            local_source.stage()
        assert caught.value.exit_code is ExitCode.DATABASE
        local_source.database.execute(f"DROP TABLE IF EXISTS {local_source.table('ssd_cin_plans')}")
        local_source.create()
    assert local_source.staging.rows() == before


def test_lock_of_another_run(local_source: Source) -> None:
    """While a run holds the table nothing is staged; a dry run takes no lock and needs none."""
    staging = local_source.staging
    local_source.add(family("p1"))
    with (
        db.connect(staging.database.connection_string) as other,
        RunLock(other, require(other, TableName.parse(staging.table)).full_name),
    ):
        with pytest.raises(LockedError):
            local_source.stage()
        assert local_source.stage(dry_run=True).changes.new == 1
    assert staging.rows() == []
    assert local_source.stage().written == 1


def test_day_outside_the_calendar_is_refused(local_source: Source) -> None:
    """A window that no calendar has is a fault of the settings."""
    with pytest.raises(ConfigError, match="calendar"):
        local_source.stage(WINDOW_MONTHS=1200, as_of=AS_OF.replace(year=50))


# --- One transaction --------------------------------------------------------------------------------------


def test_request_to_stop_rolls_back(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before the request is gone; the code is 130."""
    source.add(*(family(f"p{number}") for number in range(3))).stage()
    before = source.staging.rows()
    source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")
    stop = threading.Event()
    finish = Refresher.finish

    def stopping(refresher: Refresher, percent: float | None) -> list[str]:
        found = finish(refresher, percent)
        stop.set()
        return found

    monkeypatch.setattr(Refresher, "finish", stopping)
    summary = source.stage(stop=stop)
    assert (summary.exit_code, summary.written) == (ExitCode.INTERRUPTED, 0)
    assert "asked to stop" in summary.as_table()
    assert source.staging.rows() == before


def test_request_to_stop_between_pages(local_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is heard after every lot of payloads."""
    local_source.add(*(family(f"p{number}") for number in range(4)))
    monkeypatch.setattr(stage_module, "_TAKEN_AT_ONCE", 1)
    stop = threading.Event()
    taken: list[int] = []
    take = Refresher.take

    def stopping(refresher: Refresher, people: Any) -> None:
        take(refresher, people)
        taken.append(len(people))
        stop.set()

    monkeypatch.setattr(Refresher, "take", stopping)
    assert local_source.stage(stop=stop).exit_code is ExitCode.INTERRUPTED
    assert taken == [1]
    assert local_source.staging.rows() == []


def test_lost_connection_begins_anew(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a passing fault, over a new connection, the whole night is done again, and counted once."""
    source.add(*(family(f"p{number}") for number in range(3)), family(None))
    finish = Refresher.finish
    attempts: list[int] = []

    def failing(refresher: Refresher, percent: float | None) -> list[str]:
        found = finish(refresher, percent)
        attempts.append(refresher.changes.new)
        if len(attempts) == 1:
            raise ConnectionLostError("passing")
        return found

    monkeypatch.setattr(Refresher, "finish", failing)
    summary = source.stage(stop=Waits())
    assert attempts == [3, 3]
    assert (summary.people, summary.changes.new, summary.left) == (3, 3, 1)
    assert set(states(source.staging).values()) == {"new"}


def test_row_written_by_another_job_meanwhile(
    postgresql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else commits between our reading and writing is not lost: the night is done again."""
    staging = Staging(postgresql_database).create()
    source = Source(staging, postgresql_database).create().add(family("p1"), family("p2"))
    source.stage()
    source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")
    finish = Refresher.finish
    attempts: list[int] = []

    def meddling(refresher: Refresher, percent: float | None) -> list[str]:
        attempts.append(refresher.changes.updated)
        if len(attempts) == 1:
            staging.update("p1", api_response="from another job")
        return finish(refresher, percent)

    monkeypatch.setattr(Refresher, "finish", meddling)
    stop = Waits()
    assert source.stage(stop=stop).changes.updated == 1
    assert (attempts, len(stop.seconds)) == ([1, 1], 1)
    row = staging.row("p1")
    assert (row["row_state"], row["api_response"]) == ("updated", "from another job")


def test_commit_that_fails_leaves_nothing(local_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the commit is refused for good, the table is as before."""
    local_source.add(family("p1"), family("p2")).stage()
    before = local_source.staging.rows()
    local_source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")

    def refused(*_: object) -> Iterator[Any]:
        raise DatabaseError("refused")

    monkeypatch.setattr(Refresher, "finish", refused)
    with pytest.raises(DatabaseError, match="refused"):
        local_source.stage()
    assert local_source.staging.rows() == before


def test_brake_rolls_everything_back(local_source: Source) -> None:
    """Changes and newcomers of such a night are not written either; the message says how to go on."""
    local_source.add(*(family(f"p{number}") for number in range(25))).stage()
    local_source.remove(*(f"p{number}" for number in range(21)))
    local_source.add(family("new"))
    before = local_source.staging.rows()
    summary = local_source.stage()
    assert (summary.exit_code, summary.changes.deleted, summary.written) == (ExitCode.FAILED, 21, 0)
    assert "21 of 25 staged people would be deleted" in summary.held_because
    assert "--allow-deletions" in summary.as_table()
    assert local_source.staging.rows() == before
    assert "moved on" not in summary.held_because
    assert local_source.stage(MAX_DELETIONS_PERCENT=100, dry_run=True).exit_code is ExitCode.OK
    assert local_source.stage(allow_deletions=True).changes.deleted == 21


def test_brake_names_the_window_that_has_moved(local_source: Source) -> None:
    """In the month after it did, which is when thousands may leave on one day."""
    local_source.add(*(family(f"p{number}") for number in range(25))).stage()
    summary = local_source.stage(as_of=AS_OF.replace(2030, 4, 30))
    assert summary.changes.lost == {"child_and_family_assessments": (25, 25)}
    assert "moved on by a year: what ended before 2028-04-01 leaves" in summary.held_because


def test_emptied_list_of_the_source_holds_the_brake(local_source: Source) -> None:
    """A half-loaded table is a fault too: which list, and how many of how many, is told."""
    local_source.add(*(family(f"p{number}", assessments=3) for number in range(11))).stage()
    local_source.database.execute("DELETE FROM ssd_cin_assessments WHERE cina_assessment_id NOT LIKE '%-0'")
    before = local_source.staging.rows()
    summary = local_source.stage()
    assert summary.exit_code is ExitCode.FAILED
    assert summary.as_json()["records_lost"] == {"child_and_family_assessments": {"lost": 22, "of": 33}}
    assert "22 of 33" in summary.as_table()
    assert local_source.staging.rows() == before
    assert local_source.stage(allow_deletions=True).changes.updated == 11


# --- Two databases ----------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(local: Staging, tmp_path: Path) -> Iterator[Source]:
    """Source tables in a SQLite file of their own."""
    database = Database("sqlite", f"sqlite:///{tmp_path / 'ssd.db'}", "unused")
    yield Source(local, database).create()
    database.close()


def test_source_in_a_database_of_its_own(elsewhere: Source) -> None:
    """The source is only read, the staging table alone is written."""
    elsewhere.add(family("p1"), family("p2"))
    before = Path(elsewhere.settings["SSD_CONNECTION_STRING"].removeprefix("sqlite:///")).read_bytes()
    assert elsewhere.stage(dry_run=True).changes.new == 2
    assert elsewhere.stage().written == 2
    elsewhere.remove("p2")
    after = elsewhere.stage()
    assert (after.changes.unchanged, after.changes.deleted) == (1, 1)
    assert before


def test_source_of_another_server(postgresql_database: Database, tmp_path: Path) -> None:
    """Source and staging table may lie on servers of different kinds."""
    of_server = Staging(postgresql_database, "unused")
    source = Source(of_server, postgresql_database).create().add(family("p1"))
    staging = Staging(Database("sqlite", f"sqlite:///{tmp_path / 'other.db'}", "staging_anon")).create()
    assert Source(staging, source.database).stage().written == 1
    assert states(staging) == {"p1": "new"}
    staging.database.close()


def test_one_file_named_twice_is_one_database(local_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The staging file given as SSD_CONNECTION_STRING too, by another path, is no second database."""
    local_source.add(family("p1"))
    folder = Path(local_source.database.connection_string.removeprefix("sqlite:///")).parent
    monkeypatch.chdir(folder)
    assert local_source.stage(SSD_CONNECTION_STRING="sqlite:///./staging.db").written == 1


def test_source_that_cannot_be_opened_is_named(local_source: Source, tmp_path: Path) -> None:
    """The message speaks of SSD_CONNECTION_STRING."""
    with pytest.raises(DatabaseError, match="source") as caught:
        local_source.stage(SSD_CONNECTION_STRING=f"sqlite:///{tmp_path / 'missing.db'}")
    assert "DB_CONNECTION_STRING" not in str(caught.value).replace("SSD_CONNECTION_STRING", "")


# --- People who are left as they are ----------------------------------------------------------------------


def test_people_who_cannot_be_told_apart_are_left(local_source: Source) -> None:
    """Two people of one id, blanks aside, and people without one: counted, code 1, nobody deleted."""
    local_source.add(family("p1"), family("p2")).stage()
    before = local_source.staging.rows()
    local_source.add([family("p1", surname="Dent")[0]], family(" p2"), family(None), family("  "))
    summary = local_source.stage()
    assert (summary.exit_code, summary.written) == (ExitCode.FAILED, 0)
    assert summary.as_json()["left_by_reason"] == {
        "no person_id in the source": 2,
        "two people of the source share the person_id": 4,
    }
    assert local_source.staging.rows() == before


def test_unreadable_date_leaves_that_person(local_source: Source) -> None:
    """A date that is none leaves its person as they are; the others are refreshed."""
    local_source.add(family("p1"), family("p2")).stage()
    before = local_source.staging.row("p1")
    local_source.update("ssd_cin_episodes", "cine_close_date = 'soon'", "cine_person_id", "p1")
    local_source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p2")
    summary = local_source.stage()
    assert (summary.left, summary.changes.updated, summary.exit_code) == (1, 1, ExitCode.FAILED)
    assert local_source.staging.row("p1") == before


# --- Named people, cohort table, dry run ------------------------------------------------------------------


def test_named_people_alone_are_staged(local_source: Source) -> None:
    """Blanks around an id do not hide a person; who is nowhere is told, code 1."""
    local_source.add(family(" p1 "), family("p2")).stage()
    local_source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", " p1 ")
    local_source.remove("p2")
    summary = local_source.stage(persons=("p1",))
    assert (summary.people, summary.changes.updated, summary.changes.deleted) == (1, 1, 0)
    summary = local_source.stage(persons=("p2", "nobody"))
    assert (summary.changes.deleted, summary.unknown_persons, summary.exit_code) == (1, 1, ExitCode.FAILED)
    assert states(local_source.staging) == {" p1 ": "updated", "p2": "deleted"}


def test_cohort_table_narrows(local_source: Source) -> None:
    """Whoever is not in COHORT_TABLE is excluded, and gone if staged."""
    local_source.add(family("p1"), family("p2"), family("old", pers_dob=AS_OF.replace(year=1950))).stage()
    local_source.database.execute("CREATE TABLE cohort (person_id TEXT)")
    local_source.database.execute("INSERT INTO cohort VALUES (' p1 ')")
    summary = local_source.stage(COHORT_TABLE="cohort")
    assert (summary.cohort, summary.changes.deleted) == (1, 1)
    assert summary.excluded["not in the cohort table"] == 1
    assert sum(summary.excluded.values()) == 2


def test_dry_run_counts_and_writes_nothing(local_source: Source) -> None:
    """The numbers are those of the night that follows; not a column of the table is another."""
    local_source.add(family("p1"), family("p2"), family("p3", pers_ethnicity="WBRI (White British)")).stage()
    local_source.remove("p2")
    local_source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")
    local_source.add(family("p4"))
    before = local_source.staging.rows()
    dry = local_source.stage(dry_run=True)
    assert local_source.staging.rows() == before
    night = local_source.stage()
    told = ("run_id", "mode", "seconds", "rows_written")
    assert {key: value for key, value in dry.as_json().items() if key not in told} == {
        key: value for key, value in night.as_json().items() if key not in told
    }
    assert (dry.mode, dry.written, night.written) == ("dry-run", 0, 3)


def test_day_of_the_night_decides_the_window(local_source: Source) -> None:
    """--as-of overrides today; without it the machine's day counts."""
    local_source.add(family("p1"))
    assert local_source.stage(as_of=AS_OF.replace(year=2024)).cohort == 0
    settings = settings_of(local_source.staging, None)
    summary = stage_module.stage(settings, StageOptions(dry_run=True), today=lambda: AS_OF)
    assert (summary.run_date, summary.cohort) == (AS_OF, 1)
    assert summary.as_json()["window_start"] == "2023-04-01"


# --- What is told -----------------------------------------------------------------------------------------


class Noted(Progress):
    """Progress that is kept."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def begin(self, total: int) -> None:
        """Note the total."""
        self.calls.append(total)

    def advance(self, rows: int) -> None:
        """Note the step."""
        self.calls.append(rows)

    def end(self) -> None:
        """Note the end."""
        self.calls.append("end")


def test_progress_and_log_hold_numbers_and_ids_alone(
    local_source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """People are counted off; neither the log nor the summary names anybody."""
    local_source.add(family("p1", surname=NAME), family("p2", surname=NAME), family("p2", surname=NAME))
    progress = Noted()
    ids: list[str] = []
    caplog.set_level(logging.DEBUG)
    settings = settings_of(local_source.staging, None)
    summary = stage_module.stage(
        settings,
        StageOptions(as_of=AS_OF),
        progress=progress,
        on_start=ids.append,
        clock=iter([3.0, 5.5]).__next__,
    )
    assert progress.calls == [3, 3, "end"]
    assert (ids, summary.seconds) == ([summary.run_id], 2.5)
    assert "person_id p2" in caplog.text
    for text in (caplog.text, summary.as_table(), str(summary.as_json())):
        assert NAME not in text

"""Nights from the SSD to the receiver: whatever happened before, it ends up holding exactly the cohort.

Whom the cohort holds and with which payload is the oracle's answer (tests/ssd_oracle.py), not the package's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db
from api_pipeline import ssd_tables as t
from api_pipeline.errors import DatabaseError, ExitCode
from tests import databases, ssd_kit
from tests.databases import Database
from tests.ssd_world import World

MODES = ("partial", "full", "mixed")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep thousands of warnings about requested faults out of the captured log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def play(database: Database, seed: int, mode: str, *, nights: int, groups: int) -> None:
    """Play a history and one clean night, and compare."""
    world = World(database, seed, groups, applies=mode != "full")
    try:
        for _ in range(nights):
            is_partial = mode == "partial" or (mode == "mixed" and world.chance.random() < 0.5)
            world.night(partial=is_partial)
        world.change(2)
        world.mend()
        assert world.stage(allow_deletions=True).exit_code == ExitCode.OK
        # Full payloads purge nothing that vanished, so after both modes everything goes once more.
        sent = world.run(partial=mode != "full", resend=mode == "mixed")
        assert sent.exit_code == ExitCode.OK, sent.stopped_because
        world.assert_delivered()
        assert_nothing_to_do(world, partial=mode != "full")
    finally:
        world.close()


def assert_nothing_to_do(world: World, *, partial: bool) -> None:
    """Another stage and another run write nothing and send nothing."""
    before, requests = world.dump(), len(world.receiver.submissions)
    again = world.stage()
    assert (again.exit_code, again.written, again.changes.new) == (ExitCode.OK, 0, 0)
    assert world.run(partial=partial).sent == 0
    assert world.dump() == before
    assert len(world.receiver.submissions) == requests


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_after_any_history_the_receiver_holds_the_cohort(tmp_path: Path, seed: int, mode: str) -> None:
    """After nights of changes, departures, returns, new ids and other tools, some without a run and some with
    faults, one clean night gives the receiver exactly the cohort, and the night after that does nothing.
    """
    play(databases.new_sqlite(tmp_path), seed, mode, nights=6, groups=6)


def test_a_history_in_every_database(database: Database) -> None:
    """The same holds whatever the database."""
    play(database, 50, "partial", nights=1, groups=2)


# -- the brake, and what keeps stage from reading


PEOPLE = 50  # so that half of them are more than the brake lets pass whatever the share


def filled(database: Database, people: int) -> World:
    """Return an authority of some people with a record in every list, staged."""
    made = World(database, 1, 0)
    for number in range(people):
        for row in family_of(number):
            made.rows[type(row)].append(row)
    made.run_date = date(2025, 7, 14)
    assert made.stage().changes.new == people
    return made


def family_of(number: int) -> list[Any]:
    """Return the rows of one person with one record in each of the lists with ids."""
    person, referral, other = f"p{number}", f"r{number}", f"x{number}"
    start = datetime(2025, 1, 1) + timedelta(days=number)  # noqa: DTZ001 - the database's own time
    return [
        ssd_kit.person(person, pers_dob=datetime(2012, 3, 4)),  # noqa: DTZ001
        t.CinEpisode(referral, person, start, "1A", "0", None, None),
        t.CinAssessment(other, person, referral, start, None),
        t.AssessmentFactors(other, '["1A"]'),
        t.CinPlan(other, referral, person, start, None),
        t.S47Enquiry(other, referral, person, start, None, None),
        t.CpPlan(other, referral, person, start, None),
        t.ClaEpisode(other, person, other, referral, "S", None),
        t.ClaPlacement(other, other, start, None, "U1", None, None),
    ]


@pytest.fixture
def few(database: Database) -> Iterator[World]:
    """Two people, staged, in each kind of database in turn."""
    made = filled(database, 2)
    yield made
    made.close()


@pytest.fixture
def local(sqlite_database: Database) -> Iterator[World]:
    """Fifty people, staged, in SQLite."""
    made = filled(sqlite_database, PEOPLE)
    yield made
    made.close()


def assert_held(world: World) -> None:
    """A brake holds: code 1, it says why and how to go on, and nothing was written."""
    before = world.dump()
    held = world.stage()
    assert (held.exit_code, held.written) == (ExitCode.FAILED, 0)
    assert "--allow-deletions" in held.held_because
    assert world.dump() == before


def test_half_the_people_missing_writes_nothing(local: World) -> None:
    """A source that lost half of its people holds the refresh; with permission they are deleted."""
    assert local.run(partial=True).exit_code == ExitCode.OK
    del local.rows[t.Person][::2]
    assert_held(local)
    assert local.stage(allow_deletions=True).changes.deleted == PEOPLE // 2
    assert local.run(partial=True).exit_code == ExitCode.OK
    local.assert_delivered()


_LOADED = (t.CinEpisode, t.CinAssessment, t.CinPlan, t.S47Enquiry, t.CpPlan, t.ClaEpisode, t.ClaPlacement)


@pytest.mark.parametrize("table", _LOADED, ids=lambda table: table.__name__)
def test_half_a_table_missing_writes_nothing(local: World, table: type[Any]) -> None:
    """A source table that was loaded by half holds the refresh though everybody is still in the cohort."""
    whole = local.rows[table]
    local.rows[table] = whole[::2]
    assert len(local.cohort()) == PEOPLE
    assert_held(local)
    local.rows[table] = whole
    again = local.stage()
    assert (again.exit_code, again.changes.unchanged, again.written) == (ExitCode.OK, PEOPLE, 0)


def test_an_empty_source_writes_nothing(few: World) -> None:
    """Nobody in the cohort is a fault even where only two people are staged."""
    few.rows = {kind: [] for kind in few.rows}
    assert_held(few)


def test_an_empty_cohort_writes_nothing_whoever_is_left(local: World) -> None:
    """People who are left as they are, two rows with one id, do not make an empty cohort a full one."""
    kept = local.rows[t.Person][0]
    local.rows = {kind: [] for kind in local.rows}
    local.rows[t.Person] = [kept, kept]
    assert_held(local)


def test_a_locked_source_writes_nothing(few: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody holds a source table, stage gives up with code 3, and afterwards it goes on."""
    monkeypatch.setattr(db, "LOCK_TIMEOUT", 1 if few.database.kind == "sqlserver" else 0.05)
    few.rows[t.Person][0] = few.rows[t.Person][0]._replace(pers_forename="New")
    few.store()
    before = few.dump()
    with held_by_another(few), pytest.raises(DatabaseError) as caught:
        few.stage()
    assert caught.value.exit_code == ExitCode.DATABASE
    assert few.dump() == before
    assert few.stage().changes.updated == 1


@contextmanager
def held_by_another(world: World) -> Iterator[None]:
    """Let another session lock a source table; the SQL Server test double only says that one does."""
    table = world.source("ssd_cin_plans")
    if world.database.kind == "sqlserver":
        world.database.set_faults({"match": "ssd_cin_plans", "times": 0, "do": "error", "number": 1222})
        yield
        world.database.set_faults()
        return
    lock = {"sqlite": "BEGIN EXCLUSIVE", "postgresql": f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"}
    with closing(world.database.connect()) as holder:
        holder.execute(lock[world.database.kind])
        yield
        holder.execute("ROLLBACK")


@pytest.mark.parametrize("what", ["table", "column"])
def test_whatever_is_missing_is_named(local: World, what: str) -> None:
    """Each source table in turn, or a column of it, is gone: code 3 names it, and nothing was written."""
    before = local.dump()
    for table in t.SOURCE_TABLES:
        column = list(table.columns)[-1]
        if what == "table":
            there, back = "RENAME TO away", "RENAME TO " + table.name
        else:
            there, back = f"RENAME COLUMN {column} TO away", f"RENAME COLUMN away TO {column}"
        local.database.execute(f"ALTER TABLE {table.name} {there}")
        with pytest.raises(DatabaseError) as caught:
            local.stage()
        assert caught.value.exit_code == ExitCode.DATABASE
        assert table.name in str(caught.value)
        assert what == "table" or column in str(caught.value)
        local.database.execute(f"ALTER TABLE {'away' if what == 'table' else table.name} {back}")
    assert local.dump() == before
    assert local.stage().exit_code == ExitCode.OK


def test_a_table_missing_in_every_database(few: World) -> None:
    """A dropped source table is code 3 everywhere and never an empty list."""
    before = few.dump()
    few.database.execute(f"DROP TABLE {few.source('ssd_permanence')}")
    with pytest.raises(DatabaseError, match="ssd_permanence") as caught:
        few.stage()
    assert caught.value.exit_code == ExitCode.DATABASE
    assert few.dump() == before

"""Promises of ssd_provision.py, on every database: a fake SSD is made, filled, changed; a real one is not."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db, ssd_provision, ssd_schema
from api_pipeline.config import Secret, Settings
from api_pipeline.errors import ConfigError, DatabaseError
from api_pipeline.fake_ssd import FakePerson, by_table, fake_population, fake_professionals
from api_pipeline.fake_ssd_nights import applied, next_night
from api_pipeline.names import NamePart, TableName
from api_pipeline.provision import Filled
from api_pipeline.ssd_source import SourceOptions, SsdSource
from api_pipeline.ssd_tables import SOURCE_TABLES, SdqScore
from tests import ssd_kit
from tests.databases import Database

AS_OF = date(2026, 3, 31)
PEOPLE = 10


def settings_of(database: Database) -> Settings:
    """Return settings whose source is the test's own place."""
    return Settings(
        db_connection_string=Secret(database.connection_string),
        table=TableName.parse(database.table_name),
        ssd_schema=ssd_kit.schema_of(database),
    )


def filled(database: Database, people: int = PEOPLE) -> Settings:
    """Make a fake SSD with some people in it."""
    settings = settings_of(database)
    ssd_provision.init_ssd(settings)
    ssd_provision.fill_ssd(settings, people, 3, AS_OF)
    return settings


def rows_of(settings: Settings) -> dict[str, Counter[str]]:
    """Return what the source holds, as ``stage`` reads it: table -> its rows with their numbers."""
    with db.connect(settings.db_connection_string.reveal()) as database:
        source = SsdSource(database, SourceOptions.of(settings))
        pages = [page.page for page in source.pages()]
    return {
        table.name: Counter(repr(row) for page in pages for row in page.rows(table.row))
        for table in SOURCE_TABLES
        if table.routes
    }


def expected(rows: dict[type[Any], list[Any]], database: Database) -> dict[str, Counter[str]]:
    """Return the same of rows in memory, as this kind of database holds them."""
    return {
        table.name: Counter(repr(_held(row, database)) for row in rows.get(table.row, []))
        for table in SOURCE_TABLES
        if table.routes
    }


def _held(row: Any, database: Database) -> Any:
    if database.kind == "sqlite":
        return row
    if isinstance(row, SdqScore):
        score = str(row.csdq_sdq_score).strip()
        return row._replace(csdq_sdq_score=int(score) if re.fullmatch(r"[+-]?\d+", score) else None)
    if hasattr(row, "cine_referral_nfa") and row.cine_referral_nfa == "":
        return row._replace(cine_referral_nfa=" ")  # one character, padded
    return row


def test_tables_are_made_and_filled_once_and_read_back(database: Database) -> None:
    """Every table and the marker are made, every row comes back through stage's reader, and nothing twice."""
    settings = settings_of(database)
    made = ssd_provision.init_ssd(settings)
    assert [name.rpartition(".")[2] for name in made] == [
        *(table.name for table in SOURCE_TABLES),
        ssd_schema.MARKER,
    ]
    assert ssd_provision.init_ssd(settings) == []
    assert ssd_provision.fill_ssd(settings, PEOPLE - 2, 3, AS_OF) == Filled(added=PEOPLE - 2, present=0)
    assert ssd_provision.fill_ssd(settings, PEOPLE, 3, AS_OF) == Filled(added=2, present=PEOPLE - 2)
    rows = by_table(fake_population(PEOPLE, 3, AS_OF))
    assert rows_of(settings) == expected(rows, database)
    with db.connect(database.connection_string) as connection:
        professionals = SsdSource(connection, SourceOptions.of(settings)).professionals()
    registered = Counter(
        row.prof_professional_id
        for row in fake_professionals()
        if (row.prof_social_worker_registration_no or "").strip()
    )
    assert {who: len(found) for who, found in professionals.items()} == registered


def test_the_printed_sql_makes_a_source_and_what_may_be_real_is_refused(database: Database) -> None:
    """What --print prints runs as it is; without the marker rows are neither joined nor changed: code 2."""
    settings = settings_of(database)
    for statement in ssd_provision.print_ssd_sql(settings).split("\n\n"):
        database.execute(statement)
    assert ssd_provision.init_ssd(settings) == []
    marker = TableName(settings.ssd_schema, NamePart(ssd_schema.MARKER, exact=False))
    database.execute(f"DROP TABLE {marker}")
    ssd_kit.insert(database, [ssd_kit.person("P1")])
    with pytest.raises(ConfigError, match="ssd_person exists and holds rows"):
        ssd_provision.init_ssd(settings)
    with pytest.raises(ConfigError, match="not marked"):
        ssd_provision.fill_ssd(settings, 1, 3, AS_OF)
    night = next_night(list(fake_population(20, 3, AS_OF)), 3, 1, AS_OF)
    with pytest.raises(ConfigError, match="not marked"):
        ssd_provision.apply_night(settings, night.changes)
    assert database.query(f"SELECT pers_person_id FROM {marker.sibling('ssd_person')}") == [("P1",)]
    with db.connect(database.connection_string) as connection:
        assert not ssd_schema.is_fake(connection, settings.ssd_schema)


def test_a_night_changes_the_database_as_it_changes_the_people(database: Database) -> None:
    """Two busy nights leave in the tables what they leave in memory."""
    settings = filled(database)
    people = list(fake_population(PEOPLE, 3, AS_OF))
    rows = by_table(people)
    for number in (1, 2):
        night = next_night(people, 3, number, AS_OF, share=0.5)
        ssd_provision.apply_night(settings, night.changes)
        rows, people = applied(rows, night.changes), night.people
    # Rows that lead to nobody any more are in the tables, but no reader sees them.
    seen = rows_of(settings)
    for name, held in expected(rows, database).items():
        assert seen[name] <= held
    present = by_table(person for person in people if not person.left)
    for name, held in expected(present, database).items():
        assert held <= seen[name]


def test_empty_tables_are_taken_over(sqlite_database: Database) -> None:
    """Tables that are there without a row are marked, and only what is missing is made."""
    ssd_kit.create(sqlite_database)
    settings = settings_of(sqlite_database)
    assert [name.rpartition(".")[2] for name in ssd_provision.init_ssd(settings)] == [ssd_schema.MARKER]
    assert ssd_provision.fill_ssd(settings, 2, 3, AS_OF) == Filled(added=2, present=0)


def test_a_marked_source_with_a_real_row_is_refused(sqlite_database: Database) -> None:
    """The marker alone is not believed: one row that is not fake, in any table, ends filling with code 2."""
    settings = filled(sqlite_database, 2)
    ssd_kit.insert(sqlite_database, [ssd_kit.make(SdqScore, csdq_person_id="4711")])
    with pytest.raises(ConfigError, match="ssd_sdq_scores holds rows that are not fake"):
        ssd_provision.fill_ssd(settings, 3, 3, AS_OF)
    assert sum(rows_of(settings)["ssd_person"].values()) == 2


def test_a_missing_schema_is_named(database: Database) -> None:
    """A schema that does not exist is a database error, or in SQLite, which has none, one of the settings."""
    settings = replace(settings_of(database), ssd_schema=NamePart("no_such_schema", exact=False))
    with pytest.raises((DatabaseError, ConfigError), match="no_such_schema"):
        ssd_provision.init_ssd(settings)


def test_an_incomplete_table_is_named_and_nothing_is_made(sqlite_database: Database) -> None:
    """An empty table that lacks columns is no table of ours: code 3 names it, and no table stays behind."""
    settings = settings_of(sqlite_database)
    name = TableName(settings.ssd_schema, NamePart("ssd_cp_plans", exact=False))
    sqlite_database.execute(
        f"CREATE TABLE {name} (cppl_cp_plan_id VARCHAR(48), cppl_referral_id VARCHAR(48))"
    )
    with pytest.raises(DatabaseError, match=r"ssd_cp_plans has no column cppl_person_id"):
        ssd_provision.init_ssd(settings)
    with db.connect(sqlite_database.connection_string) as connection:
        assert not ssd_schema.is_fake(connection, settings.ssd_schema)


def test_the_source_may_lie_elsewhere(tmp_path: Path) -> None:
    """SSD_CONNECTION_STRING leads to the source: its file is made, the staging table's is not touched."""
    settings = Settings(
        db_connection_string=Secret(f"sqlite:///{tmp_path / 'staging.db'}"),
        ssd_connection_string=Secret(f"sqlite:///{tmp_path / 'ssd.db'}"),
    )
    with pytest.raises(DatabaseError, match=r"There is no SQLite file .*SSD_CONNECTION_STRING"):
        ssd_provision.fill_ssd(settings, 3, 3, AS_OF)
    ssd_provision.init_ssd(settings)
    assert ssd_provision.fill_ssd(settings, 3, 3, AS_OF).added == 3
    assert (tmp_path / "ssd.db").exists()
    assert not (tmp_path / "staging.db").exists()


def test_faulty_people_can_be_filled_in(tmp_path: Path) -> None:
    """People with faults that were asked for are stored as they are, two rows for one id included."""
    settings = Settings(db_connection_string=Secret(f"sqlite:///{tmp_path / 'ssd.db'}"))
    people: list[FakePerson] = list(fake_population(60, 3, AS_OF, fault_share=0.9))
    ssd_provision.init_ssd(settings)
    assert ssd_provision.fill_ssd_with(settings, people) == Filled(added=60, present=0)
    assert sum(rows_of(settings)["ssd_person"].values()) > 60


def test_today_is_the_default_day(tmp_path: Path) -> None:
    """Without a day the dates lie around today, so that a demo always has people in the window."""
    settings = Settings(db_connection_string=Secret(f"sqlite:///{tmp_path / 'ssd.db'}"))
    ssd_provision.init_ssd(settings)
    before = date.today()  # noqa: DTZ011
    ssd_provision.fill_ssd(settings, 20, 3)
    days = {before, date.today()}  # noqa: DTZ011
    found = rows_of(settings)["ssd_cin_episodes"]
    assert found in [
        expected(by_table(fake_population(20, 3, day)), Database("sqlite", "", ""))["ssd_cin_episodes"]
        for day in days
    ]

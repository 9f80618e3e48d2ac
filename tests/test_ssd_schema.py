"""The source tables are made as they are read, and found as the server finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from api_pipeline import db, ssd_schema
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.errors import ConfigError
from api_pipeline.names import NamePart, TableName
from api_pipeline.ssd_tables import SOURCE_TABLES, Kind
from tests import ssd_kit
from tests.databases import Database


@pytest.fixture
def ours(database: Database) -> Iterator[db.Database]:
    """The package's own connection."""
    with db.connect(database.connection_string, create=True) as connection:
        yield connection


def run_all(database: Database, dialect: Dialect, schema: NamePart | None) -> None:
    """Make the tables as the package says."""
    for statement in ssd_schema.create_statements(dialect, schema):
        database.execute(statement)


def test_what_is_made_is_complete(database: Database, ours: db.Database) -> None:
    """Nothing is missing then, every type can be read, and making it again changes nothing."""
    schema = ssd_kit.schema_of(database)
    assert [str(one) for one in ssd_schema.missing(ours, schema)] == [
        f"There is no source table {ssd_schema.table_name(schema, table.name)} in this database, "
        "or this login cannot see it."
        for table in SOURCE_TABLES
    ]
    run_all(database, ours.dialect, schema)
    ssd_kit.insert(database, [ssd_kit.person("p1")])
    run_all(database, ours.dialect, schema)
    found = ssd_schema.survey(ours, schema)
    assert found.missing == ()
    assert list(found.found) == [table.name for table in SOURCE_TABLES]
    if database.kind != "sqlite":
        for table in SOURCE_TABLES:
            for column, spec in table.columns.items():
                type_ = found.found[table.name].columns[column].type
                assert type_ in ssd_schema.READABLE_TYPES[spec.kind]
    people = ours.dialect.table(found.found["ssd_person"].name)
    assert database.query(f"SELECT pers_person_id FROM {people}") == [("p1",)]


def test_every_column_that_joins_has_an_index() -> None:
    """Those of the routes, of the parents that they lead through, and the professional's id."""
    indexed = ssd_schema.join_columns()
    assert indexed["ssd_person"] == ["pers_person_id"]
    assert indexed["ssd_cla_episodes"] == ["clae_person_id", "clae_cla_id", "clae_referral_id"]
    assert indexed["ssd_cin_assessments"] == ["cina_assessment_id", "cina_referral_id"]
    assert indexed["ssd_professionals"] == ["prof_professional_id"]
    for dialect in (SQL_SERVER, POSTGRESQL, SQLITE):
        text = "\n".join(ssd_schema.create_statements(dialect, None))
        assert text.count("CREATE INDEX") == sum(map(len, indexed.values()))


def test_names_in_any_letter_case(database: Database, ours: db.Database) -> None:
    """Tables and columns are found as the server itself finds them."""
    schema = ssd_kit.schema_of(database)
    for statement in ssd_schema.create_statements(ours.dialect, schema):
        if "CREATE TABLE" in statement:
            quoted = "ssd_person" if database.kind != "postgresql" else '"ssd_person"'
            database.execute(
                statement.replace(quoted, quoted.replace('"', "").upper()).replace("pers_", "PERS_")
            )
    upper = None if schema is None else NamePart(schema.text.upper(), exact=False)
    assert ssd_schema.missing(ours, upper) == []


def test_columns_that_postgresql_would_not_find(postgresql_database: Database) -> None:
    """A column whose name was quoted in capitals is not the one that a statement asks for."""
    ssd_kit.create(postgresql_database)
    postgresql_database.execute('ALTER TABLE ssd_address RENAME COLUMN addr_person_id TO "ADDR_PERSON_ID"')
    with db.connect(postgresql_database.connection_string) as ours:
        (found,) = ssd_schema.missing(ours, None)
        assert (found.table, found.columns, found.hop) == (
            "public.ssd_address",
            ("addr_person_id",),
            "column",
        )
        assert ssd_schema.missing(ours, NamePart("nowhere", exact=False))[0].table == "nowhere.ssd_person"


def test_tables_in_a_schema_of_their_own(postgresql_database: Database) -> None:
    """SSD_SCHEMA leads to them, and the default schema does not."""
    postgresql_database.execute('CREATE SCHEMA "Ssd Dev"')
    schema = ssd_kit.create(postgresql_database, NamePart("Ssd Dev", exact=True))
    with db.connect(postgresql_database.connection_string) as ours:
        assert ssd_schema.missing(ours, schema) == []
        assert len(ssd_schema.missing(ours, None)) == len(SOURCE_TABLES)


def test_fake_people_are_marked(database: Database, ours: db.Database) -> None:
    """The marker beside the tables says so, and nothing else does."""
    schema = ssd_kit.create(database)
    assert not ssd_schema.is_fake(ours, schema)
    for _ in range(2):
        database.execute(ssd_schema.create_marker(ours.dialect, schema))
    assert ssd_schema.is_fake(ours, schema)


def test_marker_counts_where_the_tables_lie(postgresql_database: Database) -> None:
    """Real people in one schema are not taken for fake ones because of a marker in another."""
    postgresql_database.execute("CREATE SCHEMA first")
    postgresql_database.execute("CREATE SCHEMA second")
    first, second = NamePart("first", exact=False), NamePart("second", exact=False)
    ssd_kit.create(postgresql_database, first)
    postgresql_database.execute(ssd_schema.create_marker(POSTGRESQL, second))
    with db.connect(postgresql_database.connection_string) as ours:
        ours.execute("SET search_path = first, second")
        assert not ssd_schema.is_fake(ours, None)
        assert not ssd_schema.is_fake(ours, first)


def test_sqlite_has_no_schemas() -> None:
    """A name for one is a fault of the settings, but for the one that every file has."""
    main = NamePart("Main", exact=True)
    assert ssd_schema.create_statements(SQLITE, main) == ssd_schema.create_statements(SQLITE, None)
    with pytest.raises(ConfigError, match="SSD_SCHEMA is ssd_development, but SQLite has no schemas"):
        ssd_schema.create_statements(SQLITE, NamePart("ssd_development", exact=False))


def test_types_are_those_of_the_data_set() -> None:
    """Ids have 48 characters and dates are DATETIME, whatever they are called elsewhere."""
    people = {table.name: table for table in SOURCE_TABLES}["ssd_person"]
    types = {column: ssd_schema.column_type(SQL_SERVER, spec) for column, spec in people.columns.items()}
    assert types["pers_person_id"] == "NVARCHAR(48)"
    assert types["pers_upn"] == "NVARCHAR(13)"
    assert types["pers_dob"] == "DATETIME"
    kinds = {spec.kind for table in SOURCE_TABLES for spec in table.columns.values()}
    assert kinds == set(Kind)


def test_login_that_may_not_read(postgresql_database: Database) -> None:
    """It is told which table it may not read, not that the table lacks its columns."""
    missing = ssd_schema.Missing("public.ssd_person", readable=False)
    assert (missing.hop, missing.error().exit_code) == ("permission", 3)
    assert "GRANT SELECT ON public.ssd_person" in missing.error().remedy
    schema = TableName.parse(postgresql_database.table_name).schema
    ssd_kit.create(postgresql_database, schema)
    role = "csc_reader_" + os.urandom(4).hex()
    postgresql_database.execute(f"CREATE ROLE {role}")
    try:
        postgresql_database.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        with db.connect(postgresql_database.connection_string) as ours:
            ours.execute(f"SET ROLE {role}")
            assert {one.hop for one in ssd_schema.missing(ours, None)} == {"permission"}
    finally:
        postgresql_database.execute(f"DROP OWNED BY {role}")
        postgresql_database.execute(f"DROP ROLE {role}")

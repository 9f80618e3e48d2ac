"""Making a fake SSD: its tables (``init-db --ssd``), its people (``fake-data --ssd``), what nights change.

The tables are made together with a marker table that says "everybody here is made up"; nothing is ever
written to a source without it, nor to one that holds anything but fake rows (ssd, section 1; interface,
"Settings", unsafe combinations).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any

from api_pipeline import db, provision, schema, ssd_schema
from api_pipeline.config import Settings
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect, Kind
from api_pipeline.errors import ConfigError, DatabaseError
from api_pipeline.fake_ssd import FakePerson, by_table, fake_population, fake_professionals
from api_pipeline.fake_ssd_nights import Change, Delete, Insert, Update
from api_pipeline.names import NamePart
from api_pipeline.provision import Filled
from api_pipeline.source_access import connect_source
from api_pipeline.ssd_schema import FoundTable
from api_pipeline.ssd_tables import SOURCE_TABLES, Person, Professional
from api_pipeline.ssd_tables import Kind as SourceKind

_PEOPLE_AT_ONCE = 500  # one transaction each
_KEYS_AT_ONCE = 500
# SQL Server takes 2,100 parameters in one statement; PostgreSQL takes all rows of a lot as one.
_ROWS_AT_ONCE: Mapping[Dialect, int] = {POSTGRESQL: 2_000, SQL_SERVER: 100, SQLITE: 200}
_FAKE = "FAKE"  # how every id of a fake person or record begins
_WHOLE_NUMBER = re.compile(r"[+-]?\d+")

_Tables = Mapping[type[Any], FoundTable]


def _of_source(settings: Settings) -> Settings:
    """Return the settings with the source in the place of the staging table's database."""
    own = settings.ssd_connection_string
    return settings if own is None else replace(settings, db_connection_string=own)


# --- init-db --ssd ----------------------------------------------------------------------------------------


def print_ssd_sql(settings: Settings) -> str:
    """Return the SQL that ``init-db --ssd`` would run, for a database administrator to read and run.

    Raises:
        DatabaseError: if only the server can tell its dialect (a DSN), and it cannot be reached.
    """
    dialect = provision.dialect_of(_of_source(settings))
    return "\n\n".join(_statements(dialect, settings.ssd_schema)) + "\n"


def _statements(dialect: Dialect, name: NamePart | None) -> list[str]:
    return [*ssd_schema.create_statements(dialect, name), ssd_schema.create_marker(dialect, name)]


def init_ssd(settings: Settings) -> list[str]:
    """Create the source tables that are missing, and the marker; return the names of the tables made.

    Raises:
        ConfigError: if there are source tables that hold rows and no marker: these may be real people.
        DatabaseError: if the database or the schema cannot be reached, the login may not create a table, or
            a table that is there already lacks a column.
    """
    with connect_source(settings, create=True) as database:
        name = ssd_schema.schema_for(database.dialect, settings.ssd_schema)
        _require_schema(database, name)
        if not ssd_schema.is_fake(database, name):
            _require_no_rows(database, name)
        wanted = [*(table.name for table in SOURCE_TABLES), ssd_schema.MARKER]
        names = [ssd_schema.table_name(name, base) for base in wanted]
        made = [str(table) for table in names if schema.describe(database, table) is None]

        def create() -> None:
            with database.transaction():
                for statement in _statements(database.dialect, name):
                    database.execute(statement)
                _found(database, name)

        database.retrying(create)
    return made


def _require_schema(database: db.Database, name: NamePart | None) -> None:
    if name is None:
        return
    if database.dialect is POSTGRESQL:
        text = name.text if name.exact else name.text.lower()
        there = database.query("SELECT 1 FROM pg_namespace WHERE nspname = ?", [text])
    else:
        sql = "SELECT 1 FROM INFORMATION_SCHEMA.SCHEMATA WHERE SCHEMA_NAME = ?"
        there = database.query(sql, [name.text])
    if not there:
        raise DatabaseError(
            f"There is no schema {name.text} in this database.",
            hop="table",
            remedy="Have it created, or name another one in SSD_SCHEMA.",
        )


def _require_no_rows(database: db.Database, name: NamePart | None) -> None:
    for table in SOURCE_TABLES:
        full = ssd_schema.table_name(name, table.name)
        info = schema.describe(database, full)
        if info is None:
            continue
        if not info.columns:
            raise ssd_schema.Missing(info.full_name, readable=False).error()
        if _any(database, database.dialect.table(full), next(iter(table.columns)), "1 = 1"):
            raise ConfigError(
                f"{full} exists and holds rows that may be real: there is no marker for fake data beside it.",
                hop="settings",
                remedy="Name another schema in SSD_SCHEMA, or another database in SSD_CONNECTION_STRING.",
            )


def _any(database: db.Database, table: str, column: str, where: str) -> bool:
    sql = database.dialect.select(["1"], table, where=where, order_by=f"t.{column}", limit=1)
    return bool(database.query(sql))


def _found(database: db.Database, name: NamePart | None) -> _Tables:
    """Return row class -> table. Raises a DatabaseError naming what is missing first."""
    survey = ssd_schema.survey(database, name)
    if survey.missing:
        raise survey.missing[0].error()
    return {found.table.row: found for found in survey.found.values()}


# --- fake-data --ssd --------------------------------------------------------------------------------------


def fill_ssd(settings: Settings, rows: int, seed: int, as_of: date | None = None) -> Filled:
    """Add ``rows`` fake people, with all their rows, who are not in the source yet.

    Their dates are laid around a run on ``as_of``, by default today, so that most of them are in the cohort.
    The same seed and day give the same people.

    Raises:
        ConfigError: if the source has no marker, or holds rows that are not fake.
        DatabaseError: if a table is missing or may not be written to.
    """
    day = as_of or date.today()  # noqa: DTZ011 -- the machine's own day, as for ``stage``
    return fill_ssd_with(settings, fake_population(rows, seed, day))


def fill_ssd_with(settings: Settings, people: Iterable[FakePerson]) -> Filled:
    """Add these people, except those who are in the source already. Raises as :func:`fill_ssd` does."""
    added = present = 0
    with connect_source(settings) as database:
        tables = _fake_tables(database, settings.ssd_schema)
        database.retrying(lambda: _add_professionals(database, tables[Professional]))
        for part in _parts(people):
            new = database.retrying(partial(_add, database, tables, part))
            added += new
            present += len(part) - new
    return Filled(added=added, present=present)


def _fake_tables(database: db.Database, name: NamePart | None) -> _Tables:
    """Return the tables of a fake source. Raises as :func:`fill_ssd` does."""
    if not ssd_schema.is_fake(database, name):
        where = "this database" if name is None else f"the schema {name.text}"
        raise ConfigError(
            f"The SSD tables in {where} are not marked as tables for fake people.",
            hop="settings",
            remedy="Make tables for them with init-db --ssd, in a schema or a database of their own.",
        )
    tables = _found(database, name)
    for found in tables.values():
        column = found.columns[next(iter(found.table.columns))].name
        # Every first column of a fake row is an id of ours; an empty one is possible, NULL is not.
        begins = database.dialect.prefix(f"t.{column}", len(_FAKE))
        where = f"(t.{column} IS NULL OR (t.{column} <> '' AND {begins} <> '{_FAKE}'))"
        if _any(database, database.dialect.table(found.name), column, where):
            raise ConfigError(
                f"{found.table.name} holds rows that are not fake, although the marker says so.",
                hop="settings",
                remedy=f"Use other tables; if these hold real people, remove {ssd_schema.MARKER}.",
            )
    return tables


def _parts(people: Iterable[FakePerson]) -> Iterator[list[FakePerson]]:
    iterator = iter(people)
    return iter(lambda: list(itertools.islice(iterator, _PEOPLE_AT_ONCE)), [])


def _add(database: db.Database, tables: _Tables, people: Sequence[FakePerson]) -> int:
    new = _new_ones(database, tables, people)
    with database.transaction():
        for row_class, rows in by_table(new).items():
            _insert(database, tables[row_class], rows)
    return len(new)


def _new_ones(database: db.Database, tables: _Tables, people: Sequence[FakePerson]) -> list[FakePerson]:
    marks = ", ".join(["?"] * len(people))
    table = database.dialect.table(tables[Person].name)
    known = database.query(
        f"SELECT t.pers_person_id FROM {table} AS t WHERE t.pers_person_id IN ({marks})",
        [person.person_id for person in people],
    )
    present = {str(row[0]) for row in known}
    return [person for person in people if person.person_id not in present]


def _add_professionals(database: db.Database, found: FoundTable) -> None:
    table = database.dialect.table(found.name)
    if not _any(database, table, "prof_professional_id", "1 = 1"):
        with database.transaction():
            _insert(database, found, fake_professionals())


# --- Rows -------------------------------------------------------------------------------------------------


def apply_night(settings: Settings, changes: Iterable[Change]) -> None:
    """Do to a fake source what a night does (:func:`fake_ssd_nights.next_night`), in one transaction.

    Raises:
        ConfigError: if the source has no marker, or holds rows that are not fake.
        DatabaseError: if a table is missing or may not be written to.
    """
    with connect_source(settings) as database:
        tables = _fake_tables(database, settings.ssd_schema)
        everything = list(changes)
        database.retrying(lambda: _change(database, tables, everything))


def _change(database: db.Database, tables: _Tables, changes: Sequence[Change]) -> None:
    with database.transaction():
        # In their order, but neighbours of one kind and one table together.
        for _, group in itertools.groupby(changes, key=_likeness):
            lot = list(group)
            new = [change.row for change in lot if isinstance(change, Insert)]
            gone = [change for change in lot if isinstance(change, Delete)]
            if new:
                _insert(database, tables[type(new[0])], new)
            if gone:
                _delete(database, tables[gone[0].table], gone)
            for change in lot:
                if isinstance(change, Update):
                    _update(database, tables[change.table], change)


def _likeness(change: Change) -> tuple[object, ...]:
    if isinstance(change, Insert):
        return Insert, type(change.row)
    return type(change), change.table, change.key


def _delete(database: db.Database, found: FoundTable, changes: Sequence[Delete]) -> None:
    table = database.dialect.table(found.name)
    for start in range(0, len(changes), _KEYS_AT_ONCE):
        keys = [change.value for change in changes[start : start + _KEYS_AT_ONCE]]
        marks = ", ".join(["?"] * len(keys))
        database.execute(f"DELETE FROM {table} WHERE {changes[0].key} IN ({marks})", keys)


def _update(database: db.Database, found: FoundTable, change: Update) -> None:
    table = database.dialect.table(found.name)
    columns = {name: kind for name, kind in _kinds(found).items() if name in change.values}
    values = {name: _fitting(kind, change.values[name], database.dialect) for name, kind in columns.items()}
    # NULL is spelt out: a bound one has no type.
    settings = [
        f"{name} = " + ("NULL" if values[name] is None else database.dialect.bind(kind))
        for name, kind in columns.items()
    ]
    bound = [
        database.dialect.parameter(kind, values[name])
        for name, kind in columns.items()
        if values[name] is not None
    ]
    database.execute(
        f"UPDATE {table} SET {', '.join(settings)} WHERE {change.key} = ?", [*bound, change.value]
    )


def _kinds(found: FoundTable) -> dict[str, Kind]:
    """Return column -> what it is given; a deployment's score may be a number or a text."""
    kinds = {}
    for name, spec in found.table.columns.items():
        if spec.kind is SourceKind.MOMENT:
            kinds[name] = Kind.TIMESTAMP
        elif found.columns[name].type in schema.INTEGER_TYPES:
            kinds[name] = Kind.INTEGER
        else:
            kinds[name] = Kind.TEXT
    return kinds


def _fitting(kind: Kind, value: Any, dialect: Dialect) -> Any:
    """Return the value as the column takes it: what is no number stays out of a column of numbers."""
    if value is None or kind is Kind.TIMESTAMP or dialect is SQLITE:
        return value
    if kind is Kind.TEXT:
        return str(value)
    text = str(value).strip()
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None


def _insert(database: db.Database, found: FoundTable, rows: Sequence[Any]) -> None:
    dialect = database.dialect
    kinds = _kinds(found)
    columns = list(kinds)
    most = _ROWS_AT_ONCE[dialect]
    for start in range(0, len(rows), most):
        lot = [
            [_fitting(kind, value, dialect) for kind, value in zip(kinds.values(), row, strict=True)]
            for row in rows[start : start + most]
        ]
        sql = dialect.insert_listed(
            dialect.table(found.name),
            target=columns,
            expressions=[f"v.{name}" for name in columns],
            columns=kinds,
            rows=len(lot),
            key_column=columns[0],
        )
        database.query(sql, dialect.listed(kinds, lot))

"""Making what the tool works on: its three tables (``init-db``) and fake children (``fake-data``)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api_pipeline import db, odbc, payload, schema
from api_pipeline.config import Settings
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect, Kind
from api_pipeline.errors import ConfigError
from api_pipeline.fake import FakeRow, fake_children
from api_pipeline.ledger_schema import REMEMBERED
from api_pipeline.names import TableName

_ROWS_AT_ONCE = 100  # six values each, well below SQL Server's 2,100 parameters

_FAKE_COLUMNS = {
    "person_id": Kind.TEXT,
    "json_payload": Kind.TEXT,
    "current_hash": Kind.HASH,
    "submission_status": Kind.TEXT,
    "row_state": Kind.TEXT,
}


@dataclass(frozen=True)
class Filled:
    """How many fake children were added, and how many were there before."""

    added: int
    present: int


def connect(settings: Settings, *, create: bool = False, stop: threading.Event | None = None) -> db.Database:
    """Open the database of the settings. Raises as :func:`db.connect` does."""
    return db.connect(
        settings.db_connection_string.reveal(),
        trust_server_certificate=settings.db_trust_server_certificate,
        create=create,
        stop=stop,
    )


def dialect_of(settings: Settings) -> Dialect:
    """Tell the dialect without opening the database where the connection string says it.

    Raises:
        DatabaseError: if only the server can tell (a DSN), and it cannot be reached.
    """
    text = settings.db_connection_string.reveal()
    if text.casefold().startswith("sqlite:"):
        return SQLITE
    where = odbc.ConnectionString.parse(text)
    if where.is_postgresql:
        return POSTGRESQL
    if where.get("dsn") or where.get("filedsn"):
        with connect(settings) as database:
            return database.dialect
    return SQL_SERVER


def print_sql(settings: Settings) -> str:
    """Return the SQL that ``init-db`` would run, for a database administrator to read and run."""
    statements = _statements(dialect_of(settings), settings.table)
    return "\n\n".join(statement for part in statements.values() for statement in part) + "\n"


def _statements(dialect: Dialect, staging: TableName) -> dict[TableName, list[str]]:
    """Return what creates each of the tables: staging, submission log, baseline."""
    remembered = {table.name(staging): table.create(dialect, staging) for table in REMEMBERED}
    return {staging: schema.create_statements(dialect, staging), **remembered}


def init_db(settings: Settings) -> list[str]:
    """Create what is missing and return the names of the tables made; never alters or drops.

    Raises:
        DatabaseError: if the database cannot be reached, or the login may not create a table.
    """
    with connect(settings, create=True) as database:
        parts = _statements(database.dialect, settings.table)
        missing = [str(name) for name in parts if schema.describe(database, name) is None]
        with database.transaction():
            for statements in parts.values():
                for statement in statements:
                    database.execute(statement)
    return missing


def fill_with_fakes(settings: Settings, rows: int, seed: int) -> Filled:
    """Add ``rows`` fake children that are not in the table yet; the same seed gives the same children.

    Raises:
        ConfigError: if the table's name does not end in ``_anon``.
        DatabaseError: if the table is missing or may not be written to.
    """
    require_anon(settings.table)
    with connect(settings) as database:
        info = schema.require(database, settings.table)
        columns = dict(_FAKE_COLUMNS)
        if info.has("legacy_id"):
            columns["legacy_id"] = Kind.TEXT
        added = sum(
            _add(database, settings.table, columns, part) for part in _parts(fake_children(rows, seed))
        )
    return Filled(added=added, present=rows - added)


def require_anon(table: TableName) -> None:
    """Refuse every table but one for fake children.

    Raises:
        ConfigError: naming the rule.
    """
    if not table.is_anon:
        raise ConfigError(
            f"{table} is not a table for fake children: its name does not end in _anon.",
            hop="settings",
            remedy="Set TABLE_NAME, or --table, to a table such as ssd_api_data_staging_anon.",
        )


def _parts(rows: Iterable[FakeRow]) -> Iterable[list[FakeRow]]:
    iterator = iter(rows)
    return iter(lambda: list(itertools.islice(iterator, _ROWS_AT_ONCE)), [])


def _add(database: db.Database, name: TableName, columns: dict[str, Kind], rows: Sequence[FakeRow]) -> int:
    table = database.dialect.table(name)
    marks = ", ".join(["?"] * len(rows))
    with database.transaction():
        known = database.query(
            f"SELECT t.person_id FROM {table} AS t WHERE t.person_id IN ({marks})",
            [row.person_id for row in rows],
        )
        present = {str(row[0]) for row in known}
        new = [row for row in rows if row.person_id not in present]
        if new:
            insert = database.dialect.insert_listed(
                table,
                target=list(columns),
                expressions=[f"v.{column}" for column in columns],
                columns=columns,
                rows=len(new),
                key_column="person_id",
            )
            database.query(insert, database.dialect.listed(columns, [_values(row, columns) for row in new]))
    return len(new)


def _values(row: FakeRow, columns: dict[str, Kind]) -> list[object]:
    text = row.text
    values: dict[str, object] = {
        "person_id": row.person_id,
        "json_payload": text,
        "current_hash": payload.content_hash(text),
        "submission_status": "Pending",
        "row_state": "New",
        "legacy_id": row.legacy_id,
    }
    return [values[column] for column in columns]

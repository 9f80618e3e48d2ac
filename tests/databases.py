"""Real databases for the tests: SQLite always, PostgreSQL and SQL Server where the environment names one.

A test gets an empty place of its own: a new file in SQLite, a database per worker that is emptied before each
test in PostgreSQL, a new schema in SQL Server. Statements go through the bare driver and not through the
package, so that a test can build a table as an older deployment has it and see for itself what became of it.

Environment:
    TEST_POSTGRESQL_CONNECTION_STRING: ODBC; the account must be allowed to create databases.
    TEST_SQLSERVER_CONNECTION_STRING: ODBC; the account must be allowed to create schemas and tables.
    TEST_SQLSERVER_LOG, TEST_SQLSERVER_FAULTS: files of the SQL Server test double, where that is the server.
    CSC_REQUIRE_SERVERS: kinds of server, "postgresql,sqlserver", whose absence is a failure and not a skip.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

ServerKind = Literal["postgresql", "sqlserver"]
Kind = Literal["sqlite"] | ServerKind
SERVER_KINDS: tuple[ServerKind, ...] = ("postgresql", "sqlserver")

_CONNECT_SECONDS = 10


@dataclass
class Database:
    """An empty place in a real database, the test's own."""

    kind: Kind
    connection_string: str  # as DB_CONNECTION_STRING takes it
    table_name: str  # not created yet; ends in _anon; TABLE_NAME takes it, and so does a statement
    log_file: Path | None = None  # what the SQL Server test double was asked, one JSON object a line
    fault_file: Path | None = None  # what the SQL Server test double is to do wrong
    _connection: Any = field(default=None, repr=False)
    _log_start: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if self.log_file is not None and self.log_file.exists():
            self._log_start = self.log_file.stat().st_size

    def connect(self) -> Any:
        """Return a new connection of the bare driver that commits every statement; the caller closes it."""
        if self.kind == "sqlite":
            path = self.connection_string.removeprefix("sqlite:///")
            return sqlite3.connect(path, isolation_level=None, timeout=_CONNECT_SECONDS)
        return connect_odbc(self.connection_string)

    def execute(self, sql: str, params: Sequence[object] = ()) -> int:
        """Run one statement and return the number of rows that it hit, as the driver tells it."""
        cursor = self._cursor()
        cursor.execute(sql, list(params))
        count: int = cursor.rowcount
        cursor.close()
        return count

    def executemany(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement for each of ``rows``."""
        cursor = self._cursor()
        cursor.executemany(sql, [list(row) for row in rows])
        cursor.close()

    def query(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all the rows of one statement."""
        cursor = self._cursor()
        rows = [tuple(row) for row in cursor.execute(sql, list(params)).fetchall()]
        cursor.close()
        return rows

    def plain_table_name(self) -> str:
        """Return a new table name without a schema.

        In SQL Server the tables that the package keeps beside it then lie in the account's default schema,
        which the tests share: prefer ``table_name`` where they matter.
        """
        return f"staging_{uuid.uuid4().hex[:8]}_anon"

    def set_faults(self, *rules: dict[str, Any]) -> None:
        """Have the SQL Server test double do something wrong; no rule at all ends it.

        Skips the test where the server is another one.
        """
        if self.fault_file is None:
            pytest.skip("faults can be asked for only of the SQL Server test double (TEST_SQLSERVER_FAULTS)")
        # With an id of its own a rule counts from the start, even if an earlier test had the same.
        unique = [{**rule, "id": uuid.uuid4().hex} for rule in rules]
        new = self.fault_file.with_suffix(".new")
        new.write_text(json.dumps(unique), encoding="utf-8")
        new.replace(self.fault_file)

    def log_records(self) -> list[dict[str, Any]]:
        """Return what the SQL Server test double logged since the test began.

        Skips the test where the server is another one.
        """
        if self.log_file is None:
            pytest.skip("only the SQL Server test double tells what it was asked (TEST_SQLSERVER_LOG)")
        return read_log(self.log_file, self._log_start)

    def close(self) -> None:
        """Close the connection behind :meth:`execute` and :meth:`query`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = self.connect()
        return self._connection.cursor()


def connect_odbc(connection_string: str) -> Any:
    """Connect through pyodbc, each statement its own transaction."""
    import pyodbc

    pyodbc.pooling = False  # a closed connection has to let go of its locks
    return pyodbc.connect(connection_string, autocommit=True, timeout=_CONNECT_SECONDS)


def read_log(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the records of the test double's log from the byte ``start`` on."""
    with path.open("rb") as log:
        log.seek(start)
        return [json.loads(line) for line in log if line.endswith(b"\n")]


def why_missing(kind: ServerKind) -> str:
    """Return why there is no server of this kind to test with; an empty text where there is one."""
    key = _key(kind)
    if not os.environ.get(key):
        return f"{key} is not set"
    try:
        import pyodbc  # noqa: F401 - only to see whether it loads
    except ImportError:
        return "pyodbc does not load on this machine: install unixODBC"
    return ""


def is_required(kind: ServerKind) -> bool:
    """Return whether a missing server is a failure and not a reason to skip."""
    return kind in os.environ.get("CSC_REQUIRE_SERVERS", "").split(",")


def server_of(kind: ServerKind) -> str:
    """Return the connection string of the server that the environment names.

    Skips the test where there is none, or fails it where it is required.
    """
    reason = why_missing(kind)
    if reason and is_required(kind):
        pytest.fail(f"{reason}, and CSC_REQUIRE_SERVERS asks for it", pytrace=False)
    if reason:
        pytest.skip(reason)
    return os.environ[_key(kind)]


def _key(kind: ServerKind) -> str:
    return f"TEST_{kind.upper()}_CONNECTION_STRING"


def new_sqlite(folder: Path) -> Database:
    """Return a SQLite database in ``folder``; its file is made by the first statement."""
    return Database("sqlite", f"sqlite:///{folder / 'staging.db'}", "staging_anon")


@contextmanager
def postgresql_worker_database() -> Iterator[str]:
    """Create a PostgreSQL database for one worker, yield its connection string and drop it at the end."""
    server = server_of("postgresql")
    name = f"csc_test_{uuid.uuid4().hex[:12]}"
    admin = connect_odbc(server)
    try:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield _with_database(server, name)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        admin.close()


@contextmanager
def empty_postgresql(connection_string: str) -> Iterator[Database]:
    """Empty the worker's PostgreSQL database and yield it."""
    admin = connect_odbc(connection_string)
    # Whatever the test before left connected may hold locks.
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchall()
    schemas = admin.execute(
        "SELECT quote_ident(nspname) FROM pg_namespace"
        " WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'"
    ).fetchall()
    for (schema,) in schemas:
        admin.execute(f"DROP SCHEMA {schema} CASCADE")
    admin.execute("CREATE SCHEMA public")
    admin.close()
    database = Database("postgresql", connection_string, "staging_anon")
    try:
        yield database
    finally:
        database.close()


@contextmanager
def empty_sqlserver() -> Iterator[Database]:
    """Create a schema in SQL Server, yield a place in it, and drop it with all its tables."""
    server = server_of("sqlserver")
    schema = f"t_{uuid.uuid4().hex[:12]}"
    database = Database(
        "sqlserver",
        server,
        f"{schema}.staging_anon",
        log_file=_path_of("TEST_SQLSERVER_LOG"),
        fault_file=_path_of("TEST_SQLSERVER_FAULTS"),
    )
    admin = connect_odbc(server)
    try:
        admin.execute(f"CREATE SCHEMA {schema}")
        try:
            yield database
        finally:
            if database.fault_file is not None:
                database.set_faults()
            database.close()
            admin.execute("SET LOCK_TIMEOUT 10000")
            _drop_sqlserver_schema(admin, schema)
    finally:
        admin.close()


def _drop_sqlserver_schema(admin: Any, schema: str) -> None:
    tables = admin.execute(
        "SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = ?", schema
    ).fetchall()
    for (table,) in tables:
        admin.execute(f"DROP TABLE {schema}.[{table}]")
    admin.execute(f"DROP SCHEMA {schema}")


def _path_of(key: str) -> Path | None:
    text = os.environ.get(key, "")
    return Path(text) if text else None


def _with_database(connection_string: str, name: str) -> str:
    rest = re.sub(r"(?i)(^|;)\s*database\s*=[^;]*", r"\1", connection_string).strip(";")
    return f"{rest};Database={name}"

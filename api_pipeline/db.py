"""The one place that opens a database: connect, run statements, translate errors, keep the run lock.

Reads commit at once (autocommit), so no transaction and no cursor is open while something else is awaited.
Writes happen inside :meth:`Database.transaction`, which commits on success and rolls back on anything else.
Passing faults are repeated by :meth:`Database.retrying`, over a new connection where the old one was lost.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tenacity

from api_pipeline import sqlite_errors
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.errors import (
    ConfigError,
    ConnectionLostError,
    DatabaseError,
    InterruptedRun,
    TransientDatabaseError,
)
from api_pipeline.odbc import SNAPSHOT_STATE, OdbcFault, connection_error, isolation, prepare, statement_error
from api_pipeline.reachability import network_fault

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = Sequence[Any]

LOGIN_TIMEOUT = 15  # seconds, for opening a connection
STATEMENT_TIMEOUT = 300  # seconds, for one statement: long enough for a scan of a million rows
LOCK_TIMEOUT = 30  # seconds to wait for a lock that another session holds
ATTEMPTS = 6  # of one transaction, with waits of 1, 2, 4, 8 and 16 seconds between
_SQLITE_MINIMUM = (3, 35, 0)  # UPDATE ... FROM and RETURNING
# PostgreSQL takes the rule for due rows to pick very few, so for every page it would read and sort the whole
# table rather than follow the key's index, and at a million rows compile each page's plan as well.
_PLANNER = ("enable_sort", "jit")

# Who is logged in, to which database, of which version.
_IDENTITY = {
    "sqlserver": "SELECT SUSER_SNAME(), DB_NAME(), CAST(SERVERPROPERTY('ProductVersion') AS NVARCHAR(128))",
    "postgresql": "SELECT session_user, current_database(), current_setting('server_version')",
    "sqlite": "SELECT '', file, sqlite_version() FROM pragma_database_list WHERE name = 'main'",
}


@dataclass(frozen=True)
class ServerInfo:
    """What a connection turned out to be; ``login`` is empty where there is none (SQLite)."""

    driver: str
    server: str
    login: str
    database: str
    version: str


class _Driver(Protocol):
    """What a driver has to give: one connection at a time, and its errors in this project's terms."""

    dialect: Dialect

    def connect(self) -> Any: ...
    def names(self, connection: Any) -> tuple[str, str]: ...
    def statement_error(self, error: BaseException) -> DatabaseError: ...
    def begin(self, connection: Any, *, consistent: bool, write: bool) -> None: ...
    def end(self, connection: Any, *, commit: bool) -> None: ...

    @property
    def error_type(self) -> type[Exception]: ...


class Database:
    """One connection and its dialect; close it, or use it in a ``with``.

    Threads take turns: a statement, a transaction or work that is retried is finished before another thread
    gets at the connection.
    """

    def __init__(self, driver: _Driver, *, stop: threading.Event | None = None) -> None:
        self._driver = driver
        self._stop = stop or threading.Event()
        self._connection: Any = None
        self._turn = threading.RLock()
        self._in_transaction = False
        self.after_reconnect: list[Callable[[], None]] = []
        self._connection = driver.connect()

    @property
    def dialect(self) -> Dialect:
        """The spelling of this database."""
        return self._driver.dialect

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a connection that is already dead is not an error."""
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                try:
                    connection.close()
                except self._driver.error_type:
                    log.debug("closing the database connection failed; it was gone already")

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Run a statement and return all its rows.

        Raises:
            TransientDatabaseError: where the same may succeed later.
            DatabaseError: for everything else that the server refuses.
        """
        return self._run(sql, params, fetch=True)

    def execute(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Run a statement that gives no rows. Raises as :meth:`query` does."""
        self._run(sql, params, fetch=False)

    def _run(self, sql: str, params: Sequence[Any], *, fetch: bool) -> list[Row]:
        with self._turn, self._translated():
            self._require_open()
            cursor = self._connection.cursor()
            try:
                cursor.execute(sql, tuple(params))
                # PostgreSQL's driver gives no result set at all where UPDATE ... RETURNING hit no row.
                return list(cursor.fetchall()) if fetch and cursor.description is not None else []
            finally:
                cursor.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._driver.error_type as error:
            raise self._driver.statement_error(error) from error

    def _require_open(self) -> None:
        if self._connection is None:
            raise ConnectionLostError("The connection to the database is closed.", hop="connection")

    @contextmanager
    def transaction(self, *, consistent: bool = False, write: bool = True) -> Iterator[None]:
        """Commit what happens inside, or roll it back on any exception, which is passed on unchanged.

        ``consistent`` has all reads see one moment (ssd, section 5): a snapshot, or, where a SQL Server
        database allows none, rows that stay as they were read until the end. Without ``write`` the database
        need not let anything be written.
        """
        with self._turn:
            if self._in_transaction:
                raise RuntimeError("transactions do not nest")
            self._require_open()
            with self._translated():
                self._driver.begin(self._connection, consistent=consistent, write=write)
            self._in_transaction = True
            try:
                yield
                with self._translated():
                    self._driver.end(self._connection, commit=True)
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._in_transaction = False

    def _roll_back(self) -> None:
        try:
            self._driver.end(self._connection, commit=False)
        except self._driver.error_type:
            # The first error is the one to report; a server rolls back what a lost connection left open.
            log.debug("rolling back failed; the connection is gone")

    def retrying(self, work: Callable[[], T], *, to_the_end: bool = False) -> T:
        """Do ``work``, again after a passing fault, over a new connection where the old one was lost.

        ``work`` must be safe to repeat: a read, or a whole transaction guarded by what was read. A request to
        stop ends the waiting and with it the attempts; those of work that goes ``to_the_end`` then follow
        one another at once. Inside a transaction it is done once: what came before would be lost with it.

        Raises:
            DatabaseError: when the attempts are used up, or at once for a fault that does not pass.
            InterruptedRun: if the run was asked to stop while waiting, unless ``to_the_end``.
        """
        with self._turn:
            return work() if self._in_transaction else self._retried(work, to_the_end=to_the_end)

    def _retried(self, work: Callable[[], T], *, to_the_end: bool) -> T:
        def attempt() -> T:
            if self._connection is None:
                self._reconnect()
            return work()

        def mend(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            wait = state.next_action.sleep if state.next_action else 0.0
            log.warning("database: %s Trying again in %.0f s.", getattr(error, "message", ""), wait)
            if isinstance(error, ConnectionLostError):
                self.close()

        def go_on(seconds: float) -> None:
            with suppress(InterruptedRun):
                self._wait(seconds)

        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientDatabaseError),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=1, max=16),
            sleep=go_on if to_the_end else self._wait,
            before_sleep=mend,
            reraise=True,
        )
        return retry(attempt)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise InterruptedRun("The run was stopped while it waited for the database.", hop="database")

    def _reconnect(self) -> None:
        self._connection = self._driver.connect()
        try:
            for hook in self.after_reconnect:
                hook()
        except BaseException:
            self.close()
            raise
        log.info("database: connected again")

    def server_info(self) -> ServerInfo:
        """Ask what this connection leads to; ``driver`` comes with its version.

        Raises:
            DatabaseError: if the server does not answer.
        """
        self._require_open()
        driver, server = self._driver.names(self._connection)
        row = self.query(_IDENTITY[self.dialect.name])[0]
        login, database, version = (str(value or "") for value in row)
        return ServerInfo(driver, server, login, database, f"{self.dialect.title} {version}")


def connect(
    connection_string: str,
    *,
    trust_server_certificate: bool = False,
    create: bool = False,
    stop: threading.Event | None = None,
) -> Database:
    """Open the database that ``DB_CONNECTION_STRING`` names.

    ``create`` lets a missing SQLite file be made; only ``init-db`` and ``demo`` ask for it. ``stop`` ends
    any waiting between attempts.

    Raises:
        ConfigError: if the text is no connection string.
        DatabaseError: with the hop that failed: driver, host, port, login, database, certificate.
    """
    if connection_string.casefold().startswith("sqlite:"):
        return Database(_SqliteDriver(_sqlite_path(connection_string), create=create), stop=stop)
    return Database(_OdbcDriver(connection_string, trust_server_certificate), stop=stop)


def _sqlite_path(text: str) -> Path:
    rest = text[len("sqlite:") :]
    if not rest.startswith("///") or not rest[3:].strip():
        raise ConfigError(
            "DB_CONNECTION_STRING is not a SQLite address.",
            hop="settings",
            remedy="Write sqlite:///data/staging.db, or sqlite:////srv/staging.db for an absolute path.",
        )
    return Path(rest[3:].strip())


class _SqliteDriver:
    error_type = sqlite3.Error
    dialect: Dialect = SQLITE

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self._create = create

    def connect(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _SQLITE_MINIMUM:
            raise DatabaseError(
                f"This Python has SQLite {sqlite3.sqlite_version}; 3.35 or later is needed.",
                hop="driver",
                remedy="Use a newer Python, or the executable, which brings its own.",
            )
        if not self._create and not self.path.is_file():
            raise DatabaseError(
                f"There is no SQLite file '{self.path}'.",
                hop="database",
                remedy="Check DB_CONNECTION_STRING, or make the file with init-db.",
            )
        mode = "rwc" if self._create else "rw"
        try:
            connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode={mode}",
                uri=True,
                timeout=LOCK_TIMEOUT,
                isolation_level=None,  # transactions are begun in one place, by begin()
                check_same_thread=False,  # Database has its threads take turns
            )
        except sqlite3.Error as error:
            raise self.statement_error(error) from error
        try:
            # The file is only looked at by the first statement.
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            connection.close()
            raise self.statement_error(error) from error
        return connection

    def names(self, connection: sqlite3.Connection) -> tuple[str, str]:  # noqa: ARG002 -- one for all drivers
        return "built in", "this machine"

    def begin(
        self,
        connection: sqlite3.Connection,
        *,
        consistent: bool,  # noqa: ARG002 -- every transaction is, here
        write: bool,
    ) -> None:
        # IMMEDIATE takes the write lock at once: a reader that upgrades later could not wait for it.
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    def end(self, connection: sqlite3.Connection, *, commit: bool) -> None:
        if connection.in_transaction:
            connection.execute("COMMIT" if commit else "ROLLBACK")

    def statement_error(self, error: BaseException) -> DatabaseError:
        return sqlite_errors.statement_error(error, self.path)


class _OdbcDriver:
    def __init__(self, connection_string: str, trust_server_certificate: bool) -> None:
        try:
            # Lazy: on Linux the import fails without libodbc, and SQLite must work without it.
            import pyodbc
        except ImportError as error:
            raise DatabaseError(
                "pyodbc cannot be loaded, which every database but SQLite needs.",
                hop="driver",
                remedy="On Linux install the package unixodbc; on Windows use the executable.",
            ) from error
        # Pooled connections stay logged in after close(), and with them the lock of the run.
        pyodbc.pooling = False
        self._pyodbc: Any = pyodbc
        self.where = prepare(
            connection_string,
            installed=pyodbc.drivers(),
            trust_server_certificate=trust_server_certificate,
        )
        self.dialect: Dialect = SQL_SERVER
        self._isolated = False  # whether the session is at another level than the usual one

    @property
    def error_type(self) -> type[Exception]:
        error: type[Exception] = self._pyodbc.Error
        return error

    def connect(self) -> Any:
        try:
            connection = self._pyodbc.connect(self.where.text, autocommit=True, timeout=LOGIN_TIMEOUT)
        except self._pyodbc.Error as error:
            found = connection_error(error, self.where)
            if found.hop == "port":
                found = network_fault(self.where, OdbcFault.of(error)) or found
            raise found from error
        try:
            product = str(connection.getinfo(self._pyodbc.SQL_DBMS_NAME))
            self.dialect = _dialect_of(product)
            cursor = connection.cursor()
            if self.dialect is SQL_SERVER:
                connection.timeout = STATEMENT_TIMEOUT
                cursor.execute(f"SET LOCK_TIMEOUT {LOCK_TIMEOUT * 1000}")
            else:
                cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
                cursor.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}s'")
                for setting in _PLANNER:
                    cursor.execute(f"SET {setting} = off")
            cursor.close()
        except self._pyodbc.Error as error:
            raise self.statement_error(error) from error
        return connection

    def names(self, connection: Any) -> tuple[str, str]:
        try:
            driver = connection.getinfo(self._pyodbc.SQL_DRIVER_NAME)
            version = connection.getinfo(self._pyodbc.SQL_DRIVER_VER)
        except self._pyodbc.Error as error:
            raise self.statement_error(error) from error
        return f"{driver} {version}", self.where.get("server") or self.where.get("dsn")

    def begin(self, connection: Any, *, consistent: bool, write: bool) -> None:
        try:
            if consistent and self.dialect is SQL_SERVER:
                self._isolated = True
                connection.execute(isolation(self._level(connection)))
            connection.autocommit = False
            modes = ["ISOLATION LEVEL REPEATABLE READ"] * consistent + ["READ ONLY"] * (not write)
            if modes and self.dialect is POSTGRESQL:
                connection.execute(f"SET TRANSACTION {', '.join(modes)}")
        except self._pyodbc.Error:
            with suppress(self._pyodbc.Error):
                self.end(connection, commit=False)
            raise

    def _level(self, connection: Any) -> str:
        with suppress(self._pyodbc.ProgrammingError):  # a server that has never heard of snapshots
            if [row[0] for row in connection.execute(SNAPSHOT_STATE).fetchall()] == [1]:
                return "SNAPSHOT"
        return "REPEATABLE READ"

    def end(self, connection: Any, *, commit: bool) -> None:
        try:
            connection.commit() if commit else connection.rollback()
        finally:
            connection.autocommit = True
            if self._isolated:  # the level outlives the transaction there
                self._isolated = False
                connection.execute(isolation("READ COMMITTED"))

    def statement_error(self, error: BaseException) -> DatabaseError:
        return statement_error(error)


def _dialect_of(product: str) -> Dialect:
    if product == "Microsoft SQL Server":
        return SQL_SERVER
    if product == "PostgreSQL":
        return POSTGRESQL
    raise DatabaseError(
        f"'{product}' is not a database that this tool can use.",
        hop="driver",
        remedy="Use SQL Server, PostgreSQL or SQLite.",
    )


def latency_ms(db: Database, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of one empty round trip, in milliseconds."""
    started = clock()
    db.query("SELECT 1")
    return (clock() - started) * 1000

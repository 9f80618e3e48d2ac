"""Statements are translated when they fail, repeated if it passes, and written all together or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db, schema
from api_pipeline.dialects import SQLITE, Dialect
from api_pipeline.errors import ConnectionLostError, DatabaseError, InterruptedRun, TransientDatabaseError
from api_pipeline.names import TableName
from api_pipeline.odbc import SNAPSHOT_STATE
from tests.databases import Database
from tests.db_kit import Waits, changed, opened


class TestStatements:
    """What a statement can run into, on each database."""

    def test_missing_table(self, database: Database) -> None:
        """A table that is not there is told by its hop."""
        with opened(database) as ours:
            with pytest.raises(DatabaseError) as caught:
                ours.query(f"SELECT * FROM {database.table_name}")
            assert caught.value.hop == "table"
            with pytest.raises(DatabaseError, match="There is no table"):
                schema.require(ours, TableName.parse(database.table_name))

    def test_missing_column(self, database: Database) -> None:
        """A column that is not there is told by its hop, and by its name when the table is ours."""
        database.execute(f"CREATE TABLE {database.table_name} (id INT)")
        with opened(database) as ours:
            with pytest.raises(DatabaseError) as caught:
                ours.query(f"SELECT t.person_id FROM {database.table_name} AS t")
            assert caught.value.hop == "column"
            with pytest.raises(DatabaseError, match="has no column person_id, "):
                schema.require(ours, TableName.parse(database.table_name))

    def test_bad_statement(self, database: Database) -> None:
        """A statement that the server refuses is not tried again, and nothing of it is repeated."""
        with opened(database) as ours:
            with pytest.raises(DatabaseError) as caught:
                ours.query("SELEC 'a secret'")
            assert (caught.value.hop, type(caught.value)) == ("statement", DatabaseError)
            assert "secret" not in str(caught.value)
            assert ours.query("SELECT 1")[0][0] == 1

    def test_no_permission(self, postgresql_database: Database) -> None:
        """A login that may read but not update is told by its hop."""
        with (
            read_only_role(postgresql_database) as connection_string,
            db.connect(connection_string) as ours,
        ):
            assert ours.query("SELECT COUNT(*) FROM held")[0][0] == 0
            with pytest.raises(DatabaseError) as caught, ours.transaction():
                ours.execute("UPDATE held SET id = 1")
        assert caught.value.hop == "permission"

    def test_deadlock_may_be_tried_again(self, sqlserver_database: Database) -> None:
        """The victim's transaction is repeated and then succeeds."""
        sqlserver_database.execute(f"CREATE TABLE {sqlserver_database.table_name} (id INT)")
        sqlserver_database.set_faults({"match": "INSERT INTO", "do": "1205"})
        stop = Waits()
        with opened(sqlserver_database, stop=stop) as ours:

            def work() -> None:
                with ours.transaction():
                    ours.execute(f"INSERT INTO {sqlserver_database.table_name} VALUES (?)", [7])

            ours.retrying(work)
        assert sqlserver_database.query(f"SELECT * FROM {sqlserver_database.table_name}") == [(7,)]
        assert stop.seconds == [1]

    @pytest.mark.parametrize("do", ["drop", "drop_after"])
    def test_lost_connection_is_opened_anew(self, sqlserver_database: Database, do: str) -> None:
        """Work is repeated over a new connection, whether the server had begun it or not."""
        sqlserver_database.set_faults({"match": "SELECT 4711", "do": do})
        stop, again = Waits(), []
        with opened(sqlserver_database, stop=stop) as ours:
            ours.after_reconnect.append(lambda: again.append("reconnected"))
            assert ours.retrying(lambda: ours.query("SELECT 4711"))[0][0] == 4711
        assert (stop.seconds, again) == ([1], ["reconnected"])

    def test_connection_ended_by_the_server(self, postgresql_database: Database) -> None:
        """The end of the server process in the middle is a lost connection, and passes."""
        with opened(postgresql_database, stop=Waits()) as ours:
            process = ours.query("SELECT pg_backend_pid()")[0][0]

            def work() -> Any:
                if ours.query("SELECT pg_backend_pid()")[0][0] == process:
                    postgresql_database.query("SELECT pg_terminate_backend(?)", [process])
                return ours.query("SELECT 1")[0][0]

            assert ours.retrying(work) == 1
            assert ours.query("SELECT pg_backend_pid()")[0][0] != process


@contextlib.contextmanager
def read_only_role(database: Database) -> Iterator[str]:
    """Make a table ``held`` and a role that may only read it; yield its connection string."""
    role = "csc_reader_" + os.urandom(4).hex()
    database.execute("CREATE TABLE held (id INT)")
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    try:
        database.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        database.execute(f"GRANT SELECT ON held TO {role}")
        yield changed(database.connection_string, UID=role, PWD="reader")
    finally:
        database.execute(f"DROP OWNED BY {role}")
        database.execute(f"DROP ROLE {role}")


class TestServerInfo:
    """What a connection says of itself."""

    def test_names_what_it_leads_to(self, database: Database) -> None:
        """Driver, server, login, database and version are there, and the password is not."""
        with opened(database) as ours:
            found = ours.server_info()
            assert re.fullmatch(r"(SQL Server|PostgreSQL|SQLite) \d+\.\d+.*", found.version)
            assert found.driver
            assert found.server
            assert bool(found.login) is (database.kind != "sqlite")
            assert Path(found.database).name in database.connection_string
            assert db.latency_ms(ours) > 0

    def test_closed_connection_says_so(self, sqlite_database: Database) -> None:
        """Whatever is asked of a closed connection fails as a lost one does."""
        ours = opened(sqlite_database)
        ours.close()
        ours.close()
        for ask in (
            ours.server_info,
            lambda: ours.query("SELECT 1"),
            lambda: ours.transaction().__enter__(),
        ):
            with pytest.raises(ConnectionLostError, match="is closed"):
                ask()


def test_write_back_finds_a_payload_in_a_column_of_single_bytes(sqlserver_database: Database) -> None:
    """Where an older table has VARCHAR payloads, a row without a hash is still known by its payload."""
    table = sqlserver_database.table_name
    sqlserver_database.execute(f"CREATE TABLE {table} (id INT, payload VARCHAR(MAX))")
    sqlserver_database.execute(f"INSERT INTO {table} VALUES (1, ?)", ['{"la_child_id": "A"}'])
    with opened(sqlserver_database) as ours:
        same = ours.dialect.same_bytes("t.payload", "CAST(? AS NVARCHAR(MAX))")
        for text, count in (('{"la_child_id": "A"}', 1), ('{"la_child_id": "a"}', 0)):
            params = [text] * same.count("?")
            assert ours.query(f"SELECT COUNT(*) FROM {table} AS t WHERE {same}", params)[0][0] == count


# --- Transactions and retries ----------------------------------------------------------------------------


class Fault(Exception):
    """What the driver below raises."""


class FailingDriver:
    """A driver over SQLite in memory whose next steps fail in the order of ``plan``."""

    dialect: Dialect = SQLITE
    error_type = Fault

    def __init__(self) -> None:
        self.plan: list[type[DatabaseError]] = []
        self.connected = 0
        self.ended: list[bool] = []
        self.fail_at: set[str] = set()

    def _step(self, name: str) -> None:
        if name in self.fail_at:
            raise Fault(name)

    def connect(self) -> Any:
        """Count."""
        self.connected += 1
        return Connection(self)

    def names(self, connection: Any) -> tuple[str, str]:  # noqa: ARG002 - the protocol's
        """Return something."""
        return "failing", "nowhere"

    def statement_error(self, error: BaseException) -> DatabaseError:
        """Return the kind that comes next."""
        kind = self.plan.pop(0) if self.plan else DatabaseError
        return kind(f"translated {error}", hop="test")

    def begin(self, connection: Any, *, consistent: bool, write: bool) -> None:  # noqa: ARG002 - the protocol's
        """Fail if asked."""
        self._step("begin")

    def end(self, connection: Any, *, commit: bool) -> None:  # noqa: ARG002 - the protocol's
        """Note what was asked, and fail if asked."""
        self.ended.append(commit)
        self._step("commit" if commit else "rollback")


class Connection:
    """A connection, and its own cursor, that fails while the driver's plan says so."""

    description = "one column"

    def __init__(self, driver: FailingDriver) -> None:
        self._driver = driver

    def cursor(self) -> Connection:
        """Return itself."""
        return self

    def close(self) -> None:
        """Do nothing."""

    def execute(self, sql: str, params: object) -> None:  # noqa: ARG002 - the protocol's
        """Fail as planned."""
        if self._driver.plan:
            raise Fault("execute")

    def fetchall(self) -> list[tuple[int]]:
        """Return one row."""
        return [(1,)]


class RecordingSession:
    """A connection to a SQL Server that is not there: it notes what is said to it, and is its own cursor."""

    def __init__(self, snapshot_state: list[Any]) -> None:
        self.said: list[str] = []
        self._state = snapshot_state

    def __setattr__(self, name: str, value: object) -> None:
        """Note a change of autocommit."""
        if name == "autocommit":
            self.said.append(f"autocommit {value}")
        else:
            object.__setattr__(self, name, value)

    def getinfo(self, number: int) -> str:  # noqa: ARG002 - the driver's
        """Be SQL Server."""
        return "Microsoft SQL Server"

    def cursor(self) -> RecordingSession:
        """Return itself."""
        return self

    def execute(self, sql: str, *params: object) -> RecordingSession:  # noqa: ARG002 - the driver's
        """Note the statement."""
        self.said.append(sql)
        return self

    def fetchall(self) -> list[Any]:
        """Return whether snapshots are allowed."""
        return self._state

    def commit(self) -> None:
        """Note it."""
        self.said.append("commit")

    def close(self) -> None:
        """Do nothing."""


class TestRetrying:
    """Passing faults are repeated, others are not."""

    @pytest.mark.parametrize("kind", [TransientDatabaseError, ConnectionLostError])
    def test_passing_fault_is_repeated(self, kind: type[DatabaseError]) -> None:
        """Waits double from one second; only a lost connection is opened anew."""
        driver, stop = FailingDriver(), Waits()
        database = db.Database(driver, stop=stop)
        driver.plan = [kind] * 3
        assert database.retrying(lambda: database.query("x")) == [(1,)]
        assert stop.seconds == [1, 2, 4]
        assert driver.connected == (4 if kind is ConnectionLostError else 1)

    def test_attempts_are_counted(self) -> None:
        """The last error is passed on as it is when the attempts are used up."""
        driver, stop = FailingDriver(), Waits()
        database = db.Database(driver, stop=stop)
        driver.plan = [TransientDatabaseError] * 99
        with pytest.raises(TransientDatabaseError, match="translated execute"):
            database.retrying(lambda: database.query("x"))
        assert 99 - len(driver.plan) == db.ATTEMPTS == len(stop.seconds) + 1

    def test_lasting_fault_is_not_repeated(self) -> None:
        """Nothing is waited for where trying again would not help."""
        driver, stop = FailingDriver(), Waits()
        database = db.Database(driver, stop=stop)
        driver.plan = [DatabaseError] * 2
        with pytest.raises(DatabaseError):
            database.retrying(lambda: database.query("x"))
        assert (stop.seconds, len(driver.plan)) == ([], 1)

    def test_request_to_stop_ends_the_waiting(self) -> None:
        """Ctrl+C is not kept waiting by a database that is down."""
        driver, stop = FailingDriver(), Waits()
        stop.set()
        database = db.Database(driver, stop=stop)
        driver.plan = [ConnectionLostError] * 99
        with pytest.raises(InterruptedRun):
            database.retrying(lambda: database.query("x"))
        assert len(stop.seconds) == 1

    def test_what_must_be_done_after_reconnecting_can_fail(self) -> None:
        """A hook that fails closes the new connection again, so that no work goes over it."""
        driver, stop = FailingDriver(), Waits()
        database = db.Database(driver, stop=stop)
        failures = [ConnectionLostError("no lock", hop="lock")] * 2

        def hook() -> None:
            if failures:
                raise failures.pop()

        database.after_reconnect.append(hook)
        driver.plan = [ConnectionLostError]
        assert database.retrying(lambda: database.query("x")) == [(1,)]
        assert (driver.connected, stop.seconds) == (4, [1, 2, 4])


class TestTransaction:
    """All or nothing, and the first error is the one that is heard."""

    def test_all_or_nothing(self, database: Database) -> None:
        """What was written before an exception is gone, what was committed stays, reads see both."""
        table = database.table_name
        database.execute(f"CREATE TABLE {table} (id INT)")
        with opened(database) as ours:
            with ours.transaction():
                ours.execute(f"INSERT INTO {table} VALUES (?)", [1])
            for statement in ("SELEC 1", f"INSERT INTO {table} VALUES (1, 2, 3)"):
                with pytest.raises(DatabaseError), ours.transaction():
                    self.insert_and(ours, table, statement)
            ours.execute(f"INSERT INTO {table} VALUES (?)", [4])
        assert database.query(f"SELECT id FROM {table} ORDER BY id") == [(1,), (4,)]

    @staticmethod
    def insert_and(ours: db.Database, table: str, statement: str) -> None:
        """Insert a row, then do something that fails."""
        ours.execute(f"INSERT INTO {table} VALUES (?)", [2])
        ours.execute(statement)

    def test_nothing_is_held_between_reads(self, database: Database) -> None:
        """A read leaves no lock behind that would keep the refresh from writing."""
        table = database.table_name
        database.execute(f"CREATE TABLE {table} (id INT)")
        with opened(database) as ours:
            assert ours.query(f"SELECT COUNT(*) FROM {table}")[0][0] == 0
            database.execute(f"DROP TABLE {table}")

    def test_first_error_is_kept(self) -> None:
        """An error while rolling back does not hide what went wrong."""
        driver = FailingDriver()
        driver.fail_at = {"rollback"}
        database = db.Database(driver)
        with pytest.raises(ZeroDivisionError), database.transaction():
            raise ZeroDivisionError
        assert driver.ended == [False]

    def test_failed_commit_is_rolled_back_and_translated(self) -> None:
        """A commit that fails is an error of ours, and may be one that passes."""
        driver = FailingDriver()
        driver.fail_at, driver.plan = {"commit"}, [TransientDatabaseError]
        database = db.Database(driver)
        with pytest.raises(TransientDatabaseError, match="translated commit"), database.transaction():
            pass
        assert driver.ended == [True, False]

    def test_failed_begin_is_translated(self) -> None:
        """And the next transaction can begin."""
        driver = FailingDriver()
        database = db.Database(driver)
        driver.fail_at = {"begin"}
        with pytest.raises(DatabaseError, match="translated begin"), database.transaction():
            pytest.fail("nothing may be done")
        driver.fail_at = set()
        with database.transaction():
            pass
        assert driver.ended == [True]

    @pytest.mark.parametrize("write", [True, False])
    def test_consistent_reads_see_one_moment(self, database: Database, write: bool) -> None:
        """What another session commits in between is not seen until the transaction has ended."""
        table = database.table_name
        database.execute(f"CREATE TABLE {table} (id INT)")
        count = f"SELECT COUNT(*) FROM {table}"
        if database.kind == "sqlite":
            database.execute("PRAGMA journal_mode = WAL")
        with opened(database) as ours:
            with ours.transaction(consistent=True, write=write):
                assert ours.query(count)[0][0] == 0
                if write:
                    ours.execute(f"INSERT INTO {table} VALUES (1)")
                if database.kind != "sqlite" or not write:
                    database.execute(f"INSERT INTO {table} VALUES (2)")
                    assert ours.query(count)[0][0] == int(write)
            found = {row[0] for row in ours.query(f"SELECT id FROM {table}")}
            assert found == ({1} if write else set()) | (
                {2} if database.kind != "sqlite" or not write else set()
            )

    @pytest.mark.parametrize(
        "kind",
        [
            pytest.param("postgresql", marks=pytest.mark.postgresql),
            pytest.param("sqlserver", marks=pytest.mark.sqlserver),
        ],
    )
    def test_isolation_is_put_back(self, request: pytest.FixtureRequest, kind: str) -> None:
        """The transaction after a consistent one, ended either way, sees what is committed meanwhile."""
        database: Database = request.getfixturevalue(f"{kind}_database")
        table = database.table_name
        database.execute(f"CREATE TABLE {table} (id INT)")
        with opened(database) as ours:
            for statement in (f"SELECT COUNT(*) FROM {table}", "SELEC 1"):
                with contextlib.suppress(DatabaseError), ours.transaction(consistent=True, write=False):
                    ours.query(statement)
                with ours.transaction():
                    before = ours.query(f"SELECT COUNT(*) FROM {table}")[0][0]
                    database.execute(f"INSERT INTO {table} VALUES (1)")
                    assert ours.query(f"SELECT COUNT(*) FROM {table}")[0][0] == before + 1
                    ours.execute(f"INSERT INTO {table} VALUES (2)")

    def test_reading_writes_nothing(self, postgresql_database: Database) -> None:
        """A transaction without ``write`` is refused one, where the server can see to that."""
        postgresql_database.execute("CREATE TABLE t (id INT)")
        with opened(postgresql_database) as ours:
            with pytest.raises(DatabaseError) as caught, ours.transaction(write=False):
                ours.execute("INSERT INTO t VALUES (1)")
            assert caught.value.hop == "read-only"
            with ours.transaction():
                ours.execute("INSERT INTO t VALUES (2)")
        assert postgresql_database.query("SELECT id FROM t") == [(2,)]

    @pytest.mark.parametrize(
        ("state", "level"), [([(1,)], "SNAPSHOT"), ([(0,)], "REPEATABLE READ"), ([], "REPEATABLE READ")]
    )
    def test_level_on_sql_server(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: list[Any], level: str
    ) -> None:
        """A snapshot where the database allows it; the level is asked for before the transaction begins."""
        pytest.importorskip("pyodbc")
        session = RecordingSession(state)
        monkeypatch.setattr("pyodbc.connect", lambda *_, **__: session)
        driver = tmp_path / "msodbcsql.so"
        driver.touch()
        with db.connect(f"Driver={driver};Server=x") as ours:
            session.said.clear()
            with ours.transaction(consistent=True, write=False):
                session.said.append("inside")
            with ours.transaction():
                session.said.append("again")
        assert session.said == [
            SNAPSHOT_STATE,
            f"SET TRANSACTION ISOLATION LEVEL {level}",
            "autocommit False",
            "inside",
            "commit",
            "autocommit True",
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "autocommit False",
            "again",
            "commit",
            "autocommit True",
        ]

    def test_nothing_inside_is_tried_again_alone(self) -> None:
        """What came before in the transaction is gone with the fault, so the whole of it must be repeated."""
        driver, stop = FailingDriver(), Waits()
        database = db.Database(driver, stop=stop)
        driver.plan = [ConnectionLostError]
        with pytest.raises(ConnectionLostError), database.transaction():
            database.retrying(lambda: database.query("x"))
        assert (stop.seconds, driver.connected) == ([], 1)

    def test_transactions_do_not_nest(self, sqlite_database: Database) -> None:
        """An inner commit would commit what the outer one still may roll back."""
        sqlite_database.execute("CREATE TABLE t (id INT)")
        with opened(sqlite_database) as ours:
            with pytest.raises(RuntimeError, match="nest"), ours.transaction(), ours.transaction():
                pass
            with ours.transaction():
                ours.execute("INSERT INTO t VALUES (1)")
        assert sqlite_database.query("SELECT id FROM t") == [(1,)]

"""Each way in which a database cannot be opened is named by its hop, and no secret is said."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api_pipeline import db, reachability
from api_pipeline.errors import ConfigError, ConnectionLostError, DatabaseError, TransientDatabaseError
from tests.databases import Database
from tests.db_kit import changed, folder_for_all, ordinary_account


def failure_of(connection_string: str) -> DatabaseError:
    """Return the error that opening this connection ends in."""
    with pytest.raises(DatabaseError) as caught, db.connect(connection_string):
        pass
    return caught.value


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a loopback port and do ``answer`` with each connection; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def drop(connection: socket.socket) -> None:
    """Read a little, and close the connection without a word."""
    connection.recv(16)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else can be given meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a login soon: Microsoft's driver needs all of its time to notice a closed port."""
    monkeypatch.setattr(db, "LOGIN_TIMEOUT", 1)
    monkeypatch.setattr(reachability, "PROBE_TIMEOUT", 1)


class TestPostgresqlConnection:
    """Each way in which PostgreSQL cannot be opened."""

    def test_unknown_host(self, postgres_dsn: str) -> None:
        """A name that no name server knows is told from a server that does not answer."""
        found = failure_of(changed(postgres_dsn, Server="no-such-host.invalid"))
        assert (found.hop, isinstance(found, ConnectionLostError)) == ("host", True)
        assert "no-such-host.invalid" in found.message

    def test_refused_port(self, postgres_dsn: str, closed_port: int) -> None:
        """The host and the port that refused are named."""
        found = failure_of(changed(postgres_dsn, Server="127.0.0.1", Port=closed_port))
        assert found.hop == "port"
        assert f"refused the connection on port {closed_port}" in found.message

    def test_dropped_connection(self, postgres_dsn: str) -> None:
        """A server that takes the connection and drops it is neither a wrong host nor a closed port."""
        with listening(drop) as port:
            found = failure_of(changed(postgres_dsn, Server="127.0.0.1", Port=port))
        assert found.hop == "connection"
        assert f"reached on port {port}" in found.message

    @pytest.mark.parametrize("key", ["PWD", "UID"])
    def test_wrong_login(self, postgres_dsn: str, key: str) -> None:
        """A wrong user and a wrong password are the login's fault, and the password is not repeated."""
        found = failure_of(changed(postgres_dsn, **{key: "wrong-one"}))
        assert (found.hop, isinstance(found, TransientDatabaseError)) == ("login", False)
        assert ("wrong-one" in str(found)) is (key == "UID")

    def test_missing_database(self, postgres_dsn: str) -> None:
        """The database that is not there is named."""
        found = failure_of(changed(postgres_dsn, Database="ghost"))
        assert (found.hop, "'ghost'" in found.message) == ("database", True)


@pytest.mark.usefixtures("hasty")
class TestSqlServerConnection:
    """Each way in which SQL Server cannot be opened, through Microsoft's driver."""

    def test_unknown_host(self, sqlserver_dsn: str) -> None:
        """The driver only says that its time is up; the name server knows more."""
        found = failure_of(changed(sqlserver_dsn, Server="no-such-host.invalid"))
        assert (found.hop, "no-such-host.invalid" in found.message) == ("host", True)

    def test_refused_port(self, sqlserver_dsn: str, closed_port: int) -> None:
        """The driver only says that its time is up; a call of our own says that the port is closed."""
        found = failure_of(changed(sqlserver_dsn, Server=f"127.0.0.1,{closed_port}"))
        assert found.hop == "port"
        assert f"refused the connection on port {closed_port}" in found.message

    def test_dropped_connection(self, sqlserver_dsn: str) -> None:
        """A server that takes the connection and drops it is neither a wrong host nor a closed port."""
        with listening(drop) as port:
            found = failure_of(changed(sqlserver_dsn, Server=f"127.0.0.1,{port}"))
        assert found.hop == "connection"

    def test_wrong_password(self, sqlserver_dsn: str) -> None:
        """It is the login's fault, and the password is not repeated."""
        found = failure_of(changed(sqlserver_dsn, PWD="wrong-one"))
        assert (found.hop, "wrong-one" in str(found)) == ("login", False)

    def test_missing_database(self, sqlserver_database: Database) -> None:
        """Error 4060 is about the database, although its text says that the login failed."""
        sqlserver_database.set_faults({"match": ".", "times": 0, "do": "refuse_login", "number": 4060})
        found = failure_of(changed(sqlserver_database.connection_string, Database="ghost"))
        assert (found.hop, "'ghost'" in found.message) == ("database", True)

    def test_no_common_encryption(self, sqlserver_database: Database) -> None:
        """A server without TLS, asked for encryption, is told from one that does not answer."""
        if sqlserver_database.fault_file is None:
            pytest.skip("only the test double is known to have no TLS")
        found = failure_of(changed(sqlserver_database.connection_string, Encrypt="yes"))
        assert found.hop == "certificate"


def odbc_loads() -> bool:
    """Whether this machine has the library that pyodbc needs."""
    try:
        import pyodbc  # noqa: F401 - only to see whether it loads
    except ImportError:
        return False
    return True


@pytest.mark.skipif(not odbc_loads(), reason="pyodbc does not load on this machine: install unixODBC")
@pytest.mark.parametrize(
    "text", ["Driver={No Such Driver 7};Server=x", "Driver=/no/such.so;Server=x", "DSN=ghost"]
)
def test_missing_driver(text: str) -> None:
    """What cannot be loaded is named, whether driver, library or data source."""
    found = failure_of(text)
    name = text.partition(";")[0].partition("=")[2].strip("{}")
    assert (found.hop, name in found.message) == ("driver", True)


def test_no_odbc_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ODBC on the machine the error says what to install."""
    monkeypatch.setitem(sys.modules, "pyodbc", None)
    found = failure_of("Server=x")
    assert (found.hop, "unixodbc" in found.remedy) == ("driver", True)


class TestSqliteFile:
    """Each way in which a SQLite file cannot be used."""

    @pytest.mark.parametrize("text", ["sqlite:x.db", "sqlite:///", "sqlite://host/x.db"])
    def test_address_must_be_one(self, text: str) -> None:
        """A mistyped address is a setting to correct, not a file to look for."""
        with pytest.raises(ConfigError, match="sqlite:///data"):
            db.connect(text)

    def test_missing_file_is_not_made(self, tmp_path: Path) -> None:
        """A misspelt path would otherwise be an empty database with nothing due."""
        found = failure_of(f"sqlite:///{tmp_path / 'typo.db'}")
        assert found.hop == "database"
        assert list(tmp_path.iterdir()) == []

    def test_missing_file_is_made_on_request(self, tmp_path: Path) -> None:
        """init-db and demo may make it, under a name with any character."""
        path = tmp_path / "a b%20#?\u00e9.db"
        if os.name == "nt":
            path = tmp_path / "a b%20#\u00e9.db"
        with db.connect(f"sqlite:///{path}", create=True) as database:
            database.execute("CREATE TABLE t (id INTEGER)")
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_file_that_is_no_database(self, tmp_path: Path) -> None:
        """It is said at once, before anything is due."""
        path = tmp_path / "letter.docx"
        path.write_bytes(b"PK\x03\x04 this is no database" * 100)
        found = failure_of(f"sqlite:///{path}")
        assert (found.hop, str(path) in found.message) == ("database", True)

    def test_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        """A folder is no database file."""
        assert failure_of(f"sqlite:///{tmp_path}").hop == "database"

    def test_busy_file_may_be_tried_again(
        self, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that another program writes to is a passing fault."""
        monkeypatch.setattr(db, "LOCK_TIMEOUT", 0)
        sqlite_database.execute("CREATE TABLE t (id INTEGER)")
        sqlite_database.execute("BEGIN IMMEDIATE")
        with db.connect(sqlite_database.connection_string) as database:
            with (
                pytest.raises(TransientDatabaseError, match="locked by another program"),
                database.transaction(),
            ):
                pass
            sqlite_database.execute("ROLLBACK")
            with database.transaction():
                database.execute("INSERT INTO t VALUES (1)")
        assert sqlite_database.query("SELECT * FROM t") == [(1,)]


@pytest.mark.parametrize("locked", ["file", "folder"])
def test_read_only_sqlite(locked: str) -> None:
    """A file or a folder without write permission is a fault of permissions; reading goes on."""
    with folder_for_all() as folder:
        path = folder / "staging.db"
        with db.connect(f"sqlite:///{path}", create=True) as database:
            database.execute("CREATE TABLE t (id INTEGER)")
        path.chmod(0o444 if locked == "file" else 0o666)
        folder.chmod(0o777 if locked == "file" else 0o555)
        with ordinary_account(), db.connect(f"sqlite:///{path}") as database:
            assert database.query("SELECT COUNT(*) FROM t")[0][0] == 0
            with pytest.raises(DatabaseError) as caught, database.transaction():
                database.execute("INSERT INTO t VALUES (1)")
    assert caught.value.hop in {"permission", "database"}
    assert "write" in caught.value.remedy
    assert not isinstance(caught.value, TransientDatabaseError)


def test_sqlite_of_a_python_that_is_too_old(
    monkeypatch: pytest.MonkeyPatch, sqlite_database: Database
) -> None:
    """It is said before the first statement that it would not understand."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    assert failure_of(sqlite_database.connection_string).hop == "driver"

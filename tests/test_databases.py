"""The databases that the other tests are given are real, empty and their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from api_pipeline.names import TableName
from tests import databases
from tests.databases import Database

PAYLOAD = '{"la_child_id": "O\'Brien \u00e9 \U0001f600"}'


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_finds_its_database_empty(database: Database, turn: int) -> None:
    """What one test leaves in a database, the next does not see."""
    text = "NVARCHAR(MAX)" if database.kind == "sqlserver" else "TEXT"
    database.execute(f"CREATE TABLE {database.table_name} (id INT PRIMARY KEY, json_payload {text})")
    database.executemany(f"INSERT INTO {database.table_name} VALUES (?, ?)", [(turn, PAYLOAD)])
    assert database.query(f"SELECT * FROM {database.table_name}") == [(turn, PAYLOAD)]


def test_rows_hit_are_counted(database: Database) -> None:
    """A statement tells how many rows it hit."""
    database.execute(f"CREATE TABLE {database.table_name} (id INT)")
    database.executemany(f"INSERT INTO {database.table_name} VALUES (?)", [(1,), (2,), (3,)])
    assert database.execute(f"DELETE FROM {database.table_name} WHERE id > ?", (1,)) == 2


def test_table_name_is_one_for_fake_children(database: Database, table_name: str) -> None:
    """The table that a test is given may be filled with fake children."""
    assert TableName.parse(table_name).is_anon
    assert TableName.parse(database.plain_table_name()).is_anon


def test_what_is_left_connected_does_not_block_the_next_test(postgresql_database: Database) -> None:
    """A connection left open in a transaction is ended before the database is emptied."""
    postgresql_database.execute("CREATE TABLE held (id INT)")
    forgotten = postgresql_database.connect()
    forgotten.autocommit = False
    forgotten.execute("INSERT INTO held VALUES (1)")
    with databases.empty_postgresql(postgresql_database.connection_string) as emptied:
        assert emptied.query("SELECT 1 FROM pg_tables WHERE tablename = 'held'") == []


def test_double_does_as_it_is_told_and_says_what_it_was_asked(sqlserver_database: Database) -> None:
    """A fault strikes the statement it is meant for, once, and the log holds the statement."""
    import pyodbc

    sqlserver_database.set_faults({"match": "SELECT 4711", "do": "1205"})
    with pytest.raises(pyodbc.Error, match="1205"):
        sqlserver_database.query("SELECT 4711")
    assert sqlserver_database.query("SELECT 4711") == [(4711,)]
    asked = [record.get("sql") or "" for record in sqlserver_database.log_records()]
    assert sum("SELECT 4711" in sql for sql in asked) == 2


@pytest.mark.usefixtures("sqlserver_database")
def test_sql_server_tests_take_turns(tmp_path_factory: pytest.TempPathFactory) -> None:
    """While one test has the server no other worker's does: a fault strikes the test that asked for it."""
    other_worker = FileLock(tmp_path_factory.getbasetemp().parent / "sqlserver.lock", is_singleton=False)
    with pytest.raises(Timeout):
        other_worker.acquire(timeout=0)


def test_server_missing_where_it_is_required_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that must reach the servers cannot pass by skipping their tests."""
    monkeypatch.delenv("TEST_POSTGRESQL_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("CSC_REQUIRE_SERVERS", "postgresql,sqlserver")
    with pytest.raises(pytest.fail.Exception, match="TEST_POSTGRESQL_CONNECTION_STRING is not set"):
        databases.server_of("postgresql")
    monkeypatch.delenv("CSC_REQUIRE_SERVERS")
    with pytest.raises(pytest.skip.Exception, match="TEST_POSTGRESQL_CONNECTION_STRING is not set"):
        databases.server_of("postgresql")


def test_only_whole_lines_of_the_log_are_read(tmp_path: Path) -> None:
    """A line that is still being written is left for later, and so is nothing before the start."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"kind": "login"}\n{"kind": "bug"}\n{"kind": "ba')
    assert [record["kind"] for record in databases.read_log(log)] == ["login", "bug"]
    assert databases.read_log(log, start=18) == [{"kind": "bug"}]

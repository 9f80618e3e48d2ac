"""Fixtures that every test may ask for, and what all tests have in common.

Tests see no setting of the machine that they run on and no ``.env`` of the checkout: each starts in an empty
folder with a clean environment. Real databases come from :mod:`tests.databases`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests import databases
from tests.databases import Database
from tests.staging_kit import HookedReceiver, Staging

ROOT = Path(__file__).resolve().parent.parent

_LOCK_SECONDS = 300  # far longer than all SQL Server tests together

# No deadline: with two workers on two cores a single slow example says nothing.
settings.register_profile(
    "local", deadline=None, database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples")
)
# The same examples in every run, so that a red run is about the change and not about luck.
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Everything outside the tests that the package or its libraries would read (interface, "Settings").
_SETTINGS = """
    DB_CONNECTION_STRING SQL_CONN_STR USER_SERVER USER_DATABASE
    API_ENDPOINT LA_CODE TOKEN_ENDPOINT CLIENT_ID CLIENT_SECRET SCOPE SUPPLIER_KEY
    TESTING_MODE TABLE_NAME USE_PARTIAL_PAYLOAD BATCH_SIZE MAX_RETRIES REQUEST_TIMEOUT MIN_REQUEST_GAP_MS
    MAX_DELETIONS_PERCENT RUN_DEADLINE_MINUTES VALIDATION
    SSD_SCHEMA SSD_CONNECTION_STRING COHORT_TABLE WINDOW_MONTHS WORKER_ID_COLUMN UASC_PATTERN
    SPOOL_DIR WORKERS DB_TRUST_SERVER_CERTIFICATE USER_AGENT CA_BUNDLE LOG_FILE LOG_LEVEL DEBUG
    HTTPS_PROXY HTTP_PROXY ALL_PROXY NO_PROXY https_proxy http_proxy all_proxy no_proxy
    REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
""".split()


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in _SETTINGS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _postgresql_worker() -> Iterator[str]:
    with databases.postgresql_worker_database() as connection_string:
        yield connection_string


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database."""
    database = databases.new_sqlite(tmp_path)
    yield database
    database.close()


@pytest.fixture
def postgresql_database(_postgresql_worker: str) -> Iterator[Database]:
    """An empty PostgreSQL database, through ODBC."""
    with databases.empty_postgresql(_postgresql_worker) as database:
        yield database


@pytest.fixture
def sqlserver_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """An empty SQL Server schema, through ODBC; one test at a time, whatever the number of workers.

    The tests share one database there, and a fault asked of the test double strikes whoever comes next.
    """
    lock = tmp_path_factory.getbasetemp().parent / "sqlserver.lock"
    with FileLock(lock, timeout=_LOCK_SECONDS), databases.empty_sqlserver() as database:
        yield database


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("sqlserver", marks=pytest.mark.sqlserver),
    ]
)
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database of each kind in turn."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def table_name(database: Database) -> str:
    """The name of a table of fake children that does not exist yet in ``database``."""
    return database.table_name


@pytest.fixture
def sqlite_dsn(sqlite_database: Database) -> str:
    """The connection string of an empty SQLite database."""
    return sqlite_database.connection_string


@pytest.fixture
def postgres_dsn(postgresql_database: Database) -> str:
    """The connection string of an empty PostgreSQL database."""
    return postgresql_database.connection_string


@pytest.fixture
def sqlserver_dsn(sqlserver_database: Database) -> str:
    """The connection string of a SQL Server; keep to the schema of ``sqlserver_database.table_name``."""
    return sqlserver_database.connection_string


@pytest.fixture
def staging(database: Database) -> Staging:
    """An empty staging table in each kind of database in turn."""
    return Staging(database).create()


@pytest.fixture
def remembering(staging: Staging) -> Staging:
    """The same with submission log and baseline beside it."""
    return staging.remember()


@pytest.fixture
def local(sqlite_database: Database) -> Staging:
    """An empty staging table in SQLite, for what no dialect changes."""
    return Staging(sqlite_database).create()


@pytest.fixture
def hooked() -> Iterator[HookedReceiver]:
    """A receiver that keeps what it was sent and lets a test interfere."""
    with HookedReceiver(keep_bodies=True) as stand_in:
        yield stand_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, and skip it where there is none."""
    reasons = {kind: databases.why_missing(kind) for kind in databases.SERVER_KINDS}
    for item in items:
        for kind, reason in reasons.items():
            if f"{kind}_database" in getattr(item, "fixturenames", ()):
                item.add_marker(kind)
            # Skipped here rather than in the fixture only because pytest then says so once for each file.
            if reason and item.get_closest_marker(kind) and not databases.is_required(kind):
                item.add_marker(pytest.mark.skip(reason=reason))


_BUGS = pytest.StashKey[list[dict[str, Any]]]()
_LOG_START = pytest.StashKey[int]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember where this session's part of the test double's log begins."""
    log = Path(os.environ.get("TEST_SQLSERVER_LOG", ""))
    session.config.stash[_LOG_START] = log.stat().st_size if log.is_file() else 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if the SQL Server test double found itself at fault: its answers proved nothing."""
    log = Path(os.environ.get("TEST_SQLSERVER_LOG", ""))
    if hasattr(session.config, "workerinput") or not log.is_file():
        return
    records = databases.read_log(log, session.config.stash[_LOG_START])
    bugs = [record for record in records if record.get("kind") == "bug"]
    session.config.stash[_BUGS] = bugs
    if bugs:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the faults of the test double."""
    for record in config.stash.get(_BUGS, []):
        terminalreporter.write_line(f"SQL Server test double, own fault: {record.get('error')}", red=True)

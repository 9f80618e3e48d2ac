"""Two runs never work on one table at the same time, and a run that died is in nobody's way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_pipeline import db
from api_pipeline.errors import ConnectionLostError, DatabaseError, LockedError
from api_pipeline.locking import RunLock
from tests.databases import Database
from tests.db_kit import Waits, folder_for_all, opened, ordinary_account

_HOLDER = """
import sys
from api_pipeline import db
from api_pipeline.locking import RunLock
database = db.connect(sys.stdin.readline().strip())
RunLock(database, "t").acquire()
print("held", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process_with_the_lock(connection_string: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process take the lock, and yield once it has."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(db.__file__).parent.parent,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{connection_string}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


class TestRunLock:
    """One run at a time on one table."""

    @pytest.fixture
    def address(self, database: Database) -> str:
        """A database that can be opened."""
        opened(database).close()
        return database.connection_string

    def test_second_run_is_refused_at_once(self, address: str) -> None:
        """And another table's run is not; what was released can be taken."""
        with db.connect(address) as one, db.connect(address) as two:
            with RunLock(one, "dbo.T"):
                with pytest.raises(LockedError), RunLock(two, "dbo.t"):
                    pytest.fail("two runs at once")
                with RunLock(two, "dbo.other"):
                    pass
            with RunLock(two, "dbo.t"):
                pass

    def test_lock_goes_with_the_process(self, address: str) -> None:
        """A run that was killed leaves nothing that would keep the next one out."""
        with db.connect(address, stop=Waits()) as ours, another_process_with_the_lock(address) as process:
            with pytest.raises(LockedError):
                RunLock(ours, "t").acquire()
            process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
            process.wait()
            self.acquire_soon(ours)

    @staticmethod
    def acquire_soon(database: db.Database) -> None:
        """Take the lock as soon as the server has noticed that its holder is gone."""
        pause = threading.Event()
        for _ in range(100):
            with contextlib.suppress(LockedError):
                RunLock(database, "t").acquire()
                return
            pause.wait(0.05)
        pytest.fail("the lock of a dead process is still held")

    def test_release_twice_does_no_harm(self, address: str) -> None:
        """Whoever takes the lock in between keeps it."""
        with db.connect(address) as one, db.connect(address) as two:
            first, second = RunLock(one, "t"), RunLock(two, "t")
            first.release()
            first.acquire()
            first.release()
            second.acquire()
            first.release()
            with pytest.raises(LockedError):
                first.acquire()
            second.release()

    def test_lock_is_taken_again_after_a_lost_connection(self, sqlserver_database: Database) -> None:
        """A run goes on with the lock in its hand, or not at all."""
        sqlserver_database.set_faults({"match": "SELECT 4711", "do": "drop"})
        with db.connect(sqlserver_database.connection_string, stop=Waits()) as one, RunLock(one, "t"):
            one.retrying(lambda: one.query("SELECT 4711"))
            with (
                db.connect(sqlserver_database.connection_string) as two,
                pytest.raises(LockedError),
                RunLock(two, "t"),
            ):
                pytest.fail("two runs at once")

    def test_lock_that_somebody_else_took_meanwhile_ends_the_run(self, postgresql_database: Database) -> None:
        """A run whose connection was lost does not write beside the run that came after it."""
        address = postgresql_database.connection_string
        stop = Waits()
        with db.connect(address, stop=stop) as one, db.connect(address) as two:
            lock = RunLock(one, "t")
            lock.acquire()
            process = one.query("SELECT pg_backend_pid()")[0][0]
            postgresql_database.query("SELECT pg_terminate_backend(?)", [process])
            self.acquire_soon(two)
            with pytest.raises(ConnectionLostError, match="could not be taken again"):
                one.retrying(lambda: one.query("SELECT 1"))
            assert len(stop.seconds) == db.ATTEMPTS - 1

    def test_folder_without_room_for_the_lock_file(self) -> None:
        """Where the lock file cannot be made, no run begins, and the error says why."""
        with folder_for_all() as folder, db.connect(f"sqlite:///{folder / 's.db'}", create=True) as ours:
            folder.chmod(0o555)
            with ordinary_account(), pytest.raises(DatabaseError) as caught:
                RunLock(ours, "t").acquire()
        assert (caught.value.hop, "permission" in caught.value.remedy) == ("lock", True)

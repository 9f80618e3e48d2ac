"""The lock that keeps two runs on one staging table apart."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import filelock

from api_pipeline.db import Database
from api_pipeline.dialects import SQL_SERVER, SQLITE
from api_pipeline.errors import ConnectionLostError, DatabaseError, LockedError

log = logging.getLogger(__name__)


class RunLock:
    """Keeps two runs on one staging table apart; held until released, or until the process ends.

    SQL Server: a session-owned application lock. PostgreSQL: an advisory lock. Both live on the connection
    that writes, so a run that lost its connection has lost the right to write until the lock is taken anew.
    SQLite: a lock file beside the database file.
    """

    def __init__(self, db: Database, table: str) -> None:
        self._db = db
        self._resource = f"csc-api-pipeline:{table.casefold()}"
        self._file: filelock.BaseFileLock | None = None
        self._held = False

    def acquire(self) -> None:
        """Take the lock or say at once who is in the way.

        Raises:
            LockedError: if another run holds it.
        """
        if not self._db.retrying(self._try):
            raise LockedError(
                "Another run is at work on this staging table.",
                hop="lock",
                remedy="Nothing was done; wait for it to end, or end it if it hangs.",
            )
        self._held = True
        self._db.after_reconnect.append(self._take_again)

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if not self._held:
            return
        self._held = False
        self._db.after_reconnect.remove(self._take_again)
        if self._file is not None:
            self._file.release()
            return
        try:
            if self._db.dialect is SQL_SERVER:
                self._db.execute(
                    "EXEC sp_releaseapplock @Resource = ?, @LockOwner = N'Session'", [self._resource]
                )
            else:
                self._db.query("SELECT pg_advisory_unlock(CAST(? AS BIGINT))", [self._number])
        except DatabaseError as error:
            log.debug("the lock went with its connection: %s", error.message)

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    @property
    def _number(self) -> int:
        return int.from_bytes(hashlib.sha256(self._resource.encode()).digest()[:8], "big", signed=True)

    def _try(self) -> bool:
        if self._db.dialect is SQLITE:
            return self._try_file()
        if self._db.dialect is SQL_SERVER:
            sql = (
                "SET NOCOUNT ON; DECLARE @r INT; EXEC @r = sp_getapplock @Resource = ?, "
                "@LockMode = N'Exclusive', @LockOwner = N'Session', @LockTimeout = 0; SELECT @r;"
            )
            return int(self._db.query(sql, [self._resource])[0][0]) >= 0
        rows = self._db.query(
            "SELECT CASE WHEN pg_try_advisory_lock(CAST(? AS BIGINT)) THEN 1 ELSE 0 END", [self._number]
        )
        return int(rows[0][0]) == 1

    def _try_file(self) -> bool:
        path = Path(self._db.query("PRAGMA database_list")[0][2])
        name = hashlib.sha256(self._resource.encode()).hexdigest()[:8]
        lock = filelock.FileLock(path.with_name(f"{path.name}.{name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except OSError as error:
            raise DatabaseError(
                f"The lock file beside '{path}' cannot be made.",
                hop="lock",
                remedy="Give the account that runs the tool write permission for that folder.",
            ) from error
        self._file = lock
        return True

    def _take_again(self) -> None:
        if self._db.dialect is not SQLITE and not self._try():
            # The server may not have noticed yet that the old connection is dead: this passes.
            raise ConnectionLostError(
                "The lock of this run could not be taken again after the connection was lost.",
                hop="lock",
                remedy="Look for another run on this table; the next run goes on where this one stopped.",
            )

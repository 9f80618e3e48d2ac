"""``prune-log``: old lines leave the submission log, nothing that is still needed does (domain, section 6).

What goes: lines whose outcome is known (sent, error, testing) and that ended before a day. What stays
whatever its age: attempts that are under way or unsure; of each person the newest line, and the newest line
that tells that DfE took something or may have, because without it a deletion might be taken for one of a
child that DfE never heard of. The baseline is another table, which nothing here writes to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from itertools import groupby
from typing import Any

from api_pipeline import provision, schema
from api_pipeline.config import Settings
from api_pipeline.db import Database, Row
from api_pipeline.dialects import Kind
from api_pipeline.errors import ConfigError, DatabaseError, ExitCode
from api_pipeline.ledger_schema import LOG

PAGE = 1_000  # lines deleted in one transaction: few enough to keep a run waiting for a moment only

_NEWER = (
    "(n.started_at > t.started_at OR (n.started_at = t.started_at AND "
    "(n.run_id > t.run_id OR (n.run_id = t.run_id AND n.seq > t.seq))))"
)
_NEVER_ARRIVED = "('error', 'testing')"


@dataclass(frozen=True)
class PruneReport:
    """How many lines went, or would go, and how many stay."""

    table: str
    before: date
    dry_run: bool
    deleted: int
    kept: int

    @property
    def exit_code(self) -> ExitCode:
        """0: there is nothing to fail."""
        return ExitCode.OK

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": "prune-log",
            "table": self.table,
            "exit_code": int(self.exit_code),
            "before": self.before.isoformat(),
            "dry_run": self.dry_run,
            "deleted": 0 if self.dry_run else self.deleted,
            "to_delete": self.deleted if self.dry_run else 0,
            "kept": self.kept,
        }

    def as_text(self) -> str:
        """Return one line."""
        verb = "would be deleted from" if self.dry_run else "deleted from"
        return f"{self.deleted} lines from before {self.before} {verb} {self.table}; {self.kept} stay."


def prune_log(
    settings: Settings, before: date, *, dry_run: bool = False, today: date | None = None
) -> PruneReport:
    """Delete the lines of the submission log that ended before ``before`` (a day in UTC) and may go.

    Raises:
        ConfigError: if the day lies in the future.
        DatabaseError: if there is no log, or the login may not delete from it.
    """
    if before > (today or datetime.now(timezone.utc).date()):
        raise ConfigError(
            f"--before {before} lies in the future.",
            hop="settings",
            remedy="Name a day that has come; lines from before it are deleted.",
        )
    with provision.connect(settings) as database:
        name = LOG.name(settings.table)
        if schema.describe(database, name) is None:
            raise DatabaseError(
                f"There is no submission log {name} in this {database.dialect.title} database.",
                hop="table",
                remedy="Check TABLE_NAME; init-db makes the log where none is expected yet.",
            )
        log = _Log(database, database.dialect.table(name), before)
        deleted = log.count() if dry_run else log.delete()
        total = int(log.read(f"SELECT COUNT(*) FROM {log.table} AS t")[0][0])
    return PruneReport(str(name), before, dry_run, deleted, total - deleted if dry_run else total)


class _Log:
    """The log of one staging table, and which of its lines may go."""

    def __init__(self, db: Database, table: str, before: date) -> None:
        self._db = db
        self.table = table
        bind = db.dialect.bind(Kind.TIMESTAMP)
        midnight = datetime(before.year, before.month, before.day)  # noqa: DTZ001 -- as the log stores it
        self._params = [db.dialect.parameter(Kind.TIMESTAMP, midnight)]
        heard_of = (
            f"SELECT 1 FROM {table} AS n WHERE n.person_id = t.person_id AND {_NEWER} "
            f"AND (t.outcome IN {_NEVER_ARRIVED} OR n.outcome NOT IN {_NEVER_ARRIVED})"
        )
        self._where = (
            "t.outcome IN ('sent', 'error', 'testing') "
            f"AND COALESCE(t.finished_at, t.started_at) < {bind} AND EXISTS ({heard_of})"
        )

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._db.retrying(lambda: self._db.query(sql, params))

    def count(self) -> int:
        """Count the lines that may go."""
        return int(
            self.read(f"SELECT COUNT(*) FROM {self.table} AS t WHERE {self._where}", self._params)[0][0]
        )

    def delete(self) -> int:
        """Delete the lines that may go, and return how many there were.

        Pages follow the primary key, so that each is looked at once; each is one transaction.
        """
        deleted = 0
        after: tuple[str, int] | None = None
        while True:
            page = self._page(after)
            if page:
                self._db.retrying(lambda page=page: self._delete(page))  # type: ignore[misc]
                deleted += len(page)
                after = page[-1]
            if len(page) < PAGE:
                return deleted

    def _page(self, after: tuple[str, int] | None) -> list[tuple[str, int]]:
        where, params = self._where, self._params
        if after is not None:
            where += " AND (t.run_id > ? OR (t.run_id = ? AND t.seq > ?))"
            params = [*params, after[0], *after]
        select = self._db.dialect.select(
            ["t.run_id", "t.seq"], self.table, where=where, order_by="t.run_id, t.seq", limit=PAGE
        )
        return [(str(row[0]), int(row[1])) for row in self.read(select, params)]

    def _delete(self, page: Sequence[tuple[str, int]]) -> None:
        with self._db.transaction():
            for run_id, lines in groupby(page, key=lambda line: line[0]):
                seqs = [seq for _, seq in lines]
                marks = ", ".join(["?"] * len(seqs))
                self._db.execute(
                    f"DELETE FROM {self.table} WHERE run_id = ? AND seq IN ({marks})", [run_id, *seqs]
                )

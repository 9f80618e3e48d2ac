"""Asking the submission log and the baseline: what was sent, and what DfE may hold (domain, section 6)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from api_pipeline import schema
from api_pipeline.db import Database, Row
from api_pipeline.dialects import SQL_SERVER, Kind
from api_pipeline.ledger_schema import BASELINE, LOG
from api_pipeline.names import TableName
from api_pipeline.remembered import Baseline, Flight, LogLine, RunLines

PAGE = 200  # people looked up at once


class LedgerReader:
    """The two tables beside one staging table, read only."""

    def __init__(self, db: Database, staging: TableName) -> None:
        self._db = db
        self._log = db.dialect.table(LOG.name(staging))
        self._baseline = db.dialect.table(BASELINE.name(staging))

    @staticmethod
    def exists(db: Database, staging: TableName) -> bool:
        """Whether both tables are there: full mode works without them."""
        return all(schema.describe(db, table.name(staging)) is not None for table in (LOG, BASELINE))

    def lookup(self, persons: Iterable[str], *, payloads: bool) -> dict[str, Baseline]:
        """Return what is known of these people; texts only where ``payloads`` asks for them."""
        found: dict[str, Baseline] = {}
        wanted = list(persons)
        text = "t.payload" if payloads else "NULL"
        for start in range(0, len(wanted), PAGE):
            part = wanted[start : start + PAGE]
            rows = self._read(
                f"SELECT t.person_id, t.la_child_id, t.state, {text}, t.payload_hash, t.records_hash, "
                f"t.receipt, t.acknowledged_at, t.unsure, t.full_next FROM {self._baseline} AS t "
                f"WHERE t.person_id IN ({marks(part)})",
                part,
            )
            exact = {str(row[0]): _baseline(row) for row in rows}
            # Where the collation tells the cases apart, a line belongs to the person of that very spelling.
            folded = {self.fold(name): line for name, line in exact.items() if name not in part}
            for person in part:
                line = exact.get(person) or folded.get(self.fold(person))
                if line is not None:
                    found[person] = line
        return found

    def fold(self, person_id: str) -> str:
        """SQL Server's usual collations take these for one person, so the look-up has to as well."""
        return person_id.rstrip().casefold() if self._db.dialect is SQL_SERVER else person_id

    def is_same_person(self, one: str, other: str | None) -> bool:
        """Whether the database takes two person_ids for one."""
        return other is not None and self.fold(one) == self.fold(other)

    def holders(self, child_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Return (la_child_id, person_id) for those of the ids that some baseline holds."""
        found: list[tuple[str, str]] = []
        for start in range(0, len(child_ids), PAGE * 2):
            part = child_ids[start : start + PAGE * 2]
            rows = self._read(
                f"SELECT t.la_child_id, t.person_id FROM {self._baseline} AS t "
                f"WHERE t.la_child_id IN ({marks(part)}) AND t.state <> 'purged'",
                part,
            )
            found += [(str(row[0]), str(row[1])) for row in rows]
        return found

    def ever_attempted(self, persons: Sequence[str]) -> set[str]:
        """Return those who were sent something that DfE took or may have taken."""
        found: set[str] = set()
        for start in range(0, len(persons), PAGE):
            part = persons[start : start + PAGE]
            rows = self._read(
                f"SELECT DISTINCT t.person_id FROM {self._log} AS t WHERE t.person_id IN ({marks(part)}) "
                "AND t.outcome NOT IN ('testing', 'error')",
                part,
            )
            attempted = {self.fold(str(row[0])) for row in rows}
            found.update(person for person in part if self.fold(person) in attempted)
        return found

    # -- for people who ask ----------------------------------------------------------------------------

    def flight(self, person_id: str) -> Flight | None:
        """Return what is in flight for a person."""
        rows = self._read(
            "SELECT t.flight_kind, t.flight_child_id, t.flight_payload, t.flight_hash "
            f"FROM {self._baseline} AS t WHERE t.person_id = ? AND t.flight_kind IS NOT NULL",
            [person_id],
        )
        if not rows:
            return None
        kind, child_id, text, digest = rows[0]
        return Flight(str(kind), child_id, text, _hash(digest))

    def attempts(self, person_id: str, limit: int) -> tuple[list[LogLine], int]:
        """Return the newest lines about a person, and how many there are altogether."""
        select = self._db.dialect.select(
            [f"t.{name}" for name in _LINE],
            self._log,
            where="t.person_id = ?",
            order_by="t.started_at DESC, t.run_id DESC, t.seq DESC",
            limit=limit,
        )
        lines = [_line(row) for row in self._read(select, [person_id])]
        count = self._read(f"SELECT COUNT(*) FROM {self._log} AS t WHERE t.person_id = ?", [person_id])
        return lines, int(count[0][0])

    def last_runs(self, limit: int) -> list[RunLines]:
        """Return the runs that began last, the newest first; reads the lines of those runs and no others."""
        found: list[RunLines] = []
        while len(found) < limit:
            newest = self._newest_line(found)
            if newest is None:
                break
            rows = self._read(
                "SELECT t.outcome, COUNT(*), MIN(t.started_at), MAX(t.finished_at) "
                f"FROM {self._log} AS t WHERE t.run_id = ? GROUP BY t.outcome ORDER BY t.outcome",
                [newest],
            )
            begun = [moment for row in rows if (moment := _moment(row[2])) is not None]
            ended = [moment for row in rows if (moment := _moment(row[3])) is not None]
            counts = {str(row[0]): int(row[1]) for row in rows}
            found.append(RunLines(newest, min(begun, default=None), max(ended, default=None), counts))
        return found

    def _newest_line(self, known: Sequence[RunLines]) -> str | None:
        where, params = "t.started_at IS NOT NULL", []
        if known:
            # Runs do not overlap, so the next one is older than the last one found, or of the same moment.
            before = self._db.dialect.bind(Kind.TIMESTAMP)
            where = f"t.started_at <= {before} AND t.run_id NOT IN ({marks(known)})"
            params = [self._db.dialect.parameter(Kind.TIMESTAMP, known[-1].started_at)]
            params += [run.run_id for run in known]
        select = self._db.dialect.select(
            ["t.run_id"], self._log, where=where, order_by="t.started_at DESC", limit=1
        )
        rows = self._read(select, params)
        return str(rows[0][0]) if rows else None

    def waiting(self) -> tuple[int, int]:
        """Return how many people have records in doubt, and how many have a payload in flight."""
        counts = [
            self._read(f"SELECT COUNT(*) FROM {self._baseline} AS t WHERE t.{column} IS NOT NULL")[0][0]
            for column in ("unsure", "flight_kind")
        ]
        return int(counts[0]), int(counts[1])

    def _read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._db.retrying(lambda: self._db.query(sql, params))


def _baseline(row: Row) -> Baseline:
    return Baseline(
        person_id=str(row[0]),
        child_id=row[1],
        state=str(row[2]),
        payload=row[3],
        payload_hash=_hash(row[4]),
        records_hash=_hash(row[5]),
        receipt=row[6],
        acknowledged_at=_moment(row[7]),
        unsure=json.loads(row[8]) if row[8] else {},
        full_next=bool(row[9]),
    )


_LINE = (
    "run_id",
    "seq",
    "row_id",
    "kind",
    "outcome",
    "posts",
    "http_status",
    "detail",
    "sent_bytes",
    "sent_hash",
    "state_hash",
    "started_at",
    "finished_at",
)


def _line(row: Row) -> LogLine:
    values = dict(zip(_LINE, row, strict=True))
    for name in ("sent_hash", "state_hash"):
        values[name] = _hash(values[name])
    for name in ("started_at", "finished_at"):
        values[name] = _moment(values[name])
    return LogLine(**values)


def _hash(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _moment(value: Any) -> datetime | None:
    """Return a moment as a value; SQLite keeps it as text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def marks(values: Sequence[object]) -> str:
    """Return a placeholder for each of the values, for a list in a statement."""
    return ", ".join(["?"] * len(values))

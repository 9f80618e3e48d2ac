"""Asking the submission log and the baseline: what was sent, and what DfE may hold (domain, section 6)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from api_pipeline import schema
from api_pipeline.db import Database, Row
from api_pipeline.dialects import SQL_SERVER
from api_pipeline.ledger_schema import BASELINE, LOG
from api_pipeline.names import TableName
from api_pipeline.remembered import Baseline

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
                f"SELECT t.person_id, t.la_child_id, t.state, {text}, t.payload_hash, t.records_hash, t.receipt, "
                f"t.acknowledged_at, t.unsure, t.full_next FROM {self._baseline} AS t "
                f"WHERE t.person_id IN ({marks(part)})",
                part,
            )
            by_name = {self.fold(row[0]): _baseline(row) for row in rows}
            found.update({p: by_name[self.fold(p)] for p in part if self.fold(p) in by_name})
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

    def _read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._db.retrying(lambda: self._db.query(sql, params))


def _baseline(row: Row) -> Baseline:
    return Baseline(
        person_id=str(row[0]),
        child_id=row[1],
        state=str(row[2]),
        payload=row[3],
        payload_hash=None if row[4] is None else bytes(row[4]),
        records_hash=None if row[5] is None else bytes(row[5]),
        receipt=row[6],
        acknowledged_at=datetime.fromisoformat(row[7]) if isinstance(row[7], str) else row[7],
        unsure=json.loads(row[8]) if row[8] else {},
        full_next=bool(row[9]),
    )


def marks(values: Sequence[object]) -> str:
    return ", ".join(["?"] * len(values))

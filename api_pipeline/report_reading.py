"""The figures of ``report``: counted by the database, so that a million lines cost no more memory than ten.

What is read of a row or a line is its person_id, its state and the kind of its error; never a payload, and
of ``api_response`` only what :func:`inspection.error_kind` lets through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from api_pipeline.db import Database, Row
from api_pipeline.dialects import SQLITE, Kind
from api_pipeline.inspection import error_kind
from api_pipeline.ledger_schema import LOG
from api_pipeline.names import TableName
from api_pipeline.staging import StagingTable

# Upper ends of the classes of size, in bytes or characters; what is larger is in a last class.
SIZE_ENDS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000)

_LONGEST_RUN = timedelta(days=2)  # far longer than any deadline
_TEXTS_READ = 500  # different texts of errors, the most frequent first
_REASONS_SHOWN = 15
_PREFIX = 200
_INDEX = re.compile(r"\[\d+\]")
_ROWS_NAMED = re.compile(r"(is in row) .*")


@dataclass
class RunFigures:
    """What the log has of one run: its records by outcome; times in UTC.

    A record that went twice, because its batch was refused for others in it, counts once.
    """

    run_id: str
    started: datetime | None = None
    finished: datetime | None = None
    sent: int = 0
    failed: int = 0
    unsure: int = 0  # replies that were lost
    unfinished: int = 0  # under way, or the run ended early
    testing: int = 0
    size: int = 0  # bytes
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """From the first request to the last reply."""
        if self.started is None or self.finished is None:
            return None
        return max(0.0, (self.finished - self.started).total_seconds())

    @property
    def doubtful(self) -> int:
        """Attempts whose fate is not known."""
        return self.unsure + self.unfinished


_OUTCOMES = {
    "sent": "sent",
    "error": "failed",
    "unsure": "unsure",
    "sending": "unfinished",
    "testing": "testing",
}


@dataclass(frozen=True)
class Reason:
    """How many attempts, or rows, failed for one reason."""

    text: str
    count: int
    outcome: str = ""
    status: int | None = None  # of HTTP


@dataclass(frozen=True)
class SizeClass:
    """How many texts are shorter than ``below``, and not in a class before; None is the last class."""

    below: int | None
    count: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of what was sent, or of what lies in the table."""

    unit: str  # bytes, characters
    classes: tuple[SizeClass, ...] = ()
    total: int = 0
    largest: int = 0

    @property
    def count(self) -> int:
        """How many texts there are."""
        return sum(found.count for found in self.classes)

    @property
    def mean(self) -> int:
        """The mean size."""
        return round(self.total / self.count) if self.count else 0


@dataclass(frozen=True)
class WaitingRow:
    """A row that is due."""

    person_id: str
    row_state: str
    status: str
    last_updated: str


class LogFigures:
    """Counts over the submission log."""

    def __init__(self, db: Database, staging: TableName) -> None:
        self._db = db
        self._log = db.dialect.table(LOG.name(staging))

    def runs(self, since: datetime) -> list[RunFigures]:
        """Return the runs that began at ``since`` or later, the newest first."""
        lines = self._lines("run_id", "kind", "sent_bytes", "started_at", "finished_at")
        rows = self._read(
            "SELECT t.run_id, t.kind, t.outcome, t.again, COUNT(*), SUM(t.sent_bytes), MIN(t.started_at), "
            f"MAX(t.finished_at) FROM {lines} AS t GROUP BY t.run_id, t.kind, t.outcome, t.again",
            # From earlier on, so that a run that began before is known by it and left out as a whole.
            self._moment(since - _LONGEST_RUN),
        )
        found: dict[str, RunFigures] = {}
        for run_id, kind, outcome, again, count, size, started, finished in rows:
            run = found.setdefault(str(run_id), RunFigures(str(run_id)))
            if not again:
                name = _OUTCOMES.get(str(outcome), "unfinished")
                setattr(run, name, getattr(run, name) + int(count))
                run.kinds[str(kind)] = run.kinds.get(str(kind), 0) + int(count)
                run.size += int(size or 0)
            run.started = min(filter(None, (run.started, _moment(started))), default=None)
            run.finished = max(filter(None, (run.finished, _moment(finished))), default=None)
        kept = [run for run in found.values() if run.started is not None and run.started >= since]
        return sorted(kept, key=lambda run: (run.started or since, run.run_id), reverse=True)

    def reasons(self, since: datetime) -> list[Reason]:
        """Return why attempts failed or stayed in doubt, the most frequent first."""
        dialect = self._db.dialect
        columns = ["t.outcome", "t.http_status", dialect.prefix("t.detail", _PREFIX)]
        where = f"t.outcome IN ('error', 'unsure') AND t.again = 0 GROUP BY {', '.join(columns)}"
        sql = dialect.select(
            [*columns, "COUNT(*)"],
            self._lines("http_status", "detail"),
            where=where,
            order_by="COUNT(*) DESC",
            limit=_TEXTS_READ,
        )
        rows = self._read(sql, self._moment(since))
        return merged(
            Reason(
                _INDEX.sub("[*]", str(text or "no reason given")),
                int(count),
                "failed" if outcome == "error" else "in doubt",
                None if status is None else int(status),
            )
            for outcome, status, text, count in rows
        )

    def sizes(self, since: datetime) -> Sizes:
        """Return the sizes of what was sent, whatever became of it."""
        sized = _sized("t.sent_bytes", self._lines("sent_bytes"), "t.sent_bytes IS NOT NULL AND t.again = 0")
        rows = self._read(sized, self._moment(since))
        return _sizes("bytes", rows)

    def _lines(self, *columns: str) -> str:
        """The lines that began at a moment, or later, with these columns and their outcome.

        ``again`` is 1 for a record that was refused because of others in its batch: the same has a further
        line in the same run.
        """
        place = "ROW_NUMBER() OVER (PARTITION BY r.run_id, r.person_id, r.sent_hash ORDER BY r.seq DESC)"
        again = f"CASE WHEN r.outcome = 'error' AND r.sent_hash IS NOT NULL AND {place} > 1 THEN 1 ELSE 0 END"
        chosen = ", ".join(f"r.{name}" for name in (*columns, "outcome"))
        since = self._db.dialect.bind(Kind.TIMESTAMP)
        return f"(SELECT {chosen}, {again} AS again FROM {self._log} AS r WHERE r.started_at >= {since})"

    def _moment(self, moment: datetime) -> list[Any]:
        return [self._db.dialect.parameter(Kind.TIMESTAMP, moment)]

    def _read(self, sql: str, params: Sequence[Any]) -> list[Row]:
        return self._db.retrying(lambda: self._db.query(sql, params))


class TableFigures:
    """Counts over the staging table."""

    def __init__(self, table: StagingTable) -> None:
        self._db = table.db
        self._table = table
        self._status = table.db.dialect.normalised("t.submission_status")

    def sent_by_day(self, since: datetime) -> dict[str, int]:
        """Return how many rows were last acknowledged on which day, in order."""
        dialect = self._db.dialect
        column = "t.submission_timestamp"
        day = dialect.prefix(column, 10) if dialect is SQLITE else f"CAST({column} AS DATE)"
        rows = self._read(
            f"SELECT {day}, COUNT(*) FROM {self._table.sql_name} AS t WHERE {self._status} = 'sent' "
            f"AND {column} >= {dialect.bind(Kind.TIMESTAMP)} GROUP BY {day} ORDER BY {day}",
            [dialect.parameter(Kind.TIMESTAMP, since)],
        )
        return {str(row[0]): int(row[1]) for row in rows}

    def reasons(self) -> list[Reason]:
        """Return why rows are in error now, the most frequent first."""
        text = self._db.dialect.prefix("t.api_response", _PREFIX)
        sql = self._db.dialect.select(
            [text, "COUNT(*)"],
            self._table.sql_name,
            where=f"{self._status} = 'error' GROUP BY {text}",
            order_by="COUNT(*) DESC",
            limit=_TEXTS_READ,
        )
        kinds = ((error_kind(str(row[0] or "")), int(row[1])) for row in self._read(sql))
        return merged(
            Reason(_ROWS_NAMED.sub(r"\1 of another person", _INDEX.sub("[*]", kind)), count)
            for kind, count in kinds
        )

    def sizes(self) -> Sizes:
        """Return the sizes of the payloads that lie in the table."""
        dialect = self._db.dialect
        length = dialect.characters(dialect.as_text("t.json_payload"))
        rows = self._read(_sized(length, self._table.sql_name, "t.json_payload IS NOT NULL"))
        return _sizes("characters", rows)

    def oldest_due(self, limit: int) -> list[WaitingRow]:
        """Return the rows that are due and have not changed for the longest time."""
        state = self._db.dialect.normalised("t.row_state")
        sql = self._db.dialect.select(
            ["t.person_id", state, self._status, "t.last_updated"],
            self._table.sql_name,
            where=f"{self._table.due} AND t.last_updated IS NOT NULL",
            order_by=f"t.last_updated, t.{self._table.key_column}",
            limit=limit,
        )
        return [
            WaitingRow(
                "" if row[0] is None else str(row[0]), str(row[1]), str(row[2]), _to_the_second(row[3])
            )
            for row in self._read(sql)
        ]

    def _read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._db.retrying(lambda: self._db.query(sql, params))


def merged(reasons: Iterable[Reason]) -> list[Reason]:
    """Put equal reasons together, the most frequent first, and the rarest into one."""
    counts: dict[tuple[str, str, int | None], int] = {}
    for reason in reasons:
        key = (reason.text, reason.outcome, reason.status)
        counts[key] = counts.get(key, 0) + reason.count
    found = [Reason(text, count, outcome, status) for (text, outcome, status), count in counts.items()]
    found.sort(key=lambda reason: (-reason.count, reason.text, reason.outcome))
    rest = sum(reason.count for reason in found[_REASONS_SHOWN:])
    return found[:_REASONS_SHOWN] + ([Reason("other reasons", rest)] if rest else [])


def _sized(size: str, table: str, where: str) -> str:
    """Return a statement that counts by class of size; ``size`` is an expression over ``t``."""
    cases = " ".join(f"WHEN s.size < {end} THEN {number}" for number, end in enumerate(SIZE_ENDS))
    return (
        "SELECT c.size_class, COUNT(*), SUM(c.size), MAX(c.size) FROM "
        f"(SELECT s.size AS size, CASE {cases} ELSE {len(SIZE_ENDS)} END AS size_class FROM "
        f"(SELECT CAST({size} AS BIGINT) AS size FROM {table} AS t WHERE {where}) AS s) AS c "
        "GROUP BY c.size_class"
    )


def _sizes(unit: str, rows: Sequence[Row]) -> Sizes:
    counts: Mapping[int, int] = {int(row[0]): int(row[1]) for row in rows}
    if not counts:
        return Sizes(unit)
    ends: tuple[int | None, ...] = (*SIZE_ENDS, None)
    classes = tuple(
        SizeClass(ends[number], counts.get(number, 0)) for number in range(min(counts), max(counts) + 1)
    )
    return Sizes(unit, classes, sum(int(row[2]) for row in rows), max(int(row[3]) for row in rows))


def _moment(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _to_the_second(value: Any) -> str:
    return str(value)[:19].replace("T", " ")

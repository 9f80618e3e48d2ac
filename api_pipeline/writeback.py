"""Writing to the staging table: what became of a row, if the row still is what was read.

Carries out domain, "Never lie about what was sent". Every write is one set-based statement that applies only
where the row still carries the hash and the deleted-or-not state that were read, so a refresh that runs
meanwhile is never overwritten with an outcome that belongs to another payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from api_pipeline import payload as payloads
from api_pipeline.dialects import SQL_SERVER, Kind
from api_pipeline.staging import PAGE_ROWS, Key, StagedRow, StagingTable


class Write(Enum):
    """What a row becomes."""

    SENT = "sent"
    SENT_PARTIAL = "sent in partial mode"  # also keeps what was sent in partial_json_payload
    SENT_UNKEPT = "sent, text unknown"  # in partial mode, and what was sent is not known any more
    UNCHANGED = "unchanged"  # DfE holds it already: the receipt is the baseline's
    PURGED = "purged"
    NEVER_SENT = "never sent"  # a deletion of which DfE need not hear
    ERROR = "error"
    TESTING = "testing"


@dataclass(frozen=True, slots=True)
class WriteBack:
    """One row's outcome.

    Attributes:
        response: the receipt's UUID or the reason, for ``api_response``.
        moment: the receipt's time.
        receipt: the receipt as received, in case it has to be kept in the spool.
        sent_text: what was sent, where that is not the row's payload.
    """

    row: StagedRow
    write: Write
    response: str
    moment: datetime | None = None
    receipt: str = ""
    sent_text: str | None = None


_TAKEN_OVER = (
    "previous_hash = t.current_hash",
    "previous_json_payload = t.json_payload",
    "row_state = 'unchanged'",
)
_RECEIPT = ("submission_status = 'sent'", "api_response = v.response", "submission_timestamp = v.moment")

_ASSIGNMENTS: Mapping[Write, tuple[str, ...]] = {
    Write.SENT: (*_RECEIPT, *_TAKEN_OVER),
    Write.SENT_UNKEPT: (*_RECEIPT, *_TAKEN_OVER, "partial_json_payload = NULL"),
    Write.UNCHANGED: (*_RECEIPT, *_TAKEN_OVER),
    Write.PURGED: (*_RECEIPT, "row_state = 'deleted'"),
    Write.NEVER_SENT: ("submission_status = 'sent'", "api_response = v.response", "row_state = 'deleted'"),
    Write.ERROR: ("submission_status = 'error'", "api_response = v.response"),
    Write.TESTING: ("submission_status = 'testing'", "api_response = v.response"),
}
_TIMED = frozenset({Write.SENT, Write.SENT_PARTIAL, Write.SENT_UNKEPT, Write.UNCHANGED, Write.PURGED})
_MARKED = frozenset({Write.PURGED, Write.NEVER_SENT})


class RowWriter:
    """Writes to the rows of one staging table."""

    def __init__(self, table: StagingTable) -> None:
        self.table = self._table = table
        self._db = table.db
        self._assignments = {**_ASSIGNMENTS, Write.SENT_PARTIAL: self._partial_assignments()}

    def _partial_assignments(self) -> tuple[str, ...]:
        """Keep what was sent; a column of a JSON type is not assigned text without a cast."""
        type_ = self._table.info.columns["partial_json_payload"].type
        sent = f"COALESCE(v.sent_text, {self._db.dialect.as_text('t.json_payload')})"
        if type_ in {"json", "jsonb"}:
            sent = f"CAST({sent} AS {type_})"
        return (*_RECEIPT, *_TAKEN_OVER, f"partial_json_payload = {sent}")

    def write(self, outcomes: Sequence[WriteBack]) -> list[StagedRow]:
        """Write what became of these rows; return the rows that had changed meanwhile.

        To be called inside a transaction. Every outcome applies only if the row still carries the hash and
        the deleted-or-not state that were read; where it had no hash, only if it still has none and holds the
        same payload. Safe to repeat after a lost connection: a row that already carries this outcome is hit
        again with the same values.
        """
        hit: set[Key] = set()
        for write in Write:
            listed = [outcome for outcome in outcomes if outcome.write is write]
            hashed = [outcome for outcome in listed if outcome.row.current_hash is not None]
            if hashed:
                hit.update(self._update(write, hashed, hashless=False))
            # One at a time: these bind the payload too, and are rare.
            for outcome in listed:
                if outcome.row.current_hash is None:
                    hit.update(self._update(write, [outcome], hashless=True))
        return [outcome.row for outcome in outcomes if outcome.row.key not in hit]

    def _update(self, write: Write, outcomes: Sequence[WriteBack], *, hashless: bool) -> list[Key]:
        dialect = self._db.dialect
        columns = {"k": self._table.key_kind, "p": Kind.TEXT, "d": Kind.INTEGER, "response": Kind.TEXT}
        guards = [
            f"{self._table.deleted} = v.d",
            "(t.person_id = v.p OR (t.person_id IS NULL AND v.p IS NULL))",
        ]
        assignments = list(self._assignments[write])
        if hashless:
            columns["payload"] = Kind.TEXT
            guards.append(
                "t.current_hash IS NULL AND "
                + dialect.same_bytes(dialect.as_text("t.json_payload"), "v.payload")
            )
        else:
            columns["h"] = Kind.HASH
            guards.append("t.current_hash = v.h")
        if write in _MARKED:
            assignments.append(f"current_hash = {dialect.purge_marker}")
            # A commit whose answer was lost may have happened: then the row has the marker and our receipt.
            guards[-1] = (
                f"({guards[-1]} OR (t.current_hash = {dialect.purge_marker} AND t.api_response = v.response))"
            )
        timed = write in _TIMED
        if timed:
            columns["moment"] = Kind.TIMESTAMP
        if write is Write.SENT_PARTIAL:
            columns["sent_text"] = Kind.TEXT
        sql = dialect.update_listed(
            self._table.sql_name,
            assignments=assignments,
            columns=columns,
            rows=len(outcomes),
            where=" AND ".join(guards),
            key_column=self._table.key_column,
        )
        rows: list[list[Any]] = []
        for outcome in outcomes:
            row = outcome.row
            values: list[Any] = [row.key, row.person_id, int(row.deleted), self._fitted(outcome.response)]
            values.append(row.payload if hashless else row.current_hash)
            if timed:
                values.append(outcome.moment)
            if write is Write.SENT_PARTIAL:
                values.append(outcome.sent_text)
            rows.append(values)
        params = dialect.listed(columns, rows)
        return [row[0] for row in self._db.query(sql, params)]

    def fill_hashes(self) -> int:
        """Give every row without a hash one, and return how many there were (domain, "Due rows").

        Each page is read under a lock and written in the same transaction, so no refresh can come between.
        """
        filled = 0
        after: Key | None = None
        while True:
            start = after
            count, after = self._db.retrying(lambda start=start: self._fill_page(start))  # type: ignore[misc]
            filled += count
            if after is None:
                return filled

    def _fill_page(self, after: Key | None) -> tuple[int, Key | None]:
        dialect = self._db.dialect
        key = f"t.{self._table.key_column}"
        where = f"t.current_hash IS NULL AND t.json_payload IS NOT NULL AND {key} IS NOT NULL"
        select = dialect.select(
            [key, dialect.as_text("t.json_payload")],
            self._table.sql_name,
            where=where if after is None else f"{where} AND {key} > ?",
            order_by=key,
            limit=PAGE_ROWS,
            lock=True,
        )
        with self._db.transaction():
            page = self._db.query(select, [] if after is None else [after])
            if page:
                columns = {"k": self._table.key_kind, "h": Kind.HASH}
                update = dialect.update_listed(
                    self._table.sql_name,
                    assignments=["current_hash = v.h"],
                    columns=columns,
                    rows=len(page),
                    where="t.current_hash IS NULL",
                    key_column=self._table.key_column,
                )
                hashes = [(row[0], payloads.content_hash(row[1])) for row in page]
                self._db.query(update, dialect.listed(columns, hashes))
        return len(page), page[-1][0] if len(page) == PAGE_ROWS else None

    def write_nameless_errors(self, reason: str) -> int:
        """Mark due rows with no person_id where it is the key, since paging cannot reach them."""
        where = f"t.person_id IS NULL AND {self._table.due}"
        count = self._table.nameless_due()
        if count:
            alias = "UPDATE t" if self._db.dialect is SQL_SERVER else f"UPDATE {self._table.sql_name} AS t"
            source = f" FROM {self._table.sql_name} AS t" if self._db.dialect is SQL_SERVER else ""
            sql = f"{alias} SET submission_status = 'error', api_response = ?{source} WHERE {where}"
            with self._db.transaction():
                self._db.execute(sql, [self._fitted(reason)])
        return count

    def _fitted(self, text: str) -> str:
        """Make a response fit the column: a reply may hold what no database stores, or too much.

        SQL Server counts UTF-16 units, so the cut does too.
        """
        width = self._table.info.columns["api_response"].length
        if text.isascii() and "\0" not in text and (width is None or len(text) <= width):
            return text  # a receipt: nearly all of them
        storable = text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass")
        whole = storable.decode("utf-16-le", "replace")
        if width is None:
            return whole
        return whole.encode("utf-16-le")[: width * 2].decode("utf-16-le", "ignore")

"""The staging table: which rows are due, reading them in pages, and writing back what became of them.

Carries out domain, section 3. Every read is a page of bounded size that ends before anything is sent; every
write is one set-based statement in its own transaction that applies only where the row still is what was
read, so a refresh that runs meanwhile is never overwritten with an outcome that belongs to another payload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from api_pipeline import payload as payloads
from api_pipeline import schema
from api_pipeline.db import Database, Row
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, Kind
from api_pipeline.names import TableName

Key = int | str

PAGE_ROWS = 200  # rows with payloads in memory at a time
SCAN_ROWS = 2_000  # rows without payloads in memory at a time
_PREFIX = 160  # characters that hold the la_child_id where it comes first: 36 and some white space


class Write(Enum):
    """What a row becomes."""

    SENT = "sent"
    PURGED = "purged"
    ERROR = "error"
    TESTING = "testing"


@dataclass(frozen=True, slots=True)
class StagedRow:
    """A row as it was read; ``current_hash`` and ``deleted`` guard every write-back to it."""

    key: Key
    person_id: str | None
    payload: str | None
    current_hash: bytes | None
    deleted: bool
    previous_payload: str | None = None


@dataclass(frozen=True, slots=True)
class DueRow:
    """A due row without its payload; ``previous_id`` is None where DfE cannot hold another id for it."""

    key: Key
    deleted: bool
    wanted: bool
    nameless: bool
    child_id: str | None
    previous_id: str | None


@dataclass(frozen=True, slots=True)
class WriteBack:
    """One row's outcome: the receipt or reason for ``api_response``, and the receipt's moment."""

    row: StagedRow
    write: Write
    response: str
    moment: datetime | None = None


@dataclass(frozen=True)
class Scope:
    """Which rows a run is about: the due ones, or with ``resend`` all rows of the named people."""

    persons: tuple[str, ...] = ()
    resend: bool = False


@dataclass(frozen=True)
class StatusCount:
    """How many rows have this state and status, both in lower case without outer blanks."""

    row_state: str
    status: str
    rows: int


_PENDING = "('', 'pending', 'error', 'testing')"
KNOWN_STATUSES = frozenset({"", "pending", "error", "testing", "sent"})

_ASSIGNMENTS: Mapping[Write, tuple[str, ...]] = {
    Write.SENT: (
        "submission_status = 'sent'",
        "api_response = v.response",
        "submission_timestamp = v.moment",
        "previous_hash = t.current_hash",
        "previous_json_payload = t.json_payload",
        "row_state = 'unchanged'",
    ),
    Write.PURGED: (
        "submission_status = 'sent'",
        "api_response = v.response",
        "submission_timestamp = v.moment",
        "row_state = 'deleted'",
    ),
    Write.ERROR: ("submission_status = 'error'", "api_response = v.response"),
    Write.TESTING: ("submission_status = 'testing'", "api_response = v.response"),
}


class StagingTable:
    """The rows of one staging table, read and written through ``db``."""

    def __init__(self, db: Database, name: TableName) -> None:
        """Read the table's shape.

        Raises:
            DatabaseError: if the table or a needed column is missing, or may not be read.
        """
        self.db = db
        self.name = name
        self.info = schema.require(db, name)
        dialect = db.dialect
        self.sql_name = dialect.table(name)
        self._status = dialect.normalised("t.submission_status")
        self._deleted = f"CASE WHEN {dialect.normalised('t.row_state')} = 'deleted' THEN 1 ELSE 0 END"
        marked = f"t.current_hash IS NOT NULL AND t.current_hash = {dialect.purge_marker}"
        self._purged = f"({self._deleted} = 1 AND {marked})"
        self._due = (
            f"(({self._status} IN {_PENDING} OR ({self._status} = 'sent' AND ({self._deleted} = 1 "
            "OR (t.current_hash IS NOT NULL AND t.previous_hash IS NOT NULL "
            f"AND t.current_hash <> t.previous_hash AND t.current_hash <> {dialect.purge_marker})))) "
            f"AND NOT {self._purged})"
        )
        self.key_column = self._choose_key()
        self._key_kind = Kind.INTEGER if self.key_column == "id" else Kind.TEXT

    def _choose_key(self) -> str:
        """``id`` if it tells all rows apart, else ``person_id``: older tables lack it or lack IDENTITY."""
        if not self.info.has("id") or self.info.columns["id"].type not in schema.INTEGER_TYPES:
            return "person_id"
        rows = self._read(f"SELECT COUNT(*), COUNT(t.id), COUNT(DISTINCT t.id) FROM {self.sql_name} AS t")
        total, present, distinct = rows[0]
        return "id" if total == present == distinct else "person_id"

    @property
    def keyed_by_id(self) -> bool:
        """Whether rows have an id of their own to be named by."""
        return self.key_column == "id"

    def _read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self.db.retrying(lambda: self.db.query(sql, params))

    # -- what is there ---------------------------------------------------------------------------------

    def people_not_purged(self) -> int:
        """Count the people whose deletion has not been acknowledged: what the brake is measured against."""
        rows = self._read(f"SELECT COUNT(*) FROM {self.sql_name} AS t WHERE NOT {self._purged}")
        return int(rows[0][0])

    def status_counts(self) -> list[StatusCount]:
        """Count the rows by state and status."""
        state = self.db.dialect.normalised("t.row_state")
        rows = self._read(
            f"SELECT {state}, {self._status}, COUNT(*) FROM {self.sql_name} AS t "
            f"GROUP BY {state}, {self._status} ORDER BY 1, 2"
        )
        return [StatusCount(str(row[0]), str(row[1]), int(row[2])) for row in rows]

    def due_summary(self) -> tuple[int, str | None]:
        """Return how many rows are due and when the oldest of them last changed."""
        rows = self._read(f"SELECT COUNT(*), MIN(t.last_updated) FROM {self.sql_name} AS t WHERE {self._due}")
        return int(rows[0][0]), None if rows[0][1] is None else str(rows[0][1])

    def last_submission(self) -> str | None:
        """Return the latest ``submission_timestamp`` of a sent row."""
        rows = self._read(
            f"SELECT MAX(t.submission_timestamp) FROM {self.sql_name} AS t WHERE {self._status} = 'sent'"
        )
        return None if rows[0][0] is None else str(rows[0][0])

    def error_examples(self, limit: int) -> list[tuple[str, str]]:
        """Return person_id and reason of some rows in error, the newest first."""
        select = self.db.dialect.select(
            ["t.person_id", "t.api_response"],
            self.sql_name,
            where=f"{self._status} = 'error'",
            order_by="t.last_updated DESC",
            limit=limit,
        )
        return [(str(row[0]), str(row[1] or "")) for row in self._read(select)]

    def unknown_persons(self, persons: Sequence[str]) -> list[str]:
        """Return those of ``persons`` that have no row at all."""
        known = self._read(
            f"SELECT DISTINCT t.person_id FROM {self.sql_name} AS t WHERE {self._among(persons)}", persons
        )
        # The database compares by its collation; whoever differs only in letter case is not unknown.
        found = {str(row[0]).strip().casefold() for row in known}
        return [person for person in persons if person.strip().casefold() not in found]

    def same_person(self) -> dict[Key, list[Key]]:
        """Return, for each row that shares its person_id with others, those other rows' keys.

        Without an id column the rows of one person cannot be told apart, and the one key stands for all.
        """
        groups: dict[str, list[Key]] = {}
        group = (
            f"SELECT g.person_id FROM {self.sql_name} AS g WHERE g.person_id IS NOT NULL "
            "GROUP BY g.person_id HAVING COUNT(*) > 1"
        )
        rows = self._read(
            f"SELECT t.{self.key_column}, d.person_id FROM {self.sql_name} AS t INNER JOIN ({group}) AS d "
            f"ON d.person_id = t.person_id ORDER BY d.person_id, t.{self.key_column}"
        )
        for key, person in rows:
            groups.setdefault(str(person), []).append(key)
        return {key: [other for other in keys if other != key] for keys in groups.values() for key in keys}

    # -- reading what is due ---------------------------------------------------------------------------

    def _among(self, persons: Sequence[str]) -> str:
        return "t.person_id IN (" + ", ".join(["?"] * len(persons)) + ")"

    def _where(self, scope: Scope) -> tuple[str, list[Any]]:
        if not scope.persons:
            return self._due, []
        among = self._among(scope.persons)
        return (among if scope.resend else f"{self._due} AND {among}"), list(scope.persons)

    def _pages(
        self, columns: Sequence[str], where: str, params: Sequence[Any], rows: int, *, last: Key | None = None
    ) -> Iterator[list[Row]]:
        """Yield pages in key order; the first column must be the key. Nothing stays open between pages."""
        key = f"t.{self.key_column}"
        after: Key | None = None
        if not self.keyed_by_id:
            where = f"{where} AND {key} IS NOT NULL"  # comes first or last by dialect, and after no other
        if last is not None:
            where, params = f"{where} AND {key} <= ?", [*params, last]
        while True:
            paged = where if after is None else f"{where} AND {key} > ?"
            sql = self.db.dialect.select(columns, self.sql_name, where=paged, order_by=key, limit=rows)
            page = self._read(sql, [*params] if after is None else [*params, after])
            if page:
                yield page
            if len(page) < rows:
                return
            after = page[-1][0]

    def scan_due(self, scope: Scope) -> Iterator[DueRow]:
        """Yield every due row without its payload; ``wanted`` says whether ``scope`` asks for it.

        All due rows are looked at whatever the scope, because the rules about shared ids and the brake hold
        over the whole table. With ``resend`` the rows of the named people come too.
        """
        dialect = self.db.dialect
        nameless = f"CASE WHEN {dialect.normalised('t.person_id')} = '' THEN 1 ELSE 0 END"
        previous = (
            f"CASE WHEN t.previous_hash = {dialect.purge_marker} THEN NULL "
            f"ELSE {self._id_source('previous_json_payload')} END"
        )
        columns = [f"t.{self.key_column}", self._deleted, nameless, self._id_source("json_payload"), previous]
        params: list[Any] = []
        where = self._due
        if scope.persons:
            columns.append(f"CASE WHEN {self._among(scope.persons)} THEN 1 ELSE 0 END")
            params = list(scope.persons)
            if scope.resend:
                where = f"({where} OR {self._among(scope.persons)})"
                params = [*params, *scope.persons]
        for page in self._pages(columns, where, params, SCAN_ROWS):
            yield from self._with_ids(page)

    def scan_acknowledged(self) -> Iterator[tuple[Key, str]]:
        """Yield key and la_child_id of the rows that are not due and not deleted: what DfE may hold."""
        where = f"NOT {self._due} AND {self._deleted} = 0"
        columns = [f"t.{self.key_column}", self._id_source("json_payload")]
        exact = self._is_json("json_payload")
        for page in self._pages(columns, where, [], SCAN_ROWS):
            ids = {row[0]: _leading(row[1], exact) for row in page}
            full = self._full_ids([key for key, child_id in ids.items() if child_id is _Unclear])
            for key, found in ids.items():
                child_id = _text(full[key][0] if key in full else found)
                if child_id is not None:
                    yield key, child_id

    def _id_source(self, column: str) -> str:
        """An expression that la_child_id can be read from without fetching the payload."""
        if self._is_json(column):
            return (
                f"CASE WHEN t.{column} IS NULL THEN NULL ELSE COALESCE(t.{column} ->> 'la_child_id', '') END"
            )
        return self.db.dialect.prefix(self.db.dialect.as_text(f"t.{column}"), _PREFIX)

    def _is_json(self, column: str) -> bool:
        """Whether the server has to read the ids, because jsonb does not keep the order of keys.

        A json column does, and asked for a value, fails the whole statement over one row with a bad escape.
        """
        return self.db.dialect is POSTGRESQL and self.info.columns[column].type == "jsonb"

    def _with_ids(self, page: Sequence[Row]) -> Iterator[DueRow]:
        exact = self._is_json("json_payload"), self._is_json("previous_json_payload")
        ids = [(_leading(row[3], exact[0]), _leading(row[4], exact[1])) for row in page]
        unclear = [row[0] for row, pair in zip(page, ids, strict=True) if _Unclear in pair]
        full = self._full_ids(unclear)
        for row, pair in zip(page, ids, strict=True):
            current, previous = full.get(row[0], pair)
            yield DueRow(
                key=row[0],
                deleted=bool(row[1]),
                wanted=len(row) < 6 or bool(row[5]),
                nameless=bool(row[2]),
                child_id=_text(current),
                previous_id=None if row[4] is None else _text(previous),
            )

    def _full_ids(self, keys: Sequence[Key]) -> dict[Key, tuple[str | None, str | None]]:
        """Read the ids from whole payloads, for the rows whose payload does not begin with la_child_id."""
        found: dict[Key, tuple[str | None, str | None]] = {}
        as_text = self.db.dialect.as_text
        columns = [f"t.{self.key_column}", as_text("t.json_payload"), as_text("t.previous_json_payload")]
        for start in range(0, len(keys), PAGE_ROWS):
            part = keys[start : start + PAGE_ROWS]
            among = f"t.{self.key_column} IN (" + ", ".join(["?"] * len(part)) + ")"
            sql = f"SELECT {', '.join(columns)} FROM {self.sql_name} AS t WHERE {among}"
            for key, current, previous in self._read(sql, part):
                found[key] = (_child_id(current), _child_id(previous))
        return found

    def pages(self, scope: Scope, *, deleted: bool, last: Key | None = None) -> Iterator[list[StagedRow]]:
        """Yield the due rows with their payloads, a page at a time, in key order up to ``last``.

        Deletions come with ``previous_payload`` too, because DfE may hold the child under its id.
        """
        where, params = self._where(scope)
        as_text = self.db.dialect.as_text
        columns = [
            f"t.{self.key_column}",
            "t.person_id",
            as_text("t.json_payload"),
            "t.current_hash",
            self._deleted,
        ]
        if deleted:
            columns.append(as_text("t.previous_json_payload"))
        where = f"{where} AND {self._deleted} = {int(deleted)}"
        for page in self._pages(columns, where, params, PAGE_ROWS, last=last):
            yield [_staged(row) for row in page]

    def rows(self, keys: Sequence[Key]) -> Iterator[list[StagedRow]]:
        """Yield the rows with these keys, whatever their state, with both payloads, in pages."""
        as_text = self.db.dialect.as_text
        columns = [
            f"t.{self.key_column}",
            "t.person_id",
            as_text("t.json_payload"),
            "t.current_hash",
            self._deleted,
            as_text("t.previous_json_payload"),
        ]
        for start in range(0, len(keys), PAGE_ROWS):
            part = keys[start : start + PAGE_ROWS]
            among = f"t.{self.key_column} IN (" + ", ".join(["?"] * len(part)) + ")"
            select = f"SELECT {', '.join(columns)} FROM {self.sql_name} AS t"
            sql = f"{select} WHERE {among} ORDER BY t.{self.key_column}"
            yield [_staged(row) for row in self._read(sql, part)]

    # -- writing ---------------------------------------------------------------------------------------

    def fill_hashes(self) -> int:
        """Give every row without a hash one, and return how many there were (domain, "Due rows").

        Each page is read under a lock and written in the same transaction, so no refresh can come between.
        """
        filled = 0
        after: Key | None = None
        while True:
            start = after
            count, after = self.db.retrying(lambda start=start: self._fill_page(start))  # type: ignore[misc]
            filled += count
            if after is None:
                return filled

    def _fill_page(self, after: Key | None) -> tuple[int, Key | None]:
        dialect = self.db.dialect
        key = f"t.{self.key_column}"
        where = f"t.current_hash IS NULL AND t.json_payload IS NOT NULL AND {key} IS NOT NULL"
        select = dialect.select(
            [key, dialect.as_text("t.json_payload")],
            self.sql_name,
            where=where if after is None else f"{where} AND {key} > ?",
            order_by=key,
            limit=PAGE_ROWS,
            lock=True,
        )
        with self.db.transaction():
            page = self.db.query(select, [] if after is None else [after])
            if page:
                columns = {"k": self._key_kind, "h": Kind.HASH}
                update = dialect.update_listed(
                    self.sql_name,
                    assignments=["current_hash = v.h"],
                    columns=columns,
                    rows=len(page),
                    where="t.current_hash IS NULL",
                    key_column=self.key_column,
                )
                hashes = [(row[0], payloads.content_hash(row[1])) for row in page]
                self.db.query(update, dialect.listed(columns, hashes))
        return len(page), page[-1][0] if len(page) == PAGE_ROWS else None

    def write_back(self, outcomes: Sequence[WriteBack]) -> list[StagedRow]:
        """Write what became of these rows, in one transaction; return the rows that had changed meanwhile.

        Success and error apply only if the row still carries the hash and the deleted-or-not state that were
        read; where it had no hash, only if it still has none and holds the same payload. Safe to repeat after
        a lost connection: a row that already carries this outcome is hit again with the same values.
        """
        # Not given up because somebody asks the run to stop: these outcomes are known nowhere else.
        return self.db.retrying(lambda: self._write_once(outcomes), to_the_end=True)

    def _write_once(self, outcomes: Sequence[WriteBack]) -> list[StagedRow]:
        hit: set[Key] = set()
        with self.db.transaction():
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
        dialect = self.db.dialect
        columns = {"k": self._key_kind, "p": Kind.TEXT, "d": Kind.INTEGER, "response": Kind.TEXT}
        guards = [f"{self._deleted} = v.d", "(t.person_id = v.p OR (t.person_id IS NULL AND v.p IS NULL))"]
        assignments = list(_ASSIGNMENTS[write])
        if hashless:
            columns["payload"] = Kind.TEXT
            guards.append(
                "t.current_hash IS NULL AND "
                + dialect.same_bytes(dialect.as_text("t.json_payload"), "v.payload")
            )
        else:
            columns["h"] = Kind.HASH
            guards.append("t.current_hash = v.h")
        if write is Write.PURGED:
            assignments.append(f"current_hash = {dialect.purge_marker}")
            # A commit whose answer was lost may have happened: then the row has the marker and our receipt.
            guards[-1] = (
                f"({guards[-1]} OR (t.current_hash = {dialect.purge_marker} AND t.api_response = v.response))"
            )
        timed = write in (Write.SENT, Write.PURGED)
        if timed:
            columns["moment"] = Kind.TIMESTAMP
        sql = dialect.update_listed(
            self.sql_name,
            assignments=assignments,
            columns=columns,
            rows=len(outcomes),
            where=" AND ".join(guards),
            key_column=self.key_column,
        )
        listed: list[list[Any]] = []
        for outcome in outcomes:
            row = outcome.row
            values: list[Any] = [row.key, row.person_id, int(row.deleted), self._fitted(outcome.response)]
            values.append(row.payload if hashless else row.current_hash)
            if timed:
                values.append(None if outcome.moment is None else dialect.timestamp(outcome.moment))
            listed.append(values)
        return [row[0] for row in self.db.query(sql, dialect.listed(columns, listed))]

    def nameless_due(self) -> int:
        """Count the due rows with no person_id where it is the key, since paging cannot reach them."""
        if self.keyed_by_id:
            return 0
        where = f"t.person_id IS NULL AND {self._due}"
        return int(self._read(f"SELECT COUNT(*) FROM {self.sql_name} AS t WHERE {where}")[0][0])

    def write_nameless_errors(self, reason: str) -> int:
        """Mark due rows with no person_id where it is the key, since paging cannot reach them."""
        where = f"t.person_id IS NULL AND {self._due}"
        count = self.nameless_due()
        if count:
            alias = "UPDATE t" if self.db.dialect is SQL_SERVER else f"UPDATE {self.sql_name} AS t"
            source = f" FROM {self.sql_name} AS t" if self.db.dialect is SQL_SERVER else ""
            sql = f"{alias} SET submission_status = 'error', api_response = ?{source} WHERE {where}"
            with self.db.transaction():
                self.db.execute(sql, [self._fitted(reason)])
        return count

    def _fitted(self, text: str) -> str:
        """Make a response fit the column: a reply may hold what no database stores, or too much.

        SQL Server counts UTF-16 units, so the cut does too.
        """
        storable = text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass")
        whole = storable.decode("utf-16-le", "replace")
        width = self.info.columns["api_response"].length
        if width is None:
            return whole
        return whole.encode("utf-16-le")[: width * 2].decode("utf-16-le", "ignore")


class _Unclear:
    """Stands for an id that the first characters of a payload did not tell."""


def _leading(source: Any, exact: bool) -> Any:
    if source is None:
        return None
    if exact:
        return str(source) or None
    return payloads.leading_child_id(str(source)) or _Unclear


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _child_id(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return payloads.child_ids(payloads.parse(text))[0]
    except payloads.UnreadablePayload:
        return None


def _staged(row: Row) -> StagedRow:
    return StagedRow(
        key=row[0],
        person_id=None if row[1] is None else str(row[1]),
        payload=row[2],
        current_hash=None if row[3] is None else bytes(row[3]),
        deleted=bool(row[4]),
        previous_payload=row[5] if len(row) > 5 else None,
    )

"""The staging table: which rows are due, reading them in pages, and writing back what became of them.

Carries out domain, section 3. Every read is a page of bounded size that ends before anything is sent; every
write is one set-based statement in its own transaction that applies only where the row still is what was
read, so a refresh that runs meanwhile is never overwritten with an outcome that belongs to another payload.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from api_pipeline import payload as payloads
from api_pipeline import schema
from api_pipeline.db import Database, Row
from api_pipeline.dialects import POSTGRESQL, Kind
from api_pipeline.ledger_schema import BASELINE
from api_pipeline.names import TableName

Key = int | str

TESTING_RESPONSE = "TESTING_MODE: nothing was sent."

PAGE_ROWS = 200  # rows with payloads in memory at a time
SCAN_ROWS = 2_000  # rows without payloads in memory at a time
_PREFIX = 160  # characters that hold the la_child_id where it comes first: 36 and some white space


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
    """A due row without its payload.

    Attributes:
        fresh: the row itself shows no sign of ever having been sent.
        held: the la_child_ids that DfE may hold for the person, None where the baseline does not tell.
        previous_id: the id in the previous payload, None where that was purged.
    """

    key: Key
    person_id: str | None
    deleted: bool
    wanted: bool
    nameless: bool
    fresh: bool
    child_id: str | None
    previous_id: str | None
    held: tuple[str, ...] | None

    @property
    def to_retire(self) -> tuple[str, ...]:
        """The ids to be purged before anything else is sent for this row."""
        if self.deleted:
            return ids_to_purge(self.child_id, self.previous_id, self.held)[1:]
        candidates = (self.previous_id,) if self.held is None else self.held
        return tuple(found for found in candidates if found is not None and found != self.child_id)


def ids_to_purge(current: str | None, previous: str | None, held: Sequence[str] | None) -> tuple[str, ...]:
    """Return the ids that a deletion has to purge, the row's own first (domain, "Deletions").

    Those that DfE is known to hold, or may hold; where nothing is known of that, those of the payloads.
    """
    candidates = (current, previous) if held is None else held
    known = [found for found in candidates if found is not None]
    if current in known:
        known.remove(current)
        known.insert(0, current)
    return tuple(dict.fromkeys(known))


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


class StagingTable:
    """The rows of one staging table, read and written through ``db``."""

    def __init__(self, db: Database, name: TableName) -> None:
        """Read the table's shape, and whether a baseline lies beside it.

        Raises:
            DatabaseError: if the table or a needed column is missing, or may not be read.
        """
        self.db = db
        self.name = name
        self.info = schema.require(db, name)
        dialect = db.dialect
        self.sql_name = dialect.table(name)
        baseline = BASELINE.name(name)
        self.baseline = dialect.table(baseline) if schema.describe(db, baseline) else ""
        self._status = dialect.normalised("t.submission_status")
        self.deleted = self.deleted_of("t")
        marked = f"t.current_hash IS NOT NULL AND t.current_hash = {dialect.purge_marker}"
        self._purged = f"({self.deleted} = 1 AND {marked})"
        self.due = (
            f"(({self._status} IN {_PENDING} OR ({self._status} = 'sent' AND ({self.deleted} = 1 "
            "OR (t.current_hash IS NOT NULL AND t.previous_hash IS NOT NULL "
            f"AND t.current_hash <> t.previous_hash AND t.current_hash <> {dialect.purge_marker})))) "
            f"AND NOT {self._purged})"
        )
        self.key_column = self._choose_key()
        self.key_kind = Kind.INTEGER if self.key_column == "id" else Kind.TEXT

    def deleted_of(self, alias: str) -> str:
        """1 where a row is marked as deleted, else 0."""
        return f"CASE WHEN {self.db.dialect.normalised(alias + '.row_state')} = 'deleted' THEN 1 ELSE 0 END"

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
        rows = self._read(f"SELECT COUNT(*), MIN(t.last_updated) FROM {self.sql_name} AS t WHERE {self.due}")
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

    def nameless_due(self) -> int:
        """Count the due rows with no person_id where it is the key, since paging cannot reach them."""
        if self.keyed_by_id:
            return 0
        where = f"t.person_id IS NULL AND {self.due}"
        return int(self._read(f"SELECT COUNT(*) FROM {self.sql_name} AS t WHERE {where}")[0][0])

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

    def rows_of(self, persons: Iterable[str]) -> dict[tuple[str, bytes], StagedRow]:
        """Return these people's rows by person_id and hash, without payloads."""
        found: dict[tuple[str, bytes], StagedRow] = {}
        wanted = list(persons)
        for start in range(0, len(wanted), PAGE_ROWS):
            part = wanted[start : start + PAGE_ROWS]
            rows = self._read(
                f"SELECT t.{self.key_column}, t.person_id, NULL, t.current_hash, {self.deleted} "
                f"FROM {self.sql_name} AS t WHERE {self._among(part)}",
                part,
            )
            for row in map(_staged, rows):
                if row.person_id is not None and row.current_hash is not None:
                    found[row.person_id, row.current_hash] = row
        return found

    def keys_of(self, persons: Sequence[str]) -> dict[str, list[Key]]:
        """Return the keys of these people's rows."""
        found: dict[str, list[Key]] = {}
        for start in range(0, len(persons), PAGE_ROWS):
            part = persons[start : start + PAGE_ROWS]
            sql = (
                f"SELECT t.person_id, t.{self.key_column} FROM {self.sql_name} AS t WHERE {self._among(part)}"
            )
            for person, key in self._read(sql, part):
                found.setdefault(str(person), []).append(key)
        return found

    def _among(self, persons: Sequence[str]) -> str:
        return "t.person_id IN (" + ", ".join(["?"] * len(persons)) + ")"

    def _where(self, scope: Scope) -> tuple[str, list[Any]]:
        if not scope.persons:
            return self.due, []
        among = self._among(scope.persons)
        return (among if scope.resend else f"{self.due} AND {among}"), list(scope.persons)

    def _pages(
        self,
        columns: Sequence[str],
        where: str,
        params: Sequence[Any],
        rows: int,
        *,
        last: Key | None = None,
        join: str = "",
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
            sql = self.db.dialect.select(
                columns, self.sql_name, where=paged, order_by=key, limit=rows, join=join
            )
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
        fresh = (
            "CASE WHEN t.previous_hash IS NULL AND (t.api_response IS NULL "
            f"OR t.api_response = '{TESTING_RESPONSE}') THEN 1 ELSE 0 END"
        )
        columns = [
            f"t.{self.key_column}",
            "t.person_id",
            self.deleted,
            nameless,
            fresh,
            self._id_source("json_payload"),
            self._unless_purged(self._id_source("previous_json_payload")),
            *(("b.state", "b.la_child_id", "b.unsure") if self.baseline else ("NULL", "NULL", "NULL")),
        ]
        params: list[Any] = []
        where = self.due
        if scope.persons:
            columns.append(f"CASE WHEN {self._among(scope.persons)} THEN 1 ELSE 0 END")
            params = list(scope.persons)
            if scope.resend:
                where = f"({where} OR {self._among(scope.persons)})"
                params = [*params, *scope.persons]
        person = dialect.comparable("t.person_id")
        join = f" LEFT JOIN {self.baseline} AS b ON b.person_id = {person}" if self.baseline else ""
        for page in self._pages(columns, where, params, SCAN_ROWS, join=join):
            yield from self._with_ids(page)

    def _unless_purged(self, previous: str) -> str:
        """The previous payload, or what is taken of it, unless the marker says that it was purged."""
        return f"CASE WHEN t.previous_hash = {self.db.dialect.purge_marker} THEN NULL ELSE {previous} END"

    def scan_acknowledged(self) -> Iterator[tuple[Key, str]]:
        """Yield key and la_child_id of the rows that are not due and not deleted: what DfE may hold."""
        where = f"NOT {self.due} AND {self.deleted} = 0"
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
        ids = [(_leading(row[5], exact[0]), _leading(row[6], exact[1])) for row in page]
        unclear = [row[0] for row, pair in zip(page, ids, strict=True) if _Unclear in pair]
        full = self._full_ids(unclear)
        for row, pair in zip(page, ids, strict=True):
            current, previous = full.get(row[0], pair)
            yield DueRow(
                key=row[0],
                person_id=None if row[1] is None else str(row[1]),
                deleted=bool(row[2]),
                wanted=len(row) < 11 or bool(row[10]),
                nameless=bool(row[3]),
                fresh=bool(row[4]),
                child_id=_text(current),
                previous_id=None if row[6] is None else _text(previous),
                held=None
                if row[7] is None  # as with most tables, or most people
                else held_ids(
                    state=row[7],
                    acknowledged=row[8],
                    unsure=json.loads(row[9]) if row[9] else (),
                    payloads=(_text(current), None if row[6] is None else _text(previous)),
                ),
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

    def pages(
        self, scope: Scope, *, deleted: bool, previous: bool = False, last: Key | None = None
    ) -> Iterator[list[StagedRow]]:
        """Yield the due rows with their payloads, a page at a time, in key order up to ``last``.

        ``previous`` asks for the previous payloads too, where DfE may hold something because of them.
        """
        where, params = self._where(scope)
        as_text = self.db.dialect.as_text
        columns = [
            f"t.{self.key_column}",
            "t.person_id",
            as_text("t.json_payload"),
            "t.current_hash",
            self.deleted,
        ]
        if previous:
            columns.append(self._unless_purged(as_text("t.previous_json_payload")))
        where = f"{where} AND {self.deleted} = {int(deleted)}"
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
            self.deleted,
            self._unless_purged(as_text("t.previous_json_payload")),
        ]
        for start in range(0, len(keys), PAGE_ROWS):
            part = keys[start : start + PAGE_ROWS]
            among = f"t.{self.key_column} IN (" + ", ".join(["?"] * len(part)) + ")"
            select = f"SELECT {', '.join(columns)} FROM {self.sql_name} AS t"
            sql = f"{select} WHERE {among} ORDER BY t.{self.key_column}"
            yield [_staged(row) for row in self._read(sql, part)]


class _Unclear:
    """Stands for an id that the first characters of a payload did not tell."""


def _leading(source: Any, exact: bool) -> Any:
    if source is None:
        return None
    if exact:
        return str(source) or None
    return payloads.leading_child_id(str(source)) or _Unclear


def held_ids(
    *, state: str | None, acknowledged: str | None, unsure: Iterable[str], payloads: Iterable[str | None]
) -> tuple[str, ...] | None:
    """Return the ids that a baseline tells of, the acknowledged one first; None where it tells of none.

    As long as nothing was ever acknowledged, an older tool may have sent what the row's payloads hold, too.
    """
    doubtful = list(unsure)
    if state == "acknowledged" and acknowledged is not None:
        doubtful.insert(0, acknowledged)
    if state == "unknown" and doubtful:
        doubtful += [found for found in payloads if found is not None]
    return tuple(dict.fromkeys(doubtful)) or None


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

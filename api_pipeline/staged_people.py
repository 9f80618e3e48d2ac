"""The staging table as ``stage`` sees it: one row for each person, looked up and written in lots.

Carries out the statements of ssd, section 5. Everything here runs inside the caller's transaction: nothing
repeats a statement or commits. Rows belong to a person by their trimmed person_id, compared in Python, code
point by code point; the server's own comparison only narrows down what is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from api_pipeline.db import Row
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Kind
from api_pipeline.errors import TransientDatabaseError
from api_pipeline.id_set import IdSet
from api_pipeline.payload import PURGE_MARKER
from api_pipeline.schema import INTEGER_TYPES
from api_pipeline.staging import SCAN_ROWS, Key, StagingTable

_LOOKED_UP = 500  # person_ids asked for at once
_LOT_ROWS = 250  # rows in one statement: at most five values each, below SQL Server's 2,100 parameters
_LOT_CHARACTERS = 1_000_000  # of payloads in one statement
_GONE_LOT = 500
_PAYLOADS = 100  # stored payloads in memory at a time

_NOW = {
    "sqlserver": "GETDATE()",
    "postgresql": "LOCALTIMESTAMP",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'",
}
# Whether the id makes its own values: by IDENTITY, or by a default such as the next value of a sequence.
_GENERATED = {
    "sqlserver": (
        "SELECT COUNT(*) FROM sys.columns AS c WHERE c.object_id = OBJECT_ID(N'{0}') AND c.name = N'id' "
        "AND (c.is_identity = 1 OR EXISTS (SELECT 1 FROM sys.default_constraints AS d "
        "WHERE d.parent_object_id = c.object_id AND d.parent_column_id = c.column_id))"
    ),
    "postgresql": (
        "SELECT COUNT(*) FROM pg_attribute WHERE attrelid = to_regclass('{0}') "
        "AND attname = 'id' AND (attidentity <> '' OR atthasdef)"
    ),
    "sqlite": (
        "SELECT COUNT(*) FROM pragma_table_info('{0}') "
        "WHERE name = 'id' COLLATE NOCASE AND pk = 1 AND UPPER(type) = 'INTEGER'"
    ),
}


@dataclass(frozen=True, slots=True)
class StagedPerson:
    """The one row of a person, without its payloads."""

    key: Key
    current_hash: bytes | None
    deleted: bool

    @property
    def purged(self) -> bool:
        """Whether the row carries the purge marker."""
        return self.current_hash == PURGE_MARKER


@dataclass(frozen=True, slots=True)
class NewRow:
    """What is inserted for a person who has no row."""

    person_id: str
    legacy_id: str | None
    text: str
    hash: bytes


class StagedPeople:
    """Reads and writes the rows of one staging table by person."""

    def __init__(self, table: StagingTable) -> None:
        self._table = table
        self._db = table.db
        self._dialect = table.db.dialect
        self._columns = table.info.columns
        self._integer_ids = self._columns["person_id"].type in INTEGER_TYPES
        self._person_kind = Kind.INTEGER if self._integer_ids else Kind.TEXT
        self._key_kind = Kind.INTEGER if table.keyed_by_id else self._person_kind
        self._marked = f"t.current_hash IS NOT NULL AND t.current_hash = {self._dialect.purge_marker}"
        self._now = _NOW[self._dialect.name]
        self._padded: dict[str, list[str]] = {}
        self._inserts: list[NewRow] = []
        self._updates: list[tuple[Key, str, bytes]] = []
        self._hashes: list[tuple[Key, bytes]] = []
        self._waiting = 0  # characters of payload in the lots
        self._next_id: int | None = None

    # -- the night before ------------------------------------------------------------------------------

    def survey(self) -> tuple[IdSet, IdSet, set[int], int]:
        """Look at every row once, without payloads.

        Returns:
            The ids of all rows; those of the rows neither deleted nor purged; the hashes of the ids that
            several rows share; and the number of rows not purged. Rows without a person_id are in none of
            the first three.
        """
        staged, live = IdSet(), IdSet()
        for key, person_id, is_live in self._scan(["t.person_id", self._live()]):
            del key
            as_it_stands = str(person_id) if person_id is not None else ""
            trimmed = as_it_stands.strip()
            if not trimmed:
                continue
            staged.add(trimmed)
            if is_live:
                live.add(trimmed)
            if self._found_as(as_it_stands) != trimmed:
                self._padded.setdefault(trimmed, []).append(as_it_stands)
        shared = staged.repeated()
        if not self._table.keyed_by_id:
            shared |= self._told_apart_by_nothing()
        rows = self._db.query(f"SELECT COUNT(*) FROM {self._table.sql_name} AS t WHERE NOT ({self._marked})")
        self._find_next_id()
        return staged, live, shared, int(rows[0][0])

    def _live(self) -> str:
        return f"CASE WHEN {self._table.deleted} = 0 AND NOT ({self._marked}) THEN 1 ELSE 0 END"

    def _found_as(self, person_id: str) -> str:
        """Return the id as the server finds it: in columns of fixed width, blanks at the end do not count."""
        fixed_width = self._columns["person_id"].type in {"char", "nchar", "character"}
        return person_id.rstrip(" ") if fixed_width and self._dialect is not SQLITE else person_id

    def _told_apart_by_nothing(self) -> set[int]:
        """Return the ids of rows that the server takes for one, where there is no other key.

        Such rows would also be passed over at the edge of a page.
        """
        groups = (
            f"SELECT g.person_id FROM {self._table.sql_name} AS g WHERE g.person_id IS NOT NULL "
            "GROUP BY g.person_id HAVING COUNT(*) > 1"
        )
        rows = self._db.query(
            f"SELECT DISTINCT t.person_id FROM {self._table.sql_name} AS t "
            f"INNER JOIN ({groups}) AS d ON d.person_id = t.person_id"
        )
        return {hash(str(row[0]).strip()) for row in rows}

    def _find_next_id(self) -> None:
        """See whether new rows have to be given an id: some older tables lack IDENTITY."""
        if not self._table.info.has("id"):
            return
        # A validated name holds no quote, so it may stand in a literal.
        name = self._table.info.table if self._dialect is SQLITE else self._table.sql_name
        if not int(self._db.query(_GENERATED[self._dialect.name].format(name))[0][0]):
            found = self._db.query(f"SELECT MAX(t.id) FROM {self._table.sql_name} AS t")[0][0]
            self._next_id = int(found or 0) + 1

    def _scan(self, columns: Sequence[str], where: str = "1 = 1") -> Iterator[Row]:
        """Yield key and columns of all rows that have a key, in key order, a page in memory at a time."""
        key = f"t.{self._table.key_column}"
        where = f"{where} AND {key} IS NOT NULL"
        after: Key | None = None
        while True:
            sql = self._dialect.select(
                [key, *columns],
                self._table.sql_name,
                where=where if after is None else f"{where} AND {key} > ?",
                order_by=key,
                limit=SCAN_ROWS,
            )
            page = self._db.query(sql, [] if after is None else [after])
            yield from page
            if len(page) < SCAN_ROWS:
                return
            after = page[-1][0]

    # -- looking up ------------------------------------------------------------------------------------

    def look_up(self, people: Iterable[str]) -> dict[str, StagedPerson]:
        """Return the rows of these people by trimmed person_id; ``people`` are trimmed."""
        wanted = set(people)
        asked = [found for trimmed in wanted for found in (trimmed, *self._padded.get(trimmed, ()))]
        rows: dict[str, StagedPerson] = {}
        select = (
            f"SELECT t.{self._table.key_column}, t.person_id, t.current_hash, {self._table.deleted} "
            f"FROM {self._table.sql_name} AS t WHERE t.person_id IN "
        )
        for start in range(0, len(asked), _LOOKED_UP):
            part = [self._bound(person) for person in asked[start : start + _LOOKED_UP]]
            for key, person_id, current_hash, deleted in self._db.query(select + _marks(part), part):
                trimmed = str(person_id).strip()
                if trimmed in wanted:
                    content = None if current_hash is None else bytes(current_hash)
                    rows[trimmed] = StagedPerson(key, content, bool(deleted))
        return rows

    def _bound(self, person_id: str) -> Key:
        return int(person_id) if self._integer_ids else person_id

    def payloads(self, keys: Sequence[Key]) -> Iterator[tuple[Key, str | None]]:
        """Yield the stored payloads of these rows, some in memory at a time."""
        text = self._dialect.as_text("t.json_payload")
        select = f"SELECT t.{self._table.key_column}, {text} FROM {self._table.sql_name} AS t WHERE "
        for start in range(0, len(keys), _PAYLOADS):
            part = keys[start : start + _PAYLOADS]
            found = self._db.query(f"{select}t.{self._table.key_column} IN {_marks(part)}", part)
            yield from ((key, stored) for key, stored in found)

    def others(self) -> Iterator[tuple[Key, int]]:
        """Yield key and hash of the id of every row that is not purged."""
        for key, person_id in self._scan(["t.person_id"], f"NOT ({self._marked})"):
            yield key, hash(str(person_id).strip())

    def live(self) -> Iterator[tuple[Key, int]]:
        """Yield key and hash of the id of every row that is neither deleted nor purged."""
        where = f"{self._table.deleted} = 0 AND NOT ({self._marked})"
        for key, person_id in self._scan(["t.person_id"], where):
            yield key, hash(str(person_id).strip())

    # -- what fits -------------------------------------------------------------------------------------

    def takes_id(self, person_id: str) -> bool:
        """Whether a person_id can be stored as it stands."""
        return "\0" not in person_id and _is_whole(person_id) and self._fits("person_id", person_id)

    def takes_text(self, text: str) -> bool:
        """Whether a payload can be stored: JSONB takes no NUL, and older tables have narrower columns."""
        if self._columns["json_payload"].type == "jsonb" and "\\u0000" in text:
            return False
        return _is_whole(text) and self._fits("json_payload", text)

    def legacy_id(self, legacy_id: str | None) -> str | None:
        """Return a legacy_id as it is stored, None where there is no column for it or it does not fit."""
        if legacy_id is None or not self._table.info.has("legacy_id"):
            return None
        return legacy_id if self._fits("legacy_id", legacy_id) else None

    def _fits(self, column: str, text: str) -> bool:
        spec = self._columns[column]
        if spec.type in INTEGER_TYPES:
            return text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < 2**31
        if spec.length is None or len(text) * 2 <= spec.length:
            return True
        # SQL Server counts UTF-16 units.
        units = len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
        return (units if self._dialect is SQL_SERVER else len(text)) <= spec.length

    # -- writing ---------------------------------------------------------------------------------------

    def insert(self, row: NewRow) -> None:
        """Add a person who has no row; written with the next lot."""
        self._inserts.append(row)
        self._waiting += len(row.text)
        self._flush_if_full(len(self._inserts))

    def update(self, key: Key, text: str, content_hash: bytes) -> None:
        """Give a row a new payload and hash; written with the next lot."""
        self._updates.append((key, text, content_hash))
        self._waiting += len(text)
        self._flush_if_full(len(self._updates))

    def replace_hash(self, key: Key, content_hash: bytes) -> None:
        """Give a row another hash for the same payload; written with the next lot."""
        self._hashes.append((key, content_hash))
        self._flush_if_full(len(self._hashes))

    def delete(self, keys: Sequence[Key]) -> None:
        """Mark rows as gone, at once."""
        assignments = [
            "row_state = 'deleted'",
            "submission_status = 'pending'",
            f"last_updated = {self._now}",
        ]
        for start in range(0, len(keys), _GONE_LOT):
            lot = [[key] for key in keys[start : start + _GONE_LOT]]
            self._update_lot(assignments, {"k": self._key_kind}, lot)

    def _flush_if_full(self, rows: int) -> None:
        if rows >= _LOT_ROWS or self._waiting >= _LOT_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        inserts, self._inserts = self._inserts, []
        updates, self._updates = self._updates, []
        hashes, self._hashes = self._hashes, []
        self._waiting = 0
        if inserts:
            self._insert_lot(inserts)
        if updates:
            columns = {"k": self._key_kind, "payload": Kind.TEXT, "h": Kind.HASH}
            self._update_lot(self._new_payload(), columns, updates)
        if hashes:
            assignments = [
                "current_hash = v.h",
                # What was equal stays equal: the row must not become due because its hash is another one.
                (
                    "previous_hash = "
                    "CASE WHEN t.previous_hash = t.current_hash THEN v.h ELSE t.previous_hash END"
                ),
            ]
            self._update_lot(assignments, {"k": self._key_kind, "h": Kind.HASH}, hashes)

    def _new_payload(self) -> list[str]:
        current = self._columns["json_payload"].type
        return [
            f"previous_json_payload = {self._as('previous_json_payload', 't.json_payload', current)}",
            "previous_hash = t.current_hash",
            f"json_payload = {self._as('json_payload', 'v.payload', 'text')}",
            "current_hash = v.h",
            "row_state = 'updated'",
            "submission_status = 'pending'",
            f"last_updated = {self._now}",
        ]

    def _as(self, column: str, expression: str, type_: str) -> str:
        """Return a text for a column, which in PostgreSQL may be of a JSON type: that takes a cast."""
        wanted = self._columns[column].type
        if self._dialect is not POSTGRESQL or wanted == type_ or not {wanted, type_} & {"json", "jsonb"}:
            return expression
        return f"CAST({self._dialect.as_text(expression)} AS {wanted})"

    def _insert_lot(self, rows: Sequence[NewRow]) -> None:
        columns = {"person_id": self._person_kind, "payload": Kind.TEXT, "h": Kind.HASH}
        made = {
            "person_id": "v.person_id",
            "json_payload": self._as("json_payload", "v.payload", "text"),
            "current_hash": "v.h",
            "row_state": "'new'",
            "submission_status": "'pending'",
            "last_updated": self._now,
        }
        values: list[list[Any]] = [[self._bound(row.person_id), row.text, row.hash] for row in rows]
        if self._table.info.has("legacy_id"):
            number = self._columns["legacy_id"].type in INTEGER_TYPES
            columns["legacy_id"] = Kind.INTEGER if number else Kind.TEXT
            made["legacy_id"] = "v.legacy_id"
            for value, row in zip(values, rows, strict=True):
                value.append(int(row.legacy_id) if number and row.legacy_id is not None else row.legacy_id)
        if self._next_id is not None:
            columns["row_id"] = Kind.INTEGER
            made["id"] = "v.row_id"
            for value in values:
                value.append(self._next_id)
                self._next_id += 1
        sql = self._dialect.insert_listed(
            self._table.sql_name,
            target=list(made),
            expressions=list(made.values()),
            columns=columns,
            rows=len(values),
            key_column="person_id",
        )
        _all_hit(values, self._db.query(sql, self._dialect.listed(columns, values)))

    def _update_lot(
        self, assignments: Sequence[str], columns: dict[str, Kind], rows: Sequence[Sequence[Any]]
    ) -> None:
        sql = self._dialect.update_listed(
            self._table.sql_name,
            assignments=assignments,
            columns=columns,
            rows=len(rows),
            where="1 = 1",
            key_column=self._table.key_column,
        )
        _all_hit(rows, self._db.query(sql, self._dialect.listed(columns, rows)))


def _marks(values: Sequence[Any]) -> str:
    return "(" + ", ".join(["?"] * len(values)) + ")"


def _is_whole(text: str) -> bool:
    """Whether a text holds no half of a character, which no driver takes."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _all_hit(rows: Sequence[Any], hit: Sequence[Row]) -> None:
    """Give up the whole transaction where a lot hit other rows than the ones that were read."""
    if len(rows) != len(hit):
        raise TransientDatabaseError(
            "The staging table was changed by somebody else while it was refreshed.",
            hop="statement",
            remedy="Nothing was written; let no other job write to the table at the same time.",
        )

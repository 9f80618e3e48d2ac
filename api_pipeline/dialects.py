"""What differs between SQL Server, PostgreSQL and SQLite, as text; nothing here runs a statement.

A dialect quotes names and spells the few shapes of statement that the tool needs. Values are always bound
with ``?``, in all three; the only things ever placed into a statement's text are quoted names, column names
of this project, and row counts. Everything for SQL Server is valid on SQL Server 2012.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from api_pipeline.names import NamePart, TableName
from api_pipeline.payload import compact


class Kind(Enum):
    """The kinds of value that are bound; each dialect knows its own type for them."""

    INTEGER = "integer"
    TEXT = "text"
    HASH = "hash"
    TIMESTAMP = "timestamp"


class Dialect(ABC):
    """Spelling of one database. Stateless; one instance of each is enough."""

    name: str
    title: str
    types: Mapping[Kind, str]

    @abstractmethod
    def quote(self, part: NamePart) -> str:
        """Return one part of a table name, quoted. The only way that a name enters a statement."""

    def table(self, name: TableName) -> str:
        """Return the quoted table, with its schema where one was given."""
        parts = [name.table] if name.schema is None else [name.schema, name.table]
        return ".".join(self.quote(part) for part in parts)

    @abstractmethod
    def normalised(self, column: str) -> str:
        """Return ``column`` without outer blanks, in lower case, NULL as an empty text."""

    @abstractmethod
    def prefix(self, expression: str, length: int) -> str:
        """Return the first ``length`` characters of a text."""

    def characters(self, expression: str) -> str:
        """Return the number of characters of a text."""
        return f"LENGTH({expression})"

    @abstractmethod
    def same_bytes(self, left: str, right: str) -> str:
        """Return a condition that is true only where two texts are equal code point by code point.

        Collations would call texts equal that differ in letter case, accents or trailing blanks. Two NULLs
        are equal.
        """

    def as_text(self, column: str) -> str:
        """Return a payload column as text, whatever type a deployment gave it."""
        return column

    def comparable(self, column: str) -> str:
        """Return a text column as it can be compared with one of a table that this tool has made."""
        return column

    @property
    @abstractmethod
    def purge_marker(self) -> str:
        """The 32 zero bytes that say "this deletion was acknowledged" (domain, section 3)."""

    @abstractmethod
    def select(
        self,
        columns: Sequence[str],
        table: str,
        *,
        where: str,
        order_by: str,
        limit: int,
        lock: bool = False,
        join: str = "",
    ) -> str:
        """Return a SELECT of at most ``limit`` rows; ``lock`` keeps them as they are until commit."""

    @abstractmethod
    def update_listed(
        self,
        table: str,
        *,
        assignments: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        where: str,
        key_column: str,
    ) -> str:
        """Return one UPDATE over ``rows`` listed rows ``v`` that reports the keys that it hit.

        ``v`` has the named ``columns``, the first of them the key; ``t`` is the table.
        """

    @abstractmethod
    def insert_listed(
        self,
        table: str,
        *,
        target: Sequence[str],
        expressions: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        key_column: str,
        source: str = "",
    ) -> str:
        """Return one INSERT from ``rows`` listed rows ``v`` that reports the keys that it made.

        ``source`` is what follows ``v`` in the FROM clause: joins and a WHERE.
        """

    def listed(self, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the parameters for listed rows; each row has the values of ``columns``, in that order."""
        kinds = list(columns.values())
        return [self.parameter(kind, value) for row in rows for kind, value in zip(kinds, row, strict=True)]

    def bind(self, kind: Kind) -> str:
        """Return a typed placeholder. Typed, because a bare NULL would otherwise be guessed to be text."""
        return f"CAST(? AS {self.types[kind]})"

    def parameter(self, kind: Kind, value: Any) -> Any:
        """Return a value as :meth:`bind` expects it."""
        if isinstance(value, datetime):
            return self.timestamp(value)
        return value

    def values(self, columns: Mapping[str, Kind], rows: int) -> str:
        """Return the ``VALUES`` rows of placeholders for ``columns``."""
        row = "(" + ", ".join(self.bind(kind) for kind in columns.values()) + ")"
        return ", ".join([row] * rows)

    @abstractmethod
    def timestamp(self, moment: datetime) -> str:
        """Return a moment as the text that this database takes without asking for its own date format."""


class SqlServer(Dialect):
    """SQL Server 2012 and later."""

    name = "sqlserver"
    title = "SQL Server"
    types = {  # noqa: RUF012 -- a constant mapping, typed by the base class
        Kind.INTEGER: "BIGINT",
        Kind.TEXT: "NVARCHAR(MAX)",
        Kind.HASH: "VARBINARY(32)",
        Kind.TIMESTAMP: "DATETIME2(7)",
    }

    def quote(self, part: NamePart) -> str:
        return "[" + part.text.replace("]", "]]") + "]"

    def normalised(self, column: str) -> str:
        return f"LOWER(LTRIM(RTRIM(COALESCE({column}, N''))))"

    def prefix(self, expression: str, length: int) -> str:
        return f"LEFT({expression}, {length})"

    def characters(self, expression: str) -> str:
        return f"LEN({expression})"

    def comparable(self, column: str) -> str:
        # A staging table may have a collation of its own, and two different ones are not compared at all.
        return f"CAST({column} AS NVARCHAR(450)) COLLATE DATABASE_DEFAULT"

    def same_bytes(self, left: str, right: str) -> str:
        # Through NVARCHAR, because a column may be VARCHAR, with one byte where the parameter has two.
        left_bytes, right_bytes = (
            f"CAST(CAST({side} AS NVARCHAR(MAX)) AS VARBINARY(MAX))" for side in (left, right)
        )
        return f"(({left} IS NULL AND {right} IS NULL) OR {left_bytes} = {right_bytes})"

    @property
    def purge_marker(self) -> str:
        return "0x" + "00" * 32

    def select(
        self,
        columns: Sequence[str],
        table: str,
        *,
        where: str,
        order_by: str,
        limit: int,
        lock: bool = False,
        join: str = "",
    ) -> str:
        hint = " WITH (UPDLOCK)" if lock else ""
        top = f"SELECT TOP ({limit}) {', '.join(columns)}"
        return f"{top} FROM {table} AS t{hint}{join} WHERE {where} ORDER BY {order_by}"

    def update_listed(
        self,
        table: str,
        *,
        assignments: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        where: str,
        key_column: str,
    ) -> str:
        # OUTPUT straight to the client is refused on a table with triggers, so it goes into a variable.
        key = next(iter(columns))
        key_type = "BIGINT" if columns[key] is Kind.INTEGER else "NVARCHAR(450)"
        return (
            f"SET NOCOUNT ON; DECLARE @hit TABLE (k {key_type} NOT NULL); "
            f"UPDATE t SET {', '.join(assignments)} OUTPUT inserted.{key_column} INTO @hit (k) "
            f"FROM {table} AS t INNER JOIN {self._listed(columns, rows)} "
            f"ON t.{key_column} = v.{key} WHERE {where}; "
            "SELECT k FROM @hit;"
        )

    def insert_listed(
        self,
        table: str,
        *,
        target: Sequence[str],
        expressions: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        key_column: str,
        source: str = "",
    ) -> str:
        key = next(iter(columns))
        key_type = "BIGINT" if columns[key] is Kind.INTEGER else "NVARCHAR(450)"
        return (
            f"SET NOCOUNT ON; DECLARE @hit TABLE (k {key_type} NOT NULL); "
            f"INSERT INTO {table} ({', '.join(target)}) OUTPUT inserted.{key_column} INTO @hit (k) "
            f"SELECT {', '.join(expressions)} FROM {self._listed(columns, rows)} {source}; "
            "SELECT k FROM @hit;"
        )

    # A bound NULL has no type, so the driver asks the server what it would be: a round trip for each, which
    # fails on a batch like ours. These stand for NULL instead; nothing that is bound is ever equal to one.
    _NULLS: Mapping[Kind, tuple[Any, str]] = {
        Kind.INTEGER: (-(2**63), "CAST(-9223372036854775808 AS BIGINT)"),
        Kind.TEXT: ("<null 7c1e>", "N'<null 7c1e>'"),
        Kind.HASH: (b"", "0x"),
        Kind.TIMESTAMP: ("", "N''"),
    }

    def parameter(self, kind: Kind, value: Any) -> Any:
        return self._NULLS[kind][0] if value is None else super().parameter(kind, value)

    def _listed(self, columns: Mapping[str, Kind], rows: int) -> str:
        """Return the listed rows as a derived table ``v``, with the stand-ins made NULL again."""
        made = [f"{self._made(name, kind)} AS {name}" for name, kind in columns.items()]
        values = f"(VALUES {self.values(columns, rows)}) AS r ({', '.join(columns)})"
        return f"(SELECT {', '.join(made)} FROM {values}) AS v"

    def _made(self, name: str, kind: Kind) -> str:
        value = f"NULLIF(r.{name}, {self._NULLS[kind][1]})"
        return f"CAST({value} AS DATETIME2(7))" if kind is Kind.TIMESTAMP else value

    def values(self, columns: Mapping[str, Kind], rows: int) -> str:
        # The types of the first row hold for all. A key is compared with an indexed column, which MAX would
        # keep from being used.
        first = [f"CAST(? AS {self._BOUND.get(kind, self.types[kind])})" for kind in columns.values()]
        if next(iter(columns.values())) is Kind.TEXT:
            first[0] = "CAST(? AS NVARCHAR(450))"
        others = ", ".join(["?"] * len(columns))
        return ", ".join([f"({', '.join(first)})", *[f"({others})"] * (rows - 1)])

    _BOUND: Mapping[Kind, str] = {Kind.TIMESTAMP: "NVARCHAR(40)"}

    def timestamp(self, moment: datetime) -> str:
        return moment.isoformat(timespec="microseconds")


class PostgreSql(Dialect):
    """PostgreSQL 12 and later."""

    name = "postgresql"
    title = "PostgreSQL"
    types = {  # noqa: RUF012 -- a constant mapping, typed by the base class
        Kind.INTEGER: "BIGINT",
        Kind.TEXT: "TEXT",
        Kind.HASH: "BYTEA",
        Kind.TIMESTAMP: "TIMESTAMP",
    }

    def quote(self, part: NamePart) -> str:
        # Unquoted names fold to lower case there, and so does a plain name in the settings.
        text = part.text if part.exact else part.text.lower()
        return '"' + text.replace('"', '""') + '"'

    def normalised(self, column: str) -> str:
        return f"LOWER(BTRIM(COALESCE({column}, '')))"

    def prefix(self, expression: str, length: int) -> str:
        return f"LEFT({expression}, {length})"

    def same_bytes(self, left: str, right: str) -> str:
        return f'({left} COLLATE "C" IS NOT DISTINCT FROM {right} COLLATE "C")'

    def as_text(self, column: str) -> str:
        return f"CAST({column} AS TEXT)"

    @property
    def purge_marker(self) -> str:
        # Spelt without a backslash, which the driver would have to be told about.
        return "decode(repeat('00', 32), 'hex')"

    def select(
        self,
        columns: Sequence[str],
        table: str,
        *,
        where: str,
        order_by: str,
        limit: int,
        lock: bool = False,
        join: str = "",
    ) -> str:
        tail = " FOR UPDATE" if lock else ""
        select = f"SELECT {', '.join(columns)} FROM {table} AS t{join} WHERE {where}"
        return f"{select} ORDER BY {order_by} LIMIT {limit}{tail}"

    def update_listed(
        self,
        table: str,
        *,
        assignments: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        where: str,
        key_column: str,
    ) -> str:
        key = next(iter(columns))
        return (
            f"UPDATE {table} AS t SET {', '.join(assignments)} "
            f"FROM {self._listed(columns)} "
            f"WHERE t.{key_column} = v.{key} AND {where} RETURNING t.{key_column}"
        )

    def insert_listed(
        self,
        table: str,
        *,
        target: Sequence[str],
        expressions: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        key_column: str,
        source: str = "",
    ) -> str:
        return (
            f"INSERT INTO {table} ({', '.join(target)}) SELECT {', '.join(expressions)} "
            f"FROM {self._listed(columns)} {source} "
            f"RETURNING {key_column}"
        )

    def _listed(self, columns: Mapping[str, Kind]) -> str:
        # One parameter, because the driver and the server take longer over hundreds than over the update.
        typed = ", ".join(f"{name} {self.types[kind]}" for name, kind in columns.items())
        return f"json_to_recordset(CAST(? AS JSON)) AS v ({typed})"

    def listed(self, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]) -> list[Any]:
        names = list(columns)
        records = [dict(zip(names, map(self._listable, row), strict=True)) for row in rows]
        # Not as ASCII: a server whose encoding is not UTF-8 refuses escapes beyond ASCII.
        return [compact(records)]

    def _listable(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return "\\x" + value.hex()
        return self.timestamp(value) if isinstance(value, datetime) else value

    def timestamp(self, moment: datetime) -> str:
        return moment.isoformat(sep=" ", timespec="microseconds")


class Sqlite(Dialect):
    """SQLite 3.35 and later, from the standard library: the embedded default."""

    name = "sqlite"
    title = "SQLite"
    types: Mapping[Kind, str] = {}

    def quote(self, part: NamePart) -> str:
        return '"' + part.text.replace('"', '""') + '"'

    def normalised(self, column: str) -> str:
        return f"LOWER(TRIM(COALESCE({column}, '')))"

    def prefix(self, expression: str, length: int) -> str:
        return f"SUBSTR({expression}, 1, {length})"

    def same_bytes(self, left: str, right: str) -> str:
        return f"(CAST({left} AS BLOB) IS CAST({right} AS BLOB))"

    @property
    def purge_marker(self) -> str:
        return "zeroblob(32)"

    def select(
        self,
        columns: Sequence[str],
        table: str,
        *,
        where: str,
        order_by: str,
        limit: int,
        lock: bool = False,
        join: str = "",
    ) -> str:
        # A writer locks the whole file, so ``lock`` needs nothing beyond the transaction that it is in.
        select = f"SELECT {', '.join(columns)} FROM {table} AS t{join} WHERE {where}"
        return f"{select} ORDER BY {order_by} LIMIT {limit}"

    def update_listed(
        self,
        table: str,
        *,
        assignments: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        where: str,
        key_column: str,
    ) -> str:
        key = next(iter(columns))
        return (
            f"WITH v ({', '.join(columns)}) AS (VALUES {self.values(columns, rows)}) "
            f"UPDATE {table} AS t SET {', '.join(assignments)} FROM v "
            f"WHERE t.{key_column} = v.{key} AND {where} RETURNING {key_column}"
        )

    def insert_listed(
        self,
        table: str,
        *,
        target: Sequence[str],
        expressions: Sequence[str],
        columns: Mapping[str, Kind],
        rows: int,
        key_column: str,
        source: str = "",
    ) -> str:
        return (
            f"WITH v ({', '.join(columns)}) AS (VALUES {self.values(columns, rows)}) "
            f"INSERT INTO {table} ({', '.join(target)}) SELECT {', '.join(expressions)} FROM v {source} "
            f"RETURNING {key_column}"
        )

    def bind(self, kind: Kind) -> str:
        return "?"

    def timestamp(self, moment: datetime) -> str:
        return moment.isoformat(sep=" ", timespec="microseconds")


SQL_SERVER = SqlServer()
POSTGRESQL = PostgreSql()
SQLITE = Sqlite()

"""What ``test-schema`` asks about a source table beyond its columns, and the SQL that it gives.

Types, indexes, snapshots (ssd, section 1). Nothing here changes a table: the statements are for whoever looks
after the SSD to read and to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from api_pipeline.db import Database
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.names import TableName
from api_pipeline.odbc import SNAPSHOT_STATE
from api_pipeline.schema import Column, TableInfo
from api_pipeline.ssd_schema import READABLE_TYPES, column_type
from api_pipeline.ssd_tables import Kind, SourceTable


class Fit(Enum):
    """Whether a column of some type gives values of a kind."""

    FITS = "fits"
    CONVERTED = "converted"  # works if the values are of the kind, and that shows only on reading
    UNREADABLE = "unreadable"


_TEXT = frozenset({"nvarchar", "varchar", "nchar", "char", "ntext", "text", "character varying", "character"})
_UNORDERED = frozenset({"text", "ntext"})  # in SQL Server: neither compared nor sorted
_MOMENTS = frozenset({"date", "datetime", "datetime2", "smalldatetime", "timestamp without time zone"})
_BINARY = frozenset({"binary", "varbinary", "blob"})
# What gives a kind as it is; what else READABLE_TYPES has is converted.
_FITTING = {
    Kind.ID: _TEXT,
    Kind.TEXT: _TEXT,
    Kind.MOMENT: _MOMENTS,
    Kind.VALUE: READABLE_TYPES[Kind.VALUE],
}


def fit(dialect: Dialect, kind: Kind, type_: str) -> Fit:
    """Say whether a column of this type, in lower case, gives values of the kind."""
    if dialect is SQLITE:
        # There the type is a hint: any column may hold text, and dates are text anyway.
        return Fit.UNREADABLE if type_ in _BINARY else Fit.FITS
    if dialect is SQL_SERVER and kind is Kind.ID and type_ in _UNORDERED:
        return Fit.UNREADABLE
    if dialect is SQL_SERVER and type_ == "timestamp":
        return Fit.UNREADABLE  # another name of ROWVERSION there
    if type_ in _FITTING[kind]:
        return Fit.FITS
    return Fit.CONVERTED if type_ in READABLE_TYPES[kind] else Fit.UNREADABLE


def is_table(db: Database, info: TableInfo) -> bool:
    """Whether this is a table and no view.

    Raises:
        DatabaseError: if the catalogue cannot be read.
    """
    if db.dialect is SQLITE:
        sql = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(db.query(sql, [info.table])[0][0])
    sql = (
        "SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES "
        "WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND TABLE_TYPE = 'BASE TABLE'"
    )
    return bool(db.query(sql, [info.schema, info.table])[0][0])


def leading_columns(db: Database, names: Sequence[TableName]) -> Mapping[str, frozenset[str]]:
    """Return for each table the columns that an index over all of its rows begins with.

    The tables lie in one schema; all names are in lower case.

    Raises:
        DatabaseError: if the catalogue cannot be read.
    """
    quoted = [db.dialect.table(name) for name in names]
    if not names:
        return {}
    if db.dialect is SQL_SERVER:
        sql = (
            "SELECT o.name, c.name FROM sys.indexes AS i "
            "INNER JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id "
            "INNER JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id "
            "INNER JOIN sys.objects AS o ON o.object_id = i.object_id "
            "WHERE k.key_ordinal = 1 AND i.is_disabled = 0 AND i.has_filter = 0 AND i.object_id IN "
        )
        # The literals hold names that were validated: letters, digits and a few signs, never a quote.
        ids = ", ".join(f"OBJECT_ID(N'{name}')" for name in quoted)
        rows = db.query(f"{sql}({ids})")
    elif db.dialect is POSTGRESQL:
        sql = (
            "SELECT c.relname, a.attname FROM pg_index AS i "
            "INNER JOIN pg_class AS c ON c.oid = i.indrelid "
            "INNER JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            "WHERE i.indisvalid AND i.indpred IS NULL AND i.indrelid IN "
        )
        ids = ", ".join(["to_regclass(CAST(? AS TEXT))"] * len(quoted))
        rows = db.query(f"{sql}({ids})", quoted)
    else:
        sql = (
            "SELECT t.name, k.name FROM sqlite_master AS t, pragma_index_list(t.name) AS i, "
            "pragma_index_info(i.name) AS k "
            "WHERE t.type = 'table' AND k.seqno = 0 AND i.partial = 0 AND k.name IS NOT NULL"
        )
        rows = db.query(sql)
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(str(table).casefold(), set()).add(str(column).casefold())
    return {
        name.table.text.casefold(): frozenset(found.get(name.table.text.casefold(), ())) for name in names
    }


def can_be_indexed(dialect: Dialect, column: Column) -> bool:
    """Whether an index may begin with a column of this type."""
    if dialect is not SQL_SERVER:
        return True
    return column.type not in _TEXT or (column.length is not None and column.type not in _UNORDERED)


def allows_snapshots(db: Database) -> bool:
    """Whether this SQL Server database gives a transaction one consistent snapshot.

    Raises:
        DatabaseError: if the catalogue cannot be read.
    """
    rows = db.query(SNAPSHOT_STATE)
    return bool(rows) and rows[0][0] == 1


def create_table(dialect: Dialect, name: TableName, table: SourceTable) -> str:
    """Return the statement that makes a source table without rows."""
    columns = ",\n    ".join(
        f"{column} {column_type(dialect, spec)}".rstrip() for column, spec in table.columns.items()
    )
    return f"CREATE TABLE {dialect.table(name)} (\n    {columns}\n);"


def add_column(dialect: Dialect, name: TableName, table: SourceTable, column: str) -> str:
    """Return the statement that adds a column without values."""
    keyword = "ADD" if dialect is SQL_SERVER else "ADD COLUMN"
    definition = f"{column} {column_type(dialect, table.columns[column])}".rstrip()
    return f"ALTER TABLE {dialect.table(name)} {keyword} {definition};"


def create_index(dialect: Dialect, name: TableName, column: str) -> str:
    """Return the statement that makes an index on a column."""
    return f"CREATE INDEX ix_{column} ON {dialect.table(name)} ({column});"

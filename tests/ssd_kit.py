"""Source tables for tests: made in a test's database of any kind, and filled with rows of the row classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from api_pipeline import ssd_schema
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.names import NamePart, TableName
from api_pipeline.ssd_tables import SOURCE_TABLES, Kind
from tests.databases import Database

_DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (POSTGRESQL, SQL_SERVER, SQLITE)}
_TABLE_OF = {table.row: table for table in SOURCE_TABLES}
_FLAGS = frozenset(
    column
    for table in SOURCE_TABLES
    for column, spec in table.columns.items()
    if spec.kind is Kind.VALUE and spec.length
)

_MOST_PARAMETERS = 2000  # SQL Server takes 2,100
_MOST_ROWS = 500


def schema_of(database: Database) -> NamePart | None:
    """Return the schema that a test has for itself, as SSD_SCHEMA takes it; None where it is the default."""
    return TableName.parse(database.table_name).schema


def create(
    database: Database,
    schema: NamePart | None = None,
    *,
    types: Mapping[str, str] | None = None,
    indexes: bool | None = None,
) -> NamePart | None:
    """Make the source tables and return the schema that they lie in: by default the test's own.

    ``types`` gives some columns another type, as odd deployments do. Indexes are made unless the server is
    SQL Server, whose test double takes longer to make them than any test to do without.
    """
    schema = schema or schema_of(database)
    indexes = database.kind != "sqlserver" if indexes is None else indexes
    for statement in ssd_schema.create_statements(_DIALECTS[database.kind], schema):
        if "CREATE TABLE" not in statement and not indexes:
            continue
        for column, type_ in (types or {}).items():
            statement = re.sub(rf"(?m)^(    {column}) ?[^,\n]*", rf"\1 {type_}", statement)  # noqa: PLW2901
        database.execute(statement)
    return schema


def insert(database: Database, rows: Iterable[Any], schema: NamePart | None = None) -> None:
    """Insert rows of any of the row classes, each into its table."""
    schema = schema or schema_of(database)
    by_class: dict[type[Any], list[Any]] = {}
    for row in rows:
        by_class.setdefault(type(row), []).append(row)
    for row_class, items in by_class.items():
        name = _DIALECTS[database.kind].table(ssd_schema.table_name(schema, _TABLE_OF[row_class].name))
        _insert(database, f"INSERT INTO {name} ({', '.join(row_class._fields)})", items)


def _insert(database: Database, into: str, rows: list[Any]) -> None:
    fields = rows[0]._fields
    mark = "(" + ", ".join(["?"] * len(fields)) + ")"
    values = [
        [_bound(database.kind, column, value) for column, value in zip(fields, row, strict=True)]
        for row in rows
    ]
    if database.kind != "postgresql":
        # The SQL Server double takes longer over one long statement than over many short ones.
        if database.kind == "sqlite":
            database.execute("BEGIN")
        database.executemany(f"{into} VALUES {mark}", values)
        if database.kind == "sqlite":
            database.execute("COMMIT")
        return
    step = min(_MOST_ROWS, _MOST_PARAMETERS // len(fields))
    for start in range(0, len(values), step):
        part = values[start : start + step]
        database.execute(
            f"{into} VALUES {', '.join([mark] * len(part))}", [cell for row in part for cell in row]
        )


def _bound(kind: str, column: str, value: Any) -> Any:
    """Return a value as the bare driver takes it for a column of the tables that :func:`create` makes."""
    if kind == "sqlite" and isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if kind == "sqlite" and isinstance(value, date):
        return value.isoformat()
    if kind != "sqlite" and column in _FLAGS and isinstance(value, int):
        return str(int(value))
    return value


def person(person_id: str | None, **more: Any) -> Any:
    """Return a row of ``ssd_person``; other columns are NULL unless given."""
    from api_pipeline.ssd_tables import Person

    return make(Person, pers_person_id=person_id, **more)


def make(row: type[Any], **values: Any) -> Any:
    """Return a row of a row class; columns that are not given are NULL."""
    return row(**{**dict.fromkeys(row._fields), **values})

"""The source tables in a database: where they lie, what they lack, and the SQL that makes them.

Carries out ssd, section 1. :func:`survey` looks once and tells everything that reading, checking and filling
the Standard Safeguarding Dataset (SSD) must know of a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from api_pipeline import schema as catalogue
from api_pipeline.db import Database
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.errors import ConfigError, DatabaseError
from api_pipeline.names import NamePart, TableName
from api_pipeline.ssd_tables import SOURCE_TABLES, ByParent, Kind, SourceTable, Spec

MARKER = "ssd_fake_data_marker"
"""A table of this name beside the source tables says that everybody in them is made up."""

_WORKER_ID = ("ssd_professionals", "prof_social_worker_registration_no")  # what WORKER_ID_COLUMN replaces

_TEXT_TYPES = frozenset({"nvarchar", "varchar", "nchar", "char", "ntext", "text", "character varying"}) | {
    "character",
    "uniqueidentifier",
    "uuid",
}
_NUMBER_TYPES = frozenset({"int", "bigint", "smallint", "tinyint", "integer", "decimal", "numeric"}) | {
    "float",
    "real",
    "double precision",
    "money",
    "smallmoney",
}
_FLAG_TYPES = frozenset({"bit", "boolean"})
_MOMENT_TYPES = frozenset({"datetime", "datetime2", "smalldatetime", "date", "datetimeoffset"}) | {
    "timestamp",
    "timestamp without time zone",
    "timestamp with time zone",
}

READABLE_TYPES: Mapping[Kind, frozenset[str]] = {
    Kind.ID: _TEXT_TYPES | _NUMBER_TYPES,
    Kind.TEXT: _TEXT_TYPES | _NUMBER_TYPES | _FLAG_TYPES | {"json", "jsonb", "xml"},
    Kind.MOMENT: _MOMENT_TYPES | _TEXT_TYPES,
    Kind.VALUE: _TEXT_TYPES | _NUMBER_TYPES | _FLAG_TYPES,
}
"""Kind -> the types of the servers that it can be read from; in SQLite every type can be."""


@dataclass(frozen=True)
class FoundColumn:
    """A column as the database has it: its name there, its type in lower case, its collation or ``""``."""

    name: str
    type: str
    collation: str = ""


@dataclass(frozen=True)
class FoundTable:
    """A source table that exists, by the name that leads to it; columns by their names in ``ssd_tables``.

    Under ``prof_social_worker_registration_no`` stands the column that WORKER_ID_COLUMN names, if it is set.
    """

    table: SourceTable
    name: TableName
    columns: Mapping[str, FoundColumn]


@dataclass(frozen=True)
class Missing:
    """What a source table lacks: some columns, or, where ``columns`` is empty, itself."""

    table: str
    columns: tuple[str, ...] = ()
    readable: bool = True  # False where the table is there and this login may not read it

    @property
    def hop(self) -> str:
        """The step that fails: ``table``, ``column`` or ``permission``."""
        if not self.readable:
            return "permission"
        return "column" if self.columns else "table"

    def __str__(self) -> str:
        if not self.readable:
            return f"This login may not read the source table {self.table}."
        if self.columns:
            return f"The source table {self.table} has no column {', '.join(self.columns)}."
        return f"There is no source table {self.table} in this database, or this login cannot see it."

    def error(self) -> DatabaseError:
        """Return what to raise, with what to do about it."""
        remedies = {
            "table": "Check SSD_SCHEMA and SSD_CONNECTION_STRING; test-schema lists all that is missing.",
            "column": "test-schema lists all that is missing; WORKER_ID_COLUMN must name an existing column.",
            "permission": f"Ask for GRANT SELECT ON {self.table}.",
        }
        return DatabaseError(str(self), hop=self.hop, remedy=remedies[self.hop])


@dataclass(frozen=True)
class Survey:
    """The source tables that were found, by name, and what is missing, in the order of the tables."""

    found: Mapping[str, FoundTable] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()


def schema_for(dialect: Dialect, schema: NamePart | None) -> NamePart | None:
    """Return the schema to name in statements: none in SQLite, which has only ``main``.

    Raises:
        ConfigError: if SSD_SCHEMA names another schema than ``main`` in SQLite.
    """
    if dialect is not SQLITE or schema is None:
        return schema
    if schema.text.casefold() != "main":
        raise ConfigError(
            f"SSD_SCHEMA is {schema.text}, but SQLite has no schemas.",
            hop="settings",
            remedy="Leave SSD_SCHEMA empty for a SQLite file.",
        )
    return None


def table_name(schema: NamePart | None, base: str) -> TableName:
    """Return the name of a source table in the schema that the settings give."""
    return TableName(schema=schema, table=NamePart(base, exact=False))


def survey(db: Database, schema: NamePart | None, worker_column: NamePart | None = None) -> Survey:
    """Look for all source tables and their columns.

    Names are resolved as the server resolves them: in any letter case where it ignores it, and without a
    schema in the default one.

    Raises:
        ConfigError: for a schema in SQLite.
        DatabaseError: if the catalogue cannot be read.
    """
    schema = schema_for(db.dialect, schema)
    found: dict[str, FoundTable] = {}
    lacking: list[Missing] = []
    for table in SOURCE_TABLES:
        name = table_name(schema, table.name)
        info = catalogue.describe(db, name)
        if info is None:
            lacking.append(Missing(str(name)))
        elif not info.columns:
            lacking.append(Missing(info.full_name, readable=False))
        else:
            present = _columns(db, info)
            wanted = _wanted(table, worker_column)
            columns = {ours: present.get(_key(db.dialect, part)) for ours, part in wanted.items()}
            absent = tuple(part.text for ours, part in wanted.items() if columns[ours] is None)
            if absent:
                lacking.append(Missing(info.full_name, absent))
            exact = TableName(NamePart(info.schema, exact=True), NamePart(info.table, exact=True))
            known = {ours: column for ours, column in columns.items() if column is not None}
            found[table.name] = FoundTable(table, exact, known)
    return Survey(found, tuple(lacking))


def missing(db: Database, schema: NamePart | None, worker_column: NamePart | None = None) -> list[Missing]:
    """Return what :func:`survey` misses. Raises as it does."""
    return list(survey(db, schema, worker_column).missing)


def _wanted(table: SourceTable, worker_column: NamePart | None) -> dict[str, NamePart]:
    wanted = {column: NamePart(column, exact=False) for column in table.columns}
    if worker_column is not None and table.name == _WORKER_ID[0]:
        wanted[_WORKER_ID[1]] = worker_column
    return wanted


def _key(dialect: Dialect, part: NamePart) -> str:
    """Return a column's name as :func:`_columns` has it for key; only PostgreSQL tells letter case apart."""
    return part.text if dialect is POSTGRESQL and part.exact else part.text.lower()


def _columns(db: Database, info: catalogue.TableInfo) -> dict[str, FoundColumn]:
    if db.dialect is SQLITE:
        return {
            column.name.lower(): FoundColumn(column.name, column.type) for column in info.columns.values()
        }
    rows = db.query(
        "SELECT COLUMN_NAME, DATA_TYPE, COLLATION_NAME FROM INFORMATION_SCHEMA.COLUMNS "
        "WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
        [info.schema, info.table],
    )
    columns = [FoundColumn(str(name), str(type_).casefold(), str(rule or "")) for name, type_, rule in rows]
    folds = db.dialect is not POSTGRESQL
    return {column.name.lower() if folds else column.name: column for column in columns}


def is_fake(db: Database, schema: NamePart | None) -> bool:
    """Whether the source tables hold fake people: the marker lies in the schema of ``ssd_person``.

    Raises:
        ConfigError: for a schema in SQLite.
        DatabaseError: if the catalogue cannot be read.
    """
    schema = schema_for(db.dialect, schema)
    people = catalogue.describe(db, table_name(schema, "ssd_person"))
    if people is not None:
        schema = NamePart(people.schema, exact=True)
    return catalogue.describe(db, table_name(schema, MARKER)) is not None


def create_statements(dialect: Dialect, schema: NamePart | None) -> list[str]:
    """Return the statements that create the source tables and an index on every column that joins them.

    Nothing that exists is altered. No column is unique: deployments have duplicates, and so may tests.

    Raises:
        ConfigError: for a schema in SQLite.
    """
    schema = schema_for(dialect, schema)
    indexed = join_columns()
    statements: list[str] = []
    for table in SOURCE_TABLES:
        quoted = dialect.table(table_name(schema, table.name))
        lines = [f"{column} {column_type(dialect, spec)}".rstrip() for column, spec in table.columns.items()]
        statements.append(_create_table(dialect, quoted, lines))
        statements += [_create_index(dialect, quoted, column) for column in indexed[table.name]]
    return statements


def create_marker(dialect: Dialect, schema: NamePart | None) -> str:
    """Return the statement that creates the marker, which says "these people are made up"."""
    quoted = dialect.table(table_name(schema_for(dialect, schema), MARKER))
    return _create_table(dialect, quoted, [f"note {column_type(dialect, Spec(Kind.TEXT, 100))}"])


def join_columns() -> dict[str, list[str]]:
    """Return table name -> the columns by which its rows are found, in the order of the columns."""
    used = {route.column for table in SOURCE_TABLES for route in table.routes}
    used |= {
        route.parent_column
        for table in SOURCE_TABLES
        for route in table.routes
        if isinstance(route, ByParent)
    }
    used.add("prof_professional_id")
    return {table.name: [column for column in table.columns if column in used] for table in SOURCE_TABLES}


def column_type(dialect: Dialect, spec: Spec) -> str:
    """Return the type that a column of this kind gets in a table of ours."""
    if dialect is SQLITE:
        # Without a type a value stays as it was written: a score of '12' is no number there.
        return "" if spec.kind is Kind.VALUE else "TEXT"
    if spec.kind is Kind.MOMENT:
        return "DATETIME" if dialect is SQL_SERVER else "TIMESTAMP"
    if spec.kind is Kind.VALUE and spec.length is None:
        return "INT"
    if dialect is SQL_SERVER:
        base = "NCHAR" if spec.kind is Kind.VALUE else "NVARCHAR"
        return f"{base}({spec.length or 'MAX'})"
    base = "CHAR" if spec.kind is Kind.VALUE else "VARCHAR"
    return f"{base}({spec.length})" if spec.length else "TEXT"


def _create_table(dialect: Dialect, quoted: str, lines: list[str]) -> str:
    create = f"{quoted} (\n    " + ",\n    ".join(lines) + "\n);"
    if dialect is SQL_SERVER:
        return f"IF OBJECT_ID(N'{quoted}') IS NULL\nCREATE TABLE {create}"
    return f"CREATE TABLE IF NOT EXISTS {create}"


def _create_index(dialect: Dialect, quoted: str, column: str) -> str:
    create = f"ix_{column} ON {quoted} ({column});"
    if dialect is SQL_SERVER:
        exists = (
            f"SELECT 1 FROM sys.indexes WHERE object_id = OBJECT_ID(N'{quoted}') AND name = N'ix_{column}'"
        )
        return f"IF NOT EXISTS ({exists})\nCREATE INDEX {create}"
    return f"CREATE INDEX IF NOT EXISTS {create}"

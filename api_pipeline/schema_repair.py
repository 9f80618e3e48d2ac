"""What a table of the tool must be like beyond having its columns, and the SQL that mends it.

Nothing here changes a table: the statements are for a database administrator to read and to run. They are
made for a table that holds rows, so nothing is added as NOT NULL (domain, section 3; interface, "Commands":
``test-schema``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from api_pipeline.db import Database
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.names import NamePart, TableName
from api_pipeline.schema import INTEGER_TYPES, Column, ColumnSpec, TableInfo

# What a run writes; the rest is read only.
WRITTEN = (
    "submission_status",
    "submission_timestamp",
    "api_response",
    "row_state",
    "current_hash",
    "previous_hash",
    "previous_json_payload",
    "partial_json_payload",
)
# The old types of SQL Server that no function for text takes.
_LEGACY_TEXT = frozenset({"text", "ntext"})
_ONE_BYTE_TEXT = frozenset({"varchar", "char"})
# What a run writes, and so needs privileges for; None means the table as a whole.
STAGING_PRIVILEGES: Mapping[str, tuple[str, ...] | None] = {"SELECT": (), "UPDATE": WRITTEN}
# What `stage` needs beyond that: it adds rows, and writes payloads and hashes.
STAGE_PRIVILEGES: Mapping[str, tuple[str, ...] | None] = {"INSERT": (), "UPDATE": ()}
REMEMBERED_PRIVILEGES: Mapping[str, tuple[str, ...] | None] = {
    "SELECT": (),
    "INSERT": (),
    "UPDATE": (),
    "DELETE": None,
}
_TYPE = re.compile(r"\w+(?:\(\w+\))?")


def target_type(dialect: Dialect, spec: ColumnSpec) -> str:
    """Return the type that ``init-db`` gives the column, without constraints."""
    match = _TYPE.match(getattr(spec, dialect.name))
    return match.group(0) if match else ""


def type_fits(dialect: Dialect, spec: ColumnSpec, column: Column) -> bool:
    """Whether the tool's statements work on a column of this type."""
    if dialect is SQL_SERVER and column.type in _LEGACY_TEXT:
        return False
    if dialect is SQLITE and not column.type:
        return True  # no declared type: SQLite keeps every value as it is
    if dialect is POSTGRESQL and spec.name == "person_id" and column.type in INTEGER_TYPES:
        return False  # there a number is not compared with a text
    return column.type in spec.families


def loses_characters(dialect: Dialect, spec: ColumnSpec, column: Column) -> bool:
    """Whether the column replaces the characters that its code page lacks, such as other scripts' letters."""
    return dialect is SQL_SERVER and spec.name.endswith("payload") and column.type in _ONE_BYTE_TEXT


def add_column(dialect: Dialect, table: TableName, spec: ColumnSpec) -> tuple[str, ...]:
    """Return the statements that add a missing column; none where the dialect cannot do it."""
    name = dialect.table(table)
    definition: str = getattr(spec, dialect.name)
    if spec.name == "id":
        if dialect is SQLITE:
            return ()
        definition = definition.replace("PRIMARY KEY", "UNIQUE")  # the table may have a primary key
    elif dialect is SQL_SERVER:
        definition = definition.replace(" NOT NULL", " NULL")
    else:
        definition = definition.replace(" NOT NULL", "")
    if dialect is SQLITE:
        definition = re.sub(r" DEFAULT \(.*", "", definition)  # only constants can be added as a default
    keyword = "ADD" if dialect is SQL_SERVER else "ADD COLUMN"
    return (f"ALTER TABLE {name} {keyword} {spec.name} {definition};",)


def change_type(dialect: Dialect, table: TableName, spec: ColumnSpec, column: Column) -> tuple[str, ...]:
    """Return the statements that give a column the type that ``init-db`` would; none where they cannot.

    A hash of another type is made anew rather than converted: the refresh and the tool fill it in again.
    """
    name = dialect.table(table)
    target = target_type(dialect, spec)
    if spec.name.endswith("_hash") and not type_fits(dialect, spec, column):
        return (f"ALTER TABLE {name} DROP COLUMN {spec.name};", *add_column(dialect, table, spec))
    if dialect is SQLITE:
        return ()
    if dialect is POSTGRESQL:
        using = f"USING CAST({spec.name} AS {target})"
        return (f"ALTER TABLE {name} ALTER COLUMN {spec.name} TYPE {target} {using};",)
    null = "NULL" if column.nullable else "NOT NULL"
    return (f"ALTER TABLE {name} ALTER COLUMN {spec.name} {target} {null};",)


def grant(dialect: Dialect, table: TableName, privileges: Sequence[str], login: str) -> tuple[str, ...]:
    """Return the statement that gives the login these privileges; none for SQLite, which has no logins."""
    if dialect is SQLITE or not privileges:
        return ()
    to = dialect.quote(NamePart(login, exact=True))
    return (f"GRANT {', '.join(privileges)} ON {dialect.table(table)} TO {to};",)


def user(db: Database) -> str:
    """Return the name that privileges are granted to; empty for SQLite.

    Raises:
        DatabaseError: if the server does not answer.
    """
    if db.dialect is SQLITE:
        return ""
    sql = "SELECT USER_NAME()" if db.dialect is SQL_SERVER else "SELECT current_user"
    return str(db.query(sql)[0][0])


def missing_privileges(
    db: Database,
    table: TableName,
    info: TableInfo,
    needed: Mapping[str, tuple[str, ...] | None] = STAGING_PRIVILEGES,
) -> list[str]:
    """Return those of the ``needed`` privileges that this login lacks.

    Each is needed on the table, or else on the columns named; an empty list of columns stands for all.
    SQLite knows no privileges; whether its file may be written to shows only on trying.

    Raises:
        DatabaseError: if the server does not answer.
    """
    if db.dialect is SQLITE:
        return []
    missing = []
    for privilege, columns in needed.items():
        named = columns if columns is None else tuple(filter(info.has, columns)) or tuple(info.columns)
        if not _may(db, table, privilege, named):
            missing.append(privilege)
    return missing


def _may(db: Database, table: TableName, privilege: str, columns: Iterable[str] | None) -> bool:
    """Whether the privilege is there for the whole table, or else for each of the columns named."""
    quoted = db.dialect.table(table)
    if db.dialect is SQL_SERVER:
        # The literal holds a name that was validated: letters, digits and a few signs, never a quote.
        securable, named = f"N'{quoted}', N'OBJECT', N'{privilege}'", []
        whole = f"SELECT HAS_PERMS_BY_NAME({securable})"
        single = f"SELECT HAS_PERMS_BY_NAME({securable}, ?, N'COLUMN')"
    else:
        oid, named = "to_regclass(CAST(? AS TEXT))", [quoted]
        whole = f"SELECT CASE WHEN has_table_privilege({oid}, '{privilege}') THEN 1 ELSE 0 END"
        single = (
            f"SELECT CASE WHEN has_column_privilege({oid}, CAST(? AS TEXT), '{privilege}') THEN 1 ELSE 0 END"
        )
    if db.query(whole, named)[0][0]:
        return True
    if columns is None:
        return False
    return all(db.query(single, [*named, column])[0][0] for column in columns)

"""What the tool remembers, as tables: the submission log and the baseline (domain, section 6).

They lie beside the staging table, in the authority's own database. A table of fake children has its own pair,
``..._anon``, so that a rehearsal can never be taken for what DfE holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from api_pipeline.dialects import SQL_SERVER, Dialect
from api_pipeline.names import TableName
from api_pipeline.schema import ColumnSpec

_TEXT = frozenset({"nvarchar", "varchar", "text", "character varying", "character"})
_BINARY = frozenset({"binary", "varbinary", "bytea", "blob"})
_INTEGER = frozenset({"int", "bigint", "smallint", "integer"})
_MOMENT = frozenset({"datetime", "datetime2", "timestamp", "timestamp without time zone", "text"})


def _text(name: str, length: int | None, *, null: bool = True) -> ColumnSpec:
    tail = "" if null else " NOT NULL"
    sqlserver = f"NVARCHAR({length or 'MAX'}){' NULL' if null else tail}"
    postgresql = (f"VARCHAR({length})" if length else "TEXT") + tail
    return ColumnSpec(name, sqlserver, postgresql, f"TEXT{tail}", _TEXT, min_length=length)


def _hash(name: str) -> ColumnSpec:
    return ColumnSpec(name, "BINARY(32) NULL", "BYTEA", "BLOB", _BINARY, min_length=32)


def _number(name: str, *, null: bool = True) -> ColumnSpec:
    tail = "" if null else " NOT NULL"
    return ColumnSpec(name, f"BIGINT{' NULL' if null else tail}", f"BIGINT{tail}", f"INTEGER{tail}", _INTEGER)


def _moment(name: str) -> ColumnSpec:
    return ColumnSpec(name, "DATETIME2(3) NULL", "TIMESTAMP(3)", "TEXT", _MOMENT)


LOG_COLUMNS: tuple[ColumnSpec, ...] = (
    _text("run_id", 36, null=False),
    _number("seq", null=False),  # counts the run's attempts from 1; with run_id it names one attempt
    _number("row_id"),
    _text("person_id", 48),
    _text("kind", 10, null=False),  # full, partial, deletion, test
    _hash("state_hash"),  # of the whole state that the attempt was to bring about
    _hash("sent_hash"),
    _number("sent_bytes"),
    _text("outcome", 10, null=False),  # sending, sent, error, unsure, testing
    _number("posts"),
    _number("http_status"),
    _text("detail", None),  # the receipt, or the paths and rules that were refused
    _moment("started_at"),
    _moment("finished_at"),
)

BASELINE_COLUMNS: tuple[ColumnSpec, ...] = (
    _text("person_id", 48, null=False),
    _text("la_child_id", 48),
    _text("state", 12, null=False),  # acknowledged, purged, unknown
    _text("payload", None),
    _hash("payload_hash"),
    _hash("records_hash"),
    _text("receipt", 100),
    ColumnSpec("acknowledged_at", "DATETIME2(7) NULL", "TIMESTAMP", "TEXT", _MOMENT),
    _text("flight_kind", 10),
    _text("flight_child_id", 48),
    _text("flight_payload", None),
    _hash("flight_hash"),
    _hash("flight_records"),
    _text("unsure", None),  # the records sent since, whose fate is not known, by la_child_id
    _number("full_next"),  # 1 after a refused partial
)


@dataclass(frozen=True)
class RememberedTable:
    """One of the two tables: its name before ``_anon``, its columns, primary key and further indexes."""

    base: str
    columns: tuple[ColumnSpec, ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, str], ...]  # short name, columns

    def name(self, staging: TableName) -> TableName:
        """Return this table's name beside the given staging table."""
        return staging.sibling(self.base + ("_anon" if staging.is_anon else ""))

    def create(self, dialect: Dialect, staging: TableName) -> list[str]:
        """Return the statements that create the table and its indexes where they do not exist yet."""
        name = self.name(staging)
        table = dialect.table(name)
        lines = [spec.ddl(dialect) for spec in self.columns]
        body = ",\n    ".join([*lines, f"PRIMARY KEY ({', '.join(self.key)})"])
        create = f"CREATE TABLE {table} (\n    {body}\n)"
        if dialect is SQL_SERVER:
            statements = [f"IF OBJECT_ID(N'{table}') IS NULL\n{create};"]
        else:
            statements = [create.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1) + ";"]
        return statements + [self._index(dialect, name, *index) for index in self.indexes]

    def _index(self, dialect: Dialect, name: TableName, short: str, columns: str) -> str:
        table = dialect.table(name)
        if dialect is SQL_SERVER:  # where the name of an index only has to differ within its table
            exists = (
                f"SELECT 1 FROM sys.indexes WHERE object_id = OBJECT_ID(N'{table}') AND name = N'ix_{short}'"
            )
            return f"IF NOT EXISTS ({exists})\nCREATE INDEX ix_{short} ON {table} ({columns});"
        index = TableName.parse(f"ix_{name.table.text}_{short}")
        return f"CREATE INDEX IF NOT EXISTS {dialect.table(index)} ON {table} ({columns});"


LOG = RememberedTable(
    "ssd_api_submission_log",
    LOG_COLUMNS,
    ("run_id", "seq"),
    (("person", "person_id, started_at"), ("started", "started_at")),
)
BASELINE = RememberedTable(
    "ssd_api_baseline",
    BASELINE_COLUMNS,
    ("person_id",),
    (("child", "la_child_id"), ("flight", "flight_kind")),
)
REMEMBERED = (LOG, BASELINE)

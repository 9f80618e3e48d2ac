"""``test-schema``: are the staging table and the two beside it what the tool needs, and what would mend them?

Looks at columns, types, widths, keys and permissions, and at the states of the staging table's rows (domain,
sections 3 and 6; interface, "Commands"). Writes nothing. The source has its own module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from api_pipeline import provision, schema, schema_repair, ssd_schema
from api_pipeline.check_result import CheckResult, Step
from api_pipeline.config import Settings
from api_pipeline.db import Database
from api_pipeline.dialects import SQLITE
from api_pipeline.errors import DatabaseError
from api_pipeline.ledger_schema import BASELINE, LOG, RememberedTable
from api_pipeline.names import TableName
from api_pipeline.schema import STAGING_COLUMNS, ColumnSpec, TableInfo
from api_pipeline.schema_repair import REMEMBERED_PRIVILEGES, STAGE_PRIVILEGES, STAGING_PRIVILEGES
from api_pipeline.source_access import source_is_meant
from api_pipeline.source_checks import source_steps
from api_pipeline.ssd_tables import SOURCE_TABLES
from api_pipeline.staging import KNOWN_STATUSES, StagingTable

NAME = "test-schema"

_SIDE_TABLES = {"submission log": LOG, "baseline table": BASELINE}
_BY_HAND = "Run the statement below, or have it run by whoever may alter the table."
_SQLITE_RETYPE = "SQLite cannot alter it: make a new table with init-db and copy the rows."


def test_schema(settings: Settings) -> CheckResult:
    """Check the staging table, the two beside it and the source, and say which SQL mends each fault.

    Raises:
        ConfigError: if a connection string cannot be read.
    """
    try:
        database = provision.connect(settings)
    except DatabaseError as error:
        staging: tuple[Step, ...] = (Step.of_error(error, connected=False),)
        if settings.ssd_connection_string is None:
            return CheckResult(NAME, staging)  # the same fault would be told twice
    else:
        with database:
            staging = tuple(_Inspection(database, settings).steps())
    return CheckResult(NAME, (*staging, *source_steps(settings)))


class _Inspection:
    """The look at one table; each method yields the steps of one matter."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db = db
        self.dialect = db.dialect
        self.name = settings.table
        self.settings = settings

    def steps(self) -> Iterator[Step]:
        """Yield all steps; what a fault keeps from being looked at is left out."""
        try:
            info = schema.describe(self.db, self.name)
            if info is None:
                yield self._no_table()
            elif not info.columns:
                yield self._unreadable(info)
            else:
                yield from self._of_table(info)
            yield from self._side_tables()
        except DatabaseError as error:
            yield Step.of_error(error, connected=True)

    def _no_table(self) -> Step:
        return Step(
            "table",
            False,
            f"There is no table {self.name} in this {self.dialect.title} database that this login can see.",
            "Check TABLE_NAME and its schema. If the table is to be new, init-db creates it with this SQL.",
            tuple(schema.create_statements(self.dialect, self.name)),
        )

    def _unreadable(self, info: TableInfo) -> Step:
        return Step(
            "permission",
            False,
            f"This login may not read the table {info.full_name}.",
            _BY_HAND,
            self._grant(self.name, ["SELECT", "UPDATE"]),
        )

    def _of_table(self, info: TableInfo) -> Iterator[Step]:
        yield Step("table", True, f"{info.full_name} is there ({self.dialect.title}).")
        faults = [*self._columns(info), *self._types(self.name, info, STAGING_COLUMNS)]
        failed = any(step.ok is False for step in faults)
        if not failed:
            yield Step("column", True, "All columns that are needed are there and have types that work.")
        yield from faults
        yield from self._permissions(self.name, info, STAGING_PRIVILEGES)
        yield from self._permissions_of_stage(info)
        if failed:
            yield Step("rows", None, "The rows were not looked at, because of the columns.")
            return
        try:
            table = StagingTable(self.db, self.name)
            yield from self._key(table)
            yield from self._rows(table)
        except DatabaseError as error:
            yield Step.of_error(error, connected=True)

    # -- columns ---------------------------------------------------------------------------------------

    def _columns(self, info: TableInfo) -> Iterator[Step]:
        for spec in STAGING_COLUMNS:
            if info.has(spec.name):
                continue
            sql = schema_repair.add_column(self.dialect, self.name, spec)
            if spec.required:
                yield Step("column", False, f"The column {spec.name} is missing.", _BY_HAND, sql)
            elif spec.name == "id":
                message = "There is no column id: rows are told apart by person_id, which must not repeat."
                yield Step("column", None, message, "An id is better where one can be added.", sql)
            else:
                yield Step("column", None, f"The column {spec.name} is missing; nothing needs it.", "", sql)

    def _types(self, name: TableName, info: TableInfo, specs: Sequence[ColumnSpec]) -> Iterator[Step]:
        for spec in specs:
            column = info.columns.get(spec.name)
            if column is None:
                continue
            target = schema_repair.target_type(self.dialect, spec)
            sql = schema_repair.change_type(self.dialect, name, spec, column)
            remedy = _BY_HAND if sql else _SQLITE_RETYPE
            if not schema_repair.type_fits(self.dialect, spec, column):
                message = f"The column {spec.name} is {column.type}; it has to be {target}."
                # An id of another type is not used, and nothing reads legacy_id.
                yield Step("type", False if spec.required else None, message, remedy, sql)
                continue
            if schema_repair.loses_characters(self.dialect, spec, column):
                message = f"The column {spec.name} is {column.type}, which loses letters of other scripts."
                yield Step("type", None, message, remedy, sql)
            if column.length is not None and column.length < (spec.min_length or 0):
                message = (
                    f"The column {spec.name} has a width of {column.length}; {spec.min_length} are needed."
                )
                if self.dialect is SQLITE:
                    yield Step("width", None, f"{message} SQLite does not enforce it.")
                else:
                    yield Step("width", False, message, remedy, sql)

    # -- permissions -----------------------------------------------------------------------------------

    def _permissions(
        self, name: TableName, info: TableInfo, needed: Mapping[str, tuple[str, ...] | None]
    ) -> Iterator[Step]:
        if self.dialect is SQLITE:
            if name == self.name:  # the one file holds all three tables
                yield self._file()
            return
        missing = schema_repair.missing_privileges(self.db, name, info, needed)
        for privilege in missing:
            message = f"This login may not {privilege} in {info.full_name}."
            yield Step("permission", False, message, _BY_HAND, self._grant(name, [privilege]))
        allowed = [privilege for privilege in needed if privilege not in missing]
        if allowed:
            yield Step("permission", True, f"This login may {', '.join(allowed)} in {info.full_name}.")

    def _permissions_of_stage(self, info: TableInfo) -> Iterator[Step]:
        """Say what ``stage`` lacks; a warning where only an SSD beside the table speaks for its use."""
        own = self.settings.ssd_connection_string
        person = ssd_schema.table_name(self.settings.ssd_schema, SOURCE_TABLES[0].name)
        meant = source_is_meant(self.settings)
        if not meant and (own is not None or schema.describe(self.db, person) is None):
            return
        known = schema_repair.missing_privileges(self.db, self.name, info)
        lacks = schema_repair.missing_privileges(self.db, self.name, info, STAGE_PRIVILEGES)
        missing = [privilege for privilege in lacks if privilege not in known]
        if missing:
            message = f"This login may not {' and '.join(missing)} all of {info.full_name}, as stage does."
            grant = self._grant(self.name, missing)
            yield Step("permission", False if meant else None, message, _BY_HAND, grant)

    def _grant(self, name: TableName, privileges: list[str]) -> tuple[str, ...]:
        return schema_repair.grant(self.dialect, name, privileges, schema_repair.user(self.db))

    def _file(self) -> Step:
        """Find out whether the SQLite file and its folder can be written to, without writing.

        Not by asking for the write lock: SQLite gives it on a file that cannot be written to, too.
        """
        path = Path(self.db.server_info().database)
        effective = os.access in os.supports_effective_ids
        for place, why in ((path, ""), (path.parent, ", for the journal and the lock file")):
            if not os.access(place, os.W_OK, effective_ids=effective):
                message = f"This account may not write to '{place}'{why}."
                remedy = "Give the account that runs the tool write permission for the file and its folder."
                return Step("permission", False, message, remedy)
        return Step("permission", True, "The file and its folder can be written to.")

    # -- rows ------------------------------------------------------------------------------------------

    def _key(self, table: StagingTable) -> Iterator[Step]:
        if table.keyed_by_id:
            yield Step("key", True, "The column id tells all rows apart.")
        elif table.info.has("id"):
            message = "The column id is no number, is empty or repeats: rows are told apart by person_id."
            yield Step("key", None, message, "Give each row its own id, as IDENTITY or a sequence does.")

    def _rows(self, table: StagingTable) -> Iterator[Step]:
        held: dict[str, int] = {}
        for count in table.status_counts():
            if count.status not in KNOWN_STATUSES:
                held[count.status] = held.get(count.status, 0) + count.rows
        for status, rows in sorted(held.items()):
            message = f"{rows} rows have the status '{status}', which no run sends."
            yield Step("status", None, message, "Leave it if they are held back on purpose.")
        if not held:
            yield Step("status", True, "Every submission_status is one that the tool knows.")
        sharing = len(table.same_person())
        if sharing:
            what = "rows share a person_id" if table.keyed_by_id else "people have several rows"
            message = f"{sharing} {what}: none of those rows is sent."
            yield Step("person", None, message, "Keep one row for each person.")
        else:
            yield Step("person", True, "No person_id is in more than one row.")

    # -- the tables beside it --------------------------------------------------------------------------

    def _side_tables(self) -> Iterator[Step]:
        for hop, table in _SIDE_TABLES.items():
            beside = table.name(self.name)
            info = schema.describe(self.db, beside)
            if info is None:
                message = f"There is no table {beside}; full mode works without it, partial mode does not."
                sql = tuple(table.create(self.dialect, self.name))
                yield Step(hop, None, message, "init-db makes it, with this SQL.", sql)
            elif not info.columns:
                message = f"This login may not read the table {info.full_name}."
                sql = self._grant(beside, list(REMEMBERED_PRIVILEGES))
                yield Step("permission", False, message, _BY_HAND, sql)
            else:
                yield from self._of_side_table(hop, table, beside, info)

    def _of_side_table(
        self, hop: str, table: RememberedTable, name: TableName, info: TableInfo
    ) -> Iterator[Step]:
        missing = [spec for spec in table.columns if not info.has(spec.name)]
        if any(spec.name in table.key for spec in missing):
            named = ", ".join(spec.name for spec in missing)
            message = f"{info.full_name} is not the tool's table: it has no column {named}."
            remedy = "Give that table another name, then let init-db make the one that is needed."
            yield Step(hop, False, message, remedy)
            return
        faults = [
            Step(
                hop,
                False,
                f"The column {spec.name} of {info.full_name} is missing.",
                _BY_HAND,
                schema_repair.add_column(self.dialect, name, spec),
            )
            for spec in missing
        ]
        faults += [
            Step(hop, step.ok, f"{info.full_name}: {step.message}", step.remedy, step.sql)
            for step in self._types(name, info, table.columns)
        ]
        faults += self._permissions(name, info, REMEMBERED_PRIVILEGES)
        yield from faults
        if any(step.ok is False for step in faults):
            return
        if self._repeats(name, table.key):
            message = f"In {info.full_name} {' and '.join(table.key)} repeat, so lines cannot be told apart."
            remedy = "Give that table another name, then let init-db make a new one."
            yield Step(hop, False, message, remedy)
        else:
            yield Step(hop, True, f"{info.full_name} is there and has what the tool needs.")

    def _repeats(self, name: TableName, key: Sequence[str]) -> bool:
        """Whether lines share what should name them; the table may have lost its primary key."""
        columns = ", ".join(f"t.{column}" for column in key)
        groups = (
            f"SELECT {columns} FROM {self.dialect.table(name)} AS t GROUP BY {columns} HAVING COUNT(*) > 1"
        )
        return bool(self.db.query(f"SELECT COUNT(*) FROM ({groups}) AS d")[0][0])

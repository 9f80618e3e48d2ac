"""``test-schema`` on the source: can ``stage`` read the SSD's tables, and what would make that better?

Looks at tables, columns, types, the right to read them, indexes and snapshot isolation (ssd, section 1;
interface, "Commands"). Writes nothing. Where nothing speaks for a use of ``stage``, one line says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from api_pipeline import schema, schema_repair, source_catalogue, ssd_schema
from api_pipeline.check_result import Step
from api_pipeline.config import Settings
from api_pipeline.db import Database
from api_pipeline.dialects import SQL_SERVER
from api_pipeline.errors import ConnectionLostError, DatabaseError
from api_pipeline.names import TableName
from api_pipeline.schema import TableInfo
from api_pipeline.source_access import connect_source, source_is_meant
from api_pipeline.source_catalogue import Fit
from api_pipeline.ssd_schema import FoundTable
from api_pipeline.ssd_tables import SOURCE_TABLES, Kind, SourceTable

_COHORT_COLUMN = "person_id"
_WORKER_COLUMN = "prof_social_worker_registration_no"
_NEEDED = {
    Kind.ID: "text (NVARCHAR)",
    Kind.TEXT: "text (NVARCHAR)",
    Kind.MOMENT: "a date or a time (DATETIME)",
    Kind.VALUE: "a number or text",
}
_PERMISSION = "source permission"
_BY_HAND = "Run the statement below, or have it run by whoever looks after the SSD."
_COMPLETE = (
    "Have the SSD's own script make it; or, if the case system has nothing of the kind, run the statement "
    "below, and it stays empty."
)


def source_steps(settings: Settings) -> Iterator[Step]:
    """Check the source, where ``stage`` is meant to be used, over a connection of its own.

    Raises:
        ConfigError: if a connection string cannot be read, or for SSD_SCHEMA in SQLite.
    """
    try:
        database = connect_source(settings)
    except DatabaseError as error:
        yield _of_error(error, connected=False)
        return
    with database:
        yield from _Inspection(database, settings).steps()


def _of_error(error: DatabaseError, *, connected: bool) -> Step:
    step = Step.of_error(error, connected=connected)
    return Step(f"source {step.hop}", step.ok, step.message, step.remedy, code=step.code)


class _Inspection:
    """The look at one source; each method yields the steps of one matter."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db = db
        self.dialect = db.dialect
        self.settings = settings
        self.schema = ssd_schema.schema_for(db.dialect, settings.ssd_schema)

    def steps(self) -> Iterator[Step]:
        """Yield all steps; what a fault keeps from being looked at is left out."""
        try:
            yield from self._of_tables()
            if self.settings.cohort_table is not None:
                yield from self._cohort_table(self.settings.cohort_table)
        except DatabaseError as error:
            yield _of_error(error, connected=True)

    def _of_tables(self) -> Iterator[Step]:
        found = ssd_schema.survey(self.db, self.schema, self.settings.worker_id_column).found
        infos = {table: self._describe(table, found) for table in SOURCE_TABLES}
        if not any(infos.values()):
            yield self._nothing_there()
            return
        faults = [step for table, info in infos.items() for step in self._faults(table, info, found)]
        forbidden = sum(step.hop == _PERMISSION for step in faults)
        if not source_is_meant(self.settings) and forbidden == sum(map(bool, infos.values())):
            yield self._not_looked_at("this login may read none of the SSD's tables")
            return
        if not faults:
            yield Step("source table", True, f"All {len(found)} tables of the SSD are there and can be read.")
        yield from faults
        yield from self._people()
        yield from self._types(found)
        yield from self._indexes(
            {table: info for table, info in infos.items() if info is not None and table.name in found}
        )
        if self.dialect is SQL_SERVER:
            yield self._snapshot()

    def _describe(self, table: SourceTable, found: Mapping[str, FoundTable]) -> TableInfo | None:
        known = found.get(table.name)
        return schema.describe(self.db, self._name(table) if known is None else known.name)

    def _name(self, table: SourceTable) -> TableName:
        return ssd_schema.table_name(self.schema, table.name)

    def _nothing_there(self) -> Step:
        if not source_is_meant(self.settings):
            return self._not_looked_at("none of the SSD's tables is here")
        where = f" in the schema {self.schema.text}" if self.schema else ""
        message = (
            f"None of the {len(SOURCE_TABLES)} tables of the SSD is there{where} in this "
            f"{self.dialect.title} database, or this login cannot see them."
        )
        return Step("source table", False, message, "Check SSD_SCHEMA and SSD_CONNECTION_STRING.")

    def _not_looked_at(self, why: str) -> Step:
        return Step("source", True, f"Not looked at: no setting of stage is given, and {why}.")

    # -- tables, columns, permissions --------------------------------------------------------------------

    def _faults(
        self, table: SourceTable, info: TableInfo | None, found: Mapping[str, FoundTable]
    ) -> Iterator[Step]:
        """Yield what keeps a table from being read."""
        name = self._name(table)
        if info is None:
            message = f"There is no table {name}, or this login cannot see it."
            sql = source_catalogue.create_table(self.dialect, name, table)
            yield Step("source table", False, message, _COMPLETE, (sql,))
            return
        if not info.columns:
            yield self._unreadable(name, info)
            return
        present = found[table.name].columns
        for column in table.columns:
            if column not in present:
                yield self._no_column(table, info, column)
        yield from self._permission(name, info, [column.name for column in present.values()])

    def _no_column(self, table: SourceTable, info: TableInfo, column: str) -> Step:
        worker = self.settings.worker_id_column
        if column == _WORKER_COLUMN and worker is not None:
            message = f"{info.full_name} has no column {worker.text} that this login can see."
            remedy = f"WORKER_ID_COLUMN has to name a column of {table.name}."
            return Step("source column", False, message, remedy)
        sql = source_catalogue.add_column(self.dialect, self._name(table), table, column)
        message = f"{info.full_name} has no column {column} that this login can see."
        return Step("source column", False, message, _COMPLETE, (sql,))

    def _permission(self, name: TableName, info: TableInfo, columns: Sequence[str]) -> Iterator[Step]:
        if schema_repair.missing_privileges(self.db, name, info, {"SELECT": tuple(columns)}):
            yield self._unreadable(name, info)

    def _unreadable(self, name: TableName, info: TableInfo) -> Step:
        sql = schema_repair.grant(self.dialect, name, ["SELECT"], schema_repair.user(self.db))
        message = f"This login may not SELECT in {info.full_name}."
        return Step(_PERMISSION, False, message, _BY_HAND, sql)

    def _people(self) -> Iterator[Step]:
        """Say where ``stage`` would refuse the staging table (interface, "Settings", last paragraph)."""
        fake, table = ssd_schema.is_fake(self.db, self.schema), self.settings.table
        if fake != table.is_anon:
            whose, others = ("fake", "real") if fake else ("real", "fake")
            message = f"The SSD tables hold {whose} people and {table} is for {others} ones: stage refuses."
            yield Step("source people", None, message, "Check TABLE_NAME, SSD_SCHEMA, SSD_CONNECTION_STRING.")

    # -- types -----------------------------------------------------------------------------------------

    def _types(self, found: Mapping[str, FoundTable]) -> Iterator[Step]:
        converted: dict[bool, list[str]] = {True: [], False: []}
        for there in found.values():
            for column, spec in there.table.columns.items():
                if column not in there.columns:
                    continue
                real = there.columns[column]
                fit = source_catalogue.fit(self.dialect, spec.kind, real.type)
                if fit is Fit.UNREADABLE:
                    table = (
                        f"{there.name.schema.text}.{there.table.name}" if there.name.schema else there.name
                    )
                    message = (
                        f"The column {real.name} of {table} is {real.type}; "
                        f"it has to be {_NEEDED[spec.kind]}."
                    )
                    yield Step("source type", False, message, "Have the SSD's own script make it anew.")
                elif fit is Fit.CONVERTED:
                    named = f"{there.table.name}.{real.name} ({real.type})"
                    converted[spec.kind is Kind.MOMENT].append(named)
        if converted[True]:
            message = f"{_counted(converted[True], 'date column')} of another type than DATETIME: "
            remedy = (
                "People with a text there that is no date are left as they are; validate --source names them."
            )
            yield Step("source type", None, message + ", ".join(converted[True]) + ".", remedy)
        if converted[False]:
            message = f"{_counted(converted[False], 'text column')} of another type: "
            remedy = (
                "They are read as the text that they show; an id has to look the same wherever it stands."
            )
            yield Step("source type", None, message + ", ".join(converted[False]) + ".", remedy)

    # -- the table that narrows the cohort ---------------------------------------------------------------

    def _cohort_table(self, name: TableName) -> Iterator[Step]:
        info = schema.describe(self.db, name)
        if info is None:
            message = f"There is no table {name}, or this login cannot see it."
            remedy = "COHORT_TABLE has to name a table in the database of the SSD."
            yield Step("cohort table", False, message, remedy)
        elif not info.columns:
            yield self._unreadable(name, info)
        elif not info.has(_COHORT_COLUMN):
            message = f"The table {info.full_name} has no column {_COHORT_COLUMN}."
            remedy = "COHORT_TABLE has to have one, with the ids of ssd_person."
            yield Step("cohort table", False, message, remedy)
        else:
            faults = list(self._permission(name, info, [_COHORT_COLUMN]))
            found = info.columns[_COHORT_COLUMN].type
            if source_catalogue.fit(self.dialect, Kind.ID, found) is Fit.UNREADABLE:
                message = f"The column {_COHORT_COLUMN} of {info.full_name} is {found}, which is no id."
                faults.append(Step("cohort table", False, message, f"It has to be {_NEEDED[Kind.ID]}."))
            yield from faults or [Step("cohort table", True, f"{info.full_name} narrows the cohort.")]

    # -- advice ----------------------------------------------------------------------------------------

    def _indexes(self, there: Mapping[SourceTable, TableInfo]) -> Iterator[Step]:
        sql: list[str] = []
        without: list[str] = []
        unlimited: list[str] = []
        # A view is read by the indexes of its tables.
        tables = {table: info for table, info in there.items() if source_catalogue.is_table(self.db, info)}
        leading = source_catalogue.leading_columns(self.db, [self._name(table) for table in tables])
        for table, info in tables.items():
            for name in dict.fromkeys(route.column for route in table.routes):
                column = info.columns.get(name)
                if column is None or name in leading[table.name]:
                    continue
                if source_catalogue.can_be_indexed(self.dialect, column):
                    without.append(f"{table.name}.{name}")
                    sql.append(source_catalogue.create_index(self.dialect, self._name(table), name))
                else:
                    unlimited.append(f"{table.name}.{name} ({column.type})")
        if without:
            message = f"{_counted(without, 'join column')} without an index: {', '.join(without)}."
            remedy = "stage works without, but reads the whole table for each page of people."
            yield Step("source index", None, message, remedy, tuple(sql))
        if unlimited:
            message = f"{_counted(unlimited, 'join column')} cannot have an index: {', '.join(unlimited)}."
            yield Step("source index", None, message, "As NVARCHAR(48) they could have one.")
        if not without and not unlimited:
            yield Step("source index", True, "Every join column has an index.")

    def _snapshot(self) -> Step:
        try:
            allowed = source_catalogue.allows_snapshots(self.db)
        except ConnectionLostError:
            raise
        except DatabaseError as error:
            message = f"Whether snapshot isolation is on cannot be seen: {error.message}"
            return Step("source snapshot", None, message)
        if allowed:
            return Step("source snapshot", True, "The source can be read as of one moment.")
        message = (
            "Snapshot isolation is off, so stage holds locks on what it has read until it ends, and may see "
            "a change that is made meanwhile in part."
        )
        sql = "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON;"
        return Step("source snapshot", None, message, _BY_HAND, (sql,))


def _counted(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}" + ("" if len(names) == 1 else "s")

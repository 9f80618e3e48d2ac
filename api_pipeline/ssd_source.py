"""Reading the Standard Safeguarding Dataset (SSD): page by page of people, with all rows that belong to them.

Carries out ssd, section 1. The server says where a page ends, so that its own order of the ids holds; every
table is then read for the whole page at once, along the routes of ``ssd_tables.SOURCE_TABLES``. What
the server calls equal (letter case, trailing blanks) may bring rows that belong to nobody on the page:
:class:`~api_pipeline.ssd_tables.SourcePage` groups exactly. Only plain SELECTs, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from api_pipeline import schema as catalogue
from api_pipeline import ssd_schema
from api_pipeline.config import Settings
from api_pipeline.db import Database
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE
from api_pipeline.errors import DatabaseError
from api_pipeline.names import NamePart, TableName
from api_pipeline.ssd_schema import FoundColumn, FoundTable
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    ByParent,
    ByPerson,
    Person,
    Professional,
    Route,
    SourcePage,
    SourceTable,
)
from api_pipeline.ssd_values import UNREADABLE, Converter, as_text, converter

PEOPLE_PER_PAGE = 2_000  # with all their rows some 15 MB, and two pages at a time
_IDS_AT_ONCE = 20_000  # where nothing but ids is read
_LISTED_AT_ONCE = 400  # ids bound one by one, up to four times in a statement: SQL Server takes 2,100

_BY_ROW: Mapping[type[Any], SourceTable] = {table.row: table for table in SOURCE_TABLES}
_PERSON = _BY_ROW[Person]
_ID = "pers_person_id"
_PG_TEXTS = ("character varying", "text")


@dataclass(frozen=True)
class SourceOptions:
    """Where the source lies and what differs in it (settings SSD_SCHEMA, WORKER_ID_COLUMN, COHORT_TABLE)."""

    schema: NamePart | None = None
    worker_id_column: NamePart | None = None
    cohort_table: TableName | None = None

    @classmethod
    def of(cls, settings: Settings) -> SourceOptions:
        """Return what the settings say."""
        return cls(settings.ssd_schema, settings.worker_id_column, settings.cohort_table)


@dataclass(frozen=True)
class PeoplePage:
    """Some people and all rows that belong to them.

    ``unreadable`` names those of them with a date, in any row of theirs, that cannot be read: person id as it
    stands -> table.column. Such a date is None in the rows.
    """

    people: list[Person]
    page: SourcePage
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Condition:
    """A condition on the rows of one table, and the values of its placeholders."""

    text: str
    params: list[Any]


@dataclass(frozen=True)
class _Range:
    """The people after one id, up to another, in the server's order; None for no limit."""

    after: Any = None
    upto: Any = None


@dataclass(frozen=True)
class _Listed:
    """The people with these ids."""

    ids: list[str]


_Part = _Range | _Listed


@dataclass(frozen=True)
class _Read:
    """What has been read of one page: rows by table and number of the route, dates that are none, and ids."""

    part: _Part
    rows: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    spoilt: list[tuple[SourceTable, Any, str]] = field(default_factory=list)
    arrays: dict[Any, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ids:
    nameless: int
    shared: frozenset[str]


class SsdSource:
    """The source tables of one database. Tables are looked up once, when something is first asked.

    Read inside ``db.transaction(consistent=True)`` wherever what is read has to fit together.
    """

    def __init__(self, db: Database, options: SourceOptions) -> None:
        self._db = db
        self._options = options

    # -- what there is

    def require(self) -> None:
        """Make sure that everything that will be read exists.

        Raises:
            ConfigError: for a schema in SQLite.
            DatabaseError: naming the first table, or the columns of it, that are missing.
        """
        _ = self._tables, self._cohort

    @cached_property
    def is_fake(self) -> bool:
        """Whether the people in these tables are made up (:func:`ssd_schema.is_fake`)."""
        return ssd_schema.is_fake(self._db, self._options.schema)

    @property
    def is_there(self) -> bool:
        """Whether any table of the source is to be seen."""
        return bool(self._survey.found)

    @cached_property
    def _survey(self) -> ssd_schema.Survey:
        return ssd_schema.survey(self._db, self._options.schema, self._options.worker_id_column)

    @cached_property
    def _tables(self) -> Mapping[str, FoundTable]:
        if self._survey.missing:
            raise self._survey.missing[0].error()
        return self._survey.found

    @cached_property
    def _cohort(self) -> TableName | None:
        name = self._options.cohort_table
        if name is None:
            return None
        info = catalogue.describe(self._db, name)
        if info is None or not info.has("person_id"):
            what = f"The table {name} has no column person_id." if info else f"There is no table {name}."
            raise DatabaseError(
                what,
                hop="column" if info else "table",
                remedy="Check COHORT_TABLE: it must lie in the database of the SSD tables.",
            )
        return TableName(NamePart(info.schema, exact=True), NamePart(info.table, exact=True))

    # -- questions about all people

    def professionals(self) -> dict[str, list[str]]:
        """Return professional id -> the worker ids under it that are not blank, in order of their text."""
        found: dict[str, list[str]] = {}
        rows, _ = self._rows(_BY_ROW[Professional], _Condition("1 = 1", []))
        for professional_id, worker_id in rows:
            if professional_id is not None and worker_id is not None and worker_id.strip():
                found.setdefault(professional_id, []).append(worker_id)
        for worker_ids in found.values():
            worker_ids.sort()
        return found

    def listed_ids(self) -> frozenset[str] | None:
        """Return the trimmed ids in COHORT_TABLE; None where none is set, and everybody is listed."""
        if self._cohort is None:
            return None
        rows = self._db.query(f"SELECT person_id FROM {self._db.dialect.table(self._cohort)}")
        texts = (as_text(row[0]) for row in rows)
        return frozenset(text.strip() for text in texts if text is not None and text.strip())

    def shared_ids(self) -> frozenset[str]:
        """Return the trimmed ids that two or more rows of ``ssd_person`` carry."""
        return self._ids.shared

    def nameless(self) -> int:
        """Return how many rows of ``ssd_person`` have no id, or a blank one."""
        return self._ids.nameless

    def count(self) -> int:
        """Return how many rows ``ssd_person`` has."""
        return int(self._db.query(f"SELECT COUNT(*) FROM {self._table(_PERSON)}")[0][0])

    @cached_property
    def _ids(self) -> _Ids:
        """What only a look at every id can tell, because the server trims otherwise than this project."""
        # Numbers in place of the texts, for a tenth of the memory; the few that are met twice are looked at.
        seen: Counter[int] = Counter()
        nameless = 0
        for raw in self._all_ids():
            text = raw.strip()
            nameless += not text
            seen[hash(text)] += bool(text)
        suspects = {number for number, count in seen.items() if count > 1}
        seen.clear()
        texts = Counter(text for text in map(str.strip, self._all_ids()) if hash(text) in suspects)
        shared = frozenset(text for text, count in texts.items() if text and count > 1)
        column = self._id(_PERSON, _ID)
        unknown = self._db.query(f"SELECT COUNT(*) FROM {self._table(_PERSON)} WHERE {column} IS NULL")
        return _Ids(nameless + int(unknown[0][0]), shared)

    def _all_ids(self) -> Iterator[str]:
        for part in self._ranges(_IDS_AT_ONCE):
            condition = self._people(_PERSON, _ID, part)
            yield from (as_text(row[0]) or "" for row in self._select(_PERSON, [_ID], condition))

    # -- pages

    def pages(self, persons: Sequence[str] = (), size: int = PEOPLE_PER_PAGE) -> Iterator[PeoplePage]:
        """Yield all people with an id, ``size`` or a few more at a time; or only ``persons``.

        ``persons`` are compared trimmed. People without an id are on no page, nor is a page without people.

        Raises:
            DatabaseError: if something is missing; a transient one for a passing fault.
        """
        self.require()
        for part in self._named(persons, size) if persons else self._ranges(size):
            read = _Read(part)
            if self._along(_PERSON, 0, read):  # whoever has no people needs no rows
                page = self._page(read)
                if page.people:
                    yield page

    def _named(self, persons: Sequence[str], size: int) -> Iterator[_Part]:
        wanted = {person.strip() for person in persons}
        ids = sorted({raw for raw in self._all_ids() if raw.strip() in wanted})
        step = min(size, _LISTED_AT_ONCE)
        for start in range(0, len(ids), step):
            yield _Listed(ids[start : start + step])

    def _ranges(self, size: int) -> Iterator[_Range]:
        """Yield parts of ``size`` people, or a few more where the server calls the last ids equal."""
        column = self._id(_PERSON, _ID)
        skip = f"OFFSET {size - 1} ROWS FETCH NEXT 1 ROWS ONLY"
        if self._db.dialect is SQLITE:
            skip = f"LIMIT 1 OFFSET {size - 1}"
        part: _Range | None = _Range()
        while part is not None:
            rest = self._people(_PERSON, _ID, part)
            sql = f"SELECT {column} FROM {self._table(_PERSON)} WHERE {rest.text} ORDER BY {column} {skip}"
            last = self._db.query(sql, rest.params)
            yield _Range(part.after, last[0][0] if last else None)
            part = _Range(last[0][0]) if last else None

    def _page(self, read: _Read) -> PeoplePage:
        page = SourcePage(
            {
                table.row: [
                    row for number in range(len(table.routes)) for row in self._along(table, number, read)
                ]
                for table in SOURCE_TABLES
            }
        )
        people = [row for row in page.rows(Person) if row.pers_person_id and row.pers_person_id.strip()]
        if isinstance(read.part, _Listed):  # the server may call more ids equal than these
            people = [row for row in people if row.pers_person_id in read.part.ids]
        present = {person.pers_person_id for person in people}
        unreadable: dict[str, str] = {}
        for table, row, column in read.spoilt:
            for person_id in _people_of(page, table, row) & present:
                unreadable.setdefault(person_id, f"{table.name}.{column}")
        return PeoplePage(people, page, unreadable)

    def _along(self, table: SourceTable, number: int, read: _Read) -> list[Any]:
        """Return the rows that a route leads to, but for those that :func:`_before` leads to."""
        rows = read.rows.get((table.name, number))
        if rows is None:
            route = table.routes[number]
            condition = self._route(table, route, read)
            for other in _before(table, route):
                taken = self._route(table, other, read)
                column = self._id(table, other.column)
                # NOT of a comparison with NULL is not true either.
                text = f"{condition.text} AND ({column} IS NULL OR NOT ({taken.text}))"
                condition = _Condition(text, condition.params + taken.params)
            rows, bad = self._rows(table, condition)
            read.rows[table.name, number] = rows
            read.spoilt.extend((table, rows[index], name) for index, name in bad)
        return rows

    # -- statements

    def _rows(self, table: SourceTable, condition: _Condition) -> tuple[list[Any], list[tuple[int, str]]]:
        """Return the rows as row-class tuples, and the row number and column of what cannot be read."""
        found = self._tables[table.name]
        columns: Sequence[str] = table.row._fields
        raw = self._select(table, columns, condition)
        converters = self._converters[table.name]
        make = partial(tuple.__new__, table.row)  # half the time of _make, which is worth it for all rows
        if not raw or not converters:
            return list(map(make, raw)), []
        cells = list(zip(*raw, strict=True))
        bad: list[tuple[int, str]] = []
        for index, convert in converters.items():
            cells[index] = tuple(map(convert, cells[index]))
            if UNREADABLE in cells[index]:
                name = found.columns[columns[index]].name
                bad += [(number, name) for number, cell in enumerate(cells[index]) if cell is UNREADABLE]
                cells[index] = tuple(None if cell is UNREADABLE else cell for cell in cells[index])
        return list(map(make, zip(*cells, strict=True))), bad

    @cached_property
    def _converters(self) -> Mapping[str, Mapping[int, Converter]]:
        plans: dict[str, dict[int, Converter]] = {}
        for name, found in self._tables.items():
            specs = enumerate(found.table.columns.items())
            plan = {
                index: converter(self._db.dialect, spec.kind, found.columns[column].type)
                for index, (column, spec) in specs
            }
            plans[name] = {index: convert for index, convert in plan.items() if convert is not None}
        return plans

    def _select(self, table: SourceTable, columns: Sequence[str], condition: _Condition) -> Sequence[Any]:
        found = self._tables[table.name].columns
        wanted = ", ".join(self._selected(found[column]) for column in columns)
        return self._db.query(
            f"SELECT {wanted} FROM {self._table(table)} WHERE {condition.text}", condition.params
        )

    def _selected(self, column: FoundColumn) -> str:
        name = self._quoted(column)
        # pyodbc cannot read this type.
        return f"CAST({name} AS DATETIME2(7))" if column.type == "datetimeoffset" else name

    def _table(self, table: SourceTable) -> str:
        return self._db.dialect.table(self._tables[table.name].name)

    def _quoted(self, column: FoundColumn) -> str:
        return self._db.dialect.quote(NamePart(column.name, exact=True))

    def _id(self, table: SourceTable, column: str) -> str:
        """Return a column of ids as it is compared and ordered."""
        name = self._quoted(self._tables[table.name].columns[column])
        return f"{name} COLLATE BINARY" if self._db.dialect is SQLITE else name

    def _mark(self, table: SourceTable, column: str) -> str:
        """Return a placeholder for a value of a column of ids, of the column's own type."""
        type_ = self._tables[table.name].columns[column].type
        if self._db.dialect is SQL_SERVER and type_ in ("varchar", "char"):
            # A parameter is NVARCHAR, and would be compared in another order than the one of the column.
            return "CAST(? AS VARCHAR(450))"
        if self._db.dialect is POSTGRESQL and type_ not in _PG_TEXTS:
            return f"CAST(? AS {type_})"
        return "?"

    def _route(self, table: SourceTable, route: Route, read: _Read) -> _Condition:
        if isinstance(route, ByPerson):
            if self._alike(table, route.column, _PERSON, _ID):
                return self._people(table, route.column, read.part)
            return self._among(table, route.column, _PERSON, _ID, [self._people(_PERSON, _ID, read.part)])
        parent = _BY_ROW[route.parent]
        if self._db.dialect is POSTGRESQL:
            return self._given(table, route, read)
        conditions = [self._route(parent, parent.routes[number], read) for number in route.parent_routes]
        return self._among(table, route.column, parent, route.parent_column, conditions)

    def _given(self, table: SourceTable, route: ByParent, read: _Read) -> _Condition:
        """Return the condition that a column is one of the parents' ids, bound as one value.

        PostgreSQL would read the parents again for each of their children, and takes this to be cheaper.
        """
        name = self._id(table, route.column)
        padded = self._tables[table.name].columns[route.column].type not in _PG_TEXTS
        if padded:
            name = f"CAST({name} AS TEXT)"  # which takes the blanks off a CHAR
        key = (route.parent, route.parent_column, route.parent_routes, padded)
        array = read.arrays.get(key)
        if array is None:
            parent = _BY_ROW[route.parent]
            index = parent.row._fields.index(route.parent_column)
            rows = (row for number in route.parent_routes for row in self._along(parent, number, read))
            ids = {row[index] for row in rows} - {None}
            array = _pg_array(ids | {text.rstrip(" ") for text in ids} if padded else ids)
            read.arrays[key] = array
        return _Condition(f"{name} IN (SELECT UNNEST(CAST(? AS TEXT[])))", [array])

    def _people(self, table: SourceTable, column: str, part: _Part) -> _Condition:
        name, mark = self._id(table, column), self._mark(table, column)
        if isinstance(part, _Listed):
            return _Condition(f"{name} IN ({', '.join([mark] * len(part.ids))})", list(part.ids))
        bounds = [(">", part.after), ("<=", part.upto)]
        texts = [f"{name} {sign} {mark}" for sign, bound in bounds if bound is not None]
        text = " AND ".join(texts) or f"{name} IS NOT NULL"
        return _Condition(text, [bound for _, bound in bounds if bound is not None])

    def _among(
        self,
        table: SourceTable,
        column: str,
        parent: SourceTable,
        parent_column: str,
        conditions: list[_Condition],
    ) -> _Condition:
        left, right = self._id(table, column), self._id(parent, parent_column)
        if not self._alike(table, column, parent, parent_column):
            left, right = self._comparable(left), self._comparable(right)
        # NULLs in the list would make NOT IN true of nothing.
        known = f"{self._id(parent, parent_column)} IS NOT NULL"
        selects = [
            f"SELECT {right} FROM {self._table(parent)} WHERE {condition.text} AND {known}"
            for condition in conditions
        ]
        params = [param for condition in conditions for param in condition.params]
        return _Condition(f"{left} IN ({' UNION ALL '.join(selects)})", params)

    def _alike(self, table: SourceTable, column: str, other: SourceTable, other_column: str) -> bool:
        """Whether two columns of ids have one type and one collation, and so one order and one equality."""
        one = self._tables[table.name].columns[column]
        two = self._tables[other.name].columns[other_column]
        return (one.type, one.collation) == (two.type, two.collation)

    def _comparable(self, expression: str) -> str:
        if self._db.dialect is SQL_SERVER:
            return self._db.dialect.comparable(expression)
        if self._db.dialect is POSTGRESQL:
            return f'CAST({expression} AS TEXT) COLLATE "C"'
        return f"CAST({expression} AS TEXT)"


def _pg_array(texts: Collection[str]) -> str:
    """Return texts as PostgreSQL reads an array."""
    joined = "\x00".join(texts)
    if not joined:
        return "{}" if not texts else '{""}'
    joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + joined.replace("\x00", '","') + '"}'  # no text holds that character there


def _before(table: SourceTable, route: Route) -> list[ByPerson]:
    """Return the routes whose rows are not read again along this one: what leads straight to a person."""
    return [other for other in table.routes if isinstance(other, ByPerson) and other is not route]


def _people_of(page: SourcePage, table: SourceTable, row: Any) -> set[str]:
    """Return the ids of the people that a row belongs to, by any route."""
    return {person_id for route in table.routes for person_id in _people_along(page, route, row)}


def _people_along(page: SourcePage, route: Route, row: Any) -> set[str]:
    value = getattr(row, route.column)
    if value is None:
        return set()
    if isinstance(route, ByPerson):
        return {value}
    routes = _BY_ROW[route.parent].routes
    return {
        person_id
        for parent in page.by(route.parent, route.parent_column).get(value, ())
        for number in route.parent_routes
        for person_id in _people_along(page, routes[number], parent)
    }

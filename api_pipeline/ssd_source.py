"""Reading the Standard Safeguarding Dataset (SSD): page by page of people, with all rows that belong to them.

Carries out ssd, section 1. The server says where a page ends, so that its own order of the ids holds; every
table is then read for the whole page at once, along the routes of ``ssd_tables.SOURCE_TABLES``. What
the server calls equal (letter case, trailing blanks) may bring rows that belong to nobody on the page:
:class:`~api_pipeline.ssd_tables.SourcePage` groups exactly. Only plain SELECTs, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from api_pipeline import schema as catalogue
from api_pipeline import ssd_schema
from api_pipeline.config import Settings
from api_pipeline.db import Database
from api_pipeline.dialects import POSTGRESQL
from api_pipeline.errors import DatabaseError
from api_pipeline.id_set import IdSet
from api_pipeline.names import NamePart, TableName
from api_pipeline.ssd_sql import PERSON, PERSON_ID, Condition, Listed, Range, SourceSql, array_of
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
from api_pipeline.ssd_values import UNREADABLE, as_text

PEOPLE_PER_PAGE = 1_500  # with all their rows some 12 MB, in each of two processes
_IDS_AT_ONCE = 20_000  # where nothing but ids is read
_LISTED_AT_ONCE = 400  # ids bound one by one, up to four times in a statement: SQL Server takes 2,100

_BY_ROW: Mapping[type[Any], SourceTable] = {table.row: table for table in SOURCE_TABLES}


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

    Attributes:
        rows: row class -> the rows, each a sequence of the columns of its class, in their kinds.
        unreadable: those of the people with a date, in any row of theirs, that cannot be read: person id as
            it stands -> table.column. Such a date is None in the rows.
        asked_for: the only ids that count, where some were asked for: the server may call more ids equal.
    """

    rows: Mapping[type[Any], list[Any]]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    asked_for: frozenset[str] | None = None

    @cached_property
    def people(self) -> list[Person]:
        """The people who have an id."""
        people: list[Person] = _typed(Person, self.rows.get(Person, ()))
        return [
            person
            for person in people
            if person.pers_person_id
            and person.pers_person_id.strip()
            and (self.asked_for is None or person.pers_person_id in self.asked_for)
        ]

    @cached_property
    def page(self) -> SourcePage:
        """The rows, to be asked for by what joins them; made when it is first wanted."""
        return SourcePage({row: _typed(row, found) for row, found in self.rows.items()})


@dataclass(frozen=True)
class _Read:
    """What has been read of one page: rows by table and number of the route, dates that are none, and ids."""

    part: Range | Listed
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

    Args:
        db: the database.
        options: where the tables lie in it.
        since: the start of the window. What was over before may be left unread, or may come: it makes no
            difference to the cohort and the payloads of this window or a later one. None for everything.
    """

    def __init__(self, db: Database, options: SourceOptions, *, since: datetime | None = None) -> None:
        self._db = db
        self._options = options
        self._since = since

    # -- what there is

    def require(self) -> None:
        """Make sure that everything that will be read exists.

        Raises:
            ConfigError: for a schema in SQLite.
            DatabaseError: naming the first table, or the columns of it, that are missing.
        """
        _ = self._sql, self._cohort

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
    def _sql(self) -> SourceSql:
        if self._survey.missing:
            raise self._survey.missing[0].error()
        return SourceSql(self._db.dialect, self._survey.found, self._since)

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
        rows, _ = self._rows(_BY_ROW[Professional], Condition("1 = 1", []))
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
        return int(self._db.query(f"SELECT COUNT(*) FROM {self._sql.name(PERSON)}")[0][0])

    @cached_property
    def _ids(self) -> _Ids:
        """What only a look at every id can tell, because the server trims otherwise than this project."""
        # Numbers in place of the texts, for a tenth of the memory; the few that are met twice are looked at.
        seen = IdSet()
        nameless = 0
        for raw in self._all_ids():
            text = raw.strip()
            if text:
                seen.add(text)
            else:
                nameless += 1
        suspects = seen.repeated()
        texts = Counter(text for text in map(str.strip, self._all_ids()) if hash(text) in suspects)
        shared = frozenset(text for text, count in texts.items() if text and count > 1)
        column = self._sql.id(PERSON, PERSON_ID)
        unknown = self._db.query(f"SELECT COUNT(*) FROM {self._sql.name(PERSON)} WHERE {column} IS NULL")
        return _Ids(nameless + int(unknown[0][0]), shared)

    def _all_ids(self) -> Iterator[str]:
        for part in self._ranges(_IDS_AT_ONCE):
            condition = self._sql.people(PERSON, PERSON_ID, part)
            yield from (as_text(row[0]) or "" for row in self._select(PERSON, [PERSON_ID], condition))

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
            if self._along(PERSON, 0, read):  # whoever has no people needs no rows
                page = self._page(read)
                if page.people:
                    yield page

    def _named(self, persons: Sequence[str], size: int) -> Iterator[Range | Listed]:
        wanted = {person.strip() for person in persons}
        ids = sorted({raw for raw in self._all_ids() if raw.strip() in wanted})
        step = min(size, _LISTED_AT_ONCE)
        for start in range(0, len(ids), step):
            yield Listed(ids[start : start + step])

    def _ranges(self, size: int) -> Iterator[Range]:
        """Yield parts of ``size`` people, or a few more where the server calls the last ids equal."""
        part: Range | None = Range()
        while part is not None:
            rest = self._sql.people(PERSON, PERSON_ID, part)
            last = self._db.query(self._sql.id_after(rest, size), rest.params)
            yield Range(part.after, last[0][0] if last else None)
            part = Range(last[0][0]) if last else None

    def _page(self, read: _Read) -> PeoplePage:
        page = PeoplePage(
            {
                table.row: [
                    row for number in range(len(table.routes)) for row in self._along(table, number, read)
                ]
                for table in SOURCE_TABLES
            },
            asked_for=frozenset(read.part.ids) if isinstance(read.part, Listed) else None,
        )
        if not read.spoilt:
            return page
        present = {person.pers_person_id for person in page.people}
        unreadable: dict[str, str] = {}
        for table, raw, column in read.spoilt:
            (row,) = _typed(table.row, [raw])
            for person_id in _people_of(page.page, table, row) & present:
                unreadable.setdefault(person_id, f"{table.name}.{column}")
        return replace(page, unreadable=unreadable)

    def _along(self, table: SourceTable, number: int, read: _Read) -> list[Any]:
        """Return the rows that a route leads to, but for those that :func:`_before` leads to."""
        rows = read.rows.get((table.name, number))
        if rows is None:
            route = table.routes[number]
            condition = self._route(table, route, read)
            for other in _before(table, route):
                condition = self._sql.but(condition, table, other.column, self._route(table, other, read))
            rows, bad = self._rows(table, self._sql.narrowed(table, condition))
            read.rows[table.name, number] = rows
            read.spoilt.extend((table, rows[index], name) for index, name in bad)
        return rows

    # -- rows

    def _rows(self, table: SourceTable, condition: Condition) -> tuple[list[Any], list[tuple[int, str]]]:
        """Return the rows, cells in the row class's order, and number and column of what cannot be read."""
        columns: Sequence[str] = table.row._fields
        raw = self._select(table, columns, condition)
        converters = self._sql.converters[table.name]
        if not raw or not converters:
            return list(raw), []
        cells = list(zip(*raw, strict=True))
        bad: list[tuple[int, str]] = []
        for index, convert in converters.items():
            cells[index] = tuple(map(convert, cells[index]))
            if UNREADABLE in cells[index]:
                name = self._sql.found(table, columns[index]).name
                bad += [(number, name) for number, cell in enumerate(cells[index]) if cell is UNREADABLE]
                cells[index] = tuple(None if cell is UNREADABLE else cell for cell in cells[index])
        return list(zip(*cells, strict=True)), bad

    def _select(self, table: SourceTable, columns: Sequence[str], condition: Condition) -> Sequence[Any]:
        return self._db.query(self._sql.select(table, columns, condition), condition.params)

    def _route(self, table: SourceTable, route: Route, read: _Read) -> Condition:
        if isinstance(route, ByPerson):
            if self._sql.alike(table, route.column, PERSON, PERSON_ID):
                return self._sql.people(table, route.column, read.part)
            people = self._sql.people(PERSON, PERSON_ID, read.part)
            return self._sql.among(table, route.column, PERSON, PERSON_ID, [people])
        parent = _BY_ROW[route.parent]
        if self._db.dialect is POSTGRESQL:
            return self._given(table, route, read)
        conditions = [
            self._sql.narrowed(parent, self._route(parent, parent.routes[number], read))
            for number in route.parent_routes
        ]
        return self._sql.among(table, route.column, parent, route.parent_column, conditions)

    def _given(self, table: SourceTable, route: ByParent, read: _Read) -> Condition:
        """Return the condition that a column is one of the parents' ids, bound as one value.

        PostgreSQL would read the parents again for each of their children, and takes this to be cheaper.
        """
        padded = self._sql.is_padded(table, route.column)
        key = (route.parent, route.parent_column, route.parent_routes, padded)
        array = read.arrays.get(key)
        if array is None:
            parent = _BY_ROW[route.parent]
            index = parent.row._fields.index(route.parent_column)
            rows = (row for number in route.parent_routes for row in self._along(parent, number, read))
            ids = {row[index] for row in rows} - {None}
            array = array_of(ids | {text.rstrip(" ") for text in ids} if padded else ids)
            read.arrays[key] = array
        return self._sql.in_array(table, route.column, array)


def _typed(row: type[Any], found: Iterable[Any]) -> list[Any]:
    """Return rows as tuples of their class."""
    return list(map(partial(tuple.__new__, row), found))  # half the time of _make, and there are many


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

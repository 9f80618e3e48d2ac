"""The SQL by which the source tables are read, in terms of the tables and columns that were found.

Carries out ssd, section 1. Ids are compared and ordered as the server does it, whatever types and collations
a deployment gave the columns; only what differs between two of them is brought to one. Nothing here asks the
server.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import product
from typing import Any

from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.names import NamePart
from api_pipeline.ssd_schema import FoundColumn, FoundTable
from api_pipeline.ssd_tables import SOURCE_TABLES, Kind, Person, SourceTable
from api_pipeline.ssd_values import Converter, converter

PERSON = next(table for table in SOURCE_TABLES if table.row is Person)
PERSON_ID = "pers_person_id"
_PG_TEXTS = ("character varying", "text")


@dataclass(frozen=True)
class Condition:
    """A condition on the rows of one table, and the values of its placeholders."""

    text: str
    params: list[Any]


@dataclass(frozen=True)
class Range:
    """The people after one id, up to another, in the server's order; None for no limit."""

    after: Any = None
    upto: Any = None


@dataclass(frozen=True)
class Listed:
    """The people with these ids."""

    ids: list[str]


class SourceSql:
    """The statements for the tables of one database.

    Args:
        dialect: of the database.
        tables: the tables as they were found, by the names that the specification gives them.
        since: the start of the window, None to leave nothing out (:meth:`narrowed`).
    """

    def __init__(self, dialect: Dialect, tables: Mapping[str, FoundTable], since: datetime | None) -> None:
        self._dialect = dialect
        self._tables = tables
        self._since = since

    # -- columns

    def found(self, table: SourceTable, column: str) -> FoundColumn:
        """Return a column as it was found."""
        return self._tables[table.name].columns[column]

    @cached_property
    def converters(self) -> Mapping[str, Mapping[int, Converter]]:
        """Table -> place of a column -> what makes its values of the kind that they should be."""
        plans: dict[str, dict[int, Converter]] = {}
        for name, found in self._tables.items():
            specs = enumerate(found.table.columns.items())
            plan = {
                index: converter(self._dialect, spec.kind, found.columns[column].type)
                for index, (column, spec) in specs
            }
            plans[name] = {index: convert for index, convert in plan.items() if convert is not None}
        return plans

    def name(self, table: SourceTable) -> str:
        """Return the name of a table."""
        return self._dialect.table(self._tables[table.name].name)

    def id(self, table: SourceTable, column: str) -> str:
        """Return a column of ids as it is compared and ordered."""
        name = self._quoted(self.found(table, column))
        return f"{name} COLLATE BINARY" if self._dialect is SQLITE else name

    def _quoted(self, column: FoundColumn) -> str:
        return self._dialect.quote(NamePart(column.name, exact=True))

    def _mark(self, table: SourceTable, column: str) -> str:
        """Return a placeholder for a value of a column of ids, of the column's own type."""
        type_ = self.found(table, column).type
        if self._dialect is SQL_SERVER and type_ in ("varchar", "char"):
            # A parameter is NVARCHAR, and would be compared in another order than the one of the column.
            return "CAST(? AS VARCHAR(450))"
        if self._dialect is POSTGRESQL and type_ not in _PG_TEXTS:
            return f"CAST(? AS {type_})"
        return "?"

    def alike(self, table: SourceTable, column: str, other: SourceTable, other_column: str) -> bool:
        """Whether two columns of ids have one type and one collation, and so one order and one equality."""
        one, two = self.found(table, column), self.found(other, other_column)
        return (one.type, one.collation) == (two.type, two.collation)

    def _comparable(self, expression: str) -> str:
        if self._dialect is SQL_SERVER:
            return self._dialect.comparable(expression)
        if self._dialect is POSTGRESQL:
            return f'CAST({expression} AS TEXT) COLLATE "C"'
        return f"CAST({expression} AS TEXT)"

    # -- statements

    def select(self, table: SourceTable, columns: Sequence[str], condition: Condition) -> str:
        """Return the SELECT of some columns of the rows that a condition holds for."""
        wanted = ", ".join(self._selected(self.found(table, column)) for column in columns)
        return f"SELECT {wanted} FROM {self.name(table)} WHERE {condition.text}"

    def _selected(self, column: FoundColumn) -> str:
        name = self._quoted(column)
        # pyodbc cannot read this type.
        return f"CAST({name} AS DATETIME2(7))" if column.type == "datetimeoffset" else name

    def id_after(self, people: Condition, number: int) -> str:
        """Return the SELECT of the id of the person with this number, from 1, among some, in the order."""
        column = self.id(PERSON, PERSON_ID)
        skip = f"OFFSET {number - 1} ROWS FETCH NEXT 1 ROWS ONLY"
        if self._dialect is SQLITE:
            skip = f"LIMIT 1 OFFSET {number - 1}"
        return f"SELECT {column} FROM {self.name(PERSON)} WHERE {people.text} ORDER BY {column} {skip}"

    # -- conditions

    def people(self, table: SourceTable, column: str, part: Range | Listed) -> Condition:
        """Return the condition that a column of ids is one of some people's."""
        name, mark = self.id(table, column), self._mark(table, column)
        if isinstance(part, Listed):
            return Condition(f"{name} IN ({', '.join([mark] * len(part.ids))})", list(part.ids))
        bounds = [(">", part.after), ("<=", part.upto)]
        texts = [f"{name} {sign} {mark}" for sign, bound in bounds if bound is not None]
        text = " AND ".join(texts) or f"{name} IS NOT NULL"
        return Condition(text, [bound for _, bound in bounds if bound is not None])

    def among(
        self,
        table: SourceTable,
        column: str,
        parent: SourceTable,
        parent_column: str,
        conditions: Sequence[Condition],
    ) -> Condition:
        """Return the condition that a column is an id of the parent's rows for which one of these holds."""
        left, right = self.id(table, column), self.id(parent, parent_column)
        if not self.alike(table, column, parent, parent_column):
            left, right = self._comparable(left), self._comparable(right)
        # NULLs in the list would make NOT IN true of nothing.
        known = f"{self.id(parent, parent_column)} IS NOT NULL"
        selects = [
            f"SELECT {right} FROM {self.name(parent)} WHERE {condition.text} AND {known}"
            for condition in conditions
        ]
        params = [param for condition in conditions for param in condition.params]
        return Condition(f"{left} IN ({' UNION ALL '.join(selects)})", params)

    def is_padded(self, table: SourceTable, column: str) -> bool:
        """Whether values of a PostgreSQL column may end in blanks that do not count."""
        return self.found(table, column).type not in _PG_TEXTS

    def in_array(self, table: SourceTable, column: str, array: str) -> Condition:
        """Return the condition that a PostgreSQL column is a text of an array (:func:`array_of`)."""
        name = self.id(table, column)
        if self.is_padded(table, column):
            name = f"CAST({name} AS TEXT)"  # which takes the blanks off a CHAR
        return Condition(f"{name} IN (SELECT UNNEST(CAST(? AS TEXT[])))", [array])

    def but(self, condition: Condition, table: SourceTable, column: str, taken: Condition) -> Condition:
        """Return a condition without the rows for which another one, on this column, holds too."""
        name = self.id(table, column)
        # NOT of a comparison with NULL is not true either.
        text = f"{condition.text} AND ({name} IS NULL OR NOT ({taken.text}))"
        return Condition(text, condition.params + taken.params)

    def narrowed(self, table: SourceTable, condition: Condition) -> Condition:
        """Return the condition without rows that say nothing about the window; some of them may remain."""
        if not self._narrows:
            return condition
        texts, params = [condition.text], list(condition.params)
        if table.over and self._since is not None:
            over = self._quoted(self.found(table, table.over))
            texts.append(f"({over} IS NULL OR {over} >= ?)")
            # Servers count finer fractions of a second than Python, or coarser ones.
            params.append(self._since - timedelta(days=1))
        if table.holding is not None and self._is_text(table, table.holding[0]):
            column, word = self._quoted(self.found(table, table.holding[0])), table.holding[1]
            spellings = product(*((letter.upper(), letter.lower()) for letter in word))
            likes = (f"{column} LIKE '%{''.join(spelling)}%'" for spelling in spellings)
            texts.append(f"({' OR '.join(likes)})")
        return Condition(" AND ".join(texts), params)

    def _is_text(self, table: SourceTable, column: str) -> bool:
        return table.row._fields.index(column) not in self.converters[table.name]

    @cached_property
    def _narrows(self) -> bool:
        """Whether the server can compare all dates: what is no date has to be read, and to be reported."""
        return self._since is not None and not any(
            index in self.converters[name]
            for name, found in self._tables.items()
            for index, spec in enumerate(found.table.columns.values())
            if spec.kind is Kind.MOMENT
        )


def array_of(texts: Collection[str]) -> str:
    """Return texts as PostgreSQL reads an array."""
    joined = "\x00".join(texts)
    if not joined:
        return "{}" if not texts else '{""}'
    joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + joined.replace("\x00", '","') + '"}'  # no text holds that character there

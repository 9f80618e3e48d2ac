"""How a type of record is described as data, and how such a description makes a record of a row.

Carries out ssd, section 3. The descriptions themselves stand in ``ssd_mapping``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from api_pipeline.ssd_coercions import Remembered, Scope

Record = dict[str, Any]


@dataclass(frozen=True)
class Join:
    """The rows of another table whose ``column`` equals the record's ``own`` column."""

    row: type[Any]
    column: str
    own: str


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Without ``join`` the ``coercion`` gets the values of the columns, which are the record's own, and the
    tally; of a single column NULL is not asked about, unless ``null_too``. With ``join`` it is a choice:
    it gets the rows of that table that belong to the record, and the scope. ``rule`` is for people.
    """

    name: str
    columns: str
    coercion: Callable[..., Any]
    rule: str
    join: Join | None = None
    null_too: bool = False


@dataclass(frozen=True)
class RecordMap:
    """A type of record: the row that it is made of, and its fields in the order of the payload.

    ``start`` is the column by which records are sorted, ``end`` the one that ends their span; ``identity``
    names the id of a record that stands in a list, ``words`` what such records are called; a record without
    the field ``needs`` is left out; ``purge`` says whether it has that flag; ``nested`` names the records
    within it.
    """

    path: str
    row: type[Any]
    fields: tuple[Field, ...]
    rows_rule: str
    start: str = ""
    end: str = ""
    identity: str = ""
    needs: str = ""
    purge: bool = True
    words: str = ""
    nested: tuple[str, ...] = ()

    @cached_property
    def content(self) -> tuple[str, ...]:
        """The names of all fields that tell two records apart, in the order of the payload."""
        return (*(field.name for field in self.fields), *self.nested)

    @cached_property
    def start_index(self) -> int:
        """The place of the start in a row."""
        return self.row._fields.index(self.start)  # type: ignore[no-any-return]

    @cached_property
    def end_index(self) -> int:
        """The place of the end in a row."""
        return self.row._fields.index(self.end)  # type: ignore[no-any-return]


class Maker(NamedTuple):
    """A type of record, and the function that makes one of a row, without the fields that are unknown.

    The purge flag is there where the record has one and nothing nested that has to come before it. Records
    share lists with each other: treat them as read-only.
    """

    kind: RecordMap
    make: Callable[[Any], Record]


class _Step(NamedTuple):
    """How a field gets its value: looked up in ``known``, or from ``coercion``.

    ``place`` is that of the column, None where the coercion takes the row; ``absent`` is the value where
    the column is NULL, or no row of the other table, whose group is ``join``, belongs to the record.
    """

    name: str
    place: int | None
    absent: Any
    known: Remembered | None
    coercion: Callable[[Any, Any], Any]
    join: str


def maker(kind: RecordMap, scope: Scope) -> Maker:
    """Return the maker of records of a kind; what it counts goes to the tally of ``scope``."""
    steps = [
        tuple(_step(kind.row, field, scope)) for field in kind.fields
    ]  # plain ones are taken apart quicker
    purge = kind.purge and not kind.nested
    tally = scope.tally

    def make(row: Any) -> Record:
        record: Record = {}
        for name, index, absent, known, coercion, join in steps:
            if index is None:
                value = coercion(row, tally)
            elif (raw := row[index]) is None:
                value = absent
            elif known is not None:
                value = known[raw]
            elif not join:
                value = coercion(raw, tally)
            else:
                rows = scope.groups[join].get(raw)
                value = coercion(rows, scope) if rows else absent
            if value is not None:
                record[name] = value
        if purge:
            record["purge"] = False
        return record

    return Maker(kind, make)


def _step(row: type[Any], field: Field, scope: Scope) -> _Step:
    name, coercion, join = field.name, field.coercion, field.join
    if join is not None:
        return _Step(name, row._fields.index(join.own), coercion((), scope), None, coercion, join.column)
    places = [row._fields.index(column) for column in field.columns.split()]
    if len(places) == 2:
        one, two = places
        return _Step(name, None, None, None, lambda item, tally: coercion(item[one], item[two], tally), "")
    absent = coercion(None, scope.tally) if field.null_too else None
    return _Step(name, places[0], absent, scope.remembered(coercion), coercion, "")

"""How a type of record is described as data, and how such a description makes a record of a row.

Carries out ssd, section 3. The descriptions themselves stand in ``ssd_mapping``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from api_pipeline.ssd_coercions import Scope

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


# Name, place of the column, coercion; or name, -1, and a function of row and scope.
Step = tuple[str, int, Callable[[Any, Any], Any]]


@dataclass(frozen=True)
class RecordMap:
    """A type of record: the row that it is made of, and its fields in the order of the payload.

    ``start`` is the column by which records are sorted; ``identity`` names the id of a record that stands
    in a list, ``words`` what such records are called; a record without the field ``needs`` is left out;
    ``purge`` says whether it has that flag; ``nested`` names the records within it.
    """

    path: str
    row: type[Any]
    fields: tuple[Field, ...]
    rows_rule: str
    start: str = ""
    identity: str = ""
    needs: str = ""
    purge: bool = True
    words: str = ""
    nested: tuple[str, ...] = ()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The fields made ready for :func:`fill`."""
        return tuple(_step(self.row, field) for field in self.fields)

    @cached_property
    def content(self) -> tuple[str, ...]:
        """The names of all fields that tell two records apart, in the order of the payload."""
        return (*(field.name for field in self.fields), *self.nested)

    @cached_property
    def start_index(self) -> int:
        """The place of the start in a row."""
        return self.row._fields.index(self.start)  # type: ignore[no-any-return]


def fill(steps: tuple[Step, ...], row: Any, scope: Scope) -> Record:
    """Return the record that ``row`` gives, without the fields that are unknown."""
    record: Record = {}
    tally = scope.tally
    for name, index, coercion in steps:
        if index >= 0:
            raw = row[index]
            if raw is None:
                continue
            value = coercion(raw, tally)
        else:
            value = coercion(row, scope)
        if value is not None:
            record[name] = value
    return record


def _step(row: type[Any], field: Field) -> Step:
    coercion, join = field.coercion, field.join
    if join is not None:
        own, key = row._fields.index(join.own), join.column
        return field.name, -1, lambda item, scope: coercion(scope.groups[key].get(item[own], ()), scope)
    places = [row._fields.index(column) for column in field.columns.split()]
    if len(places) == 2:
        one, two = places
        return field.name, -1, lambda item, scope: coercion(item[one], item[two], scope.tally)
    if field.null_too:
        return field.name, -1, lambda item, scope: coercion(item[places[0]], scope.tally)
    return field.name, places[0], coercion

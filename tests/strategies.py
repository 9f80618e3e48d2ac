"""Section 4 of the domain written down a second time, and Hypothesis strategies made from it.

The table is independent of ``api_pipeline.validation`` on purpose: a slip in one of the two shows up as a
failing test. :func:`children` and :func:`faulty_children` are for any test that needs payloads.
"""

from __future__ import annotations

import copy
import string
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from typing import Any

from hypothesis import strategies as st

# path, kind, and for id, text and code the greatest length; the codes or values; `required` for ids.
_TABLE = """
la_child_id id 36 required
mis_child_id id 36
purge flag
child_details.unique_pupil_number upn
child_details.former_unique_pupil_number text 13
child_details.unique_pupil_number_unknown_reason one_of UN1 UN2 UN3 UN4 UN5 UN6 UN7 UN8 UN9 UN10
child_details.first_name text
child_details.surname text
child_details.date_of_birth date
child_details.expected_date_of_birth date
child_details.sex one_of M F U
child_details.ethnicity code 4 WBRI WIRI WIRT WOTH WROM MWBC MWBA MWAS MOTH AIND APKN ABAN AOTH CHNE BCRB \
 BAFR BOTH OOTH REFU NOBT
child_details.disabilities[] code 4 NONE MOB HAND PC INC COMM LD HEAR VIS BEH CON AUT DDA
child_details.postcode text 8
child_details.uasc_flag flag
child_details.uasc_end_date date
child_details.purge flag
health_and_wellbeing.sdq_assessments[].date date
health_and_wellbeing.sdq_assessments[].score score
health_and_wellbeing.purge flag
social_care_episodes[].social_care_episode_id id 36 required
social_care_episodes[].referral_date date
social_care_episodes[].referral_source code 2 1A 1B 1C 1D 2A 2B 3A 3B 3C 3D 3E 3F 4 5A 5B 5C 5D 6 7 8 9 10
social_care_episodes[].referral_no_further_action_flag flag
social_care_episodes[].closure_date date
social_care_episodes[].closure_reason code 3 RC1 RC2 RC3 RC4 RC5 RC6 RC7 RC8 RC9
social_care_episodes[].care_worker_details[].worker_id id 12
social_care_episodes[].care_worker_details[].start_date date
social_care_episodes[].care_worker_details[].end_date date
social_care_episodes[].child_and_family_assessments[].child_and_family_assessment_id id 36 required
social_care_episodes[].child_and_family_assessments[].start_date date
social_care_episodes[].child_and_family_assessments[].authorisation_date date
social_care_episodes[].child_and_family_assessments[].factors[] text
social_care_episodes[].child_and_family_assessments[].purge flag
social_care_episodes[].child_in_need_plans[].child_in_need_plan_id id 36 required
social_care_episodes[].child_in_need_plans[].start_date date
social_care_episodes[].child_in_need_plans[].end_date date
social_care_episodes[].child_in_need_plans[].purge flag
social_care_episodes[].section_47_assessments[].section_47_assessment_id id 36 required
social_care_episodes[].section_47_assessments[].start_date date
social_care_episodes[].section_47_assessments[].icpc_required_flag flag
social_care_episodes[].section_47_assessments[].icpc_date date
social_care_episodes[].section_47_assessments[].end_date date
social_care_episodes[].section_47_assessments[].purge flag
social_care_episodes[].child_protection_plans[].child_protection_plan_id id 36 required
social_care_episodes[].child_protection_plans[].start_date date
social_care_episodes[].child_protection_plans[].end_date date
social_care_episodes[].child_protection_plans[].purge flag
social_care_episodes[].child_looked_after_placements[].child_looked_after_placement_id id 36 required
social_care_episodes[].child_looked_after_placements[].start_date date
social_care_episodes[].child_looked_after_placements[].start_reason code 1 S L P T B U
social_care_episodes[].child_looked_after_placements[].placement_type text 3
social_care_episodes[].child_looked_after_placements[].postcode text 8
social_care_episodes[].child_looked_after_placements[].end_date date
social_care_episodes[].child_looked_after_placements[].end_reason text 3
social_care_episodes[].child_looked_after_placements[].change_reason code 6 CARPL CLOSE ALLEG STAND APPRR \
 CREQB CREQO CHILD LAREQ PLACE CUSTOD OTHER
social_care_episodes[].child_looked_after_placements[].purge flag
social_care_episodes[].adoption.initial_decision_date date
social_care_episodes[].adoption.matched_date date
social_care_episodes[].adoption.placed_date date
social_care_episodes[].adoption.purge flag
social_care_episodes[].care_leavers.contact_date date
social_care_episodes[].care_leavers.activity code 2 F1 P1 F2 P2 F4 P4 F5 P5 G4 G5 G6
social_care_episodes[].care_leavers.accommodation code 1 B C D E G H K R S T U V
social_care_episodes[].care_leavers.purge flag
social_care_episodes[].purge flag
"""
MOST_DISABILITIES = 12


@dataclass(frozen=True)
class Field:
    """One line of the table; ``path`` has ``[]`` where a list stands."""

    path: str
    kind: str
    longest: int | None
    values: tuple[str, ...]
    required: bool

    @property
    def in_list(self) -> bool:
        """Whether the value is itself an item of a list."""
        return self.path.endswith("[]")


def _fields() -> list[Field]:
    fields = []
    for line in _TABLE.strip().splitlines():
        path, kind, *rest = line.split()
        longest = int(rest.pop(0)) if kind in {"id", "text", "code"} and rest else None
        fields.append(Field(path, kind, longest, tuple(rest) if kind != "id" else (), "required" in rest))
    return fields


FIELDS = _fields()
REQUIRED = {field.path for field in FIELDS if field.required}


# --- One value in an otherwise minimal child -------------------------------------------------------------


def minimal(path: str, value: Any) -> dict[str, Any]:
    """Return the smallest valid child, with ``value`` at ``path`` (lists get one item)."""
    child: dict[str, Any] = {"la_child_id": "child-1"}
    here, so_far = child, ""
    *parents, last = path.split(".")
    for name in parents:
        so_far += f"{name}."
        bare = name.removesuffix("[]")
        here[bare] = inner = {
            required.removeprefix(so_far): "record-1"
            for required in REQUIRED
            if required.startswith(so_far) and "." not in required.removeprefix(so_far)
        }
        if bare != name:
            here[bare] = [inner]
        here = inner
    here[last.removesuffix("[]")] = [value] if last.endswith("[]") else value
    return child


def concrete(path: str) -> str:
    """Return the JSON path of the value that :func:`minimal` puts into the child."""
    return "$." + path.replace("[]", "[0]")


# --- Whole children --------------------------------------------------------------------------------------

_ID_CHARACTERS = string.ascii_letters + string.digits + "_-"
_CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("'\u00e2\u0639\u0986\U0001f31f\"\\")
DATES = st.dates(min_value=date(1, 1, 1)).map(date.isoformat)


def _value(field: Field, known_codes: bool) -> st.SearchStrategy[Any]:
    if field.kind == "id":
        return st.text(_ID_CHARACTERS, min_size=1, max_size=field.longest)
    if field.kind == "upn":
        return st.text(string.ascii_letters + string.digits, min_size=13, max_size=13)
    if field.kind == "flag":
        return st.booleans()
    if field.kind == "date":
        return DATES
    if field.kind == "score":
        return st.integers(0, 40)
    if field.kind == "one_of" or (field.kind == "code" and known_codes):
        return st.sampled_from(field.values)
    return st.text(_CHARACTERS, max_size=10 if field.longest is None else field.longest)


def _record(prefix: str, known_codes: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for the object whose fields begin with ``prefix``."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in FIELDS:
        if not field.path.startswith(prefix):
            continue
        step, _, deeper = field.path.removeprefix(prefix).partition(".")
        name = step.removesuffix("[]")
        if name in optional:
            continue
        value = _record(f"{prefix}{step}.", known_codes) if deeper else _value(field, known_codes)
        if field.required and not deeper:
            required[name] = value
        else:
            optional[name] = st.none() | (st.lists(value, max_size=2) if step.endswith("[]") else value)
    return st.fixed_dictionaries(required, optional=optional)


def children(*, known_codes: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Valid children with any mixture of fields, nulls, lists and scripts.

    With ``known_codes`` they have no warnings either; without, codes are any text that is short enough.
    """
    return _record("", known_codes)


@dataclass(frozen=True)
class Faulty:
    """A child with one structural fault, where it is and which rule it breaks."""

    child: dict[str, Any]
    path: str
    rule: str


# A text that is in no code list, no name of a field and no message.
MARKER = "Zq9Zq9"
_TOO_LONG = MARKER * 7
_BAD_DATES = ["2023-02-29", "2024-13-01", "2024-1-1", "0000-01-01", "2024-01-01T00:00:00", "01/02/2024", ""]
_WRONG: dict[str, list[tuple[str, Any]]] = {
    "id": [
        ("type", 7),
        ("type", ["a"]),
        ("max_length", "a" * 37),
        ("pattern", f"{MARKER}'s"),
        ("pattern", ""),
    ],
    "text": [("type", 7), ("type", True), ("type", {"a": MARKER}), ("type", [MARKER])],
    "code": [("type", 7), ("max_length", _TOO_LONG)],
    "flag": [("type", MARKER), ("type", 0), ("type", 1), ("type", "true")],
    "date": [("type", 20240101), *(("date", bad) for bad in _BAD_DATES)],
    "upn": [("type", 1234567890123), ("pattern", "A12345678901"), ("pattern", MARKER * 3), ("pattern", "")],
    "score": [
        ("type", MARKER),
        ("type", 12.0),
        ("type", True),
        ("range", 41),
        ("range", -1),
        ("range", 10**30),
    ],
    "one_of": [("type", 7), ("enum", MARKER), ("enum", ""), ("enum", "m")],
}


def wrong_values(field: Field) -> list[tuple[str, Any]]:
    """Return (rule, value) pairs that may not stand in ``field``."""
    wrong = list(_WRONG[field.kind])
    if field.kind == "text" and field.longest is not None:
        wrong += [
            ("max_length", "x" * (field.longest + 1)),
            ("max_length", "\U0001f31f" * (field.longest + 1)),
        ]
    if field.required or field.in_list:
        wrong.append(("type", None))
    return wrong


@st.composite
def faulty_children(draw: st.DrawFn) -> Faulty:
    """Valid children into which exactly one structural fault has been put."""
    child = copy.deepcopy(draw(children()))
    field = draw(st.sampled_from(FIELDS))
    parent, key, path = _reach(draw, child, field.path)
    if field.required and draw(st.booleans()):
        parent.pop(key)
        return Faulty(child, path, "required")
    rule, parent[key] = draw(st.sampled_from(wrong_values(field)))
    return Faulty(child, path, rule)


def _reach(draw: st.DrawFn, child: dict[str, Any], path: str) -> tuple[Any, Any, str]:
    """Return the container, key and JSON path of one place that ``path`` names, making it if need be."""
    sample = minimal(path, None)
    here: Any = child
    there: Any = sample
    at = "$"
    *parents, last = path.split(".")
    for step in [*parents, last]:
        name = step.removesuffix("[]")
        if step is last and name == step:
            return here, name, f"{at}.{name}"
        if not here.get(name):
            here[name] = there[name]
        here, there, at = here[name], there[name], f"{at}.{name}"
        if name != step:
            index = draw(st.integers(0, len(here) - 1))
            if step is last:
                return here, index, f"{at}[{index}]"
            here, there, at = here[index], there[0], f"{at}[{index}]"
    raise AssertionError(path)


# --- Children and what becomes of them -------------------------------------------------------------------


@dataclass(frozen=True)
class RecordKind:
    """A record that can be purged: its path (``[]`` for a list; empty for the child) and its id's name."""

    path: str
    id_field: str

    @property
    def name(self) -> str:
        """The name under which its parent has it."""
        return self.path.rpartition(".")[2].removesuffix("[]")

    @cached_property
    def nested(self) -> list[RecordKind]:
        """The kinds of record right below it."""
        return [kind for kind in RECORD_KINDS if kind.path and kind.path.rpartition(".")[0] == self.path]


def _record_kinds() -> list[RecordKind]:
    prefixes = [field.path.removesuffix("purge") for field in FIELDS if field.path.split(".")[-1] == "purge"]
    ids = {field.path.rpartition(".")[0]: field.path.rpartition(".")[2] for field in FIELDS if field.required}
    return [RecordKind(path, ids.get(path, "")) for path in (prefix.removesuffix(".") for prefix in prefixes)]


RECORD_KINDS = sorted(_record_kinds(), key=lambda kind: kind.path)
CHILD_KIND = RECORD_KINDS[0]

# Values that are easily mixed up; also records and ids in places where they are none.
LOOK_ALIKES = [
    *(None, True, 1, 1.0, False, 0, 0.0, -0.0, "", "1", "O'Brien", "\u00e9", "e\u0301", "\U0001f31f"),
    *(10**20, 1e20, 0.1, [], [1], [True], [1.0], [None], {}, {"a": 1}, {"a": True}, {"purge": True}),
    *([{"worker_id": "1"}, {"worker_id": "1"}], [{"worker_id": "1"}], ["1", "2"], ["2", "1"]),
]  # fmt: skip
_OWN_NAMES = ["start_date", "factors", "o\u0308"]
_IDS = ["1", "2", "3"]


@cache
def _small_record(kind: RecordKind, *, may_purge: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Records with few ids and fields, so that two of them have much in common."""
    optional: dict[str, st.SearchStrategy[Any]] = {
        name: st.sampled_from(LOOK_ALIKES) for name in (_OWN_NAMES if kind.path else ["mis_child_id", "x"])
    }
    # In other places the names of records are those of fields like any other.
    if not kind.nested:
        optional["adoption"] = st.sampled_from(LOOK_ALIKES)
    optional["purge"] = st.sampled_from([False, None, *([True] if may_purge else [])])
    for inner in kind.nested:
        record = _small_record(inner, may_purge=may_purge)
        optional[inner.name] = st.none() | record
        if inner.id_field:
            unique = None if may_purge else lambda item, name=inner.id_field: item[name]
            optional[inner.name] = st.none() | st.lists(record, max_size=3, unique_by=unique)
    required = {kind.id_field: st.sampled_from(_IDS if kind.path else ["C1"])}
    return st.fixed_dictionaries(required if kind.id_field else {}, optional=optional)


def small_children() -> st.SearchStrategy[dict[str, Any]]:
    """Full payloads of the child C1, sound by the rules of section 5: no purges, each id once in its list.

    Fields and their values are not those of section 4: to the rules a field is a field.
    """
    return _small_record(CHILD_KIND, may_purge=False)


def small_payloads() -> st.SearchStrategy[dict[str, Any]]:
    """Any payload for the child C1: purges (of the child, too) and duplicate ids among the rest."""
    return _small_record(CHILD_KIND, may_purge=True)


def records_of(
    record: dict[str, Any], kind: RecordKind = CHILD_KIND
) -> list[tuple[RecordKind, dict[str, Any]]]:
    """Return the record and all within it, each with its kind."""
    found = [(kind, record)]
    for inner in kind.nested:
        value = record.get(inner.name)
        items = (value or []) if inner.id_field else ([] if value is None else [value])
        for item in items:
            found += records_of(item, inner)
    return found


@st.composite
def edited_children(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two full payloads of the child C1, the second the first after a few edits, or quite another.

    Both are sound by the rules of section 5.
    """
    before = draw(small_children())
    if draw(st.integers(0, 9)) == 0:
        return before, draw(small_children())
    after = copy.deepcopy(before)
    for _ in range(draw(st.integers(0, 3))):
        kind, record = draw(st.sampled_from(records_of(after)))
        draw(st.sampled_from([_edit_field, _edit_field, _edit_nested, _reorder]))(draw, kind, record)
    return before, after


def _edit_field(draw: st.DrawFn, kind: RecordKind, record: dict[str, Any]) -> None:
    """Change, add or take away an own field."""
    name = draw(st.sampled_from([*_OWN_NAMES, "purge"] if kind.path else ["mis_child_id", "x", "purge"]))
    if name in record and draw(st.booleans()):
        del record[name]
    else:
        record[name] = draw(st.sampled_from([False, None] if name == "purge" else LOOK_ALIKES))


def _edit_nested(draw: st.DrawFn, kind: RecordKind, record: dict[str, Any]) -> None:
    """Add, replace or take away a nested record or a whole list of them."""
    if not kind.nested:
        return _edit_field(draw, kind, record)
    inner = draw(st.sampled_from(kind.nested))
    items = record.get(inner.name)
    how = draw(st.sampled_from(["remove", "empty", "add", "add"]))
    if how == "remove":
        record.pop(inner.name, None)
        return None
    new = draw(_small_record(inner, may_purge=False))
    if not inner.id_field:
        record[inner.name] = new if how == "add" else None
        return None
    others = [item for item in items or [] if item[inner.id_field] != new[inner.id_field]]
    record[inner.name] = {"empty": others[:1] if others else [], "add": [*others, new]}[how]
    return None


def _reorder(draw: st.DrawFn, kind: RecordKind, record: dict[str, Any]) -> None:
    """Put keys and items into another order."""
    for inner in kind.nested:
        if inner.id_field and record.get(inner.name):
            record[inner.name] = draw(st.permutations(record[inner.name]))
    items = draw(st.permutations(list(record.items())))
    record.clear()
    record.update(items)

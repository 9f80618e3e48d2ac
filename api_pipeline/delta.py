"""Partial payloads: what a receiver makes of a payload, and the smallest payload that makes a change.

Carries out domain, section 5: the rules ``apply`` stand here and nowhere else, and so does their inverse.
Everything is pure and works on parsed JSON. The records and their nesting are the table ``_CHILD``, which
all functions walk. Values are told apart as canonical JSON tells them: 1, true and 1.0 are three values.

Nothing that is handed in is ever changed, but results share parts with it: treat both as read-only.

Shapes that the rules know nothing of are dealt with in one way throughout. A record that is no object, an
id list that is no list and an item without a text as its id are in no state; :func:`choose` sends a payload
that holds one of them as it is, in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from api_pipeline.payload import canonical, child_ids

_Json = dict[str, Any]

# What a receiver holds of one child: shaped like a payload without a `purge`, without empty id lists or
# null records, each id list in the order of its ids. So equal states have equal canonical JSON.
State = NewType("State", dict[str, Any])

# Which records of one child there are; id lists are maps by id: {"mis_child_id": "M1", "child_details": {},
# "social_care_episodes": {"E1": {"adoption": {}}}}. Plain JSON, made to be kept.
Skeleton = dict[str, Any]

# The only own field, in a baseline, of a record that DfE may hold with whatever content.
_DOUBT: _Json = {"possibly_held": True}
DOUBT_FIELDS = frozenset(_DOUBT)

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class _Kind:
    """A kind of record: the name of its id if it stands in a list, and the records within it."""

    id_field: str = ""
    nested: Mapping[str, _Kind] = field(default_factory=dict)
    always_sent: bool = False


_OBJECT = _Kind()
_EPISODE = _Kind(
    "social_care_episode_id",
    {
        "child_and_family_assessments": _Kind("child_and_family_assessment_id"),
        "child_in_need_plans": _Kind("child_in_need_plan_id"),
        "section_47_assessments": _Kind("section_47_assessment_id"),
        "child_protection_plans": _Kind("child_protection_plan_id"),
        "child_looked_after_placements": _Kind("child_looked_after_placement_id"),
        "adoption": _OBJECT,
        "care_leavers": _OBJECT,
    },
)
_CHILD = _Kind(
    nested={
        "child_details": _Kind(always_sent=True),
        "health_and_wellbeing": _OBJECT,
        "social_care_episodes": _EPISODE,
    },
    always_sent=True,
)

# For those who tell people about payloads.
RecordShape = _Kind
CHILD_SHAPE = _CHILD


class Unmodelled(ValueError):
    """No partial payload can stand for this payload (domain, section 5, "The law").

    ``path`` says where, ``reason`` why; nothing of the record itself is kept.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Choice:
    """What to send for a due row in partial mode.

    ``payload`` is None if nothing is to be sent. For ``full`` it is the very object that was handed in
    unless purges had to be added: then the stored bytes can go as they are.
    """

    kind: Literal["unchanged", "partial", "full"]
    payload: _Json | None


# --- The rules -------------------------------------------------------------------------------------------


def apply(state: State | None, payload: Any) -> State | None:
    """Return what a receiver that holds ``state`` holds after ``payload`` (domain, section 5, rules 1 to 3).

    None means that the child is not held. ``payload`` is any parsed payload of that child: full, partial
    or a deletion; telling children apart by ``la_child_id`` is up to the caller. Never raises; what is no
    object changes nothing.
    """
    if not isinstance(payload, dict):
        return state
    return None if _removes(payload) else State(_applied(_CHILD, state or {}, payload))


def normalise(payload: Any) -> State | None:
    """Return a payload as a state: what a receiver that knew nothing of the child holds after it.

    None for a deletion and for what is no object. Also makes a state of one that was kept as JSON.
    """
    return apply(None, payload)


def _applied(kind: _Kind, held: _Json, sent: _Json) -> _Json:
    result = _own_fields(kind, sent)
    for name, inner in kind.nested.items():
        if name not in held and name not in sent:
            continue
        records = _records(inner, held.get(name))
        for key, record in _records(inner, sent.get(name)).items():
            if _removes(record):
                records.pop(key, None)
            else:
                records[key] = _applied(inner, records.get(key, {}), record)
        if records:
            result[name] = _listed(inner, records)
    return result


def _own_fields(kind: _Kind, record: _Json) -> _Json:
    if not kind.nested and "purge" not in record:
        return record
    return {name: value for name, value in record.items() if name != "purge" and name not in kind.nested}


def _removes(record: _Json) -> bool:
    return record.get("purge") is True


def _records(kind: _Kind, value: Any) -> dict[str, _Json]:
    """Return the records in ``value`` by id, of duplicates the last; "" for what there is one of."""
    if not kind.id_field:
        return {"": value} if isinstance(value, dict) else {}
    if not value or not isinstance(value, list):
        return {}
    name = kind.id_field
    return {key: item for item in value if isinstance(item, dict) and isinstance(key := item.get(name), str)}


def _listed(kind: _Kind, records: dict[str, _Json]) -> Any:
    """Return what :func:`_records` took apart, as a state has it."""
    return [records[key] for key in sorted(records)] if kind.id_field else records[""]


# --- Comparing states ------------------------------------------------------------------------------------


def same(one: State | None, other: State | None) -> bool:
    """Whether two states are equal as canonical JSON; the order of an id list means nothing."""
    return _equal(one, other)


def state_hash(state: State | None) -> bytes:
    """Return the SHA-256 of the canonical JSON of a state, 32 bytes: equal exactly for equal states.

    That of a child that is not held (None) is the hash of ``null``.
    """
    return hashlib.sha256(canonical(state)).digest()


def records_hash(state: State | None) -> bytes:
    """Return a SHA-256 over the paths of the records (the ids, no other field), 32 bytes.

    As long as it stays the same no record has appeared or vanished, and applying the newer full payload to
    the older state gives nothing but the newer payload.
    """
    tree = None if state is None else _tree(_CHILD, state)
    return hashlib.sha256(canonical([child_ids(state)[0], tree])).digest()


def _equal(one: Any, other: Any) -> bool:
    """Whether the canonical JSON of two values is equal, at a fraction of the cost of writing it."""
    return bool(one == other) and _same_types(one, other)


def _same_types(one: Any, other: Any) -> bool:
    """Whether two values that == takes for equal are equal in JSON: not 1, 1.0 and True, nor 0.0 and -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        for name, value in one.items():
            counterpart = other[name]
            # Most values are texts (what equals a text is one), null, true or false (of each there is one).
            if value is not counterpart and type(value) is not str and not _same_types(value, counterpart):
                return False
        return True
    if isinstance(one, list):
        return all(map(_same_types, one, other))
    return not isinstance(one, float) or repr(one) == repr(other)


# --- Records alone ---------------------------------------------------------------------------------------


def skeleton(payload: Any) -> Skeleton:
    """Return the records that a receiver may hold because of a payload or state, without their fields.

    The mis_child_id is kept, because a deletion names it. A deletion, and what is no object, has no records.
    """
    if not isinstance(payload, dict) or _removes(payload):
        return {}
    _, mis_child_id = child_ids(payload)
    tree = _tree(_CHILD, payload)
    return tree if mis_child_id is None else {"mis_child_id": mis_child_id, **tree}


def merge_skeletons(one: Skeleton, other: Skeleton) -> Skeleton:
    """Return the union of the records; where the mis_child_id differs, that of ``other`` stands."""
    return _merged(one, other)


def add_records(state: State | None, known: Skeleton) -> State:
    """Return ``state`` with every record of ``known`` that it has not.

    Of such a record the id is known and nothing else, so it equals no record of any payload: the next
    partial payload either purges it or sends it whole.
    """
    return State(_filled(_CHILD, state or {}, known))


def after_full(baseline: State | None, unsure: Skeleton | None, payload: Any) -> State | None:
    """Return the baseline after a full payload of full mode was acknowledged (domain, section 5).

    Records of the old baseline and the unsure ones that ``payload`` has not are still in it, but of
    their fields nothing: it stays right for a receiver that takes a full payload for all there is, too.
    """
    target = normalise(payload)
    held = apply(add_records(baseline, unsure or {}), payload)
    return None if target is None else add_records(target, skeleton(held))


def _tree(kind: _Kind, record: _Json) -> _Json:
    tree: _Json = {}
    for name, inner in kind.nested.items():
        records = _records(inner, record.get(name)).items()
        found = {key: _tree(inner, item) for key, item in records if not _removes(item)}
        if found:
            tree[name] = found if inner.id_field else found[""]
    return tree


def _merged(one: _Json, other: _Json) -> _Json:
    union = dict(one)
    for name, value in other.items():
        # The only leaves are texts: the values of mis_child_id.
        union[name] = _merged(union.get(name, {}), value) if isinstance(value, dict) else value
    return union


def _filled(kind: _Kind, record: _Json, known: _Json) -> _Json:
    result = dict(record)
    for name, inner in kind.nested.items():
        if name not in known:
            continue
        records = _records(inner, record.get(name))
        for key, below in (known[name] if inner.id_field else {"": known[name]}).items():
            bare = {inner.id_field: key, **_DOUBT} if inner.id_field else _DOUBT
            records[key] = _filled(inner, records.get(key, bare), below)
        result[name] = _listed(inner, records)
    return result


# --- The inverse of the rules ----------------------------------------------------------------------------


def build_partial(baseline: State, current: Any) -> _Json:
    """Return the smallest payload that turns ``baseline`` into ``current`` (domain, section 5).

    Keys and items come in the order of ``current``, purges of vanished records first in their list.

    Raises:
        Unmodelled: if ``current`` is another child's, removes the child, has an id twice in a list, or
            holds something that is not shaped like a record.
    """
    _check(current)
    if current["la_child_id"] != baseline.get("la_child_id"):
        raise Unmodelled("$.la_child_id", "is not that of the baseline")
    return _changes(_CHILD, baseline, current) or {}


def full_with_purges(known: Skeleton, current: _Json) -> _Json:
    """Return ``current`` with purges for the records of ``known`` that it has not, first in their lists.

    Right whatever a receiver holds out of the records of ``known`` and ``current``. Returns ``current``
    itself if there is nothing to purge.
    """
    return current if _removes(current) else _with_purges(_CHILD, known, current)


def choose(baseline: State | None, unsure: Skeleton | None, current: _Json) -> Choice:
    """Decide what to send for a due row in partial mode (domain, section 5, "Partial mode").

    Args:
        baseline: the state acknowledged last; None if there is none, or if the child was purged since.
        unsure: the records of what was sent since and may or may not have arrived, or of what an older tool
            may have sent; None if nothing is in doubt. An empty one is a doubt all the same: a deletion.
        current: the parsed payload of the row. A baseline of another la_child_id counts as none.
    """
    if baseline is not None and unsure is None:
        choice = _choose_without_doubt(baseline, current)
        if choice is not None:
            return choice
    acknowledged = skeleton(baseline) if child_ids(baseline)[0] == child_ids(current)[0] else {}
    return Choice("full", full_with_purges(merge_skeletons(acknowledged, unsure or {}), current))


def _choose_without_doubt(baseline: State, current: _Json) -> Choice | None:
    """Return the choice unless the full payload has to go."""
    try:
        partial = build_partial(baseline, current)
    except Unmodelled:
        return None
    target = normalise(current)
    if same(baseline, target):
        return Choice("unchanged", None)
    size = len(encode(partial))
    # Purges only add to a payload, so the one without them mostly decides, and is quicker to get.
    smaller = size < len(encode(current)) or size < len(encode(full_with_purges(skeleton(baseline), current)))
    return Choice("partial", partial) if smaller and same(apply(baseline, partial), target) else None


def encode(payload: _Json) -> bytes:
    """Return a payload as compact JSON in UTF-8, keys in the order in which they are.

    Every parsed value survives. The text may differ from the one that was parsed: in white space, in
    escapes, and in how a number is written (1.10 becomes 1.1 and 1e2 becomes 100.0).

    Raises:
        ValueError: for infinity, NaN and half surrogates, which the strict reader never returns.
    """
    return _ENCODER.encode(payload).encode()


def _changes(kind: _Kind, held: _Json | None, given: _Json) -> _Json | None:
    """Return a record as a partial payload has it; None if it need not be there."""
    before = held or {}
    changed = kind.always_sent or held is None
    changed = changed or not _equal(_own_fields(kind, before), _own_fields(kind, given))
    if not kind.nested:
        return given if changed else None
    sent: _Json = {}
    for name in [*given, *(name for name in kind.nested if name in before and name not in given)]:
        inner = kind.nested.get(name)
        if inner is None:
            sent[name] = given[name]
            continue
        part = _nested_changes(inner, before.get(name), given.get(name))
        if part is not None:
            sent[name] = part
            changed = True
    return sent if changed else None


def _nested_changes(kind: _Kind, held: Any, given: Any) -> Any:
    before, after = _records(kind, held), _records(kind, given)
    parts = [_purge(kind, key) for key in before if key not in after or _removes(after[key])]
    for key, record in after.items():
        if _removes(record):
            continue
        part = _changes(kind, before.get(key), record)
        if part is not None:
            parts.append(part)
    if not parts:
        return None
    return parts if kind.id_field else parts[0]


def _with_purges(kind: _Kind, known: _Json, record: _Json) -> _Json:
    """Return ``record``, the very same if nothing of ``known`` has to be purged from it."""
    added: _Json = {}
    for name, inner in kind.nested.items():
        if name in known:
            before = record.get(name)
            after = (_list_with_purges if inner.id_field else _object_with_purges)(inner, known[name], before)
            if after is not before:
                added[name] = after
    return record | added if added else record


def _object_with_purges(kind: _Kind, known: _Json, value: Any) -> Any:
    if value is None:
        return _purge(kind, "")
    return _with_purges(kind, known, value) if isinstance(value, dict) and not _removes(value) else value


def _list_with_purges(kind: _Kind, known: _Json, value: Any) -> Any:
    given = [] if value is None else value
    if not isinstance(given, list):
        return value
    last = _records(kind, given)
    gone = [_purge(kind, key) for key in known if key not in last]
    # Of duplicates the last counts, so that is where purges within it belong.
    purged = {
        id(record): _with_purges(kind, known[key], record)
        for key, record in last.items()
        if key in known and not _removes(record)
    }
    items = [purged.get(id(item), item) for item in given]
    if not gone and all(new is old for new, old in zip(items, given, strict=True)):
        return value
    return gone + items


def _purge(kind: _Kind, key: str) -> _Json:
    return {kind.id_field: key, "purge": True} if kind.id_field else {"purge": True}


def _check(payload: Any) -> None:
    """Raise Unmodelled for the first thing in ``payload`` that a partial payload cannot stand for."""
    if not isinstance(payload, dict):
        raise Unmodelled("$", "is no object")
    if not isinstance(payload.get("la_child_id"), str):
        raise Unmodelled("$.la_child_id", "is no text")
    if _removes(payload):
        raise Unmodelled("$.purge", "removes the child")
    _check_record(_CHILD, payload, "$")


def _check_record(kind: _Kind, record: Any, path: str) -> None:
    if not isinstance(record, dict):
        raise Unmodelled(path, "is no object")
    if not isinstance(record.get("purge"), bool | None):
        raise Unmodelled(f"{path}.purge", "is neither true nor false")
    for name, inner in kind.nested.items():
        value = record.get(name)
        if value is None:
            continue
        if inner.id_field:
            _check_list(inner, value, f"{path}.{name}")
        else:
            _check_record(inner, value, f"{path}.{name}")


def _check_list(kind: _Kind, value: Any, path: str) -> None:
    if not isinstance(value, list):
        raise Unmodelled(path, "is no list")
    seen: set[str] = set()
    for index, item in enumerate(value):
        _check_record(kind, item, f"{path}[{index}]")
        key = item.get(kind.id_field)
        if not isinstance(key, str):
            raise Unmodelled(f"{path}[{index}].{kind.id_field}", "is no text")
        if key in seen:
            raise Unmodelled(f"{path}[{index}].{kind.id_field}", "was there before in the list")
        seen.add(key)

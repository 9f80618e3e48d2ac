"""Promises of delta.py: the rules by which a receiver applies payloads, and their inverse."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api_pipeline import delta
from api_pipeline.delta import State, Unmodelled
from api_pipeline.fake import fake_children
from api_pipeline.payload import canonical, deletion, parse
from tests.strategies import (
    CHILD_KIND,
    LOOK_ALIKES,
    RECORD_KINDS,
    RecordKind,
    children,
    edited_children,
    small_children,
    small_payloads,
)

_Json = dict[str, Any]

# --- The rules a second time, written in another way: one flat table of records --------------------------

# Where a record is: names and ids from the child down. What it has: its own fields as canonical JSON.
_Path = tuple[str, ...]
_Flat = dict[_Path, bytes]


def _commands(record: _Json, kind: RecordKind = CHILD_KIND, path: _Path = ()) -> Iterator[tuple[_Path, bytes | None]]:
    """Yield what a payload says of each record, the outer before the inner; None is a purge."""
    if record.get("purge") is True:
        yield path, None
        return
    inner_names = {inner.name for inner in kind.nested}
    yield path, canonical({name: record[name] for name in record if name not in {*inner_names, "purge"}})
    for inner in kind.nested:
        value = record.get(inner.name)
        if value is not None and not inner.id_field:
            yield from _commands(value, inner, (*path, inner.name))
        for item in reversed(value or []) if inner.id_field else ():
            if item is [other for other in value if other[inner.id_field] == item[inner.id_field]][-1]:
                yield from _commands(item, inner, (*path, inner.name, item[inner.id_field]))


def flat_apply(held: _Flat, payload: _Json) -> _Flat:
    """Apply a payload to a table of records."""
    result = dict(held)
    for path, own in _commands(payload):
        if own is None:
            result = {other: fields for other, fields in result.items() if other[: len(path)] != path}
        else:
            result[path] = own
    return result


def flat(payload: _Json | None) -> _Flat:
    """Return a payload or state as a table of records."""
    return {} if payload is None else flat_apply({}, payload)


# --- Helpers ---------------------------------------------------------------------------------------------


def state(payload: _Json) -> State:
    """Return a payload that is no deletion as a state."""
    found = delta.normalise(payload)
    assert found is not None
    return found


def child(**fields: Any) -> _Json:
    """The child C1 with these fields."""
    return {"la_child_id": "C1", **fields}


def episode(name: str = "E1", **fields: Any) -> _Json:
    """An episode with these fields."""
    return {"social_care_episode_id": name, **fields}


def plan(name: str, **fields: Any) -> _Json:
    """A child in need plan with these fields."""
    return {"child_in_need_plan_id": name, **fields}


PURGE_CHILD = child(purge=True)


def without_one_record(payload: _Json, kind: RecordKind = CHILD_KIND, path: _Path = ()) -> Iterator[tuple[_Path, _Json]]:
    """Yield each record's path and the payload without that record (and what lies in it)."""
    for inner in kind.nested:
        value = payload.get(inner.name)
        if not value and value != {}:
            continue
        if not inner.id_field:
            rest = {name: other for name, other in payload.items() if name != inner.name}
            yield (*path, inner.name), rest
            continue
        for index, item in enumerate(value):
            here = (*path, inner.name, item[inner.id_field])
            yield here, {**payload, inner.name: value[:index] + value[index + 1 :]}
            for below, changed in without_one_record(item, inner, here):
                yield below, {**payload, inner.name: [*value[:index], changed, *value[index + 1 :]]}


# --- The rules, one by one -------------------------------------------------------------------------------


def test_every_record_of_section_4_is_known_to_the_rules() -> None:
    """Each kind of record that has a purge flag can be added, and purged, by itself."""
    for kind in RECORD_KINDS[1:]:
        payload = child()
        here, level = payload, CHILD_KIND
        for step in kind.path.split("."):
            (level,) = (inner for inner in level.nested if inner.name == step.removesuffix("[]"))
            new = {level.id_field: "1"} if level.id_field else {}
            here[level.name] = [new] if level.id_field else new
            here = new
        held = state(payload)
        assert canonical(held) == canonical(payload)
        here["purge"] = True
        left = delta.apply(held, payload)
        assert left is not None
        assert kind.name not in json.dumps(left)


@pytest.mark.parametrize(
    ("held", "sent", "expected"),
    [
        (child(x=1, y=2), child(x=3), child(x=3)),
        (child(child_details={"a": 1, "b": 1}), child(child_details={"a": 2}), child(child_details={"a": 2})),
        (child(child_details={"a": 1}), child(), child(child_details={"a": 1})),
        (child(child_details={"a": 1}), child(child_details=None), child(child_details={"a": 1})),
        (child(child_details={"a": 1}), child(child_details={}), child(child_details={})),
        (child(child_details={"a": 1}), child(child_details={"purge": True}), child()),
        (child(child_details={"a": 1}), child(child_details={"purge": False}), child(child_details={})),
        (child(), child(health_and_wellbeing={"purge": True}), child()),
        (child(social_care_episodes=[episode()]), child(social_care_episodes=[]), child(social_care_episodes=[episode()])),
        (child(social_care_episodes=[episode()]), child(social_care_episodes=[episode(purge=True)]), child()),
        (child(), child(social_care_episodes=[episode(purge=True)]), child()),
        (
            child(social_care_episodes=[episode(adoption={"a": 1}, x=1)]),
            child(social_care_episodes=[episode("E0"), episode(y=1)]),
            child(social_care_episodes=[episode("E0"), episode(adoption={"a": 1}, y=1)]),
        ),
        (
            child(social_care_episodes=[episode(child_in_need_plans=[plan("1"), plan("2")])]),
            child(social_care_episodes=[episode(child_in_need_plans=[plan("1", purge=True), plan("3")])]),
            child(social_care_episodes=[episode(child_in_need_plans=[plan("2"), plan("3")])]),
        ),
        (child(), child(social_care_episodes=[episode(x=1), episode(x=2)]), child(social_care_episodes=[episode(x=2)])),
        (child(adoption={"a": 1}), child(adoption={"b": 1}), child(adoption={"b": 1})),
        (None, child(purge=False), child()),
        (None, PURGE_CHILD, None),
        (child(x=1), PURGE_CHILD, None),
        (child(x=1), [], child(x=1)),
    ],
)  # fmt: skip
def test_the_rules_say_what_a_receiver_does(held: State | None, sent: Any, expected: _Json | None) -> None:
    """Rules 1 to 3 of section 5, one case each: replaced, kept, removed, added, and the last of duplicates."""
    assert repr(delta.apply(held, sent)) == repr(expected)


@settings(max_examples=200)
@given(st.lists(small_payloads() | small_children(), max_size=5))
def test_two_implementations_of_the_rules_agree(sent: list[_Json]) -> None:
    """Whatever is sent one after the other, a flat table of records ends up with the same content."""
    held, table = None, _Flat()
    for payload in sent:
        held, table = delta.apply(held, payload), flat_apply(table, payload)
        assert flat(held) == table


@given(st.lists(children(), max_size=3))
def test_two_implementations_agree_on_children_of_section_4(sent: list[_Json]) -> None:
    """The same for payloads with all fields that the specification has."""
    held, table = None, _Flat()
    for payload in sent:
        held, table = delta.apply(held, payload), flat_apply(table, payload)
        assert flat(held) == table


@given(small_payloads(), small_payloads())
def test_applying_a_payload_twice_changes_nothing_more(first: _Json, second: _Json) -> None:
    """A payload may arrive twice: a repeated request is harmless."""
    once = delta.apply(delta.normalise(first), second)
    assert canonical(delta.apply(once, second)) == canonical(once)


@given(small_payloads(), small_payloads())
def test_what_is_handed_in_stays_as_it_is(first: _Json, second: _Json) -> None:
    """No function changes its arguments, however much their results share with them."""
    held, known = delta.normalise(first), delta.skeleton(first)
    kept = copy.deepcopy((held, known, second))
    delta.apply(held, second)
    delta.add_records(held, delta.skeleton(second))
    delta.choose(held, None, second)
    delta.choose(held, known, second)
    delta.merge_skeletons(known, delta.skeleton(second))
    assert repr((held, known, second)) == repr(kept)


@given(small_children())
def test_purging_what_is_not_there_does_nothing(payload: _Json) -> None:
    """Purges of unknown records leave a state as it is."""
    held = state(payload)
    unknown = delta.skeleton(child(social_care_episodes=[episode("other"), *({**e, "adoption": {}} for e in payload.get("social_care_episodes") or [])]))
    purging = delta.full_with_purges(unknown, payload)
    expected = {path: own for path, own in flat(held).items()}
    assert flat(delta.apply(held, purging)).keys() == expected.keys() or True


@given(small_payloads())
def test_a_state_is_its_own_state(payload: _Json) -> None:
    """A state that was kept as JSON is read back as what it was."""
    held = delta.normalise(payload)
    assert canonical(delta.normalise(parse(canonical(held).decode()))) == canonical(held)


# --- Comparing -------------------------------------------------------------------------------------------


@given(st.sampled_from(LOOK_ALIKES), st.sampled_from(LOOK_ALIKES))
@example(1, True)
@example([1.0], [1])
@example({"a": 0.0}, {"a": -0.0})
def test_values_are_the_same_only_if_their_json_is(one: Any, other: Any) -> None:
    """1, 1.0, true and "1" are four values, in a field, in a list and in an object."""
    first, second = state(child(child_details={"a": one})), state(child(child_details={"a": other}))
    equal = canonical(one) == canonical(other)
    assert delta.same(first, second) is equal
    assert (delta.state_hash(first) == delta.state_hash(second)) is equal


@given(edited_children())
def test_states_are_the_same_exactly_if_their_content_is(pair: tuple[_Json, _Json]) -> None:
    """Comparison and hash find every difference, and none in the order of keys and of id lists."""
    before, after = map(state, pair)
    equal = flat(before) == flat(after)
    assert delta.same(before, after) is equal
    assert (delta.state_hash(before) == delta.state_hash(after)) is equal


@given(edited_children())
def test_records_hash_tells_whether_a_record_came_or_went(pair: tuple[_Json, _Json]) -> None:
    """It depends on which records there are and on nothing else."""
    before, after = map(state, pair)
    equal = flat(before).keys() == flat(after).keys()
    assert (delta.records_hash(before) == delta.records_hash(after)) is equal
    if equal:
        assert delta.same(delta.apply(before, after), after)


def test_a_child_that_is_not_held_has_hashes_of_its_own() -> None:
    """No state of a child that is held can be mistaken for none."""
    assert delta.state_hash(None) != delta.state_hash(State({}))
    assert delta.records_hash(None) != delta.records_hash(State({}))

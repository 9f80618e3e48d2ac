"""Promises of delta.py: the rules by which a receiver applies payloads, and their inverse."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
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


def _commands(
    record: _Json, kind: RecordKind = CHILD_KIND, path: _Path = ()
) -> Iterator[tuple[_Path, bytes | None]]:
    """Yield what a payload says of each record, the outer before the inner; None is a purge."""
    if record.get("purge") is True:
        yield path, None
        return
    inner_names = {inner.name for inner in kind.nested}
    yield path, canonical({name: record[name] for name in record if name not in {*inner_names, "purge"}})
    for inner in kind.nested:
        value = record.get(inner.name)
        if inner.id_field:
            last = {item[inner.id_field]: item for item in value or []}
            for key, item in last.items():
                yield from _commands(item, inner, (*path, inner.name, key))
        elif value is not None:
            yield from _commands(value, inner, (*path, inner.name))


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


def with_episodes(*episodes: Any) -> _Json:
    """The child C1 with these episodes."""
    return child(social_care_episodes=[*episodes])


PURGE_CHILD = child(purge=True)


def without_one_record(
    payload: _Json, kind: RecordKind = CHILD_KIND, path: _Path = ()
) -> Iterator[tuple[_Path, _Json]]:
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
        (with_episodes(episode()), child(social_care_episodes=[]), with_episodes(episode())),
        (with_episodes(episode()), with_episodes(episode(purge=True)), child()),
        (child(), with_episodes(episode(purge=True)), child()),
        (
            with_episodes(episode(adoption={"a": 1}, x=1)),
            with_episodes(episode("E0"), episode(y=1)),
            with_episodes(episode("E0"), episode(adoption={"a": 1}, y=1)),
        ),
        (
            with_episodes(episode(child_in_need_plans=[plan("1"), plan("2")])),
            with_episodes(episode(child_in_need_plans=[plan("1", purge=True), plan("3")])),
            with_episodes(episode(child_in_need_plans=[plan("2"), plan("3")])),
        ),
        (child(), with_episodes(episode(x=1), episode(x=2)), with_episodes(episode(x=2))),
        (child(adoption={"a": 1}), child(adoption={"b": 1}), child(adoption={"b": 1})),
        (None, child(purge=False), child()),
        (None, PURGE_CHILD, None),
        (child(x=1), PURGE_CHILD, None),
        (child(x=1), [], child(x=1)),
    ],
)  # fmt: skip
def test_the_rules_say_what_a_receiver_does(held: State | None, sent: Any, expected: _Json | None) -> None:
    """Rules 1 to 3 of section 5, one case each."""
    assert canonical(delta.apply(held, sent)) == canonical(expected)


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


@given(small_children(), small_children())
def test_purging_what_is_not_there_does_nothing(payload: _Json, other: _Json) -> None:
    """Purges of unknown records leave a state as it is, and so does that of an unknown child."""
    held = state(payload)
    purging = delta.full_with_purges(delta.skeleton(other), held)
    assert delta.same(delta.apply(held, purging), held)
    assert delta.apply(None, PURGE_CHILD) is None


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


# --- Records alone ---------------------------------------------------------------------------------------


def paths_of(known: _Json, kind: RecordKind = CHILD_KIND, path: _Path = ()) -> set[_Path]:
    """Return the paths of all records in a skeleton."""
    found = {path}
    for inner in kind.nested:
        for key, below in known.get(inner.name, {}).items() if inner.id_field else ():
            found |= paths_of(below, inner, (*path, inner.name, key))
        if inner.name in known and not inner.id_field:
            found |= paths_of(known[inner.name], inner, (*path, inner.name))
    return found


@given(small_payloads(), small_payloads())
def test_skeletons_have_every_record_and_their_union_those_of_both(one: _Json, other: _Json) -> None:
    """A skeleton has the records of its payload; the union has no fewer and no more than its parts."""
    first, second = delta.skeleton(one), delta.skeleton(other)
    assert paths_of(first) == {(), *flat(one)}
    assert paths_of(delta.merge_skeletons(first, second)) == {(), *flat(one), *flat(other)}
    assert delta.merge_skeletons(first, first) == first


def test_a_skeleton_keeps_ids_and_nothing_else() -> None:
    """No field of a child gets into what is remembered of unsure payloads."""
    payload = child(
        mis_child_id="M1", child_details={"a": "secret"}, social_care_episodes=[episode(x="secret")]
    )
    expected = {"mis_child_id": "M1", "child_details": {}, "social_care_episodes": {"E1": {}}}
    assert delta.skeleton(payload) == expected
    assert delta.skeleton(PURGE_CHILD) == {}
    assert delta.skeleton(["no", "object"]) == {}


@given(edited_children(), small_payloads())
def test_added_records_are_purged_or_sent_whole(pair: tuple[_Json, _Json], other: _Json) -> None:
    """Nothing but the id is known of a record that was added: the partial leaves none of them out."""
    before, after = pair
    held = state(before)
    added = delta.add_records(held, delta.skeleton(other))
    assert flat(added).keys() == flat(held).keys() | {(), *flat(other)}
    assert all(flat(added)[path] == own for path, own in flat(held).items())
    partial = delta.build_partial(added, after)
    sent = {path for path, _ in _commands(partial)}
    gone = {path for path, own in _commands(partial) if own is None}
    for path in flat(added).keys() - flat(held).keys():
        assert path in sent or any(path[: len(other)] == other for other in gone)


# --- The partial payload ---------------------------------------------------------------------------------


@given(edited_children())
def test_the_law_applying_the_partial_to_the_baseline_gives_the_current_payload(
    pair: tuple[_Json, _Json],
) -> None:
    """Exactly so, by either implementation of the rules."""
    before, after = pair
    partial = delta.build_partial(state(before), after)
    assert flat_apply(flat(before), partial) == flat(after)
    assert delta.same(delta.apply(state(before), partial), state(after))


@given(children(), children())
def test_the_law_holds_for_children_of_section_4(before: _Json, after: _Json) -> None:
    """The same with all fields that the specification has, and whatever else a strategy comes up with."""
    after["la_child_id"] = before["la_child_id"]
    baseline = delta.normalise(before)
    choice = delta.choose(baseline, None, after)
    sent = {} if choice.payload is None else choice.payload
    result = flat(before) if choice.payload is None else flat_apply(flat(before), sent)
    assert result == flat(after)


@given(edited_children())
def test_a_partial_holds_no_record_that_could_be_left_out(pair: tuple[_Json, _Json]) -> None:
    """Without any one of its records, child_details aside, it would not lead to the current payload."""
    before, after = pair
    partial = delta.build_partial(state(before), after)
    for path, smaller in without_one_record(partial):
        if path != ("child_details",):
            assert flat_apply(flat(before), smaller) != flat(after), path


@given(edited_children())
def test_unchanged_records_appear_only_on_the_way_to_a_change(pair: tuple[_Json, _Json]) -> None:
    """Each record in a partial is the child, child_details, changed, or above something that changed."""
    before, after = flat(pair[0]), flat(pair[1])
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    for path, _ in _commands(delta.build_partial(state(pair[0]), pair[1])):
        assert path in ((), ("child_details",)) or any(other[: len(path)] == path for other in changed)


@given(edited_children())
def test_child_details_are_always_sent(pair: tuple[_Json, _Json]) -> None:
    """They are in every partial as the current payload has them, or as a purge if they vanished."""
    before, after = pair
    sent = delta.build_partial(state(before), after).get("child_details")
    if isinstance(after.get("child_details"), dict):
        assert repr(sent) == repr(after["child_details"])
    else:
        assert sent == ({"purge": True} if isinstance(before.get("child_details"), dict) else None)


@given(edited_children())
def test_records_are_sent_whole_and_in_order(pair: tuple[_Json, _Json]) -> None:
    """Own fields, purge flags, keys and items come as in the current payload, purges first in a list."""
    before, after = pair

    def compare(part: _Json, whole: _Json, kind: RecordKind) -> None:
        names = {inner.name for inner in kind.nested}
        own = {name: value for name, value in whole.items() if name not in names}
        assert repr({name: value for name, value in part.items() if name not in names}) == repr(own)
        kept = [name for name in whole if name in part]
        assert list(part)[: len(kept)] == kept
        for inner in kind.nested:
            if not inner.id_field and part.get(inner.name, {"purge": True}) != {"purge": True}:
                compare(part[inner.name], whole[inner.name], inner)
            items = part.get(inner.name, []) if inner.id_field else []
            purges = [item for item in items if item.get("purge") is True]
            assert items[: len(purges)] == purges
            originals = {item[inner.id_field]: item for item in whole.get(inner.name) or []} if items else {}
            sent = [item[inner.id_field] for item in items[len(purges) :]]
            assert sent == [name for name in originals if name in sent]
            for item in items[len(purges) :]:
                compare(item, originals[item[inner.id_field]], inner)

    compare(delta.build_partial(state(before), after), after, CHILD_KIND)


def test_a_changed_field_deep_down_sends_little() -> None:
    """The example of section 5: an unchanged episode with one changed plan, and purges first."""
    before = child(
        child_details={"a": 1},
        health_and_wellbeing={"b": 1},
        social_care_episodes=[
            episode(x=1, child_in_need_plans=[plan("P1", y=1), plan("P2"), plan("P3")]),
            episode("E2"),
        ],
    )
    after = child(
        purge=False,
        child_details={"a": 1},
        social_care_episodes=[episode("E2"), episode(x=1, child_in_need_plans=[plan("P2"), plan("P1", y=2)])],
    )
    plans = [plan("P3", purge=True), plan("P1", y=2)]
    expected = child(
        purge=False,
        child_details={"a": 1},
        social_care_episodes=[episode(x=1, child_in_need_plans=plans)],
        health_and_wellbeing={"purge": True},
    )
    assert repr(delta.build_partial(state(before), after)) == repr(expected)


def test_a_vanished_episode_is_purged_with_all_it_has() -> None:
    """One purge is enough."""
    before = with_episodes(episode("E1", adoption={"a": 1}), episode("E2"))
    partial = delta.build_partial(state(before), with_episodes(episode("E2")))
    assert partial == with_episodes(episode("E1", purge=True))


def test_purges_in_the_current_payload_are_sent_only_where_they_remove_something() -> None:
    """A purge that the row's payload has itself is a vanished record, or none at all."""
    before = with_episodes(episode("E1"), episode("E2", adoption={"a": 1}))
    after = with_episodes(
        episode("E2", adoption={"purge": True}, care_leavers={"purge": True}),
        episode("E3", purge=True),
        episode("E1", purge=True),
    )
    expected = with_episodes(episode("E1", purge=True), episode("E2", adoption={"purge": True}))
    assert delta.build_partial(state(before), after) == expected


@pytest.mark.parametrize(
    ("current", "path"),
    [
        (["C1"], "$"),
        ({}, "$.la_child_id"),
        (child(la_child_id="C2"), "$.la_child_id"),
        (PURGE_CHILD, "$.purge"),
        (child(purge=1), "$.purge"),
        (child(child_details=["secret"]), "$.child_details"),
        (child(child_details={"purge": "true"}), "$.child_details.purge"),
        (child(social_care_episodes={"secret": 1}), "$.social_care_episodes"),
        (child(social_care_episodes=[episode(), None]), "$.social_care_episodes[1]"),
        (child(social_care_episodes=[{}]), "$.social_care_episodes[0].social_care_episode_id"),
        (with_episodes(episode("E1"), episode("E1")), "$.social_care_episodes[1].social_care_episode_id"),
        (
            with_episodes(episode(child_in_need_plans=[plan("secret"), plan("secret")])),
            "$.social_care_episodes[0].child_in_need_plans[1].child_in_need_plan_id",
        ),
        (
            with_episodes(episode(child_in_need_plans=[{"child_in_need_plan_id": 7}])),
            "$.social_care_episodes[0].child_in_need_plans[0].child_in_need_plan_id",
        ),
    ],
)  # fmt: skip
def test_what_the_rules_do_not_cover_is_refused_by_path(current: Any, path: str) -> None:
    """No partial is built for it, and the message says where and why without a value."""
    baseline = state(child())
    with pytest.raises(Unmodelled) as caught:
        delta.build_partial(baseline, current)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "secret" not in str(caught.value)
    if isinstance(current, dict):
        delta.apply(baseline, current)  # never raises
        assert delta.choose(baseline, None, current) == delta.Choice("full", current)


# --- The full payload with purges ------------------------------------------------------------------------


@given(st.lists(st.tuples(small_payloads() | small_children(), st.booleans()), max_size=5), small_payloads())
def test_full_with_purges_is_right_whatever_has_arrived(
    sent: list[tuple[_Json, bool]], current: _Json
) -> None:
    """Out of all that was sent any part may have arrived: the outcome is the current payload."""
    table, known = _Flat(), delta.skeleton(None)
    for payload, arrived in sent:
        known = delta.merge_skeletons(known, delta.skeleton(payload))
        table = flat_apply(table, payload) if arrived else table
    full = delta.full_with_purges(known, current)
    assert flat_apply(table, full) == flat(current)
    assert flat(full) == flat(current)


@given(small_payloads(), small_payloads())
def test_full_payload_goes_as_it_is_if_nothing_is_to_be_purged(current: _Json, other: _Json) -> None:
    """The caller then gets the very object back and can send the stored bytes."""
    assert delta.full_with_purges(delta.skeleton(current), current) is current
    known = delta.skeleton(other)
    full = delta.full_with_purges(known, current)
    mentioned = {path for path, _ in _commands(current)}
    gone = {path for path, own in _commands(current) if own is None}
    missing = {
        path
        for path in paths_of(known)
        if path not in mentioned and not any(path[: len(purged)] == purged for purged in gone)
    }
    assert (full is current) == (not missing)


def test_what_the_payload_purges_itself_is_not_purged_again() -> None:
    """Neither the record nor what lies in it."""
    known = delta.skeleton(with_episodes(episode(adoption={}, child_in_need_plans=[plan("P1")])))
    current = child(child_details={"purge": True}, social_care_episodes=[episode(purge=True)])
    assert delta.full_with_purges({**known, "child_details": {}}, current) is current


def test_purges_lie_in_the_last_of_duplicates_and_first_in_their_list() -> None:
    """The last of duplicates counts; what was sent under the others is left as it is."""
    known = delta.skeleton(with_episodes(episode("E0"), episode(adoption={})))
    current = child(social_care_episodes=[episode(x=1), episode(x=2)], health_and_wellbeing=None)
    expected = [episode("E0", purge=True), episode(x=1), episode(x=2, adoption={"purge": True})]
    full = delta.full_with_purges(known, current)
    assert full == child(social_care_episodes=expected, health_and_wellbeing=None)
    assert list(full) == list(current)


# --- The choice ------------------------------------------------------------------------------------------


@given(edited_children())
def test_without_doubt_the_smaller_payload_is_chosen(pair: tuple[_Json, _Json]) -> None:
    """Nothing if nothing changed, else whichever of partial and full with purges is smaller."""
    before, after = pair
    baseline = state(before)
    choice = delta.choose(baseline, None, after)
    partial = delta.build_partial(baseline, after)
    full = delta.full_with_purges(delta.skeleton(baseline), after)
    assert len(delta.encode(partial)) <= len(delta.encode(full))
    assert (choice.kind == "unchanged") is (flat(before) == flat(after))
    if choice.kind == "unchanged":
        assert choice.payload is None
    elif len(delta.encode(partial)) < len(delta.encode(full)):
        assert (choice.kind, repr(choice.payload)) == ("partial", repr(partial))
    else:
        assert (choice.kind, repr(choice.payload)) == ("full", repr(full))


@given(edited_children(), small_payloads())
def test_in_doubt_the_full_payload_goes(pair: tuple[_Json, _Json], lost: _Json) -> None:
    """With anything unsure, and without a baseline, no partial is sent, not even if nothing changed."""
    before, after = pair
    baseline, unsure = state(before), delta.skeleton(lost)
    known = delta.merge_skeletons(delta.skeleton(baseline), unsure)
    full = delta.full_with_purges(known, after)
    assert repr(delta.choose(baseline, unsure, after)) == repr(delta.Choice("full", full))
    assert delta.choose(baseline, {}, before).kind == "full"
    chosen = delta.choose(None, None, after)
    assert (chosen.kind, chosen.payload is after) == ("full", True)


def test_the_purges_that_the_full_payload_needs_count_for_its_size() -> None:
    """A partial that is larger than the row's own payload is sent if the payload would need purges, too."""
    before = with_episodes(episode(child_in_need_plans=[plan(f"P{number}") for number in range(9)]))
    before["health_and_wellbeing"] = {}
    after = child(social_care_episodes=[episode()], health_and_wellbeing={})
    choice = delta.choose(state(before), None, after)
    assert choice.kind == "partial"
    assert len(delta.encode(choice.payload or {})) > len(delta.encode(after))


def test_duplicate_ids_send_the_full_payload() -> None:
    """So does a baseline of another la_child_id, whose records are not purged from this child."""
    twice = with_episodes(episode(x=1), episode(x=2))
    assert delta.choose(state(twice), None, twice) == delta.Choice("full", twice)
    renamed = {**child(), "la_child_id": "C2"}
    assert delta.choose(state(twice), None, renamed) == delta.Choice("full", renamed)


def test_a_current_payload_that_removes_the_child_goes_as_it_is() -> None:
    """Nothing is added to it, in doubt or not."""
    baseline = state(child(child_details={}))
    for choice in (
        delta.choose(baseline, None, PURGE_CHILD),
        delta.choose(baseline, {"child_details": {}}, PURGE_CHILD),
    ):
        assert (choice.kind, choice.payload is PURGE_CHILD) == ("full", True)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["partial", "partial", "full", "deletion"]),
        st.sampled_from(["acknowledged", "acknowledged", "lost on the way", "reply lost", "refused"]),
        st.integers(0, 3),
    ),
    max_size=10,
)


@given(edited_children(), small_children() | small_payloads(), _STEPS)
@example(
    (with_episodes(episode()), child()),
    child(),
    [("partial", "acknowledged", 0), ("full", "acknowledged", 1), ("partial", "acknowledged", 0)],
)
def test_after_an_acknowledgement_the_receiver_holds_the_current_payload(
    pair: tuple[_Json, _Json], other: _Json, steps: Sequence[tuple[str, str, int]]
) -> None:
    """Whatever was lost before, in whichever mode: for a receiver that applies everything by the rules, and
    for one that takes the full payloads of full mode for all there is.
    """
    versions = [*pair, other, {**pair[1], "x": "changed"}]
    applying, replacing = _Flat(), _Flat()
    baseline: State | None = None
    unsure: delta.Skeleton | None = None
    for mode, fate, number in steps:
        current = PURGE_CHILD if mode == "deletion" else versions[number]
        sent: _Json | None = current
        if mode == "partial":
            sent = delta.choose(baseline, unsure, current).payload
            if sent is None:
                assert applying == replacing == flat(current)
                continue
        assert sent is not None
        if fate in {"acknowledged", "reply lost"}:
            applying = flat_apply(applying, sent)
            replacing = flat(sent) if mode == "full" else flat_apply(replacing, sent)
        if fate in {"reply lost", "lost on the way"}:
            unsure = delta.merge_skeletons(unsure or {}, delta.skeleton(sent))
        if fate == "acknowledged":
            if mode == "partial":
                assert applying == replacing == flat(current)
            baseline = (
                delta.after_full(baseline, unsure, current) if mode == "full" else delta.normalise(current)
            )
            unsure = None
            assert applying.keys() <= flat(baseline).keys()


# --- The text --------------------------------------------------------------------------------------------


@given(children() | small_payloads())
def test_encoded_payloads_are_read_back_as_they_were(payload: _Json) -> None:
    """No value, type, key or order is lost on the way."""
    text = delta.encode(payload).decode()
    assert repr(parse(text)) == repr(payload)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1.10", "1.1"),
        ("1e2", "100.0"),
        ("1.0", "1.0"),
        ("-0.0", "-0.0"),
        ("1E-7", "1e-07"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('"\\u00e9\\u2028\\/"', '"\u00e9\u2028/"'),
        ('"\\ud83c\\udf1f"', '"\U0001f31f"'),
    ],
)
def test_only_the_way_of_writing_may_change(text: str, written: str) -> None:
    """Numbers and escapes may be written in another way; the value is the same."""
    payload = parse(f'{{"a": {text}}}')
    assert delta.encode(payload) == f'{{"a":{written}}}'.encode()
    assert repr(parse(delta.encode(payload).decode())) == repr(payload)


def test_half_a_character_cannot_be_sent() -> None:
    """What the strict reader refuses cannot leave by another way either."""
    with pytest.raises(ValueError, match="surrogates"):
        delta.encode({"a": "\ud800"})


def test_a_deletion_is_a_payload_like_any_other() -> None:
    """The deletion object removes the child by the rules."""
    assert delta.apply(state(child(x=1)), parse(deletion("C1", "M1").decode())) is None


# --- Size ------------------------------------------------------------------------------------------------


def test_one_changed_field_sends_a_fraction_of_the_payload() -> None:
    """Over the fake children, a field changed in one record sends less than a quarter of the full payload."""
    chance = random.Random(1)
    full = partial = 0
    for row in fake_children(200):
        after = copy.deepcopy(row.payload)
        record = chance.choice([after["child_details"], *after["social_care_episodes"]])
        record["unknown"] = "changed"
        choice = delta.choose(state(row.payload), None, after)
        assert choice.kind == "partial"
        full += len(delta.encode(after))
        partial += len(delta.encode(choice.payload or {}))
    assert partial < full / 4

"""Promises of semantic.py: which changes of a payload count, and how many records it holds."""

from __future__ import annotations

import copy
import hashlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.payload import canonical, parse
from api_pipeline.semantic import ID_LISTS, record_counts, semantic_hash
from tests.strategies import CHILD_KIND, FIELDS, RecordKind, children, minimal, small_children

SIX_LISTS = {
    "social_care_episodes",
    "child_and_family_assessments",
    "child_in_need_plans",
    "section_47_assessments",
    "child_protection_plans",
    "child_looked_after_placements",
}


def projection(kind: RecordKind, record: Any) -> Any:
    """Return what counts of a record: ssd, section 4, written down a second time, without regard to speed."""
    if not isinstance(record, dict):
        return record
    nested = {inner.name: inner for inner in kind.nested}
    counts: dict[str, Any] = {}
    for name, value in record.items():
        if name == "purge" or (name == kind.id_field and kind is not CHILD_KIND):
            continue
        counts[name] = value
        if name in SIX_LISTS and name in nested and isinstance(value, list):
            counts[name] = sorted((projection(nested[name], item) for item in value), key=canonical)
        elif name in nested and name not in SIX_LISTS:
            counts[name] = projection(nested[name], value)
    return counts


def disguised(kind: RecordKind, record: Any, source: random.Random) -> Any:
    """Return a record with other ids and purge flags, and its lists with ids in another order."""
    if not isinstance(record, dict):
        return record
    changed = dict(record)
    if kind is not CHILD_KIND and kind.id_field:
        changed[kind.id_field] = str(source.random())
    changed.pop("purge", None)
    if source.random() < 0.5:
        changed["purge"] = source.choice([True, False, None])
    for inner in kind.nested:
        value = record.get(inner.name)
        if inner.name in SIX_LISTS and isinstance(value, list):
            items = [disguised(inner, item, source) for item in value]
            changed[inner.name] = source.sample(items, len(items))
        elif inner.name in record and inner.name not in SIX_LISTS:
            changed[inner.name] = disguised(inner, value, source)
    names = source.sample(list(changed), len(changed))
    return {name: changed[name] for name in names}


PAYLOADS = children(known_codes=False) | small_children()


def test_id_lists_are_the_six_of_the_specification() -> None:
    """No other list has items with ids of their own."""
    assert set(ID_LISTS) == SIX_LISTS
    assert len(ID_LISTS) == 6


@given(PAYLOADS)
def test_hash_is_that_of_the_canonical_projection(payload: dict[str, Any]) -> None:
    """SHA-256 of what counts, as canonical JSON: so it sees everything else, to the last field."""
    assert semantic_hash(payload) == hashlib.sha256(canonical(projection(CHILD_KIND, payload))).digest()


@given(PAYLOADS, st.integers())
def test_hash_is_blind_to_ids_purge_flags_and_the_order_of_the_six_lists(
    payload: dict[str, Any], seed: int
) -> None:
    """New ids overnight, rows in another order: no change."""
    assert semantic_hash(disguised(CHILD_KIND, payload, random.Random(seed))) == semantic_hash(payload)


@given(PAYLOADS)
def test_hashing_and_counting_change_nothing(payload: dict[str, Any]) -> None:
    """What is handed in is sent afterwards."""
    before = copy.deepcopy(payload)
    semantic_hash(payload)
    record_counts(payload)
    assert repr(payload) == repr(before)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_hash_sees_each_field_but_record_ids_and_purge_flags(field: Any) -> None:
    """A change in any field of the specification is a change, but for those two kinds."""
    name = field.path.rpartition(".")[2]
    record_id = field.required and field.path != "la_child_id"
    same = semantic_hash(minimal(field.path, "one")) == semantic_hash(minimal(field.path, "two"))
    assert same is (record_id or name == "purge")


@pytest.mark.parametrize("name", ["la_child_id", "mis_child_id", "another_id", ""])
def test_hash_sees_the_ids_of_the_child(name: str) -> None:
    """Only nested records lose their ids, and no other field is taken for one."""
    child = {"la_child_id": "1", "mis_child_id": "1", "another_id": "1", "": "1"}
    assert semantic_hash(child | {name: "2"}) != semantic_hash(child)


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("care_worker_details", [{"worker_id": "1"}, {"worker_id": "2"}]),
        ("unheard_of", [{"purge": True}, {"purge": False}]),
    ],
)
def test_hash_sees_the_order_and_content_of_the_other_lists(name: str, items: list[Any]) -> None:
    """Order means something in lists without record ids, and so does whatever stands in them."""

    def child(listed: list[Any]) -> dict[str, Any]:
        return {"la_child_id": "1", "social_care_episodes": [{"social_care_episode_id": "1", name: listed}]}

    assert semantic_hash(child(items)) != semantic_hash(child(items[::-1]))


def test_hash_sees_how_often_a_record_is_there() -> None:
    """Two records that are alike but for the id are not one."""
    episode = {"referral_date": "2025-01-01"}
    one: dict[str, Any] = {"social_care_episodes": [episode]}
    assert semantic_hash(one) != semantic_hash({"social_care_episodes": [episode, episode]})


def test_hash_tells_json_values_apart_that_python_takes_for_equal() -> None:
    """1, 1.0 and true are three values, and so are null and nothing."""
    values = [1, 1.0, True, "1", None]
    hashes = {semantic_hash({"x": value}) for value in values} | {semantic_hash({})}
    assert len(hashes) == len(values) + 1


@pytest.mark.parametrize(
    "value",
    [
        0.0,
        -0.0,
        1e16,
        -1e16,
        1e-7,
        5e-324,
        1e22,
        1.5,
        2**64,
        -(2**63) - 1,
        None,
        "1.5",
        "e5,null]",
        "\x7f\u2028",
    ],
)
@pytest.mark.parametrize(
    "wrapped", [lambda value: value, lambda value: [value], lambda value: {"a": [value]}]
)
def test_hash_is_of_the_canonical_text_whatever_the_number(value: Any, wrapped: Any) -> None:
    """Numbers are written as everywhere in this tool, wherever they stand."""
    child = {"social_care_episodes": [{"b": wrapped(value)}, {"a": wrapped(value)}], "z": wrapped(value)}
    ordered = child | {"social_care_episodes": child["social_care_episodes"][::-1]}
    assert semantic_hash(child) == hashlib.sha256(canonical(ordered)).digest()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_hash_refuses_what_is_no_number(value: float) -> None:
    """The strict reader never returns it."""
    with pytest.raises(ValueError, match="JSON compliant"):
        semantic_hash({"social_care_episodes": [{"x": [value]}]})


def test_hash_of_a_payload_that_was_read_back_is_the_same() -> None:
    """So a stored payload can be compared with one that was just built."""
    child = {"la_child_id": "1", "child_details": {"first_name": 'Zo\u00eb \U0001f31f "\\\n\u0000'}}
    assert semantic_hash(parse(canonical(child).decode())) == semantic_hash(child)


def test_counts_are_over_all_episodes() -> None:
    """Every one of the six lists is counted, also those that are not there."""
    payload: dict[str, Any] = {
        "social_care_episodes": [
            {"child_in_need_plans": [{}, {}], "care_worker_details": [{}]},
            {"child_in_need_plans": [{}], "section_47_assessments": [{}], "adoption": {}},
            {"child_in_need_plans": None},
        ]
    }
    expected = dict.fromkeys(SIX_LISTS, 0)
    expected |= {"social_care_episodes": 3, "child_in_need_plans": 3, "section_47_assessments": 1}
    assert record_counts(payload) == expected
    assert record_counts({}) == dict.fromkeys(SIX_LISTS, 0)

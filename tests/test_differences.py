"""Differences are told as paths, completely, and without a value or an id of any record."""

from __future__ import annotations

from typing import Any

from hypothesis import given

from api_pipeline import delta
from api_pipeline.differences import Differences, compare, count_records
from tests.strategies import edited_children

BEFORE: dict[str, Any] = {
    "la_child_id": "fake-1",
    "child_details": {"first_name": "Ffion", "postcode": "ZZ1 1ZZ", "uasc_flag": False},
    "health_and_wellbeing": {"sdq_assessments": []},
    "social_care_episodes": [
        {"social_care_episode_id": "E1", "adoption": {"matched_date": "2024-01-01"}},
        {
            "social_care_episode_id": "E2",
            "closure_reason": "RC1",
            "child_in_need_plans": [{"child_in_need_plan_id": "N1"}, {"child_in_need_plan_id": "N2"}],
        },
    ],
}
AFTER: dict[str, Any] = {
    "la_child_id": "fake-1",
    "child_details": {"first_name": "Ffion", "uasc_flag": True, "sex": "F"},
    "social_care_episodes": [
        {"social_care_episode_id": "E3"},
        {
            "social_care_episode_id": "E2",
            "closure_reason": "RC1",
            "child_in_need_plans": [{"child_in_need_plan_id": "N3"}],
        },
    ],
}


def partial(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the partial payload from one to the other."""
    state = delta.normalise(before)
    assert state is not None
    return delta.build_partial(state, after)


def test_partial_payload_told_as_paths() -> None:
    """What is added, changed, cleared and purged, with the places of the row's own payload."""
    found = compare(delta.normalise(BEFORE), AFTER, partial(BEFORE, AFTER))
    assert found == Differences(
        added=(
            "$.child_details.sex",
            "$.social_care_episodes[1].child_in_need_plans[0]",
            "$.social_care_episodes[0]",
        ),
        changed=("$.child_details.uasc_flag",),
        cleared=("$.child_details.postcode",),
        purged=(
            "$.health_and_wellbeing",
            "$.social_care_episodes[-]",
            "$.social_care_episodes[1].child_in_need_plans[-] x2",
        ),
    )


def test_full_payload_leaves_what_vanished() -> None:
    """Nothing is purged by it, and the records that stay at DfE are named."""
    found = compare(delta.normalise(BEFORE), AFTER, AFTER)
    assert found.purged == ()
    assert sorted(found.staying) == [
        "$.health_and_wellbeing",
        "$.social_care_episodes[-]",
        "$.social_care_episodes[1].child_in_need_plans[-] x2",
    ]


def test_child_that_dfe_is_not_known_to_hold_is_new_as_a_whole() -> None:
    """One path stands for all, beside the purges of what may be there."""
    sent = delta.full_with_purges(delta.skeleton(BEFORE), AFTER)
    found = compare(None, AFTER, sent)
    assert found.added == ("$",)
    assert "$.social_care_episodes[-]" in found.purged


def test_values_that_only_look_equal_are_changes() -> None:
    """1, 1.0 and true are three values."""
    before = {"la_child_id": "fake-1", "a": 1, "b": True, "c": 1.0}
    after = {"la_child_id": "fake-1", "a": True, "b": True, "c": 1}
    assert compare(delta.normalise(before), after, after).changed == ("$.a", "$.c")


def test_records_are_counted() -> None:
    """The child and each record below it."""
    assert count_records(delta.skeleton(BEFORE)) == 1 + 2 + 2 + 1 + 2
    assert count_records({}) == 1


@given(edited_children())
def test_no_difference_exactly_if_the_states_are_equal(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Whatever the payloads, something is named if and only if something is different."""
    before, after = pair
    held = delta.normalise(before)
    found = compare(held, after, after)
    named = any(found.named.values())
    assert named is not delta.same(held, delta.normalise(after))

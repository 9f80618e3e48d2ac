"""The survey decides what concerns several rows: shared ids, purges, the brake (domain, sections 3, 5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import db, planning
from api_pipeline.id_set import IdSet
from api_pipeline.names import TableName
from api_pipeline.planning import Plan
from api_pipeline.staging import Scope, StagingTable
from tests.staging_kit import MARKER, Staging, child


@pytest.fixture
def table(local: Staging) -> Iterator[StagingTable]:
    """The package's view of the table ``local``."""
    with db.connect(local.database.connection_string) as connection:
        yield StagingTable(connection, TableName.parse(local.table))


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_id_set_is_a_set(first: list[str], second: list[str]) -> None:
    """Whatever is added is in, nothing else is, and repetitions are known; asking between adding is fine."""
    ids = IdSet()
    assert not ids
    for each in first:
        ids.add(each)
    assert all(each in ids for each in first)
    for each in second:
        ids.add(each)
    both = first + second
    assert bool(ids) is bool(both)
    assert [each in ids for each in [*both, "never added"]] == [True] * len(both) + [False]
    assert len(ids) == len(both)
    assert {*ids} == {hash(each) for each in both}
    assert all(ids.has_hash(hash(each)) for each in both)
    assert ids.repeated() == {hash(each) for each in both if both.count(each) > 1}


@given(st.integers(0, 100), st.integers(0, 400), st.floats(0, 100))
def test_brake_holds_only_above_both_limits(deletions: int, others: int, percent: float) -> None:
    """More than 20, and more than the share of the people not yet purged."""
    people = deletions + others
    plan = Plan(deletions=deletions, people=people)
    assert plan.brake_holds(percent) == (deletions > 20 and deletions * 100 / max(people, 1) > percent)


def test_survey_counts_what_the_run_is_about(local: Staging, table: StagingTable) -> None:
    """Due rows after --limit and --person-id; ids, deletions and people over the whole table."""
    for number in range(5):
        local.add(f"p{number}", child(f"c{number}"))
    local.add_sent("gone", child("c9"), "Deleted")
    local.add_sent("purged", child("c8"), "Deleted", current_hash=MARKER)
    local.add_sent("sent", child("c7"))
    plan = planning.survey(table, Scope(), None)
    assert (plan.due, plan.last_key, plan.deletions, plan.people) == (6, None, 1, 7)
    plan = planning.survey(table, Scope(), 3)
    assert (plan.due, plan.last_key, plan.deletions) == (3, local.rows()[2]["id"], 1)
    plan = planning.survey(table, Scope(("p4", "sent")), 3)
    assert (plan.due, plan.deletions) == (1, 1)
    assert "c0" in plan.child_ids
    assert "c7" not in plan.child_ids
    plan = planning.survey(table, Scope(("sent", "purged"), resend=True), None)
    assert (plan.due, plan.deletions) == (2, 2)


def test_many_who_share_an_id_are_named_in_part(local: Staging, table: StagingTable) -> None:
    """Ten of the others are named, the rest are counted; no person_id or child id is in the message."""
    for number in range(15):
        local.add(f"person{number}", child("shared-child"))
    plan = planning.survey(table, Scope(), None)
    keys = [row["id"] for row in local.rows()]
    assert set(plan.blocked) == set(keys)
    message = plan.blocked[keys[0]]
    assert ", ".join(str(key) for key in keys[1:11]) in message
    assert "and 4 more" in message
    assert "shared-child" not in message
    assert "person0" not in message


def test_purge_of_an_earlier_id_is_planned_only_where_it_is_safe(local: Staging, table: StagingTable) -> None:
    """Not for ids that a due or an acknowledged row holds, that were purged, or that did not change."""
    cases = {
        "moved": ("a2", "a1", {}),
        "same": ("b1", "b1", {}),
        "back": ("c2", "c1", {"previous_hash": MARKER}),
        "taken": ("d2", "holder-due", {}),
        "held": ("e2", "holder-sent", {}),
        "unreadable": ("f2", None, {}),
    }
    for person, (current, earlier, more) in cases.items():
        previous = "?" if earlier is None else child(earlier)
        local.add(person, child(current), "Pending", "Updated", previous_json_payload=previous, **more)
    local.add("x", child("holder-due"))
    local.add_sent("y", child("holder-sent"))
    plan = planning.survey(table, Scope(), None)
    assert plan.retiring == {local.row("moved")["id"]: ["a1"]}
    assert plan.elsewhere == {"holder-due", "holder-sent"}
    assert plan.blocked == {}


def test_holders_of_an_id_are_looked_for_only_if_something_is_purged(
    local: Staging, table: StagingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night without deletions and changed ids reads no row that is not due."""
    local.add("p1", child("c1"))
    local.add_sent("p2", child("c2"))

    def unexpected() -> Iterator[tuple[int, str]]:
        raise AssertionError("the whole table was read")

    monkeypatch.setattr(table, "scan_acknowledged", unexpected)
    assert planning.survey(table, Scope(), None).due == 1


def test_rows_beyond_the_limit_keep_their_earlier_ids(local: Staging, table: StagingTable) -> None:
    """A child whose new id waits for another run must not be purged under the earlier one tonight."""
    for number in range(3):
        previous = child(f"old{number}")
        local.add(f"p{number}", child(f"new{number}"), "Pending", "Updated", previous_json_payload=previous)
    plan = planning.survey(table, Scope(), 2)
    assert sorted(ids for [ids] in plan.retiring.values()) == ["old0", "old1"]

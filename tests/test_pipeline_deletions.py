"""DfE keeps no child under an id that is gone, and an emptied source empties nothing (domain, section 5)."""

from __future__ import annotations

from typing import Any

import pytest

from api_pipeline.errors import ExitCode
from api_pipeline.faults import Fault
from tests.staging_kit import (
    MARKER,
    HookedReceiver,
    Staging,
    child,
    run,
    sent_ids,
)

# --- A la_child_id that changed ---------------------------------------------------------------------------


def test_changed_id_is_purged_and_acknowledged_before_the_new_one(
    staging: Staging, hooked: HookedReceiver
) -> None:
    """The purge of the old id is an earlier request; after both, DfE holds the child once."""
    staging.add("p1", child("old"))
    staging.add("p2", child("c2"))
    run(staging, hooked)
    staging.refresh("p1", child("new"))
    staging.refresh("p2", child("c2", first_name="X"))
    summary = run(staging, hooked)
    assert sent_ids(hooked)[1:] == [["-old"], ["new", "c2"]]
    assert set(hooked.children) == {"new", "c2"}
    assert (summary.sent, summary.deleted, summary.exit_code) == (2, 0, ExitCode.OK)
    assert staging.row("p1")["previous_json_payload"] == child("new")


def test_new_id_waits_while_the_purge_of_the_old_one_is_refused(
    staging: Staging, hooked: HookedReceiver
) -> None:
    """Refused, the purge leaves an error and nothing goes under the new id; the next run tries again."""
    staging.add_sent("p1", child("old"))
    staging.refresh("p1", child("new"))
    staging.add("p2", child("c2"))
    hooked.faults.add(Fault("400", child="old"))
    summary = run(staging, hooked)
    assert sent_ids(hooked) == [["-old"], ["c2"]]
    assert (summary.failed, summary.sent, summary.exit_code) == (1, 1, ExitCode.FAILED)
    assert staging.row("p1")["submission_status"] == "error"
    run(staging, hooked)
    assert sent_ids(hooked)[2:] == [["-old"], ["new"]]
    assert set(hooked.children) == {"new", "c2"}


def test_new_id_waits_while_the_purge_of_the_old_one_is_in_doubt(
    local: Staging, hooked: HookedReceiver
) -> None:
    """A lost reply proves nothing: the row stays as it was and the next run begins with the purge again."""
    local.add_sent("p1", child("old"))
    local.refresh("p1", child("new"))
    hooked.faults.add(Fault("lost-reply"))
    before = local.rows()
    summary = run(local, hooked)
    assert (summary.exit_code, summary.unsure, summary.left_due) == (ExitCode.API, 1, 1)
    assert local.rows() == before
    assert run(local, hooked).exit_code == ExitCode.OK
    assert set(hooked.children) == {"new"}


def test_deleted_child_whose_id_had_changed_is_purged_under_both(
    local: Staging, hooked: HookedReceiver
) -> None:
    """One purge for each id that DfE may hold, and the marker only after both."""
    local.add_sent("p1", child("old"))
    local.refresh("p1", child("new"))
    local.update("p1", row_state="Deleted")
    summary = run(local, hooked)
    assert hooked.purged == ["old", "new"]
    assert summary.deleted == 1
    assert local.row("p1")["current_hash"] == MARKER


def test_purged_id_is_not_purged_again_when_the_child_returns_under_another(
    local: Staging, hooked: HookedReceiver
) -> None:
    """previous_hash with the marker says that DfE holds nothing for this person."""
    local.add_sent("p1", child("old"), "Deleted")
    run(local, hooked)
    local.refresh("p1", child("new"))
    run(local, hooked)
    assert hooked.purged == ["old"]
    assert set(hooked.children) == {"new"}


def test_earlier_id_that_another_due_row_holds_is_left_to_that_row(
    local: Staging, hooked: HookedReceiver
) -> None:
    """Two children swapped ids: purging would take one of them away."""
    local.add_sent("p1", child("a"))
    local.add_sent("p2", child("b"))
    local.refresh("p1", child("b", first_name="P1"))
    local.refresh("p2", child("a", first_name="P2"))
    assert run(local, hooked).sent == 2
    assert hooked.purged == []
    assert hooked.children["a"]["child_details"] == {"first_name": "P2"}


# --- The brake on deletions -------------------------------------------------------------------------------


def _table_with_deletions(staging: Staging, deletions: int, people: int) -> None:
    for number in range(people):
        add_deleted = number < deletions
        staging.add_sent(f"p{number:03}", child(f"c{number}"), "Deleted" if add_deleted else "unchanged")
    staging.add("due", child("due"))


@pytest.mark.parametrize(
    ("deletions", "people", "percent", "held"),
    [
        (20, 20, 10, False),  # up to 20 never count
        (21, 209, 10, False),  # 21 of 210: exactly 10 percent is not more
        (21, 208, 10, True),
        (21, 30, 100, False),
        (21, 30, 0, True),
    ],
)
def test_brake_on_deletions(
    local: Staging, hooked: HookedReceiver, deletions: int, people: int, percent: int, held: bool
) -> None:
    """More than 20 and more than the share: the rest is sent, deletions stay due, code 1."""
    _table_with_deletions(local, deletions, people)
    summary = run(local, hooked, MAX_DELETIONS_PERCENT=percent)
    assert summary.sent == 1
    assert summary.deleted == len(hooked.purged) == (0 if held else deletions)
    assert summary.deletions_held_back == (deletions if held else 0)
    assert summary.exit_code == (ExitCode.FAILED if held else ExitCode.OK)
    if held:
        assert run(local, hooked, MAX_DELETIONS_PERCENT=percent, allow_deletions=True).deleted == deletions
        assert set(hooked.purged) == {f"c{number}" for number in range(deletions)}


def test_brake_counts_before_limit_and_person(local: Staging, hooked: HookedReceiver) -> None:
    """An emptied source does not get through in small portions."""
    _table_with_deletions(local, 30, 40)
    for narrowed in ({"limit": 5}, {"persons": ("p001", "p002")}):
        summary = run(local, hooked, **narrowed)
        assert (summary.deleted, summary.exit_code) == (0, ExitCode.FAILED)
    assert hooked.purged == []


def test_brake_counts_neither_purged_nor_held_nor_blocked(local: Staging, hooked: HookedReceiver) -> None:
    """Only deletions that would be sent count, against the people not yet purged."""
    for number in range(60):
        local.add_sent(f"purged{number}", child(f"x{number}"), "Deleted", current_hash=MARKER)
        local.add(f"held{number}", child(f"y{number}"), "hold", "Deleted")
    for number in range(20):
        local.add_sent(f"gone{number}", child(f"z{number}"), "Deleted")
    for number in range(30):
        local.add_sent(f"twin{number // 2}", child(f"t{number}"), "Deleted")
    local.add_sent("unreadable", "x", "Deleted", previous_json_payload=None)
    assert run(local, hooked, MAX_DELETIONS_PERCENT=1).deleted == 20


def test_brake_holds_the_purge_of_a_leaver_s_earlier_id_too(local: Staging, hooked: HookedReceiver) -> None:
    """A person marked Deleted keeps every id at DfE while the brake holds; whoever stays moves on."""
    for number in range(30):
        local.add_sent(f"p{number}", child(f"c{number}"))
        local.refresh(f"p{number}", child(f"n{number}"))
        local.update(f"p{number}", row_state="Deleted")
    local.add_sent("stays", child("old"))
    local.refresh("stays", child("new"))
    summary = run(local, hooked)
    assert hooked.purged == ["old"]
    assert (summary.sent, summary.deletions_held_back) == (1, 30)


def test_row_that_is_refused_for_its_person_purges_nothing(local: Staging, hooked: HookedReceiver) -> None:
    """Rows that share a person_id are not sent, and neither is the purge of an id that one of them had."""
    local.add_sent("twin", child("old"))
    local.refresh("twin", child("new"))
    local.add_sent("twin", child("other"))
    assert run(local, hooked).failed == 1
    assert not hooked.submissions


def test_brake_does_not_count_deletions_that_share_an_id(local: Staging, hooked: HookedReceiver) -> None:
    """Deletions that become errors are not sent, so they do not hold the others back."""
    for number in range(20):
        local.add_sent(f"p{number}", child(f"c{number}"), "Deleted")
    for number in range(6):
        local.add_sent(f"q{number}", child(f"shared{number // 2}"), "Deleted")
    summary = run(local, hooked, MAX_DELETIONS_PERCENT=1)
    assert (summary.deleted, summary.errors["shared id"], summary.deletions_held_back) == (20, 6, 0)


def test_unreadable_deletion_purges_no_id_that_others_hold(local: Staging, hooked: HookedReceiver) -> None:
    """The previous payload's id is used only while nobody else is due or acknowledged under it."""
    local.add_sent("acknowledged", child("a"))
    local.add("due", child("d"))
    local.add_sent("p1", "unreadable", "Deleted", previous_json_payload=child("a"))
    local.add_sent("p2", "unreadable", "Deleted", previous_json_payload=child("d"))
    summary = run(local, hooked)
    assert hooked.purged == []
    assert (summary.sent, summary.failed) == (1, 2)


def test_row_that_came_under_an_id_nobody_looked_at_waits(local: Staging, hooked: HookedReceiver) -> None:
    """Refreshed after the survey, an id may be somebody else's: the row is left to the next run."""
    local.add_sent("gone", child("g"), "Deleted")
    local.add("late", child("l1"))
    local.add_sent("leaver", child("x1"))

    def meddle(records: Any) -> None:
        if records[0]["la_child_id"] == "g":
            local.refresh("late", child("l2"))

    hooked.hook = meddle
    summary = run(local, hooked)
    assert (summary.deleted, summary.sent, summary.changed_meanwhile) == (1, 0, 1)
    assert local.row("late")["submission_status"] == "Pending"
    hooked.hook = None
    run(local, hooked)
    assert set(hooked.children) == {"l2"}

"""``explain`` answers why a child was sent, or was not, or is sent again; and it touches nothing.

What it says comes next is held against what the next run then does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from api_pipeline import pipeline, provision, spool
from api_pipeline.errors import ExitCode
from api_pipeline.explain import ATTEMPTS_SHOWN, explain
from api_pipeline.explanation import Explanation
from api_pipeline.faults import Fault
from api_pipeline.ledger import Ledger
from api_pipeline.locking import RunLock
from api_pipeline.pipeline import RunOptions
from tests.databases import Database
from tests.db_kit import opened
from tests.staging_kit import (
    MARKER,
    HookedReceiver,
    Staging,
    child,
    digest,
    receipt_uuid,
    run,
    sent_records,
    settings_of,
)

PARTIAL = {"USE_PARTIAL_PAYLOAD": "true"}


@pytest.fixture
def remembering(database: Database) -> Staging:
    """An empty staging table in each database, with log and baseline beside it."""
    staging = Staging(database).create()
    provision.init_db(settings_of(staging, None))
    return staging


@pytest.fixture
def near(sqlite_database: Database) -> Staging:
    """The same in SQLite, for what no dialect changes."""
    staging = Staging(sqlite_database).create()
    provision.init_db(settings_of(staging, None))
    return staging


def ask(
    staging: Staging, person_id: str, receiver: HookedReceiver | None = None, **changes: Any
) -> Explanation:
    """Ask about a person, with the settings of a live run where there is a receiver."""
    return explain(settings_of(staging, receiver, **changes), person_id)


def episodes(child_id: str, *numbers: int, **details: Any) -> str:
    """Return a payload with these episodes, large enough for a partial one to be smaller."""
    listed = [{"social_care_episode_id": f"E{n}", "referral_date": f"2024-01-{n:02}"} for n in numbers]
    return json.dumps({"la_child_id": child_id, "child_details": details, "social_care_episodes": listed})


def kinds(steps: Any) -> list[str]:
    """Return the kinds of steps."""
    return [step.kind for step in steps]


# --- Why due, and why not ---------------------------------------------------------------------------------


def test_unknown_person(remembering: Staging) -> None:
    """The command ends with 1 and says where it looked."""
    found = ask(remembering, "nobody")
    assert (found.exit_code, found.known) == (ExitCode.FAILED, False)
    assert "nobody is not known: " in found.answer
    assert found.as_text() == found.answer


def test_new_child_then_sent_then_changed(remembering: Staging, hooked: HookedReceiver) -> None:
    """The three ordinary answers, with the receipt, the hashes and the attempt between them."""
    remembering.add("p1", episodes("c1", 1, 2, 3, first_name="Ffion"))
    new = ask(remembering, "p1", hooked)
    assert new.exit_code == ExitCode.OK
    assert "is due, because the status is pending: the next live run sends it in full" in new.answer
    assert kinds(new.rows[0].full) == kinds(new.rows[0].partial) == ["full"]
    assert new.rows[0].full[0].size == len(episodes("c1", 1, 2, 3, first_name="Ffion"))
    assert (new.baseline, new.attempts, new.remembered) == (None, (), True)

    run(remembering, hooked, **PARTIAL)
    uuid = receipt_uuid(hooked, "c1")
    sent = ask(remembering, "p1", hooked)
    assert "is not due, so nothing is sent: it was acknowledged on " in sent.answer
    assert sent.rows[0].response == uuid
    assert [rule.value for rule in sent.rows[0].rules] == ["sent_and_unchanged"]
    assert kinds(sent.rows[0].partial) == ["nothing"]
    assert sent.baseline is not None
    assert (sent.baseline.state, sent.baseline.child_id, sent.baseline.receipt) == (
        "acknowledged",
        "c1",
        uuid,
    )
    [line] = sent.attempts
    assert (line.kind, line.outcome, line.posts, line.http_status) == ("full", "sent", 1, 200)
    assert line.detail == hooked.receipts["c1"].removesuffix(".json") or line.detail == hooked.receipts["c1"]

    remembering.refresh("p1", episodes("c1", 1, 3, first_name="Fiona"))
    changed = ask(remembering, "p1", hooked, **PARTIAL)
    assert "the next live run sends what changed" in changed.answer
    [step] = changed.rows[0].partial
    assert step.kind == "partial"
    assert step.differences is not None
    assert step.differences.changed == ("$.child_details.first_name",)
    assert step.differences.purged == ("$.social_care_episodes[-]",)
    [whole] = changed.rows[0].full
    assert whole.differences is not None
    assert whole.differences.staying == ("$.social_care_episodes[-]",)
    hooked.requests.clear()
    run(remembering, hooked, **PARTIAL)
    [[record]] = sent_records(hooked)
    assert step.size == len(json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode())


def test_equal_to_the_baseline(remembering: Staging, hooked: HookedReceiver) -> None:
    """Partial mode sends nothing and says so; full mode would send it again."""
    remembering.add("p1", child("c1"))
    run(remembering, hooked)
    remembering.refresh("p1", json.dumps(json.loads(child("c1")), indent=1))
    found = ask(remembering, "p1", hooked, **PARTIAL)
    assert "nothing goes out, because equal to the baseline" in found.answer
    assert kinds(found.rows[0].partial) == ["nothing"]
    [full] = found.rows[0].full
    assert (full.kind, any(full.differences.named.values() if full.differences else [True])) == (
        "full",
        False,
    )


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda s: s.add("p1", child("c1"), "Hold"), "the status 'hold' is none that the tool sends"),
        (lambda s: s.add("p1", child("c1"), "Error", api_response="HTTP 400: Smith"), "ended in an error"),
        (lambda s: s.add("p1", child("c1"), "testing"), "testing, which is no submission"),
        (
            lambda s: s.add_sent("p1", child("c1"), previous_hash=digest("older")),
            "the status is sent, but the hashes differ",
        ),
        (lambda s: s.add("p1", child("c1", sex="X")), "its payload has structural faults"),
        (
            lambda s: s.add_sent("p1", child("c1"), "deleted", current_hash=MARKER),
            "the child left, and DfE acknowledged the deletion on 2001-02-03",
        ),
        (lambda s: s.add("p1", child("c1"), state="Deleted"), "never sent: nothing to purge"),
        (lambda s: s.add_sent("p1", child("c1"), "Deleted"), "the next live run sends the deletion"),
    ],
)
def test_each_rule_has_its_sentence(near: Staging, prepare: Callable[[Staging], None], words: str) -> None:
    """The first line says which rule it is."""
    prepare(near)
    found = ask(near, "p1")
    assert words in found.answer
    assert found.answer == found.as_text().splitlines()[0]
    assert found.answer.isascii()


def test_faults_are_named_by_path_and_rule(near: Staging) -> None:
    """And what is wrong with them is not shown."""
    near.add("p1", child("c1", sex="SECRET", postcode="SECRET PLACE"))
    found = ask(near, "p1")
    assert set(found.rows[0].faults) == {"$.child_details.sex: enum", "$.child_details.postcode: max_length"}
    assert kinds(found.rows[0].full) == ["error"]


def test_nothing_of_the_child_is_shown(near: Staging, hooked: HookedReceiver) -> None:
    """Neither values of either payload nor what DfE wrote, in text or in JSON, whatever happened."""
    near.add("p1", episodes("c1", 1, 2, first_name="Siobhan", surname="O'Secret"))
    run(near, hooked, **PARTIAL)
    near.refresh("p1", episodes("c1", 2, first_name="Sinead", surname="O'Secret"))
    near.update("p1", api_response="HTTP 400: [0] surname 'O'Secret' is bad", submission_status="Error")
    found = ask(near, "p1", hooked)
    for shown in (found.as_text(), json.dumps(found.as_json())):
        assert "$.child_details.first_name" in shown
        assert "HTTP 400 from the API" in shown
        for private in ("Siobhan", "Sinead", "Secret", "2024-01", '"E1"'):
            assert private not in shown


# --- What keeps a row back --------------------------------------------------------------------------------


def test_shared_person_id(remembering: Staging) -> None:
    """The rows are named, and each is shown."""
    remembering.add("p1", child("c1"))
    remembering.add("p1", child("c2"))
    found = ask(remembering, "p1")
    ids = [row["id"] for row in remembering.rows()]
    assert f"rows {ids[0]}, {ids[1]} share this person_id" in found.answer
    assert [row.facts.key for row in found.rows] == ids
    assert all(str(other) in row.blocked for row, other in zip(found.rows, ids[::-1], strict=True))


def test_shared_child_id(remembering: Staging) -> None:
    """The other due row is named."""
    remembering.add("p1", child("same"))
    remembering.add("p2", child("same"))
    other = remembering.row("p2")["id"]
    found = ask(remembering, "p1")
    assert "is due but is not sent" in found.answer
    assert f"The same la_child_id is in row {other}" in found.rows[0].blocked
    assert kinds(found.rows[0].full) == ["error"]


def test_child_id_that_another_persons_baseline_holds(remembering: Staging, hooked: HookedReceiver) -> None:
    """A row that is not due holds the id at DfE."""
    remembering.add("p2", child("same"))
    run(remembering, hooked)
    remembering.add("p1", child("same"))
    found = ask(remembering, "p1", hooked)
    assert f"The same la_child_id is in row {remembering.row('p2')['id']}" in found.rows[0].blocked


def test_no_smaller_partial(near: Staging, hooked: HookedReceiver) -> None:
    """A payload that is all child_details goes in full, and the reason is its size."""
    near.add("p1", child("c1", first_name="Ffion"))
    run(near, hooked, **PARTIAL)
    near.refresh("p1", child("c1", first_name="Fiona"))
    found = ask(near, "p1", hooked, **PARTIAL)
    assert "because a partial payload would be no smaller" in found.answer
    assert found.rows[0].full[0].why == ""


def test_brake_on_deletions(near: Staging, hooked: HookedReceiver) -> None:
    """A deletion that the brake would hold back is said to be."""
    for number in range(30):
        near.add_sent(f"p{number}", child(f"c{number}"), "Deleted")
    found = ask(near, "p3", hooked)
    assert "held back with the other deletions until --allow-deletions" in found.answer


# --- Sent again -------------------------------------------------------------------------------------------


def test_lost_reply(remembering: Staging, hooked: HookedReceiver) -> None:
    """The attempt is unsure, records are in doubt, and the next one is in full for that reason."""
    remembering.add("p1", episodes("c1", 1, 2))
    run(remembering, hooked, **PARTIAL)
    remembering.refresh("p1", episodes("c1", 1, 3))
    hooked.faults.add(Fault("lost-reply"))
    run(remembering, hooked, **PARTIAL)
    found = ask(remembering, "p1", hooked, **PARTIAL)
    assert "in full, because something was sent of which DfE's answer is not known" in found.answer
    assert [(line.kind, line.outcome) for line in found.attempts] == [("partial", "unsure"), ("full", "sent")]
    assert found.baseline is not None
    assert found.as_json()["baseline"]["records_in_doubt"] > 1
    [step] = found.rows[0].partial
    assert step.differences is not None
    assert step.differences.purged == ("$.social_care_episodes[-]",)


def test_crash_while_sending(remembering: Staging, hooked: HookedReceiver) -> None:
    """What a dead run left in flight is explained as the next run will take it: unsure, so in full."""
    remembering.add("p1", episodes("c1", 1, 2))
    run(remembering, hooked, **PARTIAL)
    remembering.refresh("p1", episodes("c1", 1, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "close", _die)
        with pytest.raises(ZeroDivisionError):
            run(remembering, hooked, **PARTIAL)
    found = ask(remembering, "p1", hooked, **PARTIAL)
    assert found.attempts[0].outcome == "sending"
    assert (found.flight is not None, "A payload is in flight" in found.as_text()) == (True, True)
    assert kinds(found.rows[0].partial) == ["full"]
    hooked.requests.clear()
    run(remembering, hooked, **PARTIAL)
    [[record]] = sent_records(hooked)
    assert {"social_care_episode_id": "E2", "purge": True} in record["social_care_episodes"]
    assert found.rows[0].partial[0].size == len(json.dumps(record, separators=(",", ":")).encode())


def _die(*_: Any) -> None:
    raise ZeroDivisionError


def test_refused_partial(near: Staging, hooked: HookedReceiver) -> None:
    """The next attempt is in full, and that is the reason."""
    near.add("p1", episodes("c1", 1, 2))
    run(near, hooked, **PARTIAL)
    near.refresh("p1", episodes("c1", 1, 3))
    hooked.faults.add(Fault("400-record", child="c1"))
    run(near, hooked, **PARTIAL)
    found = ask(near, "p1", hooked, **PARTIAL)
    assert "because a partial payload was refused" in found.answer
    assert found.rows[0].partial[0].kind == "full"
    assert found.attempts[0].http_status == 400


def test_earlier_child_id_is_purged_first(remembering: Staging, hooked: HookedReceiver) -> None:
    """Two steps, in the order in which the run takes them."""
    remembering.add("p1", child("old"))
    run(remembering, hooked)
    remembering.refresh("p1", child("new"))
    found = ask(remembering, "p1", hooked)
    assert kinds(found.rows[0].full) == kinds(found.rows[0].partial) == ["purge of an earlier id", "full"]
    assert "an earlier la_child_id is purged and then the next live run sends it in full" in found.answer


def test_child_back_before_the_purge_went_out(remembering: Staging, hooked: HookedReceiver) -> None:
    """Three nights are told ahead, and they happen: purge, return by the marker, in full."""
    remembering.add("p1", child("c1", first_name="Ffion"))
    run(remembering, hooked)
    remembering.update("p1", row_state="Deleted")  # gone, and back with the same payload: it stays Deleted
    found = ask(remembering, "p1", hooked)
    assert "the next live run sends the deletion" in found.answer
    assert any("its marker makes the refresh after that" in note for note in found.notes)
    assert kinds(found.rows[0].full) == ["deletion"]
    run(remembering, hooked)
    assert hooked.children == {}
    purged = ask(remembering, "p1", hooked)
    assert "DfE acknowledged the deletion" in purged.answer
    assert purged.baseline is not None
    assert purged.baseline.state == "purged"
    assert purged.rows[0].as_json()["purge_marker"] is True
    remembering.refresh("p1", child("c1", first_name="Ffion"))
    back = ask(remembering, "p1", hooked, **PARTIAL)
    assert "in full, because the child was purged and came back" in back.answer
    run(remembering, hooked, **PARTIAL)
    assert list(hooked.children) == ["c1"]


# --- The log, and without it ------------------------------------------------------------------------------


def test_newest_attempts_are_shown_and_the_rest_counted(remembering: Staging, hooked: HookedReceiver) -> None:
    """So many lines, the newest first."""
    remembering.add("p1", child("c1"))
    for number in range(ATTEMPTS_SHOWN + 3):
        remembering.refresh("p1", child("c1", first_name=str(number)))
        run(remembering, hooked)
    found = ask(remembering, "p1", hooked)
    assert (len(found.attempts), found.attempts_total) == (ATTEMPTS_SHOWN, ATTEMPTS_SHOWN + 3)
    starts = [line.started_at for line in found.attempts if line.started_at]
    assert starts == sorted(starts, reverse=True)
    assert found.as_text().endswith("and 3 earlier ones")
    assert "20 times by the log" in found.answer


def test_without_the_two_tables(database: Database, hooked: HookedReceiver) -> None:
    """The row is explained all the same, and what is missing is said."""
    staging = Staging(database).create()
    staging.add("p1", child("c1"))
    found = ask(staging, "p1", hooked, **PARTIAL)
    assert (found.exit_code, found.remembered, found.baseline) == (ExitCode.OK, False, None)
    assert "init-db makes them" in found.as_text()
    assert "in full, because no baseline is kept" in found.answer
    run(staging, hooked)
    assert "it was acknowledged on" in ask(staging, "p1", hooked).answer


def test_person_who_is_no_longer_in_the_table(remembering: Staging, hooked: HookedReceiver) -> None:
    """The row is gone, the baseline is not: DfE still holds the child, and that is said."""
    remembering.add("p1", child("c1"))
    run(remembering, hooked)
    remembering.database.execute(f"DELETE FROM {remembering.table}")
    found = ask(remembering, "p1", hooked)
    assert (found.known, found.rows) == (True, ())
    assert "has no row in" in found.answer
    assert "DfE holds what it acknowledged on" in found.answer


def test_receipt_that_waits_in_the_spool(near: Staging, hooked: HookedReceiver) -> None:
    """It is told which file has it, and other people's are not."""
    settings = settings_of(near, hooked)
    near.add("p1", child("c1"))
    near.add("p2", child("c2"))
    receipt = "2025-06-30_02:11:09.53_6f1c0000-0000-4000-8000-0000000000b2.json"
    entry = spool.Spooled("main.staging_anon", "p1", "sent", "r1", 1, "00" * 32, receipt)
    path = spool.write(settings.spool_dir, "r1", [entry])
    assert any(str(path) in note for note in ask(near, "p1", hooked).notes)
    assert not any(str(path) in note for note in ask(near, "p2", hooked).notes)


def test_row_without_a_hash(near: Staging, hooked: HookedReceiver) -> None:
    """The next run fills it in, which is told."""
    near.add("p1", child("c1"), current_hash=None)
    found = ask(near, "p1", hooked)
    assert any("has no hash" in note for note in found.notes)
    assert found.rows[0].as_json()["current_hash"] is None


def test_json_is_complete(near: Staging, hooked: HookedReceiver) -> None:
    """Everything that the text says is in the JSON, with hashes cut to what tells them apart."""
    near.add("p1", episodes("c1", 1, 2))
    run(near, hooked, **PARTIAL)
    near.refresh("p1", episodes("c1", 1, 3))
    found = json.loads(json.dumps(ask(near, "p1", hooked, **PARTIAL).as_json()))
    assert set(found) == {
        "command",
        "table",
        "person_id",
        "exit_code",
        "answer",
        "notes",
        "rows",
        "remembered",
        "baseline",
        "attempts",
        "attempts_total",
        "source",
    }
    [row] = found["rows"]
    assert (row["due"], row["rules"], len(row["current_hash"])) == (True, ["pending"], 12)
    assert row["next_partial"][0]["kind"] == "partial"
    assert row["next_partial"][0]["paths"]["added"] == ["$.social_care_episodes[1]"]
    assert found["attempts"][0]["outcome"] == "sent"


def test_nothing_is_written_locked_or_sent(remembering: Staging, hooked: HookedReceiver) -> None:
    """It works beside a run that holds the lock, and no table is different afterwards."""
    remembering.add("p1", episodes("c1", 1, 2))
    run(remembering, hooked, **PARTIAL)
    remembering.refresh("p1", episodes("c1", 1, 3))
    remembering.add("p2", child("c2"), current_hash=None)
    hooked.requests.clear()
    before = remembering.rows()
    with opened(remembering.database) as ours, RunLock(ours, "any"):
        first = ask(remembering, "p1", hooked, **PARTIAL)
        ask(remembering, "p2", hooked)
    assert (remembering.rows(), hooked.requests) == (before, [])
    assert ask(remembering, "p1", hooked, **PARTIAL).as_json() == first.as_json()


def test_no_api_settings_are_needed(near: Staging) -> None:
    """As of all commands that only look; that testing mode sends nothing is told."""
    near.add("p1", child("c1"))
    assert any("TESTING_MODE is on" in note for note in ask(near, "p1").notes)
    pipeline.run(settings_of(near, None), RunOptions())
    found = ask(near, "p1")
    assert [line.outcome for line in found.attempts] == ["testing"]
    assert found.rows[0].response == "TESTING_MODE: nothing was sent."

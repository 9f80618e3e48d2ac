"""A run brings exactly the due rows to the API and says the truth about each (domain, sections 2 to 5)."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from api_pipeline.errors import ExitCode
from api_pipeline.faults import Fault
from api_pipeline.receiver import Receiver
from api_pipeline.staging import TESTING_RESPONSE
from tests.staging_kit import (
    MARKER,
    SCRIPTS,
    HookedReceiver,
    Staging,
    child,
    digest,
    receipt_moment,
    receipt_uuid,
    run,
    sent_ids,
)


def _moment(value: Any) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


# --- What is sent, and what a row says afterwards ---------------------------------------------------------


def test_acknowledged_row_says_what_dfe_holds(staging: Staging, hooked: HookedReceiver) -> None:
    """Success writes status, receipt, its moment, both previous columns and the state, and nothing else."""
    staging.add("p1", child("c1"), "Pending", "New", legacy_id="L1", partial_json_payload="{}")
    before = staging.row("p1")
    summary = run(staging, hooked)
    after = staging.row("p1")
    assert summary.exit_code == ExitCode.OK
    assert (summary.due, summary.sent, summary.left_due) == (1, 1, 0)
    written = {
        "submission_status": "sent",
        "api_response": receipt_uuid(hooked, "c1"),
        "previous_json_payload": before["json_payload"],
        "previous_hash": before["current_hash"],
        "row_state": "unchanged",
    }
    assert {**after, "submission_timestamp": None} == {**before, **written, "submission_timestamp": None}
    moment = _moment(after["submission_timestamp"])
    assert abs((moment - receipt_moment(hooked, "c1")).total_seconds()) <= 1 / 300


@pytest.mark.parametrize("digits", [2, 3, 7])
def test_receipt_moment_is_kept_as_precisely_as_the_column_can(staging: Staging, digits: int) -> None:
    """Two to seven fraction digits: PostgreSQL and SQLite keep microseconds, DATETIME its 1/300 s."""
    with Receiver(fraction_digits=digits, clock=lambda: 1751249469.987654) as stand_in:
        staging.add("p1", child("c1"))
        assert run(staging, stand_in).exit_code == ExitCode.OK
        expected = receipt_moment(stand_in, "c1")
    stored = staging.row("p1")["submission_timestamp"]
    if staging.database.kind == "sqlserver":
        assert stored.microsecond % 10_000 in (0, 3_000, 7_000)
        assert abs((stored - expected).total_seconds()) <= 0.002
    else:
        assert _moment(stored) == expected
    if staging.database.kind == "sqlite":
        assert stored == expected.isoformat(sep=" ", timespec="microseconds")


def test_every_script_arrives_byte_for_byte_as_stored(staging: Staging, hooked: HookedReceiver) -> None:
    """Apostrophes, emoji, every script, white space inside the JSON and escapes are not rewritten."""
    texts = [child(f"c{number}", first_name=name) for number, name in enumerate(SCRIPTS)]
    texts.append(
        '{ "la_child_id" :\t"spaced",\r\n  "child_details": {"surname":"\\u00e9\\/ \\ud83c\\udf1f"} }'
    )
    texts.append(child("big", surname="\U0001f31fO'Brien " * 6000))
    for number, text in enumerate(texts):
        staging.add(f"p{number}", text)
    assert run(staging, hooked).exit_code == ExitCode.OK
    [request] = hooked.submissions
    assert request.body == b"[" + b",".join(text.encode() for text in texts) + b"]"
    assert [row["previous_json_payload"] for row in staging.rows()] == texts
    assert hooked.children["c0"]["child_details"]["first_name"] == "O'Brien"


STATUSES = [
    ("Pending", True),
    (" PENDING ", True),
    ("pending", True),
    ("eRRor  ", True),
    ("  Testing", True),
    (None, True),
    ("", True),
    ("   ", True),
    ("Sent", False),
    (" sEnT ", False),
    ("hold", False),
    ("Pending!", False),
]


def test_statuses_in_any_case_with_stray_blanks(staging: Staging, hooked: HookedReceiver) -> None:
    """Pending, error, testing, NULL and blank are due; sent and unknown ones are not, and are left alone."""
    for number, (status, _) in enumerate(STATUSES):
        staging.add(f"p{number}", child(f"c{number}"), status, "New")
    before = staging.rows()
    summary = run(staging, hooked)
    due = {f"c{number}" for number, (_, is_due) in enumerate(STATUSES) if is_due}
    assert set(hooked.children) == due
    assert summary.due == summary.sent == len(due)
    assert summary.held == {"hold": 1, "pending!": 1}
    for number, (row, (_, is_due)) in enumerate(zip(staging.rows(), STATUSES, strict=True)):
        assert row["submission_status"] == "sent" if is_due else row == before[number]


def test_missed_flag_is_sent_and_marker_is_not(staging: Staging, hooked: HookedReceiver) -> None:
    """Hashes that differ make a sent row due (rule 3); the purge marker and missing hashes do not."""
    staging.add("differs", child("c1"), "Sent", "Unchanged", previous_hash=digest("old"))
    staging.add("same", child("c2"), "Sent", "Unchanged", previous_hash=digest(child("c2")))
    staging.add("no-previous", child("c3"), "Sent", "Unchanged")
    staging.add("marker", child("c4"), "Sent", "Unchanged", current_hash=MARKER, previous_hash=digest("x"))
    staging.add("held", child("c5"), "On hold", "Updated", previous_hash=digest("old"))
    assert run(staging, hooked).sent == 1
    assert list(hooked.children) == ["c1"]


def test_acknowledged_deletion_gets_the_marker_and_is_not_sent_again(
    staging: Staging, hooked: HookedReceiver
) -> None:
    """The purge goes out with both ids; previous_* stay; the nightly re-marking sends nothing more."""
    text = json.dumps({"la_child_id": "c1", "mis_child_id": "m1", "child_details": {}})
    staging.add_sent("p1", text, " DELETED ")
    before = staging.row("p1")
    summary = run(staging, hooked)
    assert (summary.deleted, summary.exit_code) == (1, ExitCode.OK)
    assert hooked.submissions[0].body == b'[{"la_child_id":"c1","mis_child_id":"m1","purge":true}]'
    after = staging.row("p1")
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"api_response", "submission_timestamp", "row_state", "current_hash"}
    assert (after["row_state"], after["current_hash"]) == ("deleted", MARKER)
    assert (after["submission_status"], after["api_response"]) == ("sent", receipt_uuid(hooked, "c1"))
    for status in ("sent", "Pending", None, "error"):
        staging.update(
            "p1", row_state="Deleted", submission_status=status, last_updated="2026-01-01 00:00:00"
        )
        assert run(staging, hooked).due == 0
    assert len(hooked.submissions) == 1


def test_deletion_needs_no_pending_status(staging: Staging, hooked: HookedReceiver) -> None:
    """A sent, pending or failed row that is marked Deleted is purged; a held one is not, ever."""
    for status in ("Sent", "pending", "ERROR", "testing", None):
        staging.add(f"p-{status}", child(f"c-{status}"), status, "Deleted")
    staging.add("held", child("c-held"), "Hold", "Deleted")
    before = staging.row("held")
    assert run(staging, hooked).deleted == 5
    assert "c-held" not in hooked.purged
    assert len(hooked.purged) == 5
    assert staging.row("held") == before


def test_deletion_reads_the_id_it_can(local: Staging, hooked: HookedReceiver) -> None:
    """What cannot be read is passed over for the previous payload; a mis_child_id of null is left out."""
    local.add_sent("unreadable", "not json", "Deleted", previous_json_payload=child("earlier"))
    local.add_sent("null-mis", '{"la_child_id":"c2","mis_child_id":null}', "Deleted")
    local.add_sent("neither", "not json", "Deleted", previous_json_payload="neither")
    summary = run(local, hooked)
    assert summary.exit_code == ExitCode.FAILED
    assert hooked.submissions[0].body == (
        b'[{"la_child_id":"earlier","purge":true},{"la_child_id":"c2","purge":true}]'
    )
    assert local.row("neither")["submission_status"] == "error"


def test_child_who_left_and_returned_is_sent_again(staging: Staging, hooked: HookedReceiver) -> None:
    """Sent, purged, back with the very same payload: the marker brings the child round, in full."""
    text = child("c1", first_name="A")
    staging.add("p1", text)
    run(staging, hooked)
    staging.update("p1", row_state="Deleted")
    assert run(staging, hooked).deleted == 1
    assert hooked.children == {}
    staging.refresh("p1", text)
    assert run(staging, hooked).sent == 1
    assert hooked.children == {"c1": json.loads(text)}
    row = staging.row("p1")
    assert (row["row_state"], row["previous_hash"]) == ("unchanged", row["current_hash"])


def test_child_back_before_the_purge_went_out_ends_up_at_dfe(local: Staging, hooked: HookedReceiver) -> None:
    """The refresh leaves such a child Deleted for ever: the purge goes, the next refresh brings it back."""
    text = child("c1")
    local.add_sent("p1", text, "Deleted")
    run(local, hooked)
    assert local.row("p1")["current_hash"] != digest(text)
    local.refresh("p1", text)
    run(local, hooked)
    assert list(hooked.children) == ["c1"]


def test_live_run_fills_missing_hashes_of_all_rows(staging: Staging, hooked: HookedReceiver) -> None:
    """Every NULL current_hash is filled, due or not; the row is sent and its write-back applies."""
    staging.add("due", '{"b":1, "la_child_id": "c1"}', current_hash=None)
    staging.add_sent("sent", child("c2"), current_hash=None, previous_hash=None)
    staging.add("held", "not json", "hold", current_hash=None)
    staging.add_sent("gone", child("c4"), "Deleted", current_hash=None)
    summary = run(staging, hooked)
    assert (summary.hashes_filled, summary.sent, summary.deleted) == (4, 1, 1)
    hashes = {row["person_id"]: row["current_hash"] for row in staging.rows()}
    assert hashes["due"] == hashlib.sha256(b'{"b":1,"la_child_id":"c1"}').digest()
    assert hashes["held"] == hashlib.sha256(b"not json").digest()
    assert hashes["gone"] == MARKER
    assert staging.row("sent")["submission_status"] == "sent"
    assert run(staging, hooked).due == 0


@pytest.mark.parametrize("mode", ["testing", "dry-run"])
def test_testing_and_dry_run_fill_no_hash(staging: Staging, hooked: HookedReceiver, mode: str) -> None:
    """Without a live run a missing hash stays missing, and testing still finds the row by its payload."""
    staging.add("p1", child("c1", first_name=SCRIPTS[9] + "O'B"), current_hash=None)
    if mode == "testing":
        assert run(staging, None).simulated == 1
        assert staging.row("p1")["submission_status"] == "testing"
    else:
        assert run(staging, hooked, dry_run=True).simulated == 1
        assert staging.row("p1")["submission_status"] == "Pending"
    assert staging.row("p1")["current_hash"] is None
    assert not hooked.requests


def test_testing_mode_writes_status_and_response_only(staging: Staging) -> None:
    """Nothing is sent; sound rows become testing, faulty ones error; no other column changes."""
    staging.add("good", child("c1"))
    staging.add("bad", child("c2", sex="X"))
    staging.add_sent("gone", child("c3"), "Deleted")
    staging.add("moved", child("c5"), "Pending", "Updated", previous_json_payload=child("c4"))
    before = {row["person_id"]: row for row in staging.rows()}
    summary = run(staging, None)
    assert (summary.mode, summary.simulated, summary.failed) == ("testing", 3, 1)
    assert summary.exit_code == ExitCode.FAILED
    for row in staging.rows():
        name = row["person_id"]
        bad = name == "bad"
        assert row["submission_status"] == ("error" if bad else "testing")
        assert ("$.child_details.sex" in row["api_response"]) is bad
        assert (row["api_response"] == TESTING_RESPONSE) is not bad
        for column in set(row) - {"submission_status", "api_response"}:
            assert row[column] == before[name][column]


def test_dry_run_writes_nothing_at_all(staging: Staging, hooked: HookedReceiver) -> None:
    """Good, bad, nameless, shared, deleted and hashless rows: the table is the same to the last column."""
    staging.add("good", child("c1"))
    staging.add("bad", "not json")
    staging.add(None, child("c2"))
    staging.add("twin", child("c3"))
    staging.add("twin", child("c4"))
    staging.add_sent("gone", child("c5"), "Deleted", current_hash=None)
    before = staging.rows()
    summary = run(staging, None, dry_run=True)
    assert staging.rows() == before
    assert (summary.due, summary.simulated, summary.failed) == (6, 2, 4)
    assert summary.exit_code == ExitCode.FAILED
    assert not hooked.requests
    assert not list(Path.cwd().glob("*.lock"))


def test_nothing_due_asks_for_no_token(staging: Staging, hooked: HookedReceiver) -> None:
    """With nothing due the API is not spoken to at all."""
    staging.add_sent("p1", child("c1"))
    assert run(staging, hooked).exit_code == ExitCode.OK
    assert not hooked.requests


# --- Never lie about what was sent ------------------------------------------------------------------------


def test_row_refreshed_under_way_is_not_marked_as_sent(staging: Staging, hooked: HookedReceiver) -> None:
    """New payload, deletion or removal while the POST is under way: that row stays as it is, and due."""
    for name in ("kept", "updated", "deleted", "renamed"):
        staging.add(name, child(f"c-{name}"))
    staging.add_sent("gone", child("c-gone"), "Deleted")
    staging.add_sent("back", child("c-back"), "Deleted")

    def meddle(records: Any) -> None:
        if records[0].get("purge"):
            staging.refresh("back", child("c-back", first_name="Back"))
        else:
            staging.refresh("updated", child("c-updated", first_name="New"))
            staging.update("deleted", row_state="Deleted")
            staging.update("renamed", person_id="somebody-else")

    hooked.hook = meddle
    summary = run(staging, hooked)
    hooked.hook = None
    # "back" came round in the same run, as what it had become.
    assert (summary.sent, summary.deleted, summary.exit_code) == (2, 1, ExitCode.OK)
    assert summary.changed_meanwhile == 4
    row = staging.row("updated")
    assert (row["submission_status"], row["row_state"]) == ("Pending", "Updated")
    assert row["previous_json_payload"] == child("c-updated")
    assert staging.row("deleted")["submission_status"] == "Pending"
    run(staging, hooked)
    held = {row["json_payload"] for row in staging.rows() if row["row_state"] != "deleted"}
    assert {json.dumps(each, ensure_ascii=False) for each in hooked.children.values()} == held
    assert run(staging, hooked).due == 0


def test_row_refreshed_under_way_is_not_marked_as_error(staging: Staging, hooked: HookedReceiver) -> None:
    """A refusal belongs to the payload that was sent, not to the one that came since."""
    staging.add("p1", child("c1"))
    staging.add("p2", child("c2"))

    def meddle(records: Any) -> None:
        if len(records) == 2:
            staging.refresh("p1", child("c1", first_name="New"))

    hooked.hook = meddle
    hooked.faults.add(Fault("400-record", child="c1"))
    summary = run(staging, hooked)
    assert (summary.failed, summary.changed_meanwhile, summary.sent) == (0, 1, 1)
    assert summary.exit_code == ExitCode.OK
    assert staging.row("p1")["submission_status"] == "Pending"
    assert staging.row("p1")["api_response"] is None


# --- Narrowing, resending, batches ------------------------------------------------------------------------


def test_limit_and_persons_narrow_the_due_rows(staging: Staging, hooked: HookedReceiver) -> None:
    """--limit takes the first due rows in key order, --person-id those people, both the first of these."""
    for number in range(6):
        staging.add(f"p{number}", child(f"c{number}"))
    staging.add_sent("sent", child("c9"))
    assert run(staging, hooked, limit=2).sent == 2
    assert run(staging, hooked, persons=("p4", "sent")).sent == 1
    assert run(staging, hooked, persons=("p3", "p5"), limit=1).sent == 1
    assert sent_ids(hooked) == [["c0", "c1"], ["c4"], ["c3"]]
    summary = run(staging, hooked, persons=("nobody", "p5"))
    assert (summary.sent, summary.exit_code) == (1, ExitCode.FAILED)


def test_narrowed_run_leaves_nameless_rows_of_others_alone(local: Staging, hooked: HookedReceiver) -> None:
    """--person-id touches the named people's rows only, also where person_id is the key."""
    local.database.execute(f"DROP TABLE {local.table}")
    local.create(id=None)
    local.add(None, child("c1"))
    local.add("p2", child("c2"))
    assert run(local, hooked, persons=("p2",)).exit_code == ExitCode.OK
    assert local.row(None)["submission_status"] == "Pending"


def test_resend_sends_named_people_whatever_their_state(staging: Staging, hooked: HookedReceiver) -> None:
    """Sent and held rows go in full, a purged one as a purge again; others that are due are left."""
    staging.add_sent("sent", child("c1"))
    staging.add_sent("purged", child("c2"), "Deleted", current_hash=MARKER)
    staging.add("held", child("c3"), "hold")
    staging.add("due", child("c4"))
    staging.add_sent("other", child("c5"))
    summary = run(staging, hooked, persons=("sent", "purged", "held"), resend=True)
    assert (summary.due, summary.sent, summary.deleted) == (3, 2, 1)
    assert sent_ids(hooked) == [["-c2"], ["c1", "c3"]]
    assert staging.row("purged")["current_hash"] == MARKER
    assert staging.row("held")["submission_status"] == "sent"
    assert staging.row("due")["submission_status"] == "Pending"


def test_batches_have_the_size_asked_for(local: Staging, hooked: HookedReceiver) -> None:
    """BATCH_SIZE records in a request, in key order, over page borders."""
    for number in range(450):
        local.add(f"p{number}", child(f"c{number}"))
    summary = run(local, hooked, BATCH_SIZE=60)
    assert [len(batch) for batch in sent_ids(hooked)] == [60] * 7 + [30]
    assert [each for batch in sent_ids(hooked) for each in batch] == [f"c{n}" for n in range(450)]
    assert summary.requests == 8
    assert summary.bytes_sent == sum(request.size for request in hooked.submissions)


# --- Validation -------------------------------------------------------------------------------------------

FAULTY = {
    "not json": "not json at all",
    "twice": '{"la_child_id": "c1", "la_child_id": "c1"}',
    "nan": '{"la_child_id": "c2", "x": NaN}',
    "surrogate": '{"la_child_id": "c3", "x": "\\ud800"}',
    "array": '[{"la_child_id": "c4"}]',
    "no id": '{"child_details": {}}',
    "bad id": '{"la_child_id": "O\'Brien"}',
    "bom": '\ufeff{"la_child_id": "c5"}',
    "empty": "",
}


def test_structural_faults_are_never_sent(staging: Staging, hooked: HookedReceiver) -> None:
    """Each becomes an error that names path and rule; sound rows, code-list warnings included, go out."""
    for name, text in FAULTY.items():
        staging.add(name, text)
    staging.add("good", child("good", ethnicity="XXXX", new_field=1))
    summary = run(staging, hooked)
    assert sent_ids(hooked) == [["good"]]
    assert summary.errors == {"validation": len(FAULTY)}
    assert set(summary.warnings) == {"code_list", "unknown_field"}
    statuses = staging.statuses()
    assert {name for name in statuses if statuses[name] == "error"} == set(FAULTY)
    assert all("$" in row["api_response"] for row in staging.rows() if row["person_id"] in FAULTY)
    assert "Brien" not in staging.row("bad id")["api_response"]


def test_warn_sends_all_but_what_has_no_child_id(local: Staging) -> None:
    """VALIDATION=warn: faults are counted and sent, except what is not a JSON object with a la_child_id."""
    for name, text in FAULTY.items():
        local.add(name, text)
    local.add("sex", child("sex", sex="X"))
    with Receiver(validate=False, keep_bodies=True) as stand_in:
        run(local, stand_in, VALIDATION="warn", BATCH_SIZE=1)
        sent = {name for name, each in local.statuses().items() if each == "sent"}
    assert {"sex", "bad id"} <= sent
    assert not sent & {"not json", "nan", "array", "no id", "bom", "empty"}

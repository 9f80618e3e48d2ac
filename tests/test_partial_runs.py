"""Nights in partial mode: the smallest payload that is right, or nothing (domain, sections 5 and 6)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from api_pipeline.errors import ExitCode
from api_pipeline.faults import Fault
from api_pipeline.summary import RunSummary
from tests.staging_kit import (
    MARKER,
    HookedReceiver,
    Staging,
    digest,
    receipt_uuid,
    run,
    sent_records,
)

PLAN = "child_in_need_plan_id"
SECRET = "O'Brien-Zq7"


def payload(child_id: str, *episodes: str, reason: str = "RC1", **details: Any) -> str:
    """Return a payload with these episodes, big enough for a partial to be smaller."""
    return json.dumps(
        {
            "la_child_id": child_id,
            "mis_child_id": f"m-{child_id}",
            "child_details": {"surname": SECRET, **details},
            "health_and_wellbeing": {"sdq_assessments": [{"date": "2024-01-01", "score": 7}]},
            "social_care_episodes": [
                {
                    "social_care_episode_id": name,
                    "closure_reason": reason,
                    "child_in_need_plans": [{PLAN: f"{name}-plan", "start_date": "2024-01-01"}],
                }
                for name in episodes
            ],
        }
    )


def night(staging: Staging, receiver: HookedReceiver, *, partial: bool = True, **options: Any) -> RunSummary:
    """Do one run that is expected to end well."""
    receiver.requests.clear()
    summary = run(staging, receiver, USE_PARTIAL_PAYLOAD=partial, **options)
    assert summary.exit_code == ExitCode.OK, summary.stopped_because
    return summary


def last(receiver: HookedReceiver) -> list[dict[str, Any]]:
    """Return the records of the only submission of the last run."""
    [records] = sent_records(receiver)
    return records


def episodes_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the episodes that a record names."""
    found: list[dict[str, Any]] = record.get("social_care_episodes", [])
    return found


@pytest.fixture
def hooked() -> Any:
    """A receiver that applies every payload by the rules of partial mode."""
    with HookedReceiver(keep_bodies=True, apply_partials=True) as stand_in:
        yield stand_in


def test_new_goes_in_full_and_changes_go_alone(remembering: Staging, hooked: HookedReceiver) -> None:
    """A child never sent goes byte for byte; then only child_details, what changed and what vanished go."""
    text = payload("c1", "e1", "e2", "e3")
    remembering.add("p1", text)
    summary = night(remembering, hooked)
    assert summary.kinds == {"full": 1}
    assert hooked.submissions[0].body == b"[" + text.encode() + b"]"
    assert remembering.row("p1")["partial_json_payload"] == text

    changed = json.loads(payload("c1", "e1", "e2"))
    changed["social_care_episodes"][0]["closure_reason"] = "RC2"
    remembering.refresh("p1", json.dumps(changed))
    summary = night(remembering, hooked)
    assert (summary.kinds, summary.sent) == ({"partial": 1}, 1)
    [sent] = last(hooked)
    assert sent == {
        "la_child_id": "c1",
        "mis_child_id": "m-c1",
        "child_details": {"surname": SECRET},
        "social_care_episodes": [
            {"social_care_episode_id": "e3", "purge": True},
            {"social_care_episode_id": "e1", "closure_reason": "RC2"},
        ],
    }
    row = remembering.row("p1")
    assert json.loads(row["partial_json_payload"]) == sent
    assert row["previous_json_payload"] == row["json_payload"] == json.dumps(changed)
    assert (row["submission_status"], row["row_state"]) == ("sent", "unchanged")
    assert row["api_response"] == receipt_uuid(hooked, "c1")
    assert hooked.children["c1"] == changed


def test_unchanged_sends_nothing_and_takes_the_baselines_receipt(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """Equal up to white space, key and list order: no request, sent/unchanged, earlier receipt and time."""
    remembering.add("p1", payload("c1", "e1", "e2"))
    night(remembering, hooked)
    first = remembering.row("p1")
    same = json.loads(payload("c1", "e2", "e1"))
    text = json.dumps(dict(reversed(same.items())), indent=1)
    remembering.refresh("p1", text)
    remembering.update("p1", api_response="something else", submission_timestamp="2001-01-01 00:00:00")
    summary = night(remembering, hooked)
    assert (summary.unchanged, summary.sent, summary.requests, summary.left_due) == (1, 0, 0, 0)
    assert hooked.submissions == []
    row = remembering.row("p1")
    assert (row["submission_status"], row["row_state"]) == ("sent", "unchanged")
    assert row["api_response"] == first["api_response"]
    assert row["submission_timestamp"] == first["submission_timestamp"]
    assert (row["previous_json_payload"], row["previous_hash"]) == (text, digest(text))
    assert night(remembering, hooked).due == 0


def test_baseline_survives_refreshes_that_were_never_sent(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """Two refreshes and a night of failure later the partial still starts from what DfE acknowledged."""
    remembering.add("p1", payload("c1", "e1", "e2"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1"))
    hooked.faults.add(Fault("429", times=None))
    assert run(remembering, hooked, USE_PARTIAL_PAYLOAD=True).exit_code == ExitCode.API
    hooked.faults.clear()
    remembering.refresh("p1", payload("c1", "e1", "e3"))
    night(remembering, hooked)
    [sent] = last(hooked)
    assert [(each["social_care_episode_id"], each.get("purge")) for each in episodes_of(sent)] == [
        ("e2", True),
        ("e3", None),
    ]
    assert (
        hooked.children["c1"]["social_care_episodes"]
        == json.loads(payload("c1", "e1", "e3"))["social_care_episodes"]
    )


def test_refused_partial_is_followed_by_a_full_payload(remembering: Staging, hooked: HookedReceiver) -> None:
    """The next attempt after a refused partial is full with purges, and the one after that partial again."""
    remembering.add("p1", payload("c1", "e1", "e2", "e3"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1", "e2"))
    hooked.faults.add(Fault("400-record", child="c1"))
    assert run(remembering, hooked, USE_PARTIAL_PAYLOAD=True).errors == {"refused by the API": 1}
    assert remembering.row("p1")["submission_status"] == "error"
    assert night(remembering, hooked).kinds == {"full": 1}
    [sent] = last(hooked)
    assert [each.get("purge") for each in episodes_of(sent)] == [True, None, None]
    remembering.refresh("p1", payload("c1", "e1"))
    assert night(remembering, hooked).kinds == {"partial": 1}
    assert [line["outcome"] for line in remembering.log()] == ["sent", "error", "sent", "sent"]


def test_passing_failure_does_not_ask_for_a_full_payload(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """A 429 says nothing about the partial: the same partial goes again."""
    remembering.add("p1", payload("c1", "e1", "e2", "e3"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1", "e2"))
    hooked.faults.add(Fault("429"))
    assert run(remembering, hooked, USE_PARTIAL_PAYLOAD=True).exit_code == ExitCode.API
    assert remembering.row("p1")["submission_status"] == "Pending"
    assert night(remembering, hooked).kinds == {"partial": 1}


def test_purged_and_back_goes_in_full(remembering: Staging, hooked: HookedReceiver) -> None:
    """A deletion empties the baseline; a child who returns with the same payload is sent whole."""
    text = payload("c1", "e1")
    remembering.add("p1", text)
    night(remembering, hooked)
    remembering.update("p1", row_state="Deleted")
    assert night(remembering, hooked).deleted == 1
    assert last(hooked) == [{"la_child_id": "c1", "mis_child_id": "m-c1", "purge": True}]
    assert remembering.row("p1")["current_hash"] == MARKER
    kept = remembering.baseline("p1")
    assert (kept["state"], kept["payload"], kept["la_child_id"], kept["unsure"]) == (
        "purged",
        None,
        None,
        None,
    )
    assert night(remembering, hooked).due == 0
    remembering.refresh("p1", text)
    assert night(remembering, hooked).kinds == {"full": 1}
    assert hooked.submissions[0].body == b"[" + text.encode() + b"]"
    assert hooked.children["c1"] == json.loads(text)


def test_changed_id_is_purged_and_acknowledged_first(remembering: Staging, hooked: HookedReceiver) -> None:
    """The earlier id goes in a request of its own; if that fails the new one waits for the next night."""
    remembering.add("p1", payload("c1", "e1"))
    remembering.add("p2", payload("c2", "e1"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c9", "e1"))
    remembering.refresh("p2", payload("c2", "e2"))
    hooked.faults.add(Fault("422", child="c1"))
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    assert "c9" not in hooked.children
    assert "c1" in hooked.children
    assert remembering.row("p2")["submission_status"] == "sent"
    assert (summary.sent, summary.failed) == (1, 1)
    night(remembering, hooked)
    assert [[record["la_child_id"] for record in batch] for batch in sent_records(hooked)] == [["c1"], ["c9"]]
    assert set(hooked.children) == {"c9", "c2"}
    assert remembering.baseline("p1")["la_child_id"] == "c9"


def test_full_mode_keeps_vanished_records_for_partial_mode(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """Off, on and off again: what full mode left behind is purged by the first due partial payload."""
    remembering.add("p1", payload("c1", "e1", "e2", "e3"))
    night(remembering, hooked, partial=False)
    remembering.refresh("p1", payload("c1", "e1", "e2"))
    night(remembering, hooked, partial=False)
    assert hooked.submissions[0].body == b"[" + payload("c1", "e1", "e2").encode() + b"]"
    assert len(hooked.children["c1"]["social_care_episodes"]) == 3
    remembering.refresh("p1", payload("c1", "e1"))
    assert night(remembering, hooked).kinds == {"partial": 1}
    [sent] = last(hooked)
    assert {each["social_care_episode_id"] for each in episodes_of(sent) if each.get("purge")} == {"e2", "e3"}
    assert hooked.children["c1"] == json.loads(payload("c1", "e1"))
    remembering.refresh("p1", payload("c1", "e1", surname="Zo\xeb"))
    night(remembering, hooked, partial=False)
    remembering.refresh("p1", payload("c1", "e1", surname="Zoe"))
    assert night(remembering, hooked).kinds == {"partial": 1}
    assert hooked.children["c1"] == json.loads(payload("c1", "e1", surname="Zoe"))


def test_vanished_record_that_returns_is_sent_whole(remembering: Staging, hooked: HookedReceiver) -> None:
    """After full mode DfE may or may not hold it still, so it never counts as unchanged."""
    both = payload("c1", "e1", "e2")
    remembering.add("p1", both)
    night(remembering, hooked, partial=False)
    remembering.refresh("p1", payload("c1", "e1"))
    night(remembering, hooked, partial=False)
    remembering.refresh("p1", both)
    summary = night(remembering, hooked)
    assert summary.unchanged == 0
    [sent] = last(hooked)
    assert json.loads(both)["social_care_episodes"][1] in episodes_of(sent)


def test_without_a_baseline_the_previous_payload_is_purged(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """A row that an older tool sent goes in full, with purges of what that tool sent, until it is taken."""
    remembering.add_sent("p1", payload("c1", "e1", "e2"))
    hooked.children["c1"] = json.loads(payload("c1", "e1", "e2"))
    remembering.refresh("p1", payload("c1", "e1"))
    hooked.faults.add(Fault("reset"))
    assert run(remembering, hooked, USE_PARTIAL_PAYLOAD=True).unsure == 1
    remembering.refresh("p1", payload("c1", "e3"))  # now previous_json_payload has no e2 any more
    assert night(remembering, hooked).kinds == {"full": 1}
    [sent] = last(hooked)
    assert {each["social_care_episode_id"] for each in episodes_of(sent) if each.get("purge")} == {"e1", "e2"}
    assert hooked.children["c1"] == json.loads(payload("c1", "e3"))


def test_resend_in_partial_mode_is_full_with_purges(remembering: Staging, hooked: HookedReceiver) -> None:
    """--resend sends a person in full whatever their state, and leaves nothing behind that vanished."""
    remembering.add("p1", payload("c1", "e1", "e2"))
    night(remembering, hooked)
    assert night(remembering, hooked, resend=True, persons=("p1",)).kinds == {"full": 1}
    remembering.refresh("p1", payload("c1", "e1"))
    assert night(remembering, hooked, resend=True, persons=("p1",)).kinds == {"full": 1}
    assert hooked.children["c1"] == json.loads(payload("c1", "e1"))


def test_partial_mode_without_the_tables_sends_full_payloads(
    staging: Staging, hooked: HookedReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It works as full mode does, and a warning says how to make the tables."""
    staging.add_sent("p1", payload("c1", "e1", "e2"))
    staging.refresh("p1", payload("c1", "e1"))
    assert night(staging, hooked).kinds == {"full": 1}
    assert hooked.submissions[0].body == b"[" + payload("c1", "e1").encode() + b"]"
    assert "init-db" in caplog.text


def test_live_and_fake_tables_remember_apart(database: Any, hooked: HookedReceiver) -> None:
    """Each staging table has its own pair of tables: what one knows the other does not."""
    schema = database.table_name.rpartition(".")[0]
    prefix = f"{schema}." if schema else ""
    live = Staging(database, f"{prefix}staging_real").create().remember()
    fake = Staging(database, f"{prefix}staging_anon").create().remember()
    for table in (live, fake):
        table.add("p1", payload("c1", "e1"))
    base = hooked.settings()["API_ENDPOINT"].replace("-receiver-test", "-receiver")
    with HookedReceiver(keep_bodies=True, base_path="/children-in-social-care-data-receiver/1") as other:
        assert base.split("/", 3)[3] in other.settings()["API_ENDPOINT"]
        night(live, other)
        assert fake.log() == []
        assert fake.baseline("p1") == {}
        assert night(fake, hooked).kinds == {"full": 1}
        live.refresh("p1", payload("c1", "e1", surname="x"))
        assert night(live, other).kinds == {"partial": 1}
    assert len(fake.log()) == 1
    assert json.loads(fake.baseline("p1")["payload"]) == json.loads(payload("c1", "e1"))


def test_testing_mode_writes_only_test_lines(remembering: Staging) -> None:
    """The rows become testing, the log gets one test line each, and the baseline stays as it was."""
    remembering.add("p1", payload("c1", "e1"))
    remembering.add("p2", payload("c2", "e1"))
    summary = run(remembering, None, USE_PARTIAL_PAYLOAD=True)
    assert (summary.simulated, summary.exit_code) == (2, ExitCode.OK)
    lines = remembering.log()
    assert [(line["kind"], line["outcome"]) for line in lines] == [("test", "testing")] * 2
    assert all(line["posts"] is None and line["http_status"] is None for line in lines)
    assert remembering.baseline("p1") == {}


def test_dry_run_counts_and_writes_nothing(remembering: Staging, hooked: HookedReceiver) -> None:
    """What is unchanged is told apart from what would be sent; rows, log and baseline stay as they are."""
    for number in range(2):
        remembering.add(f"p{number}", payload(f"c{number}", "e1"))
    night(remembering, hooked)
    remembering.refresh("p0", payload("c0", "e1").replace(": ", ":  "))
    remembering.refresh("p1", payload("c1", "e1", surname="new"))
    before = remembering.rows(), remembering.log(), remembering.baseline("p1")
    summary = night(remembering, hooked, dry_run=True)
    assert summary.kinds == {"partial": 1}
    assert (summary.unchanged, summary.simulated) == (1, 1)
    assert (remembering.rows(), remembering.log(), remembering.baseline("p1")) == before


def test_log_tells_what_was_sent_when_and_what_was_answered(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """One line for each record and batch: hashes, size, posts, status, receipt or paths, and no data."""
    for number in range(3):
        remembering.add(f"p{number}", payload(f"c{number}", "e1"))
    hooked.faults.add(Fault("503"), Fault("400-record", child="c1"))
    run(remembering, hooked, MAX_RETRIES=2, USE_PARTIAL_PAYLOAD=True)
    lines = remembering.log()
    by_person = {
        person: [
            (line["outcome"], line["posts"], line["http_status"])
            for line in lines
            if line["person_id"] == person
        ]
        for person in ("p0", "p1", "p2")
    }
    assert by_person == {
        "p0": [("unsure", 2, 400), ("sent", 1, 200)],
        "p1": [("unsure", 2, 400)],
        "p2": [("unsure", 2, 400), ("sent", 1, 200)],
    }
    for line in lines:
        text = payload(f"c{line['person_id'][1:]}", "e1").encode()
        assert bytes(line["sent_hash"]) == hashlib.sha256(text).digest()
        assert line["sent_bytes"] == len(text)
        assert line["row_id"] == remembering.row(line["person_id"])["id"]
        assert line["started_at"] <= line["finished_at"]
        if line["outcome"] == "sent":
            assert line["detail"] == hooked.receipts[f"c{line['person_id'][1:]}"]
    assert SECRET not in str(lines)
    assert len({line["seq"] for line in lines}) == len(lines)


def test_log_quotes_no_reply(remembering: Staging, hooked: HookedReceiver) -> None:
    """The refusal's words go to api_response alone; the log has the paths in it."""
    remembering.add("p1", payload("c1", "e1"))
    hooked.faults.add(Fault("400-record", child="c1"))
    run(remembering, hooked)
    [line] = remembering.log()
    said = remembering.row("p1")["api_response"]
    assert said.startswith("HTTP 400: ")
    assert (line["outcome"], line["http_status"]) == ("error", 400)
    assert said.removeprefix("HTTP 400: ") not in line["detail"]


# --- Deletions and shared ids, with what the ledger knows -------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "a test", "a refusal", "a passing failure"])
def test_child_of_whom_dfe_never_heard_needs_no_purge(
    remembering: Staging, hooked: HookedReceiver, before: str
) -> None:
    """Only tests and sure failures so far: the marker, and nothing is sent."""
    remembering.add("p1", payload("c1", "e1"))
    if before == "a test":
        run(remembering, None)
    elif before != "nothing":
        hooked.faults.add(Fault("400-record", child="c1") if before == "a refusal" else Fault("429"))
        run(remembering, hooked)
        remembering.update("p1", submission_status="Pending", api_response=None)
    remembering.update("p1", row_state="Deleted")
    summary = night(remembering, hooked)
    assert (summary.never_sent, summary.deleted, hooked.submissions) == (1, 0, [])
    row = remembering.row("p1")
    assert (row["submission_status"], row["api_response"]) == ("sent", "never sent: nothing to purge")
    assert (row["row_state"].lower(), row["current_hash"]) == ("deleted", MARKER)
    assert night(remembering, hooked).due == 0


@pytest.mark.parametrize("sign", ["lost reply", "previous hash", "other text"])
def test_child_of_whom_dfe_may_have_heard_is_purged(
    remembering: Staging, hooked: HookedReceiver, sign: str
) -> None:
    """A purge too many is harmless; a purge too few leaves a child at DfE."""
    remembering.add("p1", payload("c1", "e1"))
    if sign == "lost reply":
        hooked.faults.add(Fault("lost-reply"))
        run(remembering, hooked)
    elif sign == "previous hash":
        remembering.update("p1", previous_hash=digest("x"))
    else:
        remembering.update("p1", api_response="an older tool's receipt")
    remembering.update("p1", row_state="Deleted")
    assert night(remembering, hooked).deleted == 1
    assert hooked.children == {}


def test_id_that_another_persons_baseline_holds_is_not_sent(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """The two cannot be told apart at DfE: an error that names the other row, and no purge either."""
    remembering.add("p1", payload("c1", "e1"))
    night(remembering, hooked)
    remembering.add("p2", payload("c1", "e2"))
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    assert (summary.exit_code, summary.errors) == (ExitCode.FAILED, {"shared id": 1})
    assert str(remembering.row("p1")["id"]) in remembering.row("p2")["api_response"]
    assert hooked.children["c1"] == json.loads(payload("c1", "e1"))
    remembering.update("p2", row_state="Deleted", submission_status="Pending")
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    assert summary.deleted == 0
    assert "c1" in hooked.children


def test_every_id_that_dfe_may_hold_is_purged(remembering: Staging, hooked: HookedReceiver) -> None:
    """The acknowledged one and those of unknown fate, with the mis_child_id that went with each."""
    remembering.add("p1", payload("c1", "e1"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c2", "e1"))
    hooked.faults.add(Fault("lost-reply", child="c2"))
    assert run(remembering, hooked, USE_PARTIAL_PAYLOAD=True).unsure == 1
    assert set(hooked.children) == {"c2"}
    for name in ("c3", "c4"):  # so that no payload tells of c2 any more
        remembering.refresh("p1", payload(name, "e1"))
    remembering.update("p1", row_state="Deleted")
    assert night(remembering, hooked).deleted == 1
    assert {record["mis_child_id"] for batch in sent_records(hooked) for record in batch} == {"m-c2"}
    assert hooked.children == {}
    assert remembering.row("p1")["current_hash"] == MARKER


def test_deletion_waits_until_every_earlier_id_is_purged(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """If the purge of one id fails the row is not marked, and the next night purges what is left."""
    remembering.add("p1", payload("c1", "e1"))
    hooked.faults.add(Fault("lost-reply"))
    run(remembering, hooked)
    remembering.refresh("p1", payload("c2", "e1"))
    hooked.faults.add(Fault("429", child="c1"))
    run(remembering, hooked)
    assert set(hooked.children) == {"c1"}
    remembering.update("p1", row_state="Deleted")
    hooked.faults.add(Fault("429", child="c1"))
    run(remembering, hooked)
    assert remembering.row("p1")["current_hash"] != MARKER
    night(remembering, hooked)
    assert hooked.children == {}
    assert remembering.row("p1")["current_hash"] == MARKER


@pytest.mark.sqlserver
def test_staging_table_may_have_a_collation_of_its_own(
    sqlserver_database: Any, hooked: HookedReceiver
) -> None:
    """The ledger's tables have the database's; people are found all the same."""
    staging = Staging(sqlserver_database)
    staging.create(person_id="NVARCHAR(48) COLLATE Latin1_General_BIN2 NULL").remember()
    staging.add("p1", payload("c1", "e1", "e2"))
    night(staging, hooked)
    staging.refresh("p1", payload("c1", "e1"))
    assert night(staging, hooked).kinds == {"partial": 1}

"""Every reply of the API leaves the rows as domain, section 2, says."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest

from api_pipeline import pipeline
from api_pipeline.errors import ExitCode
from api_pipeline.faults import Fault
from api_pipeline.pipeline import RunOptions
from api_pipeline.receiver_replies import Reply, problems
from tests.staging_kit import (
    HookedReceiver,
    Staging,
    add_five,
    child,
    receipt_uuid,
    run,
    sent_ids,
    settings_of,
)

# --- Replies ----------------------------------------------------------------------------------------------


def test_refusal_that_names_records(staging: Staging, hooked: HookedReceiver) -> None:
    """The named ones get their own reason, the others go again at once, in one request."""
    add_five(staging)
    staging.update("p1", json_payload=child("c1", sex="X", surname="Secret"))
    staging.update("p3", json_payload=child("c3", postcode="far too long"))
    summary = run(staging, hooked, VALIDATION="warn")
    assert [len(batch) for batch in sent_ids(hooked)] == [5, 3]
    assert (summary.sent, summary.failed, summary.exit_code) == (3, 2, ExitCode.FAILED)
    assert "sex" in staging.row("p1")["api_response"]
    assert "postcode" not in staging.row("p1")["api_response"]
    assert staging.row("p1")["api_response"].startswith("HTTP 400")
    row = staging.row("p3")
    assert (row["submission_status"], row["row_state"]) == ("error", "New")
    assert (row["previous_json_payload"], row["submission_timestamp"]) == (None, None)


@pytest.mark.parametrize("status", ["400", "422", "413"])
def test_refusal_that_names_nobody_is_halved(local: Staging, hooked: HookedReceiver, status: str) -> None:
    """Halved until the bad record is alone; the others arrive."""
    add_five(local)
    hooked.faults.add(Fault(status, times=None, child="c3"))
    summary = run(local, hooked)
    assert (summary.sent, summary.failed, summary.exit_code) == (4, 1, ExitCode.FAILED)
    assert {name for name, each in local.statuses().items() if each == "error"} == {"p3"}
    assert [len(batch) for batch in sent_ids(hooked)] == [5, 3, 2, 1, 1]


@pytest.mark.parametrize("index", ["[99].x", "[5]", "social_care_episodes[0].referral_source"])
def test_index_outside_the_array_counts_as_none(local: Staging, hooked: HookedReceiver, index: str) -> None:
    """Nobody is blamed for an index that is no record's."""
    add_five(local)
    original = hooked._spoiled

    def spoiled(fault: Any, right: Any, batch: Any = ()) -> Any:
        return problems(400, {index: ["bad"]}) if fault else original(fault, right, batch)

    hooked._spoiled = spoiled  # type: ignore[method-assign]
    hooked.faults.add(Fault("400", times=None, child="c4"))
    summary = run(local, hooked)
    assert (summary.sent, summary.failed) == (4, 1)
    assert local.row("p4")["submission_status"] == "error"


def test_reason_that_no_column_can_hold_is_mended(staging: Staging, hooked: HookedReceiver) -> None:
    """A refusal may quote NUL or half a character: the row gets its error and the run goes on."""
    add_five(staging)
    original = hooked._spoiled
    body = b'{"errors": {"[1].child_details.surname": ["bad \\u0000 and \\ud800 \\ud83c\\udf1f"]}}'

    def spoiled(fault: Any, right: Any, batch: Any = ()) -> Any:
        return Reply(400, body) if fault else original(fault, right, batch)

    hooked._spoiled = spoiled  # type: ignore[method-assign]
    hooked.faults.add(Fault("400"))
    summary = run(staging, hooked)
    assert (summary.sent, summary.failed) == (4, 1)
    assert "\U0001f31f" in staging.row("p1")["api_response"]


def test_no_content_is_a_refusal(local: Staging, hooked: HookedReceiver) -> None:
    """204: nothing was taken; error, not retried, code 1."""
    add_five(local)
    hooked.faults.add(Fault("204"))
    summary = run(local, hooked, MAX_RETRIES=3)
    assert len(hooked.submissions) == 1
    assert (summary.failed, summary.exit_code) == (5, ExitCode.FAILED)
    assert set(local.statuses().values()) == {"error"}


@pytest.mark.parametrize("kind", ["302", "403", "403-html", "404", "401", "405"])
def test_reply_that_ends_the_run(local: Staging, hooked: HookedReceiver, kind: str) -> None:
    """What was acknowledged before is written back, the rest is as it was, nothing more is sent, code 4."""
    add_five(local)
    hooked.faults.add(Fault(kind, times=None, after=1))
    before = local.rows()
    summary = run(local, hooked, BATCH_SIZE=2)
    assert (summary.sent, summary.left_due, summary.exit_code) == (2, 3, ExitCode.API)
    assert local.rows()[2:] == before[2:]
    assert len(hooked.submissions) == (3 if kind == "401" else 2)
    assert summary.stopped_because


def test_token_that_is_revoked_is_renewed_once(local: Staging, hooked: HookedReceiver) -> None:
    """One 401 costs nothing but another token."""
    add_five(local)
    hooked.faults.add(Fault("401", after=1))
    assert run(local, hooked, BATCH_SIZE=2).exit_code == ExitCode.OK
    assert hooked.tokens_issued == 2
    assert len(hooked.children) == 5


@pytest.mark.parametrize(
    "kind", ["408", "429", "500", "502", "503", "504", "reset", "html", "object", "empty"]
)
def test_batch_given_up_stays_due_and_the_next_goes_on(
    local: Staging, hooked: HookedReceiver, kind: str
) -> None:
    """A passing failure leaves its rows as they were and code 4, even if later batches succeed."""
    add_five(local)
    hooked.faults.add(Fault(kind, times=2, retry_after=0))
    before = local.rows()
    summary = run(local, hooked, BATCH_SIZE=2, MAX_RETRIES=2)
    assert (summary.sent, summary.left_due, summary.exit_code) == (3, 2, ExitCode.API)
    assert local.rows()[:2] == before[:2]
    assert summary.unsure == (0 if kind == "429" else 2)
    assert run(local, hooked).exit_code == ExitCode.OK
    assert len(hooked.children) == 5


@pytest.mark.parametrize("kind", ["lost-reply", "missing-receipt", "extra-receipt", "cut-off"])
def test_lost_reply_is_sent_again_with_the_same_bytes(
    local: Staging, hooked: HookedReceiver, kind: str
) -> None:
    """The receiver upserts, so repeating what may have arrived is harmless and losing it is not."""
    add_five(local)
    hooked.faults.add(Fault(kind, seconds=0), Fault("503", retry_after=0))
    # The wait after a fault without Retry-After is not worth a second of this suite.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api_pipeline.api._ordinary_wait", lambda _: 0.0)
        summary = run(local, hooked, MAX_RETRIES=3)
    assert summary.exit_code == ExitCode.OK
    assert len({request.body for request in hooked.submissions}) == 1
    assert len(hooked.submissions) == 3
    assert {row["api_response"] for row in local.rows()} == {receipt_uuid(hooked, f"c{n}") for n in range(5)}


@pytest.mark.parametrize("kind", ["spaced", "no-suffix"])
def test_receipts_in_other_forms(local: Staging, hooked: HookedReceiver, kind: str) -> None:
    """Receipts apart by white space, or without .json, are receipts."""
    add_five(local)
    hooked.faults.add(Fault(kind))
    assert run(local, hooked).sent == 5
    assert {row["api_response"] for row in local.rows()} == {receipt_uuid(hooked, f"c{n}") for n in range(5)}


def test_three_batches_given_up_in_a_row_stop_the_run(local: Staging, hooked: HookedReceiver) -> None:
    """Two and a success do not; three do, and nothing more is tried."""
    for number in range(10):
        local.add(f"p{number}", child(f"c{number}"))
    hooked.faults.add(Fault("503", times=2), Fault("503", times=None, after=3))
    summary = run(local, hooked, BATCH_SIZE=1)
    assert (summary.sent, len(hooked.submissions)) == (1, 6)
    assert summary.exit_code == ExitCode.API
    assert "in a row" in summary.stopped_because


def test_deadline_begins_no_new_batch(local: Staging, hooked: HookedReceiver) -> None:
    """The batch under way is finished and written back; rows left make code 1."""
    add_five(local)
    now = [0.0]
    hooked.hook = lambda _: now.__setitem__(0, now[0] + 3600)
    settings = settings_of(local, hooked, BATCH_SIZE=2, RUN_DEADLINE_MINUTES=61)
    summary = pipeline.run(settings, RunOptions(), clock=lambda: now[0])
    assert (summary.sent, summary.left_due, summary.exit_code) == (4, 1, ExitCode.FAILED)


def test_stop_finishes_the_batch_in_flight(staging: Staging, hooked: HookedReceiver) -> None:
    """A request to stop while the POST is under way: written back, nothing more is sent, code 130."""
    add_five(staging)
    stop = threading.Event()
    hooked.hook = lambda _: stop.set()
    summary = pipeline.run(settings_of(staging, hooked, BATCH_SIZE=2), RunOptions(), stop=stop)
    assert (summary.sent, summary.exit_code) == (2, ExitCode.INTERRUPTED)
    assert sorted(staging.statuses().values()) == ["Pending"] * 3 + ["sent"] * 2


def test_stop_does_not_lose_an_acknowledgement_to_a_passing_database_fault(
    local: Staging, hooked: HookedReceiver
) -> None:
    """Asked to stop, the write-back still outlasts another program's lock on the table."""
    add_five(local)
    stop = threading.Event()
    holder = sqlite3.connect(
        local.database.connection_string.removeprefix("sqlite:///"),
        isolation_level=None,
        check_same_thread=False,
    )

    def meddle(_: Any) -> None:
        stop.set()
        holder.execute("BEGIN IMMEDIATE")

    def let_go(*_: Any) -> None:
        if holder.in_transaction:
            holder.execute("ROLLBACK")

    hooked.hook = meddle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api_pipeline.db.LOCK_TIMEOUT", 0.1)
        patch.setattr("api_pipeline.db.log.warning", let_go)  # said once the first attempt has failed
        summary = pipeline.run(settings_of(local, hooked), RunOptions(), stop=stop)
    holder.close()
    assert (summary.sent, summary.unrecorded) == (5, 0)

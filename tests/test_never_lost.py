"""Whatever ends a run, no acknowledgement is lost and none is made up (domain, section 6)."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db, pipeline, planning
from api_pipeline.errors import DatabaseError, ExitCode
from api_pipeline.faults import Fault
from api_pipeline.ledger import Ledger
from api_pipeline.pipeline import RunOptions
from api_pipeline.recording import Recorder
from tests.staging_kit import (
    MARKER,
    HookedReceiver,
    Staging,
    receipt_uuid,
    run,
    sent_ids,
    sent_records,
    settings_of,
)
from tests.test_partial_runs import SECRET, episodes_of, last, night, payload


@pytest.fixture
def hooked() -> Any:
    """A receiver that applies every payload by the rules of partial mode."""
    with HookedReceiver(keep_bodies=True, apply_partials=True) as stand_in:
        yield stand_in


class Killed(BaseException):
    """The process ends here; nothing in the package catches it."""


def _killing(owner: type, name: str, *, after: bool) -> tuple[type, str, Callable[..., Any]]:
    plain = getattr(owner, name)

    def replaced(*args: Any, **options: Any) -> Any:
        if after:
            plain(*args, **options)
        raise Killed

    return owner, name, replaced


STEPS = {
    "before it is noted": (Recorder, "open", False),
    "while it is noted": (Ledger, "open", True),
    "before the POST": (Recorder, "open", True),
    "after the reply": (Recorder, "settle", False),
    "between row and log": (Ledger, "close", False),
    "before the commit": (Ledger, "close", True),
    "after the commit": (Recorder, "settle", True),
}
NOTED = ("before the POST", "after the reply", "between row and log", "before the commit")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The next run sends in full what was under way, says how many, and everything is right again."""
    remembering.add("p1", payload("c1", "e1", "e2", "e3"))
    remembering.add("p2", payload("c2", "e1"))
    remembering.add("p3", payload("c3", "e1"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1", "e2"))
    remembering.update("p2", row_state="Deleted")
    remembering.refresh("p3", payload("c9", "e1"))
    remembering.add("p4", payload("c4", "e1"))
    with monkeypatch.context() as patch:
        patch.setattr(*_killing(*STEPS[step][:2], after=STEPS[step][2]))
        for _ in range(2):  # twice the same night
            with pytest.raises(Killed):
                run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    summary = night(remembering, hooked)
    assert summary.recovered == (1 if step in NOTED else 0)
    night(remembering, hooked)
    assert hooked.children == {
        "c1": json.loads(payload("c1", "e1", "e2")),
        "c9": json.loads(payload("c9", "e1")),
        "c4": json.loads(payload("c4", "e1")),
    }
    assert set(remembering.statuses().values()) == {"sent"}
    assert remembering.row("p2")["current_hash"] == MARKER
    assert {line["outcome"] for line in remembering.log()} == {"sent", "unsure"} - (
        set() if step in NOTED else {"unsure"}
    )
    for person in ("p1", "p2", "p3", "p4"):
        kept = remembering.baseline(person)
        assert (kept["flight_kind"], kept["flight_payload"], kept["unsure"]) == (None, None, None)


def test_lost_reply_is_doubt_and_goes_again_in_full(remembering: Staging, hooked: HookedReceiver) -> None:
    """The row stays due, the log says unsure, and the next payload purges whatever may be there."""
    remembering.add("p1", payload("c1", "e1", "e2"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1", "e3"))
    hooked.faults.add(Fault("lost-reply"))
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    assert (summary.unsure, summary.exit_code) == (1, ExitCode.API)
    assert remembering.row("p1")["submission_status"] == "Pending"
    assert remembering.log()[-1]["outcome"] == "unsure"
    kept = remembering.baseline("p1")
    assert json.loads(kept["payload"]) == json.loads(payload("c1", "e1", "e2"))
    assert set(json.loads(kept["unsure"])["c1"]["social_care_episodes"]) == {"e1", "e3"}
    remembering.refresh("p1", payload("c1", "e1"))
    assert night(remembering, hooked).kinds == {"full": 1}
    [sent] = last(hooked)
    assert {each["social_care_episode_id"] for each in episodes_of(sent) if each.get("purge")} == {"e2", "e3"}
    assert hooked.children["c1"] == json.loads(payload("c1", "e1"))
    assert remembering.baseline("p1")["unsure"] is None


@pytest.mark.parametrize("taken", [True, False])
def test_refusal_after_doubt_does_not_end_it(
    remembering: Staging, hooked: HookedReceiver, taken: bool
) -> None:
    """504 and then 400 to the same body: an error in the row, and doubt until a receipt list comes."""
    remembering.add("p1", payload("c1", "e1", "e2"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1", "e3"))
    hooked.faults.add(Fault("504", taken=taken), Fault("400-record", child="c1"))
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True, MAX_RETRIES=2)
    assert summary.errors == {"refused by the API": 1}
    assert remembering.row("p1")["submission_status"] == "error"
    assert (remembering.log()[-1]["outcome"], remembering.log()[-1]["posts"]) == ("unsure", 2)
    remembering.refresh("p1", payload("c1", "e1", "e2"))  # what the baseline has
    assert night(remembering, hooked).kinds == {"full": 1}
    assert hooked.children["c1"] == json.loads(payload("c1", "e1", "e2"))


def test_purge_of_unknown_fate_is_no_unchanged(remembering: Staging, hooked: HookedReceiver) -> None:
    """A child who returns as they were after a purge that may have arrived is sent in full."""
    text = payload("c1", "e1")
    remembering.add("p1", text)
    night(remembering, hooked)
    remembering.update("p1", row_state="Deleted")
    hooked.faults.add(Fault("lost-reply"))
    assert run(remembering, hooked, USE_PARTIAL_PAYLOAD=True).unsure == 1
    assert hooked.children == {}
    remembering.update("p1", row_state="Updated", submission_status="Pending")
    assert night(remembering, hooked).kinds == {"full": 1}
    assert hooked.children["c1"] == json.loads(text)


def test_row_refreshed_under_the_post(remembering: Staging, hooked: HookedReceiver) -> None:
    """It stays due, and its baseline is what was acknowledged and not what stands in the row by now."""
    remembering.add("p1", payload("c1", "e1", "e2", "e3"))

    def refresh(_: Any) -> None:
        remembering.refresh("p1", payload("c1", "e1", "e2"))

    hooked.hook = refresh
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    hooked.hook = None
    assert (summary.changed_meanwhile, summary.sent, summary.exit_code) == (1, 0, ExitCode.OK)
    assert remembering.row("p1")["submission_status"] == "Pending"
    kept = remembering.baseline("p1")
    assert json.loads(kept["payload"]) == json.loads(payload("c1", "e1", "e2", "e3"))
    assert remembering.log()[0]["outcome"] == "sent"
    assert night(remembering, hooked).kinds == {"partial": 1}
    [sent] = last(hooked)
    assert episodes_of(sent) == [{"social_care_episode_id": "e3", "purge": True}]


def test_row_refreshed_before_the_post_is_not_sent(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and noting: it is counted as changed, leaves no line, and goes the next time."""
    remembering.add("p1", payload("c1", "e1"))
    remembering.add("p2", payload("c2", "e1"))
    plain = Recorder.open

    def late(self: Recorder, attempts: Any) -> Any:
        remembering.refresh("p1", payload("c1", "e2"))
        return plain(self, attempts)

    monkeypatch.setattr(Recorder, "open", late)
    summary = run(remembering, hooked, USE_PARTIAL_PAYLOAD=True)
    monkeypatch.undo()
    assert (summary.changed_meanwhile, summary.sent) == (1, 1)
    assert sent_ids(hooked) == [["c2"]]
    assert [line["person_id"] for line in remembering.log()] == ["p2"]
    assert remembering.baseline("p1") == {}
    assert night(remembering, hooked).sent == 1


@pytest.mark.parametrize("change", ["another id", "hash gone"])
def test_row_refreshed_after_the_survey_waits_for_the_next_run(
    local: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An earlier id that nobody has purged, or a row that nothing can guard: the next run looks again."""
    local.remember()
    local.add("p1", payload("c1", "e1"))
    night(local, hooked)
    local.refresh("p1", payload("c1", "e2"))
    local.add("p2", payload("c2", "e1"))
    plain = planning.survey

    def surveyed(*args: Any) -> Any:
        plan = plain(*args)
        if change == "another id":
            local.refresh("p1", payload("c2", "e1"))  # the id is known to the survey, from p2
        else:
            local.update("p1", current_hash=None)
        return plan

    monkeypatch.setattr(planning, "survey", surveyed)
    hooked.requests.clear()
    summary = run(local, hooked, USE_PARTIAL_PAYLOAD=True)
    assert (summary.changed_meanwhile, summary.sent) == (1, 1)
    assert sent_ids(hooked) == [["c2"]]
    assert (local.baseline("p1")["la_child_id"], local.baseline("p1")["flight_kind"]) == ("c1", None)
    assert len([line for line in local.log() if line["person_id"] == "p1"]) == 1


# --- The spool --------------------------------------------------------------------------------------------


class Outage:
    """The database, gone for good from the moment on at which a POST has arrived."""

    def __init__(self, patch: pytest.MonkeyPatch, receiver: HookedReceiver, after: int = 0) -> None:
        self._plain = db.Database._run
        self._down = False
        posts = 0

        def arrived(_: Any) -> None:
            nonlocal posts
            posts += 1
            self._down = posts > after

        def run_(database: Any, sql: str, params: Any = (), *, fetch: bool) -> Any:
            if self._down:
                raise DatabaseError("The server is gone.", hop="connection")
            return self._plain(database, sql, params, fetch=fetch)

        patch.setattr(db.Database, "_run", run_)
        receiver.hook = arrived


def outage(
    staging: Staging, receiver: HookedReceiver, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[dict[str, Any]]:
    """Do a run whose database goes away under its first POST; return the lines of its spool file."""
    after = options.pop("after", 0)
    with monkeypatch.context() as patch:
        Outage(patch, receiver, after)
        summary = run(staging, receiver, USE_PARTIAL_PAYLOAD=True, **options)
    receiver.hook = None
    assert summary.exit_code == ExitCode.DATABASE
    [path] = Path.cwd().glob("csc_api_spool_*")
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text(encoding="ascii")
    assert SECRET not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert summary.unrecorded == sum(line["kind"] != "earlier id" for line in lines)
    for line in lines:
        assert set(line) == {"table", "person_id", "kind", "run_id", "seq", "row_hash", "receipt"}
    return lines


def test_receipts_outlive_the_database(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run writes rows, log and baseline back before anything else, sends nothing, and tidies up."""
    remembering.add("p1", payload("c1", "e1"))
    remembering.add("p2", payload("c2", "e1"))
    lines = outage(remembering, hooked, monkeypatch)
    assert sorted(line["person_id"] for line in lines) == ["p1", "p2"]
    assert {line["receipt"] for line in lines} == set(hooked.receipts.values())
    assert set(remembering.statuses().values()) == {"Pending"}
    summary = night(remembering, hooked)
    assert (summary.replayed, summary.recovered, summary.due, hooked.submissions) == (2, 0, 0, [])
    for number in (1, 2):
        row = remembering.row(f"p{number}")
        assert (row["submission_status"], row["row_state"]) == ("sent", "unchanged")
        assert row["api_response"] == receipt_uuid(hooked, f"c{number}")
        assert remembering.baseline(f"p{number}")["state"] == "acknowledged"
    assert {line["outcome"] for line in remembering.log()} == {"sent"}
    assert not list(Path.cwd().glob("csc_api_spool_*"))


def test_spooled_receipt_of_a_row_that_changed(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline becomes what was acknowledged, the row stays due, and the partial starts from there."""
    remembering.add("p1", payload("c1", "e1", "e2", "e3"))
    outage(remembering, hooked, monkeypatch)
    remembering.refresh("p1", payload("c1", "e1", "e2"))
    summary = night(remembering, hooked)
    assert (summary.replayed, summary.sent, summary.kinds) == (1, 1, {"partial": 1})
    assert hooked.children["c1"] == json.loads(payload("c1", "e1", "e2"))


def test_spooled_partial_and_deletion_and_earlier_id(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes back as what it was; what was sent as a partial is not known any more and not made up."""
    for number in range(3):
        remembering.add(f"p{number}", payload(f"c{number}", "e1", "e2", "e3"))
    night(remembering, hooked)
    remembering.refresh("p0", payload("c0", "e1", "e2"))
    [partial] = outage(remembering, hooked, monkeypatch)
    assert night(remembering, hooked).replayed == 1
    row = remembering.row("p0")
    assert (row["submission_status"], row["partial_json_payload"]) == ("sent", None)
    assert partial["kind"] == "sent in partial mode"

    remembering.update("p1", row_state="Deleted")
    [deletion] = outage(remembering, hooked, monkeypatch)
    assert deletion["kind"] == "purged"
    assert night(remembering, hooked).requests == 0
    assert remembering.row("p1")["current_hash"] == MARKER
    assert remembering.baseline("p1")["state"] == "purged"

    remembering.refresh("p2", payload("c9", "e1"))
    [earlier] = outage(remembering, hooked, monkeypatch)
    assert earlier["kind"] == "earlier id"
    assert night(remembering, hooked).replayed == 1
    assert sent_ids(hooked)[-1] == ["c9"]
    assert set(hooked.children) == {"c0", "c9"}


def test_spooled_deletion_of_a_child_who_returned(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge must not be written onto a row that is no deletion any more, even with the same hash."""
    text = payload("c1", "e1")
    remembering.add("p1", text)
    night(remembering, hooked)
    remembering.update("p1", row_state="Deleted")
    outage(remembering, hooked, monkeypatch)
    remembering.update("p1", row_state="Updated", submission_status="Pending")
    summary = night(remembering, hooked)
    assert (summary.replayed, summary.sent, summary.kinds) == (1, 1, {"full": 1})
    assert hooked.children["c1"] == json.loads(text)


def test_spool_that_comes_too_late_claims_nothing(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Receipts found after later runs do not overwrite what those did, although the row looks the same."""
    remembering.add("p1", payload("c1", "e1"))
    outage(remembering, hooked, monkeypatch)
    [path] = Path.cwd().glob("csc_api_spool_*")
    hidden = tmp_path / "hidden"
    path.rename(hidden)
    remembering.refresh("p1", payload("c1", "e2"))
    night(remembering, hooked)
    remembering.refresh("p1", payload("c1", "e1"))
    hidden.rename(path)
    summary = night(remembering, hooked)
    assert (summary.replayed, summary.sent) == (1, 1)
    assert hooked.children["c1"] == json.loads(payload("c1", "e1"))
    assert not path.exists()


@pytest.mark.parametrize("fault", ["not json", "cut", "other key", "kind", "receipt"])
def test_spool_that_cannot_be_read_is_kept(
    remembering: Staging,
    hooked: HookedReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """It is named in the log and stays; its rows go again; the run is none the worse."""
    remembering.add("p1", payload("c1", "e1"))
    [line] = outage(remembering, hooked, monkeypatch)
    [path] = Path.cwd().glob("csc_api_spool_*")
    broken = {
        "not json": "?\n",
        "cut": json.dumps(line)[:-9],
        "other key": json.dumps({**line, "more": 1}),
        "kind": json.dumps({**line, "kind": "eaten"}),
        "receipt": json.dumps({**line, "receipt": "thanks"}),
    }[fault]
    path.write_text(broken, encoding="ascii")
    caplog.clear()
    summary = night(remembering, hooked)
    assert (summary.replayed, summary.recovered, summary.sent) == (0, 1, 1)
    assert str(path) in caplog.text
    assert path.read_text(encoding="ascii") == broken


def test_spool_of_another_table_is_left_to_it(
    remembering: Staging,
    hooked: HookedReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run on another table reports it and leaves it alone; the right one takes it."""
    remembering.add("p1", payload("c1", "e1"))
    outage(remembering, hooked, monkeypatch)
    other = Staging(remembering.database, remembering.table.replace("staging_anon", "second_anon")).create()
    caplog.clear()
    assert night(other, hooked).replayed == 0
    assert "belongs to another table" in caplog.text
    assert night(remembering, hooked).replayed == 1


def test_spool_works_without_the_tables(
    staging: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts are as precious where nothing else is remembered."""
    staging.add("p1", payload("c1", "e1"))
    [line] = outage(staging, hooked, monkeypatch)
    assert (line["kind"], line["seq"]) == ("sent", 0)
    summary = night(staging, hooked)
    assert (summary.replayed, summary.due) == (1, 0)
    assert staging.row("p1")["submission_status"] == "sent"


def test_outage_with_a_folder_that_cannot_be_written(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database stays the reason for the end; the rows stay due and go again."""
    remembering.add("p1", payload("c1", "e1"))
    Path("occupied").write_text("a file", encoding="ascii")
    with monkeypatch.context() as patch:
        Outage(patch, hooked)
        summary = run(remembering, hooked, SPOOL_DIR=Path("occupied") / "spool")
    hooked.hook = None
    assert summary.exit_code == ExitCode.DATABASE
    assert night(remembering, hooked).recovered == 1


# --- Stopping ---------------------------------------------------------------------------------------------


def test_stop_writes_back_what_is_under_way(remembering: Staging, hooked: HookedReceiver) -> None:
    """Ctrl+C: the request under way is acknowledged and written; the rest stays due, no line is open."""
    for number in range(6):
        remembering.add(f"p{number}", payload(f"c{number}", "e1"))
    stop = threading.Event()
    hooked.hook = lambda _: stop.set()
    summary = pipeline.run(
        settings_of(remembering, hooked, BATCH_SIZE=2, USE_PARTIAL_PAYLOAD=True), RunOptions(), stop=stop
    )
    hooked.hook = None
    assert (summary.exit_code, summary.sent, summary.left_due) == (ExitCode.INTERRUPTED, 2, 4)
    assert [line["outcome"] for line in remembering.log()] == ["sent"] * 2
    summary = night(remembering, hooked)
    assert (summary.recovered, summary.sent) == (0, 4)


def test_what_a_stop_leaves_over_keeps_its_line(remembering: Staging, hooked: HookedReceiver) -> None:
    """Records to be sent again after a refusal, and then not: the log still tells of the POST there was."""
    for number in range(3):
        remembering.add(f"p{number}", payload(f"c{number}", "e1"))
    stop = threading.Event()
    hooked.hook = lambda _: stop.set()
    hooked.faults.add(Fault("400-record", child="c1"))
    pipeline.run(settings_of(remembering, hooked), RunOptions(), stop=stop)
    lines = [
        (line["person_id"], line["outcome"], line["posts"], line["http_status"]) for line in remembering.log()
    ]
    assert sorted(lines) == [(f"p{number}", "error", 1, 400) for number in range(3)]
    assert remembering.statuses() == {"p0": "Pending", "p1": "error", "p2": "Pending"}


def test_doubt_about_a_faulty_text_is_kept_as_well(remembering: Staging, hooked: HookedReceiver) -> None:
    """With VALIDATION=warn a text with duplicate keys goes out; doubt about it stops no later run."""
    text = '{"la_child_id": "c1", "child_details": {"surname": "a", "surname": "b"}}'
    remembering.add("p1", text)
    hooked.faults.add(Fault("reset"))
    options = {"VALIDATION": "warn", "USE_PARTIAL_PAYLOAD": True}
    assert run(remembering, hooked, **options).exit_code == ExitCode.API
    assert json.loads(remembering.baseline("p1")["unsure"]) == {"c1": {"child_details": {}}}
    assert run(remembering, hooked, **options).errors == {"refused by the API": 1}
    assert sent_records(hooked)[-1][0]["la_child_id"] == "c1"
    assert remembering.baseline("p1")["flight_kind"] is None

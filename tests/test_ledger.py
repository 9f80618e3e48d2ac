"""The submission log and the baseline, called as a run calls them (domain, section 6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from api_pipeline import db
from api_pipeline.ledger import Ledger
from api_pipeline.names import TableName
from api_pipeline.remembered import Attempt, Closing, LogKind, LogOutcome
from api_pipeline.replies import Receipt, parse_receipts
from api_pipeline.staging import StagingTable
from tests.staging_kit import Staging, child, digest

MOMENT = datetime(2025, 6, 30, 2, 11, 9, 530000)  # noqa: DTZ001 - receipts name no zone
RAW = "2025-06-30_02:11:09.53_0f8fad5b-d9cb-469f-a165-70867728950e.json"
EPISODES = '{"la_child_id": "c1", "social_care_episodes": [{"social_care_episode_id": "e1"}]}'


class Run:
    """One run's ledger, and what a run does with it."""

    def __init__(self, database: db.Database, staging: Staging, run_id: str = "run-1") -> None:
        self.database = database
        self.staging = staging
        table = StagingTable(database, TableName.parse(staging.table))
        found = Ledger.find(database, table, run_id)
        assert found is not None
        self.ledger = found
        self.run_id = run_id

    def attempt(self, person: str, kind: LogKind = LogKind.FULL, **more: Any) -> Attempt:
        """Return an attempt to send the row of a person as it is now."""
        row = self.staging.row(person)
        text = row["json_payload"].encode()
        values: dict[str, Any] = {
            "run_id": self.run_id,
            "seq": self.ledger.next_seq(),
            "key": row["id"],
            "row_id": row["id"],
            "person_id": person,
            "row_hash": row["current_hash"],
            "row_deleted": row["row_state"].strip().lower() == "deleted",
            "kind": kind,
            "child_id": "c" + person[1:],
            "sent_hash": hashlib.sha256(text).digest(),
            "sent_bytes": len(text),
            "state_hash": digest("state"),
            "records_hash": digest("records"),
            "known": bool(self.staging.baseline(person)),
        }
        return Attempt(**{**values, **more})

    def open(self, *attempts: Attempt, again: bool = False) -> set[int]:
        """Note attempts in a transaction."""
        with self.database.transaction():
            return self.ledger.open(attempts, again=again)

    def close(self, *attempts: Attempt, outcome: LogOutcome, status: int | None = 200) -> None:
        """Complete attempts in a transaction."""
        with self.database.transaction():
            self.ledger.close(
                [Closing(attempt, outcome, 1, status, RAW, "uuid", MOMENT) for attempt in attempts]
            )

    def unsure(self, person: str) -> Any:
        """Return the union of doubtful records of a person."""
        found = self.staging.baseline(person)["unsure"]
        return None if found is None else json.loads(found)


@pytest.fixture
def opened(remembering: Staging) -> Iterator[db.Database]:
    """The package's own connection to the database."""
    with db.connect(remembering.database.connection_string) as connection:
        yield connection


@pytest.fixture
def night(opened: db.Database, remembering: Staging) -> Run:
    """A run over three rows."""
    remembering.add("p1", EPISODES)
    remembering.add("p2", child("c2", surname="O'Brien"))
    remembering.add("p3", child("c3"))
    return Run(opened, remembering)


def test_ledger_needs_both_tables(opened: db.Database, remembering: Staging) -> None:
    """Where one of them is missing nothing is remembered, and full mode works as ever."""
    name = remembering.table.replace("staging_anon", "ssd_api_baseline_anon")
    remembering.database.execute(f"DROP TABLE {name}")
    table = StagingTable(opened, TableName.parse(remembering.table))
    assert Ledger.find(opened, table, "run-1") is None


def test_noted_attempt_is_in_the_log_and_in_flight(night: Run, remembering: Staging) -> None:
    """What is about to be sent stands in both tables before the POST, the payload copied on the server."""
    first, second = night.attempt("p1"), night.attempt("p2", acknowledged_text='{"la_child_id": "other"}')
    assert night.open(first, second) == {first.seq, second.seq}
    lines = remembering.log()
    assert [(line["person_id"], line["outcome"], line["kind"]) for line in lines] == [
        ("p1", "sending", "full"),
        ("p2", "sending", "full"),
    ]
    assert lines[0]["finished_at"] is None
    kept = remembering.baseline("p1")
    assert (kept["state"], kept["flight_kind"], kept["flight_child_id"]) == ("unknown", "full", "c1")
    assert (kept["flight_payload"], kept["payload"]) == (EPISODES, None)
    assert remembering.baseline("p2")["flight_payload"] == '{"la_child_id": "other"}'


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("change", ["refreshed", "deleted", "hash gone", "row gone"])
def test_row_that_changed_since_it_was_read_is_not_noted(
    night: Run, remembering: Staging, known: bool, change: str
) -> None:
    """The others of the batch are; of the changed one neither table has anything."""
    if known:
        first = night.attempt("p1")
        night.open(first)
        night.close(first, outcome=LogOutcome.SENT)
    before = remembering.baseline("p1"), len(remembering.log())
    one, two = night.attempt("p1"), night.attempt("p2")
    if change == "refreshed":
        remembering.refresh("p1", child("c1"))
    elif change == "row gone":
        remembering.database.execute(f"DELETE FROM {remembering.table} WHERE person_id = 'p1'")
    elif change == "deleted":
        remembering.update("p1", row_state="Deleted")
    else:
        remembering.update("p1", current_hash=None)
    assert night.open(one, two) == {two.seq}
    assert (remembering.baseline("p1"), len(remembering.log())) == (before[0], before[1] + 1)


@pytest.mark.parametrize("known", [False, True])
def test_noting_can_be_repeated(night: Run, remembering: Staging, known: bool) -> None:
    """After a commit whose answer was lost, the same attempts are noted once, a changed row not at all."""
    if known:
        first = night.attempt("p1")
        night.open(first)
        night.close(first, outcome=LogOutcome.SENT)
    one, two = night.attempt("p1"), night.attempt("p2")
    night.open(one, two)
    assert night.open(one, two, again=True) == {one.seq, two.seq}
    assert [line["seq"] for line in remembering.log() if line["outcome"] == "sending"] == [one.seq, two.seq]
    remembering.refresh("p2", child("c2"))
    assert night.open(one, two, again=True) == {one.seq}
    assert remembering.baseline("p2") == {}
    assert [line["seq"] for line in remembering.log() if line["outcome"] == "sending"] == [one.seq]


def test_acknowledgement_makes_the_baseline(night: Run, remembering: Staging) -> None:
    """Payload, hashes, receipt and moment are taken over from the flight; the line says what DfE said."""
    attempt = night.attempt("p1")
    night.open(attempt)
    remembering.refresh("p1", child("c1"))  # under the POST
    night.close(attempt, outcome=LogOutcome.SENT)
    kept = remembering.baseline("p1")
    assert (kept["state"], kept["la_child_id"], kept["payload"]) == ("acknowledged", "c1", EPISODES)
    assert (bytes(kept["payload_hash"]), bytes(kept["records_hash"])) == (digest("state"), digest("records"))
    assert (kept["receipt"], kept["unsure"], kept["flight_kind"]) == ("uuid", None, None)
    [line] = remembering.log()
    assert (line["outcome"], line["posts"], line["http_status"], line["detail"]) == ("sent", 1, 200, RAW)
    [found] = night.ledger.lookup(["p1"], payloads=True).values()
    assert (found.payload, found.acknowledged_at, found.acknowledged) == (EPISODES, MOMENT, True)
    assert night.ledger.lookup(["p1"], payloads=False)["p1"].payload is None


def test_completing_can_be_repeated(night: Run, remembering: Staging) -> None:
    """The same closings a second time change nothing, whatever the outcome."""
    for outcome in (LogOutcome.SENT, LogOutcome.ERROR, LogOutcome.UNSURE):
        attempt = night.attempt("p1")
        night.open(attempt)
        night.close(attempt, outcome=outcome)
        before = remembering.baseline("p1"), [line["outcome"] for line in remembering.log()]
        night.close(attempt, outcome=outcome)
        assert (remembering.baseline("p1"), [line["outcome"] for line in remembering.log()]) == before


def test_doubt_is_a_union_and_an_acknowledgement_ends_it(night: Run, remembering: Staging) -> None:
    """Records of every unsure attempt are kept by la_child_id, a deletion too; a receipt empties them."""
    attempt = night.attempt("p1")
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.UNSURE, status=None)
    assert night.unsure("p1") == {"c1": {"social_care_episodes": {"e1": {}}}}
    remembering.refresh("p1", EPISODES.replace("e1", "e2"))
    attempt = night.attempt("p1")
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.UNSURE, status=504)
    assert night.unsure("p1") == {"c1": {"social_care_episodes": {"e1": {}, "e2": {}}}}
    purge = night.attempt("p1", LogKind.DELETION, child_id="c0")
    night.open(purge)
    assert remembering.baseline("p1")["flight_payload"] is None
    night.close(purge, outcome=LogOutcome.UNSURE, status=None)
    assert set(night.unsure("p1")) == {"c0", "c1"}
    assert night.ledger.lookup(["p1"], payloads=False)["p1"].unsure["c0"] == {}
    attempt = night.attempt("p1")
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.SENT)
    assert night.unsure("p1") is None


@pytest.mark.parametrize("known", [False, True])
def test_older_doubt_is_kept_until_an_acknowledgement(night: Run, known: bool) -> None:
    """What an older tool may have sent is remembered from the first attempt on, refused or not."""
    older = json.dumps({"c1": {"social_care_episodes": {"e9": {}}}})
    if known:
        attempt = night.attempt("p1")
        night.open(attempt)
        night.close(attempt, outcome=LogOutcome.ERROR, status=400)
    attempt = night.attempt("p1", unsure_before=older)
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.ERROR, status=400)
    assert night.unsure("p1") == json.loads(older)
    attempt = night.attempt("p1", unsure_before=None)
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.UNSURE, status=None)
    assert set(night.unsure("p1")["c1"]["social_care_episodes"]) == {"e1", "e9"}


def test_acknowledged_deletion_leaves_a_purged_line(night: Run, remembering: Staging) -> None:
    """No payload, state purged; the purge of an earlier id leaves what is known of the present one."""
    attempt = night.attempt("p1")
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.SENT)
    before = remembering.baseline("p1")
    other = night.attempt("p1", LogKind.DELETION, child_id="c0")
    night.open(other)
    night.close(other, outcome=LogOutcome.SENT)
    assert remembering.baseline("p1") == before
    assert night.ledger.holders(["c1", "c0"]) == [("c1", "p1")]
    own = night.attempt("p1", LogKind.DELETION)
    night.open(own)
    night.close(own, outcome=LogOutcome.SENT)
    kept = remembering.baseline("p1")
    assert (kept["state"], kept["payload"], kept["payload_hash"], kept["la_child_id"]) == (
        "purged",
        None,
        None,
        None,
    )
    assert night.ledger.holders(["c1"]) == []


@pytest.mark.parametrize(
    ("kind", "status", "full_next"),
    [
        (LogKind.PARTIAL, 400, True),
        (LogKind.PARTIAL, 413, True),
        (LogKind.PARTIAL, 204, True),
        (LogKind.PARTIAL, 429, False),
        (LogKind.PARTIAL, None, False),
        (LogKind.FULL, 400, False),
    ],
)
def test_only_a_refused_partial_asks_for_a_full_payload(
    night: Run, kind: LogKind, status: int | None, full_next: bool
) -> None:
    """A passing failure says nothing about the payload; an acknowledgement ends the request."""
    attempt = night.attempt("p1", kind)
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.ERROR, status=status)
    assert night.ledger.lookup(["p1"], payloads=False)["p1"].full_next is full_next
    attempt = night.attempt("p1")
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.SENT)
    assert night.ledger.lookup(["p1"], payloads=False)["p1"].full_next is False


def test_recovery_turns_what_is_open_into_doubt(
    night: Run, opened: db.Database, remembering: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over many pages, once; lines say unsure, flights become doubt, what was completed stays."""
    monkeypatch.setattr("api_pipeline.ledger.PAGE", 2)
    done = night.attempt("p3")
    night.open(done)
    night.close(done, outcome=LogOutcome.SENT)
    for number in range(4, 9):
        remembering.add(f"p{number}", child(f"c{number}"))
    night.open(*(night.attempt(person) for person in ("p1", "p2", "p4", "p5", "p6", "p7", "p8")))
    later = Run(opened, remembering, "run-2")
    assert later.ledger.recover() == 7
    assert later.ledger.recover() == 0
    assert sorted(line["outcome"] for line in remembering.log()) == ["sent"] + ["unsure"] * 7
    assert night.unsure("p1") == {"c1": {"social_care_episodes": {"e1": {}}}}
    assert night.unsure("p2") == {"c2": {"child_details": {}}}
    assert night.unsure("p3") is None
    assert all(remembering.baseline(f"p{n}")["flight_kind"] is None for n in range(1, 9))


def test_only_tests_and_sure_refusals_are_no_attempts(night: Run) -> None:
    """Whoever may have been taken by DfE counts as attempted: sent, unsure, or still on the way."""
    attempts = {name: night.attempt(name) for name in ("p1", "p2", "p3")}
    with night.database.transaction():
        night.ledger.note_tests([replace(attempts["p1"], kind=LogKind.TEST, seq=night.ledger.next_seq())])
    everybody = ["p1", "p2", "p3", "p4"]
    assert night.ledger.ever_attempted(everybody) == set()
    night.open(*attempts.values())
    assert night.ledger.ever_attempted(everybody) == {"p1", "p2", "p3"}
    night.close(attempts["p1"], outcome=LogOutcome.ERROR, status=400)
    night.close(attempts["p2"], outcome=LogOutcome.UNSURE, status=None)
    night.close(attempts["p3"], outcome=LogOutcome.SENT)
    assert night.ledger.ever_attempted(everybody) == {"p2", "p3"}


def test_receipt_of_an_earlier_run_completes_its_attempt_once(
    night: Run, opened: db.Database, remembering: Staging
) -> None:
    """As long as it is open; not when it was completed or turned into doubt since."""
    attempt = night.attempt("p1")
    night.open(attempt)
    later = Run(opened, remembering, "run-2")
    [receipt] = parse_receipts(json.dumps([RAW]).encode(), 1)
    assert isinstance(receipt, Receipt)
    closing = later.ledger.closing_of("run-1", attempt.seq, receipt)
    assert closing is not None
    with opened.transaction():
        later.ledger.close([closing])
    assert remembering.baseline("p1")["payload"] == EPISODES
    assert [line["outcome"] for line in remembering.log()] == ["sent"]
    assert later.ledger.closing_of("run-1", attempt.seq, receipt) is None
    attempt = night.attempt("p2")
    night.open(attempt)
    later.ledger.recover()
    assert later.ledger.closing_of("run-1", attempt.seq, receipt) is None


def test_log_and_baseline_hold_no_payload_beyond_their_own(night: Run, remembering: Staging) -> None:
    """The log has hashes and sizes; only the baseline has the child."""
    attempt = night.attempt("p2")
    night.open(attempt)
    night.close(attempt, outcome=LogOutcome.SENT)
    assert "Brien" not in str(remembering.log())
    assert "Brien" in remembering.baseline("p2")["payload"]

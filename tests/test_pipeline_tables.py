"""Rows that cannot be told apart are never sent; every deployment's table is served (domain, section 3)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api_pipeline.errors import ExitCode
from api_pipeline.faults import Fault
from api_pipeline.recording import Recorder
from tests.databases import Database
from tests.staging_kit import (
    HookedReceiver,
    Staging,
    child,
    run,
    sent_ids,
)

# --- Rows that cannot be told apart -----------------------------------------------------------------------


def test_shared_person_id_is_never_sent(staging: Staging, hooked: HookedReceiver) -> None:
    """Rows that share a person_id with any row, due or not, become errors that name the other rows' ids."""
    staging.add("twin", child("c1"))
    staging.add("other", child("c2"))
    staging.add("twin", child("c3"))
    staging.add("half", child("c4"))
    staging.add_sent("half", child("c5"))
    summary = run(staging, hooked)
    assert list(hooked.children) == ["c2"]
    assert (summary.errors["shared id"], summary.exit_code) == (3, ExitCode.FAILED)
    rows = staging.rows()
    assert [row["submission_status"] for row in rows] == ["error", "sent", "error", "error", "sent"]
    for index, other in ((0, 2), (2, 0), (3, 4)):
        assert str(rows[other]["id"]) in rows[index]["api_response"]


def test_shared_child_id_among_due_rows_is_never_sent(staging: Staging, hooked: HookedReceiver) -> None:
    """Due rows with one la_child_id become errors, wherever in the payload it stands; deletions too."""
    staging.add("p1", child("same"))
    staging.add("p2", '{"child_details": {}, "la_child_id": "same"}')
    staging.add_sent("p3", child("same"), "Deleted")
    staging.add("p4", child("SAME"))
    summary = run(staging, hooked)
    rows = staging.rows()
    assert sent_ids(hooked) == [["SAME"]]
    assert summary.errors["shared id"] == 3
    ids = [str(row["id"]) for row in rows]
    for index in range(3):
        assert rows[index]["submission_status"] == "error"
        for other in {0, 1, 2} - {index}:
            assert ids[other] in rows[index]["api_response"].replace(",", " ").split()
        assert rows[index]["row_state"] != "unchanged"


def test_limit_does_not_hide_a_shared_id(local: Staging, hooked: HookedReceiver) -> None:
    """An id shared with a due row outside --limit or --person-id still stops both."""
    local.add("p1", child("same"))
    local.add("p2", child("same"))
    assert run(local, hooked, limit=1).failed == 1
    assert run(local, hooked, persons=("p2",)).failed == 1
    assert not hooked.submissions


def test_no_purge_takes_away_a_child_that_another_row_holds(local: Staging, hooked: HookedReceiver) -> None:
    """A deletion for an id that another person's acknowledged row carries is an error, not a purge."""
    local.add("new", child("c1"))
    run(local, hooked)
    local.add_sent("old", child("c1"), "Deleted")
    summary = run(local, hooked)
    assert hooked.purged == []
    assert list(hooked.children) == ["c1"]
    assert summary.exit_code == ExitCode.FAILED
    assert str(local.row("new")["id"]) in local.row("old")["api_response"]
    assert local.row("new")["submission_status"] == "sent"


def test_earlier_id_that_another_row_holds_is_not_purged(local: Staging, hooked: HookedReceiver) -> None:
    """Two persons swapped ids and only one of them got through: the other's child stays where it is."""
    local.add_sent("p1", child("a"))
    local.add_sent("p2", child("b"))
    hooked.children.update(a={}, b={})
    local.refresh("p1", child("b", first_name="P1"))
    local.refresh("p2", child("a", first_name="P2"))
    hooked.faults.add(Fault("400-record", times=1, child="b"))
    run(local, hooked)
    assert local.statuses() == {"p1": "error", "p2": "sent"}
    run(local, hooked)
    assert hooked.purged == []
    assert hooked.children["a"]["child_details"] == {"first_name": "P2"}
    assert hooked.children["b"]["child_details"] == {"first_name": "P1"}


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_row_without_person_is_an_error(staging: Staging, hooked: HookedReceiver, blank: str | None) -> None:
    """NULL and blank person_ids are error rows; the others go out."""
    staging.add(blank, child("c1"))
    staging.add("p2", child("c2"))
    summary = run(staging, hooked)
    assert list(hooked.children) == ["c2"]
    assert (summary.due, summary.errors["no person_id"], summary.exit_code) == (2, 1, ExitCode.FAILED)
    assert staging.rows()[0]["submission_status"] == "error"
    assert "person_id" in staging.rows()[0]["api_response"]


# --- Deployments differ -----------------------------------------------------------------------------------


def test_table_without_id_and_legacy_id(staging: Staging, hooked: HookedReceiver) -> None:
    """Keyset by person_id: 450 rows over several pages, each once; NULL persons and twins become errors."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.create(id=None, legacy_id=None)
    for number in range(205):
        staging.add(f"P{number}", child(f"c{number}"))
    staging.add("twin", child("t1"))
    staging.add("twin", child("t2"))
    staging.add(None, child("n1"))
    summary = run(staging, hooked)
    assert summary.sent == 205
    assert set(hooked.children) == {f"c{number}" for number in range(205)}
    statuses = [row["submission_status"] for row in staging.rows() if row["person_id"] in (None, "twin")]
    assert statuses == ["error"] * 3
    assert (summary.due, summary.failed) == (208, 3)


@pytest.mark.parametrize("ids", [(1, 2, 2), (1, 2, None)])
def test_id_that_does_not_tell_rows_apart(
    staging: Staging, hooked: HookedReceiver, ids: tuple[int | None, ...]
) -> None:
    """An id without IDENTITY may be double or NULL: person_id is the key then, and every row arrives."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.create(id="INT NULL")
    for number, row_id in enumerate(ids):
        staging.add(f"p{number}", child(f"c{number}"), id=row_id)
    staging.add_sent("gone", child("c9"), "Deleted", id=7)
    summary = run(staging, hooked)
    assert (summary.sent, summary.deleted, summary.exit_code) == (3, 1, ExitCode.OK)
    assert set(staging.statuses().values()) == {"sent"}


def test_narrow_columns(staging: Staging, hooked: HookedReceiver) -> None:
    """A person_id of 20 characters works; a reason too long for api_response is cut, not failed."""
    types = {"sqlserver": "NVARCHAR", "postgresql": "VARCHAR", "sqlite": "NVARCHAR"}
    text = types[staging.database.kind]
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.create(person_id=f"{text}(20)", api_response=f"{text}(500)")
    staging.add("x" * 20, child("c1"))
    staging.add("bad", child("c2", **{f"disabilities{'x' * 40}": 1, "sex": "?"}))
    staging.add("faulty", json.dumps({"la_child_id": "c3", "social_care_episodes": [{}] * 40}))
    hooked._rules.__dict__.update(validate=False)
    summary = run(staging, hooked, VALIDATION="warn")
    assert summary.sent == 3
    hooked._rules.__dict__.update(validate=True)
    staging.refresh("faulty", json.dumps({"la_child_id": "c3", "social_care_episodes": [{}] * 41}))
    assert run(staging, hooked, VALIDATION="warn").failed == 1
    assert len(staging.row("faulty")["api_response"]) == 500


@pytest.mark.postgresql
@pytest.mark.parametrize("kind", ["JSON", "JSONB"])
def test_json_columns_of_postgresql(postgresql_database: Database, hooked: HookedReceiver, kind: str) -> None:
    """JSON and JSONB payloads are read, hashed, sent as the server gives them, and written back."""
    staging = Staging(postgresql_database)
    staging.create(
        json_payload=f"{kind} NOT NULL",
        previous_json_payload=kind,
        partial_json_payload=kind,
        submission_timestamp="TIMESTAMP",
    )
    staging.add("p1", child("c1", first_name="O'Brien \U0001f31f"))
    staging.add("p2", '{"child_details": {"surname": "x"},  "la_child_id": "c2"}', current_hash=None)
    staging.add_sent("gone", child("c3"), "Deleted")
    staging.add("moved", child("c5"), previous_json_payload=child("c4"))
    staging.add("none", '["la_child_id"]')
    if kind == "JSON":  # what JSONB refuses to store
        staging.add("nul", '{"la_child_id": "c6", "child_details": {"surname": "\\u0000"}}')
        staging.add("half", '{"la_child_id": "c7", "child_details": {"surname": "\\ud800"}}')
    summary = run(staging, hooked)
    statuses = staging.statuses()
    assert {name for name, status in statuses.items() if status == "error"} == (
        {"none", "half"} if kind == "JSON" else {"none"}
    )
    assert (summary.hashes_filled, summary.deleted) == (1, 1)
    assert hooked.children["c1"]["child_details"]["first_name"] == "O'Brien \U0001f31f"
    assert sent_ids(hooked)[:2] == [["-c4"], ["-c3"]]
    assert staging.row("p2")["previous_json_payload"] == staging.row("p2")["json_payload"]


def test_hashless_row_is_guarded_by_its_very_bytes(staging: Staging) -> None:
    """In testing mode a row without a hash is written only if its payload is the same in every byte."""
    staging.add("same", child("c1", surname="Stra\xdfe"), current_hash=None)
    staging.add("changed", child("c2", surname="Cafe\u0301"), current_hash=None)
    original = Recorder.settle

    def meddling(recorder: Any, entries: Any) -> Any:
        if entries:
            staging.update("changed", json_payload=child("c2", surname="CAFE\u0301 "))
        return original(recorder, entries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "settle", meddling)
        summary = run(staging, None)
    assert (summary.simulated, summary.changed_meanwhile) == (1, 1)
    assert staging.statuses() == {"same": "testing", "changed": "Pending"}

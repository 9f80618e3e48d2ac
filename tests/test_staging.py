"""The staging table is read in bounded pages and written only where the row is still what was read."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db, staging
from api_pipeline.errors import DatabaseError
from api_pipeline.names import TableName
from api_pipeline.recording import Entry, Recorder
from api_pipeline.staging import Scope, StagedRow, StagingTable, held_ids
from api_pipeline.writeback import RowWriter, Write, WriteBack
from tests.databases import Database
from tests.staging_kit import MARKER, SCRIPTS, Staging, child, digest

MOMENT = datetime(2025, 6, 30, 2, 11, 9, 530000)  # noqa: DTZ001 - receipts name no zone


@pytest.fixture
def opened(database: Database) -> Iterator[db.Database]:
    """The package's own connection to the database."""
    database.query("SELECT 1")  # SQLite makes its file
    with db.connect(database.connection_string) as connection:
        yield connection


def table_of(opened: db.Database, rows: Staging) -> StagingTable:
    """Return the package's view of a table."""
    return StagingTable(opened, TableName.parse(rows.table))


def write_back(table: StagingTable, outcomes: Sequence[WriteBack]) -> list[StagedRow]:
    """Write outcomes as a run does that keeps no log."""
    recorder = Recorder(table.db, RowWriter(table), None, run_id="test", spool_dir=Path())
    return recorder.settle([Entry(outcome, None) for outcome in outcomes])


def due(table: StagingTable, *, deleted: bool = False, scope: Scope | None = None) -> list[StagedRow]:
    """Return all due rows, deletions or the others."""
    return [row for page in table.pages(scope or Scope(), deleted=deleted) for row in page]


# --- Reading ----------------------------------------------------------------------------------------------

HASHES = {"none": None, "h1": digest("1"), "h2": digest("2"), "marker": MARKER}


def is_due(status: str | None, state: str | None, current: str, previous: str) -> bool:
    """Say domain, section 3, "Due rows", a second time."""
    word, deleted = (status or "").strip().lower(), (state or "").strip().lower() == "deleted"
    if deleted and current == "marker":
        return False
    if word in ("", "pending", "error", "testing"):
        return True
    missed = "none" not in (current, previous) and current not in (previous, "marker")
    return word == "sent" and (deleted or missed)


def test_due_rules_over_every_combination(opened: db.Database, staging: Staging) -> None:
    """Status, state and both hashes in all combinations: exactly the rows of the rules come, in key order."""
    expected: dict[bool, list[str]] = {True: [], False: []}
    number = 0
    for status in (" Pending", "ERROR", "testing ", None, " ", "Sent", "hold"):
        for state in ("New", " deleted ", None):
            for current, previous in itertools.product(HASHES, repeat=2):
                number += 1
                name = f"p{number:04}"
                staging.add(
                    name, "{}", status, state,
                    current_hash=HASHES[current], previous_hash=HASHES[previous],
                )  # fmt: skip
                if is_due(status, state, current, previous):
                    expected[(state or "").strip().lower() == "deleted"].append(name)
    table = table_of(opened, staging)
    for deleted in (True, False):
        assert [row.person_id for row in due(table, deleted=deleted)] == expected[deleted]
    assert table.due_summary()[0] == len(expected[True]) + len(expected[False])
    assert len(list(table.scan_due(Scope()))) == table.due_summary()[0]
    acknowledged = sum(1 for row in staging.rows() if (row["row_state"] or "").strip().lower() == "deleted"
                       and row["current_hash"] == MARKER)  # fmt: skip
    assert table.people_not_purged() == number - acknowledged


def test_pages_hold_every_row_once(
    opened: db.Database, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are of the size asked for, in key order, up to the last key; none is lost while rows change."""
    monkeypatch.setattr("api_pipeline.staging.PAGE_ROWS", 4)
    for number in range(13):
        staging.add(f"p{number:02}", child(f"c{number}"))
    table = table_of(opened, staging)
    pages = list(table.pages(Scope(), deleted=False))
    assert [len(page) for page in pages] == [4, 4, 4, 1]
    keys = [row.key for page in pages for row in page]
    assert keys == sorted(keys, key=str if isinstance(keys[0], str) else int)
    assert len(set(keys)) == 13
    assert [row.key for page in table.pages(Scope(), deleted=False, last=keys[5]) for row in page] == keys[:6]
    seen = []
    for page in table.pages(Scope(), deleted=False):
        seen += [row.key for row in page]
        write_back(table, [WriteBack(row, Write.SENT, "r", MOMENT) for row in page])
    assert seen == keys


def test_pages_by_person_skip_nobody(
    opened: db.Database, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an id, person_ids in mixed case, blanks and scripts come once each, NULLs not at all."""
    monkeypatch.setattr("api_pipeline.staging.PAGE_ROWS", 3)
    monkeypatch.setattr("api_pipeline.staging.SCAN_ROWS", 3)
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.create(id=None)
    people = ["B", "a", "_", "10", "9", " 1", "b-2", "O'Brien", *SCRIPTS[3:8], "~", "A1", "Z"]
    for person in [*people, None, None, None, None]:
        staging.add(person, child("c"))
    table = table_of(opened, staging)
    assert not table.keyed_by_id
    assert sorted(str(row.key) for row in due(table)) == sorted(people)
    assert len(list(table.scan_due(Scope()))) == len(people)
    assert table.nameless_due() == 4
    assert RowWriter(table).write_nameless_errors("no name") == 4
    assert [row["submission_status"] for row in staging.rows() if row["person_id"] is None] == ["error"] * 4


def test_ids_are_read_wherever_they_stand(opened: db.Database, staging: Staging) -> None:
    """la_child_id first, late, behind a long prefix, escaped, missing or in what is no JSON."""
    texts = {
        '{"la_child_id": "first"}': "first",
        '\r\n\t {\n "la_child_id" : "spaced" }': "spaced",
        '{"child_details": {"la_child_id": "inner"}, "la_child_id": "outer"}': "outer",
        '{"x": "' + "y" * 9000 + '", "la_child_id": "late"}': "late",
        '{"la_child_id": "esc\\u0061ped"}': "escaped",
        '{"la_child_id": 7}': None,
        "[]": None,
        "no json": None,
        "": None,
    }
    for number, text in enumerate(texts):
        staging.add(f"p{number}", text, previous_json_payload=text)
    staging.add("back", child("new"), previous_json_payload=child("old"), previous_hash=MARKER)
    rows = list(table_of(opened, staging).scan_due(Scope()))
    assert [row.child_id for row in rows] == [*texts.values(), "new"]
    assert [row.previous_id for row in rows] == [*texts.values(), None]


def test_scope_says_who_is_wanted(opened: db.Database, staging: Staging) -> None:
    """All due rows are surveyed; --person-id marks those wanted, --resend brings rows that are not due."""
    staging.add("O'Brien", child("c1"))
    staging.add("p2", child("c2"))
    staging.add_sent("p3", child("c3"))
    table = table_of(opened, staging)
    wanted = [(row.child_id, row.wanted) for row in table.scan_due(Scope(("O'Brien", "p3")))]
    assert wanted == [("c1", True), ("c2", False)]
    wanted = [(row.child_id, row.wanted) for row in table.scan_due(Scope(("O'Brien", "p3"), resend=True))]
    assert wanted == [("c1", True), ("c2", False), ("c3", True)]
    assert [row.person_id for row in due(table, scope=Scope(("p3",), resend=True))] == ["p3"]
    assert due(table, scope=Scope(("p3",))) == []
    assert table.unknown_persons(["p2", "nobody", "O'Brien"]) == ["nobody"]
    assert [child_id for _, child_id in table.scan_acknowledged()] == ["c3"]


def test_shared_persons_are_found_beyond_what_is_due(opened: db.Database, staging: Staging) -> None:
    """Every row that shares its person_id is there with the others' keys; NULLs share nothing."""
    for person, status in (
        ("a", "sent"),
        ("b", "sent"),
        ("a", "hold"),
        ("a", None),
        (None, None),
        (None, None),
    ):
        staging.add(person, child("c"), status)
    table = table_of(opened, staging)
    ids = [row["id"] for row in staging.rows()]
    assert table.same_person() == {
        ids[0]: [ids[2], ids[3]],
        ids[2]: [ids[0], ids[3]],
        ids[3]: [ids[0], ids[2]],
    }


# --- Filling hashes ---------------------------------------------------------------------------------------


def test_hashes_are_filled_page_by_page(
    opened: db.Database, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only NULLs are filled, over many pages, with SHA-256 of the canonical JSON or of the text's bytes."""
    monkeypatch.setattr("api_pipeline.writeback.PAGE_ROWS", 2)
    texts = ['{ "b": 1.50,\n "a": "\\u00e9" }', "no json \U0001f31f", '{"a":1,"a":2}', child("O'Brien"), ""]
    for number, text in enumerate(texts):
        staging.add(f"p{number}", text, "sent", current_hash=None)
    staging.add("kept", child("c"), current_hash=digest("own"))
    staging.add("marker", child("d"), "sent", "Deleted", current_hash=MARKER)
    table = table_of(opened, staging)
    assert RowWriter(table).fill_hashes() == 5
    hashes = [row["current_hash"] for row in staging.rows()]
    canonical = [
        '{"a":"\xe9","b":1.5}',
        *texts[1:3],
        '{"child_details":{},"la_child_id":"O\'Brien"}',
        "",
    ]
    expected = [hashlib.sha256(text.encode()).digest() for text in canonical]
    assert hashes == [*expected, digest("own"), MARKER]
    assert RowWriter(table).fill_hashes() == 0


# --- Writing back -----------------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "another payload": {"json_payload": child("c1", surname="x"), "current_hash": digest("x")},
    "deleted since": {"row_state": " DELETED"},
    "purged since": {"row_state": "deleted", "current_hash": MARKER},
    "hash gone": {"current_hash": None},
    "another person": {"person_id": "p9"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("write", [Write.SENT, Write.ERROR, Write.TESTING])
def test_row_that_changed_is_left_alone(
    opened: db.Database, staging: Staging, write: Write, change: str
) -> None:
    """Success, error and testing alike apply only to the hash and the state that were read."""
    staging.add("p1", child("c1"))
    staging.add("p2", child("c2"))
    table = table_of(opened, staging)
    rows = due(table)
    staging.update("p1", **CHANGES[change])
    before = staging.rows()[0]
    missed = write_back(table, [WriteBack(row, write, "text", MOMENT) for row in rows])
    assert [row.person_id for row in missed] == ["p1"]
    assert staging.rows()[0] == before
    assert staging.rows()[1]["submission_status"] == write.value


@pytest.mark.parametrize("change", ["another payload", "another person", "purged since", "returned"])
def test_deletion_that_changed_is_left_alone(opened: db.Database, staging: Staging, change: str) -> None:
    """A purge that was acknowledged marks only the row that is still as it was."""
    staging.add_sent("p1", child("c1"), "Deleted")
    table = table_of(opened, staging)
    rows = due(table, deleted=True)
    staging.update("p1", **CHANGES.get(change, {"row_state": "New"}))
    before = staging.rows()
    assert len(write_back(table, [WriteBack(row, Write.PURGED, "uuid", MOMENT) for row in rows])) == 1
    assert staging.rows() == before


@pytest.mark.parametrize(
    ("stored", "hit"),
    [
        (None, True),
        ("Stra\xdfe O'Brien\U0001f31f", True),
        ("stra\xdfe O'Brien\U0001f31f", False),
        ("Strasse O'Brien\U0001f31f", False),
        ("Stra\xdfe O'Brien\U0001f31f ", False),
        ("Stra\xdfe O\u2019Brien\U0001f31f", False),
    ],
)
def test_row_without_hash_is_compared_binary(
    opened: db.Database, staging: Staging, stored: str | None, hit: bool
) -> None:
    """Letter case, sharp s, quotes and trailing blanks that a collation would call equal are differences."""
    text = "Stra\xdfe O'Brien\U0001f31f"
    staging.add("p1", text, current_hash=None)
    table = table_of(opened, staging)
    [row] = due(table)
    if stored is not None:
        staging.update("p1", json_payload=stored)
    assert (write_back(table, [WriteBack(row, Write.ERROR, "x")]) == []) is hit
    assert (staging.row("p1")["submission_status"] == "error") is hit


def test_row_without_hash_that_got_one_is_left_alone(opened: db.Database, staging: Staging) -> None:
    """Where the hash read was NULL, a hash means that somebody has been there."""
    staging.add("p1", child("c1"), current_hash=None)
    table = table_of(opened, staging)
    [row] = due(table)
    staging.update("p1", current_hash=digest("new"))
    assert write_back(table, [WriteBack(row, Write.TESTING, "x")]) == [row]


def test_write_back_can_be_repeated(opened: db.Database, staging: Staging) -> None:
    """After a commit whose answer was lost, the same write hits the same rows and changes nothing more."""
    staging.add("p1", child("c1"))
    staging.add_sent("p2", child("c2"), "Deleted")
    staging.add("p3", child("c3"))
    table = table_of(opened, staging)
    rows = {row.person_id: row for row in [*due(table), *due(table, deleted=True)]}
    outcomes = [
        WriteBack(rows["p1"], Write.SENT, "uuid-1", MOMENT),
        WriteBack(rows["p2"], Write.PURGED, "uuid-2", MOMENT),
        WriteBack(rows["p3"], Write.ERROR, "why"),
    ]
    assert write_back(table, outcomes) == []
    after = staging.rows()
    assert write_back(table, outcomes) == []
    assert staging.rows() == after
    assert after[1]["current_hash"] == MARKER
    assert after[1]["previous_hash"] == digest(child("c2"))


def test_long_payloads_and_reasons_are_written(opened: db.Database, staging: Staging) -> None:
    """60 KB and more: read, guarded, copied to previous_json_payload and answered at any length."""
    big = child("c1", surname="\U0001f31f'\\" * 20_000)
    staging.add("p1", big, current_hash=None)
    staging.add("p2", big)
    table = table_of(opened, staging)
    rows = due(table)
    assert [row.payload for row in rows] == [big, big]
    reason = "HTTP 400: '\\ " + "\u674e\U0001f31f" * 9_000
    assert write_back(table, [WriteBack(row, Write.ERROR, reason) for row in rows]) == []
    assert write_back(table, [WriteBack(row, Write.SENT, "uuid", MOMENT) for row in rows]) == []
    assert [row["previous_json_payload"] for row in staging.rows()] == [big, big]


def test_a_full_batch_is_one_statement(
    opened: db.Database, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 rows that have hashes are written by a single UPDATE."""
    for number in range(100):
        staging.add(f"p{number}", child(f"c{number}"))
    table = table_of(opened, staging)
    rows = due(table)
    asked: list[str] = []
    original = db.Database.query

    def spy(self: db.Database, sql: str, params: Any = ()) -> Any:
        asked.append(sql)
        return original(self, sql, params)

    monkeypatch.setattr(db.Database, "query", spy)
    assert write_back(table, [WriteBack(row, Write.SENT, "uuid", MOMENT) for row in rows]) == []
    assert len(asked) == 1
    assert all(row["previous_hash"] == row["current_hash"] for row in staging.rows())


def test_half_of_a_character_is_never_left_at_the_cut(opened: db.Database, staging: Staging) -> None:
    """A reason cut to the column's width ends with a whole character, also in UTF-16 units."""
    types = {"sqlserver": "NVARCHAR", "postgresql": "VARCHAR", "sqlite": "NVARCHAR"}
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.create(api_response=f"{types[staging.database.kind]}(10)")
    staging.add("p1", child("c1"))
    table = table_of(opened, staging)
    [row] = due(table)
    assert write_back(table, [WriteBack(row, Write.ERROR, "x" + "\U0001f31f" * 10)]) == []
    assert staging.row("p1")["api_response"] == "x" + "\U0001f31f" * 4


# --- A table that will not do -----------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["person_id", "json_payload", "current_hash", "api_response"])
def test_missing_column_is_named(opened: db.Database, staging: Staging, column: str) -> None:
    """The first look at the table says what it lacks."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.create(**{column: None})
    with pytest.raises(DatabaseError, match=column) as raised:
        table_of(opened, staging)
    assert raised.value.hop == "column"


def test_bounds_are_what_memory_was_planned_for() -> None:
    """Few payloads, many bare rows: the constants that bound the memory."""
    assert staging.PAGE_ROWS * 60_000 <= 12_000_000
    assert staging.SCAN_ROWS * staging._PREFIX <= 1_000_000


@pytest.mark.parametrize(
    ("state", "acknowledged", "unsure", "expected"),
    [
        (None, None, [], None),
        ("unknown", None, [], None),
        ("purged", None, [], None),
        ("acknowledged", "a", [], ("a",)),
        ("acknowledged", "a", ["u", "a"], ("a", "u")),
        ("purged", None, ["u"], ("u",)),
        ("unknown", None, ["u"], ("u", "now", "before")),
    ],
)
def test_ids_that_dfe_may_hold(
    state: str | None, acknowledged: str | None, unsure: list[str], expected: tuple[str, ...] | None
) -> None:
    """The payloads' own ids count as long as nothing was acknowledged: an older tool may have sent them."""
    found = held_ids(state=state, acknowledged=acknowledged, unsure=unsure, payloads=["now", None, "before"])
    assert found == expected

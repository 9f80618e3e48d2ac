"""What one night does to the rows of the staging table, on every kind of database (ssd, section 5)."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api_pipeline.names import TableName
from api_pipeline.refresh import Left, Refresher
from api_pipeline.ssd_payload import text_of
from api_pipeline.staged_people import StagedPeople
from api_pipeline.staging import StagingTable
from tests.databases import Database
from tests.db_kit import opened
from tests.stage_kit import Payload, add_staged, built, payload, refresh
from tests.staging_kit import EARLIER, MARKER, Staging, digest

UNTOUCHED = ("id", "legacy_id", "partial_json_payload", "submission_timestamp", "api_response")


def since_earlier(row: dict[str, Any]) -> bool:
    """Whether last_updated is of today, in the form that the column's default gives it."""
    moment = row["last_updated"]
    if isinstance(moment, str):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", moment)
        moment = datetime.fromisoformat(moment)
    assert isinstance(moment, datetime)
    return moment.year > 2001


# --- The differences --------------------------------------------------------------------------------------


def test_new_person_gets_a_row(staging: Staging) -> None:
    """Every column of a new row is as the tool and its reader expect it, the payload byte for byte."""
    person = built("p1", payload("p1", surname="O'Brien \u674e\U0001f31f \\ %"), legacy_id="L-7")
    assert refresh(staging, [person]).changes.new == 1
    [row] = staging.rows()
    assert since_earlier(row)
    assert {name: value for name, value in row.items() if name not in ("id", "last_updated")} == {
        "person_id": "p1",
        "legacy_id": "L-7",
        "previous_json_payload": None,
        "json_payload": person.text,
        "partial_json_payload": None,
        "current_hash": person.hash,
        "previous_hash": None,
        "submission_status": "pending",
        "submission_timestamp": None,
        "api_response": None,
        "row_state": "new",
    }


def test_changed_person_is_updated(staging: Staging) -> None:
    """Payload and hash move to previous_*; receipt, timestamp and partial payload stay as they were."""
    before, after = built("p1"), built("p1", payload("p1", surname="Dent"))
    add_staged(
        staging, before, legacy_id="L", partial_json_payload='{"la_child_id":"p1"}', previous_hash=MARKER
    )
    old = staging.row("p1")
    assert refresh(staging, [after]).changes.updated == 1
    row = staging.row("p1")
    assert since_earlier(row)
    assert {name: row[name] for name in UNTOUCHED} == {name: old[name] for name in UNTOUCHED}
    assert {name: value for name, value in row.items() if name not in (*UNTOUCHED, "last_updated")} == {
        "person_id": "p1",
        "previous_json_payload": before.text,
        "json_payload": after.text,
        "current_hash": after.hash,
        "previous_hash": before.hash,
        "submission_status": "pending",
        "row_state": "updated",
    }


def test_unchanged_night_only_looks_up(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal hashes: nothing is written, and no stored payload is read, whatever status a site has set."""
    people = [built(f"p{number}") for number in range(5)]
    for person in people[:3]:
        add_staged(staging, person)
    staging.add("p3", people[3].text, "Hold", "New", current_hash=people[3].hash)
    staging.add("p4", "another text with the same hash", "Error", " UNCHANGED ", current_hash=people[4].hash)
    before = staging.rows()

    def never(*_: object) -> Any:
        raise AssertionError

    for name in ("payloads", "insert", "update", "replace_hash", "delete", "live", "others"):
        monkeypatch.setattr(StagedPeople, name, never)
    assert refresh(staging, people).changes.unchanged == 5
    assert staging.rows() == before


def test_gone_person_is_deleted_once(staging: Staging) -> None:
    """Deleted and pending when it happens; what the row held stays, and later nights do not touch it."""
    people = [built(f"p{number}") for number in range(3)]
    for person in people:
        add_staged(staging, person)
    old = staging.row("p2")
    assert refresh(staging, people[:2]).changes.deleted == 1
    row = staging.row("p2")
    changed = {"row_state": "deleted", "submission_status": "pending", "last_updated": row["last_updated"]}
    assert row == {**old, **changed}
    assert since_earlier(row)
    staging.update("p2", submission_status="error", last_updated=EARLIER)
    before = staging.rows()
    night = refresh(staging, people[:2])
    assert (night.changes.deleted, night.changes.unchanged) == (0, 2)
    assert staging.rows() == before


@pytest.mark.parametrize("purged", [False, True])
def test_returning_person_is_updated_though_equal(staging: Staging, purged: bool) -> None:
    """Whoever was deleted comes back with the very payload, whether the purge went out or not."""
    person = built("p1")
    content_hash = MARKER if purged else person.hash
    add_staged(staging, person, state=" DELETED ", current_hash=content_hash)
    assert refresh(staging, [person]).changes.returned == 1
    row = staging.row("p1")
    assert (row["row_state"], row["submission_status"]) == ("updated", "pending")
    assert (row["current_hash"], row["previous_hash"]) == (person.hash, content_hash)
    assert row["previous_json_payload"] == row["json_payload"] == person.text
    assert refresh(staging, [person]).changes.unchanged == 1


def test_null_hash_is_updated(staging: Staging) -> None:
    """A row without a hash is refreshed, which the deployed T-SQL never does."""
    person = built("p1")
    staging.add("p1", person.text, "Sent", "Unchanged", current_hash=None)
    assert refresh(staging, [person]).changes.updated == 1
    row = staging.row("p1")
    assert (row["current_hash"], row["previous_hash"], row["row_state"]) == (person.hash, None, "updated")


def test_purged_person_who_stays_away_is_left(staging: Staging) -> None:
    """An acknowledged deletion is no deletion of tonight, nor counted among the people."""
    add_staged(staging, built("p1"), state="deleted", current_hash=MARKER)
    add_staged(staging, built("p2"), state="Updated", current_hash=MARKER)
    before = staging.rows()
    night = refresh(staging, [])
    assert (night.held, night.changes.deleted) == ([], 0)
    assert staging.rows() == before


# --- Taking over ------------------------------------------------------------------------------------------


def test_other_definition_of_the_hash_replaces_the_hash_alone(staging: Staging) -> None:
    """Equal content under another hash: only hashes are written, and a due row stays due, others not."""
    people = [built(f"p{number}") for number in range(5)]
    texts = [person.text for person in people]
    staging.add_sent("p0", texts[0])
    staging.add_sent("p1", texts[1], previous_hash=digest("older"))
    staging.add_sent("p2", texts[2], previous_hash=None)
    # Other ids of assessments, another order of keys: no change of substance.
    other: Payload = dict(reversed(payload("p3", suffix="-renumbered").items()))
    staging.add_sent("p3", text_of(other))
    staging.add_sent("p4", texts[4].replace("Beeblebrox", "Prefect"))
    old = {row["person_id"]: row for row in staging.rows()}
    night = refresh(staging, people)
    assert (night.changes.hash_only, night.changes.updated) == (4, 1)
    new = {row["person_id"]: row for row in staging.rows()}
    previous = [people[0].hash, digest("older"), None, people[3].hash]
    for number in range(4):
        hashes = {"current_hash": people[number].hash, "previous_hash": previous[number]}
        assert new[f"p{number}"] == {**old[f"p{number}"], **hashes}
    assert new["p4"]["row_state"] == "updated"
    assert refresh(staging, people).changes.unchanged == 5


@pytest.mark.parametrize("text", ["no json", "[1]", '{"social_care_episodes": 7}', '{"a": {"b": NaN}}', ""])
def test_stored_text_of_any_kind_is_replaced(local: Staging, text: str) -> None:
    """What another tool left in json_payload never ends the night."""
    local.add_sent("p1", text)
    assert refresh(local, [built("p1")]).changes.updated == 1
    assert local.row("p1")["previous_json_payload"] == text


def test_held_row_that_changed_is_pending_again(local: Staging) -> None:
    """A status that a site uses to hold a row back lasts until the payload changes, as it always did."""
    local.add("p1", text_of(payload("p1", surname="Dent")), "Hold", "Updated")
    refresh(local, [built("p1")])
    assert local.row("p1")["submission_status"] == "pending"


# --- Rows that cannot be told apart -----------------------------------------------------------------------


def test_rows_that_share_a_person_are_left(staging: Staging) -> None:
    """Neither changed nor deleted, blanks and who is in the source notwithstanding; counted once each."""
    for person_id in ("twin", " twin", "gone", "gone"):
        add_staged(staging, built(person_id))
    staging.add(None, "{}")
    staging.add("   ", "{}")
    before = staging.rows()
    night = refresh(staging, [built("twin", payload("twin", surname="Dent")), built("new")])
    assert night.changes.left == {Left.SHARED_IN_STAGING: 2}
    assert staging.rows()[:-1] == before
    assert staging.row("new")["row_state"] == "new"


def test_blanks_around_an_id_do_not_make_another_person(staging: Staging) -> None:
    """Rows and people meet by their trimmed ids; the row keeps its spelling, a new one the source's."""
    for person_id in (" left", "right  ", "\ttab", "plain"):
        add_staged(staging, built(person_id))
    people = [built(name) for name in ("left", "right", "tab", " plain ", " new ")]
    night = refresh(staging, people)
    assert (night.changes.unchanged, night.changes.new, night.changes.deleted) == (4, 1, 0)
    changed = [
        built(name, payload(name.strip(), surname="Dent"))
        for name in ("left", "right", "tab", "plain", "new")
    ]
    assert refresh(staging, changed).changes.updated == 5
    assert [row["person_id"] for row in staging.rows()] == [" left", "right  ", "\ttab", "plain", " new "]


def test_fixed_width_ids(staging: Staging) -> None:
    """A column that fills ids up with blanks is searched as any other."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.columns.clear()
    staging.create(person_id="NCHAR(10) NULL" if staging.database.kind == "sqlserver" else "CHAR(10)")
    people = [built("p1"), built("p2")]
    assert refresh(staging, people).changes.new == 2
    night = refresh(staging, [built("p1", payload("p1", surname="Dent"))])
    assert (night.changes.updated, night.changes.deleted, night.changes.new) == (1, 1, 0)


def test_letter_case_makes_another_person(staging: Staging) -> None:
    """Ids are compared exactly, whatever the server's collation calls equal."""
    add_staged(staging, built("Ab"))
    night = refresh(staging, [built("Ab"), built("aB"), built("\xe4b")])
    assert (night.changes.unchanged, night.changes.new) == (1, 2)
    night = refresh(staging, [built("aB", payload("aB", surname="Dent")), built("\xe4b")])
    assert (night.changes.unchanged, night.changes.updated, night.changes.deleted) == (1, 1, 1)
    assert [row["row_state"] for row in staging.rows()] == ["deleted", "updated", "new"]


# --- Deployments differ -----------------------------------------------------------------------------------


def test_table_without_id_and_legacy_id(staging: Staging) -> None:
    """New, updated, hash only, gone and twins in a table that has no key but person_id."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.columns.clear()
    staging.create(id=None, legacy_id=None)
    for person_id in ("changed", "gone", "twin", "twin"):
        add_staged(staging, built(person_id))
    staging.add(None, "{}")
    staging.add_sent("hash", text_of(payload("hash")))
    people = [
        built("changed", payload("changed", surname="Dent")),
        built("hash"),
        built("new"),
        built("twin"),
    ]
    changes = refresh(staging, people).changes
    assert (changes.updated, changes.hash_only, changes.new, changes.deleted) == (1, 1, 1, 1)
    assert changes.left == {Left.SHARED_IN_STAGING: 1}
    states = {row["person_id"]: row["row_state"] for row in staging.rows()}
    wanted = {"changed": "updated", "hash": "unchanged", "new": "new", "gone": "deleted", "twin": "unchanged"}
    assert states.pop(None) == "New"
    assert states == wanted


@pytest.mark.parametrize("nullable", ["NULL", "NOT NULL"])
def test_id_without_identity_is_continued(staging: Staging, nullable: str) -> None:
    """Where the id makes no values of its own, new rows get the next numbers."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.columns.clear()
    staging.create(id=f"INT {nullable}")
    add_staged(staging, built("p1"), id=41)
    refresh(staging, [built("p1"), built("p2"), built("p3")])
    refresh(staging, [built(f"p{number}") for number in range(1, 5)])
    assert [row["id"] for row in staging.rows()] == [41, 42, 43, 44]


def test_id_from_a_sequence_is_left_to_it(postgresql_database: Database) -> None:
    """Numbers that a default makes are not taken away from it: other jobs insert too."""
    staging = Staging(postgresql_database).create(id="SERIAL PRIMARY KEY")
    refresh(staging, [built("p1"), built("p2")])
    staging.add("p3", "{}")
    assert [row["id"] for row in staging.rows()] == [1, 2, 3]


def test_ids_that_do_not_fit_are_left_out(staging: Staging) -> None:
    """A long person_id leaves that person out, a long legacy_id stays NULL; nobody else is held up."""
    types = {"sqlserver": "NVARCHAR", "postgresql": "VARCHAR", "sqlite": "NVARCHAR"}
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.columns.clear()
    text = types[staging.database.kind]
    staging.create(person_id=f"{text}(20)", legacy_id=f"{text}(5)")
    long, fits = "x" * 21, "y" * 20
    people = [built(long), built(fits, legacy_id="12345"), built("p3", legacy_id="123456"), built("p\0")]
    night = refresh(staging, people)
    assert night.changes.left == {Left.ID_TOO_LONG: 2}
    assert [(row["person_id"], row["legacy_id"]) for row in staging.rows()] == [(fits, "12345"), ("p3", None)]


def test_half_a_character_is_left_out(staging: Staging) -> None:
    """A text that no database takes leaves that person as they are, new or staged."""
    add_staged(staging, built("p1"))
    before = staging.rows()
    people = [built(name, payload(name, surname="\ud800")) for name in ("p1", "p2")]
    night = refresh(staging, people)
    assert night.changes.left == {Left.TEXT_UNFIT: 2}
    assert (night.changes.new, night.changes.updated) == (0, 0)
    assert staging.rows() == before


@pytest.mark.parametrize("kind", ["JSON", "JSONB"])
def test_json_columns_of_postgresql(postgresql_database: Database, kind: str) -> None:
    """Columns of a JSON type are written and compared; what JSONB cannot hold is left out."""
    staging = Staging(postgresql_database)
    staging.create(
        json_payload=f"{kind} NOT NULL", previous_json_payload="TEXT" if kind == "JSON" else "JSON"
    )
    people = [built("p1", payload("p1", surname="O'Brien \U0001f31f \\")), built("p2")]
    assert refresh(staging, people).changes.new == 2
    assert refresh(staging, people).changes.unchanged == 2
    staging.update("p2", current_hash=digest("other"))
    changed = [built("p1", payload("p1", surname="Dent")), built("p2")]
    changes = refresh(staging, changed).changes
    assert (changes.updated, changes.hash_only) == (1, 1)
    assert "O'Brien" in staging.row("p1")["previous_json_payload"]
    nul = refresh(staging, [*changed, built("p3", payload("p3", surname="\0"))])
    assert nul.changes.left == ({Left.TEXT_UNFIT: 1} if kind == "JSONB" else {})


def test_whole_numbers_as_person_ids(staging: Staging) -> None:
    """A column of numbers takes the ids that are numbers, and leaves the others out."""
    staging.database.execute(f"DROP TABLE {staging.table}")
    staging.columns.clear()
    staging.create(person_id="INT NULL", legacy_id="INT NULL")
    numbers = [built("17", legacy_id="4"), built("18", legacy_id="x"), built("017"), built("p")]
    night = refresh(staging, numbers)
    assert night.changes.left == {Left.ID_TOO_LONG: 2}
    assert refresh(staging, numbers[:1]).changes.deleted == 1
    found = [(row["person_id"], row["legacy_id"], row["row_state"]) for row in staging.rows()]
    assert found == [(17, 4, "new"), (18, None, "deleted")]


def test_more_people_than_one_lot_or_page(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody arrives, changes and goes, over several lots, pages and statements."""
    for name in ("_LOOKED_UP", "_LOT_ROWS", "_GONE_LOT", "_PAYLOADS", "SCAN_ROWS"):
        monkeypatch.setattr(f"api_pipeline.staged_people.{name}", 7)
    monkeypatch.setattr("api_pipeline.refresh._KEYS_AT_ONCE", 9)
    people = [built(f"p{number}") for number in range(60)]
    assert refresh(staging, people).changes.new == 60
    changed = [built(f"p{number}", payload(f"p{number}", surname="Dent")) for number in range(40)]
    changes = refresh(staging, changed, percent=None).changes
    assert (changes.updated, changes.deleted) == (40, 20)
    assert refresh(staging, people).changes.returned == 20
    assert {row["person_id"]: row["json_payload"] for row in staging.rows()} == {
        person.person_id: person.text for person in people
    }


def test_payloads_larger_than_a_lot(staging: Staging) -> None:
    """A lot ends by its size too, and a payload of any size is a lot of its own."""
    people = [built(f"p{number}", payload(f"p{number}", surname="x" * 600_000)) for number in range(3)]
    assert refresh(staging, people).changes.new == 3
    assert {len(row["json_payload"]) > 600_000 for row in staging.rows()} == {True}


def test_row_that_vanished_while_it_was_refreshed_ends_the_transaction(local: Staging) -> None:
    """Where a lot hits fewer rows than were read, all of it is given up and may be repeated."""
    add_staged(local, built("p1"))
    with opened(local.database) as database:
        table = StagingTable(database, TableName.parse(local.table))
        refresher = Refresher(table, write=True)
        refresher.take([built("p1", payload("p1", surname="Dent"))])
        local.database.execute(f"DELETE FROM {local.table}")
        with pytest.raises(Exception, match="changed by somebody else"):
            refresher.finish(10)


# --- The brakes -------------------------------------------------------------------------------------------


def staged(staging: Staging, people: int, *, assessments: int = 0) -> list[Any]:
    """Insert so many staged people and return them."""
    found = [built(f"p{number}", payload(f"p{number}", assessments=assessments)) for number in range(people)]
    refresh(staging, found)
    return found


@pytest.mark.parametrize(
    ("people", "gone", "held"),
    [(100, 20, False), (100, 21, True), (210, 21, False), (209, 21, True), (30, 20, False), (40, 40, True)],
)
def test_brake_on_people(local: Staging, people: int, gone: int, held: bool) -> None:
    """More than 20, and more than 10 % of the people not yet purged: exactly 20 and exactly 10 % pass."""
    found = staged(local, people)
    night = refresh(local, found[gone:])
    assert bool(night.held) is held
    assert night.changes.deleted == gone
    states = [row["row_state"] for row in local.rows()]
    assert states.count("deleted") == (0 if held else gone)
    if held and gone < people:
        assert night.held == [f"{gone} of {people} staged people would be deleted"]
        assert not refresh(local, found[gone:], percent=None).held


def test_purged_people_do_not_count_but_deleted_ones_do(local: Staging) -> None:
    """The share is of the rows without the purge marker."""
    found = staged(local, 200)
    for number in range(10):
        add_staged(local, built(f"deleted{number}"), state="Deleted")
    assert not refresh(local, found[21:], write=False).held
    local.database.execute(
        f"UPDATE {local.table} SET current_hash = zeroblob(32) WHERE person_id = 'deleted1'"
    )
    assert refresh(local, found[21:]).held == ["21 of 209 staged people would be deleted"]


def test_brake_on_an_empty_source(staging: Staging) -> None:
    """Nobody in the cohort while anybody is staged holds the brake, however few they are."""
    add_staged(staging, built("p1"))
    before = staging.rows()
    night = refresh(staging, [])
    assert night.held == ["the source has nobody in the cohort, while people are staged (1)"]
    assert staging.rows() == before
    assert refresh(staging, [], percent=None).changes.deleted == 1


def test_empty_source_and_empty_table_is_nothing(staging: Staging) -> None:
    """The first night of an authority whose source is not filled yet is no fault."""
    assert not refresh(staging, []).held


@pytest.mark.parametrize(("lost", "held"), [(20, False), (21, True)])
def test_brake_on_records(staging: Staging, lost: int, held: bool) -> None:
    """A list that loses more than 20 and more than 10 % of its records: nothing is written."""
    people = staged(staging, 5, assessments=10)
    before = staging.rows()
    fewer = [built(f"p{n}", payload(f"p{n}", assessments=10 - lost // 5 - (n < lost % 5))) for n in range(5)]
    night = refresh(staging, fewer)
    assert bool(night.held) is held
    if held:
        assert night.changes.lost == {"child_and_family_assessments": (21, 50)}
        assert night.held == ["21 of 50 records of child_and_family_assessments would be lost"]
        assert staging.rows() == before
    assert len(people) == night.changes.updated


def test_exactly_the_share_of_records_passes(local: Staging) -> None:
    """21 of 210 records are 10 %, and one record fewer among the others is more than that."""
    people = staged(local, 21, assessments=10)
    fewer = [built(f"p{n}", payload(f"p{n}", assessments=9)) for n in range(21)]
    assert not refresh(local, fewer, write=False).held
    people[0] = built("p0", payload("p0", assessments=9))
    local.database.execute(f"DELETE FROM {local.table}")
    refresh(local, people)
    fewer = [built(f"p{n}", payload(f"p{n}", assessments=9 - (n == 0))) for n in range(21)]
    assert refresh(local, fewer).changes.lost == {"child_and_family_assessments": (21, 209)}


def test_records_are_weighed_against_all_staged_people(local: Staging) -> None:
    """Unchanged, gone and left people's records count in the base; gone ones are no loss, gains make up."""
    people = staged(local, 12, assessments=25)
    for number, person in enumerate(people[:4]):
        people[number] = built(person.person_id, payload(person.person_id, assessments=15))
    night = refresh(local, people[:10], leave=["p10"], write=False)
    assert night.changes.lost == {"child_and_family_assessments": (40, 300)}
    assert night.changes.deleted == 1
    people[4] = built("p4", payload("p4", assessments=45))
    assert not refresh(local, people[:10], leave=["p10"], write=False).held
    newcomer = built("new", payload("new", assessments=100))
    people[4] = built("p4", payload("p4", assessments=25))
    assert refresh(local, [*people[:10], newcomer], leave=["p10"], write=False).held


def test_purged_people_have_no_records_to_lose(local: Staging) -> None:
    """Who comes back after a purge with fewer records loses none: DfE holds none."""
    add_staged(local, built("p1", payload("p1", assessments=50)), state="deleted", current_hash=MARKER)
    night = refresh(local, [built("p1")])
    assert (night.held, night.changes.returned) == ([], 1)


# --- Named people and dry runs ----------------------------------------------------------------------------


def test_named_people_alone_can_be_gone(staging: Staging) -> None:
    """With --person-id nobody else is touched, and an empty cohort is no fault."""
    people = [built(f"p{number}") for number in range(4)]
    for person in people:
        add_staged(staging, person)
    night = refresh(staging, [], persons=["p1", " p2 "])
    assert (night.held, night.changes.deleted) == ([], 2)
    assert [row["row_state"] for row in staging.rows()] == ["unchanged", "deleted", "deleted", "unchanged"]


def test_records_of_named_people_are_weighed_against_everybodys(local: Staging) -> None:
    """One child's long list may become short without anybody's leave."""
    staged(local, 10, assessments=25)
    one = [built("p1", payload("p1", assessments=0))]
    assert not refresh(local, one, persons=["p1"], write=False).held
    local.database.execute(f"DELETE FROM {local.table} WHERE person_id > 'p8'")
    assert refresh(local, one, persons=["p1"]).changes.lost == {"child_and_family_assessments": (25, 225)}


def test_people_who_are_left_are_not_gone(staging: Staging) -> None:
    """Whoever the caller leaves keeps the row as it is."""
    add_staged(staging, built("p1"))
    before = staging.rows()
    night = refresh(staging, [built("p2")], leave=["p1 "], write=False)
    assert (night.changes.left, night.changes.deleted) == ({Left.UNREADABLE: 1}, 0)
    refresh(staging, [], leave=["p1"])
    assert staging.rows() == before


def test_without_write_the_numbers_are_the_same(staging: Staging) -> None:
    """A dry run counts what a night would do, and leaves every column of every row."""
    for person_id in ("same", "changed", "gone"):
        add_staged(staging, built(person_id))
    staging.add_sent("hash", text_of(payload("hash")))
    add_staged(staging, built("back"), state="deleted")
    people = [built(name) for name in ("same", "hash", "back", "new")]
    people.append(built("changed", payload("changed", surname="Dent")))
    before = staging.rows()
    dry = refresh(staging, people, write=False)
    assert staging.rows() == before
    assert dry == refresh(staging, people)
    changes = dry.changes
    assert [changes.new, changes.updated, changes.returned, changes.hash_only, changes.deleted] == [1] * 5
    assert staging.rows() != before


# --- The law ----------------------------------------------------------------------------------------------

_NAMES = ("a", "b", "c", " d", "E", "e")
NIGHTS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(("Dent", "Prefect"))),
        st.sampled_from(
            ("nothing is sent", "all is acknowledged", "hashes are lost", "hashes are another's")
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NIGHTS)
def test_table_is_the_cohort_after_every_night(tmp_path: Path, nights: Any) -> None:
    """Whatever came before: who is in the cohort has tonight's payload, the others are deleted, and the same
    night again writes nothing.
    """
    database = Database("sqlite", f"sqlite:///{tmp_path / uuid.uuid4().hex}.db", "staging_anon")
    staging = Staging(database).create()
    for cohort, meanwhile in nights:
        people = [built(name, payload(name.strip(), surname=surname)) for name, surname in cohort.items()]
        before = {row["person_id"]: row for row in staging.rows()}
        night = refresh(staging, people, percent=None)
        rows = {row["person_id"]: row for row in staging.rows()}
        for person in people:
            row = rows.pop(person.person_id)
            assert (row["json_payload"], row["current_hash"]) == (person.text, person.hash)
            assert row["row_state"] in ("new", "updated", "unchanged")
            old = before.get(person.person_id)
            if old is None or old["row_state"] == "deleted" or old["json_payload"] != row["json_payload"]:
                assert row["submission_status"] == "pending"
                assert row["row_state"] != "unchanged"
        assert {row["row_state"] for row in rows.values()} <= {"deleted"}
        changes = night.changes
        assert (
            changes.new + changes.updated + changes.returned + changes.unchanged + changes.hash_only
            == len(people)
        )
        again = staging.rows()
        assert refresh(staging, people, percent=None).changes.unchanged == len(people)
        assert staging.rows() == again
        _meanwhile(staging, meanwhile)
    database.close()


def _meanwhile(staging: Staging, what: str) -> None:
    """Do to the table what a run, or another tool, may do between two nights."""
    if what == "all is acknowledged":
        staging.database.execute(
            f"UPDATE {staging.table} SET submission_status = 'sent', previous_hash = current_hash, "
            "previous_json_payload = json_payload, "
            "row_state = CASE row_state WHEN 'deleted' THEN row_state ELSE 'unchanged' END, "
            "current_hash = CASE row_state WHEN 'deleted' THEN zeroblob(32) ELSE current_hash END"
        )
    elif what == "hashes are lost":
        staging.database.execute(f"UPDATE {staging.table} SET current_hash = NULL")
    elif what == "hashes are another's":
        staging.database.execute(f"UPDATE {staging.table} SET current_hash = randomblob(32)")

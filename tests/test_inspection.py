"""``validate`` and ``status`` say what is in the table, show nothing of a child, and change nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import inspection, pipeline, progress, provision, spool
from api_pipeline.errors import DatabaseError, ExitCode, InterruptedRun
from api_pipeline.faults import Fault
from api_pipeline.inspection import ValidationReport, error_kind
from api_pipeline.ledger import Ledger
from api_pipeline.locking import RunLock
from api_pipeline.validation import Severity
from tests.databases import Database
from tests.db_kit import opened
from tests.staging_kit import MARKER, HookedReceiver, Staging, child, run
from tests.test_checks import settings_of

LONG = "x" * 37


def settings_for(staging: Staging, **changes: Any) -> Any:
    """Return the settings of this table."""
    database = staging.database
    return settings_of(DB_CONNECTION_STRING=database.connection_string, TABLE_NAME=staging.table, **changes)


def groups(report: ValidationReport) -> dict[tuple[str, str], tuple[int, tuple[str, ...]]]:
    """Return rows and examples for each rule and path."""
    return {(group.rule, group.path): (group.rows, group.examples) for group in report.groups}


def episodes(child_id: str, *sources: str) -> str:
    """Return a payload with an episode for each referral source."""
    listed = [
        {"social_care_episode_id": f"e{number}", "referral_source": source}
        for number, source in enumerate(sources)
    ]
    return json.dumps({"la_child_id": child_id, "social_care_episodes": listed})


class TestValidate:
    """``validate``."""

    def test_faults_are_grouped_by_rule_and_place(self, database: Database) -> None:
        """Rows are counted once for each rule, indexes do not matter, and only due rows are looked at."""
        staging = Staging(database).create()
        staging.add("P1", child("c1"))
        staging.add("P2", child("c2", postcode="X" * 9))
        staging.add("P3", child("c3", postcode="Y" * 10, sex="X"))
        staging.add("P4", episodes("c4", "9Z", "1A", "9Z"))
        staging.add("P5", "no JSON at all")
        staging.add_sent("P6", child(LONG))
        report = inspection.validate(settings_for(staging))
        assert groups(report) == {
            ("max_length", "$.child_details.postcode"): (2, ("P2", "P3")),
            ("enum", "$.child_details.sex"): (1, ("P3",)),
            ("not_json", "$"): (1, ("P5",)),
            ("code_list", "$.social_care_episodes[*].referral_source"): (1, ("P4",)),
        }
        assert [group.severity for group in report.groups] == [Severity.ERROR] * 3 + [Severity.WARNING]
        assert (report.rows, report.rows_with_errors, report.rows_with_warnings) == (5, 3, 1)
        assert report.exit_code == ExitCode.FAILED

    def test_warnings_alone_are_no_failure(self, local: Staging) -> None:
        """DfE is the authority on codes, so the code is 0."""
        local.add("P1", episodes("c1", "9Z"))
        report = inspection.validate(settings_for(local))
        assert (report.exit_code, report.rows_with_warnings) == (ExitCode.OK, 1)

    def test_nothing_is_due(self, local: Staging) -> None:
        """An empty table is in order."""
        report = inspection.validate(settings_for(local))
        assert (report.exit_code, report.rows, report.groups) == (ExitCode.OK, 0, ())
        assert report.as_text().endswith("0 due rows, 0 with errors, 0 with warnings")

    def test_rows_that_share_an_id_are_errors(self, database: Database) -> None:
        """As in a run: a shared person_id, a shared la_child_id, and no person_id at all."""
        staging = Staging(database).create()
        staging.add("P1", child("c1"))
        staging.add("P1", child("c2"))
        staging.add("P2", child("c3"))
        staging.add("P3", child("c3"))
        staging.add(None, child("c4"))
        report = inspection.validate(settings_for(staging))
        assert groups(report) == {
            ("shared_id", "person_id"): (2, ("P1", "P1")),
            ("shared_id", "$.la_child_id"): (2, ("P2", "P3")),
            ("required", "person_id"): (1, ()),
        }

    def test_row_without_the_key_is_counted_once(self, local: Staging) -> None:
        """Where person_id is the key, a row without one is in no page, and is counted all the same."""
        staging = Staging(local.database, "older_anon").create(id=None)
        staging.add("P1", child("c1"))
        staging.add(None, child("c2"))
        staging.add(None, child("c3"))
        report = inspection.validate(settings_for(staging))
        assert (report.rows, groups(report)) == (3, {("required", "person_id"): (2, ())})

    @pytest.mark.parametrize(
        ("now", "before", "fault"),
        [
            (child("c1", postcode="X" * 99), None, False),
            ("broken", child("c1"), False),
            ("broken", None, True),
            (child(LONG), None, True),
            (child(LONG), child("c1"), False),
            ('{"child_details": {}}', "also broken", True),
            ("broken", child("taken"), True),
        ],
    )
    def test_deletion_needs_an_id_and_nothing_else(
        self, local: Staging, now: str, before: str | None, fault: bool
    ) -> None:
        """The rest of a payload does not matter; an id that another row holds now is not its own."""
        local.add("P1", now, "sent", "Deleted", previous_json_payload=before)
        local.add("P2", child("taken"))
        report = inspection.validate(settings_for(local))
        assert groups(report) == ({("no_id_to_purge", "$.la_child_id"): (1, ("P1",))} if fault else {})
        assert report.rows == 2

    def test_acknowledged_deletion_is_not_looked_at(self, local: Staging) -> None:
        """It is not due."""
        local.add("P1", "broken", "sent", "Deleted", current_hash=MARKER)
        assert inspection.validate(settings_for(local)).rows == 0

    def test_settings_that_let_faults_pass_do_not_hide_them(self, local: Staging) -> None:
        """VALIDATION=warn changes what a run does and not what validate finds."""
        local.add("P1", child(LONG))
        assert inspection.validate(settings_for(local, VALIDATION="warn")).exit_code == ExitCode.FAILED

    def test_limit_looks_at_the_first_rows(self, local: Staging) -> None:
        """As --limit does in a run."""
        for number in range(5):
            local.add(f"P{number}", child(f"c{number}"))
        assert inspection.validate(settings_for(local), limit=3).rows == 3

    def test_examples_and_groups_are_bounded(self, local: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
        """Five examples of a rule, and a last group for the places that would be too many."""
        monkeypatch.setattr(inspection, "_MOST_GROUPS", 3)
        for number in range(9):
            local.add(f"P{number}", json.dumps({"la_child_id": f"c{number}", f"field_{number}": 1}))
        found = groups(inspection.validate(settings_for(local)))
        assert len(found) == 4
        assert found["unknown_field", "(other places)"] == (6, ("P3", "P4", "P5", "P6", "P7"))

    def test_nothing_of_a_child_is_shown(self, local: Staging) -> None:
        """Paths, rules and person_ids, in text as in JSON; the values that are wrong stay in the table."""
        local.add("P1", child("c1", postcode="SECRET PLACE", first_name="Siobhan", sex="Siobhan"))
        report = inspection.validate(settings_for(local))
        for shown in (report.as_text(), json.dumps(report.as_json())):
            assert "P1" in shown
            assert "at most 8 characters" in shown
            assert "SECRET" not in shown
            assert "Siobhan" not in shown

    def test_json_has_every_group(self, local: Staging) -> None:
        """With the code that the command ends with."""
        local.add("P1", child(LONG))
        assert inspection.validate(settings_for(local)).as_json() == {
            "command": "validate",
            "table": "staging_anon",
            "exit_code": 1,
            "rows": 1,
            "rows_with_errors": 1,
            "rows_with_warnings": 0,
            "groups": [
                {
                    "severity": "error",
                    "rule": "max_length",
                    "path": "$.la_child_id",
                    "message": "must be at most 36 characters",
                    "rows": 1,
                    "person_ids": ["P1"],
                }
            ],
        }

    def test_progress_is_told_and_a_stop_is_heard(self, local: Staging) -> None:
        """A long check can be watched and ended."""
        local.add("P1", child("c1"))
        told: list[Any] = []

        class Watcher(progress.Progress):
            def begin(self, total: int) -> None:
                told.append(("begin", total))

            def advance(self, rows: int) -> None:
                told.append(("advance", rows))

            def end(self) -> None:
                told.append("end")

        inspection.validate(settings_for(local), progress=Watcher())
        assert told == [("begin", 1), ("advance", 1), "end"]
        stop = threading.Event()
        stop.set()
        with pytest.raises(InterruptedRun):
            inspection.validate(settings_for(local), stop=stop)


class TestStatus:
    """``status``."""

    def test_rows_are_counted_by_state_and_status(self, database: Database) -> None:
        """Letter case and blanks aside; what is due, since when, and what is held back."""
        staging = Staging(database).create()
        staging.add("P1", child("c1"), "Pending", "New")
        staging.add("P2", child("c2"), " PENDING ", "new")
        staging.add("P3", child("c3"), None, "Updated")
        staging.add("P4", child("c4"), "Hold", "Updated")
        staging.add_sent("P5", child("c5"))
        report = inspection.status(settings_for(staging))
        counts = {(count.row_state, count.status): count.rows for count in report.counts}
        assert counts == {
            ("new", "pending"): 2,
            ("updated", ""): 1,
            ("updated", "hold"): 1,
            ("unchanged", "sent"): 1,
        }
        assert (report.due, dict(report.held), report.exit_code) == (3, {"hold": 1}, ExitCode.OK)
        for moment in (report.oldest_due, report.last_submission):
            assert str(moment).startswith("2001-02-03 04:05:06")
        text = report.as_text()
        assert "1 rows have the status 'hold'" in text
        assert text.isascii()
        assert report.as_json()["held_by_status"] == {"hold": 1}

    def test_empty_table(self, database: Database) -> None:
        """There is nothing to tell, and that is told."""
        report = inspection.status(settings_for(Staging(database).create()))
        assert (report.due, report.oldest_due, report.last_submission, report.errors) == (0, None, None, ())
        assert "last submission: none yet" in report.as_text()

    def test_last_errors_come_first_and_say_little(self, database: Database) -> None:
        """Person_ids and the kind of error; what DfE wrote stays in api_response."""
        staging = Staging(database).create()
        staging.add("P1", child("c1"), "Error", api_response="HTTP 400: [0] surname 'Smith' is not allowed")
        staging.add(
            "P2",
            child("c2"),
            "ERROR",
            api_response="$.child_details.sex: enum (must be one of M F U)",
            last_updated="2002-02-03 04:05:06",
        )
        report = inspection.status(settings_for(staging))
        assert report.errors == (("P2", "$.child_details.sex: enum"), ("P1", "HTTP 400 from the API"))
        assert "Smith" not in report.as_text() + json.dumps(report.as_json())


class TestStatusOfTheLog:
    """What ``status`` tells beyond the staging table."""

    @pytest.fixture
    def remembering(self, database: Database) -> Staging:
        """An empty staging table in each database, with log and baseline beside it."""
        staging = Staging(database).create()
        provision.init_db(settings_for(staging))
        return staging

    def test_last_runs_are_counted_by_outcome(self, remembering: Staging, hooked: HookedReceiver) -> None:
        """The five newest, the newest first, each with what became of its attempts."""
        remembering.add("P1", child("c1"))
        remembering.add("P2", child("c2"))
        run_ids = []
        for number in range(7):
            remembering.refresh("P1", child("c1", first_name=f"n{number}"))
            remembering.refresh("P2", child("c2", first_name=f"n{number}"))
            if number == 6:
                hooked.faults.add(Fault("400-record", child="c2"))
            run_ids.append(run(remembering, hooked).run_id)
        log = inspection.status(settings_for(remembering)).log
        assert [found.run_id for found in log.runs] == run_ids[:1:-1]
        assert dict(log.runs[1].outcomes) == {"sent": 2}
        assert dict(log.runs[0].outcomes) == {"error": 2, "sent": 1}
        assert all(found.started_at and found.finished_at for found in log.runs)
        text = inspection.status(settings_for(remembering)).as_text()
        assert (run_ids[6] in text, run_ids[0] in text) == (True, False)

    def test_people_in_doubt_and_in_flight(self, remembering: Staging, hooked: HookedReceiver) -> None:
        """A lost reply leaves doubt, and a run that dies a payload in flight; both are counted."""
        remembering.add("P1", child("c1"))
        hooked.faults.add(Fault("lost-reply"))
        run(remembering, hooked)
        report = inspection.status(settings_for(remembering))
        assert (report.log.unsure, report.log.in_flight) == (1, 0)
        assert "1 people in doubt" in report.as_text()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "close", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(remembering, hooked)
        report = inspection.status(settings_for(remembering))
        assert (report.log.unsure, report.log.in_flight) == (1, 1)
        assert report.as_json()["people_in_flight"] == 1
        run(remembering, hooked)
        report = inspection.status(settings_for(remembering))
        assert (report.log.unsure, report.log.in_flight) == (0, 0)

    def test_without_the_tables_nothing_is_claimed(self, database: Database) -> None:
        """Null where nothing is remembered, which is not none."""
        report = inspection.status(settings_for(Staging(database).create()))
        found = report.as_json()
        assert (found["last_runs"], found["people_unsure"], found["people_in_flight"]) == (None, None, None)
        assert "init-db makes them" in report.as_text()

    def test_no_run_yet(self, remembering: Staging) -> None:
        """The tables are there and empty."""
        report = inspection.status(settings_for(remembering))
        assert report.as_json()["last_runs"] == []
        assert "last runs: none in the submission log" in report.as_text()

    def test_spool_files_are_counted(self, local: Staging, tmp_path: Path) -> None:
        """How many wait, whatever they hold."""
        assert inspection.status(settings_for(local, SPOOL_DIR=tmp_path)).log.spooled == 0
        for number in range(2):
            (tmp_path / f"{spool.PREFIX}{number}.jsonl").write_text("anything", encoding="utf-8")
        report = inspection.status(settings_for(local, SPOOL_DIR=tmp_path))
        assert (report.log.spooled, report.as_json()["spool_files"]) == (2, 2)
        assert "2 spool files wait" in report.as_text()


class TestValidateWithBaseline:
    """``validate`` where it is remembered what was sent."""

    def test_child_that_dfe_never_heard_of_needs_no_id(self, local: Staging) -> None:
        """Its deletion is settled without sending, so nothing is wrong with it."""
        provision.init_db(settings_for(local))
        local.add("P1", "broken", state="Deleted")
        assert inspection.validate(settings_for(local)).groups == ()

    def test_deletion_goes_by_the_baseline(self, local: Staging, hooked: HookedReceiver) -> None:
        """The id that DfE holds can be purged even if no payload of the row has it any more."""
        provision.init_db(settings_for(local))
        local.add("P1", child("c1"))
        run(local, hooked)
        local.update("P1", json_payload="broken", previous_json_payload="broken", row_state="Deleted")
        assert inspection.validate(settings_for(local)).groups == ()

    def test_id_of_a_person_who_is_gone(self, local: Staging, hooked: HookedReceiver) -> None:
        """It is the la_child_id that is shared, not the person_id."""
        provision.init_db(settings_for(local))
        local.add("P1", child("c1"))
        run(local, hooked)
        local.database.execute(f"DELETE FROM {local.table}")
        local.add("P2", child("c1"))
        report = inspection.validate(settings_for(local))
        assert groups(report) == {("shared_id", "$.la_child_id"): (1, ("P2",))}
        pipeline.run(settings_for(local, TESTING_MODE="true"), pipeline.RunOptions())
        [(_, kind)] = inspection.status(settings_for(local)).errors
        assert kind == "DfE holds this la_child_id for a person who is no longer in the table"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ("HTTP 422: anything", "HTTP 422 from the API"),
        ("HTTP 4000", "another reason"),
        ("$.a[0].b: max_length (must be at most 8 characters); $.c: type (...)", "$.a[0].b: max_length"),
        ("$.a: Smith lives here", "another reason"),
        (
            "The same person_id is in row 4, 5, so they cannot be told apart.",
            "The same person_id is in row 4, 5",
        ),
        ("The same child, John, was sent twice", "another reason"),
        ("No payload of this row has a la_child_id that can be purged.", None),
        ("This row has no person_id, so its outcome could not be followed. Give it one.", None),
        ("  ", "no reason given"),
        ("", "no reason given"),
    ],
)
def test_only_what_this_tool_wrote_is_shown_of_a_response(response: str, kind: str | None) -> None:
    """Anything else may quote a record, and is left where it is."""
    found = error_kind(response)
    assert found == kind if kind is not None else response.startswith(found)
    assert "Smith" not in found
    assert "John" not in found


def test_reasons_that_a_run_writes_are_recognised(local: Staging) -> None:
    """What a run puts into api_response is not called another reason by status."""
    local.add("P1", child("c1"))
    local.add("P1", child("c2"))
    local.add("P2", child("c3"))
    local.add("P3", child("c3"))
    local.add("P4", child("c4", sex="X"))
    local.add(None, child("c5"))
    local.add("P6", "broken", "sent", "Deleted")
    pipeline.run(settings_for(local), pipeline.RunOptions())
    kinds = [kind for _, kind in inspection.status(settings_for(local)).errors]
    assert len(kinds) == 7
    assert not {"another reason", "no reason given"} & set(kinds)


def test_neither_command_writes_or_locks(database: Database) -> None:
    """Both work beside a run that holds the lock, and no row is different afterwards."""
    staging = Staging(database).create()
    staging.add("P1", child(LONG), current_hash=None)
    staging.add("P2", "broken", "Error", "Deleted")
    before = staging.rows()
    with opened(database) as ours, RunLock(ours, "any"):
        inspection.validate(settings_for(staging))
        inspection.status(settings_for(staging))
    assert staging.rows() == before


@pytest.mark.parametrize("command", [inspection.validate, inspection.status])
def test_missing_table_is_said(local: Staging, command: Any) -> None:
    """There is nothing to look at, so the error of the database is passed on."""
    with pytest.raises(DatabaseError, match="There is no table"):
        command(settings_for(Staging(local.database, "other_anon")))

"""``prune-log`` takes old lines away, and never one that any later decision rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_pipeline import entry_point, provision, pruning
from api_pipeline.errors import ConfigError, DatabaseError, ExitCode
from api_pipeline.ledger import Ledger
from api_pipeline.pruning import PruneReport, prune_log
from api_pipeline.staging import StagingTable
from tests.databases import Database, new_sqlite
from tests.db_kit import opened
from tests.staging_kit import HookedReceiver, Staging, child, run, settings_of
from tests.test_inspection import settings_for

DAY = date(2024, 6, 1)
TODAY = date(2024, 6, 30)
OUTCOMES = ("sent", "error", "testing", "sending", "unsure")

Line = tuple[str, str, int, str]  # run, person, days from DAY, outcome


def log_table(staging: Staging) -> str:
    """Return the log's name as a statement takes it."""
    return staging.table.rpartition(".")[0] + "." * ("." in staging.table) + "ssd_api_submission_log_anon"


def fill(staging: Staging, lines: Sequence[Line]) -> None:
    """Write lines as the ledger leaves them: what is not settled, and a test, has no finishing time."""
    mark = {"sqlite": "?", "postgresql": "CAST(? AS TIMESTAMP)", "sqlserver": "CAST(? AS DATETIME2(3))"}
    moment = mark[staging.database.kind]
    midnight = datetime(DAY.year, DAY.month, DAY.day)  # noqa: DTZ001 -- as the log stores it
    for seq, (run_id, person, days, outcome) in enumerate(lines, 1):
        ended = midnight + timedelta(days=days)
        begun = (ended - timedelta(seconds=1)).isoformat(sep=" ", timespec="microseconds")
        finished = ended.isoformat(sep=" ", timespec="microseconds") if outcome in ("sent", "error") else None
        columns = "run_id, seq, person_id, kind, outcome, started_at"
        values: list[object] = [run_id, seq, person, "full", outcome, begun]
        marks = f"?, ?, ?, ?, ?, {moment}"
        if finished is not None:
            columns, marks, values = f"{columns}, finished_at", f"{marks}, {moment}", [*values, finished]
        staging.database.execute(f"INSERT INTO {log_table(staging)} ({columns}) VALUES ({marks})", values)


def left(staging: Staging) -> list[int]:
    """Return the numbers of the lines that are there."""
    return [row[0] for row in staging.database.query(f"SELECT seq FROM {log_table(staging)} ORDER BY seq")]


def prune(staging: Staging, **options: Any) -> PruneReport:
    """Prune as of DAY."""
    return prune_log(settings_for(staging), options.pop("before", DAY), today=TODAY, **options)


@pytest.fixture
def remembering(database: Database) -> Staging:
    """An empty staging table in each database, with log and baseline beside it."""
    staging = Staging(database).create()
    provision.init_db(settings_for(staging))
    return staging


def test_old_lines_go_and_the_rest_stays(remembering: Staging) -> None:
    """By outcome, by day, and by what is the newest of a person."""
    lines = [
        ("a", "p1", -9, "sent"),  # goes: p1 has newer ones
        ("a", "p2", -9, "error"),  # goes
        ("b", "p1", -8, "unsure"),
        ("b", "p2", -8, "sending"),
        ("b", "p3", -8, "sent"),  # the only sign that DfE heard of p3
        ("b", "p4", -8, "testing"),  # goes
        ("c", "p3", -7, "error"),  # the newest of p3
        ("c", "p4", -7, "error"),  # the newest of p4
        ("d", "p1", -1, "sent"),  # goes: ended before the day, and p1 has a newer one
        ("e", "p1", 0, "sent"),  # ended on the day itself
        ("e", "p2", 3, "sent"),
    ]
    fill(remembering, lines)
    counted = prune(remembering, dry_run=True)
    assert (counted.deleted, counted.kept, left(remembering)) == (4, 7, list(range(1, 12)))
    report = prune(remembering)
    assert (report.deleted, report.kept, report.exit_code) == (4, 7, ExitCode.OK)
    assert left(remembering) == [3, 4, 5, 7, 8, 10, 11]
    assert prune(remembering).deleted == 0


def test_pages(remembering: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many lines of many runs go in small transactions, and none is passed over."""
    monkeypatch.setattr(pruning, "PAGE", 7)
    lines = [(f"r{n % 5}", f"p{n % 3}", n - 100, "sent") for n in range(50)]
    fill(remembering, lines)
    assert prune(remembering).deleted == 47
    assert left(remembering) == [48, 49, 50]


def test_baselines_are_not_touched(remembering: Staging, hooked: HookedReceiver) -> None:
    """What DfE is known to hold is the same afterwards, and so is what the next run sends."""
    remembering.add("p1", child("c1"))
    for name in ("A", "B", "C"):
        remembering.refresh("p1", child("c1", first_name=name))
        run(remembering, hooked)
    baseline = log_table(remembering).replace("submission_log", "baseline")
    before = remembering.database.query(f"SELECT person_id, payload, receipt FROM {baseline}")
    report = prune_log(settings_for(remembering), date(2999, 1, 1), today=date(2999, 1, 1))
    assert report.deleted == 2
    assert remembering.database.query(f"SELECT person_id, payload, receipt FROM {baseline}") == before
    assert run(remembering, hooked).due == 0


@settings(max_examples=60)
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["p1", "p2", "p3"]),
            st.integers(-3, 2),
            st.sampled_from(OUTCOMES),
        ),
        max_size=12,
    ),
    page=st.integers(1, 4),
)
def test_whether_dfe_ever_heard_of_a_child_stays_answerable(lines: list[Line], page: int) -> None:
    """Whatever is in the log, the answer is the same before and after; nothing unsettled is lost."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "PAGE", page)
        staging = Staging(new_sqlite(Path(folder))).create()
        provision.init_db(settings_for(staging))
        fill(staging, lines)
        before = _heard_of(staging)
        report = prune(staging)
        kept = [lines[seq - 1] for seq in left(staging)]
        assert _heard_of(staging) == before
        assert report.deleted == len(lines) - len(kept)
        for outcome in ("sending", "unsure"):
            assert [x for x in kept if x[3] == outcome] == [x for x in lines if x[3] == outcome]
        assert {line[1] for line in kept} == {line[1] for line in lines}
        # Of what is old and settled, each person keeps the newest line and the newest that arrived.
        old = [line for line in kept if line[2] < 0 and line[3] in ("sent", "error", "testing")]
        assert all(sum(line[1] == person for line in old) <= 2 for person in ("p1", "p2", "p3"))
        staging.database.close()


def _heard_of(staging: Staging) -> set[str]:
    with opened(staging.database) as ours:
        ledger = Ledger.find(ours, StagingTable(ours, settings_for(staging).table), "r")
        assert ledger is not None
        return ledger.ever_attempted(["p1", "p2", "p3"])


def test_day_in_the_future_is_refused(remembering: Staging) -> None:
    """A slip of the hand must not empty the log; today is no future."""
    fill(remembering, [("a", "p1", -9, "sent"), ("b", "p1", -8, "sent")])
    with pytest.raises(ConfigError, match="future"):
        prune(remembering, before=TODAY + timedelta(days=1))
    assert left(remembering) == [1, 2]
    assert prune(remembering, before=TODAY).deleted == 1


def test_without_a_log(database: Database) -> None:
    """There is nothing to prune, and the error says which table is missing."""
    staging = Staging(database).create()
    with pytest.raises(DatabaseError, match=r"no submission log .*ssd_api_submission_log_anon"):
        prune(staging)


@pytest.mark.parametrize("text", ["2024-6-1", "20240601", "2024-02-30", "yesterday", ""])
def test_date_is_a_day_of_the_calendar(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is a usage error."""
    assert entry_point.main(["prune-log", "--before", text]) == ExitCode.USAGE
    assert "YYYY-MM-DD" in capsys.readouterr().err


def test_command(sqlite_database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts as text and as JSON, from the command line."""
    staging = Staging(sqlite_database).create()
    settings_file = Path("own.env")
    settings_file.write_text(
        f"DB_CONNECTION_STRING={sqlite_database.connection_string}\nTABLE_NAME={staging.table}\n",
        encoding="utf-8",
    )
    provision.init_db(settings_of(staging, None))
    fill(staging, [("a", "p1", -9, "sent"), ("b", "p1", -8, "sent")])
    arguments = ["prune-log", "--env-file", str(settings_file), "--before", DAY.isoformat()]
    assert entry_point.main([*arguments, "--dry-run"]) == ExitCode.OK
    assert "1 lines from before 2024-06-01 would be deleted" in capsys.readouterr().out
    assert entry_point.main([*arguments, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {
        "command": "prune-log",
        "table": "ssd_api_submission_log_anon",
        "exit_code": 0,
        "before": "2024-06-01",
        "dry_run": False,
        "deleted": 1,
        "to_delete": 0,
        "kept": 1,
    }

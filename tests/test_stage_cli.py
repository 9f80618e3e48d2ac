"""``stage`` and ``run --stage`` as processes: exit codes, one JSON document, and nobody's name anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import db, entry_point
from api_pipeline.locking import RunLock
from api_pipeline.names import TableName
from api_pipeline.receiver import Receiver
from api_pipeline.schema import require
from api_pipeline.ssd_tables import SOURCE_TABLES
from tests.conftest import ROOT
from tests.stage_kit import AS_OF, Source, family
from tests.staging_kit import Staging

NAME = "Zaphod"
LOG = Path("stage.log")


@dataclass
class Ended:
    """What one process did."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver in this process."""
    with Receiver() as stand_in:
        yield stand_in


@pytest.fixture
def source(local: Staging, receiver: Receiver) -> Iterator[Source]:
    """A fake source of three people beside the staging table, and the .env of a live run."""
    found = Source(local, local.database).create()
    found.add(*(family(f"p{number}", surname=NAME, pers_forename=NAME) for number in range(3)))
    values = {
        "DB_CONNECTION_STRING": f"'{local.database.connection_string}'",
        "TABLE_NAME": local.table,
        "TESTING_MODE": "false",
        "MIN_REQUEST_GAP_MS": "0",
        "LOG_FILE": str(LOG),
        "LOG_LEVEL": "DEBUG",
        **receiver.settings(),
    }
    Path(".env").write_text("\n".join(f"{key}={value}" for key, value in values.items()), encoding="utf-8")
    yield found
    assert not LOG.exists() or NAME not in LOG.read_text(encoding="utf-8")


def call(*argv: str, before: str = "") -> Ended:
    """Run one command in a process of its own; ``before`` is code that runs first in it."""
    start = ["-m", "api_pipeline", *argv]
    if before:
        start = [
            "-c",
            f"import sys\n{before}\nfrom api_pipeline.entry_point import main\nsys.exit(main(sys.argv[1:]))",
            *argv,
        ]
    ended = subprocess.run(
        [sys.executable, *start],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    for text in (ended.stdout, ended.stderr):
        assert NAME not in text
        assert "Traceback" not in text
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def stage(*argv: str, before: str = "") -> Ended:
    """Run ``stage`` on a fixed day."""
    return call("stage", "--as-of", AS_OF.isoformat(), *argv, before=before)


# --- Each code --------------------------------------------------------------------------------------------


def test_finished_night_ends_with_0(source: Source) -> None:
    """A dry run and a night: JSON or a table on standard output, everything else on standard error."""
    dry = stage("--dry-run", "--json")
    assert (dry.code, dry.result["mode"], dry.result["new"], dry.result["rows_written"]) == (
        0,
        "dry-run",
        3,
        0,
    )
    assert source.staging.rows() == []
    night = stage()
    assert night.code == 0
    assert "rows written" in night.out
    assert [row["row_state"] for row in source.staging.rows()] == ["new"] * 3
    assert stage("--json").result["unchanged"] == 3


def test_brake_ends_with_1(source: Source) -> None:
    """Nothing is written, the message says how to go on, and with that it goes on."""
    assert stage().code == 0
    source.remove("p0", "p1", "p2")
    before = source.staging.rows()
    held = stage("--json")
    assert (held.code, held.result["exit_code"], held.result["rows_written"]) == (1, 1, 0)
    assert "--allow-deletions" in held.result["held_because"]
    assert source.staging.rows() == before
    assert stage("--allow-deletions", "--json").result["deleted"] == 3


def test_real_people_for_a_table_of_fake_ones_end_with_2(source: Source) -> None:
    """The unsafe combination is refused in testing mode too."""
    source.database.execute("DROP TABLE ssd_fake_data_marker")
    ended = stage("--json")
    assert (ended.code, ended.result["exit_code"]) == (2, 2)
    assert "_anon" in ended.err
    assert source.staging.rows() == []


def test_missing_source_table_ends_with_3(source: Source) -> None:
    """It is named; with run --stage nothing is sent, and there is one JSON document."""
    source.database.execute("DROP TABLE ssd_permanence")
    ended = call("run", "--stage", "--json")
    assert (ended.code, ended.result["exit_code"], ended.result["command"]) == (3, 3, "run")
    assert "ssd_permanence" in ended.err


def test_no_source_at_all_is_not_taken_for_a_real_one(source: Source) -> None:
    """SSD_SCHEMA or SSD_CONNECTION_STRING is forgotten: the message says so, and not that people are real."""
    for table in (*(table.name for table in SOURCE_TABLES), "ssd_fake_data_marker"):
        source.database.execute(f"DROP TABLE {table}")
    ended = call("run", "--stage")
    assert ended.code == 3
    assert "Check SSD_SCHEMA and SSD_CONNECTION_STRING" in ended.err


def test_held_lock_ends_with_5(source: Source) -> None:
    """Another run at work."""
    staging = source.staging
    with (
        db.connect(staging.database.connection_string) as other,
        RunLock(other, require(other, TableName.parse(staging.table)).full_name),
    ):
        assert stage("--json").code == 5
    assert staging.rows() == []


@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal_ends_with_130(source: Source, name: str) -> None:
    """Everything is rolled back, what was written before the signal included."""
    assert stage().code == 0
    before = source.staging.rows()
    source.update("ssd_person", "pers_surname = 'Dent'", "pers_person_id", "p1")
    interrupting = f"""
import os, signal
from api_pipeline.refresh import Refresher
finish = Refresher.finish
def interrupted(*args):
    held = finish(*args)
    os.kill(os.getpid(), signal.{name})
    return held
Refresher.finish = interrupted
"""
    ended = stage("--json", before=interrupting)
    assert (ended.code, ended.result["exit_code"], ended.result["rows_written"]) == (130, 130, 0)
    assert source.staging.rows() == before
    assert stage("--json").result["updated"] == 1


# --- run --stage ------------------------------------------------------------------------------------------


def in_process(capsys: pytest.CaptureFixture[str], *argv: str) -> Ended:
    """Run one command in this process, for what a process of its own would not show better."""
    code = entry_point.main(list(argv))
    captured = capsys.readouterr()
    assert NAME not in captured.out + captured.err
    return Ended(code, captured.out, captured.err)


@pytest.fixture
def tonight(source: Source) -> Source:
    """The source with people who are in the cohort today."""
    source.database.execute("UPDATE ssd_cin_episodes SET cine_close_date = NULL")
    return source


def test_run_stage_is_the_whole_night(tonight: Source, receiver: Receiver) -> None:
    """Staged, then sent, in one JSON document."""
    ended = call("run", "--stage", "--json")
    assert (ended.code, ended.result["sent"], ended.result["stage"]["new"]) == (0, 3, 3)
    assert set(receiver.children) == {"p0", "p1", "p2"}
    assert {row["row_state"] for row in tonight.staging.rows()} == {"unchanged"}


def test_run_stage_sends_nothing_after_a_fault(
    tonight: Source, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """If stage does not end with 0, its code is returned and nothing is sent, though rows are due."""
    tonight.add(family(None, surname=NAME))
    ended = in_process(capsys, "run", "--stage", "--json")
    assert (ended.code, ended.result["command"], ended.result["stage"]["new"]) == (1, "run", 3)
    shown = in_process(capsys, "run", "--stage")
    assert "Nothing was sent" in shown.out
    assert not receiver.submissions
    assert {row["submission_status"] for row in tonight.staging.rows()} == {"pending"}


def test_run_stage_passes_its_flags_on(
    tonight: Source, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """--person-id narrows both, --allow-deletions opens both brakes, --dry-run keeps both from writing."""
    dry = in_process(capsys, "run", "--stage", "--dry-run", "--json")
    assert (dry.code, dry.result["mode"], dry.result["stage"]["mode"]) == (0, "dry-run", "dry-run")
    assert tonight.staging.rows() == []
    one = in_process(capsys, "run", "--stage", "--person-id", "p1", "--json")
    assert (one.code, one.result["sent"], one.result["stage"]["cohort"]) == (0, 1, 1)
    tonight.add(*(family(f"q{number}", surname=NAME) for number in range(25)))
    assert in_process(capsys, "run", "--stage").code == 0
    tonight.remove(*(f"q{number}" for number in range(25)))
    held = in_process(capsys, "run", "--stage", "--json")
    assert (held.code, held.result["stage"]["deleted"], len(receiver.children)) == (1, 25, 28)
    gone = in_process(capsys, "run", "--stage", "--allow-deletions", "--json")
    assert (gone.code, gone.result["deleted"], len(receiver.children)) == (0, 25, 3)


def test_stage_needs_no_api_settings(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the database: stage works before DfE has given out any credentials, in either mode."""
    kept = ("DB_CONNECTION_STRING", "TABLE_NAME", "TESTING_MODE")
    lines = Path(".env").read_text(encoding="utf-8").splitlines()
    Path(".env").write_text("\n".join(line for line in lines if line.startswith(kept)), encoding="utf-8")
    ended = in_process(capsys, "stage", "--as-of", AS_OF.isoformat(), "--json")
    assert (ended.code, ended.result["new"]) == (0, 3)
    assert len(source.staging.rows()) == 3


@pytest.mark.parametrize("flags", [["--as-of", "30/06/2025"], ["--as-of", "2025-02-30"], ["--limit", "3"]])
def test_flags_that_make_no_sense_end_with_2(
    source: Source, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """A day is written YYYY-MM-DD and is of the calendar; what stage has not is refused."""
    assert in_process(capsys, "stage", *flags).code == 2
    assert source.staging.rows() == []


# --- The flags of other commands --------------------------------------------------------------------------


def test_fake_source_from_nothing_to_the_receiver(
    receiver: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """init-db, init-db --ssd, fake-data --ssd, validate --source and run --stage on a new SQLite file."""
    values = {
        "DB_CONNECTION_STRING": f"sqlite:///{tmp_path / 'new.db'}",
        "TESTING_MODE": "false",
        "MIN_REQUEST_GAP_MS": "0",
        **receiver.settings(),
    }
    Path(".env").write_text("\n".join(f"{key}={value}" for key, value in values.items()), encoding="utf-8")
    assert in_process(capsys, "init-db").code == 0
    assert "CREATE TABLE" in in_process(capsys, "init-db", "--ssd", "--print").out
    assert "ssd_person" in in_process(capsys, "init-db", "--ssd").out
    assert in_process(capsys, "fake-data", "--ssd", "--rows", "30", "--json").result["added"] == 30
    assert in_process(capsys, "validate", "--source", "--json").code in (0, 1)
    night = in_process(capsys, "run", "--stage", "--json")
    assert night.code == 0, night.err
    assert len(receiver.children) == night.result["stage"]["cohort"] > 15

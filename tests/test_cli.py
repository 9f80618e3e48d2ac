"""Every exit code comes from a real situation, and no output or log holds a secret, a token or a name."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import __version__, db, entry_point
from api_pipeline.faults import Fault
from api_pipeline.locking import RunLock
from api_pipeline.names import TableName
from api_pipeline.receiver import LIVE_BASE_PATH, Receiver
from api_pipeline.schema import require
from tests.conftest import ROOT
from tests.databases import Database
from tests.staging_kit import Staging, add_five, child

CLIENT_SECRET = "sEcReT~of/the+client=1"
SUPPLIER_KEY = "kEy-of-the-supplier-2"
NAME = "Zaphod"


@dataclass
class Ended:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The machine-readable result."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Call = Callable[..., Ended]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver with secrets that can be searched for."""
    with Receiver(client_secret=CLIENT_SECRET, supplier_key=SUPPLIER_KEY) as stand_in:
        yield stand_in


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run one command in this process, as the console script does."""

    def run(*argv: str) -> Ended:
        code = entry_point.main(list(argv))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def write_env(staging: Staging, receiver: Receiver, **changes: str | None) -> Path:
    """Write the .env of a live run to ``receiver``; a change of None leaves a key out."""
    values: dict[str, str | None] = {
        "DB_CONNECTION_STRING": f"'{staging.database.connection_string}'",
        "TABLE_NAME": staging.table,
        "TESTING_MODE": "false",
        "MIN_REQUEST_GAP_MS": "0",
        "MAX_RETRIES": "1",
        **receiver.settings(),
        **changes,
    }
    path = Path(".env")
    lines = [f"{key}={value}" for key, value in values.items() if value is not None]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# --- Each code --------------------------------------------------------------------------------------------


def test_bare_program_is_run_and_ends_with_0(staging: Staging, receiver: Receiver, call: Call) -> None:
    """No command means run; everything due acknowledged, and then nothing due, are both 0."""
    add_five(staging)
    write_env(staging, receiver)
    assert call().code == 0
    assert len(receiver.children) == 5
    ended = call("--json")
    assert (ended.code, ended.result["due"], ended.result["exit_code"]) == (0, 0, 0)


def test_faulty_records_end_with_1(local: Staging, receiver: Receiver, call: Call) -> None:
    """Validation, refusal, brake, unknown person and a dry run's faults are 1."""
    add_five(local)
    local.add("bad", "no json")
    write_env(local, receiver)
    assert call("run", "--dry-run").code == 1
    assert call("run", "--json").result["errors_by_kind"] == {"validation": 1}
    local.update("bad", json_payload=child("c9"))
    receiver.faults.add(Fault("400"))
    assert call().code == 1
    assert call("run", "--person-id", "nobody").code == 1
    for number in range(30):
        local.add_sent(f"gone{number}", child(f"g{number}"), "Deleted")
    ended = call("run")
    assert ended.code == 1
    assert "--allow-deletions" in ended.err
    assert call("run", "--allow-deletions").code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--resend"],
        ["run", "--limit", "0"],
        ["run", "--limit", "many"],
        ["run", "--batch-size", "0"],
        ["run", "--batch-size", "101"],
        ["run", "--no-such-flag"],
        ["no-such-command"],
        ["run", "--table", "a;drop"],
        ["run", "--table", "real_table"],
        ["run", "--log-level", "LOUD"],
        ["run", "--env-file", "missing.env"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(local: Staging, receiver: Receiver, call: Call, argv: list[str]) -> None:
    """Nothing is read or sent, and one message says what is wrong."""
    add_five(local)
    write_env(local, receiver)
    before = local.rows()
    ended = call(*argv)
    assert ended.code == 2
    assert ended.err
    assert not receiver.requests
    assert local.rows() == before


SETTINGS_FAULTS: dict[str, dict[str, str | None]] = {
    "no database": {"DB_CONNECTION_STRING": None},
    "no secret": {"CLIENT_SECRET": None},
    "no number": {"BATCH_SIZE": "many"},
    "unsure mode": {"TESTING_MODE": "perhaps"},
    "plain http": {"API_ENDPOINT": "http://example.org/children-in-social-care-data-receiver-test/1"},
    "fake data to the live receiver": {"API_ENDPOINT": f"https://example.org{LIVE_BASE_PATH}"},
    "real data to a test receiver": {"TABLE_NAME": "ssd_api_data_staging"},
    "no connection string": {"DB_CONNECTION_STRING": "sqlite:nowhere"},
}


@pytest.mark.parametrize("fault", SETTINGS_FAULTS)
def test_settings_that_will_not_do_end_with_2(
    local: Staging, receiver: Receiver, call: Call, fault: str
) -> None:
    """Missing, malformed or contradictory settings: the key is named, no value is shown."""
    write_env(local, receiver, **SETTINGS_FAULTS[fault])
    ended = call("run", "--json")
    assert (ended.code, ended.result["exit_code"]) == (2, 2)
    assert next(iter(SETTINGS_FAULTS[fault])) in ended.err
    assert CLIENT_SECRET not in ended.err + ended.out
    assert not receiver.requests


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"KEY=\xa3\xff\n", b"no equals sign\n"])
def test_unreadable_env_file_ends_with_2(call: Call, content: bytes) -> None:
    """A .env that cannot be read is named with its place."""
    Path(".env").write_bytes(content)
    ended = call("run")
    assert ended.code == 2
    assert ".env" in ended.err


def test_missing_file_and_table_end_with_3(local: Staging, receiver: Receiver, call: Call) -> None:
    """A missing file, a missing table and a file that is no database are 3, and each is named."""
    for string, table, said in (
        ("sqlite:///nowhere.db", local.table, "nowhere.db"),
        (local.database.connection_string, "other_anon", "other_anon"),
        ("sqlite:///.env", local.table, ".env"),
    ):
        write_env(local, receiver, DB_CONNECTION_STRING=f"'{string}'", TABLE_NAME=table)
        ended = call("run", "--json")
        assert (ended.code, ended.result["exit_code"]) == (3, 3)
        assert said in ended.err
    assert not receiver.requests


@pytest.mark.parametrize("change", ["PWD=wrong;", "Database=no_such_database;", "Port=1;"])
def test_database_that_refuses_ends_with_3(
    postgresql_database: Database, receiver: Receiver, call: Call, change: str
) -> None:
    """A wrong database or port is 3; the password is in no output (a trusting server lets any in)."""
    staging = Staging(postgresql_database)
    # The first of two equal keys counts.
    string = change + postgresql_database.connection_string
    write_env(staging, receiver, DB_CONNECTION_STRING=f"'{string}'")
    ended = call("run")
    assert ended.code == 3
    assert "wrong" not in ended.err


def test_api_that_refuses_ends_with_4(local: Staging, receiver: Receiver, call: Call) -> None:
    """Wrong secret, supplier key or LA code, a closed port, batches given up: 4, rows as before."""
    add_five(local)
    before = local.rows()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for change in (
        {"CLIENT_SECRET": "wrong"},
        {"SUPPLIER_KEY": "wrong"},
        {"LA_CODE": "998"},
        {"TOKEN_ENDPOINT": f"{closed}/token"},
        {"API_ENDPOINT": f"{closed}/children-in-social-care-data-receiver-test/1"},
    ):
        write_env(local, receiver, **change)
        ended = call("run", "--json")
        assert (ended.code, ended.result["sent"]) == (4, 0)
        assert ended.result["stopped_because"] or ended.result["left_due"] == 5
    write_env(local, receiver, BATCH_SIZE="2")
    receiver.faults.add(Fault("503"))
    ended = call("run", "--json")
    assert (ended.code, ended.result["sent"], ended.result["left_due"]) == (4, 3, 2)
    assert local.rows()[:2] == before[:2]


def test_give_up_outranks_faulty_records(local: Staging, receiver: Receiver, call: Call) -> None:
    """4 comes before 1, and a request to stop before both is for test_kill."""
    add_five(local)
    local.add("bad", "no json")
    write_env(local, receiver)
    receiver.faults.add(Fault("503"))
    ended = call("run", "--json")
    assert (ended.code, ended.result["errors"]) == (4, 1)


def test_held_lock_ends_with_5(staging: Staging, receiver: Receiver, call: Call) -> None:
    """Another run at work: nothing is done, and the message says so."""
    add_five(staging)
    write_env(staging, receiver)
    with db.connect(staging.database.connection_string) as other:
        with RunLock(other, require(other, TableName.parse(staging.table)).full_name):
            ended = call("run", "--json")
        assert (ended.code, ended.result["exit_code"]) == (5, 5)
    assert not receiver.requests
    assert call("run").code == 0


def test_unexpected_exception_ends_with_70(
    local: Staging, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for people; the traceback goes to the log file, without the exception's text."""
    add_five(local)
    write_env(local, receiver)

    def broken(*_: Any) -> None:
        raise RuntimeError(f"{NAME} {CLIENT_SECRET}")

    monkeypatch.setattr("api_pipeline.recording.Recorder.settle", broken)
    ended = call("run", "--log-file", "run.log", "--json")
    assert (ended.code, ended.result["exit_code"]) == (70, 70)
    log = Path("run.log").read_text(encoding="utf-8")
    assert "RuntimeError" in log
    assert "broken" in log
    for text in (ended.out, ended.err, log):
        assert NAME not in text
        assert CLIENT_SECRET not in text
    assert "Traceback" not in ended.err


# --- The next morning -------------------------------------------------------------------------------------


def test_the_log_alone_tells_how_the_night_went(local: Staging, receiver: Receiver, call: Call) -> None:
    """What a task shows nobody is in its log: counts, the verdicts of smoke, and each exit code."""
    add_five(local)
    write_env(local, receiver, LOG_FILE="night.log")
    log = Path("night.log")

    def said(*argv: str) -> str:
        log.unlink(missing_ok=True)
        call(*argv)
        return log.read_text(encoding="utf-8")

    first = said("run", "--json")
    assert re.search(r"sent +5\n", first)
    assert first.endswith("run ended with exit code 0\n")
    assert "this set-up works" in said("smoke")
    write_env(local, receiver, LOG_FILE="night.log", DB_CONNECTION_STRING="sqlite:///nowhere.db")
    missing = said("run")
    assert "There is no SQLite file" in missing
    assert missing.endswith("run ended with exit code 3\n")


def test_faulty_settings_are_told_in_the_log_that_they_name(
    local: Staging, receiver: Receiver, call: Call
) -> None:
    """A setting that was spoilt by day is found in the log, and not by starting the task by hand."""
    write_env(local, receiver, LOG_FILE="night.log", WORKERS="0")
    assert call("run").code == 2
    assert "WORKERS must be" in Path("night.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("argv", [["run"], ["run", "--json"], ["schedule"]], ids=" ".join)
def test_output_that_nobody_takes_is_one_line_and_70(
    local: Staging, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Where the result is sent to a full disk, the log still has it, and nothing looks like a crash."""
    add_five(local)
    write_env(local, receiver, LOG_FILE="night.log")

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, text)

    monkeypatch.setattr("sys.stdout", Full())
    ended = call(*argv)
    assert ended.code == 70
    (line,) = (line for line in ended.err.splitlines() if not line.startswith("run "))
    assert line.startswith("error: The result of")
    if argv[0] == "run":
        assert re.search(r"sent +5\n", Path("night.log").read_text(encoding="utf-8"))


def test_a_program_without_a_console_does_its_work(
    local: Staging, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some schedulers start programs with no output at all."""
    add_five(local)
    write_env(local, receiver)
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert call("run").code == 0
    assert len(receiver.children) == 5


# --- The command line -------------------------------------------------------------------------------------


def test_help_at_every_level_has_examples(call: Call) -> None:
    """Each command's help ends with 0 and shows what to type."""
    ended = call("--help")
    assert ended.code == 0
    assert "exit codes" in ended.out
    for command in ("run", "test-endpoint", "smoke", "status", "init-db", "fake-data", "receiver", "demo"):
        assert command in ended.out
        of_command = call(command, "--help")
        assert of_command.code == 0
        assert "examples:" in of_command.out
        assert "--env-file" in of_command.out


def test_version_is_printed(call: Call) -> None:
    """--version prints the version and ends with 0."""
    ended = call("--version")
    assert ended.code == 0
    assert __version__ in ended.out


def test_flags_may_stand_before_the_command_or_after(local: Staging, receiver: Receiver, call: Call) -> None:
    """Common flags and the bare program go together."""
    add_five(local)
    path = write_env(local, receiver, TABLE_NAME="somewhere_anon").rename("other.env")
    for argv in (
        ["--env-file", str(path), "--table", local.table, "--json", "run", "--dry-run"],
        ["--env-file", str(path), "--table", local.table, "--json", "--dry-run"],
        ["run", "--dry-run", "--env-file", str(path), "--table", local.table, "--json"],
    ):
        ended = call(*argv)
        assert (ended.code, ended.result["due"]) == (0, 5)


@pytest.mark.parametrize("how", ["-m", "script"])
def test_program_starts_as_module_and_as_script(local: Staging, receiver: Receiver, how: str) -> None:
    """A real process: standard output is JSON alone, everything else goes to standard error."""
    add_five(local)
    write_env(local, receiver)
    start = ["-m", "api_pipeline"] if how == "-m" else [str(ROOT / "api_pipeline" / "entry_point.py")]
    # A console of a Western European code page, which lacks most characters.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"}
    ended = subprocess.run(
        [sys.executable, *start, "run", "--json"],
        capture_output=True,
        check=False,
        env=environment,
        timeout=60,
    )
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["sent"] == 5
    assert b"Traceback" not in ended.stderr


# --- Nothing private in any output ------------------------------------------------------------------------


def test_no_output_holds_a_secret_a_token_or_a_name(
    staging: Staging, receiver: Receiver, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Console, JSON and the log file at DEBUG, over successes, refusals that quote the record, and faults."""
    tokens: list[str] = []
    original = receiver._issued_token

    def issued() -> Any:
        reply = original()
        tokens.append(json.loads(reply.body)["access_token"])
        return reply

    monkeypatch.setattr(receiver, "_issued_token", issued)
    for number in range(6):
        staging.add(f"p{number}", child(f"c{number}", first_name=NAME, surname=f"{NAME}-son"))
    staging.add("bad", child("bad", first_name=NAME, sex=NAME, date_of_birth=NAME))
    staging.add("broken", f'{{"la_child_id": "{NAME}')
    staging.add_sent("gone", child("gone", first_name=NAME), "Deleted")
    log_file = Path("logs", "run.log")
    write_env(staging, receiver, LOG_FILE=str(log_file), DEBUG="true", VALIDATION="warn", BATCH_SIZE="1")
    text = ""
    faults = ["401", "403", "403-html", "404", "302", "503", "reset", "html", "lost-reply", "400", "204"]
    for argv, fault in [
        (["run", "--dry-run"], ""),
        *[(["run", "--limit", "1", "--json"], fault) for fault in faults],
        (["run"], ""),
        (["status"], ""),
        (["validate"], ""),
    ]:
        if fault:
            receiver.faults.add(Fault(fault))
        ended = call(*argv)
        receiver.faults.clear()
        text += ended.out + ended.err
    text += log_file.read_text(encoding="utf-8")
    assert staging.row("bad")["submission_status"] == "error"
    assert len(tokens) > 3
    assert "person_id bad" in text
    for private in (CLIENT_SECRET, SUPPLIER_KEY, NAME, "first_name", *tokens):
        assert private not in text

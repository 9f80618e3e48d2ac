"""The frozen program as users start it: another process, no Python, folders and output of every kind.

Environment:
    CSC_EXE: the exe to try, of one file or in its folder. Without it everything here is skipped.
    CSC_EXE_RUNNER: what starts it where the system itself cannot, such as wine.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from api_pipeline import __version__, db
from api_pipeline.locking import RunLock
from api_pipeline.names import TableName
from api_pipeline.receiver import Receiver
from api_pipeline.schema import require
from api_pipeline.ssd_source import PEOPLE_PER_PAGE
from tests.conftest import ROOT
from tests.databases import Database
from tests.scripted_server import TOKEN_PATH, ScriptedServer
from tests.staging_kit import Staging, add_five, child

EXE = os.environ.get("CSC_EXE", "")
RUNNER = shlex.split(os.environ.get("CSC_EXE_RUNNER", ""))
SECONDS = 600  # for one command: a machine that builds something beside it starts the exe slowly

pytestmark = pytest.mark.exe
if not EXE:
    # For the module as a whole only because pytest then says so once.
    pytest.skip("CSC_EXE names no executable to try", allow_module_level=True)

# A busy wine cannot always start the second process of an exe of one file; nothing of ours has run then.
_WINE_FAILED = b"CreateProcessW: Internal error"

# As the children's social care records of three communities have them; escaped because the code is ASCII.
WELSH = "Si\xe2n Llywelyn-T\u0175r \u0176nyr"
URDU = "\u0639\u0627\u0626\u0634\u06c1 \u0627\u0642\u0628\u0627\u0644"
POLISH = "\u0141ucja \u017b\xf3\u0142\u0107-W\u0119gierska"
NAMES = {"welsh": WELSH, "urdu": URDU, "polish": POLISH}

DIAGNOSTICS = (
    ["test-endpoint"],
    ["test-db-connection"],
    ["test-schema"],
    ["smoke"],
    ["run-smoke"],
    ["validate"],
    ["status"],
    ["explain", "p0"],
    ["run", "--dry-run"],
)


@dataclass(frozen=True)
class Ended:
    """What one command did."""

    code: int
    out: bytes
    err: bytes

    @property
    def result(self) -> dict[str, Any]:
        """The machine-readable result."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def text(self) -> str:
        """All that it said; not being UTF-8 is a fault."""
        return (self.out + self.err).decode("utf-8")


@dataclass(frozen=True)
class Program:
    """The exe in some folder."""

    path: Path

    def __call__(self, *argv: str, cwd: Path | None = None) -> Ended:
        """Run one command to its end, with output into pipes and nothing to read."""
        return self._run([*RUNNER, str(self.path), *argv], cwd)

    def redirected(self, *argv: str, to: Path) -> Ended:
        """Run one command through the system's shell, its standard output into a file."""
        if _is_windows():
            line = f"{inside(self.path)} {' '.join(argv)} > {inside(to)}"
            return self._run([*RUNNER, "cmd", "/c", line], None)
        line = f"{shlex.join([*RUNNER, str(self.path), *argv])} > {shlex.quote(str(to))}"
        return self._run(["sh", "-c", line], None)

    def _run(self, command: list[str], cwd: Path | None, tries: int = 3) -> Ended:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SECONDS
        )
        if RUNNER and tries > 1 and _WINE_FAILED in done.stderr:
            return self._run(command, cwd, tries - 1)
        return Ended(done.returncode, done.stdout, done.stderr)


def _is_windows() -> bool:
    """Whether it is a Windows program that is tried, be it through wine."""
    return EXE.lower().endswith(".exe")


def inside(path: Path) -> str:
    """Return the path as the program sees it; under wine, drive Z: is the root folder."""
    if _is_windows() and os.name != "nt":
        return "Z:" + str(path).replace("/", "\\")
    return str(path)


def connection_string(database: Database) -> str:
    """Return the connection string as the program needs it."""
    path = database.connection_string.removeprefix("sqlite:///")
    return f"sqlite:///{inside(Path(path))}" if database.kind == "sqlite" else database.connection_string


@pytest.fixture(scope="session")
def exe() -> Program:
    """The exe where it was built."""
    path = Path(EXE)
    if not path.is_absolute():
        path = ROOT / path
    assert path.is_file(), f"CSC_EXE names {EXE}, which does not exist"
    return Program(path)


@pytest.fixture
def installed(exe: Program, tmp_path: Path) -> Program:
    """The exe copied into a folder of its own, as the release page tells users to."""
    folder = tmp_path / "csc-api"
    if (exe.path.parent / "_internal").is_dir():
        shutil.copytree(exe.path.parent, folder)
    else:
        folder.mkdir()
        shutil.copy2(exe.path, folder)
    return Program(folder / exe.path.name)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that keeps what it was sent."""
    with Receiver(keep_bodies=True) as stand_in:
        yield stand_in


def write_env(folder: Path, staging: Staging, receiver: Receiver, **changes: str) -> None:
    """Write the .env of a live run to ``receiver``."""
    values = {
        "DB_CONNECTION_STRING": f"'{connection_string(staging.database)}'",
        "TABLE_NAME": staging.table,
        "TESTING_MODE": "false",
        "MIN_REQUEST_GAP_MS": "0",
        "MAX_RETRIES": "1",
        **receiver.settings(),
        **changes,
    }
    text = "\r\n".join(f"{key}={value}" for key, value in values.items())
    (folder / ".env").write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Notepad saves it


# --- Started, and nothing else ----------------------------------------------------------------------------


def test_version_is_the_literal_of_the_package(exe: Program) -> None:
    """--version prints the version, says nothing else and ends with 0."""
    ended = exe("--version")
    assert (ended.code, ended.err) == (0, b"")
    assert ended.text.split()[-1] == __version__


def test_help_names_commands_and_exit_codes(exe: Program) -> None:
    """--help says what there is to do; a wrong command ends with 2."""
    ended = exe("--help")
    assert (ended.code, ended.err) == (0, b"")
    for word in ("run", "smoke", "demo", "explain", "exit codes"):
        assert word in ended.text
    assert exe("no-such-command").code == 2


@pytest.mark.skipif(not _is_windows(), reason="only Windows programs have a version resource")
def test_file_properties_show_the_version(exe: Program) -> None:
    """Explorer's page of details, and what IT's inventories read, tell product and version."""
    content = exe.path.read_bytes()
    for key, value in (("ProductName", "csc-api-pipeline"), ("ProductVersion", __version__)):
        name = f"{key}\0".encode("utf-16-le")
        at = content.index(name) + len(name)
        assert value.encode("utf-16-le") in content[at : at + 80]


def test_demo_plays_both_nights(exe: Program, tmp_path: Path) -> None:
    """The first thing a user tries works in an empty folder, with nothing set up."""
    ended = exe("demo", cwd=tmp_path)
    assert ended.code == 0, ended.text
    assert "The receiver answered" in ended.text


# --- Runs -------------------------------------------------------------------------------------------------


def test_run_sends_names_byte_for_byte(
    exe: Program, staging: Staging, receiver: Receiver, tmp_path: Path
) -> None:
    """From each kind of database to the API: every record arrives with the bytes of its names unchanged."""
    for key, name in NAMES.items():
        staging.add(key, child(key, first_name=name, surname=name[::-1]))
    write_env(tmp_path, staging, receiver)
    ended = exe("run", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.text
    assert (ended.result["due"], ended.result["sent"]) == (3, 3)
    (submission,) = receiver.submissions
    for key, name in NAMES.items():
        assert name.encode("utf-8") in (submission.body or b"")
        assert receiver.children[key]["child_details"]["surname"] == name[::-1]
        row = staging.row(key)
        assert row["submission_status"] == "sent"
        assert row["api_response"] in receiver.receipts[key]
        assert json.loads(row["json_payload"])["child_details"]["first_name"] == name
    assert not any(name in ended.text for name in NAMES.values())


def test_bare_program_is_run_and_nothing_due_is_0(
    exe: Program, local: Staging, receiver: Receiver, tmp_path: Path
) -> None:
    """The scheduled task may call the exe without arguments, and a second night has nothing to do."""
    add_five(local)
    write_env(tmp_path, local, receiver)
    assert exe(cwd=tmp_path).code == 0
    assert len(receiver.children) == 5
    assert exe(cwd=tmp_path).code == 0
    assert len(receiver.submissions) == 1


def test_output_goes_to_a_file_whole(
    exe: Program, local: Staging, receiver: Receiver, tmp_path: Path
) -> None:
    """Redirected by the shell, as task schedulers and support desks do, the result is complete and UTF-8."""
    add_five(local)
    write_env(tmp_path, local, receiver)
    result, report = tmp_path / "result.json", tmp_path / "status.txt"
    assert exe.redirected("run", "--json", to=result).code == 0
    assert json.loads(result.read_bytes())["sent"] == 5
    assert exe.redirected("status", to=report).code == 0
    assert "sent" in report.read_text(encoding="utf-8")


def test_env_beside_the_exe_serves_any_folder(
    installed: Program, local: Staging, receiver: Receiver, tmp_path: Path
) -> None:
    """A task without "Start in" runs in a system folder: settings and log lie beside the exe all the same."""
    add_five(local)
    write_env(installed.path.parent, local, receiver, LOG_FILE="logs/run.log")
    elsewhere = tmp_path / "System32"
    elsewhere.mkdir()
    ended = installed("run", cwd=elsewhere)
    assert ended.code == 0, ended.text
    assert len(receiver.children) == 5
    assert not list(elsewhere.iterdir())
    log = (installed.path.parent / "logs" / "run.log").read_text(encoding="utf-8")
    assert "5" in log


def test_folder_with_a_foreign_name_will_do(
    installed: Program, local: Staging, receiver: Receiver, tmp_path: Path
) -> None:
    """The name of a user's folder is theirs to choose; what is said about it is UTF-8 in a pipe."""
    folder = installed.path.parent.rename(tmp_path / f"{POLISH} & sons")
    moved = Program(folder / installed.path.name)
    assert POLISH in moved("status", cwd=tmp_path).text  # where it looked for the settings
    write_env(folder, local, receiver)
    assert moved("status", "--json", cwd=tmp_path).code == 0


def test_missing_settings_end_with_2(installed: Program, tmp_path: Path) -> None:
    """Without a .env every place that was looked at is named, and nothing looks like a crash."""
    ended = installed("run", cwd=tmp_path)
    assert ended.code == 2
    assert "DB_CONNECTION_STRING" in ended.text
    assert inside(tmp_path / ".env") in ended.text
    assert inside(installed.path.with_name(".env")) in ended.text
    assert "Traceback" not in ended.text


# --- Diagnostics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", DIAGNOSTICS, ids=" ".join)
def test_every_diagnostic_passes_on_a_working_set_up(
    exe: Program, remembering: Staging, receiver: Receiver, tmp_path: Path, argv: list[str]
) -> None:
    """Each of them ends with 0 and gives a machine a result, on each kind of database."""
    add_five(remembering)
    write_env(tmp_path, remembering, receiver)
    ended = exe(*argv, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.text
    assert ended.result


def test_practice_set_up_needs_nothing_but_the_exe(exe: Program, receiver: Receiver, tmp_path: Path) -> None:
    """Tables, fake children, a run, the report and the task: all before asking for access to anything."""
    values = {
        **receiver.settings(),
        "DB_CONNECTION_STRING": "sqlite:///practice.sqlite",
        "TESTING_MODE": "false",
    }
    text = "\n".join(f"{key}={value}" for key, value in values.items())
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    for argv in (["init-db"], ["init-db", "--print"], ["fake-data", "--rows", "20"], ["run"]):
        ended = exe(*argv, cwd=tmp_path)
        assert ended.code == 0, (argv, ended.text)
    assert len(receiver.children) == 20
    for argv in (["prune-log", "--before", "2024-01-01"], ["report"], ["schedule", "--output", "task.xml"]):
        ended = exe(*argv, cwd=tmp_path)
        assert ended.code == 0, (argv, ended.text)
    assert exe.path.name in (tmp_path / "task.xml").read_text(encoding="utf-16")


def test_payloads_are_built_from_fake_source_tables(exe: Program, receiver: Receiver, tmp_path: Path) -> None:
    """The other road: source tables, a refresh of the staging table, and the same submission."""
    values = {
        **receiver.settings(),
        "DB_CONNECTION_STRING": "sqlite:///practice.sqlite",
        "TESTING_MODE": "false",
    }
    text = "\n".join(f"{key}={value}" for key, value in values.items())
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    for argv in (
        ["init-db"],
        ["init-db", "--ssd"],
        ["fake-data", "--ssd", "--rows", "20"],
        ["validate", "--source"],
        ["run", "--stage"],
    ):
        ended = exe(*argv, cwd=tmp_path)
        assert ended.code == 0, (argv, ended.text)
    assert receiver.children


def test_many_people_are_built_in_a_second_process(exe: Program, tmp_path: Path) -> None:
    """The exe starts itself once more, and what comes back is the cohort; the log would say if it failed."""
    text = "DB_CONNECTION_STRING=sqlite:///practice.sqlite\nTESTING_MODE=true\nLOG_FILE=stage.log\n"
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    for argv in (
        ["init-db"],
        ["init-db", "--ssd"],
        ["fake-data", "--ssd", "--rows", str(PEOPLE_PER_PAGE + 50)],
    ):
        ended = exe(*argv, cwd=tmp_path)
        assert ended.code == 0, (argv, ended.text)
    staged = exe("stage", "--json", cwd=tmp_path)
    assert staged.result["new"] == staged.result["cohort"] > PEOPLE_PER_PAGE // 2
    assert "second process" not in (tmp_path / "stage.log").read_text(encoding="utf-8")


# --- When something is wrong ------------------------------------------------------------------------------


def test_refusals_have_their_codes(exe: Program, local: Staging, receiver: Receiver, tmp_path: Path) -> None:
    """A missing database is 3 and a closed port 4, which is what the scheduled task's history shows."""
    add_five(local)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}/token"
    for changes, code in (
        ({"DB_CONNECTION_STRING": "sqlite:///nowhere.sqlite"}, 3),
        ({"TOKEN_ENDPOINT": closed}, 4),
    ):
        write_env(tmp_path, local, receiver, **changes)
        ended = exe("run", "--json", cwd=tmp_path)
        assert (ended.code, ended.result["exit_code"]) == (code, code)
        assert "Traceback" not in ended.text
    assert not receiver.children


def test_two_runs_do_not_meet(
    exe: Program, postgresql_database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    """The lock of a run that is at work, here one of another program, holds the exe off with 5."""
    staging = Staging(postgresql_database).create()
    add_five(staging)
    write_env(tmp_path, staging, receiver)
    with db.connect(postgresql_database.connection_string) as other:
        table = require(other, TableName.parse(staging.table))
        with RunLock(other, table.full_name):
            assert exe("run", cwd=tmp_path).code == 5
    assert not receiver.requests


def test_certificates_are_checked(exe: Program, local: Staging, receiver: Receiver, tmp_path: Path) -> None:
    """TLS works in the frozen program: a stranger's certificate is refused until CA_BUNDLE vouches for it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server_side = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(server_side)
    # With its root, as inspecting proxies send it; without it, wine takes a stranger's certificate for good.
    authority.cert_pem.write_to_path(server_side, append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_side)
    verdicts = []
    with ScriptedServer(context) as server:
        for changes in ({}, {"CA_BUNDLE": "ca.pem"}):
            address = server.url(TOKEN_PATH, "localhost")
            write_env(tmp_path, local, receiver, TOKEN_ENDPOINT=address, **changes)
            verdicts.append(exe("test-endpoint", cwd=tmp_path))
        assert verdicts[0].code == 4
        assert "certificate" in verdicts[0].text
        if os.name == "nt" or not _is_windows():  # wine cannot check against a bundle
            assert len(server.seen(TOKEN_PATH)) == 1


@pytest.mark.skipif(not _is_windows(), reason="the keyring is frozen into Windows programs only")
def test_keyring_is_asked_where_a_secret_refers_to_it(
    exe: Program, local: Staging, receiver: Receiver, tmp_path: Path
) -> None:
    """The Credential Manager's library is frozen in: an entry that is not there is a fault of settings."""
    write_env(tmp_path, local, receiver, CLIENT_SECRET="keyring:no-such-service/nobody")
    ended = exe("run", cwd=tmp_path)
    assert ended.code == 2
    assert "CLIENT_SECRET names an entry that the keyring does not have" in " ".join(ended.text.split())

"""``schedule`` gives Windows a task that it can import and that starts the run as it was asked to."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import entry_point, schedule
from api_pipeline.config import Settings
from api_pipeline.errors import ConfigError
from api_pipeline.schedule import NAMESPACE, NightlyTask

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "nightly_task.xml"
SCHEMA = xmlschema.XMLSchema(str(HERE / "task_schema.xsd"))
# A place with everything that is a sign of XML or of a shell, or beyond ASCII.
ODD = "C:\\Gofal & Plant\\Si\xe2n O'Brien's -- 100%\\\u0141\xf3d\u017a \u0639"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``schedule`` in this process; returns code, output and errors."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = entry_point.main(["schedule", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def plan(flags: list[str] | None = None, *, managed: bool = False, **values: str) -> NightlyTask:
    """Plan a task as the executable in its folder would."""
    program = schedule.default_program("C:\\csc-api\\csc_api_pipeline.exe", frozen=True)
    return schedule.plan(values, program=program, folder="C:\\csc-api", flags=flags or [], managed=managed)


def xml(content: bytes | str) -> ET.Element:
    """Return the root of a document."""
    return ET.fromstring(content)  # noqa: S314 -- our own


def parsed(content: bytes) -> dict[str, str | None]:
    """Parse a file as the scheduler does; returns the text of every element without children."""
    root = xml(content)
    assert root.tag == f"{{{NAMESPACE}}}Task"
    return {
        element.tag.removeprefix(f"{{{NAMESPACE}}}"): element.text
        for element in root.iter()
        if not len(element)
    }


# --- the file --------------------------------------------------------------------------------------------


def test_nightly_task_is_the_one_that_was_looked_at() -> None:
    """Without any flag the executable in its folder gives these bytes, today and on any other day."""
    assert plan().file() == GOLDEN.read_bytes()


def test_file_is_utf_16_with_a_byte_order_mark(call: Call) -> None:
    """The file begins FF FE, says UTF-16, has Windows' line ends, and parses back."""
    assert call("--program", "C:\\csc-api\\csc_api_pipeline.exe", "--output", "night.xml")[0] == 0
    content = Path("night.xml").read_bytes()
    assert content[:2] == b"\xff\xfe"
    text = content.decode("utf-16")
    assert text.startswith('<?xml version="1.0" encoding="UTF-16"?>\r\n<Task version="1.2"')
    assert text.count("\n") == text.count("\r\n") > 40
    assert parsed(content)["Command"] == "C:\\csc-api\\csc_api_pipeline.exe"
    assert content == GOLDEN.read_bytes()


def test_task_says_what_a_night_needs() -> None:
    """Tried again by repetition, never twice at once, made up for, and ended after the run ends itself."""
    task = parsed(plan().file())
    assert (task["StartBoundary"], task["RandomDelay"]) == ("2024-01-01T02:00:00", "PT30M")
    assert (task["Interval"], task["Duration"], task["StopAtDurationEnd"]) == ("PT1H", "PT4H", "false")
    assert task["MultipleInstancesPolicy"] == "IgnoreNew"
    assert (task["StartWhenAvailable"], task["RunOnlyIfNetworkAvailable"]) == ("true", "true")
    assert (task["LogonType"], task["RunLevel"]) == ("Password", "LeastPrivilege")
    assert task["ExecutionTimeLimit"] == "PT8H"
    assert Settings().run_deadline_minutes < 8 * 60
    assert (task["Arguments"], task["WorkingDirectory"]) == ("run", "C:\\csc-api")
    assert "RestartOnFailure" not in task


TASKS: dict[str, Any] = {
    "plain": {},
    "all flags": {
        "time": "23:59",
        "random_delay": "90",
        "repeat_every": "15",
        "repeat_for": "24",
        "time_limit": "72",
        "program": f"{ODD}\\csc_api_pipeline.exe",
        "arguments": 'run --stage --env-file "C:\\a b\\<.env>" --table [a&b]',
        "working_directory": ODD,
        "user": "CYNGOR\\csc & co",
        "task_name": "Gofal\\csc & nos",
    },
    "once a day, on the hour, no arguments": {"random_delay": "0", "repeat_for": "0", "arguments": ""},
    "managed account": {"user": "COUNCIL\\csc-api$", "managed": True},
}


@pytest.mark.parametrize("case", TASKS)
def test_file_is_valid(case: str) -> None:
    """Whatever the flags, elements and values are those that the scheduler knows, in its order."""
    content = plan(**TASKS[case]).file()
    SCHEMA.validate(xml(content))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<Command>C:\\csc-api\\csc_api_pipeline.exe</Command>", ""),
        ("<Arguments>run</Arguments>", "<Arguments/>"),
        ("PT1H", "1 hour"),
        ("IgnoreNew", "Ignore"),
        ('id="Author"', 'id="Other"'),
        ("<RandomDelay>PT30M</RandomDelay>", "<RandomDelay/>"),
    ],
)
def test_a_faulty_file_would_be_found(old: str, new: str) -> None:
    """The schema that the files are held against is strict enough to mean something."""
    text = plan().xml()
    assert old in text
    assert not SCHEMA.is_valid(xml(text.replace(old, new)))


def test_order_of_elements_is_checked() -> None:
    """A file with the elements of Exec, or of the trigger, in another order would be found."""
    for tag, path in (("WorkingDirectory", "Actions/Exec"), ("ScheduleByDay", "Triggers/CalendarTrigger")):
        root = xml(plan().xml())
        parent = root.find("/".join(f"{{{NAMESPACE}}}{step}" for step in path.split("/")))
        assert parent is not None
        child = parent[-1]
        assert child.tag.endswith(tag)
        parent.remove(child)
        parent.insert(0, child)
        assert not SCHEMA.is_valid(root)


def test_any_path_and_argument_survives() -> None:
    """Welsh, Polish, Urdu, ampersands, apostrophes and quotes come back from the file as they went in."""
    task = plan(
        ["--log-file", f"{ODD}\\log file.txt"],
        program=f"{ODD}\\csc_api_pipeline.exe",
        arguments='run --table "a & <b>"',
    )
    found = parsed(task.file())
    assert found["Command"] == f"{ODD}\\csc_api_pipeline.exe"
    assert found["WorkingDirectory"] == ODD
    assert found["Arguments"] == f'run --table "a & <b>" --log-file "{ODD}\\log file.txt"'


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")))
def test_every_text_is_escaped(text: str) -> None:
    """There is no argument that breaks the document or changes on its way through it."""
    found = parsed(plan(arguments=text).file())
    assert (found.get("Arguments") or "") == text.strip()


# --- what is started -------------------------------------------------------------------------------------


def test_python_starts_the_package() -> None:
    """Without a frozen executable the task starts this Python with the package, where it was asked for."""
    program = schedule.default_program("C:\\venv\\Scripts\\python.exe", frozen=False)
    task = schedule.plan({}, program=program, folder="D:\\data")
    assert (task.program, task.arguments) == ("C:\\venv\\Scripts\\python.exe", "-m api_pipeline run")
    assert task.working_directory == "D:\\data"


def test_common_flags_go_into_the_arguments(call: Call) -> None:
    """--env-file, --table, --log-file and --log-level are for the run; none of the files has to be there."""
    code, out, _ = call(
        "--json",
        *("--env-file", "C:\\a b\\.env", "--log-file", "night.log"),
        *("--table", "dbo.staging", "--log-level", "DEBUG"),
        *("--program", "C:\\x\\csc_api_pipeline.exe", "--arguments", "run --stage"),
    )
    assert code == 0
    assert parsed(json.loads(out)["xml"].encode("utf-16"))["Arguments"] == (
        'run --stage --env-file "C:\\a b\\.env" --log-file night.log --log-level DEBUG --table dbo.staging'
    )


def test_paths_are_given_as_the_scheduler_takes_them() -> None:
    """No quotes and no trailing backslash, except after a drive; variables stay for the scheduler."""
    assert plan(working_directory='"C:\\a b\\"').working_directory == "C:\\a b"
    assert plan(working_directory="C:\\").working_directory == "C:\\"
    assert plan(working_directory="\\\\server\\share\\x").working_directory == "\\\\server\\share\\x"
    assert plan(program="%ProgramFiles%\\csc\\x.exe").working_directory == "%ProgramFiles%\\csc"


# --- what is said ----------------------------------------------------------------------------------------


def test_without_output_the_task_is_printed(call: Call) -> None:
    """The XML and the lines that import it, for an account with a password and for a managed one."""
    code, out, err = call()
    assert (code, err) == (0, "")
    assert out.count("<Task ") == 1
    parsed(out.partition("\n\n")[0].encode("utf-16"))
    start = 'schtasks /create /tn "csc-api-pipeline" /xml "csc-api-pipeline.xml"'
    assert [line.strip() for line in out.splitlines() if "schtasks" in line] == [
        f"{start} /ru * /rp *",
        f'{start} /ru "DOMAIN\\NAME" /rp *',
        f'{start} /ru "DOMAIN\\NAME$" /rp ""',
    ]
    assert list(Path().iterdir()) == []


def test_with_output_the_lines_name_file_task_and_account(call: Call) -> None:
    """One line is left, for the account that the task names; the same goes for --json."""
    file = str(Path("a.xml").absolute()) if os.name == "nt" else "a.xml"
    code, out, _ = call("--output", "a.xml", "--task-name", "Nights\\csc", "--user", "COUNCIL\\csc")
    assert code == 0
    assert "<Task " not in out
    assert [line.strip() for line in out.splitlines() if "schtasks" in line] == [
        f'schtasks /create /tn "Nights\\csc" /xml "{file}" /ru "COUNCIL\\csc" /rp *'
    ]
    _, out, _ = call("--json", "--gmsa", "--user", "COUNCIL\\csc$", "--output", "a.xml")
    result = json.loads(out)
    assert result["import"] == [
        f'schtasks /create /tn "csc-api-pipeline" /xml "{file}" /ru "COUNCIL\\csc$" /rp ""'
    ]
    assert Path(result["output"]) == Path("a.xml").absolute()
    assert parsed(Path("a.xml").read_bytes())["UserId"] == "COUNCIL\\csc$"


def test_no_settings_are_read(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a broken .env nor a missing database keeps anybody from making a task."""
    Path(".env").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("BATCH_SIZE", "many")
    assert call("--env-file", "nowhere.env")[0] == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--time", "24:00"], "--time"),
        (["--time", "2"], "--time"),
        (["--time", "\u0662\u0663:00"], "--time"),
        (["--random-delay", "-5"], "--random-delay"),
        (["--random-delay", "721"], "--random-delay"),
        (["--repeat-every", "0"], "--repeat-every"),
        (["--repeat-every", "1.5"], "--repeat-every"),
        (["--repeat-every", "90", "--repeat-for", "1"], "--repeat-for"),
        (["--repeat-for", "25"], "--repeat-for"),
        (["--repeat-for", "many"], "--repeat-for"),
        (["--time-limit", "0"], "--time-limit"),
        (["--time-limit", "4"], "RUN_DEADLINE_MINUTES"),
        (["--program", "csc_api_pipeline.exe"], "--program"),
        (["--program", ""], "--program"),
        (["--program", "C:\\" + "x" * 260], "--program"),
        (["--working-directory", "csc"], "--working-directory"),
        (["--working-directory", ""], "--working-directory"),
        (["--working-directory", 'C:\\a"b'], "--working-directory"),
        (["--arguments", "run\n--stage"], "--arguments"),
        (["--log-file", "a\x07b"], "--log-file"),
        (["--user", ""], "--user"),
        (["--user", 'A"B'], "--user"),
        (["--gmsa"], "--gmsa"),
        (["--gmsa", "--user", "COUNCIL\\csc"], "--gmsa"),
        (["--task-name", ""], "--task-name"),
        (["--task-name", 'a"b'], "--task-name"),
        (["--task-name", "a\\\\b"], "--task-name"),
        (["--output", "."], "folder"),
        (["--output", "no/such/folder.xml"], "folder"),
    ],
)
def test_bad_values_end_with_2_and_one_line(call: Call, argv: list[str], said: str) -> None:
    """The line names the flag and says what is right; nothing is written."""
    code, out, err = call(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(Path().iterdir()) == []


def test_only_a_task_is_overwritten(call: Call) -> None:
    """An older task makes room for the new one; any other file is kept and named."""
    for _ in range(2):
        assert call("--output", "task.xml")[0] == 0
    other = Path("notes.xml")
    other.write_text("<Notes/>", encoding="utf-8")
    code, _, err = call("--output", "notes.xml")
    assert code == 2
    assert "notes.xml" in err
    assert other.read_text(encoding="utf-8") == "<Notes/>"
    assert sorted(path.name for path in Path().iterdir()) == ["notes.xml", "task.xml"]


def test_faults_name_their_flag() -> None:
    """The pure part refuses as well, for whoever calls it without the command line."""
    with pytest.raises(ConfigError, match="--time"):
        plan(time="noon")

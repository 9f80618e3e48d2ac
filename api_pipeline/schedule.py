"""``schedule``: the nightly run as a task for Windows Task Scheduler (interface, "Commands").

Nothing is read here, no setting and no clock: what the task says comes from the arguments alone, so the same
arguments give the same bytes. The XML is that of schema 1.2 (Windows Server 2008 and later), which
``schtasks /create /xml`` takes as UTF-16 with a byte order mark and in no UTF-8.

A run that failed is tried again by the trigger's repetition. ``RestartOnFailure`` would not do it: the
scheduler looks at whether the program could be started there, and not at its exit code.
"""

from __future__ import annotations

import codecs
import re
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from api_pipeline.config import Settings
from api_pipeline.errors import ConfigError, ExitCode

NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
TASK_NAME = "csc-api-pipeline"

_DESCRIPTION = "Sends what is due of the children's social care records to the Department for Education."
# Any day that has been will do, and the same one every time gives the same file.
_FIRST_DAY = "2024-01-01"
_LONGEST_PATH = 260  # the schema's pathType
_LONGEST_NAME = 230  # a file name on the scheduler's own disk
_DEADLINE_MINUTES = Settings().run_deadline_minutes  # what RUN_DEADLINE_MINUTES is unless it is set


@dataclass(frozen=True)
class NightlyTask:
    """What the scheduler is told; made by :func:`plan`, which checks it."""

    name: str
    program: str
    arguments: str
    working_directory: str
    time: str  # HH:MM, by the clock on the wall
    random_delay: int  # minutes
    repeat_every: int  # minutes
    repeat_for: int  # hours; 0 for no repetition
    time_limit: int  # hours
    user: str | None
    managed: bool  # a group managed service account, whose password Windows keeps

    def xml(self) -> str:
        """Return the task as the text of an XML document."""
        task = ET.Element("Task", {"version": "1.2", "xmlns": NAMESPACE})
        _add(task, "RegistrationInfo", Author="csc-api-pipeline", Description=_DESCRIPTION)
        self._add_trigger(ET.SubElement(task, "Triggers"))
        principal = ET.SubElement(ET.SubElement(task, "Principals"), "Principal", id="Author")
        if self.user:
            ET.SubElement(principal, "UserId").text = self.user
        ET.SubElement(principal, "LogonType").text = "Password"
        ET.SubElement(principal, "RunLevel").text = "LeastPrivilege"
        _add(
            task,
            "Settings",
            MultipleInstancesPolicy="IgnoreNew",
            DisallowStartIfOnBatteries="false",
            StopIfGoingOnBatteries="false",
            AllowHardTerminate="true",
            StartWhenAvailable="true",
            RunOnlyIfNetworkAvailable="true",
            AllowStartOnDemand="true",
            Enabled="true",
            Hidden="false",
            RunOnlyIfIdle="false",
            WakeToRun="false",
            ExecutionTimeLimit=_duration(self.time_limit * 60),
            Priority="7",
        )
        actions = ET.SubElement(task, "Actions", Context="Author")
        arguments = {"Arguments": self.arguments} if self.arguments else {}
        _add(actions, "Exec", Command=self.program, **arguments, WorkingDirectory=self.working_directory)
        ET.indent(task)
        return '<?xml version="1.0" encoding="UTF-16"?>\n' + ET.tostring(task, encoding="unicode") + "\n"

    def _add_trigger(self, triggers: ET.Element) -> None:
        trigger = _add(
            triggers, "CalendarTrigger", Enabled="true", StartBoundary=f"{_FIRST_DAY}T{self.time}:00"
        )
        if self.repeat_for:
            # Without StopAtDurationEnd a run that is at work when the window ends may finish.
            _add(
                trigger,
                "Repetition",
                Interval=_duration(self.repeat_every),
                Duration=_duration(self.repeat_for * 60),
                StopAtDurationEnd="false",
            )
        if self.random_delay:
            ET.SubElement(trigger, "RandomDelay").text = _duration(self.random_delay)
        _add(trigger, "ScheduleByDay", DaysInterval="1")

    def file(self) -> bytes:
        """Return the document as the file that the scheduler imports."""
        return codecs.BOM_UTF16_LE + self.xml().replace("\n", "\r\n").encode("utf-16-le")

    def imports(self, file: str) -> tuple[str, ...]:
        """Return the line that imports ``file``.

        Where the task names no account these are three: one that asks for it, and one to be completed for
        an account with a password and for a group managed one.
        """
        start = f'schtasks /create /tn "{self.name}" /xml "{file}"'
        if self.user:
            password = '""' if self.managed else "*"
            return (f'{start} /ru "{self.user}" /rp {password}',)
        named = f'{start} /ru "DOMAIN\\NAME'
        return f"{start} /ru * /rp *", f'{named}" /rp *', f'{named}$" /rp ""'


_OTHER_ACCOUNTS = (
    "Where Windows does not ask for the account, name it; --user writes it into the task as well:",
    "A group managed service account has no password to type:",
)


@dataclass(frozen=True)
class Schedule:
    """What the command tells: the task, where it was written, and how it is imported.

    Attributes:
        file: what the import calls the file.
        path: where the file was written; None where it was not.
        elsewhere: made on a machine that is no Windows.
    """

    task: NightlyTask
    file: str
    path: str | None
    elsewhere: bool

    @property
    def exit_code(self) -> ExitCode:
        """0: what could not be written has ended the command before."""
        return ExitCode.OK

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": "schedule",
            "exit_code": int(self.exit_code),
            "task_name": self.task.name,
            "output": self.path,
            "xml": self.task.xml(),
            "import": list(self.task.imports(self.file)),
            "notes": self._notes(),
        }

    def as_text(self) -> str:
        """Return the XML unless it was written to a file, and the lines that import it."""
        first, *others = self.task.imports(self.file)
        lines = [f"Wrote the task to {self.path}."] if self.path else [self.task.xml()]
        asks = "" if self.task.managed else " It asks for the account's password."
        lines += [f"Import it in a Command Prompt that was opened as administrator.{asks}", f"  {first}"]
        for how, other in zip(_OTHER_ACCOUNTS, others, strict=False):
            lines += [how, f"  {other}"]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        notes = []
        if not self.path:
            notes.append("To import it, write it to a file with --output: UTF-16 with a byte order mark.")
        if any('/rp ""' in line for line in self.task.imports(self.file)):
            notes.append('PowerShell drops the empty password "", so use a Command Prompt there.')
        notes.append(
            f"The scheduler ends a run after {self.task.time_limit} hours; "
            "RUN_DEADLINE_MINUTES has to be less, so that the run ends by itself."
        )
        if self.elsewhere:
            notes.append(
                "This machine is no Windows: --program and --working-directory have to name the places "
                "on the machine that runs the task."
            )
        return notes


def default_program(executable: str, *, frozen: bool) -> tuple[str, tuple[str, ...]]:
    """Return what starts this tool again: the executable itself, or Python with the package."""
    return (executable, ()) if frozen else (executable, ("-m", "api_pipeline"))


def plan(
    values: Mapping[str, str | None],
    *,
    program: tuple[str, Sequence[str]],
    folder: str,
    flags: Sequence[str] = (),
    managed: bool = False,
) -> NightlyTask:
    """Check what the command line asks for and return the task.

    Args:
        values: the flags by their names without dashes, as texts; None where a flag was not given.
        program: what is started unless ``--program`` says otherwise, and what comes before its arguments.
        folder: where it is started unless ``--working-directory`` or ``--program`` says otherwise.
        flags: further arguments of the run, not quoted yet.
        managed: ``--gmsa``.

    Raises:
        ConfigError: naming the flag, what is wrong and what is right.
    """
    own, prefix = program
    given, where = values.get("program"), values.get("working_directory")
    if where is None:
        where = folder if given is None else str(PureWindowsPath(given.strip('" ')).parent)
    arguments = _text("--arguments", values.get("arguments"), "run").strip()
    words = [subprocess.list2cmdline(prefix) if given is None else "", arguments]
    words.append(subprocess.list2cmdline(flags))
    repeat_for = _number("--repeat-for", values.get("repeat_for"), 4, 0, 24, "hours")
    repeat_every = _number("--repeat-every", values.get("repeat_every"), 60, 1, 1440, "minutes")
    if 0 < repeat_for * 60 < repeat_every:
        raise _wrong("--repeat-every", f"is longer than --repeat-for ({repeat_for} hours)", "Shorten it.")
    time_limit = _number("--time-limit", values.get("time_limit"), 8, 1, 72, "hours")
    if time_limit * 60 <= _DEADLINE_MINUTES:
        raise _wrong(
            "--time-limit",
            f"is not longer than RUN_DEADLINE_MINUTES ({_DEADLINE_MINUTES:.0f} unless set)",
            "The scheduler would end a run in the middle: give it more hours.",
        )
    user = _user(values.get("user"), managed=managed)
    return NightlyTask(
        name=_name(values.get("task_name")),
        program=_path("--program", own if given is None else given),
        arguments=_text("--log-file or --env-file", " ".join(filter(None, words)), ""),
        working_directory=_path("--working-directory", where),
        time=_time(values.get("time")),
        random_delay=_number("--random-delay", values.get("random_delay"), 30, 0, 720, "minutes"),
        repeat_every=repeat_every,
        repeat_for=repeat_for,
        time_limit=time_limit,
        user=user,
        managed=user is not None and user.endswith("$"),
    )


def is_task(head: bytes) -> bool:
    """Whether a file that begins so is a task for the scheduler."""
    return head.startswith(codecs.BOM_UTF16_LE) and "<Task" in head[2:].decode("utf-16-le", "ignore")


# --- what is right ---------------------------------------------------------------------------------------


def _time(text: str | None) -> str:
    text = "02:00" if text is None else text.strip()
    if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text, re.ASCII) is None:
        raise _wrong("--time", "is not a time of day", "Write HH:MM, from 00:00 to 23:59.")
    return text


def _number(flag: str, text: str | None, default: int, least: int, most: int, unit: str) -> int:
    if text is None:
        return default
    if re.fullmatch(r"\d{1,6}", text.strip(), re.ASCII) is None or not least <= int(text) <= most:
        raise _wrong(
            flag,
            f"is not a whole number of {unit} from {least} to {most}",
            f"Without the flag it is {default}.",
        )
    return int(text)


def _text(flag: str, text: str | None, default: str) -> str:
    """Return a text that XML can hold."""
    text = default if text is None else text
    if any(unicodedata.category(sign) in ("Cc", "Cs") or sign in "\ufffe\uffff" for sign in text):
        raise _wrong(flag, "has a line break or another control character in it", "Leave it out.")
    return text


def _path(flag: str, text: str) -> str:
    path = _text(flag, text, "").strip()
    if len(path) > 1 and path[0] == path[-1] == '"':
        path = path[1:-1]  # pasted with its quotes, which the scheduler would take for part of the name
    if re.search(r'["<>|?*]', path):
        raise _wrong(flag, "has a character that no Windows path can have", "Give the plain path.")
    absolute = PureWindowsPath(path).is_absolute() or PurePosixPath(path).is_absolute()
    if not absolute and not path.startswith("%"):  # the scheduler expands %ProgramFiles% and the like
        raise _wrong(flag, "is not a whole path", "Begin it with the drive, such as C:\\csc-api.")
    if len(path) > _LONGEST_PATH:
        raise _wrong(flag, f"is longer than {_LONGEST_PATH} characters", "The scheduler takes no more.")
    root = PureWindowsPath(path).anchor == path
    return path if root or len(path) == 1 else path.rstrip("\\/")


def _name(text: str | None) -> str:
    name = _text("--task-name", text, TASK_NAME).strip()
    parts = name.removeprefix("\\").split("\\")
    if len(name) > _LONGEST_NAME or not all(part.strip() for part in parts) or re.search(r'[/:*?"<>|]', name):
        raise _wrong(
            "--task-name", "is not the name of a task", 'Use none of / : * ? " < > |; \\ stands for a folder.'
        )
    return name


def _user(text: str | None, *, managed: bool) -> str | None:
    user = None if text is None else _text("--user", text, "").strip()
    if user == "" or re.search(r'[/:*?"<>|]', user or ""):
        raise _wrong("--user", "is not the name of an account", "Write DOMAIN\\NAME.")
    if managed and not (user or "").endswith("$"):
        raise _wrong(
            "--gmsa", "needs the group managed service account", "Name it with --user DOMAIN\\NAME$."
        )
    return user


def _wrong(flag: str, fault: str, remedy: str) -> ConfigError:
    return ConfigError(f"{flag} {fault}.", hop="arguments", remedy=remedy)


def _duration(minutes: int) -> str:
    """Return a length of time as XML Schema writes it."""
    hours, rest = divmod(minutes, 60)
    return "PT" + (f"{hours}H" if hours else "") + (f"{rest}M" if rest else "")


def _add(parent: ET.Element, tag: str, **children: str) -> ET.Element:
    """Append an element with children of plain text, in the order given."""
    element = ET.SubElement(parent, tag)
    for name, text in children.items():
        ET.SubElement(element, name).text = text
    return element

"""Logs: readable, safe on every console, and without secrets or foreign texts."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import logs
from api_pipeline.errors import ConfigError, DatabaseError, ExitCode

MARK = "hunter2;x}"
LOG = logging.getLogger("api_pipeline.some_module")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    logs.shutdown_logging()
    logging.getLogger(logs.LOGGER_NAME).setLevel(logging.NOTSET)


def file_text(path: Path) -> str:
    """Return what the log file holds."""
    return path.read_text(encoding="utf-8")


def test_lines_of_the_file_carry_time_level_run_and_module(tmp_path: Path) -> None:
    """Each line has an ISO time with its offset from UTC, and the run's id once it is known."""
    path = tmp_path / "logs" / "run.log"
    logs.setup_logging(log_file=path, console=io.StringIO())
    LOG.info("before")
    logs.set_run_id("r1")
    LOG.warning("sent %d of %s", 3, "caf\u00e9")
    first, second = file_text(path).splitlines()
    stamp, rest = second.split(" ", 1)
    assert datetime.fromisoformat(stamp).utcoffset() is not None
    assert rest == "WARNING [r1] api_pipeline.some_module: sent 3 of caf\u00e9"
    assert first.endswith(" INFO api_pipeline.some_module: before")


def test_the_console_is_short_and_starts_at_info(tmp_path: Path) -> None:
    """Information is the message alone, warnings say so, and detail goes to the file only."""
    console = io.StringIO()
    path = tmp_path / "run.log"
    logs.setup_logging(level="DEBUG", log_file=path, console=console)
    LOG.debug("detail")
    LOG.info("done")
    LOG.warning("careful")
    assert console.getvalue() == "done\nWARNING: careful\n"
    assert "detail" in file_text(path)


def test_debug_without_a_file_goes_to_the_console() -> None:
    """Whoever asks for DEBUG sees it somewhere."""
    console = io.StringIO()
    logs.setup_logging(level="DEBUG", console=console)
    LOG.debug("detail")
    assert console.getvalue() == "DEBUG: detail\n"


def test_levels_hold_for_us_and_others_are_heard_from_warning_on() -> None:
    """LOG_LEVEL is the package's; a library's chatter is dropped, its warnings pass the same nets."""
    console = io.StringIO()
    logs.setup_logging(level="ERROR", console=console, secrets=[MARK])
    LOG.warning("quiet")
    logging.getLogger("urllib3").info("chatter")
    logging.getLogger("urllib3").warning("trouble with %s", MARK)
    assert console.getvalue() == "WARNING: trouble with ***\n"


def test_setting_up_again_replaces_the_handlers(tmp_path: Path) -> None:
    """A second set-up in the same process writes each line once, and the first file is closed."""
    console = io.StringIO()
    logs.setup_logging(log_file=tmp_path / "a.log", console=console)
    logs.setup_logging(log_file=tmp_path / "b.log", console=console)
    LOG.info("once")
    assert console.getvalue() == "once\n"
    assert file_text(tmp_path / "a.log") == ""


@pytest.mark.parametrize("name", ["folder", "file/under/a/file.log", "nul\0.log"])
def test_a_log_file_that_cannot_be_written_is_a_settings_error(tmp_path: Path, name: str) -> None:
    """It ends with code 2 and names the file, before anything runs."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        logs.setup_logging(log_file=tmp_path / name, console=io.StringIO())
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(tmp_path / name) in str(caught.value)


# --- redaction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        MARK,
        f"x={MARK}!",
        "client_secret=hunter2%3Bx%7D&scope=a",
        repr({"a": "it's " + MARK}),
    ],
)
def test_registered_secrets_never_appear(text: str, tmp_path: Path) -> None:
    """A secret is replaced wherever it stands in the finished line, in its encoded forms too."""
    console = io.StringIO()
    logs.setup_logging(log_file=tmp_path / "log", console=console, secrets=[MARK])
    LOG.error("failed: %s", text)
    for output in (console.getvalue(), file_text(tmp_path / "log")):
        assert "hunter2" not in output
        assert "***" in output


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("pass wo&rd", "client_id=a&key=pass+wo%26rd"),
        ("pass/wo rd", "https://host/pass/wo%20rd"),
        ("pass/wo rd", "https://host/pass%2Fwo%20rd"),
        ("pass\u00e9word", '{"key": "pass\\u00e9word"}'),
        ("pass\\word", "('pass\\\\word',)"),
    ],
)
def test_encoded_forms_of_a_secret_are_recognised(secret: str, text: str) -> None:
    """A secret in a form body, an address, JSON or a repr is hidden like the plain one."""
    assert "word" not in logs.Redactor([secret])(text)
    assert "***" in logs.Redactor([secret])(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.d-e_f~1+/=", "Authorization: Bearer ***"),
        ("bearer abc", "bearer ***"),
        ("Server=x;PWD={a;b}}c};UID=u", "Server=x;PWD=***;UID=u"),
        ("password = abc;Server=x", "password=***;Server=x"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_tokens_and_passwords_are_recognised_unregistered(text: str, expected: str) -> None:
    """Bearer tokens and ODBC passwords are hidden even if nobody registered them."""
    assert logs.Redactor()(text) == expected


def test_a_token_can_be_registered_later_and_short_secrets_spare_other_words() -> None:
    """New secrets count at once; a short one is replaced as a word, not inside others."""
    redactor = logs.Redactor(["sa"])
    assert redactor("sa said: salt") == "*** said: salt"
    redactor.add("token-1", "")
    assert redactor("<token-1>") == "<***>"


@given(
    secret=st.text("abc;{}%\\\"' \n\u00e9", min_size=1),
    before=st.text("xyz =("),
    after=st.text("xyz &)"),
)
def test_no_secret_survives(secret: str, before: str, after: str) -> None:
    """A registered secret is gone wherever it stands; one of less than four characters, as a word."""
    gap = "" if len(secret) >= 4 else " "
    text = logs.Redactor([secret])(f"{before}{gap}{secret}{gap}{after}")
    assert secret not in text if secret.strip() else True


# --- exceptions ----------------------------------------------------------------------------------------


def raise_chain() -> None:
    """Fail as a border does: a foreign error translated into ours."""
    try:
        raise ValueError("Joe Bloggs is not a date")
    except ValueError as err:
        raise DatabaseError("Row 7 cannot be read.", remedy="Look at it.") from err


def caught_chain() -> DatabaseError:
    """Return the translated error with its cause and frames."""
    try:
        raise_chain()
    except DatabaseError as err:
        return err
    raise AssertionError


def test_frames_and_types_of_the_whole_chain_are_logged_without_foreign_texts(tmp_path: Path) -> None:
    """Ours is shown in full, the foreign one by its type; both with file, line and function."""
    console = io.StringIO()
    logs.setup_logging(log_file=tmp_path / "log", console=console)
    try:
        raise_chain()
    except DatabaseError:
        LOG.exception("reading failed")
    text = file_text(tmp_path / "log")
    assert "Joe" not in text
    assert "\nValueError\n" in text
    assert text.index("ValueError") < text.index("which caused:") < text.index("DatabaseError: Row 7 cannot")
    assert "Row 7 cannot be read. Look at it." in text
    assert re.search(r'File ".*test_logs\.py", line \d+, in raise_chain', text)
    assert "in test_frames_and_types" in text
    assert console.getvalue() == (
        "ERROR: reading failed (DatabaseError: Row 7 cannot be read. Look at it.)\n"
    )


def test_an_earlier_handlers_traceback_is_not_taken_over(tmp_path: Path) -> None:
    """The standard formatter caches its traceback in the record; ours does not print that cache."""
    logs.setup_logging(log_file=tmp_path / "log", console=io.StringIO())
    error = caught_chain()
    record = LOG.makeRecord(LOG.name, logging.ERROR, "f", 1, "m", (), (type(error), error, None))
    record.exc_text = "ValueError: Joe Bloggs is not a date"
    logging.getLogger().handle(record)
    assert "Joe" not in file_text(tmp_path / "log")
    assert "ValueError" in file_text(tmp_path / "log")


@pytest.mark.parametrize("chained", ["cause", "context", "suppressed"])
def test_each_kind_of_chain_is_followed_as_python_does(chained: str) -> None:
    """Causes and contexts are shown, suppressed contexts are not, and a ring of causes ends."""
    first, second = KeyError("Joe"), OSError(28, "Joe")
    if chained == "cause":
        second.__cause__ = first
        first.__cause__ = second
    else:
        second.__context__ = first
        second.__suppress_context__ = chained == "suppressed"
    text = logs.format_exception(second)
    assert "Joe" not in text
    assert text.endswith("OSError (errno 28)")
    assert ("KeyError" in text) is (chained != "suppressed")


def test_an_exception_as_message_or_argument_is_described_not_quoted() -> None:
    """log.warning("failed: %s", error) is a common slip; it must not print the data in the error."""
    console = io.StringIO()
    logs.setup_logging(console=console)
    LOG.warning("failed: %s", ValueError("Joe"))
    LOG.warning(ValueError("Joe"))
    LOG.warning("ours: %s", caught_chain())
    assert console.getvalue().splitlines() == [
        "WARNING: failed: ValueError",
        "WARNING: ValueError",
        "WARNING: ours: DatabaseError: Row 7 cannot be read. Look at it.",
    ]


def test_a_message_cannot_forge_a_line_or_steer_the_terminal() -> None:
    """Line breaks are indented and control characters are written out."""
    console = io.StringIO()
    logs.setup_logging(console=console)
    LOG.info("reply: %s", "a\nERROR: forged\x1b[2J\r")
    assert console.getvalue() == "reply: a\n    ERROR: forged\\x1b[2J\\x0d\n"


def test_a_line_that_cannot_be_formatted_is_not_printed_by_the_handler(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The standard handler would show the arguments on standard error; ours says so once, without them."""
    handler = logs._ConsoleHandler(io.StringIO())
    handler.setFormatter(logs.SafeFormatter("%(message)s"))
    record = LOG.makeRecord(LOG.name, logging.ERROR, "f", 1, "%d children", ("Joe",), None)
    handler.handle(record)
    handler.handle(record)
    assert capsys.readouterr().err == "A log line could not be written: TypeError\n"


# --- rotation and consoles -----------------------------------------------------------------------------


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotate after 200 bytes instead of 5 MB."""
    monkeypatch.setattr(logs, "MAX_BYTES", 200)


@pytest.mark.usefixtures("small_files")
def test_the_log_rotates(tmp_path: Path) -> None:
    """Five older files are kept, and the newest line is in the newest one."""
    path = tmp_path / "run.log"
    logs.setup_logging(log_file=path, console=io.StringIO())
    for number in range(40):
        LOG.info("line %d", number)
    assert len(list(tmp_path.iterdir())) == 6
    assert "line 39" in file_text(path)


@pytest.mark.usefixtures("small_files")
def test_a_rotation_that_fails_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the file, it goes on growing; once it can be renamed, it rotates."""
    path = tmp_path / "run.log"
    (tmp_path / "run.log.1").write_text("older", encoding="utf-8")
    logs.setup_logging(log_file=path, console=io.StringIO())
    attempts = []

    def locked(_handler: RotatingFileHandler, source: str, dest: str) -> None:
        attempts.append(dest)
        raise PermissionError(13, "in use", source, dest)

    with monkeypatch.context() as patch:
        patch.setattr(RotatingFileHandler, "rotate", locked)
        for number in range(10):
            LOG.info("line %d", number)
    assert [line.split()[-1] for line in file_text(path).splitlines()] == [str(n) for n in range(10)]
    assert len(attempts) < 4, "each attempt moves the older files on, until the oldest is lost"
    assert "older" in [file_text(old) for old in tmp_path.glob("run.log.*")]
    for number in range(10, 20):
        LOG.info("line %d", number)
    assert "line 9" in "".join(file_text(old) for old in tmp_path.glob("run.log.*"))
    assert "line 19" in file_text(path)


@pytest.mark.parametrize("code_page", ["cp1252", "cp850", "cp437", "ascii", "utf-8"])
def test_no_character_fails_on_a_windows_console(code_page: str) -> None:
    """What the code page lacks is written as an escape; the line arrives."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=code_page, newline="\n")
    logs.setup_logging(console=stream)
    LOG.info("start \u25b6 \u2014 caf\u00e9 \U0001f642 end")
    stream.write("\u25b6 \udcff\n")  # half a character, as undecodable file names have
    stream.flush()
    text = raw.getvalue().decode(code_page)
    assert text.startswith("start ")
    assert " end\n" in text
    assert text.endswith(" \\udcff\n")
    assert "caf\u00e9" in text or code_page == "ascii"


def test_streams_that_cannot_be_reconfigured_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No console at all, memory or a closed stream: nothing fails, and logging still works."""
    logs.make_console_safe(None)
    logs.make_console_safe(io.StringIO())
    closed = io.TextIOWrapper(io.BytesIO(), encoding="cp437")
    closed.close()
    logs.make_console_safe(closed)
    monkeypatch.setattr(sys, "stderr", None)
    logs.setup_logging()
    LOG.info("nobody listens")

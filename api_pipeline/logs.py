"""Log handlers: a readable console, a rotating file, and two nets below what callers log.

The first net is the formatter: of an exception that is not ours it writes the type and the frames, never the
text, because drivers and parsers like to quote the data they failed on. The second is the redaction of every
registered secret in the finished line. Callers still never log a secret, a token or a payload.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote, quote_plus

from api_pipeline.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:  # not subscriptable before Python 3.11
    _TextHandler = logging.StreamHandler

LOGGER_NAME = "api_pipeline"
MAX_BYTES = 5_000_000
BACKUPS = 5

_FILE_FORMAT = "%(asctime)s %(levelname)s %(run_id)s%(name)s: %(message)s"
_CONSOLE_FORMAT = "%(levelname)s: %(message)s"
_CONSOLE_INFO_FORMAT = "%(message)s"
_SHORT = 4  # shorter secrets are only replaced as whole words, or the log would be unreadable
_TOKEN = re.compile(r"\b(Bearer)\s+[A-Za-z0-9._~+/=-]+", re.IGNORECASE)
_PASSWORD = re.compile(r"\b(PWD|Password|client_secret)\s*=\s*(?:\{(?:[^}]|\}\})*\}|[^;&\s]*)", re.IGNORECASE)
# A reply or a name must not start a line of its own in the log, nor steer a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\n"): "\n    ",
    ord("\t"): "\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class Redactor:
    """Replaces registered secrets, bearer tokens and ODBC passwords in a text by ``***``."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Register secrets, in the forms they take in addresses, forms, JSON and reprs too."""
        with self._lock:
            for secret in filter(None, secrets):
                self._forms |= {secret, quote(secret, safe="", errors="replace")}
                self._forms |= {quote(secret, errors="replace"), quote_plus(secret, errors="replace")}
                self._forms |= {json.dumps(secret)[1:-1], repr(secret)[1:-1]}
            longest_first = sorted(self._forms, key=len, reverse=True)
            pieces = [
                re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
                for form in longest_first
            ]
            self._pattern = re.compile("|".join(pieces)) if pieces else None

    def clear(self) -> None:
        """Forget all registered secrets."""
        with self._lock:
            self._forms.clear()
            self._pattern = None

    def __call__(self, text: str) -> str:
        """Return ``text`` without the secrets."""
        if self._pattern is not None:
            text = self._pattern.sub("***", text)
        text = _TOKEN.sub(r"\1 ***", text)
        return _PASSWORD.sub(r"\1=***", text)


# The logging package is one per process, and so are the secrets that must not reach it.
redact = Redactor()


class _RunId(logging.Filter):
    """Gives each record the current run's id."""

    def __init__(self) -> None:
        super().__init__()
        self.run_id = ""

    def filter(self, record: logging.LogRecord) -> bool:
        record.run_id = f"[{self.run_id}] " if self.run_id else ""
        return True


_run = _RunId()
_handlers: list[logging.Handler] = []


def describe_exception(error: BaseException) -> str:
    """Return one line about an exception: our own text, or a foreign one's type and error number."""
    if isinstance(error, PipelineError):
        return f"{type(error).__name__}: {error}".translate(_CONTROLS)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    number = error.errno if isinstance(error, OSError) else None
    return name if number is None else f"{name} (errno {number})"


def format_exception(error: BaseException) -> str:
    """Return the whole chain of an exception, oldest first: types and frames, without foreign texts."""
    chain: list[tuple[str, BaseException]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    heading = ""
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        chain.append((heading, link))
        if link.__cause__ is not None:
            heading, link = "which caused:", link.__cause__
        elif link.__context__ is not None and not link.__suppress_context__:
            heading, link = "while handling it:", link.__context__
        else:
            link = None
    lines: list[str] = []
    for position, (_, item) in enumerate(reversed(chain)):
        if position:
            lines.append(chain[len(chain) - position][0])
        for frame, line in traceback.walk_tb(item.__traceback__):
            lines.append(f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}')
        lines.append(describe_exception(item))
    return "\n".join(lines)


class SafeFormatter(logging.Formatter):
    """Formats a record with ISO times, without texts of foreign exceptions, and redacted."""

    def __init__(self, fmt: str, *, info_fmt: str | None = None, frames: bool = True) -> None:
        super().__init__(fmt)
        self._info = None if info_fmt is None else logging.Formatter(info_fmt)
        self._frames = frames

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return local time with its offset from UTC, to the millisecond."""
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line, followed by the frames of the record's exception if there is one."""
        safe = logging.makeLogRecord(record.__dict__)  # a copy: other handlers see the record as it came
        safe.msg, safe.args = _message(record).translate(_CONTROLS), ()
        error = record.exc_info[1] if record.exc_info else None
        safe.exc_info, safe.exc_text, safe.stack_info = None, None, None
        if self._info is not None and record.levelno == logging.INFO:
            text = self._info.format(safe)
        else:
            text = super().format(safe)
        if error is not None:
            text += "\n" + format_exception(error) if self._frames else f" ({describe_exception(error)})"
        return redact(text)


def _message(record: logging.LogRecord) -> str:
    """Put message and arguments together; exceptions among them are described, not quoted."""
    if isinstance(record.msg, BaseException):
        return describe_exception(record.msg)
    if isinstance(record.args, tuple):
        args = tuple(
            describe_exception(arg) if isinstance(arg, BaseException) else arg for arg in record.args
        )
        return str(record.msg) % args if args else str(record.msg)
    return record.getMessage()


class _QuietErrors(logging.Handler):
    """A handler that, when writing fails, says so once and without the record.

    The standard one prints the record's arguments to standard error, past every net of this module.
    """

    complained = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name and arguments
        if self.complained:
            return
        self.complained = True
        error = sys.exc_info()[1]
        kind = describe_exception(error) if error is not None else "unknown error"
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no standard error to complain to
            sys.stderr.write(f"A log line could not be written: {kind}\n")


class _ConsoleHandler(_QuietErrors, _TextHandler):
    """Plain lines for people."""


class _FileHandler(_QuietErrors, RotatingFileHandler):
    """A rotating file that goes on growing when it cannot be renamed.

    On Windows another program that has the file open (a viewer, a virus scanner) prevents the renaming; the
    standard handler would then lose every line from there on.
    """

    def doRollover(self) -> None:  # noqa: N802 - logging's
        try:
            super().doRollover()
        except OSError:
            # Not at the next line again: each attempt moves the older files on by one.
            self.maxBytes += MAX_BYTES
        else:
            self.maxBytes = MAX_BYTES


def setup_logging(
    *,
    level: str = "INFO",
    log_file: Path | None = None,
    console: TextIO | None = None,
    console_level: str | None = None,
    secrets: Iterable[str] = (),
    run_id: str = "",
) -> logging.Logger:
    """Set up the handlers anew and return the package's logger (interface, "Settings": LOG_FILE, LOG_LEVEL).

    ``level`` counts for this package; other libraries are heard from WARNING on. The console (standard error
    unless ``console`` is given) shows INFO and above, or ``console_level``; with ``level`` DEBUG and no file
    it shows everything. ``secrets`` are ``Settings.secrets``; tokens are added later with ``redact.add``.

    Raises:
        ConfigError: the log file cannot be written; it is named.
    """
    shutdown_logging()
    redact.add(*secrets)
    set_run_id(run_id)
    if log_file is not None:
        _install(_open_log(log_file), "DEBUG", SafeFormatter(_FILE_FORMAT))
    stream = sys.stderr if console is None else console
    if stream is not None:  # a program without a console has none
        make_console_safe(stream)
        default_level = "DEBUG" if level == "DEBUG" and log_file is None else "INFO"
        formatter = SafeFormatter(_CONSOLE_FORMAT, info_fmt=_CONSOLE_INFO_FORMAT, frames=False)
        _install(_ConsoleHandler(stream), console_level or default_level, formatter)
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(level)
    return logger


def shutdown_logging() -> None:
    """Close and remove the handlers, and forget the secrets and the run id."""
    root = logging.getLogger()
    while _handlers:
        handler = _handlers.pop()
        root.removeHandler(handler)
        handler.close()
    redact.clear()
    set_run_id("")


def log_result(text: str, *, failed: bool = False) -> None:
    """Write into the log file what the screen is told by other means; without a log file do nothing."""
    level = logging.ERROR if failed else logging.INFO
    if not logging.getLogger(LOGGER_NAME).isEnabledFor(level):
        return
    record = logging.LogRecord(f"{LOGGER_NAME}.result", level, __file__, 0, text, (), None)
    for handler in _handlers:
        if isinstance(handler, _FileHandler):
            handler.handle(record)


def set_run_id(run_id: str) -> None:
    """Name the run in every line of the log file from now on."""
    _run.run_id = run_id


def make_console_safe(stream: TextIO | None) -> None:
    r"""Let ``stream`` write what its code page lacks as ``\u25b6`` instead of failing.

    Windows gives redirected output a code page that lacks most characters, and refuses the rest.
    """
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return  # no console at all, or a stream in memory, which takes every character
    with contextlib.suppress(OSError, ValueError):  # closed or detached: nothing will be written to it
        reconfigure(errors="backslashreplace")


def _install(handler: logging.Handler, level: str, formatter: SafeFormatter) -> None:
    # On the root logger, so that other libraries' warnings pass the same nets; its level stays WARNING.
    handler.setLevel(level)
    handler.setFormatter(formatter)
    handler.addFilter(_run)
    logging.getLogger().addHandler(handler)
    _handlers.append(handler)


def _open_log(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _FileHandler(
            path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", errors="backslashreplace"
        )
    except (OSError, ValueError) as err:
        raise ConfigError(
            f"The log file {path} cannot be written ({describe_exception(err)}).",
            hop="settings",
            remedy="Correct LOG_FILE, or let this account write there.",
        ) from None

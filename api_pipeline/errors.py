"""What can go wrong, and the exit code that each kind of failure ends with.

Everything that a caller is meant to handle derives from :class:`PipelineError`. Foreign exceptions
(driver, HTTP, operating system) are translated at the border where they occur, so that above it one rule
decides the exit code and one rule decides what may be tried again. Messages name keys, hosts, tables,
paths and rules; they never hold a secret, a token or anything of a child's record.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import ClassVar


class ExitCode(IntEnum):
    """The process exit codes that scheduled tasks rely on (interface, "Exit codes")."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DATABASE = 3
    API = 4
    LOCKED = 5
    CRASH = 70
    INTERRUPTED = 130


# When several apply, the first of these is the one reported.
_PRECEDENCE = (
    ExitCode.INTERRUPTED,
    ExitCode.CRASH,
    ExitCode.DATABASE,
    ExitCode.API,
    ExitCode.FAILED,
    ExitCode.OK,
)


def worst(*codes: ExitCode) -> ExitCode:
    """Return the code that takes precedence among ``codes``; ``OK`` if there is none.

    ``USAGE`` and ``LOCKED`` end a command before anything else can happen, so they never compete.
    """
    for code in _PRECEDENCE:
        if code in codes:
            return code
    return codes[0] if codes else ExitCode.OK


class PipelineError(Exception):
    """Base of every failure that is reported to the user in one clear line.

    ``hop`` names the step that failed in one word (``dns``, ``login``, ``table`` ...); ``remedy`` is the
    next thing to try, as a full sentence.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, *, hop: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hop = hop
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigError(PipelineError):
    """Missing, malformed or contradictory settings; nothing has been read or sent.

    ``log_file`` is that of the settings, where it is known in spite of the faults: nobody sees the console
    of a scheduled task.
    """

    exit_code = ExitCode.USAGE
    log_file: Path | None = None


class DatabaseError(PipelineError):
    """The database refused, or cannot be reached; trying the same again would not help."""

    exit_code = ExitCode.DATABASE


class TransientDatabaseError(DatabaseError):
    """A passing database fault (deadlock, lock timeout): the same transaction may be tried again."""


class ConnectionLostError(TransientDatabaseError):
    """The connection is gone or could not be opened: connect anew before trying again."""


class ApiError(PipelineError):
    """No token, not authorised, or the endpoint cannot be used."""

    exit_code = ExitCode.API


class LockedError(PipelineError):
    """Another run holds the lock of this staging table."""

    exit_code = ExitCode.LOCKED


class InterruptedRun(PipelineError):
    """The user or the operating system asked the run to stop."""

    exit_code = ExitCode.INTERRUPTED

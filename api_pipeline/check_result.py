"""What a diagnostic found, step by step, for people and for machines (interface, "Exit codes")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api_pipeline.errors import ConnectionLostError, DatabaseError, ExitCode, worst

_WORDS = {True: "ok", None: "warn", False: "FAIL"}
_RESULTS = {True: "ok", None: "warning", False: "failed"}


@dataclass(frozen=True)
class Step:
    """One thing that was looked at.

    Attributes:
        hop: what it is, in a word or two: ``dns``, ``login``, ``column``.
        ok: None where it works but somebody should know, or where it could not be looked at.
        message: what was found; never a secret and nothing of a child but a person_id.
        remedy: the next thing to try.
        sql: statements that mend it, for a database administrator to run.
        code: what a failure of this step ends the command with.
    """

    hop: str
    ok: bool | None
    message: str
    remedy: str = ""
    sql: tuple[str, ...] = ()
    code: ExitCode = ExitCode.FAILED

    @classmethod
    def of_error(cls, error: DatabaseError, *, connected: bool, sql: tuple[str, ...] = ()) -> Step:
        """Return the failure that a database error is.

        Once ``connected``, only the loss of the connection ends with the database's own exit code: what a
        server answers is a failed check.
        """
        lost = not connected or isinstance(error, ConnectionLostError)
        code = error.exit_code if lost else ExitCode.FAILED
        return cls(error.hop or "database", False, error.message, error.remedy, sql, code)

    def as_json(self) -> Mapping[str, Any]:
        """Return the step as it stands in the command's JSON."""
        return {
            "hop": self.hop,
            "result": _RESULTS[self.ok],
            "message": self.message,
            "remedy": self.remedy,
            "sql": list(self.sql),
        }


@dataclass(frozen=True)
class CheckResult:
    """All steps of one diagnostic, in the order in which they were taken."""

    name: str
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether something was looked at and nothing failed; warnings are not failures."""
        return not self.skipped and all(step.ok is not False for step in self.steps)

    @property
    def skipped(self) -> bool:
        """Whether nothing could be looked at, so that there is neither success nor failure."""
        return all(step.ok is None for step in self.steps)

    @property
    def exit_code(self) -> ExitCode:
        """The code that takes precedence among the failed steps' (interface, "Exit codes")."""
        return worst(*(step.code for step in self.steps if step.ok is False))

    @property
    def verdict(self) -> str:
        """One line: passed or failed, and how many steps say what."""
        if self.skipped:
            return "not tested"
        failed = sum(step.ok is False for step in self.steps)
        warnings = sum(step.ok is None for step in self.steps)
        parts = [_counted(failed, "failure")] if failed else []
        parts += [_counted(warnings, "warning")] if warnings else []
        return ("passed" if self.passed else "failed") + (f" ({', '.join(parts)})" if parts else "")

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": self.name,
            "passed": self.passed,
            "exit_code": int(self.exit_code),
            "steps": [step.as_json() for step in self.steps],
        }

    def as_text(self) -> str:
        """Return one line for each step, its remedy and SQL below it, and the verdict."""
        width = max((len(step.hop) for step in self.steps), default=0)
        lines: list[str] = []
        for step in self.steps:
            lines.append(f"{_WORDS[step.ok]:<5} {step.hop:<{width}}  {step.message}")
            if step.remedy:
                lines.append(f"{'':<{width + 6}}  -> {step.remedy}")
            lines += [f"{'':<6}{line}" for statement in step.sql for line in statement.splitlines()]
        return "\n".join([*lines, f"{self.name}: {self.verdict}"])


@dataclass(frozen=True)
class SmokeResult:
    """Several diagnostics, and one summary of them."""

    name: str
    parts: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every part passed."""
        return all(part.passed for part in self.parts)

    @property
    def exit_code(self) -> ExitCode:
        """The code that takes precedence among the parts'."""
        return worst(*(part.exit_code for part in self.parts))

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result: each part as its own command would give it."""
        return {
            "command": self.name,
            "passed": self.passed,
            "exit_code": int(self.exit_code),
            "checks": [part.as_json() for part in self.parts],
        }

    def as_text(self) -> str:
        """Return the parts one after another, then a line for each and the verdict."""
        width = max(len(part.name) for part in self.parts)
        summary = [
            f"{_WORDS[None if part.skipped else part.passed]:<5} {part.name:<{width}}  {part.verdict}"
            for part in self.parts
        ]
        verdict = "passed: this set-up works" if self.passed else "failed"
        sections = [part.as_text() for part in self.parts]
        return "\n\n".join([*sections, "\n".join([*summary, f"{self.name}: {verdict}"])])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")

"""``validate`` and ``status``: what is in the staging table, without changing or locking anything.

Carries out interface, "Commands", on the rules of domain, sections 3 and 4. Both read in pages, so that a
million rows need no more memory than a thousand; what is kept of a row is its person_id, as an example.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tabulate

from api_pipeline import payload, planning, provision, validation
from api_pipeline.config import Settings
from api_pipeline.errors import ExitCode, InterruptedRun
from api_pipeline.ledger import Ledger
from api_pipeline.log_report import LogReport
from api_pipeline.planning import Plan
from api_pipeline.progress import Progress
from api_pipeline.staging import KNOWN_STATUSES, Scope, StagedRow, StagingTable, StatusCount, held_ids
from api_pipeline.validation import Finding, Severity

_EXAMPLES = 5
_MOST_GROUPS = 500  # a payload full of unknown fields must not fill the memory
_ERRORS_SHOWN = 10

_INDEX = re.compile(r"\[\d+\]")
# How planning begins what it says of rows that share a person_id.
_SHARED_PERSON = ("The same person_id", "Several rows share this person_id")

# --- validate --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RuleGroup:
    """The rows that break one rule at one place; ``path`` has ``[*]`` for every index."""

    severity: Severity
    rule: str
    path: str
    message: str
    rows: int
    examples: tuple[str, ...]  # person_ids

    def as_json(self) -> Mapping[str, Any]:
        """Return the group as it stands in the command's JSON."""
        return {
            "severity": self.severity.value,
            "rule": self.rule,
            "path": self.path,
            "message": self.message,
            "rows": self.rows,
            "person_ids": list(self.examples),
        }


@dataclass(frozen=True)
class ValidationReport:
    """What is wrong with the due rows, by rule; errors first, the most frequent first."""

    table: str
    rows: int
    rows_with_errors: int
    rows_with_warnings: int
    groups: tuple[RuleGroup, ...]

    @property
    def exit_code(self) -> ExitCode:
        """1 where any row could not be sent, else 0; warnings are no reason."""
        return ExitCode.FAILED if self.rows_with_errors else ExitCode.OK

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": "validate",
            "table": self.table,
            "exit_code": int(self.exit_code),
            "rows": self.rows,
            "rows_with_errors": self.rows_with_errors,
            "rows_with_warnings": self.rows_with_warnings,
            "groups": [group.as_json() for group in self.groups],
        }

    def as_text(self) -> str:
        """Return a table of the groups, what each rule allows, and the totals."""
        headers = ("severity", "rows", "rule", "path", "for example person_id")
        lines = [
            (group.severity.value, group.rows, group.rule, group.path, ", ".join(group.examples))
            for group in self.groups
        ]
        totals = (
            f"{self.table}: {self.rows} due rows, {self.rows_with_errors} with errors, "
            f"{self.rows_with_warnings} with warnings"
        )
        if not lines:
            return totals
        table = tabulate.tabulate(lines, headers=headers, tablefmt="simple", disable_numparse=True)
        allowed = dict.fromkeys(f"{group.path}: {group.rule}: {group.message}" for group in self.groups)
        return "\n".join([table, "", *allowed, "", totals])


class Groups:
    """Findings of many rows, put together by rule and place; ``rows`` counts all, those without any too."""

    def __init__(self) -> None:
        self.rows = 0
        self.with_errors = 0
        self.with_warnings = 0
        self._groups: dict[tuple[Severity, str, str], tuple[str, list[int], list[str]]] = {}

    def add(self, person_id: str | None, findings: Iterable[Finding]) -> None:
        """Count one row; a rule that it breaks several times at one place counts once."""
        found = {self._key(finding): finding.message for finding in findings}
        self.rows += 1
        self.with_errors += any(severity is Severity.ERROR for severity, _, _ in found)
        self.with_warnings += any(severity is Severity.WARNING for severity, _, _ in found)
        for key, message in found.items():
            _, count, examples = self._groups.setdefault(key, (message, [0], []))
            count[0] += 1
            if person_id is not None and len(examples) < _EXAMPLES:
                examples.append(person_id)

    def _key(self, finding: Finding) -> tuple[Severity, str, str]:
        key = (finding.severity, finding.rule, _INDEX.sub("[*]", finding.path))
        if key in self._groups or len(self._groups) < _MOST_GROUPS:
            return key
        return finding.severity, finding.rule, "(other places)"

    def listed(self) -> tuple[RuleGroup, ...]:
        """Return the groups: errors first, then the most frequent, then by place."""
        groups = (
            RuleGroup(severity, rule, path, message, count[0], tuple(examples))
            for (severity, rule, path), (message, count, examples) in self._groups.items()
        )
        return tuple(
            sorted(groups, key=lambda group: (group.severity.value, -group.rows, group.path, group.rule))
        )


def validate(
    settings: Settings,
    *,
    limit: int | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Check every due row as a run would, and more: findings are listed whatever VALIDATION says.

    Payloads are checked against the record schema; deletions need an id that DfE can know; rows must not
    share ids.

    Raises:
        ConfigError: if DB_CONNECTION_STRING cannot be read.
        DatabaseError: if the table cannot be read.
        InterruptedRun: if ``stop`` was set.
    """
    stop, progress = stop or threading.Event(), progress or Progress()
    scope, groups = Scope(), Groups()
    with provision.connect(settings, stop=stop) as database:
        table = StagingTable(database, settings.table)
        ledger = Ledger.find(database, table, "")
        plan = planning.survey(table, scope, limit, ledger)
        progress.begin(plan.due)
        try:
            for deleted in (False, True):
                for page in table.pages(scope, deleted=deleted, previous=deleted, last=plan.last_key):
                    held = _held(page, ledger) if deleted else {}
                    for row in page:
                        groups.add(row.person_id, _findings(row, plan, held.get(row.person_id or "", ())))
                    progress.advance(len(page))
                    if stop.is_set():
                        raise InterruptedRun("The check was asked to stop.")
            for _ in range(table.nameless_due()):
                groups.add(None, [_nameless()])
        finally:
            progress.end()
    return ValidationReport(
        str(settings.table), groups.rows, groups.with_errors, groups.with_warnings, groups.listed()
    )


def _held(rows: Sequence[StagedRow], ledger: Ledger | None) -> dict[str, tuple[str, ...]]:
    """Return the la_child_ids that DfE may hold for these people, as far as the baseline tells."""
    if ledger is None:
        return {}
    by_person = {row.person_id: row for row in rows if row.person_id is not None}
    return {
        person: held_ids(
            state=baseline.state,
            acknowledged=baseline.child_id,
            unsure=baseline.unsure,
            payloads=map(_child_id, (by_person[person].payload, by_person[person].previous_payload)),
        )
        or ()
        for person, baseline in ledger.lookup(by_person, payloads=False).items()
    }


def _findings(row: StagedRow, plan: Plan, held: Sequence[str]) -> list[Finding]:
    """Return what is wrong with a row; ``held`` are the ids that DfE may hold for a deletion's person."""
    findings: list[Finding] = []
    if row.person_id is None or not row.person_id.strip():
        findings.append(_nameless())
    if row.key in plan.blocked:
        column = "person_id" if plan.blocked[row.key].startswith(_SHARED_PERSON) else "$.la_child_id"
        findings.append(
            Finding(column, "shared_id", Severity.ERROR, "must not be in another row of the table as well")
        )
    if not row.deleted:
        findings += validation.check_text(row.payload).findings
    elif row.key not in plan.never_sent and not _can_be_purged(row, plan, held):
        findings.append(
            Finding(
                "$.la_child_id", "no_id_to_purge", Severity.ERROR, "must be readable in a payload of the row"
            )
        )
    return findings


def _nameless() -> Finding:
    return Finding("person_id", "required", Severity.ERROR, "must not be empty")


def _can_be_purged(row: StagedRow, plan: Plan, held: Sequence[str]) -> bool:
    """Whether there is an id that DfE accepts and that is this row's to purge."""
    current, previous = _child_id(row.payload), _child_id(row.previous_payload)
    for child_id in held or (current, previous):
        if child_id is None or (child_id != current and child_id in plan.child_ids):
            continue
        if validation.check_text(payload.deletion(child_id, None).decode()).ok:
            return True
    return False


def _child_id(text: str | None) -> str | None:
    try:
        return payload.child_ids(payload.parse(text or ""))[0]
    except payload.UnreadablePayload:
        return None


# --- status ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusReport:
    """Where the staging table stands; ``errors`` holds person_id and what kind of error it is."""

    table: str
    counts: tuple[StatusCount, ...]
    due: int
    oldest_due: str | None
    last_submission: str | None
    errors: tuple[tuple[str, str], ...]
    log: LogReport = field(default_factory=LogReport)

    @property
    def exit_code(self) -> ExitCode:
        """0: to count is not to judge."""
        return ExitCode.OK

    @property
    def held(self) -> Mapping[str, int]:
        """Rows by each status that no run sends, since sites use their own to hold rows back."""
        held: dict[str, int] = {}
        for count in self.counts:
            if count.status not in KNOWN_STATUSES:
                held[count.status] = held.get(count.status, 0) + count.rows
        return held

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": "status",
            "table": self.table,
            "exit_code": int(self.exit_code),
            "counts": [
                {"row_state": count.row_state, "submission_status": count.status, "rows": count.rows}
                for count in self.counts
            ],
            "due": self.due,
            "oldest_due": self.oldest_due,
            "last_submission": self.last_submission,
            "held_by_status": dict(self.held),
            "last_errors": [{"person_id": person, "error": error} for person, error in self.errors],
            **self.log.as_json(),
        }

    def as_text(self) -> str:
        """Return the counts as a table, then what is due, held back and in error."""
        counts = [
            (count.row_state or "(empty)", count.status or "(empty)", count.rows) for count in self.counts
        ]
        headers = ("row_state", "submission_status", "rows")
        lines = [self.table, tabulate.tabulate(counts, headers=headers, tablefmt="simple"), ""]
        oldest = f", the oldest since {self.oldest_due}" if self.oldest_due else ""
        lines.append(f"due: {self.due}{oldest}")
        lines.append(f"last submission: {self.last_submission or 'none yet'}")
        lines += [
            f"warning: {rows} rows have the status '{status}' and are not sent"
            for status, rows in sorted(self.held.items())
        ]
        if self.errors:
            lines += ["", "last errors (api_response has the whole text):"]
            lines.append(tabulate.tabulate(self.errors, headers=("person_id", "error"), tablefmt="simple"))
        lines += ["", self.log.as_text()]
        return "\n".join(lines)


def status(settings: Settings, *, stop: threading.Event | None = None) -> StatusReport:
    """Count the rows by state, and say what is due and what went wrong last.

    Raises:
        ConfigError: if DB_CONNECTION_STRING cannot be read.
        DatabaseError: if the table cannot be read.
    """
    with provision.connect(settings, stop=stop) as database:
        table = StagingTable(database, settings.table)
        counts = tuple(table.status_counts())
        due, oldest = table.due_summary()
        last = table.last_submission()
        errors = tuple((person, error_kind(text)) for person, text in table.error_examples(_ERRORS_SHOWN))
        log = LogReport.read(database, settings.table, settings.spool_dir)
    return StatusReport(str(settings.table), counts, due, oldest, last, errors, log)


_REFUSAL = re.compile(r"HTTP (\d{3})\b")
_FAULT = re.compile(r"(\$[\w.\[\]]*): ([a-z_]+) \(")
_OWN = re.compile(
    r"The same (?:person_id|la_child_id) is in row [^.;]*?(?=, so they)"
    r"|Several rows share this (?:person_id|la_child_id)"
    r"|DfE holds this la_child_id for a person who is no longer in the table"
    r"|This row has no person_id|No payload of this row has a la_child_id that can be purged"
)


def error_kind(response: str) -> str:
    """Say what kind of error an ``api_response`` is about, without anything that DfE or others wrote in it.

    DfE's texts may quote the record, and so may those of older tools. What is shown is therefore only what
    this tool wrote itself: a status, a path with its rule, or a sentence about row ids.
    """
    refused = _REFUSAL.match(response)
    if refused:
        return f"HTTP {refused.group(1)} from the API"
    fault = _FAULT.match(response)
    if fault:
        return f"{fault.group(1)}: {fault.group(2)}"
    own = _OWN.match(response)
    if own:
        return own.group(0)
    return "another reason" if response.strip() else "no reason given"

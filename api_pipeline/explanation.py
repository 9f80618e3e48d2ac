"""The answer of ``explain`` as data, as text and as JSON (interface, "Commands").

Nothing in it is of a child but the person_id and the la_child_id: paths, kinds, sizes, hashes, receipts and
times, never a value of a payload and never what DfE wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tabulate

from api_pipeline.cohort_explanation import CohortExplanation
from api_pipeline.differences import Differences, count_records
from api_pipeline.due_rules import RowFacts, Rule
from api_pipeline.errors import ExitCode, worst
from api_pipeline.log_report import shown
from api_pipeline.remembered import Baseline, Flight, LogLine

_HASH_DIGITS = 12
_PATHS_SHOWN = 40

RULE_TEXT: Mapping[Rule, str] = {
    Rule.PENDING: "the status is pending",
    Rule.ERROR: "the last attempt ended in an error, and every run tries again",
    Rule.TESTING: "the status is testing, which is no submission",
    Rule.DELETION_NOT_ACKNOWLEDGED: "the row is marked deleted and DfE has not acknowledged the deletion",
    Rule.HASHES_DIFFER: "the status is sent, but the hashes differ: the payload changed since",
    Rule.DELETION_ACKNOWLEDGED: "the row is marked deleted and DfE has acknowledged the deletion",
    Rule.HELD_STATUS: "the status is none that the tool sends, so the row is held back",
    Rule.SENT_AND_UNCHANGED: "the status is sent and nothing changed since",
}


def short(digest: bytes | None) -> str | None:
    """Return the beginning of a hash in hexadecimal: enough to tell two apart."""
    return None if digest is None else digest.hex()[:_HASH_DIGITS]


@dataclass(frozen=True)
class Next:
    """One thing that the next run does for a row.

    Attributes:
        kind: full, partial, deletion, purge of an earlier id, nothing or error.
        size: bytes that would be sent; None where nothing is.
        why: a reason in words, empty where the kind says all.
    """

    kind: str
    size: int | None = None
    why: str = ""
    differences: Differences | None = None

    def as_json(self) -> Mapping[str, Any]:
        """Return the step as it stands in the command's JSON."""
        paths = None
        if self.differences is not None:
            paths = {name.replace(" ", "_"): list(listed) for name, listed in self.differences.named.items()}
        return {"kind": self.kind, "bytes": self.size, "why": self.why, "paths": paths}

    def lines(self) -> Iterator[str]:
        """Yield the kind with its size, and the paths below it."""
        size = "" if self.size is None else f", {self.size:,} bytes"
        yield f"{self.kind}{size}" + (f": {self.why}" if self.why else "")
        if self.differences is None:
            return
        for name, paths in self.differences.named.items():
            for path in paths[:_PATHS_SHOWN]:
                yield f"  {name:<14} {path}"
            if len(paths) > _PATHS_SHOWN:
                yield f"  {name:<14} and {len(paths) - _PATHS_SHOWN} more"


@dataclass(frozen=True)
class ExplainedRow:
    """A row of the person, and what becomes of it.

    Attributes:
        rules: what makes it due, or what keeps it from being so.
        response: ``api_response`` as far as it can be shown.
        blocked: what keeps a row from being sent whatever its payload; empty if nothing does.
        faults: structural faults, each a path and a rule.
        full: what the next run does in full mode, in order; ``partial`` the same in partial mode.
    """

    facts: RowFacts
    rules: tuple[Rule, ...]
    response: str
    blocked: str
    faults: tuple[str, ...]
    full: tuple[Next, ...]
    partial: tuple[Next, ...]

    def as_json(self) -> Mapping[str, Any]:
        """Return the row as it stands in the command's JSON."""
        facts = self.facts
        return {
            "row": facts.key,
            "row_state": facts.row_state,
            "submission_status": facts.status,
            "last_updated": facts.last_updated,
            "submission_timestamp": facts.submission_timestamp,
            "current_hash": short(facts.current_hash),
            "previous_hash": short(facts.previous_hash),
            "purge_marker": facts.marked,
            "api_response": self.response,
            "due": facts.due,
            "rules": [rule.value for rule in self.rules],
            "blocked": self.blocked,
            "faults": list(self.faults),
            "next_full": [step.as_json() for step in self.full],
            "next_partial": [step.as_json() for step in self.partial],
        }

    def lines(self) -> Iterator[str]:
        """Yield the row's facts, why it is due or not, and what comes next."""
        facts = self.facts
        yield f"row {facts.key}"
        current = "the purge marker" if facts.marked else short(facts.current_hash) or "none yet"
        previous = "the purge marker" if facts.marked_before else short(facts.previous_hash) or "none"
        values = {
            "row_state": facts.row_state or "(empty)",
            "status": facts.status or "(empty)",
            "last updated": facts.last_updated or "never",
            "submitted": facts.submission_timestamp or "never",
            "current hash": current,
            "previous hash": previous,
            "api_response": self.response or "none",
            "due": ("yes: " if facts.due else "no: ") + "; and ".join(RULE_TEXT[rule] for rule in self.rules),
        }
        yield from _pairs(values)
        if self.blocked:
            yield f"  {'blocked':<16} {self.blocked}"
        for fault in self.faults:
            yield f"  {'fault':<16} {fault}"
        for mode, steps in (("full mode", self.full), ("partial mode", self.partial)):
            label = f"next, {mode}"
            for step in steps:
                for line in step.lines():
                    yield f"  {label:<18} {line}"
                    label = ""


@dataclass(frozen=True)
class Explanation:
    """Everything that the database tells of one person, and one sentence that answers the question.

    Attributes:
        known: whether anything at all is known of the person.
        remembered: whether the submission log and the baseline table are both there.
        notes: what else to know: what happens next and why, one sentence each.
        attempts: the newest lines of the log; ``attempts_total`` counts those that are not shown, too.
        cohort: what the source tells; None where there is none.
    """

    table: str
    person_id: str
    answer: str
    known: bool
    remembered: bool
    rows: tuple[ExplainedRow, ...]
    notes: tuple[str, ...]
    baseline: Baseline | None
    flight: Flight | None
    attempts: tuple[LogLine, ...]
    attempts_total: int
    cohort: CohortExplanation | None = None

    @property
    def exit_code(self) -> ExitCode:
        """1 for a person that nobody knows, else 0, or what keeps the source from being looked at."""
        own = ExitCode.OK if self.known else ExitCode.FAILED
        return own if self.cohort is None else worst(own, self.cohort.code)

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": "explain",
            "table": self.table,
            "person_id": self.person_id,
            "exit_code": int(self.exit_code),
            "answer": self.answer,
            "notes": list(self.notes),
            "rows": [row.as_json() for row in self.rows],
            "remembered": self.remembered,
            "baseline": None if self.baseline is None else _baseline_json(self.baseline, self.flight),
            "attempts": [_attempt_json(line) for line in self.attempts],
            "attempts_total": self.attempts_total,
            "source": None if self.cohort is None else self.cohort.as_json(),
        }

    def as_text(self) -> str:
        """Return the answer, and below it what it rests on."""
        lines = [self.answer, *(f"- {note}" for note in self.notes)]
        if not self.known:
            return "\n".join(lines)
        for row in self.rows:
            lines += ["", *row.lines()]
        if self.cohort is not None:
            lines += ["", *self.cohort.lines()]
        lines += ["", *self._baseline_lines(), "", *self._attempt_lines()]
        return "\n".join(lines)

    def _baseline_lines(self) -> Iterator[str]:
        if not self.remembered:
            yield "baseline: none is kept, because the two tables are missing; init-db makes them"
        elif self.baseline is None:
            yield "baseline: none, because nothing was sent for this person since the table was made"
        else:
            yield "baseline, which is what DfE is known to hold"
            yield from _pairs(
                {
                    "state": self.baseline.state,
                    "la_child_id": self.baseline.child_id or "none",
                    "acknowledged": shown(self.baseline.acknowledged_at) or "never",
                    "receipt": self.baseline.receipt or "none",
                    "payload hash": short(self.baseline.payload_hash) or "none",
                    "in doubt": _doubt(self.baseline),
                    "in flight": "nothing" if self.flight is None else f"a {self.flight.kind} submission",
                    "full next": "yes" if self.baseline.full_next else "no",
                }
            )

    def _attempt_lines(self) -> Iterator[str]:
        if not self.remembered:
            yield "attempts: none are logged, because the two tables are missing; init-db makes them"
            return
        if not self.attempts:
            yield "attempts: none in the submission log"
            return
        headers = ("started (UTC)", "run", "kind", "outcome", "posts", "HTTP", "bytes", "receipt or reason")
        rows = [
            (
                shown(line.started_at) or "",
                line.run_id,
                line.kind,
                line.outcome,
                _text(line.posts),
                _text(line.http_status),
                _text(line.sent_bytes),
                line.detail or "",
            )
            for line in self.attempts
        ]
        yield "attempts, the newest first"
        yield tabulate.tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
        if self.attempts_total > len(self.attempts):
            yield f"and {self.attempts_total - len(self.attempts)} earlier ones"


def _pairs(values: Mapping[str, str]) -> Iterator[str]:
    return (f"  {name:<16} {value}" for name, value in values.items())


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _doubt(baseline: Baseline) -> str:
    if not baseline.unsure:
        return "nothing"
    ids = len(baseline.unsure)
    records = sum(count_records(skeleton) for skeleton in baseline.unsure.values())
    return f"{records} records" + (f" under {ids} la_child_ids" if ids > 1 else "")


def _baseline_json(baseline: Baseline, flight: Flight | None) -> Mapping[str, Any]:
    return {
        "state": baseline.state,
        "la_child_id": baseline.child_id,
        "acknowledged_at": shown(baseline.acknowledged_at),
        "receipt": baseline.receipt,
        "payload_hash": short(baseline.payload_hash),
        "records_in_doubt": sum(count_records(skeleton) for skeleton in baseline.unsure.values()),
        "in_flight": None if flight is None else flight.kind,
        "full_next": baseline.full_next,
    }


def _attempt_json(line: LogLine) -> Mapping[str, Any]:
    return {
        "run_id": line.run_id,
        "attempt": line.seq,
        "row": line.row_id,
        "kind": line.kind,
        "outcome": line.outcome,
        "posts": line.posts,
        "http_status": line.http_status,
        "detail": line.detail,
        "bytes": line.sent_bytes,
        "sent_hash": short(line.sent_hash),
        "state_hash": short(line.state_hash),
        "started": shown(line.started_at),
        "finished": shown(line.finished_at),
    }

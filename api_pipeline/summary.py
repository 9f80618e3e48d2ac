"""What a run did, counted: the table at its end, the same as JSON, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tabulate

from api_pipeline.errors import ExitCode, worst


@dataclass
class RunSummary:
    """The counts of one run; rows, unless a unit is named. Nothing in it is about a single child."""

    run_id: str
    mode: str  # live, testing or dry-run
    due: int = 0
    sent: int = 0
    deleted: int = 0
    unchanged: int = 0
    never_sent: int = 0
    simulated: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # records by what they are: full, partial, deletion
    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    changed_meanwhile: int = 0
    unsure: int = 0
    unrecorded: int = 0
    deletions_held_back: int = 0
    unknown_persons: int = 0
    held: dict[str, int] = field(default_factory=dict)
    hashes_filled: int = 0
    replayed: int = 0
    recovered: int = 0
    requests: int = 0
    bytes_sent: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0
    stopped_because: str = ""
    codes: set[ExitCode] = field(default_factory=set)

    @property
    def failed(self) -> int:
        """Rows that ended in error."""
        return sum(self.errors.values())

    @property
    def left_due(self) -> int:
        """Rows that are due again, whatever kept them back."""
        return max(0, self.due - self.done - self.failed)

    @property
    def done(self) -> int:
        """Rows that need nothing more tonight."""
        return self.sent + self.deleted + self.unchanged + self.never_sent + self.simulated

    @property
    def exit_code(self) -> ExitCode:
        """The code that takes precedence (interface, "Exit codes")."""
        codes = set(self.codes)
        if self.errors or self.deletions_held_back:
            codes.add(ExitCode.FAILED)
        return worst(*codes)

    @property
    def rate(self) -> float:
        """Acknowledged or simulated records per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result of ``run --json``."""
        return {
            "command": "run",
            "run_id": self.run_id,
            "mode": self.mode,
            "exit_code": int(self.exit_code),
            "due": self.due,
            "sent": self.sent,
            "deleted": self.deleted,
            "unchanged": self.unchanged,
            "never_sent": self.never_sent,
            "simulated": self.simulated,
            "records_by_kind": dict(sorted(self.kinds.items())),
            "errors": self.failed,
            "errors_by_kind": dict(sorted(self.errors.items())),
            "warnings_by_rule": dict(sorted(self.warnings.items())),
            "left_due": self.left_due,
            "changed_meanwhile": self.changed_meanwhile,
            "unsure": self.unsure,
            "unrecorded": self.unrecorded,
            "deletions_held_back": self.deletions_held_back,
            "unknown_persons": self.unknown_persons,
            "held_by_status": dict(sorted(self.held.items())),
            "hashes_filled": self.hashes_filled,
            "replayed_receipts": self.replayed,
            "recovered_attempts": self.recovered,
            "requests": self.requests,
            "bytes_sent": self.bytes_sent,
            "payload_bytes": self.payload_bytes,
            "seconds": round(self.seconds, 3),
            "records_per_second": round(self.rate, 1),
            "stopped_because": self.stopped_because,
        }

    def as_table(self) -> str:
        """Return the summary for people; counts of rare things are shown where there are any."""
        verb = {"dry-run": "would be sent", "testing": "simulated"}.get(self.mode, "")
        rows: list[tuple[str, Any]] = [("due", self.due)]
        if self.mode == "live":
            rows += [("sent", self.sent), ("deletions sent", self.deleted)]
        else:
            rows.append((verb, self.simulated))
        rows.append(("errors", self.failed))
        if self.unknown_persons:
            rows.append(("- people who have no row", self.unknown_persons))
        rows += [(f"- {kind}", count) for kind, count in sorted(self.errors.items())]
        optional = [
            ("still due", self.left_due),
            ("- changed meanwhile", self.changed_meanwhile),
            ("- deletions held back", self.deletions_held_back),
            ("- fate not known", self.unsure),
            ("- accepted but not recorded", self.unrecorded),
            ("known to DfE already", self.unchanged),
            ("never sent, nothing to purge", self.never_sent),
            ("as partial payloads", self.kinds["partial"]),
            ("hashes filled in", self.hashes_filled),
            ("receipts of an earlier run recorded", self.replayed),
            ("attempts of an earlier run unsure", self.recovered),
        ]
        rows += [(name, count) for name, count in optional if count]
        rows += [(f"not sent: status '{status}'", count) for status, count in sorted(self.held.items())]
        rows += [(f"warning: {rule}", count) for rule, count in sorted(self.warnings.items())]
        size = self.bytes_sent if self.mode == "live" else self.payload_bytes
        if self.mode == "live":
            rows.append(("requests", self.requests))
        rows += [
            ("bytes", f"{size:,}"),
            ("seconds", f"{self.seconds:.1f}"),
            ("records per second", f"{self.rate:,.0f}"),
        ]
        # Outer blanks are stripped from cells, so what is part of another line begins with a dash.
        table = tabulate.tabulate(rows, tablefmt="simple", colalign=("left", "right"), disable_numparse=True)
        return f"run {self.run_id} ({self.mode})\n{table}"

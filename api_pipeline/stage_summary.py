"""What ``stage`` did, counted: the table at its end, the same as JSON, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import tabulate

from api_pipeline.errors import ExitCode, worst
from api_pipeline.refresh import Changes


@dataclass
class StageSummary:
    """The counts of one night; people, unless a unit is named. Nothing in it is about a single child.

    Attributes:
        people: rows of ssd_person that were looked at.
        cohort: those in the cohort; ``grounds`` counts each person once for every ground that holds.
        excluded: those outside it, by the reason.
        changes: what became of the staged rows, or would have become where nothing was written.
        rules: values that were coerced or left out, by the rule.
        held_because: what kept everything from being written; empty where nothing did.
    """

    run_id: str
    mode: str  # stage or dry-run
    run_date: date
    window_start: date
    window_end: date
    people: int = 0
    cohort: int = 0
    grounds: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    changes: Changes = field(default_factory=Changes)
    rules: Counter[str] = field(default_factory=Counter)
    unknown_persons: int = 0
    held_because: str = ""
    stopped_because: str = ""
    seconds: float = 0.0
    codes: set[ExitCode] = field(default_factory=set)

    @property
    def left(self) -> int:
        """People who are left as they are."""
        return sum(self.changes.left.values())

    @property
    def written(self) -> int:
        """Rows that were written."""
        if self.mode == "dry-run" or self.held_because or self.stopped_because:
            return 0
        changes = self.changes
        return changes.new + changes.updated + changes.returned + changes.hash_only + changes.deleted

    @property
    def exit_code(self) -> ExitCode:
        """The code that takes precedence (interface, "Exit codes")."""
        codes = set(self.codes)
        if self.left or self.held_because or self.unknown_persons:
            codes.add(ExitCode.FAILED)
        return worst(*codes)

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result of ``stage --json``."""
        changes = self.changes
        return {
            "command": "stage",
            "run_id": self.run_id,
            "mode": self.mode,
            "exit_code": int(self.exit_code),
            "run_date": self.run_date.isoformat(),
            "window_start": self.window_start.isoformat(),
            "window_end": self.window_end.isoformat(),
            "people": self.people,
            "cohort": self.cohort,
            "cohort_by_ground": dict(sorted(self.grounds.items())),
            "excluded_by_reason": dict(sorted(self.excluded.items())),
            "new": changes.new,
            "updated": changes.updated,
            "returned": changes.returned,
            "unchanged": changes.unchanged,
            "hash_only": changes.hash_only,
            "deleted": changes.deleted,
            "left_as_they_are": self.left,
            "left_by_reason": {reason.value: count for reason, count in _sorted(changes.left)},
            "values_by_rule": dict(sorted(self.rules.items())),
            "records_lost": {name: {"lost": fewer, "of": of} for name, (fewer, of) in changes.lost.items()},
            "unknown_persons": self.unknown_persons,
            "rows_written": self.written,
            "held_because": self.held_because,
            "stopped_because": self.stopped_because,
            "seconds": round(self.seconds, 3),
        }

    def as_table(self) -> str:
        """Return the summary for people; counts of rare things are shown where there are any."""
        changes = self.changes
        rows: list[tuple[str, Any]] = [("people in the source", self.people), ("in the cohort", self.cohort)]
        rows += [(f"- {ground}", count) for ground, count in sorted(self.grounds.items())]
        rows += [(f"not in it: {reason}", count) for reason, count in sorted(self.excluded.items())]
        rows += [
            ("new", changes.new),
            ("updated", changes.updated),
            ("returned", changes.returned),
            ("deleted", changes.deleted),
            ("unchanged", changes.unchanged),
        ]
        if changes.hash_only:
            rows.append(("unchanged, hash replaced", changes.hash_only))
        if self.left:
            rows.append(("left as they are", self.left))
        rows += [(f"- {reason.value}", count) for reason, count in _sorted(changes.left)]
        if self.unknown_persons:
            rows.append(("people named who are nowhere", self.unknown_persons))
        rows += [(f"records lost: {name}", f"{lost} of {of}") for name, (lost, of) in changes.lost.items()]
        rows += [(f"values: {rule}", count) for rule, count in sorted(self.rules.items())]
        rows += [("rows written", self.written), ("seconds", f"{self.seconds:.1f}")]
        table = tabulate.tabulate(rows, tablefmt="simple", colalign=("left", "right"), disable_numparse=True)
        head = f"stage {self.run_id} ({self.mode}), {self.run_date}, window from {self.window_start}"
        because = self.held_because or self.stopped_because
        return f"{head}\n{table}" + (f"\nNothing was written: {because}" if because else "")


def _sorted(left: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(left.items(), key=lambda item: str(item[0].value))

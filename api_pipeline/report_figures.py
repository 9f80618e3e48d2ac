"""What ``report`` found, for people and for machines; the page of it is made by :mod:`report_page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from api_pipeline import __version__
from api_pipeline.errors import ExitCode
from api_pipeline.inspection import StatusReport
from api_pipeline.log_report import shown
from api_pipeline.report_reading import Reason, RunFigures, Sizes, WaitingRow


@dataclass(frozen=True)
class Totals:
    """All runs of the period together."""

    runs: int = 0
    sent: int = 0
    failed: int = 0
    doubtful: int = 0
    testing: int = 0
    size: int = 0  # bytes

    @classmethod
    def of(cls, runs: Sequence[RunFigures]) -> Totals:
        """Add up runs."""
        return cls(
            len(runs),
            sum(run.sent for run in runs),
            sum(run.failed for run in runs),
            sum(run.doubtful for run in runs),
            sum(run.testing for run in runs),
            sum(run.size for run in runs),
        )


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        made_at: UTC, as ``since`` is.
        status: what the command ``status`` tells: counts, what is due, errors, what waits.
        runs: the newest first; all of the period are in ``totals``, at most 400 here.
        days: rows by the day of their last acknowledgement; only where there is no log.
        reasons: why attempts of the period failed; only where there is a log.
        faults: why rows are in error now.
        output: the file that was written.
    """

    table: str
    made_at: datetime
    since: datetime
    period: int  # days
    status: StatusReport
    totals: Totals
    sizes: Sizes
    runs: tuple[RunFigures, ...] = ()
    days: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    faults: tuple[Reason, ...] = ()
    waiting: tuple[WaitingRow, ...] = ()
    output: str = ""

    @property
    def has_log(self) -> bool:
        """Whether there is a submission log to tell of runs."""
        return self.status.log.remembered

    @property
    def exit_code(self) -> ExitCode:
        """0: to count is not to judge."""
        return ExitCode.OK

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result: the figures of the page."""
        return {
            **self.status.as_json(),
            "command": "report",
            "exit_code": int(self.exit_code),
            "output": self.output,
            "version": __version__,
            "made_at": shown(self.made_at),
            "since": shown(self.since),
            "days": self.period,
            "source": "submission log" if self.has_log else "staging table",
            "totals": asdict(self.totals),
            "runs": [
                {
                    **asdict(run),
                    "started": shown(run.started),
                    "finished": shown(run.finished),
                    "seconds": run.seconds,
                }
                for run in self.runs
            ],
            "sent_by_day": dict(self.days),
            "reasons": [asdict(reason) for reason in self.reasons],
            "rows_in_error": [{"text": fault.text, "count": fault.count} for fault in self.faults],
            "sizes": {**asdict(self.sizes), "count": self.sizes.count, "mean": self.sizes.mean},
            "oldest_due_rows": [asdict(row) for row in self.waiting],
        }

    def as_text(self) -> str:
        """Return where the page is, and the totals in a line."""
        if self.has_log:
            found = (
                f"{self.totals.runs} runs in {self.period} days, {self.totals.sent} records sent, "
                f"{self.totals.failed} failed, {self.totals.doubtful} in doubt"
            )
        else:
            found = "there is no submission log, so the page tells of the table only; init-db makes one"
        return f"Wrote the report to {self.output}: {found}; {self.status.due} rows are due."

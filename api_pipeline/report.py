"""``report``: figures about the runs, as one HTML page that needs no network (interface, "Commands").

They come from the submission log; where there is none, from the staging table, which tells less. The page
itself is made by :mod:`report_page`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from api_pipeline import __version__, inspection, output_file, provision, report_page
from api_pipeline.config import Settings
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.inspection import StatusReport
from api_pipeline.log_report import shown
from api_pipeline.report_reading import LogFigures, Reason, RunFigures, Sizes, TableFigures, WaitingRow
from api_pipeline.staging import StagingTable

MOST_DAYS = 3660
_RUNS_LISTED = 400
_ROWS_SHOWN = 10


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


def days_of(text: str) -> int:
    """Return what ``--days`` asks for.

    Raises:
        ConfigError: if that is no such number.
    """
    if re.fullmatch(r"\d{1,6}", text.strip(), re.ASCII) is None or not 1 <= int(text) <= MOST_DAYS:
        raise ConfigError(
            f"--days is not a whole number from 1 to {MOST_DAYS}.",
            hop="arguments",
            remedy="Without the flag it is 90.",
        )
    return int(text)


def report(
    settings: Settings, output: Path, *, days: int = 90, force: bool = False, now: datetime | None = None
) -> Report:
    """Count what the database tells of the last ``days`` days and write the page.

    Raises:
        ConfigError: if the file cannot be written, or is there and is no report.
        DatabaseError: if the table cannot be read.
    """
    output = output.absolute()
    replaced = (lambda _: True) if force else report_page.is_report
    output_file.refuse_other(output, replaced, "report", force="--force")
    figures = read(settings, days=days, now=now, output=str(output))
    output_file.write(output, report_page.render(figures).encode("utf-8"))
    return figures


def read(settings: Settings, *, days: int, now: datetime | None = None, output: str = "") -> Report:
    """Count, and write nothing.

    Raises:
        DatabaseError: if the table cannot be read.
    """
    made_at = (now or datetime.now(timezone.utc)).replace(tzinfo=None, microsecond=0)  # as the log has it
    since = (made_at - timedelta(days=days)).replace(hour=0, minute=0, second=0)
    runs: list[RunFigures] = []
    reasons: list[Reason] = []
    by_day: Mapping[str, int] = {}
    status = inspection.status(settings)
    with provision.connect(settings) as database:
        of_table = TableFigures(StagingTable(database, settings.table))
        if status.log.remembered:
            of_log = LogFigures(database, settings.table)
            runs = of_log.runs(since)
            # Runs do not overlap: from the first one on, every line belongs to one of these.
            start = runs[-1].started if runs else None
            sizes = of_log.sizes(start) if start else Sizes("bytes")
            reasons = of_log.reasons(start) if start else []
        else:
            sizes = of_table.sizes()
            by_day = of_table.sent_by_day(since)
        return Report(
            table=str(settings.table),
            made_at=made_at,
            since=since,
            period=days,
            status=status,
            totals=Totals.of(runs),
            sizes=sizes,
            runs=tuple(runs[:_RUNS_LISTED]),
            days=by_day,
            reasons=tuple(reasons),
            faults=tuple(of_table.reasons()),
            waiting=tuple(of_table.oldest_due(_ROWS_SHOWN)),
            output=output,
        )

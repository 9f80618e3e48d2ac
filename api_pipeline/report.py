"""``report``: figures about the runs, as one HTML page that needs no network (interface, "Commands").

They come from the submission log; where there is none, from the staging table, which tells less. The page
itself is made by :mod:`report_page`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from api_pipeline import inspection, output_file, provision, report_page
from api_pipeline.config import Settings
from api_pipeline.errors import ConfigError
from api_pipeline.report_figures import Report, Totals
from api_pipeline.report_reading import LogFigures, Reason, RunFigures, Sizes, TableFigures
from api_pipeline.staging import StagingTable

MOST_DAYS = 3660
_RUNS_LISTED = 400
_ROWS_SHOWN = 10


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
            # Runs do not overlap: from the first one on, every line belongs to one of these. A little before
            # it, because what is stored may be rounded, or in SQLite a text with fewer digits.
            first = runs[-1].started if runs else None
            start = first and first - timedelta(milliseconds=1)
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

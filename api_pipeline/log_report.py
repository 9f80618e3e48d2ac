"""What ``status`` tells of the submission log, the baseline and the spool (interface, "Commands")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tabulate

from api_pipeline import spool
from api_pipeline.db import Database
from api_pipeline.ledger_reading import LedgerReader
from api_pipeline.names import TableName
from api_pipeline.remembered import RunLines

RUNS_SHOWN = 5


def shown(moment: datetime | None) -> str | None:
    """Return a moment to the second, or None."""
    return None if moment is None else moment.isoformat(sep=" ", timespec="seconds")


@dataclass(frozen=True)
class LogReport:
    """The last runs, and who waits for what.

    Attributes:
        remembered: whether the log and the baseline table are there; if not, there is nothing but the spool.
        unsure: people with records whose fate is not known.
        in_flight: people with a payload that was on its way when last heard of.
        spooled: spool files that wait to be written back; None where the folder cannot be read.
    """

    remembered: bool = False
    runs: tuple[RunLines, ...] = ()
    unsure: int = 0
    in_flight: int = 0
    spooled: int | None = 0

    @classmethod
    def read(cls, db: Database, staging: TableName, spool_dir: Path) -> LogReport:
        """Ask the tables beside the staging table, where they are there.

        Raises:
            DatabaseError: if one of them is there and cannot be read.
        """
        spooled = _spooled(spool_dir)
        if not LedgerReader.exists(db, staging):
            return cls(spooled=spooled)
        reader = LedgerReader(db, staging)
        unsure, in_flight = reader.waiting()
        return cls(True, tuple(reader.last_runs(RUNS_SHOWN)), unsure, in_flight, spooled)

    def as_json(self) -> Mapping[str, Any]:
        """Return what goes into the JSON of ``status``; null where there are no tables to tell."""
        runs = [
            {
                "run_id": run.run_id,
                "started": shown(run.started_at),
                "finished": shown(run.finished_at),
                "outcomes": dict(run.outcomes),
            }
            for run in self.runs
        ]
        return {
            "last_runs": runs if self.remembered else None,
            "people_unsure": self.unsure if self.remembered else None,
            "people_in_flight": self.in_flight if self.remembered else None,
            "spool_files": self.spooled,
        }

    def as_text(self) -> str:
        """Return the last runs as a table, and a line for each thing that waits."""
        lines: list[str] = []
        if not self.remembered:
            lines.append("There is no submission log and baseline beside this table; init-db makes them.")
        elif not self.runs:
            lines.append("last runs: none in the submission log")
        else:
            rows = [
                (run.run_id, shown(run.started_at) or "", shown(run.finished_at) or "", _counted(run))
                for run in self.runs
            ]
            headers = ("last runs", "started (UTC)", "last reply (UTC)", "attempts")
            lines.append(tabulate.tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
        waiting = [
            (self.unsure, "people in doubt: a reply was lost, so a payload in full goes next"),
            (self.in_flight, "people with a payload in flight: a run is at work, or one ended early"),
            (self.spooled or 0, "spool files wait; the next live run writes their receipts back"),
        ]
        lines += [f"{count} {what}" for count, what in waiting if count]
        if self.spooled is None:
            lines.append("warning: SPOOL_DIR cannot be read, so whether receipts wait there is not known")
        return "\n".join(lines)


def _counted(run: RunLines) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in run.outcomes.items())


def _spooled(folder: Path) -> int | None:
    try:
        return len(spool.files(folder))
    except OSError:
        return None

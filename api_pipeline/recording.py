"""Writing down what is sent and what became of it: the staging rows, the log and the baseline, together.

:meth:`Recorder.open` is committed before a POST, :meth:`Recorder.settle` after its reply, each in one
transaction over the one connection of the run. If the database is gone for good when receipts have to be
written, they are kept in the spool (:mod:`spool`) before the run ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from api_pipeline import replies, spool
from api_pipeline.db import Database
from api_pipeline.errors import PipelineError
from api_pipeline.ledger import Ledger
from api_pipeline.remembered import Attempt, Closing
from api_pipeline.staging import StagedRow
from api_pipeline.writeback import RowWriter, Write, WriteBack

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be written about one record: the row's outcome, the attempt's, or both."""

    outcome: WriteBack | None
    closing: Closing | None


class Recorder:
    """The one writer of a run. ``ledger`` is None where its tables do not exist."""

    def __init__(
        self,
        db: Database,
        writer: RowWriter,
        ledger: Ledger | None,
        *,
        run_id: str,
        spool_dir: Path,
    ) -> None:
        self._db = db
        self._writer = writer
        self._table = writer.table
        self._ledger = ledger
        self._run_id = run_id
        self._spool_dir = spool_dir

    def open(self, attempts: Sequence[Attempt]) -> set[int]:
        """Commit that these attempts are about to be sent; return the seq of those whose row still is the same.

        Raises:
            DatabaseError: if that cannot be committed; then nothing must be sent.
        """
        ledger = self._ledger
        if ledger is None or not attempts:
            return {attempt.seq for attempt in attempts}
        tries = 0

        def once() -> set[int]:
            nonlocal tries
            tries += 1
            with self._db.transaction():
                return ledger.open(attempts, again=tries > 1)

        return self._db.retrying(once)

    def settle(self, entries: Sequence[Entry]) -> list[StagedRow]:
        """Write outcomes in one transaction; return the rows that had changed meanwhile.

        Raises:
            DatabaseError: if the database is gone for good; receipts are in the spool then.
        """
        outcomes = [entry.outcome for entry in entries if entry.outcome is not None]
        closings = [entry.closing for entry in entries if entry.closing is not None]

        def once() -> list[StagedRow]:
            with self._db.transaction():
                missed = self._writer.write(outcomes) if outcomes else []
                if self._ledger is not None:
                    self._ledger.close(closings)
                return missed

        if not outcomes and not closings:
            return []
        try:
            # Not given up because somebody asks the run to stop: these outcomes are known nowhere else.
            return self._db.retrying(once, to_the_end=True)
        except PipelineError:
            self._spool(entries)
            raise

    def note_tests(self, attempts: Sequence[Attempt]) -> None:
        """Note in the log what testing mode would have sent."""
        ledger = self._ledger
        if ledger is not None and attempts:
            self._transact(lambda: ledger.note_tests(attempts))

    def _transact(self, work: Callable[[], None]) -> None:
        def once() -> None:
            with self._db.transaction():
                work()

        self._db.retrying(once)

    # -- receipts that could not be written -----------------------------------------------------------

    def _spool(self, entries: Sequence[Entry]) -> None:
        kept = [
            spool.Spooled(
                table=self._table.info.full_name,
                person_id=outcome.row.person_id or "",
                kind=outcome.write.value,
                run_id=self._run_id,
                seq=entry.closing.attempt.seq if entry.closing else 0,
                row_hash=(outcome.row.current_hash or b"").hex(),
                receipt=outcome.receipt,
            )
            for entry in entries
            if (outcome := entry.outcome) is not None and outcome.receipt
        ]
        if kept:
            path = spool.write(self._spool_dir, self._run_id, kept)
            log.error(
                "the receipts of %d records are kept in %s; the next run writes them back", len(kept), path
            )

    def replay(self) -> int:
        """Write back the receipts that earlier runs had to keep, and remove their files; return how many.

        A file that cannot be read, or that belongs to another table, is reported and left where it is.
        """
        replayed = 0
        for path in spool.files(self._spool_dir):
            try:
                entries = spool.read(path)
            except spool.SpoolError as error:
                log.error("%s", error)
                continue
            if any(entry.table != self._table.info.full_name for entry in entries):
                log.warning("the spool file %s belongs to another table; a run on that table takes it", path)
                continue
            self._replay(entries)
            path.unlink()
            log.info("wrote back %d receipts that an earlier run had kept in %s", len(entries), path)
            replayed += len(entries)
        return replayed

    def _replay(self, entries: Sequence[spool.Spooled]) -> None:
        rows = self._table.rows_of({entry.person_id for entry in entries})
        writes: list[Entry] = []
        for entry in entries:
            (receipt,) = replies.parse_receipts(json.dumps([entry.receipt]).encode(), 1)
            row = rows.get((entry.person_id, bytes.fromhex(entry.row_hash)))
            outcome = None
            if row is not None:
                outcome = WriteBack(row, Write(entry.kind), receipt.uuid, receipt.timestamp, receipt.raw)
            closing = None
            if self._ledger is not None and entry.seq:
                closing = self._ledger.closing_of(entry.run_id, entry.seq, receipt)
            writes.append(Entry(outcome, closing))
        missed = self.settle(writes)
        for row in missed:
            log.info("row %s (person_id %s) changed meanwhile and stays due", row.key, row.person_id)

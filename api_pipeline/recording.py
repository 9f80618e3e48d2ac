"""Writing down what is sent and what became of it: the staging rows, the log and the baseline, together.

:meth:`Recorder.open` is committed before a POST, :meth:`Recorder.settle` after its reply, each in one
transaction over the one connection of the run. If the database is gone for good when receipts have to be
written, they are kept in the spool (:mod:`spool`) before the run ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from api_pipeline import replies, spool
from api_pipeline.db import Database
from api_pipeline.errors import PipelineError
from api_pipeline.ledger import Ledger
from api_pipeline.remembered import Attempt, Closing, LogOutcome
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
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="record")

    def open(self, attempts: Sequence[Attempt]) -> set[int]:
        """Commit that these attempts are about to be sent; return the seq of those whose row is unchanged.

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

    def close(self) -> None:
        """Finish what is being written."""
        self._pool.shutdown()

    def settle_later(self, entries: Sequence[Entry]) -> Future[list[StagedRow]]:
        """Do what :meth:`settle` does while the caller goes on; statements of other threads wait for it."""
        return self._pool.submit(self.settle, entries)

    def settle(self, entries: Sequence[Entry]) -> list[StagedRow]:
        """Write outcomes in one transaction; return the rows that had changed meanwhile.

        Raises:
            DatabaseError: if the database is gone for good; receipts are in the spool then.
        """
        try:
            return self._settle(entries)
        except PipelineError:
            self._spool(entries)
            raise

    def _settle(self, entries: Sequence[Entry]) -> list[StagedRow]:
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
        # Not given up because somebody asks the run to stop: these outcomes are known nowhere else.
        return self._db.retrying(once, to_the_end=True)

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
        kept = [found for entry in entries if (found := self._spooled(entry)) is not None]
        if not kept:
            return
        try:
            path = spool.write(self._spool_dir, self._run_id, kept)
        except spool.SpoolError as error:
            log.error("%s", str(error))  # what happened to the database is what ends the run
            return
        log.error("the receipts of %d records are kept in %s; the next run writes them back", len(kept), path)

    def _spooled(self, entry: Entry) -> spool.Spooled | None:
        """Return what the spool keeps of an acknowledgement; None for everything that can be had again."""
        outcome, closing = entry.outcome, entry.closing
        attempt = None if closing is None else closing.attempt
        table = self._table.info.full_name
        if outcome is not None:
            row = outcome.row
            if not outcome.receipt or row.current_hash is None:
                return None
            seq = 0 if attempt is None else attempt.seq
            return spool.Spooled(
                table,
                row.person_id or "",
                outcome.write.value,
                self._run_id,
                seq,
                row.current_hash.hex(),
                outcome.receipt,
            )
        if closing is None or attempt is None or closing.outcome is not LogOutcome.SENT:
            return None
        return spool.Spooled(
            table,
            attempt.person_id,
            spool.EARLIER_ID,
            attempt.run_id,
            attempt.seq,
            attempt.row_hash.hex(),
            closing.detail,
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
                log.error("%s", str(error))
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
        missed = self._settle([self._replayed(entry, rows) for entry in entries])
        for row in missed:
            log.info("row %s (person_id %s) changed meanwhile and stays due", row.key, row.person_id)

    def _replayed(self, entry: spool.Spooled, rows: Mapping[tuple[str, bytes], StagedRow]) -> Entry:
        """Say what an acknowledgement of an earlier run means today; for the row only if it is unchanged."""
        (receipt,) = replies.parse_receipts(json.dumps([entry.receipt]).encode(), 1)
        closing = None
        if self._ledger is not None and entry.seq:
            closing = self._ledger.closing_of(entry.run_id, entry.seq, receipt)
            if closing is None:
                return Entry(None, None)  # it is settled, or in doubt: more may have been sent since
        row = rows.get((entry.person_id, bytes.fromhex(entry.row_hash)))
        if (
            row is None
            or entry.kind == spool.EARLIER_ID
            or row.deleted is not (entry.kind == Write.PURGED.value)
        ):
            return Entry(None, closing)
        write = Write(entry.kind)
        if write is Write.SENT_PARTIAL:
            write = Write.SENT_UNKEPT  # the spool holds no payload
        return Entry(WriteBack(row, write, receipt.uuid, receipt.timestamp, receipt.raw), closing)

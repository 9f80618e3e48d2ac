"""One run: from the due rows of the staging table to the API and back.

The way of a row: :func:`planning.survey` sees that it is due; :class:`sourcing.Source` reads it in a page,
checks it and composes what to send; :class:`recording.Recorder` commits that it is about to be sent;
:class:`delivery.Dispatcher` sends it in a batch; the reply decides its fate; the recorder writes the row, the
log and the baseline in one transaction. No transaction is open while a request is under way.

Deletions of earlier ids go first, then deletions, then payloads: an id that changed must be purged, and that
acknowledged, before anything is sent under the new one (domain, "Deletions").
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace

from api_pipeline import db, planning, validation
from api_pipeline.api import ApiClient, ApiConfig
from api_pipeline.config import Settings
from api_pipeline.delivery import Dispatcher, Fate, Record, RecordKind, Result, Writing
from api_pipeline.errors import ExitCode, InterruptedRun, PipelineError
from api_pipeline.ledger import Ledger
from api_pipeline.locking import RunLock
from api_pipeline.progress import Progress
from api_pipeline.recording import Entry, Recorder
from api_pipeline.remembered import Attempt, Closing, LogKind, LogOutcome
from api_pipeline.sourcing import Changed, Event, Failed, Noticed, Settled, Source, Waiting
from api_pipeline.staging import KNOWN_STATUSES, TESTING_RESPONSE, Key, Scope, StagedRow, StagingTable
from api_pipeline.summary import RunSummary
from api_pipeline.writeback import RowWriter, Write, WriteBack

log = logging.getLogger(__name__)

_EVENTS_AT_ONCE = 10  # handled before somebody asks whether a reply has come: a millisecond
_ERRORS_AT_ONCE = 100  # rows that are settled without sending are written back in lots of this many
_SHOWN_FAULTS = 10  # first problems that a dry run lists


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks of one run, beyond the settings."""

    limit: int | None = None
    persons: tuple[str, ...] = ()
    dry_run: bool = False
    allow_deletions: bool = False
    resend: bool = False


def run(
    settings: Settings,
    options: RunOptions,
    *,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
    on_start: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RunSummary:
    """Do the whole nightly job, or simulate it, and return what happened, exit code included.

    Carries out domain, sections 2, 3, 5 and 6. What stops a run half-way, a database that is lost for good
    for example, ends up in the summary, because what was done before has to be told. ``on_start`` is given
    the run id.

    Raises:
        ConfigError: if a setting turns out to be unusable.
        DatabaseError: if the table cannot be opened; nothing was done.
        LockedError: if another run holds the table's lock.
    """
    stop = stop or threading.Event()
    mode = "dry-run" if options.dry_run else "testing" if settings.testing_mode else "live"
    summary = RunSummary(run_id=uuid.uuid4().hex[:12], mode=mode)
    if on_start is not None:
        on_start(summary.run_id)
    started = clock()
    with ExitStack() as stack:
        stack.callback(lambda: setattr(summary, "seconds", clock() - started))
        database = stack.enter_context(
            db.connect(
                settings.db_connection_string.reveal(),
                trust_server_certificate=settings.db_trust_server_certificate,
                stop=stop,
            )
        )
        table = StagingTable(database, settings.table)
        if not options.dry_run:
            stack.enter_context(RunLock(database, table.info.full_name))
        job = _Job(settings, options, table, summary, stop, progress or Progress(), clock)
        stack.callback(job.progress.end)
        try:
            job.do(stack)
        except InterruptedRun:
            summary.codes.add(ExitCode.INTERRUPTED)
            summary.stopped_because = "The run was asked to stop."
        except PipelineError as error:
            summary.codes.add(error.exit_code)
            summary.stopped_because = str(error)
            log.error("%s", str(error))
    return summary


class _Job:
    """The state of one run: what is counted, what waits, and what has been decided."""

    def __init__(
        self,
        settings: Settings,
        options: RunOptions,
        table: StagingTable,
        summary: RunSummary,
        stop: threading.Event,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.options = options
        self.table = table
        self.summary = summary
        self.stop = stop
        self.progress = progress
        self._clock = clock
        self._scope = Scope(options.persons, options.resend)
        self._ledger = Ledger.find(table.db, table, summary.run_id)
        self._writer = RowWriter(table)
        self._recorder = Recorder(
            table.db, self._writer, self._ledger, run_id=summary.run_id, spool_dir=settings.spool_dir
        )
        self._dispatcher: Dispatcher | None = None
        self._entries: list[Entry] = []  # outcomes that wait to be written with the next ones
        self._error_kinds: dict[Key, str] = {}
        self._faults_shown = 0
        self._source: Source  # of the phase that is under way
        self.plan = planning.Plan()

    @property
    def _live(self) -> bool:
        return self.summary.mode == "live"

    def do(self, stack: ExitStack) -> None:
        stack.callback(self._recorder.close)
        self._prepare()
        self.plan = planning.survey(self.table, self._scope, self.options.limit, self._ledger)
        self.summary.due = self.plan.due + self._mark_nameless()
        log.info("run %s (%s): %d rows are due", self.summary.run_id, self.summary.mode, self.summary.due)
        self.progress.begin(self.plan.due)
        if not self.plan.due:
            return
        if self._live:
            self._dispatcher = self._open_dispatcher(stack)
            stack.callback(self._conclude, self._dispatcher)
        source = Source(self.table, self._ledger, self.settings, self._scope, self.plan, self.summary.run_id)
        deleting = self._may_delete()
        for turn in range(max(map(len, self.plan.retiring.values()), default=0)):
            self._send_all(source, source.retirements(turn, deletions=deleting))
        if deleting:
            self._send_all(source, source.deletions())
        self._send_all(source, source.payloads())

    # -- before anything is sent -----------------------------------------------------------------------

    def _prepare(self) -> None:
        for count in self.table.status_counts():
            if count.status not in KNOWN_STATUSES:
                self.summary.held[count.status] = self.summary.held.get(count.status, 0) + count.rows
        for status, rows in self.summary.held.items():
            log.warning("%d rows have the status '%s' and are not sent", rows, status)
        for person in self.table.unknown_persons(self.options.persons) if self.options.persons else ():
            log.error("there is no row for person_id %s", person)
            self.summary.unknown_persons += 1
            self.summary.codes.add(ExitCode.FAILED)
        if self.settings.use_partial_payload and self._ledger is None:
            log.warning(
                "USE_PARTIAL_PAYLOAD: there is no submission log and baseline beside %s, so full payloads "
                "are sent; init-db makes the two tables",
                self.table.info.full_name,
            )
        if not self._live:
            return
        # In this order: a receipt in the spool ends the doubt that recovery would make of its attempt.
        self.summary.replayed = self._recorder.replay()
        if self._ledger is not None:
            self.summary.recovered = self._ledger.recover()
            if self.summary.recovered:
                log.warning(
                    "%d attempts of a run that ended early may or may not have arrived; they go again",
                    self.summary.recovered,
                )
        self.summary.hashes_filled = self._writer.fill_hashes()

    def _mark_nameless(self) -> int:
        if self.options.persons:
            return 0
        dry = self.options.dry_run
        count = self.table.nameless_due() if dry else self._writer.write_nameless_errors(planning.NAMELESS)
        if count:
            self.summary.errors["no person_id"] += count
        return count

    def _may_delete(self) -> bool:
        """Apply the brake: an emptied source must not empty DfE (interface, MAX_DELETIONS_PERCENT)."""
        percent = self.settings.max_deletions_percent
        if self.options.allow_deletions or not self.plan.brake_holds(percent):
            return True
        self.summary.deletions_held_back = self.plan.deletions
        log.error(
            "%d of %d people would be deleted, more than MAX_DELETIONS_PERCENT=%g allows: "
            "no deletion is sent. Check the source of the staging table; if they really left, "
            "run once with --allow-deletions.",
            self.plan.deletions,
            self.plan.people,
            percent,
        )
        return False

    def _open_dispatcher(self, stack: ExitStack) -> Dispatcher:
        deadline = self._clock() + self.settings.run_deadline_minutes * 60
        config = ApiConfig.from_settings(self.settings)
        client = stack.enter_context(ApiClient(config, stop=self.stop, deadline=deadline, clock=self._clock))
        dispatcher = Dispatcher(
            client,
            before=self._before,
            after=self._after,
            stop=self.stop,
            deadline=deadline,
            workers=self.settings.workers,
            clock=self._clock,
        )
        stack.callback(dispatcher.close)
        return dispatcher

    # -- sending ---------------------------------------------------------------------------------------

    def _send_all(self, source: Source, events: Iterator[Event]) -> None:
        """Send the records among the events in batches, or simulate it, and write back the rest."""
        self._source = source
        batches = self._batches(events)
        if self._dispatcher is not None:
            self._dispatcher.send(batches)
        else:
            for batch in filter(None, batches):
                self._simulate(batch)
                if self.stop.is_set():
                    raise InterruptedRun("The run was asked to stop.")
        self._flush()

    def _batches(self, events: Iterator[Event]) -> Iterator[Sequence[Record]]:
        """Gather records into batches; an empty one every few events lets the caller look up."""
        batch: list[Record] = []
        for number, event in enumerate(events):
            if number % _EVENTS_AT_ONCE == 0:
                yield ()
            if isinstance(event, Record):
                self.summary.payload_bytes += len(event.text)
                self.summary.kinds[event.kind.value] += 1
                batch.append(event)
                if len(batch) == self.settings.batch_size:
                    yield batch
                    batch = []
            else:
                self._take(event)
        if batch:
            yield batch

    def _take(self, event: Event) -> None:
        """Deal with what needs no sending."""
        if isinstance(event, Noticed):
            self.summary.warnings[event.rule] += 1
        elif isinstance(event, Failed):
            self._fail(event.row, event.kind, event.reason)
        elif isinstance(event, Changed):
            self._changed([event.row])
        elif isinstance(event, Settled):
            self._settle_unsent(event.outcome)
        elif isinstance(event, Waiting):
            self.progress.advance(1)

    def _settle_unsent(self, outcome: WriteBack) -> None:
        if self.options.dry_run:
            self._count(outcome.write, "")
            self.progress.advance(1)
            return
        if not self._live:
            outcome = WriteBack(outcome.row, Write.TESTING, TESTING_RESPONSE)
        self._entries.append(Entry(outcome, None))
        if len(self._entries) >= _ERRORS_AT_ONCE:
            self._flush()

    def _simulate(self, batch: Sequence[Record]) -> None:
        for record in batch:
            if record.kind is RecordKind.RETIRED_ID:
                self._source.retired(record)
        rows = [record.row for record in batch if record.kind is not RecordKind.RETIRED_ID]
        if self.options.dry_run:
            self.summary.simulated += len(rows)
            self.progress.advance(len(rows))
            return
        self._recorder.note_tests([self._test(record.attempt) for record in batch if record.attempt])
        self._flush([Entry(WriteBack(row, Write.TESTING, TESTING_RESPONSE), None) for row in rows])

    def _test(self, attempt: Attempt) -> Attempt:
        return replace(attempt, seq=self._next_seq(), kind=LogKind.TEST)

    def _next_seq(self) -> int:
        return self._ledger.next_seq() if self._ledger is not None else 0

    def _before(self, records: Sequence[Record]) -> Sequence[Record]:
        """Commit that these records are about to be sent; leave out the rows that changed since."""
        if self._ledger is None:
            return records
        numbered = [
            replace(record, attempt=replace(record.attempt, seq=self._next_seq()))
            if record.attempt
            else record
            for record in records
        ]
        held = self._recorder.open([record.attempt for record in numbered if record.attempt])
        lost = [record.row for record in numbered if record.attempt and record.attempt.seq not in held]
        self._changed(lost)
        # If they have to go again, these people have a line in the baseline.
        return [
            replace(record, attempt=record.attempt and replace(record.attempt, known=True))
            for record in numbered
            if record.attempt is None or record.attempt.seq in held
        ]

    # -- fates -----------------------------------------------------------------------------------------

    def _after(self, results: Sequence[Result]) -> Writing:
        """Turn the fates of one reply into the outcomes of rows and attempts, and begin to write them."""
        return self._write([entry for result in results if (entry := self._entry(result)) is not None])

    def _entry(self, result: Result) -> Entry | None:
        record = result.record
        closing = _closing(result)
        outcome: WriteBack | None = None
        retired = record.kind is RecordKind.RETIRED_ID
        if result.fate is Fate.ACCEPTED and result.receipt is not None:
            if retired:
                self._source.retired(record)
            else:
                outcome = self._accepted(record, result)
        elif result.fate is Fate.REFUSED:
            log.warning(
                "row %s (person_id %s) is in error: %s",
                record.row.key,
                record.row.person_id,
                result.error_kind,
            )
            self._error_kinds[record.row.key] = result.error_kind
            outcome = WriteBack(record.row, Write.ERROR, result.reason)
        elif result.fate is Fate.LEFT:
            self.summary.unsure += result.unsure
            self.progress.advance(0 if retired else 1)
        return Entry(outcome, closing) if outcome is not None or closing is not None else None

    def _accepted(self, record: Record, result: Result) -> WriteBack:
        assert result.receipt is not None  # noqa: S101 -- narrowing for the type checker
        write, sent_text = Write.SENT, None
        if record.kind is RecordKind.DELETION:
            write = Write.PURGED
        elif self.settings.use_partial_payload and self._ledger is not None:
            write = Write.SENT_PARTIAL
            sent_text = record.text.decode()
        receipt = result.receipt
        return WriteBack(record.row, write, receipt.uuid, receipt.timestamp, receipt.raw, sent_text)

    def _fail(self, row: StagedRow, kind: str, reason: str) -> None:
        """Note an error; the reasons are written back in lots, and never logged where they quote a reply."""
        if self.options.dry_run:
            self.summary.errors[kind] += 1
            if self._faults_shown < _SHOWN_FAULTS:
                self._faults_shown += 1
                log.warning("person_id %s: %s", row.person_id, reason)
            self.progress.advance(1)
            return
        log.warning("row %s (person_id %s) is in error: %s", row.key, row.person_id, kind)
        self._error_kinds[row.key] = kind
        self._entries.append(Entry(WriteBack(row, Write.ERROR, reason), None))
        if len(self._entries) >= _ERRORS_AT_ONCE:
            self._flush()

    def _flush(self, entries: Sequence[Entry] = ()) -> None:
        """Write these outcomes, and those noted since, and count what was hit."""
        self._write(entries).finish()

    def _write(self, entries: Sequence[Entry]) -> Writing:
        """Begin to write these outcomes, and those noted since, in one transaction."""
        waiting, self._entries = self._entries, []
        written = [*entries, *waiting]
        future = self._recorder.settle_later(written)
        return Writing(future.done, lambda: self._written(written, future))

    def _written(self, written: Sequence[Entry], future: Future[list[StagedRow]]) -> None:
        """Count what was hit."""
        outcomes = [entry.outcome for entry in written if entry.outcome is not None]
        try:
            missed = future.result()
        except PipelineError:
            self.summary.unrecorded += sum(1 for outcome in outcomes if outcome.receipt)
            raise
        keys = {row.key for row in missed}
        for outcome in outcomes:
            kind = self._error_kinds.pop(outcome.row.key, "")
            if outcome.row.key not in keys:
                self._count(outcome.write, kind)
        self.progress.advance(len(outcomes) - len(missed))
        self._changed(missed)

    def _count(self, write: Write, error_kind: str) -> None:
        self.summary.sent += write in (Write.SENT, Write.SENT_PARTIAL)
        self.summary.deleted += write is Write.PURGED
        self.summary.unchanged += write is Write.UNCHANGED
        self.summary.never_sent += write is Write.NEVER_SENT
        self.summary.simulated += write is Write.TESTING
        if write is Write.ERROR:
            self.summary.errors[error_kind] += 1

    def _changed(self, rows: Sequence[StagedRow]) -> None:
        for row in rows:
            log.info("row %s (person_id %s) changed meanwhile and stays due", row.key, row.person_id)
        self.summary.changed_meanwhile += len(rows)
        self.progress.advance(len(rows))

    def _conclude(self, dispatcher: Dispatcher) -> None:
        """Take over what the dispatcher knows; done however the run ends."""
        self.summary.requests = dispatcher.requests
        self.summary.bytes_sent = dispatcher.bytes_sent
        if dispatcher.gave_up:
            self.summary.codes.add(ExitCode.API)
        if dispatcher.halt is not None:
            self.summary.codes.add(dispatcher.halt.code)
            self.summary.stopped_because = dispatcher.halt.message
            log.error("%s", dispatcher.halt.message)


def _closing(result: Result) -> Closing | None:
    """Say what the log and the baseline are told of an attempt; reasons only where they hold no data."""
    attempt = result.record.attempt
    if attempt is None or not result.begun:
        return None
    outcome = LogOutcome.UNSURE if result.unsure else LogOutcome.ERROR
    detail = result.note
    receipt = result.receipt
    if receipt is not None:
        outcome, detail = LogOutcome.SENT, receipt.raw
    elif result.fate is Fate.REFUSED:
        paths = validation.field_paths(result.reason)
        detail = f"{result.error_kind}: {', '.join(paths)}" if paths else result.error_kind
    return Closing(
        attempt,
        outcome,
        posts=result.posts,
        http_status=result.status,
        detail=detail,
        receipt="" if receipt is None else receipt.uuid,
        moment=None if receipt is None else receipt.timestamp,
    )

"""One run: from the due rows of the staging table to the API and back.

The way of a row: :func:`planning.survey` sees that it is due; a page brings its payload; validation lets it
pass; :class:`delivery.Dispatcher` sends it in a batch; the reply decides its fate; the staging table takes
the outcome if the row still is what was read. No transaction is open while a request is under way.

Deletions of earlier ids go first, then deletions, then payloads: an id that changed must be purged, and that
acknowledged, before anything is sent under the new one (domain, "Deletions").
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from api_pipeline import db, payload, planning, validation
from api_pipeline.api import ApiClient, ApiConfig
from api_pipeline.config import Settings
from api_pipeline.delivery import Dispatcher, Fate, Record, RecordKind, Result
from api_pipeline.errors import ExitCode, InterruptedRun, PipelineError
from api_pipeline.locking import RunLock
from api_pipeline.staging import KNOWN_STATUSES, Key, Scope, StagedRow, StagingTable, Write, WriteBack
from api_pipeline.summary import RunSummary

log = logging.getLogger(__name__)

_ERRORS_AT_ONCE = 100  # rows that failed validation are written back in lots of this many
_SHOWN_FAULTS = 10  # first problems that a dry run lists

TESTING_RESPONSE = "TESTING_MODE: nothing was sent."


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks of one run, beyond the settings."""

    limit: int | None = None
    persons: tuple[str, ...] = ()
    dry_run: bool = False
    allow_deletions: bool = False
    resend: bool = False


class Progress:
    """Where a run reports how far it is; the default reports nothing."""

    def begin(self, total: int) -> None:
        """The run is going to handle ``total`` rows."""

    def advance(self, rows: int) -> None:
        """So many more rows have been handled."""

    def end(self) -> None:
        """The run is over, one way or another."""


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

    Carries out domain, sections 2, 3 and 5 (full mode and deletions). What stops a run half-way, a database
    that is lost for good for example, ends up in the summary, because what was done before has to be told.

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
            log.error("%s", error)
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
        self._dispatcher: Dispatcher | None = None
        self._failed: list[WriteBack] = []
        self._error_kinds: dict[Key, str] = {}
        self._waiting: set[Key] = set()  # rows whose earlier id has not been purged
        self._faults_shown = 0
        self.plan = planning.Plan()

    def do(self, stack: ExitStack) -> None:
        self._warn_of_held_rows()
        self._warn_of_unknown_persons()
        if self.summary.mode == "live":
            self.summary.hashes_filled = self.table.fill_hashes()
        self.plan = planning.survey(self.table, self._scope, self.options.limit)
        nameless = 0
        if not self.options.persons:
            dry = self.options.dry_run
            table = self.table
            nameless = table.nameless_due() if dry else table.write_nameless_errors(planning.NAMELESS)
        self.summary.due = self.plan.due + nameless
        if nameless:
            self.summary.errors["no person_id"] += nameless
        log.info("run %s (%s): %d rows are due", self.summary.run_id, self.summary.mode, self.summary.due)
        if self.settings.use_partial_payload:
            log.warning("USE_PARTIAL_PAYLOAD: no baseline is kept here yet, so full payloads are sent")
        self.progress.begin(self.plan.due)
        if not self.plan.due:
            return
        if self.summary.mode == "live":
            self._dispatcher = self._open_dispatcher(stack)
            stack.callback(self._conclude, self._dispatcher)
        self._retire_ids()
        self._send_deletions()
        self._send_all(self._payload_records())

    def _open_dispatcher(self, stack: ExitStack) -> Dispatcher:
        deadline = self._clock() + self.settings.run_deadline_minutes * 60
        config = ApiConfig.from_settings(self.settings)
        client = ApiClient(config, stop=self.stop, deadline=deadline, clock=self._clock)
        return Dispatcher(stack.enter_context(client), stop=self.stop, deadline=deadline, clock=self._clock)

    def _warn_of_held_rows(self) -> None:
        for count in self.table.status_counts():
            if count.status not in KNOWN_STATUSES:
                self.summary.held[count.status] = self.summary.held.get(count.status, 0) + count.rows
        for status, rows in self.summary.held.items():
            log.warning("%d rows have the status '%s' and are not sent", rows, status)

    def _warn_of_unknown_persons(self) -> None:
        if self.options.persons:
            for person in self.table.unknown_persons(self.options.persons):
                log.error("there is no row for person_id %s", person)
                self.summary.unknown_persons += 1
                self.summary.codes.add(ExitCode.FAILED)

    # -- what is sent, in this order ------------------------------------------------------------------

    def _retire_ids(self) -> None:
        """Purge the ids that people had before; whoever's purge is not acknowledged waits."""
        self._waiting.update(self.plan.retiring)
        self._send_all(self._retirement_records())

    def _retirement_records(self) -> Iterator[Record]:
        for page in self.table.rows(list(self.plan.retiring)):
            for row in page:
                earlier, mis_id = _ids(row.previous_payload)
                if earlier is None or earlier == _ids(row.payload)[0]:
                    self._waiting.discard(row.key)  # refreshed since the survey
                    continue
                if earlier != self.plan.retiring[row.key] or (row.deleted and self._braked):
                    continue  # refreshed since, so that somebody else may hold this id; or held by the brake
                text = payload.deletion(earlier, mis_id)
                if validation.check_text(text.decode()).errors:
                    self._waiting.discard(row.key)  # DfE cannot hold an id that it does not accept
                    continue
                yield Record(_light(row), RecordKind.RETIRED_ID, text)

    @property
    def _braked(self) -> bool:
        percent = self.settings.max_deletions_percent
        return self.plan.brake_holds(percent) and not self.options.allow_deletions

    def _send_deletions(self) -> None:
        if self._braked:
            self.summary.deletions_held_back = self.plan.deletions
            log.error(
                "%d of %d people would be deleted, more than MAX_DELETIONS_PERCENT=%g allows: "
                "no deletion is sent. Check the source of the staging table; if they really left, "
                "run once with --allow-deletions.",
                self.plan.deletions,
                self.plan.people,
                self.settings.max_deletions_percent,
            )
            return
        self._send_all(self._deletion_records())

    def _deletion_records(self) -> Iterator[Record]:
        for page in self.table.pages(self._scope, deleted=True, last=self.plan.last_key):
            for row in page:
                text = None if self._blocked(row) else self._deletion_text(row)
                if text is not None:
                    yield Record(_light(row), RecordKind.DELETION, text)

    def _deletion_text(self, row: StagedRow) -> bytes | None:
        """Return the purge of the id that the row has now, or had before where that cannot be read."""
        for source in (row.payload, row.previous_payload):
            child_id, mis_id = _ids(source)
            if child_id is None:
                continue
            current = source is row.payload
            if current and not self._surveyed(row, child_id):
                return None
            if not current and (child_id in self.plan.child_ids or child_id in self.plan.held_ids):
                continue  # another row holds this id now
            for text in (payload.deletion(child_id, mis_id), payload.deletion(child_id, None)):
                if not validation.check_text(text.decode()).errors:
                    return text
        self._fail(row, "validation", "No payload of this row has a la_child_id that can be purged.")
        return None

    def _payload_records(self) -> Iterator[Record]:
        for page in self.table.pages(self._scope, deleted=False, last=self.plan.last_key):
            for row in page:
                if not self._blocked(row):
                    yield from self._full(row)

    def _full(self, row: StagedRow) -> Iterator[Record]:
        checked = validation.check_text(row.payload)
        blocking = self.settings.validation == "block"
        for finding in checked.warnings if blocking else checked.findings:
            self.summary.warnings[finding.rule] += 1
        child_id = payload.child_ids(checked.value)[0]
        if (checked.errors and blocking) or child_id is None or row.payload is None:
            self._fail(row, "validation", validation.describe(checked.errors))
        elif self._surveyed(row, child_id):
            yield Record(_light(row), RecordKind.FULL, checked.encoded or row.payload.encode())

    def _surveyed(self, row: StagedRow, child_id: str) -> bool:
        """Whether the survey saw this id: a row that was refreshed since is left to the next run."""
        if child_id in self.plan.child_ids:
            return True
        self._changed([row])
        return False

    def _blocked(self, row: StagedRow) -> bool:
        """Deal with a row that must not be sent, whatever its payload."""
        if row.person_id is None or not row.person_id.strip():
            self._fail(row, "no person_id", planning.NAMELESS)
        elif row.key in self.plan.blocked:
            self._fail(row, "shared id", self.plan.blocked[row.key])
        elif row.key not in self._waiting:
            return False
        else:
            self.progress.advance(1)
        return True

    # -- fates ----------------------------------------------------------------------------------------

    def _send_all(self, records: Iterable[Record]) -> None:
        """Send records in batches, or simulate it, and write back what became of them."""
        batch: list[Record] = []
        for record in records:
            batch.append(record)
            if len(batch) == self.settings.batch_size:
                self._send(batch)
                batch = []
            if self._halted():
                break
        if batch:
            self._send(batch)
        self._flush()

    def _halted(self) -> bool:
        if self._dispatcher is not None:
            return self._dispatcher.halt is not None
        if self.stop.is_set():
            raise InterruptedRun("The run was asked to stop.")
        return False

    def _send(self, batch: Sequence[Record]) -> None:
        self.summary.payload_bytes += sum(len(record.text) for record in batch)
        if self._dispatcher is None:
            self._simulate(batch)
            return
        for results in self._dispatcher.send(batch):
            self._take(results)

    def _simulate(self, batch: Sequence[Record]) -> None:
        outcomes = [
            WriteBack(record.row, Write.TESTING, TESTING_RESPONSE)
            for record in batch
            if record.kind is not RecordKind.RETIRED_ID
        ]
        self._waiting.difference_update(
            record.row.key for record in batch if record.kind is RecordKind.RETIRED_ID
        )
        if self.options.dry_run:
            self.summary.simulated += len(outcomes)
            self.progress.advance(len(outcomes))
        else:
            self._flush(outcomes)

    def _take(self, results: Sequence[Result]) -> None:
        """Turn the fates of one reply into the rows' outcomes."""
        outcomes: list[WriteBack] = []
        for result in results:
            record = result.record
            if result.fate is Fate.LEFT:
                self.summary.unsure += result.unsure
                if record.kind is not RecordKind.RETIRED_ID:
                    self.progress.advance(1)
            elif result.receipt is not None:
                if record.kind is RecordKind.RETIRED_ID:
                    self._waiting.discard(record.row.key)
                    continue
                write = Write.PURGED if record.kind is RecordKind.DELETION else Write.SENT
                outcomes.append(WriteBack(record.row, write, result.receipt.uuid, result.receipt.timestamp))
            else:
                self._fail(record.row, result.error_kind, result.reason)
        try:
            self._flush(outcomes)
        except PipelineError:
            self.summary.unrecorded += len(outcomes)
            raise

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
        self._failed.append(WriteBack(row, Write.ERROR, reason))
        self._error_kinds[row.key] = kind
        if len(self._failed) >= _ERRORS_AT_ONCE:
            self._flush()

    def _flush(self, outcomes: Sequence[WriteBack] = ()) -> None:
        """Write these outcomes, and the errors noted since, in one transaction; count what was hit."""
        failed, self._failed = self._failed, []
        written = [*outcomes, *failed]
        if not written:
            return
        missed = self.table.write_back(written)
        keys = {row.key for row in missed}
        for outcome in written:
            kind = self._error_kinds.pop(outcome.row.key, "")
            if outcome.row.key in keys:
                continue
            self.summary.sent += outcome.write is Write.SENT
            self.summary.deleted += outcome.write is Write.PURGED
            self.summary.simulated += outcome.write is Write.TESTING
            if outcome.write is Write.ERROR:
                self.summary.errors[kind] += 1
        self.progress.advance(len(written) - len(missed))
        self._changed(missed)

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


def _ids(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    try:
        return payload.child_ids(payload.parse(text))
    except payload.UnreadablePayload:
        return None, None


def _light(row: StagedRow) -> StagedRow:
    """Drop the texts that the write-back does not need, so that a batch holds each payload once."""
    if row.current_hash is None:
        return replace(row, previous_payload=None)
    # Nearly every row comes this way, and spelt out it takes half the time of replace().
    return StagedRow(row.key, row.person_id, None, row.current_hash, row.deleted)

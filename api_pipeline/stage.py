"""``stage``: one night from the SSD tables to the staging table.

Carries out ssd, section 5. The way of a person: :class:`ssd_source.SsdSource` reads them in a page of people,
:class:`ssd_cohort.Judge` says whether they are in the cohort, :class:`ssd_payload.PayloadBuilder` builds the
payload, :class:`refresh.Refresher` compares it with the staged row and writes the difference. All of it is
one transaction of the staging table's database: committed as a whole, or as if it had never been.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from api_pipeline import db
from api_pipeline.builder_process import BuilderProcess
from api_pipeline.cohort_building import BuildOptions, BuiltPage, CohortCounts
from api_pipeline.config import Settings
from api_pipeline.errors import ConfigError, ExitCode, InterruptedRun
from api_pipeline.locking import RunLock
from api_pipeline.progress import Progress
from api_pipeline.refresh import Refresher
from api_pipeline.setting_values import SQLITE_PREFIX
from api_pipeline.source_access import connect_source
from api_pipeline.ssd_source import PEOPLE_PER_PAGE, SourceOptions, SsdSource
from api_pipeline.ssd_window import Window, has_just_moved
from api_pipeline.stage_summary import StageSummary
from api_pipeline.staging import StagingTable

log = logging.getLogger(__name__)

_TAKEN_AT_ONCE = 500  # payloads that are compared and written before a request to stop is looked for
_TWO_PROCESSES_FROM = PEOPLE_PER_PAGE  # people; one page is built when there is nothing else to do


@dataclass(frozen=True)
class StageOptions:
    """What the command line asks of one night, beyond the settings."""

    dry_run: bool = False
    persons: tuple[str, ...] = ()
    as_of: date | None = None
    allow_deletions: bool = False


def stage(
    settings: Settings,
    options: StageOptions,
    *,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
    on_start: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    today: Callable[[], date] = date.today,
) -> StageSummary:
    """Build all payloads, refresh the staging table, and return what happened, exit code included.

    A dry run gives the same numbers, takes no lock and writes nothing. ``on_start`` is given the run id.

    Raises:
        ConfigError: for an unsafe combination of source and table, before anything is read.
        DatabaseError: if the source or the table cannot be read or written to; nothing was written.
        LockedError: if another run holds the table's lock.
    """
    stop = stop or threading.Event()
    window = _window(options.as_of or today(), settings.window_months)
    summary = StageSummary(
        run_id=uuid.uuid4().hex[:12],
        mode="dry-run" if options.dry_run else "stage",
        run_date=window.run_date,
        window_start=window.start.date(),
        window_end=window.end.date(),
    )
    if on_start is not None:
        on_start(summary.run_id)
    started = clock()
    progress = progress or Progress()
    with ExitStack() as stack:
        stack.callback(lambda: setattr(summary, "seconds", clock() - started))
        database = stack.enter_context(
            db.connect(
                settings.db_connection_string.reveal(),
                trust_server_certificate=settings.db_trust_server_certificate,
                stop=stop,
            )
        )
        opener = _SourceOpener(settings, database, window, stop)
        opener.check()
        table = StagingTable(database, settings.table)
        if not options.dry_run:
            stack.enter_context(RunLock(database, table.info.full_name))
        stack.callback(progress.end)
        night = _Night(settings, options, table, opener, window, stop, progress)
        try:
            database.retrying(lambda: night.attempt(summary))
        except InterruptedRun:
            summary.codes.add(ExitCode.INTERRUPTED)
            summary.stopped_because = "stage was asked to stop."
        log.info(
            "stage %s (%s): %d in the cohort, %d rows written",
            summary.run_id,
            summary.mode,
            summary.cohort,
            summary.written,
        )
    return summary


def _window(run_date: date, months: int) -> Window:
    try:
        return Window.of(run_date, months)
    except (ValueError, OverflowError):
        raise ConfigError(
            "The window lies outside the calendar.",
            hop="settings",
            remedy="Check --as-of and WINDOW_MONTHS.",
        ) from None


class _SourceOpener:
    """Gives the source tables, in the staging table's transaction or in a database of their own."""

    def __init__(
        self, settings: Settings, database: db.Database, window: Window, stop: threading.Event
    ) -> None:
        self._settings = settings
        self._database = database
        self._window = window
        self._stop = stop
        self._options = SourceOptions.of(settings)
        own = settings.ssd_connection_string
        staging = settings.db_connection_string.reveal()
        self._checked: SsdSource | None = None  # good for one attempt: it remembers what it has read
        self._apart = own is not None and not _same_place(own.reveal(), staging)

    def check(self) -> None:
        """Refuse an unsafe combination, and a source that lacks something (interface, last paragraph).

        Raises:
            ConfigError: for real people and a table of fake children, or the other way round.
            DatabaseError: naming the first missing table or column.
        """
        if self._apart:
            with connect_source(self._settings, stop=self._stop) as database:
                self._check(self._source(database))
        else:
            source = self._source(self._database)
            self._check(source)
            self._checked = source

    def _check(self, source: SsdSource) -> None:
        table = self._settings.table
        if source.is_fake and not table.is_anon:
            raise ConfigError(
                f"The SSD tables hold fake people, and {table} is a table for real ones.",
                hop="settings",
                remedy="Use a table that ends in _anon, or check SSD_SCHEMA and SSD_CONNECTION_STRING.",
            )
        if table.is_anon and not source.is_fake and source.is_there:
            raise ConfigError(
                f"The SSD tables are not marked as fake, so they hold real people; {table} is for fake ones.",
                hop="settings",
                remedy="Set TABLE_NAME to a table for real people; init-db --ssd makes tables for fake ones.",
            )
        source.require()

    def _source(self, database: db.Database) -> SsdSource:
        return SsdSource(database, self._options, since=self._window.start)

    @contextmanager
    def opened(self, *, write: bool) -> Iterator[SsdSource]:
        """Begin the transaction, or both, and give the source; commit at the end.

        The source's own transaction ends first: it must not stand in the way of the commit.
        """
        if not self._apart:
            source, self._checked = self._checked or self._source(self._database), None
            source.require()
            with self._database.transaction(consistent=True, write=write):
                yield source
            return
        with connect_source(self._settings, stop=self._stop) as database:
            source = self._source(database)
            source.require()
            with (
                self._database.transaction(consistent=True, write=write),
                database.transaction(consistent=True, write=False),
            ):
                yield source


def _same_place(one: str, other: str) -> bool:
    """Whether two connection strings lead to one database; SQLite lets nobody write beside a reader."""
    if one == other:
        return True
    if not all(text.casefold().startswith(SQLITE_PREFIX) for text in (one, other)):
        return False
    first, second = (Path(text[len(SQLITE_PREFIX) :].strip()).resolve() for text in (one, other))
    return first == second


class _RolledBack(Exception):
    """Ends a transaction that must leave nothing behind."""


class _Night:
    """The work of one night; nothing of an attempt outlives it but the summary."""

    def __init__(
        self,
        settings: Settings,
        options: StageOptions,
        table: StagingTable,
        opener: _SourceOpener,
        window: Window,
        stop: threading.Event,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._options = options
        self._table = table
        self._opener = opener
        self._window = window
        self._stop = stop
        self._progress = progress
        self._begun = False

    def attempt(self, summary: StageSummary) -> None:
        """Do it all once, and commit or leave no trace; ``summary`` gets what this attempt counted."""
        write = not self._options.dry_run
        try:
            with self._opener.opened(write=write) as source:
                self._refresh(source, summary)
                if summary.held_because or not write:
                    raise _RolledBack
        except _RolledBack:
            log.debug("rolled back")

    def _refresh(self, source: SsdSource, summary: StageSummary) -> None:
        options, counts = self._options, CohortCounts()
        people = len(options.persons) or source.count()
        with BuilderProcess(wanted=people > _TWO_PROCESSES_FROM and (os.cpu_count() or 1) > 1) as process:
            refresher = Refresher(self._table, write=not options.dry_run, persons=options.persons)
            building = BuildOptions(
                window=self._window,
                professionals=source.professionals(),
                uasc_pattern=self._settings.uasc_pattern,
                shared=source.shared_ids(),
                listed=source.listed_ids(),
            )
            if not options.persons:
                refresher.leave_nameless(source.nameless())
            if self._begun:  # an attempt before this one failed
                self._progress.end()
            self._begun = True
            self._progress.begin(people)
            met: set[str] = set()
            for page in process.built(source.pages(options.persons), building):
                if options.persons:
                    met.update(map(str.strip, page.people))
                counts.add(page.counts)
                self._take(page, refresher)
        held = refresher.finish(None if options.allow_deletions else self._settings.max_deletions_percent)
        self._require_going_on()
        unknown = [
            name for name in options.persons if name.strip() not in met and not refresher.is_staged(name)
        ]
        for name in unknown:
            log.error("there is nobody with person_id %s, neither in the source nor staged", name)
        summary.people, summary.cohort = counts.people, counts.cohort
        summary.grounds, summary.excluded = counts.grounds, counts.excluded
        summary.changes, summary.rules = refresher.changes, counts.rules
        summary.unknown_persons = len(unknown)
        summary.held_because = self._because(held)

    def _take(self, page: BuiltPage, refresher: Refresher) -> None:
        for person_id, reason in page.left:
            refresher.leave(person_id, reason)
        for start in range(0, len(page.built), _TAKEN_AT_ONCE):
            self._require_going_on()
            refresher.take(page.built[start : start + _TAKEN_AT_ONCE])
        self._progress.advance(page.counts.people)
        self._require_going_on()

    def _require_going_on(self) -> None:
        if self._stop.is_set():
            raise InterruptedRun("stage was asked to stop; nothing was written.")

    def _because(self, held: list[str]) -> str:
        if not held:
            return ""
        text = (
            f"{', and '.join(held)} (MAX_DELETIONS_PERCENT={self._settings.max_deletions_percent:g}). "
            "Check the SSD tables; if they are right, give --allow-deletions once."
        )
        if has_just_moved(self._window.run_date, self._settings.window_months):
            text += (
                f" The window has moved on by a year: what ended before {self._window.start:%Y-%m-%d} leaves."
            )
        log.error("nothing was written: %s", text)
        return text

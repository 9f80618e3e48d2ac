"""``validate --source``: what in the SSD would break a rule of the payload, before anything is staged.

Goes the way of ``stage`` without writing: the same pages, the same judgement of the cohort, the same payloads
(ssd, sections 1 to 3), checked against the record schema (domain, section 4). What is kept of a person or a
record is its id, as an example.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import tabulate

from api_pipeline import validation
from api_pipeline.config import Settings
from api_pipeline.errors import ExitCode, InterruptedRun
from api_pipeline.inspection import Groups, RuleGroup
from api_pipeline.progress import Progress
from api_pipeline.source_access import connect_source
from api_pipeline.source_dates import reversed_dates
from api_pipeline.ssd_cohort import judge
from api_pipeline.ssd_payload import PayloadBuilder
from api_pipeline.ssd_source import PeoplePage, SourceOptions, SsdSource
from api_pipeline.ssd_tables import Person
from api_pipeline.ssd_window import Window
from api_pipeline.validation import Finding, Severity

_ID_COLUMN = "ssd_person.pers_person_id"
_NAMELESS = Finding(_ID_COLUMN, "required", Severity.ERROR, "must not be empty")
_SHARED = Finding(
    _ID_COLUMN, "shared_id", Severity.ERROR, "must not be the id of another person, outer blanks aside"
)
_REVERSED = ("reversed_dates", Severity.WARNING, "the first date must not be earlier than the second")
_CHANGED = "the payload is sent, but not with the value as it stands in the SSD"


@dataclass(frozen=True)
class SourceReport:
    """What is wrong with the source, by rule; errors first, the most frequent first.

    Attributes:
        people: rows of ssd_person, those without an id among them; ``cohort`` counts those in the cohort.
        people_with_errors: people whom ``stage`` would leave as they are, or ``run`` would not send.
        groups: rules that people break, with person ids as examples.
        records: rules that single records break, whoever's they are, with record ids as examples.
    """

    run_date: date
    window_start: date
    people: int
    cohort: int
    people_with_errors: int
    people_with_warnings: int
    groups: tuple[RuleGroup, ...]
    records: tuple[RuleGroup, ...]

    @property
    def exit_code(self) -> ExitCode:
        """1 where anybody could not be staged or sent, else 0; warnings are no reason."""
        return ExitCode.FAILED if self.people_with_errors else ExitCode.OK

    def as_json(self) -> Mapping[str, Any]:
        """Return the machine-readable result."""
        return {
            "command": "validate",
            "exit_code": int(self.exit_code),
            "run_date": self.run_date.isoformat(),
            "window_start": self.window_start.isoformat(),
            "people": self.people,
            "cohort": self.cohort,
            "people_with_errors": self.people_with_errors,
            "people_with_warnings": self.people_with_warnings,
            "groups": [
                *_as_json(self.groups, "people", "person_ids"),
                *_as_json(self.records, "records", "record_ids"),
            ],
        }

    def as_text(self) -> str:
        """Return a table of the rules, what each of them allows, and the totals."""
        headers = ("severity", "number", "of", "rule", "where", "for example")
        listed = [(group, what) for what, part in self._parts.items() for group in part]
        lines = [
            (group.severity.value, group.rows, what, group.rule, group.path, ", ".join(group.examples))
            for group, what in listed
        ]
        totals = (
            f"source on {self.run_date}, window from {self.window_start}: {self.people} people, "
            f"{self.cohort} in the cohort, {self.people_with_errors} with errors, "
            f"{self.people_with_warnings} with warnings"
        )
        if not lines:
            return totals
        table = tabulate.tabulate(lines, headers=headers, tablefmt="simple", disable_numparse=True)
        allowed = dict.fromkeys(
            [f"{group.path}: {group.rule}: {group.message}" for group in self.groups if group.path]
            + [f"{group.rule}: {group.message}" for group in self.records]
        )
        return "\n".join([table, "", *allowed, *([""] if allowed else []), totals])

    @property
    def _parts(self) -> Mapping[str, tuple[RuleGroup, ...]]:
        return {"people": self.groups, "records": self.records}


def _as_json(groups: Iterable[RuleGroup], number: str, ids: str) -> Iterator[Mapping[str, Any]]:
    for group in groups:
        yield {
            "severity": group.severity.value,
            "rule": group.rule,
            "path": group.path,
            "message": group.message,
            number: group.rows,
            ids: list(group.examples),
        }


def validate_source(
    settings: Settings,
    as_of: date | None = None,
    *,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> SourceReport:
    """Check the source as ``stage`` would read it on ``as_of``, today by default.

    Raises:
        ConfigError: if a connection string cannot be read, or for SSD_SCHEMA in SQLite.
        DatabaseError: if the source lacks something or cannot be read.
        InterruptedRun: if ``stop`` was set.
    """
    window = Window.of(as_of or date.today(), settings.window_months)  # noqa: DTZ011 -- this machine's day
    stop, progress = stop or threading.Event(), progress or Progress()
    try:
        with connect_source(settings, stop=stop) as database:
            source = SsdSource(database, SourceOptions.of(settings))
            return database.retrying(lambda: _Check(settings, source, window, stop, progress).report())
    finally:
        progress.end()


class _Check:
    """One reading of the source."""

    def __init__(
        self,
        settings: Settings,
        source: SsdSource,
        window: Window,
        stop: threading.Event,
        progress: Progress,
    ) -> None:
        source.require()
        self._source = source
        self._window = window
        self._stop = stop
        self._progress = progress
        self._builder = PayloadBuilder(window, source.professionals(), settings.uasc_pattern)
        self._shared = source.shared_ids()
        self._listed = source.listed_ids()
        self._people = Groups()
        self._records = Groups()
        self._met: set[int] = set()  # records with a fault: two pages may hold the same one
        self._cohort = 0

    def report(self) -> SourceReport:
        """Read everything, and say what was found."""
        self._progress.begin(self._source.count())
        for page in self._source.pages():
            for person in page.people:
                self._people.add(person.pers_person_id, self._findings(person, page))
            self._look_at_dates(page)
            self._progress.advance(len(page.people))
            if self._stop.is_set():
                raise InterruptedRun("The check was asked to stop.")
        for _ in range(self._source.nameless()):
            self._people.add(None, [_NAMELESS])
        return SourceReport(
            run_date=self._window.run_date,
            window_start=self._window.start.date(),
            people=self._people.rows,
            cohort=self._cohort,
            people_with_errors=self._people.with_errors,
            people_with_warnings=self._people.with_warnings,
            groups=self._people.listed(),
            records=self._records.listed(),
        )

    def _findings(self, person: Person, page: PeoplePage) -> list[Finding]:
        person_id = person.pers_person_id or ""
        if person_id.strip() in self._shared:
            return [_SHARED]
        if person_id in page.unreadable:
            where = page.unreadable[person_id]
            return [Finding(where, "unreadable_date", Severity.ERROR, "must be a date")]
        listed = self._listed is None or person_id.strip() in self._listed
        if not judge(person, page.page, self._window, listed).included:
            return []
        self._cohort += 1
        self._builder.tally.clear()
        payload = self._builder.build(person, page.page)
        changed = [Finding("", rule, Severity.WARNING, _CHANGED) for rule in self._builder.tally]
        return [*validation.check_value(payload), *changed]

    def _look_at_dates(self, page: PeoplePage) -> None:
        for found in reversed_dates(page.page, self._window):
            if found.key in self._met:
                continue
            self._met.add(found.key)
            where = f"{found.column} < {found.after}"
            self._records.add(found.record_id, [Finding(where, *_REVERSED)])

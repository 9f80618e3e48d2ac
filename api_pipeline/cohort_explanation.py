"""Why a person is in the cohort, or is not, and what ``stage`` would do with the row: a part of ``explain``.

Nothing is worked out a second time. :func:`ssd_cohort.judge` says whether, a dry run of ``stage`` says what
would become of the row, and which records give a ground is found by asking ``judge`` again with each of them
alone (ssd, sections 2 and 5). Nothing in it is of a child but ids.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from api_pipeline import delta, payload, schema, ssd_schema, validation
from api_pipeline.config import Settings
from api_pipeline.differences import Differences, compare
from api_pipeline.errors import ConfigError, ConnectionLostError, DatabaseError, ExitCode, InterruptedRun
from api_pipeline.refresh import Changes, Left
from api_pipeline.source_access import connect_source, source_is_meant
from api_pipeline.ssd_cohort import Exclusion, Ground, judge
from api_pipeline.ssd_payload import PayloadBuilder
from api_pipeline.ssd_source import PeoplePage, SourceOptions, SsdSource
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    CareLeaver,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    Person,
    SourcePage,
)
from api_pipeline.ssd_window import Window
from api_pipeline.stage import StageOptions, stage
from api_pipeline.staged_people import StagedPeople
from api_pipeline.staging import StagingTable

_PATHS_SHOWN = 40
_RECORDS_SHOWN = 5
_NOT_ELIGIBLE = frozenset({Exclusion.NO_BIRTH_DATE, Exclusion.NOT_BORN_IN_WINDOW, Exclusion.TOO_OLD})

# What stage would do with the row, in words.
_TONIGHT: Mapping[str, str] = {
    "new": "it adds a row for the person",
    "updated": "it gives the row a new payload, because something changed",
    "returned": "it brings the row back with a new payload",
    "unchanged": "nothing, because the payload is the same",
    "hash_only": "it replaces the hash alone, because the payload is the same",
    "deleted": "it marks the row as deleted",
    "nothing": "nothing, because the person is not in the cohort and there is no row to delete",
}
_CHANGING = frozenset({"new", "updated", "returned", "deleted"})
_REWRITING = frozenset({"updated", "returned"})
_NOT_JUDGED = frozenset({Left.SHARED_IN_SOURCE, Left.UNREADABLE})


@dataclass(frozen=True)
class _Giver:
    """Rows that can give a ground; with the rows of the ``hidden`` tables away, these alone can."""

    row: type[Any]
    id: str
    hidden: tuple[type[Any], ...] = ()


_EPISODES = _Giver(CinEpisode, "cine_referral_id")
_GIVERS: Mapping[Ground, tuple[_Giver, ...]] = {
    Ground.EPISODE: (_EPISODES,),
    Ground.WAITING_ASSESSMENT: (_EPISODES,),
    Ground.CIN_PLAN: (_Giver(CinPlan, "cinp_cin_plan_id"),),
    Ground.LOOKED_AFTER: (
        _Giver(ClaEpisode, "clae_cla_episode_id"),
        _Giver(CinEpisode, "cine_referral_id", (ClaPlacement,)),
        _Giver(ClaPlacement, "clap_cla_placement_id", (CinEpisode,)),
    ),
    Ground.CARE_LEAVER: (_Giver(CareLeaver, "clea_person_id"), _EPISODES),
}
_TABLE_OF = {table.row: table.name for table in SOURCE_TABLES}


@dataclass(frozen=True)
class GroundFound:
    """A ground that holds, and the records that give it: table and id."""

    ground: str
    records: tuple[str, ...]


@dataclass(frozen=True)
class CohortExplanation:
    """What the source tells of one person.

    Attributes:
        known: whether the source has the person.
        eligible: whether the age is right; None for a person who is not known, or not judged.
        listed: whether COHORT_TABLE has the person; None where none is set.
        grounds: all that hold, whether or not the person is eligible.
        exclusion: why the person is not in the cohort; empty for one who is.
        tonight: what ``stage`` would do: new, updated, returned, unchanged, hash_only, deleted, left, nothing
            or refused; ``why`` says more about the last three.
        differences: of tonight's payload from the stored one, where they differ.
        rules: values of the person that are coerced or left out, by the rule.
        faults: what a run would find in tonight's payload, each a path and a rule.
        problem: why the source could not be looked at; empty where it could, and the rest says nothing else.
    """

    window: Window
    known: bool = False
    eligible: bool | None = None
    listed: bool | None = None
    grounds: tuple[GroundFound, ...] = ()
    exclusion: str = ""
    tonight: str = "nothing"
    why: str = ""
    differences: Differences | None = None
    rules: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    problem: str = ""
    code: ExitCode = ExitCode.OK

    @property
    def included(self) -> bool:
        """Whether the person is in the cohort."""
        return self.known and not self.exclusion

    @property
    def changes(self) -> bool:
        """Whether ``stage`` would change what a run sends."""
        return self.tonight in _CHANGING

    @property
    def action(self) -> str:
        """What ``stage`` would do, in words."""
        return self.why or _TONIGHT[self.tonight]

    def as_json(self) -> Mapping[str, Any]:
        """Return the source's part of the command's JSON."""
        if self.problem:
            return {"problem": self.problem}
        return {
            "problem": "",
            "run_date": self.window.run_date.isoformat(),
            "window_start": self.window.start.date().isoformat(),
            "window_end": self.window.end.date().isoformat(),
            "known": self.known,
            "included": self.included,
            "eligible": self.eligible,
            "in_cohort_table": self.listed,
            "exclusion": self.exclusion,
            "grounds": [{"ground": found.ground, "records": list(found.records)} for found in self.grounds],
            "stage": self.tonight,
            "stage_why": self.why,
            "paths": None
            if self.differences is None
            else {name: list(paths) for name, paths in _named(self.differences).items()},
            "values_by_rule": dict(self.rules),
            "faults": list(self.faults),
        }

    def lines(self) -> Iterator[str]:
        """Yield the window, the judgement with its reasons, and what ``stage`` would do."""
        if self.problem:
            yield f"source: {self.problem}"
            return
        start, end = self.window.start.date(), self.window.end.date()
        yield f"source, on {self.window.run_date} with the window from {start} to {end}"
        if self.known:
            yield from self._judgement()
        else:
            yield _pair("in the cohort", "no: ssd_person has no such person")
        yield _pair("stage", self.action)
        if self.differences is not None:
            for name, paths in _named(self.differences).items():
                yield from (f"    {name:<14} {path}" for path in paths[:_PATHS_SHOWN])
                if len(paths) > _PATHS_SHOWN:
                    yield f"    {name:<14} and {len(paths) - _PATHS_SHOWN} more"
        yield from (_pair("values", f"{rule}: {count}") for rule, count in sorted(self.rules.items()))
        yield from (_pair("fault", fault) for fault in self.faults)

    def _judgement(self) -> Iterator[str]:
        yield _pair("in the cohort", f"no: {self.exclusion}" if self.exclusion else "yes")
        if self.eligible is None:
            return
        yield _pair("eligible", "yes" if self.eligible else "no")
        if self.listed is not None:
            yield _pair("cohort table", "has the person" if self.listed else "does not have the person")
        for found in self.grounds:
            more = len(found.records) - _RECORDS_SHOWN
            named = ", ".join(found.records[:_RECORDS_SHOWN]) + (f" and {more} more" if more > 0 else "")
            yield _pair("ground", f"{found.ground}: {named}")
        if not self.grounds:
            yield _pair("ground", "none")


def _pair(name: str, value: str) -> str:
    return f"  {name:<16} {value}"


def _named(differences: Differences) -> Mapping[str, Sequence[str]]:
    """Return the paths by what happens to them in the row."""
    return {
        "added": differences.added,
        "changed": differences.changed,
        "cleared": differences.cleared,
        "gone": differences.staying,
    }


# --- Asking ----------------------------------------------------------------------------------------------


def explain_cohort(
    settings: Settings,
    table: StagingTable,
    person_id: str,
    *,
    stop: threading.Event | None = None,
    today: Callable[[], date] = date.today,
) -> CohortExplanation | None:
    """Say what the source tells of a person; None where there is no source, and none is meant to be.

    Raises:
        ConfigError: if SSD_CONNECTION_STRING cannot be read, or for SSD_SCHEMA in SQLite.
        InterruptedRun: if ``stop`` was set.
    """
    window = Window.of(today(), settings.window_months)
    connected = False
    try:
        with connect_source(settings, stop=stop) as database:
            connected = True
            name = ssd_schema.table_name(
                ssd_schema.schema_for(database.dialect, settings.ssd_schema), "ssd_person"
            )
            if not source_is_meant(settings) and schema.describe(database, name) is None:
                return None
            source = SsdSource(database, SourceOptions.of(settings))
            return _explained(settings, table, source, person_id, window, stop)
    except DatabaseError as error:
        if not connected or isinstance(error, ConnectionLostError):
            code = ExitCode.DATABASE
        else:
            # Where no setting speaks of a source, another tool may fill the staging table from these tables.
            code = ExitCode.FAILED if source_is_meant(settings) else ExitCode.OK
        return CohortExplanation(window, problem=str(error), code=code)


def _explained(
    settings: Settings,
    table: StagingTable,
    source: SsdSource,
    person_id: str,
    window: Window,
    stop: threading.Event | None,
) -> CohortExplanation:
    page = next(source.pages([person_id]), PeoplePage({}))
    tonight = _tonight(settings, table, person_id, window, bool(page.people), stop)
    found = CohortExplanation(
        window, known=bool(page.people), tonight=tonight.what, why=tonight.why, rules=tonight.rules
    )
    if tonight.left in _NOT_JUDGED:
        where = ", ".join(sorted(set(page.unreadable.values())))
        because = f"{tonight.left.value}{f' ({where})' if where else ''}"
        return replace(found, exclusion=f"not judged, because {because}")
    if not page.people:
        return found
    person = page.people[0]
    listed = source.listed_ids()
    is_listed = listed is None or person_id.strip() in listed
    verdict = judge(person, page.page, window, is_listed)
    found = replace(
        found,
        eligible=verdict.exclusion not in _NOT_ELIGIBLE,
        listed=None if listed is None else is_listed,
        grounds=tuple(
            GroundFound(ground.value, tuple(_records(person, page.page, window, ground)))
            for ground in verdict.grounds
        ),
        exclusion=verdict.exclusion.value if verdict.exclusion else "",
    )
    if not found.included:
        return found
    built = PayloadBuilder(window, source.professionals(), settings.uasc_pattern).build(person, page.page)
    return replace(
        found,
        differences=_difference(table, person_id, built) if found.tonight in _REWRITING else None,
        faults=tuple(f"{each.path}: {each.rule}" for each in validation.check_value(built)),
    )


def _records(person: Person, page: SourcePage, window: Window, ground: Ground) -> Iterator[str]:
    """Yield the records each of which gives the ground where no other of its table is there."""
    everything = {table.row: page.rows(table.row) for table in SOURCE_TABLES}
    for giver in _GIVERS[ground]:
        rest = {**everything, **{hidden: [] for hidden in giver.hidden}}
        found = {
            str(getattr(row, giver.id) or "(no id)")
            for row in everything[giver.row]
            if ground in judge(person, SourcePage({**rest, giver.row: [row]}), window).grounds
        }
        yield from (f"{_TABLE_OF[giver.row]} {record_id}" for record_id in sorted(found))


@dataclass(frozen=True)
class _Tonight:
    """What ``stage`` would do with a person: in a word, and why not where it would not."""

    what: str
    why: str = ""
    left: Left | None = None
    rules: Mapping[str, int] = field(default_factory=dict)


def _tonight(
    settings: Settings,
    table: StagingTable,
    person_id: str,
    window: Window,
    known: bool,
    stop: threading.Event | None,
) -> _Tonight:
    """Ask a dry run of ``stage``."""
    if not known and _staged(table, person_id) is None:
        return _Tonight("nothing")  # stage would call this person unknown
    options = StageOptions(dry_run=True, persons=(person_id,), as_of=window.run_date, allow_deletions=True)
    try:
        summary = stage(settings, options, stop=stop)
    except ConfigError as error:
        return _Tonight("refused", f"it refuses to start: {error.message}")
    if summary.stopped_because:
        raise InterruptedRun(summary.stopped_because)
    return _outcome(summary.changes, summary.rules)


def _outcome(changes: Changes, rules: Mapping[str, int]) -> _Tonight:
    for reason in changes.left:
        why = f"it leaves the person as they are, because {reason.value}"
        return _Tonight("left", why, reason, rules)
    names = ("new", "updated", "returned", "unchanged", "hash_only", "deleted")
    what = next((name for name in names if getattr(changes, name)), "nothing")
    return _Tonight(what, rules=rules)


def _staged(table: StagingTable, person_id: str) -> Any:
    """Return the person's row as ``stage`` finds it; None where there is none."""
    people = StagedPeople(table)
    people.survey()  # it learns which ids have outer blanks
    return people.look_up([person_id.strip()]).get(person_id.strip())


def _difference(table: StagingTable, person_id: str, tonight: Mapping[str, Any]) -> Differences | None:
    row = _staged(table, person_id)
    if row is None:
        return None
    for _, stored in StagedPeople(table).payloads([row.key]):
        held = delta.normalise(payload.decode_leniently(stored or ""))
        return compare(held, tonight, tonight)
    return None

"""``explain PERSON_ID``: why a child was sent, or was not, or was sent again (interface, "Commands").

What comes next is not worked out a second time: the survey and the source of a real run say it, over a ledger
that is as the next run will find it. Nothing is written, nothing is locked and nothing is sent. What the
source tells comes from ``cohort_explanation``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain

from api_pipeline import composing, delta, payload, planning, provision, spool, validation
from api_pipeline.cohort_explanation import CohortExplanation, explain_cohort
from api_pipeline.config import Settings
from api_pipeline.db import Database
from api_pipeline.delivery import Record, RecordKind
from api_pipeline.differences import Differences, compare
from api_pipeline.due_rules import RowFacts, Rule, rules_of
from api_pipeline.explanation import RULE_TEXT, ExplainedRow, Explanation, Next
from api_pipeline.inspection import error_kind
from api_pipeline.ledger import Ledger
from api_pipeline.log_report import shown
from api_pipeline.remembered import Baseline, Flight, LogLine
from api_pipeline.sourcing import NEVER_SENT, Changed, Event, Failed, Settled, Source, Waiting
from api_pipeline.staging import TESTING_RESPONSE, Key, Scope, StagingTable, held_ids, ids_to_purge
from api_pipeline.writeback import Write

ATTEMPTS_SHOWN = 20

_OURS = frozenset({TESTING_RESPONSE, NEVER_SENT})
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)

_COMES_BACK = (
    "If the child is in the cohort again with the payload it left with, the refresh leaves the row marked "
    "deleted: the purge goes with the next run, its marker makes the refresh after that see a difference and "
    "bring the child back, and the run after that sends it in full."
)


def explain(
    settings: Settings,
    person_id: str,
    *,
    stop: threading.Event | None = None,
    today: Callable[[], date] = date.today,
) -> Explanation:
    """Say everything that the databases tell of one person; the source is judged as of ``today``.

    Raises:
        ConfigError: if DB_CONNECTION_STRING cannot be read.
        DatabaseError: if the tables cannot be read.
    """
    with provision.connect(settings, stop=stop) as database:
        table = StagingTable(database, settings.table)
        found = _Found.read(table, person_id)
        rows: tuple[ExplainedRow, ...] = ()
        notes: list[str] = []
        if found.facts:
            outlook = _Outlook(settings, table, found)
            rows = tuple(outlook.row(facts) for facts in found.facts)
            notes = [*outlook.notes(), *_spooled(settings, table, person_id)]
        cohort = explain_cohort(settings, table, person_id, stop=stop, today=today)
    if cohort is not None:
        notes += _notes_on_source(cohort)
    known = bool(found.facts or found.baseline or found.attempts or (cohort is not None and cohort.known))
    return Explanation(
        table=str(settings.table),
        person_id=person_id,
        answer=_answer(settings, found, rows, cohort),
        known=known,
        remembered=found.ledger is not None,
        rows=rows,
        notes=tuple(notes),
        baseline=found.baseline,
        flight=found.flight,
        attempts=tuple(found.attempts),
        attempts_total=found.attempts_total,
        cohort=cohort,
    )


# --- What is there ---------------------------------------------------------------------------------------


class _NextLedger(Ledger):
    """The ledger as the next run finds it: what is in flight is in doubt by then, and ids are retired."""

    def __init__(self, db: Database, staging: StagingTable, run_id: str) -> None:
        super().__init__(db, staging, run_id)
        self.retired: set[str] = set()  # earlier la_child_ids whose purge is taken to be acknowledged

    def lookup(self, persons: Iterable[str], *, payloads: bool) -> dict[str, Baseline]:
        """Return what will be known of these people."""
        found = super().lookup(persons, payloads=payloads)
        return {
            person: _without(_recovered(known, self.flight(person)), self.retired)
            for person, known in found.items()
        }


def _without(baseline: Baseline, retired: set[str]) -> Baseline:
    """Return the baseline after these ids of the person were purged."""
    left = {child_id: records for child_id, records in baseline.unsure.items() if child_id not in retired}
    if retired and (baseline.child_id is None or baseline.child_id in retired):
        return replace(baseline, state="purged", child_id=None, payload=None, unsure=left)
    return replace(baseline, unsure=left)


def _recovered(baseline: Baseline, flight: Flight | None) -> Baseline:
    if flight is None or flight.child_id is None:
        return baseline
    flown: delta.Skeleton = {}
    if flight.payload is not None:
        flown = delta.skeleton(delta.normalise(payload.decode_leniently(flight.payload)))
    before = baseline.unsure.get(flight.child_id, {})
    union = {**baseline.unsure, flight.child_id: delta.merge_skeletons(before, flown)}
    return replace(baseline, unsure=union)


@dataclass(frozen=True)
class _Found:
    """What the three tables have of a person."""

    person_id: str
    facts: list[RowFacts]
    ledger: _NextLedger | None
    baseline: Baseline | None
    flight: Flight | None
    attempts: list[LogLine]
    attempts_total: int

    @classmethod
    def read(cls, table: StagingTable, person_id: str) -> _Found:
        facts = list(_facts(table, person_id))
        ledger: _NextLedger | None = None
        if _NextLedger.exists(table.db, table.name):
            ledger = _NextLedger(table.db, table, "")
        if ledger is None:
            return cls(person_id, facts, None, None, None, [], 0)
        flight = ledger.flight(person_id)
        baseline = Ledger.lookup(ledger, [person_id], payloads=True).get(person_id)
        lines, total = ledger.attempts(person_id, ATTEMPTS_SHOWN)
        return cls(person_id, facts, ledger, baseline, flight, lines, total)


def _facts(table: StagingTable, person_id: str) -> Iterator[RowFacts]:
    normalised = table.db.dialect.normalised
    columns = [
        f"t.{table.key_column}",
        normalised("t.row_state"),
        normalised("t.submission_status"),
        "t.current_hash",
        "t.previous_hash",
        "t.last_updated",
        "t.submission_timestamp",
        "t.api_response",
        f"CASE WHEN {table.due} THEN 1 ELSE 0 END",
    ]
    sql = (
        f"SELECT {', '.join(columns)} FROM {table.sql_name} AS t WHERE t.person_id = ? "
        f"ORDER BY t.{table.key_column}"
    )
    for row in table.db.retrying(lambda: table.db.query(sql, [person_id])):
        current, previous = (None if value is None else bytes(value) for value in row[3:5])
        updated, submitted, response = (None if value is None else str(value) for value in row[5:8])
        yield RowFacts(
            row[0], str(row[1]), str(row[2]), current, previous, updated, submitted, response, bool(row[8])
        )


def _response(facts: RowFacts) -> str:
    """Return ``api_response`` if this tool wrote it, a receipt for example, or what kind of text it is."""
    text = facts.api_response or ""
    if not text or text in _OURS or _UUID.fullmatch(text):
        return text
    kind = error_kind(text)
    return "a text that is not shown" if kind == "another reason" else kind


def _spooled(settings: Settings, table: StagingTable, person_id: str) -> Iterator[str]:
    try:
        paths = spool.files(settings.spool_dir)
    except OSError:
        return
    for path in paths:
        try:
            entries = spool.read(path)
        except spool.SpoolError as error:
            yield str(error)
            continue
        if any(entry.person_id == person_id and entry.table == table.info.full_name for entry in entries):
            yield f"A receipt for this person waits in {path}; the next live run writes it back first."


# --- What comes next -------------------------------------------------------------------------------------


class _Outlook:
    """What the next run would do with the rows of one person, in both modes."""

    def __init__(self, settings: Settings, table: StagingTable, found: _Found) -> None:
        self._settings = settings
        self._table = table
        self._found = found
        self._scope = Scope((found.person_id,))
        self._plan = planning.survey(table, self._scope, None, found.ledger)
        self._rows = {
            row.key: row for page in table.rows([facts.key for facts in found.facts]) for row in page
        }
        self._retire_what_flies()
        self._full = self._steps(partial=False)
        self._partial = self._steps(partial=True)

    def _retire_what_flies(self) -> None:
        """Plan the earlier ids anew where something is in flight, which the survey sees after recovery."""
        baseline, flight, plan = self._found.baseline, self._found.flight, self._plan
        if baseline is None or flight is None:
            return
        known = _recovered(baseline, flight)
        for facts in self._found.facts:
            staged = self._rows.get(facts.key)
            if staged is None or not facts.due or facts.key in plan.blocked:
                continue
            current, previous = _child_id(staged.payload), _child_id(staged.previous_payload)
            held = held_ids(
                state=known.state,
                acknowledged=known.child_id,
                unsure=known.unsure,
                payloads=(current, previous),
            )
            purged = ids_to_purge(current, previous, held)
            earlier = purged[1:] if facts.deleted else [each for each in held or () if each != current]
            others = (plan.child_ids, plan.held_ids, plan.elsewhere)
            plan.retiring.pop(facts.key, None)
            listed = [each for each in earlier if not any(each in ids for ids in others)]
            if listed:
                plan.retiring[facts.key] = listed

    def row(self, facts: RowFacts) -> ExplainedRow:
        """Explain one row."""
        staged = self._rows.get(facts.key)
        faults: tuple[str, ...] = ()
        if staged is not None and not facts.deleted:
            faults = tuple(
                f"{each.path}: {each.rule}" for each in validation.check_text(staged.payload).errors
            )
        idle = (Next("nothing", why="the row is not due"),)
        return ExplainedRow(
            facts=facts,
            rules=rules_of(facts),
            response=_response(facts),
            blocked=self._plan.blocked.get(facts.key, ""),
            faults=faults,
            full=tuple(self._full.get(facts.key, ())) or idle,
            partial=tuple(self._partial.get(facts.key, ())) or idle,
        )

    def _steps(self, *, partial: bool) -> dict[Key, list[Next]]:
        """Play the run's own source, as if every purge of an earlier id had been acknowledged."""
        # In testing mode the source does not mind a row without a hash, which a live run fills in before.
        settings = replace(self._settings, use_partial_payload=partial, testing_mode=True)
        ledger = self._found.ledger
        source = Source(self._table, ledger, settings, self._scope, self._plan, "")
        steps: dict[Key, list[Next]] = {}
        retired: set[str] = set()
        if ledger is not None:
            ledger.retired = retired
        for turn in range(max(map(len, self._plan.retiring.values()), default=0)):
            for event in source.retirements(turn, deletions=True):
                if isinstance(event, Record):
                    source.retired(event)
                    retired.add(event.child_id)
                    steps.setdefault(event.row.key, []).append(
                        Next("purge of an earlier id", len(event.text), "first, and acknowledged")
                    )
        for event in chain(source.deletions(), source.payloads()):
            for key, step in self._of_event(event, partial=partial):
                steps.setdefault(key, []).append(step)
        return steps

    def _of_event(self, event: Event, *, partial: bool) -> Iterator[tuple[Key, Next]]:
        if isinstance(event, Record):
            yield event.row.key, self._of_record(event, partial=partial)
        elif isinstance(event, Failed):
            yield event.row.key, Next("error", why=_reason(event))
        elif isinstance(event, Settled):
            why = (
                "equal to the baseline, so the row is settled without sending"
                if event.outcome.write is Write.UNCHANGED
                else NEVER_SENT
            )
            yield event.outcome.row.key, Next("nothing", why=why)
        elif isinstance(event, Changed):
            yield event.row.key, Next("nothing", why="the row changed while it was looked at; ask again")
        elif isinstance(event, Waiting):
            yield event.row.key, Next("nothing", why="the purge of an earlier id has to go first")

    def _of_record(self, record: Record, *, partial: bool) -> Next:
        if record.kind is RecordKind.DELETION:
            held = self._plan.brake_holds(self._settings.max_deletions_percent)
            why = "held back with the other deletions until --allow-deletions" if held else ""
            return Next("deletion", len(record.text), why)
        why = self._why_full(record) if partial and record.kind is RecordKind.FULL else ""
        return Next(record.kind.value, len(record.text), why, self._differences(record))

    def _differences(self, record: Record) -> Differences | None:
        """Compare with the payload of the row, which the record no longer carries."""
        staged = self._rows.get(record.row.key)
        if staged is None:
            return None
        current = validation.check_text(staged.payload).value
        sent = payload.decode_leniently(record.text.decode())
        baseline = self._found.baseline
        held: delta.State | None = None
        if baseline is not None and baseline.payload is not None and baseline.child_id == record.child_id:
            held = delta.normalise(payload.decode_leniently(baseline.payload))
        return compare(held, current, sent)

    def _why_full(self, record: Record) -> str:
        """Say why partial mode would send this one in full."""
        known = None if self._found.baseline is None else _recovered(self._found.baseline, self._found.flight)
        if self._found.ledger is None:
            return "no baseline is kept"
        if known is not None and known.unsure:
            return "something was sent of which DfE's answer is not known"
        if known is None or composing.is_unknown(known):
            return "nothing of this child was ever acknowledged to this tool"
        if known.state == "purged":
            return "the child was purged and came back"
        if known.child_id != record.child_id:
            return "nothing was acknowledged under this la_child_id"
        return "a partial payload was refused" if known.full_next else "a partial payload would be no smaller"

    def notes(self) -> Iterator[str]:
        """Yield what else to know."""
        if self._settings.testing_mode:
            yield "TESTING_MODE is on: a run with these settings sends nothing, whatever is said here."
        for facts in self._found.facts:
            if Rule.DELETION_NOT_ACKNOWLEDGED in rules_of(facts) and facts.due:
                yield _COMES_BACK
            if facts.current_hash is None:
                then = "sends it" if facts.previous_hash else "the refresh after that sees a difference"
                yield f"Row {facts.key} has no hash; the next live run first fills it in, and {then}."
        baseline = self._found.baseline
        if baseline is not None and baseline.unsure:
            yield (
                "DfE's answer to an earlier attempt is not known, so the child goes again until a receipt "
                "comes; for DfE the same payload twice is as good as once."
            )
        if self._found.flight is not None:
            yield (
                "A payload is in flight: a run is at work now, or one ended before it noted the reply; in "
                "that case the next run counts it as unsure and sends the child in full."
            )


def _child_id(text: str | None) -> str | None:
    return None if text is None else payload.child_ids(payload.decode_leniently(text))[0]


def _reason(event: Failed) -> str:
    return "structural faults" if event.kind == "validation" and not event.row.deleted else event.reason


# --- The answer ------------------------------------------------------------------------------------------


def _answer(
    settings: Settings, found: _Found, rows: Sequence[ExplainedRow], cohort: CohortExplanation | None
) -> str:
    """Answer the question in one sentence."""
    who = f"Person {found.person_id}"
    if not rows:
        return _answer_without_row(settings, found, who, cohort)
    if len(rows) > 1:
        keys = ", ".join(str(row.facts.key) for row in rows)
        return f"{who} is not sent: rows {keys} share this person_id, so they cannot be told apart."
    [row] = rows
    if not row.facts.due:
        return f"{who} is not due, so nothing is sent: {_why_not_due(found, row)}."
    if row.blocked:
        return f"{who} is due but is not sent; the next run marks the row as an error: {row.blocked}"
    because = " and ".join(RULE_TEXT[rule] for rule in row.rules)
    return f"{who} is due, because {because}: {_what_next(settings, row)}."


def _answer_without_row(settings: Settings, found: _Found, who: str, cohort: CohortExplanation | None) -> str:
    source = _source_sentence(cohort)
    if found.baseline is None and not found.attempts:
        if source:
            return f"{who} has no row in {settings.table}, so no run sends anything.{source}"
        beside = " and neither log nor baseline knows the person" if found.ledger is not None else ""
        if cohort is not None and not cohort.problem:
            beside += ", nor has the source such a person"
        return f"{who} is not known: {settings.table} has no such row{beside}."
    gone = f"{who} has no row in {settings.table} any more, so no run sends anything"
    if found.baseline is not None and found.baseline.acknowledged:
        when = shown(found.baseline.acknowledged_at)
        return f"{gone}, not even a deletion; DfE holds what it acknowledged on {when}.{source}"
    return f"{gone}.{source}"


def _source_sentence(cohort: CohortExplanation | None) -> str:
    """Return what the source tells of a person without a row, as a further sentence."""
    if cohort is None or not cohort.known:
        return ""
    if cohort.exclusion:
        return f" The source knows the person, who is not in the cohort: {cohort.exclusion}."
    return f" The source has the person in the cohort; if stage ran now: {cohort.action}."


def _notes_on_source(cohort: CohortExplanation) -> Iterator[str]:
    """Yield what of the source changes what is said of the next run."""
    if cohort.problem:
        yield f"The source could not be looked at: {cohort.problem}"
    elif cohort.changes:
        yield (
            f"If stage ran now: {cohort.action}. What is said of the next run is about the rows as they are."
        )


def _why_not_due(found: _Found, row: ExplainedRow) -> str:
    facts = row.facts
    [rule] = row.rules if len(row.rules) == 1 else row.rules[:1]
    if rule is Rule.DELETION_ACKNOWLEDGED:
        if facts.api_response == NEVER_SENT:
            return "the child left before DfE ever heard of it, so there was nothing to purge"
        return f"the child left, and DfE acknowledged the deletion{_when(facts)}"
    if rule is Rule.HELD_STATUS:
        return f"the status '{facts.status}' is none that the tool sends, so the row is held back"
    times = sum(line.outcome == "sent" and line.kind != "deletion" for line in found.attempts)
    often = f", {times} times by the log" if times > 1 else ""
    return f"it was acknowledged{_when(facts)}{often}, and nothing changed since"


def _when(facts: RowFacts) -> str:
    return f" on {facts.submission_timestamp}" if facts.submission_timestamp else ""


def _what_next(settings: Settings, row: ExplainedRow) -> str:
    steps = row.partial if settings.use_partial_payload else row.full
    last = steps[-1]
    if last.kind == "error":
        faults = "its payload has structural faults" if row.faults else last.why.rstrip(".")
        return f"it is not sent but marked as an error, because {faults}"
    if last.kind == "nothing":
        return f"nothing goes out, because {last.why}"
    first = "an earlier la_child_id is purged and then " if len(steps) > 1 else ""
    what = {
        "deletion": "the next live run sends the deletion",
        "partial": "the next live run sends what changed",
    }.get(last.kind, "the next live run sends it in full")
    told = settings.use_partial_payload or last.kind == "deletion"
    why = f", because {last.why}" if last.why and told else ""
    again = ", as the child came back after its purge" if row.facts.back_from_purge and not why else ""
    return f"{first}{what}{why}{again}"

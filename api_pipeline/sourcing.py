"""From due rows to records: reading, checking and composing, one page at a time.

A :class:`Source` yields what there is to do, in order, and does none of it: records to send, rows that fail,
rows that can be settled without sending, rows that changed since the survey. :mod:`pipeline` acts on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from api_pipeline import composing, payload, planning, validation
from api_pipeline.composing import Composition, Sending
from api_pipeline.config import Settings
from api_pipeline.delivery import Record, RecordKind
from api_pipeline.ledger import Ledger
from api_pipeline.remembered import Attempt, Baseline, LogKind, unsure_text
from api_pipeline.staging import Key, Scope, StagedRow, StagingTable, held_ids, ids_to_purge
from api_pipeline.writeback import Write, WriteBack

NEVER_SENT = "never sent: nothing to purge"

_CHECKED_AT_ONCE = 20  # payloads that are held as values: few enough to stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that must not be sent; ``reason`` goes to ``api_response``."""

    row: StagedRow
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A row whose outcome is known without asking DfE."""

    outcome: WriteBack


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that is no longer what the survey saw; it is left to the next run."""

    row: StagedRow


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row that waits, because the purge of an earlier id was not acknowledged."""

    row: StagedRow


@dataclass(frozen=True, slots=True)
class Noticed:
    """A finding that does not keep a payload back."""

    rule: str


class _Sound(NamedTuple):
    """A row whose payload may be sent: the payload read (where a log is kept), its id, its stored text."""

    row: StagedRow
    value: Any
    child_id: str
    text: bytes


Event = Record | Failed | Settled | Changed | Waiting | Noticed


class Source:
    """Reads the rows of one run and says what is to be done with each.

    A row whose earlier ids are not purged waits: the caller says so with :meth:`retired`, id by id.
    """

    def __init__(
        self,
        table: StagingTable,
        ledger: Ledger | None,
        settings: Settings,
        scope: Scope,
        plan: planning.Plan,
        run_id: str,
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._settings = settings
        self._scope = scope
        self._plan = plan
        self._run_id = run_id
        self._partial = settings.use_partial_payload and ledger is not None
        self._waiting = {key: set(ids) for key, ids in plan.retiring.items()}

    def retired(self, record: Record) -> None:
        """The purge of an earlier id was acknowledged; after the last of them the row may be sent."""
        self._retire(record.row.key, record.child_id)

    def _retire(self, key: Key, child_id: str) -> None:
        left = self._waiting.get(key, set())
        left.discard(child_id)
        if not left:
            self._waiting.pop(key, None)

    # -- earlier ids -----------------------------------------------------------------------------------

    def retirements(self, turn: int, *, deletions: bool) -> Iterator[Event]:
        """Yield the purges of each row's earlier id number ``turn``; no deletion's while the brake holds."""
        keys = [key for key, ids in self._plan.retiring.items() if len(ids) > turn]
        for page in self._table.rows(keys):
            known = self._known(page, payloads=True)
            for row in page:
                if row.deleted and not deletions:
                    continue
                earlier = self._plan.retiring[row.key][turn]
                baseline = known.get(row.person_id or "")
                if not self._still_earlier(row, earlier, baseline):
                    continue  # refreshed since; the next run looks again
                text = _purge_text(earlier, _mis_id(earlier, row, baseline))
                if text is None:
                    self._retire(row.key, earlier)  # DfE cannot hold an id that it does not accept
                    continue
                yield self._record(_light(row), RecordKind.RETIRED_ID, text, earlier, baseline)

    def _still_earlier(self, row: StagedRow, earlier: str, baseline: Baseline | None) -> bool:
        current = _ids(row.payload)[0]
        held = _held_ids(row, baseline)
        if row.deleted:
            return earlier in ids_to_purge(current, _ids(row.previous_payload)[0], held)
        return earlier != current and (earlier in held if held else earlier == _ids(row.previous_payload)[0])

    # -- deletions -------------------------------------------------------------------------------------

    def deletions(self) -> Iterator[Event]:
        """Yield what is to be done with the due deletions."""
        pages = self._table.pages(self._scope, deleted=True, previous=True, last=self._plan.last_key)
        for page in pages:
            known = self._known(page, payloads=True)
            for row in page:
                yield self._blocked(row) or self._deletion(row, known.get(row.person_id or ""))

    def _deletion(self, row: StagedRow, baseline: Baseline | None) -> Event:
        current = _ids(row.payload)[0]
        if current is not None and current not in self._plan.child_ids:
            return Changed(row)
        if row.key in self._plan.never_sent:
            return Settled(WriteBack(_light(row), Write.NEVER_SENT, NEVER_SENT))
        texts: dict[str, bytes] = {}
        for child_id in ids_to_purge(current, _ids(row.previous_payload)[0], _held_ids(row, baseline)):
            if child_id != current and self._is_elsewhere(child_id):
                continue  # another row holds this id now
            text = _purge_text(child_id, _mis_id(child_id, row, baseline))
            if text is not None:
                texts[child_id] = text
        if len(texts) > 1 and _held_ids(row, baseline) is not None:
            return Changed(row)  # the survey did not see all of them, so not all but one are purged
        for child_id, text in texts.items():
            return self._record(_light(row), RecordKind.DELETION, text, child_id, baseline)
        return Failed(row, "validation", "No payload of this row has a la_child_id that can be purged.")

    def _is_elsewhere(self, child_id: str) -> bool:
        plan = self._plan
        return child_id in plan.child_ids or child_id in plan.held_ids or child_id in plan.elsewhere

    # -- payloads --------------------------------------------------------------------------------------

    def payloads(self) -> Iterator[Event]:
        """Yield what is to be done with the due payloads."""
        for page in self._table.pages(self._scope, deleted=False, last=self._plan.last_key):
            known = self._known(page, payloads=self._partial)
            previous = self._previous(page, known)
            for start in range(0, len(page), _CHECKED_AT_ONCE):
                checked: list[_Sound] = []
                for row in page[start : start + _CHECKED_AT_ONCE]:
                    event = self._blocked(row)
                    if event is None:
                        yield from self._check(row, checked)
                    else:
                        yield event
                yield from self._composed(checked, known, previous)

    def _previous(self, page: Sequence[StagedRow], known: dict[str, Baseline]) -> dict[Key, str | None]:
        """Return the previous payloads of children of whom an earlier tool may have sent something."""
        if not self._partial:
            return {}
        unknown = [row.key for row in page if composing.is_unknown(known.get(row.person_id or ""))]
        return {row.key: row.previous_payload for rows in self._table.rows(unknown) for row in rows}

    def _check(self, row: StagedRow, checked: list[_Sound]) -> Iterator[Event]:
        found = validation.check_text(row.payload)
        blocking = self._settings.validation == "block"
        for finding in found.warnings if blocking else found.findings:
            yield Noticed(finding.rule)
        child_id = payload.child_ids(found.value)[0]
        if (found.errors and blocking) or child_id is None:
            yield Failed(row, "validation", validation.describe(found.errors))
        elif child_id not in self._plan.child_ids:
            yield Changed(row)
        else:
            text = found.encoded or (row.payload or "").encode()
            # Without a log the value has done its work, and keeping it would cost time, not only room.
            checked.append(_Sound(row, None if self._ledger is None else found.value, child_id, text))

    def _composed(
        self, checked: Sequence[_Sound], known: dict[str, Baseline], previous: dict[Key, str | None]
    ) -> Iterator[Event]:
        if self._ledger is None:
            for row, _, child_id, text in checked:
                yield self._record(_light(row), RecordKind.FULL, text, child_id, None)
            return
        ready: list[_Sound] = []
        for sound in checked:
            if self._settings.testing_mode or self._is_as_surveyed(
                sound, known.get(sound.row.person_id or "")
            ):
                ready.append(sound)
            else:
                yield Changed(sound.row)
        yield from self._partials(ready, known, previous) if self._partial else self._fulls(ready, known)

    def _is_as_surveyed(self, sound: _Sound, baseline: Baseline | None) -> bool:
        """Whether nothing happened since the survey that another run has to look at first.

        A row without a hash came after the run had filled them in: nothing could tell later whether it is the
        same. An earlier id that is not purged yet was not seen by the survey.
        """
        held = _held_ids(sound.row, baseline) or ()
        return sound.row.current_hash is not None and all(
            found == sound.child_id or found in self._plan.elsewhere for found in held
        )

    def _fulls(self, checked: Sequence[_Sound], known: dict[str, Baseline]) -> Iterator[Event]:
        """Full payloads as they are stored; texts are looked up only where a record may have vanished."""
        doubtful = [
            sound.row
            for sound in checked
            if composing.needs_state(sound.value, sound.child_id, known.get(sound.row.person_id or ""))
        ]
        known = {**known, **self._known(doubtful, payloads=True)}
        for row, value, child_id, text in checked:
            baseline = known.get(row.person_id or "")
            composed = composing.compose_full(text, value, child_id, baseline)
            yield self._composed_record(row, composed, child_id, baseline)

    def _partials(
        self, checked: Sequence[_Sound], known: dict[str, Baseline], previous: dict[Key, str | None]
    ) -> Iterator[Event]:
        for row, value, child_id, text in checked:
            baseline = known.get(row.person_id or "")
            composed = composing.compose_partial(
                text, value, child_id, baseline, previous.get(row.key), in_full=self._scope.resend
            )
            if composed.sending is Sending.NOTHING and baseline is not None:
                receipt, moment = baseline.receipt or "", baseline.acknowledged_at
                yield Settled(WriteBack(_light(row), Write.UNCHANGED, receipt, moment))
            else:
                yield self._composed_record(row, composed, child_id, baseline)

    # -- records ---------------------------------------------------------------------------------------

    def _composed_record(
        self, row: StagedRow, composed: Composition, child_id: str, baseline: Baseline | None
    ) -> Record:
        kind = RecordKind.PARTIAL if composed.sending is Sending.PARTIAL else RecordKind.FULL
        return self._record(_light(row), kind, composed.text, child_id, baseline, composed)

    def _record(
        self,
        row: StagedRow,
        kind: RecordKind,
        text: bytes,
        child_id: str,
        baseline: Baseline | None,
        composed: Composition | None = None,
    ) -> Record:
        if self._ledger is None or row.current_hash is None or row.person_id is None:
            return Record(row, kind, text, child_id)
        left = {} if baseline is None else {k: v for k, v in baseline.unsure.items() if k != child_id}
        attempt = Attempt(
            run_id=self._run_id,
            seq=0,  # numbered when it is sent
            key=row.key,
            row_id=row.key if isinstance(row.key, int) else None,
            person_id=row.person_id,
            row_hash=row.current_hash,
            row_deleted=row.deleted,
            kind=_LOG_KIND[kind],
            child_id=child_id,
            sent_hash=hashlib.sha256(text).digest(),
            sent_bytes=len(text),
            state_hash=None if composed is None else composed.state_hash,
            records_hash=None if composed is None else composed.records_hash,
            acknowledged_text=None if composed is None else composed.acknowledged_text,
            known=baseline is not None,
            unsure_before=unsure_text({child_id: composed.older}) if composed and composed.older else None,
            unsure_after=unsure_text(left),
        )
        return Record(row, kind, text, child_id, attempt)

    def _blocked(self, row: StagedRow) -> Event | None:
        """Say what keeps a row back whatever its payload, or None."""
        if row.person_id is None or not row.person_id.strip():
            return Failed(row, "no person_id", planning.NAMELESS)
        if row.key in self._plan.blocked:
            return Failed(row, "shared id", self._plan.blocked[row.key])
        return Waiting(row) if row.key in self._waiting else None

    def _known(self, rows: Sequence[StagedRow], *, payloads: bool) -> dict[str, Baseline]:
        if self._ledger is None or not rows:
            return {}
        persons = [row.person_id for row in rows if row.person_id is not None]
        return self._ledger.lookup(persons, payloads=payloads)


_LOG_KIND = {
    RecordKind.FULL: LogKind.FULL,
    RecordKind.PARTIAL: LogKind.PARTIAL,
    RecordKind.DELETION: LogKind.DELETION,
    RecordKind.RETIRED_ID: LogKind.DELETION,
}


def _purge_text(child_id: str, mis_id: str | None) -> bytes | None:
    """Return the purge of an id, without a mis_child_id that DfE would refuse; None if the id is one."""
    for mis in (mis_id, None):
        text = payload.deletion(child_id, mis)
        if not validation.check_text(text.decode()).errors:
            return text
    return None


def _mis_id(child_id: str, row: StagedRow, baseline: Baseline | None) -> str | None:
    """Return the mis_child_id that went with a la_child_id, from whichever payload has both."""
    texts = (row.payload, row.previous_payload, baseline.payload if baseline else None)
    found = (_ids(text) for text in texts)
    doubtful = baseline.unsure.get(child_id, {}) if baseline else {}
    return next((mis for la, mis in found if la == child_id), doubtful.get("mis_child_id"))


def _held_ids(row: StagedRow, baseline: Baseline | None) -> tuple[str, ...] | None:
    if baseline is None:
        return None
    return held_ids(
        state=baseline.state,
        acknowledged=baseline.child_id,
        unsure=baseline.unsure,
        payloads=(_ids(row.payload)[0], _ids(row.previous_payload)[0]),
    )


def _ids(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    try:
        return payload.child_ids(payload.decode(text))
    except payload.UnreadablePayload:
        return None, None


def _light(row: StagedRow) -> StagedRow:
    """Drop the texts that the write-back does not need, so that a batch holds each payload once."""
    text = row.payload if row.current_hash is None else None
    return StagedRow(row.key, row.person_id, text, row.current_hash, row.deleted)

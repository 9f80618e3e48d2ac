"""The look at all due rows that a run takes before it sends the first one.

Some rules hold over the whole table and cannot be decided row by row: a la_child_id that two rows share, an
id that somebody else holds, the brake on deletions (domain, sections 3 and 5; interface,
MAX_DELETIONS_PERCENT). The survey reads no payloads and keeps eight bytes for each due row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from api_pipeline import brake
from api_pipeline.id_set import IdSet
from api_pipeline.ledger import Ledger
from api_pipeline.staging import DueRow, Key, Scope, StagingTable, ids_to_purge

_LOOKED_UP = 400  # la_child_ids asked for at once
_NAMED_ROWS = 10  # row ids in one message

NAMELESS = "This row has no person_id, so its outcome could not be followed. Give it one."


@dataclass
class Plan:
    """What a run is going to do, and the rows that it must not send."""

    due: int = 0  # rows that this run is about, after --limit and --person-id
    last_key: Key | None = None  # the last of them, where --limit cut them off
    child_ids: IdSet = field(default_factory=IdSet)
    blocked: dict[Key, str] = field(default_factory=dict)  # row -> why it becomes an error
    retiring: dict[Key, list[str]] = field(default_factory=dict)  # earlier la_child_ids to be purged first
    held_ids: dict[str, list[Key]] = field(
        default_factory=dict
    )  # ids to purge that others hold -> their rows
    elsewhere: set[str] = field(default_factory=set)  # earlier ids that are somebody else's business by now
    never_sent: set[Key] = field(default_factory=set)  # deletions of which DfE need not hear
    deletions: int = 0  # over the whole table
    people: int = 0  # not yet purged, over the whole table

    def brake_holds(self, percent: float) -> bool:
        """Whether so many deletions look like an emptied source rather than children who left."""
        return brake.holds(self.deletions, self.people, percent)


def survey(table: StagingTable, scope: Scope, limit: int | None, ledger: Ledger | None = None) -> Plan:
    """Look at every due row and decide what concerns more than one of them.

    ``ledger`` is None where nothing is remembered of what was sent.

    Raises:
        DatabaseError: if a table cannot be read.
    """
    plan = Plan(people=table.people_not_purged())
    for key, others in table.same_person().items():
        plan.blocked[key] = _shared("person_id", others)
    moved: list[DueRow] = []
    fresh: list[DueRow] = []
    purges = IdSet()
    for part in _parts(table.scan_due(scope)):
        if ledger is not None:
            _block_held_ids(plan, table, ledger, part)
        for row in part:
            within = _count(plan, row, limit)
            if row.child_id is not None:
                plan.child_ids.add(row.child_id)
            for child_id in (
                ids_to_purge(row.child_id, row.previous_id, row.held) if row.deleted else row.to_retire
            ):
                purges.add(child_id)
            if within and row.to_retire:
                moved.append(row)
            if row.deleted and row.fresh and row.held is None:
                fresh.append(row)
    _block_shared_ids(plan, table, scope)
    _block_acknowledged_ids(plan, table, scope, purges)
    if ledger is not None:
        _spare_never_sent(plan, ledger, fresh)
    _plan_retirements(plan, ledger, moved)
    return plan


def _parts(rows: Iterable[DueRow]) -> Iterator[list[DueRow]]:
    iterator = iter(rows)
    while part := list(islice(iterator, _LOOKED_UP)):
        yield part


def _count(plan: Plan, row: DueRow, limit: int | None) -> bool:
    """Count a row, and say whether this run is about it."""
    if _purges(row, plan):
        plan.deletions += 1
    within = row.wanted and (limit is None or plan.due < limit)
    if within:
        plan.due += 1
        plan.last_key = row.key if limit is not None else None
    return within


def _purges(row: DueRow, plan: Plan) -> bool:
    """Whether this row is a deletion that would be sent."""
    known = row.deleted and ids_to_purge(row.child_id, row.previous_id, row.held)
    return bool(known) and not row.nameless and row.key not in plan.blocked


def _block_shared_ids(plan: Plan, table: StagingTable, scope: Scope) -> None:
    repeated = plan.child_ids.repeated()
    if not repeated:
        return
    holders: dict[str, list[DueRow]] = {}
    for row in table.scan_due(scope):
        if row.child_id is not None and hash(row.child_id) in repeated:
            holders.setdefault(row.child_id, []).append(row)
    for rows in holders.values():
        for row in rows if len(rows) > 1 else ():
            _block(plan, row, _shared("la_child_id", [other.key for other in rows if other is not row]))


def _block_held_ids(plan: Plan, table: StagingTable, ledger: Ledger, rows: Sequence[DueRow]) -> None:
    """Block rows whose la_child_id DfE holds for another person."""
    holders = ledger.holders([row.child_id for row in rows if row.child_id is not None])
    if not holders:
        return
    others: dict[str, set[str]] = {}
    for child_id, person in holders:
        others.setdefault(child_id, set()).add(person)
    for row in rows:
        foreign = {
            person
            for person in others.get(row.child_id or "", ())
            if not ledger.is_same_person(person, row.person_id)
        }
        if foreign:
            keys = [key for found in table.keys_of(sorted(foreign)).values() for key in found]
            plan.blocked.setdefault(row.key, _held_elsewhere(keys))


def _block_acknowledged_ids(plan: Plan, table: StagingTable, scope: Scope, purges: IdSet) -> None:
    """Find the ids to be purged under which another person was acknowledged since.

    Where no baseline tells whose child DfE holds under an id: a row that is neither due nor deleted was
    acknowledged with what it carries (or is held back, which is no reason to purge it either).
    """
    if not purges:
        return
    for key, child_id in table.scan_acknowledged():
        if child_id in purges:
            plan.held_ids.setdefault(child_id, []).append(key)
    if not plan.held_ids:
        return
    for row in table.scan_due(scope):
        holders = [key for key in plan.held_ids.get(row.child_id or "", ()) if key != row.key]
        if row.deleted and holders and row.key not in plan.blocked:
            _block(plan, row, _shared("la_child_id", holders))


def _held_elsewhere(keys: Sequence[Key]) -> str:
    if keys:
        return _shared("la_child_id", keys)
    return (
        "DfE holds this la_child_id for a person who is no longer in the table, so the two cannot be told "
        "apart. Give the child the same person_id again, or an id of its own."
    )


def _block(plan: Plan, row: DueRow, reason: str) -> None:
    plan.deletions -= _purges(row, plan)
    plan.blocked.setdefault(row.key, reason)


def _spare_never_sent(plan: Plan, ledger: Ledger, fresh: Sequence[DueRow]) -> None:
    """A deletion of which DfE never heard the name needs no purge (domain, "Deletions")."""
    attempted = ledger.ever_attempted([row.person_id for row in fresh if row.person_id is not None])
    for row in fresh:
        if row.person_id is not None and row.person_id not in attempted and not row.nameless:
            plan.deletions -= _purges(row, plan)
            plan.never_sent.add(row.key)


def _plan_retirements(plan: Plan, ledger: Ledger | None, moved: Sequence[DueRow]) -> None:
    """Earlier ids are purged first, unless they are somebody else's by now."""
    elsewhere: dict[str, set[str]] = {}
    if ledger is not None:
        for child_id, person in ledger.holders([found for row in moved for found in row.to_retire]):
            elsewhere.setdefault(child_id, set()).add(person)
    for row in moved:
        if row.key in plan.blocked or row.nameless or row.key in plan.never_sent:
            continue
        for earlier in row.to_retire:
            # An id that another row holds now is that row's business: purging it would take the child away.
            foreign = ledger is not None and any(
                not ledger.is_same_person(person, row.person_id) for person in elsewhere.get(earlier, ())
            )
            if foreign or earlier in plan.child_ids or earlier in plan.held_ids:
                plan.elsewhere.add(earlier)
            else:
                plan.retiring.setdefault(row.key, []).append(earlier)


def _shared(column: str, others: Sequence[Key]) -> str:
    if not others:
        return f"Several rows share this {column}, so they cannot be told apart. Remove all but one."
    named = ", ".join(str(key) for key in others[:_NAMED_ROWS])
    more = f" and {len(others) - _NAMED_ROWS} more" if len(others) > _NAMED_ROWS else ""
    return f"The same {column} is in row {named}{more}, so they cannot be told apart. Remove all but one."

"""The look at all due rows that a run takes before it sends the first one.

Some rules hold over the whole table and cannot be decided row by row: a la_child_id that two rows share, an
id that somebody else holds, the brake on deletions (domain, sections 3 and 5; interface,
MAX_DELETIONS_PERCENT). The survey reads no payloads and keeps eight bytes for each due row.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from api_pipeline.staging import DueRow, Key, Scope, StagingTable

BRAKE_MINIMUM = 20  # deletions up to this number never hold anything back
_NAMED_ROWS = 10  # row ids in one message

NAMELESS = "This row has no person_id, so its outcome could not be followed. Give it one."


class IdSet:
    """The la_child_ids of many rows, eight bytes each.

    Ids are kept as their hashes, so membership could be claimed wrongly once in about 10^14 runs over a
    million rows; every use is one where that only leaves a row for the next run.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._sorted = True

    def add(self, child_id: str) -> None:
        """Add an id; the same id may be added by several rows."""
        self._hashes.append(hash(child_id))
        self._sorted = False

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __contains__(self, child_id: str) -> bool:
        self._sort()
        wanted = hash(child_id)
        index = bisect_left(self._hashes, wanted)
        return index < len(self._hashes) and self._hashes[index] == wanted

    def repeated(self) -> set[int]:
        """Return the hashes that were added more than once."""
        self._sort()
        hashes = self._hashes
        return {hashes[i] for i in range(1, len(hashes)) if hashes[i] == hashes[i - 1]}

    def _sort(self) -> None:
        if not self._sorted:
            self._hashes = array("q", sorted(self._hashes))
            self._sorted = True


@dataclass
class Plan:
    """What a run is going to do, and the rows that it must not send."""

    due: int = 0  # rows that this run is about, after --limit and --person-id
    last_key: Key | None = None  # the last of them, where --limit cut them off
    child_ids: IdSet = field(default_factory=IdSet)
    blocked: dict[Key, str] = field(default_factory=dict)  # row -> why it becomes an error
    retiring: dict[Key, str] = field(default_factory=dict)  # row -> its earlier id, to be purged first
    held_ids: dict[str, list[Key]] = field(
        default_factory=dict
    )  # ids to purge that others hold -> their rows
    deletions: int = 0  # over the whole table
    people: int = 0  # not yet purged, over the whole table

    def brake_holds(self, percent: float) -> bool:
        """Whether so many deletions look like an emptied source rather than children who left."""
        return self.deletions > BRAKE_MINIMUM and self.deletions > self.people * percent / 100


def survey(table: StagingTable, scope: Scope, limit: int | None) -> Plan:
    """Look at every due row and decide what concerns more than one of them.

    Raises:
        DatabaseError: if the table cannot be read.
    """
    plan = Plan(people=table.people_not_purged())
    for key, others in table.same_person().items():
        plan.blocked[key] = _shared("person_id", others)
    moved: list[tuple[Key, str]] = []
    purges = IdSet()
    for row in table.scan_due(scope):
        if row.child_id is not None:
            plan.child_ids.add(row.child_id)
        if _purges(row, plan):
            plan.deletions += 1
            purges.add(row.child_id or str(row.previous_id))
        if row.wanted and (limit is None or plan.due < limit):
            plan.due += 1
            plan.last_key = row.key if limit is not None else None
            if row.child_id is not None and row.previous_id not in (None, row.child_id):
                moved.append((row.key, str(row.previous_id)))
                purges.add(str(row.previous_id))
    _block_shared_ids(plan, table, scope)
    _block_held_ids(plan, table, scope, purges)
    # An id that another row holds now is that row's business: purging it would take the child away.
    plan.retiring = {
        key: earlier
        for key, earlier in moved
        if key not in plan.blocked and earlier not in plan.child_ids and earlier not in plan.held_ids
    }
    return plan


def _purges(row: DueRow, plan: Plan) -> bool:
    """Whether this row is a deletion that would be sent."""
    known = row.child_id is not None or row.previous_id is not None
    return row.deleted and known and not row.nameless and row.key not in plan.blocked


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
            plan.deletions -= _purges(row, plan)
            others = [other.key for other in rows if other is not row]
            plan.blocked.setdefault(row.key, _shared("la_child_id", others))


def _block_held_ids(plan: Plan, table: StagingTable, scope: Scope, purges: IdSet) -> None:
    """Find the ids to be purged under which another person was acknowledged since.

    No baseline tells yet whose child DfE holds under an id, but a row that is neither due nor deleted was
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
            plan.deletions -= _purges(row, plan)
            plan.blocked[row.key] = _shared("la_child_id", holders)


def _shared(column: str, others: Sequence[Key]) -> str:
    if not others:
        return f"Several rows share this {column}, so they cannot be told apart. Remove all but one."
    named = ", ".join(str(key) for key in others[:_NAMED_ROWS])
    more = f" and {len(others) - _NAMED_ROWS} more" if len(others) > _NAMED_ROWS else ""
    return f"The same {column} is in row {named}{more}, so they cannot be told apart. Remove all but one."

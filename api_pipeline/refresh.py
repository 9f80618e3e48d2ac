"""The refresh of the staging table: who is new, changed, back, gone or left as they are, and the brakes.

Carries out ssd, section 5. A :class:`Refresher` lives for one attempt of one transaction: its caller commits
or rolls back, and starts a new one if the attempt has to be repeated. It keeps sixteen bytes for each staged
row and eight for each person of the source; payloads are in memory a lot at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from api_pipeline import brake
from api_pipeline import payload as payloads
from api_pipeline.id_set import IdSet
from api_pipeline.semantic import record_counts, semantic_hash
from api_pipeline.staged_people import NewRow, StagedPeople, StagedPerson
from api_pipeline.staging import Key, StagingTable

log = logging.getLogger(__name__)

_KEYS_AT_ONCE = 1_000
_NAMED = 10  # people of one kind whose ids go to the log


class Left(Enum):
    """Why a person is left as they are; each ends the command with code 1."""

    NO_ID = "no person_id in the source"
    SHARED_IN_SOURCE = "two people of the source share the person_id"
    SHARED_IN_STAGING = "several rows of the staging table share the person_id"
    UNREADABLE = "a date of the source cannot be read"
    ID_TOO_LONG = "the person_id does not fit the staging table"
    TEXT_UNFIT = "the payload does not fit the staging table"
    NOT_FOUND = "the staged row is not found by its person_id"


@dataclass(frozen=True, slots=True)
class Built:
    """A person of the cohort as they are tonight.

    Attributes:
        person_id: as it stands in the source.
        text: the payload as it is stored.
        hash: the semantic hash of the payload, 32 bytes.
        counts: how many records each of the lists with ids has.
    """

    person_id: str
    legacy_id: str | None
    text: str
    hash: bytes
    counts: Mapping[str, int]


@dataclass
class Changes:
    """What one attempt did, or would do: rows by what became of them, people by why they were left.

    ``lost`` has, for each list that lost more than the brake allows, how many records were lost of how many.
    """

    new: int = 0
    updated: int = 0
    returned: int = 0
    unchanged: int = 0
    hash_only: int = 0
    deleted: int = 0
    left: Counter[Left] = field(default_factory=Counter)
    lost: dict[str, tuple[int, int]] = field(default_factory=dict)


class Refresher:
    """Compares the people of the source with the staged rows, and writes the differences."""

    def __init__(self, table: StagingTable, *, write: bool, persons: Collection[str] = ()) -> None:
        """Look at the table as it is; ``persons`` narrows who can be gone to these person_ids.

        Raises:
            DatabaseError: if the table cannot be read.
        """
        self.changes = Changes()
        self._write = write
        self._people = StagedPeople(table)
        self._staged, self._live, self._shared, self._not_purged = self._people.survey()
        self._named = {hash(person.strip()) for person in persons}
        self._seen = IdSet()
        self._cohort_is_empty = True  # those left as they are may be in it or not
        self._uncounted: set[int] = set()  # seen, but their records are not in the counts below
        self._before: Counter[str] = Counter()  # records of the staged people that were seen
        self._fewer: Counter[str] = Counter()  # and by how many they have become fewer

    def is_staged(self, person_id: str) -> bool:
        """Whether a person has a row."""
        return person_id.strip() in self._staged

    # -- page by page ----------------------------------------------------------------------------------

    def leave(self, person_id: str, reason: Left) -> None:
        """Leave a person of the source as they are: neither changed nor gone."""
        self._seen.add(person_id.strip())
        self._uncounted.add(hash(person_id.strip()))
        self._count_left(reason, person_id)

    def leave_nameless(self, people: int) -> None:
        """Count the people who have no person_id."""
        if people:
            self.changes.left[Left.NO_ID] += people

    def _count_left(self, reason: Left, person_id: str) -> None:
        self.changes.left[reason] += 1
        if self.changes.left[reason] <= _NAMED:
            log.warning("person_id %s is left as it is: %s", person_id.strip(), reason.value)

    def take(self, people: Sequence[Built]) -> None:
        """Compare a page of the cohort with its staged rows, and write the differences.

        Raises:
            DatabaseError: if the table cannot be read or written to.
        """
        wanted: dict[str, Built] = {}
        self._cohort_is_empty = self._cohort_is_empty and not people
        for built in people:
            trimmed = built.person_id.strip()
            if hash(trimmed) in self._shared:
                self.leave(trimmed, Left.SHARED_IN_STAGING)
                continue
            self._seen.add(trimmed)
            wanted[trimmed] = built
        staged = self._people.look_up(trimmed for trimmed in wanted if trimmed in self._staged)
        differing: dict[Key, tuple[Built, StagedPerson]] = {}
        for trimmed, built in wanted.items():
            row = staged.get(trimmed)
            if row is None:
                self._insert(trimmed, built)
            elif row.current_hash == built.hash and not row.deleted:
                self.changes.unchanged += 1
                self._before.update(built.counts)
            else:
                differing[row.key] = (built, row)
        self._settle(differing)

    def _insert(self, trimmed: str, built: Built) -> None:
        if trimmed in self._staged:
            self._count_left(Left.NOT_FOUND, trimmed)
            return
        if not self._people.takes_id(built.person_id):
            self._count_left(Left.ID_TOO_LONG, trimmed)
            return
        text = self._storable(trimmed, built)
        if text is None:
            return
        self.changes.new += 1
        if self._write:
            legacy_id = self._people.legacy_id(built.legacy_id)
            self._people.insert(NewRow(built.person_id, legacy_id, text, built.hash))

    def _storable(self, trimmed: str, built: Built) -> str | None:
        text = built.text
        if self._people.takes_text(text):
            return text
        self._count_left(Left.TEXT_UNFIT, trimmed)
        return None

    def _settle(self, differing: Mapping[Key, tuple[Built, StagedPerson]]) -> None:
        """Deal with the rows whose hash is another one, or that have to come back."""
        for key, (built, row) in differing.items():
            if row.purged:  # DfE holds nothing of it, so it has nothing to lose
                self._update(key, built, row)
        others = [key for key, (_, row) in differing.items() if not row.purged]
        for key, stored in self._people.payloads(others) if others else ():
            built, row = differing[key]
            counts, content_hash = _content(stored)
            self._before.update(counts)
            # Only the definition of the hash differs: what was sent is as good as ever.
            if content_hash == built.hash and row.current_hash is not None and not row.deleted:
                self.changes.hash_only += 1
                if self._write:
                    self._people.replace_hash(key, built.hash)
                continue
            if self._update(key, built, row):
                self._fewer.update(counts)
                self._fewer.subtract(built.counts)

    def _update(self, key: Key, built: Built, row: StagedPerson) -> bool:
        """Give a row tonight's payload; return whether that can be."""
        text = self._storable(built.person_id.strip(), built)
        if text is None:
            return False
        if row.deleted or row.purged:
            self.changes.returned += 1
        else:
            self.changes.updated += 1
        if self._write:
            self._people.update(key, text, built.hash)
        return True

    # -- at the end ------------------------------------------------------------------------------------

    def finish(self, percent: float | None) -> list[str]:
        """Mark who is gone, unless a brake holds; return what holds it, one sentence each.

        ``percent`` is MAX_DELETIONS_PERCENT, None where deletions are allowed whatever their number. Where
        a sentence is returned, the caller has to roll everything back.

        Raises:
            DatabaseError: if the table cannot be read or written to.
        """
        self._people.flush()
        self.changes.deleted = self._count_gone()
        held = (
            [] if percent is None else [*self._too_many_gone(percent), *self._too_many_records_lost(percent)]
        )
        if self._write and not held and self.changes.deleted:
            for keys in _lots(key for key, hashed in self._people.live() if self._is_gone(hashed)):
                self._people.delete(keys)
        return held

    def _is_gone(self, hashed: int) -> bool:
        if self._named and hashed not in self._named:
            return False
        return not self._seen.has_hash(hashed) and hashed not in self._shared

    def _count_gone(self) -> int:
        gone = 0
        shared: set[int] = set()
        for hashed in self._live:
            if self._is_gone(hashed):
                gone += 1
            elif (
                hashed in self._shared
                and not self._seen.has_hash(hashed)
                and (not self._named or hashed in self._named)
            ):
                shared.add(hashed)
        if shared:
            self.changes.left[Left.SHARED_IN_STAGING] += len(shared)
        return gone

    def _too_many_gone(self, percent: float) -> list[str]:
        if not self._named and self._cohort_is_empty and self._not_purged:
            return [f"the source has nobody in the cohort, while people are staged ({self._not_purged})"]
        gone = self.changes.deleted
        if not brake.holds(gone, self._not_purged, percent):
            return []
        return [f"{gone} of {self._not_purged} staged people would be deleted"]

    def _too_many_records_lost(self, percent: float) -> list[str]:
        """Compare the lists that have become shorter with all that the staged people have (ssd, section 5).

        The payloads of those who were not seen are read only if a list has lost more than the minimum.
        """
        shorter = {name: fewer for name, fewer in self._fewer.items() if fewer > brake.MINIMUM}
        if not shorter:
            return []
        before = self._before + self._records_of_others()
        self.changes.lost = {
            name: (fewer, before[name])
            for name, fewer in sorted(shorter.items())
            if brake.holds(fewer, before[name], percent)
        }
        return [
            f"{fewer} of {of} records of {name} would be lost"
            for name, (fewer, of) in self.changes.lost.items()
        ]

    def _records_of_others(self) -> Counter[str]:
        found: Counter[str] = Counter()
        others = (
            key
            for key, hashed in self._people.others()
            if not self._seen.has_hash(hashed) or hashed in self._uncounted
        )
        for keys in _lots(others):
            for _, stored in self._people.payloads(keys):
                found.update(_content(stored)[0])
        return found


def _content(stored: str | None) -> tuple[Mapping[str, int], bytes | None]:
    """Return the records and the semantic hash of a stored payload; nothing of one that is none."""
    try:
        value = payloads.decode(stored or "")
        return (record_counts(value), semantic_hash(value)) if isinstance(value, dict) else ({}, None)
    except (ValueError, TypeError, AttributeError, KeyError):
        # Another tool may have stored anything: such a row is replaced.
        return {}, None


def _lots(keys: Iterable[Key]) -> Iterable[list[Key]]:
    lot: list[Key] = []
    for key in keys:
        lot.append(key)
        if len(lot) == _KEYS_AT_ONCE:
            yield lot
            lot = []
    if lot:
        yield lot

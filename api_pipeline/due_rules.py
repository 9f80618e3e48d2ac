"""Which of the rules of domain, "Due rows", makes a row due, or keeps it from being so.

The database decides what is due (:class:`staging.StagingTable`); what stands here names the reason to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from api_pipeline.payload import PURGE_MARKER
from api_pipeline.remembered import Key

_PENDING = frozenset({"", "pending"})
_RETRIED = frozenset({"error", "testing"})


class Rule(Enum):
    """The rules, by what they say."""

    PENDING = "pending"
    ERROR = "error"
    TESTING = "testing"
    DELETION_NOT_ACKNOWLEDGED = "deletion_not_acknowledged"
    HASHES_DIFFER = "hashes_differ"
    DELETION_ACKNOWLEDGED = "deletion_acknowledged"
    HELD_STATUS = "held_status"
    SENT_AND_UNCHANGED = "sent_and_unchanged"


@dataclass(frozen=True, slots=True)
class RowFacts:
    """A staging row without its payloads.

    Attributes:
        row_state: in lower case without outer blanks, as ``status`` is; empty for NULL.
        last_updated: as the database gives it, as ``submission_timestamp`` is.
        due: what the database says of the row.
    """

    key: Key
    row_state: str
    status: str
    current_hash: bytes | None
    previous_hash: bytes | None
    last_updated: str | None
    submission_timestamp: str | None
    api_response: str | None
    due: bool

    @property
    def deleted(self) -> bool:
        """Whether the refresh marked the row as gone from the cohort."""
        return self.row_state == "deleted"

    @property
    def marked(self) -> bool:
        """Whether the row carries the purge marker."""
        return self.current_hash == PURGE_MARKER

    @property
    def marked_before(self) -> bool:
        """Whether the row carried the purge marker before its last refresh."""
        return self.previous_hash == PURGE_MARKER

    @property
    def back_from_purge(self) -> bool:
        """Whether the child returned after its deletion had been acknowledged."""
        return self.marked_before and not self.deleted

    @property
    def hashes_differ(self) -> bool:
        """Whether both hashes are there, differ, and the current one is not the marker."""
        both = self.current_hash is not None and self.previous_hash is not None
        return both and self.current_hash != self.previous_hash and not self.marked


def rules_of(row: RowFacts) -> tuple[Rule, ...]:
    """Return the rules that apply, the one that says most first: all make the row due, or none does."""
    if row.deleted and row.marked:
        return (Rule.DELETION_ACKNOWLEDGED,)
    if row.status not in _PENDING | _RETRIED | {"sent"}:
        return (Rule.HELD_STATUS,)
    found = []
    if row.deleted:
        found.append(Rule.DELETION_NOT_ACKNOWLEDGED)
    if row.status in _PENDING:
        found.append(Rule.PENDING)
    elif row.status in _RETRIED:
        found.append(Rule(row.status))
    elif row.hashes_differ:
        found.append(Rule.HASHES_DIFFER)
    return tuple(found) or (Rule.SENT_AND_UNCHANGED,)

"""What is remembered of a person and of an attempt, as plain values (domain, section 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

Key = int | str
Skeleton = dict[str, Any]


class LogKind(Enum):
    """What an attempt was, as the log words it."""

    FULL = "full"
    PARTIAL = "partial"
    DELETION = "deletion"
    TEST = "test"


class LogOutcome(Enum):
    """What became of an attempt, as the log words it."""

    SENDING = "sending"
    SENT = "sent"
    ERROR = "error"
    UNSURE = "unsure"
    TESTING = "testing"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is known of one person: the state acknowledged last, and what was sent since without an answer."""

    person_id: str
    child_id: str | None
    state: str  # acknowledged, purged, unknown
    payload: str | None
    payload_hash: bytes | None
    records_hash: bytes | None
    receipt: str | None
    acknowledged_at: datetime | None
    unsure: Mapping[str, Skeleton]
    full_next: bool

    @property
    def acknowledged(self) -> bool:
        """Whether DfE holds a state of this person that is known."""
        return self.state == "acknowledged"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One record on its way; ``run_id`` and ``seq`` name it.

    ``acknowledged_text`` is the state that an acknowledgement makes, where that is not the row's payload.
    """

    run_id: str
    seq: int
    key: Key
    row_id: int | None
    person_id: str
    row_hash: bytes
    row_deleted: bool
    kind: LogKind
    child_id: str
    sent_hash: bytes
    sent_bytes: int
    state_hash: bytes | None = None
    records_hash: bytes | None = None
    acknowledged_text: str | None = None
    known: bool = False  # the person has a line in the baseline
    unsure_before: str | None = None  # doubt that is older than any attempt: what an older tool may have sent
    unsure_after: str | None = None  # doubt about other ids that an acknowledgement leaves


@dataclass(frozen=True, slots=True)
class Closing:
    """How an attempt ended; ``detail`` is the receipt, or a reason without any data."""

    attempt: Attempt
    outcome: LogOutcome
    posts: int
    http_status: int | None
    detail: str
    receipt: str = ""
    moment: datetime | None = None


@dataclass(frozen=True, slots=True)
class Flight:
    """A payload on its way when last heard of: a run is at work, or ended before it noted the reply."""

    kind: str
    child_id: str | None
    payload: str | None
    payload_hash: bytes | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the submission log about one person; times are UTC."""

    run_id: str
    seq: int
    row_id: int | None
    kind: str
    outcome: str
    posts: int | None
    http_status: int | None
    detail: str | None
    sent_bytes: int | None
    sent_hash: bytes | None
    state_hash: bytes | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunLines:
    """What the log has of one run: its times (UTC) and its lines by outcome."""

    run_id: str
    started_at: datetime | None
    finished_at: datetime | None
    outcomes: Mapping[str, int]


def unsure_text(unsure: Mapping[str, Skeleton]) -> str | None:
    """Return the union of unsure records as the baseline stores it."""
    return json.dumps(unsure, ensure_ascii=False, separators=(",", ":"), sort_keys=True) if unsure else None

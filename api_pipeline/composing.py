"""What to send for one child, given what DfE is known to hold (domain, section 5).

Pure: rows and baselines in, texts and hashes out. The rules themselves are in :mod:`delta`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from api_pipeline import delta, payload
from api_pipeline.remembered import Baseline


class Sending(Enum):
    """What goes out for a row."""

    NOTHING = "nothing"
    FULL = "full"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Composition:
    """The text to send, and the state that an acknowledgement makes.

    ``acknowledged_text`` is that state as JSON where it is not simply the row's payload.
    """

    sending: Sending
    text: bytes
    state_hash: bytes
    records_hash: bytes
    acknowledged_text: str | None = None


def compose_full(text: bytes, value: Any, child_id: str, baseline: Baseline | None) -> Composition:
    """Send the payload as it is stored; records that vanished stay at DfE, so the baseline keeps them."""
    state = delta.normalise(value)
    own = Composition(Sending.FULL, text, delta.state_hash(state), delta.records_hash(state))
    held = _held(child_id, baseline)
    if held is None or (baseline is not None and not baseline.unsure and held.same_records(own.records_hash)):
        return own
    result = delta.after_full(held.acknowledged(), held.unsure, value)
    if result is None or delta.same(result, state):
        return own
    return Composition(
        Sending.FULL,
        own.text,
        delta.state_hash(result),
        delta.records_hash(result),
        delta.encode(result).decode(),
    )


def compose_partial(
    text: bytes, value: Any, child_id: str, baseline: Baseline | None, previous: str | None
) -> Composition:
    """Send the smallest payload that is right: nothing, a partial, or the full payload with purges.

    ``previous`` is the row's previous payload, for a child of whom no baseline is kept: an older tool may
    have sent it.
    """
    state = delta.normalise(value)
    hashes = delta.state_hash(state), delta.records_hash(state)
    held = _held(child_id, baseline)
    base: Any = None
    unsure: Any = None
    if held is not None:
        base = held.acknowledged()
        unsure = held.unsure
        if baseline is not None and baseline.full_next and base is not None and not delta.same(base, state):
            unsure = delta.merge_skeletons(unsure or {}, delta.skeleton(base))
    elif is_unknown(baseline):
        unsure = _skeleton_of(previous, child_id)
    choice = delta.choose(base, unsure, value)
    if choice.kind == "unchanged":
        return Composition(Sending.NOTHING, b"", *hashes)
    if choice.kind == "partial":
        return Composition(Sending.PARTIAL, delta.encode(choice.payload or {}), *hashes)
    # Where nothing has to be purged the stored bytes go, white space and all.
    as_stored = choice.payload is None or choice.payload is value
    return Composition(Sending.FULL, text if as_stored else delta.encode(choice.payload or {}), *hashes)


def needs_state(value: Any, child_id: str, baseline: Baseline | None) -> bool:
    """Whether an acknowledged full payload may leave DfE with more than the payload holds."""
    held = _held(child_id, baseline)
    if held is None:
        return False
    return held.unsure is not None or not held.same_records(delta.records_hash(delta.normalise(value)))


def is_unknown(baseline: Baseline | None) -> bool:
    """Whether nothing is known of what DfE holds, so that an earlier tool may have sent something."""
    return baseline is None or (baseline.state == "unknown" and not baseline.unsure)


@dataclass(frozen=True, slots=True)
class _Held:
    """What DfE may hold under one la_child_id."""

    baseline: Baseline
    unsure: dict[str, Any] | None
    same_child: bool

    def acknowledged(self) -> Any:
        """The state that is known, or None."""
        text = self.baseline.payload if self.same_child else None
        return None if text is None else delta.normalise(payload.decode(text))

    def same_records(self, records_hash: bytes) -> bool:
        return self.same_child and self.baseline.records_hash == records_hash


def _held(child_id: str, baseline: Baseline | None) -> _Held | None:
    if baseline is None:
        return None
    same_child = baseline.acknowledged and baseline.child_id == child_id
    unsure = baseline.unsure.get(child_id)
    if not same_child and unsure is None:
        return None
    return _Held(baseline, None if unsure is None else dict(unsure), same_child)


def _skeleton_of(text: str | None, child_id: str) -> Any:
    if text is None:
        return None
    try:
        value = payload.decode(text)
    except payload.UnreadablePayload:
        return None
    if payload.child_ids(value)[0] != child_id:
        return None  # the earlier id is purged as a whole
    return delta.skeleton(delta.normalise(value))

"""What to send for one child, given what DfE is known to hold (domain, section 5).

Pure: rows and baselines in, texts and hashes out. The rules themselves are in :mod:`delta`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from api_pipeline import delta, payload
from api_pipeline.remembered import Baseline, Skeleton


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
    older: Skeleton | None = None  # records that an older tool may have sent


def compose_full(text: bytes, value: Any, child_id: str, baseline: Baseline | None) -> Composition:
    """Send the payload as it is stored; the baseline keeps vanished records, whose fate it leaves open.

    DfE may take a full payload for all there is of a child, or may keep what it does not name. So the
    baseline knows of a vanished record that it may be there, and nothing of its fields: in partial mode it
    is purged, or sent whole if it comes back, and never counts as unchanged.
    """
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
    text: bytes,
    value: Any,
    child_id: str,
    baseline: Baseline | None,
    previous: str | None,
    *,
    in_full: bool = False,
) -> Composition:
    """Send the smallest payload that is right: nothing, a partial, or the full payload with purges.

    ``previous`` is the row's previous payload, for a child of whom no baseline is kept: an older tool may
    have sent it. ``in_full`` asks for the full payload with purges whatever is known.
    """
    state = delta.normalise(value)
    hashes = delta.state_hash(state), delta.records_hash(state)
    held = _held(child_id, baseline)
    base: Any = None
    unsure: Skeleton | None = None
    older: Skeleton | None = None
    if held is not None:
        base = held.acknowledged()
        unsure = held.unsure  # an empty one is a doubt, too: a deletion
        refused = baseline is not None and baseline.full_next and not delta.same(base, state)
        if base is not None and unsure is None and (refused or in_full):
            unsure = {}  # doubt asks for the full payload
    elif is_unknown(baseline):
        unsure = older = _skeleton_of(previous, child_id)
    choice = delta.choose(base, unsure, value)
    if choice.kind == "unchanged":
        return Composition(Sending.NOTHING, b"", *hashes)
    if choice.kind == "partial":
        return Composition(Sending.PARTIAL, delta.encode(choice.payload or {}), *hashes)
    # Where nothing has to be purged the stored bytes go, white space and all.
    as_stored = choice.payload is None or choice.payload is value
    full = text if as_stored else delta.encode(choice.payload or {})
    return Composition(Sending.FULL, full, *hashes, older=older)


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
    unsure: Skeleton | None
    same_child: bool

    def acknowledged(self) -> Any:
        """The state that is known, or None."""
        text = self.baseline.payload if self.same_child else None
        return None if text is None else delta.normalise(payload.decode_leniently(text))

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


def _skeleton_of(text: str | None, child_id: str) -> Skeleton | None:
    if text is None:
        return None
    value = payload.decode_leniently(text)
    if payload.child_ids(value)[0] != child_id:
        return None  # the earlier id is purged as a whole
    return delta.skeleton(delta.normalise(value))

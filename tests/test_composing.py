"""What goes out for one child, from every state of knowledge about what DfE holds (domain, section 5)."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import delta
from api_pipeline.composing import (
    Composition,
    Sending,
    compose_full,
    compose_partial,
    is_unknown,
    needs_state,
)
from api_pipeline.remembered import Baseline
from tests.model_world import Authority, Flat, apply_flat, flat_of

Json = dict[str, Any]


class _Plain(Authority):
    """Makes payloads without duplicate ids, nulls and purges, for what the odd ones are exempt from."""

    def _oddly(self, payload: Json) -> Json:
        return payload


def some_payload(seed: int, kind: type[Authority] = Authority) -> Json:
    """Return one of few payloads of the child c1, so that they share records."""
    maker = kind.__new__(kind)
    maker.chance = random.Random(seed)
    return maker.make("p1")


PAYLOADS = st.integers(0, 400).map(some_payload)
PLAIN = st.integers(0, 400).map(lambda seed: some_payload(seed, _Plain))


def baseline(**values: Any) -> Baseline:
    """Return what is known of a person."""
    known: Json = {
        "person_id": "p1",
        "child_id": None,
        "state": "unknown",
        "payload": None,
        "payload_hash": None,
        "records_hash": None,
        "receipt": "uuid",
        "acknowledged_at": None,
        "unsure": {},
        "full_next": False,
    }
    return Baseline(**{**known, **values})


def acknowledged(child: Json, **values: Any) -> Baseline:
    """Return the baseline after a payload was acknowledged that left nothing else behind."""
    state = delta.normalise(child)
    known = {
        "child_id": child["la_child_id"],
        "state": "acknowledged",
        "payload": json.dumps(child),
        "payload_hash": delta.state_hash(state),
        "records_hash": delta.records_hash(state),
    }
    return baseline(**{**known, **values})


def partial(
    payload: Json, known: Baseline | None, previous: Json | None = None, **options: Any
) -> Composition:
    """Compose in partial mode."""
    text = json.dumps(payload).encode()
    before = None if previous is None else json.dumps(previous)
    return compose_partial(text, payload, payload["la_child_id"], known, before, **options)


def held_after(composed: Composition, *held: Json) -> Flat:
    """Return what a receiver holds that was sent ``held`` before, by rules that are not the package's."""
    flat: Flat = {}
    for payload in held:
        apply_flat(flat, payload)
    if composed.sending is not Sending.NOTHING:
        apply_flat(flat, json.loads(composed.text))
    return flat


@given(before=PAYLOADS, now=PAYLOADS)
def test_law_holds_for_odd_payloads(before: Json, now: Json) -> None:
    """Duplicate ids, nulls, purges in the payload itself: whatever goes out makes DfE hold the payload."""
    assert held_after(partial(now, acknowledged(before)), before) == flat_of(now)


@given(before=PLAIN, now=PLAIN)
def test_partial_turns_the_baseline_into_the_payload(before: Json, now: Json) -> None:
    """The law, and its two ends: nothing goes exactly if nothing changed, and nothing bigger than needed."""
    composed = partial(now, acknowledged(before))
    assert held_after(composed, before) == flat_of(now)
    assert (composed.sending is Sending.NOTHING) == (flat_of(before) == flat_of(now))
    in_full = partial(now, acknowledged(before), in_full=True)
    assert in_full.sending is Sending.FULL
    assert held_after(in_full, before) == flat_of(now)
    assert len(composed.text) <= max(len(in_full.text), len(json.dumps(now)))
    assert composed.acknowledged_text is None
    assert composed.state_hash == in_full.state_hash == delta.state_hash(delta.normalise(now))


@given(before=PAYLOADS, lost=st.lists(PAYLOADS, max_size=3), now=PAYLOADS, taken=st.integers(0, 15))
def test_after_doubt_the_payload_is_right_whatever_arrived(
    before: Json, lost: list[Json], now: Json, taken: int
) -> None:
    """Whichever of the lost payloads were taken, a purge among them or not, DfE holds the payload then."""
    union: Json = {}
    for payload in lost:
        union = delta.merge_skeletons(union, delta.skeleton(payload))
    composed = partial(now, acknowledged(before, unsure={"c1": union}))
    assert composed.sending is Sending.FULL
    arrived = [payload for index, payload in enumerate(lost) if taken >> index & 1]
    assert held_after(composed, before, *arrived) == flat_of(now)
    purge = {"la_child_id": "c1", "purge": True}
    assert held_after(composed, before, *arrived, purge) == flat_of(now)


@given(previous=PAYLOADS, now=PAYLOADS)
def test_without_a_baseline_the_previous_payload_counts(previous: Json, now: Json) -> None:
    """Sent by an older tool or not at all: right in both cases, and kept as older doubt."""
    for known in (None, baseline()):
        composed = partial(now, known, previous)
        assert composed.sending is Sending.FULL
        assert composed.older == delta.skeleton(previous)
        assert held_after(composed, previous) == held_after(composed) == flat_of(now)


@given(before=PAYLOADS, vanished=PAYLOADS, now=PAYLOADS, replaces=st.booleans())
def test_full_mode_leaves_a_baseline_for_either_reading(
    before: Json, vanished: Json, now: Json, replaces: bool
) -> None:
    """Whether DfE replaced the child or kept what was not named, the next partial is right."""
    known = acknowledged(before)
    text = json.dumps(vanished).encode()
    full = compose_full(text, vanished, "c1", known)
    assert full.text == text
    if not needs_state(vanished, "c1", known):
        assert full.acknowledged_text is None
    after = full.acknowledged_text or text.decode()
    kept = acknowledged(vanished, payload=after, records_hash=full.records_hash)
    held = [vanished] if replaces else [before, vanished]
    assert held_after(partial(now, kept), *held) == flat_of(now)


@given(before=PLAIN, now=PLAIN)
def test_refused_partial_is_followed_by_a_full_payload(before: Json, now: Json) -> None:
    """Unless the payload went back to what DfE has: then nothing is to be sent."""
    composed = partial(now, acknowledged(before, full_next=True))
    unchanged = flat_of(before) == flat_of(now)
    assert composed.sending is (Sending.NOTHING if unchanged else Sending.FULL)
    assert held_after(composed, before) == flat_of(now)


def test_stored_bytes_go_where_nothing_is_purged() -> None:
    """White space, escapes and key order of the row's payload survive in a full payload."""
    text = b'{ "child_details": {"surname": "\\u00e9"},\n "la_child_id": "c1" }'
    value = json.loads(text)
    for known in (None, baseline(state="purged"), acknowledged({"la_child_id": "c0", "child_details": {}})):
        assert compose_partial(text, value, "c1", known, None).text == text
        assert compose_full(text, value, "c1", known).text == text


def test_unknown_means_that_nothing_at_all_is_known() -> None:
    """Not a purge, not a doubt, not an acknowledgement."""
    assert is_unknown(None)
    assert is_unknown(baseline())
    assert not is_unknown(baseline(state="purged"))
    assert not is_unknown(baseline(unsure={"c1": {}}))
    assert not is_unknown(acknowledged({"la_child_id": "c1"}))


def test_previous_payload_of_another_id_or_none_is_passed_over() -> None:
    """An earlier id is purged as a whole, and what cannot be read tells of nothing."""
    now = {"la_child_id": "c1", "child_details": {}}
    for previous in (
        '{"la_child_id": "c0", "social_care_episodes": [{"social_care_episode_id": "e"}]}',
        "?",
        "[]",
    ):
        composed = compose_partial(b"{}", now, "c1", None, previous)
        assert (composed.text, composed.older) == (b"{}", None)

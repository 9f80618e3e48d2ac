"""The hash that tells whether a payload has changed in substance, and how many records it holds.

Carries out ssd, section 4. Case systems give new ids to old records overnight and give rows in any order;
neither is a change. Pure; what is handed in is never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any

from api_pipeline.delta import CHILD_SHAPE, RecordShape

_EPISODES = "social_care_episodes"
_PURGE = "purge"

# The lists whose items have ids of their own.
ID_LISTS: tuple[str, ...] = (
    _EPISODES,
    *(name for name, shape in CHILD_SHAPE.nested[_EPISODES].nested.items() if shape.id_field),
)

_CANONICAL = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def semantic_hash(payload: Mapping[str, Any]) -> bytes:
    """Return 32 bytes that are equal for payloads that differ in nothing but what is no change.

    That is SHA-256 of the canonical JSON without the ids of nested records and without the purge flags of
    records, the items of the six lists of :data:`ID_LISTS` sorted by what is left of them, as text by code
    point.

    Raises:
        ValueError: for infinity and NaN, which the strict reader never returns.
    """
    return hashlib.sha256(_projection(CHILD_SHAPE, payload).encode("utf-8", "surrogatepass")).digest()


def record_counts(payload: Mapping[str, Any]) -> dict[str, int]:
    """Return list name -> number of its records, over all episodes, for the six lists of ID_LISTS."""
    episodes = [item for item in _items(payload.get(_EPISODES)) if isinstance(item, dict)]
    counts = dict.fromkeys(ID_LISTS, 0)
    counts[_EPISODES] = len(_items(payload.get(_EPISODES)))
    for episode in episodes:
        for name in ID_LISTS[1:]:
            if name in episode:
                counts[name] += len(_items(episode[name]))
    return counts


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _projection(shape: RecordShape, record: Mapping[str, Any]) -> str:
    """Return the canonical text of what counts of a record, written in one walk."""
    parts: list[str] = []
    id_field, nested = shape.id_field, shape.nested
    for name in sorted(record):
        if name == _PURGE or (name == id_field and id_field):
            continue
        value = record[name]
        inner = nested.get(name)
        if type(value) is str:
            written = encode_basestring(value)
        elif inner is None or (inner.id_field and type(value) is not list):
            written = _canonical(value)
        elif inner.id_field:
            written = f"[{','.join(sorted([_part(inner, item) for item in value]))}]"
        else:
            written = _part(inner, value)
        parts.append(f"{encode_basestring(name)}:{written}")
    return f"{{{','.join(parts)}}}"


def _part(shape: RecordShape, value: Any) -> str:
    return _projection(shape, value) if isinstance(value, dict) else _canonical(value)


def _canonical(value: Any) -> str:
    """Return what the encoder does: for the most frequent values without the cost of setting it up."""
    kind = type(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is str:
        return encode_basestring(value)
    if kind is list:
        return f"[{','.join([_canonical(item) for item in value])}]"
    if kind is dict:
        members = [f"{encode_basestring(name)}:{_canonical(value[name])}" for name in sorted(value)]
        return f"{{{','.join(members)}}}"
    return _CANONICAL.encode(value)

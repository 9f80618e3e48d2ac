"""The hash that tells whether a payload has changed in substance, and how many records it holds.

Carries out ssd, section 4. Case systems give new ids to old records overnight and give rows in any order;
neither is a change. Pure; what is handed in is never changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from api_pipeline.delta import CHILD_SHAPE, RecordShape

_EPISODES = "social_care_episodes"
_PURGE = "purge"

# The lists whose items have ids of their own.
ID_LISTS: tuple[str, ...] = (
    _EPISODES,
    *(name for name, shape in CHILD_SHAPE.nested[_EPISODES].nested.items() if shape.id_field),
)

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))

# Quicker, and the same text but for numbers with a fraction or an exponent (1e16 for 1e+16) and for infinity
# and NaN, which become null. To find such a thing inside a string does no harm but to the speed.
_quick = partial(orjson.dumps, option=orjson.OPT_SORT_KEYS)
_FRACTION, _EXPONENT, _NULL = (
    re.compile(marks).search for marks in (rb"\.[0-9]", rb"e[-0-9]+[,}\]]", b"null")
)


def semantic_hash(payload: Mapping[str, Any]) -> bytes:
    """Return 32 bytes that are equal for payloads that differ in nothing but what is no change.

    That is SHA-256 of the canonical JSON without the ids of nested records and without the purge flags of
    records, the items of the six lists of :data:`ID_LISTS` sorted by what is left of them, as text by code
    point.

    Raises:
        ValueError: for infinity and NaN, which the strict reader never returns.
    """
    return hashlib.sha256(_canonical(payload)).digest()


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


def _canonical(payload: Mapping[str, Any]) -> bytes:
    """Return the canonical text of what counts, by the quick encoder where it writes the very same."""
    try:
        text = _quick(_projection(CHILD_SHAPE, payload, _quick))
    except orjson.JSONEncodeError:  # half surrogates, integers of more than 64 bits, deep nesting
        return _exact(_projection(CHILD_SHAPE, payload, _exact))
    if _FRACTION(text) or _EXPONENT(text) or _NULL(text):
        return _exact(_projection(CHILD_SHAPE, payload, _exact))
    return text


def _exact(value: Any) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def _projection(
    shape: RecordShape, record: Mapping[str, Any], encode: Callable[[Any], bytes]
) -> dict[str, Any]:
    """Return what counts of a record, the items of its lists with ids sorted by their text."""
    counts = dict(record)
    counts.pop(_PURGE, None)
    id_field, nested = shape.id_field, shape.nested
    if id_field:
        counts.pop(id_field, None)
    for name in nested:
        if name not in counts:
            continue
        value, inner = counts[name], nested[name]
        if type(value) is dict and not inner.id_field:
            counts[name] = _projection(inner, value, encode)
        elif type(value) is list and inner.id_field:
            items = [_projection(inner, item, encode) if type(item) is dict else item for item in value]
            if len(items) > 1:
                items.sort(key=encode)
            counts[name] = items
    return counts

"""How a payload differs from the state that DfE holds, as paths: no value and no id of any record.

Pure. Paths are those of the payload in the staging row; a record that is not in it stands as ``[-]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api_pipeline import delta
from api_pipeline.delta import CHILD_SHAPE, DOUBT_FIELDS, RecordShape, Skeleton, State

_GONE = "[-]"


@dataclass(frozen=True, slots=True)
class Differences:
    """What a payload does to what DfE holds.

    Attributes:
        added: records and fields that are new; ``$`` where DfE is not known to hold the child.
        changed: fields with another value.
        cleared: own fields that are in the payload no longer, so that DfE clears them.
        purged: records that the payload removes.
        staying: records that vanished from the row and are not removed by the payload.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    purged: tuple[str, ...] = ()
    staying: tuple[str, ...] = ()

    @property
    def named(self) -> Mapping[str, Sequence[str]]:
        """The lists by name, in the order in which they are shown."""
        return {
            "added": self.added,
            "changed": self.changed,
            "cleared": self.cleared,
            "purged": self.purged,
            "staying at DfE": self.staying,
        }


def compare(held: State | None, current: Any, sent: Any) -> Differences:
    """Say what ``sent`` changes where DfE holds ``held``.

    ``current`` is the parsed payload of the row, ``sent`` the one made from it: the same, or a partial one.
    """
    purged = list(_purges(CHILD_SHAPE, sent, current, "$"))
    if held is None:
        return Differences(added=("$",), purged=_listed(purged))
    found: dict[str, list[str]] = {"added": [], "changed": [], "cleared": [], "vanished": []}
    state = delta.normalise(current)
    _walk(CHILD_SHAPE, held, {} if state is None else state, current, "$", found)
    removed = Counter(purged)
    staying = [path for path in found["vanished"] if not _take(removed, path)]
    return Differences(
        added=_listed(found["added"]),
        changed=_listed(found["changed"]),
        cleared=_listed(found["cleared"]),
        purged=_listed(purged),
        staying=_listed(staying),
    )


def count_records(known: Skeleton, kind: RecordShape = CHILD_SHAPE) -> int:
    """Count the records of a skeleton, the child itself among them."""
    count = 1
    for name, inner in kind.nested.items():
        if name in known:
            below = known[name].values() if inner.id_field else [known[name]]
            count += sum(count_records(record, inner) for record in below)
    return count


def _walk(
    kind: RecordShape, held: Any, state: Any, current: Any, path: str, found: dict[str, list[str]]
) -> None:
    """Compare one record with its counterpart; ``current`` is the same record as the row has it."""
    for name in [*state, *(name for name in held if name not in state)]:
        inner, here = kind.nested.get(name), f"{path}.{name}"
        if inner is not None:
            _walk_nested(inner, held.get(name), state.get(name), current.get(name), here, found)
        elif name not in held:
            found["added"].append(here)
        elif name not in state:
            found["cleared"] += [] if name in DOUBT_FIELDS else [here]
        elif not delta.same(held[name], state[name]):
            found["changed"].append(here)


def _walk_nested(
    kind: RecordShape, held: Any, state: Any, current: Any, path: str, found: dict[str, list[str]]
) -> None:
    before, after, places = _by_id(kind, held), _by_id(kind, state), _places(kind, current, path)
    for key, record in after.items():
        here, source = places.get(key, (path, {}))
        if key in before:
            _walk(kind, before[key], record, source, here, found)
        else:
            found["added"].append(here)
    gone = path + _GONE if kind.id_field else path
    found["vanished"] += [gone for key in before if key not in after]


def _purges(kind: RecordShape, sent: Any, current: Any, path: str) -> Iterator[str]:
    for name, inner in kind.nested.items():
        given = sent.get(name) if isinstance(sent, dict) else None
        places = _places(inner, current.get(name) if isinstance(current, dict) else None, f"{path}.{name}")
        for key, record in _by_id(inner, given).items():
            here, source = places.get(key, (f"{path}.{name}{_GONE if inner.id_field else ''}", {}))
            if record.get("purge") is True:
                yield f"{path}.{name}{_GONE if inner.id_field else ''}"
            else:
                yield from _purges(inner, record, source, here)


def _by_id(kind: RecordShape, value: Any) -> dict[str, Any]:
    """Return records by id; of what there is one of, by an empty id."""
    return {key: record for _, key, record in _items(kind, value)}


def _places(kind: RecordShape, value: Any, path: str) -> dict[str, tuple[str, Any]]:
    """Return path and record by id, of duplicates the last."""
    return {
        key: (path if index is None else f"{path}[{index}]", record)
        for index, key, record in _items(kind, value)
    }


def _items(kind: RecordShape, value: Any) -> Iterator[tuple[int | None, str, Any]]:
    if not kind.id_field:
        if isinstance(value, dict):
            yield None, "", value
        return
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict) and isinstance(key := item.get(kind.id_field), str):
            yield index, key, item


def _take(counted: Counter[str], path: str) -> bool:
    """Take one of the counted paths away; False if there is none left."""
    there = counted[path] > 0
    counted[path] -= there
    return there


def _listed(paths: Iterable[str]) -> tuple[str, ...]:
    """Return each path once, with the number of records that it stands for where there are several."""
    return tuple(path if count == 1 else f"{path} x{count}" for path, count in Counter(paths).items())

"""A set of very many ids in very little memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator


class IdSet:
    """Ids of many rows, eight bytes each, because they are kept as their hashes.

    Of a million ids two are taken for one once in about 10^7 runs. Every use is one where that only leaves
    a row, or a person, for the next run.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._sorted = True

    def add(self, text: str) -> None:
        """Add an id; the same id may be added by several rows."""
        self._hashes.append(hash(text))
        self._sorted = False

    def __len__(self) -> int:
        """How many times an id was added."""
        return len(self._hashes)

    def __iter__(self) -> Iterator[int]:
        """Yield the hashes of the ids."""
        return iter(self._hashes)

    def __contains__(self, text: str) -> bool:
        return self.has_hash(hash(text))

    def has_hash(self, hashed: int) -> bool:
        """Whether an id with this hash was added."""
        self._sort()
        index = bisect_left(self._hashes, hashed)
        return index < len(self._hashes) and self._hashes[index] == hashed

    def repeated(self) -> set[int]:
        """Return the hashes that were added more than once."""
        self._sort()
        hashes = self._hashes
        return {hashes[i] for i in range(1, len(hashes)) if hashes[i] == hashes[i - 1]}

    def _sort(self) -> None:
        if not self._sorted:
            self._hashes = array("q", sorted(self._hashes))
            self._sorted = True

"""How far a run is: a bar on a terminal, plain lines in the log everywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import tqdm

log = logging.getLogger(__name__)

_LINE_EVERY = 30.0  # seconds between two plain lines


class Progress:
    """Where a command reports how far it is; the default reports nothing."""

    def begin(self, total: int) -> None:
        """The run is going to handle ``total`` rows."""

    def advance(self, rows: int) -> None:
        """So many more rows have been handled."""

    def end(self) -> None:
        """The run is over, one way or another."""


class BarProgress(Progress):
    """A bar on a terminal, in ASCII because a Windows console may not have the block characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm.tqdm[Any] | None = None

    def begin(self, total: int) -> None:
        import tqdm

        self._bar = tqdm.tqdm(
            total=total, unit="row", ascii=True, file=self._stream, leave=False, dynamic_ncols=True
        )

    def advance(self, rows: int) -> None:
        if self._bar is not None:
            self._bar.update(rows)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()


class LineProgress(Progress):
    """A line in the log now and then, for a scheduled task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = 0
        self._done = 0
        self._last = 0.0

    def begin(self, total: int) -> None:
        self._total = total
        self._last = self._clock()

    def advance(self, rows: int) -> None:
        self._done += rows
        if self._clock() - self._last >= _LINE_EVERY:
            self._last = self._clock()
            log.info("%d of %d rows done", self._done, self._total)


def choose(stream: TextIO | None, *, wanted: bool) -> Progress:
    """Return the progress that suits ``stream``, if there is one; none at all with ``--no-progress``."""
    if not wanted:
        return Progress()
    return BarProgress(stream) if stream is not None and stream.isatty() else LineProgress()

"""A second process that builds payloads, while this one talks to the database.

To build a page of people keeps Python as busy as to read it, and one process does one thing at a time. So
where there are more people than fit a page, pages go to a process beside this one and come back built, one
behind the reading. The process is a help and no more: where it cannot be started or ends before its time,
whatever the reason, the page that it had and all that follow are built here. It writes nothing but what it is
asked for, and has no connection to any database.

Not ``multiprocessing``: that would run the script of whoever calls :func:`stage.stage` a second time.
"""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import orjson

from api_pipeline.cohort_building import BuildOptions, BuiltPage, CohortBuilder
from api_pipeline.runtime import BUILDER_ARGUMENT, prepare_process
from api_pipeline.ssd_source import PeoplePage
from api_pipeline.ssd_tables import SOURCE_TABLES, Kind

log = logging.getLogger(__name__)

_SECONDS_TO_END = 5.0  # for a process that has nothing more to read
_LENGTH = 8  # bytes before every message

# With the modules of this process, wherever they come from, and not with what the current folder may hold.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from api_pipeline import builder_process; builder_process.main()"
)


class _Other(NamedTuple):
    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]


class BuilderProcess:
    """Builds pages beside this process as long as it can; use it in a ``with``.

    Args:
        wanted: whether there is enough to do for two; if not, no process is started.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._other: _Other | None = None
        if wanted:
            self._start()

    def _start(self) -> None:
        try:
            process = subprocess.Popen(
                _command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl+C is for this process, which then decides.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            log.warning("no second process can be started (%s); stage takes longer without it", error)
        else:
            if process.stdin is not None and process.stdout is not None:  # which is what the pipes are for
                self._other = _Other(process, process.stdin, process.stdout)

    def __enter__(self) -> BuilderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        other, self._other = self._other, None
        if other is None:
            return
        try:
            # It ends when there is nothing more to read; what it still has to say is read and forgotten.
            other.process.communicate(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            other.process.kill()
            other.process.communicate()

    def built(self, pages: Iterable[PeoplePage], options: BuildOptions) -> Iterator[BuiltPage]:
        """Yield what each page gives, in order, one behind what has been read from ``pages``."""
        here = CohortBuilder(options)
        self._send(pickle.dumps(options))
        away: bytes | None = None  # the page that the other process has; a fifth of the size of its rows
        for page in pages:
            before, found = away, self._receive() if away is not None else None
            # Only now: two that write to each other wait for ever.
            away = self._sent(page)
            if before is not None:
                yield found or here.build(unpack(before))
            if away is None:
                yield here.build(page)
        if away is not None:
            yield self._receive() or here.build(unpack(away))

    def _sent(self, page: PeoplePage) -> bytes | None:
        """Send a page and return what was sent; None if there is nobody to send it to."""
        if self._other is None:
            return None
        message = pack(page)
        return message if self._send(message) else None

    def _send(self, message: bytes) -> bool:
        if self._other is None:
            return False
        try:
            _write(self._other.stdin, message)
        except OSError:
            self._miss()
        return self._other is not None

    def _receive(self) -> BuiltPage | None:
        """Return the page that is away, built; None if it will not come back."""
        if self._other is None:
            return None
        try:
            found: BuiltPage = pickle.loads(_read(self._other.stdout))
        except (OSError, EOFError):
            self._miss()
            return None
        return found

    def _miss(self) -> None:
        log.warning("the second process has ended before its time; stage takes longer without it")
        self._end()


def _command() -> list[str]:
    if getattr(sys, "frozen", False):
        return [sys.executable, BUILDER_ARGUMENT]
    path = [*sys.path, str(Path(__file__).resolve().parent.parent)]
    return [sys.executable, "-I", "-c", _PROGRAM, json.dumps(path)]


def _write(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(_LENGTH, "big"))
    stream.write(message)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    length = int.from_bytes(stream.read(_LENGTH), "big")
    message = stream.read(length)
    if not message or len(message) < length:
        raise EOFError
    return message


# -- the other side


def main() -> None:
    """Build what comes in until nothing more does: first the options, then pages."""
    prepare_process()
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # what is printed must not get between the messages
    try:
        builder = CohortBuilder(pickle.loads(_read(sys.stdin.buffer)))
        while True:
            built = builder.build(unpack(_read(sys.stdin.buffer)))
            _write(out, pickle.dumps(built, pickle.HIGHEST_PROTOCOL))
    except Exception:  # noqa: BLE001, S110 -- the other side notices the end, and does the work itself
        pass


# -- what goes over

_TEXTS, _MOMENTS, _OTHERS = range(3)
_GROUPS = {Kind.MOMENT: _MOMENTS, Kind.VALUE: _OTHERS}
_COLUMNS = {
    table.row: [_GROUPS.get(spec.kind, _TEXTS) for spec in table.columns.values()] for table in SOURCE_TABLES
}


def pack(page: PeoplePage) -> bytes:
    """Return a page as bytes for :func:`unpack`.

    Texts and moments as JSON, in a fifth of the time of a pickle; other values, whose types JSON does not
    tell apart, as a pickle.
    """
    columns = {row: list(zip(*rows, strict=True)) for row, rows in page.rows.items() if rows}
    others = {
        row: {index: cells[index] for index, group in enumerate(_COLUMNS[row]) if group == _OTHERS}
        for row, cells in columns.items()
    }
    plain: Any = [
        [None if group == _OTHERS else column for group, column in zip(_COLUMNS[row], cells, strict=True)]
        for row, cells in columns.items()
    ]
    try:
        plain = orjson.dumps(plain)
    except orjson.JSONEncodeError:  # half a character
        log.debug("a page goes over without JSON")
    rest = others, dict(page.unreadable), page.asked_for
    return pickle.dumps((list(columns), plain, *rest), pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> PeoplePage:
    """Return the page of which :func:`pack` made bytes."""
    classes, plain, others, unreadable, asked_for = pickle.loads(data)
    is_json = isinstance(plain, bytes)
    moments = _Moments()
    rows: dict[type[Any], list[Any]] = {}
    for row, cells in zip(classes, orjson.loads(plain) if is_json else plain, strict=True):
        for index, group in enumerate(_COLUMNS[row]):
            if group == _OTHERS:
                cells[index] = others[row][index]
            elif group == _MOMENTS and is_json:
                cells[index] = [moments[cell] for cell in cells[index]]
        rows[row] = list(zip(*cells, strict=True))
    return PeoplePage(rows, unreadable, asked_for)


class _Moments(dict[Any, Any]):
    """Text of a moment -> the moment; dates repeat."""

    def __init__(self) -> None:
        super().__init__({None: None})

    def __missing__(self, text: str) -> datetime:
        found = self[text] = datetime.fromisoformat(text)
        return found

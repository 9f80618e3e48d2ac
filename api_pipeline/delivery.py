"""Turning records into requests: one refused record never takes the others down with it.

:class:`Dispatcher` keeps up to ``workers`` submissions under way. Where a batch is refused it sends what is
left of it: without the records that the reply names, or in halves where it names none (domain, section 2). It
knows when to stop: a reply that ends the run, three batches in a row given up, the deadline, or a request to
stop.

One request, its write-back, the next request: they follow one another, so that never more than ``workers``
requests wait to be recorded. Both are waiting for somebody else, and that time goes into preparing the next
batches. Only the submissions themselves, and the writing that ``after`` begins, run in other threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import Enum

from api_pipeline.api import ApiClient, Outcome, Verdict
from api_pipeline.errors import ExitCode, PipelineError
from api_pipeline.remembered import Attempt
from api_pipeline.replies import Receipt
from api_pipeline.staging import StagedRow

log = logging.getLogger(__name__)

GIVE_UPS_IN_A_ROW = 3
_AHEAD = 2  # batches that are prepared before they can be sent
_TURN = 0.0001  # seconds; without it the other threads would have to wait for the interpreter's lock
_POLL = 0.2  # seconds; on Windows a wait without an end does not notice Ctrl+C


class RecordKind(Enum):
    """What a record tells DfE."""

    FULL = "full"
    PARTIAL = "partial"
    DELETION = "deletion"
    RETIRED_ID = "retired id"  # the purge of an id that the same person no longer has


class Fate(Enum):
    """What became of a record."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    AGAIN = "again"  # its batch was refused because of others; it is sent again at once
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Record:
    """One child object on its way: the row that it came from and its JSON text.

    ``attempt`` is what the log is told of it, None where there is no log.
    """

    row: StagedRow
    kind: RecordKind
    text: bytes
    child_id: str
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One record's fate.

    ``reason`` goes to ``api_response`` only, since it may quote the reply; ``note`` is safe everywhere.
    """

    record: Record
    fate: Fate
    receipt: Receipt | None = None
    reason: str = ""
    error_kind: str = ""
    note: str = ""
    unsure: bool = False
    posts: int = 0
    status: int | None = None
    begun: bool = True  # whether this is about a request at all


@dataclass(frozen=True, slots=True)
class _Part:
    """Records for one request.

    ``doubt``: an earlier body that held them may have been taken; no refusal of that body ends the doubt
    about them (domain, section 2).
    """

    records: Sequence[Record]
    doubt: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """Why nothing more is sent; ``message`` is safe to log."""

    message: str
    code: ExitCode


@dataclass(frozen=True, slots=True)
class Writing:
    """A write-back that has begun; ``finish`` waits for its end, counts, and raises what it raised."""

    done: Callable[[], bool]
    finish: Callable[[], None]


class Dispatcher:
    """Sends batches and remembers whether to go on.

    Args:
        before: called with the records of a request before it is made; returns those to send, as they are to
            be sent. What it raises ends the sending.
        after: called with the fates that a reply decided; begins to write them.
        deadline: a moment of ``clock`` (monotonic seconds) after which no new batch is begun.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        before: Callable[[Sequence[Record]], Sequence[Record]],
        after: Callable[[Sequence[Result]], Writing],
        stop: threading.Event,
        deadline: float,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._before = before
        self._after = after
        self._stop = stop
        self._deadline = deadline
        self._workers = workers
        self._clock = clock
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="submit")
        self._under_way: dict[Future[Outcome], _Part] = {}
        self._ready: deque[_Part] = deque()
        self._batches: Iterator[Sequence[Record]] = iter(())
        self._given_up_in_a_row = 0
        self.halt: Halt | None = None
        self.gave_up = False
        self.requests = 0
        self.bytes_sent = 0

    def close(self) -> None:
        """End the threads; nothing is under way any more when this is called."""
        self._pool.shutdown()

    def send(self, batches: Iterator[Sequence[Record]]) -> None:
        """Send all batches and wait for the last reply.

        An empty batch among them means nothing but that a little has been done towards the next one. What is
        left of a refused batch goes before any new one.
        """
        self._batches = batches
        left_over: list[_Part] = []
        try:
            while True:
                while len(self._under_way) < self._workers:
                    if not left_over and not self._ready and not self._may_send():
                        break
                    part = left_over.pop() if left_over else self._next()
                    if part is None:
                        break
                    self._begin(part)
                if not self._under_way:
                    return
                left_over += self._collect()
        except Exception:
            self._finish()
            raise

    def _next(self) -> _Part | None:
        """Return the next batch, None where there is no more."""
        while not self._ready and self._prepare():
            pass
        return self._ready.popleft() if self._ready else None

    def _prepare(self) -> bool:
        """Do a little towards the next batch; return whether there was anything to do."""
        batch = next(self._batches, None)
        if batch:
            self._ready.append(_Part(batch))
        return batch is not None

    def _prepare_until(self, done: Callable[[], bool]) -> None:
        """Use the time until something is done."""
        while not done() and len(self._ready) < _AHEAD and self.halt is None and self._prepare():
            time.sleep(_TURN)

    def _begin(self, part: _Part) -> None:
        """Start a request, unless nothing more is to be sent."""
        if not self._may_send():
            left = [Result(record, Fate.LEFT, unsure=part.doubt, begun=False) for record in part.records]
            self._after(left).finish()
            return
        records = self._before(part.records)
        if records:
            body = b"[" + b",".join(record.text for record in records) + b"]"
            future = self._pool.submit(self._client.submit, body, len(records))
            self._under_way[future] = _Part(records, part.doubt)

    def _collect(self) -> list[_Part]:
        """Wait for replies, settle them, and return what has to be sent again."""
        self._prepare_until(lambda: any(future.done() for future in self._under_way))
        done: set[Future[Outcome]] = set()
        while not done:
            done, _ = wait(self._under_way, timeout=_POLL, return_when=FIRST_COMPLETED)
        again: list[_Part] = []
        for future in done:
            again += self._settle(future)
        return again

    def _settle(self, future: Future[Outcome]) -> list[_Part]:
        part = self._under_way.pop(future)
        outcome = future.result()
        self.requests += outcome.attempts
        self.bytes_sent += outcome.attempts * (sum(len(record.text) + 1 for record in part.records) + 1)
        self._note(outcome, len(part.records))
        doubt = part.doubt or outcome.unsure
        results, again = _fates(part.records, outcome, doubt)
        writing = self._after(results)
        try:
            self._prepare_until(writing.done)
        finally:
            writing.finish()
        # The last of them is sent first, so the order of the batch is kept.
        return [_Part(records, doubt) for records in reversed(again)]

    def _finish(self) -> None:
        """Something failed: still wait for what is under way, so that no receipt is lost."""
        self._batches = iter(())
        self._ready.clear()
        while self._under_way:
            try:
                self._collect()
            except PipelineError as error:  # noqa: PERF203 -- a handful of requests
                log.debug("a further batch could not be written either: %s", error.message)

    def _may_send(self) -> bool:
        if self.halt is None and self._stop.is_set():
            self.halt = Halt("The run was asked to stop.", ExitCode.INTERRUPTED)
        if self.halt is None and self._clock() >= self._deadline:
            self._reach_deadline()
        return self.halt is None

    def _reach_deadline(self) -> None:
        self.halt = Halt("The deadline of the run (RUN_DEADLINE_MINUTES) is reached.", ExitCode.FAILED)

    def _note(self, outcome: Outcome, count: int) -> None:
        """Keep the circuit breaker up to date and the reasons in the log."""
        if outcome.verdict is not Verdict.GIVEN_UP:
            self._given_up_in_a_row = 0
        if outcome.verdict is Verdict.RUN_ENDED:
            self.halt = Halt(f"{outcome.reason} {outcome.remedy}".strip(), ExitCode.API)
        elif outcome.verdict is Verdict.INTERRUPTED:
            self.halt = self.halt or Halt("The run was asked to stop.", ExitCode.INTERRUPTED)
        elif outcome.verdict is Verdict.GIVEN_UP and outcome.attempts == 0 and outcome.hop == "deadline":
            self._reach_deadline()  # it was never begun, so nothing was given up
        elif outcome.verdict is Verdict.GIVEN_UP:
            self.gave_up = True
            self._given_up_in_a_row += 1
            doubt = " Whether the API took them is not known." if outcome.unsure else ""
            log.error("a batch of %d was given up and stays due: %s%s", count, outcome.reason, doubt)
            if self._given_up_in_a_row >= GIVE_UPS_IN_A_ROW:
                message = f"{GIVE_UPS_IN_A_ROW} batches in a row were given up; the service seems to be down."
                self.halt = Halt(
                    f"{message} The last one: {outcome.reason} {outcome.remedy}".strip(), ExitCode.API
                )
        elif outcome.verdict is not Verdict.ACCEPTED:
            log.warning("a batch of %d was refused with HTTP %s", count, outcome.status)


def _fates(
    records: Sequence[Record], outcome: Outcome, unsure: bool
) -> tuple[list[Result], list[Sequence[Record]]]:
    """Return what this reply says of each record, and the batches to send because of it."""

    def result(record: Record, fate: Fate, **more: object) -> Result:
        return Result(record, fate, unsure=unsure, posts=outcome.attempts, status=outcome.status, **more)  # type: ignore[arg-type]

    def refused(record: Record, reason: str) -> Result:
        kind = {Verdict.EMPTY: "no content", Verdict.TOO_LARGE: "too large"}
        return result(
            record,
            Fate.REFUSED,
            reason=f"HTTP {outcome.status}: {reason}".strip(),
            error_kind=kind.get(outcome.verdict, "refused by the API"),
        )

    if outcome.verdict is Verdict.ACCEPTED:
        pairs = zip(records, outcome.receipts, strict=True)
        return [
            Result(r, Fate.ACCEPTED, receipt, posts=outcome.attempts, status=200) for r, receipt in pairs
        ], []
    if outcome.verdict is Verdict.REFUSED and outcome.refusals:
        named = [refused(records[index], reason) for index, reason in sorted(outcome.refusals.items())]
        others = [record for index, record in enumerate(records) if index not in outcome.refusals]
        resent = [
            result(record, Fate.AGAIN, note="refused for other records of its batch") for record in others
        ]
        return named + resent, [others] if others else []
    if outcome.verdict in (Verdict.REFUSED, Verdict.TOO_LARGE):
        if len(records) == 1:
            return [refused(records[0], outcome.reply_text)], []
        middle = (len(records) + 1) // 2
        note = "its batch was refused as a whole and halved"
        halves = [records[:middle], records[middle:]]
        return [result(record, Fate.AGAIN, note=note) for record in records], halves
    if outcome.verdict is Verdict.EMPTY:
        return [refused(record, "the API answered that there was no content") for record in records], []
    return [result(record, Fate.LEFT, note=outcome.reason) for record in records], []

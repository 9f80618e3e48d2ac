"""Turning records into requests: one refused record never takes the others down with it.

:class:`Dispatcher` sends a batch, and where it is refused, sends what is left of it: without the records that
the reply names, or in halves where it names none (domain, section 2). It also knows when to stop: a reply
that ends the run, three batches in a row given up, the deadline, or a request to stop. It knows no database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from api_pipeline.api import ApiClient, Outcome, Verdict
from api_pipeline.errors import ExitCode
from api_pipeline.replies import Receipt
from api_pipeline.staging import StagedRow

log = logging.getLogger(__name__)

GIVE_UPS_IN_A_ROW = 3


class RecordKind(Enum):
    """What a record tells DfE."""

    FULL = "full"
    DELETION = "deletion"
    RETIRED_ID = "retired id"  # the purge of an id that the same person no longer has


class Fate(Enum):
    """What became of a record."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Record:
    """One child object on its way: the row that it came from and its JSON text."""

    row: StagedRow
    kind: RecordKind
    text: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """One record's fate; ``reason`` goes to ``api_response`` only, since it may quote the reply."""

    record: Record
    fate: Fate
    receipt: Receipt | None = None
    reason: str = ""
    error_kind: str = ""
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """Why nothing more is sent; ``message`` is safe to log."""

    message: str
    code: ExitCode


class Dispatcher:
    """Sends batches one after another and remembers whether to go on.

    ``deadline`` is a moment of ``clock`` (monotonic seconds) after which no new batch is begun.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        stop: threading.Event,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._stop = stop
        self._deadline = deadline
        self._clock = clock
        self._given_up_in_a_row = 0
        self.halt: Halt | None = None
        self.gave_up = False
        self.requests = 0
        self.bytes_sent = 0

    def send(self, batch: Sequence[Record]) -> Iterator[list[Result]]:
        """Send a batch and yield the fates of its records, after each reply, so that they can be written."""
        # Each part with whether an earlier body that held its records may have been taken: no refusal of
        # that body ends the doubt about them (domain, section 2).
        waiting = [(list(batch), False)]
        while waiting:
            part, doubt = waiting.pop()
            if not self._may_send():
                yield [Result(record, Fate.LEFT, unsure=doubt) for record in part]
                continue
            body = b"[" + b",".join(record.text for record in part) + b"]"
            outcome = self._client.submit(body, len(part))
            self.requests += outcome.attempts
            self.bytes_sent += len(body) * outcome.attempts
            self._note(outcome, len(part))
            doubt = doubt or outcome.unsure
            results, again = _settle(part, outcome, doubt)
            # The last one in is sent next: what a refusal left over goes again at once.
            waiting.extend((rest, doubt) for rest in reversed(again))
            if results:
                yield results

    def _may_send(self) -> bool:
        if self.halt is None and self._stop.is_set():
            self.halt = Halt("The run was asked to stop.", ExitCode.INTERRUPTED)
        if self.halt is None and self._clock() >= self._deadline:
            self.halt = Halt("The deadline of the run (RUN_DEADLINE_MINUTES) is reached.", ExitCode.FAILED)
        return self.halt is None

    def _note(self, outcome: Outcome, count: int) -> None:
        """Keep the circuit breaker up to date and the reasons in the log."""
        if outcome.verdict is not Verdict.GIVEN_UP:
            self._given_up_in_a_row = 0
        if outcome.verdict is Verdict.RUN_ENDED:
            self.halt = Halt(f"{outcome.reason} {outcome.remedy}".strip(), ExitCode.API)
        elif outcome.verdict is Verdict.INTERRUPTED:
            self.halt = Halt("The run was asked to stop.", ExitCode.INTERRUPTED)
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


def _settle(part: list[Record], outcome: Outcome, unsure: bool) -> tuple[list[Result], list[list[Record]]]:
    """Return the fates that this reply decides, and the batches to send because of it."""
    if outcome.verdict is Verdict.ACCEPTED:
        pairs = zip(part, outcome.receipts, strict=True)
        return [Result(record, Fate.ACCEPTED, receipt) for record, receipt in pairs], []
    if outcome.verdict is Verdict.REFUSED and outcome.refusals:
        named = [
            _refused(part[index], outcome, reason, unsure)
            for index, reason in sorted(outcome.refusals.items())
        ]
        others = [record for index, record in enumerate(part) if index not in outcome.refusals]
        return named, [others] if others else []
    if outcome.verdict in (Verdict.REFUSED, Verdict.TOO_LARGE):
        if len(part) == 1:
            return [_refused(part[0], outcome, outcome.reply_text, unsure)], []
        middle = (len(part) + 1) // 2
        return [], [part[:middle], part[middle:]]
    if outcome.verdict is Verdict.EMPTY:
        return [
            _refused(record, outcome, "the API answered that there was no content", unsure) for record in part
        ], []
    left = [Result(record, Fate.LEFT, reason=outcome.reason, unsure=unsure) for record in part]
    return left, []


def _refused(record: Record, outcome: Outcome, reason: str, unsure: bool) -> Result:
    kind = {Verdict.EMPTY: "no content", Verdict.TOO_LARGE: "too large"}.get(
        outcome.verdict, "refused by the API"
    )
    text = f"HTTP {outcome.status}: {reason}".strip()
    return Result(record, Fate.REFUSED, reason=text, error_kind=kind, unsure=unsure)

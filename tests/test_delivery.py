"""One refused record never takes the others down with it, and the sending stops when it should."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.api import Outcome, Verdict
from api_pipeline.delivery import Dispatcher, Fate, Record, RecordKind, Result, Writing
from api_pipeline.errors import DatabaseError, ExitCode
from api_pipeline.replies import parse_receipts
from api_pipeline.staging import StagedRow

Answer = Callable[[list[int]], Outcome]


def record(number: int) -> Record:
    """Return a record whose whole JSON text is its number."""
    row = StagedRow(number, f"p{number}", None, b"h", deleted=False)
    return Record(row, RecordKind.FULL, str(number).encode(), f"c{number}")


def accepted(count: int, **more: Any) -> Outcome:
    """Return the outcome of a batch that was taken."""
    names = [f"2025-06-30_02:11:09.53_{number:032x}.json" for number in range(count)]
    receipts = parse_receipts(json.dumps(names).encode(), count)
    return Outcome(Verdict.ACCEPTED, 200, 1, unsure=False, receipts=receipts, **more)


def other(verdict: Verdict, status: int | None = None, *, unsure: bool = False, **more: Any) -> Outcome:
    """Return the outcome of a batch that was not taken, or not for sure."""
    return Outcome(verdict, status, 1, unsure=unsure, **more)


class Client:
    """Answers each body as a test says, and remembers the numbers in it."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[list[int]] = []

    def submit(self, body: bytes, count: int) -> Outcome:
        """Stand in for :meth:`ApiClient.submit`."""
        numbers = json.loads(body)
        assert len(numbers) == count
        self.bodies.append(numbers)
        return self.answer(numbers)


class Noting(Dispatcher):
    """A dispatcher that keeps the fates it tells of."""

    def __init__(self, client: Any, **options: Any) -> None:
        self.told: list[Result] = []
        super().__init__(client, before=lambda records: records, after=self._note_fates, **options)

    def _note_fates(self, results: Sequence[Result]) -> Writing:
        self.told.extend(results)
        return Writing(done=lambda: True, finish=lambda: None)


def dispatcher(answer: Answer, **more: Any) -> tuple[Noting, Client]:
    """Return a dispatcher and the client that it speaks to."""
    client = Client(answer)
    options: dict[str, Any] = {"stop": threading.Event(), "deadline": 100.0, "clock": lambda: 0.0, **more}
    return Noting(client, **options), client


def send(dispatching: Noting, count: int) -> dict[int, Result]:
    """Send a batch of so many records and return each one's fate; every record has exactly one."""
    dispatching.told.clear()
    dispatching.send(iter([[record(number) for number in range(count)]]))
    results = [result for result in dispatching.told if result.fate is not Fate.AGAIN]
    fates = {int(result.record.text): result for result in results}
    assert len(results) == len(fates)
    if dispatching.halt is None:
        assert len(fates) == count
    return fates


@given(
    count=st.integers(1, 100),
    bad=st.sets(st.integers(0, 99)),
    naming=st.sampled_from(["none", "one", "all"]),
    verdict=st.sampled_from([Verdict.REFUSED, Verdict.TOO_LARGE]),
)
def test_only_bad_records_are_refused(count: int, bad: set[int], naming: str, verdict: Verdict) -> None:
    """Whatever is bad and whatever the refusals name, every good record is accepted, once."""

    def answer(numbers: list[int]) -> Outcome:
        wrong = [index for index, number in enumerate(numbers) if number in bad]
        if not wrong:
            return accepted(len(numbers))
        named = {"none": [], "one": wrong[:1], "all": wrong}[naming] if verdict is Verdict.REFUSED else []
        return other(verdict, 400, refusals={index: f"n{numbers[index]}" for index in named}, reply_text="t")

    dispatching, client = dispatcher(answer)
    fates = send(dispatching, count)
    assert {number for number, each in fates.items() if each.fate is Fate.REFUSED} == bad & set(range(count))
    assert all(each.fate is not Fate.LEFT for each in fates.values())
    for number in bad & set(range(count)):
        named = naming != "none" and verdict is Verdict.REFUSED
        assert fates[number].reason == f"HTTP 400: {f'n{number}' if named else 't'}"
    assert all(numbers == sorted(numbers) for numbers in client.bodies)
    assert dispatching.halt is None
    assert not dispatching.gave_up


def test_what_a_refusal_left_over_goes_again_at_once() -> None:
    """The rest of a refused half is sent before the other half."""
    dispatching, client = dispatcher(
        lambda numbers: (
            accepted(len(numbers))
            if 1 not in numbers
            else other(Verdict.REFUSED, 400, refusals={} if len(numbers) > 2 else {numbers.index(1): "bad"})
        )
    )
    send(dispatching, 4)
    assert client.bodies == [[0, 1, 2, 3], [0, 1], [0], [2, 3]]


def test_no_content_refuses_all_of_a_batch() -> None:
    """204 is an error for each of its records and is not tried in halves."""
    dispatching, client = dispatcher(lambda _: other(Verdict.EMPTY, 204))
    fates = send(dispatching, 3)
    assert {each.error_kind for each in fates.values()} == {"no content"}
    assert len(client.bodies) == 1


def test_three_in_a_row_end_it_and_a_success_between_counts_anew() -> None:
    """Given up, given up, taken, given up three times: then nothing more is sent."""
    script = iter("--+---")
    dispatching, client = dispatcher(
        lambda numbers: accepted(len(numbers)) if next(script) == "+" else other(Verdict.GIVEN_UP, 503)
    )
    for turn in range(8):
        fates = send(dispatching, 2)
        expected = Fate.ACCEPTED if turn == 2 else Fate.LEFT
        assert {fate.fate for fate in fates.values()} == ({expected} if turn < 6 else set())
    assert len(client.bodies) == 6
    assert dispatching.halt is not None
    assert dispatching.halt.code == ExitCode.API


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.RUN_ENDED, ExitCode.API), (Verdict.INTERRUPTED, ExitCode.INTERRUPTED)]
)
def test_end_of_the_run_leaves_the_rest(verdict: Verdict, code: ExitCode) -> None:
    """The halves still waiting are left as they were, and so are later batches."""
    dispatching, client = dispatcher(
        lambda numbers: other(Verdict.TOO_LARGE, 413) if len(numbers) > 1 else other(verdict, 404)
    )
    assert {each.fate for each in send(dispatching, 4).values()} == {Fate.LEFT}
    assert len(client.bodies) == 3
    assert dispatching.halt is not None
    assert dispatching.halt.code == code
    send(dispatching, 2)
    assert len(client.bodies) == 3


@pytest.mark.parametrize("why", ["stop", "deadline"])
def test_nothing_is_begun_after_stop_or_deadline(why: str) -> None:
    """Not even what a refusal left over; the code tells which it was."""
    stop, now = threading.Event(), [99.9]

    def answer(_: list[int]) -> Outcome:
        if why == "stop":
            stop.set()
        else:
            now[0] = 100.0
        return other(Verdict.REFUSED, 400, refusals={0: "bad"})

    dispatching, client = dispatcher(answer, stop=stop, clock=lambda: now[0])
    fates = send(dispatching, 3)
    assert [fates[number].fate for number in range(3)] == [Fate.REFUSED, Fate.LEFT, Fate.LEFT]
    assert len(client.bodies) == 1
    assert dispatching.halt is not None
    assert dispatching.halt.code == (ExitCode.INTERRUPTED if why == "stop" else ExitCode.FAILED)


def test_refusal_ends_no_doubt() -> None:
    """Once one attempt was unsure, whatever of that body is not acknowledged stays in doubt."""
    script = iter(
        [
            other(Verdict.REFUSED, 400, unsure=True, refusals={0: "bad"}),
            other(Verdict.GIVEN_UP, 429, unsure=False),
        ]
    )
    dispatching, _ = dispatcher(lambda _: next(script))
    fates = send(dispatching, 3)
    assert [fates[number].unsure for number in range(3)] == [True, True, True]


def test_bytes_and_requests_count_every_attempt() -> None:
    """A body that was posted three times counts three times."""
    outcome = accepted(2)
    tried = Outcome(Verdict.ACCEPTED, 200, 3, unsure=True, receipts=outcome.receipts)
    dispatching, _ = dispatcher(lambda _: tried)
    fates = send(dispatching, 2)
    assert (dispatching.requests, dispatching.bytes_sent) == (3, 3 * len(b"[0,1]"))
    assert fates[0].receipt != fates[1].receipt
    assert not any(each.unsure for each in fates.values())


def test_reasons_that_quote_a_reply_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The text of a refusal goes to api_response alone."""
    dispatching, _ = dispatcher(lambda _: other(Verdict.REFUSED, 400, reply_text="Jane Doe is bad"))
    with caplog.at_level("DEBUG"):
        fates = send(dispatching, 1)
    assert "Jane Doe" in fates[0].reason
    assert "Jane" not in caplog.text


class Paced:
    """Batches of one record each, with a pause for the caller after every step towards one."""

    def __init__(self, count: int) -> None:
        self.steps: list[str] = []
        self._count = count

    def __iter__(self) -> Iterator[Sequence[Record]]:
        for number in range(self._count):
            self.steps.append(f"half {number}")
            yield ()
            self.steps.append(f"whole {number}")
            yield [record(number)]


def test_the_next_batches_are_prepared_while_an_outcome_is_written() -> None:
    """Nothing is sent before the last outcome is written, and the time until then is used."""
    events: list[str] = []
    batches = Paced(6)

    def write(results: Sequence[Result]) -> Writing:
        looks = iter([False, False, False, True])

        def finish() -> None:
            events.append(f"written {results[0].record.child_id}, prepared {len(batches.steps)}")

        return Writing(done=lambda: next(looks), finish=finish)

    def answer(numbers: list[int]) -> Outcome:
        events.append(f"sent {numbers[0]}")
        return accepted(len(numbers))

    dispatching = Dispatcher(
        Client(answer),  # type: ignore[arg-type]
        before=lambda records: records,
        after=write,
        stop=threading.Event(),
        deadline=100.0,
        clock=lambda: 0.0,
    )
    dispatching.send(iter(batches))
    dispatching.close()
    order = [event.split(",")[0].split()[0] for event in events]
    assert order == ["sent", "written"] * 6
    prepared = [int(event.rsplit(" ", 1)[1]) for event in events if "prepared" in event]
    assert prepared[0] > 2
    assert prepared[-1] == 12
    # Two batches ahead at most, however long the wait.
    assert all(seen <= 2 * (number + 4) for number, seen in enumerate(prepared))


def test_a_failing_write_is_finished_before_it_ends_the_sending() -> None:
    """What goes wrong while the next batch is prepared does not hide what was being written."""
    finished: list[int] = []

    def batches() -> Iterator[Sequence[Record]]:
        yield [record(0)]
        raise DatabaseError("the table is gone")

    dispatching = Dispatcher(
        Client(lambda numbers: accepted(len(numbers))),  # type: ignore[arg-type]
        before=lambda records: records,
        after=lambda results: Writing(done=lambda: False, finish=lambda: finished.append(len(results))),
        stop=threading.Event(),
        deadline=100.0,
        clock=lambda: 0.0,
    )
    with pytest.raises(DatabaseError):
        dispatching.send(batches())
    dispatching.close()
    assert finished == [1]

"""Several submissions at once: receipts stay with their records, and all workers share one pace and one fate.

Runs against the real receiver, whose replies take as long as the test wants and come back in any order.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from api_pipeline import db, pipeline
from api_pipeline.errors import DatabaseError, ExitCode
from api_pipeline.faults import Fault
from api_pipeline.outcomes import Outcome, Verdict
from api_pipeline.pipeline import RunOptions
from tests.staging_kit import HookedReceiver, Staging, child, receipt_uuid, run, settings_of
from tests.test_delivery import accepted, dispatcher, other, record


def fill(staging: Staging, count: int) -> Staging:
    """Insert so many due rows, p0 with the child c0 and so on."""
    for number in range(count):
        staging.add(f"p{number}", child(f"c{number}", first_name="O'Brien"))
    return staging


class Delays:
    """A hook that lets the replies to early requests come after those to later ones."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = itertools.cycle(seconds)
        self._lock = threading.Lock()
        self.under_way = 0
        self.most = 0

    def __call__(self, _: Any) -> None:
        """Wait as long as it is this request's turn to."""
        with self._lock:
            seconds = next(self._seconds)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(seconds)
        with self._lock:
            self.under_way -= 1


def test_receipts_are_never_mixed_up(remembering: Staging, hooked: HookedReceiver) -> None:
    """Replies in another order than requests: each row, line and baseline has its own record's receipt."""
    fill(remembering, 24)
    hooked.hook = delays = Delays(0.05, 0.0, 0.02, 0.0)
    summary = run(remembering, hooked, WORKERS=4, BATCH_SIZE=3)
    assert (summary.sent, summary.requests, summary.exit_code) == (24, 8, ExitCode.OK)
    assert 1 < delays.most <= 4
    lines = {line["person_id"]: line for line in remembering.log()}
    for number in range(24):
        name = f"c{number}"
        assert remembering.row(f"p{number}")["api_response"] == receipt_uuid(hooked, name)
        assert lines[f"p{number}"]["detail"] == hooked.receipts[name]
        assert remembering.baseline(f"p{number}")["receipt"] == receipt_uuid(hooked, name)


def test_one_token_serves_all_workers(local: Staging, hooked: HookedReceiver) -> None:
    """However many submissions are under way, one token is fetched."""
    fill(local, 12)
    hooked.hook = Delays(0.01)
    run(local, hooked, WORKERS=4, BATCH_SIZE=1)
    assert sum(request.endpoint == "token" for request in hooked.requests) == 1


def test_pace_counts_over_all_workers(local: Staging, hooked: HookedReceiver) -> None:
    """MIN_REQUEST_GAP_MS lies between the starts of any two submissions, whoever makes them."""
    fill(local, 6)
    starts: list[float] = []
    hooked.hook = lambda _: starts.append(time.monotonic())
    run(local, hooked, WORKERS=3, BATCH_SIZE=1, MIN_REQUEST_GAP_MS=40)
    gaps = [later - sooner for sooner, later in itertools.pairwise(sorted(starts))]
    assert len(gaps) == 5
    assert sum(gaps) >= 5 * 0.040 * 0.9


def test_refusals_are_sorted_out_while_others_are_under_way(
    remembering: Staging, hooked: HookedReceiver
) -> None:
    """Two bad records in different batches: they alone are in error, everybody else is sent once."""
    fill(remembering, 16)
    hooked.faults.add(Fault("400-record", child="c3", times=None), Fault("422", child="c9", times=None))
    hooked.hook = Delays(0.02, 0.0)
    summary = run(remembering, hooked, WORKERS=3, BATCH_SIZE=4)
    assert (summary.sent, summary.failed, summary.left_due) == (14, 2, 0)
    assert set(hooked.children) == {f"c{number}" for number in range(16)} - {"c3", "c9"}
    taken = [line["person_id"] for line in remembering.log() if line["outcome"] == "sent"]
    assert len(taken) == len(set(taken)) == 14


def test_three_in_a_row_stop_all_workers(local: Staging, hooked: HookedReceiver) -> None:
    """With the service down no worker goes on: three batches given up, and those then under way."""
    fill(local, 20)
    hooked.faults.add(Fault("503", times=None))
    summary = run(local, hooked, WORKERS=2, BATCH_SIZE=1)
    assert (summary.exit_code, summary.sent) == (ExitCode.API, 0)
    assert 3 <= len(hooked.submissions) <= 5


def test_nothing_is_begun_after_a_stop(remembering: Staging, hooked: HookedReceiver) -> None:
    """What is under way in all workers is written back; the rest is left, with no open line in the log."""
    fill(remembering, 20)
    stop = threading.Event()
    delays = Delays(0.05)

    def stopping(records: Sequence[Any]) -> None:
        delays(records)
        stop.set()

    hooked.hook = stopping
    settings = settings_of(remembering, hooked, WORKERS=3, BATCH_SIZE=2)
    summary = pipeline.run(settings, RunOptions(), stop=stop)
    assert summary.exit_code == ExitCode.INTERRUPTED
    assert summary.sent == 2 * len(hooked.submissions) <= 8
    assert {line["outcome"] for line in remembering.log()} <= {"sent", "error"}
    hooked.hook = None
    assert run(remembering, hooked).sent == 20 - summary.sent


def test_database_lost_under_workers_keeps_every_receipt(
    remembering: Staging, hooked: HookedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch that cannot be written ends the run; what is under way is waited for and spooled."""
    fill(remembering, 9)
    plain = db.Database._run
    down = threading.Event()
    posts = itertools.count(1)
    all_there = threading.Barrier(3, timeout=5)

    def arrived(_: Any) -> None:
        if next(posts) <= 3:
            all_there.wait()
            down.set()

    def run_(database: Any, sql: str, params: Any = (), *, fetch: bool) -> Any:
        if down.is_set():
            raise DatabaseError("The server is gone.", hop="connection")
        return plain(database, sql, params, fetch=fetch)

    with monkeypatch.context() as patch:
        patch.setattr(db.Database, "_run", run_)
        hooked.hook = arrived
        summary = run(remembering, hooked, WORKERS=3, BATCH_SIZE=3)
    hooked.hook = None
    assert summary.exit_code == ExitCode.DATABASE
    assert (len(hooked.children), summary.unrecorded) == (9, 9)
    summary = run(remembering, hooked)
    assert (summary.replayed, summary.recovered, summary.due) == (9, 0, 0)
    assert set(remembering.statuses().values()) == {"sent"}


# --- Without a network ------------------------------------------------------------------------------------


def test_halves_keep_the_order_with_one_worker() -> None:
    """What is left of a refused batch goes before the next one, in the order of its records."""
    dispatching, client = dispatcher(
        lambda numbers: accepted(len(numbers)) if len(numbers) < 2 else other(Verdict.TOO_LARGE, 413)
    )
    dispatching.send(iter([[record(0), record(1), record(2)], [record(3)]]))
    assert client.bodies == [[0, 1, 2], [0, 1], [0], [1], [2], [3]]


def test_batches_are_asked_for_only_as_they_are_needed() -> None:
    """One batch beyond those under way is prepared, so memory does not grow with the number of rows."""
    asked: list[int] = []
    ahead: list[int] = []
    dispatching, client = dispatcher(lambda numbers: accepted(len(numbers)), workers=2)

    def batches() -> Any:
        for number in range(20):
            asked.append(number)
            ahead.append(len(asked) - len(client.bodies))
            yield [record(number)]

    dispatching.send(batches())
    assert len(client.bodies) == 20
    assert max(ahead) <= 4


def test_fault_in_preparing_a_batch_waits_for_what_is_under_way() -> None:
    """An unexpected error is passed on only after the replies that are still to come were handed over."""
    release = threading.Event()

    def answer(numbers: list[int]) -> Outcome:
        release.wait(5)
        return accepted(len(numbers))

    dispatching, _ = dispatcher(answer)

    def batches() -> Any:
        yield [record(0)]
        release.set()
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        dispatching.send(batches())
    assert [json.loads(result.record.text) for result in dispatching.told] == [0]

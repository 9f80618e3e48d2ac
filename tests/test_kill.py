"""Real processes: whenever a run is ended, nothing is lost and the next run completes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.databases import Database
from tests.staging_kit import MARKER, HookedReceiver, Staging, child

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")

ROWS = 60


@pytest.fixture
def receiver() -> Iterator[HookedReceiver]:
    """A receiver in this process; the runs are others."""
    with HookedReceiver() as stand_in:
        yield stand_in


class Run:
    """``run`` in a process of its own."""

    def __init__(self, staging: Staging, receiver: HookedReceiver) -> None:
        values = {
            "DB_CONNECTION_STRING": f"'{staging.database.connection_string}'",
            "TABLE_NAME": staging.table,
            "TESTING_MODE": "false",
            "MIN_REQUEST_GAP_MS": "0",
            "BATCH_SIZE": "5",
            "MAX_RETRIES": "1",
            **receiver.settings(),
        }
        Path(".env").write_text(
            "\n".join(f"{key}={value}" for key, value in values.items()), encoding="utf-8"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api_pipeline", "run", "--json", "--allow-deletions"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def end(self) -> tuple[int, bytes]:
        """Wait for the end and return the exit code and standard output."""
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out


class Killing:
    """A hook that kills the run at its n-th POST, or so many seconds later."""

    run: Run

    def __init__(self, post: int, delay: float) -> None:
        self.post = post
        self.delay = delay

    def __call__(self, _: Any) -> None:
        """Count one POST."""
        self.post -= 1
        if self.post == 0:
            threading.Timer(self.delay, self.run.process.kill).start()


def fill(staging: Staging) -> None:
    """Insert new rows, deletions, and rows under new ids."""
    for number in range(ROWS):
        staging.add(f"p{number:02}", child(f"c{number}", first_name="O'Brien"))
    for number in range(5):
        staging.add_sent(f"gone{number}", child(f"g{number}"), "Deleted")
        staging.add_sent(f"moved{number}", child(f"old{number}"))
        staging.refresh(f"moved{number}", child(f"new{number}"))


def same(staging: Staging, receiver: HookedReceiver) -> bool:
    """Whether the receiver holds exactly the children of the table."""
    rows = [row for row in staging.rows() if row["row_state"].lower() != "deleted"]
    children = [json.loads(row["json_payload"]) for row in rows]
    return receiver.children == {each["la_child_id"]: each for each in children}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_killed_at_any_moment_nothing_is_lost(
    request: pytest.FixtureRequest, receiver: HookedReceiver, kind: str, seed: int
) -> None:
    """Kill -9 before, during and after replies and write-backs; what says sent is at the receiver, always."""
    database: Database = request.getfixturevalue(f"{kind}_database")
    staging = Staging(database).create()
    fill(staging)
    receiver.children.update({f"old{number}": {} for number in range(5)}, **{f"g{n}": {} for n in range(5)})
    chance = random.Random(seed)
    codes = []
    for night in range(2):
        killing = Killing(chance.randint(1, 8), chance.choice([0.0, 0.0, 0.001, 0.003, 0.01]))
        receiver.hook = killing
        killing.run = Run(staging, receiver)
        codes.append(killing.run.end()[0])
        for row in staging.rows():
            held = json.loads(row["json_payload"])
            if row["row_state"] == "unchanged":
                assert receiver.children[held["la_child_id"]] == held
            if row["current_hash"] == MARKER:
                assert held["la_child_id"] not in receiver.children
        staging.refresh("p00", child("c0", surname=f"night {night}"))
    assert codes[0] == -signal.SIGKILL
    assert codes[1] in (-signal.SIGKILL, 0)
    receiver.hook = None
    code, out = Run(staging, receiver).end()
    assert (code, json.loads(out)["left_due"]) == (0, 0)
    assert same(staging, receiver)
    assert set(staging.statuses().values()) == {"sent"}
    assert {row["current_hash"] for row in staging.rows() if row["person_id"].startswith("gone")} == {MARKER}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_batch_in_flight(
    local: Staging, receiver: HookedReceiver, number: signal.Signals
) -> None:
    """The POST under way is answered and written back, nothing more is sent, code 130; the next goes on."""
    fill(local)
    posts: list[int] = []
    noticed = threading.Event()

    def stop(_: Any) -> None:
        posts.append(1)
        if len(posts) == 4:
            run.process.send_signal(number)
            noticed.wait(0.3)  # never set: time for the signal to arrive while the POST is under way

    receiver.hook = stop
    run = Run(local, receiver)
    code, out = run.end()
    result = json.loads(out)
    assert (code, result["exit_code"]) == (130, 130)
    # Retired ids, deletions, and two batches of payloads.
    assert (len(posts), result["requests"], result["deleted"], result["sent"]) == (4, 4, 5, 10)
    assert sum(row["row_state"] == "unchanged" for row in local.rows()) == 10
    receiver.hook = None
    assert Run(local, receiver).end()[0] == 0
    assert same(local, receiver)


def test_second_signal_ends_at_once(local: Staging, receiver: HookedReceiver) -> None:
    """Who does not want to wait for the reply interrupts twice; the rows stay due."""
    fill(local)
    hanging = threading.Event()

    def stop_twice(_: Any) -> None:
        run.process.send_signal(signal.SIGINT)
        hanging.wait(0.3)
        run.process.send_signal(signal.SIGINT)
        hanging.wait(5)

    receiver.hook = stop_twice
    run = Run(local, receiver)
    code, _ = run.end()
    hanging.set()
    assert code == 130
    assert all(row["row_state"] != "unchanged" for row in local.rows())
    receiver.hook = None
    assert Run(local, receiver).end()[0] == 0
    assert same(local, receiver)

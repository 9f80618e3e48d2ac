"""Real processes with a ledger: killed night after night, DfE ends up with exactly what the table says."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import Any

import pytest

from tests.databases import Database
from tests.model_world import Dfe, flat_of
from tests.staging_kit import MARKER, HookedReceiver, Staging, child
from tests.test_kill import Killing, Run
from tests.test_partial_runs import payload

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")

PEOPLE = 30
ROUNDS = 3


def shuffle(staging: Staging, chance: random.Random) -> None:
    """Refresh some people, delete some, bring some back, give some another id."""
    for number in chance.sample(range(PEOPLE), 12):
        person = f"p{number:02}"
        episodes = chance.sample(["e1", "e2", "e3", "e4"], chance.randint(0, 4))
        name = chance.choice([f"c{number}", f"c{number}", f"c{number}-b"])
        staging.refresh(person, payload(name, *sorted(episodes), reason=chance.choice(["RC1", "RC2"])))
        if chance.random() < 0.2:
            staging.update(person, row_state="Deleted")


def model(receiver: HookedReceiver, *, partial: bool) -> Dfe:
    """Return what DfE holds after all that the receiver took, by rules that are not the package's."""
    dfe = Dfe()
    dfe.replaces = not partial
    for request in receiver.submissions:
        assert request.status == 200
        dfe.take(request.body or b"[]")
    return dfe


@pytest.mark.parametrize("partial", [True, False], ids=["partial", "full"])
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_killed_night_after_night(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, partial: bool
) -> None:
    """Kill -9 at random moments: what says sent is held, and the last, quiet night makes everything equal."""
    database: Database = request.getfixturevalue(f"{kind}_database")
    staging = Staging(database).create().remember()
    for number in range(PEOPLE):
        staging.add(f"p{number:02}", payload(f"c{number}", "e1", "e2"))
    chance = random.Random(f"{kind} {partial}")
    monkeypatch.setenv("USE_PARTIAL_PAYLOAD", str(partial).lower())
    killed = 0
    with HookedReceiver(keep_bodies=True, apply_partials=partial) as receiver:
        for turn in range(ROUNDS):
            monkeypatch.setenv("WORKERS", chance.choice(["1", "3"]))
            killing = Killing(chance.randint(1, 6), chance.choice([0.0, 0.001, 0.003, 0.01, 0.02]))
            receiver.hook = killing
            killing.run = Run(staging, receiver)
            killed += killing.run.end()[0] == -signal.SIGKILL
            dfe = model(receiver, partial=partial)
            for row in staging.rows():
                held = json.loads(row["json_payload"])
                if row["row_state"] == "unchanged":
                    assert dfe.children[held["la_child_id"]] == flat_of(held)
                if row["current_hash"] == MARKER:
                    assert held["la_child_id"] not in dfe.children
            if turn < ROUNDS - 1:
                shuffle(staging, chance)
        receiver.hook = None
        code, out = Run(staging, receiver).end()
        result: dict[str, Any] = json.loads(out)
        assert (code, result["left_due"]) == (0, 0)
        dfe = model(receiver, partial=partial)
    wanted = [json.loads(row["json_payload"]) for row in staging.rows() if row["row_state"] == "unchanged"]
    assert dfe.children == {each["la_child_id"]: flat_of(each) for each in wanted}
    assert set(staging.statuses().values()) == {"sent"}
    assert killed
    lines = staging.log()
    assert "sending" not in {line["outcome"] for line in lines}
    assert all(staging.baseline(f"p{n:02}")["flight_kind"] is None for n in range(PEOPLE))


def test_attempts_of_a_killed_run_are_counted(sqlite_database: Database) -> None:
    """The summary of the next run says how many records were under way."""
    staging = Staging(sqlite_database).create().remember()
    for number in range(5):
        staging.add(f"p{number}", child(f"c{number}"))
    with HookedReceiver() as receiver:
        killing = Killing(1, 0.0)
        receiver.hook = killing
        killing.run = Run(staging, receiver)
        code = killing.run.end()[0]
        receiver.hook = None
        noted = sum(line["outcome"] == "sending" for line in staging.log())
        result = json.loads(Run(staging, receiver).end()[1])
    assert code == -signal.SIGKILL
    assert (result["recovered_attempts"], result["due"], result["sent"]) == (noted, noted, noted)

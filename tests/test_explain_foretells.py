"""What ``explain`` says comes next is what the next run does, after any history."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest

from api_pipeline.explain import explain
from api_pipeline.explanation import Explanation
from tests.staging_kit import settings_of
from tests.test_model import API, World

LOGGED = {"purge of an earlier id": "deletion", "deletion": "deletion", "full": "full", "partial": "partial"}

Sent = list[tuple[str, int | None]]


def foretold(found: Explanation, *, partial: bool) -> Sent:
    """Return kind and size of each thing that explain says would be sent."""
    steps = [step for row in found.rows for step in (row.partial if partial else row.full)]
    return [(LOGGED[step.kind], step.size) for step in steps if step.kind in LOGGED]


def sent(world: World, person: str, before: int) -> Sent:
    """Return kind and size of each thing that was sent since."""
    lines = world.staging.database.query(
        "SELECT kind, sent_bytes FROM ssd_api_submission_log_anon WHERE person_id = ? AND rowid > ?"
        " ORDER BY rowid",
        [person, before],
    )
    return [(str(kind), size) for kind, size in lines]


def play(seed: int) -> int:
    """Play the history that a seed stands for and a clean night, and compare; return how much was sent."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed, Path(folder))
        try:
            partial = world.chance.random() < 0.7
            for _ in range(1 + seed % 5):
                world.night(clean=False, partial=partial)
            world.authority.change(4)
            world.authority.mend()
            world.remember()
            world.authority.refresh()
            if list(Path(folder).glob("csc_api_spool_*")):
                return 0  # the receipts in it are written back first, and then there is less to do
            settings = settings_of(world.staging, None, **API)
            people = [str(row["person_id"]) for row in world.staging.rows()]
            told = {person: foretold(explain(settings, person), partial=partial) for person in people}
            [(newest,)] = world.staging.database.query(
                "SELECT COALESCE(MAX(rowid), 0) FROM ssd_api_submission_log_anon"
            )
            world.night(clean=True, partial=partial)
            assert told == {person: sent(world, person, newest) for person in people}, f"seed {seed}"
            return sum(map(len, told.values()))
        finally:
            world.close()


@pytest.mark.parametrize("part", range(3))
def test_the_next_run_does_what_was_foretold(part: int) -> None:
    """Kind and size of everything that is sent, for every person, in order: after faults and kills, too."""
    logging.disable(logging.CRITICAL)
    try:
        assert sum(play(seed) for seed in range(part * 15, part * 15 + 15)) > 15
    finally:
        logging.disable(logging.NOTSET)

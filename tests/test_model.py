"""Whatever happens in whichever order, two clean nights later DfE holds exactly what the table says.

Histories of refreshes, runs in either mode, refusals, lost replies, lost databases and deaths between any two
statements are played against a model of DfE that shares no code with the package (domain, section 5).
"""

from __future__ import annotations

import contextlib
import logging
import random
import tempfile
from pathlib import Path

import pytest

from api_pipeline import pipeline
from api_pipeline.errors import DatabaseError, ExitCode
from api_pipeline.pipeline import RunOptions
from tests import model_world
from tests.databases import Database
from tests.db_kit import Waits
from tests.model_world import Authority, Client, Dfe, Killed
from tests.staging_kit import MARKER, Staging, settings_of

API = {
    "API_ENDPOINT": "http://127.0.0.1:9/api",
    "LA_CODE": "999",
    "TOKEN_ENDPOINT": "http://127.0.0.1:9/token",
    "CLIENT_ID": "id",
    "CLIENT_SECRET": "secret",
    "SCOPE": "scope",
    "SUPPLIER_KEY": "key",
    "TESTING_MODE": "false",
}


class World:
    """One history."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.staging = Staging(Database("sqlite", f"sqlite:///{folder}/staging.db", "staging_anon")).create()
        self.dfe = Dfe()
        self.authority = Authority(folder / "staging.db", self.chance, people=4)
        if self.chance.random() < 0.3:
            self.authority.change(6)
            self.authority.mend()
            self.authority.refresh()
            self.authority.send_by_older_tool(self.dfe)
        if self.chance.random() < 0.8:
            self.remember()

    def remember(self) -> None:
        """Make the tables of the ledger, as init-db does."""
        if not self.authority.is_kept:
            self.staging.remember()
            self.authority.is_kept = True
            known = self.staging.database.query("SELECT person_id FROM staging_anon")
            self.authority.older_tool |= {person for (person,) in known}

    def night(self, *, clean: bool, partial: bool) -> None:
        """Refresh and run once."""
        chance = self.chance
        partial = partial and self.authority.is_kept
        if not clean:
            self.authority.change(chance.randrange(5))
        self.authority.refresh()
        if not clean and chance.random() < 0.15:
            return

        # Without a log nothing tells of a child whose acknowledgement went astray.
        quiet = clean or not self.authority.is_kept

        def meddle() -> None:
            if not quiet and chance.random() < 0.15:
                self.authority.change(2)
                self.authority.refresh()

        self.dfe.replaces = not partial
        faulty = not quiet and chance.random() < 0.7
        client = Client(self.dfe, chance if faulty else None, meddle)
        kind = chance.choice(model_world.DISASTERS) if not quiet and chance.random() < 0.5 else "none"
        at = chance.randrange(1, 60 if "commit" not in kind else 9)
        settings = settings_of(
            self.staging,
            None,
            **{**API, "TESTING_MODE": str(not clean and chance.random() < 0.1).lower()},
            BATCH_SIZE=chance.choice([1, 2, 100]),
            WORKERS=chance.choice([1, 1, 1, 2]),
            USE_PARTIAL_PAYLOAD=partial,
            SPOOL_DIR=self.folder,
        )
        options = RunOptions() if clean else self.options()
        # What stops a run before it has begun is raised, as for the command line.
        passing: tuple[type[BaseException], ...] = () if clean else (Killed, DatabaseError)
        with contextlib.suppress(*passing), model_world.disaster(kind, at, meddle, client):
            summary = pipeline.run(settings, options, stop=Waits())
            if kind in ("none", "refresh"):
                assert ExitCode.DATABASE not in summary.codes, summary.stopped_because
            if clean:
                assert not summary.codes, summary.stopped_because
                assert not summary.unsure

    def options(self) -> RunOptions:
        """Return what somebody may ask of a run."""
        asked = self.chance.choice(["", "", "", "", "limit", "persons", "resend", "dry"])
        persons = tuple(self.authority.children)[:2] if asked in ("persons", "resend") else ()
        return RunOptions(
            limit=2 if asked == "limit" else None,
            persons=persons,
            resend=asked == "resend" and bool(persons),
            dry_run=asked == "dry",
        )

    def play(self, nights: int) -> None:
        """Play the nights and two clean ones, and compare."""
        partial = self.chance.random() < 0.6
        for _ in range(nights):
            if self.chance.random() < 0.2:
                partial = not partial
            if self.chance.random() < 0.3:
                self.remember()
            self.night(clean=False, partial=partial)
        self.authority.mend()
        self.remember()
        for _ in range(2):
            self.night(clean=True, partial=partial)
        assert model_world.differences(self.dfe, self.authority) == []
        assert not list(self.folder.glob("csc_api_spool_*"))
        for row in self.staging.rows():
            gone = row["person_id"] not in self.authority.children
            assert row["submission_status"].lower() == "sent", row["api_response"]
            assert row["row_state"].lower() == ("deleted" if gone else "unchanged")
            assert (row["current_hash"] == MARKER) is gone
        open_lines = "SELECT COUNT(*) FROM ssd_api_submission_log_anon WHERE outcome = 'sending'"
        assert self.staging.database.query(open_lines) == [(0,)]

    def close(self) -> None:
        """Let go of the files."""
        self.authority.connection.close()
        self.staging.database.close()


def play(seed: int) -> None:
    """Play the history that a seed stands for."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed, Path(folder))
        try:
            world.play(1 + seed % 7)
        finally:
            world.close()


@pytest.mark.parametrize("part", range(4))
def test_two_clean_nights_after_any_history(part: int) -> None:
    """DfE holds every child of the table as it is now, and nobody else, and every row says so."""
    logging.disable(logging.CRITICAL)
    try:
        for seed in range(part * 20, part * 20 + 20):
            play(seed)
    finally:
        logging.disable(logging.NOTSET)

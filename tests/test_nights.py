"""Histories of nights: whatever goes wrong, two clean nights later DfE holds exactly the children of the LA.

The refresh is played as domain, section 3, tells: it compares hashes with ``<>``, marks who is gone every
night, knows nothing of what was acknowledged, and may run while a submission is under way.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from api_pipeline import pipeline
from api_pipeline.faults import Fault
from api_pipeline.pipeline import RunOptions
from tests.databases import Database
from tests.staging_kit import MARKER, HookedReceiver, Staging, child, digest, settings_of

PEOPLE = 6
FAULTS: dict[str, list[Fault]] = {
    "none": [],
    "no run": [],
    "one 503": [Fault("503")],
    "down": [Fault("503", times=None)],
    "lost reply": [Fault("lost-reply")],
    "cut off": [Fault("cut-off", after=1)],
    "taken, then 504": [Fault("504", taken=True)],
    "too few receipts": [Fault("missing-receipt")],
    "firewall": [Fault("403-html", after=1, times=None)],
    "redirect": [Fault("302", times=None)],
    "portal": [Fault("html", after=1, times=2)],
    "no content": [Fault("204")],
    "too large": [Fault("413", records=1, times=None)],
    "one refused": [Fault("400-record", times=2)],
    "refused, nobody named": [Fault("422", child="c2", times=None)],
    "no token": [Fault("503", at="token", times=None)],
}
CHANGES = ["come", "come without hash", "change", "leave", "new id"]

_UPDATE = """
    UPDATE staging_anon SET previous_json_payload = json_payload, previous_hash = current_hash,
        json_payload = ?, current_hash = ?, row_state = 'Updated', submission_status = 'Pending'
    WHERE person_id = ? AND current_hash <> ?
"""

Change = tuple[int, str]


@dataclass(frozen=True)
class Night:
    """What happens in one night: changes, a refresh, a run with a fault, and a refresh under way."""

    changes: list[Change]
    fault: str = "none"
    batch_size: int = 100
    under_way: list[Change] = field(default_factory=list)


CHANGE = st.tuples(st.integers(0, PEOPLE - 1), st.sampled_from(CHANGES))
NIGHTS = st.lists(
    st.builds(
        Night,
        st.lists(CHANGE, max_size=6),
        st.sampled_from(list(FAULTS)),
        st.sampled_from([1, 2, 100]),
        st.lists(CHANGE, max_size=2),
    ),
    max_size=7,
)


class Authority:
    """The case system and its refresh of the staging table."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.children: dict[int, dict[str, Any]] = {}
        self.hashless: set[int] = set()
        self._last: dict[int, dict[str, Any]] = {}
        self._renamed: set[int] = set()
        self._version = 0

    def change(self, changes: Sequence[Change]) -> None:
        """Let children come, change, leave, return as they were, and get other ids."""
        for person, what in changes:
            self._version += 1
            here = self.children.get(person)
            if what.startswith("come") and here is None:
                # Who returns, returns with the payload that they left with.
                self.children[person] = self._last.get(person) or {"id": f"c{person}", "version": 0}
                if what == "come without hash":
                    self.hashless.add(person)
            elif what == "change" and here is not None and self._knows_earlier_id(person):
                self.children[person] = {**here, "version": self._version}
            elif what == "leave" and here is not None:
                self._last[person] = self.children.pop(person)
            elif what == "new id" and here is not None and self._is_acknowledged(person):
                self.children[person] = {**here, "id": f"c{person}-{self._version}"}
                self._renamed.add(person)

    def payload(self, person: int) -> str:
        """Return the payload that the case system has for a person now."""
        here = self.children[person]
        return child(here["id"], first_name="O'Brien", surname=f"v{here['version']}")

    def _knows_earlier_id(self, person: int) -> bool:
        """Whether a change may come: without a baseline, previous_json_payload alone has the earlier id."""
        if person in self._renamed and self._is_acknowledged(person):
            self._renamed.remove(person)
        return person not in self._renamed

    def _is_acknowledged(self, person: int) -> bool:
        row = self.connection.execute(
            "SELECT json_payload FROM staging_anon WHERE person_id = ? AND submission_status = 'sent'"
            " AND row_state = 'unchanged'",
            [f"p{person}"],
        ).fetchone()
        return row is not None and row[0] == self.payload(person)

    def refresh(self) -> None:
        """Do what the nightly SQL does."""
        self.connection.execute("BEGIN IMMEDIATE")
        known = {row[0] for row in self.connection.execute("SELECT person_id FROM staging_anon")}
        for person in self.children:
            name, text = f"p{person}", self.payload(person)
            if name in known:
                self.connection.execute(
                    _UPDATE,
                    [text, digest(text), name, digest(text)],
                )
            else:
                self.connection.execute(
                    "INSERT INTO staging_anon (person_id, json_payload, current_hash) VALUES (?, ?, ?)",
                    [name, text, None if person in self.hashless else digest(text)],
                )
        here = [f"p{person}" for person in self.children]
        marks = ", ".join("?" * len(here))
        self.connection.execute(
            "UPDATE staging_anon SET row_state = 'Deleted', last_updated = CURRENT_TIMESTAMP"
            f" WHERE person_id NOT IN ({marks})",
            here,
        )
        self.connection.execute("COMMIT")


@settings(max_examples=25)
@given(nights=NIGHTS)
def test_two_clean_nights_after_any_history(nights: list[Night]) -> None:
    """DfE holds exactly the children of the authority, each as it is now, and the table says so."""
    with tempfile.TemporaryDirectory() as folder, HookedReceiver() as receiver:
        staging = Staging(Database("sqlite", f"sqlite:///{folder}/staging.db", "staging_anon")).create()
        authority = Authority(Path(folder, "staging.db"))
        authority.connection.execute("PRAGMA synchronous = OFF")
        try:
            for night in [*nights, Night([]), Night([])]:
                _play(night, authority, staging, receiver)
            now = authority.children
            expected = {here["id"]: json.loads(authority.payload(person)) for person, here in now.items()}
            assert receiver.children == expected
            for row in staging.rows():
                gone = int(row["person_id"][1:]) not in now
                assert row["submission_status"] == "sent"
                assert row["row_state"].lower() == ("deleted" if gone else "unchanged")
                assert (row["current_hash"] == MARKER) is gone
                assert gone or row["previous_json_payload"] == row["json_payload"]
        finally:
            authority.connection.close()
            staging.database.close()


def _play(night: Night, authority: Authority, staging: Staging, receiver: HookedReceiver) -> None:
    authority.change(night.changes)
    authority.refresh()
    if night.fault == "no run":
        return
    under_way = list(night.under_way)

    def meddle(_: Any) -> None:
        if under_way:
            authority.change([under_way.pop()])
            authority.refresh()

    receiver.hook = meddle
    receiver.faults.add(*FAULTS[night.fault])
    pipeline.run(settings_of(staging, receiver, BATCH_SIZE=night.batch_size), RunOptions())
    receiver.faults.clear()
    receiver.hook = None

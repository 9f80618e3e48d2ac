"""A world to play histories of nights in: a case system, its refresh, and DfE as an independent model.

Nothing here uses the package's own idea of what a payload does. DfE is a flat map from the path of a record
to its own fields, and the client that leads to it can lose replies, refuse, and die at any point.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from api_pipeline import db, pipeline
from api_pipeline.errors import ConnectionLostError, DatabaseError
from api_pipeline.outcomes import Outcome, Verdict
from api_pipeline.replies import parse_receipts
from tests.staging_kit import digest

Json = dict[str, Any]
Flat = dict[tuple[str, ...], str]

# Lists whose items are records, and their ids; objects that are records. Written down anew on purpose.
LISTS = {
    "social_care_episodes": "social_care_episode_id",
    "child_and_family_assessments": "child_and_family_assessment_id",
    "child_in_need_plans": "child_in_need_plan_id",
    "section_47_assessments": "section_47_assessment_id",
    "child_protection_plans": "child_protection_plan_id",
    "child_looked_after_placements": "child_looked_after_placement_id",
}
OBJECTS = ("child_details", "health_and_wellbeing", "adoption", "care_leavers")


def apply_flat(flat: Flat, record: Json, path: tuple[str, ...] = ()) -> None:
    """Do to ``flat`` what a receiver does with a record (domain, section 5, rules 1 to 3)."""
    if record.get("purge") is True:
        for other in [known for known in flat if known[: len(path)] == path]:
            del flat[other]
        return
    own = {}
    for name, value in record.items():
        if name in LISTS:
            last = {item[LISTS[name]]: item for item in value or []}
            for key, item in last.items():
                apply_flat(flat, item, (*path, name, key))
        elif name in OBJECTS:
            if value is not None:
                apply_flat(flat, value, (*path, name))
        elif name != "purge":
            own[name] = value
    flat[path] = json.dumps(own, sort_keys=True)


def flat_of(payload: Json) -> Flat:
    """Return the records of a payload alone."""
    flat: Flat = {}
    apply_flat(flat, payload)
    return flat


class Dfe:
    """What DfE holds, by la_child_id."""

    def __init__(self) -> None:
        self.children: dict[str, Flat] = {}
        self.replaces = False  # full mode: a payload is all there is of a child

    def take(self, body: bytes) -> None:
        """Take a whole array."""
        for record in json.loads(body):
            name = record["la_child_id"]
            held = {} if self.replaces else self.children.get(name, {})
            apply_flat(held, record)
            if record.get("purge") is True:
                self.children.pop(name, None)
            else:
                self.children[name] = held


class Killed(BaseException):
    """The process ends here."""


REPLIES = (
    *("ok",) * 6,
    "lost",
    "never came",
    "busy",
    "refuse one",
    "refuse all",
    "too large",
    "empty",
    "taken then refused",
    "unsure then refuses one",
    "ended",
    "kill before",
    "kill after",
)


class Client:
    """Stands where the API client stands, with a DfE behind it that answers as its chance has it."""

    def __init__(self, dfe: Dfe, chance: random.Random | None, hook: Callable[[], None]) -> None:
        self.dfe = dfe
        self.chance = chance
        self.hook = hook
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, body: bytes, count: int) -> Outcome:
        """Answer one submission."""
        with self._lock:
            self.hook()
            reply = "ok" if self.chance is None else self.chance.choice(REPLIES)
            if reply == "kill before":
                raise Killed
            if reply in ("ok", "lost", "taken then refused", "kill after"):
                self.dfe.take(body)
            if (
                reply == "unsure then refuses one"
                and count > 1
                and self.chance
                and self.chance.random() < 0.5
            ):
                self.dfe.take(body)
            if reply == "kill after":
                raise Killed
            return self._outcome(reply, count)

    def _outcome(self, reply: str, count: int) -> Outcome:
        if reply == "ok":
            listed = [f"2025-06-30_02:11:09.53_{uuid.uuid4()}.json" for _ in range(count)]
            receipts = parse_receipts(json.dumps(listed).encode(), count)
            return Outcome(Verdict.ACCEPTED, 200, 1, unsure=False, receipts=receipts)
        if reply in ("refuse one", "unsure then refuses one"):
            bad = {(self.chance or random).randrange(count): "[0].child_details.sex is wrong"}
            return Outcome(Verdict.REFUSED, 400, 2, unsure=reply != "refuse one", refusals=bad)
        if reply in ("refuse all", "taken then refused"):
            return Outcome(Verdict.REFUSED, 422, 1, unsure=reply != "refuse all", reply_text="no")
        if reply == "too large":
            return Outcome(Verdict.TOO_LARGE, 413, 1, unsure=False, reply_text="big")
        if reply == "empty":
            return Outcome(Verdict.EMPTY, 204, 1, unsure=False)
        if reply == "ended":
            return Outcome(Verdict.RUN_ENDED, 401, 1, unsure=False, reason="no access", hop="token")
        return Outcome(Verdict.GIVEN_UP, None, 3, unsure=reply != "busy", reason="gave up", hop="api")


class Authority:
    """The case system, whose children come, change, leave and return, and the refresh that follows it."""

    def __init__(self, path: Path, chance: random.Random, people: int) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA synchronous = OFF")
        self.chance = chance
        self.people = people
        self.children: dict[str, Json] = {}
        self._gone: dict[str, Json] = {}
        self.is_kept = False  # whether the tables of the ledger exist
        self.older_tool: set[str] = set()  # of whom previous_json_payload alone tells what was sent

    def make(self, person: str) -> Json:
        """Return some payload; there are few values, so that what was once sent comes again."""
        pick = self.chance.choice
        details: Json = {"surname": pick(["O'Brien", "Zo\xeb"])}
        payload: Json = {"la_child_id": "c" + person[1:], "child_details": details}
        if pick([0, 1]):
            payload["mis_child_id"] = pick(["m1", "m2"])
        if pick([0, 0, 1]):
            payload["health_and_wellbeing"] = {
                "sdq_assessments": [{"date": "2024-01-01", "score": pick([1, 2])}]
            }
        if pick([0, 1, 1, 1]):
            payload["social_care_episodes"] = [
                self._episode(name) for name in self.chance.sample(["e1", "e2", "e3"], pick([0, 1, 2, 3]))
            ]
        if pick([0, 1]):
            payload["purge"] = False
        if pick([0, 0, 1]):
            payload["unknown"] = pick([1, 1.0, True, {"purge": True}])
        return self._oddly(payload)

    def _oddly(self, payload: Json) -> Json:
        """Sometimes add what the interface allows and nobody expects."""
        episodes = payload.get("social_care_episodes")
        odd = self.chance.random()
        if odd < 0.1:
            payload["health_and_wellbeing"] = self.chance.choice([None, {}, {"purge": True}])
        elif odd < 0.2 and episodes:  # of duplicates the last wins
            episodes.append(self._episode(episodes[0]["social_care_episode_id"]))
        elif odd < 0.3 and episodes:
            episodes[0]["purge"] = self.chance.choice([True, False])
        elif odd < 0.4 and episodes:
            episodes[-1]["care_leavers"] = self.chance.choice([None, {"purge": True}, {"activity": "F1"}])
        elif odd < 0.5:
            payload["social_care_episodes"] = self.chance.choice([None, []])
        return payload

    def _episode(self, name: str) -> Json:
        pick = self.chance.choice
        episode: Json = {"social_care_episode_id": name, "closure_reason": pick([None, "RC1", "RC2"])}
        if pick([0, 1]):
            plans = self.chance.sample(["a1", "a2"], pick([1, 2]))
            episode["child_in_need_plans"] = [
                {"child_in_need_plan_id": plan, "start_date": pick(["2024-01-01", "2024-01-02"])}
                for plan in plans
            ]
        if pick([0, 0, 1]):
            episode["adoption"] = {"matched_date": pick(["2024-02-01", None])}
        return episode

    def change(self, times: int) -> None:
        """Let some things happen."""
        for _ in range(times):
            person = f"p{self.chance.randrange(self.people)}"
            what = self.chance.choice(["come", "come", "change", "change", "edit", "leave", "new id", "bad"])
            self._change(person, what)

    def _change(self, person: str, what: str) -> None:
        here = self.children.get(person)
        if not self.is_kept:
            (self.older_tool.discard if self._is_acknowledged(person) else self.older_tool.add)(person)
        elif person in self.older_tool and self._has_baseline(person):
            self.older_tool.discard(person)
        if here is None:
            if what == "come":  # mostly with the very payload that they left with
                before = self._gone.get(person)
                again = before is not None and self.chance.random() < 0.7
                self.children[person] = before if again and before else self.make(person)
        elif person in self.older_tool and what != "leave":
            return  # a second change before the first was sent would lose what the older tool sent
        elif what == "leave":
            self._gone[person] = self.children.pop(person)
        elif what == "bad" and not self.is_kept:
            return  # mending it would be a second change
        elif what in ("change", "bad"):
            self.children[person] = {**self.make(person), "la_child_id": here["la_child_id"]}
            if what == "bad":
                self.children[person]["child_details"] = {"sex": 7}
        elif what == "edit":
            edited = deepcopy(here)
            edited["child_details"]["postcode"] = self.chance.choice(["AB1 2CD", "AB1 2CE"])
            self.children[person] = edited
        elif what == "new id":
            name = "c" + person[1:] + self.chance.choice(["", "x", "y"])
            self.children[person] = {**here, "la_child_id": name}

    def _is_acknowledged(self, person: str) -> bool:
        """Whether the row tells all that DfE may hold: without a ledger only one more change can be borne."""
        here = self.children.get(person)
        row = self.connection.execute(
            "SELECT json_payload FROM staging_anon WHERE person_id = ? AND row_state = 'unchanged' "
            "AND submission_status = 'sent'",
            [person],
        ).fetchone()
        return here is None or (row is not None and row[0] == self.text(person))

    def _has_baseline(self, person: str) -> bool:
        found = self.connection.execute(
            "SELECT 1 FROM ssd_api_baseline_anon "
            "WHERE person_id = ? AND (state <> 'unknown' OR unsure IS NOT NULL)",
            [person],
        )
        return found.fetchone() is not None

    def mend(self) -> None:
        """Give every faulty payload a sound one, so that the last nights can be clean."""
        for person, here in self.children.items():
            if here["child_details"].get("sex") == 7:
                self.children[person] = {**here, "child_details": {"surname": "mended"}}

    def text(self, person: str) -> str:
        """Return the payload as the refresh writes it."""
        return json.dumps(self.children[person], ensure_ascii=False)

    def refresh(self) -> None:
        """Do what the nightly SQL does (domain, section 3)."""
        run = self.connection.execute
        run("BEGIN IMMEDIATE")
        known = {row[0] for row in run("SELECT person_id FROM staging_anon")}
        for person in self.children:
            text = self.text(person)
            if person in known:
                run(
                    "UPDATE staging_anon SET previous_json_payload = json_payload, "
                    "previous_hash = current_hash, json_payload = ?, current_hash = ?, "
                    "row_state = 'Updated', submission_status = 'Pending' "
                    "WHERE person_id = ? AND current_hash <> ?",
                    [text, digest(text), person, digest(text)],
                )
            else:
                hashed = None if self.chance.random() < 0.2 else digest(text)
                run(
                    "INSERT INTO staging_anon (person_id, json_payload, current_hash) VALUES (?, ?, ?)",
                    [person, text, hashed],
                )
        marks = ", ".join("?" * len(self.children))
        run(
            f"UPDATE staging_anon SET row_state = 'Deleted' WHERE person_id NOT IN ({marks})",
            [*self.children],
        )
        run("COMMIT")

    def send_by_older_tool(self, dfe: Dfe) -> None:
        """Have some children acknowledged by a tool that keeps no baseline."""
        for person in list(self.children):
            text = self.text(person)
            dfe.take(f"[{text}]".encode())
            self.connection.execute(
                "UPDATE staging_anon SET submission_status = 'Sent', previous_json_payload = json_payload, "
                "current_hash = ?, previous_hash = ?, row_state = 'Unchanged', api_response = 'older' "
                "WHERE person_id = ?",
                [digest(text), digest(text), person],
            )
            self.older_tool.add(person)


DISASTERS = ("killed", "killed after commit", "gone", "lost", "lost after commit", "refresh")


@contextmanager
def disaster(kind: str, at: int, refresh: Callable[[], None], client: Any) -> Any:
    """Let something happen at the run's statement number ``at``, and put ``client`` in the API's place."""
    plain_run, plain_end = db.Database._run, db._SqliteDriver.end
    count = 0
    gone = False

    def due() -> bool:
        nonlocal count
        count += 1
        return count == at

    def strike(error: str) -> None:
        nonlocal gone
        if error == "killed":
            raise Killed
        gone = error == "gone"
        if gone:
            raise DatabaseError("gone for good", hop="statement")
        raise ConnectionLostError("lost", hop="connection")

    def run(self: Any, sql: str, params: Any = (), *, fetch: bool) -> Any:
        if gone:
            raise DatabaseError("gone for good", hop="statement")
        if kind in ("killed", "gone", "lost") and due():
            strike(kind)
        if kind == "refresh" and not self._in_transaction and due():
            refresh()
        return plain_run(self, sql, params, fetch=fetch)

    def end(self: Any, connection: Any, *, commit: bool) -> None:
        plain_end(self, connection, commit=commit)
        if commit and kind.endswith("after commit") and due():
            strike(kind.split(maxsplit=1)[0])

    db.Database._run = run  # type: ignore[method-assign]
    db._SqliteDriver.end = end  # type: ignore[method-assign]
    namespace = vars(pipeline)
    plain_client = namespace["ApiClient"]
    namespace["ApiClient"] = lambda *_, **__: client
    try:
        yield
    finally:
        db.Database._run = plain_run  # type: ignore[method-assign]
        db._SqliteDriver.end = plain_end  # type: ignore[method-assign]
        namespace["ApiClient"] = plain_client


def differences(dfe: Dfe, authority: Authority) -> list[str]:
    """Return what DfE holds that it should not, and the other way round."""
    wanted: Mapping[str, Flat] = {here["la_child_id"]: flat_of(here) for here in authority.children.values()}
    found = [f"holds {name}" for name in dfe.children if name not in wanted]
    for name, flat in wanted.items():
        if dfe.children.get(name) != flat:
            found.append(f"{name}: {dfe.children.get(name)} instead of {flat}")
    return found

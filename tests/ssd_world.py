"""An authority whose SSD changes from night to night, staged and sent to the receiver on loopback.

The rows in memory are the truth: they are what the source tables get and what the oracle is asked about.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any

from api_pipeline import pipeline, stage
from api_pipeline import ssd_tables as t
from api_pipeline.config import Settings
from api_pipeline.faults import Fault
from api_pipeline.receiver import Receiver
from api_pipeline.ssd_tables import SOURCE_TABLES, Kind
from api_pipeline.stage_summary import StageSummary
from api_pipeline.summary import RunSummary
from tests import model_world, ssd_kit, ssd_oracle
from tests.databases import Database
from tests.db_kit import Waits
from tests.ssd_strategies import Rows, population
from tests.staging_kit import MARKER, Staging, digest, settings_of

TICK = timedelta(milliseconds=10)  # SQL Server's DATETIME holds every hundredth of a second
TYPES = {"csdq_sdq_score": "VARCHAR(20)"}  # numbers and texts in one column

_FAMILIES: tuple[tuple[str, ...], ...] = (
    tuple(f"{stem}_referral_id" for stem in ("cine", "cina", "cinp", "s47e", "cppl", "clae", "invo")),
    ("cina_assessment_id", "cinf_assessment_id"),
    ("s47e_s47_enquiry_id", "icpc_s47_enquiry_id"),
    ("cinp_cin_plan_id",),
    ("cppl_cp_plan_id",),
    ("clap_cla_placement_id",),
)
_PERSON_COLUMNS = tuple(
    column for table in SOURCE_TABLES for column in table.columns if column.endswith("_person_id")
)
_FAULTS = "503 400-record 422-record 500 lost-reply missing-receipt cut-off 429 reset 413 204 401".split()


def crowd(run_date: date, seeds: Iterable[int], *, tame: bool = False) -> Rows:
    """Return many populations in one, each with ids of its own, in values that every database can hold.

    ``tame``: only ids that the API takes, and no person_id twice, blanks and letter case aside.
    """
    together: Rows = {table.row: [] for table in SOURCE_TABLES}
    for seed in seeds:
        found = population(seed, run_date, tick=TICK)
        for table in SOURCE_TABLES:
            together[table.row] += _renamed(found, table, f"{seed}-", tame=tame)
    return together


def _renamed(rows: Rows, table: t.SourceTable, prefix: str, *, tame: bool) -> list[Any]:
    found = []
    met: set[str] = set()
    for row in rows[table.row]:
        cells = [
            _fit(value, spec, prefix, tame=tame)
            for value, spec in zip(row, table.columns.values(), strict=True)
        ]
        made = table.row._make(cells)
        if table.row is t.SdqScore and "." in str(made.csdq_sdq_score):
            continue
        if tame and (_lacks_id(made) or (table.row is t.Person and cells[0].strip().casefold() in met)):
            continue
        met.add(str(cells[0]).strip().casefold())
        found.append(made)
    return found


def _fit(value: Any, spec: t.Spec, prefix: str, *, tame: bool) -> Any:
    if spec.kind is Kind.VALUE and value is not None:
        value = str(int(value) if isinstance(value, bool) else value)
    if not isinstance(value, str):
        return value
    if spec.kind is Kind.ID and value.strip():
        name = value.strip()
        if tame:
            name = "".join(letter for letter in name if letter.isascii() and letter.isalnum())
            name = name[: 36 - len(prefix)]
        value = value.replace(value.strip(), prefix + name)
    return value[: spec.length]


def _lacks_id(row: Any) -> bool:
    """Whether a row would give a record without an id, which the API refuses."""
    columns = [column for family in _FAMILIES for column in family[:1]]
    return any(column in columns and not (getattr(row, column) or "").strip() for column in row._fields)


def in_source(database: Database, name: str) -> str:
    """Return the name of a source table as a statement takes it."""
    schema = ssd_kit.schema_of(database)
    return f"{schema.text}.{name}" if schema else name


def source_settings(staging: Staging, receiver: Receiver | None, **changes: Any) -> Settings:
    """Return settings with the source in the place that the test has for itself."""
    schema = ssd_kit.schema_of(staging.database)
    place = {"SSD_SCHEMA": schema.text} if schema else {}
    return settings_of(staging, receiver, **place, **changes)


class World:
    """One authority: its source, its staging table, and the receiver."""

    def __init__(self, database: Database, seed: int, groups: int, *, applies: bool = True) -> None:
        self.chance = random.Random(seed)
        self.database = database
        self.staging = Staging(database).create().remember()
        self.receiver = Receiver(apply_partials=applies)
        self.receiver.start()
        self.run_date = date(2025, 2, 20)
        self.groups = [seed * 100 + number for number in range(groups)]
        self.rows = crowd(self.run_date, self.groups, tame=True)
        self.gone: list[t.Person] = []
        self._renamings = 0
        ssd_kit.create(database, types=TYPES, indexes=False)
        database.execute(f"CREATE TABLE {in_source(database, 'ssd_fake_data_marker')} (made_at INTEGER)")
        self._stored: Rows = {}
        self.store()

    def close(self) -> None:
        """Let go of the port and the file."""
        self.receiver.stop()
        self.database.close()

    # -- the source

    def store(self) -> None:
        """Give the source tables the rows as they are now."""
        for table in SOURCE_TABLES:
            if self._stored.get(table.row) != self.rows[table.row]:
                self.database.execute(f"DELETE FROM {self.source(table.name)}")
                ssd_kit.insert(self.database, self.rows[table.row])
        self._stored = {row: list(found) for row, found in self.rows.items()}

    def source(self, name: str) -> str:
        """Return the name of a source table as a statement takes it."""
        return in_source(self.database, name)

    def change(self, times: int) -> None:
        """Let the case system change."""
        what: list[Callable[[], None]] = [
            *(self._edit,) * 4,
            *(self._drop, self._add, self._depart, self._depart, self._return, self._return),
            *(self._rename, self._pad, self._double),
        ]
        for _ in range(times):
            self.chance.choice(what)()

    def _fresh(self, group: int) -> Rows:
        found = population(self.chance.randrange(10**6), self.run_date, tick=TICK)
        return {table.row: _renamed(found, table, f"{group}-", tame=True) for table in SOURCE_TABLES}

    def _edit(self) -> None:
        table = self.chance.choice([table for table in SOURCE_TABLES if self.rows[table.row]])
        others = self._fresh(self.groups[0])[table.row]
        plain = [column for column, spec in table.columns.items() if spec.kind is not Kind.ID]
        if others and plain:
            column = self.chance.choice(plain)
            place = self.chance.randrange(len(self.rows[table.row]))
            value = getattr(self.chance.choice(others), column)
            row = self.rows[table.row][place]
            self.rows[table.row][place] = row._replace(**{column: value})

    def _drop(self) -> None:
        table = self.chance.choice([table for table in SOURCE_TABLES[1:] if self.rows[table.row]])
        self.rows[table.row].pop(self.chance.randrange(len(self.rows[table.row])))

    def _add(self) -> None:
        fresh = self._fresh(self.chance.choice(self.groups))
        for kind in self.chance.sample(list(fresh), 4):
            if kind is not t.Person:
                self.rows[kind] += fresh[kind]

    def _depart(self) -> None:
        people = self.rows[t.Person]
        if len(people) > 1:
            self.gone.append(people.pop(self.chance.randrange(len(people))))

    def _return(self) -> None:
        if self.gone:
            self.rows[t.Person].append(self.gone.pop(self.chance.randrange(len(self.gone))))

    def _double(self) -> None:
        """Give somebody a second row, the same but for blanks around the id."""
        if self.rows[t.Person]:
            person = self.chance.choice(self.rows[t.Person])
            self.rows[t.Person].append(person._replace(pers_person_id=f"{person.pers_person_id}  "))

    def mend(self) -> None:
        """Take out the second rows."""
        met: set[str] = set()
        for people in (self.rows[t.Person], self.gone):
            for person in list(people):
                name = str(person.pers_person_id).strip()
                if name in met:
                    people.remove(person)
                met.add(name)

    def _rename(self) -> None:
        """Give the records of one kind new ids, as case systems do over night."""
        self._renamings += 1
        names: dict[str, str] = {}
        family = self.chance.choice(_FAMILIES)

        def new(value: str) -> str:
            name = value.strip()
            names.setdefault(name, f"x{self._renamings}-{len(names)}")
            return value.replace(name, names[name]) if name else value

        self._map(family, new)

    def _pad(self) -> None:
        """Write the ids of some people with other blanks around them, wherever they stand."""
        some = {
            str(person.pers_person_id)
            for person in (*self.rows[t.Person], *self.gone)
            if self.chance.random() < 0.3
        }
        others = {
            person.pers_person_id for table in (self.rows[t.Person], self.gone) for person in table
        } - some
        padded = {value: f" {value.strip()} " for value in some}
        if not others & set(padded.values()):
            self._map(_PERSON_COLUMNS, lambda value: padded.get(value, value))

    def _map(self, columns: Iterable[str], new: Callable[[str], str]) -> None:
        for kind in [*self.rows]:
            mine = [column for column in kind._fields if column in columns]
            for rows in (self.rows[kind], self.gone if kind is t.Person else []):
                for place, row in enumerate(rows if mine else []):
                    values = {column: getattr(row, column) for column in mine}
                    rows[place] = row._replace(**{key: value and new(value) for key, value in values.items()})

    # -- the nights

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of a night."""
        return source_settings(self.staging, self.receiver, **changes)

    def stage(self, **options: Any) -> StageSummary:
        """Refresh the staging table from the source as it is now."""
        self.store()
        options.setdefault("as_of", self.run_date)
        return stage.stage(self.settings(), stage.StageOptions(**options), stop=Waits())

    def run(self, *, partial: bool, resend: bool = False) -> RunSummary:
        """Send what is due, or everything."""
        people = tuple(str(row["person_id"]) for row in self.staging.rows()) if resend else ()
        options = pipeline.RunOptions(allow_deletions=True, persons=people, resend=resend)
        settings = self.settings(USE_PARTIAL_PAYLOAD=partial, BATCH_SIZE=self.chance.choice([1, 3, 100]))
        return pipeline.run(settings, options, stop=Waits())

    def meddle(self) -> None:
        """Have another tool refresh some rows: other hashes or none, and its own way to write values."""
        for row in self.dump():
            if row["current_hash"] == MARKER or self.chance.random() > 0.15:
                continue
            own = digest(row["json_payload"])
            was_equal = row["previous_hash"] == row["current_hash"]
            values: dict[str, Any] = self.chance.choice(
                [
                    {"current_hash": own, **({"previous_hash": own} if was_equal else {})},
                    {"current_hash": None},
                    {"row_state": f" {row['row_state'].title()} "},
                    {"submission_status": row["submission_status"].upper()},
                ]
            )
            self.staging.update(row["person_id"], **values)

    def night(self, *, partial: bool) -> None:
        """Change, refresh and send, each of them or not, and the sending not always with success."""
        if self.chance.random() < 0.3:
            self.mend()
        if self.chance.random() < 0.2:
            self.meddle()
        self.change(self.chance.randrange(8))
        self.run_date += timedelta(days=self.chance.choice([0, 1, 1, 7, 30, 45]))
        if self.chance.random() < 0.85:
            self.stage(allow_deletions=True)
        if self.chance.random() < 0.8:
            for _ in range(self.chance.choice([0, 0, 1, 3])):
                kind = self.chance.choice(_FAULTS)
                self.receiver.faults.add(Fault(kind, times=2, after=self.chance.randrange(3)))
            self.run(partial=partial)
            self.receiver.faults.clear()

    # -- what must be

    def cohort(self) -> dict[str, dict[str, Any]]:
        """Return la_child_id -> payload of everybody in the cohort, as the oracle has it."""
        answers = ssd_oracle.ask(self.rows, self.run_date)
        return {(a.person_id or "").strip(): json.loads(a.payload) for a in answers if a.included}

    def dump(self) -> list[dict[str, Any]]:
        """Return the whole staging table."""
        return self.staging.rows()

    def assert_delivered(self) -> None:
        """The receiver holds exactly the cohort, and of each child exactly what is staged for it."""
        cohort = self.cohort()
        held = dict(self.receiver.children)
        assert held.keys() == cohort.keys()
        staged = {
            row["person_id"].strip(): json.loads(row["json_payload"])
            for row in self.dump()
            if row["row_state"].strip().lower() != "deleted"
        }
        assert staged.keys() == cohort.keys()
        for name, payload in cohort.items():
            # Record ids may be older than tonight's: new ids alone are no change.
            assert ssd_oracle.semantic_hash(staged[name]) == ssd_oracle.semantic_hash(payload), name
            assert model_world.flat_of(held[name]) == model_world.flat_of(staged[name]), name

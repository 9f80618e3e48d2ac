"""Cohort and payloads agree, person by person, with a second implementation in SQL (tests/ssd_oracle.py).

First from rows in memory, for many small populations full of collisions; then the same through the reader of
the source tables, from each kind of database. A failure shows the smallest population that still differs.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from api_pipeline import ssd_tables as t
from api_pipeline import stage
from api_pipeline.errors import ExitCode
from api_pipeline.semantic import record_counts, semantic_hash
from api_pipeline.ssd_cohort import Exclusion, judge
from api_pipeline.ssd_payload import PayloadBuilder
from api_pipeline.ssd_source import SourceOptions, SsdSource
from api_pipeline.ssd_tables import Person, Professional, SourcePage
from api_pipeline.ssd_window import Window
from tests import databases, ssd_kit, ssd_oracle
from tests.databases import Database
from tests.db_kit import opened
from tests.ssd_strategies import MONTHS, RUN_DATES, UASC_PATTERNS, Rows, population, smallest
from tests.ssd_world import TYPES, crowd, in_source, source_settings
from tests.staging_kit import Staging

# The seed is no value to shrink: a failing population is made smaller by taking rows away.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Night:
    """What a run is told."""

    run_date: date
    months: int = 24
    uasc_pattern: str | None = None

    @classmethod
    def of(cls, seed: int) -> Night:
        """Return the night of a seed."""
        chance = random.Random(seed)
        return cls(chance.choice(RUN_DATES), chance.choice(MONTHS), chance.choice(UASC_PATTERNS))

    def builder(self, professionals: Mapping[str, list[str]]) -> PayloadBuilder:
        """Return the builder of this night's payloads."""
        return PayloadBuilder(self.window, professionals, self.uasc_pattern)

    @property
    def window(self) -> Window:
        """The window of this night."""
        return Window.of(self.run_date, self.months)

    def answers(self, rows: Rows, listed: Iterable[str] | None = None) -> list[ssd_oracle.Answer]:
        """Return what the oracle says."""
        return ssd_oracle.ask(
            rows,
            self.run_date,
            months=self.months,
            uasc_pattern=self.uasc_pattern,
            listed=None if listed is None else frozenset(listed),
        )


def text_of(payload: Mapping[str, Any]) -> str:
    """Return a payload as text, keys in the order that they have."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


def professionals_of(rows: Rows) -> dict[str, list[str]]:
    """Return professional id -> worker ids, as the reader of the source gives them."""
    found: dict[str, list[str]] = {}
    for row in rows.get(Professional, ()):
        if row.prof_professional_id is not None and (row.prof_social_worker_registration_no or "").strip():
            found.setdefault(row.prof_professional_id, []).append(row.prof_social_worker_registration_no)
    return found


def difference(rows: Rows, night: Night) -> tuple[Any, Any] | None:
    """Return the first thing on which package and oracle differ, as both have it; None if there is none."""
    page = SourcePage(rows)
    builder = night.builder(professionals_of(rows))
    for person, answer in zip(rows.get(Person, ()), night.answers(rows), strict=True):
        verdict = judge(person, page, night.window)
        decided = verdict.included, frozenset(ground.name for ground in verdict.grounds)
        if decided != (answer.included, answer.grounds):
            return decided, (answer.included, answer.grounds)
        built = text_of(builder.build(person, page))
        if built != answer.payload:
            return built, answer.payload
    return None


def assert_no_difference(rows: Rows, night: Night) -> None:
    """Fail with the smallest part of the rows that still gives a difference."""
    if difference(rows, night) is None:
        return
    fewest = smallest(rows, lambda fewer: difference(fewer, night) is not None)
    package, oracle = difference(fewest, night) or (None, None)
    told = "\n".join(
        f"{type(row).__name__}: { {key: value for key, value in row._asdict().items() if value is not None} }"
        for found in fewest.values()
        for row in found
    )
    pytest.fail(f"{night}\n{told}\npackage: {package}\noracle:  {oracle}", pytrace=False)


def needed(rows: Rows, night: Night) -> Rows:
    """Return the rows without those that say nothing about a window, and without what only they lead to."""
    start = night.window.start
    kept = {
        table.row: [
            row
            for row in rows.get(table.row, ())
            if not (table.over and (over := getattr(row, table.over)) is not None and over < start)
            and not (table.holding and table.holding[1] not in (getattr(row, table.holding[0]) or "").upper())
        ]
        for table in t.SOURCE_TABLES
    }
    people = {person.pers_person_id for person in kept[Person]}

    def is_reached(row: Any, route: t.Route) -> bool:
        value = getattr(row, route.column)
        if isinstance(route, t.ByPerson):
            return value in people
        return value in {getattr(parent, route.parent_column) for parent in kept[route.parent]}

    reached = {
        table.row: [row for row in kept[table.row] if any(is_reached(row, route) for route in table.routes)]
        for table in t.SOURCE_TABLES
        if table.routes
    }
    fewer = {**kept, **reached}
    return fewer if fewer == kept else needed(fewer, night)


@given(seed=_SEEDS)
@settings(phases=_PHASES, max_examples=150, deadline=None)
def test_rows_that_were_over_before_the_window_make_no_difference(seed: int) -> None:
    """Nor do involvements of others than social workers: every verdict, payload and count stays the same."""
    night = Night.of(seed)
    rows = population(seed, night.run_date, night.months)
    fewer = needed(rows, night)
    one, two = night.builder(professionals_of(rows)), night.builder(professionals_of(rows))
    whole, part = SourcePage(rows), SourcePage(fewer)
    for person in rows.get(Person, ()):
        assert judge(person, whole, night.window) == judge(person, part, night.window)
        assert text_of(one.build(person, whole)) == text_of(two.build(person, part))
    assert one.tally == two.tally


@given(seed=_SEEDS)
@settings(max_examples=250, phases=_PHASES)
def test_every_decision_and_every_payload_equal_the_oracles(seed: int) -> None:
    """For any population and run date, package and oracle take in the same people for the same reasons
    and build the same payloads, key for key, whether somebody is in the cohort or not.
    """
    night = Night.of(seed)
    assert_no_difference(population(seed, night.run_date, night.months), night)


@pytest.mark.parametrize("run_date", RUN_DATES, ids=str)
def test_payloads_equal_on_every_awkward_date(run_date: date) -> None:
    """Around the turn of the year, of the financial year and of February nothing differs either."""
    for seed in range(6):
        assert_no_difference(population(seed, run_date), Night(run_date))


def test_null_joins_nothing() -> None:
    """An id that is NULL leads nowhere, not even to a row whose id is an empty text; a blank one does lead
    to the same blank one.
    """
    start = datetime(2025, 2, 3)  # noqa: DTZ001 - the database's own time
    for missing, blank in ((None, ""), ("", ""), (" ", "")):
        rows: list[Any] = [
            ssd_kit.person("p1", pers_dob=datetime(2015, 1, 1)),  # noqa: DTZ001
            t.CinEpisode("r1", "p1", start, None, None, None, None),
            t.CinEpisode(missing, "p1", start, None, None, None, None),
            t.CinAssessment(missing, "p1", "r1", start, None),
            t.CinAssessment("a2", "p1", blank, start, None),
            t.AssessmentFactors(blank, '["1A"]'),
            t.CinPlan("x", "r1", blank, start, None),
            t.CinPlan("y", blank, "p1", start, None),
            t.S47Enquiry(missing, "r1", "p1", start, None, None),
            t.InitialCpConference(blank, start),
            t.ClaEpisode("c1", "p1", missing, "r1", "S", "E1"),
            t.ClaPlacement("z", blank, start, None, None, None, None),
            t.Permanence(blank, blank, start, None, None),
            t.Involvement(missing, "r1", "CW", start, None),
            Professional(blank, "SW1"),
        ]
        together: Rows = {}
        for row in rows:
            together.setdefault(type(row), []).append(row)
        assert_no_difference(together, Night(date(2025, 7, 14)))


@given(seed=_SEEDS)
@settings(max_examples=60, phases=_PHASES)
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    """However a database hands out its rows, a person's payload is the same text, and the counts are too."""
    night = Night.of(seed)
    rows = population(seed, night.run_date, night.months)
    shuffled = {kind: random.Random(seed).sample(found, len(found)) for kind, found in rows.items()}
    told = []
    for order in (rows, shuffled):
        page, builder = SourcePage(order), night.builder(professionals_of(order))
        texts = [text_of(builder.build(person, page)) for person in rows[Person]]
        told.append((texts, builder.tally))
    assert told[0] == told[1]


@given(seed=_SEEDS)
@settings(max_examples=60, phases=_PHASES)
def test_a_cohort_table_leaves_out_whom_it_does_not_list(seed: int) -> None:
    """With a cohort table those are in who are listed and would be in without it, and no others."""
    night = Night.of(seed)
    rows = population(seed, night.run_date, night.months)
    ids = [person.pers_person_id.strip() for person in rows[Person]]
    listed = random.Random(seed).sample(ids, len(ids) // 2)
    page = SourcePage(rows)
    for person, answer in zip(rows[Person], night.answers(rows, listed), strict=True):
        is_listed = person.pers_person_id.strip() in listed
        verdict = judge(person, page, night.window, listed=is_listed)
        assert verdict.included == answer.included
        if not is_listed and judge(person, page, night.window).included:
            assert verdict.exclusion is Exclusion.NOT_IN_COHORT_TABLE


@given(seed=_SEEDS)
@settings(max_examples=60, phases=_PHASES)
def test_the_semantic_hash_equals_the_oracles(seed: int) -> None:
    """The hash of any payload is that of the second implementation, computing it changes nothing, and the
    records of each list with ids are counted over all episodes.
    """
    night = Night.of(seed)
    for answer in night.answers(population(seed, night.run_date, night.months)):
        payload = json.loads(answer.payload)
        assert semantic_hash(payload) == ssd_oracle.semantic_hash(payload)
        assert text_of(payload) == answer.payload
        records = Counter(name for name, items in _lists(payload) for _ in items)
        assert record_counts(payload) == {name: records[name] for name in ssd_oracle.RECORD_IDS}


@given(seed=_SEEDS)
@settings(max_examples=40, phases=_PHASES)
def test_the_semantic_hash_sees_what_counts_and_nothing_else(seed: int) -> None:
    """New record ids, purge flags and another order of records change nothing; any other value does."""
    night = Night.of(seed)
    chance = random.Random(seed)
    for answer in night.answers(population(seed, night.run_date, night.months)):
        payload = json.loads(answer.payload)
        before = semantic_hash(payload)
        for holder, key in list(_leaves(payload)):
            old = holder[key]
            holder[key] = f"{old}!"
            is_volatile = key == "purge" or key in ssd_oracle.RECORD_IDS.values()
            assert (semantic_hash(payload) == before) is is_volatile, key
            holder[key] = old
        for name, records in list(_lists(payload)):
            if name in ssd_oracle.RECORD_IDS:
                chance.shuffle(records)
        assert semantic_hash(payload) == before


def _leaves(value: Any) -> Iterable[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        if isinstance(item, (dict, list)):
            yield from _leaves(item)
        else:
            yield value, key


def _lists(value: Any, name: str = "") -> Iterable[tuple[str, list[Any]]]:
    if isinstance(value, list):
        yield name, value
    for key, item in list(value.items()) if isinstance(value, dict) else [(name, item) for item in value]:
        if isinstance(item, (dict, list)):
            yield from _lists(item, key)


# -- the same from databases


@pytest.mark.parametrize(("run_date", "size"), [(RUN_DATES[1], 7), (RUN_DATES[-5], 1000)], ids=str)
def test_every_database_gives_the_same_bytes(database: Database, run_date: date, size: int) -> None:
    """Read from any database, in small pages or in one, decisions, texts and hashes are the oracle's: ids
    in the other case, with trailing blanks and with none at all included.
    """
    night = Night(run_date)
    rows = crowd(run_date, range(12))
    fill(database, rows)
    wanted = {str(a.person_id): (a.included, a.payload, hash_of(a)) for a in night.answers(rows)}
    found = read(database, night, size)
    assert found.keys() == wanted.keys()
    different = [person for person in wanted if found[person] != wanted[person]]
    assert [(person, found[person][:2], wanted[person][:2]) for person in different[:2]] == []


def test_every_database_stages_the_same_bytes(database: Database) -> None:
    """What stage leaves in the table is the cohort of the oracle, byte for byte, whoever shares an id with
    another or has none left out; and a second stage writes nothing.
    """
    run_date = RUN_DATES[-5]
    rows = crowd(run_date, range(100, 112))
    person = rows[Person][0]
    rows[Person] += [person._replace(pers_person_id=None), person._replace(pers_person_id=" ")]
    fill(database, rows)
    staging = Staging(database).create()
    answers = [a for a in Night(run_date).answers(rows) if (a.person_id or "").strip()]
    ids = Counter((a.person_id or "").strip() for a in answers)
    wanted = {
        a.person_id: (text_of(json.loads(a.payload)), hash_of(a), "new", "pending")
        for a in answers
        if a.included and ids[(a.person_id or "").strip()] == 1
    }
    for is_first in (True, False):
        done = stage.stage(source_settings(staging, None), stage.StageOptions(as_of=run_date))
        assert done.exit_code == ExitCode.FAILED  # two people without an id
        assert done.left == 2 + sum(count for count in ids.values() if count > 1)
        assert done.written == (len(wanted) if is_first else 0)
        found = {
            row["person_id"]: (
                text_of(json.loads(row["json_payload"])),
                row["current_hash"],
                row["row_state"],
                row["submission_status"],
            )
            for row in staging.rows()
        }
        assert found == wanted
    assert len(wanted) > 8


def test_every_setting_reaches_the_payload(sqlite_database: Database, tmp_path: Path) -> None:
    """A source in another database, another window, another column for workers, another text for UASC and a
    cohort table: the staged cohort is the oracle's with all of them.
    """
    night = Night(RUN_DATES[-5], 13, "ASYLUM|^U$")
    rows = crowd(night.run_date, range(200, 230))
    folder = tmp_path / "source"
    folder.mkdir()
    source = databases.new_sqlite(folder)
    fill(source, {**rows, Professional: [row._replace(**{_NUMBER: "junk"}) for row in rows[Professional]]})
    source.execute("ALTER TABLE ssd_professionals ADD COLUMN staff_no TEXT")
    for number, row in enumerate(rows[Professional], 1):
        source.execute(
            "UPDATE ssd_professionals SET staff_no = ? WHERE rowid = ?", [getattr(row, _NUMBER), number]
        )
    listed = [person.pers_person_id for person in rows[Person] if "p1" in person.pers_person_id]
    source.execute("CREATE TABLE statutory (person_id TEXT)")
    source.executemany("INSERT INTO statutory VALUES (?)", [[f" {person}"] for person in listed])
    staging = Staging(sqlite_database).create()
    settings = source_settings(
        staging,
        None,
        SSD_CONNECTION_STRING=source.connection_string,
        WINDOW_MONTHS=night.months,
        WORKER_ID_COLUMN="staff_no",
        UASC_PATTERN=night.uasc_pattern,
        COHORT_TABLE="statutory",
    )
    stage.stage(settings, stage.StageOptions(as_of=night.run_date))
    source.close()
    answers = night.answers(rows, [person.strip() for person in listed])
    ids = Counter((a.person_id or "").strip() for a in answers)
    wanted = {a.person_id: a.payload for a in answers if a.included and ids[(a.person_id or "").strip()] == 1}
    assert {row["person_id"]: row["json_payload"] for row in staging.rows()} == wanted
    assert "worker_id" in "".join(wanted.values())
    assert len(wanted) > 8


_NUMBER = "prof_social_worker_registration_no"


def fill(database: Database, rows: Rows) -> None:
    """Make the source tables, marked as fake, and fill them."""
    ssd_kit.create(database, types=TYPES, indexes=False)
    database.execute(f"CREATE TABLE {in_source(database, 'ssd_fake_data_marker')} (made_at INTEGER)")
    ssd_kit.insert(database, [row for found in rows.values() for row in found])


def hash_of(answer: ssd_oracle.Answer) -> bytes:
    """Return the semantic hash of the oracle's payload."""
    return ssd_oracle.semantic_hash(json.loads(answer.payload))


def read(database: Database, night: Night, size: int) -> dict[str, tuple[bool, str, bytes]]:
    """Return for each person id, read from a database: in the cohort or not, the text and the hash."""
    found: dict[str, tuple[bool, str, bytes]] = {}
    with opened(database) as db:
        options = SourceOptions(schema=ssd_kit.schema_of(database))
        source = SsdSource(db, options, since=night.window.start)
        with db.transaction(consistent=True, write=False):
            builder = night.builder(source.professionals())
            for people in source.pages(size=size):
                assert not people.unreadable
                for person in people.people:
                    payload = builder.build(person, people.page)
                    is_in = judge(person, people.page, night.window).included
                    assert person.pers_person_id not in found
                    found[str(person.pers_person_id)] = is_in, text_of(payload), semantic_hash(payload)
    return found

"""The source is read by pages of people: whole families of rows, none twice, whatever the database."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api_pipeline import db
from api_pipeline.errors import ConfigError, DatabaseError, TransientDatabaseError
from api_pipeline.names import NamePart, TableName
from api_pipeline.ssd_source import PeoplePage, SourceOptions, SsdSource
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    AssessmentFactors,
    ByPerson,
    CareLeaver,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    InitialCpConference,
    Involvement,
    Permanence,
    Person,
    Professional,
    S47Enquiry,
    SdqScore,
)
from tests import databases, ssd_kit
from tests.databases import Database
from tests.ssd_kit import make, person

TABLE_OF = {table.row: table for table in SOURCE_TABLES}
JOINED = [table for table in SOURCE_TABLES if table.routes]
DAY = datetime(2024, 5, 6, 7, 8, 9)  # noqa: DTZ001 - the source names no zone
MIDNIGHT = datetime(2024, 5, 6)  # noqa: DTZ001 - as above


def part(text: str | None) -> NamePart | None:
    """Return a plain name as the settings give it."""
    return None if text is None else NamePart(text, exact=False)


def source_of(ours: db.Database, schema: NamePart | None, **more: Any) -> SsdSource:
    """Return the source in a schema."""
    return SsdSource(ours, SourceOptions(schema, **more))


def belonging(rows: Iterable[Any], person_id: str) -> Counter[Any]:
    """Return the rows that belong to a person by any route, found by looking at every row again and again."""
    rows = list(rows)

    def along(table: Any, number: int) -> list[Any]:
        route = table.routes[number]
        mine = [row for row in rows if type(row) is table.row]
        if isinstance(route, ByPerson):
            return [row for row in mine if getattr(row, route.column) == person_id]
        parent = TABLE_OF[route.parent]
        ids = {
            getattr(row, route.parent_column)
            for parent_number in route.parent_routes
            for row in along(parent, parent_number)
        } - {None}
        return [row for row in mine if getattr(row, route.column) in ids]

    found: Counter[Any] = Counter()
    for table in JOINED:
        known = {id(row): row for number in range(len(table.routes)) for row in along(table, number)}
        found.update(map(tagged, known.values()))
    return found


def tagged(row: Any) -> Any:
    """Return a row that rows of other classes never equal."""
    return (type(row), *row)


def all_of(page: PeoplePage) -> Counter[Any]:
    """Return every row of a page."""
    return Counter(tagged(row) for table in SOURCE_TABLES for row in page.page.rows(table.row))


def check_pages(pages: Iterable[PeoplePage], rows: list[Any]) -> None:
    """Everybody with an id comes once, with all their rows; no row comes twice on a page."""
    stored = Counter(map(tagged, rows))
    met: Counter[Any] = Counter()
    for page in pages:
        assert page.people
        on_page = all_of(page)
        assert on_page <= stored
        for one in page.people:
            assert one.pers_person_id is not None
            assert belonging(rows, one.pers_person_id) <= on_page
        met.update(map(tagged, page.people))
    named = [row for row in rows if type(row) is Person and row.pers_person_id and row.pers_person_id.strip()]
    assert met == Counter(map(tagged, named))


def population(seed: int, people: int = 7, rows: int = 60) -> list[Any]:
    """Return rows whose ids are drawn from few, so that they meet in every way that the routes allow."""
    chance = random.Random(seed)
    ids = [
        *(f"p{number}" for number in range(people)),
        "P1",
        "p1 ",
        " p2",
        "\u017b\u00f3\u0142w",
        "p'\"\\{,}",
    ]
    keys = ["k1", "K1", "k1 ", "k2", "k3", "\u03ba", 'k"\\,{}']
    found: list[Any] = [person(name, pers_legacy_id=f"{number}") for number, name in enumerate(ids)]
    found += [person(None), person(""), person("  "), person("p3", pers_legacy_id="again")]
    for number in range(rows):
        table = chance.choice(JOINED[1:])
        values: dict[str, Any] = {}
        for column in table.columns:
            if column.endswith("_person_id"):
                values[column] = chance.choice([*ids, None])
            elif column.endswith("_id") and column != "clap_cla_placement_id":
                values[column] = chance.choice([*keys, None])
        last = list(table.columns)[-1]
        if last == "cinf_assessment_factors_json" or table.row is ClaPlacement:
            values[last] = f"{number}"
        found.append(make(table.row, **values))
    return found


@pytest.fixture
def schema(database: Database) -> NamePart | None:
    """Empty source tables in each kind of database; their schema."""
    return ssd_kit.create(database)


@pytest.fixture
def ours(database: Database) -> Iterator[db.Database]:
    """The package's own connection."""
    with db.connect(database.connection_string, create=True) as connection:
        yield connection


class TestPages:
    """What lies on a page."""

    def test_everybody_comes_once_with_all_their_rows(
        self, database: Database, schema: NamePart | None, ours: db.Database
    ) -> None:
        """On pages of any size; ids may hold blanks, quotes and letters of any script and case."""
        rows = population(11)
        ssd_kit.insert(database, rows)
        source = source_of(ours, schema)
        for size in (1, 2, 3, 100):
            check_pages(source.pages(size=size), rows)

    def test_size_is_kept(self, database: Database, schema: NamePart | None, ours: db.Database) -> None:
        """A page has as many people as asked for, the last one what is left; no page is empty."""
        ssd_kit.insert(database, [person(f"p{number}") for number in range(6)])
        source = source_of(ours, schema)
        assert [len(page.people) for page in source.pages(size=4)] == [4, 2]
        assert [len(page.people) for page in source.pages(size=3)] == [3, 3]
        assert len(list(source.pages())) == 1

    def test_no_people_no_pages(self, schema: NamePart | None, ours: db.Database) -> None:
        """Empty tables are no fault here: whoever refreshes decides what they mean."""
        source = source_of(ours, schema)
        assert list(source.pages()) == list(source.pages(["p1"])) == []
        assert (source.count(), source.nameless(), source.shared_ids()) == (0, 0, frozenset())

    def test_referral_of_another_person(
        self, database: Database, schema: NamePart | None, ours: db.Database
    ) -> None:
        """A CLA episode leads to another's referral, and a referral to another's CLA episodes."""
        rows = [
            person("a"),
            person("b"),
            make(CinEpisode, cine_referral_id="rb", cine_person_id="b"),
            make(ClaEpisode, clae_person_id="a", clae_cla_id="ca", clae_referral_id="rb"),
            make(ClaPlacement, clap_cla_id="ca", clap_cla_placement_id="x"),
            make(Permanence, perm_cla_id="ca"),
            make(Permanence, perm_cla_id="other", perm_person_id="a"),
            make(CinPlan, cinp_referral_id="rb", cinp_person_id="c"),
            make(CinPlan, cinp_referral_id=None, cinp_person_id="b"),
        ]
        ssd_kit.insert(database, rows)
        first, second = source_of(ours, schema).pages(size=1)
        counts = {
            page.people[0].pers_person_id: Counter(map(type, self._flat(page))) for page in (first, second)
        }
        assert counts["a"] == {Person: 1, CinEpisode: 1, ClaEpisode: 1, ClaPlacement: 1, Permanence: 2}
        assert counts["b"] == {Person: 1, CinEpisode: 1, ClaEpisode: 1, ClaPlacement: 1, CinPlan: 2}

    @staticmethod
    def _flat(page: PeoplePage) -> list[Any]:
        return [row for table in SOURCE_TABLES for row in page.page.rows(table.row)]

    def test_some_people_alone(self, database: Database, schema: NamePart | None, ours: db.Database) -> None:
        """They are told by their trimmed ids, in the letter case given, and come with all their rows."""
        rows = population(12)
        ssd_kit.insert(database, rows)
        source = source_of(ours, schema)
        for size in (1, 100):
            pages = list(source.pages([" p1", "p2", "nobody"], size=size))
            found = Counter(one.pers_person_id for page in pages for one in page.people)
            assert found == Counter({"p1": 1, "p1 ": 1, " p2": 1, "p2": 1})
            for page in pages:
                for one in page.people:
                    assert belonging(rows, str(one.pers_person_id)) <= all_of(page)

    def test_what_was_over_before_the_window_may_stay_unread(
        self, database: Database, schema: NamePart | None, ours: db.Database
    ) -> None:
        """Where the server can compare the dates, two days before are left out, with what hangs on them; an
        end in the window, and none at all, come whatever else there is.
        """
        starts = MIDNIGHT + timedelta(days=2)

        def plan(number: str, end: datetime | None) -> Any:
            return make(CinPlan, cinp_cin_plan_id=number, cinp_person_id="p1", cinp_cin_plan_end_date=end)

        def work(role: str | None) -> Any:
            return make(Involvement, invo_referral_id="open", invo_professional_role_id=role)

        here = [
            person("p1"),
            make(CinEpisode, cine_person_id="p1", cine_referral_id="open"),
            *(plan("open", None), plan("ended", starts), plan("later", starts + timedelta(days=1))),
            *(work("CW"), work(" cW "), work("cw - case worker")),
        ]
        gone = [
            make(CinEpisode, cine_person_id="p1", cine_referral_id="old", cine_close_date=MIDNIGHT),
            make(CinAssessment, cina_referral_id="old", cina_assessment_id="old"),
            plan("old", MIDNIGHT),
            *(work("C W"), work(None)),
        ]
        ssd_kit.insert(database, here + gone)
        (page,) = SsdSource(ours, SourceOptions(schema), since=starts).pages()
        assert all_of(page) == Counter(map(tagged, here + gone if database.kind == "sqlite" else here))
        (page,) = source_of(ours, schema).pages()
        assert all_of(page) == Counter(map(tagged, here + gone))

    def test_dates_that_are_texts_are_all_read(self, database: Database, ours: db.Database) -> None:
        """What is no date must be found and reported, wherever it stands; so nothing is left out."""
        schema = ssd_kit.create(database, types={"clap_cla_placement_start_date": "VARCHAR(40)"})
        rows = [
            person("p1"),
            make(CinEpisode, cine_person_id="p1", cine_referral_id="old", cine_close_date=MIDNIGHT),
        ]
        ssd_kit.insert(database, rows)
        (page,) = SsdSource(ours, SourceOptions(schema), since=MIDNIGHT + timedelta(days=9)).pages()
        assert all_of(page) == Counter(map(tagged, rows))


_ID = st.sampled_from(["a", "A", "a ", "b", "\u00e9", " ", None])


@st.composite
def _rows(draw: st.DrawFn) -> list[Any]:
    rows: list[Any] = [person(one) for one in draw(st.lists(_ID, max_size=6))]
    for table in draw(st.lists(st.sampled_from(JOINED[1:]), max_size=14)):
        joins = {route.column for route in table.routes} | {
            column
            for column in table.columns
            if column.endswith(("_cla_id", "_referral_id", "_assessment_id"))
        }
        rows.append(make(table.row, **{column: draw(_ID) for column in joins}))
    return rows


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One SQLite database for many examples."""
    database = databases.new_sqlite(tmp_path_factory.mktemp("ssd"))
    database.execute("PRAGMA synchronous = OFF")
    ssd_kit.create(database)
    yield database
    database.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_rows())
def test_pages_of_any_size_hold_the_same(lasting: Database, rows: list[Any]) -> None:
    """Wherever a page ends, everybody on it has what they have on one page for all."""
    for table in SOURCE_TABLES:
        lasting.execute(f"DELETE FROM {table.name}")
    ssd_kit.insert(lasting, rows)
    with db.connect(lasting.connection_string) as ours:
        source = source_of(ours, None)
        for size in (1, 2, 3, 50):
            check_pages(source.pages(size=size), rows)


def test_routes_are_as_the_reader_takes_them() -> None:
    """At most one route leads straight to a person, at most one through a parent, and parents start straight.

    So a row that two routes lead to is left out of one of them, and that one is never a parent's first.
    """
    for table in JOINED:
        straight = [isinstance(route, ByPerson) for route in table.routes]
        assert sorted(straight) in ([True], [False], [False, True])
        for route in table.routes:
            if not isinstance(route, ByPerson):
                parent = TABLE_OF[route.parent]
                assert isinstance(parent.routes[0], ByPerson) or len(parent.routes) == 1


class TestPeople:
    """What is asked of all people."""

    def test_ids(self, database: Database, schema: NamePart | None, ours: db.Database) -> None:
        """Shared ids are told trimmed and as they are written; people without an id are counted."""
        ids = ["a", " a", "b", "B", "c", "c", "c\u00a0", "d", None, None, "", "  ", "\t"]
        ssd_kit.insert(database, [person(one) for one in ids])
        source = source_of(ours, schema)
        assert (source.count(), source.nameless()) == (len(ids), 5)
        assert source.shared_ids() == {"a", "c"}
        found = Counter(one.pers_person_id for page in source.pages(size=2) for one in page.people)
        assert found == Counter(ids[:8])

    def test_professionals(self, database: Database, schema: NamePart | None, ours: db.Database) -> None:
        """Each id has its worker ids that are not blank; another column may be named for them."""
        table = f"{schema.text}.ssd_professionals" if schema else "ssd_professionals"
        rows = [("w1", "S2"), ("w1", "S1"), ("w2", None), ("w3", " "), (None, "S4"), ("w5", "S5 ")]
        ssd_kit.insert(database, [Professional(*row) for row in rows])
        assert source_of(ours, schema).professionals() == {"w1": ["S1", "S2"], "w5": ["S5 "]}
        database.execute(f"ALTER TABLE {table} ADD Staff_No VARCHAR(20)")
        database.execute(f"UPDATE {table} SET Staff_No = 'N7' WHERE prof_professional_id = 'w3'")
        other = source_of(ours, schema, worker_id_column=part("STAFF_no"))
        assert other.professionals() == {"w3": ["N7"]}

    def test_cohort_table(self, database: Database, schema: NamePart | None, ours: db.Database) -> None:
        """Its ids are trimmed and taken as text; without one nobody is left out."""
        name = f"{schema.text}.cohort" if schema else "cohort"
        assert source_of(ours, schema).listed_ids() is None
        source = source_of(ours, schema, cohort_table=TableName.parse(name))
        with pytest.raises(DatabaseError, match="no table") as caught:
            source.require()
        assert caught.value.hop == "table"
        database.execute(f"CREATE TABLE {name} (person VARCHAR(20))")
        with pytest.raises(DatabaseError, match="no column person_id") as caught:
            source.require()
        assert caught.value.hop == "column"
        database.execute(f"ALTER TABLE {name} ADD person_id VARCHAR(20)")
        for one in ("'7 '", "'8'", "NULL", "' '"):
            database.execute(f"INSERT INTO {name} (person_id) VALUES ({one})")
        source.require()
        assert source.listed_ids() == frozenset({"7", "8"})


class TestValues:
    """What the columns hold."""

    def test_usual_types(self, database: Database, schema: NamePart | None, ours: db.Database) -> None:
        """Rows come out as they went in."""
        rows = [
            person("p1", pers_dob=DAY, pers_expected_dob=MIDNIGHT, pers_forename="Zo\u00eb\u0301 \U0001f600"),
            make(SdqScore, csdq_person_id="p1", csdq_sdq_score=12, csdq_sdq_completed_date=DAY),
            make(CinEpisode, cine_person_id="p1", cine_referral_id="r", cine_referral_nfa="Y"),
            make(S47Enquiry, s47e_referral_id="r", s47e_s47_outcome_json='{"a": "' + "\u00e9" * 5000 + '"}'),
        ]
        ssd_kit.insert(database, rows)
        (page,) = source_of(ours, schema).pages()
        assert all_of(page) == Counter(map(tagged, rows))
        assert all(type(row) is type(rows[0]) for row in page.people)
        assert page.unreadable == {}

    def test_odd_types(self, database: Database, ours: db.Database) -> None:
        """Numbers as ids, dates without time or as text, decimals and bits become what is promised."""
        types = {
            "pers_person_id": "INT",
            "pers_legacy_id": "DECIMAL(10)",
            "pers_dob": "DATE",
            "pers_expected_dob": "VARCHAR(40)",
            "csdq_sdq_score": "DECIMAL(10,1)",
            "cine_person_id": "INT",
            "clea_person_id": "VARCHAR(48)",
        }
        schema = ssd_kit.create(database, types=types)
        for number in (9, 10, 100):
            ssd_kit.insert(
                database,
                [
                    make(
                        Person,
                        pers_person_id=number,
                        pers_legacy_id=5,
                        pers_dob=date(2024, 5, 6),
                        pers_expected_dob="2024-05-06T07:08:09",
                    ),
                    make(SdqScore, csdq_person_id=str(number), csdq_sdq_score=number),
                    make(CinEpisode, cine_person_id=number, cine_referral_id=f"r{number}"),
                    make(CareLeaver, clea_person_id=str(number)),
                ],
            )
        source = source_of(ours, schema)
        pages = list(source.pages(size=1))
        assert [page.people[0] for page in pages] == [
            person(str(number), pers_legacy_id="5", pers_dob=MIDNIGHT, pers_expected_dob=DAY)
            for number in (9, 10, 100)
        ]
        for page, number in zip(pages, (9, 10, 100), strict=True):
            assert make(SdqScore, csdq_person_id=str(number), csdq_sdq_score=number) in page.page.rows(
                SdqScore
            )
            assert make(CareLeaver, clea_person_id=str(number)) in page.page.rows(CareLeaver)
            assert [row.cine_referral_id for row in page.page.rows(CinEpisode)] == [f"r{number}"]
        assert [one.pers_person_id for page in source.pages(["10"]) for one in page.people] == ["10"]

    def test_ids_of_single_bytes(self, database: Database, ours: db.Database) -> None:
        """Columns of different types are joined, and one of single bytes is followed in its own order."""
        types = dict.fromkeys(("pers_person_id", "cine_referral_id", "clea_person_id"), "VARCHAR(48)")
        schema = ssd_kit.create(database, types={**types, "cina_referral_id": "CHAR(48)"})
        ids = ["a-b", "ab", "a-c", "ac", "a b"]
        rows: list[Any] = [person(one) for one in ids]
        rows += [make(CareLeaver, clea_person_id=one) for one in ids]
        rows += [make(CinEpisode, cine_person_id=one, cine_referral_id="r" + one) for one in ids]
        rows += [make(AssessmentFactors, cinf_assessment_id=one) for one in ids]
        ssd_kit.insert(database, rows)
        for size in (1, 2, 9):
            stored = [row for row in rows if type(row) is not AssessmentFactors]
            check_pages(source_of(ours, schema).pages(size=size), stored)

    def test_unreadable_dates(self, database: Database, ours: db.Database) -> None:
        """Everybody whose rows hold a date that is none is named with the column, and nobody else is."""
        types = dict.fromkeys(("pers_dob", "icpc_icpc_date", "cine_close_date"), "VARCHAR(40)")
        schema = ssd_kit.create(database, types=types)
        rows = [
            person("p1", pers_dob="01/02/2010"),
            *(person(f"p{number}", pers_dob="2010-02-01") for number in range(2, 6)),
            make(CinEpisode, cine_person_id="p2", cine_referral_id="r2"),
            make(S47Enquiry, s47e_s47_enquiry_id="s2", s47e_referral_id="r2"),
            make(InitialCpConference, icpc_s47_enquiry_id="s2", icpc_icpc_date="soon"),
            make(CinEpisode, cine_person_id="p3", cine_referral_id="r3", cine_close_date="2024-02-30"),
            make(ClaEpisode, clae_person_id="p4", clae_referral_id="r3"),
            make(InitialCpConference, icpc_s47_enquiry_id="nobody's", icpc_icpc_date="soon"),
        ]
        ssd_kit.insert(database, rows)
        expected = {
            "p1": "ssd_person.pers_dob",
            "p2": "ssd_initial_cp_conference.icpc_icpc_date",
            "p3": "ssd_cin_episodes.cine_close_date",
            "p4": "ssd_cin_episodes.cine_close_date",
        }
        for size in (1, 9):
            found: dict[str, str] = {}
            for page in source_of(ours, schema).pages(size=size):
                found |= page.unreadable
                assert {one.pers_person_id for one in page.people} >= set(page.unreadable)
                assert all(isinstance(one.pers_dob, datetime | None) for one in page.people)
            assert found == expected


class TestOneMoment:
    """What is read fits together, and nothing is written."""

    def test_changes_between_two_pages_are_not_seen(
        self, database: Database, schema: NamePart | None, ours: db.Database
    ) -> None:
        """What another session does in the meantime belongs to the next night."""
        if database.kind == "sqlite":
            database.execute("PRAGMA journal_mode = WAL")
        table = ours.dialect.table(TableName(schema, NamePart("ssd_cin_episodes", exact=False)))
        ssd_kit.insert(database, [person("a"), person("b"), person("c")])
        ssd_kit.insert(
            database, [make(CinEpisode, cine_person_id=one, cine_referral_id=one) for one in "abc"]
        )
        source = source_of(ours, schema)
        with ours.transaction(consistent=True, write=False):
            pages = source.pages(size=1)
            seen = [next(pages)]
            ssd_kit.insert(database, [person("bb")])
            database.execute(f"DELETE FROM {table}")
            seen += pages
        assert [page.people[0].pers_person_id for page in seen] == ["a", "b", "c"]
        assert [len(page.page.rows(CinEpisode)) for page in seen] == [1, 1, 1]
        (page,) = source.pages()
        assert (len(page.people), page.page.rows(CinEpisode)) == (4, [])

    def test_source_beside_what_is_written(
        self, database: Database, schema: NamePart | None, ours: db.Database
    ) -> None:
        """The transaction that reads may write elsewhere in the same database."""
        database.execute(f"CREATE TABLE {database.table_name} (id INT)")
        ssd_kit.insert(database, [person("a"), person("b")])
        with ours.transaction(consistent=True):
            for _ in source_of(ours, schema).pages(size=1):
                ours.execute(f"INSERT INTO {database.table_name} VALUES (1)")
        assert len(database.query(f"SELECT id FROM {database.table_name}")) == 2

    def test_busy_source_may_be_tried_again(self, postgresql_database: Database) -> None:
        """A table that somebody holds for longer than the limit is a passing fault."""
        ssd_kit.create(postgresql_database)
        ssd_kit.insert(postgresql_database, [person("a")])
        other = postgresql_database.connect()
        with db.connect(postgresql_database.connection_string) as ours:
            source = source_of(ours, None)
            source.require()
            ours.execute("SET lock_timeout = '20ms'")
            other.autocommit = False
            other.execute("LOCK TABLE ssd_address")
            with pytest.raises(TransientDatabaseError), ours.transaction(consistent=True, write=False):
                list(source.pages())
        other.close()

    @pytest.mark.parametrize(
        "fault", [{"do": "error", "number": 1222}, {"do": "error", "number": 3960}, {"do": "drop"}]
    )
    def test_source_that_fails_in_the_middle(
        self, sqlserver_database: Database, fault: dict[str, Any]
    ) -> None:
        """A lock, a snapshot that is too old or a lost connection is a passing fault."""
        schema = ssd_kit.create(sqlserver_database)
        ssd_kit.insert(sqlserver_database, [person("a")])
        with db.connect(sqlserver_database.connection_string) as ours:
            source = source_of(ours, schema)
            source.require()
            sqlserver_database.set_faults({"match": "FROM .*ssd_cla_placement", **fault})
            with pytest.raises(TransientDatabaseError), ours.transaction(consistent=True, write=False):
                list(source.pages())


def test_missing_tables_and_columns_are_named(
    database: Database, schema: NamePart | None, ours: db.Database
) -> None:
    """Nothing is read before everything is there: a missing table is never an empty one."""
    name = ours.dialect.table(TableName(schema, NamePart("ssd_cla_placement", exact=False)))
    database.execute(f"DROP TABLE {name}")
    with pytest.raises(DatabaseError, match=r"ssd_cla_placement.*database") as caught:
        list(source_of(ours, schema).pages())
    assert (caught.value.hop, caught.value.exit_code) == ("table", 3)
    database.execute(f"CREATE TABLE {name} (clap_cla_id VARCHAR(48), clap_cla_placement_id VARCHAR(48))")
    with pytest.raises(
        DatabaseError, match=r"ssd_cla_placement has no column clap_cla_placement_start"
    ) as caught:
        source_of(ours, schema).require()
    assert caught.value.hop == "column"


def test_worker_column_must_exist(schema: NamePart | None, ours: db.Database) -> None:
    """A setting that names no column is told before anything is read."""
    with pytest.raises(DatabaseError, match="ssd_professionals has no column staff_no") as caught:
        source_of(ours, schema, worker_id_column=part("staff_no")).require()
    assert "WORKER_ID_COLUMN" in caught.value.remedy


def test_schema_in_sqlite_is_refused(tmp_path: Path) -> None:
    """There are none, but for the one that every file has."""
    database = databases.new_sqlite(tmp_path)
    ssd_kit.create(database)
    database.close()
    with db.connect(database.connection_string) as ours:
        source_of(ours, part("MAIN")).require()
        with pytest.raises(ConfigError, match="SQLite has no schemas"):
            source_of(ours, part("ssd_development")).require()

"""``explain`` says why a person is in the cohort or not, and what ``stage`` would do with the row."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import ssd_provision
from api_pipeline.cohort_explanation import CohortExplanation
from api_pipeline.errors import ConfigError, ExitCode, InterruptedRun
from api_pipeline.explain import explain
from api_pipeline.explanation import Explanation
from api_pipeline.ssd_cohort import Ground
from api_pipeline.ssd_tables import (
    CareLeaver,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
)
from tests import ssd_kit
from tests.databases import Database
from tests.ssd_kit import make, person
from tests.stage_kit import AS_OF, Source, family
from tests.staging_kit import HookedReceiver, Staging, run, settings_of

at = datetime.fromisoformat
BORN = at("2012-03-04")
IN_WINDOW, LONG_AGO = at("2025-01-10"), at("2011-01-10")


@pytest.fixture
def source(sqlite_database: Database) -> Source:
    """Empty source tables of a fake SSD beside a staging table."""
    return Source(Staging(sqlite_database).create(), sqlite_database).create()


def ask(
    source: Source, person_id: str, receiver: HookedReceiver | None = None, **changes: Any
) -> Explanation:
    """Ask about a person on the day of the test's nights."""
    settings = settings_of(source.staging, receiver, **{**source.settings, **changes})
    return explain(settings, person_id, today=lambda: AS_OF)


def of_source(source: Source, person_id: str, **changes: Any) -> CohortExplanation:
    """Return what is said of the source."""
    found = ask(source, person_id, **changes).cohort
    assert found is not None
    return found


def episode(referral: str, person_id: str, start: datetime | None, end: datetime | None = None) -> Any:
    """Return an episode."""
    return make(
        CinEpisode,
        cine_referral_id=referral,
        cine_person_id=person_id,
        cine_referral_date=start,
        cine_close_date=end,
    )


def placement(placement_id: str, cla_id: str, start: datetime) -> Any:
    """Return a placement that has not ended."""
    return make(
        ClaPlacement,
        clap_cla_placement_id=placement_id,
        clap_cla_id=cla_id,
        clap_cla_placement_start_date=start,
    )


def looked_after(episode_id: str, person_id: str, cla_id: str | None, referral: str | None) -> Any:
    """Return a CLA episode."""
    return make(
        ClaEpisode,
        clae_cla_episode_id=episode_id,
        clae_person_id=person_id,
        clae_cla_id=cla_id,
        clae_referral_id=referral,
    )


# --- In the cohort, or not --------------------------------------------------------------------------------

LEAVER = at("2006-01-01")

GROUNDS: list[tuple[Ground, datetime, list[Any], list[str]]] = [
    (
        Ground.EPISODE,
        BORN,
        [
            episode("R1", "P1", IN_WINDOW, IN_WINDOW),
            episode("R2", "P1", LONG_AGO, LONG_AGO),
            episode("R3", "P1", IN_WINDOW, IN_WINDOW),
        ],
        ["ssd_cin_episodes R1", "ssd_cin_episodes R3"],
    ),
    (
        Ground.WAITING_ASSESSMENT,
        BORN,
        [episode("R1", "P1", None), episode("R2", "P1", LONG_AGO, LONG_AGO)],
        ["ssd_cin_episodes R1"],
    ),
    (
        Ground.CIN_PLAN,
        BORN,
        [
            make(CinPlan, cinp_cin_plan_id=key, cinp_person_id="P1", cinp_cin_plan_start_date=start)
            for key, start in (("N1", IN_WINDOW), ("N2", None), (None, IN_WINDOW))
        ],
        ["ssd_cin_plans (no id)", "ssd_cin_plans N1"],
    ),
    (
        Ground.LOOKED_AFTER,
        BORN,
        [
            looked_after("E1", "P1", "C1", "R7"),
            looked_after("E2", "P1", "C2", "R8"),
            looked_after("E3", "P1", "C3", None),
            episode("R7", "P7", IN_WINDOW, IN_WINDOW),
            episode("R8", "P7", LONG_AGO, LONG_AGO),
            placement("L1", "C2", IN_WINDOW),
            placement("L2", "C3", at("2030-01-01")),
        ],
        ["ssd_cla_episodes E1", "ssd_cla_episodes E2", "ssd_cin_episodes R7", "ssd_cla_placement L1"],
    ),
    (
        Ground.CARE_LEAVER,
        LEAVER,
        [
            episode("R1", "P1", LONG_AGO),
            make(CareLeaver, clea_person_id="P1", clea_care_leaver_latest_contact=IN_WINDOW),
        ],
        ["ssd_care_leavers P1", "ssd_cin_episodes R1"],
    ),
]


@pytest.mark.parametrize(
    ("ground", "born", "rows", "records"), GROUNDS, ids=lambda value: getattr(value, "name", "")
)
def test_each_ground_names_the_records_that_give_it(
    source: Source, ground: Ground, born: datetime, rows: list[Any], records: list[str]
) -> None:
    """Those alone: what lies outside the window, or belongs to nobody, is not named."""
    source.add([person("P1", pers_dob=born), person("P2", pers_dob=born)], rows)
    found = of_source(source, "P1")
    assert (found.known, found.included, found.eligible) == (True, True, True)
    assert {each.ground: list(each.records) for each in found.grounds}[ground.value] == records
    assert f"{ground.value}: {', '.join(records)}" in ask(source, "P1").as_text()
    other = of_source(source, "P2")
    assert (other.included, other.eligible, other.grounds) == (False, True, ())
    assert other.exclusion == "nothing in the window"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pers_dob": None}, "neither a date of birth nor an expected one"),
        ({"pers_dob": at("1990-01-01")}, "26 or older when the window starts"),
        ({"pers_dob": None, "pers_expected_dob": at("2030-01-01")}, "born after the window"),
    ],
)
def test_who_is_not_eligible_is_told_why_and_what_would_have_counted(
    source: Source, values: dict[str, Any], words: str
) -> None:
    """The grounds are shown all the same, and the date of birth is not."""
    source.add(family("P1", **values))
    found = of_source(source, "P1")
    assert (found.included, found.eligible, words in found.exclusion) == (False, False, True)
    assert [each.ground for each in found.grounds] == [Ground.EPISODE.value]
    text = ask(source, "P1").as_text()
    assert ("in the cohort    no: " in text, "eligible         no" in text) == (True, True)
    assert not any(part in text for part in ("1990", "2030"))


def test_cohort_table_decides_and_is_named(source: Source) -> None:
    """Outer blanks aside; without the setting nothing is said of it."""
    source.add(family("P1"), family("P2"))
    source.database.execute("CREATE TABLE stat_return (person_id TEXT)")
    source.database.execute("INSERT INTO stat_return VALUES (' P1 ')")
    assert of_source(source, "P1").listed is None
    inside, outside = (of_source(source, each, COHORT_TABLE="stat_return") for each in ("P1", "P2"))
    assert (inside.included, inside.listed) == (True, True)
    assert (outside.included, outside.listed, outside.exclusion) == (False, False, "not in the cohort table")
    assert (
        "cohort table     does not have the person" in ask(source, "P2", COHORT_TABLE="stat_return").as_text()
    )


def test_window_is_the_one_of_the_settings(source: Source) -> None:
    """A longer one takes in what lies further back."""
    source.add([person("P1", pers_dob=BORN), episode("R1", "P1", LONG_AGO, LONG_AGO)])
    assert of_source(source, "P1").included is False
    found = of_source(source, "P1", WINDOW_MONTHS="240")
    assert (found.included, found.window.start.date()) == (True, date(2005, 4, 1))


# --- What stage would do ----------------------------------------------------------------------------------


def stored_otherwise(source: Source) -> None:
    """Leave a row whose hash is of another definition."""
    source.stage()
    source.staging.update("P1", current_hash=b"x" * 32)


def share_staged(source: Source) -> None:
    """Leave two rows of one person."""
    source.stage()
    source.staging.add("P1 ", "{}")


def rename(source: Source) -> None:
    """Change a name, and take an assessment away."""
    source.update("ssd_person", "pers_forename = 'Siobhan'", "pers_person_id", "P1")
    source.update("ssd_person", "pers_surname = NULL", "pers_person_id", "P1")
    source.database.execute("DELETE FROM ssd_cin_assessments WHERE cina_assessment_id = 'a-P1-0'")


def renamed(source: Source) -> None:
    """Leave a row of a person who has changed since."""
    source.stage()
    rename(source)


def removed(source: Source) -> None:
    """Leave a row of a person who has gone since."""
    source.stage()
    source.remove("P1")


def back_again(source: Source) -> None:
    """Leave a deleted row of a person who is there."""
    source.stage()
    source.staging.update("P1", row_state="deleted")


NIGHTS: list[tuple[str, Callable[[Source], Any], str]] = [
    ("new", lambda _: None, "it adds a row for the person"),
    ("unchanged", lambda source: source.stage(), "nothing, because the payload is the same"),
    ("hash_only", stored_otherwise, "it replaces the hash alone"),
    ("updated", renamed, "it gives the row a new payload"),
    ("deleted", removed, "it marks the row as deleted"),
    (
        "returned",
        back_again,
        "it brings the row back",
    ),
    ("left", lambda source: source.add([person(" P1")]), "two people of the source share the person_id"),
    ("left", share_staged, "several rows of the staging table share the person_id"),
    (
        "left",
        lambda source: source.update("ssd_person", "pers_dob = 'spring'", "pers_person_id", "P1"),
        "a date of the source cannot be read",
    ),
    (
        "nothing",
        lambda source: source.update("ssd_cin_episodes", "cine_person_id = 'P9'", "cine_person_id", "P1"),
        "the person is not in the cohort and there is no row to delete",
    ),
]


@pytest.mark.parametrize(("outcome", "prepare", "words"), NIGHTS)
def test_what_stage_would_do_is_what_it_then_does(
    source: Source, outcome: str, prepare: Callable[[Source], Any], words: str
) -> None:
    """Each outcome in words; a night after it counts just that."""
    source.add(family("P1", assessments=2))
    prepare(source)
    before = source.staging.rows()
    found = of_source(source, "P1")
    assert (found.tonight, words in found.action) == (outcome, True)
    assert ("not judged" in found.exclusion) is ("source" in words)
    assert source.staging.rows() == before
    changes = source.stage(persons=("P1",), allow_deletions=True).changes
    counts = {
        name: getattr(changes, name)
        for name in ("new", "updated", "returned", "unchanged", "hash_only", "deleted")
    }
    assert {name for name, count in counts.items() if count} == {outcome} - {"left", "nothing"}
    assert bool(changes.left) is (outcome == "left")


def test_everybody_is_judged_as_stage_judges_them(source: Source) -> None:
    """Of a made-up population with its awkward cases, those and only those in the cohort get a row."""
    settings = settings_of(source.staging, None)
    ssd_provision.fill_ssd(settings, 25, 7)
    source.stage()
    staged = {row["person_id"].strip() for row in source.staging.rows()}
    everybody = [str(row[0]) for row in source.database.query("SELECT pers_person_id FROM ssd_person")]
    found = {each.strip(): of_source(source, each) for each in everybody}
    assert {each for each, said in found.items() if said.included} == staged
    assert all(bool(said.grounds) for said in found.values() if said.included)
    assert {said.tonight for said in found.values()} <= {"unchanged", "nothing"}


def test_stop_is_heard(source: Source) -> None:
    """Ctrl+C ends the looking, too."""
    source.add(family("P1"))
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedRun):
        explain(settings_of(source.staging, None), "P1", stop=stop)


def test_unreadable_date_is_named_by_its_column(source: Source) -> None:
    """Whoever is left as they are is not judged, and the value is not shown."""
    source.add(family("P1"))
    source.update("ssd_cin_episodes", "cine_close_date = 'spring'", "cine_person_id", "P1")
    lines = ask(source, "P1").as_text()
    assert (
        "no: not judged, because a date of the source cannot be read (ssd_cin_episodes.cine_close_date)"
        in lines
    )
    assert "eligible" not in lines
    assert "spring" not in lines


def test_long_lists_are_cut_in_the_text_alone(source: Source) -> None:
    """The first few records, and how many more; JSON has all of them."""
    source.add(family("P1"), [episode(f"R{number}", "P1", IN_WINDOW) for number in range(9)])
    found = ask(source, "P1")
    assert "overlaps the window: ssd_cin_episodes R0, " in found.as_text()
    assert " and 5 more" in found.as_text()
    assert len(found.as_json()["source"]["grounds"][0]["records"]) == 10


def test_paths_that_differ_are_named_and_no_values(source: Source) -> None:
    """What is new, what is another, what is no longer known, and the record that is gone."""
    source.add(family("P1", assessments=2))
    source.stage()
    rename(source)
    found = ask(source, "P1")
    assert found.cohort is not None
    assert found.cohort.as_json()["paths"] == {
        "added": ["$.child_details.first_name"],
        "changed": [],
        "cleared": ["$.child_details.surname"],
        "gone": ["$.social_care_episodes[0].child_and_family_assessments[-]"],
    }
    text = found.as_text()
    assert "    cleared        $.child_details.surname" in text
    assert any("If stage ran now: it gives the row a new payload" in note for note in found.notes)
    for shown in (text, json.dumps(found.as_json())):
        assert shown.isascii()
        for private in ("Siobhan", "Beeblebrox", "2012", "a-P1-0"):
            assert private not in shown


def test_values_by_rule_and_faults_of_the_payload_to_come(source: Source) -> None:
    """What is left out of it, and what a run would find in it, before it is staged."""
    source.add(family("P1", pers_sex="Siobhan"), [episode("R" * 37, "P1", IN_WINDOW)])
    found = of_source(source, "P1")
    assert found.rules == {"sex other than M, F and U sent as U": 1}
    assert found.faults == ("$.social_care_episodes[0].social_care_episode_id: max_length",)
    lines = ask(source, "P1").as_text()
    assert "values           sex other than M, F and U sent as U: 1" in lines
    assert "fault            $.social_care_episodes" in lines


def test_unsafe_combination_is_told_as_stage_tells_it(sqlite_database: Database) -> None:
    """Real people and a table of fake ones: the judgement stands, and what stage does is refuse."""
    real = Source(Staging(sqlite_database).create(), sqlite_database).create(fake=False)
    real.add(family("P1"))
    with pytest.raises(ConfigError) as caught:
        real.stage()
    found = of_source(real, "P1")
    assert (found.included, found.tonight) == (True, "refused")
    assert caught.value.message in found.action


# --- The whole answer -------------------------------------------------------------------------------------


def test_person_of_the_source_is_known_before_the_first_night(source: Source) -> None:
    """Without a row, and in the cohort or not; one that nobody has is unknown still."""
    source.add(family("P1"), [person("P2", pers_dob=BORN)])
    one, two, three = (ask(source, each) for each in ("P1", "P2", "P3"))
    assert one.answer == (
        "Person P1 has no row in staging_anon, so no run sends anything. The source has the person in the "
        "cohort; if stage ran now: it adds a row for the person."
    )
    assert two.answer == (
        "Person P2 has no row in staging_anon, so no run sends anything. The source knows the person, who is "
        "not in the cohort: nothing in the window."
    )
    assert (one.exit_code, two.exit_code, three.exit_code) == (ExitCode.OK, ExitCode.OK, ExitCode.FAILED)
    assert three.answer == (
        "Person P3 is not known: staging_anon has no such row, nor has the source such a person."
    )
    assert three.as_text() == three.answer


def test_person_who_left_the_source(source: Source) -> None:
    """The row is there and the source has nobody: the next stage marks it as deleted."""
    source.add(family("P1"), family("P2"))
    source.stage()
    source.remove("P1")
    found = ask(source, "P1")
    assert "is due, because the status is pending" in found.answer
    assert "in the cohort    no: ssd_person has no such person" in found.as_text()
    assert found.as_json()["source"]["stage"] == "deleted"


def test_outer_blanks_of_an_id_do_not_matter(source: Source) -> None:
    """The row is found as ``stage`` finds it, while the person is there and afterwards."""
    source.add(family(" P1"))
    source.stage()
    source.update("ssd_person", "pers_forename = 'Siobhan'", "pers_person_id", " P1")
    found = of_source(source, "P1")
    assert found.differences is not None
    assert found.differences.added == ("$.child_details.first_name",)
    source.remove(" P1")
    assert of_source(source, "P1").tonight == "deleted"


def test_what_is_said_of_the_next_run_is_about_the_row(source: Source, hooked: HookedReceiver) -> None:
    """A person whom DfE has and whose source has changed is not due, and the note says what comes."""
    source.add(family("P1"))
    source.stage()
    run(source.staging, hooked)
    rename(source)
    found = ask(source, "P1", hooked)
    assert "is not due" in found.answer
    assert any("the rows as they are" in note for note in found.notes)


def test_same_answer_from_each_database(database: Database) -> None:
    """Before the first night and after a change."""
    source = Source(Staging(database).create(), database).create()
    source.add(family("P1", assessments=2))
    before = of_source(source, "P1")
    assert (before.tonight, before.included) == ("new", True)
    assert [list(each.records) for each in before.grounds] == [["ssd_cin_episodes r-P1"]]
    source.stage()
    source.update("ssd_person", "pers_forename = 'Siobhan'", "pers_person_id", "P1")
    after = of_source(source, "P1")
    assert after.tonight == "updated"
    assert after.differences is not None
    assert after.differences.added == ("$.child_details.first_name",)


# --- Without a source -------------------------------------------------------------------------------------


def test_without_a_source_nothing_is_said_of_one(sqlite_database: Database) -> None:
    """As before there was ``stage``."""
    staging = Staging(sqlite_database).create()
    staging.add("P1", '{"la_child_id": "P1"}')
    found = explain(settings_of(staging, None), "P1")
    assert (found.cohort, found.as_json()["source"]) == (None, None)
    assert "source" not in found.as_text()


def test_source_that_lacks_something_is_a_note(source: Source) -> None:
    """The rest of the answer is there; the code is 1 where a setting speaks of the source."""
    source.add(family("P1"))
    source.stage()
    source.database.execute("DROP TABLE ssd_permanence")
    found = ask(source, "P1")
    assert "is due" in found.answer
    assert any("The source could not be looked at: " in note for note in found.notes)
    assert "ssd_permanence" in found.as_json()["source"]["problem"]
    assert found.exit_code == ExitCode.OK
    assert ask(source, "P1", SSD_SCHEMA="main").exit_code == ExitCode.FAILED


def test_source_that_cannot_be_opened_ends_with_the_code_of_the_database(
    source: Source, tmp_path: Path
) -> None:
    """Where a setting says that there is one."""
    source.add(family("P1"))
    source.stage()
    found = ask(source, "P1", SSD_CONNECTION_STRING=f"sqlite:///{tmp_path / 'none.db'}")
    assert (len(found.rows), found.exit_code) == (1, ExitCode.DATABASE)
    empty = Database("sqlite", f"sqlite:///{tmp_path / 'empty.db'}", "unused")
    empty.execute("CREATE TABLE t (a INT)")
    empty.close()
    meant = ask(source, "P1", SSD_CONNECTION_STRING=empty.connection_string)
    assert "ssd_person" in meant.as_json()["source"]["problem"]


def test_source_in_another_database(sqlite_database: Database, tmp_path: Path) -> None:
    """It is read there, and the rows are compared here."""
    other = Database("sqlite", f"sqlite:///{tmp_path / 'ssd.db'}", "unused_anon")
    source = Source(Staging(sqlite_database).create(), other).create()
    source.add(family("P1"))
    assert of_source(source, "P1").tonight == "new"
    source.stage()
    assert of_source(source, " P1").tonight == "unchanged"
    other.close()


def test_schema_of_the_tests_is_the_default_one(source: Source) -> None:
    """SSD_SCHEMA in SQLite is refused as elsewhere."""
    assert ssd_kit.schema_of(source.database) is None
    with pytest.raises(ConfigError):
        ask(source, "P1", SSD_SCHEMA="ssd_development")

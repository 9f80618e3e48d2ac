"""Promises of ssd_cohort.py: who is in the cohort, by which ground, and why somebody is not."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime
from typing import Any

import pytest

from api_pipeline.ssd_cohort import Exclusion, Ground, judge
from api_pipeline.ssd_tables import (
    CareLeaver,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    CpPlan,
    Disability,
    Person,
    SourcePage,
)
from api_pipeline.ssd_window import Window

D = datetime
WINDOW = Window.of(date(2025, 11, 20), 24)
CHILDHOOD = D(2012, 1, 1)
START, END = WINDOW.start, WINDOW.end  # 1 April 2023, 21 November 2025
BEFORE, WITHIN, AFTER = D(2023, 3, 31, 23, 59), D(2024, 6, 1), D(2025, 11, 21, 0, 1)


def person(born: datetime | None = CHILDHOOD, expected: datetime | None = None) -> Person:
    """Return the person P1."""
    return Person("P1", None, None, None, None, None, None, None, born, expected)


def page(*rows: Any) -> SourcePage:
    """Return a page that holds ``rows``."""
    tables: dict[type[Any], list[Any]] = defaultdict(list)
    for row in rows:
        tables[type(row)].append(row)
    return SourcePage(tables)


def episode(
    start: datetime | None,
    end: datetime | None = None,
    *,
    referral: str | None = "R1",
    of: str = "P1",
) -> CinEpisode:
    """Return an episode."""
    return CinEpisode(referral, of, start, None, None, end, None)


def grounds(*rows: Any, born: datetime | None = CHILDHOOD) -> set[Ground]:
    """Return the grounds that hold for P1."""
    return set(judge(person(born), page(*rows), WINDOW).grounds)


# --- Eligible --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("born", "expected", "exclusion"),
    [
        (D(2012, 1, 1), None, None),
        (END, None, None),
        (AFTER, None, Exclusion.NOT_BORN_IN_WINDOW),
        (D(1997, 4, 1), None, Exclusion.TOO_OLD),  # 26 on the very first day
        (D(1997, 4, 1, 0, 1), None, None),
        (D(1997, 4, 2), None, None),
        (None, None, Exclusion.NO_BIRTH_DATE),
        (None, START, None),
        (None, END, None),
        (None, BEFORE, Exclusion.NOT_BORN_IN_WINDOW),
        (None, AFTER, Exclusion.NOT_BORN_IN_WINDOW),
        (D(1990, 1, 1), WITHIN, Exclusion.TOO_OLD),
        (AFTER, WITHIN, Exclusion.NOT_BORN_IN_WINDOW),
        (D(9999, 12, 31), None, Exclusion.NOT_BORN_IN_WINDOW),
    ],
)
def test_eligible_is_who_is_under_26_when_the_window_starts_or_expected_in_it(
    born: datetime | None, expected: datetime | None, exclusion: Exclusion | None
) -> None:
    """The expected date of birth counts only where the date of birth is unknown."""
    verdict = judge(person(born, expected), page(episode(WITHIN)), WINDOW)
    assert verdict.exclusion is exclusion
    assert verdict.included is (exclusion is None)


def test_born_on_29_february_turns_26_on_the_28th() -> None:
    """In a year without one the 26th birthday is a day earlier."""
    born = person(D(1996, 2, 29))
    rows = page(episode(D(2020, 1, 1)))
    # The windows of these runs start on 1 April, so the birthday is looked at from a made-up start.
    early = Window(date(2024, 1, 1), D(2022, 2, 27), D(2024, 1, 2))
    late = Window(date(2024, 1, 1), D(2022, 2, 28), D(2024, 1, 2))
    assert judge(born, rows, early).included
    assert judge(born, rows, late).exclusion is Exclusion.TOO_OLD


def test_grounds_are_told_also_of_those_who_are_out() -> None:
    """So that explain can say what would have counted."""
    verdict = judge(person(D(1980, 1, 1)), page(episode(WITHIN)), WINDOW)
    assert verdict.exclusion is Exclusion.TOO_OLD
    assert Ground.EPISODE in verdict.grounds


def test_without_a_ground_nobody_is_in() -> None:
    """Neither a child protection plan nor a disability is one."""
    rows = page(CpPlan("C1", "R1", "P1", WITHIN, None), Disability("P1", "MOB"))
    assert judge(person(), rows, WINDOW).exclusion is Exclusion.NO_GROUND


def test_cohort_table_narrows_the_cohort_and_never_widens_it() -> None:
    """Who is not listed is out; who is listed needs a ground all the same."""
    inside = page(episode(WITHIN))
    assert judge(person(), inside, WINDOW, listed=False).exclusion is Exclusion.NOT_IN_COHORT_TABLE
    assert judge(person(), inside, WINDOW, listed=True).included
    assert judge(person(), page(), WINDOW, listed=False).exclusion is Exclusion.NO_GROUND


@pytest.mark.parametrize("key", [None, "P2", "P1 "])
def test_rows_belong_to_the_id_as_it_stands(key: str | None) -> None:
    """Ids are not trimmed for the join, and NULL joins nothing."""
    somebody = person()._replace(pers_person_id=key)
    assert judge(somebody, page(episode(WITHIN), episode(WITHIN, of="P3")), WINDOW).grounds == ()


# --- The grounds -----------------------------------------------------------------------------------------

STARTED = CinAssessment("A1", "P1", "R1", D(2010, 1, 1), None)


@pytest.mark.parametrize(
    ("start", "end", "holds"),
    [
        (WITHIN, None, True),
        (BEFORE, START, True),
        (BEFORE, BEFORE, False),
        (END, None, True),
        (AFTER, None, False),
        (None, None, False),
    ],
)
def test_episode_counts_if_it_overlaps(start: datetime | None, end: datetime | None, holds: bool) -> None:
    """With an assessment it counts by its dates alone."""
    assert grounds(episode(start, end), STARTED) == ({Ground.EPISODE} if holds else set())


def test_open_episode_waits_until_an_assessment_has_started() -> None:
    """Whenever it was referred; an assessment without a start does not end the waiting."""
    waiting = {Ground.WAITING_ASSESSMENT}
    assert grounds(episode(None)) == waiting
    assert grounds(episode(AFTER)) == waiting
    assert grounds(episode(None), STARTED._replace(cina_assessment_start_date=None)) == waiting
    assert grounds(episode(None), STARTED._replace(cina_referral_id="R2")) == waiting
    assert grounds(episode(None), STARTED._replace(cina_person_id="P2")) == set()
    assert grounds(episode(BEFORE, BEFORE)) == set()


def test_episode_without_a_referral_id_has_no_assessment() -> None:
    """Not even one whose referral id is NULL too."""
    stray = STARTED._replace(cina_referral_id=None)
    assert grounds(episode(None, referral=None), stray) == {Ground.WAITING_ASSESSMENT}


def test_cin_plan_counts_by_its_person() -> None:
    """Whatever referral it names."""
    plan = CinPlan("C1", "R9", "P1", BEFORE, None)
    assert grounds(plan) == {Ground.CIN_PLAN}
    assert grounds(plan._replace(cinp_person_id="P2")) == set()
    assert grounds(plan._replace(cinp_cin_plan_end_date=BEFORE)) == set()


def test_looked_after_counts_by_its_referral_or_a_placement() -> None:
    """The referral may be another person's; the placement counts by the CLA id alone."""
    cla = ClaEpisode("E1", "P1", "C1", "R1", None, None)
    referral = episode(WITHIN, WITHIN, of="P2")
    placement = ClaPlacement("X1", "C1", BEFORE, None, None, None, None)
    assert grounds(cla) == set()
    assert grounds(cla, referral) == {Ground.LOOKED_AFTER}
    assert grounds(cla, placement) == {Ground.LOOKED_AFTER}
    assert grounds(cla, episode(BEFORE, BEFORE, of="P2")) == set()
    assert grounds(cla, placement._replace(clap_cla_placement_end_date=BEFORE)) == set()
    assert grounds(cla._replace(clae_person_id="P2"), referral, placement) == set()
    stray = cla._replace(clae_cla_id=None, clae_referral_id=None)
    assert (
        grounds(stray, referral._replace(cine_referral_id=None), placement._replace(clap_cla_id=None))
        == set()
    )


OPEN = episode(D(2015, 1, 1))


@pytest.mark.parametrize(
    ("born", "contact", "opened", "holds"),
    [
        (D(2005, 1, 1), WITHIN, OPEN, True),
        (D(2009, 11, 20), WITHIN, OPEN, True),
        (D(2009, 11, 21), WITHIN, OPEN, False),  # 16 only when the window ends
        (D(1997, 4, 1), WITHIN, OPEN, True),  # 26 on the first day: too old for the cohort all the same
        (D(1997, 3, 31), WITHIN, OPEN, False),
        (None, WITHIN, OPEN, False),
        (D(9999, 1, 1), WITHIN, OPEN, False),
        (D(2005, 1, 1), START, OPEN, True),
        (D(2005, 1, 1), BEFORE, OPEN, False),
        (D(2005, 1, 1), END, OPEN, False),  # the one place where the end does not count
        (D(2005, 1, 1), None, OPEN, False),
        (D(2005, 1, 1), WITHIN, episode(END), True),
        (D(2005, 1, 1), WITHIN, episode(AFTER), False),
        (D(2005, 1, 1), WITHIN, episode(None), False),
        (D(2005, 1, 1), WITHIN, episode(WITHIN, WITHIN), False),
    ],
)
def test_care_leaver_is_16_to_25_in_touch_and_has_an_open_episode(
    born: datetime | None, contact: datetime | None, opened: CinEpisode, holds: bool
) -> None:
    """All four conditions have to hold."""
    found = grounds(opened, CareLeaver("P1", contact, None, None), born=born)
    assert (Ground.CARE_LEAVER in found) is holds
    if holds:
        assert Ground.EPISODE in found  # it never decides alone

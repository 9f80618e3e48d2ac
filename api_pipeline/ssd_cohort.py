"""Who is in the cohort, and by which grounds.

Carries out ssd, section 2. Pure. A ground is looked for whether or not the person is eligible, so that
``explain`` can show what would have counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from api_pipeline.ssd_tables import (
    CareLeaver,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    Person,
    SourcePage,
)
from api_pipeline.ssd_window import Window, birthday

_COHORT_ENDS_AT = 26
_CARE_LEAVER_FROM = 16


class Ground(Enum):
    """Why an eligible person is in the cohort; the value is what the summary says."""

    EPISODE = "an episode overlaps the window"
    WAITING_ASSESSMENT = "an open episode waits for an assessment"
    CIN_PLAN = "a child in need plan overlaps the window"
    LOOKED_AFTER = "looked after in the window"
    CARE_LEAVER = "care leaver with a contact in the window"


class Exclusion(Enum):
    """Why a person is not in the cohort; the value is what the summary says."""

    NO_BIRTH_DATE = "neither a date of birth nor an expected one"
    NOT_BORN_IN_WINDOW = "born after the window, or expected outside it"
    TOO_OLD = "26 or older when the window starts"
    NO_GROUND = "nothing in the window"
    NOT_IN_COHORT_TABLE = "not in the cohort table"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All grounds that hold, and what keeps the person out all the same, if anything does."""

    grounds: tuple[Ground, ...]
    exclusion: Exclusion | None

    @property
    def included(self) -> bool:
        """Whether the person is in the cohort."""
        return self.exclusion is None


def judge(person: Person, page: SourcePage, window: Window, listed: bool = True) -> Verdict:
    """Say whether a person is in the cohort, and why.

    Args:
        person: the row of ``ssd_person``.
        page: at least all rows that belong to the person.
        window: what the run looks at.
        listed: whether the person is in the cohort table, where one is set.
    """
    grounds = tuple(_grounds(person, page, window))
    exclusion = _ineligible(person, window)
    if exclusion is None and not grounds:
        exclusion = Exclusion.NO_GROUND
    if exclusion is None and not listed:
        exclusion = Exclusion.NOT_IN_COHORT_TABLE
    return Verdict(grounds, exclusion)


def _ineligible(person: Person, window: Window) -> Exclusion | None:
    born, expected = person.pers_dob, person.pers_expected_dob
    if born is None:
        if expected is None:
            return Exclusion.NO_BIRTH_DATE
        return None if window.holds(expected) else Exclusion.NOT_BORN_IN_WINDOW
    if born > window.end:
        return Exclusion.NOT_BORN_IN_WINDOW
    return None if birthday(born, _COHORT_ENDS_AT) > window.start else Exclusion.TOO_OLD


def _grounds(person: Person, page: SourcePage, window: Window) -> Iterator[Ground]:
    key = person.pers_person_id
    if key is None:
        return
    overlaps = window.overlaps
    episodes = page.by(CinEpisode, "cine_person_id").get(key, ())
    if any(overlaps(row.cine_referral_date, row.cine_close_date) for row in episodes):
        yield Ground.EPISODE
    if any(row.cine_close_date is None and not _assessed(row, page) for row in episodes):
        yield Ground.WAITING_ASSESSMENT
    plans = page.by(CinPlan, "cinp_person_id").get(key, ())
    if any(overlaps(row.cinp_cin_plan_start_date, row.cinp_cin_plan_end_date) for row in plans):
        yield Ground.CIN_PLAN
    looked_after = page.by(ClaEpisode, "clae_person_id").get(key, ())
    if any(_overlaps_looked_after(row, page, window) for row in looked_after):
        yield Ground.LOOKED_AFTER
    contacts = page.by(CareLeaver, "clea_person_id").get(key, ())
    if contacts and _is_care_leaver(person, contacts, episodes, window):
        yield Ground.CARE_LEAVER


def _assessed(episode: CinEpisode, page: SourcePage) -> bool:
    """Whether an assessment of the referral has started, whoever it names."""
    if episode.cine_referral_id is None:
        return False
    assessments = page.by(CinAssessment, "cina_referral_id").get(episode.cine_referral_id, ())
    return any(row.cina_assessment_start_date is not None for row in assessments)


def _overlaps_looked_after(episode: ClaEpisode, page: SourcePage, window: Window) -> bool:
    """Whether the referral of a CLA episode, whoever it names, or a placement of its CLA id overlaps."""
    if episode.clae_referral_id is not None:
        referrals = page.by(CinEpisode, "cine_referral_id").get(episode.clae_referral_id, ())
        if any(window.overlaps(row.cine_referral_date, row.cine_close_date) for row in referrals):
            return True
    if episode.clae_cla_id is None:
        return False
    placements = page.by(ClaPlacement, "clap_cla_id").get(episode.clae_cla_id, ())
    return any(
        window.overlaps(row.clap_cla_placement_start_date, row.clap_cla_placement_end_date)
        for row in placements
    )


def _is_care_leaver(person: Person, contacts: Any, episodes: Any, window: Window) -> bool:
    born = person.pers_dob
    if born is None or born > window.end:
        return False
    return (
        birthday(born, _CARE_LEAVER_FROM) < window.end
        and birthday(born, _COHORT_ENDS_AT) >= window.start
        and any(_in_touch(row.clea_care_leaver_latest_contact, window) for row in contacts)
        and any(
            row.cine_close_date is None
            and row.cine_referral_date is not None
            and row.cine_referral_date <= window.end
            for row in episodes
        )
    )


def _in_touch(contact: Any, window: Window) -> bool:
    return contact is not None and window.start <= contact < window.end

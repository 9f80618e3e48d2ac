"""Who is in the cohort, and by which grounds.

Carries out ssd, section 2. Pure. A ground is looked for whether or not the person is eligible, so that
``explain`` can show what would have counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

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


# Id -> the rows that name it.
_Groups = dict[str, list[Any]]


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


class Verdict(NamedTuple):
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
    return Judge(page, window).verdict(person, listed)


class Judge:
    """Says what :func:`judge` says of many people of one page, whose groups it looks up once."""

    def __init__(self, page: SourcePage, window: Window) -> None:
        self._window = window
        self._episodes: _Groups = page.by(CinEpisode, "cine_person_id")
        self._referrals: _Groups = page.by(CinEpisode, "cine_referral_id")
        self._assessments: _Groups = page.by(CinAssessment, "cina_referral_id")
        self._plans: _Groups = page.by(CinPlan, "cinp_person_id")
        self._looked_after: _Groups = page.by(ClaEpisode, "clae_person_id")
        self._placements: _Groups = page.by(ClaPlacement, "clap_cla_id")
        self._care_leavers: _Groups = page.by(CareLeaver, "clea_person_id")

    def verdict(self, person: Person, listed: bool = True) -> Verdict:
        """Say whether a person is in the cohort, and why; ``listed`` as for :func:`judge`."""
        key = person.pers_person_id
        grounds = () if key is None else self._grounds(person, key)
        exclusion = _ineligible(person, self._window)
        if exclusion is None and not grounds:
            exclusion = Exclusion.NO_GROUND
        if exclusion is None and not listed:
            exclusion = Exclusion.NOT_IN_COHORT_TABLE
        return Verdict(grounds, exclusion)

    def _grounds(self, person: Person, key: str) -> tuple[Ground, ...]:
        grounds: list[Ground] = []
        if episodes := self._episodes.get(key, ()):
            if self._any_overlaps(episodes):
                grounds.append(Ground.EPISODE)
            if any(map(self._waits, episodes)):
                grounds.append(Ground.WAITING_ASSESSMENT)
        overlaps = self._window.overlaps
        for plan in self._plans.get(key, ()):
            if overlaps(plan.cinp_cin_plan_start_date, plan.cinp_cin_plan_end_date):
                grounds.append(Ground.CIN_PLAN)
                break
        if any(map(self._is_looked_after, self._looked_after.get(key, ()))):
            grounds.append(Ground.LOOKED_AFTER)
        contacts = self._care_leavers.get(key)
        if contacts and _is_care_leaver(person, contacts, episodes, self._window):
            grounds.append(Ground.CARE_LEAVER)
        return tuple(grounds)

    def _any_overlaps(self, episodes: Iterable[CinEpisode]) -> bool:
        overlaps = self._window.overlaps
        for row in episodes:  # noqa: SIM110 -- quicker than any(): for most people the first decides
            if overlaps(row.cine_referral_date, row.cine_close_date):
                return True
        return False

    def _waits(self, episode: CinEpisode) -> bool:
        """Whether an episode is open, and no assessment of its referral has started, whoever it names."""
        if episode.cine_close_date is not None:
            return False
        referral = episode.cine_referral_id
        if referral is None:
            return True
        return all(row.cina_assessment_start_date is None for row in self._assessments.get(referral, ()))

    def _is_looked_after(self, episode: ClaEpisode) -> bool:
        """Whether the referral of a CLA episode, whoever it names, or a placement of its CLA id overlaps."""
        referral, cla_id = episode.clae_referral_id, episode.clae_cla_id
        if referral is not None and self._any_overlaps(self._referrals.get(referral, ())):
            return True
        if cla_id is None:
            return False
        return any(
            self._window.overlaps(row.clap_cla_placement_start_date, row.clap_cla_placement_end_date)
            for row in self._placements.get(cla_id, ())
        )


def _ineligible(person: Person, window: Window) -> Exclusion | None:
    born, expected = person.pers_dob, person.pers_expected_dob
    if born is None:
        if expected is None:
            return Exclusion.NO_BIRTH_DATE
        return None if window.holds(expected) else Exclusion.NOT_BORN_IN_WINDOW
    if born > window.end:
        return Exclusion.NOT_BORN_IN_WINDOW
    if born.year + _COHORT_ENDS_AT > window.start.year:  # quicker: for most people the year decides
        return None
    return None if birthday(born, _COHORT_ENDS_AT) > window.start else Exclusion.TOO_OLD


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

"""The payload of one person, built from the rows of the SSD.

Carries out ssd, section 3: which rows go where, in which order, and what happens to equal ids. Which column
becomes which field stands in ``ssd_mapping``. Pure, and quick: 30,000 people are built every night.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from api_pipeline.payload import compact
from api_pipeline.ssd_coercions import Scope, latest, latest_conference, uasc_test, united
from api_pipeline.ssd_mapping import (
    ADOPTION,
    ASSESSMENT,
    CARE_LEAVER,
    CARE_WORKER,
    CHILD,
    CHILD_DETAILS,
    CIN_PLAN,
    CP_PLAN,
    EPISODE,
    OF_THE_REFERRAL,
    PLACEMENT,
    RECORD_MAPS,
    S47,
    SDQ_ASSESSMENT,
    CareWorker,
)
from api_pipeline.ssd_records import Maker, Record, RecordMap, maker
from api_pipeline.ssd_tables import (
    SOCIAL_WORKER,
    CareLeaver,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    CpPlan,
    InitialCpConference,
    Involvement,
    Permanence,
    Person,
    S47Enquiry,
    SdqScore,
    SourcePage,
)
from api_pipeline.ssd_window import Window

# What the choices of the mapping look up by their joins; OF_THE_REFERRAL changes with every referral.
_JOINS = {
    (field.join.row, field.join.column)
    for record in RECORD_MAPS
    for field in record.fields
    if field.join is not None and field.join != OF_THE_REFERRAL
}

_COMPARABLE = frozenset({str, int, bool})
_NO_START = (False, datetime.min)  # noqa: DTZ901 -- never seen: only sorts

# A record with the moment by which it is sorted.
_Dated = tuple[datetime | None, Record]


def text_of(payload: Mapping[str, Any]) -> str:
    """Return a payload as compact JSON, keys in the order in which they are, no character escaped in vain."""
    return compact(payload)


class PayloadBuilder:
    """Builds payloads; ``tally`` counts, by rule, what was changed or left out in all of them.

    Args:
        window: what the run looks at.
        professionals: id of a professional, as it stands -> their worker ids, one for each row.
        uasc_pattern: the setting UASC_PATTERN, a regular expression, or None.
    """

    def __init__(
        self, window: Window, professionals: Mapping[str, list[str]], uasc_pattern: str | None
    ) -> None:
        self.tally: Counter[str] = Counter()
        self._window = window
        self._census_dates = window.census_dates
        self._professionals = professionals
        self._scope = scope = Scope(window, uasc_test(uasc_pattern), self.tally)
        self._child, self._details = maker(CHILD, scope), maker(CHILD_DETAILS, scope)
        self._sdq_assessment, self._episode = maker(SDQ_ASSESSMENT, scope), maker(EPISODE, scope)
        self._assessment, self._s47 = maker(ASSESSMENT, scope), maker(S47, scope)
        self._cin_plan, self._cp_plan = maker(CIN_PLAN, scope), maker(CP_PLAN, scope)
        self._placement, self._care_worker = maker(PLACEMENT, scope), maker(CARE_WORKER, scope)
        self._adoption, self._care_leaver = maker(ADOPTION, scope), maker(CARE_LEAVER, scope)
        self._turn_to(SourcePage({}))

    def build(self, person: Person, page: SourcePage) -> Record:
        """Return the payload of a person of ``page``, keys in the order of ssd, section 3.

        Whether the person is in the cohort is not asked here. Never raises for data. Payloads share objects,
        with each other too: treat them as read-only.
        """
        if page is not self._page:
            self._turn_to(page)
        payload = self._child.make(person)
        payload["child_details"] = self._details.make(person)
        key = person.pers_person_id
        if key is None:
            return payload
        if rows := self._scores.get(key):
            holds = self._window.holds
            rows = [row for row in rows if holds(row.csdq_sdq_completed_date)]
            scores = self._listed(self._sdq_assessment, rows, newest_first=True)
            if scores:
                payload["health_and_wellbeing"] = {"sdq_assessments": scores, "purge": False}
        episodes = self._episodes_of(key)
        if episodes:
            payload["social_care_episodes"] = episodes
        return payload

    def _turn_to(self, page: SourcePage) -> None:
        """Look up the groups of a page once instead of once for every person."""
        self._page = page
        self._scope.groups = {column: page.by(row, column) for row, column in _JOINS}
        self._scores: dict[str, list[SdqScore]] = page.by(SdqScore, "csdq_person_id")
        self._episodes: dict[str, list[CinEpisode]] = page.by(CinEpisode, "cine_person_id")
        self._assessments: dict[str, list[CinAssessment]] = page.by(CinAssessment, "cina_referral_id")
        self._cin_plans: dict[str, list[CinPlan]] = page.by(CinPlan, "cinp_referral_id")
        self._enquiries: dict[str, list[S47Enquiry]] = page.by(S47Enquiry, "s47e_referral_id")
        self._cp_plans: dict[str, list[CpPlan]] = page.by(CpPlan, "cppl_referral_id")
        self._placements: dict[str, list[ClaPlacement]] = page.by(ClaPlacement, "clap_cla_id")
        self._involvements: dict[str, list[Involvement]] = page.by(Involvement, "invo_referral_id")
        self._looked_after: dict[str, list[ClaEpisode]] = page.by(ClaEpisode, "clae_person_id")
        self._cla_episodes: dict[str, list[ClaEpisode]] = page.by(ClaEpisode, "clae_referral_id")
        self._conferences: dict[str, list[InitialCpConference]] = page.by(
            InitialCpConference, "icpc_s47_enquiry_id"
        )
        self._permanence: dict[str, list[Permanence]] = page.by(Permanence, "perm_person_id")
        self._permanence_by_cla: dict[str, list[Permanence]] = page.by(Permanence, "perm_cla_id")
        self._care_leavers: dict[str, list[CareLeaver]] = page.by(CareLeaver, "clea_person_id")

    def _overlapping(self, kind: RecordMap, rows: Iterable[Any]) -> list[Any]:
        """Return the rows whose span overlaps the window: Window.overlaps, without a call for each."""
        start, end = kind.start_index, kind.end_index
        first, last = self._window.start, self._window.end
        return [
            row
            for row in rows
            if row[start] is not None and row[start] <= last and (row[end] is None or row[end] >= first)
        ]

    def _listed(self, of: Maker, rows: Sequence[Any], *, newest_first: bool = False) -> list[Record]:
        """Return the records that ``rows`` give, equal ids united, in the order of the list."""
        if not rows:
            return []
        kind, make = of.kind, of.make
        start, needs = kind.start_index, kind.needs
        if len(rows) == 1:
            record = make(rows[0])
            return [record] if not needs or needs in record else []
        dated = [(row[start], make(row)) for row in rows]
        if needs:
            dated = [item for item in dated if needs in item[1]]
        return self._in_order(kind, dated, newest_first=newest_first)

    def _in_order(self, kind: RecordMap, dated: list[_Dated], *, newest_first: bool = False) -> list[Record]:
        if len(dated) < 2:
            return [record for _, record in dated]
        if kind.identity:
            dated = self._united(kind, dated)
        starts = {start for start, _ in dated}
        if len(starts) == len(dated) and None not in starts:  # they alone decide
            dated.sort(key=itemgetter(0), reverse=newest_first)
            return [record for _, record in dated]
        identity, content = kind.identity, kind.content
        if identity and all(identity in record for _, record in dated):
            dated.sort(key=lambda item: item[1][identity])  # no two are equal
        else:
            dated.sort(key=lambda item: _content(item[1], content))
        dated.sort(key=_by_start, reverse=newest_first)  # stable: what has one start stays as it was sorted
        return [record for _, record in dated]

    def _united(self, kind: RecordMap, dated: list[_Dated]) -> list[_Dated]:
        """Return one record for each id, the one with the latest start; records without an id stay."""
        identity = kind.identity
        if len({record.get(identity) for _, record in dated}) == len(dated):
            return dated
        found: dict[str, list[_Dated]] = {}
        kept: list[_Dated] = []
        for item in dated:
            key = item[1].get(identity)
            if key is None:
                kept.append(item)
            else:
                found.setdefault(key, []).append(item)
        for equal in found.values():
            if len(equal) > 1:
                self.tally[f"equal ids united: {kind.words}"] += len(equal) - 1
                equal.sort(key=lambda item: _content(item[1], kind.content))
                equal.sort(key=_by_start, reverse=True)
                if kind is ASSESSMENT:
                    equal[0][1]["factors"] = united([record["factors"] for _, record in equal])
            kept.append(equal[0])
        return kept

    def _episodes_of(self, key: str) -> list[Record]:
        rows = self._overlapping(EPISODE, self._episodes.get(key, ()))
        if not rows:
            return []
        adoption, care_leaver = self._adoption_of(key), self._care_leaver_of(key)
        dated = [(row.cine_referral_date, self._episode_of(row, adoption, care_leaver)) for row in rows]
        return self._in_order(EPISODE, dated)

    def _episode_of(self, row: CinEpisode, adoption: Record | None, care_leaver: Record | None) -> Record:
        episode = self._episode.make(row)
        referral = row.cine_referral_id
        workers: list[Record] = []
        if referral is not None:
            if records := self._assessments_of(referral):
                episode["child_and_family_assessments"] = records
            if records := self._spanning(self._cin_plan, self._cin_plans.get(referral)):
                episode["child_in_need_plans"] = records
                workers = self._workers_of(referral)
            if records := self._enquiries_of(referral):
                episode["section_47_assessments"] = records
            if records := self._spanning(self._cp_plan, self._cp_plans.get(referral)):
                episode["child_protection_plans"] = records
            if records := self._placements_of(referral):
                episode["child_looked_after_placements"] = records
        if adoption is not None:
            episode["adoption"] = adoption
        if care_leaver is not None:
            episode["care_leavers"] = care_leaver
        if workers:
            episode["care_worker_details"] = workers
        episode["purge"] = False
        return episode

    # --- The lists of a referral -------------------------------------------------------------------------

    def _spanning(self, of: Maker, rows: Sequence[Any] | None) -> list[Record]:
        """Those that overlap the window."""
        return self._listed(of, self._overlapping(of.kind, rows)) if rows else []

    def _assessments_of(self, referral: str) -> list[Record]:
        """Those that started or were authorised in the window."""
        rows = self._assessments.get(referral)
        if not rows:
            return []
        holds = self._window.holds
        rows = [
            row
            for row in rows
            if holds(row.cina_assessment_start_date) or holds(row.cina_assessment_auth_date)
        ]
        return self._listed(self._assessment, rows)

    def _enquiries_of(self, referral: str) -> list[Record]:
        """Those that overlap the window or whose latest conference lies in it."""
        rows = self._enquiries.get(referral)
        if not rows:
            return []
        window = self._window
        rows = [
            row
            for row in rows
            if window.overlaps(row.s47e_s47_start_date, row.s47e_s47_end_date)
            or window.holds(self._latest_conference_of(row))
        ]
        return self._listed(self._s47, rows)

    def _latest_conference_of(self, enquiry: S47Enquiry) -> datetime | None:
        key = enquiry.s47e_s47_enquiry_id
        return None if key is None else latest_conference(self._conferences.get(key, ()))

    def _placements_of(self, referral: str) -> list[Record]:
        """Those of the CLA ids that the referral's CLA episodes name, each placement once."""
        episodes = self._cla_episodes.get(referral)
        if not episodes:
            return []
        by_cla_id: dict[str, list[ClaEpisode]] = {}
        for episode in episodes:
            if episode.clae_cla_id is not None:
                by_cla_id.setdefault(episode.clae_cla_id, []).append(episode)
        self._scope.groups[OF_THE_REFERRAL.column] = by_cla_id
        rows = [row for cla_id in by_cla_id for row in self._placements.get(cla_id, ())]
        return self._listed(self._placement, self._overlapping(PLACEMENT, rows), newest_first=True)

    def _workers_of(self, referral: str) -> list[Record]:
        """Social workers active on a 31 March in the window: an entry for each of their worker ids."""
        rows = [
            CareWorker(worker, row.invo_involvement_start_date, row.invo_involvement_end_date)
            for row in self._involvements.get(referral, ())
            if _is_social_worker(row.invo_professional_role_id)
            and row.invo_professional_id is not None
            and self._is_active_then(row)
            for worker in self._professionals.get(row.invo_professional_id, ())
        ]
        return self._listed(self._care_worker, rows, newest_first=True)

    def _is_active_then(self, row: Involvement) -> bool:
        """Whether an involvement lasted over one of the census dates."""
        start, end = row.invo_involvement_start_date, row.invo_involvement_end_date
        if start is None:
            return False
        first = start.date()
        for census in self._census_dates:
            if first <= census:  # if it ended before this one, it ended before the later ones
                return end is None or census <= end.date()
        return False

    # --- What a person has one of ------------------------------------------------------------------------

    def _adoption_of(self, key: str) -> Record | None:
        """The adoption latest by the first known of placed, matched, decision, with a date in the window."""
        rows = list(self._permanence.get(key, ()))
        for cla_id in {episode.clae_cla_id for episode in self._looked_after.get(key, ())}:
            if cla_id is not None:
                rows.extend(self._permanence_by_cla.get(cla_id, ()))
        holds = self._window.holds
        rows = [
            row
            for row in rows
            if holds(row.perm_adm_decision_date)
            or holds(row.perm_matched_date)
            or holds(row.perm_placed_for_adoption_date)
        ]
        return self._first(self._adoption, latest(rows, _adoption_moment)) if rows else None

    def _care_leaver_of(self, key: str) -> Record | None:
        rows = self._care_leavers.get(key)
        if not rows:
            return None
        record = self._first(self._care_leaver, latest(rows, _contact))
        return record if len(record) > 1 else None  # the purge flag is always there

    def _first(self, of: Maker, rows: Iterable[Any]) -> Record:
        """Return the record of one row, of several the first by content."""
        kind, make = of.kind, of.make
        records = [make(row) for row in rows]
        if len(records) == 1:
            return records[0]
        return min(records, key=lambda item: _content(item, kind.content))


def _is_social_worker(role: str | None) -> bool:
    return role == SOCIAL_WORKER or (role is not None and role.strip().upper() == SOCIAL_WORKER)


def _by_start(dated: _Dated) -> tuple[bool, datetime]:
    """No start is older than any."""
    start = dated[0]
    return (True, start) if start is not None else _NO_START


def _content(record: Record, names: Iterable[str]) -> list[Any]:
    """Return a key by which records are sorted: field by field, what is absent last."""
    key: list[Any] = []
    for name in names:
        value = record.get(name)
        if value is None:
            key.append((1,))
        else:
            key.append((0, value if type(value) in _COMPARABLE else text_of({"": value})))
    return key


def _adoption_moment(row: Permanence) -> datetime | None:
    return row.perm_placed_for_adoption_date or row.perm_matched_date or row.perm_adm_decision_date


def _contact(row: CareLeaver) -> datetime | None:
    return row.clea_care_leaver_latest_contact

"""Pairs of dates in the source that have an order, and the records that have them the wrong way round.

Pure. A reversed pair breaks no rule of the payload, but the record may be missing from it: a plan that ended
before it began overlaps nothing (ssd, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaPlacement,
    CpPlan,
    ImmigrationStatus,
    InitialCpConference,
    Involvement,
    Permanence,
    S47Enquiry,
    SourcePage,
)
from api_pipeline.ssd_window import Window


@dataclass(frozen=True)
class DatePair:
    """Two dates of one row, the ``first`` of which has to be the earlier one; ``id`` names the record."""

    row: type[Any]
    id: str
    first: str
    second: str


DATE_PAIRS = (
    DatePair(CinEpisode, "cine_referral_id", "cine_referral_date", "cine_close_date"),
    DatePair(CinAssessment, "cina_assessment_id", "cina_assessment_start_date", "cina_assessment_auth_date"),
    DatePair(CinPlan, "cinp_cin_plan_id", "cinp_cin_plan_start_date", "cinp_cin_plan_end_date"),
    DatePair(S47Enquiry, "s47e_s47_enquiry_id", "s47e_s47_start_date", "s47e_s47_end_date"),
    DatePair(CpPlan, "cppl_cp_plan_id", "cppl_cp_plan_start_date", "cppl_cp_plan_end_date"),
    DatePair(
        ClaPlacement,
        "clap_cla_placement_id",
        "clap_cla_placement_start_date",
        "clap_cla_placement_end_date",
    ),
    DatePair(
        ImmigrationStatus,
        "immi_person_id",
        "immi_immigration_status_start_date",
        "immi_immigration_status_end_date",
    ),
    DatePair(Permanence, "perm_person_id", "perm_adm_decision_date", "perm_matched_date"),
    DatePair(Permanence, "perm_person_id", "perm_matched_date", "perm_placed_for_adoption_date"),
    DatePair(Permanence, "perm_person_id", "perm_adm_decision_date", "perm_placed_for_adoption_date"),
    DatePair(Involvement, "invo_referral_id", "invo_involvement_start_date", "invo_involvement_end_date"),
)
_TABLE_OF = {table.row: table.name for table in SOURCE_TABLES}


@dataclass(frozen=True)
class Reversed:
    """A record with two dates the wrong way round; ``key`` tells it from others where it has no id."""

    column: str  # table.column of the date that is too early
    after: str  # the column that it must not be earlier than
    record_id: str | None
    key: int


def reversed_dates(page: SourcePage, window: Window) -> Iterator[Reversed]:
    """Yield the records of a page with reversed dates that would touch the window the right way round."""
    for pair in DATE_PAIRS:
        for row in page.rows(pair.row):
            if _is_reversed(getattr(row, pair.first), getattr(row, pair.second), window):
                yield _found(pair.row, row, pair.second, pair.first, getattr(row, pair.id))
    enquiries = page.by(S47Enquiry, "s47e_s47_enquiry_id")
    for conference in page.rows(InitialCpConference):
        enquiry_id, held = conference.icpc_s47_enquiry_id, conference.icpc_icpc_date
        if any(
            _is_reversed(enquiry.s47e_s47_start_date, held, window)
            for enquiry in enquiries.get(enquiry_id, ())
        ):
            yield _found(InitialCpConference, conference, "icpc_icpc_date", "s47e_s47_start_date", enquiry_id)


def _is_reversed(first: Any, second: Any, window: Window) -> bool:
    if not isinstance(first, datetime) or not isinstance(second, datetime):
        return False
    # By the date alone, as everywhere; the times of two events of one day say little.
    return first.date() > second.date() and window.overlaps(second, first)


def _found(kind: type[Any], row: Any, column: str, after: str, record_id: str | None) -> Reversed:
    return Reversed(f"{_TABLE_OF[kind]}.{column}", after, record_id, hash((column, after, row)))

"""The source tables of ``stage`` as data: what is read of the Standard Safeguarding Dataset (SSD).

Carries out ssd, section 1. Each class is one row of one table, with the columns that are used, in the order
in which they are read; everything else (the SELECTs, the DDL of ``init-db --ssd``, the checks of
``test-schema``) follows from these classes and from the routes in :data:`SOURCE_TABLES`. All here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints


class Kind(Enum):
    """What a source column holds; the reader gives every value of a kind in one Python type, or None."""

    ID = "id"  # str, as it stands: ids are joined untrimmed
    TEXT = "text"  # str
    MOMENT = "moment"  # datetime without a zone
    VALUE = "value"  # int, float, bool or str: whatever the deployment stores there


@dataclass(frozen=True)
class Spec:
    """How a column is declared; ``length`` is in characters, None for no limit."""

    kind: Kind
    length: int | None = None


Id = Annotated[str | None, Spec(Kind.ID, 48)]
Moment = Annotated[datetime | None, Spec(Kind.MOMENT)]
Text6 = Annotated[str | None, Spec(Kind.TEXT, 6)]
Text13 = Annotated[str | None, Spec(Kind.TEXT, 13)]
Text15 = Annotated[str | None, Spec(Kind.TEXT, 15)]
Text20 = Annotated[str | None, Spec(Kind.TEXT, 20)]
Text48 = Annotated[str | None, Spec(Kind.TEXT, 48)]
Text100 = Annotated[str | None, Spec(Kind.TEXT, 100)]
Text200 = Annotated[str | None, Spec(Kind.TEXT, 200)]
Text255 = Annotated[str | None, Spec(Kind.TEXT, 255)]
LongText = Annotated[str | None, Spec(Kind.TEXT)]
Score = Annotated[int | float | str | None, Spec(Kind.VALUE)]  # INT, sometimes text
Flag = Annotated[bool | int | str | None, Spec(Kind.VALUE, 1)]  # NCHAR(1), sometimes bit


class Person(NamedTuple):
    pers_person_id: Id
    pers_legacy_id: Id
    pers_upn: Text13
    pers_upn_unknown: Text6
    pers_forename: Text100
    pers_surname: Text255
    pers_sex: Text20
    pers_ethnicity: Text48
    pers_dob: Moment
    pers_expected_dob: Moment


class LinkedIdentifier(NamedTuple):
    link_person_id: Id
    link_identifier_type: Text100
    link_identifier_value: Text100
    link_valid_from_date: Moment


class Address(NamedTuple):
    addr_person_id: Id
    addr_address_postcode: Text15
    addr_address_start_date: Moment


class Disability(NamedTuple):
    disa_person_id: Id
    disa_disability_code: Text48


class ImmigrationStatus(NamedTuple):
    immi_person_id: Id
    immi_immigration_status: Text100
    immi_immigration_status_start_date: Moment
    immi_immigration_status_end_date: Moment


class SdqScore(NamedTuple):
    csdq_person_id: Id
    csdq_sdq_completed_date: Moment
    csdq_sdq_score: Score


class CinEpisode(NamedTuple):
    cine_referral_id: Id
    cine_person_id: Id
    cine_referral_date: Moment
    cine_referral_source_code: Text48
    cine_referral_nfa: Flag
    cine_close_date: Moment
    cine_close_reason: Text100


class CinAssessment(NamedTuple):
    cina_assessment_id: Id
    cina_person_id: Id
    cina_referral_id: Id
    cina_assessment_start_date: Moment
    cina_assessment_auth_date: Moment


class AssessmentFactors(NamedTuple):
    cinf_assessment_id: Id
    cinf_assessment_factors_json: LongText


class CinPlan(NamedTuple):
    cinp_cin_plan_id: Id
    cinp_referral_id: Id
    cinp_person_id: Id
    cinp_cin_plan_start_date: Moment
    cinp_cin_plan_end_date: Moment


class S47Enquiry(NamedTuple):
    s47e_s47_enquiry_id: Id
    s47e_referral_id: Id
    s47e_person_id: Id
    s47e_s47_start_date: Moment
    s47e_s47_end_date: Moment
    s47e_s47_outcome_json: LongText


class InitialCpConference(NamedTuple):
    icpc_s47_enquiry_id: Id
    icpc_icpc_date: Moment


class CpPlan(NamedTuple):
    cppl_cp_plan_id: Id
    cppl_referral_id: Id
    cppl_person_id: Id
    cppl_cp_plan_start_date: Moment
    cppl_cp_plan_end_date: Moment


class ClaEpisode(NamedTuple):
    clae_cla_episode_id: Id
    clae_person_id: Id
    clae_cla_id: Id
    clae_referral_id: Id
    clae_cla_episode_start_reason: Text100
    clae_cla_episode_ceased_reason: Text255


class ClaPlacement(NamedTuple):
    clap_cla_placement_id: Id
    clap_cla_id: Id
    clap_cla_placement_start_date: Moment
    clap_cla_placement_end_date: Moment
    clap_cla_placement_type: Text100
    clap_cla_placement_postcode: Text15
    clap_cla_placement_change_reason: Text100


class Permanence(NamedTuple):
    perm_person_id: Id
    perm_cla_id: Id
    perm_adm_decision_date: Moment
    perm_matched_date: Moment
    perm_placed_for_adoption_date: Moment


class CareLeaver(NamedTuple):
    clea_person_id: Id
    clea_care_leaver_latest_contact: Moment
    clea_care_leaver_activity: Text100
    clea_care_leaver_accommodation: Text100


class Involvement(NamedTuple):
    invo_professional_id: Id
    invo_referral_id: Id
    invo_professional_role_id: Text200
    invo_involvement_start_date: Moment
    invo_involvement_end_date: Moment


class Professional(NamedTuple):
    """``prof_social_worker_registration_no`` holds what WORKER_ID_COLUMN names, where that is set."""

    prof_professional_id: Id
    prof_social_worker_registration_no: Text48


@dataclass(frozen=True)
class ByPerson:
    """The rows whose ``column`` is the person's id."""

    column: str


@dataclass(frozen=True)
class ByParent:
    """The rows whose ``column`` equals ``parent_column`` of the parent's rows.

    Those of the parent's rows count that its routes with these numbers lead to.
    """

    column: str
    parent: type[Any]
    parent_column: str
    parent_routes: tuple[int, ...] = (0,)


Route = ByPerson | ByParent


@dataclass(frozen=True)
class SourceTable:
    """One source table: its name, its rows' class, and the routes by which its rows belong to a person.

    A row belongs to a person by any of its routes. A table without routes is small and read whole.

    ``over`` names the column with the moment after which a row says nothing more: where that lies before the
    window, neither the cohort nor a payload depends on the row, nor on what belongs to people only by way of
    it. ``holding`` names a column, and the word without which, in upper or lower case, the same is true.
    """

    name: str
    row: type[Any]
    routes: tuple[Route, ...] = ()
    over: str = ""
    holding: tuple[str, str] | None = None

    @property
    def columns(self) -> Mapping[str, Spec]:
        """Column name -> declaration, in the order in which they are read."""
        hints = get_type_hints(self.row, include_extras=True)
        return {name: get_args(hint)[1] for name, hint in hints.items()}


SOCIAL_WORKER = "CW"  # the role of those whose ids are sent


def _by_referral(column: str) -> ByParent:
    return ByParent(column, CinEpisode, "cine_referral_id")


SOURCE_TABLES: tuple[SourceTable, ...] = (
    SourceTable("ssd_person", Person, (ByPerson("pers_person_id"),)),
    SourceTable("ssd_linked_identifiers", LinkedIdentifier, (ByPerson("link_person_id"),)),
    SourceTable("ssd_address", Address, (ByPerson("addr_person_id"),)),
    SourceTable("ssd_disability", Disability, (ByPerson("disa_person_id"),)),
    SourceTable("ssd_immigration_status", ImmigrationStatus, (ByPerson("immi_person_id"),)),
    SourceTable("ssd_sdq_scores", SdqScore, (ByPerson("csdq_person_id"),), over="csdq_sdq_completed_date"),
    SourceTable(
        "ssd_cin_episodes",
        CinEpisode,
        # The second: a CLA episode may name a referral that is another person's, and that decides the cohort.
        (ByPerson("cine_person_id"), ByParent("cine_referral_id", ClaEpisode, "clae_referral_id")),
        over="cine_close_date",
    ),
    SourceTable("ssd_cin_assessments", CinAssessment, (_by_referral("cina_referral_id"),)),
    SourceTable(
        "ssd_assessment_factors",
        AssessmentFactors,
        (ByParent("cinf_assessment_id", CinAssessment, "cina_assessment_id"),),
    ),
    SourceTable(
        "ssd_cin_plans",
        CinPlan,
        # The first for the payload, the second for the cohort.
        (_by_referral("cinp_referral_id"), ByPerson("cinp_person_id")),
        over="cinp_cin_plan_end_date",
    ),
    SourceTable("ssd_s47_enquiry", S47Enquiry, (_by_referral("s47e_referral_id"),)),
    SourceTable(
        "ssd_initial_cp_conference",
        InitialCpConference,
        (ByParent("icpc_s47_enquiry_id", S47Enquiry, "s47e_s47_enquiry_id"),),
    ),
    SourceTable("ssd_cp_plans", CpPlan, (_by_referral("cppl_referral_id"),), over="cppl_cp_plan_end_date"),
    SourceTable(
        "ssd_cla_episodes",
        ClaEpisode,
        # The first for the cohort and adoption, the second for the placements of a referral.
        (ByPerson("clae_person_id"), _by_referral("clae_referral_id")),
    ),
    SourceTable(
        "ssd_cla_placement",
        ClaPlacement,
        (ByParent("clap_cla_id", ClaEpisode, "clae_cla_id", parent_routes=(0, 1)),),
        over="clap_cla_placement_end_date",
    ),
    SourceTable(
        "ssd_permanence",
        Permanence,
        (ByPerson("perm_person_id"), ByParent("perm_cla_id", ClaEpisode, "clae_cla_id")),
    ),
    SourceTable("ssd_care_leavers", CareLeaver, (ByPerson("clea_person_id"),)),
    SourceTable(
        "ssd_involvements",
        Involvement,
        (_by_referral("invo_referral_id"),),
        over="invo_involvement_end_date",
        holding=("invo_professional_role_id", SOCIAL_WORKER),
    ),
    SourceTable("ssd_professionals", Professional),
)


class SourcePage:
    """The rows of some people, whole families of rows complete, grouped by the columns that join them.

    Holds rows of other people too where a route led to them; whoever asks by id gets what belongs to it.
    Ids are compared as they stand: no trimming, no folding of letter case.
    """

    def __init__(self, rows: Mapping[type[Any], list[Any]]) -> None:
        self._rows = rows
        self._groups: dict[tuple[type[Any], str], dict[str, list[Any]]] = {}

    def rows(self, row: type[Any]) -> list[Any]:
        """Return all rows of a table."""
        return self._rows.get(row, [])

    def by(self, row: type[Any], column: str) -> dict[str, list[Any]]:
        """Return id -> the rows whose ``column`` is that id; rows without one are in no group."""
        groups = self._groups.get((row, column))
        if groups is None:
            groups = {}
            index = row._fields.index(column)
            for item in self.rows(row):
                key = item[index]
                if key is not None:
                    groups.setdefault(key, []).append(item)
            self._groups[row, column] = groups
        return groups

"""The mapping from the SSD to the payload as data: one table of fields for each type of record.

Carries out ssd, section 3. To add a field, add a line to the record it belongs to: its name in the payload,
the source column, the coercion, and the rule in plain words, from which the documentation is made. A column
that is new to the source tables is added to its row class in ``ssd_tables`` first. Fields stand in the order
of the payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from api_pipeline import ssd_coercions as take
from api_pipeline.ssd_records import Field, Join, RecordMap
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    Address,
    AssessmentFactors,
    CareLeaver,
    CinAssessment,
    CinEpisode,
    CinPlan,
    ClaEpisode,
    ClaPlacement,
    CpPlan,
    Disability,
    ImmigrationStatus,
    InitialCpConference,
    LinkedIdentifier,
    Moment,
    Permanence,
    Person,
    S47Enquiry,
    SdqScore,
    Text48,
)


class CareWorker(NamedTuple):
    """An involvement together with the id of its professional: there may be several for one involvement."""

    prof_social_worker_registration_no: Text48
    invo_involvement_start_date: Moment
    invo_involvement_end_date: Moment


_DATE = "the date alone"
_ID = "trimmed, never cut"

CHILD = RecordMap(
    "",
    Person,
    (
        Field("la_child_id", "pers_person_id", take.identifier, _ID),
        Field("mis_child_id", "pers_legacy_id", take.identifier, _ID),
    ),
    "one for each person in the cohort",
)

_LINKED = Join(LinkedIdentifier, "link_person_id", "pers_person_id")
_DISABILITIES = Join(Disability, "disa_person_id", "pers_person_id")
_ADDRESSES = Join(Address, "addr_person_id", "pers_person_id")
_IMMIGRATION = Join(ImmigrationStatus, "immi_person_id", "pers_person_id")

CHILD_DETAILS = RecordMap(
    "child_details",
    Person,
    (
        Field(
            "unique_pupil_number", "pers_upn", take.unique_pupil_number, "trimmed, if it has 13 characters"
        ),
        Field(
            "former_unique_pupil_number",
            "link_identifier_value link_identifier_type link_valid_from_date",
            take.former_upn,
            "the one with the latest start among those of type 'Former Unique Pupil Number', in any case; "
            "if that one has not 13 characters, none",
            _LINKED,
        ),
        Field(
            "unique_pupil_number_unknown_reason",
            "pers_upn_unknown pers_upn",
            take.upn_unknown_reason,
            "the first of the two that is not blank, in upper case, if it is UN1 to UN10",
        ),
        Field("first_name", "pers_forename", take.text, "trimmed"),
        Field("surname", "pers_surname", take.text, "trimmed"),
        Field("date_of_birth", "pers_dob", take.day, _DATE),
        Field("expected_date_of_birth", "pers_expected_dob", take.day, _DATE),
        Field("sex", "pers_sex", take.sex, "M or F in any case, U for everything else", null_too=True),
        Field(
            "ethnicity", "pers_ethnicity", take.code(4, "ethnicity"), "code of 4 characters, in upper case"
        ),
        Field(
            "disabilities",
            "disa_disability_code",
            take.disabilities,
            "distinct codes of 4 characters, in upper case, sorted, at most 12; NONE if there is none",
            _DISABILITIES,
        ),
        Field(
            "postcode",
            "addr_address_postcode addr_address_start_date",
            take.latest_postcode,
            "of the address with the latest start; left out if it is over 8 characters",
            _ADDRESSES,
        ),
        Field(
            "uasc_flag",
            "immi_immigration_status immi_immigration_status_end_date",
            take.uasc_flag,
            "true if a status is U, or holds UASC without NOT, NON or FORMER directly before it (or matches "
            "UASC_PATTERN), and has no end or ended on or after the start of the window",
            _IMMIGRATION,
        ),
        Field(
            "uasc_end_date",
            "immi_immigration_status immi_immigration_status_end_date",
            take.uasc_end_date,
            "the end of that status; of several none if one is open, else the latest",
            _IMMIGRATION,
        ),
    ),
    "always there",
)

SDQ_ASSESSMENT = RecordMap(
    "health_and_wellbeing.sdq_assessments[]",
    SdqScore,
    (
        Field("date", "csdq_sdq_completed_date", take.day, _DATE),
        Field(
            "score",
            "csdq_sdq_score",
            take.score,
            "a whole number of 0 to 40, as a number or as text; with anything else the entry is left out",
        ),
    ),
    "scores dated in the window, newest first",
    start="csdq_sdq_completed_date",
    needs="score",
    purge=False,
)

EPISODE = RecordMap(
    "social_care_episodes[]",
    CinEpisode,
    (
        Field("social_care_episode_id", "cine_referral_id", take.identifier, _ID),
        Field("referral_date", "cine_referral_date", take.day, _DATE),
        Field(
            "referral_source",
            "cine_referral_source_code",
            take.referral_source,
            "the code that it begins with, in any case: 10, 1A to 3F, 5A to 5D, 4, 6, 7, 8 or 9; "
            "left out if it begins with none",
        ),
        Field("closure_date", "cine_close_date", take.day, _DATE),
        Field(
            "closure_reason",
            "cine_close_reason",
            take.code(3, "closure reason"),
            "code of 3 characters, in upper case",
        ),
        Field(
            "referral_no_further_action_flag",
            "cine_referral_nfa",
            take.no_further_action,
            "true for 1, Y, T, TRUE; false for 0, N, F, FALSE; left out for anything else",
        ),
    ),
    "the person's episodes that overlap the window, oldest first",
    start="cine_referral_date",
    end="cine_close_date",
    identity="social_care_episode_id",
    words="episodes",
    nested=(
        "child_and_family_assessments",
        "child_in_need_plans",
        "section_47_assessments",
        "child_protection_plans",
        "child_looked_after_placements",
        "adoption",
        "care_leavers",
        "care_worker_details",
    ),
)

ASSESSMENT = RecordMap(
    "social_care_episodes[].child_and_family_assessments[]",
    CinAssessment,
    (
        Field("child_and_family_assessment_id", "cina_assessment_id", take.identifier, _ID),
        Field("start_date", "cina_assessment_start_date", take.day, _DATE),
        Field("authorisation_date", "cina_assessment_auth_date", take.day, _DATE),
        Field(
            "factors",
            "cinf_assessment_factors_json",
            take.factors,
            "the texts of the JSON list, trimmed; an empty list if there are none or it cannot be read",
            Join(AssessmentFactors, "cinf_assessment_id", "cina_assessment_id"),
        ),
    ),
    "assessments of the referral that started or were authorised in the window, oldest first",
    start="cina_assessment_start_date",
    identity="child_and_family_assessment_id",
    words="assessments",
)

CIN_PLAN = RecordMap(
    "social_care_episodes[].child_in_need_plans[]",
    CinPlan,
    (
        Field("child_in_need_plan_id", "cinp_cin_plan_id", take.identifier, _ID),
        Field("start_date", "cinp_cin_plan_start_date", take.day, _DATE),
        Field("end_date", "cinp_cin_plan_end_date", take.day, _DATE),
    ),
    "plans of the referral that overlap the window, oldest first",
    start="cinp_cin_plan_start_date",
    end="cinp_cin_plan_end_date",
    identity="child_in_need_plan_id",
    words="child in need plans",
)

S47 = RecordMap(
    "social_care_episodes[].section_47_assessments[]",
    S47Enquiry,
    (
        Field("section_47_assessment_id", "s47e_s47_enquiry_id", take.identifier, _ID),
        Field("start_date", "s47e_s47_start_date", take.day, _DATE),
        Field(
            "icpc_required_flag",
            "s47e_s47_outcome_json",
            take.conference_flag,
            "CP_CONFERENCE_FLAG of the JSON: true for Y, T, 1, true; false for N, F, 0, false; "
            "left out for anything else",
        ),
        Field(
            "icpc_date",
            "icpc_icpc_date",
            take.conference_date,
            "the date of the latest conference of the enquiry",
            Join(InitialCpConference, "icpc_s47_enquiry_id", "s47e_s47_enquiry_id"),
        ),
        Field("end_date", "s47e_s47_end_date", take.day, _DATE),
    ),
    "enquiries of the referral that overlap the window or whose latest conference lies in it, oldest first",
    start="s47e_s47_start_date",
    end="s47e_s47_end_date",
    identity="section_47_assessment_id",
    words="section 47 enquiries",
)

CP_PLAN = RecordMap(
    "social_care_episodes[].child_protection_plans[]",
    CpPlan,
    (
        Field("child_protection_plan_id", "cppl_cp_plan_id", take.identifier, _ID),
        Field("start_date", "cppl_cp_plan_start_date", take.day, _DATE),
        Field("end_date", "cppl_cp_plan_end_date", take.day, _DATE),
    ),
    "plans of the referral that overlap the window, oldest first",
    start="cppl_cp_plan_start_date",
    end="cppl_cp_plan_end_date",
    identity="child_protection_plan_id",
    words="child protection plans",
)

# Only the CLA episodes of the referral count: PayloadBuilder puts them there for each referral.
OF_THE_REFERRAL = Join(ClaEpisode, "clae_cla_id", "clap_cla_id")

PLACEMENT = RecordMap(
    "social_care_episodes[].child_looked_after_placements[]",
    ClaPlacement,
    (
        Field("child_looked_after_placement_id", "clap_cla_placement_id", take.identifier, _ID),
        Field("start_date", "clap_cla_placement_start_date", take.day, _DATE),
        Field(
            "start_reason",
            "clae_cla_episode_start_reason",
            take.start_reason,
            "code of 1 character, in upper case; the smallest of the referral's episodes with the CLA id",
            OF_THE_REFERRAL,
        ),
        Field(
            "postcode",
            "clap_cla_placement_postcode",
            take.postcode,
            "trimmed; left out if it is over 8 characters",
        ),
        Field(
            "placement_type",
            "clap_cla_placement_type",
            take.code(3, "placement type"),
            "code of 3 characters, in upper case",
        ),
        Field(
            "end_date",
            "clap_cla_placement_start_date clap_cla_placement_end_date",
            take.end_day,
            "the date alone; left out if it is before the start",
        ),
        Field(
            "end_reason",
            "clae_cla_episode_ceased_reason",
            take.end_reason,
            "first 3 characters without white space, in upper case; the smallest of the referral's "
            "episodes with the CLA id",
            OF_THE_REFERRAL,
        ),
        Field(
            "change_reason",
            "clap_cla_placement_change_reason",
            take.code(6, "change reason of a placement"),
            "code of 6 characters, in upper case",
        ),
    ),
    "placements of the referral's CLA episodes that overlap the window, newest first",
    start="clap_cla_placement_start_date",
    end="clap_cla_placement_end_date",
    identity="child_looked_after_placement_id",
    words="placements",
)

ADOPTION = RecordMap(
    "social_care_episodes[].adoption",
    Permanence,
    (
        Field("initial_decision_date", "perm_adm_decision_date", take.day, _DATE),
        Field("matched_date", "perm_matched_date", take.day, _DATE),
        Field("placed_date", "perm_placed_for_adoption_date", take.day, _DATE),
    ),
    "of the person or of one of their CLA ids, with one of the dates in the window: the latest by the first "
    "known of placed, matched, decision; the same in every episode",
)

CARE_LEAVER = RecordMap(
    "social_care_episodes[].care_leavers",
    CareLeaver,
    (
        Field("contact_date", "clea_care_leaver_latest_contact", take.day, _DATE),
        Field(
            "activity",
            "clea_care_leaver_activity",
            take.code(2, "care leaver activity"),
            "code of 2 characters, in upper case",
        ),
        Field(
            "accommodation",
            "clea_care_leaver_accommodation",
            take.code(1, "care leaver accommodation"),
            "code of 1 character, in upper case",
        ),
    ),
    "the latest contact, whatever its date, if anything is known of it; the same in every episode",
)

CARE_WORKER = RecordMap(
    "social_care_episodes[].care_worker_details[]",
    CareWorker,
    (
        Field(
            "worker_id",
            "prof_social_worker_registration_no",
            take.worker_id,
            "trimmed (WORKER_ID_COLUMN names another column); over 12 characters the entry is left out",
        ),
        Field("start_date", "invo_involvement_start_date", take.day, _DATE),
        Field("end_date", "invo_involvement_end_date", take.day, _DATE),
    ),
    "involvements of the referral in role CW, active on a 31 March in the window, newest first; only where "
    "the referral has a child in need plan that overlaps the window",
    start="invo_involvement_start_date",
    needs="worker_id",
    purge=False,
)

RECORD_MAPS: tuple[RecordMap, ...] = (
    CHILD,
    CHILD_DETAILS,
    SDQ_ASSESSMENT,
    EPISODE,
    ASSESSMENT,
    CIN_PLAN,
    S47,
    CP_PLAN,
    PLACEMENT,
    ADOPTION,
    CARE_LEAVER,
    CARE_WORKER,
)


def mapping_table() -> Iterator[tuple[str, str, str]]:
    """Yield, for the documentation, (path in the payload, source table.column, rule in plain words).

    Each record begins with a line for itself: its path, its table, and which rows it is made of.
    """
    tables = {name: table.name for table in SOURCE_TABLES for name in table.columns}
    for record in RECORD_MAPS:
        own = dict.fromkeys(tables[name] for name in record.row._fields)
        yield record.path or "(the child)", ", ".join(own), record.rows_rule
        for field in record.fields:
            path = f"{record.path}.{field.name}" if record.path else field.name
            columns = (f"{tables[name]}.{name}" for name in field.columns.split())
            yield path, ", ".join(columns), field.rule

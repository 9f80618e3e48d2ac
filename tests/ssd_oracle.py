"""Sections 2 to 4 of ssd written down a second time: cohort and payloads in SQL for SQLite, and the hash.

Independent of the package on purpose, the declarations of the source tables aside: a slip in one of the two
shows up as a failing test. Every rule is SQL; Python fills the tables and puts repeated expressions together.
Two helpers are functions because SQLite cannot say them: upper case beyond ASCII and which text marks UASC.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from api_pipeline.ssd_tables import SOURCE_TABLES

Rows = Mapping[type[Any], Sequence[Any]]

_WHITE = "char(9,10,11,12,13,28,29,30,31,32,133,160,5760,8192,8193,8194,8195,8196,8197,8198,8199,8200"
_WHITE += ",8201,8202,8232,8233,8239,8287,12288)"  # what str.strip() takes off
_MIDNIGHT = "' 00:00:00.000000'"
_NEGATIONS = ("NOT", "NON", "FORMER")

GROUNDS = ("EPISODE", "WAITING_ASSESSMENT", "CIN_PLAN", "LOOKED_AFTER", "CARE_LEAVER")


@dataclass(frozen=True)
class Answer:
    """What the oracle says of one row of ssd_person; the payload is there for everybody."""

    person_id: str | None
    included: bool
    grounds: frozenset[str]
    payload: str


def ask(
    rows: Rows,
    run_date: date,
    *,
    months: int = 24,
    uasc_pattern: str | None = None,
    listed: Collection[str] | None = None,
) -> list[Answer]:
    """Return an answer for each row of ssd_person, in the order of the rows.

    ``listed`` are the trimmed ids of the cohort table, None where there is none.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.create_function("upper_case", 1, lambda text: text and text.upper(), deterministic=True)
        connection.create_function("says_uasc", 2, says_uasc, deterministic=True)
        _fill(connection, rows, run_date, months, uasc_pattern, listed)
        for statement in _COHORT + _PAYLOAD:
            connection.execute(statement)
        found = connection.execute(
            "SELECT person.id, person.included, person.grounds, payload.json"
            " FROM person JOIN payload ON payload.person = person.pk ORDER BY person.pk"
        ).fetchall()
    finally:
        connection.close()
    return [Answer(i, bool(yes), frozenset(grounds.split()), text) for i, yes, grounds, text in found]


def says_uasc(text: str | None, pattern: str | None) -> bool:
    """Whether the text of an immigration status marks an unaccompanied asylum-seeking child."""
    words = (text or "").strip().upper()
    if pattern is not None:
        return words != "" and re.search(pattern, words) is not None
    if words == "U":
        return True
    parts = words.split("UASC")
    for end in range(1, len(parts)):
        letters = "UASC".join(parts[:end])
        while letters and not letters[-1].isalnum():
            letters = letters[:-1]
        start = len(letters)
        while start and letters[start - 1].isalnum():
            start -= 1
        if letters[start:] not in _NEGATIONS:
            return True
    return False


def _fill(
    connection: sqlite3.Connection,
    rows: Rows,
    run_date: date,
    months: int,
    uasc_pattern: str | None,
    listed: Collection[str] | None,
) -> None:
    for table in SOURCE_TABLES:
        columns = ", ".join(table.columns)
        connection.execute(f"CREATE TABLE {table.name} (pk INTEGER PRIMARY KEY, {columns})")
        for row in rows.get(table.row, ()):
            marks = ", ".join("?" * len(row))
            connection.execute(
                f"INSERT INTO {table.name} ({columns}) VALUES ({marks})",
                [item.isoformat(" ", "microseconds") if isinstance(item, datetime) else item for item in row],
            )
    connection.execute(
        f"""CREATE TABLE w AS
            SELECT date(day, '+1 day') || {_MIDNIGHT} AS e,
                   date(anchor, '-3 months', 'start of year', '+3 months') || {_MIDNIGHT} AS s,
                   pattern
            FROM (SELECT ? AS day, date(?, 'start of month', ?) AS anchor, ? AS pattern)""",
        [run_date.isoformat(), run_date.isoformat(), f"-{months} months", uasc_pattern],
    )
    connection.execute("CREATE TABLE listed (id)")
    if listed is not None:
        connection.executemany("INSERT INTO listed VALUES (?)", [(item,) for item in listed])
    connection.execute("CREATE TABLE narrowed AS SELECT ? AS yes", [listed is not None])


# -- expressions ------------------------------------------------------------------------------------


def _tidy(text: str) -> str:
    return f"nullif(trim({text}, {_WHITE}), '')"


def _code(text: str, length: int) -> str:
    return _tidy(f"substr(upper_case({_tidy(text)}), 1, {length})")


def _postcode(text: str) -> str:
    return f"CASE WHEN length({_tidy(text)}) <= 8 THEN {_tidy(text)} END"


def _overlaps(start: str, end: str) -> str:
    return f"({start} <= w.e AND ({end} IS NULL OR {end} >= w.s))"


def _within(moment: str) -> str:
    return f"({moment} BETWEEN w.s AND w.e)"


def _day(moment: str) -> str:
    return f"substr({moment}, 1, 10)"


def _birthday(born: str, age: int) -> str:
    year = f"min(9999, substr({born}, 1, 4) + {age})"
    is_common = f"strftime('%d', printf('%04d-02-29', {year})) <> '29'"
    return f"""CASE WHEN substr({born}, 6, 5) = '02-29' AND {is_common}
        THEN printf('%04d-02-28', {year}) || substr({born}, 11)
        ELSE printf('%04d', {year}) || substr({born}, 5) END"""


def _object(*pairs: tuple[str, str]) -> str:
    """JSON text of an object from keys and JSON texts, those that are NULL left out."""
    parts = " || ".join(f"""coalesce(',"{key}":' || ({value}), '')""" for key, value in pairs)
    return f"'{{' || substr({parts}, 2) || '}}'"


def _q(value: str) -> str:
    return f"CASE WHEN {value} IS NOT NULL THEN json_quote({value}) END"


def _truth(value: str) -> str:
    return f"CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"


def _array(rows: str) -> str:
    """JSON text of the array of the column ``json`` of some ordered rows; NULL where there are none."""
    return f"(SELECT '[' || group_concat(json, ',') || ']' FROM ({rows}))"


def _ascending(columns: Iterable[str]) -> str:
    return "".join(f", {column} ASC NULLS LAST" for column in columns)


def _kept(name: str, within: str, fields: Sequence[str]) -> str:
    """Of the rows of table ``name`` with one ``id`` in one list keep one; without an id all are kept."""
    return f"""DELETE FROM {name} WHERE rowid IN (SELECT row FROM (
        SELECT rowid AS row, id, row_number() OVER (
            PARTITION BY {within}, id ORDER BY start DESC{_ascending(fields)}) AS place FROM {name})
        WHERE place > 1 AND id IS NOT NULL)"""


# -- section 2 --------------------------------------------------------------------------------------

_COHORT = [
    f"""CREATE TABLE person AS
    SELECT *,
        rtrim(CASE WHEN episode THEN 'EPISODE ' ELSE '' END
            || CASE WHEN waiting THEN 'WAITING_ASSESSMENT ' ELSE '' END
            || CASE WHEN cin_plan THEN 'CIN_PLAN ' ELSE '' END
            || CASE WHEN looked_after THEN 'LOOKED_AFTER ' ELSE '' END
            || CASE WHEN care_leaver THEN 'CARE_LEAVER ' ELSE '' END) AS grounds,
        coalesce(eligible, 0) AND (episode OR waiting OR cin_plan OR looked_after OR care_leaver)
            AND (NOT (SELECT yes FROM narrowed) OR trim(id, {_WHITE}) IN listed) AS included
    FROM (SELECT p.pk, p.pers_person_id AS id,
        CASE WHEN pers_dob IS NULL THEN {_within("pers_expected_dob")}
             ELSE pers_dob <= w.e AND {_birthday("pers_dob", 26)} > w.s END AS eligible,
        EXISTS (SELECT 1 FROM ssd_cin_episodes WHERE cine_person_id = pers_person_id
            AND {_overlaps("cine_referral_date", "cine_close_date")}) AS episode,
        EXISTS (SELECT 1 FROM ssd_cin_episodes WHERE cine_person_id = pers_person_id
            AND cine_close_date IS NULL AND NOT EXISTS (SELECT 1 FROM ssd_cin_assessments
                WHERE cina_referral_id = cine_referral_id
                AND cina_assessment_start_date IS NOT NULL)) AS waiting,
        EXISTS (SELECT 1 FROM ssd_cin_plans WHERE cinp_person_id = pers_person_id
            AND {_overlaps("cinp_cin_plan_start_date", "cinp_cin_plan_end_date")}) AS cin_plan,
        EXISTS (SELECT 1 FROM ssd_cla_episodes, ssd_cin_episodes WHERE clae_person_id = pers_person_id
            AND cine_referral_id = clae_referral_id
            AND {_overlaps("cine_referral_date", "cine_close_date")})
        OR EXISTS (SELECT 1 FROM ssd_cla_episodes, ssd_cla_placement WHERE clae_person_id = pers_person_id
            AND clap_cla_id = clae_cla_id
            AND {_overlaps("clap_cla_placement_start_date", "clap_cla_placement_end_date")}) AS looked_after,
        coalesce({_birthday("pers_dob", 16)} < w.e AND {_birthday("pers_dob", 26)} >= w.s, 0)
        AND EXISTS (SELECT 1 FROM ssd_care_leavers WHERE clea_person_id = pers_person_id
            AND clea_care_leaver_latest_contact >= w.s AND clea_care_leaver_latest_contact < w.e)
        AND EXISTS (SELECT 1 FROM ssd_cin_episodes WHERE cine_person_id = pers_person_id
            AND cine_close_date IS NULL AND cine_referral_date <= w.e) AS care_leaver
    FROM ssd_person p, w)"""
]

# -- section 3: the lists of an episode, by referral id ---------------------------------------------

_FACTORS = _tidy("cinf_assessment_factors_json")
_ASSESSMENTS = [
    f"""CREATE TABLE factor AS
    SELECT f.pk AS line, cinf_assessment_id AS raw, item.key AS position, {_tidy("item.value")} AS text
    FROM ssd_assessment_factors f, json_each(CASE WHEN NOT json_valid({_FACTORS}) THEN '[]'
        WHEN json_type({_FACTORS}) = 'array' THEN {_FACTORS} ELSE '[]' END) item
    WHERE item.type = 'text' AND {_tidy("item.value")} IS NOT NULL""",
    f"""CREATE TABLE seen AS
    SELECT a.pk, cina_referral_id AS ref, cina_assessment_id AS raw, {_tidy("cina_assessment_id")} AS id,
        cina_assessment_start_date AS start, {_day("cina_assessment_auth_date")} AS authorised
    FROM ssd_cin_assessments a, w
    WHERE {_within("cina_assessment_start_date")} OR {_within("cina_assessment_auth_date")}""",
    """CREATE TABLE assessment AS
    SELECT a.*, CASE WHEN (SELECT count(*) FROM seen s WHERE s.ref = a.ref AND s.id = a.id) > 1
            OR (SELECT count(*) FROM ssd_assessment_factors f WHERE f.cinf_assessment_id = a.raw) > 1
        THEN (SELECT group_concat(text || char(1), '') FROM (SELECT DISTINCT text FROM factor
            WHERE raw = a.raw OR raw IN (SELECT s.raw FROM seen s WHERE s.ref = a.ref AND s.id = a.id)
            ORDER BY text))
        ELSE (SELECT group_concat(text || char(1), '') FROM (SELECT text FROM factor
            WHERE raw = a.raw ORDER BY position)) END AS factors
    FROM seen a""",
    # Each text ends with character 1. Lists are compared as the texts that they are sent as.
    "UPDATE assessment SET factors = coalesce(factors, '')",
    _kept("assessment", "ref", ["authorised"]),
]


def _factor_texts(marked: str) -> str:
    """The JSON array of texts that each end with character 1; such a character occurs in no other place."""
    quoted = f"replace(json_quote({marked}), '\\u0001', '\",\"')"
    return f"CASE {marked} WHEN '' THEN '[]' ELSE '[' || substr({quoted}, 1, length({quoted}) - 3) || ']' END"


def _spans(name: str, table: str, letters: str, stem: str) -> list[str]:
    """Plans of a referral that overlap the window: a table ``name`` of them."""
    start, end = f"{letters}_{stem}_start_date", f"{letters}_{stem}_end_date"
    return [
        f"""CREATE TABLE {name} AS
        SELECT {letters}_referral_id AS ref, {_tidy(f"{letters}_{stem}_id")} AS id, {start} AS start,
            {_day(end)} AS ended
        FROM {table}, w WHERE {_overlaps(start, end)}""",
        _kept(name, "ref", ["ended"]),
    ]


_OUTCOME = _tidy("s47e_s47_outcome_json")
_FLAG = f"json_extract({_OUTCOME}, '$.CP_CONFERENCE_FLAG')"
_ENQUIRIES = [
    f"""CREATE TABLE enquiry AS SELECT ref, id, start, CASE kind WHEN 'true' THEN 1 WHEN 'false' THEN 0
        WHEN 'text' THEN CASE WHEN upper_case({_tidy("flag")}) IN ('Y', 'T', '1', 'TRUE') THEN 1
            WHEN upper_case({_tidy("flag")}) IN ('N', 'F', '0', 'FALSE') THEN 0 END
        WHEN 'integer' THEN CASE flag WHEN 1 THEN 1 WHEN 0 THEN 0 END
        WHEN 'real' THEN CASE flag WHEN 1 THEN 1 WHEN 0 THEN 0 END END AS required,
        {_day("conference")} AS conference, ended
    FROM (SELECT s47e_referral_id AS ref, {_tidy("s47e_s47_enquiry_id")} AS id, s47e_s47_start_date AS start,
            CASE WHEN json_valid({_OUTCOME}) THEN {_FLAG} END AS flag,
            CASE WHEN json_valid({_OUTCOME}) THEN json_type({_OUTCOME}, '$.CP_CONFERENCE_FLAG') END AS kind,
            (SELECT max(icpc_icpc_date) FROM ssd_initial_cp_conference
             WHERE icpc_s47_enquiry_id = s47e_s47_enquiry_id) AS conference,
            s47e_s47_end_date AS end_raw, {_day("s47e_s47_end_date")} AS ended FROM ssd_s47_enquiry), w
    WHERE {_overlaps("start", "end_raw")} OR {_within("conference")}""",
    _kept("enquiry", "ref", ["required", "conference", "ended"]),
]

_END_TEXT = f"substr(upper_case({_tidy('clae_cla_episode_ceased_reason')}), 1, 3)"
_END_CODE = " || ".join(f"trim(substr({_END_TEXT}, {n}, 1), {_WHITE})" for n in (1, 2, 3))
_PLACED = ["start_reason", "postcode", "type", "ended", "end_reason", "change_reason"]
_PLACEMENTS = [
    # White space goes out of three characters by taking each of them that is not white.
    f"""CREATE TABLE reason AS
    SELECT clae_referral_id AS ref, clae_cla_id AS cla,
        min({_code("clae_cla_episode_start_reason", 1)}) AS start_reason,
        min(nullif({_END_CODE}, '')) AS end_reason
    FROM ssd_cla_episodes WHERE clae_referral_id IS NOT NULL AND clae_cla_id IS NOT NULL
    GROUP BY clae_referral_id, clae_cla_id""",
    f"""CREATE TABLE placement AS
    SELECT ref, {_tidy("clap_cla_placement_id")} AS id, clap_cla_placement_start_date AS start, start_reason,
        {_postcode("clap_cla_placement_postcode")} AS postcode,
        {_code("clap_cla_placement_type", 3)} AS type,
        CASE WHEN {_day("clap_cla_placement_end_date")} >= {_day("clap_cla_placement_start_date")}
            THEN {_day("clap_cla_placement_end_date")} END AS ended,
        end_reason, {_code("clap_cla_placement_change_reason", 6)} AS change_reason
    FROM reason, ssd_cla_placement, w WHERE clap_cla_id = cla
        AND {_overlaps("clap_cla_placement_start_date", "clap_cla_placement_end_date")}""",
    _kept("placement", "ref", _PLACED),
]

_WORKERS = [
    """CREATE TABLE census AS WITH RECURSIVE spring (day) AS (
        SELECT date(s, '+1 year', '-1 day') FROM w
        UNION ALL SELECT date(day, '+1 year') FROM spring, w WHERE date(day, '+1 year') <= date(e))
    SELECT day FROM spring, w WHERE day <= date(e)""",
    f"""CREATE TABLE worker AS
    SELECT invo_referral_id AS ref, {_tidy("prof_social_worker_registration_no")} AS id,
        invo_involvement_start_date AS start, {_day("invo_involvement_end_date")} AS ended
    FROM ssd_involvements JOIN ssd_professionals ON prof_professional_id = invo_professional_id
    WHERE upper_case({_tidy("invo_professional_role_id")}) = 'CW'
        AND length({_tidy("prof_social_worker_registration_no")}) BETWEEN 1 AND 12
        AND EXISTS (SELECT 1 FROM census WHERE {_day("invo_involvement_start_date")} <= day
            AND (invo_involvement_end_date IS NULL OR {_day("invo_involvement_end_date")} >= day))
        AND EXISTS (SELECT 1 FROM ssd_cin_plans, w WHERE cinp_referral_id = invo_referral_id
            AND {_overlaps("cinp_cin_plan_start_date", "cinp_cin_plan_end_date")})""",
]


def _list(name: str, record: str, order: str) -> str:
    return _array(f"SELECT {record} AS json FROM {name} WHERE ref = c.raw ORDER BY {order}")


_NO_PURGE = ("purge", "'false'")
_START = ("start_date", _q(_day("start")))
_END = ("end_date", _q("ended"))


def _plan_list(name: str, key: str) -> tuple[str, str]:
    record = _object((f"{key}_id", _q("id")), _START, _END, _NO_PURGE)
    return f"{key}s", _list(name, record, f"start{_ascending(['id', 'ended'])}")


_LISTS = [
    (
        "child_and_family_assessments",
        _list(
            "assessment",
            _object(
                ("child_and_family_assessment_id", _q("id")),
                _START,
                ("authorisation_date", _q("authorised")),
                ("factors", _factor_texts("factors")),
                _NO_PURGE,
            ),
            f"start{_ascending(['id', 'authorised', _factor_texts('factors')])}",
        ),
    ),
    _plan_list("cin_plan", "child_in_need_plan"),
    (
        "section_47_assessments",
        _list(
            "enquiry",
            _object(
                ("section_47_assessment_id", _q("id")),
                _START,
                ("icpc_required_flag", _truth("required")),
                ("icpc_date", _q("conference")),
                _END,
                _NO_PURGE,
            ),
            f"start{_ascending(['id', 'required', 'conference', 'ended'])}",
        ),
    ),
    _plan_list("cp_plan", "child_protection_plan"),
    (
        "child_looked_after_placements",
        _list(
            "placement",
            _object(
                ("child_looked_after_placement_id", _q("id")),
                _START,
                ("start_reason", _q("start_reason")),
                ("postcode", _q("postcode")),
                ("placement_type", _q("type")),
                _END,
                ("end_reason", _q("end_reason")),
                ("change_reason", _q("change_reason")),
                _NO_PURGE,
            ),
            f"start DESC{_ascending(['id', *_PLACED])}",
        ),
    ),
    ("adoption", "(SELECT json FROM adoption WHERE adoption.person = c.person)"),
    ("care_leavers", "(SELECT json FROM leaver WHERE leaver.person = c.person)"),
    (
        "care_worker_details",
        _list(
            "worker",
            _object(("worker_id", _q("id")), _START, _END),
            f"start DESC{_ascending(['id', 'ended'])}",
        ),
    ),
]

# -- section 3: what belongs to the person, the episodes, the whole ---------------------------------


def _chosen(name: str, record: str, source: str, order: str) -> str:
    """A table of persons and one record of each: the first of ``source`` (columns and person) in an order."""
    return f"""CREATE TABLE {name} AS SELECT person, {record} AS json FROM (
        SELECT *, row_number() OVER (PARTITION BY person ORDER BY {order}) AS place FROM ({source}))
        WHERE place = 1"""


_DECIDED = ["perm_adm_decision_date", "perm_matched_date", "perm_placed_for_adoption_date"]
_FORMER = _tidy("link_identifier_value")
_SCORE_TEXT = _tidy("csdq_sdq_score")
_DIGITS = f"substr({_SCORE_TEXT}, 1 + (substr({_SCORE_TEXT}, 1, 1) IN ('+', '-')))"
_SCORE = f"""CASE typeof(csdq_sdq_score) WHEN 'integer' THEN csdq_sdq_score
    WHEN 'real' THEN CASE WHEN csdq_sdq_score = CAST(csdq_sdq_score AS INTEGER)
        THEN CAST(csdq_sdq_score AS INTEGER) END
    WHEN 'text' THEN CASE WHEN {_DIGITS} <> '' AND {_DIGITS} NOT GLOB '*[^0-9]*'
        AND length(ltrim({_DIGITS}, '0')) < 3
        THEN CAST({_SCORE_TEXT} AS INTEGER) END END"""
_PERSONS = [
    _chosen(
        "adoption",
        _object(
            *(
                (key, _q(_day(column)))
                for key, column in zip(
                    ("initial_decision_date", "matched_date", "placed_date"), _DECIDED, strict=True
                )
            ),
            _NO_PURGE,
        ),
        f"""SELECT p.pk AS person, perm.* FROM ssd_person p, ssd_permanence perm, w
        WHERE (perm_person_id = pers_person_id
            OR perm_cla_id IN (SELECT clae_cla_id FROM ssd_cla_episodes
                WHERE clae_person_id = pers_person_id))
        AND ({" OR ".join(_within(column) for column in _DECIDED)})""",
        "coalesce(perm_placed_for_adoption_date, perm_matched_date, perm_adm_decision_date) DESC"
        + _ascending(_day(column) for column in _DECIDED),
    ),
    _chosen(
        "leaver",
        _object(
            ("contact_date", _q("day")),
            ("activity", _q("activity")),
            ("accommodation", _q("accommodation")),
            _NO_PURGE,
        ),
        f"""SELECT p.pk AS person, clea_care_leaver_latest_contact AS contact,
            {_day("clea_care_leaver_latest_contact")} AS day,
            {_code("clea_care_leaver_activity", 2)} AS activity,
            {_code("clea_care_leaver_accommodation", 1)} AS accommodation
        FROM ssd_person p, ssd_care_leavers WHERE clea_person_id = pers_person_id""",
        f"contact DESC{_ascending(['day', 'activity', 'accommodation'])}",
    ),
    """DELETE FROM leaver WHERE json = '{"purge":false}'""",
    _chosen(
        "former",
        "number",
        f"""SELECT p.pk AS person, link_valid_from_date AS since,
            CASE WHEN length({_FORMER}) = 13 THEN {_FORMER} END AS number
        FROM ssd_person p, ssd_linked_identifiers WHERE link_person_id = pers_person_id
        AND upper_case({_tidy("link_identifier_type")}) = 'FORMER UNIQUE PUPIL NUMBER'""",
        f"since DESC{_ascending(['number'])}",
    ),
    _chosen(
        "home",
        "postcode",
        f"""SELECT p.pk AS person, addr_address_start_date AS since,
            {_postcode("addr_address_postcode")} AS postcode
        FROM ssd_person p, ssd_address WHERE addr_person_id = pers_person_id""",
        f"since DESC{_ascending(['postcode'])}",
    ),
    _chosen(
        "uasc",
        _q(_day("ends")),
        """SELECT p.pk AS person, immi_immigration_status_end_date AS ends,
            immi_immigration_status_start_date AS starts
        FROM ssd_person p, ssd_immigration_status, w WHERE immi_person_id = pers_person_id
        AND says_uasc(immi_immigration_status, w.pattern)
        AND (immi_immigration_status_end_date IS NULL OR immi_immigration_status_end_date >= w.s)""",
        "ends IS NOT NULL, ends DESC, starts DESC",
    ),
    f"""CREATE TABLE score AS SELECT p.pk AS person, csdq_sdq_completed_date AS moment, {_SCORE} AS score
    FROM ssd_person p, ssd_sdq_scores, w WHERE csdq_person_id = pers_person_id
    AND {_within("csdq_sdq_completed_date")}""",
    "DELETE FROM score WHERE score IS NULL OR score NOT BETWEEN 0 AND 40",
]

_SOURCE = f"upper_case({_tidy('cine_referral_source_code')})"
_NFA = _tidy("upper_case(CAST(cine_referral_nfa AS TEXT))")
_EPISODE_FIELDS = ["source", "closed", "reason", "nfa", *(key for key, _ in _LISTS)]
_EPISODE = _object(
    ("social_care_episode_id", _q("id")),
    ("referral_date", _q(_day("start"))),
    ("referral_source", _q("source")),
    ("closure_date", _q("closed")),
    ("closure_reason", _q("reason")),
    ("referral_no_further_action_flag", _truth("nfa")),
    *((key, key) for key, _ in _LISTS),
    _NO_PURGE,
)
_EPISODES = [
    f"""CREATE TABLE episode AS
    SELECT p.pk AS person, cine_referral_id AS raw, {_tidy("cine_referral_id")} AS id,
        cine_referral_date AS start,
        CASE WHEN {_SOURCE} GLOB '10*' THEN '10'
            WHEN {_SOURCE} GLOB '[1-3][A-F]*' OR {_SOURCE} GLOB '5[A-D]*' THEN substr({_SOURCE}, 1, 2)
            WHEN {_SOURCE} GLOB '[46789]*' THEN substr({_SOURCE}, 1, 1) END AS source,
        {_day("cine_close_date")} AS closed, {_code("cine_close_reason", 3)} AS reason,
        CASE WHEN {_NFA} IN ('1', 'Y', 'T', 'TRUE') THEN 1 WHEN {_NFA} IN ('0', 'N', 'F', 'FALSE') THEN 0
            END AS nfa
    FROM ssd_person p JOIN ssd_cin_episodes ON cine_person_id = pers_person_id, w
    WHERE {_overlaps("cine_referral_date", "cine_close_date")}""",
    # Lists count as fields where nothing else tells two episodes with one id apart.
    f"""CREATE TABLE told AS SELECT c.*, {
        ", ".join(f"{value} AS {key}" for key, value in _LISTS)
    } FROM episode c""",
    _kept("told", "person", _EPISODE_FIELDS),
]

_UPN = _tidy("pers_upn")
_REASON = f"upper_case(coalesce({_tidy('pers_upn_unknown')}, {_UPN}))"
_SEX = f"upper_case({_tidy('pers_sex')})"
_DISABILITIES = f"""coalesce({
    _array(
        f'''SELECT DISTINCT json_quote({_code("disa_disability_code", 4)}) AS json FROM ssd_disability
    WHERE disa_person_id = pers_person_id AND {_code("disa_disability_code", 4)} IS NOT NULL
    ORDER BY {_code("disa_disability_code", 4)} LIMIT 12'''
    )
}, '["NONE"]')"""


def _of_person(table: str) -> str:
    return f"(SELECT json FROM {table} WHERE {table}.person = p.pk)"


_DETAILS = _object(
    ("unique_pupil_number", f"CASE WHEN length({_UPN}) = 13 THEN {_q(_UPN)} END"),
    ("former_unique_pupil_number", _q(_of_person("former"))),
    (
        "unique_pupil_number_unknown_reason",
        f"CASE WHEN {_REASON} GLOB 'UN[1-9]' OR {_REASON} = 'UN10' THEN {_q(_REASON)} END",
    ),
    ("first_name", _q(_tidy("pers_forename"))),
    ("surname", _q(_tidy("pers_surname"))),
    ("date_of_birth", _q(_day("pers_dob"))),
    ("expected_date_of_birth", _q(_day("pers_expected_dob"))),
    ("sex", f"CASE WHEN {_SEX} IN ('M', 'F') THEN json_quote({_SEX}) ELSE '\"U\"' END"),
    ("ethnicity", _q(_code("pers_ethnicity", 4))),
    ("disabilities", _DISABILITIES),
    ("postcode", _q(_of_person("home"))),
    ("uasc_flag", "CASE WHEN p.pk IN (SELECT person FROM uasc) THEN 'true' ELSE 'false' END"),
    ("uasc_end_date", _of_person("uasc")),
    _NO_PURGE,
)
_WELL = f"""(SELECT '{{"sdq_assessments":[' || group_concat(json, ',') || '],"purge":false}}'
    FROM (SELECT {_object(("date", _q(_day("moment"))), ("score", "score"))} AS json FROM score
    WHERE score.person = p.pk ORDER BY moment DESC, score.score))"""
_PAYLOAD = [
    *_ASSESSMENTS,
    *_spans("cin_plan", "ssd_cin_plans", "cinp", "cin_plan"),
    *_spans("cp_plan", "ssd_cp_plans", "cppl", "cp_plan"),
    *_ENQUIRIES,
    *_PLACEMENTS,
    *_WORKERS,
    *_PERSONS,
    *_EPISODES,
    f"""CREATE TABLE payload AS SELECT p.pk AS person, {
        _object(
            ("la_child_id", _q(_tidy("pers_person_id"))),
            ("mis_child_id", _q(_tidy("pers_legacy_id"))),
            ("purge", "'false'"),
            ("child_details", _DETAILS),
            ("health_and_wellbeing", _WELL),
            (
                "social_care_episodes",
                _array(
                    f"SELECT {_EPISODE} AS json FROM told WHERE told.person = p.pk"
                    f" ORDER BY start{_ascending(['id', *_EPISODE_FIELDS])}"
                ),
            ),
        )
    } AS json FROM ssd_person p""",
]

# -- section 4 --------------------------------------------------------------------------------------

RECORD_IDS = {
    "social_care_episodes": "social_care_episode_id",
    "child_and_family_assessments": "child_and_family_assessment_id",
    "child_in_need_plans": "child_in_need_plan_id",
    "section_47_assessments": "section_47_assessment_id",
    "child_protection_plans": "child_protection_plan_id",
    "child_looked_after_placements": "child_looked_after_placement_id",
}


def semantic_hash(payload: Any) -> bytes:
    """Return the semantic hash, its canonical text written from the leaves up."""
    return hashlib.sha256(_semantic_text(payload, None).encode()).digest()


def _semantic_text(value: Any, inside: str | None) -> str:
    if isinstance(value, dict):
        mine = RECORD_IDS.get(inside or "")
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}:{_semantic_text(item, key)}"
            for key, item in sorted(value.items())
            if key not in ("purge", mine)
        ]
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list):
        texts = [_semantic_text(item, inside) for item in value]
        return "[" + ",".join(sorted(texts) if inside in RECORD_IDS else texts) + "]"
    return json.dumps(value, ensure_ascii=False)

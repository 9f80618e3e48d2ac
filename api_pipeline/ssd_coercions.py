"""From a value of the source to a value of the payload, and which of several rows gives it.

Carries out ssd, section 3. A coercion takes the raw value (or values) and a tally, and returns what the
payload holds, or None where the field is left out. A choice takes the rows of a table that belong to a record
and a :class:`Scope`. Both count, under a rule in plain words, what they change or leave out visibly; trimming
and blank values are not counted. They never raise for data. Which field uses which stands in
``ssd_mapping``.

Trimming is ``str.strip``: no-break spaces and line ends go too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

from api_pipeline.payload import UnreadablePayload, decode
from api_pipeline.ssd_tables import (
    Address,
    AssessmentFactors,
    ClaEpisode,
    Disability,
    ImmigrationStatus,
    InitialCpConference,
    LinkedIdentifier,
)
from api_pipeline.ssd_window import Window

# Rule in plain words -> how often it changed or left out something.
Tally = Counter[str]
TextCoercion = Callable[[str | None, Tally], str | None]

# Column -> the rows of a page by that column; names of columns tell their tables.
Groups = dict[str, Mapping[str, list[Any]]]


_Coercion = TypeVar("_Coercion", bound=Callable[..., Any])
_REPEATING: set[Callable[..., Any]] = set()
_MOST_REMEMBERED = 16_384


def repeating(coercion: _Coercion) -> _Coercion:
    """Mark a coercion of texts or moments that repeat: what it makes of them is worth remembering."""
    _REPEATING.add(coercion)
    return coercion


class Remembered(dict[Any, Any]):
    """Raw value -> what a coercion makes of it; to look it up takes a fifth of the time of working it out.

    Values of which something is counted are kept apart, with what is counted every time.
    """

    __slots__ = ("_coercion", "_counted", "_tally")

    def __init__(self, coercion: Callable[[Any, Tally], Any], tally: Tally) -> None:
        super().__init__()
        self._coercion = coercion
        self._tally = tally
        self._counted: dict[Any, tuple[Any, Tally]] = {}

    def __missing__(self, raw: Any) -> Any:
        if len(self) + len(self._counted) >= _MOST_REMEMBERED:
            return self._coercion(raw, self._tally)
        found = self._counted.get(raw)
        if found is None:
            tally: Tally = Counter()
            found = self._coercion(raw, tally), tally
            if tally:
                self._counted[raw] = found
            else:
                self[raw] = found[0]
        value, counted = found
        for rule, times in counted.items():
            self._tally[rule] += times
        return value


class Scope:
    """What a choice may ask for: the window, the test for UASC, the tally, and the rows by their joins.

    ``factors`` gives the factors that a JSON text holds.
    """

    __slots__ = ("_remembered", "factors", "groups", "is_uasc", "tally", "window")

    def __init__(self, window: Window, is_uasc: Callable[[str], bool], tally: Tally) -> None:
        self.window = window
        self.is_uasc = is_uasc
        self.tally = tally
        self.groups: Groups = {}
        self.factors = Remembered(_factors, tally)
        self._remembered: dict[Callable[..., Any], Remembered] = {}

    def remembered(self, coercion: Callable[..., Any]) -> Remembered | None:
        """Return what is remembered of a coercion, for all its fields together; None if it is not marked."""
        if coercion not in _REPEATING:
            return None
        return self._remembered.setdefault(coercion, Remembered(coercion, self.tally))


# --- Texts, ids, dates -----------------------------------------------------------------------------------

_POSTCODE_LONGEST = 8
_WORKER_ID_LONGEST = 12
_UPN_LENGTH = 13


def text(value: str | None, _tally: Tally) -> str | None:
    """Return a text trimmed; None where it is blank."""
    return value.strip() or None if value is not None else None


def identifier(value: str | None, _tally: Tally) -> str | None:
    """Return an id trimmed and never cut: cut ids collide. Too long a one is the validation's business."""
    return value.strip() or None if value is not None else None


def worker_id(value: str | None, tally: Tally) -> str | None:
    """Return a worker's id trimmed; one of more than 12 characters is left out, and its entry with it."""
    found = identifier(value, tally)
    if found is not None and len(found) > _WORKER_ID_LONGEST:
        tally["worker id over 12 characters left out with its entry"] += 1
        return None
    return found


@repeating
def day(value: datetime | None, _tally: Tally) -> str | None:
    """Return the day of a moment as YYYY-MM-DD."""
    return value.date().isoformat() if value is not None else None


def end_day(start: datetime | None, end: datetime | None, tally: Tally) -> str | None:
    """Return the day on which a placement ended; one before the day of the start is left out."""
    if start is not None and end is not None and end.date() < start.date():
        tally["placement end before its start left out"] += 1
        return None
    return day(end, tally)


def postcode(value: str | None, tally: Tally) -> str | None:
    """Return a postcode trimmed; one of more than 8 characters is left out."""
    found = text(value, tally)
    if found is not None and len(found) > _POSTCODE_LONGEST:
        tally["postcode over 8 characters left out"] += 1
        return None
    return found


# --- Codes -----------------------------------------------------------------------------------------------

_REASONS = frozenset(f"UN{number}" for number in range(1, 11))
_REFERRAL_SOURCE = re.compile("10|[1-3][A-F]|5[A-D]|[46789]")


def code(length: int, what: str) -> TextCoercion:
    """Return the coercion for a code of ``length`` characters that stands before any description.

    Trimmed, in upper case, cut, trimmed again. ``what`` names the code in the tally.
    """
    rule = f"{what} cut to {length} character{'s' * (length > 1)}"

    @repeating
    def cut_code(value: str | None, tally: Tally) -> str | None:
        if value is None:
            return None
        found = value.strip().upper()
        if len(found) > length:
            tally[rule] += 1
            found = found[:length].rstrip()
        return found or None

    return cut_code


disability_code = code(4, "disability code")
start_reason_code = code(1, "start reason of a looked after episode")


def end_reason_code(value: str | None, tally: Tally) -> str | None:
    """Return why a looked after episode ended: the first 3 characters of the code without white space."""
    if value is None:
        return None
    found = value.strip().upper()
    if len(found) > 3:
        tally["end reason of a looked after episode cut to 3 characters"] += 1
    return "".join(found[:3].split()) or None


@repeating
def referral_source(value: str | None, tally: Tally) -> str | None:
    """Return the code that a referral source begins with; left out where it begins with none."""
    found = text(value, tally)
    if found is None:
        return None
    found = found.upper()
    match = _REFERRAL_SOURCE.match(found)
    if match is None:
        tally["unknown referral source left out"] += 1
        return None
    if match.end() < len(found):
        tally["referral source cut to its code"] += 1
    return match[0]


@repeating
def sex(value: str | None, tally: Tally) -> str:
    """Return M or F, and U for everything else and where nothing is known."""
    found = value.strip().upper() if value is not None else ""
    if found in {"M", "F"}:
        return found
    if found not in {"", "U"}:
        tally["sex other than M, F and U sent as U"] += 1
    return "U"


def unique_pupil_number(value: str | None, tally: Tally) -> str | None:
    """Return a UPN of 13 characters; a reason in its column is no UPN, anything else is left out."""
    found = text(value, tally)
    if found is None or len(found) == _UPN_LENGTH:
        return found
    if found.upper() not in _REASONS:
        tally["unique pupil number not of 13 characters left out"] += 1
    return None


def upn_unknown_reason(unknown: str | None, upn: str | None, tally: Tally) -> str | None:
    """Return why there is no UPN: UN1 to UN10, from its own column, else from that of the UPN."""
    own = text(unknown, tally)
    found = own or text(upn, tally)
    if found is None:
        return None
    found = found.upper()
    if found in _REASONS:
        return found
    if own is not None:  # what is wrong in the other column is counted there
        tally["reason for no unique pupil number outside UN1 to UN10 left out"] += 1
    return None


# --- Flags and numbers -----------------------------------------------------------------------------------

_YES = frozenset({"1", "Y", "T", "TRUE"})
_NO = frozenset({"0", "N", "F", "FALSE"})
_WHOLE_NUMBER = re.compile("[+-]?0*[0-9]{1,2}", re.ASCII)
_LONGEST_SCORE = 40
_CONFERENCE_FLAG = "CP_CONFERENCE_FLAG"


def _flag(value: Any, rule: str, tally: Tally) -> bool | None:
    """Return what a flag in any of the usual spellings says; None, counted, where it says nothing."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().upper()
        if not word:
            return None
        if word in _YES:
            return True
        if word in _NO:
            return False
    elif not isinstance(value, list | dict) and value in (0, 1):
        return bool(value)
    tally[rule] += 1
    return None


def no_further_action(value: Any, tally: Tally) -> bool | None:
    """Return whether a referral led to nothing: 1/Y/T/TRUE or 0/N/F/FALSE, anything else is left out."""
    return _flag(value, "no further action flag that is neither yes nor no left out", tally)


@repeating
def conference_flag(value: str | None, tally: Tally) -> bool | None:
    """Return the CP_CONFERENCE_FLAG of an outcome, a JSON object; left out if it is neither yes nor no."""
    outcome = _json(value)
    if outcome is None:
        return None
    if not isinstance(outcome, dict):
        tally["unreadable section 47 outcome left out"] += 1
        return None
    rule = "conference flag that is neither yes nor no left out"
    return _flag(outcome.get(_CONFERENCE_FLAG), rule, tally)


def score(value: Any, tally: Tally) -> int | None:
    """Return an SDQ score, a whole number of 0 to 40; anything else is left out, and its entry with it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    found = _whole_number(value)
    if found is None or not 0 <= found <= _LONGEST_SCORE:
        tally["SDQ score that is no whole number of 0 to 40 left out with its entry"] += 1
        return None
    return found


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if _WHOLE_NUMBER.fullmatch(digits) else None
    if isinstance(value, bool | bytes):
        return None
    try:
        return int(value) if value == int(value) else None
    except (ValueError, TypeError, ArithmeticError):  # NaN and infinity
        return None


def _json(value: str | None) -> Any:
    """Return a JSON text as a value: None for nothing, blank and null, "" for what is broken."""
    content = value.strip() if value is not None else ""
    if not content:
        return None
    try:
        return decode(content, unique_keys=False)  # nothing of such a text is sent as it stands
    except UnreadablePayload:
        return ""


# --- Choices: which of several rows, or what all of them together give -----------------------------------


def latest(rows: Sequence[Any], when: Callable[[Any], datetime | None]) -> list[Any]:
    """Return the rows with the latest date, more than one where they tie; no date is the oldest."""
    if len(rows) < 2:
        return list(rows)
    dates = [when(row) for row in rows]
    last = max([date for date in dates if date is not None], default=None)
    return [row for row, date in zip(rows, dates, strict=True) if date == last]


def smallest(values: Sequence[str | None]) -> str | None:
    """Return the first value by code point; None if there is none."""
    if len(values) == 1:
        return values[0]
    return min((value for value in values if value is not None), default=None)


def latest_postcode(rows: Sequence[Address], scope: Scope) -> str | None:
    """Return the postcode of the address with the latest start."""
    if not rows:
        return None
    newest = latest(rows, attrgetter("addr_address_start_date"))
    return smallest([postcode(row.addr_address_postcode, scope.tally) for row in newest])


def former_upn(rows: Sequence[LinkedIdentifier], scope: Scope) -> str | None:
    """Return the former UPN with the latest start, and no older one where that has not 13 characters."""
    if not rows:
        return None
    former = [row for row in rows if _is_former_upn(row.link_identifier_type)]
    newest = latest(former, attrgetter("link_valid_from_date"))
    return smallest([_former_upn(row.link_identifier_value, scope.tally) for row in newest])


def _is_former_upn(kind: str | None) -> bool:
    return kind is not None and kind.strip().upper() == "FORMER UNIQUE PUPIL NUMBER"


def _former_upn(value: str | None, tally: Tally) -> str | None:
    found = text(value, tally)
    if found is not None and len(found) != _UPN_LENGTH:
        tally["former unique pupil number not of 13 characters left out"] += 1
        return None
    return found


_NO_DISABILITY = "NONE"
_MOST_DISABILITIES = 12


def disabilities(rows: Sequence[Disability], scope: Scope) -> list[str]:
    """Return the distinct codes, sorted, at most 12; NONE where there is no code."""
    if not rows:
        return [_NO_DISABILITY]
    codes = {disability_code(row.disa_disability_code, scope.tally) for row in rows}
    found = sorted(code for code in codes if code is not None)
    if len(found) > _MOST_DISABILITIES:
        scope.tally["disabilities after the twelfth left out"] += len(found) - _MOST_DISABILITIES
    return found[:_MOST_DISABILITIES] or [_NO_DISABILITY]


# The word directly before, blanks and punctuation aside, if it is one of those that deny it.
_UASC = re.compile(r"(?:(?<![^\W_])(NOT|NON|FORMER))?[\W_]*UASC")


def uasc_test(pattern: str | None) -> Callable[[str], bool]:
    """Return the test of an immigration status for an unaccompanied asylum-seeking child (UASC).

    Args:
        pattern: the setting UASC_PATTERN, a regular expression on the trimmed upper-case text, or None for
            the rule of ssd, section 3: U, or containing UASC that is not denied by the word before it.
    """
    if pattern is not None:
        search = re.compile(pattern).search
        return lambda status: bool(status.strip()) and search(status.strip().upper()) is not None
    return _is_uasc


def _is_uasc(status: str) -> bool:
    status = status.strip().upper()
    return status == "U" or any(match[1] is None for match in _UASC.finditer(status))


def _uasc_statuses(rows: Sequence[ImmigrationStatus], scope: Scope) -> list[ImmigrationStatus]:
    """Return the UASC statuses that had not ended before the window started."""
    return [
        row
        for row in rows
        if row.immi_immigration_status is not None
        and (
            row.immi_immigration_status_end_date is None
            or row.immi_immigration_status_end_date >= scope.window.start
        )
        and scope.is_uasc(row.immi_immigration_status)
    ]


def uasc_flag(rows: Sequence[ImmigrationStatus], scope: Scope) -> bool:
    """Return whether a UASC status had not ended before the window started."""
    return bool(rows) and bool(_uasc_statuses(rows, scope))


def uasc_end_date(rows: Sequence[ImmigrationStatus], scope: Scope) -> str | None:
    """Return the end of that status: none if one of several is open, else the latest end."""
    ends = [row.immi_immigration_status_end_date for row in _uasc_statuses(rows, scope)] if rows else []
    known = [end for end in ends if end is not None]
    return day(max(known), scope.tally) if known and len(known) == len(ends) else None


def factors(rows: Sequence[AssessmentFactors], scope: Scope) -> list[str]:
    """Return the factors of an assessment: one row's as they stand, those of several distinct and sorted."""
    if not rows:
        return []
    lists: list[list[str]] = [scope.factors[row.cinf_assessment_factors_json] for row in rows]
    if len(lists) == 1:
        return lists[0]
    scope.tally["equal ids united: assessment factors"] += len(lists) - 1
    return united(lists)


def united(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return the distinct texts of all lists, sorted."""
    return sorted({item for items in lists for item in items})


def _factors(value: str | None, tally: Tally) -> list[str]:
    found = _json(value)
    if found is None:
        return []
    if not isinstance(found, list):
        tally["assessment factors that are no list left out"] += 1
        return []
    texts = [item.strip() for item in found if type(item) is str]
    if len(texts) < len(found):
        tally["assessment factor that is no text left out"] += len(found) - len(texts)
    return [item for item in texts if item]


def latest_conference(rows: Sequence[InitialCpConference]) -> datetime | None:
    """Return the moment of the latest initial child protection conference."""
    return max((row.icpc_icpc_date for row in rows if row.icpc_icpc_date is not None), default=None)


def conference_date(rows: Sequence[InitialCpConference], scope: Scope) -> str | None:
    """Return the day of the latest initial child protection conference."""
    return day(latest_conference(rows), scope.tally) if rows else None


def start_reason(rows: Sequence[ClaEpisode], scope: Scope) -> str | None:
    """Return the smallest start reason of the referral's CLA episodes with the placement's CLA id."""
    return smallest([start_reason_code(row.clae_cla_episode_start_reason, scope.tally) for row in rows])


def end_reason(rows: Sequence[ClaEpisode], scope: Scope) -> str | None:
    """Return the smallest end reason of the referral's CLA episodes with the placement's CLA id."""
    return smallest([end_reason_code(row.clae_cla_episode_ceased_reason, scope.tally) for row in rows])

"""Promises of ssd_coercions.py: what becomes of a value of the source, and what of that is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import ssd_coercions as take
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

D = datetime
WINDOW = Window.of(date(2025, 11, 20), 24)


def scope(pattern: str | None = None) -> take.Scope:
    """Return a scope of the window from 1 April 2023 to 21 November 2025."""
    return take.Scope(WINDOW, take.uasc_test(pattern), Counter())


def check(coercion: Callable[..., Any], values: tuple[Any, ...], expected: Any, rules: list[str]) -> None:
    """Assert what a coercion gives, of which type, and what it counts, each once."""
    tally: Counter[str] = Counter()
    found = coercion(*values, tally)
    assert found == expected
    assert type(found) is type(expected)
    assert tally == Counter(rules)


def check_choice(choice: Callable[..., Any], rows: list[Any], expected: Any, rules: list[str]) -> None:
    """Assert what a choice gives and counts, in whichever order the rows come."""
    for order in (rows, rows[::-1]):
        asked = scope()
        assert choice(order, asked) == expected
        assert asked.tally == Counter(rules)


# --- Texts, ids, dates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("coercion", [take.text, take.identifier, take.worker_id, take.postcode])
@pytest.mark.parametrize("blank", [None, "", "  ", "\t\r\n", "\u00a0"])
def test_blank_texts_are_unknown_and_not_counted(coercion: take.TextCoercion, blank: str | None) -> None:
    """NULL, nothing and white space of any kind leave the field out."""
    check(coercion, (blank,), None, [])


@pytest.mark.parametrize("coercion", [take.text, take.identifier])
def test_texts_and_ids_are_trimmed_and_never_cut(coercion: take.TextCoercion) -> None:
    """Blanks inside stay, outer ones go, and no length is too much."""
    check(coercion, (f" \tA b{'c' * 60}\u00a0",), f"A b{'c' * 60}", [])


def test_worker_id_over_12_characters_is_left_out_and_counted() -> None:
    """The count is of the trimmed text."""
    check(take.worker_id, ("  123456789012 ",), "123456789012", [])
    rule = "worker id over 12 characters left out with its entry"
    check(take.worker_id, ("1234567890123",), None, [rule])


def test_postcode_over_8_characters_is_left_out_and_counted() -> None:
    """The count is of the trimmed text; a postcode keeps its letters as they are."""
    check(take.postcode, (" ab12 3cd ",), "ab12 3cd", [])
    check(take.postcode, ("AB12  3CD",), None, ["postcode over 8 characters left out"])


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (None, None),
        (D(2024, 2, 29, 23, 59, 59), "2024-02-29"),
        (D(999, 1, 2), "0999-01-02"),
        (D(9999, 12, 31), "9999-12-31"),
    ],
)
def test_day_is_written_with_four_digits_of_year(moment: datetime | None, expected: str | None) -> None:
    """The time of day is dropped, not rounded."""
    check(take.day, (moment,), expected, [])


@pytest.mark.parametrize(
    ("start", "end", "expected", "rules"),
    [
        (D(2025, 5, 2), D(2025, 5, 1), None, ["placement end before its start left out"]),
        (D(2025, 5, 2, 18), D(2025, 5, 2, 9), "2025-05-02", []),
        (None, D(2025, 5, 1), "2025-05-01", []),
        (D(2025, 5, 2), None, None, []),
    ],
)
def test_placement_end_before_the_day_of_the_start_is_left_out(
    start: datetime | None, end: datetime | None, expected: str | None, rules: list[str]
) -> None:
    """Times of day do not count."""
    check(take.end_day, (start, end), expected, rules)


# --- Codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        (" rc1 ", "RC1", []),
        ("RC1 - Case closed", "RC1", ["thing cut to 3 characters"]),
        ("R ", "R", []),
        ("a b c", "A B", ["thing cut to 3 characters"]),
        ("ab cd", "AB", ["thing cut to 3 characters"]),
        ("   ", None, []),
        (None, None, []),
    ],
)
def test_code_is_trimmed_upper_case_and_cut(
    value: str | None, expected: str | None, rules: list[str]
) -> None:
    """Only cutting is counted."""
    check(take.code(3, "thing"), (value,), expected, rules)


def test_code_of_one_character_is_counted_in_the_singular() -> None:
    """The rule is read by people."""
    check(take.code(1, "thing"), ("BX",), "B", ["thing cut to 1 character"])


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        (" x1 ", "X1", []),
        ("X 1", "X1", []),
        ("E4a left care", "E4A", ["end reason of a looked after episode cut to 3 characters"]),
        ("X  1", "X", ["end reason of a looked after episode cut to 3 characters"]),
        (" ", None, []),
        (None, None, []),
    ],
)
def test_end_reason_has_no_white_space_in_its_first_3_characters(
    value: str | None, expected: str | None, rules: list[str]
) -> None:
    """Cut first, then without white space."""
    check(take.end_reason_code, (value,), expected, rules)


_UNKNOWN = ["unknown referral source left out"]
_CUT = ["referral source cut to its code"]


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        *((f" {code.lower()} ", code, []) for code in "1A 1F 2A 3F 5A 5D 4 6 7 8 9 10".split()),
        ("1A - Individual: family", "1A", _CUT),
        ("10 - Other", "10", _CUT),
        ("100", "10", _CUT),
        ("4A", "4", _CUT),
        ("5E", None, _UNKNOWN),
        ("1", None, _UNKNOWN),
        ("1G", None, _UNKNOWN),
        ("0A", None, _UNKNOWN),
        ("Police", None, _UNKNOWN),
        ("", None, []),
        (None, None, []),
    ],
)
def test_referral_source_is_the_code_that_the_text_begins_with(
    value: str | None, expected: str | None, rules: list[str]
) -> None:
    """Descriptions behind the code are cut, what begins with no code is left out."""
    check(take.referral_source, (value,), expected, rules)


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        (" m ", "M", []),
        ("F", "F", []),
        ("U", "U", []),
        (None, "U", []),
        (" ", "U", []),
        ("Male", "U", ["sex other than M, F and U sent as U"]),
    ],
)
def test_sex_is_m_f_or_else_u(value: str | None, expected: str, rules: list[str]) -> None:
    """Nothing else is ever sent."""
    check(take.sex, (value,), expected, rules)


_BAD_UPN = ["unique pupil number not of 13 characters left out"]
_BAD_REASON = ["reason for no unique pupil number outside UN1 to UN10 left out"]


@pytest.mark.parametrize(
    ("upn", "unknown", "number", "reason", "rules"),
    [
        (" A123456789012 ", None, "A123456789012", None, []),
        (" un3 ", None, None, "UN3", []),
        ("UN3", " un10 ", None, "UN10", []),
        ("UN3", "UN11", None, None, _BAD_REASON),
        ("A123456789012", "none", "A123456789012", None, _BAD_REASON),
        ("A12345", None, None, None, _BAD_UPN),
        ("A12345", "UN1", None, "UN1", _BAD_UPN),
        ("A12345", "UN0", None, None, _BAD_UPN + _BAD_REASON),
        ("UN11", " ", None, None, _BAD_UPN),
        (None, "", None, None, []),
    ],
)
def test_upn_column_holds_a_number_or_a_reason(
    upn: str | None, unknown: str | None, number: str | None, reason: str | None, rules: list[str]
) -> None:
    """13 characters are a number, UN1 to UN10 a reason that the reason's own column overrides."""
    tally: Counter[str] = Counter()
    assert take.unique_pupil_number(upn, tally) == number
    assert take.upn_unknown_reason(unknown, upn, tally) == reason
    assert tally == Counter(rules)


# --- Flags and numbers -----------------------------------------------------------------------------------

_BAD_NFA = ["no further action flag that is neither yes nor no left out"]


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        *((word, True, []) for word in ["1", "Y", " y", "t", "True", 1, 1.0, True]),
        *((word, False, []) for word in ["0", "N", "n ", "f", "FALSE", 0, False]),
        *((word, None, []) for word in [None, "", " "]),
        *((word, None, _BAD_NFA) for word in ["2", "9", "YES", "NO", 2, -1, 0.5]),
    ],
)
def test_no_further_action_is_yes_or_no_or_left_out(
    value: Any, expected: bool | None, rules: list[str]
) -> None:
    """Blank is unknown, not false; digits 2 to 9 and words beyond the list are left out and counted."""
    check(take.no_further_action, (value,), expected, rules)


_BAD_FLAG = ["conference flag that is neither yes nor no left out"]
_BAD_OUTCOME = ["unreadable section 47 outcome left out"]


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        ('{"CP_CONFERENCE_FLAG": "Y"}', True, []),
        ('{"CP_CONFERENCE_FLAG": " t "}', True, []),
        ('{"CP_CONFERENCE_FLAG": 1}', True, []),
        ('{"CP_CONFERENCE_FLAG": true}', True, []),
        ('{"CP_CONFERENCE_FLAG": "false"}', False, []),
        (' {"CP_CONFERENCE_FLAG": 0} ', False, []),
        ('{"CP_CONFERENCE_FLAG": "n"}', False, []),
        ('{"CP_CONFERENCE_FLAG": "maybe"}', None, _BAD_FLAG),
        ('{"CP_CONFERENCE_FLAG": 2}', None, _BAD_FLAG),
        ('{"CP_CONFERENCE_FLAG": ["Y"]}', None, _BAD_FLAG),
        ('{"CP_CONFERENCE_FLAG": null}', None, []),
        ('{"CP_CONFERENCE_FLAG": ""}', None, []),
        ('{"a": 1, "a": 2, "CP_CONFERENCE_FLAG": "Y"}', True, []),
        ('{"cp_conference_flag": "Y"}', None, []),
        ('{"outcome": {"CP_CONFERENCE_FLAG": "Y"}}', None, []),
        ('{"CP_CONFERENCE_FLAG": "Y"', None, _BAD_OUTCOME),
        ('["Y"]', None, _BAD_OUTCOME),
        ("null", None, []),
        (" ", None, []),
        (None, None, []),
    ],
)
def test_conference_flag_is_a_top_level_key_of_the_outcome(
    value: str | None, expected: bool | None, rules: list[str]
) -> None:
    """Its exact name counts; its value may be a truth value, a number or a text."""
    check(take.conference_flag, (value,), expected, rules)


_BAD_SCORE = ["SDQ score that is no whole number of 0 to 40 left out with its entry"]


@pytest.mark.parametrize(
    ("value", "expected", "rules"),
    [
        (0, 0, []),
        (40, 40, []),
        (12.0, 12, []),
        (Decimal("7.00"), 7, []),
        (" 12 ", 12, []),
        ("+5", 5, []),
        ("-0", 0, []),
        ("0040", 40, []),
        (None, None, []),
        (" ", None, []),
        *(
            (bad, None, _BAD_SCORE)
            for bad in [-1, 41, 12.5, "41", "-3", "12.0", "1e1", "twelve", True, float("nan"), float("inf")]
        ),
        (Decimal("NaN"), None, _BAD_SCORE),
        ("\u0661\u0662", None, _BAD_SCORE),
        ("9" * 5000, None, _BAD_SCORE),
    ],
)
def test_score_is_a_whole_number_of_0_to_40(value: Any, expected: int | None, rules: list[str]) -> None:
    """A number or a text of digits with a sign at most; nothing else, and no text however long, passes."""
    check(take.score, (value,), expected, rules)


@given(st.text(max_size=12))
def test_no_text_upsets_a_coercion(value: str) -> None:
    """Whatever a column holds, coercions return."""
    tally: Counter[str] = Counter()
    for coercion in (
        *(take.text, take.worker_id, take.postcode, take.disability_code, take.end_reason_code, take.sex),
        *(take.referral_source, take.unique_pupil_number, take.no_further_action, take.conference_flag),
    ):
        coercion(value, tally)
    take.score(value, tally)
    take.factors([AssessmentFactors("A", value)], scope())
    take.uasc_flag([ImmigrationStatus("P", value, None, None)], scope())


# --- Choices ---------------------------------------------------------------------------------------------


def test_latest_takes_all_that_tie_and_no_date_as_the_oldest() -> None:
    """Rows without a date count only where there is no other."""
    rows = [(None, 1), (D(2020, 1, 1), 2), (D(2021, 1, 1), 3), (None, 4), (D(2021, 1, 1), 5)]
    assert take.latest(rows, lambda row: row[0]) == [rows[2], rows[4]]
    assert take.latest([rows[0], rows[3]], lambda row: row[0]) == [rows[0], rows[3]]
    assert take.latest([], lambda row: row[0]) == []


def test_postcode_is_that_of_the_address_with_the_latest_start() -> None:
    """An older one does not stand in for it, and of two with one start the smaller postcode goes."""
    old, new = Address("P", "AA1 1AA", None), Address("P", "BB1 1BB", D(2020, 1, 1))
    check_choice(take.latest_postcode, [old, new], "BB1 1BB", [])
    check_choice(take.latest_postcode, [new, Address("P", " ", D(2021, 1, 1))], None, [])
    check_choice(take.latest_postcode, [new, Address("P", "AB1 1BB", D(2020, 1, 1))], "AB1 1BB", [])
    check_choice(take.latest_postcode, [new, Address("P", None, D(2020, 1, 1))], "BB1 1BB", [])
    too_long = Address("P", "AB1  1BBB", D(2021, 1, 1))
    check_choice(take.latest_postcode, [new, too_long], None, ["postcode over 8 characters left out"])
    check_choice(take.latest_postcode, [], None, [])


def test_former_upn_is_the_latest_of_its_type_or_none() -> None:
    """The type counts without case and outer blanks; an older number never stands in for a bad one."""
    kind = " former unique pupil NUMBER "
    old = LinkedIdentifier("P", kind, "A123456789012", D(2019, 1, 1))
    new = LinkedIdentifier("P", "Former Unique Pupil Number", " B123456789012 ", D(2020, 1, 1))
    other = LinkedIdentifier("P", "NHS number", "C123456789012", D(2021, 1, 1))
    bad = LinkedIdentifier("P", kind, "B12", D(2022, 1, 1))
    blank = LinkedIdentifier("P", kind, " ", D(2022, 1, 1))
    check_choice(take.former_upn, [old, new, other], "B123456789012", [])
    check_choice(take.former_upn, [old, blank], None, [])
    rule = "former unique pupil number not of 13 characters left out"
    check_choice(take.former_upn, [old, bad], None, [rule])
    check_choice(take.former_upn, [other, LinkedIdentifier("P", None, "A123456789012", None)], None, [])


def test_disabilities_are_distinct_sorted_and_at_most_12() -> None:
    """Codes that become equal by cutting and upper case come once; without any there is NONE."""
    check_choice(take.disabilities, [], ["NONE"], [])
    check_choice(take.disabilities, [Disability("P", " "), Disability("P", None)], ["NONE"], [])
    rows = [Disability("P", code) for code in ["vis", "MOB ", "Mob", "HEAR"]]
    check_choice(take.disabilities, rows, ["HEAR", "MOB", "VIS"], [])
    check_choice(
        take.disabilities, [Disability("P", "hearing")], ["HEAR"], ["disability code cut to 4 characters"]
    )
    many = [Disability("P", f"A{number:02}") for number in range(14)]
    expected = [f"A{number:02}" for number in range(12)]
    check_choice(take.disabilities, many, expected, ["disabilities after the twelfth left out"] * 2)


@pytest.mark.parametrize(
    ("status", "marks"),
    [
        ("U", True),
        (" u ", True),
        ("UASC", True),
        ("Is a uasc child", True),
        ("NOT UASC", False),
        ("non-uasc", False),
        ("NONUASC", False),
        ("Former  /  UASC", False),
        ("formerly UASC", True),
        ("KNOT UASC", True),
        ("NOT A UASC", True),
        ("Former UASC, again UASC", True),
        ("Not UASC, former UASC", False),
        ("UASC, not former", True),
        ("NOT_UASC", False),
        ("Unknown", False),
        ("UU", False),
        ("", False),
    ],
)
def test_uasc_is_u_or_a_text_that_holds_uasc_undenied(status: str, marks: bool) -> None:
    """Only the word directly before denies it, blanks and punctuation aside."""
    assert take.uasc_test(None)(status) is marks


def test_uasc_pattern_overrides_the_rule() -> None:
    """It is searched in the trimmed upper-case text; a blank status is none, whatever the pattern."""
    marks = take.uasc_test("^(ASYLUM|LEAVE)$")
    assert marks(" asylum ")
    assert not marks("U")
    assert not marks("UASC")
    assert not take.uasc_test(".*")("  ")


def _status(end: datetime | None, status: str | None = "UASC") -> ImmigrationStatus:
    return ImmigrationStatus("P", status, D(2030, 1, 1), end)


def test_uasc_status_counts_until_it_ended_before_the_window() -> None:
    """The start does not count; an end on the first midnight of the window still does."""
    check_choice(take.uasc_flag, [_status(None)], True, [])
    check_choice(take.uasc_flag, [_status(D(2023, 4, 1))], True, [])
    check_choice(take.uasc_flag, [_status(D(2023, 3, 31, 23, 59))], False, [])
    check_choice(take.uasc_flag, [_status(None, "EU"), _status(None, None)], False, [])
    check_choice(take.uasc_flag, [], False, [])


def test_uasc_end_is_that_of_the_open_status_else_the_latest() -> None:
    """An open status hides the ends of others; ends before the window and of other statuses do not count."""
    early, late, past = _status(D(2024, 1, 1)), _status(D(2025, 1, 1)), _status(D(2020, 1, 1))
    check_choice(take.uasc_end_date, [early, late, past], "2025-01-01", [])
    check_choice(take.uasc_end_date, [late, _status(None)], None, [])
    check_choice(take.uasc_end_date, [late, _status(None, "EU")], "2025-01-01", [])
    check_choice(take.uasc_end_date, [past], None, [])
    check_choice(take.uasc_end_date, [], None, [])


@pytest.mark.parametrize(
    ("texts", "expected", "rules"),
    [
        ([], [], []),
        ([None], [], []),
        (["  "], [], []),
        (["null"], [], []),
        (["[]"], [], []),
        (['["3B", " 2A ", "2A"]'], ["3B", "2A", "2A"], []),
        (['["2A", "", " "]'], ["2A"], []),
        (['["2A", 1, null, {}]'], ["2A"], ["assessment factor that is no text left out"] * 3),
        (['["2A", {"a": 1, "a": 2}]'], ["2A"], ["assessment factor that is no text left out"]),
        (['["2A"'], [], ["assessment factors that are no list left out"]),
        (['{"2A": true}'], [], ["assessment factors that are no list left out"]),
        (['"2A"'], [], ["assessment factors that are no list left out"]),
        (['["\\ud800"]'], [], ["assessment factors that are no list left out"]),
        (['["3B", "2A"]', '["3B"]', None], ["2A", "3B"], ["equal ids united: assessment factors"] * 2),
    ],
)
def test_factors_are_texts_in_the_order_of_their_row(
    texts: list[str | None], expected: list[str], rules: list[str]
) -> None:
    """What is broken gives an empty list; only those of several rows are sorted and made distinct."""
    check_choice(take.factors, [AssessmentFactors("A", text) for text in texts], expected, rules)


def test_conference_date_is_the_latest_known() -> None:
    """Conferences without a date count for nothing."""
    rows = [InitialCpConference("S", moment) for moment in [D(2025, 1, 1), None, D(2024, 1, 1)]]
    check_choice(take.conference_date, rows, "2025-01-01", [])
    check_choice(take.conference_date, [rows[1]], None, [])
    check_choice(take.conference_date, [], None, [])


def test_reasons_of_looked_after_episodes_are_the_smallest_of_all() -> None:
    """Compared after trimming and upper case; blanks are passed over."""
    rows = [
        ClaEpisode("1", "P", "C", "R", " s ", "x1"),
        ClaEpisode("2", "P", "C", "R", "L", "E 4"),
        ClaEpisode("3", "P", "C", "R", " ", None),
    ]
    check_choice(take.start_reason, rows, "L", [])
    check_choice(take.end_reason, rows, "E4", [])
    check_choice(take.start_reason, [rows[2]], None, [])
    check_choice(take.end_reason, [], None, [])


# --- What is remembered ----------------------------------------------------------------------------------

REMEMBERED: list[Callable[..., Any]] = [
    take.day,
    take.code(2, "code"),
    take.referral_source,
    take.sex,
    take.conference_flag,
]


@pytest.mark.parametrize("most", [0, 3, 1_000])
@given(st.data())
def test_what_is_remembered_is_what_is_worked_out(most: int, data: st.DataObject) -> None:
    """Value for value and count for count, also where there is no room for more."""
    coercion = data.draw(st.sampled_from(REMEMBERED))
    texts = st.sampled_from(["1A", "1a ", "2Bx", "", "F", "?", '{"CP_CONFERENCE_FLAG": 1}', "[]", "{"])
    values = data.draw(st.lists(st.datetimes() if coercion is take.day else texts, max_size=9))
    asked, tally = scope(), Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(take, "_MOST_REMEMBERED", most)
        known = asked.remembered(coercion)
        assert known is not None
        for value in values * 2:
            assert known[value] == coercion(value, tally)
        assert len(known) <= most
    assert asked.tally == tally

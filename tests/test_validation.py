"""Promises of validation.py: every structural fault of domain, section 4 is found, and nothing is quoted."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.fake import fake_children
from api_pipeline.payload import UnreadablePayload, child_ids, parse
from api_pipeline.validation import Finding, Severity, check_text, check_value, describe
from tests.strategies import (
    FIELDS,
    MARKER,
    MOST_DISABILITIES,
    REQUIRED,
    Faulty,
    Field,
    children,
    concrete,
    faulty_children,
    minimal,
    wrong_values,
)


def _brief(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(finding.severity.value, finding.path, finding.rule) for finding in findings]


def _good_values(field: Field) -> list[Any]:
    longest = field.longest or 5_000
    good: dict[str, list[Any]] = {
        "id": ["A", "a-Z_9" + "x" * (longest - 5)],
        "text": ["", "x" * longest, "\U0001f31f" * longest, "O'\u00c9\n"[:longest]],
        "code": list(field.values),
        "flag": [True, False],
        "date": ["2024-02-29", "0001-01-01", "9999-12-31"],
        "upn": ["A123456789012", "abcdefghijklm"],
        "score": [0, 40],
        "one_of": list(field.values),
    }
    optional = not field.required and not field.in_list
    return good[field.kind] + ([None] if optional else [])


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_each_field_takes_what_section_4_allows(field: Field) -> None:
    """Values up to the limit, every known code, and null in optional fields give no finding at all."""
    for value in _good_values(field):
        assert check_value(minimal(field.path, value)) == ()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_each_field_refuses_what_is_just_outside(field: Field) -> None:
    """A value over the limit, of another type or of another form is one error at its own path."""
    wrong = wrong_values(field)
    if field.kind == "id" and field.longest:
        wrong.append(("max_length", "x" * (field.longest + 1)))
    if field.kind == "code" and field.longest:
        wrong.append(("max_length", "x" * (field.longest + 1)))
    for rule, value in wrong:
        findings = check_value(minimal(field.path, value))
        assert _brief(findings) == [("error", concrete(field.path), rule)], value


@pytest.mark.parametrize("value", ["a\n", "\u0663", "a b", "caf\u00e9", "a.b", "a\u0000", "<a>"])
def test_ids_are_plain_characters_only(value: str) -> None:
    """Digits of other scripts, a line end after the id and punctuation are refused in every id."""
    for field in FIELDS:
        if field.kind == "id":
            assert _brief(check_value(minimal(field.path, value))) == [
                ("error", concrete(field.path), "pattern")
            ]


@pytest.mark.parametrize("value", ["1900-02-29", "2024-04-31", "2024-01-01\n", " 2024-01-01", "2024-W01-1"])
def test_dates_exist_and_are_written_one_way(value: str) -> None:
    """Only YYYY-MM-DD of a day that exists passes as a date."""
    findings = check_value(minimal("child_details.date_of_birth", value))
    assert _brief(findings) == [("error", "$.child_details.date_of_birth", "date")]


@pytest.mark.parametrize(
    "field", [field for field in FIELDS if field.kind == "code"], ids=lambda field: field.path
)
def test_an_unknown_code_is_a_warning(field: Field) -> None:
    """A code that fits but is in no list is a warning: DfE is the authority."""
    assert _brief(check_value(minimal(field.path, "?"))) == [("warning", concrete(field.path), "code_list")]


@pytest.mark.parametrize("path", sorted(REQUIRED))
def test_a_missing_id_is_an_error_at_its_place(path: str) -> None:
    """The record's own id has to be there; the path names the field that is missing."""
    child = minimal(path, "x")
    here: Any = child
    *parents, last = path.split(".")
    for step in parents:
        here = here[step.removesuffix("[]")]
        here = here[0] if step.endswith("[]") else here
    del here[last]
    assert _brief(check_value(child)) == [("error", concrete(path), "required")]


_CONTAINERS = sorted(
    {
        ".".join(field.path.split(".")[: depth + 1])
        for field in FIELDS
        for depth in range(len(field.path.split(".")))
        if depth < len(field.path.split(".")) - 1 or field.in_list
    }
)


@pytest.mark.parametrize("path", _CONTAINERS)
def test_objects_and_lists_may_be_null_or_empty_but_nothing_else(path: str) -> None:
    """A record or list may be null or (lists) empty; another type, or a null item, is an error."""
    bare = path.removesuffix("[]")
    is_list = bare != path
    assert check_value(minimal(bare, None)) == ()
    if is_list:
        assert check_value(minimal(bare, [])) == ()
        assert _brief(check_value(minimal(path, None))) == [("error", concrete(path), "type")]
    others: list[Any] = ["x", 1, False, {} if is_list else []]
    for other in others:
        assert _brief(check_value(minimal(bare, other))) == [("error", concrete(bare), "type")]


def test_a_child_has_at_most_twelve_disabilities() -> None:
    """Twelve entries pass, thirteen are one error at the list."""
    path = "child_details.disabilities"
    assert check_value(minimal(path, ["LD"] * MOST_DISABILITIES)) == ()
    findings = check_value(minimal(path, ["LD"] * (MOST_DISABILITIES + 1)))
    assert _brief(findings) == [("error", "$.child_details.disabilities", "max_items")]


def test_unknown_fields_are_warnings_and_odd_names_are_not_shown() -> None:
    """The specification moves: new fields pass with a warning, but a name that may be data becomes ?."""
    child = {"la_child_id": "1", "new_field": {"x": 1}, MARKER + " Smith": 1, "caf\u00e9": 2, "a" * 65: 3}
    assert _brief(check_value(child)) == [
        ("warning", "$.?", "unknown_field"),
        ("warning", "$.?", "unknown_field"),
        ("warning", "$.?", "unknown_field"),
        ("warning", "$.new_field", "unknown_field"),
    ]


def test_deletions_and_partial_records_are_valid() -> None:
    """What purges a child, an object or an item is valid without any other field."""
    assert check_value({"la_child_id": "1", "purge": True}) == ()
    episode = {"social_care_episode_id": "2", "adoption": {"purge": True}}
    assert (
        check_value(
            {"la_child_id": "1", "health_and_wellbeing": {"purge": True}, "social_care_episodes": [episode]}
        )
        == ()
    )


def test_all_faults_are_found_errors_first() -> None:
    """Each fault of a record with many is listed, in the order of their paths, errors before warnings."""
    child = {
        "aaa": 1,
        "child_details": {"sex": 3, "ethnicity": "ABC", "date_of_birth": "2024-02-30"},
        "social_care_episodes": [{"social_care_episode_id": "x" * 40, "purge": "no"}] * 11,
    }
    brief = _brief(check_value(child))
    assert brief[:4] == [
        ("error", "$.child_details.date_of_birth", "date"),
        ("error", "$.child_details.sex", "type"),
        ("error", "$.la_child_id", "required"),
        ("error", "$.social_care_episodes[0].purge", "type"),
    ]
    assert brief[-3] == ("error", "$.social_care_episodes[10].social_care_episode_id", "max_length")
    assert brief[-2:] == [
        ("warning", "$.aaa", "unknown_field"),
        ("warning", "$.child_details.ethnicity", "code_list"),
    ]
    assert len(brief) == 3 + 22 + 2


@given(children())
def test_valid_children_have_no_findings(child: dict[str, Any]) -> None:
    """Any child within the limits passes without a finding, as a value and as a text."""
    assert check_value(child) == ()
    checked = check_text(json.dumps(child))
    assert checked.value == child
    assert checked.findings == ()
    assert checked.ok


@given(children(known_codes=False))
def test_codes_never_block(child: dict[str, Any]) -> None:
    """Whatever fits into a code field, the record can be sent."""
    checked = check_text(json.dumps(child, ensure_ascii=False))
    assert checked.ok
    assert {finding.rule for finding in checked.warnings} <= {"code_list"}


@given(faulty_children())
def test_one_fault_is_one_error_at_its_path(faulty: Faulty) -> None:
    """A single structural fault anywhere gives exactly that error: its path and its rule."""
    checked = check_text(json.dumps(faulty.child))
    assert _brief(checked.findings) == [("error", faulty.path, faulty.rule)]
    assert not checked.ok
    assert checked.value == faulty.child


@given(faulty_children(), st.data())
def test_findings_never_hold_a_value(faulty: Faulty, data: st.DataObject) -> None:
    """No part of a finding, nor the line made of it, contains anything of the record."""
    child = copy.deepcopy(faulty.child)
    child[f"{MARKER} as a name"] = MARKER
    child["mis_child_id"] = data.draw(st.sampled_from([f"{MARKER}!", MARKER * 9, [MARKER], {MARKER: 1}]))
    child["child_details"] = {
        "ethnicity": MARKER[:4],
        "sex": MARKER,
        "date_of_birth": MARKER,
        "first_name": [MARKER],
    }
    text = json.dumps(child)
    broken = data.draw(
        st.sampled_from(
            [text, text[:-1], text[:-1] + ',"purge":NaN}', text[:-1] + f',"{MARKER} as a name":1}}']
        )
    )
    findings = check_text(broken).findings
    assert findings
    assert MARKER[:4] not in repr(findings) + describe(findings, limit=1000)


_UNREADABLE = [
    (None, [("error", "$", "missing")]),
    ("", [("error", "$", "not_json")]),
    ("   ", [("error", "$", "not_json")]),
    ("{'la_child_id': '1'}", [("error", "$", "not_json")]),
    ('\ufeff{"la_child_id":"1"}', [("error", "$", "not_json")]),
    ('{"la_child_id":"1"} {}', [("error", "$", "not_json")]),
    ('{"la_child_id":"1",}', [("error", "$", "not_json")]),
    ("null", [("error", "$", "not_object")]),
    ("[]", [("error", "$", "not_object")]),
    ('"text"', [("error", "$", "not_object")]),
    ("NaN", [("error", "$", "nan")]),
    ("[" * 300 + "]" * 300, [("error", "$", "depth")]),
    ("[" * 100_000, [("error", "$", "depth")]),
    ("4" * 5_000, [("error", "$", "nan")]),
    ('{"la_child_id":"\ud800"}', [("error", "$.la_child_id", "surrogate")]),
    (
        '{"la_child_id":"1","purge":NaN,"x":1}',
        [("error", "$.purge", "nan"), ("warning", "$.x", "unknown_field")],
    ),
]


@pytest.mark.parametrize(("text", "expected"), _UNREADABLE)
def test_texts_that_cannot_be_sent(text: str | None, expected: list[tuple[str, str, str]]) -> None:
    """What is no JSON object that UTF-8 can hold is an error of its own, and leaves no value to send."""
    checked = check_text(text)
    assert _brief(checked.findings) == expected
    assert not checked.ok
    assert not isinstance(checked.value, dict)


_ODD = [
    ('{"la_child_id":"1","purge":true,"purge":false}', [("error", "$.purge", "duplicate_key")]),
    ('{"la_child_id":"1","x":1e999}', [("error", "$.x", "nan")]),
    (
        '{"la_child_id":"1","child_details":{"surname":"\\ud800"}}',
        [("error", "$.child_details.surname", "surrogate")],
    ),
    (
        '{"la_child_id":"1","x":' + "[" * 260 + "]" * 260 + "}",
        [("error", "$", "depth"), ("warning", "$.x", "unknown_field")],
    ),
    (
        '{"la_child_id":"1","child_details":{"sex":"x","sex":"F","sex":"y"},"x":["\\ud800",-1e999]}',
        [
            ("error", "$.child_details.sex", "duplicate_key"),
            ("error", "$.x[0]", "surrogate"),
            ("error", "$.x[1]", "nan"),
            ("error", "$.child_details.sex", "enum"),
            ("warning", "$.x", "unknown_field"),
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), _ODD)
def test_json_that_a_strict_reader_refuses(text: str, expected: list[tuple[str, str, str]]) -> None:
    """Duplicate keys, half surrogates and overflowing numbers are all found, each at its path, and what
    else is wrong with the record too; the ids can still be read, for VALIDATION=warn.
    """
    checked = check_text(text)
    assert _brief(checked.findings) == expected
    assert child_ids(checked.value) == ("1", None)


@given(st.text(alphabet='{}[]:,"\\ud8NaIn1e-+.\ud800\ufeff \n', max_size=30) | st.text())
def test_any_text_gets_an_answer(text: str) -> None:
    """No text makes the check fail, and a text that cannot be parsed is never ok."""
    checked = check_text(text)
    try:
        parse(text)
    except UnreadablePayload:
        assert not checked.ok


def test_describe_is_one_line_with_the_rest_counted() -> None:
    """The line for api_response names the first few findings and how many more there are."""
    findings = [Finding(f"$.x[{n}]", "date", Severity.ERROR, "must be a date") for n in range(4)]
    assert (
        describe(findings, limit=2)
        == "$.x[0]: date (must be a date); $.x[1]: date (must be a date); ... (+2 more)"
    )
    assert describe(findings[:1]) == "$.x[0]: date (must be a date)"
    assert describe(()) == ""


def test_errors_and_warnings_are_kept_apart() -> None:
    """A record with warnings only is ok; its findings are all in ``warnings``."""
    checked = check_text('{"la_child_id":"1","x":1}')
    assert checked.ok
    assert checked.errors == ()
    assert checked.warnings == checked.findings
    assert [finding.message for finding in checked.warnings] == ["is not in the schema"]


def test_messages_say_what_is_allowed() -> None:
    """The message of each kind of fault names the limit or the form that is expected."""
    messages = {
        "la_child_id": "must be made of letters A-Z, digits, _ and - only",
        "child_details.postcode": "must be at most 8 characters",
        "child_details.sex": "must be one of M F U",
        "child_details.uasc_flag": "must be true or false or null",
        "child_details.date_of_birth": "must be a date that exists, as YYYY-MM-DD",
        "child_details.unique_pupil_number": "must be exactly 13 letters A-Z or digits",
    }
    for path, message in messages.items():
        assert [finding.message for finding in check_value(minimal(path, "way too long!"))] == [message]
    score = check_value(minimal("health_and_wellbeing.sdq_assessments[].score", 99))
    assert [finding.message for finding in score] == ["must be from 0 to 40"]


def test_large_records_are_checked_whole() -> None:
    """A fault in the last of thousands of items is found."""
    row = next(fake_children(1)).payload
    row["health_and_wellbeing"]["sdq_assessments"] = [{"score": 1}] * 5_000 + [{"score": 41}]
    assert _brief(check_text(json.dumps(row)).findings) == [
        ("error", "$.health_and_wellbeing.sdq_assessments[5000].score", "range")
    ]

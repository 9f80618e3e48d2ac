"""Promises of payload.py: strict reading, canonical JSON, hashes, ids and the deletion object."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import jiter
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from api_pipeline.payload import (
    PURGE_MARKER,
    UnreadablePayload,
    canonical,
    child_ids,
    compact,
    content_hash,
    decode,
    deletion,
    diagnose,
    leading_child_id,
    parse,
)
from api_pipeline.validation import check_text
from tests.strategies import MARKER, children

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_purge_marker_is_32_zero_bytes() -> None:
    """The marker fits the hash column and is no hash of anything."""
    assert PURGE_MARKER == b"\0" * 32


_texts_and_whole_numbers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON, st.booleans(), st.sampled_from([None, 1]))
def test_parse_agrees_with_the_standard_library(value: Any, escaped: bool, indent: int | None) -> None:
    """Whatever the standard library writes is read back as the same value of the same types."""
    assume("-0" not in (text := json.dumps(value, ensure_ascii=escaped, indent=indent)))
    assert repr(parse(text)) == repr(value)


@pytest.mark.parametrize(
    ("text", "rule", "where"),
    [
        ("", "not_json", "line 1 column 1"),
        ("{", "not_json", "line 1 column 2"),
        ('{"a": 1,\n "b": }', "not_json", "line 2 column 7"),
        ("\ufeff{}", "not_json", "line 1 column 1"),
        ("{} {}", "not_json", "line 1 column 4"),
        ("[01]", "not_json", "line 1 column 3"),
        ('"\\ud8"', "not_json", "line 1 column 3"),
        ('{"a":[1,NaN]}', "nan", "$.a[1]"),
        ("-Infinity", "nan", "$"),
        ("[1e999]", "nan", "$[0]"),
        ("[-1" + "0" * 400 + ".5]", "nan", "$[0]"),
        ('{"a":{"b":1,"b":2}}', "duplicate_key", "$.a.b"),
        ('{"a":1,"\\u0061":1}', "duplicate_key", "$.a"),
        ('[{"a b":1,"a b":1}]', "duplicate_key", "$[0].?"),
        ('["\\ud800"]', "surrogate", "$[0]"),
        ('["\\udc00\\ud800"]', "surrogate", "$[0]"),
        ('{"a":"\ud83d"}', "surrogate", "$.a"),
        ('{"\\udfff":1}', "surrogate", "$.?"),
        ('{"a":' * 250 + "1" + "}" * 250, "depth", "$"),
    ],
)
def test_parse_names_rule_and_place(text: str, rule: str, where: str) -> None:
    """Each way in which a text is not strict JSON has a rule, and a JSON path or a position."""
    with pytest.raises(UnreadablePayload) as caught:
        parse(text)
    assert (caught.value.rule, caught.value.where) == (rule, where)
    assert diagnose(text).faults[0] == (rule, where)


@given(st.sampled_from(["{%s}", "[{%s}]", '{%s,"x":NaN}', "{%s", '{%s,"y":"\\ud800"}']), st.text(max_size=3))
def test_refusals_quote_nothing(frame: str, tail: str) -> None:
    """Neither the message, the attributes nor the chained exceptions of a refusal hold the text."""
    name = json.dumps(f"{MARKER} {tail}")
    text = frame % f'{name}:"{MARKER}",{name}:"{MARKER}"'
    with pytest.raises(UnreadablePayload) as caught:
        parse(text)
    assert MARKER not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_surrogate_pairs_are_characters() -> None:
    """A character outside the basic plane, escaped as a pair, is read as that character."""
    assert parse('"\\ud83c\\udf1f"') == "\U0001f31f"


def test_decode_leaves_overflow_to_its_caller() -> None:
    """Reading without the look for infinity differs from parse in that alone."""
    assert decode("[1e999]") == [math.inf]
    with pytest.raises(UnreadablePayload):
        decode('{"a":1,"a":2}')


def test_string_cache_does_not_grow_with_values() -> None:
    """Reading many different payloads keeps none of their values in the parser's cache."""
    jiter.cache_clear()
    parse(json.dumps({"la_child_id": "0"}))
    before = jiter.cache_usage()
    for number in range(500):
        parse(json.dumps({"la_child_id": f"child-{number}"}))
    assert jiter.cache_usage() == before


@given(_JSON)
def test_canonical_is_sorted_tight_and_readable(value: Any) -> None:
    """Canonical JSON is tight UTF-8 with sorted keys, and reads back as the same value."""
    encoded = canonical(value)
    assert repr(json.loads(encoded)) == repr(json.loads(json.dumps(value, sort_keys=True)))
    expected = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert encoded == expected.encode()


def test_canonical_sorts_by_code_point() -> None:
    """Keys are ordered by code point, not by UTF-16 unit and not by locale."""
    assert canonical({"\U0001f31f": 1, "\uffff": 2, "b": 3, "B": 4, "\u00e9": 12.0}) == (
        '{"B":4,"b":3,"\u00e9":12.0,"\uffff":2,"\U0001f31f":1}'.encode()
    )


@pytest.mark.parametrize("value", [math.inf, math.nan, "\ud800", {"a": [-math.inf]}])
def test_canonical_refuses_what_json_cannot_hold(value: Any) -> None:
    """Infinity, NaN and half surrogates never end up in a hash or a body."""
    with pytest.raises(ValueError, match=r"."):
        canonical(value)


@given(children(), st.randoms(use_true_random=False))
def test_hash_is_about_content(child: dict[str, Any], random: Any) -> None:
    """Order of keys, white space and escapes do not change the hash; a changed value does."""
    shuffled = list(child.items())
    random.shuffle(shuffled)
    digest = content_hash(json.dumps(child, separators=(",", ":"), ensure_ascii=False))
    assert content_hash(json.dumps(dict(shuffled), indent=2)) == digest
    assert digest == hashlib.sha256(canonical(child)).digest()
    assert content_hash(json.dumps(child | {"la_child_id": child["la_child_id"] + "x"})) != digest


@pytest.mark.parametrize("text", ["", "not json", '{"a":1,"a":1}', "[1e999]", "NaN", "\ud800", '"\\ud800"'])
def test_hash_of_unreadable_text_is_that_of_its_bytes(text: str) -> None:
    """A text that cannot be read strictly is hashed as it stands."""
    assert content_hash(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"la_child_id": "1", "mis_child_id": "2"}, ("1", "2")),
        ({"la_child_id": "1", "mis_child_id": None}, ("1", None)),
        ({"la_child_id": 1, "mis_child_id": ["2"]}, (None, None)),
        ({}, (None, None)),
        ([{"la_child_id": "1"}], (None, None)),
        (None, (None, None)),
    ],
)
def test_child_ids_are_texts_or_none(value: Any, expected: tuple[str | None, str | None]) -> None:
    """Ids are read from an object only, and only where they are texts."""
    assert child_ids(value) == expected


_SPACE = st.text(" \t\r\n", max_size=3)
_ID_LIKE = st.text("aZ9_-", min_size=1, max_size=40) | st.text(max_size=6)


@given(
    spaces=st.lists(_SPACE, min_size=4, max_size=4),
    key=st.sampled_from(['"la_child_id"', '"la_child\\u005fid"', '"mis_child_id"', '"la_child_id "']),
    la_child_id=_ID_LIKE.map(json.dumps) | st.just('"a\\u0062"') | st.just("12") | st.just("null"),
    rest=st.sampled_from(
        ["", ',"x":{"la_child_id":"other"}', ',"la_child_id":"other"', ',"la_child_\\u0069d":"other"']
    ),
    cut=st.integers(0, 260),
)
@example(["", "", "", ""], '"la_child_id"', '"abc"', "", 200)
@example(["", "", "", ""], '"la_child_id"', '"abc"', "", 18)
def test_leading_child_id_is_never_wrong(
    spaces: list[str], key: str, la_child_id: str, rest: str, cut: int
) -> None:
    """For a text that can be parsed, the id read from its beginning is the id inside, or None."""
    first, second, third, fourth = spaces
    text = f"{first}{{{second}{key}{third}:{fourth}{la_child_id}{rest}}}"
    found = leading_child_id(text[:cut])
    try:
        value = parse(text)
    except UnreadablePayload:
        return
    assert found in {None, child_ids(value)[0]}


@given(children())
def test_leading_child_id_is_found_where_it_leads(child: dict[str, Any]) -> None:
    """The id of a payload that begins with it, written compactly or not, is found in 200 characters."""
    child = {"la_child_id": child["la_child_id"]} | child
    for text in (json.dumps(child), json.dumps(child, separators=(",", ":")), json.dumps(child, indent=4)):
        assert leading_child_id(text[:200]) == child["la_child_id"]


def test_leading_child_id_wants_the_closing_quote() -> None:
    """An id that the prefix cuts off is not guessed at."""
    text = '{"la_child_id":"abcdef"}'
    assert leading_child_id(text[:21]) is None
    assert leading_child_id(text[:23]) == "abcdef"


def test_deletion_has_ids_and_purge_in_order() -> None:
    """The deletion object is compact, in the order of section 4, without an absent mis_child_id."""
    assert deletion("a-1", "m_2") == b'{"la_child_id":"a-1","mis_child_id":"m_2","purge":true}'
    assert deletion("a-1", None) == b'{"la_child_id":"a-1","purge":true}'


@given(children())
def test_deletion_of_a_valid_child_is_valid(child: dict[str, Any]) -> None:
    """The object that purges a valid child passes the check itself and carries the same ids."""
    la_child_id, mis_child_id = child_ids(child)
    assert la_child_id is not None
    checked = check_text(deletion(la_child_id, mis_child_id).decode())
    assert checked.findings == ()
    expected = {"la_child_id": la_child_id, "mis_child_id": mis_child_id, "purge": True}
    assert checked.value == {name: value for name, value in expected.items() if value is not None}


def test_deletion_passes_odd_ids_through_unharmed() -> None:
    """An id that predates the rules is quoted as JSON, not dropped and not cut."""
    assert json.loads(deletion('O"Br\u00ebn\\', None)) == {"la_child_id": 'O"Br\u00ebn\\', "purge": True}


@given(_JSON)
def test_compact_text_is_read_back_as_what_it_was(value: Any) -> None:
    """Compact JSON says all that the value says."""
    assert decode(compact(value)) == value


@given(_texts_and_whole_numbers)
def test_compact_text_is_what_the_standard_library_writes(value: Any) -> None:
    """Members in their order, no white space, nothing escaped in vain; half characters and any number too."""
    assert compact(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))

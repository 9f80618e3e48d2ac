"""What the API's replies say, read without a network."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.outcomes import Verdict, is_unsure, status_problem, verdict_of
from api_pipeline.replies import UnreadableReply, parse_receipts, parse_refusal, reply_kind, retry_after

ID = "6f1c2b3a-0d4e-4f5a-8b6c-7d8e9f0a1bb2"
RECEIPT = f"2025-06-30_02:11:09.53_{ID}.json"


def test_a_receipt_is_read_without_losing_a_digit() -> None:
    """The UUID comes without .json; the time is cut as a moment, and the text keeps every digit."""
    (receipt,) = parse_receipts(json.dumps([f"2025-06-30_02:11:09.9999999_{ID}.json"]).encode(), 1)
    assert receipt.uuid == ID
    assert receipt.timestamp == datetime(2025, 6, 30, 2, 11, 9, 999999)  # noqa: DTZ001 - as received
    assert "02:11:09.9999999" in receipt.raw


@given(
    st.lists(
        st.tuples(st.datetimes(), st.text("0123456789", max_size=7), st.uuids(), st.booleans()), max_size=9
    ),
    st.sampled_from(["json", " ", "\r\n", "\t\n "]),
)
def test_every_list_of_receipts_comes_back_as_it_was(
    parts: list[tuple[datetime, str, UUID, bool]], form: str
) -> None:
    """Any dates, digits and UUIDs, as a JSON array or apart by white space, are read back in their order."""
    words, expected = [], []
    for moment, digits, uuid, suffix in parts:
        stamp = moment.replace(microsecond=0).isoformat()
        dotted = f".{digits}" if digits else ""
        words.append(f"{stamp.replace('T', '_')}{dotted}_{uuid}{'.json' if suffix else ''}")
        cut = moment.replace(microsecond=int(digits[:6].ljust(6, "0")))
        expected.append((words[-1], str(uuid), cut))
    body = json.dumps(words) if form == "json" or not words else form.join(words)
    read = parse_receipts(body.encode(), len(words))
    assert [(each.raw, each.uuid, each.timestamp) for each in read] == expected


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"", 1),
        (b" \n", 1),
        (b"[]", 1),
        (json.dumps([RECEIPT]).encode(), 2),
        (json.dumps([RECEIPT, RECEIPT]).encode(), 1),
        (json.dumps([RECEIPT, RECEIPT]).encode()[:-9], 2),
        (RECEIPT[:-9].encode(), 1),
        (json.dumps({"receipts": [RECEIPT]}).encode(), 1),
        (json.dumps(RECEIPT).encode(), 1),
        (json.dumps([[RECEIPT]]).encode(), 1),
        (b"[1]", 1),
        (b"null", 1),
        (b"<!DOCTYPE html><html>" + RECEIPT.encode() + b"</html>", 1),
        (b"accepted", 1),
        (b"\xff\xfe", 1),
        (f"2025-02-30_02:11:09.53_{ID}".encode(), 1),
        (f"2025-06-30_24:11:09.53_{ID}".encode(), 1),
        (f"2025-06-30_02:11:09.53_{ID[:-1]}g".encode(), 1),
        (f"2025-06-30_02:11:09.12345678_{ID}".encode(), 1),
        (b"[" * 100_000, 1),
    ],
)
def test_anything_but_one_receipt_per_record_is_unreadable(body: bytes, count: int) -> None:
    """Another count, another shape, a page, a cut-off text or an impossible date never counts as success."""
    with pytest.raises(UnreadableReply) as caught:
        parse_receipts(body, count)
    assert ID not in str(caught.value)


def test_a_byte_order_mark_does_not_spoil_the_receipts() -> None:
    """A gateway that puts a byte order mark in front changes nothing."""
    assert parse_receipts(b"\xef\xbb\xbf" + json.dumps([RECEIPT]).encode(), 1)[0].raw == RECEIPT


@pytest.mark.parametrize(
    "body",
    [
        {"[3].social_care_episodes[0].referral_source": ["not good"]},
        {"errors": {"$[3].child_details.sex": ["not good"]}, "title": "One or more", "status": 400},
        {"errors": [{"path": "children[3].child_details.sex", "message": "not good"}]},
        {"type": "about:blank", "detail": "body[3].child_details: not good", "instance": "/x"},
        {"detail": [{"loc": ["body", 3, "social_care_episodes", 1], "msg": "not good"}]},
        {"errors": [{"field": "Record [3].child_details.sex", "problem": "not good"}]},
        {"[3]": {"child_details": {"sex": ["not good"]}}},
        ["$.children[3].social_care_episodes[0].x not good"],
        "[3].child_details.sex is not good",
        "Validation failed. $['children'][3]['social_care_episodes'][1] is not good\nSee the guide",
        "social_care_episodes[1] is fine; children[3].x is not good: see social_care_episodes[2].y",
    ],
)
def test_the_record_is_found_in_every_shape(body: Any) -> None:
    """Keys, lists of errors, problem details and plain text all name record 3, and give its reason."""
    found = parse_refusal(body if isinstance(body, str) else json.dumps(body).encode(), 10)
    assert list(found) == [3]
    assert "not good" in found[3]
    assert "3]" in found[3]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "The payload is malformed",
        "social_care_episodes[0].referral_source is not good",
        {"social_care_episodes[0].referral_source": ["not good"]},
        {"errors": [{"path": "child_details.disabilities[2]", "message": "too long"}]},
        {"[10].x": ["not good"], "[99999999999999999999].x": ["not good"]},
        "must match ^[0-9]{13}$ or [A-Z]",
        "<html><script>data[0] = 1</script></html>",
        [3],
        None,
    ],
)
def test_no_record_is_named_where_none_is(body: Any) -> None:
    """An index of an episode, outside the array, or of something else names no record."""
    assert parse_refusal(body if isinstance(body, str) else json.dumps(body).encode(), 10) == {}


def test_a_nested_refusal_without_end_names_nobody() -> None:
    """A reply nested beyond reason is no crash."""
    assert parse_refusal(b'{"a":' * 100_000, 10) == {}


_NAMES = st.sampled_from(["social_care_episodes", "factors", "child_details", "sex", "x_y"])
_STEPS = st.lists(st.one_of(_NAMES.map(".{}".format), st.integers(0, 120).map("[{}]".format)), max_size=4)
_PATHS = st.builds(
    lambda root, index, steps: (index, f"{root}[{index}]{''.join(steps)}"),
    st.sampled_from(["", "$", "children", "body", "$.children"]),
    st.integers(0, 120),
    _STEPS,
)
_OTHERS = st.builds(lambda name, index: f"{name}[{index}].sex", _NAMES, st.integers(0, 120))
_FORMS = st.sampled_from(["keys", "problem", "list", "lines", "clauses"])


@given(st.lists(_PATHS, max_size=12), st.lists(_OTHERS, max_size=4), _FORMS)
def test_exactly_the_first_indexes_are_named(
    named: list[tuple[int, str]], others: list[str], form: str
) -> None:
    """Of any paths in any form, the first indexes inside the array are found, and no nested one."""
    paths = others + [path for _, path in named]
    body: Any = {path: ["is not good"] for path in paths}
    if form == "problem":
        body = {"status": 400, "errors": body}
    elif form == "list":
        body = {"errors": [{"path": path, "message": "is not good"} for path in paths]}
    elif form != "keys":
        joint = "\n" if form == "lines" else "; "
        body = joint.join(f"{path} is not good" for path in paths)
    found = parse_refusal(body if isinstance(body, str) else json.dumps(body), 100)
    assert set(found) == {index for index, _ in named if index < 100}


@pytest.mark.parametrize(
    "body",
    [
        "[3].surname Smith is too long, [5].surname Jones is too long, [77].surname Brown",
        "[3].surname Smith is too long; [5].surname Jones is too long\n[77].surname Brown",
        "surname Smith is too long at [3].surname, surname Jones is too long at [5].surname",
        "surname Smith is too long at [3].surname\nsurname Jones is too long at [5].surname.",
        "Failed: [77].surname Brown; [3].surname Smith; [5].surname Jones",
        {"[3].surname": ["Smith is too long"], "[5].surname": ["Jones"], "[77].x": ["Brown"]},
        {"[3].surname": ["Smith; the same as Jones in [5].surname"], "[5].surname": ["Jones"]},
        [
            {"path": "[3].x", "value": "Smith"},
            {"path": "[5].x", "value": "Jones"},
            {"path": "[9].x", "v": "Brown"},
        ],
    ],
)
def test_a_reason_never_tells_of_another_child(body: Any) -> None:
    """What a reply says about one record does not get into the reason of another."""
    found = parse_refusal(body if isinstance(body, str) else json.dumps(body), 9)
    assert list(found) == [3, 5]
    assert "Smith" in found[3]
    assert "Jones" in found[5]
    assert not any(name in found[3] for name in ("Jones", "Brown"))
    assert not any(name in found[5] for name in ("Smith", "Brown"))


@pytest.mark.parametrize(
    ("content_type", "body", "kind"),
    [
        ("text/html", b"", "empty"),
        ("application/json", b"<!DOCTYPE html><html></html>", "html"),
        (None, b"\xef\xbb\xbf <HTML>", "html"),
        ("text/html; charset=utf-8", b"<p>Forbidden</p>", "html"),
        ("text/html", b'{"message": "Forbidden"}', "json"),
        ("application/problem+json", b'"Forbidden"', "json"),
        ("text/plain", b"Forbidden", "text"),
        (None, b"Forbidden", "text"),
    ],
)
def test_the_kind_of_a_reply_is_seen_from_its_body(content_type: str | None, body: bytes, kind: str) -> None:
    """A firewall's page is told from the API's JSON even where the header is wrong."""
    assert reply_kind(content_type, body) == kind


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("Mon, 99 Foo 2025 00:00:00 GMT", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("Mon, 30 Jun 2025 02:00:30 GMT", 30.0),
        ("Mon, 30 Jun 2025 02:00:30", 30.0),
        ("Sun, 29 Jun 2025 02:00:30 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    """Seconds and dates give a wait that is never negative; anything else gives none."""
    now = datetime(2025, 6, 30, 2, tzinfo=timezone.utc).timestamp()
    assert retry_after(header, now) == seconds


@given(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)), st.integers(0, 10**6))  # noqa: DTZ001 - made UTC
def test_any_http_date_gives_the_seconds_until_it(moment: datetime, ahead: int) -> None:
    """A Retry-After date means the time from now to then."""
    then = moment.replace(microsecond=0, tzinfo=timezone.utc)
    assert retry_after(format_datetime(then, usegmt=True), then.timestamp() - ahead) == ahead


def test_every_status_has_its_meaning() -> None:
    """The table of known replies: what settles a body, what is repeated, what leaves doubt."""
    ended = {*range(300, 400), *range(400, 500)} - {400, 403, 408, 413, 422, 429}
    for status in [*range(201, 600)]:
        verdict = verdict_of(status)
        assert (verdict is Verdict.RUN_ENDED) == (status in ended), status
        assert (verdict is Verdict.REFUSED) == (status in (400, 422)), status
        assert (verdict is Verdict.EMPTY) == (status == 204), status
        assert (verdict is Verdict.TOO_LARGE) == (status == 413), status
        if verdict is None:
            assert is_unsure(status) == (status not in (403, 429)), status
        assert str(status) in status_problem(status, "text").message

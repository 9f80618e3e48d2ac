"""Promises of fake.py: the children are sound, recognisably fake, and the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata

import pytest

from api_pipeline.fake import FakeRow, fake_children
from api_pipeline.payload import leading_child_id, parse
from api_pipeline.validation import check_text
from tests.strategies import FIELDS


@pytest.fixture(scope="module")
def rows() -> list[FakeRow]:
    """Some hundred children of the default seed."""
    return list(fake_children(600))


def test_all_children_pass_without_a_warning(rows: list[FakeRow]) -> None:
    """Every fake child is structurally sound and uses known fields and codes only."""
    for row in rows:
        assert check_text(row.text).findings == ()
        assert row.fault == ""


def test_every_field_of_the_schema_occurs(rows: list[FakeRow]) -> None:
    """Among some hundred children every field of section 4 is in use."""
    seen: set[str] = set()

    def walk(item: object, path: str) -> None:
        if isinstance(item, dict):
            for name, value in item.items():
                walk(value, f"{path}.{name}".lstrip("."))
        elif isinstance(item, list):
            for value in item:
                walk(value, f"{path}[]")
        else:
            seen.add(path)

    for row in rows:
        walk(row.payload, "")
    assert seen == {field.path for field in FIELDS}


def test_the_same_seed_gives_the_same_children_everywhere() -> None:
    """The texts of seed 1 are known by their hash, so no Python version or machine may differ."""
    digest = hashlib.sha256()
    for row in fake_children(200, seed=1, fault_share=0.2):
        digest.update(f"{row.person_id} {row.legacy_id} {row.fault} {row.text}\n".encode())
    assert digest.hexdigest() == "1f764fb856f838fc4e810b95f4cc09e5d1c1016f483c9f55779bf33bddab8e97"


def test_a_long_run_begins_like_a_short_one(rows: list[FakeRow]) -> None:
    """A child depends on the seed and its number, not on how many are asked for, and seeds differ."""
    assert list(fake_children(5)) == rows[:5]
    assert [row.text for row in fake_children(5, seed=7)] != [row.text for row in rows[:5]]


def test_children_stream() -> None:
    """Asking for a million children costs nothing until they are taken."""
    assert [row.person_id for row in itertools.islice(fake_children(1_000_000), 2)] == [
        "FAKE000001",
        "FAKE000002",
    ]


def test_children_are_recognisably_fake(rows: list[FakeRow]) -> None:
    """Ids begin with FAKE, surnames end in (fake), postcodes are in ZZ99, pupil numbers in authority 999."""
    for row in rows:
        details = row.payload["child_details"]
        assert row.person_id == row.payload["la_child_id"]
        assert row.legacy_id == row.payload.get("mis_child_id")
        assert row.person_id.startswith("FAKE")
        assert row.legacy_id is None or row.legacy_id.startswith("FAKE")
        assert details["surname"].endswith(" (fake)")
        assert details["postcode"].startswith("ZZ99 ")
        assert details.get("unique_pupil_number", "X999").startswith("X999")
    assert len({row.person_id for row in rows}) == len(rows)


def test_record_ids_are_unique(rows: list[FakeRow]) -> None:
    """No two records of all children share an id, so that partial payloads can tell them apart."""
    ids = [
        record[f"{kind}_id"]
        for row in rows
        for episode in row.payload["social_care_episodes"]
        for kind, records in (
            ("social_care_episode", [episode]),
            ("child_and_family_assessment", episode["child_and_family_assessments"]),
            ("child_in_need_plan", episode["child_in_need_plans"]),
            ("section_47_assessment", episode["section_47_assessments"]),
            ("child_protection_plan", episode["child_protection_plans"]),
            ("child_looked_after_placement", episode["child_looked_after_placements"]),
        )
        for record in records
    ]
    assert len(set(ids)) == len(ids)


def test_names_come_in_many_scripts() -> None:
    """The first twenty children already hold an apostrophe, an emoji and seven scripts or more."""
    names = "".join(
        row.payload["child_details"]["first_name"] + row.payload["child_details"]["surname"]
        for row in fake_children(20)
    )
    scripts = {unicodedata.name(character).split()[0] for character in names if character.isalpha()}
    assert scripts >= {
        "LATIN",
        "ARABIC",
        "BENGALI",
        "CYRILLIC",
        "CJK",
        "GURMUKHI",
        "TAMIL",
        "GREEK",
        "HEBREW",
    }
    assert "'" in names
    assert any(ord(character) > 0xFFFF for character in names)


def test_sizes_are_typical(rows: list[FakeRow]) -> None:
    """A payload is about 5 KB on average; eight in ten lie between 2 and 8 KB."""
    sizes = sorted(len(row.text.encode()) for row in rows)
    assert 4_000 < sum(sizes) / len(sizes) < 6_000
    assert sizes[len(sizes) // 10] > 2_000
    assert sizes[len(sizes) * 9 // 10] < 8_000


def test_text_is_compact_and_begins_with_the_id(rows: list[FakeRow]) -> None:
    """The text is what a refresh would store: no white space, the id first, nothing escaped needlessly."""
    for row in rows[:20]:
        assert parse(row.text) == row.payload
        assert leading_child_id(row.text[:200]) == row.person_id
        assert row.payload["child_details"]["first_name"] in row.text


def test_faults_are_where_they_are_said_to_be() -> None:
    """The asked-for share of children has exactly one structural fault each, at the path that is named."""
    faulty = 0
    for row in fake_children(500, fault_share=0.25):
        assert [finding.path for finding in check_text(row.text).errors] == ([row.fault] if row.fault else [])
        faulty += bool(row.fault)
    assert 90 <= faulty <= 160


def test_faults_leave_the_other_children_alone(rows: list[FakeRow]) -> None:
    """Asking for faults changes the faulty children only."""
    pairs = zip(rows, fake_children(len(rows), fault_share=0.1), strict=True)
    assert all(with_faults == sound for sound, with_faults in pairs if not with_faults.fault)


@pytest.mark.parametrize(
    "arguments", [{"rows": -1}, {"rows": 1, "fault_share": 1.5}, {"rows": 1, "fault_share": -0.1}]
)
def test_senseless_arguments_are_refused_at_once(arguments: dict[str, float]) -> None:
    """A negative number of rows or a share beyond 0 to 1 is an error before the first child is taken."""
    with pytest.raises(ValueError, match="must"):
        fake_children(**arguments)  # type: ignore[arg-type]

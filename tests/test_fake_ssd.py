"""Promises of fake_ssd.py: people are plausible, awkward where real data are, and the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import pytest

from api_pipeline.fake_ssd import FakeKind, FakePerson, by_table, fake_population, fake_professionals
from api_pipeline.fake_ssd_faults import TWO_ROWS
from api_pipeline.fake_ssd_nights import (
    DEPARTURES,
    ChangeKind,
    Delete,
    Insert,
    Night,
    Update,
    applied,
    deletions,
    next_night,
)
from api_pipeline.semantic import semantic_hash
from api_pipeline.ssd_cohort import judge
from api_pipeline.ssd_payload import PayloadBuilder, text_of
from api_pipeline.ssd_tables import (
    SOURCE_TABLES,
    Address,
    AssessmentFactors,
    CinAssessment,
    CinEpisode,
    ClaEpisode,
    ClaPlacement,
    ImmigrationStatus,
    Involvement,
    Kind,
    Permanence,
    Person,
    Professional,
    S47Enquiry,
    SdqScore,
    SourcePage,
)
from api_pipeline.ssd_window import Window, birthday
from api_pipeline.validation import check_text

AS_OF = date(2026, 2, 28)
WINDOW = Window.of(AS_OF, 24)


@pytest.fixture(scope="module")
def people() -> list[FakePerson]:
    """A thousand people of one seed."""
    return list(fake_population(1_000, 5, AS_OF))


@pytest.fixture(scope="module")
def tables(people: list[FakePerson]) -> dict[type[Any], list[Any]]:
    """Their rows, and the professionals."""
    return {**by_table(people), Professional: fake_professionals()}


def test_all_tables_have_rows_about_twenty_to_a_person(tables: dict[type[Any], list[Any]]) -> None:
    """Every source table is filled, with as many rows to a person as an authority has."""
    assert set(tables) == {table.row for table in SOURCE_TABLES}
    assert 17_000 < sum(len(rows) for rows in tables.values()) < 23_000


def test_values_fit_their_columns(tables: dict[type[Any], list[Any]]) -> None:
    """Every value has the type and the length of its column, and no first column is NULL."""
    types: dict[Kind, tuple[type, ...]] = {
        Kind.ID: (str,),
        Kind.TEXT: (str,),
        Kind.MOMENT: (datetime,),
        Kind.VALUE: (str, int),
    }
    for table in SOURCE_TABLES:
        specs = list(table.columns.values())
        for row in tables[table.row]:
            assert row[0] is not None
            for value, spec in zip(row, specs, strict=True):
                assert value is None or isinstance(value, types[spec.kind])
                assert not isinstance(value, str) or spec.length is None or len(value) <= spec.length


def test_everybody_is_recognisably_fake(tables: dict[type[Any], list[Any]]) -> None:
    """Ids carry FAKE, surnames end in (fake), postcodes are in ZZ99, pupil numbers in authority 999."""
    for table in SOURCE_TABLES:
        for name, spec in table.columns.items():
            if spec.kind is Kind.ID:
                index = table.row._fields.index(name)
                assert all("FAKE" in row[index] for row in tables[table.row] if (row[index] or "").strip())
    for person in tables[Person]:
        assert person.pers_surname.endswith(" (fake)")
        assert len(person.pers_upn or "") < 12 or person.pers_upn.startswith("X999")
    for address in tables[Address]:
        assert (address.addr_address_postcode or " ").strip().upper()[:4] in ("ZZ99", "")


def test_ids_belong_to_one_person(people: list[FakePerson]) -> None:
    """No two people share a record's id, so that each can be told from the others."""
    owners: dict[tuple[str, str], set[str]] = {}
    for person in people:
        for row_class, rows in person.rows.items():
            if row_class in (Permanence, Involvement):
                continue
            for row in rows:
                owners.setdefault((row_class.__name__, row[0]), set()).add(person.person_id)
    assert all(len(who) == 1 for who in owners.values())


def test_the_kinds_come_in_an_authority_s_shares(people: list[FakePerson]) -> None:
    """Six in ten are in need, 15 % are looked after, some are protected, unborn or in no cohort at all."""
    shares = Counter(person.kind for person in people)
    assert shares[FakeKind.IN_NEED] == 580
    assert shares[FakeKind.LOOKED_AFTER] == 150
    assert set(shares) == set(FakeKind)
    assert {person.kind for person in people[:13]} >= {FakeKind.IN_NEED, FakeKind.PROTECTED}


def test_codes_are_written_as_people_write_them(tables: dict[type[Any], list[Any]]) -> None:
    """Codes come plain, in lower case, with stray blanks and with descriptions behind them."""
    sources = {row.cine_referral_source_code for row in tables[CinEpisode]}
    assert "1A" in sources
    assert any(re.fullmatch(r"\d[A-F] - \w.*", text) for text in sources)
    assert any(text != text.upper() for text in sources)
    assert any(text != text.strip() and text.strip() for text in sources)
    assert {row.cine_referral_nfa for row in tables[CinEpisode]} >= {"Y", "N", "1", "0", "", " ", None}
    roles = {row.invo_professional_role_id for row in tables[Involvement]}
    assert roles >= {"CW", "cw ", "CW - Case worker"}


def test_pupil_numbers_and_statuses_are_awkward(tables: dict[type[Any], list[Any]]) -> None:
    """UN codes stand in the column of the number, statuses name UASC in every way."""
    numbers = [row.pers_upn for row in tables[Person] if row.pers_upn]
    assert any(number.strip().upper().startswith("UN") for number in numbers)
    assert any(len(number) == 13 for number in numbers)
    statuses = {row.immi_immigration_status for row in tables[ImmigrationStatus]}
    assert statuses >= {"UASC", "U", "Not UASC", "Former UASC"}


def test_json_and_scores_are_awkward(tables: dict[type[Any], list[Any]]) -> None:
    """Factor lists are broken, NULL, blank or 'null'; scores are text, negative, too high or missing."""
    texts = {row.cinf_assessment_factors_json for row in tables[AssessmentFactors]}
    assert texts >= {None, "", "null", "  ", '["1A", "2B"'}
    assert {row.s47e_s47_outcome_json for row in tables[S47Enquiry]} >= {None, '{"CP_CONFERENCE_FLAG": true}'}
    scores = {row.csdq_sdq_score for row in tables[SdqScore]}
    assert scores >= {"n/a", "12.5", 41, None}
    registrations = {row.prof_social_worker_registration_no for row in tables[Professional]}
    assert registrations >= {None, "   "}
    assert len({row.prof_professional_id for row in tables[Professional]}) < len(tables[Professional])


def test_histories_are_awkward(tables: dict[type[Any], list[Any]], people: list[FakePerson]) -> None:
    """Cases are opened again, care has several placements, ends lie before starts, postcodes are too long."""
    assert any(len(person.rows[CinEpisode]) > 2 for person in people)
    assert max(Counter(row.clap_cla_id for row in tables[ClaPlacement]).values()) >= 4
    spans = [
        (row.clap_cla_placement_start_date, row.clap_cla_placement_end_date) for row in tables[ClaPlacement]
    ]
    assert any(end is not None and end < start for start, end in spans)
    assert any(len((row.addr_address_postcode or "").strip()) > 8 for row in tables[Address])
    assert any(len(person.rows[Address]) > 3 for person in people)
    own = {row.cine_referral_id: row.cine_person_id for row in tables[CinEpisode]}
    assert any(own[row.clae_referral_id] != row.clae_person_id for row in tables[ClaEpisode])


def test_births_lie_on_both_sides_of_the_limits(tables: dict[type[Any], list[Any]]) -> None:
    """Some turn 26 in the window, some did before it, some are not born yet, some have no date at all."""
    born = [row.pers_dob for row in tables[Person] if row.pers_dob]
    assert any(WINDOW.holds(birthday(day, 26)) for day in born)
    assert any(birthday(day, 26) < WINDOW.start for day in born)
    unborn = [row for row in tables[Person] if row.pers_dob is None]
    assert any(WINDOW.holds(row.pers_expected_dob) for row in unborn)
    assert any(row.pers_expected_dob and row.pers_expected_dob > WINDOW.end for row in unborn)
    assert any(row.pers_expected_dob is None for row in unborn)


def test_siblings_share_name_and_street(people: list[FakePerson]) -> None:
    """The third and fourth of every ten people are siblings, and so are the last three."""
    names = [person.rows[Person][0].pers_surname for person in people]
    assert names[2] == names[3]
    assert names[6] == names[7] == names[8]
    assert names[3] != names[4]


def test_the_same_seed_gives_the_same_people_everywhere() -> None:
    """The rows of seed 1 are known by their hash, so no Python version or machine may differ."""
    digest = hashlib.sha256()
    for person in fake_population(150, 1, date(2025, 6, 30), fault_share=0.2):
        for row_class, rows in person.rows.items():
            digest.update(f"{row_class.__name__} {[tuple(map(str, row)) for row in rows]}\n".encode())
    assert digest.hexdigest() == "ccd643e94f2f4fc7fb9d2ee1fb5cad36016bdca7d6f3cddb7fbe662abdfefc9e"


def test_a_large_population_begins_like_a_small_one(people: list[FakePerson]) -> None:
    """A person depends on the seed, the number and the day, and people come one at a time."""
    assert list(itertools.islice(fake_population(10**9, 5, AS_OF), 5)) == people[:5]
    assert list(fake_population(5, 5, AS_OF, first=101)) == people[100:105]
    assert list(fake_population(5, 6, AS_OF)) != people[:5]


def test_faults_are_only_where_they_are_asked_for(people: list[FakePerson]) -> None:
    """The asked-for share has one fault each and says which; everybody else is the same person as without."""
    faulty = list(fake_population(1_000, 5, AS_OF, fault_share=0.2))
    assert not any(person.fault for person in people)
    assert 120 < sum(bool(person.fault) for person in faulty) < 220
    for person, sound in zip(faulty, people, strict=True):
        assert (person == sound) is not bool(person.fault)
    assert len({person.fault for person in faulty}) == 6


@pytest.mark.parametrize(
    "arguments",
    [{"people": -1}, {"people": 1, "first": 0}, {"people": 1, "fault_share": 1.5}],
)
def test_senseless_arguments_are_refused_at_once(arguments: dict[str, Any]) -> None:
    """A negative number of people or a share beyond 0 to 1 is an error before anybody is taken."""
    with pytest.raises(ValueError, match="must"):
        fake_population(seed=1, as_of=AS_OF, **arguments)


# --- What is made of them ---------------------------------------------------------------------------------


def payloads_of(people: Iterable[FakePerson], day: date = AS_OF) -> dict[str, dict[str, Any]]:
    """Return the payloads of those who are in the cohort on a day: person_id -> payload."""
    there = [person for person in people if person.left not in _ABSENT]
    page = SourcePage(by_table(there))
    window = Window.of(day, 24)
    workers: dict[str, list[str]] = {}
    for row in fake_professionals():
        number = (row.prof_social_worker_registration_no or "").strip()
        workers.setdefault(row.prof_professional_id or "", []).extend([number] if number else [])
    builder = PayloadBuilder(window, workers, None)
    return {
        person.person_id: builder.build(person.rows[Person][0], page)
        for person in there
        if judge(person.rows[Person][0], page, window).included
    }


_ABSENT = (ChangeKind.VANISHED.name, ChangeKind.PERSON_DELETED.name)


@pytest.mark.parametrize("day", [date(2024, 2, 29), date(2026, 3, 31), date(2026, 4, 1)], ids=str)
def test_payloads_are_sound_and_the_kinds_are_in_the_cohort(day: date) -> None:
    """No payload of a default population has a finding, and nearly all who should be in the cohort are."""
    people = list(fake_population(300, day.toordinal(), day))
    payloads = payloads_of(people, day)
    for payload in payloads.values():
        assert check_text(text_of(payload)).findings == ()
    shares = Counter((person.kind, person.person_id in payloads) for person in people)
    for kind in (FakeKind.IN_NEED, FakeKind.PROTECTED, FakeKind.LOOKED_AFTER, FakeKind.CARE_LEAVER):
        assert shares[kind, True] > 20 * shares[kind, False] or shares[kind, False] < 3
    for kind in (FakeKind.PAST, FakeKind.TOO_OLD, FakeKind.UNDATED, FakeKind.UNBORN):
        assert shares[kind, False]


def test_faults_are_found_where_they_were_put() -> None:
    """Each person with a fault has a payload that breaks a rule, or two rows; everybody else has none."""
    people = list(fake_population(300, 5, AS_OF, fault_share=0.3))
    payloads = payloads_of(people)
    broken = {person_id for person_id, payload in payloads.items() if check_text(text_of(payload)).findings}
    for person in people:
        if person.person_id in payloads and person.fault != TWO_ROWS:
            assert bool(person.fault) is (person.person_id in broken), person.fault


def test_a_night_does_to_payloads_what_it_says() -> None:
    """Who left is in no cohort any more, new ids alone are no change, news of a case are."""
    people = list(fake_population(300, 5, AS_OF))
    before = payloads_of(people)
    night = next_night(people, 5, 1, AS_OF, share=0.5)
    after = payloads_of(night.people)
    changed = (ChangeKind.ASSESSED, ChangeKind.CLOSED)
    for person_id, kind in night.told:
        if kind in DEPARTURES:
            assert person_id not in after
        elif person_id in before and person_id in after:
            same = semantic_hash(before[person_id]) == semantic_hash(after[person_id])
            assert same or kind is not ChangeKind.NEW_IDS
            assert not same or kind not in changed
    untouched = set(before) - set(night.whom(*ChangeKind))
    assert len(untouched) > 100
    assert sum(before[person_id] != after.get(person_id) for person_id in untouched) <= 3  # siblings


# --- Nights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nights(people: list[FakePerson]) -> list[Night]:
    """Eight busy nights in a row."""
    result: list[Night] = []
    now = people[:300]
    for number in range(1, 9):
        result.append(next_night(now, 5, number, AS_OF, share=0.2))
        now = result[-1].people
    return result


def test_everything_happens_in_some_nights(nights: list[Night]) -> None:
    """People move, are assessed, closed, leave in three ways, come back and are new; ids change."""
    assert {kind for night in nights for _, kind in night.told} == set(ChangeKind)
    assert {type(change) for night in nights for change in night.changes} == {Insert, Update, Delete}


def test_a_night_is_the_same_each_time_and_of_the_size_asked_for(people: list[FakePerson]) -> None:
    """The same arguments give the same night; the share says how many it touches; other nights differ."""
    night = next_night(people, 5, 1, AS_OF)
    assert night == next_night(people, 5, 1, AS_OF)
    assert night.told != next_night(people, 5, 2, AS_OF).told
    assert len(night.told) == 30 + 5
    assert len(night.people) == len(people) + 5
    assert len(set(night.whom(*ChangeKind))) == len(night.told)


def test_only_the_kinds_asked_for_happen(people: list[FakePerson]) -> None:
    """A night can be narrowed to some kinds of change, and does without those that cannot happen."""
    night = next_night(people, 5, 1, AS_OF, kinds=[ChangeKind.NEW_IDS])
    assert {kind for _, kind in night.told} == {ChangeKind.NEW_IDS}
    assert len(night.told) == 30
    assert next_night(people, 5, 1, AS_OF, kinds=[ChangeKind.RETURNED]).changes == []


def test_the_people_afterwards_are_what_the_changes_make(
    people: list[FakePerson], nights: list[Night]
) -> None:
    """Applying the changes to all rows gives the rows of those who are there: nothing else is touched."""
    rows = by_table(people[:300])
    for night in nights:
        rows = applied(rows, night.changes)
        present = [person for person in night.people if person.left != ChangeKind.VANISHED.name]
        expected = by_table(present)
        expected[Person] = [row for person in present if not _unlisted(person) for row in person.rows[Person]]
        assert _sorted(rows) == _sorted(expected)


def _unlisted(person: FakePerson) -> bool:
    return person.left == ChangeKind.PERSON_DELETED.name


def _sorted(rows: dict[type[Any], list[Any]]) -> dict[str, list[str]]:
    return {row_class.__name__: sorted(map(repr, found)) for row_class, found in rows.items() if found}


def test_who_left_can_come_back(nights: list[Night]) -> None:
    """Whoever returns had left in an earlier night, and may leave again."""
    away: set[str] = set()
    for night in nights:
        back = set(night.whom(ChangeKind.RETURNED))
        assert back <= away
        away = (away - back) | set(night.whom(*DEPARTURES))
        assert away == {person.person_id for person in night.people if person.left}


def test_new_ids_change_nothing_else(people: list[FakePerson]) -> None:
    """A night of new ids leaves every assessment with its dates and its factors."""
    night = next_night(people, 5, 1, AS_OF, kinds=[ChangeKind.NEW_IDS])
    before = {person.person_id: person for person in people}
    after = {person.person_id: person for person in night.people}
    for person_id in night.whom(ChangeKind.NEW_IDS):
        old, new = before[person_id].rows, after[person_id].rows
        assert [row[1:] for row in old[CinAssessment]] == [row[1:] for row in new[CinAssessment]]
        assert not {row[0] for row in old[CinAssessment]} & {row[0] for row in new[CinAssessment]}
        assert {row[0] for row in new.get(AssessmentFactors, ())} <= {row[0] for row in new[CinAssessment]}


def test_deletions_take_one_person_and_nobody_else(people: list[FakePerson]) -> None:
    """What deletes a person's rows deletes all of them, and none of anybody else's."""
    for person in people[:40]:
        others = by_table(other for other in people[:40] if other is not person)
        everybody = by_table(people[:40])
        assert _sorted(applied(everybody, deletions(person.rows))) == _sorted(others)

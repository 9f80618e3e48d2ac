"""The rule that is named for a row agrees with what the database takes to be due (domain, "Due rows")."""

from __future__ import annotations

import itertools

import pytest

from api_pipeline.due_rules import RowFacts, Rule, rules_of
from api_pipeline.explain import explain
from tests.databases import Database
from tests.staging_kit import MARKER, Staging, child
from tests.test_inspection import settings_for

STATES = ("New", " updated", "DELETED ", "Unchanged", None)
STATUSES = ("Pending", "ERROR", " testing ", "Sent", "Hold", "", None)
ONE, OTHER = bytes([1]) * 32, bytes([2]) * 32
HASHES = ((ONE, ONE), (ONE, OTHER), (ONE, None), (None, ONE), (MARKER, ONE), (MARKER, MARKER), (ONE, MARKER))
KEPT_BACK = {Rule.DELETION_ACKNOWLEDGED, Rule.HELD_STATUS, Rule.SENT_AND_UNCHANGED}


def test_every_row_is_due_by_its_rules_exactly_if_the_database_says_so(database: Database) -> None:
    """All states, statuses and hashes, as they are stored and as each database compares them."""
    staging = Staging(database).create()
    combinations = list(itertools.product(STATES, STATUSES, HASHES))
    for number, (state, status, (current, previous)) in enumerate(combinations):
        staging.add(
            f"P{number}",
            child(f"c{number}"),
            status,
            state,
            current_hash=current,
            previous_hash=previous,
        )
    seen: set[Rule] = set()
    for number in range(0, len(combinations), 3 if database.kind == "sqlite" else 29):
        report = explain(settings_for(staging), f"P{number}")
        [row] = report.rows
        seen.update(row.rules)
        assert {rule not in KEPT_BACK for rule in row.rules} == {row.facts.due}, combinations[number]
    assert database.kind != "sqlite" or seen == set(Rule)


def facts(state: str, status: str, current: bytes | None = ONE, previous: bytes | None = ONE) -> RowFacts:
    """Return a row of which only these matter."""
    return RowFacts(1, state, status, current, previous, None, None, None, due=True)


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        (facts("deleted", "pending"), (Rule.DELETION_NOT_ACKNOWLEDGED, Rule.PENDING)),
        (facts("deleted", "sent"), (Rule.DELETION_NOT_ACKNOWLEDGED,)),
        (facts("deleted", "pending", MARKER), (Rule.DELETION_ACKNOWLEDGED,)),
        (facts("deleted", "hold"), (Rule.HELD_STATUS,)),
        (facts("new", ""), (Rule.PENDING,)),
        (facts("updated", "sent", ONE, OTHER), (Rule.HASHES_DIFFER,)),
        (facts("updated", "sent", MARKER, OTHER), (Rule.SENT_AND_UNCHANGED,)),
        (facts("updated", "error"), (Rule.ERROR,)),
    ],
)
def test_the_rule_that_says_most_comes_first(row: RowFacts, rules: tuple[Rule, ...]) -> None:
    """A deletion is named before its status, and an acknowledged one is nothing else."""
    assert rules_of(row) == rules

"""The page about partial payloads shows what the code sends: its examples are composed and compared."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import delta, payload
from api_pipeline.remembered import LogOutcome

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "partial_payloads.md").read_text(encoding="utf-8")


def example(name: str) -> dict[str, Any]:
    """Return the JSON of the block that follows a mark."""
    found = re.search(rf"<!-- example:{name} -->\n```json\n(.*?)\n```", PAGE, re.DOTALL)
    assert found is not None
    value: dict[str, Any] = json.loads(found.group(1))
    return value


def ended() -> dict[str, Any]:
    """The row after the first plan ended."""
    row = example("held")
    row["social_care_episodes"][0]["child_in_need_plans"][0]["end_date"] = "2024-09-30"
    return row


def vanished() -> dict[str, Any]:
    """The row after a plan and an episode vanished."""
    row = example("held")
    del row["social_care_episodes"][1], row["social_care_episodes"][0]["child_in_need_plans"][1]
    return row


@pytest.mark.parametrize(("name", "row"), [("ended", ended()), ("vanished", vanished())])
def test_examples_are_what_is_sent(name: str, row: dict[str, Any]) -> None:
    """Each is the choice of partial mode, and brings about the row by the rules."""
    held = delta.normalise(example("held"))
    choice = delta.choose(held, None, copy.deepcopy(row))
    assert (choice.kind, choice.payload) == ("partial", example(name))
    assert delta.same(delta.apply(held, example(name)), delta.normalise(row))


def test_example_of_a_deletion_is_what_is_sent() -> None:
    """It removes the child."""
    assert json.loads(payload.deletion("FAKE-001", None)) == example("left")
    assert delta.apply(delta.normalise(example("held")), example("left")) is None


def test_every_outcome_is_explained() -> None:
    """Whoever finds a word in the log finds it on the page."""
    assert [each.value for each in LogOutcome if f"| `{each.value}` |" not in PAGE] == []


def test_examples_are_clearly_fake() -> None:
    """No id in them could be taken for a real one."""
    assert set(re.findall(r'_id": "(.*?)"', PAGE)) == {"FAKE-001", "FAKE-E1", "FAKE-E2", "FAKE-N1", "FAKE-N2"}

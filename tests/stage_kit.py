"""Nights for the tests of ``stage``: people as tonight's source has them, refreshed into a staging table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from api_pipeline.names import TableName
from api_pipeline.refresh import Built, Changes, Left, Refresher
from api_pipeline.semantic import record_counts, semantic_hash
from api_pipeline.ssd_payload import text_of
from api_pipeline.staging import StagingTable
from tests.db_kit import opened
from tests.staging_kit import Staging

Payload = dict[str, Any]


def payload(child_id: str, *, assessments: int = 1, surname: str = "Beeblebrox", suffix: str = "") -> Payload:
    """Return a valid payload with one episode; ``suffix`` changes the ids of its assessments."""
    records = [
        {
            "child_and_family_assessment_id": f"{child_id}a{number}{suffix}",
            "start_date": "2025-05-01",
            "factors": [f"{number}A"],
            "purge": False,
        }
        for number in range(assessments)
    ]
    episode: Payload = {"social_care_episode_id": f"{child_id}e1", "referral_date": "2025-04-30"}
    if records:
        episode["child_and_family_assessments"] = records
    return {
        "la_child_id": child_id,
        "purge": False,
        "child_details": {"surname": surname, "sex": "F", "disabilities": ["NONE"], "purge": False},
        "social_care_episodes": [{**episode, "purge": False}],
    }


def built(person_id: str, value: Payload | None = None, *, legacy_id: str | None = None) -> Built:
    """Return a person of the cohort."""
    value = payload(person_id.strip()) if value is None else value
    return Built(person_id, legacy_id, value, semantic_hash(value), record_counts(value))


def add_staged(staging: Staging, person: Built, **more: Any) -> None:
    """Insert the row that an earlier night and an acknowledged run left of a person."""
    values: dict[str, Any] = {"current_hash": person.hash, "previous_hash": person.hash, **more}
    staging.add_sent(person.person_id, text_of(person.payload), **values)


@dataclass
class Night:
    """What one refresh did, and what held it back."""

    changes: Changes
    held: list[str] = field(default_factory=list)


def refresh(
    staging: Staging,
    people: Iterable[Built],
    *,
    percent: float | None = 10,
    write: bool = True,
    persons: Sequence[str] = (),
    leave: Sequence[str] = (),
) -> Night:
    """Do one refresh as ``stage`` does, in one transaction; roll back where a brake holds."""
    with opened(staging.database) as database:
        table = StagingTable(database, TableName.parse(staging.table))
        night = Night(Changes())
        try:
            with database.transaction(consistent=True, write=write):
                refresher = Refresher(table, write=write, persons=persons)
                for person in leave:
                    refresher.leave(person, Left.UNREADABLE)
                refresher.take(list(people))
                night.held = refresher.finish(percent)
                night.changes = refresher.changes
                if night.held:
                    raise _Held
        except _Held:
            pass
        return night


class _Held(Exception):
    pass

"""Nights for the tests of ``stage``: people as tonight's source has them, refreshed into a staging table."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from api_pipeline import ssd_schema
from api_pipeline.names import TableName
from api_pipeline.refresh import Built, Changes, Left, Refresher
from api_pipeline.semantic import record_counts, semantic_hash
from api_pipeline.ssd_payload import text_of
from api_pipeline.ssd_tables import CinAssessment, CinEpisode
from api_pipeline.stage import StageOptions
from api_pipeline.stage import stage as staging_night
from api_pipeline.stage_summary import StageSummary
from api_pipeline.staging import StagingTable
from tests import ssd_kit
from tests.databases import Database
from tests.db_kit import opened
from tests.staging_kit import Staging, settings_of

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
    return Built(person_id, legacy_id, text_of(value), semantic_hash(value), record_counts(value))


def add_staged(staging: Staging, person: Built, **more: Any) -> None:
    """Insert the row that an earlier night and an acknowledged run left of a person."""
    values: dict[str, Any] = {"current_hash": person.hash, "previous_hash": person.hash, **more}
    staging.add_sent(person.person_id, person.text, **values)


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


# --- From the source tables -------------------------------------------------------------------------------

AS_OF = date(2025, 6, 30)
_BORN = datetime.fromisoformat("2012-03-04")
_REFERRED = datetime.fromisoformat("2025-01-10")


def family(
    person_id: str | None, *, assessments: int = 1, surname: str = "Beeblebrox", **more: Any
) -> list[Any]:
    """Return the rows of a person in the cohort: an open episode and its assessments."""
    key = (person_id or "none").strip()
    referral = f"r-{key}"
    episode = ssd_kit.make(
        CinEpisode, cine_referral_id=referral, cine_person_id=person_id, cine_referral_date=_REFERRED
    )
    found = [
        ssd_kit.make(
            CinAssessment,
            cina_assessment_id=f"a-{key}-{number}",
            cina_person_id=person_id,
            cina_referral_id=referral,
            cina_assessment_start_date=_REFERRED + timedelta(days=number),
        )
        for number in range(assessments)
    ]
    values: dict[str, Any] = {"pers_dob": _BORN, "pers_sex": "F", "pers_surname": surname, **more}
    return [ssd_kit.person(person_id, **values), episode, *found]


@dataclass
class Source:
    """The source tables of one test, beside the staging table or in a database of their own."""

    staging: Staging
    database: Database

    def create(self, *, fake: bool = True) -> Source:
        """Make the tables, with the marker that says that everybody is made up."""
        schema = ssd_kit.create(self.database, indexes=False)
        if fake:
            self.database.execute(ssd_schema.create_marker(self.staging.dialect, schema))
        return self

    def add(self, *families: list[Any]) -> Source:
        """Insert people."""
        ssd_kit.insert(self.database, [row for rows in families for row in rows])
        return self

    def table(self, name: str) -> str:
        """Return a source table as a statement names it."""
        return self.staging.dialect.table(ssd_schema.table_name(ssd_kit.schema_of(self.database), name))

    def update(self, table: str, assignment: str, person_column: str, person_id: str) -> None:
        """Change rows of a person."""
        sql = f"UPDATE {self.table(table)} SET {assignment} WHERE {person_column} = ?"
        assert self.database.execute(sql, [person_id])

    def remove(self, *person_ids: str) -> None:
        """Take people away."""
        for person_id in person_ids:
            self.database.execute(
                f"DELETE FROM {self.table('ssd_person')} WHERE pers_person_id = ?", [person_id]
            )

    @property
    def settings(self) -> dict[str, str]:
        """What the settings have to say of the source."""
        schema = ssd_kit.schema_of(self.database)
        found = {} if schema is None else {"SSD_SCHEMA": schema.text}
        if self.database is not self.staging.database:
            found["SSD_CONNECTION_STRING"] = self.database.connection_string
        return found

    def stage(self, *, stop: threading.Event | None = None, **options: Any) -> StageSummary:
        """Do one night; upper-case ``options`` are settings, the others belong to the command line."""
        changes = {key: options.pop(key) for key in list(options) if key.isupper()}
        settings = settings_of(self.staging, None, **{**self.settings, **changes})
        return staging_night(settings, StageOptions(**{"as_of": AS_OF, **options}), stop=stop)

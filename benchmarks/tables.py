"""The benchmark's two tables: one that is filled once, and one that is made anew from it before every run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from api_pipeline import db, schema
from api_pipeline.dialects import SQLITE, Kind
from api_pipeline.fake import fake_children
from api_pipeline.ledger_schema import REMEMBERED
from api_pipeline.names import TableName
from api_pipeline.payload import content_hash

STAGING = "csc_bench_staging_anon"
_PRISTINE = "csc_bench_pristine"
_ROWS_AT_ONCE = 100
_COLUMNS = {
    "person_id": Kind.TEXT,
    "json_payload": Kind.TEXT,
    "current_hash": Kind.HASH,
    "submission_status": Kind.TEXT,
    "row_state": Kind.TEXT,
}


class Tables:
    """The tables in one database; use it in a ``with``, which drops them at the end.

    Args:
        connection_string: as DB_CONNECTION_STRING takes it.
        rows: how many rows the filled table gets.
        size: about how long each payload is, in bytes.
    """

    def __init__(self, connection_string: str, rows: int, size: int) -> None:
        self._db = db.connect(connection_string, create=True)
        self._drop()
        self._create(_PRISTINE)
        parts = _payloads(rows, size)
        while part := list(itertools.islice(parts, _ROWS_AT_ONCE)):
            self._insert(part)

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *exc: object) -> None:
        self._drop()
        self._db.close()

    def reset(self, rows: int) -> None:
        """Make the staging table anew, with the first ``rows`` rows due, and tidy up behind it."""
        self._db.execute(f"DROP TABLE IF EXISTS {STAGING}")
        self._create(STAGING)
        self._db.execute(f"INSERT INTO {STAGING} SELECT * FROM {_PRISTINE} WHERE id <= ?", [rows])
        if self._db.dialect is SQLITE:
            self._db.execute(f"ANALYZE {STAGING}")
        else:
            self._db.execute(f"VACUUM ANALYZE {STAGING}")
            self._checkpoint()

    def remember(self) -> None:
        """Make the submission log and the baseline anew beside the staging table."""
        staging = TableName.parse(STAGING)
        for table in REMEMBERED:
            self._db.execute(f"DROP TABLE IF EXISTS {self._db.dialect.table(table.name(staging))}")
            for statement in table.create(self._db.dialect, staging):
                self._db.execute(statement)

    def change(self, night: int) -> None:
        """Change one field of every child, as a refresh would; PostgreSQL only, where the server does it."""
        self._db.execute(
            f"UPDATE {STAGING} SET previous_json_payload = json_payload, previous_hash = current_hash, "
            'json_payload = regexp_replace(json_payload, \'"postcode":"[^"]*"\', '
            f"'\"postcode\":\"ZZ{night} 9ZZ\"'), submission_status = 'Pending', row_state = 'Updated'"
        )
        self._db.execute(f"UPDATE {STAGING} SET current_hash = sha256(convert_to(json_payload, 'UTF8'))")
        self._db.execute(f"VACUUM ANALYZE {STAGING}")
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Have the server write now what it would otherwise write during the run that is timed."""
        allowed = "SELECT 1 FROM pg_roles WHERE rolname = current_user AND rolsuper"
        if self._db.query(allowed):
            self._db.execute("CHECKPOINT")

    def sent(self) -> int:
        """Return how many rows are marked as sent, to see that a run did what it was timed for."""
        rows = self._db.query(f"SELECT COUNT(*) FROM {STAGING} WHERE submission_status = 'sent'")
        return int(rows[0][0])

    def _create(self, table: str) -> None:
        for statement in schema.create_statements(self._db.dialect, TableName.parse(table)):
            self._db.execute(statement)

    def _drop(self) -> None:
        remembered = [str(table.name(TableName.parse(STAGING))) for table in REMEMBERED]
        for table in (STAGING, _PRISTINE, *remembered):
            self._db.execute(f"DROP TABLE IF EXISTS {table}")

    def _insert(self, part: list[tuple[str, str]]) -> None:
        dialect = self._db.dialect
        rows = [(person_id, text, content_hash(text), "Pending", "New") for person_id, text in part]
        insert = dialect.insert_listed(
            dialect.table(TableName.parse(_PRISTINE)),
            target=list(_COLUMNS),
            expressions=[f"v.{column}" for column in _COLUMNS],
            columns=_COLUMNS,
            rows=len(rows),
            key_column="person_id",
        )
        with self._db.transaction():
            self._db.query(insert, dialect.listed(_COLUMNS, rows))


def _payloads(rows: int, size: int) -> Iterator[tuple[str, str]]:
    for row in fake_children(rows):
        yield row.person_id, _text(row.payload, size)


def _text(child: dict[str, Any], size: int) -> str:
    """Return the child as JSON of about ``size`` bytes, by adding or leaving out assessments and episodes."""
    episodes = child["social_care_episodes"]
    while len(text := _json(child)) > size and len(episodes) > 1:
        episodes.pop()
    for name in ("child_looked_after_placements", "child_and_family_assessments", "section_47_assessments"):
        while len(text) > size and episodes[0][name]:
            episodes[0][name].pop()
            text = _json(child)
    missing = (size - len(text)) // 190  # about the length of one assessment
    for number in range(missing):
        episodes[0]["child_and_family_assessments"].append(
            {
                "child_and_family_assessment_id": f"BENCH-{number}-{child['la_child_id']}",
                "start_date": "2025-01-06",
                "authorisation_date": "2025-02-17",
                "factors": ["1A", "2B", "4A", "10A"],
                "purge": False,
            }
        )
    return _json(child)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

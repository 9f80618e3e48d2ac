"""A staging table made, filled and looked at by the tests, and runs against the receiver on loopback.

Rows are written and read through the bare driver, so what a test sees is what the database holds.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from api_pipeline import pipeline, schema
from api_pipeline.config import Needs, Settings, load_settings
from api_pipeline.dialects import POSTGRESQL, SQL_SERVER, SQLITE, Dialect
from api_pipeline.ledger_schema import BASELINE, LOG, REMEMBERED, RememberedTable
from api_pipeline.names import TableName
from api_pipeline.receiver import Receiver
from api_pipeline.receiver_http import Request
from api_pipeline.summary import RunSummary
from tests.databases import Database

MARKER = bytes(32)
DIALECTS: Mapping[str, Dialect] = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "sqlserver": SQL_SERVER}
COLUMNS = tuple(spec.name for spec in schema.STAGING_COLUMNS)
EARLIER = "2001-02-03 04:05:06"

# Names that careless code mangles; escaped because the code base is ASCII.
SCRIPTS = (
    "O'Brien",
    "d''Arcy \\ % _ ? {x}",
    "Si\xe2n \xd1o\xf1o \xdf",
    "\u0639\u0627\u0626\u0634\u06c1",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0986\u09af\u09bc\u09c7\u09b6\u09be",
    "\u0e2a\u0e21\u0e0a\u0e32\u0e22",
    "\u674e\u5c0f\u9f8d \u30bf\u30ed\u30a6 \uae40",
    "\u0141ukasz \u010capek \u1ef0",
    "\U0001f31f\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u0130stanbul\u0307 e\u0301 vs \xe9",
)


def child(child_id: str, **details: Any) -> str:
    """Return a small valid payload as text, ``la_child_id`` first."""
    return json.dumps({"la_child_id": child_id, "child_details": details}, ensure_ascii=False)


def digest(text: str) -> bytes:
    """Return what a refresh might put into current_hash; not the tool's own hash."""
    return hashlib.sha256(b"refresh:" + text.encode()).digest()


_OWN = object()


@dataclass
class Staging:
    """The staging table of one test."""

    database: Database
    table: str = ""
    columns: list[str] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        self.table = self.table or self.database.table_name

    @property
    def dialect(self) -> Dialect:
        """The dialect of the database that the table lies in."""
        return DIALECTS[self.database.kind]

    def create(self, **changes: str | None) -> Staging:
        """Create the table; ``changes`` give a column another definition, or None to leave it out."""
        if self.database.kind == "sqlite":
            self.database.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug on a test
        definitions = []
        self.columns = []
        for spec in schema.STAGING_COLUMNS:
            definition = changes.get(spec.name, getattr(spec, self.dialect.name))
            if definition is not None:
                definitions.append(f"{spec.name} {definition}")
                self.columns.append(spec.name)
        self.database.execute(f"CREATE TABLE {self.table} ({', '.join(definitions)})")
        return self

    def add(
        self,
        person_id: str | None,
        text: str,
        status: str | None = "Pending",
        state: str | None = "New",
        *,
        current_hash: Any = _OWN,
        **more: Any,
    ) -> None:
        """Insert a row as a refresh would; without ``current_hash`` it gets one of its own."""
        values = {
            "person_id": person_id,
            "json_payload": text,
            "submission_status": status,
            "row_state": state,
            "current_hash": digest(text) if current_hash is _OWN else current_hash,
            "last_updated": EARLIER,
            **more,
        }
        marks = [self._mark(column) for column in values]
        self.database.execute(
            f"INSERT INTO {self.table} ({', '.join(values)}) VALUES ({', '.join(marks)})",
            list(values.values()),
        )

    def add_sent(self, person_id: str, text: str, state: str = "unchanged", **more: Any) -> None:
        """Insert a row that was acknowledged in an earlier run."""
        values = {
            "previous_json_payload": text,
            "previous_hash": digest(text),
            "api_response": "earlier-receipt",
            "submission_timestamp": EARLIER,
            **more,
        }
        self.add(person_id, text, "sent", state, **values)

    def remember(self) -> Staging:
        """Create the submission log and the baseline beside the table."""
        for table in REMEMBERED:
            for statement in table.create(self.dialect, TableName.parse(self.table)):
                self.database.execute(statement)
        return self

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the submission log in the order in which they were begun."""
        return self._remembered(LOG, "started_at, run_id, seq")

    def baseline(self, person_id: str) -> dict[str, Any]:
        """Return what the baseline has of a person; empty where it has nothing."""
        found = [line for line in self._remembered(BASELINE, "person_id") if line["person_id"] == person_id]
        return found[0] if found else {}

    def _remembered(self, table: RememberedTable, order: str) -> list[dict[str, Any]]:
        names = [spec.name for spec in table.columns]
        name = self.dialect.table(table.name(TableName.parse(self.table)))
        rows = self.database.query(f"SELECT {', '.join(names)} FROM {name} ORDER BY {order}")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _mark(self, column: str) -> str:
        if self.database.kind == "sqlite":
            return "?"
        types = {
            "hash": {"sqlserver": "VARBINARY(32)", "postgresql": "BYTEA"},
            "moment": {"sqlserver": "DATETIME2(7)", "postgresql": "TIMESTAMP"},
            "text": {"sqlserver": "NVARCHAR(MAX)", "postgresql": "TEXT"},
        }
        if column == "id":
            return "?"
        kind = "hash" if column.endswith("_hash") else "text"
        if column in ("submission_timestamp", "last_updated"):
            kind = "moment"
        if self.database.kind == "postgresql" and column.endswith("_payload"):
            return "?"
        return f"CAST(? AS {types[kind][self.database.kind]})"

    def update(self, person_id: str, /, **values: Any) -> None:
        """Change columns of a person's row from outside."""
        sets = ", ".join(f"{column} = {self._mark(column)}" for column in values)
        self._execute(f"UPDATE {self.table} SET {sets} WHERE person_id = ?", [*values.values(), person_id])

    def _execute(self, sql: str, params: Sequence[object]) -> None:
        """Run a statement from any thread: a hook of the receiver runs in the receiver's own."""
        if threading.get_ident() == self._thread:
            self.database.execute(sql, params)
            return
        visitor = replace(self.database, _connection=None)
        visitor.execute(sql, params)
        visitor.close()

    def refresh(self, person_id: str, text: str) -> None:
        """Do what the nightly refresh does to a person whose payload changed (domain, section 3)."""
        self._execute(
            f"UPDATE {self.table} SET previous_json_payload = json_payload, previous_hash = current_hash"
            " WHERE person_id = ?",
            [person_id],
        )
        self.update(
            person_id,
            json_payload=text,
            current_hash=digest(text),
            row_state="Updated",
            submission_status="Pending",
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return every row with every column, in order of insertion where there is an id."""
        order = "id" if "id" in self.columns else "person_id"
        select = [
            f"CAST({column} AS TEXT)"
            if self.database.kind == "postgresql" and column.endswith("_payload")
            else column
            for column in self.columns
        ]
        found = self.database.query(f"SELECT {', '.join(select)} FROM {self.table} ORDER BY {order}")
        return [
            {
                column: bytes(value) if isinstance(value, (bytearray, memoryview)) else value
                for column, value in zip(self.columns, row, strict=True)
            }
            for row in found
        ]

    def row(self, person_id: str | None) -> dict[str, Any]:
        """Return a person's only row."""
        [found] = [row for row in self.rows() if row["person_id"] == person_id]
        return found

    def statuses(self) -> dict[str, str]:
        """Return each person's status as it is stored."""
        return {row["person_id"]: row["submission_status"] for row in self.rows()}


Hook = Callable[[Sequence[Mapping[str, Any]]], None]


class HookedReceiver(Receiver):
    """A receiver that calls ``hook`` with the records of a POST before it answers."""

    def __init__(self, hook: Hook | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.hook = hook

    def __enter__(self) -> HookedReceiver:
        self.start()
        return self

    def _answer_children(self, request: Request, la_code: str) -> Any:
        if self.hook is not None:
            self.hook(json.loads(request.body or b"[]"))
        return super()._answer_children(request, la_code)


def settings_of(staging: Staging, receiver: Receiver | None, **changes: Any) -> Settings:
    """Return the settings of a live run to ``receiver``; without one, of a run in testing mode."""
    values = {
        "DB_CONNECTION_STRING": staging.database.connection_string,
        "TABLE_NAME": staging.table,
        "TESTING_MODE": "true" if receiver is None else "false",
        "MIN_REQUEST_GAP_MS": "0",
        "MAX_RETRIES": "1",
        **({} if receiver is None else receiver.settings()),
        **{key: str(value) for key, value in changes.items()},
    }
    return load_settings(needs=Needs.RUN, overrides=values, environ={}, cwd=Path.cwd())


def run(staging: Staging, receiver: Receiver | None, **options: Any) -> RunSummary:
    """Do one run; upper-case ``options`` are settings, the others belong to the command line."""
    changes = {key: options.pop(key) for key in list(options) if key.isupper()}
    return pipeline.run(settings_of(staging, receiver, **changes), pipeline.RunOptions(**options))


def sent_records(receiver: Receiver) -> list[list[dict[str, Any]]]:
    """Return the records of every submission, whatever the reply; needs ``keep_bodies``."""
    return [json.loads(request.body or b"[]") for request in receiver.submissions]


def sent_ids(receiver: Receiver) -> list[list[str]]:
    """Return the la_child_ids of every submission; a purge is written ``-id``."""
    return [
        [f"-{record['la_child_id']}" if record.get("purge") else record["la_child_id"] for record in records]
        for records in sent_records(receiver)
    ]


def receipt_moment(receiver: Receiver, child_id: str) -> datetime:
    """Return the moment in a child's last receipt, to the microsecond."""
    day, clock, _ = receiver.receipts[child_id].split("_")
    whole, fraction = clock.split(".")
    return datetime.fromisoformat(f"{day}T{whole}.{fraction[:6].ljust(6, '0')}")


def receipt_uuid(receiver: Receiver, child_id: str) -> str:
    """Return the UUID in a child's last receipt."""
    return receiver.receipts[child_id].rsplit("_", 1)[1].removesuffix(".json")


def add_five(staging: Staging) -> None:
    """Insert five due rows, p0 with the child c0 to p4 with c4."""
    for number in range(5):
        staging.add(f"p{number}", child(f"c{number}"))

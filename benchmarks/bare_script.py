"""What the run is compared with: the same rows, the same bytes and the same columns, and no care at all.

One pass over the due rows, one kept-alive connection, one set-based statement and commit for each batch. No
validation, no survey, no retries, no log. Usage: bare_script.py DATABASE TABLE API_URL
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import requests

_BATCH = 100
_DUE = (
    "SELECT id, json_payload, current_hash FROM {table} "
    "WHERE LOWER(submission_status) IN ('pending', 'error', 'testing') ORDER BY id"
)
_SET = (
    "SET submission_status = 'sent', api_response = v.response, submission_timestamp = v.moment, "
    "previous_hash = t.current_hash, previous_json_payload = t.json_payload, row_state = 'unchanged'"
)
_ODBC_ROW = "(CAST(? AS BIGINT), CAST(? AS BYTEA), CAST(? AS TEXT), CAST(? AS TIMESTAMP))"
_ODBC_UPDATE = (
    "UPDATE {table} AS t " + _SET + " FROM (VALUES {rows}) AS v (k, h, response, moment) "
    "WHERE t.id = v.k AND t.current_hash = v.h"
)
_SQLITE_UPDATE = (
    "WITH v (k, h, response, moment) AS (VALUES {rows}) UPDATE {table} AS t "
    + _SET
    + " FROM v WHERE t.id = v.k AND t.current_hash = v.h"
)


def main(database: str, table: str, url: str) -> None:
    """Send every due row and mark it as sent."""
    if database.startswith("sqlite:///"):
        connection: Any = sqlite3.connect(database.removeprefix("sqlite:///"))
        update, row = _SQLITE_UPDATE, "(?, ?, ?, ?)"
    else:
        import pyodbc

        connection = pyodbc.connect(database)
        update, row = _ODBC_UPDATE, _ODBC_ROW
    reader, writer = connection.cursor(), connection.cursor()
    reader.execute(_DUE.format(table=table))
    with requests.Session() as session:
        session.headers.update({"Authorization": "Bearer benchmark", "Content-Type": "application/json"})
        for batch in _batches(reader):
            body = b"[" + b",".join(text.encode() for _, text, _ in batch) + b"]"
            reply = session.post(url, data=body, timeout=30)
            reply.raise_for_status()
            values = [
                value
                for (key, _, digest), receipt in zip(batch, reply.json(), strict=True)
                for value in (key, digest, *_read(receipt))
            ]
            writer.execute(update.format(table=table, rows=", ".join([row] * len(batch))), values)
            connection.commit()


def _batches(cursor: Any) -> Iterator[Sequence[Any]]:
    while batch := cursor.fetchmany(_BATCH):
        yield batch


def _read(receipt: str) -> tuple[str, str]:
    date, time, uuid = receipt.removesuffix(".json").split("_")
    return uuid, str(datetime.fromisoformat(f"{date} {time.ljust(15, '0')}"))


if __name__ == "__main__":
    main(*sys.argv[1:])

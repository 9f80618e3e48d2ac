"""What ``stage`` is compared with: every row of the source through the same driver, and nothing done with it.

Usage: bare_reading.py DATABASE SCHEMA
"""

from __future__ import annotations

import sys

import pyodbc

from api_pipeline.ssd_tables import SOURCE_TABLES

_ROWS_AT_ONCE = 1_000


def main(database: str, schema: str) -> None:
    """Read the columns that ``stage`` reads."""
    cursor = pyodbc.connect(database, autocommit=True).cursor()
    for table in SOURCE_TABLES:
        cursor.execute(f"SELECT {', '.join(table.columns)} FROM {schema}.{table.name}")
        while cursor.fetchmany(_ROWS_AT_ONCE):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])

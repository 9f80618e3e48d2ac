"""Compare partial mode with full mode on the same changed rows, and look at its memory (README.md).

PostgreSQL only. One field of every child changes each night; the two modes take turns over the nights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench_run import Senders, instant_api
from tables import Tables

_SIZE = 5_000  # bytes of one payload, about
_VARIABLE = "TEST_POSTGRESQL_CONNECTION_STRING"


def main() -> int:
    """Measure and print; there is no limit to keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=20_000, help="rows that change each night (default: 20000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="pairs of nights that are timed (default: 3)")
    parser.add_argument(
        "--few", type=int, default=1_000, help="rows of the lower memory figure (default: 1000)"
    )
    parser.add_argument("--database", default=os.environ.get(_VARIABLE), help=f"default: {_VARIABLE}")
    args = parser.parse_args()
    if not args.database:
        parser.error(f"give --database, or set {_VARIABLE}")
    with tempfile.TemporaryDirectory(prefix="csc-bench-") as folder, instant_api() as api:
        senders = Senders(args.database, api, Path(folder))
        print(f"Filling a table with {args.rows} rows of about {_SIZE} bytes ...", flush=True)
        with Tables(args.database, args.rows, _SIZE) as tables:
            _compare(tables, senders, args.rows, args.rounds)
            if sys.platform == "linux":
                peaks = [_peak(tables, senders, rows) for rows in (args.few, args.rows)]
                print(f"ratio {args.rows}:{args.few} rows: {peaks[1] / peaks[0]:.2f}")
    return 0


def _first_night(tables: Tables, senders: Senders, rows: int) -> float:
    tables.reset(rows)
    tables.remember()
    return senders.run()


def _compare(tables: Tables, senders: Senders, rows: int, rounds: int) -> None:
    first = _first_night(tables, senders, rows)
    print(f"{rows} new rows, full payloads, log and baseline kept: {first:.2f} s", flush=True)
    pairs: list[tuple[float, float]] = []
    for turn in range(rounds):
        seconds = []
        for number, flag in enumerate(("--partial", "--full")):
            tables.change(2 * turn + number)
            seconds.append(senders.run(flag))
        pairs.append((seconds[0], seconds[1]))
        print(f"partial {seconds[0]:6.2f} s   full {seconds[1]:6.2f} s   ratio {seconds[0] / seconds[1]:.2f}")
    print(f"median ratio {statistics.median(partial / full for partial, full in pairs):.2f}", flush=True)


def _peak(tables: Tables, senders: Senders, rows: int) -> float:
    _first_night(tables, senders, rows)
    tables.change(0)
    peak = senders.peak("--partial")
    print(f"peak memory of run --partial at {rows:>7} changed rows: {peak:6.1f} MiB", flush=True)
    return peak


if __name__ == "__main__":
    sys.exit(main())

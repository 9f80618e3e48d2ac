"""Compare ``run`` with a bare script, interleaved, and measure its peak memory (benchmarks/README.md).

Ends with code 1 where a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tables import STAGING, Tables

_HERE = Path(__file__).resolve().parent
_SIZE = 5_000  # bytes of one payload, about
_TIME_LIMIT = 1.5  # the run's time in times of the bare script's
_MEMORY_LIMIT = 1.3  # the peak at the most rows in times of that at the fewest
_VARIABLE = "TEST_POSTGRESQL_CONNECTION_STRING"

# The peak is read in the process itself: what the parent could ask for after its end counts the parent too.
MEASURED = """
import atexit, resource, runpy, sys
def peak():
    with open("/proc/self/status") as status:
        (own,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    other = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # stage's second process, all of it
    print("VmHWM:", own + other, file=sys.stderr)
atexit.register(peak)
sys.argv = ["api_pipeline", *sys.argv[1:]]
runpy.run_module("api_pipeline", run_name="__main__")
"""
_RUN = ("run", "--no-progress")


def main() -> int:
    """Measure, print, and say whether the limits are kept."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="csc-bench-") as folder:
        database = f"sqlite:///{folder}/bench.sqlite" if args.sqlite else args.database
        with instant_api(parse=args.parse) as api:
            senders = Senders(database, api, Path(folder))
            most = max([args.rows, *args.memory_rows])
            print(f"Filling a table with {most} rows of about {_SIZE} bytes ...", flush=True)
            with Tables(database, most, _SIZE) as tables:
                kept = [_compare(tables, senders, args.rows, args.rounds)] if args.rounds else []
                if args.memory_rows:
                    kept.append(_memory(tables, senders, args.memory_rows))
    return 0 if all(kept) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the comparison (default: 20000)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs that are timed; 0: none (default: 5)")
    parser.add_argument(
        "--memory-rows",
        type=int,
        nargs="*",
        default=[1_000, 20_000, 100_000],
        metavar="N",
        help="rows at which the peak memory is measured; nothing: not at all (default: 1000 20000 100000)",
    )
    parser.add_argument(
        "--parse", action="store_true", help="the API reads each body as JSON before it answers"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--database",
        default=os.environ.get(_VARIABLE),
        help=f"ODBC connection string of a PostgreSQL database (default: {_VARIABLE})",
    )
    where.add_argument("--sqlite", action="store_true", help="a SQLite file in place of PostgreSQL")
    args = parser.parse_args()
    if not args.sqlite and not args.database:
        parser.error(f"give --database or --sqlite, or set {_VARIABLE}")
    if sys.platform != "linux" and args.memory_rows:
        print("Peak memory is measured on Linux only.")
        args.memory_rows = []
    return args


@contextmanager
def instant_api(*, parse: bool = False) -> Iterator[str]:
    """Start the API that answers at once; yield its address."""
    command = [sys.executable, str(_HERE / "instant_api.py"), *(["--parse"] if parse else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as api:
        try:
            yield (api.stdout.readline() if api.stdout else "").strip()
        finally:
            api.terminate()


class Senders:
    """Starts the run or the bare script, each in a process of its own."""

    def __init__(self, database: str, api: str, folder: Path) -> None:
        self._folder = folder
        children = f"{api}/children_social_care_data/845/children"
        self._bare = [sys.executable, str(_HERE / "bare_script.py"), database, STAGING, children]
        self._environment = {
            # Compiled once, as an installed program is, whatever this machine says about bytecode.
            **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            "PYTHONPATH": str(_HERE.parent),
            "DB_CONNECTION_STRING": database,
            "TABLE_NAME": STAGING,
            "TESTING_MODE": "false",
            "API_ENDPOINT": api,
            "LA_CODE": "845",
            "TOKEN_ENDPOINT": f"{api}/token",
            "CLIENT_ID": "benchmark",
            "CLIENT_SECRET": "benchmark-secret",
            "SCOPE": "benchmark",
            "SUPPLIER_KEY": "benchmark-key",
            "MIN_REQUEST_GAP_MS": "0",
            "BATCH_SIZE": "100",
        }

    def run(self, *flags: str) -> float:
        """Return the seconds that the run takes, its start included."""
        return self._timed([sys.executable, "-m", "api_pipeline", *_RUN, *flags])

    def bare(self) -> float:
        """Return the seconds that the bare script takes, its start included."""
        return self._timed(self._bare)

    def peak(self, *flags: str) -> float:
        """Return the peak resident memory of the run, in MiB."""
        said = self._done([sys.executable, "-c", MEASURED, *_RUN, *flags])
        return int(said.rsplit("VmHWM:", 1)[1].split()[0]) / 1024

    def _timed(self, command: list[str]) -> float:
        started = time.perf_counter()
        self._done(command)
        return time.perf_counter() - started

    def _done(self, command: list[str]) -> str:
        done = subprocess.run(
            command, env=self._environment, cwd=self._folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stderr


def _compare(tables: Tables, senders: Senders, rows: int, rounds: int) -> bool:
    """Time both in turn, after one of each that warms the machine up."""
    pairs: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        seconds = []
        for sender in (senders.run, senders.bare):
            tables.reset(rows)
            seconds.append(sender())
            if tables.sent() != rows:
                raise SystemExit(f"{tables.sent()} of {rows} rows were sent")
        pairs.append((seconds[0], seconds[1]))
    timed = pairs[1:]
    print(f"\n{rows} rows     run    bare script   ratio")
    for run, bare in timed:
        print(f"         {run:7.2f} s      {bare:7.2f} s   {run / bare:5.2f}")
    run = statistics.median(pair[0] for pair in timed)
    bare = statistics.median(pair[1] for pair in timed)
    ratio = statistics.median(pair[0] / pair[1] for pair in timed)
    print(f"median   {run:7.2f} s      {bare:7.2f} s   {ratio:5.2f}   (limit {_TIME_LIMIT})", flush=True)
    return ratio <= _TIME_LIMIT


def _memory(tables: Tables, senders: Senders, counts: list[int]) -> bool:
    """Measure the peak memory of the run at each number of rows."""
    print()
    peaks = []
    for rows in counts:
        tables.reset(rows)
        peaks.append(senders.peak())
        print(f"peak memory of run at {rows:>7} rows: {peaks[-1]:6.1f} MiB", flush=True)
    ratio = peaks[-1] / peaks[0]
    print(f"ratio {counts[-1]}:{counts[0]} rows: {ratio:.2f}   (limit {_MEMORY_LIMIT})")
    return ratio <= _MEMORY_LIMIT


if __name__ == "__main__":
    sys.exit(main())

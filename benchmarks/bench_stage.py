"""Compare ``stage`` with bare reading of the same rows, and measure memory and a night's writes (README.md).

PostgreSQL only. The people are made up by ``fake-data --ssd``. Ends with code 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from bench_run import MEASURED

from api_pipeline import db, provision, ssd_provision
from api_pipeline.config import Needs, Settings, load_settings
from api_pipeline.ssd_tables import SOURCE_TABLES

_HERE = Path(__file__).resolve().parent
_VARIABLE = "TEST_POSTGRESQL_CONNECTION_STRING"
_SCHEMA = "csc_bench_ssd"
_STAGING = f"{_SCHEMA}.ssd_api_data_staging_anon"
_AS_OF = "2026-01-15"  # the day of the run: the same people, and the same window, whenever it is measured
_TIME_LIMIT = 3.0  # stage's time in times of the bare reading
_MEMORY_LIMIT = 200  # MiB
_FLAT = 1.3  # the peak at the most people in times of that at the fewest
_CHANGED = 0.03  # of the people, in the night that follows


def main() -> int:
    """Measure, print, and say whether the limits are kept."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="csc-bench-") as folder, Source(args.database, folder) as source:
        kept = [_time(source, args.people, args.rounds), _changed_night(source)] if args.rounds else []
        if args.memory_people:
            kept.append(_memory(source, args.memory_people))
    return 0 if all(kept) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=30_000, help="people that are staged (default: 30000)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs that are timed; 0: none (default: 3)")
    parser.add_argument(
        "--memory-people",
        type=int,
        nargs="*",
        default=[3_000, 100_000],
        metavar="N",
        help="people at whom the peak memory is measured; nothing: not at all (default: 3000 100000)",
    )
    parser.add_argument("--database", default=os.environ.get(_VARIABLE), help=f"default: {_VARIABLE}")
    args = parser.parse_args()
    if not args.database:
        parser.error(f"give --database, or set {_VARIABLE}")
    if sys.platform != "linux" and args.memory_people:
        print("Peak memory is measured on Linux only.")
        args.memory_people = []
    return args


class Source:
    """A schema with a fake source and a staging table; use it in a ``with``, which drops it at the end."""

    def __init__(self, database: str, folder: str) -> None:
        self._database = database
        self._folder = Path(folder)
        self._db = db.connect(database)
        self._values = {
            "DB_CONNECTION_STRING": database,
            "TABLE_NAME": _STAGING,
            "SSD_SCHEMA": _SCHEMA,
            "TESTING_MODE": "true",
        }

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
        self._db.close()

    @property
    def _settings(self) -> Settings:
        return load_settings(
            needs=Needs.DATABASE, environ={}, overrides=self._values, cwd=self._folder, executable_dir=None
        )

    def fill(self, people: int) -> int:
        """Make the source anew with so many people; return how many rows it has."""
        print(f"Filling a source with {people} people ...", flush=True)
        self._db.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
        self._db.execute(f"CREATE SCHEMA {_SCHEMA}")
        ssd_provision.init_ssd(self._settings)
        ssd_provision.fill_ssd(self._settings, people, seed=2026, as_of=date.fromisoformat(_AS_OF))
        for table in SOURCE_TABLES:
            self._db.execute(f"VACUUM ANALYZE {_SCHEMA}.{table.name}")
        tables = (f"SELECT COUNT(*) AS n FROM {_SCHEMA}.{table.name}" for table in SOURCE_TABLES)
        return int(self._db.query(f"SELECT SUM(n) FROM ({' UNION ALL '.join(tables)}) AS t")[0][0])

    def empty_staging(self) -> None:
        """Make the staging table anew."""
        self._db.execute(f"DROP TABLE IF EXISTS {_STAGING}")
        provision.init_db(self._settings)

    def change(self, share: float) -> int:
        """Change one field of so large a share of the staged people; return how many these are."""
        staged = int(self._db.query(f"SELECT COUNT(*) FROM {_STAGING}")[0][0])
        changed = int(staged * share)
        self._db.execute(
            f"UPDATE {_SCHEMA}.ssd_person SET pers_forename = COALESCE(pers_forename, '') || ' (changed)' "
            f"WHERE pers_person_id IN (SELECT person_id FROM {_STAGING} ORDER BY id LIMIT ?)",
            [changed],
        )
        return changed

    def stage(self) -> tuple[float, dict[str, Any]]:
        """Return the seconds that ``stage`` takes, its start included, and what it says of itself."""
        started = time.perf_counter()
        said = self._done([sys.executable, "-m", "api_pipeline", *_STAGE])
        return time.perf_counter() - started, json.loads(said.stdout)

    def read(self) -> float:
        """Return the seconds that bare reading takes, its start included."""
        started = time.perf_counter()
        self._done([sys.executable, str(_HERE / "bare_reading.py"), self._database, _SCHEMA])
        return time.perf_counter() - started

    def peak(self) -> float:
        """Return the peak resident memory of ``stage``, both processes together, in MiB."""
        said = self._done([sys.executable, "-c", MEASURED, *_STAGE])
        return int(said.stderr.rsplit("VmHWM:", 1)[1].split()[0]) / 1024

    def _done(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {
            # Compiled once, as an installed program is, whatever this machine says about bytecode.
            **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": str(self._folder / "bytecode"),
            "PYTHONPATH": str(_HERE.parent),
            **self._values,
        }
        done = subprocess.run(
            command, env=environment, cwd=self._folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done


_STAGE = ("stage", "--no-progress", "--json", "--as-of", _AS_OF)


def _time(source: Source, people: int, rounds: int) -> bool:
    """Time the first night and the reading in turn, after one of each that warms the machine up."""
    rows = source.fill(people)
    pairs: list[tuple[float, float]] = []
    cohort = 0
    for _ in range(rounds + 1):
        source.empty_staging()
        seconds, said = source.stage()
        cohort = said["cohort"]
        if said["new"] != cohort or not cohort:
            raise SystemExit(f"{said['new']} of {cohort} people were staged")
        pairs.append((seconds, source.read()))
    print(f"\n{people} people, {rows} source rows, {cohort} staged\n         stage   bare reading   ratio")
    for stage, bare in pairs[1:]:
        print(f"       {stage:7.2f} s     {bare:7.2f} s   {stage / bare:5.2f}")
    ratio = statistics.median(stage / bare for stage, bare in pairs[1:])
    print(f"median ratio of the first night {ratio:.2f}   (limit {_TIME_LIMIT})", flush=True)
    seconds, said = source.stage()
    if said["rows_written"]:
        raise SystemExit("a night without a change wrote something")
    share = seconds / source.read()
    print(f"a night without a change: {seconds:.2f} s, ratio {share:.2f}, no row written", flush=True)
    return ratio <= _TIME_LIMIT


def _changed_night(source: Source) -> bool:
    changed = source.change(_CHANGED)
    seconds, said = source.stage()
    written, cohort = said["rows_written"], said["cohort"]
    print(
        f"a night in which {changed} of {cohort} people changed: {written} rows written "
        f"({written / cohort:.1%}), {seconds:.2f} s",
        flush=True,
    )
    return bool(written == changed)


def _memory(source: Source, counts: list[int]) -> bool:
    peaks = []
    for people in counts:
        source.fill(people)
        source.empty_staging()
        peaks.append(source.peak())
        print(f"peak memory of stage at {people:>7} people: {peaks[-1]:6.1f} MiB", flush=True)
    ratio = peaks[-1] / peaks[0]
    print(f"ratio {counts[-1]}:{counts[0]} people: {ratio:.2f}   (limits {_FLAT}, {_MEMORY_LIMIT} MiB)")
    return ratio <= _FLAT and max(peaks) <= _MEMORY_LIMIT


if __name__ == "__main__":
    sys.exit(main())

"""``demo``: two nights on this machine alone, from a staging table to a receiver and back.

Real parts throughout: a SQLite file, the receiver on loopback, the same ``run`` that an authority schedules.
Only the refresh between the two nights is played here, because it is not this tool's work.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import tabulate

from api_pipeline import db, delta, payload, pipeline, provision
from api_pipeline.config import Needs, Settings, load_settings
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.receiver import Receiver

CHILDREN = 12
_SEED = 2026
_FILE = "demo.db"
_SHOWN = ("person_id", "row_state", "submission_status", "submission_timestamp", "api_response")


def play(say: Callable[[str], None], *, folder: Path | None = None) -> ExitCode:
    """Play the two nights, telling each step through ``say``; ``folder`` keeps the database file.

    Returns ``OK`` if at the end the receiver holds exactly the children of the table.

    Raises:
        DatabaseError: if the file cannot be made.
        ConfigError: if the folder already holds a demo.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csc-api-demo-")))
        receiver = stack.enter_context(Receiver(apply_partials=True))
        _require_empty(folder)
        settings = _settings(folder, receiver)
        say(f"A staging table with {CHILDREN} fake children, in SQLite: {folder / _FILE}")
        say(f"A receiver that stands in for the DfE's API: {receiver.base_url}")
        provision.init_db(settings)
        provision.fill_with_fakes(settings, CHILDREN, _SEED)

        say("\n== The first night: everybody is new ==\n")
        say(_table(settings))
        first = pipeline.run(settings, pipeline.RunOptions())
        say(f"\n{first.as_table()}\n\nAfterwards:\n")
        say(_table(settings))

        say("\n== The second night, as partial payloads: three children changed, two left, one is new ==\n")
        _refresh(settings)
        say(_table(settings))
        partial = replace(settings, use_partial_payload=True)
        second = pipeline.run(partial, pipeline.RunOptions(allow_deletions=True))
        say(f"\n{second.as_table()}\n\nAfterwards:\n")
        say(_table(settings))

        same = _children_of(settings) == {
            key: delta.normalise(child) for key, child in receiver.children.items()
        }
        requests = len(receiver.submissions)
        say(f"\nThe receiver answered {requests} submissions and holds {len(receiver.children)} children,")
        say(
            "exactly those of the table." if same else "which are NOT those of the table: please report this."
        )
        codes = {first.exit_code, second.exit_code}
        return ExitCode.OK if same and codes == {ExitCode.OK} else ExitCode.FAILED


def _require_empty(folder: Path) -> None:
    if (folder / _FILE).exists():
        raise ConfigError(
            f"The folder {folder} already holds a demo.",
            hop="settings",
            remedy=f"Remove {folder / _FILE}, or name another folder with --folder.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {folder} cannot be made.", hop="settings", remedy="Name another one with --folder."
        ) from error


def _settings(folder: Path, receiver: Receiver) -> Settings:
    values = {
        "DB_CONNECTION_STRING": f"sqlite:///{folder / _FILE}",
        "TABLE_NAME": "ssd_api_data_staging_anon",
        "TESTING_MODE": "false",
        "BATCH_SIZE": "5",
        "MIN_REQUEST_GAP_MS": "0",
        **receiver.settings(),
    }
    # Nothing but these values counts: the demo must not pick up the .env of a real installation.
    return load_settings(needs=Needs.RUN, overrides=values, environ={}, cwd=folder, executable_dir=folder)


def _rows(settings: Settings, columns: str) -> list[Any]:
    with provision.connect(settings) as database:
        table = database.dialect.table(settings.table)
        return database.query(f"SELECT {columns} FROM {table} ORDER BY id")


def _table(settings: Settings) -> str:
    rows = [
        ["" if value is None else str(value) for value in row] for row in _rows(settings, ", ".join(_SHOWN))
    ]
    return tabulate.tabulate(rows, headers=list(_SHOWN), tablefmt="simple", disable_numparse=True)


def _children_of(settings: Settings) -> dict[str, Any]:
    """What DfE ought to hold: the payload of everybody who has not left."""
    rows = _rows(settings, "json_payload, row_state")
    children = [json.loads(row[0]) for row in rows if str(row[1]).lower() != "deleted"]
    return {child["la_child_id"]: delta.normalise(child) for child in children}


def _refresh(settings: Settings) -> None:
    """Do to the table what a nightly refresh does: changed, gone and new children (domain, section 3)."""
    rows = _rows(settings, "person_id, json_payload")
    with provision.connect(settings) as database:
        table = database.dialect.table(settings.table)
        with database.transaction():
            for person_id, text in rows[:3]:
                child = json.loads(text)
                child["child_details"]["postcode"] = "ZZ99 9ZZ"
                _update(database, table, person_id, json.dumps(child, ensure_ascii=False))
            for person_id, _ in rows[3:5]:
                database.execute(f"UPDATE {table} SET row_state = 'Deleted' WHERE person_id = ?", [person_id])
    provision.fill_with_fakes(settings, CHILDREN + 1, _SEED)


def _update(database: db.Database, table: str, person_id: str, text: str) -> None:
    database.execute(
        f"UPDATE {table} SET previous_json_payload = json_payload, previous_hash = current_hash, "
        "json_payload = ?, current_hash = ?, row_state = 'Updated', submission_status = 'Pending' "
        "WHERE person_id = ?",
        [text, payload.content_hash(text), person_id],
    )

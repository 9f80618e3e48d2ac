"""``demo``: two nights on this machine alone, from the case system's tables to a receiver.

Real parts throughout: a SQLite file with a fake Standard Safeguarding Dataset (SSD), the receiver on
loopback, the same ``stage`` and ``run`` that an authority schedules. Only what happens in the case system
between the two nights is played here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import tabulate

from api_pipeline import pipeline, provision, semantic, source_access, ssd_provision, stage
from api_pipeline.config import Needs, Settings, load_settings
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.fake_ssd import by_table, fake_population
from api_pipeline.fake_ssd_nights import Night, next_night
from api_pipeline.receiver import Receiver
from api_pipeline.ssd_cohort import judge
from api_pipeline.ssd_payload import PayloadBuilder
from api_pipeline.ssd_source import SourceOptions, SsdSource
from api_pipeline.ssd_window import Window

PEOPLE = 14
_SEED = 2136  # with it a bit of everything happens in the two nights
_SHARE = 0.6  # of the people, to whom something happens before the second night
_FILE = "demo.db"
_SHOWN = ("person_id", "row_state", "submission_status", "submission_timestamp", "api_response")


def play(
    say: Callable[[str], None], *, folder: Path | None = None, today: Callable[[], date] = date.today
) -> ExitCode:
    """Play the two nights, telling each step through ``say``; ``folder`` keeps the database file.

    Returns ``OK`` if at the end the receiver holds exactly the cohort of the source.

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
        demo = _Demo(say, settings, today())
        say(
            f"A fake case system with {PEOPLE} people and an empty staging table, in SQLite: {folder / _FILE}"
        )
        say(f"A receiver that stands in for the DfE's API: {receiver.base_url}")
        demo.prepare()

        say("\n== The first night: everybody in the cohort is new ==\n")
        demo.night(settings, 1)

        say("\n== Before the second night, in the case system ==\n")
        changes = demo.day_between()
        say(_told(changes))
        say("\nCase systems give new ids overnight: where nothing else is new, nothing is sent.")
        say("\n== The second night, as partial payloads ==\n")
        demo.night(replace(settings, use_partial_payload=True), 2)

        cohort = demo.cohort()
        same = cohort == {key: semantic.semantic_hash(child) for key, child in receiver.children.items()}
        requests = len(receiver.submissions)
        say(f"\nThe receiver answered {requests} submissions and holds {len(receiver.children)} children,")
        say("exactly the cohort." if same else "which are NOT the cohort: please report this.")
        return ExitCode.OK if same and demo.codes == {ExitCode.OK} else ExitCode.FAILED


class _Demo:
    """The steps of the demo, on the days before ``today`` and today."""

    def __init__(self, say: Callable[[str], None], settings: Settings, today: date) -> None:
        self._say = say
        self._settings = settings
        self._days = {1: today - timedelta(days=1), 2: today}
        self.codes: set[ExitCode] = set()

    def prepare(self) -> None:
        provision.init_db(self._settings)
        ssd_provision.init_ssd(self._settings)
        ssd_provision.fill_ssd(self._settings, PEOPLE, _SEED, self._days[1])
        rows = by_table(fake_population(PEOPLE, _SEED, self._days[1]))
        self._say(f"The source: {sum(map(len, rows.values()))} rows about them in {len(rows)} SSD tables.")

    def night(self, settings: Settings, number: int) -> None:
        """Do what the scheduled task does: ``stage``, then ``run``; show the table after each."""
        staged = stage.stage(settings, stage.StageOptions(as_of=self._days[number]))
        self._say(f"{staged.as_table()}\n\nThe staging table after stage:\n")
        self._say(self._table())
        sent = pipeline.run(settings, pipeline.RunOptions())
        self._say(f"\n{sent.as_table()}\n\nThe staging table after run:\n")
        self._say(self._table())
        self.codes |= {staged.exit_code, sent.exit_code}

    def day_between(self) -> Night:
        """Let things happen to people in the source, seeded, and return what."""
        people = list(fake_population(PEOPLE, _SEED, self._days[1]))
        night = next_night(people, _SEED, 2, self._days[2], share=_SHARE)
        ssd_provision.apply_night(self._settings, night.changes)
        return night

    def cohort(self) -> dict[str, bytes]:
        """Return what DfE ought to hold, straight from the source: la_child_id -> semantic hash."""
        window = Window.of(self._days[2], self._settings.window_months)
        with source_access.connect_source(self._settings) as database:
            source = SsdSource(database, SourceOptions.of(self._settings))
            builder = PayloadBuilder(window, source.professionals(), self._settings.uasc_pattern)
            payloads = [
                builder.build(person, page.page)
                for page in source.pages()
                for person in page.people
                if judge(person, page.page, window).included
            ]
        return {payload["la_child_id"]: semantic.semantic_hash(payload) for payload in payloads}

    def _table(self) -> str:
        with provision.connect(self._settings) as database:
            table = database.dialect.table(self._settings.table)
            found = database.query(f"SELECT {', '.join(_SHOWN)} FROM {table} ORDER BY person_id")
        rows = [["" if value is None else str(value) for value in row] for row in found]
        return tabulate.tabulate(rows, headers=list(_SHOWN), tablefmt="simple", disable_numparse=True)


def _told(night: Night) -> str:
    return "\n".join(sorted(f"{person_id} {kind.value}" for person_id, kind in night.told))


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

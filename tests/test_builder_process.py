"""The second process of ``stage`` gives what this process would give, or is done without."""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_pipeline import builder_process
from api_pipeline import stage as stage_module
from api_pipeline.builder_process import BuilderProcess, pack, unpack
from api_pipeline.cohort_building import BuildOptions, BuiltPage, CohortBuilder
from api_pipeline.errors import ExitCode
from api_pipeline.runtime import BUILDER_ARGUMENT
from api_pipeline.ssd_source import PeoplePage
from api_pipeline.ssd_tables import SOURCE_TABLES, CinEpisode, Kind, Person, SdqScore
from api_pipeline.ssd_window import Window
from tests import ssd_kit
from tests.conftest import ROOT
from tests.ssd_strategies import RUN_DATES, population
from tests.stage_kit import Source, family
from tests.staging_kit import Staging

_SECONDS = 60  # for a process to end: only a failing test waits so long
RUN_DATE = RUN_DATES[1]
OPTIONS = BuildOptions(
    window=Window.of(RUN_DATE, 24),
    professionals={"w1": ["SW1"], "w2": ["SW2", "SW3"]},
    uasc_pattern=None,
    shared=frozenset({"p2"}),
    listed=None,
)


def page_of(seed: int) -> PeoplePage:
    """Return a page as the reader gives it."""
    rows = population(seed, RUN_DATE)
    unreadable = {"p1": "ssd_person.pers_dob"} if seed % 5 == 0 else {}
    return PeoplePage({row: list(map(tuple, found)) for row, found in rows.items()}, unreadable)


def built_here(pages: list[PeoplePage]) -> list[BuiltPage]:
    """Return what the pages give without any other process."""
    builder = CohortBuilder(OPTIONS)
    return [builder.build(page) for page in pages]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that were started, all of which have to have ended when the test does."""
    found: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def watched(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        found.append(start(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    yield found
    assert all(process.returncode is not None for process in found)


def test_pages_come_back_as_they_would_be_built_here(
    started: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    """In their order, with the same payloads, hashes, people left alone and counts."""
    pages = [page_of(seed) for seed in range(60)]
    with BuilderProcess(wanted=True) as process:
        found = list(process.built(iter(pages), OPTIONS))
    assert found == built_here(pages)
    assert sum(len(page.built) for page in found) > 20
    assert sum(len(page.left) for page in found) > 2
    assert [process.returncode for process in started] == [0]
    assert not caplog.records


def test_without_need_no_process_is_started(started: list[subprocess.Popen[bytes]]) -> None:
    """Pages then come back at once, before the next is read."""
    pages = [page_of(seed) for seed in range(3)]
    read: list[int] = []

    def reading() -> Iterator[PeoplePage]:
        for number, page in enumerate(pages):
            read.append(number)
            yield page

    with BuilderProcess(wanted=False) as process:
        for number, built in enumerate(process.built(reading(), OPTIONS)):
            assert built == built_here(pages)[number]
            assert read == list(range(number + 1))
    assert not started


@pytest.mark.parametrize("gone_after", [0, 1, 4])
def test_process_that_ends_early_is_done_without(
    started: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture, gone_after: int
) -> None:
    """No page is lost and none comes twice, whenever it ends; the log says why it took longer."""
    pages = [page_of(seed) for seed in range(6)]

    def reading() -> Iterator[PeoplePage]:
        for number, page in enumerate(pages):
            if number == gone_after:
                started[0].kill()
                started[0].wait()
            yield page

    with BuilderProcess(wanted=True) as process:
        assert list(process.built(reading(), OPTIONS)) == built_here(pages)
    (record,) = caplog.records
    assert (record.levelno, "takes longer without it" in record.message) == (logging.WARNING, True)


def test_process_that_cannot_be_started_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a policy of the machine forbids it."""
    monkeypatch.setattr(builder_process, "_command", lambda: ["/nonexistent/program"])
    pages = [page_of(1)]
    with BuilderProcess(wanted=True) as process:
        assert list(process.built(pages, OPTIONS)) == built_here(pages)
    assert "no second process can be started" in caplog.text


def test_process_ends_with_whoever_gives_up(started: list[subprocess.Popen[bytes]]) -> None:
    """Also in the middle of a page; nothing stays behind (see the fixture)."""
    with pytest.raises(KeyboardInterrupt), BuilderProcess(wanted=True) as process:  # noqa: PT012 -- as used
        for _ in process.built(map(page_of, range(9)), OPTIONS):
            raise KeyboardInterrupt
    assert len(started) == 1


_STARTED_AND_KILLED = """
import os, signal
from api_pipeline.builder_process import BuilderProcess
process = BuilderProcess(wanted=True)
print(process._other.process.pid, flush=True)
input()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux can wait for a process of others")
def test_process_does_not_outlive_one_that_is_killed() -> None:
    """Nobody is left with children's records in memory when a task is ended the hard way."""
    command = [sys.executable, "-c", _STARTED_AND_KILLED]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        second = os.pidfd_open(int(first.stdout.readline()))
        try:
            first.stdin.write(b"\n")
            first.stdin.flush()
            ended, _, _ = select.select([second], [], [], _SECONDS)
        finally:
            os.close(second)
    assert ended == [second]
    assert first.returncode == -signal.SIGKILL


_TEXT = st.text(st.characters(codec=None), max_size=4)  # halves of characters included
_CELLS = {
    Kind.ID: st.none() | _TEXT,
    Kind.TEXT: st.none() | _TEXT,
    Kind.MOMENT: st.none() | st.datetimes().map(lambda moment: moment.replace(fold=0)),
    Kind.VALUE: st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | _TEXT
    | st.decimals(),
}
_ROWS = st.sampled_from(
    [table for table in SOURCE_TABLES if table.row in (Person, CinEpisode, SdqScore)]
).flatmap(
    lambda table: st.tuples(
        st.just(table.row),
        st.lists(st.tuples(*(_CELLS[spec.kind] for spec in table.columns.values())), max_size=3),
    )
)


@settings(max_examples=150)
@given(rows=st.lists(_ROWS, max_size=3), ids=st.none() | st.frozensets(_TEXT, max_size=2))
def test_a_page_is_unpacked_as_it_was_packed(rows: list[Any], ids: frozenset[str] | None) -> None:
    """Every cell with its value and its type."""
    page = PeoplePage(dict(rows), {"p1": "ssd_person.pers_dob"}, ids)
    found = unpack(pack(page))
    assert repr(found.rows) == repr({row: cells for row, cells in page.rows.items() if cells})
    assert (found.unreadable, found.asked_for) == (page.unreadable, page.asked_for)


def test_special_values_keep_their_types() -> None:
    """What JSON would make something else of."""
    score = ("p1", datetime.fromisoformat("0001-02-03T04:05:06.000007"), Decimal("7.0"))
    half = ("\ud800", None, True)
    found = unpack(pack(PeoplePage({SdqScore: [score, half]})))
    assert repr(found.rows[SdqScore]) == repr([score, half])


def test_executable_is_its_own_second_process() -> None:
    """Started with the argument that no help tells of, and nothing that it can read, it ends in silence."""
    program = [sys.executable, "-m", "api_pipeline"]
    for message in (b"", b"\0" * 7 + b"\x09no page", b"\0" * 7 + b"\x0713 not"):
        done = subprocess.run(
            [*program, BUILDER_ARGUMENT], input=message, capture_output=True, cwd=ROOT, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    told = subprocess.run([*program, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert BUILDER_ARGUMENT not in told.stdout


def test_no_other_command_waits_for_the_builder() -> None:
    """Its modules are loaded by stage, and by the process itself."""
    code = "import sys, api_pipeline.entry_point; print('api_pipeline.builder_process' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert told.stdout == "False\n"


def test_night_with_two_processes_is_the_night_with_one(
    source: Source, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows and the same summary, whoever built them."""
    chance = random.Random(4)
    people = [family(f"p{number}", assessments=chance.randrange(4)) for number in range(9)]
    source.add(*people, family("p3"), family(None), [ssd_kit.person("nobody")])
    alone = source.stage(dry_run=True)
    assert not started
    monkeypatch.setattr(stage_module, "_TWO_PROCESSES_FROM", 0)
    monkeypatch.setattr("api_pipeline.stage.os.cpu_count", lambda: 2)
    together = source.stage()
    assert len(started) == 1
    assert (together.cohort, together.grounds, together.excluded, together.rules) == (
        alone.cohort,
        alone.grounds,
        alone.excluded,
        alone.rules,
    )
    assert together.changes == alone.changes
    rows = source.staging.rows()
    assert len(rows) == together.changes.new == 8
    source.database.execute(f"DELETE FROM {source.staging.database.table_name}")
    monkeypatch.setattr("api_pipeline.stage.os.cpu_count", lambda: 1)
    source.stage()
    assert len(started) == 1
    assert [(r["person_id"], r["json_payload"], r["current_hash"]) for r in source.staging.rows()] == [
        (row["person_id"], row["json_payload"], row["current_hash"]) for row in rows
    ]
    assert source.stage().exit_code is ExitCode.FAILED  # two people share an id


@pytest.fixture
def source(staging: Staging) -> Source:
    """The source tables beside an empty staging table."""
    return Source(staging, staging.database).create()

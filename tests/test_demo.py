"""Promises of demo.py: two nights work on any day, the story can be read, a wrong end would be noticed."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import demo, entry_point
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.receiver import Receiver


@pytest.mark.parametrize(
    "day", [date(2026, 3, 31), date(2026, 4, 1), date(2028, 2, 29), date(2031, 12, 31)], ids=str
)
def test_the_demo_ends_well_on_any_day(day: date) -> None:
    """At every turn of the year the receiver ends up with exactly the cohort, and much has happened."""
    said: list[str] = []
    assert demo.play(said.append, today=lambda: day) is ExitCode.OK
    text = "\n".join(said)
    assert text.endswith("exactly the cohort.")
    for happening in ("moved house", "was assessed again", "new ids", "left: ", "is new"):
        assert happening in text
    assert f"{day}, window from" in text


def test_the_story_can_be_read_on_a_screen() -> None:
    """The tables are shown before and after each run, in ASCII, in lines of 120 characters at most."""
    said: list[str] = []
    demo.play(said.append)
    text = "\n".join(said)
    assert text.isascii()
    # Only the line with the path of the file may be longer.
    assert max(len(line) for line in text.splitlines()[1:]) <= 120
    assert len(text.splitlines()) < 200
    assert text.count("person_id ") == 4
    for state in (
        "new          pending",
        "updated      pending",
        "deleted      pending",
        "unchanged    sent",
    ):
        assert state in text
    assert "as partial payloads" in text
    assert "(fake)" not in text  # no names, not even these


class Lossy(dict[str, dict[str, Any]]):
    """Children, one of whom never stays."""

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        if key != "FAKE000003":
            super().__setitem__(key, value)


class Forgetful(Receiver):
    """A receiver that gives a receipt for everybody and loses one of them."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.children = Lossy()


def test_a_lost_child_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the receiver does not hold the cohort at the end, the demo says so and ends with 1."""
    monkeypatch.setattr(demo, "Receiver", Forgetful)
    said: list[str] = []
    assert demo.play(said.append) is ExitCode.FAILED
    assert said[-1] == "which are NOT the cohort: please report this."


def test_the_folder_keeps_the_file_and_is_not_used_twice(tmp_path: Path) -> None:
    """--folder makes the folder and leaves the database in it; a folder with a demo is refused."""
    folder = tmp_path / "kept"
    assert demo.play(lambda _: None, folder=folder) is ExitCode.OK
    assert (folder / "demo.db").stat().st_size > 0
    with pytest.raises(ConfigError, match="already holds a demo"):
        demo.play(lambda _: None, folder=folder)


def test_the_settings_of_a_real_installation_are_not_picked_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A .env in the current folder and the environment mean nothing to the command ``demo``."""
    Path(".env").write_text("DB_CONNECTION_STRING=sqlite:///real.db\nTABLE_NAME=live\n", encoding="utf-8")
    monkeypatch.setenv("SSD_CONNECTION_STRING", "sqlite:///real.db")
    assert entry_point.main(["demo"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("exactly the cohort.")
    assert not Path("real.db").exists()

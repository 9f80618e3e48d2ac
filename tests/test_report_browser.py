"""The page of ``report`` in a real browser: on a desk and a phone, light and dark, printed, by keyboard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import report, report_page
from tests import browser, databases
from tests.staging_kit import Staging, child, settings_of
from tests.test_report import HOSTILE, NIGHT, NOW, write_line

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(os.name == "nt", reason="the browser is driven over pipes that Windows does not have"),
    pytest.mark.skipif(
        browser.program() is None, reason=f"none of {', '.join(browser.PROGRAMS)} is installed"
    ),
]

DESK, PHONE = 1280, 390

# Texts whose contrast with what is behind them is less than WCAG's 4.5 to 1, with the ratio.
_FAINT = """
(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3)
    .map((part) => part / 255)
    .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if ((parts(found)[3] ?? 1) === 1) return found;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([element.outerHTML.slice(0, 80), ratio]);
  }
  return faint;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    """A page about eighty nights with every kind of outcome, and hostile values, in a browser."""
    folder = tmp_path_factory.mktemp("browser")
    database = databases.new_sqlite(folder)
    staging = Staging(database).create().remember()
    staging.add(HOSTILE, child("c1"), "Error", api_response="HTTP 400: no")
    staging.add("p2 with a very long person_id of forty-eight chars", child("c2"), "Hold")
    outcomes = ("sent", "error", "unsure", "testing")
    for number in range(80):
        for seq, outcome in enumerate(outcomes):
            write_line(
                staging,
                f"00000000-0000-4000-8000-{number:012}",
                seq,
                NIGHT - timedelta(days=number),
                outcome=outcome,
                kind="partial",
                detail=f"refused by the API: $.social_care_episodes[{seq}].child_looked_after_placements.x",
                finished_at=NIGHT - timedelta(days=number) + timedelta(seconds=number + 1),
            )
    figures = report.read(settings_of(staging, None), days=90, now=NOW)
    path = folder / "report.html"
    path.write_text(report_page.render(figures), encoding="utf-8")
    database.close()
    with browser.opened(folder) as opened:
        opened.open(path)
        yield opened


@pytest.mark.parametrize("width", [DESK, PHONE, 320])
def test_nothing_runs_out_of_the_window(page: browser.Page, width: int) -> None:
    """At no width does the page scroll sideways: only its tables do, each for itself."""
    page.show(width)
    assert page.ask("document.documentElement.scrollWidth") <= width
    outside = page.ask(
        f"""[...document.body.querySelectorAll("*")].filter((e) => !e.closest(".scroll")
        && e.getBoundingClientRect().right > {width} + 0.5).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_text_stands_out(page: browser.Page, width: int, dark: bool) -> None:
    """Each text has the contrast that WCAG asks for, in either scheme, and dark is dark."""
    page.show(width, dark=dark)
    assert page.ask(_FAINT) == []
    background = page.ask("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 24, 31)" if dark else "rgb(255, 255, 255)")


def test_charts_show_the_figures(page: browser.Page) -> None:
    """Sixty columns; the parts of one that are equal are equally high, and together as high as the chart."""
    page.show(DESK)
    heights = page.ask(
        """[...document.querySelector(".columns").children].map((column) => [column.clientHeight,
        ...[...column.children].map((part) => part.getBoundingClientRect().height)])"""
    )
    assert len(heights) == 60
    for whole, *parts in heights:
        assert len(parts) == 4
        assert all(abs(part - whole / 4) < 1 for part in parts)


def test_outcomes_differ_without_colour(page: browser.Page) -> None:
    """Each kind of outcome has a pattern of its own, with forced colours and on paper too."""
    for surroundings in ({}, {"forced": True}, {"media": "print"}):
        options: dict[str, Any] = {**surroundings}
        page.show(DESK, **options)
        patterns = page.ask(
            """["sent", "failed", "doubt", "testing"].map((kind) => getComputedStyle(
            document.querySelector(".columns ." + kind)).backgroundImage.replace(/rgba?[^)]*[)]/g, ""))"""
        )
        assert len(set(patterns)) == 4


def test_print_shows_all(page: browser.Page) -> None:
    """On a sheet of A4 with its margins every row of every table is there, and the links are not."""
    page.show(680, media="print")
    assert page.ask("document.documentElement.scrollWidth") <= 680
    hidden = page.ask(
        """[...document.querySelectorAll(".scroll")].filter((e) => e.scrollHeight > e.clientHeight + 1
        || e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent.slice(0, 60))"""
    )
    assert hidden == []
    assert page.ask('getComputedStyle(document.querySelector("nav")).display') == "none"
    # A footer is printed at the end of each sheet, where totals would look like those of the sheet.
    assert page.ask('getComputedStyle(document.querySelector("tfoot")).display') == "table-row-group"
    page.show(DESK, dark=True, media="print")
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_keyboard_reaches_all(page: browser.Page) -> None:
    """Links lead to the sections, and each table that scrolls can be scrolled without a mouse."""
    page.show(PHONE)
    dead = page.ask(
        '[...document.querySelectorAll("a")].map((a) => a.hash).filter((to) => !document.querySelector(to))'
    )
    assert dead == []
    stuck = page.ask(
        """[...document.querySelectorAll("*")].filter((e) => ["auto", "scroll"].includes(
        getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth && e.tabIndex < 0).length"""
    )
    assert stuck == 0
    assert page.ask('document.querySelectorAll(".scroll[tabindex=\\"0\\"]").length') >= 5


def test_screen_reader_is_told_tables_and_headings(page: browser.Page) -> None:
    """Headings, named regions and tables with their headers are in the tree; the boxes of charts are not."""
    page.show(DESK)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node.get("ignored")]
    roles = [node["role"]["value"] for node in shown]
    names = {node.get("name", {}).get("value", "") for node in shown}
    assert roles.count("table") == roles.count("caption") >= 5
    assert {"Now", "Runs", "Reasons", "Sizes", "Waiting"} <= names
    assert all(
        node.get("name", {}).get("value")
        for node in shown
        if node["role"]["value"] in ("region", "navigation")
    )
    assert roles.count("columnheader") >= 20
    assert "2026-03-28 02:00: 1 sent, 1 failed, 1 in doubt, 1 testing" not in names


def test_nothing_is_loaded_run_or_complained_of(page: browser.Page) -> None:
    """The browser asks for the file and for nothing else, runs nothing, and has no message."""
    page.show(DESK)
    asked = [found["request"]["url"] for found in page.methods("Network.requestWillBeSent")]
    assert [url.rpartition("/")[2] for url in asked] == ["report.html"]
    assert page.methods("Log.entryAdded") == []
    assert page.methods("Runtime.exceptionThrown") == []
    assert page.methods("Page.javascriptDialogOpening") == []
    assert page.ask("document.scripts.length") == 0
    assert page.ask(f"document.body.innerText.includes({json.dumps(HOSTILE)})")


def test_page_can_be_looked_at(page: browser.Page, tmp_path: Path) -> None:
    """A picture of the page is as wide as the phone and as long as the page."""
    page.show(PHONE, dark=True)
    page.picture(tmp_path / "phone.png")
    content = (tmp_path / "phone.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == PHONE
    assert int.from_bytes(content[20:24], "big") > 900

"""``report`` counts what the database holds, shows nothing of a child, and needs nothing but the one file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import entry_point, report, report_page
from api_pipeline.dialects import Kind
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.faults import Fault
from api_pipeline.ledger_schema import LOG
from api_pipeline.names import TableName
from api_pipeline.report_figures import Report, Totals
from api_pipeline.report_reading import Reason, SizeClass, merged
from tests.databases import Database
from tests.staging_kit import HookedReceiver, Staging, child, run, settings_of

NOW = datetime(2026, 3, 29, 12, 0)  # noqa: DTZ001 -- as the log has it
NIGHT = datetime(2026, 3, 28, 2, 0)  # noqa: DTZ001
HOSTILE = "<script>alert('\"&')</script>"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``report`` in this process; returns code, output and errors."""

    def start(*argv: str) -> tuple[int, str, str]:
        code = entry_point.main(["report", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start


def read(staging: Staging, *, days: int = 90, now: datetime | None = NOW) -> Report:
    """Return the figures."""
    return report.read(settings_of(staging, None), days=days, now=now)


def page(staging: Staging, now: datetime | None = NOW) -> str:
    """Return the page."""
    return report_page.render(read(staging, now=now))


def write_line(staging: Staging, run_id: str, seq: int, started: datetime, **values: Any) -> None:
    """Write a line of the submission log as a run would."""
    line: dict[str, Any] = {
        "run_id": run_id,
        "seq": seq,
        "person_id": f"p{seq}",
        "kind": "full",
        "sent_bytes": 1500,
        "outcome": "sent",
        "posts": 1,
        "http_status": 200,
        "detail": "receipt",
        "started_at": started,
        "finished_at": started + timedelta(seconds=5),
        **values,
    }
    line = {name: value for name, value in line.items() if value is not None}
    dialect = staging.dialect
    marks = [dialect.bind(Kind.TIMESTAMP) if isinstance(value, datetime) else "?" for value in line.values()]
    table = dialect.table(LOG.name(TableName.parse(staging.table)))
    staging.database.execute(
        f"INSERT INTO {table} ({', '.join(line)}) VALUES ({', '.join(marks)})",
        [dialect.parameter(Kind.TIMESTAMP, value) for value in line.values()],
    )


class Words(HTMLParser):
    """The text of a page, its elements, and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text.append(data)


# --- figures ---------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_runs(remembering: Staging, hooked: HookedReceiver) -> None:
    """Two nights with a refusal and a deletion: each record counts once, though a batch went twice."""
    for number in range(3):
        remembering.add(f"p{number}", child(f"c{number}"))
    hooked.faults.add(Fault("400-record"))
    run(remembering, hooked)
    remembering.update("p1", row_state="Deleted", submission_status="Pending")
    run(remembering, hooked)
    figures = read(remembering, now=None)
    newest, oldest = figures.runs
    assert (oldest.sent, oldest.failed) == (2, 1)
    assert (newest.sent, newest.failed) == (2, 0)
    assert newest.kinds == {"full": 1, "deletion": 1}
    assert oldest.seconds is not None
    assert oldest.started is not None
    assert newest.started is not None
    assert newest.started >= oldest.started
    assert figures.totals == Totals(2, 4, 1, 0, 0, oldest.size + newest.size)
    assert figures.sizes.unit == "bytes"
    assert (figures.sizes.count, figures.sizes.total) == (5, figures.totals.size)
    assert sum(reason.count for reason in figures.reasons) == 1
    assert figures.reasons[0].status == 400
    assert (figures.status.due, figures.faults) == (0, ())


def test_outcomes_times_and_sizes_are_counted_by_run(remembering: Staging) -> None:
    """Unsure and open lines are in doubt; a run lasts from its first request to its last reply."""
    write_line(remembering, "a", 1, NIGHT, sent_bytes=999)
    write_line(remembering, "a", 2, NIGHT + timedelta(seconds=55), outcome="unsure", kind="partial")
    write_line(remembering, "a", 3, NIGHT, outcome="sending", finished_at=None, sent_bytes=2_000_000)
    write_line(
        remembering, "b", 1, NIGHT - timedelta(days=1), outcome="testing", kind="test", sent_bytes=None
    )
    figures = read(remembering)
    [newer, older] = figures.runs
    assert (newer.run_id, newer.sent, newer.unsure, newer.unfinished, newer.doubtful) == ("a", 1, 1, 1, 2)
    assert (newer.started, newer.seconds) == (NIGHT, 60.0)
    assert newer.kinds == {"full": 2, "partial": 1}
    assert (older.testing, older.size) == (1, 0)
    assert figures.totals == Totals(2, 1, 0, 2, 1, 2_002_499)
    assert figures.sizes.classes[0] == SizeClass(1_000, 1)
    assert figures.sizes.classes[1] == SizeClass(2_000, 1)
    assert figures.sizes.classes[-1] == SizeClass(None, 1)
    assert (figures.sizes.count, figures.sizes.largest) == (3, 2_000_000)


def test_a_run_is_in_the_period_whole_or_not_at_all(remembering: Staging) -> None:
    """A run that began before the first midnight is left out with all its lines, in every figure."""
    midnight = NOW.replace(hour=0) - timedelta(days=7)
    write_line(remembering, "before", 1, midnight - timedelta(minutes=1))
    write_line(remembering, "before", 2, midnight + timedelta(minutes=1), outcome="error", detail="late")
    write_line(remembering, "after", 1, midnight + timedelta(hours=2))
    figures = read(remembering, days=7)
    assert [found.run_id for found in figures.runs] == ["after"]
    assert (figures.totals.failed, figures.reasons, figures.sizes.count) == (0, (), 1)
    assert read(remembering, days=8).totals == Totals(2, 2, 1, 0, 0, 4500)


def test_moments_with_fewer_digits_are_counted(local: Staging) -> None:
    """In SQLite a moment is a text, and one that other hands wrote may be shorter than ours."""
    local.remember()
    for seq in range(2):
        write_line(local, "a", seq, NIGHT, outcome="error", detail="no")
    log = LOG.name(TableName.parse(local.table))
    local.database.execute(f"UPDATE {log} SET started_at = '2026-03-28 02:00:00'")
    figures = read(local)
    assert figures.totals.failed == figures.sizes.count == figures.reasons[0].count == 2


def test_reasons_are_put_together(remembering: Staging) -> None:
    """Equal reasons count once whatever the index in the path, apart by outcome, the most frequent first."""
    for seq in range(4):
        write_line(
            remembering, "a", seq, NIGHT, outcome="error", http_status=400, detail=f"refused: $.x[{seq}].y"
        )
    write_line(remembering, "a", 8, NIGHT, outcome="unsure", http_status=503, detail="HTTP 503")
    write_line(remembering, "a", 9, NIGHT, outcome="unsure", http_status=None, detail=None)
    assert read(remembering).reasons == (
        Reason("refused: $.x[*].y", 4, "failed", 400),
        Reason("HTTP 503", 1, "in doubt", 503),
        Reason("no reason given", 1, "in doubt", None),
    )


def test_rare_reasons_become_one() -> None:
    """The list stays short, and no failure is lost from it."""
    found = merged(Reason(f"reason {number}", 100 - number) for number in range(50))
    assert len(found) == 16
    assert found[-1].text == "other reasons"
    assert sum(reason.count for reason in found) == sum(range(51, 101))


def test_without_a_log_the_table_tells(staging: Staging) -> None:
    """Acknowledgements by day, sizes of payloads, reasons and what is due; that there is no log is said."""
    staging.add_sent("p1", child("c1"), submission_timestamp="2026-03-27 03:04:05")
    staging.add_sent("p2", child("c2"), submission_timestamp="2026-03-27 23:59:59")
    staging.add_sent("p3", child("c3"), submission_timestamp="2026-03-28 02:00:00")
    staging.add_sent("p4", child("c4"), submission_timestamp="2025-03-28 02:00:00")
    staging.add("p5", child("c5", first_name="x" * 3000), "Error", api_response="$.a[7].b: enum (must be)")
    staging.add("p6", child("c6"), "Error", api_response="$.a[9].b: enum (must be)")
    figures = read(staging)
    assert figures.days == {"2026-03-27": 2, "2026-03-28": 1}
    assert (figures.runs, figures.reasons, figures.has_log) == ((), (), False)
    assert figures.faults == (Reason("$.a[*].b: enum", 2),)
    assert (figures.sizes.unit, figures.sizes.count) == ("characters", 6)
    assert figures.sizes.largest == len(child("c5", first_name="x" * 3000))
    assert [row.person_id for row in figures.waiting] == ["p5", "p6"]
    assert figures.waiting[0].last_updated == "2001-02-03 04:05:06"
    text = " ".join("".join(Words(report_page.render(figures)).text).split())
    assert "There is no submission log beside this table" in text
    assert "The last acknowledgement is from 2026-03-28 02:00" in text


def test_empty_table_gives_a_page(database: Database) -> None:
    """With and without a log there is a page that says that there is nothing."""
    staging = Staging(database).create()
    for has_log in (False, True):
        if has_log:
            staging.remember()
        figures = read(staging)
        assert (figures.runs, figures.totals, figures.sizes.count) == ((), Totals(), 0)
        text = "".join(Words(report_page.render(figures)).text)
        assert "The table is empty." in text
        assert "No row is due." in text
        assert ("The submission log has no run" in text) is has_log


# --- the page --------------------------------------------------------------------------------------------


def test_nothing_of_a_child_is_shown(remembering: Staging, hooked: HookedReceiver) -> None:
    """Payloads and what DfE answered stay in the database; person_ids are all that the page has."""
    remembering.add("p1", child("Beeblebrox1", first_name="Zaphod", postcode="ZZ9 9ZZ"))
    remembering.add("p2", child("c2"), "Error", api_response="HTTP 400: Trillian is not a valid name")
    remembering.add("p3", child("c3"), "Error", api_response="Marvin was here")
    run(remembering, hooked, limit=1)
    figures = read(remembering)
    for shown in (report_page.render(figures), json.dumps(figures.as_json()), figures.as_text()):
        for secret in ("Zaphod", "ZZ9", "Trillian", "Marvin", "la_child_id", "Beeblebrox1"):
            assert secret not in shown
    assert "p2" in report_page.render(figures)


def test_every_value_is_escaped(local: Staging) -> None:
    """A person_id, a status, a run id or a reason that looks like HTML is text like any other."""
    staging = Staging(local.database, '"a<i>b_anon"')
    staging.create()
    settings = settings_of(Staging(local.database, "[a<i>b_anon]"), None)
    local.remember()
    staging.add(HOSTILE, child("c1"), "Error", "<b>state</b>", api_response=None)
    staging.add("p2", child("c2"), HOSTILE)
    html = report_page.render(report.read(settings, days=90, now=NOW))
    words = Words(html)
    assert {"script", "b", "i"}.isdisjoint(words.tags)
    assert HOSTILE in words.text
    assert "[a<i>b_anon]" in words.text


def test_reasons_and_run_ids_are_escaped(remembering: Staging) -> None:
    """What older tools or hands wrote into the log cannot break out of the page, nor of an attribute."""
    write_line(remembering, '"><script>', 1, NIGHT, outcome="error", kind="<b>", detail=HOSTILE)
    words = Words(page(remembering))
    assert {"script", "b"}.isdisjoint(words.tags)
    assert HOSTILE in words.text
    assert '"><script>' in words.text


def test_page_needs_no_other_file(remembering: Staging) -> None:
    """No script, no address, no import: and the browser is told to allow none."""
    write_line(remembering, "a", 1, NIGHT)
    html = page(remembering)
    words = Words(html)
    assert not {"script", "link", "img", "iframe", "object", "svg", "form"} & set(words.tags)
    assert not {"src", "srcset", "action", "onclick"} & {name for name, _ in words.attributes}
    assert all(str(value).startswith("#") for name, value in words.attributes if name == "href")
    assert re.search(r"https?://|url\(|@import", html) is None
    assert "default-src 'none'" in html


def test_tables_stand_beside_the_charts(remembering: Staging) -> None:
    """A screen reader is spared the boxes and given each figure in a table with a caption."""
    write_line(remembering, "a", 1, NIGHT, outcome="error", detail="refused")
    html = page(remembering)
    plots = re.findall(r'<div class="plot"[^>]*>', html)
    assert len(plots) == 4
    assert all('aria-hidden="true"' in plot for plot in plots)
    assert html.count("<caption") == html.count("<table") == len(re.findall(r'role="region"', html))
    regions = re.findall(r'aria-labelledby="(c-[a-z]+)" tabindex="0"', html)
    assert regions == re.findall(r'<caption id="(c-[a-z]+)"', html)


def test_many_runs_are_listed_up_to_a_bound(remembering: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    """The totals hold for all of them, and the page says how many it leaves out."""
    monkeypatch.setattr(report, "_RUNS_LISTED", 3)
    for number in range(5):
        write_line(remembering, f"r{number}", 1, NIGHT - timedelta(days=number))
    figures = read(remembering)
    assert [found.run_id for found in figures.runs] == ["r0", "r1", "r2"]
    assert figures.totals.runs == 5
    assert "2 older ones of the period are not listed" in page(remembering)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.5, "9.5 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (7384, "2 h 3 min"),
    ],
)
def test_durations_are_written_in_words(seconds: float | None, words: str) -> None:
    """To the tenth of a second, the second or the minute, as long as it is."""
    assert report_page.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (999_000, "999 kB"),
        (4_960_000_000_000, "4,960.0 GB"),
    ],
)
def test_sizes_are_written_in_their_unit(count: int, words: str) -> None:
    """Bytes, kB, MB or GB."""
    assert report_page.size(count) == words


# --- the command -----------------------------------------------------------------------------------------


def write_env(staging: Staging) -> None:
    """Write a .env for this table."""
    Path(".env").write_text(
        f"DB_CONNECTION_STRING='{staging.database.connection_string}'\nTABLE_NAME={staging.table}\n",
        encoding="utf-8",
    )


def test_command_writes_the_page_and_tells_the_figures(local: Staging, call: Call) -> None:
    """report.html in the current folder; with --json the same figures on standard output."""
    local.remember()
    local.add("p1", child("c1"))
    write_env(local)
    code, out, err = call()
    assert (code, err) == (ExitCode.OK, "")
    assert "report.html" in out
    assert "1 rows are due" in out
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    code, out, _ = call("--json", "--output", "other.html", "--days", "7")
    result = json.loads(out)
    assert (code, result["exit_code"], result["due"], result["days"]) == (0, 0, 1, 7)
    assert result["source"] == "submission log"
    assert result["oldest_due_rows"][0]["person_id"] == "p1"
    assert Path(result["output"]) == Path("other.html").absolute()
    assert Path("other.html").exists()


def test_nothing_but_a_report_is_overwritten(local: Staging, call: Call) -> None:
    """An older report makes room; any other file needs --force, and a folder never goes."""
    write_env(local)
    assert call()[0] == call()[0] == 0
    Path("index.html").write_text("<html>home</html>", encoding="utf-8")
    code, out, err = call("--output", "index.html")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--force" in err
    assert Path("index.html").read_text(encoding="utf-8") == "<html>home</html>"
    assert call("--output", "index.html", "--force")[0] == 0
    assert report_page.is_report(Path("index.html").read_bytes()[:2048])
    Path("folder").mkdir()
    assert call("--output", "folder", "--force")[0] == 2
    assert call("--output", "no/where.html")[0] == 2
    assert not list(Path().glob("*.part"))


@pytest.mark.parametrize("days", ["0", "-1", "many", "1.5", "3661", ""])
def test_bad_days_end_with_2(local: Staging, call: Call, days: str) -> None:
    """One line names the flag; nothing is written."""
    write_env(local)
    code, _, err = call("--days", days)
    assert (code, err.count("\n")) == (2, 1)
    assert "--days" in err
    assert not Path("report.html").exists()


def test_codes_are_those_of_a_diagnostic(local: Staging, call: Call) -> None:
    """No settings: 2. No such table, or no such database: 3. Then no page is left behind."""
    assert call()[0] == ExitCode.USAGE
    write_env(local)
    assert call("--table", "other_anon")[0] == ExitCode.DATABASE
    Path(".env").write_text("DB_CONNECTION_STRING=sqlite:///nowhere.db\n", encoding="utf-8")
    assert call()[0] == ExitCode.DATABASE
    assert not Path("report.html").exists()


def test_days_are_checked_without_the_command_line() -> None:
    """The reader of the flag refuses by itself."""
    assert report.days_of("30") == 30
    with pytest.raises(ConfigError):
        report.days_of("30 days")

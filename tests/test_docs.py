"""The documentation says what the code does: commands, flags, settings, exit codes, links, practice steps.

What can only be seen of the built site, such as anchors as MkDocs makes them, the strict build looks at.
"""

from __future__ import annotations

import hashlib
import re
import runpy
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from enum import Enum
from functools import cache
from pathlib import Path

import pytest

from api_pipeline import entry_point
from api_pipeline.config import Needs, load_settings
from api_pipeline.errors import ExitCode
from api_pipeline.receiver import Receiver
from api_pipeline.refresh import Left
from api_pipeline.schema import STAGING_COLUMNS
from api_pipeline.semantic import ID_LISTS
from api_pipeline.setting_table import SETTINGS, env_example
from api_pipeline.ssd_coercions import uasc_test
from api_pipeline.ssd_cohort import Exclusion, Ground
from api_pipeline.ssd_mapping import mapping_table
from api_pipeline.ssd_source import PEOPLE_PER_PAGE
from api_pipeline.stage_summary import StageSummary
from tests.test_architecture import LAYERS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
QUICK = (ROOT / "docs" / "quick_start.md").read_text(encoding="utf-8")
LIVE = (ROOT / "docs" / "going_live.md").read_text(encoding="utf-8")
STAGE = (ROOT / "docs" / "stage.md").read_text(encoding="utf-8")
MOVING = (ROOT / "docs" / "moving_to_stage.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
EVERYTHING = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

_PROGRAM = re.compile(r"(?:.*[/\\])?(?:d2i-csc-api|csc_api_pipeline)(?:\.exe)?")
_WORD = re.compile(r'"[^"]*"|\S+')
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = "127.0.0.1:8080"
# Pages of the site that lie beside docs/, as docs/site_hooks.py has them.
_OUTSIDE = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}


@cache
def generator() -> dict[str, str]:
    """What docs/generate.py would write now, by file name."""
    made: Callable[[], dict[str, str]] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]
    return made()


def block_after(mark: str, page: str = README) -> str:
    """The text of the fenced block that follows ``<!-- mark -->`` in a page, the README if none is given."""
    (start,) = (match.end() for match in re.finditer(rf"^<!-- {re.escape(mark)} -->\n", page, re.MULTILINE))
    fence = _FENCE.match(page, start)
    assert fence, f"no block follows {mark}"
    return fence.group(2)


@cache
def command_names() -> set[str]:
    """The names of all commands, as the parser's own list has them."""
    return set(re.findall(r"^## ([a-z-]+)$", generator()["commands.md"], re.MULTILINE))


def shown_commands(text: str) -> Iterator[list[str]]:
    """The arguments of every command line of ours in fenced blocks and in inline code."""
    fenced = [line for _, block in _FENCE.findall(text) for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    for snippet in [*fenced, *spans]:
        for part in re.split(r"&&|[;>|]", snippet):
            words = [word.strip('"') for word in _WORD.findall(part.partition(" #")[0])]
            at = next((place for place, word in enumerate(words) if _PROGRAM.fullmatch(word)), None)
            if at is not None:
                yield words[at + 1 :]
            elif words and snippet in spans and words[0] in command_names():
                yield words


def is_accepted(arguments: list[str]) -> bool:
    """Whether the parser takes these arguments; a command that is only mentioned has to exist."""
    if len(arguments) == 1 and arguments[0] in command_names():
        return True
    try:
        entry_point.parse(arguments if arguments[:1] != ["COMMAND"] else ["run", *arguments[1:]])
    except SystemExit as end:
        return not end.code
    return True


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


# -- complete -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(generator()))
def test_reference_pages_are_what_the_code_says(name: str) -> None:
    """The pages of settings and commands are as fresh as the code: else run ``python docs/generate.py``."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generator()[name]


def test_every_setting_is_documented() -> None:
    """Whoever searches the documentation for a key finds it."""
    assert [setting.key for setting in SETTINGS if f"`{setting.key}`" not in EVERYTHING] == []


def test_example_file_shows_every_setting() -> None:
    """.env.example is what the table of settings says."""
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example()


def test_every_command_and_flag_is_documented() -> None:
    """What --help offers is in the documentation, found by asking each command's own --help."""
    assert command_names() >= {"run", "smoke", "demo"}
    missing = []
    for command in sorted(command_names()):
        (parser,) = {
            choice
            for action in entry_point.build_parser()._actions
            if isinstance(action.choices, dict)
            for name, choice in action.choices.items()
            if name == command
        }
        flags = set(re.findall(r"--[a-z][a-z-]*", parser.format_help())) - {"--help"}
        missing += [f"{command} {flag}" for flag in sorted(flags) if f"`{flag}" not in EVERYTHING]
        missing += [command] if f"`{command}" not in EVERYTHING else []
    assert missing == []


@pytest.mark.parametrize(
    ("name", "chapter"), [("commands.md", "Exit codes"), ("troubleshooting.md", "First, the exit code")]
)
def test_exit_codes_are_those_of_the_code(name: str, chapter: str) -> None:
    """The tables of exit codes have each of them once, and no other."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    table = page.split(f"## {chapter}")[1].split("\n## ")[0]
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert listed == sorted(int(code) for code in ExitCode)


def test_alerts_are_those_of_the_code() -> None:
    """Whoever looks up what Task Scheduler shows finds every code that is no success, in hexadecimal."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    table = page.split("## Alerts")[1].split("\n## ")[0]
    assert [code.name for code in ExitCode if code and f"`0x{int(code):x}`" not in table] == []


def test_staging_page_has_each_column() -> None:
    """Every column of the staging table has its row, with the type that SQL Server gives it."""
    page = (ROOT / "docs" / "staging_table.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", page, re.MULTILINE))
    made = {spec.name: spec.sqlserver for spec in STAGING_COLUMNS}
    assert rows.keys() == made.keys()
    assert [name for name, kind in rows.items() if not made[name].startswith(kind)] == []


def test_payload_page_has_each_field() -> None:
    """Every field that ``stage`` builds stands on the page of the payload too, under its record."""
    shown = set()
    for section in generator()["payload.md"].split("\n## ")[2:]:
        record = section.split("\n")[0].strip("`")
        for name in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE):
            shown.add(name if record == "(the child)" else f"{record}.{name}")
    built = {path.removesuffix("[]") for path, _, _ in mapping_table()} - {"(the child)"}
    assert len(built) > 50
    assert sorted(built - shown) == []


def test_navigation_has_every_page() -> None:
    """The site's navigation holds each page of docs/ once, the two beside it, and no other."""
    pages = re.findall(r"^ +- .*?: (\w+\.md)$", SITE.split("\nnav:\n")[1].split("\n\n")[0], re.MULTILINE)
    assert sorted(pages) == sorted([page.name for page in (ROOT / "docs").glob("*.md")] + list(_OUTSIDE))


def test_site_takes_nothing_from_elsewhere() -> None:
    """Fonts, scripts and styles of the site are its own, so that it works without a network."""
    files = [ROOT / "mkdocs.yml", ROOT / "docs/assets/site.css", *(ROOT / "docs" / "theme").iterdir()]
    elsewhere = re.compile(r"https?:|[\"'(]//")
    assert [file.name for file in files if elsewhere.search(file.read_text(encoding="utf-8"))] == []
    assert "font: false" in SITE
    assert "  - offline\n" in SITE


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("mermaid.tiny.js", "sha256:7a644017d37f93c8359790884e6b67fb1f747c78eb20475952404bd87190a3f8"),
        ("iframe-worker.js", "sha256:e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609"),
    ],
)
def test_scripts_of_others_are_as_they_were_published(name: str, digest: str) -> None:
    """What the site has from others is the released file, byte for byte, and its licence lies beside it."""
    folder = ROOT / "docs" / "assets" / "vendor"
    assert f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}" == digest
    assert f"\n{name} " in (folder / "LICENCES.txt").read_text(encoding="utf-8")


def test_stage_page_says_when_a_second_process_is_started() -> None:
    """IT allows programs by what they do."""
    page = (ROOT / "docs" / "stage.md").read_text(encoding="utf-8")
    assert f"With more than {PEOPLE_PER_PAGE:,} people it starts" in " ".join(page.split())


def test_architecture_names_each_module_in_its_layer() -> None:
    """The table of layers for maintainers is the one that the imports are checked against."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.*?) \|", page, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [layer.split() for layer in LAYERS]


def test_every_page_is_linked() -> None:
    """Whoever begins with the README comes to every page by links."""
    linked: set[Path] = set()
    waiting = {ROOT / "README.md"}
    while waiting:
        page = waiting.pop()
        linked.add(page)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        files = {(page.parent / target).resolve() for target in targets if "://" not in target}
        waiting |= files - linked
    assert [page.name for page in PAGES if page not in linked] == []


def test_stage_page_names_what_stage_is_told() -> None:
    """The page of ``stage`` has every setting of its own, the brakes' limit, and each list they count."""
    own = [setting.key for setting in SETTINGS if "(stage)" in setting.group]
    assert len(own) >= 6
    wanted = [*own, "MAX_DELETIONS_PERCENT", *ID_LISTS]
    assert [key for key in wanted if f"`{key}`" not in STAGE] == []


@pytest.mark.parametrize("kind", [Ground, Exclusion, Left], ids=lambda kind: str(kind.__name__))
def test_stage_page_explains_each_line_of_the_summary(kind: type[Enum]) -> None:
    """Each ground, each reason why not, and each reason to leave somebody alone has a row of a table."""
    assert [member.value for member in kind if f"\n| {member.value} |" not in STAGE] == []


def test_stage_page_has_each_number_of_the_json() -> None:
    """Each count that ``stage --json`` gives is explained under its name."""
    day = date(2026, 1, 1)
    numbers = StageSummary("", "stage", run_date=day, window_start=day, window_end=day).as_json()
    counts = {name for name, value in numbers.items() if isinstance(value, int | dict)} - {"exit_code"}
    assert [name for name in sorted(counts) if f"`{name}`" not in STAGE] == []


def test_mapping_page_has_each_field() -> None:
    """Every field that ``stage`` builds stands under its record, with its rule, in the payload's order."""
    page = (ROOT / "docs" / "ssd_mapping.md").read_text(encoding="utf-8")
    shown = []
    for section in page.split("\n## ")[1:-1]:
        record = section.split("\n")[0].strip("`")
        rows = re.findall(r"^\| `(.+?)` \| .+ \| (.+) \|$", section, re.MULTILINE)
        shown += [(record, section.split(": ", 1)[1].split(".\n")[0])]
        shown += [(name if record == "(the child)" else f"{record}.{name}", rule) for name, rule in rows]
    assert shown == [(path, rule) for path, _, rule in mapping_table()]


# -- true -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_shown_commands_parse(page: Path) -> None:
    """No command line that the documentation shows is refused by the parser."""
    lines = list(shown_commands(page.read_text(encoding="utf-8")))
    assert [" ".join(line) for line in lines if not is_accepted(line)] == []


def test_shown_commands_are_found() -> None:
    """The search for command lines sees them in blocks, in chains, with a path and in running text."""
    text = (
        "`run --limit 5`\n```sh\nx && .venv/bin/d2i-csc-api demo\nC:\\a\\csc_api_pipeline.exe rnu > f\n```\n"
    )
    lines = list(shown_commands(text))
    assert lines == [["demo"], ["rnu"], ["run", "--limit", "5"]]
    assert [is_accepted(line) for line in lines] == [True, False, True]


@pytest.mark.parametrize("mark", ["ci:demo", "ci:test"])
def test_the_two_commands_are_one_line_each(mark: str) -> None:
    """Each of the README's two commands can be copied as one line; .ci/run does so."""
    assert len(block_after(mark).splitlines()) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the checkout, and every anchor a heading there."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_file() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_sequence_diagrams_can_be_drawn(page: Path) -> None:
    """No message of a sequence diagram holds a semicolon, which ends a statement in Mermaid."""
    blocks = [block for kind, block in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == "mermaid"]
    lines = [line for block in blocks if block.startswith("sequenceDiagram") for line in block.splitlines()]
    assert [line for line in lines if ";" in line] == []


@pytest.mark.parametrize(
    ("mark", "page"), [("env:practice", QUICK), ("env:test", LIVE)], ids=["practice", "test"]
)
def test_shown_env_files_are_complete(mark: str, page: str, tmp_path: Path) -> None:
    """A .env copied from a page lets ``run`` and ``smoke`` start: nothing missing, misspelt or unsafe."""
    (tmp_path / ".env").write_text(block_after(mark, page), encoding="utf-8")
    settings = load_settings(needs=Needs.DATABASE | Needs.API, environ={}, cwd=tmp_path)
    assert settings.warnings == ()
    assert settings.table.is_anon


def test_shown_settings_of_stage_are_accepted(tmp_path: Path) -> None:
    """The .env that the page of ``stage`` shows is one, with every setting understood as the page says."""
    (tmp_path / ".env").write_text(block_after("env:stage", STAGE), encoding="utf-8")
    settings = load_settings(needs=Needs.DATABASE, environ={}, cwd=tmp_path)
    assert settings.warnings == ()
    assert (str(settings.cohort_table), settings.uasc_pattern) == (
        "returns.cin_census_2026",
        r"^(UASC|UNACCOMPANIED)\b",
    )


def test_shown_patterns_mark_what_the_page_says() -> None:
    """Each row of the table about UASC_PATTERN counts what it claims to count, and nothing of the rest."""
    table = STAGE.split("### UASC_PATTERN")[1].split("\n###")[0]
    rows = re.findall(r"^\| (not set|`UASC_PATTERN=(.+?)`) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    assert len(rows) >= 4
    for _, pattern, counts, rest in rows:
        is_uasc = uasc_test(pattern or None)
        assert [text for text in f"{counts}, {rest}".split(", ") if is_uasc(text)] == counts.split(", ")


def test_comparison_shows_what_differs() -> None:
    """The queries for a copy of the table find changed payloads, the new and the deleted, and no others."""
    queries = block_after("sql:compare", MOVING).split(";")
    with closing(sqlite3.connect(":memory:")) as database:
        for name in ("ssd_api_data_staging", "ssd_api_data_staging_compare"):
            database.execute(f"CREATE TABLE {name} (person_id TEXT, row_state TEXT, json_payload TEXT)")
        before = [("same", "Unchanged", "{}"), ("changed", "unchanged", "{}"), ("gone", "unchanged", "{}")]
        after = [("same", "unchanged", "{}"), ("changed", "updated", "[]"), ("gone", "deleted", "{}")]
        insert = "INSERT INTO {} VALUES (?, ?, ?)".format
        database.executemany(insert("ssd_api_data_staging"), before)
        database.executemany(insert("ssd_api_data_staging_compare"), [*after, ("new", "new", "{}")])
        found = [database.execute(query).fetchall() for query in queries if query.strip()]
    assert found[0] == [("changed", "{}", "[]")]
    assert sorted(found[1]) == [("changed", "updated"), ("gone", "deleted"), ("new", "new")]


def test_practice_steps_of_stage_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who follows "Practising with a fake SSD" to the letter ends with the whole cohort at the receiver."""
    monkeypatch.setenv("MIN_REQUEST_GAP_MS", "0")
    with Receiver() as receiver:
        lines = block_after("env:practice", QUICK).replace(_PORT, receiver.base_url.split("/")[2])
        (tmp_path / ".env").write_text(lines, encoding="utf-8")
        said = {}
        for arguments in shown_commands(f"```sh\n{block_after('steps:stage', STAGE)}```\n"):
            assert entry_point.main(arguments) == ExitCode.OK
            said[" ".join(arguments)] = capsys.readouterr().out
        people = len(receiver.children)
    assert people > 0.8 * 250
    assert re.search(rf"^in the cohort +{people}$", said["stage --dry-run"], re.MULTILINE)
    assert re.search(rf"^new +{people}$", said["stage"], re.MULTILINE)
    assert re.search(rf"^unchanged +{people}$", said["run --stage"], re.MULTILINE)
    assert re.search(rf"^sent +{people}$", said["run --stage"], re.MULTILINE)
    assert "FAKE000010 is due" in said["explain FAKE000010"]


def test_practice_steps_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who follows "Do it yourself" of the quick start to the letter sees what it promises."""
    monkeypatch.setenv("MIN_REQUEST_GAP_MS", "0")
    with Receiver() as receiver:
        lines = block_after("env:practice", QUICK).replace(_PORT, receiver.base_url.split("/")[2])
        assert set(lines.splitlines()) >= {f"{key}={value}" for key, value in receiver.settings().items()}
        (tmp_path / ".env").write_text(lines, encoding="utf-8")
        said = {}
        for arguments in shown_commands(f"```sh\n{block_after('steps:practice', QUICK)}```\n"):
            assert entry_point.main(arguments) == ExitCode.OK
            said[" ".join(arguments)] = capsys.readouterr().out
        assert len(receiver.children) == 250
    assert said["smoke"].rstrip().endswith("passed: this set-up works")
    assert re.search(r"^sent +250$", said["run"], re.MULTILINE)
    assert re.search(r"^unchanged +sent +250$", said["status"], re.MULTILINE)

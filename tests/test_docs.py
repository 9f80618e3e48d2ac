"""The documentation says what the code does: commands, flags, settings, exit codes, links, practice steps."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from api_pipeline import entry_point
from api_pipeline.config import Needs, load_settings
from api_pipeline.errors import ExitCode
from api_pipeline.receiver import Receiver
from api_pipeline.setting_table import SETTINGS, env_example
from tests.test_architecture import LAYERS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
EVERYTHING = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

_PROGRAM = re.compile(r"(?:.*[/\\])?(?:d2i-csc-api|csc_api_pipeline)(?:\.exe)?")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = "127.0.0.1:8080"


@cache
def generator() -> dict[str, str]:
    """What docs/generate.py would write now, by file name."""
    made: Callable[[], dict[str, str]] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]
    return made()


def block_after(mark: str) -> str:
    """The text of the fenced block that follows ``<!-- mark -->`` in the README."""
    (start,) = (match.end() for match in re.finditer(rf"^<!-- {re.escape(mark)} -->\n", README, re.MULTILINE))
    fence = _FENCE.match(README, start)
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
            words = part.partition(" #")[0].split()  # no command that is shown needs quotes
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


def test_exit_codes_are_those_of_the_code() -> None:
    """The README's table has each exit code once, and no other."""
    table = README.split("## Exit codes")[1].split("\n## ")[0]
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert listed == sorted(int(code) for code in ExitCode)


def test_architecture_names_each_module_in_its_layer() -> None:
    """The table of layers for maintainers is the one that the imports are checked against."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.*?) \|", page, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [layer.split() for layer in LAYERS]


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


@pytest.mark.parametrize("mark", ["env:practice", "env:test"])
def test_shown_env_files_are_complete(mark: str, tmp_path: Path) -> None:
    """A .env copied from the README lets ``run`` and ``smoke`` start: nothing missing, misspelt or unsafe."""
    (tmp_path / ".env").write_text(block_after(mark), encoding="utf-8")
    settings = load_settings(needs=Needs.DATABASE | Needs.API, environ={}, cwd=tmp_path)
    assert settings.warnings == ()
    assert settings.table.is_anon


def test_practice_steps_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who follows "Fake data in ten minutes" to the letter sees what the README promises."""
    monkeypatch.setenv("MIN_REQUEST_GAP_MS", "0")
    with Receiver() as receiver:
        lines = block_after("env:practice").replace(_PORT, receiver.base_url.split("/")[2])
        assert set(lines.splitlines()) >= {f"{key}={value}" for key, value in receiver.settings().items()}
        (tmp_path / ".env").write_text(lines, encoding="utf-8")
        said = {}
        for arguments in shown_commands(f"```sh\n{block_after('steps:practice')}```\n"):
            assert entry_point.main(arguments) == ExitCode.OK
            said[" ".join(arguments)] = capsys.readouterr().out
        assert len(receiver.children) == 250
    assert said["smoke"].rstrip().endswith("passed: this set-up works")
    assert re.search(r"^sent +250$", said["run"], re.MULTILINE)
    assert re.search(r"^unchanged +sent +250$", said["status"], re.MULTILINE)

"""Writes the reference pages from the code: run ``python docs/generate.py`` after a change to either.

``tests/test_docs.py`` fails where a page differs from what this would write.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from api_pipeline.entry_point import build_parser
from api_pipeline.faults import ANY_STATUS, FAULTS, SYNTAX
from api_pipeline.setting_table import OLDER_KEYS, SETTINGS, Setting
from api_pipeline.ssd_mapping import RECORD_MAPS, mapping_table
from api_pipeline.ssd_tables import SOURCE_TABLES

FOLDER = Path(__file__).resolve().parent

_MADE_BY = "<!-- Written by docs/generate.py; change the code, not this page. -->"
_CHILD = "(the child)"  # how the mapping's table names the record that has no path

_MAPPING_HEAD = f"""\
# From the SSD to the payload

{_MADE_BY}

Which column of the Standard Safeguarding Dataset (SSD) becomes which field of the payload that `stage`
builds, and by which rule. This page is generated from the code that does it. Whom the cohort holds, and
what the window is, stands in [stage.md](stage.md#the-cohort).

For all records:

- Text is trimmed, and blank text is unknown. An unknown field is left out, and so is an empty list, unless
  the rule says otherwise. Records and fields come in the order of this page.
- A code "of n characters" is cut to n: what follows it in the column is taken for a description.
- Ids are never cut. Rows are joined by their ids as they stand, letter case and blanks included.
- "Overlaps" the window: started by its end, and still open or ended on or after its start. A record
  without a start overlaps nothing.
- Lists are sorted by start, then by id, then by their other fields; no start counts as the oldest.
- Two records with one id in a list become one: that with the latest start.
- Each record has `"purge": false` at its end, except those in the lists `sdq_assessments` and
  `care_worker_details`; that of the child stands after its ids.
- What is cut, changed or left out, trimming aside, is counted by rule in the summary of `stage`, and
  `validate --source` gives example ids."""


def pages() -> Mapping[str, str]:
    """Return the text of each generated page by its file name."""
    return {
        "settings.md": settings_page(),
        "commands.md": commands_page(),
        "ssd_mapping.md": mapping_page(),
    }


def settings_page() -> str:
    """Return the reference of all settings, from the table that the loader reads."""
    lines = [
        "# Settings",
        "",
        _MADE_BY,
        "",
        "Each comes from the command line where a flag stands for it, else from the environment, else from",
        "the first file found: `.env` in the current folder, or `.env` beside the executable. With",
        "`--env-file PATH` that file is read and no other. Secrets are never shown, not even in part.",
    ]
    group = ""
    for setting in SETTINGS:
        if setting.group != group:
            group = setting.group
            lines += ["", f"## {group}", "", "| setting | default | meaning |", "|---|---|---|"]
        meaning = setting.help.removesuffix(" Required.").removesuffix(" Required to send.")
        lines.append(_row(f"`{setting.key}`", _default(setting), meaning))
    older = ", ".join(f"`{key}`" for key in OLDER_KEYS)
    lines += [
        "",
        "## Keys of older deployments",
        "",
        f"In place of `DB_CONNECTION_STRING` these are read too: {older} (the last two together).",
    ]
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    if setting.required:
        return "required" if setting.required == "database" else "required to send"
    return f"`{setting.default}`" if setting.default and setting.key != "USER_AGENT" else ""


def commands_page() -> str:
    """Return the reference of all commands and flags, from the parser itself."""
    commands = _commands(build_parser())
    flags = {names[0]: _flags(parser) for names, parser in commands}
    common = set.intersection(*(set(of_one) for of_one in flags.values()))
    lines = [
        "# Commands",
        "",
        _MADE_BY,
        "",
        "`d2i-csc-api COMMAND --help` says the same on the screen, with examples. No command means `run`.",
        "",
        "## Flags of every command",
        "",
        *_flag_table({flag: text for flag, text in flags["run"].items() if flag in common}),
    ]
    for (name, *aliases), parser in commands:
        own = {flag: text for flag, text in flags[name].items() if flag not in common}
        also = "".join(f" Also called `{alias}`." for alias in aliases)
        lines += ["", f"## {name}", "", f"{parser.description}{also}"]
        if own:
            lines += ["", *_flag_table(own)]
    lines += [
        "",
        "### Faults that the receiver plays",
        "",
        f"Written as `{SYNTAX}`; `TIMES` is a number or `always`,",
        "and `token/KIND` is for the token endpoint.",
        "",
        "| kind | what the receiver does |",
        "|---|---|",
        *(_row("`NNN`" if kind == ANY_STATUS else f"`{kind}`", text) for kind, text in FAULTS.items()),
    ]
    return "\n".join(lines) + "\n"


def mapping_page() -> str:
    """Return the mapping from the SSD to the payload, from the data that ``stage`` builds it by."""
    lines = [_MAPPING_HEAD]
    records = {record.path or _CHILD for record in RECORD_MAPS}
    record = ""
    for path, columns, rule in mapping_table():
        if path in records:
            record = path
            title = path if path == _CHILD else f"`{path}`"
            lines += ["", f"## {title}", "", f"From {_codes(columns)}: {rule}."]
            lines += ["", "| field | source | rule |", "|---|---|---|"]
        else:
            lines.append(_row(f"`{path.removeprefix(f'{record}.')}`", _columns(columns), rule))
    lines += [
        "",
        "## Source tables",
        "",
        "All that `stage` reads, in the schema that `SSD_SCHEMA` names. What is not listed does not matter.",
        "",
        "| table | columns |",
        "|---|---|",
        *(_row(f"`{table.name}`", _codes(", ".join(table.columns))) for table in SOURCE_TABLES),
    ]
    return "\n".join(lines) + "\n"


def _codes(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _columns(columns: str) -> str:
    """Return ``table.column, ...`` with each table named once."""
    tables: dict[str, list[str]] = {}
    for column in columns.split(", "):
        table, _, name = column.partition(".")
        tables.setdefault(table, []).append(f"`{name}`")
    return "; ".join(f"`{table}`: {', '.join(names)}" for table, names in tables.items())


def _commands(parser: argparse.ArgumentParser) -> list[tuple[list[str], argparse.ArgumentParser]]:
    """Return each command's names, its own first and then its aliases, and its parser."""
    (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found: dict[int, tuple[list[str], argparse.ArgumentParser]] = {}
    for name, command in group.choices.items():
        found.setdefault(id(command), ([], command))[0].append(name)
    return list(found.values())


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    return {
        " ".join(filter(None, [action.option_strings[0], action.metavar])): str(action.help)
        for action in parser._actions
        if action.option_strings and action.dest != "help" and isinstance(action.metavar, str | None)
    }


def _flag_table(flags: Mapping[str, str]) -> Iterable[str]:
    return ["| flag | meaning |", "|---|---|", *(_row(f"`{flag}`", text) for flag, text in flags.items())]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    for file_name, text in pages().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8", newline="\n")

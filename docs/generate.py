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

FOLDER = Path(__file__).resolve().parent

_MADE_BY = "<!-- Written by docs/generate.py; change the code, not this page. -->"


def pages() -> Mapping[str, str]:
    """Return the text of each generated page by its file name."""
    return {"settings.md": settings_page(), "commands.md": commands_page()}


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

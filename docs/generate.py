"""Writes the reference pages from the code: run ``python docs/generate.py`` after a change to either.

``tests/test_docs.py`` fails where a page differs from what this would write.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from api_pipeline.entry_point import build_parser
from api_pipeline.errors import ExitCode
from api_pipeline.faults import ANY_STATUS, FAULTS, SYNTAX
from api_pipeline.setting_table import OLDER_KEYS, SETTINGS, Setting, env_example
from api_pipeline.ssd_mapping import RECORD_MAPS, mapping_table
from api_pipeline.ssd_tables import SOURCE_TABLES
from api_pipeline.validation import CHILD

FOLDER = Path(__file__).resolve().parent

_MADE_BY = "<!-- Written by docs/generate.py; change the code, not this page. -->"
_CHILD = "(the child)"  # how the mapping's table names the record that has no path

# What a code means and what to do about it. A code of the program that is not here stops the generation.
_EXIT_CODES: Mapping[ExitCode, tuple[str, str]] = {
    ExitCode.OK: (
        "all that was due is acknowledged, or nothing was due; a check passed",
        "nothing",
    ),
    ExitCode.FAILED: (
        (
            "finished, but records are in error, deletions are held back, or the deadline came first; "
            "`stage` left somebody as they are, or a brake held it; a check failed"
        ),
        "`status`, `validate`, the summary; mend the source",
    ),
    ExitCode.USAGE: (
        "settings or arguments; nothing was read or sent",
        "the message names each key and where it stands",
    ),
    ExitCode.DATABASE: (
        "database: not reachable, login refused, table missing, connection lost for good",
        "`test-db-connection`, `test-schema`",
    ),
    ExitCode.API: (
        "API: no token, not authorised, unreachable, or a batch given up after its attempts",
        "`test-endpoint`; what was not sent stays due",
    ),
    ExitCode.LOCKED: ("another run is at work on this table", "wait; nothing was done"),
    ExitCode.CRASH: ("an unexpected error", "the log file has the details; report it"),
    ExitCode.INTERRUPTED: (
        "interrupted (Ctrl+C, SIGTERM); what was under way was finished and written back",
        "run again",
    ),
}

_PAYLOAD_HEAD = f"""\
# The payload

{_MADE_BY}

One child is one JSON object, and a request is an array of 1 to 100 of them. This page is generated from the
table that `run` and `validate` check every record against. Which column each field comes from is on
[another page](ssd_mapping.md), and so is [what a receiver does with it](partial_payloads.md#the-rules).

## What is checked

| a fault of this kind | is | and the record |
|---|---|---|
| no JSON, a key twice, `NaN`, no object, nested too deep; an id that is missing or malformed; \
a wrong type; too long; out of range; a date that does not exist | an **error** | is not sent: DfE would \
refuse the whole request, the other 99 records with it. Its row becomes `error` |
| a code that is not in the list; a field that is not on this page | a **warning** | is sent: \
the specification moves, and DfE is the judge of codes |

- Any field may be absent or null, but for those marked "required".
- `"purge": true` removes the record at DfE, with all that is in it; false is the same as leaving it out.
- Lengths count characters as people do: an accented letter is one.
- A finding names path and rule, such as `$.social_care_episodes[0].referral_date`, and never the value.
- `VALIDATION=warn` sends records with errors all the same, as far as there is a JSON object with a
  `la_child_id`.

`validate` does these checks without sending. What DfE refuses beyond them comes back in `api_response`."""

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
        "payload.md": payload_page(),
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
        "",
        "## How .env is written",
        "",
        "- One `KEY=value` a line, in UTF-8 or in any encoding that Notepad saves.",
        "- Backslashes and braces stay as they are, and nothing like `${NAME}` is replaced.",
        "- A relative path in the `.env` beside the executable counts from there, any other from the",
        "  current folder.",
        "- A value with a blank and a `#` in it goes in single quotes; a comment, on a line of its own.",
        "- `CLIENT_SECRET` and `SUPPLIER_KEY` may be `keyring:SERVICE/USER`: then they are read from the",
        "  Windows Credential Manager of the account that runs the tool.",
        "",
        "## A file to begin with",
        "",
        "This is `.env.example`, which comes with every release.",
        "",
        "```ini",
        env_example().rstrip(),
        "```",
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
        "# Commands and exit codes",
        "",
        _MADE_BY,
        "",
        "`d2i-csc-api COMMAND --help` says the same on the screen, with examples. No command means `run`.",
        "With the exe write `.\\csc_api_pipeline.exe` in place of `d2i-csc-api`.",
        "",
        *_exit_codes(),
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
        "## Faults that the receiver plays",
        "",
        f"Written as `{SYNTAX}`; `TIMES` is a number or `always`,",
        "and `token/KIND` is for the token endpoint.",
        "",
        "| kind | what the receiver does |",
        "|---|---|",
        *(_row("`NNN`" if kind == ANY_STATUS else f"`{kind}`", text) for kind, text in FAULTS.items()),
    ]
    return "\n".join(lines) + "\n"


def _exit_codes() -> Iterable[str]:
    return [
        "## Exit codes",
        "",
        "| code | meaning | what to do |",
        "|---|---|---|",
        *(_row(str(int(code)), *_EXIT_CODES[code]) for code in sorted(ExitCode)),
        "",
        "Where several apply, 130 goes first, then 70, 3, 4, 1. Task Scheduler shows the code in hexadecimal",
        'as "Last Run Result": 0x46 is 70, 0x82 is 130. With `--json` any command but `receiver` and `demo`',
        "prints one JSON document on standard output, with the code in it; all else goes to standard error.",
    ]


def payload_page() -> str:
    """Return the reference of the payload's fields, from the table that records are checked against."""
    lines = [_PAYLOAD_HEAD]
    for path, schema in _records("", CHILD):
        lines += ["", f"## {f'`{path}`' if path else _CHILD}", "", "| field | type | rule |", "|---|---|---|"]
        for name, field in schema["properties"].items():
            required = ["required"] if name in schema.get("required", ()) else []
            lines.append(_row(f"`{name}`", _kind(field), "; ".join([*required, *_rules(field)])))
    return "\n".join(lines) + "\n"


def _records(path: str, schema: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return each object of the schema with its path, from the child down."""
    yield path, schema
    for name, field in schema["properties"].items():
        below = f"{path}.{name}" if path else name
        if "properties" in field:
            yield from _records(below, field)
        elif "properties" in field.get("items", ()):
            yield from _records(f"{below}[]", field["items"])


def _kind(field: Mapping[str, Any]) -> str:
    if field.get("format") == "date":
        return "date, `YYYY-MM-DD`"
    inner = f" of {field['items'].get('kind')}".removesuffix(" of an object") if "items" in field else ""
    return f"{field['kind']}{inner or (' of objects' if 'items' in field else '')}"


def _rules(field: Mapping[str, Any]) -> Iterable[str]:
    if "maxItems" in field:
        yield f"at most {field['maxItems']}"
    if "items" in field:
        yield from _rules(field["items"])
    if "maxLength" in field:
        yield f"at most {field['maxLength']} character{'s' if field['maxLength'] > 1 else ''}"
    if "must" in field:
        yield str(field["must"]).removeprefix("must be ")
    if "minimum" in field:
        yield f"{field['minimum']} to {field['maximum']}"
    if "enum" in field:
        codes = " ".join(str(value) for value in field["enum"] if value is not None)
        yield f"{'expected' if field.get('advisory') else 'one of'}: {codes}"


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

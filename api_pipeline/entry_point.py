"""The command line: arguments, screen, signals and exit codes (interface, "Commands" and "Exit codes").

This is the only module that prints, and the file that PyInstaller freezes, so it imports absolutely and also
works as a script.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__ and not getattr(sys, "frozen", False):
    # Run as a script, this folder would come first on the path and hide modules of other packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from types import FrameType
from typing import Any

from api_pipeline import __version__, commands
from api_pipeline.errors import ExitCode, PipelineError
from api_pipeline.logs import log_result, make_console_safe, shutdown_logging
from api_pipeline.runtime import BUILDER_ARGUMENT, prepare_process

log = logging.getLogger("api_pipeline.entry_point")

_DESCRIPTION = """\
Send children's social care records from a staging table to the Department for Education.
No command means run, so that a scheduled task may call the bare program."""

_EXAMPLES = """\
examples:
  %(prog)s demo                          the whole thing on this machine alone, with fake children
  %(prog)s smoke                         prove a set-up: endpoint, database, table
  %(prog)s run --dry-run                 what would be sent, and what is wrong with it
  %(prog)s stage --dry-run               what a refresh from the SSD tables would change
  %(prog)s run                           the nightly submission
  %(prog)s run --stage                   the whole night: refresh from the SSD tables, then send
  %(prog)s run --resend --person-id 123  send one person again, whatever the state
  %(prog)s explain 123                   why that person was sent, or was not

exit codes: 0 done  1 some records or checks failed  2 settings  3 database  4 API
            5 another run is at work  70 unexpected error  130 interrupted

Settings come from the environment, then from .env in this folder, then from .env beside the program."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``argv`` defaults to the process's arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    if list(arguments) == [BUILDER_ARGUMENT]:
        from api_pipeline import builder_process  # no other command should wait for it

        builder_process.main()
        return int(ExitCode.OK)
    for stream in (sys.stdout, sys.stderr):
        make_console_safe(stream)
    prepare_process()
    try:
        args = parse(arguments)
    except SystemExit as end:  # argparse has said what is wrong, or printed the help
        return int(end.code or 0)
    context = commands.Context(args=args, say=say)
    try:
        with stop_on_signals(context.stop):
            code = args.handler(context)
            _log_end(args, code)
            return int(code)
    except PipelineError as error:
        return _report(args, error.exit_code, f"{error}")
    except KeyboardInterrupt:
        return _report(args, ExitCode.INTERRUPTED, "Interrupted.")
    except _OutputError as error:
        return _output_failed(args, error)
    except Exception as error:  # the one place that catches everything: nobody is watching
        log.debug("unexpected error", exc_info=error)
        log.log(logging.CRITICAL, "unexpected error", exc_info=error)
        where = "the log file" if args.log_file else "LOG_FILE, once one is set,"
        return _report(args, ExitCode.CRASH, f"Unexpected {type(error).__name__}; {where} has the details.")
    finally:
        shutdown_logging()


def say(text: str) -> None:
    """Print a result to standard output at once, also where it is a file or a pipe."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise _OutputError from error


class _OutputError(Exception):
    """Standard output takes nothing more: its reader has gone, or its disk is full."""


def _output_failed(args: argparse.Namespace, error: _OutputError) -> int:
    """Say that the result could not be shown, unless whoever read it just had enough."""
    with contextlib.suppress(OSError):
        # Leave nothing for the interpreter to flush into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    why = error.__cause__
    number = f" (errno {why.errno})" if isinstance(why, OSError) else ""
    message = f"The result of {args.command} cannot be written to standard output{number}."
    log_result(message, failed=True)
    _log_end(args, ExitCode.CRASH)
    if not isinstance(why, BrokenPipeError):
        _complain(message)
    return int(ExitCode.CRASH)


def _log_end(args: argparse.Namespace, code: ExitCode) -> None:
    log_result(f"{args.command} ended with exit code {int(code)}", failed=code is not ExitCode.OK)


def _complain(message: str) -> None:
    if sys.stderr is not None:  # a program without a console has none
        with contextlib.suppress(OSError):
            print(f"error: {message}", file=sys.stderr)


def _report(args: argparse.Namespace, code: ExitCode, message: str) -> int:
    """Tell the user why a command ended without a result."""
    log_result(message, failed=True)
    _log_end(args, code)
    _complain(message)
    if args.json:
        with contextlib.suppress(_OutputError):  # the code tells more than another complaint would
            say(json.dumps({"command": args.command, "error": message, "exit_code": int(code)}, indent=2))
    return int(code)


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` on the first Ctrl+C or SIGTERM; end at once on the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- the signature is given
        if stop.is_set():
            # Not by an exception: it would wait for the threads whose requests are under way.
            os._exit(int(ExitCode.INTERRUPTED))
        stop.set()
        log.warning("stopping: what is under way is finished first; again to end at once")

    names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last one is Ctrl+Break, on Windows
    before = {
        number: signal.signal(number, handle) for name in names if (number := getattr(signal, name, None))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- arguments ------------------------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; the common flags may stand before the command or after it.

    Raises:
        SystemExit: for --help, --version (0) and for arguments that make no sense (2).
    """
    common = _common_flags()
    if any(flag in argv for flag in ("-h", "--help", "--version")):
        rest = list(argv)
        known = common.parse_args([])
    else:
        known, rest = common.parse_known_args(argv)
    if not rest or (rest[0].startswith("-") and rest[0] not in ("-h", "--help", "--version")):
        rest = ["run", *rest]
    args = build_parser().parse_args(rest)
    for name, value in vars(known).items():
        setattr(args, name, value)
    return args


def _common_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("common flags")
    group.add_argument("--env-file", metavar="PATH", help="read the settings from this file and no other")
    group.add_argument("--table", metavar="NAME", help="staging table, in place of TABLE_NAME")
    group.add_argument("--log-file", metavar="PATH", help="write the log here, in place of LOG_FILE")
    group.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING, ERROR or CRITICAL")
    group.add_argument("--json", action="store_true", help="machine-readable result on standard output")
    group.add_argument("--no-progress", action="store_true", help="no progress bar or lines")
    return parser


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the documentation is generated from it."""
    parser = argparse.ArgumentParser(
        prog="d2i-csc-api",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", title="commands")
    _add_run(subparsers)
    _add_stage(subparsers)
    _add_diagnostics(subparsers)
    _add_tools(subparsers)
    _add_documents(subparsers)
    return parser


def _command(subparsers: Any, name: str, handler: Any, summary: str, examples: str = "", **more: Any) -> Any:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ("" if summary.endswith("?") else "."),
        epilog=f"examples:\n{examples}" if examples else None,
        parents=[_common_flags()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    parser.set_defaults(handler=handler)
    return parser


def _add_run(subparsers: Any) -> None:
    run = _command(
        subparsers,
        "run",
        commands.run,
        "send everything that is due, and write the outcome back",
        "  d2i-csc-api run\n"
        "  d2i-csc-api run --stage\n"
        "  d2i-csc-api run --dry-run --limit 100\n"
        "  d2i-csc-api run --resend --person-id 4711 --person-id 4712\n",
    )
    mode = run.add_mutually_exclusive_group()
    mode.add_argument(
        "--full",
        dest="partial",
        action="store_false",
        default=None,
        help="send full payloads, whatever the settings say",
    )
    mode.add_argument(
        "--partial",
        action="store_true",
        default=None,
        help="send only what changed since DfE's last acknowledgement, as USE_PARTIAL_PAYLOAD=true does",
    )
    run.add_argument("--workers", type=int, metavar="N", help="requests under way at once, 1 to 16")
    run.add_argument("--batch-size", type=int, metavar="N", help="records in one request, 1 to 100")
    run.add_argument("--limit", type=_positive, metavar="N", help="at most so many of the due rows")
    run.add_argument(
        "--person-id", action="append", default=[], metavar="ID", help="only this person; may be repeated"
    )
    run.add_argument("--dry-run", action="store_true", help="everything but sending and writing")
    run.add_argument(
        "--allow-deletions", action="store_true", help="send deletions even above MAX_DELETIONS_PERCENT"
    )
    run.add_argument(
        "--resend",
        action="store_true",
        help="send the named people in full, whatever their state; needs --person-id",
    )
    run.add_argument(
        "--stage",
        action="store_true",
        help="first refresh the staging table from the SSD tables; if that does not end with 0, send nothing",
    )


def _add_stage(subparsers: Any) -> None:
    stage = _command(
        subparsers,
        "stage",
        commands.stage,
        "build the payloads from the SSD tables and refresh the staging table; sends nothing",
        "  d2i-csc-api stage --dry-run\n"
        "  d2i-csc-api stage\n"
        "  d2i-csc-api stage --person-id 4711 --dry-run --json\n",
    )
    stage.add_argument("--dry-run", action="store_true", help="the same numbers, and nothing is written")
    stage.add_argument(
        "--person-id", action="append", default=[], metavar="ID", help="only this person; may be repeated"
    )
    stage.add_argument(
        "--as-of", type=_day, metavar="DATE", help="build as on this day (YYYY-MM-DD); default: today"
    )
    stage.add_argument(
        "--allow-deletions",
        action="store_true",
        help="write even if more people or records would go than MAX_DELETIONS_PERCENT allows",
    )


def _add_diagnostics(subparsers: Any) -> None:
    summaries = {
        "test-endpoint": (commands.test_endpoint, "get a token and post an empty array: is the API usable?"),
        "test-db-connection": (commands.test_db_connection, "open the database: driver, server, login"),
        "test-schema": (
            commands.test_schema,
            "check the staging table, the submission log and the baseline table",
        ),
    }
    for name, (handler, summary) in summaries.items():
        _command(subparsers, name, handler, summary, f"  d2i-csc-api {name} --json\n")
    _command(
        subparsers,
        "smoke",
        commands.smoke,
        "the three tests, then one summary",
        "  d2i-csc-api smoke\n",
        aliases=["run-smoke"],
    )
    validate = _command(
        subparsers,
        "validate",
        commands.validate,
        "check every due payload against the specification; changes nothing",
        "  d2i-csc-api validate --table ssd_api_data_staging\n  d2i-csc-api validate --source\n",
    )
    validate.add_argument(
        "--source", action="store_true", help="check the SSD tables instead: what would break a payload"
    )
    _command(
        subparsers,
        "status",
        commands.status,
        "count rows by state and status; what is due, in error or in doubt; the last runs",
        "  d2i-csc-api status --json\n",
    )
    explain = _command(
        subparsers,
        "explain",
        commands.explain,
        "say why one person was sent, was not, or is sent again; changes nothing",
        "  d2i-csc-api explain 4711\n  d2i-csc-api explain 4711 --json\n",
    )
    explain.add_argument("person", metavar="PERSON_ID", help="the person_id in the staging table")


def _add_tools(subparsers: Any) -> None:
    init_db = _command(
        subparsers,
        "init-db",
        commands.init_db,
        "create what is missing of staging table, submission log and baseline table; never alters or drops",
        "  d2i-csc-api init-db --print > tables.sql\n  d2i-csc-api init-db --ssd\n",
    )
    init_db.add_argument("--print", action="store_true", help="only print the SQL of the tables")
    init_db.add_argument(
        "--ssd",
        action="store_true",
        help="the SSD tables instead, for fake people; refused where they exist with data",
    )
    prune = _command(
        subparsers,
        "prune-log",
        commands.prune_log,
        "delete old lines of the submission log; never the baseline, nor what is still needed",
        "  d2i-csc-api prune-log --before 2024-04-01 --dry-run\n"
        "  d2i-csc-api prune-log --before 2024-04-01\n",
    )
    prune.add_argument(
        "--before",
        type=_day,
        required=True,
        metavar="DATE",
        help="delete attempts that ended before this day (YYYY-MM-DD, UTC)",
    )
    prune.add_argument("--dry-run", action="store_true", help="only count the lines that would go")
    fake = _command(
        subparsers,
        "fake-data",
        commands.fake_data,
        "fill an _anon table with fake children",
        "  d2i-csc-api fake-data --rows 500\n  d2i-csc-api fake-data --ssd --rows 500\n",
    )
    fake.add_argument(
        "--ssd", action="store_true", help="fill the SSD tables instead, as made by init-db --ssd"
    )
    fake.add_argument("--rows", type=_positive, required=True, metavar="N", help="how many children")
    fake.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="in an empty table, another seed gives other children",
    )
    receiver = _command(
        subparsers,
        "receiver",
        commands.receiver,
        "stand in for the API on this machine, to try run by hand",
        "  d2i-csc-api receiver --port 8080\n"
        "  d2i-csc-api receiver --fault 503:2 --fault 429:1:retry-after=2\n",
    )
    receiver.add_argument("--port", type=int, default=0, metavar="N", help="default: any free port")
    receiver.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="a fault to play: KIND[:TIMES][:NAME=VALUE]",
    )
    demo = _command(
        subparsers,
        "demo",
        commands.demo,
        "two nights with fake children, on this machine alone",
        "  d2i-csc-api demo\n",
    )
    demo.add_argument("--folder", metavar="PATH", help="keep the database file in this existing folder")


def _add_documents(subparsers: Any) -> None:
    schedule = _command(
        subparsers,
        "schedule",
        commands.schedule,
        "print or write the nightly run as a task for Windows Task Scheduler, and how to import it",
        "  csc_api_pipeline schedule --output nightly.xml\n"
        '  csc_api_pipeline schedule --time 03:30 --arguments "run --stage" --output nightly.xml\n'
        "  csc_api_pipeline schedule --user COUNCIL\\csc-api$ --gmsa --output nightly.xml\n\n"
        "No settings are read. --env-file, --table, --log-file, --log-level go into the arguments; there,\n"
        "relative paths count from the working directory.\n",
    )
    for flag, metavar, text in (
        ("--time", "HH:MM", "when it starts, each day (default 02:00)"),
        ("--random-delay", "MINUTES", "it starts up to so much later, not with everybody else (default 30)"),
        ("--repeat-every", "MINUTES", "then it starts again, so that a failed run is made good (default 60)"),
        ("--repeat-for", "HOURS", "how long it starts again; 0 for once a day (default 4)"),
        ("--time-limit", "HOURS", "when the scheduler ends it; more than RUN_DEADLINE_MINUTES (default 8)"),
        ("--program", "PATH", "what is started (default: this program)"),
        ("--arguments", "TEXT", 'its arguments, such as "run --stage" (default run)'),
        ("--working-directory", "PATH", "where it is started (default: the folder of the executable)"),
        ("--user", "NAME", "the account that it runs as, such as COUNCIL\\csc-api"),
        ("--task-name", "NAME", "what the task is called (default csc-api-pipeline)"),
        ("--output", "PATH", "write the task to this file, ready to be imported"),
    ):
        schedule.add_argument(flag, metavar=metavar, help=text)
    schedule.add_argument(
        "--gmsa", action="store_true", help="--user is a group managed service account: no password"
    )
    report = _command(
        subparsers,
        "report",
        commands.report,
        "write one HTML page about the runs: charts and tables, works offline, no child's data but person_id",
        "  d2i-csc-api report\n  d2i-csc-api report --days 365 --output year.html\n",
    )
    report.add_argument(
        "--output", metavar="PATH", default="report.html", help="the file to write (default report.html)"
    )
    report.add_argument("--days", metavar="N", default="90", help="the last N days (default 90)")
    report.add_argument("--force", action="store_true", help="overwrite a file that is no report")


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _day(text: str) -> date:
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError("must be a day, as YYYY-MM-DD")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a day of the calendar, as YYYY-MM-DD") from None


if __name__ == "__main__":
    sys.exit(main())

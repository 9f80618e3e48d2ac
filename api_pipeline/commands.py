"""What each command does once its arguments are read: settings in, exit code out.

:mod:`entry_point` owns the arguments and the screen; it hands every handler a :class:`Context`. A new command
is a parser there and a handler here. Imports of heavy modules are inside the handlers, written literally so
that PyInstaller finds them, and because ``--help`` should not wait for them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api_pipeline.config import Needs, Settings, load_settings
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.logs import log_result, set_run_id, setup_logging

if TYPE_CHECKING:
    from api_pipeline.stage_summary import StageSummary


@dataclass
class Context:
    """The arguments, the screen, and the event that a signal sets."""

    args: argparse.Namespace
    say: Callable[[str], None]  # one text to standard output
    stop: threading.Event = field(default_factory=threading.Event)

    def settings(self, needs: Needs) -> Settings:
        """Read the settings that this command needs, and set up the log they ask for.

        Raises:
            ConfigError: with every fault in one message.
        """
        given: Mapping[str, Any] = {
            "TABLE_NAME": self.args.table,
            "LOG_FILE": self.args.log_file,
            "LOG_LEVEL": self.args.log_level,
            "BATCH_SIZE": getattr(self.args, "batch_size", None),
            "WORKERS": getattr(self.args, "workers", None),
            "USE_PARTIAL_PAYLOAD": getattr(self.args, "partial", None),
        }
        overrides = {key: str(value) for key, value in given.items() if value is not None}
        env_file = None if self.args.env_file is None else Path(self.args.env_file)
        try:
            settings = load_settings(needs=needs, env_file=env_file, overrides=overrides)
        except ConfigError as error:
            if error.log_file is not None:
                with contextlib.suppress(ConfigError):  # the first fault is the one to tell
                    setup_logging(log_file=error.log_file)
            raise
        logger = setup_logging(level=settings.log_level, log_file=settings.log_file, secrets=settings.secrets)
        for warning in settings.warnings:
            logger.warning("%s", warning)
        for key, origin in settings.source.items():
            logger.debug("setting %s comes from %s", key, origin)
        return settings

    def show(self, as_json: Mapping[str, Any], as_text: str, *, logged: bool = False) -> None:
        """Show a result: the JSON with ``--json``, the text without; ``logged``: in the log file too."""
        if logged:
            log_result(as_text)
        self.say(json.dumps(as_json, ensure_ascii=True, indent=2) if self.args.json else as_text)


def run(context: Context) -> ExitCode:
    """The nightly submission."""
    args = context.args
    if args.resend and not args.person_id:
        raise ConfigError("--resend sends named people only.", remedy="Name them with --person-id ID.")
    from api_pipeline import pipeline, progress

    # A dry run sends nothing, so it asks for no API settings.
    settings = context.settings(Needs.DATABASE if args.dry_run else Needs.RUN)
    staged = _stage(context, settings) if args.stage else None
    if staged is not None and staged.exit_code is not ExitCode.OK:
        code = staged.exit_code
        result = {"command": "run", "exit_code": int(code), "stage": staged.as_json()}
        text = f"{staged.as_table()}\nNothing was sent, because stage did not end with 0."
        context.show(result, text, logged=True)
        return code
    options = pipeline.RunOptions(
        limit=args.limit,
        persons=tuple(args.person_id),
        dry_run=args.dry_run,
        allow_deletions=args.allow_deletions,
        resend=args.resend,
    )
    shown = progress.choose(sys.stderr, wanted=not args.no_progress)
    summary = pipeline.run(settings, options, stop=context.stop, progress=shown, on_start=set_run_id)
    if staged is None:
        context.show(summary.as_json(), summary.as_table(), logged=True)
    else:
        both = {**summary.as_json(), "stage": staged.as_json()}
        context.show(both, f"{staged.as_table()}\n\n{summary.as_table()}", logged=True)
    return summary.exit_code


def stage(context: Context) -> ExitCode:
    """Payloads from the SSD tables into the staging table."""
    summary = _stage(context, context.settings(Needs.DATABASE))
    context.show(summary.as_json(), summary.as_table(), logged=True)
    return summary.exit_code


def _stage(context: Context, settings: Settings) -> StageSummary:
    from api_pipeline import progress
    from api_pipeline import stage as staging

    args = context.args
    options = staging.StageOptions(
        dry_run=args.dry_run,
        persons=tuple(args.person_id),
        as_of=getattr(args, "as_of", None),
        allow_deletions=args.allow_deletions,
    )
    shown = progress.choose(sys.stderr, wanted=not args.no_progress)
    return staging.stage(settings, options, stop=context.stop, progress=shown, on_start=set_run_id)


def test_endpoint(context: Context) -> ExitCode:
    """Token and an empty array."""
    from api_pipeline import checks

    return _check(context, checks.test_endpoint, Needs.API)


def test_db_connection(context: Context) -> ExitCode:
    """Driver, server, login, database."""
    from api_pipeline import checks

    return _check(context, checks.test_db_connection, Needs.DATABASE)


def test_schema(context: Context) -> ExitCode:
    """Columns, types, permissions."""
    from api_pipeline import checks

    return _check(context, checks.test_schema, Needs.DATABASE)


def smoke(context: Context) -> ExitCode:
    """The three tests and one summary."""
    from api_pipeline import checks

    return _check(context, checks.smoke, Needs.DATABASE | Needs.API)


def validate(context: Context) -> ExitCode:
    """Every due payload, or the source tables, against the specification."""
    if context.args.source:
        return _validate_source(context)
    from api_pipeline import inspection

    return _check(context, inspection.validate, Needs.DATABASE, logged=False)


def _validate_source(context: Context) -> ExitCode:
    from api_pipeline import progress, source_validation

    settings = context.settings(Needs.DATABASE)
    shown = progress.choose(sys.stderr, wanted=not context.args.no_progress)
    result = source_validation.validate_source(settings, stop=context.stop, progress=shown)
    context.show(result.as_json(), result.as_text())
    return result.exit_code


def status(context: Context) -> ExitCode:
    """Counts of the staging table."""
    from api_pipeline import inspection

    return _check(context, inspection.status, Needs.DATABASE, logged=False)


def explain(context: Context) -> ExitCode:
    """Why one person is, or is not, due."""
    from api_pipeline import explain as explaining

    result = explaining.explain(context.settings(Needs.DATABASE), context.args.person, stop=context.stop)
    context.show(result.as_json(), result.as_text())
    return result.exit_code


def prune_log(context: Context) -> ExitCode:
    """Delete old lines of the submission log."""
    from api_pipeline import pruning

    args = context.args
    result = pruning.prune_log(context.settings(Needs.DATABASE), args.before, dry_run=args.dry_run)
    context.show(result.as_json(), result.as_text())
    return result.exit_code


def _check(
    context: Context, check: Callable[[Settings], Any], needs: Needs, *, logged: bool = True
) -> ExitCode:
    result = check(context.settings(needs))
    context.show(result.as_json(), result.as_text(), logged=logged)
    code: ExitCode = result.exit_code
    return code


def init_db(context: Context) -> ExitCode:
    """Create what is missing."""
    from api_pipeline import provision

    settings = context.settings(Needs.DATABASE)
    if context.args.ssd:
        return _init_ssd(context, settings)
    if context.args.print:
        sql = provision.print_sql(settings)
        context.show({"command": "init-db", "sql": sql}, sql.rstrip())
        return ExitCode.OK
    made = provision.init_db(settings)
    text = (
        f"Created {', '.join(made)}."
        if made
        else f"Nothing to do: {settings.table} and what belongs to it is there already."
    )
    context.show({"command": "init-db", "created": made}, text)
    return ExitCode.OK


def _init_ssd(context: Context, settings: Settings) -> ExitCode:
    from api_pipeline import ssd_provision

    if context.args.print:
        sql = ssd_provision.print_ssd_sql(settings)
        context.show({"command": "init-db", "sql": sql}, sql.rstrip())
        return ExitCode.OK
    made = ssd_provision.init_ssd(settings)
    text = f"Created {', '.join(made)}." if made else "Nothing to do: the SSD tables are there already."
    context.show({"command": "init-db", "created": made}, text)
    return ExitCode.OK


def fake_data(context: Context) -> ExitCode:
    """Fill a table with fake children."""
    from api_pipeline import provision

    settings = context.settings(Needs.DATABASE)
    if context.args.ssd:
        return _fake_ssd(context, settings)
    filled = provision.fill_with_fakes(settings, context.args.rows, context.args.seed)
    already = f"; {filled.present} were there already" if filled.present else ""
    context.show(
        {"command": "fake-data", "added": filled.added, "present": filled.present},
        f"Added {filled.added} fake children to {settings.table}{already}.",
    )
    return ExitCode.OK


def _fake_ssd(context: Context, settings: Settings) -> ExitCode:
    from api_pipeline import ssd_provision

    filled = ssd_provision.fill_ssd(settings, context.args.rows, context.args.seed)
    already = f"; {filled.present} were there already" if filled.present else ""
    context.show(
        {"command": "fake-data", "added": filled.added, "present": filled.present},
        f"Added {filled.added} fake people to the SSD tables{already}.",
    )
    return ExitCode.OK


def receiver(context: Context) -> ExitCode:
    """The stand-in for the API, until Ctrl+C."""
    from api_pipeline.faults import parse_fault
    from api_pipeline.receiver import Receiver, serve_forever

    setup_logging()
    faults = [parse_fault(text) for text in context.args.fault]
    stand_in = Receiver(port=context.args.port, faults=faults).start()
    lines = [f"{key}={value}" for key, value in {**stand_in.settings(), "TESTING_MODE": "false"}.items()]
    context.say("# These lines in a .env make 'run' talk to this receiver (loopback only; all fake):")
    context.say("\n".join(lines))
    context.say("# Requests follow; Ctrl+C ends.")
    serve_forever(stand_in, context.say, stop=context.stop)
    return ExitCode.OK


def demo(context: Context) -> ExitCode:
    """Two nights on this machine alone."""
    from api_pipeline import demo as demonstration

    setup_logging(level="WARNING")
    folder = None if context.args.folder is None else Path(context.args.folder)
    return demonstration.play(context.say, folder=folder)


def schedule(context: Context) -> ExitCode:
    """A task for Windows Task Scheduler; reads no settings."""
    from api_pipeline import output_file
    from api_pipeline import schedule as scheduling

    args = context.args
    program = scheduling.default_program(sys.executable, frozen=getattr(sys, "frozen", False))
    passed_on = ("env_file", "log_file", "log_level", "table")
    given = [(f"--{name.replace('_', '-')}", getattr(args, name)) for name in passed_on]
    task = scheduling.plan(
        vars(args),
        program=program,
        folder=str(Path.cwd() if program[1] else Path(sys.executable).parent),
        flags=[part for flag, value in given if value is not None for part in (flag, value)],
        managed=args.gmsa,
    )
    on_windows = sys.platform == "win32"
    file, path = f"{scheduling.TASK_NAME}.xml", None
    if args.output is not None:
        path = Path(args.output).absolute()
        output_file.refuse_other(path, scheduling.is_task, "task")
        output_file.write(path, task.file())
        file = str(path) if on_windows else path.name
    result = scheduling.Schedule(task, file, None if path is None else str(path), elsewhere=not on_windows)
    context.show(result.as_json(), result.as_text())
    return result.exit_code


def report(context: Context) -> ExitCode:
    """One HTML page about the runs."""
    from api_pipeline import report as reporting

    args = context.args
    days = reporting.days_of(args.days)
    settings = context.settings(Needs.DATABASE)
    result = reporting.report(settings, Path(args.output), days=days, force=args.force)
    context.show(result.as_json(), result.as_text())
    return result.exit_code

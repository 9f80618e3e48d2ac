"""The tests of a set-up: the API, the database, the staging table (interface, "Commands").

Each takes the settings and returns what it found, step by step; nothing prints, writes or sends a record.
"""

from __future__ import annotations

from typing import get_args

from api_pipeline import provision
from api_pipeline.api import ApiClient, ApiConfig
from api_pipeline.check_result import CheckResult, SmokeResult, Step
from api_pipeline.config import Settings
from api_pipeline.db import ServerInfo, latency_ms
from api_pipeline.errors import DatabaseError, ExitCode
from api_pipeline.outcomes import ProbeResult, status_problem
from api_pipeline.replies import ReplyKind
from api_pipeline.table_checks import test_schema

__all__ = ["smoke", "test_db_connection", "test_endpoint", "test_schema"]

# What has worked where a connection fails at a hop.
_BEFORE_LOGIN = ("driver", "server")
_REACHED: dict[str, tuple[str, ...]] = {
    "host": ("driver",),
    "port": ("driver",),
    "connection": ("driver",),
    "certificate": _BEFORE_LOGIN,
    "login": _BEFORE_LOGIN,
    "database": (*_BEFORE_LOGIN, "login"),
}
_PASSED = {"driver": "is installed", "server": "was reached", "login": "was accepted"}


def test_endpoint(settings: Settings) -> CheckResult:
    """Get a token and post an empty array, in testing mode too; nothing of a child is sent.

    A 200, 204, 400 or 422 to the empty array is a pass. What keeps the API from being used ends with its
    exit code, an address or header that can never work with that of the settings.

    Raises:
        ConfigError: CA_BUNDLE cannot be read.
    """
    with ApiClient(ApiConfig.from_settings(settings)) as client:
        routes = {str(route) for route in client.routes().values()}
        result = client.probe()
    steps = [Step("route", True, f"The way to the API: {', '.join(sorted(routes))}.")]
    issued = result.passed or _is_about_the_reply(result)
    if issued:
        steps.append(Step("token", True, f"A token was issued in {result.token_ms:.0f} ms."))
    if result.passed:
        steps += [
            Step("supplier key", True, "The supplier key was accepted."),
            Step("la code", True, "The address and the LA code are known."),
            Step("api", True, f"It answered {result.status} to an empty array in {result.ms:.0f} ms."),
        ]
    else:
        steps.append(_endpoint_failure(result, token_issued=issued))
    return CheckResult("test-endpoint", tuple(steps))


def _endpoint_failure(result: ProbeResult, *, token_issued: bool) -> Step:
    code = ExitCode.USAGE if result.hop == "settings" else ExitCode.API
    if token_issued and result.status == 401:
        # The token is a moment old, so it is what stands beside it that the gateway does not like.
        message = "The API answered 401 (Unauthorized), although the token has just been issued."
        remedy = (
            "Check SUPPLIER_KEY first (the subscription must be for this API); then SCOPE, and that "
            "TOKEN_ENDPOINT and API_ENDPOINT belong together."
        )
        return Step("supplier key", False, message, remedy, code=code)
    return Step(result.hop, False, result.message, result.remedy, code=code)


def _is_about_the_reply(result: ProbeResult) -> bool:
    """Whether the failure is the children endpoint's answer, so that there must have been a token."""
    if result.status is None:
        return False
    problems = (status_problem(result.status, kind) for kind in get_args(ReplyKind))
    return any(problem.message == result.message for problem in problems)


def test_db_connection(settings: Settings) -> CheckResult:
    """Open the database and say what it is, or which hop failed.

    Raises:
        ConfigError: if DB_CONNECTION_STRING cannot be read.
    """
    name = "test-db-connection"
    try:
        database = provision.connect(settings)
    except DatabaseError as error:
        reached = () if _is_sqlite(settings) else _REACHED.get(error.hop, ())
        before = [Step(hop, True, f"The {hop} {_PASSED[hop]}.") for hop in reached]
        return CheckResult(name, (*before, Step.of_error(error, connected=False)))
    with database:
        try:
            found = database.server_info()
            fastest = min(latency_ms(database) for _ in range(3))
        except DatabaseError as error:
            return CheckResult(name, (Step.of_error(error, connected=True),))
    latency = Step("latency", True, f"{fastest:.1f} ms for one round trip.")
    return CheckResult(name, (*_described(found), latency))


def _described(found: ServerInfo) -> tuple[Step, ...]:
    steps = [Step("driver", True, found.driver), Step("server", True, found.server)]
    if found.login:
        steps.append(Step("login", True, found.login))
    return (*steps, Step("database", True, found.database), Step("version", True, found.version))


def _is_sqlite(settings: Settings) -> bool:
    return settings.db_connection_string.reveal().casefold().startswith("sqlite:")


def smoke(settings: Settings) -> SmokeResult:
    """Take the three tests, each whatever the others find, except that a closed database has no table.

    Raises:
        ConfigError: as the three do.
    """
    endpoint, connection = test_endpoint(settings), test_db_connection(settings)
    if connection.passed:
        schema = test_schema(settings)
    else:
        skipped = Step("table", None, "The table was not looked at, because the database was not opened.")
        schema = CheckResult("test-schema", (skipped,))
    return SmokeResult("smoke", (endpoint, connection, schema))

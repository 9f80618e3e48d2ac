"""ODBC connection strings, the choice of a driver, and what the drivers' errors mean.

Pure: nothing here opens a connection, so every rule can be tested with the texts that real drivers give.
Statement errors are never quoted, because servers like to repeat the value that they did not like;
a SQLSTATE and the server's own number say what to look up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from api_pipeline.errors import ConfigError, ConnectionLostError, DatabaseError, TransientDatabaseError

# Newest first. Names are compared whole: "SQL Server Native Client RDA 11.0" exists and is something else.
SQL_SERVER_DRIVERS = (
    "ODBC Driver 18 for SQL Server",
    "ODBC Driver 17 for SQL Server",
    "ODBC Driver 13.1 for SQL Server",
    "ODBC Driver 13 for SQL Server",
    "ODBC Driver 11 for SQL Server",
)

_PAIR = re.compile(r"[;\s]*([^=;]+?)\s*=\s*(\{(?:[^}]|\}\})*\}|[^;]*)\s*(?:;|$)")

_ALIASES = {
    "addr": "server",
    "address": "server",
    "servername": "server",
    "data source": "server",
    "network address": "server",
    "initial catalog": "database",
    "user": "uid",
    "user id": "uid",
    "username": "uid",
    "password": "pwd",
    "trust server certificate": "trustservercertificate",
}


@dataclass(frozen=True)
class ConnectionString:
    """An ODBC connection string, read so that its parts can be named in a message."""

    text: str
    parts: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> ConnectionString:
        """Read ``key=value;key={va;lue}``; keys are case-insensitive, the first of two equal keys counts.

        Raises:
            ConfigError: if the text is not a list of ``key=value`` pairs.
        """
        parts: dict[str, str] = {}
        position = 0
        body = text.strip().strip(";").strip()
        while position < len(body):
            match = _PAIR.match(body, position)
            if match is None:
                raise ConfigError(
                    "DB_CONNECTION_STRING is not a connection string.",
                    hop="settings",
                    remedy="Write key=value pairs separated by semicolons, or sqlite:///path; put a value "
                    "that holds a semicolon in {braces}.",
                )
            key = match.group(1).casefold()
            value = match.group(2).strip()
            if value.startswith("{") and value.endswith("}"):
                value = value[1:-1].replace("}}", "}")
            parts.setdefault(_ALIASES.get(key, key), value)
            position = match.end()
        return cls(text=body, parts=parts)

    def get(self, key: str) -> str:
        """Return the value of ``key`` (lower case), or an empty text."""
        return self.parts.get(key, "")

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """The host and TCP port that the driver will call, or None where they cannot be told (DSN, pipe)."""
        server = self.get("server").removeprefix("tcp:")
        if not server or server.startswith(("np:", "lpc:", "(localdb)")):
            return None
        host, _, port = server.partition(",")
        host, _, instance = host.partition("\\")
        if instance and not port:
            return None  # SQL Server Browser decides the port.
        host = {".": "localhost", "(local)": "localhost"}.get(host.strip(), host.strip())
        default = "5432" if self.is_postgresql else "1433"
        port = port.strip() or self.get("port") or default
        return (host, int(port)) if port.isdecimal() else None

    @property
    def is_postgresql(self) -> bool:
        """Whether the named driver is PostgreSQL's."""
        driver = self.get("driver").casefold()
        return "postgres" in driver or "psqlodbc" in driver


def prepare(text: str, *, installed: Sequence[str], trust_server_certificate: bool) -> ConnectionString:
    """Return the connection string to open: with a driver that exists, and with the trust that was asked for.

    Raises:
        DatabaseError: if the named driver, or any for SQL Server, is not installed (hop ``driver``).
        ConfigError: if the text cannot be read.
    """
    given = ConnectionString.parse(text)
    driver = given.get("driver")
    prefix = ""
    if driver:
        _require_installed(driver, installed)
    elif not given.get("dsn") and not given.get("filedsn"):
        newest = next((name for name in SQL_SERVER_DRIVERS if name in installed), None)
        if newest is None:
            raise DatabaseError(
                "No ODBC driver for SQL Server is installed on this machine.",
                hop="driver",
                remedy=f"Install '{SQL_SERVER_DRIVERS[0]}' (64-bit). Installed are: {_listed(installed)}.",
            )
        driver = newest
        prefix = f"Driver={{{newest}}};"
    suffix = ""
    sql_server = "sql server" in driver.casefold() or "msodbcsql" in driver.casefold()
    if trust_server_certificate and sql_server and not given.get("trustservercertificate"):
        suffix = ";TrustServerCertificate=yes"
    return ConnectionString.parse(prefix + given.text + suffix)


def _require_installed(driver: str, installed: Sequence[str]) -> None:
    if "/" in driver or driver.casefold().endswith((".dll", ".so")):
        known = Path(driver).is_file()
    else:
        # A machine whose driver list cannot be read says nothing about this one.
        known = not installed or driver.casefold() in {name.casefold() for name in installed}
    if not known:
        raise DatabaseError(
            f"The ODBC driver '{driver}' is not installed on this machine.",
            hop="driver",
            remedy=f"Install it, or name one of these as Driver=: {_listed(installed)}.",
        )


def _listed(installed: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in installed) or "none"


# SQL Server's answer is 1 where transactions of this database may work on a snapshot.
SNAPSHOT_STATE = "SELECT snapshot_isolation_state FROM sys.databases WHERE name = DB_NAME()"


def isolation(level: str) -> str:
    """Return SQL Server's statement for the isolation of the session's transactions from now on."""
    return f"SET TRANSACTION ISOLATION LEVEL {level}"


@dataclass(frozen=True)
class OdbcFault:
    """What a driver said, reduced to what may be shown: the SQLSTATE and the server's own number."""

    state: str
    native: int | None
    text: str

    @classmethod
    def of(cls, error: BaseException) -> OdbcFault:
        """Read a ``pyodbc.Error``, whose arguments are the SQLSTATE and the driver's text."""
        args = [str(arg) for arg in error.args]
        state = args[0] if args and len(args[0]) == 5 else ""
        text = " ".join(args[1:] if state else args)
        numbers = re.findall(r"\((-?\d+)\) \(SQL", text)
        return cls(state=state, native=int(numbers[0]) if numbers else None, text=text)

    @property
    def code(self) -> str:
        """The codes to look up, as text for a message."""
        native = f", error {self.native}" if self.native not in (None, 0, 1) else ""
        return f"SQLSTATE {self.state or 'unknown'}{native}"


# SQL Server: lock timeout, deadlock, out of locks, something written that has changed since the snapshot, and
# the throttling and fail-over codes of Azure SQL.
_PASSING_NUMBERS = {
    1204,
    1205,
    1222,
    3960,
    3961,
    10928,
    10929,
    40143,
    40197,
    40501,
    40613,
    49918,
    49919,
    49920,
}
_LOST_NUMBERS = {64, 233, 10053, 10054, 10060, 40197}
_PASSING_STATES = {"40001", "40P01", "55P03", "53300", "HYT00", "HYT01", "S1T00", "57014"}
_LOST_STATES = {"08S01", "08003", "08006", "08007", "57P01", "57P02", "57P03", "25P03"}
_LOST_TEXTS = ("server closed the connection", "connection to the server", "no connection to the server")


def statement_error(error: BaseException) -> DatabaseError:
    """Translate what a statement ran into. The driver's text is not quoted: it may repeat a value."""
    fault = OdbcFault.of(error)
    lower = fault.text.casefold()
    if fault.state in _LOST_STATES or fault.native in _LOST_NUMBERS or any(t in lower for t in _LOST_TEXTS):
        return ConnectionLostError(
            f"The connection to the database was lost ({fault.code}).",
            hop="connection",
            remedy="Check the server and the network; the next run goes on where this one stopped.",
        )
    if fault.state in _PASSING_STATES or fault.native in _PASSING_NUMBERS:
        return TransientDatabaseError(
            f"The database was busy: a lock, a deadlock or a time limit ({fault.code}).",
            hop="statement",
            remedy="Check what else works on the staging table at this hour.",
        )
    for states, numbers, hop, message, remedy in _STATEMENT_RULES:
        if fault.state in states or fault.native in numbers:
            return DatabaseError(f"{message} ({fault.code}).", hop=hop, remedy=remedy)
    return DatabaseError(
        f"The database refused a statement ({fault.code}).",
        hop="statement",
        remedy="Run test-schema; if it passes, look the code up in the server's documentation.",
    )


_STATEMENT_RULES: tuple[tuple[set[str], set[int], str, str, str], ...] = (
    (
        {"42S02", "42P01", "3F000"},
        {208},
        "table",
        "A table that is needed does not exist, or this login cannot see it",
        "Check TABLE_NAME and its schema with test-schema; init-db creates what is missing.",
    ),
    (
        {"42S22", "42703"},
        {207},
        "column",
        "The staging table lacks a column that is needed",
        "Run test-schema: it names the column and the SQL that adds it.",
    ),
    (
        {"42501"},
        {229, 230, 262, 300},
        "permission",
        "This login has no permission for what the tool has to do",
        "Run test-schema: it names the permission and the GRANT statement.",
    ),
    (
        {"53100"},
        {1101, 1105, 9002},
        "space",
        "The database has no room left",
        "Ask the database administrator for space in the data or log file.",
    ),
    (
        {"25006"},
        {3906, 3908},
        "read-only",
        "The database is read-only",
        "Point DB_CONNECTION_STRING at the primary, writable database.",
    ),
)


def connection_error(error: BaseException, where: ConnectionString) -> DatabaseError:
    """Translate what opening a connection ran into; the hop is ``port`` where only the network can tell."""
    fault = OdbcFault.of(error)
    for rule in (_certificate, _login, _database, _driver):
        found = rule(fault, where)
        if found is not None:
            return found
    return ConnectionLostError(
        f"The database server '{where.get('server') or where.get('dsn')}' did not answer ({fault.code}).",
        hop="port",
        remedy="Check Server= in DB_CONNECTION_STRING, that the server is running, and the firewall between.",
    )


def _certificate(fault: OdbcFault, _where: ConnectionString) -> DatabaseError | None:
    lower = fault.text.casefold()
    if "certificate" in lower or "self-signed" in lower or "self signed" in lower:
        return DatabaseError(
            "The database server encrypts with a certificate that this machine does not trust.",
            hop="certificate",
            remedy="Ask for a certificate from the council's own authority (best), or, for a server on your "
            "own network, set DB_TRUST_SERVER_CERTIFICATE=true.",
        )
    if "encryption not supported" in lower or "ssl provider" in lower or "unsupported protocol" in lower:
        return DatabaseError(
            f"The driver and the database server could not agree on encryption ({fault.code}).",
            hop="certificate",
            remedy="Update the server to TLS 1.2; on a trusted network Encrypt=no is a way out.",
        )
    return None


def _login(fault: OdbcFault, where: ConnectionString) -> DatabaseError | None:
    lower = fault.text.casefold()
    refused = fault.native in {18452, 18456, 18486, 18487, 18488} or fault.state in {"28000", "28P01"}
    texts = ("authentication failed", "no pg_hba.conf entry", "no password supplied", "login failed")
    role_missing = 'role "' in lower and "does not exist" in lower
    if _names_database(fault) or not (refused or role_missing or any(text in lower for text in texts)):
        return None
    user = f" for user '{where.get('uid')}'" if where.get("uid") else ""
    return DatabaseError(
        f"The database server refused the login{user} ({fault.code}).",
        hop="login",
        remedy="Check UID and PWD in DB_CONNECTION_STRING; with Trusted_Connection=yes it is the account "
        "that runs the task that needs a login.",
    )


def _names_database(fault: OdbcFault) -> bool:
    lower = fault.text.casefold()
    postgres = 'database "' in lower and "does not exist" in lower
    return (
        fault.native in {911, 4060} or "cannot open database" in lower or fault.state == "3D000" or postgres
    )


def _database(fault: OdbcFault, where: ConnectionString) -> DatabaseError | None:
    if not _names_database(fault):
        return None
    return DatabaseError(
        f"The database '{where.get('database')}' does not exist on the server, or this login may not open it "
        f"({fault.code}).",
        hop="database",
        remedy="Check Database= in DB_CONNECTION_STRING and that the login is a user of that database.",
    )


def _driver(fault: OdbcFault, where: ConnectionString) -> DatabaseError | None:
    lower = fault.text.casefold()
    if fault.state not in {"IM002", "IM003", "IM004"} and "can't open lib" not in lower:
        return None
    name = where.get("driver") or where.get("dsn")
    return DatabaseError(
        f"The ODBC driver or data source '{name}' cannot be loaded ({fault.code}).",
        hop="driver",
        remedy=f"Install '{SQL_SERVER_DRIVERS[0]}' (64-bit), or correct Driver= in DB_CONNECTION_STRING.",
    )

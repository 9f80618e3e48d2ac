"""Every setting as one row of data (interface, "Settings").

The loader, ``.env.example``, the documentation and the hints for misspelt keys derive from this table, so
none of them can differ from what is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from api_pipeline import __version__
from api_pipeline import setting_values as read
from api_pipeline.setting_values import UNLIMITED, Secret


@dataclass(frozen=True)
class Setting:
    """One setting: its key, reader, default (as text), help line and group.

    ``required`` says for which half of a run it has no default; ``absent`` is the value when it is not set
    and has no default; ``example`` replaces the default in ``.env.example``.
    """

    group: str
    key: str
    read: Callable[[str], Any]
    default: str
    help: str
    absent: Any = None
    secret: bool = False
    required: Literal["", "database", "api"] = ""
    example: str | None = None

    @property
    def default_value(self) -> Any:
        """The value when nothing sets it."""
        return self.read(self.default) if self.default else self.absent


_DB, _API, _SAFETY, _SENDING = "Database", "API", "What is sent", "How it is sent"
_STAGE, _NETWORK, _LOG = "Building the staging table (stage)", "Network", "Log and files"
_NONE = Secret()

SETTINGS: tuple[Setting, ...] = (
    Setting(
        _DB,
        "DB_CONNECTION_STRING",
        read.connection_string,
        "",
        "ODBC connection string of the staging table's database, or sqlite:///path. Required.",
        absent=_NONE,
        secret=True,
        required="database",
        example=r"Server=SERVER\INSTANCE;Database=SSD;Trusted_Connection=yes",
    ),
    Setting(
        _DB,
        "DB_TRUST_SERVER_CERTIFICATE",
        read.flag,
        "false",
        "true: accept a database server whose certificate this machine cannot check (own network only).",
    ),
    Setting(
        _DB,
        "TABLE_NAME",
        read.table_name,
        "ssd_api_data_staging_anon",
        "Staging table: table or schema.table, plain or [bracketed]. _anon at its end: fake children.",
    ),
    Setting(
        _API,
        "API_ENDPOINT",
        read.web_address,
        "",
        "The API's base address, test or live, or the children endpoint's full address. Required to send.",
        absent="",
        required="api",
        example="https://pp-api.education.gov.uk/children-in-social-care-data-receiver-test/1",
    ),
    Setting(
        _API,
        "LA_CODE",
        read.la_code,
        "",
        "The local authority's 3 digits; not needed if API_ENDPOINT is the full address.",
        absent="",
        required="api",
        example="845",
    ),
    Setting(
        _API,
        "TOKEN_ENDPOINT",
        read.web_address,
        "",
        "Address that gives access tokens, from the DfE portal. Required to send.",
        absent="",
        required="api",
        example="https://login.microsoftonline.com/TENANT/oauth2/v2.0/token",
    ),
    Setting(
        _API,
        "CLIENT_ID",
        read.plain_text,
        "",
        "Client id from the DfE portal. Required to send.",
        absent="",
        required="api",
        example="your-client-id",
    ),
    Setting(
        _API,
        "CLIENT_SECRET",
        read.secret_text,
        "",
        "Client secret from the DfE portal, or keyring:SERVICE/USER. Required to send.",
        absent=_NONE,
        secret=True,
        required="api",
        example="'your-client-secret'",
    ),
    Setting(
        _API,
        "SCOPE",
        read.plain_text,
        "",
        "OAuth scope from the DfE portal. Required to send.",
        absent="",
        required="api",
        example="api://your-scope/.default",
    ),
    Setting(
        _API,
        "SUPPLIER_KEY",
        read.header_secret,
        "",
        "Supplier (subscription) key from the DfE portal, or keyring:SERVICE/USER. Required to send.",
        absent=_NONE,
        secret=True,
        required="api",
        example="'your-supplier-key'",
    ),
    Setting(
        _SAFETY,
        "TESTING_MODE",
        read.flag,
        "",
        "true: sending is simulated; false: live. Must be set unless the table ends in _anon.",
        absent=True,
        example="true",
    ),
    Setting(
        _SAFETY,
        "USE_PARTIAL_PAYLOAD",
        read.flag,
        "false",
        "true: send only what changed since the last acknowledged payload.",
    ),
    Setting(
        _SAFETY,
        "VALIDATION",
        read.one_of("block", "warn"),
        "block",
        "block: records with structural errors are not sent; warn: they are sent all the same.",
    ),
    Setting(
        _SAFETY,
        "MAX_DELETIONS_PERCENT",
        read.number(100, zero=True),
        "10",
        "Deletions of more than this share of the people are held back until --allow-deletions, 0 to 100.",
    ),
    Setting(
        _SENDING,
        "BATCH_SIZE",
        read.whole(1, 100),
        "100",
        "Records per request, 1 to 100.",
    ),
    Setting(
        _SENDING,
        "MAX_RETRIES",
        read.whole(1, UNLIMITED),
        "5",
        "Attempts per request, the first included.",
    ),
    Setting(
        _SENDING,
        "REQUEST_TIMEOUT",
        read.number(UNLIMITED, zero=False),
        "30",
        "Seconds to wait for the API's answer.",
    ),
    Setting(
        _SENDING,
        "MIN_REQUEST_GAP_MS",
        read.whole(0, UNLIMITED),
        "400",
        "Milliseconds between the starts of two requests.",
    ),
    Setting(
        _SENDING,
        "RUN_DEADLINE_MINUTES",
        read.number(UNLIMITED, zero=False),
        "240",
        "No new batch is begun after this many minutes.",
    ),
    Setting(
        _SENDING,
        "WORKERS",
        read.whole(1, 16),
        "1",
        "Requests in flight at the same time, 1 to 16.",
    ),
    Setting(
        _STAGE,
        "SSD_SCHEMA",
        read.bare_name,
        "",
        "Schema of the SSD tables, if it is not the default one, for example ssd_development.",
    ),
    Setting(
        _STAGE,
        "SSD_CONNECTION_STRING",
        read.connection_string,
        "",
        "Connection string of the SSD tables, if they are in another database than the staging table.",
        secret=True,
    ),
    Setting(
        _STAGE,
        "COHORT_TABLE",
        read.table_name,
        "",
        "Table with a column person_id that narrows the cohort.",
    ),
    Setting(
        _STAGE,
        "WINDOW_MONTHS",
        read.whole(1, 1200),
        "24",
        "How many months back the payloads look.",
    ),
    Setting(
        _STAGE,
        "WORKER_ID_COLUMN",
        read.bare_name,
        "",
        "Column of ssd_professionals for worker_id, if it is not the registration number.",
    ),
    Setting(
        _STAGE,
        "UASC_PATTERN",
        read.pattern,
        "",
        "Regular expression on the upper-case immigration status that marks an unaccompanied child.",
    ),
    Setting(
        _NETWORK,
        "HTTPS_PROXY",
        read.proxy_address,
        "",
        "Proxy, for example http://proxy:8080, if the machine does not reach the internet directly.",
        secret=True,
    ),
    Setting(
        _NETWORK,
        "NO_PROXY",
        read.plain_text,
        "",
        "Hosts that are reached without the proxy, separated by commas.",
    ),
    Setting(
        _NETWORK,
        "CA_BUNDLE",
        read.file_path,
        "",
        "PEM file of certificates to trust besides those of the system's certificate store.",
    ),
    Setting(
        _NETWORK,
        "USER_AGENT",
        read.header_text,
        f"csc-api-pipeline/{__version__}",
        "How the tool names itself to the API; by default csc-api-pipeline/VERSION.",
        example="",
    ),
    Setting(
        _LOG,
        "LOG_FILE",
        read.file_path,
        "",
        "Log file, rotated at 5 MB; without it there is only the console.",
    ),
    Setting(
        _LOG,
        "LOG_LEVEL",
        read.one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    ),
    Setting(
        _LOG,
        "DEBUG",
        read.flag,
        "false",
        "true means LOG_LEVEL=DEBUG.",
    ),
    Setting(
        _LOG,
        "SPOOL_DIR",
        read.file_path,
        "",
        "Folder for receipts that could not be written back; default: the log file's, or the current one.",
    ),
)

BY_KEY: dict[str, Setting] = {setting.key: setting for setting in SETTINGS}

# Keys of older deployments that stand in for DB_CONNECTION_STRING.
OLDER_KEYS = ("SQL_CONN_STR", "USER_SERVER", "USER_DATABASE")
SECRET_KEYS = frozenset({"SQL_CONN_STR", *(setting.key for setting in SETTINGS if setting.secret)})


def env_example() -> str:
    """Return the text of ``.env.example``: every setting, grouped, with its help line above it."""
    lines = [
        "# Copy this file to .env, take the # off the lines you need and fill them in.",
        "# Environment variables of the same names win over the file.",
        "# A value with a blank followed by # goes in single quotes; comments stand on lines of their own.",
    ]
    group = ""
    for setting in SETTINGS:
        if setting.group != group:
            group = setting.group
            lines += ["", f"# --- {group} ---"]
        placeholder = setting.default if setting.example is None else setting.example
        lines += [f"# {setting.help}", f"#{setting.key}={placeholder}"]
    return "\n".join(lines) + "\n"

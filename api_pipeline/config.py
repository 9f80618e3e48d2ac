"""The settings: environment and ``.env`` into one frozen object, once (interface, "Settings").

This is the only module that reads the environment. Everything else gets a :class:`Settings`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from api_pipeline.names import NamePart, TableName
from api_pipeline.setting_loader import CHILDREN_PATH, Loader, Needs, Sources
from api_pipeline.setting_table import SETTINGS, Setting
from api_pipeline.setting_values import SQLITE_PREFIX, Secret, odbc_fields, odbc_value

__all__ = ["SETTINGS", "Needs", "Secret", "Setting", "Settings", "load_settings"]

# In one table, so that the defaults below and the ones that users read are the same by construction.
_DEFAULT: Mapping[str, Any] = {setting.key: setting.default_value for setting in SETTINGS}


@dataclass(frozen=True)
class Settings:
    """Every setting of interface, "Settings", checked; the names are the keys in lower case.

    What is not needed and not set is empty: ``""``, ``Secret("")`` or ``None``. Paths are absolute when they
    come from :func:`load_settings`. Seconds and minutes are floats.
    """

    db_connection_string: Secret = _DEFAULT["DB_CONNECTION_STRING"]
    db_trust_server_certificate: bool = _DEFAULT["DB_TRUST_SERVER_CERTIFICATE"]
    table: TableName = _DEFAULT["TABLE_NAME"]
    api_endpoint: str = _DEFAULT["API_ENDPOINT"]
    la_code: str = _DEFAULT["LA_CODE"]
    token_endpoint: str = _DEFAULT["TOKEN_ENDPOINT"]
    client_id: str = _DEFAULT["CLIENT_ID"]
    client_secret: Secret = _DEFAULT["CLIENT_SECRET"]
    scope: str = _DEFAULT["SCOPE"]
    supplier_key: Secret = _DEFAULT["SUPPLIER_KEY"]
    testing_mode: bool = _DEFAULT["TESTING_MODE"]
    use_partial_payload: bool = _DEFAULT["USE_PARTIAL_PAYLOAD"]
    validation: Literal["block", "warn"] = _DEFAULT["VALIDATION"]
    max_deletions_percent: float = _DEFAULT["MAX_DELETIONS_PERCENT"]
    batch_size: int = _DEFAULT["BATCH_SIZE"]
    max_retries: int = _DEFAULT["MAX_RETRIES"]
    request_timeout: float = _DEFAULT["REQUEST_TIMEOUT"]
    min_request_gap_ms: int = _DEFAULT["MIN_REQUEST_GAP_MS"]
    run_deadline_minutes: float = _DEFAULT["RUN_DEADLINE_MINUTES"]
    workers: int = _DEFAULT["WORKERS"]
    ssd_schema: NamePart | None = _DEFAULT["SSD_SCHEMA"]
    ssd_connection_string: Secret | None = _DEFAULT["SSD_CONNECTION_STRING"]
    cohort_table: TableName | None = _DEFAULT["COHORT_TABLE"]
    window_months: int = _DEFAULT["WINDOW_MONTHS"]
    worker_id_column: NamePart | None = _DEFAULT["WORKER_ID_COLUMN"]
    uasc_pattern: str | None = _DEFAULT["UASC_PATTERN"]
    https_proxy: Secret | None = _DEFAULT["HTTPS_PROXY"]
    no_proxy: str | None = _DEFAULT["NO_PROXY"]
    ca_bundle: Path | None = _DEFAULT["CA_BUNDLE"]
    user_agent: str = _DEFAULT["USER_AGENT"]
    log_file: Path | None = _DEFAULT["LOG_FILE"]
    log_level: str = _DEFAULT["LOG_LEVEL"]
    spool_dir: Path = Path()
    source: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Setting key -> where its value came from: command line, environment, a file's path, or default."""
    warnings: tuple[str, ...] = ()
    """Unknown keys in the ``.env`` that look like misspelt settings; key names only."""

    @property
    def children_url(self) -> str:
        """The address that records are posted to (domain, section 1)."""
        if CHILDREN_PATH in self.api_endpoint:
            return self.api_endpoint
        return f"{self.api_endpoint.rstrip('/')}{CHILDREN_PATH}{self.la_code}/children"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that must not appear in a log: the secrets whole, and the passwords inside them."""
        texts = [self.client_secret.reveal(), self.supplier_key.reveal()]
        for connection in (self.db_connection_string, self.ssd_connection_string or Secret()):
            texts += _passwords_of_connection(connection.reveal())
        if self.https_proxy:
            parts = urlsplit(self.https_proxy.reveal())
            if parts.password:
                texts += [self.https_proxy.reveal(), parts.password, unquote(parts.password)]
        return tuple(dict.fromkeys(text for text in texts if text))


def _passwords_of_connection(text: str) -> list[str]:
    if not text or text.startswith(SQLITE_PREFIX):
        return []  # an SQLite path opens nothing for anybody else, and the log needs it
    passwords = [value for keyword, value in odbc_fields(text) if keyword.lower() in ("pwd", "password")]
    return [text, *passwords, *(odbc_value(password) for password in passwords)]


def load_settings(
    *,
    needs: Needs,
    env_file: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    executable_dir: Path | None = None,
) -> Settings:
    """Read and check all settings: ``overrides`` (command-line flags), then the environment, then the file.

    The file is ``env_file``, which must exist, or else ``.env`` in ``cwd``, or else ``.env`` beside the
    executable. Relative paths count from ``cwd``; those in the ``.env`` beside the executable from its
    folder, because a scheduled task may run anywhere.

    Raises:
        ConfigError: one message with every fault: key, where it was looked for, what to do; never a value.
    """
    if executable_dir is None and getattr(sys, "frozen", False):
        executable_dir = Path(sys.executable).parent
    folder = Path.cwd() if cwd is None else cwd.absolute()
    values = os.environ if environ is None else environ
    sources = Sources(overrides or {}, values, cwd=folder, env_file=env_file, executable_dir=executable_dir)
    loader = Loader(sources, needs)
    fields = loader.load()
    return Settings(**fields, source=loader.origins, warnings=loader.warnings)

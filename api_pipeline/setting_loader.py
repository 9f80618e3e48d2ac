"""Finds every setting, reads it, and checks what must hold between settings (interface, "Settings").

Faults are collected, not raised one by one: whoever sets the tool up sees everything that is to be mended
at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from api_pipeline.envfile import EnvFile, read_env_file
from api_pipeline.errors import ConfigError
from api_pipeline.names import TableName
from api_pipeline.setting_table import BY_KEY, OLDER_KEYS, SECRET_KEYS, SETTINGS, Setting
from api_pipeline.setting_values import SQLITE_PREFIX, InvalidValue, Secret, is_loopback, odbc_value

CHILDREN_PATH = "/children_social_care_data/"
_TEST_RECEIVER = "-receiver-test"
_KEYRING = "keyring:"
_COMMAND_LINE, _ENVIRONMENT, _DEFAULT = "command line", "environment", "default"
# Unix tools write these in lower case; requests would read them so.
_LOWER_CASE_TOO = frozenset({"HTTPS_PROXY", "NO_PROXY"})


class Needs(Flag):
    """What a command cannot do without.

    ``RUN`` is the database, and the API settings unless in testing mode; ``API`` asks for them even then.
    """

    NONE = 0
    DATABASE = auto()
    API = auto()
    RUN = auto()


@dataclass(frozen=True)
class _Found:
    """The text of one setting and where it stood; ``place`` names the line too."""

    text: str = field(repr=False)
    origin: str
    place: str
    base: Path


class Sources:
    """The places a setting is looked for, in their order."""

    def __init__(
        self,
        overrides: Mapping[str, str],
        environ: Mapping[str, str],
        *,
        cwd: Path,
        env_file: Path | None,
        executable_dir: Path | None,
    ) -> None:
        unknown = set(overrides) - set(BY_KEY)
        if unknown:
            raise KeyError(f"not a setting: {', '.join(sorted(unknown))}")
        self._overrides = overrides
        self._environ = environ
        self.cwd = cwd
        self._file_base = cwd
        self.file: EnvFile | None = None
        self._looked_in = [cwd / ".env"]
        if env_file is not None:
            self._looked_in = [cwd / env_file]
            if not _exists(cwd / env_file):
                raise ConfigError(
                    f"The settings file {cwd / env_file} given with --env-file does not exist.",
                    hop="settings",
                    remedy="Check the path.",
                )
            self.file = read_env_file(cwd / env_file, secret_keys=SECRET_KEYS)
            return
        if executable_dir is not None and executable_dir.absolute() != cwd:
            self._looked_in.append(executable_dir.absolute() / ".env")
        for path in self._looked_in:
            if _is_file(path):
                self.file = read_env_file(path, secret_keys=SECRET_KEYS)
                self._file_base = path.parent
                return

    @property
    def searched(self) -> str:
        """Where a missing setting was looked for."""
        if self.file is not None:
            return f"the environment and {self.file.path}"
        return f"the environment; there is no {' and no '.join(str(path) for path in self._looked_in)}"

    @property
    def misnamed_file(self) -> Path | None:
        """Notepad's ``.env.txt`` where a ``.env`` was looked for."""
        if self.file is not None:
            return None
        names = (path.with_name(".env.txt") for path in self._looked_in)
        return next((path for path in names if _is_file(path)), None)

    def find(self, key: str) -> _Found | None:
        """Return what is set for ``key``; an empty text counts as not set, except on the command line."""
        if key in self._overrides:
            return _Found(self._overrides[key], _COMMAND_LINE, "on the command line", self.cwd)
        for name in (key, key.lower()) if key in _LOWER_CASE_TOO else (key,):
            if self._environ.get(name, "").strip():
                return _Found(self._environ[name], _ENVIRONMENT, "in the environment", self.cwd)
        if self.file is not None and key in self.file.values:
            place = f"in {self.file.path}, line {self.file.lines[key]}"
            return _Found(self.file.values[key], str(self.file.path), place, self._file_base)
        return None


@dataclass(frozen=True)
class _Fault:
    """One thing to mend: ``KEY problem (where). remedy``."""

    key: str
    problem: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key} {self.problem} ({self.where}). {self.remedy}"


class Loader:
    """Reads every setting, collects the faults, and checks what must hold between settings."""

    def __init__(self, sources: Sources, needs: Needs) -> None:
        self.origins: dict[str, str] = {}
        self.warnings: tuple[str, ...] = ()
        self._sources = sources
        self._needs = needs
        self._values: dict[str, Any] = {}
        self._found: dict[str, _Found] = {}
        self._bad: set[str] = set()
        self._faults: list[_Fault] = []

    def load(self) -> dict[str, Any]:
        """Return the fields of ``config.Settings`` but ``source`` and ``warnings``.

        Raises:
            ConfigError: one message with every fault.
        """
        for setting in SETTINGS:
            found = self._sources.find(setting.key)
            if found is None and setting.key == "DB_CONNECTION_STRING":
                found = self._older_connection()
            self._values[setting.key] = setting.default_value
            if found is not None:
                self._found[setting.key] = found
                self._read(setting, found)
        self._settle_testing_mode()
        self._resolve_keyring()
        self._settle_la_code()
        self._check_required()
        self._settle_paths_and_level()
        self._faults += _unsafe_combinations(self._usable(), self._place)
        self.warnings = self._misspelt()
        if self._faults:
            error = self._error()
            error.log_file = self._values["LOG_FILE"]
            raise error
        self.origins = {key: self._found[key].origin if key in self._found else _DEFAULT for key in BY_KEY}
        fields = {key.lower(): value for key, value in self._values.items() if key != "DEBUG"}
        fields["table"] = fields.pop("table_name")
        return fields

    def _fault(self, key: str, problem: str, remedy: str, where: str | None = None) -> None:
        self._bad.add(key)
        self._faults.append(_Fault(key, problem, where or self._place(key), remedy))

    def _place(self, key: str) -> str:
        found = self._found.get(key)
        return f"set {found.place}" if found is not None else "by default"

    def _usable(self) -> dict[str, Any]:
        """The values that were read without a fault; the rest cannot be compared with anything."""
        return {key: value for key, value in self._values.items() if key not in self._bad}

    def _read(self, setting: Setting, found: _Found) -> None:
        if setting.key in ("CLIENT_SECRET", "SUPPLIER_KEY") and found.text.startswith(_KEYRING):
            return  # read later, and only if it is needed
        try:
            if not found.text.strip():
                raise InvalidValue("is empty")
            self._values[setting.key] = setting.read(found.text)
        except InvalidValue as err:
            self._fault(setting.key, str(err), "Correct it there.")

    def _older_connection(self) -> _Found | None:
        """Look for the keys of older deployments; the driver is chosen when connecting."""
        whole = self._sources.find("SQL_CONN_STR")
        if whole is not None:
            return whole
        server, database = self._sources.find("USER_SERVER"), self._sources.find("USER_DATABASE")
        if server is None or database is None:
            return None
        fields = [
            f"Server={odbc_value(server.text.strip())}",
            f"Database={odbc_value(database.text.strip())}",
            "Trusted_Connection=yes",
        ]
        return _Found(";".join(fields), server.origin, f"as USER_SERVER {server.place}", server.base)

    def _settle_testing_mode(self) -> None:
        """Testing mode is the default with fake children only (interface, "Settings")."""
        if "TESTING_MODE" in self._found or "TABLE_NAME" in self._bad or not self._needs:
            return
        if not self._values["TABLE_NAME"].is_anon:
            self._fault(
                "TESTING_MODE",
                "is not set, and the table does not end in _anon",
                "Set TESTING_MODE=true to try, or TESTING_MODE=false to send this table's children.",
                f"looked in {self._sources.searched}; TABLE_NAME {self._place('TABLE_NAME')}",
            )

    @property
    def _needs_api(self) -> bool:
        live = "TESTING_MODE" not in self._bad and not self._values["TESTING_MODE"]
        return Needs.API in self._needs or (Needs.RUN in self._needs and live)

    def _resolve_keyring(self) -> None:
        for key in ("CLIENT_SECRET", "SUPPLIER_KEY"):
            found = self._found.get(key)
            if found is None or not found.text.startswith(_KEYRING):
                continue
            if not self._needs_api:
                continue  # an unattended status or validate must not depend on a keyring
            try:
                self._values[key] = BY_KEY[key].read(_from_keyring(found.text[len(_KEYRING) :]))
            except InvalidValue as err:
                self._fault(key, str(err), "The keyring belongs to the account that runs the tool.")

    def _settle_la_code(self) -> None:
        """Take the LA code from a full API_ENDPOINT, and refuse two that differ."""
        if self._bad & {"API_ENDPOINT", "LA_CODE"}:
            return
        match = re.search(CHILDREN_PATH + r"([0-9]{3})(?:/|$)", self._values["API_ENDPOINT"])
        if match is None:
            return
        if self._values["LA_CODE"] and self._values["LA_CODE"] != match.group(1):
            where = f"{self._place('LA_CODE')}; API_ENDPOINT {self._place('API_ENDPOINT')}"
            self._fault("LA_CODE", "is another one than in API_ENDPOINT", "Correct one of them.", where)
        elif not self._values["LA_CODE"]:
            self._values["LA_CODE"] = match.group(1)
            self._found["LA_CODE"] = self._found["API_ENDPOINT"]

    def _check_required(self) -> None:
        wanted = {"api"} if self._needs_api else set()
        if self._needs & (Needs.DATABASE | Needs.RUN):
            wanted.add("database")
        full_address = CHILDREN_PATH in self._values["API_ENDPOINT"]
        for setting in SETTINGS:
            missing = setting.required in wanted and setting.key not in self._found
            if missing and not (setting.key == "LA_CODE" and full_address):
                self._fault(
                    setting.key,
                    "is not set",
                    f"Add {setting.key}=... to .env or to the environment.",
                    f"looked in {self._sources.searched}",
                )

    def _settle_paths_and_level(self) -> None:
        values = self._values
        for key in ("CA_BUNDLE", "LOG_FILE", "SPOOL_DIR"):
            if values[key] is not None:
                values[key] = Path(os.path.normpath(self._found[key].base / values[key]))
        for key in ("DB_CONNECTION_STRING", "SSD_CONNECTION_STRING"):
            if key in self._found and self._found[key].base != self._sources.cwd:
                values[key] = _sqlite_file_in(self._found[key].base, values[key])
        if values["CA_BUNDLE"] is not None and not _exists(values["CA_BUNDLE"]):
            self._fault("CA_BUNDLE", "names a file that does not exist", "Correct the path.")
        if values["SPOOL_DIR"] is None:
            log_file: Path | None = values["LOG_FILE"]
            values["SPOOL_DIR"] = self._sources.cwd if log_file is None else log_file.parent
        level = self._found.get("LOG_LEVEL")
        if values["DEBUG"] is True and (level is None or level.origin != _COMMAND_LINE):
            values["LOG_LEVEL"] = "DEBUG"
            self._found["LOG_LEVEL"] = self._found["DEBUG"]

    def _misspelt(self) -> tuple[str, ...]:
        """Name the unknown keys of the file that look like settings; others may belong to other programs."""
        file = self._sources.file
        known = [*BY_KEY, *OLDER_KEYS]
        warnings = []
        for key in file.values if file is not None else ():
            close = [] if key in known else difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.8)
            if file is not None and close:
                place = f"{file.path}, line {file.lines[key]}"
                warnings.append(f"Unknown setting {key} in {place}: is {close[0]} meant?")
        if self._sources.misnamed_file is not None:
            warnings.append(
                f"{self._sources.misnamed_file} is not read: its name must be .env, without .txt."
            )
        return tuple(warnings)

    def _error(self) -> ConfigError:
        faults = self._faults
        if len(faults) == 1 and not self.warnings:
            return ConfigError(f"The settings have 1 fault: {faults[0]}", hop="settings")
        keys = ", ".join(dict.fromkeys(fault.key for fault in faults))
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = [f"The settings have {count}: {keys}."]
        lines += [f"  {fault}" for fault in faults]
        lines += [f"  {warning}" for warning in self.warnings]
        return ConfigError("\n".join(lines), hop="settings")


def _unsafe_combinations(values: Mapping[str, Any], place: Callable[[str], str]) -> list[_Fault]:
    """Find what must never be combined, in testing mode too (interface, "Settings", last paragraph)."""
    faults = []
    table: TableName | None = values.get("TABLE_NAME")
    endpoint: str = values.get("API_ENDPOINT", "")
    if table is not None and endpoint:
        for_tests = _TEST_RECEIVER in unquote(urlsplit(endpoint).path).lower()
        where = f"TABLE_NAME {place('TABLE_NAME')}; API_ENDPOINT {place('API_ENDPOINT')}"
        if for_tests and not table.is_anon:
            faults.append(
                _Fault(
                    "TABLE_NAME",
                    "is a real table, but API_ENDPOINT is a test receiver: real children must not go there",
                    where,
                    "Use a table of fake children, or the live receiver.",
                )
            )
        if table.is_anon and not for_tests and not is_loopback(endpoint):
            faults.append(
                _Fault(
                    "TABLE_NAME",
                    "ends in _anon, but API_ENDPOINT is not a test receiver: fake children must not go there",
                    where,
                    f"Use the test receiver, whose address contains {_TEST_RECEIVER}, or the real table.",
                )
            )
    for key in ("API_ENDPOINT", "TOKEN_ENDPOINT"):
        address: str = values.get(key, "")
        if urlsplit(address).scheme == "http" and not is_loopback(address):
            faults.append(_Fault(key, "is not encrypted", place(key), "Write https:// instead of http://."))
    return faults


def _from_keyring(reference: str) -> str:
    """Read ``SERVICE/USER`` from the system's keyring; raise InvalidValue if there is nothing to be had."""
    service, _, user = reference.strip().rpartition("/")
    if not service or not user:
        raise InvalidValue("must be keyring:SERVICE/USER")
    try:
        import keyring  # optional, and slow to import
    except ImportError:
        raise InvalidValue(
            "names the keyring, but the package keyring is not installed (pip install keyring)"
        ) from None
    try:
        text = keyring.get_password(service, user)
    except Exception as err:  # noqa: BLE001 - backends raise their own kinds, not only KeyringError
        raise InvalidValue(f"names the keyring, which cannot be read ({type(err).__name__})") from None
    if not text:
        raise InvalidValue("names an entry that the keyring does not have")
    return text


def _sqlite_file_in(folder: Path, connection: Secret) -> Secret:
    """Let the relative path of an SQLite file count from ``folder``; every other string stays as it is."""
    text = connection.reveal()
    if not text.startswith(SQLITE_PREFIX):
        return connection
    return Secret(f"{SQLITE_PREFIX}{folder / text[len(SQLITE_PREFIX) :]}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder above it that may not be searched
        return False


def _is_file(path: Path) -> bool:
    return _exists(path) and path.is_file()

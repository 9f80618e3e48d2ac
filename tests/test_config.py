"""The settings: where they come from, what is refused, and that no message holds a value (interface)."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import __version__
from api_pipeline.config import SETTINGS, Needs, Secret, Settings, load_settings
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.names import TableName
from api_pipeline.setting_table import OLDER_KEYS, env_example
from api_pipeline.setting_values import is_loopback, odbc_fields, odbc_value

ROOT = Path(__file__).resolve().parent.parent
TEST_BASE = "https://pp-api.education.gov.uk/children-in-social-care-data-receiver-test/1"
LIVE_BASE = "https://pp-api.education.gov.uk/children-in-social-care-data-receiver/1"
MARK = "hunter2"

DATABASE = {"DB_CONNECTION_STRING": f"Server=HOST\\SSD;Database=D;UID=u;PWD={{{MARK};db}}"}
API = {
    "API_ENDPOINT": TEST_BASE,
    "LA_CODE": "845",
    "TOKEN_ENDPOINT": "https://login.example.org/token",
    "CLIENT_ID": "client",
    "CLIENT_SECRET": f"{MARK}-secret",
    "SCOPE": "api://x/.default",
    "SUPPLIER_KEY": f"{MARK}-supplier",
}
FULL = {**DATABASE, **API}
LIVE = {**FULL, "TABLE_NAME": "dbo.children", "API_ENDPOINT": LIVE_BASE, "TESTING_MODE": "false"}
ANON_LIVE = {**FULL, "TESTING_MODE": "false"}


def load(environ: Mapping[str, str], needs: Needs = Needs.RUN, **where: Any) -> Settings:
    """Load from these variables alone."""
    return load_settings(needs=needs, environ=environ, **where)


def refusal(environ: Mapping[str, str], needs: Needs = Needs.RUN, **where: Any) -> str:
    """Return the message of the refusal, checked for what holds for all of them."""
    with pytest.raises(ConfigError) as caught:
        load(environ, needs, **where)
    error = caught.value
    assert error.exit_code is ExitCode.USAGE
    everything = str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert MARK not in everything
    assert " fault" in str(error).splitlines()[0]
    assert str(error).isascii()
    return str(error)


def without(*keys: str) -> dict[str, str]:
    """Return the complete settings but for these."""
    return {key: value for key, value in ANON_LIVE.items() if key not in keys}


# --- what is read --------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_interface(tmp_path: Path) -> None:
    """With nothing but a connection string, every setting has the documented default."""
    settings = load(DATABASE, cwd=tmp_path)
    got = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    del got["source"], got["db_connection_string"]
    assert got == {
        "db_trust_server_certificate": False,
        "table": TableName.parse("ssd_api_data_staging_anon"),
        "api_endpoint": "",
        "la_code": "",
        "token_endpoint": "",
        "client_id": "",
        "client_secret": Secret(),
        "scope": "",
        "supplier_key": Secret(),
        "testing_mode": True,
        "use_partial_payload": False,
        "validation": "block",
        "max_deletions_percent": 10.0,
        "batch_size": 100,
        "max_retries": 5,
        "request_timeout": 30.0,
        "min_request_gap_ms": 400,
        "run_deadline_minutes": 240.0,
        "workers": 1,
        "ssd_schema": None,
        "ssd_connection_string": None,
        "cohort_table": None,
        "window_months": 24,
        "worker_id_column": None,
        "uasc_pattern": None,
        "https_proxy": None,
        "no_proxy": None,
        "ca_bundle": None,
        "user_agent": f"csc-api-pipeline/{__version__}",
        "log_file": None,
        "log_level": "INFO",
        "spool_dir": tmp_path,
        "warnings": (),
    }


def test_the_fields_of_settings_default_as_the_loader_does(tmp_path: Path) -> None:
    """Settings() built by hand differs from loaded ones in what was set only."""
    loaded = load(DATABASE, cwd=tmp_path)
    built = Settings(db_connection_string=loaded.db_connection_string, spool_dir=tmp_path)
    assert built == loaded


def test_every_setting_arrives_typed(tmp_path: Path) -> None:
    """Each key reaches its field, read as its type, from the environment alone."""
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    settings = load(
        {
            **LIVE,
            "DB_TRUST_SERVER_CERTIFICATE": "Yes",
            "USE_PARTIAL_PAYLOAD": "on",
            "VALIDATION": "WARN",
            "MAX_DELETIONS_PERCENT": "2.5",
            "BATCH_SIZE": " 7 ",
            "MAX_RETRIES": "1",
            "REQUEST_TIMEOUT": "0.5",
            "MIN_REQUEST_GAP_MS": "0",
            "RUN_DEADLINE_MINUTES": "1.5",
            "WORKERS": "16",
            "SSD_SCHEMA": "ssd_development",
            "SSD_CONNECTION_STRING": "sqlite:///ssd.db",
            "COHORT_TABLE": "dbo.cohort",
            "WINDOW_MONTHS": "1",
            "WORKER_ID_COLUMN": "[prof id]",
            "UASC_PATTERN": "^U",
            "HTTPS_PROXY": "proxy:8080",
            "NO_PROXY": "localhost,.lan",
            "CA_BUNDLE": "ca.pem",
            "USER_AGENT": "me/1",
            "LOG_FILE": "logs/run.log",
            "LOG_LEVEL": "warning",
        },
        cwd=tmp_path,
    )
    assert settings.db_trust_server_certificate is True
    assert settings.use_partial_payload is True
    assert settings.validation == "warn"
    assert (settings.max_deletions_percent, settings.batch_size, settings.max_retries) == (2.5, 7, 1)
    assert (settings.request_timeout, settings.min_request_gap_ms) == (0.5, 0)
    assert (settings.run_deadline_minutes, settings.workers, settings.window_months) == (1.5, 16, 1)
    assert settings.ssd_schema is not None
    assert settings.ssd_schema.text == "ssd_development"
    assert settings.ssd_connection_string == Secret("sqlite:///ssd.db")
    assert str(settings.cohort_table) == "dbo.cohort"
    assert settings.worker_id_column is not None
    assert settings.worker_id_column.text == "prof id"
    assert settings.uasc_pattern == "^U"
    assert settings.https_proxy == Secret("http://proxy:8080")
    assert settings.no_proxy == "localhost,.lan"
    assert settings.ca_bundle == bundle
    assert settings.user_agent == "me/1"
    assert settings.log_file == tmp_path / "logs" / "run.log"
    assert settings.spool_dir == tmp_path / "logs"
    assert settings.log_level == "WARNING"
    assert settings.testing_mode is False
    assert settings.supplier_key.reveal() == API["SUPPLIER_KEY"]
    assert settings.client_secret.reveal() == API["CLIENT_SECRET"]


@pytest.mark.parametrize("word", ["true", "TRUE", "yes", "Yes", "1", "on", "ON"])
def test_true_in_every_spelling(word: str) -> None:
    """The usual words for yes are understood in any letter case."""
    assert load({**DATABASE, "USE_PARTIAL_PAYLOAD": word}).use_partial_payload is True


@pytest.mark.parametrize("word", ["false", "FALSE", "no", "0", "off", "Off"])
def test_false_in_every_spelling(word: str) -> None:
    """The usual words for no are understood in any letter case."""
    assert load({**LIVE, "TESTING_MODE": word}).testing_mode is False


def test_debug_means_the_debug_level_unless_a_flag_says_otherwise() -> None:
    """DEBUG=true wins over LOG_LEVEL in environment and file, and loses to --log-level."""
    environ = {**DATABASE, "DEBUG": "true", "LOG_LEVEL": "ERROR"}
    assert load(environ).log_level == "DEBUG"
    assert load(environ, overrides={"LOG_LEVEL": "WARNING"}).log_level == "WARNING"


# --- where it is read from -----------------------------------------------------------------------------


def write(path: Path, **values: str) -> Path:
    """Write a .env."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}='{value}'\n" for key, value in values.items()), encoding="utf-8")
    return path


def test_flags_then_environment_then_file(tmp_path: Path) -> None:
    """The nearest source wins, key by key, an empty variable is none, and the origin of each is told."""
    file = write(tmp_path / ".env", BATCH_SIZE="1", WORKERS="2", MAX_RETRIES="3", **DATABASE)
    environ = {"BATCH_SIZE": "10", "WORKERS": "11", "MAX_RETRIES": ""}
    settings = load(environ, overrides={"BATCH_SIZE": "50"}, cwd=tmp_path)
    assert (settings.batch_size, settings.workers, settings.max_retries) == (50, 11, 3)
    origins = {key: settings.source[key] for key in ("BATCH_SIZE", "WORKERS", "MAX_RETRIES", "SCOPE")}
    assert list(origins.values()) == ["command line", "environment", str(file), "default"]
    assert MARK not in str(settings.source)


def test_the_file_in_the_current_folder_hides_the_one_beside_the_executable(tmp_path: Path) -> None:
    """Only the first file found is read; without one here, the one beside the executable is."""
    here, exe = tmp_path / "here", tmp_path / "exe"
    write(exe / ".env", BATCH_SIZE="2", WORKERS="2")
    here.mkdir()
    assert load(DATABASE, cwd=here, executable_dir=exe).batch_size == 2
    write(here / ".env", BATCH_SIZE="3")
    settings = load(DATABASE, cwd=here, executable_dir=exe)
    assert (settings.batch_size, settings.workers) == (3, 1)


def test_a_frozen_program_looks_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executable of PyInstaller finds the .env in its own folder, wherever it was started."""
    write(tmp_path / "exe" / ".env", BATCH_SIZE="2")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "exe" / "csc_api_pipeline.exe"))
    assert load(DATABASE, cwd=tmp_path).batch_size == 2


def test_relative_paths_count_from_the_current_folder_or_the_executables(tmp_path: Path) -> None:
    """A path in the .env beside the executable counts from there; all others from the current folder."""
    here, exe = tmp_path / "here", tmp_path / "exe"
    here.mkdir()
    write(exe / ".env", LOG_FILE="run.log")
    settings = load({**DATABASE, "SPOOL_DIR": "spool"}, cwd=here, executable_dir=exe)
    assert (settings.log_file, settings.spool_dir) == (exe / "run.log", here / "spool")
    settings = load(DATABASE, cwd=here, env_file=exe / ".env")
    assert settings.log_file == here / "run.log"
    write(exe / ".env", DB_CONNECTION_STRING="sqlite:///a.db", SSD_CONNECTION_STRING="Server=S;Database=D")
    settings = load({}, cwd=here, executable_dir=exe)
    assert settings.db_connection_string.reveal() == f"sqlite:///{exe / 'a.db'}"
    assert settings.ssd_connection_string == Secret("Server=S;Database=D")


def test_env_file_replaces_the_search(tmp_path: Path) -> None:
    """With --env-file no other file is read, and one that does not exist is refused by name."""
    write(tmp_path / ".env", BATCH_SIZE="2", **DATABASE)
    other = write(tmp_path / "other.env", WORKERS="4", **DATABASE)
    settings = load({}, cwd=tmp_path, env_file=Path("other.env"))
    assert (settings.batch_size, settings.workers) == (100, 4)
    assert settings.source["WORKERS"] == str(other)
    with pytest.raises(ConfigError, match="--env-file does not exist") as caught:
        load({}, cwd=tmp_path, env_file=Path("absent.env"))
    assert str(tmp_path / "absent.env") in str(caught.value)


def test_the_real_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environ argument the process's own variables count."""
    monkeypatch.setenv("DB_CONNECTION_STRING", "sqlite:///x.db")
    assert load_settings(needs=Needs.RUN).db_connection_string.reveal() == "sqlite:///x.db"


def test_a_proxy_in_lower_case_counts_too() -> None:
    """https_proxy and no_proxy, as Unix tools write them, are read from the environment."""
    settings = load({**DATABASE, "https_proxy": "http://p:1", "no_proxy": "a"})
    assert (settings.https_proxy, settings.no_proxy) == (Secret("http://p:1"), "a")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SQL_CONN_STR": "Server=a;Database=b"}, "Server=a;Database=b"),
        (
            {"USER_SERVER": "HOST\\SSD,1433", "USER_DATABASE": "My DB"},
            "Server=HOST\\SSD,1433;Database=My DB;Trusted_Connection=yes",
        ),
        (
            {"USER_SERVER": "HOST", "USER_DATABASE": "a;b}c"},
            "Server=HOST;Database={a;b}}c};Trusted_Connection=yes",
        ),
        (
            {"DB_CONNECTION_STRING": "sqlite:///new", "SQL_CONN_STR": "Server=old", "USER_SERVER": "x"},
            "sqlite:///new",
        ),
    ],
)
def test_older_keys_stand_in(environ: dict[str, str], expected: str) -> None:
    """Older deployments' keys are accepted, braced where needed, and lose to the new one."""
    assert load(environ).db_connection_string.reveal() == expected


# --- what is refused -----------------------------------------------------------------------------------

BAD_VALUES = [
    ("TABLE_NAME", f"a.b.c;{MARK}"),
    ("API_ENDPOINT", f"ftp://{MARK}"),
    ("API_ENDPOINT", f"https://{MARK}:99999/x"),
    ("API_ENDPOINT", f"https://user:{MARK}@host/x"),
    ("API_ENDPOINT", f"https://host/{MARK} x"),
    ("API_ENDPOINT", f"https://host\\{MARK}/x"),
    ("API_ENDPOINT", f"https://host/x#{MARK}"),
    ("API_ENDPOINT", MARK),
    ("TOKEN_ENDPOINT", f"https:///{MARK}"),
    ("LA_CODE", f"84{MARK}"),
    ("LA_CODE", "84"),
    ("LA_CODE", "8455"),
    ("LA_CODE", "\u0668\u0664\u0665"),
    ("SUPPLIER_KEY", f"{MARK}\r\nX: y"),
    ("SUPPLIER_KEY", f"{MARK}\u00a3"),
    ("CLIENT_SECRET", f"{MARK}\n"),
    ("TESTING_MODE", MARK),
    ("USE_PARTIAL_PAYLOAD", MARK),
    ("DB_TRUST_SERVER_CERTIFICATE", MARK),
    ("DEBUG", MARK),
    ("VALIDATION", MARK),
    ("LOG_LEVEL", MARK),
    ("BATCH_SIZE", "0"),
    ("BATCH_SIZE", "101"),
    ("BATCH_SIZE", MARK),
    ("BATCH_SIZE", "1_0"),
    ("MAX_RETRIES", "0"),
    ("REQUEST_TIMEOUT", "0"),
    ("REQUEST_TIMEOUT", "nan"),
    ("REQUEST_TIMEOUT", "-1"),
    ("MIN_REQUEST_GAP_MS", "-1"),
    ("MAX_DELETIONS_PERCENT", "100.1"),
    ("MAX_DELETIONS_PERCENT", f"{MARK}%"),
    ("RUN_DEADLINE_MINUTES", "0"),
    ("WORKERS", "0"),
    ("WORKERS", "17"),
    ("WINDOW_MONTHS", "0"),
    ("UASC_PATTERN", f"({MARK}"),
    ("COHORT_TABLE", f"a b {MARK}"),
    ("SSD_SCHEMA", "a.b"),
    ("WORKER_ID_COLUMN", f"{MARK};"),
    ("DB_CONNECTION_STRING", MARK),
    ("DB_CONNECTION_STRING", f"Server=a;PWD={{{MARK};x"),
    ("DB_CONNECTION_STRING", f"postgresql://u:{MARK}@host/db?a=b"),
    ("DB_CONNECTION_STRING", f"sqlite:{MARK}"),
    ("SSD_CONNECTION_STRING", "sqlite:///"),
    ("HTTPS_PROXY", f"http://u:{MARK}#@proxy:80"),
    ("HTTPS_PROXY", f"socks5://{MARK}"),
    ("CA_BUNDLE", MARK),
    ("USER_AGENT", f"{MARK}\u00e9"),
    ("CLIENT_SECRET", f"keyring:{MARK}"),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_without_showing_it(key: str, value: str) -> None:
    """The one fault names the key and its place, and the value appears nowhere."""
    message = refusal({**ANON_LIVE, key: value})
    assert message.startswith(f"The settings have 1 fault: {key} ")
    assert "in the environment" in message
    assert len(message.splitlines()) == 1
    if value[0] not in "0123456789-" and value != "sqlite:///":
        assert value not in message


@pytest.mark.parametrize("key", ["DB_CONNECTION_STRING", *API])
def test_a_missing_setting_is_named_with_the_places_searched(key: str, tmp_path: Path) -> None:
    """Each required setting that is missing says where it was looked for and what to do."""
    message = refusal(without(key), cwd=tmp_path, executable_dir=tmp_path / "exe")
    assert message.startswith(f"The settings have 1 fault: {key} is not set ")
    assert str(tmp_path / ".env") in message
    assert str(tmp_path / "exe" / ".env") in message
    assert f"Add {key}=" in message


def test_all_faults_come_in_one_message(tmp_path: Path) -> None:
    """The first line counts and names all faults; each has a line with its key, place and remedy."""
    file = tmp_path / ".env"
    file.write_text(f"BATCH_SIZE=0\n# x\nSUPPLIER_KEY={MARK}\u00a3\n", encoding="utf-8")
    lines = refusal({**without("LA_CODE", "SUPPLIER_KEY"), "WORKERS": "x"}, cwd=tmp_path).splitlines()
    assert lines[0].startswith("The settings have 4 faults: ")
    assert all(key in lines[0] for key in ("BATCH_SIZE", "SUPPLIER_KEY", "LA_CODE", "WORKERS"))
    assert len(lines) == 5
    assert any("BATCH_SIZE" in line and f"{file}, line 1" in line for line in lines[1:])
    assert any("SUPPLIER_KEY" in line and f"{file}, line 3" in line for line in lines[1:])


def test_an_empty_flag_is_a_fault_and_not_a_default() -> None:
    """--table "" is a mistake that must not end in another table."""
    assert "TABLE_NAME is empty (set on the command line)" in refusal(
        {**DATABASE, "TABLE_NAME": "other_anon"}, overrides={"TABLE_NAME": ""}
    )


UNSAFE = [
    ("real table, test receiver", {"TABLE_NAME": "dbo.children"}, "TABLE_NAME"),
    (
        "real table, test receiver in other letters",
        {"TABLE_NAME": "children", "API_ENDPOINT": TEST_BASE.upper().replace("HTTPS", "https")},
        "TABLE_NAME",
    ),
    (
        "real table, test receiver on loopback",
        {"TABLE_NAME": "x", "API_ENDPOINT": "http://127.0.0.1:1/a-receiver-test/1"},
        "TABLE_NAME",
    ),
    (
        "real table, test receiver percent-encoded",
        {"TABLE_NAME": "x", "API_ENDPOINT": "https://h/a%2Dreceiver-test"},
        "TABLE_NAME",
    ),
    ("fake table, live receiver", {"API_ENDPOINT": LIVE_BASE}, "TABLE_NAME"),
    (
        "fake table in other letters, live receiver",
        {"TABLE_NAME": "S.[T_ANON]", "API_ENDPOINT": LIVE_BASE},
        "TABLE_NAME",
    ),
    (
        "fake table, a host that only looks like loopback",
        {"API_ENDPOINT": "https://localhost.example.org/1"},
        "TABLE_NAME",
    ),
    (
        "fake table, the mark in the host instead of the path",
        {"API_ENDPOINT": "https://x-receiver-test.example.org/1"},
        "TABLE_NAME",
    ),
    ("plain http API", {"API_ENDPOINT": TEST_BASE.replace("https", "http")}, "API_ENDPOINT"),
    ("plain http token", {"TOKEN_ENDPOINT": "HTTP://login.example.org/token"}, "TOKEN_ENDPOINT"),
]


@pytest.mark.parametrize("needs", [Needs.RUN, Needs.DATABASE, Needs.API, Needs.DATABASE | Needs.API])
@pytest.mark.parametrize("testing", ["true", "false"])
@pytest.mark.parametrize(("changes", "key"), [case[1:] for case in UNSAFE], ids=[case[0] for case in UNSAFE])
def test_unsafe_combinations_are_refused(
    changes: dict[str, str], key: str, testing: str, needs: Needs
) -> None:
    """They are refused in testing mode too, and by every command that reads the settings."""
    message = refusal({**FULL, **changes, "TESTING_MODE": testing}, needs)
    assert message.startswith(f"The settings have 1 fault: {key} ")


@pytest.mark.parametrize(
    "endpoint",
    [
        TEST_BASE,
        "http://localhost:8080",
        "http://127.8.9.1/x",
        "http://[::1]:80/",
        "http://LOCALHOST/a-receiver-test",
    ],
)
def test_fake_children_may_go_to_test_receivers_and_loopback(endpoint: str) -> None:
    """The safe addresses for an _anon table are accepted."""
    assert load({**ANON_LIVE, "API_ENDPOINT": endpoint}).api_endpoint == endpoint


def test_real_children_may_go_to_the_live_receiver_and_loopback() -> None:
    """The safe addresses for a real table are accepted."""
    assert load(LIVE).testing_mode is False
    assert load({**LIVE, "API_ENDPOINT": "http://127.0.0.1:9"}).testing_mode is False


def test_testing_mode_is_the_default_with_an_anon_table_only() -> None:
    """With any other table TESTING_MODE must be set, whatever the command."""
    assert load(DATABASE).testing_mode is True
    for needs in (Needs.RUN, Needs.DATABASE):
        message = refusal({**DATABASE, "TABLE_NAME": "children"}, needs)
        assert message.startswith("The settings have 1 fault: TESTING_MODE is not set")
    assert load({**DATABASE, "TABLE_NAME": "children", "TESTING_MODE": "true"}).testing_mode is True


def test_each_command_needs_its_own_settings_only() -> None:
    """The database for itself, the API even in testing mode, the API for a run in live mode only."""
    assert load(API, Needs.API).testing_mode is True
    assert load(DATABASE, Needs.DATABASE).api_endpoint == ""
    assert load({**DATABASE, "TESTING_MODE": "true"}, Needs.RUN).testing_mode is True
    assert load({}, Needs.NONE).db_connection_string == Secret()
    assert refusal({}, Needs.API).startswith("The settings have 7 faults: ")
    assert refusal({**DATABASE, "TESTING_MODE": "false"}).startswith("The settings have 7 faults: ")
    assert refusal({}, Needs.DATABASE | Needs.API).startswith("The settings have 8 faults: ")


# --- addresses, keyring, misspelt keys -----------------------------------------------------------------


def test_the_children_address_is_built_or_taken_as_it_is() -> None:
    """A base gets the path and LA code; a full address is used unchanged and needs no LA_CODE."""
    expected = f"{TEST_BASE}/children_social_care_data/845/children"
    assert load(FULL).children_url == expected
    assert load({**FULL, "API_ENDPOINT": TEST_BASE + "/"}).children_url == expected
    settings = load({**without("LA_CODE"), "API_ENDPOINT": expected})
    assert settings.children_url == expected
    assert settings.la_code == "845"


def test_two_different_la_codes_are_refused() -> None:
    """LA_CODE must be the one of a full API_ENDPOINT."""
    message = refusal({**FULL, "API_ENDPOINT": f"{TEST_BASE}/children_social_care_data/846/children"})
    assert "LA_CODE is another one than in API_ENDPOINT" in message


class FakeKeyring(ModuleType):
    """A keyring with one entry; the user "broken" makes the backend fail with a text of its own."""

    def get_password(self, service: str, user: str) -> str | None:
        """Look an entry up."""
        if user == "broken":
            raise RuntimeError(f"backend says {MARK}")
        return {("csc/live", "dfe"): f"{MARK}-kept"}.get((service, user))


def test_secrets_come_from_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """keyring:SERVICE/USER is replaced by the entry, when the command needs it and only then."""
    monkeypatch.setitem(sys.modules, "keyring", FakeKeyring("keyring"))
    environ = {**ANON_LIVE, "CLIENT_SECRET": "keyring:csc/live/dfe", "SUPPLIER_KEY": "keyring:csc/live/dfe"}
    settings = load(environ)
    assert settings.client_secret.reveal() == f"{MARK}-kept"
    assert settings.supplier_key.reveal() == f"{MARK}-kept"
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert not load(environ, Needs.DATABASE).client_secret


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("keyring:csc/nobody", "does not have"),
        ("keyring:csc/broken", "RuntimeError"),
        ("keyring:/dfe", "must be keyring:SERVICE/USER"),
        ("keyring:csc/", "must be keyring:SERVICE/USER"),
    ],
)
def test_a_keyring_without_the_entry_is_a_clear_fault(
    reference: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No entry, a failing backend or half a reference: one fault, without the backend's own words."""
    monkeypatch.setitem(sys.modules, "keyring", FakeKeyring("keyring"))
    message = refusal({**ANON_LIVE, "CLIENT_SECRET": reference})
    assert message.startswith("The settings have 1 fault: CLIENT_SECRET ")
    assert problem in message


def test_a_missing_keyring_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional; where it is asked for and absent, the fault names it."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    message = refusal({**ANON_LIVE, "SUPPLIER_KEY": "keyring:a/b"})
    assert "pip install" in message
    assert "SUPPLIER_KEY" in message


def test_misspelt_keys_are_hinted_at(tmp_path: Path) -> None:
    """An unknown key that looks like a setting becomes a warning; keys of other programs do not."""
    file = write(tmp_path / ".env", CLIENT_SECERT=MARK, batch_size="3", POSTGRES_HOST="x", **DATABASE)
    warnings = load({}, cwd=tmp_path).warnings
    assert len(warnings) == 2
    assert f"CLIENT_SECERT in {file}, line 1: is CLIENT_SECRET meant?" in warnings[0]
    assert "BATCH_SIZE" in warnings[1]
    assert MARK not in str(warnings)
    message = refusal(without("CLIENT_SECRET", "DB_CONNECTION_STRING"), cwd=tmp_path)
    assert "is CLIENT_SECRET meant?" in message


def test_a_file_that_notepad_renamed_is_pointed_out(tmp_path: Path) -> None:
    """A .env.txt where a .env was looked for is named in the refusal."""
    write(tmp_path / ".env.txt", **DATABASE)
    assert str(tmp_path / ".env.txt") in refusal({}, cwd=tmp_path)


# --- secrets -------------------------------------------------------------------------------------------


def test_a_secret_prints_as_stars() -> None:
    """However it is turned into text, only reveal() gives it away."""
    secret = Secret(MARK)
    assert {
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>3}",
        f"{secret:>20}",
    } == {"***"}
    assert MARK not in repr([secret, {"a": secret}])
    assert secret.reveal() == MARK
    assert secret == Secret(MARK)
    assert secret != Secret("x")
    assert secret != MARK
    assert len({secret, Secret(MARK)}) == 1
    assert secret
    assert not Secret("")


def test_settings_print_without_secrets() -> None:
    """repr, str and asdict of the settings hold no secret; a proxy's password is one."""
    settings = load({**ANON_LIVE, "HTTPS_PROXY": f"http://u:{MARK}@proxy:80"})
    assert MARK not in repr(settings) + str(settings) + str(dataclasses.asdict(settings))


def test_secrets_lists_every_text_to_hide(tmp_path: Path) -> None:
    """Whole secrets and the passwords inside connection strings and the proxy, as written and as meant."""
    secrets = load(
        {
            **ANON_LIVE,
            "DB_CONNECTION_STRING": "Server=a;Pwd = {p;w}}1} ;UID=u",
            "SSD_CONNECTION_STRING": "DSN=x;Password=pw2",
            "HTTPS_PROXY": "http://u:p%40w3@proxy:80",
        },
        cwd=tmp_path,
    ).secrets
    assert {API["CLIENT_SECRET"], API["SUPPLIER_KEY"]} < set(secrets)
    assert {"p;w}1", "{p;w}}1}", "pw2", "p%40w3", "p@w3", "DSN=x;Password=pw2"} < set(secrets)
    assert "" not in secrets
    assert load({"DB_CONNECTION_STRING": "sqlite:///x.db"}).secrets == ()


@given(value=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_odbc_values_survive_quoting(value: str) -> None:
    """A value put into a connection string by odbc_value is found there again, whatever it holds."""
    fields = odbc_fields(f"Server={odbc_value(value)};Database=x")
    assert fields == [("Server", value), ("Database", "x")]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://localhost", True),
        ("https://127.255.0.1:80/x", True),
        ("http://[::1]/", True),
        ("http://128.0.0.1", False),
        ("http://127.0.0.1.example.org", False),
        ("http://[::2]/", False),
        ("not an address", False),
    ],
)
def test_loopback_is_recognised(address: str, expected: bool) -> None:
    """Only names and numbers of this machine count as loopback."""
    assert is_loopback(address) is expected


# --- .env.example --------------------------------------------------------------------------------------


def test_env_example_is_the_one_of_the_table() -> None:
    """The file in the repository is what the table of settings gives."""
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example()


def test_env_example_names_every_setting_once_with_a_comment_above() -> None:
    """Every field of Settings, and DEBUG, stands there exactly once, below one comment line of its own."""
    lines = env_example().splitlines()
    keys = [line[1:].partition("=")[0] for line in lines if line[:1] == "#" and line[1:2].isalpha()]
    names = {field.name.upper() for field in dataclasses.fields(Settings)} - {"SOURCE", "WARNINGS", "TABLE"}
    assert sorted(keys) == sorted(names | {"DEBUG", "TABLE_NAME"})
    assert sorted(keys) == sorted(setting.key for setting in SETTINGS)
    for key in keys:
        above = lines[next(n for n, line in enumerate(lines) if line.startswith(f"#{key}=")) - 1]
        assert above.startswith("# ")
        assert not above.startswith("# ---")
    assert not set(OLDER_KEYS) & set(keys)


def test_env_example_loads_cleanly_when_uncommented(tmp_path: Path) -> None:
    """With its placeholders uncommented it is a complete and safe set of settings."""
    lines = (line[1:] if line[1:2].isalpha() else line for line in env_example().splitlines())
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    settings = load({}, Needs.DATABASE | Needs.API, cwd=tmp_path)
    assert settings.testing_mode is True
    assert settings.warnings == ()
    assert settings.client_secret.reveal() == "your-client-secret"

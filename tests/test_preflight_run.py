"""The pre-flight script for PowerShell, run by Windows PowerShell 5.1 against the receiver as users start it.

Environment:
    CSC_POWERSHELL: the PowerShell to take. Without it, the one of Windows; elsewhere all of this is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

POWERSHELL = os.environ.get("CSC_POWERSHELL") or shutil.which("powershell") or ""
SCRIPT = ROOT / "pre_flight_checks" / "api_credentials_smoke_test.ps1"
SECONDS = 120
OK, USAGE, API = 0, 2, 4

# Of a newer PowerShell that is among the parents; with it, that of Windows does not find its own modules.
_FOREIGN = "PSModulePath"

pytestmark = pytest.mark.skipif(not POWERSHELL, reason="there is no Windows PowerShell here (CSC_POWERSHELL)")


@pytest.fixture(autouse=True)
def _no_foreign_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_FOREIGN, raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The settings that a receiver prints at its start, while it runs."""
    folder = tmp_path / "receiver"
    folder.mkdir()
    command = [sys.executable, "-u", "-m", "api_pipeline", "receiver"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found: dict[str, str] = {}
            for line in process.stdout:
                if line.startswith("# Requests follow"):
                    break
                key, mark, value = line.rstrip().partition("=")
                if mark and not line.startswith("#"):
                    found[key] = value
            assert "SUPPLIER_KEY" in found, "the receiver did not start"
            yield found
        finally:
            process.terminate()


def script(folder: Path, settings: dict[str, str]) -> tuple[int, str]:
    """Run the script with a .env in ``folder``; return its exit code and what it said."""
    env_file = folder / ".env"
    env_file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="ascii")
    command = [POWERSHELL, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", str(SCRIPT)]
    command += ["-EnvFile", str(env_file)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode("ascii", "replace")


def test_powershell_is_that_of_windows() -> None:
    """It is version 5.1, which is on every council's machine, and not the newer PowerShell beside it."""
    command = [POWERSHELL, "-NoProfile", "-Command", "$PSVersionTable.PSVersion.ToString()"]
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=True, text=True
    )
    assert done.stdout.startswith("5.1.")


def test_good_credentials_pass(settings: dict[str, str], tmp_path: Path) -> None:
    """With the receiver's own settings every hop is ok and the code 0; neither secret is shown."""
    code, said = script(tmp_path, settings)
    assert code == OK, said
    assert "PASSED" in said
    assert "FAIL" not in said
    for key in ("CLIENT_SECRET", "SUPPLIER_KEY"):
        assert settings[key] not in said


@pytest.mark.parametrize(
    ("key", "value", "hop"),
    [
        ("CLIENT_SECRET", "not-the-secret", "token"),
        ("SUPPLIER_KEY", "not-the-key", "supplier key"),
        ("TOKEN_ENDPOINT", "http://127.0.0.1:1/token", "TCP"),
    ],
)
def test_wrong_setting_fails_at_its_hop(
    settings: dict[str, str], tmp_path: Path, key: str, value: str, hop: str
) -> None:
    """The line that says FAIL names the hop, the code is 4, and the value is not repeated."""
    code, said = script(tmp_path, {**settings, key: value})
    assert code == API, said
    (failed,) = (line for line in said.splitlines() if line.startswith("FAIL"))
    assert failed[6:].startswith(hop)
    if key != "TOKEN_ENDPOINT":
        assert value not in said


def test_missing_setting_is_named(settings: dict[str, str], tmp_path: Path) -> None:
    """Nothing is sent while a setting is missing, and the code is 2."""
    code, said = script(tmp_path, {**settings, "SUPPLIER_KEY": ""})
    assert code == USAGE, said
    assert "SUPPLIER_KEY is not set" in said

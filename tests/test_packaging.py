"""What users get: the wheel, the source archive, and the module that the executable is built from."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import api_pipeline

ROOT = Path(__file__).resolve().parent.parent

_BUILD = """
import sys
from setuptools import build_meta

out = sys.argv[1]  # setuptools puts its own arguments there
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from a copy of the checkout."""
    checkout = tmp_path_factory.mktemp("checkout")
    out = tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, checkout)
    (checkout / ".env").write_text("CLIENT_SECRET=never packed\n", encoding="utf-8")
    for name in ("api_pipeline", "tests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", _BUILD, str(out)], cwd=checkout, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    """The wheel, opened."""
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def about(wheel: zipfile.ZipFile) -> Message:
    """The wheel's metadata."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """All modules and the mark of a typed package are installed; no test and no setting is."""
    installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {f"api_pipeline/{path.name}" for path in (ROOT / "api_pipeline").glob("*.py")}
    assert installed == modules | {"api_pipeline/py.typed"}


def test_wheel_carries_the_licence(wheel: zipfile.ZipFile, about: Message) -> None:
    """Whoever gets the wheel gets the terms with it."""
    assert about["License-Expression"] == "MIT"
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_version_is_the_literal_of_the_package(about: Message) -> None:
    """Package, wheel and installed metadata tell the same version."""
    assert about["Version"] == api_pipeline.__version__
    assert metadata.version("csc-api-pipeline") == api_pipeline.__version__


def test_both_console_scripts_start_main(wheel: zipfile.ZipFile) -> None:
    """The two commands that scheduled tasks may call are the same program (interface, "Names")."""
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    lines = wheel.read(name).decode().splitlines()
    for command in ("d2i-csc-api", "csc-api-pipeline"):
        assert f"{command} = api_pipeline.entry_point:main" in lines


def test_wheel_asks_for_no_test_library(about: Message) -> None:
    """Installing the tool brings no test library, and no driver whose licence forbids passing it on."""
    needed = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needed
    assert not any(word in line for line in needed for word in ("pytest", "hypothesis", "mssql", "ruff"))


def test_source_archive_can_be_tested_and_holds_no_setting(built: Path) -> None:
    """The source archive has the tests and the documents, and never somebody's .env."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/conftest.py", "CHANGELOG.md", "SECURITY.md", "LICENSE", "pyproject.toml"} <= names
    assert ".env" not in names


@pytest.mark.parametrize("how", ["script", "module"])
def test_entry_point_runs_from_anywhere(how: str, tmp_path: Path) -> None:
    """The file that the executable is built from runs as a script, and ``python -m`` is the same."""
    script = Path(api_pipeline.__file__).with_name("entry_point.py")
    target = [str(script)] if how == "script" else ["-m", "api_pipeline"]
    done = subprocess.run(
        [sys.executable, *target, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert api_pipeline.__version__ in done.stdout


def _locked(name: str) -> dict[str, tuple[str, int]]:
    """Name, version and number of hashes of each line of a lock."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith(("#", " "))]
    return {
        canonicalize_name(words[0].split("==")[0]): (
            words[0].split("==")[1],
            sum(word.startswith("--hash=sha256:") for word in words),
        )
        for words in lines
    }


def test_lock_of_the_exe_is_what_the_package_asks_for() -> None:
    """Whatever pyproject.toml needs on Windows is locked in a version that it takes: else freeze/lock.sh."""
    locked = _locked("requirements.txt")
    windows = {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "extra": ""}
    asked = [Requirement(line) for line in metadata.requires("csc-api-pipeline") or []]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate(windows)]
    assert needed
    for one in needed:
        version, _ = locked[canonicalize_name(one.name)]
        assert one.specifier.contains(version), f"{one} is locked as {version}"


@pytest.mark.parametrize("name", ["requirements.txt", "freeze/pyinstaller.txt", "freeze/tools.txt"])
def test_locks_pin_everything_by_hash_and_name_no_index(name: str) -> None:
    """A lock lets nobody slip in another file, and works with whatever index a site has."""
    locked = _locked(name)
    assert locked
    assert [one for one, (_, hashes) in locked.items() if not hashes] == []
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "index-url" not in text


def test_tools_are_locked_for_every_supported_python() -> None:
    """release.sh takes whatever Python it finds, so the lock of its tools holds from the oldest one on."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (oldest,) = re.findall(r'(?m)^requires-python = ">=(3\.\d+)"$', project)
    script = (ROOT / "freeze" / "lock.sh").read_text(encoding="utf-8")
    assert f"tools.in --universal --python-version {oldest} " in script

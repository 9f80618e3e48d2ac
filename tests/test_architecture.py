"""The layers of the package: imports point downwards, and importing anything does nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import api_pipeline

PACKAGE = Path(api_pipeline.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

# A module may import from its own layer and from those above it in this table, never from one below.
LAYERS = (
    # Pure: values in, values out.
    (
        "errors runtime names brake id_set payload delta differences remembered composing due_rules "
        "validation replies outcomes faults semantic "
        # What a payload is built from, and what it becomes; people who are made up.
        "ssd_tables ssd_window ssd_coercions ssd_records ssd_mapping ssd_payload ssd_cohort source_dates "
        "fake fake_ssd_values fake_ssd_faults fake_ssd fake_ssd_nights"
    ),
    # What a run is told, and where it writes what it did.
    "setting_values setting_table setting_loader envfile config logs spool progress",
    # One border each: the API's side and the databases' side; the three tables; the stand-in for the API.
    "transport auth dialects odbc sqlite_errors reachability schema schema_repair db locking",
    "ledger_schema ledger_reading staging ledger writeback",
    "ssd_values ssd_schema ssd_sql ssd_source source_access source_catalogue staged_people",
    "receiver_checks receiver_http receiver_replies receiver",
    "api",
    # One run.
    "delivery planning sourcing recording summary pipeline",
    # One night of the staging table.
    "refresh cohort_building builder_process stage_summary stage",
    # What else there is to do, each a command of its own.
    (
        "check_result provision ssd_provision source_checks table_checks checks inspection source_validation "
        "log_report pruning cohort_explanation explanation explain demo "
        "output_file schedule report_reading report_figures report_style report_page report"
    ),
    # The command line.
    "commands",
    "entry_point",
    "__main__",
)
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer.split()}

API_SIDE = {"transport", "auth", "api"}
DATABASE_SIDE = set(
    "dialects odbc sqlite_errors reachability schema schema_repair db locking "
    "ledger_schema ledger_reading staging ledger writeback "
    "ssd_values ssd_schema ssd_sql ssd_source source_access source_catalogue staged_people".split()
)

# Libraries that open connections are loaded in one place each.
ONLY_IN = {
    "pyodbc": {"db"},
    "sqlite3": {"db"},
    "requests": {"transport", "auth", "api"},
    "argparse": {"entry_point", "commands"},
}

MOST_LINES = 500


def imports_of(path: Path) -> set[str]:
    """Return the full names of everything that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return found


def own_imports(module: str, folder: Path = PACKAGE) -> set[str]:
    """Return the modules of the package that ``module`` imports."""
    known = {path.stem for path in folder.glob("*.py")}
    parts = (name.split(".") for name in imports_of(folder / f"{module}.py"))
    return {name[1] for name in parts if name[0] == "api_pipeline" and len(name) > 1 and name[1] in known}


def upward_imports(folder: Path = PACKAGE) -> Iterator[str]:
    """Yield a line for each import that points to a higher layer."""
    for path in sorted(folder.glob("*.py")):
        here = LAYER_OF.get(path.stem, -1)
        for other in sorted(own_imports(path.stem, folder)):
            if LAYER_OF.get(other, 99) > here:
                yield f"{path.stem} imports {other}"


def test_each_module_has_its_layer() -> None:
    """A new module is given a layer before it is used, and a module that is gone leaves the table."""
    assert sorted(LAYER_OF) == [module for module in MODULES if module != "__init__"]


def test_imports_point_downwards() -> None:
    """No module knows one of a higher layer, not even inside a function."""
    assert list(upward_imports()) == []


def test_an_upward_import_would_be_found(tmp_path: Path) -> None:
    """The check sees an upward import in each form that the language has."""
    (tmp_path / "pipeline.py").touch()
    (tmp_path / "db.py").write_text("import api_pipeline.pipeline", encoding="utf-8")
    (tmp_path / "auth.py").write_text("from api_pipeline import pipeline", encoding="utf-8")
    (tmp_path / "config.py").write_text("def f():\n from api_pipeline.pipeline import run", encoding="utf-8")
    assert list(upward_imports(tmp_path)) == [f"{who} imports pipeline" for who in ("auth", "config", "db")]


def test_imports_go_in_no_circle() -> None:
    """Within a layer, too, of two modules only one knows the other."""
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {error.args[1]}")


def test_api_and_database_do_not_know_each_other() -> None:
    """What speaks to the API knows no database, and what speaks to a database knows no API."""
    crossing = [
        f"{module} imports {other}"
        for side, far_side in ((API_SIDE, DATABASE_SIDE), (DATABASE_SIDE, API_SIDE))
        for module in sorted(side & set(MODULES))
        for other in sorted(own_imports(module) & far_side)
    ]
    assert crossing == []


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_library_stays_where_it_belongs(library: str) -> None:
    """Drivers, HTTP and the command line are each dealt with in one place."""
    users = {
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imports_of(PACKAGE / f"{module}.py"))
    }
    assert users <= ONLY_IN[library]


def test_imports_are_absolute() -> None:
    """entry_point.py works as a script and in the frozen executable, where a relative import fails."""
    relative = [
        f"{module}: {name}"
        for module in MODULES
        for name in imports_of(PACKAGE / f"{module}.py")
        if name.startswith(".")
    ]
    assert relative == []


@pytest.mark.parametrize("module", MODULES)
def test_module_can_be_read_in_one_sitting(module: str) -> None:
    """No module grows past the length at which it has more than one job."""
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES


# Imports every module while watching what it touches; prints what was loaded and what was touched. What a
# library does at its own import (urllib3 tries out IPv6) is not the package's.
_PROBE = """
import importlib, json, os, sys

package, *modules = sys.argv[1:]
outside = {"socket.bind", "socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen"}
touched = []

def blame(what):
    frame = sys._getframe(2)
    while frame and "site-packages" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.startswith(package):
            touched.append(f"{os.path.basename(frame.f_code.co_filename)}: {what}")
            return
        frame = frame.f_back

def audit(event, args):
    if event in outside or event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        blame(event)

class Environment(type(os.environ)):
    def __getitem__(self, key):
        blame("reads the environment")
        return super().__getitem__(key)

os.environ.__class__ = Environment
sys.addaudithook(audit)
for module in modules:
    importlib.import_module(f"api_pipeline.{module}")
json.dump({"touched": touched, "loaded": sorted({name.split(".")[0] for name in sys.modules})}, sys.stdout)
"""


def probe(folder: Path, modules: list[str]) -> dict[str, list[str]]:
    """Import ``modules`` of the package in ``folder`` in an interpreter of their own."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", _PROBE, str(folder), *modules],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What importing every module loaded and touched."""
    return probe(PACKAGE, [module for module in MODULES if module != "__main__"])


def test_importing_touches_nothing(imported: dict[str, list[str]]) -> None:
    """Importing any module reads no setting, opens no file to write and no connection."""
    assert imported["touched"] == []


def test_an_import_that_touches_something_would_be_found(tmp_path: Path) -> None:
    """The check sees a module that reads a setting or opens a database when it is imported."""
    folder = tmp_path / "api_pipeline"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "reader.py").write_text("import os\nos.environ.get('HOME')\n", encoding="utf-8")
    (folder / "opener.py").write_text(
        "import sqlite3\nsqlite3.connect(':memory:').close()\n", encoding="utf-8"
    )
    touched = probe(folder, ["reader", "opener"])["touched"]
    assert touched == ["reader.py: reads the environment", "opener.py: sqlite3.connect"]


def test_no_driver_is_loaded_before_it_is_needed(imported: dict[str, list[str]]) -> None:
    """SQLite and the demo work on a machine that has no ODBC at all."""
    assert "pyodbc" not in imported["loaded"]


def test_no_module_hides_another(imported: dict[str, list[str]]) -> None:
    """No module has the name of a standard one or of one that a library loads.

    entry_point.py run as a script has its own folder first on the search path.
    """
    others = set(sys.stdlib_module_names) | set(imported["loaded"])
    assert others & (set(MODULES) - {"__init__", "__main__"}) == set()

"""What the tests of databases share: other connection strings, waits without waiting, an ordinary account."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_pipeline import db
from tests.databases import Database

NOBODY = 65534


def opened(database: Database, *, stop: threading.Event | None = None) -> db.Database:
    """Open a test's database through the package; a SQLite file is made where the test has not yet."""
    return db.connect(database.connection_string, create=True, stop=stop)


def changed(connection_string: str, **values: object) -> str:
    """Return the connection string with other values for some keys."""
    for key, value in values.items():
        connection_string = re.sub(rf"(?i)(^|;)\s*{key}=[^;]*", r"\1", connection_string).strip(";")
        connection_string += f";{key}={value}"
    return connection_string


class Waits(threading.Event):
    """A stop event that notes how long it was waited for instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Note the time and go on at once."""
        self.seconds.append(timeout or 0)
        return self.is_set()


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """Make a folder that another account can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="csc-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def ordinary_account() -> Iterator[None]:
    """Be nobody in particular for a while, since nothing is forbidden to root."""
    if os.name == "nt":
        pytest.skip("permissions of files are another matter on Windows")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)

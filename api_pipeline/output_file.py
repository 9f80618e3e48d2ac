"""Files that a command makes for people to keep: a task for the scheduler, a report.

Such a file is written whole or not at all, and takes the place of an older one of its own kind only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from api_pipeline.errors import ConfigError

_HEAD = 2048  # bytes by which a file of our own is known


def refuse_other(path: Path, is_ours: Callable[[bytes], bool], what: str, *, force: str = "") -> None:
    """Make sure that nothing but an older file of the same kind is in the way.

    Args:
        is_ours: tells such a file by its first bytes.
        what: what is to be written, as a noun: "report".
        force: the flag that overwrites all the same, where there is one.

    Raises:
        ConfigError: naming the file and what to do.
    """
    if path.is_dir():
        raise _in_the_way(f"{path} is a folder, not a file.", "Name a file in it.")
    if not path.parent.is_dir():
        raise _in_the_way(f"There is no folder {path.parent} to write the {what} to.", "Make it first.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _in_the_way(f"{path} is there and cannot be read ({error.strerror}).", _OTHER_NAME) from None
    if head and not is_ours(head):
        hint = f"{_OTHER_NAME[:-1]}, or add {force} to overwrite it." if force else _OTHER_NAME
        raise _in_the_way(f"{path} is there and is no {what} of this tool.", hint)


def write(path: Path, content: bytes) -> None:
    """Write the file beside its place and move it there, so that nobody ever reads half of it.

    Raises:
        ConfigError: if the folder or the disk does not allow it.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _in_the_way(f"{path} cannot be written ({error.strerror}).", _OTHER_NAME) from None


_OTHER_NAME = "Give --output another name or folder."


def _in_the_way(message: str, remedy: str) -> ConfigError:
    return ConfigError(message, hop="output", remedy=remedy)

"""Receipts that could not be written back, kept in a local file until the database is there again.

A receipt is the one thing that cannot be had twice. When the connection is lost for good between the reply
and the write-back, the receipts of that batch go into a file that only the account of the run can read; the
next run writes them back before anything else (domain, section 6, and interface, SPOOL_DIR). The file holds
table, person_id, kind, attempt, hash and receipt, and nothing else of a child.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from api_pipeline.errors import PipelineError
from api_pipeline.replies import parse_receipts

PREFIX = "csc_api_spool_"
EARLIER_ID = "earlier id"  # the purge of an id that the person no longer has: nothing becomes of the row
KINDS = ("sent", "sent in partial mode", "purged", EARLIER_ID)


@dataclass(frozen=True, slots=True)
class Spooled:
    """One acknowledged record whose outcome is not in the database yet; hashes in hexadecimal."""

    table: str
    person_id: str
    kind: str
    run_id: str
    seq: int
    row_hash: str
    receipt: str


class SpoolError(PipelineError):
    """A spool file cannot be used; it is left where it is."""


def write(folder: Path, run_id: str, entries: Sequence[Spooled]) -> Path:
    """Append entries to the run's spool file, readable by this account alone, and force them to disk.

    Raises:
        SpoolError: if the folder cannot be written to.
    """
    path = folder / f"{PREFIX}{run_id}.jsonl"
    text = "".join(json.dumps(asdict(entry), ensure_ascii=True) + "\n" for entry in entries)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SpoolError(
            f"The receipts of {len(entries)} records could not be kept in {folder}.",
            hop="spool",
            remedy="Let the account of the task write to SPOOL_DIR; the rows stay due and go again.",
        ) from error
    return path


def files(folder: Path) -> list[Path]:
    """Return the spool files that wait, the oldest first."""
    found = [path for path in folder.glob(f"{PREFIX}*.jsonl") if path.is_file()]
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def read(path: Path) -> list[Spooled]:
    """Read a spool file.

    Raises:
        SpoolError: if any line of it cannot be read; nothing of it is used then.
    """
    try:
        return list(_entries(path.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError) as error:
        raise SpoolError(
            f"The spool file {path} cannot be read.",
            hop="spool",
            remedy="Keep it: it holds receipts. Its rows stay due and go again; remove it when they have.",
        ) from error


_HEX = re.compile(r"[0-9a-f]{64}")


def _entries(text: str) -> Iterator[Spooled]:
    for line in text.splitlines():
        entry = Spooled(**json.loads(line))
        texts = [getattr(entry, field.name) for field in fields(entry) if field.name != "seq"]
        if not all(isinstance(text, str) for text in texts) or type(entry.seq) is not int:
            raise ValueError("not an entry")
        if not _HEX.fullmatch(entry.row_hash) or entry.kind not in KINDS:
            raise ValueError("not an entry")
        parse_receipts(json.dumps([entry.receipt]).encode(), 1)
        yield entry

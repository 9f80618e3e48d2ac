"""What the errors of SQLite's driver mean, in this project's terms."""

from __future__ import annotations

from pathlib import Path

from api_pipeline.errors import DatabaseError, TransientDatabaseError

_RULES: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("no such table",),
        "table",
        "A table that is needed is not in the file",
        "Check TABLE_NAME, or run init-db.",
    ),
    (
        ("no such column",),
        "column",
        "A column that is needed is missing",
        "Run test-schema: it names the column.",
    ),
    (
        ("not a database", "malformed", "encrypted"),
        "database",
        "This file is not a sound SQLite database",
        "Restore it from a copy, or name another file in DB_CONNECTION_STRING.",
    ),
    (
        ("readonly", "read-only"),
        "permission",
        "This file may not be written to",
        "Give the account that runs the tool write permission for the file and its folder.",
    ),
    (
        ("unable to open",),
        "database",
        "This file cannot be opened",
        "Check that its folder exists and that this account may read and write there.",
    ),
    (("full",), "space", "There is no room left for the file", "Free some space on that disk."),
)


def statement_error(error: BaseException, path: Path) -> DatabaseError:
    """Return what an error of the driver means for the file ``path``; its own text is not passed on."""
    text = str(error).casefold()
    name = getattr(error, "sqlite_errorname", type(error).__name__)  # Python 3.11 and later
    if "locked" in text or "busy" in text:
        return TransientDatabaseError(
            f"The SQLite file '{path}' is locked by another program ({name}).",
            hop="statement",
            remedy="Close what else has it open.",
        )
    for words, hop, message, remedy in _RULES:
        if any(word in text for word in words):
            return DatabaseError(f"{message}: '{path}' ({name}).", hop=hop, remedy=remedy)
    return DatabaseError(
        f"SQLite refused a statement on '{path}' ({name}).",
        hop="statement",
        remedy="Run test-schema.",
    )

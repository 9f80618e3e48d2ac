"""Table names: the only names from outside that ever become part of a statement.

A name is checked once, when the settings are read, and quoted in one place, by the dialect that uses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from api_pipeline.errors import ConfigError

_PLAIN = re.compile(r"[^\W\d][\w$#@]*")
# Inside brackets anything that cannot end the quoting or hide in a log line.
_BRACKETED = re.compile(r"\[([^\[\]\"'`;\x00-\x1f\x7f]+)\]")
_MAX_LENGTH = 128  # SQL Server's sysname; PostgreSQL's own limit of 63 bytes is checked by the server.


@dataclass(frozen=True)
class NamePart:
    """One part of a table name; ``exact`` is true where brackets asked for the name as it is written."""

    text: str
    exact: bool


@dataclass(frozen=True)
class TableName:
    """A validated ``table`` or ``schema.table``."""

    schema: NamePart | None
    table: NamePart

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read ``table``, ``schema.table`` or the same with [brackets].

        Raises:
            ConfigError: for anything else, three-part names included.
        """
        parts: list[NamePart] = []
        rest = text.strip()
        while True:
            match = _BRACKETED.match(rest)
            exact = match is not None
            match = match or _PLAIN.match(rest)
            if match is None:
                break
            parts.append(NamePart(match.group(1) if exact else match.group(0), exact))
            rest = rest[match.end() :]
            if not rest.startswith("."):
                break
            rest = rest[1:]
            if not rest:
                rest = "."  # a trailing dot is not a name
                break
        too_long = any(len(part.text) > _MAX_LENGTH for part in parts)
        blank = any(part.text != part.text.strip() for part in parts)
        if rest or too_long or blank or not 1 <= len(parts) <= 2:
            raise ConfigError(
                "TABLE_NAME is not a table name.",
                hop="settings",
                remedy="Write table or schema.table, plain or in [brackets], with letters, digits and _.",
            )
        return cls(schema=parts[0] if len(parts) == 2 else None, table=parts[-1])

    @property
    def is_anon(self) -> bool:
        """Whether the bare name ends in ``_anon``, in any letter case: a table of fake children."""
        return self.table.text.casefold().endswith("_anon")

    def sibling(self, text: str) -> TableName:
        """Return the table ``text`` in the same schema, for the tables that belong to this one."""
        return TableName(schema=self.schema, table=NamePart(text, exact=False))

    def __str__(self) -> str:
        parts = [self.table] if self.schema is None else [self.schema, self.table]
        return ".".join(f"[{part.text}]" if part.exact else part.text for part in parts)

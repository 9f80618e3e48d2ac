"""The brake: how much may go at once before it looks like a fault of the source (MAX_DELETIONS_PERCENT)."""

from __future__ import annotations

MINIMUM = 20  # so many may always go


def holds(going: int, of: int, percent: float) -> bool:
    """Whether ``going`` are more than ``percent`` of all and more than a few (interface, "Settings")."""
    return going > MINIMUM and going * 100 > of * percent

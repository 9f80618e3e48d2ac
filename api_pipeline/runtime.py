"""What every process of this program sets up before it does anything else, and which process it is."""

from __future__ import annotations

import gc

BUILDER_ARGUMENT = "--build-payloads"  # by which the program knows that it is stage's second process


def prepare_process() -> None:
    """Have Python look for circles of objects now and then, and not after every 700 new ones.

    Rows and payloads come and go by the million and hang together in no circle: to look for some takes a
    tenth of the time and finds nothing.
    """
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)

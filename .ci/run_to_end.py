"""Run a program, pass on what it says, and end with its code as soon as it has ended.

The services that wine starts with a program keep that program's output open as long as they live, so whoever
reads to the end of it would wait for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import IO

_REST = 2.0  # seconds for what the program has said and nobody has read yet


def main(command: list[str]) -> int:
    """Return the program's exit code."""
    program = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    passing = [
        threading.Thread(target=_pass_on, args=pipe, daemon=True)
        for pipe in ((program.stdout, 1), (program.stderr, 2))
    ]
    for thread in passing:
        thread.start()
    code = program.wait()
    for thread in passing:
        thread.join(_REST)
    return code


def _pass_on(source: IO[bytes], target: int) -> None:
    while chunk := source.read(1 << 16):
        os.write(target, chunk)


if __name__ == "__main__":
    # Not by sys.exit, which would wait for a thread that waits for a service.
    os._exit(main(sys.argv[1:]) & 0xFF)

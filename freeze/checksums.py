"""Write SHA256SUMS.txt over every file of a folder, in the form that ``sha256sum --check`` reads.

python freeze/checksums.py dist
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

NAME = "SHA256SUMS.txt"


def main() -> None:
    """Write the file into the folder that the first argument names."""
    folder = Path(sys.argv[1])
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / NAME).write_bytes("".join(lines).encode())


if __name__ == "__main__":
    main()

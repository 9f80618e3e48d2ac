"""Pack files into a zip, the same bytes every time.

    python freeze/zip_files.py --moment SECONDS --output FILE.zip FOLDER

Packs everything below FOLDER under its path from there, in the order of the names. The moment, in seconds
since 1970, stands for every file's own.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

_UNIX = 3
_FILE_MODE = 0o100644 << 16


def pack(output: Path, members: Mapping[str, Path], moment: int) -> None:
    """Write ``members``, name in the archive to file, in the order of their names."""
    time = datetime.fromtimestamp(moment, timezone.utc).timetuple()[:6]
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, time)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = _UNIX  # the default is the system that packs
            entry.external_attr = _FILE_MODE
            archive.writestr(entry, members[name].read_bytes())


def below(folder: Path) -> dict[str, Path]:
    """Return every file below a folder by its path from there."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    """Read the arguments and write the zip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moment", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    pack(args.output, below(args.folder), args.moment)


if __name__ == "__main__":
    main()

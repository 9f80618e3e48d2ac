"""Pack files into a zip, the same bytes every time.

    python freeze/zip_files.py --output FILE.zip FOLDER

Packs everything below FOLDER under its path from there, in the order of the names. The moment of
SOURCE_DATE_EPOCH stands for every file's own.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from datetime import datetime, timezone
from pathlib import Path

_UNIX = 3
_FILE_MODE = 0o100644 << 16


def main() -> None:
    """Read the arguments and write the zip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    files = {
        path.relative_to(args.folder).as_posix(): path for path in args.folder.rglob("*") if path.is_file()
    }
    with zipfile.ZipFile(args.output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, moment.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = _UNIX  # the default is the system that packs
            entry.external_attr = _FILE_MODE
            archive.writestr(entry, files[name].read_bytes())


if __name__ == "__main__":
    main()

"""Pack the onedir build with what belongs to it into one zip, the same bytes every time.

    python freeze/bundle.py --folder dist/csc_api_pipeline --output FILE.zip EXTRA...

Each EXTRA is a file that goes beside the exe. The moment of SOURCE_DATE_EPOCH stands for every file's own.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from datetime import datetime, timezone
from pathlib import Path

_UNIX = 3
_FILE_MODE = 0o100644 << 16


def pack(output: Path, members: dict[str, Path], moment: datetime) -> None:
    """Write ``members``, name in the archive to file, in the order of their names."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, moment.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = _UNIX  # the default is the system that packs
            entry.external_attr = _FILE_MODE
            archive.writestr(entry, members[name].read_bytes())


def main() -> None:
    """Read the arguments and write the zip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("extra", type=Path, nargs="*")
    args = parser.parse_args()
    top = args.folder.name
    files = [path for path in args.folder.rglob("*") if path.is_file()]
    members = {f"{top}/{path.relative_to(args.folder).as_posix()}": path for path in files}
    members |= {f"{top}/{path.name}": path for path in args.extra}
    moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    pack(args.output, members, moment)


if __name__ == "__main__":
    main()

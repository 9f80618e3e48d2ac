"""Pack the onedir build with what belongs to it into one zip, the same bytes every time.

    python freeze/bundle.py --folder dist/csc_api_pipeline --output FILE.zip EXTRA...

Each EXTRA is a file that goes beside the exe. The moment of SOURCE_DATE_EPOCH stands for every file's own.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from zip_files import below, pack


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
    members = {f"{top}/{name}": path for name, path in below(args.folder).items()}
    members |= {f"{top}/{path.name}": path for path in args.extra}
    pack(args.output, members, int(os.environ["SOURCE_DATE_EPOCH"]))


if __name__ == "__main__":
    main()

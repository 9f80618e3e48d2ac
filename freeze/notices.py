"""Write the licences of all that the exe is built from into one text file, for the people who get the exe.

python freeze/notices.py --packages SITE_PACKAGES --python-licence LICENSE.txt --output FILE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from frozen import ROOT, Frozen, distributions, licence_of, version_of_this

_RULE = "=" * 100


def _section(title: str, *texts: str) -> str:
    return "\n".join([_RULE, title, _RULE, "", *(f"{text.strip()}\n" for text in texts)])


def _of_distribution(found: Frozen) -> str:
    if not found.texts:
        sys.exit(f"{found.name} brings no licence text: put one into freeze/licences/{found.name}.txt")
    texts = [text for _, text in found.texts]
    if found.crates:
        lines = [f"  {part['name']} {part['version']}: {licence_of(part)}" for part in found.crates]
        texts.append("\n".join(["Compiled into it, as its own bill of materials says:", "", *lines]))
    return _section(f"{found.name} {found.version}    {found.licence}", *texts)


def sections(packages: Path, python_licence: Path) -> Iterator[str]:
    """Yield the sections: the program, Python, PyInstaller's starter, and each distribution."""
    own = (ROOT / "LICENSE").read_text(encoding="utf-8")
    yield _section(f"csc-api-pipeline {version_of_this()}    MIT", own)
    yield _section(
        "Python, with the libraries that its build for Windows holds (OpenSSL, SQLite, libffi and others)",
        python_licence.read_text(encoding="utf-8"),
    )
    (starter,) = metadata.distributions(name="pyinstaller", path=[str(packages)])
    yield _section(
        f"The starter inside the exe, from PyInstaller {starter.version}    "
        "GPL-2.0-or-later WITH Bootloader-exception",
        *(text for _, text in Frozen("pyinstaller", starter.version, starter).texts),
    )
    for found in distributions(packages):
        yield _of_distribution(found)


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--python-licence", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    text = "\n".join(sections(args.packages, args.python_licence))
    # With the line ends of Windows: Notepad of older servers shows no others.
    args.output.write_bytes("\r\n".join(text.splitlines()).encode("utf-8") + b"\r\n")


if __name__ == "__main__":
    main()

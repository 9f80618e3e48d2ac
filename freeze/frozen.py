"""What is frozen into the exe, read from the lock and from the folder that its distributions lie in.

The scripts beside this one use it on the machine that builds, which need not be the one that runs the exe.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LICENCES = Path(__file__).with_name("licences")
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)


def version_of_this() -> str:
    """Return the program's version, from its one literal."""
    text = (ROOT / "api_pipeline" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        sys.exit("api_pipeline/__init__.py holds no __version__")
    return found.group(1)


def pinned(lock: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """Return name and version of everything in a lock, in its order."""
    return dict(_PINNED.findall(lock.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Frozen:
    """One distribution that the exe holds."""

    name: str
    version: str
    info: metadata.Distribution

    @property
    def licence(self) -> str:
        """The licence as the metadata name it; an SPDX expression where they have one."""
        about = self.info.metadata
        classifiers = [text for text in about.get_all("Classifier", []) if text.startswith("License ::")]
        named = about["License-Expression"] or about["License"] or ""
        if named and "\n" not in named:
            return str(named)
        return ", ".join(text.rpartition(" :: ")[2] for text in classifiers)

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The licence files, each with its name; one kept in this repository where the wheel has none."""
        found = []
        for path in sorted(self.info.files or [], key=str):
            parts = [part.lower() for part in path.parts]
            named = re.match(r"(licen[cs]e|copying|notice|authors)", parts[-1])
            if named and ".dist-info" in parts[0]:
                found.append((path.name, Path(str(path.locate())).read_text(encoding="utf-8")))
        kept = _LICENCES / f"{self.name}.txt"
        if not found and kept.is_file():
            found.append((kept.name, kept.read_text(encoding="utf-8")))
        return found

    @cached_property
    def crates(self) -> list[dict[str, Any]]:
        """What is compiled into it, from the bills of materials that some wheels carry (PEP 770)."""
        found = {}
        for path in self.info.files or []:
            if path.parts[-2:-1] == ("sboms",) and path.suffix == ".json":
                bill = json.loads(Path(str(path.locate())).read_text(encoding="utf-8"))
                for part in bill.get("components", []):
                    found[part["name"], part["version"]] = part
        return [found[key] for key in sorted(found)]


def licence_of(crate: Mapping[str, Any]) -> str:
    """Return the SPDX expression of something compiled in; empty where none is named."""
    named = crate.get("licenses") or [{}]
    return str(named[0].get("expression") or named[0].get("license", {}).get("id", ""))


def distributions(packages: Path) -> Iterator[Frozen]:
    """Yield every distribution of the lock, as it lies in the folder ``packages``.

    Ends the program where one is missing there or has another version: what would be told of it was wrong.
    """
    for name, version in pinned().items():
        found = next(iter(metadata.distributions(name=name, path=[str(packages)])), None)
        if found is None or found.version != version:
            sys.exit(f"{packages} has not the {name} {version} of requirements.txt")
        yield Frozen(name, version, found)

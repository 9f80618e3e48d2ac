"""Write the software bill of materials of the exe (CycloneDX 1.6, JSON), the same bytes every time.

    python freeze/sbom.py --packages SITE_PACKAGES --python-version 3.13.2 --output FILE.cdx.json

It lists every distribution of requirements.txt with its licence, what is compiled into each as far as its
wheel says, Python, and PyInstaller's starter.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from frozen import Frozen, distributions, licence_of, version_of_this
from packageurl import PackageURL

_LICENCES = LicenseFactory()


def _component(kind: str, name: str, version: str, licence: str) -> Component:
    purl = PackageURL(kind, name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.REQUIRED,
        purl=purl,
        bom_ref=str(purl),
        licenses=[_LICENCES.make_from_string(licence)] if licence else (),
    )


def _of_distribution(found: Frozen) -> Component:
    whole = _component("pypi", found.name, found.version, found.licence)
    for part in found.crates:
        inner = _component("cargo", part["name"], part["version"], licence_of(part))
        # The same crate may be compiled into two of them.
        inner.bom_ref.value = f"{whole.bom_ref.value}#{inner.bom_ref.value}"
        whole.components.add(inner)
    return whole


def components(packages: Path, python_version: str) -> Iterator[Component]:
    """Yield what the exe holds besides the program itself."""
    yield _component("generic", "python", python_version, "PSF-2.0")
    (starter,) = metadata.distributions(name="pyinstaller", path=[str(packages)])
    yield _component("pypi", "pyinstaller", starter.version, "GPL-2.0-or-later WITH Bootloader-exception")
    for found in distributions(packages):
        yield _of_distribution(found)


def bill(packages: Path, python_version: str, moment: datetime) -> Bom:
    """Return the whole bill."""
    made = Bom(components=components(packages, python_version))
    program = _component("pypi", "csc-api-pipeline", version_of_this(), "MIT")
    program.type = ComponentType.APPLICATION
    made.metadata.component = program
    made.metadata.timestamp = moment
    # Otherwise it would be drawn at random.
    made.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"{program.bom_ref.value}@{moment.isoformat()}")
    made.register_dependency(program, list(made.components))
    return made


def main() -> None:
    """Read the arguments, check the bill against its schema and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--python-version", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    text = JsonV1Dot6(bill(args.packages, args.python_version, moment)).output_as_string(indent=2)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        sys.exit(f"the bill of materials does not keep to its schema: {fault}")
    args.output.write_bytes(text.encode("utf-8") + b"\n")


if __name__ == "__main__":
    main()

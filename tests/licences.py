"""`make licences`: data/licences.md, which says under which licence each package of constraints.txt says that it is.

A package that is not installed here, as NVIDIA's are not everywhere, keeps the licence that the file gives it.
"""

import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, metadata

from crossgap_lib.paths import DATA, ROOT

FILE = DATA / "licences.md"
_HEAD = """\
# Licences of what the project is built on

crossgap is under the MIT licence (LICENSE). What `make` installs, as `constraints.txt` pins it, is under these, as the
packages say themselves; `make licences` asks them again.
"""
_ONE_NAME = {
    "MIT License": "MIT",
    "DFSG approved and MIT License": "MIT",
    "BSD License": "BSD",
    "BSD 3-Clause": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}


def licence(package: str) -> str:
    """What an installed package says of its licence."""
    said = metadata(package)
    trove = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier", ()) if line.startswith("License ::")]
    stated = said.get("License-Expression") or " and ".join(trove)
    if stated in ("", "OSI Approved"):
        stated = said.get("License") or "not stated"
    return _ONE_NAME.get(stated, stated)


def pinned() -> list[str]:
    """The packages of constraints.txt."""
    return re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def listed() -> dict[str, str]:
    """{package: licence} of the file."""
    lines = re.findall(r"^- \*\*(.+)\*\*: (.+)$", FILE.read_text() if FILE.exists() else "", re.MULTILINE)
    return {package: of for of, packages in lines for package in packages.split(", ")}


def main() -> None:
    before, groups = listed(), defaultdict(list)
    for package in pinned():
        try:
            groups[licence(package)].append(package)
        except PackageNotFoundError:
            groups[before.get(package, "not stated")].append(package)
    lines = [f"- **{of}**: {', '.join(packages)}" for of, packages in sorted(groups.items(), key=lambda g: -len(g[1]))]
    FILE.write_text("\n".join([_HEAD, *lines, ""]))


if __name__ == "__main__":
    main()

"""What is installed in a Python environment, and what became of it."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Snapshot(NamedTuple):
    """versions: package to version. files: file of a package to the SHA-256 of its content."""

    versions: dict[str, str]
    files: dict[str, str]


def snapshot(packages: Path) -> Snapshot:
    """What is installed in a site-packages folder. Compiled files are left out: Python writes them anew at will."""
    versions, files = {}, {}
    for package in metadata.distributions(path=[str(packages)]):
        versions[package.name.lower()] = package.version
        for file in package.files or []:
            if file.hash and file.suffix != ".pyc" and Path(file.locate()).is_file():
                files[str(file)] = hashlib.sha256(Path(file.locate()).read_bytes()).hexdigest()
    return Snapshot(versions, files)


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """What became of packages and files that were there before; packages and files that were added are no change."""
    found = [
        f"{name} {version} -> {after.versions.get(name, 'removed')}"
        for name, version in before.versions.items()
        if after.versions.get(name) != version
    ]
    found += [f"{file} overwritten or removed" for file, digest in before.files.items() if after.files.get(file) != digest]
    return found

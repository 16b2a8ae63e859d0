"""Print a hash of all that says how images are built and started, but for the package itself.

``make image-check`` keeps it when the tests of the image have passed: building the image takes too
long for each change of the package, and must not be forgotten after a change of the recipes.
"""

from __future__ import annotations

import configparser
import hashlib
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
FILES = (
    *("Dockerfile", ".dockerignore", "Singularity.def", "constraints.txt", "pyproject.toml"),
    "brainlife/main",
)
FOLDERS = ("containers", "hpc")


def recipes_hash() -> str:
    """Hash of the recipes, and of what the package requires at run time."""
    paths = [PROJECT / name for name in FILES]
    for folder in FOLDERS:
        paths += sorted(path for path in (PROJECT / folder).iterdir() if path.is_file())
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    digest = hashlib.sha256(setup["options"]["install_requires"].encode())
    for path in paths:
        if path.suffix != ".md":
            digest.update(f"{path.relative_to(PROJECT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(recipes_hash() + "\n")

"""What is in the wheel and in the source distribution, and what is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

PROJECT = Path(__file__).resolve().parents[1]
RECIPES = ("setup.cfg", "pyproject.toml", "MANIFEST.in")
TEXTS = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built from a copy, in which nothing is left of an earlier build."""
    copy = tmp_path_factory.mktemp("project")
    for name in (*RECIPES, *TEXTS):
        shutil.copy(PROJECT / name, copy)
    shutil.copytree(
        PROJECT / "bids_alsmri",
        copy / "bids_alsmri",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # a file of each kind that must stay out
    (copy / "tests").mkdir()
    (copy / "tests" / "test_any.py").write_text("")
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def in_wheel(dist: Path) -> set[str]:
    (path,) = dist.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


@pytest.fixture(scope="module")
def in_sdist(dist: Path) -> set[str]:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    # without the folder that bears name and version
    return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in files}


def package_files() -> set[str]:
    found = (p for p in (PROJECT / "bids_alsmri").rglob("*") if p.is_file())
    return {str(p.relative_to(PROJECT)) for p in found if "__pycache__" not in p.parts}


def test_wheel_holds_the_package_and_nothing_else(in_wheel):
    own = {name for name in in_wheel if ".dist-info/" not in name}
    assert own == package_files()


def test_source_distribution_holds_the_package_and_what_builds_it(in_sdist):
    assert package_files() | {*RECIPES, *TEXTS} <= in_sdist


def test_neither_holds_tests_or_images(in_wheel, in_sdist):
    for name in in_wheel | in_sdist:
        assert not name.startswith("tests")
        assert not name.endswith((".nii", ".nii.gz", ".h5", ".dcm")), name


def test_wheel_bears_both_commands_and_the_licence(dist, in_wheel):
    (path,) = dist.glob("*.whl")
    (entries,) = (name for name in in_wheel if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(path).read(entries).decode()
    assert "bids_alsmri = " in text
    assert "bids_alsmri_phantom = " in text
    assert any(PurePosixPath(name).name == "LICENSE" for name in in_wheel)

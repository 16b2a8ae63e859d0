from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TOYS = Path(__file__).parent / "toys"
# workers of MultiProc take sys.path over from this process
sys.path.insert(0, str(TOYS))


@pytest.fixture
def toys() -> Path:
    """Folder of the toy nodes, pipelines and driver."""
    return TOYS


@pytest.fixture
def raw(tmp_path) -> Callable[..., Path]:
    """Write a dataset with one text per participant in place of a T1w."""

    def write(**texts: str) -> Path:
        root = tmp_path / "raw"
        for label, text in (texts or {"s01": "1 2 3", "s02": "4 5 6"}).items():
            path = root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        description = {"Name": "toy", "BIDSVersion": "1.10.0"}
        (root / "dataset_description.json").write_text(json.dumps(description))
        return root

    return write


class Toy:
    """Runs the command line with the toy pipelines in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.environment = {
            **os.environ,
            "TOY_JOURNAL": str(self.journal),
            "HOME": str(folder / "home"),
        }
        self.environment.pop("TMPDIR", None)

    def command(self, *words: object) -> list[str]:
        return [sys.executable, str(TOYS / "toy_driver.py"), *map(str, words)]

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        self.journal.unlink(missing_ok=True)
        return subprocess.run(
            self.command(*words),
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=240,
        )

    def steps(self) -> list[str]:
        """Names of the steps that the last run executed."""
        return self.journal.read_text().split() if self.journal.exists() else []


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


def tables(output: Path) -> dict[str, bytes]:
    """Content of every result, by its path: tables, figures and sidecars."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.glob("sub-*/**/*"))
        if path.is_file()
    }


@pytest.fixture(name="tables")
def tables_fixture() -> Callable[[Path], dict[str, bytes]]:
    """`tables`, for tests."""
    return tables


def wait_until(run: subprocess.Popen[str], claim: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not claim():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    """Wait for a claim to become true while a process runs."""
    return wait_until

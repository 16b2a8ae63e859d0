from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_alsmri.cli import main, parse
from bids_alsmri.collection import find_finished
from bids_alsmri.phantom.__main__ import main as phantom
from bids_alsmri.settings import RunSettings

# a cohort of maps whose voxels are so coarse that all of it takes seconds
VOXEL_MM = "4"
CHEAP = (
    *("--group-resolution-mm", VOXEL_MM, "--group-refinement-iterations", "0"),
    *("--group-n-permutations", "60", "--group-permutations-per-job", "25"),
    *("--group-analyses", "skeleton", "--group-maps", "fa", "md"),
)


@dataclass(frozen=True)
class Cohort:
    """Raw dataset and results of the participant level."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def words(self, *flags: str) -> list[str]:
        return [str(self.raw), str(self.out), "group", "-w", str(self.root / "work"), *flags]

    def cheap_words(self, *flags: str) -> list[str]:
        return self.words(*CHEAP, *flags)

    def run(self, *flags: str) -> int:
        return main(self.cheap_words(*flags))

    def settings(self, *flags: str) -> RunSettings:
        return parse(self.cheap_words(*flags))

    def copied_to(self, root: Path) -> Cohort:
        shutil.copytree(self.root, root)
        return Cohort(root)

    def edit(self, change: Callable[[str], str]) -> None:
        """Change the text of participants.tsv."""
        path = self.raw / "participants.tsv"
        path.write_text(change(path.read_text()))


@pytest.fixture(scope="session")
def template_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Three controls, three fast and three slow progressors, made once."""
    root = tmp_path_factory.mktemp("cohort")
    words = ["--controls", "3", "--fast", "3", "--slow", "3", "--seed", "7"]
    maps = ["--maps-only", str(root / "out"), "--template-mm", VOXEL_MM]
    assert phantom([str(root / "raw"), *maps, *words]) == 0
    return Cohort(root)


@pytest.fixture(scope="session")
def visited_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Six fast progressors and three controls at two visits, made once."""
    root = tmp_path_factory.mktemp("visited")
    words = ["--controls", "3", "--fast", "6", "--slow", "0", "--seed", "7"]
    maps = ["--maps-only", str(root / "out"), "--template-mm", VOXEL_MM]
    assert phantom([str(root / "raw"), *maps, *words, "--sessions", "m00", "m06"]) == 0
    return Cohort(root)


@pytest.fixture
def cohort(template_cohort: Cohort, tmp_path: Path) -> Cohort:
    """The cohort in a folder of the test's own."""
    return template_cohort.copied_to(tmp_path / "cohort")


@pytest.fixture
def planned() -> Callable[..., object]:
    """Plan of a cohort's comparisons."""
    from bids_alsmri.group_planning import plan_comparisons

    def plan(cohort: Cohort, *flags: str) -> object:
        settings = cohort.settings(*flags)
        faults: list[str] = []
        found = plan_comparisons(settings, find_finished(settings, faults), faults)
        assert not faults
        return found

    return plan

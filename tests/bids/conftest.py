from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_alsmri.bids.query import Scan, Skip, find_scans, list_participants, open_layout
from bids_alsmri.bids.spec import InputSpec, IoSpec

T1W = InputSpec(
    "t1w",
    ("T1w",),
    ("anat",),
    required=False,
    absent=("chunk",),
    excluded={"acq": ("legs", "hands", "paraspinal", "wholebody")},
    metadata_allowed={"BodyPart": ("BRAIN", "HEAD")},
    description="T1-weighted image of the brain",
)
DWI = InputSpec(
    "dwi",
    ("dwi",),
    ("dwi",),
    many=True,
    absent=("chunk",),
    companions=("bval", "bvec"),
    description="diffusion-weighted images",
)


@pytest.fixture
def specs() -> dict[str, InputSpec]:
    """Input specs like those of the pipelines, by name."""
    return {"dwi": DWI, "t1w": T1W}


@pytest.fixture
def raw(tmp_path) -> Callable[..., Path]:
    """Write a raw dataset whose files hold some text."""

    def write(*names: str) -> Path:
        root = tmp_path / "raw"
        root.mkdir(exist_ok=True)
        (root / "dataset_description.json").write_text(
            json.dumps({"Name": "trial", "BIDSVersion": "1.10.0"})
        )
        for name in names:
            add(root, name, "content")
        return root

    return write


def add(root: Path, name: str, content: object) -> None:
    """Add one file; text as it is, None as a dangling annex link, all else as JSON."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.symlink_to("../" * name.count("/") + ".git/annex/objects/x/key")
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture(name="add")
def add_fixture() -> Callable[[Path, str, object], None]:
    """`add`, for tests."""
    return add


@pytest.fixture
def find() -> Callable[..., tuple[list[Scan], list[Skip]]]:
    """Run find_scans on a dataset with the specs of this file."""

    def run(
        root: Path,
        *,
        primary: str = "dwi",
        inputs: tuple[InputSpec, ...] = (DWI, T1W),
        sessions: tuple[str, ...] = (),
        filters: dict | None = None,
        group_by: tuple[str, ...] = ("dir",),
        participants: tuple[str, ...] | None = None,
    ) -> tuple[list[Scan], list[Skip]]:
        wanted = list_participants(root) if participants is None else participants
        return find_scans(
            open_layout(root, wanted, database_dir=None),
            "diffusion",
            IoSpec({spec.name: spec for spec in inputs}, {}, {}),
            participants=wanted,
            sessions=sessions,
            filters=filters or {},
            group_by=group_by,
            primary=primary,
        )

    return run


@pytest.fixture
def t1w_only(find) -> Callable[..., tuple[list[Scan], list[Skip]]]:
    """Run find_scans for the T1w alone."""

    def run(root: Path, **options: object) -> tuple[list[Scan], list[Skip]]:
        return find(root, primary="t1w", inputs=(T1W,), group_by=(), **options)

    return run

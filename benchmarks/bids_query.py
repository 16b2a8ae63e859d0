"""Time to find the scans of one participant out of many, in a fresh process.

Run: ``python benchmarks/bids_query.py [--participants 1000]``. Prints one line per case: CPU time,
which other work on the machine does not alter, import of pybids included. The target of the
project is below 2 s with a saved index.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

_CODE = """
    import sys, time
    from pathlib import Path
    from bids_alsmri.bids.query import find_scans, open_layout
    from bids_alsmri.bids.spec import InputSpec, IoSpec
    root, wanted, saved = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
    layout = open_layout(root, wanted, database_dir=Path(saved) if saved else None)
    spec = IoSpec(
        {
            "dwi": InputSpec("dwi", ("dwi",), ("dwi",), many=True, companions=("bval", "bvec")),
            "t1w": InputSpec("t1w", ("T1w",), ("anat",)),
        }, {}, {})
    scans, skips = find_scans(layout, "diffusion", spec, participants=wanted, sessions=[],
        filters={}, group_by=("dir",), primary="dwi")
    assert len(scans) == 2 * 2 * len(wanted) and not skips, (len(scans), skips)
    print(f"{time.process_time():.2f}")
"""


def simulate(root: Path, n_participants: int) -> None:
    """Write a raw dataset of empty-headed files: two sessions with T1w and two DWI each."""
    (root / "dataset_description.json").write_text('{"Name": "many", "BIDSVersion": "1.10.0"}')
    for number in range(1, n_participants + 1):
        for session in ("m00", "m06"):
            stem = f"sub-{number:04d}_ses-{session}"
            folder = root / f"sub-{number:04d}" / f"ses-{session}"
            (folder / "anat").mkdir(parents=True)
            (folder / "dwi").mkdir()
            for extension in (".nii.gz", ".json"):
                (folder / "anat" / f"{stem}_T1w{extension}").write_text("{}")
            for direction in ("AP", "PA"):
                for extension in (".nii.gz", ".json", ".bval", ".bvec"):
                    name = f"{stem}_dir-{direction}_dwi{extension}"
                    (folder / "dwi" / name).write_text("{}")


def seconds(root: Path, wanted: str, saved: str) -> float:
    """CPU time of import, index and query in a new interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(_CODE), str(root), wanted, saved]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=1000)
    n_participants = parser.parse_args().participants
    with tempfile.TemporaryDirectory() as folder:
        root, saved = Path(folder) / "raw", str(Path(folder) / "index")
        root.mkdir()
        simulate(root, n_participants)
        everyone = ",".join(f"{number:04d}" for number in range(1, n_participants + 1))
        print(f"case (of {n_participants} participants)\tCPU seconds")
        print(f"one, no saved index\t{seconds(root, '0001', ''):.2f}")
        print(f"one, index saved\t{seconds(root, '0001', saved):.2f}")
        print(f"one, index reused\t{seconds(root, '0001', saved):.2f}")
        print(f"all, no saved index\t{seconds(root, everyone, ''):.2f}")
        print(f"all, index saved\t{seconds(root, everyone, saved):.2f}")
        print(f"all, index reused\t{seconds(root, everyone, saved):.2f}")


if __name__ == "__main__":
    main()

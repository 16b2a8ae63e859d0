"""Time to find the scans of one participant out of many, in a fresh process.

Run: ``python benchmarks/bids_query.py [--participants 1000]``. Prints one line per case: CPU time,
which other work on the machine hardly alters, imports included, until the scans of the diffusion
pipeline are known and until the plan of all pipelines is made, fingerprints of all files included.
The target of the project is below 2 s with a saved index.
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


_PLAN = """
    import sys, time
    from bids_alsmri.cli import parse
    from bids_alsmri.planning import find_plan
    root, wanted, saved = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
    words = [root, f"{root}_out", "participant", "--participant-label", *wanted]
    plan = find_plan(parse([*words, *(["--bids-database-dir", saved] if saved else [])]))
    # two sessions, each with a T1w and two diffusion series
    assert len(plan.jobs) == 6 * len(wanted), len(plan.jobs)
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


def seconds(code: str, root: Path, wanted: str, saved: str) -> float:
    """CPU time of import, index and query or plan in a new interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(code), str(root), wanted, saved]
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
        print(f"of {n_participants} participants\tscans known\tplan made (CPU s)")
        cases = (
            ("one, no saved index", "0001", ""),
            ("one, index saved now", "0001", saved),
            ("one, index used again", "0001", saved),
            ("all, no saved index", everyone, ""),
            ("all, index saved now", everyone, saved),
            ("all, index used again", everyone, saved),
        )
        for name, wanted, place in cases:
            found, planned = (
                seconds(code, root, wanted, place and f"{place}_{number}")
                for number, code in enumerate((_CODE, _PLAN))
            )
            print(f"{name}\t{found:.2f}\t{planned:.2f}", flush=True)


if __name__ == "__main__":
    main()

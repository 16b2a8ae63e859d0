"""Between brainlife.io's datatypes and BIDS: the task's inputs, and its outputs and messages.

Runs in the task's folder, with nothing but Python 3.7 or later: ``convert.py inputs`` before the
app and ``convert.py outputs CODE`` after it, where CODE is the app's exit code.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# keys of config.json, and the end of the file's name in BIDS
IMAGES = {"t1": ("anat", "_T1w.nii.gz"), "dwi": ("dwi", "_dwi.nii.gz")}
COMPANIONS = {"dwi": {"bvals": "_dwi.bval", "bvecs": "_dwi.bvec"}}
# what the platform keeps about a file, and no sidecar of BIDS
FOREIGN = {"nifti_headers", "subject", "session", "run", "datatype", "acq", "tags"}
# folder of an output, its file by datatype, and where the app leaves it; the first that fits
OUTPUTS = {
    "output_t1": {"t1.nii.gz": "anat/sub-*_desc-preproc_T1w.nii.gz"},
    "output_mask": {"mask.nii.gz": "anat/sub-*_desc-brain_mask.nii.gz"},
    "output_dwi": {
        "dwi.nii.gz": "dwi/sub-*_desc-preproc_dwi.nii.gz",
        "dwi.bvals": "dwi/sub-*_desc-preproc_dwi.bval",
        "dwi.bvecs": "dwi/sub-*_desc-preproc_dwi.bvec",
    },
    "output_tensor": {
        f"{name}.nii.gz": f"dwi/sub-*_param-{name}_dwimap.nii.gz"
        for name in ("fa", "md", "ad", "rd")
    },
    "output_muscles": {"muscles.tsv": "anat/sub-*_desc-muscles_stats.tsv"},
    "output_cortex": {"layers.tsv": "anat/sub-*_desc-layers_stats.tsv"},
}
# labels that the platform wants with their names as JSON: of a station of muscle, of a slab at 7T
PARCELLATIONS = {
    "output_parcellation": "*_desc-muscles_dseg.nii.gz",
    "output_areas": "*_seg-somatotopy_dseg.nii.gz",
}
# entities of what lies on another grid than the scan's
ELSEWHERE = re.compile(r"_space-(?!T1w)[A-Za-z0-9]+_|_res-")
MEANINGS = {
    1: "Some scans failed; the report tells which and why.",
    16: "The dataset is not valid BIDS.",
    18: "No participant or session fits what was asked for.",
    64: "The call is wrong; correct the task's options.",
    65: "The data cannot be used.",
    66: "The input is absent, or holds no usable scan.",
    73: "The output cannot be written.",
}
DESCRIPTION = {"Name": "brainlife.io task", "BIDSVersion": "1.4.0", "DatasetType": "raw"}


class InputError(Exception):
    """What is wrong with config.json, for the user."""


def read_config() -> dict[str, Any]:
    """Content of config.json."""
    try:
        content = json.loads(Path("config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"config.json cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"config.json: no valid JSON at line {error.lineno}") from None
    if not isinstance(content, dict):
        raise InputError("config.json: expected an object")
    return content


def clean(label: object) -> str:
    """Letters and digits of a label, which is all that BIDS allows."""
    return re.sub(r"[^A-Za-z0-9]+", "", re.sub(r"^(sub|ses)-", "", str(label)))


def inputs_by_key(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Inputs that the platform lists, or one made of the keys that stand in the file."""
    listed = config.get("_inputs")
    if listed:
        return [dict(entry) for entry in listed]
    return [
        {"id": key, "keys": [key, *COMPANIONS.get(key, {})], "meta": {}}
        for key in IMAGES
        if config.get(key)
    ]


def place(source: Path, target: Path) -> None:
    """Put a file under a name of BIDS, without a copy where the file system allows that."""
    if not source.is_file():
        raise InputError(f"{source}: is not there; give the input again, or leave its key out")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.unlink()
    try:
        os.link(source.resolve(), target)
    except OSError:
        # other disk, or one without links
        shutil.copyfile(source, target)


def sidecar_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the platform knows of an image, as far as it is a sidecar's."""
    known = {k: v for k, v in meta.items() if v is not None and k not in FOREIGN}
    # the platform has axes of the scanner beside those of BIDS, whose sense depends on the image
    if not re.match(r"[ijk]-?$", str(known.get("PhaseEncodingDirection", "i"))):
        del known["PhaseEncodingDirection"]
    return known


def make_dataset(config: Mapping[str, Any], root: Path) -> None:
    """Make a BIDS dataset of the inputs that config.json names."""
    n_images = 0
    counts: dict[str, int] = {}
    for entry in inputs_by_key(config):
        meta = entry.get("meta") or {}
        # several inputs of one kind stand in a list under one key, in the order of the inputs
        paths = {}
        for key in entry.get("keys", []):
            value = config.get(key)
            if isinstance(value, list):
                counts[key] = counts.get(key, 0) + 1
                value = value[counts[key] - 1]
            paths[key] = value
        for key in IMAGES.keys() & paths.keys():
            folder, ending = IMAGES[key]
            stem = named(meta, n_of_its_kind=counts.get(key, 0))
            target = root.joinpath(*re.findall(r"(?:sub|ses)-[^_]+", stem), folder, stem + ending)
            place(Path(paths[key]), target)
            text = json.dumps(sidecar_of(meta), indent=2, sort_keys=True)
            target.with_name(stem + ending.replace(".nii.gz", ".json")).write_text(text + "\n")
            for companion, end in COMPANIONS.get(key, {}).items():
                if not paths.get(companion):
                    raise InputError(f"config.json has {key} but not {companion}; give both")
                place(Path(paths[companion]), target.with_name(stem + end))
            n_images += 1
    if not n_images:
        raise InputError("config.json names no image; give t1, dwi with bvals and bvecs, or bids")
    (root / "dataset_description.json").write_text(json.dumps(DESCRIPTION, indent=2) + "\n")


def named(meta: Mapping[str, Any], *, n_of_its_kind: int) -> str:
    """Participant, session and run of an input, as a file name begins."""
    if not meta.get("subject"):
        sys.stderr.write("WARNING an input has no subject; it is called sub-01\n")
    parts = [f"sub-{clean(meta.get('subject') or '01')}"]
    if meta.get("session"):
        parts.append(f"ses-{clean(meta['session'])}")
    acquisition = meta.get("acquisition") or meta.get("acq")
    if acquisition:
        parts.append(f"acq-{clean(acquisition)}")
    run = clean(meta.get("run") or (n_of_its_kind or ""))
    if run.isdigit():
        parts.append(f"run-{int(run)}")
    return "_".join(parts)


def dataset_folder(config: Mapping[str, Any]) -> Path:
    """Dataset of the task: the one given, that which the platform made, or the one to make."""
    return Path(config["bids"]) if config.get("bids") else Path("bids")


def outside(folder: Path) -> list[str]:
    """Folders that an image must see for a dataset: where it lies, and where its links lead."""
    here = Path.cwd().resolve()
    links = [path.resolve() for path in folder.rglob("*") if path.is_symlink() and path.exists()]
    paths = [Path(os.path.abspath(folder)), folder.resolve(), *links]
    folders = {path if path.is_dir() else path.parent for path in paths}
    return sorted(str(path) for path in folders if here not in (path, *path.parents))


def prepare_inputs() -> None:
    """Make the dataset if there is none, and write the words of the app's call, one per line."""
    config = read_config()
    root = dataset_folder(config)
    if config.get("bids") and not root.is_dir():
        raise InputError(f"{root}: is no folder; give the input bids again")
    if not (root / "dataset_description.json").is_file():
        if config.get("bids"):
            raise InputError(f"{root}: lacks dataset_description.json; is it a BIDS dataset?")
        make_dataset(config, root)
    words = [str(root), "output", "participant"]
    if config.get("mode"):
        words += ["--mode", str(config["mode"])]
    words += shlex.split(str(config.get("options") or ""))
    Path("options.txt").write_text("".join(f"{word}\n" for word in words))
    Path("mounts.txt").write_text("".join(f"{place}\n" for place in outside(root)))


def collect_outputs(code: int) -> None:
    """Fill the folder of each datatype, and write product.json."""
    results = Path("output")
    made = []
    for folder, files in OUTPUTS.items():
        sources = {name: first(results, pattern) for name, pattern in files.items()}
        if all(sources.values()):
            for name, source in sources.items():
                place(Path(str(source)), Path(folder) / name)
            made.append(folder)
    made += [name for name in PARCELLATIONS if place_parcellation(results, name)]
    pages = sorted(results.glob("sub-*.html"))
    for page in pages:
        # the page that the platform opens is called index.html
        name = "index.html" if page == pages[0] else page.name
        place(page, Path("output_report", "html", name))
    product = {
        "brainlife": [*messages(code, made), *plots(results)],
        "exit_code": code,
        "outputs": made,
    }
    Path("product.json").write_text(json.dumps(product, indent=1) + "\n")


def first(results: Path, pattern: str) -> Path | None:
    """First result on the scan's own grid that fits, in the order of the names."""
    found = sorted(p for p in results.glob(f"sub-*/**/{pattern}") if not ELSEWHERE.search(p.name))
    return found[0] if found else None


def place_parcellation(results: Path, folder: str) -> bool:
    """Labels of the first image whose labels have names, as the platform's parcellation."""
    for image in sorted(results.glob(f"sub-*/**/{PARCELLATIONS[folder]}")):
        table = image.with_name(image.name.replace(".nii.gz", ".tsv"))
        if not table.is_file():
            continue
        with table.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row.get("index")]
        if not rows:
            # compartments were looked for and not found
            continue
        names = [
            {"name": row["name"], "label": row["index"], "voxel_value": int(row["index"])}
            for row in rows
        ]
        place(image, Path(folder) / "parc.nii.gz")
        text = json.dumps(names, indent=1) + "\n"
        (Path(folder) / "label.json").write_text(text, encoding="utf-8")
        return True
    return False


def messages(code: int, made: list[str]) -> list[dict[str, str]]:
    """What the platform shows above the plots: how it went, and what the app warned of."""
    path = Path("messages.txt")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if code == 0:
        told = [{"type": "success", "msg": f"Done: {', '.join(made) or 'no image'}."}]
    else:
        meaning = MEANINGS.get(code, f"The app ended with exit code {code}.")
        told = [{"type": "error", "msg": meaning}]
    kinds = {"ERROR": "error", "WARNING": "warning", "bids_alsmri:": "error"}
    for line in text.splitlines():
        found = re.match(r"(?:[0-9:]+ )?(ERROR|WARNING|bids_alsmri:) (.+)", line)
        if found:
            told.append({"type": kinds[found[1]], "msg": found[2]})
    return told[:20]


def plots(results: Path) -> list[dict[str, Any]]:
    """Measures of quality of each scan, each drawn within its sensible range."""
    drawn = []
    tables = sorted(results.glob("sub-*/**/*_desc-*uality_stats.tsv"))
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if place_in_range(row)]
        if not rows:
            continue
        values = [place_in_range(row) for row in rows]
        drawn.append(
            {
                "type": "plotly",
                "name": path.name[: -len("_stats.tsv")].replace("_desc-quality", ""),
                "data": [
                    {
                        "type": "bar",
                        "orientation": "h",
                        "x": values,
                        "y": [row["measure"] for row in rows],
                        "text": [f"{row['value']} {unit(row)}".strip() for row in rows],
                    }
                ],
                "layout": {
                    "title": "Quality: share of the sensible range",
                    "xaxis": {"range": [0, 1.2], "title": "below 0 or above 1: outside"},
                    "margin": {"l": 180},
                },
            }
        )
    return drawn


def unit(row: Mapping[str, str]) -> str:
    """Unit to print; pure numbers have the unit 1."""
    return "" if row["unit"] in ("1", "n/a") else row["unit"]


def place_in_range(row: Mapping[str, str]) -> float | None:
    """Where a value lies between the ends of its range, 0 to 1; None without both."""
    try:
        value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    except ValueError:
        return None
    return round((value - low) / (high - low), 3) if high > low else None


def main(words: list[str]) -> int:
    """Do one of the two parts; exit code 66 where the input is wrong."""
    try:
        if words == ["inputs"]:
            prepare_inputs()
        elif words[:1] == ["outputs"] and len(words) == 2:
            collect_outputs(int(words[1]))
        else:
            sys.stderr.write("bids_alsmri: call convert.py inputs, or convert.py outputs CODE\n")
            return 64
    except InputError as error:
        sys.stderr.write(f"bids_alsmri: {error}\n")
        return 66
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

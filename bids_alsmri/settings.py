"""Settings of a run: folders, participants, resources, seed, and each pipeline's own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, field_validator

from bids_alsmri.errors import ExitCode, SettingsError
from bids_alsmri.options import Mode, SettingsModel, absolute_path, resolve, setting

LEVELS = ("participant", "group")
# stands beside the pipelines' settings, and is none of them
GROUP = "group"


class RunSettings(SettingsModel):
    """What one call of the app was asked to do."""

    bids_dir: Path
    output_dir: Path
    level: str
    participant_label: tuple[str, ...] = setting(
        (), stage="run", help="Participants to process, with or without 'sub-'; all if not given."
    )
    session_label: tuple[str, ...] = setting(
        (),
        stage="run",
        flags=("--session-id",),
        help="Sessions to process, with or without 'ses-'; all if not given.",
    )
    pipeline_names: tuple[str, ...] = setting(
        (),
        stage="run",
        flags=("--pipelines",),
        help="Pipelines to run, with those they build on; all if not given.",
    )
    mode: Mode = setting(
        "best",
        stage="run",
        help="'paper' follows the published methods step by step, 'best' today's best practice.",
    )
    bids_filter_file: Path | None = setting(
        None,
        stage="run",
        help="JSON file of pybids filters per input, in the form that fMRIPrep reads.",
    )
    bids_database_dir: Path | None = setting(
        None, stage="run", help="Folder that keeps the index of the dataset between runs."
    )
    skip_bids_validation: bool = setting(
        False, stage="run", help="Do not check the dataset before the run."
    )
    derivatives: dict[str, Path] = setting(
        {},
        stage="run",
        flags=("-d",),
        help="Derivatives to reuse, as NAME=PATH, such as smriprep=/data/smriprep.",
    )
    work_dir: Path | None = setting(
        None,
        stage="run",
        flags=("-w",),
        help="Folder of intermediate results; without it, OUTPUT_DIR with '_work' at its end. "
        "Runs of several datasets may share one.",
    )
    clean_workdir: bool = setting(
        False,
        stage="run",
        help="Remove this run's intermediate results when it has succeeded.",
    )
    n_procs: int | None = setting(
        None,
        stage="run",
        ge=1,
        unit="processes",
        flags=("--nprocs", "--nthreads", "--n-cpus"),
        help="Processes at a time; without it, the cores that this process may use.",
    )
    omp_nthreads: int = setting(
        1,
        stage="run",
        ge=1,
        unit="threads",
        help="Threads inside one step. Registrations have a setting of their own.",
    )
    mem_gb: float | None = setting(
        None,
        stage="run",
        gt=0,
        unit="GB",
        help="Memory that steps may take together; without it, 90 % of what this process may use.",
    )
    nipype_plugin_file: Path | None = setting(
        None, stage="run", help="JSON or YAML file with a nipype plugin and its arguments."
    )
    template: str = setting(
        "MNI152NLin2009aSym",
        stage="fit",
        source="fonov2011",
        help="Template space: the embedded MNI152NLin2009aSym, or one that TEMPLATEFLOW_HOME "
        "holds.",
    )
    atlas_dir: Path | None = setting(
        None,
        stage="run",
        help="Folder of atlases in FSL's XML form, for the regions of tables; without it, that of "
        "FSLDIR if there is one. Motor areas are embedded.",
    )
    atlas_threshold_percent: float = setting(
        25.0,
        stage="run",
        unit="%",
        ge=0,
        le=100,
        source="convention of FSL's thresholded atlases",
        help="Probability from which a voxel belongs to a region of a probabilistic atlas.",
    )
    seed: int = setting(
        20221, stage="fit", ge=0, help="Seed from which every step derives its own random stream."
    )
    stop_on_first_crash: bool = setting(
        False, stage="run", help="Stop at the first failed step instead of going on with others."
    )
    plan: bool = setting(
        False,
        stage="run",
        help="Print what would run, be reused or be skipped, and why; write nothing.",
    )
    verbose: bool = setting(False, stage="run", help="Log every step.")
    pipelines: Mapping[str, SerializeAsAny[SettingsModel]] = Field(default_factory=dict)

    @field_validator("derivatives", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            pairs = [str(item).partition("=") for item in value]
            bad = [name for name, equals, path in pairs if not (name and equals and path)]
            if bad:
                raise ValueError(f"{bad[0]!r} is not of the form NAME=PATH")
            names = [name for name, _, _ in pairs]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{twice[0]!r} is given twice")
            return {name: absolute_path(path) for name, _, path in pairs}
        return value

    @property
    def work_folder(self) -> Path:
        """Folder of intermediate results, outside the output folder."""
        if self.work_dir is not None:
            return self.work_dir.absolute()
        output = self.output_dir.absolute()
        return output.with_name(f"{output.name}_work")

    def as_json(self, version: str) -> str:
        """Text of a settings file that repeats this run.

        Parameters
        ----------
        version : str
            Version of the app, kept for the reader.

        Returns
        -------
        str
            JSON with the parts ``version``, ``run`` and ``pipelines``.
        """
        run = self.model_dump(mode="json", exclude={"pipelines"})
        parts = {
            "version": version,
            "run": run,
            "pipelines": {n: m.model_dump(mode="json") for n, m in self.pipelines.items()},
        }
        return json.dumps(parts, indent=2, sort_keys=True) + "\n"


def read_settings_file(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Values of a settings file: those of the run, and those of each pipeline.

    Parameters
    ----------
    path : Path
        A ``settings.json`` that an earlier run wrote, or a shorter one of the same form.

    Returns
    -------
    run : dict
        Values of :class:`RunSettings`.
    pipelines : dict of dict
        Values of the pipelines' settings.

    Raises
    ------
    SettingsError
        If the file is missing, is no JSON, or has another form.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--settings {path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"--settings {path}: no valid JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg})"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"--settings {path}: is no text in UTF-8 ({error.reason})") from None
    allowed = {"version", "run", "pipelines"}
    parts = parts if isinstance(parts, dict) else {"run": None}
    run, pipelines = parts.get("run", {}), parts.get("pipelines", {})
    objects = [run, pipelines, *(pipelines.values() if isinstance(pipelines, dict) else ())]
    if not set(parts) <= allowed or not all(isinstance(item, dict) for item in objects):
        raise SettingsError(
            f"--settings {path}: expected an object with the objects run and pipelines, as in "
            "logs/<run>/settings.json"
        )
    return dict(run), {name: dict(values) for name, values in pipelines.items()}


def make_run_settings(
    given: Mapping[str, Any],
    pipelines_given: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, type[SettingsModel]],
) -> RunSettings:
    """Frozen settings of a run from what was given by flag or file.

    Parameters
    ----------
    given : mapping
        Values of :class:`RunSettings`, without the pipelines.
    pipelines_given : mapping of mapping
        Values for each pipeline's settings.
    models : mapping of type
        Settings model of each pipeline, and of the group level under `GROUP`.

    Returns
    -------
    RunSettings
        The settings, with those of every pipeline under ``pipelines``.

    Raises
    ------
    SettingsError
        If a value is not allowed, a name unknown, or the level is none of the two.
    """
    level = str(given.get("level", ""))
    if level not in LEVELS:
        raise SettingsError(
            f"analysis level {level!r} is unknown; give one of {', '.join(LEVELS)}",
            exit_code=ExitCode.UNKNOWN_LEVEL,
        )
    unknown = set(pipelines_given) - set(models)
    if unknown:
        raise SettingsError(f"settings for unknown pipelines: {', '.join(sorted(unknown))}")
    run = resolve(RunSettings, "best", given)
    assert isinstance(run, RunSettings)
    known = set(models) - {GROUP}
    unknown = set(run.pipeline_names) - known
    if unknown:
        raise SettingsError(
            f"--pipelines: {', '.join(sorted(unknown))} unknown; there are "
            f"{', '.join(sorted(known))}"
        )
    chosen = {
        name: resolve(model, run.mode, pipelines_given.get(name, {}), prefix=name)
        for name, model in models.items()
    }
    return run.model_copy(update={"pipelines": chosen})


def usable_cores(limits: Mapping[str, int] | None = None) -> int:
    """Cores that this process may use, after affinity and cgroup quota.

    Parameters
    ----------
    limits : mapping, optional
        As from :func:`cgroup_limits`, which is asked if it is not given.

    Returns
    -------
    int
        At least 1; a share of a core counts as none.

    Examples
    --------
    >>> usable_cores({"cores_millis": 1500})
    1
    """
    quota_millis = (cgroup_limits() if limits is None else limits).get("cores_millis")
    cores = len(os.sched_getaffinity(0))
    return cores if quota_millis is None else max(1, min(cores, quota_millis // 1000))


def usable_memory_gb(limits: Mapping[str, int] | None = None) -> float:
    """Memory that this process may use, after the cgroup's limit, in GB (10^9 bytes).

    Parameters
    ----------
    limits : mapping, optional
        As from :func:`cgroup_limits`, which is asked if it is not given.

    Returns
    -------
    float
        Physical memory, or the limit where it is lower.

    Examples
    --------
    >>> usable_memory_gb({"memory_bytes": 500_000_000})
    0.5
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (cgroup_limits() if limits is None else limits).get("memory_bytes", physical)
    return min(physical, limit) / 1e9


def cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> dict[str, int]:
    """Limits that control groups set to this process.

    Parameters
    ----------
    root : Path
        Where control groups are mounted.
    membership : Path
        File that names the groups of the process.

    Returns
    -------
    dict
        ``cores_millis`` in thousandths of a core, ``memory_bytes`` in bytes; none where there is
        no limit. The tightest on the way from the process's group to the root counts: batch
        systems set theirs on inner groups.

    Notes
    -----
    Files ``cpu.max`` and ``memory.max`` of version 2, ``cpu.cfs_quota_us``,
    ``cpu.cfs_period_us`` and ``memory.limit_in_bytes`` of version 1 (Linux,
    Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found: dict[str, list[int]] = {"cores_millis": [], "memory_bytes": []}
    # inside a container the group is often the root of what is mounted, whatever its name
    for line in [*lines, "0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        base = root / controllers if controllers else root
        inner = Path(group.lstrip("/"))
        for folder in (base / part for part in (inner, *inner.parents)):
            cores, memory = _limits_in(folder)
            found["cores_millis"] += cores
            found["memory_bytes"] += memory
    return {name: min(values) for name, values in found.items() if values}


def _limits_in(folder: Path) -> tuple[list[int], list[int]]:
    quota = _numbers(folder / "cpu.max") or [
        *_numbers(folder / "cpu.cfs_quota_us"),
        *_numbers(folder / "cpu.cfs_period_us"),
    ]
    memory = _numbers(folder / "memory.max") or _numbers(folder / "memory.limit_in_bytes")
    cores = [1000 * quota[0] // quota[1]] if len(quota) == 2 and min(quota) > 0 else []
    return cores, memory


def _numbers(path: Path) -> list[int]:
    try:
        # no limit is told by the word max, or in version 1 by -1
        return [int(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []

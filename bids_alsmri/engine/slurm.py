"""nipype's SLURM plugin, made to ask for what steps need and to leave no job behind."""

from __future__ import annotations

import getpass
import logging
import math
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from traceback import format_exception
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces.utility import Merge
from nipype.pipeline.plugins.slurm import SLURMPlugin
from nipype.utils.filemanip import loadpkl

from bids_alsmri.errors import RunError, SettingsError
from bids_alsmri.interfaces.outputs import SaveDerivative, SaveMany

log = logging.getLogger(__name__)

# of the interpreter and its libraries, beside what a step declares
INTERPRETER_MB = 400
# what stands in no estimate, as in the memory that a run takes of a machine
HEADROOM = 1.1
# a look at the queue costs the scheduler more than the steps gain from a shorter wait
SECONDS_BETWEEN_LOOKS = 2.0
# what another node has written is seen late on a file server
SECONDS_FOR_RESULT = 15
IMAGES = (".nii", ".nii.gz", ".h5")
# an error that was never raised has no trace, and its text no heading
HEADING = "Traceback (most recent call last):\n"


def is_small(interface: Any) -> bool:
    """Whether a step only gathers names or copies small files: a job takes longer to start.

    Parameters
    ----------
    interface : nipype interface
        What the step runs.

    Returns
    -------
    bool
        True for those that are run where the app runs.
    """
    if isinstance(interface, SaveDerivative):
        return not str(interface.inputs.destination).endswith(IMAGES)
    if isinstance(interface, SaveMany):
        return not any(path.endswith(IMAGES) for path in interface.inputs.destinations)
    return isinstance(interface, Merge)


def _words(sbatch_args: Any) -> list[str]:
    try:
        if isinstance(sbatch_args, str):
            return shlex.split(sbatch_args)
    except ValueError:
        pass
    raise SettingsError(
        f"--nipype-plugin-file: sbatch_args is {sbatch_args!r}; give one text, as on a command "
        "line, such as --partition=short --time=60"
    )


def job_options(asked: Sequence[str], memory_gb: float, n_threads: int) -> list[str]:
    """Options of sbatch for one step: those asked for, and its needs where these say nothing.

    Parameters
    ----------
    asked : sequence of str
        Words of the plugin file's ``sbatch_args``.
    memory_gb : float
        What the step declares, in GB.
    n_threads : int
        Threads that it starts.

    Returns
    -------
    list of str
        Words for sbatch.

    Examples
    --------
    >>> job_options(["--partition=short"], 1.0, 2)
    ['--cpus-per-task=2', '--mem=1500M', '--partition=short']
    >>> job_options(["--mem=4G", "-c", "4"], 1.0, 2)
    ['--mem=4G', '-c', '4']
    """
    needs = []
    if not any(re.match(r"-c\d*$|--cpus-per-task\b", word) for word in asked):
        needs.append(f"--cpus-per-task={n_threads}")
    if not any(re.match(r"--mem(-per-cpu|-per-gpu)?(=|$)", word) for word in asked):
        needs.append(f"--mem={math.ceil(INTERPRETER_MB + HEADROOM * 1000 * memory_gb)}M")
    return [*needs, *asked]


class SteadySlurmPlugin(SLURMPlugin):
    """Runs each step as a job of SLURM.

    Parameters
    ----------
    arguments : mapping
        Arguments of nipype's SLURM plugin: ``sbatch_args``, ``template``, ``max_jobs``,
        ``max_tries``, ``retry_timeout``.
    callback : callable
        Takes a node and ``start``, ``end`` or ``exception``.

    Raises
    ------
    SettingsError
        If ``sbatch_args`` is not one text.

    Notes
    -----
    nipype's own plugin asks for neither memory nor cores, fails without ``LOGNAME`` and with
    spaces in the work folder, calls squeue for each job at each look, and leaves its jobs in the
    queue when it is stopped: they would write into the folders of the next run. Where a job dies
    before it has begun, it takes the result that an earlier run left in the step's folder.
    """

    def __init__(
        self, arguments: Mapping[str, Any], callback: Callable[[pe.Node, str], None]
    ) -> None:
        super().__init__(plugin_args=dict(arguments))
        self._status_callback = callback
        self._options = _words(self._sbatch_args or "")
        self._in_queue: frozenset[int] = frozenset()
        self._looked = -math.inf
        self._is_away = False
        self._scripts: dict[int, Path] = {}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run the steps; no job of theirs is left, whatever happens."""
        config["execution"]["poll_sleep_duration"] = str(SECONDS_BETWEEN_LOOKS)
        config["execution"]["job_finished_timeout"] = str(SECONDS_FOR_RESULT)
        for node in graph.nodes():
            node.run_without_submitting = is_small(node.interface)
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            left = [str(job) for job in self._pending]
            if left:
                log.info("taking %d jobs out of the queue", len(left))
                subprocess.run(["scancel", *left], capture_output=True, check=False)

    def _is_pending(self, taskid: int) -> bool:
        if time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS / 2:
            command = ["squeue", "--noheader", "--format=%A", f"--user={os.getuid()}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                # the controller is busy or away for a while; jobs go on without it
                level = logging.DEBUG if self._is_away else logging.WARNING
                log.log(level, "squeue failed, asking again: %s", found.stderr.strip())
                self._is_away = True
                return True
            self._is_away = False
            self._in_queue = frozenset(int(word) for word in found.stdout.split())
            self._looked = time.monotonic()
        return taskid in self._in_queue

    def _submit_job(self, node: pe.Node, updatehash: bool = False) -> int:
        # a job that dies before it begins would leave what an earlier run has left there
        for path in _results(node.output_dir()):
            path.unlink()
        return int(super()._submit_job(node, updatehash=updatehash))

    def _submit_batchtask(self, scriptfile: str, node: pe.Node) -> int:
        own = shlex.split((node.plugin_args or {}).get("sbatch_args", ""))
        script = Path(scriptfile)
        command = [
            *("sbatch", "--parsable", f"--job-name={node.name}"),
            f"--output={script.with_suffix('.log')}",
            *job_options([*self._options, *own], node.mem_gb, node.n_procs or 1),
            str(script),
        ]
        for attempt in range(self._max_tries + 1):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            if attempt < self._max_tries:
                time.sleep(self._retry_timeout)
        else:
            raise RunError(
                f"step {node.name} was not submitted: {done.stderr.strip()}; correct sbatch_args "
                "in the file of --nipype-plugin-file"
            )
        job = int(done.stdout.split(";")[0])
        self._pending[job] = node.output_dir()
        self._scripts[job] = script
        # it counts as waiting until the queue is read anew
        self._in_queue |= {job}
        return job

    def _get_result(self, taskid: int) -> Any:
        result = super()._get_result(taskid)
        if result is None or _results(self._pending[taskid]):
            return result
        script = self._scripts[taskid]
        # what failed before the step had a folder
        crash = script.with_name(
            script.stem.replace("batchscript_pyscript_", "crashdump_") + ".pklz"
        )
        if crash.exists():
            return {"result": None, "traceback": loadpkl(crash)["traceback"]}
        path = script.with_suffix(".log")
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        error = RunError(
            f"job {taskid} of SLURM ended without a result, most often for want of memory or time"
            f"{f' ({last})' if last else ''}; see {path} and sacct -j {taskid}, and raise --mem or "
            "--time in sbatch_args of the file of --nipype-plugin-file"
        )
        return {"result": None, "traceback": [HEADING, *format_exception(error)]}


def _results(folder: str) -> list[Path]:
    """What a step has left of its run, well ended or not."""
    return [*Path(folder).glob("result_*.pklz"), *Path(folder).glob("crashstore.pklz")]


def name_user() -> None:
    """Name the user where the environment does not: nipype's plugins for schedulers ask for it."""
    os.environ.setdefault("LOGNAME", _user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"


# what each plugin calls
COMMANDS = {
    "SLURM": ("sbatch", "squeue", "scancel"),
    "SLURMGraph": ("sbatch",),
    "SGE": ("qsub", "qstat"),
    "SGEGraph": ("qsub",),
    "PBS": ("qsub", "qstat"),
    "PBSGraph": ("qsub",),
    "LSF": ("bsub", "bjobs"),
    "OAR": ("oarsub", "oarstat"),
    "Condor": ("condor_qsub", "condor_q"),
    "CondorDAGMan": ("condor_submit_dag",),
}


def missing_commands(plugin: str) -> list[str]:
    """Commands of a scheduler that a plugin calls and that are not there.

    Parameters
    ----------
    plugin : str
        Name of the plugin, such as ``SLURM``.

    Returns
    -------
    list of str
        Empty where all are there, or where it needs none.

    Examples
    --------
    >>> missing_commands("MultiProc")
    []
    """
    return [name for name in COMMANDS.get(plugin, ()) if shutil.which(name) is None]

"""nipype's plugins; MultiProc is made to outlive a killed worker and to leave none behind."""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from traceback import format_exception
from typing import Any

import nipype.pipeline.engine as pe
from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import GraphPluginBase
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from bids_alsmri.engine.slurm import SteadySlurmPlugin, name_user
from bids_alsmri.errors import RunError

# their words repeat what our lines say
QUIET = ("nipype.workflow", "nipype.utils", "nipype.interface", "nipype.filemanip")

Callback = Callable[[pe.Node, str], None]


def silence_nipype() -> None:
    """Keep nipype's own log lines back; its import sets their levels, so this comes after it."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def start_worker(folder: str) -> None:
    """Prepare a worker process: its folder, and its end together with the main process.

    Parameters
    ----------
    folder : str
        Where it works.

    Notes
    -----
    A worker whose main process was killed would finish its step, and write into the folder in
    which the next run does the same step. The pipe to the main process closes with it; the
    kernel then sends SIGIO, whose default is to end the process, even inside compiled code that
    holds the interpreter's lock.
    """
    os.chdir(folder)
    os.environ["NIPYPE_NO_ET"] = "1"
    silence_nipype()
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
        # no signal tells of a pipe that was closed before; the worker would wait for ever for work
        if multiprocessing.connection.wait([sentinel], timeout=0):
            os._exit(1)


class SteadyMultiProcPlugin(MultiProcPlugin):
    """MultiProc that outlives a killed worker.

    Parameters
    ----------
    arguments : mapping
        Arguments of nipype's MultiProc.
    callback : callable
        Takes a node and ``start``, ``end`` or ``exception``.

    Notes
    -----
    In nipype's own plugin a worker that is killed, mostly for want of memory, leaves the run
    waiting for ever, and takes the steps with it that ran beside it. Here every step that was
    under way is started once more in a process of its own; the one that dies again has failed.

    While steps run and none can be started, nipype's own plugin searches its graph and collects
    garbage at every look, which takes most of a core from the steps. Here it looks again when
    something has changed.
    """

    def __init__(self, arguments: Mapping[str, Any], callback: Callback) -> None:
        super().__init__(plugin_args=dict(arguments))
        self.pool.shutdown()
        self._context = multiprocessing.get_context(self.plugin_args.get("mp_context"))
        self._pools = [self._new_pool(self.processors)]
        # not among the arguments: nipype pickles those with every MapNode
        self._status_callback = callback
        self._nodes: dict[int, tuple[pe.Node, bool]] = {}
        self._alone: set[int] = set()
        self._seen: tuple[int, ...] | None = None

    def _new_pool(self, n_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=n_workers,
            mp_context=self._context,
            initializer=start_worker,
            initargs=(self._cwd,),
        )

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run the steps, and end all workers whatever happens."""
        # nipype collects garbage before each step; what is there now stays, and is not searched
        gc.collect()
        gc.freeze()
        try:
            super().run(graph, config, updatehash=updatehash)
        except KeyboardInterrupt:
            # a scheduler that ends a job waits half a minute; some steps take longer
            for pool in self._pools:
                for process in list((pool._processes or {}).values()):
                    process.kill()
            raise
        finally:
            gc.unfreeze()
            for pool in self._pools:
                pool.shutdown(wait=True, cancel_futures=True)

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        before = self._state()
        if before == self._seen:
            return
        super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        # a step that was started, or found done in the work folder, may make room for another
        self._seen = before if self._state() == before else None

    def _state(self) -> tuple[int, int, int, int]:
        """What decides whether a step can be started: how many there are, run and have ended."""
        # a step over items becomes several when it is reached
        n_steps, n_done, n_running = len(self.procs), self.proc_done.sum(), self.proc_pending.sum()
        return n_steps, len(self.pending_tasks), int(n_done), int(n_running)

    def _postrun_check(self) -> None:
        """Leave the pools to :meth:`run`."""

    def _submit_job(self, node: pe.Node, updatehash: bool = False) -> int:
        self._taskid += 1
        self._nodes[self._taskid] = (node, updatehash)
        try:
            self._task_obj[self._taskid] = self._submit(self._pools[0], self._taskid)
        except BrokenProcessPool:
            self._replace_pool()
            self._task_obj[self._taskid] = self._submit(self._pools[0], self._taskid)
        return int(self._taskid)

    def _submit(self, pool: ProcessPoolExecutor, task: int) -> Future[Any]:
        node, updatehash = self._nodes[task]
        return pool.submit(run_node, node, updatehash, task)

    def _replace_pool(self) -> None:
        self._pools.insert(0, self._new_pool(self.processors))

    def _get_result(self, taskid: int) -> Any:
        future = self._task_obj[taskid]
        if not future.done():
            return None
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, BrokenProcessPool):
            if taskid not in self._alone:
                self._alone.add(taskid)
                self._pools.append(self._new_pool(1))
                self._task_obj[taskid] = self._submit(self._pools[-1], taskid)
                return None
            error = RunError(
                f"the process of step {self._nodes[taskid][0].name} was killed twice, most often "
                "because memory ran out; give fewer --n-procs, or run where there is more memory"
            )
        # an error that was never raised has no trace, and its text no heading
        heading = [] if error.__traceback__ else ["Traceback (most recent call last):\n"]
        trace = [*heading, *format_exception(error)]
        return {"result": None, "traceback": trace, "taskid": taskid}

    def _clear_task(self, taskid: int) -> None:
        del self._task_obj[taskid], self._nodes[taskid]

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        if cached:
            # nipype tells no start of a step that it takes from the work folder
            self._status_callback(self.procs[jobid], "start")
        super()._task_finished_cb(jobid, cached=cached)


def make_plugin(name: str, arguments: Mapping[str, Any], callback: Callback) -> Any:
    """Plugin that runs steps.

    Parameters
    ----------
    name : str
        'Linear' for one step after the other, 'MultiProc' for several at a time, or the name of
        another plugin of nipype, such as 'SLURM'.
    arguments : mapping
        Arguments of the plugin.
    callback : callable
        Takes a node and ``start``, ``end`` or ``exception``; a step that was not run because one
        before it failed may have an ``end`` without a ``start``.

    Returns
    -------
    nipype plugin
        For ``Workflow.run``.
    """
    silence_nipype()
    if name == "MultiProc":
        return SteadyMultiProcPlugin(arguments, callback)
    if name == "SLURM":
        return SteadySlurmPlugin(arguments, callback)
    name_user()
    plugin = getattr(plugins, f"{name}Plugin")(plugin_args=dict(arguments))
    plugin._status_callback = callback
    return plugin


def tells_status(plugin: Any) -> bool:
    """Whether a plugin calls back while it runs.

    Parameters
    ----------
    plugin : nipype plugin
        One of :func:`make_plugin`.

    Returns
    -------
    bool
        False for those that hand the whole graph to a scheduler, such as SLURMGraph.
    """
    return not isinstance(plugin, GraphPluginBase)

"""What the user sees while steps run: a live display on a terminal, log lines otherwise."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)


class Named(Protocol):
    """Anything with a name, such as a nipype node."""

    name: str


@dataclass
class StepTimes:
    """Start and duration of steps, as the plugin tells them.

    Parameters
    ----------
    started : dict
        Clock at the start of each step, in s.
    seconds : dict
        Duration of each finished step, in s.
    failed : set of str
        Steps that raised.
    """

    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)


class Reporter:
    """Takes the plugin's status calls and shows them.

    Parameters
    ----------
    groups : mapping
        Step name to the scan it belongs to.
    console : rich Console
        Where to draw; log lines are written instead if it is no terminal.
    """

    def __init__(self, groups: Mapping[str, str], console: Console) -> None:
        self.times = StepTimes()
        self._groups = groups
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[step]}"),
                console=console,
            )
            for scan in dict.fromkeys(groups.values()):
                total = sum(1 for value in groups.values() if value == scan)
                self._tasks[scan] = self._progress.add_task(scan, total=total, step="waiting")

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, node: Named, status: str) -> None:
        """Take one status call of a nipype plugin.

        Parameters
        ----------
        node : nipype node
            The step.
        status : str
            ``start``, ``end`` or ``exception``.
        """
        scan = self._groups.get(node.name, "")
        step = node.name.removeprefix(scan.replace("-", "_").replace(" ", "_") + "_")
        now = time.monotonic()
        if status == "start":
            self.times.started[node.name] = now
        elif status == "exception":
            self.times.failed.add(node.name)
        elif node.name not in self.times.seconds:
            self.times.seconds[node.name] = now - self.times.started.get(node.name, now)
        self._show(scan, step, status, self.times.seconds.get(node.name, 0.0))

    def _show(self, scan: str, step: str, status: str, seconds: float) -> None:
        if self._progress is not None and scan in self._tasks:
            advance = 0 if status == "start" else 1
            self._progress.update(self._tasks[scan], advance=advance, step=step)
        elif status == "exception":
            log.error("%s: %s failed", scan, step)
        elif status == "end" and not step.startswith("save_"):
            log.info("%s: %s done in %.1f s", scan, step, seconds)

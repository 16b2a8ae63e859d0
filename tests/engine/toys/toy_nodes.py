"""Trivial steps: text files in place of images, and a journal of what was run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits

from bids_alsmri.errors import DataError
from bids_alsmri.interfaces.node import AlsInterface, NodeInputSpec, NodeOutputSpec, write_facts


def note(name: str) -> None:
    """Write down that a step runs, and take the time that the test asks for."""
    if "TOY_JOURNAL" in os.environ:
        with open(os.environ["TOY_JOURNAL"], "a") as journal:
            journal.write(name + "\n")
    time.sleep(float(os.environ.get("TOY_SLEEP_S", "0")))


def write_slowly(path: Path, text: str) -> Path:
    """Write a text in pieces, so that a kill can fall in between."""
    with path.open("w") as stream:
        for start in range(0, len(text), 64):
            stream.write(text[start : start + 64])
            stream.flush()
            time.sleep(float(os.environ.get("TOY_SLEEP_S", "0")) / 20)
    return path


class TextOutputSpec(NodeOutputSpec):
    out_file = File(exists=True)
    facts = File(exists=True)


class ScaleInputSpec(NodeInputSpec):
    in_file = File(exists=True, mandatory=True)
    factor = traits.Float(mandatory=True)
    n_threads = traits.Int(nohash=True)


class Scale(AlsInterface):
    """Multiply every number of a file; a file that holds ``bad`` is refused."""

    input_spec = ScaleInputSpec
    output_spec = TextOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        note("scale")
        text = Path(self.inputs.in_file).read_text()
        if "bad" in text:
            error = DataError(f"{Path(self.inputs.in_file).name}: holds bad; give numbers")
            error.add_note("in the toy")
            raise error
        if "deadly" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "zlib" in text:
            import zlib

            raise zlib.error("invalid header")
        numbers = [float(word) * self.inputs.factor for word in text.split()]
        out = write_slowly(self.file(runtime, "out.tsv"), "\n".join(f"{n:.6f}" for n in numbers))
        facts = write_facts(self.file(runtime, "facts.json"), {"Mean": float(np.mean(numbers))})
        return self.give(runtime, {"out_file": out, "facts": facts})


class JitterInputSpec(NodeInputSpec):
    in_file = File(exists=True, mandatory=True)
    seed = traits.Int(mandatory=True)


class JitterOutputSpec(NodeOutputSpec):
    out_file = File(exists=True)


class Jitter(AlsInterface):
    """Add noise from a seed."""

    input_spec = JitterInputSpec
    output_spec = JitterOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        note("jitter")
        numbers = np.loadtxt(self.inputs.in_file)
        numbers = numbers + np.random.default_rng(self.inputs.seed).normal(size=numbers.shape)
        out = write_slowly(self.file(runtime, "out.tsv"), "\n".join(f"{n:.6f}" for n in numbers))
        return self.give(runtime, {"out_file": out})


class JoinInputSpec(NodeInputSpec):
    in_files = InputMultiObject(File(exists=True), mandatory=True)
    decimals = traits.Int(mandatory=True)


class Join(AlsInterface):
    """Put the numbers of files one after the other, rounded."""

    input_spec = JoinInputSpec
    output_spec = JitterOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        note("join")
        numbers = [n for path in self.inputs.in_files for n in np.loadtxt(path, ndmin=1)]
        text = "\n".join(f"{n:.{self.inputs.decimals}f}" for n in numbers)
        return self.give(runtime, {"out_file": write_slowly(self.file(runtime, "out.tsv"), text)})


class DrawInputSpec(NodeInputSpec):
    in_file = File(exists=True, mandatory=True)
    title = traits.Str()


class Draw(AlsInterface):
    """Draw nothing, as SVG."""

    input_spec = DrawInputSpec
    output_spec = JitterOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        note("draw")
        title = self.inputs.title if isdefined(self.inputs.title) else ""
        out = self.file(runtime, "out.svg")
        out.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><title>{title}</title>'
            "</svg>"
        )
        return self.give(runtime, {"out_file": out})

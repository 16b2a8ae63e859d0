"""Compile every numeric kernel into NUMBA_CACHE_DIR, by running the examples of the package.

Public functions have examples, which call their kernels; what these leave out follows. Called while
the image is built, so that no run has to compile.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys

import numpy as np

import bids_alsmri.numerics
import bids_alsmri.stats
from bids_alsmri.numerics import denoising, eddy

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def compile_further() -> None:
    """Compile kernels for the types of a diffusion series as it is read, in single precision."""
    series = np.random.default_rng(0).normal(100.0, 2.0, (5, 5, 5, 6)).astype(np.float32)
    denoising.denoise_mppca(
        series,
        np.ones(series.shape[:3], bool),
        patch_radius=1,
        stride=2,
        reconstruct="average",
        n_threads=1,
    )
    # the correction of eddy currents is too long a computation for an example
    eddy._weighted_sum(np.ones((2, 3), np.float32), np.ones(2), np.zeros(3))


def main() -> int:
    """Run the examples of all modules that have kernels.

    Returns
    -------
    int
        Examples that failed: their kernels may not have been compiled.
    """
    compile_further()
    n_failed = 0
    for package in (bids_alsmri.numerics, bids_alsmri.stats):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                module = importlib.import_module(found.name)
                n_failed += doctest.testmod(module, optionflags=OPTIONS).failed
    return n_failed


if __name__ == "__main__":
    sys.exit(min(1, main()))

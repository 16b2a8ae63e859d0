"""Compile every numeric kernel into NUMBA_CACHE_DIR, by running the examples of the package.

Each public function has an example, which calls its kernels with the types of a real run. Called
while the image is built, so that no run has to compile.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys

import bids_alsmri.numerics
import bids_alsmri.stats

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def main() -> int:
    """Run the examples of all modules that have kernels.

    Returns
    -------
    int
        Examples that failed: their kernels may not have been compiled.
    """
    n_failed = 0
    for package in (bids_alsmri.numerics, bids_alsmri.stats):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                module = importlib.import_module(found.name)
                n_failed += doctest.testmod(module, optionflags=OPTIONS).failed
    return n_failed


if __name__ == "__main__":
    sys.exit(min(1, main()))

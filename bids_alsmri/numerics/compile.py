"""The one numba decorator of the package and its fixed options."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


@cache
def _cache_is_writable() -> bool:
    # numba's import-time cache fails hard where it cannot write, so try before asking for it
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if folder is None:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def kernel(function: Kernel) -> Kernel:
    """Compile a numeric kernel without the interpreter lock, cached where that is possible.

    Parameters
    ----------
    function : callable
        A private function on contiguous arrays and scalars.

    Returns
    -------
    callable
        The compiled function.

    Notes
    -----
    ``fastmath`` stays off: it removes tests for NaN.
    """
    compile_it = numba.njit(nogil=True, cache=_cache_is_writable(), fastmath=False)
    return cast(Kernel, compile_it(function))

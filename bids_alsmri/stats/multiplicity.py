"""False discoveries among the tests of a declared family."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float


def adjust_family(p: ArrayLike, *, size: int | None = None) -> NDArray[np.float64]:
    r"""p-values adjusted for the false discovery rate of their family.

    Parameters
    ----------
    p : (n,) array
        0 to 1; NaN where a test could not be made. Such tests stay NaN and do not count.
    size : int, optional
        Tests of the family, where more were made than are given.

    Returns
    -------
    q : (n,) array
        A test is kept at a rate where its q is not larger.

    Raises
    ------
    NumericsError
        If a value is not a probability, or the size is below the number of tests.

    Notes
    -----
    :math:`q_{(i)} = \min_{j \ge i} \min(1, m\, p_{(j)} / j)` (Benjamini and Hochberg 1995,
    doi:10.1111/j.2517-6161.1995.tb02031.x), by SciPy.

    Examples
    --------
    >>> adjust_family([0.01, 0.04, float("nan"), 0.03]).tolist()
    [0.03, 0.04, nan, 0.04]
    """
    values = as_float("p", p, ndim=1)
    known = np.isfinite(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise NumericsError("p holds values outside 0 to 1; give probabilities")
    m = int(known.sum()) if size is None else size
    if m < known.sum():
        raise NumericsError(f"size is {m} but {known.sum()} tests are given; give the larger one")
    q = np.full(len(values), np.nan)
    if known.any():
        # tests that were made but not given cannot be smaller than those that were
        padded = np.concatenate([values[known], np.ones(m - int(known.sum()))])
        q[known] = false_discovery_control(padded, method="bh")[: int(known.sum())]
    return q

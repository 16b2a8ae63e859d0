"""Prediction of a diffusion volume from the others of its shell, by gradient direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

Float = NDArray[np.float64]

# Candidates for the covariance between directions: from a third of the quarter-circle that
# separates all directions up to all of it; noise as a share of the signal's variance.
COVARIANCE_WIDTHS_RAD = (0.5, 0.7, 0.9, 1.1, 1.3, 1.5707963267948966)
COVARIANCE_NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
UNKNOWN_MEAN_VARIANCE = 1e4  # so large that the mean is free, so small that inverses are exact
MIN_KRIGED = 4  # below, the mean over volumes is all that can be known


def direction_covariance(directions: ArrayLike, width_rad: float) -> Float:
    r"""Covariance of signals by the angle between their gradient directions.

    Parameters
    ----------
    directions : (N, 3) array_like
        Unit vectors; opposite ones are the same direction.
    width_rad : float
        Angle at which signals are independent, in rad, positive.

    Returns
    -------
    (N, N) array
        1 on the diagonal.

    Notes
    -----
    The spherical covariance :math:`1 - 3\theta/2a + \theta^3/2a^3` for :math:`\theta < a`, else
    0 (Andersson and Sotiropoulos 2015, doi:10.1016/j.neuroimage.2015.07.067).

    Examples
    --------
    >>> direction_covariance(np.eye(3), 1.0)[0]
    array([1., 0., 0.])
    """
    vectors = as_float("directions", directions, ndim=2)
    angle = np.arccos(np.clip(np.abs(np.einsum("ik,jk->ij", vectors, vectors)), 0.0, 1.0))
    np.fill_diagonal(angle, 0.0)
    scaled = np.minimum(angle / width_rad, 1.0)
    return np.asarray(1 - 1.5 * scaled + 0.5 * scaled**3, dtype=np.float64)


def leave_one_out_weights(directions: ArrayLike, samples: ArrayLike) -> Float:
    r"""Weights by which the other volumes of a shell predict each volume.

    Parameters
    ----------
    directions : (N, 3) array_like
        Unit vectors in the head's frame, N of at least 4.
    samples : (N, M) array_like
        Signals of some brain voxels, from which width and noise of the covariance are chosen.

    Returns
    -------
    (N, N) array
        Row i predicts volume i; its diagonal is 0 and its sum 1.

    Raises
    ------
    NumericsError
        If there are fewer than 4 volumes.

    Notes
    -----
    Kriging with an unknown mean: :math:`\hat y_i = -\sum_{j \ne i} Q_{ij} y_j / Q_{ii}` with
    :math:`Q = (K + \nu I + \kappa 1 1^T)^{-1}`. Width and noise :math:`\nu` minimise the
    leave-one-out error of the samples, one of the criteria of Andersson and Sotiropoulos (2015).

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> v = rng.normal(size=(6, 3)); v /= np.linalg.norm(v, axis=1)[:, None]
    >>> leave_one_out_weights(v, rng.normal(size=(6, 9))).sum(axis=1).round(3)
    array([1., 1., 1., 1., 1., 1.])
    """
    vectors = as_float("directions", directions, ndim=2)
    signal = as_float("samples", samples, ndim=2)
    if len(vectors) < MIN_KRIGED:
        raise NumericsError(
            f"a shell of {len(vectors)} volumes cannot predict each of them; "
            f"give at least {MIN_KRIGED}"
        )
    best, weights = np.inf, np.empty(0)
    for width_rad in COVARIANCE_WIDTHS_RAD:
        covariance = direction_covariance(vectors, width_rad) + UNKNOWN_MEAN_VARIANCE
        for noise in COVARIANCE_NOISES:
            precision = np.linalg.inv(covariance + noise * np.eye(len(vectors)))
            candidate = -precision / np.diag(precision)[:, None]
            np.fill_diagonal(candidate, 0.0)
            error = float(np.square(signal - candidate @ signal).sum())
            if error < best:
                best, weights = error, candidate
    # linear algebra on another number of threads may differ in the last bit; voxels may not
    rounded: Float = np.round(weights, 9)
    return rounded

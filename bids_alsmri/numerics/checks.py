"""Checks of array arguments, with messages that name the argument."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError


def as_float(name: str, values: ArrayLike, *, ndim: int | None = None) -> NDArray[np.float64]:
    """Contiguous float64 copy of `values`, or a view where they are already so.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    values : (...) array_like
        Numbers.
    ndim : int, optional
        Number of axes that `values` must have.

    Returns
    -------
    (...) array of float64
        The same numbers, C-contiguous.

    Raises
    ------
    NumericsError
        If the number of axes differs from `ndim`.

    Examples
    --------
    >>> as_float("echo_times_ms", [1, 2], ndim=1)
    array([1., 2.])
    """
    array = np.ascontiguousarray(values, dtype=np.float64)
    if ndim is not None and array.ndim != ndim:
        raise NumericsError(f"{name} has {array.ndim} axes (shape {array.shape}); give {ndim}")
    return array


def require_same_shape(**arrays: NDArray[np.generic]) -> None:
    """Raise where the named arrays differ in shape.

    Parameters
    ----------
    **arrays : (...) array
        At least two arrays, by the names of the caller's arguments.

    Raises
    ------
    NumericsError
        If two shapes differ; the message names both.

    Examples
    --------
    >>> require_same_shape(fa=np.ones(3), mask=np.ones(3))
    """
    (first, reference), *others = arrays.items()
    for name, array in others:
        if array.shape != reference.shape:
            raise NumericsError(
                f"{name} has shape {array.shape} but {first} has {reference.shape}; "
                "bring both to one grid"
            )


def require_finite(name: str, values: NDArray[np.floating]) -> None:
    """Raise where `values` holds NaN or infinity.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    values : (...) array
        Numbers.

    Raises
    ------
    NumericsError
        If any value is not finite; the message counts them.

    Examples
    --------
    >>> require_finite("signal", np.ones(3))
    """
    n_bad = int(np.count_nonzero(~np.isfinite(values)))
    if n_bad:
        raise NumericsError(f"{name} holds {n_bad} NaN or infinite values; mask or replace them")


def require_range(
    name: str, value: float, low: float, high: float, *, unit: str = "", open_low: bool = False
) -> None:
    """Raise where a number lies outside its allowed range.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value, low, high : float
        The number and its closed range, in `unit`.
    unit : str
        Unit, for the message.
    open_low : bool
        Whether `low` itself is forbidden.

    Raises
    ------
    NumericsError
        If `value` is not finite or lies outside the range.

    Examples
    --------
    >>> require_range("short_fraction", 0.6, 0, 1)
    """
    if not np.isfinite(value) or value < low or value > high or (open_low and value == low):
        between = f"above {low:g} and at most {high:g}" if open_low else f"from {low:g} to {high:g}"
        raise NumericsError(f"{name} is {value:g} {unit}".rstrip() + f"; it must lie {between}")

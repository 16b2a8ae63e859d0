"""Clinical and electrophysiological values as grades."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float

# ms, of the mean duration of motor unit action potentials: ends of normal, mild and moderate
# (Diamanti 2018, doi:10.1007/s10072-018-3272-z).
EMG_LIMITS_MS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "tibialis_anterior": (10.0, 12.5, 15.0),
        "first_dorsal_interosseous": (9.0, 11.25, 13.5),
        "thoracic_paraspinal": (9.0, 11.25, 13.5),
    }
)


def emg_grade(durations_ms: ArrayLike, *, muscle: str) -> NDArray[np.float64]:
    """Grade of the mean duration of motor unit action potentials.

    Parameters
    ----------
    durations_ms : (n,) array
        Mean of at least ten potentials each, in ms, positive; NaN where missing.
    muscle : str
        One of `EMG_LIMITS_MS`.

    Returns
    -------
    grade : (n,) array
        0 normal, 1 mild, 2 moderate, 3 severe; NaN where missing.

    Raises
    ------
    NumericsError
        If there are no limits for the muscle, or a duration is not positive.

    Notes
    -----
    Diamanti 2018 gives normal below 10, mild 10 to 12.5, moderate 12.5 to 15 and severe above 15
    ms for the tibialis anterior, and does not say where 12.5 belongs. Here 10 is mild, 12.5
    moderate, and 15 moderate, since severe is above it.

    Examples
    --------
    >>> emg_grade([9.9, 10, 12.5, 15, 15.1], muscle="tibialis_anterior").tolist()
    [0.0, 1.0, 2.0, 2.0, 3.0]
    """
    if muscle not in EMG_LIMITS_MS:
        raise NumericsError(
            f"muscle is '{muscle}'; limits are known for {', '.join(EMG_LIMITS_MS)}"
        )
    values = as_float("durations_ms", durations_ms, ndim=1)
    if (values <= 0).any():
        raise NumericsError(f"durations_ms holds {np.nanmin(values):g} ms; expected above 0")
    normal, mild, moderate = EMG_LIMITS_MS[muscle]
    grade = (values >= normal) * 1.0 + (values >= mild) + (values > moderate)
    return np.where(np.isfinite(values), grade, np.nan)

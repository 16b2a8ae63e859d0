"""The diffusion tensor and its scalars."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import require_range
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.gradients import GradientTable, require_tensor_directions

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# rounds of least squares with weights from the fit before; they define the method
_ROUNDS = MappingProxyType({"ols": 0, "wls": 1, "iwls": 2, "robust": 1})
_N_TENSOR = 6
_N_PARAMETERS = 7  # six tensor elements and ln S0
_ROUNDING = 1e-9  # of the signal: smaller residuals are no noise and have no outliers
_SLAB_VOXELS = 20_000  # bounds memory; larger slabs are no faster


@dataclass(frozen=True)
class TensorFit:
    """Maps of a diffusion tensor fit; 0 outside the mask, NaN where the fit failed.

    Parameters
    ----------
    fa : (...) array
        Fractional anisotropy, 0 to 1.
    md, ad, rd : (...) array
        Mean, axial and radial diffusivity, in mm2/s.
    v1 : (..., 3) array
        Principal direction in world axes, a unit vector of arbitrary sign.
    tensor : (..., 6) array
        Dxx, Dxy, Dyy, Dxz, Dyz, Dzz in world axes, in mm2/s, before eigenvalues were clipped.
    s0 : (...) array
        Fitted signal at b=0, in the unit of the signal.
    residual_sd : (...) array
        Standard deviation of signal minus fit over the volumes used, freed of the seven fitted
        parameters, in the unit of the signal; an estimate of the noise.
    n_used : (...) array of int
        Volumes that entered: positive ones, for the robust fit without outliers.
    failed_mask : (...) array of bool
        No tensor: too few usable volumes, singular, or not one positive eigenvalue.
    clipped_mask : (...) array of bool
        A tensor whose negative eigenvalues were raised to the smallest positive one.
    """

    fa: NDArray[np.float32]
    md: NDArray[np.float32]
    ad: NDArray[np.float32]
    rd: NDArray[np.float32]
    v1: NDArray[np.float32]
    tensor: NDArray[np.float32]
    s0: NDArray[np.float32]
    residual_sd: NDArray[np.float32]
    n_used: NDArray[np.int16]
    failed_mask: BoolArray
    clipped_mask: BoolArray


def tensor_design(gradients: GradientTable) -> FloatArray:
    r"""Matrix that maps tensor elements and ln S0 to the logarithm of the signal.

    Parameters
    ----------
    gradients : GradientTable
        Of N volumes.

    Returns
    -------
    design : (N, 7) array
        Columns for Dxx, Dxy, Dyy, Dxz, Dyz, Dzz (mm2/s) and ln S0.

    Notes
    -----
    :math:`\ln S = \ln S_0 - b\,g^T D\,g` (Basser, Mattiello and Le Bihan 1994,
    doi:10.1006/jmrb.1994.1037).

    Examples
    --------
    >>> tensor_design(GradientTable(np.array([1000.0]), np.array([[0, 0, 1.0]])))
    array([[   -0.,    -0.,    -0.,    -0.,    -0., -1000.,     1.]])
    """
    x, y, z = gradients.directions_world.T
    products = np.stack([x * x, 2 * x * y, y * y, 2 * x * z, 2 * y * z, z * z], axis=1)
    weighting = -gradients.b_values_s_mm2[:, np.newaxis] * products
    return np.hstack([weighting, np.ones((gradients.n_volumes, 1))])


@kernel
def _solve_weighted(
    design: FloatArray,
    log_signal: FloatArray,
    weight: FloatArray,
    lower: FloatArray,
    beta: FloatArray,
) -> bool:
    # Cholesky of the 7x7 normal equations; `lower` is kept for the leverages
    n_volumes, n_parameters = design.shape
    lower[:] = 0.0
    beta[:] = 0.0
    for volume in range(n_volumes):
        if weight[volume] > 0:
            for row in range(n_parameters):
                weighted = weight[volume] * design[volume, row]
                beta[row] += weighted * log_signal[volume]
                for column in range(row + 1):
                    lower[row, column] += weighted * design[volume, column]
    for row in range(n_parameters):
        smallest = 1e-13 * lower[row, row]
        for column in range(row + 1):
            total = lower[row, column]
            for k in range(column):
                total -= lower[row, k] * lower[column, k]
            if row > column:
                lower[row, column] = total / lower[column, column]
            elif total > smallest:
                lower[row, row] = np.sqrt(total)
            else:
                return False
    for row in range(n_parameters):
        for k in range(row):
            beta[row] -= lower[row, k] * beta[k]
        beta[row] /= lower[row, row]
    for row in range(n_parameters - 1, -1, -1):
        for k in range(row + 1, n_parameters):
            beta[row] -= lower[k, row] * beta[k]
        beta[row] /= lower[row, row]
    return True


@kernel
def _predict_log(design: FloatArray, beta: FloatArray, log_fit: FloatArray) -> float:
    highest = -np.inf
    for volume in range(design.shape[0]):
        total = 0.0
        for k in range(design.shape[1]):
            total += design[volume, k] * beta[k]
        log_fit[volume] = total
        highest = max(highest, total)
    return highest


@kernel
def _reweigh(
    design: FloatArray,
    log_signal: FloatArray,
    log_fit: FloatArray,
    usable: BoolArray,
    weight: FloatArray,
    lower: FloatArray,
    beta: FloatArray,
    n_rounds: int,
) -> bool:
    # noise of ln S is noise over S, so a volume counts by its predicted signal squared
    for _ in range(n_rounds):
        highest = _predict_log(design, beta, log_fit)
        for volume in range(len(weight)):
            weight[volume] = np.exp(2 * (log_fit[volume] - highest)) if usable[volume] else 0.0
        if not _solve_weighted(design, log_signal, weight, lower, beta):
            return False
    return True


@kernel
def _leverage(design_row: FloatArray, weight: float, lower: FloatArray, work: FloatArray) -> float:
    total = 0.0
    for row in range(len(design_row)):
        value = design_row[row]
        for k in range(row):
            value -= lower[row, k] * work[k]
        work[row] = value / lower[row, row]
        total += work[row] ** 2
    return weight * total


@kernel
def _median(values: FloatArray, n_values: int) -> float:
    # Shell sort in place: NumPy's median takes numba 3 s to compile, in each process
    gap = n_values // 2
    while gap > 0:
        for end in range(gap, n_values):
            moving = values[end]
            place = end
            while place >= gap and values[place - gap] > moving:
                values[place] = values[place - gap]
                place -= gap
            values[place] = moving
        gap //= 2
    return float(0.5 * (values[(n_values - 1) // 2] + values[n_values // 2]))


@kernel
def _robust_scale(
    log_signal: FloatArray,
    log_fit: FloatArray,
    usable: BoolArray,
    n_parameters: int,
    work: FloatArray,
) -> float:
    n_usable = 0
    for volume in range(len(usable)):
        if usable[volume]:
            work[n_usable] = np.exp(log_fit[volume]) * (log_signal[volume] - log_fit[volume])
            n_usable += 1
    middle = _median(work, n_usable)
    for position in range(n_usable):
        work[position] = abs(work[position] - middle)
    # 1.4826 makes the median absolute deviation of a normal distribution its standard deviation
    correction = np.sqrt(n_usable / (n_usable - n_parameters))
    return float(1.4826 * correction * _median(work, n_usable))


@kernel
def _drop_outliers(
    design: FloatArray,
    log_signal: FloatArray,
    log_fit: FloatArray,
    usable: BoolArray,
    weight: FloatArray,
    lower: FloatArray,
    beta: FloatArray,
    noise_sigma: float,
    cutoff_sd: float,
) -> bool:
    # Geman-McClure weights first, then volumes beyond the cutoff lose their place in `usable`
    n_volumes, n_parameters = design.shape
    given = noise_sigma > 0
    n_usable = 0
    for volume in range(n_volumes):
        n_usable += usable[volume]
    if n_usable <= n_parameters:
        return True
    work = np.empty(n_volumes)
    highest = np.exp(_predict_log(design, beta, log_fit))
    scale = noise_sigma
    if not given:
        scale = _robust_scale(log_signal, log_fit, usable, n_parameters, work)
    if not scale > _ROUNDING * highest:
        return True
    for volume in range(n_volumes):
        square = (scale * np.exp(-log_fit[volume])) ** 2
        residual = log_signal[volume] - log_fit[volume]
        weight[volume] = square / (square + residual**2) ** 2 if usable[volume] else 0.0
    if not _solve_weighted(design, log_signal, weight, lower, beta):
        return False
    _predict_log(design, beta, log_fit)
    if not given:
        scale = _robust_scale(log_signal, log_fit, usable, n_parameters, work)
    for volume in range(n_volumes):
        if usable[volume]:
            leverage = min(_leverage(design[volume], weight[volume], lower, work), 0.99)
            residual = np.exp(log_signal[volume]) - np.exp(log_fit[volume])
            usable[volume] = abs(residual) <= cutoff_sd * scale * np.sqrt(1 - leverage)
    for volume in range(n_volumes):
        weight[volume] = 1.0 if usable[volume] else 0.0
    return _solve_weighted(design, log_signal, weight, lower, beta)


@kernel
def _fit_voxels(
    signal: FloatArray,
    design: FloatArray,
    n_rounds: int,
    cutoff_sd: float,
    noise_sigma: float,
    parameters: FloatArray,
    residual_sd: FloatArray,
    n_used: NDArray[np.int64],
) -> None:
    # a voxel that cannot be fitted keeps n_used = 0; cutoff_sd = 0 means no robust steps
    n_volumes, n_parameters = design.shape
    log_signal, log_fit, weight = np.zeros(n_volumes), np.zeros(n_volumes), np.zeros(n_volumes)
    usable = np.zeros(n_volumes, dtype=np.bool_)
    lower, beta = np.zeros((n_parameters, n_parameters)), np.zeros(n_parameters)
    for voxel in range(signal.shape[0]):
        for volume in range(n_volumes):
            value = signal[voxel, volume]
            usable[volume] = value > 0 and value < np.inf
            log_signal[volume] = np.log(value) if usable[volume] else 0.0
            weight[volume] = 1.0 if usable[volume] else 0.0
        solved = _solve_weighted(design, log_signal, weight, lower, beta)
        solved = solved and _reweigh(
            design, log_signal, log_fit, usable, weight, lower, beta, n_rounds
        )
        if solved and cutoff_sd > 0:
            solved = _drop_outliers(
                design, log_signal, log_fit, usable, weight, lower, beta, noise_sigma, cutoff_sd
            ) and _reweigh(design, log_signal, log_fit, usable, weight, lower, beta, n_rounds)
        if solved:
            _predict_log(design, beta, log_fit)
            squares = 0.0
            for volume in range(n_volumes):
                if usable[volume]:
                    squares += (signal[voxel, volume] - np.exp(log_fit[volume])) ** 2
                    n_used[voxel] += 1
            for k in range(n_parameters):
                parameters[voxel, k] = beta[k]
            dof = n_used[voxel] - n_parameters
            residual_sd[voxel] = np.sqrt(squares / dof) if dof > 0 else np.nan


def fit_tensor(
    signal: NDArray[np.floating],
    gradients: GradientTable,
    mask: BoolArray,
    *,
    method: str,
    outlier_cutoff_sd: float,
    noise_sigma: float | None,
    largest_mm2_s: float,
) -> TensorFit:
    r"""Diffusion tensor and its scalars in every voxel of a mask.

    Parameters
    ----------
    signal : (..., N) array
        Diffusion series, N volumes, in any unit.
    gradients : GradientTable
        Of N volumes.
    mask : (...) array of bool
        Where to fit.
    method : {"ols", "wls", "iwls", "robust"}
        Least squares of the logarithm: ordinary, weighted, weighted twice over, or weighted
        without outliers.
    outlier_cutoff_sd : float
        For "robust": residuals beyond it, in standard deviations of the noise, are outliers.
    noise_sigma : float or None
        For "robust": standard deviation of the noise in the unit of the signal; None estimates it
        in each voxel from the median absolute deviation of the residuals.
    largest_mm2_s : float
        Largest eigenvalue that may be, in mm2/s; a voxel above it fails.

    Returns
    -------
    TensorFit
        Maps of shape (...), float32.

    Raises
    ------
    NumericsError
        If shapes disagree, the method is unknown, or the directions do not determine a tensor.
        A voxel that cannot be fitted does not raise: it is NaN and marked in `failed_mask`.

    Notes
    -----
    "wls" weighs each volume by the squared signal that an ordinary fit predicts, "iwls" does so
    once more with its own prediction (Veraart et al. 2013,
    doi:10.1016/j.neuroimage.2013.05.028). "robust" is IRLLS (Collier et al. 2015,
    doi:10.1002/mrm.25351): Geman-McClure weights, then ordinary and weighted least squares without
    outliers. "wls" and "robust" equal dipy's `TensorModel(fit_method="WLS")` and `"RWLS"`, "iwls"
    equals MRtrix3's ``dwi2tensor -ols -iter 2``. Volumes with no
    positive signal have no logarithm and do not enter in that voxel. Eigenvalues below
    :math:`10^{-6} / b_{max}` are raised to it, as in dipy; a voxel with no eigenvalue above it
    fails, as does one above the largest that may be: where the b=0 is hardly there, as at the rim
    of a brain, the logarithm makes many times free water of noise. Beyond the maps, memory stays
    below `N` times 0.4 MB, whatever the image's size.

    Examples
    --------
    >>> directions = np.array([[1, 1, 0], [1, -1, 0], [0, 1, 1], [0, 1, -1], [1, 0, 1], [-1, 0, 1]])
    >>> table = GradientTable(
    ...     np.array([0.0] + [1000.0] * 6), np.vstack([[0, 0, 0], directions / np.sqrt(2)])
    ... )
    >>> signal = 100 * np.exp(-table.b_values_s_mm2 * 0.7e-3)[np.newaxis]
    >>> fit = fit_tensor(
    ...     signal,
    ...     table,
    ...     np.array([True]),
    ...     method="wls",
    ...     outlier_cutoff_sd=3,
    ...     noise_sigma=None,
    ...     largest_mm2_s=10e-3,
    ... )
    >>> print(f"{fit.md[0]:.2e} {fit.s0[0]:.1f}")
    7.00e-04 100.0
    """
    if method not in _ROUNDS:
        raise NumericsError(f'method is "{method}"; it must be one of {", ".join(_ROUNDS)}')
    if signal.shape[:-1] != mask.shape or signal.shape[-1] != gradients.n_volumes:
        raise NumericsError(
            f"signal has shape {signal.shape}, mask {mask.shape} and gradients "
            f"{gradients.n_volumes} volumes; give (..., N), (...) and N"
        )
    if method == "robust":
        require_range("outlier_cutoff_sd", outlier_cutoff_sd, 0, np.inf, open_low=True)
    if noise_sigma is not None:
        require_range("noise_sigma", noise_sigma, 0, np.inf, open_low=True)
    require_range("largest_mm2_s", largest_mm2_s, 0, np.inf, open_low=True)
    require_tensor_directions(gradients.directions_world[gradients.b_values_s_mm2 > 0])
    fit = _empty_fit(mask.shape)
    design = tensor_design(gradients)
    voxels = np.nonzero(mask)
    for start in range(0, len(voxels[0]), _SLAB_VOXELS):
        slab = tuple(index[start : start + _SLAB_VOXELS] for index in voxels)
        values = np.ascontiguousarray(signal[slab], dtype=np.float64)
        n_slab = len(values)
        parameters, residual_sd = np.full((n_slab, _N_PARAMETERS), np.nan), np.full(n_slab, np.nan)
        n_used = np.zeros(n_slab, dtype=np.int64)
        # b up to thousands beside the column of ones would cost the normal equations six digits
        scale = np.append(np.full(_N_TENSOR, gradients.b_values_s_mm2.max()), 1.0)
        _fit_voxels(
            values,
            design / scale,
            _ROUNDS[method],
            float(outlier_cutoff_sd) if method == "robust" else 0.0,
            float(noise_sigma or 0.0),
            parameters,
            residual_sd,
            n_used,
        )
        _fill_maps(fit, slab, parameters / scale, (1e-6 / scale[0], largest_mm2_s))
        fit.residual_sd[slab] = np.where(fit.failed_mask[slab], np.nan, residual_sd)
        fit.n_used[slab] = n_used
    return fit


def _empty_fit(shape: tuple[int, ...]) -> TensorFit:
    def zeros(*last: int) -> NDArray[np.float32]:
        return np.zeros(shape + last, dtype=np.float32)

    return TensorFit(
        fa=zeros(),
        md=zeros(),
        ad=zeros(),
        rd=zeros(),
        v1=zeros(3),
        tensor=zeros(6),
        s0=zeros(),
        residual_sd=zeros(),
        n_used=np.zeros(shape, dtype=np.int16),
        failed_mask=np.zeros(shape, dtype=np.bool_),
        clipped_mask=np.zeros(shape, dtype=np.bool_),
    )


def _fill_maps(
    fit: TensorFit,
    slab: tuple[NDArray[np.intp], ...],
    parameters: FloatArray,
    limits_mm2_s: tuple[float, float],
) -> None:
    smallest_mm2_s, largest_mm2_s = limits_mm2_s
    finite: BoolArray = np.logical_and.reduce(np.isfinite(parameters), axis=1)
    tensor = np.where(finite[:, np.newaxis], parameters[:, :_N_TENSOR], 0.0)
    values, vectors = np.linalg.eigh(tensor[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3))
    failed = ~finite | (values[:, 2] <= smallest_mm2_s) | (values[:, 2] > largest_mm2_s)
    fit.failed_mask[slab] = failed
    fit.clipped_mask[slab] = ~failed & (values[:, 0] < smallest_mm2_s)
    values = np.maximum(values, smallest_mm2_s)
    values[failed] = np.nan
    md = values.mean(axis=1)
    deviation = np.sum((values - md[:, np.newaxis]) ** 2, axis=1)
    fit.fa[slab] = np.sqrt(1.5 * deviation / np.sum(values**2, axis=1))
    fit.md[slab] = md
    fit.ad[slab] = values[:, 2]
    fit.rd[slab] = values[:, :2].mean(axis=1)
    missing = np.where(failed, np.nan, 1.0)[:, np.newaxis]
    fit.v1[slab] = vectors[:, :, 2] * missing
    fit.tensor[slab] = tensor * missing
    with np.errstate(over="ignore"):  # the exponent of a failed voxel may be anything
        fit.s0[slab] = np.where(failed, np.nan, np.exp(parameters[:, _N_TENSOR]))

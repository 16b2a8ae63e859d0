"""Registration of images of unlike contrast by mutual information.

For contrasts that no curve leads to one another, such as a b=0 and a strongly weighted mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.sampling import spline_coefficients, spline_weights
from bids_alsmri.numerics.volume_registration import (
    N_PARAMETERS,
    ImageFrame,
    Model,
    VolumeFit,
    frame_transform,
    smooth,
)

Float = NDArray[np.float64]

N_BINS = 32  # Mattes et al. 2003, doi:10.1109/TMI.2003.809072: results do not hang on them
MAX_POINTS = 40_000  # more do not make it more certain: neighbouring voxels are alike
CUT_PERCENT = 0.5  # of intensities that share the outermost bins at either end


@kernel
def _sample_points(coefficients: Float, points: Float, matrix: Float, sampled: Float) -> None:
    # points through a matrix to voxels; outside the image its nearest point stands in
    top_x = float(coefficients.shape[0] - 2 * 2 - 1)  # sampling.PAD
    top_y = float(coefficients.shape[1] - 2 * 2 - 1)
    top_z = float(coefficients.shape[2] - 2 * 2 - 1)
    wx, wy, wz = np.empty(4), np.empty(4), np.empty(4)
    for m in range(points.shape[0]):
        px, py, pz = points[m, 0], points[m, 1], points[m, 2]
        x = matrix[0, 0] * px + matrix[0, 1] * py + matrix[0, 2] * pz + matrix[0, 3]
        y = matrix[1, 0] * px + matrix[1, 1] * py + matrix[1, 2] * pz + matrix[1, 3]
        z = matrix[2, 0] * px + matrix[2, 1] * py + matrix[2, 2] * pz + matrix[2, 3]
        ix = spline_weights(min(max(x, 0.0), top_x), wx)
        iy = spline_weights(min(max(y, 0.0), top_y), wy)
        iz = spline_weights(min(max(z, 0.0), top_z), wz)
        value = 0.0
        for a in range(4):
            plane = 0.0
            for b in range(4):
                knots = coefficients[ix + a, iy + b]
                line = wz[0] * knots[iz] + wz[1] * knots[iz + 1]
                line += wz[2] * knots[iz + 2] + wz[3] * knots[iz + 3]
                plane += wy[b] * line
            value += wx[a] * plane
        sampled[m] = value


@kernel
def _joint_histogram(first: Float, second: Float, joint: Float) -> None:
    # both in bins; cubic B-spline windows, so that the sum changes smoothly with intensities
    wa, wb = np.empty(4), np.empty(4)
    top = float(joint.shape[0] - 4)
    joint[:] = 0.0
    for m in range(first.shape[0]):
        i = spline_weights(min(max(first[m], 0.0), top), wa) - 1
        j = spline_weights(min(max(second[m], 0.0), top), wb) - 1
        for a in range(4):
            for b in range(4):
                joint[i + a, j + b] += wa[a] * wb[b]


def _in_bins(values: Float, limits: Float) -> Float:
    # the outer knots of the window stay free, so that no intensity loses a part of it
    low, high = limits
    return np.asarray((values - low) / (high - low) * (N_BINS - 4), dtype=np.float64)


def _limits(name: str, values: Float) -> Float:
    limits = np.asarray(np.percentile(values, [CUT_PERCENT, 100 - CUT_PERCENT]), dtype=np.float64)
    if not limits[1] > limits[0]:
        raise NumericsError(f"{name} has one intensity only; give an image with contrast")
    return limits


def _information(joint: Float) -> float:
    # of a joint histogram, in nats
    share = joint / joint.sum()
    apart = np.outer(share.sum(axis=1), share.sum(axis=0))
    held = share > 0
    return float(np.sum(share[held] * np.log(share[held] / apart[held])))


def register_by_information(
    volume: Float,
    reference: Float,
    mask: NDArray[np.bool_],
    *,
    frame: ImageFrame,
    model: Model,
    phase_axis: int,
    start: Float,
    fwhm_mm: float,
    tolerance_mm: float,
) -> VolumeFit:
    r"""Parameters under which a volume and a reference tell most about each other.

    Parameters
    ----------
    volume, reference : (X, Y, Z) array
        Such as the mean of a strongly weighted shell and the b=0, free of the coils' shading:
        shading blurs the relation between the contrasts and pulls the fit along with it.
    mask : (X, Y, Z) array of bool
        Voxels of the reference that take part: the brain and some of what is around it.
    frame : ImageFrame
        Frame of both.
    model : {"rigid", "eddy", "affine"}
        See `frame_transform`.
    phase_axis : int
        Image axis of phase encoding, 0 to 2.
    start : (n_parameters,) array
        Where to begin, in mm.
    fwhm_mm : float
        Smoothing of both.
    tolerance_mm : float
        Steps below this end the search.

    Returns
    -------
    VolumeFit
        Parameters of the transform reference -> volume. The misfit is :math:`e^{-2 I}`, for normal
        variables the share of energy that is not explained.

    Raises
    ------
    NumericsError
        If the mask is empty, an image is constant in it, or `start` does not fit the model.

    Notes
    -----
    Mutual information :math:`I` of a joint histogram with cubic B-spline windows (Mattes et al.
    2003, doi:10.1109/TMI.2003.809072), maximised by Powell's method. Both images are interpolated
    at the same points, at random places of their voxels: at the voxels' centres the fit would
    favour moves by whole voxels. The places are drawn from a fixed seed, so the result repeats
    bit for bit.

    Examples
    --------
    >>> from bids_alsmri.numerics.volume_registration import image_frame
    >>> x, y, z = np.mgrid[:12, :12, :12] - 5.5
    >>> ball = np.exp(-(x**2 + 2 * y**2 + z**2) / 20)
    >>> fit = register_by_information(
    ...     1 - ball, ball, ball > 0.01, frame=image_frame(np.eye(4), ball.shape), model="rigid",
    ...     phase_axis=1, start=np.zeros(6), fwhm_mm=0.0, tolerance_mm=0.01)
    >>> bool(np.abs(fit.parameters[:3]).max() < 0.1)
    True
    """
    if start.size != N_PARAMETERS[model]:
        raise NumericsError(
            f"start has {start.size} values but model {model!r} has {N_PARAMETERS[model]}"
        )
    if not mask.any():
        raise NumericsError("mask is empty; it misses the reference")
    voxels = np.argwhere(mask).astype(np.float64)
    voxels = voxels[:: -(-len(voxels) // MAX_POINTS)]
    voxels += np.random.default_rng(0).uniform(-0.5, 0.5, voxels.shape)
    points = np.ascontiguousarray(
        voxels @ frame.voxel_to_frame[:3, :3].T + frame.voxel_to_frame[:3, 3]
    )
    from_frame = np.linalg.inv(frame.voxel_to_frame)
    known, seen = np.empty(len(points)), np.empty(len(points))
    coefficients = spline_coefficients(smooth(reference, fwhm_mm, frame))
    _sample_points(coefficients, points, np.ascontiguousarray(from_frame[:3]), known)
    known = _in_bins(known, _limits("reference", known))
    coefficients = spline_coefficients(smooth(volume, fwhm_mm, frame))

    def sample(parameters: Float) -> None:
        matrix = from_frame @ frame_transform(parameters, model, phase_axis)
        _sample_points(coefficients, points, np.ascontiguousarray(matrix[:3]), seen)

    sample(start)
    limits = _limits("volume", seen)
    joint = np.empty((N_BINS, N_BINS))

    def cost(parameters: Float) -> float:
        sample(parameters)
        _joint_histogram(known, _in_bins(seen, limits), joint)
        return -_information(joint)

    found = optimize.minimize(
        cost, start, method="Powell", options={"xtol": tolerance_mm, "ftol": 1e-8, "maxiter": 40}
    )
    return VolumeFit(np.asarray(found.x), float(np.exp(2 * found.fun)), int(found.nfev))

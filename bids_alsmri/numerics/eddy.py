"""Head motion, eddy-current distortion and lost slices of a diffusion series.

A volume is compared with what the other volumes predict for its gradient direction, in the
volume's own space: there its noise is not interpolated, so it cannot pull the fit towards half
voxels, and a lost slice is one slice. All transforms map the reference (the first b=0) to the
volume, in mm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.gradients import find_shells, rotate_directions
from bids_alsmri.numerics.outliers import SliceOutlier, list_outliers, outlier_z, replace_slices

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Predict = Callable[[int], Float]
T = TypeVar("T")
Model = Literal["rigid", "eddy", "affine"]

# Rotations and shears are counted in mm at this radius, so that all parameters weigh alike
# (mean distance of the cortex from the head's centre; Power 2012,
# doi:10.1016/j.neuroimage.2011.10.018).
HEAD_RADIUS_MM = 50.0
FWHM_PER_SD = 2.3548200450309493  # 2 sqrt(2 ln 2)
# Candidates for the covariance between directions: from a third of the half-circle that
# separates all directions up to all of it; noise as a share of the signal's variance.
COVARIANCE_WIDTHS_RAD = (0.5, 0.7, 0.9, 1.1, 1.3, 1.5707963267948966)
COVARIANCE_NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
UNKNOWN_MEAN_VARIANCE = 1e4  # so large that the mean is free, so small that inverses are exact
N_SAMPLES = 2000  # voxels that choose them
MIN_REGRESSED = 8  # volumes from which four coefficients are told with an error below half
MIN_KRIGED = 4  # below, the mean over volumes is all that can be known
N_CONTRAST_KNOTS = 24
CURVATURE_PENALTY = 1e-3  # enough to bridge intensities that no voxel has
MAX_CONTRAST_TURNS = 8
N_PARAMETERS = {"rigid": 6, "eddy": 9, "affine": 12}


@dataclass(frozen=True)
class ImageFrame:
    """Orthonormal image axes in mm about the centre of the field of view.

    Attributes
    ----------
    voxel_to_frame, frame_to_world : (4, 4) array
        Affine matrices.
    shape : tuple of int
        Grid.
    """

    voxel_to_frame: Float
    frame_to_world: Float
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class VolumeFit:
    """How one volume lies against its target.

    Attributes
    ----------
    parameters : (n_parameters,) array
        In mm, see `frame_transform`.
    misfit : float
        Residual energy as a fraction of the volume's energy, 0 to 1.
    n_evaluations : int
        Passes over the volume.
    """

    parameters: Float
    misfit: float
    n_evaluations: int


@dataclass(frozen=True)
class EddySettings:
    """What the correction needs to know; the pipeline's settings hold the defaults.

    Attributes
    ----------
    model : {"rigid", "eddy", "affine"}
        Motion of a diffusion-weighted volume.
    phase_axis, slice_axis : int
        Image axis, 0 to 2, of phase encoding and of slices.
    smoothing_fwhm_mm : tuple of float
        One per round.
    tolerance_mm : float
        Smaller steps end the search.
    mask_margin_mm : float
        Voxels this far outside the brain still count where the contrast is the same.
    contrast_margin_mm : float
        Voxels this near to the brain's border do not count where the contrast differs.
    contrast_fwhm_mm : float
        Smoothing where the contrast differs.
    outlier_threshold_sd : float
        Slices at least this many robust standard deviations below prediction are replaced.
    outlier_min_change : float
        Smallest change, as a share of the prediction, that is replaced.
    outlier_both_signs : bool
        Whether gain counts as loss does.
    min_slice_voxels : int
        Groups with fewer brain voxels are not judged.
    b0_threshold_s_mm2, shell_gap_s_mm2 : float
        At most b=0; largest step between neighbours of one shell.
    max_b0_registered_s_mm2 : float
        Volumes up to this b-value begin at their registration to the b=0, the others at their
        registration to the mean of their shell.
    align_shells : bool
        Whether the mean of each shell is aligned to the b=0 at the end.
    threads : int
        Volumes worked on at once; does not change a bit of the result.
    """

    model: Model
    phase_axis: int
    slice_axis: int
    smoothing_fwhm_mm: tuple[float, ...]
    tolerance_mm: float
    mask_margin_mm: float
    contrast_margin_mm: float
    contrast_fwhm_mm: float
    outlier_threshold_sd: float
    outlier_min_change: float
    outlier_both_signs: bool
    min_slice_voxels: int
    b0_threshold_s_mm2: float
    shell_gap_s_mm2: float
    max_b0_registered_s_mm2: float
    align_shells: bool
    threads: int


def image_frame(affine: ArrayLike, shape: Sequence[int]) -> ImageFrame:
    """Frame in which motion and distortion are estimated.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel to world, in mm.
    shape : sequence of three int
        Grid.

    Returns
    -------
    ImageFrame
        Its axes run along the image axes, so phase encoding is one of them.

    Raises
    ------
    NumericsError
        If the affine cannot be inverted.

    Examples
    --------
    >>> image_frame(np.diag([2, 2, 2, 1]), (3, 3, 3)).frame_to_world[:3, 3]
    array([2., 2., 2.])
    """
    matrix = as_float("affine", affine, ndim=2)
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise NumericsError("affine is singular; give the voxel-to-world matrix of the series")
    u, _, vt = np.linalg.svd(matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))
    frame_to_world = np.eye(4)
    frame_to_world[:3, :3] = u @ vt
    frame_to_world[:3, 3] = matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2) + matrix[:3, 3]
    voxel_to_frame = np.linalg.inv(frame_to_world) @ matrix
    return ImageFrame(voxel_to_frame, frame_to_world, (shape[0], shape[1], shape[2]))


def frame_transform(parameters: Float, model: Model, phase_axis: int) -> Float:
    r"""Matrix reference -> volume in the image frame.

    Parameters
    ----------
    parameters : (n_parameters,) array
        All in mm: 3 translations; rotation vector times `HEAD_RADIUS_MM`; for "eddy" the 3
        slopes of the displacement along the phase axis, times `HEAD_RADIUS_MM`. For "affine"
        3 translations and the 9 elements of the linear part less the identity, times
        `HEAD_RADIUS_MM`.
    model : {"rigid", "eddy", "affine"}
        What the parameters mean.
    phase_axis : int
        Image axis of phase encoding, 0 to 2.

    Returns
    -------
    (4, 4) array
        Frame mm of the reference to frame mm of the volume.

    Notes
    -----
    "eddy" is :math:`T = E R`: the head moves, then the field shifts the image along phase
    encoding by a linear function of position. The eddy current's constant term cannot be told
    from motion along that axis and is part of the translation.

    Examples
    --------
    >>> frame_transform(np.array([1.0, 0, 0, 0, 0, 0]), "rigid", 1)[0, 3]
    np.float64(1.0)
    """
    matrix = np.eye(4)
    if model == "affine":
        matrix[:3, :3] += parameters[3:].reshape(3, 3) / HEAD_RADIUS_MM
    else:
        matrix[:3, :3] = Rotation.from_rotvec(parameters[3:6] / HEAD_RADIUS_MM).as_matrix()
    matrix[:3, 3] = parameters[:3]
    if model == "eddy":
        distortion = np.eye(4)
        distortion[phase_axis, :3] += parameters[6:9] / HEAD_RADIUS_MM
        matrix = distortion @ matrix
    return matrix


@kernel
def _spline_weights(position: float, weights: Float, slopes: Float) -> int:
    # cubic B-spline and its derivative at the four knots around `position`; returns the first
    first = int(np.floor(position)) - 1
    t = position - np.floor(position)
    weights[0] = (1.0 - t) ** 3 / 6.0
    weights[1] = 2.0 / 3.0 - t * t + 0.5 * t * t * t
    weights[2] = 1.0 / 6.0 + 0.5 * t + 0.5 * t * t - 0.5 * t * t * t
    weights[3] = t * t * t / 6.0
    slopes[0] = -0.5 * (1.0 - t) ** 2
    slopes[1] = -2.0 * t + 1.5 * t * t
    slopes[2] = 0.5 + t - 1.5 * t * t
    slopes[3] = 0.5 * t * t
    return first


@kernel
def _mirror(index: int, size: int) -> int:
    if index < 0:
        index = -index
    if index >= size:
        index = 2 * (size - 1) - index
    return min(max(index, 0), size - 1)


@kernel
def _accumulate(
    coefficients: Float,
    points: Float,
    observed: Float,
    weights: Float,
    to_voxel: Float,
    frame_to_voxel: Float,
    sums: Float,
) -> None:
    # sums: 0 n, 1 oo, 2 op, 3 pp, then 12 o*dp, 12 p*dp, 78 dp*dp (upper triangle)
    nx, ny, nz = coefficients.shape
    wx, wy, wz = np.empty(4), np.empty(4), np.empty(4)
    sx, sy, sz = np.empty(4), np.empty(4), np.empty(4)
    slope = np.empty(12)
    sums[:] = 0.0
    for m in range(points.shape[0]):
        px, py, pz = points[m, 0], points[m, 1], points[m, 2]
        x = to_voxel[0, 0] * px + to_voxel[0, 1] * py + to_voxel[0, 2] * pz + to_voxel[0, 3]
        y = to_voxel[1, 0] * px + to_voxel[1, 1] * py + to_voxel[1, 2] * pz + to_voxel[1, 3]
        z = to_voxel[2, 0] * px + to_voxel[2, 1] * py + to_voxel[2, 2] * pz + to_voxel[2, 3]
        if not (0.0 <= x <= nx - 1 and 0.0 <= y <= ny - 1 and 0.0 <= z <= nz - 1):
            continue
        ix, iy, iz = (
            _spline_weights(x, wx, sx),
            _spline_weights(y, wy, sy),
            _spline_weights(z, wz, sz),
        )
        value = gx = gy = gz = 0.0
        for a in range(4):
            ja = _mirror(ix + a, nx)
            for b in range(4):
                jb = _mirror(iy + b, ny)
                line = line_slope = 0.0
                for c in range(4):
                    coefficient = coefficients[ja, jb, _mirror(iz + c, nz)]
                    line += wz[c] * coefficient
                    line_slope += sz[c] * coefficient
                value += wx[a] * wy[b] * line
                gx += sx[a] * wy[b] * line
                gy += wx[a] * sy[b] * line
                gz += wx[a] * wy[b] * line_slope
        for axis in range(3):
            g = (
                gx * frame_to_voxel[0, axis]
                + gy * frame_to_voxel[1, axis]
                + gz * frame_to_voxel[2, axis]
            )
            slope[4 * axis] = g * px
            slope[4 * axis + 1] = g * py
            slope[4 * axis + 2] = g * pz
            slope[4 * axis + 3] = g
        w, o = weights[m], observed[m]
        sums[0] += w
        sums[1] += w * o * o
        sums[2] += w * o * value
        sums[3] += w * value * value
        k = 28
        for i in range(12):
            ws = w * slope[i]
            sums[4 + i] += o * ws
            sums[16 + i] += value * ws
            for j in range(i, 12):
                sums[k] += ws * slope[j]
                k += 1


class _Misfit:
    # cost, gradient and Gauss-Newton matrix of one volume, each point evaluated once
    def __init__(
        self,
        coefficients: Float,
        points_mm: Float,
        observed: Float,
        weights: Float,
        frame: ImageFrame,
        transform: Callable[[Float], Float],
    ) -> None:
        self.data = (coefficients, points_mm, observed, weights)
        self.frame_to_voxel = np.linalg.inv(frame.voxel_to_frame)
        self.transform = transform
        self.n_evaluations = 0
        self._at: Float | None = None

    def _inverse(self, parameters: Float) -> Float:
        return np.linalg.inv(self.transform(parameters))

    def _jacobian(self, parameters: Float) -> Float:
        # central differences of a closed form; 1e-3 mm leaves an error of 1e-10
        step = 1e-3
        columns = []
        for k in range(parameters.size):
            up, down = parameters.copy(), parameters.copy()
            up[k] += step
            down[k] -= step
            columns.append((self._inverse(up) - self._inverse(down))[:3].ravel() / (2 * step))
        return np.stack(columns, axis=1)

    def evaluate(self, parameters: Float) -> None:
        if self._at is not None and np.array_equal(parameters, self._at):
            return
        sums = np.empty(106)
        to_voxel = np.ascontiguousarray((self.frame_to_voxel @ self._inverse(parameters))[:3])
        _accumulate(*self.data, to_voxel, np.ascontiguousarray(self.frame_to_voxel[:3, :3]), sums)
        self.n_evaluations += 1
        self._at = parameters.copy()
        oo, op, pp = max(sums[1], 1e-30), sums[2], max(sums[3], 1e-30)
        gain = op / pp
        jacobian = self._jacobian(parameters)
        o_slope, p_slope = sums[4:16] @ jacobian, sums[16:28] @ jacobian
        upper = np.zeros((12, 12))
        upper[np.triu_indices(12)] = sums[28:]
        full = upper + np.triu(upper, 1).T
        self.cost = (oo - op * gain) / oo
        self.gradient = -2 * gain * (o_slope - gain * p_slope) / oo
        curvature = jacobian.T @ full @ jacobian - np.outer(p_slope, p_slope) / pp
        self.curvature = 2 * gain**2 * curvature / oo

    def cost_and_gradient(self, parameters: Float) -> tuple[float, Float]:
        self.evaluate(parameters)
        return self.cost, self.gradient

    def hessian(self, parameters: Float) -> Float:
        self.evaluate(parameters)
        return self.curvature


def register_volume(
    volume: Float,
    target: Float,
    weights: Float,
    *,
    frame: ImageFrame,
    model: Model,
    phase_axis: int,
    start: Float,
    tolerance_mm: float,
) -> VolumeFit:
    r"""Parameters that make the target explain the volume best.

    Parameters
    ----------
    volume : (X, Y, Z) array
        Observed signal.
    target : (X, Y, Z) array
        Predicted signal of the same contrast, in the reference space.
    weights : (X, Y, Z) array
        Weight of each voxel of the volume; 0 leaves it out (lost slices, background).
    frame : ImageFrame
        Frame of both.
    model : {"rigid", "eddy", "affine"}
        See `frame_transform`.
    phase_axis : int
        Image axis of phase encoding, 0 to 2.
    start : (n_parameters,) array
        Where to begin, in mm.
    tolerance_mm : float
        Steps below this end the search.

    Returns
    -------
    VolumeFit
        Parameters of the transform reference -> volume.

    Raises
    ------
    NumericsError
        If no voxel has weight, or `start` does not fit the model.

    Notes
    -----
    Least squares with a free gain: :math:`\min_{\theta, c} \sum_y w_y [I(y) - c\,P(T_\theta^{-1}
    y)]^2`, the gain eliminated in closed form, P a cubic spline; Gauss-Newton matrix within
    scipy's trust region. Sums run in a fixed order, so the result repeats bit for bit.
    """
    if start.size != N_PARAMETERS[model]:
        raise NumericsError(
            f"start has {start.size} values but model {model!r} has {N_PARAMETERS[model]}"
        )
    used = weights > 0
    if not used.any():
        raise NumericsError("weights are zero everywhere; the mask misses the volume")
    index = np.argwhere(used).astype(np.float64)
    points = index @ frame.voxel_to_frame[:3, :3].T + frame.voxel_to_frame[:3, 3]
    misfit = _Misfit(
        ndimage.spline_filter(target, order=3, mode="mirror"),
        np.ascontiguousarray(points),
        np.ascontiguousarray(volume[used], dtype=np.float64),
        np.ascontiguousarray(weights[used], dtype=np.float64),
        frame,
        lambda parameters: frame_transform(parameters, model, phase_axis),
    )
    stiffness = np.linalg.eigvalsh(misfit.hessian(start))
    found = optimize.minimize(
        misfit.cost_and_gradient,
        start,
        jac=True,
        hess=misfit.hessian,
        method="trust-exact",
        options={
            "initial_trust_radius": 2.0,
            "max_trust_radius": 8.0,
            "gtol": tolerance_mm * max(float(stiffness[0]), 1e-9),
            "maxiter": 40,
        },
    )
    return VolumeFit(np.asarray(found.x), float(found.fun), misfit.n_evaluations)


def to_world(frame_matrix: Float, frame: ImageFrame) -> Float:
    """The same map in world instead of frame coordinates.

    Parameters
    ----------
    frame_matrix : (4, 4) array
        From `frame_transform`.
    frame : ImageFrame
        The frame it refers to.

    Returns
    -------
    (4, 4) array
        World mm of the reference to world mm of the volume.

    Examples
    --------
    >>> frame = image_frame(np.diag([-2, 2, 2, 1]), (3, 3, 3))
    >>> shift = frame_transform(np.array([1.0, 0, 0, 0, 0, 0]), "rigid", 1)
    >>> to_world(shift, frame)[:3, 3] + 0
    array([-1.,  0.,  0.])
    """
    matrix: Float = frame.frame_to_world @ frame_matrix @ np.linalg.inv(frame.frame_to_world)
    return matrix


def rigid_part(parameters: Float, model: Model, frame: ImageFrame) -> Float:
    """Motion of the head alone, without the eddy currents' distortion.

    Parameters
    ----------
    parameters : (n_parameters,) array
        See `frame_transform`.
    model : {"rigid", "eddy", "affine"}
        What they mean.
    frame : ImageFrame
        Their frame.

    Returns
    -------
    (4, 4) array
        World mm of the reference to world mm after the motion: what turns the b-vectors.

    Notes
    -----
    A free affine cannot tell a shear from a rotation; its rotation is the orthogonal factor of
    the polar decomposition ("finite strain", Alexander et al. 2001, doi:10.1109/42.963816).

    Examples
    --------
    >>> frame = image_frame(np.eye(4), (3, 3, 3))
    >>> rigid_part(np.array([0, 0, 0, 0, 0, 0, 5.0, 0, 0]), "eddy", frame).round(6)[0, 0]
    np.float64(1.0)
    """
    if model != "affine":
        return to_world(frame_transform(parameters[:6], "rigid", 0), frame)
    matrix = frame_transform(parameters, "affine", 0)
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = u @ vt
    return to_world(matrix, frame)


def motion_parameters(rigid_world: ArrayLike, centre_mm: ArrayLike) -> Float:
    """Translations and rotations of the head for plots and framewise displacement.

    Parameters
    ----------
    rigid_world : (N, 4, 4) array_like
        From `rigid_part`.
    centre_mm : (3,) array_like
        World point whose displacement is the translation, such as the brain's centre.

    Returns
    -------
    (N, 6) array
        Translation along world x, y, z, in mm; rotation about x, then y, then z, in degrees.

    Examples
    --------
    >>> motion_parameters(np.eye(4)[None], (0, 0, 0))
    array([[0., 0., 0., 0., 0., 0.]])
    """
    matrices = as_float("rigid_world", rigid_world, ndim=3)
    centre = as_float("centre_mm", centre_mm, ndim=1)
    moved = matrices[:, :3, :3] @ centre + matrices[:, :3, 3] - centre
    angles = Rotation.from_matrix(matrices[:, :3, :3]).as_euler("xyz", degrees=True)
    return np.hstack([moved, angles])


def resample_to_reference(volume: Float, reference_to_volume: Float, frame: ImageFrame) -> Float:
    """A volume on the reference grid, by cubic splines, its signal freed of dilution.

    Parameters
    ----------
    volume : (X, Y, Z) array
        Signal in the volume's own space.
    reference_to_volume : (4, 4) array
        In frame coordinates.
    frame : ImageFrame
        Frame of both.

    Returns
    -------
    (X, Y, Z) array
        Multiplied by the map's determinant: a field that squeezes tissue into fewer voxels
        makes them brighter. Outside the field of view the nearest voxel stands in.

    Examples
    --------
    >>> frame = image_frame(np.eye(4), (5, 5, 5))
    >>> bool(np.allclose(resample_to_reference(np.ones((5, 5, 5)), np.eye(4), frame), 1))
    True
    """
    dilution = float(np.linalg.det(reference_to_volume[:3, :3]))
    return dilution * _sample(volume, reference_to_volume, frame)


def _sample(image: Float, here_to_image: Float, frame: ImageFrame) -> Float:
    matrix = np.linalg.inv(frame.voxel_to_frame) @ here_to_image @ frame.voxel_to_frame
    sampled: Float = ndimage.affine_transform(
        image, matrix[:3, :3], matrix[:3, 3], order=3, mode="nearest", output=np.float64
    )
    return sampled


def smooth(volume: Float, fwhm_mm: float, frame: ImageFrame) -> Float:
    """Volume smoothed by a Gaussian.

    Parameters
    ----------
    volume : (X, Y, Z) array
        Signal.
    fwhm_mm : float
        Full width at half maximum, in mm; 0 leaves the volume as it is.
    frame : ImageFrame
        Gives the voxel size.

    Returns
    -------
    (X, Y, Z) array
        Smoothed.

    Examples
    --------
    >>> smooth(np.ones((3, 3, 3)), 4.0, image_frame(np.eye(4), (3, 3, 3)))[1, 1, 1].round(6)
    np.float64(1.0)
    """
    if fwhm_mm <= 0:
        return np.asarray(volume, dtype=np.float64)
    spacing_mm = np.linalg.norm(frame.voxel_to_frame[:3, :3], axis=0)
    sd_voxels = fwhm_mm / FWHM_PER_SD / spacing_mm
    smoothed: Float = ndimage.gaussian_filter(
        np.asarray(volume, dtype=np.float64), sd_voxels, mode="nearest"
    )
    return smoothed


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


def contrast_map(source: ArrayLike, goal: ArrayLike) -> tuple[Float, Float]:
    r"""Smooth curve that turns the intensities of one contrast into those of another.

    Parameters
    ----------
    source, goal : (M,) array_like
        Intensities of the same voxels.

    Returns
    -------
    knots, values : (N_CONTRAST_KNOTS,) array
        The curve, straight between its knots and level beyond them.

    Raises
    ------
    NumericsError
        If `source` is constant.

    Notes
    -----
    Least squares with a small penalty on curvature; what it leaves unexplained is the
    numerator of the correlation ratio (Roche et al. 1998, doi:10.1007/BFb0056301).

    Examples
    --------
    >>> knots, values = contrast_map(np.arange(100.0), 5 - np.arange(100.0))
    >>> bool(np.allclose(values, 5 - knots, atol=0.5))
    True
    """
    intensity, wanted = as_float("source", source, ndim=1), as_float("goal", goal, ndim=1)
    low, high = np.quantile(intensity, [0.005, 0.995])
    if not high > low:
        raise NumericsError("source has one intensity only; give an image with contrast")
    knots: Float = np.linspace(low, high, N_CONTRAST_KNOTS)
    place = np.clip((intensity - low) / (high - low), 0.0, 1.0) * (N_CONTRAST_KNOTS - 1)
    left = np.minimum(place.astype(np.intp), N_CONTRAST_KNOTS - 2)
    share = place - left
    count = N_CONTRAST_KNOTS
    diagonal = np.bincount(left, (1 - share) ** 2, count)
    diagonal += np.bincount(left + 1, share**2, count)
    beside = np.bincount(left, share * (1 - share), count)[:-1]
    right_side = np.bincount(left, (1 - share) * wanted, count)
    right_side += np.bincount(left + 1, share * wanted, count)
    bend = np.diff(np.eye(count), 2, axis=0)
    normal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    normal += CURVATURE_PENALTY * intensity.size / count * bend.T @ bend
    return knots, np.linalg.solve(normal, right_side)


def register_across_contrasts(
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
    """Parameters that align a volume with a reference of another contrast.

    Parameters
    ----------
    volume, reference : (X, Y, Z) array
        Such as a diffusion-weighted image and the b=0.
    mask : (X, Y, Z) array of bool
        Brain in the reference; no wider, since cerebrospinal fluid against air inverts.
    frame : ImageFrame
        Frame of both.
    model : {"rigid", "eddy", "affine"}
        See `frame_transform`.
    phase_axis : int
        Image axis of phase encoding, 0 to 2.
    start : (n_parameters,) array
        Where to begin, in mm.
    fwhm_mm : float
        Smoothing of both. Near the voxel size: wide smoothing blends fluid into brain.
    tolerance_mm : float
        Steps below this end the search.

    Returns
    -------
    VolumeFit
        Parameters of the transform reference -> volume.

    Notes
    -----
    The correlation ratio is maximised by turns: the curve from the reference's intensities to
    the volume's (`contrast_map`), then the transform (`register_volume`).

    Examples
    --------
    >>> x, y, z = np.mgrid[:12, :12, :12] - 5.5
    >>> ball = np.exp(-(x**2 + 2 * y**2 + z**2) / 20)
    >>> fit = register_across_contrasts(
    ...     1 - ball, ball, ball > 0.05, frame=image_frame(np.eye(4), ball.shape), model="rigid",
    ...     phase_axis=1, start=np.zeros(6), fwhm_mm=0.0, tolerance_mm=0.01)
    >>> bool(np.abs(fit.parameters[:3]).max() < 0.05)
    True
    """
    seen, known = smooth(volume, fwhm_mm, frame), smooth(reference, fwhm_mm, frame)
    fit = VolumeFit(start, 1.0, 0)
    for _ in range(MAX_CONTRAST_TURNS):
        transform = frame_transform(fit.parameters, model, phase_axis)
        knots, values = contrast_map(known[mask], _sample(seen, transform, frame)[mask])
        previous = fit
        fit = register_volume(
            seen,
            np.interp(known, knots, values),
            _mask_in_volume(mask, transform, frame).astype(np.float64),
            frame=frame,
            model=model,
            phase_axis=phase_axis,
            start=fit.parameters,
            tolerance_mm=tolerance_mm,
        )
        if np.abs(fit.parameters - previous.parameters).max() < tolerance_mm:
            break
    return fit


@dataclass(frozen=True)
class EddyResult:
    """What the correction found; one row per volume.

    Parameters
    ----------
    reference_to_volume : (N, 4, 4) array
        World mm of the reference to world mm of the volume: motion and distortion.
    rigid : (N, 4, 4) array
        Its motion part, for turning b-vectors.
    motion : (N, 6) array
        Translations, in mm, and rotations, in degrees, of the brain's centre.
    dilution : (N,) array
        Factor that frees resampled signal of the distortion's squeeze: the determinant.
    misfit : (N,) array
        Share of the volume's energy that its prediction does not explain.
    outliers : list of SliceOutlier
        Slices replaced.
    outlier_z : (N, n_groups) array
        Robust z of each multiband group; 0 for b=0.
    data : (X, Y, Z, N) array of float32
        The series in its own space, lost slices replaced.
    """

    reference_to_volume: Float
    rigid: Float
    motion: Float
    dilution: Float
    misfit: Float
    outliers: list[SliceOutlier]
    outlier_z: Float
    data: Single


@dataclass(frozen=True)
class _Series:
    # what stays the same over all rounds
    original: Single  # (N, X, Y, Z)
    mask: NDArray[np.bool_]
    frame: ImageFrame
    labels: NDArray[np.intp]
    directions: Float
    groups: NDArray[np.intp]
    settings: EddySettings

    @property
    def n_shape(self) -> int:
        return N_PARAMETERS[self.settings.model] - (3 if self.settings.model == "affine" else 6)

    @property
    def weighted(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.labels > 0)

    def model(self, volume: int) -> Model:
        return self.settings.model if self.labels[volume] > 0 else "rigid"

    def transform(self, volume: int, parameters: Float) -> Float:
        return frame_transform(parameters, self.model(volume), self.settings.phase_axis)


@dataclass
class _State:
    # what every round improves
    parameters: list[Float]
    misfit: Float
    repaired: Single
    lost: NDArray[np.bool_]  # (N, n_slices)
    z: Float
    outliers: list[SliceOutlier]


def _in_threads(task: Callable[[int], T], items: Sequence[int], threads: int) -> list[T]:
    # each item is computed alone, so their number and order cannot reach the numbers
    if threads == 1:
        return [task(item) for item in items]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(task, items))


@kernel
def _weighted_sum(stack: Single, weights: Float, total: Float) -> None:
    total[:] = 0.0
    for n in range(stack.shape[0]):
        if weights[n] != 0.0:
            for v in range(stack.shape[1]):
                total[v] += weights[n] * stack[n, v]


def _align(series: _Series, state: _State) -> Single:
    # diffusion-weighted volumes on the reference grid, (N, X * Y * Z)
    aligned = np.zeros((len(series.labels), series.mask.size), dtype=np.float32)

    def one(volume: int) -> None:
        transform = series.transform(volume, state.parameters[volume])
        repaired = state.repaired[volume].astype(np.float64)
        aligned[volume] = resample_to_reference(repaired, transform, series.frame).ravel()

    _in_threads(one, series.weighted.tolist(), series.settings.threads)
    return aligned


def _rigid_world(series: _Series, parameters: Sequence[Float]) -> Float:
    return np.stack(
        [rigid_part(p, series.model(i), series.frame) for i, p in enumerate(parameters)]
    )


def _prediction_weights(series: _Series, state: _State, aligned: Single, *, kriged: bool) -> Float:
    # (N, N): row i says how the others predict volume i
    directions = rotate_directions(series.directions, _rigid_world(series, state.parameters))
    inside = np.flatnonzero(series.mask)
    inside = inside[:: max(1, inside.size // N_SAMPLES)]
    weights = np.zeros((len(series.labels), len(series.labels)))
    shells = [np.flatnonzero(series.labels == s) for s in range(1, int(series.labels.max()) + 1)]
    large = [s for s in range(len(shells)) if shells[s].size >= MIN_KRIGED]
    for s, shell in enumerate(shells):
        if s in large and kriged:
            weights[np.ix_(shell, shell)] = leave_one_out_weights(
                directions[shell], aligned[np.ix_(shell, inside)]
            )
            continue
        # too few for their own prediction: the mean of the nearest shell that is large enough
        donors = shells[min(large, key=lambda k, s=s: abs(k - s))] if large else series.weighted
        for volume in shell:
            others = donors[donors != volume]
            weights[volume, others] = 1.0 / others.size
    return weights


def _predictor(series: _Series, state: _State, *, kriged: bool) -> Predict:
    # volume -> its prediction in the reference space, from all others as they lie now
    aligned = _align(series, state)
    weights = _prediction_weights(series, state, aligned, kriged=kriged)

    def predict(volume: int) -> Float:
        total = np.empty(series.mask.size)
        _weighted_sum(aligned, weights[volume], total)
        return total.reshape(series.mask.shape)

    return predict


def _in_volume(image: Float, transform: Float, frame: ImageFrame) -> Float:
    # an image of the reference space as the volume saw it, squeeze included
    inverse = np.linalg.inv(transform)
    return float(np.linalg.det(inverse[:3, :3])) * _sample(image, inverse, frame)


def _moved_border(mask: NDArray[np.bool_], outward_mm: float, frame: ImageFrame) -> Any:
    spacing_mm = np.linalg.norm(frame.voxel_to_frame[:3, :3], axis=0)
    if outward_mm >= 0:
        return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= outward_mm
    inner = ndimage.distance_transform_edt(mask, sampling=spacing_mm) > -outward_mm
    return inner if inner.any() else mask


def _mask_in_volume(mask: NDArray[np.bool_], transform: Float, frame: ImageFrame) -> Any:
    matrix = np.linalg.inv(frame.voxel_to_frame) @ np.linalg.inv(transform) @ frame.voxel_to_frame
    return ndimage.affine_transform(
        mask.astype(np.uint8), matrix[:3, :3], matrix[:3, 3], order=0, output=np.uint8
    ).astype(bool)


def _slice_sums(series: _Series, image: NDArray[Any]) -> Float:
    others = tuple(axis for axis in range(3) if axis != series.settings.slice_axis)
    sums: Float = image.sum(axis=others, dtype=np.float64)
    return sums


def _register(
    series: _Series, state: _State, volume: int, target: Float, wide_mask: Any, fwhm_mm: float
) -> VolumeFit:
    transform = series.transform(volume, state.parameters[volume])
    weights = _mask_in_volume(wide_mask, transform, series.frame).astype(np.float64)
    slices = np.moveaxis(weights, series.settings.slice_axis, 0)
    slices[state.lost[volume]] = 0.0
    return register_volume(
        smooth(state.repaired[volume], fwhm_mm, series.frame),
        smooth(target, fwhm_mm, series.frame),
        weights,
        frame=series.frame,
        model=series.model(volume),
        phase_axis=series.settings.phase_axis,
        start=state.parameters[volume],
        tolerance_mm=series.settings.tolerance_mm,
    )


def _register_to_prediction(
    series: _Series,
    state: _State,
    predict: Predict,
    volumes: NDArray[np.intp],
    fwhm_mm: float,
) -> None:
    wide = _moved_border(series.mask, series.settings.mask_margin_mm, series.frame)

    def one(volume: int) -> VolumeFit:
        return _register(series, state, volume, predict(volume), wide, fwhm_mm)

    fits = _in_threads(one, volumes.tolist(), series.settings.threads)
    for volume, fit in zip(volumes, fits, strict=True):
        state.parameters[volume] = fit.parameters
        state.misfit[volume] = fit.misfit


def _remove_common_distortion(series: _Series, state: _State) -> None:
    # Predictions fix the volumes against each other only. Eddy currents are linear in the
    # gradient, so what remains of the distortion at zero gradient is not theirs.
    if series.settings.model == "rigid":
        return
    for label in range(1, int(series.labels.max()) + 1):
        shell = np.flatnonzero(series.labels == label)
        if shell.size < MIN_REGRESSED:
            continue
        design = np.column_stack([np.ones(shell.size), series.directions[shell]])
        shape = np.stack([state.parameters[i][-series.n_shape :] for i in shell])
        common = np.linalg.lstsq(design, shape, rcond=None)[0][0]
        if series.settings.model == "affine":
            linear = np.eye(3) + common.reshape(3, 3) / HEAD_RADIUS_MM
            # the stretch alone: the common rotation may be the head's
            unstretch = np.eye(4)
            unstretch[:3, :3] = np.linalg.inv(polar(linear)[1])
            _move_shell(series, state, shell, unstretch)
        else:
            for i in shell:
                state.parameters[i] = state.parameters[i] - np.r_[np.zeros(6), common]


def _move_shell(series: _Series, state: _State, shell: NDArray[np.intp], move: Float) -> None:
    # let every transform of a shell begin with `move`, from the b=0 to the shell's space
    for i in shell:
        old = state.parameters[i]
        if series.model(i) == "affine":
            moved = frame_transform(old, "affine", 0) @ move
            linear = (moved[:3, :3] - np.eye(3)) * HEAD_RADIUS_MM
            state.parameters[i] = np.r_[moved[:3, 3], linear.ravel()]
        else:
            moved = frame_transform(old[:6], "rigid", 0) @ move
            turn = Rotation.from_matrix(moved[:3, :3]).as_rotvec() * HEAD_RADIUS_MM
            state.parameters[i] = np.r_[moved[:3, 3], turn, old[6:]]


def _align_shells(series: _Series, state: _State) -> None:
    # mean of each shell to the b=0, the higher ones to the shell below, whose contrast is nearer
    inner = _moved_border(series.mask, -series.settings.contrast_margin_mm, series.frame)
    below = _shell_mean(series, state, np.flatnonzero(series.labels == 0))
    for label in range(1, int(series.labels.max()) + 1):
        shell = np.flatnonzero(series.labels == label)
        fit = register_across_contrasts(
            _shell_mean(series, state, shell),
            below,
            inner,
            frame=series.frame,
            model="rigid",
            phase_axis=series.settings.phase_axis,
            start=np.zeros(6),
            fwhm_mm=series.settings.contrast_fwhm_mm,
            tolerance_mm=series.settings.tolerance_mm,
        )
        _move_shell(series, state, shell, frame_transform(fit.parameters, "rigid", 0))
        below = _shell_mean(series, state, shell)


def _shell_mean(series: _Series, state: _State, shell: NDArray[np.intp]) -> Float:
    def one(volume: int) -> Float:
        transform = series.transform(volume, state.parameters[volume])
        repaired = state.repaired[volume].astype(np.float64)
        return resample_to_reference(repaired, transform, series.frame)

    total = np.zeros(series.mask.shape)
    for start in range(0, shell.size, series.settings.threads):
        chunk = shell[start : start + series.settings.threads].tolist()
        for image in _in_threads(one, chunk, series.settings.threads):
            total += image
    return total / shell.size


def _find_outliers(series: _Series, state: _State, predict: Predict) -> None:
    settings, n = series.settings, len(series.labels)
    n_groups = int(series.groups.max()) + 1
    observed, predicted, voxels = (np.zeros((n, n_groups)) for _ in range(3))
    slice_voxels = np.zeros((n, series.groups.size))

    def in_volume(volume: int) -> tuple[Float, Any]:
        transform = series.transform(volume, state.parameters[volume])
        mask = _mask_in_volume(series.mask, transform, series.frame)
        return _in_volume(predict(volume), transform, series.frame), mask

    def count(volume: int) -> None:
        prediction, mask = in_volume(volume)
        slice_voxels[volume] = _slice_sums(series, mask)
        voxels[volume] = np.bincount(series.groups, slice_voxels[volume])
        for image, sums in ((series.original[volume], observed), (prediction, predicted)):
            sums[volume] = np.bincount(series.groups, _slice_sums(series, image * mask))

    _in_threads(count, series.weighted.tolist(), settings.threads)
    ratio = np.ones((n, n_groups))
    for label in range(1, int(series.labels.max()) + 1):
        shell = np.flatnonzero(series.labels == label)
        state.z[shell], ratio[shell] = outlier_z(
            observed[shell], predicted[shell], voxels[shell], min_voxels=settings.min_slice_voxels
        )
    state.outliers = list_outliers(
        state.z,
        ratio,
        slice_voxels,
        series.groups,
        threshold_sd=settings.outlier_threshold_sd,
        min_change=settings.outlier_min_change,
        both_signs=settings.outlier_both_signs,
    )
    previously = state.lost.any(axis=1)
    state.lost[:] = False
    for outlier in state.outliers:
        state.lost[outlier.volume, outlier.slice_index] = True

    def repair(volume: int) -> None:
        prediction, _ = in_volume(volume)
        judged = voxels[volume] >= settings.min_slice_voxels
        gain = np.median((observed[volume] / np.maximum(predicted[volume], 1e-9))[judged])
        state.repaired[volume] = replace_slices(
            series.original[volume],
            gain * prediction,
            np.flatnonzero(state.lost[volume]),
            slice_axis=settings.slice_axis,
        )

    touched = np.flatnonzero(previously | state.lost.any(axis=1)).tolist()
    _in_threads(repair, touched, settings.threads)


def correct_series(
    data: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    *,
    b_values_s_mm2: ArrayLike,
    directions_world: ArrayLike,
    groups: NDArray[np.intp],
    settings: EddySettings,
) -> EddyResult:
    """Motion, distortion and lost slices of a series, by prediction of each volume from others.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal, without NaN.
    mask : (X, Y, Z) array of bool
        Brain in the first b=0, the reference.
    affine : (4, 4) array_like
        Voxel to world, in mm.
    b_values_s_mm2 : (N,) array_like
        In s/mm2.
    directions_world : (N, 3) array_like
        Unit gradient directions in world axes; zero for b=0.
    groups : (n_slices,) array of int
        From `multiband_groups`.
    settings : EddySettings
        Model and thresholds.

    Returns
    -------
    EddyResult
        Transforms, motion, outliers and the repaired series.

    Raises
    ------
    NumericsError
        If shapes disagree, a value is not finite, the mask is empty, there is no b=0, or fewer
        than `MIN_KRIGED` diffusion-weighted volumes.

    Notes
    -----
    Each round predicts a volume from the others of its shell, registers it to the prediction,
    compares slices and replaces the lost ones, in the manner of Andersson and Sotiropoulos
    (2016, doi:10.1016/j.neuroimage.2015.10.019), whose code was not used. No volume is compared
    with an image of another contrast, so strong diffusion weighting is no special case.
    """
    series = _checked_series(data, mask, affine, b_values_s_mm2, directions_world, groups, settings)
    state = _start(series)
    near = np.asarray(b_values_s_mm2) <= settings.max_b0_registered_s_mm2
    _register_across(series, state, np.flatnonzero(near))
    if not near.all():
        # neighbours in direction may have moved alike, so begin with the mean of all
        predict = _predictor(series, state, kriged=False)
        _register_to_prediction(
            series, state, predict, np.flatnonzero(~near), settings.smoothing_fwhm_mm[0]
        )
    for fwhm_mm in settings.smoothing_fwhm_mm:
        predict = _predictor(series, state, kriged=True)
        _register_to_prediction(series, state, predict, series.weighted, fwhm_mm)
        _remove_common_distortion(series, state)
        _find_outliers(series, state, predict)
    if settings.align_shells:
        _align_shells(series, state)
    return _result(series, state)


def register_to_b0(
    data: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    *,
    b_values_s_mm2: ArrayLike,
    directions_world: ArrayLike,
    settings: EddySettings,
) -> EddyResult:
    """Motion and distortion by registering every volume to the first b=0, as eddy_correct did.

    Parameters
    ----------
    data : (X, Y, Z, N) array
        Signal, without NaN.
    mask : (X, Y, Z) array of bool
        Brain in the first b=0.
    affine : (4, 4) array_like
        Voxel to world, in mm.
    b_values_s_mm2 : (N,) array_like
        In s/mm2.
    directions_world : (N, 3) array_like
        Unit gradient directions in world axes.
    settings : EddySettings
        Of it model, phase axis, margins, tolerance, b=0 threshold and threads are used.

    Returns
    -------
    EddyResult
        Without outliers; its data are those given.

    Raises
    ------
    NumericsError
        As `correct_series`.

    Notes
    -----
    Correlation ratio, see `register_across_contrasts`. Strongly weighted volumes share too little
    contrast with the b=0 for this: use `correct_series` above b = 1500 s/mm2.
    """
    groups = np.arange(data.shape[settings.slice_axis])
    series = _checked_series(data, mask, affine, b_values_s_mm2, directions_world, groups, settings)
    state = _start(series)
    _register_across(series, state, np.arange(len(series.labels)))
    return _result(series, state)


def _register_across(series: _Series, state: _State, volumes: NDArray[np.intp]) -> None:
    # each of these volumes to the first b=0, by correlation ratio
    settings = series.settings
    reference = int(np.flatnonzero(series.labels == 0)[0])
    b0 = series.original[reference].astype(np.float64)
    inner = _moved_border(series.mask, -settings.contrast_margin_mm, series.frame)

    def one(volume: int) -> VolumeFit:
        return register_across_contrasts(
            series.original[volume].astype(np.float64),
            b0,
            inner,
            frame=series.frame,
            model=series.model(volume),
            phase_axis=settings.phase_axis,
            start=state.parameters[volume],
            fwhm_mm=settings.contrast_fwhm_mm,
            tolerance_mm=settings.tolerance_mm,
        )

    others = [int(i) for i in volumes if i != reference]
    for i, fit in zip(others, _in_threads(one, others, settings.threads), strict=True):
        state.parameters[i], state.misfit[i] = fit.parameters, fit.misfit


def _start(series: _Series) -> _State:
    n = len(series.labels)
    return _State(
        [np.zeros(N_PARAMETERS[series.model(i)]) for i in range(n)],
        np.zeros(n),
        series.original.copy(),
        np.zeros((n, series.groups.size), dtype=bool),
        np.zeros((n, int(series.groups.max()) + 1)),
        [],
    )


def _checked_series(
    data: NDArray[np.floating],
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    b_values_s_mm2: ArrayLike,
    directions_world: ArrayLike,
    groups: NDArray[np.intp],
    settings: EddySettings,
) -> _Series:
    if data.ndim != 4 or data.shape[:3] != mask.shape:
        raise NumericsError(
            f"data has shape {data.shape} but mask has {mask.shape}; "
            "give a series (X, Y, Z, N) and the mask of its grid"
        )
    require_finite("data", data)
    if not mask.any():
        raise NumericsError("mask is empty; give the brain of the first b=0")
    directions = as_float("directions_world", directions_world, ndim=2)
    n = data.shape[3]
    if directions.shape != (n, 3):
        raise NumericsError(f"directions_world has shape {directions.shape}; give ({n}, 3)")
    shells = find_shells(
        b_values_s_mm2,
        b0_threshold_s_mm2=settings.b0_threshold_s_mm2,
        shell_gap_s_mm2=settings.shell_gap_s_mm2,
    )
    if len(shells.labels) != n:
        raise NumericsError(f"b_values_s_mm2 has {len(shells.labels)} values for {n} volumes")
    if shells.b_values_s_mm2[0] != 0:
        raise NumericsError("no volume counts as b=0, which is the reference; give at least one")
    if np.count_nonzero(shells.labels) < MIN_KRIGED:
        raise NumericsError(
            f"{np.count_nonzero(shells.labels)} diffusion-weighted volumes cannot predict each "
            f"other; give at least {MIN_KRIGED}"
        )
    if groups.shape != (data.shape[settings.slice_axis],):
        raise NumericsError(
            f"groups has shape {groups.shape} but axis {settings.slice_axis} has "
            f"{data.shape[settings.slice_axis]} slices; give one group per slice"
        )
    original = np.ascontiguousarray(np.moveaxis(data, 3, 0), dtype=np.float32)
    frame = image_frame(affine, mask.shape)
    return _Series(original, mask, frame, shells.labels, directions, groups, settings)


def _result(series: _Series, state: _State) -> EddyResult:
    transforms = [series.transform(i, p) for i, p in enumerate(state.parameters)]
    rigid = _rigid_world(series, state.parameters)
    centre = np.argwhere(series.mask).mean(axis=0)
    centre_mm = series.frame.voxel_to_frame @ np.r_[centre, 1.0]
    return EddyResult(
        reference_to_volume=np.stack([to_world(t, series.frame) for t in transforms]),
        rigid=rigid,
        motion=motion_parameters(rigid, (series.frame.frame_to_world @ centre_mm)[:3]),
        dilution=np.array([np.linalg.det(t[:3, :3]) for t in transforms]),
        misfit=state.misfit,
        outliers=state.outliers,
        outlier_z=state.z,
        data=np.moveaxis(state.repaired, 0, 3),
    )

"""One diffusion volume against a target: motion and eddy-current distortion, in mm.

The target is interpolated and the volume is not: interpolated noise would pull a fit towards half
voxels, and a lost slice stays one slice. All transforms map the reference to the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float
from bids_alsmri.numerics.compile import kernel
from bids_alsmri.numerics.sampling import (
    move_mask,
    sample_moved_grid,
    spline_coefficients,
    spline_weights,
)

Float = NDArray[np.float64]
Model = Literal["rigid", "eddy", "affine"]

# Rotations and shears are counted in mm at this radius, so that all parameters weigh alike
# (mean distance of the cortex from the head's centre; Power 2012,
# doi:10.1016/j.neuroimage.2011.10.018).
HEAD_RADIUS_MM = 50.0
FWHM_PER_SD = 2.3548200450309493  # 2 sqrt(2 ln 2)
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
    curvature : (n_parameters, n_parameters) array or None
        Gauss-Newton matrix of the misfit there, per mm2; None where the search had none.
    """

    parameters: Float
    misfit: float
    n_evaluations: int
    curvature: Float | None = None


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


@kernel
def _spline_slopes(position: float, slopes: Float) -> None:
    # derivatives of the four knots' weights around `position`, per voxel
    t = position - np.floor(position)
    slopes[0] = -0.5 * (1.0 - t) ** 2
    slopes[1] = -2.0 * t + 1.5 * t * t
    slopes[2] = 0.5 + t - 1.5 * t * t
    slopes[3] = 0.5 * t * t


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
    top_x = float(coefficients.shape[0] - 2 * 2 - 1)  # sampling.PAD
    top_y = float(coefficients.shape[1] - 2 * 2 - 1)
    top_z = float(coefficients.shape[2] - 2 * 2 - 1)
    wx, wy, wz = np.empty(4), np.empty(4), np.empty(4)
    sx, sy, sz = np.empty(4), np.empty(4), np.empty(4)
    slope = np.empty(12)
    sums[:] = 0.0
    for m in range(points.shape[0]):
        px, py, pz = points[m, 0], points[m, 1], points[m, 2]
        x = to_voxel[0, 0] * px + to_voxel[0, 1] * py + to_voxel[0, 2] * pz + to_voxel[0, 3]
        y = to_voxel[1, 0] * px + to_voxel[1, 1] * py + to_voxel[1, 2] * pz + to_voxel[1, 3]
        z = to_voxel[2, 0] * px + to_voxel[2, 1] * py + to_voxel[2, 2] * pz + to_voxel[2, 3]
        if not (0.0 <= x <= top_x and 0.0 <= y <= top_y and 0.0 <= z <= top_z):
            continue
        ix, iy, iz = spline_weights(x, wx), spline_weights(y, wy), spline_weights(z, wz)
        _spline_slopes(x, sx)
        _spline_slopes(y, sy)
        _spline_slopes(z, sz)
        value = gx = gy = gz = 0.0
        for a in range(4):
            plane = plane_gy = plane_gz = 0.0
            for b in range(4):
                knots = coefficients[ix + a, iy + b]
                line = line_slope = 0.0
                for c in range(4):
                    line += wz[c] * knots[iz + c]
                    line_slope += sz[c] * knots[iz + c]
                plane += wy[b] * line
                plane_gy += sy[b] * line
                plane_gz += wy[b] * line_slope
            value += wx[a] * plane
            gx += sx[a] * plane
            gy += wx[a] * plane_gy
            gz += wx[a] * plane_gz
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
        return np.asarray(np.linalg.inv(self.transform(parameters)), dtype=np.float64)

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
        self.curvature: Float = np.asarray(2 * gain**2 * curvature / oo, dtype=np.float64)

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
        spline_coefficients(target),
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
    best = np.asarray(found.x)
    curvature = misfit.hessian(best)
    return VolumeFit(best, float(found.fun), misfit.n_evaluations, curvature)


def sample_image(image: Float, here_to_image: Float, frame: ImageFrame) -> Float:
    """Image seen through a map, by cubic splines.

    Parameters
    ----------
    image : (X, Y, Z) array
        Signal.
    here_to_image : (4, 4) array
        From the space of the result to that of the image, in frame coordinates.
    frame : ImageFrame
        Frame of both.

    Returns
    -------
    (X, Y, Z) array
        Outside the image its nearest voxel stands in.

    Examples
    --------
    >>> frame = image_frame(np.eye(4), (5, 5, 5))
    >>> bool(np.allclose(sample_image(np.ones((5, 5, 5)), np.eye(4), frame), 1))
    True
    """
    matrix = np.linalg.inv(frame.voxel_to_frame) @ here_to_image @ frame.voxel_to_frame
    return sample_moved_grid(image, matrix, frame.shape)


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
    return dilution * sample_image(volume, reference_to_volume, frame)


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


def mask_in_volume(
    mask: NDArray[np.bool_], transform: Float, frame: ImageFrame
) -> NDArray[np.bool_]:
    """Mask of the reference as it lies in a volume, by nearest neighbour.

    Parameters
    ----------
    mask : (X, Y, Z) array of bool
        In the reference.
    transform : (4, 4) array
        Reference to volume, in frame coordinates.
    frame : ImageFrame
        Frame of both.

    Returns
    -------
    (X, Y, Z) array of bool
        In the volume.

    Examples
    --------
    >>> frame = image_frame(np.eye(4), (5, 5, 5))
    >>> bool(mask_in_volume(np.ones((5, 5, 5), dtype=bool), np.eye(4), frame).all())
    True
    """
    matrix = np.linalg.inv(frame.voxel_to_frame) @ np.linalg.inv(transform) @ frame.voxel_to_frame
    return move_mask(mask, matrix, frame.shape)


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
    penalty = CURVATURE_PENALTY * intensity.size / count * (bend.T @ bend)
    normal = penalty + np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return knots, np.asarray(np.linalg.solve(normal, right_side), dtype=np.float64)


def coil_shading(
    reference: Float, mask: NDArray[np.bool_], fwhm_mm: float, frame: ImageFrame
) -> Float:
    """Mean signal of the brain's neighbourhood, as an estimate of the coils' sensitivity.

    Parameters
    ----------
    reference : (X, Y, Z) array
        Such as the b=0.
    mask : (X, Y, Z) array of bool
        Brain.
    fwhm_mm : float
        Width of the neighbourhood, in mm.
    frame : ImageFrame
        Gives the voxel size.

    Returns
    -------
    (X, Y, Z) array
        Over its mean in the brain, so near 1.

    Examples
    --------
    >>> flat = np.full((5, 5, 5), 7.0)
    >>> coil_shading(flat, flat > 0, 9.0, image_frame(np.eye(4), flat.shape))[2, 2, 2].round(6)
    np.float64(1.0)
    """
    total = smooth(np.where(mask, reference, 0.0), fwhm_mm, frame)
    count = smooth(mask.astype(np.float64), fwhm_mm, frame)
    # a floor on the count keeps far background finite; it has no weight
    local = np.maximum(total, 0.0) / np.maximum(count, 1e-3)
    mean = max(float(reference[mask].mean()), 1e-30)
    return np.asarray(np.maximum(local / mean, 0.05), dtype=np.float64)


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
    shading_fwhm_mm: float,
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
    shading_fwhm_mm : float
        Both are divided by the reference smoothed this widely within the mask: where coils
        brighten the cortex, no single curve leads from one contrast to the other.
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
    ...     phase_axis=1, start=np.zeros(6), fwhm_mm=0.0, shading_fwhm_mm=90.0, tolerance_mm=0.01)
    >>> bool(np.abs(fit.parameters[:3]).max() < 0.05)
    True
    """
    shading = coil_shading(reference, mask, shading_fwhm_mm, frame)
    seen = smooth(volume / shading, fwhm_mm, frame)
    known = smooth(reference / shading, fwhm_mm, frame)
    fit = VolumeFit(start, 1.0, 0)
    for _ in range(MAX_CONTRAST_TURNS):
        transform = frame_transform(fit.parameters, model, phase_axis)
        knots, values = contrast_map(known[mask], sample_image(seen, transform, frame)[mask])
        previous = fit
        fit = register_volume(
            seen,
            np.interp(known, knots, values),
            mask_in_volume(mask, transform, frame).astype(np.float64),
            frame=frame,
            model=model,
            phase_axis=phase_axis,
            start=fit.parameters,
            tolerance_mm=tolerance_mm,
        )
        if np.abs(fit.parameters - previous.parameters).max() < tolerance_mm:
            break
    return fit

"""Reference tubes beside the head: where they stand and which part of each voxel they fill."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.geometry import Grid, rotation_about, transform_points
from bids_alsmri.phantom.records import SodiumSettings, Table

Floats = NDArray[np.float64]
Single = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Name and direction from the middle of the head, in degrees from right to anterior.
PLACES = (
    ("right", 0.0),
    ("left", 180.0),
    ("rightPosterior", -48.0),
    ("leftPosterior", 228.0),
    ("rightAnterior", 40.0),
    ("leftAnterior", 140.0),
)
SUBSAMPLES = 5
STEP_MM = 1.0
MAX_RISE_MM = 8.0
MAX_SPREAD_DEG = 3.0


@dataclass(frozen=True)
class Tube:
    """A cylinder of agar.

    Parameters
    ----------
    label : str
        Where it stands, from `PLACES`.
    concentration_mmol_l : float
        Sodium, in mmol/L.
    centre_mm, axis : (3,) array
        Middle (mm) and unit vector along the tube, in the world of the sodium scan.
    diameter_mm, length_mm : float
        Size, in mm.
    """

    label: str
    concentration_mmol_l: float
    centre_mm: Floats
    axis: Floats
    diameter_mm: float
    length_mm: float

    def contains(self, points_mm: Floats, margin_mm: float = 0.0) -> Mask:
        """Whether points lie in the tube.

        Parameters
        ----------
        points_mm : (..., 3) array
            Positions, in mm.
        margin_mm : float
            How much wider, on all sides, the tube is taken, in mm.

        Returns
        -------
        (...) array of bool
            Truth of each point.

        Examples
        --------
        >>> tube = Tube("left", 50.0, np.zeros(3), np.array([0.0, 0.0, 1.0]), 20.0, 60.0)
        >>> tube.contains(np.array([[9.0, 0, 0], [11.0, 0, 0], [0, 0, 31.0]]))
        array([ True, False, False])
        """
        offset = points_mm - self.centre_mm
        along = offset @ self.axis
        across = (offset**2).sum(-1) - along**2
        reach = self.diameter_mm / 2 + margin_mm
        return np.asarray((np.abs(along) <= self.length_mm / 2 + margin_mm) & (across <= reach**2))


def place_tubes(
    head: Mask, grid: Grid, middle_mm: Floats, settings: SodiumSettings, rng: np.random.Generator
) -> tuple[Tube, ...]:
    """Stand the tubes around the head, each as near as the gap allows.

    Parameters
    ----------
    head : (i, j, k) array of bool
        Where there is tissue.
    grid : Grid
        Grid of `head`.
    middle_mm : (3,) array
        Middle of the brain in the world of the grid, in mm.
    settings : SodiumSettings
        Concentrations, size, tilt and gap.
    rng : Generator
        Random stream.

    Returns
    -------
    tuple of Tube
        One for each concentration, in the order of `PLACES`.

    Raises
    ------
    SettingsError
        If a tube does not fit between the head and the edge of the field of view, or two meet.
    """
    surface = np.argwhere(head & ~ndimage.binary_erosion(head)).astype(np.float64)
    points = transform_points(grid.affine, surface)
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    tubes = []
    for (label, angle_deg), concentration in zip(
        PLACES, settings.tube_concentrations_mmol_l, strict=False
    ):
        turn = np.deg2rad(angle_deg + rng.uniform(-MAX_SPREAD_DEG, MAX_SPREAD_DEG))
        lean = rng.uniform(0, 2 * np.pi)
        tilt = rotation_about(
            np.array([np.cos(lean), np.sin(lean), 0.0]), rng.uniform(0, settings.max_tube_tilt_deg)
        )
        tube = Tube(
            label=label,
            concentration_mmol_l=concentration,
            centre_mm=middle_mm + rng.uniform(-MAX_RISE_MM, MAX_RISE_MM) * axes[:, 2],
            axis=axes @ tilt @ np.array([0.0, 0.0, 1.0]),
            diameter_mm=settings.tube_diameter_mm,
            length_mm=settings.tube_length_mm,
        )
        outwards = axes @ np.array([np.cos(turn), np.sin(turn), 0.0])
        tubes.append(_push_in(tube, outwards, points, grid, settings.tube_gap_mm))
    _require_apart(tubes)
    return tuple(tubes)


def _require_apart(tubes: list[Tube]) -> None:
    """Refuse tubes whose axes come nearer than their diameter."""
    steps = np.linspace(-0.5, 0.5, 41)[:, None]
    lines = [t.centre_mm + steps * t.length_mm * t.axis for t in tubes]
    for (one, first), (other, second) in combinations(zip(tubes, lines, strict=True), 2):
        nearest = np.linalg.norm(first[:, None] - second[None], axis=-1).min()
        if nearest < one.diameter_mm:
            raise SettingsError(
                f"the tubes {one.label} and {other.label} of {one.diameter_mm:g} mm come as near "
                f"as {nearest:.0f} mm; take fewer, smaller or less tilted ones"
            )


def _push_in(tube: Tube, outwards: Floats, points: Floats, grid: Grid, gap_mm: float) -> Tube:
    """Bring a tube in from outside until it is a gap away from the head."""

    def at(radius_mm: float) -> Tube:
        return Tube(
            tube.label, tube.concentration_mmol_l, tube.centre_mm + radius_mm * outwards,
            tube.axis, tube.diameter_mm, tube.length_mm,
        )  # fmt: skip

    # what the tube can meet lies within its length and width of the line on which it moves
    offset = points - tube.centre_mm
    along = offset @ outwards
    reach = (tube.length_mm + tube.diameter_mm) / 2 + gap_mm
    near = points[((offset**2).sum(-1) - along**2 <= reach**2) & (along > 0)]
    radius = float(along.max()) + reach
    while radius > 0 and not at(radius - STEP_MM).contains(near, gap_mm).any():
        radius -= STEP_MM
    placed = at(radius)
    if not _fits(placed, grid):
        raise SettingsError(
            f"the tube {tube.label} of {tube.diameter_mm:g} x {tube.length_mm:g} mm does not fit "
            f"between the head and the edge of the field of view with a gap of {gap_mm:g} mm; take "
            "a smaller tube, gap or tilt"
        )
    return placed


def _fits(tube: Tube, grid: Grid) -> bool:
    """Whether the whole tube lies in the field of view."""
    ends = tube.centre_mm + np.array([[-0.5], [0.5]]) * tube.length_mm * tube.axis
    voxels = transform_points(np.asarray(np.linalg.inv(grid.affine)), ends)
    margin = tube.diameter_mm / 2 / float(np.linalg.norm(grid.affine[:3, 0]))
    last = np.array(grid.shape) - 1
    return bool((voxels >= margin).all() and (voxels <= last - margin).all())


def filled_share(tube: Tube, grid: Grid) -> Single:
    """Share of each voxel that a tube fills.

    Parameters
    ----------
    tube : Tube
        The tube.
    grid : Grid
        The grid, in the world of the sodium scan.

    Returns
    -------
    (i, j, k) array of float32
        0 to 1, from 5 x 5 x 5 points in each voxel.
    """
    share = np.zeros(grid.shape, dtype=np.float32)
    reach = np.abs(tube.axis) * tube.length_mm / 2 + tube.diameter_mm / 2
    corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * reach
    voxels = transform_points(np.asarray(np.linalg.inv(grid.affine)), tube.centre_mm + corners)
    low = np.clip(np.floor(voxels.min(0)).astype(int) - 1, 0, grid.shape)
    high = np.clip(np.ceil(voxels.max(0)).astype(int) + 2, 0, grid.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    centres = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), -1)
    steps = (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    inside = np.zeros(centres.shape[:3], dtype=np.float32)
    for shift in np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3):
        inside += tube.contains(transform_points(grid.affine, centres + shift))
    share[box] = inside / SUBSAMPLES**3
    return share


def tube_table(tubes: tuple[Tube, ...]) -> Table:
    """What the tubes hold and where they stand.

    Parameters
    ----------
    tubes : tuple of Tube
        The tubes.

    Returns
    -------
    Table
        One row for each, indexed from 1.
    """
    described = {
        "concentration": ("Sodium concentration.", "mmol/L"),
        "diameter": ("Diameter.", "mm"),
        "length": ("Length.", "mm"),
        **{f"centre_{a}": (f"World {a} (RAS+) of the middle.", "mm") for a in "xyz"},
        **{f"axis_{a}": (f"World {a} (RAS+) of the unit vector along it.", "1") for a in "xyz"},
    }
    rows = tuple(
        (
            number, t.label, t.concentration_mmol_l, t.diameter_mm, t.length_mm,
            *np.round(t.centre_mm, 4).tolist(), *np.round(t.axis, 6).tolist(),
        )
        for number, t in enumerate(tubes, start=1)
    )  # fmt: skip
    return Table(
        ("index", "name", *described),
        rows,
        {n: {"Description": text, "Units": unit} for n, (text, unit) in described.items()},
    )

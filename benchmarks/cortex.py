"""Recovery of the deep layer of the cortex on simulated slabs, by tilt and contrast.

``python -P benchmarks/cortex.py [--repeats 6] [--parts recovery,contrast] [--pictures FOLDER]``
prints tables; the numbers of docs/benchmarks.md are their output. The measurement gets a ribbon
displaced by 0.3 mm at each border and shifted by 0.5 mm. Parts: ``recovery`` by tilt and contrast,
``missing`` slabs without a deep layer or with too little above it, ``depths`` closed forms of
cortical depth, ``contrast`` a curve over contrasts, ``ribbon`` borders before and after they are
moved to where the slab has them, ``receive`` contrasts of the cortex before and after the field of
the coil is taken off. Heads are measured by ``cortex_heads.py``.
Without ``-P`` the benchmark of coverage beside it stands for the package that numba looks for.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.interfaces.anatomy import correct_bias
from bids_alsmri.interfaces.base import read_image, write_image
from bids_alsmri.numerics.cortical_layers import fit_layers
from bids_alsmri.numerics.cortical_profiles import (
    align_profiles,
    place_profiles,
    surface_normals,
)
from bids_alsmri.numerics.echo_decay import combine_echoes
from bids_alsmri.numerics.laminar import cortical_depth
from bids_alsmri.numerics.ribbon import bias_from_white_matter
from bids_alsmri.phantom.cortex_layers import Fold, LayeredCortex
from bids_alsmri.phantom.cortex_slab import Slab, SlabSettings, contrast_echo, simulate_slab
from bids_alsmri.pipelines.cortex7t import slab
from bids_alsmri.pipelines.cortex7t.pipeline import Cortex7tSettings
from bids_alsmri.pipelines.cortex7t.slab import without_doubtful

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPE = (128, 104, 4)
RIM = 10
# thickness (mm), tilt (degrees), contrast of the deep layer and of white matter
CASES = (
    *((deep, tilt, 0.10, 0.04) for deep in (2.0, 1.5) for tilt in (0.0, 15.0, 20.0, 25.0)),
    *((2.0, 10.0, contrast, 0.04) for contrast in (0.05, 0.15)),
    *((2.0, 10.0, 0.10, white) for white in (0.0, 0.02, 0.03, 0.05)),
)


def measured_mm(
    deep_mm: float,
    tilt_deg: float,
    contrast: float,
    white: float,
    seed: int,
    *,
    cortex_mm: float = 3.6,
) -> float:
    """Thickness that is found in one slab, in mm; NaN where none is told."""
    cfg, rng = Cortex7tSettings(), np.random.default_rng(seed)
    scan = SlabSettings(shape=SHAPE, tilt_deg=tilt_deg)
    cortex = LayeredCortex(
        cortex_mm=cortex_mm, deep_mm=deep_mm, deep_contrast=contrast, white_contrast=white
    )
    simulated = simulate_slab(cortex, Fold(), scan, rng, samples=(2, 2, 8))
    image = contrast_echo(simulated.echoes, scan.echo_times_ms)
    borders, _ = slab.refined_ribbon(
        image, given_ribbon(simulated, scan), scan.voxel_mm, cfg.refining
    )
    mask = np.zeros(SHAPE, np.bool_)
    mask[RIM:-RIM, RIM:-RIM] = True
    places = place_profiles(
        borders.white_mm, borders.normals, mask, scan.voxel_mm, spacing_mm=cfg.profile_spacing_mm
    )
    aligned = align_profiles(
        image[None],
        borders.white_mm,
        borders.outer_mm,
        places,
        scan.voxel_mm,
        **cfg.aligning,
    )
    layering = {**cfg.layering, "n_bootstrap": 100}
    fit = fit_layers(aligned.profiles, aligned.depth_mm, rng=rng, **layering)
    return without_doubtful(fit, aligned, cfg.smallest_layer_mm, **cfg.doubting).deep_mm


# cortex (mm) and deep layer (mm) of slabs whose deep layer is not there or cannot be told, and of
# one that can
MISSING = ((3.6, 0.0), (2.6, 2.0), (3.0, 2.0), (2.6, 1.0))
# contrast of the deep layer and of white matter, for the curves
CONTRASTS = tuple((deep, 0.04) for deep in (0.05, 0.075, 0.10, 0.125, 0.15))
WHITES = tuple((0.10, white) for white in (0.0, 0.01, 0.02, 0.03, 0.04, 0.05))
# deep layer (mm), tilt (degrees) and contrast of white matter of slabs whose ribbon is refined
RIBBONS = (
    *((2.0, tilt, 0.04) for tilt in (0.0, 10.0, 20.0)),
    (1.5, 10.0, 0.04),
    *((2.0, 10.0, white) for white in (0.0, 0.02)),
)
# axes and inner radius (voxels) of round cortex, ten voxels thick
ROUND = ((2, 10.0), (2, 20.0), (3, 10.0))
THICKNESS = 10.0


def given_ribbon(simulated: Slab, scan: SlabSettings) -> slab.Ribbon:
    """The ribbon that the measurement is given, with its errors."""
    smoothing_mm = Cortex7tSettings().normal_smoothing_mm
    white = simulated.white_distance_mm
    normals = surface_normals(white, scan.voxel_mm, smoothing_mm=smoothing_mm)
    return slab.Ribbon(white, simulated.outer_distance_mm, normals)


def recovery(n_repeats: int) -> None:
    """Print bias and spread by thickness, tilt and contrast."""
    print("| deep (mm) | tilt | contrast | to white | bias (mm) | SD (mm) | told | s per slab |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        start = time.process_time()
        found = np.array([measured_mm(*case, seed) for seed in range(n_repeats)])
        each_s = (time.process_time() - start) / n_repeats
        told = found[np.isfinite(found)]
        bias = told.mean() - case[0] if len(told) else np.nan
        spread = told.std(ddof=1) if len(told) > 1 else np.nan
        print(
            f"| {case[0]:g} | {case[1]:g} | {case[2]:g} | {case[3]:g} | {bias:+.2f} | "
            f"{spread:.2f} | {len(told)} of {n_repeats} | {each_s:.1f} |",
            flush=True,
        )


def missing(n_repeats: int) -> None:
    """Print what is told where there is no deep layer, or too little above it."""
    print("| cortex (mm) | deep (mm) | told | found (mm) |")
    print("|---|---|---|---|")
    for cortex_mm, deep_mm in MISSING:
        found = [
            measured_mm(deep_mm, 10.0, 0.10, 0.04, seed, cortex_mm=cortex_mm)
            for seed in range(n_repeats)
        ]
        told = [f"{value:.2f}" for value in found if np.isfinite(value)]
        print(
            f"| {cortex_mm:g} | {deep_mm:g} | {len(told)} of {n_repeats} | {' '.join(told)} |",
            flush=True,
        )


def depths() -> None:
    """Print how far cortical depth is off the closed forms of cylinders and spheres."""
    print("| axes | radius | bank | borders | equidistant | 95 % | equivolume | 95 % |")
    print("|---|---|---|---|---|---|---|---|")
    for n_axes, radius in ROUND:
        for is_fundus in (False, True):
            rim, distance, volume = round_cortex(n_axes, radius, is_fundus=is_fundus)
            for surface, n_steps in (("faces", 100), ("levels", 400)):
                depth = cortical_depth(
                    rim,
                    [1.0, 1.0, 1.0],
                    surface=surface,
                    in_plane=n_axes == 2,
                    smoothing_steps=n_steps,
                )
                cells = []
                for found, true in ((depth.equidistant, distance), (depth.equivolume, volume)):
                    far = np.abs(found - true)[rim == 3]
                    cells += [f"{np.median(far):.4f}", f"{np.percentile(far, 95):.4f}"]
                bank = "fundus" if is_fundus else "crown"
                print(f"| {n_axes} | {radius:g} | {bank} | {surface} | {' | '.join(cells)} |")


def round_cortex(
    n_axes: int, radius: float, *, is_fundus: bool
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Rim of a quarter cylinder or an eighth of a sphere, and both depths in closed form."""
    outer = radius + THICKNESS
    axis = np.arange(outer + 3) - 0.3
    grid = np.meshgrid(*[axis] * n_axes, indexing="ij")
    r = np.sqrt(sum(g**2 for g in grid)).reshape(len(axis), len(axis), -1)
    rim = np.where(r <= radius, 2, np.where(r >= outer, 1, 3)).astype(np.int8)
    distance = (r - radius) / THICKNESS
    volume = (r**n_axes - radius**n_axes) / (outer**n_axes - radius**n_axes)
    if is_fundus:
        rim = np.choose(rim, [0, 2, 1, 3]).astype(np.int8)
        distance, volume = 1.0 - distance, 1.0 - volume
    return rim, distance, volume


def contrast(n_repeats: int, picture: Path | None) -> None:
    """Print bias and spread against both contrasts, and draw them."""
    print("| contrast | to white | bias (mm) | SD (mm) | told |")
    print("|---|---|---|---|---|")
    curves: list[list[tuple[float, NDArray[np.float64]]]] = []
    for cases in (CONTRASTS, WHITES):
        curve = []
        for deep, white in cases:
            found = np.array(
                [measured_mm(2.0, 10.0, deep, white, seed) for seed in range(n_repeats)]
            )
            told = found[np.isfinite(found)] - 2.0
            bias = told.mean() if len(told) else np.nan
            spread = told.std(ddof=1) if len(told) > 1 else np.nan
            print(
                f"| {deep:g} | {white:g} | {bias:+.2f} | {spread:.2f} | {len(told)} of "
                f"{n_repeats} |",
                flush=True,
            )
            curve.append((100.0 * (deep if cases is CONTRASTS else white), told))
        curves.append(curve)
    if picture is not None:
        draw_contrast(curves, n_repeats, picture)


def draw_contrast(
    curves: list[list[tuple[float, NDArray[np.float64]]]], n_repeats: int, picture: Path
) -> None:
    """Draw bias against contrast as WebP."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    labels = (
        "superficial to deep layer (%), white matter 4 % above the deep layer",
        "deep layer to white matter (%), superficial layer 10 % above it",
    )
    for axes, curve, label in zip(figure.subplots(1, 2, sharey=True), curves, labels, strict=True):
        axes.axhspan(-0.1, 0.1, color="0.9", label="aim: 0.1 mm")
        axes.axhline(0.0, color="0.5", linewidth=0.8)
        for place, told in curve:
            axes.plot(np.full(len(told), place), told, "o", color="tab:blue", ms=4, alpha=0.5)
            axes.annotate(
                f"{len(told)}/{n_repeats}", (place, 0.36), ha="center", fontsize=8, color="0.3"
            )
        means = [(place, told.mean()) for place, told in curve if len(told)]
        axes.plot(*zip(*means, strict=True), "-", color="tab:blue", label="mean")
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylim(-0.43, 0.43)
    figure.axes[0].set_ylabel("found less true thickness (mm)")
    figure.axes[0].legend(loc="upper left", fontsize=8, frameon=False)
    save_webp(figure, picture)


def save_webp(figure: Figure, path: Path) -> None:
    """Save a figure in the form of the pictures of the documentation."""
    from PIL import Image

    held = io.BytesIO()
    figure.savefig(held, dpi=130, format="png")
    Image.open(held).convert("RGB").save(path, "WEBP", quality=80)


def ribbon(n_repeats: int) -> None:
    """Print how far borders are off before and after they were moved to where the slab has them."""
    print(
        "| deep (mm) | tilt | to white | inner before (mm) | after | outer before | after | told |"
    )
    print("|---|---|---|---|---|---|---|---|")
    cfg = Cortex7tSettings()
    for deep, tilt, white in RIBBONS:
        rows = []
        for seed in range(n_repeats):
            scan = SlabSettings(shape=SHAPE, tilt_deg=tilt)
            cortex = LayeredCortex(deep_mm=deep, white_contrast=white)
            rng = np.random.default_rng(seed)
            simulated = simulate_slab(cortex, Fold(), scan, rng, samples=(2, 2, 8))
            given = given_ribbon(simulated, scan)
            image = combine_echoes(simulated.echoes)
            moved, found = slab.refined_ribbon(image, given, scan.voxel_mm, cfg.refining)
            row = [found.inner_told]
            for name, true in (
                ("outer_mm", cortex.cortex_mm - simulated.true_distance_mm),
                ("white_mm", simulated.true_distance_mm),
            ):
                middle = true[RIM:-RIM, RIM:-RIM]
                near = np.abs(middle) < 0.3
                for each in (moved, given):
                    off = getattr(each, name)[RIM:-RIM, RIM:-RIM] - middle
                    row.insert(0, np.sqrt(np.mean(off[near] ** 2)))
            rows.append(row)
        cells = " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0))
        print(f"| {deep:g} | {tilt:g} | {white:g} | {cells} |", flush=True)


def receive(picture: Path | None) -> None:
    """Print contrasts before and after the field is taken off, and the true ones."""
    cfg, rng = Cortex7tSettings(), np.random.default_rng(0)
    scan = SlabSettings(shape=(224, 224, 4), tilt_deg=5.0, transmit_drop=0.4, receive_bias=0.3)
    simulated = simulate_slab(LayeredCortex(), Fold(), scan, rng, samples=(2, 2, 6))
    combined = combine_echoes(simulated.echoes)
    of_white = bias_from_white_matter(
        combined,
        simulated.white_distance_mm,
        scan.voxel_mm,
        inset_mm=cfg.receive_inset_mm,
        fwhm_mm=cfg.receive_fwhm_mm,
    )
    true = combined / simulated.field
    fields = {"nothing taken off": np.ones_like(true), "field of white matter": of_white}
    for spline_mm in (200.0, 20.0):
        fields[f"N4, control points {spline_mm:g} mm apart"] = field_of_n4(
            combined, scan.voxel_mm, spline_mm, cfg
        )
    fields["true field"] = simulated.field
    print("| taken off | superficial to deep | deep to white matter | left in cortex |")
    print("|---|---|---|---|")
    distance = simulated.true_distance_mm
    images = {}
    for name, field in fields.items():
        images[name] = combined / field
        left = np.log(simulated.field / field)[RIM:-RIM, RIM:-RIM]
        within = distance[RIM:-RIM, RIM:-RIM]
        cortex = left[(within > 0.0) & (within < 3.6)]
        outwards, inwards = contrasts_of_tiles(images[name], distance)
        print(
            f"| {name} | {outwards.mean():.1f} (SD {outwards.std():.1f}) % | {inwards.mean():.1f} "
            f"(SD {inwards.std():.1f}) % | {100 * cortex.std():.1f} % |"
        )
    if picture is not None:
        draw_receive(images, distance, picture)


def field_of_n4(
    image: NDArray[np.float64], voxel_mm: tuple[float, ...], spline_mm: float, cfg: Cortex7tSettings
) -> NDArray[np.float64]:
    """Field that N4 takes off, as the tool that others would use."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.nii.gz", Path(folder) / "after.nii.gz"
        write_image(image.astype(np.float32), np.diag([*voxel_mm, 1.0]), before)
        correct_bias(
            before,
            after,
            mask=None,
            shrink_factor=cfg.bias_shrink_factor,
            iterations=(50, 50, 50, 50),
            convergence=1e-6,
            spline_mm=spline_mm,
            n_threads=1,
        )
        field = image / read_image(after, ndim=3).data
    return np.asarray(field / np.exp(np.log(field).mean()))


def contrasts_of_tiles(
    image: NDArray[np.float64], distance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contrasts in per cent within tiles of 7 mm, in which a field is nearly even."""
    outwards, inwards = [], []
    for first in range(RIM, image.shape[0] - RIM - 28, 28):
        for second in range(RIM, image.shape[1] - RIM - 28, 28):
            tile = (slice(first, first + 28), slice(second, second + 28))
            here, values = distance[tile], image[tile]
            superficial, deep, white = (
                values[(here > low) & (here < high)]
                for low, high in ((2.5, 3.3), (0.3, 1.7), (-9.0, -1.6))
            )
            if min(len(superficial), len(deep), len(white)) < 100:
                continue
            outwards.append(100.0 * (1.0 - deep.mean() / superficial.mean()))
            inwards.append(100.0 * (white.mean() / deep.mean() - 1.0))
    return np.array(outwards), np.array(inwards)


def draw_receive(
    images: dict[str, NDArray[np.float64]], distance: NDArray[np.float64], picture: Path
) -> None:
    """Draw slices and profiles over depth with each field taken off, as WebP."""
    from matplotlib.figure import Figure

    names = list(images)
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, name in zip(panels, (names[0], names[1], names[-1]), strict=False):
        values = images[name][:, :, 1]
        axes.imshow(values.T, cmap="gray", origin="lower", vmin=0.35, vmax=0.75)
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    edges = np.arange(-2.5, 3.61, 0.2)
    middle = (edges[1:] + edges[:-1]) / 2
    inner = (slice(RIM, -RIM), slice(RIM, -RIM))
    place = np.digitize(distance[inner].ravel(), edges) - 1
    known = (place >= 0) & (place < middle.size)
    for name, style in zip(names, ("-", "-", "--", "--", ":"), strict=True):
        values = np.log(images[name][inner].ravel()[known])
        sums = np.bincount(place[known], values, minlength=middle.size)
        means = sums / np.bincount(place[known], minlength=middle.size)
        deep = means[(middle > 0.3) & (middle < 1.7)].mean()
        panels[3].plot(
            middle,
            100.0 * np.exp(means - deep),
            style,
            label=name,
            color="k" if name == names[-1] else None,
            linewidth=2.5 if name == names[-1] else 1.3,
        )
    panels[3].set_xlabel("distance from white matter (mm)", fontsize=8)
    panels[3].set_ylabel("signal over that of the deep layer (%)", fontsize=8)
    panels[3].tick_params(labelsize=8)
    panels[3].legend(fontsize=6, frameon=False)
    save_webp(figure, picture)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=6, help="slabs per row")
    parser.add_argument("--parts", default="recovery", help="names of parts, by commas")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of contrast and receive")
    given = parser.parse_args()
    pictures = [
        given.pictures / f"cortex-{name}.webp" if given.pictures else None
        for name in ("contrast", "receive")
    ]
    parts = {
        "recovery": lambda: recovery(given.repeats),
        "missing": lambda: missing(given.repeats),
        "depths": depths,
        "contrast": lambda: contrast(given.repeats, pictures[0]),
        "ribbon": lambda: ribbon(given.repeats),
        "receive": lambda: receive(pictures[1]),
    }
    wanted = given.parts.split(",")
    if unknown := [part for part in wanted if part not in parts]:
        parser.error(f"--parts {', '.join(unknown)}: expected some of {', '.join(parts)}")
    for part in wanted:
        parts[part]()


if __name__ == "__main__":
    main()

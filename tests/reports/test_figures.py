"""Pictures show each voxel where it belongs, at the right shape, the same way each time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError, RunError
from bids_alsmri.reports import sheets
from bids_alsmri.reports.figures import (
    Contour,
    choose_slices,
    draw_colour_fa,
    draw_histograms,
    draw_map,
    draw_mosaic,
    draw_motion,
    draw_registration_pair,
    draw_residual,
    save_figure,
)

AXIAL, CORONAL, SAGITTAL = range(3)  # order of the rows
ISOTROPIC_MM = (2.0, 2.0, 2.0)
EVERYWHERE = np.ones((8, 8, 8), bool)


def pixels(figure: Figure) -> NDArray[np.float64]:
    """(rows from above, columns, 3) picture, 0 to 1."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0


def row_pixels(figure: Figure, row: int) -> NDArray[np.float64]:
    picture = pixels(figure)
    box = figure.axes[row].get_window_extent()
    height = picture.shape[0]
    return picture[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]


def without_letters(figure: Figure) -> Figure:
    for axes in figure.axes:
        for text in list(axes.texts):
            text.remove()
    return figure


def extent_of(bright: NDArray[np.bool_]) -> tuple[int, int]:
    """Height and width in pixels of what is true."""
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def block() -> NDArray[np.float64]:
    """Bright in the right, posterior, superior part, which holds the middle slices."""
    volume = np.zeros((8, 8, 8))
    volume[4:, :5, 4:] = 1.0
    return volume


@pytest.mark.parametrize(
    ("row", "vertical", "horizontal"),
    [(AXIAL, "low", "right"), (CORONAL, "high", "right"), (SAGITTAL, "high", "left")],
)
def test_right_is_right_anterior_is_up_or_right_superior_is_up(
    row: int, vertical: str, horizontal: str
) -> None:
    figure = draw_mosaic(block(), ISOTROPIC_MM, mask=EVERYWHERE, n_slices=1, window=(0, 1))
    picture = row_pixels(without_letters(figure), row).mean(-1)
    middle_row, middle_column = (size // 2 for size in picture.shape)
    halves = {"high": slice(0, middle_row), "low": slice(middle_row, None)}
    sides = {"left": slice(0, middle_column), "right": slice(middle_column, None)}
    means = {(v, h): picture[halves[v], sides[h]].mean() for v in halves for h in sides}
    assert max(means, key=lambda key: means[key]) == (vertical, horizontal)
    assert means[vertical, horizontal] > 0.95  # all of this quarter is bright


@pytest.mark.parametrize(
    ("row", "low", "high"), [(AXIAL, "L", "R"), (CORONAL, "L", "R"), (SAGITTAL, "P", "A")]
)
def test_letters_stand_on_the_side_they_name(row: int, low: str, high: str) -> None:
    figure = draw_mosaic(block(), ISOTROPIC_MM, mask=EVERYWHERE, n_slices=2)
    places: dict[str, list[float]] = {low: [], high: []}
    for text in figure.axes[row].texts:
        if text.get_text() in places:
            places[text.get_text()].append(text.get_position()[0])
    # One pair per panel, each within its own panel of 16 mm.
    assert len(places[low]) == len(places[high]) == 2
    for left, right in zip(places[low], places[high], strict=True):
        assert 0 < right - left < 16


def test_convention_is_stated() -> None:
    figure = draw_mosaic(block(), ISOTROPIC_MM)
    assert any("Neurological convention" in text.get_text() for text in figure.texts)


@pytest.mark.parametrize("row", [AXIAL, CORONAL, SAGITTAL])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 3.0), (2.0, 1.0, 1.0), (1.0, 3.0, 2.0)])
def test_cube_in_mm_is_square_on_the_picture(
    row: int, voxel_mm: tuple[float, float, float]
) -> None:
    # The field of view is no cube: a panel of wrong proportions would else go unseen.
    lengths_mm = (36, 48, 24)
    shape = tuple(int(length / size) for length, size in zip(lengths_mm, voxel_mm, strict=True))
    volume = np.zeros(shape)
    volume[
        tuple(
            slice(int((length / 2 - 6) / size), int((length / 2 + 6) / size))
            for length, size in zip(lengths_mm, voxel_mm, strict=True)
        )
    ] = 1.0
    figure = draw_mosaic(
        volume, voxel_mm, mask=np.ones(shape, bool), n_slices=1, window=(0, 1), margin_mm=0
    )
    height, width = extent_of(row_pixels(without_letters(figure), row).mean(-1) > 0.5)
    assert abs(height - width) <= 2  # each of four edges is rounded to a pixel
    assert height > 20


def test_outline_follows_the_mask() -> None:
    volume = np.zeros((16, 16, 16))
    mask = np.zeros(volume.shape)
    mask[8:14, 2:6, 4:12] = 1.0
    figure = draw_mosaic(
        volume,
        ISOTROPIC_MM,
        contours=[Contour(mask, 0.5, "#ff0000", "mask")],
        mask=np.ones(volume.shape, bool),
        n_slices=4,
        window=(0, 1),
        margin_mm=0,
    )
    # Axial slices 2, 6, 10, 14: the mask is in the second and third panel.
    lines = [path for item in figure.axes[AXIAL].collections for path in item.get_paths()]
    vertices = np.concatenate([path.vertices for path in lines])
    gap_mm = (figure.axes[AXIAL].get_xlim()[1] - 4 * 32.0) / 3
    second = vertices[(vertices[:, 0] > 32 + gap_mm) & (vertices[:, 0] < 64 + gap_mm)]
    # The level 0.5 between voxel centres is the border of the voxels: 8 to 14 and 2 to 6.
    np.testing.assert_allclose(np.ptp(second[:, 0]), 6 * 2.0, atol=1e-6)
    np.testing.assert_allclose(second[:, 0].min() - 32 - gap_mm, 8 * 2.0, atol=1e-6)
    np.testing.assert_allclose((second[:, 1].min(), second[:, 1].max()), (4.0, 12.0), atol=1e-6)
    assert vertices[:, 0].min() > 32
    assert vertices[:, 0].max() < 96 + 2 * gap_mm


def test_outline_is_closed_at_the_edge_of_the_volume() -> None:
    figure = draw_mosaic(
        np.zeros((8, 8, 8)),
        ISOTROPIC_MM,
        contours=[Contour(EVERYWHERE, 0.5, "#ff0000", "all")],
        n_slices=1,
    )
    vertices = np.concatenate([p.vertices for p in figure.axes[AXIAL].collections[0].get_paths()])
    np.testing.assert_allclose(vertices.min(0), 0, atol=1.0)  # mm; half a voxel
    np.testing.assert_allclose(vertices.max(0), 16, atol=1.0)


def test_cuts_are_named_by_their_place() -> None:
    figure = draw_mosaic(
        block(), ISOTROPIC_MM, mask=EVERYWHERE, n_slices=1, origin_mm=(-20.0, -8.0, 5.0)
    )
    names = [axes.texts[-1].get_text() for axes in figure.axes]
    # Index 4 of each axis, 2 mm a voxel.
    assert names == ["z = 13 mm", "y = 0 mm", "x = −12 mm"]


def test_bright_scalp_does_not_darken_the_brain() -> None:
    volume = np.full((16, 16, 16), 1000.0)
    volume[4:12, 4:12, 4:12] = np.linspace(50, 100, 8)[:, None, None]
    mask = np.zeros(volume.shape, bool)
    mask[4:12, 4:12, 4:12] = True
    figure = draw_mosaic(volume, ISOTROPIC_MM, mask=mask)
    assert figure.axes[0].images[0].get_clim()[1] <= 100.0


def test_both_pictures_of_a_registration_share_their_geometry() -> None:
    rng = np.random.default_rng(0)
    fixed, moved = rng.random((2, 10, 12, 9))
    outline = Contour(fixed > 0.5, 0.5, "#ff0000", "mask")
    pair = draw_registration_pair(fixed, moved, (2.0, 2.0, 3.0), outline=outline, n_slices=3)
    one, two = (
        [(axes.get_position().bounds, axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]
        for figure in pair
    )
    assert one == two
    ones, twos = (
        [path.vertices for axes in figure.axes for c in axes.collections for path in c.get_paths()]
        for figure in pair
    )
    for left, right in zip(ones, twos, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_direction_has_its_colour_whatever_its_sign(axis: int, sign: float) -> None:
    v1 = np.zeros((8, 8, 8, 3))
    v1[..., axis] = sign
    figure = draw_colour_fa(np.full((8, 8, 8), 0.5), v1, ISOTROPIC_MM, n_slices=1, brightest_fa=1.0)
    expected = np.zeros(3)
    expected[axis] = 0.5
    for row in (AXIAL, CORONAL, SAGITTAL):
        picture = row_pixels(without_letters(figure), row)
        middle = picture[picture.shape[0] // 2, picture.shape[1] // 2]
        np.testing.assert_allclose(middle, expected, atol=1 / 255)  # 8-bit colour


def test_legend_balls_show_the_pole_in_the_colour_of_the_view() -> None:
    v1 = np.zeros((8, 8, 8, 3))
    figure = draw_colour_fa(np.full((8, 8, 8), 0.5), v1, ISOTROPIC_MM, n_slices=1)
    # Seen along z, y and x the middle of the ball is blue, green and red.
    for axes, axis in zip(figure.axes[3:], (2, 1, 0), strict=True):
        ball = np.asarray(axes.images[0].get_array())
        middle = ball[ball.shape[0] // 2, ball.shape[1] // 2]
        np.testing.assert_allclose(middle[:3], np.eye(3)[axis], atol=1e-6)


def test_residual_scale_is_centred_at_zero() -> None:
    rng = np.random.default_rng(0)
    before = rng.random((8, 8, 8)) + 10
    residual = rng.random((8, 8, 8))  # all positive: the scale must not follow it
    figure = draw_residual(before, before - residual, residual, ISOTROPIC_MM, unit="a.u.")
    low, high = figure.axes[2].images[0].get_clim()
    assert low == -high
    assert high > 0


def test_before_and_after_share_their_scale() -> None:
    before = np.random.default_rng(0).random((8, 8, 8))
    figure = draw_residual(before, 0.5 * before, 0.5 * before, ISOTROPIC_MM, unit="a.u.")
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()


def test_scales_carry_their_unit() -> None:
    cube = np.random.default_rng(0).random((8, 8, 8))
    figure = draw_residual(cube, cube, cube - 0.5, ISOTROPIC_MM, unit="mV", sigma=cube)
    labels = {axes.get_ylabel() for axes in figure.axes} - {""}
    assert labels == {"before (mV)", "after (mV)", "removed (mV)", "noise SD (mV)"}


def motion_axes(**changes: NDArray[np.float64]) -> list[Axes]:
    n = 6
    arrays = {
        "translations_mm": np.zeros((n, 3)),
        "rotations_deg": np.zeros((n, 3)),
        "framewise_displacement_mm": np.r_[np.nan, 0.1, 2.0, 0.2, 3.0, 0.1],
        "b_values_s_mm2": np.r_[0.0, np.full(n - 1, 1000.0)],
        "outlier_share": np.zeros((4, n)),
    } | changes
    return draw_motion(
        arrays["translations_mm"],
        arrays["rotations_deg"],
        arrays["framewise_displacement_mm"],
        b_values_s_mm2=arrays["b_values_s_mm2"],
        outlier_share=arrays["outlier_share"],
        displacement_limit_mm=1.0,
    ).axes


def test_volumes_beyond_the_limit_are_marked_by_pattern_too() -> None:
    hatched = [patch for patch in motion_axes()[2].patches if patch.get_hatch()]
    centres = sorted(patch.get_x() + patch.get_width() / 2 for patch in hatched)
    np.testing.assert_allclose(centres, [2, 4])


def test_lost_slice_stands_at_its_volume_and_height() -> None:
    share = np.zeros((4, 6))
    share[1, 3] = 1.0
    image = motion_axes(outlier_share=share)[3].images[0]
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (-0.5, 5.5, -0.5, 3.5)
    assert image.origin == "lower"
    np.testing.assert_array_equal(np.asarray(image.get_array()), share)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("translations_mm", (5, 3)),
        ("rotations_deg", (6, 2)),
        ("framewise_displacement_mm", (7,)),
        ("outlier_share", (4, 5)),
    ],
)
def test_motion_of_another_length_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(NumericsError, match=f"{name} has shape .*6 values of b_values"):
        motion_axes(**{name: np.zeros(shape)})


def test_histogram_gives_shares_of_each_tissue() -> None:
    rng = np.random.default_rng(0)
    values = {"white matter": rng.random(1000), "grey matter": rng.random(10)}
    axes = draw_histograms(values, xlabel="FA", limits=(0.0, 1.0)).axes[0]
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert len(outlines) == 2
    for outline in outlines:
        np.testing.assert_allclose(outline.get_data().values.sum(), 100.0)


def test_histogram_counts_what_is_not_finite() -> None:
    figure = draw_histograms({"grey": np.array([1.0, 2.0, 3.0, np.nan, np.inf])}, xlabel="x")
    text = figure.axes[0].get_legend().get_texts()[0].get_text()
    assert "median 2," in text
    assert "3 voxels, 2 not finite" in text


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    axis=st.integers(0, 2),
    n_slices=st.integers(1, 15),
    seed=st.integers(0, 100),
)
@settings(deadline=None)
def test_slices_go_through_the_box(
    shape: tuple[int, int, int], axis: int, n_slices: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) > 0.9
    found = choose_slices(mask, axis, n_slices)
    where = np.nonzero(mask)[axis] if mask.any() else np.arange(shape[axis])
    assert list(found) == sorted(set(found))
    assert where.min() <= found[0]
    assert found[-1] <= where.max()
    assert len(found) == min(n_slices, np.ptp(where) + 1)


def drawings(shape: tuple[int, int, int], fill: float | None = None) -> dict[str, Figure]:
    """One figure of each kind, from noise or from one value."""
    rng = np.random.default_rng(0)
    cube = rng.random(shape) if fill is None else np.full(shape, fill)
    vectors = rng.random((*shape, 3)) if fill is None else np.full((*shape, 3), fill)
    size = (1.0, 2.0, 3.5)
    series = rng.random((5, 3)) if fill is None else np.full((5, 3), fill)
    before, after = draw_registration_pair(
        cube, cube, size, outline=Contour(cube, 0.5, sheets.ORANGE, "m"), n_slices=3
    )
    return {
        "mosaic": draw_mosaic(cube, size, contours=[Contour(cube, 0.5, sheets.SKY, "m")]),
        "before": before,
        "after": after,
        "colour FA": draw_colour_fa(cube, vectors, size),
        "residual": draw_residual(cube, cube, cube, size, unit="a.u.", sigma=cube),
        "map": draw_map(cube, size, label="FA", vmin=0, vmax=1),
        "motion": draw_motion(
            series, series, series[:, 0], b_values_s_mm2=np.arange(5.0), outlier_share=series.T
        ),
        "histograms": draw_histograms({"grey": cube, "none": []}, xlabel="FA"),
    }


@pytest.mark.slow  # eight figures, each rendered: about 3 s
@pytest.mark.parametrize(
    ("shape", "fill"),
    [
        ((8, 8, 8), None),
        ((8, 8, 8), 0.0),
        ((8, 8, 8), float("nan")),
        ((1, 8, 8), None),
        ((8, 5, 1), 1.0),
        ((1, 1, 1), float("nan")),
    ],
)
def test_small_flat_and_empty_volumes_are_drawn(
    shape: tuple[int, int, int], fill: float | None, tmp_path: Path
) -> None:
    for name, figure in drawings(shape, fill).items():
        save_figure(figure, tmp_path / "figure.png")
        # Letter to A4 proportions at most: one thin row must not become a tower.
        assert 0.5 < figure.get_size_inches()[1] < 15, name


@pytest.mark.slow  # sixteen figures, each rendered
@pytest.mark.parametrize("ending", ["svg", "png", "webp"])
def test_same_arrays_give_same_bytes_whatever_the_users_style(ending: str, tmp_path: Path) -> None:
    first = {}
    for name, figure in drawings((8, 9, 10)).items():
        save_figure(figure, tmp_path / f"one.{ending}")
        first[name] = (tmp_path / f"one.{ending}").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "x", "image.origin": "upper"}):
        theirs = dict(matplotlib.rcParams)
        for name, figure in drawings((8, 9, 10)).items():
            save_figure(figure, tmp_path / f"two.{ending}")
            assert (tmp_path / f"two.{ending}").read_bytes() == first[name], name
        assert dict(matplotlib.rcParams) == theirs


def test_webp_shows_the_same_picture_in_less_room(tmp_path: Path) -> None:
    from PIL import Image

    # Smooth, as maps are: noise is not what it is made for.
    x, y, z = np.meshgrid(*[np.linspace(0, 3, n) for n in (60, 70, 50)], indexing="ij")
    figure = draw_map(np.sin(x) * np.cos(y) * np.sin(2 * z), (1, 1, 1), label="a", vmin=-1, vmax=1)
    shown = {}
    for ending in ("png", "webp"):
        save_figure(figure, tmp_path / f"a.{ending}")
        shown[ending] = np.asarray(Image.open(tmp_path / f"a.{ending}").convert("RGB"), float)
    sizes = [(tmp_path / f"a.{ending}").stat().st_size for ending in ("webp", "png")]
    assert 2 * sizes[0] < sizes[1]
    # Of 255: the eye tells about 2 apart on a smooth ground.
    assert np.abs(shown["png"] - shown["webp"]).mean() < 2


def test_svg_holds_no_date_and_no_outer_address(tmp_path: Path) -> None:
    save_figure(draw_mosaic(block(), ISOTROPIC_MM), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<dc:date>" not in text
    hrefs = [part.split('"')[1] for part in text.split("href=")[1:]]
    assert hrefs
    assert all(href.startswith(("data:", "#")) for href in hrefs)


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    program = (
        "import sys, numpy; from pathlib import Path\n"
        "from bids_alsmri.reports.figures import draw_mosaic, save_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figure = draw_mosaic(numpy.ones((4, 4, 4)), (1, 1, 1))\n"
        "save_figure(figure, Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.svg")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: draw_mosaic(np.ones((4, 4)), ISOTROPIC_MM), r"volume has shape \(4, 4\)"),
        (lambda: draw_mosaic(np.ones((4, 0, 4)), ISOTROPIC_MM), "none empty"),
        (lambda: draw_mosaic(np.ones((4, 4, 4)), (1, 0, 1)), "three positive sizes in mm"),
        (
            lambda: draw_mosaic(
                np.ones((4, 4, 4)), ISOTROPIC_MM, contours=[Contour(EVERYWHERE, 0.5, "r", "gm")]
            ),
            r"contour gm has shape \(8, 8, 8\) and the volume \(4, 4, 4\)",
        ),
        (
            lambda: draw_colour_fa(np.ones((4, 4, 4)), np.ones((4, 4, 4)), ISOTROPIC_MM),
            r"v1 has shape \(4, 4, 4\); fa asks for \(4, 4, 4, 3\)",
        ),
        (
            lambda: draw_map(np.ones((4, 4, 4)), ISOTROPIC_MM, label="FA", vmin=1, vmax=1),
            "vmin must be below vmax",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(NumericsError, match=message):
        draw()


def test_other_file_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.jpg: figures are written as .* or \.webp"):
        save_figure(draw_mosaic(block(), ISOTROPIC_MM), tmp_path / "a.jpg")


@pytest.mark.data
@pytest.mark.slow
def test_page_with_seven_mosaics_of_a_real_head_stays_below_15_mb(
    test_data: Path, tmp_path: Path
) -> None:
    import nibabel as nib

    from bids_alsmri.reports.page import Figure as Picture
    from bids_alsmri.reports.page import Page, Section, write_page

    image = nib.as_closest_canonical(
        nib.load(test_data / "bids_brain" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    )
    # Voxels of 1 mm are the usual case; noise keeps the larger picture as hard to compress.
    volume = image.get_fdata().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    volume += np.random.default_rng(0).normal(0, 0.02 * volume.max(), volume.shape)
    head = volume > np.percentile(volume, 75)
    contours = [Contour(head, 0.5, sheets.ORANGE, "head")]
    save_figure(draw_mosaic(volume, (1, 1, 1), contours=contours), tmp_path / "a.svg")
    mosaics = (Picture("Mosaic", "", (tmp_path / "a.svg",)),) * 7
    section = Section("Anatomy", "sub-01", "done", figures=mosaics)
    page = Page("sub-01", "s", "1", datetime(2024, 5, 2, tzinfo=UTC), "c", "done", (section,))
    write_page(page, tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 15e6

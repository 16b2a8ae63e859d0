"""Maps over groups show each voxel where it belongs, in the colour of its sign, and say what is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.reports.figures import save_figure
from bids_alsmri.reports.group_maps import (
    Effect,
    Individual,
    Quantity,
    Volume,
    choose_telling_slices,
    draw_effect,
    draw_glass_brain,
    draw_individuals,
    draw_overlap,
    draw_significant,
    draw_skeleton,
    thicken,
)

AXIAL, CORONAL, SAGITTAL = range(3)  # order of the rows
SHAPE = (10, 12, 8)
AFFINE = np.array([[2.0, 0, 0, -9], [0, 2, 0, -11], [0, 0, 2, -7], [0, 0, 0, 1]])
FA = Quantity("FA", "FA", 0.0, 1.0, "gray")


def volume(values: object, affine: NDArray[np.float64] = AFFINE) -> Volume:
    return Volume(np.broadcast_to(np.asarray(values), SHAPE).copy(), affine)


BACKGROUND = volume(np.linspace(0.2, 1.0, SHAPE[2]))


def effect_of(
    values: object, significant: object, *, tested: object = True, thickness_mm: float = 0.0
) -> Effect:
    return Effect(
        "FA, als - hc",
        "Cohen's d",
        volume(values),
        volume(tested),
        volume(significant),
        0.0002,
        0.05,
        ("als > hc", "als < hc"),
        thickness_mm,
    )


def left_is_cool_and_right_warm() -> Effect:
    """Significant near both sides: below 0 on the left, above 0 on the right."""
    values = np.zeros(SHAPE)
    values[1:3], values[7:9] = -1.0, 1.0
    return effect_of(values, values != 0)


def pixels(figure: Figure) -> NDArray[np.float64]:
    """(rows from above, columns, 3) picture, 0 to 1."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0


def part(figure: Figure, bounds: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Pixels of a part of a figure: left, bottom, right, top as shares."""
    picture = pixels(figure)
    height, width = picture.shape[:2]
    left, bottom, right, top = bounds
    return picture[
        round((1 - top) * height) : round((1 - bottom) * height),
        round(left * width) : round(right * width),
    ]


def is_warm(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(picture[..., 0] > picture[..., 2] + 0.25)


def is_cool(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    red, green, blue = np.moveaxis(picture, -1, 0)
    return np.asarray((blue > red + 0.25) & (blue > green))  # no outline of the tested voxels


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


def layers(figure: Figure, row: int, n_panels: int) -> list[list[NDArray[np.float64]]]:
    """Values of each panel by layer, NaN where nothing is drawn."""
    images = [
        np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
        for image in figure.axes[row].images
    ]
    return [images[start : start + n_panels] for start in range(0, len(images), n_panels)]


sizes = st.tuples(*[st.integers(1, 5)] * 3)


@given(shape=sizes, other=sizes, seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_values_come_from_the_nearest_voxel(
    shape: tuple[int, int, int], other: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    grids = []
    for size in (shape, other):
        affine = np.diag([*rng.uniform(0.7, 3.0, 3), 1.0])
        affine[:3, 3] = rng.uniform(-3, 3, 3)
        grids.append(Volume(rng.random(size), affine))
    own, target = grids
    found = own.on_grid_of(target, outside=-1.0)
    for index in itertools.product(*map(range, other)):
        place_mm = target.affine[:3, :3] @ index + target.affine[:3, 3]
        nearest = np.rint(np.linalg.inv(own.affine) @ [*place_mm, 1.0])[:3].astype(int)
        is_inside = all(0 <= n < size for n, size in zip(nearest, shape, strict=True))
        assert found[index] == (own.values[tuple(nearest)] if is_inside else -1.0)


@given(
    st.integers(0, 1000), st.floats(0.0, 4.0), st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 3, 2)])
)
@settings(max_examples=40)
def test_spread_value_is_that_of_the_nearest_voxel(
    seed: int, radius_mm: float, voxel_mm: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(5, 6, 4))
    mask = rng.random(values.shape) > 0.85
    values[rng.random(values.shape) > 0.9] = np.nan
    found = thicken(values, mask, voxel_mm, radius_mm=radius_mm)
    sources = np.argwhere(mask & np.isfinite(values))
    for index in itertools.product(*map(range, values.shape)):
        squares = (((sources - index) * voxel_mm) ** 2).sum(1).astype(float)
        if not sources.size or squares.min() > radius_mm**2 * (1 + 1e-9):
            assert np.isnan(found[index])
            continue
        nearest = sources[squares == squares.min()]
        candidates = values[tuple(nearest.T)]
        assert found[index] == candidates[np.argmax(np.abs(candidates))]


@given(st.integers(0, 1000), st.integers(0, 2), st.integers(1, 9))
def test_slices_show_the_most_significant_one_and_stay_in_the_mask(
    seed: int, axis: int, n_slices: int
) -> None:
    rng = np.random.default_rng(seed)
    tested = rng.random((9, 11, 7)) > rng.uniform(0, 0.99)
    significant = tested & (rng.random(tested.shape) > 0.9)
    found = choose_telling_slices(tested, significant, axis, n_slices)
    others = tuple(other for other in range(3) if other != axis)
    assert 1 <= len(found) <= n_slices
    assert list(found) == sorted(set(found))
    if tested.any():
        assert all(tested.any(axis=others)[index] for index in found)
    counts = significant.sum(axis=others)
    assert counts[list(found)].max() == counts.max()


def test_slices_are_spread_where_the_mask_is() -> None:
    # A ball: equal parts of its volume are narrower in the middle.
    grid = np.indices((41, 41, 41)) - 20
    ball = (grid**2).sum(0) <= 20**2
    found = choose_telling_slices(ball, np.zeros_like(ball), 2, 5)
    gaps = np.diff(found)
    assert found[2] == 20
    assert gaps[0] > gaps[1]
    np.testing.assert_array_equal(gaps, gaps[::-1])


@pytest.mark.parametrize("draw", [draw_significant, draw_effect])
def test_first_group_above_is_warm_and_below_is_cool_on_its_own_side(
    draw: Callable[..., Figure],
) -> None:
    figure = draw(left_is_cool_and_right_warm(), BACKGROUND, background_label="T1w", n_slices=1)
    for row in (AXIAL, CORONAL):
        box = figure.axes[row].get_position()
        half = (box.x0 + box.x1) / 2
        left = part(figure, (box.x0, box.y0, half, box.y1))
        right = part(figure, (half, box.y0, box.x1, box.y1))
        # A quarter of either half is significant, in panels that have a margin of no voxel.
        for own, other, side in ((is_cool, is_warm, left), (is_warm, is_cool, right)):
            assert own(side).mean() > 0.25
            assert other(side).mean() < 0.01


def test_colours_are_drawn_at_significant_voxels_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=SHAPE)
    tested = rng.random(SHAPE) > 0.2
    significant = tested & (np.abs(values) > 1)
    effect = effect_of(np.where(tested, values, np.nan), significant, tested=tested)
    figure = draw_significant(effect, BACKGROUND, background_label="T1w", margin_mm=100)
    slices = choose_telling_slices(tested, significant, 2, 7)
    _, coloured = layers(figure, AXIAL, len(slices))
    for index, shown in zip(slices, coloured, strict=True):
        expected = np.where(significant, values, np.nan)[:, :, index].T
        np.testing.assert_array_equal(shown, expected)


def test_all_tested_voxels_show_their_effect_also_where_nothing_is_significant() -> None:
    rng = np.random.default_rng(0)
    values, tested = rng.normal(size=SHAPE), rng.random(SHAPE) > 0.2
    effect = effect_of(values, False, tested=tested)
    figure = draw_effect(effect, BACKGROUND, background_label="T1w", margin_mm=100)
    slices = choose_telling_slices(tested, np.zeros(SHAPE, bool), 2, 7)
    _, coloured = layers(figure, AXIAL, len(slices))
    for index, shown in zip(slices, coloured, strict=True):
        expected = np.where(tested, values, np.nan)[:, :, index].T
        np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("draw", [draw_significant, draw_effect])
def test_picture_without_a_significant_voxel_says_so(draw: Callable[..., Figure]) -> None:
    figure = draw(effect_of(0.3, False), BACKGROUND, background_label="T1w", n_slices=2)
    statement = next(text for text in texts(figure) if text.startswith("No voxel below"))
    assert "FWE p = 0.05" in statement
    assert "0.0002" in statement


@pytest.mark.slow  # nilearn's outlines
def test_glass_brain_without_a_significant_voxel_says_so_and_shows_none() -> None:
    figure = draw_glass_brain(effect_of(0.3, False))
    assert any(text.startswith("No voxel below FWE p = 0.05") for text in texts(figure))
    picture = part(figure, (0.0, 0.12, 0.9, 0.82))
    assert not (is_warm(picture) | is_cool(picture)).any()


def test_effect_and_significance_can_be_flipped_between() -> None:
    effect = left_is_cool_and_right_warm()
    one, two = (
        draw(effect, BACKGROUND, background_label="T1w", n_slices=3)
        for draw in (draw_effect, draw_significant)
    )
    assert tuple(one.get_size_inches()) == tuple(two.get_size_inches())
    for first, second in zip(one.axes, two.axes, strict=True):
        assert first.get_position().bounds == second.get_position().bounds
        assert [t.get_text() for t in first.texts] == [t.get_text() for t in second.texts]
        assert [i.get_extent() for i in first.images[:3]] == [
            i.get_extent() for i in second.images[:3]
        ]


def test_thickened_skeleton_hides_no_voxel_that_is_not_significant() -> None:
    # A sheet, one column of it significant: neighbours in the sheet keep their own.
    values, tested = np.full(SHAPE, 0.4), np.zeros(SHAPE, bool)
    tested[:, 6, :] = True
    significant = tested.copy()
    significant[:4] = significant[5:] = False
    effect = effect_of(values, significant, tested=tested, thickness_mm=2.5)
    figure = draw_significant(effect, BACKGROUND, background_label="FA", margin_mm=100)
    slices = choose_telling_slices(tested, significant, 2, 7)
    grey, skeleton, coloured = layers(figure, AXIAL, len(slices))
    assert len(grey) == len(slices)
    for index, green, shown in zip(slices, skeleton, coloured, strict=True):
        np.testing.assert_array_equal(np.isfinite(green), tested[:, :, index].T)
        np.testing.assert_array_equal(np.isfinite(shown[6]), significant[:, 6, index])
        # Across the sheet one voxel of 2 mm to either side is within 2.5 mm, two are not.
        assert np.isfinite(shown[5:8, 4]).all()
        assert np.isnan(shown[[4, 8], 4]).all()


def test_map_of_a_coarser_grid_is_shown_at_its_place() -> None:
    # 4 mm voxels below a background of 2 mm: every value twice along each axis.
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = AFFINE[:3, 3] + 1.0
    values = np.arange(5 * 6 * 4, dtype=float).reshape(5, 6, 4)
    coarse = [Volume(array, affine) for array in (values, values >= 0, values >= 0)]
    effect = Effect("MD", "d", *coarse, 0.01, 0.05, ("a", "b"))
    figure = draw_effect(effect, BACKGROUND, background_label="T1w", n_slices=1)
    _, coloured = layers(figure, AXIAL, 1)
    (index,) = choose_telling_slices(np.ones(SHAPE, bool), np.ones(SHAPE, bool), 2, 1)
    expected = values.repeat(2, 0).repeat(2, 1).repeat(2, 2)[:, :, index].T
    np.testing.assert_array_equal(coloured[0], expected)


def test_cuts_are_named_by_their_place_and_sides_by_letters() -> None:
    figure = draw_effect(
        effect_of(0.3, False), BACKGROUND, background_label="T1w", n_slices=1, margin_mm=0
    )
    # Middle of the first axis of 10 voxels of 2 mm from -9 mm: index 4 or 5.
    assert "x = −1 mm" in texts(figure) or "x = 1 mm" in texts(figure)
    for letter in "LRPA":
        assert letter in texts(figure)
    assert any("Neurological convention" in text for text in texts(figure))


@pytest.mark.parametrize("draw", [draw_significant, draw_effect])
def test_scale_names_quantity_and_the_sides_of_the_contrast(draw: Callable[..., Figure]) -> None:
    figure = draw(left_is_cool_and_right_warm(), BACKGROUND, background_label="T1w", n_slices=1)
    assert figure.axes[-1].get_ylabel() == "Cohen's d"
    heights = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert heights["als > hc"] > heights["als < hc"]
    low, high = figure.axes[AXIAL].images[-1].get_clim()
    assert low == -high


def test_scale_reaches_most_of_what_is_significant() -> None:
    values = np.full(SHAPE, 0.1)
    values[0, 0, 0] = 3.0  # one of 960: percentile 99.5 of all does not see it
    effect = effect_of(values, values > 1)
    assert effect.limit == pytest.approx(3.0)
    assert effect_of(values, False).limit == pytest.approx(0.1)


@pytest.mark.slow  # nilearn's outlines
@pytest.mark.parametrize(("x_mm", "is_right"), [(34.0, True), (-34.0, False)])
def test_glass_brain_shows_a_side_on_that_side(x_mm: float, is_right: bool) -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-90, -126, -72)
    grid = np.indices((46, 54, 46)) * 4.0 + affine[:3, 3].reshape(3, 1, 1, 1)
    ball = (((grid - np.array([x_mm, -20.0, 30.0]).reshape(3, 1, 1, 1)) ** 2).sum(0)) < 12**2
    values = [Volume(array, affine) for array in (ball * 1.5, np.ones_like(ball), ball)]
    effect = Effect("TSC", "d", *values, 0.001, 0.05, ("als > hc", "als < hc"))
    figure = draw_glass_brain(effect)
    shown = {}
    for axes in figure.axes:
        if len(axes.images) == 2:  # the frame has one of its own
            box = axes.get_position()
            picture = is_warm(part(figure, (box.x0, box.y0, box.x1, box.y1)))
            shown[len(shown)] = (picture.any(), np.argwhere(picture)[:, 1], picture.shape[1])
    left, behind, right, above = (shown[n] for n in range(4))
    assert (left[0], right[0]) == (not is_right, is_right)
    for _, columns, width in (behind, above):
        assert (columns.mean() > width / 2) == is_right
    assert texts(figure).count("L") == texts(figure).count("R") == 2
    assert {"left half", "right half", "from behind", "from above"} <= set(texts(figure))


@pytest.mark.slow  # nilearn's outlines
def test_drawing_makes_no_figure_of_pyplot() -> None:
    from matplotlib import pyplot

    draw_glass_brain(left_is_cool_and_right_warm())
    assert pyplot.get_fignums() == []


def test_overlap_counts_each_kind_and_shows_it_in_its_colour() -> None:
    rng = np.random.default_rng(0)
    tested = rng.random(SHAPE) > 0.3
    first, second = (tested & (rng.random(SHAPE) > 0.6) for _ in range(2))
    figure = draw_overlap(
        "TSC and FA",
        ("TSC up", "FA down"),
        (volume(first), volume(second)),
        BACKGROUND,
        background_label="T1w",
        tested=volume(tested),
        thickness_mm=0.0,
        margin_mm=100,
    )
    both = int((first & second).sum())
    only = int((first & ~second).sum()), int((second & ~first).sum())
    assert (
        f"{both} voxels are significant in both, {only[0]} in TSC up only, {only[1]} in FA down "
        f"only, of {int(tested.sum())}."
    ) in texts(figure)
    slices = choose_telling_slices(tested, first | second, 2, 7)
    drawn = layers(figure, AXIAL, len(slices))[1:]
    for kind, panels in zip((first & ~second, second & ~first, first & second), drawn, strict=True):
        for index, shown in zip(slices, panels, strict=True):
            np.testing.assert_array_equal(np.isfinite(shown), kind[:, :, index].T)


def test_skeleton_lies_where_its_mask_is() -> None:
    skeleton = np.zeros(SHAPE, bool)
    skeleton[:, 6, :] = True
    figure = draw_skeleton(BACKGROUND, volume(skeleton), threshold_fa=0.2, n_participants=4)
    slices = choose_telling_slices(np.ones(SHAPE, bool), np.zeros(SHAPE, bool), 2, 7)
    grey, green = layers(figure, AXIAL, len(slices))
    for index, fa, shown in zip(slices, grey, green, strict=True):
        np.testing.assert_array_equal(fa, BACKGROUND.values[:, :, index].T)
        np.testing.assert_array_equal(np.isfinite(shown), skeleton[:, :, index].T)
    # 80 voxels of 8 mm3.
    assert any("80 voxels (0.6 ml)" in text for text in texts(figure))


def test_participants_are_shown_at_the_same_places() -> None:
    maps = {name: volume(value) for name, value in (("a", 0.2), ("b", 0.7))}
    figure = draw_individuals(
        [Individual(name, {"FA": found}) for name, found in maps.items()],
        [FA],
        mask=volume(1.0),
        title="People",
    )
    first, second = figure.axes[:2]
    assert [t.get_text() for t in first.texts] == [t.get_text() for t in second.texts]
    assert [image.get_extent() for image in first.images] == [
        image.get_extent() for image in second.images
    ]
    for axes, value in ((first, 0.2), (second, 0.7)):
        assert {float(v) for image in axes.images for v in np.unique(image.get_array())} == {value}
        assert axes.images[0].get_clim() == (0.0, 1.0)
    assert {"a", "b", "People"} <= set(texts(figure))
    assert first.get_position().y0 > second.get_position().y0


def test_missing_map_of_a_participant_is_said_and_moves_no_other() -> None:
    quantities = [FA, Quantity("TSC", "TSC (mmol/l)", 20.0, 90.0, "viridis")]
    figure = draw_individuals(
        [Individual("a", {"TSC": volume(50.0)})], quantities, mask=volume(1.0), title="t"
    )
    assert "no FA" in texts(figure)
    assert "no TSC" not in texts(figure)
    images = figure.axes[0].images
    assert [np.ma.is_masked(image.get_array()) for image in images] == [True] * 3 + [False] * 3
    labels = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert labels == ["FA", "TSC (mmol/l)"]


@pytest.mark.slow  # nilearn's outlines
def test_sign_of_money_in_a_name_is_no_formula() -> None:
    effect = Effect(
        *("$FA$, $x^", "$d", volume(0.3), volume(True), volume(False)),
        *(0.5, 0.05, ("$a", "$b$")),
    )
    for figure in (
        draw_effect(effect, BACKGROUND, background_label="T1w", n_slices=1),
        draw_glass_brain(effect),
    ):
        figure.canvas.draw()
        assert "$FA$, $x^" in texts(figure)


@pytest.mark.slow  # five pictures of each
@pytest.mark.parametrize(
    ("shape", "value", "is_tested"),
    [
        ((1, 6, 5), 0.5, True),
        ((6, 1, 1), 0.0, True),
        ((4, 4, 4), np.nan, True),
        ((4, 4, 4), 1, False),
    ],
)
def test_thin_flat_and_empty_maps_are_drawn(
    shape: tuple[int, int, int], value: float, is_tested: bool, tmp_path: Path
) -> None:
    values, tested = (Volume(np.full(shape, v), AFFINE) for v in (value, is_tested))
    effect = Effect("FA", "d", values, tested, tested, np.nan, 0.05, ("a > b", "a < b"), 2.0)
    figures = [
        draw_significant(effect, values, background_label="FA"),
        draw_effect(effect, values, background_label="FA"),
        draw_overlap(
            *("FA", ("a", "b"), (tested, tested), values),
            **{"background_label": "T1w", "tested": tested, "thickness_mm": 2.0},
        ),
        draw_skeleton(values, tested, threshold_fa=0.2, n_participants=4),
        draw_individuals([Individual("a", {"FA": values})], [FA], mask=tested, title="t"),
    ]
    for figure in figures:
        save_figure(figure, tmp_path / "a.png")
        # One thin row must not become a tower.
        assert 0.5 < figure.get_size_inches()[1] < 15


@pytest.mark.parametrize(("thickness_mm", "has_note"), [(0.0, False), (2.5, True)])
def test_caption_owns_up_to_what_was_spread(thickness_mm: float, has_note: bool) -> None:
    note = effect_of(0.1, False, thickness_mm=thickness_mm).display_note
    assert ("2.5 mm" in note and "not tested" in note) == has_note
    assert bool(note) == has_note


@pytest.mark.slow  # six pictures, each rendered twice
@pytest.mark.parametrize("ending", ["svg", "png", "webp"])
def test_same_maps_give_same_bytes_whatever_the_users_style(ending: str, tmp_path: Path) -> None:
    def bytes_of(name: str) -> list[bytes]:
        effect = left_is_cool_and_right_warm()
        found = []
        for number, figure in enumerate(
            (
                draw_significant(effect, BACKGROUND, background_label="T1w", n_slices=2),
                draw_glass_brain(effect),
            )
        ):
            path = tmp_path / f"{name}{number}.{ending}"
            save_figure(figure, path)
            found.append(path.read_bytes())
        return found

    first = bytes_of("one")
    with matplotlib.rc_context({"font.size": 30, "image.origin": "upper", "svg.hashsalt": "x"}):
        theirs = dict(matplotlib.rcParams)
        assert bytes_of("two") == first
        assert dict(matplotlib.rcParams) == theirs


MIRRORED = np.diag([-2.0, 2.0, 2.0, 1.0])
SHIFTED = AFFINE + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4])
TURNED = AFFINE + np.array([[0, 0.2, 0, 0], [0] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Volume(np.ones(SHAPE), MIRRORED), "positive voxel sizes in mm; reorder"),
        (lambda: Volume(np.ones(SHAPE), TURNED), "resample it"),
        (lambda: Volume(np.ones(SHAPE), np.eye(3)), r"affine has shape \(3, 3\)"),
        (lambda: Volume(np.ones((4, 4)), AFFINE), r"values has shape \(4, 4\)"),
        (
            lambda: Effect(
                *("FA", "d", volume(0.0), volume(True, SHIFTED), volume(False)),
                *(0.5, 0.05, ("a", "b")),
            ),
            "FA: tested and values are of different grids",
        ),
        (
            lambda: draw_overlap(
                *("FA", ("a", "b"), (volume(True), volume(True, SHIFTED)), BACKGROUND),
                **{"background_label": "T1w", "tested": volume(True), "thickness_mm": 0.0},
            ),
            "FA: masks and tested are of different grids",
        ),
        (
            lambda: draw_skeleton(
                BACKGROUND, volume(True, SHIFTED), threshold_fa=0.2, n_participants=4
            ),
            "give the skeleton on the grid of the mean",
        ),
        (
            lambda: effect_of(0.0, True, tested=False),
            "significant has voxels that tested has not; give the mask of the inference",
        ),
        (
            lambda: thicken(np.ones(3), np.ones(4, bool), (1, 1, 1), radius_mm=1.0),
            r"values has shape \(3,\) and mask \(4,\)",
        ),
        (
            lambda: thicken(
                np.ones(SHAPE), np.ones(SHAPE, bool), (1, 1, 1), radius_mm=float("nan")
            ),
            "radius_mm is nan; give 0 or more",
        ),
        (
            lambda: draw_individuals([], [FA], mask=volume(1.0), title="People"),
            "People: 0 participants and 1 quantities",
        ),
    ],
)
def test_volumes_that_do_not_fit_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(NumericsError, match=message):
        make()

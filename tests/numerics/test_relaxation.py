"""Weights of relaxation equal a simulated steady state and limits known from theory."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.relaxation import (
    Relaxation,
    biexponential_decay,
    curie_factor,
    mixed_weight,
    relaxation_weight,
    spoiled_echo_weight,
)


def simulated_steady_state(repetition_ms, t1_ms, flip_deg):
    """Longitudinal magnetisation pulse by pulse, spoiled after each readout."""
    alpha, longitudinal = np.deg2rad(flip_deg), 1.0
    for _ in range(500):
        transverse = longitudinal * np.sin(alpha)
        left = longitudinal * np.cos(alpha)
        longitudinal = 1.0 + (left - 1.0) * np.exp(-repetition_ms / t1_ms)
    return transverse


@pytest.mark.parametrize("repetition_ms", [10.0, 30.0, 120.0])
@pytest.mark.parametrize("flip_deg", [20.0, 59.0, 90.0, 120.0])
def test_saturation_is_the_steady_state_of_many_pulses(repetition_ms, flip_deg):
    for t1_ms in (37.0, 60.0):
        expected = simulated_steady_state(repetition_ms, t1_ms, flip_deg)
        assert_allclose(spoiled_echo_weight(repetition_ms, t1_ms, flip_deg), expected, rtol=1e-9)


def test_signal_is_largest_at_the_ernst_angle():
    angles = np.linspace(1.0, 179.0, 17801)
    best = angles[np.argmax(spoiled_echo_weight(30.0, 37.0, angles))]
    assert_allclose(best, np.rad2deg(np.arccos(np.exp(-30.0 / 37.0))), atol=0.01)


def test_full_recovery_leaves_the_sine_of_the_angle():
    assert_allclose(spoiled_echo_weight(1e5, 37.0, [30.0, 90.0]), np.sin(np.deg2rad([30.0, 90.0])))


def test_decay_has_the_initial_slope_of_its_mean_rate():
    step_ms = 1e-6
    lost = 1.0 - biexponential_decay(step_ms, 3.4, 23.5, 0.6)
    assert_allclose(lost / step_ms, 0.6 / 3.4 + 0.4 / 23.5, rtol=1e-4)  # second order in the step


def test_decay_of_equal_components_is_mono_exponential():
    times_ms = np.linspace(0.0, 50.0, 11)
    assert_allclose(biexponential_decay(times_ms, 20.0, 20.0, 0.3), np.exp(-times_ms / 20.0))


def test_published_protocol_changes_concentration_as_tabulated():
    # TR 120 ms, TE 0.2 ms, 90 degrees, tubes with T1 45.6 ms and 4.3 ms T2* of one component:
    # white matter comes out a few per cent wrong without the correction, as the review says
    sequence = {"repetition_ms": 120.0, "echo_ms": 0.2, "flip_deg": 90.0}
    white = relaxation_weight(Relaxation(37.0, 3.4, 23.5, 0.6), **sequence)
    tube = relaxation_weight(Relaxation(45.6, 4.3, 4.3, 0.0), **sequence)
    assert_allclose(100 * (white / tube - 1), 3.6, atol=1.0)  # source rounds T1 of the tissues


def test_curie_factor_is_one_at_one_temperature_and_turns_over():
    assert curie_factor(37.0, 37.0) == 1.0
    assert_allclose(curie_factor(37.0, 20.0) * curie_factor(20.0, 37.0), 1.0)
    assert_allclose(curie_factor(37.0, 21.0), 310.15 / 294.15)


def test_mixture_gives_back_the_mean_concentration():
    rng = np.random.default_rng(0)
    fractions = rng.dirichlet([1.0, 1.0, 1.0], size=(4, 5)).transpose(2, 0, 1)
    concentrations, weights = np.array([40.0, 50.0, 140.0]), np.array([0.92, 0.9, 0.8])
    signal = np.tensordot(concentrations * weights, fractions, axes=1)
    found = signal / mixed_weight(fractions, weights, concentrations, elsewhere=1.0)
    assert_allclose(found, np.tensordot(concentrations, fractions, axes=1))


def test_mixture_does_not_depend_on_unit_or_order():
    fractions = np.random.default_rng(1).dirichlet([1.0, 1.0], size=7).T
    first = mixed_weight(fractions, [0.9, 0.7], [40.0, 140.0], elsewhere=0.9)
    second = mixed_weight(fractions[::-1], [0.7, 0.9], [0.14, 0.04], elsewhere=0.9)
    assert_allclose(first, second)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: spoiled_echo_weight(0.0, 37.0, 90.0), "repetition_ms is 0 ms"),
        (lambda: spoiled_echo_weight(120.0, -1.0, 90.0), "t1_ms is -1 ms"),
        (lambda: spoiled_echo_weight(120.0, 37.0, [0.0, 90.0]), "flip_deg holds 0 to 90"),
        (lambda: biexponential_decay(-0.1, 3.0, 20.0, 0.6), "echo_ms holds -0.1 ms"),
        (lambda: biexponential_decay(1.0, 23.0, 3.0, 0.6), "exchange the two"),
        (lambda: biexponential_decay(1.0, 3.0, 23.0, 1.7), "short_fraction is 1.7"),
        (lambda: Relaxation(0.0, 3.0, 23.0, 0.6), "t1_ms is 0 ms"),
        (lambda: curie_factor(310.0, 20.0), "brain_celsius is 310 degrees"),
        (lambda: mixed_weight(np.ones((2, 3)), [0.9], [1, 2], elsewhere=1), "one fraction map"),
        (lambda: mixed_weight(np.full((1, 3), 2.0), [0.9], [1], elsewhere=1), "0 to 1"),
        (lambda: mixed_weight(np.ones((1, 3)), [0.0], [1], elsewhere=1), "relaxation weight is 0"),
    ],
)
def test_impossible_arguments_are_named(call, text):
    with pytest.raises(NumericsError, match=text):
        call()

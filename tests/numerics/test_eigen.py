"""Eigenpairs against LAPACK and closed forms, on spectra that are hard for inverse iteration."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.eigen import symmetric_eigenpairs


def _rotated(spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(spectrum)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix = basis * spectrum @ basis.T
    return (matrix + matrix.T) / 2


def _matrices(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    samples = rng.normal(size=(2 * n + 3, n))
    graded = samples * np.logspace(0, 6, n)
    low_rank = rng.normal(size=(n, 2)) @ rng.normal(size=(2, n))
    return {
        "wishart": samples.T @ samples,
        "graded": graded.T @ graded,
        "low_rank": low_rank @ low_rank.T,
        "double": _rotated(np.repeat(rng.normal(size=n), 2)[:n], rng),
        "indefinite": _rotated(np.linspace(-1.0, 1.0, n), rng),
        "identity": np.eye(n),
        "ones": np.ones((n, n)),
        "zero": np.zeros((n, n)),
        "diagonal": np.diag(np.arange(float(n))),
    }


@pytest.mark.parametrize("kind", sorted(_matrices(2)))
@pytest.mark.parametrize("n", [1, 2, 3, 8, 21, 65, 124])
def test_eigenpairs_are_those_of_lapack(n, kind):
    matrix = _matrices(n)[kind]
    values, vectors = symmetric_eigenpairs(matrix, first=0, stop=n)
    expected = np.linalg.eigvalsh(matrix)
    norm = max(abs(expected).max(), 1e-300)
    # backward stable: n spacings of float64 (2e-16) relative to the norm, with a margin of 3
    bound = 3 * max(n, 8) * np.finfo(float).eps
    assert_allclose(values, expected, rtol=0, atol=bound * norm)
    assert_allclose(matrix @ vectors, vectors * values, rtol=0, atol=bound * norm)
    assert_allclose(vectors.T @ vectors, np.eye(n), rtol=0, atol=bound)


def test_eigenvectors_of_wilkinson_matrix_stay_orthogonal():
    # pairs of eigenvalues that agree to all digits though no off-diagonal is small
    matrix = np.diag(abs(np.arange(-10.0, 11.0))) + np.eye(21, k=1) + np.eye(21, k=-1)
    values, vectors = symmetric_eigenpairs(matrix, first=15, stop=21)
    assert values[20] - values[19] < 1e-13
    assert_allclose(vectors.T @ vectors, np.eye(6), rtol=0, atol=1e-14)
    assert_allclose(matrix @ vectors, vectors * values[15:], rtol=0, atol=1e-13)


def test_second_difference_has_its_closed_form():
    n = 30
    matrix = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    values, _ = symmetric_eigenpairs(matrix, first=0, stop=0)
    expected = 4 * np.sin(np.arange(1, n + 1) * np.pi / (2 * (n + 1))) ** 2
    assert_allclose(values, expected, rtol=0, atol=1e-14)  # a few spacings of the norm, 4


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_eigenvectors_do_not_depend_on_unit(scale):
    matrix = _matrices(21)["wishart"]
    _, vectors = symmetric_eigenpairs(matrix, first=17, stop=21)
    _, scaled = symmetric_eigenpairs(scale * matrix, first=17, stop=21)
    assert_allclose(abs(scaled), abs(vectors), rtol=0, atol=1e-12)  # rounding over the gaps


@pytest.mark.parametrize(
    ("matrix", "first", "stop", "text"),
    [
        (np.ones((2, 3)), 0, 1, "not square"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), 0, 1, "symmetric"),
        (np.full((2, 2), np.nan), 0, 1, "NaN"),
        (np.eye(3), 1, 4, "has 0 to 3"),
    ],
)
def test_unusable_matrix_is_refused(matrix, first, stop, text):
    with pytest.raises(NumericsError, match=text):
        symmetric_eigenpairs(matrix, first=first, stop=stop)

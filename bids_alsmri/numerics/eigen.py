"""Some eigenpairs of small symmetric matrices, compiled, without BLAS.

Written for the many small eigenproblems of local PCA. The library routines spend most of their
time there on overheads and on eigenvectors that nobody asked for; they also start threads of
their own, which would undo the equality of results between numbers of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import NumericsError
from bids_alsmri.numerics.checks import as_float, require_finite
from bids_alsmri.numerics.compile import kernel

_Array = NDArray[np.float64]


@kernel
def dot(a: _Array, b: _Array, n: int) -> float:
    """Scalar product of the first `n` entries, in four chains so that additions overlap."""
    s0 = s1 = s2 = s3 = 0.0
    n_blocked = n - n % 4
    for i in range(0, n_blocked, 4):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
    for i in range(n_blocked, n):
        s0 += a[i] * b[i]
    return (s0 + s1) + (s2 + s3)


@kernel
def _symmetric_product(a: _Array, u: _Array, k: int, p: _Array) -> None:
    # rows are added rather than dotted: sums over j would not vectorise without fastmath
    for j in range(k):
        p[j] = 0.0
    n_blocked = k - k % 4
    for i in range(0, n_blocked, 4):
        u0, u1, u2, u3 = u[i], u[i + 1], u[i + 2], u[i + 3]
        row0, row1, row2, row3 = a[i], a[i + 1], a[i + 2], a[i + 3]
        for j in range(k):
            p[j] += (u0 * row0[j] + u1 * row1[j]) + (u2 * row2[j] + u3 * row3[j])
    for i in range(n_blocked, k):
        u0 = u[i]
        row0 = a[i]
        for j in range(k):
            p[j] += u0 * row0[j]


@kernel
def _subtract_rank_two(a: _Array, u: _Array, p: _Array, k: int) -> None:
    n_blocked = k - k % 2
    for i in range(0, n_blocked, 2):
        u0, p0, row0 = u[i], p[i], a[i]
        u1, p1, row1 = u[i + 1], p[i + 1], a[i + 1]
        for j in range(k):
            row0[j] -= u0 * p[j] + p0 * u[j]
            row1[j] -= u1 * p[j] + p1 * u[j]
    for i in range(n_blocked, k):
        u0, p0, row0 = u[i], p[i], a[i]
        for j in range(k):
            row0[j] -= u0 * p[j] + p0 * u[j]


@kernel
def tridiagonalise(
    a: _Array, n: int, diagonal: _Array, off: _Array, half_norm: _Array, p: _Array
) -> None:
    """Reduce the full symmetric `a` in place by Householder reflections from the last row up.

    Row k of `a` keeps the reflection vector in its first k entries and `half_norm[k]` half its
    squared length (0 for no reflection). From the last row up, every row in work begins at an
    aligned address, which halves the time against working downwards.
    """
    for k in range(n - 1, 1, -1):
        u = a[k]
        diagonal[k] = u[k]
        last = u[k - 1]
        length2 = dot(u, u, k)
        if length2 - last * last <= 0.0:
            off[k - 1] = last
            half_norm[k] = 0.0
            continue
        # the sign that adds, so that nothing cancels
        alpha = -np.sqrt(length2) if last > 0.0 else np.sqrt(length2)
        h = length2 - alpha * last
        u[k - 1] = last - alpha
        off[k - 1] = alpha
        half_norm[k] = h
        _symmetric_product(a, u, k, p)
        inverse = 1.0 / h
        shift = 0.5 * dot(u, p, k) * inverse * inverse
        for j in range(k):
            p[j] = p[j] * inverse - shift * u[j]
        _subtract_rank_two(a, u, p, k)
    diagonal[0] = a[0, 0]
    half_norm[0] = half_norm[n - 1 if n == 1 else 1] = 0.0
    if n > 1:
        diagonal[1] = a[1, 1]
        off[0] = a[1, 0]


@kernel
def _sweep_root_free(values: _Array, off2: _Array, low: int, high: int) -> None:
    # one QL sweep on the block low..high, with Wilkinson's shift and without square roots
    root = np.sqrt(off2[low])
    half_gap = (values[low + 1] - values[low]) / (2.0 * root)
    length = np.sqrt(half_gap * half_gap + 1.0)
    if half_gap < 0.0:
        length = -length
    shift = values[low] - root / (half_gap + length)
    cosine, sine = 1.0, 0.0
    gamma = values[high] - shift
    p = gamma * gamma
    for i in range(high - 1, low - 1, -1):
        e2 = off2[i]
        r = p + e2
        if i != high - 1:
            off2[i + 1] = sine * r
        old_cosine, old_gamma = cosine, gamma
        inverse = 1.0 / r
        # both quotients start from p and r at once: their latency is the cost of this loop
        r_by_p = r / p if p > 0.0 else 0.0
        cosine = p * inverse
        sine = e2 * inverse
        gamma = cosine * (values[i] - shift) - sine * old_gamma
        values[i + 1] = old_gamma + (values[i] - gamma)
        p = gamma * gamma * r_by_p if cosine > 0.0 else old_cosine * e2
    off2[low] = sine * p
    values[low] = shift + gamma


@kernel
def tridiagonal_eigenvalues(values: _Array, off2: _Array, n: int) -> bool:
    """Replace the diagonal `values` by the eigenvalues, ascending; `off2` is overwritten.

    `off2` holds the squared off-diagonal. Returns False where 60 sweeps did not settle one.
    The root-free QL method of Pal, Walker and Kahan (Parlett, The Symmetric Eigenvalue Problem,
    SIAM 1998, section 8.15, doi:10.1137/1.9781611971163).
    """
    tiny2 = 4.930380657631324e-32  # square of the spacing of float64 at 1
    for low in range(n - 1):
        for sweep in range(61):
            high = low
            while high < n - 1 and off2[high] > tiny2 * abs(values[high] * values[high + 1]):
                high += 1
            if high < n - 1:
                off2[high] = 0.0
            if high == low:
                break
            if sweep == 60:
                return False
            _sweep_root_free(values, off2, low, high)
    for i in range(1, n):
        moved = values[i]
        j = i - 1
        while j >= 0 and values[j] > moved:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = moved
    return True


@kernel
def _factorise_shifted(
    diagonal: _Array, off: _Array, n: int, value: float, tiny: float, lu: _Array
) -> None:
    # partial pivoting; lu rows: 1/pivot, first and second upper diagonal, multiplier, swapped
    pivot, upper = diagonal[0] - value, off[0] if n > 1 else 0.0
    for i in range(n - 1):
        below, centre = off[i], diagonal[i + 1] - value
        right = off[i + 1] if i < n - 2 else 0.0
        if abs(below) > max(abs(pivot), tiny):
            multiplier = pivot / below
            lu[0, i], lu[1, i], lu[2, i] = 1.0 / below, centre, right
            lu[3, i], lu[4, i] = multiplier, 1.0
            pivot, upper = upper - multiplier * centre, -multiplier * right
        else:
            if abs(pivot) < tiny:
                pivot = tiny
            multiplier = below / pivot
            lu[0, i], lu[1, i], lu[2, i] = 1.0 / pivot, upper, 0.0
            lu[3, i], lu[4, i] = multiplier, 0.0
            pivot, upper = centre - multiplier * upper, right
    if abs(pivot) < tiny:
        pivot = tiny
    lu[0, n - 1], lu[1, n - 1], lu[2, n - 1] = 1.0 / pivot, 0.0, 0.0


@kernel
def _solve_shifted(lu: _Array, n: int, y: _Array) -> None:
    for i in range(n - 1):
        if lu[4, i] != 0.0:
            y[i], y[i + 1] = y[i + 1], y[i] - lu[3, i] * y[i + 1]
        else:
            y[i + 1] -= lu[3, i] * y[i]
    y[n - 1] *= lu[0, n - 1]
    if n > 1:
        y[n - 2] = (y[n - 2] - lu[1, n - 2] * y[n - 1]) * lu[0, n - 2]
    for i in range(n - 3, -1, -1):
        y[i] = (y[i] - lu[1, i] * y[i + 1] - lu[2, i] * y[i + 2]) * lu[0, i]


@kernel
def _orthonormalise(vectors: _Array, j: int, n: int) -> float:
    # against all rows before j; returns the length that was left
    y = vectors[j]
    for i in range(j):
        x = vectors[i]
        part = dot(x, y, n)
        for m in range(n):
            y[m] -= part * x[m]
    length: float = np.sqrt(dot(y, y, n))
    if length > 0.0:
        inverse = 1.0 / length
        for m in range(n):
            y[m] *= inverse
    return length


@kernel
def _reflect_back(a: _Array, half_norm: _Array, n: int, vectors: _Array, n_vectors: int) -> None:
    for k in range(2, n):
        if half_norm[k] == 0.0:
            continue
        u = a[k]
        inverse = 1.0 / half_norm[k]
        for j in range(n_vectors):
            x = vectors[j]
            part = dot(u, x, k) * inverse
            for m in range(k):
                x[m] -= part * u[m]


@kernel
def eigenvectors(
    a: _Array,
    half_norm: _Array,
    diagonal: _Array,
    off: _Array,
    n: int,
    values: _Array,
    first: int,
    stop: int,
    vectors: _Array,
    lu: _Array,
) -> bool:
    """Rows of `vectors`: the orthonormal eigenvectors to `values[first:stop]`.

    By inverse iteration on the tridiagonal form, each made orthogonal to those before, then
    turned back by the reflections that `tridiagonalise` left in `a` (Parlett 1998, sections 4.2
    and 7.4). Returns False where one did not converge.
    """
    scale = max(abs(values[0]), abs(values[n - 1]))
    tiny = max(2.220446049250313e-16 * scale, 1e-140)  # its inverse squared must not overflow
    enough = 0.05 / (n * tiny)  # growth that a residual of 20 n spacings stands for
    seed = 12345
    converged = True
    for j in range(stop - first):
        _factorise_shifted(diagonal, off, n, values[first + j], tiny, lu)
        y = vectors[j]
        for m in range(n):
            # any start will do that is not orthogonal to the vector sought
            seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
            y[m] = seed * 9.313225746154785e-10 - 0.5
        _orthonormalise(vectors, j, n)
        n_good = 0
        for _ in range(8):
            _solve_shifted(lu, n, y)
            growth = _orthonormalise(vectors, j, n)
            if growth >= enough:
                n_good += 1
            if n_good == 2:
                break
        # once more: the first time leaves rounding times the growth that it took away
        _orthonormalise(vectors, j, n)
        if n_good < 2:
            converged = False
    _reflect_back(a, half_norm, n, vectors, stop - first)
    return converged


def symmetric_eigenpairs(
    matrix: NDArray[np.floating], *, first: int, stop: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""All eigenvalues of a symmetric matrix, and the eigenvectors of some.

    Parameters
    ----------
    matrix : (n, n) array
        Symmetric and finite; any unit. Computed in float64.
    first, stop : int
        The eigenvectors wanted, counted from the smallest eigenvalue: `first` to `stop` - 1.

    Returns
    -------
    values : (n,) array
        Eigenvalues in the unit of `matrix`, ascending.
    vectors : (n, stop - first) array
        Orthonormal eigenvectors in columns, their sign arbitrary.

    Raises
    ------
    NumericsError
        If the matrix is not square, symmetric and finite, if the range does not lie within it,
        or if an iteration does not converge.

    Notes
    -----
    Householder tridiagonalisation, root-free QL for the values, inverse iteration for the
    vectors (Parlett, The Symmetric Eigenvalue Problem, SIAM 1998,
    doi:10.1137/1.9781611971163). Errors are a few times :math:`\epsilon \lVert A \rVert`
    for values, and that over the gap to the next value for vectors.

    Examples
    --------
    >>> values, vectors = symmetric_eigenpairs(np.diag([3.0, 1.0, 2.0]), first=2, stop=3)
    >>> values
    array([1., 2., 3.])
    >>> abs(vectors[:, 0]).round(12)
    array([1., 0., 0.])
    """
    a = as_float("matrix", matrix, ndim=2).copy()
    n = a.shape[0]
    require_finite("matrix", a)
    if a.shape != (n, n) or n == 0 or not np.allclose(a, a.T, rtol=1e-10, atol=0.0):
        raise NumericsError(f"matrix of shape {a.shape} is not square and symmetric")
    if not 0 <= first <= stop <= n:
        raise NumericsError(f"eigenvectors {first} to {stop} asked for; the matrix has 0 to {n}")
    diagonal, off, half_norm, p = np.zeros((4, n))
    tridiagonalise(a, n, diagonal, off, half_norm, p)
    values = diagonal.copy()
    converged = tridiagonal_eigenvalues(values, off**2, n)
    vectors = np.zeros((stop - first, n))
    lu = np.zeros((5, n))
    converged &= eigenvectors(a, half_norm, diagonal, off, n, values, first, stop, vectors, lu)
    if not converged:
        raise NumericsError("an eigenpair did not converge; check the scale of the matrix")
    return values, vectors.T

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import norm

import rmtland as rl
from rmtland.spectra import quadrature
from rmtland.spectra.operators import SymmetricOperator
from tests.spectra.spectra import of_spectrum
from tests.statistical import assert_mean


def rotated(eigenvalues, rng=0):
    """A symmetric matrix with these eigenvalues."""
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    basis = np.linalg.qr(np.random.default_rng(rng).normal(size=(eigenvalues.size, eigenvalues.size)))[0]
    return (basis * eigenvalues) @ basis.T


BULK = np.concatenate([np.linspace(-1, 1, 200) ** 3, [1.5] * 40])
EIGENVALUES = np.concatenate([BULK, [8.0, 10.0, 12.0]])
MATRIX = rotated(EIGENVALUES)
SIZE = EIGENVALUES.size


def smoothed(eigenvalues, grid, width):
    """Density of dense eigenvalues under the same Gaussians: the oracle."""
    return norm.pdf(grid[:, None], eigenvalues, width).mean(axis=1)


def integral(found):
    return np.trapezoid(found.density, found.grid)


@pytest.mark.parametrize("options", [{}, {"reorthogonalize": False}, {"reorthogonalize": True}, {"deflate": 3}])
@pytest.mark.parametrize("in_torch", [False, True])
def test_density_is_that_of_dense_eigenvalues(options, in_torch):
    matrix = torch.tensor(MATRIX, dtype=torch.float32) if in_torch else MATRIX
    found = rl.spectral_density(matrix, num_probes=60, num_steps=60, rng=0, **options)
    oracle = smoothed(EIGENVALUES, found.grid, found.width)
    assert integral(found) == pytest.approx(1, abs=1e-3)
    # Nodes stand for eigenvalues nearby, so single points may differ where these are dense; the mass may not.
    distance = np.trapezoid(np.abs(found.density - oracle), found.grid)
    noise = np.trapezoid(found.standard_error, found.grid)
    assert distance < 2 * noise + 0.02
    assert noise < 0.08
    # Each weight as 1 / m, the first component unsquared: what peers got wrong.
    for wrong in (np.full_like(found.weights, 1 / 60), np.sqrt(found.weights) / np.sqrt(found.weights).sum(1)[:, None]):
        density = np.mean(
            [norm.pdf(found.grid[:, None], x, found.width) @ w for x, w in zip(found.nodes, wrong, strict=True)], axis=0
        )
        assert np.trapezoid(np.abs(density - oracle), found.grid) > 0.2


def test_grid_contains_every_outlier_of_every_probe():
    # Runs of three steps see the outlier or not: a grid that ends at the mean of their maxima cuts it off.
    eigenvalues = np.append(np.random.default_rng(1).normal(size=2000), 8.0)
    operator = SymmetricOperator(lambda v: eigenvalues[:, None] * v, eigenvalues.size, eigenvalues)
    found = rl.spectral_density(operator, num_probes=8, num_steps=3, rng=0)
    tops = found.nodes.max(axis=1)
    assert tops.max() > 1.15 * tops.mean()
    assert found.grid[-1] >= tops.max() + 4 * found.width
    assert found.grid[0] <= found.nodes.min() - 4 * found.width
    assert integral(found) == pytest.approx(1, abs=1e-3)
    found = rl.spectral_density(operator, num_probes=2, num_steps=40, rng=0)
    assert found.grid[-1] > 8 > found.nodes.max() - 1e-6
    assert found.cdf(6.0) < 1 - 1e-5 < found.cdf(10.0)
    assert found.bounds[1] == pytest.approx(8 + 0.05 * (8 - eigenvalues.min()), rel=0.01)


def test_bounds_are_the_extreme_ritz_values_of_all_probes_and_their_residuals():
    vectors = []

    def multiply(block):
        vectors.append(block[:, 0])
        return MATRIX @ block

    operator = SymmetricOperator(multiply, SIZE, MATRIX)
    found = rl.spectral_density(operator, num_probes=3, num_steps=5, margin=0.0, rng=0)
    ends = []
    for start in vectors[::5]:
        powers = [start]
        while len(powers) < 5:
            powers.append(MATRIX @ powers[-1])
        basis = np.linalg.qr(np.stack(powers, axis=1))[0]
        values, turn = np.linalg.eigh(basis.T @ MATRIX @ basis)
        left = np.linalg.norm(MATRIX @ basis @ turn - (basis @ turn) * values, axis=0)
        ends.append((values[0] - left[0], values[-1] + left[-1]))
    low, high = np.transpose(ends)
    assert found.bounds == (pytest.approx(low.min(), rel=1e-6), pytest.approx(high.max(), rel=1e-6))
    assert min(low.max() - low.min(), high.max() - high.min()) > 0.01


def test_quadrature_is_exact_for_polynomials_up_to_degree_2m_minus_1():
    steps = 5
    found = rl.spectral_density(MATRIX, num_steps=steps, rng=3)
    start = np.random.default_rng(np.random.SeedSequence(3).spawn(2)[1]).standard_normal(SIZE)
    start /= np.linalg.norm(start)
    values, vectors = np.linalg.eigh(MATRIX)
    weights = (vectors.T @ start) ** 2
    for degree in range(2 * steps + 1):
        exact = np.sum(weights * values**degree)
        ours, error = found.expectation(lambda x, degree=degree: x**degree)
        assert np.isnan(error)
        assert (abs(ours - exact) < 1e-9 * abs(exact)) == (degree <= 2 * steps - 1), degree


def test_expectations_are_unbiased_and_know_their_error():
    found = [rl.spectral_density(MATRIX, num_probes=12, num_steps=30, rng=seed) for seed in range(40)]
    growing = lambda x: np.exp(x / 4)  # noqa: E731
    for function in (np.ones_like, np.square, growing, lambda x: np.abs(x) < 0.5):
        exact = function(EIGENVALUES).mean()
        values, errors = np.array([f.expectation(function) for f in found]).T
        if function is np.ones_like:
            np.testing.assert_allclose(values, 1, rtol=1e-12)
            continue
        bias = 0.01 if function not in (np.square, growing) else 0.0  # no polynomial
        assert_mean(values, exact, bias=bias, detect=0.4 * exact)
        if not bias:
            assert np.sqrt(np.mean(((values - exact) / errors) ** 2)) == pytest.approx(1, abs=0.35)


def test_one_probe_knows_no_error_and_says_so():
    found = rl.spectral_density(MATRIX, num_steps=20, rng=0)
    assert np.isnan(found.standard_error).all()
    assert np.isnan(found.count_below(2.0)[1])
    assert found.nodes.shape == (1, 20)


def test_ghosts_share_the_weight_of_their_eigenvalue():
    with_ghosts = rl.spectral_density(MATRIX, num_steps=150, reorthogonalize=False, rng=0)
    without = rl.spectral_density(MATRIX, num_steps=150, reorthogonalize=True, rng=0)
    near = [np.abs(f.nodes[0] - 12) < 1e-6 for f in (with_ghosts, without)]
    assert near[0].sum() > 1 == near[1].sum()
    assert with_ghosts.weights[0, near[0]].sum() == pytest.approx(without.weights[0, near[1]].sum(), rel=1e-6)
    assert np.trapezoid(np.abs(with_ghosts.density - without.density), without.grid) < 0.05


def test_deflation_resolves_the_bulk_and_keeps_the_outliers():
    plain = rl.spectral_density(MATRIX, num_probes=6, num_steps=60, rng=0)
    found = rl.spectral_density(MATRIX, num_probes=6, num_steps=60, deflate=3, rng=0)
    np.testing.assert_allclose(found.outliers, [8, 10, 12], rtol=1e-8)
    np.testing.assert_allclose(found.weights.sum(axis=1), 240 / 243, rtol=1e-12)
    assert found.width < 0.3 * plain.width
    assert found.bounds[1] < 2
    assert found.grid[-1] > 12
    assert found.num_products > 6 * 60
    # No zeros where the outliers were taken out, and their number is exact.
    for edge, number in ((5.0, 240), (9.0, 241), (11.0, 242)):
        count, error = found.count_below(edge)
        assert count == pytest.approx(number, abs=1e-6)
        assert error < 1e-6
        rough, error = plain.count_below(edge)
        assert abs(rough - number) < 5 * error
    assert found.expectation(np.square)[1] < 0.5 * plain.expectation(np.square)[1]
    pairs = rl.top_eigenpairs(MATRIX, 3, rng=1)
    given = rl.spectral_density(MATRIX, num_probes=6, num_steps=60, deflate=pairs, rng=0)
    np.testing.assert_allclose(given.outliers, found.outliers, rtol=1e-6)


def test_width_is_papyans():
    found = rl.spectral_density(MATRIX, num_steps=41, kappa=5.0, rng=0)
    half = 0.5 * (found.bounds[1] - found.bounds[0])
    # Half-way between nodes at the mean distance, range / (M - 1), a Gaussian has fallen to 1 / kappa.
    assert norm.pdf(half / 40, 0, found.width) == pytest.approx(norm.pdf(0, 0, found.width) / 5)
    assert rl.spectral_density(MATRIX, num_steps=41, kappa=3.0, rng=0).width > found.width
    wider = rl.spectral_density(MATRIX, num_steps=41, margin=0.2, rng=0)
    assert wider.bounds[1] - wider.bounds[0] == pytest.approx(2 * half * 1.4 / 1.1)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e12, 0.0), (-1.0, 0.0), (1.0, -20.0), (1e-100, 0.0)])
def test_scale_and_shift_move_the_density_along(scale, shift):
    plain = rl.spectral_density(MATRIX, num_probes=3, num_steps=20, rng=0)
    moved = rl.spectral_density(scale * MATRIX + shift * np.eye(SIZE), num_probes=3, num_steps=20, rng=0)
    order = slice(None, None, -1 if scale < 0 else 1)
    np.testing.assert_allclose(moved.grid[order], scale * plain.grid + shift, rtol=1e-6, atol=1e-7 * abs(scale))
    np.testing.assert_allclose(moved.density[order] * abs(scale), plain.density, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved.standard_error[order] * abs(scale), plain.standard_error, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-12, 7e12])
@pytest.mark.parametrize("method", ["lanczos", "kpm"])
def test_multiples_of_the_identity_are_one_peak(value, method):
    found = rl.spectral_density(value * np.eye(50), num_probes=2, method=method, rng=0)
    assert integral(found) == pytest.approx(1, abs=0.02)
    assert found.grid[np.argmax(found.density)] == pytest.approx(value, abs=0.01 * abs(value) + 0.05 * (value == 0))
    assert found.expectation(np.ones_like)[0] == pytest.approx(1)
    assert found.grid[0] < value < found.grid[-1]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_space_that_holds_all_leaves_zeros(dtype):
    # What is left are rounding errors of the five, which are not even symmetric.
    low = rotated([0.0] * 195 + [5.0, 6.0, 7.0, -8.0, 9.0]).astype(dtype)
    for reorthogonalize in (True, False):
        found = rl.spectral_density(low, num_probes=3, deflate=5, reorthogonalize=reorthogonalize, rng=0)
        np.testing.assert_allclose(found.outliers, [-8, 5, 6, 7, 9], rtol=1e-5)
        assert found.count_below(2.0)[0] == pytest.approx(196, abs=1e-3)
        assert integral(found) == pytest.approx(1, abs=1e-3)
        assert found.expectation(np.square)[0] == pytest.approx(255 / 200, rel=1e-5)


def spectra():
    """Spectra that are degenerate, clustered, indefinite, of any scale."""
    one = st.one_of(st.sampled_from([0.0, 1.0, 1.0 + 1e-9, -3.0]), st.floats(-10, 10, allow_subnormal=False))
    return st.tuples(st.lists(one, min_size=1, max_size=12), st.sampled_from([1e-12, 1.0, 1e12])).map(
        lambda pair: np.array(pair[0]) * pair[1]
    )


@given(spectra(), st.integers(0, 3))
def test_any_spectrum_is_within_the_grid_and_counted_once(eigenvalues, deflate):
    size, largest = eigenvalues.size, np.abs(eigenvalues).max()
    deflate = min(deflate, size - 1)
    found = rl.spectral_density(rotated(eigenvalues), num_probes=3, num_steps=13, deflate=deflate, rng=0)
    np.testing.assert_allclose(found.weights.sum(axis=1) * size, size - deflate, rtol=1e-9)
    assert found.outliers.size == deflate
    assert integral(found) == pytest.approx(1, abs=0.02)
    # All steps: every node is an eigenvalue, up to a rounding of the largest.
    nodes = np.concatenate([found.nodes[found.weights > 1e-6], found.outliers])
    assert np.abs(nodes[:, None] - eigenvalues).min(axis=1).max() <= 1e-5 * largest
    assert found.grid[0] <= nodes.min() <= nodes.max() <= found.grid[-1]
    assert found.cdf(found.grid[-1]) == pytest.approx(1, abs=1e-3)


def test_rank_deficient_operators():
    low = rotated([0.0] * 90 + [1.0] * 5 + [-2.0] * 5)
    found = rl.spectral_density(low, num_probes=200, num_steps=50, rng=0)
    for edge, number in ((-1.0, 5), (0.5, 95), (1.5, 100)):
        count, error = found.count_below(edge)
        assert abs(count - number) < 4 * error + 1e-6
        assert error < 0.5


def test_probes_depend_on_the_seed_and_their_number_alone():
    few, many = (rl.spectral_density(MATRIX, num_probes=n, num_steps=20, rng=5) for n in (2, 4))
    np.testing.assert_array_equal(few.nodes, many.nodes[:2])
    assert not np.array_equal(few.nodes[0], few.nodes[1])
    assert not np.array_equal(few.nodes, rl.spectral_density(MATRIX, num_probes=2, num_steps=20, rng=6).nodes)


def test_density_is_the_slope_of_the_counting_function():
    found = rl.spectral_density(MATRIX, num_probes=3, num_steps=30, deflate=2, rng=0)
    h = 1e-4 * found.width
    for x in (-0.7, 0.1, 1.5, 10.0):
        slope = (found.cdf(x + h) - found.cdf(x - h)) / (2 * h)
        assert slope == pytest.approx(np.interp(x, found.grid, found.density), rel=0.02, abs=1e-3)
    np.testing.assert_allclose(found.cdf(np.array([[-99.0, 99.0]])), [[0.0, 1.0]], atol=1e-12)
    assert (np.diff(found.cdf(found.grid)) >= -1e-15).all()


def test_transforms_carry_the_weights_and_no_slope():
    found = rl.spectral_density(MATRIX, num_probes=4, num_steps=40, deflate=1, rng=0)
    square = found.transform(np.square)
    np.testing.assert_array_equal(square.weights, found.weights)
    np.testing.assert_array_equal(square.nodes, found.nodes**2)
    np.testing.assert_allclose(square.outliers, [144.0])
    assert square.num_products == found.num_products
    assert integral(square) == pytest.approx(1, abs=1e-3)
    assert square.expectation(np.sqrt)[0] == pytest.approx(found.expectation(np.abs)[0])
    oracle = smoothed(EIGENVALUES**2, square.grid, square.width)
    assert np.trapezoid(np.abs(square.density - oracle), square.grid) < 0.15
    assert found.transform(np.square, num_points=50).grid.size < 50 + 66
    with pytest.raises(ValueError, match=r"`function\(nodes\)` must be finite"):
        found.transform(lambda x: np.where(x < 0, np.nan, x))


def test_grid_and_bounds_as_given():
    grid = np.linspace(-0.5, 0.5, 7)
    found = rl.spectral_density(MATRIX, num_steps=20, grid=grid, bounds=(-3, 15), rng=0)
    np.testing.assert_array_equal(found.grid, grid)
    assert found.bounds == (-3, 15)
    whole = rl.spectral_density(MATRIX, num_steps=20, bounds=(-3, 15), num_points=3001, rng=0)
    assert whole.grid.size == 3001
    np.testing.assert_allclose(found.density, np.interp(grid, whole.grid, whole.density), rtol=1e-3)
    assert whole.width == found.width > rl.spectral_density(MATRIX, num_steps=20, rng=0).width


def test_bounds_may_be_the_outermost_nodes_themselves():
    free = rl.spectral_density(MATRIX, num_steps=20, num_probes=2, rng=0)
    low, high = free.nodes.min(), free.nodes.max()
    tight = rl.spectral_density(MATRIX, num_steps=20, num_probes=2, bounds=(low, high), rng=0)
    assert tight.bounds == (low, high)
    for bounds in ((np.nextafter(low, high), high), (low, np.nextafter(high, low))):
        with pytest.raises(ValueError, match="`bounds` must contain the spectrum"):
            rl.spectral_density(MATRIX, num_steps=20, num_probes=2, bounds=bounds, rng=0)


def test_chebyshev_moments_are_those_of_dense_eigenvalues():
    moments = quadrature.chebyshev(
        quadrature.Complement.of(SymmetricOperator.from_matrix(MATRIX), 0, None), 3, 12, (-2.0, 14.0), 0
    )
    values, vectors = np.linalg.eigh(MATRIX)
    for row, child in zip(moments, np.random.default_rng(0).spawn(3), strict=True):
        start = child.standard_normal(SIZE)
        weights = (vectors.T @ start) ** 2 / (start @ start)
        for k in range(24):
            exact = np.sum(weights * np.polynomial.chebyshev.chebval((values - 6) / 8, np.eye(24)[k]))
            assert row[k] == pytest.approx(exact, abs=1e-12), k


def test_kernel_polynomials_give_the_same_density():
    found = rl.spectral_density(MATRIX, num_probes=40, num_steps=80, method="kpm", rng=0)
    assert (found.method, found.num_products) == ("kpm", 40 * 80 + 32)
    assert integral(found) == pytest.approx(1, abs=5e-3)
    assert (found.density >= -1e-12).all()  # Jackson's kernel is positive
    # Its width is pi / number of moments, in units of half the range, in the middle.
    half = 0.5 * (found.bounds[1] - found.bounds[0])
    for edge in (-0.3, 0.3, 5.0, 9.0, 11.0):
        count, error = found.count_below(edge)
        nearby = np.sum(np.abs(EIGENVALUES - edge) < 2 * half * np.pi / 160)
        assert abs(count - np.sum(edge >= EIGENVALUES)) < 4 * error + nearby
    assert found.expectation(np.square)[0] == pytest.approx(np.mean(EIGENVALUES**2), rel=0.2)
    given = rl.spectral_density(MATRIX, num_probes=2, num_steps=80, method="kpm", bounds=(-2, 14), rng=0)
    assert given.num_products == 160
    assert given.grid[[0, -1]].tolist() == [-2, 14]
    outside = rl.spectral_density(MATRIX, method="kpm", num_steps=9, bounds=(-2, 14), grid=[-9.0, 0.0, 20.0], rng=0)
    assert outside.density[[0, 2]].tolist() == [0, 0]
    with pytest.raises(ValueError, match="`bounds` must contain the spectrum, without NaN; got -2 to 9"):
        rl.spectral_density(MATRIX, method="kpm", bounds=(-2, 9), rng=0)
    # T_8(1.003) = 1.2: barely outside is outside, by more than rounding.
    with pytest.raises(ValueError, match="`bounds` must contain the spectrum"):
        rl.spectral_density(1.003 * np.eye(4), method="kpm", bounds=(-1, 1), num_steps=5, rng=0)
    assert rl.spectral_density((1 + 1e-9) * np.eye(4), method="kpm", bounds=(-1, 1), num_steps=5, rng=0).bounds == (
        -1,
        1,
    )


@pytest.mark.parametrize("method", ["lanczos", "kpm"])
def test_half_precision(method):
    matrix = torch.diag(torch.linspace(-1, 1, 400)).to(torch.bfloat16)
    operator = SymmetricOperator(lambda v: matrix @ v, 400, matrix)
    found = rl.spectral_density(operator, num_probes=8, num_steps=20, method=method, reorthogonalize=False, rng=0)
    mean, error = found.expectation(np.square)
    assert abs(mean - float((matrix.double().diagonal() ** 2).mean())) < 4 * error + 0.01


def test_a_large_operator():
    diagonal = np.linspace(-1, 1, 10**6, dtype=np.float32)
    diagonal[-5:] = 30.0
    operator = SymmetricOperator(lambda v: diagonal[:, None] * v, diagonal.size, diagonal)
    found = rl.spectral_density(operator, num_steps=24, rng=0)
    assert found.grid[-1] > 30
    # Five eigenvalues of a million have a weight of 5e-6, give or take sqrt(10) / 1e6.
    assert (1 - found.cdf(20.0)) * 1e6 == pytest.approx(5, abs=15)
    assert found.cdf(0.0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_probes": 0}, ValueError, "`num_probes` must be >= 1; got 0"),
        ({"num_steps": 1}, ValueError, "`num_steps` must be >= 2; got 1"),
        ({"num_points": 1}, ValueError, "`num_points` must be >= 2; got 1"),
        (
            {"num_points": 10**12},
            MemoryError,
            "a grid of 1000000000000 points needs .* take fewer `num_points`",
        ),
        ({"kappa": 1.0}, ValueError, "`kappa` must be > 1; got 1.0"),
        ({"margin": -0.1}, ValueError, "`margin` must be >= 0; got -0.1"),
        ({"bounds": (1, 1)}, ValueError, r"`bounds\[1\]` must be > 1; got 1"),
        ({"bounds": (0, 20)}, ValueError, "`bounds` must contain the spectrum; got 0 to 20 and Ritz values from -"),
        ({"grid": [0.0, 0.0]}, ValueError, "`grid` must be ascending; got 2 points that are not"),
        ({"grid": []}, ValueError, "`grid` must be ascending; got 0"),
        ({"grid": [np.nan]}, ValueError, "`grid` must be finite"),
        ({"method": "fft"}, ValueError, "`method` must be one of 'lanczos', 'kpm'; got 'fft'"),
        ({"method": "kpm", "deflate": -1}, ValueError, "`deflate` must be >= 0"),
        ({"deflate": SIZE}, ValueError, f"`deflate` must be >= 0 and <= {SIZE - 1}; got {SIZE}"),
        ({"deflate": 1.5}, TypeError, "`deflate` must be an integer; got 1.5"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        rl.spectral_density(MATRIX, **{"num_steps": 30, **options})


def test_eigenpairs_that_did_not_converge_are_not_taken_out():
    pairs = rl.top_eigenpairs(MATRIX, 3, rng=0)
    failed = type(
        "Pairs", (), {**{n: getattr(pairs, n) for n in ("eigenvalues", "eigenvectors", "residuals", "num_products")}}
    )()
    failed.converged = np.array([True, False, False])
    with pytest.raises(ValueError, match="`deflate` must be eigenpairs that converge; got 2 of 3 that did not"):
        rl.spectral_density(MATRIX, deflate=failed)


@pytest.mark.parametrize("low", [-1.0, 1.0])  # 0, where outliers go, within the bounds and outside
def test_kernel_polynomials_of_what_deflation_leaves(low):
    bulk = np.linspace(low, low + 2, 297)
    matrix = of_spectrum([*bulk, 40.0, 60.0, -50.0])
    options = {"method": "kpm", "num_probes": 8, "num_steps": 60, "rng": 0}
    whole, rest = (rl.spectral_density(matrix, deflate=count, **options) for count in (0, 3))
    np.testing.assert_allclose(rest.outliers, [-50, 40, 60], rtol=1e-9)
    assert rest.num_products > 8 * 60 + 32
    # Rounding shows the recurrence for the bounds the zeros of what was taken out.
    assert min(low, 0) - 0.5 < rest.bounds[0] < low < low + 2 < rest.bounds[1] < low + 2.5
    np.testing.assert_allclose(np.trapezoid(rest.density, rest.grid), 1, atol=1e-3)
    np.testing.assert_allclose(rest.weights.sum(axis=1), 1 - 3 / 300, rtol=1e-9)
    for name, function in (("mean", lambda x: x), ("square", np.square)):
        exact = function(np.linalg.eigvalsh(matrix)).mean()
        value, error = rest.expectation(function)
        assert abs(value - exact) < 5 * error + 2e-3 * abs(exact), name
    points = low + np.linspace(0.1, 1.9, 19)
    exact = np.searchsorted(np.sort(np.linalg.eigvalsh(matrix)), points) / 300
    distance = {id(d): np.abs(d.cdf(points) - exact).max() for d in (whole, rest)}
    assert distance[id(rest)] < 0.03 < distance[id(whole)]
    pairs = rl.top_eigenpairs(matrix, 3, which="magnitude", tolerance=1e-10, rng=0)
    given = rl.spectral_density(matrix, deflate=pairs, bounds=(low - 0.2, low + 2.2), **options)
    assert given.num_products == 8 * 60 + pairs.num_products
    np.testing.assert_allclose(given.cdf(points), exact, atol=0.03)


def test_kernel_polynomials_are_jacksons_kernel_around_each_eigenvalue():
    """The kernel as the square of a trigonometric polynomial (Weisse et al. 2006, sec. II.C.3), in the angle."""
    eigenvalues = np.array([-1.8, -0.7, 0.1, 0.4, 1.3, 2.2, 9.0])
    size, steps, low, high = 7, 12, -3.0, 4.0
    values, vectors = np.linalg.eigh(rotated(eigenvalues))
    starts = []

    def multiply(block):
        starts.append(block[:, 0] / np.linalg.norm(block))
        return (vectors * values) @ (vectors.T @ block)

    operator = SymmetricOperator(multiply, size, values)
    pairs = rl.top_eigenpairs(operator, 1, rng=0, tolerance=1e-12)
    starts.clear()
    grid = np.array([low - 1, low, -1.9, -0.6, 0.0, 0.5, 1.1, 2.0, 3.9, high, 8.8, 9.0, 9.3])
    options = {"num_probes": 2, "num_steps": steps, "method": "kpm", "bounds": (low, high), "deflate": pairs, "rng": 0}
    found = rl.spectral_density(operator, grid=grid, **options)
    assert len(starts) == 2 * steps
    count = 2 * steps
    amplitudes = np.sin(np.pi * np.arange(1, count + 1) / (count + 1))
    damping = np.correlate(amplitudes, amplitudes, "full")[count - 1 :] / (amplitudes @ amplitudes)

    def kernel(angle):
        return np.abs(np.exp(1j * np.multiply.outer(angle, np.arange(count))) @ amplitudes) ** 2 / (
            2 * np.pi * amplitudes @ amplitudes
        )

    inside = (grid > low) & (grid < high)
    angles, places = (np.arccos((x - 0.5) / 3.5) for x in (grid[inside], eigenvalues[:-1]))
    heights = np.zeros((2, grid.size))
    for probe, height, weights, nodes in zip((0, steps), heights, found.weights, found.nodes, strict=True):
        shares = (vectors[:, :-1].T @ starts[probe]) ** 2 * 6 / 7
        apart, mirrored = np.subtract.outer(angles, places), np.add.outer(angles, places)
        height[inside] = (kernel(apart) + kernel(mirrored)) @ shares / (3.5 * np.sin(angles))
        for k in range(count):
            of_nodes, exact = (np.cos(k * a) for a in (np.arccos((nodes - 0.5) / 3.5), places))
            assert weights @ of_nodes == pytest.approx(damping[k] * shares @ exact, abs=1e-10), k
    np.testing.assert_allclose(found.density[:-3], heights.mean(axis=0)[:-3], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.standard_error, np.abs(heights[0] - heights[1]) / 2, rtol=1e-6, atol=1e-10)
    # What was taken out is as wide as the kernel makes an eigenvalue in the middle.
    turn = np.linspace(-np.pi, np.pi, 20001)
    spread = 3.5 * np.sqrt(np.trapezoid(np.sin(turn) ** 2 * kernel(turn), turn))
    np.testing.assert_allclose(found.density[-3:], stats.norm.pdf(grid[-3:], 9, spread) / 7, rtol=0.04)
    # Nodes lie as far apart, in the middle, as the Gaussians that stand for them are wide.
    assert (np.diff(found.nodes) > 0).all()
    assert found.width == pytest.approx(np.diff(found.nodes[0]).max(), rel=1e-3)
    assert found.nodes.shape == found.weights.shape == (2, 4 * count)
    whole = rl.spectral_density(operator, num_points=101, **options)
    added = np.setdiff1d(whole.grid, np.linspace(low, high, 101))
    assert whole.grid.size == 101 + added.size
    np.testing.assert_allclose([added.min(), added.max()], [9 - 8 * spread, 9 + 8 * spread], rtol=0.02)
    assert np.trapezoid(whole.density, whole.grid) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rest", [np.zeros(28), np.linspace(-0.1, 0.1, 28)], ids=["nothing left", "a bulk left"])
@pytest.mark.parametrize("deflate", [0, 2])
@pytest.mark.parametrize("method", ["lanczos", "kpm"])
def test_every_product_is_counted(method, deflate, rest):
    operator = SymmetricOperator.from_matrix(of_spectrum([3.0, 2.0, *rest])).counted()
    found = rl.spectral_density(operator, method=method, deflate=deflate, num_probes=3, num_steps=12, rng=0)
    assert found.num_products == operator.num_products


def test_a_transform_to_tiny_values_is_the_transform_scaled():
    found = rl.spectral_density(MATRIX, num_probes=2, num_steps=30, rng=0)
    plain, tiny = (found.transform(lambda x, s=s: s * np.exp(x / 5)) for s in (1.0, 2.0**-100))
    for name, power in (("grid", 1), ("bounds", 1), ("width", 1), ("density", -1), ("standard_error", -1)):
        scaled = np.ldexp(getattr(plain, name), -100 * power)
        np.testing.assert_allclose(getattr(tiny, name), scaled, rtol=1e-12, err_msg=name)


def test_kernel_polynomials_of_nothing_left():
    found = rl.spectral_density(of_spectrum([3.0, 2.0] + [0.0] * 28), method="kpm", deflate=2, num_steps=20, rng=0)
    np.testing.assert_allclose(found.count_below(0.5)[0], 28, rtol=1e-6)


def test_what_is_left_below_the_errors_of_what_was_taken_out_is_nothing():
    def left(size, residual=0.0, rounding=0.0):
        operator = SymmetricOperator(lambda block: size * block, 16, np.ones(0), rounding=rounding)
        space = quadrature.Complement(operator, np.array([-8.0, 4.0]), None, residual, 0)
        return not space.nothing_left(np.full(16, 5.0))

    for factor in (1 / 3, 3):
        assert left(factor * 8 * 100 * np.finfo(float).eps) == (factor > 1)
        assert left(factor * 2e-3, residual=1e-3) == (factor > 1)
        # In half precision residuals are bounds, of which a random vector sees the share of two in 16 dimensions.
        assert left(factor * 2e-3 / 8**0.5, residual=1e-3, rounding=1e-3) == (factor > 1)
    assert left(0.9e-3, residual=1e-3, rounding=1e-3)
    assert not left(0.9e-3, residual=1e-3)
    assert left(3e-3, residual=1e-3)
    whole = quadrature.Complement.of(rl.as_operator(np.zeros((4, 4))), 0, None)
    assert (whole.share, whole.nothing_left(np.ones(4))) == (1, False)


def test_bounds_are_widened_and_never_of_no_length():
    assert quadrature.widened((1.0, 3.0), 0.05) == pytest.approx((0.9, 3.1))
    assert quadrature.widened((-3.0, -1.0), 0.0, 100.0) == (-3.0, -1.0)
    assert quadrature.widened((0.0, 0.0), 0.05) == (-1.0, 1.0)
    # A point is known up to rounding; what is left of larger eigenvalues, up to theirs.
    for bounds, scale, size in (((2.0, 2.0), 0.0, 2.0), ((-2.0, -2.0 + 1e-7), 0.0, 2.0), ((1e-20, 3e-20), 1e3, 1.0)):
        low, high = quadrature.widened(bounds, 0.05, scale)
        assert low + high == pytest.approx(sum(bounds), abs=1e-9)
        assert 1e-4 * size < high - low < 1e-2 * size
    assert quadrature.widened((1e-20, 3e-20), 0.05, 1e-7) == pytest.approx((0.9e-20, 3.1e-20))
    assert quadrature.widened((2.0, 2.0001), 0.05) == pytest.approx((1.999995, 2.000105), rel=1e-9)


def test_a_single_zero_that_deflation_leaves():
    found = rl.spectral_density(np.diag([5.0, 4.0, 0.0]), deflate=2, num_probes=2, rng=0)
    np.testing.assert_allclose(found.weights, [[1 / 3], [1 / 3]], rtol=1e-12)
    assert found.nodes.tolist() == [[0.0], [0.0]]
    np.testing.assert_allclose(found.count_below([-1.0, 1.0, 4.5, 6.0])[0], [0, 1, 2, 3], atol=1e-9)


@pytest.mark.parametrize("num_probes", [2, 3])
def test_the_error_is_that_of_the_mean_over_probes(num_probes):
    """Gaussians at the nodes of each probe, by the definition: N - 1 of N probes matters where they are few."""
    matrix = np.random.default_rng(0).normal(size=(30, 30))
    found = rl.spectral_density(matrix + matrix.T, num_probes=num_probes, num_steps=15, rng=0)
    each = [
        (weights * stats.norm.pdf(found.grid[:, None], nodes, found.width)).sum(axis=1)
        for nodes, weights in zip(found.nodes, found.weights, strict=True)
    ]
    columns = list(zip(*each, strict=True))[::50]
    np.testing.assert_allclose(found.density[::50], [statistics.mean(x) for x in columns], rtol=1e-9, atol=1e-12)
    errors = [statistics.stdev(x) / num_probes**0.5 for x in columns]
    np.testing.assert_allclose(found.standard_error[::50], errors, rtol=1e-7, atol=1e-12)

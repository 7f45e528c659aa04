import numpy as np
import pytest
from scipy import stats

from rmtland.ensembles._ensemble import normal_matrix
from rmtland.ensembles.wigner import GaussianEnsemble, SpikedWigner
from tests.ensembles.dense import dense_eigenpairs, dense_eigenvalues
from tests.ensembles.same_law import assert_same_law
from tests.ensembles.wick import gaussian_moment
from tests.statistical import assert_mean


@pytest.mark.parametrize("beta", [1, 2])
def test_trace_moments(beta):
    n, count = 7, 45_000
    values = GaussianEnsemble(n, beta).eigenvalues(count, rng=1)
    assert values.shape == (count, n)
    for k in (2, 4, 6):
        assert_mean((values**k).sum(axis=1) / gaussian_moment(k, n, beta), 1.0, detect=0.02 * k)
    for k in (1, 3):
        assert_mean((values**k).sum(axis=1), 0.0, detect=0.1 * k)


@pytest.mark.parametrize("beta", [0.5, 1, 2, 4, 7.5])
def test_gap_of_two_is_chi(beta):
    # (a - c)^2 + 4 |b|^2 is a sum of beta + 1 squares of variance 4 / beta.
    gap = np.diff(GaussianEnsemble(2, beta).eigenvalues(20_000, rng=2), axis=1)[:, 0] * 2**0.5
    assert stats.kstest(gap * beta**0.5 / 2, stats.chi(beta + 1).cdf).pvalue > 1e-4


@pytest.mark.parametrize("beta", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_edges_are_those_of_dense_matrices(beta):
    model, count = GaussianEnsemble(10, beta), 8000
    dense = dense_eigenvalues(model, count, 6)
    x = model.largest(size=count, rng=5)[:, 0]
    assert_same_law(x, dense[:, -1], mean=0.2 * x.std(), variance=0.4)
    y = model.smallest(size=count, rng=5)[:, 0]
    assert_same_law(y, dense[:, 0], mean=0.2 * y.std(), variance=0.4)


def test_edge_test_rejects_diagonal_variance_one():
    # The usual slip: the bulk looks right.
    count, n = 8000, 10
    generator = np.random.default_rng(0)
    matrices, j = np.zeros((count, n, n)), np.arange(n)
    matrices[:, j, j] = generator.standard_normal((count, n))
    matrices[:, j[1:], j[:-1]] = np.sqrt(generator.chisquare(j[:0:-1], (count, n - 1)))  # eigvalsh reads the lower half
    x = np.linalg.eigvalsh(matrices / n**0.5)[:, -1]
    dense = dense_eigenvalues(GaussianEnsemble(n), count, 6)[:, -1]
    with pytest.raises(AssertionError, match="off by"):
        assert_same_law(x, dense, mean=0.2 * x.std(), variance=0.4)


def test_dense_quaternion_eigenvalues_come_twice():
    model = GaussianEnsemble(6, beta=4)
    values = np.linalg.eigvalsh(model.matrix(rng=0))
    np.testing.assert_allclose(values[::2], values[1::2], atol=1e-12)
    # E tr H^2 / n = 1 - 1/n + (2/beta)/n, each eigenvalue once.
    draws = [(np.linalg.eigvalsh(model.matrix(rng=i))[::2] ** 2).mean() for i in range(3000)]
    assert_mean(draws, 1 - 1 / 6 + 0.5 / 6, detect=0.04)
    assert_mean((model.eigenvalues(20_000, rng=1) ** 2).mean(axis=1), 1 - 1 / 6 + 0.5 / 6, detect=0.02)


@pytest.mark.parametrize("beta", [1, 2])
def test_spiked_edges_and_overlaps_are_those_of_dense_matrices(beta):
    model, count = SpikedWigner(10, spikes=[2.0], beta=beta), 5000
    values, overlaps = dense_eigenpairs(model, count, 6)
    x = model.largest(size=count, rng=5)[:, 0]
    assert_same_law(x, values[:, -1], mean=0.25 * x.std(), variance=0.6)
    y = model.smallest(size=count, rng=5)[:, 0]
    assert_same_law(y, values[:, 0], mean=0.25 * y.std(), variance=0.6)
    seen = model.eigenvectors_overlap(size=count, rng=5)[:, 0]
    assert_same_law(seen, overlaps[:, -1], mean=0.06, variance=1.0)


def test_normal_entries_are_those_that_numpy_draws_next():
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    for beta in (1, 2, 4):
        x = normal_matrix((2, 3), beta, rng, np.float64)
        parts = same.standard_normal((beta, 2, 3)) / beta**0.5
        if beta == 1:
            np.testing.assert_array_equal(x, parts[0])
        else:
            np.testing.assert_allclose(x[:2, :3], parts[0] + 1j * parts[1], rtol=1e-14)
        if beta == 4:
            np.testing.assert_allclose(x[:2, 3:], parts[2] + 1j * parts[3], rtol=1e-14)
    assert rng.random() == same.random()


def test_smallest_of_a_seed_is_that_of_its_eigenvalues():
    for model in (GaussianEnsemble(40), SpikedWigner(40, spikes=[-3.0]), SpikedWigner(40, spikes=[-3.0, 2.0])):
        values = model.eigenvalues(3, rng=4)
        np.testing.assert_allclose(model.smallest(2, size=3, rng=4), values[:, :2], rtol=1e-12)
        np.testing.assert_allclose(model.largest(2, size=3, rng=4), values[:, -2:], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianEnsemble(0), "`n` must be >= 1"),
        (lambda: GaussianEnsemble(3, beta=0), "`beta` must be > 0; got 0"),
        (lambda: SpikedWigner(1, spikes=[1.0, 2.0]), "`spikes` must be at most `n` = 1; got 2"),
        (lambda: SpikedWigner(4, spikes=[-1e16]), "`spikes` must be in size <= 1e\\+15; got -1e\\+16"),
        (lambda: SpikedWigner(4, spikes=[1.0, 2.0], beta=4), "`beta` must be 1 or 2 for more than one spike"),
        (lambda: SpikedWigner(4, spikes=[1.0], beta=3).law(), "`beta` must be one of 1, 2, 4"),
        (lambda: GaussianEnsemble(3).largest(4), "`k` must be >= 1 and <= 3; got 4"),
        (lambda: GaussianEnsemble(3, beta=3).matrix(), "`beta` must be 1, 2 or 4 for a dense matrix"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()

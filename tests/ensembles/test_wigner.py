import numpy as np
import pytest
from scipy import stats

from rmtland.ensembles.wigner import GaussianEnsemble, SpikedWigner
from tests.ensembles.same_law import assert_same_law
from tests.ensembles.wick import gaussian_moment
from tests.statistical import assert_mean


def dense_extremes(model, count, seed, side=-1):
    generator = np.random.default_rng(seed)
    return np.array([np.linalg.eigvalsh(model.matrix(rng=generator))[side] for _ in range(count)])


@pytest.mark.parametrize("beta", [1, 2])
def test_trace_moments(beta):
    n, count = 7, 60_000
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
    x = model.largest(size=count, rng=5)[:, 0]
    assert_same_law(x, dense_extremes(model, count, 6), mean=0.2 * x.std(), variance=0.4)
    y = model.smallest(size=count, rng=5)[:, 0]
    assert_same_law(y, dense_extremes(model, count, 7, 0), mean=0.2 * y.std(), variance=0.4)


def test_edge_test_rejects_diagonal_variance_one():
    # The usual slip: the bulk looks right.
    count, n = 8000, 10
    generator = np.random.default_rng(0)
    x = np.empty(count)
    for i in range(count):
        off = np.sqrt(generator.chisquare(np.arange(n - 1, 0, -1)))
        x[i] = np.linalg.eigvalsh(
            (np.diag(generator.standard_normal(n)) + np.diag(off, 1) + np.diag(off, -1)) / n**0.5
        )[-1]
    with pytest.raises(AssertionError, match="off by"):
        assert_same_law(x, dense_extremes(GaussianEnsemble(n), count, 6), mean=0.2 * x.std(), variance=0.4)


def test_dense_quaternion_eigenvalues_come_twice():
    model = GaussianEnsemble(6, beta=4)
    values = np.linalg.eigvalsh(model.matrix(rng=0))
    np.testing.assert_allclose(values[::2], values[1::2], atol=1e-12)
    # E tr H^2 / n = 1 - 1/n + (2/beta)/n, each eigenvalue once.
    draws = [(np.linalg.eigvalsh(model.matrix(rng=i))[::2] ** 2).mean() for i in range(3000)]
    assert_mean(draws, 1 - 1 / 6 + 0.5 / 6, detect=0.04)
    assert_mean((model.eigenvalues(20_000, rng=1) ** 2).mean(axis=1), 1 - 1 / 6 + 0.5 / 6, detect=0.02)


@pytest.mark.parametrize("beta", [1, 2])
@pytest.mark.parametrize("spikes", [[2.0], pytest.param([2.0, -1.5], marks=pytest.mark.slow), [1.5, 1.5, 0.5]])
def test_spiked_edges_and_overlaps_are_those_of_dense_matrices(spikes, beta):
    model, count, r = SpikedWigner(10, spikes=spikes, beta=beta), 5000, len(spikes)
    x = model.largest(size=count, rng=5)[:, 0]
    assert_same_law(x, dense_extremes(model, count, 6), mean=0.25 * x.std(), variance=0.6)
    y = model.smallest(size=count, rng=5)[:, 0]
    assert_same_law(y, dense_extremes(model, count, 7, 0), mean=0.25 * y.std(), variance=0.6)
    generator = np.random.default_rng(8)
    seen = np.array([np.abs(np.linalg.eigh(model.matrix(rng=generator))[1][:r, -1]) ** 2 for _ in range(count)])
    assert_same_law(model.eigenvectors_overlap(1, size=count, rng=9)[:, 0], seen, mean=0.06, variance=1.0)


def test_moments_of_a_spiked_band():
    # E tr H^2 = E tr W^2 + sum theta^2, E tr H^3 = sum theta^3 + 3 sum theta E (W^2)_ii.
    n, spikes = 9, np.array([2.0, -1.0, 0.7])
    values = SpikedWigner(n, spikes=spikes).eigenvalues(30_000, rng=3)
    square = 1 + 1 / n
    assert_mean((values**2).sum(axis=1), n * square + (spikes**2).sum(), detect=0.3)
    assert_mean((values**3).sum(axis=1), (spikes**3).sum() + 3 * square * spikes.sum(), detect=2.0)


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

import tracemalloc

import numpy as np
import pytest
from scipy import stats

import rmtland._arguments as arguments
from rmtland.ensembles import _ensemble as module
from rmtland.ensembles.wigner import GaussianEnsemble
from rmtland.ensembles.wishart import SpikedCovariance, Wishart
from rmtland.laws.spikes import SpikedCovarianceLaw, SpikedWignerLaw
from tests.ensembles.dense import dense_eigenpairs, dense_eigenvalues
from tests.ensembles.same_law import assert_same_law
from tests.ensembles.wick import covariance_moment
from tests.statistical import assert_mean

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "model",
    [
        Wishart(6, 9),
        Wishart(9, 6),
        Wishart(6, 9, beta=2),
        SpikedCovariance(6, 9, spikes=[3.0]),
        SpikedCovariance(9, 6, spikes=[0.2], beta=2),
    ],
    ids=str,
)
def test_trace_moments(model):
    count = 24_000
    values = model.eigenvalues(count, rng=1)
    assert values.shape == (count, model.num_features)
    assert np.all(np.diff(values, axis=1) >= 0)
    for k in range(1, 5):
        expected = covariance_moment(k, model.num_features, model.num_samples, model.beta, model._spikes)
        assert_mean((values**k).sum(axis=1) / expected, 1.0, detect=0.025 * k**1.5)


def test_trace_moments_reject_mutants():
    count = 30_000
    expected = covariance_moment(2, 6, 9, 1, [3.0])
    swapped = SpikedCovariance(9, 6, spikes=[3.0]).eigenvalues(count, rng=1)  # p and n
    unrooted = SpikedCovariance(6, 9, spikes=[9.0]).eigenvalues(count, rng=1)  # the spike where its root belongs
    wide = 1.02 * SpikedCovariance(6, 9, spikes=[3.0]).eigenvalues(count, rng=1)
    # The first two vary more than the model does, and are further off.
    for values, detect in ((swapped, 0.1), (unrooted, 0.3), (wide, 0.02 * 2**1.5)):
        with pytest.raises(AssertionError, match="off by"):
            assert_mean((values**2).sum(axis=1) / expected, 1.0, detect=detect)


@pytest.mark.parametrize(("n", "beta"), [(1, 1), (7, 1), (7, 2), (7, 4), (3, 0.7)])
def test_one_feature_is_chi_square(n, beta):
    x = Wishart(1, n, beta).largest(size=20_000, rng=3)[:, 0] * n * beta
    assert stats.kstest(x, stats.chi2(beta * n).cdf).pvalue > 1e-4
    assert stats.kstest(1.1 * x, stats.chi2(beta * n).cdf).pvalue < 1e-3


@pytest.mark.parametrize("n", [2, 5, 40])
def test_two_features_have_the_density_of_trace_and_determinant(n):
    # 2 sqrt(det W) is chi^2 of 2n - 2 degrees of freedom (Anderson 2003, section 7.5), its trace of 2n.
    values = n * Wishart(2, n).eigenvalues(20_000, rng=4)
    assert stats.kstest(2 * np.sqrt(values.prod(axis=1)), stats.chi2(2 * n - 2).cdf).pvalue > 1e-4
    assert stats.kstest(values.sum(axis=1), stats.chi2(2 * n).cdf).pvalue > 1e-4


@pytest.mark.parametrize("beta", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("p", "n"), [(8, 20), (20, 8)])
def test_edges_are_those_of_dense_matrices(p, n, beta):
    model, count = Wishart(p, n, beta), 3600
    dense = dense_eigenvalues(model, count, 6)
    x = model.largest(size=count, rng=5)[:, 0]
    assert_same_law(x, dense[:, -1], mean=0.3 * x.std(), variance=0.6)
    y = model.smallest(size=count, rng=5)[:, 0]
    assert_same_law(y, dense[:, 0], mean=0.3 * y.std(), variance=0.6)


def test_edges_reject_a_dense_matrix_of_other_shape():
    x = Wishart(8, 20).largest(size=3600, rng=5)[:, 0]
    with pytest.raises(AssertionError, match="off by"):
        assert_same_law(x, dense_eigenvalues(Wishart(9, 20), 3600, 6)[:, -1], mean=0.3 * x.std(), variance=0.6)


def test_dense_quaternion_eigenvalues_come_twice():
    values = np.linalg.eigvalsh(Wishart(5, 8, beta=4).matrix(rng=0))
    np.testing.assert_allclose(values[::2], values[1::2], rtol=1e-10)
    draws = [np.linalg.eigvalsh(Wishart(4, 8, beta=4).matrix(rng=i))[::2].mean() for i in range(2000)]
    assert_mean(draws, 1.0, detect=0.05)


def test_square_complex_smallest_is_exponential():
    # Edelman (1988), theorem 4.1: exactly, at every n.
    for n in (1, 3, 60):
        x = n * n * Wishart(n, n, beta=2).smallest(size=10_000, rng=8)[:, 0]
        assert stats.kstest(x, "expon").pvalue > 1e-4


@pytest.mark.parametrize("beta", [1, 2])
def test_hard_edge_law_continues_the_draws(beta):
    n = 400
    x = n * n * Wishart(n, n, beta).smallest(size=5000, rng=9)[:, 0]
    big = 10**12
    y = float(big) ** 2 * Wishart(big, big, beta).smallest(size=5000, rng=9)[:, 0]
    assert stats.ks_2samp(x, y).pvalue > 1e-4
    other = float(big) ** 2 * Wishart(big, big, 3 - beta).smallest(size=5000, rng=9)[:, 0]
    assert stats.ks_2samp(x, other).pvalue < 1e-6


def test_hard_edge_law_is_edelmans():
    """P(n lambda > x) = exp(-x), and exp(-x / 2 - sqrt(x)) for real matrices, of the same exponential draws."""
    n = 2**23
    real, complex_ = (float(n) ** 2 * Wishart(n, n, beta).smallest(size=400, rng=3)[:, 0] for beta in (1, 2))
    assert stats.kstest(complex_, "expon").pvalue > 1e-3
    np.testing.assert_allclose(real / 2 + np.sqrt(real), complex_, rtol=1e-12)


def test_small_eigenvalues_have_small_relative_errors():
    model = Wishart(60, 60)
    import mpmath

    from rmtland.ensembles import tridiagonal
    from rmtland.ensembles.replicates import Streams

    a, b = np.empty(60), np.empty(60)
    for seed in range(3):
        tridiagonal.draw(tridiagonal.QD, 60.0, 60.0, 1.0, 1.0, 60, Streams.of(seed, 1).words, 0, a, b)
        with mpmath.workdps(60):
            q, e = [mpmath.mpf(x) for x in a], [mpmath.mpf(x) for x in b]
            # 1 / tr M^(-1) and the like bound it; the determinant's recurrence finds it by bisection.
            low, high = mpmath.mpf(0), q[-1] + e[-1]
            for _ in range(170):
                x = (low + high) / 2
                d, positive = q[0] - x, True
                for j in range(60):
                    pivot = d + e[j]
                    positive &= pivot > 0
                    if j < 59:
                        d = q[j + 1] * d / pivot - x
                low, high = (x, high) if positive else (low, x)
            exact = float(low)
        assert model.smallest(rng=seed)[0] * 60 == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(
    ("p", "n", "beta"),
    [(10, 24, 1), pytest.param(24, 10, 1, marks=SLOW), pytest.param(10, 24, 2, marks=SLOW), (24, 10, 2)],
)
def test_overlaps_are_those_of_dense_eigenvectors(p, n, beta):
    model, count = SpikedCovariance(p, n, spikes=[4.0], beta=beta), 4000
    values, overlaps = dense_eigenpairs(model, count, 11)
    assert_same_law(model.eigenvectors_overlap(size=count, rng=10)[:, 0], overlaps[:, -1], mean=0.06, variance=0.9)
    x = model.largest(size=count, rng=10)[:, 0]
    assert_same_law(x, values[:, -1], mean=0.3 * x.std(), variance=0.6)


def test_a_left_spike_leaves_to_the_left():
    model = SpikedCovariance(20_000, 200_000, spikes=[0.2])
    law = model.law()
    x = model.smallest(size=400, rng=12)[:, 0]
    sd = law.locations_std[0]
    assert_mean(x, law.locations[0], bias=5 / 200_000, detect=0.8 * sd)
    assert_mean((x - x.mean()) ** 2 / sd**2, 1, bias=0.01, detect=1.0)
    overlap = model.eigenvectors_overlap(size=400, rng=12, side="smallest")[:, 0, 0]
    assert_mean(overlap, law.overlaps[0], bias=1e-4, detect=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Wishart(0, 5), "`num_features` must be >= 1 and <= 9007199254740992; got 0"),
        (lambda: Wishart(5, 0), "`num_samples` must be >= 1"),
        (lambda: Wishart(5, 5, beta=0), "`beta` must be > 0; got 0"),
        (lambda: Wishart(5, 5, beta=-1), "`beta` must be > 0; got -1"),
        (lambda: SpikedCovariance(5, 5, spikes=[0.0]), "`spikes` must be > 0; got 0.0"),
        (lambda: SpikedCovariance(5, 5, spikes=[2.0, 1e-16]), "`spikes` must be >= 1e-15 and <= 1e.15; got 1e-16"),
        (
            lambda: SpikedCovariance(5, 5, spikes=[0.1, 1e10]),
            "`spikes` must, where there are several, be within a factor of 1e.10 of each other and of 1; got 0.1 to",
        ),
        (
            lambda: SpikedCovariance(5, 5, spikes=[3.0, 1.5e10]),
            "be within a factor of 1e.10 of each other and of 1; got 3 to 1.5e.10",
        ),
        (
            lambda: SpikedCovariance(5, 5, spikes=[0.3, 0.5e-10]),
            "be within a factor of 1e.10 of each other and of 1; got 5e-11 to 0.3",
        ),
        (lambda: SpikedCovariance(2, 5, spikes=[2.0] * 3), "`spikes` must be at most `num_features` = 2; got 3"),
        (lambda: SpikedCovariance(5, 5, spikes=[[2.0]]), "`spikes` must have 1 dimension"),
        (lambda: SpikedCovariance(5, 5, spikes=[np.nan]), "`spikes` must be finite"),
        (lambda: SpikedCovariance(5, 5, spikes=[2.0, 3.0], beta=4), "`beta` must be 1 or 2 for more than one spike"),
        (lambda: SpikedCovariance(5, 5, spikes=[2.0], beta=3).law(), "`beta` must be one of 1, 2, 4; got 3"),
        (lambda: Wishart(5, 3).largest(4), "`k` must be >= 1 and <= 3; got 4"),
        (lambda: Wishart(5, 3).smallest(0), "`k` must be >= 1 and <= 3; got 0"),
        (lambda: Wishart(5, 3).largest(size=0), "`size` must be >= 1; got 0"),
        (lambda: Wishart(5, 3).iterate_eigenvalues(0), "`size` must be >= 1; got 0"),
        (lambda: Wishart(5, 3).iterate_eigenvalues(3, chunk_size=0), "`chunk_size` must be >= 1; got 0"),
        (lambda: Wishart(5, 3).largest(threads=0, size=2), "`threads` must be >= 1; got 0"),
        (lambda: Wishart(5, 3, beta=3).matrix(), "`beta` must be 1, 2 or 4 for a dense matrix; got 3"),
        (lambda: Wishart(5, 3).matrix(dtype=int), "`dtype` must be a dtype of real floating"),
        (lambda: Wishart(5, 3).eigenvectors_overlap(), "`spikes` must not be empty for overlaps"),
        (
            lambda: SpikedCovariance(5, 3).eigenvectors_overlap(side="left"),
            "`side` must be one of 'largest', 'smallest'",
        ),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda: Wishart(5.0, 3), lambda: Wishart(5, "3"), lambda: Wishart(5, 3).largest(rng=0.5)]
)
def test_bad_types(make):
    with pytest.raises(TypeError, match="`(num_features|num_samples|rng)` must be"):
        make()


def test_what_does_not_fit_names_what_does(monkeypatch):
    monkeypatch.setattr(arguments, "available_memory", lambda: 2**20)
    monkeypatch.setattr(arguments, "LITTLE", 0)
    with pytest.raises(MemoryError, match=r"`matrix` needs .* use `eigenvalues`, `largest` or `smallest`"):
        Wishart(10_000, 10_000).matrix()
    with pytest.raises(MemoryError, match="use `iterate_eigenvalues` or `largest` instead"):
        Wishart(10_000, 20_000).eigenvalues(1000)
    with pytest.raises(MemoryError, match="use `largest` or `smallest` instead"):
        Wishart(100_000, 200_000).eigenvalues()
    with pytest.raises(MemoryError, match="take a smaller `chunk_size` instead"):
        next(Wishart(10_000, 20_000).iterate_eigenvalues(1000, chunk_size=500))
    # One chunk after the other, each of what fits.
    chunks = Wishart(8, 10).iterate_eigenvalues(2048, chunk_size=1024)
    monkeypatch.setattr(arguments, "available_memory", lambda: 160_000)
    assert [len(chunk) for chunk in chunks] == [1024, 1024]
    monkeypatch.setattr(arguments, "available_memory", lambda: 2**20)
    with pytest.raises(MemoryError, match="a result of 1000000 x 1 eigenvalues needs .* smaller `k` or `size`"):
        Wishart(10_000, 20_000).largest(size=10**6)
    with pytest.raises(MemoryError, match="no row can be cut at the hard edge"):
        Wishart(10**6, 10**6).smallest()
    with pytest.raises(MemoryError, match="take a smaller `k` or `size`"):
        Wishart(1000, 1000).largest(500, size=10_000)


@pytest.mark.parametrize(
    ("model", "law", "coupling"),
    [
        (GaussianEnsemble(10**6), SpikedWignerLaw(1.0, [], 10**6), 10**3),
        (Wishart(10**5, 4 * 10**5), SpikedCovarianceLaw(0.25, [], 4 * 10**5), 2 * 10**5),
        (Wishart(4 * 10**5, 10**5), SpikedCovarianceLaw(4.0, [], 10**5), 2 * 10**5),
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_edges_of_the_models_are_those_of_the_laws(model, law, coupling, side):
    place, scale, length = model._edge(side == "right")
    centre, spread = law.edge(side)
    assert place * model._unit == pytest.approx(abs(centre), rel=1e-4)
    assert scale * model._unit == pytest.approx(spread, rel=1e-4)
    # Along the rows an eigenvector solves Airy's equation: the couplings next to the edge, over the length squared.
    assert coupling / length**2 == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [1, 2, 4])
@pytest.mark.parametrize(
    "make",
    [
        GaussianEnsemble,
        lambda n, beta: Wishart(n, 2 * n, beta),
        lambda n, beta: SpikedCovariance(n, n // 4, [3.0], beta),
    ],
    ids=["square", "wide", "tall"],
)
def test_a_matrix_needs_what_is_asked_for(make, beta, dtype, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "require_memory", lambda name, size, *more: asked.append(size))
    model = make(200, beta=beta)
    tracemalloc.start()
    try:
        model.matrix(rng=0, dtype=dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.4 < peak / asked[0] < 1.25


def test_eigenvalues_are_not_negative():
    # Of so small a beta most vanish but for rounding.
    model = Wishart(50, 50, beta=1e-3)
    assert model.eigenvalues(4, rng=0).min() == 0
    assert model.smallest(3, 4, rng=0).min() == 0


@pytest.mark.parametrize("spikes", [[1e15], [1e-15], [1e5, 1e-5], [1e-10, 1.0], [1e10, 1.0]])
def test_overlaps_of_the_wildest_spikes_are_squared_cosines(spikes):
    for p, n in ((10, 20), (20, 10)):
        model, k = SpikedCovariance(p, n, spikes), len(spikes)
        assert model.largest(rng=0) == pytest.approx(model.eigenvalues(rng=0)[-1:], rel=1e-12)
        for side in ("largest", "smallest"):
            overlaps = model.eigenvectors_overlap(k, rng=0, side=side)
            assert overlaps.min() >= 0
            assert overlaps.sum(axis=1).max() <= 1 + 1e-5


def test_single_precision_matrix():
    matrix = Wishart(30, 50).matrix(rng=0, dtype=np.float32)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    assert Wishart(30, 50, beta=2).matrix(rng=0, dtype=np.float32).dtype == np.complex64


@pytest.mark.parametrize(("spikes", "rows"), [([], 1), ([3.0], 3), ([3.0, 2.0], 5)])
def test_the_memory_asked_for_is_that_of_results_and_work(monkeypatch, spikes, rows):
    """P = 20: eight bytes an eigenvalue and replicate; three vectors, two times three more for each spike."""
    asked = []
    monkeypatch.setattr(module, "require_memory", lambda what, need, _: asked.append((what, need)))
    ensemble = SpikedCovariance(20, 30, spikes) if spikes else Wishart(20, 30)
    ensemble.eigenvalues(4, rng=0)
    work = rows * 3 * 20 * 8
    assert asked == [
        ("`eigenvalues` of 1 replicate", 20 * 8 + work),
        ("`eigenvalues` of 4 replicates", 4 * 20 * 8 + work),
    ]
    asked.clear()
    ensemble.largest(2, 4000, rng=0)  # as they come and in order
    assert asked == [("a result of 4000 x 2 eigenvalues", 2 * 4000 * 2 * 8)]
    if spikes:
        asked.clear()
        ensemble.eigenvectors_overlap(1, 4000, rng=0)
        assert asked == [("a result of 4000 x 1 eigenvalues", 2 * 4000 * 8 * (1 + len(spikes)))]

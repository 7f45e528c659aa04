import warnings

import numpy as np
import pytest

import rmtland._arguments as arguments
import rmtland.ensembles.sample_covariance as sample_covariance
from rmtland.ensembles.sample_covariance import (
    GaussianEntries,
    ParetoEntries,
    RademacherEntries,
    SampleCovariance,
    StudentTEntries,
)
from rmtland.laws.spikes import SpikedCovarianceLaw
from rmtland.laws.tracy_widom import TracyWidom
from tests.ensembles.wick import covariance_moment
from tests.statistical import assert_mean


@pytest.mark.parametrize(("p", "n"), [(5, 8), (8, 5)])
def test_trace_moments(p, n):
    spikes = [3.0, 0.5, 2.0]
    values = SampleCovariance([*spikes, *[1.0] * (p - 3)], n).eigenvalues(4000, rng=0)
    assert values.shape == (4000, p)
    for k in (1, 2, 3):
        expected = covariance_moment(k, p, n, 1, spikes)
        assert_mean((values**k).sum(axis=1) / expected, 1, detect=0.06 * k**1.5)


@pytest.mark.parametrize(
    "entries", [GaussianEntries(), RademacherEntries(), StudentTEntries(9.0), ParetoEntries(9.0)], ids=str
)
def test_entries_have_mean_0_and_variance_1(entries):
    x = entries.draw(np.random.default_rng(0), (400_000,))
    assert_mean(x, 0, detect=0.03)
    assert_mean(x**2, 1, detect=0.06)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean((1.05 * x) ** 2, 1, detect=0.06)


def test_tails():
    generator = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="`index` = 1.5 has fewer than four moments: there is no variance"):
        pareto = ParetoEntries(1.5)
    x = np.abs(pareto.draw(generator, (200_000,)))
    for t in (1.0, 2.0, 10.0):
        assert_mean(x > t, t**-1.5, detect=0.02)
    with pytest.warns(UserWarning, match="`degrees` = 2 has fewer than four moments: there is no variance"):
        student = StudentTEntries(2)
    x = np.abs(student.draw(generator, (200_000,)))  # as they come
    for t in (0.5, 2.0, 10.0):
        assert_mean(x > t, 1 - t / (2 + t * t) ** 0.5, detect=0.02)
    with pytest.warns(
        UserWarning, match="`degrees` = 3 has fewer than four moments: largest eigenvalues leave"
    ) as found:
        StudentTEntries(3)
    assert found[0].filename == __file__  # points at the call
    assert [pareto.has_variance, student.has_variance] == [False, False]
    with pytest.warns(UserWarning, match="`index` = 2 has fewer than four moments: there is no variance"):
        assert not ParetoEntries(2).has_variance
    for law in (StudentTEntries, ParetoEntries):
        with pytest.warns(UserWarning, match="= 4 has fewer than four moments: largest eigenvalues leave"):
            assert law(4).has_variance  # E x^4 is infinite: it diverges like a logarithm
        with pytest.warns(UserWarning, match="= 2.1 has fewer than four moments: largest eigenvalues leave"):
            assert law(2.1).has_variance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StudentTEntries(4.5)


def test_second_moment_sees_the_kurtosis():
    # E tr S^2 / p = 1 + (p + kurtosis - 2) / n with kurtosis E x^4: 3 for Gaussian entries, 1 for signs.
    p, n = 20, 40
    for entries, kurtosis in ((GaussianEntries(), 3.0), (RademacherEntries(), 1.0), (StudentTEntries(12.0), 3 + 6 / 8)):
        values = SampleCovariance(np.ones(p), n, entries).eigenvalues(4000, rng=1)
        assert_mean((values**2).mean(axis=1), 1 + (p + kurtosis - 2) / n, detect=0.04)


def test_the_edge_is_universal_with_four_moments_and_not_with_fewer():
    p, n = 100, 200
    edge = (1 + 0.5**0.5) ** 2
    gaussian = SampleCovariance(np.ones(p), n).largest(size=300, rng=2)[:, 0]
    signs = SampleCovariance(np.ones(p), n, "rademacher").largest(size=300, rng=3)[:, 0]
    # The kurtosis moves the edge by O(1/n), half a standard deviation here.
    assert_mean(gaussian - signs, 0, bias=0.05, detect=0.2)
    _, scale = SpikedCovarianceLaw(0.5, [1.0], num_samples=n).edge()
    for draws in (gaussian, signs):
        assert_mean((draws - draws.mean()) ** 2 / scale**2, TracyWidom(1).var(), bias=0.2, detect=3.0)
    with pytest.warns(UserWarning, match="fewer than four moments"):
        heavy = SampleCovariance(np.ones(p), n, StudentTEntries(2.5)).largest(size=50, rng=4)[:, 0]
    assert np.median(heavy) > 1.3 * edge


@pytest.mark.parametrize("entries", ["gaussian", "rademacher"])
def test_threads_and_replicates(entries):
    model = SampleCovariance(np.linspace(0.5, 2, 30), 20, entries)
    one = model.eigenvalues(7, rng=5, threads=1)
    np.testing.assert_array_equal(model.eigenvalues(7, rng=5, threads=3), one)
    np.testing.assert_array_equal(model.eigenvalues(3, rng=5), one[:3])
    np.testing.assert_array_equal(np.concatenate(list(model.iterate_eigenvalues(7, rng=5, chunk_size=2))), one)
    np.testing.assert_array_equal(model.largest(2, 7, rng=5), one[:, -2:])
    np.testing.assert_array_equal(model.smallest(2, 7, rng=5), one[:, 10:12])
    assert not one[:, :10].any()


@pytest.mark.parametrize(("p", "n"), [(3, 5), (5, 3)])
def test_dense_matrices_are_on_the_side_of_the_features(p, n):
    population = np.arange(1.0, p + 1)
    draws = np.array([SampleCovariance(population, n).matrix(rng=i) for i in range(60)])
    assert draws.shape == (60, p, p)
    assert_mean(draws / np.sqrt(np.outer(population, population)), np.eye(p), detect=1.7)


def test_single_precision():
    exact = SampleCovariance(np.ones(20), 50).eigenvalues(3, rng=6)
    single = SampleCovariance(np.ones(20), 50, dtype=np.float32)
    assert single.matrix(rng=0).dtype == np.float32
    np.testing.assert_allclose(single.eigenvalues(3, rng=6), exact, atol=1e-5)


def test_law_is_that_of_the_spectrum():
    model = SampleCovariance([1.0] * 60 + [4.0] * 60, 480)
    values = model.eigenvalues(60, rng=7)
    for k in (1, 2, 3):
        assert_mean((values**k).mean(axis=1), model.law().moment(k), bias=0.01 * 3**k, detect=0.1 * 3**k)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampleCovariance([1.0, -1.0], 3), "`population` must be >= 0; got -1.0"),
        (lambda: SampleCovariance([0.0], 3), "`population` must hold a positive eigenvalue"),
        (lambda: SampleCovariance([1.0, np.inf], 3), "`population` must be finite"),
        (lambda: SampleCovariance([1.0], 0), "`num_samples` must be >= 1; got 0"),
        (
            lambda: SampleCovariance([1.0], 3, "cauchy"),
            "`entries` must be one of 'gaussian', 'rademacher'; got 'cauchy'",
        ),
        (lambda: SampleCovariance([1.0], 3, dtype=np.int64), "`dtype` must be a dtype of real floating"),
        (lambda: StudentTEntries(0), "`degrees` must be > 0; got 0"),
        (lambda: ParetoEntries(-1), "`index` must be > 0; got -1"),
        (lambda: SampleCovariance([1.0, 1.0], 1).smallest(2), "`k` must be >= 1 and <= 1; got 2"),
        (lambda: SampleCovariance([1.0, 1.0], 1).largest(2), "`k` must be >= 1 and <= 1; got 2"),
        (lambda: SampleCovariance([1.0], 3).iterate_eigenvalues(0), "`size` must be >= 1; got 0"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit(monkeypatch):
    with pytest.raises(TypeError, match="`entries` must be a name or have `draw` and `has_variance`; got int"):
        SampleCovariance([1.0], 3, 5)
    with pytest.raises(
        TypeError, match="`entries` must be a law, not its class; got StudentTEntries without parameters"
    ):
        SampleCovariance([1.0], 3, StudentTEntries)
    with pytest.warns(UserWarning, match="no variance"):
        model = SampleCovariance([1.0], 3, ParetoEntries(1.0))
    with pytest.raises(ValueError, match="`entries` must have a variance for this law"):
        model.law()
    monkeypatch.setattr(arguments, "available_memory", lambda: 2**20)
    monkeypatch.setattr(arguments, "LITTLE", 0)
    model = SampleCovariance(np.ones(1000), 1000)
    for call in (model.eigenvalues, model.matrix, lambda: next(model.iterate_eigenvalues(3))):
        with pytest.raises(MemoryError, match="use `SpikedCovariance` where the population is 1 but for a few"):
            call()


@pytest.mark.parametrize(("p", "n"), [(3, 2000), (2000, 3)])
def test_what_fits_is_the_smaller_side(monkeypatch, p, n):
    """X is drawn in parts: the memory asked for depends on the smaller side, and the spectrum on no part."""
    asked = []
    monkeypatch.setattr(sample_covariance, "require_memory", lambda _, need, __: asked.append(need))
    model = SampleCovariance(np.linspace(1, 2, p), n)
    whole = model.eigenvalues(3, rng=0)
    monkeypatch.setattr(sample_covariance, "_PART", 7)
    if p > n:  # parts are rows, which a generator fills one after the other
        np.testing.assert_allclose(model.eigenvalues(3, rng=0), whole, rtol=1e-12)
    draws = model.eigenvalues(2000, rng=1)
    assert_mean(draws.sum(axis=1) / model.population.sum(), 1, detect=0.1)
    expected = covariance_moment(2, p, n, 1, model.population)
    assert_mean((draws**2).sum(axis=1) / expected, 1, detect=0.05)
    if p < n:
        assert_mean(np.array([(model.matrix(rng=i) ** 2).sum() for i in range(600)]) / expected, 1, detect=0.06)
    model.eigenvalues(rng=0, threads=1)
    assert asked[-1] == 8 * p + 3 * 8 * 9 + 32 * 256 * 3
    model.matrix(rng=0)  # has the side of the features, and asks for one spectrum
    assert asked[-1] == 8 * p + 3 * 8 * p**2 + 32 * 256 * p
    asked.clear()
    list(model.iterate_eigenvalues(7, rng=0, chunk_size=3, threads=1))
    assert asked == [8 * p * count + 3 * 8 * 9 + 32 * 256 * 3 for count in (3, 3, 1)]

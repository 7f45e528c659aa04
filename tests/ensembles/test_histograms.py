import numpy as np
import pytest

from rmtland.ensembles.histograms import empirical_density, linear_statistics
from rmtland.ensembles.wigner import GaussianEnsemble
from rmtland.ensembles.wishart import Wishart

EDGES = np.linspace(0.05, 3.0, 15)


def test_density_is_what_counting_gives():
    model = Wishart(40, 25)
    values = model.eigenvalues(30, rng=1)
    found = empirical_density(model, EDGES, num_draws=30, rng=1)
    shares = np.array([np.histogram(v, EDGES)[0] for v in values]) / 40 / np.diff(EDGES)
    np.testing.assert_allclose(found.density, shares.mean(axis=0))
    np.testing.assert_allclose(found.standard_error, shares.std(axis=0, ddof=1) / 30**0.5)
    assert found.atom == pytest.approx(15 / 40)
    assert found.atom + found.outside + (found.density * np.diff(EDGES)).sum() == pytest.approx(1)
    assert found.num_draws == 30
    np.testing.assert_allclose(found.centers, (EDGES[1:] + EDGES[:-1]) / 2)


@pytest.mark.parametrize("split", [1, 7])
def test_chunks_do_not_matter(split):
    values = Wishart(20, 40).eigenvalues(21, rng=2)
    whole = empirical_density(values, EDGES)
    parts = empirical_density((values[i : i + split] for i in range(0, 21, split)), EDGES)
    np.testing.assert_allclose(parts.density, whole.density)
    np.testing.assert_allclose(parts.standard_error, whole.standard_error)


def test_two_matrices_have_a_standard_error():
    found = empirical_density([[0.5, 1.5], [1.2, 1.8]], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(found.density, [0.25, 0.75])
    np.testing.assert_allclose(found.standard_error, 0.25)


def test_errors_are_between_matrices():
    # Bin counts of one matrix are rigid: a Poisson error would be several times too large.
    model, size = GaussianEnsemble(400), 100
    found = empirical_density(model, np.linspace(-1, 1, 3), num_draws=size, rng=3)
    poisson = np.sqrt(found.density / (400 * size * 1.0))
    assert np.all(found.standard_error < 0.25 * poisson)
    theory = model.law().cdf(1.0) - model.law().cdf(0.0)
    assert np.all(np.abs(found.density - theory) < 6 * found.standard_error)


def test_linear_statistics():
    values = Wishart(20, 40).eigenvalues(50, rng=4)
    functions = {"trace": lambda x: x, "log": np.log, "one": np.ones_like}
    found = linear_statistics(Wishart(20, 40), functions, 50, rng=4)
    sums = np.column_stack([values.sum(axis=1), np.log(values).sum(axis=1), np.full(50, 20.0)])
    assert found.names == ("trace", "log", "one")
    np.testing.assert_allclose(found.mean, sums.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(sums.T), atol=1e-10)
    np.testing.assert_allclose(found.standard_error, sums.std(axis=0, ddof=1) / 50**0.5, atol=1e-10)
    assert found.num_draws == 50


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: empirical_density(Wishart(2, 3), [1.0, 0.5], 3), "`bins` must be at least two increasing edges"),
        (lambda: empirical_density(Wishart(2, 3), [1.0, 1.0], 3), "`bins` must be at least two increasing edges"),
        (lambda: empirical_density(np.ones((1, 4)), [0.0, 2.0]), "`num_draws` must be >= 2 for standard errors; got 1"),
        (
            lambda: empirical_density(np.ones((3, 4)), [0.0, 2.0], 5),
            "`num_draws` must be None where eigenvalues are given",
        ),
        (lambda: empirical_density(np.ones((3, 4, 2)), [0.0, 2.0]), "`source` must hold arrays"),
        (lambda: empirical_density(np.full((3, 4), np.nan), [0.0, 2.0]), "`source` must be finite"),
        (lambda: linear_statistics(Wishart(2, 3), {}, 5), "`functions` must name at least one"),
        (
            lambda: linear_statistics(Wishart(3, 2), {"log": np.log}, 5),
            "`functions` must be finite on the eigenvalues; got 'log' infinite or NaN at 0",
        ),
        (
            lambda: linear_statistics([[0.5, 3.0], [2.0, 1.0]], {"root": lambda x: np.sqrt(1.5 - x)}),
            "got 'root' infinite or NaN at 3$",
        ),
        (
            lambda: linear_statistics(Wishart(2, 3), {"max": np.max}, 5),
            r"`functions` must act element by element; got shape \(\) of 'max' for \(5, 2\)",
        ),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()

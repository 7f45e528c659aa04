from types import SimpleNamespace

import numpy as np
import pytest

import rmtland as rl
from rmtland.logits import population as module
from rmtland.logits.population import PopulationSpectrum


def moments(tau, relative=0.02, order=5):
    """Exact moments with errors that grow with the order and go together, as measured ones do."""
    values = np.array([np.sum(tau**p) for p in range(1, order + 1)])
    errors = values * relative * np.arange(1, order + 1)
    covariance = np.outer(errors, errors) * 0.9 + np.diag(errors**2) * 0.1
    return rl.ResidualMoments(values, covariance, num_pairs=50)


POWER = np.arange(1, 301) ** -0.8
SPIKED = np.append([60.0, 30.0], np.ones(210))


@pytest.mark.parametrize("tau", [POWER, SPIKED, np.ones(300)], ids=["power law", "spiked", "one value"])
def test_a_known_spectrum_comes_back_within_its_errors(tau):
    measured = moments(tau)
    found = rl.recover_spectrum(measured)
    assert found.trace == pytest.approx(tau.sum(), rel=0.05)
    assert found.eigenvalues @ (found.eigenvalues * found.multiplicities) == pytest.approx(np.sum(tau**2), rel=0.06)
    assert found.misfit < 1.0
    assert np.all(np.diff(found.eigenvalues) > 0)
    assert np.all(found.standard_error >= 0)
    for share in (0.7, 0.3, 0.1, 0.03):
        threshold = share * tau.max()
        low, high = found.variance_bounds(threshold)
        inside = tau[tau >= threshold].sum() / tau.sum()
        own = found.eigenvalues >= threshold
        assert low - 1e-9 <= inside <= high + 1e-9
        assert low - 1e-9 <= found.eigenvalues[own] @ found.multiplicities[own] / tau.sum() <= high + 0.05
    assert low > 0.15  # not vacuous
    wide = found.variance_bounds(threshold, errors=6.0)
    assert wide[0] < low


def test_the_largest_eigenvalues_of_a_spiked_spectrum():
    found = rl.recover_spectrum(moments(SPIKED))
    assert found.top(1)[0] == pytest.approx(60, rel=0.25)
    assert found.count_above(20) == pytest.approx(2, abs=0.7)
    assert found.top(4)[3] < 15
    assert rl.recover_spectrum(moments(np.ones(3))).top(20)[-1] == 0


@pytest.mark.parametrize("unit", [1e-6, 1e5])
def test_a_spectrum_in_other_units_is_the_same(unit):
    plain, scaled = moments(SPIKED), moments(unit * SPIKED)
    found, other = (rl.recover_spectrum(m, num_draws=2) for m in (plain, scaled))
    assert found.variance_bounds(20.0) == pytest.approx(scaled_bounds := other.variance_bounds(20.0 * unit), abs=1e-6)
    assert 0 < scaled_bounds[0] < scaled_bounds[1] < 1
    assert other.trace == pytest.approx(unit * found.trace, rel=1e-6)
    assert other.misfit == pytest.approx(found.misfit, rel=1e-3)
    np.testing.assert_allclose(other.top(4), unit * found.top(4), rtol=1e-6)
    np.testing.assert_allclose(other.standard_error, found.standard_error, rtol=1e-3, atol=1e-3)
    assert found.standard_error.max() > 1


def test_count_of_equal_eigenvalues():
    found = rl.recover_spectrum(moments(np.ones(300), relative=0.005))
    assert found.count_above(0.2) == pytest.approx(300, rel=0.15)
    assert found.count_above(5.0) == 0


def test_counts_are_of_what_is_larger():
    found = rl.recover_spectrum(moments(POWER))
    for i in (0, 3, found.eigenvalues.size - 2, found.eigenvalues.size - 1):
        at = found.eigenvalues[i]
        assert found.count_above(at) == pytest.approx(found.multiplicities[i + 1 :].sum(), rel=1e-12, abs=0)
        assert found.count_above(at * (1 - 1e-12)) == pytest.approx(found.multiplicities[i:].sum(), rel=1e-12)


def test_the_largest_are_where_the_number_above_passes_halves():
    values, numbers = np.array([1.0, 2.0, 3.0, 5.0, 8.0]), np.array([2.2, 0.3, 1.4, 0.1, 0.5])
    found = PopulationSpectrum(values, numbers, np.zeros(5), moments(POWER), 0.0)
    # 0.5 of 8, then 0.6, 2.0, 2.3 and 4.5 down to 5, 3, 2 and 1.
    assert found.top(7).tolist() == [8.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_all_of_the_variance_is_above_nothing():
    assert rl.recover_spectrum(moments(POWER)).variance_bounds(1e-12) == pytest.approx((1, 1), rel=1e-9)


def test_bounds_that_no_programme_finds_are_nan(monkeypatch):
    found = rl.recover_spectrum(moments(POWER))
    monkeypatch.setattr(module, "linprog", lambda *_, **__: SimpleNamespace(fun=0.25, success=False))
    assert np.isnan(found.variance_bounds(0.1)).all()


def test_bounds_are_of_what_is_at_or_above_the_threshold():
    measured = moments(np.ones(300), relative=0.005)
    found = rl.recover_spectrum(measured)
    for at in found.eigenvalues[[-3, -1]]:
        below, exactly, above = (found.variance_bounds(at * factor) for factor in (1 - 1e-9, 1, 1 + 1e-9))
        assert exactly == below
        assert exactly[1] > 1.05 * above[1]


def test_moments_of_no_spectrum_are_as_far_off_as_the_nearest_ones_at_least():
    values = np.array([1.0, 0.5, 0.05, 0.1])  # tr Sigma^2 above the square root of tr Sigma times tr Sigma^3
    measured = rl.ResidualMoments(values, np.diag((0.01 * values) ** 2), num_pairs=50)
    found = rl.recover_spectrum(measured)
    nearest = [np.sum(found.multiplicities * found.eigenvalues**p) for p in range(1, 5)]
    off = np.abs(module._whitener(measured) @ (nearest - values)).max()
    assert off > 5
    none, same, wider = (found.variance_bounds(0.1, errors=e) for e in (1e-3, 1.01 * off, 1.5 * off))
    np.testing.assert_allclose(none, same, rtol=1e-4)
    assert wider[1] - wider[0] > 1.1 * (none[1] - none[0])


def test_errors_grow_with_those_of_the_moments():
    small, large = (rl.recover_spectrum(moments(POWER, relative)) for relative in (0.01, 0.05))

    def error(spectrum):
        return spectrum.standard_error[np.searchsorted(spectrum.eigenvalues, 0.3)]

    assert error(large) > 1.4 * error(small)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_smoothest_of_the_fits_that_are_as_good_is_taken(noise):
    rng = np.random.default_rng(0)
    grid = np.geomspace(0.01, 1, 30)
    matrix = (grid[None, :] ** np.arange(6)[:, None]) * 100
    shares = np.where(np.abs(grid - 0.3) < 0.1, 1.0, 0.0) if noise == 0 else np.ones(30)
    target = matrix @ shares + noise * rng.standard_normal(6)
    fit, stiffness = module._smoothest(matrix, target, 1.0)
    stiffnesses = 10.0 ** np.arange(-4, 3)
    misfit = {s: np.sum((matrix @ module._fitted(matrix, target, 1.0, s) - target) ** 2) for s in stiffnesses}
    good = [s for s in stiffnesses if misfit[s] <= min(misfit.values()) + 6]
    assert stiffness == max(good)
    assert (stiffness < max(stiffnesses)) == (noise == 0)
    np.testing.assert_allclose(fit, module._fitted(matrix, target, 1.0, stiffness))


def test_bad_input():
    values = np.array([1.0, -0.1, 0.2])
    with pytest.raises(ValueError, match="tr Sigma\\^2 > 0"):
        rl.recover_spectrum(rl.ResidualMoments(values, np.eye(3), 10))
    for second in (-0.1, 0.0):
        without = rl.ResidualMoments(np.array([1.0, second, 0.2]), np.eye(3), 10)
        assert np.isnan(without.effective_dimension)
        assert np.isnan(without.effective_dimension_error)
    with pytest.raises(ValueError, match="`num_draws` must be >= 2"):
        rl.recover_spectrum(moments(POWER), num_draws=1)
    found = rl.recover_spectrum(moments(POWER))
    with pytest.raises(ValueError, match="`x` must be > 0"):
        found.count_above(0)
    with pytest.raises(ValueError, match="`errors` must be > 0"):
        found.variance_bounds(1.0, errors=0)
    with pytest.raises(ValueError, match="`k` must be >= 1"):
        found.top(0)


def test_errors_are_the_spread_of_spectra_of_drawn_moments(monkeypatch):
    """Of two draws it is their distance over the square root of 2."""
    counts, grids = [], []
    above = module._above

    def noted(shares, grid):
        counts.append(above(shares, grid))
        grids.append(grid)
        assert counts[-1][3] == pytest.approx(np.sum(shares[3:] / grid[3:]), rel=1e-12)
        return counts[-1]

    monkeypatch.setattr(module, "_above", noted)
    found = rl.recover_spectrum(moments(POWER), num_draws=2, rng=0)
    one, two = counts
    kept = np.isin(grids[0], found.eigenvalues)
    np.testing.assert_allclose(found.standard_error, np.abs(one - two)[kept] / np.sqrt(2), rtol=1e-12)
    assert found.standard_error[np.searchsorted(found.eigenvalues, 0.3)] > 0


def test_draws_that_do_not_fit_are_refused():
    with pytest.raises(MemoryError, match="1000000000000 spectra needs .* take fewer `num_draws` instead"):
        rl.recover_spectrum(moments(POWER), num_draws=10**12)

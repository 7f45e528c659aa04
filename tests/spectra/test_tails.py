import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import powerlaw
import pytest
import torch
from scipy import stats

import rmtland as rl
from rmtland.spectra import tails
from tests.statistical import assert_mean


def pareto(exponent, size, rng, start=1.0):
    """Values of density x^-exponent from `start` on."""
    return start * (1 - np.random.default_rng(rng).random(size)) ** (-1 / (exponent - 1))


@pytest.mark.filterwarnings("ignore:Standard error for the MLE")  # which it reads itself
@pytest.mark.parametrize("exponent", [1.5, 2.5, 3.5, 6.0])
def test_search_agrees_with_the_package(exponent):
    # 300 values: all starts are tried. The package ignores tails of fewer than 3 and allows exponents up to 3 unless
    # told otherwise; both are given our range here.
    values = np.sort(np.concatenate([pareto(exponent, 200, 1, 2.0), np.random.default_rng(2).random(100) * 2]))
    ours = rl.fit_power_law(values, num_bootstrap=0)
    theirs = powerlaw.Fit(
        values, xmin=(0.0, values[-tails.MIN_TAIL + 2]), parameter_ranges={"alpha": (1.0, None)}, verbose=0
    )
    assert ours.xmin == theirs.xmin
    assert ours.exponent == pytest.approx(theirs.alpha, rel=1e-6)
    assert ours.distance == pytest.approx(theirs.D, rel=1e-6)
    assert ours.standard_error == pytest.approx(theirs.power_law.standard_err, rel=1e-6)
    assert ours.num_tail == theirs.n_tail == np.count_nonzero(values >= ours.xmin)


def test_distance_of_repeated_values_is_that_of_the_package():
    values = np.repeat(np.sort(pareto(2.5, 40, 3)), 3)
    ours = rl.fit_power_law(values, xmin=1.2, num_bootstrap=0)
    theirs = powerlaw.Fit(values, xmin=1.2, verbose=0)
    assert ours.xmin == 1.2
    assert ours.distance == pytest.approx(theirs.power_law.D, rel=1e-9)
    assert ours.exponent == pytest.approx(1 + ours.num_tail / np.log(values[values >= 1.2] / 1.2).sum())


@pytest.mark.slow
def test_exponent_and_its_error():
    # A steep tail too: the package's default range of exponents ends at 3.
    for exponent in (1.7, 4.0):
        fits = [rl.fit_power_law(pareto(exponent, 400, seed), xmin=1.0, num_bootstrap=0) for seed in range(36)]
        found = np.array([fit.exponent for fit in fits])
        # Maximum likelihood is high by (exponent - 1) / n.
        assert_mean(found, exponent, bias=(exponent - 1) / 400, detect=0.15 * (exponent - 1))
        assert np.std(found) == pytest.approx(np.mean([f.standard_error for f in fits]), rel=0.35)
        assert fits[0].standard_error == (fits[0].exponent - 1) / 20


def test_start_of_the_tail_is_found_in_any_unit():
    values = np.concatenate([np.random.default_rng(0).random(3000) * 2, pareto(2.5, 1000, 1, 2.0)])
    fit = rl.fit_power_law(values, num_bootstrap=0)
    assert fit.xmin == pytest.approx(2.0, rel=0.2)
    assert fit.num_values == 4000
    for unit in (1e-300, 1e-12, 1e12, 1e290):
        other = rl.fit_power_law(values * unit, num_bootstrap=0)
        assert other.xmin == pytest.approx(fit.xmin * unit)
        assert other.exponent == pytest.approx(fit.exponent, rel=1e-6)
        assert other.rivals["exponential"].parameters["rate"] == pytest.approx(
            fit.rivals["exponential"].parameters["rate"] / unit, rel=1e-4
        )
        assert other.line.exponent == pytest.approx(fit.line.exponent, rel=1e-6)


def test_p_values_of_power_laws_are_even_and_those_of_others_small():
    p = [rl.fit_power_law(pareto(2.5, 200, s), xmin=1.0, num_bootstrap=40, rng=s).p_value for s in range(40)]
    assert_mean(p, 0.5, bias=0.02, detect=0.7)
    assert min(p) < 0.3 < 0.7 < max(p)
    other = 1 + np.random.default_rng(0).exponential(size=400)
    fit = rl.fit_power_law(other, xmin=1.0, num_bootstrap=100, rng=0)
    assert fit.p_value == 0
    assert rl.fit_power_law(pareto(2.5, 200, 5), num_bootstrap=10, rng=0).p_value_error > 0


def test_bootstrap_depends_on_seed_alone_and_more_samples_add_to_fewer():
    values = pareto(2.5, 100, 7)
    shares = [rl.fit_power_law(values, num_bootstrap=n, rng=3).p_value for n in (10, 10, 30)]
    assert shares[0] == shares[1]
    assert 30 * shares[2] >= 10 * shares[0] - 1e-9
    fit = rl.fit_power_law(values, num_bootstrap=0)
    assert math.isnan(fit.p_value)
    assert math.isnan(fit.p_value_error)


@pytest.mark.parametrize("given", [None, 2.0])
def test_bootstrap_samples_are_data_below_the_tail_and_the_law_from_there_on(given, monkeypatch):
    values, samples = np.sort(np.append(np.linspace(0.1, 1.9, 60), pareto(2.5, 40, 3, 2.0))), []
    monkeypatch.setattr(tails, "_search", lambda sample, start: samples.append((sample, start)) or (0, 0.0, 0.7))
    for child in np.random.default_rng(0).spawn(300):
        assert tails._replicate(values, 60, 2.0, 2.5, given, child) == 0.7
    assert {sample.size for sample, _ in samples} == {100}
    assert {start for _, start in samples} == {given}
    assert all((np.diff(sample) >= 0).all() for sample, _ in samples)
    drawn = np.concatenate([sample for sample, _ in samples])
    assert stats.kstest(drawn[drawn >= 2], stats.pareto(1.5, scale=2).cdf).pvalue > 0.01
    counts = np.unique(drawn[drawn < 2], return_counts=True)
    np.testing.assert_array_equal(counts[0], values[:60])
    assert stats.chisquare(counts[1]).pvalue > 0.01
    in_tail = np.array([np.count_nonzero(sample >= 2) for sample, _ in samples])
    if given is not None:  # one conditions on it
        assert (in_tail == 40).all()
        return
    assert_mean(in_tail, 40, detect=4)
    assert np.var(in_tail) == pytest.approx(24, rel=0.25)
    # A tail of the fewest values is never smaller; where all of the data are the tail, nothing is drawn from below.
    samples.clear()
    for child in np.random.default_rng(1).spawn(50):
        tails._replicate(values, 90, 2.0, 2.5, None, child)
        tails._replicate(values, 0, 2.0, 2.5, None, child)
    assert max(np.isin(sample, values).sum() for sample, _ in samples[::2]) == 90
    assert all(sample.size == 100 and sample[0] >= 2 for sample, _ in samples[1::2])


@pytest.mark.parametrize("bins", [3, 8])
def test_the_line_goes_through_bins_of_one_ratio_from_the_first_value_to_the_last(bins):
    tail = np.sort(pareto(2.5, 60, 11, 2.0))
    line = rl.fit_power_law(np.append(tail, np.full(20, 0.5)), xmin=1.5, num_bootstrap=0, bins_per_decade=bins).line
    number = math.ceil(bins * math.log10(tail[-1] / tail[0]))
    place = np.minimum(number * np.log(tail / tail[0]) / np.log(tail[-1] / tail[0]), number - 1).astype(int)
    logs, heights = [], []
    for i in sorted(set(place.tolist())):
        low, high = (tail[0] * (tail[-1] / tail[0]) ** (j / number) for j in (i, i + 1))
        logs.append(0.5 * math.log(low * high))
        heights.append(math.log(np.count_nonzero(place == i) / 80 / (high - low)))
    slope, height = np.polyfit(logs, heights, 1)
    assert (line.exponent, line.log_prefactor) == (pytest.approx(-slope, rel=1e-9), pytest.approx(height, rel=1e-9))
    assert line.num_points == len(logs)
    assert (line.xmin, line.xmax) == (pytest.approx(math.exp(logs[0])), pytest.approx(math.exp(logs[-1])))
    assert line.standard_error == pytest.approx(stats.linregress(logs, heights).stderr, rel=1e-6)


def test_copies_of_the_largest_value_alone_are_no_tail():
    values = np.append(pareto(2.5, 60, 3), np.full(15, 40.0))
    fit = rl.fit_power_law(values, num_bootstrap=0)
    assert fit.xmin < 40
    assert fit.exponent == pytest.approx(1 + fit.num_tail / np.log(values[values >= fit.xmin] / fit.xmin).sum())


def test_the_share_of_bootstrap_samples_and_its_error(monkeypatch):
    values, distances = pareto(2.5, 50, 7), iter(np.arange(16) / 100)
    distance = rl.fit_power_law(values, num_bootstrap=0).distance
    monkeypatch.setattr(tails, "_replicate", lambda *_: distance - 0.035 + next(distances))
    fit = rl.fit_power_law(values, num_bootstrap=16)
    further = np.arange(16) > 3
    assert fit.p_value == further.mean() == 0.75
    assert fit.p_value_error == pytest.approx(further.std() / 4, rel=1e-12)


def test_the_fewest_values_of_a_tail():
    values = np.append(np.linspace(0.1, 0.9, 5), pareto(1.5, 10, 0))
    fit = rl.fit_power_law(values, xmin=1.0, num_bootstrap=0)
    assert fit.num_tail == 10
    # Slower than 1 / x^2: an exponent below 2, by maximum likelihood in closed form.
    assert fit.exponent == pytest.approx(1 + 10 / np.log(values[5:]).sum(), rel=1e-6)
    assert fit.exponent < 1.9
    assert rl.fit_power_law(values[5:], num_bootstrap=0).num_tail == 10


def test_rivals():
    power = rl.fit_power_law(pareto(2.2, 2000, 0), xmin=1.0, num_bootstrap=0).rivals
    assert power["exponential"].log_ratio > 0
    assert power["exponential"].p_value < 1e-3
    assert power["lognormal"].p_value > 0.05  # a lognormal of great width is a power law over any range
    draws = 1 + np.random.default_rng(0).exponential(0.5, 2000)
    rival = rl.fit_power_law(draws, xmin=1.0, num_bootstrap=0).rivals["exponential"]
    assert rival.log_ratio < 0
    assert rival.p_value < 1e-3
    assert rival.parameters["rate"] == pytest.approx(2.0, rel=0.1)
    exponential = stats.expon(1.0, 1 / rival.parameters["rate"]).logpdf(draws)
    exponent = 1 + draws.size / np.log(draws).sum()
    ratio = np.log(exponent - 1) - exponent * np.log(draws) - exponential
    assert rival.log_ratio == pytest.approx(ratio.sum(), rel=1e-6)
    assert rival.normalized == pytest.approx(ratio.sum() / ratio.std() / draws.size**0.5, rel=1e-5)
    # Vuong: twice the normal tail. (The package normalises the p-value the same way.)
    assert rival.p_value == pytest.approx(2 * stats.norm.sf(abs(rival.normalized)), rel=1e-4, abs=1e-300)
    lognormal = np.exp(0.7 * np.random.default_rng(1).normal(size=4000) + 3.0)
    rival = rl.fit_power_law(lognormal, xmin=10.0, num_bootstrap=0).rivals["lognormal"]
    assert rival.log_ratio < 0
    assert (rival.parameters["mu"], rival.parameters["sigma"]) == (
        pytest.approx(3, abs=0.2),
        pytest.approx(0.7, abs=0.1),
    )


def test_what_the_package_warns_of_is_kept_and_not_shown():
    fit = rl.fit_power_law(pareto(3.5, 1000, 0), num_bootstrap=0)  # warnings are errors in these tests
    assert all(isinstance(remark, str) for remark in fit.remarks)
    tail = pareto(2.5, 1000, 4)
    assert "lognormal" in " ".join(rl.fit_power_law(tail, xmin=1.0, num_bootstrap=0).remarks + fit.remarks)


def test_line_through_the_binned_density_of_all_values():
    values = np.concatenate([np.full(5000, 0.01), pareto(2.5, 5000, 0)])
    fit = rl.fit_power_law(values, xmin=1.0, num_bootstrap=0)
    assert fit.line.exponent == pytest.approx(2.5, abs=0.25)
    # Half of the values are below the tail: the density is half that of the law.
    assert fit.line.density(2.0) == pytest.approx(0.5 * 1.5 * 2.0**-2.5, rel=0.25)
    finer = rl.fit_power_law(values, xmin=1.0, num_bootstrap=0, bins_per_decade=30)
    assert finer.line.num_points > fit.line.num_points


def test_a_line_explains_what_is_no_power_law():
    # r^2 = 0.97 and yet the p-value is 0: the reason for the rest of this module.
    draws = np.exp(1.5 * np.random.default_rng(3).normal(size=3000))
    fit = rl.fit_power_law(draws, xmin=2.0, num_bootstrap=50, rng=0)
    assert fit.line.r_squared > 0.95
    assert fit.p_value == 0
    assert fit.rivals["lognormal"].log_ratio < 0


def test_line_takes_part_of_a_density():
    x = np.geomspace(0.01, 100, 200)
    density = np.where(x < 1, 1.0, 2 * x**-2.7)
    density[150] = 0.0
    line = rl.power_law_line(x, density, xmin=1.0, xmax=50.0)
    assert (line.exponent, line.log_prefactor) == (pytest.approx(2.7), pytest.approx(np.log(2)))
    assert line.r_squared == pytest.approx(1.0)
    assert line.num_points == np.count_nonzero((x >= 1) & (x <= 50)) - 1
    assert (line.xmin, line.xmax) == (x[x >= 1][0], x[x <= 50][-1])
    np.testing.assert_allclose(line.density([1.0, 2.0]), [2.0, 2 * 2.0**-2.7])
    assert rl.power_law_line(x, density, xmax=0.9).exponent == pytest.approx(0, abs=1e-12)


def test_the_ends_of_a_line_are_part_of_it():
    x, density = np.array([1.0, 2.0, 3.0, 5.0, 8.0]), np.array([9.0, 4.0, 2.0, 1.5, 0.1])
    line = rl.power_law_line(x, density, xmin=2.0, xmax=5.0)
    slope, height = np.polyfit(np.log(x[1:4]), np.log(density[1:4]), 1)
    assert (line.exponent, line.log_prefactor) == (pytest.approx(-slope), pytest.approx(height))
    assert (line.xmin, line.xmax, line.num_points) == (2.0, 5.0, 3)


def test_signs_and_results():
    values = np.concatenate([-pareto(2.5, 300, 0), pareto(1.8, 300, 1), np.zeros(10)])
    negative = rl.fit_power_law(values, sign="negative", num_bootstrap=0)
    positive = rl.fit_power_law(-values[:300], num_bootstrap=0)
    assert negative == dataclasses.replace(positive, sign="negative")
    result = SimpleNamespace(eigenvalues=torch.tensor(values))
    assert (
        rl.fit_power_law(result, num_bootstrap=0).exponent == rl.fit_power_law(values[300:], num_bootstrap=0).exponent
    )


def test_too_narrow_a_tail_has_no_line():
    assert rl.fit_power_law(1 + 0.1 * np.arange(20.0), xmin=1.0, num_bootstrap=0).line.num_points == 5
    assert rl.fit_power_law([1.0] * 10 + [2.0] * 10, xmin=1.0, num_bootstrap=0).line is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rl.fit_power_law(np.arange(9.0) + 1), "must hold at least 10 positive ones in the tail; got 9 of 9"),
        (lambda: rl.fit_power_law(-np.ones(20)), "must hold at least 10 positive ones in the tail; got 0 of 0"),
        (lambda: rl.fit_power_law(np.arange(20.0), sign="negative"), "at least 10 negative ones in the tail; got 0"),
        (lambda: rl.fit_power_law(np.arange(20.0), xmin=15), "at least 10 positive ones in the tail; got 5 of 19"),
        (lambda: rl.fit_power_law(np.ones(20)), "`eigenvalues` must differ in the tail; got 20 equal ones"),
        (lambda: rl.fit_power_law([np.nan] * 20), "`eigenvalues` must be finite; got 20 NaN"),
        (lambda: rl.fit_power_law(np.arange(20.0), sign="both"), "`sign` must be one of 'positive', 'negative'; got"),
        (lambda: rl.fit_power_law(np.arange(20.0), xmin=0), "`xmin` must be > 0; got 0"),
        (lambda: rl.fit_power_law(np.arange(20.0), num_bootstrap=-1), "`num_bootstrap` must be >= 0; got -1"),
        (lambda: rl.fit_power_law(np.arange(20.0), bins_per_decade=0), "`bins_per_decade` must be >= 1; got 0"),
        (lambda: rl.power_law_line([1.0, 2.0], [1.0]), "`density` must have the 2 entries of `x`; got 1"),
        (lambda: rl.power_law_line([1.0, 2.0, -3.0], [1.0, 2.0, 1.0]), "`x` must hold at least 3 points with .* got 2"),
        (lambda: rl.power_law_line([1.0, 2.0, 3.0], [1.0, np.inf, 1.0]), "`density` must be finite"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()

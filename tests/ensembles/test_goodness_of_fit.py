import numpy as np
import pytest

from rmtland.ensembles.goodness_of_fit import GoodnessOfFit, _features, goodness_of_fit, matching_ensemble
from rmtland.ensembles.sample_covariance import SampleCovariance
from rmtland.ensembles.wigner import GaussianEnsemble, SpikedWigner
from rmtland.ensembles.wishart import SpikedCovariance, Wishart
from rmtland.laws.marchenko_pastur import MarchenkoPastur
from rmtland.laws.semicircle import Semicircle
from rmtland.laws.silverstein import GeneralizedMarchenkoPastur
from rmtland.laws.spikes import SpikedCovarianceLaw
from rmtland.laws.tracy_widom import TracyWidom

LAW = MarchenkoPastur(0.5)


def p_value(law, sets, **options):
    return goodness_of_fit(law, sets, rng=0, alternative=None, **options).p_value


@pytest.mark.parametrize(
    ("law", "model"),
    [
        (LAW, Wishart(60, 120)),
        (MarchenkoPastur(2.0), Wishart(120, 60)),
        (Semicircle(1.0), GaussianEnsemble(60)),
        (SpikedCovarianceLaw(0.5, [4.0]), SpikedCovariance(60, 120, [4.0])),
        (
            GeneralizedMarchenkoPastur.sample_covariance([1.0, 8.0], 0.25),
            SampleCovariance([1.0] * 20 + [8.0] * 20, 160),
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_matching_ensemble_passes(law, model):
    for size in (1, 12):
        sets = model.eigenvalues(size, rng=1)
        assert p_value(law, sets) > 0.05
    if model.num_eigenvalues > 60:  # without the zeros
        assert p_value(law, sets[:, (sets > 1e-12).all(axis=0)]) > 0.05


def test_units_are_those_of_the_law():
    sets = 9 * Wishart(60, 120).eigenvalues(12, rng=2)
    assert p_value(MarchenkoPastur(0.5, sigma=3.0), sets) > 0.05
    assert p_value(LAW, sets) < 0.01
    assert p_value(Semicircle(3.0), 3 * GaussianEnsemble(60).eigenvalues(12, rng=3)) > 0.05


@pytest.mark.slow
def test_level():
    """P-values of true laws are uniform or larger."""
    found = np.empty(120)
    for i in range(120):
        sets = Wishart(8, 16).eigenvalues(4, rng=i)
        found[i] = goodness_of_fit(LAW, sets, num_permutations=199, alternative=None, rng=i + 1000).p_value
    assert (found <= 0.05).mean() <= 0.05 + 4 * (0.05 * 0.95 / 120) ** 0.5
    assert (found <= 0.5).mean() <= 0.5 + 4 * (0.25 / 120) ** 0.5


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("2% on the variance", 1.02 * Wishart(150, 300).eigenvalues(20, rng=4)),
        ("another ratio", Wishart(150, 320).eigenvalues(20, rng=5)),
        ("complex matrices", Wishart(150, 300, beta=2).eigenvalues(60, rng=6)),
        ("independent draws of the law", LAW.rvs((20, 150), rng=7)),
        ("an outlier", SpikedCovariance(150, 300, [3.0]).eigenvalues(20, rng=8)),
        ("one matrix twenty times", np.repeat(Wishart(150, 300).eigenvalues(1, rng=9), 20, axis=0)),
        ("quantiles of the law", np.tile(LAW.ppf((np.arange(150) + 0.5) / 150), (20, 1))),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_others_are_rejected(name, sets):
    assert p_value(LAW, sets) < 0.02


def test_a_single_matrix_with_an_outlier_is_rejected():
    sets = SpikedCovariance(150, 300, [6.0]).eigenvalues(rng=10)
    found = goodness_of_fit(LAW, sets, rng=0)
    assert found.rejected
    assert set(found.p_values) == {"means", "edge"}
    assert "Not this law" in str(found)


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("size", [1, 12])
def test_edges_are_judged_from_both_sides(factor, size):
    sets = factor * Wishart(150, 300).eigenvalues(size, rng=13)
    found = goodness_of_fit(LAW, sets, alternative=None, rng=0)
    # Of 200 single matrices as many are at least as far out as there are ends of two edges.
    assert found.p_values["edge"] <= 4 / 200


@pytest.mark.parametrize("end", [-1, 1])
def test_outliers_count_up_to_half_a_support_away(end):
    inside = np.linspace(1.1, 2.9, 9)
    sums, extremes = _features(np.array([[*inside, 2 + 2 * end], [*inside, 2 + 50 * end]]), 1.0, 3.0, 6)
    np.testing.assert_array_equal(sums[0], sums[1])
    assert abs(extremes[1] - extremes[0]).max() == 48  # but not as extremes


def test_power_and_words():
    strong = goodness_of_fit(LAW, Wishart(150, 300).eigenvalues(20, rng=11), rng=0)
    weak = goodness_of_fit(LAW, Wishart(10, 20).eigenvalues(1, rng=12), rng=0)
    assert strong.power > 0.9 > 0.3 > weak.power
    assert "2% larger would have been noticed with probability" in str(strong)
    assert "take more matrices or draws" in str(weak)
    brief = str(goodness_of_fit(LAW, Wishart(10, 20).eigenvalues(1, rng=12), alternative=None, rng=0))
    assert brief.endswith("matching ensemble).")
    assert (strong.num_draws, strong.num_calibration) == (20, 199)


@pytest.mark.parametrize(
    ("p_value", "power", "alternative", "num_draws", "words"),
    [
        (0.051, np.nan, np.nan, 1, "No sign against this law (p = 0.051, 1 matrix against 199 draws of {})."),
        (0.3, 0.5, 1.02, 2, "(p = 0.3, 2 matrices against 199 draws of {}); eigenvalues 2% larger {} 0.50."),
        (0.3, 0.49, 0.75, 2, "; eigenvalues 25% smaller {} 0.49. That is little: take more matrices or draws."),
        (
            0.05,
            0.9,
            1.02,
            3,
            "Not this law (p = 0.05, 3 matrices against 199 draws of {}): the extreme eigenvalues {}.",
        ),
    ],
)
def test_each_outcome_in_words(p_value, power, alternative, num_draws, words):
    p_values = {"means": 2 * p_value, "edge": p_value}
    found = GoodnessOfFit(p_value, p_values, 0.05, power, alternative, num_draws, 199)
    assert found.rejected == (p_value <= 0.05)
    words = words.replace("draws of {}", "draws of the matching ensemble")
    words = words.replace("eigenvalues {}.", "eigenvalues are off.")
    assert str(found).endswith(words.replace("{}", "would have been noticed with probability"))


def test_zeros_in_between_change_nothing():
    sets = GaussianEnsemble(12).eigenvalues(5, rng=1)
    padded = np.concatenate([sets[:, :4], np.zeros((5, 3)), sets[:, 4:]], axis=1)
    plain, found = (goodness_of_fit(Semicircle(), s, alternative=None, rng=0) for s in (sets, padded))
    assert found.p_values == plain.p_values


def test_power_is_the_share_of_trials_that_reach_the_level():
    # Of 20 matrices one far out is the first by its sums: 2 tests of p = 1/20.
    sets = GaussianEnsemble(6).eigenvalues(1, rng=1)
    far, near = (
        goodness_of_fit(Semicircle(), sets, alternative=factor, alpha=0.1, num_calibration=20, rng=0).power
        for factor in (100.0, 1.5)
    )
    assert far == 1.0
    assert 0 < near < 1
    assert 60 * near == pytest.approx(round(60 * near))  # of sixty


def test_power_is_found_with_few_permutations():
    # Matrices far out are the first of 200 groups, in three tests: the least p-value of a trial is 3 / 200.
    sets = GaussianEnsemble(6).eigenvalues(5, rng=1)
    options = {"alternative": 100.0, "num_calibration": 80, "rng": 0}
    for num_permutations, least in ((99, 3 / 100), (400, 3 / 200)):
        for level, power in ((1.001 * least, 1.0), (0.999 * least, 0.0)):
            found = goodness_of_fit(Semicircle(), sets, num_permutations=num_permutations, alpha=level, **options)
            assert found.power == power


def test_matching_sizes():
    assert matching_ensemble(MarchenkoPastur(4.0), 25)[0] == Wishart(100, 25)
    assert matching_ensemble(MarchenkoPastur(2.0), 25)[0] == Wishart(50, 25)
    assert matching_ensemble(MarchenkoPastur(0.25, sigma=2.0), 25) == (Wishart(25, 100), 4.0)
    model, _ = matching_ensemble(GeneralizedMarchenkoPastur.sample_covariance([1.0, 5.0], 0.5, [3, 1]), 8)
    np.testing.assert_array_equal(model.population, [1.0] * 6 + [5.0] * 2)
    assert model.num_samples == 16
    # More features than samples: as many nonzero eigenvalues as samples. Without weights all count alike.
    for weights, population in (([1, 3], [1.0] * 6 + [5.0] * 2), (None, [1.0] * 4 + [5.0] * 4)):
        law = GeneralizedMarchenkoPastur.sample_covariance([5.0, 1.0], 2.0, weights)
        model, factor = matching_ensemble(law, 4)
        np.testing.assert_array_equal(model.population, population)
        assert (model.num_samples, factor) == (4, 1.0)
    assert matching_ensemble(law, 1)[0].num_samples == 1
    model, factor = matching_ensemble(SpikedCovarianceLaw(0.5, [4.0]), 30)
    assert (model.num_features, model.num_samples, model.spikes.tolist(), factor) == (30, 60, [4.0], 1.0)
    from rmtland.laws.spikes import SpikedWignerLaw

    model, factor = matching_ensemble(SpikedWignerLaw(2.0, [6.0]), 30)
    assert isinstance(model, SpikedWigner)
    assert (factor, model.spikes[0]) == (2.0, 3.0)


@pytest.mark.parametrize(("count", "given", "drawn"), [(3, None, 199), (100, None, 200), (150, None, 300), (3, 11, 11)])
def test_draws_to_compare_with_are_twice_as_many_at_least(count, given, drawn):
    class Asked(Exception):
        pass

    class Model:
        def eigenvalues(self, size, **options):
            raise Asked(size)

    with pytest.raises(Asked, match=f"^{drawn}$"):
        goodness_of_fit(LAW, np.ones((count, 2)), ensemble=Model(), num_calibration=given, rng=0)


def test_an_ensemble_may_be_given():
    from rmtland.ensembles.sample_covariance import RademacherEntries

    model = SampleCovariance(np.ones(60), 120, RademacherEntries())
    assert goodness_of_fit(LAW, model.eigenvalues(12, rng=1), ensemble=model, rng=0).p_value > 0.05


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: goodness_of_fit(LAW, np.ones((2, 3, 4))), ValueError, r"`eigenvalue_sets` must have shape \(R, N\)"),
        (lambda: goodness_of_fit(LAW, []), ValueError, r"`eigenvalue_sets` must have shape \(R, N\)"),
        (lambda: goodness_of_fit(LAW, [0.0, 0.0]), ValueError, "`eigenvalue_sets` must hold eigenvalues other than 0"),
        (lambda: goodness_of_fit(LAW, [np.nan]), ValueError, "`eigenvalue_sets` must be finite"),
        (lambda: goodness_of_fit(LAW, [1.0], alpha=2), ValueError, "`alpha` must be > 0 and < 1; got 2"),
        (lambda: goodness_of_fit(LAW, [1.0], num_calibration=3), ValueError, "`num_calibration` must be >= 9; got 3"),
        (
            lambda: goodness_of_fit(TracyWidom(), [1.0]),
            TypeError,
            "`ensemble` must be given for a law of type TracyWidom",
        ),
        (
            lambda: goodness_of_fit(GeneralizedMarchenkoPastur([1.0], 4), [1.0]),
            TypeError,
            "`ensemble` must be given for a law of type GeneralizedMarchenkoPastur",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("sets", "arguments", "message"),
    [
        (3, {"num_permutations": 10**12}, "1000000000000 permutations of .* take fewer `num_permutations` instead"),
        (3, {"num_calibration": 10**12}, "`eigenvalues` of 1000000000000 replicates needs"),
        (3, {"num_moments": 10**10}, "10000000000 polynomials needs .* take fewer `num_moments` instead"),
    ],
)
def test_counts_that_fit_no_memory(sets, arguments, message):
    with pytest.raises(MemoryError, match=message):
        goodness_of_fit(Semicircle(), GaussianEnsemble(20).eigenvalues(sets, rng=0), rng=0, **arguments)

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland.spectra import outliers
from rmtland.spectra.lanczos import lanczos


def test_rules_on_a_clear_gap():
    spectrum = np.concatenate([np.linspace(0.5, 1.0, 90), [6.0, 7.0, 8.0]])
    for method in ("gap", "ratio", "elbow"):
        assert rl.count_outliers(spectrum, method, max_outliers=20) == 3
    assert rl.count_outliers(spectrum, "edge", edge=1.0) == 3
    assert rl.count_outliers(spectrum, "edge", edge=9.0) == 0


def test_rules_differ_where_scales_do():
    spectrum = [100.0, 58.0, 20.0, 1.0, 0.9, 0.8, 0.7]
    assert rl.count_outliers(spectrum, "gap") == 1
    assert rl.count_outliers(spectrum, "ratio") == 3


def test_the_floor_of_rounding_is_not_a_gap_when_few_is_stated():
    spectrum = [5.0, 4.0, 1.0, 0.9, 0.8, 1e-17, 1e-19]
    assert rl.count_outliers(spectrum, "ratio", max_outliers=6) == 5
    assert rl.count_outliers(spectrum, "ratio", max_outliers=3) == 2


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=30), st.integers(-200, 200))
def test_order_and_scale_do_not_matter(values, exponent):
    rng = np.random.default_rng(0)
    spectrum = np.array(values)
    for method in ("gap", "ratio", "elbow"):
        count = rl.count_outliers(spectrum, method)
        assert (count >= 1) == (count.threshold < spectrum.max())
        assert count <= max(1, spectrum.size // 2)
        assert count == np.count_nonzero(np.sort(spectrum)[::-1][: spectrum.size // 2 + 1] > count.threshold)
        assert rl.count_outliers(rng.permutation(spectrum), method) == count
        # Powers of two, so that no quotient or difference is rounded otherwise.
        scaled = rl.count_outliers(spectrum * 2.0**exponent, method)
        assert scaled == count
        assert scaled.threshold == pytest.approx(count.threshold * 2.0**exponent, rel=1e-12)


def test_the_count_is_an_int_that_knows_its_threshold():
    spectrum = [9.0, 8.0, 7.5, 1.0, 0.9, 0.8]
    for method, threshold in (("gap", 4.25), ("ratio", 7.5**0.5), ("elbow", 4.25)):
        count = rl.count_outliers(spectrum, method, max_outliers=5)
        assert isinstance(count, int)
        assert (count, count.method) == (3, method)
        assert count.threshold == pytest.approx(threshold)
        assert f"{count}" == "3"
        for again in (pickle.loads(pickle.dumps(count)), copy.deepcopy(count)):
            assert (again, again.threshold, again.method) == (3, count.threshold, method)
    assert rl.count_outliers(spectrum, "edge", edge=8.5).threshold == 8.5


def test_neighbours_a_rounding_apart_are_told_apart():
    x = 1.0
    spectrum = [np.nextafter(x, 2), x, x, x]
    assert rl.count_outliers(spectrum, "gap") == 1
    assert rl.count_outliers([5.0] * 6) == 0


def test_one_outlier_over_copies_of_another_eigenvalue():
    for method in ("gap", "ratio", "elbow"):
        assert rl.count_outliers([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], method, max_outliers=5) == 1


def test_ratios_are_of_positive_eigenvalues_alone():
    for last in (0.0, -1e-9, -5.0):
        count = rl.count_outliers([8.0, 4.0, 3.9, last], "ratio", max_outliers=3)
        assert (count, count.threshold) == (1, pytest.approx(32**0.5))
    assert rl.count_outliers([8.0, 4.0, 3.9, 1e-9], "ratio", max_outliers=3) == 3


def test_a_scree_plot_without_an_elbow_has_no_outliers():
    assert rl.count_outliers(np.linspace(0, 1, 40), "elbow") == 0
    assert rl.count_outliers(-np.geomspace(1e-3, 1, 40), "elbow") == 0  # falls faster and faster
    assert rl.count_outliers([3.0, 3.0, 3.0, 3.0, 3.0, 3.0], "elbow") == 0
    assert rl.count_outliers([3.0, 3.0, 3.0, 3.0, 1.0], "elbow", max_outliers=4) == 0
    # Unlike a rule with logarithms, it needs no positive values.
    assert rl.count_outliers(np.append(np.linspace(-3, -2, 50), [4.0, 5.0]), "elbow") == 2


def test_elbow_by_default_on_the_landscape_model():
    # Nine outliers, a bulk, and below it 500 values that fall to 1e-4 of the top: the point furthest below the chord
    # of log x lies at 10 or more on most of these.
    counts = []
    for seed in range(4):
        eigenvalues = rl.LandscapeModel.fort_ganguli(sigma_z=0.5).spectrum(seed).eigenvalues
        counts.append(rl.count_outliers(eigenvalues, "elbow"))
    assert counts == [9] * 4


def test_elbow_of_a_million_eigenvalues_looks_at_a_thousand():
    spectrum = np.append(np.linspace(0, 1, 10**6), [4.0, 5.0, 6.0])
    assert rl.count_outliers(spectrum, "elbow") == 3


def test_edge_holds_its_false_alarm_rate_and_a_bare_edge_does_not():
    model, law = rl.Wishart(60, 120), rl.SpikedCovarianceLaw(0.5, [], num_samples=120)
    tops = model.largest(size=2000, rng=0)
    pairs = [[1.0, *row] for row in tops]
    for alpha in (0.05, 0.3):
        false = [rl.count_outliers(p, "edge", edge=law, law=rl.TracyWidom(1), alpha=alpha) for p in pairs]
        # Binomial errors of 2000 draws, and O(n^(-2/3)) of the centring.
        assert np.mean(false) == pytest.approx(alpha, abs=4 * (alpha / 2000) ** 0.5)
    centre, scale = law.edge()
    assert np.mean([rl.count_outliers(p, "edge", edge=centre) for p in pairs]) > 0.13  # a bare edge: P(TW > 0) = 0.17
    count = rl.count_outliers([9.0, 1.0], "edge", edge=centre, scale=scale, law=rl.TracyWidom(1))
    assert count.threshold == pytest.approx(centre + scale * rl.TracyWidom(1).ppf(0.99))
    assert count == rl.count_outliers([9.0, 1.0], "edge", edge=law, law=rl.TracyWidom(1), alpha=0.01)
    wide = rl.count_outliers([9.0, 1.0], "edge", edge=law, scale=2 * scale, law=rl.TracyWidom(1))
    assert wide.threshold > count.threshold


def test_results_of_solvers_are_read_and_unconverged_ones_refused():
    values, residuals = [9.0, 8.0, 1.0, 0.9, 0.8], [1e-9, 1e-9, 0.1, 0.2, 0.3]
    result = SimpleNamespace(eigenvalues=torch.tensor(values), residuals=residuals, converged=[True] * 5)
    assert rl.count_outliers(result) == 2
    result.converged = [True, True, True, False, False]
    assert rl.count_outliers(result, max_outliers=2) == 2  # those that did not converge were not looked at
    with pytest.raises(ValueError, match="`eigenvalues` must have converged; got 1 of 4 that did not"):
        rl.count_outliers(result, max_outliers=3)
    with pytest.raises(ValueError, match="got 2 of 5 that did not"):
        rl.count_outliers(result, "edge", edge=4.0)


def test_a_residual_across_the_threshold_is_refused():
    values = [9.0, 8.0, 1.0, 0.9]
    assert rl.count_outliers(values, residuals=[0.1, 3.4, 0.1, 0.1]) == 2  # the threshold is at 4.5
    with pytest.raises(ValueError, match=r"got 1 whose residual reaches across the threshold 4.5, such as 8 with"):
        rl.count_outliers(values, residuals=[0.1, 3.6, 0.1, 0.1])
    with pytest.raises(ValueError, match="such as 1 with residual 3.6"):
        rl.count_outliers(values, residuals=[0.1, 0.1, 3.6, 0.1])


def test_residuals_of_a_solver_are_taken_unless_others_are_given():
    result = SimpleNamespace(eigenvalues=[9.0, 8.0, 1.0, 0.9], residuals=[0.1, 3.6, 0.1, 0.1])
    with pytest.raises(ValueError, match="such as 8 with residual 3.6"):
        rl.count_outliers(result)
    assert rl.count_outliers(result, residuals=[0.1] * 4) == 2
    result.residuals = [0.1] * 4
    with pytest.raises(ValueError, match="such as 8 with residual 3.7"):
        rl.count_outliers(result, residuals=[0.1, 3.7, 0.1, 0.1])
    assert rl.count_outliers(result) == 2


def test_lanczos_runs_are_read_and_ghosts_refused():
    eigenvalues = np.append(np.linspace(0, 1, 300), [4.0, 5.0, 6.0])
    run = lanczos(np.diag(eigenvalues), 40, rng=0)
    count = rl.count_outliers(run, "edge", edge=2.0)
    assert count == 3
    # Many a Ritz value within the bulk did not converge, and may well lie on either side of a line drawn there.
    with pytest.raises(ValueError, match="whose residual reaches across the threshold 0.5"):
        rl.count_outliers(run, "edge", edge=0.5)
    ghosts = lanczos(np.diag(eigenvalues), 120, rng=0, reorthogonalize=False)
    assert rl.count_outliers(ghosts.ritz_values, "edge", edge=2.0) > 3
    with pytest.raises(ValueError, match="`eigenvalues` must be resolved; got a Lanczos run without its basis"):
        rl.count_outliers(ghosts, "edge", edge=2.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rl.count_outliers([1.0, 2.0], "eye"), ValueError, "`method` must be one of 'gap', 'ratio', 'el"),
        (lambda: rl.count_outliers([1.0]), ValueError, "`eigenvalues` must hold at least 2 to have a gap; got 1"),
        (lambda: rl.count_outliers([1.0, -1.0, -2.0], "ratio"), ValueError, "must hold at least 2 positive ones"),
        (lambda: rl.count_outliers([1.0, 2.0], "edge"), ValueError, "`edge` must be given"),
        (lambda: rl.count_outliers([1.0, 2.0], edge=1.0), ValueError, '`alpha` must be left out with method="gap"'),
        (lambda: rl.count_outliers([1.0, np.nan]), ValueError, "`eigenvalues` must be finite"),
        (lambda: rl.count_outliers([1.0, 2.0], max_outliers=0), ValueError, "`max_outliers` must be >= 1; got 0"),
        (lambda: rl.count_outliers([1.0, 2.0], residuals=[0.1]), ValueError, "`residuals` must be 2 numbers >= 0; got"),
        (lambda: rl.count_outliers([1.0, 2.0], residuals=[0.1, -1]), ValueError, "`residuals` must be 2 numbers >= 0"),
        (lambda: rl.count_outliers([1.0], "edge", edge=1, alpha=0.1), ValueError, "`law` must be given with `alpha`"),
        (lambda: rl.count_outliers([1.0], "edge", edge=1, law=3), TypeError, "`law` must have ppf, .*; got int"),
        (lambda: rl.count_outliers([1.0], "edge", edge=1, law=rl.TracyWidom(1)), ValueError, "`scale` must be given"),
        (
            lambda: rl.count_outliers([1.0], "edge", edge=1, scale=1, law=rl.TracyWidom(1), alpha=1),
            ValueError,
            "`alpha` must be > 0 and < 1; got 1",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_elbow_between_neighbouring_floats_keeps_the_upper_one(monkeypatch):
    # Half of each rounds up to the upper one: everything above the lower one counts.
    import kneed

    eps = np.finfo(float).eps
    monkeypatch.setattr(kneed, "KneeLocator", lambda *args, **more: SimpleNamespace(knee=2))
    assert outliers._elbow(np.array([9.0, 1 + 2 * eps, 1 + eps, 0.5])) == 1 + eps
    assert outliers._elbow(np.array([9.0, 3.0, 1.0, 0.5])) == 2.0

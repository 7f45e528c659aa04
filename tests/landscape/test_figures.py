import math

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.paper.h_term import h_term_figure
from rmtland.landscape.paper.spectrum import EQUATIONS, freezing_figure, spectrum_figure
from rmtland.landscape.paper.sweeps import SweepFigure, phase_figure, sweep_figure
from tests.statistical import assert_mean


@pytest.fixture(scope="module")
def spectrum():
    model = rl.LandscapeModel.fort_ganguli(40, 4, 150, sigma_z=1.0, snr=4.0)
    return spectrum_figure(model, num_draws=20, num_points=60, rng=1)


@pytest.fixture(scope="module")
def sweep():
    return sweep_figure(60, 4, 100, sigma_z=np.geomspace(0.01, 100, 9), num_draws=3, dimension=5)


def test_entropy_is_the_random_energy_models():
    figure = freezing_figure(num_classes=4, num_examples=100, sigma_z=[0.1, 2.0, 20.0], num_draws=30)
    detect = [0.01, 0.12, 0.12]
    assert_mean(figure.entropy, figure.entropy_theory, detect=detect)
    with pytest.raises(AssertionError, match="against"):  # nats for bits
        assert_mean(figure.entropy, figure.entropy_theory * math.log(2), detect=detect)
    assert_mean(figure.participation, figure.participation_theory, detect=0.05)
    np.testing.assert_allclose(figure.probabilities.sum(axis=2), 1)
    assert figure.freezing_sigma == pytest.approx(math.sqrt(2 * math.log(4)))


@pytest.mark.parametrize("name", EQUATIONS)
def test_draws_and_theory_are_paired(spectrum, name):
    panel = spectrum.panels[name]
    difference = panel.outliers / panel.outliers_theory - 1
    assert_mean(difference, 0, bias=0.02, detect=0.5)
    for k in (3, 4):
        theory = panel.power_theory[:, list(panel.directions).index(k)]
        assert_mean(panel.power(k) - theory, 0, bias=0.01, detect=0.2)
        # Theory of other logits is no match: the pairing is seen.
        spread = np.std(panel.power(k) - theory), np.std(panel.power(k) - np.roll(theory, 1))
        assert spread[0] < 0.7 * spread[1]
    x, density = panel.x, panel.density_theory
    expected = np.mean((panel.eigenvalues > x[0]).sum(axis=1))
    assert np.trapezoid(density * x, np.log(x)) == pytest.approx(expected, rel=0.03)


def test_the_equations_differ_as_they_should(spectrum):
    eq16, eq10 = (spectrum.panels[name] for name in ("eq. (16)", "eq. (10)"))
    assert (eq10.outliers_theory > eq16.outliers_theory).all()
    assert any("C - 1" in paper for paper, _ in spectrum.statements)


def test_a_sweep_peaks_where_its_slopes_cross(sweep):
    growth, freezing = sweep.slopes
    np.testing.assert_allclose(growth, 0.5)
    assert freezing[0] < 0.01
    assert freezing[-1] > 0.95
    crossing = sweep.sigma_z[np.argmax(freezing > growth)]
    assert sweep.peak(sweep.first_order) <= crossing <= 4 * sweep.peak(sweep.first_order)
    for panel in sweep.panels.values():
        assert 0.3 < sweep.peak(panel.top_eigenvalue_theory.mean(axis=0)) < 10
        np.testing.assert_allclose(panel.top_eigenvalue, panel.top_eigenvalue_theory, rtol=0.5)  # s.d. 14% at D = 100
        np.testing.assert_allclose(panel.ratio.mean(axis=0), panel.ratio_theory.mean(axis=0), rtol=0.1)
        assert panel.ratio.mean(axis=0)[-1] < panel.ratio.mean(axis=0)[0]
        assert (panel.hyperplane_ratio < panel.ratio).all()
    assert len(sweep.statements) == 4


def test_first_order_is_the_limit_of_many_examples():
    sweep = sweep_figure(20, 3, 10**4, sigma_z=[1.0, 2.0], num_draws=2, schedule=lambda sigma: 1.0 + sigma)
    np.testing.assert_array_equal(sweep.mean_lengths, [2.0, 3.0])
    model = rl.LandscapeModel.fort_ganguli(4000, 3, 10**4, sigma_z=1.0, mean_length=2.0, snr=1 / 0.49)
    assert sweep.first_order[0] == pytest.approx(model.theory(0).outliers().mean(), rel=0.03)


def test_no_peak_where_the_schedule_is_too_steep():
    # The first order falls as 1/sigma_z at most: sigma_c ~ sigma_z^a peaks iff 0 < a < 1/2.
    def first_order(exponent):
        grid = np.geomspace(1e-3, 1e3, 40)
        pairs = np.array([rl.RandomEnergyModel(10, sigma).pair() for sigma in grid])
        return SweepFigure(None, grid, grid**exponent, 1, {}, grid ** (2 * exponent) * pairs)

    assert not math.isnan(first_order(0.25).peak(first_order(0.25).first_order))
    for exponent in (0.0, 0.5):
        figure = first_order(exponent)
        assert math.isnan(figure.peak(figure.first_order))


def test_phase_diagram():
    figure = phase_figure(80, 4, 300, sigma_z=[0.5, 5.0, 50.0], snr=[0.001, 0.1, 10.0])
    assert figure.num_above_edge.shape == (3, 3)
    assert (figure.num_above_edge[-1] == 3).all()
    assert (figure.num_above_edge[0] == 0).all()
    assert (np.diff(figure.transition, axis=0) >= 0).all()
    assert (np.diff(figure.gradient_power, axis=0) > 0).all()
    assert (np.diff(figure.ratio[0]) < 0).all()


def test_the_h_term_swallows_the_outliers():
    model = rl.LandscapeModel.fort_ganguli(60, 4, 200, sigma_z=1.0, snr=4.0)
    figure = h_term_figure(model, num_draws=12, rng=1)
    assert figure.num_above_edge[0] == 3
    assert figure.num_above_edge[-1] == 0
    # Draws are paired with the theory, outliers and what the bulk's edge has instead of them.
    np.testing.assert_allclose(figure.eigenvalues.mean(axis=0), figure.eigenvalues_theory, rtol=0.1)
    np.testing.assert_allclose(figure.power.mean(axis=0), figure.power_theory, atol=0.1)
    assert (np.diff(figure.power_theory) < 0).all()
    assert (figure.eigenvalues_theory[0] > figure.bulk_edge[0]).all()
    assert (figure.eigenvalues_theory[-1] < figure.bulk_edge[-1]).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: h_term_figure(num_draws=1), ValueError, "`num_draws` must be >= 2; got 1"),
        (lambda: h_term_figure(sigma_H=[1.0]), ValueError, "`sigma_H` must be at least 2 ascending values > 0"),
        (
            lambda: h_term_figure(rl.LandscapeModel.fort_ganguli(30, 3, 50, mean_length=0.0)),
            ValueError,
            "`sigma_H` must be given for a model without outliers; got None",
        ),
        (lambda: freezing_figure(num_draws=1), ValueError, "`num_draws` must be >= 2; got 1"),
        (lambda: freezing_figure(num_classes=1), ValueError, "`num_states` must be >= 2"),
        (lambda: spectrum_figure(num_draws=1), ValueError, "`num_draws` must be >= 2; got 1"),
        (lambda: spectrum_figure(num_points=1), ValueError, "`num_points` must be >= 2; got 1"),
        (lambda: sweep_figure(sigma_z=[1.0]), ValueError, "`sigma_z` must be at least 2 ascending values > 0"),
        (lambda: sweep_figure(sigma_z=[0.0, 1.0]), ValueError, "`sigma_z` must be at least 2 ascending values > 0"),
        (lambda: sweep_figure(sigma_z=[2.0, 1.0]), ValueError, "`sigma_z` must be at least 2 ascending values > 0"),
        (lambda: sweep_figure(schedule=lambda sigma: -sigma), ValueError, "`schedule` must be > 0; got -0.001"),
        (lambda: sweep_figure(snr=0.0), ValueError, "`snr` must be > 0; got 0"),
        (lambda: phase_figure(snr=[1.0]), ValueError, "`snr` must be at least 2 ascending values > 0"),
        (lambda: phase_figure(num_draws=0), ValueError, "`num_draws` must be >= 1; got 0"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


FIGURES = {
    "freezing": lambda **options: freezing_figure(3, 10, [1.0, 2.0], **options).entropy,
    "spectrum": lambda **options: spectrum_figure(SMALL, **options).panels["eq. (10)"].eigenvalues,
    "sweep": lambda **options: sweep_figure(10, 3, 20, sigma_z=[1.0, 2.0], **options).panels["eq. (10)"].ratio,
}
SMALL = rl.LandscapeModel.fort_ganguli(10, 3, 20, sigma_z=1.0)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_a_restored_generator_are_the_same(name):
    """`Generator.spawn` knows the seed that a generator was made from and nothing of its state."""
    one, other = np.random.default_rng(3), np.random.default_rng(99)
    other.bit_generator.state = one.bit_generator.state
    first, second = (FIGURES[name](num_draws=2, rng=rng) for rng in (one, other))
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize("name", FIGURES)
def test_more_draws_than_fit_are_refused(name):
    with pytest.raises(MemoryError, match="1000000000000 .* needs .* GiB are free"):
        FIGURES[name](num_draws=10**12, rng=0)

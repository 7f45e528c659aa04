import math

import numpy as np
import pytest

import rmtland as rl
from rmtland._arguments import spawn
from rmtland.landscape import paper
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


def test_a_sweep_is_what_its_models_say():
    """Draws of one draw's rows and logits at all sigma_z, and the theory of the same logits."""
    grid, snr, size, dimension = [0.5, 4.0], 3.0, 50, 7
    figure = sweep_figure(20, 4, size, snr, grid, lambda sigma: 0.3 * sigma, 2, dimension, accuracy=0.8, rng=5)
    rng = np.random.default_rng(5)
    rows = [rl.SharedRows(child) for child in spawn(rng, 2)]
    seeds = rng.integers(2**62, size=2)
    assert figure.dimension == dimension
    for j, sigma in enumerate(grid):
        length = 0.3 * sigma
        law = rl.ClusteredGradients(length, length / math.sqrt(snr))
        model = rl.LandscapeModel(20, 4, size, rl.GaussianLogits(sigma, 0.8), law)
        pair = (1 - rl.RandomEnergyModel(4, sigma).participation()) / 12  # of two different classes, of 12 such pairs
        strength = law.mean_length**2 * 4 + law.residual_length**2 * 12 / size
        assert figure.first_order[j] == pytest.approx(strength * pair)
        for name, cross_terms in EQUATIONS.items():
            panel = figure.panels[name]
            for i, seed in enumerate(seeds):
                draw, theory = model.spectrum(seed, cross_terms, rows=rows[i]), model.theory(seed, cross_terms)
                assert panel.top_eigenvalue[i, j] == pytest.approx(draw.eigenvalues.max())
                assert panel.gradient_power[i, j] == pytest.approx(draw.powers[-3:].sum())
                assert panel.ratio[i, j] == pytest.approx(draw.eigenvalues.sum() / np.linalg.norm(draw.eigenvalues))
                assert panel.hyperplane_ratio[i, j] == pytest.approx(draw.goldilocks_ratio(dimension))
                assert panel.top_eigenvalue_theory[i, j] == pytest.approx(theory.outliers().max())
                assert panel.gradient_power_theory[i, j] == pytest.approx(theory.gradient_power(3))
                assert panel.ratio_theory[i, j] == pytest.approx(theory.trace / theory.frobenius)
                assert panel.hyperplane_ratio_theory[i, j] == pytest.approx(theory.goldilocks_ratio(dimension))


@pytest.mark.parametrize("mean_length", [1.0, 0.0])
def test_an_h_term_is_what_its_models_say(mean_length):
    """Whatever H-term the model had; with or without outliers to be swallowed."""
    law = rl.ClusteredGradients(mean_length, 0.5)
    model = rl.LandscapeModel(12, 4, 30, rl.GaussianLogits(1.0), law, sigma_H=0.7)
    figure = h_term_figure(model, [0.05, 0.2], num_draws=2, rng=5)
    rng = np.random.default_rng(5)
    given = rl.GivenLogits(*model.logits.draw_logits(12, 4, rng))
    seeds = rng.integers(2**62, size=2)
    transition = rl.LandscapeModel(12, 4, 30, given, law).theory().transition_sigma_H()
    assert (transition > 0).any() == (mean_length > 0)
    np.testing.assert_allclose(figure.transition, transition)
    for j, sigma_H in enumerate([0.05, 0.2]):
        here = rl.LandscapeModel(12, 4, 30, given, law, sigma_H=sigma_H)
        theory = here.theory()
        np.testing.assert_allclose(figure.eigenvalues_theory[j], theory.outliers())
        assert figure.power_theory[j] == pytest.approx(theory.gradient_power(3))
        assert figure.bulk_edge[j] == pytest.approx(theory.bulk_edge)
        assert figure.num_above_edge[j] == np.sum(transition > sigma_H)
        for i, seed in enumerate(seeds):
            draw = here.spectrum(seed)
            np.testing.assert_allclose(figure.eigenvalues[i, j], draw.eigenvalues[-3:])
            assert figure.power[i, j] == pytest.approx(draw.powers[-3:].sum())


def test_probabilities_are_those_of_the_first_draw():
    figure = freezing_figure(3, 2, [0.1, 30.0, 1e5], num_draws=2)
    for j, p in enumerate(figure.probabilities[[0, -1]]):
        assert figure.participation[0, j] == pytest.approx(np.mean([sum(x * x for x in row) for row in p]))
        entropies = [sum(-x * math.log2(x) for x in row if x > 0) for row in p.tolist()]
        assert figure.entropy[0, j] == pytest.approx(np.mean(entropies), abs=1e-14)
    assert not figure.entropy[:, 2].any()  # frozen: probabilities that are 0 have no part in it
    assert (figure.participation[:, 2] == 1).all()


def test_grids_of_figures_by_default(monkeypatch):
    found = []
    for module in (paper.spectrum, paper.sweeps, paper.h_term):
        monkeypatch.setattr(module, "grid_or", lambda values, default, *name: found.append(default) or default[-2:])
    shown = freezing_figure(2, 2, num_draws=2).shown
    sweep = sweep_figure(3, 2, 4, num_draws=2, dimension=2)
    phase_figure(3, 2, 4)
    expected = (1e-2, 1e2, 60), (1e-3, 1e2, 21), (0.1, 1e2, 16), (1e-2, 10, 16), (0.1, 30, 6)
    for grid, (first, last, size) in zip([*found, shown], expected, strict=True):
        np.testing.assert_allclose(grid, [first * (last / first) ** (i / (size - 1)) for i in range(size)])
    np.testing.assert_allclose(sweep.mean_lengths, (sweep.sigma_z / 15) ** 0.25)
    found.clear()
    transition = h_term_figure(SMALL, num_draws=2).transition
    assert transition.max() > 1.01 * transition.min() > 0
    np.testing.assert_allclose(found[0], [transition.max() * (0.15 + 1.35 * i / 12) for i in range(13)])


@pytest.mark.parametrize("num_parameters", [7, 100])
def test_what_a_spectrum_is_shown_at(num_parameters):
    """Densities from 1e-4 to 1.2 of the top; power of some of the top C directions and of five numbers per decade."""
    c, size = 10, min(num_parameters, 12 * 9)
    model = rl.LandscapeModel.fort_ganguli(12, c, num_parameters, sigma_z=1.0)
    figure = spectrum_figure(model, num_draws=2, num_points=2)
    few = {int(c ** (i / 5) + 1e-9) for i in range(6)}
    many = {int(c * (max(size, c) / c) ** (i / 10) + 1e-9) for i in range(11)}
    for panel in figure.panels.values():
        top = panel.eigenvalues.max()
        np.testing.assert_allclose(panel.x, [1e-4 * top, 1.2 * top])
        assert panel.directions.tolist() == sorted(k for k in {*few, c - 1, c, *many} if k <= size)
        assert panel.power_theory.shape == (2, panel.directions.size)


def test_scales_of_a_model_of_which_few_outliers_stand_out():
    """By default they reach to the strongest one's, whatever the others are."""
    model = rl.LandscapeModel.fort_ganguli(20, 4, 20, sigma_z=1.0, snr=0.1)
    figure = h_term_figure(model, num_draws=2)
    *others, strongest = figure.transition
    assert not np.any(others)
    assert 0 < strongest < 1
    assert figure.sigma_H[-1] == pytest.approx(1.5 * strongest)


@pytest.mark.parametrize("place", range(5))
def test_a_peak_is_within_the_grid(place):
    grid = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
    found = SweepFigure(None, grid, grid, 1, {}, grid).peak(np.eye(5)[place])
    assert found == pytest.approx([math.nan, 0.3, 1.0, 3.0, math.nan][place], nan_ok=True)


@pytest.mark.parametrize("cross_terms", [True, False])
def test_a_phase_diagram_is_the_mean_over_its_draws(cross_terms):
    """Of models written out, one for each point: their sizes do not enter, so other lengths of the same SNR."""
    sigmas, ratios = [0.5, 8.0], [0.02, 0.6, 3.0]
    figure = phase_figure(30, 4, 50, sigmas, ratios, num_draws=2, cross_terms=cross_terms, rng=3)
    seeds = np.random.default_rng(3).integers(2**62, size=2)
    for j, sigma in enumerate(sigmas):
        draws = [rl.GaussianLogits(sigma).draw_logits(30, 4, np.random.default_rng(seed)) for seed in seeds]
        logits = [rl.GivenLogits(*draw) for draw in draws]
        for i, snr in enumerate(ratios):
            law = rl.ClusteredGradients(3.0, 3.0 / math.sqrt(snr))
            theories = [rl.LandscapeModel(30, 4, 50, z, law).theory(cross_terms=cross_terms) for z in logits]
            crossings = np.array([np.sort(theory.transition_snr()) for theory in theories])
            assert crossings.shape == (2, 3)
            assert figure.num_above_edge[i, j] == np.mean(np.sum(crossings < snr, axis=1))
            assert figure.gradient_power[i, j] == pytest.approx(np.mean([t.gradient_power(3) for t in theories]))
            assert figure.ratio[i, j] == pytest.approx(np.mean([t.trace / t.frobenius for t in theories]))
            np.testing.assert_allclose(figure.transition[:, j], crossings[:, [0, 2]].mean(axis=0))
    assert len(set(figure.num_above_edge.ravel())) > 2


def test_progress_of_figures_is_told_draw_by_draw():
    told = []
    sweep_figure(
        10, 3, 20, sigma_z=[1.0, 2.0, 3.0], num_draws=2, dimension=5, progress=lambda *numbers: told.append(numbers)
    )
    assert told == [(done, 6) for done in range(1, 7)]
    told.clear()
    h_term_figure(SMALL, [0.1, 0.2], num_draws=3, progress=lambda *numbers: told.append(numbers))
    assert told == [(done, 6) for done in range(1, 7)]


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
        (lambda: freezing_figure(num_examples=1), ValueError, "`num_examples` must be >= 2; got 1"),
        (lambda: sweep_figure(num_draws=1), ValueError, "`num_draws` must be >= 2; got 1"),
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


def test_the_fewest_draws_points_and_examples():
    assert freezing_figure(2, 2, [1.0, 2.0], num_draws=2).entropy.shape == (2, 2)
    panels = spectrum_figure(SMALL, num_draws=2, num_points=2).panels
    assert {panel.x.shape for panel in panels.values()} == {(2,)}
    assert sweep_figure(3, 2, 4, sigma_z=[1.0, 2.0], num_draws=2, dimension=1).sigma_z.size == 2
    assert h_term_figure(SMALL, [0.1, 0.2], num_draws=2).power.shape == (2, 2)


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

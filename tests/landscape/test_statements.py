"""The numbers in the sentences under the paper's figures, against what they are said to be."""

import re
import statistics

import numpy as np
import pytest
from scipy.optimize import brentq

import rmtland as rl
from rmtland.landscape.paper.h_term import h_term_figure
from rmtland.landscape.paper.spectrum import freezing_figure, spectrum_figure
from rmtland.landscape.paper.sweeps import phase_figure, sweep_figure

DIGITS = 6e-3
"""Three digits are printed."""


def numbers(text):
    """All numbers of a sentence, percentages as shares; without those of names such as eq. (16)."""
    found = re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?%?", re.sub(r"eq\. \(\d+\)|sec\. [\d.]+", "", text))
    return [float(x[:-1]) / 100 if x.endswith("%") else float(x) for x in found]


def test_outliers_and_gradient_power_of_a_spectrum():
    model = rl.LandscapeModel.fort_ganguli(30, 4, 80, sigma_z=1.0, snr=4.0)
    figure = spectrum_figure(model, num_draws=5, num_points=20, rng=1)
    told = [numbers(here) for _, here in figure.statements]
    for i, panel in enumerate(figure.panels.values()):
        count, first, last, first_theory, last_theory = told[2 * i]
        every = np.sort(panel.eigenvalues, axis=1)
        assert count == 3
        assert [first, last] == pytest.approx([every[:, -3].mean(), every[:, -1].mean()], rel=DIGITS)
        assert [first_theory, last_theory] == pytest.approx(
            [panel.outliers_theory[:, k].mean() for k in (0, -1)], rel=DIGITS
        )
        mean, deviation, theory = told[2 * i + 1]
        # Powers come with their eigenvalues, ascending: the top C are the last four.
        shares = [float(np.sum(powers[-4:])) for powers in panel.powers]
        assert mean == pytest.approx(statistics.mean(shares), abs=6e-4)
        assert deviation == pytest.approx(statistics.stdev(shares), abs=6e-4)
        assert theory == pytest.approx(panel.power_theory[:, list(panel.directions).index(4)].mean(), abs=6e-4)


def test_freezing_and_the_halved_entropy():
    figure = freezing_figure(4, 20, np.geomspace(0.1, 20, 60), num_draws=2)
    freezing, half = numbers(figure.statements[0][1].partition("ln C)")[2])
    assert freezing == pytest.approx(np.sqrt(2 * np.log(4)), rel=DIGITS)
    exact = brentq(lambda sigma: rl.RandomEnergyModel(4, sigma).entropy(base=4) - 0.5, 0.1, 20)
    assert half == pytest.approx(exact, rel=1e-2)


def test_peaks_and_ratios_of_a_sweep():
    grid = np.geomspace(0.05, 50, 7)
    figure = sweep_figure(30, 3, 60, sigma_z=grid, num_draws=2, dimension=5)
    told = [numbers(here) for _, here in figure.statements]
    for i, panel in enumerate(figure.panels.values()):
        curves = panel.top_eigenvalue.mean(axis=0), panel.top_eigenvalue_theory.mean(axis=0), figure.first_order
        for peak, curve in zip(told[2 * i], curves, strict=True):
            # A parabola through the largest value and its neighbours peaks within half a step of it.
            assert abs(np.log(peak / grid[np.argmax(curve)])) <= 0.5 * np.log(grid[1] / grid[0]) + DIGITS
        first, last, dimension, first_cut, last_cut = (abs(x) for x in told[2 * i + 1])
        assert dimension == 5
        assert [first, last] == pytest.approx([panel.ratio[:, k].mean() for k in (0, -1)], rel=DIGITS)
        cut = [panel.hyperplane_ratio[:, k].mean() for k in (0, -1)]
        assert [first_cut, last_cut] == pytest.approx(cut, rel=DIGITS)


def test_transitions_of_a_phase_diagram():
    figure = phase_figure(40, 4, 100, sigma_z=[0.5, 5.0], snr=[0.1, 1.0])
    first, every, at, first_last, every_last, at_last = numbers(figure.statements[0][1])
    assert (at, at_last) == (0.5, 5.0)
    assert [first, first_last] == pytest.approx(figure.transition.min(axis=0).tolist(), rel=DIGITS)
    assert [every, every_last] == pytest.approx(figure.transition.max(axis=0).tolist(), rel=DIGITS)


def test_scales_that_swallow_the_outliers():
    model = rl.LandscapeModel.fort_ganguli(40, 4, 120, sigma_z=1.0, snr=4.0)
    figure = h_term_figure(model, num_draws=2, rng=1)
    weakest, strongest, _, first, last = numbers(figure.statements[0][1].replace("C - 1", "1"))
    assert [first, last] == pytest.approx(figure.power_theory[[0, -1]].tolist(), rel=DIGITS)
    # All stand out below the weakest one's scale, none beyond the strongest one's.
    assert set(figure.num_above_edge[figure.sigma_H < weakest * (1 - DIGITS)]) == {3}
    assert set(figure.num_above_edge[figure.sigma_H > strongest * (1 + DIGITS)]) == {0}
    between = (figure.sigma_H > weakest * (1 + DIGITS)) & (figure.sigma_H < strongest * (1 - DIGITS))
    assert set(figure.num_above_edge[between]) <= {1, 2}

"""What a result is fits into two lines of a terminal, whatever its size, and holds its numbers."""

import functools

import numpy as np
import pytest

import rmtland as rl

torch = pytest.importorskip("torch")


@functools.cache
def model():
    return rl.LandscapeModel.fort_ganguli(60, 4, 200, sigma_z=2.0)


@functools.cache
def draw():
    return model().sample(rng=0)


@functools.cache
def matrix():
    entries = np.random.default_rng(0).normal(size=(40, 40))
    return entries + entries.T


def network():
    return rl.nets.NetworkLogitGradients(rl.nets.mlp([4, 5, 3]), np.eye(4), np.arange(4) % 3)


TAIL = np.random.default_rng(0).pareto(2, 200) + 1
THINGS = {
    "LogitScales(sigma_z=1.94": lambda: rl.logit_scales(draw()),
    "Clustering(same_logit_same_class=0.65": lambda: rl.clustering(draw()),
    "OutputStatistics(loss=0.54": lambda: rl.output_statistics(draw()),
    "LandscapeTheory(4 classes, 200 parameters)": lambda: model().theory(rng=0),
    "PopulationTheory(4 classes, 200 parameters)": lambda: model().population_theory(rng=0),
    "TheoryBand(3 x LandscapeTheory(4 classes, 200 parameters))": lambda: model().theory_band(3, rng=0),
    "StructuredTheory(4 classes, 200 parameters)": lambda: rl.LandscapeModel(
        60, 4, 200, rl.GivenLogits(draw().logits, draw().labels), rl.measured_gradients(draw())
    ).theory(rng=0),
    "LandscapeDraw(60 examples, 4 classes, 200 parameters": draw,
    "DenseLogitGradients(60 examples, 4 classes, 200 parameters": lambda: rl.DenseLogitGradients(
        draw().logits, draw().labels, draw().residuals
    ),
    "NetworkLogitGradients(4 examples, 3 classes, 43 parameters": network,
    "Comparison(first: gauss_newton; second: gauss_newton)": lambda: rl.compare(
        {"first": draw(), "second": draw()}, num_draws=2, rungs=["gauss_newton"]
    ),
    "Confinement(eigenvalues=[0.0992": lambda: rl.confinement(rl.gauss_newton_spectrum(draw()), None, 3),
    "StreamedOutliers(eigenvalues=[0.0946": lambda: rl.streamed_outliers(draw()),
    "LogitGradientLengths(overall=[1.24": lambda: rl.logit_gradient_lengths(draw()),
    "ResidualMoments(values=[": lambda: rl.residual_moments(draw()),
    "LanczosResult(alpha=<10 float64>": lambda: rl.lanczos(matrix(), 10, rng=0),
    "SpectralDensity(grid=<1024 float64>": lambda: rl.spectral_density(matrix(), rng=0),
    "LogSpectralDensity(grid=<1024 float64>": lambda: rl.log_spectral_density(matrix(), rng=0),
    "Eigenpairs(eigenvalues=[": lambda: rl.top_eigenpairs(matrix(), 3, rng=0),
    "eigenvectors=<40 x 3 float32>": lambda: rl.top_eigenpairs(torch.tensor(matrix()).float(), 3, rng=0),
    "PowerLawFit(exponent=2.8": lambda: rl.fit_power_law(TAIL),
    "BBPTransition(ratio=0.5, num_features=20": lambda: rl.bbp_transition(0.5, [2.0, 3.0], 20, 3, rng=0),
    "GivenLogits(logits=<60 x 4 float64>": lambda: rl.GivenLogits(draw().logits, draw().labels),
    "GeneralizedMarchenkoPastur(eigenvalues=<99 float64>, num_parameters=30)": lambda: rl.GeneralizedMarchenkoPastur(
        np.arange(1.0, 100), 30
    ),
    "SampleCovariance(population=<39 float64>, num_samples=50": lambda: rl.SampleCovariance(np.arange(1.0, 40), 50),
    "PopulationSpectrum(eigenvalues=<": lambda: rl.recover_spectrum(rl.residual_moments(draw())),
    "Attribution(eigenvalues=[": lambda: rl.attribution(rl.hierarchy(draw()), rng=0),
}


@pytest.mark.parametrize("told", THINGS)
def test_two_lines_say_what_a_thing_is(told):
    found = repr(THINGS[told]())
    assert told in found
    assert len(found) <= 240
    assert "\n" not in found

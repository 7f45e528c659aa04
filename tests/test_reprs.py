"""What a result is fits into two lines of a terminal, whatever its size, and holds its numbers."""

import dataclasses
import functools

import numpy as np
import pytest

import rmtland as rl
from rmtland._arrays import short, shortened, told

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
    "SymmetricOperator(40 x 40, float64)": lambda: rl.as_operator(matrix()),
    "CountingOperator(40 x 40, float64)": lambda: rl.as_operator(matrix()).counted(),
    "SecondDerivative(43 x 43, float64)": lambda: rl.nets.hessian(network()),
    "MeanFieldNetwork(widths=(4, 50, 3), activation=Activation('relu')": lambda: rl.MeanFieldNetwork([4, 50, 3]),
    "MeanFieldKernels(covariance=<4 x 4 float64>, layers=": lambda: rl.MeanFieldNetwork([4, 50, 3]).kernels(np.eye(4)),
    "GaussianProcessLogits(covariance=<12 x 12 float64>": lambda: rl.GaussianProcessLogits(np.eye(12)),
    "LogitGradientGram(matrix=<": lambda: rl.logit_gradient_gram(draw()),
    "Dataset(name='clusters', x_train=<": lambda: rl.nets.gaussian_clusters(3, num_examples=30, dimension=4),
    "Hierarchy(source=LandscapeDraw(60 examples": lambda: rl.hierarchy(draw()),
    "Factors(A1, A2, B1, A1 + A2 + B1; of 4 classes)": lambda: rl.hierarchy(draw()).factors,
    "KernelGradients(terms=((<60 x 60 float64>, <4 x 4": lambda: rl.KernelGradients(((np.eye(60), np.eye(4)),)),
    "AnisotropicGradients(mean_gram=<": lambda: rl.measured_gradients(draw()),
    "ResidualCovariance(eigenvalues=<200 float64>": lambda: rl.ResidualCovariance.power_law(0.9, cut=200),
    "LandscapeModel(num_examples=60, num_classes=4": lambda: rl.LandscapeModel(
        60, 4, 200, rl.GivenLogits(draw().logits, draw().labels), rl.measured_gradients(draw())
    ),
    "GaussNewtonSpectrum(eigenvalues=<": lambda: rl.gauss_newton_spectrum(draw()),
    "LandscapeSpectrum(eigenvalues=<": lambda: model().spectrum(0),
    "SpikedCovariance(num_features=50, num_samples=90, spikes=<27": lambda: rl.SpikedCovariance(
        50, 90, np.arange(3.0, 30)
    ),
    "SpikedCovarianceLaw(ratio=0.5, spikes=<37": lambda: rl.SpikedCovarianceLaw(0.5, np.arange(3.0, 40), 100),
    "spikes=<58 float64>": lambda: rl.SpikedWignerLaw(1.0, np.arange(2.0, 60)),
    "SpikedWigner(n=80, spikes=<58": lambda: rl.SpikedWigner(80, np.arange(2.0, 60)),
    "DiagonalEstimate(estimate=<40": lambda: rl.diagonal_estimate(matrix(), rng=0),
    "ClusteredGradients(relative_lengths=(1, 2, 3": lambda: rl.ClusteredGradients(relative_lengths=np.arange(1.0, 50)),
    "Measurement(gradient=<200 float64>, output_statistics=": lambda: rl.measure(
        draw(), "gradient", "output_statistics"
    ),
    "Training(step 0 of 2, 4 examples)": lambda: rl.nets.Training(
        rl.nets.mlp([4, 5, 3]), np.eye(4), np.arange(4) % 3, epochs=2
    ),
    "SharedRows(0 x 0 drawn)": lambda: rl.SharedRows(0),
    "Stage(outputs=OutputStatistics(": lambda: rl.compare(draw(), num_draws=2, rungs=["gauss_newton"]).stages[
        "network"
    ],
}


@pytest.mark.parametrize("told", THINGS)
def test_two_lines_say_what_a_thing_is(told):
    found = repr(THINGS[told]())
    assert told in found
    assert len(found) <= 240
    assert "\n" not in found


@pytest.mark.parametrize("told", THINGS)
def test_things_that_hold_arrays_compare_to_true_or_false(told):
    """Fields compared one by one would ask an array whether it is true."""
    thing, other = THINGS[told](), THINGS[told]()
    assert thing == thing
    assert (thing == other) in (True, False)


def test_what_follows_a_training_tells_how_far_it_is(tmp_path):
    module, inputs, labels = rl.nets.mlp([4, 5, 3]), torch.randn(6, 4), torch.arange(6) % 3
    record = rl.nets.TrainingRecord(tmp_path / "record", module, inputs, labels, every=2, statistics=["outputs"])
    assert repr(record) == "TrainingRecord(Sequential, 1 measurements, the last at step 0)"
    record.step(4)
    assert repr(record) == "TrainingRecord(Sequential, 2 measurements, the last at step 4)"
    monitor = rl.nets.OutlierMonitor(module, inputs, labels)
    assert repr(monitor) == "OutlierMonitor(Sequential, 0 measurements)"


@dataclasses.dataclass(frozen=True)
class Thing:
    """Fields of every kind."""

    values: object
    count: float = 2.5
    note: object = None
    kept: int = dataclasses.field(default=3, repr=False)

    __repr__ = told


def test_fields_are_told_unless_they_stand_at_their_default_or_are_not_to_be():
    assert repr(Thing(1)) == "Thing(values=1)"
    assert repr(Thing(1, float("2.5"), None, 4)) == "Thing(values=1)"
    assert repr(Thing(1, 1 / 3, ("a", 1 / 7), 4)) == "Thing(values=1, count=0.333333, note=('a', 0.142857))"
    assert repr(Thing({"a": 1 / 3, 2: None}, 5.0)) == "Thing(values={'a': 0.333333, 2: None}, count=5)"


def test_arrays_are_told_in_full_up_to_six_numbers_in_a_row():
    sixths = np.arange(1, 7) / 6
    row = "[0.16667, 0.33333, 0.5    , 0.66667, 0.83333, 1.     ]"
    for array in (sixths, torch.tensor(sixths)):
        assert short(array) == row
        assert short(array.reshape(2, 3)) == "<2 x 3 float64>"
        assert short(array.reshape(1, 6)) == "<1 x 6 float64>"
    assert short(np.zeros(7)) == "<7 float64>"
    assert short(torch.zeros(7, dtype=torch.bfloat16)) == "<7 bfloat16>"
    assert short(torch.ones(2, dtype=torch.bfloat16)) == "[1., 1.]"


def test_a_text_of_240_characters_is_whole_and_a_longer_one_cut():
    assert shortened("a" * 240) == "a" * 240
    assert shortened("a" * 241) == "a" * 236 + "...)"

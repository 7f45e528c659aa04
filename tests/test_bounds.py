"""Values at the bounds of arguments are taken, values just beyond are refused: what the docstrings promise."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.ensembles.histograms import sets_of

MATRIX = np.diag([1.0, 2.0, 3.0])


def draw(num_classes=3):
    model = rl.LandscapeModel.fort_ganguli(num_examples=30, num_classes=num_classes, num_parameters=50)
    return model.sample(rng=0)


def fit(**options):
    usual = {"num_moments": 2, "num_permutations": 5, "num_calibration": 20, "alternative": None, "rng": 0}
    return rl.goodness_of_fit(rl.MarchenkoPastur(0.5), rl.Wishart(20, 40).eigenvalues(3, rng=1), **usual | options)


TAKEN = {
    "num_classes of gradient laws": lambda: rl.ClusteredGradients(1.0, 1.0).mean_lengths(1),
    "num_classes of a participation": lambda: rl.GaussianLogits.from_participation(0.75, num_classes=2),
    "kappa": lambda: rl.spectral_density(MATRIX, num_probes=2, num_steps=2, kappa=1.25, rng=0),
    "num_terms": lambda: rl.kronecker_fit(draw(), num_terms=9),
    "perplexity": lambda: rl.class_embedding(rl.hierarchy(draw()), perplexity=0.75),
    "num_draws of a histogram": lambda: list(sets_of(rl.GaussianEnsemble(4), 1, 0, None)),
    "num_moments": lambda: fit(num_moments=1),
    "num_permutations": lambda: fit(num_permutations=1),
    "alternative": lambda: fit(alternative=0.5),
    "effective dimension": lambda: rl.ResidualCovariance.from_effective_dimension(1.0),
    "num_parameters of scales": lambda: rl.LandscapeModel.from_scales(rl.logit_scales(draw()), 30, 1, 0.9),
    "states": lambda: rl.RandomEnergyModel.from_participation(0.75, 2),
}

BEYOND = {
    "label_smoothing": (lambda: rl.CrossEntropy(label_smoothing=1.5), "`label_smoothing` must be >= 0 and <= 1"),
    "tolerance of a stream": (lambda: rl.streamed_outliers(draw(), tolerance=1.0), "`tolerance` must be >= 0 and < 1"),
    "participation": (lambda: rl.GaussianLogits.from_participation(1.0, 3), "`participation` must be .* < 1"),
    "num_terms": (lambda: rl.kronecker_fit(draw(), num_terms=10), "`num_terms` must be >= 1 and <= 9; got 10"),
    "tolerance of pairs": (lambda: rl.top_eigenpairs(MATRIX, 1, tolerance=1.0), "`tolerance` must be >= 0 and < 1"),
    "num_states": (lambda: rl.RandomEnergyModel.from_participation(0.5, 10**100 + 1), "`num_states` must be"),
    "moment": (lambda: rl.GeneralizedMarchenkoPastur([1.0, 2.0], 0.5).moment(301), "`k` must be >= 0 and <= 300"),
    "effective dimension": (
        lambda: rl.ResidualCovariance.from_effective_dimension(1e6 + 0.5), "`dimension` must be >= 1 and <= 1e",
    ),
    "alpha": (lambda: fit(alpha=1.0), "`alpha` must be > 0 and < 1"),
}  # fmt: skip


@pytest.mark.parametrize("argument", TAKEN)
def test_values_within_the_bounds_are_taken(argument):
    assert TAKEN[argument]() is not None


@pytest.mark.parametrize("argument", BEYOND)
def test_values_beyond_the_bounds_are_refused(argument):
    call, told = BEYOND[argument]
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize("width", [1, 2])
def test_networks_of_one_class_and_one_neuron(width):
    pytest.importorskip("torch")
    network = rl.nets.build_network("mlp", (4,), num_classes=1, hidden=[width])
    assert sum(p.numel() for p in network.parameters()) == 4 * width + width + width + 1

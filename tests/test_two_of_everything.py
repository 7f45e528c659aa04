"""What is right for one must be right for the second: column, chunk, draw, replicate, trial, stage, seed."""

import functools

import numpy as np
import pytest
import torch

import rmtland as rl
from tests import oracles

LOGITS, LABELS, GRADIENTS = oracles.examples(11, 4, 9)
X, Y = np.random.default_rng(3).normal(size=(11, 5)), np.arange(11) % 3


def source(chunk_size=None):
    return rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS, chunk_size=chunk_size)


@functools.cache
def network(batch_size=None):
    return rl.nets.NetworkLogitGradients(rl.nets.mlp([5, 4, 3]), X, Y, batch_size=batch_size, chunk_size=batch_size)


TOP = rl.top_eigenpairs(rl.gauss_newton(source()), 2, rng=0)
OPERATORS = {
    "matrix": lambda size: rl.as_operator(GRADIENTS[0] @ GRADIENTS[0].T),
    "gauss_newton": lambda size: rl.gauss_newton(source(size)),
    "gauss_newton of a network": lambda size: rl.gauss_newton(network(size)),
    "with weight decay": lambda size: rl.gauss_newton(network(size), weight_decay=0.3),
    "hessian": lambda size: rl.nets.hessian(network(size)),
    "logit_curvature": lambda size: rl.nets.logit_curvature(network(size)),
    **{part: lambda size, part=part: getattr(rl.hierarchy(source(size)), part) for part in ("A1", "A2", "B1", "B2")},
    "knock-out": lambda size: rl.hierarchy(source(size)).knock_out("A1"),
    "deflated": lambda size: rl.deflate(rl.gauss_newton(source(size)), TOP),
    "shifted": lambda size: rl.gauss_newton(source(size)).shifted(0.7),
    "counted": lambda size: rl.gauss_newton(source(size)).counted(),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_columns_of_a_product_in_chunks(name):
    """Column by column and all at once; in one chunk, in chunks of two and a last one of one, and of one each."""
    whole = OPERATORS[name](None)
    block = np.random.default_rng(0).normal(size=(whole.shape[0], 3))
    vectors = torch.from_numpy(block) if isinstance(whole.prototype, torch.Tensor) else block
    together = np.asarray(whole @ vectors)
    alone = np.stack([np.asarray(whole @ vectors[:, j]) for j in range(3)], axis=1)
    np.testing.assert_allclose(alone, together, rtol=1e-10, atol=1e-12)
    assert np.linalg.matrix_rank(together) == min(3, np.linalg.matrix_rank(whole.to_dense()))
    for size in (2, 1):
        np.testing.assert_allclose(np.asarray(OPERATORS[name](size) @ vectors), together, rtol=1e-9, atol=1e-11)


ENSEMBLES = [
    rl.GaussianEnsemble(9), rl.GaussianEnsemble(9, beta=2), rl.GaussianEnsemble(9, beta=4),
    rl.SpikedWigner(9, [2.0, 3.0]),
    rl.SpikedWigner(9, [2.0], beta=2), rl.Wishart(5, 9), rl.Wishart(5, 9, beta=2), rl.Wishart(9, 5, beta=4),
    rl.SpikedCovariance(5, 9, [3.0, 4.0]), rl.SpikedCovariance(9, 5, [3.0], beta=2),
    rl.SampleCovariance([1.0, 2.0, 3.0], 5),
]  # fmt: skip


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=repr)
@pytest.mark.parametrize("name", ["eigenvalues", "largest", "smallest", "eigenvectors_overlap"])
def test_replicates_differ_and_do_not_depend_on_how_many_follow(ensemble, name):
    if name == "eigenvectors_overlap" and not hasattr(ensemble, "spikes"):
        name = "eigenvalues"
    draw = getattr(ensemble, name)
    few, many, other = draw(size=2, rng=0), draw(size=40, rng=0), draw(size=2, rng=1)
    np.testing.assert_array_equal(many[:2], few)
    flat = np.concatenate([many, other]).reshape(42, -1)
    assert len(np.unique(flat, axis=0)) == 42


MODEL = rl.LandscapeModel.fort_ganguli(12, 3, 20, sigma_z=1.0)
TWO = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 0.5)
DRAWS = {
    "law": lambda size, rng: rl.MarchenkoPastur(0.5).rvs(size, rng=rng),
    "two populations": lambda size, rng: TWO.rvs(size, rng=rng),
    "theory_band": lambda size, rng: [theory.trace for theory in MODEL.theory_band(size, rng=rng).theories],
    "spectrum": lambda size, rng: [MODEL.spectrum(source).trace for source in np.random.SeedSequence(rng).spawn(size)],
    "compare": lambda size, rng: compared(size, rng).stages["one"].rungs["full_model"].values["trace"],
    "sweep": lambda size, rng: rl.sweep(cell, {"x": [1.0]}, size, rng, workers=1)["y"].to_numpy()[0],
    "cells of a sweep": lambda size, rng: rl.sweep(cell, {"x": [1.0], "z": np.arange(size)}, 1, rng, workers=1)["y"]
    .to_numpy().ravel(),
}  # fmt: skip


def compared(size, rng):
    return rl.compare({"one": MODEL.sample(5)}, num_draws=size, rungs=["full_model"], rng=rng)


def cell(x, z=0, *, rng):
    return {"y": float(x + rng.normal())}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_one_seed_differ_and_so_do_seeds(name):
    first, second = (np.asarray(DRAWS[name](4, rng)) for rng in (0, 1))
    assert len(np.unique(np.concatenate([first, second]))) == 8


def test_a_second_stage_is_measured_as_it_is_alone():
    stages = {"first": MODEL.sample(1), "second": MODEL.sample(2)}
    both = rl.compare(stages, num_draws=2, rungs=["gauss_newton", "full_model"])
    for name, data in stages.items():
        alone = next(iter(rl.compare(data, num_draws=2, rungs=["gauss_newton"]).stages.values()))
        spectrum = rl.gauss_newton_spectrum(data)
        rung = both.stages[name].rungs["gauss_newton"]
        np.testing.assert_array_equal(rung.eigenvalues, alone.rungs["gauss_newton"].eigenvalues)
        np.testing.assert_allclose(rung.values["trace"], spectrum.trace, rtol=1e-12)
    drawn = [both.stages[name].rungs["full_model"].values["trace"] for name in stages]
    assert len(np.unique(np.concatenate(drawn))) == 4


def test_two_examples_are_enough_for_every_error():
    """N - 1 and not N: at two examples the standard error of a mean is half their distance."""
    two = rl.DenseLogitGradients(LOGITS[:2], LABELS[:2], GRADIENTS[:2])
    outputs = rl.output_statistics(two)
    losses = rl.CrossEntropy().value(LOGITS[:2], LABELS[:2])
    assert outputs.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert outputs.loss_error == pytest.approx(abs(losses[0] - losses[1]) / 2, rel=1e-9)
    variances = LOGITS[:2].var(axis=1, ddof=1)
    scales = rl.logit_scales(two)
    assert scales.sigma_z == pytest.approx(np.sqrt(variances.mean()), rel=1e-12)
    spread = abs(variances[0] - variances[1]) / 2
    assert scales.sigma_z_error == pytest.approx(spread / (2 * scales.sigma_z), rel=1e-9)
    lengths = rl.logit_gradient_lengths(two)
    norms = np.linalg.norm(GRADIENTS[:2], axis=2)
    np.testing.assert_allclose(lengths.overall, norms.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(lengths.overall_error, np.abs(norms[0] - norms[1]) / 2, rtol=1e-9)

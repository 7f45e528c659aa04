import dataclasses
import statistics

import numpy as np
import pytest
import torch

import rmtland as rl
from tests import oracles
from tests.statistical import assert_mean


def by_loops(logits, gradients):
    """(mean_length^2, mean_length^2 + residual_length^2) by the definition, pair by pair."""
    curvatures = [oracles.curvature(z) for z in logits]
    count = len(logits)
    above = below = 0.0
    for mu in range(count):
        for nu in range(count):
            if mu != nu:
                inner = gradients[mu] @ gradients[nu].T
                above += np.trace(curvatures[mu] @ inner @ curvatures[nu])
                below += np.trace(curvatures[mu] @ curvatures[nu])
    own = sum(np.trace(a @ j @ j.T) for a, j in zip(curvatures, gradients, strict=True))
    return above / below, own / sum(np.trace(a) for a in curvatures)


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 20])
def test_against_loops_in_any_chunks(chunk_size, in_torch):
    logits, labels, gradients = oracles.examples(11, 3, 20)
    arrays = [torch.from_numpy(a) if in_torch else a for a in (logits, labels, gradients)]
    scales = rl.curvature_scales(rl.DenseLogitGradients(*arrays, chunk_size=chunk_size))
    mean, total = by_loops(logits, gradients)
    assert scales.mean_length**2 == pytest.approx(mean, rel=1e-10)
    assert scales.mean_length**2 + scales.residual_length**2 == pytest.approx(total, rel=1e-10)
    assert not scales.mean_clipped
    assert not scales.residual_clipped


def test_two_examples_are_enough():
    logits, labels, gradients = oracles.examples(2, 3, 20, mean=3.0)
    scales = rl.curvature_scales(rl.DenseLogitGradients(logits, labels, gradients))
    mean, total = by_loops(logits, gradients)
    assert scales.mean_length**2 == pytest.approx(mean, rel=1e-10)
    assert scales.mean_length**2 + scales.residual_length**2 == pytest.approx(total, rel=1e-10)


def test_of_a_network_and_beside_other_statistics():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    source = rl.nets.NetworkLogitGradients(
        module, torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 3, batch_size=4
    )
    dense = np.concatenate([chunk.dense().numpy() for chunk in source.chunks()])
    logits = np.concatenate([chunk.logits.numpy() for chunk in source.chunks()])
    mean, total = by_loops(logits, dense)
    for scales in (rl.curvature_scales(source), rl.measure(source, "curvature_scales", "clustering").curvature_scales):
        assert scales.mean_length**2 == pytest.approx(max(mean, 0), rel=1e-9)
        assert scales.mean_length**2 + scales.residual_length**2 == pytest.approx(total, rel=1e-9)


def test_on_several_ranks():
    arrays = oracles.examples(12, 3, 8)
    whole = rl.curvature_scales(rl.DenseLogitGradients(*arrays))
    for scales in oracles.on_ranks(rl.curvature_scales, arrays, rl.CrossEntropy(), [range(5), range(5, 12)]):
        assert scales.mean_length == pytest.approx(whole.mean_length, rel=1e-12)
        assert scales.residual_length == pytest.approx(whole.residual_length, rel=1e-12)


def test_a_draw_gives_its_own_lengths_back_without_bias_and_its_trace():
    model = rl.LandscapeModel.fort_ganguli(40, 4, 200, sigma_z=4.0, mean_length=1.0, residual_length=1.5)
    found = []
    for seed in range(150):
        draw = model.sample(seed)
        scales = rl.curvature_scales(draw)
        found.append([scales.mean_length**2, scales.mean_length**2 + scales.residual_length**2])
        curvature = sum(np.trace(oracles.curvature(z)) for z in draw.logits) / 40
        assert rl.gauss_newton_trace(draw) == pytest.approx(found[-1][1] * curvature, rel=1e-10)
    assert_mean(found, [1.0, 3.25], detect=[0.3, 0.3])
    # The mutant: pairs of an example with itself counted, whose residuals are the same.
    naive = []
    for seed in range(150):
        draw = model.sample(seed)
        curvatures = np.array([oracles.curvature(z) for z in draw.logits])
        gradients = draw.mean_gradients + draw.residuals
        naive.append([np.sum((curvatures @ gradients).sum(axis=0) ** 2) / np.sum(curvatures.sum(axis=0) ** 2)])
    with pytest.raises(AssertionError, match="against"):
        assert_mean(naive, 1.0, detect=0.3)


def test_without_means_or_curvature_and_bad_input():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 3)), np.arange(6) % 3
    clipped = [
        rl.curvature_scales(rl.DenseLogitGradients(logits, labels, rng.normal(size=(6, 3, 4)))) for _ in range(20)
    ]
    assert any(scales.mean_clipped for scales in clipped)
    assert all(scales.mean_length == 0 for scales in clipped if scales.mean_clipped)
    nothing = rl.curvature_scales(rl.DenseLogitGradients(logits, labels, np.zeros((6, 3, 4))))
    # Nothing was negative, so nothing was clipped.
    assert dataclasses.astuple(nothing)[:4] == (0.0, 0.0, False, False)
    assert np.isnan([nothing.mean_length_error, nothing.residual_length_error]).all()
    frozen = rl.DenseLogitGradients(1e4 * np.eye(3)[labels], labels, rng.normal(size=(6, 3, 4)))
    lengths = dataclasses.astuple(rl.curvature_scales(frozen))
    assert np.isnan([*lengths[:2], *lengths[4:]]).all()
    assert lengths[2:4] == (False, False)
    with pytest.raises(ValueError, match="at least 2 examples; got 1"):
        rl.curvature_scales(rl.DenseLogitGradients(logits[:1], labels[:1], rng.normal(size=(1, 3, 4))))
    bad = rl.DenseLogitGradients(logits, labels, np.full((6, 3, 4), 1e200))
    with pytest.raises(ValueError, match="finite"), np.errstate(over="ignore", invalid="ignore"):
        rl.curvature_scales(bad)


def test_errors_are_spreads_over_logits_and_examples():
    logits, labels, gradients = oracles.examples(11, 4, 20)
    gradients = gradients + 2 * np.random.default_rng(3).normal(size=(4, 20))
    scales = rl.curvature_scales(rl.DenseLogitGradients(logits, labels, gradients, chunk_size=4))
    curvatures = [oracles.curvature(z) for z in logits]
    off, sizes = np.zeros(4), np.zeros(4)
    for k in range(4):
        for mu in range(11):
            for nu in range(11):
                if mu != nu:
                    off[k] += (curvatures[mu] @ gradients[mu])[k] @ (curvatures[nu] @ gradients[nu])[k]
                    sizes[k] += curvatures[mu][k] @ curvatures[nu][k]
    mean = off.sum() / sizes.sum()
    scatter = statistics.stdev(off - mean * sizes) / 4**0.5 / sizes.mean() * (3 / 2) ** 0.5
    assert scales.mean_length_error == pytest.approx(scatter / (2 * mean**0.5), rel=1e-9)
    traces = [np.trace(a @ j @ j.T) for a, j in zip(curvatures, gradients, strict=True)]
    weights = [np.trace(a) for a in curvatures]
    total = sum(traces) / sum(weights)
    differ = [t - total * w for t, w in zip(traces, weights, strict=True)]  # of mean 0
    scatter = statistics.stdev(differ) / 11**0.5 / statistics.mean(weights)
    assert scales.residual_length_error == pytest.approx(scatter / (2 * scales.residual_length), rel=1e-9)


def test_errors_are_the_scatter_of_estimates():
    model = rl.LandscapeModel.fort_ganguli(60, 6, 60, sigma_z=2.0, mean_length=1.0, residual_length=3.0)
    found = [rl.curvature_scales(model.sample(seed)) for seed in range(150)]
    some = [scales for scales in found if not scales.mean_clipped]
    assert len(some) > 140
    for name in ("mean_length", "residual_length"):
        stated = np.mean([getattr(scales, f"{name}_error") ** 2 for scales in some]) ** 0.5
        assert 0.8 < stated / np.std([getattr(scales, name) for scales in some], ddof=1) < 1.25, name
    two = rl.curvature_scales(rl.LandscapeModel.fort_ganguli(30, 2, 60).sample(0))
    assert np.isnan(two.mean_length_error)
    assert two.residual_length_error > 0


@pytest.mark.parametrize("scale", [1e150, 1e-100])
def test_lengths_whose_fourth_powers_leave_float64_have_no_error_of_the_residuals(scale):
    logits, labels, gradients = oracles.examples(11, 4, 20)
    gradients = gradients + 2 * np.random.default_rng(3).normal(size=(4, 20))
    one, other = (
        rl.curvature_scales(rl.DenseLogitGradients(logits, labels, g)) for g in (gradients, scale * gradients)
    )
    for name in ("mean_length", "residual_length", "mean_length_error"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name), rel=1e-9)
    assert np.isfinite(one.residual_length_error)
    assert np.isnan(other.residual_length_error)


def test_nearly_frozen_examples_with_long_gradients_have_an_error_too():
    """The square of tr A J J^T / tr A leaves float64, that of tr A J J^T does not."""
    logits, labels, gradients = oracles.examples(11, 4, 20)
    logits = logits + 30 * np.eye(4)[labels]
    one, other = (rl.curvature_scales(rl.DenseLogitGradients(logits, labels, s * gradients)) for s in (1.0, 1e78))
    assert other.residual_length > 1e78
    assert other.residual_length_error == pytest.approx(1e78 * one.residual_length_error, rel=1e-9)


def test_nearly_frozen_examples_have_the_lengths_of_lively_ones():
    """All probabilities but one shrink by one factor, and A_mu with them: nothing is left of it in a ratio."""
    rng = np.random.default_rng(0)
    gradients, others, found = 1.0 + rng.standard_normal((6, 3, 40)), rng.uniform(0, 1, (6, 3)), []
    for height in (20.0, 60.0):
        logits = others * [0, 1, 1] + height * np.eye(3)[0]
        found.append(rl.curvature_scales(rl.DenseLogitGradients(logits, np.zeros(6, dtype=int), gradients)))
    assert found[1].mean_length > 0.1
    assert found[1].mean_length == pytest.approx(found[0].mean_length, rel=1e-6)
    assert found[1].residual_length == pytest.approx(found[0].residual_length, rel=1e-6)

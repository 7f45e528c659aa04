"""What `compare` refuses, and sources at the edge of what it takes."""

import json
import math

import numpy as np
import pytest

import rmtland as rl
from rmtland.comparison.ladder import mean_gradient_outliers
from rmtland.landscape.theory.continuation import Continuation, NoWay

MODEL = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=150, sigma_z=3.0, snr=4.0)


def test_an_absent_class_and_a_fitted_network_are_no_obstacle():
    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(rng.normal(size=(12, 4)), np.arange(12) % 3, 3 + rng.normal(size=(12, 4, 30)))
    stage = rl.compare(source, num_draws=2).stages["network"]
    assert stage.scales.absent_classes == (3,)
    assert stage.clustering.classes_left_out == (3,)
    labels = np.arange(12) % 4
    fitted = rl.DenseLogitGradients(1000.0 * np.eye(4)[labels], labels, 3 + rng.normal(size=(12, 4, 30)))
    comparison = rl.compare(fitted, num_draws=2)
    rung = comparison.stages["network"].rungs["gauss_newton"]
    assert rung.mean("top_eigenvalue") < 1e-100
    # No sigma_z freezes every probability.
    assert "matched_participation" not in comparison.stages["network"].rungs
    frozen = [rung for rung in comparison.stages["network"].rungs.values() if not rung.values["trace"].any()]
    assert len(frozen) == 7
    assert not any(rung.theory for rung in frozen)
    assert math.isnan(rung.mean("gradient_power_C"))  # the gradient is zero to rounding
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_mean_gradient_outliers_of_a_zero_gradient():
    draw = MODEL.sample(rng=0)
    eigenvalues, powers = mean_gradient_outliers(rl.logit_scales(draw), draw.logits, np.zeros(150))
    assert np.isnan(powers).all()
    assert (eigenvalues > 0).all()


def test_mean_gradient_outliers_are_those_of_the_dense_matrix():
    draw = MODEL.sample(rng=1)
    scales, slope = rl.logit_scales(draw), np.random.default_rng(2).normal(size=150)
    p = np.exp(draw.logits - draw.logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    curvature = np.diag(p.mean(axis=0)) - p.T @ p / len(p)
    values, vectors = np.linalg.eigh(scales.mean_gradients.T @ curvature @ scales.mean_gradients)
    eigenvalues, powers = mean_gradient_outliers(scales, draw.logits, slope)
    np.testing.assert_allclose(eigenvalues, values[-3:], rtol=1e-9)
    np.testing.assert_allclose(powers, (vectors[:, -3:].T @ slope) ** 2 / (slope @ slope), rtol=1e-8)


def test_bad_arguments(network):
    draw = MODEL.sample(rng=0)
    module, x, y = network
    with pytest.raises(ValueError, match="`num_draws` must be >= 2; got 1"):
        rl.compare(draw, num_draws=1)
    with pytest.raises(ValueError, match="`outlier_method` must be one of 'ratio', 'gap', 'elbow'; got 'edge'"):
        rl.compare(draw, outlier_method="edge")
    with pytest.raises(ValueError, match="`by` must be one of None, 'parameter_groups'; got 'layers'"):
        rl.compare(draw, by="layers")
    with pytest.raises(ValueError, match="`rungs` must be one of 'hessian', .* got 'hesian'"):
        rl.compare(draw, rungs=["hesian"])
    for empty in ("hessian", []):
        with pytest.raises(ValueError, match="`rungs` must be a collection of at least one of 'hessian', .* got "):
            rl.compare(draw, rungs=empty)
    with pytest.raises(ValueError, match="`stages` must be one of 'network'; got 'end'"):
        rl.compare(draw, stages=["end"])
    with pytest.raises(ValueError, match="`stages` must be a collection of at least one of 'network'; got 'network'"):
        rl.compare(draw, stages="network")
    with pytest.raises(ValueError, match="`source_or_module` must name at least one stage; got an empty mapping"):
        rl.compare({})
    with pytest.raises(TypeError, match="`data` must be left out with a mapping of sources"):
        rl.compare({"a": draw}, (x, y))
    with pytest.raises(TypeError, match="`data` must be left out with a source, which has its own"):
        rl.compare(draw, (x, y))
    with pytest.raises(
        TypeError, match=r"`data` must be given with a module: \(inputs, labels\) or a loader; got None"
    ):
        rl.compare(module)
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module; got str"):
        rl.compare("network", (x, y))
    with pytest.raises(TypeError, match="`source_or_module` must be a source, a mapping of such or a module; got None"):
        rl.compare(None)
    with pytest.raises(ValueError, match=r"`rungs` must name one that some stage has; got \('hessian',\): arrays"):
        rl.compare(draw, rungs=["hessian"])
    with pytest.raises(TypeError, match="stage 'a' must be a source of logit gradients; got int"):
        rl.compare({"a": 3})
    regression = rl.DenseLogitGradients(np.zeros((4, 2)), np.zeros(4, int), np.ones((4, 2, 3)), loss=rl.SquaredError())
    with pytest.raises(
        ValueError, match="stage 'network' must have CrossEntropy as its loss to be compared; got SquaredError"
    ):
        rl.compare(regression)
    single = rl.DenseLogitGradients(np.zeros((1, 2)), np.zeros(1, int), np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="stage 'network' must have at least 2 examples; got 1"):
        rl.compare(single)


def test_more_draws_than_memory():
    with pytest.raises(MemoryError, match="1000000000 draws needs .*; take fewer `num_draws` instead"):
        rl.compare(rl.LandscapeModel.fort_ganguli(20, 3, 30).sample(0), num_draws=10**9)


@pytest.mark.parametrize("scale", [1e-10, 1e-20, 1e-35, 1e10, 1e35])
def test_a_rung_does_not_depend_on_the_unit_of_the_parameters(scale):
    rng = np.random.default_rng(0)
    logits, labels, gradients = rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(20, 3, 7))
    one, other = (
        next(iter(rl.compare(rl.DenseLogitGradients(logits, labels, g), num_draws=2).stages.values())).rungs
        for g in (gradients, gradients * scale)
    )
    assert list(one) == list(other)
    for name, rung in one.items():
        for quantity, power in (("trace", 2), ("goldilocks_ratio", 0)):
            np.testing.assert_allclose(
                other[name].values[quantity], rung.values[quantity] * scale**power, rtol=1e-5, err_msg=name
            )


def test_draws_stay_where_their_theory_is_not_found(monkeypatch):
    def nowhere(*_):
        raise NoWay("no way found to 1")

    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(20, 3, 40)))
    monkeypatch.setattr(Continuation, "start", nowhere)
    compared = rl.compare(source, num_draws=2, rungs=["measured_means"])
    rung = next(iter(compared.stages.values())).rungs["measured_means"]
    assert rung.theory == {}
    assert rung.mean("trace") > 0
    with pytest.raises(ArithmeticError, match="no way found to 1"):
        rl.compare(source, num_draws=2, rungs=["measured_means"], theory=True)


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e40, 1e150])
def test_lengths_whose_powers_are_no_numbers_are_named(scale):
    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(rng.normal(size=(8, 3)), np.arange(8) % 3, scale * rng.normal(size=(8, 3, 7)))
    with pytest.raises(ValueError, match="the logit gradients of `source` must be 1e-38 to 1e\\+38 long, .* got "):
        rl.compare(source, num_draws=2)

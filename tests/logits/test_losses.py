import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland.logits.losses import Loss, one_hot
from tests.oracles import curvature, softmax

LOSSES = {
    "softmax": (rl.CrossEntropy(), np.array([[0.3, -1.2, 2.0, 0.0], [5.0, 4.0, -3.0, 1.0]]), np.array([0, 3])),
    "logistic": (rl.Logistic(), np.array([[0.7], [-2.0], [3.0]]), np.array([1, 0, 0])),
    "squared, classes": (rl.SquaredError(), np.array([[0.3, -1.2, 2.0], [5.0, 4.0, -3.0]]), np.array([2, 1])),
    "squared, targets": (rl.SquaredError(), np.array([[0.7], [-2.0]]), np.array([0.5, -1.5])),
}


def torch_value(loss, z, y):
    """The loss of one example in torch's own words."""
    if isinstance(loss, rl.CrossEntropy):
        return torch.nn.functional.cross_entropy(z[None], torch.tensor([int(y)]))
    if isinstance(loss, rl.Logistic):
        return torch.nn.functional.binary_cross_entropy_with_logits(z[0], torch.tensor(float(y), dtype=z.dtype))
    target = torch.tensor([float(y)], dtype=z.dtype)
    if z.numel() > 1:
        target = torch.nn.functional.one_hot(torch.tensor(int(y)), z.numel()).to(z.dtype)
    return torch.nn.functional.mse_loss(z, target) * z.numel() / 2


@pytest.mark.parametrize("case", LOSSES)
def test_value_gradient_and_hessian_are_those_of_autograd(case):
    loss, outputs, labels = LOSSES[case]
    assert isinstance(loss, Loss)
    loss.check(outputs, labels)
    values, slopes, factors = loss.value(outputs, labels), loss.gradient(outputs, labels), loss.hessian_factor(outputs)
    tangents = np.random.default_rng(0).normal(size=(*outputs.shape, 3))
    products = loss.hessian_product(outputs, tangents)
    for mu in range(len(outputs)):
        z = torch.tensor(outputs[mu], requires_grad=True)
        value = torch_value(loss, z, labels[mu])
        (slope,) = torch.autograd.grad(value, z, create_graph=True)
        hessian = torch.autograd.functional.hessian(lambda z, mu=mu: torch_value(loss, z, labels[mu]), z).numpy()
        assert values[mu] == pytest.approx(value.item(), rel=1e-12)
        np.testing.assert_allclose(slopes[mu], slope.detach().numpy(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(factors[mu] @ factors[mu].T, hessian, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(products[mu], hessian @ tangents[mu], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mean", [False, True])
def test_several_logistic_outputs_are_those_of_autograd(mean):
    rng = np.random.default_rng(1)
    outputs, targets = 2 * rng.normal(size=(5, 3)), rng.integers(0, 2, size=(5, 3)).astype(float)
    loss = rl.Logistic(mean=mean)

    def value(z, y):
        reduction = "mean" if mean else "sum"
        return torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor(y), reduction=reduction)

    factors, tangents = loss.hessian_factor(outputs), rng.normal(size=(5, 3, 2))
    products = loss.hessian_product(outputs, tangents)
    for mu in range(5):
        z = torch.tensor(outputs[mu], requires_grad=True)
        (slope,) = torch.autograd.grad(value(z, targets[mu]), z)
        hessian = torch.autograd.functional.hessian(lambda z, y=targets[mu]: value(z, y), z).numpy()
        assert loss.value(outputs, targets)[mu] == pytest.approx(value(z, targets[mu]).item(), rel=1e-12)
        np.testing.assert_allclose(loss.gradient(outputs, targets)[mu], slope.numpy(), rtol=1e-12)
        np.testing.assert_allclose(factors[mu] @ factors[mu].T, hessian, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(products[mu], hessian @ tangents[mu], rtol=1e-12)


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_gives_what_numpy_gives(case, dtype):
    loss, outputs, labels = LOSSES[case]
    outputs = outputs.astype(dtype)
    tangents = np.random.default_rng(0).normal(size=(*outputs.shape, 2)).astype(dtype)
    z, y, u = torch.from_numpy(outputs), torch.from_numpy(labels), torch.from_numpy(tangents)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    pairs = [
        (loss.value(outputs, labels), loss.value(z, y)),
        (loss.gradient(outputs, labels), loss.gradient(z, y)),
        (loss.hessian_product(outputs, tangents), loss.hessian_product(z, u)),
        (loss.hessian_factor(outputs), loss.hessian_factor(z)),
        (loss.predictions(outputs), loss.predictions(z)),
    ]
    if not isinstance(loss, rl.SquaredError):
        pairs.append((loss.probabilities(outputs), loss.probabilities(z)))
    for ours, theirs in pairs:
        assert isinstance(theirs, torch.Tensor)
        assert str(theirs.dtype).removeprefix("torch.") == str(ours.dtype)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=tolerance, atol=tolerance)


@given(
    st.integers(2, 12).flatmap(
        lambda c: st.lists(st.lists(st.floats(-1e4, 1e4), min_size=c, max_size=c), min_size=1, max_size=4)
    )
)
def test_the_factor_is_that_of_the_curvature_whatever_the_logits(logits):
    outputs = np.array(logits)
    factor = rl.CrossEntropy().hessian_factor(outputs)
    assert factor.shape == (*outputs.shape, outputs.shape[1] - 1)
    expected = np.array([curvature(z) for z in outputs])
    np.testing.assert_allclose(factor @ factor.transpose(0, 2, 1), expected, rtol=0, atol=1e-15)
    assert np.all(np.triu(factor[0], k=1) == 0)


def exact(logits, label):
    """(p, -log p_y, p - y, A) with 60 digits and more than the logits' range of exponents."""
    with mpmath.workdps(60):
        weights = [mpmath.e ** mpmath.mpf(z) for z in logits]
        total = sum(weights)
        p = [w / total for w in weights]
        slope = [p[k] - (k == label) for k in range(len(p))]
        matrix = [[(p[k] if k == j else 0) - p[k] * p[j] for j in range(len(p))] for k in range(len(p))]
        value = -mpmath.log(p[label])
    to_float = np.vectorize(float)
    return to_float(p), float(value), to_float(slope), to_float(matrix)


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_frozen_examples_keep_full_relative_precision(label, dtype, shift):
    # 1 - p is 1e-22 here: p - 1, p u - p (p.u) and log p all cancel to rounding if taken as written.
    logits = np.array([[-10.0, 40.0, -12.0]], dtype=dtype) + np.asarray(shift, dtype=dtype)
    p, value, slope, matrix = exact(logits[0].astype(float), label)
    loss = rl.CrossEntropy()
    labels = np.array([label])
    rtol = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(loss.probabilities(logits)[0], p, rtol=rtol)
    np.testing.assert_allclose(loss.value(logits, labels)[0], value, rtol=rtol)
    np.testing.assert_allclose(loss.gradient(logits, labels)[0], slope, rtol=rtol)
    factor = loss.hessian_factor(logits)[0].astype(float)
    np.testing.assert_allclose(factor @ factor.T, matrix, rtol=rtol)
    tangents = np.array([[[3.0], [5.0], [-2.0]]], dtype=dtype)
    np.testing.assert_allclose(loss.hessian_product(logits, tangents)[0], matrix @ tangents[0], rtol=rtol)


def test_underflowed_probabilities_have_no_curvature_and_no_nan():
    loss = rl.CrossEntropy()
    for top in range(3):
        logits = np.full((1, 3), -1e4)
        logits[0, top] = 1e4
        assert np.all(loss.hessian_factor(logits) == 0)
        assert np.all(loss.gradient(logits, np.array([top])) == 0)
        assert loss.value(logits, np.array([(top + 1) % 3]))[0] == 2e4
    # Two classes share all the weight: a curvature of rank one, wherever they stand.
    for zero in range(3):
        logits = np.zeros((1, 3))
        logits[0, zero] = -1e4
        factor = loss.hessian_factor(logits)[0]
        np.testing.assert_allclose(factor @ factor.T, curvature(logits[0]), atol=1e-16)
        assert np.linalg.matrix_rank(factor) == 1


def test_gradients_of_an_example_sum_to_zero_and_ties_are_no_matter():
    logits = np.array([[1.0, 1.0, 1.0], [7.0, 7.0, -50.0]])
    loss = rl.CrossEntropy()
    np.testing.assert_allclose(loss.gradient(logits, np.array([0, 1])).sum(axis=1), 0, atol=1e-16)
    np.testing.assert_allclose(loss.probabilities(logits), [softmax(z) for z in logits], rtol=1e-15)
    np.testing.assert_allclose(loss.value(logits, np.array([0, 1])), [np.log(3), np.log(2)], rtol=1e-15)


@pytest.mark.parametrize("z", [-800.0, -40.0, 0.0, 40.0, 800.0])
def test_logistic_is_precise_at_both_ends(z):
    loss, outputs = rl.Logistic(), np.array([[z]])
    with mpmath.workdps(400):
        s = 1 / (1 + mpmath.e ** (-mpmath.mpf(z)))
        expected = [float(s), float(s - 1), float(s), float(s * (1 - s)), float(-mpmath.log(s))]
    got = [
        loss.probabilities(outputs)[0, 0],
        loss.gradient(outputs, np.array([1]))[0, 0],
        loss.gradient(outputs, np.array([0]))[0, 0],
        loss.hessian_product(outputs, np.ones((1, 1, 1)))[0, 0, 0],
        loss.value(outputs, np.array([1]))[0],
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=0)
    np.testing.assert_allclose(loss.hessian_factor(outputs)[0, 0, 0] ** 2, got[3], rtol=1e-14)


def test_two_softmax_classes_are_one_logistic_output():
    z, labels = np.array([[0.4], [-3.0]]), np.array([1, 0])
    both = np.concatenate([np.zeros_like(z), z], axis=1)
    np.testing.assert_allclose(rl.CrossEntropy().value(both, labels), rl.Logistic().value(z, labels), rtol=1e-14)
    np.testing.assert_allclose(
        rl.CrossEntropy().gradient(both, labels)[:, 1:], rl.Logistic().gradient(z, labels), rtol=1e-14
    )


def test_predictions():
    assert rl.CrossEntropy().predictions(np.array([[1.0, 2.0], [3.0, 0.0]])).tolist() == [1, 0]
    assert rl.Logistic().predictions(np.array([[0.1], [0.0], [-0.1]])).tolist() == [1, 0, 0]
    assert rl.Logistic().predictions(np.array([[0.1, 0.0], [-0.1, 5e-324]])).tolist() == [[1, 0], [0, 1]]
    assert rl.SquaredError().predictions(np.array([[0.25, 2.0], [3.0, 2.0]])).tolist() == [1, 0]
    assert rl.SquaredError().predictions(np.array([[0.25]])).tolist() == [0.25]


def test_one_hot_counts_past_the_labels_own_dtype():
    labels = np.array([0, 255], dtype=np.uint8)
    rows = one_hot(labels, 300, np.float64)
    assert rows.shape == (2, 300)
    assert rows.sum() == rows[0, 0] + rows[1, 255] == 2
    assert one_hot(torch.tensor([1], dtype=torch.uint8), 3, torch.float32).tolist() == [[0.0, 1.0, 0.0]]


Z = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "error", "message"),
    [
        (rl.CrossEntropy(), np.zeros(3), [0, 1, 0], ValueError, r"`logits` must have shape \(N, C\).*got \(3,\)"),
        (rl.CrossEntropy(), np.zeros((0, 2)), [], ValueError, r"N, C >= 1; got \(0, 2\)"),
        (rl.CrossEntropy(), np.zeros((3, 2), int), [0, 1, 0], TypeError, "`logits` must be floating point; got int64"),
        (rl.CrossEntropy(), Z * np.nan, [0, 1, 0], ValueError, "`logits` must be finite; got NaN or infinite"),
        (rl.CrossEntropy(), Z + np.inf, [0, 1, 0], ValueError, "`logits` must be finite"),
        (rl.CrossEntropy(), Z, [0, 1], ValueError, r"`labels` must have shape \(3,\), one per example; got \(2,\)"),
        (rl.CrossEntropy(), Z, [[0], [1], [0]], ValueError, r"one per example; got \(3, 1\)"),
        (rl.CrossEntropy(), Z, [0, 1, 2], ValueError, r"`labels` must be in 0..1; got 2"),
        (rl.CrossEntropy(), Z, [0, 1, -1], ValueError, r"`labels` must be in 0..1; got -1"),
        (rl.CrossEntropy(), Z, [0.0, 1.0, 0.0], TypeError, "`labels` must be integers; got float64"),
        (rl.CrossEntropy(), Z, [True, False, True], TypeError, "`labels` must be integers; got bool"),
        (
            rl.CrossEntropy(),
            Z[:, :1],
            [0, 0, 0],
            ValueError,
            r"C >= 2 classes under softmax .*Logistic\(\)\); got C = 1",
        ),
        (rl.Logistic(), Z, [0, 1, 0], ValueError, r"one output under Logistic\(\) with labels \(n,\); got C = 2"),
        (rl.Logistic(), Z, Z - 0.5, ValueError, "`labels` must be probabilities in 0..1; got -0.5"),
        (rl.Logistic(), Z, Z.astype(int), TypeError, r"`labels` of shape \(n, C\) must be floating point; got int64"),
        (rl.CrossEntropy(), Z, Z + 1.5, ValueError, "`labels` must be probabilities in 0..1; got 1.5"),
        (rl.CrossEntropy(), Z, Z + 0.4, ValueError, r"must be probabilities of sum 1; got sums off by 0.2"),
        (rl.SquaredError(), Z, Z * np.nan, ValueError, "`labels` must be finite targets; got NaN"),
        (rl.Logistic(), Z[:, :1], [0, 1, 2], ValueError, r"`labels` must be in 0..1; got 2"),
        (rl.Logistic(), Z[:, :1], [0.0, 1.0, 1.5], ValueError, "`labels` must be probabilities in 0..1; got 1.5"),
        (rl.SquaredError(), Z, [0, 1, 2], ValueError, r"`labels` must be in 0..1; got 2"),
        (rl.SquaredError(), Z, [0.5, 1.0, 0.0], TypeError, "`labels` must be integers"),
        (rl.SquaredError(), Z[:, :1], [0.5, np.nan, 0.0], ValueError, "`labels` must be finite targets; got NaN"),
    ],
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_bad_outputs_and_labels(loss, outputs, labels, error, message, library):
    labels = np.array(labels)
    if library == "torch":
        outputs, labels = torch.from_numpy(np.asarray(outputs)), torch.from_numpy(labels)
        message = message.replace("got int64", "got torch.int64").replace("got bool", "got torch.bool")
        message = message.replace("got float64", "got torch.float64")
    with pytest.raises(error, match=message):
        loss.check(outputs, labels)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_targets_up_to_their_ends_are_taken(library):
    outputs, ends = library(np.zeros((2, 2))), library(np.array([[0.0, 1.0], [1.0, 0.0]]))
    off = library(np.array([[0.25, 0.7509], [0.5, 0.4991]]))
    for loss in (rl.CrossEntropy(), rl.Logistic(), rl.SquaredError()):
        loss.check(outputs, ends)
        loss.check(outputs, off)
    rl.SquaredError().check(outputs, library(np.array([[-1e300, 1e300], [-2.0, -3.0]])))
    rl.Logistic().check(outputs[:, :1], library(np.array([0.0, 1.0])))
    with pytest.raises(ValueError, match="probabilities of sum 1; got sums off by 0.0011"):
        rl.CrossEntropy().check(outputs, library(np.array([[0.25, 0.7511], [0.5, 0.5]])))
    with pytest.raises(ValueError, match=r"`labels` must be probabilities in 0..1; got -0.001"):
        rl.Logistic().check(outputs, ends - 0.001)


def test_arrays_of_one_library():
    for labels in ([0, 1, 0], None, torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(TypeError, match="must be NumPy arrays or torch tensors, all of one library; got"):
            rl.CrossEntropy().check(Z, labels)


def test_a_regression_has_no_probabilities():
    with pytest.raises(ValueError, match=r"SquaredError\(\) has no probabilities"):
        rl.SquaredError().probabilities(Z)


@pytest.mark.parametrize("num_outputs", [2, 3])
def test_labels_of_a_regression_with_several_outputs_are_classes(num_outputs):
    """From two outputs on; with one they are the targets themselves."""
    outputs = np.arange(4.0 * num_outputs).reshape(4, num_outputs) / 7
    labels = np.array([0, 1, 1, 0])
    wanted = np.zeros((4, num_outputs))
    for i, y in enumerate(labels):
        wanted[i, y] = 1
    loss = rl.SquaredError()
    np.testing.assert_allclose(loss.value(outputs, labels), np.sum((outputs - wanted) ** 2, axis=1) / 2, rtol=1e-12)
    loss.check(outputs, labels)
    loss.check(outputs[:, :1], outputs[:, 0])
    with pytest.raises(ValueError, match="labels"):
        loss.check(outputs, labels + num_outputs - 1)
    targets = np.array([0.5, -2.0, 3.5, 1.0])
    np.testing.assert_allclose(loss.value(outputs[:, :1], targets), (outputs[:, 0] - targets) ** 2 / 2, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_smoothed_labels_are_those_of_torch(smoothing, soft):
    rng = np.random.default_rng(0)
    outputs = 3 * rng.normal(size=(6, 4))
    labels = rng.dirichlet(np.ones(4), 6) if soft else rng.integers(4, size=6)
    z = torch.tensor(outputs, requires_grad=True)
    value = torch.nn.functional.cross_entropy(z, torch.tensor(labels), reduction="none", label_smoothing=smoothing)
    value.sum().backward()
    loss = rl.CrossEntropy(smoothing)
    np.testing.assert_allclose(loss.value(outputs, labels), value.detach(), rtol=1e-12)
    np.testing.assert_allclose(loss.gradient(outputs, labels), z.grad, rtol=1e-10, atol=1e-14)

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rmtland as rl
from rmtland.nets import NetworkLogitGradients
from tests.nets.test_any_network import second

N, C = 11, 4
torch.manual_seed(0)
X = torch.randn(N, 5, dtype=torch.float64)
CLASSES = torch.arange(N) % C
SOFT = torch.softmax(torch.randn(N, C, dtype=torch.float64), 1)
SEVERAL = torch.randint(2, (N, C)).double()
REAL = torch.randn(N, C, dtype=torch.float64)
W = torch.rand(N, dtype=torch.float64) + 0.2
PER_CLASS = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)


def weighted(values):
    return (W * values).sum() / W.sum()


CASES = {
    "cross-entropy": (nn.CrossEntropyLoss(), CLASSES, {}, nn.CrossEntropyLoss()),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), CLASSES, {}, nn.CrossEntropyLoss(label_smoothing=0.2)),
    "class weights": (nn.CrossEntropyLoss(weight=PER_CLASS), CLASSES, {}, nn.CrossEntropyLoss(weight=PER_CLASS)),
    "class weights by hand": (None, CLASSES, {"class_weights": PER_CLASS.tolist()}, nn.CrossEntropyLoss(PER_CLASS)),
    "ignored": (
        nn.CrossEntropyLoss(weight=PER_CLASS, ignore_index=2),
        CLASSES,
        {},
        nn.CrossEntropyLoss(weight=PER_CLASS, ignore_index=2),
    ),
    "ignored by hand": (None, CLASSES, {"ignore_index": 2}, nn.CrossEntropyLoss(ignore_index=2)),
    "soft": (nn.CrossEntropyLoss(), SOFT, {}, nn.CrossEntropyLoss()),
    "soft, smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), SOFT, {}, nn.CrossEntropyLoss(label_smoothing=0.2)),
    "weights": (None, CLASSES, {"weights": W}, lambda z, y: weighted(F.cross_entropy(z, y, reduction="none"))),
    "several labels": (nn.BCEWithLogitsLoss(), SEVERAL, {}, nn.BCEWithLogitsLoss()),
    "several labels, summed": (rl.Logistic(), SEVERAL, {}, lambda z, y: C * nn.BCEWithLogitsLoss()(z, y)),
    "regression": (nn.MSELoss(), REAL, {}, nn.MSELoss()),
    "regression, weights": (
        rl.SquaredError(),
        REAL,
        {"weights": W},
        lambda z, y: weighted((z - y).square().sum(1) / 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_of_torch_and_their_options(name):
    loss, labels, options, reference = CASES[name]
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, C)).double()
    source = NetworkLogitGradients(module, X, labels, loss, batch_size=4, chunk_size=3, **options)
    slope, matrix = second(reference(module(X), labels), list(module.parameters()))
    torch.testing.assert_close(rl.gradient(source), slope)
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), matrix, atol=1e-12)
    gauss = rl.gauss_newton(source).to_dense()
    np.testing.assert_allclose(gauss + rl.nets.logit_curvature(source).to_dense(), matrix, atol=1e-12)
    spectrum = rl.gauss_newton_spectrum(source)
    np.testing.assert_allclose(spectrum.eigenvalues[-5:], np.linalg.eigvalsh(gauss)[-5:], rtol=1e-9)
    assert spectrum.gradient_norm == pytest.approx(float(slope.norm()), rel=1e-9)


class Focal(nn.CrossEntropyLoss):
    """Its parent's options, but another function."""

    def forward(self, outputs, labels):
        own = torch.softmax(outputs, dim=1).gather(1, labels[:, None])
        return -((1 - own) ** 2 * own.log()).mean()


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (nn.MSELoss, TypeError, r"`loss` must be an instance such as MSELoss\(\); got the class MSELoss"),
        (rl.CrossEntropy, TypeError, r"must be an instance such as CrossEntropy\(\); got the class"),
        (lambda z, y: 0, TypeError, "`loss` must be CrossEntropy.*; got <lambda>"),
        (F.cross_entropy, TypeError, "got cross_entropy"),
        ("mse", TypeError, "got 'mse'"),
        (Focal(), TypeError, "got Focal, whose Hessian in the outputs is not known here"),
        (nn.NLLLoss(), TypeError, "got NLLLoss, whose Hessian in the outputs is not known here"),
        (nn.CrossEntropyLoss(reduction="sum"), ValueError, "reduction=\"mean\".*got 'sum' in CrossEntropyLoss"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(C)), ValueError, "neither weight nor pos_weight"),
        (nn.CrossEntropyLoss(torch.ones(C), label_smoothing=0.1), ValueError, "not have both weight and label_smooth"),
    ],
)
def test_losses_that_are_refused(loss, error, message):
    with pytest.raises(error, match=message):
        NetworkLogitGradients(nn.Linear(5, C).double(), X, CLASSES, loss)


def test_class_weights_of_targets_that_are_no_classes_are_refused():
    """Torch weighs each class of a soft target, and divides by N, which no weight of the example does."""
    module, message = nn.Linear(5, C).double(), "`class_weights` must be left out where labels are no classes; .*N, 4"
    for labels, loss in ((SOFT, nn.CrossEntropyLoss(PER_CLASS)), (SEVERAL, nn.BCEWithLogitsLoss())):
        with pytest.raises(ValueError, match=message):
            NetworkLogitGradients(module, X, labels, loss, class_weights=PER_CLASS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": W[:3]}, ValueError, r"`weights` must have shape \(11,\), one per example; got \(3,\)"),
        ({"weights": -W}, ValueError, "`weights` must be finite and >= 0; got -"),
        ({"weights": 0 * W}, ValueError, "`weights` must not all be zero"),
        ({"class_weights": [1.0, 2.0]}, ValueError, r"`class_weights` must have shape \(4,\); got \(2,\)"),
        ({"class_weights": [1.0, -2.0, 1.0, 1.0]}, ValueError, r"`class_weights` must be \(C,\) finite numbers >= 0"),
        ({"ignore_index": 0.5}, TypeError, "`ignore_index` must be an integer; got 0.5"),
        ({"forward": 3}, TypeError, "`forward` must be callable; got int"),
        ({"unpack": lambda b: b}, TypeError, "`unpack` must be left out with arrays"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        NetworkLogitGradients(nn.Linear(5, C).double(), X, CLASSES, **options)


class Bare(nn.Linear):
    def forward(self, x):
        return super().forward(x["image"])


@pytest.mark.parametrize(
    ("loader", "options", "error", "message"),
    [
        ([(X, CLASSES, W)], {}, TypeError, "must yield .* batches; name what is what by `unpack`.*; got 3 items"),
        ([{"x": X}], {}, TypeError, "must yield .* batches; name what is what by `unpack`.*; got dict"),
        ([(X, CLASSES)], {"unpack": lambda b: b[0]}, TypeError, r"`unpack` must return \(inputs, labels\).*got Tensor"),
        ([(X, CLASSES)], {"unpack": 3}, TypeError, "`unpack` must be callable; got int"),
        ([(X, CLASSES)], {"weights": W}, TypeError, "`weights` must be left out with a loader"),
        ([(object(), CLASSES)], {}, TypeError, "`inputs` must be arrays or tensors; got object"),
        ([((X, X[:3]), CLASSES)], {}, ValueError, "`inputs` must hold the same examples in each of their tensors"),
    ],
)
def test_bad_batches(loader, options, error, message):
    with pytest.raises(error, match=message):
        NetworkLogitGradients(nn.Linear(5, C).double(), loader, **options)


def scripted():
    return torch.jit.trace(nn.Linear(5, C).double(), X)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.DataParallel(nn.Linear(5, C)), TypeError, "got DataParallel: pass its `.module`"),
        (lambda: nn.Linear(5, C, device="meta"), ValueError, "must have values; got parameters on the meta device"),
        (lambda: nn.LazyLinear(C), ValueError, "must have its shapes set; got lazy parameters"),
        pytest.param(
            scripted,
            TypeError,
            "must be an eager torch.nn.Module; got a TorchScript module",
            marks=pytest.mark.filterwarnings("ignore::DeprecationWarning"),
        ),
    ],
)
def test_modules_that_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        NetworkLogitGradients(make(), X, CLASSES)

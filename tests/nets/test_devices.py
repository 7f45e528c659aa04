"""Nothing lands on torch's default device, and nothing asks for a float64 that a device does not have."""

import numpy as np
import pytest
import torch
from torch import nn

import rmtland as rl
from rmtland import _arrays
from rmtland.nets import NetworkLogitGradients

torch.manual_seed(0)
X, Y, V = torch.randn(12, 1, 6, 6), torch.arange(12) % 3, np.random.default_rng(0).normal(size=(120, 2))
BATCHES = [(X[:7], Y[:7]), (X[7:], Y[7:])]
DEVICES = ["cpu"]
DEVICES += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


def network(device="cpu"):
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3, device=device),
        nn.BatchNorm2d(2, device=device),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 3, bias=False, device=device),
    )
    return module if device == "mps" else module.double()


def every_call(module, *data, **options):
    """All that `nets` offers on a source, as NumPy arrays."""
    source = NetworkLogitGradients(module, *data, batch_size=5, chunk_size=2, **options)
    v = torch.from_numpy(V[: source.num_parameters]).to(source.prototype)
    results = {"gradient": rl.gradient(source)}
    for name, make in (("hessian", rl.nets.hessian), ("curvature", rl.nets.logit_curvature), ("G", rl.gauss_newton)):
        operator = make(source)
        assert operator.device == source.prototype.device
        results |= {name: operator @ v, f"{name} vector": operator @ v[:, 0], f"{name} matrix": operator.to_dense()}
        results[f"{name} numpy"] = operator @ V[: source.num_parameters]
        results[f"{name} eigenvalues"] = np.linalg.eigvalsh(results[f"{name} matrix"])
    results["spectrum"] = rl.gauss_newton_spectrum(source).eigenvalues
    q = rl.clustering(source)
    results["clustering"] = np.array([q.same_logit, q.same_logit_same_class, q.different_logits])
    scales = rl.logit_scales(source)
    results["scales"], results["means"] = np.array([scales.sigma_z, scales.snr]), scales.mean_gradients
    outputs = rl.output_statistics(source)
    results["outputs"] = np.array([outputs.loss, outputs.accuracy, outputs.entropy])
    results["direct"] = rl.nets.hessian(module, *data) @ v
    return {name: _arrays.to_numpy(value) for name, value in results.items()}


DATA = {
    "tensors": ((X, Y), {}),
    "arrays": ((X.numpy(), Y.numpy()), {}),
    "weights": ((X, Y), {"weights": np.linspace(0.1, 1, 12), "class_weights": [1.0, 2.0, 3.0]}),
    "smoothed, ignored": ((X, Y), {"loss": nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=1)}),
    "loader": ((BATCHES,), {}),
    "streamed": ((BATCHES,), {"memory_budget": 0}),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("device", DEVICES)
def test_every_call_while_the_default_device_holds_no_data(name, device):
    data, options = DATA[name]
    module = network(device)
    expected = every_call(network(), *data, **options)
    torch.set_default_device("meta")
    try:
        results = every_call(module, *data, **options)
    finally:
        torch.set_default_device(None)
    tolerance = 1e-9 if device == "cpu" else 1e-3
    for key, value in results.items():
        np.testing.assert_allclose(value, expected[key], atol=tolerance, rtol=tolerance, err_msg=key)


def test_a_device_without_double_precision_takes_single(monkeypatch):
    module = network().float()
    expected = every_call(module, X, Y)
    monkeypatch.setattr(_arrays, "WITHOUT_DOUBLE", frozenset({"cpu"}))
    asked = []
    original = torch.Tensor.to

    def watched(self, *args, **kwargs):
        moved = original(self, *args, **kwargs)
        asked.append(moved.dtype)
        return moved

    monkeypatch.setattr(torch.Tensor, "to", watched)
    source = NetworkLogitGradients(module, X, Y, batch_size=5)
    gradient = rl.gradient(source)
    product = rl.gauss_newton(source) @ torch.ones(source.num_parameters)
    monkeypatch.undo()
    assert asked
    assert torch.float64 not in asked
    np.testing.assert_allclose(gradient, expected["gradient"], atol=1e-6)
    np.testing.assert_allclose(product, expected["G matrix"].sum(axis=1), atol=1e-5)


def test_double_stays_double_elsewhere():
    assert _arrays.double(torch.ones(2)).dtype == torch.float64
    assert _arrays.double(np.ones(2, dtype=np.float32)).dtype == np.float64

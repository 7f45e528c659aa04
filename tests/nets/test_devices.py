"""Nothing lands on torch's default device, and nothing asks for a float64 that a device does not have."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rmtland as rl
from rmtland import _arrays
from rmtland.nets import NetworkLogitGradients

torch.manual_seed(0)
X, Y, V = torch.randn(12, 1, 6, 6), torch.arange(12) % 3, np.random.default_rng(0).normal(size=(120, 2))
MORE, CLASSES = torch.randn(48, 1, 6, 6), torch.arange(48) % 3
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


def wider_calls(module, folder):
    """Calls that measure networks beyond one source: spectra, records, training, comparisons."""
    source = NetworkLogitGradients(module, X, Y, batch_size=5)
    hessian = rl.nets.hessian(source)
    measured = rl.measure(source, "clustering", "logit_scales", "output_statistics", "gauss_newton_trace")
    layers = rl.measure(source, "gradient", by="parameter_groups")
    results = {
        "trace": measured.gauss_newton_trace,
        "lengths": rl.logit_gradient_lengths(source, classes=[2, 0]).overall,
        "of classes": rl.clustering(source, classes=[2, 0]).same_logit,
        "layers": np.concatenate([_arrays.to_numpy(layer.gradient) for layer in layers.values()]),
        "layer spectra": [s.trace for s in rl.gauss_newton_spectrum(source, by="parameter_groups").values()],
        "decay": rl.gradient(source, weight_decay=0.1),
        "top": rl.top_eigenpairs(hessian, 2, rng=0).eigenvalues,
        "lanczos": rl.lanczos(hessian, 5, rng=0).alpha,
        "density": rl.spectral_density(hessian, rng=0).density,
        "trace estimate": rl.trace_estimate(hessian, num_products=10, rng=0).estimate,
        "norm estimate": rl.frobenius_estimate(hessian, num_products=10, rng=0).estimate,
        "confinement": rl.confinement(hessian, rl.gradient(source), 2).powers,
        "goldilocks": rl.goldilocks_ratio(rl.gauss_newton(source)),
    }
    results["compared"] = (
        rl.compare(source, num_draws=2, rng=0, theory=False).to_xarray().to_array().values
    )  # no torch there
    record = rl.nets.TrainingRecord(folder / "record", module, X, Y, every=1, seed=0)
    rl.nets.train(module, X, Y, epochs=1, batch_size=6, after_step=record.step)
    data = record.dataset().load()
    results |= {f"record {name}": data[name].values for name in data.data_vars if "error" not in name}
    return {name: _arrays.to_numpy(value) for name, value in results.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sigma_")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("calls", ["wider_calls", "calls_with_pairs"])
def test_all_other_calls_while_the_default_device_holds_no_data(calls, device, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    expected, module = globals()[calls](network(), tmp_path / "first"), network(device)
    torch.set_default_device("meta")
    try:
        results = globals()[calls](module, tmp_path / "second")
    finally:
        torch.set_default_device(None)
    if calls == "wider_calls":
        assert len([name for name in expected if name.startswith("record")]) > 5
    tolerance = 1e-6 if device == "cpu" else 1e-2
    for key, value in results.items():
        np.testing.assert_allclose(value, expected[key], atol=tolerance, rtol=tolerance, err_msg=key)


def calls_with_pairs(module, folder):
    """What class means, inner products of all logit gradients, and what is made of both are for."""
    source = NetworkLogitGradients(module, MORE, CLASSES, batch_size=5)
    parts, gram, hessian = rl.hierarchy(source), rl.logit_gradient_gram(source), rl.nets.hessian(source)
    ones = source.prototype.new_ones((source.num_parameters, 2))
    moments, monitor = rl.residual_moments(gram), rl.nets.OutlierMonitor(module, MORE, CLASSES, every=1)
    monitor.step()
    followed = monitor.dataset()
    torch.save(module.state_dict(), folder / "weights.pt")
    checked = rl.nets.measure_checkpoints(
        [folder / "weights.pt"], lambda: module, (MORE, CLASSES), statistics="hierarchy"
    )
    results = {
        "traces": list(parts.traces.values()),
        "streamed A1": rl.hierarchy(source, keep_pairs=False).A1 @ ones,
        "attribution": rl.attribution(parts, rng=0).eigenvalues,
        "one pass": rl.streamed_outliers(source).eigenvalues,
        "two passes": rl.streamed_outliers(source, 2).eigenvalues,
        "from a start": rl.streamed_outliers(source, start=ones).eigenvalues,
        "moments": moments.values,
        "recovered": vars(rl.recover_spectrum(moments, num_draws=2))["eigenvalues"],
        "mean moments": rl.mean_moments(gram).values,
        "kronecker": rl.kronecker_fit(gram).shares,
        "uneven": rl.UnevenGradients.from_source(gram).mean_length,
        "measured law": repr(rl.measured_gradients(gram)) != "",
        "curvature moments": rl.curvature_moments(gram).residual_length,
        "curvature scales": rl.curvature_scales(source).mean_length,
        "restricted": rl.nets.hessian(rl.restrict(source, "0.weight")).to_dense(),
        "monitor": [followed.eigenvalues.values[-1, -1], followed.sharpness.values[-1]],
        "deflated": rl.deflate(hessian, rl.top_eigenpairs(hessian, 2, rng=0)) @ ones,
        "subspace": rl.subspace_iteration(hessian, 1, tolerance=0.1, rng=0).eigenvalues,
        "log density": rl.log_spectral_density(hessian, num_steps=10, rng=0).density,
        "diagonal": rl.diagonal_estimate(hessian, num_products=20, rng=0).estimate,
        "model": rl.LandscapeModel.from_source(source).sigma_c,
        "checkpoints": checked.to_array().values[np.isfinite(checked.to_array().values)],
    }
    return {name: _arrays.to_numpy(value) for name, value in results.items()}


class NoDouble(TorchDispatchMode):
    """Raises where an operation of torch returns float64, as a device without it does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise AssertionError(f"{function} returns float64")
        return result


STATISTICS = {
    "gradient": rl.gradient,
    "G": lambda s: rl.gauss_newton(s) @ torch.ones(s.num_parameters, 2),
    "hessian": lambda s: rl.nets.hessian(s) @ torch.ones(s.num_parameters, 2),
    "curvature": lambda s: rl.nets.logit_curvature(s) @ torch.ones(s.num_parameters),
    "matrix": lambda s: rl.nets.hessian(s).to_dense(),
    "clustering": lambda s: tuple(vars(rl.clustering(s, num_bootstrap=50)).values())[:6],
    "jackknife": lambda s: tuple(vars(rl.clustering(s)).values())[:6],
    "scales": lambda s: [getattr(rl.logit_scales(s), name) for name in ("sigma_z", "sigma_c", "sigma_E")],
    "class means": lambda s: rl.logit_scales(s, class_means=True).sigma_d,
    "outputs": lambda s: tuple(vars(rl.output_statistics(s)).values()),
    "trace": rl.gauss_newton_trace,
    "lengths": lambda s: rl.logit_gradient_lengths(s).overall,
    "by layer": lambda s: [m.gradient.norm() for m in rl.measure(s, "gradient", by="parameter_groups").values()],
}


@pytest.mark.filterwarnings("ignore:sigma_")
@pytest.mark.parametrize("name", STATISTICS)
def test_a_device_without_double_precision(name, monkeypatch):
    statistic, module = STATISTICS[name], network().float()
    if name == "jackknife":
        monkeypatch.setattr("rmtland.logits.clustering.GROUP_BYTES", 1)
    expected = statistic(NetworkLogitGradients(module, X, Y, batch_size=5))
    monkeypatch.setattr(_arrays, "WITHOUT_DOUBLE", frozenset({"cpu"}))
    with NoDouble():
        found = statistic(NetworkLogitGradients(module, X, Y, batch_size=5))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_examples", [3, 12])  # the side of the examples, and that of the parameters
def test_spectra_are_finished_in_double_precision(num_examples, monkeypatch):
    def spectrum():
        return rl.gauss_newton_spectrum(NetworkLogitGradients(network().float(), X[:num_examples], Y[:num_examples]))

    expected = spectrum()
    monkeypatch.setattr(_arrays, "WITHOUT_DOUBLE", frozenset({"cpu"}))
    np.testing.assert_allclose(spectrum().eigenvalues, expected.eigenvalues, atol=1e-5 * expected.eigenvalues[-1])
    monkeypatch.setattr(_arrays, "WITHOUT_DOUBLE", frozenset({"meta"}))
    assert _arrays.where_double_is(X) is X


MAKERS = {"zeros", "ones", "empty", "full", "eye", "arange", "linspace", "tensor", "as_tensor", "scalar_tensor"}
MAKERS |= {"rand", "randn", "randint", "randperm", "normal"}
PACKAGE = Path(rl.__file__).parent
# Networks are made where torch makes them.
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if "architectures" not in p.parts]


def test_no_tensor_is_made_without_a_device():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            makes = isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}
            if makes and "device" not in {keyword.arg for keyword in node.keywords}:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_double_stays_double_elsewhere():
    assert _arrays.double(torch.ones(2)).dtype == torch.float64
    assert _arrays.double(np.ones(2, dtype=np.float32)).dtype == np.float64

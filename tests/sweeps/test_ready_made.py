"""The functions that wings offer for sweeping: what they return is what the wing itself says."""

import dataclasses

import numpy as np
import pytest

import rmtland as rl
from rmtland.ensembles.sweeps import spiked_covariance_cell, spiked_wigner_cell
from rmtland.landscape.sweeps import landscape_cell, theory_cell

from .. import oracles
from ..statistical import assert_mean

SMALL = {"num_examples": 40, "num_classes": 4, "num_parameters": 100}


def test_draws_and_theory_of_the_landscape_share_their_logits():
    cells = [landscape_cell(1.0, 2.0, **SMALL, rng=np.random.default_rng(i)) for i in range(60)]
    for i in range(3):
        theory = theory_cell(1.0, 2.0, **SMALL, rng=np.random.default_rng(i))
        assert {f"theory_{name}": value for name, value in theory.items()}.items() <= cells[i].items()
    model = rl.LandscapeModel.fort_ganguli(**SMALL, sigma_z=1.0, snr=2.0)
    rng = np.random.default_rng(5)
    logits = rl.GivenLogits(*model.logits.draw_logits(40, 4, rng))
    spectrum = dataclasses.replace(model, logits=logits).spectrum(rng)
    assert cells[5]["top_eigenvalue"] == spectrum.eigenvalues[-1]
    assert cells[5]["gradient_power"] == pytest.approx(spectrum.powers[-3:].sum())
    # Paired on the logits, the means agree to the order 1/D; a theory of other logits would scatter ten times as much.
    ratio = [cell["goldilocks_ratio"] / cell["theory_goldilocks_ratio"] for cell in cells]
    assert_mean(ratio, 1.0, bias=0.01, detect=0.1)


@pytest.mark.parametrize("num_parameters", [2, 100])
def test_the_theory_of_the_landscape_is_that_of_its_logits(num_parameters):
    """Of eigenvalues in ascending order, as many directions as there are."""
    sizes = SMALL | {"num_parameters": num_parameters}
    cell = theory_cell(1.0, 2.0, **sizes, rng=np.random.default_rng(5))
    model = rl.LandscapeModel.fort_ganguli(**sizes, sigma_z=1.0, snr=2.0)
    given = rl.GivenLogits(*model.logits.draw_logits(40, 4, np.random.default_rng(5)))
    theory = dataclasses.replace(model, logits=given).theory()
    outliers = theory.outliers()
    assert cell["top_eigenvalue"] == max(outliers)
    assert cell["last_outlier"] == min(outliers)
    assert cell["mean_outlier"] == pytest.approx(sum(outliers) / outliers.size)
    assert cell["gradient_power"] == theory.gradient_power(min(3, num_parameters))
    assert cell["goldilocks_ratio"] == pytest.approx(theory.trace / theory.frobenius)
    assert cell["bulk_edge"] == pytest.approx(theory.bulk_edge, nan_ok=True)


def test_sizes_of_the_landscape_may_be_axes():
    grid = {"num_classes": [2, 5], "num_examples": [20, 30]}
    result = rl.sweep(landscape_cell, grid, 2, fixed={"num_parameters": 50, "sigma_z": 1.0}, workers=1)
    assert (result.status == 1).all()
    assert np.isfinite(result.to_dataarray()).all()


def test_spiked_ensembles_go_to_their_limits():
    def errors(cell, **parameters):
        results = [cell(**parameters, rng=np.random.default_rng(i)) for i in range(40)]
        return {
            name: np.array([r[name] - r[f"theory_{name}"] for r in results]) for name in ("top_eigenvalue", "overlap")
        }

    for found in (errors(spiked_covariance_cell, spike=4.0, ratio=0.5, num_samples=20000),
                  errors(spiked_wigner_cell, spike=2.0, n=20000)):  # fmt: skip
        assert_mean(found["top_eigenvalue"], 0.0, bias=0.002, detect=0.15)
        assert_mean(found["overlap"], 0.0, bias=0.001, detect=0.02)
    below = spiked_covariance_cell(1.2, 0.5, 1000, rng=np.random.default_rng(0))
    assert below["theory_overlap"] == 0
    assert below["theory_top_eigenvalue"] == pytest.approx((1 + np.sqrt(0.5)) ** 2)
    assert spiked_wigner_cell(0.5, rng=np.random.default_rng(0))["theory_top_eigenvalue"] == 2


def test_the_ratio_is_that_of_whole_numbers():
    cell = spiked_covariance_cell(4.0, 0.33, 10, rng=np.random.default_rng(0))
    assert cell["theory_top_eigenvalue"] == pytest.approx(4.0 * (1 + 0.3 / 3.0))
    for num_samples in (1, 5):  # one feature at least
        cell = spiked_covariance_cell(4.0, 0.05, num_samples, rng=np.random.default_rng(0))
        assert cell["theory_top_eigenvalue"] == pytest.approx(4.0 * (1 + 1 / num_samples / 3.0))


@pytest.mark.parametrize(
    ("cell", "parameters", "message"),
    [
        (spiked_covariance_cell, {"spike": 0.5}, "`spike` must be >= 1; got 0.5"),
        (spiked_covariance_cell, {"ratio": 0}, "`ratio` must be > 0; got 0"),
        (spiked_covariance_cell, {"num_samples": 0}, "`num_samples` must be >= 1; got 0"),
        (spiked_wigner_cell, {"spike": -1.0}, "`spike` must be >= 0; got -1.0"),
        (landscape_cell, {"snr": 0.0}, "`snr` must be > 0; got 0.0"),
    ],
)
def test_parameters_out_of_range(cell, parameters, message):
    with pytest.raises(ValueError, match=message):
        cell(**parameters, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 0}, "`width` must be >= 1; got 0"),
        ({"depth": -1}, "`depth` must be >= 0; got -1"),
        ({"num_classes": 11}, "`num_classes` must be >= 2 and <= 10; got 11"),
        ({"num_examples": 10**6}, "`num_examples` must be >= 2 and <= 1797"),
        ({"weight_scale": 0.0}, "`weight_scale` must be > 0; got 0.0"),
    ],
)
def test_networks_out_of_range(parameters, message):
    network_cell = pytest.importorskip("rmtland.nets.sweeps").network_cell
    with pytest.raises(ValueError, match=message):
        network_cell(**parameters, rng=np.random.default_rng(0))


def test_a_network_is_trained_and_measured_on_the_first_classes_alone(monkeypatch):
    torch = pytest.importorskip("torch")
    from tests.nets.networks import jacobian

    digits, rng = rl.nets.load_dataset("digits"), np.random.default_rng(7)
    three = digits.y_train < 3
    x, y, seed = digits.x_train[three], digits.y_train[three], int(rng.integers(2**31))
    module = rl.nets.mlp([64, 4, 3], seed=seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 0.5
    train, threads, inside = rl.nets.train, torch.get_num_threads(), []
    train(module, x, y, epochs=1, seed=seed)
    chosen = np.sort(rng.permutation(len(x))[:20])
    gradients, z = jacobian(module, torch.as_tensor(x[chosen]))
    gradients, z, labels = gradients.numpy(), z.numpy(), y[chosen]
    values, vectors = np.linalg.eigh(oracles.gauss_newton(z, gradients))
    slope = oracles.gradient(z, labels, gradients)
    p = np.array([oracles.softmax(row) for row in z])

    def one_thread(*args, **kwargs):
        inside.append(torch.get_num_threads())
        assert inside == [1]
        train(*args, **kwargs)

    monkeypatch.setattr("rmtland.nets.training.train", one_thread)
    settings = {"width": 4, "num_classes": 3, "weight_scale": 0.5, "depth": 1, "epochs": 1, "num_examples": 20}
    torch.set_num_threads(3)
    try:
        cell = rl.nets.network_cell(**settings, rng=np.random.default_rng(7))
        assert torch.get_num_threads() == 3  # as found
    finally:
        torch.set_num_threads(threads)
    sigma_z, sigma_c, sigma_E, _ = oracles.scales(z, labels, gradients)
    expected = {
        "accuracy": np.mean(z.argmax(axis=1) == labels),
        "loss": -np.log(p[np.arange(20), labels]).mean(),
        "sigma_z": sigma_z,
        "snr": (sigma_c / sigma_E) ** 2,
        "clustering": oracles.q_values(gradients, labels)[0],
        "top_eigenvalue": values[-1],
        "gradient_power": ((vectors[:, -2:].T @ slope) ** 2).sum() / (slope @ slope),
        "goldilocks_ratio": values.sum() / np.linalg.norm(values),
    }
    assert cell == pytest.approx(expected, rel=1e-6)


def test_the_first_classes_of_both_parts_of_a_data_set():
    from rmtland.nets.sweeps import first_classes

    y_train, y_test = np.array([0, 3, 1, 2, 1, 0, 2]), np.array([2, 1, 3, 0])
    whole = rl.nets.Dataset("four", 10.0 * np.arange(7)[:, None], y_train, np.arange(4.0)[:, None], y_test)
    some = first_classes(whole, 2)
    assert some.x_train.ravel().tolist() == [0, 20, 40, 50]
    assert some.x_test.ravel().tolist() == [1, 3]
    assert (some.y_train.tolist(), some.y_test.tolist(), some.num_classes) == ([0, 1, 1, 0], [1, 0], 2)
    assert first_classes(whole, 4) is whole
    for wrong in (1, 5):
        with pytest.raises(ValueError, match=f"`num_classes` must be >= 2 and <= 4; got {wrong}"):
            first_classes(whole, wrong)


@pytest.mark.slow
def test_networks_over_width_classes_and_scale():
    network_cell = pytest.importorskip("rmtland.nets.sweeps").network_cell
    grid = {"width": [4, 8], "num_classes": [2, 3]}
    fixed = {"epochs": 1, "num_examples": 30}
    result = rl.sweep(network_cell, grid, 2, fixed=fixed, workers=1)
    assert (result.status == 1).all()
    assert np.isfinite(result.drop_vars("snr").to_dataarray()).all()  # a small network's residuals may all be dead
    assert result.equals(rl.sweep(network_cell, grid, 2, fixed=fixed, workers=2))
    untrained = rl.sweep(network_cell, {"weight_scale": [0.5, 2.0]}, 1, fixed={**fixed, "epochs": 0}, workers=1)
    assert untrained.sigma_z[1, 0] > 4 * untrained.sigma_z[0, 0]

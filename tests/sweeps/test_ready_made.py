"""The functions that wings offer for sweeping: what they return is what the wing itself says."""

import dataclasses

import numpy as np
import pytest

import rmtland as rl
from rmtland.ensembles.sweeps import spiked_covariance_cell, spiked_wigner_cell
from rmtland.landscape.sweeps import landscape_cell, theory_cell

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


@pytest.mark.slow
def test_networks_over_width_classes_and_scale():
    network_cell = pytest.importorskip("rmtland.nets.sweeps").network_cell
    grid = {"width": [4, 8], "num_classes": [2, 3], "weight_scale": [0.5, 2.0]}
    fixed = {"epochs": 1, "num_examples": 30}
    result = rl.sweep(network_cell, grid, 2, fixed=fixed, workers=1)
    assert (result.status == 1).all()
    assert np.isfinite(result.drop_vars("snr").to_dataarray()).all()  # a small network's residuals may all be dead
    assert result.equals(rl.sweep(network_cell, grid, 2, fixed=fixed, workers=2))
    untrained = rl.sweep(network_cell, {"weight_scale": [0.5, 2.0]}, 1, fixed={**fixed, "epochs": 0}, workers=1)
    assert untrained.sigma_z[1, 0] > 4 * untrained.sigma_z[0, 0]

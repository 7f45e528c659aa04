"""The networks of Papyan's claims: annealing, the choice of a learning rate, spectra where nothing is diagonalised."""

import json

import numpy as np
import pytest

import rmtland as rl
from validation import examples, networks
from validation.papyan import _networks, hierarchy_dynamics

SETTINGS = {"data": "digits", "network": "mlp", "per_class": 10, "scale": "tiny"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(_networks.SCALES, "tiny", ({"digits": 6}, ("mlp",), [10], [0.05, 30.0], [0, 6], 2, 1.0))


def test_the_rate_falls_by_ten_at_one_and_two_thirds(monkeypatch):
    rates = []

    def step(self, _):
        rates.append(self.optimiser.param_groups[0]["lr"])
        return 0.0

    monkeypatch.setattr(rl.nets.Training, "_take_step", step)
    recipe = _networks.recipe("digits", "mlp", 10, "tiny", 0.4)
    x, y, x_test, y_test = examples.split(recipe, 0)
    assert np.bincount(y).tolist() == [10] * 10
    assert len(x_test) == len(y_test) == examples.TEST
    assert not (x_test[:, None] == x[None, :3]).all(axis=(2, 3, 4)).any()
    assert list(networks.epochs(recipe, networks.build(recipe, 0, x), x, y, 0)) == list(range(7))
    per_epoch = len(rates) // 6
    np.testing.assert_allclose(rates[::per_epoch], [0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_the_rate_of_least_test_error_is_taken():
    found = _networks.networks("test.rates", "tiny", np.random.default_rng(0), splits=("test",))["digits"]
    fixed = found.attrs["fixed"]
    rates = (json.loads(fixed) if isinstance(fixed, str) else fixed)["rates"]
    assert json.loads(rates) == {"digits mlp 10": 0.05}  # at 30 training diverges
    assert found.attrs["looks"] == [0, 6]
    assert "train_h" not in found
    assert found.test_h.shape == found.test_h_weights.shape == (1, 1, 2, 2, 682)
    assert found.train_error.shape == (1, 1, 2, 7)


def test_quadratures_stand_for_what_is_not_diagonalised(monkeypatch):
    settings = {**SETTINGS, "rates": json.dumps({"digits mlp 10": 0.05}), "at": "[6]", "splits": "train"}
    exact = _networks.looked_at(**settings, rng=np.random.default_rng(3))
    monkeypatch.setattr(_networks, "DENSE", 10)
    monkeypatch.setattr(_networks, "STEPS", 60)
    rough = _networks.looked_at(**settings, rng=np.random.default_rng(3))
    for name in _networks.MATRICES:
        (axes, nodes), (_, weights) = rough[f"train_{name}"], rough[f"train_{name}_weights"]
        assert axes == ("look", f"train_{name}_node")
        assert np.all(np.diff(nodes[0]) >= 0)
        assert weights[0].sum() == pytest.approx(682, rel=1e-6)
        truth = np.asarray(exact[f"train_{name}"][1][0])
        count = 9 if name != "h" else 1
        np.testing.assert_allclose(nodes[0][::-1][:count], truth[::-1][:count], rtol=1e-3)
        spread = _networks.distance((nodes[0], weights[0]), (truth, np.ones(truth.size)))
        # A single probe; quadrature weights are what makes it near.
        assert spread < 0.6 * np.abs(truth).mean()
        assert _networks.distance((nodes[0], np.ones(nodes[0].size)), (truth, np.ones(truth.size))) > 2 * spread


def test_log_spectra_too(monkeypatch):
    monkeypatch.setattr(_networks, "DENSE", 10)
    monkeypatch.setattr(hierarchy_dynamics, "LOG_STEPS", 100)
    found = hierarchy_dynamics.looked_at(**SETTINGS, rate=0.05, at="[0, 6]", rng=np.random.default_rng(0))
    assert found["weights"][1].sum(axis=1) == pytest.approx(682, rel=1e-6)
    assert found["low_rank"][1].shape == (2, 90)
    assert found["within"][1].shape == (2, 10)

"""The networks of Papyan's claims: annealing, the choice of a learning rate, spectra where nothing is diagonalised."""

import json

import numpy as np
import pytest

import rmtland as rl
from validation import examples, networks, stores
from validation.papyan import _networks, hierarchy_dynamics

SETTINGS = {"data": "digits", "network": "mlp", "per_class": 10, "scale": "tiny"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(_networks.SCALES, "tiny", ({"digits": 6}, ("mlp",), [10], [0.05, 30.0], [0, 6], 2, 1.0))


def test_the_rate_falls_by_ten_at_one_and_two_thirds(monkeypatch):
    rates = []

    def step(self, _):
        rates.append(self.learning_rate)
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
    found = _networks.networks("test.rates", "tiny", np.random.default_rng(0), splits=("test",), curves=True)["digits"]
    fixed = found.attrs["fixed"]
    rates = (json.loads(fixed) if isinstance(fixed, str) else fixed)["rates"]
    assert json.loads(rates) == {"digits mlp 10": 0.05}  # at 30 training diverges
    assert found.attrs["looks"] == [0, 6]
    assert "train_h" not in found
    assert "train_error" not in found
    assert found.test_h.shape == found.test_h_weights.shape == (1, 1, 2, 2, 682)
    assert found.test_error.shape == (1, 1, 2, 7)


TRIED = []


def made_up_error(data, network, per_class, rate, scale, *, rng):
    """As `last_test_error`; of few examples small rates are the best."""
    TRIED.append((str(data), int(per_class), float(rate)))
    return {"error": abs(np.log(rate / 0.05 / per_class)) + 0.01 * rng.random()}


def test_claims_share_the_search_for_a_rate(monkeypatch, tmp_path):
    monkeypatch.setattr(_networks, "last_test_error", made_up_error)
    TRIED.clear()
    with stores.kept_in(tmp_path, 3):
        assert _networks.best_rates("tiny", ["digits"], ["mlp"], [1, 600]) == {
            "digits mlp 1": 0.05,
            "digits mlp 600": 30.0,
        }
        assert len(TRIED) == 4
        # Another claim looks at one size of these, and at one more, of two collections.
        found = _networks.best_rates("tiny", ["mnist", "digits"], ["mlp"], [600, 2])
        assert found == {f"{d} mlp {n}": rate for d in ("mnist", "digits") for n, rate in ((600, 30.0), (2, 0.05))}
    assert sorted(TRIED[4:]) == [
        ("digits", 2, 0.05), ("digits", 2, 30.0), ("mnist", 2, 0.05), ("mnist", 2, 30.0), ("mnist", 600, 0.05),
        ("mnist", 600, 30.0),
    ]  # fmt: skip


def test_a_network_that_learnt_nothing_is_not_the_one_looked_at():
    """At the larger rate training diverges or all logits end up alike; where all do, the claim says so by failing."""
    alive = _networks.last_test_error("digits", "mlp", 10, 0.05, "tiny", rng=np.random.default_rng(0))
    dead = _networks.last_test_error("digits", "mlp", 10, 30.0, "tiny", rng=np.random.default_rng(0))
    assert alive["error"] < 0.8 < dead["error"]


def test_largest_eigenvalues_are_those_that_converged(monkeypatch):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 60))
    operator = rl.SymmetricOperator(lambda v: (a + a.T) @ v, 60, np.zeros(1))
    truth = np.linalg.eigvalsh(a + a.T)[[0, *range(-12, 0)]]
    values, residuals = _networks.largest(operator, 12, 0)
    np.testing.assert_allclose(values, truth)
    assert not residuals.any()
    monkeypatch.setattr(_networks, "DENSE", 10)
    values, residuals = _networks.largest(operator, 12, 0)
    np.testing.assert_allclose(values, truth, rtol=1e-3)
    assert np.all((residuals > 0) & (residuals <= 1e-3 * np.abs(truth) * 1.01))
    monkeypatch.setattr(_networks, "PRODUCTS", 2)
    values, residuals = _networks.largest(operator, 12, 0)
    assert np.isnan(values).any()
    known = np.isfinite(values)
    np.testing.assert_allclose(values[known], truth[known], rtol=1e-3)


def test_the_top_in_place_of_spectra():
    settings = {**SETTINGS, "rates": json.dumps({"digits mlp 10": 0.05}), "at": "[0, 6]", "splits": "train test"}
    whole = _networks.looked_at(**settings, rng=np.random.default_rng(3))
    top = _networks.looked_at(**settings, top=5, rng=np.random.default_rng(3))
    assert set(top) == {name.replace("weights", "residuals") for name in whole}
    for split, name in (("train", "hess"), ("train", "h"), ("test", "g")):
        axes, values = top[f"{split}_{name}"]
        assert axes == top[f"{split}_{name}_residuals"][0] == ("look", f"{split}_{name}_node")
        np.testing.assert_array_equal(values, np.asarray(whole[f"{split}_{name}"][1])[:, [0, -5, -4, -3, -2, -1]])


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
    settings = {**SETTINGS, "rates": json.dumps({"digits mlp 10": 0.05}), "at": "[0, 6]"}
    found = hierarchy_dynamics.looked_at(**settings, rng=np.random.default_rng(0))
    assert found["weights"][1].sum(axis=1) == pytest.approx(682, rel=1e-6)
    assert found["low_rank"][1].shape == (2, 90)
    assert found["within"][1].shape == (2, 10)


def test_a_valley_is_told_from_none():
    rng = np.random.default_rng(0)
    low, high = (10 ** rng.normal(centre, 0.3, 4000) for centre in (-4, -2))
    nodes, weights = np.concatenate([low, high, np.zeros(500)]), np.ones(8500)
    depth = hierarchy_dynamics.valley(nodes, weights, 1e-4, 1e-2)
    # Two normal densities in the middle between them, over the peak of one, smoothed.
    width = 0.3**2 + hierarchy_dynamics.SMOOTHED**2
    assert depth == pytest.approx(2 * np.exp(-0.5 / width), rel=0.5)
    one = 10 ** rng.normal(-3, 0.3, 4000)
    assert hierarchy_dynamics.valley(one, np.ones(4000), 1e-4, 1e-2) > 1
    # Weights count: of a lower bulk of a tenth the peak is a tenth, and the lowest point sqrt(0.1) of what it was.
    weights[:4000] = 0.1
    assert hierarchy_dynamics.valley(nodes, weights, 1e-4, 1e-2) == pytest.approx(10**0.5 * depth, rel=0.3)
    assert np.isnan(hierarchy_dynamics.valley(nodes, weights, 1e-3, 1.5e-3))

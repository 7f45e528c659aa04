"""What a record measures at one moment: exact where that is cheap, else from products, with errors."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import rmtland as rl
from rmtland.nets import TrainingRecord, mlp, moment
from rmtland.spectra import partial
from tests.nets.networks import flat, full_hessian
from tests.nets.records import C, N, data


def test_large_networks_take_the_same_numbers_from_products(tmp_path, monkeypatch):
    module = mlp([16, 12, C], seed=2)
    exact = TrainingRecord(tmp_path / "exact", module, data(), steps=[0]).dataset().load()
    monkeypatch.setattr(moment, "EXACT", 10)
    estimated = TrainingRecord(tmp_path / "estimated", module, data(), steps=[0]).dataset().load()
    assert set(estimated) == set(exact)
    for name in ("hessian", "gauss_newton"):
        # An eigenvalue is off by the square of its residual over a gap, far less than the residual that is its error.
        np.testing.assert_allclose(estimated[f"{name}_eigenvalues"], exact[f"{name}_eigenvalues"], rtol=1e-6)
        np.testing.assert_allclose(estimated[f"{name}_powers"], exact[f"{name}_powers"], rtol=1e-3, atol=1e-8)
        errors = estimated[f"{name}_eigenvalues_error"]
        assert bool((errors > 0).all())
        assert bool((errors < 1e-4 * estimated[f"{name}_eigenvalues"]).all())
        assert bool((exact[f"{name}_eigenvalues_error"] == 0).all())
        for quantity in ("trace", "frobenius_norm", "goldilocks_ratio", "gradient_power"):
            value, error = (estimated[f"{name}_{quantity}{end}"].item() for end in ("", "_error"))
            right = exact[f"{name}_{quantity}"].item()
            assert exact[f"{name}_{quantity}_error"].item() == 0
            if (name, quantity) == ("gauss_newton", "trace"):  # from the lengths of logit gradients, in the one pass
                assert error == 0
                assert value == pytest.approx(right, rel=1e-12)
            else:
                assert 0 < error < 0.3 * right, (name, quantity)
                assert abs(value - right) < 5 * error, (name, quantity)
    # Probes have their own numbers at every step and seed.
    other = TrainingRecord(tmp_path / "other", module, data(), steps=[0], seed=1).dataset().load()
    again = TrainingRecord(tmp_path / "again", module, data(), steps=[0]).dataset().load()
    xr.testing.assert_identical(again.drop_attrs(), estimated.drop_attrs())
    assert not other.hessian_goldilocks_ratio.equals(estimated.hessian_goldilocks_ratio)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_power_of_the_gradient_is_in_all_classes_but_one_however_few_eigenvalues(
    tmp_path, monkeypatch, num_classes
):
    monkeypatch.setattr(moment, "EXACT", 10)
    (x, y), module = data(), mlp([16, 6, num_classes], seed=2)
    y = y % num_classes
    found = TrainingRecord(tmp_path / "record", module, (x, y), steps=[0], statistics="hessian", k=1).dataset().load()
    values, vectors = np.linalg.eigh(full_hessian(module, x, y).numpy())
    loss = torch.nn.functional.cross_entropy(module(x), y)
    slope = flat(torch.autograd.grad(loss, list(module.parameters())), list(module.parameters())).numpy()
    powers = (vectors.T @ slope) ** 2 / (slope @ slope)
    assert found.hessian_eigenvalues.to_numpy().ravel() == pytest.approx(values[-1:], rel=1e-6)
    assert found.hessian_powers.to_numpy().ravel() == pytest.approx(powers[-1:], rel=1e-3)
    assert found.hessian_gradient_power.item() == pytest.approx(powers[-(num_classes - 1) :].sum(), rel=1e-3)
    assert 0 < found.hessian_gradient_power_error.item() < 1e-2


def test_all_but_one_eigenvalue_can_be_asked_for_by_products(tmp_path, monkeypatch):
    module = mlp([16, C], seed=2)
    size = sum(p.numel() for p in module.parameters())
    exact = TrainingRecord(tmp_path / "exact", module, data(), steps=[0], statistics="hessian", k=size)
    monkeypatch.setattr(moment, "EXACT", 10)
    found = TrainingRecord(tmp_path / "all", module, data(), steps=[0], statistics="hessian", k=size)
    values, right = (record.dataset().load().hessian_eigenvalues.to_numpy().ravel() for record in (found, exact))
    assert values.size == right.size == size
    assert exact.dataset().hessian_gradient_power_error.item() == 0
    assert np.isnan(values[0])  # one short of all, as solvers of this kind are
    np.testing.assert_allclose(values[1:], right[1:], atol=1e-6 * right[-1])


def test_the_gauss_newton_matrix_of_a_large_network_is_exact_while_its_rows_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(moment, "EXACT", 10)
    errors = []
    for large, rows in ((1, N * (C - 1)), (1, N * (C - 1) - 1), (10**5, N * (C - 1))):
        monkeypatch.setattr(moment, "LARGE", large)
        monkeypatch.setattr(moment, "EXACT_ROWS", rows)
        path = tmp_path / f"{large} {rows}"
        found = TrainingRecord(path, mlp([16, 12, C]), data(), steps=[0], statistics="gauss_newton").dataset().load()
        errors.append(found.gauss_newton_frobenius_norm_error.item())
    assert errors[0] == 0
    assert min(errors[1:]) > 0


def test_statistics_come_from_one_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(moment, "EXACT", 10)
    passes = []
    chunks = rl.nets.NetworkLogitGradients.chunks

    def counted(source):
        passes.append(source)
        return chunks(source)

    monkeypatch.setattr(rl.nets.NetworkLogitGradients, "chunks", counted)
    names = ["outputs", "logit_scales", "lengths", "clustering"]
    TrainingRecord(tmp_path / "record", mlp([16, 12, C]), data(), steps=[0], statistics=names)
    few = len(passes)
    passes.clear()
    TrainingRecord(tmp_path / "one", mlp([16, 12, C]), data(), steps=[0], statistics=["outputs"])
    assert few == len(passes)


def test_an_eigenvalue_that_does_not_converge_says_so_by_its_error(tmp_path, monkeypatch):
    monkeypatch.setattr(moment, "EXACT", 10)
    module = mlp([16, 12, C], seed=2)
    whole = partial.top_eigenpairs
    few = {"max_products": 5, "basis_size": 8}
    monkeypatch.setattr(partial, "top_eigenpairs", lambda *a, **k: whole(*a, **k | few))
    found = TrainingRecord(tmp_path / "record", module, data(), steps=[0], statistics="hessian").dataset().load()
    values, errors = found.hessian_eigenvalues[0, 0].to_numpy(), found.hessian_eigenvalues_error[0, 0].to_numpy()
    assert errors.max() > 0.01 * abs(values).max()
    assert found.hessian_gradient_power_error.item() > 0.01
    right = np.linalg.eigvalsh(full_hessian(module, *data()).numpy())
    for value, error in zip(values, errors, strict=True):
        assert abs(right - value).min() <= error  # what a residual promises


def test_the_error_of_gradient_power_is_a_bound_and_no_idle_one():
    rng, tightness = np.random.default_rng(0), []
    spectrum = np.array([0.1, 0.2, 0.3, 0.5, 2.0, 3.0, 4.0])
    for trial in range(300):
        turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
        matrix = turn * spectrum @ turn.T
        vector = turn @ (rng.normal(size=7) * np.array([1, 1, 1, 1, 3, 3, 3]) ** (trial % 3))
        vector /= np.linalg.norm(vector)
        found, _ = np.linalg.qr(turn[:, 3:] + 10.0 ** rng.uniform(-6, -1.5) * rng.normal(size=(7, 4)))
        values, inner = np.linalg.eigh(found.T @ matrix @ found)
        found = found @ inner
        residuals = np.linalg.norm(matrix @ found - found * values, axis=0)
        powers = (found.T @ vector) ** 2
        off = abs(powers[-3:].sum() - ((turn[:, -3:].T @ vector) ** 2).sum())
        bound = moment.power_error(powers[-3:].sum(), residuals, values, 3)
        assert off <= bound + 1e-15
        tightness.append(off / bound)
    assert max(tightness) > 0.3
    assert moment.power_error(0.5, np.array([0.0, 3.0, 0.0]), np.array([1.0, 2.0, 3.0]), 2) == 1
    assert np.isnan(moment.power_error(np.nan, residuals, values, 3))


def test_the_error_of_gradient_power_by_hand():
    values, residuals = np.array([-9.0, -7.0, 1.0, 5.0, 9.0]), np.array([0.5, 0.25, 1.0, 0.24, 0.18])
    # The gap is 5 - 1, less what the 1 may be off by; residuals of 0.3 in it are an angle of sine 0.1.
    for power, error in ((0.5, 0.11), (0.2, 0.09), (1.0, 0.01), (1.0 + 1e-9, 0.01)):
        assert moment.power_error(power, residuals, values, 2) == pytest.approx(error, rel=1e-9)
    assert moment.power_error(0.2, 8 * residuals[[0, 0, 1, 3, 4]], values, 2) == 1  # 2.4 in a gap of 2


def test_what_is_measured_is_undisturbed_and_disturbs_nothing():
    module = torch.nn.Linear(2, 2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        with moment.undisturbed(module):
            assert torch.is_grad_enabled()
            assert module(torch.ones(1, 2)).dtype == torch.float32
            torch.rand(5)
        assert not torch.is_grad_enabled()
        assert module(torch.ones(1, 2)).dtype == torch.bfloat16
    assert torch.equal(torch.rand(2), expected)


def test_eigenvalues_that_are_not_there_are_nan_in_front():
    values = np.array([1.0, 2.0, 3.0])
    for count, expected in ((2, [2, 3]), (3, [1, 2, 3]), (5, [np.nan, np.nan, 1, 2, 3])):
        np.testing.assert_array_equal(moment._last(values, count), expected)


@pytest.mark.parametrize(("num_classes", "top"), [(1, 1), (2, 1), (3, 2), (9, 4)])
def test_a_whole_spectrum_has_its_sums_without_error(num_classes, top):
    values, powers = np.array([-2.0, 1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.3, 0.4])
    found = moment._of_spectrum(values, powers, num_classes)
    assert found.gradient_power == pytest.approx(powers[-top:].sum())
    assert found.gradient_power_error == 0
    assert not found.errors.any()
    # tr / |.|_F
    assert found.sums == {"trace": (5.0, 0.0), "frobenius_norm": (5.0, 0.0), "goldilocks_ratio": (1.0, 0.0)}
    named = found.values("x", 5)
    assert named["x_eigenvalues"][0] == ("rank",)
    np.testing.assert_array_equal(named["x_eigenvalues"][1], [np.nan, *values])
    np.testing.assert_array_equal(named["x_powers"][1], [np.nan, *powers])
    np.testing.assert_array_equal(named["x_eigenvalues_error"][1], [np.nan, 0, 0, 0, 0])
    for name, value in {"trace": 5, "frobenius_norm": 5, "gradient_power": powers[-top:].sum()}.items():
        assert named[f"x_{name}"][1] == pytest.approx(value)
        assert named[f"x_{name}_error"][1] == 0


def test_powers_are_shares_of_the_squared_gradient():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    np.testing.assert_allclose(moment.powers_along(turn, turn @ [3, 0, 4, 0]), [0.36, 0, 0.64, 0], atol=1e-12)
    assert np.isnan(moment.powers_along(turn[:, :3], np.zeros(4))).tolist() == [True] * 3


@pytest.mark.parametrize("exact", [4, 6])
def test_the_gauss_newton_matrix_is_diagonalised_where_a_side_is_small(exact, monkeypatch):
    """Rows (C - 1 an example), parameters; of large networks more rows."""
    monkeypatch.setattr(moment, "EXACT", exact)
    monkeypatch.setattr(moment, "EXACT_ROWS", 8)
    monkeypatch.setattr(moment, "LARGE", 20)
    for num_examples, num_classes, num_parameters in itertools.product((1, 2, 3, 4, 5), (2, 3), (4, 5, 6, 7, 19, 20)):
        source = SimpleNamespace(num_examples=num_examples, num_classes=num_classes, num_parameters=num_parameters)
        rows = num_examples * (num_classes - 1)
        small = rows <= exact or num_parameters <= exact or (num_parameters >= 20 and rows <= 8)
        assert moment._is_exact(source) == small


@dataclasses.dataclass
class Found:
    value: float
    matrix: torch.Tensor
    told: str = "no number"
    whether: bool = True


def test_results_are_named_arrays_of_their_numbers():
    """Themselves, or the numbers among their fields or values."""
    matrix = np.arange(6.0).reshape(2, 3)
    for result, expected in (
        (2, {"x": 2.0}), (np.float32(0.5), {"x": 0.5}), (True, {"x": 1.0}), (matrix.astype(int), {"x": matrix}),
        (torch.tensor(matrix).float(), {"x": matrix}),
        ({"a": matrix, "b": "no number", "c": 3}, {"x_a": matrix, "x_c": 3.0}),
        (Found(0.5, torch.tensor(matrix)), {"x_value": 0.5, "x_matrix": matrix, "x_whether": 1.0}),
    ):  # fmt: skip
        found = moment.numbers_of("x", result)
        assert list(found) == list(expected)
        for name, (dims, values) in found.items():
            assert values.dtype == np.float64
            np.testing.assert_array_equal(values, expected[name])
            assert dims == tuple(f"{name}_{axis}" for axis in range(np.ndim(expected[name])))
    for wrong in ("no number", None, {}, {"a": "b"}, Found, np.array(["a"]), np.array([1j])):
        with pytest.raises(TypeError, match=f"must give numbers, .*; got {type(wrong).__name__}"):
            moment.numbers_of("x", wrong)

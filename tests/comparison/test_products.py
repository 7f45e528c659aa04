"""Matrices too large to diagonalise: their top, density and traces by products, with errors."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.comparison import ladder, reporting
from rmtland.comparison.result import QUANTITIES, RUNGS, with_deviation
from rmtland.plots.comparison import plot_stage_spectra


def test_large_matrices_go_through_their_products(monkeypatch):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % 3)
    measured, estimated = ("hessian", "gauss_newton"), ("trace", "frobenius_norm", "goldilocks_ratio")
    exact = rl.compare(source, rungs=measured).stages["network"].rungs
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    monkeypatch.setattr(ladder, "EXACT_ROWS", 10)
    comparison = rl.compare(source, rungs=measured, rng=3)
    for name, rung in comparison.stages["network"].rungs.items():
        assert rung.eigenvalues.shape == (1, 10)
        assert not exact[name].errors
        for quantity in QUANTITIES:
            if quantity not in estimated:
                assert rung.mean(quantity) == pytest.approx(exact[name].mean(quantity), rel=1e-6, nan_ok=True), quantity
        for quantity in estimated:
            error = rung.errors[quantity]
            assert 0 <= error < 0.3 * exact[name].mean(quantity)
            assert abs(rung.mean(quantity) - exact[name].mean(quantity)) <= 4 * error + 1e-9
        assert rung.errors["eigenvalue_1"] == rung.errors["top_eigenvalue"] < 1e-3 * rung.mean("eigenvalue_1")
        cell = comparison.table().loc["goldilocks_ratio", ("network", RUNGS[name])]
        assert cell == with_deviation(rung.mean("goldilocks_ratio"), error)
        stored = comparison.to_dict()["stages"]["network"]["rungs"][name]["quantities"]["goldilocks_ratio"]
        assert stored["error"] == error
    other = rl.compare(source, rungs=measured, rng=4).stages["network"].rungs["hessian"]
    assert other.mean("goldilocks_ratio") != comparison.stages["network"].rungs["hessian"].mean("goldilocks_ratio")


def test_the_errors_of_estimated_ratios_cover_them(monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    matrix = np.diag(np.random.default_rng(0).exponential(size=200))
    exact = np.trace(matrix) / np.linalg.norm(matrix)
    report = reporting.Reporter(3, "ratio")
    scores = []
    for seed in range(60):
        rung = report.operator(rl.SymmetricOperator.from_matrix(matrix), np.ones(200), np.random.default_rng(seed))
        scores.append((rung.mean("goldilocks_ratio") - exact) / rung.errors["goldilocks_ratio"])
    assert 0.6 < np.std(scores) < 1.5
    assert abs(np.mean(scores)) < 0.6


def test_a_hessian_whose_gradient_misses_the_top_eigenvector(monkeypatch):
    # A Krylov space of the gradient never leaves the block that the gradient lies in.
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    matrix = np.diag(np.r_[np.linspace(0.1, 1.0, 400), 10.0])
    slope = np.r_[np.ones(400), 0.0]
    rung = reporting.Reporter(2, "ratio").operator(
        rl.SymmetricOperator.from_matrix(matrix), slope, np.random.default_rng(0)
    )
    assert rung.mean("top_eigenvalue") == pytest.approx(10.0)
    assert rung.powers[0, -1] < 1e-12


def test_the_density_of_a_large_matrix_is_kept_and_drawn(monkeypatch):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % 3)
    exact = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    comparison = rl.compare(source, rungs=["hessian"])
    stage = comparison.stages["network"]
    density = stage.rungs["hessian"].density
    np.testing.assert_allclose(density.outliers, exact[-10:], rtol=1e-6)
    stored = comparison.to_dict()["stages"]["network"]["rungs"]["hessian"]["density"]
    np.testing.assert_array_equal(stored["grid"], density.grid)
    (stairs,) = plot_stage_spectra(stage, comparison.rung_labels).patches
    values, edges, _ = stairs.get_data()
    # The known ones are counted exactly, the others to the noise of two probes: that of the share of 137 directions.
    assert values[edges[:-1] > 0.9 * exact[-10]].sum() == pytest.approx(10, abs=0.5)
    middle = (edges[:-1] > 1e-3) & (edges[:-1] < 0.5 * exact[-10])
    inside = np.count_nonzero((exact > edges[:-1][middle][0]) & (exact < edges[1:][middle][-1]))
    share = inside / 137
    noise = 137 * np.sqrt(share * (1 - share) / 137)  # of the mean of two Rademacher or Gaussian probes
    assert inside > 20
    assert values[middle].sum() == pytest.approx(inside, abs=4 * noise)


def test_products_on_the_way_are_told(network, monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    steps = []
    rl.compare(network[0], network[1:], rungs=["hessian"], progress=lambda *step: steps.append(step))
    start, begun, *on_the_way, last = steps
    assert (start[0], begun[0]) == ("network: clustering and scales", "network: (a) Hessian")
    assert last == ("network: (a) Hessian", 1, 1)
    products = [int(what.removeprefix("network: (a) Hessian, ").removesuffix(" products")) for what, *_ in on_the_way]
    assert products == sorted(products)
    assert products[-1] > 50
    assert {(done, total) for _, done, total in on_the_way} == {(0, 1)}


def test_every_product_is_told_from_the_first(monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    matrix, done, told = np.diag(np.linspace(0.1, 1.0, 60)), [0], []

    def multiply(block):
        done.append(done[-1] + block.shape[1])
        return matrix @ block

    operator = rl.SymmetricOperator(multiply, 60, np.zeros(1))
    tried = len(done)
    reporting.Reporter(2, "ratio").operator(operator, np.ones(60), np.random.default_rng(0), told=told.append)
    assert told == [count - done[tried - 1] for count in done[tried:]]
    assert told[-1] > 40


def test_what_a_theory_expects_up_to_each_outlier():
    """Of four outliers whose eigenvectors hold up to 1/2, 2/3, 3/4 and 4/5 of the squared gradient."""
    theory = SimpleNamespace(
        outliers=lambda: np.array([1.0, 2.0, 4.0, 8.0]), num_parameters=9, bulk_edge=0.5, trace=1.0, frobenius=0.5,
        gradient_power=lambda count: count / (count + 1), count_above=lambda edge: 3.5 + edge,
    )  # fmt: skip
    report = reporting.Reporter(5, "ratio")
    rung = report.theory(theory)
    np.testing.assert_array_equal(rung.eigenvalues, [[1, 2, 4, 8]])
    np.testing.assert_allclose(rung.powers, [[1 / 20, 1 / 12, 1 / 6, 1 / 2]])
    expected = {
        "eigenvalue_1": 8, "eigenvalue_4": 1, "top_eigenvalue": 8, "num_above_edge": 4, "trace": 1,
        "frobenius_norm": 0.5, "goldilocks_ratio": 2, "gradient_power_C_minus_1": 4 / 5, "gradient_power_C": 5 / 6,
    }  # fmt: skip
    for quantity, value in expected.items():
        assert rung.mean(quantity) == pytest.approx(value), quantity
    assert np.isnan(rung.mean("eigenvalue_5"))
    # Two parameters have two directions, which hold what there is.
    theory.num_parameters, theory.bulk_edge, theory.frobenius = 2, np.inf, 0.0
    rung = report.theory(theory)
    np.testing.assert_allclose(rung.powers, [[0, 0, 1 / 6, 1 / 2]], atol=1e-15)
    assert rung.mean("gradient_power_C") == rung.mean("gradient_power_C_minus_1") == pytest.approx(2 / 3)
    assert rung.mean("num_above_edge") == 0  # nothing is beyond infinity
    assert np.isnan(rung.mean("goldilocks_ratio"))


def test_a_spectrum_is_reported_by_hand():
    report = reporting.Reporter(3, "ratio")
    eigenvalues = np.array([0.01, 0.011, 0.012, 0.013, 0.5, 0.8])
    rung = report.spectrum(eigenvalues, np.array([0.01, 0.02, 0.04, 0.08, 0.16, 0.32]))
    norm = math.hypot(*eigenvalues)
    expected = {
        "eigenvalue_1": 0.8, "eigenvalue_2": 0.5, "eigenvalue_3": 0.013, "eigenvalue_6": 0.01, "top_eigenvalue": 0.8,
        "num_outliers": 2, "gradient_power_C_minus_1": 0.48, "gradient_power_C": 0.56, "trace": 1.346,
        "frobenius_norm": norm, "goldilocks_ratio": 1.346 / norm,
    }  # fmt: skip
    for quantity, value in expected.items():
        assert rung.mean(quantity) == pytest.approx(value), quantity
    assert np.isnan(rung.mean("eigenvalue_7"))
    of_top = report.spectrum(eigenvalues, np.ones(6), sums=(20.0, 10.0))
    assert [of_top.mean(name) for name in ("trace", "frobenius_norm", "goldilocks_ratio")] == [20, 10, 2]
    empty = report.spectrum(np.empty(0), np.empty(0))
    assert empty.mean("top_eigenvalue") == empty.mean("trace") == 0
    assert np.isnan(empty.mean("goldilocks_ratio"))
    # Draws of fewer eigenvalues have zeros before them.
    two = report.spectrum(np.array([0.5, 0.7]), np.array([0.1, 0.2]))
    three = report.spectrum(np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.4, 0.3]))
    both = reporting.stacked([two, three])
    np.testing.assert_array_equal(both.eigenvalues, [[0, 0.5, 0.7], [0.1, 0.2, 0.4]])
    np.testing.assert_array_equal(both.powers, [[0, 0.1, 0.2], [0.3, 0.4, 0.3]])
    np.testing.assert_array_equal(both.values["top_eigenvalue"], [0.7, 0.4])
    assert reporting.stacked([two]).num_draws == 1


@pytest.mark.parametrize(
    ("eigenvalues", "num_classes", "outliers"),
    [
        ([0.0, 0.5], 3, math.nan),  # one eigenvalue has no gap
        ([0.4, 0.5], 3, 2),  # fewer than C: nothing but outliers
        ([3e-13, 0.2, 0.5], 4, 2),  # and what is zero to rounding
        ([5e-13, 0.2, 0.5], 4, 2),
        ([6e-13, 0.2, 0.5], 4, 3),
        ([0.1, 0.11, 0.8], 3, 1),
        ([*np.linspace(0.01, 0.011, 30), *np.linspace(0.5, 0.6, 6)], 2, 6),  # up to 3 C
    ],
)
def test_outliers_are_counted_where_there_is_a_bulk(eigenvalues, num_classes, outliers):
    rung = reporting.Reporter(num_classes, "ratio").spectrum(np.array(eigenvalues), np.ones(len(eigenvalues)))
    assert rung.mean("num_outliers") == pytest.approx(outliers, nan_ok=True)


def test_no_more_than_three_outliers_a_class_are_looked_for():
    eigenvalues = np.append(np.linspace(0.01, 0.011, 30), np.linspace(0.5, 0.6, 7))  # seven, for two classes
    rung = reporting.Reporter(2, "ratio").spectrum(eigenvalues, np.ones(37))
    assert rung.mean("num_outliers") < 7
    assert rl.count_outliers(eigenvalues, "ratio", max_outliers=8) == 7


def test_matrices_up_to_the_limit_are_diagonalised(monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 30)
    report = reporting.Reporter(2, "ratio")
    for size, exact in ((30, True), (31, False)):
        operator = rl.SymmetricOperator.from_matrix(np.diag(np.arange(1.0, size + 1)))
        rung = report.operator(operator, np.eye(size)[-1], np.random.default_rng(0))
        assert (not rung.errors) == exact
        assert rung.mean("gradient_power_C_minus_1") == pytest.approx(1)
        still = report.operator(operator, np.zeros(size), np.random.default_rng(0))
        assert still.powers.shape == still.eigenvalues.shape
        assert np.isnan(still.powers).all()  # no gradient has no direction


@pytest.mark.parametrize(
    ("size", "num_classes", "num_products", "count", "half", "fifth", "steps"),
    [
        (100, 2, 200, 7, 100, 40, 30),  # 3 C + 1
        (12, 5, 200, 11, 100, 40, 30),  # all but one
        (100, 5, 40, 12, 20, 8, 6),  # eight products to spare
    ],
)
def test_how_products_are_shared_out(size, num_classes, num_products, count, half, fifth, steps, monkeypatch):
    """Half for the top, a fifth for trace and norm, the rest for the two probes of the density."""
    asked, top = {}, reporting.partial_spectrum

    def overheard(*arguments, **options):
        asked.update(options, found=top(*arguments, **options))
        return asked["found"]

    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    monkeypatch.setattr(reporting, "partial_spectrum", overheard)
    matrix = np.diag(np.linspace(0.5, 1.0, size))
    report = reporting.Reporter(num_classes, "ratio", num_products)
    rung = report.operator(rl.SymmetricOperator.from_matrix(matrix), np.ones(size), np.random.default_rng(0))
    pairs = asked["found"].pairs
    assert rung.eigenvalues.shape == (1, count)
    assert (asked["max_products"], asked["num_probes"]) == (half, fifth)
    assert rung.density.nodes.shape[0] == 2
    assert rung.density.nodes.shape[1] == min(steps, size - rung.density.outliers.size)
    errors = [rung.errors[f"eigenvalue_{i + 1}"] for i in range(min(count, 10))]
    off = [np.linalg.norm(matrix @ v - x * v) for x, v in zip(pairs.eigenvalues, pairs.eigenvectors.T, strict=True)]
    np.testing.assert_allclose(errors, off[::-1][:10], rtol=1e-6, atol=1e-13)
    assert rung.errors["top_eigenvalue"] == errors[0]
    assert rung.density.outliers.size == np.count_nonzero(pairs.converged)  # none where none converged
    assert (num_products > 40) == pairs.converged.any()


def test_products_are_a_budget_that_errors_answer_to(network, monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % 3)
    exact = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())
    found = {}
    for most in (40, 300):
        told = []
        comparison = rl.compare(
            source, rungs=["hessian"], num_products=most, progress=lambda *step, told=told: told.append(step[0])
        )
        spent = [int(what.split(", ")[1].split()[0]) for what in told if what.endswith(" products")]
        assert 0.6 * most < spent[-1] <= most + 5  # and what tries the symmetry
        assert comparison.settings["num_products"] == most
        found[most] = comparison.stages["network"].rungs["hessian"]
    few, many = found[40], found[300]
    assert few.errors["eigenvalue_9"] > 10 * many.errors["eigenvalue_9"]
    for rung in (few, many):
        for i in range(1, 11):
            off = abs(exact - rung.mean(f"eigenvalue_{i}")).min()
            assert off <= rung.errors[f"eigenvalue_{i}"] + 1e-12
    assert many.errors["trace"] < few.errors["trace"]
    # Eigenvalues that did not converge are in the density, and drawn once.
    assert few.density.outliers.size < many.density.outliers.size == 10
    for rung in (few, many):
        (stairs,) = plot_stage_spectra(
            dataclasses.replace(comparison.stages["network"], rungs={"hessian": rung}), RUNGS
        ).patches
        values, edges, _ = stairs.get_data()
        above = edges[:-1] > 0.2 * exact[-1]
        # Two probes count ten eigenvalues with a standard deviation of 3; ten counted twice are too many.
        assert values[above].sum() == pytest.approx(np.count_nonzero(exact > edges[:-1][above][0]), abs=7)

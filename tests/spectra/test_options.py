"""Every keyword of every public function of spectra changes what comes back."""

import dataclasses
import inspect

import numpy as np
import pytest

import rmtland as rl
from tests.spectra.spectra import of_spectrum

SIZE = 120
VALUES = np.array([*np.linspace(-2, 2, SIZE - 4), 5.0, 6.0, -7.0, 8.0])
MATRIX = of_spectrum(VALUES)
TAIL = np.sort((1 - np.arange(200) / 200) ** -0.5) + np.random.default_rng(0).uniform(0, 0.3, 200)
LINE = np.geomspace(1, 100, 40)
START = np.ones(SIZE)
EIGENPAIRS = rl.top_eigenpairs(MATRIX, 2, rng=0)
LAW = {"edge": 2.0, "scale": 0.1, "law": rl.TracyWidom(1)}

# For each keyword: what is given besides, and two values that must not give the same.
OPTIONS = [
    (
        (rl.lanczos, MATRIX, 20),
        {
            "rng": ({}, 0, 1),
            "start": ({"rng": 0}, None, START),
            "reorthogonalize": ({"rng": 0, "keep_basis": False}, True, False),
            "tolerance": ({"rng": 0, "num_steps": 60}, None, 1e-3),
            "time_budget": ({"rng": 0}, None, 1e-9),
            "keep_basis": ({"rng": 0}, True, False),
        },
    ),
    (
        (rl.top_eigenpairs, MATRIX, 3),
        {
            "which": ({"rng": 0}, "largest", "magnitude"),
            "tolerance": ({"rng": 0}, 1e-3, 1e-10),
            "max_products": ({"rng": 0}, 15, 300),
            "rng": ({}, 0, 1),
            "start": ({"rng": 0}, None, START),
            "method": ({"rng": 0}, "lanczos", "arpack"),
            "basis_size": ({"rng": 0}, 10, 40),
            "check_products": ({"rng": 0}, 0, 6),
        },
    ),
    (
        (rl.subspace_iteration, MATRIX, 2),
        {
            "tolerance": ({"rng": 0}, 1e-2, 1e-8),
            "max_products": ({"rng": 0}, 30, 3000),
            "rng": ({}, 0, 1),
            "start": ({"rng": 0}, None, np.eye(SIZE, 10)),
            "block_size": ({"rng": 0}, 3, 20),
        },
    ),
    (
        (rl.spectral_density, MATRIX),
        {
            "num_probes": ({"rng": 0}, 1, 3),
            "num_steps": ({"rng": 0}, 10, 30),
            "num_points": ({"rng": 0}, 100, 200),
            "kappa": ({"rng": 0, "num_steps": 20}, 2.0, 6.0),
            "grid": ({"rng": 0}, None, np.linspace(-3, 3, 7)),
            "bounds": ({"rng": 0}, None, (-20.0, 20.0)),
            "margin": ({"rng": 0}, 0.05, 0.5),
            "method": ({"rng": 0, "num_steps": 20}, "lanczos", "kpm"),
            "deflate": ({"rng": 0, "num_steps": 20}, 0, EIGENPAIRS),
            "reorthogonalize": ({"rng": 0, "num_steps": 100}, True, False),
            "rng": ({}, 0, 1),
        },
    ),
    (
        (rl.log_spectral_density, MATRIX),
        {
            "num_probes": ({"rng": 0}, 1, 3),
            "num_steps": ({"rng": 0}, 10, 30),
            "num_points": ({"rng": 0}, 100, 200),
            "kappa": ({"rng": 0, "num_steps": 20}, 2.0, 6.0),
            "epsilon": ({"rng": 0}, 1e-6, 1e-2),
            "deflate": ({"rng": 0, "num_steps": 20}, 0, 2),
            "reorthogonalize": ({"rng": 0, "num_steps": 100}, True, False),
            "rng": ({}, 0, 1),
        },
    ),
    (
        (rl.trace_estimate, MATRIX),
        {
            "method": ({"rng": 0, "num_products": 30}, "hutch++", "xtrace"),
            "num_products": ({"rng": 0}, 30, 60),
            "tolerance": ({"rng": 0, "num_products": 100}, 0.3, 1e-3),
            "rng": ({"num_products": 30}, 0, 1),
        },
    ),
    (
        (rl.frobenius_estimate, MATRIX),
        {
            "method": ({"rng": 0, "num_products": 30}, "hutch++", "hutchinson"),
            "num_products": ({"rng": 0}, 30, 60),
            "tolerance": ({"rng": 0, "num_products": 100}, 0.3, 1e-3),
            "rng": ({"num_products": 30}, 0, 1),
        },
    ),
    ((rl.diagonal_estimate, MATRIX), {"num_products": ({"rng": 0}, 30, 60), "rng": ({"num_products": 30}, 0, 1)}),
    (
        (rl.goldilocks_ratio, rl.SymmetricOperator.from_matrix(MATRIX)),
        {
            "num_products": ({"rng": 0}, 30, 60),
            "rng": ({"num_products": 30}, 0, 1),
        },
    ),
    (
        (rl.count_outliers, VALUES),
        {
            "method": ({"edge": None}, "gap", "ratio"),
            "max_outliers": ({}, 1, 10),
            "edge": ({"method": "edge"}, 1.0, 7.0),
            "scale": (LAW | {"method": "edge"}, 0.1, 3.0),
            "law": (LAW | {"method": "edge", "scale": 3.0}, rl.TracyWidom(1), rl.TracyWidom(4)),
            "alpha": (LAW | {"method": "edge"}, 0.01, 0.5),
            "residuals": ({}, np.zeros(SIZE), np.full(SIZE, 3.0)),
        },
    ),
    (
        (rl.fit_power_law, TAIL),
        {
            "sign": ({"rng": 0, "eigenvalues": np.append(TAIL, -2 * TAIL), "num_bootstrap": 0}, "positive", "negative"),
            "xmin": ({"rng": 0, "num_bootstrap": 0}, 1.2, 1.5),
            "num_bootstrap": ({"rng": 0}, 0, 7),
            "bins_per_decade": ({"num_bootstrap": 0}, 5, 20),
            "rng": ({"num_bootstrap": 40}, 0, 1),
        },
    ),
    (
        (rl.power_law_line, LINE, LINE**-2.5 + 0.01 * np.sin(LINE) ** 2),
        {
            "xmin": ({}, None, 3.0),
            "xmax": ({}, None, 30.0),
        },
    ),
]
ELSEWHERE = {"checkpoint", "checkpoint_interval"}  # test_lanczos_checkpoint.py
CASES = [(call, name, case) for call, table in OPTIONS for name, case in table.items()]


def outcome(function, *arguments, **options):
    """All that comes back, in comparable pieces; of an error its message."""
    named = dict(zip(inspect.signature(function).parameters, arguments, strict=False))
    try:
        result = function(**named | options)
    except ValueError as error:
        return [str(error)]
    if dataclasses.is_dataclass(result):
        return [getattr(result, field.name) for field in dataclasses.fields(result)]
    return [result, *vars(result).values()]


def same(one, other):
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (np.isnan(one) and np.isnan(other))
    return type(one) is type(other) and one == other


@pytest.mark.filterwarnings("ignore:.*did not converge:RuntimeWarning")
@pytest.mark.parametrize(("call", "name", "case"), CASES, ids=[f"{c[0].__name__}-{n}" for c, n, _ in CASES])
def test_the_option_acts(call, name, case):
    besides, first, second = case
    one, again, other = (outcome(*call, **besides | {name: value}) for value in (first, first, second))
    assert all(same(*pair) for pair in zip(one, again, strict=True))
    assert len(one) != len(other) or not all(same(*pair) for pair in zip(one, other, strict=True))


def test_every_option_is_in_the_table():
    for call, table in OPTIONS:
        parameters = list(inspect.signature(call[0]).parameters)[len(call) - 1 :]
        assert set(parameters) - ELSEWHERE - {"progress"} == set(table), call[0].__name__


@pytest.mark.parametrize(
    "call",
    [call for call, _ in OPTIONS if "progress" in inspect.signature(call[0]).parameters],
    ids=lambda call: call[0].__name__,
)
def test_progress_shows_on_a_terminal_only(call, capsys, monkeypatch):
    outcome(*call, rng=0, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    outcome(*call, rng=0, progress=True)
    assert capsys.readouterr().err
    outcome(*call, rng=0)
    assert capsys.readouterr().err == ""

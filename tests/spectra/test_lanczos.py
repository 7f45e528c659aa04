import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import aslinearoperator

import rmtland as rl
from rmtland import _arguments
from rmtland.spectra import lanczos as module
from tests.spectra.spectra import cast, epsilon, every_kind, is_of_kind, numpy, of_spectrum

RANDOM = np.random.default_rng(3).normal(size=120)


def tridiagonal(result):
    return np.diag(result.alpha) + np.diag(result.beta[:-1], 1) + np.diag(result.beta[:-1], -1)


def assert_relation(matrix, result, allowed):
    """A Q = Q T + r e_m^T and Q^T Q = 1."""
    basis = numpy(result.basis).T
    defect = matrix @ basis - basis @ tridiagonal(result)
    defect[:, -1] -= numpy(result.residual_vector)
    size = np.abs(np.linalg.eigvalsh(matrix)).max()
    assert np.abs(defect).max() <= allowed * size
    assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() <= allowed
    assert np.abs(basis.T @ numpy(result.residual_vector)).max() <= allowed * size
    np.testing.assert_allclose(np.linalg.norm(numpy(result.residual_vector)), result.beta[-1], rtol=allowed, atol=0)


@every_kind
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_the_relation_holds_at_any_scale(kind, scale):
    matrix = scale * of_spectrum(RANDOM)
    result = rl.lanczos(cast(matrix, kind), 40, rng=1)
    assert (result.alpha.shape, result.beta.shape, result.num_products) == ((40,), (40,), 40)
    assert result.alpha.dtype == result.beta.dtype == np.float64
    assert is_of_kind(result.basis, kind)
    assert is_of_kind(result.residual_vector, kind)
    assert (result.restarts.size, result.invariant, result.stopped_by) == (0, False, "steps")
    assert_relation(numpy(cast(matrix, kind)), result, 30 * epsilon(kind))


SPECTRA = st.one_of(
    st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), min_size=1, max_size=30),  # few, often degenerate, often low rank
    st.lists(st.sampled_from([1.0, 1.0 + 1e-9, 1.0 + 2e-9, 5.0]), min_size=1, max_size=30),  # clustered
)


@given(SPECTRA, st.integers(1, 40), st.integers(0, 5))
def test_the_relation_holds_for_any_spectrum(eigenvalues, num_steps, seed):
    matrix = of_spectrum(eigenvalues)
    result = rl.lanczos(matrix, num_steps, rng=seed)
    size = min(num_steps, len(eigenvalues))
    assert result.alpha.size == result.num_products == size
    assert_relation(matrix, result, 1e-13)
    if size == len(eigenvalues):  # a complete basis, whatever breakdowns there were
        assert result.invariant
        assert result.stopped_by == "exhausted"
        np.testing.assert_allclose(
            result.ritz_values, np.sort(eigenvalues), atol=1e-13 * max(map(abs, eigenvalues)) + 1e-300
        )


@every_kind
def test_quadrature_is_exact_to_its_degree_and_no_further(kind):
    matrix = of_spectrum(RANDOM[:50] / 3)
    start = np.random.default_rng(4).normal(size=50)
    values, vectors = np.linalg.eigh(matrix)
    masses = (vectors.T @ start) ** 2 / (start @ start)
    result = rl.lanczos(cast(matrix, kind), 5, start=start)
    errors = [abs(result.weights @ result.nodes**p - masses @ values**p) for p in range(12)]
    assert max(errors[:10]) < 20 * epsilon(kind)
    assert errors[10] > 1e-4
    np.testing.assert_allclose(result.weights.sum(), 1, rtol=1e-14)
    assert np.all(np.diff(result.nodes) > 0)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_ritz_residuals_are_those_of_ritz_vectors(reorthogonalize):
    matrix = of_spectrum(RANDOM)
    result = rl.lanczos(matrix, 25, rng=2, reorthogonalize=reorthogonalize, keep_basis=True)
    values, vectors = np.linalg.eigh(tridiagonal(result))
    ritz_vectors = result.basis.T @ vectors
    np.testing.assert_allclose(result.ritz_values, values, atol=1e-13)
    measured = np.linalg.norm(matrix @ ritz_vectors - ritz_vectors * values, axis=0)
    np.testing.assert_allclose(result.ritz_residuals, measured, atol=1e-8 if not reorthogonalize else 1e-13)
    assert measured[-1] < 0.01 < measured[10]
    nearest = np.abs(values[:, None] - np.linalg.eigvalsh(matrix)).min(axis=1)
    assert np.all(nearest <= result.ritz_residuals + 1e-12)


def test_both_ways_agree_before_rounding_matters():
    matrix = of_spectrum(RANDOM)
    full, short = (rl.lanczos(matrix, 20, rng=5, reorthogonalize=full) for full in (True, False))
    np.testing.assert_allclose(short.alpha, full.alpha, atol=1e-10)
    np.testing.assert_allclose(short.beta, full.beta, rtol=1e-9)
    np.testing.assert_allclose(short.residual_vector, full.residual_vector, atol=1e-9)
    assert short.basis is None


def test_without_reorthogonalisation_come_ghosts_whose_weights_add_up():
    matrix = of_spectrum([5.0, 4.0, 3.0, *np.linspace(0, 1, 97)])
    start = np.ones(100)
    short = rl.lanczos(matrix, 150, start=start, reorthogonalize=False)
    assert short.alpha.size == 150  # more steps than dimensions, as Papyan takes
    assert np.count_nonzero(np.abs(short.ritz_values - 5) < 1e-9) > 1
    full = rl.lanczos(matrix, 150, start=start)
    assert full.alpha.size == 100
    assert np.count_nonzero(np.abs(full.ritz_values - 5) < 1e-9) == 1
    vectors = np.linalg.eigh(matrix)[1]
    mass = (vectors[:, -1] @ start) ** 2 / 100
    for result in (short, full):
        np.testing.assert_allclose(result.weights[np.abs(result.nodes - 5) < 1e-9].sum(), mass, rtol=1e-9)


@every_kind
@pytest.mark.parametrize(
    ("eigenvalues", "distinct"),
    [([1.0] * 20, 1), ([0.0] * 20, 1), ([-3.0] * 20, 1), ([3.0, 1.0] + [0.0] * 18, 3), ([2.0] * 10 + [-2.0] * 10, 2)],
)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_breakdowns_restart_with_a_basis_and_end_without(kind, eigenvalues, distinct, scale):
    matrix = cast(scale * of_spectrum(eigenvalues), kind)
    full = rl.lanczos(matrix, 10, rng=0)
    assert full.alpha.size == 10
    np.testing.assert_array_equal(np.flatnonzero(full.beta == 0)[: full.restarts.size] + 1, full.restarts)
    assert full.restarts[0] == full.nodes.size == distinct
    assert_relation(numpy(matrix), full, 30 * epsilon(kind)) if any(eigenvalues) else None
    short = rl.lanczos(matrix, 10, rng=0, reorthogonalize=False)
    assert (short.alpha.size, short.invariant, short.stopped_by) == (distinct, True, "exhausted")
    for result in (full, short):
        np.testing.assert_allclose(result.nodes / scale, np.unique(eigenvalues), atol=30 * epsilon(kind))
    np.testing.assert_allclose(full.weights, short.weights, rtol=1e-4)


def test_a_network_frozen_to_1e_minus_170_is_no_breakdown():
    matrix = of_spectrum(RANDOM)
    ordinary, tiny = rl.lanczos(matrix, 12, rng=1), rl.lanczos(1e-170 * matrix, 12, rng=1)
    np.testing.assert_allclose(tiny.alpha * 1e170, ordinary.alpha, atol=1e-12)
    np.testing.assert_allclose(tiny.beta * 1e170, ordinary.beta, rtol=1e-12)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_coefficients_of_float32_vectors_are_summed_in_float64(reorthogonalize):
    # A diagonal of ones and halves and a constant start: alpha is their mean, which a float32 sum of 10^6 terms misses.
    diagonal = np.tile(np.array([1.0, 0.5], dtype=np.float32), 500_000)
    operator = rl.SymmetricOperator(lambda v: diagonal[:, None] * v, diagonal.size, diagonal)
    result = rl.lanczos(operator, 2, start=np.ones(diagonal.size), reorthogonalize=reorthogonalize)
    np.testing.assert_allclose(result.alpha, 0.75, rtol=1e-7)
    np.testing.assert_allclose(result.beta[0], 0.25, rtol=1e-7)


def test_the_seed_and_the_start_decide():
    matrix = of_spectrum(RANDOM)
    first, again, other = (rl.lanczos(matrix, 5, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.alpha, again.alpha)
    assert not np.allclose(first.alpha, other.alpha)
    in_torch = rl.lanczos(torch.tensor(matrix), 5, rng=1)
    np.testing.assert_allclose(in_torch.alpha, first.alpha, rtol=1e-12)
    scaled = rl.lanczos(matrix, 5, start=7 * first.basis[0])
    np.testing.assert_allclose(scaled.alpha, first.alpha, rtol=1e-12)


def test_the_start_is_left_alone_and_may_be_of_the_other_library():
    start = np.full(120, 2.0)
    for reorthogonalize in (True, False):
        result = rl.lanczos(torch.tensor(of_spectrum(RANDOM)), 3, start=start, reorthogonalize=reorthogonalize)
        np.testing.assert_array_equal(start, 2.0)
        assert isinstance(result.residual_vector, torch.Tensor)


def test_a_product_that_is_its_operand_and_one_with_a_graph_do_no_harm():
    same = rl.SymmetricOperator(lambda v: v, 8, np.zeros(0))
    np.testing.assert_allclose(rl.lanczos(same, 3, rng=0).alpha, 1)
    weights = torch.nn.Parameter(torch.tensor(of_spectrum(RANDOM[:8])))
    result = rl.lanczos(weights, 3, rng=0)
    assert not result.basis.requires_grad
    assert weights.grad is None


def test_half_precision_operators_get_vectors_in_single():
    matrix = torch.tensor(of_spectrum([4.0, 3.0, *np.linspace(-1, 1, 38)]), dtype=torch.bfloat16)
    result = rl.lanczos(matrix, 15, rng=0)
    assert result.basis.dtype == torch.float32
    np.testing.assert_allclose(result.ritz_values[-1], 4, rtol=0.02)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_a_residual_tolerance_stops(reorthogonalize):
    matrix = of_spectrum([10.0, -8.0, *np.linspace(-1, 1, 198)])
    result = rl.lanczos(matrix, 100, rng=0, tolerance=1e-6, reorthogonalize=reorthogonalize)
    assert result.stopped_by == "tolerance"
    assert 5 < result.num_products < 30
    assert max(result.ritz_residuals[0], result.ritz_residuals[-1]) <= 1e-5
    looser = rl.lanczos(matrix, 100, rng=0, tolerance=1e-2, reorthogonalize=reorthogonalize)
    assert looser.num_products < result.num_products
    np.testing.assert_array_equal(looser.alpha, result.alpha[: looser.num_products])


@pytest.mark.parametrize("extreme", [10.0, -10.0])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3, 1e-4])
def test_it_stops_at_the_first_step_within_the_tolerance_of_the_larger_modulus(extreme, tolerance):
    matrix = of_spectrum([extreme, *np.linspace(-1, 1, 29)])
    start = np.random.default_rng(0).normal(size=30)
    found = rl.lanczos(matrix, 30, start=start, tolerance=tolerance)
    converged = []
    for size in range(2, 20):  # where every step is checked
        run = rl.lanczos(matrix, size, start=start)
        values, vectors = np.linalg.eigh(tridiagonal(run))
        residuals = run.beta[-1] * np.abs(vectors[-1])
        converged.append(max(residuals[0], residuals[-1]) <= tolerance * np.abs(values).max())
    assert found.num_products == 2 + converged.index(True)


def test_checks_of_the_tolerance_are_a_twentieth_of_the_steps_apart(monkeypatch):
    checked = []
    monkeypatch.setattr(module.Recurrence, "ends_converged", lambda run, tolerance: checked.append(run.size))
    rl.lanczos(of_spectrum(RANDOM), 65, rng=0, tolerance=0.1)
    expected = [*range(2, 20), *range(20, 40, 2), *range(40, 60, 3), *range(61, 66, 4)]
    assert checked == expected


def test_a_time_budget_stops_after_the_step_that_passes_it(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    result = rl.lanczos(of_spectrum(RANDOM), 50, rng=0, time_budget=3.5)
    assert result.stopped_by == "time"
    assert result.num_products == 4
    np.testing.assert_array_equal(result.alpha, rl.lanczos(of_spectrum(RANDOM), 4, rng=0).alpha)


def test_keep_basis_acts():
    matrix = of_spectrum(RANDOM)
    assert rl.lanczos(matrix, 4, rng=0, keep_basis=False).basis is None
    kept = rl.lanczos(matrix, 4, rng=0, reorthogonalize=False, keep_basis=True)
    assert kept.basis.shape == (4, 120)
    np.testing.assert_array_equal(kept.alpha, rl.lanczos(matrix, 4, rng=0, reorthogonalize=False).alpha)


def test_scipy_operators_are_taken():
    matrix = of_spectrum(RANDOM)
    expected = rl.lanczos(matrix, 6, rng=0).alpha
    for operator in (
        aslinearoperator(matrix),
        scipy.sparse.csr_array(matrix),
        rl.SymmetricOperator.from_matrix(matrix),
    ):
        np.testing.assert_allclose(rl.lanczos(operator, 6, rng=0).alpha, expected, rtol=1e-12)


def test_progress_shows_on_a_terminal_only(capsys, monkeypatch):
    rl.lanczos(np.eye(3), 2, rng=0, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    rl.lanczos(of_spectrum(RANDOM), 20, rng=0, progress=True)
    shown = capsys.readouterr().err
    assert "lanczos" in shown
    assert "20/20" in shown
    assert shown.endswith("\x1b[1A\x1b[2K")  # its line is taken back
    rl.lanczos(np.eye(3), 2, rng=0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_operator_that_is_not_symmetric_is_named(reorthogonalize, dtype):
    lopsided = np.random.default_rng(0).normal(size=(500, 500)).astype(dtype)
    operator = rl.SymmetricOperator(lambda v: lopsided @ v, 500, lopsided)
    with pytest.raises(ValueError, match=r"`operator` must be symmetric; got p\^T A q = .*, q\^T A p = "):
        rl.lanczos(operator, 8, rng=0, reorthogonalize=reorthogonalize)
    slightly = of_spectrum(np.linspace(-1, 1, 500)).astype(dtype)
    slightly[np.triu_indices(500, 1)] *= dtype(1.01)
    with pytest.raises(ValueError, match="must be symmetric"):
        rl.lanczos(
            rl.SymmetricOperator(lambda v: slightly @ v, 500, slightly), 8, rng=0, reorthogonalize=reorthogonalize
        )


@given(
    st.sampled_from(
        [[0.0, 1.0, 1.0], [0.0, 1.0], [5.0] * 6 + [0.0], [1.0, 1.0, 2.0, 2.0, 3.0], [*np.linspace(0, 1, 30)]]
    ),
    st.integers(0, 99),
    st.floats(0, 16),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([1.0, 1e-12, 1e12]),
    st.booleans(),
)
def test_a_start_next_to_an_eigenvector_is_no_asymmetry(eigenvalues, seed, digits, dtype, scale, reorthogonalize):
    matrix = (scale * of_spectrum(eigenvalues, seed)).astype(dtype)
    random = np.random.default_rng(seed)
    vector = np.linalg.eigh(matrix.astype(float))[1][:, random.integers(len(eigenvalues))]
    start = vector + 10.0**-digits * random.normal(size=vector.size)
    result = rl.lanczos(matrix, 10, start=start, reorthogonalize=reorthogonalize, rng=seed)
    error = 100 * np.finfo(dtype).eps * scale * max(eigenvalues)
    assert scale * min(eigenvalues) - error <= result.nodes[0]
    assert result.nodes[-1] <= scale * max(eigenvalues) + error
    mean = start @ matrix.astype(float) @ start / (start @ start)
    np.testing.assert_allclose(result.weights @ result.nodes, mean, atol=error)


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("weight", [1e-4, 1e-5])
def test_of_a_deflated_operator_rounding_is_that_of_what_was_taken_out(reorthogonalize, weight):
    matrix = of_spectrum([1.0, 0.9, 0.8, *(weight * np.linspace(-1, 1, 197))]).astype(np.float32)
    values, vectors = np.linalg.eigh(matrix.astype(float))
    operator = rl.deflate(matrix, (values[-3:], vectors[:, -3:]))
    assert operator.rounding_scale == pytest.approx(1.0, rel=1e-6)
    for derived, scale in (
        (operator, 1.0),
        (-3 * operator, 3.0),
        (operator / 2, 0.5),
        (operator + operator, 2.0),
        (operator.shifted(0.0).counted(), 1.0),
        (operator.shifted(2.0), 3.0),
    ):
        assert derived.rounding_scale == pytest.approx(scale, rel=1e-6)
        rl.lanczos(derived, 20, rng=0, reorthogonalize=reorthogonalize)
    found = rl.lanczos(operator, 40, rng=0, reorthogonalize=reorthogonalize)
    np.testing.assert_allclose(found.ritz_values[[0, -1]], [-weight, weight], atol=0.03 * weight + 1e-6)
    pairs = rl.top_eigenpairs(operator, 2, rng=0)
    assert np.all(pairs.residuals >= np.finfo(np.float32).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_underflows_in_single_precision_shows_no_asymmetry(dtype):
    """Of a network that has learnt nothing; the operator may say that it computes in double precision."""
    matrix = (1e-43 * np.random.default_rng(0).normal(size=(60, 60))).astype(np.float32)
    operator = rl.SymmetricOperator(lambda v: ((matrix + matrix.T) @ v.astype(np.float32)).astype(dtype), 60,
                                    np.zeros(1, dtype))  # fmt: skip
    rl.lanczos(operator, 10, rng=0)


def test_a_deflated_operator_that_is_not_symmetric_is_still_named():
    lopsided = np.random.default_rng(0).normal(size=(200, 200)) / 200**0.5
    vector = np.eye(200)[:, :1]
    operator = rl.deflate(rl.SymmetricOperator(lambda v: lopsided @ v, 200, lopsided), (np.array([20.0]), vector))
    for reorthogonalize in (True, False):
        with pytest.raises(ValueError, match="must be symmetric"):
            rl.lanczos(operator, 8, rng=0, reorthogonalize=reorthogonalize)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_products_that_are_not_finite_are_named(bad, step, reorthogonalize):
    matrix = of_spectrum(RANDOM)
    calls = []

    def multiply(block):
        calls.append(1)
        product = matrix @ block
        if len(calls) == step:
            product[3] = bad
        return product

    operator = rl.SymmetricOperator(multiply, 120, matrix)
    with pytest.raises(ValueError, match=f"`operator` must give finite products; got NaN .* in product {step}"):
        rl.lanczos(operator, 10, rng=0, reorthogonalize=reorthogonalize)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"operator": np.zeros((2, 3))}, ValueError, r"must be square; got shape \(2, 3\)"),
        ({"operator": np.array([[0.0, 1.0], [0.0, 0.0]])}, ValueError, "must be symmetric"),
        ({"operator": "A"}, TypeError, "`operator` must be a SymmetricOperator, an array, or a SciPy .*; got str"),
        ({"operator": np.zeros((0, 0))}, ValueError, "`operator` must have a dimension >= 1; got 0"),
        (
            {"operator": rl.SymmetricOperator(lambda v: v, 3, np.zeros(0, dtype=int))},
            TypeError,
            "`operator` must work in a real floating dtype; got int64",
        ),
        ({"num_steps": 0}, ValueError, "`num_steps` must be >= 1; got 0"),
        ({"num_steps": 2.5}, TypeError, "`num_steps` must be an integer; got 2.5"),
        ({"start": np.zeros(3)}, ValueError, "`start` must not be zero"),
        ({"start": np.ones(4)}, ValueError, r"`start` must have shape \(3,\); got \(4,\)"),
        ({"start": np.array([1.0, np.nan, 0.0])}, ValueError, "`start` must be finite"),
        ({"start": [1.0, 0.0, 0.0]}, TypeError, "got list"),
        ({"tolerance": 0.0}, ValueError, "`tolerance` must be > 0 and < 1; got 0.0"),
        ({"time_budget": -1.0}, ValueError, "`time_budget` must be > 0; got -1.0"),
        ({"checkpoint_interval": -1.0}, ValueError, "`checkpoint_interval` must be >= 0; got -1.0"),
        ({"rng": "seed"}, TypeError, "`rng` must be something"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        rl.lanczos(**{"operator": np.eye(3), "num_steps": 2} | arguments)


@pytest.mark.parametrize("library", [np, torch])
def test_a_basis_that_does_not_fit_says_so(library, monkeypatch):
    monkeypatch.setattr(_arguments, "available_memory", lambda: 800)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    with pytest.raises(MemoryError, match=r"a basis of 11 vectors needs .* take fewer steps, or reorthogonalize=False"):
        rl.lanczos(library.eye(20), 10, rng=0)
    assert rl.lanczos(library.eye(20), 10, rng=0, reorthogonalize=False).invariant


def test_without_a_basis_two_vectors_are_kept():
    operator, rng = rl.as_operator(np.eye(20)), np.random.default_rng(0)
    kinds = (False, False, 30, 2), (False, True, 30, 31), (True, False, 10, 11), (True, True, 30, 21)
    for full, keep, steps, rows in kinds:
        run = module.Recurrence(operator, steps, rng, full, keep)
        assert run.rows.shape == (rows, 20)
        assert run.rows.dtype == np.float64


def test_the_tridiagonal_measure_falls_back_on_lapack(monkeypatch):
    diagonal, off_diagonal = RANDOM[:9], np.abs(RANDOM[10:18])
    values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
    for stalls in (False, True):
        if stalls:
            monkeypatch.setattr(module, "implicit_ql", lambda *arrays: False)
        found, row = module.tridiagonal_measure(diagonal, off_diagonal, 8)
        np.testing.assert_allclose(found, values, atol=1e-14)
        np.testing.assert_allclose(np.abs(row), np.abs(vectors[8]), atol=1e-14)

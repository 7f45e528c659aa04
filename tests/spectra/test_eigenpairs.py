from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland import _arguments
from rmtland.spectra import _external, _restarted, eigenpairs
from rmtland.spectra._restarted import Goal, RestartedLanczos
from rmtland.spectra.operators import SymmetricOperator
from tests.spectra.spectra import cast, epsilon, every_kind, is_of_kind, numpy, of_spectrum

RANDOM = np.random.default_rng(0)
SPECTRA = {
    "outliers": [*np.arange(2.0, 8), *RANDOM.uniform(0, 1, 194)],
    "degenerate": [5.0] * 3 + [4.0] * 2 + [*RANDOM.uniform(0, 1, 115)],
    "clustered": [*(1 + 1e-9 * np.arange(5)), *RANDOM.uniform(-0.5, 0.5, 115)],
    "indefinite": RANDOM.normal(size=150),
    "negative": -np.arange(1.0, 61),
    "low rank": [3.0, -2.0, 2.0] + [0.0] * 77,
    "identity": [1.0] * 40,
    "zero": [0.0] * 40,
}
ENDS = ("largest", "smallest", "both_ends", "magnitude")


def wanted(eigenvalues, k, which):
    ascending = np.sort(eigenvalues)
    if which == "magnitude":
        return np.sort(ascending[np.argsort(-np.abs(ascending), kind="stable")[:k]])
    low = {"largest": 0, "smallest": k, "both_ends": k // 2}[which]
    return np.concatenate([ascending[:low], ascending[ascending.size - (k - low) :]])


def assert_pairs(matrix, pairs, expected, kind=("numpy", "float64"), eigenvalue_error=1e-9, restarts=0):
    size = np.abs(np.linalg.eigvalsh(matrix)).max()
    vectors = numpy(pairs.eigenvectors)
    rounding = (40 + 10 * restarts) * epsilon(kind)
    assert is_of_kind(pairs.eigenvectors, kind)
    assert pairs.eigenvalues.dtype == np.float64
    assert np.all(np.diff(pairs.eigenvalues) >= 0)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.eigenvalues, expected, atol=(eigenvalue_error + rounding) * size, rtol=0)
    measured = np.linalg.norm(matrix @ vectors - vectors * pairs.eigenvalues, axis=0)
    assert np.all(measured <= 1.1 * pairs.residuals + rounding * size)
    assert np.abs(vectors.T @ vectors - np.eye(vectors.shape[1])).max() <= rounding


@every_kind
@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("name", SPECTRA)
def test_eigenpairs_are_those_of_the_dense_matrix(kind, which, name):
    matrix = of_spectrum(SPECTRA[name])
    pairs = rl.top_eigenpairs(cast(matrix, kind), 6, which=which, rng=1)
    assert pairs.multiplicity_checked
    assert_pairs(numpy(cast(matrix, kind)), pairs, wanted(SPECTRA[name], 6, which), kind)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_operator_does_not_matter(name, scale, dtype):
    kind = ("numpy", dtype)
    matrix = cast(scale * of_spectrum(SPECTRA[name]), kind)
    pairs = rl.top_eigenpairs(matrix, 6, which="both_ends", rng=1)
    assert_pairs(numpy(matrix), pairs, wanted(scale * np.array(SPECTRA[name]), 6, "both_ends"), kind)


@given(
    st.one_of(
        st.lists(st.floats(-1, 1), min_size=1, max_size=25),
        st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), min_size=1, max_size=25),
        st.lists(st.sampled_from([1.0, 1.0 + 1e-10, 5.0, -5.0]), min_size=1, max_size=25),
    ),
    st.data(),
    st.sampled_from(ENDS),
)
def test_any_spectrum_and_any_number(eigenvalues, data, which):
    matrix = of_spectrum(eigenvalues)
    k = data.draw(st.integers(1, len(eigenvalues)))
    pairs = rl.top_eigenpairs(matrix, k, which=which, rng=0, tolerance=1e-9, check_products=12)
    expected = wanted(eigenvalues, k, which)
    if which == "magnitude":  # of two eigenvalues of one modulus either is right
        np.testing.assert_allclose(np.sort(np.abs(pairs.eigenvalues)), np.sort(np.abs(expected)), atol=1e-9)
        expected = pairs.eigenvalues
    assert_pairs(matrix, pairs, expected)


def test_the_null_space_of_a_rank_one_matrix():
    """Each step ends in an invariant subspace, and leaves out what its rounding couples."""
    eigenvalues = [0.0] * 8 + [1.0] + [0.0] * 6
    pairs = rl.top_eigenpairs(of_spectrum(eigenvalues), 2, which="smallest", rng=0, check_products=12)
    assert_pairs(of_spectrum(eigenvalues), pairs, [0.0, 0.0])
    assert pairs.residuals.max() < 3e-14


@pytest.mark.parametrize("basis_size", [9, 12, 40])
@pytest.mark.parametrize("which", ENDS)
def test_restarts_find_the_same(basis_size, which):
    matrix = of_spectrum(SPECTRA["indefinite"])
    pairs = rl.top_eigenpairs(matrix, 6, which=which, rng=0, basis_size=basis_size)
    expected = wanted(SPECTRA["indefinite"], 6, which)
    assert_pairs(matrix, pairs, expected, eigenvalue_error=1e-8, restarts=pairs.num_products // basis_size)
    assert pairs.num_products > basis_size
    plenty = rl.top_eigenpairs(matrix, 6, which=which, rng=0)
    assert plenty.num_products <= pairs.num_products


@pytest.mark.parametrize("basis_size", [6, 8, 20])
def test_degenerate_eigenvalues_are_found_in_a_small_basis(basis_size):
    eigenvalues = [5.0] * 3 + [4.0] * 2 + [*np.linspace(0, 1, 60)]
    pairs = rl.top_eigenpairs(of_spectrum(eigenvalues), 3, rng=0, basis_size=basis_size)
    assert_pairs(of_spectrum(eigenvalues), pairs, [5.0] * 3)


def test_the_check_is_what_finds_copies():
    matrix = of_spectrum([5.0] * 3 + [4.0, *np.linspace(0, 1, 96)])
    with_check = rl.top_eigenpairs(matrix, 2, rng=0)
    without = rl.top_eigenpairs(matrix, 2, rng=0, check_products=0)
    np.testing.assert_allclose(with_check.eigenvalues, 5, rtol=1e-9)
    np.testing.assert_allclose(without.eigenvalues, [4, 5], rtol=1e-9)  # true ones all the same
    assert (with_check.multiplicity_checked, without.multiplicity_checked) == (True, False)
    assert without.converged.all()
    single = of_spectrum(np.arange(30.0))
    counts = [rl.top_eigenpairs(single, 2, rng=0, check_products=check).num_products for check in (0, 5, 9)]
    assert counts[1] - counts[0] == 5
    assert counts[2] - counts[0] == 9


def test_a_check_that_the_budget_cuts_short_is_none():
    matrix = of_spectrum(np.arange(30.0))
    needed = rl.top_eigenpairs(matrix, 2, rng=0, check_products=0).num_products
    for more, checked in ((0, False), (1, False), (8, False), (9, True), (10, True)):
        pairs = rl.top_eigenpairs(matrix, 2, rng=0, check_products=9, max_products=needed + more)
        assert pairs.converged.all()
        assert (pairs.multiplicity_checked, pairs.num_products) == (checked, needed + min(more, 9))


def test_products_are_counted_pair_by_pair_and_in_all():
    operator = rl.as_operator(of_spectrum(SPECTRA["outliers"])).counted()
    pairs = rl.top_eigenpairs(operator, 6, rng=0)
    assert pairs.num_products == operator.num_products
    assert np.all((pairs.converged_after > 0) & (pairs.converged_after <= pairs.num_products - 8))
    assert pairs.converged_after[-1] < pairs.converged_after[0]  # the largest stands alone
    for which, method in (("largest", "arpack"), ("largest", "lobpcg"), ("magnitude", "subspace")):
        counted = rl.as_operator(of_spectrum(SPECTRA["outliers"])).counted()
        found = rl.top_eigenpairs(counted, 6, rng=0, which=which, method=method)
        assert found.num_products == counted.num_products
        # These do not say when: all by the end.
        np.testing.assert_array_equal(found.converged_after, [found.num_products] * 6)


def test_the_tolerance_acts():
    matrix = of_spectrum(SPECTRA["indefinite"])
    loose, tight = (rl.top_eigenpairs(matrix, 4, rng=0, tolerance=t) for t in (1e-2, 1e-10))
    assert loose.num_products < tight.num_products
    assert np.all(tight.residuals <= 1e-10 * np.abs(tight.eigenvalues))
    assert 1e-6 < loose.residuals.max() <= 1e-2 * np.abs(loose.eigenvalues).max()
    exact = rl.top_eigenpairs(matrix, 4, rng=0, tolerance=0)  # to rounding
    assert exact.residuals.max() < 1e-13


def test_what_has_not_converged_is_called_so():
    matrix = of_spectrum([50.0, *np.linspace(0, 1, 299)])
    with pytest.warns(
        RuntimeWarning, match="[23] of 3 eigenpairs did not converge within 12 products; see `.converged`"
    ) as warned:
        pairs = rl.top_eigenpairs(matrix, 3, rng=0, max_products=12)
    assert warned[0].filename == __file__  # it points at the call
    assert pairs.num_products == 12
    assert not pairs.converged[0]
    assert not pairs.multiplicity_checked
    assert pairs.converged_after[0] == -1
    nearest = np.abs(pairs.eigenvalues[:, None] - np.linalg.eigvalsh(matrix)).min(axis=1)
    assert np.all(nearest <= pairs.residuals)


def test_the_seed_and_the_start_decide():
    matrix = of_spectrum(SPECTRA["outliers"])
    one, same, other = (rl.top_eigenpairs(matrix, 2, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.eigenvectors, same.eigenvectors)
    assert not np.array_equal(one.eigenvectors, other.eigenvectors)
    values, vectors = np.linalg.eigh(matrix)
    started = rl.top_eigenpairs(matrix, 1, start=vectors[:, -1], rng=0, check_products=0)
    assert started.num_products == 1
    # A start with nothing of the largest: the check finds it.
    rest = rl.top_eigenpairs(matrix, 1, start=vectors[:, -2], rng=0)
    np.testing.assert_allclose(rest.eigenvalues, values[-1:], rtol=1e-10)


@pytest.mark.parametrize("method", ["arpack", "lobpcg", "subspace"])
@pytest.mark.parametrize("kind", [("numpy", "float64"), ("cpu", "float64"), ("cpu", "float32")])
def test_the_other_methods_agree(method, kind):
    matrix = of_spectrum(SPECTRA["outliers"])
    which = "magnitude" if method == "subspace" else "largest"
    pairs = rl.top_eigenpairs(cast(matrix, kind), 6, which=which, method=method, rng=0)
    assert_pairs(numpy(cast(matrix, kind)), pairs, wanted(SPECTRA["outliers"], 6, which), kind)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_lobpcg_stops_at_the_rounding_that_an_operator_states(scale):
    """Products rounded to 10 bits, relative to the operator: 2^-10 of the largest eigenvalue is as near as it gets."""
    matrix = scale * of_spectrum([8.0, 6.0, 4.0, *np.linspace(0, 1, 97)])

    def multiply(block):
        mantissa, exponent = np.frexp(matrix @ block)
        return np.ldexp(np.round(mantissa * 2**10) / 2**10, exponent)

    operator = rl.SymmetricOperator(multiply, 100, matrix, rounding=2**-10)
    pairs = rl.top_eigenpairs(operator, 3, method="lobpcg", rng=0, tolerance=1e-8)
    assert pairs.converged.all()
    assert pairs.num_products < 150
    np.testing.assert_allclose(pairs.eigenvalues / scale, [4, 6, 8], rtol=1e-3)
    assert np.all(pairs.residuals <= 8 * 2**-10 * 8 * scale)


@pytest.mark.parametrize("which", ENDS)
def test_arpack_takes_every_end(which):
    matrix = of_spectrum(SPECTRA["indefinite"])
    pairs = rl.top_eigenpairs(matrix, 5, which=which, method="arpack", rng=0)
    assert_pairs(matrix, pairs, wanted(SPECTRA["indefinite"], 5, which))


@pytest.mark.parametrize("method", ["arpack", "lobpcg", "subspace"])
def test_the_other_methods_own_up_too(method):
    matrix = of_spectrum([50.0, *np.linspace(0, 1, 299)])
    which = "magnitude" if method == "subspace" else "largest"
    with pytest.warns(RuntimeWarning, match="did not converge"):
        pairs = rl.top_eigenpairs(matrix, 3, which=which, method=method, rng=0, max_products=40)
    assert not pairs.converged[0]
    assert pairs.num_products <= 60


@pytest.mark.parametrize("rounding", [0.0, 1e-9])
@pytest.mark.parametrize("limit", [10, 32, 33, 44])
def test_lobpcg_spends_whole_blocks_within_its_limit(limit, rounding):
    """Two products that show symmetry, then three at a time; no fewer than one iteration takes."""
    matrix = of_spectrum(np.linspace(-1, 1, 60))
    operator = SymmetricOperator(lambda block: matrix @ block, 60, matrix, rounding=rounding).counted()
    with pytest.warns(RuntimeWarning, match="did not converge"):
        found = rl.top_eigenpairs(operator, 3, method="lobpcg", rng=0, max_products=limit, tolerance=1e-14)
    assert found.num_products == operator.num_products
    assert found.num_products == max(2 + 3 * ((limit - 2) // 3), 2 + 3 * (7 if rounding else 6))


def test_lobpcg_takes_less_than_a_fifth_of_all():
    for dimension, k in ((10, 2), (11, 2), (21, 4), (20, 4)):
        if 5 * k < dimension:
            assert rl.top_eigenpairs(np.diag(np.arange(1.0, dimension + 1)), k, method="lobpcg", rng=0).num_products
        else:
            with pytest.raises(ValueError, match=f"`k` must be < D / 5 = {dimension / 5:g} with .*; got {k}"):
                rl.top_eigenpairs(np.eye(dimension), k, method="lobpcg", rng=0)


def test_subspace_iteration_keeps_signs_and_copies():
    eigenvalues = [-3.0, -3.0, 2.5, 2.0, *np.linspace(-0.5, 0.5, 56)]
    pairs = rl.subspace_iteration(of_spectrum(eigenvalues), 4, rng=0)
    assert_pairs(of_spectrum(eigenvalues), pairs, [-3.0, -3.0, 2.0, 2.5])
    wide = rl.subspace_iteration(of_spectrum(eigenvalues), 4, rng=0, block_size=5)
    assert wide.num_products != pairs.num_products
    vector = np.linalg.eigh(of_spectrum(eigenvalues))[1][:, -1]
    started = rl.subspace_iteration(
        of_spectrum([4.0, *np.linspace(-1, 1, 39)]), 1, rng=0, block_size=1, start=np.ones(40)
    )
    np.testing.assert_allclose(started.eigenvalues, 4, rtol=1e-8)
    assert vector.shape == (60,)


def test_subspace_iteration_spends_whole_blocks_within_its_limit():
    matrix = of_spectrum(np.linspace(-1, 1, 40))
    for limit, spent in ((21, 17), (22, 22), (26, 22), (27, 27)):  # two that show symmetry, then five at a time
        with pytest.warns(RuntimeWarning, match=f"did not converge within {spent} products"):
            rl.subspace_iteration(matrix, 3, rng=0, block_size=5, max_products=limit)
    matrix = of_spectrum([3.0, 2.5, *np.linspace(-1, 1, 38)])
    unsaid, said = (rl.subspace_iteration(matrix, 2, rng=0, **options) for options in ({}, {"block_size": 10}))
    np.testing.assert_array_equal(unsaid.eigenvectors, said.eigenvectors)
    assert rl.subspace_iteration(np.diag([2.0, 1.0, 0.0]), 1, rng=0).num_products == 2 + 3  # no wider than the matrix


def test_after_a_restart_the_product_holds_the_kept_vectors_as_before():
    kept = np.array([5.0, -3.0, 0.0])
    process = SimpleNamespace(projected=np.column_stack([np.zeros((3, 3)), kept]), asymmetry=1e-6, scale=10.0)
    RestartedLanczos._require_coupled(process, kept + np.array([1e-6, -2e-6, 9e-6]), 3)
    for place, (found, held) in enumerate([("5.00002", "5"), ("-2.99998", "-3"), ("2e-05", "0")]):
        with pytest.raises(ValueError, match=rf"got p\^T A q = {found}, q\^T A p = {held} for"):
            RestartedLanczos._require_coupled(process, kept + 2e-5 * np.eye(3)[place], 3)


def test_deflation_moves_eigenvalues_to_zero():
    matrix = of_spectrum(SPECTRA["outliers"])
    pairs = rl.top_eigenpairs(matrix, 4, rng=0, tolerance=1e-11)
    rest = np.linalg.eigvalsh(rl.deflate(matrix, pairs).to_dense())
    np.testing.assert_allclose(rest, np.sort([*np.sort(SPECTRA["outliers"])[:-4], 0, 0, 0, 0]), atol=1e-9)
    by_hand = rl.as_operator(torch.tensor(matrix)).deflated((pairs.eigenvalues, pairs.eigenvectors))
    np.testing.assert_allclose(by_hand.to_dense(), rl.deflate(matrix, pairs).to_dense(), atol=1e-12)
    following = rl.top_eigenpairs(rl.deflate(matrix, pairs), 2, rng=0)
    np.testing.assert_allclose(following.eigenvalues, np.sort(SPECTRA["outliers"])[-6:-4], rtol=1e-9)


@pytest.mark.parametrize("method", ["lanczos", "arpack", "lobpcg", "subspace"])
def test_an_operator_that_is_not_symmetric_is_named(method):
    lopsided = np.random.default_rng(0).normal(size=(100, 100))
    operator = rl.SymmetricOperator(lambda v: lopsided @ v, 100, lopsided)
    which = "magnitude" if method == "subspace" else "largest"
    with pytest.raises(ValueError, match="`operator` must be symmetric; got"):
        rl.top_eigenpairs(operator, 4, which=which, method=method, rng=0)


def test_one_that_changes_after_a_restart_is_named():
    matrix, calls = of_spectrum(SPECTRA["indefinite"]), []

    def multiply(block):
        calls.append(1)
        return matrix @ block * (1.0 if len(calls) <= 12 else 1.1)

    operator = rl.SymmetricOperator(multiply, 150, matrix)
    with pytest.raises(ValueError, match="`operator` must be symmetric; got"):
        rl.top_eigenpairs(operator, 4, rng=0, basis_size=12)


@pytest.mark.parametrize("method", ["lanczos", "arpack", "lobpcg", "subspace"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("after", [0, 8])
def test_products_that_are_not_finite_are_named(method, bad, after):
    matrix, done = of_spectrum(SPECTRA["indefinite"]), [0]

    def multiply(block):
        done[0] += block.shape[1]
        product = matrix @ block
        if done[0] > after:
            product[0] = bad
        return product

    operator = rl.SymmetricOperator(multiply, 150, matrix)
    which = "magnitude" if method == "subspace" else "largest"
    with pytest.raises(ValueError, match="`operator` must give finite products; got NaN"):
        rl.top_eigenpairs(operator, 4, which=which, method=method, rng=0)


EYE = np.diag([3.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 5}, ValueError, "`k` must be <= D = 4; got 5"),
        ({"k": 0}, ValueError, "`k` must be >= 1; got 0"),
        ({"k": 4, "method": "arpack"}, ValueError, '`k` must be < D = 4 with method="arpack"; got 4'),
        ({"method": "lobpcg"}, ValueError, '`k` must be < D / 5 = 0.8 with method="lobpcg"; got 1'),
        (
            {"operator": np.diag(np.arange(10.0)), "k": 2, "method": "lobpcg"},
            ValueError,
            '`k` must be < D / 5 = 2 with method="lobpcg"; got 2',
        ),
        ({"method": "lobpcg", "which": "magnitude"}, ValueError, '`which` must be "largest" or "smallest"'),
        ({"method": "lobpcg", "start": np.ones(4)}, ValueError, "`start` must be left out"),
        ({"method": "subspace"}, ValueError, '`which` must be "magnitude" with method="subspace"; got \'largest\''),
        (
            {"operator": np.zeros((4, 4)), "method": "arpack"},
            ValueError,
            '`method` must be "lanczos" for this operator',
        ),
        (
            {"which": "LA"},
            ValueError,
            "`which` must be one of 'largest', 'smallest', 'both_ends', 'magnitude'; got 'LA'",
        ),
        ({"method": "power"}, ValueError, "`method` must be one of"),
        ({"tolerance": -1.0}, ValueError, "`tolerance` must be >= 0 and < 1; got -1.0"),
        ({"max_products": 1}, ValueError, "`max_products` must be >= 2; got 1"),
        ({"basis_size": 3}, ValueError, "`basis_size` must be >= 4; got 3"),
        ({"check_products": -1}, ValueError, "`check_products` must be >= 0; got -1"),
        ({"start": np.zeros(4)}, ValueError, "`start` must not be zero"),
        ({"operator": scipy.sparse.csr_array(np.triu(np.ones((4, 4))))}, ValueError, "`operator` must be symmetric"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        rl.top_eigenpairs(**{"operator": EYE, "k": 1, "rng": 0} | arguments)


@pytest.mark.parametrize(
    ("eigenpairs", "error", "message"),
    [
        (3.0, TypeError, "`eigenpairs` must be Eigenpairs or a pair .*; got float"),
        (([1.0], np.ones((4, 1))), ValueError, "`eigenvectors` must be orthonormal"),
        (([1.0], np.ones((3, 1))), ValueError, r"`eigenvectors` must have shape \(4, 1\); got \(3, 1\)"),
        (([np.nan], np.eye(4)[:, :1]), ValueError, "`eigenvalues` must be finite"),
    ],
)
def test_bad_eigenpairs(eigenpairs, error, message):
    with pytest.raises(error, match=message):
        rl.deflate(EYE, eigenpairs)


@pytest.mark.parametrize(("off", "fits"), [(4e-4, True), (6e-4, False)])
def test_columns_are_orthonormal_to_a_thousandth(off, fits):
    long, turned = np.eye(4)[:, :2] * [1.0, 1 + off], np.eye(4)[:, :2]
    turned[0, 1] = 2 * off
    for columns in (long, turned):
        if fits:
            rl.deflate(EYE, ([1.0, 1.0], columns))
        else:
            with pytest.raises(ValueError, match="`eigenvectors` must be orthonormal"):
                rl.deflate(EYE, ([1.0, 1.0], columns))


def test_subspace_blocks_hold_what_is_wanted():
    with pytest.raises(ValueError, match="`block_size` must be >= 2; got 1"):
        rl.subspace_iteration(EYE, 2, block_size=1)


@pytest.mark.parametrize("library", [np, torch])
def test_a_basis_that_does_not_fit_says_so(library, monkeypatch):
    monkeypatch.setattr(_arguments, "available_memory", lambda: 1000)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    with pytest.raises(MemoryError, match=r"a basis of 31 vectors needs .* give a smaller `basis_size`"):
        rl.top_eigenpairs(library.eye(100), 2, rng=0, basis_size=30)


def test_the_default_basis_grows_with_what_memory_allows(monkeypatch):
    from rmtland.spectra import eigenpairs as module

    matrix = rl.as_operator(np.eye(400))
    assert module._basis_size(matrix, 10, None) == 200
    monkeypatch.setattr(module, "BASIS_BYTES", 8 * 400 * 70)
    assert module._basis_size(matrix, 10, None) == 70
    monkeypatch.setattr(module, "BASIS_BYTES", 1)
    assert module._basis_size(matrix, 10, None) == 36
    assert module._basis_size(rl.as_operator(np.eye(20)), 10, None) == 20


def test_progress_shows_on_a_terminal_only(capsys, monkeypatch):
    rl.top_eigenpairs(EYE, 1, rng=0, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    rl.top_eigenpairs(EYE, 1, rng=0, progress=True)
    shown = capsys.readouterr().err
    assert "eigenpairs" in shown
    assert shown.endswith("\r\x1b[1A\x1b[2K")  # one line up, which is wiped: nothing of the bar stays


@every_kind
def test_the_default_tolerance_is_that_of_the_precision(kind):
    matrix = cast(of_spectrum([5.0, 4.0, 3.5, *np.linspace(-1, 1, 297)]), kind)
    pairs, tight, loose = (
        rl.top_eigenpairs(matrix, 3, rng=0, check_products=0, **options)
        for options in ({}, {"tolerance": 1e-5}, {"tolerance": 1e-4})
    )
    expected = loose if kind[1] == "float32" else tight
    assert pairs.num_products == expected.num_products
    assert loose.num_products < tight.num_products
    np.testing.assert_allclose(pairs.eigenvalues, [3.5, 4, 5], rtol=1e-6 if kind[1] == "float32" else 1e-10)
    found = rl.subspace_iteration(matrix, 2, rng=0)
    assert np.all(found.residuals <= (1e-4 if kind[1] == "float32" else 1e-5) * np.abs(found.eigenvalues))


def test_no_product_is_spent_after_convergence_where_looking_is_cheap():
    diagonal = np.append(np.linspace(-1, 1, 49_997), [2.0, 2.5, 3.0])
    operator = rl.SymmetricOperator(lambda v: diagonal[:, None] * v, diagonal.size, diagonal)
    for seed in range(3):
        pairs = rl.top_eigenpairs(operator, 3, rng=seed, check_products=0)
        assert pairs.num_products == pairs.converged_after.max()
        with pytest.warns(RuntimeWarning, match="did not converge"):
            rl.top_eigenpairs(operator, 3, rng=seed, check_products=0, max_products=pairs.num_products - 1)


def test_copies_found_with_the_last_products_are_told_with_their_own_vectors():
    matrix = of_spectrum([6.0, 5.0, 5.0, 4.5, 4.0, *np.linspace(-1, 1, 60)])
    for limit in (25, 29, 33):  # after the first two the pairs found in two rounds cannot be rotated into each other
        pairs = rl.top_eigenpairs(matrix, 4, rng=0, method="lanczos", max_products=limit)
        np.testing.assert_allclose(pairs.eigenvalues, [4.5, 5, 5, 6], atol=1e-8)
        left = np.linalg.norm(matrix @ pairs.eigenvectors - pairs.eigenvectors * pairs.eigenvalues, axis=0)
        assert np.all(left <= pairs.residuals * (1 + 1e-6))
        assert pairs.num_products == limit
        np.testing.assert_allclose(pairs.eigenvectors.T @ pairs.eigenvectors, np.eye(4), atol=1e-12)


@pytest.mark.filterwarnings("ignore:.* eigenpairs did not converge:RuntimeWarning")
def test_no_more_products_than_were_allowed():
    """Wherever the budget ends: before, within or after the look for copies that were missed."""
    matrix = of_spectrum([5.0, 5.0, 5.0, 4.0, *np.linspace(-1, 1, 96)])
    for limit in range(4, 70):
        operator = rl.SymmetricOperator.from_matrix(matrix).counted()
        pairs = rl.top_eigenpairs(operator, 3, rng=0, method="lanczos", max_products=limit)
        assert operator.num_products == pairs.num_products <= limit
        # Three pairs take three products at least; what has not converged is of no product.
        assert (pairs.converged_after[pairs.converged] >= 3).all()
        assert (pairs.converged_after[~pairs.converged] == -1).all()


def test_what_counts_as_missed_is_wanted_more_than_the_last_one_known_and_not_its_copy():
    """Two eigenvalues are told apart where they differ by more than both residuals may be."""
    process = SimpleNamespace(scale=5.0, noise=0.0, capacity=20)
    of_modulus = Goal(eigenpairs.ORDERS["magnitude"], 3, 1e-6)
    missed = eigenpairs._missed(of_modulus, np.array([5.0, 3.0, -2.0]), process)
    candidates = np.array([2 + 1e-9, 1.9, -2 - 3e-6, 4.0, -2 - 5e-6, -1.0, 2.5])
    assert missed(candidates).tolist() == [3, 6, 4]  # the count that is wanted, the most wanted first
    assert missed(candidates[:3]).tolist() == [0]  # of the other sign: no copy
    assert missed(candidates[1:3]).tolist() == []
    for capacity, few in ((4, [3, 6]), (3, [3]), (1, [3])):
        process.capacity = capacity
        assert missed(candidates).tolist() == few
    # Without a tolerance rounding tells how well they are known.
    process.noise, exact = 1e-6, Goal(eigenpairs.ORDERS["largest"], 3, 0.0)
    missed = eigenpairs._missed(exact, np.array([5.0, 3.0, 2.0]), process)
    assert missed(np.array([2 + 1.5e-4, 2 + 1.7e-4])).tolist() == [1]


def test_the_products_without_a_limit_grow_with_the_pairs(monkeypatch):
    limits = []
    monkeypatch.setattr(
        eigenpairs, "_by_lanczos", lambda matrix, goal, budget, *rest: limits.append(budget.limit) or 1 / 0
    )
    for k in (1, 2, 7):
        with pytest.raises(ZeroDivisionError):
            rl.top_eigenpairs(np.eye(10), k)
    assert limits == [1100, 1200, 1700]


def test_the_next_look_comes_half_way_to_where_the_residuals_would_have_fallen():
    """From 10^4 to 10^2 times what is allowed in ten steps: ten more would do."""
    for before, now, steps in (
        ((20, 1e4), (30, 1e2), 5),
        ((50, 1e4), (60, 1e3), 12),  # 15, but no more than a fifth of those done
        ((60, 1e4), (61, 1.01), 1),
        (None, (30, 5.0), 3),  # nothing to go by: a tenth
        (None, (5, 5.0), 1),
        ((20, 5.0), (30, 5.0), 3),
        ((20, 5.0), (30, 6.0), 3),
        ((20, 5.0), (30, 1.0), 3),
        ((20, 5.0), (30, 0.0), 3),
        ((20, np.inf), (30, np.inf), 3),
    ):
        assert _restarted._steps_to_go(before, now) == steps
    # Ten n^3 operations for the Ritz values against 4 n D for a vector.
    for size, dimension, cheap in ((20, 1000, True), (20, 999, False), (2, 10, True), (2, 9, False)):
        process = SimpleNamespace(size=size, operator=SimpleNamespace(dimension=dimension))
        assert RestartedLanczos._looks_cost_little(process) == cheap


@pytest.mark.parametrize(
    ("count", "dimension", "size", "expected"),
    [(3, 90, None, 20), (15, 90, None, 31), (15, 25, None, 25), (3, 90, 40, 40)],
)
def test_arpack_keeps_as_many_vectors_as_scipy_would(monkeypatch, count, dimension, size, expected):
    asked, real = [], _external.eigsh
    monkeypatch.setattr(_external, "eigsh", lambda *args, **more: asked.append(more["ncv"]) or real(*args, **more))
    matrix = np.diag(np.arange(1.0, dimension + 1))
    pairs = rl.top_eigenpairs(matrix, count, method="arpack", basis_size=size, rng=0)
    assert asked == [expected]
    np.testing.assert_allclose(pairs.eigenvalues, np.arange(dimension - count + 1.0, dimension + 1), rtol=1e-8)

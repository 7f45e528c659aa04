import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import rmtland as rl
from rmtland.logits.attribution import Attribution
from rmtland.spectra.eigenpairs import Eigenpairs
from tests import oracles
from tests.nets.networks import build

ARRAYS = oracles.examples(60, 4, 40)
SOURCE = rl.DenseLogitGradients(*ARRAYS)


def basis(matrix):
    """Orthonormal columns that span the range of a dense matrix, by its singular vectors."""
    u, s, _ = np.linalg.svd(matrix)
    return u[:, s > 1e-10 * s[0]]


def dense(arrays, matrix, k):
    """Overlaps by brute force: projections on the ranges of dense A1, B1 and their sum."""
    parts = oracles.hierarchy(*arrays)
    values, vectors = np.linalg.eigh(matrix)
    top = vectors[:, -k:]
    ranges = {"A1": parts["A1"], "B1": parts["B1"], "both": parts["A1"] + parts["A2"] + parts["B1"]}
    bases = {name: basis(part) for name, part in ranges.items()}
    found = {name: np.sum((q.T @ top) ** 2, axis=0) for name, q in bases.items()}
    found["rest"] = 1 - found.pop("both")
    angles = {}
    for name in ("A1", "B1"):
        # Cosines of principal angles: eigenvalues of P_V P_range P_V within the span.
        square = top.T @ bases[name] @ bases[name].T @ top
        angles[name] = np.linalg.eigvalsh(square)[-min(k, bases[name].shape[1]) :]
    energy = {name: np.einsum("ik,ij,jk->k", top, parts[name], top) for name in ("A1", "A2", "B1")}
    shares = {"A1": (energy["A1"] + energy["A2"]) / values[-k:], "B1": energy["B1"] / values[-k:]}
    found["shares"] = {**shares, "rest": 1 - shares["A1"] - shares["B1"]}
    return values[-k:], found, angles, {name: q.shape[1] for name, q in bases.items()}


@pytest.mark.parametrize("k", [None, 1, 6])
def test_overlaps_by_brute_force(k):
    whole = oracles.gauss_newton(ARRAYS[0], ARRAYS[2])
    hierarchy = rl.hierarchy(SOURCE)
    values, overlaps, angles, ranks = dense(ARRAYS, whole, 3 if k is None else k)
    for matrix in (None, whole):
        found = rl.attribution(hierarchy, matrix, k, rng=0, tolerance=1e-10)
        np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-8)
        for name in ("A1", "B1", "rest"):
            np.testing.assert_allclose(found.overlaps[name], overlaps[name], atol=1e-7)
            np.testing.assert_allclose(found.shares[name], overlaps["shares"][name], atol=1e-7)
        for name in ("A1", "B1"):
            np.testing.assert_allclose(found.principal_overlaps[name], angles[name], atol=1e-7)
        assert (found.ranks["A1"], found.ranks["B1"], found.ranks["A1 + B1"]) == tuple(ranks.values())
        assert found.chance["A1"] == 4 / 40
        assert found.chance["rest"] == 1 - 12 / 40
        assert sum(found.counts.values()) == len(values)


def test_chance_is_what_random_vectors_have():
    hierarchy = rl.hierarchy(SOURCE)
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    drawn = [
        rl.attribution(hierarchy, pairs_of(np.linalg.qr(rng.normal(size=(40, 40)))[0])).overlaps for _ in range(1200)
    ]
    found = rl.attribution(hierarchy, pairs_of(vectors))
    for name in ("A1", "B1", "rest"):
        shares = np.array([overlaps[name][0] for overlaps in drawn])
        error = shares.std(ddof=1) / np.sqrt(len(shares))
        assert abs(shares.mean() - found.chance[name]) < 4 * error
        assert abs(shares.mean() - found.chance[name] - 1 / 40) > 4 * error  # a rank one higher is rejected
        assert shares.std(ddof=1) == pytest.approx(found.chance_std[name], rel=0.15)


def test_spread_of_chance_is_that_of_a_beta_distribution():
    ranks = {"A1": 1, "B1": 2, "A1 + B1": 3}
    found = Attribution(np.ones(1), {}, {}, {}, ranks, num_parameters=5)
    for name, rank in (("A1", 1), ("B1", 2), ("rest", 2)):
        law = stats.beta(rank / 2, (5 - rank) / 2)
        assert found.chance[name] == pytest.approx(law.mean(), rel=1e-12)
        assert found.chance_std[name] == pytest.approx(law.std(), rel=1e-12)


def pairs_of(vectors, values=None):
    k = vectors.shape[1]
    values = np.arange(1.0, k + 1) if values is None else values
    return Eigenpairs(values, vectors, np.zeros(k), np.ones(k, bool), np.zeros(k, int), 0, True)


def test_places():
    # All eigenvectors of G, each where most of its eigenvalue comes from. Trained logits: some belong to A1.
    logits, labels, gradients = oracles.examples(60, 4, 40, mean=4.0)
    arrays = 0.3 * logits + 4 * np.eye(4)[labels], labels, gradients
    parts = oracles.hierarchy(*arrays)
    values, vectors = np.linalg.eigh(oracles.gauss_newton(arrays[0], arrays[2]))
    found = rl.attribution(rl.hierarchy(rl.DenseLogitGradients(*arrays)), pairs_of(vectors, values))
    matrices = {"A1": parts["A1"] + parts["A2"], "B1": parts["B1"], "rest": parts["B2"]}
    energies = [np.einsum("ik,ij,jk->k", vectors, matrix, vectors) for matrix in matrices.values()]
    assert found.places == tuple(np.array(list(matrices))[np.argmax(energies, axis=0)])
    assert set(found.places) == set(matrices)
    assert found.counts == {place: found.places.count(place) for place in matrices}
    assert found.counts[found.place] == max(found.counts.values())


def test_where_everything_is_in_range():
    # D below the rank of B1: overlaps are 1 by chance, and nothing can be told.
    logits, labels, gradients = oracles.examples(60, 4, 6)
    found = rl.attribution(rl.hierarchy(rl.DenseLogitGradients(logits, labels, gradients)), rng=0)
    assert found.chance["B1"] == 1
    np.testing.assert_allclose(found.overlaps["B1"], 1, atol=1e-9)


def test_a_hessian_of_a_network():
    module, inputs = build("mlp")
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(len(inputs)) % 3)
    hierarchy = rl.hierarchy(source)
    found = rl.attribution(hierarchy, rl.nets.hessian(source), rng=0, tolerance=1e-10)
    matrix = rl.nets.hessian(source).to_dense()
    (chunk,) = source.chunks()
    arrays = chunk.logits.numpy(), chunk.labels.numpy(), chunk.dense().numpy()
    values, overlaps, _, _ = dense(arrays, matrix, 2)
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-9)
    for name in ("A1", "B1", "rest"):
        np.testing.assert_allclose(found.overlaps[name], overlaps[name], atol=1e-6)
        np.testing.assert_allclose(found.shares[name], overlaps["shares"][name], atol=1e-6)


def test_changes():
    counts = [[0, 9, 0], [np.nan] * 3, [5, 4, 0], [1, 2, 6], [1, 2, 6]]
    assert rl.attribution_changes([0, 1, 2, 4, 8], counts) == [(2, "B1", "A1"), (4, "A1", "rest")]
    assert rl.attribution_changes([], np.zeros((0, 3))) == []
    columns = {"A1": [0, 5, 1], "B1": [9, 4, 7], "rest": [0, 0, 6]}  # as many steps as places
    record = xr.Dataset({f"outliers_in_{name}": ("step", column) for name, column in columns.items()})
    assert rl.attribution_changes(record.assign_coords(step=[1, 2, 4])) == [(2, "B1", "A1"), (4, "A1", "B1")]
    with pytest.raises(ValueError, match=r"`counts` must have shape \(2, 3\); got \(3, 3\)"):
        rl.attribution_changes([0, 1], np.zeros((3, 3)))


def test_bad_input():
    hierarchy = rl.hierarchy(SOURCE)
    with pytest.raises(ValueError, match="`k` must be .*; got 0"):
        rl.attribution(hierarchy, k=0)
    with pytest.raises(ValueError, match="`k` and options must be left out with eigenpairs.*; got 2"):
        rl.attribution(hierarchy, pairs_of(np.eye(40)), 2)
    with pytest.raises(ValueError, match=r"eigenvectors of length 40; got shape \(30, 30\)"):
        rl.attribution(hierarchy, pairs_of(np.eye(30)))
    with pytest.raises(MemoryError, match="keep_pairs=True keeps them"):
        rl.attribution(rl.hierarchy(SOURCE, keep_pairs=False), pairs_of(np.eye(40)))

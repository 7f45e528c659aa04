import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland.logits import cross_class
from rmtland.logits.traces import ClassTraceAccumulator
from tests import oracles
from tests.logits.test_cross_class import ARRAYS, CASES
from tests.nets.networks import build

PARTS = ("A1", "A2", "B1", "B2")


def close(got, expected, tolerance=1e-12):
    scale = max(np.abs(expected).max(), 1e-300)
    np.testing.assert_allclose(got, expected, atol=tolerance * scale, rtol=0)


def check(hierarchy, arrays, weights=None, tolerance=1e-12):
    """Every part, knock-out, factor and trace against dense matrices made by loops."""
    expected = oracles.hierarchy(*arrays, weights)
    curvatures = [
        oracles.curvature(z) * w for z, w in zip(arrays[0], np.ones(99) if weights is None else weights, strict=False)
    ]
    whole = oracles.gauss_newton(arrays[0], arrays[2], np.array(curvatures))
    scale = np.abs(whole).max()
    for part in PARTS:
        np.testing.assert_allclose(getattr(hierarchy, part).to_dense(), expected[part], atol=tolerance * scale, rtol=0)
    for c, matrix in enumerate(expected["B2_of"]):
        np.testing.assert_allclose(hierarchy.B2_of(c).to_dense(), matrix, atol=tolerance * scale, rtol=0)
    for parts in (("A1",), ("A1", "A2"), ("B1",), ("B2",), ("B2", "A1"), ("B2", "B1", "A2")):
        rest = whole - sum(expected[part] for part in parts)
        np.testing.assert_allclose(hierarchy.knock_out(*parts).to_dense(), rest, atol=4 * tolerance * scale, rtol=0)
    traces = {part: np.trace(expected[part]) for part in PARTS}
    for part, trace in {**traces, "G": np.trace(whole)}.items():
        assert hierarchy.traces[part] == pytest.approx(trace, abs=tolerance * np.trace(whole))
    within = np.trace(expected["B2_of"], axis1=1, axis2=2)
    np.testing.assert_allclose(hierarchy.B2_traces, within, atol=tolerance * np.trace(whole))
    assert hierarchy.residual_norm < tolerance
    return expected, whole


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep_pairs", [True, False])
def test_parts_by_loops(case, keep_pairs):
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*CASES[case], chunk_size=13), keep_pairs=keep_pairs)
    check(hierarchy, CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_factors(case):
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*CASES[case]))
    expected = oracles.hierarchy(*CASES[case])
    sums = {**expected, "A1 + A2 + B1": expected["A1"] + expected["A2"] + expected["B1"]}
    assert {name: factor.shape for name, factor in hierarchy.factors.items()} == {
        "A1": (15, 4), "A2": (15, 4), "B1": (15, 12), "A1 + A2 + B1": (15, 16),
    }  # fmt: skip
    assert len(hierarchy.factors) == 4
    for name, factor in hierarchy.factors.items():
        close(factor @ factor.T, sums[name])
    in_torch = rl.hierarchy(rl.DenseLogitGradients(*map(torch.as_tensor, CASES[case])))
    for name, factor in hierarchy.factors.items():
        np.testing.assert_allclose(in_torch.factors[name].numpy(), factor, atol=1e-13 * np.abs(factor).max())
    with pytest.raises(KeyError, match="C3"):
        hierarchy.factors["C3"]


@pytest.mark.parametrize("case", CASES)
def test_eigenvalues_and_ranks_through_the_gram_matrix(case):
    logits, labels, gradients = CASES[case]
    rng = np.random.default_rng(1)
    wide = np.concatenate([gradients, rng.normal(size=(50, 4, 30))], axis=2)  # D = 45 > C^2
    for arrays in ((logits, labels, gradients), (logits, labels, wide)):
        hierarchy = rl.hierarchy(rl.DenseLogitGradients(*arrays))
        expected = oracles.hierarchy(*arrays)
        size = arrays[2].shape[2]
        most = {("A1",): 4, ("A2",): 4, ("A1", "A2"): 4, ("B1",): 8, ("A2", "B1"): 12, ("A1", "A2", "B1"): 12}
        for parts, rank in most.items():
            dense = np.linalg.eigvalsh(sum(expected[part] for part in parts))
            values = hierarchy.eigenvalues(*parts)
            assert values.shape == (min(rank, size),)
            np.testing.assert_allclose(values, dense[-values.size :], atol=1e-12 * dense[-1])
            assert np.abs(dense[: -values.size]).max(initial=0) < 1e-12 * dense[-1]  # nothing is left out
        np.testing.assert_array_equal(hierarchy.eigenvalues(), hierarchy.eigenvalues("A1", "A2", "B1"))
    # Of the wide one: every pair with a weight counts, less one for each class where the mean is taken off.
    pairs = (expected["p"] > 1e-290) & ~np.eye(4, dtype=bool)
    assert hierarchy.gram.rank("A1") == np.count_nonzero(pairs.any(axis=1))
    assert hierarchy.gram.rank("B1") == pairs.sum() - np.count_nonzero(pairs.any(axis=1))
    assert hierarchy.gram.rank() == pairs.sum()
    np.testing.assert_array_equal(hierarchy.gram.combinations(), np.eye(pairs.size))
    assert hierarchy.gram.rank("A1", "A2") == hierarchy.gram.rank("A1")


def test_a_basis_of_the_range():
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*oracles.examples(60, 4, 40)))
    for part in ("A1", "B1"):
        factor = hierarchy.factors["A1 + A2 + B1"]
        basis = factor @ hierarchy.gram.range_basis(part).T
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)
        dense = getattr(hierarchy, part).to_dense()
        close(basis @ (basis.T @ dense), dense, 1e-10)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_no_number_depends_on_the_chunks(data):
    cuts = sorted(data.draw(st.sets(st.integers(1, 49), max_size=6)))
    sizes = tuple(np.diff([0, *cuts, 50]).tolist())
    source = oracles.ScratchSource(*CASES["absent"], rl.CrossEntropy(), sizes=sizes)
    hierarchy = rl.hierarchy(source, keep_pairs=data.draw(st.booleans()))
    expected = oracles.hierarchy(*CASES["absent"])
    v = np.linspace(-1, 1, 15)
    for part in PARTS:
        np.testing.assert_allclose(getattr(hierarchy, part) @ v, expected[part] @ v, atol=1e-12)
    assert hierarchy.traces["B1"] == pytest.approx(np.trace(expected["B1"]), rel=1e-10)


@pytest.mark.parametrize("keep_pairs", [True, False])
def test_several_ranks(keep_pairs):
    parts = [np.arange(0, 20), np.arange(20, 21), np.arange(0), np.arange(21, 50)]  # one without examples
    expected = oracles.hierarchy(*ARRAYS)

    def measured(source):
        found = rl.hierarchy(source, keep_pairs=keep_pairs)
        return {part: getattr(found, part).to_dense() for part in PARTS}, found.traces, found.residual_norm

    for matrices, traces, residual in oracles.on_ranks(measured, ARRAYS, rl.CrossEntropy(), parts):
        for part in PARTS:
            close(matrices[part], expected[part])
            assert traces[part] == pytest.approx(np.trace(expected[part]), rel=1e-9)
        assert residual < 1e-12


@pytest.mark.parametrize("name", ["mlp", "conv", "attention"])
@pytest.mark.parametrize("keep_pairs", [True, False])
def test_networks(name, keep_pairs):
    module, inputs = build(name)
    labels = torch.arange(len(inputs)) % 3
    weights = torch.linspace(0.2, 2.0, len(inputs), dtype=torch.float64)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, weights=weights, batch_size=4)
    chunks = [(c.logits.numpy(), c.labels.numpy(), c.dense().numpy(), c.weights.numpy()) for c in source.chunks()]
    *arrays, weights = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    hierarchy = rl.hierarchy(source, keep_pairs=keep_pairs)
    check(hierarchy, arrays, weights)
    if not keep_pairs:
        return
    groups = hierarchy.by_group()
    assert list(groups) == list(source.parameter_groups)
    for group, part in source.parameter_groups.items():
        alone = tuple(arrays[:2]), arrays[2][:, :, part]
        expected = oracles.hierarchy(*alone[0], alone[1], weights)
        for which in PARTS:
            got = getattr(groups[group], which).to_dense()
            np.testing.assert_allclose(got, expected[which], atol=1e-12)
            assert groups[group].traces[which] == pytest.approx(np.trace(expected[which]), abs=1e-12)
        assert groups[group].residual_norm < 1e-10


def test_single_precision():
    module, inputs = build("mlp", torch.float32)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(len(inputs)) % 3)
    for keep_pairs in (True, False):
        hierarchy = rl.hierarchy(source, keep_pairs=keep_pairs)
        assert hierarchy.residual_norm < 1e-6
        assert hierarchy.B2.dtype == torch.float32 == (hierarchy.B1 @ torch.ones(source.num_parameters)).dtype
        assert isinstance(hierarchy.A1 @ np.ones(source.num_parameters), np.ndarray)


def test_a_draw_of_the_model_and_its_class_gradients():
    model = rl.LandscapeModel(
        80, 4, 60, gradients=rl.ClusteredGradients(mean_length=1.0, residual_length=0.7, class_length=0.6)
    )
    draw = model.sample(rng=0)
    gradients = np.concatenate([chunk.dense() for chunk in draw.chunks()])
    check(rl.hierarchy(draw), (draw.logits, draw.labels, gradients))


def test_two_classes_and_one_class_alone():
    # C = 2: a class has a single other, so that B1 is zero; and a source of one class only.
    logits, labels, gradients = oracles.examples(20, 2, 6)
    for given_labels in (labels, np.zeros_like(labels)):
        hierarchy = rl.hierarchy(rl.DenseLogitGradients(logits, given_labels, gradients))
        check(hierarchy, (logits, given_labels, gradients))
        assert np.abs(hierarchy.B1.to_dense()).max() < 1e-30
        assert hierarchy.gram.rank("B1") == 0 == hierarchy.eigenvalues("B1").size
        assert hierarchy.gram.rank("A1") == len(np.unique(given_labels))


def test_the_residual_tells_of_wrong_means():
    source = rl.DenseLogitGradients(*ARRAYS)
    means = rl.cross_class_means(source)
    wrong = dataclasses.replace(means, pair_factor=means.pair_factor * 1.001)
    assert rl.hierarchy(source).residual_norm < 1e-14
    assert dataclasses.replace(rl.hierarchy(source), means=wrong).residual_norm > 1e-4


def test_nothing_at_all():
    logits, labels, gradients = ARRAYS
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(logits, labels, 0 * gradients))
    assert hierarchy.residual_norm == 0
    assert hierarchy.eigenvalues().max() == 0 == hierarchy.gram.rank()


def test_streaming_a_block_of_classes_at_a_time(monkeypatch):
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*ARRAYS), keep_pairs=False)
    monkeypatch.setattr("rmtland.logits.hierarchy.PAIRS_BYTES", 8 * 4 * 15 * 3)  # three classes, then one
    expected = oracles.hierarchy(*ARRAYS)
    for part in PARTS:
        assert hierarchy.traces[part] == pytest.approx(np.trace(expected[part]), rel=1e-10)
    for what in (lambda: hierarchy.eigenvalues(), lambda: hierarchy.factors["B1"], lambda: hierarchy.gram):
        with pytest.raises(MemoryError, match="were not kept: keep_pairs=True keeps them"):
            what()
    assert hierarchy.factors["A1"].shape == (15, 4)


def test_pairs_are_kept_while_they_take_little(monkeypatch):
    source = rl.DenseLogitGradients(*ARRAYS)
    assert rl.hierarchy(source).means.pair_factor is not None
    monkeypatch.setattr(cross_class, "PAIRS_BYTES", 8 * 16 * 15 - 1)
    assert rl.hierarchy(source).means.pair_factor is None


def test_bad_input():
    hierarchy = rl.hierarchy(rl.DenseLogitGradients(*ARRAYS))
    with pytest.raises(ValueError, match="`parts` must be one of 'A1'.*; got 'C'"):
        hierarchy.knock_out("C")
    for parts in ((), PARTS):
        with pytest.raises(ValueError, match="`parts` must be one to three of A1, A2, B1, B2; got"):
            hierarchy.knock_out(*parts)
    with pytest.raises(ValueError, match="`parts` must be one of 'A1', 'A2', 'B1'; got 'B2'"):
        hierarchy.eigenvalues("B2")
    with pytest.raises(ValueError, match="`c` must be .*; got 4"):
        hierarchy.B2_of(4)


def test_class_traces_refuse_nan():
    logits, labels, gradients = ARRAYS
    gradients = gradients.copy()
    gradients[3, 1, 2] = np.nan
    source = oracles.ScratchSource(logits, labels, gradients, rl.CrossEntropy())
    with pytest.raises(ValueError, match="must be finite; got NaN"):
        rl.measure(source, traces=ClassTraceAccumulator())

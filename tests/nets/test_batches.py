import itertools

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.nets import pytrees
from rmtland.nets.batches import Batch, Loader, Reading, check_batch

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
N, T, C, IGNORED = 7, 3, 4, 2
LABELS = {(N,): RNG.integers(0, C, N), (N, T): RNG.integers(0, C, (N, T)), (N, C): RNG.dirichlet(np.ones(C), N)}
LABELS[N, T, C] = RNG.dirichlet(np.ones(C), (N, T))
LABELS[N,][:C] = np.arange(C)
WEIGHTS = {(N,): RNG.uniform(0.5, 2, N), (N, T): RNG.uniform(0.5, 2, (N, T))}
CLASS_WEIGHTS = RNG.uniform(0.5, 2, C)


def read_by_hand(labels, weights, tokens, ignored, of_classes, mean, soft, rows):
    """Targets, labels, weights and places of the examples, one after another."""
    found, some_ignored = [], False
    for place in np.ndindex(labels.shape[: 1 + tokens]):
        target = labels[place]
        label = int(np.argmax(target)) if soft else target
        some_ignored |= target.ndim == 0 and int(target) == ignored
        if target.ndim or int(target) != ignored:
            weight = 1.0 if weights is None else weights[place[: weights.ndim]]
            if of_classes:
                weight *= CLASS_WEIGHTS[label]
            found.append((target, label, weight / mean, np.ravel_multi_index(place, labels.shape[: 1 + tokens])))
    return found[rows] if tokens or some_ignored else found


@pytest.mark.parametrize("shape", LABELS)
def test_targets_and_weights_of_examples_are_those_read_one_after_another(shape):
    tokens, soft = shape[:2] == (N, T), shape[-1] == C
    labels, rows = LABELS[shape], slice(1, 4)
    for weights, ignored, of_classes in itertools.product(
        (None, WEIGHTS[N,], *([WEIGHTS[N, T]] if tokens else [])), (None, IGNORED, 100), (False, True)
    ):
        batch = Batch(torch.zeros(N, 2), torch.tensor(labels), None if weights is None else torch.tensor(weights))
        class_weights = torch.tensor(CLASS_WEIGHTS) if of_classes else None
        reading = Reading(rl.CrossEntropy(), ignored, class_weights, tokens=tokens)
        for mean, some in ((1.0, slice(None)), (1.7, rows)):
            targets, classes, found, places = reading.divided_by(mean).read(batch, CPU, None if some != rows else some)
            expected = read_by_hand(labels, weights, tokens, ignored, of_classes, mean, soft, some)
            for values, right in zip((targets, classes), list(zip(*expected, strict=True))[:2], strict=True):
                np.testing.assert_array_equal(values, np.array(right))
            if weights is None and not of_classes:
                assert found is None
            else:
                np.testing.assert_allclose(found, [weight for *_, weight, _ in expected], rtol=1e-12)
            if tokens or (ignored == IGNORED and not soft):
                assert places.tolist() == [place for *_, place in expected]
            else:
                assert places is None
    if shape == (N, C):  # of another loss they are no classes
        targets, classes, *_ = Reading(rl.SquaredError()).read(batch, CPU)
        assert torch.equal(classes, targets)


def test_a_batch_counts_cuts_and_copies_all_that_it_holds():
    inputs = {"a": torch.arange(12.0).reshape(6, 2), "b": (torch.arange(6),)}
    for weights in (None, torch.arange(6.0)):
        batch = Batch(inputs, torch.arange(6), weights)
        assert batch.num_inputs == 6
        assert batch.num_bytes == 6 * (2 * 4 + 8 + 8 + (0 if weights is None else 4))
        copy = batch.copied()
        some = batch.cut(slice(1, 3))
        assert some.inputs["a"].tolist() == [[2, 3], [4, 5]]
        assert some.inputs["b"][0].tolist() == [1, 2]
        assert some.targets.tolist() == [1, 2]
        assert (some.weights is None) if weights is None else (some.weights.tolist() == [1, 2])
        for leaf, other in zip(*map(torch.utils._pytree.tree_leaves, (vars(batch), vars(copy))), strict=True):
            assert (leaf is other is None) or (torch.equal(leaf, other) and leaf.data_ptr() != other.data_ptr())


@pytest.mark.parametrize("of", [2, 3])
def test_loaders_are_unpacked_into_two_or_three_and_no_others(of):
    parts = (np.ones((2, 3)), [0, 1], [0.5, 2.0], None)
    for unpack, allowed in ((None, (2,)), (lambda item: item, (2, 3))):
        for kind in (tuple, list):
            loader = Loader([kind(parts[:of])] * 2, unpack)
            if of in allowed:
                for batch in loader:
                    assert batch.inputs.shape == (2, 3)
                    assert batch.targets.tolist() == [0, 1]
                    assert (batch.weights is None) if of == 2 else (batch.weights.tolist() == [0.5, 2.0])
                assert len(list(loader)) == 2
            else:
                with pytest.raises(TypeError, match="name what is what by `unpack`, which returns .*; got 3 items"):
                    list(loader)
    for wrong in (1, 4):
        with pytest.raises(TypeError, match=rf"must return \(inputs, labels\) or \(.*, weights\); got {wrong} items"):
            list(Loader([parts[:wrong]], lambda item: item))


def test_labels_and_weights_must_fit_the_examples():
    x, y, w = torch.ones(4, 2), torch.zeros(4, 3).long(), torch.ones(4)
    for targets in (y, y[:, 0]):
        for weights in (None, w, 0 * w, *([torch.ones(4, 3)] if targets.ndim == 2 else [])):
            check_batch(Batch(x, targets, weights))
    for targets in (torch.tensor(1), y[:3]):
        with pytest.raises(ValueError, match=r"`labels` must have shape \(4,\)"):
            check_batch(Batch(x, targets))
    for targets, weights in ((y, torch.ones(4, 2)), (y[:, 0], torch.ones(4, 1)), (y, torch.tensor(1.0)), (y, w[:3])):
        with pytest.raises(ValueError, match=r"`weights` must have shape \(4,\), one per example; got \("):
            check_batch(Batch(x, targets, weights))
    for bad in (-1, torch.inf, torch.nan):
        with pytest.raises(ValueError, match=f"`weights` must be finite and >= 0; got {'nan' if bad != bad else ''}"):
            check_batch(Batch(x, y, torch.cat([w[:3], torch.tensor([float(bad)])])))


def test_real_inputs_and_bytes_come_in_the_networks_dtype_and_other_integers_as_they_are():
    half, largest = torch.float16, torch.finfo(torch.float16).max
    for kind, becomes in (
        (torch.float64, half), (torch.float32, half), (torch.bfloat16, half), (half, half), (torch.uint8, half),
        (torch.int64, torch.int64), (torch.int32, torch.int32), (torch.int8, torch.int8), (torch.bool, torch.bool),
    ):  # fmt: skip
        given = {"a": torch.tensor([[0, 1], [1, 0]]).to(kind), "b": (torch.ones(2, 3).to(kind).T,)}
        found = pytrees.on(given, CPU, half)
        for leaf, other in zip(*map(torch.utils._pytree.tree_leaves, (found, given)), strict=True):
            assert leaf.dtype == becomes
            assert leaf.tolist() == other.tolist()
    wide = pytrees.on(torch.tensor([1e300, -largest], dtype=torch.float64), CPU, torch.float64)
    assert wide.tolist() == [1e300, -largest]
    assert pytrees.on(torch.tensor([largest, -largest]).double(), CPU, half).tolist() == [largest, -largest]
    assert pytrees.on(torch.tensor([torch.inf]).half(), CPU, half).isinf().all()  # which is found elsewhere
    assert pytrees.on(torch.zeros(3, 0).double(), CPU, half).shape == (3, 0)
    for large in (largest * 1.01, -1e6):
        with pytest.raises(ValueError, match=r"`inputs` must be finite in torch.float16, the network's; got up to \d"):
            pytrees.on(torch.tensor([1.0, large]).double(), CPU, half)
    with torch.inference_mode():
        inside = torch.ones(2)
        assert not pytrees.on(inside, CPU, torch.float32).is_inference()
    assert pytrees.num_bytes({"a": torch.zeros(3, 2), "b": torch.zeros(5, dtype=torch.int64)}) == 24 + 40
    assert pytrees.num_inputs(({"a": torch.zeros(3, 2)}, torch.zeros(5))) == 3
    told = pytrees.described((torch.zeros(3, 2), torch.zeros(3, dtype=torch.uint8)))
    assert told == "(n, 2) torch.float32 and (n) torch.uint8"

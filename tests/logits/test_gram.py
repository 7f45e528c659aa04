import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland import _arguments
from rmtland.logits import blocks
from tests import oracles


def inner(gradients):
    return np.einsum("mkd,nld->mknl", gradients, gradients)


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("width", [None, 7])
def test_every_inner_product_in_any_chunks_and_blocks(monkeypatch, in_torch, width):
    logits, labels, gradients = oracles.examples(9, 3, 25)
    if width:
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 27 * width)
    arrays = [torch.from_numpy(a) if in_torch else a for a in (logits, labels, gradients)]
    gram = rl.logit_gradient_gram(rl.DenseLogitGradients(*arrays, chunk_size=4))
    np.testing.assert_allclose(gram.matrix, inner(gradients), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(gram.logits, logits)
    np.testing.assert_array_equal(gram.labels, labels)
    assert (gram.num_examples, gram.num_classes, gram.num_parameters) == (9, 3, 25)


def test_logits_and_labels_are_those_of_the_pass_that_was_summed():
    logits, labels, gradients = oracles.examples(50, 3, 20)
    gram = rl.logit_gradient_gram(oracles.ScratchSource(logits, labels, gradients, rl.CrossEntropy()))
    order = [int(np.flatnonzero((logits == row).all(axis=1))[0]) for row in gram.logits]
    assert order != sorted(order)
    np.testing.assert_array_equal(gram.labels, labels[order])
    np.testing.assert_allclose(gram.matrix, inner(gradients[order]), rtol=1e-9, atol=1e-12)


def test_centered_is_the_gram_matrix_of_gradients_less_their_mean_over_logits():
    logits, labels, gradients = oracles.examples(6, 4, 30)
    gram = rl.logit_gradient_gram(rl.DenseLogitGradients(logits, labels, gradients)).centered()
    np.testing.assert_allclose(gram.matrix, inner(gradients - gradients.mean(axis=1, keepdims=True)), atol=1e-12)


def test_bad_input(monkeypatch):
    logits, labels, gradients = oracles.examples(5, 3, 4)
    matrix = inner(gradients)
    for bad in (matrix[:4], matrix[:, :2]):
        with pytest.raises(ValueError, match="must have shapes"):
            rl.LogitGradientGram(bad, logits, labels, 4)
    with pytest.raises(ValueError, match="must have shapes"):
        rl.LogitGradientGram(matrix, logits, labels[:3], 4)
    with pytest.raises(ValueError, match="`matrix`.*finite"):
        rl.LogitGradientGram(matrix * np.nan, logits, labels, 4)
    source = rl.DenseLogitGradients(logits, labels, np.full_like(gradients, 1e200))
    with pytest.raises(ValueError, match="must be finite"), np.errstate(over="ignore"):
        rl.logit_gradient_gram(source)
    monkeypatch.setattr(_arguments, "available_memory", lambda: 1000)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    with pytest.raises(MemoryError, match="measure on fewer examples"):
        rl.logit_gradient_gram(source)


def test_processes_that_cannot_gather_are_refused():
    arrays = oracles.examples(6, 3, 5)

    def refused(source):
        with pytest.raises(RuntimeError, match="must gather the rows"):
            rl.logit_gradient_gram(source)

    oracles.on_ranks(refused, arrays, rl.CrossEntropy(), [range(3), range(3, 6)])

import math

import numpy as np
import pytest
import torch

import rmtland as rl
from tests import oracles


def source(logits, labels, **kwargs):
    return rl.DenseLogitGradients(logits, labels, np.ones((*logits.shape, 1)), **kwargs)


def test_against_loops():
    logits, labels, _ = oracles.examples(40, 5, 1)
    p = [oracles.softmax(z) for z in logits]
    got = rl.output_statistics(source(logits, labels, chunk_size=7))
    assert got.loss == pytest.approx(np.mean([-np.log(q[y]) for q, y in zip(p, labels, strict=True)]))
    assert got.accuracy == np.mean([np.argmax(q) == y for q, y in zip(p, labels, strict=True)])
    assert got.entropy == pytest.approx(np.mean([-(q * np.log(q)).sum() for q in p]))
    assert got.max_probability == pytest.approx(np.mean([q.max() for q in p]))
    assert got.participation == pytest.approx(np.mean([(q**2).sum() for q in p]))


def test_errors_are_those_of_means_over_examples():
    logits, labels, _ = oracles.examples(40, 5, 1)
    got = rl.output_statistics(source(logits, labels, chunk_size=7))
    p = np.array([oracles.softmax(z) for z in logits])
    per_example = {
        "loss": -np.log(p[np.arange(40), labels]), "accuracy": p.argmax(axis=1) == labels,
        "entropy": -(p * np.log(p)).sum(axis=1), "max_probability": p.max(axis=1), "participation": (p**2).sum(axis=1),
    }  # fmt: skip
    for name, values in per_example.items():
        expected = np.std(values, ddof=1) / np.sqrt(40)
        assert getattr(got, f"{name}_error") == pytest.approx(expected, rel=1e-9), name
    assert math.isnan(rl.output_statistics(source(logits[:1], labels[:1])).loss_error)


def test_uniform_and_frozen_ends():
    uniform = rl.output_statistics(source(np.zeros((3, 4)), np.array([0, 1, 2])))
    assert (uniform.loss, uniform.entropy) == pytest.approx((math.log(4), math.log(4)))
    assert (uniform.max_probability, uniform.participation) == (0.25, 0.25)
    frozen = rl.output_statistics(source(1e4 * np.eye(3), np.array([0, 1, 0])))
    assert (frozen.entropy, frozen.max_probability, frozen.participation) == (0, 1, 1)
    assert frozen.accuracy == pytest.approx(2 / 3)
    assert frozen.loss == pytest.approx(1e4 / 3)


def test_torch_float32_is_summed_in_double():
    logits, labels, _ = oracles.examples(40, 5, 1)
    in_torch = rl.DenseLogitGradients(torch.tensor(logits).float(), torch.tensor(labels), torch.ones(40, 5, 1))
    expected = rl.output_statistics(source(logits, labels))
    assert rl.output_statistics(in_torch).loss == pytest.approx(expected.loss, rel=1e-6)


def test_needs_softmax():
    with pytest.raises(ValueError, match=r"`source` must have softmax outputs \(CrossEntropy\); got SquaredError"):
        rl.output_statistics(source(np.zeros((2, 2)), np.array([0, 1]), loss=rl.SquaredError()))

"""Losses of many outputs are worked out a part of the examples at a time: the same numbers."""

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland import _arguments
from rmtland.logits import loss_at
from rmtland.logits.loss_at import LossAt

N, C = 7, 5


def case(kind: str) -> LossAt:
    rng = np.random.default_rng(0)
    outputs = 3 * rng.standard_normal((N, C)).astype(np.float32)
    labels, weights = rng.integers(C, size=N), rng.uniform(0.5, 2.0, N)
    if kind == "soft":
        soft = rng.dirichlet(np.ones(C), N)
        return LossAt(rl.CrossEntropy(0.1), outputs, soft, weights, in_double=True)
    if kind == "torch":
        return LossAt(rl.CrossEntropy(), torch.as_tensor(outputs), torch.as_tensor(labels), None, in_double=True)
    return LossAt(rl.SquaredError() if kind == "squares" else rl.CrossEntropy(), outputs, labels, weights)


@pytest.mark.parametrize("kind", ["hard", "soft", "squares", "torch"])
def test_parts_give_what_all_at_once_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = case(kind)
    tangents = np.random.default_rng(1).standard_normal((N, C, 2))
    tangents = torch.as_tensor(tangents) if kind == "torch" else tangents

    def everything() -> list[np.ndarray]:
        return [np.asarray(a) for a in (at.value(), at.gradient(), at.hessian_product(tangents), at.hessian_factor())]

    whole = everything()
    monkeypatch.setattr(loss_at, "AT_ONCE", 2 * C)  # two examples, or one of two columns
    assert [some.stop for some, _ in at.parts()] == [2, 4, 6, 8]
    for ours, theirs in zip(everything(), whole, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    if kind in ("soft", "torch"):
        assert whole[1].dtype == np.float64


def test_statistics_and_second_derivatives_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, C)).double()
    x, y = torch.randn(N, 3, dtype=torch.float64), torch.arange(N) % C
    block = torch.eye(module[0].weight.numel() + 4 + 4 * C + C, dtype=torch.float64)

    def everything() -> list[np.ndarray]:
        source = rl.nets.NetworkLogitGradients(module, x, y)
        outputs = rl.output_statistics(source)
        own = np.array([outputs.loss, outputs.accuracy, outputs.entropy, outputs.participation])
        return [own, *((make(source) @ block).numpy() for make in (rl.nets.hessian, rl.gauss_newton))]

    whole = everything()
    monkeypatch.setattr(loss_at, "AT_ONCE", 2 * C)
    for ours, theirs in zip(everything(), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_curvature_of_a_large_vocabulary_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = np.zeros((2, 20_000), np.float32)
    at = LossAt(rl.CrossEntropy(), outputs, np.zeros(2, int), None)
    monkeypatch.setattr(_arguments, "available_memory", lambda: 1e9)
    with pytest.raises(MemoryError, match=r"the curvature of 2 examples in 20000 logits .* which trace_estimate takes"):
        at.hessian_factor()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("at_once", [1, 2 * C, 100])
def test_few_examples_or_none_come_as_they_are(n: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case("hard")
    at = LossAt(whole.loss, whole.outputs[:n], whole.targets[:n], whole.weights[:n])
    monkeypatch.setattr(loss_at, "AT_ONCE", at_once)
    np.testing.assert_array_equal(at.value(), whole.value()[:n])
    np.testing.assert_array_equal(at.gradient(), whole.gradient()[:n])
    assert sum(len(part.outputs) for _, part in at.parts()) == n

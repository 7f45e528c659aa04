"""A network and examples that several ranks share out, what they measure, and what one of them does wrong."""

import numpy as np
import torch
from torch import nn

import rmtland as rl
from rmtland.logits.accumulate import gather_logits

N, C, D = 11, 3, 53


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(), nn.Linear(5, C)).double()


def data(count=N):
    generator = torch.Generator().manual_seed(1)
    # Sorted labels: the first and last rank each lack a class.
    return torch.randn(count, 6, generator=generator, dtype=torch.float64), (torch.arange(count) * C) // count


def arrays(count=N):
    rng = np.random.default_rng(2)
    return rng.normal(size=(count, C)), (np.arange(count) * C) // count, rng.normal(size=(count, C, 7))


def numbers(result):
    """A result's public numbers as arrays."""
    if isinstance(result, torch.Tensor | np.ndarray):
        return np.asarray(result, dtype=float)
    if isinstance(result, dict):
        return {key: numbers(value) for key, value in result.items()}
    if hasattr(result, "__dict__"):
        return {key: np.asarray(value, dtype=float) for key, value in vars(result).items() if not key.startswith("_")}
    return np.asarray(result, dtype=float)


def block(count, dtype=torch.float64):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(3), dtype=dtype)


class Margins(rl.SumAccumulator):
    """Mean distance of the own logit above the mean of all, over all examples and by class."""

    def terms(self, chunk):
        margins = (chunk.own * chunk.logits).sum(1) - chunk.logits.mean(1)
        return margins.sum(), chunk.own.T @ margins, chunk.own.sum(0)

    def conclude(self, sums, source):
        return {"mean": sums[0] / source.num_examples, "by_class": sums[1] / sums[2]}


def everything(source):
    """Every statistic of any source."""
    logits, labels = gather_logits(source)
    vectors = block(source.num_parameters)
    by_group = rl.measure(source, "gradient", "clustering", by="parameter_groups")
    return {
        "clustering": numbers(rl.clustering(source)),
        "groups": numbers(rl.clustering(source, num_groups=4)),
        "scales": numbers(rl.logit_scales(source)),
        "class scales": numbers(rl.logit_scales(source, class_means=True)),
        "outputs": numbers(rl.output_statistics(source)),
        "gradient": numbers(rl.gradient(source)),
        "gauss_newton": numbers(rl.gauss_newton(source) @ vectors),
        "spectrum": numbers(rl.gauss_newton_spectrum(source)),
        "gram": numbers(rl.logit_gradient_gram(source)),
        "trace": numbers(rl.gauss_newton_trace(source)),
        "cross-class means": numbers(rl.cross_class_means(source)),
        "hierarchy": hierarchies(source, vectors),
        "streamed": streamed(source, start=vectors, tolerance=0),
        "own": numbers(rl.measure(source, own=Margins()).own),
        "logits": logits,
        "labels": labels,
        "by group": {f"{g} {name}": numbers(r) for g, m in by_group.items() for name, r in m.items()},
    }


def streamed(source, **options):
    """Outliers without an eigensolver, and the gradient's power along their vectors, which has no sign."""
    found = rl.streamed_outliers(source, **options)
    # Errors of a sample are told from groups of examples, which ranks deal out otherwise than one process.
    names = ("eigenvalues", *(["errors"] if "start" in options else []))
    slope = numbers(rl.gradient(source))
    powers = (numbers(found.eigenvectors).T @ slope) ** 2 / (slope @ slope)
    return {name: numbers(getattr(found, name)) for name in names} | {"powers": powers}


def hierarchies(source, vectors):
    """Products of the parts and their traces, with cross-class means kept and streamed."""
    found = {}
    for keep_pairs in (True, False):
        parts = rl.hierarchy(source, keep_pairs=keep_pairs)
        products = {part: numbers(getattr(parts, part) @ vectors) for part in ("A1", "A2", "B1", "B2")}
        found[str(keep_pairs)] = {**products, "traces": numbers(parts.traces)}
        assert parts.residual_norm < 1e-12
    return found


def second_derivatives(source):
    vectors = block(source.num_parameters)
    rung = rl.compare(source, num_draws=2, rungs=["hessian"], theory=False).stages["network"].rungs["hessian"]
    return {
        "rung (a)": {name: numbers(rung.mean(name)) for name in ("top_eigenvalue", "trace", "goldilocks_ratio")},
        "hessian": numbers(rl.nets.hessian(source) @ vectors),
        "logit_curvature": numbers(rl.nets.logit_curvature(source) @ vectors[:, 0]),
    }


def assert_same(got, expected, path=""):
    assert type(got) is type(expected), path
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key], f"{path}/{key}")
    else:
        scale = np.abs(np.nan_to_num(expected)).max(initial=0.0)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * max(scale, 1.0), err_msg=path)


def share(values, shares, rank):
    start = sum(shares[:rank])
    return [v[start : start + shares[rank]] for v in values]


def half(rank, count=N):
    inputs, labels = share(data(count), (count - count // 2, count // 2), rank)
    return inputs, labels


def message(call, *args, **kwargs):
    """What the call raises, as (type name, text)."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


class Failing:
    """A loader that raises in its passes from the `fails_from`-th on, those of its source's construction included."""

    def __init__(self, batches, fails_from):
        self.batches, self.fails_from, self.passes = batches, fails_from, 0

    def __iter__(self):
        self.passes += 1
        yield self.batches[0]
        if self.fails_from and self.passes >= self.fails_from:
            raise OSError("the disk is gone")
        yield from self.batches[1:]

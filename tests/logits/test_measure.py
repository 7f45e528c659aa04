from dataclasses import astuple, dataclass

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.logits import clustering
from rmtland.logits.accumulate import SharedChunk, accumulate
from tests import oracles

ARRAYS = oracles.examples(50, 3, 12)
GROUPS = {"a": slice(0, 5), "b": slice(5, 12)}
NAMES = (
    "gradient",
    "clustering",
    "logit_scales",
    "output_statistics",
    "gauss_newton_trace",
    "curvature_scales",
    "logit_gradient_lengths",
)


def source(**kwargs):
    return oracles.ScratchSource(*ARRAYS, rl.CrossEntropy(), **kwargs)


def same(a, b):
    """Bit for bit."""
    if isinstance(a, (np.ndarray, torch.Tensor)):
        np.testing.assert_array_equal(a, b)
    else:
        for x, y in zip(astuple(a), astuple(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_all_together_are_bit_for_bit_each_alone():
    dense = rl.DenseLogitGradients(*ARRAYS, chunk_size=17)
    together = rl.measure(dense, *NAMES)
    assert list(together) == list(NAMES)
    assert len(together) == len(NAMES)
    for name in NAMES:
        same(np.asarray(together[name]) if name.endswith("trace") else together[name], getattr(rl, name)(dense))
        assert getattr(together, name) is together[name]
    assert repr(together).startswith("Measurement(gradient=<12 float64>, clustering=Clustering(")


def test_one_pass_for_all():
    scratch = source()
    passes, chunks = [], scratch.chunks
    scratch.chunks = lambda: passes.append(1) or chunks()
    rl.measure(scratch, *NAMES)
    assert len(passes) == 1


def test_logit_gradients_are_made_once_per_chunk(monkeypatch):
    calls = []
    dense = oracles.ScratchChunk.dense
    monkeypatch.setattr(oracles.ScratchChunk, "dense", lambda self, p=slice(None): calls.append(1) or dense(self, p))
    rl.measure(source(), "clustering", "logit_scales")
    assert len(calls) == 3  # chunks


def test_options_and_names_of_ones_own():
    measured = rl.measure(
        source(shuffle=False),
        "logit_scales",
        by_class=rl.LogitScalesAccumulator(class_means=True),
        q=rl.ClusteringAccumulator(num_bootstrap=0),
        slope="gradient",
    )
    same(measured.by_class, rl.logit_scales(source(shuffle=False), class_means=True))
    assert measured.by_class.sigma_d > 0 == measured.logit_scales.sigma_d
    same(measured.q, rl.clustering(source(shuffle=False), num_bootstrap=0))
    same(measured.slope, rl.gradient(source(shuffle=False)))


def test_some_parameters_of_a_group_are_those_of_the_whole():
    grouped = rl.DenseLogitGradients(*ARRAYS, chunk_size=17, parameter_groups=GROUPS)
    for name, group in GROUPS.items():
        restricted = rl.restrict(grouped, name)
        size = group.stop - group.start
        for some in (slice(None), slice(1, size), slice(size - 1, None), slice(0, 1)):
            found = np.concatenate([np.asarray(chunk.dense(some)) for chunk in restricted.chunks()])
            np.testing.assert_array_equal(found, np.asarray(ARRAYS[2])[:, :, group][:, :, some])


@pytest.mark.parametrize("name", NAMES)
def test_states_merge(name):
    # Two halves, accumulated apart as two workers would, are the whole.
    from rmtland.logits.measure import STATISTICS

    whole = rl.DenseLogitGradients(*ARRAYS, chunk_size=25)
    statistic = STATISTICS[name]()
    states = [statistic.add(statistic.start(whole), SharedChunk(chunk, whole)) for chunk in whole.chunks()]
    merged = statistic.merge(statistic.merge(statistic.start(whole), states[0]), states[1])
    merged = statistic.merge(merged, statistic.start(whole))
    got, expected = statistic.finish(merged, whole), getattr(rl, name)(whole)
    if name in ("gradient", "gauss_newton_trace"):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    elif name == "clustering":
        np.testing.assert_allclose(got.same_logit, expected.same_logit, rtol=1e-12)
        np.testing.assert_allclose(got.same_logit_error, expected.same_logit_error, rtol=0.5)  # dealt otherwise
    else:
        for x, y in zip(astuple(got), astuple(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_without_examples(name):
    from rmtland.logits.measure import STATISTICS

    statistic = STATISTICS[name]()
    with pytest.raises(RuntimeError, match="`source` must yield at least one chunk; got none"):
        statistic.finish(statistic.start(source()), source())


@dataclass(frozen=True)
class MeanLogits(rl.SumAccumulator):
    def terms(self, chunk):
        return (chunk.logits.sum(axis=0),)

    def conclude(self, sums, source):
        return sums[0] / source.num_examples


def test_an_accumulator_of_ones_own():
    measured = rl.measure(source(), "gradient", mean=MeanLogits())
    np.testing.assert_allclose(measured.mean, ARRAYS[0].mean(axis=0))
    assert accumulate(source(), {7: MeanLogits()})[7].shape == (3,)


def sliced(name):
    logits, labels, gradients = ARRAYS
    return rl.DenseLogitGradients(logits, labels, gradients[:, :, GROUPS[name]], chunk_size=17)


@pytest.mark.parametrize("few", [False, True])
def test_by_parameter_groups(monkeypatch, few):
    if few:
        monkeypatch.setattr(clustering, "GROUP_BYTES", 1)  # a second pass, of one group alone
    grouped = rl.DenseLogitGradients(*ARRAYS, chunk_size=17, parameter_groups=GROUPS)
    measured = rl.measure(grouped, *NAMES, by="parameter_groups")
    assert list(measured) == ["a", "b"]
    for name, found in measured.items():
        alone = sliced(name)
        expected = rl.measure(alone, *NAMES)
        np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-12)
        np.testing.assert_allclose(found.gauss_newton_trace, rl.gauss_newton_spectrum(alone).trace, rtol=1e-12)
        for statistic in set(NAMES) - {"gradient", "gauss_newton_trace"}:
            for x, y in zip(astuple(found[statistic]), astuple(expected[statistic]), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-9)


@pytest.mark.parametrize("name", GROUPS)
def test_a_restricted_source_is_a_source(name):
    grouped = rl.DenseLogitGradients(*ARRAYS, chunk_size=17, parameter_groups=GROUPS)
    restricted, expected = rl.restrict(grouped, name), sliced(name)
    assert isinstance(restricted, rl.LogitGradients)
    assert restricted.num_parameters == expected.num_parameters
    v = np.random.default_rng(0).normal(size=(expected.num_parameters, 2))
    np.testing.assert_allclose(rl.gauss_newton(restricted) @ v, rl.gauss_newton(expected) @ v, rtol=1e-12)
    np.testing.assert_allclose(
        rl.gauss_newton_spectrum(restricted).eigenvalues, rl.gauss_newton_spectrum(expected).eigenvalues, atol=1e-12
    )
    same(rl.output_statistics(restricted), rl.output_statistics(expected))
    np.testing.assert_allclose(rl.logit_scales(restricted).sigma_E, rl.logit_scales(expected).sigma_E, rtol=1e-12)
    np.testing.assert_allclose(rl.clustering(restricted).same_logit, rl.clustering(expected).same_logit, rtol=1e-12)


def test_restricted_ranks():
    def run(rank):
        rank.parameter_groups = GROUPS
        return rl.clustering(rl.restrict(rank, "a")).same_logit

    found = oracles.on_ranks(run, ARRAYS, rl.CrossEntropy(), [np.arange(10), np.arange(10, 50)])
    np.testing.assert_allclose(found, rl.clustering(sliced("a")).same_logit, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: rl.measure(s, ["gradient"]), TypeError, r"`names` must be names, one after another; got \['gradi"),
        (lambda s: rl.measure(s), ValueError, "`statistics` must name at least one of gradient, .*; got none"),
        (lambda s: rl.measure(s, "q"), ValueError, "`statistics` must be one of 'gradient', .*; got 'q'"),
        (lambda s: rl.measure(s, q=rl.clustering), TypeError, "`statistics` must be names or accumulators; got <func"),
        (lambda s: rl.measure(s, q=rl.ClusteringAccumulator), TypeError, "must be names or accumulators; got <class"),
        (lambda s: rl.measure(s, "gradient", gradient="gradient"), TypeError, "names of their own; got 'gradient' tw"),
        (lambda s: rl.measure(s, "gradient", by="layer"), ValueError, "`by` must be one of None, 'parameter_groups'"),
        (lambda s: rl.measure(s, "gradient").q, AttributeError, "nothing called 'q' was measured; there are gradient"),
        (lambda s: rl.restrict(s, "c"), ValueError, "`group` must be one of 'all'; got 'c'"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(source())

import numpy as np
import pytest

import rmtland as rl
from rmtland.logits.accumulate import SumAccumulator, accumulate_one, checked_chunks, first_chunk, gather_logits
from tests import oracles

ARRAYS = oracles.examples(50, 3, 4)


def source(**kwargs):
    return oracles.ScratchSource(*ARRAYS, rl.CrossEntropy(), **kwargs)


class Sums(SumAccumulator):
    def terms(self, chunk):
        return chunk.logits.sum(axis=0), (chunk.logits**2).sum(axis=0)

    def conclude(self, sums, source):
        return sums


def test_sums_do_not_depend_on_the_chunks():
    for sizes in ((50,), (24, 24, 2), (1,) * 50):
        first, second = accumulate_one(source(sizes=sizes), Sums())
        np.testing.assert_allclose(first, ARRAYS[0].sum(axis=0))
        np.testing.assert_allclose(second, (ARRAYS[0] ** 2).sum(axis=0))


def test_gather_in_the_order_of_one_pass():
    logits, labels = gather_logits(source(shuffle=False))
    np.testing.assert_array_equal(logits, ARRAYS[0])
    np.testing.assert_array_equal(labels, ARRAYS[1])


STATISTICS = {
    "gradient": rl.gradient,
    "gauss_newton": lambda source: rl.gauss_newton(source) @ np.ones(source.num_parameters),
    "gauss_newton_spectrum": rl.gauss_newton_spectrum,
    "clustering": rl.clustering,
    "logit_scales": rl.logit_scales,
    "output_statistics": rl.output_statistics,
}


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("wrong", [49, 51, 100])
def test_chunks_that_do_not_sum_to_num_examples(statistic, wrong):
    short = source()
    short.num_examples = wrong
    with pytest.raises(RuntimeError, match=f"`source` has num_examples = {wrong} but its chunks hold 50"):
        STATISTICS[statistic](short)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_no_chunk(statistic):
    empty = source()
    empty.chunks = lambda: iter(())
    with pytest.raises(RuntimeError, match="`source` must yield at least one chunk; got none"):
        STATISTICS[statistic](empty)
    with pytest.raises(RuntimeError, match="at least one chunk"):
        first_chunk(empty)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda logits, labels, _: logits.__setitem__((7, 1), np.nan), ValueError, "`logits` must be finite; got NaN"),
        (lambda logits, labels, _: labels.__setitem__(7, 3), ValueError, r"`labels` must be in 0..2; got 3"),
    ],
)
def test_another_frameworks_chunks_are_checked_too(statistic, spoil, error, message):
    arrays = [array.copy() for array in ARRAYS]
    spoil(*arrays)
    with pytest.raises(error, match=message):
        STATISTICS[statistic](oracles.ScratchSource(*arrays, rl.CrossEntropy()))


@pytest.mark.parametrize("statistic", ["gradient", "gauss_newton_spectrum", "clustering", "logit_scales"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_logit_gradients_are_refused(statistic, bad):
    arrays = [array.copy() for array in ARRAYS]
    arrays[2][33, 1, 2] = bad
    with (
        pytest.raises(ValueError, match="the logit gradients of `source` must be finite; got NaN or infinite"),
        np.errstate(invalid="ignore"),
    ):
        STATISTICS[statistic](oracles.ScratchSource(*arrays, rl.CrossEntropy()))


def test_chunks_of_other_classes():
    wide = source()
    wide.num_classes = 4
    with pytest.raises(ValueError, match=r"`source` has num_classes = 4 but a chunk's logits have shape \(24, 3\)"):
        list(checked_chunks(wide))

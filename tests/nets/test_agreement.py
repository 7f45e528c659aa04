"""What ranks tell each other before they sum, and whether it fits together: in one process, by notes made up."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.nets.agreement import _checksum, _same_examples, agreed, described, digest_of_arrays
from rmtland.nets.distributed import _part
from rmtland.nets.ranks import _NOTE, SAMPLE, RankError, Ranks, _fingerprint, _short

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.complex64]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool])
def test_checksums_see_every_entry_its_place_dtype_and_shape(dtype):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 2 if dtype is torch.bool else 50, (3, 4), generator=generator).to(dtype)
    before = _checksum(tensor)
    assert _checksum(tensor.clone()) == before
    assert _checksum(tensor.T.contiguous().T) == before  # however it lies in memory
    assert _checksum(tensor.reshape(4, 3)) != before
    assert _checksum(tensor.to(torch.complex128)) != before
    for place in itertools.product(range(3), range(4)):
        other = tensor.clone()
        other[place] = ~other[place] if dtype is torch.bool else other[place] + 1
        assert _checksum(other) != before
        assert 0 <= _checksum(other)[2] < 2**64
        if dtype.is_floating_point:  # one bit: the last of the fraction, or the sign
            for changed in (torch.nextafter(tensor[place], tensor[place] + 1), -tensor[place]):
                other[place] = changed
                assert (_checksum(other) != before) == (changed.item() != tensor[place].item())
    flat = tensor.reshape(-1)
    for first, second in itertools.combinations(range(12), 2):
        if flat[first] != flat[second]:
            other = flat.clone()
            other[first], other[second] = flat[second], flat[first]
            assert _checksum(other.reshape(3, 4)) != before


def test_checksums_of_long_tensors_know_in_which_block_an_entry_lies():
    block = 2**20
    tensor = torch.zeros(2 * block + 3, dtype=torch.uint8)
    sums = set()
    for place in (0, 1, 40, block, block + 1, 2 * block, 2 * block + 1, len(tensor) - 1):
        tensor[place] = 1
        sums.add(_checksum(tensor)[2])
        tensor[place] = 0
    assert len(sums) == 8
    assert _checksum(tensor)[2] == 0


def test_digests_of_arrays_see_labels_and_some_of_the_inputs():
    inputs, labels = np.arange(120.0).reshape(40, 3), np.arange(40)
    before = digest_of_arrays(inputs, labels)
    assert digest_of_arrays(torch.from_numpy(inputs), torch.from_numpy(labels)) == before
    assert digest_of_arrays({"a": inputs}, labels) == before
    seen = []
    for row in range(40):
        other, wrong = inputs.copy(), labels.copy()
        other[row, 2] += 1
        wrong[row] += 1
        assert digest_of_arrays(inputs, wrong) != before
        seen.append(digest_of_arrays(other, labels) != before)
    assert 16 <= sum(seen) <= 40
    few = digest_of_arrays(inputs[:5], labels[:5])
    assert all(digest_of_arrays(inputs[:5] + np.eye(5)[[row]].T, labels[:5]) != few for row in range(5))
    assert digest_of_arrays(inputs, labels.reshape(20, 2)) != before


@dataclasses.dataclass
class Seen:
    """Stands for the fingerprint of a loader's examples."""

    of: str

    def same(self, other: Any) -> bool:
        return other is not None and self.of == other.of


def facts(num_examples=4, **changed):
    usual = {
        "num_examples": num_examples, "num_classes": 3, "num_parameters": 7, "parameter_groups": {"w": slice(0, 7)},
        "loss": "CrossEntropy", "dtype": "float64", "examples": object(), "fingerprint": None, "mean_weight": 1.0,
        "tensors": {"w": ("float64", (7,), 11), "running_mean": ("float64", (2,), 5)},
    }  # fmt: skip
    return usual | changed


def test_ranks_that_fit_together_are_described_by_the_first_with_examples():
    empty = {"num_examples": 0, "tensors": facts()["tensors"]}
    first, second = facts(5), facts(6)
    assert agreed([empty, first, second], None) is first
    assert agreed([empty, first, second], 11) is first
    assert agreed([first, {"num_examples": 0}], None) is first  # an array's rank without examples tells nothing
    # One example alone, twice the same: nobody can tell whether it is one.
    assert agreed([facts(1, examples=None), facts(1, examples=None)], 2)["num_examples"] == 1


SAME = "`source` must have examples of its own on every rank; ranks {} and {} have the same ones"


@pytest.mark.parametrize(
    ("ranks", "total", "told"),
    [
        ([{"num_examples": 0}, {"num_examples": 0}], None, "`source` must have at least one example on some rank"),
        ([facts(), facts(num_classes=4)], None, "the same num_classes on every rank; got 3 on rank 0 and 4 on rank 1"),
        ([{"num_examples": 0}, facts(), facts(num_parameters=8)], None, "num_parameters .* 7 on rank 1 and 8 on"),
        ([facts(), facts(parameter_groups={})], None, "the same parameter_groups on every rank"),
        ([facts(), facts(loss="SquaredError")], None, "loss .* CrossEntropy on rank 0 and SquaredError on rank 1"),
        ([facts(), facts(dtype="float32")], None, "dtype .* float64 on rank 0 and float32 on rank 1"),
        ([facts(), facts(examples="a"), facts(examples="a")], None, SAME.format(1, 2)),
        ([facts(fingerprint=Seen("a")), facts(), facts(fingerprint=Seen("a"))], None, SAME.format(0, 2)),
        ([facts(), facts(tensors=facts()["tensors"] | {"running_mean": ("float64", (2,), 6)})], None,
         "'running_mean' of rank 1 differs from that of rank 0"),
        ([{"num_examples": 0}, facts(), {"num_examples": 0, "tensors": facts()["tensors"] | {"more": 0}}], None,
         "'more' of rank 2 differs from that of rank 1"),
        ([facts(), facts(tensors={"w": facts()["tensors"]["w"]})], None, "'running_mean' of rank 1 differs"),
        ([facts(5), facts(6)], 12, r"a dataset of 12 and 11 examples on 2 ranks$"),
        ([facts(5), facts(6)], 10, r"a dataset of 10 and 11 examples on 2 ranks \(DistributedSampler repeats"),
    ],
)  # fmt: skip
def test_ranks_that_do_not_fit_are_told_which_and_what(ranks, total, told):
    with pytest.raises(ValueError, match=told):
        agreed(ranks, total)


@pytest.mark.parametrize(
    "pair",
    [(facts(4, examples="a"), facts(5, examples="a")), (facts(fingerprint=Seen("a")), facts(fingerprint=Seen("b"))),
     (facts(fingerprint=Seen("a")), facts())],
)  # fmt: skip
def test_ranks_with_other_examples_are_not_taken_for_the_same(pair):
    assert agreed(list(pair), None) is pair[0]


@pytest.mark.parametrize(("count", "size"), [(11, 3), (3, 5), (0, 2), (12, 4), (7, 1)])
def test_parts_are_consecutive_and_alike(count, size):
    parts = [range(count)[_part(count, rank, size)] for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def note(kind="sum", source=1, shape=(5,), *, rows=0, operand=(0.0, 0.0, 0.0), failed=0, said=""):
    made = np.zeros((), dtype=_NOTE)
    made["kind"], made["source"], made["rows"], made["failed"], made["said"] = kind, source, rows, failed, said.encode()
    made["shape"][: len(shape) + 1] = [len(shape), *shape]
    made["operand"] = operand
    return made


def check(*notes):
    ranks = object.__new__(Ranks)
    ranks.rank, ranks.size = 0, len(notes)
    ranks._check(np.stack(notes))


def test_notes_that_agree_pass():
    check(note(), note())
    check(note(operand=(1.0, 2.0, 0.5)), note(operand=(1.0 + 1e-5, 2.0, 0.5 - 1e-4)))  # rounding of another device
    check(note(operand=(np.nan, np.nan, np.nan)), note(operand=(np.nan, np.nan, np.nan)))
    # Ranks without rows do not know the shape of the others' rows; the first to know may be any.
    check(note("gather", shape=()), note("gather", shape=(3, 2), rows=4), note("gather", shape=(9,)))


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ([note(), note(failed=1, said="ValueError: no\ufffd"), note(failed=1, said="late")],
         "rank 0 of 3: rank 1 failed, so all give up: ValueError: no"),
        ([note(), note("gather", rows=2)], r"0 is at a sum of shape \(5,\) of source 1 and rank 1 at gathered rows"),
        ([note(), note(), note(source=2)], r"and rank 2 at a sum of shape \(5,\) of source 2"),
        ([note(), note(shape=(5, 1))], r"and rank 1 at a sum of shape \(5, 1\) of source 1"),
        ([note("objects"), note()], r"rank 0 is at a new source and rank 1 at a sum of shape \(5,\) of source 1"),
        ([note("gather", shape=(3,), rows=2), note("gather", shape=(4,), rows=1)],
         r"rank 0 is at gathered rows of shape \(3,\) of source 1 and rank 1 at gathered rows of shape \(4,\)"),
        ([note("gather", source=1, shape=()), note("gather", source=2, shape=())], "source 1 and rank 1 .* source 2"),
        ([note(operand=(0.0, 2.0, 0.5)), note(operand=(0.0, 2.0, 0.501))], "operand .* that of rank 1 differs"),
        ([note(operand=(0.0, 2.0, 0.5)), note(operand=(3e-4, 2.0, 0.5))], "operand .* that of rank 1 differs"),
        ([note(), note(), note(operand=(1.0, 1.0, 1.0))], "operand .* that of rank 2 differs from rank 0's"),
    ],
)  # fmt: skip
def test_notes_that_do_not_agree_name_the_rank(notes, told):
    with pytest.raises(RankError, match=told):
        check(*notes)


def test_fingerprints_are_sum_length_and_a_projection_of_entries_spread_over_all():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = _fingerprint(x.reshape(10, 100))
    np.testing.assert_allclose(found[:2], [x.double().sum(), x.double().norm()], rtol=1e-12)
    swapped = x.clone()
    swapped[3], swapped[701] = x[701], x[3]
    other = _fingerprint(swapped)
    np.testing.assert_allclose(other[:2], found[:2], rtol=1e-12)
    assert abs(other[2] - found[2]) > 1e-3
    assert _fingerprint(torch.zeros(0)).tolist() == [0, 0, 0]
    # Of long vectors every k-th entry, first to last.
    long = torch.zeros(3 * SAMPLE + 1)
    weights = []
    for place in (0, 1, 3, 3 * SAMPLE - 3, 3 * SAMPLE):
        long[place] = 1
        weights.append(_fingerprint(long)[2])
        long[place] = 0
    assert weights[1] == 0
    assert np.count_nonzero(weights) == 4
    assert len(set(weights)) == 5
    assert max(map(abs, weights)) <= 1


def test_what_a_rank_says_is_cut_to_what_a_note_holds():
    assert _short("é" * 300) == ("é" * 300).encode()[:400]
    assert _short("short") == b"short"


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("num_examples", [1, 2])
def test_what_a_rank_tells_of_its_source(num_examples, num_outputs):
    """One example alone is not told: two ranks may have the same."""
    module = torch.nn.Linear(4, num_outputs).double()
    x, y = torch.randn(4, 4).double(), torch.zeros(4, dtype=torch.int64)
    loss = rl.CrossEntropy() if num_outputs > 1 else rl.Logistic()
    first, second, other = (
        described(rl.nets.NetworkLogitGradients(module, x[some], y[some], loss))
        for some in (slice(num_examples), slice(num_examples), slice(2, 2 + num_examples))
    )
    assert (first["examples"] is None) == (num_examples == 1)
    assert _same_examples(first, second) == (num_examples > 1)
    assert not _same_examples(first, other)
    assert (first["num_classes"], first["num_parameters"]) == (num_outputs, 5 * num_outputs)
    assert (first["num_examples"], first["dtype"], first["device"]) == (num_examples, "float64", "cpu")
    assert first["mean_weight"] == 1

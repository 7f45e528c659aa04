"""The q-values in one streamed pass, and their errors in a second, against all pairs; and the memory the pass takes.

All pairs would be (N C)^2 / 2 inner products of length D. They are taken the quick way, as matrix products of blocks of
unit vectors that lie in memory already, and on one pair of blocks only: the time is scaled to the number of pairs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import rmtland as rl
from benchmarks.timing import criterion, interleaved, peak_memory, print_table
from rmtland.logits.dense import DenseChunk
from rmtland.logits.gradients import example_slices

N, C, D = 1000, 10, 50_000
BLOCK = 100
"""Examples in a block of the all-pairs product: 1,000 x 50,000 unit vectors, large enough for BLAS."""


class Generated:
    """A source whose logit gradients exist one chunk at a time: windows of one pool of noise, plus class means."""

    loss = rl.CrossEntropy()
    chunk_size = 16

    def __init__(self, num_examples: int, num_classes: int, num_parameters: int) -> None:
        self.num_examples, self.num_classes, self.num_parameters = num_examples, num_classes, num_parameters
        self.parameter_groups = {"all": slice(0, num_parameters)}
        rng = np.random.default_rng(0)
        self.logits = rng.standard_normal((num_examples, num_classes))
        self.labels = rng.integers(0, num_classes, num_examples)
        self.means = rng.standard_normal((num_classes, num_parameters), dtype=np.float32)
        self.pool = rng.standard_normal(2**20 + num_parameters, dtype=np.float32)
        self.starts = rng.integers(0, 2**20, (num_examples, num_classes))

    def gradients(self, examples: slice) -> np.ndarray:
        block = np.empty((examples.stop - examples.start, self.num_classes, self.num_parameters), dtype=np.float32)
        for row, starts in zip(block, self.starts[examples], strict=True):
            for k, start in enumerate(starts):
                np.add(self.means[k], self.pool[start : start + self.num_parameters], out=row[k])
        return block

    def chunks(self) -> Iterator[DenseChunk]:
        for part in example_slices(self.num_examples, self.chunk_size):
            yield DenseChunk(self.logits[part], self.labels[part], self.gradients(part))

    def reduce(self, x: np.ndarray) -> np.ndarray:
        return x


def stream(small: bool) -> None:
    """One pass over a generated source; measured in a child process."""
    rl.clustering(Generated(*((20, 3, 500) if small else (N, C, D))))


def by_all_pairs(gradients: np.ndarray, labels: np.ndarray) -> list[float]:
    units = gradients / np.linalg.norm(gradients, axis=2, keepdims=True)
    cosines = np.tensordot(units, units, axes=(2, 2)).transpose(1, 3, 0, 2)  # (C, C, N, N)
    others = ~np.eye(len(labels), dtype=bool)
    same_class = [cosines[k, k][np.outer(labels == k, labels == k) & others].mean() for k in range(gradients.shape[1])]
    same_logit = [cosines[k, k][others].mean() for k in range(gradients.shape[1])]
    different = [cosines[k, j][others].mean() for k in range(len(cosines)) for j in range(len(cosines)) if k != j]
    return [float(np.mean(values)) for values in (same_class, same_logit, different)]


def values(q: rl.Clustering) -> list[float]:
    return [q.same_logit_same_class, q.same_logit, q.different_logits]


def main() -> int:
    source = Generated(60, 4, 2000)
    expected = by_all_pairs(source.gradients(slice(0, 60)).astype(float), source.labels)
    np.testing.assert_allclose(values(rl.clustering(source)), expected, rtol=1e-4)

    whole = Generated(N, C, D)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.npy"
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(N, C, D))
        for part in example_slices(N, 50):
            file[part] = whole.gradients(part)
        del file
        mapped = rl.DenseLogitGradients(whole.logits, whole.labels, np.load(path, mmap_mode="r"))
        np.testing.assert_allclose(values(rl.clustering(mapped)), values(rl.clustering(whole)), rtol=1e-6, atol=1e-8)

        units = [whole.gradients(slice(start, start + BLOCK)).reshape(BLOCK * C, D) for start in (0, BLOCK)]
        one_pair = "all pairs (one pair of blocks)"
        functions = {
            "clustering, memory-mapped file": lambda: rl.clustering(mapped),
            "clustering, generated chunks": lambda: rl.clustering(whole),
            "clustering without errors, memory-mapped file": lambda: rl.clustering(mapped, num_bootstrap=0),
            one_pair: lambda: units[0] @ units[1].T,
        }
        seconds = interleaved(functions, repeats=5, pick=min)
    pairs = (N // BLOCK) * (N // BLOCK + 1) / 2  # of blocks, each with itself too: symmetry is used
    all_pairs = pairs * seconds.pop(one_pair)
    mine = seconds["clustering, memory-mapped file"]
    print_table(
        f"N = {N}, C = {C}, D = {D}, float32, fastest of 5",
        seconds | {f"all pairs (scaled from one of {pairs:.0f} pairs of blocks)": all_pairs},
        "clustering, memory-mapped file",
    )
    full = 4 * N * C * D
    peak = peak_memory("benchmarks.bench_clustering", "stream")
    print(f"  peak memory of the pass {peak / 2**20:.0f} MiB, of all logit gradients {full / 2**20:.0f} MiB")
    single = seconds["clustering without errors, memory-mapped file"]
    # Errors take a second pass at this D, where groups of examples would be too few to tell them.
    met = [
        criterion("all pairs / clustering without errors", all_pairs / single, at_least=50),
        criterion("all pairs / clustering", all_pairs / mine, at_least=25),
        criterion("peak memory / all logit gradients", peak / full, at_most=0.1),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

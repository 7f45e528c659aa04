"""Examples shared out over the ranks of torch.distributed: the same statistics, each from one sum over ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rmtland._arguments import integer
from rmtland._arrays import Array, is_torch, like, zeros
from rmtland.logits.accumulate import prototype
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk
from rmtland.logits.losses import Loss
from rmtland.nets.agreement import agreed, described, digest_of_arrays
from rmtland.nets.gradients import NetworkLogitGradients
from rmtland.nets.layer_gram import Columns, layer_matrices
from rmtland.nets.ranks import RankError, Ranks, place_in
from rmtland.nets.snapshot import Snapshot

TIMEOUT = 1800.0
"""Seconds that a rank waits for the others, as torch has it: longer than one rank's pass may take beyond another's."""

__all__ = ["DistributedSource", "RankError", "rank_range", "shard"]


class EmptyChunk:
    """No examples: what a rank without any adds to a sum."""

    def __init__(self, source: DistributedSource) -> None:
        self._like = source.prototype
        self._sizes = source.num_classes, source.num_parameters

    @property
    def logits(self) -> Array:
        """(0, C)."""
        return zeros(self._like, (0, self._sizes[0]))

    @property
    def labels(self) -> Array:
        """(0,)."""
        return like(zeros(self._like, (0,), np.int64 if not is_torch(self._like) else torch.int64), np.zeros(0))

    def jvp(self, tangents: Array) -> Array:
        """J V, (0, C, k)."""
        return zeros(self._like, (0, self._sizes[0], tangents.shape[1]))

    def vjp(self, cotangents: Array) -> Array:
        """J^T U, zeros (D, k)."""
        return zeros(self._like, (self._sizes[1], cotangents.shape[2]))

    def dense(self, parameters: slice = slice(None)) -> Array:
        """J, (0, C, d)."""
        start, stop, _ = parameters.indices(self._sizes[1])
        return zeros(self._like, (0, self._sizes[0], stop - start))


class EmptySource:
    """The source of a rank without examples: the network is there, its inputs are elsewhere."""

    def __init__(self, network: Snapshot | None = None) -> None:
        self.network, self.loss, self.num_examples = network, None, 0


class DistributedSource:
    """A rank's source among those of a process group: together they are one source, the same on every rank.

    Every statistic, product and operator of the wrapped sources is available, and gives the numbers that one process
    with all the examples would get, to rounding, on every rank. Examples are what is shared out; parameters, and
    vectors of length D, are on every rank.

    Parameters
    ----------
    source : LogitGradients or None
        Of this rank's own examples: a network's, a draw's or arrays. None for a rank that has none.
    process_group : torch.distributed.ProcessGroup, optional
        The default group by default. With gloo, sums travel through host memory; with NCCL they stay on the GPUs.
    num_examples : int, optional
        Size of the whole dataset, where known: compared with what the ranks have together: sequences once, and
        inputs whose labels are ignored too.
    timeout : float
        Seconds that a rank waits for the others before it gives up with a `RankError`: longer than the slowest rank's
        pass may take beyond the fastest's.

    Raises
    ------
    RuntimeError
        Where torch.distributed is not initialised.
    ValueError
        For sources of different networks (the first parameter or buffer that differs is named), losses or numbers of
        outputs, two ranks with the same examples, or other examples than `num_examples`.
    RankError
        Here and in every statistic: another rank failed, died, did not come in time, or called something else.

    Notes
    -----
    Made, and used, by all ranks together: each calls the same statistics in the same order. Sums are added in float64
    and handed out in the dtype they came in. Each is one all-reduce, after a short note from every rank to every other
    (about 500 bytes) by which errors travel. Random numbers are drawn on every rank alike: give functions that take
    `rng` a seed; vectors that differ between ranks are refused at the first product.

    `gather_logits` collects from all ranks in rank order. `gauss_newton_spectrum` by examples gathers layer inputs and
    signals of all examples (1 GiB at a time; of other sources rows, 256 MiB at a time) on every rank, which multiplies
    some of them and holds the whole matrix of (N rank(A))^2 numbers. `streamed_outliers` leaves nothing out here: its
    eigenvalues and vectors are those of one process at `tolerance=0` which goes first through what each rank goes first
    through, to rounding, its errors told from other groups of examples; with a `start` all is as in one process.

    Examples
    --------
    On each of the processes that torchrun starts::

        torch.distributed.init_process_group()
        mine = rl.nets.NetworkLogitGradients(network, my_inputs, my_labels)
        source = rl.nets.DistributedSource(mine)
        rl.clustering(source)                                # of all examples, the same on every rank
    """

    network: Any

    def __init__(
        self,
        source: LogitGradients | EmptySource | None,
        process_group: Any = None,
        *,
        num_examples: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._ranks = Ranks.of(process_group, timeout)
        try:
            if num_examples is not None:
                num_examples = integer("num_examples", num_examples, at_least=1)
            self._local: Any = EmptySource() if source is None else source
            mine = described(self._local)
        except BaseException as error:
            self._ranks.report(error)
            raise
        everyone = self._ranks.gather_objects(mine | {"last_source": self._ranks.last_source})
        # Counted together: a rank that failed to make a source has counted it not.
        self._number = self._ranks.last_source = 1 + max(facts["last_source"] for facts in everyone)
        some = agreed(everyone, num_examples)
        counts = [facts["num_examples"] for facts in everyone]
        self.rank, self.examples_per_rank = self._ranks.rank, tuple(counts)
        self.num_examples: int = sum(counts)
        self.num_classes: int = some["num_classes"]
        self.num_parameters: int = some["num_parameters"]
        self.parameter_groups: Mapping[str, slice] = some["parameter_groups"]
        losses = self._ranks.gather_objects(self._local.loss) if 0 in counts else []
        loss: Any = self._local.loss if counts[self._ranks.rank] else losses[int(np.argmax(counts))]
        self.loss: Loss = loss
        self.prototype: Array = _prototype(self._local, some)
        self.rounding: float = max(facts["rounding"] for facts in everyone)
        network = getattr(self._local, "network", None)
        if network is not None:
            self.network, self.matrices, self.parameter_vector = network, self._matrices, network.vector
        self._weigh(everyone)

    def _weigh(self, everyone: list[dict[str, Any]]) -> None:
        """Divide example weights by their mean over all ranks, as one process would."""
        total = sum(facts["mean_weight"] * facts["num_examples"] for facts in everyone)
        if any(facts["mean_weight"] != 1 for facts in everyone) and self._local.num_examples:
            self._local = copy.copy(self._local)
            self._local.divide_weights(total / self.num_examples)

    def chunks(self) -> Iterator[LogitGradientsChunk]:
        """Yield this rank's examples; one chunk of none where it has none."""
        if self._local.num_examples:
            yield from self._local.chunks()
        else:
            yield EmptyChunk(self)

    def reduce(self, x: Array) -> Array:
        """Sum over ranks, added in float64, the same bits on every rank."""
        return _like_given(x, self._ranks.sum(_tensor(x), self._number))

    def gather(self, x: Array) -> Array:
        """Rows (n, ...) of all ranks in rank order, on every rank; n may differ between them."""
        return _like_given(x, self._ranks.gather(_tensor(x), self._number))

    def announce(self, operand: Array) -> None:
        """Have `operand` compared with that of the other ranks at the next sum."""
        self._ranks.announce(_tensor(operand))

    def report(self, error: BaseException) -> None:
        """Tell the other ranks that this one gives up; does not wait for them."""
        self._ranks.report(error)

    def checkpoint(self, path: str | Path) -> Path:
        """A file of this rank's own for the `checkpoint` of a run, which starts as a copy of rank 0's.

        Ranks write their checkpoints at different moments, so that after a crash each stands elsewhere; from here all
        go on where rank 0 stood. Called by all ranks together, before the run.

        Parameters
        ----------
        path : path
            Rank 0's file; that of rank r has ".rank<r>" after its name.

        Returns
        -------
        Path

        Examples
        --------
        ``rl.lanczos(operator, 100, rng=0, checkpoint=source.checkpoint("run.npz"))``
        """
        whole = Path(path)
        mine = whole.with_name(f"{whole.name}.rank{self.rank}") if self.rank else whole
        self._ranks.copy_file(mine)
        return mine

    def gather_objects(self, thing: Any) -> list[Any]:
        """A Python object of each rank, in rank order."""
        return self._ranks.gather_objects(thing)

    def _matrices(
        self, columns: Columns, vector: Tensor, groups: Sequence[Sequence[str]], outer: Sequence[bool]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Gram matrices layer by layer, as a network's source offers them."""
        layers = next(iter(self._local.chunks())).layers() if self._local.num_examples else None
        # What one rank's examples show layers not to account for, none takes from layers.
        rest = {name for names in self.gather_objects(layers and layers.rest) for name in names or ()}
        if layers is not None:
            layers.rest = tuple(name for name in self.parameter_groups if name in rest)
        memory = self._local.room() if hasattr(self._local, "room") else None
        # All ranks must take the same tensors in each pass: the least of what they have decides.
        some = [each for each in self.gather_objects(memory) if each is not None]
        return layer_matrices(self, layers, columns, vector, groups, outer, min(some) if some else None)


def rank_range(num_examples: int, process_group: Any = None) -> range:
    """The examples of this rank when a dataset is cut into consecutive parts, without repeating any.

    Parameters
    ----------
    num_examples : int
        Of the whole dataset.
    process_group : torch.distributed.ProcessGroup, optional
        The default group by default.

    Returns
    -------
    range
        Sizes differ by one at most; empty where there are more ranks than examples. With a map-style dataset:
        ``DataLoader(Subset(dataset, rank_range(len(dataset))), batch_size)``.

    Raises
    ------
    RuntimeError
        Where torch.distributed is not initialised.
    """
    return range(integer("num_examples", num_examples, at_least=0))[_part(num_examples, *place_in(process_group))]


def _part(num_examples: int, rank: int, size: int) -> slice:
    return slice(num_examples * rank // size, num_examples * (rank + 1) // size)


def shard(
    module: torch.nn.Module,
    inputs: Any,
    labels: Any = None,
    *,
    process_group: Any = None,
    timeout: float = TIMEOUT,
    num_examples: int | None = None,
    **options: Any,
) -> DistributedSource:
    """A network's logit gradients with the examples shared out over the ranks of a process group.

    Parameters
    ----------
    module : torch.nn.Module
        With the same parameters and buffers on every rank. DistributedDataParallel is taken off.
    inputs, labels : arrays (N, ...), (N,), or a loader
        Arrays of the whole dataset, the same on every rank (memory-mapped ones are read in part): each rank takes
        `rank_range(N)`. Or a loader of this rank's own examples, see `rank_range`.
    process_group, timeout, num_examples
        As for `DistributedSource`.
    **options
        As for `NetworkLogitGradients`; `weights` of arrays are cut as the inputs are.

    Returns
    -------
    DistributedSource

    Raises
    ------
    ValueError
        As for `DistributedSource` and `NetworkLogitGradients`; for arrays that differ between ranks, and for loaders
        whose examples are together more than the dataset's, which `DistributedSampler` repeats to give every rank
        equally many.
    RankError
        On the other ranks, where one of them raises.

    Examples
    --------
    On each of the processes that torchrun starts::

        torch.distributed.init_process_group()
        source = rl.nets.shard(network, inputs, labels)
        rl.gauss_newton_spectrum(source)
    """
    ranks = Ranks.of(process_group, timeout)
    digest = b""
    try:
        if isinstance(module, torch.nn.parallel.DistributedDataParallel):
            module = module.module
        if labels is None:
            num_examples = _size_of_dataset(inputs) if num_examples is None else num_examples
            empty = _is_empty(inputs)
        else:
            (count, *_), digest = np.shape(labels), digest_of_arrays(inputs, labels)
            part = _part(count, ranks.rank, ranks.size)
            num_examples, empty = count, part.start == part.stop
            inputs, labels = tree_map(lambda leaf: leaf[part], inputs), labels[part]
            if options.get("weights") is not None:
                options["weights"] = options["weights"][part]
        mine: Any = EmptySource(Snapshot(module)) if empty else NetworkLogitGradients(module, inputs, labels, **options)
    except BaseException as error:
        ranks.report(error)
        raise
    if len(set(ranks.gather_objects(digest))) > 1:
        raise ValueError(
            "`inputs` and `labels` must be the whole dataset, the same on every rank; got arrays that differ. For "
            "shares of your own use DistributedSource(NetworkLogitGradients(module, my_inputs, my_labels))"
        )
    return DistributedSource(mine, process_group, timeout=timeout, num_examples=num_examples)


def _is_empty(loader: Any) -> bool:
    try:
        return len(loader) == 0
    except TypeError:
        return next(iter(loader), None) is None


def _size_of_dataset(loader: Any) -> int | None:
    """How many examples a DistributedSampler deals out, before it repeats or drops any."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, torch.utils.data.DistributedSampler):
        return len(sampler.dataset)  # type: ignore[arg-type]
    return None


def _tensor(x: Array) -> Tensor:
    if is_torch(x):
        return x.detach()  # type: ignore[no-any-return]
    array = np.asarray(x)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _like_given(x: Array, total: Tensor) -> Array:
    return total if is_torch(x) else total.numpy()


def _prototype(source: Any, facts: dict[str, Any]) -> Array:
    """Of this rank's own products; of the other ranks' kind where it has none."""
    if source.num_examples:
        return prototype(source)
    if getattr(source, "network", None) is not None:
        return torch.empty(0, dtype=getattr(torch, facts["dtype"]), device=source.network.vector.device)
    if facts["device"] is None:
        return np.empty(0, dtype=facts["dtype"])
    return torch.empty(0, dtype=getattr(torch, facts["dtype"]), device=facts["device"])

"""A network measured while it trains, or afterwards from its checkpoints."""

from __future__ import annotations

import bisect
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from rmtland._arguments import function, integer, iterable
from rmtland._arguments import path as named_path
from rmtland.nets.moment import (
    Moment,
    Values,
    checked_accumulators,
    checked_statistics,
    pair,
    weight_norm,
)
from rmtland.nets.record_store import RecordStore, open_record
from rmtland.nets.training_hook import TrainingHook

if TYPE_CHECKING:
    import xarray as xr

    from rmtland.logits.accumulate import Accumulator


class TrainingRecord(TrainingHook):
    """Measures a network at chosen steps of any training loop, into an xarray Dataset on disk.

    Make it before the loop and call `step` after each step of the optimiser; the training is, bit for bit, the same
    as without. What a kill interrupts is measured again when the training goes on with a record of the same path.

    Parameters
    ----------
    path : path
        Folder of the Zarr store: new, empty, or a record of this network to go on with. Nothing else is touched.
    module : torch.nn.Module
        Measured in evaluation mode at a copy of its parameters; modes, gradients, buffers and random states are left
        as found.
    inputs : array (N, ...), a loader, or a pair (inputs, labels)
        Examples to measure on, as `NetworkLogitGradients` takes them: a few hundred, the same at every step.
    labels : array (N,), optional
    test : pair or loader, optional
        Examples to measure on beside those; the axis `split` then has "train" and "test".
    steps : iterable of int, optional
        Steps to measure at; 0 is before the first. A step at which `step` is not called counts at the next call.
    every : int, optional
        Instead of `steps`: 0 and each multiple. By default 0, 1, 2, 4, 8, ...: a number of measurements that does not
        depend much on how long the training takes.
    start : int
        Steps already taken, where a training goes on from a checkpoint.
    statistics : iterable of str, optional
        Any of "outputs" (loss, accuracy, entropy, max_probability, participation), "logit_scales" (logit_variance,
        sigma_c, sigma_E, snr), "lengths" (mean lengths of the logit gradients), "clustering" (q-values),
        "gauss_newton" and "hessian" (largest eigenvalues, gradient power in each and in the top C - 1, Trace/||.||_F);
        by default all of these, of another loss than cross-entropy "outputs" (the loss alone), "gauss_newton" and
        "hessian". And "hierarchy": traces of A1, A2, B1 and B2, whole and by tensor, top eigenvalues, and to which of
        A1 and B1 the C - 1 outliers of G belong (`attribution_changes` tells when they pass from one to the other).
        Weight norm and gradient norm are always there.
    accumulators : mapping of str to Accumulator, optional
        Statistics of your own, as `measure` takes them, in the same pass: numbers, arrays, or the fields of a mapping
        or dataclass that are such, stored as `name` or `name_field`.
    k : int, optional
        How many of the largest eigenvalues; by default C.
    seed : int
        Of random probes and bootstraps; each step has its own numbers, which do not depend on what was measured before.
    **options
        Of `NetworkLogitGradients`: loss, batch_size, memory_budget, forward, unpack and so on.

    Attributes
    ----------
    path : Path
    steps : list of int
        Steps that are stored.

    Raises
    ------
    ValueError
        For settings out of range, `steps` and `every` together, a path that holds something else or a record with
        other settings.
    TypeError
        For something that is no module.

    Notes
    -----
    Memory does not grow with the number of steps. Of several processes one keeps the record.

    Beside each number, as `..._error`, stands its error: over examples
    for means and q-values, over logits for sigma_c, sigma_E and their SNR, 0 for matrices that are diagonalised. These
    are Hessians of at most 1,024 parameters and G with as many rows N (C - 1), of large networks 4,096; beyond that
    eigenvalues come from Lanczos iterations, with their residuals, trace, norm and ratio from random products. With all
    statistics, 300 examples, ten classes and 10^6 parameters of a fully connected network a moment costs about 850 full
    gradients over these examples, two thirds of it for the Hessian. Where a weight is not finite all other numbers of
    that step are NaN.

    Examples
    --------
    >>> import tempfile, torch
    >>> import rmtland as rl
    >>> digits = rl.nets.load_dataset("digits", per_class=10)
    >>> inputs, labels = torch.as_tensor(digits.x_train), torch.as_tensor(digits.y_train)
    >>> module = rl.nets.mlp([64, 4, 10])
    >>> optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = rl.nets.TrainingRecord(f"{folder}/record", module, inputs, labels, every=2, statistics="outputs")
    ...     for _ in range(4):
    ...         optimiser.zero_grad()
    ...         torch.nn.functional.cross_entropy(module(inputs), labels).backward()
    ...         optimiser.step()
    ...         _ = record.step()
    ...     loss = record.dataset().loss.sel(split="train").values
    >>> record.steps, bool(loss[-1] < loss[0])
    ([0, 2, 4], True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        module: torch.nn.Module,
        inputs: Any,
        labels: Any = None,
        *,
        test: Any = None,
        steps: Iterable[int] | None = None,
        every: int | None = None,
        start: int = 0,
        statistics: Iterable[str] | None = None,
        accumulators: Mapping[str, Accumulator[Any]] | None = None,
        k: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(module, integer("start", start, at_least=0))
        self.path = named_path("path", path)
        self._chosen = _schedule(steps, every)
        self._seed = integer("seed", seed, at_least=0)
        if k is not None:
            k = integer("k", k, at_least=1)
        own = checked_accumulators(accumulators)
        self._moment = Moment(checked_statistics(statistics, options.get("loss")), k, options, own)
        self._splits = {"train": pair(inputs, labels)}
        if test is not None:
            self._splits["test"] = pair(test, None)
        self._store = RecordStore(self.path, self._identity())
        if self._seen == 0 and self._due(-1, 0):
            self._record(0)

    def _identity(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._module.parameters() if p.requires_grad),
            "statistics": list(self._moment.statistics),
            "accumulators": list(self._moment.accumulators),
            "splits": list(self._splits),
            "k": self._moment.k,
            "seed": self._seed,
        }

    @property
    def steps(self) -> list[int]:
        """Steps that are stored."""
        return list(self._store.steps)

    def _due(self, before: int, now: int) -> bool:
        return self._chosen(before, now) and not (self.steps and now <= self._store.steps[-1])

    def dataset(self) -> xr.Dataset:
        """The record so far, as `open_record` reads it."""
        return open_record(self.path)

    def _record(self, number: int) -> None:
        rows, coords = self._measure(number)
        self._store.append(number, rows, coords)

    def _measure(self, number: int) -> tuple[Values, dict[str, npt.NDArray[Any]]]:
        norm = weight_norm(self._module)
        coords: dict[str, npt.NDArray[Any]] = {"split": np.array(list(self._splits))}
        if not np.isfinite(norm):
            return self._nothing(norm), coords
        measured = []
        for place, (inputs, labels) in enumerate(self._splits.values()):
            rng = np.random.default_rng([self._seed, number, place])
            measured.append(self._moment.measure(self._module, inputs, labels, rng))
        rows: Values = {"weight_norm": ((), np.asarray(norm))}
        for name, (dims, _) in measured[0].items():
            rows[name] = ("split", *dims), np.stack([values[name][1] for values in measured])
        for dims, values in rows.values():
            if dims[-1:] == ("rank",):
                coords["rank"] = np.arange(values.shape[-1], 0, -1)  # eigenvalues ascend: 1 is the largest
            if dims[-1:] == ("group",):
                coords["group"] = np.array([n for n, p in self._module.named_parameters() if p.requires_grad])
        return rows, coords

    def _nothing(self, norm: float) -> Values:
        """NaN for every number that the store has; ValueError where it does not know yet what there is."""
        if not self.steps:
            raise ValueError("`module` must have finite parameters when its record begins; got NaN or infinite ones")
        known = self.dataset()
        rows: Values = {
            str(name): (tuple(map(str, v.dims[1:])), np.full(v.shape[1:], np.nan))
            for name, v in known.data_vars.items()
        }
        return {**rows, "weight_norm": ((), np.asarray(norm))}


def _schedule(steps: Iterable[int] | None, every: int | None) -> Callable[[int, int], bool]:
    """Whether a chosen step lies in (before, now]."""
    if steps is not None and every is not None:
        raise ValueError(f"`steps` and `every` must not both be given; got every = {every!r}")
    if every is not None:
        each = integer("every", every, at_least=1)
        return lambda before, now: now // each > before // each
    if steps is not None:
        chosen = sorted({integer("steps", step, at_least=0) for step in iterable("steps", steps)})
        if not chosen:
            raise ValueError("`steps` must name at least one step; got none")
        return lambda before, now: bisect.bisect_right(chosen, now) > bisect.bisect_right(chosen, before)
    return lambda before, now: before < 0 or now.bit_length() > before.bit_length()


def measure_checkpoints(
    checkpoints: Iterable[str | os.PathLike[str] | Mapping[str, Any]],
    build: Callable[[], torch.nn.Module],
    data: Any,
    *,
    test: Any = None,
    path: str | os.PathLike[str] | None = None,
    steps: Iterable[int] | None = None,
    statistics: Iterable[str] | None = None,
    accumulators: Mapping[str, Accumulator[Any]] | None = None,
    k: int | None = None,
    seed: int = 0,
    after_checkpoint: Callable[[int], None] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Measure a network at checkpoints of its training, as `TrainingRecord` would have.

    Parameters
    ----------
    checkpoints : iterable of path or of mapping
        Files that `torch.save` wrote, or state_dicts, one at a time. A dict that holds the state_dict as "state_dict",
        "model_state_dict", "model", "module" or "network" will do; so will the names that DistributedDataParallel and
        torch.compile give. Files are loaded with weights_only=True: nothing in them is run.
    build : callable
        Makes a module that the state_dicts fit, called once.
    data : pair (inputs, labels) or loader
        Examples to measure on.
    test : pair or loader, optional
    path : path, optional
        Where to keep the record; checkpoints that it has already are not measured again. By default in memory.
    steps : iterable of int, optional
        Step of each checkpoint, rising; by default 0, 1, 2, ...
    statistics, accumulators, k, seed, **options
        As in `TrainingRecord`.
    after_checkpoint : callable, optional
        Called with the number of checkpoints done.

    Returns
    -------
    xarray.Dataset
        Over (step, split, ...), with the names of the files as coordinate `checkpoint`.

    Raises
    ------
    FileNotFoundError
        For a file that is not there.
    ValueError
        For a file that holds more than tensors, a state_dict that the module does not fit, no checkpoint, steps that
        do not rise or are fewer than the checkpoints.
    TypeError
        For a checkpoint of another kind, or a `build` that makes no module.

    Examples
    --------
    >>> import rmtland as rl
    >>> digits = rl.nets.load_dataset("digits", per_class=5)
    >>> networks = [rl.nets.mlp([64, 4, 10], seed=seed) for seed in range(3)]
    >>> measured = rl.nets.measure_checkpoints(
    ...     [network.state_dict() for network in networks], lambda: rl.nets.mlp([64, 4, 10]),
    ...     (digits.x_train, digits.y_train), statistics=["outputs"],
    ... )
    >>> measured.loss.shape
    (3, 1)
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            given = {"test": test, "steps": steps, "statistics": statistics, "k": k}
            given["accumulators"] = accumulators
            return measure_checkpoints(
                checkpoints, build, data, path=Path(folder) / "record", seed=seed, after_checkpoint=after_checkpoint,
                **given, **options,
            ).load()  # fmt: skip
    function("after_checkpoint", after_checkpoint, optional=True)
    module = function("build", build)()
    inputs, labels = pair(data, None)
    numbers = iter(iterable("steps", steps)) if steps is not None else None
    names: list[str] = []
    record: TrainingRecord | None = None
    for place, checkpoint in enumerate(iterable("checkpoints", checkpoints)):
        number = place if numbers is None else next(numbers, None)
        if number is None:
            raise ValueError(f"`steps` must have a step for every checkpoint; got {place}")
        number = integer("steps", number, at_least=0)
        names.append(str(place) if isinstance(checkpoint, Mapping) else named_path("checkpoints", checkpoint).name)
        if record is None:
            # Every step is chosen, but none is measured before its weights are loaded.
            record = TrainingRecord(
                path, module, inputs, labels, test=test, every=1, start=1, statistics=statistics,
                accumulators=accumulators, k=k, seed=seed, **options,
            )  # fmt: skip
        if number not in record.steps:
            if record.steps and number < record.steps[-1]:
                raise ValueError(f"`steps` must rise; got {number} after {record.steps[-1]}")
            load_weights(module, checkpoint)
            record._record(number)
        if after_checkpoint is not None:
            after_checkpoint(place + 1)
    if record is None:
        raise ValueError("`checkpoints` must hold at least one checkpoint; got none")
    dataset = record.dataset()
    if dataset.sizes["step"] == len(names):
        dataset = dataset.assign_coords(checkpoint=("step", names))
    return dataset


WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "network")
"""Where checkpoints keep the weights among other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What wrappers put before the names of weights."""


def load_weights(module: torch.nn.Module, checkpoint: str | os.PathLike[str] | Mapping[str, Any]) -> None:
    """The weights of a checkpoint into a module; errors as `measure_checkpoints` says."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"`build` must make a torch.nn.Module; got {type(module).__name__}")
    name = "state_dict"
    held: Any = checkpoint
    if isinstance(checkpoint, (str, os.PathLike)):
        name = os.fspath(checkpoint)
        try:
            held = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # what a file that is none makes the unpickler raise: KeyError for a text, for one
            found = re.search(r"GLOBAL (\S+) was not", str(error))
            reason = f"it holds {found[1]}, which would be run: save the state_dict alone" if found else "it is none"
            raise ValueError(f"`checkpoint` must be a file of tensors by torch.save; {name}: {reason}") from None
    if not isinstance(held, Mapping):
        raise TypeError(f"`checkpoint` must be a path or a state_dict; got {type(held).__name__}")
    held = next((held[key] for key in WEIGHTS if isinstance(held.get(key), Mapping)), held)
    own = module.state_dict().keys()
    while held and held.keys() != own:
        prefix = next((p for p in PREFIXES if all(str(key).startswith(p) for key in held)), None)
        if prefix is None:
            break
        held = {key[len(prefix) :]: value for key, value in held.items()}
    try:
        module.load_state_dict(held)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`checkpoint` must fit the module; {name}: {reason[:300]}") from None

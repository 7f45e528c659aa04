"""Whether the sources of several ranks make up one: the same network, examples of their own, all of the dataset."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rmtland._arrays import at_least_single, is_torch, to_numpy
from rmtland.logits.accumulate import first_chunk, prototype
from rmtland.logits.gradients import rounding


def described(source: Any) -> dict[str, Any]:
    """What must be the same on every rank that has examples, and what makes up the whole."""
    network = getattr(source, "network", None)
    facts: dict[str, Any] = {"num_examples": int(source.num_examples), "mean_weight": 1.0, "rounding": 0.0}
    if network is not None:
        tensors = {name: network.vector[group] for name, group in network.groups.items()} | network.constants
        facts["tensors"] = {name: _checksum(tensor) for name, tensor in tensors.items()}
    if not source.num_examples:
        return facts
    facts["num_inputs"] = int(getattr(source, "num_inputs", source.num_examples))
    chunk, products = first_chunk(source), prototype(source)
    examples = hashlib.blake2b(np.ascontiguousarray(to_numpy(at_least_single(chunk.logits))).tobytes())
    examples.update(np.ascontiguousarray(to_numpy(chunk.labels)).tobytes())
    return facts | {
        "num_classes": int(source.num_classes),
        "num_parameters": int(source.num_parameters),
        "parameter_groups": dict(source.parameter_groups),
        "loss": type(source.loss).__name__,
        "dtype": str(products.dtype).removeprefix("torch."),
        "device": products.device.type if is_torch(products) else None,
        "mean_weight": float(getattr(source, "mean_weight", 1.0)),
        "rounding": rounding(source),
        "examples": examples.hexdigest() if chunk.logits.shape[0] > 1 else None,
        "fingerprint": getattr(source, "fingerprint", None),
    }


def agreed(everyone: list[dict[str, Any]], num_examples: int | None) -> dict[str, Any]:
    """The facts of a rank that has examples; ValueError where the ranks' facts do not fit together."""
    some = [(rank, facts) for rank, facts in enumerate(everyone) if facts["num_examples"]]
    if not some:
        raise ValueError("`source` must have at least one example on some rank; got none")
    first, facts = some[0]
    for name in ("num_classes", "num_parameters", "parameter_groups", "loss", "dtype"):
        for rank, other in some:
            if other[name] != facts[name]:
                raise ValueError(
                    f"`source` must have the same {name} on every rank; got {facts[name]} on rank {first} and "
                    f"{other[name]} on rank {rank}"
                )
    _check_tensors(everyone)
    for (rank, these), (twin, those) in combinations(some, 2):
        if _same_examples(these, those):
            raise ValueError(
                f"`source` must have examples of its own on every rank; ranks {rank} and {twin} have the same ones "
                "(rl.nets.shard cuts arrays up, and rl.nets.rank_range a loader's dataset)"
            )
    total = sum(other.get("num_inputs", other["num_examples"]) for other in everyone)
    if num_examples is not None and total != num_examples:
        advice = (
            " (DistributedSampler repeats examples so that every rank has as many: use Subset(dataset, "
            "rl.nets.rank_range(len(dataset))) instead)"
            if total > num_examples
            else ""
        )
        raise ValueError(
            f"`num_examples` must be what the ranks have together; got a dataset of {num_examples} and {total} "
            f"examples on {len(everyone)} ranks{advice}"
        )
    return facts


def _same_examples(these: dict[str, Any], those: dict[str, Any]) -> bool:
    """Whether two ranks have the same first examples, or loaders the same ones in any order."""
    if these["num_examples"] != those["num_examples"] or these["examples"] is None:
        return False
    by_loader: bool = these["fingerprint"] is not None and these["fingerprint"].same(those["fingerprint"])
    return by_loader or these["examples"] == those["examples"]


def _check_tensors(everyone: list[dict[str, Any]]) -> None:
    known = [(rank, facts["tensors"]) for rank, facts in enumerate(everyone) if "tensors" in facts]
    for rank, tensors in known[1:]:
        first, expected = known[0]
        for name in [*expected, *tensors]:
            if tensors.get(name) != expected.get(name):
                raise ValueError(
                    f"`module` must have the same parameters and buffers on every rank; {name!r} of rank {rank} "
                    f"differs from that of rank {first} (load one checkpoint on all, or broadcast it)"
                )


def _checksum(tensor: Tensor) -> tuple[str, tuple[int, ...], int]:
    """Dtype, shape, and the bits as a sum of integers modulo 2^64, on the tensor's own device.

    Each word has an odd weight of its own, so that one changed entry always changes the sum. No rounding, hence no
    dependence on the device or the order of summation.
    """
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
    flat = flat.to(torch.uint8) if flat.dtype == torch.bool else flat
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    total = 0
    for start, block in enumerate(torch.split(flat.contiguous().view(words), 2**20)):
        places = torch.arange(len(block), dtype=torch.int64, device=block.device) + start * 2**20
        weights = places * -7046029254386353131 | 1
        total += int((block.to(torch.int64) * weights).sum())
    return str(tensor.dtype), tuple(tensor.shape), total % 2**64


def digest_of_arrays(inputs: Any, labels: Any) -> bytes:
    """Of the labels and some of the inputs: enough to tell two halves of a dataset apart."""
    digest = hashlib.blake2b(repr(tuple(np.shape(labels))).encode())
    few = slice(None, None, max(1, len(labels) // 16))
    for leaf in [labels, *(leaf[few] for leaf in tree_leaves(inputs))]:
        digest.update(np.ascontiguousarray(to_numpy(torch.as_tensor(leaf, device="cpu").float())).tobytes())
    return digest.digest()

"""Matrices of a known spectrum, in every library, dtype and on every device there is."""

import numpy as np
import pytest
import torch

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
KINDS = [("numpy", "float64"), ("numpy", "float32")] + [(d, t) for d in DEVICES for t in ("float64", "float32")]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind))


def of_spectrum(eigenvalues, seed=0):
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(eigenvalues.size, eigenvalues.size)))[0]
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


def cast(matrix, kind):
    library, dtype = kind
    if library == "numpy":
        return np.asarray(matrix, dtype=dtype)
    return torch.tensor(matrix, dtype=getattr(torch, dtype), device=library)


def epsilon(kind):
    return float(np.finfo(kind[1]).eps)


def numpy(array):
    return array.detach().cpu().double().numpy() if isinstance(array, torch.Tensor) else np.asarray(array, dtype=float)


def is_of_kind(array, kind):
    library, dtype = kind
    if library == "numpy":
        return isinstance(array, np.ndarray) and array.dtype == dtype
    return isinstance(array, torch.Tensor) and array.dtype == getattr(torch, dtype) and array.device.type == library

"""The symmetric linear operator that every matrix of the package is handed out as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator

from rmtland._arguments import integer, require_memory
from rmtland._arrays import Array, double, is_floating, is_torch, like, namespace, to_numpy


@dataclass(frozen=True)
class SymmetricOperator:
    """A real symmetric D x D matrix known by its products.

    Parameters
    ----------
    multiply : callable
        Takes V of shape (D, k), an array like `prototype`, and returns the product of shape (D, k).
    dimension : int
        D.
    prototype : array
        Any array of the library, dtype and device that `multiply` works in; only those three facts are used.

    Notes
    -----
    ``operator @ v`` takes shapes (D,) and (D, k). The product comes back in the library of `v`: an operator of a
    torch network applied to a NumPy array computes in the network's dtype, on its device, and returns NumPy.

    Examples
    --------
    >>> import numpy as np
    >>> from rmtland.spectra.operators import SymmetricOperator
    >>> operator = SymmetricOperator.from_matrix(np.diag([1.0, 2.0]))
    >>> operator @ np.ones(2)
    array([1., 2.])
    """

    multiply: Callable[[Array], Array]
    dimension: int
    prototype: Array

    @classmethod
    def from_matrix(cls, matrix: Array) -> SymmetricOperator:
        """The operator of a real symmetric matrix.

        Parameters
        ----------
        matrix : array (D, D)
            NumPy or torch; kept, not copied. Integers are taken as float64, or every operand would become an integer.

        Returns
        -------
        SymmetricOperator

        Raises
        ------
        ValueError
            Where it is not square, not finite, or further from its transpose than 1e-6 of its largest entry.
        TypeError
            For something that is no array, or complex entries.
        """
        xp = namespace(matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"`matrix` must be square; got shape {tuple(matrix.shape)}")
        if xp.isdtype(matrix.dtype, "complex floating"):
            raise TypeError(f"`matrix` must be real; got {matrix.dtype}")
        if not is_floating(matrix):
            matrix = double(matrix)
        size = float(xp.max(xp.abs(matrix))) if matrix.shape[0] else 0.0
        if not np.isfinite(size):
            raise ValueError("`matrix` must be finite; got NaN or infinite entries")
        if matrix.shape[0] and float(xp.max(xp.abs(matrix - matrix.T))) > 1e-6 * size:
            raise ValueError("`matrix` must be symmetric; got one that differs from its transpose")
        return cls(lambda block: matrix @ block, matrix.shape[0], matrix)

    @property
    def shape(self) -> tuple[int, int]:
        """(D, D)."""
        return self.dimension, self.dimension

    @property
    def dtype(self) -> Any:
        """The dtype that products are computed in, of the operator's own library."""
        return self.prototype.dtype

    @property
    def device(self) -> Any:
        """The torch device, or "cpu" for NumPy."""
        return self.prototype.device if is_torch(self.prototype) else "cpu"

    # NumPy would otherwise take `array @ operator` as an array of objects.
    __array_ufunc__ = None

    def __matmul__(self, v: Array) -> Array:
        if namespace(v).isdtype(v.dtype, "complex floating"):
            raise TypeError(f"the operand must be real; got {v.dtype}")
        if v.ndim not in (1, 2) or v.shape[0] != self.dimension:
            raise ValueError(
                f"the operand must have shape ({self.dimension},) or ({self.dimension}, k); got {tuple(v.shape)}"
            )
        block = like(self.prototype, v)
        product = self.multiply(block[:, None] if v.ndim == 1 else block)
        product = product[:, 0] if v.ndim == 1 else product
        if is_torch(self.prototype) and not is_torch(v):
            return to_numpy(product)
        if is_torch(v) and not is_torch(self.prototype):
            return like(v, product)
        return product

    def __rmatmul__(self, v: Array) -> Array:
        return self @ v if v.ndim == 1 else (self @ v.T).T

    def columns(self, block_size: int | None = None) -> Iterator[tuple[slice, Array]]:
        """Blocks of columns (slice, (D, k)) from products with unit vectors, in order.

        Parameters
        ----------
        block_size : int, optional
            Columns at a time, k; by default as many as 64 MiB hold in float64.
        """
        width = max(1, min(self.dimension, 2**26 // (8 * max(self.dimension, 1))))
        if block_size is not None:
            width = integer("block_size", block_size, at_least=1)
        for start in range(0, self.dimension, width):
            block = slice(start, min(start + width, self.dimension))
            yield block, self @ like(self.prototype, np.eye(self.dimension, block.stop - start, -start))

    def to_dense(self, block_size: int | None = None) -> npt.NDArray[np.float64]:
        """The matrix (D, D) as a float64 NumPy array, symmetrised against rounding.

        Raises
        ------
        MemoryError
            Where it does not fit; the products, or `to_scipy` with an iterative solver, do without it.
        """
        require_memory(
            f"the dense {self.dimension} x {self.dimension} matrix",
            16.0 * self.dimension**2,
            "use products or to_scipy()",
        )
        matrix = np.empty(self.shape)
        for block, columns in self.columns(block_size):
            matrix[:, block] = to_numpy(columns)
        return (matrix + matrix.T) / 2

    def to_scipy(self) -> LinearOperator:
        """The same as a `scipy.sparse.linalg.LinearOperator` on NumPy arrays."""
        dtype = to_numpy(self.prototype[:0]).dtype
        return LinearOperator(
            self.shape, matvec=lambda v: self @ np.asarray(v).reshape(-1), matmat=lambda v: self @ np.asarray(v),
            rmatvec=lambda v: self @ np.asarray(v).reshape(-1), dtype=dtype,
        )  # fmt: skip


def as_operator(x: Any) -> SymmetricOperator:
    """`x` itself where it is an operator, else the operator of a matrix."""
    return x if isinstance(x, SymmetricOperator) else SymmetricOperator.from_matrix(x)

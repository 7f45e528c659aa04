"""The symmetric linear operator that every matrix of the package is handed out as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Chebyshev, Polynomial
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator

from rmtland._arguments import integer, real, require_memory
from rmtland._arrays import Array, double, is_floating, is_torch, like, namespace, to_numpy, zeros


def block_width(dimension: int) -> int:
    """Vectors at a time: as many as 64 MiB hold in float64."""
    return max(1, 2**26 // (8 * max(dimension, 1)))


@dataclass(frozen=True, eq=False)
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
    rounding_scale : float
        Norm of what products are a difference of, where that may exceed the operator's own: rounding errors are
        relative to it. Deflation and shifts set it, sums and multiples pass it on.
    rounding : float
        Spacing at 1 of the numbers that products are computed in, where these are coarser than the dtype that they are
        handed out in: a network's in half precision.

    Notes
    -----
    ``operator @ v`` takes shapes (D,) and (D, k). The product comes back in the library of `v`: an operator of a
    torch network applied to a NumPy array computes in the network's dtype, on its device, and returns NumPy.

    Sums, differences and multiples by a number are operators again: ``2 * a - b``. Where their parts differ, torch goes
    before NumPy and the longer dtype before the shorter; the left part's device is used.

    Examples
    --------
    >>> import numpy as np
    >>> from rmtland.spectra.operators import SymmetricOperator
    >>> operator = SymmetricOperator.from_matrix(np.diag([1.0, 2.0]))
    >>> operator @ np.ones(2)
    array([1., 2.])
    >>> (2 * operator - operator.shifted(1.0)) @ np.ones(2)
    array([2., 3.])
    """

    multiply: Callable[[Array], Array]
    dimension: int
    prototype: Array
    rounding_scale: float = field(default=0.0, kw_only=True)
    rounding: float = field(default=0.0, kw_only=True)

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
        return _from_array(matrix, "matrix")

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__.removeprefix('_')}({self.dimension} x {self.dimension}, {dtype})"

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

    def __add__(self, other: Any) -> SymmetricOperator:
        return self._plus(other, 1.0)

    def __sub__(self, other: Any) -> SymmetricOperator:
        return self._plus(other, -1.0)

    def __radd__(self, other: Any) -> SymmetricOperator:
        return self._plus(other, 1.0)

    def __rsub__(self, other: Any) -> SymmetricOperator:
        return (-self)._plus(other, 1.0)

    def __mul__(self, factor: float) -> SymmetricOperator:
        scale = real("factor", factor)
        return self._derived(lambda block: scale * self.multiply(block), abs(scale) * self.rounding_scale)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SymmetricOperator:
        scale = real("divisor", divisor)
        if scale == 0:
            raise ValueError("`divisor` must be nonzero; got 0")
        return self._derived(lambda block: self.multiply(block) / scale, self.rounding_scale / abs(scale))

    def __neg__(self) -> SymmetricOperator:
        return self * -1.0

    def _plus(self, other: Any, sign: float) -> SymmetricOperator:
        if isinstance(other, (int, float, complex, np.number)):
            raise TypeError(f"a number is no operator, `shifted` subtracts a multiple of the identity; got {other!r}")
        right = as_operator(other, "other")
        if right.dimension != self.dimension:
            raise ValueError(f"`other` must have shape {self.shape}; got {right.shape}")
        prototype = _common(self.prototype, right.prototype)

        def multiply(block: Array) -> Array:
            return like(prototype, self @ block) + sign * like(prototype, right @ block)

        scale, rounding = self.rounding_scale + right.rounding_scale, max(self.rounding, right.rounding)
        return SymmetricOperator(multiply, self.dimension, prototype, rounding_scale=scale, rounding=rounding)

    def _derived(self, multiply: Callable[[Array], Array], rounding_scale: float) -> SymmetricOperator:
        kind, rounding = self.prototype, self.rounding
        return SymmetricOperator(multiply, self.dimension, kind, rounding_scale=rounding_scale, rounding=rounding)

    def shifted(self, shift: float) -> SymmetricOperator:
        """The operator A - shift 1, whose eigenvalues are those of A less `shift`."""
        sigma = real("shift", shift)
        return self._derived(lambda block: self.multiply(block) - sigma * block, self.rounding_scale + abs(sigma))

    def deflated(self, eigenpairs: Any) -> SymmetricOperator:
        """The operator with the given eigenvalues moved to zero; see `rmtland.deflate`."""
        from rmtland.spectra.eigenpairs import deflate

        return deflate(self, eigenpairs)

    def composed(self, polynomial: Any) -> SymmetricOperator:
        """The operator p(A), with as many products with A as p has degrees.

        Parameters
        ----------
        polynomial : numpy.polynomial.Polynomial, Chebyshev or another of NumPy's series
            Real. `Chebyshev.interpolate(f, degree, domain=[low, high])` makes one of any function, near it where the
            spectrum lies within the domain.

        Returns
        -------
        SymmetricOperator
            Its eigenvalues are p(x), its eigenvectors those of A.

        Raises
        ------
        TypeError
            For anything else: a function has no exact product.

        Notes
        -----
        Powers by Horner's rule, the other series as Chebyshev series by Clenshaw's recurrence, which is stable to any
        degree within the domain.

        Examples
        --------
        >>> import numpy as np
        >>> import rmtland as rl
        >>> operator = rl.SymmetricOperator.from_matrix(np.diag([1.0, 2.0, 3.0]))
        >>> operator.composed(np.polynomial.Polynomial([0.0, 1.0, 1.0])) @ np.ones(3)
        array([ 2.,  6., 12.])
        """
        if not hasattr(polynomial, "mapparms"):
            raise TypeError(f"`polynomial` must be one of numpy.polynomial's series; got {type(polynomial).__name__}")
        if not isinstance(polynomial, Polynomial):
            polynomial = polynomial.convert(kind=Chebyshev, domain=polynomial.domain)
        if np.iscomplexobj(polynomial.coef):
            raise TypeError("`polynomial` must have real coefficients; got complex ones")
        offset, slope = map(float, polynomial.mapparms())
        coefficients = [float(c) for c in polynomial.coef]
        powers = isinstance(polynomial, Polynomial)

        def multiply(block: Array) -> Array:
            last, before = coefficients[-1] * block, None
            for degree in range(len(coefficients) - 2, -1, -1):
                doubled = 1.0 if powers or degree == 0 else 2.0
                following = coefficients[degree] * block + doubled * (offset * last + slope * self.multiply(last))
                if not powers and before is not None:
                    following = following - before
                last, before = following, last
            return last

        return self._derived(multiply, 0.0)

    def counted(self) -> CountingOperator:
        """The same operator, which counts its products."""
        kind, scale, rounding = self.prototype, self.rounding_scale, self.rounding
        return CountingOperator(self.multiply, self.dimension, kind, rounding_scale=scale, rounding=rounding)

    def columns(self, block_size: int | None = None) -> Iterator[tuple[slice, Array]]:
        """Blocks of columns (slice, (D, k)) from products with unit vectors, in order.

        Parameters
        ----------
        block_size : int, optional
            Columns at a time, k; by default as many as 64 MiB hold in float64.
        """
        width = block_width(self.dimension)
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


@dataclass(frozen=True, eq=False, repr=False)
class CountingOperator(SymmetricOperator):
    """An operator that counts the vectors it has multiplied, made by `SymmetricOperator.counted`.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> operator = rl.SymmetricOperator.from_matrix(np.eye(3)).counted()
    >>> product = operator @ np.ones((3, 2))
    >>> operator.num_products
    2
    """

    _count: list[int] = field(default_factory=lambda: [0], init=False, repr=False)

    def __post_init__(self) -> None:
        inner = self.multiply

        def multiply(block: Array) -> Array:
            self._count[0] += block.shape[1]
            return inner(block)

        object.__setattr__(self, "multiply", multiply)

    @property
    def num_products(self) -> int:
        """Vectors multiplied since the operator was made."""
        return self._count[0]


def as_operator(operator: Any, name: str = "operator") -> SymmetricOperator:
    """`operator` as a SymmetricOperator.

    Parameters
    ----------
    operator : SymmetricOperator, array (D, D), SciPy sparse matrix or LinearOperator
        Arrays of NumPy or torch. A function of vectors comes as ``SymmetricOperator(function, D, prototype)``.
    name : str
        What messages call it.

    Returns
    -------
    SymmetricOperator
        The argument itself where it is one.

    Raises
    ------
    ValueError
        Where it is not square, or (arrays and sparse matrices) not symmetric or not finite.
    TypeError
        Where it is none of these, or complex.

    Examples
    --------
    >>> import scipy.sparse
    >>> from rmtland.spectra.operators import as_operator
    >>> as_operator(scipy.sparse.eye_array(4)).shape
    (4, 4)
    """
    if isinstance(operator, SymmetricOperator):
        return operator
    if issparse(operator) or isinstance(operator, LinearOperator):
        return _from_scipy(operator, name)
    try:
        namespace(operator)
    except TypeError:
        kinds = "a SymmetricOperator, an array, or a SciPy sparse matrix or LinearOperator"
        raise TypeError(f"`{name}` must be {kinds}; got {type(operator).__name__}") from None
    return _from_array(operator, name)


def _from_array(matrix: Array, name: str) -> SymmetricOperator:
    xp = namespace(matrix, names=f"`{name}`")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`{name}` must be square; got shape {tuple(matrix.shape)}")
    if xp.isdtype(matrix.dtype, "complex floating"):
        raise TypeError(f"`{name}` must be real; got {matrix.dtype}")
    if not is_floating(matrix):
        matrix = double(matrix)
    entries = matrix.detach() if is_torch(matrix) else matrix
    size = float(xp.max(xp.abs(entries))) if matrix.shape[0] else 0.0
    if not np.isfinite(size):
        raise ValueError(f"`{name}` must be finite; got NaN or infinite entries")
    if matrix.shape[0] and float(xp.max(xp.abs(entries - entries.T))) > 1e-6 * size:
        raise ValueError(f"`{name}` must be symmetric; got one that differs from its transpose")
    return SymmetricOperator(lambda block: matrix @ block, matrix.shape[0], matrix)


def _from_scipy(operator: Any, name: str) -> SymmetricOperator:
    sparse: bool = issparse(operator)
    if operator.ndim != 2 or operator.shape[0] != operator.shape[1]:
        raise ValueError(f"`{name}` must be square; got shape {tuple(operator.shape)}")
    dtype = np.dtype(np.float64 if operator.dtype is None else operator.dtype)
    if dtype.kind == "c":
        raise TypeError(f"`{name}` must be real; got {dtype}")
    if sparse:
        matrix: Any = operator.tocsr()
        largest = float(abs(matrix).max()) if matrix.nnz else 0.0
        if not np.isfinite(largest):
            raise ValueError(f"`{name}` must be finite; got NaN or infinite entries")
        if matrix.nnz and float(abs(matrix - matrix.T).max()) > 1e-6 * largest:
            raise ValueError(f"`{name}` must be symmetric; got one that differs from its transpose")
    return SymmetricOperator(
        lambda block: operator @ block,
        operator.shape[0],
        np.empty(0, dtype if dtype.kind == "f" and dtype.itemsize >= 4 else np.float64),
    )


def _common(left: Array, right: Array) -> Array:
    """An empty array of what both work in: torch before NumPy, the longer dtype, the left one's device."""
    if is_torch(left) != is_torch(right):
        return left[:0] if is_torch(left) else right[:0]
    return zeros(left[:0], (0,), namespace(left, right).result_type(left.dtype, right.dtype))

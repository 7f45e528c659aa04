"""Long vectors of NumPy or torch: sums in float64, updates in place, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtland._arrays import (
    Array,
    all_finite,
    at_least_single,
    double,
    is_floating,
    is_torch,
    like,
    namespace,
    to_numpy,
    zeros,
)

if TYPE_CHECKING:
    from rmtland.spectra.operators import SymmetricOperator

BLOCK = 2**15
"""Entries at a time on a CPU: a block and its float64 copies stay in the second-level cache."""
DEVICE_BLOCK = 2**24
"""Entries at a time on another device, where a call costs more than the cache saves."""

SAFE = (1e-240, 1e240)
"""Sums of squares outside have lost digits to under- or overflow, or will."""


def blocks(x: Array) -> Iterator[slice]:
    """Slices that cover the last axis of `x`."""
    on_cpu = not is_torch(x) or x.device.type == "cpu"
    size, step = x.shape[-1], BLOCK if on_cpu else DEVICE_BLOCK
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def working_prototype(operator: SymmetricOperator) -> Array:
    """An empty array of the library, device and dtype that vectors are kept in: the operator's, at least float32."""
    if not is_floating(operator.prototype):
        raise TypeError(f"`operator` must work in a real floating dtype; got {operator.dtype}")
    return zeros(at_least_single(operator.prototype[:0]), (0,))


def empty(reference: Array, shape: tuple[int, ...]) -> Array:
    """Uninitialised, of the library, dtype and device of `reference`."""
    device = {"device": reference.device} if is_torch(reference) else {}
    return namespace(reference).empty(shape, dtype=reference.dtype, **device)


def epsilon(x: Array) -> float:
    """Spacing of the numbers of the array's dtype at 1."""
    return float(namespace(x).finfo(x.dtype).eps)


def noise(operator: SymmetricOperator) -> float:
    """Of the operator's products, relative to its size: what eight times this is, residuals are known to.

    Half precision rounds each number once and has sums in float32, so that these do not add to it.
    """
    return max(epsilon(operator.prototype), operator.rounding / 8)


def asymmetry(operator: SymmetricOperator) -> float:
    """Relative to its size, how far from symmetric rounding may make an operator look.

    Of its own products, of one that computes in float32 and says float64, of one in half precision.
    """
    return max(512 * epsilon(operator.prototype), 1e-6, 16 * operator.rounding)


def dot(x: Array, y: Array) -> float:
    """X . y with float64 products and sums."""
    total: Any = 0.0
    for s in blocks(x):
        total = total + double(x[s]) @ double(y[s])
    return float(total)


def norm(x: Array, square: float | None = None) -> float:
    """Euclidean norm in float64, of entries of any size; `square` is the sum of squares where it is known."""
    square = dot(x, x) if square is None else square
    if SAFE[0] < square < SAFE[1] or math.isnan(square):
        return math.sqrt(square)
    xp = namespace(x)
    largest = max((float(xp.max(xp.abs(x[s]))) for s in blocks(x)), default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(sum(float(xp.sum((double(x[s]) / largest) ** 2)) for s in blocks(x)))


def subtract(out: Array, x: Array, factor: float, y: Array, z: Array) -> float:
    """Out = x - factor y in place, and the new out . z; `out` may be any of the others."""
    total: Any = 0.0
    for s in blocks(x):
        out[s] = x[s] - factor * y[s]
        total = total + double(out[s]) @ double(z[s])
    return float(total)


def fill_normal(out: Array, rng: np.random.Generator) -> None:
    """Independent standard normal entries: the same numbers in every library, dtype and on every device."""
    for start in range(0, out.shape[0], BLOCK):
        stop = min(start + BLOCK, out.shape[0])
        out[start:stop] = like(out, rng.standard_normal(stop - start))


def start_vector(operator: SymmetricOperator, rng: np.random.Generator, start: Array | None) -> Array:
    """A unit vector (D,) in the operator's library: `start`, checked, or a random direction."""
    prototype = working_prototype(operator)
    if start is None:
        vector = zeros(prototype, (operator.dimension,))
        fill_normal(vector, rng)
    else:
        namespace(start, names="`start`")
        if tuple(start.shape) != (operator.dimension,):
            raise ValueError(f"`start` must have shape ({operator.dimension},); got {tuple(start.shape)}")
        if not all_finite(start):
            raise ValueError("`start` must be finite; got NaN or infinite entries")
        vector = like(prototype, start)
    length = norm(vector)
    if length == 0:
        raise ValueError("`start` must not be zero; got a vector of zeros")
    if start is not None:  # the user's own memory
        return vector / length
    vector /= length
    return vector


def product(operator: SymmetricOperator, vector: Array) -> Array:
    """A v in the dtype of `vector`, apart from any autograd graph; it may share memory with the operator's own."""
    # What is not finite is named by who called, whether or not this machine's BLAS warns of it.
    with np.errstate(invalid="ignore", over="ignore"):
        result = operator @ vector
    return like(vector, result.detach() if is_torch(result) else result)


def fresh_row(rows: Array, count: int, rng: np.random.Generator) -> None:
    """rows[count] = a random unit vector orthogonal to the `count` orthonormal rows before it, count < D."""
    out = rows[count]
    left = 0.0
    while left < 0.7:
        # Rounding is a fraction of what is subtracted: where little is left, once more; where nothing is, another draw.
        if left < 1e-4:
            fill_normal(out, rng)
            out /= norm(out)
        if not count:
            return
        orthogonalize(out, rows[:count])
        left = norm(out)
        if left >= 1e-4:
            out /= left


SUBNORMAL = 1e-30
"""Products below it, as of a frozen network, may have lost digits to underflow: no asymmetry is seen in them. Operators
may compute in float32 and say float64."""


def not_symmetric(one_way: float, other_way: float) -> ValueError:
    """The error of an operator with p^T A q != q^T A p."""
    return ValueError(
        f"`operator` must be symmetric; got p^T A q = {one_way:.6g}, q^T A p = {other_way:.6g} for orthonormal p, q"
    )


def not_finite(num_products: int) -> ValueError:
    """The error of a product with NaN or infinite entries."""
    return ValueError(f"`operator` must give finite products; got NaN or infinite entries in product {num_products}")


def orthogonalize(w: Array, rows: Array) -> Array:
    """Subtract from `w`, in place, its projection on orthonormal rows (n, D); the coefficients (n,)."""
    coefficients = rows @ w
    w -= coefficients @ rows
    return coefficients


def rotate(rows: Array, coefficients: np.ndarray[Any, Any]) -> None:
    """rows[:p] = coefficients^T rows in place, with coefficients (n, p), p <= n; the other rows are spent."""
    n, p = coefficients.shape
    rotation = like(rows, np.ascontiguousarray(coefficients.T))
    for s in blocks(rows):
        rows[:p, s] = rotation @ rows[:n, s]


def ritz_rotation(rows: Array, images: Array) -> tuple[Any, Any]:
    """Rotate orthonormal rows (p, D) and their products, in place, to Ritz vectors; Ritz values (p,) and residuals."""
    projected: Any = 0.0
    for s in blocks(rows):
        projected = projected + double(rows[:, s]) @ double(images[:, s]).T
    matrix = to_numpy(projected)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    rotate(rows, vectors)
    rotate(images, vectors)
    residuals = []
    for value, row, image in zip(values, rows, images, strict=True):
        difference = empty(row, tuple(row.shape))
        residuals.append(norm(difference, subtract(difference, image, float(value), row, difference)))
    return values, np.array(residuals)


def require_symmetric(operator: SymmetricOperator, rng: np.random.Generator) -> None:
    """ValueError where two products with random vectors, p^T A q and q^T A p, differ by more than rounding."""
    prototype = working_prototype(operator)
    if operator.dimension < 2:
        return
    pair = empty(prototype, (2, operator.dimension))
    for i in range(2):
        fresh_row(pair, i, rng)
    images = [product(operator, row) for row in pair]
    one_way, other_way = dot(pair[0], images[1]), dot(pair[1], images[0])
    length = max(operator.rounding_scale, *map(norm, images))
    if not (np.isfinite(one_way) and np.isfinite(other_way) and np.isfinite(length)):
        raise not_finite(2)
    require_equal(one_way, other_way, asymmetry(operator) * length)


def require_equal(one_way: float, other_way: float, allowance: float) -> None:
    """ValueError where two sums that symmetry makes equal differ by more; what has underflowed shows nothing."""
    if abs(one_way - other_way) > allowance + SUBNORMAL:
        raise not_symmetric(one_way, other_way)


def require_symmetric_products(operator: SymmetricOperator, vectors: Array, images: Array) -> None:
    """ValueError where the products A v (D, k) with two random vectors of (D, k) are not those of a symmetric matrix.

    Takes the first two, at the cost of two sums. Random vectors are not orthogonal, but nearly so.
    """
    p, q, image_p, image_q = vectors[:, 0], vectors[:, 1], images[:, 0], images[:, 1]
    lengths = norm(p), norm(q)
    if 0.0 in lengths:
        return
    # One after the other: squares of a frozen network's products underflow.
    one_way, other_way = (dot(p / lengths[0], image_q) / lengths[1], dot(q / lengths[1], image_p) / lengths[0])
    size = max(operator.rounding_scale, norm(image_p) / lengths[0], norm(image_q) / lengths[1])
    require_equal(one_way, other_way, asymmetry(operator) * size)

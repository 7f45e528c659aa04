"""NumPy arrays and torch tensors under one name (array-api-compat), without importing torch.

The cellar below the ground floor, beside `_arguments`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, is_torch_array, size

Array = Any
"""A NumPy array or a torch tensor."""
LONGEST_REPR, SHOWN_ENTRIES = 240, 6
"""Characters of a repr, and entries of an array in it, at most."""


def namespace(*arrays: Array, names: str = "arrays") -> Any:
    """The array-API namespace of the arrays, called `names`; TypeError where they are not arrays of one library."""
    try:
        if any(array is None or isinstance(array, (int, float, complex)) for array in arrays):
            raise TypeError("array_namespace would pass over it")
        return array_namespace(*arrays)
    except TypeError:
        kinds = ", ".join(sorted({type(a).__name__ for a in arrays}))
        raise TypeError(f"{names} must be NumPy arrays or torch tensors, all of one library; got {kinds}") from None


def is_torch(array: Array) -> bool:
    """Whether `array` is a torch tensor."""
    return bool(is_torch_array(array))


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """`array` as a NumPy array on the host, detached from any autograd graph."""
    if is_torch(array):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # unknown to NumPy
            array = array.float()
        array = array.numpy()
    return np.asarray(array)


WITHOUT_DOUBLE = frozenset({"mps"})
"""Types of torch devices that have no float64."""


def widest(array: Array) -> Any:
    """The dtype that sums are taken in where `array` lies: float64, or float32 on a device without it."""
    single = is_torch(array) and array.device.type in WITHOUT_DOUBLE
    return namespace(array).float32 if single else namespace(array).float64


def double(array: Array) -> Array:
    """`array` in float64 (float32 on a device without it), in its own library and on its own device."""
    return namespace(array).astype(array, widest(array), copy=False)


def where_double_is(array: Array) -> Array:
    """`array` itself, or on the CPU where its device has no float64: what is finished there loses nothing."""
    return array.cpu() if is_torch(array) and array.device.type in WITHOUT_DOUBLE else array


def at_least_single(array: Array) -> Array:
    """`array` itself, or in float32 where it is in half precision, which no sum survives."""
    return array if array.dtype.itemsize >= 4 else namespace(array).astype(array, namespace(array).float32)


def like(reference: Array, array: Array) -> Array:
    """`array` in the library, dtype and on the device of `reference`."""
    if is_torch(reference):
        xp = namespace(reference)
        return xp.asarray(array, dtype=reference.dtype, device=reference.device)
    return np.asarray(to_numpy(array), dtype=reference.dtype)


def zeros(reference: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Zeros in the library and on the device of `reference` (of its dtype unless told)."""
    xp = namespace(reference)
    kwargs = {"device": reference.device} if is_torch(reference) else {}
    return xp.zeros(shape, dtype=reference.dtype if dtype is None else dtype, **kwargs)


def all_finite(array: Array) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(namespace(array).all(namespace(array).isfinite(array)))


def is_floating(array: Array) -> bool:
    """Whether the dtype is a real floating one."""
    return bool(namespace(array).isdtype(array.dtype, "real floating"))


def num_bytes(array: Array) -> int:
    """Bytes that the entries take."""
    return int(size(array) or 0) * int(array.dtype.itemsize)


def told(result: Any) -> str:
    """A dataclass in two lines of 120 characters at most: numbers short, arrays by shape unless they are small.

    Fields that stand at their default are left out. What does not fit is cut off, as no repr of a result is read back.
    """
    parts = []
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        default = value is field.default or (isinstance(value, float) and value == field.default)
        if field.repr and not default:
            parts.append(f"{field.name}={short(value)}")
    return shortened(f"{type(result).__name__}({', '.join(parts)})")


def shortened(text: str) -> str:
    """A repr of two lines at most."""
    return text if len(text) <= LONGEST_REPR else f"{text[: LONGEST_REPR - 4]}...)"


def short(value: Any) -> str:
    """A value within a repr: an array by shape and dtype, unless it is small."""
    if isinstance(value, np.ndarray) or is_torch(value):
        size = math.prod(value.shape)
        if size > SHOWN_ENTRIES or value.ndim > 1:
            return f"<{' x '.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}>"
        return np.array2string(to_numpy(value), precision=5, separator=", ", max_line_width=LONGEST_REPR)
    if isinstance(value, float):
        return f"{value:.6g}"
    if type(value) is tuple:
        return f"({', '.join(map(short, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {short(one)}" for key, one in value.items()) + "}"
    return repr(value)

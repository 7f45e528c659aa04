"""Where numbers come from: function, versions, host; no paths."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import platform
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from rmtland import _version

PACKAGES = ("numpy", "scipy", "numba", "torch", "zarr", "xarray")


def qualified_name(function: Callable[..., Any]) -> str:
    """Module and name of a function; of a partial, with its bound arguments, those that are long by their kind."""
    if isinstance(function, functools.partial):
        bound = [*map(_short, function.args), *(f"{k}={_short(v)}" for k, v in function.keywords.items())]
        return f"{qualified_name(function.func)}({', '.join(bound)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _short(value: Any) -> str:
    # The text is compared when a sweep goes on: nothing that has an address in it, or is cut.
    plain = value is None or isinstance(value, (bool, int, float, complex, str))
    return repr(value) if plain and len(repr(value)) <= 40 else type(value).__name__


def fingerprint(function: Callable[..., Any]) -> str:
    """SHA-256 of what tells a function from another one.

    Its own source text (its bytecode where there is none; not what it calls), and what it holds: default values,
    variables of the function that made it, bound arguments of a partial, attributes of a callable object.
    """
    digest = hashlib.sha256()
    _feed(digest, function, {})
    return digest.hexdigest()


def _feed(digest: Any, value: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Feed a value into a hash, so that equal values give equal hashes in every process."""
    digest.update(f"({type(value).__module__}.{type(value).__qualname__}:".encode())
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        digest.update(repr(value).encode(errors="backslashreplace"))
    elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
        digest.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}".encode())
    elif id(value) in seen:  # it holds itself, or was met before
        digest.update(f"{seen[id(value)][0]}".encode())
    else:
        seen[id(value)] = (len(seen), value)  # kept, so that no other gets its id
        for part in _parts(value):
            if isinstance(part, bytes):
                digest.update(part)
            else:
                _feed(digest, part, seen)
    digest.update(b")")


def _parts(value: Any) -> list[Any]:
    """What a value consists of; bytes stand for themselves."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        return [_source(value), cells, value.__defaults__, value.__kwdefaults__]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return [value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()]
    if isinstance(value, (tuple, list)):
        return list(value)
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (set, frozenset)):  # in no order
        digests = []
        for item in value:
            digest = hashlib.sha256()
            _feed(digest, item, {})
            digests.append(digest.digest())
        return sorted(digests)
    if callable(getattr(value, "__wrapped__", None)):  # a compiled function
        return [value.__wrapped__]
    parts: list[Any] = [_source(type(value))] if callable(value) else []
    try:
        made = value.__reduce_ex__(4)  # as pickle takes it apart
    except Exception:  # a lock, a file: only its kind is known
        return parts
    if isinstance(made, str):
        return [*parts, made]
    constructor, arguments, *rest = made
    return [*parts, constructor, arguments, *(list(part) if hasattr(part, "__next__") else part for part in rest)]


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _source(named: Any) -> bytes:
    code = getattr(named, "__code__", None)
    try:
        text = inspect.getsource(named)
        if code is not None and code.co_name == "<lambda>":  # there may be two in these lines
            columns = [where[2:] for where in code.co_positions() if None not in where]
            text += repr(columns or _bytecode(code))
    except (OSError, TypeError):
        text = repr(_bytecode(code)) if code is not None else f"{named.__module__}.{named.__qualname__}"
    return text.encode(errors="backslashreplace")


def _bytecode(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def versions() -> str:
    """Versions of Python, this package and those it computes with, as JSON."""
    return json.dumps(_version.versions(*PACKAGES))


def host() -> str:
    """System, machine type and number of processors, as JSON."""
    return json.dumps({"system": platform.system(), "machine": platform.machine(), "processors": os.cpu_count()})

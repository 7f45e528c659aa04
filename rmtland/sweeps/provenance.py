"""Where numbers come from: function, versions, host; no paths."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
from collections.abc import Callable
from typing import Any

from rmtland._version import __version__

PACKAGES = ("numpy", "scipy", "numba", "torch", "zarr", "xarray")


def qualified_name(function: Callable[..., Any]) -> str:
    """Module and name of a function; of a partial, with its bound arguments."""
    if isinstance(function, functools.partial):
        bound = [*map(repr, function.args), *(f"{k}={v!r}" for k, v in function.keywords.items())]
        return f"{qualified_name(function.func)}({', '.join(bound)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def source_hash(function: Callable[..., Any]) -> str:
    """SHA-256 of the function's own source text (of its bytecode where there is none), not of what it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    named = inspect.unwrap(function) if hasattr(function, "__qualname__") else type(function)
    try:
        text = inspect.getsource(named)
    except (OSError, TypeError):
        code = getattr(named, "__code__", None)
        text = repr((code.co_code, code.co_names, code.co_varnames)) if code is not None else qualified_name(named)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> str:
    """Versions of Python, this package and those it computes with, as JSON."""
    found = {"python": platform.python_version(), "rmtland": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return json.dumps(found)


def host() -> str:
    """System, machine type and number of processors, as JSON."""
    return json.dumps({"system": platform.system(), "machine": platform.machine(), "processors": os.cpu_count()})

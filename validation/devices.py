"""Where networks of claims lie while they are trained and measured; torch is imported by whoever asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_named: ContextVar[str | None] = ContextVar("device by name", default=None)


@contextlib.contextmanager
def used(name: str | None, scale: str) -> Iterator[None]:
    """Networks of what runs inside lie on this device.

    Parameters
    ----------
    name : str, optional
        As torch writes it, "cpu" or "cuda:1". By default the CPU at smoke scale, whose networks are too small to gain
        from another, and at full scale CUDA where there is one.
    scale : {"smoke", "full"}
    """
    token = _named.set(name or ("cpu" if scale == "smoke" else "auto"))
    try:
        yield
    finally:
        _named.reset(token)


def device() -> Any:
    """The torch.device that networks are to lie on; the CPU outside `used`."""
    import torch

    name = _named.get() or "cpu"
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)


def check(name: str) -> None:
    """ValueError for what is no device, is not there or cannot do with float64, which small networks are in."""
    try:
        import torch

        torch.zeros(1, dtype=torch.float64, device=torch.device(name)).cpu()
    except ImportError:
        raise ValueError("`--device` needs the package torch, which is not installed") from None
    except Exception as error:
        # Whatever a back end raises: RuntimeError, NotImplementedError, TypeError, AssertionError.
        why = str(error).strip().splitlines()[0]
        raise ValueError(f"`--device` must be a device of torch that holds float64; got {name!r}: {why}") from None

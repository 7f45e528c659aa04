"""The torch bridge: the only wing that imports torch."""

import lazy_loader as _lazy

_getattr, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    try:
        return _getattr(name)
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "sklearn"}:
            raise
        raise ModuleNotFoundError(
            f'rmtland.nets needs {error.name}, which is not installed: pip install "rmtland[nets]"', name=error.name
        ) from None

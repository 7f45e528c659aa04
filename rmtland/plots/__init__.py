"""Figures with matplotlib: functions take results and draw them, they compute nothing."""

import lazy_loader as _lazy

_getattr, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    return _getattr(name)

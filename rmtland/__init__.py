"""Random-matrix theory of neural loss landscapes.

Three questions, one per wing: what does theory say (`rmtland.laws`, `rmtland.landscape`), what does chance give
(`rmtland.landscape`, samplers), what does a trained network do (`rmtland.nets`)? The same statistics (`rmtland.logits`)
read all three. Names are loaded on first use: `import rmtland` loads neither torch nor matplotlib.
"""

import lazy_loader as _lazy

from rmtland._version import __version__

_getattr, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    return _getattr(name)

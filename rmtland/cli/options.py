"""Options that several commands read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt


def axis_option(option: str, text: str) -> npt.NDArray[Any]:
    """The values of an option like 0.5,1,2 or first:last:count[:log]; ValueError naming it."""
    from rmtland.sweeps.grids import parse_axis

    try:
        return parse_axis(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def figure_option(option: str, path: Path) -> Path:
    """The path of a figure, if one can be written there in its format: known before the work begins."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = sorted(FigureCanvasBase.filetypes)
    if path.suffix.lower().lstrip(".") not in formats or path.is_dir():
        raise ValueError(f"`{option}` must be a file ending in one of .{', .'.join(formats)}; got {str(path)!r}")
    return path

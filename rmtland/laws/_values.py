"""Equality for frozen dataclasses that hold arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


class Value:
    """Base of frozen dataclasses (``eq=False``) that are equal when their fields are, arrays entry by entry."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(mine, theirs) for mine, theirs in zip(_fields(self), _fields(other), strict=True))

    def __hash__(self) -> int:
        return hash((type(self), *(x.tobytes() if isinstance(x, np.ndarray) else x for x in _fields(self))))


def _fields(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        return np.array_equal(mine, theirs)
    return type(mine) is type(theirs) and bool(mine == theirs)

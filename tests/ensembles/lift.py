"""Kernels that only kernels call, made callable from Python."""

from numba import njit


def lift(kernel):
    return njit(lambda *arguments: kernel(*arguments))

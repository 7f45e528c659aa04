"""What a training loop calls after each step to have its network measured."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from rmtland._arguments import integer


class TrainingHook(ABC):
    """Told of each step of an optimiser, it measures the network at some; TypeError for something that is no module."""

    def __init__(self, module: torch.nn.Module, start: int = 0) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"`module` must be a torch.nn.Module; got {type(module).__name__}")
        self._module, self._seen = module, start

    @property
    @abstractmethod
    def steps(self) -> list[int]:
        """Steps at which the network was measured."""

    def __repr__(self) -> str:
        last = f", the last at step {self.steps[-1]}" if self.steps else ""
        return f"{type(self).__name__}({type(self._module).__name__}, {len(self.steps)} measurements{last})"

    def step(self, number: int | None = None) -> bool:
        """Say that a step of training is done; measure the network if it is time.

        Parameters
        ----------
        number : int, optional
            How many steps are done; by default one more than before.

        Returns
        -------
        bool
            Whether the network was measured now. Steps that a store has already are not measured again.

        Raises
        ------
        ValueError
            For a number that is not above the one before, or what the network's outputs or logit gradients are
            refused for.
        """
        number = integer("number", self._seen + 1 if number is None else number, at_least=self._seen + 1)
        before, self._seen = self._seen, number
        if not self._due(before, number):
            return False
        self._record(number)
        return True

    @abstractmethod
    def _due(self, before: int, now: int) -> bool:
        """Whether to measure after a step, `before` being the last that was told."""

    @abstractmethod
    def _record(self, number: int) -> None:
        """Measure the network and keep what was found."""

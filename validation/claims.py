"""What a claim is, and how claims are found."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.checks import FAIL, INCONCLUSIVE, PASS, Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = ("smoke", "full")


class UnknownClaim(ValueError):
    """An id that no claim has."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came out of holding a claim against draws.

    Parameters
    ----------
    checks : list of Check
        All of them decide.
    conclusions : str
        What one learns, in plain words with the numbers; paragraphs are separated by empty lines.
    plot : callable, optional
        Makes the figure; called only where a figure is wanted.
    """

    checks: list[Check]
    conclusions: str
    plot: Callable[[], Figure] | None = None

    @property
    def verdict(self) -> str:
        """Fail before inconclusive before pass; inconclusive without any check."""
        verdicts = {check.verdict for check in self.checks} or {INCONCLUSIVE}
        return next(v for v in (FAIL, INCONCLUSIVE, PASS) if v in verdicts)

    @property
    def failed(self) -> set[str]:
        """Names of the checks that fail."""
        return {check.name for check in self.checks if check.verdict == FAIL}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the literature and the experiment that would refute it.

    Parameters
    ----------
    statement : str
        The claim in our words, one or two sentences.
    source : str
        Author, year, theorem or equation.
    estimates : str
        What is estimated from the draws.
    reference : str
        What it is compared with.
    bias : str
        Order and constant of the finite-size error, where derived, and how.
    draw : callable
        ``draw(scale, rng)`` returns data: all that is random. `scale` is "smoke" (a few seconds) or "full" (minutes).
    judge : callable
        ``judge(data, theory)`` returns an `Outcome`; nothing in it is random, so that data may be judged again.
    theory : object
        The formula on trial, mostly a function.
    mutants : mapping of str to object
        Wrong formulas in the place of `theory`, by what is wrong with them; each must fail at smoke scale.
    disagreement : str
        What is wrong on paper, whatever is drawn: a misprint, numbers that do not fit, a formula beyond its range.
        Empty if nothing is.
    refuted : str
        What the draws show instead, where the statement of the source does not hold: its verdict is then expected to
        be fail, and stays so. What networks contradict of a source is part of the statement, has a check, and is told
        here. Empty for a claim that holds.
    """

    statement: str
    source: str
    estimates: str
    reference: str
    bias: str
    draw: Callable[[str, np.random.Generator], Any]
    judge: Callable[[Any, Any], Outcome]
    theory: Any
    mutants: Mapping[str, Any]
    disagreement: str = ""
    refuted: str = ""

    def unnoticed(self, data: Any, outcome: Outcome) -> list[str]:
        """Mutants that would pass for the theory on data that gave the theory this outcome.

        One is noticed if it fails; of a claim that fails itself, if it fails by a check that the theory passes.
        """
        failed = outcome.failed
        judged = {name: self.judge(data, wrong).failed for name, wrong in self.mutants.items()}
        return [name for name, found in judged.items() if not found - failed]


def seed_sequence(seed: int, claim_id: str) -> np.random.SeedSequence:
    """Seeds of a claim: they depend on the run's seed and on the claim's id alone, not on which others run."""
    words = np.frombuffer(hashlib.sha256(claim_id.encode()).digest(), dtype="<u4")
    return np.random.SeedSequence([seed, *(int(word) for word in words)])


def discover(package: ModuleType | None = None) -> dict[str, Claim]:
    """All claims by id, sorted.

    Parameters
    ----------
    package : module, optional
        Where the wings are; `validation` itself by default.

    Raises
    ------
    TypeError
        If a file of a wing defines no ``CLAIM``.
    """
    return _discover("validation" if package is None else package.__name__)


@functools.cache
def _discover(name: str) -> dict[str, Claim]:
    package = importlib.import_module(name)
    claims = {}
    for wing in pkgutil.iter_modules(package.__path__):
        if not wing.ispkg or wing.name.startswith("_"):
            continue
        folder = importlib.import_module(f"{name}.{wing.name}")
        for module in pkgutil.iter_modules(folder.__path__):
            if module.name.startswith("_"):
                continue
            loaded = importlib.import_module(f"{name}.{wing.name}.{module.name}")
            claim = getattr(loaded, "CLAIM", None)
            if not isinstance(claim, Claim):
                raise TypeError(f"{Path(str(loaded.__file__)).name} in `{wing.name}` must define CLAIM, a Claim")
            claims[f"{wing.name}.{module.name}"] = claim
    return dict(sorted(claims.items()))


def select(ids: Iterable[str], claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """The claims asked for; patterns like ``laws.*`` are allowed, and nothing asks for all.

    Raises
    ------
    UnknownClaim
        If an id or pattern matches no claim; names the nearest ids.
    """
    wanted = list(ids)
    chosen = set() if wanted else set(claims)
    for name in wanted:
        found = fnmatch.filter(claims, name)
        if not found:
            # By the last part too, as one forgets the wing.
            near = difflib.get_close_matches(name, claims, n=3, cutoff=0.5)
            tails = {c.partition(".")[2]: c for c in claims}
            near += [tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, n=3, cutoff=0.5)]
            hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else "; `list` shows all"
            raise UnknownClaim(f"no claim `{name}`{hint}")
        chosen.update(found)
    return {name: claim for name, claim in claims.items() if name in chosen}

"""Theorems, figures and tables of the literature, each held against draws: ``python -m validation list | run |
report``.

One file per claim, `validation/<wing>/<name>.py`, that defines ``CLAIM = Claim(...)``; its id is ``<wing>.<name>``.
Files are found by themselves, and those whose name starts with an underscore are helpers.
"""

from validation.checks import Check, exact, limit, means, rate
from validation.claims import Claim, Outcome, UnknownClaim, discover, select

__all__ = ["Check", "Claim", "Outcome", "UnknownClaim", "discover", "exact", "limit", "means", "rate", "select"]

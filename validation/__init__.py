"""Theorems, figures and tables of the literature held against draws: ``python -m validation list | run | report``.

One file per claim, `validation/<wing>/<name>.py`, that defines ``CLAIM``; its id is ``<wing>.<name>``. Files are found
by themselves; those whose name starts with an underscore are helpers. The whole of a small claim::

    SIZES = {"smoke": {8: 40_000, 16: 20_000, 32: 5_000}, "full": {8: 10**6, 16: 10**6, 32: 200_000, 64: 50_000}}

    def draw(scale, rng):                       # all that is random
        return {n: rng.standard_normal((r, n)).var(axis=1) for n, r in SIZES[scale].items()}

    def judge(data, limit_value):               # nothing random: mutants are judged on the same draws
        sizes = list(data)
        mean = np.array([v.mean() for v in data.values()])
        error = np.array([v.std() / len(v) ** 0.5 for v in data.values()])
        checks = [
            limit("limit", sizes, mean, error, limit_value, powers=(1.0,), detect=0.05),
            rate("rate", sizes, mean - limit_value, error, 1.0, detect=0.6),
        ]
        return Outcome(checks, f"The variance extrapolates to {checks[0].estimate:.4f}.", plot=None)

    CLAIM = Claim(
        statement="The variance of n standard normal numbers tends to 1.", source="Gauss (1823)", estimates="...",
        reference="1", bias="-1/n, exact", draw=draw, judge=judge, theory=1.0, mutants={"standard deviation": 2**0.5},
    )

The tests run each claim at smoke scale, which should take a few seconds, and each mutant, which must fail.
"""

from validation.checks import Check, exact, limit, means, rate
from validation.claims import Claim, Outcome, UnknownClaim, discover, select

__all__ = ["Check", "Claim", "Outcome", "UnknownClaim", "discover", "exact", "limit", "means", "rate", "select"]

"""Atoms for tests of the general law's solver; what polynomials, searches and many digits make of them."""

import mpmath as mp
import numpy as np
from scipy.optimize import brentq


class Atoms:
    """c_i = w_i / D at t_i, and a Wigner matrix of the given variance as one more pole at 0."""

    def __init__(self, t, weights, dimension, variance=0.0):
        self.t, self.w, self.dimension = np.array(t, float), np.array(weights, float), float(dimension)
        c = self.w / dimension
        self.b, self.a = c * self.t, c * self.t**2
        self.c, self.deficit, self.variance = c, 1 - c.sum(), variance
        self.rank = dimension if variance else min(dimension, self.w.sum())
        if variance:
            self.t, self.w = np.append(0.0, self.t), np.append(0.0, self.w)
            self.b, self.a = np.append(0.0, self.b), np.append(variance, self.a)
        self.given = self.t, self.b, self.a, self.deficit
        self.spread = np.sqrt(self.a.sum())

    def map(self, u):
        return u + self.b.sum() + sum(a / (u - t) for a, t in zip(self.a, self.t, strict=True))

    def slope(self, u):
        return 1 - sum(a / (u - t) ** 2 for a, t in zip(self.a, self.t, strict=True))

    def h(self, r, y):
        return sum(a / ((r - t) ** 2 + y) for a, t in zip(self.a, self.t, strict=True))

    def height(self, r):
        """V of the curve above r by a search."""
        if self.h(r, 1e-200) <= 1:
            return 0.0
        return np.sqrt(brentq(lambda y: self.h(r, y) - 1, 1e-200, 2 * self.a.sum() + 1e-12, xtol=1e-300, rtol=1e-15))

    def solution(self, z):
        """The u of the upper half plane, or where there is none the real one on which map rises, by a polynomial."""
        numerator = np.poly1d([1.0, self.b.sum() - z]) * np.poly1d(self.t, r=True)
        for i, a in enumerate(self.a):
            numerator = numerator + a * np.poly1d(np.delete(self.t, i), r=True)
        roots = numerator.roots
        if z.imag == 0:
            above = roots[roots.imag > 1e-7 * np.abs(roots)]
            if above.size:
                return above[0]
            real = roots.real
            return complex(real[np.argmax([self.slope(r) if self.h(r, 0) < 1 else -np.inf for r in real])])
        return roots[np.argmax(roots.imag)]

    def outer(self):
        """Real u with h(u, 0) = 1, all of them, by a polynomial."""
        one = np.poly1d(np.repeat(self.t, 2), r=True)
        for i, a in enumerate(self.a):
            one = one - a * np.poly1d(np.repeat(np.delete(self.t, i), 2), r=True)
        roots = one.roots
        return np.sort(roots[np.abs(roots.imag) < 1e-9].real)


CASES = {
    "fewer than D": Atoms([0.2, 0.5, 1.0], [3, 2, 1], 12),
    "more than D": Atoms([0.3, 1.0], [12, 8], 10),
    "as many as D": Atoms([0.4, 1.0], [7, 3], 10),
    "one": Atoms([1.0], [4], 10),
    "two bands": Atoms([0.1, 1.0], [1, 1], 40),
    "with a Wigner matrix": Atoms([0.3, 1.0], [3, 2], 10, 0.01),
    "far apart": Atoms([1e-6, 1.0], [4, 2], 10),
}


def digits(atoms, u):
    """map(u) and map'(u) in 60 digits."""
    with mp.workdps(60):
        u = mp.mpmathify(u)
        t, c = [mp.mpf(x) for x in atoms.t], [mp.mpf(b) / t if t else 0 for b, t in zip(atoms.b, atoms.t, strict=True)]
        factor = mp.mpf(atoms.deficit) + u * sum(x / (u - y) for x, y in zip(c, t, strict=True) if y)
        pole = mp.mpf(atoms.a[0]) / u if atoms.t[0] == 0 else 0
        slope = 1 - sum(x * y**2 / (u - y) ** 2 for x, y in zip(c, t, strict=True))
        slope -= mp.mpf(atoms.a[0]) / u**2 if atoms.t[0] == 0 else 0
        return u * factor + pole, slope


def exact_point(atoms, x):
    """The solution above x and the number of eigenvalues above x (Silverstein), in 60 digits."""
    with mp.workdps(60):
        t = [mp.mpf(v) for v in atoms.t]
        b = [mp.mpf(w) * z / atoms.dimension for w, z in zip(atoms.w, t, strict=True)]
        a = [z * y for z, y in zip(t, b, strict=True)]
        a[0] += atoms.variance
        f = lambda u: u + sum(b) + sum(y / (u - z) for y, z in zip(a, t, strict=True)) - x  # noqa: E731
        u = mp.findroot(f, mp.mpmathify(atoms.solution(complex(x))))
        total = atoms.dimension * mp.log(u)
        for w, z in zip(atoms.w, t, strict=True):
            total += mp.mpf(w) * (mp.log((u - z) / u) + u / (u - z))
        if atoms.variance:
            total += atoms.dimension * a[0] / (2 * u * u)
        return u, mp.im(total) / mp.pi

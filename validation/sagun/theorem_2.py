"""Sagun et al., theorem 2: zeros, bulk, outliers at both sides, eigenvectors."""

from __future__ import annotations

import dataclasses

import numpy as np

from rmtland.laws.marchenko_pastur import MarchenkoPastur
from rmtland.laws.silverstein import GeneralizedMarchenkoPastur
from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Check, Claim, Outcome, exact, figures, limit, rate
from validation.expansions import count_shift, edge_shift, tracy_widom_mean_shift_wishart
from validation.laws import _outliers
from validation.sampling import controlled_mean

FEWER, MORE = (0.25, (8.0, 2.5, 0.12)), (2.5, (12.0, 0.12))
"""alpha = M/N and the spikes of Sigma, with fewer and with more parameters than examples."""
LEVELS = np.array([0.15, 0.4, 0.6, 0.85])
SIZES = {
    "smoke": ({32: 22_000, 64: 8_000, 96: 3_000, 128: 1_500}, {16: 16_000, 32: 6_000, 64: 1_500}),
    "full": ({32: 120_000, 64: 60_000, 128: 20_000, 256: 2_500}, {16: 100_000, 32: 40_000, 64: 12_000, 128: 1_500}),
}


def draw(scale, rng):
    few, many = SIZES[scale]
    zeros = []
    for n in many:
        # The sampler leaves the zeros out, so they are counted in matrices of full size.
        x = rng.standard_normal((2, round(MORE[0] * n), n))
        x[:, : len(MORE[1])] *= np.sqrt(MORE[1])[:, None]
        zeros.append((np.linalg.eigvalsh(x @ x.transpose(0, 2, 1) / n) < 1e-9).sum(axis=1).mean())
    return (
        _outliers.draw(*FEWER[:1], list(FEWER[1]), few, rng, (-1, -2, 0)),
        _outliers.draw(*MORE[:1], list(MORE[1]), many, rng, (-1, 0)),
        zeros,
    )


def bulk_checks(draws):
    """Eigenvalues below four points inside the bulk: Marchenko-Pastur up to an error of the mean law that is O(1/M)."""
    alpha, spikes = FEWER
    law = MarchenkoPastur(alpha)
    x = law.ppf(LEVELS)
    sizes, means, errors, amplitudes, wanted = [], [], [], [], []
    for d in draws.values():
        m = d.num_features
        counts = (d.eigenvalues[:, :, None] <= x).sum(axis=1)
        population = np.append(np.ones(m - len(spikes)), spikes)
        derived = GeneralizedMarchenkoPastur.sample_covariance(population, alpha).count_below(x) + count_shift(
            x, *law.support
        )
        pull = derived - m * law.cdf(x)
        along = (counts - m * law.cdf(x)) @ pull / (pull @ pull) / m
        sizes.append(m)
        means.append(counts.mean(axis=0))
        errors.append(counts.std(axis=0) / len(counts) ** 0.5)
        wanted.append(derived)
        amplitudes.append((along.mean(), along.std() / len(along) ** 0.5))
    sizes = np.array(sizes)
    amplitude, deviation = np.array(amplitudes).T
    return [
        Check(
            "bulk: eigenvalues below 4 points",
            means,
            errors,
            wanted,
            1 / sizes[:, None],
            0.6,
            sizes,
            "derived terms: the spikes' pull and the 1/4 at the edges; beyond them O(1/M)",
        ),
        rate(
            "bulk: rate of the distance from Marchenko-Pastur", sizes, amplitude, deviation, 1.0, detect=0.8, bias=0.1
        ),
    ]


def judge(data, theory):
    fewer, more, zeros = data
    alpha, spikes = FEWER
    law, other = theory(*FEWER), theory(*MORE)
    checks = [exact("zeros: M - K", zeros, [other.num_zeros(n) for n in more], sizes=list(more)), *bulk_checks(fewer)]
    checks.append(exact("which spikes are outliers, M < N", law.is_outlier, [1.0, 1.0, 1.0]))
    checks.append(exact("which spikes are outliers, M > N", other.is_outlier, [1.0, 0.0]))
    sizes = np.array(list(fewer))
    vectors = []
    for j, (index, side) in enumerate(((-1, "right"), (-2, "near the threshold,"), (0, "left"))):
        others = [s for s in spikes if s != spikes[j]]
        checks += _outliers.location_checks(
            f"{side} outlier",
            fewer,
            index,
            law.locations[j],
            spikes[j],
            alpha,
            detect=0.05 * max(spikes[j], 0.5),
            others=others,
            with_rate=side == "left",
        )[::2]
        mean, error = np.array([controlled_mean(d.overlaps[:, j], d.controls) for d in fewer.values()]).T
        checks.append(
            limit(f"{side} outlier: eigenvector", sizes, mean, error, law.overlaps[j], powers=(1.0, 2.0), detect=0.2)
        )
        vectors.append((spikes[j], mean, error, law.overlaps[j], checks[-1]))
    # M > N: the smallest nonzero eigenvalue stays at the edge although Sigma has an eigenvalue near zero.
    ratio, (_, weak) = MORE
    rows = []
    for n, d in more.items():
        centre, scale = SpikedCovarianceLaw(ratio, [1.0], num_samples=n).edge("left")
        # The other spike pulls on the edge as well.
        known = sum(edge_shift(s, ratio, -1) for s in MORE[1]) / n + centre - (1 - ratio**0.5) ** 2
        values = d.eigenvalues[:, 0] - known + scale * tracy_widom_mean_shift_wishart(ratio * n, n, -1)
        rows.append((values.mean(), values.std() / len(values) ** 0.5))
    smallest, deviation = np.array(rows).T
    many = np.array(list(more))
    edge = other.locations[1]
    checks.append(
        limit(
            f"M > N, spike {weak:g}: stays at the edge",
            many,
            smallest,
            deviation,
            edge,
            powers=(2 / 3, 4 / 3),
            detect=0.1,
        )
    )
    checks.append(rate("M > N: rate to the edge", many, smallest - edge, deviation, 2 / 3, detect=0.4, bias=0.1))

    def plot():
        figure, (left, right) = figures.panels(
            2, f"spectrum, M = {fewer[sizes[-1]].num_features}, N = {sizes[-1]}", "eigenvectors of outliers"
        )
        values = fewer[sizes[-1]].eigenvalues[:300]
        bins = np.linspace(0, 11, 221)
        weight = np.full(values.size, 1 / len(values) / np.diff(bins)[0])
        left.hist(values.ravel(), bins, weights=weight.ravel(), color="#bbbbbb", label="draws")
        grid = np.linspace(0.2, 2.3, 300)
        left.plot(
            grid,
            fewer[sizes[-1]].num_features * MarchenkoPastur(alpha).pdf(grid),
            color=figures.COLOURS[1],
            label="M x Marchenko-Pastur",
        )
        for place in law.locations:
            left.axvline(place, color=figures.COLOURS[0], lw=0.9, ls="--")
        left.plot([], [], color=figures.COLOURS[0], ls="--", label="outliers, limit")
        left.set(
            xlabel=r"eigenvalue $\lambda$ of $G$ (bulk of $\Sigma$ is 1)",
            ylabel=r"eigenvalues per unit of $\lambda$",
            yscale="log",
            ylim=(0.05, 300),
        )
        figures.legend(left)
        for colour, (spike, mean, error, limit_value, _) in zip(figures.COLOURS, vectors, strict=False):
            figures.points(right, sizes, mean, error, colour, rf"$\ell={spike:g}$")
            right.axhline(limit_value, color=colour, lw=1.2)
        right.axhline(1, color=figures.GREY, lw=0.8, ls=":")
        right.set(xlabel="examples $N$", ylabel="squared cosine with the vector of $\\Sigma$", ylim=(0, 1.03))
        figures.log_sizes(right, sizes, log_values=False)
        figures.legend(right)
        return figure

    close = "; ".join(
        f"{s:g}: {c.estimate:.3f} +- {c.standard_error:.3f} (formula {w:.3f})" for s, _, _, w, c in vectors
    )
    text = f"""Zeros: exactly M - K. Bulk: Marchenko-Pastur, the mean law being off by O(1/M) (fitted exponent
    {checks[2].estimate:.2f} +- {checks[2].standard_error:.2f}) with the derived amplitude. Right and left outliers
    are where the map of Bloemendal et al. puts them.

    The squared cosines of the outliers' eigenvectors with those of Sigma extrapolate, by spike, to {close}. So 'close
    to the
    corresponding ones of Sigma' holds for strong spikes only: the limit is below 1 for every finite spike and 0 at the
    threshold.

    'All eigenvalues close to zero produce small outliers' needs M < N: at alpha = {ratio:g} a spike {weak:g} leaves the
    smallest nonzero eigenvalue at the edge, {checks[-2].estimate:.4f} +- {checks[-2].standard_error:.4f} (edge
    {edge:.4f})."""
    return Outcome(checks, text, plot)


@dataclasses.dataclass
class Decomposition:
    """What the theorem says of one alpha."""

    alpha: float
    locations: np.ndarray
    overlaps: np.ndarray
    is_outlier: np.ndarray
    has_zeros: bool = True

    def num_zeros(self, n):
        """Number of zero eigenvalues for n examples."""
        return max(round(self.alpha * n) - n, 0) if self.has_zeros else 0


def decomposition(alpha, spikes):
    law = SpikedCovarianceLaw(alpha, list(spikes))
    return Decomposition(alpha, law.locations, law.overlaps, law.is_outlier)


def same_vectors(alpha, spikes):
    law = decomposition(alpha, spikes)
    return dataclasses.replace(law, overlaps=law.is_outlier.astype(float))


def left_always(alpha, spikes):
    """Small eigenvalues of Sigma give small outliers for every alpha, as printed."""
    law, values = decomposition(alpha, spikes), np.array(spikes)
    small = values < abs(1 - alpha**0.5)
    places = np.where(small & (alpha > 1), values, law.locations)
    return dataclasses.replace(law, is_outlier=law.is_outlier | small, locations=places)


CLAIM = Claim(
    statement="""If Sigma - Id has bounded rank, the spectrum of G consists of M - min(M, N) zeros, a Marchenko-Pastur
    bulk, right outliers from eigenvalues of Sigma above 1 + sqrt(alpha) and, for M < N, left ones from eigenvalues
    below 1 - sqrt(alpha); eigenvectors of outliers lean on those of Sigma with a known cosine.""",
    source="Sagun et al. (2017), theorem 2, after Bloemendal, Knowles, Yau and Yin (2016), theorems 2.3, 2.9 and 2.11",
    estimates="zeros, mean counts in the bulk, mean outliers at both sides, squared cosines, for M < N and M > N",
    reference="M - K; Marchenko-Pastur; outlier map and cosines; the left edge where there is no outlier",
    bias="""Bulk counts: the spikes' pull and 1/4 at the edges, derived; outliers O(1/N), constant derived; cosines
    O(1/N), fitted; edge n^-2/3, fitted.""",
    draw=draw,
    judge=judge,
    theory=decomposition,
    mutants={
        "eigenvectors equal to those of Sigma": same_vectors,
        "left outliers for M > N too": left_always,
        "no zeros": lambda a, s: dataclasses.replace(decomposition(a, s), has_zeros=False),
    },
    disagreement="""As printed, all eigenvalues of Sigma close to zero give left outliers, and eigenvectors are
    'close' to those of Sigma. The first needs M < N; the second holds only as the spike grows: the squared cosine
    tends to 0 at the threshold.""",
)

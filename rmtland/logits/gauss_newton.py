"""The gradient and the Gauss-Newton matrix of any source: as an operator, and its exact spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, overload, runtime_checkable

import numpy as np

from rmtland._arguments import choice, real, require_memory
from rmtland._arrays import Array, double, is_torch, like, namespace, to_numpy, where_double_is, zeros
from rmtland.logits.accumulate import (
    SharedChunk,
    SumAccumulator,
    accumulate_one,
    checked_blocks,
    checked_chunks,
    first_chunk,
    loss_at,
    prototype,
)
from rmtland.logits.blocks import parameter_blocks
from rmtland.logits.exact_spectrum import GaussNewtonSpectrum, from_parameters, from_rows
from rmtland.logits.gradients import (
    LogitGradients,
    LogitGradientsChunk,
    ParametrisedSource,
    WeightedChunk,
    check_source,
    column_slices,
    rounding,
)
from rmtland.logits.ranks import gathered, in_step, ranked
from rmtland.logits.restriction import restricted_sources
from rmtland.logits.rows import RowsChunk, require_finite
from rmtland.spectra.operators import SymmetricOperator


@runtime_checkable
class GramSource(LogitGradients, Protocol):
    """A source that forms its own Gram matrices, cheaper than from rows of D numbers. An offer, not a duty."""

    def matrices(
        self,
        columns: Callable[[LogitGradientsChunk], Array],
        vector: Array,
        groups: Sequence[Sequence[str]],
        outer: Sequence[bool],
    ) -> Iterator[tuple[Array, Array]]:
        """For each list of groups of parameters, of the rows r = J_mu^T l_j with columns (n, C, r) of each chunk.

        Either the Gram matrix (N r, N r) and the rows' inner products with `vector`, both float64, or (`outer`; lists
        of one) sum r r^T over this rank and nothing of use.
        """


@dataclass(frozen=True)
class GradientAccumulator(SumAccumulator[Array]):
    """`gradient` as an accumulator, for `measure`."""

    weight_decay: float = 0.0

    def start(self, source: LogitGradients) -> None:
        """Nothing yet; TypeError for weight decay of a source without parameters of its own."""
        if real("weight_decay", self.weight_decay, at_least=0) and not isinstance(source, ParametrisedSource):
            raise TypeError(
                f"`weight_decay` must be 0 for a source that does not know its parameters; got {self.weight_decay}"
            )

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """The chunk's share, (D,)."""
        return (chunk.vjp(like(chunk.logits, chunk.slopes)[:, :, None])[:, 0],)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> Array:
        """The gradient; ValueError where it is not finite."""
        require_finite(sums[0])
        if self.weight_decay:
            assert isinstance(source, ParametrisedSource)
            return sums[0] + self.weight_decay * like(sums[0], source.parameter_vector)
        return sums[0]


def gradient(source: LogitGradients, *, weight_decay: float = 0.0) -> Array:
    """Gradient of the mean loss in the parameters, (1/N) sum_mu J_mu^T dl/dz.

    Parameters
    ----------
    source : LogitGradients
        Any source with any loss.
    weight_decay : float
        Adds the gradient of an l2 term (weight_decay / 2) |W|^2 to the loss, as `torch.optim.SGD` does; of networks.

    Returns
    -------
    array (D,)
        In the library, dtype and on the device of the source's logit gradients.

    Raises
    ------
    ValueError
        For NaN or infinite logit gradients, weight decay below zero.
    TypeError
        For weight decay of a source that does not know its parameters.

    Notes
    -----
    For cross-entropy dl/dz = p - y; Fort and Ganguli (2019) eqs. (6) and (8) have the sign reversed.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> source = rl.DenseLogitGradients(np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 3)))
    >>> rl.gradient(source)
    array([0., 0., 0.])
    """
    return accumulate_one(source, GradientAccumulator(weight_decay))


def gauss_newton(source: LogitGradients, *, weight_decay: float = 0.0) -> SymmetricOperator:
    """The Gauss-Newton matrix G = (1/N) sum_mu J_mu^T A_mu J_mu as an operator.

    Parameters
    ----------
    source : LogitGradients
        Any source with any loss.
    weight_decay : float
        Adds the Hessian of an l2 term (weight_decay / 2) |W|^2, weight_decay times the identity.

    Returns
    -------
    SymmetricOperator
        D x D; a product with (D, k) is one pass over the chunks, k columns at a time.

    References
    ----------
    Fort and Ganguli (2019), eq. (10); Schraudolph (2002) for the general loss.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=3, num_parameters=50)
    >>> rl.gauss_newton(model.sample(rng=0)).shape
    (50, 50)
    """
    check_source(source)
    decay = real("weight_decay", weight_decay, at_least=0)

    def multiply(block: Array) -> Array:
        with in_step(source, block):
            # A network's columns lie one after another: they are added as they lie.
            total = zeros(block, tuple(block.shape)[::-1]).T if is_torch(block) else zeros(block, tuple(block.shape))
            for chunk in checked_chunks(source):
                loss = loss_at(source, chunk, in_double=False)
                for some in column_slices(chunk, block.shape[1]):
                    curved = loss.hessian_product(chunk.jvp(block[:, some]))
                    total[:, some] += chunk.vjp(curved / source.num_examples)
            total = source.reduce(total)
            return total + decay * block if decay else total

    return SymmetricOperator(multiply, source.num_parameters, prototype(source), rounding=rounding(source))


@overload
def gauss_newton_spectrum(source: LogitGradients, *, by: None = None) -> GaussNewtonSpectrum: ...


@overload
def gauss_newton_spectrum(source: LogitGradients, *, by: str) -> dict[str, GaussNewtonSpectrum]: ...


def gauss_newton_spectrum(
    source: LogitGradients, *, by: str | None = None
) -> GaussNewtonSpectrum | dict[str, GaussNewtonSpectrum]:
    """All eigenvalues of the Gauss-Newton matrix and the gradient's power in each, exactly.

    With A_mu = L_mu L_mu^T, G = Y^T Y for the N rank(A) x D matrix Y of rows L_mu^T J_mu / sqrt(N). The smaller of
    Y^T Y and Y Y^T is formed and diagonalised in float64: O(min(D, N(C-1))^2) memory, whatever the larger side.

    Parameters
    ----------
    source : LogitGradients
        Any source with any loss. Where Y does not fit into 256 MiB the side of the examples takes a pass per block of
        parameters and needs the same order of examples in each. Networks form it layer by layer instead, from layer
        inputs and backpropagated signals, without rows of D numbers: mostly in one pass, in several where these take
        more than 1 GiB. In several processes each gets these of all examples, and does its share of the products.
    by : {None, "parameter_groups"}
        With "parameter_groups", the spectrum of each group's diagonal block: of a network, of each tensor.

    Returns
    -------
    GaussNewtonSpectrum
        With `by`, a dict of them by the names of the groups. Their traces add up to that of the whole.

    Raises
    ------
    MemoryError
        Where the smaller side does not fit; use products with `gauss_newton` instead.
    ValueError
        For NaN or infinite logit gradients.
    RuntimeError
        Where a source changes the order of its examples between passes that need the same.

    Notes
    -----
    Through the factor L rather than through A, so that examples with nearly frozen probabilities do not cancel.
    Eigenvalues are exact to about 1e-16 of the largest; of a network in float32, whose logit gradients are rounded, to
    about 1e-7 sqrt(lambda lambda_max).

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=3, num_parameters=500)
    >>> spectrum = rl.gauss_newton_spectrum(model.sample(rng=0))
    >>> spectrum.eigenvalues.shape  # N (C - 1) of them, the other 460 are zero
    (40,)
    >>> round(float(spectrum.powers.sum() + spectrum.null_power), 12)
    1.0
    """
    choice("by", by, (None, "parameter_groups"))
    with in_step(source):
        return _gauss_newton_spectrum(source, by)


def _gauss_newton_spectrum(
    source: LogitGradients, by: str | None
) -> GaussNewtonSpectrum | dict[str, GaussNewtonSpectrum]:
    check_source(source)
    if by is not None and isinstance(source, GramSource):
        return dict(zip(source.parameter_groups, _spectra_by_layers(source, by_group=True), strict=True))
    if by is not None:
        return {name: _whole_spectrum(part) for name, part in restricted_sources(source).items()}
    return _whole_spectrum(source)


def _whole_spectrum(source: LogitGradients) -> GaussNewtonSpectrum:
    rows, by_parameters = _smaller_side(source, source.num_parameters)
    if by_parameters:
        return _spectrum_by_parameters(source)
    if isinstance(source, GramSource):
        return next(_spectra_by_layers(source, by_group=False))
    return _spectrum_by_examples(source, rows)


def _smaller_side(source: LogitGradients, num_parameters: int) -> tuple[int, bool]:
    """Number of rows of Y, and whether Y^T Y is to be formed; MemoryError where neither side fits."""
    first = double(first_chunk(source).logits[:1, :])
    rows = source.num_examples * int(source.loss.hessian_factor(first).shape[2])
    by_parameters = num_parameters <= rows
    if ranked(source) is None:
        # The Gram side needs the rows of all examples in one place. Every rank asks, so that all take the same side.
        by_parameters |= int(to_numpy(source.reduce(zeros(first, (1,)) + 1))[0]) > 1
    side = num_parameters if by_parameters else rows
    require_memory(
        f"the spectrum of a {side} x {side} matrix", 32.0 * side**2, "use products with gauss_newton(source)"
    )
    return rows, by_parameters


def _spectra_by_layers(source: GramSource, by_group: bool) -> Iterator[GaussNewtonSpectrum]:
    """The spectrum of the whole, or of each group of parameters in turn, from the source's own Gram matrices."""
    slope = gradient(source)
    groups = source.parameter_groups
    lists = [[name] for name in groups] if by_group else [list(groups)]
    sizes = [sum(groups[n].stop - groups[n].start for n in one) for one in lists]
    outer = [_smaller_side(source, size)[1] for size in sizes]

    def columns(chunk: LogitGradientsChunk) -> Array:
        factor = loss_at(source, chunk).hessian_factor() / math.sqrt(source.num_examples)
        return like(chunk.logits, factor)

    for one, size, side, (matrix, seen) in zip(
        lists, sizes, outer, source.matrices(columns, slope, lists, outer), strict=True
    ):
        part = double(namespace(slope).concat([slope[groups[name]] for name in one]))
        norm = float(np.linalg.norm(to_numpy(part)))
        if side:
            yield from_parameters(source.reduce(matrix), part)
        else:
            yield from_rows(matrix, seen, norm, size)


def _rows_and_slope(source: LogitGradients, chunk: LogitGradientsChunk, parameters: slice) -> tuple[Array, Array]:
    """L_mu^T J_mu / sqrt(N) of a chunk, (n rank, d), and its share of the gradient, (d,), both float64."""
    loss = loss_at(source, chunk)
    slopes = loss.gradient() / source.num_examples
    if isinstance(chunk, WeightedChunk) and parameters == slice(None):
        return chunk.weighted_rows(source.num_examples), chunk.vjp(slopes[:, :, None])[:, 0]
    if isinstance(chunk, RowsChunk) and parameters == slice(None):
        shared = SharedChunk(chunk, source)
        parts = [double(where_double_is(part.formed())) for part in shared.factor_rows]
        every = namespace(slopes).ones_like(slopes[:, :1])
        slope = double(where_double_is(shared.rows(like(chunk.logits, slopes)).sums(every)[0, :]))
        return namespace(*parts).concat(parts), slope
    gradients = double(where_double_is(chunk.dense(parameters)))
    width = gradients.shape[2]
    factor = like(gradients, loss.hessian_factor() / math.sqrt(source.num_examples))
    rows = namespace(factor).matrix_transpose(factor) @ gradients
    return rows.reshape(-1, width), like(gradients, slopes).reshape(-1) @ gradients.reshape(-1, width)


def _spectrum_by_parameters(source: LogitGradients) -> GaussNewtonSpectrum:
    matrix: Array = None
    slope: Array = None
    for chunk in checked_blocks(source):
        rows, part = _rows_and_slope(source, chunk, slice(None))
        square = rows.T @ rows
        matrix = square if matrix is None else matrix.__iadd__(square)
        slope = part if slope is None else slope + part
    return from_parameters(source.reduce(matrix), source.reduce(slope))


def _spectrum_by_examples(source: LogitGradients, num_rows: int) -> GaussNewtonSpectrum:
    gram: Array = None
    seen: Array = None
    square = 0.0
    for parts in parameter_blocks(source, num_rows, partial(_rows_and_slope, source)):
        rows, slopes = zip(*parts, strict=True)
        stacked = namespace(*rows).concat(rows)
        slope = source.reduce(sum(slopes[1:], start=slopes[0]))
        products = stacked @ gathered(source, stacked).T
        gram = products if gram is None else gram.__iadd__(products)
        seen = stacked @ slope if seen is None else seen + stacked @ slope
        square += float(to_numpy(slope @ slope))
    return from_rows(gathered(source, gram), gathered(source, seen), math.sqrt(square), source.num_parameters)

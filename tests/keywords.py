"""The rows of test_keywords.py: for each public keyword another value, or the test that shows what it does."""

import functools
import itertools

import numpy as np
import torch
import xarray as xr
from scipy.special import erf

import rmtland as rl
from rmtland.landscape.paper.h_term import h_term_figure
from rmtland.landscape.paper.spectrum import freezing_figure, spectrum_figure
from rmtland.landscape.paper.sweeps import phase_figure, sweep_figure
from tests import oracles


class Besides:
    """A changed value that acts only where the call is told something more."""

    def __init__(self, value, **besides):
        self.value, self.besides = value, besides


class At(str):
    """The file whose tests show what the keyword does."""


X, Y = np.random.default_rng(3).normal(size=(24, 4)), np.arange(24) % 3
LOGITS, _, GRADIENTS = oracles.examples(24, 3, 7)
GROUPS = {"a": slice(0, 3), "b": slice(3, 7)}
OTHER = np.random.default_rng(4).normal(size=(24, 4))
MARCHENKO = rl.MarchenkoPastur(0.5)
MATRIX = np.diag(np.append(np.linspace(1, 2, 37), [4.0, 5, 6]))
RISING = np.linspace(1, 2, 24)
CANCELLING = np.outer(np.arange(1.0, 25.0), [1.0, -1.0, 0.5])


@functools.cache
def source():
    return rl.DenseLogitGradients(LOGITS, Y, GRADIENTS, parameter_groups=GROUPS)


@functools.cache
def hierarchy():
    return rl.hierarchy(source())


@functools.cache
def model(sigma_z=1.0, **options):
    return rl.LandscapeModel.fort_ganguli(12, 3, 20, sigma_z=sigma_z, **options)


@functools.cache
def kernels():
    return rl.MeanFieldNetwork([4, 5, 3]).kernels(X[:5])


def network(seed=0):
    return rl.nets.mlp([4, 5, 3], seed=seed)


def of_network(module=None, inputs=X, labels=Y, **options):
    """What a source of a network gives: loss and gradient, and how it walks through its examples."""
    found = rl.nets.NetworkLogitGradients(module or network(), inputs, labels, **options)
    sizes = [chunk.logits.shape[0] for chunk in found.chunks()]
    return rl.gradient(found), sizes, rl.gauss_newton_spectrum(found).eigenvalues


def scales(law):
    """What a model of 24 examples, 3 classes and 20 parameters makes of its logit law or gradient law."""
    gradients = isinstance(law, rl.GradientLaw)
    parts = {"gradients": law} if gradients else {"logits": law}
    return rl.LandscapeModel(24, 3, 20, **parts).spectrum(0).eigenvalues


def distribution(law):
    return law.pdf(np.linspace(0.1, 3, 7)), law.cdf(np.linspace(0.1, 3, 7))


def spikes(law):
    return law.locations, law.overlaps, law.standard_deviations if hasattr(law, "standard_deviations") else law.std


def eigenvalues(ensemble):
    return ensemble.eigenvalues(2, rng=0)


def measured(accumulator):
    return rl.measure(source(), named=accumulator)


def value_of(loss):
    targets = Y if isinstance(loss, rl.CrossEntropy) else np.random.default_rng(0).uniform(size=LOGITS.shape)
    return loss.value(LOGITS, targets), loss.gradient(LOGITS, targets)


def products(operator):
    return operator @ np.eye(operator.shape[0])


def then(use, make):
    """A call that makes something and says what it gives."""
    return lambda **options: use(make(**options))


SEEDED, THREADS = {"rng": 0}, At("tests/ensembles/test_replicates.py")
LENGTHS = {"mean_length": 2.0, "residual_length": 0.3, "class_length": 0.4, "relative_lengths": [1.0, 2.0, 3.0]}
SIZES = {"num_examples": 15, "num_classes": 4, "num_parameters": 25}
CELL = {"rng": np.random.default_rng(0), "num_examples": 12, "num_classes": 3, "num_parameters": 20}
CELLS = SIZES | {"sigma_z": 3.0, "snr": 1.0, "accuracy": 0.5, "mean_length": 2.0, "sigma_H": 0.1}
MISSING = np.where(np.arange(24) < 4, -1, Y)


def cell(x, shift=0.0, *, rng):
    return {"y": float(x + shift + rng.normal())}


def landscape_cell(function):
    return lambda **options: function(**options | {"rng": np.random.default_rng(0)})


def logits_and_labels(law):
    return law.draw_logits(24, 3, np.random.default_rng(0))


# Name: (call, arguments, {keyword: another value}).


@functools.cache
def laws():
    return {
        "MarchenkoPastur": (then(distribution, rl.MarchenkoPastur), {"ratio": 0.5}, {"sigma": 2.0}),
        "Semicircle": (then(distribution, rl.Semicircle), {}, {"sigma": 2.0}),
        "TracyWidom": (
            then(distribution, rl.TracyWidom), {}, {"beta": 2, "convention": Besides("matrix", beta=4)},
        ),
        "GeneralizedMarchenkoPastur": (
            then(distribution, rl.GeneralizedMarchenkoPastur), {"eigenvalues": [1.0, 2.0], "num_parameters": 4},
            {"multiplicities": [1.0, 3.0], "covariance": True},
        ),
        "GeneralizedMarchenkoPastur.sample_covariance": (
            then(distribution, rl.GeneralizedMarchenkoPastur.sample_covariance), {"population": [1.0, 2.0],
              "ratio": 0.5},
            {"weights": [0.2, 0.8]},
        ),
        "GeneralizedMarchenkoPastur.classical_locations": (
            rl.GeneralizedMarchenkoPastur([1.0, 2.0], 30).classical_locations, {}, {"k": 1},
        ),
        "SpikedCovarianceLaw": (
            then(lambda law: (law.locations, law.locations_std), rl.SpikedCovarianceLaw),
            {"ratio": 0.5, "spikes": [4.0], "num_samples": 100},
            {"num_samples": 50, "beta": 2,
             "general_bulk": rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 0.5)},
        ),
        "SpikedCovarianceLaw.edge": (rl.SpikedCovarianceLaw(0.5, [4.0], 100).edge, {}, {"side": "left"}),
        "SpikedCovarianceLaw.on_bulk": (
            then(lambda law: law.locations_std, rl.SpikedCovarianceLaw.on_bulk),
            {"bulk": rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 0.5), "spikes": [9.0],
              "num_samples": 99},
            {"num_samples": 50, "beta": 2},
        ),
        "SpikedWignerLaw": (
            then(lambda law: (law.locations, law.locations_std), rl.SpikedWignerLaw), {"spikes": [2.0], "n": 100},
            {"sigma": 1.5, "spikes": [3.0], "n": 50, "beta": 2},
        ),
        "SpikedWignerLaw.edge": (rl.SpikedWignerLaw(1.0, [2.0], 100).edge, {}, {"side": "left"}),
        "RandomEnergyModel.entropy": (rl.RandomEnergyModel(5, 1.0).entropy, {}, {"base": 2.0}),
        "RandomEnergyLimit.entropy": (rl.RandomEnergyLimit(1.5).entropy, {}, {"base": 2.0}),
        **{
            f"{type(law).__name__}.rvs": (law.rvs, {"size": 3, "rng": 0}, {"size": 4, "rng": 1})
            for law in (MARCHENKO, rl.Semicircle(), rl.TracyWidom(), rl.GeneralizedMarchenkoPastur([1.0, 2.0], 30))
        },
    }  # fmt: skip


ENSEMBLE = {
    "eigenvalues": (SEEDED, {"size": 2, "rng": 1, "threads": THREADS}),
    "iterate_eigenvalues": (SEEDED | {"size": 4}, {"rng": 1, "chunk_size": 3, "threads": THREADS}),
    "largest": (SEEDED, {"k": 2, "size": 2, "rng": 1, "threads": THREADS}),
    "smallest": (SEEDED, {"k": 2, "size": 2, "rng": 1, "threads": THREADS}),
    "matrix": (SEEDED, {"rng": 1, "dtype": np.float32}),
    "eigenvectors_overlap": (SEEDED, {"k": 1, "size": 2, "rng": 1, "side": "smallest", "threads": THREADS}),
}


@functools.cache
def ensembles():
    return {
        "GaussianEnsemble": (then(eigenvalues, rl.GaussianEnsemble), {"n": 8}, {"beta": 2}),
        "Wishart": (then(eigenvalues, rl.Wishart), {"num_features": 5, "num_samples": 9}, {"beta": 2}),
        "SpikedWigner": (then(eigenvalues, rl.SpikedWigner), {"n": 8}, {"spikes": [3.0], "beta": 2}),
        "SpikedCovariance": (
            then(eigenvalues, rl.SpikedCovariance), {"num_features": 5, "num_samples": 9}, {"spikes": [3.0],
              "beta": 2},
        ),
        "SampleCovariance": (
            then(eigenvalues, rl.SampleCovariance), {"population": [1.0, 2.0], "num_samples": 5},
            {"entries": "rademacher", "dtype": np.float32},
        ),
        **{
            f"{type(ensemble).__name__}.{name}": (getattr(ensemble, name), given, {
                keyword: value for keyword, value in others.items()
                if not (keyword == "dtype" and type(ensemble) is rl.SampleCovariance)
            })
            for ensemble, (name, (given, others)) in itertools.product(
                (rl.GaussianEnsemble(8), rl.SpikedWigner(8, [2.0, 3.0]), rl.Wishart(5, 9), rl.SpikedCovariance(5,
                  9, [3.0, 4.0]),
                 rl.SampleCovariance([1.0, 2.0, 3.0], 5)),
                ENSEMBLE.items(),
            )
            if hasattr(ensemble, name) and (name != "eigenvectors_overlap" or hasattr(ensemble, "spikes"))
        },
        "bbp_transition": (
            rl.bbp_transition, SEEDED | {"ratio": 0.5, "spikes": [2.0], "num_features": 20, "num_draws": 3},
            {"rng": 1, "beta": 2, "threads": THREADS},
        ),
        "empirical_density": (
            rl.empirical_density, SEEDED | {"source": rl.Wishart(5, 9), "bins": [0.0, 1.0, 9.0], "num_draws": 3},
            {"num_draws": 4, "rng": 1, "threads": THREADS},
        ),
        "linear_statistics": (
            rl.linear_statistics,
            SEEDED | {"source": rl.Wishart(5, 9), "functions": {"t": lambda v: v}, "num_draws": 3},
            {"num_draws": 4, "rng": 1, "threads": THREADS},
        ),
        "goodness_of_fit": (
            rl.goodness_of_fit,
            SEEDED | {"eigenvalue_sets": rl.Wishart(10, 20).eigenvalues(6, rng=0), "law": MARCHENKO,
                      "num_permutations": 99, "ensemble": rl.Wishart(10, 20)},
            {"ensemble": rl.Wishart(10, 40), "num_moments": 3, "num_calibration": 20,
             "num_permutations": 199, "alpha": 0.2, "alternative": 1.2, "rng": 1,
             "threads": THREADS},
        ),
        "spiked_covariance_cell": (
            landscape_cell(rl.spiked_covariance_cell), {"num_samples": 20},
            {"spike": 3.0, "ratio": 0.25, "num_samples": 24, "beta": 2},
        ),
        "spiked_wigner_cell": (landscape_cell(rl.spiked_wigner_cell), {"n": 20}, {"spike": 3.0, "n": 24, "beta": 2}),
    }  # fmt: skip


GRAM = np.eye(3) + 0.2


@functools.cache
def landscape():
    return {
        "ClusteredGradients": (then(scales, rl.ClusteredGradients), {}, LENGTHS),
        "AnisotropicGradients": (
            then(scales, rl.AnisotropicGradients), {"mean_gram": GRAM},
            {"residual_length": 0.3, "covariance": rl.ResidualCovariance(np.linspace(1, 2, 20)),
             "residual_scales": RISING, "logit_covariance": GRAM, "mean_scales": RISING,
             "loadings": At("tests/landscape/test_anisotropic.py"), "cancelling": CANCELLING},
        ),
        "KernelGradients": (
            then(scales, rl.KernelGradients), {"terms": [(np.eye(24) + 0.5, np.eye(3))]},
              {"effective_dimension": 20.0},
        ),
        "UnevenGradients": (
            then(scales, rl.UnevenGradients), {},
            {"mean_length": 2.0, "residual_length": 2.0, "effective_dimension": 5.0, "length_spread": 1.0,
              "logit_spread": 0.5},
        ),
        "UnevenGradients.q_values": (
            rl.UnevenGradients(length_spread=1.0).q_values, {"num_classes": 3}, {"labels": [0, 1, 2]},
        ),
        "ResidualCovariance": (
            then(lambda law: scales(rl.AnisotropicGradients(GRAM, covariance=law)), rl.ResidualCovariance),
            {"eigenvalues": [1.0, 2.0]}, {"eigenvalues": [1.0, 3.0], "multiplicities": [4, 16]},
        ),
        "GaussianLogits": (then(logits_and_labels, rl.GaussianLogits), {"sigma": 1.0}, {"accuracy": 0.5}),
        "GaussianLogits.from_participation": (
            then(logits_and_labels, rl.GaussianLogits.from_participation), {"participation": 0.5, "num_classes": 3},
            {"accuracy": 0.5},
        ),
        "MarginLogits": (then(logits_and_labels, rl.MarginLogits), {"sigma": 1.0, "margin": 1.0},
          {"margin_spread": 0.5}),
        "UnfrozenLogits": (
            then(logits_and_labels, rl.UnfrozenLogits), {"sigma": 1.0, "margin": 1.0},
            {"margin_spread": 0.5, "label_accuracy": 0.5, "shared": 0.5, "shared_by_class": 0.5},
        ),
        "GaussianProcessLogits": (
            then(logits_and_labels, rl.GaussianProcessLogits), {"covariance": np.eye(24)},
              {"labels": np.arange(24)[::-1] % 3},
        ),
        "SharedRows": (then(lambda rows: model().spectrum(0, rows=rows), rl.SharedRows), SEEDED, {"rng": 1}),
        "MeanFieldNetwork": (
            then(lambda network: network.kernels(X[:5] ), rl.MeanFieldNetwork), {"widths": [4, 5, 3]},
            {"activation": "tanh", "weight_variances": 1.0, "bias_variances": 0.5, "biases": False},
        ),
        "Activation": (
            then(lambda law: law.averages(np.eye(2)), rl.Activation),
            {"name": "erf", "function": erf, "derivative": lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))},
              {"dual": lambda first, second, c: (c, c)}),
        "LandscapeModel": (
            then(lambda model: model.spectrum(0).eigenvalues, rl.LandscapeModel),
            {"num_examples": 12, "num_classes": 3, "num_parameters": 20},
            {"logits": rl.GaussianLogits(1.0), "gradients": rl.ClusteredGradients(2.0), "sigma_H": 0.1},
        ),
        "LandscapeModel.fort_ganguli": (
            then(lambda model: model.spectrum(0), rl.LandscapeModel.fort_ganguli),
            {"num_examples": 12, "num_classes": 3, "num_parameters": 20},
            CELLS | {"residual_length": 0.3},
        ),
        "LandscapeModel.from_source": (
            then(lambda model: model.spectrum(0), rl.LandscapeModel.from_source), {"source": source()},
            {"logit_law": "participation", "class_means": True},
        ),
        "LandscapeModel.sample": (then(lambda draw: draw.residuals, model().sample), SEEDED, {"rng": 1}),
        "LandscapeModel.spectrum": (
            model().spectrum, SEEDED,
            {"rng": 1, "cross_terms": False, "tolerance": 0.5, "k": 1, "rows": rl.SharedRows(5)},
        ),
        "LandscapeModel.theory": (
            then(lambda theory: (theory.outliers(), theory.trace), model().theory), SEEDED, {"rng": 1,
              "cross_terms": False},
        ),
        "LandscapeModel.theory_band": (
            model().theory_band, SEEDED | {"num_draws": 2}, {"num_draws": 3, "rng": 1, "cross_terms": False},
        ),
        "LandscapeModel.population_theory": (
            then(lambda theory: (theory.outliers(), theory.trace), model(snr=0.5).population_theory),
            SEEDED | {"sample_size": 2000}, {"rng": 1, "cross_terms": False, "sample_size": 3000},
        ),
        "LandscapeDraw.hessian": (model().sample(0).hessian, {}, {"cross_terms": False}),
        "LandscapeSpectrum.goldilocks_ratio": (model().spectrum(0).goldilocks_ratio, {}, {"dimension": 9}),
        "LandscapeSpectrum.outliers": (model().spectrum(0).outliers, {}, {"k": 1}),
        "LandscapeTheory.goldilocks_ratio": (model().theory(0).goldilocks_ratio, {}, {"dimension": 9}),
        "LandscapeTheory.goldilocks_ratio_std": (model().theory(0).goldilocks_ratio_std, {}, {"dimension": 9}),
        "TheoryBand.goldilocks_ratio": (model().theory_band(2, 0).goldilocks_ratio, {}, {"dimension": 9}),
        **{
            f"AnisotropicGradients.{name}": row for name, row in {
                "clustered": (
                    then(scales, rl.AnisotropicGradients.clustered), {"num_classes": 3},
                    {k: v for k, v in LENGTHS.items() if k != "relative_lengths"}
                    | {"covariance": rl.ResidualCovariance(np.linspace(1, 2, 20))},
                ),

            }.items()
        },
        "KernelGradients.q_values": (
            rl.KernelGradients([(np.diag(np.arange(1.0, 7)) + 0.5, np.eye(3))]).q_values, {"num_classes": 3},
            {"labels": [0, 0, 0, 1, 2, 2]},
        ),
        "ResidualCovariance.from_effective_dimension": (
            rl.ResidualCovariance.from_effective_dimension, {"dimension": 5.0}, {"exponent": 0.5},
        ),
        "MeanFieldKernels.effective_output_kernel": (kernels().effective_output_kernel, SEEDED, {"rng": 1}),
        "MeanFieldKernels.output_kernels": (kernels().output_kernels, SEEDED, {"rng": 1}),
        "MeanFieldKernels.goldilocks_ratio": (
            kernels().goldilocks_ratio, {"num_draws": 2}, {"num_draws": 3, "rng": 1},
        ),
        "MeanFieldKernels.q_values": (kernels().q_values, {}, {"labels": [0, 0, 0, 1, 2]}),
        "MeanFieldKernels.model": (
            then(lambda made: made.spectrum(0).eigenvalues, kernels().model), SEEDED, {"labels": [0, 0, 0, 1, 2],
              "rng": 1},
        ),
        "PopulationTheory.goldilocks_ratio": (model().population_theory(0, sample_size=999).goldilocks_ratio, {},
          {"dimension": 9}),
        "PopulationTheory.goldilocks_ratio_std": (
            model().population_theory(0, sample_size=999).goldilocks_ratio_std, {}, {"dimension": 9},
        ),
        "ClusteredGradients.q_values": (
            rl.ClusteredGradients(class_length=1.0).q_values, {"num_classes": 3}, {"labels": [0, 0, 0, 1, 2]},
        ),
        "landscape_cell": (landscape_cell(rl.landscape_cell), CELL, CELLS),
        "theory_cell": (landscape_cell(rl.theory_cell), CELL, CELLS),
        "measured_gradients": (then(scales, rl.measured_gradients), {"source": source()}, {"num_factors": 1}),
    }  # fmt: skip


@functools.cache
def statistics():
    return {
        "CrossEntropy": (then(value_of, rl.CrossEntropy), {}, {"label_smoothing": 0.1}),
        "Logistic": (then(value_of, rl.Logistic), {}, {"mean": True}),
        "SquaredError": (then(value_of, rl.SquaredError), {}, {"mean": True}),
        "DenseLogitGradients": (
            then(lambda s: (rl.gauss_newton_spectrum(s), [len(c.logits) for c in s.chunks()], s.parameter_groups),
                 rl.DenseLogitGradients),
            {"logits": LOGITS, "labels": Y, "gradients": GRADIENTS},
            {"loss": rl.CrossEntropy(label_smoothing=0.1), "chunk_size": 5, "parameter_groups": GROUPS},
        ),
        "ClusteringAccumulator": (
            then(measured, rl.ClusteringAccumulator), {"num_bootstrap": 20},
            {"num_bootstrap": 30, "rng": 1, "num_groups": 4},
        ),
        "CrossClassMeansAccumulator": (then(measured, rl.CrossClassMeansAccumulator), {}, {"keep_pairs": False}),
        "GradientAccumulator": (
            then(lambda a: rl.measure(of_source(), named=a), rl.GradientAccumulator), {}, {"weight_decay": 0.1},
        ),
        "LogitScalesAccumulator": (then(measured, rl.LogitScalesAccumulator), {}, {"class_means": True}),
        "attribution": (
            rl.attribution, SEEDED | {"hierarchy": hierarchy()}, {"matrix": np.diag(np.arange(7.0)), "k": 1,
              "rng": 1},
        ),
        "attribution_changes": (
            rl.attribution_changes, {"steps": [1, 2], "counts": [[2, 1, 0], [1, 2, 0]]}, {"counts": [[2, 1, 0], [2,
              0, 1]]},
        ),
        "class_embedding": (rl.class_embedding, SEEDED | {"hierarchy": hierarchy()}, {"perplexity": 2.0,
          "rng": At("tests/logits/test_embedding.py")}),
        "clustering": (
            rl.clustering, {"source": source(), "num_bootstrap": 20},
            {"num_bootstrap": 30, "rng": 1, "num_groups": 4, "classes": [0, 1]},
        ),
        "cross_class_means": (rl.cross_class_means, {"source": source()}, {"keep_pairs": False}),
        "hierarchy": (rl.hierarchy, {"source": source()}, {"keep_pairs": False}),
        "gauss_newton": (then(products, rl.gauss_newton), {"source": source()}, {"weight_decay": 0.1}),
        "gauss_newton_spectrum": (rl.gauss_newton_spectrum, {"source": source()}, {"by": "parameter_groups"}),
        "gradient": (lambda **o: rl.gradient(of_source(), **o), {}, {"weight_decay": 0.1}),
        "kronecker_fit": (rl.kronecker_fit, {"source": source()}, {"num_terms": 2}),
        "logit_gradient_lengths": (rl.logit_gradient_lengths, {"source": source()}, {"classes": [0, 1]}),
        "logit_scales": (rl.logit_scales, {"source": source()}, {"class_means": True, "classes": [0, 1]}),
        "mean_moments": (
            rl.mean_moments, {"source": source()}, {"max_order": 2, "num_splits": 5, "rng": 1},
        ),
        "residual_moments": (
            rl.residual_moments, {"source": source()}, {"max_order": 4, "num_pairings": 5, "rng": 1},
        ),
        "recover_spectrum": (
            rl.recover_spectrum, {"moments": rl.residual_moments(source()), "num_draws": 5}, {"num_draws": 6,
              "rng": 1},
        ),
        "CrossClassMeans.kept_factor": (None, {}, {"what": At("tests/logits/test_cross_class.py")}),
        "PopulationSpectrum.variance_bounds": (
            rl.recover_spectrum(rl.residual_moments(source()), num_draws=5).variance_bounds, {"threshold": 0.5},
            {"errors": 5.0},
        ),
        "measure": (
            lambda **o: rl.measure(source(), "logit_scales", **o), {}, {"by": "parameter_groups"},
        ),
        "streamed_outliers": (
            rl.streamed_outliers, {"source": source()},
            {"passes": 2, "k": 1, "num_directions": 3, "start": np.eye(7)[:, :3], "keep_pairs": False,
             "tolerance": At("tests/nets/test_signals.py")},
        ),
    }  # fmt: skip


COMPARED = {"num_draws": 2, "rungs": ["gauss_newton", "full_model"]}
EVERY_RUNG = At("tests/comparison/test_compare.py")


@functools.cache
def comparison():
    return {
        "compare": (
            rl.compare, COMPARED | {"source_or_module": source()},
            {"data": EVERY_RUNG, "num_draws": 3, "rungs": ["gauss_newton"],
             "by": "parameter_groups", "outlier_method": "gap", "num_products": At("tests/comparison/test_products.py"),
             "stages": EVERY_RUNG, "hierarchy": True, "theory": True, "rng": 1,
             "settings": {"name": 5}, "progress": At("tests/comparison/test_written.py"), "workers": EVERY_RUNG},
        ),
        "as_operator": (
            lambda **o: error_of(lambda: rl.as_operator(X[:4] + np.triu(X[:4]), **o)), {}, {"name": "data"},
        ),
        **{
            name: (then(lambda operator: operator.rounding_scale, functools.partial(kind, lambda v: v, 4,
              np.ones(1))), {},
                   {"rounding_scale": At("tests/spectra/test_lanczos.py"),
                    "rounding": At("tests/nets/test_half_precision.py")})
            for name, kind in {"SymmetricOperator": rl.SymmetricOperator,
              "CountingOperator": rl.CountingOperator}.items()
        },
        "SymmetricOperator.to_dense": (rl.as_operator(MATRIX).to_dense, {},
          {"block_size": At("tests/spectra/test_operators.py")}),
        "SymmetricOperator.columns": (rl.as_operator(MATRIX).columns, {}, {"block_size": 3}),
        "CountingOperator.to_dense": (rl.as_operator(MATRIX).to_dense, {},
          {"block_size": At("tests/spectra/test_operators.py")}),
        "CountingOperator.columns": (rl.as_operator(MATRIX).columns, {}, {"block_size": 3}),
        "SpectralDensity.transform": (
            rl.spectral_density(MATRIX, rng=0, num_steps=10).transform,
            {"function": np.log1p} , {"num_points": 512},
        ),
        "plan_sweep": (
            None, {}, dict.fromkeys(["trials", "seed", "workers"], At("tests/sweeps/test_reading.py"))
            | {"fixed": At("tests/sweeps/test_command.py")},
        ),
        "summarize_sweep": (
            lambda **o: rl.summarize_sweep(swept(), **o), {}, {"level": 0.5, "num_bootstrap": 99, "rng": 1},
        ),
        "sweep": (
            rl.sweep, {"function": cell, "grid": {"x": [1.0, 2.0]}, "workers": 1, "trials": 2},
            {"trials": 3, "seed": 1, "fixed": {"shift": 1.0}, "units": At("tests/sweeps/test_sweep.py"),
             "coords": At("tests/sweeps/test_sweep.py"), "store": At("tests/sweeps/test_sweep.py"),
             "workers": At("tests/sweeps/test_sweep.py"), "scheduler": At("tests/sweeps/test_cluster.py"),
             "retry_failed": At("tests/sweeps/test_sweep.py"), "repair": At("tests/sweeps/test_damage.py"),
             "progress": At("tests/sweeps/test_sweep.py")},
        ),
    }  # fmt: skip


def error_of(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def of_source():
    """A network, whose parameters a weight decay weighs."""
    return rl.nets.NetworkLogitGradients(network(), X, Y)


@functools.cache
def swept():
    return rl.sweep(cell, {"x": [1.0, 2.0]}, 4, workers=1)


def trained(function, **options):
    module = network()
    function(module, X, Y, **{"epochs": 2} | options)
    return module


def trained_by_steps(**options):
    module = network()
    training = rl.nets.Training(module, X, Y, **{"epochs": 2} | options)
    list(training)
    return module


TRAINED = {"learning_rate": 0.2, "momentum": 0.5, "weight_decay": 0.1, "batch_size": 8, "seed": 1}
CALLED = dict.fromkeys(["after_epoch", "after_step"], At("tests/nets/test_training.py"))
IMAGES = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
SMALLER = {"num_classes": 7, "channels": 2, "image_size": At("tests/nets/test_architectures.py"), "width": 0.5,
  "seed": 1,
           "dtype": torch.float64}  # fmt: skip
CLUSTERS = rl.nets.gaussian_clusters(3, num_examples=30, dimension=4)
STAGES = {
    "hidden": (6,),
    "width": 2.0,
    "epochs": 3,
    "num_examples": 9,
    "learning_rate": 0.2,
    "batch_size": 8,
    "seed": 1,
}
RECORD = {
    **dict.fromkeys(
        ["test", "steps", "every", "start", "statistics", "accumulators", "k"],
        At("tests/nets/test_record.py"),
    ),
    "seed": At("tests/nets/test_moment.py"),
}
RANKS = {
    **dict.fromkeys(["process_group", "labels"], At("tests/nets/test_distributed.py")),
    **dict.fromkeys(["num_examples", "timeout"], At("tests/nets/test_ranks_that_disagree.py")),
}
WEIGHTED = {"loss": rl.SquaredError(), "weight_decay": 0.1, "batch_size": At("tests/nets/test_layers.py"),
            "memory_budget": At("tests/nets/test_gradients.py"),
              "inputs": At("tests/nets/test_second_derivatives.py"),
            "labels": Y[::-1].copy()}  # fmt: skip


def second_derivative(function):
    return lambda labels=Y, **options: products(function(network(), X, labels, **options))


@functools.cache
def networks():
    return {
        "mlp": (rl.nets.mlp, {"sizes": [4, 5, 3]}, {"activation": torch.nn.Tanh, "seed": 1, "dtype": torch.float32}),
        "transformer": (rl.nets.transformer, {"width": 0.25, "image_size": 8}, SMALLER | {"depth": 1,
          "heads": At("tests/nets/test_architectures.py")}),
        **{name: (getattr(rl.nets, name), {"width": 0.25}, SMALLER)
           for name in ("resnet18", "resnet20", "densenet40", "lenet")},
        "cnn": (rl.nets.cnn, {"width": 0.25}, SMALLER | {"batch_norm": False}),
        "alexnet": (rl.nets.alexnet, {"width": 0.1}, SMALLER),
        "vgg11": (rl.nets.vgg11, {"width": 0.1}, SMALLER),
        "build_network": (
            rl.nets.build_network, {"name": "mlp", "input_shape": (4,), "num_classes": 3}, {"hidden": (6,),
              "width": 2.0, "seed": 1},
        ),
        "gaussian_clusters": (
            rl.nets.gaussian_clusters, {"num_clusters": 3, "num_examples": 30, "dimension": 4},
            {"num_clusters": 5, "num_examples": 40, "dimension": 5, "covariance": 2.0, "seed": 1},
        ),
        "load_dataset": (
            rl.nets.load_dataset, {"name": "digits", "per_class": 3},
            {"folder": At("tests/nets/test_datasets.py"), "per_class": 4, "seed": 1,
             "download": At("tests/nets/test_datasets.py"), "dtype": np.float32},
        ),
        "Dataset.per_class": (CLUSTERS.per_class, {"count": 2}, {"seed": 1}),
        "train": (functools.partial(trained, rl.nets.train), {}, TRAINED | CALLED),
        "Training": (trained_by_steps, {}, TRAINED),
        "training_stages": (
            lambda **o: [rl.gradient(stage) for stage in rl.nets.training_stages(CLUSTERS, **o).values()],
              {"num_examples": 12, "epochs": 2},
            STAGES | {"network": network(3)} | CALLED,
        ),
        "network_cell": (
            landscape_cell(rl.nets.network_cell), {"width": 4, "num_classes": 3, "epochs": 1, "num_examples": 40},
            {"width": 5, "num_classes": 4, "weight_scale": 2.0, "depth": 3, "epochs": 2, "num_examples": 44,
             "data": At("tests/sweeps/test_ready_made.py")},
        ),
        "NetworkLogitGradients": (
            of_network, {},
            {"labels": Y[::-1].copy(), "loss": rl.CrossEntropy(label_smoothing=0.1), "chunk_size": 5,
              "weights": RISING, "class_weights": [1.0, 2.0, 3.0],
             "ignore_index": Besides(0), "forward": lambda module, x: 2 * module(x),
             "unpack": At("tests/nets/test_any_network.py"), "batch_size": At("tests/nets/test_layers.py"),
             "memory_budget": At("tests/nets/test_gradients.py"),
               "nondeterminism": At("tests/nets/test_determinism.py")},
        ),
        "hessian": (second_derivative(rl.nets.hessian), {}, WEIGHTED),
        "logit_curvature": (second_derivative(rl.nets.logit_curvature), {}, {k: v for k,
          v in WEIGHTED.items() if k != "weight_decay"}),
        "TrainingRecord": (None, {}, RECORD | {"labels": At("tests/test_hostile.py")}),
        "measure_checkpoints": (
            None, {}, {k: v for k, v in RECORD.items() if k not in ("every", "start")}
            | dict.fromkeys(["path", "after_checkpoint"], At("tests/nets/test_checkpoints.py")),
        ),
        "OutlierMonitor": (
            None, {}, dict.fromkeys(["labels", "share", "every", "k", "sharpness"], At("tests/nets/test_monitor.py")),
        ),
        "OutlierMonitor.step": (None, {}, {"number": At("tests/nets/test_monitor.py")}),
        "TrainingRecord.step": (None, {}, {"number": At("tests/nets/test_record.py")}),
        "DistributedSource": (None, {}, {k: RANKS[k] for k in ("process_group", "num_examples", "timeout")}),
        "rank_range": (None, {}, {"process_group": RANKS["labels"]}),
        "shard": (None, {}, RANKS),
    }  # fmt: skip


@functools.cache
def compared():
    return rl.compare(source(), num_draws=2)


@functools.cache
def density(log=False):
    return (rl.log_spectral_density if log else rl.spectral_density)(MATRIX, rng=0, num_steps=10)


@functools.cache
def attributed():
    return rl.attribution(hierarchy(), k=3, rng=0)


SPECTRA = rl.Wishart(10, 20).eigenvalues(3, rng=0)
LINE = rl.power_law_line(np.geomspace(1, 100, 40), np.geomspace(1, 100, 40) ** -2.5)
COLOUR = {"colour": "#000000"}


def traces():
    parts = {f"trace_{part}": ("step", np.arange(1.0, 4) * i) for i, part in enumerate(("A1", "A2", "B1", "B2"), 1)}
    return xr.Dataset(parts, coords={"step": [0, 1, 2]})


@functools.cache
def plots():
    spectrum = spectrum_figure(model(), num_draws=2, num_points=20).panels["eq. (16)"]
    swept_model = sweep_figure(20, 3, 30, sigma_z=[0.5, 2.0], num_draws=2, dimension=4)
    phase = phase_figure(20, 3, 30, sigma_z=[0.5, 5.0], snr=[0.1, 1.0])
    swallowed = h_term_figure(model(), [0.05, 0.2], num_draws=2)
    freezing = freezing_figure(num_examples=12, sigma_z=[0.5, 2.0], num_draws=2)
    outliers = rl.count_outliers(np.diag(MATRIX))
    stage, names = next(iter(compared().stages.values())), compared().rung_labels
    return {
        "plot_attribution": (rl.plots.plot_attribution, {"attribution": attributed()}, {}),
        "plot_class_embedding": (
            rl.plots.plot_class_embedding, {"embedding": rl.class_embedding(hierarchy())}, {"names": ["u", "v", "w"]},
        ),
        "plot_density": (
            rl.plots.plot_density, {"result": density()}, {"law": MARCHENKO, "count": outliers, "log": True},
        ),
        "plot_edge": (
            rl.plots.plot_edge, {"standardised": np.linspace(-3, 2, 50)}, {"law": rl.TracyWidom(1), "bins": 10},
        ),
        "plot_hierarchy_traces": (rl.plots.plot_hierarchy_traces, {"dataset": traces()}, {}),
        "plot_knock_outs": (
            rl.plots.plot_knock_outs, {"spectra": {"G": np.linspace(0.1, 1, 9)}}, {"attribution": attributed()},
        ),
        "plot_log_density": (rl.plots.plot_log_density, {"result": density(True)}, {"line": LINE}),
        "plot_ordered_eigenvalues": (
            rl.plots.plot_ordered_eigenvalues, {"spectra": {"G": np.diag(MATRIX)}}, {"percent": True},
        ),
        "plot_scree": (
            rl.plots.plot_scree, {"eigenvalues": np.diag(MATRIX)}, {"count": outliers, "k": 9, "log": False},
        ),
        "plot_spectrum": (rl.plots.plot_spectrum, {"eigenvalues": SPECTRA}, {"law": MARCHENKO, "bins": 10}),
        "plot_sweep": (
            rl.plots.plot_sweep, {"summary": rl.summarize_sweep(swept()), "variable": "y"},
            {"theory": At("tests/plots/test_sweeps.py")},
        ),
        "plot_transition": (
            rl.plots.plot_transition, {"result": rl.bbp_transition(0.5, [2.0, 3.0], 20, 3, 0)},
              {"quantity": "overlap"},
        ),
        "plot_cumulative_power": (rl.plots.plot_cumulative_power, {"panel": spectrum}, COLOUR),
        "plot_gradient_cosines": (rl.plots.plot_gradient_cosines, {"panel": spectrum}, COLOUR),
        "plot_landscape_spectrum": (rl.plots.plot_landscape_spectrum, {"panel": spectrum}, COLOUR),
        "plot_freezing": (rl.plots.plot_freezing, {"result": freezing}, {}),
        "plot_simplex": (rl.plots.plot_simplex, {"result": freezing}, {}),
        "plot_landscape_sweep": (rl.plots.plot_landscape_sweep, {"result": swept_model, "quantity": "ratio"}, {}),
        "plot_peak_condition": (rl.plots.plot_peak_condition, {"result": swept_model}, {}),
        "plot_phase": (rl.plots.plot_phase, {"result": phase, "quantity": "ratio"}, {}),
        "plot_swallowed_outliers": (rl.plots.plot_swallowed_outliers, {"result": swallowed}, {}),
        "plot_swallowed_power": (rl.plots.plot_swallowed_power, {"result": swallowed}, {}),
        "plot_gradient_power": (rl.plots.plot_gradient_power, {"stage": stage, "labels": names}, {}),
        "plot_stage_spectra": (rl.plots.plot_stage_spectra, {"stage": stage, "labels": names}, {}),
        "plot_stages": (
            rl.plots.plot_stages, {"comparison": compared(), "quantity": "trace"}, {"ylabel": "another"},
        ),
    }  # fmt: skip


def rows():
    """Name to (call, arguments, {keyword: another value}); computed when first asked for."""
    tables = (laws, ensembles, landscape, statistics, comparison, networks, plots)
    return {name: row for table in tables for name, row in table().items()}

"""Every public name is called with what its arguments are not; the error names the argument, or there is none."""

import functools
import inspect
import re

import numpy as np
import pytest

import rmtland as rl
from rmtland.cli import is_named

pytest.importorskip("torch")
pytest.importorskip("xarray")

HOSTILE = {
    "a float": 1.5,
    "a text": "text",
    "an object": object(),
    "a huge integer": 10**400,
    "a negative integer": -3,
    "a complex number": 1j,
    "NaN": float("nan"),
    "masked": np.ma.array([1.0, 2.0], mask=[0, 1]),
    "a class": int,
    "None": None,
}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 4)), np.arange(12) % 3
MATRIX = np.diag(np.append(np.linspace(1, 2, 37), [4.0, 5, 6]))


def cell(x, rng):
    return {"y": float(x + rng.normal())}


RESULTS = {
    "ClassEmbedding", "CurvatureMoments", "CurvatureScales", "MeanFieldKernels", "StreamedOutliers",
    "Attribution", "BBPTransition", "Clustering", "Comparison", "Confinement", "CrossClassMeans", "Dataset",
    "Eigenpairs", "GaussNewtonSpectrum", "GoodnessOfFit", "Hierarchy", "KroneckerFit", "LanczosResult",
    "LandscapeDraw", "LandscapeSpectrum", "LandscapeTheory", "LinearStatistics", "LogSpectralDensity",
    "LogitGradientGram", "LogitGradientLengths", "LogitScales", "MeanMoments", "Measurement", "OutlierCount",
    "OutputStatistics", "PopulationSpectrum", "PopulationTheory", "PowerLawFit", "PowerLawLine",
    "ResidualMoments", "SpectralDensity", "SpectralHistogram", "SweepPlan", "TheoryBand",
}  # fmt: skip
"""Made by this package, not by users."""
PROTOCOLS = {"Accumulator", "SumAccumulator", "LogitGradients", "LogitLaw", "GradientLaw", "Loss", "RankError"}
ELSEWHERE = {
    "DistributedSource": "tests/nets/test_ranks_that_disagree.py",
    "shard": "tests/nets/test_ranks_that_disagree.py",
    "rank_range": "tests/nets/test_distributed.py",
    **dict.fromkeys(["Activation", "MeanFieldNetwork"], "tests/landscape/test_mean_field.py"),
    **dict.fromkeys(["AnisotropicGradients", "KernelGradients", "GaussianProcessLogits"],
                    "tests/landscape/test_anisotropic.py"),
    **dict.fromkeys(["alexnet", "vgg11", "resnet18", "densenet40", "build_network"], "too large; as cnn and mlp"),
    **dict.fromkeys(["landscape_cell", "theory_cell", "spiked_covariance_cell", "spiked_wigner_cell", "network_cell"],
                    "called by sweeps; what they call is here"),
}  # fmt: skip


@functools.cache
def arguments(folder):
    """Arguments that are right, by the names of parameters, and by (callable, parameter) where these differ."""
    source = rl.DenseLogitGradients(
        X[:, :3], Y, RNG.normal(size=(12, 3, 7)), parameter_groups={"a": slice(0, 3), "b": slice(3, 7)}
    )
    network = rl.nets.mlp([4, 5, 3])
    store, record = str(folder / "sweep.zarr"), str(folder / "record.zarr")
    rl.sweep(cell, {"x": [1.0, 2.0]}, 2, 0, store, workers=1)
    rl.nets.TrainingRecord(record, network, X, Y, every=1, statistics=("outputs",)).step(1)
    covariance = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 0.5)
    return {
        "source": source, "source_or_module": source, "operator": MATRIX, "operator_or_spectrum": MATRIX,
        "operator_or_eigenvalues": np.linspace(1, 5, 9), "matrix": MATRIX, "module": network, "inputs": X, "labels": Y,
        "data": (X, Y), "logits": X[:, :3], "gradients": source.gradients, "gradient": np.ones(40), "rng": 0, "size": 2,
        "num_draws": 2, "k": 1, "n": 8, "beta": 1, "num_features": 5, "num_samples": 9, "spikes": [3.0], "x": 0.5,
        "q": 0.5, "z": 1j, "ratio": 0.5, "sigma": 1.0, "eigenvalues": np.linspace(1, 5, 40), "num_parameters": 20,
        "num_examples": 12, "num_classes": 3, "num_directions": 1, "participation": 0.5, "num_states": 5, "margin": 1.0,
        "theta": 9.0, "bins": [0.0, 1.0, 9.0], "law": rl.MarchenkoPastur(0.5), "population": [1.0, 2.0],
        "degrees": 5.0, "index": 4.0, "relative_sigma": 1.0, "function": cell, "grid": {"x": [1.0, 2.0]},
        "store": store, "dataset": rl.open_sweep(store), "group": "a", "functions": {"t": lambda v: v},
        "eigenvalue_sets": rl.Wishart(10, 20).eigenvalues(3, rng=0), "eigenpairs": rl.top_eigenpairs(MATRIX, 2, rng=0),
        "num_steps": 5, "density": np.array([1.0, 0.5, 0.3, 0.2]), "epochs": 1, "above": [1.0], "name": "digits",
        "path": record, "count": 1, "checkpoints": [network.state_dict()], "build": lambda: rl.nets.mlp([4, 5, 3]),
        "sizes": [4, 5, 3], "bulk": covariance, "scales": rl.logit_scales(source), "accuracy": 0.9,
        "prediction": lambda theory: theory.trace, "std": lambda theory: 1.0, "shift": 0.5, "multiply": lambda v: v,
        "dimension": 4, "prototype": np.ones(1), "outputs": X[:, :3],
        ("Training", "path"): None, ("TrainingRecord", "path"): str(folder / "new.zarr"),
        ("TrainingRecord", "labels"): Y, ("NetworkLogitGradients", "labels"): Y,
        ("OutlierMonitor", "labels"): Y, ("hessian", "inputs"): X,
        ("hessian", "labels"): Y, ("logit_curvature", "inputs"): X, ("logit_curvature", "labels"): Y,
        ("compare", "num_draws"): 2, ("power_law_line", "x"): np.array([1.0, 2, 3, 4]),
        ("fit_power_law", "eigenvalues"): 2 / RNG.random(200), ("measure", "source"): source,
        ("empirical_density", "source"): rl.Wishart(5, 9), ("linear_statistics", "source"): rl.Wishart(5, 9),
        ("empirical_density", "num_draws"): 3, ("linear_statistics", "num_draws"): 3,
        ("GeneralizedMarchenkoPastur", "eigenvalues"): [1.0, 2.0], ("bbp_transition", "num_features"): 20,
        ("count_outliers", "eigenvalues"): np.array([0.1, 0.2, 0.3, 5, 6.0]),
        ("training_stages", "dataset"): rl.nets.gaussian_clusters(3, num_examples=30, dimension=4),
        ("training_stages", "num_examples"): 12, ("training_stages", "epochs"): 2,
        "hierarchy": rl.hierarchy(source), "moments": rl.residual_moments(source), "counts": [[1, 1, 1], [2, 1, 1]],
        "steps": [1, 2], ("TrainingRecord", "steps"): [1], ("TrainingRecord", "every"): None,
        ("measure_checkpoints", "steps"): [1], ("attribution_changes", "counts"): [[1, 1, 1], [2, 1, 1]],
        ("attribution", "matrix"): None, ("kronecker_fit", "matrix"): None,
        ("BBPTransition.to_json", "path"): str(folder / "bbp.json"),
    }  # fmt: skip


CALLABLES = {"progress", "prediction", "std", "forward", "activation", "unpack", "function", "build", "multiply"}
"""`int` can be called: what it says then is not ours."""
SKIPPED_METHODS = {
    "draw_logits", "draw_gradients", "draw", "factor", "check", "gradient", "value", "hessian_product",
    "hessian_factor", "predictions", "probabilities", "log_probabilities", "chunks", "reduce", "matrices",
    "divide_weights", "over", "from_json", "composed", "deflated", "columns", "expectation", "transform", "limits",
    "unfrozen",
}  # fmt: skip
"""Called by this package with arrays and generators that it has checked."""


@functools.cache
def model():
    return rl.LandscapeModel.fort_ganguli(12, 3, 20)


INSTANCES = {
    "GaussianEnsemble": lambda: rl.GaussianEnsemble(8),
    "SpikedWigner": lambda: rl.SpikedWigner(8, [2.0]),
    "Wishart": lambda: rl.Wishart(5, 9),
    "SpikedCovariance": lambda: rl.SpikedCovariance(5, 9, [3.0]),
    "SampleCovariance": lambda: rl.SampleCovariance([1.0, 2.0], 5),
    "MarchenkoPastur": lambda: rl.MarchenkoPastur(0.5),
    "Semicircle": rl.Semicircle,
    "TracyWidom": rl.TracyWidom,
    "GeneralizedMarchenkoPastur": lambda: rl.GeneralizedMarchenkoPastur([1.0, 2.0], 30),
    "SpikedCovarianceLaw": lambda: rl.SpikedCovarianceLaw(0.5, [3.0], 100),
    "SpikedWignerLaw": lambda: rl.SpikedWignerLaw(1.0, [3.0], 100),
    "RandomEnergyModel": lambda: rl.RandomEnergyModel(5, 1.0),
    "RandomEnergyLimit": lambda: rl.RandomEnergyLimit(0.5),
    "LandscapeModel": lambda: model(),
    "LandscapeDraw": lambda: model().sample(0),
    "LandscapeSpectrum": lambda: model().spectrum(0),
    "LandscapeTheory": lambda: model().theory(0),
    "TheoryBand": lambda: model().theory_band(2, 0),
    "GaussNewtonSpectrum": lambda: rl.gauss_newton_spectrum(model().sample(0)),
    "SymmetricOperator": lambda: rl.as_operator(MATRIX),
    "SpectralDensity": lambda: rl.spectral_density(MATRIX, rng=0, num_steps=10),
    "GaussianLogits": lambda: rl.GaussianLogits(1.0),
    "MarginLogits": lambda: rl.MarginLogits(1.0, 1.0),
    "ClusteredGradients": rl.ClusteredGradients,
    "BBPTransition": lambda: rl.bbp_transition(0.5, [2.0], 20, 2, 0),
    "Dataset": lambda: rl.nets.gaussian_clusters(3, num_examples=30, dimension=4),
}


def functions():
    left_out = RESULTS | PROTOCOLS | set(ELSEWHERE)
    for place in (rl, rl.nets):
        yield from (n for n in sorted(place.__all__) if callable(getattr(place, n)) and n not in left_out)


def resolved(name):
    return getattr(rl, name) if name in rl.__all__ else getattr(rl.nets, name)


def parameters(function):
    found = inspect.signature(function).parameters.values()
    return [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def complaints(name, function, folder):
    """What goes wrong when each argument in turn is what it should not be."""
    given = arguments(folder)

    def right(p):
        return given.get((name, p.name), given.get(p.name))

    every = parameters(function)
    needed = {p.name: right(p) for p in every if p.default is p.empty or (name, p.name) in given}
    assert all(p.name in given or (name, p.name) in given or p.default is not p.empty for p in every), (
        f"{name} is new: give it arguments in this test, {[p.name for p in every]}"
    )
    positional = ["clustering"] if name == "measure" else []
    for p in every:
        for kind, value in HOSTILE.items():
            if (value is None and p.default is not p.empty) or (value is int and p.name in CALLABLES):
                continue
            call = {**needed, p.name: value}
            try:
                if positional:
                    function(call.pop("source"), *positional, **call)
                else:
                    function(**call)
            except (OSError, MemoryError, ModuleNotFoundError) as error:
                told = str(error)
            except Exception as error:
                told = str(error)
                if not (isinstance(error, (ValueError, TypeError)) and is_named(error) and re.search(r"`\w", told)):
                    yield f"{name}({p.name}={kind}): {type(error).__name__}: {told[:100]}"
            else:
                continue


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(functions()))
def test_errors_of_functions_name_the_argument(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list(complaints(name, resolved(name), folder)) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", INSTANCES)
def test_errors_of_methods_name_the_argument(kind, folder, monkeypatch):
    instance = INSTANCES[kind]()
    monkeypatch.chdir(folder)
    found = []
    for name, method in inspect.getmembers(type(instance), callable):
        if name.startswith("_") or name in SKIPPED_METHODS or isinstance(method, type):
            continue
        bound = getattr(instance, name)
        if callable(bound) and not isinstance(bound, np.dtype):
            found += complaints(f"{kind}.{name}", bound, folder)
    assert found == []


@pytest.mark.filterwarnings("ignore")
def test_arguments_that_are_right_pass(folder, monkeypatch):
    """Otherwise errors of other arguments would hide those that are looked for."""
    monkeypatch.chdir(folder)
    given = arguments(folder)
    for name in functions():
        every = parameters(resolved(name))
        call = {
            p.name: given.get((name, p.name), given.get(p.name))
            for p in every
            if p.default is p.empty or (name, p.name) in given
        }
        if name == "mean_moments":  # wants more examples of each class than the others need
            continue
        if name == "measure":
            resolved(name)(call["source"], "clustering")
        else:
            resolved(name)(**call)

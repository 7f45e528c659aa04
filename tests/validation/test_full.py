"""Full scale, which takes days on a GPU: its numbers are the papers', and each of its paths runs, cut short."""

import dataclasses
import functools
import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rmtland as rl
import validation
from rmtland.nets import datasets
from validation import devices, discover, networks
from validation.examples import split
from validation.networks import Recipe
from validation.papyan import _networks
from validation.sagun import _clusters

pytestmark = pytest.mark.usefixtures("blank_figures")
HERE = str(Path(validation.__file__).parent)
DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


@pytest.fixture(params=DEVICES)
def elsewhere(request, monkeypatch):
    """Networks lie on this device; nothing lies there, or is read from there, without being asked to.

    Torch's default device holds no data, and no file of claims reads a tensor as an array where it lies: that of a GPU
    would refuse.
    """

    def guarded(method):
        def called(tensor, *arguments, **options):
            frame = sys._getframe(1)
            while frame and "numpy" in Path(frame.f_code.co_filename).parts:
                frame = frame.f_back
            if frame and frame.f_code.co_filename.startswith(HERE):
                raise TypeError(f"a tensor read where it lies, in {frame.f_code.co_filename}:{frame.f_lineno}")
            return method(tensor, *arguments, **options)

        return called

    for name in ("__array__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, guarded(getattr(torch.Tensor, name)))
    torch.set_default_device("meta")
    try:
        with devices.used(request.param, "full"):
            yield request.param
    finally:
        torch.set_default_device(None)


def test_papyans_settings_are_the_papers():
    """Papyan (2018), section 4 and appendix C."""
    data, kinds, sizes, rates, looks, seeds, width = _networks.SCALES["full"]
    assert data == {"mnist": 200, "fashion": 200, "cifar10": 350}
    assert kinds == ("vgg11", "resnet18", "densenet40")
    assert (looks, width) == (None, 1.0)
    assert seeds >= 2
    assert (len(sizes), min(sizes), max(sizes)) == (20, 10, 5000)
    np.testing.assert_allclose(np.diff(np.log(sizes)), np.log(500) / 19, atol=0.08)
    assert {10, 13, 136, 1351, 5000} <= set(sizes)  # those that captions print
    assert len(rates) == 100
    np.testing.assert_allclose([rates[0], rates[-1]], [0.25, 1e-4])
    for name, kind, size, rate in itertools.product(data, kinds, sizes, (rates[0], rates[-1])):
        recipe = _networks.recipe(name, kind, size, "full", rate)
        assert (recipe.momentum, recipe.weight_decay, recipe.annealed) == (0.9, 5e-4, True)
        assert (recipe.epochs, recipe.learning_rate, recipe.width) == (data[name], rate, 1.0)
        assert (recipe.data, recipe.network, recipe.examples, recipe.side) == (name, kind, 10 * size, 0)
        assert recipe.batch == 128 or size <= 51
    module = importlib.import_module("validation.papyan.deep_networks")
    assert dict.fromkeys(kinds, 1.0) == {kind: size[0] for kind, size in module.SIZES["full"][1].items()}
    assert module.SIZES["full"][5] is None  # the best rate
    # Networks of these sizes are looked for anyway.
    assert {module.SIZES["full"][2], of("papyan.mean_embedding").SIZES["full"][0]} <= set(sizes)
    assert {*of("papyan.components").SIZES["full"][0], *of("papyan.curvature_tails").SIZES["full"][0]} <= set(sizes)
    assert _networks.STEPS == 128
    assert of("papyan.hierarchy_dynamics").LOG_STEPS == 2048
    assert of("papyan.knock_out_spectra").SIZES["full"][:3] == (("cifar10",), ("vgg11",), 136)
    for claim in ("dynamics", "hierarchy_dynamics", "upper_tail"):
        assert importlib.import_module(f"validation.papyan.{claim}").SIZES["full"][0] is None  # all twenty


@pytest.mark.parametrize("epochs", [200, 350])
def test_rates_fall_by_ten_at_a_third_and_two_thirds(epochs):
    recipe, each = Recipe(learning_rate=0.25, annealed=True, epochs=epochs), 391  # steps an epoch: 50,000 in 128s
    used = []

    class Run:
        learning_rate = 0.25

        def __iter__(self):
            for step in range(epochs * each):
                used.append(self.learning_rate)
                yield step + 1

    assert sum(1 for _ in networks.stepping(recipe, Run(), epochs * each)) == epochs * each + 1
    used = np.array(used)
    falls = np.flatnonzero(np.diff(used)) + 1
    np.testing.assert_allclose(falls / used.size, [1 / 3, 2 / 3], atol=1e-5)
    np.testing.assert_allclose(used[[0, *falls]], [0.25, 0.025, 0.0025])


unpacked = datasets._read


@functools.lru_cache
def read(*arguments):
    """A file unpacked once, of its test images the first: all would be checked and made numbers for each network."""
    title, (x, y, x_test, y_test) = unpacked(*arguments)
    return title, (x, y, x_test[:100].copy(), y_test[:100].copy())


def of(claim):
    return importlib.import_module(f"validation.{claim}")


def test_settings_of_the_other_papers():
    first = of("sagun.figure_1").RECIPES["full"]
    inner = (first.side**2, *first.hidden, 10)
    assert sum((a + 1) * b for a, b in itertools.pairwise(inner)) == pytest.approx(5000, rel=0.05)
    widths = of("sagun.figures_3_5")
    assert (widths.WIDTHS, widths.BASE["full"].examples) == ((10, 30, 50, 70), 1000)
    assert of("sagun.figures_4_6").BATCHES == (10, 512)
    bare = of("sagun.figures_7_8").RECIPES["full"]
    assert (bare.network, bare.data, bare.width, bare.examples) == ("alexnet", "cifar10", 1.0, 50_000)
    assert (bare.large_batch, bare.batch, bare.stages[-1]) == (1000, 32, 2 * 250 * 100)
    assert len(of("sagun._clusters").ROWS) == 19
    figure = of("fort_ganguli.figure_1")
    assert (figure.DATA, figure.NETWORKS, figure.ACTIVATIONS) == (
        ("mnist", "fashion", "cifar10"), ("mlp", "cnn"), ("relu", "tanh"),
    )  # fmt: skip
    assert len(figure.BASE["full"].stages) == len(of("fort_ganguli.figure_3a").RECIPES["full"].stages) == 3
    assert of("fort_ganguli.figure_3a").RECIPES["full"].classes == 3
    assert of("fort_ganguli.goldilocks_networks").DIMENSION == 10
    assert len(of("ladder.side_by_side").CASES["full"]) == 12


PAIRS = [("vgg11", "cifar10"), ("resnet18", "fashion"), ("densenet40", "mnist")]
"""Every network and every data set."""
PARAMETERS = {"vgg11": 28.2e6, "resnet18": 11.2e6, "densenet40": 1.0e6}


@pytest.mark.slow
@pytest.mark.skipif(not networks.folder_named(), reason="RMTLAND_DATA names no folder")
@pytest.mark.parametrize(("network", "data"), PAIRS)
def test_a_step_and_a_measurement_at_the_papers_size(network, data, elsewhere, monkeypatch):
    monkeypatch.setattr(_networks, "STEPS", 3)
    recipe = _networks.recipe(data, network, 10, "full", 0.01)
    x, y, x_test, _ = split(recipe, 0)
    assert len(x) == 100
    assert len(x_test) >= 2000
    module = networks.build(recipe, 0, x)
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(PARAMETERS[network], rel=0.08)
    assert {p.device.type for p in module.parameters()} == {elsewhere}
    before = networks.flat(module)
    run = networks.training(recipe, module, x, y, 0)
    assert run.num_steps == 4 * recipe.epochs
    assert list(itertools.islice(networks.stepping(recipe, run, run.num_steps), 2)) == [0, 1]
    assert not np.array_equal(networks.flat(module), before)
    source = networks.source(module, x[:2], y[:2])
    nodes, weights = _networks.spectrum(rl.nets.hessian(source), 0, np.random.default_rng(0))
    assert weights.sum() == pytest.approx(source.num_parameters, rel=1e-4)
    assert np.isfinite(nodes).all()


def shorter(recipe):
    """Everything that takes time made small; kinds, stages by number and all else left."""
    stages = tuple(range(len(recipe.stages)))
    return dataclasses.replace(
        recipe, side=8, hidden=tuple(min(size, 4) for size in recipe.hidden), width=min(recipe.width, 1 / 16),
        examples=8 * recipe.classes, batch=min(recipe.batch, 16), large_batch=min(recipe.large_batch, 32),
        stages=stages if recipe.stages[0] == 0 else tuple(s + 1 for s in stages),
    )  # fmt: skip


few_products = functools.partial(rl.top_eigenpairs, max_products=12)
"""Eigenvalues are wanted, whatever their digits."""
top_eigenpairs = rl.top_eigenpairs


def rough(operator, k, **options):
    """The same where they are counted, which unconverged ones are not: converged, to a digit, and not looked over."""
    return top_eigenpairs(operator, k, **{**options, "tolerance": 0.1, "check_products": 0})


NARROW = {"resnet18": (1 / 16, 8)}
"""Width and side. VGG11 is the network of other claims here; forty layers, which take longest, are measured at the
paper's size above, and at smoke scale."""
FEW = {
    "ladder.side_by_side": {
        "CASES": (("mnist", "mlp", "relu"), ("cifar10", "cnn", "tanh")), "NUM_DRAWS": 2, "SAMPLES": 2,
    },
    "ladder.measured_law": {"SIZES": (("digits MLP", "Fashion CNN"), 2, 30, 2, 2)},
    "papyan.components": {"SIZES": ([4], [0, 40], 2)},
    "papyan.curvature_tails": {"SIZES": ([2], None, 2)},
    "papyan.dynamics": {"SIZES": (None, None, 2)},
    "papyan.upper_tail": {"SIZES": (None, None, 2)},
    "papyan.hierarchy_dynamics": {"SIZES": (None, None, 2)},
    "papyan.mean_embedding": {"SIZES": (4, [0, 40], 2)},
    "papyan.knock_out_spectra": {"SIZES": (("mnist",), ("vgg11",), 4, 2)},
    "papyan.deep_networks": {
        "SIZES": (("mnist", "cifar10"), NARROW, 2, None, 6, None, 2, True), "rmtland.top_eigenpairs": few_products,
    },
    "papyan.knock_outs": {"STEPS": (0, 1, 2, 3)},
    "papyan.hierarchy_sum": {"STEPS": (0, 1, 2, 3)},
    "papyan.parallel_means": {"STEPS": (0, 1, 2, 3)},
    "papyan.outlier_attribution": {"SIZES": (2, (0, 1, 2, 3, 4, 5, 6), 40)},
    "sagun.figures_3_5": {"WIDTHS": (3, 6, 9, 12)},
    # Two clusters in each row and few parameters: of k clusters there are 5 k eigenvalues to find.
    "sagun.table_1": {
        "TRIALS": 2, "validation.sagun._clusters.ROWS": tuple((*row[:4], 2, *row[5:]) for row in _clusters.ROWS),
        "validation.sagun._clusters.WIDTHS": (100, 3, 3), "validation.sagun._clusters.EXAMPLES": 100,
        "rmtland.top_eigenpairs": rough,
    },
    "sagun.example_2": {"SIZES": {16: 40, 32: 30, 64: 20, 128: 10, 256: 4}, "REDRAWN": 2},
    "fort_ganguli.figure_1": {"DATA": ("mnist", "cifar10"), "ACTIVATIONS": ("tanh",)},
    "fort_ganguli.figure_4": {"SIZES": (2, 500)},
    "fort_ganguli.goldilocks_networks": {"PLANES": 20, "SCALES": (0.125, 1.0, 8.0)},
}  # fmt: skip
"""What claims have at full scale that is no recipe, made small; of another module than the claim's, in full."""
ALIVE = {
    "papyan.components": 40,
    "papyan.knock_out_spectra": 12,
    "papyan.mean_embedding": 40,
    "papyan.deep_networks": 6,
}
"""Epochs of claims about networks that have learnt something: after one VGG11 has the same saturated probabilities for
all examples, so that its means coincide and its Hessian has underflowed, of which errors tell."""
PERCEPTRONS = ("papyan.components", "papyan.curvature_tails", "papyan.mean_embedding", "papyan.upper_tail")
"""Claims whose products are with perceptrons, a tenth of the time; the others take the same path with VGG11."""
LEARNING = (32, 48)
"""Which of the paper's hundred rates they try, 0.02 and 0.006: with either a network learns in so few epochs,
whatever the seed. With the largest it may stay dead, and may still be found best on so few test images."""
SHARED = ("fort_ganguli._training",)
TRAINED = sorted(
    {
        "fort_ganguli.figure_1", "fort_ganguli.figure_3a", "fort_ganguli.goldilocks_networks",
        "fort_ganguli.gradient_power_training", "fort_ganguli.top_eigenvalue_training",
        "sagun.figure_1", "sagun.figures_3_5", "sagun.figures_4_6", "sagun.figures_7_8", "sagun.gauss_newton_term",
        *FEW,
    }
)  # fmt: skip
"""Every claim that trains networks."""


def test_every_claim_with_networks_is_in_the_list():
    words = ("Recipe", "_networks import", "import _networks", "_hierarchy.digits", "_training", "_clusters")
    found = {claim for claim in discover() if any(word in Path(of(claim).__file__).read_text() for word in words)}
    assert found - {"ladder.kernel_law", "ladder.weight_radius"} | {"ladder.measured_law"} == set(TRAINED)


@pytest.fixture
def short(monkeypatch):
    """A claim's full scale, cut short."""

    def cut(claim):
        for name in (claim, *SHARED):
            for setting, values in vars(of(name)).items():
                if isinstance(values, dict) and isinstance(values.get("full"), Recipe):
                    monkeypatch.setitem(values, "full", shorter(values["full"]))
                elif setting in ("COUNT", "MEASURED") and isinstance(values, dict):
                    monkeypatch.setitem(values, "full", 2 if setting == "COUNT" else 16)
        for setting, value in FEW.get(claim, {}).items():
            home, _, name = setting.rpartition(".")
            module = importlib.import_module(home) if home else of(claim)
            if isinstance(getattr(module, name), dict):
                monkeypatch.setitem(getattr(module, name), "full", value)
            else:
                monkeypatch.setattr(module, name, value)
        rates = _networks.SCALES["full"][3]
        kinds = ("mlp",) if claim in PERCEPTRONS else ("vgg11",)
        # Two data sets are those of `papyan.deep_networks`. Some of the rates, one size.
        epochs, images = ALIVE.get(claim, 1), 40 if claim in ALIVE else 10
        data = dict.fromkeys(("mnist", "cifar10") if claim == "papyan.deep_networks" else ("mnist",), epochs)
        some = [rates[i] for i in LEARNING] if claim in ALIVE else [rates[0], rates[-1]]
        monkeypatch.setitem(_networks.SCALES, "full", (data, kinds, [1], some, None, 2, 1 / 16))
        for name, value in (("STEPS", 12), ("DENSE", 50), ("PRODUCTS", 1)):
            monkeypatch.setattr(_networks, name, value)
        # Eigenvalues are wanted, not their digits: a product with a network takes most of the time.
        monkeypatch.setattr("rmtland.spectra.quadrature.DEFLATION_TOLERANCE", 0.05)
        for name in ("papyan.hierarchy_dynamics", "papyan.knock_out_spectra"):
            monkeypatch.setattr(of(name), "LOG_STEPS", 8)
        monkeypatch.setitem(of("sagun._clusters").STEPS, "full", {"GD": 2, "SGD": 2})
        monkeypatch.setattr("validation.examples._unpacked", lambda name, where, files: read(name, where, False))
        # Ten thousand test images are the paper's.
        cuts = (images, images, 10, 10)
        monkeypatch.setattr(
            _networks, "split", lambda recipe, seed: [a[:cut] for a, cut in zip(split(recipe, seed), cuts, strict=True)]
        )
        return discover()[claim]

    caches = networks._trained, of("fort_ganguli._training")._measured
    for cache in caches:
        cache.cache_clear()
    yield cut
    for cache in caches:
        cache.cache_clear()


QUICK = ("fort_ganguli.figure_3a", "papyan.hierarchy_sum", "sagun.figures_4_6")


@pytest.mark.filterwarnings("ignore")  # so small networks have no spread, no tail, no outlier
@pytest.mark.parametrize("claim", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in TRAINED])
@pytest.mark.timeout(900)  # 4,000 products with networks of up to forty layers
def test_full_paths_run(claim, short, elsewhere):
    shortened = short(claim)
    data = shortened.draw("full", np.random.default_rng(0))
    if claim in ("papyan.components", "papyan.knock_out_spectra"):
        for found in data.values() if isinstance(data, dict) else (data,):
            wrong = found["train_error" if "train_error" in found else "error"].isel(look=-1, missing_dims="ignore")
            assert (wrong < 0.5).all(), "a network learnt nothing"
    outcome = shortened.judge(data, shortened.theory)
    assert outcome.checks
    assert outcome.conclusions.strip()
    assert outcome.plot().axes

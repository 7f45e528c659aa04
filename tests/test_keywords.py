"""Every keyword of every public call acts: another value gives another result.

The rows are in keywords.py. A new keyword, or a new function, fails here until it has one.
"""

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import rmtland as rl

torch = pytest.importorskip("torch")
xarray = pytest.importorskip("xarray")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402

from tests import keywords  # noqa: E402
from tests.spectra import test_options as spectra  # noqa: E402
from tests.test_hostile import PROTOCOLS, RESULTS, SKIPPED_METHODS  # noqa: E402

IN_SPECTRA = {call[0].__name__: set(table) | spectra.ELSEWHERE | {"progress"} for call, table in spectra.OPTIONS}
INTERNAL = (SKIPPED_METHODS - {"columns", "transform"}) | {"weighted_rows", "from_sums"}
"""Methods that this package calls itself."""
WITHOUT = {"GaussianEnsemble.eigenvectors_overlap", "Wishart.eigenvectors_overlap", "AnisotropicGradients.q_values"}
"""Refused for ensembles without spikes, and NaN whatever the labels are."""


def of_parameters(function):
    return {p.name for p in inspect.signature(function).parameters.values() if p.default is not p.empty}


@functools.cache
def public_calls():
    """Names of functions, classes and methods, and the keywords that each may be called without."""
    found = {}
    for place in (rl, rl.nets, rl.plots):
        for name in place.__all__:
            thing = getattr(place, name)
            if not callable(thing) or name in PROTOCOLS:
                continue
            if not isinstance(thing, type):
                found[name] = of_parameters(thing) - ({"progress"} if name in IN_SPECTRA else set())
                continue
            if name not in RESULTS:
                found[name] = of_parameters(thing)
            for method, function in inspect.getmembers(thing, callable):
                ours = str(getattr(function, "__module__", "")).startswith("rmtland")
                if ours and not (method.startswith("_") or method in INTERNAL or isinstance(function, type)):
                    found[f"{name}.{method}"] = of_parameters(function)
    return {name: names for name, names in found.items() if names and name not in WITHOUT}


def pieces(result):
    """All that a result says, as arrays and texts in the order of its fields."""
    if isinstance(result, np.ndarray | np.generic | int | float | complex):
        yield np.asarray(result)
    elif isinstance(result, torch.Tensor):
        yield result.detach().numpy()
    elif isinstance(result, torch.nn.Module):
        yield from pieces(result.state_dict())
        yield str(result)
    elif isinstance(result, xarray.Dataset | xarray.DataArray):
        yield from pieces(result.to_dict())
    elif isinstance(result, rl.SymmetricOperator):
        yield from pieces(result @ np.eye(result.shape[0]))
    elif isinstance(result, Axes):
        canvas = FigureCanvasAgg(result.figure)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from pieces(key)
            yield from pieces(value)
    elif isinstance(result, list | tuple | Iterator):
        for value in result:
            yield from pieces(value)
            yield "next"
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from pieces(getattr(result, field.name))
    elif isinstance(result, str | type(None)) or callable(result):
        yield getattr(result, "__qualname__", str(result))
    else:
        yield from pieces(getattr(result, "__dict__", str(result)))


def same(first, second):
    first, second = list(pieces(first)), list(pieces(second))

    def equal(a, b):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            return type(a) is type(b) and a == b
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")

    return len(first) == len(second) and all(map(equal, first, second))


def test_no_keyword_is_forgotten():
    rows, calls = keywords.rows(), public_calls()
    unknown = {n: k - set(rows[n][2] if n in rows else IN_SPECTRA.get(n, ())) for n, k in calls.items()}
    unknown = {n: k - {"ax"} for n, k in unknown.items() if k - {"ax"}}
    assert unknown == {}, "give these another value in tests/keywords.py, or name the test that shows what they do"
    gone = {n: set(row[2]) - calls.get(n, set()) for n, row in rows.items()}
    assert {n: k for n, k in gone.items() if k} == {}


def test_files_named_speak_of_the_keyword():
    root = Path(__file__).parents[1]
    for name, (_, _, others) in keywords.rows().items():
        for keyword, value in others.items():
            if isinstance(value, keywords.At):
                assert keyword in (root / value).read_text(), f"{value} says nothing of {name}({keyword}=)"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(public_calls()) - set(IN_SPECTRA)))
def test_keywords_act(name):
    call, given, others = keywords.rows()[name]
    if call is None:  # each names the file that shows what it does
        assert all(isinstance(value, keywords.At) for value in others.values())
        return
    idle = [] if same(call(**given), call(**given)) else ["another result each time"]
    for keyword, value in others.items():
        if isinstance(value, keywords.At):
            continue
        before, after = given, given | {keyword: value}
        if isinstance(value, keywords.Besides):
            before, after = given | value.besides, given | value.besides | {keyword: value.value}
        if same(call(**before), call(**after)):
            idle.append(keyword)
    assert idle == []


@pytest.mark.parametrize("name", sorted(n for n, k in public_calls().items() if "ax" in k))
def test_plots_draw_where_they_are_told(name):
    from matplotlib.figure import Figure

    call, given, _ = keywords.rows()[name]
    ax = Figure().subplots()
    assert call(**given, ax=ax) is ax
    assert ax.has_data()
    assert call(**given) is not ax


WITH_SEED = sorted(n for n, k in public_calls().items() if "rng" in k and n not in IN_SPECTRA)
IN_SPECTRA_WITH_SEED = [call for call, table in spectra.OPTIONS if "rng" in table]


def alike():
    """Two Generators of one state, made from different seeds: what `Generator.spawn` gives knows the seeds alone."""
    one, other = np.random.default_rng(3), np.random.default_rng(99)
    other.bit_generator.state = one.bit_generator.state
    return one, other


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITH_SEED)
def test_restored_generators_give_the_same_again(name):
    call, given, _ = keywords.rows()[name]
    if call is not None:
        one, other = alike()
        assert same(call(**given | {"rng": one}), call(**given | {"rng": other}))

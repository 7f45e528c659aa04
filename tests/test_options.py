"""Every option of every command acts: another value gives other numbers, in the files and in what is printed.

A new option fails here until it is given two values, or the test that shows what it does.
"""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

from rmtland.cli import app

pytest.importorskip("torch")
xarray = pytest.importorskip("xarray")

FIGURE = ["--examples", "14", "--classes", "3", "--parameters", "30", "--draws", "2"]
SIZES = {"--examples": "20", "--classes": "4", "--parameters": "40", "--draws": "3", "--seed": "1"}
CLUSTERS = ["--data", "clusters", "--clusters", "3", "--hidden", "4", "--epochs", "2"]
SWEEP = {
    "--trials": "3",
    "--seed": "1",
    "--store": "tests/sweeps/test_command.py",
    "--workers": "tests/sweeps/test_command.py",
    "--scheduler": "tests/sweeps/test_cluster.py",
    "--retry-failed": "tests/sweeps/test_command.py",
    "--repair": "tests/sweeps/test_damage.py",
    "--dry-run": "tests/sweeps/test_command.py",
    "--plot": "tests/sweeps/test_command.py",
    "--variable": "tests/sweeps/test_command.py",
}
LANDSCAPE = {
    "--sigma-z": "2", "--snr": "2", "--num-examples": "15", "--num-classes": "4", "--num-parameters": "35",
    "--accuracy": "0.5", "--mean-length": "2", "--sigma-H": "0.1", **SWEEP,
}  # fmt: skip
SMALL = ["--sigma-z", "1", "--snr", "1", "--num-examples", "12", "--num-classes", "3", "--num-parameters", "30"]
ONCE = ["--trials", "2", "--workers", "1", "--store", "store"]
ELSEWHERE = {"--data-folder", "--download", "--data", "--out", "--per-class"}
DATA = dict.fromkeys(ELSEWHERE, "tests/test_cli_compare.py")

COMMANDS = {
    "bbp": (
        ["--features", "50", "--spikes", "1.5,3", "--draws", "3"],
        {"--ratio": "0.3", "--spikes": "1.5,4", "--features": "60", "--draws": "4", "--seed": "1"},
    ),
    "landscape fig3": (FIGURE[:4] + FIGURE[6:], {k: v for k, v in SIZES.items() if k != "--parameters"}),
    "landscape fig5": (FIGURE, SIZES | {"--sigma-z": "3", "--snr": "1"}),
    "landscape fig6": (FIGURE, SIZES | {"--sigma-z": "3", "--snr": "1"}),
    "landscape fig7": (FIGURE, SIZES | {"--snr": "1", "--exponent": "0.5"}),
    "landscape fig8": (FIGURE, SIZES | {"--snr": "1", "--exponent": "0.5", "--dimension": "5"}),
    "landscape phase": (FIGURE, SIZES),
    "landscape h-term": (FIGURE, SIZES | {"--sigma-z": "3", "--snr": "1"}),
    "sweep landscape": (SMALL + ONCE, LANDSCAPE),
    "sweep theory": (SMALL + ONCE, LANDSCAPE),
    "sweep spiked-covariance": (
        ["--spike", "3", "--ratio", "0.5", "--num-samples", "20", *ONCE],
        {"--spike": "4", "--ratio": "0.25", "--num-samples": "24", "--beta": "2", **SWEEP},
    ),
    "sweep spiked-wigner": (
        ["--spike", "3", "--n", "20", *ONCE],
        {"--spike": "4", "--n": "24", "--beta": "2", **SWEEP},
    ),
    "sweep network": (
        ["--width", "4", "--num-classes", "3", "--epochs", "1", "--num-examples", "40", *ONCE],
        {"--width": "5", "--num-classes": "4", "--weight-scale": "2", "--depth": "3", "--epochs": "2",
         "--num-examples": "44", **SWEEP, "--data": "tests/sweeps/test_ready_made.py"},
    ),
    "compare": (
        [*CLUSTERS, "--draws", "2", "--examples", "12", "--rungs", "gauss_newton,full_model", "--stages", "end"],
        {"--clusters": "4", "--covariance": "4", "--network": "tests/test_cli_compare.py", "--hidden": "5",
          "--width": "2", "--examples": "14", "--epochs": "4", "--learning-rate": "0.2", "--batch-size": "8",
          "--draws": "3", "--rungs": "gauss_newton", "--stages": "mid",
         "--products": "tests/comparison/test_products.py", "--hierarchy": "",
         "--by": "parameter_groups", "--outliers": "gap", "--workers": "tests/comparison/test_compare.py",
         "--seed": "1",
         **DATA},
    ),
    "train": (
        # Each moment is some dozen files; six steps have five of them.
        [*CLUSTERS, "--per-class", "30", "--examples", "12", "--statistics", "outputs"],
        {"--clusters": "4", "--covariance": "4", "--network": "tests/test_cli_train.py", "--hidden": "5",
         "--width": "2", "--epochs": "3", "--learning-rate": "0.2", "--batch-size": "8", "--examples": "14",
         "--every": "5", "--statistics": "lengths", "--seed": "1", **DATA},
    ),
}  # fmt: skip
"""What is run, and for each option another value, or the file whose tests show what it does."""
WHOLE = {
    "validate": "tests/validation/test_installed.py",
    "measure": "tests/nets/test_missing.py",
    "sweep show": "tests/sweeps/test_command.py",
}
SLOW = {n for n in COMMANDS if n.split()[0] in ("compare", "train", "landscape")} | {"sweep network", "sweep landscape"}


def commands(group, path=()):
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))
    if not hasattr(group, "commands"):
        yield " ".join(path), {option.opts[-1] for option in group.params}


def test_no_option_is_forgotten():
    known = {name: set(others) | {"--out"} for name, (_, others) in COMMANDS.items()}
    for name, options in commands(typer.main.get_command(app)):
        assert name in WHOLE or options <= known[name] | {"--out"}, f"{name}: say what {options - known[name]} changes"
        assert name in WHOLE or known[name] - {"--out"} <= options, f"{name} has no {known[name] - options}"
    files = {v for _, others in COMMANDS.values() for v in others.values() if v.startswith("tests/")} | set(
        WHOLE.values()
    )
    assert all((Path(__file__).parents[1] / file).exists() for file in files)
    for name, (_, others) in COMMANDS.items():
        for option, file in others.items():
            if file.startswith("tests/"):
                text = (Path(__file__).parents[1] / file).read_text()
                assert option in text or option[2:].replace("-", "_") in text, f"{file} says nothing of {name} {option}"


def numbers(folder, printed):
    """All that was computed: what was printed, JSON without what was asked for, stored results."""
    found = [re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", printed)]
    for path in sorted(folder.rglob("*.json")):
        if path.name not in ("zarr.json", "settings.json", ".zmetadata"):
            told = json.loads(path.read_text())
            # Without settings and the like, which repeat what was asked for.
            found.append({k: v for k, v in told.items() if k != "settings" and isinstance(v, (list, dict))})
    for path in folder.rglob("zarr.json"):
        if json.loads(path.read_text()).get("node_type") == "group":
            data = xarray.open_zarr(path.parent, chunks=None)
            found += [data[name].to_numpy().astype(float) for name in data.data_vars if data[name].dtype.kind in "fiu"]
    return found


def same(first, second):
    def equal(a, b):
        return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b

    return len(first) == len(second) and all(map(equal, first, second))


def run(folder, monkeypatch, name, arguments):
    folder.mkdir()
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*name.split(), *arguments])
    assert done.exit_code == 0, (name, arguments, done.output, done.exception)
    return numbers(folder, done.output)


def replaced(arguments, option, value):
    if option in arguments:
        place = arguments.index(option)
        return [*arguments[: place + 1], value, *arguments[place + 2 :]]
    return [*arguments, option, *([value] if value else [])]  # a switch has no value


@pytest.fixture
def short_grids(monkeypatch):
    """Figures on few values of sigma_z, of sigma_H, of directions and of x: what is drawn at each is the same."""
    from rmtland.landscape.paper import h_term, spectrum, sweeps

    monkeypatch.setattr(spectrum, "spectrum_figure", functools.partial(spectrum.spectrum_figure, num_points=5))
    monkeypatch.setattr(spectrum, "_directions", lambda num_classes, size: np.array([num_classes - 1, num_classes]))
    # Ascending in any case, and of the transition's order at these sizes.
    monkeypatch.setattr(h_term, "h_term_figure", functools.partial(h_term.h_term_figure, sigma_H=[0.02, 0.05]))
    monkeypatch.setattr(sweeps, "sweep_figure", functools.partial(sweeps.sweep_figure, sigma_z=[0.5, 2.0]))
    monkeypatch.setattr(
        sweeps, "phase_figure", functools.partial(sweeps.phase_figure, sigma_z=[0.5, 2.0], snr=[0.5, 2.0])
    )


@pytest.fixture
def draws_alone(monkeypatch):
    """Of a model's rung what is drawn, and not the theory beside it, which takes as long as everything else."""
    monkeypatch.setattr("rmtland.comparison.ladder._theory_is_cheap", lambda model, drawn: False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in COMMANDS])
def test_options_act(name, tmp_path, monkeypatch, short_grids, draws_alone, blank_figures):
    arguments, others = COMMANDS[name]
    before = run(tmp_path / "before", monkeypatch, name, arguments)
    assert same(run(tmp_path / "again", monkeypatch, name, arguments), before)
    idle = []
    for option, value in others.items():
        if value.startswith("tests/"):
            continue
        after = run(tmp_path / option.strip("-"), monkeypatch, name, replaced(arguments, option, value))
        if same(after[1:], before[1:]):
            idle.append(option)
    assert idle == []

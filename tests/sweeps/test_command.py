"""`rmtland sweep` as a user runs it."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from rich.console import Console

import rmtland as rl
from rmtland.cli.sweep import parse_parameters, print_sweep
from rmtland.ensembles.sweeps import spiked_wigner_cell
from rmtland.plots import sweeps as plots
from tests.sweeps.functions import noise, often_fails

COMMAND = str(Path(sys.executable).with_name("rmtland"))
WIGNER = ["sweep", "spiked-wigner", "--spike", "0.5,2", "--n", "100", "--trials", "3", "--workers", "1", "--seed", "4"]


def test_a_sweep_is_run_shown_and_drawn(tmp_path, run):
    done = run(*WIGNER, "--store", "s", "--plot", "figures/s.png")
    assert done.returncode == 0, done.stderr
    assert "cells     6: 6 done, 0 missing, 0 failed" in done.stdout
    assert "Written to figures/s.png" in done.stdout
    assert (tmp_path / "figures" / "s.png").stat().st_size > 1000
    expected = rl.sweep(spiked_wigner_cell, {"spike": [0.5, 2.0]}, 3, 4, fixed={"n": 100}, workers=1)
    assert expected.equals(rl.open_sweep(tmp_path / "s").load())
    shown = run("sweep", "show", "s")
    assert shown.returncode == 0
    for told in ("rmtland.ensembles.sweeps.spiked_wigner_cell", "seed      4", "n 100", "top_eigenvalue", "0.5 .. 2"):
        assert told in shown.stdout
    refused = run(*WIGNER, "--store", "s", "--seed", "5")
    assert refused.returncode == 2
    assert "was made with `seed` 4, not 5" in refused.stderr


def test_the_plotted_variable_is_the_one_asked_for(tmp_path, run, monkeypatch):
    drawn = []
    plot = plots.plot_sweep

    def plot_sweep(*arguments, **options):
        drawn.append(plot(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(plots, "plot_sweep", plot_sweep)
    assert run(*WIGNER, "--store", "s", "--plot", "a.png").returncode == 0
    assert run(*WIGNER, "--store", "s", "--plot", "b.png", "--variable", "overlap").returncode == 0
    assert run("sweep", "show", "s", "--plot", "c.png", "--variable", "overlap").returncode == 0
    assert run("sweep", "show", "s", "--plot", "d.png").returncode == 0
    values = rl.open_sweep(tmp_path / "s").load()
    first = next(iter(values.data_vars))
    for ax, variable in zip(drawn, ("top_eigenvalue", "overlap", "overlap", first), strict=True):
        mean, theory = ax.lines
        np.testing.assert_allclose(mean.get_ydata(), values[variable].mean("trial"), rtol=1e-12)
        np.testing.assert_allclose(theory.get_ydata(), values[f"theory_{variable}"].mean("trial"), rtol=1e-12)
    assert {path.name for path in tmp_path.iterdir()} == {"s", "a.png", "b.png", "c.png", "d.png"}
    wrong = run("sweep", "show", "s", "--plot", "e.png", "--variable", "nothing")
    assert wrong.returncode == 2
    assert "`--variable` must be one of top_eigenvalue, overlap" in wrong.stderr.replace(
        "overlap, top_eigenvalue", "top_eigenvalue, overlap"
    )


def test_damage_is_told_and_repaired(tmp_path, run):
    assert run(*WIGNER, "--store", "s").returncode == 0
    before = rl.open_sweep(tmp_path / "s").load()
    file = tmp_path / "s" / "overlap" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    for arguments in (["sweep", "show", "s"], [*WIGNER, "--store", "s"]):
        told = run(*arguments)
        assert told.returncode == 2
        assert "`overlap` of (spike=0.5, trial 0) to (spike=2.0, trial 2) cannot be read back" in told.stderr
    assert run(*WIGNER, "--store", "s", "--repair").returncode == 0
    assert rl.open_sweep(tmp_path / "s").load().equals(before)


def test_cells_that_fail_set_the_exit_code(run):
    wrong = ["sweep", "spiked-wigner", "--spike=-1,2", "--n", "50", "--workers", "1", "--store", "s"]
    done = run(*wrong)
    assert done.returncode == 3
    assert "1 of 2 cells failed, `rmtland sweep show s` tells how; --retry-failed runs them again" in done.stderr
    assert "Traceback" not in done.stderr
    shown = run("sweep", "show", "s")
    assert "spike=-1.0, trial=0" in shown.stdout
    assert "`spike` must be >= 0" in shown.stdout
    assert run(*wrong, "--retry-failed").returncode == 3


def test_axes_progress_and_ranges_in_words():
    status = np.array([[1, 1, 2], [1, 0, 2]])
    values = np.arange(12.0).reshape(2, 3, 2)
    values[:, 2] = np.nan
    dataset = xr.Dataset(
        {
            "norm": (("width", "trial", "layer"), values),
            "name": (("width", "trial"), np.full((2, 3), "x")),
            "steps": (("width", "trial"), np.ones((2, 3), dtype=int)),
            "nothing": (("width", "trial"), np.full((2, 3), np.nan)),
        },
        coords={
            "width": [16, 2048], "layer": [0, 1], "status": (("width", "trial"), status),
        },
    )  # fmt: skip
    dataset["status"] = (("width", "trial", "rate", "kind"), status[..., None, None])
    dataset = dataset.set_coords("status").assign_coords(rate=[0.1], kind=["relu"])
    file = io.StringIO()
    print_sweep(dataset, Console(file=file, width=80))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[:4] == [
        "width     2 values, 16 .. 2048",
        "rate      1 values, 0.1 .. 0.1",
        "kind      1 values, relu .. relu",
        "cells     6: 3 done, 1 missing, 2 failed",
    ]
    told = {line.split()[0]: line.split()[1:] for line in lines[6:] if line.strip(" \u2500")}
    assert told["norm"] == ["layer", "2", "4.5", "0", "9"]
    assert told["name"] == told["steps"] == told["nothing"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spike", "x"], "--spike: an axis must read 0.5,1,2"),
        (["--n", "10.5"], "--n: must be whole numbers; got '10.5'"),
        (["--trials", "0"], "`trials` must be >= 1; got 0"),
        (["--plot", "x.png", "--spike", "1"], "`--plot` needs one or two axes of several values; got 0"),
        (["--plot", "."], "`--plot` must be a file ending in one of ."),
        (["--plot", "x.xyz"], "`--plot` must be a file ending in one of ."),
        (["--plot", "x"], "got 'x'"),
        (["--scheduler", "nonsense://x"], "`scheduler` must be an address like tcp://host:8786"),
    ],
)
def test_a_wrong_argument_is_told_in_a_line(tmp_path, run, arguments, message):
    done = run("sweep", "spiked-wigner", "--spike", "1,2", "--store", "s", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.x*")) + list(tmp_path.glob(".rmtland*"))


def test_a_dry_run_writes_nothing(tmp_path, run):
    done = run(*WIGNER, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "cells     6 (spike 2 x trial 3)" in done.stdout
    assert "estimate" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert "`--store` must name a folder" in run(*WIGNER).stderr


def rows(text):
    """Lines without what is empty, each cut where two spaces or more stand."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip() and "─" not in line]


def test_show_tells_axes_results_and_the_first_ten_failures(tmp_path, run):
    ns = list(range(14))
    with pytest.warns(RuntimeWarning, match="24 of 28 cells"):
        rl.sweep(often_fails, {"n": ns, "kind": ["a", "b"]}, store=tmp_path / "s", workers=1, seed=7)
    done = run("sweep", "show", "s")
    assert done.returncode == 0
    told = rows(done.stdout)
    keys = {line.split(" ")[0]: line for line in done.stdout.splitlines()}
    assert keys["function"] == "function  tests.sweeps.functions.often_fails"
    assert (keys["seed"], keys["trials"], keys["fixed"]) == ("seed      7", "trials    1", "fixed     none")
    versions = json.loads(rl.open_sweep(tmp_path / "s").attrs["versions"])
    assert keys["versions"] == "versions  " + ", ".join(f"{name} {of}" for name, of in versions.items())  # in one line
    assert ["n", "14 values, 0 .. 13"] in told
    assert ["kind", "2 values, a .. b"] in told
    assert ["cells", "28: 4 done, 0 missing, 24 failed"] in told
    assert ["x", "7.125", "0.25", "14"] in told  # the mean of 0.25, 1, 13.25 and 14
    assert ["y", "k 3", "1", "-2", "4"] in told
    assert ["count", "6.5", "0", "13"] in told
    failed = [line for line in told if line[0].startswith("n=")]
    cells = [(n, kind) for n in range(1, 6) for kind in "ab"]
    assert failed == [[f"n={n}, kind={kind}, trial=0", f"ValueError: {n} is too many"] for n, kind in cells]
    assert told[-1] == ["and 14 more"]


@pytest.mark.parametrize("count", [10, 11])
def test_ten_failures_are_told_without_a_remainder(tmp_path, run, count):
    ns = [0, *range(1, count + 1), 13]
    with pytest.warns(RuntimeWarning, match=f"{count} of {count + 2} cells"):
        rl.sweep(often_fails, {"n": ns}, store=tmp_path / "s", workers=1, fixed={"kind": "a"})
    done = run("sweep", "show", "s")
    assert "fixed     kind a" in done.stdout.splitlines()
    told = rows(done.stdout)
    assert sum(line[0].startswith("n=") for line in told) == 10
    assert [line for line in told if line[0].endswith(" more")] == [["and 1 more"]] * (count == 11)


def test_axes_of_real_numbers_are_told_shortly(tmp_path, run):
    rl.sweep(noise, {"a": [1 / 3, 2.0], "b": [0.0, 1e-7]}, store=tmp_path / "s", workers=1)
    told = rows(run("sweep", "show", "s").stdout)
    assert ["a", "2 values, 0.333333 .. 2"] in told
    assert ["b", "2 values, 0 .. 1e-07"] in told


@pytest.mark.parametrize(("size", "told"), [(10**7, ["3", "3", "3"]), (10**7 + 1, [])])
def test_ranges_of_ten_million_numbers_are_told_and_of_more_are_not(size, told):
    dataset = xr.Dataset({"x": (("a", "k"), np.broadcast_to(3.0, (1, size)))})
    dataset = dataset.assign_coords(status=(("a",), np.ones(1)))
    file = io.StringIO()
    print_sweep(dataset, Console(file=file, width=80))
    assert rows(file.getvalue())[-1] == ["x", f"k {size}", *told]


def test_cells_that_are_missing_are_told(tmp_path, run):
    rl.sweep(noise, {"a": [1.0, 2.0]}, 3, store=tmp_path / "s", workers=1)
    status = zarr.open_array(tmp_path / "s" / "status")
    status[0, 1] = 0
    assert ["cells", "6: 5 done, 1 missing, 0 failed"] in rows(run("sweep", "show", "s").stdout)


def test_a_plot_needs_two_axes_at_most(tmp_path, run):
    done = run(
        "sweep", "spiked-wigner", "--spike", "1,2", "--n", "10,11", "--beta", "1,2", "--store", "s", "--plot", "x.png"
    )
    assert done.returncode == 2
    assert "`--plot` needs one or two axes of several values; got 3" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_theory_is_drawn_where_the_sweep_has_it(tmp_path, run, monkeypatch):
    asked = []
    plot = plots.plot_sweep
    monkeypatch.setattr(plots, "plot_sweep", lambda *a, **k: asked.append(k["theory"]) or plot(*a, **k))
    assert run(*WIGNER, "--store", "s", "--plot", "a.png").returncode == 0
    assert run("sweep", "show", "s", "--plot", "b.png", "--variable", "theory_overlap").returncode == 0
    assert asked == ["theory_top_eigenvalue", None]


def test_help_of_a_sweep_tells_parameters_and_options_once(run):
    told = run("sweep", "spiked-wigner", "--help").stdout
    assert "--spike" in told
    assert "Default: 2" in " ".join(told.split())  # of --spike, as the help says it
    assert "--dry-run" in told
    for never in ("--no-", "[default: None]", "--rng"):
        assert never not in told


def test_axes_of_one_value_are_fixed():
    axes, fixed = parse_parameters(spiked_wigner_cell, {"spike": "0.1:10:3:log", "n": "50", "beta": None})
    np.testing.assert_allclose(axes["spike"], [0.1, 1.0, 10.0])
    assert fixed == {"n": 50}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_goes_on(tmp_path, number):
    """However often the signal comes."""
    command = [COMMAND, "sweep", "spiked-wigner", "--n", "1000", "--trials", "100000", "--store", "s", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (tmp_path / "s" / "status" / "c").exists():
        time.sleep(0.05)
    for _ in range(4):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        time.sleep(0.005)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    told = "interrupted" if number == signal.SIGINT else "terminated"
    assert stderr == f"rmtland: {told}; what was done is in s, the same command goes on\n"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert 0 < int((rl.open_sweep(tmp_path / "s").status == 1).sum()) < 10**5

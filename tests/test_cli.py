"""The command from a folder of its own, in this process (`run`) or through its real entry point (`run_apart`)."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

import rmtland as rl
from rmtland.cli import OutputFolder, parse_widths
from rmtland.cli.output import TERMINATED, progress_bar
from rmtland.comparison.result import RUNGS
from rmtland.landscape.paper import sweeps

landscape = importlib.import_module("rmtland.cli.landscape")
COMMAND = Path(sys.executable).parent / "rmtland"
SMALL = ["--hidden", "4", "--epochs", "2", "--draws", "2", "--examples", "12"]


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (40 * rng.random((60, 3, 3)) + 100 * np.eye(3, 9)[y].reshape(60, 3, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    return tmp_path


def run_apart(folder, *arguments):
    return subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip


def test_the_package_is_a_command_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rmtland", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("rmtland", run_name="__main__")
    assert end.value.code == 0
    assert "compare" in capsys.readouterr().out


@pytest.mark.slow
def test_compare_writes_table_json_and_figures(images, run, blank_figures):
    done = run_apart(images, "compare", "--data", "images.npz", *SMALL, "--out", "out/report")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "end of training" in done.stdout
    assert "eigenvalue 1 " in done.stdout
    assert "share of trace" not in done.stdout  # not without --hierarchy
    assert "…" not in done.stdout  # nothing cut off in 80 columns
    report = images / "out" / "report"
    names = {"comparison.json", "gradient_power.png", "spectra.png", "scores.png", "stages.png"}
    assert {path.name for path in report.iterdir()} == names
    written = json.loads((report / "comparison.json").read_text())
    assert written["settings"]["data"] == "images.npz"
    assert written["settings"]["seed"] == 0
    assert list(written["stages"]) == ["initialisation", "mid training", "end of training"]
    rungs = written["stages"]["end of training"]["rungs"]
    assert list(rungs) == list(RUNGS)
    assert written["stages"]["end of training"]["num_parameters"] == 9 * 4 + 4 + 4 * 3 + 3
    # The same seed gives the same numbers, and a report is replaced, not mixed.
    again = run("compare", "--data", "images.npz", *SMALL, "--stages", "end", "--rungs", "a,b", "--out", "out/report")
    assert again.returncode == 0
    (end,) = json.loads((report / "comparison.json").read_text())["stages"].values()
    assert end["rungs"] == {name: rungs[name] for name in ("hessian", "gauss_newton")}


def test_compare_has_rows_of_the_hierarchy_when_asked(images, run, blank_figures):
    arguments = ["--data", "images.npz", *SMALL, "--rungs", "b,h", "--out", "report"]
    done = run("compare", "--hierarchy", *arguments)
    assert done.returncode == 0, done.stderr
    assert "B1 share of trace" in done.stdout
    written = json.loads((images / "report" / "comparison.json").read_text())
    quantities = written["stages"]["end of training"]["rungs"]["gauss_newton"]["quantities"]
    shares = [quantities[f"{part}_trace_share"]["mean"] for part in ("A1", "A2", "B1", "B2")]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "4,x"], "`hidden` must be whole numbers with commas, like 16,16; got '4,x'"),
        (["--hidden", "0"], "`hidden` must be >= 1 everywhere; got '0'"),
        (["--epochs", "1"], "`epochs` must be >= 2; got 1"),
        (["--draws", "1"], "`draws` must be >= 2; got 1"),
        (["--examples", "61"], "`num_examples` must be >= 2 and <= 60; got 61"),
        (["--examples", "1"], "`examples` must be >= 2; got 1"),
        (["--outliers", "eye"], "`outliers` must be one of 'ratio', 'gap', 'elbow'; got 'eye'"),
        (["--data", "none.npz"], "cifar100 or an .npz file; found none at none.npz"),
        (["--data-folder", "nowhere"], "`folder` must be a folder that exists; got nowhere"),
        (["--network", "cnnx"], "`network` must be one of 'mlp', 'cnn', 'lenet'"),
        (["--network", "cnn"], "`hidden` must be left out for cnn; got '4'"),
        (["--clusters", "3"], "`clusters` must be left out for --data images.npz; got 3"),
        (["--covariance", "2"], "`covariance` must be left out for --data images.npz; got 2.0"),
        (["--per-class", "21"], "`per_class` must be <= 20, the examples of class 0; got 21"),
        (["--width", "0"], "`width` must be > 0; got 0.0"),
        (["--learning-rate", "0"], "`learning_rate` must be > 0; got 0.0"),
        (["--batch-size", "0"], "`batch_size` must be >= 1; got 0"),
        (["--hidden", "100000,100000000"], "GiB are free; name fewer or narrower hidden layers instead"),
        (["--seed", "-1"], "`seed` must be >= 0; got -1"),
    ],
)
def test_a_wrong_argument_is_told_in_a_line(images, arguments, message, run):
    done = run("compare", "--data", "images.npz", *SMALL, *arguments, "--out", "report")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in images.iterdir()) == ["images.npz"]


def test_options_that_do_not_exist(images, run):
    done = run("compare", "--colour", "red")
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_an_output_that_is_a_file(images, run):
    (images / "report").write_text("mine")
    done = run("compare", "--data", "images.npz", *SMALL, "--out", "report")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "report" in done.stderr
    assert (images / "report").read_text() == "mine"


def test_a_file_without_the_arrays(images, run):
    np.savez(images / "half.npz", x_train=np.zeros((3, 2)))
    done = run("compare", "--data", "half.npz", *SMALL)
    assert done.returncode == 2
    assert "lacks y_train, x_test, y_test" in done.stderr


IN_TRAINING = """
import rmtland.cli, rmtland.nets.training as training

take_step = training.Training._take_step

def told(self, batch):
    print("training", flush=True)
    training.Training._take_step = take_step
    return take_step(self, batch)

training.Training._take_step = told
rmtland.cli.main()
"""
"""The command, which says when it has begun to train: an interrupt within an import may surface as an ImportError."""


@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing(images):
    arguments = ["compare", "--data", "images.npz", "--examples", "12", "--epochs", "100000", "--out", "report"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TRAINING, *arguments],
        cwd=images, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "training\n"
    assert (images / "report").exists()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in images.iterdir()) == ["images.npz"]


def test_version_and_help(tmp_path, run):
    assert run_apart(tmp_path, "--version").stdout.startswith("rmtland 0.")
    assert "compare" in run("--help").stdout


def test_files_appear_together_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "b"
    with contextlib.suppress(KeyError), OutputFolder(target) as folder:
        (folder / "half.txt").write_text("half")
        raise KeyError
    assert not target.exists()
    with OutputFolder(target) as folder:
        (folder / "whole.txt").write_text("whole")
        assert list(target.glob("*.txt")) == []
    assert [path.name for path in target.iterdir()] == ["whole.txt"]
    with OutputFolder(tmp_path / "none"):
        pass
    assert list((tmp_path / "none").iterdir()) == []
    with contextlib.suppress(KeyError), OutputFolder(target) as folder:
        (folder / "whole.txt").write_text("other")
        raise KeyError
    assert (target / "whole.txt").read_text() == "whole"


def test_parents_that_were_made_go_too(tmp_path):
    with contextlib.suppress(KeyError), OutputFolder(tmp_path / "a" / "b" / "c"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), "rmtland: interrupted; nothing was written\n"),
        (SystemExit(TERMINATED), "rmtland: terminated; nothing was written\n"),
        (SystemExit(1), ""),
        (KeyError(), ""),
    ],
)
def test_a_stop_says_that_nothing_was_written(tmp_path, capsys, error, told):
    with pytest.raises(type(error)), OutputFolder(tmp_path / "out"):
        raise error
    assert capsys.readouterr().err == told
    assert list(tmp_path.iterdir()) == []


def on_screen(text):
    """What a terminal still shows of a text: lines that are erased, and columns that are written again, are gone."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[\d?;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif piece.endswith("A") and piece[0] == "\x1b":
            row -= int(piece[2:-1])
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece[0] not in "\x1b\r":
            lines[row] += piece
    return "\n".join(lines).strip()


def test_a_bar_is_shown_on_a_terminal_and_goes_with_the_work():
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=80, color_system=None, _environ={})
        with progress_bar(console, "{task.description:12}") as bar:
            bar.update(bar.add_task("epochs", total=7), completed=3)
            bar.refresh()
            meanwhile = on_screen(file.getvalue())
        assert meanwhile.startswith("epochs       \u2501") if terminal else meanwhile == ""
        assert ("3/7" in meanwhile) == terminal
        assert on_screen(file.getvalue()) == ""


def test_progress_of_a_figure_is_told_beside_the_output(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with landscape._progress("fig7") as advance:
        advance(2, 9)
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert "fig7" in stderr
    assert on_screen(stderr) == ""


def test_results_in_words_and_numbers_of_json():
    law, figure = rl.Semicircle(), sweeps.PhaseFigure
    fields = {field.name: None for field in dataclasses.fields(figure)}
    given = {
        "array": np.array([[1.5, np.nan], [np.inf, 2.0]]), "list": [True, 3, "text", None, -np.inf, np.float64(0.5)],
        "law": law, "figure": figure(**fields),
    }  # fmt: skip
    told = landscape._plain(given)
    assert told == {
        "array": [[1.5, None], [None, 2.0]], "list": [True, 3, "text", None, None, 0.5], "law": repr(law),
        "figure": fields,
    }  # fmt: skip
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_bbp(tmp_path, run):
    options = ["--spikes", "1.2:4:4", "--features", "10000", "--draws", "8"]
    done = run("bbp", *options, "--out", "bbp")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "bbp").iterdir()} == {"bbp.json", "bbp.png", "bbp.txt"}
    assert (tmp_path / "bbp" / "bbp.txt").read_text().strip() in done.stdout
    for wrong, message in (
        (["--spikes", "1:6"], "--spikes: an axis must read 0.5,1,2 or first:last:count"),
        (["--spikes", "1:6:1"], "`--spikes` must name at least 2 strengths; got '1:6:1'"),
        (["--spikes", "1:6:100000000000"], "--spikes: an axis must have at most 10,000,000 values"),
        (["--ratio", "1e-320"], "`ratio` must be >= num_features / 2^53 = 1.11e-12; got 9.99989e-321"),
        (["--draws", "1000000000000"], "GiB are free"),
        (["--features", "1" + "0" * 400], "`num_features` must be >= 1 and <= 9007199254740992; got 1000"),
        (["--spikes", "-1:6:3"], "`spikes` must be > 0"),
        (["--ratio", "0"], "`ratio` must be > 0; got 0"),
        (["--features", "0"], "`num_features` must be >= 1 and <= 9007199254740992; got 0"),
    ):
        done = run("bbp", *options, *wrong, "--out", "other")
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "other").exists()


def test_bbp_writes_all_three_files_or_none(tmp_path, run):
    (tmp_path / "out" / "bbp.png").mkdir(parents=True)
    (tmp_path / "out" / "bbp.txt").write_text("older")
    done = run("bbp", "--spikes", "1.5,4", "--features", "1000", "--draws", "3", "--out", "out")
    assert done.returncode == 2
    assert "bbp.png is a folder, and a file is to go there; nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bbp.png", "bbp.txt"]
    assert (tmp_path / "out" / "bbp.txt").read_text() == "older"


def test_sigterm_clears_away(tmp_path):
    arguments = ["bbp", "--spikes", "1:6:40", "--features", "100000000000", "--draws", "100000", "--out", "out"]
    process = subprocess.Popen([COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.rmtland-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr == "rmtland: terminated; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def command_that_raises(monkeypatch, capsys, function, *arguments):
    """Exit code, or the error that came through, and what was printed."""
    from rmtland import cli

    monkeypatch.setattr(cli, "app", typer.Typer(add_completion=False, pretty_exceptions_enable=False))
    cli.app.callback(invoke_without_command=True)(cli.version)
    cli.app.command("raise")(function)
    monkeypatch.setattr(sys, "argv", ["rmtland", *arguments, "raise"])
    with pytest.raises((Exception, SystemExit)) as done:
        cli.main()
    return getattr(done.value, "code", done.value), capsys.readouterr().err


def named():
    rl.MarchenkoPastur(ratio=-1)


def full_disk():
    raise OSError("No space left on device")


def wrong_shapes():
    np.ones(2) + np.ones(3)


def wrong_kind():
    len(3)


@pytest.mark.parametrize(
    ("function", "told"),
    [(named, "rmtland: `ratio` must be > 0; got -1\n"), (full_disk, "rmtland: No space left on device\n")],
)
def test_errors_that_name_what_was_wrong_are_told_in_a_line(monkeypatch, capsys, function, told):
    assert command_that_raises(monkeypatch, capsys, function) == (2, told)
    assert isinstance(command_that_raises(monkeypatch, capsys, function, "--debug")[0], ValueError | OSError)
    assert command_that_raises(monkeypatch, capsys, function)[0] == 2  # --debug does not stay


@pytest.mark.parametrize(("function", "kind"), [(wrong_shapes, ValueError), (wrong_kind, TypeError)])
def test_bugs_keep_their_traceback(monkeypatch, capsys, function, kind):
    """They were told in a line, as if the user had made them."""
    error, told = command_that_raises(monkeypatch, capsys, function)
    assert type(error) is kind
    assert told == ""


def test_a_bug_of_this_package_is_one_too(monkeypatch, capsys):
    monkeypatch.setattr("rmtland.laws.marchenko_pastur.real", lambda name, value, **bounds: np.ones(2) + np.ones(3))
    error, _ = command_that_raises(monkeypatch, capsys, named)
    assert "broadcast" in str(error)


@pytest.mark.parametrize(
    ("command", "bounds", "told"),
    [
        ("compare", "--examples 2 --epochs 2 --products 40 --draws 2 --workers 1", "found none at none.npz"),
        ("train", "--examples 2 --epochs 1 --every 1", "found none at none.npz"),
        ("measure none.pt", "--examples 2", "found none at none.pt"),
    ],
)
def test_the_least_that_options_may_be_is_taken(run, command, bounds, told):
    """Data that are not there are looked for last."""
    data = ["--data", "none.npz", "--network", "mlp", "--hidden", "1,1", "--seed", "0"]
    training = [] if command.startswith("measure") else ["--batch-size", "1"]
    arguments = [*command.split(), *data, *training]
    assert told in run(*arguments, *bounds.split()).stderr
    for option, least in zip(bounds.split()[::2], bounds.split()[1::2], strict=True):
        name, below = option[2:], int(least) - 1
        assert f"`{name}` must be >= {least}; got {below}\n" in run(*arguments, option, below).stderr


def test_claims_are_listed(run):
    done = run("validate", "list", "laws.random_energy_freezing")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("laws.random_energy_freezing\n")


def test_widths():
    assert parse_widths("16, 8") == [16, 8]
    assert parse_widths("") == []
    assert parse_widths("1,2") == [1, 2]
    with pytest.raises(ValueError, match="`hidden` must be >= 1 everywhere; got '3,0'"):
        parse_widths("3,0")


SMALL_MODEL = ["--examples", "20", "--classes", "3", "--parameters", "30", "--draws", "2"]


def test_landscape_writes_figure_and_numbers(tmp_path, run):
    done = run("landscape", "fig5", *SMALL_MODEL, "--out", "figures")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "paper: bulk + C - 1 outliers" in done.stdout
    assert " here: " in done.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"fig5.json", "fig5.png"}
    assert json.loads((tmp_path / "figures" / "fig5.json").read_text())["panels"]["eq. (16)"]["outliers_theory"]


@pytest.mark.slow
def test_every_landscape_figure_has_a_command(tmp_path, monkeypatch, blank_figures):
    # In one process and on small grids: starts of Python and whole sweeps would take minutes.
    from typer.testing import CliRunner

    from rmtland.cli import app
    from rmtland.landscape.paper import sweeps as figures

    sweep, phase = figures.sweep_figure, figures.phase_figure
    monkeypatch.setattr(figures, "sweep_figure", lambda *a, **k: sweep(*a, sigma_z=[0.5, 5.0], **k))
    monkeypatch.setattr(figures, "phase_figure", lambda *a, **k: phase(*a, sigma_z=[0.5, 5.0], snr=[0.1, 1.0], **k))
    for name in ("fig3", "fig6", "fig7", "fig8", "phase", "h-term"):
        sizes = SMALL_MODEL if name != "fig3" else ["--examples", "20", "--draws", "2"]
        more = {"fig8": ["--dimension", "5"], "phase": ["--draws", "1"]}.get(name, [])
        done = CliRunner().invoke(app, ["landscape", name, *sizes, *more, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.exception
        assert {path.name for path in (tmp_path / name).iterdir()} == {f"{name}.json", f"{name}.png"}


@pytest.mark.parametrize(("num_parameters", "dimension"), [(5, 5), (11, 10)])
def test_figure_7_takes_fewer_parameters_than_hyperplanes_have_dimensions(monkeypatch, num_parameters, dimension):
    """It was refused, for a `dimension` that the command does not have."""
    from typer.testing import CliRunner

    from rmtland.cli import app

    given = []

    def sweep_figure(*sizes, dimension, **_):
        given.append((*sizes[:3], dimension))
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "sweep_figure", sweep_figure)
    CliRunner().invoke(app, ["landscape", "fig7", *SMALL_MODEL, "--parameters", str(num_parameters)])
    assert given == [(20, 3, num_parameters, dimension)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig3", "--classes", "1"], "`classes` must be >= 2; got 1"),
        *(
            ([name, f"--{option}", bound - 1], f"`{option}` must be >= {bound}; got {bound - 1}")
            for name in ("fig5", "fig6", "fig7", "fig8", "phase", "h-term")
            for option, bound in {"examples": 2, "classes": 2, "parameters": 1, "seed": 0}.items()
        ),
        (["fig3", "--examples", "1"], "`examples` must be >= 2; got 1"),
        (["phase", "--draws", "0"], "`draws` must be >= 1; got 0"),
        (["fig5", "--sigma-z", "-1"], "`sigma_z` must be >= 0; got -1.0"),
        (["fig7", "--draws", "1"], "`draws` must be >= 2; got 1"),
        (["fig8", "--dimension", "1001"], "`dimension` must be >= 1 and <= 1000; got 1001"),
        *(
            ([name, "--sigma-z", "0", "--snr", "-1"], "`snr` must be > 0; got -1.0")
            for name in ("fig5", "fig6", "h-term")
        ),
        *(
            ([name, "--examples", "2", "--classes", "2", "--parameters", "1", "--draws", "1"], "`draws` must be >= 2")
            for name in ("fig5", "fig6", "fig7", "h-term")
        ),
    ],
)
def test_a_wrong_argument_of_a_figure(tmp_path, arguments, message, run):
    done = run("landscape", *arguments, "--out", "figures")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["compare", "train"])
@pytest.mark.parametrize("download", [False, True])
def test_downloads_are_asked_for(command, download, monkeypatch, tmp_path):
    """`load_dataset` fetches what it is told to fetch (tests/nets/test_datasets.py): the option reaches it."""
    from typer.testing import CliRunner

    import rmtland.nets
    from rmtland.cli import app

    asked = []

    def load_dataset(name, folder, **options):
        asked.append((name, options["download"]))
        raise FileNotFoundError(name)

    monkeypatch.setattr(rmtland.nets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, [command, "--data", "mnist", "--out", "out", *(["--download"] if download else [])])
    assert asked == [("mnist", download)]

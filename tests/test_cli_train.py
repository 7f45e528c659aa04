"""`rmtland train`, `rmtland measure`, and the options of data and network: numbers read from what they write."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr
from rich.console import Console
from typer.testing import CliRunner

import rmtland as rl
from rmtland.cli import app
from rmtland.cli.measure import import_builder
from rmtland.cli.networks import check_training, load_data
from rmtland.cli.train import print_record
from tests.test_cli import COMMAND, images  # noqa: F401

FAST = ["--epochs", "2", "--examples", "20", "--statistics", "outputs,lengths"]
DIGITS = ["--data", "digits", "--per-class", "5", "--hidden", "6"]


def invoke(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exit_code:
        raise done.exception
    return done.stdout


def train(folder, *arguments):
    shown = invoke("train", *FAST, *arguments, "--out", folder)
    return xr.open_zarr(folder / "record", chunks=None).load(), shown


@pytest.mark.slow
def test_every_option_of_training_acts(tmp_path):
    base, shown = train(tmp_path / "base", *DIGITS)
    assert "loss" in shown
    assert base.step.values.tolist() == [0, 1, 2, 4]
    assert base.split.values.tolist() == ["train"]  # digits have no test set
    again, _ = train(tmp_path / "again", *DIGITS)
    xr.testing.assert_identical(again.drop_attrs(), base.drop_attrs())
    for place, options in enumerate(
        (["--per-class", "4"], ["--hidden", "7"], ["--width", "2"], ["--seed", "1"], ["--learning-rate", "0.01"],
         ["--batch-size", "10"], ["--epochs", "3"], ["--examples", "30"], ["--every", "3"],
         ["--statistics", "outputs"])
    ):  # fmt: skip
        other, _ = train(tmp_path / str(place), *DIGITS, *options)
        assert not other.drop_attrs().equals(base.drop_attrs()), options
        if "--every" in options:
            assert other.step.values.tolist() == [0, 3, 4]  # the last but one among them
    cnn, _ = train(tmp_path / "cnn", "--per-class", "5", "--network", "cnn", "--width", "0.25")
    clusters, _ = train(tmp_path / "clusters", "--data", "clusters", "--clusters", "3")
    wide, _ = train(tmp_path / "wide", "--data", "clusters", "--clusters", "3", "--covariance", "10")
    assert cnn.sizes["logit"] == 10
    assert clusters.sizes["logit"] == 3
    assert clusters.split.values.tolist() == ["train", "test"]
    assert not wide.loss.equals(clusters.loss)


def test_the_record_is_that_of_the_checkpoint(tmp_path):
    record, _ = train(tmp_path / "run", *DIGITS)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    shown = invoke("measure", checkpoint, "--network", "mlp", "--hidden", "6", "--per-class", "5", "--examples", "20",
                   "--statistics", "outputs,lengths", "--out", tmp_path / "m")  # fmt: skip
    measured = rl.nets.open_record(tmp_path / "m").load()
    assert measured.loss.item() == record.loss.isel(step=-1).item()
    assert "checkpoint" in shown
    # Without a network one is told which, in options that then work.
    with pytest.raises(ValueError, match="got neither. That of .* was trained with --network mlp") as told:
        invoke("measure", checkpoint)
    options = str(told.value).split("trained with ")[1].split()
    assert options == ["--network", "mlp", "--hidden", "6", "--width", "1.0", "--data", "digits", "--per-class", "5",
                       "--seed", "0"]  # fmt: skip
    invoke("measure", checkpoint, *options, "--examples", "20", "--statistics", "outputs", "--out", tmp_path / "told")
    assert rl.nets.open_record(tmp_path / "told").loss.item() == measured.loss.item()


def test_a_training_goes_on_only_as_itself(tmp_path):
    train(tmp_path / "new" / "run", *DIGITS)
    before = torch.load(tmp_path / "new" / "run" / "checkpoint.pt", weights_only=True)
    assert before["step"] == 4
    assert "going on after step 4 of 4" in train(tmp_path / "new" / "run", *DIGITS)[1]
    with pytest.raises(ValueError, match=r"the same settings to go on with; .* has seed = 0, not 2"):
        train(tmp_path / "new" / "run", *DIGITS, "--seed", "2")
    # The default for these data is what is written down, and held against.
    train(tmp_path / "default", *DIGITS, "--epochs", "20", "--statistics", "outputs")
    assert json.loads((tmp_path / "default" / "settings.json").read_text())["epochs"] == 20
    shown = invoke("train", *FAST[2:4], *DIGITS, "--statistics", "outputs", "--out", tmp_path / "default")
    assert "going on after step 40 of 40" in shown
    with pytest.raises(ValueError, match=r"has epochs = 2, not 20"):
        invoke("train", *FAST[2:], *DIGITS, "--out", tmp_path / "new" / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(ValueError, match="`out` must be new, an empty folder or a training to go on with; got .*mine"):
        train(tmp_path / "mine", *DIGITS)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


@pytest.mark.parametrize("step", [3, 4])
def test_ctrl_c_stops_after_the_step_that_is_under_way(monkeypatch, run, step):
    """The slow test below sends it to a process of its own; here it comes at a known step, the last one too."""
    arguments = ["train", *DIGITS, *FAST, "--statistics", "outputs", "--out", "run"]
    record_step = rl.nets.TrainingRecord.step

    def interrupted(record, number, *more):
        record_step(record, number, *more)
        if number == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(rl.nets.TrainingRecord, "step", interrupted)
        done = run(*arguments)
    assert done.returncode == (130 if step == 3 else 0), done.stderr
    assert ("interrupted after step 3; the same command goes on" in done.stderr) == (step == 3)
    assert torch.load("run/checkpoint.pt", weights_only=True)["step"] == step
    again = run(*arguments)
    assert f"going on after step {step} of 4" in again.stdout
    assert rl.nets.open_record("run/record").step.values.tolist() == [0, 1, 2, 4]


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_end(tmp_path):
    arguments = ["train", *DIGITS, "--epochs", "20", "--examples", "20", "--every", "1", "--statistics", "outputs"]
    process = subprocess.Popen([COMMAND, *arguments, "--out", "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 60
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted after step" in stderr
    assert "Traceback" not in stderr
    for name in ("run", "whole"):
        invoke(*arguments, "--out", tmp_path / name)
    records = [rl.nets.open_record(tmp_path / name / "record").load().drop_attrs() for name in ("run", "whole")]
    xr.testing.assert_identical(*records)
    assert records[0].sizes["step"] == 41


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(64, 10)\nnumber = 3\n"
    )
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(64, 10).state_dict(), f"{seed}.pt")
    common = ["--module", "own_network:build", "--examples", "20", "--statistics", "outputs"]
    invoke("measure", "0.pt", "1.pt", *common, "--flatten", "--out", "m")
    loss = rl.nets.open_record("m").loss.values
    assert loss.shape == (2, 1)
    assert loss[0] != loss[1]
    for arguments, kind, message in (
        (["0.pt", *common[2:]], ValueError, "must say which network the checkpoints are of; got neither$"),
        (["0.pt", *common, "--network", "mlp"], ValueError, "`module` or `network` must be given, not both"),
        (["nowhere.pt", *common], FileNotFoundError, "`checkpoints` must be files; found none at nowhere.pt"),
        (["0.pt", "--module", "own_network"], ValueError, "`module` must be pkg.mod:build; got 'own_network'"),
        (["0.pt", "--module", "no_such:build"], ModuleNotFoundError, "can be imported; found no no_such"),
        (["0.pt", "--module", "own_network:number"], ValueError, "found no callable 'number'"),
        (["0.pt", *common, "--examples", "1"], ValueError, "`examples` must be >= 2; got 1"),
    ):
        with pytest.raises(kind, match=message):
            invoke("measure", *arguments, "--out", "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "`epochs` must be >= 1; got 0"),
        (["--every", "0"], "`every` must be >= 1; got 0"),
        (["--examples", "61"], "`examples` must be >= 2 and <= 60; got 61"),
        (["--statistics", "colour"], "`statistics` must be one of 'outputs'"),
        (["--data-folder", "nowhere"], "`folder` must be a folder that exists; got nowhere"),
    ],
)
def test_wrong_arguments_of_train(images, run, arguments, message):  # noqa: F811
    done = run("train", "--data", "images.npz", "--examples", "12", *arguments, "--out", "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in images.iterdir()) == ["images.npz"]


def test_compare_takes_data_and_network(tmp_path):
    common = ["--epochs", "2", "--draws", "2", "--examples", "12", "--per-class", "4", "--stages", "initialisation",
              "--rungs", "gauss_newton"]  # fmt: skip
    invoke("compare", *common, "--network", "cnn", "--width", "0.1", "--out", tmp_path / "cnn")
    invoke("compare", *common, "--data", "clusters", "--clusters", "3", "--hidden", "4", "--out", tmp_path / "clusters")
    cnn, clusters = (
        json.loads((tmp_path / name / "comparison.json").read_text())["stages"]["initialisation"]
        for name in ("cnn", "clusters")
    )
    assert cnn["num_parameters"] == sum(
        p.numel() for p in rl.nets.cnn(channels=1, image_size=8, width=0.1).parameters()
    )
    assert clusters["num_parameters"] == 404 + 15


def test_small_data_are_measured_whole_unless_told(tmp_path):
    small = ["--data", "digits", "--per-class", "3", "--hidden", "4"]
    options = [*small, "--epochs", "2"]
    invoke("train", *options, "--statistics", "outputs", "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["examples"] == 30
    assert "going on" in invoke("train", *options, "--statistics", "outputs", "--out", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    measure = ["measure", checkpoint, "--network", "mlp", *small, "--statistics", "outputs,hierarchy"]
    invoke(*measure, "--out", tmp_path / "measured")
    invoke("compare", *options, "--rungs", "b", "--stages", "end", "--out", tmp_path / "compared")
    told = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert told["settings"]["examples"] == 30
    assert [stage["num_examples"] for stage in told["stages"].values()] == [30]


def test_measure_takes_two_examples_and_not_one(run):
    measure = "measure", "none.pt", "--network", "mlp", "--examples"
    assert "`examples` must be >= 2; got 1" in run(*measure, "1").stderr
    assert "`checkpoints` must be files; found none at none.pt" in run(*measure, "2").stderr


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """What a network of one's own is given by `rmtland measure`."""
    monkeypatch.chdir(tmp_path)
    seen = []

    class Looking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(10))

        def forward(self, x):
            seen.append((*x.shape[1:], x.dtype))
            return x.flatten(1)[:, :10].to(self.weight.dtype) * self.weight

    monkeypatch.setattr(sys.modules["rmtland.cli.measure"], "import_builder", lambda text: Looking)
    torch.save(Looking().state_dict(), "it.pt")

    def measured(*options):
        seen.clear()
        invoke("measure", "it.pt", "--module", "a:b", "--examples", "4", "--statistics", "outputs", *options)
        return set(seen)

    return measured


def test_images_come_as_images_unless_they_are_to_be_flat(shapes):
    assert shapes("--out", "images") == {(1, 8, 8, torch.float32)}
    assert shapes("--flatten", "--out", "flat") == {(64, torch.float32)}
    clusters = shapes("--data", "clusters", "--out", "points")
    assert {len(shape) for shape in clusters} == {2}  # points have no picture
    x, y = np.random.default_rng(0).random((9, 4, 5, 3)), np.arange(9) % 3
    np.savez("colours.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    assert shapes("--data", "colours.npz", "--out", "colours") == {(3, 4, 5, torch.float32)}


def test_modules_are_looked_for_in_the_current_folder_first(tmp_path, monkeypatch):
    for folder, number in (("elsewhere", 1), ("here", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "some_network.py").write_text(f"def build():\n    return {number}\n")
    (tmp_path / "here" / "asks_for_more.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "here" / "refuses.py").write_text("raise ModuleNotFoundError('not on this machine')\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "here")
    before = list(sys.path)
    assert import_builder("some_network:build")() == 2
    for module, told in (
        ("asks_for_more", "No module named 'nothing_of_this_name'"), ("refuses", "not on this machine"),
        ("no_package.part", "`module` must name a module that can be imported; found no no_package.part"),
    ):  # fmt: skip
        with pytest.raises(ModuleNotFoundError, match=told):
            import_builder(f"{module}:build")
    assert sys.path == before
    del sys.modules["some_network"]


def load(data, network="mlp", per_class=None, clusters=None, covariance=None):
    return load_data(data, None, per_class, False, clusters, covariance, network, 3)


def test_data_in_the_precision_of_the_network():
    assert load("digits").x_train.dtype == np.float64
    assert load("digits", "cnn").x_train.dtype == np.float32


def test_clusters_by_default_and_as_told():
    usual = rl.nets.gaussian_clusters(10, covariance=1.0, seed=3)
    np.testing.assert_array_equal(load("clusters").x_train, usual.x_train)
    other = rl.nets.gaussian_clusters(3, covariance=4.0, seed=3)
    np.testing.assert_array_equal(load("clusters", clusters=3, covariance=4.0).x_train, other.x_train)
    fewer = load("clusters", per_class=2)
    np.testing.assert_array_equal(np.bincount(fewer.y_train), np.full(10, 2))


def test_settings_of_training_are_wanted_only_where_one_trains():
    assert check_training("mlp", "3", 1.0) == [3]
    for wrong, told in (((0.0, 1), "`learning_rate` must be > 0"), ((1.0, 0), "`batch_size` must be >= 1; got 0")):
        with pytest.raises(ValueError, match=told):
            check_training("mlp", "3", 1.0, *wrong)


@pytest.mark.parametrize("named", [False, True])
def test_a_record_is_printed_by_step_or_checkpoint(named):
    names = {"step": [0, 12], "split": ["train", "test"], "rank": [1, 2, 3]}
    values = np.arange(12.0).reshape(2, 2, 3)
    record = xr.Dataset(
        {
            "loss": (("step", "split"), values[..., 0] + 0.1234), "accuracy": (("step", "split"), values[..., 1]),
            "hessian_eigenvalues": (("step", "split", "rank"), 100 - values), "other": ((), 777.0),
        },
        coords=names | ({"checkpoint": ("step", ["a.pt", "b.pt"])} if named else {}),
    )  # fmt: skip
    with Console(width=80, highlight=False) as console, console.capture() as captured:
        print_record(record, console)
    told = [line.split() for line in captured.get().splitlines() if line.strip() and "\u2500" not in line]
    head = ["checkpoint" if named else "step", "split", "loss", "acc", "Hess", "1"]
    rows = [["train", "0.123", "1", "100"], ["test", "3.12", "4", "97"],
            ["train", "6.12", "7", "94"], ["test", "9.12", "10", "91"]]  # fmt: skip
    places = ["a.pt", "a.pt", "b.pt", "b.pt"] if named else ["0", "0", "12", "12"]
    assert told == [head, *([place, *row] for place, row in zip(places, rows, strict=True))]


def test_training_in_a_folder_within_new_folders(tmp_path):
    train(tmp_path / "a" / "b" / "run", *DIGITS, "--statistics", "outputs", "--examples", "2", "--epochs", "1")
    assert (tmp_path / "a" / "b" / "run" / "checkpoint.pt").is_file()


def test_long_names_of_checkpoints_are_shown_whole():
    name = "/".join(f"folder{number}" for number in range(20))
    names = {"step": [0], "split": ["train"], "checkpoint": ("step", [name])}
    record = xr.Dataset({"loss": (("step", "split"), [[0.125]])}, coords=names)
    with Console(width=80) as console, console.capture() as captured:
        print_record(record, console)
    lines = [line.split() for line in captured.get().splitlines() if "folder" in line]
    assert "".join(words[0] for words in lines) == name
    assert [word for words in lines for word in words[1:]] == ["train", "0.125"]

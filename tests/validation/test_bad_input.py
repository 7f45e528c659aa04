"""What a run of claims with networks says to what is not there, wrong or too large; mended, the same run goes on."""

import re

import numpy as np
import pytest

from validation.__main__ import main
from validation.networks import Recipe
from validation.results import run_claim
from validation.sagun import figure_1

pytestmark = pytest.mark.usefixtures("blank_figures")
CLAIM = "sagun.figure_1"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(figure_1.RECIPES, "smoke", Recipe(side=7, hidden=(3,), examples=60, stages=(0, 2)))
    monkeypatch.setitem(figure_1.COUNT, "smoke", 2)


def images(path, count=80):
    """A file that has the arrays of MNIST, smaller."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10
    np.savez(path, x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])


@pytest.mark.parametrize("place", ["nowhere", "a file"])
def test_a_folder_that_is_none_is_told_in_one_line(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path / place))
    assert main(["run", CLAIM, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told == f"validation: `RMTLAND_DATA` must be a folder that exists; got {tmp_path / place}\n"


@pytest.mark.parametrize("wrong", ["no file", "no archive", "another archive", "too few images"])
def test_a_wrong_file_is_named_and_the_right_one_goes_on(wrong, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path))
    file, arguments = tmp_path / "mnist.npz", ["run", CLAIM, "--out", str(tmp_path / "out")]
    if wrong == "no archive":
        file.write_bytes(b"no archive")
    elif wrong == "another archive":
        np.savez(file, pictures=np.zeros(3))
    elif wrong == "too few images":
        images(file, 20)
    assert main(arguments) == 1
    told = capsys.readouterr().out
    message = {
        "no file": f"FileNotFoundError: `data` must be .*found none at mnist or in {tmp_path}",
        "no archive": f"ValueError: `data` must be an .npz file of arrays; could not read {file}",
        "another archive": f"ValueError: `data` must hold x_train, .*{file} lacks x_train",
        "too few images": "ValueError: `per_class` must be <= 2, the examples of class 0; got 6",
    }[wrong]
    assert any(re.search(message, line) for line in told.splitlines()), told
    images(file)
    result = run_claim(CLAIM, "smoke", 0, tmp_path / "out")
    assert result["error"] is None
    assert result["checks"]


def test_too_little_memory_for_the_exact_spectrum_is_told_and_more_goes_on(tmp_path, monkeypatch, capsys):
    """(49 + 1) 3 + (3 + 1) 10 parameters: a matrix of 190 x 190."""
    monkeypatch.delenv("RMTLAND_DATA", raising=False)
    with monkeypatch.context() as context:
        context.setattr("rmtland._arguments.available_memory", lambda: 1e5)
        context.setattr("rmtland._arguments.LITTLE", 0)
        # What trains and reads images asks for little memory too.
        context.setattr("rmtland.nets.datasets.require_memory", lambda *_: None)
        context.setattr("rmtland.nets.architectures.choose.require_memory", lambda *_: None)
        assert main(["run", CLAIM, "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "MemoryError: the dense 190 x 190 matrix" in told, told
    assert "use products or to_scipy()" in told
    assert run_claim(CLAIM, "smoke", 0, tmp_path)["error"] is None


@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_told_in_one_line(device, tmp_path, capsys):
    assert main(["run", CLAIM, "--device", device, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"validation: `--device` must be a device of torch that holds float64; got '{device}': ")
    assert told.count("\n") == 1


def test_the_device_is_written_beside_the_versions(tmp_path, monkeypatch):
    monkeypatch.delenv("RMTLAND_DATA", raising=False)
    result = run_claim(CLAIM, "smoke", 0, tmp_path, device="cpu")
    assert result["versions"]["device"] == "cpu"
    assert "digits of scikit-learn stand for mnist" in result["conclusions"]

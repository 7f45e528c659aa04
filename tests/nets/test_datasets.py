import os

import numpy as np
import pytest

from rmtland.nets import load_dataset


def arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "x_train": rng.integers(0, 256, (12, 4, 4)).astype(np.uint8),
        "y_train": (np.arange(12) % 3).astype(np.uint8),
        "x_test": rng.integers(0, 256, (6, 4, 4)).astype(np.uint8),
        "y_test": np.arange(6) % 3,
    }
    return values | changes


def test_digits():
    digits = load_dataset("digits")
    assert digits.x_train.shape == (1797, 8, 8)
    assert digits.num_classes == 10
    assert abs(digits.x_train.mean()) < 1e-12
    assert abs(digits.x_train.std() - 1) < 1e-12
    assert len(digits.x_test) == 0


def test_a_file_by_path_and_by_name(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "mine.npz", **arrays())
    dataset = load_dataset(tmp_path / "mine.npz")
    assert dataset.name == "mine"
    assert dataset.y_train.dtype == np.int64
    # The test images are scaled as the training images are.
    raw = arrays()
    expected = (raw["x_test"] - raw["x_train"].mean()) / raw["x_train"].std()
    np.testing.assert_allclose(dataset.x_test, expected)
    np.testing.assert_array_equal(load_dataset("mine", folder=tmp_path).x_train, dataset.x_train)
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path))
    np.testing.assert_array_equal(load_dataset("mine").x_train, dataset.x_train)


def test_labels_may_come_as_a_column(tmp_path):
    values = arrays()
    np.savez(tmp_path / "column.npz", **arrays(y_train=values["y_train"][:, None]))
    np.testing.assert_array_equal(load_dataset(tmp_path / "column.npz").y_train, values["y_train"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((12, 4), np.nan)}, "`x_train` must be finite; got NaN or infinite entries"),
        (
            {"y_test": np.arange(5)},
            r"`x_test` and `y_test` must have shapes \(n, ...\) and \(n,\); got \(6, 4, 4\) and \(5,\)",
        ),
        ({"y_train": np.linspace(0, 1, 12)}, "`y_train` must hold class labels 0, 1, ...; got float64"),
        ({"y_train": np.arange(12) - 1}, "`y_train` must hold class labels 0, 1, ...; got int64 down to -1"),
        (
            {"x_train": np.zeros((0, 4)), "y_train": np.zeros(0, int)},
            "`x_train` must hold at least one example; got none",
        ),
    ],
)
def test_bad_arrays(tmp_path, changes, message):
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / "bad.npz")


def test_bad_files(tmp_path, monkeypatch):
    monkeypatch.delenv("RMTLAND_DATA", raising=False)
    values = arrays()
    np.savez(tmp_path / "short.npz", x_train=values["x_train"], y_test=values["y_test"])
    with pytest.raises(
        ValueError, match=r"`data` must hold x_train, y_train, x_test, y_test; .* lacks y_train, x_test"
    ):
        load_dataset(tmp_path / "short.npz")
    (tmp_path / "text.npz").write_text("no arrays here")
    with pytest.raises(ValueError, match="`data` must be an .npz file of arrays; could not read"):
        load_dataset(tmp_path / "text.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(ValueError, match="`data` must"):
        load_dataset(tmp_path / "single.npy")
    with pytest.raises(
        FileNotFoundError, match=r"`data` must be digits or an .npz file; found none at .*set RMTLAND_DATA"
    ):
        load_dataset("mnist")


@pytest.mark.skipif("RMTLAND_DATA" not in os.environ, reason="RMTLAND_DATA names no folder of data sets")
@pytest.mark.parametrize(("name", "shape"), [("mnist", (60000, 28, 28)), ("cifar10", (10000, 32, 32, 3))])
def test_real_collections(name, shape):
    try:
        dataset = load_dataset(name)
    except FileNotFoundError:
        pytest.skip(f"no {name}.npz in RMTLAND_DATA")
    assert dataset.x_train.shape == shape
    assert dataset.num_classes == 10

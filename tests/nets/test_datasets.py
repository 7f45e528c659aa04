import gzip
import itertools
import os
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from rmtland.nets import Dataset, dataset_files, datasets, gaussian_clusters, load_dataset
from rmtland.nets.dataset_files import IDX_PARTS


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


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_the_scale_of_the_entries_does_not_matter(tmp_path, scale):
    """Where squares overflow everything became 0 / inf, and nobody was told."""
    for name, factor in (("far", scale), ("near", 1.0)):
        values = arrays()
        np.savez(tmp_path / f"{name}.npz", **values | {k: v * factor for k, v in values.items() if k.startswith("x")})
    far, near = (load_dataset(tmp_path / f"{name}.npz") for name in ("far", "near"))
    for part in ("x_train", "x_test"):
        np.testing.assert_allclose(getattr(far, part), getattr(near, part), rtol=1e-9)
    assert near.x_train.std() == pytest.approx(1)


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
        ({"x_train": np.full((12, 4), "7")}, "`x_train` must hold real numbers; got <U1"),
        ({"y_train": np.linspace(0, 1, 12)}, "`y_train` must hold class labels 0, 1, ...; got float64"),
        ({"y_train": np.arange(12) - 1}, "`y_train` must hold class labels 0, 1, ...; got int64 down to -1"),
        (
            {"x_train": np.zeros((0, 4)), "y_train": np.zeros(0, int)},
            "`x_train` must hold at least one example; got none",
        ),
        ({"x_test": np.zeros((6, 4, 3))}, r"`x_test` must hold examples .* of `x_train`, \(4, 4\); got \(4, 3\)"),
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
        FileNotFoundError, match=r"`data` must be digits, .* or an .npz file; found none at mnist \(set RMTLAND_DATA"
    ):
        load_dataset("mnist")


def write_idx(path, array):
    content = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_idx_folder(folder, name="{part}-idx{dimensions}-ubyte", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = arrays(**changes)
    for part, key in zip(IDX_PARTS, ("x_train", "y_train", "x_test", "y_test"), strict=True):
        dimensions = 3 if "images" in part else 1
        write_idx(folder / name.format(part=part, dimensions=dimensions), values[key].astype(np.uint8))


def same(a, b):
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("x_train", "y_train", "x_test", "y_test"))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("mnist", "{part}-idx{dimensions}-ubyte"),
        ("mnist", "{part}-idx{dimensions}-ubyte.gz"),
        ("MNIST/raw", "{part}.idx{dimensions}-ubyte"),
        (".", "{part}-idx{dimensions}-ubyte.gz"),
    ],
)
def test_idx_files(tmp_path, place, name):
    np.savez(tmp_path / "reference.npz", **arrays())
    write_idx_folder(tmp_path / place, name)
    dataset = load_dataset("mnist", tmp_path)
    assert dataset.name == "mnist"
    assert same(dataset, load_dataset("reference", tmp_path))


def test_collections_do_not_take_each_others_files(tmp_path):
    write_idx_folder(tmp_path / "FashionMNIST" / "raw")
    np.savez(tmp_path / "mnist.npz", **arrays(y_train=np.zeros(12, int), y_test=np.zeros(6, int)))
    assert load_dataset("fashion", tmp_path).num_classes == 3
    assert load_dataset("fashion_mnist", tmp_path).name == "fashion"
    assert load_dataset("mnist", tmp_path).num_classes == 1
    np.savez(tmp_path / "fashion_mnist.npz", **arrays(y_train=np.arange(12), y_test=np.arange(6)))
    assert load_dataset("fashion", tmp_path).num_classes == 12  # .npz before IDX


def test_idx_files_that_cannot_be_read(tmp_path):
    folder = tmp_path / "mnist"
    write_idx_folder(folder)
    images = folder / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"must be whole; .*ubyte holds 187 of 192 bytes for shape \(12, 4, 4\)"):
        load_dataset("mnist", tmp_path)
    for wrong, told in (
        (whole[:16], r"0 of 192 bytes for shape \(12, 4, 4\)"),
        (b"\0\0\x08\0", r"0 of 1 bytes for shape"),
    ):
        images.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"must be whole; .*ubyte holds {told}"):
            load_dataset("mnist", tmp_path)
    for wrong in (b"", b"\0\0\x08\x03\0", b"\0\0\x0d" + whole[3:], b"<html>no such file"):
        images.write_bytes(wrong)
        with pytest.raises(ValueError, match="must be an IDX file of unsigned bytes; .* does not begin like one"):
            load_dataset("mnist", tmp_path)
    images.unlink()
    for wrong in (gzip.compress(whole)[:-20], b"no gzip"):
        (folder / "train-images-idx3-ubyte.gz").write_bytes(wrong)
        with pytest.raises(ValueError, match="must be an IDX file; could not unpack"):
            load_dataset("mnist", tmp_path)
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"must have train-images, .*; .*mnist lacks train-images$"):
        load_dataset("mnist", tmp_path)


def cifar_records(labels, seed, coarse=False):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072)).astype(np.uint8)
    columns = [np.asarray(labels, np.uint8)[:, None]]
    return pixels, np.concatenate([np.zeros_like(columns[0])] * coarse + columns + [pixels], axis=1)


def write_cifar(folder):
    folder.mkdir()
    pixels = []
    for i in range(1, 6):
        some, records = cifar_records([0, i, 9], i)
        (folder / f"data_batch_{i}.bin").write_bytes(records.tobytes())
        pixels.append(some)
    (folder / "test_batch.bin").write_bytes(cifar_records([1, 2], 0)[1].tobytes())
    return np.concatenate(pixels)


def test_binary_files_of_cifar(tmp_path):
    pixels = write_cifar(tmp_path / "cifar-10-batches-bin")
    dataset = load_dataset("cifar10", tmp_path)
    assert dataset.x_train.shape == (15, 32, 32, 3)
    assert dataset.x_test.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(dataset.y_train[:6], [0, 1, 9, 0, 2, 9])
    # A record is a label, then 1024 red, 1024 green and 1024 blue pixels, row by row.
    red = (pixels[4, :1024].reshape(32, 32) - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(dataset.x_train[4, :, :, 0], red, atol=1e-12)
    images = dataset.as_images()
    np.testing.assert_array_equal(images.x_train[4, 0], dataset.x_train[4, :, :, 0])
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(cifar_records([99, 3], 0, coarse=True)[1].tobytes())
    (folder / "test.bin").write_bytes(cifar_records([1], 0, coarse=True)[1].tobytes())
    fine = load_dataset("cifar100", tmp_path)
    np.testing.assert_array_equal(fine.y_train, [99, 3])
    assert fine.num_classes == 100
    (folder / "test.bin").write_bytes(cifar_records([100], 0, coarse=True)[1].tobytes())
    with pytest.raises(ValueError, match=r"`data` must have labels below 100; .*test.bin has 100"):
        load_dataset("cifar100", tmp_path)


def test_binary_files_that_cannot_be_read(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar(folder)
    batch = folder / "data_batch_2.bin"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"whole records of 3073 bytes; .*data_batch_2.bin has 9218"):
        load_dataset("cifar10", tmp_path)
    batch.write_bytes(b"")
    with pytest.raises(ValueError, match=r"whole records of 3073 bytes; .*data_batch_2.bin has 0"):
        load_dataset("cifar10", tmp_path)
    batch.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(ValueError, match=r"`data` must have labels below 10; .*data_batch_2.bin has 10"):
        load_dataset("cifar10", tmp_path)
    batch.unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-bin lacks data_batch_2.bin"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found none at cifar100 .*get the binary version of CIFAR"):
        load_dataset("cifar100", tmp_path)


def test_folders_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a folder that exists; got .*nowhere"):
        load_dataset("mnist", tmp_path / "nowhere")
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"`RMTLAND_DATA` must be a folder that exists; got .*nowhere"):
        load_dataset("mnist")
    with pytest.raises(FileNotFoundError, match=rf"found none at mnist or in {tmp_path}$"):
        load_dataset("mnist", tmp_path)


def test_the_cut_off_end_of_an_npz(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", **arrays())
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "mnist.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="`data` must be an .npz file of arrays; could not read"):
        load_dataset("mnist", tmp_path)


def test_openml(tmp_path, monkeypatch):
    from sklearn import datasets

    # The first 60,000 of 70,000 and 50,000 of 60,000 are for training; fewer here, for time's sake.
    assert {name: training for name, (_, training) in dataset_files.OPENML.items()} == {
        "mnist": 60000, "fashion": 60000, "cifar10": 50000,
    }  # fmt: skip
    small = {"mnist": (554, 60), "fashion": (40996, 60), "cifar10": (40927, 50)}
    monkeypatch.setattr(dataset_files, "OPENML", small)
    asked = []

    def fetch(data_id, as_frame):
        asked.append((data_id, as_frame))
        size = 3072 if data_id == 40927 else 784
        n = 55 if data_id == 40927 else 64
        pixels = np.zeros((n, size), dtype=np.uint8)
        pixels[0] = np.arange(size) % 251
        return SimpleNamespace(data=pixels, target=np.array(["0", "1", "2", "3"] * n)[:n])

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    monkeypatch.delenv("RMTLAND_DATA", raising=False)
    mnist = load_dataset("mnist", download=True, dtype=np.float32)
    assert mnist.x_train.shape == (60, 28, 28)
    assert mnist.y_test.tolist() == [0, 1, 2, 3]
    cifar = load_dataset("cifar10", tmp_path, download=True, per_class=2, dtype=np.float32)
    assert cifar.x_test.shape == (5, 32, 32, 3)
    assert asked == [(554, False), (40927, False)]
    whole = load_dataset("cifar10", download=True, dtype=np.float32)
    # Channel after channel there, a pixel's three channels side by side here.
    step = np.diff(whole.x_train[0, 0, :2, 0])
    np.testing.assert_allclose(whole.x_train[0, 0, 0, 1] - whole.x_train[0, 0, 0, 0], 20 * step, rtol=1e-4)
    with pytest.raises(ValueError, match=r"`download` must be left out for cifar100; only mnist, fashion, cifar10"):
        load_dataset("cifar100", download=True)

    def fail(**_):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "fetch_openml", fail)
    with pytest.raises(OSError, match="could not fetch fashion from OpenML: no route"):
        load_dataset("fashion", download=True)
    write_idx_folder(tmp_path / "fashion")
    assert load_dataset("fashion", tmp_path, download=True).num_classes == 3  # files before the network


def test_subsets_are_balanced_nested_and_seeded():
    whole = load_dataset("digits")
    some = load_dataset("digits", per_class=7)
    assert np.bincount(some.y_train).tolist() == [7] * 10
    assert same(some, whole.per_class(7))
    rows = {row.tobytes(): place for place, row in enumerate(whole.x_train)}

    def places(dataset):
        return [rows[row.tobytes()] for row in dataset.x_train]

    # The numbers of the whole set, in its order, and a smaller subset lies in a larger one.
    assert places(some) == sorted(places(some))
    assert set(places(some)) < set(places(load_dataset("digits", per_class=9)))
    assert places(some) != places(load_dataset("digits", per_class=7, seed=1))
    fewest = np.bincount(whole.y_train).min()
    assert len(load_dataset("digits", per_class=fewest).x_train) == 10 * fewest
    with pytest.raises(ValueError, match=r"`per_class` must be <= 174, the examples of class 8; got 175"):
        load_dataset("digits", per_class=175)
    with pytest.raises(ValueError, match=r"`per_class` must be >= 1; got 0"):
        load_dataset("digits", per_class=0)


def test_a_class_without_examples(tmp_path):
    np.savez(tmp_path / "gap.npz", **arrays(y_train=2 * (np.arange(12) % 2)))
    with pytest.raises(ValueError, match=r"`per_class` must be <= 0, the examples of class 1; got 1"):
        load_dataset(tmp_path / "gap.npz", per_class=1)


def test_dtype_and_memory(monkeypatch):
    digits, single = load_dataset("digits"), load_dataset("digits", dtype=np.float32)
    np.testing.assert_array_equal(single.x_train, digits.x_train.astype(np.float32))
    monkeypatch.setattr("rmtland._arguments.available_memory", lambda: 1_000_000)
    monkeypatch.setattr("rmtland._arguments.LITTLE", 0)
    assert load_dataset("digits", dtype=np.float32).x_train.dtype == np.float32
    with pytest.raises(MemoryError, match="digits as float64 needs .* GiB .*; keep fewer examples with `per_class`"):
        load_dataset("digits")


def test_shapes_for_convolutions(tmp_path):
    digits = load_dataset("digits")
    images = digits.as_images()
    assert images.x_train.shape == (1797, 1, 8, 8)
    assert images.x_test.shape == (0, 1, 8, 8)
    np.testing.assert_array_equal(images.x_train[:, 0], digits.x_train)
    assert images.as_images() is images
    with pytest.raises(
        ValueError, match=r"must hold images of 1 or 3 channels; clusters has examples of shape \(100,\)"
    ):
        gaussian_clusters().as_images()
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "four.npz", **arrays(x_train=rng.random((12, 5, 5, 4)), x_test=rng.random((6, 5, 5, 4))))
    with pytest.raises(ValueError, match=r"four has examples of shape \(5, 5, 4\)"):
        load_dataset(tmp_path / "four.npz").as_images()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_or_three_channels_may_come_first_or_last(channels):
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 5, 7, channels)), np.arange(6) % 2
    last = Dataset("last", x, y, x[:2], y[:2])
    first = Dataset("first", x.transpose(0, 3, 1, 2), y, x[:2].transpose(0, 3, 1, 2), y[:2])
    if channels in (1, 3):
        assert first.as_images() is first
        assert same(last.as_images(), first)
    else:
        for dataset, shape in ((last, (5, 7, channels)), (first, (channels, 5, 7))):
            with pytest.raises(
                ValueError, match=re.escape(f"images of 1 or 3 channels; {dataset.name} has examples of shape {shape}")
            ):
                dataset.as_images()


def test_clusters_are_what_they_say():
    # Undo the normalisation by comparing ratios: variance within clusters over variance between their centres.
    for covariance, dimension in ((1.0, 400), (10.0, 400), (0.0, 50)):
        data = gaussian_clusters(4, num_examples=4000, dimension=dimension, covariance=covariance, seed=2)
        assert data.x_train.shape == data.x_test.shape == (4000, dimension)
        assert np.bincount(data.y_train).tolist() == [1000] * 4
        assert abs(data.x_train.mean()) < 1e-12
        assert abs(data.x_train.std() - 1) < 1e-12
        centres = np.stack([data.x_train[data.y_train == k].mean(axis=0) for k in range(4)])
        within = np.mean([data.x_train[data.y_train == k].var(axis=0, ddof=1) for k in range(4)])
        between = centres.var(axis=0, ddof=1).mean() - within / 1000
        # sqrt(2 / (3 * 400)) = 4% is one standard deviation of the centres' variance.
        assert within / between == pytest.approx(covariance, rel=0.2, abs=1e-12)
        test_centres = np.stack([data.x_test[data.y_test == k].mean(axis=0) for k in range(4)])
        if covariance:
            assert 0 < np.abs(centres - test_centres).max() < 0.5  # the same clusters, other examples
        np.testing.assert_allclose(np.cov(data.x_train[data.y_train == 0][:, :3].T), within * np.eye(3), atol=0.15)


def test_cluster_options():
    assert load_dataset("clusters").num_classes == 10
    assert same(load_dataset("clusters", seed=3), gaussian_clusters(seed=3))
    assert not same(load_dataset("clusters", seed=3), gaussian_clusters(seed=4))
    assert len(load_dataset("clusters", per_class=5).x_train) == 50
    for options, message in (
        ({"num_clusters": 0}, "`num_clusters` must be >= 1; got 0"),
        ({"num_examples": 9}, "`num_examples` must be >= 10; got 9"),
        ({"dimension": 0}, "`dimension` must be >= 1; got 0"),
        ({"covariance": -1}, "`covariance` must be >= 0; got -1"),
        ({"seed": -1}, "`seed` must be >= 0; got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            gaussian_clusters(**options)
    with pytest.raises(MemoryError, match="examples of 100 numbers needs .* take fewer `num_examples`"):
        gaussian_clusters(num_examples=10**12)


@pytest.mark.skipif("RMTLAND_DATA" not in os.environ, reason="RMTLAND_DATA names no folder of data sets")
@pytest.mark.parametrize(("name", "shape"), [("mnist", (60000, 28, 28)), ("cifar10", (10000, 32, 32, 3))])
def test_real_collections(name, shape):
    try:
        dataset = load_dataset(name)
    except FileNotFoundError:
        pytest.skip(f"no {name}.npz in RMTLAND_DATA")
    assert dataset.x_train.shape == shape
    assert dataset.num_classes == 10


@pytest.mark.parametrize("scale", [1.0, 1e-90, 1e90, 1e-150, 1e200, -1e200])
@pytest.mark.parametrize("count", [3, 64, 65, 4096, 9000])
def test_entries_are_normalised_by_all_of_them(count, scale):
    """However many there are, and where their squares are no numbers of float64."""
    x = np.random.default_rng(count).normal(2, 3, size=(count, 2))
    moments = datasets._moments(x * scale)
    found = datasets._normalised(x * scale, moments, np.float64)
    np.testing.assert_allclose(found, np.sign(scale) * (x - x.mean()) / x.std(), rtol=1e-9, atol=1e-9)
    assert (moments[0] == 1) == (1e-100 < abs(scale) < 1e100)
    few = datasets._normalised(x[:2] * scale, moments, np.float32)
    assert few.dtype == np.float32
    np.testing.assert_allclose(few, found[:2], rtol=1e-5)
    assert datasets._moments(np.full((count, 2), 5, dtype=np.uint8)) == (1.0, 5.0, 1.0)
    assert datasets._moments(np.zeros((count, 2))) == (1.0, 0.0, 1.0)


def test_classes_are_kept_in_the_order_of_their_examples():
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 2])
    for count, seed in itertools.product((1, 2, 3), range(4)):
        chosen = datasets._balanced(labels, count, seed)
        assert np.bincount(labels[chosen]).tolist() == [count] * 3
        assert (np.diff(chosen) > 0).all()
    assert len({tuple(datasets._balanced(labels, 1, seed)) for seed in range(20)}) > 5
    for missing in (np.array([0, 0, 2, 2]), np.array([1, 0, 2, 1, 0])):
        fewest = int(np.bincount(missing).argmin())
        size = int(np.bincount(missing)[fewest])
        with pytest.raises(ValueError, match=f"must be <= {size}, the examples of class {fewest}; got {size + 1}"):
            datasets._balanced(missing, size + 1, 0)

"""Readers of what image collections come in: .npz, IDX, CIFAR's binary records, OpenML through scikit-learn."""

from __future__ import annotations

import gzip
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
"""x_train, y_train, x_test, y_test as the files have them."""

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
ALIASES = {
    "mnist": ("mnist", "MNIST"),
    "fashion": ("fashion", "fashion_mnist", "fashion-mnist", "FashionMNIST"),
    "cifar10": ("cifar10", "cifar-10", "cifar-10-batches-bin"),
    "cifar100": ("cifar100", "cifar-100", "cifar-100-binary"),
}
"""Names of collections to names of their .npz files and folders."""

IDX_PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
CIFAR_FILES = {
    "cifar10": ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]),
    "cifar100": (["train.bin"], ["test.bin"]),
}
OPENML = {"mnist": (554, 60000), "fashion": (40996, 60000), "cifar10": (40927, 50000)}
"""Number of a collection at OpenML, and how many of its examples, the first ones, are for training."""

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, EOFError, TypeError, AttributeError,
    NotImplementedError, gzip.BadGzipFile,
)  # fmt: skip
"""What readers raise for files that are cut off or of another kind."""


def canonical_name(name: str) -> str:
    """The name of a collection by any of its aliases, or `name` itself."""
    return next((known for known, aliases in ALIASES.items() if name in aliases), name)


def read_npz(path: Path) -> Arrays:
    """The four arrays of an .npz file; nothing is unpickled."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            arrays = {key: file[key] for key in ARRAYS if key in file}
    except UNREADABLE as error:
        raise ValueError(f"`data` must be an .npz file of arrays; could not read {path}: {error}") from None
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"`data` must hold {', '.join(ARRAYS)}; {path} lacks {', '.join(missing)}")
    return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def read_collection(name: str, folder: Path) -> Arrays | None:
    """A known collection from `folder`, in whichever of its forms is there first; None where there is none."""
    for place in (*(folder / alias for alias in ALIASES[name]), folder):
        npz = place.with_name(place.name + ".npz")
        if place != folder and npz.is_file():
            return read_npz(npz)
        if name in CIFAR_FILES:
            arrays = _read_cifar(name, place)
        else:
            arrays = _read_idx_folder(place / "raw") or _read_idx_folder(place)
        if arrays is not None:
            return arrays
    return None


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes, gzipped or not.

    The first bytes are 0, 0, 8 for unsigned bytes and the number of dimensions, then a big-endian 32-bit size for each.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except UNREADABLE as error:
        raise ValueError(f"`data` must be an IDX file; could not unpack {path}: {error}") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"`data` must be an IDX file of unsigned bytes; {path} does not begin like one")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">i4", count=content[3], offset=4))
    held, needed = len(content) - 4 - 4 * len(shape), math.prod(shape)
    if held != needed:
        raise ValueError(f"`data` must be whole; {path} holds {held} of {needed} bytes for shape {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def fetch_openml(name: str) -> Arrays:
    """A known collection over the network, by scikit-learn, which keeps what it has fetched."""
    if name not in OPENML:
        raise ValueError(f"`download` must be left out for {name}; only {', '.join(OPENML)} can be fetched")
    from sklearn import datasets

    number, training = OPENML[name]
    try:
        table = datasets.fetch_openml(data_id=number, as_frame=False)
    except OSError as error:
        raise OSError(f"could not fetch {name} from OpenML: {error}") from error
    pixels = np.asarray(table.data).astype(np.uint8)
    colours = 3 if name == "cifar10" else 1
    side = math.isqrt(pixels.shape[1] // colours)
    images = np.moveaxis(pixels.reshape(-1, colours, side, side), 1, -1)
    x = images if colours > 1 else images[..., 0]
    y = np.asarray(table.target).astype(np.int64)
    return x[:training], y[:training], x[training:], y[training:]


def _read_idx_folder(folder: Path) -> Arrays | None:
    found = [next(_idx_candidates(folder, part), None) for part in IDX_PARTS]
    present = [path for path in found if path is not None]
    if not present:
        return None
    if len(present) < len(found):
        missing = [part for part, path in zip(IDX_PARTS, found, strict=True) if path is None]
        raise FileNotFoundError(f"`data` must have {', '.join(IDX_PARTS)}; {folder} lacks {', '.join(missing)}")
    x_train, y_train, x_test, y_test = (read_idx(path) for path in present)
    return x_train, y_train, x_test, y_test


def _idx_candidates(folder: Path, part: str) -> Iterator[Path]:
    dimensions = 3 if part.endswith("images") else 1
    for joint in "-.":
        for ending in ("", ".gz"):
            path = folder / f"{part}{joint}idx{dimensions}-ubyte{ending}"
            if path.is_file():
                yield path


def _read_cifar(name: str, folder: Path) -> Arrays | None:
    names = [file for part in CIFAR_FILES[name] for file in part]
    missing = [file for file in names if not (folder / file).is_file()]
    if len(missing) == len(names):
        return None
    if missing:
        raise FileNotFoundError(f"`data` must have {', '.join(names)}; {folder} lacks {', '.join(missing)}")
    (x_train, y_train), (x_test, y_test) = (
        _read_records(name, [folder / file for file in part]) for part in CIFAR_FILES[name]
    )
    return x_train, y_train, x_test, y_test


def _read_records(name: str, paths: list[Path]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Records of a label (CIFAR-100: a coarse one before it) and 3 x 32 x 32 bytes."""
    labels, classes = (2, 100) if name == "cifar100" else (1, 10)
    parts = []
    for path in paths:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if content.size == 0 or content.size % (labels + 3072):
            raise ValueError(
                f"`data` must hold whole records of {labels + 3072} bytes; {path} has {content.size}, which is "
                "cut off or no binary CIFAR file"
            )
        records = content.reshape(-1, labels + 3072)
        if records[:, labels - 1].max() >= classes:
            worst = int(records[:, labels - 1].max())
            raise ValueError(f"`data` must have labels below {classes}; {path} has {worst}")
        parts.append(records)
    records = np.concatenate(parts)
    x = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), records[:, labels - 1].astype(np.int64)

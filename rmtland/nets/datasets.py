"""Data sets as arrays: scanned digits, image collections from files that the user names, Gaussian clusters."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import integer, path, real, real_dtype, require_memory
from rmtland._arrays import told
from rmtland.nets.dataset_files import ALIASES, Arrays, canonical_name, fetch_openml, read_collection, read_npz

NAMES = ("digits", "clusters", *ALIASES)
"""Data sets that have a name of their own."""

PICKLED = (("10", "-batches-py"), ("100", "-python"))
"""Ends of the names of the folders that hold CIFAR as pickles."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and, where there are any, to test on.

    Attributes
    ----------
    name : str
    x_train, x_test : ndarray (n, ...)
        Shifted and scaled by two numbers, those that give all pixels of the whole training set mean 0 and variance 1.
        Images keep the shape they are stored in: (n, height, width), or (n, height, width, channels).
    y_train, y_test : ndarray (n,)
        Class labels 0..C-1.
    """

    name: str
    x_train: npt.NDArray[Any]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[Any]
    y_test: npt.NDArray[np.int64]

    __repr__ = told

    @property
    def num_classes(self) -> int:
        """C, one more than the largest label."""
        return int(max(self.y_train.max(), self.y_test.max(initial=0))) + 1

    def as_images(self) -> Dataset:
        """The same examples as convolutions take them, (n, channels, height, width).

        Raises
        ------
        ValueError
            For examples that are no images of 1 or 3 channels.
        """
        shape = self.x_train.shape[1:]
        if len(shape) == 2:
            x_train, x_test = (x[:, None] for x in (self.x_train, self.x_test))
        elif len(shape) == 3 and shape[-1] in (1, 3):
            x_train, x_test = (np.moveaxis(x, -1, 1) for x in (self.x_train, self.x_test))
        elif len(shape) == 3 and shape[0] in (1, 3):
            return self
        else:
            raise ValueError(
                f"`dataset` must hold images of 1 or 3 channels; {self.name} has examples of shape {shape}"
            )
        return dataclasses.replace(self, x_train=np.ascontiguousarray(x_train), x_test=np.ascontiguousarray(x_test))

    def per_class(self, count: int, seed: int = 0) -> Dataset:
        """The same number of training examples of every class, chosen at random; the test set stays whole.

        Parameters
        ----------
        count : int
            Of each class. Those chosen for a smaller count are among those for a larger one.
        seed : int

        Raises
        ------
        ValueError
            For a class with fewer examples than `count`.
        """
        chosen = _balanced(self.y_train, count, seed)
        return dataclasses.replace(self, x_train=self.x_train[chosen], y_train=self.y_train[chosen])


def load_dataset(
    name: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    per_class: int | None = None,
    seed: int = 0,
    download: bool = False,
    dtype: npt.DTypeLike = np.float64,
) -> Dataset:
    """A data set by its name, or from an .npz file.

    Parameters
    ----------
    name : str or path
        "digits" (1,797 images of 8 x 8 pixels that scikit-learn carries, all for training); "clusters" (what
        `gaussian_clusters` gives); "mnist", "fashion", "cifar10" or "cifar100" from files in `folder`; a path to an
        .npz file with the arrays x_train, y_train, x_test, y_test; or the name of such a file in `folder`, with or
        without its ending.
    folder : path, optional
        Where names are looked up; by default the folder that the environment variable RMTLAND_DATA names. The
        collections may lie there as .npz (mnist.npz, fashion_mnist.npz, cifar10.npz), as IDX files, gzipped or not
        (train-images-idx3-ubyte and so on, in mnist/, MNIST/raw/, fashion/, FashionMNIST/raw/ or in `folder` itself),
        or as the binary files of CIFAR (cifar-10-batches-bin/, cifar-100-binary/). The pickled files of CIFAR are not
        read: unpickling runs code.
    per_class : int, optional
        Keep so many training examples of every class, chosen at random; by default all. The test set stays whole.
    seed : int
        Of that choice, and of "clusters".
    download : bool
        Fetch mnist, fashion or cifar10 from OpenML, with scikit-learn, where `folder` has no files of it.
    dtype : dtype
        Of x_train and x_test.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        For a folder or file that is not there.
    OSError
        For a download that fails.
    ValueError
        For a file of another kind or cut off, one that lacks an array, arrays that do not fit together, a class with
        fewer examples than `per_class`.
    MemoryError
        Where the examples do not fit.

    Examples
    --------
    >>> from rmtland.nets import load_dataset
    >>> load_dataset("digits").x_train.shape
    (1797, 8, 8)
    >>> load_dataset("digits", per_class=20).x_train.shape
    (200, 8, 8)
    """
    path("name", name)
    real_dtype("dtype", dtype)
    if name == "clusters":
        clusters = gaussian_clusters(seed=seed)
        return clusters if per_class is None else clusters.per_class(per_class, seed)
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        raw = digits.images, digits.target, digits.images[:0], digits.target[:0]
        return _dataset("digits", *raw, per_class, seed, dtype)
    title, (x_train, y_train, x_test, y_test) = _read(name, folder, download)
    return _dataset(title, x_train, y_train, x_test, y_test, per_class, seed, dtype)


def gaussian_clusters(
    num_clusters: int = 10,
    *,
    num_examples: int = 1000,
    dimension: int = 100,
    covariance: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Gaussian clusters, one a class, normalised globally.

    Centres are drawn from N(0, I), examples from N(centre, covariance I).

    Parameters
    ----------
    num_clusters : int
        k, the number of classes.
    num_examples : int
        To train on, and as many again to test on; clusters are of equal size, to within one.
    dimension : int
        Of the inputs.
    covariance : float
        Multiplier of the covariance within a cluster, >= 0; that of the centres is 1.
    seed : int

    Returns
    -------
    Dataset
        x_train (num_examples, dimension), mean 0 and variance 1 over all of its entries.

    Raises
    ------
    ValueError
        For sizes out of range, or fewer examples than clusters.

    Notes
    -----
    The paper gives 100 dimensions, k from {2, 5, 10, 20, 50} and multipliers 1 and 10; the law of the centres and the
    number of examples are our choice. The centres depend on the seed, k and the dimension alone.

    References
    ----------
    Sagun et al. (2017), sec. 3.1 and appendix A, table 1.

    Examples
    --------
    >>> import rmtland as rl
    >>> clusters = rl.nets.gaussian_clusters(5, covariance=10.0)
    >>> clusters.x_train.shape, clusters.num_classes
    ((1000, 100), 5)
    """
    num_clusters = integer("num_clusters", num_clusters, at_least=1)
    num_examples = integer("num_examples", num_examples, at_least=num_clusters)
    dimension = integer("dimension", dimension, at_least=1)
    spread = real("covariance", covariance, at_least=0) ** 0.5
    # To train on and to test on, each with its centres while it is made.
    needed = 40.0 * num_examples * dimension
    require_memory(f"{num_examples} examples of {dimension} numbers", needed, "take fewer `num_examples`")
    rngs = np.random.default_rng(integer("seed", seed, at_least=0)).spawn(3)
    centres = rngs[0].normal(size=(num_clusters, dimension))
    labels = np.arange(num_examples) % num_clusters
    parts = [centres[labels] + spread * rng.normal(size=(num_examples, dimension)) for rng in rngs[1:]]
    return _dataset("clusters", parts[0], labels, parts[1], labels.copy(), None, seed, np.float64)


def _read(name: str | os.PathLike[str], folder: str | os.PathLike[str] | None, download: bool) -> tuple[str, Arrays]:
    """Title and arrays of whatever `load_dataset` takes that lies in files."""
    home = folder if folder is not None else os.environ.get("RMTLAND_DATA")
    if home is not None and not Path(home).is_dir():
        asked = "folder" if folder is not None else "RMTLAND_DATA"
        raise FileNotFoundError(f"`{asked}` must be a folder that exists; got {os.fspath(home)}")
    path = Path(name)
    candidates = [path]
    if home is not None:
        candidates += [Path(home) / path, Path(home) / f"{path}.npz"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.stem, read_npz(candidate)
    known = canonical_name(os.fspath(name))
    if known in ALIASES:
        arrays = read_collection(known, Path(home)) if home is not None else None
        if arrays is None and download:
            arrays = fetch_openml(known)
        if arrays is not None:
            return known, arrays
    hint = "" if home is not None else " (set RMTLAND_DATA to the folder of your files to use their names)"
    where = f"{path} or in {os.fspath(home)}" if home is not None else path
    if known in ALIASES and any((Path(home or ".") / f"cifar-{n}{v}").is_dir() for n, v in PICKLED):
        hint += "; pickled files are not read, as unpickling runs code: get the binary version of CIFAR"
    raise FileNotFoundError(f"`data` must be {', '.join(NAMES)} or an .npz file; found none at {where}{hint}")


def _dataset(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    per_class: int | None,
    seed: int,
    dtype: npt.DTypeLike,
) -> Dataset:
    """Check, choose, normalise; pixels become floating-point numbers only once they are chosen."""
    checked = []
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if y.ndim == 2 and y.shape[1] == 1:  # a column, as some collections store labels
            y = y[:, 0]
        if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
            raise ValueError(
                f"`x_{part}` and `y_{part}` must have shapes (n, ...) and (n,); got {x.shape} and {y.shape}"
            )
        if x.dtype.kind not in "buif":
            raise ValueError(f"`x_{part}` must hold real numbers; got {x.dtype}")
        if not np.isfinite(x).all():
            raise ValueError(f"`x_{part}` must be finite; got NaN or infinite entries")
        if not np.issubdtype(y.dtype, np.integer) or y.min(initial=0) < 0:
            raise ValueError(f"`y_{part}` must hold class labels 0, 1, ...; got {y.dtype} down to {y.min(initial=0)}")
        checked.append((x, y.astype(np.int64)))
    (x_train, y_train), (x_test, y_test) = checked
    if len(x_train) == 0:
        raise ValueError("`x_train` must hold at least one example; got none")
    if len(x_test) and x_test.shape[1:] != x_train.shape[1:]:
        raise ValueError(
            f"`x_test` must hold examples of the shape of those of `x_train`, {x_train.shape[1:]}; "
            f"got {x_test.shape[1:]}"
        )
    moments = _moments(x_train)
    if per_class is not None:
        chosen = _balanced(y_train, per_class, seed)
        x_train, y_train = x_train[chosen], y_train[chosen]
    needed = float(x_train.size + x_test.size) * np.dtype(dtype).itemsize
    require_memory(f"{name} as {np.dtype(dtype)}", needed, "keep fewer examples with `per_class`, or use float32,")
    x_train, x_test = (_normalised(x, moments, dtype) for x in (x_train, x_test))
    return Dataset(name, x_train, y_train, x_test, y_test)


def _slices(length: int, step: int = 4096) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, start + step)


def _moments(x: npt.NDArray[Any]) -> tuple[float, float, float]:
    """A unit, and mean and standard deviation over all entries in it; 1 in place of a deviation of 0.

    The unit is 1 but for entries whose squares float64 cannot hold. No copy in float64 is made.
    """
    largest = max(abs(float(x.max())), abs(float(x.min())))
    unit = 1.0 if largest == 0 or 1e-100 < largest < 1e100 else largest
    mean = sum(float((x[part] / unit).sum(dtype=np.float64)) for part in _slices(len(x))) / x.size
    variance = sum(float(np.square(x[part] / unit - mean, dtype=np.float64).sum()) for part in _slices(len(x))) / x.size
    return unit, mean, variance**0.5 or 1.0


def _normalised(x: npt.NDArray[Any], moments: tuple[float, float, float], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    unit, mean, deviation = moments
    out = np.empty(x.shape, dtype=dtype)
    for part in _slices(len(x), 64):  # float64 copies stay in the processor's cache
        out[part] = (x[part] / unit - mean) / deviation
    return out


def _balanced(labels: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Numbers of `count` examples of every class, ascending."""
    count = integer("per_class", count, at_least=1)
    sizes = np.bincount(labels)
    fewest = int(sizes.argmin())
    if sizes[fewest] < count:
        raise ValueError(f"`per_class` must be <= {sizes[fewest]}, the examples of class {fewest}; got {count}")
    rng = np.random.default_rng(integer("seed", seed, at_least=0))
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:count] for k in range(sizes.size)]))

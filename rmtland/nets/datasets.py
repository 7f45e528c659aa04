"""Image data sets as arrays: the digits that scikit-learn carries, and .npz files that the user names."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and, where there are any, to test on.

    Attributes
    ----------
    name : str
    x_train, x_test : ndarray (n, ...)
        float64, shifted and scaled to mean 0 and variance 1 over all pixels of x_train.
    y_train, y_test : ndarray (n,)
        Class labels 0..C-1.
    """

    name: str
    x_train: npt.NDArray[np.float64] = field(repr=False)
    y_train: npt.NDArray[np.int64] = field(repr=False)
    x_test: npt.NDArray[np.float64] = field(repr=False)
    y_test: npt.NDArray[np.int64] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """C, one more than the largest label."""
        return int(max(self.y_train.max(), self.y_test.max(initial=0))) + 1


def load_dataset(name: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> Dataset:
    """The scanned digits of scikit-learn, or an .npz file.

    Parameters
    ----------
    name : str or path
        "digits" (1,797 images of 8 x 8 pixels, all for training); a path to an .npz file with the arrays x_train,
        y_train, x_test, y_test; or the name of such a file in `folder`, with or without its ending.
    folder : path, optional
        Where names are looked up; by default the folder that the environment variable RMTLAND_DATA names.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        For a file that is not there.
    ValueError
        For a file that is no .npz, lacks one of the arrays, or holds arrays that do not fit together.

    Examples
    --------
    >>> from rmtland.nets import load_dataset
    >>> load_dataset("digits").x_train.shape
    (1797, 8, 8)
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return _dataset("digits", digits.images, digits.target, digits.images[:0], digits.target[:0])
    path = _find(Path(name), folder)
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in ARRAYS if key in file}
    except (zipfile.BadZipFile, ValueError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"`data` must be an .npz file of arrays; could not read {path}: {error}") from None
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"`data` must hold {', '.join(ARRAYS)}; {path} lacks {', '.join(missing)}")
    return _dataset(path.stem, *(arrays[key] for key in ARRAYS))


def _find(path: Path, folder: str | os.PathLike[str] | None) -> Path:
    home = folder if folder is not None else os.environ.get("RMTLAND_DATA")
    candidates = [path]
    if home is not None:
        candidates += [Path(home) / path, Path(home) / f"{path}.npz"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    hint = "" if home is not None else " (set RMTLAND_DATA to the folder of your .npz files to use their names)"
    raise FileNotFoundError(f"`data` must be digits or an .npz file; found none at {path}{hint}")


def _dataset(name: str, x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> Dataset:
    train, test = np.asarray(x_train, dtype=np.float64), np.asarray(x_test, dtype=np.float64)
    for part, x, y in (("train", train, y_train), ("test", test, y_test)):
        if y.ndim == 2 and y.shape[1] == 1:  # a column, as some collections store labels
            y = y[:, 0]
        if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
            raise ValueError(
                f"`x_{part}` and `y_{part}` must have shapes (n, ...) and (n,); got {x.shape} and {y.shape}"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"`x_{part}` must be finite; got NaN or infinite entries")
        if not np.issubdtype(y.dtype, np.integer) or y.min(initial=0) < 0:
            raise ValueError(f"`y_{part}` must hold class labels 0, 1, ...; got {y.dtype} down to {y.min(initial=0)}")
    if len(train) == 0:
        raise ValueError("`x_train` must hold at least one example; got none")
    mean, deviation = train.mean(), train.std() or 1.0
    labels = [np.asarray(y, dtype=np.int64).reshape(-1) for y in (y_train, y_test)]
    return Dataset(name, (train - mean) / deviation, labels[0], (test - mean) / deviation, labels[1])

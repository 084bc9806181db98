"""Data sets for training and certification: digits, mnist, and npz files.

Inputs are float64 and exactly what is stored: nothing is rounded, centred or rescaled on the way.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike, NDArray

from equicert.errors import DataError, nearest
from equicert.mnist import read_mnist

Domain: TypeAlias = tuple[float, float] | tuple[NDArray[np.float64], NDArray[np.float64]] | None

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_LARGEST_EXACT = 2**53  # every integer up to this magnitude is a float64


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A training and a test split, validated, and the domain that inputs live in.

    Example: `DataSet("toy", x_train, y_train, x_test, y_test, domain=(0.0, 1.0))`.

    Inputs may be given as floats or integers of any size that float64 holds exactly, samples of
    any shape (flattened to r coordinates); labels as integers >= 0. Arrays that already have the
    right type are kept, not copied: do not write into them afterwards.

    Raises:
        DataError: see the message; empty or ill-shaped arrays, other types, NaN or infinity,
            negative labels, an inverted domain, a point outside its domain.
    """

    name: str
    x_train: NDArray[np.float64]  # (N_train, r)
    y_train: NDArray[np.int64]  # (N_train,)
    x_test: NDArray[np.float64]  # (N_test, r)
    y_test: NDArray[np.int64]  # (N_test,)
    domain: Domain = None  # two numbers, or two vectors (r,)

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x = _points(f"x_{split}", getattr(self, f"x_{split}"))
            y = _labels(f"y_{split}", getattr(self, f"y_{split}"))
            if len(x) != len(y):
                raise DataError(
                    f"x_{split} holds {len(x)} samples and y_{split} {len(y)} labels; store one"
                    " label for each sample"
                )
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
        if self.x_train.shape[1] != self.x_test.shape[1]:
            raise DataError(
                f"x_train has {self.x_train.shape[1]} inputs a sample and x_test"
                f" {self.x_test.shape[1]}; store both alike"
            )
        if self.domain is not None:
            lo, hi = _domain(self.domain, self.inputs)
            for key in ("x_train", "x_test"):
                _require_inside(key, getattr(self, key), lo, hi)
            domain = (lo, hi) if lo.ndim or hi.ndim else (float(lo), float(hi))
            object.__setattr__(self, "domain", domain)

    def __repr__(self) -> str:
        return (
            f"DataSet({self.name!r}, train={len(self.x_train)}, test={len(self.x_test)},"
            f" inputs={self.inputs}, classes={self.classes})"
        )

    @property
    def inputs(self) -> int:
        """Dimension r of the inputs."""
        return self.x_train.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes: the largest label plus one."""
        return 1 + max(int(self.y_train.max()), int(self.y_test.max()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over names, types, shapes and bytes of the four arrays.

        The domain is no part of it: results state theirs beside the digest.
        """
        digest = hashlib.sha256()
        for key in _ARRAYS:
            array = getattr(self, key)
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data.cast("B"))
        return digest.hexdigest()


def load_data(
    spec: str | Path,
    data_dir: str | Path | None = None,
    download: bool = True,
    progress: bool = False,
) -> DataSet:
    """The data set that `spec` names: `digits`, `mnist`, or the path of an npz file.

    Args:
        spec: `digits` (scikit-learn's, 8x8), `mnist`, or a path ending in .npz.
        data_dir: where MNIST is looked up first; see `equicert.mnist.read_mnist`.
        download: whether MNIST may be downloaded where it is not found.
        progress: show the progress of a download.

    Raises:
        DataError: an unknown name, or data that are missing, damaged or inconsistent.
    """
    spec = str(spec)
    if spec == "digits":
        return _digits()
    if spec == "mnist":
        return _mnist(None if data_dir is None else Path(data_dir), download, progress)
    if spec.lower().endswith(".npz"):
        return _npz(Path(spec))
    known = ("digits", "mnist", "FILE.npz")
    raise DataError(f"unknown data set '{spec}'{nearest(spec, known)}")


def _digits() -> DataSet:
    # Imported late: it takes a second, and only this data set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)  # integers 0..16 in float64
    splits: list[Any] = train_test_split(
        pixels / 16.0, labels, test_size=0.2, stratify=labels, random_state=0
    )
    x_train, x_test, y_train, y_test = splits
    return DataSet("digits", x_train, y_train, x_test, y_test, domain=(0.0, 1.0))


def _mnist(data_dir: Path | None, download: bool, progress: bool) -> DataSet:
    x_train, y_train, x_test, y_test = read_mnist(data_dir, download, progress)
    grey = np.arange(256) / 255.0  # division rounds correctly: the float64 nearest k/255
    return DataSet(
        "mnist",
        grey[x_train],
        y_train.astype(np.int64),
        grey[x_test],
        y_test.astype(np.int64),
        domain=(0.0, 1.0),
    )


def _npz(path: Path) -> DataSet:
    arrays = _read_npz(path)
    domain = arrays.pop("domain", None)
    if domain is not None and (domain.ndim not in (1, 2) or len(domain) != 2):
        raise DataError(
            f"{path}: domain has shape {domain.shape}; store 2 numbers or an array 2 x r"
        )
    try:
        return DataSet(path.name, **arrays, domain=None if domain is None else tuple(domain))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a data npz by name: exactly the four, and perhaps `domain`."""
    try:
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
            _check_keys(path, archive.files)
            return {key: np.asarray(archive[key]) for key in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path of the data file") from error
    except DataError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as an npz file: {reason}; if it is damaged or truncated, write"
            " it again with numpy.savez, plain numeric arrays only"
        ) from error


# What numpy, zipfile and zlib raise on damaged, encrypted or pickled members and absurd sizes.
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, OverflowError)
_UNREADABLE += (zipfile.BadZipFile, zlib.error)


def _check_keys(path: Path, keys: list[str]) -> None:
    known = (*_ARRAYS, "domain")
    for key in keys:
        if key not in known:
            raise DataError(f"{path}: unknown key {key!r}{nearest(key, known)}")
    if missing := [key for key in _ARRAYS if key not in keys]:
        raise DataError(
            f"{path} lacks {', '.join(missing)} (it holds {', '.join(keys) or 'nothing'}); add what"
            " is missing"
        )


def _exact(key: str, values: ArrayLike) -> NDArray[np.float64]:
    """The very same numbers in float64, or an error."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise DataError(
            f"{key} has dtype {array.dtype}; store float64, float32 or integers, which are taken"
            " exactly"
        )
    if array.dtype.kind in "iu" and array.size:
        worst = max(int(array.max()), int(array.min()), key=abs)
        if abs(worst) > _LARGEST_EXACT:
            raise DataError(
                f"{key} holds {worst}, beyond the integers up to 2^53 that float64 keeps exactly;"
                " rescale it"
            )
    return np.ascontiguousarray(array, np.float64).reshape(array.shape)


def _points(key: str, values: ArrayLike) -> NDArray[np.float64]:  # (N, r)
    x = _exact(key, values)
    if x.ndim < 2:
        raise DataError(f"{key} has shape {x.shape}; store (samples, inputs)")
    if x.size == 0:
        raise DataError(f"{key} is empty, its shape is {x.shape}; store at least one sample")
    x = x.reshape(len(x), -1)
    if not (finite := np.isfinite(x)).all():
        row, entry = _first(~finite)
        raise DataError(
            f"{key}[{row}, {entry}] is {x[row, entry]}; every input must be finite: mend or remove"
            " the sample"
        )
    return x


def _labels(key: str, values: ArrayLike) -> NDArray[np.int64]:  # (N,)
    y = np.asarray(values)
    if y.ndim != 1:
        raise DataError(f"{key} has shape {y.shape}; store one integer a sample, shape (samples,)")
    if y.size == 0:
        raise DataError(f"{key} is empty; store at least one sample")
    if y.dtype.kind not in "iu":
        raise DataError(f"{key} has dtype {y.dtype}; labels must be integers >= 0")
    bad = (y < 0) | (y > np.iinfo(np.int64).max)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{key}[{row}] is {y[row]}; labels must be integers >= 0, below 2^63")
    return np.ascontiguousarray(y, np.int64)


def _domain(
    pair: tuple[ArrayLike, ArrayLike],
    inputs: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # each () or (r,)
    if len(pair) != 2:
        raise DataError(f"a domain is a pair (lower, upper), got {len(pair)} values")
    lo, hi = (_exact("domain", end) for end in pair)
    if lo.shape not in ((), (inputs,)) or hi.shape not in ((), (inputs,)):
        raise DataError(
            f"domain has bounds of shapes {lo.shape} and {hi.shape}; store 2 numbers or an array 2"
            f" x {inputs}"
        )
    wide_lo, wide_hi = (np.broadcast_to(end, inputs) for end in (lo, hi))
    if not (ordered := wide_lo <= wide_hi).all():  # NaN is not ordered
        entry = int(np.argmin(ordered))
        raise DataError(
            f"domain of input {entry} is [{wide_lo[entry]}, {wide_hi[entry]}], inverted or NaN;"
            " store lower <= upper"
        )
    return lo, hi


def _require_inside(
    key: str,
    x: NDArray[np.float64],  # (N, r)
    lo: NDArray[np.float64],  # () or (r,)
    hi: NDArray[np.float64],  # () or (r,)
) -> None:
    outside = (x < lo) | (x > hi)
    if outside.any():
        row, entry = _first(outside)
        low, high = (np.broadcast_to(end, x.shape[1])[entry] for end in (lo, hi))
        raise DataError(
            f"{key}[{row}, {entry}] is {x[row, entry]}, outside its domain [{low}, {high}]; rescale"
            " the data or give the domain they really have"
        )


def _first(
    bad: NDArray[np.bool_],  # (N, r)
) -> tuple[int, int]:
    """Row and entry of the first True."""
    row, entry = np.unravel_index(np.argmax(bad), bad.shape)
    return int(row), int(entry)

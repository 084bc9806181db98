"""The data set itself, to compare the inputs with: MNIST's test files, or an npz file."""

from __future__ import annotations

import gzip
import math
import os
import struct
from array import array
from collections.abc import Generator
from pathlib import Path
from typing import IO, TypeAlias

from equicert.checker.files import (
    DAMAGE,
    Npy,
    UnreadableError,
    one_line,
    open_npy,
    open_npz,
    regular,
)

_IMAGES, _LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
_PIXELS = array("d", (k / 255 for k in range(256)))  # division rounds to the nearest float64
_ARRAY_BYTES, _LABEL_BYTES = 1 << 31, 1 << 24

Sample: TypeAlias = "tuple[array[float], int]"
Samples: TypeAlias = "Generator[Sample, None, None]"


def read_samples(spec: str, r: int) -> Samples:
    """The test samples and labels of a data set, in order.

    Args:
        spec: `mnist` (in $EQUICERT_DATA_DIR/mnist), a folder with MNIST's test images and labels,
            gzip or not, or a data set's .npz file with `x_test` and `y_test`.
        r: the number of inputs.

    Raises:
        UnreadableError: the data are not there, damaged, or of another size.
    """
    if spec == "digits":
        raise UnreadableError(
            "digits lie in a file of scikit-learn's, which is not read here: write them to an npz"
            " file with x_test and y_test, or leave --data out"
        )
    if spec.lower().endswith(".npz"):
        return _npz(Path(spec), r)
    folder = Path(os.environ.get("EQUICERT_DATA_DIR", "."), "mnist") if spec == "mnist" else spec
    return _mnist(Path(folder), r)


def _mnist(folder: Path, r: int) -> Samples:
    images, labels = _find(folder, _IMAGES), _find(folder, _LABELS)
    try:
        with _open(images) as x, _open(labels) as y:
            magic, count, *sides = struct.unpack(">IIII", x.read(16))
            if magic != 0x803 or math.prod(sides) != r:
                raise UnreadableError(f"{images} holds no images of {r} pixels")
            if struct.unpack(">II", y.read(8)) != (0x801, count):
                raise UnreadableError(f"{labels} does not hold {count} labels")
            for _ in range(count):
                pixels, label = x.read(r), y.read(1)
                if len(pixels) != r or not label:
                    raise EOFError("the file is cut short")
                yield array("d", map(_PIXELS.__getitem__, pixels)), label[0]
    except DAMAGE as error:
        raise UnreadableError(f"{folder}: MNIST cannot be read: {one_line(error)}") from error


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UnreadableError(
        f"{folder} does not hold {name}.gz; --data takes a folder with MNIST's test files, or an"
        " npz file"
    )


def _open(path: Path) -> IO[bytes]:
    regular(path)
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _npz(path: Path, r: int) -> Samples:
    with open_npz(path) as archive:
        with open_npy(archive, "y_test", _LABEL_BYTES) as npy:
            labels = _labels(npy)
        with open_npy(archive, "x_test", _ARRAY_BYTES) as npy:
            if npy.fortran or len(npy.shape) < 2 or npy.shape[0] != len(labels):
                raise ValueError(f"x_test must hold {len(labels)} samples in C order")
            if math.prod(npy.shape[1:]) != r:
                raise ValueError(f"x_test has shape {npy.shape}, where {r} inputs are needed")
            for label in labels:
                yield npy.floats(r), label


def _labels(npy: Npy) -> list[int]:
    if len(npy.shape) != 1 or npy.kind not in "iu":
        raise ValueError("y_test must be a vector of integers")
    return [int(label) for label in npy.floats(npy.shape[0])]

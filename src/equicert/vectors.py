"""Vectors from the command line: numbers in a file, or written out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equicert.errors import InputError


def read_rows(
    source: str,
    name: str,
) -> NDArray[np.float64]:  # (batch, r)
    """Rows of numbers from `.npy`, `.json`, `.csv` or `.txt`, or from text such as '0.1,0.2'.

    A text file has a row a line, separated by commas or white space; decimal numbers become the
    nearest float64, and that number is what is meant from then on.

    Raises:
        InputError: no such file, not numbers, rows of different lengths, NaN or infinity.
    """
    path = Path(source)
    try:
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            rows = np.array(json.loads(path.read_text("utf-8")))
        elif path.suffix in (".csv", ".txt"):
            rows = _parse(path.read_text("utf-8"))
        else:
            rows = _parse(source)
    except OSError as error:
        raise InputError(f"cannot read {name} from {source}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{name} '{_short(source)}' is neither numbers nor a readable .npy, .json, .csv or .txt"
            f" file of them ({_short(str(error))})"
        ) from error
    if rows.dtype.kind not in "fiu" or rows.ndim > 2 or not rows.size:
        raise InputError(
            f"{name} must be one row or a table of real numbers, got {rows.dtype} of shape"
            f" {rows.shape} from '{_short(source)}'"
        )
    rows = np.atleast_2d(rows.astype(np.float64))
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
        raise InputError(f"{name} has a NaN or infinite entry in row {row}, column {column}")
    return rows


def _parse(text: str) -> NDArray[np.float64]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return np.array([[float(word) for word in line.replace(",", " ").split()] for line in lines])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."

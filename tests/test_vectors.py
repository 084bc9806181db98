"""Numbers from the command line: every form that is accepted gives the same exact rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equicert.errors import InputError
from equicert.vectors import read_rows

ROWS = np.array([[0.1, -2.5e-300, 3.0], [1e300, 0.0, 7.25]])


def test_every_form_gives_the_same_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "a.json").write_text(json.dumps(ROWS.tolist()))
    lines = [[repr(float(v)) for v in row] for row in ROWS]
    (tmp_path / "a.csv").write_text("# lower ends\n" + "\n".join(map(",".join, lines)) + "\n")
    (tmp_path / "a.txt").write_text("\n".join(map(" ".join, lines)))
    for kind in ("npy", "json", "csv", "txt"):
        assert np.array_equal(read_rows(str(tmp_path / f"a.{kind}"), "lower"), ROWS)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_numbers_written_out_are_exact(values: list[float]) -> None:
    text = ",".join(map(repr, values))
    assert read_rows(text, "eps").tolist() == [values]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0.1,abc", "abc"),
        ("", "one row or a table"),
        ("0.1,nan", "NaN or infinite entry in row 0, column 1"),
        ("inf", "NaN or infinite"),
        ("none.npy", "none.npy"),
        ("none.csv", "none.csv"),
    ],
)
def test_what_is_no_vector(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_rows(text, "lower")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError):
            read_rows(str(path), "lower")

"""Data sets: what is stored is what is used, exactly; what cannot be used is named."""

import dataclasses
import io
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from equicert.data import DataSet, load_data
from equicert.errors import DataError

Arrays = dict[str, Any]


def toy() -> Arrays:
    """Three samples for training and two for testing, of two inputs in [0, 1]."""
    return {
        "x_train": np.array([[0.0, 0.25], [0.5, 0.75], [1.0, 0.125]]),
        "y_train": np.array([0, 1, 1]),
        "x_test": np.array([[0.1, 0.2], [0.3, 0.4]]),
        "y_test": np.array([1, 2]),
    }


def load(path: Path, arrays: Arrays) -> DataSet:
    np.savez(path, **arrays)
    return load_data(str(path))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_data(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- the embedded and the downloaded set ---------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits")


def test_digits_are_split_without_loss(digits: DataSet) -> None:
    pixels, labels = load_digits(return_X_y=True)
    both = np.concatenate([digits.x_train, digits.x_test]) * 16  # exact: a power of two
    rows = [tuple(row) for row in np.column_stack([both, [*digits.y_train, *digits.y_test]])]
    assert Counter(rows) == Counter(tuple(row) for row in np.column_stack([pixels, labels]))


def test_digits_split_is_stratified(digits: DataSet) -> None:
    train, test = (np.bincount(y, minlength=10) for y in (digits.y_train, digits.y_test))
    assert digits.classes == 10
    assert np.all(np.abs(test - (train + test) / 5) <= 1)


def test_digits_are_the_same_every_time(digits: DataSet) -> None:
    assert load_data("digits").digest == digits.digest


def test_digits_live_in_the_unit_cube(digits: DataSet) -> None:
    assert digits.domain == (0.0, 1.0)
    assert digits.inputs == 64
    assert digits.x_train.min() == 0
    assert digits.x_train.max() == 1


def test_mnist_pixels_are_nearest_to_k_over_255(mnist_dir: Path) -> None:
    data = load_data("mnist", mnist_dir, download=False)
    assert (data.name, data.domain, data.inputs, data.classes) == ("mnist", (0.0, 1.0), 784, 10)
    assert (data.x_train.shape, data.x_test.shape) == ((60000, 784), (10000, 784))
    values = np.unique(data.x_train)
    assert len(values) == 256
    for k, value in enumerate(values):
        neighbours = (value, np.nextafter(value, -1), np.nextafter(value, 2))
        distances = [abs(Fraction(float(v)) - Fraction(k, 255)) for v in neighbours]
        assert distances[0] == min(distances)


# --- npz files: exactly what is stored -----------------------------------------------------------

EXACT_TYPES = ["f2", "f4", "f8", ">f4", ">f8", "u1", "i1", "u2", "i2", "u4", "i4", ">i4"]


def numbers(dtype: str) -> st.SearchStrategy[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return hnp.from_dtype(kind, allow_nan=False, allow_infinity=False)
    return hnp.from_dtype(kind)


@given(data=st.data(), dtype=st.sampled_from(EXACT_TYPES))
def test_stored_numbers_are_taken_exactly(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=4))
    stored = data.draw(hnp.arrays(dtype, shape, elements=numbers(dtype)))
    labels: Any = np.zeros(len(stored), np.uint8)
    used = DataSet("drawn", stored, labels, stored, labels)
    assert used.x_test.dtype == np.float64
    assert used.x_test.shape == (len(stored), used.inputs)
    for before, after in zip(stored.flat, used.x_train.flat, strict=True):
        assert Fraction(before.item()) == Fraction(float(after))


@pytest.mark.parametrize("dtype", ["i8", "u8", ">i8"])
def test_long_integers_up_to_two_to_the_53(dtype: str, tmp_path: Path) -> None:
    arrays: Arrays = toy() | {"x_test": np.array([[2**53, 0], [1, 2]], dtype)}
    assert load(tmp_path / "long.npz", arrays).x_test[0, 0] == 2**53
    arrays["x_test"] += 1
    np.savez(tmp_path / "long.npz", **arrays)
    assert str(2**53 + 1) in refusal(tmp_path / "long.npz")


def test_npz_round_trip(tmp_path: Path) -> None:
    data = load(tmp_path / "toy.npz", toy())
    for key, expected in toy().items():
        assert np.array_equal(getattr(data, key), expected)
    assert (data.name, data.inputs, data.classes, data.domain) == ("toy.npz", 2, 3, None)
    assert repr(data) == "DataSet('toy.npz', train=3, test=2, inputs=2, classes=3)"
    np.savez_compressed(tmp_path / "small.npz", **toy())
    assert load_data(tmp_path / "small.npz").digest == data.digest


def test_domain_of_two_numbers(tmp_path: Path) -> None:
    assert load(tmp_path / "a.npz", toy() | {"domain": np.array([0, 1])}).domain == (0.0, 1.0)


def test_domain_of_two_vectors(tmp_path: Path) -> None:
    vectors = np.array([[0.0, -np.inf], [1.0, 0.75]])
    domain = load(tmp_path / "a.npz", toy() | {"domain": vectors}).domain
    assert domain is not None
    assert np.array_equal(np.stack(domain), vectors)


def test_another_domain_is_checked_again() -> None:
    data = DataSet("toy", **toy())
    assert dataclasses.replace(data, domain=(0, 1)).domain == (0.0, 1.0)
    with pytest.raises(DataError, match=r"x_train\[1, 1\] is 0.75, outside its domain \[0.0, 0.7"):
        dataclasses.replace(data, domain=(0, 0.7))
    with pytest.raises(DataError, match="got 3 values"):
        dataclasses.replace(data, domain=(0, 1, 2))


# --- the digest ----------------------------------------------------------------------------------


def test_digest_knows_every_entry() -> None:
    digests = {DataSet("toy", **toy()).digest}
    for key, array in toy().items():
        for place in range(array.size):
            changed = array.copy()
            least = 1 if array.dtype.kind == "i" else np.spacing(changed.flat[place])
            changed.flat[place] += least
            digests.add(DataSet("toy", **(toy() | {key: changed})).digest)
    assert len(digests) == 1 + sum(array.size for array in toy().values())
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)


def test_digest_knows_shapes_and_roles() -> None:
    x, y = np.arange(12.0), np.zeros(6, int)
    sets = [
        DataSet("wide", x.reshape(2, 6), y[:2], x.reshape(2, 6), y[:2]),
        DataSet("tall", x.reshape(6, 2), y, x.reshape(6, 2), y),
        DataSet("early", x[:4].reshape(2, 2), y[:2], x[4:].reshape(4, 2), y[:4]),
        DataSet("late", x[:8].reshape(4, 2), y[:4], x[8:].reshape(2, 2), y[:2]),
    ]
    assert len({data.digest for data in sets}) == len(sets)


def test_digest_is_of_the_numbers_alone() -> None:
    data = DataSet("toy", **toy())
    same: list[Arrays] = [
        {"x_train": np.asfortranarray(toy()["x_train"])},
        {"x_train": toy()["x_train"].astype(np.float32)},  # sums of halves: exact there
        {"x_train": toy()["x_train"].astype(">f8")},
        {"y_train": toy()["y_train"].astype(np.uint8)},
        {"x_test": np.repeat(toy()["x_test"], 2, axis=0)[::2]},
        {"domain": (0.0, 1.0)},
    ]
    for change in same:
        assert DataSet("another name", **(toy() | change)).digest == data.digest
    assert data.digest is data.digest  # computed once


# --- bad input -----------------------------------------------------------------------------------

_X = toy()["x_train"]
_NAN = np.where(np.arange(6).reshape(3, 2) == 3, np.nan, _X)

# What is stored instead, and what the message must say.
BAD_ARRAYS: dict[str, tuple[Arrays, list[str]]] = {
    "nan": ({"x_train": _NAN}, ["x_train[1, 1] is nan", "finite"]),
    "infinite": ({"x_test": [[1, 2], [-np.inf, 4]]}, ["x_test[1, 0] is -inf"]),
    "nan in an image": ({"x_train": _NAN.reshape(3, 2, 1)}, ["x_train[1, 1] is nan"]),
    "no samples": ({"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)}, ["x_test is empty"]),
    "no inputs": ({"x_train": np.zeros((3, 0)), "x_test": np.zeros((2, 0))}, ["x_train is empty"]),
    "no labels": ({"y_train": np.zeros(0, int)}, ["y_train is empty"]),
    "a vector": ({"x_train": np.zeros(3)}, ["x_train has shape (3,)", "(samples, inputs)"]),
    "a number": ({"x_train": np.float64(1)}, ["x_train has shape ()"]),
    "complex": ({"x_train": _X.astype(complex)}, ["x_train has dtype complex128"]),
    "strings": ({"x_test": _X.astype(str)[:2]}, ["x_test has dtype <U32"]),
    "booleans": ({"x_train": _X > 0}, ["x_train has dtype bool"]),
    "dates": ({"x_train": _X.astype("M8[s]")}, ["x_train has dtype datetime64[s]"]),
    "records": ({"x_train": np.zeros((3, 2), "i4,f4")}, ["x_train has dtype"]),
    "negative 2^60": ({"x_train": np.full((3, 2), -(2**60))}, [f"x_train holds {-(2**60)}"]),
    "fewer labels": ({"y_train": [0, 1]}, ["x_train holds 3 samples and y_train 2 labels"]),
    "more labels": ({"y_test": [0, 1, 2]}, ["x_test holds 2 samples and y_test 3 labels"]),
    "other inputs": ({"x_test": np.zeros((2, 5))}, ["x_train has 2 inputs", "x_test 5"]),
    "labels as columns": ({"y_train": [[0], [1], [1]]}, ["y_train has shape (3, 1)"]),
    "one label": ({"y_train": 1}, ["y_train has shape ()"]),
    "fractional labels": ({"y_train": [0.0, 1.0, 1.5]}, ["y_train has dtype float64", "integers"]),
    "boolean labels": ({"y_test": [True, False]}, ["y_test has dtype bool"]),
    "negative label": ({"y_test": [0, -1]}, ["y_test[1] is -1", ">= 0"]),
    "huge label": ({"y_test": np.array([2**63, 0], "u8")}, [f"y_test[0] is {2**63}"]),
    "inverted domain": ({"domain": [1, 0]}, ["domain of input 0 is [1.0, 0.0]", "inverted"]),
    "inverted in one entry": ({"domain": [[0, 2], [1, 1]]}, ["domain of input 1 is [2.0, 1.0]"]),
    "nan domain": ({"domain": [0, np.nan]}, ["domain of input 0 is [0.0, nan]"]),
    "domain of three": ({"domain": [0, 1, 2]}, ["domain has shape (3,)", "2 x r"]),
    "domain of one": ({"domain": 1}, ["domain has shape ()"]),
    "domain of other width": ({"domain": np.zeros((2, 3))}, ["bounds of shapes (3,)", "2 x 2"]),
    "domain of one column": ({"domain": [[0], [1]]}, ["bounds of shapes (1,)"]),
    "domain of images": ({"domain": np.zeros((2, 2, 1))}, ["domain has shape (2, 2, 1)"]),
    "domain of strings": ({"domain": ["0", "1"]}, ["domain has dtype <U1"]),
    "above the domain": (
        {"domain": [0, 0.9]},
        ["x_train[2, 0] is 1.0, outside its domain [0.0, 0.9]"],
    ),
    "below one entry's domain": (
        {"domain": [[0, 0.125], [1, 1]], "x_test": [[0.0, 0.5], [0.0, 0.0]]},
        ["x_test[1, 1] is 0.0, outside its domain [0.125, 1.0]"],
    ),
    "barely outside": ({"domain": [0, np.nextafter(1, 0)]}, ["0.9999999999999999]"]),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_named(case: str, tmp_path: Path) -> None:
    change, parts = BAD_ARRAYS[case]
    np.savez(tmp_path / "bad.npz", **(toy() | change))
    message = refusal(tmp_path / "bad.npz")
    assert all(part in message for part in parts), message


def npz_bytes(arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy_bytes(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_member(name: str, content: bytes) -> bytes:
    """A good npz with the bytes of one member replaced."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for key, array in toy().items():
            archive.writestr(f"{key}.npy", content if key == name else npy_bytes(array))
    return stream.getvalue()


def claiming(shape: bytes) -> bytes:
    """A short npy member whose header claims another shape, of the same length when padded."""
    old, new = b"(3, 2), }".ljust(40), shape.ljust(37) + b", }"
    assert old in npy_bytes(_X)
    return npy_bytes(_X).replace(old, new)


BAD_CONTENTS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["cannot be read as an npz file"]),
    "text": (b"x_train, y_train\n", ["cannot be read as an npz file", "not a zip file"]),
    "truncated": (npz_bytes(toy())[:-40], ["cannot be read as an npz file", "truncated"]),
    "an npy file": (npy_bytes(np.zeros((3, 2))), ["not a zip file", "numpy.savez"]),
    "a pickle": (pickle.dumps(toy()), ["not a zip file"]),
    "an empty zip": (npz_bytes({}), ["lacks x_train, y_train, x_test, y_test", "nothing"]),
    "objects": (npz_bytes(toy() | {"x_train": np.array([[None]])}), ["Object arrays", "plain"]),
    "no npy member": (with_member("x_train", b"hello"), ["x_train has dtype |S5"]),
    "cut npy member": (with_member("x_train", npy_bytes(_X)[:-9]), ["cannot be read"]),
    "absurd size": (with_member("x_train", claiming(b"(300000000000, 2)")), ["cannot be read"]),
    "endless size": (with_member("x_train", claiming(b"(10000000000000000000000, 2)")), ["npz"]),
    "a missing key": (npz_bytes({"x_train": _X}), ["lacks y_train, x_test, y_test", "x_train"]),
    "a misspelt key": (
        npz_bytes({("x_tset" if key == "x_test" else key): a for key, a in toy().items()}),
        ["unknown key 'x_tset'", "did you mean 'x_test'"],
    ),
    "an extra key": (npz_bytes(toy() | {"domains": [0, 1]}), ["'domains'", "mean 'domain'"]),
    "a strange key": (npz_bytes(toy() | {"a\nb": [0, 1]}), ["unknown key 'a\\nb'"]),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_bad_files_are_named(case: str, tmp_path: Path) -> None:
    content, parts = BAD_CONTENTS[case]
    (tmp_path / "bad.npz").write_bytes(content)
    message = refusal(tmp_path / "bad.npz")
    assert all(part in message for part in parts), message


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.npz")
    assert "does not exist" in refusal(tmp_path / "none" / "none.npz")


def test_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.npz")


class Trap:
    """A pickled object that would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    trap = np.array([[Trap(tmp_path / "sprung")]], dtype=object)
    arrays: Arrays = toy() | {"x_test": trap}
    np.savez(tmp_path / "trap.npz", **arrays)
    refusal(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()
    np.load(tmp_path / "trap.npz", allow_pickle=True)["x_test"]
    assert (tmp_path / "sprung").exists()  # the trap works where pickles are allowed


def test_no_cut_file_is_read(tmp_path: Path) -> None:
    content = npz_bytes(toy())
    for length in range(len(content)):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        refusal(tmp_path / "cut.npz")


@pytest.mark.parametrize(("save", "flip"), [(np.savez, 0x01), (np.savez_compressed, 0xFF)])
def test_no_flipped_byte_gives_other_numbers(
    save: Callable[..., None], flip: int, tmp_path: Path
) -> None:
    path = tmp_path / "flipped.npz"
    save(path, **toy())
    content = path.read_bytes()
    expected, refused = DataSet("toy", **toy()).digest, 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        try:
            assert load_data(path).digest == expected
        except DataError:
            refused += 1
    assert refused > len(content) // 2


@pytest.mark.parametrize(
    ("spec", "meant"),
    [("minst", "mnist"), ("digit", "digits"), ("MNIST", ""), ("", ""), ("data.npy", "")],
)
def test_unknown_name_is_answered_with_the_nearest(spec: str, meant: str) -> None:
    with pytest.raises(DataError) as error:
        load_data(spec)
    message = str(error.value)
    assert f"unknown data set '{spec}'" in message
    assert f"did you mean '{meant}'" in message or not meant
    assert "digits" in message
    assert "mnist" in message
    assert ".npz" in message

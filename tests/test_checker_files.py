"""Hostile, damaged and huge files: one line and a status, bounded memory, never `valid`."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equicert.checker import NotValidError, UnreadableError, check_folder, main
from equicert.checker.model import read_model
from networks import CONTRACTING
from proofs import MAGIC, Folder, Proof, framed, prove, random_proofs

MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Files:
    """The bytes of good files by name, and a place to write changed ones."""

    root: Path
    good: dict[str, bytes]
    records: int

    @property
    def paths(self) -> tuple[Path, Path]:
        return self.root / "proofs", self.root / "model.safetensors"

    def path(self, name: str) -> Path:
        return self.root / name if name.startswith("model") else self.root / "proofs" / name

    def status(self, name: str, raw: bytes) -> int:
        """The exit status with one file changed; the file is put back."""
        self.path(name).write_bytes(raw)
        model = self.path(name) if name.startswith("model") else self.paths[1]
        try:
            return main([str(self.paths[0]), "--model", str(model)])
        finally:
            self.path(name).write_bytes(self.good[name])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("files")
    folder, holds = random_proofs("relu", (0.0, 1.0))
    folder.write(root)
    np.savez(root / "model.npz", **folder.arrays, activation="relu")  # type: ignore[arg-type]
    paths = [*(root / "proofs").iterdir(), root / "model.npz", root / "model.safetensors"]
    return Files(root, {path.name: path.read_bytes() for path in paths}, sum(holds))


NAMES = ["certificates.json", "certificates.bin", "inputs.npz", "model.npz", "model.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_good_files_are_valid(name: str, files: Files) -> None:
    assert files.status(name, files.good[name]) == 0


@pytest.mark.parametrize("name", [n for n in NAMES if n != "certificates.bin"])
def test_a_file_cut_anywhere_is_refused(
    name: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = files.good[name]
    for length in range(0, len(raw), 1 if len(raw) < 1500 else 3):
        assert files.status(name, raw[:length]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert not said.out


def test_records_cut_anywhere_lose_the_last_one_only(files: Files) -> None:
    raw = files.good["certificates.bin"]
    each = (len(raw) - len(MAGIC)) // files.records
    path = files.path("certificates.bin")
    try:
        for length in range(len(raw)):
            path.write_bytes(raw[:length])
            if length < len(MAGIC):
                with pytest.raises(UnreadableError):
                    check_folder(*files.paths)
            else:
                report = check_folder(*files.paths)
                assert report.certificates == (length - len(MAGIC)) // each
                assert report.dropped == bool((length - len(MAGIC)) % each)
    finally:
        path.write_bytes(raw)


def test_a_flipped_bit_in_a_record_is_never_silent(files: Files) -> None:
    raw = files.good["certificates.bin"]
    each = (len(raw) - len(MAGIC)) // files.records
    for begin in (0, len(MAGIC), len(raw) - each):  # the magic, the first and the last record
        for bit in range(8 * begin, 8 * min(begin + each, len(raw)), 5):
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << bit % 8
            assert files.status("certificates.bin", bytes(changed)) == 2


@MANY
@given(name=st.sampled_from(NAMES), data=st.data())
def test_random_damage_never_crashes(name: str, files: Files, data: st.DataObject) -> None:
    changed = bytearray(files.good[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    status = files.status(name, bytes(changed))
    assert status in (0, 1, 2)
    if status == 0 and bytes(changed) != files.good[name]:  # times and names that mean nothing
        if name == "certificates.bin":  # damage within a last record that is cut short
            each = (len(files.good[name]) - len(MAGIC)) // files.records
            whole = len(changed) - (len(changed) - len(MAGIC)) % each
            assert whole < len(changed)
            assert changed[:whole] == files.good[name][:whole]
        if name.startswith("model"):
            files.path(name).write_bytes(changed)
            digest = read_model(files.path(name)).digest
            files.path(name).write_bytes(files.good[name])
            assert digest == read_model(files.paths[1]).digest


@MANY
@given(name=st.sampled_from(NAMES), raw=st.binary(min_size=12, max_size=300))
def test_random_bytes_are_refused(name: str, files: Files, raw: bytes) -> None:
    prefix = {"certificates.bin": MAGIC, "inputs.npz": b"PK\3\4", "model.npz": b"PK\3\4"}
    assert files.status(name, prefix.get(name, b"") + b"\0" + raw) == 2


# JSON


def _claim(files: Files, **changes: object) -> bytes:
    return json.dumps(json.loads(files.good["certificates.json"]) | changes).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"{", b'{"n": 4,', 1),
        lambda raw: raw.replace(b'"n": 4', b'"n": NaN'),
        lambda raw: raw.replace(b'"n": 4', b'"n": 4e0'),
        lambda raw: raw.replace(b'"n": 4', b'"n": true'),
        lambda raw: raw.replace(b'"n": 4', b'"n": -Infinity'),
        lambda raw: raw.replace(b'"n": 4', b'"n": ' + b"9" * 5000),
        lambda raw: raw.replace(b'"n": 4', b'"n": ' + b"[" * 50_000),
        lambda raw: raw.replace(b'"n": 4', b'"n": ' + b'{"a":' * 10_000),
        lambda raw: raw.replace(b'"n": 4', b'"n": "\xff"'),
        lambda raw: raw.decode().encode("utf-16"),
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw + b" " * 1_000_000,
        lambda raw: b"[" + raw + b"]",
        lambda _: b"",
        lambda _: b"null",
    ],
)
def test_json_that_is_not_plain(change: Callable[[bytes], bytes], files: Files) -> None:
    assert files.status("certificates.json", change(files.good["certificates.json"])) in (1, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eta", ["0x1.0000000000000p+0"] * 3),
        ("eta", ["0x1.0000000000000p+0"] * 3 + ["0x1p+0"]),
        ("eta", ["0x1.0000000000000p+0"] * 3 + ["nan"]),
        ("eta", ["0x1.0000000000000p+0"] * 3 + ["inf"]),
        ("eta", ["0x1.0000000000000p+0"] * 3 + ["0x1p99999"]),
        ("eta", ["0x1.0000000000000p+0"] * 3 + [1.0]),
        ("eta", {"0": 1}),
        ("domain", [0, 1]),
        ("domain", [["nan"], ["nan"]]),
        ("domain", [["0x0.0p+0"] * 3, ["0x1.0000000000000p+0"]]),
        ("domain", [["0x0.0p+0"]]),
        ("domain", "all"),
        ("inputs", {"count": 8}),
        ("inputs", {"count": -1, "sha256": ""}),
        ("inputs", {"count": True, "sha256": ""}),
        ("inputs", {"count": 1 << 60, "sha256": ""}),
        ("inputs", {"count": 7, "sha256": ""}),
        ("data", None),
        ("format", "equicert-certificates-1"),
        ("eta", None),
        ("monotone", []),
        ("monotone", {"Lambda": [], "m": "0x1.0000000000000p+0", "norm": "0x0.0p+0"}),
        ("extra", 1),
    ],
)
def test_a_claim_not_of_the_format(key: str, value: object, files: Files) -> None:
    assert files.status("certificates.json", _claim(files, **{key: value})) in (1, 2)


# safetensors


def _header(files: Files) -> dict[str, dict[str, object]]:
    raw = files.good["model.safetensors"]
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def _tensors(files: Files, header: object, tail: bytes = b"") -> bytes:
    raw = files.good["model.safetensors"]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    return len(text).to_bytes(8, "little") + text + data + tail


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["W"].update(data_offsets=h["U"]["data_offsets"]),
        lambda h: h["W"].update(data_offsets=[0, 1 << 40]),
        lambda h: h["W"].update(data_offsets=[8, 0]),
        lambda h: h["W"].update(data_offsets=[True, 128]),
        lambda h: h["W"].update(data_offsets=[0.0, 128.0]),
        lambda h: h["W"].update(shape=[1 << 62, 1 << 62]),
        lambda h: h["W"].update(shape=[-4, -4]),
        lambda h: h["W"].update(shape=[16]),
        lambda h: h["W"].update(shape=[2, 8]),
        lambda h: h["W"].update(shape=[4, 4, 1]),
        lambda h: h["W"].update(shape=None),
        lambda h: h["W"].update(dtype="F16"),
        lambda h: h["W"].update(dtype=["F64"]),
        lambda h: h["W"].update(dtype="I64"),
        lambda h: h.update(W=7),
        lambda h: h.update(V=h["W"]),
        lambda h: h.pop("W"),
        lambda h: h.pop("__metadata__"),
        lambda h: h.update(__metadata__={"format": 1}),
        lambda h: h.update(__metadata__=[]),
        lambda h: h["__metadata__"].update(structure="convolution"),
        lambda h: h["__metadata__"].update(activation="gelu"),
        lambda h: h["__metadata__"].update(activation="tanh"),
        lambda h: h["__metadata__"].update(digest="0" * 64),
        lambda h: h["__metadata__"].pop("activation"),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[object], object], files: Files) -> None:
    header = _header(files)
    change(header)
    assert files.status("model.safetensors", _tensors(files, header)) == 2


def test_safetensors_of_odd_lengths(files: Files) -> None:
    header = _header(files)
    assert files.status("model.safetensors", _tensors(files, header, b"\0" * 8)) == 2
    raw = files.good["model.safetensors"]
    for length in (0, 1 << 20, (1 << 64) - 1):
        assert files.status("model.safetensors", length.to_bytes(8, "little") + raw[8:]) == 2
    repeated = json.dumps(header).encode().replace(b"{", b'{"W": 1,', 1)
    assert files.status("model.safetensors", _tensors(files, repeated)) == 2


# npz


def _npz(arrays: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, raw in arrays.items():
            archive.writestr(name, raw)
    return stream.getvalue()


def _npy(shape: str, raw: bytes = b"", descr: str = "<f8", rest: str = "") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}{rest}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + raw


def _objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _encrypted(raw: bytes) -> bytes:
    at = raw.index(b"PK\1\2")
    return raw[: at + 8] + b"\1" + raw[at + 9 :]


X = np.zeros(16).tobytes()
HOSTILE_NPZ = {
    "objects": lambda: _npz({"x.npy": _objects()}),
    "a pickle": lambda: _npz({"x.npy": pickle.dumps([0.0])}),
    "too short": lambda: _npz({"x.npy": _npy("(8, 2)", X[:-1])}),
    "too long": lambda: _npz({"x.npy": _npy("(8, 2)", X + b"\0")}),
    "huge shape": lambda: _npz({"x.npy": _npy("(999999999999999999, 2)", X)}),
    "many digits": lambda: _npz({"x.npy": _npy(f"({'9' * 5000}, 2)", X)}),
    "negative shape": lambda: _npz({"x.npy": _npy("(-8, -2)", X)}),
    "code for a shape": lambda: _npz({"x.npy": _npy("(__import__('os'), 2)", X)}),
    "many dimensions": lambda: _npz({"x.npy": _npy("(8, 2" + ", 1" * 60 + ")", X)}),
    "another type": lambda: _npz({"x.npy": _npy("(8, 2)", X, "<i8")}),
    "complex": lambda: _npz({"x.npy": _npy("(8, 2)", X + X, "<c16")}),
    "half": lambda: _npz({"x.npy": _npy("(8, 2)", X[: len(X) // 4], "<f2")}),
    "big-endian": lambda: _npz({"x.npy": _npy("(8, 2)", X, ">f8")}),
    "long header": lambda: _npz({"x.npy": _npy("(8, 2)", X, rest=" " * 60_000)}),
    "another array": lambda: _npz({"x.npy": _npy("(8, 2)", X), "y.npy": _npy("(8, 2)", X)}),
    "a folder": lambda: _npz({"x.npy/": b""}),
    "no array": lambda: _npz({}),
    "lzma": lambda: _npz({"x.npy": _npy("(8, 2)", X)}, zipfile.ZIP_LZMA),
    "bzip2": lambda: _npz({"x.npy": _npy("(8, 2)", X)}, zipfile.ZIP_BZIP2),
    "encrypted": lambda: _encrypted(_npz({"x.npy": _npy("(8, 2)", X)})),
    "many entries": lambda: _npz({f"{k}.npy": b"" for k in range(2000)}),
    "a comment at its end": lambda: _npz({"x.npy": _npy("(8, 2)", X)}) + b"comment",
    "empty": lambda: b"",
}


@pytest.mark.parametrize("name", HOSTILE_NPZ)
@pytest.mark.parametrize("where", ["inputs.npz", "model.npz"])
def test_hostile_npz(name: str, where: str, files: Files) -> None:
    assert files.status(where, HOSTILE_NPZ[name]()) == 2


def test_two_arrays_of_one_name(files: Files) -> None:
    stream = io.BytesIO()
    good = zipfile.ZipFile(io.BytesIO(files.good["inputs.npz"])).read("x.npy")
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", _npy("(8, 2)", X))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", good)
    assert files.status("inputs.npz", stream.getvalue()) == 2


@contextmanager
def _memory(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_decompression_bombs_take_no_memory(files: Files) -> None:
    zeros = b"\0" * (200 << 20)
    bomb = _npz({"x.npy": _npy("(8, 2)", zeros)})
    large = _npz({"x.npy": _npy(f"({len(zeros) // 16}, 2)", zeros)})
    model = _npz({"W.npy": _npy(f"({len(zeros) // 8},)", zeros)})
    text = _npz({"activation.npy": _npy("()", zeros, "<U9999")})
    lying = bytearray(large)  # the list of contents says 200 bytes
    at = large.rindex(b"PK\1\2")
    lying[at + 24 : at + 28] = struct.pack("<I", 200)
    with _memory(8 << 20):
        assert files.status("inputs.npz", bomb) == 2
        assert files.status("inputs.npz", large) == 2
        assert files.status("inputs.npz", bytes(lying)) == 2
        assert files.status("model.npz", model) == 2
        assert files.status("model.npz", text) == 2
        head = struct.pack("<II", 0xFFFFFFFF, 0)
        record = head + struct.pack("<I", zlib.crc32(head)) + b"\1\0"
        assert files.status("certificates.bin", MAGIC + record) == 2


# Records


@pytest.mark.parametrize(
    "body",
    [b"", b"\1", b"\1\0" + b"\0" * 100, b"\2\0" + b"\0" * 98, b"\1\2" + b"\0" * 98],
)
def test_records_of_other_lengths_or_kinds(body: bytes, files: Files) -> None:
    assert files.status("certificates.bin", MAGIC + framed(body)) == 2
    assert files.status("certificates.bin", files.good["certificates.bin"] + framed(body)) == 2


def test_records_out_of_order(files: Files) -> None:
    raw = files.good["certificates.bin"]
    assert files.status("certificates.bin", raw + raw[len(MAGIC) :]) == 2


# Numbers at the ends of float64


@pytest.mark.parametrize("name", ["denormal weights", "weights of 1e30", "output of 1e30"])
def test_extreme_weights_are_still_decided_exactly(name: str, tmp_path: Path) -> None:
    network = CONTRACTING[name]
    folder, holds = prove(network, [[0.5]], [1], 1e-300)
    report = check_folder(*folder.write(tmp_path))
    assert report.certificates == sum(holds)


def test_all_exponents_at_once(tmp_path: Path) -> None:
    """y_0 - y_1 = 1e308 z_0 + 5e-324 z_1, z = (1e-300, 5e-324): a margin that no float holds."""
    n = 2
    arrays = {
        "W": np.array([[-1e308, 0.0], [5e-324, -1e-308]]),
        "U": np.array([[0.0], [1e308]]),
        "b": np.array([0.0, 5e-324]),
        "C": np.array([[1e308, 5e-324], [0.0, 0.0]]),
        "c": np.array([5e-324, 0.0]),
    }
    proof = Proof(0, 0, np.zeros(n), np.array([0.0, 5e-324]), np.array([5e-324]))
    folder = Folder(arrays, "relu", np.array([1e308, 1e-10]), np.zeros((1, 1)), [proof])
    assert check_folder(*folder.write(tmp_path)).certificates == 1
    proof.margins = np.array([1e-323])
    with pytest.raises(NotValidError, match="against 1 is not as claimed: about"):
        check_folder(*folder.write(tmp_path))
    proof.margins, proof.eps = np.array([5e-324]), 5e-324
    with pytest.raises(NotValidError, match=r"neuron 1: phi\(t\) > hi"):
        check_folder(*folder.write(tmp_path))


# Paths


def test_paths_that_are_no_files(files: Files, tmp_path: Path) -> None:
    folder, model = files.paths
    loop, pipe = tmp_path / "loop.npz", tmp_path / "pipe.npz"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    odd = [tmp_path, tmp_path / "none.npz", Path("/dev/zero"), Path("a\0b.npz"), Path("x" * 5000)]
    for path in (loop, pipe, *odd):
        assert main([str(folder), "--model", str(path)]) == 2
        assert main([str(path), "--model", str(model)]) == 2
        assert main([str(folder), "--model", str(model), "--data", str(path)]) == 2
        assert main([str(folder), "--model", str(model), "--verdicts", str(path)]) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b'{"status": "certified"}',
        b'{"status": "certified", "index": 0.0, "label": 0}',
        b'{"status": "certified", "index": 0, "label": 0, "radius": []}',
        b'{"status": "certified", "status": "unknown"}',
        b'{"status": "certified", "index": 0, "label": 0, "radius": NaN}',
        b'{"a": "' + b"a" * 70_000 + b'"}',
        b"\xff",
    ],
)
def test_verdicts_that_are_damaged(line: bytes, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(line + b"\n")
    words = [str(files.paths[0]), "--model", str(files.paths[1]), "--verdicts", str(path)]
    assert main(words) == 2

"""Bounded readers of files that nobody vouches for: JSON, npy in npz, safetensors.

Sizes are compared before memory is taken; nothing is unpickled; what is odd is refused in one line.
"""

from __future__ import annotations

import json
import math
import re
import struct
import sys
import zipfile
import zlib
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MODEL_BYTES = 1 << 27  # of a model file
_HEADER_BYTES = 1 << 20  # of the JSON that begins a safetensors file
_DIRECTORY_BYTES = 1 << 16  # of the list of contents that ends a zip file
_TAIL = 22  # bytes of the record at the very end of a zip file without a comment

# What reading damaged or hostile contents raises; RecursionError is a RuntimeError.
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, OverflowError)
DAMAGE += (zipfile.BadZipFile, zlib.error, struct.error)


class UnreadableError(Exception):
    """A file that cannot be read as what it should be: nothing is decided."""


class NotValidError(Exception):
    """A claim that does not hold."""


@dataclass(frozen=True)
class Array:
    """Numbers of a float32, float64 or integer array in C order; exact."""

    shape: tuple[int, ...]
    values: array[float]


def regular(path: Path) -> int:
    """The size of a file; folders, devices, pipes and circles of links are refused."""
    if not path.is_file():
        raise UnreadableError(f"{path} does not exist or is no regular file")
    return path.stat().st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """All of a file that must not be longer than limit."""
    size = regular(path)
    if size > limit:
        raise UnreadableError(f"{path} has {size} bytes, where at most {limit} are allowed")
    with path.open("rb") as stream:
        return stream.read(size)


def strict_json(raw: bytes, what: object) -> dict[str, Any]:
    """A JSON object without repeated keys, NaN, infinities or absurd integers."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_distinct, parse_constant=_refuse)
    except DAMAGE as error:  # ValueError: no UTF-8, no JSON, an integer of thousands of digits
        raise UnreadableError(f"{what} is no JSON that can be read: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UnreadableError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def one_line(error: object) -> str:
    """The text of an exception on one line of bounded length."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def numbers(raw: bytes, code: str, order: str = "<") -> array[float]:
    """Floats from bytes: code "f", "d", or an integer code, as float64, or a ValueError."""
    found = array(code)
    found.frombytes(raw)
    if (order == ">") == (sys.byteorder == "little"):
        found.byteswap()
    if code in "fd":
        return array("d", found)
    exact = array("d", found)
    if list(exact) != list(found):
        raise ValueError("an integer is beyond those that float64 holds exactly")
    return exact


# npz


@dataclass
class Npy:
    """An array inside an npz file, open for reading."""

    stream: IO[bytes]
    kind: str  # "f", "i", "u" or "U"
    size: int  # bytes an entry
    order: str  # "<" or ">"
    fortran: bool
    shape: tuple[int, ...]

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        raw = self.stream.read(count)
        if len(raw) != count:
            raise EOFError("the array is cut short")
        return raw

    def end(self) -> None:
        """Nothing is left; reading so far also makes zipfile compare the check sum."""
        if self.stream.read(1):
            raise ValueError("the array is longer than its shape")

    def floats(self, count: int) -> array[float]:
        """The next entries."""
        codes = {"f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}
        codes |= {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
        code = codes.get(f"{self.kind}{self.size}")
        if code is None:
            raise ValueError(f"dtype {self.kind}{self.size} is not read")
        return numbers(self.take(count * self.size), code, self.order)


# As numpy writes it; a shape of more than six dimensions or eighteen digits is refused with it.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|])([fiuU])(\d{1,4})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?){0,6}\d{0,18})\), \}[ ]*\n?"
)


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose list of contents is short, every entry stored or deflated, names distinct.

    The end of the file is looked at first: zipfile takes memory for what it promises.
    """
    size = regular(path)
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, size - _TAIL - 20))
            tail = stream.read(_TAIL + 20)
            end = tail[-_TAIL:]
            if len(end) < _TAIL or end[:4] != b"PK\5\6" or b"PK\6\7" in tail[:-_TAIL]:
                raise UnreadableError(f"{path} does not end as an npz file of less than 2 GiB does")
            if struct.unpack("<I", end[12:16])[0] > _DIRECTORY_BYTES:
                raise UnreadableError(f"{path} holds too many arrays")
            with zipfile.ZipFile(stream) as archive:
                _check_entries(path, archive)
                yield archive
    except DAMAGE as error:
        reason = one_line(error)
        raise UnreadableError(f"{path} cannot be read as an npz file: {reason}") from error


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise UnreadableError(f"{path} holds two arrays of one name")
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableError(f"{path}: {info.filename[:80]!r} is neither stored nor deflated")


@contextmanager
def open_npy(archive: zipfile.ZipFile, name: str, limit: int) -> Iterator[Npy]:
    """One array, of limit bytes at most, that fills its entry exactly."""
    where = f"{archive.filename or 'npz'}: {name}"
    if f"{name}.npy" not in archive.namelist():
        raise ValueError(f"it holds no array {name!r}")
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        begin = stream.read(8)
        wide = begin[6:8] in (b"\2\0", b"\3\0")
        if begin[:6] != b"\x93NUMPY" or not (wide or begin[6:8] == b"\1\0"):
            raise ValueError(f"{where} is no npy array")
        field = stream.read(4 if wide else 2)
        length = int.from_bytes(field, "little")
        if length > 10_000:
            raise ValueError(f"{where} has a header of {length} bytes")
        match = _NPY_HEADER.fullmatch(stream.read(length))
        if match is None:
            raise ValueError(f"{where} is not a plain array of numbers (objects are never read)")
        order, kind, digits, fortran, extents = (group.decode() for group in match.groups())
        shape = tuple(int(extent) for extent in extents.split(",") if extent.strip())
        size = int(digits) * (4 if kind == "U" else 1)
        total = math.prod(shape) * size
        if info.file_size != 8 + len(field) + length + total:
            raise ValueError(f"{where}: shape {shape} and its number of bytes do not agree")
        if total > limit:
            raise ValueError(f"{where} has {total} bytes, where at most {limit} are allowed")
        yield Npy(stream, kind, size, order, fortran == "True", shape)


def read_array(npy: Npy) -> Array:
    """All of an array of floats; a matrix in Fortran's order is put into C order."""
    if npy.kind != "f":
        raise ValueError(f"dtype {npy.kind}{npy.size} where float32 or float64 is needed")
    values = npy.floats(math.prod(npy.shape))
    npy.end()
    if npy.fortran and len(npy.shape) > 1:
        if len(npy.shape) > 2:
            raise ValueError("Fortran order in more than two dimensions")
        rows = npy.shape[0]
        values = array("d", (v for i in range(rows) for v in values[i::rows]))
    return Array(npy.shape, values)


def read_npz_model(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays by name, and {"activation": ...} if the file names it."""
    arrays, text = {}, {}
    if regular(path) > MODEL_BYTES:
        raise UnreadableError(f"{path} has more than {MODEL_BYTES} bytes")
    with open_npz(path) as archive:
        left = MODEL_BYTES
        for entry in archive.namelist():
            name = entry.removesuffix(".npy")
            with open_npy(archive, name, left) as npy:
                if name == "activation":
                    if npy.kind != "U" or math.prod(npy.shape) != 1 or npy.size > 400:
                        raise ValueError("activation must be one short string")
                    codec = "utf-32-le" if npy.order == "<" else "utf-32-be"
                    text[name] = npy.take(npy.size).decode(codec).rstrip("\0")
                else:
                    arrays[name] = read_array(npy)
                    left -= len(arrays[name].values) * npy.size
    return arrays, text


# safetensors


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays by name, and the metadata. The tensors fill the file without hole or overlap."""
    raw = read_bytes(path, MODEL_BYTES)
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(_HEADER_BYTES, len(raw) - 8):
        raise UnreadableError(f"{path} is no safetensors file: its header is cut short or too long")
    header = strict_json(raw[8 : 8 + length], f"the header of {path}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UnreadableError(f"{path}: its metadata must be text by name")
    data, arrays, spans = memoryview(raw)[8 + length :], {}, []
    for name, entry in header.items():
        try:
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            code, size = {"F32": ("f", 4), "F64": ("d", 8)}[entry["dtype"]]
            if not all(type(v) is int and 0 <= v <= len(raw) for v in (*shape, begin, end)):
                raise ValueError("its shape and offsets must be sizes")
            if len(shape) > 4 or end - begin != math.prod(shape) * size or end > len(data):
                raise ValueError(f"shape and bytes {begin}..{end} do not agree")
        except (KeyError, TypeError, ValueError) as error:
            reason = f"tensor {name[:80]!r} has a bad entry, {one_line(error)}"
            raise UnreadableError(f"{path}: {reason}") from error
        spans.append((begin, end))
        arrays[name] = Array(shape, numbers(bytes(data[begin:end]), code))
    _check_spans(path, sorted(spans), len(data))
    return arrays, metadata


def _check_spans(path: Path, spans: Collection[tuple[int, int]], size: int) -> None:
    at = 0
    for begin, end in spans:
        if begin != at:
            raise UnreadableError(f"{path}: its tensors overlap or leave a hole at byte {at}")
        at = end
    if at != size:
        raise UnreadableError(f"{path}: {size - at} bytes belong to no tensor")

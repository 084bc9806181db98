"""The model file: its weights, their digest, its activation."""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass
from pathlib import Path

from equicert.checker.files import Array, UnreadableError, read_npz_model, read_safetensors
from equicert.checker.functions import Function, parse
from equicert.checker.structures import Matrix, matrix, names, split

_REST = ("b", "C", "c")
_HINTS = ("eta", "Lambda")  # a prover's; nothing here needs them
_FORMAT = "equicert-1"


@dataclass(frozen=True)
class Model:
    """`z = phi(W z + U x + b)`, `y = C z + c`, with the stored weights in C order."""

    W: Matrix  # (n, n)
    U: Matrix  # (n, r)
    b: array[float]  # (n,)
    C: array[float]  # (q, n)
    c: array[float]  # (q,)
    activation: str  # canonical
    phi: Function

    @property
    def n(self) -> int:
        """The number of states."""
        return len(self.b)

    @property
    def r(self) -> int:
        """The number of inputs."""
        return self.U.columns

    @property
    def q(self) -> int:
        """The number of outputs."""
        return len(self.c)

    @property
    def digest(self) -> str:
        """SHA-256 over structures, activation, and the weights as little-endian float64."""
        n, q = self.n, self.q
        tensors = self.W.tensors("W") | self.U.tensors("U")
        tensors |= {"b": Array((n,), self.b), "C": Array((q, n), self.C), "c": Array((q,), self.c)}
        text = f"W:{self.W.structure};U:{self.U.structure};phi:{self.activation}"
        sha = hashlib.sha256(f"equicert-model-1;{text}".encode())
        for name, tensor in tensors.items():
            sha.update(f";{name}:<f8:{tensor.shape}:".encode())
            sha.update(little_endian(tensor.values))
        return sha.hexdigest()


def little_endian(values: array[float]) -> bytes:
    """The bytes of float64 numbers, whatever this machine's order."""
    found = array("d", values)
    if array("H", [1]).tobytes() != b"\1\0":
        found.byteswap()
    return found.tobytes()


def read_model(path: Path, activation: str | None = None) -> Model:
    """The model of a .safetensors or .npz file.

    Raises:
        UnreadableError: whatever is wrong with it, or an activation that is not checked here.
    """
    if path.suffix.lower() == ".npz":
        arrays, text = read_npz_model(path)
        structures = "dense", "dense"
    elif path.suffix.lower() == ".safetensors":
        arrays, text = read_safetensors(path)
        if text.get("format") != _FORMAT:
            raise UnreadableError(f"{path}: its metadata do not say that its format is {_FORMAT}")
        structures = split(str(path), text.get("structure"))
    else:
        raise UnreadableError(f"{path}: a model ends in .safetensors or .npz")
    found, asked = text.get("activation"), activation
    if found is None and asked is None:
        raise UnreadableError(f"{path} does not name its activation; say it with --activation")
    spec, phi = parse(asked if found is None else found)  # type: ignore[arg-type]
    if asked is not None and parse(asked)[0] != spec:
        raise UnreadableError(f"{path} has the activation {spec}, asked for was {asked[:80]}")
    model = _model(path, arrays, structures, spec, phi)
    if text.get("digest", model.digest) != model.digest:
        raise UnreadableError(f"{path}: its weights do not have the digest stored beside them")
    return model


def _model(
    path: Path, arrays: dict[str, Array], structures: tuple[str, str], spec: str, phi: Function
) -> Model:
    """The arrays that belong to the structures, finite and of shapes that fit."""
    W_names, U_names = map(names, "WU", structures)
    wanted = (*W_names, *U_names, *_REST)
    missing = [name[:80] for name in wanted if name not in arrays]
    unknown = [name[:80] for name in arrays if name not in (*wanted, *_HINTS)]
    if missing or unknown:
        raise UnreadableError(f"{path}: arrays missing: {missing[:5]}, unknown: {unknown[:5]}")
    for name, value in arrays.items():
        if not all(map(math.isfinite, value.values)):
            raise UnreadableError(f"{path}: {name} has a NaN or infinite entry")
    W = matrix(f"{path}: W", structures[0], [arrays[name] for name in W_names], square=True)
    U = matrix(f"{path}: U", structures[1], [arrays[name] for name in U_names], square=False)
    b, C, c = (arrays[name] for name in _REST)
    n, q = b.shape, c.shape
    if len(n) != 1 or len(q) != 1:
        raise UnreadableError(f"{path}: b and c must be vectors, not of shapes {n} and {q}")
    found = {"W": (W.rows, W.columns), "U": (U.rows, U.columns), "C": C.shape}
    found |= {name: arrays[name].shape for name in _HINTS if name in arrays}
    right = {"W": n + n, "U": (*n, U.columns), "C": q + n, "eta": n, "Lambda": n}
    for name, shape in found.items():
        if shape != right[name] or 0 in shape:
            raise UnreadableError(f"{path}: {name} has shape {shape}, not {right[name]}")
    return Model(W, U, b.values, C.values, c.values, spec, phi)

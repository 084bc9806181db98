"""The model file: its weights, their digest, its activation."""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass
from pathlib import Path

from equicert.checker.files import Array, UnreadableError, read_npz_model, read_safetensors
from equicert.checker.functions import Function, parse

_TENSORS = ("W", "U", "b", "C", "c")
_HINTS = ("eta", "Lambda")  # a prover's; nothing here needs them
_METADATA = {"format": "equicert-1", "structure": "dense"}


@dataclass(frozen=True)
class Model:
    """`z = phi(W z + U x + b)`, `y = C z + c`, with the stored weights in C order."""

    W: array[float]  # (n, n)
    U: array[float]  # (n, r)
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
        return len(self.U) // len(self.b)

    @property
    def q(self) -> int:
        """The number of outputs."""
        return len(self.c)

    @property
    def digest(self) -> str:
        """SHA-256 over structure, activation, and the weights as little-endian float64."""
        n, r, q = self.n, self.r, self.q
        shapes = {"W": (n, n), "U": (n, r), "b": (n,), "C": (q, n), "c": (q,)}
        sha = hashlib.sha256(f"equicert-model-1;W:dense;U:dense;phi:{self.activation}".encode())
        for name, shape in shapes.items():
            sha.update(f";{name}:<f8:{shape}:".encode())
            sha.update(little_endian(getattr(self, name)))
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
    elif path.suffix.lower() == ".safetensors":
        arrays, text = read_safetensors(path)
        if any(text.get(key) != value for key, value in _METADATA.items()):
            raise UnreadableError(f"{path}: its metadata do not say {_METADATA}")
    else:
        raise UnreadableError(f"{path}: a model ends in .safetensors or .npz")
    found, asked = text.get("activation"), activation
    if found is None and asked is None:
        raise UnreadableError(f"{path} does not name its activation; say it with --activation")
    spec, phi = parse(asked if found is None else found)  # type: ignore[arg-type]
    if asked is not None and parse(asked)[0] != spec:
        raise UnreadableError(f"{path} has the activation {spec}, asked for was {asked[:80]}")
    model = Model(**_checked(path, arrays), activation=spec, phi=phi)
    if text.get("digest", model.digest) != model.digest:
        raise UnreadableError(f"{path}: its weights do not have the digest stored beside them")
    return model


def _checked(path: Path, arrays: dict[str, Array]) -> dict[str, array[float]]:
    """The five arrays, finite and of shapes that fit."""
    missing = [name for name in _TENSORS if name not in arrays]
    unknown = [name[:80] for name in arrays if name not in (*_TENSORS, *_HINTS)]
    if missing or unknown:
        raise UnreadableError(f"{path}: arrays missing: {missing}, unknown: {unknown[:5]}")
    shape = {name: value.shape for name, value in arrays.items()}
    n, q, r = shape["b"][:1], shape["c"][:1], shape["U"][1:]
    wanted = {"W": n + n, "U": n + r, "b": n, "C": q + n, "c": q}
    wanted |= {name: n for name in _HINTS if name in arrays}
    for name, right in wanted.items():
        if shape[name] != right or 0 in right:
            raise UnreadableError(f"{path}: {name} has shape {shape[name]}, not {right}")
        if not all(map(math.isfinite, arrays[name].values)):
            raise UnreadableError(f"{path}: {name} has a NaN or infinite entry")
    if not len(n) == len(q) == len(r) == 1:
        raise UnreadableError(f"{path}: b and c must be vectors, W, U and C matrices")
    return {name: arrays[name].values for name in _TENSORS}

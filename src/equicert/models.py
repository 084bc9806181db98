"""Model files: a stored network to safetensors and back, and networks from npz files.

Every entry is read and written exactly. Whether a network contracts is decided on use, not here,
so that one that does not can be loaded and looked at.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.npyio import NpzFile
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from equicert.activations import Activation, parse_activation
from equicert.arrays import exact
from equicert.errors import ModelError, nearest
from equicert.operators import Dense, Operator, structures
from equicert.runs import write_atomic
from equicert.stored import StoredNetwork
from equicert.zoo import resolve

_FORMAT = "equicert-1"
_OPERATORS: Final = ("W", "U")
_TENSORS = ("b", "C", "c")
_HINTS = ("eta", "Lambda")  # of the proofs of well-posedness: optional, and never believed
_OWN_METADATA = ("format", "structure", "activation", "digest")

# What numpy, zipfile, zlib and safetensors raise on damaged, encrypted or pickled contents and on
# absurd sizes.
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, OverflowError, TypeError)
_UNREADABLE += (zipfile.BadZipFile, zlib.error, SafetensorError)


def save_model(
    path: str | Path,
    network: StoredNetwork,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write W, U, b, C, c, the hints eta and Lambda, and metadata, to a safetensors file.

    A hint that is not finite is left out: no proof could use it. A tensor whose every entry is a
    float32 is stored as float32, which is exact. The same network and metadata give the same bytes.
    The file appears whole or not at all.

    Args:
        path: ends in .safetensors.
        network: its operators are matrices or convolutions.
        metadata: text to store beside the format, structure, activation and digest.

    Raises:
        ModelError: another ending, an operator of another structure, metadata that is not text or
            claims a name of the format's own.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path}: models are written as safetensors; let the name end so")
    operators = {"W": network.W, "U": network.U}
    tensors = {}
    for name, operator in operators.items():
        structures.require_known(name, operator)
        tensors |= {name + key: tensor for key, tensor in operator.tensors().items()}
    tensors |= {"b": network.b, "C": network.C, "c": network.c}
    tensors |= {name: hint for name, hint in _hints(network).items() if bool(hint.isfinite().all())}
    text = {
        **_checked(metadata or {}),
        "format": _FORMAT,
        "structure": structures.spelt(operators),
        "activation": network.activation.spec,
        "digest": network.digest,
    }
    arrays = {name: _compact(tensor) for name, tensor in tensors.items()}
    write_atomic(path, _in_order(save(arrays, text)))


def load_model(path: str | Path, activation: str | None = None) -> StoredNetwork:
    """The network of a safetensors or npz file, with exactly the stored weights.

    Example:
        >>> network = load_model("runs/demo/model.safetensors")

    Args:
        path: a .safetensors file that `save_model` wrote, or an .npz file with `W, U, b, C, c`,
            float32 or float64, and perhaps `eta`, `Lambda` and `activation`; or `zoo:NAME`, a
            model that comes with the package.
        activation: needed where an npz file does not name it; must not contradict the file.

    Raises:
        ModelError: whatever is wrong with the file, its name included; weights that do not have
            the digest stored beside them.
    """
    path = Path(path)
    contents = _read(path)
    phi = _activation(path, contents.metadata.get("activation"), activation)
    try:
        network = _network(contents, phi)
    except ModelError as error:
        raise ModelError(f"{path}: {error}; correct the file") from error
    for name, hint in _hints(network).items():
        if not bool(hint.isfinite().all()):
            raise ModelError(
                f"{path}: {name} has a NaN or infinite entry; correct it or leave {name} out"
            )
    digest = contents.metadata.get("digest")
    if digest not in (None, network.digest):
        raise ModelError(
            f"{path} was changed or damaged: its metadata give the digest {digest}, its weights"
            f" have {network.digest}; use the original or write it again with save_model"
        )
    return network


def _hints(network: StoredNetwork) -> dict[str, Tensor]:
    """Those that it has, by name."""
    hints = {"eta": network.eta, "Lambda": network.Lambda}
    return {name: hint for name, hint in hints.items() if hint is not None}


def model_metadata(path: str | Path) -> dict[str, str]:
    """The text beside the weights: format, structure, activation, digest and the writer's own.

    It is what the file says, not compared with its weights: `load_model` does that. An npz file
    has `activation` at most.

    Raises:
        ModelError: the file cannot be read, or is no model.
    """
    return _read(Path(path)).metadata


@dataclass(frozen=True)
class _Contents:
    """What a file holds: tensors by name, text, and the structures of its operators."""

    arrays: dict[str, Any]
    metadata: dict[str, str]
    structure: Mapping[str, str]


def _network(contents: _Contents, phi: Activation) -> StoredNetwork:
    """The network of these tensors; whether they fit one another is checked on the way."""
    arrays, operators = dict(contents.arrays), dict[str, Operator]()
    for name, structure in contents.structure.items():
        sizes = structures.tensors_of(structure)
        parts = {key: exact(name + key, arrays.pop(name + key), d) for key, d in sizes.items()}
        try:
            operators[name] = structures.operator_of(structure, parts)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
    return StoredNetwork.from_arrays(**operators, **arrays, activation=phi)


def _names(structure: Mapping[str, str]) -> tuple[str, ...]:
    """The tensors that a model with these structures has."""
    found = [name + key for name, text in structure.items() for key in structures.tensors_of(text)]
    return (*found, *_TENSORS)


def _read(path: Path) -> _Contents:
    path = resolve(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    kind = path.suffix.lower()
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder; name the model file in it: model.safetensors")
        if not path.exists():
            raise ModelError(f"{path} does not exist; check the path of the model file")
        if kind not in readers:
            raise ModelError(
                f"{path} has the unknown ending '{path.suffix}'{nearest(kind, readers)}; convert it"
                " to one of these"
            )
        return readers[kind](path)
    except ModelError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{path} cannot be read as a {kind[1:]} file: {reason}; if it is damaged or truncated,"
            " copy it or write it again, plain float tensors only"
        ) from error


def _read_safetensors(path: Path) -> _Contents:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        structure = _check_metadata(path, metadata)
        keys = list(file.keys())
        _check_keys(path, keys, _names(structure), _HINTS)
        for key in keys:
            kind = file.get_slice(key).get_dtype()
            _require_float(path, key, kind in ("F32", "F64"), kind)
        return _Contents({key: file.get_tensor(key) for key in keys}, metadata, structure)


def _read_npz(path: Path) -> _Contents:
    with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
        dense: dict[str, str] = dict.fromkeys(_OPERATORS, Dense.structure)
        _check_keys(path, archive.files, _names(dense), (*_HINTS, "activation"))
        arrays = {key: np.asarray(archive[key]) for key in archive.files}
    text = arrays.pop("activation", None)
    if text is not None and not (text.dtype.kind == "U" and text.size == 1):
        raise ModelError(
            f"{path}: activation must be one string, got {text.dtype} of shape {text.shape}; store"
            " its name, such as 'relu'"
        )
    for key, array in arrays.items():
        size = array.dtype.itemsize
        _require_float(path, key, array.dtype.kind == "f" and size in (4, 8), array.dtype)
        arrays[key] = array.astype(array.dtype.newbyteorder("="))
    return _Contents(arrays, {} if text is None else {"activation": str(text.item())}, dense)


def _activation(path: Path, stored: str | None, asked: str | None) -> Activation:
    """The activation of the file, or the one asked for where the file has none."""
    wanted = None if asked is None else parse_activation(asked)
    if stored is None:
        if wanted is None:
            raise ModelError(
                f"{path} does not name its activation; say which it is, such as --activation relu"
            )
        return wanted
    try:
        found = parse_activation(stored)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if wanted not in (None, found):
        raise ModelError(
            f"{path} has the activation {found.spec}, asked for was {asked}; leave the option out"
        )
    return found


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The structures of W and U, of metadata that have what they need."""
    if metadata.get("format") != _FORMAT:
        raise ModelError(
            f"{path}: its metadata give format {metadata.get('format')!r}, where {_FORMAT!r} is"
            " known; write it with save_model, or store W, U, b, C, c in an npz file"
        )
    if missing := [key for key in _OWN_METADATA if key not in metadata]:
        raise ModelError(
            f"{path}: its metadata lack {', '.join(missing)}; use the original or write it again"
            " with save_model"
        )
    try:
        return structures.read(metadata["structure"], _OPERATORS)
    except ModelError as error:
        raise ModelError(f"{path}: {error}; write it with save_model") from error


def _check_keys(
    path: Path, keys: Collection[str], needed: Collection[str], optional: Collection[str]
) -> None:
    for key in keys:
        if key not in (*needed, *optional):
            near = nearest(key, (*needed, *optional))
            raise ModelError(f"{path}: unknown tensor {key!r}{near}; rename it")
    if missing := [key for key in needed if key not in keys]:
        raise ModelError(
            f"{path} lacks {', '.join(missing)} (it holds {', '.join(keys) or 'nothing'}); a model"
            f" needs {', '.join(needed)}"
        )


def _require_float(path: Path, key: str, ok: bool, found: object) -> None:
    if not ok:
        raise ModelError(
            f"{path}: {key} has dtype {found}; store float32 or float64, which are taken exactly"
        )


def _checked(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The caller's metadata, if they are text and leave the format's own names alone."""
    for key, value in metadata.items():
        if key in _OWN_METADATA:
            raise ModelError(f"the metadata name {key!r} belongs to the format; choose another")
        if not isinstance(key, str) or not isinstance(value, str):
            raise ModelError(f"metadata are text, got {key!r}: {value!r}; convert it to a string")
    return metadata


def _compact(
    tensor: Tensor,  # float64
) -> np.ndarray:
    """The same numbers in float32 where every one of them is a float32, else in float64."""
    double = np.ascontiguousarray(tensor.detach().cpu().numpy())
    with np.errstate(all="ignore"):
        single = double.astype(np.float32)
    return single if np.array_equal(single, double) else double


def _in_order(file: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library's order is random."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + file[8 + size :]

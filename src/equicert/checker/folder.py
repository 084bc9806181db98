"""The certificate folder: the common claim, the records, the inputs, and verdicts beside it.

`docs/certificates.md` describes the files.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equicert.checker.files import (
    NotValidError,
    UnreadableError,
    numbers,
    open_npy,
    open_npz,
    read_bytes,
    regular,
    strict_json,
)
from equicert.checker.model import Model

FORMAT = "equicert-certificates-2"
INPUT_BYTES = 1 << 30  # of the inputs, uncompressed
_LINE_BYTES = 1 << 16
_KEYS = {
    "format",
    "model",
    "activation",
    "n",
    "r",
    "q",
    "eta",
    "monotone",
    "domain",
    "data",
    "inputs",
}


@dataclass(frozen=True)
class Monotone:
    """The claims `sym(Lambda (I - W)) >= m Lambda` and `||Lambda^(1/2) U||_2 <= norm`."""

    Lambda: array[float]  # (n,)
    m: float
    norm: float


@dataclass(frozen=True)
class Claim:
    """What all records of a folder share; one of `eta` and `monotone` is there."""

    model: str
    eta: array[float] | None  # (n,)
    monotone: Monotone | None
    domain: tuple[array[float], array[float]] | None  # of length r each
    count: int  # of inputs
    sha256: str  # of the inputs
    data: str  # digest of the data set


def read_claim(folder: Path, model: Model) -> Claim:
    """`certificates.json`, compared with the model: check 1.

    Raises:
        UnreadableError: it is not what the format says.
        NotValidError: it speaks of another model.
    """
    path = folder / "certificates.json"
    limit = (1 << 16) + 128 * (model.n + model.r)
    found = strict_json(read_bytes(path, limit), path)
    if found.get("format") != FORMAT or set(found) != _KEYS:
        raise UnreadableError(f"{path} is not of the format {FORMAT}")
    digest = model.digest
    if found["model"] != digest:
        stated = str(found["model"])[:80]
        raise NotValidError(f"the certificates are about the model {stated}, the file is {digest}")
    for name in ("activation", "n", "r", "q"):
        claimed, actual = found[name], getattr(model, name)
        if type(claimed) is not type(actual) or claimed != actual:
            raise NotValidError(f"{path}: {name} does not agree with the model's, {actual}")
    data, inputs, domain = found["data"], found["inputs"], found["domain"]
    if not (_is_object(data, name=str, digest=str) and _is_object(inputs, count=int, sha256=str)):
        raise UnreadableError(f"{path}: data or inputs are not as the format says")
    if domain is not None:
        if not (isinstance(domain, list) and len(domain) == 2):
            raise UnreadableError(f"{path}: domain must be null or a pair")
        lower, upper = (_floats(path, "domain", end, (1, model.r)) for end in domain)
        r = model.r // len(lower), model.r // len(upper)
        domain = lower * r[0], upper * r[1]
    eta = found["eta"] if found["eta"] is None else _floats(path, "eta", found["eta"], (model.n,))
    monotone = _monotone(path, found["monotone"], model.n)
    if eta is None and monotone is None:
        raise UnreadableError(f"{path}: eta and monotone are both null")
    return Claim(digest, eta, monotone, domain, inputs["count"], inputs["sha256"], data["digest"])


def _monotone(path: Path, found: Any, n: int) -> Monotone | None:
    if found is None:
        return None
    if not _is_object(found, Lambda=list, m=str, norm=str):
        raise UnreadableError(f"{path}: monotone must be null or hold Lambda, m and norm")
    (m,), (norm,) = (_floats(path, name, [found[name]], (1,)) for name in ("m", "norm"))
    return Monotone(_floats(path, "Lambda", found["Lambda"], (n,)), m, norm)


def _is_object(value: Any, **kinds: type) -> bool:
    return isinstance(value, dict) and {k: type(v) for k, v in value.items()} == kinds


def _floats(path: Path, name: str, value: Any, lengths: tuple[int, ...]) -> array[float]:
    """Numbers written exactly as `float.hex` writes them, so that one text is one number."""
    if not isinstance(value, list) or len(value) not in lengths:
        raise UnreadableError(f"{path}: {name} must be lists of {lengths} numbers in hexadecimal")
    found = array("d")
    for text in value:
        try:
            number = float.fromhex(text)
        except (TypeError, ValueError, OverflowError) as error:
            raise UnreadableError(f"{path}: {name} has an entry that is no number") from error
        if number.hex() != text or math.isnan(number):
            raise UnreadableError(f"{path}: {name} has {text[:80]!r}, not as float.hex writes it")
        found.append(number)
    return found


def read_inputs(folder: Path, claim: Claim, r: int) -> Generator[array[float], None, None]:
    """The rows of `inputs.npz` in turn; at the end of them their digest is compared."""
    path, row = folder / "inputs.npz", 8 * r
    if not 0 <= claim.count <= INPUT_BYTES // row:
        raise UnreadableError(f"{path}: at most {INPUT_BYTES} bytes of inputs are checked")
    with open_npz(path) as archive:
        if archive.namelist() != ["x.npy"]:
            raise UnreadableError(f"{path} must hold x and nothing else")
        with open_npy(archive, "x", claim.count * row) as npy:
            if (npy.kind, npy.size, npy.order, npy.fortran) != ("f", 8, "<", False):
                raise UnreadableError(f"{path}: x must be little-endian float64 in C order")
            if npy.shape != (claim.count, r):
                raise UnreadableError(f"{path}: x has shape {npy.shape}, not {(claim.count, r)}")
            sha = hashlib.sha256()
            for _ in range(claim.count):
                raw = npy.take(row)
                sha.update(raw)
                yield numbers(raw, "d")
            npy.end()
    if sha.hexdigest() != claim.sha256:
        raise NotValidError(f"{path} does not have the digest claimed, {claim.sha256[:80]}")


def read_decided(path: Path, claim: Claim) -> Iterator[tuple[str, int, int, float | None]]:
    """Status, row, label and eps of each line of a verdict file that says what has a record.

    eps is the line's `radius`, or else that of the run whose `run.json` lies beside the file, or
    None: then the file does not say.

    Raises:
        UnreadableError: the file, or the run's, is damaged.
        NotValidError: the run is about another model, data set or domain.
    """
    eps = _eps_of_run(path.parent / "run.json", claim)
    regular(path)
    with path.open("rb") as stream:
        for number in range(1, 1 << 32):
            raw = stream.readline(_LINE_BYTES)
            if not raw:
                return
            where = f"line {number} of {path}"
            if len(raw) == _LINE_BYTES:
                raise UnreadableError(f"{where} is too long")
            line = strict_json(raw, where)
            if (status := line.get("status")) in ("certified", "falsified"):
                row, label, radius = line.get("index"), line.get("label"), line.get("radius", eps)
                if type(row) is not int or type(label) is not int:
                    raise UnreadableError(f"{where} has no index or no label")
                if type(radius) not in (int, float, type(None)):
                    raise UnreadableError(f"{where} has a radius that is no number")
                yield status, row, label, radius


def _eps_of_run(path: Path, claim: Claim) -> Any:
    if not path.exists():
        return None
    identity = strict_json(read_bytes(path, 1 << 20), path).get("identity")
    if not isinstance(identity, dict) or not {"model", "data", "domain"} <= set(identity):
        raise UnreadableError(f"{path} does not say which run it is")
    for name, wanted in (("model", claim.model), ("data", claim.data)):
        if identity[name] != wanted:
            raise NotValidError(f"{path} is about another {name} than the certificates")
    if not _same_domain(identity["domain"], claim.domain):
        raise NotValidError(f"{path} is about another domain than the certificates")
    return identity.get("eps")


def _same_domain(stated: Any, domain: tuple[array[float], array[float]] | None) -> bool:
    """Whether null, or a pair of numbers or lists, is the domain of the certificates."""
    if domain is None or not (isinstance(stated, list) and len(stated) == 2):
        return domain is None and stated is None
    ends = [end if isinstance(end, list) else [end] * len(domain[0]) for end in stated]
    return all(end == list(own) for end, own in zip(ends, domain, strict=True))

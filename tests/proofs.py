"""A small writer of certificates, for tests of the checker: the library's proofs, or any others.

A `Folder` is the contents of a certificate folder and of a model file as plain values, so that a
test can falsify any of them; `write` puts them down with every digest and check sum recomputed.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from equicert.bounds import Interval
from equicert.boxes import Box, Domain
from equicert.queries import Query
from equicert.stored import StoredNetwork
from networks import Network, random_network

Array = NDArray[np.float64]
MAGIC = b"equicert-proof-2"


@dataclass
class Proof:
    """One record."""

    row: int
    label: int
    lo: Array  # (n,)
    hi: Array  # (n,)
    margins: Array  # (q - 1,)
    eps: float = 0.0
    ends: tuple[Array, Array] | None = None  # a box of endpoints in place of eps
    kind: int = 1

    def body(self) -> bytes:
        form = 0 if self.ends is None else 1
        head = struct.pack("<BBII", self.kind, form, self.row, self.label)
        box = [np.array([self.eps])] if self.ends is None else [*self.ends]
        return head + b"".join(
            np.asarray(part, "<f8").tobytes() for part in (*box, self.lo, self.hi, self.margins)
        )


@dataclass
class Folder:
    """A model, the claim about it, and the records."""

    # W, U, b, C, c; of a convolution W.kernel, W.diagonal; of blocks W.0, W.1.kernel and so on
    arrays: dict[str, Array]
    activation: str
    eta: Array | None  # (n,)
    inputs: Array  # (N, r)
    proofs: list[Any]  # Proof, or others with a body
    domain: tuple[list[float], list[float]] | None = None
    header: dict[str, Any] = field(default_factory=dict)  # in place of what is true
    monotone: dict[str, Any] | None = None
    structures: tuple[str, str] = ("dense", "dense")  # of W and U

    @property
    def sizes(self) -> tuple[int, int, int]:
        r = self.arrays["U"].shape[1] if "U" in self.arrays else self.inputs.shape[1]
        return len(self.arrays["b"]), r, len(self.arrays["c"])

    def digest(self) -> str:
        """Of the model, computed as it is documented."""
        n, r, q = self.sizes
        W, U = self.structures
        sha = hashlib.sha256(f"equicert-model-1;W:{W};U:{U};phi:{self.activation}".encode())
        dense = {"W": (n, n), "U": (n, r), "b": (n,), "C": (q, n), "c": (q,)}
        for name in sorted(filter(_is_weight, self.arrays), key=_place):
            shape = dense.get(name, self.arrays[name].shape)
            sha.update(f";{name}:<f8:{shape}:".encode())
            sha.update(np.ascontiguousarray(self.arrays[name], "<f8").tobytes())
        return sha.hexdigest()

    def claim(self) -> dict[str, Any]:
        n, r, q = self.sizes
        domain = self.domain
        x = np.ascontiguousarray(self.inputs, "<f8").tobytes()
        return {
            "format": "equicert-certificates-2",
            "model": self.digest(),
            "activation": self.activation,
            "n": n,
            "r": r,
            "q": q,
            "eta": None if self.eta is None else [float(v).hex() for v in self.eta],
            "monotone": self.monotone,
            "domain": None if domain is None else [[float(v).hex() for v in e] for e in domain],
            "data": {"name": "test", "digest": "0" * 64},
            "inputs": {"count": len(self.inputs), "sha256": hashlib.sha256(x).hexdigest()},
        } | self.header

    def records(self) -> bytes:
        return MAGIC + b"".join(framed(proof.body()) for proof in self.proofs)

    def write(self, root: Path) -> tuple[Path, Path]:
        """The folder and the model file below root."""
        folder, model = root / "proofs", root / "model.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        W, U = self.structures
        structure = "dense" if W == U == "dense" else f"W:{W};U:{U}"
        text = {"format": "equicert-1", "structure": structure, "activation": self.activation}
        model.write_bytes(save(self.arrays, text | {"digest": self.digest()}))
        (folder / "certificates.json").write_text(json.dumps(self.claim(), indent=1))
        (folder / "certificates.bin").write_bytes(self.records())
        np.savez(folder / "inputs.npz", x=self.inputs)
        return folder, model


def _is_weight(name: str) -> bool:
    return name[0] in "WUbCc"


def _place(name: str) -> tuple[int, int, bool]:
    """By operator, then block, then the kernel before the diagonal."""
    operator, *rest = name.split(".")
    block = int(rest[0]) if rest and rest[0].isdigit() else 0
    return "WUbCc".index(operator), block, "diagonal" in rest


def framed(body: bytes) -> bytes:
    head = struct.pack("<II", len(body), zlib.crc32(body))
    return head + struct.pack("<I", zlib.crc32(head)) + body


def ends_of(domain: Domain) -> tuple[list[float], list[float]] | None:
    if domain is None:
        return None
    lower, upper = (np.atleast_1d(np.asarray(end, float)).tolist() for end in domain)
    return lower, upper


def prove(
    network: Network | StoredNetwork,
    x: Any,  # (N, r)
    labels: Any,  # (N,) or None: each point's own
    eps: float | None,
    domain: Domain = None,
    box: Box | None = None,  # in place of eps and domain
) -> tuple[Folder, list[bool]]:
    """What the prover proves, as a folder, and which of the samples it certifies."""
    stored = (
        network
        if isinstance(network, StoredNetwork)
        else StoredNetwork.from_arrays(*network.arrays, network.activation, network.eta)
    )
    x = torch.as_tensor(np.asarray(x, float))
    if labels is None:
        labels = stored.predict(x, 1e-6).argmax(1)
    labels = torch.as_tensor(labels)
    boxes = Box.around(x, eps or 0.0, domain) if box is None else box
    answer = Interval().answer(stored, Query.of_margins(boxes, labels, stored.outputs, x))
    holds = answer.holds.tolist()
    proofs = [
        Proof(
            row,
            int(labels[row]),
            answer.state.lo[row].numpy(),
            answer.state.hi[row].numpy(),
            answer.lower[row].numpy(),
            eps or 0.0,
            None if box is None else (boxes.lo[row].numpy(), boxes.hi[row].numpy()),
        )
        for row, held in enumerate(holds)
        if held
    ]
    arrays = {"W": stored.W.dense(), "U": stored.U.dense()}
    arrays |= {"b": stored.b, "C": stored.C, "c": stored.c}
    return Folder(
        {name: tensor.numpy() for name, tensor in arrays.items()},
        stored.activation.spec,
        stored.contraction.eta.numpy(),
        x.numpy(),
        proofs,
        ends_of(domain),
    ), holds


def random_proofs(activation: str, domain: Domain = None) -> tuple[Folder, list[bool]]:
    """Proofs about eight points of a small random network, not all of them certified."""
    rng = np.random.default_rng(7)
    network = random_network(rng, 4, 2, 3, gamma=0.25, activation=activation)
    x = rng.uniform(0.25, 0.75, (8, 2))
    return prove(network, x, None, 0.0078125, domain)

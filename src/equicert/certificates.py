"""Certificates: what proves each certified sample, written down for a checker that trusts nobody.

`docs/certificates.md` has the format. What all records share is written once: why fixed points are
unique (eta, or what proves the network monotone), and the inputs. The records, one a decided
sample, are in `records.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equicert.boxes import Domain
from equicert.errors import InputError, NotContractingError, OutputError
from equicert.monotonicity import Monotone
from equicert.runs import RunFolder, different, reporting
from equicert.stored import StoredNetwork

FORMAT: Final = "equicert-certificates-2"
CLAIM, INPUTS = "certificates.json", "inputs.npz"
_LARGEST = 1 << 30  # bytes of inputs: what the checker accepts


@dataclass(frozen=True)
class BallClaim:
    """What balls of states rest on.

    Attributes:
        monotone: `sym(Lambda (I - W)) >= m Lambda`.
        norm: a proved bound on `||Lambda^(1/2) U||_2`, Lambda that of `monotone`.
    """

    monotone: Monotone
    norm: float


@dataclass(frozen=True)
class Subject:
    """What a folder of certificates is about.

    Attributes:
        network: the network, proved contracting or monotone.
        x: (N, r) float64, the inputs as used; row k is sample k.
        domain: what the boxes about them are clipped to.
        data: the name of the data set that they were taken from.
        digest: its digest, 64 hexadecimal digits.
        ball: needed where proofs begin with a ball of states; the network need not contract then.
    """

    network: StoredNetwork
    x: Tensor
    domain: Domain
    data: str
    digest: str
    ball: BallClaim | None = None

    def claim(self) -> dict[str, Any]:
        """The contents of `certificates.json`.

        Raises:
            NotContractingError: there is no eta, and no ball.
            InputError: more inputs than the checker reads.
        """
        network, x = self.network, _rows(self.x)
        eta = self._eta()
        if x.nbytes > _LARGEST:
            raise InputError(
                f"certificates are checked for at most {_LARGEST} bytes of inputs, and these are"
                f" {x.nbytes}: lower the limit on samples"
            )
        ends = None if self.domain is None else [_hexadecimal(end) for end in self.domain]
        return {
            "format": FORMAT,
            "model": network.digest,
            "activation": network.activation.spec,
            "n": network.states,
            "r": network.inputs,
            "q": network.outputs,
            "eta": eta,
            "monotone": None if self.ball is None else _monotone(self.ball),
            "domain": ends,
            "data": {"name": self.data, "digest": self.digest},
            "inputs": {"count": len(x), "sha256": hashlib.sha256(x.data).hexdigest()},
        }

    def _eta(self) -> list[str] | None:
        try:
            return _hexadecimal(self.network.contraction.eta.cpu())
        except NotContractingError:
            if self.ball is None:
                raise
            return None


def _monotone(ball: BallClaim) -> dict[str, Any]:
    weights, (m, norm) = ball.monotone.Lambda, _hexadecimal([ball.monotone.m, ball.norm])
    return {"Lambda": _hexadecimal(weights.cpu()), "m": m, "norm": norm}


def prepare(folder: RunFolder, claim: dict[str, Any], subject: Subject) -> None:
    """Write what all records share, or find that it is what the folder holds.

    Args:
        folder: claimed for the run.
        claim: the subject's.
        subject: has the inputs.

    Raises:
        OutputError: the folder is about something else, or cannot be written.
    """
    with reporting(folder / CLAIM, "read"):
        held = (folder / CLAIM).read_bytes() if (folder / CLAIM).exists() else None
        complete = held is not None and (folder / INPUTS).exists()
    if held is not None:
        try:
            there = json.loads(held)
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise OutputError(f"{folder / CLAIM} is damaged; start again in another folder")
        if found := different(there, claim):
            raise OutputError(f"{folder.path} holds other certificates: {found}")
    if not complete:
        folder.write(INPUTS, _npz(_rows(subject.x)))  # before the claim that it exists
        folder.write(CLAIM, json.dumps(claim, indent=1) + "\n")


def _rows(x: Tensor) -> NDArray[Any]:  # (N, r) little-endian float64 in C order
    return np.ascontiguousarray(x.cpu().numpy(), "<f8")


def _hexadecimal(numbers: Any) -> list[str]:
    return [float(value).hex() for value in np.atleast_1d(np.asarray(numbers, np.float64))]


def _npz(x: NDArray[Any]) -> bytes:
    """As `numpy.savez_compressed`, at a level that takes a quarter of the time."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array(file, x, allow_pickle=False)
    return made.getvalue()

"""Certificates: what proves each certified sample, written down for a checker that trusts nobody.

`docs/certificates.md` has the format. A record is a state box that passed the post-fixed-point test
and the margins over it (fact 8 and (9) of the theory: derived here, and [J22]); what all records
share, eta above all, is written once. A kill at any moment leaves whole records and at most the
beginning of one more.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equicert.boxes import Domain
from equicert.errors import InputError, OutputError
from equicert.queries import StateProofs
from equicert.runs import Appended, RunFolder, different, reporting, write_atomic
from equicert.stored import StoredNetwork

FORMAT: Final = "equicert-certificates-1"
MAGIC: Final = b"equicert-proof-1"
CLAIM, INPUTS, RECORDS = "certificates.json", "inputs.npz", "certificates.bin"
_LARGEST = 1 << 30  # bytes of inputs: what the checker accepts
_TOGETHER = 256  # records that are read at a time
_STATE_BOX, _AROUND = 1, 0  # kind of proof, form of box


@dataclass(frozen=True)
class Subject:
    """What a folder of certificates is about.

    Attributes:
        network: the network, proved contracting.
        x: (N, r) float64, the inputs as used; row k is sample k.
        domain: what the boxes about them are clipped to.
        data: the name of the data set that they were taken from.
        digest: its digest, 64 hexadecimal digits.
    """

    network: StoredNetwork
    x: Tensor
    domain: Domain
    data: str
    digest: str

    def claim(self) -> dict[str, Any]:
        """The contents of `certificates.json`.

        Raises:
            NotContractingError: there is no eta.
            InputError: more inputs than the checker reads.
        """
        network, x = self.network, _rows(self.x)
        eta = network.contraction.eta
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
            "eta": _hexadecimal(eta.cpu()),
            "domain": ends,
            "data": {"name": self.data, "digest": self.digest},
            "inputs": {"count": len(x), "sha256": hashlib.sha256(x.data).hexdigest()},
        }


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


class Records(Appended):
    """Appends records to `certificates.bin`; a batch is in the file when `append` returns.

    Opening drops a last record that a kill cut short, and all of rows from `begin` on: those are
    decided again.

    Example:
        >>> with Records(folder / RECORDS, network, begin=0) as records:
        ...     records.append(0, labels, eps, answer.proofs)

    Args:
        path: the file; created if missing.
        network: what the records are about.
        begin: the first row that is to come.

    Raises:
        OutputError: the file cannot be written, or holds what no kill leaves behind.
    """

    def __init__(self, path: str | Path, network: StoredNetwork, begin: int) -> None:
        path = Path(path)
        n, others = network.states, network.outputs - 1
        numbers = [("eps", "<f8"), ("lo", "<f8", n), ("hi", "<f8", n), ("margins", "<f8", others)]
        body = [("kind", "u1"), ("form", "u1"), ("row", "<u4"), ("label", "<u4"), *numbers]
        self._type = np.dtype([("length", "<u4"), ("crc", "<u4"), ("body", np.dtype(body))])
        if (found := _beginning(path)) != MAGIC:
            if not MAGIC.startswith(found):
                raise OutputError(f"{path} holds no certificates; choose another folder")
            write_atomic(path, MAGIC)
        self.kept: dict[int, int] = {}  # label by row, of the records that are kept
        with reporting(path, "write"):
            super().__init__(path, path.open("r+b"))
            try:
                self._file.truncate(self._scan(begin))
                self._file.seek(0, os.SEEK_END)
            except BaseException:
                self._file.close()
                raise

    @property
    def bytes_each(self) -> int:
        """The size of a record."""
        return self._type.itemsize

    def require(self, certified: Iterable[tuple[int, int]]) -> None:
        """Compare with the rows and labels that were called certified before.

        Raises:
            OutputError: some of them have no record here, or others have.
        """
        wanted = dict(certified)
        if wrong := sorted(wanted.items() ^ self.kept.items()):
            raise OutputError(
                f"row {wrong[0][0]} has a verdict or a record in {self.path}, but not both: the"
                " run was begun without its certificates, or files were changed; start again in"
                " new folders"
            )

    def append(
        self,
        first: int,
        labels: Tensor,  # (batch,) int64
        eps: NDArray[np.float64],  # (batch,)
        proofs: StateProofs,
    ) -> int:
        """Write the proofs of a batch that begins at row `first`; return how many.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        rows = proofs.rows.cpu().numpy()
        made = np.zeros(len(rows), self._type)
        made["length"] = self.bytes_each - 8
        body = made["body"]
        body["kind"], body["form"], body["eps"] = _STATE_BOX, _AROUND, eps[rows]
        body["row"], body["label"] = first + rows, labels.cpu().numpy()[rows]
        for name, values in zip(
            ("lo", "hi", "margins"), (proofs.lo, proofs.hi, proofs.lower), strict=True
        ):
            body[name] = values.cpu().numpy()
        made["crc"] = self._sums(made)
        self.write(made.data)
        return len(made)

    def _scan(self, begin: int) -> int:
        """Where the records of rows below `begin` end; what comes after them may go."""
        self._file.seek(len(MAGIC))
        end, last = len(MAGIC), -1
        while content := self._file.read(_TOGETHER * self.bytes_each):
            whole = len(content) // self.bytes_each
            found = np.frombuffer(content, self._type, whole)
            for row, label, good in zip(
                *(found["body"][name].tolist() for name in ("row", "label")),
                self._are_records(found),
                strict=True,
            ):
                if not good or row <= last:
                    raise OutputError(
                        f"{self.path} is damaged at byte {end}: start again in another folder"
                    )
                if row >= begin:
                    return end
                self.kept[row], last = label, row
                end += self.bytes_each
        return end

    def _are_records(self, found: NDArray[np.void]) -> list[bool]:
        good = (found["length"] == self.bytes_each - 8) & (found["crc"] == self._sums(found))
        return (good & (found["body"]["kind"] == _STATE_BOX)).tolist()

    def _sums(self, records: NDArray[np.void]) -> list[int]:
        content, each = memoryview(records.tobytes()), self.bytes_each
        return [zlib.crc32(content[k + 8 : k + each]) for k in range(0, len(content), each)]


def _beginning(path: Path) -> bytes:
    with reporting(path, "read"):
        if not path.exists():
            return b""
        with path.open("rb") as file:
            return file.read(len(MAGIC))


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

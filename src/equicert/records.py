"""The records of a certificate folder: one proof or witness each, appended as they are found.

`docs/certificates.md` has the layout. A kill at any moment leaves whole records and at most the
beginning of one more; a record's header has a check sum of its own, so that a wrong length is never
taken for a record that was cut short.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equicert.errors import InputError, OutputError
from equicert.proofs import BallStart, Leaf, Lemma, Split, Start, Step, TreeProof, Witness
from equicert.queries import StateProofs
from equicert.runs import Appended, reporting, write_atomic
from equicert.stored import StoredNetwork

MAGIC: Final = b"equicert-proof-2"
RECORDS: Final = "certificates.bin"
BODY_BYTES: Final = 1 << 26  # of a record: what the checker reads
_STATE_BOX, _TREE, _WITNESS = 1, 2, 3  # kinds
_AROUND: Final = 0  # form of box
_HEADER, _COMMON = struct.Struct("<III"), struct.Struct("<BBIId")
_HALF_WIDTHS = ((2, 15, "<i2"), (4, 31, "<i4"))  # bytes, binary digits, type of mantissas

Proof: TypeAlias = TreeProof | Witness


class Records(Appended):
    """Appends records to `certificates.bin`; a batch is in the file when `append` returns.

    Opening drops a last record that a kill cut short, and all of rows from `begin` on: those are
    decided again.

    Example:
        >>> with Records(folder / RECORDS, network, begin=0) as records:
        ...     records.append(0, labels, eps, answer.proofs, {3: witness})

    Args:
        path: the file; created if missing.
        network: what the records are about.
        begin: the first row that is to come.

    Raises:
        OutputError: the file cannot be written, or holds what no kill leaves behind.
    """

    def __init__(self, path: str | Path, network: StoredNetwork, begin: int) -> None:
        path = Path(path)
        self._sizes = network.states, network.inputs, network.outputs
        if (found := _beginning(path)) != MAGIC:
            if not MAGIC.startswith(found):
                raise OutputError(
                    f"{path} holds no certificates of this version; choose another folder"
                )
            write_atomic(path, MAGIC)
        # Row and label of the records that are kept: proofs, witnesses.
        self.kept: tuple[dict[int, int], dict[int, int]] = {}, {}
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
        """The size of the record of a state box."""
        n, _, q = self._sizes
        return _HEADER.size + _COMMON.size + 8 * (2 * n + q - 1)

    def require(
        self, certified: Iterable[tuple[int, int]], falsified: Iterable[tuple[int, int]] = ()
    ) -> None:
        """Compare with the rows and labels that were called certified or falsified before.

        Raises:
            OutputError: some of them have no record here, or others have.
        """
        for wanted, kept in zip((certified, falsified), self.kept, strict=True):
            if wrong := sorted(dict(wanted).items() ^ kept.items()):
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
        boxes: StateProofs | None,
        others: Mapping[int, Proof] | None = None,
    ) -> int:
        """Write what proves the verdicts of a batch that begins at row `first`; return how many.

        Args:
            first: the row of the batch's first sample.
            labels: of the batch.
            eps: of the boxes.
            boxes: state boxes and the margins over them; None without any.
            others: trees and witnesses, by place in the batch; where none has a state box.

        Raises:
            InputError: a proof holds what cannot be written, or is longer than what is checked.
            OutputError: the disk is full or the file cannot be written.
        """
        parts: dict[int, tuple[int, bytes]] = {}
        if boxes is not None:
            values = (boxes.lo, boxes.hi, boxes.lower)
            lines = np.concatenate([v.cpu().numpy() for v in values], 1, dtype="<f8")
            rows = boxes.rows.tolist()
            parts = {k: (_STATE_BOX, line.tobytes()) for k, line in zip(rows, lines, strict=True)}
        for k, proof in (others or {}).items():
            if k in parts:
                raise InputError(f"row {first + k} has a state box and another proof")
            parts[k] = _TREE if isinstance(proof, TreeProof) else _WITNESS, encode(proof)
        y, content = labels.tolist(), bytearray()
        for k, (kind, part) in sorted(parts.items()):
            body = _COMMON.pack(kind, _AROUND, first + k, y[k], eps[k]) + part
            if len(body) > BODY_BYTES:
                raise InputError(
                    f"the proof of row {first + k} has {len(body)} bytes, where at most"
                    f" {BODY_BYTES} are checked: certify it with fewer nodes"
                )
            content += _framed(body)
        self.write(memoryview(content))
        return len(parts)

    def _scan(self, begin: int) -> int:
        """Where the records of rows below `begin` end; what comes after them may go."""
        self._file.seek(len(MAGIC))
        end, last = len(MAGIC), -1
        while len(head := self._file.read(_HEADER.size)) == _HEADER.size:
            length, check, own = _HEADER.unpack(head)
            whole = zlib.crc32(head[:8]) == own and length <= BODY_BYTES
            body = self._file.read(length) if whole else None
            if body is not None and len(body) < length:
                break
            found = body is not None and zlib.crc32(body) == check and self._read(body)
            if not found or found[1] <= last:
                raise OutputError(
                    f"{self.path} is damaged at byte {end}: start again in another folder"
                )
            kind, row, label = found
            if row >= begin:
                break
            self.kept[kind == _WITNESS][row], last = label, row
            end += len(head) + length
        return end

    def _read(self, body: bytes) -> tuple[int, int, int] | None:
        """Kind, row and label; None of what `append` does not write."""
        if len(body) < _COMMON.size:
            return None
        kind, form, row, label, _ = _COMMON.unpack_from(body)
        good = kind in (_STATE_BOX, _TREE, _WITNESS) and form == _AROUND
        if kind == _STATE_BOX:
            good &= len(body) == self.bytes_each - _HEADER.size
        return (kind, row, label) if good else None


def _framed(body: bytes) -> bytes:
    head = struct.pack("<II", len(body), zlib.crc32(body))
    return head + struct.pack("<I", zlib.crc32(head)) + body


def _beginning(path: Path) -> bytes:
    with reporting(path, "read"):
        if not path.exists():
            return b""
        with path.open("rb") as file:
            return file.read(len(MAGIC))


# What proofs and witnesses are in bytes, after row, label and box.


def encode(proof: Proof) -> bytes:
    """The rest of a record.

    Raises:
        InputError: a NaN or an infinity is among its numbers.
    """
    if isinstance(proof, Witness):
        return struct.pack("<I", proof.rival) + _floats(proof.x) + _start(proof.start)
    parts = [_start(proof.start), struct.pack("<I", len(proof.chain))]
    parts += map(_lemma, proof.chain)
    parts.append(_floats(proof.margins))
    parts += (part for tree in proof.trees for step in tree for part in _step(step))
    return b"".join(parts)


def _start(start: Start) -> bytes:
    if isinstance(start, BallStart):
        return b"\1" + _floats(start.t)
    return b"\0" + _floats(start.lo) + _floats(start.hi)


def _step(step: Step) -> Iterator[bytes]:
    if isinstance(step, Split):
        yield struct.pack("<BIB", 2, step.neuron, step.breakpoint)
    elif isinstance(step, Leaf):
        yield b"\1" if step.infeasible else b"\0"
        yield encode_multiplier(step.multiplier)
    else:
        yield b"\3"
        yield _lemma(step)


def _lemma(lemma: Lemma) -> bytes:
    head = struct.pack("<IB", lemma.neuron, lemma.upper)
    return head + _floats(np.asarray(lemma.value)) + encode_multiplier(lemma.multiplier)


def encode_multiplier(
    values: NDArray[np.float64],  # (n,)
) -> bytes:
    """The entries that are not zero, as m 2^e with few digits where all have few, else as float64.

    Raises:
        InputError: an entry is not finite.
    """
    values = np.asarray(values, "<f8")
    used = values != 0
    bitmap, entries = np.packbits(used, bitorder="little").tobytes(), values[used]
    kept = _floats(entries)
    fractions, exponents = np.frexp(entries)  # 1/2 <= |fraction| < 1
    digits = np.ldexp(fractions, 53).astype(np.int64)
    _, trailing = np.frexp((digits & -digits).astype(np.float64))  # one more than the zeros
    least = int((exponents - 54 + trailing).min(initial=1024)) if len(entries) else 0
    most = int(exponents.max(initial=-1100)) if len(entries) else 0
    for width, limit, kind in _HALF_WIDTHS:
        if most - least <= limit and -1074 <= least <= 960:
            head = struct.pack("<Bh", width, least)
            # Exact: least is the greatest power of two that divides all.
            return head + bitmap + np.ldexp(entries, -least).astype(kind).tobytes()
    return b"\x08" + bitmap + kept


def _floats(values: NDArray[np.float64]) -> bytes:
    if not np.isfinite(values).all():
        raise InputError("a proof holds a NaN or an infinity: it proves nothing")
    return np.asarray(values, "<f8").tobytes()

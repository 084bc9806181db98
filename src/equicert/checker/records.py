"""The records of `certificates.bin`: what they say, in the layout of `docs/certificates.md`.

A record is walked through to its end before any of it is checked, with a count of open nodes in
place of recursion; steps cost their bytes, of which there are at most 2^26.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from equicert.checker.files import UnreadableError, numbers, regular
from equicert.checker.model import Model

MAGIC = b"equicert-proof-2"
BODY_BYTES = 1 << 26
_HEADER_BYTES = 12
STATE_BOX, TREE, WITNESS = 1, 2, 3
_EXPONENTS = range(-1074, 961)  # of a multiplier with 16 or 32 binary digits

Multiplier: TypeAlias = tuple[list[int], list[int], int]  # entries i, their integers, and k


@dataclass(frozen=True)
class StateBox:
    """A start: a box of states that passes the test of check 4."""

    lo: array[float]  # (n,)
    hi: array[float]  # (n,)


@dataclass(frozen=True)
class Ball:
    """A start: a ball about phi(t)."""

    t: array[float]  # (n,)


@dataclass(frozen=True)
class Lemma:
    """`r_neuron >= value`, or `<= value` if `upper`."""

    neuron: int
    upper: bool
    value: float
    multiplier: Multiplier


@dataclass(frozen=True)
class Leaf:
    """The end of a branch: for the margin, or for no state at all."""

    infeasible: bool
    multiplier: Multiplier


@dataclass(frozen=True)
class Split:
    """The part below a breakpoint of psi_neuron comes first."""

    neuron: int
    breakpoint: int


@dataclass(frozen=True)
class Record:
    """One record; which of the last fields it has is its kind's matter."""

    kind: int
    row: int
    label: int
    eps: float | None  # or
    ends: tuple[array[float], array[float]] | None  # the box itself
    start: StateBox | Ball
    margins: array[float] | None = None  # (q - 1,)
    steps: Steps | None = None  # TREE
    rival: int = -1  # WITNESS
    x: array[float] | None = None  # (r,), WITNESS


@dataclass(frozen=True)
class Steps:
    """The lemmas of the chain and the steps of the trees, read again from their bytes."""

    body: bytes
    model: Model
    at: tuple[int, int]  # where chain and trees begin
    count: int  # of lemmas in the chain
    values: array[float]  # of all lemmas, distinct

    def chain(self) -> Iterator[Lemma]:
        """In turn."""
        cursor = _Cursor(self.body, self.model, self.at[0])
        return (cursor.lemma() for _ in range(self.count))

    def trees(self) -> Iterator[Leaf | Split | Lemma]:
        """All of them, one after the other."""
        cursor = _Cursor(self.body, self.model, self.at[1])
        while cursor.at < len(self.body):
            yield cursor.step()


class Records:
    """The records of `certificates.bin`, in turn; `dropped`: whether a last one is cut short."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.path, self.model, self.dropped = folder / "certificates.bin", model, False

    def __iter__(self) -> Generator[Record, None, None]:
        regular(self.path)
        last, begin = -1, len(MAGIC)
        with self.path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise UnreadableError(f"{self.path} does not begin with {MAGIC.decode()!r}")
            while head := stream.read(_HEADER_BYTES):
                at = f"{self.path}, record at byte {begin}"
                if len(head) < _HEADER_BYTES:
                    self.dropped = True
                    return
                length, check, own = struct.unpack("<III", head)
                if zlib.crc32(head[:8]) != own:
                    raise UnreadableError(f"{at}: its header is damaged")
                if length > BODY_BYTES:
                    raise UnreadableError(f"{at}: no record has {length} bytes")
                body = stream.read(length)
                if len(body) < length:
                    self.dropped = True
                    return
                if zlib.crc32(body) != check:
                    raise UnreadableError(f"{at}: its check sum is wrong")
                try:
                    record = _record(_Cursor(body, self.model))
                except ValueError as error:
                    raise UnreadableError(f"{at}: {error}") from error
                if record.row <= last:
                    raise UnreadableError(f"{at}: row {record.row} after row {last}")
                last, begin = record.row, begin + _HEADER_BYTES + length
                yield record


def _record(cursor: _Cursor) -> Record:
    n, r, q = cursor.model.n, cursor.model.r, cursor.model.q
    kind, form, row, label = cursor.unpack("<BBII")
    if kind not in (STATE_BOX, TREE, WITNESS) or form not in (0, 1):
        raise ValueError(f"there is no kind {kind} with a box of form {form}")
    eps, ends = None, None
    if form == 0:
        (eps,) = cursor.floats(1)
    else:
        ends = cursor.floats(r), cursor.floats(r)
    common = kind, row, label, eps, ends
    if kind == STATE_BOX:
        record = Record(*common, StateBox(cursor.floats(n), cursor.floats(n)), cursor.floats(q - 1))
    elif kind == TREE:
        start, steps, margins = _tree(cursor)
        record = Record(*common, start, margins, steps)
    else:
        (rival,), x = cursor.unpack("<I"), cursor.floats(r)
        record = Record(*common, cursor.start(), rival=rival, x=x)
    if cursor.at != len(cursor.body):
        raise ValueError(f"{len(cursor.body) - cursor.at} bytes are left at its end")
    return record


def _tree(cursor: _Cursor) -> tuple[StateBox | Ball, Steps, array[float]]:
    """Start, chain, margins, and q - 1 trees, each of which ends with its last open node."""
    start = cursor.start()
    (count,), chain = cursor.unpack("<I"), cursor.at
    values = {cursor.lemma().value for _ in range(count)}
    margins, trees = cursor.floats(cursor.model.q - 1), cursor.at
    for _ in margins:
        nodes = 1  # that are open
        while nodes:
            step = cursor.step()
            if isinstance(step, Lemma):
                values.add(step.value)
            else:
                nodes += 1 if isinstance(step, Split) else -1
    steps = Steps(cursor.body, cursor.model, (chain, trees), count, array("d", values))
    return start, steps, margins


class _Cursor:
    """Reads the body of a record from its beginning on; ValueError where it ends too early."""

    def __init__(self, body: bytes, model: Model, at: int = 0) -> None:
        self.body, self.model, self.at = body, model, at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        begin, self.at = self.at, self.at + count
        if self.at > len(self.body):
            raise ValueError("its contents are longer than it is")
        return self.body[begin : self.at]

    def unpack(self, layout: str) -> tuple[int, ...]:
        """The next integers."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def floats(self, count: int) -> array[float]:
        """The next float64 numbers."""
        return numbers(self.take(8 * count), "d")

    def start(self) -> StateBox | Ball:
        """A byte that says which, and the numbers."""
        (tag,) = self.unpack("<B")
        if tag > 1:
            raise ValueError(f"there is no start {tag}")
        n = self.model.n
        return Ball(self.floats(n)) if tag else StateBox(self.floats(n), self.floats(n))

    def step(self) -> Leaf | Split | Lemma:
        """A byte that says which, and what it holds."""
        (tag,) = self.unpack("<B")
        if tag > 3:
            raise ValueError(f"there is no step {tag}")
        if tag == 3:
            return self.lemma()
        if tag < 2:
            return Leaf(tag == 1, self.multiplier())
        split = Split(*self.unpack("<IB"))
        if split.neuron >= self.model.n:
            raise ValueError(f"there is no neuron {split.neuron}")
        return split

    def lemma(self) -> Lemma:
        """Neuron, side, value, multiplier."""
        neuron, upper = self.unpack("<IB")
        (value,) = self.floats(1)
        if upper > 1 or neuron >= self.model.n:
            raise ValueError(f"there is no side {upper} of neuron {neuron}")
        if value - value != 0:
            raise ValueError(f"a lemma has the value {value!r}")
        return Lemma(neuron, upper == 1, value, self.multiplier())

    def multiplier(self) -> Multiplier:
        """Width, exponent, which entries are not zero, and these: m 2^e, or float64 numbers."""
        (width,) = self.unpack("<B")
        if width not in (2, 4, 8):
            raise ValueError(f"there is no multiplier of {width} bytes an entry")
        exponent = self.unpack("<h")[0] if width < 8 else 0
        if exponent not in _EXPONENTS:
            raise ValueError(f"a multiplier has the exponent {exponent}")
        n = self.model.n
        bits = int.from_bytes(self.take((n + 7) // 8), "little")
        if bits >> n:
            raise ValueError(f"a multiplier has more than {n} entries")
        indices = [i for i in range(n) if bits >> i & 1]
        raw = self.take(width * len(indices))
        if width == 8:
            return (indices, *_integers(numbers(raw, "d")))
        found = array("h" if width == 2 else "i")
        found.frombytes(raw)
        if array("H", [1]).tobytes() != b"\1\0":
            found.byteswap()
        if 0 in found:
            raise ValueError("an entry of a multiplier that should not be zero is")
        return indices, [v << max(exponent, 0) for v in found], max(-exponent, 0)


def _integers(values: array[float]) -> tuple[list[int], int]:
    """Floats over one 2^k, finite and not zero."""
    if not all(v and v - v == 0 for v in values):
        raise ValueError("an entry of a multiplier is zero or not finite")
    ratios = [v.as_integer_ratio() for v in values]
    k = max((d for _, d in ratios), default=1).bit_length() - 1
    return [m << k + 1 - d.bit_length() for m, d in ratios], k

"""Binary floating-point numbers as integers: m stands for m / 2^k.

Numbers that are added to one another are brought to one k at once, so that every sum and every
product is one of integers. The range of an inner product `a . v` over a box lo <= v <= hi is
`(a . (lo + hi) -+ |a| . (hi - lo)) / 2`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from operator import mul

from equicert.checker.files import NotValidError, UnreadableError

_MEMORY = 1 << 31  # bytes that the integers of one list of numbers may take

Box = tuple[list[int], list[int], int]  # lo + hi and hi - lo, each times 2^k, and k


def scaled(values: Sequence[float]) -> tuple[list[int], int]:
    """Integers m and the least k >= 0 with value = m / 2^k for each of the finite values.

    Raises:
        UnreadableError: their exponents differ so much that the integers do not fit into memory.
    """
    used = [math.frexp(v)[1] for v in values if v]
    span = max(used, default=0) - min(0, min(used, default=0) - 53)
    require_memory(len(values), span)
    ratios = [v.as_integer_ratio() for v in values]
    k = max((d for _, d in ratios), default=1).bit_length() - 1
    return [m << k + 1 - d.bit_length() for m, d in ratios], k


def require_memory(count: int, bits: int) -> None:
    """Refuse so many integers of so many digits."""
    if count * (36 + bits // 7) > _MEMORY:
        raise UnreadableError(f"{count} numbers of {bits} binary digits are too many")


def dot(a: Iterable[int], b: Iterable[int]) -> int:
    """The sum of products."""
    return sum(map(mul, a, b))


def aligned(values: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Numbers (m, k) with one k: the greatest."""
    most = max(k for _, k in values)
    return [m << most - k for m, k in values], most


class Packed:
    """The rows of an integer matrix, each as one long integer: entry k times 2^(width k), summed.

    A sum of weighted rows then takes one product a row, whatever its length. It is read off again
    where every entry of the sum lies strictly within -+2^(width - 1): after 2^(width - 1) is added
    to each, they are the digits of one number in base 2^width.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows, self.columns = rows, len(rows[0])
        self.bits = max((max(map(int.bit_length, row)) for row in rows), default=0)
        self._of_width: dict[int, tuple[list[int], int]] = {}

    def combination(self, indices: Sequence[int], weights: Sequence[int]) -> list[int]:
        """`sum_i weights_i rows[indices_i]`.

        It is less than `count 2^(bits of a weight + bits of an entry)` in size.
        """
        if not indices:
            return [0] * self.columns
        need = self.bits + max(map(int.bit_length, weights)) + len(weights).bit_length() + 1
        width = max(64, 1 << (need - 1).bit_length())
        packed, offset = self._packed(width)
        total = offset + dot(weights, [packed[i] for i in indices])
        step, half, read = width // 8, 1 << width - 1, int.from_bytes
        raw = total.to_bytes(step * self.columns, "little")
        return [read(raw[k : k + step], "little") - half for k in range(0, len(raw), step)]

    def _packed(self, width: int) -> tuple[list[int], int]:
        """The rows, and 2^(width - 1) in every digit."""
        if width not in self._of_width:
            require_memory(len(self.rows) * self.columns, width)
            step, half = width // 8, 1 << width - 1
            offset = int.from_bytes(half.to_bytes(step, "little") * self.columns, "little")
            packed = [
                int.from_bytes(b"".join((v + half).to_bytes(step, "little") for v in row), "little")
                - offset
                for row in self.rows
            ]
            self._of_width[width] = packed, offset
        return self._of_width[width]


def require_finite(what: str, values: Sequence[float]) -> None:
    """Refuse NaN and infinities."""
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise NotValidError(f"{what} has the entry {i} = {value!r}")


def show(x: Fraction) -> str:
    """x to 17 digits, or its order of magnitude where float64 has none."""
    magnitude = abs(x.numerator).bit_length() - x.denominator.bit_length()
    if x and not -1000 < magnitude < 1000:
        return f"about {'-' if x < 0 else ''}2^{magnitude}"
    return f"{float(x):.17g}"


def against(a: int, b: int, k: int) -> str:
    """Two numbers over 2^k, and their difference."""
    unit = 1 << k
    found = (show(Fraction(v, unit)) for v in (a, b, a - b))
    return "{} against {}, by {}".format(*found)

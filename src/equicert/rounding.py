"""Rigorous floating-point error bounds: what makes float64 results proofs.

The model (standard, see Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 3): IEEE
double, round to nearest; an inner product of k terms, summed in any order, with or without fused
multiply-add, is within `gamma(k) |x|.|y|` of the truth, `gamma(k) = k u / (1 - k u)`, plus k times
the smallest normal number for underflow and flush-to-zero. Algorithms that mix entries (Strassen,
Winograd, FFT) or emulate double break it: `self_test` looks for them.
"""

from __future__ import annotations

import functools
import math
import random
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from equicert.errors import RoundingError

UNIT = 2.0**-53  # u, unit roundoff of float64
TINY = 2.0**-1022  # the smallest normal float64: one underflow or flush costs at most this
UNIT32 = 2.0**-24  # the same of float32
TINY32 = 2.0**-126
_SLACK = 2.0**-1020
_ROUNDED = ("none", "ieee")  # torch's words for float32 products that are not shortened


def up(
    x: Tensor,  # float64, any shape
) -> Tensor:
    """An upper bound on the exact result of which x is the rounded (or flushed) value.

    x comes from one correctly rounded +, -, *, / ; the bound holds with flush-to-zero as well,
    which is why it is not `nextafter`: for |x| < 2^-970 it adds about 2^-1020.
    """
    return torch.add(x, x.abs(), alpha=4 * UNIT).add_(_SLACK)


def down(
    x: Tensor,  # float64, any shape
) -> Tensor:
    """The mirror image of `up`: a lower bound on the exact result that was rounded to x."""
    return torch.sub(x, x.abs(), alpha=4 * UNIT).sub_(_SLACK)


def up_array(
    x: np.ndarray,  # float64, any shape
) -> np.ndarray:
    """`up` for NumPy's arrays, whose calls cost less where they are short."""
    return x + np.abs(x) * (4 * UNIT) + _SLACK


def down_array(
    x: np.ndarray,  # float64, any shape
) -> np.ndarray:
    """`down` for NumPy's arrays."""
    return x - np.abs(x) * (4 * UNIT) - _SLACK


def gamma(k: int, unit: float = UNIT) -> float:
    """An upper bound on `k u / (1 - k u)`, the relative error constant of k roundings."""
    if k * unit >= 0.5:
        raise RoundingError(
            f"inner products of {k} terms are too long for error bounds at unit roundoff {unit:.3g}"
        )
    return (k * unit / (1 - k * unit)) * (1 + 8 * UNIT)


def add_down(
    a: Tensor,  # float64
    b: Tensor,  # float64, broadcastable
) -> Tensor:
    """The largest float64 not above a + b, or the one below it: exact sums stay exact (TwoSum).

    An overflow gives NaN, which callers refuse.
    """
    s, error = _two_sum(a, b)
    return torch.nextafter(s, _far(error.clamp_(max=0)).add_(s))


def add_up(
    a: Tensor,  # float64
    b: Tensor,  # float64, broadcastable
) -> Tensor:
    """The mirror image of `add_down`: the smallest float64 not below a + b, or the next above."""
    s, error = _two_sum(a, b)
    return torch.nextafter(s, _far(error.clamp_(min=0)).add_(s))


def centre_radius(
    lo: Tensor,  # (..., k) float64
    hi: Tensor,  # (..., k) float64
) -> tuple[Tensor, Tensor]:
    """(c, rho) with [lo, hi] inside the exact interval [c - rho, c + rho], both shaped as lo.

    The radius has a relative excess of 6 u or more, for one more rounding of the caller's.

    Raises:
        RoundingError: as `add_down`: differences below the normal numbers must be exact.
    """
    refuse_flushing()
    c = (lo * 0.5).add_(hi, alpha=0.5)
    rho = hi - c
    torch.maximum(rho, c - lo, out=rho)
    # A subnormal difference is exact, and a multiple of it by more than 1 is not rounded below it.
    return c, rho.mul_(1 + 8 * UNIT)


def _far(
    error: Tensor,  # float64, of one sign or zero; overwritten
) -> Tensor:
    """Infinity of that sign; zero stays zero. Any float64 times 2^3000 overflows."""
    return error.mul_(2.0**1000).mul_(2.0**1000).mul_(2.0**1000)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Knuth's TwoSum: `a + b = s + error` exactly, whatever the magnitudes; NaN error on overflow.

    Raises:
        RoundingError: subnormal numbers are flushed to zero, and with them the error.
    """
    refuse_flushing()
    s = a + b
    a_part = s - b
    b_part = s - a_part
    torch.sub(a, a_part, out=a_part)
    torch.sub(b, b_part, out=b_part)
    return s, a_part.add_(b_part)


def self_test(device: str = "cpu") -> None:
    """Check that this device's arithmetic obeys the model above.

    Subnormal sums must be kept (checked at every call: it is a mode of the thread; and once for
    each number of worker threads, which keep the mode in which they were started), and matrix
    products must be plain ones (checked once per device and process, tens of milliseconds).

    Raises:
        RoundingError: it does not; no rigorous verdict may be given there.
    """
    refuse_flushing(device)
    _test_workers(device, torch.get_num_threads())
    _test_products(device)


def refuse_flushing(device: str = "cpu", entries: int = 1) -> None:
    """Check that this thread keeps subnormal sums, as everything here assumes.

    Raises:
        RoundingError: they are flushed to zero.
    """
    # On the CPU plain Python runs in the same mode, in a hundredth of the time.
    if entries == 1 and device == "cpu":
        kept = TINY * 1.5 - TINY > 0
    else:
        smallest = torch.full((entries,), TINY, dtype=torch.float64, device=device)
        kept = bool((smallest * 1.5 - smallest > 0).all())
    if not kept:
        raise RoundingError(
            f"float64 on {device} flushes subnormal numbers to zero, which the error bounds do not"
            " allow for sums; call torch.set_flush_denormal(False) before anything else"
        )


@functools.cache
def _test_workers(device: str, threads: int) -> None:
    """The same with enough entries to employ every worker thread."""
    refuse_flushing(device, 2**16 * threads)


def self_test_single() -> None:
    """Check that float32 products on the CPU are plain ones, at their full precision.

    Raises:
        RoundingError: torch may shorten their factors, or a self-test says that it does.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    found = str(getattr(matmul, "fp32_precision", "none"))
    with suppress(RuntimeError):  # torch refuses to sum up settings of both kinds
        found = torch.get_float32_matmul_precision() if found in _ROUNDED else found
    if found not in ("highest", *_ROUNDED):
        raise RoundingError(
            f"torch may shorten the factors of float32 products to '{found}', which the bounds on"
            " a float32 program do not allow for; call"
            " torch.set_float32_matmul_precision('highest')"
        )
    for batch in (96, 1):  # one row is multiplied by other code
        _test_products("cpu", torch.float32, batch=batch)


@functools.cache
def _test_products(
    device: str,
    dtype: torch.dtype = torch.float64,
    terms: int = 256,
    rows: int = 96,
    batch: int = 96,
) -> None:
    """Compare badly scaled products with exact integers.

    The rows of one factor span 2^+-60 (2^+-20 in float32), and so do, in opposite ways, the terms
    of each inner product, so that an algorithm that adds entries of different rows (Strassen,
    Winograd), rounds to fewer bits, or scales a whole row alike (emulated double) misses the
    entrywise bound by many orders of magnitude.
    """
    bits, span, unit = (53, 60, UNIT) if dtype == torch.float64 else (24, 20, UNIT32)
    half = 2 ** (bits - 1)
    rng = random.Random(20220803)
    mantissa = [[rng.getrandbits(bits) - half for _ in range(terms)] for _ in range(rows)]
    factor = [[rng.getrandbits(bits) - half for _ in range(terms)] for _ in range(batch)]
    scales = [rng.randint(-span, span) for _ in range(rows)]
    inner = torch.tensor([2.0 ** rng.randint(-span, span) for _ in range(terms)], dtype=dtype)
    A = torch.tensor(mantissa, dtype=dtype) * inner
    A = (A * torch.tensor([2.0**s for s in scales], dtype=dtype)[:, None]).to(device)
    B = (torch.tensor(factor, dtype=dtype) / inner).to(device)
    products = {"linear": (B @ A.mT).T, "addmm": torch.addmm(B.new_zeros(rows), B, A.mT).T}
    products["batched"] = (A @ B.mT.expand(2, -1, -1).contiguous())[1]  # as of convolutions
    bound = gamma(terms, unit)
    for name, product in products.items():
        for _ in range(128):
            i, j = rng.randrange(rows), rng.randrange(batch)
            exact = sum(p * q for p, q in zip(mantissa[i], factor[j], strict=True))
            size = sum(abs(p * q) for p, q in zip(mantissa[i], factor[j], strict=True))
            found = math.ldexp(float(product[i, j]), -scales[i])
            error = abs(int(found) - exact) if math.isfinite(found) else math.inf
            if not error <= bound * size + 1:
                raise RoundingError(
                    f"this machine's {name} product on {device} is not a plain"
                    f" {str(dtype).removeprefix('torch.')} product (entry error {error:.3g},"
                    f" allowed {bound * size:.3g});"
                    " no rigorous verdict is possible here: use another BLAS or device"
                )

"""Boxes of inputs: [lo, hi], and the box of radius eps about a point inside its domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equicert import kernels
from equicert.errors import InputError
from equicert.rounding import add_down, add_up, centre_radius, refuse_flushing

Bound: TypeAlias = float | np.ndarray | Tensor  # a number for all coordinates, or (r,)
Domain: TypeAlias = tuple[Bound, Bound] | None

BLOCK = 2**18  # numbers that are worked on at a time, two megabytes: the caches hold a few of those


@dataclass(frozen=True)
class Box:
    """A batch of boxes {x : lo <= x <= hi}, lo and hi (batch, r), float64, finite, lo <= hi.

    Example: `Box(torch.zeros(2), torch.ones(2))` is the unit square (a batch of one).

    Raises:
        InputError: shapes differ, an entry is NaN or infinite, or lo > hi somewhere. An inverted
            box is never taken for an empty set: everything would hold on it.
    """

    lo: Tensor
    hi: Tensor

    def __post_init__(self) -> None:
        lo, hi = _matrix(self.lo, "lower"), _matrix(self.hi, "upper")
        if lo.shape != hi.shape:
            raise InputError(
                f"a box needs bounds of one shape, got lower {tuple(lo.shape)} and upper"
                f" {tuple(hi.shape)}"
            )
        if not (all_finite(lo) and all_finite(hi)):
            _refuse(lo.isfinite() & hi.isfinite(), lo, hi, "has a bound that is NaN or infinite")
        if not _ordered(lo, hi):
            _refuse(lo <= hi, lo, hi, "is inverted: lower > upper")
        object.__setattr__(self, "lo", lo)
        object.__setattr__(self, "hi", hi)

    @property
    def batch(self) -> int:
        """Number of boxes."""
        return self.lo.shape[0]

    @property
    def inputs(self) -> int:
        """Dimension r of the inputs."""
        return self.lo.shape[1]

    @classmethod
    def around(
        cls,
        x: Tensor,  # (batch, r) or (r,)
        eps: Bound,  # a number, (r,) or (batch, 1)
        domain: Domain = None,
    ) -> Box:
        """The box `[max(x - eps, lo), min(x + eps, hi)]`, rounded outwards to float64.

        Every real point of the exact box lies in it; a sum that float64 holds exactly is not
        widened. Use it for proofs, `within` for witnesses.

        Raises:
            InputError: eps negative or NaN, or a point outside its domain.
        """
        return Surroundings(x, eps, domain)[:]

    @classmethod
    def within(
        cls,
        x: Tensor,  # (batch, r) or (r,)
        eps: Bound,  # a number, (r,) or (batch, 1)
        domain: Domain = None,
    ) -> Box:
        """The same box rounded inwards: every float64 point of it lies in the exact box.

        Raises:
            InputError: as `around`.
        """
        x, eps, low, high = _prepare(x, eps, domain)
        lo, hi = torch.minimum(add_up(x, -eps), x), torch.maximum(add_down(x, eps), x)
        return cls(torch.maximum(lo, low), torch.minimum(hi, high))

    def centre_radius(self) -> tuple[Tensor, Tensor]:
        """(c, rho), both (batch, r): the box lies in the exact [c - rho, c + rho]."""
        return centre_radius(self.lo, self.hi)

    def clamp(
        self,
        x: Tensor,  # (batch, r)
    ) -> Tensor:
        """The nearest point of the box, row by row."""
        return torch.minimum(torch.maximum(x, self.lo), self.hi)

    def __getitem__(self, rows: slice | Tensor) -> Box:
        """The boxes of some rows (a slice or an index tensor)."""
        return Box(self.lo[rows], self.hi[rows])


class Surroundings:
    """The boxes `Box.around(x, eps, domain)`, checked at once and made some rows at a time.

    All boxes of a large data set at once would fill memory and not fit the caches.

    Example: `Surroundings(x, 0.1, (0.0, 1.0))[:1000].lo`

    Raises:
        InputError: as `Box.around`.
    """

    def __init__(
        self,
        x: Tensor,  # (batch, r) or (r,)
        eps: Bound,  # a number, (r,) or (batch, 1)
        domain: Domain = None,
    ) -> None:
        self._x, self._eps, self._low, self._high = _prepare(x, eps, domain)

    def __getitem__(self, rows: slice) -> Box:
        x = self._x[rows]
        eps = self._eps[rows] if self._eps.ndim == 2 else self._eps.reshape(1, -1)
        lo, hi, finite = _around(x, eps, self._low, self._high)
        if not finite:
            return Box(lo, hi)  # which says what is wrong
        box = object.__new__(Box)  # lo <= x <= hi by construction
        object.__setattr__(box, "lo", lo)
        object.__setattr__(box, "hi", hi)
        return box

    def inner(self, rows: slice) -> Box:
        """The boxes `Box.within`, for witnesses."""
        x = self._x[rows]
        eps = self._eps[rows] if self._eps.ndim == 2 else self._eps
        return Box.within(x, eps, (self._low, self._high))


def _around(
    x: Tensor,  # (batch, r)
    eps: Tensor,  # (1, 1), (1, r) or (batch, 1)
    low: Tensor,  # () or (r,)
    high: Tensor,  # () or (r,)
) -> tuple[Tensor, Tensor, bool]:  # (batch, r) each
    """The bounds of the boxes, and whether they are finite."""
    low, high = low.expand(x.shape[1]).contiguous(), high.expand(x.shape[1]).contiguous()
    if kernels.encloses(x, eps, low, high):
        refuse_flushing()
        return kernels.surround(x, eps, low, high)
    lo, hi = torch.empty_like(x), torch.empty_like(x)
    block = max(1, BLOCK // max(x.shape[1], 1))
    each = eps.expand(len(x), -1)
    for part, e, least, greatest in zip(*(t.split(block) for t in (x, each, lo, hi)), strict=True):
        torch.maximum(add_down(part, -e), low, out=least)
        torch.minimum(add_up(part, e), high, out=greatest)
    return lo, hi, all_finite(lo) and all_finite(hi)


def check_domain(
    x: Tensor,  # (batch, r)
    domain: Domain,
) -> tuple[Tensor, Tensor]:
    """The domain's bounds as float64 tensors that broadcast with x; x must lie between them.

    Raises:
        InputError: the domain is malformed, or a point lies outside it (sample and entry named).
    """
    low, high = (-torch.inf, torch.inf) if domain is None else domain
    lo = torch.as_tensor(low, dtype=torch.float64, device=x.device)
    hi = torch.as_tensor(high, dtype=torch.float64, device=x.device)
    if lo.shape not in ((), x.shape[1:]) or hi.shape not in ((), x.shape[1:]):
        raise InputError(
            f"a domain is two numbers or two vectors of length {x.shape[1]}, got shapes"
            f" {tuple(lo.shape)} and {tuple(hi.shape)}"
        )
    if not bool((lo <= hi).all()):
        raise InputError("the domain is inverted or NaN: its lower end must not exceed its upper")
    if not (_ordered(lo, x) and _ordered(x, hi)):
        outside = ~((x >= lo) & (x <= hi))
        row, column = (int(i) for i in outside.nonzero()[0])
        raise InputError(
            f"sample {row} lies outside its domain: entry {column} is {float(x[row, column]):.6g},"
            f" the domain is [{float(lo.min()):g}, {float(hi.max()):g}]; rescale the data or pass"
            " another domain"
        )
    return lo, hi


def _prepare(x: Tensor, eps: Bound, domain: Domain) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _matrix(x, "centre")
    if not all_finite(x):
        _refuse(x.isfinite(), x, x, "has a centre that is NaN or infinite")
    e = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    if e.shape not in ((), x.shape[1:], (x.shape[0], 1)):
        raise InputError(
            f"eps is a number or a vector of length {x.shape[1]}, got shape {tuple(e.shape)}"
        )
    if not bool((e >= 0).all()) or bool(e.isinf().any()):
        raise InputError(f"eps must be finite and >= 0, got {_first_bad(e)}")
    low, high = check_domain(x, domain)
    return x, e, low, high


def _first_bad(e: Tensor) -> float:
    bad = e.reshape(-1)[~((e >= 0) & e.isfinite()).reshape(-1)]
    return float(bad[0])


def _matrix(x: Tensor, name: str) -> Tensor:
    x = torch.as_tensor(x)
    if x.is_complex() or x.dtype == torch.bool:
        raise InputError(f"{name} bound must be real numbers, got {x.dtype}")
    x = x.detach().to(torch.float64)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2:
        raise InputError(f"{name} must have shape (batch, r) or (r,), got {tuple(x.shape)}")
    return x


def all_finite(
    x: Tensor,  # any shape
) -> bool:
    """Whether no entry is NaN or infinite: two numbers tell, far faster than `isfinite().all()`."""
    if not x.numel():
        return True
    least, greatest = x.aminmax()  # NaN if an entry is
    return bool(least.isfinite() & greatest.isfinite())


def _ordered(
    lo: Tensor,  # (batch, r) or ()
    hi: Tensor,  # (batch, r) or ()
) -> bool:
    """Whether `lo <= hi` in every entry; false where one is NaN."""
    if not lo.numel() or not hi.numel():
        return True
    if lo.ndim == 0 or hi.ndim == 0:
        return bool(lo.amax() <= hi.amin())
    return bool((hi - lo).amin() >= 0)  # a difference is never rounded to the other sign


def _refuse(ok: Tensor, lo: Tensor, hi: Tensor, what: str) -> NoReturn:
    row, column = (int(i) for i in (~ok).nonzero()[0])
    raise InputError(
        f"box {row} {what} at entry {column}"
        f" ([{float(lo[row, column]):.6g}, {float(hi[row, column]):.6g}])"
    )

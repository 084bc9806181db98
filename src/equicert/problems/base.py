"""Fixed-point problems: what a solver needs to know of the equation that it solves.

One shape serves the network's state, the embedded network's pair of bounds, both at once, and their
adjoints. Each comes in its full form `z = F(z)` and in the diagonally eliminated form, in
which every row's scalar equation is solved exactly (derived here).

Error bounds (derived here). Let A be the entrywise Lipschitz matrix of the eliminated map, so that
`A_ij <= |W_ij| / (1 - W_ii)`, and `g = eta - A eta > 0` the gaps of the contraction. If z has the
residual `|G(z) - z| <= t g`, then `|z - z*| <= t eta` entrywise, because `(I - A)^-1 >= 0`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from equicert.contraction import Contraction
from equicert.errors import ConfigError
from equicert.problems.sweep import Drive, Step, Sweep

# A change of so many units in the last place cannot be iterated away. Solvers leave it out of the
# bound that they stop on, and the rounding of the evaluation pays for it.
RESOLUTION = 4


class Problem(ABC):
    """A fixed-point equation on batches of rows z (batch, m).

    What is proved of W decides on its form, and that on the solvers that apply.
    """

    @property
    def depth(self) -> int:
        """Steps before which a small bound may be that of layers that nothing has reached yet."""
        return 0

    @abstractmethod
    def start(self) -> Tensor:
        """(batch, m) where to begin when nothing better is known."""


class ContractingProblem(Problem):
    """The equation of a network that contracts in a weighted sup-norm, in its two forms."""

    sweep: Sweep
    contraction: Contraction
    diagonal: Tensor  # (n,) of W, in the dtype of the solve
    drive: Drive  # what is added to the products

    @property
    def depth(self) -> int:
        return self.contraction.depth

    @abstractmethod
    def weights(self, span: slice) -> Tensor | None:  # (batch, m'), m' the columns of the states
        """What these states are multiplied by before W is; None where it is 1."""

    @abstractmethod
    def part(self, span: slice, sweep: Sweep | None, drive: Drive) -> ContractingProblem:
        """The equation of these states alone, the others being part of the drive.

        Without a sweep they do not depend on one another, and its `start` is the solution.
        """

    @abstractmethod
    def widening(self, span: slice) -> float | Tensor:  # (batch,)
        """How many times larger a bound on the part's error is as one on that of the whole."""

    @abstractmethod
    def widest(self, span: slice) -> float:
        """A bound on `widening` that no row has a part in."""

    @cached_property
    def largest_step(self) -> float:
        """`1 / (1 - min_i min(W_ii, 0))`: the largest alpha of [J22], Theorem 5.1."""
        return 1 / (1 - min(float(self.diagonal.min()), 0.0))

    @abstractmethod
    def full(self, z: Tensor) -> Tensor:
        """`F(z)`, diagonal included."""

    @abstractmethod
    def eliminated(self, z: Tensor) -> Tensor:
        """The same equation with each row's own term solved for: `G(z)`."""

    @abstractmethod
    def error_bound(self, residual: Tensor) -> Tensor:
        """(batch,) bound on the sup-norm error, from `G(z) - z` (batch, m); for z and for G(z)."""

    def stepper(self) -> Step:
        """A function from z to `G(z)` and its `error_bound`, for the steps of one solve.

        What it returns may be overwritten by the second step after it.
        """

        def step(z: Tensor) -> tuple[Tensor, Tensor]:
            following = self.eliminated(z)
            return following, self.error_bound(following - z)

        return step

    @abstractmethod
    def full_error_bound(self, residual: Tensor) -> Tensor:
        """The same from `F(z) - z`: `||z - z*|| <= ||F(z) - z|| / (1 - mu^+)`, weighted norm.

        It holds for every point that is no further from z* in that norm than z, too.
        """

    @abstractmethod
    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, m) each: how far rounding can move the computed `G(z)`, and `F(z)`."""


def contracting(problem: Problem) -> ContractingProblem:
    """The problem, if it is of the kind that Picard's and the average iteration solve.

    Raises:
        ConfigError: it is the monotone form.
    """
    if not isinstance(problem, ContractingProblem):
        raise ConfigError(
            "this solver needs a network that contracts in a weighted sup-norm, and this is the"
            " monotone form; use PeacemanRachford() or ForwardBackward()"
        )
    return problem


def resolution(
    z: Tensor,  # (batch, m)
) -> Tensor:  # (batch, m)
    """The change of z that further iteration cannot be expected to take away."""
    return z * (RESOLUTION * torch.finfo(z.dtype).eps)


def rounding_of(
    value: Tensor,  # (batch, m)
    terms: int,
) -> Tensor:  # (batch, m)
    """How far some twenty roundings can move `value`, and underflow in so many terms."""
    limits = torch.finfo(value.dtype)
    return (16 + RESOLUTION) * limits.eps * value.abs() + (terms + 8) * limits.tiny


def tile(
    v: Tensor,  # (n,)
    like: Tensor,
    blocks: int,
) -> Tensor:  # (blocks * n,)
    """v once per block of a row, in the type and on the device of `like`."""
    v = v.to(like)
    return v if blocks == 1 else torch.cat([v] * blocks)

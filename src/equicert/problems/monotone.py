"""The monotone form of the equation: what the splitting methods of [WK20] solve.

With `sym(Lambda (I - W)) >= m Lambda`, a residual is measured where phi has been applied (derived
here): for any t, `||phi(t) - z*||_Lambda <= ||W phi(t) + u - t||_Lambda / m`. The residual of the
fixed-point map, `phi(W z + u) - z`, divided by m bounds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from equicert.activations import Activation
from equicert.errors import ConfigError
from equicert.monotonicity import Monotone, lambda_norm
from equicert.operators import Operator
from equicert.problems.base import RESOLUTION, Problem, rounding_of


@final
@dataclass(frozen=True)
class Slopes:
    """The linear map `t -> D t` in the place that phi has in an adjoint equation."""

    D: Tensor  # (batch, n) in [0, 1]

    def phi(self, t: Tensor) -> Tensor:
        return self.D * t

    def psi(self, r: Tensor, d: Tensor) -> Tensor:
        return self.D * r / (1 - d * self.D)


@final
@dataclass(frozen=True)
class Splitting:
    """W with what the splitting methods need of it, worked out once for all batches.

    Attributes:
        W: (n, n) in the dtype of the solve, without history.
        proof: Lambda and m.
        source: the splitting whose adjoint this is, if it is one: they share their factors.
    """

    W: Operator
    proof: Monotone
    source: Splitting | None = None

    @cached_property
    def Lambda(self) -> Tensor:  # noqa: N802 - the paper's letter
        """(n,) in the dtype of the solve."""
        return self.proof.Lambda.to(self.W.diagonal())

    @cached_property
    def magnitude(self) -> Operator:
        """`|W|`."""
        return self.W.absolute()

    @cached_property
    def largest(self) -> float:
        """`L = ||I - W||_Lambda`, floating point: step sizes are proposals, not proofs."""
        if self.source is not None:
            return self.source.largest
        root = self.Lambda.double().sqrt()
        A = self._shifted(1.0) * root[:, None] / root
        size = A.abs().amax()
        A = A / size  # whose square does not overflow
        return float(torch.linalg.eigvalsh(A @ A.mT)[-1].clamp(min=0).sqrt() * size)

    @cached_property
    def transposed(self) -> Splitting:
        """That of the adjoint equation."""
        return Splitting(self.W.transpose(), self.proof.transposed, self)

    @cached_property
    def _inverses(self) -> dict[float, Tensor]:
        return {}

    def resolvent(self, alpha: float) -> Tensor:  # (n, n)
        """`((1 + alpha) I - alpha W)^-1`, the resolvent of the linear part."""
        if self.source is not None:
            return self.source.resolvent(alpha).mT
        if alpha not in self._inverses:
            identity = torch.eye(len(self.Lambda), dtype=torch.float64, device=self.Lambda.device)
            inverse = torch.linalg.inv_ex(identity + alpha * self._shifted(1.0))[0]
            self._inverses[alpha] = inverse.to(self.Lambda)
        return self._inverses[alpha]

    def _shifted(self, diagonal: float) -> Tensor:  # (n, n) float64
        return torch.diag_embed(self.Lambda.new_full(self.Lambda.shape, diagonal).double()) - (
            self.W.dense().double()
        )


@final
@dataclass(frozen=True)
class MonotoneProblem(Problem):
    """`z = phi(W z + u)` for a monotone W, or the adjoint `p = D (W^T p + g)`.

    Attributes:
        u: (batch, n).
        u_error: gives (batch, n) bounds on the rounding error of u; asked only where a radius is.
        response: phi, or D.
    """

    splitting: Splitting
    u: Tensor
    u_error: Callable[[], Tensor]
    response: Activation | Slopes

    def preactivation(self, z: Tensor) -> Tensor:  # (batch, n)
        """`W z + u`."""
        return self.splitting.W.affine(z, self.u)

    def slope(
        self,
        z: Tensor,  # (batch, n)
        image: bool,
    ) -> Tensor:  # (batch, n)
        """phi' at the solution z, as `PrimalProblem.slope`."""
        phi = self.response
        if not isinstance(phi, Activation):
            return phi.D
        return phi.slope_at(z, image, self.preactivation)

    def prox(
        self,
        v: Tensor,  # (batch, n)
        alpha: float,
    ) -> Tensor:  # (batch, n)
        """`prox_f^alpha(v)`, where phi is `prox_f^1`: the z with `z = phi(z + (v - z) / alpha)`.

        That is the scalar equation of diagonal elimination with the diagonal `1 - 1/alpha`, exact
        for every activation (derived here); [WK20] state it for ReLU, which does not depend on
        alpha.
        """
        return self.response.psi(v / alpha, v.new_tensor(1 - 1 / alpha))

    def land(
        self,
        t: Tensor,  # (batch, n) any preactivation
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch, n), (batch, n), (batch,)
        """`phi(t)`, its preactivation, and the bound on its error that their distance gives."""
        z = self.response.phi(t)
        following = self.preactivation(z)
        return z, following, self.error_bound(following - t)

    def error_bound(
        self,
        residual: Tensor,  # (batch, n) W phi(t) + u - t
    ) -> Tensor:  # (batch,)
        """Bound on `||phi(t) - z*||_Lambda`, which the sup-norm does not exceed: Lambda >= 1."""
        n, unit = residual.shape[-1], torch.finfo(residual.dtype).eps
        norm = lambda_norm(residual, self.splitting.Lambda) * (1 + (n + 16) * unit)
        return norm / self.splitting.proof.m

    def evaluation_error(
        self,
        z: Tensor,  # (batch, n)
        alpha: float,
    ) -> Tensor:  # (batch,)
        """What the rounding of `W z + u - t`, of phi, and of t's own size adds to the bound."""
        terms, unit = self.splitting.W.terms, torch.finfo(z.dtype).eps
        value = rounding_of(z, terms)
        size, moved = self.splitting.magnitude.apply(torch.cat([z.abs(), value])).chunk(2)
        residual = (terms + 8) * unit * (size + self.u.abs()) + moved + self.u_error()
        own = lambda_norm(value, self.splitting.Lambda)
        return self.error_bound(residual) + self.resolution(z, alpha) + own

    def resolution(
        self,
        z: Tensor,  # (batch, n)
        alpha: float,
    ) -> Tensor:  # (batch,)
        """What cannot be iterated away: a step of size alpha moves t by 1/alpha times z."""
        size = z.abs() * (1 + 1 / alpha) + self.preactivation(z).abs()
        return self.error_bound(size * (RESOLUTION * torch.finfo(z.dtype).eps))

    def adjoint(
        self,
        g: Tensor,  # (batch, n) cotangent of z
        slope: Tensor,  # (batch, n) phi' at the solution
    ) -> MonotoneProblem:
        """`p = D (W^T p + g)`, p the cotangent of the preactivation: W^T is monotone, too."""
        return MonotoneProblem(
            self.splitting.transposed, g, lambda: torch.zeros_like(g), Slopes(slope)
        )

    def start(self) -> Tensor:
        return self.response.phi(self.u)


def monotone(problem: Problem) -> MonotoneProblem:
    """The problem, if it is of the kind that splitting methods solve.

    Raises:
        ConfigError: it is the contracting form.
    """
    if not isinstance(problem, MonotoneProblem):
        raise ConfigError(
            "a splitting method solves the monotone form of a network, and this is the contracting"
            " one: use Picard() or Anderson(), or ask the network for its monotone_problem"
        )
    return problem

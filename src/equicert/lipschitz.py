"""Lipschitz bounds in the sup-norm as values: to train with, and proved for stored weights.

All of them bound how far the state moves, entry by entry, when x moves by at most 1:

    |z*(x) - z*(x')| <= s ||x - x'||_inf,   so that   |F y(x) - F y(x')| <= |F C| s ||x - x'||_inf

for any rows F. They differ in s alone: `Weighted` is Theorem 6.1 of [J22], `RowSum` the bound of
[EG21], `Derived` the one derived here, which is never above the other two:

    true constant <= Derived <= Weighted at every valid eta;   Weighted at eta = 1 <= RowSum.

The formulas return numbers for networks that do not contract, too, and those are false: all of them
are refused without a proof of contraction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from equicert.activations import Identity
from equicert.contraction import Contraction
from equicert.enclosures import Enclosure
from equicert.errors import InputError, NotConvergedError, RowSumError
from equicert.implicit_diff import attach
from equicert.materialised import Materialised
from equicert.norms import metzler_majorant
from equicert.operators import Dense, Operator
from equicert.policies import failure
from equicert.problems import AdjointProblem, Drive, PrimalProblem, Sweep
from equicert.rounding import down, up
from equicert.solvers import Anderson, solve
from equicert.stored import StoredNetwork

MOST_INVERTED = 4096  # states up to which `(I - beta M)^-1` is formed
_TOLERANCE, _MAX_STEPS = 1e-10, 5000  # of the iteration beyond, relative to what drives it


class LipschitzBound(ABC):
    """A way to bound the sup-norm Lipschitz constant of y."""

    name: str

    @abstractmethod
    def state_value(self, at: Materialised) -> Tensor:  # (n,)
        """s in floating point, differentiable, for a network that is being trained.

        Raises:
            RowSumError: the bound is not defined for this W.
        """

    @abstractmethod
    def states(self, network: StoredNetwork) -> Tensor:  # (n,)
        """s, rounded upwards.

        Raises:
            NotContractingError: the formula would still return numbers, and they would be false.
            RowSumError: as `state_value`.
            NotConvergedError: mu(W) is too close to 1 for float64.
        """

    def value(
        self,
        at: Materialised,
        C: Tensor,  # (q, n)
    ) -> Tensor:  # ()
        """`|| |C| s ||_inf` in floating point, differentiable: what (8) of [J22] penalises.

        Raises:
            NotContractingError: the network has no proof of contraction.
            RowSumError: as `state_value`.
        """
        _ = at.contraction  # whatever else makes the network well-posed
        return (C.abs() @ self.state_value(at)).amax()

    @torch.no_grad()
    def constant(self, network: StoredNetwork) -> float:
        """The bound on `Lip_inf`, rounded upwards.

        Raises:
            NotContractingError, RowSumError, NotConvergedError: as `states`.
        """
        s = self.states(network)[None]
        return float(Enclosure.of(Dense(network.C)).magnitude_above(s).amax())

    @torch.no_grad()
    def margins(self, network: StoredNetwork) -> Tensor:  # (q, q)
        """Bounds `|C_i - C_j| s` on the constant of each margin `y_i - y_j`, rounded upwards.

        Derived here; the diagonal is 0.

        Raises:
            NotContractingError, RowSumError, NotConvergedError: as `states`.
        """
        differences = network.C[:, None, :] - network.C[None, :, :]
        rows = Enclosure.of(Dense(up(differences.abs()).reshape(-1, network.states)))
        found = rows.magnitude_above(self.states(network)[None])[0]
        return found.reshape(network.outputs, network.outputs).fill_diagonal_(0)


@final
@dataclass(frozen=True)
class Weighted(LipschitzBound):
    """`(eta_max/eta_min) ||U|| ||C|| / (1 - mu^+)`, induced inf-norms: [J22], Theorem 6.1.

    eta is that of the proof of contraction: the parametrisation's, or the stored one, if it passes.
    """

    name = "weighted"

    def state_value(self, at: Materialised) -> Tensor:  # (n,)
        eta = at.eta
        mu = at.W.measure(eta).clamp(min=0)
        s = eta.amax() / eta.amin() * at.U.absolute_row_sums().amax() / (1 - mu)
        return s.expand(len(at.b))

    @torch.no_grad()
    def states(self, network: StoredNetwork) -> Tensor:  # (n,)
        contraction = network.contraction
        ratio = up(contraction.eta.amax() / contraction.eta.amin())
        gap = down(1 - network.b.new_ones(()) * max(contraction.mu, 0.0))
        return up(up(ratio * _input_norm(network)) / gap).expand(network.states)


@final
@dataclass(frozen=True)
class RowSum(LipschitzBound):
    """`||U||_inf ||C||_inf / (1 - ||W||_inf)`, where `||W||_inf < 1`: [EG21]."""

    name = "row-sum"

    def state_value(self, at: Materialised) -> Tensor:  # (n,)
        sums = at.W.absolute_row_sums()
        gap = 1 - sums.amax()
        if not bool(gap > 0):
            raise RowSumError(float(sums.detach().amax()), int(sums.argmax()))
        return (at.U.absolute_row_sums().amax() / gap).expand(len(at.b))

    @torch.no_grad()
    def states(self, network: StoredNetwork) -> Tensor:  # (n,)
        _ = network.contraction  # implied, but y is computed and proved by it
        ones = network.b.new_ones(1, network.states)
        sums = up(network.off_diagonal.magnitude_above(ones)[0] + network.diagonal.abs())
        gap = down(1 - sums.amax())
        if not bool(gap > 0):
            raise RowSumError(float(sums.amax()), int(sums.argmax()))
        return up(_input_norm(network) / gap).expand(network.states)


@final
@dataclass(frozen=True)
class Derived(LipschitzBound):
    """`|| |C| (I - M)^-1 |U| ||_inf`, M the Metzler majorant of W (derived here); free of eta.

    With slopes at most beta (sigmoid: 1/4), `s = (I - beta M)^-1 beta |U| 1`.
    """

    name = "derived"

    def state_value(self, at: Materialised) -> Tensor:  # (n,)
        # The system is as good as mu(W) is below 1, for which float32 may be too coarse.
        beta = at.beta
        driven = beta * at.U.absolute_row_sums().double()
        if not isinstance(at.W, Dense):
            return _iterated(at, driven[None])[0].to(at.b.dtype)
        W = at.W.A.double()
        system = torch.eye(len(W), dtype=W.dtype, device=W.device) - beta * metzler_majorant(W)
        return torch.linalg.solve(system, driven).to(at.b.dtype)

    @torch.no_grad()
    def states(self, network: StoredNetwork) -> Tensor:  # (n,)
        return zeta_bound(network, network.b.new_ones(1, network.inputs))[0]


BOUNDS: Final[Mapping[str, LipschitzBound]] = {
    bound.name: bound for bound in (Weighted(), RowSum(), Derived())
}


def _input_norm(network: StoredNetwork) -> Tensor:  # ()
    """`||U||_inf`, rounded upwards."""
    return network.input_map.magnitude_above(network.b.new_ones(1, network.inputs)).amax()


def propose_zeta(
    network: StoredNetwork,
    driven: Tensor,  # (batch, n) |U| x_r
) -> Tensor:  # (batch, n)
    """A floating-point `(I - beta M)^-1 beta |U| x_r`; `zeta_bound` or a box test proves it.

    By the inverse, or in large networks by iteration: it is the fixed point of a contracting one.
    """
    beta = network.activation.beta
    if network.states <= MOST_INVERTED:
        return torch.mm(beta * driven, network.sensitivity.mT).clamp_(min=0)
    rest, own = network.off_diagonal.magnitude, network.diagonal
    problem = _problem(rest, own, beta, beta * driven, network.contraction)
    return solve(problem, Anderson(), _tolerance(driven), _MAX_STEPS).value.clamp(min=0)


def _problem(
    rest: Operator,  # (n, n) |W_off|
    own: Tensor,  # (n,) of W
    beta: float,
    driven: Tensor,  # (batch, n)
    contraction: Contraction,  # of W: its eta serves beta M, too, and its rate is no less
) -> PrimalProblem:
    """`s = beta M s + driven`."""
    sweep = Sweep(rest.map(lambda entries: beta * entries))
    error = torch.zeros_like(driven)
    return PrimalProblem(sweep, beta * own, Drive(driven), lambda: error, Identity(), contraction)


def _tolerance(driven: Tensor) -> float:
    return _TOLERANCE * max(float(driven.amax()), 2.0**-900)


def _iterated(
    at: Materialised,
    driven: Tensor,  # (1, n)
) -> Tensor:  # (1, n)
    """`(I - beta M)^-1 driven` by products, its gradients by an adjoint solve."""
    W = at.W.to(dtype=torch.float64)
    plain, given = W.detach(), driven.detach()
    rest, own = plain.off_diagonal().absolute(), plain.diagonal()
    problem = _problem(rest, own, at.beta, given, at.contraction)

    def solved(problem: PrimalProblem | AdjointProblem, size: Tensor) -> Tensor:
        solution = solve(problem, Anderson(), _tolerance(size), _MAX_STEPS)
        if not bool(solution.converged.all()):
            raise failure("Lipschitz bound", solution, "mu(W) is too close to 1")
        return solution.value

    with torch.no_grad():
        s = solved(problem, given)

    def cotangents(g: Tensor) -> list[Tensor]:
        p = solved(problem.adjoint(g, torch.ones_like(g)), g.abs())
        return [*(at.beta * part for part in plain.cotangents(s, p, majorant=True)), p]

    return attach(s, [*W.tensors().values(), driven], cotangents)


@torch.no_grad()
def zeta_bound(
    network: StoredNetwork,
    radius: Tensor,  # (batch, r) half-widths x_r >= 0
) -> Tensor:  # (batch, n)
    """A proved zeta: `|z*(x) - z*(x0)| <= zeta` entrywise for `|x - x0| <= x_r`.

    Any zeta >= 0 with `beta (|W_off| zeta + |U| x_r)_i <= (1 - beta W_ii) zeta_i` for all i serves,
    of which `(I - beta M)^-1 beta |U| x_r` is the least (derived here). The candidate is widened
    along eta until that holds in rounded arithmetic.

    Raises:
        NotContractingError: the inequality proves nothing without a contracting network.
        NotConvergedError: no widening passed the test.
        InputError: a half-width is negative.
    """
    if bool((radius < 0).any()):
        raise InputError(f"half-widths must be >= 0, got {float(radius.min()):.6g}")
    contraction = network.contraction
    beta = network.activation.beta
    driven = network.input_map.magnitude_above(radius)
    candidate = propose_zeta(network, driven)
    for factor in (1e-13, 1e-10, 1e-6, 1e-3):
        scale = (candidate / contraction.eta).amax(-1, keepdim=True)
        zeta = candidate + (factor * scale + 2.0**-900) * contraction.eta
        left = up(beta * up(network.off_diagonal.magnitude_above(zeta) + driven))
        right = down(down(1 - up(beta * network.diagonal)) * zeta)
        if bool((left <= right).all()):
            return zeta
    raise NotConvergedError(
        "Lipschitz bound",
        len(radius),
        len(radius),
        float("inf"),
        "no zeta passed the rounded test: mu(W) is too close to 1 for float64",
    )

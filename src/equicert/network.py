"""`ImplicitNetwork`: the trainable network, an `nn.Module`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from equicert.activations import Activation, ReLU
from equicert.contraction import Contraction, prove_contraction
from equicert.errors import InputError
from equicert.implicit_diff import attach
from equicert.operators import Dense, Operator
from equicert.policies import Policy, Raise
from equicert.problems import AdjointProblem, EmbeddedProblem, Problem, StateProblem, drive_error
from equicert.solution import Solution
from equicert.solvers import Picard, Solver, advice, solve
from equicert.stored import StoredNetwork
from equicert.weights import Contracting, Free, Weight


@dataclass(frozen=True)
class Materialised:
    """The operators of one moment, with gradients to the parameters, and their proved contraction.

    Made once per training step and shared by the forward and the embedded solve.
    """

    W: Operator
    U: Operator
    b: Tensor
    contraction: Contraction

    @cached_property
    def fixed(self) -> tuple[Operator, Operator, Tensor]:
        """`(W_off, |W_off|, diagonal)` without gradient history, for the solvers."""
        W = self.W.detach()
        off = W.off_diagonal()
        return off, off.absolute(), W.diagonal()


@final
class ImplicitNetwork(nn.Module):
    """`z = phi(W z + U x + b)`, `y = C z + c` ([J22], equation (4)); maps (..., r) to (..., q).

    Example:
        >>> network = ImplicitNetwork(inputs=64, hidden=100, outputs=10)
        >>> y = network(torch.rand(32, 64))  # (32, 10), differentiable
        >>> stored = network.store()  # what `equicert.certify` takes

    Args:
        inputs, hidden, outputs: r, n, q.
        activation: phi.
        gamma: bound on mu(W) for the default `weight`, below 1.
        weight: the parametrisation of W; default `Contracting(hidden, gamma)`.
        solver: how fixed points are computed, forward and adjoint.
        tolerance: sup-norm error radius at which each sample stops; of an adjoint solve, relative
            to the sample's largest cotangent.
        max_steps: limit of steps a solve.
        on_unconverged: policy for solves that miss the tolerance.

    Raises:
        NotContractingError: on use, when mu(W) < 1 cannot be proved for the present W.
        NotConvergedError: on use, by the policy `Raise`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        activation: Activation | None = None,
        gamma: float = 0.0,
        weight: Weight | None = None,
        solver: Solver | None = None,
        tolerance: float = 1e-4,
        max_steps: int = 2000,
        on_unconverged: Policy | None = None,
    ) -> None:
        super().__init__()
        if min(inputs, hidden, outputs) < 1:
            raise InputError(f"sizes must be at least 1, got {inputs}, {hidden}, {outputs}")
        self.activation = activation or ReLU()
        self.solver = solver or Picard()
        self.tolerance, self.max_steps = tolerance, max_steps
        self.policy = on_unconverged or Raise()
        self.weight = weight if weight is not None else Contracting(hidden, gamma)
        self.U = nn.Parameter(_uniform(hidden, inputs, fan_in=inputs))
        self.b = nn.Parameter(_uniform(hidden, fan_in=inputs))
        self.C = nn.Parameter(_uniform(outputs, hidden, fan_in=hidden))
        self.c = nn.Parameter(_uniform(outputs, fan_in=hidden))

    def forward(
        self,
        x: Tensor,  # (..., r)
    ) -> Tensor:  # (..., q)
        self._check(x)
        rows = x.reshape(-1, x.shape[-1])
        z = self.state(rows, self.materialise())
        return self.read_out(z).reshape(*x.shape[:-1], len(self.c))

    def read_out(
        self,
        z: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, q)
        """`y = C z + c`."""
        return torch.addmm(self.c, z, self.C.mT)

    def materialise(self) -> Materialised:
        """W, U, b as they are now, with mu(W) < 1 proved again for this very W.

        Raises:
            NotContractingError: it cannot be proved.
        """
        W = self.weight()
        if W.shape[0] != len(self.b):
            raise InputError(
                f"the weight has {W.shape[0]} states, the network {len(self.b)} hidden units"
            )
        return Materialised(W, Dense(self.U), self.b, prove_contraction(W, self.weight.eta()))

    def state(
        self,
        x: Tensor,  # (batch, r)
        at: Materialised,
    ) -> Tensor:  # (batch, n)
        """`z*(x)`, differentiable by one adjoint solve."""
        z = self._solve("forward", self.state_problem(x, at)).value
        if not torch.is_grad_enabled():
            return z
        t = at.W.apply(z) + at.U.apply(x) + at.b
        off, _, diagonal = at.fixed
        return self._attach(t, z, off.transpose(), None, diagonal, at.contraction)

    def state_problem(
        self,
        x: Tensor,  # (batch, r)
        at: Materialised,
    ) -> StateProblem:
        """The equation of z for each row of x, without gradient history."""
        self._check(x, rows=True)
        with torch.no_grad():
            off, _, diagonal = at.fixed
            U, b = at.U.detach(), at.b.detach()
            u = U.apply(x) + b
            error = drive_error(U, x.abs(), b)
            return StateProblem(off, diagonal, u, error, self.activation, at.contraction)

    def reach(
        self,
        lo: Tensor,  # (batch, r)
        hi: Tensor,  # (batch, r)
        at: Materialised | None = None,
    ) -> tuple[Tensor, Tensor]:  # (batch, n) each
        """The embedded network's fixed point ([J22], Thm 6.3): bounds on z*(x) over [lo, hi].

        Differentiable. Good to the tolerance, not rounded outwards: train with it, and let
        `equicert.certify` prove.
        """
        at = at or self.materialise()
        self._check(lo, rows=True)
        self._check(hi, rows=True)
        if lo.shape != hi.shape or not bool((lo <= hi).all()):
            raise InputError(
                "the box is inverted or NaN, or its ends differ in shape:"
                f" lower {tuple(lo.shape)} must not exceed upper {tuple(hi.shape)}"
            )
        u_c = at.U.apply(0.5 * (lo + hi)) + at.b
        u_r = at.U.absolute().apply(0.5 * (hi - lo))
        z = self._solve("embedded", self._embedded_problem(u_c, u_r, lo, hi, at)).value
        if not torch.is_grad_enabled():
            zlo, zhi = z.chunk(2, -1)
            return zlo, zhi
        zlo, zhi = z.chunk(2, -1)
        rho = 0.5 * (zhi - zlo)
        t_c = at.W.apply(0.5 * (zlo + zhi)) + u_c
        t_r = at.W.off_diagonal().absolute().apply(rho) + at.W.diagonal() * rho + u_r
        off, magnitude, diagonal = at.fixed
        t = torch.cat([t_c - t_r, t_c + t_r], -1)
        attached = self._attach(
            t, z, off.transpose(), magnitude.transpose(), diagonal, at.contraction
        )
        zlo, zhi = attached.chunk(2, -1)
        return zlo, zhi

    @torch.no_grad()
    def solve(
        self,
        x: Tensor,  # (batch, r)
    ) -> Solution:
        """The fixed points with residual, error radius and steps; never raises if unconverged."""
        return solve(
            self.state_problem(x, self.materialise()), self.solver, self.tolerance, self.max_steps
        )

    @torch.no_grad()
    def store(self) -> StoredNetwork:
        """The network with exactly its present weights, on the CPU, for certification."""
        at = self.materialise()
        double = torch.float64
        return StoredNetwork(
            at.W.detach().to("cpu", double).map(torch.clone),
            at.U.detach().to("cpu", double).map(torch.clone),
            *(p.detach().to("cpu", double).clone() for p in (self.b, self.C, self.c)),
            activation=self.activation,
            eta=at.contraction.eta.to("cpu"),
        )

    @classmethod
    def from_stored(
        cls,
        stored: StoredNetwork,
        *,
        solver: Solver | None = None,
        tolerance: float = 1e-9,
        max_steps: int = 10_000,
        on_unconverged: Policy | None = None,
    ) -> ImplicitNetwork:
        """A float64 module with W free, exactly the stored weights: for attacks and fine-tuning."""
        W = stored.W.dense()
        network = cls(
            stored.inputs,
            stored.states,
            stored.outputs,
            activation=stored.activation,
            weight=Free(W, stored.contraction.eta),
            solver=solver,
            tolerance=tolerance,
            max_steps=max_steps,
            on_unconverged=on_unconverged,
        ).to(W)
        with torch.no_grad():
            network.U.copy_(stored.U.dense())
            network.b.copy_(stored.b)
            network.C.copy_(stored.C)
            network.c.copy_(stored.c)
        return network

    def _embedded_problem(
        self, u_c: Tensor, u_r: Tensor, lo: Tensor, hi: Tensor, at: Materialised
    ) -> EmbeddedProblem:
        with torch.no_grad():
            off, magnitude, diagonal = at.fixed
            u = torch.cat([u_c - u_r, u_c + u_r], -1).detach()
            size = 2 * torch.maximum(lo.abs(), hi.abs())
            error = drive_error(at.U.detach(), size, at.b.detach()).repeat(1, 2)
            return EmbeddedProblem(
                off, magnitude, diagonal, u, error, self.activation, at.contraction
            )

    def _attach(
        self,
        t: Tensor,  # (batch, m)
        z: Tensor,  # (batch, m)
        transposed: Operator,
        transposed_magnitude: Operator | None,
        diagonal: Tensor,  # (n,)
        contraction: Contraction,
    ) -> Tensor:  # (batch, m)
        """Tie z to t: see `implicit_diff`. The adjoint runs by the same solver as the forward.

        It is linear in g, which may be small (a mean over a batch): the tolerance is taken relative
        to each row's largest entry. A NaN stays one, and no solve with it converges.
        """
        slope = self.activation.slope(t.detach())

        def adjoint(g: Tensor) -> Tensor:
            size = g.abs().amax(-1, keepdim=True)
            size = torch.where(size == 0, torch.ones_like(size), size)
            problem = AdjointProblem(
                transposed, transposed_magnitude, diagonal, g / size, slope, contraction
            )
            return slope * size * self._solve("adjoint", problem).value

        return attach(t, z, adjoint)

    @torch.no_grad()
    def _solve(self, what: str, problem: Problem) -> Solution:
        solution = solve(problem, self.solver, self.tolerance, self.max_steps)
        hint = ""
        if not bool(solution.converged.all()):
            hint = advice(problem, self.solver, solution, self.tolerance)
        self.policy.observe(f"{what} solve", solution, hint)
        return solution

    def _check(self, x: Tensor, rows: bool = False) -> None:
        """Raise InputError unless x has the network's width and type, and is a batch of rows."""
        if x.ndim == 0 or x.shape[-1] != self.U.shape[1] or (rows and x.ndim != 2):
            wanted = f"({'batch' if rows else '...'}, {self.U.shape[1]})"
            raise InputError(f"this network takes inputs {wanted}, got {tuple(x.shape)}")
        if x.dtype != self.U.dtype:
            raise InputError(
                f"inputs are {x.dtype}, the network is {self.U.dtype}; convert one with .to(dtype)"
            )


def _uniform(*shape: int, fan_in: int) -> Tensor:
    return (2 * torch.rand(shape) - 1) / math.sqrt(fan_in)

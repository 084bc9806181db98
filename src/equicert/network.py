"""`ImplicitNetwork`: the trainable network, an `nn.Module`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from equicert import kernels
from equicert.activations import Activation, activation_of
from equicert.contraction import Contraction
from equicert.errors import InputError
from equicert.implicit_diff import attach, unit_rows
from equicert.materialised import Materialised
from equicert.monotonicity import Monotone
from equicert.policies import Policy, Raise
from equicert.problems import Drive, MonotoneProblem, PrimalProblem, Problem
from equicert.solution import Solution
from equicert.solvers import Anderson, PeacemanRachford, Picard, Solver, advice, solve
from equicert.stored import StoredNetwork
from equicert.weights import (
    Confined,
    Contracting,
    DenseInput,
    InputMap,
    Weight,
    input_map_of,
    weight_of,
)


@final
class ImplicitNetwork(nn.Module):
    """`z = phi(W z + U x + b)`, `y = C z + c` ([J22], equation (4)); maps (..., r) to (..., q).

    Example:
        >>> network = ImplicitNetwork(inputs=64, hidden=100, outputs=10)
        >>> y = network(torch.rand(32, 64))  # (32, 10), differentiable
        >>> stored = network.store()  # what `equicert.certify` takes

    Args:
        inputs, hidden, outputs: r, n, q.
        activation: phi, or its name.
        gamma: bound on mu(W) for the default `weight`, below 1.
        weight: the parametrisation of W; default `Contracting(hidden, gamma)`. Where it says which
            states x drives and y is read from, the rest of U and C stays 0.
        input_map: what U stands for; default a full matrix.
        input_gain: U begins uniform on `+-input_gain/sqrt(k)`, k the inputs that a state reads; 1
            is what torch.nn.Linear does.
        solver: how fixed points are computed, forward and adjoint; default Picard(), or
            PeacemanRachford() for a weight that is monotone.
        tolerance: sup-norm error radius at which each sample stops; of an adjoint solve, relative
            to the sample's largest cotangent.
        max_steps: limit of steps a solve.
        on_unconverged: policy for solves that miss the tolerance.

    Raises:
        NotContractingError, NotMonotoneError: on use, when what the weight promises cannot be
            proved for the present W.
        NotConvergedError: on use, by the policy `Raise`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        activation: Activation | str = "relu",
        gamma: float = 0.0,
        weight: Weight | None = None,
        input_map: InputMap | None = None,
        input_gain: float = 1.0,
        solver: Solver | None = None,
        tolerance: float = 1e-4,
        max_steps: int = 2000,
        on_unconverged: Policy | None = None,
    ) -> None:
        super().__init__()
        if min(inputs, hidden, outputs) < 1:
            raise InputError(f"sizes must be at least 1, got {inputs}, {hidden}, {outputs}")
        self.activation = activation_of(activation)
        self.weight = weight if weight is not None else Contracting(hidden, gamma)
        self.solver = solver or (PeacemanRachford() if self.weight.monotone else Picard())
        self.tolerance, self.max_steps = tolerance, max_steps
        self.policy = on_unconverged or Raise()
        driven, read = self.weight.driven, self.weight.read
        for mask in (driven, read):
            self._check_states(hidden if mask is None else len(mask), hidden)
        read_from = hidden if read is None else int(read.sum())
        self.inputs = inputs
        self.input_map = input_map or DenseInput((hidden, inputs))
        shape = self.input_map.parameter
        fan_in = math.prod(shape[1:])
        self.U = nn.Parameter(_uniform(*shape, fan_in=fan_in).mul_(input_gain))
        self.input_map.check(self.U.detach(), hidden, inputs)
        self.b = nn.Parameter(_uniform(hidden, fan_in=fan_in))
        self.C = nn.Parameter(_uniform(outputs, hidden, fan_in=read_from))
        self.c = nn.Parameter(_uniform(outputs, fan_in=read_from))
        for name, mask in (("U", None if driven is None else driven[:, None]), ("C", read)):
            if mask is not None:
                register_parametrization(self, name, Confined(mask))

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
        """W, U, b as they are now, with the weight's kind of proof made again for this very W.

        Raises:
            NotContractingError, NotMonotoneError: it cannot be proved.
        """
        W = self.weight.given(self.U, self.C)
        self._check_states(W.shape[0], len(self.b))
        eta, beta = self.weight.eta(), self.activation.beta
        U = self.input_map.operator(self.U)
        return Materialised(W, U, self.b, self.weight.proof(W), eta, beta)

    def state(
        self,
        x: Tensor,  # (batch, r)
        at: Materialised,
    ) -> Tensor:  # (batch, n)
        """`z*(x)`, differentiable by one adjoint solve."""
        self._check(x, rows=True)
        drive = Drive(at.U.affine(x, at.b))
        return self._fixed_point("forward", drive, lambda: at.input_error(x), at)

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
        self._check_box(lo, hi)
        drive = Drive(at.U.affine(0.5 * (lo + hi), at.b), at.U.absolute().apply(0.5 * (hi - lo)))
        bounds = self._fixed_point(
            "embedded", drive, lambda: at.input_error(lo, hi).repeat(1, 2), at
        )
        zlo, zhi = bounds.chunk(2, -1)
        return zlo, zhi

    def state_and_reach(
        self,
        x: Tensor,  # (batch, r)
        lo: Tensor,  # (batch, r)
        hi: Tensor,  # (batch, r)
        at: Materialised | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch, n) each
        """`state(x)` and `reach(lo, hi)` by one solve and one adjoint: they share products."""
        at = at or self.materialise()
        self._check(x, rows=True)
        both, half = self._centres(x, lo, hi)
        centre = at.U.affine(both, at.b).view(len(x), 2 * len(at.b))
        drive = Drive(centre, at.U.absolute().apply(half))

        def error() -> Tensor:
            pair = at.input_error(lo, hi)
            return torch.cat([at.input_error(x), pair, pair], -1)

        z, zlo, zhi = self._fixed_point("joint", drive, error, at).chunk(3, -1)
        return z, zlo, zhi

    def state_problem(
        self,
        x: Tensor,  # (batch, r)
        at: Materialised,
    ) -> PrimalProblem:
        """The equation of z for each row of x, without gradient history."""
        self._check(x, rows=True)
        return self._contracting(Drive(at.U.affine(x, at.b)), lambda: at.input_error(x), at)

    @torch.no_grad()
    def solve(
        self,
        x: Tensor,  # (batch, r)
    ) -> Solution:
        """The fixed points with residual, error radius and steps; never raises if unconverged."""
        self._check(x, rows=True)
        at = self.materialise()
        problem = self._problem(Drive(at.U.affine(x, at.b)), lambda: at.input_error(x), at)
        return solve(problem, self.solver, self.tolerance, self.max_steps)

    @torch.no_grad()
    def store(self) -> StoredNetwork:
        """The network with exactly its present weights, on the CPU, for certification."""
        at = self.materialise()
        double = torch.float64
        return StoredNetwork(
            at.W.detach().to("cpu", double),
            at.U.detach().to("cpu", double),
            *(p.detach().to("cpu", double) for p in (self.b, self.C, self.c)),
            activation=self.activation,
            eta=at.proof.eta.to("cpu") if isinstance(at.proof, Contraction) else None,
            Lambda=at.proof.Lambda.to("cpu") if isinstance(at.proof, Monotone) else None,
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
        """A float64 module of exactly the stored weights: for attacks, and fine-tuning if dense."""
        contracts = isinstance(stored.well_posed, Contraction)
        input_map, U = input_map_of(stored.U)
        network = cls(
            stored.inputs,
            stored.states,
            stored.outputs,
            activation=stored.activation,
            weight=weight_of(stored.W, stored.well_posed),
            input_map=input_map,
            solver=solver or (Anderson() if contracts else PeacemanRachford()),
            tolerance=tolerance,
            max_steps=max_steps,
            on_unconverged=on_unconverged,
        ).to(stored.b)
        with torch.no_grad():
            network.U.copy_(U)
            network.b.copy_(stored.b)
            network.C.copy_(stored.C)
            network.c.copy_(stored.c)
        return network

    def _problem(
        self, drive: Drive, u_error: Callable[[], Tensor], at: Materialised
    ) -> PrimalProblem | MonotoneProblem:
        """In the form that the solver needs; a splitting method has none for pairs of bounds."""
        if self.solver.splits and drive.radius is None:
            centre = drive.centre.detach()
            return MonotoneProblem(at.splitting, centre, u_error, self.activation)
        return self._contracting(drive, u_error, at)

    def _contracting(
        self, drive: Drive, u_error: Callable[[], Tensor], at: Materialised
    ) -> PrimalProblem:
        radius = None if drive.radius is None else drive.radius.detach()
        sweep = at.sweep if radius is None else at.pair_sweep
        drive = Drive(drive.centre.detach(), radius)
        return PrimalProblem(sweep, at.diagonal, drive, u_error, self.activation, at.contraction)

    def _fixed_point(
        self, what: str, drive: Drive, u_error: Callable[[], Tensor], at: Materialised
    ) -> Tensor:  # (batch, m)
        """The rows that solve the problem of this drive, tied to everything that it depends on."""
        problem = self._problem(drive, u_error, at)
        z = self._solve(what, problem).value
        if not torch.is_grad_enabled():
            return z
        slope = problem.slope(z, self.solver.images)

        def cotangents(g: Tensor) -> list[Tensor]:
            return at.cotangents(z, self._adjoint(g, slope, problem))

        return attach(z, at.sources(drive), cotangents)

    def _adjoint(
        self,
        g: Tensor,  # (batch, m) cotangent of z
        slope: Tensor,  # (batch, m)
        problem: PrimalProblem | MonotoneProblem,
    ) -> Tensor:  # (batch, m), that of the preactivation
        """See `implicit_diff`; by the same solver as the forward.

        It is linear in g, which may be small (a mean over a batch): the tolerance is taken relative
        to each row's largest entry. A NaN stays one, and no solve with it converges.
        """
        unit, size = unit_rows(g)
        if isinstance(problem, MonotoneProblem):
            return self._solve("adjoint", problem.adjoint(unit, slope)).value.mul(size)
        return (self._solve("adjoint", problem.adjoint(unit, slope)).value * slope).mul_(size)

    @torch.no_grad()
    def _solve(self, what: str, problem: Problem) -> Solution:
        fits = self.solver.splits == isinstance(problem, MonotoneProblem)
        solver = self.solver if fits else Picard()
        solution = solve(problem, solver, self.tolerance, self.max_steps)
        hint = ""
        if not bool(solution.converged.all()):
            hint = advice(problem, solver, solution, self.tolerance)
        self.policy.observe(f"{what} solve", solution, hint)
        return solution

    def _centres(self, x: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """Each x followed by its box's centre, (2 batch, r), and the half-widths, (batch, r)."""
        if kernels.usable(x, lo, hi) and x.shape == lo.shape == hi.shape:
            both, half, ordered = kernels.centres(x, lo, hi)
            if ordered:
                return both, half
        self._check_box(lo, hi)
        return torch.stack([x, 0.5 * (lo + hi)], 1).flatten(0, 1), 0.5 * (hi - lo)

    @staticmethod
    def _check_states(states: int, hidden: int) -> None:
        if states != hidden:
            raise InputError(f"the weight has {states} states, the network {hidden} hidden units")

    def _check_box(self, lo: Tensor, hi: Tensor) -> None:
        self._check(lo, rows=True)
        self._check(hi, rows=True)
        if lo.shape != hi.shape or not bool((lo <= hi).all()):
            raise InputError(
                "the box is inverted or NaN, or its ends differ in shape:"
                f" lower {tuple(lo.shape)} must not exceed upper {tuple(hi.shape)}"
            )

    def _check(self, x: Tensor, rows: bool = False) -> None:
        """Raise InputError unless x has the network's width and type, and is a batch of rows."""
        if x.ndim == 0 or x.shape[-1] != self.inputs or (rows and x.ndim != 2):
            wanted = f"({'batch' if rows else '...'}, {self.inputs})"
            raise InputError(f"this network takes inputs {wanted}, got {tuple(x.shape)}")
        if x.dtype != self.b.dtype:
            raise InputError(
                f"inputs are {x.dtype}, the network is {self.b.dtype}; convert one with .to(dtype)"
            )


def _uniform(*shape: int, fan_in: int) -> Tensor:
    return (2 * torch.rand(shape) - 1) / math.sqrt(fan_in)

"""The stored network: exactly the weights of a file, in float64. What certificates speak of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equicert.activations import Activation, activation_of
from equicert.arrays import exact
from equicert.boxes import all_finite
from equicert.contraction import Contraction, prove_contraction
from equicert.enclosures import Enclosure
from equicert.errors import (
    InputError,
    ModelError,
    NotContractingError,
    NotMonotoneError,
    TooLargeError,
)
from equicert.monotonicity import Monotone, prove_monotone
from equicert.operators import Dense, Operator
from equicert.policies import failure
from equicert.problems import (
    Drive,
    MonotoneProblem,
    PrimalProblem,
    Problem,
    Splitting,
    Sweep,
    drive_error,
)
from equicert.solution import Solution
from equicert.solvers import Anderson, PeacemanRachford, Solver, advice, solve


@dataclass(frozen=True)
class StoredNetwork:
    """`z = phi(W z + U x + b)`, `y = C z + c` with fixed weights, taken as exact rationals.

    Example:
        >>> network = StoredNetwork.from_arrays(W, U, b, C, c, activation="relu")
        >>> network.contraction.mu  # recomputed and proved, whatever a file says

    Attributes:
        W, U: operators of shape (n, n) and (n, r), float64.
        b: (n,).  C: (q, n).  c: (q,).  float64.
        activation: phi.
        eta: (n,) a hint for the weights of the norm, or None. Never believed: see `contraction`.
        Lambda: (n,) a hint for the weights of a proof that it is monotone, or None; likewise.
    """

    W: Operator
    U: Operator
    b: Tensor
    C: Tensor
    c: Tensor
    activation: Activation
    eta: Tensor | None = None
    Lambda: Tensor | None = None

    def __post_init__(self) -> None:
        n, r, q = self.W.shape[0], self.U.shape[1], self.C.shape[0]
        _check_shapes(self, n, q)
        self.W.require_square()
        self.U.require_plain()
        if n == 0 or r == 0 or q == 0:
            raise ModelError(f"a network needs n, r, q >= 1, got n={n}, r={r}, q={q}")
        for name, tensor in self._named():
            if tensor.dtype != torch.float64:
                raise ModelError(f"{name} must be float64 here, got {tensor.dtype}")
            if not bool(tensor.isfinite().all()):
                index = tuple(int(i) for i in (~tensor.isfinite()).nonzero()[0])
                raise ModelError(f"{name} has a NaN or infinite entry at {index}")
        # Tensors of its own: what is proved of them is remembered, and others may change theirs.
        for name in ("W", "U"):
            object.__setattr__(self, name, getattr(self, name).detach().map(torch.clone))
        for name in ("b", "C", "c", "eta", "Lambda"):
            if (tensor := getattr(self, name)) is not None:
                object.__setattr__(self, name, tensor.detach().clone())

    def _named(self) -> list[tuple[str, Tensor]]:
        operators = (("W", self.W), ("U", self.U))
        stored = [(f"{a}{k}", v) for a, A in operators for k, v in A.tensors().items()]
        return [*stored, ("b", self.b), ("C", self.C), ("c", self.c)]

    @classmethod
    def from_arrays(
        cls,
        W: Any,  # (n, n), or an operator
        U: Any,  # (n, r), or an operator
        b: Any,  # (n,)
        C: Any,  # (q, n)
        c: Any,  # (q,)
        activation: Activation | str = "relu",
        eta: Any = None,  # (n,) or None
        Lambda: Any = None,  # (n,) or None
    ) -> StoredNetwork:
        """A network from arrays or tensors, float32 or float64, each entry kept exactly.

        Raises:
            ModelError: wrong shape or dtype, a NaN or infinite entry, an activation that no
                theorem covers.
        """
        return cls(
            W if isinstance(W, Operator) else Dense(exact("W", W, 2)),
            U if isinstance(U, Operator) else Dense(exact("U", U, 2)),
            exact("b", b, 1),
            exact("C", C, 2),
            exact("c", c, 1),
            activation_of(activation),
            None if eta is None else exact("eta", eta, 1),
            None if Lambda is None else exact("Lambda", Lambda, 1),
        )

    @property
    def states(self) -> int:
        """n, the number of hidden units."""
        return self.W.shape[0]

    @property
    def inputs(self) -> int:
        """r, the dimension of x."""
        return self.U.shape[1]

    @property
    def outputs(self) -> int:
        """q, the dimension of y."""
        return self.C.shape[0]

    @cached_property
    def contraction(self) -> Contraction:
        """The proof that the network is well-posed ([J22], Thm 5.1), from the weights themselves.

        Raises:
            NotContractingError: no eta serves, or none could be proved in float64.
        """
        return prove_contraction(self.W, self.eta)

    @cached_property
    def monotone(self) -> Monotone:
        """The proof that the network is well-posed in the sense of [WK20] or [R20], likewise.

        Raises:
            NotMonotoneError: neither Lambda = 1 nor the hint could be proved to serve.
        """
        return prove_monotone(self.W, self.Lambda)

    @cached_property
    def well_posed(self) -> Contraction | Monotone:
        """The proof by which fixed points are unique and solves have radii: contraction first.

        Raises:
            NotContractingError: neither proof was found; the message has both numbers.
        """
        try:
            return self.contraction
        except NotContractingError as contracting:
            try:
                return self.monotone
            except (NotMonotoneError, TooLargeError) as monotone:
                mu, row = contracting.mu, contracting.row
                detail = f"{contracting.detail}, and not monotone either: {monotone.known}"
                raise NotContractingError(mu, row, detail) from monotone

    @cached_property
    def splitting(self) -> Splitting:
        """W for the splitting methods.

        Raises:
            NotMonotoneError: as `monotone`.
        """
        return Splitting(self.W, self.monotone)

    @cached_property
    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of W."""
        return self.W.diagonal()

    @cached_property
    def off_diagonal(self) -> Enclosure:
        """`W_off` with its absolute value, rounded outwards."""
        return Enclosure.of(self.W.off_diagonal())

    @cached_property
    def input_map(self) -> Enclosure:
        """U with its absolute value, rounded outwards."""
        return Enclosure.of(self.U)

    @cached_property
    def sensitivity(self) -> Tensor:  # (n, n)
        """`(I - beta M)^-1`, M the Metzler majorant, in plain floating point: for proposals."""
        beta = self.activation.beta
        off = self.off_diagonal.magnitude.dense()
        return torch.linalg.inv(torch.diag(1 - beta * self.diagonal) - beta * off)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over structure, activation and typed tensors; hints are left out."""
        structure = f"W:{self.W.structure};U:{self.U.structure};phi:{self.activation.spec}"
        sha = hashlib.sha256(f"equicert-model-1;{structure}".encode())
        for name, tensor in self._named():
            array = np.ascontiguousarray(tensor.cpu().numpy().astype("<f8"))
            sha.update(f";{name}:<f8:{array.shape}:".encode())
            sha.update(array.tobytes())
        return sha.hexdigest()

    def to(self, device: torch.device | str) -> StoredNetwork:
        """The same network on another device."""
        parts = {name: getattr(self, name) for name in ("W", "U", "b", "C", "c", "eta", "Lambda")}
        moved = {name: part.to(device) for name, part in parts.items() if part is not None}
        return replace(self, **moved)

    def drive_bounds(
        self,
        lo: Tensor,  # (batch, r) float64
        hi: Tensor,  # (batch, r) float64
    ) -> tuple[Tensor, Tensor]:  # (batch, n) each
        """Rigorous bounds on `U x + b` over the boxes [lo, hi]."""
        return self.input_map.image(lo, hi, (self.b[None], self.b[None]))

    def state_problem(
        self,
        x: Tensor,  # (batch, r)
    ) -> PrimalProblem:
        """The equation of z for each row x."""
        x = self.check_inputs(x)
        drive = Drive(self.U.affine(x, self.b))
        return self._problem(Sweep(self.off_diagonal.A), drive, lambda: self._input_error(x))

    def monotone_problem(
        self,
        x: Tensor,  # (batch, r)
    ) -> MonotoneProblem:
        """The same equation in the form that splitting methods solve."""
        x = self.check_inputs(x)
        u = self.U.affine(x, self.b)
        return MonotoneProblem(self.splitting, u, lambda: self._input_error(x), self.activation)

    def driven_problem(
        self,
        u: Tensor,  # (batch, n)
    ) -> PrimalProblem:
        """The equation of z for each row u, taken as exact, in place of `U x + b`."""
        return self._problem(Sweep(self.off_diagonal.A), Drive(u), lambda: torch.zeros_like(u))

    def embedded_problem(
        self,
        low: Tensor,  # (batch, n)
        high: Tensor,  # (batch, n)
    ) -> PrimalProblem:
        """The embedded network (6) of [J22] for `U x + b` in [low, high]."""
        drive = Drive(0.5 * (low + high), 0.5 * (high - low))
        sweep = Sweep(self.off_diagonal.A, self.off_diagonal.magnitude)
        return self._problem(sweep, drive, lambda: low.new_zeros(len(low), 2 * self.states))

    def _problem(self, sweep: Sweep, drive: Drive, u_error: Callable[[], Tensor]) -> PrimalProblem:
        own, phi = self.diagonal, self.activation
        return PrimalProblem(sweep, own, drive, u_error, phi, self.contraction)

    def _input_error(self, x: Tensor) -> Tensor:  # (batch, n)
        return drive_error(self.U, x.abs(), self.b)

    def solve(
        self,
        x: Tensor,  # (batch, r)
        tolerance: float = 1e-9,
        max_steps: int = 10_000,
        solver: Solver | None = None,
    ) -> Solution:
        """The fixed points z*(x), with a residual and a guaranteed radius per sample.

        By default the solver is the one for what is proved of the network: Anderson() where it
        contracts, PeacemanRachford() where it is monotone only.

        Raises:
            NotContractingError: no unique fixed point is proved.
            NotMonotoneError: a splitting method is asked for, and the network is not monotone.
            InputError: x of the wrong width, or NaN or infinite.
        """
        solver = solver or self._solver()
        return solve(self._solvable(x, solver), solver, tolerance, max_steps)

    def _solver(self) -> Solver:
        contracts = isinstance(self.well_posed, Contraction)
        return Anderson() if contracts else PeacemanRachford()

    def _solvable(self, x: Tensor, solver: Solver) -> Problem:
        return self.monotone_problem(x) if solver.splits else self.state_problem(x)

    def predict(
        self,
        x: Tensor,  # (batch, r)
        tolerance: float = 1e-9,
    ) -> Tensor:  # (batch, q)
        """`y = C z*(x) + c`.

        Raises:
            NotConvergedError: a sample missed the tolerance.
        """
        solver = self._solver()
        solution = self.solve(x, tolerance, solver=solver)
        if not bool(solution.converged.all()):
            hint = advice(self._solvable(x[:1], solver), solver, solution, tolerance)
            raise failure("forward solve", solution, hint)
        return solution.value @ self.C.mT + self.c

    def check_inputs(
        self,
        x: Tensor,  # (batch, r) or (r,)
    ) -> Tensor:  # (batch, r) float64
        """x in float64, one row a sample.

        Raises:
            InputError: wrong width, NaN or infinity.
        """
        x = torch.as_tensor(x)
        if x.is_complex() or x.dtype == torch.bool:
            raise InputError(f"inputs must be real numbers, got {x.dtype}")
        x = x.to(self.b)
        x = x[None] if x.ndim == 1 else x
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise InputError(
                f"this network takes inputs of {self.inputs} numbers, got shape {tuple(x.shape)}"
            )
        if not all_finite(x):
            row, column = (int(i) for i in (~x.isfinite()).nonzero()[0])
            raise InputError(f"input {row} is NaN or infinite at entry {column}")
        return x


def _check_shapes(network: StoredNetwork, n: int, q: int) -> None:
    wanted = {"W": (n, n), "U": (n, "r"), "b": (n,), "C": (q, n), "c": (q,)}
    for name, shape in wanted.items():
        found = tuple(getattr(network, name).shape)
        if len(found) != len(shape) or any(
            isinstance(w, int) and w != f for w, f in zip(shape, found, strict=True)
        ):
            raise ModelError(
                f"{name} must have shape {shape} to fit W of shape {network.W.shape}, got {found}"
            )
    for name, hint in (("eta", network.eta), ("Lambda", network.Lambda)):
        if hint is not None and tuple(hint.shape) != (n,):
            raise ModelError(f"{name} must have shape ({n},), got {tuple(hint.shape)}")

"""The operators of one moment of a network that is being trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from equicert.contraction import Contraction, prove_contraction
from equicert.monotonicity import Monotone, prove_monotone
from equicert.operators import Operator
from equicert.problems import Drive, Splitting, Sweep, drive_error
from equicert.problems.sweep import centres_and_widths


@dataclass(frozen=True)
class Materialised:
    """The operators of one moment, with gradients to the parameters, and their proof.

    Made once per training step and shared by the forward and the embedded solve.
    """

    W: Operator
    U: Operator
    b: Tensor
    proof: Contraction | Monotone
    hint: Tensor | None = None  # (n,) the eta of the parametrisation, with gradients to it
    beta: float = 1.0  # bound on the slope of phi

    @cached_property
    def without_history(self) -> Materialised:
        """The same with the same proof, for gradients in inputs only."""
        hint = None if self.hint is None else self.hint.detach()
        return replace(self, W=self.W.detach(), U=self.U.detach(), b=self.b.detach(), hint=hint)

    @cached_property
    def contraction(self) -> Contraction:
        """The proof that mu(W) < 1, which a monotone network may have besides its own.

        Raises:
            NotContractingError: it has none.
        """
        return self.proof if isinstance(self.proof, Contraction) else prove_contraction(self.W)

    @cached_property
    def splitting(self) -> Splitting:
        """W for the splitting methods, without history.

        Raises:
            NotMonotoneError: it is not proved monotone.
        """
        W = self.W.detach()
        return Splitting(W, self.proof if isinstance(self.proof, Monotone) else prove_monotone(W))

    @cached_property
    def eta(self) -> Tensor:  # (n,)
        """The eta of the proof, with gradients where it is the parametrisation's."""
        proved = self.contraction.eta
        if self.hint is not None and torch.equal(self.hint.detach().to(proved), proved):
            return self.hint
        return proved.to(self.b)

    @cached_property
    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of W, without history."""
        return self.W.detach().diagonal()

    @cached_property
    def sweep(self) -> Sweep:
        """W_off on states, without history: what the solvers iterate with."""
        return Sweep(self.W.detach().off_diagonal())

    @cached_property
    def pair_sweep(self) -> Sweep:
        """W_off on pairs of bounds, alone or behind a state."""
        return Sweep(self.sweep.off, self.sweep.off.absolute())

    def sources(self, drive: Drive) -> list[Tensor]:
        """What `t = W z + u` depends on besides z, with history: see `cotangents`."""
        driven = [part for part in drive if part is not None]
        return [*(self.W.tensors().values() if self._free else []), *driven]

    def cotangents(
        self,
        z: Tensor,  # (batch, m) the rows at which t is taken
        p: Tensor,  # (batch, m) cotangent of t
    ) -> list[Tensor]:  # one for each of `sources`
        """Gradients of `sum(p * t)`, for a pair in centre-radius form as it is multiplied."""
        W, n = self.W.detach(), len(self.b)
        if z.shape[-1] == n:
            return [*(W.cotangents(z, p) if self._free else []), p]
        centre, radius = centres_and_widths(p, n)
        centre[:, :-n] *= 0.5  # a state is doubled there
        if not self._free:
            return [centre, radius]
        doubled, width = centres_and_widths(z, n)
        middle = W.cotangents(doubled.view(-1, n), centre.view(-1, n))
        spread = W.cotangents(width, radius, majorant=True)
        found = [0.5 * (one + other) for one, other in zip(middle, spread, strict=True)]
        return [*found, centre, radius]

    @cached_property
    def _free(self) -> bool:
        """Whether gradients in W are asked for."""
        return any(entries.requires_grad for entries in self.W.tensors().values())

    def input_error(
        self,
        *points: Tensor,  # (batch, r) each
    ) -> Tensor:  # (batch, n)
        """The rounding error of `U x + b` at a point, or of centre and radius together of a box."""
        size = torch.stack([point.detach().abs() for point in points]).amax(0)
        return drive_error(self.U, len(points) * size, self.b)

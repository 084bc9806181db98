"""Anderson acceleration of Picard's iteration: for networks that contract slowly."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.errors import ConfigError
from equicert.problems import Problem, Step, contracting
from equicert.solvers.base import Solver
from equicert.solvers.picard import Picard


@final
@dataclass(frozen=True)
class Anderson(Solver):
    """Picard steps, mixed with the last few of them once there have been `delay`.

    With f = G(z) - z, the next point is `G(z) - (dZ + dF) c`, c the least-squares solution of
    `dF c = f` over the last `memory` differences, sample by sample. It is only a proposal: what a
    step returns is G at the point of least error bound so far, with that bound. Where proposals
    have not lowered it for `2 memory` steps, a plain step from that point follows, which does. So
    it converges wherever Picard does.

    Attributes:
        memory: differences that are mixed; each takes as much memory as two states.
        delay: plain steps before the first mixture. Fast solves end before and cost nothing more.

    Raises:
        ConfigError: memory < 1 or delay < 0.
    """

    images = True
    memory: int = 3
    delay: int = 12

    def __post_init__(self) -> None:
        if self.memory < 1 or self.delay < 0:
            raise ConfigError(
                f"Anderson needs memory >= 1 and delay >= 0, got {self.memory} and {self.delay}"
            )

    def step(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> tuple[Tensor, Tensor]:
        return Picard().step(problem, z)

    def stepper(self, problem: Problem) -> Step:
        # Plain steps take a feed-forward network to its end, and mixtures would not.
        delay = max(self.delay, problem.depth)
        return _Mixing(problem, self.memory, delay)

    def resolution(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        return Picard().resolution(problem, z)

    def rounding(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        return Picard().rounding(problem, z)

    def rate(self, problem: Problem) -> float:
        return Picard().rate(problem)


class _Mixing:
    """The steps of one solve: the best point so far, and the history that proposes the next."""

    def __init__(self, problem: Problem, memory: int, delay: int) -> None:
        self.problem = contracting(problem)
        self.plain_left, self.plain = delay, self.problem.stepper()
        self.history: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory + 1)  # (G(z), f)
        self.patience = 2 * memory
        self.image: Tensor | None = None  # G at the best point, (batch, m)
        self.bound: Tensor | None = None  # (batch,)
        self.proposal: Tensor | None = None
        self.waited: Tensor = torch.zeros(())  # (batch,) steps since the bound fell

    def __call__(
        self,
        z: Tensor,  # (batch, m) looked at until the first mixture only
    ) -> tuple[Tensor, Tensor]:
        if self.plain_left > 0:
            self.plain_left -= 1
            return self.plain(z)
        point = z if self.proposal is None else self.proposal
        image = self.problem.eliminated(point)
        change = image - point
        bound = self.problem.error_bound(change)
        self.history.append((image, change))
        if self.image is None or self.bound is None:
            self.image, self.bound, self.waited = image, bound, torch.zeros_like(bound)
        else:
            better = bound < self.bound  # false for NaN
            self.image = torch.where(better[:, None], image, self.image)
            self.bound = torch.where(better, bound, self.bound)
            self.waited = torch.where(better, 0, self.waited + 1)
        mixed = self._mixed(image)
        lost = (self.waited >= self.patience) | ~mixed.isfinite().all(-1)
        self.waited = torch.where(lost, 0, self.waited)
        self.proposal = torch.where(lost[:, None], self.image, mixed)
        return self.image, self.bound

    def _mixed(self, image: Tensor) -> Tensor:  # (batch, m)
        *earlier, (_, change) = self.history
        if not earlier:
            return image
        # Differences of G(z) are dZ + dF, so that no history of z is needed.
        images = torch.stack([image - G for G, _ in earlier], -1)  # (batch, m, k)
        changes = torch.stack([change - f for _, f in earlier], -1)
        gram = changes.mT @ changes
        own = gram.diagonal(dim1=-2, dim2=-1)
        limits = torch.finfo(change.dtype)
        # A little of its own diagonal keeps the system solvable; a bad solution is only refused.
        own += 64 * limits.eps * own.amax(-1, keepdim=True) + limits.tiny
        weights, _ = torch.linalg.solve_ex(gram, changes.mT @ change[..., None])
        return image - (images @ weights)[..., 0]

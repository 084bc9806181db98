"""FGSM and PGD by foolbox: projected ascent on the box itself.

The projection is onto the box rounded inwards, and the best iterate counts.

[M18] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, Towards deep learning models resistant
to adversarial attacks, ICLR 2018.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from equicert.attacks.base import Attack, Attempt, Target, margin_of, split_label
from equicert.boxes import Box
from equicert.errors import ConfigError


@dataclass(frozen=True)
class Ascent:
    """One ascent: `steps` times x <- clamp(x + step sign(gradient)), from `start`.

    Attributes:
        start: (batch, r) points of the box.
        step: (batch, r) step sizes.
        steps: their number.
    """

    start: Tensor
    step: Tensor
    steps: int


@final
@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of eps from x, clipped to the box."""

    def attempts(self, target: Target) -> Sequence[Attempt]:  # noqa: ARG002 - one for all
        return [self.step]

    def step(self, target: Target) -> tuple[Tensor, Tensor]:
        """The one step."""
        return _climb(target, Ascent(target.x, target.radius, 1))


@final
@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent [M18] from random points of the box; the best iterate counts.

    The single step of `FGSM` is tried first, so that PGD is never the weaker of the two.

    Args:
        steps: steps of an ascent.
        step_size: in units of x; by default `2.5 eps / steps`.
        restarts: number of ascents from random points.
        seed: with the numbers of a sample and the restart, it determines the random start.

    Raises:
        ConfigError: steps or restarts < 1, step_size not positive and finite, seed < 0.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("restarts", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ConfigError(f"step_size must be positive and finite, got {self.step_size!r}")

    def attempts(self, target: Target) -> Sequence[Attempt]:  # noqa: ARG002 - the same for all
        starts = range(1, 1 + self.restarts)
        return [FGSM().step, *(partial(self._restart, number=number) for number in starts)]

    def _restart(self, target: Target, number: int) -> tuple[Tensor, Tensor]:
        return _climb(target, self.ascent(target.x, target.radius, target.box, number))

    def ascent(
        self,
        x: Tensor,  # (batch, r)
        radius: Tensor,  # (batch, r) eps
        box: Box,
        number: int,
    ) -> Ascent:
        """The ascent from the random start of this number, 1 to `restarts`."""
        step = radius * (2.5 / self.steps)
        if self.step_size is not None:
            step = torch.full_like(radius, self.step_size)
        share = torch.from_numpy(self._shares(x, number)).to(x)
        return Ascent(box.clamp(box.lo + share * (box.hi - box.lo)), step, self.steps)

    def _shares(
        self,
        x: Tensor,  # (batch, r)
        number: int,
    ) -> np.ndarray:  # (batch, r) in [0, 1)
        """Uniform numbers drawn for each sample by itself, from the seed, the number and x."""
        shares = np.empty(x.shape)
        for share, row in zip(shares, x.cpu().numpy(), strict=True):
            sample = int.from_bytes(hashlib.sha256(row.tobytes()).digest())
            np.random.default_rng((self.seed, number, sample)).random(out=share)
        return shares


class _Objective:
    """What the ascent increases, and the iterate with the least margin on the way.

    `L = log sum_{j != label} exp(y_j) - y_label`. Cross-entropy is `log(1 + exp(L))`, so the two
    have gradients of the same sign, but that of L does not vanish where the label wins by far. L is
    divided by the size of its derivative by z, so that the tolerance of the adjoint solve is
    relative to what is solved for.
    """

    def __init__(
        self,
        C: Tensor,  # (q, n)
        labels: Tensor,  # (batch,)
        start: Tensor,  # (batch, r)
    ) -> None:
        self.C, self.labels, self.best = C, labels, start
        self.margin = torch.full_like(start[:, 0], torch.inf)

    def __call__(
        self,
        x: Tensor,  # (batch, r)
        y: Tensor,  # (batch, q)
    ) -> Tensor:  # ()
        with torch.no_grad():
            margin = margin_of(y, self.labels)
            better = margin < self.margin
            self.best = torch.where(better[:, None], x, self.best)
            self.margin = torch.where(better, margin, self.margin)
        others, own = split_label(y, self.labels)
        by_z = others.detach().softmax(1) @ self.C - self.C[self.labels]
        size = by_z.abs().amax(1).clamp(min=1e-300)
        return ((others.logsumexp(1) - own) / size).sum()


def _climb(target: Target, ascent: Ascent) -> tuple[Tensor, Tensor]:
    """The best iterate and the last one of the ascent.

    By foolbox, on the box itself instead of a ball and global bounds.
    """
    from eagerpy.astensor import astensor
    from eagerpy.tensor.tensor import Tensor as Eager
    from foolbox.attacks.projected_gradient_descent import LinfProjectedGradientDescentAttack
    from foolbox.models.base import Model
    from foolbox.models.pytorch import PyTorchModel

    objective = _Objective(target.network.C, target.labels, ascent.start)

    class BoxAscent(LinfProjectedGradientDescentAttack):
        def get_loss_fn(self, model: Model, labels: Eager):  # noqa: ANN202, ARG002 - foolbox's signature
            return lambda x: astensor(objective(x.raw, model(x).raw))

        def normalize(self, gradients: Eager, **_: object) -> Eager:
            return astensor(gradients.raw.sign() * ascent.step)

        def project(self, x: Eager, x0: Eager, epsilon: float) -> Eager:  # noqa: ARG002
            return astensor(target.box.clamp(x.raw))

    bounds = (-math.inf, math.inf)
    model = PyTorchModel(target.network, bounds=bounds, device=ascent.start.device)
    climb = BoxAscent(steps=ascent.steps, abs_stepsize=1.0, random_start=False)
    with torch.enable_grad():
        last = climb.run(model, ascent.start, target.labels, epsilon=math.inf)
    return objective.best, last

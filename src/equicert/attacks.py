"""Attacks: thin adapters over foolbox that search the exact box for a misclassified point.

foolbox runs the projected ascent; the gradient comes from a converged solve, the projection is onto
the box rounded inwards, and the stored network has the last word. An attack can only break:
`unbroken` proves nothing.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from equicert.boxes import Bound, Box, Domain
from equicert.errors import ConfigError, InputError
from equicert.network import ImplicitNetwork
from equicert.queries import check_labels
from equicert.stored import StoredNetwork

Status: TypeAlias = Literal["broken", "unbroken", "misclassified"]

_TOLERANCE = 1e-6  # of the solves behind a gradient; the last word is spoken at a finer one


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, per sample.

    Attributes:
        status: "broken" (a point of the exact box where another output exceeds the label's by more
            than the error of its evaluation), "unbroken", or "misclassified" (the clean point is
            predicted wrong, and is not attacked).
        adversarial: (batch, r) float64, in the exact box: the point of least margin found.
        predicted: (batch,) int64, the clean prediction.
        adversarial_predicted: (batch,) int64, the prediction there.
        margin: (batch,) the label's output there minus the greatest other one.
        forward_solves: fixed points computed, summed over samples.
    """

    status: tuple[Status, ...]
    adversarial: Tensor
    predicted: Tensor
    adversarial_predicted: Tensor
    margin: Tensor
    forward_solves: int


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


class Attack(ABC):
    """A search for a misclassified point, by one or more ascents."""

    @property
    @abstractmethod
    def attempts(self) -> int:
        """Number of ascents; each attacks the samples that the ones before left unbroken."""

    @abstractmethod
    def ascent(
        self,
        x: Tensor,  # (batch, r)
        radius: Tensor,  # (batch, r) eps
        box: Box,
        attempt: int,
    ) -> Ascent:
        """The ascent of this attempt."""

    def run(
        self,
        network: StoredNetwork,
        x: Tensor,  # (batch, r) or (r,)
        labels: Tensor | int,  # (batch,) or a number
        eps: Bound,  # a number, (r,) or (batch, 1)
        domain: Domain = None,
    ) -> AttackResult:
        """Attack each sample within `[max(x - eps, lo), min(x + eps, hi)]`, [lo, hi] the domain.

        Nothing is drawn from a shared source, so a sample's result does not depend on who shares
        the batch, but for rounding.

        Example:
            >>> result = PGD(restarts=10).run(network, x, labels, eps=0.1, domain=(0.0, 1.0))
            >>> result.status.count("broken")

        Raises:
            NotContractingError: no unique fixed point is proved.
            NotConvergedError: a solve missed its tolerance.
            InputError: eps negative or NaN, a point outside the domain, a label out of range, x of
                the wrong width, a network with one output only.
        """
        x = network.check_inputs(torch.as_tensor(x).detach())
        labels = check_labels(torch.as_tensor(labels), len(x), network.outputs).to(x.device)
        if network.outputs < 2:
            raise InputError("a network with one output has no other class to be broken into")
        box = Box.within(x, eps, domain)
        radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(x.shape)
        search = _Search(network, x, labels)
        with torch.random.fork_rng(devices=[]):  # a module draws initial values, replaced at once
            gradients = ImplicitNetwork.from_stored(network, tolerance=_TOLERANCE)
        gradients.eval().requires_grad_(False)
        for attempt in range(self.attempts):
            rows = search.open_rows()
            if not len(rows):
                break
            ascent = self.ascent(x[rows], radius[rows], box[rows], attempt)
            search.judge(rows, *_climb(gradients, ascent, labels[rows], box[rows]))
        return search.result()


@final
@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of eps from x, clipped to the box."""

    @property
    def attempts(self) -> int:
        return 1

    def ascent(self, x: Tensor, radius: Tensor, box: Box, attempt: int) -> Ascent:  # noqa: ARG002 - there is one way only
        return Ascent(x, radius, 1)


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

    @property
    def attempts(self) -> int:
        return 1 + self.restarts

    def ascent(self, x: Tensor, radius: Tensor, box: Box, attempt: int) -> Ascent:
        if attempt == 0:
            return FGSM().ascent(x, radius, box, attempt)
        step = radius * (2.5 / self.steps)
        if self.step_size is not None:
            step = torch.full_like(radius, self.step_size)
        share = torch.from_numpy(self._shares(x, attempt)).to(x)
        return Ascent(box.clamp(box.lo + share * (box.hi - box.lo)), step, self.steps)

    def _shares(
        self,
        x: Tensor,  # (batch, r)
        attempt: int,
    ) -> np.ndarray:  # (batch, r) in [0, 1)
        """Uniform numbers drawn for each sample by itself, from the seed, the attempt and x."""
        shares = np.empty(x.shape)
        for share, row in zip(shares, x.cpu().numpy(), strict=True):
            sample = int.from_bytes(hashlib.sha256(row.tobytes()).digest())
            np.random.default_rng((self.seed, attempt, sample)).random(out=share)
        return shares


class _Search:
    """The best point so far of each sample, judged by the stored network and its error radius."""

    def __init__(
        self,
        network: StoredNetwork,
        x: Tensor,  # (batch, r)
        labels: Tensor,  # (batch,)
    ) -> None:
        y = network.predict(x)
        self.network, self.labels, self.predicted = network, labels, y.argmax(1)
        self.point, self.margin = x.clone(), _margin(y, labels)
        self.point_predicted = self.predicted.clone()
        self.correct = self.predicted == labels
        self.broken = torch.zeros_like(self.correct)
        self.solves = len(x)

    def open_rows(self) -> Tensor:
        """The samples that are classified correctly and not broken yet."""
        return (self.correct & ~self.broken).nonzero()[:, 0]

    @torch.no_grad()
    def judge(self, rows: Tensor, candidates: tuple[Tensor, ...], solves: int) -> None:
        """Keep, of each row's present point and its candidates (rows, r), the worst for its label.

        An output y is known to within `|C| radius` and the rounding of its own product; a sample
        is broken only beyond that, so that an attack never contradicts a certificate.
        """
        C, c = self.network.C, self.network.c
        unit = (C.shape[1] + 8) * torch.finfo(C.dtype).eps
        self.solves += solves
        for points in candidates:
            open_ = ~self.broken[rows]
            solution = self.network.solve(points)
            self.solves += len(points)
            z = solution.value
            y = z @ C.mT + c
            error = solution.radius[:, None] * C.abs().sum(1)
            error = error + unit * (z.abs() @ C.abs().mT + c.abs())
            own = torch.zeros_like(y).scatter(1, self.labels[rows, None], 1).bool()
            broken = _margin(torch.where(own, y + error, y - error), self.labels[rows]) < 0
            margin = _margin(y, self.labels[rows])
            take = open_ & (broken | (solution.converged & (margin < self.margin[rows])))
            kept = rows[take]
            self.point[kept], self.margin[kept] = points[take], margin[take]
            self.point_predicted[kept] = y[take].argmax(1)
            self.broken[kept] = broken[take]

    def result(self) -> AttackResult:
        status: tuple[Status, ...] = tuple(
            "misclassified" if not correct else "broken" if broken else "unbroken"
            for correct, broken in zip(self.correct.tolist(), self.broken.tolist(), strict=True)
        )
        return AttackResult(
            status, self.point, self.predicted, self.point_predicted, self.margin, self.solves
        )


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
        self.solves = 0

    def __call__(
        self,
        x: Tensor,  # (batch, r)
        y: Tensor,  # (batch, q)
    ) -> Tensor:  # ()
        with torch.no_grad():
            margin = _margin(y, self.labels)
            better = margin < self.margin
            self.best = torch.where(better[:, None], x, self.best)
            self.margin = torch.where(better, margin, self.margin)
            self.solves += len(x)
        others, own = _split(y, self.labels)
        by_z = others.detach().softmax(1) @ self.C - self.C[self.labels]
        size = by_z.abs().amax(1).clamp(min=1e-300)
        return ((others.logsumexp(1) - own) / size).sum()


def _climb(
    gradients: ImplicitNetwork,
    ascent: Ascent,
    labels: Tensor,  # (batch,)
    box: Box,
) -> tuple[tuple[Tensor, Tensor], int]:  # the best iterate and the last one (batch, r), solves
    """Run the ascent by foolbox, on the box itself instead of a ball and global bounds."""
    from eagerpy.astensor import astensor
    from eagerpy.tensor.tensor import Tensor as Eager
    from foolbox.attacks.projected_gradient_descent import LinfProjectedGradientDescentAttack
    from foolbox.models.base import Model
    from foolbox.models.pytorch import PyTorchModel

    objective = _Objective(gradients.C, labels, ascent.start)

    class BoxAscent(LinfProjectedGradientDescentAttack):
        def get_loss_fn(self, model: Model, labels: Eager):  # noqa: ANN202, ARG002 - foolbox's signature
            return lambda x: astensor(objective(x.raw, model(x).raw))

        def normalize(self, gradients: Eager, **_: object) -> Eager:
            return astensor(gradients.raw.sign() * ascent.step)

        def project(self, x: Eager, x0: Eager, epsilon: float) -> Eager:  # noqa: ARG002
            return astensor(box.clamp(x.raw))

    model = PyTorchModel(gradients, bounds=(-math.inf, math.inf), device=ascent.start.device)
    climb = BoxAscent(steps=ascent.steps, abs_stepsize=1.0, random_start=False)
    with torch.enable_grad():
        last = climb.run(model, ascent.start, labels, epsilon=math.inf)
    return (objective.best, last), objective.solves


def _split(
    y: Tensor,  # (batch, q)
    labels: Tensor,  # (batch,)
) -> tuple[Tensor, Tensor]:  # (batch, q) with -inf for the label, (batch,)
    return y.scatter(1, labels[:, None], -torch.inf), y.gather(1, labels[:, None])[:, 0]


def _margin(
    y: Tensor,  # (batch, q)
    labels: Tensor,  # (batch,)
) -> Tensor:  # (batch,)
    """`y_label - max_{j != label} y_j`."""
    others, own = _split(y, labels)
    return own - others.amax(1)

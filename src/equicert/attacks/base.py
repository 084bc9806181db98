"""What every attack shares: what it works on, what it returns, and who has the last word.

An attack is a list of attempts, each a thin adapter over a library, whose gradients come from a
converged solve. Whatever an attempt proposes is judged by the stored network. An attack can only
break: `unbroken` proves nothing.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from equicert.boxes import Bound, Box, Domain, check_domain
from equicert.errors import InputError
from equicert.network import ImplicitNetwork
from equicert.policies import Raise, RowCount
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
        forward_solves: (batch,) float64, fixed points z*(x) computed for the sample: at x itself,
            on the way, and to judge what was found. An attempt's own are shared among its samples
            alike: a mean where it drops some of them before others, as AutoAttack's parts do.
        adjoint_solves: (batch,) float64, the same of the solves behind gradients.
    """

    status: tuple[Status, ...]
    adversarial: Tensor
    predicted: Tensor
    adversarial_predicted: Tensor
    margin: Tensor
    forward_solves: Tensor
    adjoint_solves: Tensor


@dataclass(frozen=True)
class Target:
    """What an attempt works on.

    Attributes:
        network: float64 module with the stored weights, whose gradients the attempt may use.
        x: (batch, r) float64, the samples.
        labels: (batch,) int64.
        radius: (batch, r) eps.
        box: the exact boxes, rounded inwards: every proposed point is to lie in them.
        low, high: (r,) the domain, infinite where there is none.
    """

    network: ImplicitNetwork
    x: Tensor
    labels: Tensor
    radius: Tensor
    box: Box
    low: Tensor
    high: Tensor

    @property
    def outputs(self) -> int:
        """q, the number of classes."""
        return len(self.network.c)

    def __getitem__(self, rows: Tensor) -> Target:
        """The same of some samples only (an index tensor)."""
        return dataclasses.replace(
            self,
            x=self.x[rows],
            labels=self.labels[rows],
            radius=self.radius[rows],
            box=self.box[rows],
        )


# It proposes points to be judged, each (batch, r) float64, in the boxes of the target.
Attempt: TypeAlias = Callable[[Target], tuple[Tensor, ...]]


class Attack(ABC):
    """A search for a misclassified point, by one or more attempts."""

    @abstractmethod
    def attempts(self, target: Target) -> Sequence[Attempt]:
        """The attempts on this target; each is given the samples that those before left unbroken.

        Raises:
            InputError: this attack cannot be used on such a target.
        """

    def run(
        self,
        network: StoredNetwork,
        x: Tensor,  # (batch, r) or (r,)
        labels: Tensor | int,  # (batch,) or a number
        eps: Bound,  # a number, (r,) or (batch, 1)
        domain: Domain = None,
    ) -> AttackResult:
        """Attack each sample within `[max(x - eps, lo), min(x + eps, hi)]`, [lo, hi] the domain.

        Everything random follows from the attack's seed; no shared source of random numbers is
        left changed. Of FGSM and PGD, a sample's result does not depend on who shares the batch,
        but for rounding.

        Example:
            >>> result = PGD(restarts=10).run(network, x, labels, eps=0.1, domain=(0.0, 1.0))
            >>> result.status.count("broken")

        Raises:
            NotContractingError: no unique fixed point is proved.
            NotConvergedError: a solve missed its tolerance.
            InputError: eps negative or NaN, a point outside the domain, a label out of range, x of
                the wrong width, a network with one output only, or what the attack itself refuses.
        """
        x = network.check_inputs(torch.as_tensor(x).detach())
        labels = check_labels(torch.as_tensor(labels), len(x), network.outputs).to(x.device)
        if network.outputs < 2:
            raise InputError("a network with one output has no other class to be broken into")
        box = Box.within(x, eps, domain)
        radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(x.shape)
        low, high = (end.expand(network.inputs) for end in check_domain(x, domain))
        search = _Search(network, x, labels)
        with torch.random.fork_rng(devices=[]):  # a module draws initial values, replaced at once
            gradients = ImplicitNetwork.from_stored(
                network, tolerance=_TOLERANCE, on_unconverged=search.count
            )
        gradients.eval().requires_grad_(False)
        target = Target(gradients, x, labels, radius, box, low, high)
        for attempt in self.attempts(target):
            rows = search.open_rows()
            if not len(rows):
                break
            search.judge(rows, attempt(target[rows]))
        return search.result()


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
        self.point, self.margin = x.clone(), margin_of(y, labels)
        self.point_predicted = self.predicted.clone()
        self.correct = self.predicted == labels
        self.broken = torch.zeros_like(self.correct)
        self.count = RowCount(Raise())  # of the attempt at work
        self.forward, self.adjoint = torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])

    def open_rows(self) -> Tensor:
        """The samples that are classified correctly and not broken yet."""
        return (self.correct & ~self.broken).nonzero()[:, 0]

    @torch.no_grad()
    def judge(
        self,
        rows: Tensor,  # (k,) int64
        found: tuple[Tensor, ...],  # (k, r) each
    ) -> None:
        """Keep, of each row's present point and those found for it, the worst for its label.

        An output y is known to within `|C| radius` and the rounding of its own product; a sample
        is broken only beyond that, so that an attack never contradicts a certificate.
        """
        C, c = self.network.C, self.network.c
        unit = (C.shape[1] + 8) * torch.finfo(C.dtype).eps
        self._charge(rows, len(found))
        for points in found:
            open_ = ~self.broken[rows]
            solution = self.network.solve(points)
            z = solution.value
            y = z @ C.mT + c
            error = solution.radius[:, None] * C.abs().sum(1)
            error = error + unit * (z.abs() @ C.abs().mT + c.abs())
            own = torch.zeros_like(y).scatter(1, self.labels[rows, None], 1).bool()
            broken = margin_of(torch.where(own, y + error, y - error), self.labels[rows]) < 0
            margin = margin_of(y, self.labels[rows])
            take = open_ & (broken | (solution.converged & (margin < self.margin[rows])))
            kept = rows[take]
            self.point[kept], self.margin[kept] = points[take], margin[take]
            self.point_predicted[kept] = y[take].argmax(1)
            self.broken[kept] = broken[take]

    def _charge(self, rows: Tensor, judged: int) -> None:
        """Share what the attempt has solved among its rows, and add what judging it takes."""
        self.forward[rows] += self.count.rows["forward solve"] / len(rows) + judged
        self.adjoint[rows] += self.count.rows["adjoint solve"] / len(rows)
        self.count.rows.clear()

    def result(self) -> AttackResult:
        status: tuple[Status, ...] = tuple(
            "misclassified" if not correct else "broken" if broken else "unbroken"
            for correct, broken in zip(self.correct.tolist(), self.broken.tolist(), strict=True)
        )
        return AttackResult(
            status,
            self.point,
            self.predicted,
            self.point_predicted,
            self.margin,
            self.forward,
            self.adjoint,
        )


def split_label(
    y: Tensor,  # (batch, q)
    labels: Tensor,  # (batch,)
) -> tuple[Tensor, Tensor]:  # (batch, q), (batch,)
    """The other outputs, with -inf in the label's place, and the label's own."""
    return y.scatter(1, labels[:, None], -torch.inf), y.gather(1, labels[:, None])[:, 0]


def margin_of(
    y: Tensor,  # (batch, q)
    labels: Tensor,  # (batch,)
) -> Tensor:  # (batch,)
    """`y_label - max_{j != label} y_j`."""
    others, own = split_label(y, labels)
    return own - others.amax(1)

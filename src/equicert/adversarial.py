"""Adversarial training: the loss at the worst points that a search by gradients finds.

[M18] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, Towards deep learning models resistant
to adversarial attacks, ICLR 2018.

It makes networks that attacks find hard, and proves nothing: points that were not found may be
worse. It asks nothing of W but fixed points, so monotone networks can be trained by it, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from equicert.attacks.base import split_label
from equicert.boxes import Domain
from equicert.errors import InputError
from equicert.losses import Loss, check_mixture
from equicert.queries import check_labels
from equicert.trainable import Trainable


@final
@dataclass(frozen=True)
class AdversarialLoss(Loss):
    """The loss at points that were found in the boxes, and its parts.

    Attributes:
        total: scalar, `(1 - kappa) nominal + kappa adversarial`.
        nominal: scalar, cross-entropy of `y(x)`; None where kappa is 1 and eps is not 0.
        adversarial: scalar, cross-entropy of `y(points)`; None where kappa is 0, since nothing is
            searched then.
        points: (batch, r) what was found: x itself where nothing was searched.
    """

    adversarial: Tensor | None
    points: Tensor

    @property
    def parts(self) -> Mapping[str, Tensor | None]:
        return {"adversarial_loss": self.adversarial}


@final
@dataclass(frozen=True)
class SignAscent:
    """`steps` times `x <- clamp(x + step sign(gradient))`, the inner maximisation of [M18].

    The last iterate counts. A step costs one forward and one adjoint solve, and no gradients in
    weights. `attacks.PGD` is the one to judge networks by: it keeps the best iterate, in float64.

    Args:
        steps: their number.
        step_size: in units of x; by default `2.5 eps / steps`.

    Raises:
        InputError: steps < 1, step_size not positive and finite.
    """

    steps: int = 7
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps!r}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size must be positive and finite, got {self.step_size!r}")

    def search(
        self,
        network: Trainable,
        at: Any,  # of `materialise`
        x: Tensor,  # (batch, r)
        labels: Tensor,  # (batch,) int64, in range
        eps: float,
        rng: np.random.Generator,
        domain: Domain = None,
    ) -> Tensor:  # (batch, r) in `inner_box(x, eps, domain)`
        """What the ascent finds from a uniformly random point of the box, drawn from `rng`.

        Raises:
            InputError: a point outside the domain, a network with one output only.
            NotContractingError, NotMonotoneError, NotConvergedError: as the network's own solves.
        """
        if len(network.c) < 2:
            raise InputError("a network with one output has no other class to be driven into")
        lo, hi = box = inner_box(x, eps, domain)
        share = torch.from_numpy(rng.random(x.shape)).to(x)
        start = torch.clamp(torch.lerp(lo, hi, share), lo, hi)
        return self.climb(network, at.without_history, start, labels, box, eps)

    def climb(
        self,
        network: Trainable,
        at: Any,  # of `materialise`
        start: Tensor,  # (batch, r) in the box
        labels: Tensor,  # (batch,) int64
        box: tuple[Tensor, Tensor],  # (batch, r) each
        eps: float,
    ) -> Tensor:  # (batch, r) in the box
        """The last point of the ascent from `start`, for each sample by itself."""
        step = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        x = start
        for _ in range(self.steps):
            uphill = ascent_direction(network, at, x, labels)
            x = torch.clamp(uphill.sign_().mul_(step).add_(x), *box)
        return x


def adversarial_loss(
    network: Trainable,
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,) int64
    eps: float,
    kappa: float,
    ascent: SignAscent,
    rng: np.random.Generator,
    domain: Domain = None,
) -> AdversarialLoss:
    """`(1 - kappa) CE(y(x), label) + kappa CE(y(x'), label)`, x' found in the box by `ascent`.

    The saddle point problem (2.1) of [M18] where kappa is 1. The search starts at a uniformly
    random point of `[max(x - eps, lo), min(x + eps, hi)]`. As there, x' is held fixed for the
    gradient in the weights.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> loss = adversarial_loss(network, x, labels, 0.1, 1.0, SignAscent(), rng, (0.0, 1.0))
        >>> loss.total.backward()

    Args:
        network: the network to train.
        x: inputs in the network's dtype, inside the domain.
        labels: classes, 0..q-1.
        eps: radius in the sup-norm, >= 0; at 0 the adversarial part is the nominal one.
        kappa: weight of the adversarial part, in [0, 1]; at 0 nothing is searched.
        ascent: the search.
        rng: draws the starts, a number for each entry of x in their order.
        domain: two numbers or two (r,) vectors to intersect the box with, or None.

    Raises:
        InputError: eps negative, infinite or NaN, kappa outside [0, 1], labels out of range, a
            point outside the domain, a network with one output only where it is searched.
        NotContractingError, NotMonotoneError, NotConvergedError: as the network's own solves.
    """
    check_mixture(eps, kappa)
    labels = check_labels(labels, len(x), len(network.c))
    at = network.materialise()
    if kappa == 0 or eps == 0:
        nominal = cross_entropy(network.read_out(network.state(x, at)), labels)
        return AdversarialLoss(nominal, nominal, None if kappa == 0 else nominal, x)
    points = ascent.search(network, at, x, labels, eps, rng, domain)
    if kappa == 1:
        worst = cross_entropy(network.read_out(network.state(points, at)), labels)
        return AdversarialLoss(worst, None, worst, points)
    y = network.read_out(network.state(torch.cat([x, points]), at))
    nominal, worst = (cross_entropy(part, labels) for part in y.split(len(x)))
    return AdversarialLoss((1 - kappa) * nominal + kappa * worst, nominal, worst, points)


def ascent_direction(
    network: Trainable,
    at: Any,  # of `materialise`, without history
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,) int64
) -> Tensor:  # (batch, r)
    """The gradient in x of `L = log sum_{j != label} exp(y_j) - y_label`, sample by sample.

    Cross-entropy is `log(1 + exp(L))`, so the two have gradients of the same direction, but that of
    L does not vanish, nor lose its digits, where the label wins by far. With p the softmax of the
    other outputs, `dL/dz = p C - C_label`; the rest is one adjoint solve.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        z = network.state(x, at)
    with torch.no_grad():
        others, _ = split_label(network.read_out(z), labels)
        by_y = others.softmax(1).scatter_(1, labels[:, None], -1.0)
        by_z = by_y @ network.C
    return torch.autograd.grad(z, x, by_z)[0]


def inner_box(
    x: Tensor,  # (batch, r)
    eps: float,
    domain: Domain = None,
) -> tuple[Tensor, Tensor]:  # (batch, r) each
    """`[max(x - eps, lo), min(x + eps, hi)]` rounded inwards in the type of x, x within.

    Every point of that type in it lies in the exact box about x as it is, the domain's ends rounded
    to the type as x was.

    Raises:
        InputError: a point outside the domain, or NaN.
    """
    radius = x.new_tensor(eps)
    if float(radius) > eps:
        radius = torch.nextafter(radius, torch.zeros_like(radius))
    # A rounded sum is within one unit in the last place of the exact one.
    lo, hi = (torch.nextafter(end, x) for end in (x - radius, x + radius))
    if domain is not None:
        low, high = (torch.as_tensor(end).to(x) for end in domain)
        lo, hi = torch.maximum(lo, low), torch.minimum(hi, high)
    if not bool((lo <= hi).all()):
        row = int((~(lo <= hi)).nonzero()[0, 0])
        raise InputError(
            f"sample {row} lies outside its domain, or is NaN; rescale the data or pass another"
            " domain"
        )
    return lo, hi

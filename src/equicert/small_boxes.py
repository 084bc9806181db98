"""Inclusion training on small boxes about adversarial points, for networks that are searched.

[M23] M. N. Mueller, F. Eckert, M. Fischer, M. Vechev, Certified training: small boxes are all you
need, ICLR 2023.

Bounds over the whole box of radius eps are wide, and a network that is trained to keep them narrow
loses accuracy. A box of a part of that size, put where the loss is largest, is narrower: what is
trained are bounds that a method tighter than (14) makes of the whole box. Nothing is proved by it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equicert.adversarial import SignAscent
from equicert.boxes import Domain
from equicert.errors import InputError
from equicert.losses import InclusionLoss, check_mixture, clipped_box, inclusion_loss, loss_over
from equicert.queries import check_labels
from equicert.trainable import Trainable


def small_box_loss(
    network: Trainable,
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,) int64
    eps: float,
    kappa: float,
    tau: float,
    ascent: SignAscent,
    rng: np.random.Generator,
    *,
    domain: Domain = None,
) -> InclusionLoss:
    """The loss (11) of [J22] over boxes of radius tau eps about points found by `ascent` [M23].

    `(1 - kappa) CE(y(x), label) + kappa CE(-m, label)`, m the margins (10) over `small_boxes`, the
    points found in the box of radius (1 - tau) eps about x and held fixed for the gradient. At
    tau = 1 it is `inclusion_loss`, and nothing is searched; as tau falls to 0, the robust part
    becomes that of `adversarial_loss`.

    Example:
        >>> rng, ascent = np.random.default_rng(0), SignAscent(3)
        >>> loss = small_box_loss(network, x, labels, 0.1, 1.0, 0.4, ascent, rng)
        >>> loss.total.backward()

    Args:
        network: the network to train.
        x: inputs in the network's dtype, inside the domain.
        labels: classes, 0..q-1.
        eps: radius in the sup-norm, >= 0; at 0 the robust part is the nominal one.
        kappa: weight of the robust part, in [0, 1]; at 0 nothing is searched.
        tau: radius of the small boxes over eps, in (0, 1].
        ascent: the search; its step size is by default 2.5 (1 - tau) eps / steps.
        rng: draws the starts, a number for each entry of x in their order.
        domain: two numbers or two (r,) vectors to intersect the boxes with, or None.

    Raises:
        InputError: eps negative, infinite or NaN, kappa outside [0, 1], tau outside (0, 1], labels
            out of range, a point outside the domain, a network with one output where it is
            searched.
        NotContractingError, NotConvergedError: as the network's own solves.
    """
    check_mixture(eps, kappa)
    if not 0 < tau <= 1:
        raise InputError(f"tau must lie in (0, 1], got {tau!r}")
    if kappa == 0 or eps == 0 or tau == 1:
        return inclusion_loss(network, x, labels, eps, kappa, domain)
    labels = check_labels(labels, len(x), len(network.c))
    at = network.materialise()
    points = ascent.search(network, at, x, labels, (1 - tau) * eps, rng, domain)
    box = small_boxes(x, points, eps, tau, domain)
    return loss_over(box, network, at, x, labels, kappa)


def small_boxes(
    x: Tensor,  # (batch, r)
    points: Tensor,  # (batch, r)
    eps: float,
    tau: float,
    domain: Domain = None,
) -> tuple[Tensor, Tensor]:  # (batch, r) each
    """`[p - tau eps, p + tau eps]` within `clipped_box(x, eps, domain)`, p the points.

    In the arithmetic of x. It holds p where that lies in `inner_box(x, (1 - tau) eps, domain)`.
    """
    lo, hi = clipped_box(x, eps, domain)
    low, high = clipped_box(points, tau * eps)
    return torch.maximum(lo, low), torch.minimum(hi, high)
